//! A topic that is handed to a broker, and one that is taken back, on the simulated disk: all of it or nothing,
//! whatever is interrupted, and a clear word where something would be lost.
//!
//! The broker here is a directory as a stopped one leaves it, and a start after Kafka's own rules (`kafka-format.md`
//! §1.4). Real brokers are in `tests/kafka_adopt.rs`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{in_parallel, manual, seed, soak, telling, value};
use logstead::{
    Acks, Durability, ErrorKind, FaultKind, FaultOp, ManualClock, Record, SimDisk, Store, TopicConfig, header,
};

const STORE: &str = "/s/data";
const BROKER: &str = "/k/data";
const ID: &str = "S44MOp8dTieKVhwtPk9aaw";

/// Offset, timestamp, key, value, the first header's value.
type Row = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);
type Rows = Vec<Row>;

fn clock() -> ManualClock {
    ManualClock::new(1_700_000_000_000)
}

fn open(disk: &SimDisk, dir: &str) -> Store {
    manual(&clock()).disk(disk).open(dir).unwrap()
}

/// A store with a topic of three partitions: several segments, one, and none with records.
fn written(disk: &SimDisk, seed: u64, durability: Durability) -> Store {
    let store = open(disk, STORE);
    let config = TopicConfig::default().partitions(3).durability(durability).segment_bytes(6_000);
    let topic = store.create_topic("orders", config).unwrap();
    for (partition, batches) in [(0, 9), (1, 2)] {
        let partition = topic.partition(partition).unwrap();
        for i in 0..batches {
            let values: Vec<Vec<u8>> = (0..3).map(|k| value(seed, i * 3 + k, 400)).collect();
            let headers = [header("n", &values[0])];
            let records = values.iter().map(|value| {
                let time = 1_690_000_000_000 + i as i64;
                Record::to(&topic).key("k").value(value).headers(&headers).timestamp_ms(time)
            });
            partition.append(records, None, Acks::All).unwrap();
        }
    }
    store
}

fn plant(disk: &SimDisk, name: &str, bytes: impl AsRef<[u8]>) {
    disk.write_file(Path::new(BROKER).join(name), bytes).unwrap();
}

