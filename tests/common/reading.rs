//! A directory that Kafka wrote, read by us, compared with what Kafka or its clients saw in it.

#![allow(dead_code, reason = "each test compares other things")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use logstead::{ConsumerConfig, IsolationLevel, Store};

use super::dump;
use super::oracle::{Seen, compare};

/// What we read from a directory, as Kafka's tools print it.
pub(crate) fn read(dir: &Path) -> Vec<String> {
    lines(dir, None)
}

fn lines(dir: &Path, topic: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    assert_eq!(dump::dump(dir, topic, &mut lines).unwrap(), 0, "{}", dir.display());
    String::from_utf8(lines).unwrap().lines().map(str::to_owned).collect()
}

/// The topics that somebody saw: clients see no internal ones.
pub(crate) fn topics(expected: &Seen) -> BTreeSet<String> {
    let names = expected.partitions.iter().map(|line| line["partition"].as_str().unwrap());
    names.map(|name| name.rsplit_once('-').unwrap().0.to_owned()).collect()
}

/// Whether we find in a directory, without changing it and after a recovery of a copy, what Kafka found: records,
/// start, end, last stable offset, and what a reader of committed records gets.
pub(crate) fn as_kafka_saw_it(dir: &Path, expected: &Seen) -> Result<(), String> {
    let before = listing(dir);
    same_records(dir, expected)?;
    ends(&Store::open_read_only(dir).unwrap(), expected)?;
    if listing(dir) != before {
        return Err("reading changed something".to_owned());
    }
    let home = super::oracle::workplace();
    let copy = home.path().join("log");
    let copied =
        std::process::Command::new("cp").args(["-a", "--sparse=always"]).arg(dir).arg(&copy).status();
    assert!(copied.unwrap().success());
    let store = Store::open(&copy).unwrap();
    ends(&store, expected).map_err(|why| format!("{why}\n{}", store.recovery_report()))?;
    store.close().map_err(|error| error.to_string())?;
    same_records(&copy, expected).map_err(|why| format!("after a recovery: {why}"))
}

/// Clients see partitions in an order of their own.
fn same_records(dir: &Path, expected: &Seen) -> Result<(), String> {
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let ours = topics(expected).iter().flat_map(|topic| lines(dir, Some(topic))).collect();
    compare(&sorted(expected.records.clone()), &sorted(ours))
}

fn ends(store: &Store, expected: &Seen) -> Result<(), String> {
    for partition in &expected.partitions {
        let name = partition["partition"].as_str().unwrap();
        let (topic, number) = name.rsplit_once('-').unwrap();
        let number: i32 = number.parse().unwrap();
        let ours = store.topic(topic).and_then(|topic| topic.partition(number)).map_err(|e| e.to_string())?;
        let (count, stable) = read_committed(store, topic, number);
        let found = [ours.log_start_offset(), ours.high_watermark(), stable];
        let field = |name: &str| partition[name].as_i64().unwrap();
        let wanted = ["log_start_offset", "log_end_offset", "last_stable_offset"].map(field);
        if found != wanted {
            return Err(format!("{name}: start, end and last stable offset are {found:?}, not {wanted:?}"));
        }
        let of_it = format!(r#""partition":"{name}","#);
        let committed = |line: &&String| line.contains(&of_it) && line.ends_with(r#""committed":true}"#);
        let wanted = expected.records.iter().filter(committed).count();
        if count != wanted {
            return Err(format!("{name}: a reader of committed records gets {count} of {wanted}"));
        }
    }
    Ok(())
}

/// How many records a reader of committed ones gets, and where it stands then.
fn read_committed(store: &Store, topic: &str, partition: i32) -> (usize, i64) {
    let config = ConsumerConfig::default().isolation_level(IsolationLevel::ReadCommitted);
    let mut consumer = store.consumer_with(config).unwrap();
    consumer.assign([(topic, partition)]).unwrap();
    consumer.seek_to_beginning().unwrap();
    let mut count = 0;
    loop {
        let before = consumer.position(topic, partition).unwrap();
        count += consumer.poll(Duration::ZERO).unwrap().len();
        let after = consumer.position(topic, partition).unwrap();
        if after == before {
            return (count, after);
        }
    }
}

/// Names, lengths and times of all files.
fn listing(dir: &Path) -> Vec<String> {
    let output =
        std::process::Command::new("find").arg(dir).args(["-printf", "%P %s %T@\n"]).output().unwrap();
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
