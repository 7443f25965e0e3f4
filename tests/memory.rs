//! Memory is bounded by configuration, not by data: ten gigabytes in and out with the defaults.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test looks at its own process")]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use logstead::{Acks, Durability, ProducerConfig, Record, Store, TopicConfig};

const GB: u64 = 1_000_000_000;
const RESIDENT_BYTES_MAX: u64 = 32 << 20;
const VALUE_BYTES: usize = 1000;

/// Memory is the whole process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Resident memory that no file stands behind: heap and stacks. Pages of maps do not count, the system takes them back.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn hold_to_limit(peak: &mut u64, when: &str) {
    let now = anonymous_bytes();
    *peak = now.max(*peak);
    assert!(now < RESIDENT_BYTES_MAX, "{} MiB anonymous while {when}", now >> 20);
}

/// Writes and reads `bytes`, and returns the most anonymous memory seen on the way.
fn through(durability: Durability, acks: Acks, bytes: u64) -> u64 {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let topic = store.create_topic("t", TopicConfig::default().durability(durability)).unwrap();
    let count = bytes / VALUE_BYTES as u64;
    let mut value: Vec<u8> = (0..VALUE_BYTES).map(|i| (i * 31 % 251) as u8).collect();
    let mut peak = 0;

    let start = Instant::now();
    let producer = store.producer_with(ProducerConfig::default().acks(acks)).unwrap();
    for i in 0..count {
        value[..8].copy_from_slice(&i.to_le_bytes());
        producer.send(Record::to(&topic).value(&value)).unwrap();
        if i % 20_000 == 0 {
            hold_to_limit(&mut peak, "writing");
        }
    }
    producer.close().unwrap();
    let written = start.elapsed();

    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    let (mut next, mut polls) = (0_u64, 0_u64);
    while next < count {
        let records = consumer.poll(Duration::from_secs(5)).unwrap();
        assert!(!records.is_empty(), "nothing after {next} of {count}");
        for record in &records {
            let read = record.value().unwrap();
            assert_eq!((read.len(), &read[..8]), (VALUE_BYTES, next.to_le_bytes().as_slice()));
            next += 1;
        }
        polls += 1;
        if polls.is_multiple_of(20) {
            hold_to_limit(&mut peak, "reading");
        }
    }
    println!(
        "{durability:?}: {:.1} GB written in {:.1} s, read back by {:.1} s; at most {:.1} MiB anonymous",
        bytes as f64 / GB as f64,
        written.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        peak as f64 / 1048576.0,
    );
    peak
}

#[test]
fn memory_does_not_grow_with_the_log() {
    through(Durability::PageCache, Acks::Leader, GB / 5);
}

#[test]
#[ignore = "writes 20 GB: .ci/soak"]
fn ten_gigabytes_stay_under_32_mib() {
    through(Durability::PageCache, Acks::Leader, 10 * GB);
    through(Durability::Disk, Acks::All, 10 * GB);
}
