//! Durable appends: a record counts when it is synced (`Acks::All`, durability `Disk`).
//!
//! 100-byte incompressible records, each waited for. Threads share one producer and one partition, so they share
//! syncs. The baseline is one thread that appends 4 KiB and calls fdatasync, over and over.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod support;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use logstead::{Acks, Producer, Record, Topic, TopicConfig};
use support::{Bench, Payload, Side, plain, rate};

const IN_FLIGHT: usize = 64;

#[derive(Clone, Copy)]
enum Load {
    Threads(u64),
    InFlight,
}

impl Load {
    const ALL: [Load; 4] = [Load::Threads(1), Load::Threads(8), Load::Threads(64), Load::InFlight];

    fn name(self) -> String {
        match self {
            Load::Threads(1) => "1-thread".to_owned(),
            Load::Threads(threads) => format!("{threads}-threads"),
            Load::InFlight => format!("{IN_FLIGHT}-in-flight-from-1-thread"),
        }
    }

    /// Sends at least `count` records and waits for each; how many, and how long it took.
    fn run(self, bench: &Bench, payload: &Payload, count: u64) -> (u64, Duration) {
        let producer = bench.producer(plain(Acks::All));
        let start = Instant::now();
        let done = match self {
            Load::Threads(threads) => {
                let each = count.div_ceil(threads);
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| wait_for_each(&producer, &bench.topic, payload, each));
                    }
                });
                each * threads
            }
            Load::InFlight => {
                keep_in_flight(&producer, &bench.topic, payload, count);
                count
            }
        };
        (done, start.elapsed())
    }
}

fn wait_for_each(producer: &Producer, topic: &Topic, payload: &Payload, count: u64) {
    for value in payload.values().take(count as usize) {
        producer.send(Record::to(topic).value(value)).unwrap().wait().unwrap();
    }
}

fn keep_in_flight(producer: &Producer, topic: &Topic, payload: &Payload, count: u64) {
    let mut waiting = VecDeque::with_capacity(IN_FLIGHT);
    for value in payload.values().take(count as usize) {
        if waiting.len() == IN_FLIGHT
            && let Some(oldest) = waiting.pop_front()
        {
            logstead::Delivery::wait(oldest).unwrap();
        }
        waiting.push_back(producer.send(Record::to(topic).value(value)).unwrap());
    }
    for delivery in waiting {
        delivery.wait().unwrap();
    }
}

fn main() {
    let payload = Payload::incompressible(100);
    let mut criterion: Criterion = support::criterion();
    for load in Load::ALL {
        let mut group = criterion.benchmark_group("durable");
        group.throughput(Throughput::Elements(1));
        let bench = Bench::new(TopicConfig::default());
        group.bench_function(load.name(), |bencher| {
            bencher.iter_custom(|count| {
                let (done, time) = load.run(&bench, &payload, count);
                time.mul_f64(count as f64 / done as f64)
            });
        });
        group.finish();
    }
    criterion.final_summary();

    let dir = support::temp_dir();
    let time = Duration::from_millis(if support::is_quick() { 150 } else { 500 });
    for load in Load::ALL {
        let name = format!("durable/{}", load.name());
        if !support::wants(&name) {
            continue;
        }
        let bench = Bench::new(TopicConfig::default());
        // Once to warm up, and to learn how many records fill the time.
        let (done, took) = load.run(&bench, &payload, 640);
        let count = (rate(done, took) * time.as_secs_f64()) as u64;
        let sides = vec![
            Side::new("ours", || {
                let (done, took) = load.run(&bench, &payload, count);
                rate(done, took)
            }),
            Side::new("fdatasync of a 4 KiB append, one thread", || {
                support::limits::synced_appends(dir.path(), time)
            }),
        ];
        support::print_ratios(&name, "records/s", 1.0, sides);
    }
}
