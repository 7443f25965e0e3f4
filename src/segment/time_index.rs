//! `.timeindex`: 12-byte entries (timestamp, offset − base): every record younger than the timestamp lies behind
//! the offset. Timestamps strictly increase, offsets never fall. Entries are hints, as in the offset index.

use crate::types::Offset;

pub(crate) const ENTRY_BYTES: usize = 12;

/// An entry, with its offset made absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimestampOffset {
    pub(crate) timestamp: i64,
    pub(crate) offset: Offset,
}

/// Entries being gathered for a segment that still grows, encoded as they will lie in the file.
#[derive(Debug)]
pub(crate) struct TimeIndex {
    base: Offset,
    bytes: Vec<u8>,
    entries_max: usize,
}

impl TimeIndex {
    pub(crate) fn new(base: Offset, index_bytes_max: u64) -> Self {
        TimeIndex::from_bytes(base, Vec::new(), index_bytes_max)
    }

    /// Takes over entries that [`is_sane`] accepted.
    pub(crate) fn from_bytes(base: Offset, bytes: Vec<u8>, index_bytes_max: u64) -> Self {
        TimeIndex {
            base,
            bytes,
            entries_max: usize::try_from(index_bytes_max).unwrap_or(usize::MAX) / ENTRY_BYTES,
        }
    }

    /// Adds an entry; a timestamp that is not younger than the last adds none. One slot stays free for
    /// [`TimeIndex::append_last`].
    pub(crate) fn append(&mut self, timestamp: i64, offset: Offset) {
        if self.slots_free() > 0 {
            self.append_last(timestamp, offset);
        }
    }

    /// Adds the entry of a segment that is closed: its youngest record.
    pub(crate) fn append_last(&mut self, timestamp: i64, offset: Offset) {
        let Ok(relative) = u32::try_from(offset - self.base) else { return };
        let rises = self.last().is_none_or(|last| timestamp > last.timestamp && offset >= last.offset);
        if timestamp < 0 || !rises || self.bytes.len() / ENTRY_BYTES >= self.entries_max {
            return;
        }
        self.bytes.extend_from_slice(&timestamp.to_be_bytes());
        self.bytes.extend_from_slice(&relative.to_be_bytes());
    }

    /// How many entries more there is room for, besides the last one.
    pub(crate) fn slots_free(&self) -> usize {
        self.entries_max.saturating_sub(entries(&self.bytes).len() + 1)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn last(&self) -> Option<TimestampOffset> {
        last(&self.bytes, self.base)
    }

    /// Drops the entries at or behind `offset`.
    pub(crate) fn truncate_to(&mut self, offset: Offset) {
        let keep = entries(&self.bytes).partition_point(|entry| decode(entry, self.base).offset < offset);
        self.bytes.truncate(keep * ENTRY_BYTES);
    }
}

/// Whether encoded entries can be those of a segment.
pub(crate) fn is_sane(bytes: &[u8], base: Offset) -> bool {
    sane_prefix(bytes, base).len() == bytes.len()
}

/// The entries up to the first that can not be right.
pub(crate) fn sane_prefix(bytes: &[u8], base: Offset) -> &[u8] {
    let mut before = TimestampOffset { timestamp: -1, offset: base };
    let good = entries(bytes).iter().take_while(|entry| {
        let now = decode(entry, base);
        let rising = now.timestamp > before.timestamp && now.offset >= before.offset;
        before = now;
        rising && now.offset - base <= Offset::from(i32::MAX)
    });
    bytes.get(..good.count() * ENTRY_BYTES).unwrap_or_default()
}

/// The last entry with a timestamp at or before `target`.
pub(crate) fn lookup(bytes: &[u8], base: Offset, target: i64) -> Option<TimestampOffset> {
    let entries = entries(bytes);
    let after = entries.partition_point(|entry| decode(entry, base).timestamp <= target);
    entries.get(after.checked_sub(1)?).map(|entry| decode(entry, base))
}

/// The youngest entry.
pub(crate) fn last(bytes: &[u8], base: Offset) -> Option<TimestampOffset> {
    entries(bytes).last().map(|entry| decode(entry, base))
}

/// The entry number `index`.
pub(crate) fn entry(bytes: &[u8], base: Offset, index: usize) -> Option<TimestampOffset> {
    entries(bytes).get(index).map(|entry| decode(entry, base))
}

fn entries(bytes: &[u8]) -> &[[u8; ENTRY_BYTES]] {
    bytes.as_chunks().0
}

fn decode(
    &[t0, t1, t2, t3, t4, t5, t6, t7, o0, o1, o2, o3]: &[u8; ENTRY_BYTES],
    base: Offset,
) -> TimestampOffset {
    let timestamp = i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
    let relative = u32::from_be_bytes([o0, o1, o2, o3]);
    TimestampOffset { timestamp, offset: base.saturating_add(Offset::from(relative)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timestamp: i64, offset: Offset) -> Option<TimestampOffset> {
        Some(TimestampOffset { timestamp, offset })
    }

    #[test]
    fn c08_lookup_gives_the_last_entry_not_younger() {
        let mut index = TimeIndex::new(45, 120);
        assert_eq!(lookup(index.bytes(), 45, 9), None);
        for (timestamp, offset) in [(10, 55), (20, 65), (30, 75)] {
            index.append(timestamp, offset);
        }
        assert_eq!(lookup(index.bytes(), 45, 9), None);
        assert_eq!(lookup(index.bytes(), 45, 25), at(20, 65));
        assert_eq!(lookup(index.bytes(), 45, 30), at(30, 75));
    }

    #[test]
    fn c09_the_last_slot_is_kept_for_the_roll() {
        let mut index = TimeIndex::new(0, 36);
        index.append(1, 1);
        index.append(2, 2);
        assert_eq!(index.slots_free(), 0);
        index.append(3, 3);
        assert_eq!(index.last(), at(2, 2));
        index.append_last(3, 3);
        assert_eq!(index.last(), at(3, 3));
    }

    #[test]
    fn c10_only_younger_entries_are_added() {
        let mut index = TimeIndex::new(0, 120);
        index.append(5, 5);
        index.append(5, 6);
        index.append(4, 7);
        index.append(6, 4);
        index.append(-1, 9);
        assert_eq!(index.bytes().len(), ENTRY_BYTES);
        assert_eq!(index.last(), at(5, 5));
    }

    #[test]
    fn c11_insane_entries_are_seen() {
        let mut index = TimeIndex::new(10, 120);
        index.append(5, 11);
        index.append(6, 12);
        assert!(is_sane(index.bytes(), 10));
        assert!(!is_sane(&index.bytes()[..13], 10));
        assert!(!is_sane(&[0; 24], 10));
    }

    #[test]
    fn truncation_drops_by_offset() {
        let mut index = TimeIndex::new(0, 120);
        for i in 0..5 {
            index.append(i * 10, i);
        }
        index.truncate_to(3);
        assert_eq!(index.last(), at(20, 2));
    }

    #[test]
    fn an_entry_layout_is_kafkas() {
        let mut index = TimeIndex::new(1000, 120);
        index.append(1_700_000_000_005, 1047);
        assert_eq!(index.bytes(), [0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 5, 0, 0, 0, 0x2f]);
    }
}
