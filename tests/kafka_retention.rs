//! Kafka's verdict on retention: for the same log and the same settings the same segments go.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

mod common;
#[allow(dead_code, unreachable_pub, reason = "a program, taken as a module: its main is not called here")]
#[path = "../examples/dump.rs"]
mod dump;
#[path = "common/oracle.rs"]
mod oracle;

use std::path::Path;

use common::Random;
use logstead::{Acks, Durability, Record, Store, TopicConfig};
use oracle::{Oracle, compare, problems};

#[test]
fn kafka_retains_what_we_retain_in_a_few_stores() {
    retain_and_compare(0..4);
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn kafka_retains_what_we_retain_in_thirty_stores() {
    retain_and_compare(100..130);
}

/// Writes a store a seed, has Kafka's own code delete what is old in a copy of it, does the same here, and compares
/// which segments are left and where the logs start; then Kafka judges ours.
fn retain_and_compare(seeds: std::ops::Range<u64>) {
    const NOW: u64 = 1_700_000_000_000;
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut ours = Vec::new();
    let mut went = 0;
    for seed in seeds {
        println!("seed {seed}");
        let mut random = Random(seed);
        let limit = |random: &mut Random, most: u64| (random.below(3) != 0).then(|| random.below(most));
        let (ms, bytes) = (limit(&mut random, 200_000), limit(&mut random, 60_000));
        let dir = home.path().join(seed.to_string());
        let config = TopicConfig::default()
            .partitions(3)
            .segment_bytes(8_000)
            .durability(if random.one_in(2) { Durability::Disk } else { Durability::PageCache })
            .retention_ms(ms)
            .retention_bytes(bytes);
        let clock = logstead::ManualClock::new(NOW);
        let open = || {
            let options = Store::options().maintenance(logstead::Maintenance::Manual).clock(clock.clone());
            options.open(&dir).unwrap()
        };
        let store = open();
        let topic = store.create_topic("t", config).unwrap();
        for partition in 0..3 {
            let partition = topic.partition(partition).unwrap();
            let mut time = NOW as i64 - random.below(300_000) as i64;
            for _ in 0..random.below(200) {
                time += random.below(4_000) as i64 - 1_000;
                let value = common::value(seed, random.next(), random.below(400) as usize);
                let record = Record::to(&topic).value(&value).timestamp_ms(time.min(NOW as i64));
                partition.append([record], None, Acks::Leader).unwrap();
            }
        }
        for partition in 0..3 {
            if random.below(3) == 0 {
                let start = topic.partition(partition).unwrap().log_end_offset() / 2;
                topic.partition(partition).unwrap().read(0, 1).unwrap();
                store.close().unwrap();
                drop(topic);
                // Committed by the close; then some of it is deleted by hand.
                let store = open();
                store.delete_records("t", partition, start).unwrap();
                store.close().unwrap();
                break;
            }
            if partition == 2 {
                store.close().unwrap();
                break;
            }
        }
        let theirs = home.path().join(format!("{seed}-by-kafka"));
        let setting = |limit: Option<u64>| limit.map_or("-1".to_owned(), |limit| limit.to_string());
        let output = oracle
            .script("oracle.sh")
            .args(["retention", "--now", &NOW.to_string()])
            .args(["--config", &format!("retention.ms={}", setting(ms))])
            .args(["--config", &format!("retention.bytes={}", setting(bytes))])
            .args([&dir, &theirs])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let store = open();
        went += store.run_retention_now().unwrap().segments;
        for partition in 0..3 {
            let start = store.topic("t").unwrap().partition(partition).unwrap().log_start_offset();
            println!("  t-{partition} starts at {start}");
        }
        store.close().unwrap();
        for partition in 0..3 {
            let of = |root: &Path| log_names(&root.join(format!("t-{partition}")));
            assert_eq!(
                of(&dir),
                of(&theirs),
                "seed {seed}, partition {partition}, {ms:?} ms, {bytes:?} bytes"
            );
        }
        ours.push(dir);
    }
    assert!(went > 0, "nothing went");
    for (verdict, dir) in oracle.judge(&["--strict"], &ours).iter().zip(&ours) {
        assert_eq!(verdict["ok"], true, "{}: {}", dir.display(), problems(verdict));
        assert_eq!(verdict["clean"], true);
    }
    for (seen, dir) in oracle.view(&ours).iter().zip(&ours) {
        let mut read = Vec::new();
        assert_eq!(dump::dump(dir, None, &mut read).unwrap(), 0);
        let read: Vec<String> = String::from_utf8(read).unwrap().lines().map(str::to_owned).collect();
        compare(&seen.records, &read).unwrap();
    }
}

/// The names of the segments in a directory, rising.
fn log_names(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".log")).collect();
    names.sort();
    names
}
