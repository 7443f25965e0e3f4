//! SIGKILL at random moments of writing real rows to a real disk: after each the store opens, every acknowledged
//! record is there, in order, once, and writing goes on from there.
//!
//! The writer is this program again, as a child that says over a pipe how many rows are acknowledged.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test looks around"
)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{CHILD_BEGINS, Random, run_and_kill, seed};
use logstead::{Acks, Durability, Partition, ProducerConfig, Record, Store, TopicConfig};

const PARTITIONS: usize = 3;
const DIR: &str = "LOGSTEAD_KILL_DIR";
const ROWS: &str = "LOGSTEAD_KILL_ROWS";
const DURABILITY: &str = "LOGSTEAD_KILL_DURABILITY";

/// The rows of the sample in the tree, or of the full set where it lies beside the tree.
fn rows(file: &Path) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap();
    let bytes = if file.extension().is_some_and(|e| e == "zst") {
        zstd::decode_all(&bytes[..]).unwrap()
    } else {
        bytes
    };
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/flights-sample.csv")
}

/// The row that partition `p` has at `offset`.
fn row_of(p: usize, offset: usize) -> usize {
    offset * PARTITIONS + p
}

/// Not a test of its own: the writer, until it is killed or has no rows left.
#[test]
#[ignore = "the child of the others"]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let rows = rows(Path::new(&std::env::var_os(ROWS).unwrap()));
    let durability =
        if std::env::var(DURABILITY).unwrap() == "disk" { Durability::Disk } else { Durability::PageCache };
    let store = Store::open(&dir).unwrap();
    let config = TopicConfig::default()
        .partitions(PARTITIONS as u32)
        .durability(durability)
        .segment_bytes(64 * 1024)
        .index_interval_bytes(1_024);
    let topic = store.topic("flights").or_else(|_| store.create_topic("flights", config)).unwrap();
    let ends: Vec<usize> =
        (0..PARTITIONS as i32).map(|p| topic.partition(p).unwrap().log_end_offset() as usize).collect();
    let producer = store.producer_with(ProducerConfig::default().acks(Acks::All).batch_size(2_000)).unwrap();
    let mut out = std::io::stdout().lock();
    out.write_all(CHILD_BEGINS).unwrap();
    let mut deliveries = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let (p, offset) = (i % PARTITIONS, i / PARTITIONS);
        if offset >= ends[p] {
            let record = Record::to(&topic).partition(p as i32).key(&row[..4.min(row.len())]).value(row);
            deliveries.push((offset, producer.send(record).unwrap()));
        }
        if i % 40 == 39 || i + 1 == rows.len() {
            for (offset, delivery) in deliveries.drain(..) {
                assert_eq!(delivery.wait().unwrap().offset, offset as i64);
            }
            out.write_all(&(i as u64 + 1).to_be_bytes()).unwrap();
            out.flush().unwrap();
        }
    }
    drop(out);
    drop(producer);
    store.close().unwrap();
}

/// Starts the writer, kills it after `acks` words from it and a little more; returns how many rows were acknowledged.
fn write_and_kill(
    dir: &Path,
    rows: &Path,
    durability: Durability,
    acks: usize,
    more: Duration,
) -> (u64, bool) {
    let variables = [
        (DIR, dir.display().to_string()),
        (ROWS, rows.display().to_string()),
        (DURABILITY, durability.to_string()),
    ];
    let said = run_and_kill(&variables, acks * 8, more);
    let acked = said.words.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().unwrap()));
    // Behind the last row come words of the test harness.
    let acked = acked.take_while(|acked| *acked < 1 << 32).max().unwrap_or(0);
    (acked, said.ended)
}

/// Every record is the row of its offset, and at least those of the first `acked` rows are there.
fn check(partition: &Partition, rows: &[String], acked: u64) -> usize {
    let p = partition.number() as usize;
    let mut next = 0;
    loop {
        let records = partition.read(next as i64, 1 << 20).unwrap();
        if records.is_empty() {
            break;
        }
        for record in &records {
            assert_eq!(record.offset(), next as i64);
            assert_eq!(
                record.value(),
                rows.get(row_of(p, next)).map(String::as_bytes),
                "partition {p}, offset {next}"
            );
            next += 1;
        }
    }
    let kept = (0..acked as usize).filter(|row| row % PARTITIONS == p).count();
    assert!(next >= kept, "partition {p} holds {next} of {kept} acknowledged");
    next
}

fn kills(count: u64, file: &Path, durability: Durability) {
    let seed = seed();
    let mut random = Random(seed);
    let rows = rows(file);
    let words = rows.len() as u64 / 40;
    let mut dir = tempfile::tempdir().unwrap();
    let (mut acked, mut before) = (0, 0);
    for kill in 0..count {
        // So that all of them together reach about to the end of the rows.
        let acks = 1 + random.below(2 * words.saturating_sub(before) / (count - kill).max(1));
        let more = Duration::from_micros(random.below(3_000));
        let (now, ended) = write_and_kill(dir.path(), file, durability, acks as usize, more);
        acked = now.max(acked);
        let store = Store::open(dir.path()).unwrap();
        assert!(ended || !store.recovery_report().clean);
        let topic = store.topic("flights").unwrap();
        for p in 0..PARTITIONS as i32 {
            check(&topic.partition(p).unwrap(), &rows, acked);
        }
        store.close().unwrap();
        before = acked / 40;
        if ended {
            dir = tempfile::tempdir().unwrap();
            (acked, before) = (0, 0);
        }
    }
    eprintln!("{count} kills, {acked} of {} rows acknowledged, {durability}", rows.len());
}

#[test]
fn a_kill_takes_nothing_acknowledged_of_a_disk_topic() {
    kills(5, &sample(), Durability::Disk);
}

#[test]
fn a_kill_takes_nothing_acknowledged_of_a_page_cache_topic() {
    kills(5, &sample(), Durability::PageCache);
}

#[test]
#[ignore = "writes all flights, about a minute: .ci/run calls it"]
fn thirty_kills_while_all_flights_are_written_take_nothing_acknowledged() {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/flights.csv.zst");
    let file = if full.exists() { full } else { sample() };
    kills(30, &file, Durability::Disk);
    kills(30, &file, Durability::PageCache);
}
