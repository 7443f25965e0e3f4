//! What a user can do wrong, and what the world can do to a directory: each is a typed error that says what, where
//! and what to do; nothing is lost, nothing half done, and the store works on.
//!
//! A file that is not UTF-8 is the business of `examples/quickstart.rs`, whose own tests cover it.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use logstead::{
    Acks, AutoOffsetReset, Compression, ConsumerConfig, Durability, Error, ErrorKind, FaultKind, FaultOp,
    Maintenance, ProducerConfig, Record, RecoveryEvent, Result, SimDisk, Store, TopicConfig,
};

// ───────── helpers

/// The error of that kind whose message holds all these words.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: fn(&ErrorKind) -> bool, words: &[&str]) -> Error {
    let error = result.unwrap_err();
    assert!(kind(error.kind()), "{error:?}");
    let said = error.to_string();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    error
}

macro_rules! is {
    ($kind:pat) => {
        |kind: &ErrorKind| matches!(kind, $kind)
    };
}

/// A store on the real disk with a topic `t` of two partitions that holds one record.
struct Bench {
    home: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(TopicConfig::default().partitions(2))
    }

    fn with(config: TopicConfig) -> Bench {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path().join("data")).unwrap();
        store.create_topic("t", config).unwrap();
        append(&store, "first");
        Bench { home, store }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// The store takes and gives records as if nothing had happened.
    #[track_caller]
    fn still_works(&self) {
        still_works(&self.store);
    }

    /// Closes the store and gives its directory.
    fn closed(self) -> (tempfile::TempDir, PathBuf) {
        let dir = self.dir();
        self.store.close().unwrap();
        (self.home, dir)
    }
}

fn append(store: &Store, value: &str) {
    let topic = store.topic("t").unwrap();
    topic.partition(0).unwrap().append([Record::to(&topic).value(value)], None, Acks::All).unwrap();
}

#[track_caller]
fn still_works(store: &Store) {
    let partition = store.topic("t").unwrap().partition(0).unwrap();
    let end = partition.log_end_offset();
    append(store, "and on");
    let producer = store.producer().unwrap();
    assert_eq!(
        producer.send(Record::to("t").partition(0).value("and on")).unwrap().wait().unwrap().offset,
        end + 1
    );
    let records = partition.read(0, 1 << 20).unwrap();
    assert_eq!(records.iter().next().unwrap().value(), Some(b"first".as_slice()));
    assert_eq!(partition.read(end, 1 << 20).unwrap().len(), 2);
}

/// Every name below a directory, with kind and content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            let what = if kind.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                dirs.push(path.clone());
                "directory".to_owned()
            } else {
                format!("{:?} {:?}", kind.modified().unwrap(), fs::read(&path).unwrap())
            };
            found.insert(path, what);
        }
    }
    found
}

fn log_file(dir: &Path, partition: i32) -> PathBuf {
    dir.join(format!("t-{partition}/00000000000000000000.log"))
}

// ───────── names and numbers

#[test]
fn an_unknown_topic_is_named_with_the_next_step() {
    let bench = Bench::new();
    let unknown = is!(ErrorKind::UnknownTopic { .. });
    let words = ["\"nosuch\"", "create_topic"];
    refused(bench.store.topic("nosuch"), unknown, &words);
    refused(bench.store.producer().unwrap().send(Record::to("nosuch").value("v")), unknown, &words);
    let mut consumer = bench.store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    refused(consumer.assign_all(["t", "nosuch"]), unknown, &words);
    refused(consumer.assign([("nosuch", 0)]), unknown, &words);
    assert_eq!(consumer.assignment().count(), 2, "the assignment before is kept");
    assert_eq!(bench.store.topic_names(), ["t"]);
    bench.still_works();
}

#[test]
fn a_partition_out_of_range_is_named_with_the_range() {
    let bench = Bench::new();
    let unknown = is!(ErrorKind::UnknownPartition { partitions: 2, .. });
    let topic = bench.store.topic("t").unwrap();
    let producer = bench.store.producer().unwrap();
    let mut consumer = bench.store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    for partition in [2, -1, i32::MAX, i32::MIN] {
        let words = ["\"t\"", "0..2", &partition.to_string()];
        refused(topic.partition(partition), unknown, &words);
        refused(producer.send(Record::to("t").partition(partition).value("v")), unknown, &words);
        refused(consumer.assign([("t", 0), ("t", partition)]), unknown, &words);
        refused(bench.store.recover("t", partition), unknown, &words);
    }
    refused(consumer.seek("t", 5, 0), is!(ErrorKind::NotAssigned { partition: 5, .. }), &["t-5", "assign"]);
    assert_eq!(consumer.assignment().count(), 2, "the assignment before is kept");
    bench.still_works();
}

