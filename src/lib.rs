//! logstead
mod error;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod record;
mod storage;
mod sync;
mod time;
mod types;
