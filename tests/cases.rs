//! Kafka's cases that a user of the whole store can see, by number. Those of one partition are in `src/log/tests.rs`.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

use std::path::Path;
use std::time::Duration;

use logstead::{
    Acks, Compression, Durability, ErrorKind, FaultKind, FaultOp, Maintenance, ManualClock, ProducerConfig,
    Record, SimDisk, Store, TimestampType, TopicConfig,
};

const ROOT: &str = "/s";
const MARK: &str = "/s/.kafka_cleanshutdown";

fn open(disk: &SimDisk) -> logstead::Result<Store> {
    Store::options().disk(disk).maintenance(Maintenance::Manual).open(ROOT)
}

fn open_at(disk: &SimDisk, clock: &ManualClock) -> Store {
    Store::options().disk(disk).maintenance(Maintenance::Manual).clock(clock.clone()).open(ROOT).unwrap()
}

fn append(store: &Store, topic: &str, values: &[&str]) {
    let topic = store.topic(topic).unwrap();
    let records = values.iter().map(|value| Record::to(&topic).value(value));
    topic.partition(0).unwrap().append(records, None, Acks::All).unwrap();
}

fn values(store: &Store, topic: &str) -> Vec<String> {
    let partition = store.topic(topic).unwrap().partition(0).unwrap();
    let (mut values, mut at) = (Vec::new(), partition.log_start_offset());
    loop {
        let records = partition.read(at, 1 << 20).unwrap();
        values.extend(records.iter().map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap()));
        match records.next_offset() {
            Some(next) => at = next,
            None => return values,
        }
    }
}

fn codecs() -> Vec<Compression> {
    let all =
        [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Snappy, Compression::Gzip];
    all.into_iter().filter(|codec| codec.is_built()).collect()
}

#[test]
fn e04_an_append_of_nothing_is_an_error_and_rolls_nothing() {
    let (disk, clock) = (SimDisk::new(1), ManualClock::new(1));
    let store = open_at(&disk, &clock);
    let topic = store.create_topic("t", TopicConfig::default().segment_ms(1_000)).unwrap();
    append(&store, "t", &["a"]);
    clock.advance(Duration::from_secs(3_600));
    let before = disk.files();
    let error = topic.partition(0).unwrap().append([], None, Acks::All).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidRecord { .. }), "{error}");
    assert_eq!(disk.files(), before);
}

#[test]
fn f08_null_is_read_back_as_null_and_empty_as_empty() {
    for codec in codecs() {
        let disk = SimDisk::new(1);
        let store = open(&disk).unwrap();
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        let producer = store.producer_with(ProducerConfig::default().compression(codec)).unwrap();
        let fields: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"x")];
        let pairs: Vec<_> = fields.iter().flat_map(|key| fields.map(|value| (*key, value))).collect();
        for (key, value) in &pairs {
            let mut record = Record::to(&topic).partition(0);
            if let Some(key) = key {
                record = record.key(*key);
            }
            if let Some(value) = value {
                record = record.value(*value);
            }
            producer.send(record).unwrap();
        }
        producer.flush().unwrap();
        let records = topic.partition(0).unwrap().read(0, 1 << 20).unwrap();
        assert_eq!(records.iter().map(|r| (r.key(), r.value())).collect::<Vec<_>>(), pairs);
    }
}

#[test]
fn f12_append_time_is_the_logs_in_files_and_receipts() {
    for codec in codecs() {
        let (disk, clock) = (SimDisk::new(1), ManualClock::new(5_000));
        let store = open_at(&disk, &clock);
        let config = TopicConfig::default().timestamp_type(TimestampType::LogAppendTime);
        let topic = store.create_topic("t", config).unwrap();
        let producer = store.producer_with(ProducerConfig::default().compression(codec)).unwrap();
        let deliveries: Vec<_> = (0..3)
            .map(|i| producer.send(Record::to(&topic).value("v").timestamp_ms(i * 10)).unwrap())
            .collect();
        clock.advance(Duration::from_millis(77));
        for (i, delivery) in deliveries.into_iter().enumerate() {
            let receipt = delivery.wait().unwrap();
            assert_eq!((receipt.offset, receipt.timestamp_ms), (i as i64, 5_077), "{codec}");
        }
        let partition = topic.partition(0).unwrap();
        let records = partition.read(0, 1 << 20).unwrap();
        assert!(records.iter().all(|record| record.timestamp_ms() == 5_077));
        assert_eq!(partition.offset_for_time(5_077).unwrap(), Some((0, 5_077)));
        assert_eq!(partition.offset_for_time(5_078).unwrap(), None);
    }
}

#[test]
fn g19_the_mark_of_a_clean_stop_goes_before_any_log_is_opened() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    store.create_topic("t", TopicConfig::default()).unwrap();
    append(&store, "t", &["a", "b"]);
    store.close().unwrap();
    assert!(disk.read_file(MARK).is_ok());

    // Any crash from the removal on counts as one, and costs nothing.
    disk.record_states(true);
    let store = open(&disk).unwrap();
    assert!(store.recovery_report().clean);
    assert!(disk.read_file(MARK).is_err());
    assert_eq!(values(&store, "t"), ["a", "b"]);
    let points = disk.crash_points();
    let mut unclean = 0;
    for point in &points {
        for disk in point.states(50, 1) {
            let store = open(&disk).unwrap();
            unclean += usize::from(!store.recovery_report().clean);
            assert_eq!(values(&store, "t"), ["a", "b"]);
        }
    }
    assert!(unclean > 0, "{} points", points.len());
}