/// What a broker leaves that made the topic and was stopped in order.
fn plant_broker(disk: &SimDisk, partitions: u32) {
    plant(disk, "meta.properties", "version=1\nnode.id=1\ncluster.id=5L6g3nShT-eMCtK--X86sw\n");
    plant(disk, ".kafka_cleanshutdown", r#"{"version":0,"brokerEpoch":3}"#);
    plant(disk, "bootstrap.checkpoint", "x");
    for name in [
        "recovery-point-offset-checkpoint",
        "replication-offset-checkpoint",
        "cleaner-offset-checkpoint",
        "log-start-offset-checkpoint",
    ] {
        plant(disk, name, "0\n2\nother 0 7\norders 0 0\n");
    }
    for p in 0..partitions {
        let plant = |name: &str, bytes: &[u8]| plant(disk, &format!("orders-{p}/{name}"), bytes);
        plant("00000000000000000000.log", b"");
        plant("00000000000000000000.index", b"");
        plant("00000000000000000000.timeindex", &[0; 120]);
        plant("leader-epoch-checkpoint", b"0\n1\n0 0\n");
        plant("partition.metadata", format!("version: 0\ntopic_id: {ID}").as_bytes());
    }
}

/// All records of the topic, by partition.
fn rows(store: &Store) -> Vec<Rows> {
    let topic = store.topic("orders").unwrap();
    let read = |p| {
        let partition = topic.partition(p).unwrap();
        let mut rows = Vec::new();
        for records in partition.scan(partition.log_start_offset()) {
            for r in &records.unwrap() {
                let header = r.headers().into_iter().next().and_then(|h| h.value.map(<[u8]>::to_vec));
                let (key, value) = (r.key().map(<[u8]>::to_vec), r.value().map(<[u8]>::to_vec));
                rows.push((r.offset(), r.timestamp_ms(), key, value, header));
            }
        }
        rows
    };
    (0..topic.partitions() as i32).map(read).collect()
}

/// The offset behind the last batch of a segment.
fn next_offset(log: &[u8]) -> i64 {
    let (mut at, mut next) = (0, 0);
    while at < log.len() {
        let field = |from: usize| u32::from_be_bytes(log[from..from + 4].try_into().unwrap());
        let base = i64::from_be_bytes(log[at..at + 8].try_into().unwrap());
        next = base + i64::from(field(at + 23)) + 1;
        at += 12 + field(at + 8) as usize;
    }
    next
}

/// The first steps of a broker's start with a partition's files (`LogLoader`): what an exchange that was not finished
/// left is taken back or finished.
fn start_with(files: &mut BTreeMap<String, Vec<u8>>) {
    let base = |name: &str| name.split('.').next().unwrap().parse::<i64>().ok();
    files.retain(|name, _| !name.ends_with(".deleted"));
    let cleaned = files.keys().filter(|name| name.ends_with(".cleaned")).filter_map(|name| base(name)).min();
    files.retain(|name, _| !(name.ends_with(".swap") && cleaned.is_some_and(|c| base(name).unwrap() >= c)));
    files.retain(|name, _| !name.ends_with(".cleaned"));
    let swaps: Vec<String> = files.keys().filter(|name| name.ends_with(".log.swap")).cloned().collect();
    let from = swaps.iter().filter_map(|name| base(name)).min().unwrap_or(0);
    let to = swaps.iter().map(|name| next_offset(&files[name]).max(base(name).unwrap())).max().unwrap_or(0);
    files.retain(|name, _| name.ends_with(".swap") || !base(name).is_some_and(|b| (from..to).contains(&b)));
    for swap in swaps {
        let bytes = files.remove(&swap).unwrap();
        files.insert(swap.trim_end_matches(".swap").to_owned(), bytes);
    }
    if !files.keys().any(|name| name.ends_with(".log")) {
        files.insert(format!("{:020}.log", 0), Vec::new());
    }
}

/// A broker's directory as it is after a start.
fn started(disk: &SimDisk) -> SimDisk {
    let mut dirs: BTreeMap<PathBuf, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for path in disk.files().into_iter().filter(|path| path.starts_with(BROKER)) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = disk.read_file(&path).unwrap();
        dirs.entry(path.parent().unwrap().to_owned()).or_default().insert(name, bytes);
    }
    let after = SimDisk::in_memory();
    for (dir, mut files) in dirs {
        if dir != Path::new(BROKER) {
            start_with(&mut files);
        }
        for (name, bytes) in files {
            after.write_file(dir.join(name), bytes).unwrap();
        }
    }
    after
}

fn text(disk: &SimDisk, name: &str) -> String {
    String::from_utf8(disk.read_file(Path::new(BROKER).join(name)).unwrap()).unwrap()
}

fn partition_names(disk: &SimDisk, partition: u32) -> Vec<String> {
    let dir = Path::new(BROKER).join(format!("orders-{partition}"));
    let files = disk.files();
    let inside = files.iter().filter_map(|path| path.strip_prefix(&dir).ok());
    inside.map(|name| name.to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_topic_that_was_handed_over_is_the_same_there() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let disk = SimDisk::new(1);
        plant_broker(&disk, 3);
        let store = written(&disk, 1, durability);
        let copied = store.hand_to_broker("orders", BROKER).unwrap();
        assert_eq!((copied.partitions, copied.batches), (3, 11));
        assert!(copied.segments > 4 && copied.bytes > 11 * 1_200, "{copied}");
        let names = partition_names(&disk, 0);
        assert!(names.len() > 3 && names.iter().all(|name| !name.contains("index")), "{names:?}");
        assert_eq!(
            partition_names(&disk, 2),
            ["00000000000000000000.log", "leader-epoch-checkpoint", "partition.metadata"]
        );
        assert!(text(&disk, "orders-0/partition.metadata").contains(ID), "the broker's own id stays");
        assert_eq!(text(&disk, "orders-0/leader-epoch-checkpoint"), "0\n1\n0 0\n");
        for name in ["recovery-point-offset-checkpoint", "cleaner-offset-checkpoint"] {
            assert_eq!(text(&disk, name), "0\n1\nother 0 7\n");
        }
        let left: Vec<PathBuf> = disk.files().into_iter().filter(|f| f.starts_with(BROKER)).collect();
        let gone = [".kafka_cleanshutdown", ".lock"].map(|name| Path::new(BROKER).join(name));
        assert!(!left.iter().any(|file| gone.contains(file)), "{left:?}");
        // Durable at once.
        let there = manual(&clock()).disk(&started(&disk.crash(7))).open_read_only(BROKER).unwrap();
        assert_eq!(rows(&there), rows(&store));
        // The store goes on as it was.
        let topic = store.topic("orders").unwrap();
        topic.partition(0).unwrap().append([Record::to(&topic).value("more")], Some(27), Acks::All).unwrap();
        store.close().unwrap();
    }
}

