//! What a person, a recorder of the `metrics` facade and a `tracing` subscriber are told of a store.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logstead::{
    Acks, Compression, Durability, FaultKind, FaultOp, Maintenance, ManualClock, Record, SimDisk, Store,
    Topic, TopicConfig,
};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit,
};

fn store(disk: &SimDisk, clock: &ManualClock) -> Store {
    Store::options().maintenance(Maintenance::Manual).clock(clock.clone()).disk(disk).open("/s").unwrap()
}

fn append(topic: &Topic, partition: i32, count: usize) {
    let records = (0..count).map(|_| Record::to(topic).value(&[7; 100]));
    topic.partition(partition).unwrap().append(records, None, Acks::All).unwrap();
}

// ───────── Store::stats

#[test]
fn stats_say_what_was_written_read_and_synced_and_where_the_ends_are() {
    let (disk, clock) = (SimDisk::new(1), ManualClock::new(0));
    let store = store(&disk, &clock);
    let topic = store.create_topic("t", TopicConfig::default().partitions(3)).unwrap();
    store.create_topic("idle", TopicConfig::default()).unwrap();
    append(&topic, 0, 10);
    append(&topic, 0, 5);
    append(&topic, 2, 1);
    let read = topic.partition(0).unwrap().read(0, 1 << 20).unwrap();
    assert_eq!(read.len(), 15);

    let stats = store.stats();
    let names: Vec<_> = stats.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["idle", "t"]);
    let t = stats.topic("t").unwrap();
    assert_eq!(
        t.partitions.iter().map(|p| (p.partition, p.opened)).collect::<Vec<_>>(),
        [(0, true), (1, false), (2, true)]
    );
    let first = &t.partitions[0];
    assert_eq!((first.log_start, first.high_watermark, first.log_end), (0, 15, 15));
    let figures = &first.figures;
    let bytes = topic.partition(0).unwrap().size_bytes();
    assert_eq!((figures.records, figures.bytes, figures.segments), (15, bytes, 1));
    assert_eq!((figures.written.records, figures.written.bytes), (15, bytes));
    assert_eq!((figures.read.records, figures.read.bytes), (15, bytes));
    assert_eq!((figures.syncs.count(), t.partitions[2].figures.syncs.count()), (2, 1));
    assert!(figures.syncs.percentile(99.0).is_some());
    assert!(figures.pinned_bytes >= bytes, "a read of the active segment lies in memory");
    drop(read);

    let total = store.stats().total();
    assert_eq!((total.records, total.written.records, total.syncs.count(), total.segments), (16, 16, 3, 2));
    assert_eq!((total.pinned_bytes, store.stats().open_files), (0, 0));
    let unopened = &t.partitions[1];
    assert_eq!((unopened.log_start, unopened.high_watermark, unopened.log_end), (-1, -1, -1));
    assert!(topic.partition(1).is_ok() && store.stats().topic("t").unwrap().partitions[1].opened);
    assert_eq!(store.stats().topic("idle").unwrap().partitions.len(), 1);
    assert!(store.stats().topic("none").is_none());
}

#[test]
fn stats_since_an_earlier_one_are_rates_of_now() {
    let (disk, clock) = (SimDisk::new(1), ManualClock::new(0));
    let store = store(&disk, &clock);
    let topic = store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    append(&topic, 0, 100);
    clock.advance(Duration::from_secs(10));
    let before = store.stats();
    assert_eq!(before.per_second(before.total().written.records), 10.0);
    append(&topic, 0, 8);
    append(&topic, 1, 2);
    assert_eq!(store.stats().since(&before).per_second(10), 0.0, "no time has passed");
    clock.advance(Duration::from_secs(4));
    let between = store.stats().since(&before);
    assert_eq!(between.interval, Duration::from_secs(4));
    assert_eq!(between.per_second(between.total().written.records), 2.5);
    assert_eq!((between.total().records, between.total().syncs.count()), (110, 2));

    // A log that is opened anew counts from 0: its counters are not compared with those of the old one.
    store.recover("t", 0).unwrap();
    append(&topic, 0, 200);
    let between = store.stats().since(&before);
    assert_eq!(between.topic("t").unwrap().partitions[0].figures.written.records, 200);
}

