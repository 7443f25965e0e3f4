//! Segments that brokers before 0.11 wrote, in message formats 0 and 1: read in every way, recovered, never written.
//!
//! `tests/legacy/` holds segments that Kafka 3.9 wrote with `Legacy.java`, and what Kafka reads in them. The others are
//! made here, from the words of the format.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test lays files out as a broker does")]

mod common;

use std::io::Write;
use std::path::Path;

use common::Random;
use logstead::{
    Acks, Compression, ErrorKind, Maintenance, ManualClock, Partition, Record, RecoveryEvent, SimDisk, Store,
};

const T: i64 = 1_700_000_000_000;

/// A record as it was put in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

// ───────── writing, from the words of the format

fn message(magic: u8, attributes: u8, record: &Owned) -> Vec<u8> {
    let mut body = vec![magic, attributes];
    if magic > 0 {
        body.extend(record.timestamp.to_be_bytes());
    }
    for field in [&record.key, &record.value] {
        body.extend(field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
        body.extend(field.iter().flatten());
    }
    let mut bytes = record.offset.to_be_bytes().to_vec();
    bytes.extend((body.len() as i32 + 4).to_be_bytes());
    bytes.extend(crc32fast::hash(&body).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn packed(magic: u8, codec: Compression, plain: &[u8]) -> Vec<u8> {
    match codec {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Snappy => {
            let block = snap::raw::Encoder::new().compress_vec(plain).unwrap();
            if magic == 0 {
                return block; // as clients that are not Java's
            }
            let mut stream = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
            stream.extend((block.len() as u32).to_be_bytes());
            stream.extend(block);
            stream
        }
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain).unwrap();
            let mut frame = encoder.finish().unwrap();
            if magic == 0 {
                frame[6] ^= 0x98;
            }
            frame
        }
        codec => panic!("{codec} is no old codec"),
    }
}

/// Records as they lie in a segment: one by one, or in a wrapper.
fn stored(magic: u8, codec: Compression, append_time: Option<i64>, records: &[Owned]) -> Vec<u8> {
    let kind = if append_time.is_some() { 0x08 } else { 0 };
    if codec == Compression::None {
        let one = |record: &Owned| message(magic, kind, record);
        return records.iter().flat_map(one).collect();
    }
    let first = if magic == 0 { 0 } else { records[0].offset };
    let inner = |r: &Owned| message(magic, 0, &Owned { offset: r.offset - first, ..r.clone() });
    let run: Vec<u8> = records.iter().flat_map(inner).collect();
    let youngest = append_time.or(records.iter().map(|r| r.timestamp).max()).unwrap();
    let outer = Owned {
        offset: records.last().unwrap().offset,
        timestamp: youngest,
        key: None,
        value: Some(packed(magic, codec, &run)),
    };
    message(magic, kind | codec.id(), &outer)
}

const OLD_CODECS: [Compression; 4] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4];

/// Some sets of records of all formats and codecs, from offset `next` on.
fn old_segment(random: &mut Random, sets: u64, mut next: i64) -> (Vec<u8>, Vec<Owned>) {
    let (mut bytes, mut all) = (Vec::new(), Vec::new());
    for _ in 0..sets {
        let magic = random.below(2) as u8;
        let codec = OLD_CODECS[random.below(4) as usize];
        let append_time = (magic == 1 && random.one_in(4)).then(|| T + all.len() as i64);
        let mut records = Vec::new();
        for _ in 0..random.below(6) + 1 {
            // A gap now and then, as compaction leaves it.
            next += random.below(4) as i64 / 3;
            let timestamp = if magic == 0 { -1 } else { T + all.len() as i64 + random.below(5) as i64 };
            let field = |random: &mut Random, len| {
                (!random.one_in(5)).then(|| common::value(7, next as u64, random.below(len) as usize))
            };
            let (key, value) = (field(random, 10), field(random, 300));
            records.push(Owned { offset: next, timestamp, key, value });
            next += 1;
        }
        if let Some(time) = append_time.filter(|_| codec == Compression::None) {
            records.iter_mut().for_each(|record| record.timestamp = time);
        }
        bytes.extend(stored(magic, codec, append_time, &records));
        if let Some(time) = append_time {
            records.iter_mut().for_each(|record| record.timestamp = time);
        }
        all.extend(records);
    }
    (bytes, all)
}

