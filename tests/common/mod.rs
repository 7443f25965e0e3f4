//! What the batteries of crashes, faults, kills and rot share: records that prove themselves, seeds, and the check
//! that a partition holds what was acknowledged and nothing that was never sent.
//!
//! A value is `sequence number, seed, length, random bytes, CRC-32`: whoever finds one knows where it belongs.

// Each battery is a program of its own and uses a part of this.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use logstead::{
    Acks, Compression, Durability, ManualClock, Partition, ProducerConfig, Record, Result, Store,
    StoreOptions, TopicConfig,
};

/// Where the first segment is small enough for a workload to roll twice.
pub(crate) const SEGMENT_BYTES: u64 = 22 * 1024;

/// A small generator of numbers (splitmix64): the same seed, the same run.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seed of this run: `LOGSTEAD_SEED`, or a new one each time; printed either way.
pub(crate) fn seed() -> u64 {
    let given =
        std::env::var("LOGSTEAD_SEED").ok().map(|text| text.parse().expect("LOGSTEAD_SEED: a number"));
    let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 16);
    eprintln!("replay with LOGSTEAD_SEED={seed}");
    seed
}

/// Whether the long form was asked for.
pub(crate) fn soak() -> bool {
    std::env::var_os("LOGSTEAD_SOAK").is_some()
}

/// The value number `seq` of a run, about `len` bytes of it.
pub(crate) fn value(seed: u64, seq: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed ^ seq.wrapping_mul(0x9e37_79b9));
    let mut bytes = Vec::with_capacity(len + 24);
    bytes.extend(seq.to_le_bytes());
    bytes.extend(seed.to_le_bytes());
    bytes.extend(u32::try_from(len).unwrap().to_le_bytes());
    for _ in 0..len.div_ceil(8) {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(20 + len);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The number of a value that is whole; says why it is not.
pub(crate) fn prove(seed: u64, bytes: &[u8]) -> u64 {
    let (body, sum) = bytes.split_last_chunk::<4>().expect("a value is longer than its checksum");
    assert_eq!(u32::from_le_bytes(*sum), crc32fast::hash(body), "a value that nobody sent");
    assert_eq!(body[8..16], seed.to_le_bytes(), "a value of another run");
    u64::from_le_bytes(body[..8].try_into().unwrap())
}

/// A store that does nothing by itself, on a clock that stands still.
pub(crate) fn manual(clock: &ManualClock) -> StoreOptions {
    Store::options().maintenance(logstead::Maintenance::Manual).clock(clock.clone())
}

pub(crate) fn topic_config(durability: Durability) -> TopicConfig {
    TopicConfig::default().durability(durability).segment_bytes(SEGMENT_BYTES).index_interval_bytes(1_024)
}

pub(crate) fn producer_config(acks: Acks) -> ProducerConfig {
    ProducerConfig::default().acks(acks).batch_size(1_200).linger_ms(1_000).compression(Compression::None)
}

/// Reads a partition from its start: every record must be the one that was sent for its offset. Returns how many
/// there are, which is also the high watermark.
pub(crate) fn check(partition: &Partition, sent: &[Vec<u8>]) -> Result<usize> {
    let mut next = 0;
    assert_eq!(partition.log_start_offset(), 0, "the log's start moved");
    loop {
        let records = partition.read(next as i64, 8 * 1024)?;
        let Some(after) = records.next_offset() else { break };
        for record in &records {
            assert_eq!(record.offset(), next as i64, "an offset is missing, or comes twice");
            let expected = sent.get(next).unwrap_or_else(|| panic!("offset {next} was never sent"));
            assert_eq!(record.value(), Some(expected.as_slice()), "another value at offset {next}");
            next += 1;
        }
        assert_eq!(after, next as i64, "a batch without its records");
    }
    assert_eq!(partition.high_watermark(), next as i64);
    Ok(next)
}

/// As [`check`], with a consumer, as users do.
pub(crate) fn check_polled(store: &Store, topic: &str, sent: &[Vec<u8>]) -> Result<usize> {
    let mut consumer = store.consumer()?;
    consumer.assign([(topic, 0)])?;
    consumer.seek_to_beginning()?;
    let mut next = 0;
    loop {
        let records = consumer.poll(Duration::ZERO)?;
        if records.is_empty() {
            return Ok(next);
        }
        for record in &records {
            assert_eq!(record.offset(), next as i64, "an offset is missing, or comes twice");
            assert_eq!(record.value(), sent.get(next).map(Vec::as_slice), "another value at offset {next}");
            next += 1;
        }
    }
}

/// Appends one record, which must get offset `end`, and reads it back.
pub(crate) fn append_one(store: &Store, topic: &str, end: usize, value: &[u8]) {
    let topic = store.topic(topic).unwrap();
    let partition = topic.partition(0).unwrap();
    let receipt = partition.append([Record::to(&topic).value(value)], Some(end as i64), Acks::All).unwrap();
    assert_eq!(receipt.offsets, end as i64..end as i64 + 1);
    let read = partition.get(end as i64).unwrap().unwrap();
    assert_eq!(read.record().value(), Some(value));
}

/// Hands numbers `0..count` to as many threads as there are cores; ends at the first panic.
pub(crate) fn in_parallel(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        break;
                    }
                    work(i);
                }
            });
        }
    });
}

/// Does some work of a battery; if it panics, says which it was.
pub(crate) fn telling<T>(which: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(_) => panic!("{}", which()),
    }
}
