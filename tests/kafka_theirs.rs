//! The other way: random directories that Kafka's own log wrote, crashed and torn ones among them, are read by us as
//! Kafka reads them, and what we append to them Kafka accepts.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips. `LOGSTEAD_SEED=n` replays a run.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

mod common;
#[allow(dead_code, unreachable_pub, reason = "a program, taken as a module: its main is not called here")]
#[path = "../examples/dump.rs"]
mod dump;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "common/reading.rs"]
mod reading;

use std::path::{Path, PathBuf};

use logstead::{Acks, Record, Store, TopicConfig};
use oracle::{Oracle, Seen, compare, keep, problems, workplace};
use reading::{as_kafka_saw_it, read};
use serde_json::Value;

#[test]
fn we_read_a_few_random_directories_as_kafka_does() {
    let Some(oracle) = Oracle::find() else { return };
    read_random(&oracle, 20);
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn we_read_two_hundred_random_directories_as_kafka_does() {
    for oracle in Oracle::all() {
        // The newest line writes most; the older one's files are the same but for what it does not know.
        let count = if oracle.line() == oracle::LINES[0] { 200 } else { 40 };
        read_random(&oracle, if common::soak() { 10 * count } else { count });
    }
}

/// Has Kafka write `count` directories, reads them, goes on with them, and has the results judged.
fn read_random(oracle: &Oracle, count: usize) {
    let first = common::seed() & 0xff_ffff;
    let home = workplace();
    let (seed, cases) = (first..first + 10)
        .find_map(|seed| Some((seed, written(oracle, count, seed, home.path())?)))
        .expect("one of ten seeds that Kafka's generator of directories can finish");
    let mut wrong = Vec::new();
    let mut tell = |case: &Path, why: String| {
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        keep(case, &format!("random-{}-{seed}", oracle.line()));
        wrong.push(format!("{name} of seed {seed}, Kafka {}: {why}", oracle.line()));
    };
    let mut ours = Vec::new();
    for case in &cases {
        let expected = Seen::of(&std::fs::read_to_string(case.join("expected.jsonl")).unwrap());
        if let Err(why) = as_kafka_saw_it(&case.join("log"), &expected) {
            tell(case, why);
        }
        ours.push(go_on(&case.join("log")));
    }
    let dirs: Vec<PathBuf> = cases.iter().map(|case| case.join("log")).collect();
    for ((case, verdict), (seen, ours)) in
        cases.iter().zip(oracle.judge(&[], &dirs)).zip(oracle.view(&dirs).iter().zip(&ours))
    {
        if verdict["ok"] != true {
            tell(case, format!("when we had gone on, Kafka complained: {}", problems(&verdict)));
        }
        if let Err(why) = compare(ours, &seen.records) {
            tell(case, format!("when we had gone on, Kafka read something else: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n\n"));
    println!(
        "Kafka {}: {count} directories, {} records",
        oracle.line(),
        ours.iter().map(Vec::len).sum::<usize>()
    );
}

/// Has Kafka write directories from a seed. In a few the generator gives two producers the same id and stops at what
/// Kafka's log says to that: `None`.
fn written(oracle: &Oracle, count: usize, seed: u64, home: &Path) -> Option<Vec<PathBuf>> {
    println!("Kafka {}: replay with oracle.sh random {count} --seed {seed} DIR", oracle.line());
    let dir = home.join(seed.to_string());
    oracle.ask(["random", &count.to_string(), "--seed", &seed.to_string()], std::slice::from_ref(&dir));
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    if cases.len() < count {
        println!("it ends after {} directories", cases.len());
    }
    (cases.len() == count).then_some(cases)
}

/// Appends to every partition, in two sittings, with the index geometry that Kafka had; what we then read.
fn go_on(dir: &Path) -> Vec<String> {
    let settings = std::fs::read_to_string(dir.with_file_name("log.oracle.json")).unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    for sitting in 0..2 {
        let store = Store::open(dir).unwrap();
        for name in store.topic_names() {
            let topic = store.topic(&name).unwrap();
            if sitting == 0 {
                store.alter_topic(&name, config(&settings["topics"][&name], topic.partitions())).unwrap();
            }
            for p in 0..topic.partitions() as i32 {
                let partition = topic.partition(p).unwrap();
                for i in 0..3_i64 {
                    let (time, value) = (1_700_000_000_000 + i * 1_000 + sitting, [b'x'; 200]);
                    let record = Record::to(&topic).key("ours").value(&value).timestamp_ms(time);
                    partition.append([record, record], None, Acks::All).unwrap();
                }
            }
        }
        store.close().unwrap();
    }
    read(dir)
}

/// What a directory does not say of its topic.
fn config(settings: &Value, partitions: u32) -> TopicConfig {
    let wanted = ["index.interval.bytes", "segment.index.bytes"];
    let found = wanted.iter().filter_map(|name| Some((*name, settings[*name].as_str()?)));
    TopicConfig::from_properties(found).unwrap().partitions(partitions)
}