#[test]
fn a_name_that_is_no_topic_name_makes_nothing_on_disk() {
    let bench = Bench::new();
    let before = tree(bench.home.path());
    for name in ["../x", "..", ".", "", "a/b", "a b", "ü", "a\0b", "/etc/x", &"x".repeat(250)] {
        refused(
            bench.store.create_topic(name, TopicConfig::default()),
            is!(ErrorKind::InvalidTopic { .. }),
            &[&format!("{name:?}"), "is refused: "],
        );
    }
    assert_eq!(tree(bench.home.path()), before);
    bench.still_works();
}

#[test]
fn a_setting_out_of_range_is_named_with_its_rule_and_makes_nothing() {
    let bench = Bench::new();
    let before = tree(bench.home.path());
    let invalid = is!(ErrorKind::InvalidConfig { .. });
    for (config, name) in [
        (TopicConfig::default().partitions(0), "num.partitions = 0"),
        (TopicConfig::default().partitions(10_001), "num.partitions = 10001"),
        (TopicConfig::default().segment_bytes(1 << 31), "segment.bytes = 2147483648"),
        (TopicConfig::default().max_message_bytes(usize::MAX), "max.message.bytes"),
    ] {
        refused(bench.store.create_topic("x", config), invalid, &[name]);
    }
    refused(
        bench.store.create_topic("t", TopicConfig::default()),
        is!(ErrorKind::TopicExists { .. }),
        &["\"t\"", "Store::topic"],
    );
    refused(
        bench.store.producer_with(ProducerConfig::default().batch_size(usize::MAX)),
        invalid,
        &["batch.size", "100 MiB"],
    );
    assert_eq!(tree(bench.home.path()), before);
    bench.still_works();
}

// ───────── sizes

#[test]
fn a_record_larger_than_max_request_size_never_enters_a_batch() {
    let bench = Bench::new();
    let producer = bench.store.producer_with(ProducerConfig::default().max_request_size(1_000)).unwrap();
    let error = refused(
        producer.send(Record::to("t").partition(0).value(&[0; 1_001])),
        is!(ErrorKind::RecordTooLarge { limit: 1_000, .. }),
        &["1000", "max.request.size"],
    );
    assert!(!error.is_retriable());
    producer.flush().unwrap();
    assert_eq!(bench.store.topic("t").unwrap().partition(0).unwrap().log_end_offset(), 1);
    bench.still_works();
}

#[test]
fn a_batch_larger_than_the_topic_takes_fails_its_deliveries_and_no_others() {
    for (config, limit, setting) in [
        (TopicConfig::default().max_message_bytes(5_000), 5_000, "max.message.bytes"),
        (TopicConfig::default().segment_bytes(4_000), 4_000, "segment.bytes"),
    ] {
        let bench = Bench::with(config);
        let topic = bench.store.topic("t").unwrap();
        let partition = topic.partition(0).unwrap();
        let before = fs::read(log_file(&bench.dir(), 0)).unwrap();
        let large = vec![7; limit + 1];
        let producer = bench.store.producer().unwrap();
        let delivery = producer.send(Record::to(&topic).value(&large)).unwrap();
        let too_large = is!(ErrorKind::RecordTooLarge { .. });
        refused(delivery.wait(), too_large, &[&limit.to_string(), setting]);
        // Also for those who do not wait.
        refused(producer.flush(), too_large, &[setting]);
        producer.flush().unwrap();
        refused(
            partition.append(
                [Record::to(&topic).value("small"), Record::to(&topic).value(&large)],
                None,
                Acks::All,
            ),
            too_large,
            &[setting],
        );
        assert_eq!(partition.log_end_offset(), 1);
        assert_eq!(fs::read(log_file(&bench.dir(), 0)).unwrap(), before);
        bench.still_works();
    }
}

#[test]
fn a_record_that_can_not_be_stored_is_refused_at_once() {
    let bench = Bench::new();
    let producer = bench.store.producer().unwrap();
    let invalid = is!(ErrorKind::InvalidRecord { .. });
    refused(producer.send(Record::to("t").partition(0).value("v").timestamp_ms(-2)), invalid, &["timestamp"]);
    let headers = vec![logstead::header("k", "v"); 1_001];
    refused(producer.send(Record::to("t").partition(0).headers(&headers)), invalid, &["header"]);
    producer.flush().unwrap();
    assert_eq!(bench.store.topic("t").unwrap().partition(0).unwrap().log_end_offset(), 1);
    bench.still_works();
}

