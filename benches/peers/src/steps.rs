//! One measurement: a workload on a peer, in a process of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::figures::median;
use crate::peer::{About, Mode};

/// How much a run does.
#[derive(Clone, Copy)]
pub struct Size {
    /// Payload bytes of an append.
    pub bytes: u64,
    /// An append, or a round of random reads, ends after this even if less was done.
    pub time: Duration,
    /// Payload bytes of what W7 opens, whoever wrote it and for how long: most of an open may not depend on them.
    pub opened_bytes: u64,
}

pub const FULL: Size = Size { bytes: 256_000_000, time: Duration::from_secs(1), opened_bytes: 64_000_000 };
pub const QUICK: Size =
    Size { bytes: 64_000_000, time: Duration::from_millis(400), opened_bytes: 16_000_000 };

/// A workload: what is appended or read, and from which log.
#[derive(Clone, Copy)]
pub struct Workload {
    pub id: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// Whether a smaller figure is the better one.
    pub smaller_is_better: bool,
    pub applies: fn(&About) -> Result<(), &'static str>,
    run: fn(&About, &Path, Size) -> f64,
}

const fn rate(
    id: &'static str,
    title: &'static str,
    applies: fn(&About) -> Result<(), &'static str>,
    run: fn(&About, &Path, Size) -> f64,
) -> Workload {
    Workload { id, title, unit: "records/s", smaller_is_better: false, applies, run }
}

/// In the order of the report.
pub const WORKLOADS: &[Workload] = &[
    rate("W1", "append, 100 B, batches of 100", any, |peer, dir, size| {
        append(peer, &log(dir, "100"), 100, 100, size, End::Close)
    }),
    rate("W2", "append, 1 KiB, batches of 100", any, |peer, dir, size| {
        append(peer, &log(dir, "1024"), 1024, 100, size, End::Close)
    }),
    rate("W3", "append, 100 B, one by one", any, |peer, dir, size| {
        append(peer, &log(dir, "single"), 100, 1, size, End::Close)
    }),
    rate("W4-1", "durable append, 100 B, 1 thread", durable, |peer, dir, size| durables(peer, dir, 1, size)),
    rate("W4-8", "durable append, 100 B, 8 threads", durable, |peer, dir, size| durables(peer, dir, 8, size)),
    rate("W4-64", "durable append, 100 B, 64 threads", durable, |peer, dir, size| {
        durables(peer, dir, 64, size)
    }),
    rate("W5-100", "sequential read, 100 B, warm, fresh open", scans, |peer, dir, size| {
        scan(peer, &log(dir, "100"), size)
    }),
    rate("W5-1024", "sequential read, 1 KiB, warm, fresh open", scans, |peer, dir, size| {
        scan(peer, &log(dir, "1024"), size)
    }),
    rate("W6", "random read by number, 100 B", gets, random),
    Workload {
        unit: "ms",
        smaller_is_better: true,
        ..rate("W7-clean", "open 64 MB after a clean close", any, |peer, dir, _| {
            open_time(peer, &log(dir, CLOSED))
        })
    },
    Workload {
        unit: "ms",
        smaller_is_better: true,
        ..rate("W7-kill", "open 64 MB after a kill", any, |peer, dir, _| open_time(peer, &log(dir, KILLED)))
    },
    Workload {
        unit: "B/record",
        smaller_is_better: true,
        ..rate("W9", "bytes on disk for a record of 100 B, batches of 100", grows, |_, dir, _| {
            disk_bytes(&log(dir, "100")) as f64 / count_of(&log(dir, "100")) as f64
        })
    },
];

fn any(_: &About) -> Result<(), &'static str> {
    Ok(())
}

fn durable(peer: &About) -> Result<(), &'static str> {
    peer.can.durable
}

fn scans(peer: &About) -> Result<(), &'static str> {
    peer.can.scan
}

fn gets(peer: &About) -> Result<(), &'static str> {
    peer.can.get
}

fn grows(peer: &About) -> Result<(), &'static str> {
    if peer.name == "seglog" { Err("takes as much as it is told to when it is made") } else { Ok(()) }
}

pub fn run(workload: &Workload, peer: &About, dir: &Path, size: Size) -> f64 {
    (workload.run)(peer, dir, size)
}

/// The steps that leave a log behind for W7, and what it is called: closed, or as a kill does.
pub const CLOSED: &str = "closed";
pub const KILLED: &str = "killed";

