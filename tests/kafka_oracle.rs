//! Kafka's verdict on what has a history on both sides: directories that it made and we went on with, checkpointed, or
//! searched by time, and segments of the old message formats.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips. Random directories are in `kafka_ours.rs` and
//! `kafka_theirs.rs`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

mod common;
#[allow(dead_code, unreachable_pub, reason = "a program, taken as a module: its main is not called here")]
#[path = "../examples/dump.rs"]
mod dump;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "common/stories.rs"]
mod stories;

use std::path::{Path, PathBuf};

use common::Random;
use logstead::{Acks, Record, Store};
use oracle::{Oracle, compare, named, partition_dirs, problems, unpacked};
use serde_json::Value;

fn record_lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains(r#""type":"record""#)).collect()
}

#[test]
fn every_random_directory_of_kafkas_reads_as_kafka_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let Some(home) = unpacked("random-40.tar.zst", home.path()) else { return };
    let logs = named(&home, "log");
    assert!(logs.len() > 30, "{}", logs.len());
    for log in &logs {
        let mut ours = Vec::new();
        assert_eq!(dump::dump(log, None, &mut ours).unwrap(), 0, "{}", log.display());
        let theirs = std::fs::read_to_string(log.with_file_name("expected.jsonl")).unwrap();
        assert_eq!(
            String::from_utf8(ours).unwrap().lines().collect::<Vec<_>>(),
            record_lines(&theirs),
            "{}",
            log.display()
        );
    }
}

// One difference is meant: Kafka searches one segment, the first whose youngest record is young enough, and answers
// "none" when what is young there lies below the start of the log; here the search goes on behind it.
#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn times_are_found_where_kafka_finds_them() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let Some(random) = unpacked("random-40.tar.zst", home.path()) else { return };
    let mut dirs = named(&random, "log");
    dirs.extend((0..16).map(|seed| stories::tell(seed).put(home.path())));
    let mut random = Random(7);
    let mut times = vec![0, 1, 1_600_000_000_000, i64::MAX - 1];
    for dir in &dirs {
        let mut ours = Vec::new();
        dump::dump(dir, None, &mut ours).unwrap();
        let ours = String::from_utf8(ours).unwrap();
        let lines: Vec<&str> = ours.lines().collect();
        for _ in 0..lines.len().min(6) {
            let record: Value =
                serde_json::from_str(lines[random.below(lines.len() as u64) as usize]).unwrap();
            let time = record["timestamp"].as_i64().unwrap() + random.below(3) as i64 - 1;
            times.push(time.max(0));
        }
    }
    let at = times.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let (mut compared, mut beyond) = (0, 0);
    let answers = oracle.ask(["times", "--at", &at], &dirs);
    let mut answers = answers.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).peekable();
    for dir in &dirs {
        let store = Store::open_read_only(dir).unwrap();
        let mut left: usize = times.len() * partition_dirs(dir).len();
        while left > 0 {
            left -= 1;
            let answer = answers.next().unwrap();
            let (topic, p) = answer["partition"].as_str().unwrap().rsplit_once('-').unwrap();
            let partition = store.topic(topic).unwrap().partition(p.parse().unwrap()).unwrap();
            let ours = partition.offset_for_time(answer["at"].as_i64().unwrap()).unwrap();
            match (answer["offset"].as_i64(), answer["timestamp"].as_i64()) {
                (Some(offset), Some(time)) => {
                    assert_eq!(ours, Some((offset, time)), "{}: {answer}", dir.display())
                }
                _ => {
                    let scanned = first_as_young(&partition, answer["at"].as_i64().unwrap());
                    assert_eq!(ours.map(|found| found.0), scanned, "{}: {answer}", dir.display());
                    beyond += usize::from(ours.is_some());
                }
            }
            compared += 1;
        }
    }
    assert_eq!(answers.next(), None);
    println!("{compared} times compared, {beyond} found beyond the one segment where Kafka looks");
}

/// What a scan finds; a marker counts, as for Kafka.
fn first_as_young(partition: &logstead::Partition, time: i64) -> Option<i64> {
    let mut at = partition.log_start_offset();
    loop {
        let records = partition.read(at, 1 << 20).unwrap();
        let mut found =
            records.batches().flat_map(|batch| batch.records()).filter(|r| r.timestamp_ms() >= time);
        if let Some(record) = found.find(|record| record.offset() >= partition.log_start_offset()) {
            return Some(record.offset());
        }
        at = records.next_offset()?;
    }
}

