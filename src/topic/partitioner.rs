//! Which partition a record goes to: Kafka's murmur2 for keys, and a sticky choice without.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Kafka's hash of a key (`Utils.murmur2`), bit for bit: a key lands where any other Kafka client puts it.
pub(crate) fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ (key.len() as u32);
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = word.try_into().map_or(0, u32::from_le_bytes).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key.
pub(crate) fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// Stays on one partition until a batch of it is full, then takes another by chance: full batches, even load.
///
/// Kafka's built-in partitioner also weighs partitions by their queues; here nothing queues.
#[derive(Debug)]
pub(crate) struct Sticky {
    current: AtomicU32,
    random: AtomicU64,
}

impl Sticky {
    pub(crate) fn new(seed: u64, partitions: u32) -> Self {
        let sticky = Sticky { current: AtomicU32::new(0), random: AtomicU64::new(seed | 1) };
        sticky.current.store(sticky.random_below(partitions), Ordering::Relaxed);
        sticky
    }

    /// Where records without a key go now.
    #[inline]
    pub(crate) fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    /// Leaves `partition`, whose batch is full, for another of `partitions`, unless another thread has left it already.
    pub(crate) fn leave(&self, partition: u32, partitions: u32) {
        if partitions > 1 {
            let step = 1 + self.random_below(partitions - 1);
            let next = (partition + step) % partitions;
            let _ = self.current.compare_exchange(partition, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// xorshift: good enough to spread load.
    fn random_below(&self, limit: u32) -> u32 {
        let mut x = self.random.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, Ordering::Relaxed);
        ((x >> 11) % u64::from(limit.max(1))) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_kafkas_values() {
        let vectors: [(&[u8], i32); 14] = [
            (b"", 275_646_681),
            (b"a", -1_563_381_124),
            (b"21", -973_932_308),
            (b"abc", 479_470_107),
            (b"k1", 1_684_045_097),
            (b"foobar", -790_332_482),
            (b"hello", 2_132_663_229),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"user-1", 1_404_122_828),
            (b"user-2", -324_981_792),
            (b"user-3", 1_141_442_267),
            (&[0, 0, 0, 1], -173_113_808),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key) as i32, hash, "{key:?}");
        }
    }

    #[test]
    fn keys_land_on_kafkas_partitions() {
        let vectors: [(&[u8], [u32; 4]); 4] =
            [(b"", [0, 3, 1, 9]), (b"a", [1, 4, 4, 4]), (b"k1", [2, 5, 7, 5]), (b"user-3", [2, 5, 7, 11])];
        for (key, expected) in vectors {
            assert_eq!([3, 6, 10, 12].map(|partitions| partition_of(key, partitions)), expected, "{key:?}");
        }
    }

    #[test]
    fn l02_without_a_key_a_partition_is_kept_until_its_batch_is_full_then_another_is_taken() {
        let sticky = Sticky::new(7, 4);
        let mut counts = [0; 4];
        for _ in 0..4_000 {
            let here = sticky.current();
            assert_eq!(sticky.current(), here);
            counts[here as usize] += 1;
            sticky.leave((here + 1) % 4, 4);
            assert_eq!(sticky.current(), here, "another partition's full batch is no reason to leave");
            sticky.leave(here, 4);
            assert_ne!(sticky.current(), here);
        }
        assert!(counts.iter().all(|count| (700..1_300).contains(count)), "{counts:?}");
        let alone = Sticky::new(7, 1);
        alone.leave(0, 1);
        assert_eq!(alone.current(), 0);
    }
}
