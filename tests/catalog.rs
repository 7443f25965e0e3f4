//! Topics that are altered, grown and deleted while they are used: what handles say, and what every crash leaves.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "looks at the directory from outside")]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use common::{Random, in_parallel, manual, seed, telling, topic_config, value};
use logstead::{
    Acks, Durability, Error, ErrorKind, FaultKind, FaultOp, Maintenance, ManualClock, Producer,
    ProducerConfig, Record, SimDisk, Store, StoreOptions, Topic, TopicConfig,
};

const DIR: &str = "/s/data";

fn options(disk: &SimDisk) -> StoreOptions {
    manual(&ManualClock::new(1_700_000_000_000)).disk(disk)
}

fn open(disk: &SimDisk) -> Store {
    options(disk).open(DIR).unwrap()
}

fn append(topic: &Topic, partition: i32, value: &[u8]) -> i64 {
    let partition = topic.partition(partition).unwrap();
    partition.append([Record::to(topic).value(value)], None, Acks::All).unwrap().offsets.start
}

fn values(topic: &Topic, partition: i32) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    for records in topic.partition(partition).unwrap().scan(0) {
        values.extend(records.unwrap().iter().map(|record| record.value().unwrap().to_vec()));
    }
    values
}

fn is_deleted(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TopicDeleted { topic } if topic == "t")
}

// ───────── alter

#[test]
fn a_topic_that_becomes_a_disk_topic_keeps_what_it_had_through_a_power_cut() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let topic = store.create_topic("t", topic_config(Durability::PageCache)).unwrap();
    for i in 0..40_u8 {
        append(&topic, 0, &[i; 1_000]);
    }
    store.alter_topic("t", topic.config().durability(Durability::Disk)).unwrap();
    for seed in 0..20 {
        let after = open(&disk.crash(seed));
        let again = after.topic("t").unwrap();
        assert_eq!(again.config().properties(), topic.config().properties());
        assert_eq!(values(&again, 0).len(), 40, "{}", after.recovery_report());
    }
    let receipt = store.producer().unwrap().send(Record::to(&topic).value("v")).unwrap().wait().unwrap();
    assert_eq!((receipt.offset, receipt.durability), (40, Some(Durability::Disk)));
    assert_eq!(values(&open(&disk.crash(1)).topic("t").unwrap(), 0).len(), 41);
}

#[test]
fn a_topic_that_becomes_a_page_cache_topic_shows_what_was_written_without_a_sync() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let partition = topic.partition(0).unwrap();
    partition.append([Record::to(&topic).value("a")], None, Acks::Leader).unwrap();
    assert_eq!(partition.high_watermark(), 0);
    let syncs = disk.counts().syncs;
    store.alter_topic("t", topic.config().durability(Durability::PageCache)).unwrap();
    assert_eq!(partition.high_watermark(), 1);
    let of_the_catalog = disk.counts().syncs - syncs;
    let receipt = partition.append([Record::to(&topic).value("b")], None, Acks::All).unwrap();
    assert_eq!((receipt.durability, partition.high_watermark()), (Durability::PageCache, 2));
    assert_eq!(disk.counts().syncs - syncs, of_the_catalog);
}

#[test]
fn a_receipt_says_disk_only_for_what_was_synced() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let topic = store.create_topic("t", topic_config(Durability::PageCache)).unwrap();
    let producer = store.producer().unwrap();
    let delivery = producer.send(Record::to(&topic).value("v")).unwrap();
    assert_eq!(
        delivery.wait_timeout(Duration::ZERO).unwrap().unwrap().durability,
        Some(Durability::PageCache)
    );
    store.alter_topic("t", topic.config().durability(Durability::Disk)).unwrap();
    assert_eq!(delivery.try_receipt().unwrap().unwrap().durability, Some(Durability::Disk));
}

