//! A reader beside a writer: it follows what is committed, through rolls, deletions and crashes, and changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test looks around"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use logstead::{
    Acks, AutoOffsetReset, Consumer, ConsumerConfig, Durability, ErrorKind, Maintenance, ManualClock,
    Partition, ReadOnly, Record, Store, Topic, TopicConfig,
};

const LONG: Duration = Duration::from_secs(20);

#[cfg(feature = "testing")]
const SIM: &str = "/s";

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
        let asked = Instant::now();
        let records = consumer.poll(LONG).unwrap();
        assert!(asked.elapsed() < LONG / 2, "nobody woke it");
        for record in &records {
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
            // By hand each takes ten milliseconds.
            let rounds = if maintenance == Maintenance::Threads { 200 } else { 30 };
            let mut writer = Writer::new(small_segments().partitions(3).durability(durability));
            let reader = Store::options().maintenance(maintenance).open_read_only(writer.dir()).unwrap();
            let (asleep, sleeps) = std::sync::mpsc::sync_channel(0);
            std::thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    let mut consumer = consumer(&reader);
                    for number in 0..rounds {
                        asleep.send(()).unwrap();
                        expect(&mut consumer, number, number + 1);
                    }
                });
                for _ in 0..rounds {
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

#[test]
fn a_start_that_moved_is_seen_whether_or_not_segments_went() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let mut writer = Writer::new(small_segments().durability(durability));
        writer.append(40, Acks::All);
        let clock = ManualClock::new(1);
        let reader = Store::options().clock(clock.clone()).open_read_only(writer.dir()).unwrap();
        let partition = reader.topic("t").unwrap().partition(0).unwrap();
        let held = partition.read(0, 1).unwrap();
        assert_eq!(partition.log_start_offset(), 0);
        let mut earliest = consumer(&reader);
        // Inside the first segment, at the next one's base, behind several, and all there is.
        for before in [1, 2, 5, 23, 40] {
            assert_eq!(writer.store.delete_records("t", 0, before).unwrap(), before);
            clock.advance(Duration::from_secs(1));
            assert_eq!(partition.log_start_offset(), before);
            let gone = partition.read(before - 1, 1).unwrap_err();
            let valid = before..40;
            assert!(
                matches!(gone.kind(), ErrorKind::OffsetOutOfRange { valid: told, .. } if *told == valid),
                "{gone}"
            );
            let found: Vec<_> = partition.scan(before).map(Result::unwrap).collect();
            assert_eq!(found.iter().map(|records| records.len()).sum::<usize>() as i64, 40 - before);
        }
        assert_eq!(held.iter().next().unwrap().value(), Some(&value(0)[..]));
        // A store that is opened now sees it at once, and one that was opened before at the first use.
        let late = writer.reader();
        writer.append(3, Acks::All);
        writer.store.delete_records("t", 0, 41).unwrap();
        assert_eq!(late.topic("t").unwrap().partition(0).unwrap().log_start_offset(), 41);
        assert_eq!(writer.reader().topic("t").unwrap().partition(0).unwrap().log_start_offset(), 41);
        clock.advance(Duration::from_secs(1));
        let first = earliest.poll(LONG).unwrap();
        assert_eq!(first.iter().next().unwrap().offset(), 41);
    }
}