#[test]
fn stats_print_as_a_table_that_names_what_failed() {
    let (disk, clock) = (SimDisk::new(1), ManualClock::new(0));
    let store = store(&disk, &clock);
    let topic = store.create_topic("flights", TopicConfig::default().partitions(3)).unwrap();
    append(&topic, 0, 30);
    append(&topic, 1, 3);
    clock.advance(Duration::from_secs(2));
    disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    topic.partition(1).unwrap().append([Record::to(&topic).value("v")], None, Acks::All).unwrap_err();

    let text = store.stats().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "over 2.0 s | topics: 1 | partitions opened: 2 of 3 | open files: 0 | pinned: 0 B");
    let cells = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
    assert_eq!(cells(1)[..5], ["partition", "records", "bytes", "segments", "log"]);
    assert_eq!(cells(2)[..2], ["flights-0", "30"]);
    assert_eq!(cells(2)[5..9], ["0", "30", "30", "15"], "log start, committed, log end, written/s: {text}");
    assert_eq!(cells(3)[5..8], ["0", "3", "4"], "{text}");
    assert_eq!(cells(4)[..2], ["total", "34"]);
    assert!(lines[5].starts_with("flights-1 FAILED: flights-1 takes no more records"), "{text}");
    let width = |line: usize| lines[line].chars().count();
    assert_eq!((width(1), width(2), width(3)), (width(2), width(3), width(4)), "{text}");
    println!("{text}");
}

#[test]
fn pinned_bytes_are_those_of_records_in_hand_also_unpacked_ones() {
    let (disk, clock) = (SimDisk::new(1), ManualClock::new(0));
    let store = store(&disk, &clock);
    let config = TopicConfig::default().compression(Compression::Lz4);
    let topic = store.create_topic("t", config).unwrap();
    append(&topic, 0, 100);
    let partition = topic.partition(0).unwrap();
    let records = partition.read(0, 1 << 20).unwrap();
    let pinned = store.stats().pinned_bytes;
    assert!(pinned >= 100 * 100, "{pinned}: 100 records of 100 bytes are unpacked");
    let one = records.iter().next().unwrap().share();
    drop(records);
    assert_eq!(store.stats().topic("t").unwrap().total().pinned_bytes, pinned, "one record keeps its batch");
    drop(one);
    assert_eq!(store.stats().pinned_bytes, 0);
}

#[test]
fn a_mapped_segment_counts_as_pinned_once_its_log_has_it_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::options().maintenance(Maintenance::Manual).open(dir.path().join("s")).unwrap();
    let config = TopicConfig::default().durability(Durability::PageCache).segment_bytes(10_000);
    let topic = store.create_topic("t", config).unwrap();
    for _ in 0..30 {
        append(&topic, 0, 10);
    }
    assert!(store.stats().open_files > 0);
    let partition = topic.partition(0).unwrap();
    let records = partition.read(0, 1).unwrap();
    let (segments, pinned) = (store.stats().total().segments, store.stats().pinned_bytes);
    assert!(segments > 2, "{segments}");
    assert_eq!(pinned, 0, "it is mapped, and the log has it");
    // The log of old is given up with all its segments.
    store.recover("t", 0).unwrap();
    store.maintain().unwrap();
    let pinned = store.stats().pinned_bytes;
    assert!((5_000..=10_000).contains(&pinned), "{pinned}: one segment");
    assert_eq!(store.stats().topic("t").unwrap().total().pinned_bytes, 0, "it is of no partition any more");
    drop(records);
    assert_eq!(store.stats().pinned_bytes, 0);
}

