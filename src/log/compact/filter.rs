//! What stays of one batch (Kafka's `RecordFilter` of the cleaner, and `MemoryRecords.filterTo`): pure, bytes to bytes.
//!
//! Invariants:
//! - A batch that stays keeps its first and last offset, its producer, epoch and sequence, its leader epoch, its codec
//!   and its flags. A record that stays keeps its offset, timestamp, key, value and headers.
//! - A batch of which all stays, and which needs no delete horizon, stays as it is, byte for byte.
//! - A tombstone goes when a later record replaces it, or when it is found with a delete horizon that passed: so one
//!   pass sets the horizon and a later one, `delete.retention.ms` after it or more, takes the tombstone.

use std::collections::HashMap;

use super::map::OffsetMap;
use super::transactions::Walked;
use crate::limits::BATCH_HEADER_BYTES;
use crate::log::producer_state::LastOfProducer;
use crate::record::{
    BatchBuilder, BatchFields, BatchHeader, Compression, ControlType, Invalid, RawRecord, RecordIter, Sealed,
    TimestampType, empty_batch,
};
use crate::types::Offset;

/// What a pass goes by; the same for all its batches.
#[derive(Debug)]
pub(super) struct Rules<'r> {
    pub(super) map: &'r OffsetMap,
    pub(super) producers: &'r HashMap<i64, LastOfProducer>,
    pub(super) now_ms: i64,
    pub(super) delete_retention_ms: i64,
    /// Where the pass ends: the last batch in front of it stays, were it empty, so that the log's ends are known.
    pub(super) first_uncleanable: Offset,
}

/// What becomes of a batch.
#[derive(Debug)]
pub(super) enum Outcome {
    Dropped,
    Copied,
    Rewritten(Sealed),
    /// Only the header stays.
    Emptied([u8; BATCH_HEADER_BYTES]),
}

/// How many records were looked at, and how many of them stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) read: u64,
    pub(super) kept: u64,
}

/// A batch, checked and unpacked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unpacked<'b> {
    pub(super) header: &'b BatchHeader,
    pub(super) section: &'b [u8],
    /// Of formats 0 and 1: whether the tombstones of its segment are still young.
    pub(super) keeps_old_tombstones: bool,
}

/// Filters batch after batch; its memory is used again for each.
#[derive(Debug)]
pub(super) struct Filter<'r> {
    rules: Rules<'r>,
    builder: BatchBuilder,
    scratch: Vec<u8>,
    /// Which records of the batch at hand stay.
    stays: Vec<bool>,
    pub(super) counted: Counted,
}

impl<'r> Filter<'r> {
    pub(super) fn new(rules: Rules<'r>) -> Self {
        let (builder, counted) = (BatchBuilder::from_buffer(Vec::new()), Counted::default());
        Filter { rules, builder, scratch: Vec::new(), stays: Vec::new(), counted }
    }

    /// Gives back the memory of a batch that was written.
    pub(super) fn recycle(&mut self, sealed: Sealed) {
        self.scratch = sealed.into_buffer();
    }

    pub(super) fn filter(&mut self, batch: Unpacked<'_>, walked: &mut Walked) -> Result<Outcome, Invalid> {
        let Unpacked { header, section, .. } = batch;
        let marker = match header.is_control() {
            true => RecordIter::new(section).next().map(|record| marker_of(&record)),
            false => None,
        };
        let may_go = walked.may_go(header, marker);
        let horizon_passed = header.delete_horizon().is_some_and(|horizon| horizon <= self.rules.now_ms);
        let goes = may_go && (!header.is_control() || horizon_passed);
        let stays_empty = self.is_last_of_producer(header)
            || header.next_offset() == self.rules.first_uncleanable && !header.is_legacy();
        self.counted.read += u64::from(header.count.unsigned_abs());
        if goes {
            return Ok(if stays_empty { Outcome::Emptied(empty_batch(header)) } else { Outcome::Dropped });
        }
        let (mut kept, mut tombstone) = (0_u32, false);
        self.stays.clear();
        for record in RecordIter::new(section) {
            let stays = self.keeps(batch, &record);
            kept += u32::from(stays);
            tombstone |= stays && record.value.is_none();
            self.stays.push(stays);
        }
        self.counted.kept += u64::from(kept);
        if kept == 0 {
            return Ok(if stays_empty { Outcome::Emptied(empty_batch(header)) } else { Outcome::Dropped });
        }
        let needs_horizon = !header.is_legacy()
            && header.delete_horizon().is_none()
            && (tombstone || may_go && header.is_control());
        if kept == header.count.unsigned_abs() && !needs_horizon {
            return Ok(Outcome::Copied);
        }
        let horizon = match needs_horizon {
            true => Some(self.rules.now_ms.saturating_add(self.rules.delete_retention_ms)),
            false => header.delete_horizon(),
        };
        self.rewrite(batch, horizon).map(Outcome::Rewritten)
    }

    /// Whether the duplicates of a producer are told by this batch, or its epoch.
    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let Some(last) = self.rules.producers.get(&header.producer_id).filter(|_| header.producer_id >= 0)
        else {
            return false;
        };
        match last.last_data_offset {
            Some(offset) => header.last_offset() == offset,
            None => header.is_control() && header.producer_epoch == last.epoch,
        }
    }

    fn keeps(&self, batch: Unpacked<'_>, record: &RawRecord<'_>) -> bool {
        let header = batch.header;
        if header.is_control() {
            return true;
        }
        let offset = header.base_offset + Offset::from(record.offset_delta);
        if offset > self.rules.map.latest() {
            return true;
        }
        let Some(key) = record.key else { return false };
        if self.rules.map.get(key).is_some_and(|last| offset < last) {
            return false;
        }
        record.value.is_some()
            || match header.is_legacy() {
                true => batch.keeps_old_tombstones,
                false => header.delete_horizon().is_none_or(|horizon| self.rules.now_ms < horizon),
            }
    }

    /// The batch with the records that stay. One of format 0 or 1 becomes one of format 2: those are not written.
    fn rewrite(&mut self, batch: Unpacked<'_>, horizon: Option<i64>) -> Result<Sealed, Invalid> {
        let header = batch.header;
        let is_append_time = header.timestamp_type() == TimestampType::LogAppendTime;
        self.builder.set_fields(BatchFields {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            transactional: header.is_transactional(),
            control: header.is_control(),
            delete_horizon: horizon,
            append_time: is_append_time.then_some(header.max_timestamp),
            last_offset_delta: Some(header.last_offset_delta),
        });
        for (record, _) in RecordIter::new(batch.section).zip(&self.stays).filter(|(_, stays)| **stays) {
            let timestamp = header.timestamp(record.timestamp_delta);
            if let Err(why) = self.builder.push_stored(timestamp, &record) {
                self.builder.clear();
                return Err(why);
            }
        }
        let mut sealed = match self.builder.seal(header.compression(), None, &mut self.scratch) {
            // So much air in it that a reader would refuse to unpack it again: it stays as it is, unpacked.
            Err(Invalid::Oversize { .. }) => self.builder.seal(Compression::None, None, &mut self.scratch),
            sealed => sealed,
        }
        .inspect_err(|_| self.builder.clear())?;
        sealed.place(header.base_offset, header.leader_epoch);
        Ok(sealed)
    }
}

pub(super) fn marker_of(record: &RawRecord<'_>) -> ControlType {
    record.key.map_or(ControlType::Other(-1), |key| ControlType::parse(key).unwrap_or(ControlType::Other(-1)))
}
