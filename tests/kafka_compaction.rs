//! Kafka's own cleaner and ours, on the same directories that Kafka made: the same records stay, in the same batches,
//! and Kafka finds nothing wrong with what we wrote.
//!
//! Many directories become one, each topic with the number of its directory in front: so few questions are asked of
//! Kafka.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

#[path = "common/oracle.rs"]
mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use logstead::{ManualClock, Store, TopicConfig};
use oracle::Oracle;
use serde_json::{Value, json};

const CHECKPOINTS: [&str; 4] = [
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
    "cleaner-offset-checkpoint",
];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut dirs: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

/// Puts directories with their settings into one.
fn merge(dirs: &[PathBuf], to: &Path) -> Value {
    std::fs::create_dir_all(to).unwrap();
    let mut checkpoints: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (mut now, mut topics) = (0, serde_json::Map::new());
    for (i, dir) in dirs.iter().enumerate() {
        let settings = std::fs::read(dir.with_extension("oracle.json")).unwrap();
        let settings: Value = serde_json::from_slice(&settings).unwrap();
        now = now.max(settings["now"].as_u64().unwrap());
        for (topic, config) in settings["topics"].as_object().unwrap() {
            topics.insert(format!("d{i}.{topic}"), config.clone());
        }
        for partition in subdirs(dir) {
            let name = partition.file_name().unwrap().to_str().unwrap();
            copy(&partition, &to.join(format!("d{i}.{name}")));
        }
        for name in CHECKPOINTS {
            let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            let lines = text.lines().skip(2).map(|line| format!("d{i}.{line}"));
            checkpoints.entry(name).or_default().extend(lines);
        }
    }
    for (name, lines) in checkpoints {
        let text = format!("0\n{}\n{}\n", lines.len(), lines.join("\n"));
        std::fs::write(to.join(name), text).unwrap();
    }
    let settings = json!({ "now": now, "producer_id_expiration_ms": 86_400_000, "topics": topics });
    std::fs::write(to.with_extension("oracle.json"), settings.to_string()).unwrap();
    settings
}

/// Compacts every partition once, as it lies there, with these settings and at that time. Which segments were
/// rewritten.
fn compact(dir: &Path, settings: &Value) {
    let clock = ManualClock::new(settings["now"].as_u64().unwrap());
    let options = Store::options().maintenance(logstead::Maintenance::Manual).clock(clock);
    let store = options.open(dir).unwrap();
    let mut partitions = 0;
    for name in store.topic_names() {
        let topic = store.topic(&name).unwrap();
        partitions += topic.partitions();
        let count = topic.partitions().to_string();
        let mut properties = vec![
            ("num.partitions", count.as_str()),
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
        ];
        for (property, value) in settings["topics"][&name].as_object().unwrap() {
            let known =
                ["segment.bytes", "index.interval.bytes", "segment.index.bytes", "delete.retention.ms"];
            if known.contains(&property.as_str()) {
                properties.push((property, value.as_str().unwrap()));
            }
        }
        store.alter_topic(&name, TopicConfig::from_properties(properties).unwrap()).unwrap();
    }
    // One partition a call.
    for _ in 0..=partitions {
        store.maintain().unwrap();
    }
    store.close().unwrap();
}

/// What stays: batches, and the records in them. Which segment they lie in, and how they are packed, may differ.
fn kept(lines: &str, starts: &BTreeMap<String, i64>) -> Vec<Value> {
    let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut kept: Vec<Value> = all
        .filter(|line| {
            let start = starts.get(line["partition"].as_str().unwrap_or_default()).copied().unwrap_or(0);
            match line["type"].as_str() {
                Some("record") => line["offset"].as_i64().unwrap() >= start,
                Some("batch") => line["last_offset"].as_i64().unwrap() >= start,
                _ => false,
            }
        })
        .collect();
    for line in &mut kept {
        let line = line.as_object_mut().unwrap();
        for free in ["file", "position", "size", "crc", "crc_valid"] {
            line.remove(free);
        }
    }
    kept
}

