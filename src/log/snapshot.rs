//! `.snapshot` files: the producers of a partition as of the offset in the name (Kafka's `ProducerStateManager`).
//!
//! Version (2 bytes), CRC-32C of all that follows it, count (4), and 46 bytes per producer. Only the last batch of a
//! producer is in it.

use std::collections::BTreeSet;

use super::producer_state::{BatchMeta, NO_OFFSET, NO_SEQUENCE, ProducerEntry, ProducerState};
use crate::record::crc32c;
use crate::types::Offset;

const VERSION: i16 = 1;
const CHECKSUMMED: usize = 6;
const HEADER_BYTES: usize = 10;
const ENTRY_BYTES: usize = 46;

/// The file of a state; producers in rising order.
pub(crate) fn encode(state: &ProducerState) -> Vec<u8> {
    let mut entries: Vec<(i64, &ProducerEntry)> = state.entries().collect();
    entries.sort_unstable_by_key(|(id, _)| *id);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (id, entry) in entries {
        let last = entry.last();
        bytes.extend(id.to_be_bytes());
        bytes.extend(entry.epoch.to_be_bytes());
        bytes.extend(last.map_or(NO_SEQUENCE, |last| last.last_sequence).to_be_bytes());
        bytes.extend(last.map_or(NO_OFFSET, |last| last.last_offset).to_be_bytes());
        bytes.extend(last.map_or(0, |last| last.offset_delta).to_be_bytes());
        bytes.extend(entry.last_timestamp.to_be_bytes());
        bytes.extend(entry.coordinator_epoch.to_be_bytes());
        bytes.extend(entry.txn_first.unwrap_or(NO_OFFSET).to_be_bytes());
    }
    let sum = crc32c(bytes.get(CHECKSUMMED..).unwrap_or_default());
    bytes.splice(2..CHECKSUMMED, sum.to_be_bytes());
    bytes
}

/// The state that a file of this offset holds, or why it holds none.
pub(crate) fn decode(bytes: &[u8], offset: Offset) -> Result<ProducerState, &'static str> {
    let mut fields = Fields(bytes);
    if fields.take() != Some(VERSION.to_be_bytes()) {
        return Err("it is of a version that is not known");
    }
    let sum = fields.take().map(u32::from_be_bytes);
    if sum != bytes.get(CHECKSUMMED..).map(crc32c) {
        return Err("its checksum is wrong");
    }
    let count = fields.take().map_or(0, u32::from_be_bytes) as usize;
    if bytes.len().checked_sub(HEADER_BYTES) != count.checked_mul(ENTRY_BYTES) {
        return Err("it promises another number of producers than it holds");
    }
    let mut entries = Vec::with_capacity(count);
    while let Some(id) = fields.take() {
        let (id, entry) = (i64::from_be_bytes(id), fields.entry().ok_or("it is cut short")?);
        let first = entry.last().map_or(0, BatchMeta::first_offset).min(entry.txn_first.unwrap_or(0));
        let last = entry.last().map_or(0, |last| last.last_offset).max(entry.txn_first.unwrap_or(0));
        if id < 0 || first < 0 || last >= offset.max(1) {
            return Err("a producer's offsets do not lie below its own");
        }
        entries.push((id, entry));
    }
    Ok(ProducerState::new(offset, entries))
}

/// Takes numbers off the front.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn entry(&mut self) -> Option<ProducerEntry> {
        let epoch = i16::from_be_bytes(self.take()?);
        let last_sequence = i32::from_be_bytes(self.take()?);
        let last_offset = i64::from_be_bytes(self.take()?);
        let offset_delta = i32::from_be_bytes(self.take()?);
        let timestamp = i64::from_be_bytes(self.take()?);
        let coordinator_epoch = i32::from_be_bytes(self.take()?);
        let txn_first = i64::from_be_bytes(self.take()?);
        let last = BatchMeta { last_sequence, last_offset, offset_delta: offset_delta.max(0), timestamp };
        let entry = ProducerEntry {
            coordinator_epoch,
            last_timestamp: timestamp,
            txn_first: (txn_first >= 0).then_some(txn_first),
            ..ProducerEntry::new(epoch)
        };
        Some(entry.with_last((last_offset >= 0).then_some(last)))
    }
}

