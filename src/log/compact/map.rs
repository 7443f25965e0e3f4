//! For each key the offset of its last record, in memory of a fixed size (Kafka's `SkimpyOffsetMap`).
//!
//! Keys are told apart by 128 bits of a hash that is keyed anew for each map (SipHash-2-4): nobody can choose keys that
//! collide, and among a billion different keys the chance that any two do is below 10^-20. Two keys that did would lose
//! the older one's record.
//!
//! Invariants:
//! - What [`OffsetMap::put`] took is found again; when it is full it takes nothing more, not even a known key.
//! - Memory is zeroed by the system and touched where a key falls: a map that stays empty costs little.

use siphasher::sip128::SipHasher24;

use crate::types::Offset;

/// Bytes of one entry: sixteen of hash, eight of offset.
pub(crate) const ENTRY_BYTES: usize = 24;

/// How full it gets, in tenths: Kafka's `log.cleaner.io.buffer.load.factor`.
const FILL_TENTHS: usize = 9;

/// Two words of hash, and the offset plus one; 0 is a free place.
type Slot = [u64; 3];

#[derive(Debug)]
pub(crate) struct OffsetMap {
    slots: Vec<Slot>,
    len: usize,
    len_max: usize,
    hasher: SipHasher24,
    /// The last offset that was looked at while it was filled.
    latest: Offset,
}

impl OffsetMap {
    /// A map of at most `bytes`, with room for `keys` if that takes less.
    pub(crate) fn new(bytes: usize, keys: u64) -> OffsetMap {
        let slots_max = (bytes / ENTRY_BYTES).max(2);
        // Half empty where that can be had: searches are short.
        let wanted = usize::try_from(keys.saturating_mul(2)).unwrap_or(usize::MAX).max(64);
        let mut secret = [0; 16];
        // No luck with the random source: the hash is strong all the same, only its key could be known.
        let _ = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
        OffsetMap {
            slots: vec![[0; 3]; slots_max.min(wanted)],
            len: 0,
            len_max: (slots_max * FILL_TENTHS / 10).max(1),
            hasher: SipHasher24::new_with_key(&secret),
            latest: -1,
        }
    }

    /// Notes that the record at `offset` is the last of its key so far; `false`: it is full.
    pub(crate) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        if self.len >= self.len_max {
            return false;
        }
        let hash = self.hash(key);
        let at = self.place(hash);
        let Some(slot) = self.slots.get_mut(at) else { return false };
        self.len += usize::from(slot[2] == 0);
        *slot = [hash[0], hash[1], offset as u64 + 1];
        self.latest = offset;
        true
    }

    /// The offset of the last record of a key that was put.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Offset> {
        let at = self.place(self.hash(key));
        let slot = self.slots.get(at)?;
        slot[2].checked_sub(1).map(|offset| offset as Offset)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The last offset that is known; records behind it are not judged.
    pub(crate) fn latest(&self) -> Offset {
        self.latest
    }

    pub(crate) fn set_latest(&mut self, offset: Offset) {
        self.latest = offset;
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        let hash = self.hasher.hash(key);
        [hash.h1, hash.h2]
    }

    /// Where a hash is, or the free place where it would be. There is always a free one: it never fills up.
    fn place(&self, hash: [u64; 2]) -> usize {
        let slots = self.slots.len();
        // The upper half of the product: as even as a remainder, and no division.
        let mut at = ((u128::from(hash[0]) * slots as u128) >> 64) as usize;
        while let Some(slot) = self.slots.get(at) {
            if slot[2] == 0 || (slot[0] == hash[0] && slot[1] == hash[1]) {
                break;
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn k22_absent_keys_have_no_offset_and_the_last_put_counts() {
        let mut map = OffsetMap::new(10_000, 100);
        assert_eq!((map.get(b"a"), map.latest()), (None, -1));
        assert!(map.put(b"a", 0) && map.put(b"b", 1) && map.put(b"a", 7));
        assert_eq!((map.get(b"a"), map.get(b"b"), map.get(b"")), (Some(7), Some(1), None));
        assert_eq!((map.len(), map.latest()), (2, 7));
    }

    #[test]
    fn a_full_map_takes_nothing_more_not_even_a_known_key() {
        // Ten places, nine of them used.
        let mut map = OffsetMap::new(10 * ENTRY_BYTES, 1_000);
        for i in 0..9_u8 {
            assert!(map.put(&[i], i.into()), "{i}");
        }
        assert!(!map.put(&[9], 9) && !map.put(&[0], 10));
        assert_eq!((map.get(&[0]), map.get(&[8]), map.get(&[9])), (Some(0), Some(8), None));
        assert_eq!(map.latest(), 8);
    }

    #[test]
    fn it_says_what_an_ordinary_map_says_also_when_it_is_nearly_full() {
        let mut map = OffsetMap::new(1_000 * ENTRY_BYTES, u64::MAX);
        let mut plain = HashMap::new();
        let mut x = 7_u64;
        for offset in 0..5_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = (x >> 33) % 880;
            assert!(map.put(&key.to_be_bytes(), offset));
            plain.insert(key, offset);
        }
        for key in 0..2_000_u64 {
            assert_eq!(map.get(&key.to_be_bytes()), plain.get(&key).copied(), "{key}");
        }
        assert_eq!(map.len(), plain.len());
    }

    #[test]
    fn each_map_hashes_in_its_own_way() {
        let (one, other) = (OffsetMap::new(100, 1), OffsetMap::new(100, 1));
        assert_ne!(one.hash(b"key"), other.hash(b"key"));
    }
}
