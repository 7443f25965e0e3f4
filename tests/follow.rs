//! A reader beside a writer: it follows what is committed, through rolls, deletions and crashes, and changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test looks around"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use logstead::{
    Acks, AutoOffsetReset, Consumer, ConsumerConfig, Durability, ErrorKind, Maintenance, ManualClock,
    Partition, ReadOnly, Record, Store, Topic, TopicConfig,
};

const LONG: Duration = Duration::from_secs(20);

/// A writer, whose records are their own numbers, and where it writes.
struct Writer {
    store: Store,
    topic: Topic,
    home: tempfile::TempDir,
    next: u64,
}

impl Writer {
    fn new(config: TopicConfig) -> Writer {
        let home = tempfile::tempdir().unwrap();
        // What nobody waits for stays uncommitted.
        let store = Store::options().maintenance(Maintenance::Manual).open(home.path().join("s")).unwrap();
        let topic = store.create_topic("t", config).unwrap();
        Writer { store, topic, home, next: 0 }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("s")
    }

    fn partition(&self) -> Partition {
        self.topic.partition(0).unwrap()
    }

    fn append(&mut self, count: u64, acks: Acks) {
        for _ in 0..count {
            let value = value(self.next);
            self.partition().append([Record::to(&self.topic).value(&value)], None, acks).unwrap();
            self.next += 1;
        }
    }

    fn reader(&self) -> Store {
        Store::open_read_only(self.dir()).unwrap()
    }
}

fn value(number: u64) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(200, number as u8);
    value
}

fn small_segments() -> TopicConfig {
    TopicConfig::default().segment_bytes(1_000).index_interval_bytes(300)
}

fn consumer(store: &Store) -> Consumer {
    let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
    let mut consumer = store.consumer_with(config).unwrap();
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    consumer
}

/// Polls until it has seen records `from..to`, each once, in order.
fn expect(consumer: &mut Consumer, from: u64, to: u64) {
    let (mut next, until) = (from, Instant::now() + LONG);
    while next < to {
        assert!(Instant::now() < until, "{next} of {to} came");
        for record in &consumer.poll(LONG).unwrap() {
            assert_eq!(record.offset(), next as i64);
            assert_eq!(record.value(), Some(&value(next)[..]));
            next += 1;
        }
    }
    assert_eq!(next, to);
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
}

/// All names with their sizes, bytes and times.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        found.push((dir.clone(), Vec::new(), fs::metadata(&dir).unwrap().modified().unwrap()));
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                found.push((path.clone(), fs::read(path).unwrap(), modified));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn appends_and_rolls_are_followed_whatever_the_durability() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let mut writer = Writer::new(small_segments().durability(durability));
        let reader = writer.reader();
        let mut consumer = consumer(&reader);
        assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
        let mut seen = 0;
        for count in [1, 1, 2, 3, 20, 1, 0, 100, 4, 1] {
            writer.append(count, Acks::All);
            expect(&mut consumer, seen, seen + count);
            seen += count;
            let partition = reader.topic("t").unwrap().partition(0).unwrap();
            assert_eq!(partition.high_watermark(), seen as i64);
            assert_eq!(partition.scan(0).map(|records| records.unwrap().len() as u64).sum::<u64>(), seen);
        }
        assert!(log_files(&writer.dir()).len() > 30);
    }
}

#[test]
fn a_poll_that_waits_is_woken_by_what_the_writer_commits() {
    for maintenance in [Maintenance::Threads, Maintenance::Manual] {
        for durability in [Durability::Disk, Durability::PageCache] {
            let mut writer = Writer::new(small_segments().partitions(3).durability(durability));
            let reader = Store::options().maintenance(maintenance).open_read_only(writer.dir()).unwrap();
            let (asleep, sleeps) = std::sync::mpsc::sync_channel(0);
            std::thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    let mut consumer = consumer(&reader);
                    for number in 0..50 {
                        asleep.send(()).unwrap();
                        expect(&mut consumer, number, number + 1);
                    }
                });
                for _ in 0..50 {
                    sleeps.recv().unwrap();
                    writer.append(1, Acks::All);
                }
                reading.join().unwrap();
            });
        }
    }
}