#[test]
fn a_topic_comes_back_and_goes_on() {
    let disk = SimDisk::new(2);
    plant_broker(&disk, 3);
    let first = written(&disk, 2, Durability::Disk);
    first.hand_to_broker("orders", BROKER).unwrap();
    let expected = rows(&first);
    first.close().unwrap();
    plant(&disk, ".kafka_cleanshutdown", "");

    let store = open(&disk, "/t/data");
    let copied = store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap();
    assert_eq!((copied.partitions, copied.batches), (3, 11));
    assert_eq!(rows(&store), expected);
    let topic = store.topic("orders").unwrap();
    assert_eq!((topic.partitions(), topic.id().as_deref()), (3, Some(ID)));
    topic.partition(2).unwrap().append([Record::to(&topic).value("first")], Some(0), Acks::All).unwrap();
    let after = rows(&store);
    store.close().unwrap();

    // And once more to a broker, another one.
    let store = open(&disk, "/t/data");
    assert!(store.recovery_report().clean, "{}", store.recovery_report());
    assert_eq!(rows(&store), after);
    let other = SimDisk::new(3);
    for file in disk.files().into_iter().filter(|file| file.starts_with("/t")) {
        other.write_file(&file, disk.read_file(&file).unwrap()).unwrap();
    }
    plant_broker(&other, 3);
    let store = open(&other, "/t/data");
    assert_eq!(store.hand_to_broker("orders", BROKER).unwrap().batches, 12);
    let there = manual(&clock()).disk(&started(&other)).open_read_only(BROKER).unwrap();
    assert_eq!(rows(&there), after);
}

/// The call is refused for this reason, and nothing has changed, neither there nor here.
#[track_caller]
fn refused(disk: &SimDisk, call: impl FnOnce() -> logstead::Result<logstead::Transfer>, reason: &str) {
    let before = disk.content_hash();
    let error = call().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TransferRefused { .. }), "{error:?}");
    assert!(error.to_string().contains(reason), "{error}");
    assert_eq!(disk.content_hash(), before, "something was changed: {error}");
}

#[test]
fn what_would_lose_something_is_refused_and_changes_nothing() {
    let hand = |change: &dyn Fn(&SimDisk), reason: &str| {
        let disk = SimDisk::new(4);
        plant_broker(&disk, 3);
        let store = written(&disk, 4, Durability::Disk);
        change(&disk);
        refused(&disk, || store.hand_to_broker("orders", BROKER), reason);
    };
    let batch = {
        let disk = SimDisk::new(9);
        written(&disk, 9, Durability::Disk).close().unwrap();
        disk.read_file(Path::new(STORE).join("orders-1/00000000000000000000.log")).unwrap()
    };
    hand(&|disk| plant(disk, "orders-3/partition.metadata", "x"), "it has 4 partitions there and 3 here");
    hand(&|disk| plant(disk, "orders-5/partition.metadata", "x"), "partition 3 is not there");
    hand(
        &|disk| plant(disk, "orders-1/00000000000000000000.log", &batch),
        "orders-1 holds, or held, records",
    );
    hand(&|disk| plant(disk, "orders-1/00000000000000000042.log", ""), "orders-1 holds, or held, records");
    hand(&|disk| plant(disk, "orders-1/00000000000000000000.log.swap", &batch), "holds, or held, records");
    hand(&|disk| plant(disk, "meta.properties", "version=1\n"), "it is no broker's log.dir");
    hand(
        &|disk| disk.rot(Path::new(STORE).join("orders-0/00000000000000000000.log"), 900, 1).unwrap(),
        "damaged",
    );
    hand(
        &|disk| disk.rot(Path::new(STORE).join("orders-1/00000000000000000000.log"), 7, 1).unwrap(),
        "is damaged at byte 0: its offset does not follow",
    );

    let disk = SimDisk::new(5);
    let store = written(&disk, 5, Durability::Disk);
    refused(&disk, || store.hand_to_broker("orders", BROKER), "there is no such directory");
    refused(&disk, || store.hand_to_broker("orders", STORE), "that is the store itself");
    plant(&disk, "meta.properties", "cluster.id=x\n");
    refused(&disk, || store.hand_to_broker("orders", BROKER), "make the topic with 3 partitions");
    plant(&disk, "orders-0/00000000000000000000.log", "");
    plant(&disk, "orders-1/00000000000000000000.log", "");
    plant(&disk, "orders-2/00000000000000000000.log", "");
    refused(&disk, || store.hand_to_broker("orders", BROKER), "orders-0 has no partition.metadata");

    let error = store.hand_to_broker("nothing", BROKER).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnknownTopic { .. }), "{error}");
    // Another store has it: so would a broker.
    let other = SimDisk::new(6);
    plant_broker(&other, 3);
    let store = written(&other, 6, Durability::Disk);
    let there = open(&other, BROKER);
    let error = store.hand_to_broker("orders", BROKER).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Locked { .. }), "{error}");
    there.close().unwrap();
}

