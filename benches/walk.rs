//! One hot path and nothing else, for profilers and for counting instructions: see `CONTRIBUTING.md`.
//!
//! ```text
//! cargo bench --bench walk -- PATH COUNT
//! ```
//!
//! `PATH`: `send`, `numbered` and `not-numbered` (with `Acks::All`, idempotent or not), `batch`, `durable`, `scan`,
//! `get`, `by-time`. `COUNT` operations (records; for `scan` too) on a log of 256 MiB of 100-byte records, made first;
//! the nanoseconds of each are printed. `sealed` behind them reads closed segments. Without arguments nothing is done.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod support;

use std::time::{Duration, Instant};

use logstead::{Acks, Record, TopicConfig};
use support::{Bench, MIB, Payload, Random, page_cache, plain, send};

const FIRST_TIME: i64 = 1_700_000_000_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let [path, count, rest @ ..] = args.as_slice() else {
        println!("walk: nothing to do without PATH and COUNT");
        return;
    };
    let count: u64 = count.parse().unwrap();
    let payload = Payload::incompressible(100);
    let sealed = rest.iter().any(|arg| arg == "sealed");
    let config = if sealed { page_cache().segment_bytes(64 * MIB) } else { page_cache() };
    let time = match path.as_str() {
        "send" => {
            let bench = Bench::new(config);
            send(&bench.producer(plain(Acks::Leader)), &bench.topic, &payload, count)
        }
        "numbered" | "not-numbered" => {
            let bench = Bench::new(config);
            let producer = bench.producer(plain(Acks::All).enable_idempotence(path == "numbered"));
            send(&producer, &bench.topic, &payload, count)
        }
        "batch" => batches(&Bench::new(config), &payload, count),
        "durable" => durable(&Bench::new(TopicConfig::default()), &payload, count),
        "scan" => scans(&filled(config, &payload), count),
        "get" => gets(&filled(config, &payload), count),
        "by-time" => times(&filled(config, &payload), count),
        other => panic!("no such path: {other}"),
    };
    println!("{path}: {:.1} ns each, {count} times", time.as_secs_f64() * 1e9 / count as f64);
}

fn batches(bench: &Bench, payload: &Payload, count: u64) -> Duration {
    let partition = bench.topic.partition(0).unwrap();
    let mut values = payload.values();
    let start = Instant::now();
    for _ in 0..count / 100 {
        let records = values.by_ref().take(100).map(|value| Record::to(&bench.topic).value(value));
        partition.append(records, None, Acks::Leader).unwrap();
    }
    start.elapsed()
}

fn durable(bench: &Bench, payload: &Payload, count: u64) -> Duration {
    let producer = bench.producer(plain(Acks::All));
    let start = Instant::now();
    for value in payload.values().take(count as usize) {
        producer.send(Record::to(&bench.topic).value(value)).unwrap().wait().unwrap();
    }
    start.elapsed()
}

/// Records whose timestamps rise by one millisecond each.
fn filled(config: TopicConfig, payload: &Payload) -> Bench {
    let bench = Bench::new(config);
    let producer = bench.producer(plain(Acks::Leader));
    for (i, value) in payload.values().take(payload.records_in(256 * MIB) as usize).enumerate() {
        producer.send(Record::to(&bench.topic).value(value).timestamp_ms(FIRST_TIME + i as i64)).unwrap();
    }
    producer.close().unwrap();
    bench.reopen()
}

fn scans(bench: &Bench, count: u64) -> Duration {
    let mut consumer = bench.store.consumer().unwrap();
    consumer.assign_all([support::TOPIC]).unwrap();
    let mut left = count as i64;
    let start = Instant::now();
    while left > 0 {
        consumer.seek_to_beginning().unwrap();
        loop {
            let records = consumer.poll(Duration::ZERO).unwrap();
            if records.is_empty() || left <= 0 {
                break;
            }
            for record in &records {
                std::hint::black_box((record.offset(), record.value()));
            }
            left -= records.len() as i64;
        }
    }
    start.elapsed()
}

fn gets(bench: &Bench, count: u64) -> Duration {
    let partition = bench.topic.partition(0).unwrap();
    let mut random = Random::new(2);
    let end = partition.high_watermark() as u64;
    let start = Instant::now();
    for _ in 0..count {
        let record = partition.get(random.below(end) as i64).unwrap().unwrap();
        std::hint::black_box(record.record().value());
    }
    start.elapsed()
}

fn times(bench: &Bench, count: u64) -> Duration {
    let partition = bench.topic.partition(0).unwrap();
    let mut random = Random::new(2);
    let end = partition.high_watermark() as u64;
    let start = Instant::now();
    for _ in 0..count {
        std::hint::black_box(partition.offset_for_time(FIRST_TIME + random.below(end) as i64).unwrap());
    }
    start.elapsed()
}