#[test]
fn live_handles_go_by_new_settings_from_the_next_batch_on() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer_with(ProducerConfig::default().batch_size(8_000)).unwrap();
    let mut writer = topic.partition(0).unwrap().writer(ProducerConfig::default().batch_size(8_000)).unwrap();
    producer.send(Record::to(&topic).value(&[1; 5_000][..])).unwrap().wait().unwrap();
    writer.send(Record::to(&topic).value(&[1; 5_000][..])).unwrap();
    writer.flush().unwrap();
    store.alter_topic("t", topic.config().max_message_bytes(2_000).segment_bytes(4_000)).unwrap();
    for _ in 0..20 {
        producer.send(Record::to(&topic).value(&[1; 700][..])).unwrap();
        writer.send(Record::to(&topic).value(&[1; 700][..])).unwrap();
    }
    producer.flush().unwrap();
    writer.flush().unwrap();
    let refused = producer.send(Record::to(&topic).value(&[1; 5_000][..])).unwrap().wait().unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::RecordTooLarge { limit: 2_000, .. }), "{refused}");
    assert_eq!(values(&topic, 0).len(), 42);
    let logs = disk.files().iter().filter(|file| file.extension().is_some_and(|e| e == "log")).count();
    assert!(logs > 5, "{logs} segments");
    // Records of the past, refused from now on.
    store.alter_topic("t", topic.config().timestamp_before_max_ms(1_000)).unwrap();
    let old = producer.send(Record::to(&topic).value("v").timestamp_ms(5)).unwrap_err();
    assert!(matches!(old.kind(), ErrorKind::InvalidTimestamp { .. }), "{old}");
}

#[test]
fn partitions_are_added_under_a_live_producer_and_are_never_taken_away() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer_with(ProducerConfig::default().batch_size(200)).unwrap();
    producer.send(Record::to(&topic).value("before")).unwrap().wait().unwrap();
    store.alter_topic("t", topic.config().partitions(6)).unwrap();
    assert_eq!((topic.partitions(), store.topic("t").unwrap().config().properties()[0].1.as_str()), (6, "6"));
    let last = producer.send(Record::to(&topic).partition(5).value("there")).unwrap().wait().unwrap();
    assert_eq!((last.partition, last.offset), (5, 0));
    let mut reached = HashSet::new();
    for i in 0..2_000 {
        let sent = producer.send(Record::to(&topic).value(&[b'x'; 150][..])).unwrap().wait().unwrap();
        reached.insert(sent.partition);
        if reached.len() == 6 {
            break;
        }
        assert!(i < 1_999, "{reached:?}");
    }
    let fewer = store.alter_topic("t", topic.config().partitions(5)).unwrap_err();
    assert!(matches!(fewer.kind(), ErrorKind::InvalidConfig { name: "num.partitions", .. }), "{fewer}");
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    assert_eq!(consumer.assignment().count(), 6);
    store.close().unwrap();
    assert_eq!(open(&disk).topic("t").unwrap().partitions(), 6);
}

#[test]
fn records_that_lie_where_a_partition_is_to_be_are_left_alone() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let foreign = Path::new(DIR).join("t-1/00000000000000000000.log");
    disk.write_file(&foreign, b"somebody's").unwrap();
    let refused = store.alter_topic("t", topic.config().partitions(2)).unwrap_err();
    assert!(refused.to_string().contains("t-1") && refused.to_string().contains("move it away"), "{refused}");
    assert_eq!(topic.partitions(), 1);
    store.close().unwrap();
    assert_eq!(open(&disk).topic("t").unwrap().partitions(), 1);
    assert_eq!(disk.read_file(&foreign).unwrap(), b"somebody's");
}

#[test]
fn what_can_not_be_changed_says_why() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let unknown = |error: Error| assert!(matches!(error.kind(), ErrorKind::UnknownTopic { .. }), "{error}");
    unknown(store.alter_topic("none", TopicConfig::default()).unwrap_err());
    unknown(store.delete_topic("none").unwrap_err());
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let invalid = store.alter_topic("t", topic.config().segment_bytes(1)).unwrap_err();
    assert!(matches!(invalid.kind(), ErrorKind::InvalidConfig { .. }), "{invalid}");
    store.close().unwrap();
    let reader = options(&disk).open_read_only(DIR).unwrap();
    for refused in [reader.delete_topic("t"), reader.alter_topic("t", TopicConfig::default())] {
        assert!(matches!(refused.unwrap_err().kind(), ErrorKind::ReadOnly { .. }));
    }
}

/// What the files take, which is all that a full disk has.
fn used(disk: &SimDisk) -> u64 {
    disk.files().iter().map(|file| disk.read_file(file).unwrap().len() as u64).sum()
}