#[test]
fn topics_that_are_made_grown_deleted_and_made_anew_are_followed() {
    let mut writer = Writer::new(small_segments());
    writer.append(5, Acks::All);
    let clock = ManualClock::new(1);
    let reader = Store::options().clock(clock.clone()).open_read_only(writer.dir()).unwrap();
    let old = reader.topic("t").unwrap();
    let held = old.partition(0).unwrap().read(0, 1 << 20).unwrap();
    assert!(matches!(reader.topic("u").unwrap_err().kind(), ErrorKind::UnknownTopic { .. }));

    writer.store.create_topic("u", TopicConfig::default()).unwrap();
    let mut consumer = reader.consumer().unwrap();
    consumer.assign_all(["u"]).unwrap();
    assert_eq!(reader.topic_names(), ["t", "u"]);
    // One that nobody has read yet when it goes.
    writer.store.create_topic("v", TopicConfig::default()).unwrap();
    let unread = reader.topic("v").unwrap();
    writer.store.delete_topic("v").unwrap();
    assert!(matches!(unread.partition(0).unwrap_err().kind(), ErrorKind::TopicDeleted { .. }));

    writer.store.alter_topic("t", writer.topic.config().partitions(3).flush_ms(77)).unwrap();
    writer.topic.partition(2).unwrap().append([Record::to("t").value("new")], None, Acks::All).unwrap();
    assert_eq!(reader.topic("t").unwrap().partitions(), 3);
    assert_eq!(old.config(), writer.topic.config());
    assert_eq!(old.partition(2).unwrap().high_watermark(), 1);

    // Somebody sleeps on it while it goes.
    std::thread::scope(|scope| {
        let asleep = scope.spawn(|| consumer.poll(LONG).unwrap_err());
        writer.store.delete_topic("u").unwrap();
        let deleted = asleep.join().unwrap();
        assert!(matches!(deleted.kind(), ErrorKind::TopicDeleted { .. }), "{deleted}");
    });
    assert_eq!(reader.topic_names(), ["t"]);

    writer.store.delete_topic("t").unwrap();
    writer.topic = writer.store.create_topic("t", small_segments()).unwrap();
    writer.append(2, Acks::All);
    assert_eq!(reader.topic("t").unwrap().partition(0).unwrap().high_watermark(), 2);
    assert!(matches!(old.partition(0).unwrap_err().kind(), ErrorKind::TopicDeleted { .. }));
    assert_eq!(held.len(), 5);

    // Who only holds a handle learns it from the directory.
    let handle = reader.topic("t").unwrap().partition(0).unwrap();
    writer.store.delete_topic("t").unwrap();
    writer.topic = writer.store.create_topic("t", small_segments()).unwrap();
    clock.advance(Duration::from_secs(1));
    let deleted = handle.read(0, 1).unwrap_err();
    assert!(matches!(deleted.kind(), ErrorKind::TopicDeleted { .. }), "{deleted}");
}

#[test]
fn a_topic_that_changes_its_durability_is_followed_by_what_it_promises_at_the_time() {
    let mut writer = Writer::new(small_segments());
    let reader = writer.reader();
    let partition = reader.topic("t").unwrap().partition(0).unwrap();
    for _ in 0..3 {
        for (durability, shown) in [(Durability::PageCache, 4), (Durability::Disk, 0)] {
            writer.store.alter_topic("t", writer.topic.config().durability(durability)).unwrap();
            let before = partition.high_watermark();
            assert_eq!(before, writer.next as i64, "what was written before is committed");
            writer.append(4, Acks::Leader);
            assert_eq!(partition.high_watermark(), before + shown, "{durability}");
            assert_eq!(writer.partition().high_watermark(), before + shown);
        }
        writer.append(1, Acks::All);
    }
    expect(&mut consumer(&reader), 0, writer.next);
}

#[test]
fn a_batch_that_is_not_whole_yet_is_waited_for() {
    let mut writer = Writer::new(TopicConfig::default().durability(Durability::PageCache));
    writer.append(3, Acks::All);
    let image = writer.home.path().join("image");
    common::copy_dir(&writer.dir(), &image);
    let log = image.join("t-0/00000000000000000000.log");
    let whole = fs::read(&log).unwrap();
    let batch = whole.len() / 3;
    fs::write(&log, &whole[..batch]).unwrap();
    let reader = Store::open_read_only(&image).unwrap();
    let mut consumer = consumer(&reader);
    expect(&mut consumer, 0, 1);
    // Byte by byte, as a write that is seen in the middle.
    for len in batch..=whole.len() {
        fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
        fs::write(&log, &whole[..len]).unwrap();
        let end = reader.topic("t").unwrap().partition(0).unwrap().high_watermark();
        assert_eq!(end as usize, len / batch, "{len} bytes");
    }
    expect(&mut consumer, 1, 3);
}

