//! For the same input Kafka's log and ours write the same bytes: uncompressed batches, both indexes, leader epochs,
//! `partition.metadata`; and the same entries in the checkpoint files, whose order is chance in Kafka.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips. `LOGSTEAD_SEED=n` replays a run.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

mod common;
#[allow(dead_code, unreachable_pub, reason = "a program, taken as a module: its main is not called here")]
#[path = "../examples/dump.rs"]
mod dump;
#[path = "common/oracle.rs"]
mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::{Random, manual, seed};
use logstead::{Acks, Header, ManualClock, Record, SimDisk, Store, TimestampType, TopicConfig};
use oracle::{Oracle, keep, workplace};
use serde_json::{Value, json};

const T0: i64 = 1_700_000_000_000;
const ROOT: &str = "/s/data";
const TOPICS: usize = 60;

#[test]
fn the_same_input_gives_the_same_bytes() {
    let seed = seed();
    for oracle in Oracle::all() {
        compare_bytes(&oracle, seed);
    }
}

fn compare_bytes(oracle: &Oracle, seed: u64) {
    let (disk, clock) = (SimDisk::new(seed), ManualClock::new(T0 as u64));
    let mut spec = vec![json!({"op": "store", "now": T0})];
    write_both(&mut Random(seed), &disk, &clock, &mut spec);
    let home = workplace();
    let (theirs, file) = (home.path().join("kafka"), home.path().join("spec.jsonl"));
    let lines: Vec<String> = spec.iter().map(Value::to_string).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let results = oracle.ask(["write".as_ref(), file.as_os_str()], std::slice::from_ref(&theirs));
    assert_eq!(results.lines().count(), lines.len());

    let (ours, theirs) = (ours(&disk), files(&theirs));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut wrong = Vec::new();
    let (mut segments, mut indexes) = (0, 0);
    for name in names {
        match (ours.get(name), theirs.get(name)) {
            // Its presence counts, its content is chance.
            _ if name == ".kafka_cleanshutdown" => {
                assert!(ours.contains_key(name) && theirs.contains_key(name))
            }
            (Some(ours), Some(theirs)) if is_checkpoint(name) => {
                if entries(ours) != entries(theirs) {
                    wrong.push(format!("{name}: {:?}, not {:?}", entries(ours), entries(theirs)));
                }
            }
            (Some(ours), Some(theirs)) => {
                segments += usize::from(name.ends_with(".log"));
                indexes += usize::from(name.ends_with("index") && !ours.is_empty());
                if ours != theirs {
                    let at = ours.iter().zip(theirs).take_while(|(one, other)| one == other).count();
                    wrong.push(format!(
                        "{name}: {} and {} bytes, from {at} on others",
                        ours.len(),
                        theirs.len()
                    ));
                }
            }
            _ if is_of_one(name) => {}
            (ours, _) => {
                wrong.push(format!("{name} is only {}", if ours.is_some() { "ours" } else { "Kafka's" }))
            }
        }
    }
    if !wrong.is_empty() {
        keep(home.path(), &format!("same-{seed}"));
    }
    let line = oracle.line();
    assert!(
        wrong.is_empty(),
        "seed {seed}, Kafka {line}, {} files differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(segments > TOPICS && indexes > TOPICS, "{segments} segments, {indexes} indexes");
    println!("Kafka {line}: {segments} segments and {indexes} indexes with the same bytes");
}

/// Appends batches to topics of all geometries, and tells Kafka to do the same.
fn write_both(random: &mut Random, disk: &SimDisk, clock: &ManualClock, spec: &mut Vec<Value>) {
    let store = manual(clock).disk(disk).open(ROOT).unwrap();
    for i in 0..TOPICS {
        let name = format!("t{i}");
        let append_time = random.one_in(4);
        let config = TopicConfig::default()
            .segment_bytes(600 + random.below(6_000))
            .segment_ms(if random.one_in(4) { 20_000 } else { 604_800_000 })
            .index_interval_bytes([0, 100, 500, 4_096][random.below(4) as usize])
            .segment_index_bytes(if random.one_in(4) { 24 + random.below(100) } else { 10_485_760 })
            .timestamp_type(if append_time {
                TimestampType::LogAppendTime
            } else {
                TimestampType::CreateTime
            });
        let topic = store.create_topic(&name, config).unwrap();
        let mut settings: BTreeMap<&str, String> = topic.config().properties().into_iter().collect();
        settings.retain(|name, _| {
            let wanted = ["segment.bytes", "segment.ms", "index.interval.bytes", "segment.index.bytes"];
            wanted.contains(name) || name.starts_with("message.timestamp")
        });
        spec.push(json!({"op": "open", "topic": name, "topic_id": topic.id(), "config": settings}));
        // Kafka makes the first segment at once, we when it is first asked for; its age makes segments roll.
        topic.partition(0).unwrap();
        // A partition that nobody used has no entry in our checkpoints.
        for _ in 0..1 + random.below(30) {
            clock.advance(std::time::Duration::from_millis(random.below(3_000)));
            spec.push(json!({"op": "now", "now": now(clock)}));
            append(random, &store, &name, now(clock), spec);
        }
    }
    store.close().unwrap();
}

fn now(clock: &ManualClock) -> i64 {
    use logstead::Clock;
    clock.now_ms()
}

fn append(random: &mut Random, store: &Store, name: &str, now: i64, spec: &mut Vec<Value>) {
    let topic = store.topic(name).unwrap();
    let mut records = Vec::new();
    for _ in 0..1 + random.below(4) {
        let time = match random.below(8) {
            0 => -1,
            1 => now - random.below(30_000) as i64,
            2 => now + random.below(30_000) as i64,
            _ => now,
        };
        let bytes = |random: &mut Random, max| -> Option<Vec<u8>> {
            let len = random.below(max);
            (!random.one_in(6)).then(|| (0..len).map(|_| random.next() as u8).collect())
        };
        let (key, value) = (bytes(random, 12), bytes(random, 90));
        let headers: Vec<(&str, Option<Vec<u8>>)> =
            (0..random.below(3)).map(|i| (["", "größe", "trace"][i as usize], bytes(random, 9))).collect();
        records.push((time, key, value, headers));
    }
    let headers: Vec<Vec<Header<'_>>> = records
        .iter()
        .map(|r| r.3.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect())
        .collect();
    let ours = records.iter().zip(&headers).map(|((time, key, value, _), headers)| {
        let mut record = Record::to(&topic).timestamp_ms(*time).headers(headers);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(value) = value {
            record = record.value(value);
        }
        record
    });
    let taken = topic.partition(0).unwrap().append(ours, None, Acks::All);
    let lines: Vec<Value> = records
        .iter()
        .map(|(time, key, value, headers)| {
            let headers: Vec<Value> = headers.iter().map(|(k, v)| json!([k, base64(v.as_deref())])).collect();
            let (key, value) = (base64(key.as_deref()), base64(value.as_deref()));
            json!({"timestamp": time, "key": key, "value": value, "headers": headers})
        })
        .collect();
    // A batch that is larger than a segment is refused by both.
    let mut op = json!({"op": "append", "partition": format!("{name}-0"), "records": lines});
    if taken.is_err() {
        op["may_fail"] = json!(true);
    }
    spec.push(op);
}

fn base64(bytes: Option<&[u8]>) -> Value {
    let mut text = String::new();
    dump::json_bytes(&mut text, bytes);
    serde_json::from_str(&text).unwrap()
}

fn ours(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let inside = |file: std::path::PathBuf| {
        let name = file.strip_prefix(ROOT).ok()?.to_str().unwrap().to_owned();
        Some((name, disk.read_file(&file).unwrap()))
    };
    disk.files().into_iter().filter_map(inside).collect()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                dirs.push(entry);
            } else {
                let name = entry.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&entry).unwrap());
            }
        }
    }
    found
}

fn is_checkpoint(name: &str) -> bool {
    name.ends_with("-offset-checkpoint")
}

fn entries(bytes: &[u8]) -> BTreeSet<String> {
    std::str::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

/// Files that only one of the two has: our own, the identity of a store, and the producers, of which there are none.
fn is_of_one(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap();
    file.starts_with("logstead-")
        || file.ends_with(".snapshot")
        || ["meta.properties", ".lock", "log-start-offset-checkpoint"].contains(&file)
}
