//! Appends that end in the page cache: one by one through a producer, the same through an exclusive writer, and caller
//! batches of 100 through a partition.
//!
//! No codec, `Acks::Leader`, durability `PageCache`: a record counts when it is handed to the operating system. The
//! final flush is inside the time; creating the store and closing it (which syncs) are not. Rates are of payload bytes.
//! The log makes its own segment, a growing file, while the pre-written baseline's pages exist already: the second
//! baseline, the same write into a fresh file, is the one that is equal in this.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use logstead::{Acks, Partition, Record, Topic};
use support::limits::Prewritten;
use support::{Bench, MIB, Payload, Side, page_cache, plain, rate, send};

/// A log is begun anew when it is that long, so that no run meets a roll.
const LOG_BYTES: u64 = 256 * MIB;
const BATCH: u64 = 100;

/// How records get in.
#[derive(Clone, Copy)]
enum Way {
    OneByOne,
    Writer,
    Batches,
}

impl Way {
    const ALL: [Way; 3] = [Way::OneByOne, Way::Writer, Way::Batches];

    fn name(self) -> &'static str {
        match self {
            Way::OneByOne => "one-by-one",
            Way::Writer => "exclusive-writer",
            Way::Batches => "batches-of-100",
        }
    }

    fn append(self, bench: &Bench, payload: &Payload, count: u64) -> Duration {
        match self {
            Way::OneByOne => send(&bench.producer(plain(Acks::Leader)), &bench.topic, payload, count),
            Way::Writer => write(&bench.topic, payload, count),
            Way::Batches => append_batches(&bench.topic.partition(0).unwrap(), &bench.topic, payload, count),
        }
    }
}

fn write(topic: &Topic, payload: &Payload, count: u64) -> Duration {
    let mut writer = topic.partition(0).unwrap().writer(plain(Acks::Leader)).unwrap();
    let mut values = payload.values();
    let start = Instant::now();
    for _ in 0..count {
        writer.send(Record::to(topic).value(values.next().unwrap_or_default())).unwrap();
    }
    writer.flush().unwrap();
    start.elapsed()
}

fn append_batches(partition: &Partition, topic: &Topic, payload: &Payload, count: u64) -> Duration {
    let mut values = payload.values();
    let start = Instant::now();
    for _ in 0..count / BATCH {
        let records = values.by_ref().take(BATCH as usize).map(|value| Record::to(topic).value(value));
        partition.append(records, None, Acks::Leader).unwrap();
    }
    start.elapsed()
}

fn measure(criterion: &mut Criterion, way: Way, payload: &Payload) {
    let mut group = criterion.benchmark_group(format!("append/{}", way.name()));
    group.throughput(Throughput::Bytes(payload.mean_bytes as u64));
    let mut bench: Option<(Bench, u64)> = None;
    group.bench_function(&payload.name, |bencher| {
        bencher.iter_custom(|count| {
            let mut time = Duration::ZERO;
            let mut left = count.next_multiple_of(BATCH);
            while left > 0 {
                let room = bench.as_ref().map_or(0, |(_, room)| *room);
                if room < BATCH {
                    bench = Some((Bench::new(page_cache()), payload.records_in(LOG_BYTES)));
                    continue;
                }
                let now = left.min(room - room % BATCH);
                if let Some((bench, room)) = &mut bench {
                    time += way.append(bench, payload, now);
                    *room -= now;
                }
                left -= now;
            }
            // Of the records asked for: at most 99 more were appended.
            time.mul_f64(count as f64 / count.next_multiple_of(BATCH) as f64)
        });
    });
    group.finish();
}

fn ratios() {
    let wanted = |way: Way, payload: &Payload| format!("append/{}/{}", way.name(), payload.name);
    if !Way::ALL.iter().any(|way| support::payloads().iter().any(|p| support::wants(&wanted(*way, p)))) {
        return;
    }
    let dir = support::temp_dir();
    let bytes = support::run_bytes();
    let prewritten = std::cell::RefCell::new(Prewritten::new(dir.path(), bytes));
    for way in Way::ALL {
        for payload in support::payloads() {
            let count = payload.records_in(bytes);
            let ours = || {
                let bench = Bench::new(page_cache());
                let time = way.append(&bench, &payload, count);
                bench.store.close().unwrap();
                rate((count as f64 * payload.mean_bytes) as u64, time)
            };
            let sides = vec![
                Side::new("ours", ours),
                Side::new("write(2) 256 KiB over the same pre-written file", || {
                    prewritten.borrow_mut().write(false)
                }),
                Side::new("the same with CRC-32C", || prewritten.borrow_mut().write(true)),
                Side::new("write(2) 256 KiB into a fresh file", || prewritten.borrow().write_fresh()),
            ];
            support::print_ratios(&wanted(way, &payload), "MB/s", 1e6, sides);
        }
    }
}

fn main() {
    let mut criterion = support::criterion();
    for way in Way::ALL {
        for payload in support::payloads() {
            measure(&mut criterion, way, &payload);
        }
    }
    criterion.final_summary();
    ratios();
}