#[test]
fn what_can_not_be_taken_whole_is_refused_and_changes_nothing() {
    let take = |change: &dyn Fn(&SimDisk), reason: &str| {
        let disk = SimDisk::new(6);
        plant_broker(&disk, 3);
        let first = written(&disk, 6, Durability::Disk);
        first.hand_to_broker("orders", BROKER).unwrap();
        first.close().unwrap();
        plant(&disk, ".kafka_cleanshutdown", "");
        change(&disk);
        let store = open(&disk, "/t/data");
        refused(&disk, || store.take_from_broker(BROKER, "orders", TopicConfig::default()), reason);
        let error = store.topic("orders").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UnknownTopic { .. }), "{error}");
    };
    take(&|disk| plant(disk, "orders-4/00000000000000000000.log", ""), "partition 3 is not there");
    take(&|disk| plant(disk, "orders-1/00000000000000000000.log.swap", ""), "start the broker once");
    take(&|disk| plant(disk, "meta.properties", ""), "it is no broker's log.dir");

    let disk = SimDisk::new(7);
    plant_broker(&disk, 1);
    let store = written(&disk, 7, Durability::Disk);
    let error = store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TopicExists { .. }), "{error}");
    refused(
        &disk,
        || store.take_from_broker(BROKER, "others", TopicConfig::default()),
        "there is no such topic",
    );
    refused(
        &disk,
        || store.take_from_broker(BROKER, "__consumer_offsets", TopicConfig::default()),
        "keep for",
    );
    store.delete_topic("orders").unwrap();
    store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap();
    assert_eq!(rows(&store), [Rows::new()]);

    // A batch that is damaged: what was copied goes again.
    let disk = SimDisk::new(8);
    plant_broker(&disk, 3);
    let store = written(&disk, 8, Durability::Disk);
    store.hand_to_broker("orders", BROKER).unwrap();
    plant(&disk, ".kafka_cleanshutdown", "");
    disk.rot(Path::new(BROKER).join("orders-1/00000000000000000000.log"), 70, 1).unwrap();
    store.delete_topic("orders").unwrap();
    let error = store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap_err();
    assert!(error.to_string().contains("is damaged at byte 0"), "{error}");
    assert!(store.topic_names().is_empty());
    let left: Vec<PathBuf> = disk.files().into_iter().filter(|file| file.starts_with(STORE)).collect();
    assert!(left.iter().all(|file| !file.to_str().unwrap().contains("orders")), "{left:?}");
}

