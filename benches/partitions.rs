//! What many partitions cost: making and opening them, memory and descriptors of those that are idle, and a flush over
//! a thousand that hold something, beside syncing them in turn.
//!
//! Prints lines of figures; the budgets of the design stand beside them. Criterion's own way of measuring does not fit:
//! each figure is one act over a whole store.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]
#![allow(unsafe_code, reason = "a counting allocator")]
#![allow(clippy::disallowed_methods, reason = "counts what the process has open")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use logstead::{Acks, Maintenance, ProducerConfig, Record, Store, StoreOptions, TopicConfig};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() - 1)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// Sends one record to each partition and flushes; how long the flush took.
fn flush(store: &Store, partitions: u32) -> Duration {
    let topic = store.topic("flushed").unwrap();
    let producer =
        store.producer_with(ProducerConfig::default().acks(Acks::Leader).linger_ms(60_000)).unwrap();
    for p in 0..partitions as i32 {
        producer.send(Record::to(&topic).partition(p).value(&[42; 1_000][..])).unwrap();
    }
    let (flushed, took) = timed(|| producer.flush());
    flushed.unwrap();
    took
}

fn many(partitions: u32) {
    let home = support::temp_dir();
    let dir = home.path().join("many");
    let store = Store::open(&dir).unwrap();
    let config = TopicConfig::default().partitions(partitions);
    let (topic, made) = timed(|| store.create_topic("many", config).unwrap());
    println!("time partitions/create: {:.2} s for {partitions}", made.as_secs_f64());
    drop(topic);
    store.close().unwrap();

    let (files, before) = (open_files(), held());
    let (store, opened) = timed(|| Store::options().maintenance(Maintenance::Manual).open(&dir).unwrap());
    println!("time partitions/open: {:.1} ms for {partitions}, closed in order", opened.as_secs_f64() * 1e3);
    let per = |bytes: usize| bytes.saturating_sub(before) as f64 / f64::from(partitions);
    println!("memory partitions/never-used: {:.0} bytes a partition (budget 2,048)", per(held()));
    let topic = store.topic("many").unwrap();
    let (_, touched) = timed(|| {
        for p in 0..partitions as i32 {
            let partition = topic.partition(p).unwrap();
            partition.append([Record::to(&topic).value("v")], None, Acks::Leader).unwrap();
        }
    });
    println!("time partitions/first-append: {:.2} s for {partitions}", touched.as_secs_f64());
    for p in 0..partitions as i32 {
        let partition = topic.partition(p).unwrap();
        partition.append([Record::to(&topic).value("v")], None, Acks::All).unwrap();
        assert_eq!(partition.last(2).unwrap().len(), 2);
    }
    println!("memory partitions/idle: {:.0} bytes a partition that was used (budget 2,048)", per(held()));
    println!("files partitions/idle: {} open (budget 512: half the soft limit)", open_files() - files);
    drop(topic);
    let (closed, took) = timed(|| store.close());
    closed.unwrap();
    println!("time partitions/close: {:.2} s", took.as_secs_f64());
    // As a kill leaves a store whose checkpoints are current.
    std::fs::remove_file(dir.join(".kafka_cleanshutdown")).unwrap();
    let (store, took) = timed(|| Store::open(&dir).unwrap());
    println!("time partitions/recover: {:.2} s for {partitions}, not closed in order", took.as_secs_f64());
    store.close().unwrap();
}

/// Flushes two stores in turn, one of which syncs its partitions one after another.
fn flushes(what: &str, partitions: u32, home: &Path, options: impl Fn() -> StoreOptions) {
    let stores = [("turn", options().flush_threads(1)), ("together", options())].map(|(name, options)| {
        let store = options.open(home.join(name)).unwrap();
        store.create_topic("flushed", TopicConfig::default().partitions(partitions)).unwrap();
        flush(&store, partitions);
        store
    });
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        for (store, times) in stores.iter().zip(&mut times) {
            times.push(flush(store, partitions).as_secs_f64());
        }
    }
    let [turn, together] = times.map(|times| support::median(times).median);
    println!(
        "ratio partitions/{what}: {:.3} of syncing {partitions} in turn ({:.0} ms beside {:.0} ms; budget 0.125)",
        together / turn,
        together * 1e3,
        turn * 1e3
    );
    stores.into_iter().for_each(|store| store.close().unwrap());
}

fn main() {
    if !support::wants("partitions") {
        return;
    }
    // What systems give a process by default.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(1_024), maximum }).unwrap();
    let (all, dirty) = if support::is_quick() { (1_000, 200) } else { (10_000, 1_000) };
    many(all);
    let home = support::temp_dir();
    flushes("flush", dirty, home.path(), Store::options);
    // Where a sync costs what it does on most disks; how many it takes at a time is not bounded.
    #[cfg(feature = "testing")]
    flushes("flush-1ms", dirty, Path::new("/"), || {
        let disk = logstead::SimDisk::in_memory();
        disk.set_sync_time(Duration::from_millis(1));
        Store::options().disk(&disk)
    });
}
