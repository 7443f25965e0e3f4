//! Retention, delete-records, holds, the quota and the clocks, as a program meets them: cases J of Kafka's own tests by
//! their number, and what is ours beside them.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logstead::{
    Acks, AgedBy, AutoOffsetReset, Cleanup, ConsumerConfig, Durability, ErrorKind, Fate, FaultKind, FaultOp,
    GroupPositions, Maintenance, ManualClock, Offset, Partition, ProducerConfig, Record, SimDisk, Store,
    StoreOptions, Topic, TopicConfig,
};

const DIR: &str = "/s/data";
const NOW: i64 = 1_700_000_000_000;
const DAY: i64 = 86_400_000;
const VALUE: [u8; 100] = [7; 100];

/// Bytes of a batch with one such record: a header, and the record's own fields in front of the value.
const BATCH: u64 = 61 + 2 + 1 + 1 + 1 + 1 + 2 + 100 + 1;

struct Bench {
    disk: SimDisk,
    clock: ManualClock,
    store: Store,
}

fn options(disk: &SimDisk, clock: &ManualClock) -> StoreOptions {
    Store::options().maintenance(Maintenance::Manual).clock(clock.clone()).disk(disk)
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|options| options)
    }

    fn with(set: impl Fn(StoreOptions) -> StoreOptions) -> Bench {
        let (disk, clock) = (SimDisk::new(1), ManualClock::new(NOW as u64));
        disk.set_time_ms(NOW);
        let store = set(options(&disk, &clock)).open(DIR).unwrap();
        Bench { disk, clock, store }
    }

    /// A topic with five records a segment.
    fn topic(&self, config: TopicConfig) -> Topic {
        self.store.create_topic("t", five(config)).unwrap()
    }

    fn advance(&self, ms: i64) {
        self.clock.advance(Duration::from_millis(ms as u64));
        self.disk.set_time_ms(self.clock_ms());
    }

    fn clock_ms(&self) -> i64 {
        logstead::Clock::now_ms(&self.clock)
    }

    /// Closes the store, and opens it again.
    fn reopened(self) -> Bench {
        let Bench { disk, clock, store } = self;
        store.close().unwrap();
        let store = options(&disk, &clock).open(DIR).unwrap();
        Bench { disk, clock, store }
    }

    fn partition(&self) -> Partition {
        self.store.topic("t").unwrap().partition(0).unwrap()
    }

    /// Base offsets of the segments there are files of.
    fn bases(&self) -> Vec<Offset> {
        self.names().iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect()
    }

    fn names(&self) -> Vec<String> {
        let files = self.disk.files();
        let files = files.iter().filter(|file| file.parent() == Some(Path::new("/s/data/t-0")));
        files.filter_map(|file| file.file_name()?.to_str().map(str::to_owned)).collect()
    }
}

fn five(config: TopicConfig) -> TopicConfig {
    config.segment_bytes(5 * BATCH).index_interval_bytes(200)
}

/// Appends `count` records of a time, each a batch of its own.
fn append(topic: &Topic, count: usize, timestamp: i64) {
    let partition = topic.partition(0).unwrap();
    for _ in 0..count {
        let record = Record::to(topic).value(&VALUE).timestamp_ms(timestamp);
        partition.append([record], None, Acks::All).unwrap();
    }
}

/// All offsets that can be read, from the start on.
fn offsets(partition: &Partition) -> Vec<Offset> {
    let records = partition.scan(partition.log_start_offset());
    records
        .flat_map(|records| records.unwrap().iter().map(|record| record.offset()).collect::<Vec<_>>())
        .collect()
}

fn fates(store: &Store) -> Vec<Fate> {
    let report = store.explain_retention("t").unwrap();
    report.partitions[0].segments.iter().map(|segment| segment.fate.clone()).collect()
}

#[test]
fn five_records_are_a_segment() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default());
    append(&topic, 15, NOW);
    assert_eq!(bench.bases(), [0, 5, 10]);
    assert_eq!(bench.partition().size_bytes(), 15 * BATCH);
}

// ───────── cases J

#[test]
fn j01_j02_the_oldest_segments_go_as_long_as_retention_bytes_are_left() {
    for (records, kept) in [(10, vec![5, 10]), (15, vec![0, 5, 10])] {
        let bench = Bench::new();
        let topic = bench.topic(TopicConfig::default().retention_bytes(records * BATCH));
        append(&topic, 15, NOW);
        let run = bench.store.run_retention_now().unwrap();
        assert_eq!(run.segments, 3 - kept.len() as u64);
        assert_eq!(run.bytes, (15 - 5 * kept.len() as u64) * BATCH);
        assert_eq!(bench.bases(), kept);
        assert_eq!(offsets(&bench.partition()), (kept[0]..15).collect::<Vec<_>>());
        assert_eq!(bench.partition().log_start_offset(), kept[0]);
    }
}