/// Returns after a clean close only.
pub fn leave(peer: &About, dir: &Path, what: &str, size: Size) {
    let size = Size { bytes: size.opened_bytes, time: Duration::MAX, ..size };
    append(peer, &log(dir, what), 100, 100, size, if what == KILLED { End::Kill } else { End::Close });
}

fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

/// How many records a step left, for those that read them.
fn count_of(dir: &Path) -> u64 {
    std::fs::read_to_string(dir.with_extension("count")).unwrap().parse().unwrap()
}

/// Random bytes, a thousand records' worth, in the cache.
fn values(bytes: usize) -> Vec<Vec<u8>> {
    let mut seed = 7_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    (0..1000).map(|_| (0..bytes).map(|_| (next() >> 32) as u8).collect()).collect()
}

enum End {
    Close,
    Kill,
}

fn append(peer: &About, dir: &Path, bytes: usize, batch: usize, size: Size, end: End) -> f64 {
    std::fs::create_dir_all(dir).unwrap();
    let log = (peer.open)(dir, Mode::Relaxed);
    let values = values(bytes);
    let batches: Vec<Vec<&[u8]>> =
        values.chunks(batch).map(|chunk| chunk.iter().map(Vec::as_slice).collect()).collect();
    let wanted = size.bytes / bytes as u64;
    let start = Instant::now();
    let mut count = 0;
    'all: loop {
        for batch in &batches {
            log.append(batch);
            count += batch.len() as u64;
            // Looking at the clock costs as much as the fastest appends.
            if count >= wanted || (batch.len() > 1 || count.is_multiple_of(64)) && start.elapsed() > size.time
            {
                break 'all;
            }
        }
    }
    log.hand_over();
    let time = start.elapsed();
    log.settle();
    std::fs::write(dir.with_extension("count"), count.to_string()).unwrap();
    match end {
        End::Close => log.close(),
        End::Kill => std::process::abort(),
    }
    count as f64 / time.as_secs_f64()
}

fn durables(peer: &About, dir: &Path, threads: usize, size: Size) -> f64 {
    let dir = log(dir, &format!("durable-{threads}"));
    std::fs::create_dir_all(&dir).unwrap();
    let log = (peer.open)(&dir, Mode::Durable);
    let value = values(100).swap_remove(0);
    log.append_durable(&value);
    let start = Instant::now();
    let count: u64 = std::thread::scope(|scope| {
        let work = || {
            let mut count = 0;
            while start.elapsed() < size.time {
                log.append_durable(&value);
                count += 1;
            }
            count
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let rate = count as f64 / start.elapsed().as_secs_f64();
    log.close();
    std::fs::remove_dir_all(&dir).unwrap();
    rate
}

/// Several times where one is short, each on a log opened anew: the median.
fn scan(peer: &About, dir: &Path, size: Size) -> f64 {
    let count = count_of(dir);
    let mut rates = Vec::new();
    let begin = Instant::now();
    while rates.is_empty() || begin.elapsed() < size.time {
        let log = (peer.open)(dir, Mode::Relaxed);
        let start = Instant::now();
        let found = log.scan();
        rates.push(count as f64 / start.elapsed().as_secs_f64());
        assert_eq!(found, count, "{} returns not what was written", peer.name);
        log.close();
    }
    median(&rates)
}

fn random(peer: &About, dir: &Path, size: Size) -> f64 {
    let dir = log(dir, "100");
    let end = count_of(&dir);
    let log = (peer.open)(&dir, Mode::Relaxed);
    log.prepare_reads();
    let (mut seed, mut reads) = (1_u64, 0);
    let start = Instant::now();
    while start.elapsed() < size.time {
        // Looking at the clock costs as much as the fastest reads; the slowest are told apart by few.
        for _ in 0..(reads + 1).min(64) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            assert_eq!(log.get((seed >> 16) % end), 100);
            reads += 1;
        }
    }
    let rate = reads as f64 / start.elapsed().as_secs_f64();
    log.close();
    rate
}

/// Behind the clock it is looked whether all is there: losing it is fast.
fn open_time(peer: &About, dir: &Path) -> f64 {
    let start = Instant::now();
    let log = (peer.open)(dir, Mode::Relaxed);
    let ms = start.elapsed().as_secs_f64() * 1e3;
    assert!(log.holds(count_of(dir)), "{} opened something else than was written", peer.name);
    log.close();
    ms
}

fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() { disk_bytes(&entry.path()) } else { meta.blocks() * 512 }
        })
        .sum()
}
