//! Kafka's record batch, format 2, byte for byte, and formats 0 and 1 to read: pure functions over slices, no files.
//!
//! Invariants:
//! - Bytes from outside never panic, and never make more allocated than their size and
//!   [`DECOMPRESS_BUDGET_BYTES`](crate::limits::DECOMPRESS_BUDGET_BYTES) together; no size in them is believed.
//! - The order of trust: [`BatchHeader::parse`], [`verify_crc`], [`decompress`] when packed ([`unpack`] for the old
//!   formats), [`check_records`]; after these, [`RecordIter`] yields exactly the records that the header counts.
//! - What a [`BatchBuilder`] seals passes all four.
//! - Offset and leader epoch lie outside the checksum: placing a sealed batch does not touch its records.
//! - Nothing is allocated per record, pushed or read.
//! - Only `layout` knows where a header field lies; only `checksum` names an implementation of a CRC.

mod batch;
mod builder;
mod checksum;
pub(crate) mod compression;
pub(crate) mod control;
mod iter;
mod layout;
mod legacy;
mod moved;
#[allow(clippy::module_inception)]
mod record;
mod sealed;
#[cfg(test)]
mod tests;
mod varint;

pub(crate) use batch::empty_batch;
#[cfg(any(test, feature = "testing"))]
pub(crate) use batch::find_batch;
pub(crate) use batch::{BatchHeader, check_records, decompress, find_header, verify_crc};
pub(crate) use batch::{decrement_sequence, increment_sequence};
pub(crate) use builder::{BatchBuilder, BatchFields};
pub(crate) use checksum::crc32c;
pub use control::ControlType;
pub(crate) use control::EndMarker;
pub(crate) use iter::RecordIter;
pub(crate) use legacy::{unpack, wrapper_offset};
pub(crate) use moved::move_to_another_cluster;
pub(crate) use record::RawRecord;
pub use record::{HeaderIter, Headers};
pub(crate) use sealed::Sealed;

use crate::error::{Error, ErrorKind};
pub(crate) use crate::types::{Compression, TimestampType};

/// A named value that travels with a record. Names may repeat and may be empty; a value may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name.
    pub key: &'a str,
    /// The value; `None` is stored as null.
    pub value: Option<&'a [u8]>,
}

/// A [`Header`] with a value.
///
/// ```
/// use logstead::{Record, header};
///
/// let headers = [header("source", "csv"), header("source", "again")];
/// let record = Record::to("flights").value("…").headers(&headers);
/// # let _ = record;
/// ```
#[inline]
pub fn header<'a, V: AsRef<[u8]> + ?Sized>(key: &'a str, value: &'a V) -> Header<'a> {
    Header { key, value: Some(value.as_ref()) }
}

/// Why bytes are not a batch, or a record can not become part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("{have} bytes where a batch needs {need}")]
    Short { have: usize, need: usize },
    #[error("the batch length {0} is not possible")]
    Length(i32),
    #[error("the batch is of format {0}, which no Kafka has written")]
    Magic(i8),
    #[error("the checksum does not match: stored {stored:08x}, computed {computed:08x}")]
    Crc { stored: u32, computed: u32 },
    #[error("no codec has the number {0}")]
    Codec(u8),
    #[error("the codec {0} is not in this build")]
    CodecMissing(&'static str),
    #[error("the records are not valid {0}")]
    #[allow(dead_code, reason = "a build may leave all codecs out")]
    Decompress(&'static str),
    #[error("it is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("{bytes} bytes are over {limit}, {limit_is}")]
    Oversize { bytes: usize, limit: usize, limit_is: &'static str },
    #[error("the batch says that it has {declared} records, and has {found}")]
    Count { declared: i32, found: i32 },
    #[error("record {index} of the batch is not valid: {why}")]
    Record { index: u32, why: &'static str },
    #[error("the {name} is not valid: {why}")]
    Field { name: &'static str, why: &'static str },
}

/// Why a record or batch that a caller gave can not be stored.
impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::CodecMissing(codec) => ErrorKind::CodecMissing { codec },
            Invalid::Oversize { bytes, limit, limit_is } => {
                ErrorKind::RecordTooLarge { bytes, limit, setting: limit_is }
            }
            Invalid::Record { why, .. } | Invalid::Field { why, .. } => ErrorKind::InvalidRecord { why },
            _ => ErrorKind::InvalidRecord { why: "its batch can not be built" },
        }
        .into()
    }
}
