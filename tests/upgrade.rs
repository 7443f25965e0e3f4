//! Stores that a release wrote, kept as files: every later one opens them and finds the same records.
//!
//! `tests/fixtures/0.1/closed` was closed in order. `crashed` was left by a process that died: two partitions end in
//! the middle of a batch. Neither is ever made anew: a format that changes gets fixtures beside these. What must be in
//! them is computed here, by rule.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use logstead::{Acks, Durability, Partition, Record, Store};

/// Topic, partition, and how many records were committed there. In the store of the process that died there were so
/// many more, in two batches; the second one is torn in partition 0 of both topics.
const SENT: [(&str, i32, i64); 3] = [("orders", 0, 180), ("orders", 1, 75), ("clicks", 0, 135)];
const UNSYNCED: i64 = 10;

/// A sum over names and bytes of all files: nobody changed them.
const CLOSED_SUM: u32 = 0x5780_5791;
const CRASHED_SUM: u32 = 0x57aa_5b6b;

type Headers = Vec<(&'static str, Option<Vec<u8>>)>;
/// Time, key, value, headers.
type Parts = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Headers);

/// What was sent as a record.
fn expected(topic: &str, partition: i32, offset: i64) -> Parts {
    let time = 1_700_000_000_000 + offset * 1_000 + i64::from(partition);
    let key = (offset % 5 != 0).then(|| format!("key-{}", offset % 7).into_bytes());
    let word = format!("{topic}/{partition}/{offset} ");
    let value = (offset % 11 != 3).then(|| word.repeat((offset % 4 + 1) as usize).into_bytes());
    let headers: Headers = match offset % 3 {
        0 => vec![],
        1 => vec![("trace", Some(format!("id-{offset}").into_bytes())), ("empty", Some(vec![]))],
        _ => vec![("null", None), ("größe", Some(vec![0, 255, 10]))],
    };
    (time, key, value, headers)
}

fn headers_of(headers: &Headers) -> Vec<logstead::Header<'_>> {
    headers.iter().map(|(key, value)| logstead::Header { key, value: value.as_deref() }).collect()
}

fn record_of<'a>(topic: &'a str, parts: &'a Parts, headers: &'a [logstead::Header<'a>]) -> Record<'a> {
    let mut record = Record::to(topic).timestamp_ms(parts.0).headers(headers);
    if let Some(key) = &parts.1 {
        record = record.key(key);
    }
    if let Some(value) = &parts.2 {
        record = record.value(value);
    }
    record
}

/// Reads a partition from its start; returns how many records there are, each of which is as it was sent.
fn check(partition: &Partition) -> i64 {
    let (topic, number) = (partition.topic().name().to_owned(), partition.number());
    let mut next = 0;
    for records in partition.scan(0) {
        for record in &records.unwrap() {
            assert_eq!(record.offset(), next);
            let (time, key, value, headers) = expected(&topic, number, next);
            let found: Headers =
                record.headers().into_iter().map(|h| (name_of(h.key), h.value.map(<[u8]>::to_vec))).collect();
            assert_eq!(record.timestamp_ms(), time, "{topic}-{number} {next}");
            assert_eq!(record.key(), key.as_deref(), "{topic}-{number} {next}");
            assert_eq!(record.value(), value.as_deref(), "{topic}-{number} {next}");
            assert_eq!(found, headers, "{topic}-{number} {next}");
            next += 1;
        }
    }
    assert_eq!(next, partition.high_watermark());
    next
}

fn name_of(name: &str) -> &'static str {
    ["trace", "empty", "null", "größe"].into_iter().find(|known| *known == name).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0.1").join(name)
}