// ───────── reading

/// A broker's directory with one segment, left by a stop that was not in order.
fn broker_disk(base: i64, segment: &[u8]) -> SimDisk {
    let disk = SimDisk::new(1);
    disk.write_file("/s/meta.properties", "version=1\nnode.id=1\ncluster.id=x\n").unwrap();
    disk.write_file(format!("/s/t-0/{base:020}.log"), segment).unwrap();
    disk
}

fn options() -> logstead::StoreOptions {
    Store::options().maintenance(Maintenance::Manual).clock(ManualClock::new(T as u64))
}

fn open(disk: &SimDisk) -> (Store, Partition) {
    let store = options().disk(disk).open("/s").unwrap();
    let partition = store.topic("t").unwrap().partition(0).unwrap();
    (store, partition)
}

fn owned(record: logstead::RecordRef<'_>) -> Owned {
    assert!(record.headers().is_empty());
    Owned {
        offset: record.offset(),
        timestamp: record.timestamp_ms(),
        key: record.key().map(<[u8]>::to_vec),
        value: record.value().map(<[u8]>::to_vec),
    }
}

/// What a reader finds from `at` on, stepping over damage.
fn read_from(partition: &Partition, mut at: i64) -> Vec<Owned> {
    let mut found = Vec::new();
    while at < partition.high_watermark() {
        at = match partition.read(at, 2_000) {
            Ok(records) => {
                found.extend(records.iter().map(owned));
                records.next_offset().unwrap_or(i64::MAX)
            }
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume_at, .. } => *resume_at,
                other => panic!("{other}"),
            },
        };
    }
    found
}

#[track_caller]
fn assert_same(found: &[Owned], expected: &[Owned], which: &str) {
    if let Some(i) = (0..found.len().max(expected.len())).find(|i| found.get(*i) != expected.get(*i)) {
        panic!("{which}: record {i} is {:?}, not {:?}", found.get(i), expected.get(i));
    }
}

/// All ways to read agree with what was put in.
fn check_all(partition: &Partition, all: &[Owned]) {
    assert_same(&read_from(partition, partition.log_start_offset()), all, "scan");
    let end = partition.high_watermark();
    assert_eq!(end, all.last().unwrap().offset + 1);
    for offset in all[0].offset..end {
        let expected = all.iter().find(|record| record.offset == offset);
        let found = partition.get(offset).unwrap();
        assert_eq!(found.as_ref().map(|found| owned(found.record())).as_ref(), expected, "get {offset}");
        let found = partition.read(offset, 1).unwrap();
        let expected = all.iter().find(|record| record.offset >= offset);
        assert_eq!(found.iter().next().map(owned).as_ref(), expected, "read {offset}");
    }
    for time in all.iter().map(|record| record.timestamp).chain([-1, 0, T, i64::MAX]) {
        let expected = all.iter().find(|record| record.timestamp >= time).map(|r| (r.offset, r.timestamp));
        assert_eq!(partition.offset_for_time(time).unwrap(), expected, "time {time}");
    }
}

// ───────── what Kafka wrote

/// The lines beside a segment: `batch` lines, and records as `offset timestamp key value`.
fn as_kafka_reads(text: &str) -> (Vec<Owned>, Vec<(i64, i64)>) {
    let (mut records, mut batches) = (Vec::new(), Vec::new());
    let field = |text: &str| (text != "null").then(|| text.trim_matches('"').as_bytes().to_vec());
    for line in text.lines() {
        if let Some(batch) = line.strip_prefix("batch ") {
            let mut numbers = batch.split(' ').map(|number| number.parse().unwrap());
            batches.push((numbers.next().unwrap(), numbers.next().unwrap()));
            continue;
        }
        let mut parts = line.splitn(4, ' ');
        let (offset, timestamp) = (parts.next().unwrap(), parts.next().unwrap());
        records.push(Owned {
            offset: offset.parse().unwrap(),
            timestamp: timestamp.parse().unwrap(),
            key: field(parts.next().unwrap()),
            value: field(parts.next().unwrap()),
        });
    }
    (records, batches)
}

