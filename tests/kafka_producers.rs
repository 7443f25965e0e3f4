//! Producers and transactions, judged by Kafka: directories that real brokers and Kafka's own log made show the same
//! producers and the same committed records here, with their indexes and snapshots or without; and what this crate
//! writes of them is what Kafka writes for the same batches.
//!
//! Needs `../shared` beside the crate, and what writes with Kafka the oracle, see `tests/common/oracle.rs`; says so
//! when it skips.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

#[path = "common/oracle.rs"]
mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use logstead::{
    ConsumerConfig, IsolationLevel, ManualClock, ProducerConfig, Record, Store, StoreOptions, TopicConfig,
};
use oracle::{Oracle, unpacked};
use serde_json::{Value, json};

// ───────── what Kafka wrote

/// A directory, and what Kafka found in it.
struct Golden {
    dir: PathBuf,
    expected: Vec<Value>,
    now: u64,
}

/// All directories of an archive that hold one called `name`, with what was expected of them.
fn goldens(home: &Path, name: &str) -> Vec<Golden> {
    let mut found = Vec::new();
    let mut dirs = vec![home.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                if entry.file_name() == name { found.push(entry.path()) } else { dirs.push(entry.path()) }
            }
        }
    }
    found.sort();
    let golden = |dir: PathBuf| {
        let expected = std::fs::read_to_string(dir.with_file_name("expected.jsonl")).unwrap();
        let settings = std::fs::read_to_string(dir.with_file_name(format!("{name}.oracle.json"))).unwrap();
        let settings: Value = serde_json::from_str(&settings).unwrap();
        Golden {
            expected: expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            now: settings["now"].as_u64().unwrap_or(1_700_000_000_000),
            dir,
        }
    };
    found.into_iter().map(golden).collect()
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let copy = Command::new("cp").args(["-a", "--sparse=always"]).arg(from.join(".")).arg(to).status();
    assert!(copy.unwrap().success());
}

/// Removes the files whose names end so, in all partitions.
fn remove(dir: &Path, suffix: &str) -> usize {
    let mut removed = 0;
    for partition in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        for file in std::fs::read_dir(&partition).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if file.to_str().unwrap().ends_with(suffix) {
                std::fs::remove_file(file).unwrap();
                removed += 1;
            }
        }
    }
    removed
}

fn options(golden: &Golden) -> StoreOptions {
    Store::options().clock(ManualClock::new(golden.now))
}

/// What a read-committed consumer of a partition gets.
fn committed(store: &Store, topic: &str, partition: i32) -> Vec<(i64, Option<Vec<u8>>)> {
    let config = ConsumerConfig::default().isolation_level(IsolationLevel::ReadCommitted);
    let mut consumer = store.consumer_with(config).unwrap();
    consumer.assign([(topic, partition)]).unwrap();
    consumer.seek_to_beginning().unwrap();
    let mut found = Vec::new();
    loop {
        let before = consumer.position(topic, partition).unwrap();
        for record in &consumer.poll(Duration::ZERO).unwrap() {
            found.push((record.offset(), record.value().map(<[u8]>::to_vec)));
        }
        if consumer.position(topic, partition).unwrap() == before {
            return found;
        }
    }
}

/// Compares a store with what Kafka found. Returns how many aborted records and producers there were.
fn compare(store: &Store, golden: &Golden, why: &str) -> (usize, usize) {
    let (mut aborted, mut producers) = (0, 0);
    let mut wanted: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for line in golden.expected.iter().filter(|line| line["type"] == "record") {
        if line["committed"] == true {
            let partition = line["partition"].as_str().unwrap().to_owned();
            wanted.entry(partition).or_default().push(line["offset"].as_i64().unwrap());
        } else {
            aborted += 1;
        }
    }
    for line in golden.expected.iter().filter(|line| line["type"] == "partition") {
        let name = line["partition"].as_str().unwrap();
        let (topic, p) = name.rsplit_once('-').unwrap();
        let p: i32 = p.parse().unwrap();
        let why = format!("{why}, {name} of {}", golden.dir.display());
        let partition = store.topic(topic).unwrap().partition(p).unwrap();
        assert_eq!(partition.last_stable_offset().unwrap(), line["last_stable_offset"], "{why}");
        let found: Vec<i64> = committed(store, topic, p).into_iter().map(|(offset, _)| offset).collect();
        assert_eq!(found, wanted.remove(name).unwrap_or_default(), "{why}");
        let Some(known) = line["producers"].as_array() else { continue };
        let ours = store.describe_producers(topic, p).unwrap();
        let mut known: Vec<&Value> = known.iter().collect();
        known.sort_by_key(|producer| producer["producer_id"].as_i64());
        assert_eq!(ours.len(), known.len(), "{why}: {ours:?}");
        for (ours, theirs) in ours.iter().zip(known) {
            let last = theirs["batches"].as_array().unwrap().last();
            let last = |field: &str| last.map_or(-1, |last| last[field].as_i64().unwrap());
            assert_eq!(ours.producer_id, theirs["producer_id"], "{why}");
            assert_eq!(i64::from(ours.producer_epoch), theirs["producer_epoch"], "{why}");
            assert_eq!(i64::from(ours.coordinator_epoch.unwrap_or(-1)), theirs["coordinator_epoch"], "{why}");
            assert_eq!(ours.last_timestamp_ms, theirs["last_timestamp"], "{why}");
            assert_eq!(ours.current_transaction_start_offset, theirs["current_txn_first_offset"].as_i64());
            assert_eq!(i64::from(ours.last_sequence), last("last_sequence"), "{why}");
            assert_eq!(ours.last_offset, last("last_offset"), "{why}");
            producers += 1;
        }
    }
    (aborted, producers)
}