#[test]
fn j03_j04_old_segments_go_the_active_one_too_and_the_log_goes_on_where_it_was() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let bench = Bench::new();
        let topic = bench.topic(TopicConfig::default().retention_ms(10_000).durability(durability));
        append(&topic, 15, NOW);
        assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
        assert_eq!(bench.bases(), [0, 5, 10]);
        bench.advance(10_001);
        assert_eq!(bench.store.run_retention_now().unwrap().segments, 3);
        assert_eq!(bench.bases(), [15]);
        let partition = bench.partition();
        assert_eq!((partition.log_start_offset(), partition.log_end_offset()), (15, 15));
        append(&topic, 1, bench.clock_ms());
        let bench = bench.reopened();
        let partition = bench.partition();
        assert_eq!((partition.log_start_offset(), partition.log_end_offset()), (15, 16));
    }
}

#[test]
fn j03_records_of_long_ago_are_old_when_they_come() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(10_000));
    append(&topic, 7, 10);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 2);
    assert_eq!((bench.bases(), bench.partition().log_start_offset()), (vec![7], 7));
}

#[test]
fn j05_a_compacted_topic_loses_nothing_by_age_or_size_but_what_lies_below_its_start() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(1).retention_bytes(0));
    append(&topic, 15, 10);
    // The policy changes; the start that was reached stays.
    assert_eq!(bench.store.delete_records("t", 0, 4).unwrap(), 4);
    bench.store.alter_topic("t", topic.config().cleanup_policy(Cleanup::COMPACT)).unwrap();
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
    assert_eq!(fates(&bench.store), [Fate::NotDeleted, Fate::NotDeleted, Fate::NotDeleted]);
    let refused = bench.store.delete_records("t", 0, 6).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::NotDeletable { .. }), "{refused}");
    assert_eq!((bench.bases(), bench.partition().log_start_offset()), (vec![0, 5, 10], 4));
}

#[test]
fn j06_compact_and_delete_deletes() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(10_000));
    append(&topic, 15, 10);
    bench.store.alter_topic("t", topic.config().cleanup_policy(Cleanup::COMPACT_DELETE)).unwrap();
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 3);
    assert_eq!(bench.bases(), [15]);
}

#[test]
fn j07_offsets_never_start_again() {
    for count in [0, 1, 25] {
        let bench = Bench::new();
        let topic = bench.topic(TopicConfig::default().retention_ms(1));
        append(&topic, count, 10);
        bench.store.run_retention_now().unwrap();
        assert_eq!(bench.store.run_retention_now().unwrap(), Default::default(), "a second time");
        let end = count as Offset;
        let partition = bench.partition();
        assert_eq!((partition.log_start_offset(), partition.log_end_offset()), (end, end));
        assert_eq!(bench.bases(), [end]);
        append(&topic, 1, 10);
        assert_eq!(offsets(&partition), [end]);
        let bench = bench.reopened();
        assert_eq!(offsets(&bench.partition()), [end]);
    }
}

#[test]
fn j08_delete_records_moves_the_start_and_takes_whole_segments_in_front_of_it() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let mut bench = Bench::new();
        let topic = bench.topic(TopicConfig::default().durability(durability));
        append(&topic, 15, NOW);
        drop(topic);
        for (before, kept) in [(1, vec![0, 5, 10]), (6, vec![5, 10]), (15, vec![10])] {
            assert_eq!(bench.store.delete_records("t", 0, before).unwrap(), before);
            assert_eq!(bench.bases(), kept);
            let partition = bench.partition();
            assert_eq!(partition.log_start_offset(), before);
            assert_eq!(offsets(&partition), (before..15).collect::<Vec<_>>());
            let gone = partition.read(before - 1, 1).unwrap_err();
            let valid = |kind: &ErrorKind| match kind {
                ErrorKind::OffsetOutOfRange { valid, .. } => valid.clone(),
                other => panic!("{other}"),
            };
            assert_eq!(valid(gone.kind()), before..15);
            // In front of the start: nothing happens, and it never moves back.
            assert_eq!(bench.store.delete_records("t", 0, 0).unwrap(), before);
            let crashed = options(&bench.disk.crash(9), &bench.clock).open(DIR).unwrap();
            assert_eq!(crashed.topic("t").unwrap().partition(0).unwrap().log_start_offset(), before);
            bench = bench.reopened();
            assert_eq!(bench.partition().log_start_offset(), before);
        }
        append(&bench.store.topic("t").unwrap(), 1, NOW);
        assert_eq!(offsets(&bench.partition()), [15]);
    }
}

#[test]
fn j09_nothing_behind_the_high_watermark_can_be_deleted() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default());
    append(&topic, 5, NOW);
    let partition = topic.partition(0).unwrap();
    partition.append([Record::to(&topic).value(&VALUE)], None, Acks::Leader).unwrap();
    assert_eq!((partition.high_watermark(), partition.log_end_offset()), (5, 6));
    for before in [6, 100, -2] {
        let refused = bench.store.delete_records("t", 0, before).unwrap_err();
        assert!(
            matches!(refused.kind(), ErrorKind::OffsetOutOfRange { requested, .. } if *requested == before),
            "{refused}"
        );
    }
    assert_eq!(bench.store.delete_records("t", 0, -1).unwrap(), 5, "-1 is the high watermark");
    assert!(matches!(
        bench.store.delete_records("u", 0, 1).unwrap_err().kind(),
        ErrorKind::UnknownTopic { .. }
    ));
    assert!(matches!(
        bench.store.delete_records("t", 1, 1).unwrap_err().kind(),
        ErrorKind::UnknownPartition { .. }
    ));
}

