//! Log directories of real brokers, packed in `tests/golden`: read without Java, and found as Kafka's own clients found
//! them. Topics whose codec is not in the build are left out, and named.

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

use logstead::{Acks, ErrorKind, Record, Store};
use oracle::{Seen, workplace};
use reading::{as_kafka_saw_it, topics};

/// Unpacks one of the directories; what clients saw in it, as far as this build can read it.
fn golden(name: &str, into: &Path) -> (PathBuf, Seen) {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let unpacked = zstd::decode_all(&std::fs::read(packed).unwrap()[..]).unwrap();
    tar::Archive::new(&unpacked[..]).unpack(into).unwrap();
    let dir = into.join("data");
    let mut expected = Seen::of(&std::fs::read_to_string(into.join("expected.jsonl")).unwrap());
    let store = Store::open_read_only(&dir).unwrap();
    for topic in topics(&expected) {
        if let Some(codec) = missing_codec(&store, &topic) {
            println!("{name}: topic {topic} is left out: it needs the feature {codec}");
            let (field, of_it) = (format!(r#""partition":"{topic}-"#), format!("{topic}-"));
            expected.records.retain(|line| !line.contains(&field));
            expected.partitions.retain(|line| !line["partition"].as_str().unwrap().starts_with(&of_it));
            expected.times.retain(|line| !line["partition"].as_str().unwrap().starts_with(&of_it));
        }
    }
    (dir, expected)
}

fn missing_codec(store: &Store, topic: &str) -> Option<&'static str> {
    let topic = store.topic(topic).unwrap();
    (0..topic.partitions() as i32).find_map(|p| {
        let partition = topic.partition(p).unwrap();
        partition.scan(partition.log_start_offset()).find_map(|records| match records.err()?.kind() {
            ErrorKind::CodecMissing { codec } => Some(*codec),
            other => panic!("{topic:?}: {other}"),
        })
    })
}

const ALL: [&str; 2] = ["3.9.tar.zst", "4.x.tar.zst"];

#[test]
fn brokers_directories_hold_what_their_clients_saw() {
    for name in ALL {
        let home = workplace();
        let (dir, expected) = golden(name, home.path());
        // Topics of a codec that is not in the build are left out.
        let (partitions, records) =
            if cfg!(all(feature = "gzip", feature = "snappy")) { (10, 200) } else { (5, 50) };
        let found = (expected.partitions.len(), expected.records.len());
        assert!(found.0 > partitions && found.1 > records, "{name}: too little to compare: {found:?}");
        as_kafka_saw_it(&dir, &expected).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn offsets_are_found_by_time_as_brokers_find_them() {
    for name in ALL {
        let home = workplace();
        let (dir, expected) = golden(name, home.path());
        assert!(expected.times.len() > 20, "{name}: too few to compare");
        let store = Store::open_read_only(&dir).unwrap();
        for line in &expected.times {
            let (topic, number) = line["partition"].as_str().unwrap().rsplit_once('-').unwrap();
            let partition = store.topic(topic).unwrap().partition(number.parse().unwrap()).unwrap();
            let found = partition.offset_for_time(line["at"].as_i64().unwrap()).unwrap();
            let theirs = line["offset"].as_i64().zip(line["timestamp"].as_i64());
            // Kafka looks into one segment only: its "none" is not always right.
            if theirs.is_some() || topic.starts_with("empty") {
                assert_eq!(found, theirs, "{name}: {line}");
            }
        }
    }
}

#[test]
fn brokers_directories_go_on_here_behind_their_last_offsets() {
    for name in ALL {
        let home = workplace();
        let (dir, expected) = golden(name, home.path());
        let store = Store::open(&dir).unwrap();
        assert_eq!(store.recovery_report().clean, name.starts_with("3.9"), "{name}");
        for line in &expected.partitions {
            let (topic, number) = line["partition"].as_str().unwrap().rsplit_once('-').unwrap();
            let topic = store.topic(topic).unwrap();
            let partition = topic.partition(number.parse().unwrap()).unwrap();
            let end = line["log_end_offset"].as_i64().unwrap();
            let record = Record::to(&topic).key("ours").value("more").timestamp_ms(1_800_000_000_000);
            let receipt = partition.append([record], Some(end), Acks::All).unwrap();
            assert_eq!(receipt.offsets, end..end + 1);
        }
        store.close().unwrap();
        assert!(Store::verify(&dir).unwrap().is_sound());
        let store = Store::open(&dir).unwrap();
        for line in &expected.partitions {
            let (topic, number) = line["partition"].as_str().unwrap().rsplit_once('-').unwrap();
            let partition = store.topic(topic).unwrap().partition(number.parse().unwrap()).unwrap();
            let end = line["log_end_offset"].as_i64().unwrap();
            assert_eq!(partition.get(end).unwrap().unwrap().record().value(), Some(b"more".as_slice()));
        }
    }
}

#[test]
fn groups_stand_where_brokers_left_them() {
    for name in ALL {
        let home = workplace();
        let (dir, expected) = golden(name, home.path());
        assert!(expected.groups.len() > 5, "{name}: too few to compare");
        let store = Store::open(&dir).unwrap();
        for line in &expected.groups {
            let (group, topic) = (line["group"].as_str().unwrap(), line["topic"].as_str().unwrap());
            let partition = line["partition"].as_i64().unwrap();
            let committed = store.group(group).committed().unwrap();
            let of_it =
                |at: &logstead::TopicPartition| &*at.topic == topic && i64::from(at.partition) == partition;
            let found = committed.iter().find(|(at, _)| of_it(at)).map(|(_, value)| value);
            let found = found.map(|value| (value.offset, value.metadata.as_str()));
            assert_eq!(found, line["offset"].as_i64().zip(line["metadata"].as_str()), "{name}: {line}");
        }
    }
}
