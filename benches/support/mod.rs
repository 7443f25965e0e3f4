//! What the benchmarks share: payloads, fixed-size runs, and the ratio lines against the machine's own limits.
//!
//! Two kinds of figures come out of a benchmark:
//! - criterion's, for comparing two commits on one machine;
//! - the lines that begin with `ratio`, for comparing with what the machine can do at all. Both sides of a ratio run
//!   in turn, five times each, over a fixed number of bytes; the line gives the quotient of the medians. Absolute
//!   figures on a shared machine are worth little, and a difference under 15 % is noise.
//!
//! `LOGSTEAD_BENCH_DIR` names the disk to measure on; the default is the directory for temporary files.
#![allow(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can not go on stops")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the limits of the disk, without the crate"
)]

pub mod limits;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use logstead::{Acks, Compression, Durability, Producer, ProducerConfig, Record, Store, Topic, TopicConfig};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
pub const TOPIC: &str = "bench";

/// Criterion with the times that all groups use: short, because ratios carry the verdict.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args()
}

/// A new directory on the disk that is measured.
pub fn temp_dir() -> TempDir {
    let root = std::env::var_os("LOGSTEAD_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    TempDir::with_prefix_in("logstead-bench-", root).unwrap()
}

/// The clock of the standard library: the crate's own asks the kernel's vDSO, which valgrind hides.
#[derive(Debug)]
struct StdClock(Instant);

impl logstead::Clock for StdClock {
    fn now_ms(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| now.as_millis() as i64)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Opens a store with default options; `LOGSTEAD_BENCH_STD_CLOCK=1` is for runs under valgrind.
fn open_store(dir: &Path) -> Store {
    let mut options = Store::options();
    if std::env::var_os("LOGSTEAD_BENCH_STD_CLOCK").is_some() {
        options = options.clock(StdClock(Instant::now()));
    }
    options.open(dir).unwrap()
}

pub fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick")
}

/// Payload bytes of one run of a ratio.
pub fn run_bytes() -> u64 {
    if is_quick() { 64 * MIB } else { 256 * MIB }
}

/// Whether the ratio of this name is asked for: criterion's filter applies, and `--test` and `--list` measure nothing.
pub fn wants(name: &str) -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if !has("--bench") || has("--test") || has("--list") || has("--profile-time") {
        return false;
    }
    let mut filters = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
    filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
}

// ───────── payloads

/// Record values that repeat after a few thousand, small enough to stay in the cache.
pub struct Payload {
    pub name: String,
    values: Vec<Vec<u8>>,
    pub mean_bytes: f64,
}

impl Payload {
    fn new(name: String, values: Vec<Vec<u8>>) -> Self {
        let mean_bytes = values.iter().map(Vec::len).sum::<usize>() as f64 / values.len() as f64;
        Payload { name, values, mean_bytes }
    }

    /// Random bytes: no codec makes them smaller.
    pub fn incompressible(bytes: usize) -> Self {
        let mut random = Random::new(7);
        let value = || (0..bytes).map(|_| random.next() as u8).collect();
        Payload::new(
            format!("{}/incompressible", size_name(bytes)),
            std::iter::repeat_with(value).take(1024).collect(),
        )
    }

    /// Objects whose names repeat and whose numbers do not.
    pub fn json(bytes: usize) -> Self {
        let mut random = Random::new(8);
        let value = || {
            let mut text = String::from("{");
            while text.len() < bytes {
                let number = random.next();
                text.push_str(&format!(
                    "\"user_id\":{},\"event\":\"page_view\",\"amount\":{}.{:02},\"ok\":true,",
                    number % 1_000_000,
                    number >> 32 & 0xff,
                    number >> 48 & 0x3f
                ));
            }
            text.truncate(bytes - 1);
            text.push('}');
            text.into_bytes()
        };
        Payload::new(
            format!("{}/json-like", size_name(bytes)),
            std::iter::repeat_with(value).take(1024).collect(),
        )
    }

    /// Rows of the flights in `examples/data`, as they are.
    pub fn flights() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights-sample.csv");
        let text = std::fs::read_to_string(path).unwrap();
        let rows: Vec<_> = text.lines().skip(1).map(|row| row.as_bytes().to_vec()).collect();
        Payload::new("row/flights".to_owned(), rows)
    }

    /// One after the other, for ever.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.values.iter().map(Vec::as_slice).cycle()
    }

    /// How many records make up `bytes`.
    pub fn records_in(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.mean_bytes) as u64
    }
}

fn size_name(bytes: usize) -> String {
    if bytes.is_multiple_of(1024) { format!("{}KiB", bytes / 1024) } else { format!("{bytes}B") }
}

/// The payloads that appends are measured with.
pub fn payloads() -> Vec<Payload> {
    vec![
        Payload::incompressible(100),
        Payload::json(100),
        Payload::flights(),
        Payload::incompressible(1024),
        Payload::json(1024),
    ]
}