#[test]
fn j10_nothing_that_is_not_committed_goes() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(1));
    let partition = topic.partition(0).unwrap();
    for i in 0..100 {
        let acks = if i % 7 == 6 { Acks::All } else { Acks::Leader };
        partition.append([Record::to(&topic).value(&VALUE).timestamp_ms(10)], None, acks).unwrap();
        bench.store.run_retention_now().unwrap();
        let (start, committed) = (partition.log_start_offset(), partition.high_watermark());
        assert!(start <= committed, "{start} is behind {committed}");
        assert_eq!(partition.log_end_offset(), i + 1);
    }
    topic
        .partition(0)
        .unwrap()
        .append([Record::to(&topic).value(&VALUE).timestamp_ms(10)], None, Acks::All)
        .unwrap();
    bench.store.run_retention_now().unwrap();
    assert_eq!((bench.bases(), partition.log_start_offset()), (vec![101], 101));
}

#[test]
fn j11_the_snapshots_of_segments_go_with_them() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(1));
    let producer = bench.store.producer_with(ProducerConfig::default().linger_ms(0)).unwrap();
    for _ in 0..15 {
        producer.send(Record::to(&topic).value(&VALUE).timestamp_ms(10)).unwrap().wait().unwrap();
    }
    let snapshots =
        || bench.names().into_iter().filter(|name| name.ends_with(".snapshot")).collect::<Vec<_>>();
    assert_eq!(snapshots().len(), 2, "at each roll: {:?}", bench.names());
    bench.advance(10);
    bench.store.run_retention_now().unwrap();
    let end = bench.partition().log_end_offset();
    assert_eq!((bench.partition().log_start_offset(), end), (15, 15));
    assert_eq!(snapshots(), ["00000000000000000015.snapshot"]);
}

#[test]
fn j12_files_wait_under_another_name_when_that_is_asked_for() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(1).file_delete_delay_ms(60_000));
    append(&topic, 12, 10);
    bench.store.run_retention_now().unwrap();
    let waiting = |bench: &Bench| bench.names().iter().filter(|name| name.ends_with(".log.deleted")).count();
    assert_eq!((bench.bases(), waiting(&bench)), (vec![12], 3));
    bench.advance(59_999);
    bench.store.maintain().unwrap();
    assert_eq!(waiting(&bench), 3);
    let again = options(&bench.disk.kill(), &bench.clock).open(DIR).unwrap();
    let report = again.recovery_report().to_string();
    assert!(report.contains("00000000000000000000.log.deleted"), "{report}");
    bench.advance(1);
    bench.store.maintain().unwrap();
    assert!(!bench.names().iter().any(|name| name.ends_with(".deleted")), "{:?}", bench.names());
}

#[test]
fn j12_what_waits_when_the_store_is_closed_goes_when_it_is_opened() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(1).file_delete_delay_ms(60_000));
    append(&topic, 12, 10);
    drop(topic);
    bench.store.run_retention_now().unwrap();
    let bench = bench.reopened();
    bench.partition();
    assert!(!bench.names().iter().any(|name| name.ends_with(".deleted")), "{:?}", bench.names());
    assert_eq!(offsets(&bench.partition()), []);
}

// Kafka's case says that it is never deleted by time. Ours goes by the file's time, and says so.
#[test]
fn j13_a_far_future_timestamp_keeps_its_segment_and_those_behind_it_by_the_time_of_writing_only() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(DAY as u64).segment_ms(i64::MAX as u64));
    append(&topic, 4, NOW - 2 * DAY);
    let claimed_ms = NOW * 1_000;
    append(&topic, 1, claimed_ms);
    append(&topic, 10, NOW - 2 * DAY);
    bench.store.run_retention_now().unwrap();
    assert_eq!(bench.bases(), [0, 5, 10]);
    let report = bench.store.explain_retention("t").unwrap();
    let first = &report.partitions[0].segments[0];
    assert_eq!((first.aged_by, first.aged_ms), (Some(AgedBy::FileSinceFuture { claimed_ms }), Some(NOW)));
    assert_eq!((&first.fate, first.until_ms), (&Fate::Young, Some(NOW + DAY + 1)));
    assert_eq!(fates(&bench.store)[1..], [Fate::BehindOlder { base: 0 }, Fate::BehindOlder { base: 0 }]);
    assert!(report.to_string().contains("its records are of the future"), "{report}");
    bench.advance(DAY);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
    bench.advance(1);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 3);
}

// ───────── clocks