#[test]
fn open_files_stay_within_their_bound() {
    let dir = tempfile::tempdir().unwrap();
    let options = Store::options().maintenance(Maintenance::Manual).max_open_files(16);
    let store = options.open(dir.path().join("s")).unwrap();
    let topic = store.create_topic("t", TopicConfig::default().partitions(20)).unwrap();
    for partition in 0..20 {
        append(&topic, partition, 1);
    }
    let open = store.stats().open_files;
    assert!((1..=16).contains(&open), "{open} open files");
}

// ───────── the feature `metrics`

/// A recorder that remembers: descriptions, and values by name and labels.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    described: BTreeMap<String, (&'static str, Unit)>,
    kinds: BTreeMap<String, &'static str>,
    values: BTreeMap<(String, Vec<(String, String)>), f64>,
}

struct Cell(Arc<Mutex<Told>>, (String, Vec<(String, String)>));

impl Cell {
    fn change(&self, to: impl FnOnce(f64) -> f64) {
        let mut told = self.0.lock().unwrap();
        let value = told.values.entry(self.1.clone()).or_default();
        *value = to(*value);
    }
}

impl CounterFn for Cell {
    fn increment(&self, more: u64) {
        self.change(|value| value + more as f64);
    }
    fn absolute(&self, value: u64) {
        self.change(|_| value as f64);
    }
}

impl GaugeFn for Cell {
    fn increment(&self, more: f64) {
        self.change(|value| value + more);
    }
    fn decrement(&self, less: f64) {
        self.change(|value| value - less);
    }
    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

/// Counts what is recorded.
impl HistogramFn for Cell {
    fn record(&self, value: f64) {
        assert!(value > 0.0 && value < 40.0, "{value} seconds");
        self.change(|count| count + 1.0);
    }
}

impl Memory {
    fn describe(&self, name: &KeyName, kind: &'static str, unit: Option<Unit>) {
        self.0.lock().unwrap().described.insert(name.as_str().to_owned(), (kind, unit.unwrap()));
    }

    fn cell(&self, key: &Key, kind: &'static str) -> Arc<Cell> {
        let labels = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
        let before = self.0.lock().unwrap().kinds.insert(key.name().to_owned(), kind);
        assert!(before.is_none_or(|before| before == kind), "{} is of two kinds", key.name());
        Arc::new(Cell(Arc::clone(&self.0), (key.name().to_owned(), labels)))
    }

    fn value(&self, name: &str, partition: Option<&str>) -> Option<f64> {
        let mut labels = vec![("store".to_owned(), "/s".to_owned())];
        labels.extend(partition.map(|_| ("topic".to_owned(), "t".to_owned())));
        labels.extend(partition.map(|number| ("partition".to_owned(), number.to_owned())));
        self.0.lock().unwrap().values.get(&(name.to_owned(), labels)).copied()
    }
}

impl metrics::Recorder for Memory {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, "counter", unit);
    }
    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, "gauge", unit);
    }
    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, "histogram", unit);
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key, "counter"))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key, "gauge"))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(key, "histogram"))
    }
}

#[test]
fn a_recorder_is_told_every_five_seconds_and_at_close() {
    let (disk, clock, memory) = (SimDisk::new(1), ManualClock::new(0), Memory::default());
    metrics::with_local_recorder(&memory, || {
        let store = store(&disk, &clock);
        let topic = store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
        append(&topic, 1, 10);
        store.maintain().unwrap();
        let records = |partition| memory.value("logstead_records_written_total", Some(partition));
        assert_eq!((records("0"), records("1")), (None, Some(10.0)), "only what was opened");
        append(&topic, 1, 5);
        clock.advance(Duration::from_millis(4_999));
        store.maintain().unwrap();
        assert_eq!(records("1"), Some(10.0));
        clock.advance(Duration::from_millis(1));
        store.maintain().unwrap();
        assert_eq!(records("1"), Some(15.0));
        assert_eq!(memory.value("logstead_sync_seconds", Some("1")), Some(2.0));
        assert_eq!(memory.value("logstead_high_watermark", Some("1")), Some(15.0));
        assert_eq!(memory.value("logstead_failed_partitions", None), Some(0.0));
        append(&topic, 1, 7);
        disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
        topic.partition(1).unwrap().append([Record::to(&topic).value("v")], None, Acks::All).unwrap_err();
        store.close().unwrap_err();
        assert_eq!(records("1"), Some(23.0), "the last figures are told at close");
        assert_eq!(memory.value("logstead_failed_partitions", None), Some(1.0));
    });
}

