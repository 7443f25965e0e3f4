//! Indexes of aborted transactions compared with the log, for who verifies it.

use std::path::Path;

use super::producer_state::ProducerState;
use crate::error::Result;
use crate::record::{BatchHeader, EndMarker};
use crate::segment::name;
use crate::segment::{AbortedTxn, Disagreement, txn_index};
use crate::storage::{Storage, read_small};
use crate::types::Offset;

/// What the batches so far say of transactions.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    state: ProducerState,
    ended: Ended,
}

/// The aborts of a segment.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Whose marker stands where.
    markers: Vec<(i64, Offset)>,
    /// Those that ended a transaction of which a record was seen.
    aborted: Vec<AbortedTxn>,
}

impl Transactions {
    /// Counts a batch whose bytes are right.
    pub(super) fn note(&mut self, header: &BatchHeader, batch: &[u8]) {
        let is_marker = header.is_control() && !header.is_legacy();
        let marker = is_marker.then(|| EndMarker::of(header, batch)).flatten();
        if marker.is_some_and(|marker| marker.is_abort) {
            self.ended.markers.push((header.producer_id, header.base_offset));
        }
        self.ended.aborted.extend(self.state.apply(header, marker.as_ref(), Offset::MAX));
    }

    /// The aborts since this was asked last.
    pub(super) fn take_ended(&mut self) -> Ended {
        std::mem::take(&mut self.ended)
    }
}

impl Ended {
    /// Tells where the index of the segment says something else.
    pub(super) fn compare(
        &self,
        storage: &dyn Storage,
        dir: &Path,
        base: Offset,
        told: &mut Vec<Disagreement>,
    ) -> Result<()> {
        let path = dir.join(name::txn_index(base));
        let mut tell = |at: usize, why: String| told.push((path.clone(), at as u64, why));
        let bytes = match read_small(storage, &path) {
            Err(error) if error.is_corrupt() => {
                tell(0, error.to_string());
                return Ok(());
            }
            bytes => bytes?.unwrap_or_default(),
        };
        let sane = txn_index::sane_prefix(&bytes, base);
        if sane.len() / txn_index::ENTRY_BYTES != bytes.len() / txn_index::ENTRY_BYTES {
            tell(sane.len(), "its entries do not rise, or are none".to_owned());
        }
        let entries: Vec<(i64, Offset)> =
            txn_index::entries(sane).map(|entry| (entry.producer_id, entry.last_offset)).collect();
        for (i, (id, offset)) in entries.iter().enumerate() {
            if !self.markers.contains(&(*id, *offset)) {
                tell(
                    i * txn_index::ENTRY_BYTES,
                    format!("no transaction of producer {id} was aborted at offset {offset}"),
                );
            }
        }
        for txn in &self.aborted {
            let (id, offset) = (txn.producer_id, txn.last_offset);
            if !entries.contains(&(id, offset)) {
                let why = "is missing: its records would count";
                tell(
                    sane.len(),
                    format!("the transaction of producer {id} aborted at offset {offset} {why}"),
                );
            }
        }
        Ok(())
    }
}