fn fixtures() -> Vec<(String, Vec<u8>, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/legacy");
    let mut found = Vec::new();
    for magic in ["v0", "v1"] {
        for codec in ["none", "gzip", "snappy", "lz4"] {
            for kind in ["", "-append"] {
                if magic == "v0" && !kind.is_empty() {
                    continue;
                }
                let name = format!("{magic}-{codec}{kind}");
                let log = std::fs::read(dir.join(format!("{name}.log"))).unwrap();
                let text = std::fs::read_to_string(dir.join(format!("{name}.txt"))).unwrap();
                found.push((name, log, text));
            }
        }
    }
    assert_eq!(found.len(), 12);
    found
}

#[test]
fn segments_that_kafka_wrote_read_as_kafka_reads_them() {
    for (name, log, text) in fixtures() {
        let (records, batches) = as_kafka_reads(&text);
        assert_eq!(records.len(), 12, "{name}");
        let disk = broker_disk(100, &log);
        let before = disk.content_hash();
        let store = options().disk(&disk).open_read_only("/s").unwrap();
        check_all(&store.topic("t").unwrap().partition(0).unwrap(), &records);
        assert_eq!(disk.content_hash(), before, "{name}: a read-only open changed something");

        let report = options().disk(&disk).verify("/s").unwrap();
        assert_eq!((report.records, report.batches), (12, batches.len() as u64), "{name}: {report}");
        assert!(report.damaged.is_empty() && report.unchecked.is_empty(), "{name}: {report}");

        let (store, partition) = open(&disk);
        assert!(store.recovery_report().partitions.is_empty(), "{name}: {}", store.recovery_report());
        check_all(&partition, &records);
        let read = partition.read(100, 1 << 20).unwrap();
        let found: Vec<_> = read.batches().map(|batch| (batch.base_offset(), batch.last_offset())).collect();
        assert_eq!(found, batches, "{name}");
        let mut consumer = store.consumer().unwrap();
        consumer.assign_all(["t"]).unwrap();
        consumer.seek_to_beginning().unwrap();
        let polled = consumer.poll(std::time::Duration::ZERO).unwrap();
        assert_eq!(polled.iter().map(owned).collect::<Vec<_>>(), records, "{name}");
        store.close().unwrap();
    }
}

// ───────── what is made here

#[test]
fn a_log_of_all_formats_is_found_by_offset_and_time_whoever_made_its_indexes() {
    let seed = common::seed();
    let mut random = Random(seed);
    let (segment, mut all) = old_segment(&mut random, 120, 1_000);
    assert!(segment.len() > 4 * 4_096, "{} bytes: too few for an index", segment.len());
    let disk = broker_disk(1_000, &segment);
    let (store, partition) = open(&disk);
    check_all(&partition, &all);
    // The broker was upgraded: what is new is of format 2, in the same segment.
    let topic = store.topic("t").unwrap();
    for i in 0..5 {
        let offset = all.last().unwrap().offset + 1;
        let record = Record::to(&topic).value("new").timestamp_ms(T + 10_000 + i);
        let receipt = partition.append([record], Some(offset), Acks::All).unwrap();
        assert_eq!(receipt.offsets, offset..offset + 1);
        all.push(Owned { offset, timestamp: T + 10_000 + i, key: None, value: Some(b"new".to_vec()) });
    }
    check_all(&partition, &all);
    store.close().unwrap();
    let log = disk.read_file(format!("/s/t-0/{:020}.log", 1_000)).unwrap();
    assert_eq!(log[..segment.len()], segment, "old bytes stay as they are");
    // With the indexes just made, and without.
    for remake in [false, true] {
        let disk = disk.kill();
        if remake {
            for name in ["index", "timeindex"] {
                disk.write_file(format!("/s/t-0/{:020}.{name}", 1_000), [0; 24]).unwrap();
            }
        }
        let (_store, partition) = open(&disk);
        check_all(&partition, &all);
    }
}