#[test]
fn f32_a_wall_clock_that_jumps_forward_deletes_nothing() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(DAY as u64).retention_bytes(20 * BATCH));
    append(&topic, 15, NOW);
    bench.clock.jump(3_650 * DAY);
    let run = bench.store.run_retention_now().unwrap();
    assert_eq!((run.segments, run.clock_ahead), (0, Duration::from_secs(3_650 * 86_400)));
    let report = bench.store.explain_retention("t").unwrap();
    assert_eq!(report.now_ms, NOW);
    assert!(report.to_string().contains("jumped ahead by 3650 d"), "{report}");
    // By size it goes on: that asks no clock.
    append(&topic, 10, NOW);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 1);
    // And by time as the steady clock says.
    bench.clock.advance(Duration::from_secs(86_401));
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 4);
}

#[test]
fn f32_the_clock_is_believed_again_when_the_program_says_so_or_the_store_is_opened_anew() {
    for says_so in [true, false] {
        let mut bench = Bench::new();
        let topic = bench.topic(TopicConfig::default().retention_ms(DAY as u64));
        append(&topic, 15, NOW);
        drop(topic);
        bench.clock.jump(2 * DAY);
        assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
        if says_so {
            bench.store.trust_clock();
        } else {
            bench = bench.reopened();
        }
        assert_eq!(bench.store.run_retention_now().unwrap().segments, 3);
    }
}

#[test]
fn f31_a_wall_clock_that_jumps_back_deletes_nothing_and_appends_go_on() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(DAY as u64));
    append(&topic, 8, NOW);
    bench.clock.jump(-400 * DAY);
    append(&topic, 7, NOW - 400 * DAY);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
    bench.clock.jump(400 * DAY);
    bench.advance(DAY + 1);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 3);
}

// ───────── when it is looked

#[test]
fn maintain_looks_after_thirty_seconds_and_then_at_every_interval() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_bytes(5 * BATCH));
    append(&topic, 15, NOW);
    let due = bench.store.maintain().unwrap().next_due.unwrap();
    assert!(due <= Duration::from_secs(30));
    bench.advance(29_999);
    bench.store.maintain().unwrap();
    assert_eq!(bench.bases(), [0, 5, 10]);
    bench.advance(1);
    bench.store.maintain().unwrap();
    assert_eq!(bench.bases(), [10]);
    append(&topic, 10, NOW);
    bench.advance(299_999);
    bench.store.maintain().unwrap();
    assert_eq!(bench.bases(), [10, 15, 20]);
    bench.advance(1);
    bench.store.maintain().unwrap();
    assert_eq!(bench.bases(), [20]);
}

#[test]
fn maintain_works_in_slices_of_sixty_four_partitions() {
    let bench = Bench::new();
    let config = five(TopicConfig::default().retention_bytes(5 * BATCH).partitions(150));
    let topic = bench.store.create_topic("wide", config.durability(Durability::PageCache)).unwrap();
    for partition in 0..150 {
        let partition = topic.partition(partition).unwrap();
        for _ in 0..11 {
            partition.append([Record::to(&topic).value(&VALUE)], None, Acks::All).unwrap();
        }
    }
    bench.advance(30_000);
    let cleaned = || (0..150).filter(|p| topic.partition(*p).unwrap().log_start_offset() == 5).count();
    let writes = |disk: &SimDisk| disk.counts().renames;
    let before = writes(&bench.disk);
    for (slice, next) in [(64, Duration::ZERO), (128, Duration::ZERO), (150, Duration::from_secs(1))] {
        let due = bench.store.maintain().unwrap().next_due.unwrap();
        assert_eq!((cleaned(), due.min(Duration::from_secs(1))), (slice, next));
    }
    let each = (writes(&bench.disk) - before) as f64 / 150.0;
    assert!(each < 1.2, "one file for a partition, one for a slice: {each}");
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
}

#[test]
fn a_partition_that_nobody_opened_is_opened_only_when_something_may_go() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(DAY as u64));
    append(&topic, 15, NOW);
    drop(topic);
    let bench = bench.reopened();
    let opened = || bench.store.stats().topic("t").unwrap().partitions[0].opened;
    bench.advance(DAY);
    bench.store.run_retention_now().unwrap();
    assert!(!opened());
    bench.advance(1);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 3);
    assert!(opened());
}

#[test]
fn the_thread_cleans_by_itself_and_ends_with_the_store() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::options().retention_check_interval_ms(5).open(home.path().join("s")).unwrap();
    let topic = store.create_topic("t", five(TopicConfig::default().retention_ms(1))).unwrap();
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    append(&topic, 15, 10);
    let until = std::time::Instant::now() + Duration::from_secs(20);
    let partition = topic.partition(0).unwrap();
    while store.stats().total().deleted.bytes < 15 * BATCH {
        assert!(std::time::Instant::now() < until, "nobody cleans");
        consumer.poll(Duration::from_millis(5)).unwrap();
    }
    let deleted = store.stats().total().deleted;
    assert_eq!((deleted.records, deleted.bytes, partition.log_start_offset()), (15, 15 * BATCH, 15));
    store.close().unwrap();
}

