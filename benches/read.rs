//! Reads from a warm page cache: a scan through a consumer, random reads by offset, look-ups by time, a live tail.
//!
//! 100-byte incompressible records in batches of 16 KiB, no codec. Every batch is checked (CRC-32C and structure) and
//! every record visited. `active` is one growing segment, read with `pread`; `sealed` is closed segments of 64 MiB,
//! read through maps. The scan's clock starts with a consumer on a store that was just opened.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "looks at the files themselves")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use logstead::{Acks, Partition, Record, TopicConfig};
use support::{Bench, MIB, Payload, Random, Side, limits, page_cache, plain, rate, scan};

/// About what a batch of the default size takes in the file.
const BATCH_BYTES: usize = 16 * 1024;
const FIRST_TIME: i64 = 1_700_000_000_000;

fn sealed() -> TopicConfig {
    page_cache().segment_bytes(64 * MIB)
}

fn payload(bytes: usize) -> Payload {
    Payload::incompressible(bytes)
}

fn filled(config: TopicConfig, payload: &Payload) -> Bench {
    Bench::filled(config, plain(Acks::Leader), payload, support::run_bytes())
}

fn scans(criterion: &mut Criterion) {
    let mut ratios = Vec::new();
    for (kind, config) in [("active", page_cache()), ("sealed", sealed())] {
        for bytes in [100, 1024] {
            let payload = payload(bytes);
            let name = format!("{kind}/{}", payload.name);
            let mut bench = Some(filled(config.clone(), &payload));
            let stored = payload.records_in(support::run_bytes());
            let mut group = criterion.benchmark_group("read/scan");
            group.throughput(Throughput::Bytes(stored * bytes as u64));
            group.bench_function(&name, |bencher| {
                bencher.iter_custom(|count| {
                    (0..count)
                        .map(|_| {
                            let opened = bench.take().unwrap().reopen();
                            let (found, _, time) = scan(&opened.store);
                            assert_eq!(found, stored);
                            bench = Some(opened);
                            time
                        })
                        .sum()
                });
            });
            group.finish();
            ratios.push((name, bench.take().unwrap()));
        }
    }
    for (name, bench) in ratios {
        let segments = bench.segments();
        let mut bench = Some(bench);
        let mut fresh = || {
            let opened = bench.take().unwrap().reopen();
            let (_, bytes, time) = scan(&opened.store);
            bench = Some(opened);
            rate(bytes, time)
        };
        // Once before: a store that was just written has one run with cold index files.
        if support::wants(&format!("read/scan/{name}")) {
            fresh();
        }
        let sides = vec![
            Side::new("ours", fresh),
            Side::new("a mapped scan with CRC-32C of the same files", || limits::mapped_scan(&segments)),
        ];
        support::print_ratios(&format!("read/scan/{name}"), "MB/s", 1e6, sides);
    }
}

fn get_random(partition: &Partition, reads: u64) -> Duration {
    let end = partition.high_watermark() as u64;
    let mut random = Random::new(2);
    let start = Instant::now();
    for _ in 0..reads {
        let offset = random.below(end) as i64;
        let record = partition.get(offset).unwrap().unwrap();
        assert_eq!(std::hint::black_box(record.record().value()).map(<[u8]>::len), Some(100));
    }
    start.elapsed()
}

fn find_times(partition: &Partition, reads: u64) -> Duration {
    let end = partition.high_watermark() as u64;
    let mut random = Random::new(2);
    let start = Instant::now();
    for _ in 0..reads {
        let time = FIRST_TIME + random.below(end) as i64;
        let (offset, found) = partition.offset_for_time(time).unwrap().unwrap();
        assert_eq!((FIRST_TIME + offset, found), (time, time));
    }
    start.elapsed()
}

/// Records whose timestamps rise by one millisecond each.
fn filled_by_time(config: TopicConfig) -> Bench {
    let bench = Bench::new(config);
    let payload = payload(100);
    let producer = bench.producer(plain(Acks::Leader));
    for (i, value) in payload.values().take(payload.records_in(support::run_bytes()) as usize).enumerate() {
        producer.send(Record::to(&bench.topic).value(value).timestamp_ms(FIRST_TIME + i as i64)).unwrap();
    }
    producer.close().unwrap();
    bench.reopen()
}

