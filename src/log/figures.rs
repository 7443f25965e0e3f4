//! What a log tells of itself, without waiting for anybody who works on it.

use super::Log;
use crate::error::Error;
use crate::metrics::{SyncTimes, Traffic};
use crate::types::Offset;

/// The figures of one log at one moment. Each is right; they are not of exactly the same moment.
#[derive(Debug)]
pub(crate) struct LogFigures {
    /// Which of all logs that the store opened: counters of two instances have nothing to do with each other.
    pub(crate) instance: u64,
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) log_end: Offset,
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
    pub(crate) pinned_bytes: u64,
    pub(crate) written: Traffic,
    pub(crate) read: Traffic,
    pub(crate) deleted: Traffic,
    pub(crate) syncs: SyncTimes,
    pub(crate) failure: Option<Error>,
}

impl Log {
    pub(crate) fn figures(&self) -> LogFigures {
        // In this order: each end lies at or behind the one in front of it.
        let (log_start, high_watermark, log_end) = (self.log_start(), self.high_watermark(), self.log_end());
        let (segments, bytes) = {
            let segments = self.segments.read();
            (segments.len() as u64, segments.iter().map(|segment| segment.written()).sum())
        };
        LogFigures {
            instance: self.source.instance,
            log_start,
            high_watermark,
            log_end,
            segments,
            bytes,
            pinned_bytes: self.source.pins.bytes(),
            written: self.written.get(),
            read: self.source.read.get(),
            deleted: self.deleted.get(),
            syncs: self.syncs.get(),
            failure: self.failure().cloned(),
        }
    }
}