/// Each directory as it is, read-only and for writing, then without what says who the producers are.
fn kafka_and_we_agree(goldens: &[Golden], home: &Path) -> (usize, usize) {
    let (mut aborted, mut producers) = (0, 0);
    for (i, golden) in goldens.iter().enumerate() {
        let reader = options(golden).open_read_only(&golden.dir).unwrap();
        let found = compare(&reader, golden, "read-only");
        (aborted, producers) = (aborted + found.0, producers + found.1);
        for (round, gone) in [None, Some(".snapshot"), Some(".txnindex")].into_iter().enumerate() {
            let dir = home.join(format!("{i}-{round}"));
            copied(&golden.dir, &dir);
            if let Some(gone) = gone {
                remove(&dir, gone);
                // As after a crash, with nothing proven: then neither is believed to be all there is.
                for file in [".kafka_cleanshutdown", "recovery-point-offset-checkpoint"] {
                    let _ = std::fs::remove_file(dir.join(file));
                }
            }
            let golden = Golden { dir, expected: golden.expected.clone(), now: golden.now };
            for again in ["opened", "opened again"] {
                let store = options(&golden).open(&golden.dir).unwrap();
                compare(&store, &golden, &format!("{again} without {gone:?}"));
                store.close().unwrap();
            }
            std::fs::remove_dir_all(golden.dir).unwrap();
        }
    }
    (aborted, producers)
}

#[test]
fn random_directories_of_kafkas_have_the_same_producers_and_committed_records() {
    let home = tempfile::tempdir().unwrap();
    let Some(random) = unpacked("random-40.tar.zst", home.path()) else { return };
    let (aborted, producers) = kafka_and_we_agree(&goldens(&random, "log"), home.path());
    println!("{aborted} records are not committed, {producers} producers known");
    assert!(aborted > 10 && producers > 10, "{aborted} {producers}");
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn directories_of_brokers_have_the_same_producers_and_committed_records() {
    let home = tempfile::tempdir().unwrap();
    let mut all = (0, 0);
    for broker in ["broker-3.9-clean", "broker-3.9-kill9", "broker-4.x-clean", "broker-4.x-kill9"] {
        let Some(dir) = unpacked(&format!("{broker}.tar.zst"), home.path()) else { return };
        let found = kafka_and_we_agree(&goldens(&dir, "data"), home.path());
        all = (all.0 + found.0, all.1 + found.1);
    }
    println!("{} records are not committed", all.0);
    assert!(all.0 > 10, "{all:?}");
}

// ───────── what we write

/// One batch as it lies in a `.log`, as an operation for Kafka.
fn operation(batch: &[u8]) -> Value {
    let number = |at: usize, len: usize| {
        let mut bytes = [if batch[at] & 0x80 != 0 { 0xff } else { 0 }; 8];
        bytes[8 - len..].copy_from_slice(&batch[at..at + len]);
        i64::from_be_bytes(bytes)
    };
    assert_eq!(number(21, 2), 0, "an ordinary batch");
    let base_timestamp = number(27, 8);
    let mut rest = &batch[61..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let len = varint(&mut rest) as usize;
        let (mut record, behind) = rest.split_at(len);
        rest = behind;
        record = &record[1..];
        let timestamp = base_timestamp + varint(&mut record);
        let _offset = varint(&mut record);
        let (key, value) = (field(&mut record), field(&mut record));
        assert_eq!(varint(&mut record), 0, "no headers");
        records.push(json!({"timestamp": timestamp, "key": key, "value": value}));
    }
    json!({
        "op": "append", "records": records, "producer_id": number(43, 8), "producer_epoch": number(51, 2),
        "base_sequence": number(53, 4),
    })
}

fn varint(bytes: &mut &[u8]) -> i64 {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (value >> 1) as i64 ^ -((value & 1) as i64);
        }
    }
}