#[test]
fn a_broker_that_starts_after_any_crash_serves_of_each_partition_all_or_nothing() {
    let seed = seed();
    let disk = SimDisk::new(seed);
    plant_broker(&disk, 3);
    let store = written(&disk, seed, Durability::Disk);
    let expected = rows(&store);
    disk.record_states(true);
    store.hand_to_broker("orders", BROKER).unwrap();
    let points = disk.crash_points();
    disk.record_states(false);
    let limit = if soak() { 2_000 } else { 12 };
    let (all, none, part) = (counter(), counter(), counter());
    in_parallel(points.len(), |i| {
        for (n, state) in points[i].states(limit, seed).enumerate() {
            let which = || format!("seed {seed}, crash after operation {}, state {n}", points[i].op());
            telling(which, || {
                let there = manual(&clock()).disk(&started(&state)).open_read_only(BROKER).unwrap();
                let found = rows(&there);
                let served =
                    found.iter().zip(&expected).filter(|(found, expected)| found == expected).count();
                let whole = |(found, expected): (&Rows, &Rows)| found.is_empty() || found == expected;
                let files: Vec<_> =
                    state.files().into_iter().filter(|file| file.starts_with(BROKER)).collect();
                assert!(found.iter().zip(&expected).all(whole), "a part of a partition: {files:?}");
                let kind = if served == 3 {
                    &all
                } else if served == 1 {
                    &none
                } else {
                    &part
                };
                kind.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                // Here nothing changes; a second try ends the same, or is refused for what the first one did.
                let store = open(&state, STORE);
                assert_eq!(rows(&store), expected);
                match store.hand_to_broker("orders", BROKER) {
                    Ok(_) => {
                        let there = manual(&clock()).disk(&started(&state)).open_read_only(BROKER).unwrap();
                        assert_eq!(rows(&there), expected);
                    }
                    Err(error) => assert!(error.to_string().contains("held, records there"), "{error}"),
                }
            });
        }
    });
    let (all, none, part) = (all.into_inner(), none.into_inner(), part.into_inner());
    eprintln!("{all} states with all partitions, {none} with none, {part} with some");
    assert!(all > 0 && none > 0 && part > 0, "{all} {none} {part}");
}

fn counter() -> std::sync::atomic::AtomicUsize {
    std::sync::atomic::AtomicUsize::new(0)
}

