//! Which log took a producer's last batch of a partition: a recovery puts another in its place, whose offsets say
//! nothing about what the first one took.

use crate::error::{ErrorKind, Result};
use crate::log::Log;
use crate::sync::Arc;
use crate::types::Offset;

/// The log that took the last batch, and one behind that batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Appended(Option<(Arc<Log>, Offset)>);

impl Appended {
    pub(super) fn note(&mut self, log: Arc<Log>, end: Offset) {
        self.0 = Some((log, end));
    }

    pub(super) fn last(&self) -> Option<(Arc<Log>, Offset)> {
        self.0.clone()
    }

    /// Forgets the last batch when another log than `now` took it. What that one did not commit may be lost, which is
    /// said once.
    pub(super) fn leave_all_but(&mut self, now: &Arc<Log>) -> Result<()> {
        self.leave(|log| !Arc::ptr_eq(log, now))
    }

    /// Forgets the last batch, in the same way, when its topic was deleted: it would keep the files of it.
    pub(super) fn leave_deleted(&mut self) -> Result<()> {
        self.leave(|log| {
            log.failure().is_some_and(|why| matches!(why.kind(), ErrorKind::TopicDeleted { .. }))
        })
    }

    fn leave(&mut self, is_gone: impl Fn(&Arc<Log>) -> bool) -> Result<()> {
        let before = self.0.take_if(|(log, _)| is_gone(log));
        match before.filter(|(log, end)| log.high_watermark() < *end) {
            Some((log, _)) => log.failure().map_or(Ok(()), |failure| Err(failure.clone())),
            None => Ok(()),
        }
    }
}