// ───────── offsets

#[test]
fn an_offset_out_of_range_is_named_with_the_range() {
    let bench = Bench::new();
    let partition = bench.store.topic("t").unwrap().partition(0).unwrap();
    let outside = is!(ErrorKind::OffsetOutOfRange { .. });
    for offset in [-1, 2, i64::MAX, i64::MIN] {
        let words = ["t-0", &offset.to_string(), "0..=1", "seek"];
        refused(partition.read(offset, 1), outside, &words);
        refused(partition.get(offset), outside, &words);
        let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::None);
        let mut consumer = bench.store.consumer_with(config).unwrap();
        consumer.assign([("t", 0)]).unwrap();
        if offset < 0 {
            refused(consumer.seek("t", 0, offset), outside, &words);
            continue;
        }
        consumer.seek("t", 0, offset).unwrap();
        refused(consumer.poll(Duration::ZERO), outside, &words);
        consumer.seek("t", 0, 0).unwrap();
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
    }
    refused(partition.get(1), outside, &["t-0"]);
    assert!(partition.read(1, 1).unwrap().is_empty());
    bench.still_works();
}

#[test]
fn a_consumer_without_a_position_says_so() {
    let bench = Bench::new();
    let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::None);
    let mut consumer = bench.store.consumer_with(config).unwrap();
    consumer.assign([("t", 0)]).unwrap();
    refused(consumer.poll(Duration::ZERO), is!(ErrorKind::NoPosition { .. }), &["t-0", "seek"]);
    consumer.seek_to_beginning().unwrap();
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
}

#[test]
fn an_append_that_expects_another_end_appends_nothing() {
    let bench = Bench::new();
    let topic = bench.store.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    for expected in [0, 2, -1, i64::MAX] {
        refused(
            partition.append([Record::to(&topic).value("v")], Some(expected), Acks::All),
            is!(ErrorKind::OffsetMismatch { actual: 1, .. }),
            &[&expected.to_string(), "read what is new"],
        );
    }
    assert_eq!(partition.log_end_offset(), 1);
    bench.still_works();
}

// ───────── closed

#[test]
fn every_handle_of_a_closed_store_says_so() {
    let bench = Bench::new();
    let store = bench.store.clone();
    let topic = store.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    let producer = store.producer().unwrap();
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    let (_home, dir) = bench.closed();

    let closed = is!(ErrorKind::Closed);
    let words = ["closed", "open"];
    refused(store.topic("t"), closed, &words);
    refused(store.topic("nosuch"), closed, &words);
    refused(store.create_topic("x", TopicConfig::default()), closed, &words);
    refused(store.producer(), closed, &words);
    refused(store.consumer(), closed, &words);
    refused(store.maintain(), closed, &words);
    refused(store.recover("t", 0), closed, &words);
    refused(topic.partition(0), closed, &words);
    refused(partition.read(0, 1), closed, &words);
    refused(partition.get(0), closed, &words);
    refused(partition.offset_for_time(0), closed, &words);
    refused(partition.append([Record::to(&topic).value("v")], None, Acks::All), closed, &words);
    refused(producer.send(Record::to(&topic).value("v")), closed, &words);
    refused(producer.send(Record::to("t").value("v")), closed, &words);
    refused(consumer.poll(Duration::from_secs(60)), closed, &words);
    refused(consumer.seek_to_end(), closed, &words);
    producer.close().unwrap();
    store.close().unwrap();
    // What was read stays.
    assert_eq!(records.iter().next().unwrap().value(), Some(b"first".as_slice()));

    let store = Store::open(&dir).unwrap();
    assert!(store.recovery_report().clean);
    assert_eq!(store.topic_names(), ["t"]);
    still_works(&store);
}

#[test]
fn a_closed_producer_says_so_and_the_store_is_open() {
    let bench = Bench::new();
    let producer = bench.store.producer().unwrap();
    let other = producer.clone();
    let delivery = producer.send(Record::to("t").partition(0).value("v")).unwrap();
    producer.close().unwrap();
    refused(other.send(Record::to("t").value("v")), is!(ErrorKind::Closed), &["closed"]);
    assert_eq!(delivery.wait().unwrap().offset, 1);
    bench.still_works();
}