#[test]
fn topics_of_older_versions_and_of_brokers_keep_everything() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default());
    append(&topic, 12, 10);
    drop(topic);
    bench.store.close().unwrap();
    // Without the catalog, as a broker left it.
    let (disk, clock) = (bench.disk, bench.clock);
    disk.write_file(format!("{DIR}/logstead-topics"), "").unwrap();
    let store = options(&disk, &clock).open(DIR).unwrap();
    clock.advance(Duration::from_secs(3_650 * 86_400));
    assert_eq!(store.run_retention_now().unwrap().segments, 0);
    let topic = store.topic("t").unwrap();
    let named: HashMap<_, _> = topic.config().properties().into_iter().collect();
    assert_eq!(named["retention.ms"], "-1");
    // Until somebody says otherwise.
    store.alter_topic("t", topic.config().retention_ms(1)).unwrap();
    assert_eq!(store.run_retention_now().unwrap().segments, 3);
}

// ───────── readers

#[test]
fn who_reads_in_a_segment_that_goes_reads_on_and_who_comes_later_is_told() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default());
    append(&topic, 15, NOW);
    let partition = topic.partition(0).unwrap();
    let held = partition.read(0, 1 << 20).unwrap();
    let mut strict =
        bench.store.consumer_with(ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::None));
    let strict = strict.as_mut().unwrap();
    strict.assign([("t", 0)]).unwrap();
    strict.seek("t", 0, 2).unwrap();
    let mut earliest = bench
        .store
        .consumer_with(ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest))
        .unwrap();
    earliest.assign([("t", 0)]).unwrap();
    earliest.seek("t", 0, 2).unwrap();
    bench.store.delete_records("t", 0, 11).unwrap();
    assert_eq!(held.iter().count(), 15);
    assert!(held.iter().all(|record| record.value() == Some(&VALUE[..])));
    let gone = strict.poll(Duration::ZERO).unwrap_err();
    assert!(matches!(gone.kind(), ErrorKind::OffsetOutOfRange { requested: 2, .. }), "{gone}");
    let first = earliest.poll(Duration::ZERO).unwrap();
    assert_eq!(first.iter().next().unwrap().offset(), 11);
    assert_eq!(partition.offset_for_time(0).unwrap(), Some((11, NOW)));
    assert!(partition.get(10).is_err());
    assert_eq!(partition.get(11).unwrap().unwrap().record().offset(), 11);
}

#[test]
fn readers_of_a_mapped_segment_keep_its_space_until_they_let_go() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::options().maintenance(Maintenance::Manual).open(home.path().join("s")).unwrap();
    let topic = store.create_topic("t", five(TopicConfig::default())).unwrap();
    append(&topic, 15, NOW);
    let partition = topic.partition(0).unwrap();
    let held = partition.read(0, 1).unwrap();
    store.delete_records("t", 0, 10).unwrap();
    assert!(!home.path().join("s/t-0/00000000000000000000.log").exists());
    assert!(store.stats().pinned_bytes >= 5 * BATCH, "{}", store.stats().pinned_bytes);
    assert_eq!(held.iter().next().unwrap().value(), Some(&VALUE[..]));
    drop(held);
    assert_eq!(store.stats().pinned_bytes, 0);
}

#[test]
fn readers_never_meet_anything_but_records_in_order_or_a_start_that_moved() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::options().retention_check_interval_ms(1).open(home.path().join("s")).unwrap();
    let config = five(TopicConfig::default().durability(Durability::PageCache).retention_bytes(10 * BATCH));
    let topic = store.create_topic("t", config).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (seen, resets) = (Mutex::new(0_u64), Mutex::new(0_u64));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let partition = topic.partition(0).unwrap();
                let mut at = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match partition.read(at, 1_000) {
                        Ok(records) => {
                            for record in &records {
                                assert_eq!(record.offset(), at, "a silent jump");
                                at += 1;
                            }
                            *seen.lock().unwrap() += records.len() as u64;
                        }
                        Err(error) => match error.kind() {
                            ErrorKind::OffsetOutOfRange { valid, .. } => {
                                assert!(valid.start > at, "{error}");
                                at = valid.start;
                                *resets.lock().unwrap() += 1;
                            }
                            _ => panic!("{error}"),
                        },
                    }
                }
            });
        }
        append(&topic, 3_000, NOW);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(*seen.lock().unwrap() > 0);
    assert!(topic.partition(0).unwrap().log_start_offset() > 0, "nobody cleaned");
    store.close().unwrap();
}

// ───────── holds

