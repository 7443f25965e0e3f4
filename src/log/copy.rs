//! A log as it is at one moment, for whoever copies it while it grows on.
//!
//! Invariants:
//! - What is handed out is committed, and durable here too: neither a crash nor a recovery takes back what a copy has.
//! - No lock is held when it is handed out, and nothing of it changes afterwards: all but the last segment are closed,
//!   the last one only grows behind `position`.

use super::committed::Committed;
use super::{Log, callback};
use crate::error::{ErrorKind, Result};
use crate::segment::Segment;
use crate::sync::{Arc, Ordering};
use crate::types::{Durability, Offset};

/// The committed part of a log.
#[derive(Debug)]
pub(crate) struct Moment {
    /// Closed segments, whole.
    pub(crate) sealed: Vec<Arc<Segment>>,
    /// The last one, of which the first `position` bytes count.
    pub(crate) last: Arc<Segment>,
    pub(crate) position: u64,
    /// The offset that comes next.
    pub(crate) end: Offset,
    /// The first offset.
    pub(crate) log_start: Offset,
    /// What lies in `logstead-committed` of a log that ends here, where there is one.
    pub(crate) committed: Option<Vec<u8>>,
    /// The snapshot of the producers there, where those that lie in the directory are not enough.
    pub(crate) snapshot: Option<Vec<u8>>,
}

impl Log {
    /// All that was written before the call, committed and synced.
    pub(crate) fn moment(self: &Arc<Self>) -> Result<Moment> {
        callback::check_outside("Store::checkpoint")?;
        let _lead = self.lead_until(None).ok_or(ErrorKind::Closed)?;
        if self.closed.load(Ordering::Acquire) {
            return Err(ErrorKind::Closed.into());
        }
        // The active segment too, whatever the durability: what a power cut takes from this log must not be in a copy,
        // where other records would come to lie behind it.
        let (last, position, end) = self.sync(true)?;
        let segments = self.segments.read();
        let before = segments.partition_point(|segment| segment.base() < last.base());
        let sealed = segments.iter().take(before).map(Arc::clone).collect();
        drop(segments);
        let committed = (self.contiguous && self.config().durability == Durability::Disk).then(|| {
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            Committed { segment_base: last.base(), position, end_offset: end }.encode().to_vec()
        });
        let snapshot = self.snapshot_at(end)?;
        // After the segments: of those that retention took out of the list it is told.
        let log_start = self.log_start().min(end);
        Ok(Moment { sealed, last, position, end, log_start, committed, snapshot })
    }
}