#[test]
fn a_delivery_of_a_closed_store_still_tells_what_the_close_committed() {
    let bench = Bench::new();
    let producer = bench.store.producer().unwrap();
    let delivery = producer.send(Record::to("t").partition(0).value("v")).unwrap();
    let (_home, dir) = bench.closed();
    assert_eq!(delivery.wait().unwrap().offset, 1);
    drop(producer);
    still_works(&Store::open(dir).unwrap());
}

// ───────── locks

#[test]
fn g21_a_second_store_of_this_process_is_refused() {
    let bench = Bench::new();
    let before = tree(&bench.dir());
    let error = refused(
        Store::open(bench.dir()),
        is!(ErrorKind::Locked { .. }),
        &[".lock", "this process", "open_read_only"],
    );
    assert!(error.is_retriable());
    assert_eq!(tree(&bench.dir()), before);
    bench.still_works();
    // By another way to the same directory too.
    let link = bench.home.path().join("link");
    symlink(bench.dir(), &link).unwrap();
    refused(Store::open(&link), is!(ErrorKind::Locked { .. }), &[".lock"]);
    bench.still_works();
    let (_home, dir) = bench.closed();
    still_works(&Store::open(dir).unwrap());
}

const OTHER_PROCESS: &str = "LOGSTEAD_TEST_OTHER_PROCESS";

#[test]
fn g21_a_second_process_is_refused_and_may_read() {
    if let Some(dir) = std::env::var_os(OTHER_PROCESS) {
        let error = refused(Store::open(&dir), is!(ErrorKind::Locked { .. }), &[".lock", "open_read_only"]);
        let store = Store::open_read_only(&dir).unwrap();
        assert_eq!(store.topic("t").unwrap().partition(0).unwrap().read(0, 1 << 20).unwrap().len(), 1);
        println!("refused: {error}");
        return;
    }
    let bench = Bench::new();
    let before = tree(&bench.dir());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "g21_a_second_process_is_refused_and_may_read", "--nocapture"])
        .env(OTHER_PROCESS, bench.dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // Who holds it is told by number.
    assert!(said.contains("refused: ") && said.contains(&std::process::id().to_string()), "{said}");
    assert_eq!(tree(&bench.dir()), before);
    bench.still_works();
}

// ───────── no space

fn sim() -> (SimDisk, Store) {
    let disk = SimDisk::new(1);
    let store = Store::options().disk(&disk).maintenance(Maintenance::Manual).open("/s").unwrap();
    store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    append(&store, "first");
    (disk, store)
}

fn used(disk: &SimDisk) -> u64 {
    disk.files().iter().map(|file| disk.read_file(file).unwrap().len() as u64).sum()
}

#[test]
fn a_full_disk_takes_nothing_half_and_works_again_when_there_is_room() {
    let (disk, store) = sim();
    let topic = store.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    let full = is!(ErrorKind::Full { .. });
    for room in [0, 1, 60, 100] {
        disk.set_capacity(Some(used(&disk) + room));
        let before = (disk.content_hash(), partition.log_end_offset());
        let words = ["00000000000000000000.log", "free space"];
        let error =
            refused(partition.append([Record::to(&topic).value(&[1; 100])], None, Acks::All), full, &words);
        assert!(error.is_retriable());
        let producer = store.producer().unwrap();
        let delivery = producer.send(Record::to(&topic).partition(0).value(&[1; 100])).unwrap();
        refused(delivery.wait(), full, &words);
        refused(producer.flush(), full, &words);
        assert_eq!((disk.content_hash(), partition.log_end_offset()), before, "{room}");
        assert_eq!(partition.read(0, 1).unwrap().len(), 1);
        disk.set_capacity(None);
        drop(producer);
    }
    still_works(&store);
    store.close().unwrap();
}

#[test]
fn a_topic_that_a_full_disk_has_no_room_for_is_not_there_and_can_be_made_later() {
    let (disk, store) = sim();
    let mut failed = 0;
    for room in 0.. {
        disk.set_capacity(Some(used(&disk) + room * room * 20));
        let made = store.create_topic("x", TopicConfig::default().partitions(3));
        disk.set_capacity(None);
        if made.is_ok() {
            break;
        }
        failed += 1;
        refused(made, is!(ErrorKind::Full { .. }), &["/s/", "free space"]);
        refused(store.topic("x"), is!(ErrorKind::UnknownTopic { .. }), &["\"x\""]);
        // Nor is it after a crash, or when another topic is made.
        store.create_topic(&format!("y{room}"), TopicConfig::default()).unwrap();
        let later = Store::options().disk(&disk.kill()).maintenance(Maintenance::Manual).open("/s").unwrap();
        assert!(!later.topic_names().contains(&"x".to_owned()), "room {room}: {:?}", later.topic_names());
    }
    assert!(failed > 3);
    assert_eq!(store.topic("x").unwrap().partitions(), 3);
    still_works(&store);
}

