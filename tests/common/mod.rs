//! What the batteries of crashes, faults, kills and rot share: records that prove themselves, seeds, and the check
//! that a partition holds what was acknowledged and nothing that was never sent.
//!
//! A value is `sequence number, seed, length, random bytes, CRC-32`: whoever finds one knows where it belongs.

// Each battery is a program of its own and uses a part of this.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "copies directories from outside")]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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

/// Of each crash point the numbers of its states that no earlier point with the same `kind` has. Found in order, so
/// that the same seed looks at the same states in the same way, whoever is faster.
#[cfg(feature = "testing")]
pub(crate) fn different_states<K: std::hash::Hash + Eq>(
    points: &[logstead::CrashPoint],
    limit: usize,
    seed: u64,
    kind: impl Fn(&logstead::CrashPoint) -> K,
) -> Vec<std::collections::HashSet<usize>> {
    let mut seen = std::collections::HashSet::new();
    let mut of_point = |point: &logstead::CrashPoint| {
        let states = point.states(limit, seed).enumerate();
        states.filter(|(_, disk)| seen.insert((disk.content_hash(), kind(point)))).map(|(n, _)| n).collect()
    };
    points.iter().map(&mut of_point).collect()
}

/// Does some work of a battery; if it panics, says which it was.
pub(crate) fn telling<T>(which: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(_) => panic!("{}", which()),
    }
}

/// What a child has to say before its words count: the test harness prints, too.
pub(crate) const CHILD_BEGINS: &[u8] = b"\n\0";

/// What a child said, and whether it ended by itself.
pub(crate) struct Said {
    pub(crate) words: Vec<u8>,
    pub(crate) ended: bool,
}

/// Starts this program again, as the ignored test `writer` with these variables set; kills it (SIGKILL) when it has
/// said so many bytes behind [`CHILD_BEGINS`], and a little later.
pub(crate) fn run_and_kill(variables: &[(&str, String)], bytes: usize, more: Duration) -> Said {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["writer", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut byte = [1];
    while byte[0] != 0 {
        out.read_exact(&mut byte).expect("the writer begins");
    }
    let mut words = Vec::new();
    out.by_ref().take(bytes as u64).read_to_end(&mut words).unwrap();
    let ended = words.len() < bytes;
    let until = Instant::now() + more;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    // What it said before it died lies in the pipe.
    out.read_to_end(&mut words).unwrap();
    let ended = child.wait().unwrap().success() || ended;
    Said { words, ended }
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