/// xorshift64: the same numbers in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

// ───────── stores

/// A store with one topic of one partition, in a directory of its own that goes with it.
pub struct Bench {
    pub topic: Topic,
    pub store: Store,
    dir: TempDir,
}

impl Bench {
    pub fn new(config: TopicConfig) -> Self {
        let dir = temp_dir();
        let store = open_store(&dir.path().join("store"));
        // Times that a bench makes up make nothing old.
        let topic = store.create_topic(TOPIC, config.retention_ms(None)).unwrap();
        Bench { topic, store, dir }
    }

    /// `bytes` of payload, written, closed and opened again.
    pub fn filled(config: TopicConfig, producer: ProducerConfig, payload: &Payload, bytes: u64) -> Self {
        let bench = Bench::new(config);
        send(&bench.producer(producer), &bench.topic, payload, payload.records_in(bytes));
        bench.reopen()
    }

    pub fn reopen(self) -> Self {
        let Bench { store, dir, topic } = self;
        drop(topic);
        store.close().unwrap();
        let store = open_store(&dir.path().join("store"));
        let topic = store.topic(TOPIC).unwrap();
        Bench { topic, store, dir }
    }

    pub fn producer(&self, config: ProducerConfig) -> Producer {
        self.store.producer_with(config).unwrap()
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Its segments, in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        segments(&self.path())
    }

    /// A path beside the store.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub fn segments(store: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(store.join(format!("{TOPIC}-0")))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    paths.sort();
    paths
}

pub fn page_cache() -> TopicConfig {
    TopicConfig::default().durability(Durability::PageCache)
}

pub fn plain(acks: Acks) -> ProducerConfig {
    ProducerConfig::default().acks(acks).compression(Compression::None)
}

/// Sends `count` records one by one, then flushes. The flush is part of the time.
pub fn send(producer: &Producer, topic: &Topic, payload: &Payload, count: u64) -> Duration {
    let mut values = payload.values();
    let start = Instant::now();
    for _ in 0..count {
        let value = values.next().unwrap_or_default();
        producer.send(Record::to(topic).value(value)).unwrap();
    }
    producer.flush().unwrap();
    start.elapsed()
}

/// Reads all there is through a new consumer, looking at each record; how many there were, and their bytes.
pub fn scan(store: &Store) -> (u64, u64, Duration) {
    let start = Instant::now();
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all([TOPIC]).unwrap();
    consumer.seek_to_beginning().unwrap();
    let (mut count, mut bytes, mut next) = (0, 0, 0);
    loop {
        let records = consumer.poll(Duration::ZERO).unwrap();
        if records.is_empty() {
            break;
        }
        for record in &records {
            assert_eq!(record.offset(), next);
            next += 1;
            let value = record.value().unwrap_or_default();
            bytes += value.len() as u64;
            count += u64::from(std::hint::black_box(value).last().is_some());
        }
    }
    (count, bytes, start.elapsed())
}

// ───────── ratios

/// Something that is run several times; a run says its rate.
pub struct Side<'a> {
    pub name: &'a str,
    run: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Side<'a> {
    /// A side whose run gives a rate (more is better).
    pub fn new(name: &'a str, run: impl FnMut() -> f64 + 'a) -> Self {
        Side { name, run: Box::new(run) }
    }
}

/// The median of the runs of one side, with its extremes.
#[derive(Clone, Copy)]
pub struct Median {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// Runs all sides in turn, five times.
pub fn in_turn(sides: &mut [Side<'_>]) -> Vec<Median> {
    let rounds = 5;
    let mut rates = vec![Vec::new(); sides.len()];
    for _ in 0..rounds {
        for (side, rates) in sides.iter_mut().zip(&mut rates) {
            rates.push((side.run)());
        }
    }
    rates.into_iter().map(median).collect()
}

pub fn median(mut rates: Vec<f64>) -> Median {
    rates.sort_by(f64::total_cmp);
    Median { median: rates[rates.len() / 2], low: rates[0], high: rates[rates.len() - 1] }
}

/// Runs ours (the first side) and its baselines in turn, and prints a line for each baseline.
pub fn print_ratios(what: &str, unit: &str, scale: f64, mut sides: Vec<Side<'_>>) {
    if !wants(what) {
        return;
    }
    let medians = in_turn(&mut sides);
    let ours = medians[0];
    for (side, base) in sides.iter().zip(&medians).skip(1) {
        println!(
            "ratio {what} = {:.3} of {} ({:.2} to {:.2} {unit}; spread {:.2}, {:.2}; median of 5)",
            ours.median / base.median,
            side.name,
            ours.median / scale,
            base.median / scale,
            ours.high / ours.low,
            base.high / base.low,
        );
    }
}

pub fn rate(amount: u64, time: Duration) -> f64 {
    amount as f64 / time.as_secs_f64()
}