#[test]
fn a_roll_without_room_or_descriptors_fails_the_append_alone() {
    for (op, kind) in [
        (FaultOp::Create, FaultKind::NoSpace),
        (FaultOp::Create, FaultKind::TooManyFiles),
        (FaultOp::Write, FaultKind::NoSpace),
        (FaultOp::Create, FaultKind::ReadOnly),
    ] {
        let disk = SimDisk::new(1);
        let store = Store::options().disk(&disk).maintenance(Maintenance::Manual).open("/s").unwrap();
        store.create_topic("t", TopicConfig::default().segment_bytes(200)).unwrap();
        append(&store, "first");
        append(&store, "second");
        let topic = store.topic("t").unwrap();
        let partition = topic.partition(0).unwrap();
        let end = partition.log_end_offset();
        disk.fail_nth(op, 1, kind, true);
        let error = partition.append([Record::to(&topic).value(&[1; 100])], None, Acks::All).unwrap_err();
        let expected = match kind {
            FaultKind::NoSpace => matches!(error.kind(), ErrorKind::Full { .. }),
            FaultKind::ReadOnly => matches!(error.kind(), ErrorKind::ReadOnly { .. }),
            _ => matches!(error.kind(), ErrorKind::TooManyOpenFiles { .. }),
        };
        assert!(expected, "{op:?} {kind:?}: {error:?}");
        assert!(error.to_string().contains("/s/t-0/"), "{error}");
        disk.clear_faults();
        assert_eq!(partition.log_end_offset(), end);
        still_works(&store);
        store.close().unwrap();
        let store = Store::options().disk(&disk).maintenance(Maintenance::Manual).open("/s").unwrap();
        assert!(store.recovery_report().clean);
        still_works(&store);
    }
}

// ───────── what lies in the directory

#[test]
fn a_directory_that_is_not_ours_is_refused_and_left_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let foreign = home.path().join("photos");
    fs::create_dir_all(foreign.join("2013-1")).unwrap();
    fs::write(foreign.join("2013-1/beach.jpg"), b"not a log").unwrap();
    fs::write(foreign.join("index.html"), b"<html>").unwrap();
    let before = tree(home.path());
    let not_ours = is!(ErrorKind::NotAStore { .. });
    refused(Store::open(&foreign), not_ours, &["photos", "not a log directory", "empty or a new directory"]);
    refused(Store::open_read_only(&foreign), not_ours, &["photos", "not a log directory"]);
    assert_eq!(tree(home.path()), before);
    let store = Store::open(foreign.join("data")).unwrap();
    store.create_topic("t", TopicConfig::default()).unwrap();
    append(&store, "first");
    still_works(&store);
}

