//! Compaction against reading and rewriting the same bytes without a map of keys.
//!
//! 1 GiB of 1 KiB records (256 MiB with `--quick`) with 100,000 keys is written, closed segments are read in pieces and
//! written to a new file that is synced, and then the topic is compacted; three times, and the line gives the quotient
//! of the medians. The last record of each key stays, so a compaction writes less than the rewrite and reads twice.
//!
//! Beside it one thread appends records of 1 KiB to another topic, one by one, a thousand in a second: the 99.9th
//! percentile of an append, in six seconds in front of the compaction, and while it runs.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the baseline, without the crate")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use logstead::{Acks, Cleanup, Durability, Record, Store, TopicConfig};
use support::{MIB, Random, is_quick, plain, rate, temp_dir, wants};

const KEYS: u64 = 100_000;
const RECORD_BYTES: usize = 1_024;
const ROUNDS: usize = 3;

fn main() {
    if wants("compact/beside") {
        beside(if is_quick() { 256 * MIB } else { 1_024 * MIB });
    }
    if !wants("compact/rewrite") {
        return;
    }
    let bytes = if is_quick() { 256 * MIB } else { 1_024 * MIB };
    let mut ratios: Vec<(f64, f64, f64)> = (0..ROUNDS).map(|_| round(bytes)).collect();
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, ours, theirs) = ratios[ROUNDS / 2];
    println!(
        "ratio compact/{}-MiB/1-KiB-records/{KEYS}-keys: {ratio:.2} ({:.0} MB/s against {:.0} MB/s read and rewritten)",
        bytes / MIB,
        ours / 1e6,
        theirs / 1e6
    );
}

/// The quotient, and both rates by the bytes that go in.
fn round(bytes: u64) -> (f64, f64, f64) {
    let home = temp_dir();
    let dir = home.path().join("data");
    let store = Store::open(&dir).unwrap();
    let config = TopicConfig::default()
        .durability(Durability::PageCache)
        .segment_bytes(128 * MIB)
        .cleanup_policy(Cleanup::COMPACT);
    let topic = store.create_topic("c", config).unwrap();
    fill(&store, bytes);
    drop(topic);
    let before = log_bytes(&dir.join("c-0"));

    let start = Instant::now();
    rewrite(&dir.join("c-0"), &home.path().join("rewritten"));
    let theirs = rate(before, start.elapsed());

    let start = Instant::now();
    let report = &store.compact_now("c").unwrap()[0];
    let ours = rate(before, start.elapsed());
    assert_eq!(report.records_after, KEYS.min(bytes / RECORD_BYTES as u64));
    eprintln!(
        "{} records, {} bytes in {:.2?} to {} records, {} bytes",
        report.records_before, report.bytes_before, report.time, report.records_after, report.bytes_after
    );
    (ours / theirs, ours, theirs)
}

/// What an append takes while a compaction runs, and while none does.
fn beside(bytes: u64) {
    let home = temp_dir();
    let store = Store::open(home.path().join("data")).unwrap();
    let config = TopicConfig::default().durability(Durability::PageCache).segment_bytes(128 * MIB);
    store.create_topic("c", config.clone().cleanup_policy(Cleanup::COMPACT)).unwrap();
    let other = store.create_topic("other", config).unwrap();
    fill(&store, bytes);
    let partition = other.partition(0).unwrap();
    let value = [7; RECORD_BYTES];
    let append_until = |over: &dyn Fn(Duration) -> bool| {
        let (began, mut times) = (Instant::now(), Vec::new());
        while !over(began.elapsed()) {
            let start = Instant::now();
            partition.append([Record::to(&other).value(&value)], None, Acks::All).unwrap();
            times.push(start.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        times.sort();
        (times[times.len() * 999 / 1_000], times.len())
    };
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (without, _) = append_until(&|spent| spent >= Duration::from_secs(6));
        let running = AtomicBool::new(true);
        let (with, count) = std::thread::scope(|scope| {
            scope.spawn(|| {
                store.compact_now("c").unwrap();
                running.store(false, Ordering::SeqCst);
            });
            append_until(&|_| !running.load(Ordering::SeqCst))
        });
        eprintln!("p99.9 of an append: {without:.0?} without, {with:.0?} with ({count} appends)");
        ratios.push(with.as_secs_f64() / without.as_secs_f64());
        fill(&store, bytes);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio compact/beside/p99.9: {:.2} (budget 2)", ratios[ROUNDS / 2]);
}

fn fill(store: &Store, bytes: u64) {
    let producer = store.producer_with(plain(Acks::Leader)).unwrap();
    let mut random = Random::new(5);
    let mut value = vec![0; RECORD_BYTES - 30];
    // Each key once, so that all are there; then by chance.
    for n in 0..bytes / RECORD_BYTES as u64 {
        let key = if n < KEYS { n } else { random.next() % KEYS };
        let word = random.next().to_le_bytes();
        for chunk in value.chunks_mut(8) {
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        producer.send(Record::to("c").key(&format!("key-{key:012}")).value(&value)).unwrap();
    }
    producer.flush().unwrap();
}

fn logs(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut logs: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    logs
}

fn log_bytes(dir: &Path) -> u64 {
    logs(dir).iter().map(|path| std::fs::metadata(path).unwrap().len()).sum()
}

/// Reads every log and writes it to a new file, synced.
fn rewrite(dir: &Path, to: &Path) {
    let mut piece = vec![0; 256 * 1024];
    for path in logs(dir) {
        let (mut from, mut into) = (File::open(path).unwrap(), File::create(to).unwrap());
        loop {
            let read = from.read(&mut piece).unwrap();
            if read == 0 {
                break;
            }
            into.write_all(&piece[..read]).unwrap();
        }
        into.sync_data().unwrap();
    }
    std::fs::remove_file(to).unwrap();
}