#[test]
fn records_that_a_crash_took_back_are_not_mixed_with_those_that_came_in_their_place() {
    let mut writer = Writer::new(TopicConfig::default());
    writer.append(2, Acks::All);
    writer.append(3, Acks::Leader);
    let image = writer.home.path().join("image");
    common::copy_dir(&writer.dir(), &image);
    let reader = Store::options().read_only(ReadOnly::Written).open_read_only(&image).unwrap();
    let careful = Store::open_read_only(&image).unwrap();
    let mut consumers = [consumer(&reader), consumer(&careful)];
    expect(&mut consumers[0], 0, 5);
    expect(&mut consumers[1], 0, 2);
    // A power cut takes two of them, and the next life of the writer writes three others.
    let log = image.join("t-0/00000000000000000000.log");
    let len = fs::metadata(&log).unwrap().len();
    fs::File::options().write(true).open(&log).unwrap().set_len(len / 5 * 3).unwrap();
    let again = Store::open(&image).unwrap();
    let topic = again.topic("t").unwrap();
    let end = |store: &Store| store.topic("t").unwrap().partition(0).unwrap().high_watermark();
    assert_eq!((end(&reader), end(&careful)), (3, 3));
    let error = reader.topic("t").unwrap().partition(0).unwrap().read(5, 1).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OffsetOutOfRange { valid, .. } if *valid == (0..3)), "{error}");
    for number in 10..13 {
        let value = value(number);
        topic.partition(0).unwrap().append([Record::to(&topic).value(&value)], None, Acks::All).unwrap();
    }
    for store in [&reader, &careful] {
        let records = store.topic("t").unwrap().partition(0).unwrap().read(0, 1 << 20).unwrap();
        let numbers: Vec<u8> = records.iter().map(|record| record.value().unwrap()[7]).collect();
        assert_eq!(numbers, [0, 1, 2, 10, 11, 12]);
    }
}

#[test]
fn a_segment_that_another_file_replaces_is_read_anew() {
    // Two descriptors at most: the old one is given up meanwhile.
    let mut writer = Writer::new(small_segments());
    writer.append(200, Acks::All);
    let reader = Store::options().max_open_files(16).open_read_only(writer.dir()).unwrap();
    let partition = reader.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(partition.read(0, 1).unwrap().len(), 1);
    // As compaction does: the same name, another file.
    let first = &log_files(&writer.dir())[0];
    let swap = first.with_extension("swap");
    fs::copy(first, &swap).unwrap();
    fs::rename(&swap, first).unwrap();
    let all = partition.scan(1).map(|records| records.unwrap().len()).sum::<usize>();
    assert_eq!(all, 199);
    assert_eq!(partition.read(0, 1).unwrap().len(), 1);
}

#[test]
fn while_a_compaction_exchanges_segments_a_reader_goes_on_with_what_it_has() {
    let mut writer = Writer::new(small_segments().durability(Durability::PageCache));
    writer.append(20, Acks::All);
    let clock = ManualClock::new(1);
    let reader = Store::options().clock(clock.clone()).open_read_only(writer.dir()).unwrap();
    let partition = reader.topic("t").unwrap().partition(0).unwrap();
    let first = &log_files(&writer.dir())[0];
    let swap = PathBuf::from(format!("{}.swap", first.display()));
    fs::rename(first, &swap).unwrap();
    clock.advance(Duration::from_secs(1));
    assert_eq!((partition.log_start_offset(), partition.high_watermark()), (0, 20));
    let opened = writer.reader().topic("t").unwrap().partition(0).unwrap_err();
    assert!(opened.to_string().contains("compaction"), "{opened}");
    fs::rename(&swap, first).unwrap();
    clock.advance(Duration::from_secs(1));
    assert_eq!(partition.scan(0).map(|records| records.unwrap().len()).sum::<usize>(), 20);
}

#[test]
fn where_a_recovery_would_end_the_log_a_reader_ends_it_with_every_look() {
    let mut writer = Writer::new(small_segments().durability(Durability::PageCache));
    writer.append(20, Acks::All);
    let image = writer.home.path().join("image");
    common::copy_dir(&writer.dir(), &image);
    // A crash left the first segment with bytes behind its last batch, and others behind that.
    let logs = log_files(&image);
    assert!(logs.len() > 2);
    let end: i64 = logs[1].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let mut first = fs::read(&logs[0]).unwrap();
    first.extend([0; 300]);
    fs::write(&logs[0], first).unwrap();
    let clock = ManualClock::new(1);
    let reader = Store::options().clock(clock.clone()).open_read_only(&image).unwrap();
    let partition = reader.topic("t").unwrap().partition(0).unwrap();
    for _ in 0..3 {
        assert_eq!(partition.high_watermark(), end);
        assert_eq!(partition.read(0, 1 << 20).unwrap().len(), end as usize);
        // The names are looked at again.
        clock.advance(Duration::from_secs(1));
    }
    let recovered = Store::open(&image).unwrap();
    assert_eq!(recovered.topic("t").unwrap().partition(0).unwrap().high_watermark(), end);
    assert_eq!(partition.high_watermark(), end);
}