#[test]
fn every_name_that_is_told_is_documented_with_kind_and_unit_and_the_other_way_round() {
    let (disk, clock, memory) = (SimDisk::new(1), ManualClock::new(0), Memory::default());
    metrics::with_local_recorder(&memory, || {
        let store = store(&disk, &clock);
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        append(&topic, 0, 1);
        store.close().unwrap();
    });
    let told = memory.0.lock().unwrap();
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?.strip_prefix("logstead_")?;
        let &[kind, unit, labels, meaning] = &cells[2..6] else { return None };
        assert!(meaning.len() > 5, "{name} has no meaning");
        assert!(["partition", "store"].contains(&labels), "{name}: {labels}");
        Some((format!("logstead_{name}"), (kind, unit, labels)))
    };
    let documented: BTreeMap<_, _> = include_str!("../docs/metrics.md").lines().filter_map(row).collect();
    let described: BTreeMap<_, _> = told.described.iter().map(|(name, what)| (name.clone(), *what)).collect();
    let of_docs: BTreeMap<_, _> = documented
        .iter()
        .map(|(name, (kind, unit, _))| (name.clone(), (*kind, Unit::from_string(unit).unwrap())))
        .collect();
    assert_eq!(of_docs, described);
    let kinds: BTreeMap<_, _> = told.kinds.iter().map(|(name, kind)| (name.clone(), *kind)).collect();
    assert_eq!(kinds, described.iter().map(|(name, (kind, _))| (name.clone(), *kind)).collect());
    for (name, labels) in told.values.keys() {
        let labels: Vec<_> = labels.iter().map(|(key, _)| key.as_str()).collect();
        let expected: &[&str] = match documented[name].2 {
            "store" => &["store"],
            _ => &["store", "topic", "partition"],
        };
        assert_eq!(labels, expected, "{name}");
    }
}

// ───────── the feature `tracing`

/// A subscriber that remembers the spans that were entered: name and fields.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Spans {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if let Some(span) = self.0.lock().unwrap().last_mut() {
            *span += &format!(" {}={value:?}", field.name());
        }
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "logstead"
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut spans = self.0.lock().unwrap();
        spans.push(span.metadata().name().to_owned());
        let id = tracing::span::Id::from_u64(spans.len() as u64);
        drop(spans);
        span.record(&mut self.clone());
        id
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, id: &tracing::span::Id) {
        let name = self.0.lock().unwrap()[id.into_u64() as usize - 1].clone();
        self.1.lock().unwrap().push(name);
    }
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn opening_recovering_rolling_and_deleting_are_spans() {
    let (disk, clock, spans) = (SimDisk::new(1), ManualClock::new(0), Spans::default());
    tracing::subscriber::with_default(spans.clone(), || {
        let store = store(&disk, &clock);
        let topic = store.create_topic("t", TopicConfig::default().segment_bytes(1_000)).unwrap();
        append(&topic, 0, 5);
        append(&topic, 0, 5);
        store.recover("t", 0).unwrap();
        store.delete_topic("t").unwrap();
        store.close().unwrap();
    });
    let entered = spans.1.lock().unwrap().clone();
    assert_eq!(
        entered,
        [
            "open dir=/s read_only=false",
            "open_partition topic=t partition=0",
            "roll topic=t partition=0 base=5",
            "recover topic=\"t\" partition=0",
            "open_partition topic=t partition=0",
            "delete_topic topic=\"t\"",
        ]
    );
}