#[test]
fn after_any_crash_a_topic_was_taken_whole_or_not_at_all() {
    let seed = seed();
    let disk = SimDisk::new(seed);
    plant_broker(&disk, 3);
    let first = written(&disk, seed, Durability::Disk);
    first.hand_to_broker("orders", BROKER).unwrap();
    let expected = rows(&first);
    first.close().unwrap();
    plant(&disk, ".kafka_cleanshutdown", "");
    plant(&disk, "log-start-offset-checkpoint", "0\n1\norders 0 4\n");
    let mut trimmed = expected.clone();
    trimmed[0].drain(..4);

    let store = open(&disk, "/t/data");
    disk.record_states(true);
    store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap();
    let points = disk.crash_points();
    disk.record_states(false);
    assert_eq!(rows(&store), trimmed, "the log's start comes along");
    let limit = if soak() { 2_000 } else { 12 };
    let (taken, not) = (counter(), counter());
    in_parallel(points.len(), |i| {
        for (n, state) in points[i].states(limit, seed).enumerate() {
            let which = || format!("seed {seed}, crash after operation {}, state {n}", points[i].op());
            telling(which, || {
                let store = open(&state, "/t/data");
                if store.topic("orders").is_err() {
                    not.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap();
                } else {
                    taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                assert_eq!(rows(&store), trimmed);
            });
        }
    });
    let (taken, not) = (taken.into_inner(), not.into_inner());
    eprintln!("{taken} states with the topic, {not} without");
    assert!(taken > 0 && not > 0, "{taken} {not}");
}

#[test]
fn any_failure_is_told_and_can_be_tried_again() {
    for (nth, kind) in (1..).flat_map(|nth| [(nth, FaultKind::Io), (nth, FaultKind::NoSpace)]) {
        let disk = SimDisk::new(nth);
        plant_broker(&disk, 3);
        let store = written(&disk, nth, Durability::PageCache);
        let expected = rows(&store);
        store.topic("orders").unwrap();
        disk.fail_nth(FaultOp::Any, nth, kind, false);
        let done = store.hand_to_broker("orders", BROKER);
        disk.clear_faults();
        let there = manual(&clock()).disk(&started(&disk)).open_read_only(BROKER).unwrap();
        let whole =
            rows(&there).iter().zip(&expected).all(|(found, expected)| found.is_empty() || found == expected);
        assert!(whole, "failure {nth}: a part of a partition");
        if done.is_ok() {
            assert_eq!(rows(&there), expected);
            if nth > 40 {
                break;
            }
        }
    }
    for nth in 1.. {
        let disk = SimDisk::new(nth);
        plant_broker(&disk, 3);
        let store = written(&disk, nth, Durability::Disk);
        store.hand_to_broker("orders", BROKER).unwrap();
        let expected = rows(&store);
        plant(&disk, ".kafka_cleanshutdown", "");
        store.delete_topic("orders").unwrap();
        disk.fail_nth(FaultOp::Any, nth, FaultKind::Io, false);
        let done = store.take_from_broker(BROKER, "orders", TopicConfig::default());
        disk.clear_faults();
        if done.is_err() {
            store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap();
        }
        assert_eq!(rows(&store), expected, "failure {nth}");
        store.close().unwrap();
        assert_eq!(rows(&open(&disk, STORE)), expected, "failure {nth}");
        if done.is_ok() && nth > 40 {
            break;
        }
    }
}

/// A disk with a stopped broker that has the topic.
fn with_broker(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    plant_broker(&disk, 3);
    let first = written(&disk, seed, Durability::Disk);
    first.hand_to_broker("orders", BROKER).unwrap();
    first.close().unwrap();
    plant(&disk, ".kafka_cleanshutdown", "");
    disk
}

#[test]
fn a_topic_that_is_taken_finds_no_offsets_of_an_older_one_also_when_its_deletion_failed() {
    let disk = with_broker(1);
    let mut left = 0;
    for nth in 1..20 {
        let store = open(&disk, &format!("/t{nth}/data"));
        let topic = store.create_topic("orders", TopicConfig::default()).unwrap();
        let records = [Record::to(&topic).value("v"), Record::to(&topic).value("v")];
        topic.partition(0).unwrap().append(records, None, Acks::All).unwrap();
        store.group("g").commit_offsets([("orders", 0, 2)]).unwrap();
        disk.fail_nth(FaultOp::Write, nth, FaultKind::NoSpace, false);
        let _ = store.delete_topic("orders");
        disk.clear_faults();
        if store.topic("orders").is_ok() {
            store.delete_topic("orders").unwrap();
        }
        left += store.group("g").committed().unwrap().len();
        store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap();
        assert_eq!(store.group("g").committed().unwrap(), [], "operation {nth}");
        store.close().unwrap();
    }
    assert!(left > 0, "no deletion left an offset");
}

#[test]
fn a_task_that_waits_for_a_topic_is_woken_when_it_is_taken() {
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let disk = with_broker(2);
    let store = open(&disk, "/t/data");
    let mut consumer = store.group("g").consumer().unwrap();
    consumer.subscribe(["orders"]).unwrap();
    let woken = std::sync::Arc::new(Woken::default());
    let waker = std::task::Waker::from(std::sync::Arc::clone(&woken));
    assert!(consumer.poll_ready(&mut std::task::Context::from_waker(&waker)).is_pending());
    store.take_from_broker(BROKER, "orders", TopicConfig::default()).unwrap();
    assert!(woken.0.load(std::sync::atomic::Ordering::SeqCst));
}

#[test]
fn what_is_taken_counts_against_the_stores_space_until_it_is_deleted() {
    let disk = with_broker(3);
    let store = manual(&clock()).disk(&disk).max_store_bytes(12_000).open("/t/data").unwrap();
    let other = store.create_topic("other", TopicConfig::default().retention_ms(None)).unwrap();
    let append =
        || other.partition(0).unwrap().append([Record::to(&other).value(&[7; 4_000])], None, Acks::All);
    store.take_from_broker(BROKER, "orders", TopicConfig::default().retention_ms(None)).unwrap();
    let full = append().unwrap_err();
    assert!(matches!(full.kind(), ErrorKind::StoreFull { used_bytes: 12_001.., .. }), "{full}");
    store.delete_topic("orders").unwrap();
    append().unwrap();
    append().unwrap();
    let full = append().unwrap_err();
    assert!(matches!(full.kind(), ErrorKind::StoreFull { used_bytes: 8_000..9_000, .. }), "{full}");
}
