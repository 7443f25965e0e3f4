//! The fate of transactions as a compaction walks over their batches (Kafka's `CleanedTransactionMetadata`): the data
//! of aborted ones goes at once, and a marker when nothing of its transaction is left. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::record::{BatchHeader, ControlType};
use crate::segment::AbortedTxn;
use crate::types::Offset;

/// What is known at one point of the walk, which goes from low offsets to high ones.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Aborted ones that the walk has not come to, by first offset.
    ahead: BTreeMap<(Offset, i64), AbortedTxn>,
    /// Aborted ones that it is in, and whether a batch of theirs was met.
    aborted: HashMap<i64, (AbortedTxn, bool)>,
    /// Producers of batches that were met and whose marker was not.
    committed: HashSet<i64>,
    /// Aborted ones whose markers stay.
    kept: Vec<AbortedTxn>,
}

impl Walked {
    pub(super) fn new(aborted: &[AbortedTxn]) -> Walked {
        let ahead = aborted.iter().map(|txn| ((txn.first_offset, txn.producer_id), *txn)).collect();
        Walked { ahead, ..Walked::default() }
    }

    /// Whether a batch, with what it says if it is a marker, is of no use any more.
    pub(super) fn may_go(&mut self, header: &BatchHeader, marker: Option<ControlType>) -> bool {
        self.come_to(header.last_offset());
        if !header.is_control() {
            return self.is_aborted_data(header);
        }
        match marker {
            // One that was emptied before.
            None => true,
            Some(ControlType::Abort) => match self.aborted.remove(&header.producer_id) {
                Some((txn, true)) => {
                    self.kept.push(txn);
                    false
                }
                _ => true,
            },
            Some(ControlType::Commit) => !self.committed.remove(&header.producer_id),
            Some(ControlType::Other(_)) => false,
        }
    }

    fn is_aborted_data(&mut self, header: &BatchHeader) -> bool {
        if !header.is_transactional() {
            return false;
        }
        match self.aborted.get_mut(&header.producer_id) {
            Some((_, met)) => {
                *met = true;
                true
            }
            None => {
                self.committed.insert(header.producer_id);
                false
            }
        }
    }

    fn come_to(&mut self, offset: Offset) {
        while let Some(entry) = self.ahead.first_entry().filter(|entry| entry.key().0 <= offset) {
            let txn = entry.remove();
            self.aborted.entry(txn.producer_id).or_insert((txn, false));
        }
    }

    /// The entries of the transaction index of what was walked over since the last call.
    pub(super) fn take_kept(&mut self) -> Vec<AbortedTxn> {
        std::mem::take(&mut self.kept)
    }
}