#[test]
fn g20_an_open_that_fails_leaves_no_mark_of_a_clean_stop() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    store.create_topic("t", TopicConfig::default()).unwrap();
    append(&store, "t", &["a"]);
    store.close().unwrap();
    let mut failed = 0;
    for nth in 1.. {
        let disk = disk.kill();
        disk.fail_nth(FaultOp::Any, nth, FaultKind::Io, true);
        let opened = open(&disk);
        let gone = disk.read_file(MARK).is_err();
        disk.clear_faults();
        let Err(error) = opened else { break };
        assert!(matches!(error.kind(), ErrorKind::Io { .. } | ErrorKind::Damaged { .. }), "{error}");
        failed += 1;
        let store = open(&disk).unwrap();
        assert!(store.recovery_report().clean != gone, "failed at {nth}");
        assert_eq!(values(&store, "t"), ["a"]);
    }
    assert!(failed > 3, "{failed}");
}

#[test]
fn g20_a_partition_that_can_not_be_served_keeps_the_stop_from_counting_as_clean() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    append(&store, "t", &["a"]);
    store.close().unwrap();
    // A directory where a file is to be.
    disk.write_file("/s/t-1/00000000000000000009.log/x", b"").unwrap();
    let store = open(&disk).unwrap();
    assert!(store.topic("t").unwrap().partition(1).is_err());
    assert_eq!(values(&store, "t"), ["a"]);
    store.close().unwrap();
    assert!(disk.read_file(MARK).is_err());
}

// A broker that finds the mark and no snapshot takes it that no producer has a transaction open: there is one then.
#[test]
fn g20_a_stop_counts_as_clean_only_with_a_snapshot_of_what_a_crashed_broker_left() {
    for (snapshot, killed) in [(false, true), (true, true), (false, false)] {
        let disk = SimDisk::new(1);
        let store = open(&disk).unwrap();
        store.create_topic("t", TopicConfig::default()).unwrap();
        append(&store, "t", &["a"]);
        let disk = if killed {
            disk.kill()
        } else {
            store.close().unwrap();
            disk
        };
        // Without the catalog it is a broker's.
        disk.write_file("/s/logstead-topics", b"").unwrap();
        if snapshot {
            disk.write_file("/s/t-0/00000000000000000001.snapshot", b"").unwrap();
        }
        let store = open(&disk).unwrap();
        append(&store, "t", &["b"]);
        store.close().unwrap();
        assert!(disk.read_file(MARK).is_ok(), "{snapshot} {killed}");
        let left = disk.read_file("/s/t-0/00000000000000000002.snapshot");
        assert!(left.is_ok(), "{snapshot} {killed}");
        assert_eq!(values(&open(&disk).unwrap(), "t"), ["a", "b"]);
    }
}

#[test]
fn g23_a_topics_id_is_written_as_kafka_does_and_stays() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    let read =
        |p: i32| String::from_utf8(disk.read_file(format!("/s/t-{p}/partition.metadata")).unwrap()).unwrap();
    let text = read(0);
    let id = text.strip_prefix("version: 0\ntopic_id: ").unwrap();
    assert_eq!(id.len(), 22, "{text:?}");
    assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') && !id.starts_with('-'));
    assert_eq!(read(1), text);
    store.close().unwrap();
    open(&disk).unwrap().close().unwrap();
    assert_eq!(read(0), text);
}

// Kafka refuses the whole directory for these; here they are left alone, since other programs keep things there too.
#[test]
fn g27_names_that_are_no_partition_are_left_alone() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    store.create_topic("t", TopicConfig::default()).unwrap();
    append(&store, "t", &["a"]);
    store.close().unwrap();
    let foreign = [
        "nodash/00000000000000000000.log",
        "t-x/00000000000000000000.log",
        "t-01/00000000000000000000.log",
        "t-99999999999/00000000000000000000.log",
        "t-1.5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a-stray/00000000000000000000.log",
        "remote-log-index-cache/x",
        "notes.txt",
        "t-0/notes.txt",
        "t-0/x.log",
        "t-0/-5.index",
    ];
    for name in foreign {
        disk.write_file(Path::new(ROOT).join(name), name.as_bytes()).unwrap();
    }
    let store = open(&disk).unwrap();
    assert_eq!(store.topic_names(), ["t"]);
    append(&store, "t", &["b"]);
    assert_eq!(values(&store, "t"), ["a", "b"]);
    store.close().unwrap();
    for name in foreign {
        assert_eq!(disk.read_file(Path::new(ROOT).join(name)).unwrap(), name.as_bytes(), "{name}");
    }
}

#[test]
fn partitions_of_a_broker_that_are_elsewhere_are_unknown_here_not_empty() {
    let disk = SimDisk::new(1);
    disk.write_file("/s/t-2/00000000000000000000.log", b"").unwrap();
    let store = open(&disk).unwrap();
    let topic = store.topic("t").unwrap();
    for missing in [0, 1] {
        let error = topic.partition(missing).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UnknownPartition { .. }), "{error}");
    }
    assert_eq!(topic.partition(2).unwrap().high_watermark(), 0);
}

#[test]
fn durability_page_cache_keeps_all_through_a_kill_and_disk_through_a_power_cut() {
    for (durability, cut) in
        [(Durability::PageCache, false), (Durability::Disk, false), (Durability::Disk, true)]
    {
        let disk = SimDisk::new(1);
        let store = open(&disk).unwrap();
        store.create_topic("t", TopicConfig::default().durability(durability)).unwrap();
        append(&store, "t", &["a", "b"]);
        let found = if cut { disk.crash(7) } else { disk.kill() };
        assert_eq!(values(&open(&found).unwrap(), "t"), ["a", "b"], "{durability}");
    }
}