fn compare(oracle: &Oracle, dirs: &[PathBuf], home: &Path) {
    let (source, ours, theirs) = (home.join("source"), home.join("ours"), home.join("theirs"));
    let settings = merge(dirs, &source);
    copy(&source, &ours);
    std::fs::copy(source.with_extension("oracle.json"), ours.with_extension("oracle.json")).unwrap();
    oracle.ask(["compact", "--config", "cleanup.policy=compact"], &[source.clone(), theirs.clone()]);
    compact(&ours, &settings);

    let starts = std::fs::read_to_string(source.join("log-start-offset-checkpoint")).unwrap();
    let starts = starts.lines().skip(2).filter_map(|line| {
        let mut words = line.split(' ');
        let (topic, partition) = (words.next()?, words.next()?);
        Some((format!("{topic}-{partition}"), words.next()?.parse().ok()?))
    });
    let starts: BTreeMap<String, i64> = starts.collect();
    let dump = |dir: &Path| kept(&oracle.ask(["dump"], &[dir.to_owned()]), &starts);
    let (before, our, their) = (dump(&source), dump(&ours), dump(&theirs));
    let mut wrong = BTreeSet::new();
    let by_partition = |lines: &[Value]| {
        let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in lines {
            all.entry(line["partition"].as_str().unwrap().to_owned()).or_default().push(line.clone());
        }
        all
    };
    let (our_by, their_by) = (by_partition(&our), by_partition(&their));
    for (partition, their) in &their_by {
        let our = our_by.get(partition).map(Vec::as_slice).unwrap_or_default();
        let first = our.iter().zip(their).find(|(our, their)| our != their);
        if first.is_some() || our.len() != their.len() {
            let kind = partition[1..].split('.').next().and_then(|n| dirs.get(n.parse::<usize>().ok()?));
            let lens = (our.len(), their.len());
            wrong.insert(format!("{partition} ({kind:?}): {lens:?} lines; ours, theirs: {first:?}"));
        }
    }
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), their_by.len(), wrong.join("\n"));
    assert_eq!(our_by.len(), their_by.len());

    let verdict = &oracle.judge(&["--allow-torn-tail"], &[ours])[0];
    let bad: Vec<String> = verdict["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|partition| partition["ok"] != true)
        .map(|partition| format!("{}: {}", partition["partition"], partition["problems"]))
        .collect();
    assert!(
        bad.is_empty() && verdict["ok"] == true,
        "{} {}\n{}",
        verdict["problems"],
        bad.len(),
        bad.join("\n")
    );
    println!(
        "Kafka {}: {} directories, {} partitions, {} lines before, {} after",
        oracle.line(),
        dirs.len(),
        their_by.len(),
        before.len(),
        our.len()
    );
    assert!(before.len() > our.len());
}

fn random(oracle: &Oracle, count: usize, home: &Path) -> Vec<PathBuf> {
    let seed = std::env::var("LOGSTEAD_SEED").unwrap_or_else(|_| "77".to_owned());
    println!("replay with LOGSTEAD_SEED={seed}");
    let dir = home.join("random");
    oracle.ask(["random", &count.to_string(), "--seed", &seed], std::slice::from_ref(&dir));
    // Where a time index is full, Kafka's cleaner gives up: "Attempt to append to a full time index".
    let full = |dir: &PathBuf| dir.to_str().unwrap().ends_with("-index-full");
    let dirs = subdirs(&dir).into_iter().filter(|dir| !full(dir)).map(|dir| dir.join("log"));
    let dirs: Vec<PathBuf> = dirs.collect();
    assert!(dirs.len() * 10 >= count * 9, "{}", dirs.len());
    dirs
}

#[test]
fn what_kafkas_cleaner_keeps_we_keep() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    compare(&oracle, &random(&oracle, 20, home.path()), home.path());
}

/// 212 of which 201 are compared.
const MANY: usize = 212;

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn what_kafkas_cleaner_keeps_we_keep_in_two_hundred_directories() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    compare(&oracle, &random(&oracle, MANY, home.path()), home.path());
}

#[test]
#[ignore = "takes up to a minute; .ci/soak calls it"]
fn what_the_cleaner_of_kafka_3_9_keeps_we_keep() {
    if std::env::var_os("LOGSTEAD_SOAK").is_none() {
        println!("skipped: takes a minute more; .ci/soak asks for it");
        return;
    }
    let Some(oracle) = Oracle::of_line("3.9") else { return };
    let home = tempfile::tempdir().unwrap();
    compare(&oracle, &random(&oracle, MANY, home.path()), home.path());
}
