//! What a partition knows of its producers (Kafka's `ProducerStateManager`): a pure state, no file in sight.
//!
//! Invariants:
//! - It follows from the batches of the log, in order, and from nothing else; what expired is missing.
//! - [`ProducerState::check`] changes nothing. What it accepts is appended, or not, before the next check.
//! - At most five batches are remembered per producer; a new epoch forgets them.
//! - A producer with an open transaction does not expire.

use std::collections::{BTreeMap, HashMap};

use crate::record::{BatchHeader, EndMarker, decrement_sequence, increment_sequence};
use crate::segment::AbortedTxn;
use crate::types::Offset;

/// Batches remembered per producer, the last ones (Kafka's `NUM_BATCHES_TO_RETAIN`).
const BATCHES_MAX: usize = 5;

/// What Kafka stores for "not known".
pub(crate) const NO_EPOCH: i16 = -1;
pub(crate) const NO_SEQUENCE: i32 = -1;
pub(crate) const NO_OFFSET: Offset = -1;

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchMeta {
    pub(crate) last_sequence: i32,
    pub(crate) last_offset: Offset,
    pub(crate) offset_delta: i32,
    pub(crate) timestamp: i64,
}

impl BatchMeta {
    fn of(header: &BatchHeader) -> Self {
        BatchMeta {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        }
    }

    fn first_sequence(&self) -> i32 {
        decrement_sequence(self.last_sequence, self.offset_delta)
    }

    pub(crate) fn first_offset(&self) -> Offset {
        self.last_offset - Offset::from(self.offset_delta)
    }
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerEntry {
    pub(crate) epoch: i16,
    pub(crate) coordinator_epoch: i32,
    pub(crate) last_timestamp: i64,
    /// The first offset of the transaction that is open.
    pub(crate) txn_first: Option<Offset>,
    /// The last batches, oldest first.
    pub(super) batches: Vec<BatchMeta>,
}

impl ProducerEntry {
    /// One of which nothing else is known.
    pub(crate) fn new(epoch: i16) -> Self {
        ProducerEntry {
            epoch,
            coordinator_epoch: -1,
            last_timestamp: -1,
            txn_first: None,
            batches: Vec::new(),
        }
    }

    /// With the last batch that is known.
    pub(crate) fn with_last(mut self, last: Option<BatchMeta>) -> Self {
        self.batches.extend(last);
        self
    }

    pub(crate) fn last(&self) -> Option<&BatchMeta> {
        self.batches.last()
    }

    fn set_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.batches.clear();
            self.epoch = epoch;
        }
    }

    fn push(&mut self, batch: BatchMeta) {
        if self.batches.len() >= BATCHES_MAX {
            self.batches.remove(0);
        }
        self.batches.push(batch);
    }

    fn duplicate(&self, header: &BatchHeader) -> Option<&BatchMeta> {
        let (first, last) = (header.base_sequence, header.last_sequence());
        let is_it = |known: &&BatchMeta| (known.first_sequence(), known.last_sequence) == (first, last);
        self.batches.iter().find(is_it).filter(|_| self.epoch == header.producer_epoch)
    }
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Append,
    /// It is in the log already: this one.
    Duplicate(BatchMeta),
}

/// Why a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    OutOfOrder { producer_id: i64, expected: i32, actual: i32 },
    Fenced { producer_id: i64, epoch: i16, current: i16 },
    PlainInTransaction { producer_id: i64 },
    CoordinatorFenced { producer_id: i64, epoch: i32, current: i32 },
}

/// What compaction must leave of a producer (Kafka's `LastRecord`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastOfProducer {
    /// The last offset of its last batch; `None`: only a marker is known.
    pub(crate) last_data_offset: Option<Offset>,
    pub(crate) epoch: i16,
}

/// All producers of a partition, as of an offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducerState {
    producers: BTreeMap<i64, ProducerEntry>,
    /// First offsets of open transactions, and whose they are.
    open: BTreeMap<Offset, i64>,
    /// First offsets and markers of transactions whose marker may not be committed.
    decided: Vec<(Offset, Offset)>,
    /// Everything below was taken in.
    end: Offset,
}

impl ProducerState {
    /// A state as of `end`, of entries that a snapshot held.
    pub(crate) fn new(end: Offset, entries: impl IntoIterator<Item = (i64, ProducerEntry)>) -> Self {
        let producers: BTreeMap<i64, ProducerEntry> = entries.into_iter().collect();
        let open = producers.iter().filter_map(|(id, entry)| Some((entry.txn_first?, *id))).collect();
        ProducerState { producers, open, decided: Vec::new(), end }
    }

    pub(crate) fn end(&self) -> Offset {
        self.end
    }

    pub(crate) fn set_end(&mut self, end: Offset) {
        self.end = end;
    }

    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (i64, &ProducerEntry)> {
        self.producers.iter().map(|(id, entry)| (*id, entry))
    }

    pub(crate) fn get(&self, producer_id: i64) -> Option<&ProducerEntry> {
        self.producers.get(&producer_id)
    }