#[test]
fn a_slot_that_says_nothing_sensible_moves_nobody() {
    let mut writer = Writer::new(TopicConfig::default());
    writer.append(2, Acks::All);
    let reader = writer.reader();
    let partition = reader.topic("t").unwrap().partition(0).unwrap();
    writer.append(2, Acks::Leader);
    let slot = writer.dir().join("t-0/logstead-committed");
    let mut torn = fs::read(&slot).unwrap();
    torn[19] ^= 6;
    fs::write(&slot, torn).unwrap();
    assert_eq!(partition.high_watermark(), 2);
    writer.append(1, Acks::All);
    assert_eq!(partition.high_watermark(), 5);
}

#[test]
fn a_reader_that_was_there_before_the_writer_takes_nothing_by_trust() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("s");
    let config = TopicConfig::default().durability(Durability::PageCache);
    let store = Store::open(&dir).unwrap();
    store.create_topic("t", config).unwrap();
    store.close().unwrap();
    // Closed in order, and of a partition that nobody used nothing is known.
    let reader = Store::open_read_only(&dir).unwrap();
    assert!(reader.recovery_report().clean);
    let store = Store::open(&dir).unwrap();
    let topic = store.topic("t").unwrap();
    for number in 0..3 {
        let value = value(number);
        topic.partition(0).unwrap().append([Record::to(&topic).value(&value)], None, Acks::All).unwrap();
    }
    let log = dir.join("t-0/00000000000000000000.log");
    let whole = fs::read(&log).unwrap();
    // Its first look falls into the middle of a write.
    fs::write(&log, &whole[..whole.len() / 2]).unwrap();
    let mut consumer = consumer(&reader);
    expect(&mut consumer, 0, 1);
    fs::write(&log, &whole).unwrap();
    expect(&mut consumer, 1, 3);
}

#[test]
fn a_partition_without_our_files_is_followed_by_its_batches() {
    let mut writer = Writer::new(small_segments().durability(Durability::PageCache));
    writer.append(50, Acks::All);
    // A broker's directory, as it grows: nothing of ours is in it.
    let broker = writer.home.path().join("broker");
    fs::create_dir_all(broker.join("t-0")).unwrap();
    fs::write(broker.join("recovery-point-offset-checkpoint"), "0\n0\n").unwrap();
    let logs = log_files(&writer.dir());
    let target = |log: &Path| broker.join("t-0").join(log.file_name().unwrap());
    fs::write(target(&logs[0]), b"").unwrap();
    let reader = Store::open_read_only(&broker).unwrap();
    let mut consumer = consumer(&reader);
    let mut seen = 0;
    for log in &logs {
        let bytes = fs::read(log).unwrap();
        for len in (0..=bytes.len()).step_by(100).chain([bytes.len()]) {
            fs::write(target(log), &bytes[..len]).unwrap();
            let end = reader.topic("t").unwrap().partition(0).unwrap().high_watermark() as u64;
            assert!(end >= seen);
            expect(&mut consumer, seen, end);
            seen = end;
        }
    }
    assert_eq!(seen, 50);
}

#[cfg(feature = "testing")]
#[test]
fn without_reports_a_reader_that_waits_looks_every_ten_milliseconds_and_no_more() {
    for maintenance in [Maintenance::Threads, Maintenance::Manual] {
        let disk = logstead::SimDisk::in_memory();
        let store = Store::options().disk(&disk).open(SIM).unwrap();
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        topic.partition(0).unwrap();
        let reader = Store::options().disk(&disk).maintenance(maintenance).open_read_only(SIM).unwrap();
        let mut consumer = consumer(&reader);
        assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
        let before = disk.counts().reads;
        assert!(consumer.poll(Duration::from_millis(200)).unwrap().is_empty());
        let reads = disk.counts().reads - before;
        assert!((4..=150).contains(&reads), "{reads} reads in 200 ms");
        // Nobody waits any more: one look under way, and no more.
        let before = disk.counts().reads;
        let (_nobody, news) = std::sync::mpsc::channel::<()>();
        assert!(news.recv_timeout(Duration::from_millis(100)).is_err());
        assert!(disk.counts().reads - before <= 8);
    }
}