#[derive(Clone, Default)]
struct Positions(Arc<Mutex<HashMap<&'static str, Offset>>>);

impl Positions {
    fn set(&self, group: &'static str, offset: Offset) {
        self.0.lock().unwrap().insert(group, offset);
    }
}

impl GroupPositions for Positions {
    fn position(&self, group: &str, topic: &str, partition: i32) -> logstead::Result<Option<Offset>> {
        assert_eq!((topic, partition), ("t", 0));
        Ok(self.0.lock().unwrap().get(group).copied())
    }
}

#[test]
fn a_topic_waits_for_its_groups_within_bounds_and_names_the_one_that_is_behind() {
    let positions = Positions::default();
    let bench = Bench::with(|options| options.group_positions(positions.clone()));
    let config =
        TopicConfig::default().retention_ms(1).hold_for(["billing", "audit"]).hold_max_ms(9 * DAY as u64);
    let topic = bench.topic(config);
    append(&topic, 15, NOW);
    bench.advance(DAY);
    let held = |group: &str, position| Fate::Held { group: group.to_owned(), position };
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
    assert_eq!(fates(&bench.store)[0], held("audit", -1));
    positions.set("audit", 12);
    positions.set("billing", 7);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 1);
    assert_eq!(fates(&bench.store), vec![held("billing", 7); 2]);
    let report = bench.store.explain_retention("t").unwrap();
    assert_eq!(report.partitions[0].segments[0].until_ms, Some(NOW + 9 * DAY + 1));
    assert!(report.to_string().contains("group billing has read up to 7"), "{report}");
    positions.set("billing", 15);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 1);
    assert_eq!(fates(&bench.store), [held("audit", 12)]);
    bench.advance(8 * DAY);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
    bench.advance(1);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 1, "the bound");
}

#[test]
fn it_is_told_from_the_first_day_until_when_a_group_can_hold_a_segment() {
    let positions = Positions::default();
    let bench = Bench::with(|options| options.group_positions(positions.clone()));
    let config = TopicConfig::default().retention_ms(DAY as u64).hold_for(["g"]).hold_max_ms(10 * DAY as u64);
    let topic = bench.topic(config);
    append(&topic, 5, NOW);
    append(&topic, 5, NOW - DAY / 2);
    let until = || -> Vec<_> {
        let report = bench.store.explain_retention("t").unwrap();
        report.partitions[0].segments.iter().map(|segment| (segment.fate.clone(), segment.until_ms)).collect()
    };
    // The second one waits for the one in front of it.
    let held = Some(NOW + 10 * DAY + 1);
    assert_eq!(until(), [(Fate::Young, held), (Fate::Young, held)]);
    positions.set("g", 10);
    let young = Some(NOW + DAY + 1);
    assert_eq!(until(), [(Fate::Young, young), (Fate::Young, young)]);
    bench.advance(DAY);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
    bench.advance(1);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 2);
}

#[test]
fn a_hold_is_bounded_by_bytes_and_delete_records_does_not_wait_for_it() {
    let bench = Bench::new();
    let config = TopicConfig::default().retention_bytes(0).hold_for(["g"]).hold_max_bytes(10 * BATCH);
    let topic = bench.topic(config);
    append(&topic, 20, NOW);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 2);
    assert_eq!(bench.bases(), [10, 15]);
    assert_eq!(bench.store.delete_records("t", 0, 15).unwrap(), 15);
    assert_eq!(bench.bases(), [15]);
}

#[test]
fn who_is_asked_for_positions_may_panic_fail_or_call_the_store() {
    struct Wild(Mutex<Option<Store>>);
    impl GroupPositions for Wild {
        fn position(&self, group: &str, _: &str, _: i32) -> logstead::Result<Option<Offset>> {
            if group == "panics" {
                panic!("as a user's may");
            }
            let store = self.0.lock().unwrap().clone().unwrap();
            if group == "fails" {
                store.topic("positions")?;
            }
            let refused = store.run_retention_now().unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::WouldWaitForItself { .. }), "{refused}");
            store.maintain()?;
            Ok(Some(store.topic("t")?.partition(0)?.log_start_offset() + 5))
        }
    }
    impl GroupPositions for &'static Wild {
        fn position(&self, group: &str, topic: &str, partition: i32) -> logstead::Result<Option<Offset>> {
            (**self).position(group, topic, partition)
        }
    }
    let wild: &'static Wild = Box::leak(Box::new(Wild(Mutex::new(None))));
    let bench = Bench::with(|options| options.group_positions(wild));
    *wild.0.lock().unwrap() = Some(bench.store.clone());
    let held = |group| TopicConfig::default().retention_ms(1).hold_for([group]).hold_max_bytes(1 << 40);
    let topic = bench.topic(held("calls"));
    append(&topic, 15, 10);
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 1);
    for group in ["panics", "fails"] {
        bench.store.alter_topic("t", five(held(group))).unwrap();
        assert_eq!(bench.store.run_retention_now().unwrap().segments, 0);
    }
    let report = bench.store.explain_retention("t").unwrap();
    assert!(matches!(report.failure.unwrap().kind(), ErrorKind::UnknownTopic { .. }));
    wild.0.lock().unwrap().take();
}

// ───────── space