    /// Whether a batch from a client is to be appended, behind what was taken in. `marker`: what it says, if it is one.
    pub(crate) fn check(&self, header: &BatchHeader, marker: Option<&EndMarker>) -> Result<Checked, Refused> {
        let (producer_id, epoch) = (header.producer_id, header.producer_epoch);
        let Some(known) = self.get(producer_id).filter(|_| producer_id >= 0) else {
            return Ok(Checked::Append);
        };
        if let Some(original) = known.duplicate(header).filter(|_| !header.is_control()) {
            return Ok(Checked::Duplicate(*original));
        }
        if epoch < known.epoch {
            return Err(Refused::Fenced { producer_id, epoch, current: known.epoch });
        }
        if header.is_control() {
            return match marker.map(|marker| marker.coordinator_epoch) {
                Some(epoch) if epoch < known.coordinator_epoch => {
                    Err(Refused::CoordinatorFenced { producer_id, epoch, current: known.coordinator_epoch })
                }
                _ => Ok(Checked::Append),
            };
        }
        let (expected, actual) = (known.expected_sequence(epoch), header.base_sequence);
        if known.epoch != NO_EPOCH && actual != expected {
            return Err(Refused::OutOfOrder { producer_id, expected, actual });
        }
        if known.txn_first.is_some() && !header.is_transactional() {
            return Err(Refused::PlainInTransaction { producer_id });
        }
        Ok(Checked::Append)
    }

    /// Takes in a batch that stands in the log, in whatever order its producer wrote. The transaction that it aborts,
    /// if there is one. `high_watermark`: below it markers are final.
    pub(crate) fn apply(
        &mut self,
        header: &BatchHeader,
        marker: Option<&EndMarker>,
        high_watermark: Offset,
    ) -> Option<AbortedTxn> {
        self.end = header.next_offset();
        if header.producer_id < 0 || header.is_legacy() {
            return None;
        }
        if header.is_control() {
            return marker.and_then(|marker| self.end_transaction(header, marker, high_watermark));
        }
        let new = || ProducerEntry::new(header.producer_epoch);
        let entry = self.producers.entry(header.producer_id).or_insert_with(new);
        entry.set_epoch(header.producer_epoch);
        entry.push(BatchMeta::of(header));
        entry.last_timestamp = header.max_timestamp;
        if header.is_transactional() && entry.txn_first.is_none() {
            entry.txn_first = Some(header.base_offset);
            self.open.insert(header.base_offset, header.producer_id);
        }
        None
    }

    fn end_transaction(
        &mut self,
        header: &BatchHeader,
        marker: &EndMarker,
        high_watermark: Offset,
    ) -> Option<AbortedTxn> {
        let (producer_id, last_offset) = (header.producer_id, header.base_offset);
        let entry = self.producers.entry(producer_id).or_insert_with(|| ProducerEntry::new(NO_EPOCH));
        entry.set_epoch(header.producer_epoch);
        entry.coordinator_epoch = marker.coordinator_epoch;
        entry.last_timestamp = marker.timestamp;
        // Without a transaction there is none to end.
        let first_offset = entry.txn_first.take()?;
        self.open.remove(&first_offset);
        self.forget_final(high_watermark);
        self.decided.push((first_offset, last_offset));
        let last_stable_offset = self.open.keys().next().copied().unwrap_or(last_offset + 1);
        let aborted = AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset };
        marker.is_abort.then_some(aborted)
    }

    fn forget_final(&mut self, high_watermark: Offset) {
        self.decided.retain(|(_, marker)| *marker >= high_watermark);
    }

    /// The first offset whose fate is not decided, or may still be lost: its marker is not below the high watermark.
    pub(crate) fn first_unstable(&mut self, high_watermark: Offset) -> Option<Offset> {
        self.forget_final(high_watermark);
        let open = self.open.keys().next().copied();
        let decided = self.decided.iter().map(|(first, _)| *first).min();
        open.into_iter().chain(decided).min()
    }

    /// Drops producers that wrote nothing for so long, by the timestamps of their records; those for which `keep` holds
    /// stay. Kafka's rule.
    pub(crate) fn expire(&mut self, now_ms: i64, expiration_ms: u64, keep: impl Fn(i64) -> bool) {
        self.producers.retain(|id, entry| {
            let age = i128::from(now_ms) - i128::from(entry.last_timestamp);
            entry.txn_first.is_some() || age < i128::from(expiration_ms) || keep(*id)
        });
    }

    /// The number that the next record of a producer has; 0 of one that is not known.
    pub(crate) fn next_sequence(&self, producer_id: i64, epoch: i16) -> i32 {
        self.get(producer_id).map_or(0, |entry| entry.expected_sequence(epoch))
    }

    pub(crate) fn last_of_producers(&self) -> HashMap<i64, LastOfProducer> {
        let last = |entry: &ProducerEntry| LastOfProducer {
            last_data_offset: entry.last().map(|last| last.last_offset),
            epoch: entry.epoch,
        };
        self.producers.iter().map(|(id, entry)| (*id, last(entry))).collect()
    }
}

impl ProducerEntry {
    fn expected_sequence(&self, epoch: i16) -> i32 {
        match self.last() {
            Some(last) if epoch == self.epoch => increment_sequence(last.last_sequence, 1),
            _ => 0,
        }
    }
}

/// Whether a batch goes on where another of the same producer ends, so that both can be written at once. What is not
/// that plain is checked when the first is in the log.
pub(crate) fn goes_on(before: &BatchHeader, header: &BatchHeader) -> bool {
    let transactional = |header: &BatchHeader| (header.is_transactional(), header.is_control());
    before.producer_epoch == header.producer_epoch
        && header.base_sequence == increment_sequence(before.last_sequence(), 1)
        && transactional(before) == transactional(header)
        && !header.is_control()
}

#[cfg(test)]
mod tests;