#[test]
fn a_change_that_a_full_disk_has_no_room_for_changes_nothing() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let topic = store.create_topic("t", topic_config(Durability::PageCache)).unwrap();
    append(&topic, 0, b"v");
    let (files, before) = (disk.files(), topic.config().properties());
    disk.set_capacity(Some(used(&disk)));
    for wanted in [topic.config().partitions(3), topic.config()] {
        let full = store.alter_topic("t", wanted.durability(Durability::Disk).flush_ms(7)).unwrap_err();
        assert!(matches!(full.kind(), ErrorKind::Full { .. }), "{full}");
        assert_eq!((topic.config().properties(), topic.partitions()), (before.clone(), 1));
        // The word of what is committed may be there already.
        let left = disk.files().into_iter().filter(|file| !file.ends_with("logstead-committed"));
        assert_eq!(left.collect::<Vec<_>>(), files);
    }
    disk.set_capacity(None);
    store.alter_topic("t", topic.config().durability(Durability::Disk).partitions(3)).unwrap();
    assert_eq!(topic.partitions(), 3);
    append(&topic, 2, b"w");
}

// ───────── delete

#[test]
fn every_handle_of_a_deleted_topic_says_so_and_what_readers_hold_stays_good() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let topic = store.create_topic("t", topic_config(Durability::Disk)).unwrap();
    let partition = topic.partition(0).unwrap();
    for i in 0..60_u8 {
        append(&topic, 0, &[i; 1_000]);
    }
    let held: Vec<_> = partition.scan(0).map(|records| records.unwrap()).collect();
    let producer = store.producer().unwrap();
    let mut writer = partition.writer(ProducerConfig::default()).unwrap();
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    let delivery = producer.send(Record::to(&topic).value("never waited for")).unwrap();
    store.delete_topic("t").unwrap();

    assert!(is_deleted(&delivery.wait().unwrap_err()));
    assert!(is_deleted(&producer.send(Record::to(&topic).value("v")).and_then(|d| d.wait()).unwrap_err()));
    assert!(is_deleted(&partition.append([Record::to(&topic).value("v")], None, Acks::All).unwrap_err()));
    assert!(is_deleted(&partition.read(0, 1).unwrap_err()));
    assert!(is_deleted(&partition.get(0).unwrap_err()));
    assert!(is_deleted(&topic.partition(0).unwrap_err()));
    assert!(is_deleted(&consumer.poll(Duration::ZERO).unwrap_err()));
    assert!(is_deleted(&writer.send(Record::to(&topic).value("v")).unwrap_err()));
    let unknown = producer.send(Record::to("t").value("v")).unwrap_err();
    assert!(matches!(unknown.kind(), ErrorKind::UnknownTopic { .. }), "{unknown}");
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("t-")), "{left:?}");

    // The same name, another topic.
    let anew = store.create_topic("t", TopicConfig::default()).unwrap();
    assert_ne!(anew.id(), topic.id());
    let receipt = producer.send(Record::to("t").value("first")).unwrap().wait().unwrap();
    assert_eq!(receipt.offset, 0);
    assert!(is_deleted(&partition.read(0, 1).unwrap_err()));
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
    for (i, record) in held.iter().flatten().enumerate() {
        assert_eq!(record.value(), Some(&[i as u8; 1_000][..]));
    }
    store.close().unwrap();
    let store = Store::open(home.path()).unwrap();
    assert!(store.recovery_report().clean);
    assert_eq!(values(&store.topic("t").unwrap(), 0), [b"first"]);
}

#[test]
fn a_poll_that_waits_hears_of_the_deletion() {
    let store = Store::options().disk(&SimDisk::new(1)).open(DIR).unwrap();
    store.create_topic("t", TopicConfig::default()).unwrap();
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    let waiting = std::thread::spawn(move || consumer.poll(Duration::from_secs(60)));
    store.delete_topic("t").unwrap();
    assert!(is_deleted(&waiting.join().unwrap().unwrap_err()));
}

#[test]
fn g28_a_topic_with_the_longest_name_can_be_deleted_and_what_is_left_goes_at_the_next_open() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let name = "n".repeat(249);
    store.create_topic(&name, TopicConfig::default().partitions(3)).unwrap();
    disk.fail_nth(FaultOp::Remove, 1, FaultKind::Io, true);
    store.delete_topic(&name).unwrap();
    disk.clear_faults();
    let names: HashSet<String> = disk
        .files()
        .iter()
        .filter_map(|file| Some(file.parent()?.file_name()?.to_str()?.to_owned()))
        .filter(|dir| dir.ends_with("-delete"))
        .collect();
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.len() <= 255), "{names:?}");
    store.close().unwrap();
    let store = open(&disk);
    assert!(store.topic_names().is_empty());
    assert!(
        !disk.files().iter().any(|file| file.to_string_lossy().contains("-delete")),
        "{:?}",
        disk.files()
    );
}

