//! `.index`: 8-byte entries (offset − base, file position), offsets strictly increasing.
//!
//! An entry names the last offset of a batch and where that batch starts, so a search lands on a batch that ends at
//! or before its target and walks forward. Entries are hints: the reader compares what it finds there.

use crate::types::Offset;

pub(crate) const ENTRY_BYTES: usize = 8;

/// An entry, with its offset made absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetPosition {
    pub(crate) offset: Offset,
    pub(crate) position: u32,
}

/// Entries being gathered for a segment that still grows, encoded as they will lie in the file.
#[derive(Debug)]
pub(crate) struct OffsetIndex {
    base: Offset,
    bytes: Vec<u8>,
    entries_max: usize,
}

impl OffsetIndex {
    pub(crate) fn new(base: Offset, index_bytes_max: u64) -> Self {
        OffsetIndex::from_bytes(base, Vec::new(), index_bytes_max)
    }

    /// Takes over entries that [`is_sane`] accepted.
    pub(crate) fn from_bytes(base: Offset, bytes: Vec<u8>, index_bytes_max: u64) -> Self {
        OffsetIndex {
            base,
            bytes,
            entries_max: usize::try_from(index_bytes_max).unwrap_or(usize::MAX) / ENTRY_BYTES,
        }
    }

    /// Adds an entry; `false` when the index is full or the offset does not lie behind the last one.
    pub(crate) fn append(&mut self, offset: Offset, position: u32) -> bool {
        let Ok(relative) = u32::try_from(offset - self.base) else { return false };
        if self.slots_free() == 0
            || relative > i32::MAX as u32
            || self.last().is_some_and(|last| offset <= last.offset)
        {
            return false;
        }
        self.bytes.extend_from_slice(&relative.to_be_bytes());
        self.bytes.extend_from_slice(&position.to_be_bytes());
        true
    }