#[test]
fn a_full_store_deletes_what_may_go_and_then_says_who_holds_the_space() {
    let bench = Bench::with(|options| options.max_store_bytes(30 * BATCH));
    let topic = bench.topic(TopicConfig::default().retention_bytes(10 * BATCH));
    let other = bench.store.create_topic("other", five(TopicConfig::default().retention_ms(None))).unwrap();
    // Far more than fits: what may go goes, without anybody asking for it.
    append(&topic, 300, NOW);
    assert!(bench.partition().size_bytes() <= 30 * BATCH);
    let mut refused = None;
    for _ in 0..40 {
        let record = Record::to(&other).value(&VALUE);
        if let Err(error) = other.partition(0).unwrap().append([record], None, Acks::All) {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.unwrap();
    assert!(refused.is_retriable());
    let ErrorKind::StoreFull { max_store_bytes, used_bytes, held } = refused.kind() else {
        panic!("{refused}")
    };
    let both = bench.partition().size_bytes() + other.partition(0).unwrap().size_bytes();
    assert_eq!((*max_store_bytes, *used_bytes), (30 * BATCH, both));
    assert!(both + BATCH > 30 * BATCH);
    let names: Vec<_> = held.iter().map(|held| (held.topic.as_str(), held.partition)).collect();
    assert_eq!(names, [("other", 0), ("t", 0)]);
    assert_eq!(held[0].why, "no limit is set");
    assert!(refused.to_string().contains("other-0 has"), "{refused}");
    // The same call succeeds when somebody made room.
    bench.store.delete_records("other", 0, -1).unwrap();
    bench.store.alter_topic("other", other.config().retention_ms(1)).unwrap();
    bench.advance(2_000);
    append(&other, 10, 10);
}

#[test]
fn a_producer_is_refused_by_a_full_store_before_its_records_are_taken() {
    let bench = Bench::with(|options| options.max_store_bytes(20 * BATCH));
    let topic = bench.topic(TopicConfig::default().retention_ms(DAY as u64));
    append(&topic, 20, NOW);
    let producer = bench.store.producer_with(ProducerConfig::default()).unwrap();
    let refused = producer.send(Record::to(&topic).value(&VALUE)).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::StoreFull { .. }), "{refused}");
    // When the records are old, the send itself makes room.
    bench.advance(DAY + 1);
    let receipt = producer.send(Record::to(&topic).value(&VALUE)).unwrap().wait().unwrap();
    assert_eq!(receipt.offset, 20);
    assert_eq!(bench.partition().log_start_offset(), 20);
}

#[test]
fn the_quota_counts_what_is_there_also_after_a_reopen_a_deleted_topic_and_a_delay() {
    let bench = Bench::with(|options| options.max_store_bytes(40 * BATCH));
    let delayed = five(TopicConfig::default().file_delete_delay_ms(1_000_000).retention_ms(None));
    let topic = bench.store.create_topic("t", delayed).unwrap();
    let other = bench.store.create_topic("other", five(TopicConfig::default().retention_ms(None))).unwrap();
    append(&topic, 20, NOW);
    append(&other, 20, NOW);
    let full = |topic: &Topic| {
        let record = Record::to(topic).value(&VALUE);
        topic.partition(0).unwrap().append([record], None, Acks::All).is_err_and(|error| error.is_retriable())
    };
    assert!(full(&topic));
    drop((topic, other));
    let Bench { disk, clock, store } = bench;
    store.close().unwrap();
    let store = options(&disk, &clock).max_store_bytes(40 * BATCH).open(DIR).unwrap();
    assert!(full(&store.topic("t").unwrap()));
    store.delete_topic("other").unwrap();
    append(&store.topic("t").unwrap(), 20, NOW);
    assert!(full(&store.topic("t").unwrap()));
    // They wait under another name, and go at once when the room is wanted.
    store.delete_records("t", 0, 35).unwrap();
    append(&store.topic("t").unwrap(), 30, NOW);
}

#[test]
fn on_a_full_disk_what_may_go_goes_before_an_append_gives_up() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_bytes(10 * BATCH));
    append(&topic, 25, NOW);
    let size = |disk: &SimDisk| -> u64 {
        disk.files().iter().map(|file| disk.read_file(file).unwrap().len() as u64).sum()
    };
    // Not a byte is left.
    bench.disk.set_capacity(Some(size(&bench.disk)));
    append(&topic, 100, NOW);
    assert!(bench.bases().len() <= 5, "{:?}", bench.bases());
    assert_eq!(offsets(&bench.partition()).len() as i64, 125 - bench.partition().log_start_offset());
    // Nothing may go: it gives up, all else works, and space that comes back is used.
    bench.store.alter_topic("t", topic.config().retention_bytes(None)).ok();
    bench.disk.set_capacity(None);
    bench.store.alter_topic("t", topic.config().retention_bytes(None).retention_ms(None)).unwrap();
    bench.disk.set_capacity(Some(size(&bench.disk)));
    let record = || Record::to(&topic).value(&VALUE);
    let mut refused = Ok(());
    for _ in 0..10 {
        refused = refused.and(topic.partition(0).unwrap().append([record()], None, Acks::All).map(drop));
    }
    let refused = refused.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Full { .. }), "{refused}");
    bench.store.delete_records("t", 0, -1).unwrap();
    append(&topic, 3, NOW);
}