#[test]
fn what_is_not_committed_is_not_shown_unless_it_is_asked_for() {
    let mut writer = Writer::new(small_segments());
    let reader = writer.reader();
    let written = Store::options().read_only(ReadOnly::Written).open_read_only(writer.dir()).unwrap();
    let end = |store: &Store| store.topic("t").unwrap().partition(0).unwrap().high_watermark();
    for round in 1..=20 {
        // Over more than one segment.
        writer.append(7, Acks::Leader);
        let committed = writer.partition().high_watermark();
        assert_eq!(end(&reader), committed);
        assert_eq!(end(&writer.reader()), committed);
        assert_eq!(end(&written), 8 * round - 1);
        writer.append(1, Acks::All);
        assert_eq!((end(&reader), end(&written)), (8 * round, 8 * round));
    }
    expect(&mut consumer(&reader), 0, 160);
    expect(&mut consumer(&written), 0, 160);
}

#[test]
fn not_a_byte_is_changed_and_no_lock_taken() {
    for shows in [ReadOnly::Committed, ReadOnly::Written] {
        let mut writer = Writer::new(small_segments());
        writer.append(30, Acks::All);
        let reader = Store::options().read_only(shows).open_read_only(writer.dir()).unwrap();
        let mut consumer = consumer(&reader);
        expect(&mut consumer, 0, 30);
        writer.append(30, Acks::All);
        writer.append(1, Acks::Leader);
        let before = tree(&writer.dir());
        let shown = if shows == ReadOnly::Written { 61 } else { 60 };
        expect(&mut consumer, 30, shown);
        assert!(consumer.poll(Duration::from_millis(30)).unwrap().is_empty());
        let again = writer.reader();
        again.topic("t").unwrap().partition(0).unwrap().offset_for_time(0).unwrap();
        again.maintain().unwrap();
        again.close().unwrap();
        reader.close().unwrap();
        assert_eq!(tree(&writer.dir()), before);
        writer.store.close().unwrap();
    }
}

#[test]
fn what_was_deleted_is_out_of_range_and_what_is_held_stays_good() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let mut writer = Writer::new(small_segments().durability(durability));
        writer.append(40, Acks::All);
        let clock = ManualClock::new(1);
        let reader = Store::options().clock(clock.clone()).open_read_only(writer.dir()).unwrap();
        let partition = reader.topic("t").unwrap().partition(0).unwrap();
        let held = partition.read(0, 1).unwrap();
        let mut earliest = consumer(&reader);
        let mut strict =
            reader.consumer_with(ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::None));
        let strict = strict.as_mut().unwrap();
        strict.assign_all(["t"]).unwrap();
        strict.seek("t", 0, 6).unwrap();
        // As retention does.
        let mut logs = log_files(&writer.dir());
        let kept: i64 = logs[5].file_stem().unwrap().to_str().unwrap().parse().unwrap();
        for log in logs.drain(..5) {
            // Not all of them have their indexes yet.
            let _ = fs::remove_file(log.with_extension("index"));
            let _ = fs::remove_file(log.with_extension("timeindex"));
            fs::remove_file(log).unwrap();
        }
        // What is open may be read for that long.
        clock.advance(Duration::from_secs(1));
        let gone = |error: logstead::Error| matches!(error.kind(), ErrorKind::OffsetOutOfRange { requested: 6, valid, .. } if *valid == (kept..40));
        assert!(gone(partition.read(6, 1 << 20).unwrap_err()));
        assert!(gone(strict.poll(Duration::ZERO).unwrap_err()));
        assert_eq!(partition.log_start_offset(), kept);
        assert_eq!(held.iter().next().unwrap().value(), Some(&value(0)[..]));
        let first = earliest.poll(LONG).unwrap();
        assert_eq!(first.iter().next().unwrap().offset(), kept);
        writer.append(3, Acks::All);
        assert_eq!(partition.read(40, 1 << 20).unwrap().iter().next().unwrap().offset(), 40);
    }
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("t-0")).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    logs.sort();
    logs
}