    /// How many entries more there is room for.
    pub(crate) fn slots_free(&self) -> usize {
        self.entries_max.saturating_sub(entries(&self.bytes).len())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn last(&self) -> Option<OffsetPosition> {
        last(&self.bytes, self.base)
    }

    /// Drops the entries at or behind `offset`.
    pub(crate) fn truncate_to(&mut self, offset: Offset) {
        let keep = entries(&self.bytes).partition_point(|entry| decode(entry, self.base).offset < offset);
        self.bytes.truncate(keep * ENTRY_BYTES);
    }
}

/// Whether encoded entries can be those of a segment: whole, rising, inside the file.
pub(crate) fn is_sane(bytes: &[u8], log_bytes: u64) -> bool {
    sane_prefix(bytes, log_bytes).len() == bytes.len()
}

/// The entries up to the first that can not be right.
pub(crate) fn sane_prefix(bytes: &[u8], log_bytes: u64) -> &[u8] {
    // The first batch of a segment has no entry, so no entry points to the start.
    let mut before = OffsetPosition { offset: -1, position: 0 };
    let good = entries(bytes).iter().take_while(|entry| {
        let now = decode(entry, 0);
        let rising = now.offset > before.offset && now.position > before.position;
        before = now;
        rising && now.offset <= Offset::from(i32::MAX) && u64::from(now.position) < log_bytes
    });
    bytes.get(..good.count() * ENTRY_BYTES).unwrap_or_default()
}

/// The last entry at or before `target`.
pub(crate) fn lookup(bytes: &[u8], base: Offset, target: Offset) -> Option<OffsetPosition> {
    let entries = entries(bytes);
    let after = entries.partition_point(|entry| decode(entry, base).offset <= target);
    entries.get(after.checked_sub(1)?).map(|entry| decode(entry, base))
}

/// The last entry.
pub(crate) fn last(bytes: &[u8], base: Offset) -> Option<OffsetPosition> {
    entries(bytes).last().map(|entry| decode(entry, base))
}

/// The entry number `index`.
pub(crate) fn entry(bytes: &[u8], base: Offset, index: usize) -> Option<OffsetPosition> {
    entries(bytes).get(index).map(|entry| decode(entry, base))
}

fn entries(bytes: &[u8]) -> &[[u8; ENTRY_BYTES]] {
    bytes.as_chunks().0
}

fn decode(&[o0, o1, o2, o3, p0, p1, p2, p3]: &[u8; ENTRY_BYTES], base: Offset) -> OffsetPosition {
    let relative = u32::from_be_bytes([o0, o1, o2, o3]);
    let position = u32::from_be_bytes([p0, p1, p2, p3]);
    OffsetPosition { offset: base.saturating_add(Offset::from(relative)), position }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(base: Offset, offsets: impl IntoIterator<Item = Offset>) -> OffsetIndex {
        let mut index = OffsetIndex::new(base, 1 << 20);
        for (i, offset) in offsets.into_iter().enumerate() {
            assert!(index.append(offset, (i as u32 + 1) * 10));
        }
        index
    }

    #[test]
    fn c01_lookup_in_an_empty_index_finds_nothing() {
        assert_eq!(lookup(&[], 40, 40), None);
    }

    #[test]
    fn c02_a_full_index_takes_no_more() {
        let mut index = OffsetIndex::new(40, 80);
        for i in 0..10 {
            assert!(index.append(40 + i + 1, i as u32), "{i}");
        }
        assert_eq!(lookup(index.bytes(), 40, 40), None);
        assert_eq!(lookup(index.bytes(), 40, 50), Some(OffsetPosition { offset: 50, position: 9 }));
        assert_eq!(index.slots_free(), 0);
        assert!(!index.append(51, 10));
    }

    #[test]
    fn c03_offsets_must_rise() {
        let mut index = filled(0, [51]);
        assert!(!index.append(50, 99));
        assert!(!index.append(51, 99));
    }

    #[test]
    fn c06_truncation_keeps_what_lies_below() {
        let mut index = filled(0, 1..=9);
        let steps =
            [(12, Some(9), Some(10)), (10, Some(9), Some(10)), (9, Some(8), Some(9)), (5, Some(4), None)];
        for (to, last, then) in steps {
            index.truncate_to(to);
            assert_eq!(index.last().map(|e| e.offset), last, "truncated to {to}");
            if let Some(next) = then {
                assert!(index.append(next, 1_000));
            }
        }
        index.truncate_to(0);
        assert_eq!(index.last(), None);
        assert!(index.append(1, 0));
    }

    #[test]
    fn c11_insane_entries_are_seen() {
        let good = filled(0, [3, 5]).bytes().to_vec();
        assert!(is_sane(&good, 21));
        assert!(!is_sane(&good, 20), "points behind the log");
        assert!(!is_sane(&good[..9], 21), "half an entry");
        assert!(!is_sane(&[0; 16], 21), "the zero tail of a preallocated index");
        let swapped: Vec<u8> = good[8..].iter().chain(&good[..8]).copied().collect();
        assert!(!is_sane(&swapped, 21));
    }

    #[test]
    fn an_entry_layout_is_kafkas() {
        let mut index = OffsetIndex::new(1000, 80);
        assert!(index.append(1047, 4158));
        assert_eq!(index.bytes(), [0, 0, 0, 0x2f, 0, 0, 0x10, 0x3e]);
    }

    proptest! {
        #[test]
        fn c04_lookup_gives_the_largest_entry_at_or_below(
            mut offsets in proptest::collection::vec(0_i64..100_000, 0..3_000),
            targets in proptest::collection::vec(-10_i64..100_010, 50),
        ) {
            offsets.sort_unstable();
            offsets.dedup();
            let index = filled(0, offsets.iter().copied());
            for target in targets {
                let expected = offsets.iter().copied().filter(|o| *o <= target).max();
                prop_assert_eq!(lookup(index.bytes(), 0, target).map(|e| e.offset), expected);
            }
        }
    }
}