#[test]
fn a_file_where_the_store_should_be_is_refused_and_left_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("data");
    fs::write(&file, b"precious").unwrap();
    let not_ours = is!(ErrorKind::NotAStore { .. });
    refused(Store::open(&file), not_ours, &["data", "it is a file"]);
    refused(Store::open_read_only(&file), not_ours, &["data", "it is a file"]);
    // Below a file there is nothing either.
    let error = Store::open(file.join("deeper")).unwrap_err();
    assert!(error.to_string().contains("data/deeper"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_directory_that_is_not_there_is_not_made_by_a_read_only_open() {
    let home = tempfile::tempdir().unwrap();
    let missing = home.path().join("data");
    refused(
        Store::open_read_only(&missing),
        is!(ErrorKind::NotAStore { .. }),
        &["data", "does not exist", "Store::open"],
    );
    assert!(!missing.exists());
}

/// Partition 1 is spoilt by `spoil`; it alone is out of service, and its spoilt file is still there.
fn one_spoilt_partition(spoil: impl Fn(&Path), word: &str) {
    let (_home, dir) = Bench::new().closed();
    spoil(&dir);
    let before = tree(&dir.join("t-1"));
    for _ in 0..2 {
        let store = Store::open(&dir).unwrap();
        let topic = store.topic("t").unwrap();
        let damaged = is!(ErrorKind::Damaged { partition: 1, .. });
        let error = refused(topic.partition(1), damaged, &["t-1", word]);
        assert!(error.is_corrupt());
        let producer = store.producer().unwrap();
        let sent =
            producer.send(Record::to(&topic).partition(1).value("v")).and_then(|delivery| delivery.wait());
        refused(sent, damaged, &["t-1", word]);
        refused(store.recover("t", 1), damaged, &["t-1", word]);
        let _ = producer.flush();
        still_works(&store);
        store.close().unwrap();
    }
    let _ =
        before.iter().map(|(path, what)| assert_eq!(tree(&dir.join("t-1")).get(path), Some(what))).count();
    // Not a clean stop: the damage is reported, again and again, until it is gone.
    let store = Store::open(&dir).unwrap();
    let report = store.recovery_report();
    assert!(!report.clean);
    let events: Vec<_> =
        report.partitions.iter().filter(|p| p.partition == 1).flat_map(|p| &p.events).collect();
    assert!(matches!(&*events, [RecoveryEvent::Damaged { .. }]), "{report}");
}

#[test]
fn a_log_that_is_a_directory_damages_its_partition_alone() {
    one_spoilt_partition(
        |dir| {
            fs::remove_file(log_file(dir, 1)).unwrap();
            fs::create_dir(log_file(dir, 1)).unwrap();
        },
        "00000000000000000000.log",
    );
}

#[test]
fn a_log_that_is_a_link_is_never_followed() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("target");
    fs::write(&target, b"somebody else's").unwrap();
    one_spoilt_partition(
        |dir| {
            fs::remove_file(log_file(dir, 1)).unwrap();
            symlink(&target, log_file(dir, 1)).unwrap();
        },
        "00000000000000000000.log",
    );
    assert_eq!(fs::read(&target).unwrap(), b"somebody else's");
}

#[test]
fn a_partition_that_is_a_file_damages_itself_alone() {
    let (_home, dir) = Bench::new().closed();
    fs::remove_dir_all(dir.join("t-1")).unwrap();
    fs::write(dir.join("t-1"), b"precious").unwrap();
    let store = Store::open(&dir).unwrap();
    let error = store.topic("t").unwrap().partition(1).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("t-1"), "{error}");
    still_works(&store);
    store.close().unwrap();
    assert_eq!(fs::read(dir.join("t-1")).unwrap(), b"precious");
}

#[test]
fn a_partition_that_is_missing_is_not_made_empty() {
    let (_home, dir) = Bench::new().closed();
    fs::remove_dir_all(dir.join("t-1")).unwrap();
    let store = Store::open(&dir).unwrap();
    refused(store.topic("t").unwrap().partition(1), is!(ErrorKind::Damaged { .. }), &["t-1", "missing"]);
    assert!(!dir.join("t-1").exists());
    still_works(&store);
}

#[test]
fn links_in_place_of_small_files_are_never_followed() {
    for name in [
        "recovery-point-offset-checkpoint",
        "logstead-topics",
        "meta.properties",
        ".kafka_cleanshutdown",
        "t-0/00000000000000000000.index",
        "t-0/00000000000000000000.timeindex",
        "t-0/logstead-committed",
        "t-0/leader-epoch-checkpoint",
    ] {
        let (home, dir) = Bench::new().closed();
        let target = home.path().join("target");
        fs::write(&target, b"somebody else's").unwrap();
        fs::remove_file(dir.join(name)).unwrap();
        symlink(&target, dir.join(name)).unwrap();
        // Whatever comes of it, what the link points to is not read, and not written.
        match Store::open(&dir) {
            Ok(store) => {
                let _ = store.topic("t").map(|topic| topic.partition(0).map(|p| p.read(0, 1)));
                let _ = store.close();
            }
            Err(error) => assert!(error.to_string().contains(name), "{name}: {error}"),
        }
        assert_eq!(fs::read(&target).unwrap(), b"somebody else's", "{name}");
    }
}