/// Which of the snapshots at these offsets go when a log of these segments is opened that starts and ends there
/// (Kafka's `removeStraySnapshots` and `truncateAndReload`). The youngest at or below the start stays: it knows
/// producers whose records are gone, and the younger ones may be torn, or lie where nothing is proven.
pub(crate) fn to_remove(
    snapshots: &BTreeSet<Offset>,
    bases: &BTreeSet<Offset>,
    log_start: Offset,
    end: Offset,
) -> Vec<Offset> {
    let last_base = bases.last().copied().unwrap_or(NO_OFFSET);
    let is_there = |offset: &&Offset| **offset <= end;
    // What an orderly stop left.
    let at_close = snapshots.iter().filter(is_there).rfind(|offset| !bases.contains(offset));
    let at_close = at_close.filter(|offset| **offset > last_base);
    let of_log = |offset: &&Offset| is_there(offset) && (bases.contains(offset) || at_close == Some(offset));
    let at_start = snapshots.iter().filter(|offset| **offset <= log_start).rfind(of_log);
    let kept = |offset: &&Offset| of_log(offset) && (**offset > log_start || at_start == Some(offset));
    snapshots.iter().filter(|offset| !kept(offset)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "0001d1c7d64b0000000100000000000003e800030000000c0000000000000066000000020000018bcfe56802\
        ffffffffffffffffffffffff";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    fn example() -> ProducerState {
        let last =
            BatchMeta { last_sequence: 12, last_offset: 102, offset_delta: 2, timestamp: 1_700_000_000_002 };
        let entry = ProducerEntry { last_timestamp: last.timestamp, ..ProducerEntry::new(3) };
        ProducerState::new(103, [(1_000, entry.with_last(Some(last)))])
    }

    #[test]
    fn h20_the_example_is_written_and_read_as_kafka_does() {
        assert_eq!(encode(&example()), bytes(EXAMPLE));
        assert_eq!(decode(&bytes(EXAMPLE), 103), Ok(example()));
        assert_eq!(encode(&ProducerState::default()), bytes("0001 48674bc7 00000000"));
        assert_eq!(decode(&bytes("0001 48674bc7 00000000"), 0), Ok(ProducerState::default()));
    }

    #[test]
    fn h14_what_is_empty_cut_or_flipped_is_no_snapshot() {
        let good = bytes(EXAMPLE);
        for len in 0..good.len() {
            assert!(decode(&good[..len], 103).is_err(), "{len} bytes");
        }
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 103).is_err(), "bit {bit}");
        }
        // Of a later offset it can not be.
        assert!(decode(&good, 102).is_err());
        assert!(decode(&[good, vec![0]].concat(), 103).is_err());
    }

    #[test]
    fn h12_snapshots_outside_of_the_log_go() {
        let all = BTreeSet::from([1, 2, 3, 4, 5]);
        // Kafka takes the one at the start, too.
        assert_eq!(to_remove(&all, &all, 1, 3), [4, 5]);
        assert_eq!(to_remove(&all, &all, 2, 4), [1, 5]);
    }

    #[test]
    fn h13_stray_snapshots_go_but_for_that_of_an_orderly_stop() {
        let all = BTreeSet::from([2, 5, 42]);
        assert_eq!(to_remove(&all, &BTreeSet::from([5]), 0, 42), [2]);
        assert_eq!(to_remove(&all, &BTreeSet::from([42]), 0, 42), [2, 5]);
    }

    #[test]
    fn the_last_snapshot_stays_where_all_records_went() {
        assert!(to_remove(&BTreeSet::from([3]), &BTreeSet::from([3]), 3, 3).is_empty());
    }
}