fn field(record: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(varint(record)).ok()?;
    let (field, rest) = record.split_at(len);
    *record = rest;
    Some(base64(field))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { digit.into() } else { '=' });
        }
    }
    text
}

fn files(dir: &Path, suffix: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let files = entries.filter(|path| name(path).ends_with(suffix));
    files.map(|path| (name(&path), std::fs::read(&path).unwrap())).collect()
}

/// The batches of a partition, in order.
fn batches(dir: &Path) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    for bytes in files(dir, ".log").values() {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = 12 + u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
            batches.push(rest[..len].to_vec());
            rest = &rest[len..];
        }
    }
    batches
}

/// Version, and the entries as a set: their order is that of a hash map.
fn entries(snapshot: &[u8]) -> (Vec<u8>, BTreeSet<Vec<u8>>) {
    let entries = snapshot[10..].chunks(46).map(<[u8]>::to_vec).collect();
    ([&snapshot[..2], &snapshot[6..10]].concat(), entries)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

const SEGMENT_BYTES: u64 = 6_000;
const NOW: u64 = 1_700_000_000_000;

/// Several producers, some with a name that is opened again, write in one to three sittings. How many batches there
/// were at the end of each.
fn write_store(seed: u64, dir: &Path) -> Vec<usize> {
    let mut random = Random(seed);
    let clock = ManualClock::new(NOW);
    let mut ends = Vec::new();
    for sitting in 0..1 + random.below(3) {
        let store = Store::options().clock(clock.clone()).open(dir).unwrap();
        if sitting == 0 {
            store.create_topic("t", TopicConfig::default().segment_bytes(SEGMENT_BYTES)).unwrap();
        }
        let config = || ProducerConfig::default().batch_size(600).linger_ms(0);
        let mut producers: Vec<_> =
            (0..1 + random.below(4)).map(|_| store.producer_with(config()).unwrap()).collect();
        let names = ["import", "other"];
        producers.extend(names.map(|name| store.producer_with(config().producer_name(name)).unwrap()));
        for i in 0..30 + random.below(60) {
            let at = random.below(producers.len() as u64) as usize;
            for _ in 0..1 + random.below(6) {
                let value = vec![b'v'; random.below(200) as usize];
                let record = Record::to("t").value(&value).timestamp_ms((NOW + i) as i64);
                producers[at].send(record).unwrap();
            }
            producers[at].flush().unwrap();
            let last = producers.len() - 1;
            if random.below(15) == 0 {
                producers[last] = store.producer_with(config().producer_name("other")).unwrap();
            }
        }
        drop(producers);
        store.close().unwrap();
        ends.push(batches(&dir.join("t-0")).len());
    }
    ends
}

#[test]
fn snapshots_are_those_that_kafka_writes_for_the_same_batches() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for seed in 0..6 {
        println!("seed {seed}");
        let (ours, theirs) =
            (home.path().join(format!("ours-{seed}")), home.path().join(format!("kafka-{seed}")));
        let ends = write_store(seed, &ours);
        let ours = ours.join("t-0");
        let metadata = std::fs::read_to_string(ours.join("partition.metadata")).unwrap();
        let id = metadata.rsplit(' ').next().unwrap().trim();
        let config = json!({"segment.bytes": SEGMENT_BYTES.to_string()});
        let open =
            json!({"op": "open", "topic": "t", "partition": 0, "topic_id": id, "config": config}).to_string();
        let mut spec = vec![json!({"op": "store", "now": NOW}).to_string(), open.clone()];
        for (i, batch) in batches(&ours).iter().enumerate() {
            if ends.contains(&i) && i > 0 {
                spec.extend([json!({"op": "close"}).to_string(), open.clone()]);
            }
            spec.push(operation(batch).to_string());
        }
        spec.push(json!({"op": "close"}).to_string());
        let file = home.path().join(format!("{seed}.jsonl"));
        std::fs::write(&file, spec.join("\n")).unwrap();
        oracle.ask(["write".as_ref(), file.as_os_str()], std::slice::from_ref(&theirs));
        let theirs = theirs.join("t-0");
        let (our_log, their_log) = (files(&ours, ".log"), files(&theirs, ".log"));
        assert_eq!(our_log.keys().collect::<Vec<_>>(), their_log.keys().collect::<Vec<_>>());
        assert!(our_log == their_log, "seed {seed}: the batches differ");
        let (our, their) = (files(&ours, ".snapshot"), files(&theirs, ".snapshot"));
        assert_eq!(our.keys().collect::<Vec<_>>(), their.keys().collect::<Vec<_>>(), "seed {seed}");
        for (name, bytes) in &our {
            assert_eq!(entries(bytes), entries(&their[name]), "seed {seed}: {name}");
            compared += entries(bytes).1.len();
        }
        assert!(our.len() > 2, "{our:?}");
    }
    assert!(compared > 50, "{compared}");
}