#[test]
fn corrupt_bytes_are_never_returned_and_the_error_says_where_to_go_on() {
    for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
        if !codec.is_built() {
            continue;
        }
        let bench = Bench::new();
        let producer =
            bench.store.producer_with(ProducerConfig::default().compression(codec).batch_size(1)).unwrap();
        for _ in 0..3 {
            producer.send(Record::to("t").partition(0).value(&[b'x'; 300])).unwrap().wait().unwrap();
        }
        producer.close().unwrap();
        let (_home, dir) = bench.closed();
        let path = log_file(&dir, 0);
        let mut bytes = fs::read(&path).unwrap();
        // The batch at offset 2: behind the first record and one batch of the three equal ones.
        let size = |at: usize| 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let first = size(0);
        let position = first + size(first);
        bytes[position + 70] ^= 1;
        fs::write(&path, &bytes).unwrap();

        let store = Store::open(&dir).unwrap();
        let partition = store.topic("t").unwrap().partition(0).unwrap();
        let mut consumer = store.consumer().unwrap();
        consumer.assign([("t", 0)]).unwrap();
        consumer.seek_to_beginning().unwrap();
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 2);
        let corrupt = is!(ErrorKind::Corrupt { .. });
        let words = ["00000000000000000000.log", "checksum", &position.to_string(), "offset 3"];
        let error = refused(consumer.poll(Duration::ZERO), corrupt, &words);
        refused(consumer.poll(Duration::ZERO), corrupt, &words);
        refused(partition.read(2, 1), corrupt, &words);
        refused(partition.get(2), corrupt, &words);
        assert!(error.is_corrupt() && !error.is_retriable());
        let ErrorKind::Corrupt { resume_at, .. } = error.kind() else { unreachable!() };
        consumer.seek("t", 0, *resume_at).unwrap();
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().iter().next().unwrap().offset(), 3);
        append(&store, "and on");
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().iter().next().unwrap().offset(), 4);
        // Nothing was cut.
        store.close().unwrap();
        assert_eq!(&fs::read(&path).unwrap()[..bytes.len()], bytes);
    }
}

#[test]
fn a_damaged_catalog_is_kept_aside_and_the_topics_are_found_by_their_directories() {
    let (_home, dir) = Bench::new().closed();
    let catalog = dir.join("logstead-topics");
    let mut bytes = fs::read(&catalog).unwrap();
    bytes[20] ^= 1;
    fs::write(&catalog, &bytes).unwrap();
    let store = Store::open(&dir).unwrap();
    assert_eq!(store.recovery_report().unreadable_files, [catalog]);
    assert_eq!(fs::read(dir.join("logstead-topics.damaged")).unwrap(), bytes);
    assert_eq!(store.topic("t").unwrap().partitions(), 2);
    still_works(&store);
}

// ───────── read-only

#[test]
fn a_catalog_of_a_later_version_is_refused_and_left_as_it_is() {
    let (_home, dir) = Bench::new().closed();
    let catalog = dir.join("logstead-topics");
    let text = fs::read_to_string(&catalog).unwrap();
    let (body, _) = text.split_once("crc32 ").unwrap();
    let later = [
        body.replacen("logstead-topics 1", "logstead-topics 2", 1),
        body.replacen("ready", "ready so.new=1", 1),
    ];
    for body in later {
        fs::write(&catalog, format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes()))).unwrap();
        let before = fs::read(&catalog).unwrap();
        let words = &["logstead-topics", "the one that wrote it"];
        refused(Store::open(&dir), is!(ErrorKind::NotAStore { .. }), words);
        refused(Store::open_read_only(&dir), is!(ErrorKind::NotAStore { .. }), words);
        refused(Store::verify(&dir), is!(ErrorKind::NotAStore { .. }), words);
        assert_eq!(fs::read(&catalog).unwrap(), before);
    }
    fs::write(&catalog, text).unwrap();
    still_works(&Store::open(&dir).unwrap());
}

#[test]
fn a_read_only_store_changes_not_a_byte_and_refuses_to_write() {
    for killed in [false, true] {
        let bench = Bench::new();
        let image = bench.home.path().join("image");
        if killed {
            common::copy_dir(&bench.dir(), &image);
            // A torn batch, and a left-over.
            let mut log = fs::read(log_file(&image, 0)).unwrap();
            log.extend(&log.clone()[..70]);
            fs::write(log_file(&image, 0), log).unwrap();
            fs::write(image.join("t-0/00000000000000000007.index"), b"x").unwrap();
        }
        let (_home, dir) = bench.closed();
        let dir = if killed { image } else { dir };
        let before = tree(&dir);
        let store = Store::open_read_only(&dir).unwrap();
        let topic = store.topic("t").unwrap();
        let partition = topic.partition(0).unwrap();
        assert_eq!(partition.read(0, 1 << 20).unwrap().len(), 1);
        assert_eq!(topic.partition(1).unwrap().high_watermark(), 0);
        let mut consumer = store.consumer().unwrap();
        consumer.assign_all(["t"]).unwrap();
        consumer.seek_to_time(0).unwrap();
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
        let read_only = is!(ErrorKind::ReadOnly { .. });
        let words = ["data", "read-only", "Store::open"];
        let words = if killed { &words[1..] } else { &words[..] };
        refused(partition.append([Record::to(&topic).value("v")], None, Acks::All), read_only, words);
        refused(store.create_topic("x", TopicConfig::default()), read_only, words);
        refused(store.producer(), read_only, words);
        refused(store.recover("t", 0), read_only, words);
        store.maintain().unwrap();
        store.close().unwrap();
        assert_eq!(tree(&dir), before);
        still_works(&Store::open(&dir).unwrap());
    }
}