#[test]
fn a_brokers_topic_can_be_altered_and_deleted() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let topic = store.create_topic("made-elsewhere", TopicConfig::default().partitions(2)).unwrap();
    append(&topic, 1, b"v");
    let id = topic.id();
    store.close().unwrap();
    // Without the catalog it is a broker's.
    let bytes = disk.read_file(Path::new(DIR).join("logstead-topics")).unwrap();
    assert!(!bytes.is_empty());
    disk.write_file(Path::new(DIR).join("logstead-topics"), b"").unwrap();
    let store = open(&disk);
    let topic = store.topic("made-elsewhere").unwrap();
    assert_eq!(topic.id(), id);
    store.alter_topic("made-elsewhere", topic.config().segment_bytes(5_000).partitions(3)).unwrap();
    append(&topic, 2, b"w");
    store.close().unwrap();
    let store = open(&disk);
    let topic = store.topic("made-elsewhere").unwrap();
    assert_eq!(
        (topic.partitions(), values(&topic, 1), values(&topic, 2)),
        (3, vec![b"v".to_vec()], vec![b"w".to_vec()])
    );
    assert!(topic.config().properties().contains(&("segment.bytes", "5000".to_owned())));
    store.delete_topic("made-elsewhere").unwrap();
    store.close().unwrap();
    assert!(open(&disk).topic_names().is_empty());
}

#[test]
fn a_producer_that_lives_on_keeps_nothing_of_a_deleted_topic() {
    let home = tempfile::tempdir().unwrap();
    // Without threads, which would open files of their own.
    let store = Store::options().maintenance(Maintenance::Manual).open(home.path()).unwrap();
    let config = topic_config(Durability::Disk).partitions(3);
    let topic = store.create_topic("t", config).unwrap();
    let producer = store.producer_with(ProducerConfig::default().acks(Acks::Leader)).unwrap();
    for p in 0..3 {
        for _ in 0..40 {
            producer.send(Record::to(&topic).partition(p).value(&[7; 1_000][..])).unwrap();
        }
    }
    producer.flush().unwrap();
    // Written, and committed by nobody.
    producer.send(Record::to(&topic).partition(1).value("lost")).unwrap().wait().unwrap();
    assert!(store.stats().open_files >= 3);
    store.delete_topic("t").unwrap();
    assert_eq!(store.stats().open_files, 0, "their space is not given back");
    // What was lost is said once, and does not stand in the way of what comes.
    assert!(is_deleted(&producer.flush().unwrap_err()));
    store.create_topic("t", TopicConfig::default()).unwrap();
    producer.send(Record::to("t").value("v")).unwrap().wait().unwrap();
    producer.flush().unwrap();
    producer.close().unwrap();
    store.close().unwrap();
}

#[test]
fn a_new_topic_finds_no_checkpoint_of_an_older_one_also_when_its_deletion_failed() {
    let (mut failed, mut nth) = (0, 1);
    loop {
        let (disk, clock) = (SimDisk::new(nth), ManualClock::new(1_700_000_000_000));
        let store = manual(&clock).disk(&disk).open(DIR).unwrap();
        let topic = store.create_topic("t", topic_config(Durability::Disk)).unwrap();
        for _ in 0..30 {
            append(&topic, 0, b"old");
        }
        clock.advance(Duration::from_secs(2));
        store.maintain().unwrap();
        let points = Path::new(DIR).join("recovery-point-offset-checkpoint");
        let says = || String::from_utf8(disk.read_file(&points).unwrap()).unwrap();
        assert!(says().contains("t 0 30"), "{}", says());
        disk.fail_nth(FaultOp::Any, nth, FaultKind::NoSpace, false);
        let deleted = store.delete_topic("t");
        disk.clear_faults();
        if store.topic("t").is_ok() {
            store.delete_topic("t").unwrap();
        }
        let topic = store.create_topic("t", topic_config(Durability::Disk)).unwrap();
        assert!(!says().contains("t 0"), "operation {nth}: {}", says());
        append(&topic, 0, b"new");
        let after = open(&disk.kill());
        let found = after.topic("t").unwrap();
        assert_eq!(values(&found, 0), [b"new"], "operation {nth}: {}", after.recovery_report());
        assert_eq!(append(&found, 0, b"next"), 1, "operation {nth}");
        failed += usize::from(deleted.is_err());
        if nth > 100 {
            break;
        }
        nth += 1;
    }
    assert!(failed > 5, "only {failed} deletions failed");
}