/// Appends to every partition of a directory, in two sittings; what `dump` then says.
fn continue_directory(dir: &Path) -> Vec<String> {
    for sitting in 0..2 {
        let store = Store::open(dir).unwrap();
        for name in store.topic_names().iter().filter(|name| !name.starts_with("__")) {
            let topic = store.topic(name).unwrap();
            for p in 0..topic.partitions() as i32 {
                let Ok(partition) = topic.partition(p) else { continue };
                for i in 0..3_i64 {
                    let time = 1_700_000_000_000 + i * 1_000 + sitting;
                    let value = vec![b'x'; 200];
                    let record = Record::to(&topic).key("ours").value(&value).timestamp_ms(time);
                    partition.append([record, record], None, Acks::All).unwrap();
                }
            }
        }
        store.close().unwrap();
    }
    let mut ours = Vec::new();
    assert_eq!(dump::dump(dir, None, &mut ours).unwrap(), 0, "{}", dir.display());
    String::from_utf8(ours).unwrap().lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn kafka_finds_nothing_wrong_in_its_own_directories_that_we_continued() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let Some(random) = unpacked("random-40.tar.zst", home.path()) else { return };
    let mut dirs = named(&random, "log");
    // Its topic has room for three index entries a segment. A directory does not say so, and a segment of ours with
    // more can not be closed under that setting.
    dirs.retain(|dir| !dir.to_str().unwrap().contains("index-full"));
    for broker in ["broker-3.9-clean", "broker-3.9-kill9", "broker-4.x-clean", "broker-4.x-kill9"] {
        let Some(home) = unpacked(&format!("{broker}.tar.zst"), home.path()) else { return };
        dirs.extend(named(&home, "data"));
    }
    let ours: Vec<Vec<String>> = dirs.iter().map(|dir| continue_directory(dir)).collect();
    let mut wrong = Vec::new();
    for (dir, verdict) in dirs.iter().zip(oracle.judge(&[], &dirs)) {
        if verdict["ok"] != true {
            wrong.push(format!("{}: {}", dir.display(), problems(&verdict)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), dirs.len(), wrong.join("\n"));
    for ((dir, ours), seen) in dirs.iter().zip(&ours).zip(oracle.view(&dirs)) {
        compare(&seen.records, ours).unwrap_or_else(|why| panic!("{}: {why}", dir.display()));
    }
}

/// Segments of formats 0 and 1 that Kafka wrote, and one that mixes them and is long enough for indexes.
fn old_segments() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/legacy");
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|extension| extension == "log"));
    names.sort();
    let mut segments: Vec<Vec<u8>> = names.iter().map(|name| std::fs::read(name).unwrap()).collect();
    let mut mixed = Vec::new();
    let mut moved = 0;
    for round in 0..100 {
        let name = names[round % names.len()].to_str().unwrap();
        // Inside of a wrapper of format 0 the offsets are true: they can not be moved.
        if name.contains("v0-") && !name.contains("none") {
            continue;
        }
        let mut segment = segments[round % names.len()].clone();
        let mut at = 0;
        while at < segment.len() {
            let offset = i64::from_be_bytes(segment[at..at + 8].try_into().unwrap()) + moved;
            segment[at..at + 8].copy_from_slice(&offset.to_be_bytes());
            at += 12 + u32::from_be_bytes(segment[at + 8..at + 12].try_into().unwrap()) as usize;
        }
        mixed.extend(segment);
        moved += 15;
    }
    assert!(mixed.len() > 8 * 4_096, "{} bytes: too few for an index", mixed.len());
    segments.push(mixed);
    segments
}

#[test]
fn kafka_finds_nothing_wrong_in_old_segments_that_we_recovered_and_continued() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut dirs = Vec::new();
    for (i, segment) in old_segments().iter().enumerate() {
        let dir = home.path().join(i.to_string());
        std::fs::create_dir_all(dir.join("t-0")).unwrap();
        std::fs::write(dir.join("t-0").join(format!("{:020}.log", 100)), segment).unwrap();
        dirs.push(dir);
    }
    // Records of format 0 have no kind of timestamp, which has no name here: theirs is -1.
    let theirs_as_ours = |line: &str| line.replace("NoTimestampType", "CreateTime");
    let mut before = Vec::new();
    for dir in &dirs {
        assert_eq!(dump::dump(dir, None, &mut before).unwrap(), 0, "{}", dir.display());
    }
    let view = || -> Vec<String> {
        let seen = oracle.view(&dirs).into_iter().flat_map(|seen| seen.records);
        seen.map(|line| theirs_as_ours(&line)).collect()
    };
    let theirs = view();
    assert!(theirs.len() > 12 * 12, "{}", theirs.len());
    assert_eq!(String::from_utf8(before).unwrap().lines().collect::<Vec<_>>(), theirs);

    let ours = dirs.iter().map(|dir| continue_directory(dir)).collect::<Vec<_>>().concat();
    for (dir, verdict) in dirs.iter().zip(oracle.judge(&[], &dirs)) {
        assert_eq!(verdict["ok"], true, "{}: {}", dir.display(), problems(&verdict));
    }
    assert_eq!(ours, view());
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn verify_finds_nothing_wrong_in_kafkas_directories_and_checkpoints_of_them_hold_the_same() {
    let home = tempfile::tempdir().unwrap();
    let Some(random) = unpacked("random-40.tar.zst", home.path()) else { return };
    let mut dirs = named(&random, "log");
    for broker in ["broker-3.9-clean", "broker-3.9-kill9", "broker-4.x-clean", "broker-4.x-kill9"] {
        let Some(home) = unpacked(&format!("{broker}.tar.zst"), home.path()) else { return };
        dirs.extend(named(&home, "data"));
    }
    let mut batches = 0;
    for (i, dir) in dirs.iter().enumerate() {
        let report = Store::verify(dir).unwrap();
        assert!(report.is_sound() && report.unchecked.is_empty(), "{}: {report}", dir.display());
        batches += report.batches;
        let copy = home.path().join(format!("copy-{i}"));
        let store = Store::open(dir).unwrap();
        let done = store.checkpoint(&copy).unwrap();
        assert_eq!(store.checkpoint(&copy).unwrap().bytes_copied, 0, "{}: {done}", dir.display());
        let report = Store::verify(&copy).unwrap();
        assert!(report.is_sound(), "{}: {report}", copy.display());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        assert_eq!(dump::dump(dir, None, &mut theirs).unwrap(), 0);
        assert_eq!(dump::dump(&copy, None, &mut ours).unwrap(), 0);
        assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(theirs).unwrap(), "{}", dir.display());
        store.close().unwrap();
    }
    assert!(batches > 1_000, "{batches}");
}