#[test]
fn a_read_only_store_beside_a_live_writer_shows_what_was_committed() {
    let bench = Bench::new();
    let topic = bench.store.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    partition.append([Record::to(&topic).value("not synced")], None, Acks::Leader).unwrap();
    let reader = Store::open_read_only(bench.dir()).unwrap();
    let seen = reader.topic("t").unwrap().partition(0).unwrap();
    assert!(seen.high_watermark() <= 2 && seen.high_watermark() >= 1);
    assert_eq!(seen.read(0, 1 << 20).unwrap().iter().next().unwrap().value(), Some(b"first".as_slice()));
    drop(reader);
    bench.still_works();
}

#[test]
fn a_failed_sync_is_final_for_its_partition_until_it_is_recovered() {
    let (disk, store) = sim();
    let topic = store.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    let poisoned = is!(ErrorKind::Poisoned { from: 1, .. });
    let words = ["t-0", "sync failed", "recover"];
    refused(partition.append([Record::to(&topic).value("lost")], None, Acks::All), poisoned, &words);
    refused(partition.append([Record::to(&topic).value("v")], None, Acks::Leader), poisoned, &words);
    assert_eq!(partition.high_watermark(), 1);
    assert_eq!(partition.read(0, 1 << 20).unwrap().len(), 1);
    // The other partition goes on.
    topic.partition(1).unwrap().append([Record::to(&topic).value("v")], None, Acks::All).unwrap();
    store.recover("t", 0).unwrap();
    still_works(&store);
    store.close().unwrap();
}

#[test]
fn what_a_failed_sync_may_have_lost_is_never_called_delivered() {
    for waits_before in [false, true] {
        let (disk, store) = sim();
        let topic = store.topic("t").unwrap();
        // Who does not linger appends a full batch at once.
        let producer = store.producer_with(ProducerConfig::default().linger_ms(0)).unwrap();
        let mut writer = topic.partition(0).unwrap().writer(ProducerConfig::default()).unwrap();
        let delivery = producer.send(Record::to(&topic).partition(0).value("lost")).unwrap();
        disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, true);
        let poisoned = is!(ErrorKind::Poisoned { from: 1, .. });
        if waits_before {
            refused(delivery.wait_timeout(Duration::from_secs(60)), poisoned, &["t-0"]);
            refused(producer.flush(), poisoned, &["t-0"]);
        } else {
            // Somebody else's wait appends it, and meets the failure.
            let other = store.producer().unwrap();
            let other = other.send(Record::to(&topic).partition(0).value("lost too")).unwrap();
            producer.send(Record::to(&topic).partition(0).value(&[0; 20_000])).unwrap();
            refused(other.wait(), poisoned, &["t-0"]);
        }
        disk.clear_faults();
        // What was written and not synced is torn away, as by the power cut that follows a dying disk.
        let path = Path::new("/s/t-0/00000000000000000000.log");
        let log = disk.read_file(path).unwrap();
        let first = 12 + u32::from_be_bytes(log[8..12].try_into().unwrap()) as usize;
        disk.write_file(path, &log[..first]).unwrap();
        store.recover("t", 0).unwrap();
        // Other records take the offsets of those that were lost.
        for value in ["a", "b", "c", "d"] {
            append(&store, value);
        }
        refused(delivery.wait(), poisoned, &["t-0"]);
        // Not an endless wait for an end that the log no longer has.
        let _ = producer.flush();
        producer.flush().unwrap();
        writer.send(Record::to(&topic).value("w")).unwrap();
        assert_eq!(writer.flush().unwrap(), 6);
        still_works(&store);
        store.close().unwrap();
    }
}

#[test]
fn durabilities_are_told_in_the_receipt() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let bench = Bench::with(TopicConfig::default().durability(durability));
        let receipt =
            bench.store.producer().unwrap().send(Record::to("t").value("v")).unwrap().wait().unwrap();
        assert_eq!(receipt.durability, Some(durability));
    }
}