#[test]
fn delete_records_and_retention_work_with_no_byte_free() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_bytes(5 * BATCH));
    append(&topic, 40, NOW);
    bench.store.maintain().unwrap();
    let size: u64 = bench.disk.files().iter().map(|f| bench.disk.read_file(f).unwrap().len() as u64).sum();
    bench.disk.set_capacity(Some(size));
    assert_eq!(bench.store.delete_records("t", 0, 21).unwrap(), 21);
    assert_eq!(bench.bases(), [20, 25, 30, 35]);
    let size: u64 = bench.disk.files().iter().map(|f| bench.disk.read_file(f).unwrap().len() as u64).sum();
    bench.disk.set_capacity(Some(size));
    assert_eq!(bench.store.run_retention_now().unwrap().segments, 3);
    assert_eq!(bench.bases(), [35]);
}

// ───────── faults

#[test]
fn a_file_that_can_not_be_removed_keeps_nobody_from_anything_and_is_tried_again() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_bytes(5 * BATCH));
    append(&topic, 15, NOW);
    bench.disk.fail_nth(FaultOp::Remove, 1, FaultKind::Io, true);
    let error = bench.store.run_retention_now().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
    assert_eq!((bench.partition().log_start_offset(), bench.bases().len()), (10, 3));
    append(&topic, 1, NOW);
    bench.disk.clear_faults();
    bench.advance(30_000);
    bench.store.maintain().unwrap();
    assert_eq!(bench.bases(), [10, 15]);
    assert_eq!(offsets(&bench.partition()), (10..16).collect::<Vec<_>>());
}

#[test]
fn a_start_that_could_not_be_made_durable_is_not_shown_and_nothing_goes() {
    for (op, nth) in
        [(FaultOp::Rename, 1), (FaultOp::Rename, 2), (FaultOp::Create, 1), (FaultOp::SyncData, 2)]
    {
        let bench = Bench::new();
        let topic = bench.topic(TopicConfig::default().retention_bytes(5 * BATCH));
        append(&topic, 15, NOW);
        bench.store.maintain().unwrap();
        bench.disk.fail_nth(op, nth, FaultKind::Io, false);
        let error = bench.store.run_retention_now().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{op:?}: {error}");
        assert_eq!(
            (bench.partition().log_start_offset(), bench.bases()),
            (0, vec![0, 5, 10]),
            "{op:?} {nth}"
        );
        let report = bench.store.explain_retention("t").unwrap();
        assert_eq!(report.partitions[0].segments[0].fate, Fate::OverBytes);
        append(&topic, 1, NOW);
        bench.store.run_retention_now().unwrap();
        assert_eq!(bench.bases(), [10, 15], "{op:?} {nth}");
    }
}

#[test]
fn a_poisoned_partition_is_left_alone_and_the_others_are_cleaned() {
    let bench = Bench::new();
    let config = five(TopicConfig::default().retention_ms(1).partitions(2));
    let topic = bench.store.create_topic("t", config).unwrap();
    for partition in 0..2 {
        for _ in 0..6 {
            let record = Record::to(&topic).value(&VALUE).timestamp_ms(10);
            topic.partition(partition).unwrap().append([record], None, Acks::All).unwrap();
        }
    }
    bench.disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    let record = Record::to(&topic).value("v").timestamp_ms(10);
    topic.partition(0).unwrap().append([record], None, Acks::All).unwrap_err();
    assert_eq!(bench.store.run_retention_now().unwrap().partitions, 1);
    let starts = [0, 1].map(|p| topic.partition(p).unwrap().log_start_offset());
    assert_eq!(starts, [0, 6]);
    let refused = bench.store.delete_records("t", 0, 3).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Poisoned { .. }), "{refused}");
    bench.store.recover("t", 0).unwrap();
    assert_eq!(bench.store.run_retention_now().unwrap().partitions, 1);
}

// ───────── explained

#[test]
fn an_explanation_prints_as_a_table_and_agrees_with_what_goes() {
    let bench = Bench::new();
    let topic = bench.topic(TopicConfig::default().retention_ms(DAY as u64).retention_bytes(100 * BATCH));
    append(&topic, 5, NOW - 2 * DAY);
    append(&topic, 6, NOW);
    let partition = topic.partition(0).unwrap();
    partition.append([Record::to(&topic).value(&VALUE)], None, Acks::Leader).unwrap();
    let report = bench.store.explain_retention("t").unwrap();
    println!("{report}");
    let text = report.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "t | cleanup.policy: delete | retention.ms: 1 d | retention.bytes: 16.6 KiB | now: 2023-11-14 22:13:20"
    );
    assert_eq!(lines[1], "t-0 starts at 0");
    assert_eq!(lines[3].split_whitespace().next(), Some("0"));
    assert!(lines[3].ends_with("goes: it is older than retention.ms"), "{text}");
    assert!(lines[4].contains("2023-11-15 22:13:20  younger than retention.ms"), "{text}");
    assert!(lines[5].ends_with("not committed yet"), "{text}");
    let going = fates(&bench.store).iter().filter(|fate| fate.goes()).count() as u64;
    assert_eq!(bench.store.run_retention_now().unwrap().segments, going);
}