#[test]
fn old_segments_that_are_closed_are_read_through_their_indexes_too() {
    let seed = common::seed();
    let mut random = Random(seed);
    let (first, mut all) = old_segment(&mut random, 80, 0);
    let base = all.last().unwrap().offset + 3;
    let (second, more) = old_segment(&mut random, 80, base);
    all.extend(more);
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join("t-0");
    std::fs::create_dir(&part).unwrap();
    std::fs::write(part.join(format!("{:020}.log", 0)), first).unwrap();
    std::fs::write(part.join(format!("{base:020}.log")), second).unwrap();
    for _ in 0..3 {
        let store = options().open(dir.path()).unwrap();
        check_all(&store.topic("t").unwrap().partition(0).unwrap(), &all);
        store.close().unwrap();
    }
}

#[test]
fn a_torn_end_is_cut_behind_the_last_whole_message() {
    for (magic, codec) in
        [(0, Compression::None), (1, Compression::None), (0, Compression::Gzip), (1, Compression::Snappy)]
    {
        let record = |offset| {
            let timestamp = if magic == 0 { -1 } else { T };
            Owned { offset, timestamp, key: None, value: Some(vec![b'v'; 5]) }
        };
        let (front, back) = ([record(0), record(1)], [record(2), record(3)]);
        let front_bytes = stored(magic, codec, None, &front);
        let whole = [front_bytes.clone(), stored(magic, codec, None, &back)].concat();
        for len in front_bytes.len() + 1..whole.len() {
            let disk = broker_disk(0, &whole[..len]);
            let (store, partition) = open(&disk);
            let found = read_from(&partition, 0);
            assert!(found.len() == 2 || codec == Compression::None && found.len() == 3, "{len}: {found:?}");
            assert_eq!(found, [front.clone(), back.clone()].concat()[..found.len()]);
            let cut = disk.read_file(format!("/s/t-0/{:020}.log", 0)).unwrap();
            assert_eq!(cut, whole[..cut.len()]);
            let report = store.recovery_report();
            let told = report.partitions.iter().flat_map(|p| &p.events);
            let told: Vec<_> = told.filter(|event| matches!(event, RecoveryEvent::TailCut { .. })).collect();
            assert_eq!(told.is_empty(), cut.len() == len, "{len}: {report}");
            let topic = store.topic("t").unwrap();
            let end = partition.log_end_offset();
            partition.append([Record::to(&topic).value("new")], Some(end), Acks::All).unwrap();
            store.close().unwrap();
            assert_eq!(read_from(&open(&disk).1, 0).len(), found.len() + 1);
        }
    }
}

