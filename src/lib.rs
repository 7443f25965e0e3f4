//! logstead
mod error;
mod limits;
mod record;
mod storage;
mod sync;
mod time;
mod types;