fn random_reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read/random");
    let reads = if support::is_quick() { 50_000 } else { 200_000 };
    for (kind, config) in [("active", page_cache()), ("sealed", sealed())] {
        let bench = filled_by_time(config);
        let partition = bench.topic.partition(0).unwrap();
        group.bench_function(format!("get/{kind}"), |b| b.iter_custom(|count| get_random(&partition, count)));
        group.bench_function(format!("by-time/{kind}"), |b| {
            b.iter_custom(|count| find_times(&partition, count))
        });
        // The last one may be short.
        let mut maps: Vec<_> = bench.segments().iter().map(|path| limits::map(path)).collect();
        maps.truncate((maps.len() - 1).max(1));
        let sides = |ours| {
            vec![
                ours,
                Side::new("a checked mapped read of 100 bytes", || limits::mapped_random(&maps, 100, reads)),
                Side::new("a checked mapped read of a batch", || {
                    limits::mapped_random(&maps, BATCH_BYTES, reads)
                }),
            ]
        };
        let ours = Side::new("ours", || rate(reads, get_random(&partition, reads)));
        support::print_ratios(&format!("read/random/get/{kind}"), "reads/s", 1.0, sides(ours));
        let ours = Side::new("ours", || rate(reads / 10, find_times(&partition, reads / 10)));
        support::print_ratios(&format!("read/random/by-time/{kind}"), "reads/s", 1.0, sides(ours));
    }
    group.finish();
}

/// From before `send` to behind `poll` in another thread, record by record, in nanoseconds.
fn tail(wait: Duration, count: u64) -> Vec<u64> {
    let bench = Bench::new(page_cache());
    let producer = bench.producer(plain(Acks::Leader));
    let mut consumer = bench.store.consumer().unwrap();
    consumer.assign_all([support::TOPIC]).unwrap();
    consumer.seek_to_beginning().unwrap();
    let start = Instant::now();
    let seen = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (seen, failed) = (&seen, &failed);
        let reader = scope.spawn(move || {
            let mut delays = Vec::with_capacity(count as usize);
            while (delays.len() as u64) < count {
                let Ok(records) = consumer.poll(wait) else { break };
                let now = start.elapsed().as_nanos() as u64;
                for record in &records {
                    let sent = record.value().and_then(|value| value.try_into().ok()).map(u64::from_le_bytes);
                    delays.push(now - sent.unwrap_or(now));
                    seen.fetch_add(1, Ordering::Release);
                }
            }
            failed.store((delays.len() as u64) < count, Ordering::Release);
            delays
        });
        for i in 0..count {
            let sent = (start.elapsed().as_nanos() as u64).to_le_bytes();
            producer.send(Record::to(&bench.topic).value(&sent)).unwrap().wait().unwrap();
            // The next one only when this was read: what is measured is a delay, not a queue.
            while seen.load(Ordering::Acquire) <= i && !failed.load(Ordering::Acquire) {
                if wait.is_zero() { std::hint::spin_loop() } else { std::thread::yield_now() }
            }
            let_sleep(wait);
        }
        reader.join().unwrap()
    })
}

/// Until a reader that waits is asleep: else it may find the next record without having been woken.
fn let_sleep(wait: Duration) {
    let start = Instant::now();
    while !wait.is_zero() && start.elapsed() < Duration::from_micros(100) {
        std::thread::yield_now();
    }
}

/// The median's reciprocal: how many in a second.
fn pace(delays: Vec<u64>) -> f64 {
    1e9 / support::median(delays.into_iter().map(|delay| delay as f64).collect()).median
}

fn tails(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read/tail");
    for (kind, wait) in [("spinning", Duration::ZERO), ("blocked", Duration::from_secs(5))] {
        group.bench_function(kind, |bencher| {
            bencher.iter_custom(|count| Duration::from_nanos(tail(wait, count).iter().sum()));
        });
        let name = format!("read/tail/{kind}");
        if support::wants(&name) {
            let mut delays = tail(wait, 20_000);
            delays.sort_unstable();
            let at = |part: f64| delays[(delays.len() as f64 * part) as usize] as f64 / 1e3;
            println!(
                "delay {name}: p50 {:.2} us, p99 {:.2} us, p99.9 {:.1} us",
                at(0.5),
                at(0.99),
                at(0.999)
            );
        }
        let pause = || let_sleep(wait);
        let sides = vec![
            Side::new("ours", || pace(tail(wait, 4_000))),
            Side::new("a number handed from thread to thread", || {
                pace(limits::hand_over(!wait.is_zero(), 4_000, pause))
            }),
        ];
        support::print_ratios(&name, "k/s", 1e3, sides);
    }
    group.finish();
}

fn main() {
    let mut criterion = support::criterion();
    scans(&mut criterion);
    random_reads(&mut criterion);
    tails(&mut criterion);
    criterion.final_summary();
}