// ───────── crashes

/// All topics: id and settings.
type Shape = BTreeMap<String, (Option<String>, Vec<(&'static str, String)>)>;

fn shape(store: &Store) -> Shape {
    let topics = store.topic_names().into_iter().map(|name| store.topic(&name).unwrap());
    topics.map(|topic| (topic.name().to_owned(), (topic.id(), topic.config().properties()))).collect()
}

/// What was sent to a partition, by topic id, and after which operation how much of it a power cut must leave.
#[derive(Default)]
struct Sent {
    values: Vec<Vec<u8>>,
    kept: Vec<(u64, usize)>,
}

struct Life {
    seed: u64,
    disk: SimDisk,
    store: Store,
    /// After so many operations the store looked like this.
    shapes: Vec<(u64, Shape)>,
    sent: BTreeMap<(String, i32), Sent>,
}

impl Life {
    fn new(seed: u64) -> Life {
        let disk = SimDisk::new(seed);
        disk.record_states(true);
        let store = open(&disk);
        let shapes = vec![(0, Shape::new()), (disk.op_count(), shape(&store))];
        Life { seed, disk, store, shapes, sent: BTreeMap::new() }
    }

    /// A change, and what the store looks like after it.
    fn step(&mut self, change: impl FnOnce(&Store)) {
        change(&self.store);
        self.shapes.push((self.disk.op_count(), shape(&self.store)));
    }

    fn append(&mut self, topic: &str, partition: i32) {
        let topic = self.store.topic(topic).unwrap();
        let sent = self.sent.entry((topic.id().unwrap(), partition)).or_default();
        let value = value(self.seed, sent.values.len() as u64, 300);
        sent.values.push(value.clone());
        let partition = topic.partition(partition).unwrap();
        let receipt = partition.append([Record::to(&topic).value(&value)], None, Acks::All).unwrap();
        if receipt.durability == Durability::Disk {
            sent.kept.push((self.disk.op_count(), sent.values.len()));
        }
    }

    /// Everything sent so far to a topic is safe.
    fn all_kept(&mut self, topic: &str) {
        let id = self.store.topic(topic).unwrap().id().unwrap();
        for ((of, _), sent) in &mut self.sent {
            if *of == id {
                sent.kept.push((self.disk.op_count(), sent.values.len()));
            }
        }
    }

    /// A disk that a crash left after `op` operations looks as before or as after the change that was under way.
    fn survives(&self, disk: &SimDisk, op: u64) {
        let store = open(disk);
        let found = shape(&store);
        let done = self.shapes.iter().rposition(|(ops, _)| *ops <= op).unwrap();
        let allowed: Vec<_> = self.shapes.iter().skip(done).take(2).map(|(_, shape)| shape).collect();
        assert!(allowed.contains(&&found), "{found:?}\nis none of {allowed:?}");
        for name in store.topic_names() {
            let topic = store.topic(&name).unwrap();
            for p in 0..topic.partitions() as i32 {
                let nothing = Sent::default();
                let sent = self.sent.get(&(topic.id().unwrap(), p)).unwrap_or(&nothing);
                let found = values(&topic, p);
                assert_eq!(Some(found.as_slice()), sent.values.get(..found.len()), "{name}-{p}");
                let kept = sent.kept.iter().rfind(|(ops, _)| *ops <= op).map_or(0, |(_, kept)| *kept);
                assert!(
                    found.len() >= kept,
                    "{name}-{p}: {} of {kept}\n{}",
                    found.len(),
                    store.recovery_report()
                );
                append(&topic, p, b"goes on");
            }
        }
        // Names that were under way are free, or taken by what is there.
        for name in ["a", "b", "new"] {
            if !found.contains_key(name) {
                let topic = store.create_topic(name, TopicConfig::default()).unwrap();
                assert_eq!(append(&topic, 0, b"first"), 0);
            }
        }
        store.delete_topic("a").unwrap();
        store.close().unwrap();
        let again = open(disk);
        assert!(again.recovery_report().clean && again.topic("a").is_err());
        assert!(!disk.files().iter().any(|file| file.to_string_lossy().contains("-delete")));
    }
}

fn life(seed: u64) -> Life {
    let mut life = Life::new(seed);
    let config = topic_config(Durability::Disk).partitions(2);
    life.step(|store| drop(store.create_topic("a", config.clone()).unwrap()));
    for p in [0, 1, 0] {
        life.append("a", p);
    }
    life.step(|store| store.alter_topic("a", config.clone().durability(Durability::PageCache)).unwrap());
    for p in [0, 1, 1] {
        life.append("a", p);
    }
    life.step(|store| store.alter_topic("a", config.clone().partitions(3).flush_ms(7)).unwrap());
    life.all_kept("a");
    for p in [2, 0] {
        life.append("a", p);
    }
    life.step(|store| drop(store.create_topic("b", TopicConfig::default()).unwrap()));
    life.append("b", 0);
    life.step(|store| store.delete_topic("a").unwrap());
    life.append("b", 0);
    life.step(|store| drop(store.create_topic("a", TopicConfig::default()).unwrap()));
    life.append("a", 0);
    life.step(|store| store.delete_topic("b").unwrap());
    life
}

#[test]
fn every_crash_leaves_each_change_done_or_not_begun() {
    let seed = seed();
    let life = life(seed);
    let points = life.disk.crash_points();
    life.disk.record_states(false);
    let seen = Mutex::new(HashSet::new());
    in_parallel(points.len(), |i| {
        let op = points[i].op();
        let killed = std::iter::once(points[i].killed(seed));
        for (n, disk) in killed.chain(points[i].states(40, seed)).enumerate() {
            if seen.lock().unwrap().insert((disk.content_hash(), op)) {
                telling(
                    || format!("seed {seed}, crash after operation {op}, state {n}"),
                    || life.survives(&disk, op),
                );
            }
        }
    });
    let states = seen.into_inner().unwrap().len();
    eprintln!("{states} different states");
    assert!(states >= 2_000, "only {states}");
}

#[test]
fn a_change_that_fails_anywhere_leaves_a_store_that_goes_on() {
    let seed = seed();
    let ops = [
        FaultOp::Write,
        FaultOp::SyncData,
        FaultOp::SyncDir,
        FaultOp::Rename,
        FaultOp::Create,
        FaultOp::Open,
    ];
    in_parallel(ops.len() * 2 * 60, |i| {
        let (op, sticky, nth) =
            (ops[i % ops.len()], i / ops.len() % 2 == 1, 1 + i as u64 / (2 * ops.len() as u64));
        telling(
            || format!("seed {seed}, {op:?} {nth}, sticky {sticky}"),
            || {
                let disk = SimDisk::new(seed);
                let store = open(&disk);
                let mut random = Random(seed ^ i as u64);
                let old = store.create_topic("a", topic_config(Durability::PageCache)).unwrap();
                append(&old, 0, b"v");
                disk.fail_nth(op, nth, FaultKind::Io, sticky);
                let _ = store.alter_topic("a", topic_config(Durability::Disk).partitions(3));
                let _ = store.create_topic("b", TopicConfig::default());
                let deleted = store.delete_topic("a").is_ok();
                let made = store.create_topic("a", TopicConfig::default().partitions(4)).is_ok();
                disk.clear_faults();
                let after = if random.one_in(2) { disk.kill() } else { disk.crash(random.next()) };
                drop(store);
                let store = open(&after);
                match store.topic("a") {
                    Ok(topic) if topic.id() == old.id() => assert!(!deleted, "it is back"),
                    Ok(topic) => assert_eq!(topic.partitions(), 4),
                    Err(_) => assert!(!made, "it is gone"),
                }
                for name in store.topic_names() {
                    let topic = store.topic(&name).unwrap();
                    for p in 0..topic.partitions() as i32 {
                        append(&topic, p, b"goes on");
                    }
                }
                store.close().unwrap();
            },
        );
    });
}

#[test]
fn what_was_begun_keeps_no_store_from_opening_on_a_full_disk_and_is_finished_when_there_is_room() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.create_topic("old", TopicConfig::default()).unwrap();
    disk.record_states(true);
    store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    store.delete_topic("old").unwrap();
    let points = disk.crash_points();
    disk.record_states(false);
    let mut begun = 0;
    for point in points {
        let disk = point.killed(1);
        disk.set_capacity(Some(used(&disk)));
        let store = options(&disk).open(DIR).unwrap_or_else(|e| panic!("operation {}: {e}", point.op()));
        let names = store.topic_names();
        drop(store);
        disk.set_capacity(None);
        let now = open(&disk).topic_names();
        begun += usize::from(now != names);
        assert!(names.iter().all(|name| now.contains(name)), "{names:?}, then {now:?}");
        let store = open(&disk);
        for name in &now {
            append(&store.topic(name).unwrap(), 0, b"goes on");
        }
    }
    assert!(begun > 0);
}

// ───────── what users are called for

/// Has another thread make a topic, which needs the catalog; whether it could within ten seconds.
fn another_thread_makes_a_topic(store: &Store) -> bool {
    let (store, (done, made)) = (store.clone(), std::sync::mpsc::channel());
    std::thread::spawn(move || done.send(store.create_topic("of-another", TopicConfig::default()).is_ok()));
    made.recv_timeout(Duration::from_secs(10)) == Ok(true)
}

/// A producer whose batch waits for a sync, and what its hook, which uses the catalog, finds out.
fn pending(store: &Store, topic: &Topic) -> (Producer, Receiver<(bool, bool)>) {
    let producer = store.producer_with(ProducerConfig::default().batch_size(0).linger_ms(0)).unwrap();
    let ((told, heard), inside) = (std::sync::mpsc::channel(), store.clone());
    producer
        .on_delivery(move |_| {
            let own = inside.create_topic("of-the-hook", TopicConfig::default()).unwrap_err();
            let refused = matches!(own.kind(), ErrorKind::WouldWaitForItself { .. });
            told.send((refused, another_thread_makes_a_topic(&inside))).unwrap();
        })
        .unwrap();
    drop(producer.send(Record::to(topic).value("v")).unwrap());
    assert!(heard.try_recv().is_err(), "it is committed already");
    (producer, heard)
}

#[test]
fn a_hook_that_hears_of_a_deletion_holds_nobody_up_who_makes_a_topic() {
    let store = open(&SimDisk::new(1));
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let (_producer, heard) = pending(&store, &topic);
    store.delete_topic("t").unwrap();
    assert_eq!(heard.try_recv(), Ok((true, true)));
}

#[test]
fn a_hook_that_is_called_by_an_alteration_holds_nobody_up_who_makes_a_topic() {
    // The sync of a looser topic that becomes a stricter one, and the looser settings, tell hooks.
    for stricter in [false, true] {
        let store = open(&SimDisk::new(1));
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        let (_producer, heard) = pending(&store, &topic);
        let wanted = match stricter {
            true => topic.config().max_message_bytes(2_000),
            false => topic.config().durability(Durability::PageCache),
        };
        store.alter_topic("t", wanted).unwrap();
        assert_eq!(heard.try_recv(), Ok((true, true)), "stricter: {stricter}");
    }
}

/// A task that makes the topic anew as soon as it is woken.
struct MakesAnew {
    store: Store,
    made: Mutex<Option<logstead::Result<Topic>>>,
}

impl std::task::Wake for MakesAnew {
    fn wake(self: std::sync::Arc<Self>) {
        let made = self.store.create_topic("t", TopicConfig::default());
        self.made.lock().unwrap().get_or_insert(made);
    }
}

#[test]
fn a_task_that_is_woken_by_a_deletion_may_make_the_topic_anew() {
    let (done, waited) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let store = open(&SimDisk::new(1));
        store.create_topic("t", TopicConfig::default()).unwrap();
        let mut consumer = store.consumer().unwrap();
        consumer.assign_all(["t"]).unwrap();
        let task = std::sync::Arc::new(MakesAnew { store: store.clone(), made: Mutex::default() });
        let waker = std::task::Waker::from(std::sync::Arc::clone(&task));
        assert!(consumer.poll_ready(&mut std::task::Context::from_waker(&waker)).is_pending());
        store.delete_topic("t").unwrap();
        done.send(task.made.lock().unwrap().take().unwrap().is_ok()).unwrap();
    });
    assert_eq!(waited.recv_timeout(Duration::from_secs(10)), Ok(true));
}