#[test]
fn a_task_is_woken_by_the_thread_or_by_maintain() {
    struct Task(std::sync::mpsc::Sender<()>);
    impl std::task::Wake for Task {
        fn wake(self: std::sync::Arc<Self>) {
            let _ = self.0.send(());
        }
    }
    for maintenance in [Maintenance::Threads, Maintenance::Manual] {
        let mut writer = Writer::new(TopicConfig::default());
        let reader = Store::options().maintenance(maintenance).open_read_only(writer.dir()).unwrap();
        let mut consumer = consumer(&reader);
        let (woken, wakes) = std::sync::mpsc::channel();
        let waker = std::task::Waker::from(std::sync::Arc::new(Task(woken)));
        let mut context = std::task::Context::from_waker(&waker);
        assert_eq!(reader.maintain().unwrap().next_due, None, "nobody waits");
        for number in 0..3 {
            assert!(consumer.poll_ready(&mut context).is_pending());
            let due = reader.maintain().unwrap().next_due;
            assert_eq!(due.is_some(), maintenance == Maintenance::Manual);
            assert!(wakes.try_recv().is_err());
            writer.append(1, Acks::All);
            if maintenance == Maintenance::Manual {
                reader.maintain().unwrap();
            }
            wakes.recv_timeout(LONG).unwrap();
            match consumer.poll_ready(&mut context) {
                std::task::Poll::Ready(records) => {
                    assert_eq!(records.unwrap().iter().next().unwrap().offset(), number);
                }
                std::task::Poll::Pending => panic!("woken for nothing"),
            }
        }
        // Dropping everything ends the thread.
        drop((consumer, reader));
    }
}

#[test]
fn closing_ends_a_wait_and_the_thread() {
    let writer = Writer::new(TopicConfig::default());
    let reader = writer.reader();
    let mut consumer = consumer(&reader);
    let (asleep, sleeps) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            asleep.send(()).unwrap();
            consumer.poll(LONG * 10).unwrap_err()
        });
        sleeps.recv().unwrap();
        reader.close().unwrap();
        assert!(matches!(waiting.join().unwrap().kind(), ErrorKind::Closed));
    });
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("t-0")).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    logs.sort();
    logs
}

#[cfg(feature = "testing")]
#[test]
fn a_reader_that_is_told_nothing_of_what_is_committed_sleeps_all_the_same() {
    for maintenance in [Maintenance::Threads, Maintenance::Manual] {
        let disk = logstead::SimDisk::in_memory();
        let store = Store::options().disk(&disk).maintenance(Maintenance::Manual).open(SIM).unwrap();
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        // The file for that word can not be made: a full disk is no reason not to write.
        disk.fail_nth(logstead::FaultOp::Create, 1, logstead::FaultKind::NoSpace, false);
        let partition = topic.partition(0).unwrap();
        let reader = Store::options().disk(&disk).maintenance(maintenance).open_read_only(SIM).unwrap();
        let mut consumer = consumer(&reader);
        assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
        partition.append([Record::to(&topic).value("v")], None, Acks::Leader).unwrap();
        assert!(!disk.files().iter().any(|file| file.ends_with("logstead-committed")));
        let before = disk.counts().opens;
        assert!(consumer.poll(Duration::from_millis(200)).unwrap().is_empty());
        let opens = disk.counts().opens - before;
        assert!((4..=300).contains(&opens), "{opens} files were opened in 200 ms");
    }
}

#[test]
fn partitions_that_a_broker_adds_keep_their_numbers_also_behind_one_that_is_elsewhere() {
    let writer = Writer::new(TopicConfig::default().partitions(3));
    for p in 0..3 {
        let value = format!("{p}");
        let partition = writer.topic.partition(p).unwrap();
        partition.append([Record::to(&writer.topic).value(&value)], None, Acks::All).unwrap();
    }
    let (dir, home) = (writer.dir(), &writer.home);
    writer.store.clone().close().unwrap();
    // Without the catalog it is a broker's.
    fs::remove_file(dir.join("logstead-topics")).unwrap();
    for p in [1, 2] {
        fs::rename(dir.join(format!("t-{p}")), home.path().join(format!("away-{p}"))).unwrap();
    }
    let reader = Store::open_read_only(&dir).unwrap();
    assert_eq!(reader.topic("t").unwrap().partitions(), 1);
    fs::rename(home.path().join("away-2"), dir.join("t-2")).unwrap();
    let topic = reader.topic("t").unwrap();
    assert_eq!(topic.partitions(), 3);
    let missing = topic.partition(1).unwrap_err();
    assert!(matches!(missing.kind(), ErrorKind::UnknownPartition { .. }), "{missing}");
    let found = topic.partition(2).unwrap().get(0).unwrap().unwrap();
    assert_eq!(found.record().value(), Some(b"2".as_slice()));
}
