//! Opening a store: after a clean close, after a kill, and after a kill with nothing known to be synced.
//!
//! `clean`: closed. `killed`: the directory is copied while the store is open, which is what a kill leaves: a `Disk`
//! topic, whose checkpoint leaves only a tail to look at. `killed-unsynced`: a `PageCache` topic, where the whole
//! active segment is checked; that figure is the recovery per GiB, measured over a smaller log and scaled.
//! The time ends when the partition can be appended to. After a kill it includes that the copy is written back, and
//! read from the device as far as nothing says that it was synced; so do the baselines of the same bytes, but one.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "copies directories")]

mod support;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use logstead::{Acks, Store, TopicConfig};
use support::{Bench, Payload, Side, TOPIC, limits, page_cache, plain, rate, send};

const GIB: f64 = (1_u64 << 30) as f64;

struct Killed {
    bench: Bench,
    copies: Cell<u64>,
}

impl Killed {
    fn new(config: TopicConfig, acks: Acks) -> Self {
        let bench = Bench::new(config);
        let payload = Payload::incompressible(100);
        send(&bench.producer(plain(acks)), &bench.topic, &payload, payload.records_in(support::run_bytes()));
        Killed { bench, copies: Cell::new(0) }
    }

    /// A new directory in the state of a kill.
    fn copy(&self) -> PathBuf {
        self.copies.update(|copies| copies + 1);
        let to = self.bench.beside(&format!("killed-{}", self.copies.get()));
        copy_dir(&self.bench.path(), &to);
        to
    }

    /// What is done with such a directory, which then goes.
    fn with_copy<T>(&self, run: impl FnOnce(&Path) -> T) -> T {
        let dir = self.copy();
        let done = run(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        done
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Opens a store up to where its partition takes appends.
fn open(dir: &Path) -> Duration {
    let start = Instant::now();
    let store = Store::open(dir).unwrap();
    let end = store.topic(TOPIC).unwrap().partition(0).unwrap().log_end_offset();
    let time = start.elapsed();
    assert!(end > 0);
    store.close().unwrap();
    time
}

fn main() {
    let mut criterion: Criterion = support::criterion();
    let payload = Payload::incompressible(100);
    let bytes = support::run_bytes();

    let clean = Bench::filled(page_cache(), plain(Acks::Leader), &payload, bytes);
    let dir = clean.path();
    let segments = clean.segments();
    clean.store.clone().close().unwrap();
    let mut group = criterion.benchmark_group("open");
    group.bench_function("clean", |b| b.iter_custom(|count| (0..count).map(|_| open(&dir)).sum()));

    let killed = Killed::new(TopicConfig::default(), Acks::All);
    let unsynced = Killed::new(page_cache(), Acks::Leader);
    group.bench_function("killed", |b| {
        b.iter_custom(|count| (0..count).map(|_| killed.with_copy(open)).sum())
    });
    group.bench_function("killed-unsynced", |b| {
        b.iter_custom(|count| (0..count).map(|_| unsynced.with_copy(open)).sum());
    });
    group.finish();
    criterion.final_summary();

    let stored: u64 = segments.iter().map(|path| path.metadata().unwrap().len()).sum();
    let print = |name: &str, run: &mut dyn FnMut() -> Duration| {
        let name = format!("open/{name}");
        if !support::wants(&name) {
            return;
        }
        let times: Vec<f64> = (0..5).map(|_| run().as_secs_f64()).collect();
        let median = support::median(times).median;
        println!(
            "time {name}: {:.2} ms for {:.0} MiB (median of 5)",
            median * 1e3,
            stored as f64 / 1048576.0
        );
        if name.ends_with("unsynced") {
            println!("time open/recovery: {:.0} ms per GiB, scaled", median * 1e3 * GIB / stored as f64);
        }
    };
    print("clean", &mut || open(&dir));
    print("killed", &mut || killed.with_copy(open));
    print("killed-unsynced", &mut || unsynced.with_copy(open));
    let sides = vec![
        Side::new("ours", || rate(1, open(&dir))),
        Side::new("a removal that is synced", || limits::synced_removal(&dir)),
    ];
    support::print_ratios("open/clean", "opens/s", 1.0, sides);
    let sides = vec![
        Side::new("ours", || rate(stored, killed.with_copy(open))),
        Side::new("fdatasync of the same bytes", || {
            killed.with_copy(|dir| limits::synced(&support::segments(dir)))
        }),
    ];
    support::print_ratios("open/killed", "MB/s", 1e6, sides);
    let sides = vec![
        Side::new("ours", || rate(stored, unsynced.with_copy(open))),
        Side::new("fdatasync, and reading back with CRC-32C, of the same bytes", || {
            unsynced.with_copy(|dir| limits::synced_and_read_back(&support::segments(dir)))
        }),
        Side::new("a mapped scan with CRC-32C, all in the page cache", || limits::mapped_scan(&segments)),
    ];
    support::print_ratios("open/killed-unsynced", "MB/s", 1e6, sides);
}
