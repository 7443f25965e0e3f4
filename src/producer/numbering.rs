//! The numbers of a producer's records in one partition, by which the log knows a batch again.
//!
//! Invariants:
//! - A batch that was not appended leaves no gap: the next one gets its numbers.
//! - A log that was opened anew says where to go on: what it lost, or has after all, is not guessed at.

use crate::error::Result;
use crate::log::{Identity, Log};
use crate::record::{BatchBuilder, BatchHeader, Sealed, increment_sequence};
use crate::sync::Arc;

/// What comes next.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    /// The log that it holds for; `None`: it is asked.
    log: Option<u64>,
    next: i32,
}

impl Numbering {
    /// Makes it hold for `log`; whether it was for another one before.
    pub(super) fn follow(&mut self, log: &Arc<Log>, identity: &Identity) -> Result<bool> {
        if self.log == Some(log.instance()) {
            return Ok(false);
        }
        self.next = log.next_sequence(identity.id, identity.epoch)?;
        self.log = Some(log.instance());
        Ok(true)
    }

    pub(super) fn next(&self) -> i32 {
        self.next
    }

    /// Counts a batch that is in the log.
    pub(super) fn appended(&mut self, header: &BatchHeader) {
        self.next = increment_sequence(header.last_sequence(), 1);
    }

    /// What comes next is not known, and is asked for.
    pub(super) fn ask_again(&mut self) {
        self.log = None;
    }
}

/// Gives the records of an open batch their numbers. The one behind them.
pub(super) fn number(builder: &mut BatchBuilder, identity: &Identity, next: i32) -> i32 {
    builder.producer(identity.id, identity.epoch, next);
    increment_sequence(next, i32::try_from(builder.count()).unwrap_or(0))
}

/// Gives the records of finished batches numbers from `next` on.
pub(super) fn renumber(batches: &mut [Sealed], mut next: i32) {
    for batch in batches {
        if batch.header().base_sequence != next {
            batch.renumber(next);
        }
        next = increment_sequence(batch.header().last_sequence(), 1);
    }
}
