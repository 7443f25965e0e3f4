//! Control records: the markers that end a transaction.

use super::{BatchHeader, Compression, Invalid, RecordIter, decompress, verify_crc};
use crate::limits::BATCH_HEADER_BYTES;

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlType {
    /// The transaction's records never happened.
    Abort,
    /// The transaction's records count.
    Commit,
    /// Not about transactions, or not known: to be skipped.
    Other(i16),
}

impl ControlType {
    fn id(self) -> i16 {
        match self {
            ControlType::Abort => 0,
            ControlType::Commit => 1,
            ControlType::Other(id) => id,
        }
    }

    /// Reads the key of a control record; longer keys and later versions are read as version 0.
    pub(crate) fn parse(key: &[u8]) -> Result<ControlType, Invalid> {
        let invalid = |why| Invalid::Field { name: "control key", why };
        let &[v0, v1, t0, t1, ..] = key else { return Err(invalid("it is shorter than 4 bytes")) };
        if i16::from_be_bytes([v0, v1]) < 0 {
            return Err(invalid("its version is negative"));
        }
        Ok(match i16::from_be_bytes([t0, t1]) {
            0 => ControlType::Abort,
            1 => ControlType::Commit,
            id => ControlType::Other(id),
        })
    }
}

/// Reads the coordinator's epoch from the value of an end-of-transaction marker, as leniently as the key.
pub(crate) fn coordinator_epoch(value: &[u8]) -> Result<i32, Invalid> {
    let invalid = |why| Invalid::Field { name: "control value", why };
    let &[v0, v1, e0, e1, e2, e3, ..] = value else { return Err(invalid("it is shorter than 6 bytes")) };
    if i16::from_be_bytes([v0, v1]) < 0 {
        return Err(invalid("its version is negative"));
    }
    Ok(i32::from_be_bytes([e0, e1, e2, e3]))
}

/// The marker that ends a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndMarker {
    pub(crate) is_abort: bool,
    pub(crate) coordinator_epoch: i32,
    pub(crate) timestamp: i64,
}

impl EndMarker {
    /// What a control batch says; `None` when that is not the end of a transaction, or not to be read.
    pub(crate) fn of(header: &BatchHeader, batch: &[u8]) -> Option<EndMarker> {
        verify_crc(batch, header).ok()?;
        let unpacked;
        let section = match header.compression() {
            Compression::None => batch.get(BATCH_HEADER_BYTES..)?,
            _ => {
                unpacked = decompress(header, batch).ok()?;
                &unpacked
            }
        };
        let record = RecordIter::new(section).next()?;
        let is_abort = match ControlType::parse(record.key?).ok()? {
            ControlType::Abort => true,
            ControlType::Commit => false,
            ControlType::Other(_) => return None,
        };
        Some(EndMarker {
            is_abort,
            coordinator_epoch: coordinator_epoch(record.value?).ok()?,
            timestamp: header.timestamp(record.timestamp_delta),
        })
    }
}

/// Key and value of the marker that ends a transaction.
pub(super) fn end_marker(kind: ControlType, coordinator_epoch: i32) -> ([u8; 4], [u8; 6]) {
    let [t0, t1] = kind.id().to_be_bytes();
    let [e0, e1, e2, e3] = coordinator_epoch.to_be_bytes();
    ([0, 0, t0, t1], [0, 0, e0, e1, e2, e3])
}