/// All files of a fixture by their paths in it, sorted.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                dirs.push(entry);
            } else {
                found.push((entry.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&entry).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn sum(files: &[(PathBuf, Vec<u8>)]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    for (path, bytes) in files {
        sum.update(path.to_str().unwrap().as_bytes());
        sum.update(bytes);
    }
    sum.finalize()
}

fn write(files: &[(PathBuf, Vec<u8>)], dir: &Path) {
    for (path, bytes) in files {
        std::fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        std::fs::write(dir.join(path), bytes).unwrap();
    }
}

/// The codecs of the batches in the `.log` files of a topic, by Kafka's numbers, from the bytes themselves.
fn codecs(files: &[(PathBuf, Vec<u8>)], topic: &str) -> BTreeSet<u8> {
    let mut codecs = BTreeSet::new();
    for (path, bytes) in files {
        if !path.starts_with(format!("{topic}-0")) || path.extension().is_none_or(|e| e != "log") {
            continue;
        }
        let mut rest = &bytes[..];
        while rest.len() > 61 && rest[16] == 2 {
            codecs.insert(rest[22] & 7);
            let size = 12 + u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
            rest = rest.get(size..).unwrap_or_default();
        }
    }
    codecs
}

/// All that must hold of a store in `dir`: opened read-only, then for writing, appended to, and opened again.
fn opens(dir: &Path, clean: bool) {
    let holds = |store: &Store, read_only: bool, more: i64| {
        for (topic, p, sent) in SENT {
            let torn = if p == 0 { UNSYNCED / 2 } else { UNSYNCED };
            // Whoever only reads a topic that is on the disk sees what is known to be there.
            let uncommitted = if clean || read_only && topic == "orders" { 0 } else { torn };
            let found = check(&store.topic(topic).unwrap().partition(p).unwrap());
            assert_eq!(found, sent + uncommitted + more, "{topic}-{p}");
        }
    };
    let report = Store::verify(dir).unwrap();
    assert!(report.is_sound() && report.unchecked.is_empty(), "{report}");
    let reader = Store::open_read_only(dir).unwrap();
    holds(&reader, true, 0);
    reader.close().unwrap();

    let store = Store::open(dir).unwrap();
    let found = store.recovery_report();
    assert_eq!(found.clean, clean);
    assert!(found.unreadable_files.is_empty(), "{found}");
    assert_eq!(found.partitions.is_empty(), clean, "{found}");
    assert!(!found.to_string().contains("damaged"), "{found}");
    assert_eq!(store.topic_names(), ["clicks", "orders"]);
    assert_eq!(store.topic("orders").unwrap().partitions(), 2);
    let settings = |topic: &str| store.topic(topic).unwrap().config().properties();
    assert!(settings("orders").contains(&("logstead.durability", Durability::Disk.to_string())));
    assert!(settings("clicks").contains(&("logstead.durability", Durability::PageCache.to_string())));
    assert!(settings("clicks").contains(&("segment.bytes", "2500".to_owned())));
    holds(&store, false, 0);
    for (topic, p, _) in SENT {
        let partition = store.topic(topic).unwrap().partition(p).unwrap();
        let end = partition.high_watermark();
        let (time, found) = partition.offset_for_time(expected(topic, p, 17).0).unwrap().unwrap();
        assert_eq!((time, found), (17, expected(topic, p, 17).0));
        let parts = expected(topic, p, end);
        let headers = headers_of(&parts.3);
        let record = record_of(topic, &parts, &headers);
        partition.append([record], Some(end), Acks::All).unwrap();
    }
    store.close().unwrap();
    let store = Store::open(dir).unwrap();
    assert!(store.recovery_report().clean);
    holds(&store, false, 1);
}

#[test]
fn a_store_written_by_0_1_opens_for_ever() {
    let home = tempfile::tempdir().unwrap();
    for (name, clean, expected_sum) in [("closed", true, CLOSED_SUM), ("crashed", false, CRASHED_SUM)] {
        let files = files(&fixture(name));
        assert_eq!(sum(&files), expected_sum, "the fixture {name} was changed");
        assert_eq!(codecs(&files, "orders"), BTreeSet::from([0, 3, 4]));
        assert_eq!(codecs(&files, "clicks"), BTreeSet::from([0, 3, 4]));
        let logs = files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log")).count();
        assert!(logs >= 9, "{logs} segments");
        write(&files, &home.path().join(name));
        opens(&home.path().join(name), clean);
    }
}

/// How the fixtures were made. They are written where `LOGSTEAD_FIXTURES` says, and nowhere else.
#[cfg(feature = "testing")]
mod make {
    use logstead::{Compression, ManualClock, Producer, ProducerConfig, SimDisk, StoreOptions, TopicConfig};

    use super::*;

    const DIR: &str = "/data";

    fn options(disk: &SimDisk, clock: &ManualClock) -> StoreOptions {
        Store::options().maintenance(logstead::Maintenance::Manual).clock(clock.clone()).disk(disk)
    }

    fn producers(store: &Store, acks: Acks) -> [Producer; 3] {
        [Compression::None, Compression::Lz4, Compression::Zstd].map(|codec| {
            let config = ProducerConfig::default().compression(codec).acks(acks).linger_ms(60_000);
            store.producer_with(config).unwrap()
        })
    }

    /// Five records a batch, each batch of another codec than the one before.
    fn send(producers: &[Producer; 3], topic: &str, partition: i32, offsets: std::ops::Range<i64>) {
        for offset in offsets {
            let parts = expected(topic, partition, offset);
            let headers = headers_of(&parts.3);
            let record = record_of(topic, &parts, &headers).partition(partition);
            let delivery = producers[(offset / 5 % 3) as usize].send(record).unwrap();
            if offset % 5 == 4 {
                delivery.wait().unwrap();
            }
        }
    }

    fn filled(disk: &SimDisk, clock: &ManualClock) -> Store {
        let store = options(disk, clock).open(DIR).unwrap();
        let config =
            TopicConfig::default().segment_bytes(2_500).index_interval_bytes(500).max_message_bytes(2_000);
        store.create_topic("orders", config.clone().partitions(2)).unwrap();
        store.create_topic("clicks", config.durability(Durability::PageCache)).unwrap();
        let producers = producers(&store, Acks::All);
        for (topic, partition, end) in SENT {
            send(&producers, topic, partition, 0..end);
        }
        store
    }

    /// The files after the death of the process in the middle of a write to two of the partitions.
    fn crashed(seed: u64) -> Vec<(PathBuf, Vec<u8>)> {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        let store = filled(&disk, &clock);
        let producers = producers(&store, Acks::Leader);
        for (topic, partition, end) in SENT {
            send(&producers, topic, partition, end..end + UNSYNCED);
        }
        let mut files = exported(&disk.kill());
        std::mem::forget(producers);
        std::mem::forget(store);
        for torn in ["orders-0", "clicks-0"] {
            let mut logs = files.iter_mut().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
            let (_, bytes) = logs.rfind(|(path, _)| path.starts_with(torn)).unwrap();
            bytes.truncate(bytes.len() - 40);
        }
        files
    }

    fn exported(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
        let files = disk.files().into_iter().filter(|file| !file.ends_with(".lock"));
        let mut files: Vec<_> = files
            .map(|file| (file.strip_prefix(DIR).unwrap().to_owned(), disk.read_file(&file).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn fixtures_made_now_would_do_as_well() {
        let home = tempfile::tempdir().unwrap();
        let dir = std::env::var_os("LOGSTEAD_FIXTURES").map_or_else(|| home.path().to_owned(), PathBuf::from);
        let (disk, clock) = (SimDisk::new(1), ManualClock::new(1_700_000_000_000));
        filled(&disk, &clock).close().unwrap();
        for (name, files, clean) in [("closed", exported(&disk), true), ("crashed", crashed(2), false)] {
            let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
            println!("{name}: {} files, {bytes} bytes, sum {:#010x}", files.len(), sum(&files));
            assert!(bytes < 32 * 1024);
            write(&files, &dir.join(name));
            write(&files, &home.path().join("opened").join(name));
            opens(&home.path().join("opened").join(name), clean);
        }
    }
}