#[test]
fn rot_is_never_returned_and_what_lies_around_it_is_read() {
    for (name, log, text) in fixtures() {
        let (records, batches) = as_kafka_reads(&text);
        // A second segment, so that the first can not end in a torn tail.
        let next = records.last().unwrap().offset + 1;
        let after = Owned { offset: next, timestamp: -1, key: None, value: Some(b"after".to_vec()) };
        let second = stored(0, Compression::None, None, std::slice::from_ref(&after));
        let mut starts = Vec::new();
        let mut at = 0;
        while at < log.len() {
            starts.push(at);
            at += 12 + u32::from_be_bytes(log[at + 8..at + 12].try_into().unwrap()) as usize;
        }
        assert_eq!(starts.len(), batches.len(), "{name}");
        // Kafka's checksum leaves the offset out, and a wrong one may look right.
        for byte in
            (0..log.len()).filter(|byte| starts.iter().all(|start| !(*start..start + 8).contains(byte)))
        {
            let hit = batches[starts.partition_point(|start| *start <= byte) - 1];
            let mut rotten = log.clone();
            // The highest bit of the format makes it one that is no damage: see below.
            rotten[byte] ^= 1 << (byte % 7);
            let disk = broker_disk(100, &rotten);
            disk.write_file(format!("/s/t-0/{next:020}.log"), &second).unwrap();
            disk.write_file("/s/recovery-point-offset-checkpoint", format!("0\n1\nt 0 {next}\n")).unwrap();
            let clean = byte % 2 == 0;
            if clean {
                disk.write_file("/s/.kafka_cleanshutdown", "").unwrap();
            }
            let report = options().disk(&disk).verify("/s").unwrap();
            // The indexes are missing too.
            let rot =
                report.damaged.iter().filter(|found| found.file.extension().is_some_and(|e| e == "log"));
            let starts_at: Vec<u64> = rot.map(|found| found.position).collect();
            assert_eq!(
                starts_at,
                [starts[starts.partition_point(|start| *start <= byte) - 1] as u64],
                "{report}"
            );
            let (_store, partition) = open(&disk);
            let found = read_from(&partition, 100);
            let mut expected = records.clone();
            expected.retain(|record| !(hit.0..=hit.1).contains(&record.offset));
            expected.push(after.clone());
            assert_same(&found, &expected, &format!("{name}, byte {byte}, clean {clean}"));
        }
    }
}

#[test]
fn an_error_says_the_first_offset_of_the_wrapper_behind_the_damage() {
    let record = |offset| Owned { offset, timestamp: T, key: None, value: Some(vec![b'v'; 20]) };
    for magic in [0, 1] {
        let set = |base: i64| {
            let records: Vec<_> = (base..base + 4).map(record).collect();
            stored(magic, Compression::Gzip, None, &records)
        };
        let mut log = [set(0), set(4), set(8)].concat();
        let middle = set(0).len() + 40;
        log[middle] ^= 1;
        let disk = broker_disk(0, &log);
        disk.write_file("/s/recovery-point-offset-checkpoint", "0\n1\nt 0 12\n").unwrap();
        let (_store, partition) = open(&disk);
        let error = partition.read(4, 1 << 20).unwrap_err();
        match error.kind() {
            ErrorKind::Corrupt { offsets, resume_at, .. } => {
                assert_eq!((offsets.clone(), *resume_at), (4..8, 8))
            }
            other => panic!("{other}"),
        }
        // Also when the read begins inside of the wrapper behind it.
        assert_eq!(partition.read(9, 1 << 20).unwrap().iter().next().unwrap().offset(), 9);
    }
}

#[test]
fn old_bytes_in_a_topic_of_ours_are_damage_and_other_formats_are_named() {
    let disk = SimDisk::new(1);
    let store = options().disk(&disk).open("/s").unwrap();
    store.create_topic("t", logstead::TopicConfig::default()).unwrap();
    store.close().unwrap();
    let record = Owned { offset: 0, timestamp: T, key: None, value: Some(b"old".to_vec()) };
    let path = format!("/s/t-0/{:020}.log", 0);
    disk.write_file(&path, message(1, 0, &record)).unwrap();
    let (_store, partition) = open(&disk.kill());
    assert_eq!(read_from(&partition, 0), []);

    let mut odd = message(1, 0, &record);
    odd.resize(100, 0);
    odd[16] = 0xff;
    let disk = broker_disk(0, &odd);
    disk.write_file("/s/t-0/00000000000000000050.log", message(1, 0, &Owned { offset: 50, ..record }))
        .unwrap();
    disk.write_file("/s/recovery-point-offset-checkpoint", "0\n1\nt 0 51\n").unwrap();
    let (_store, partition) = open(&disk);
    let error = partition.read(0, 1_000).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnsupportedMagic { magic: -1, .. }), "{error}");
}
