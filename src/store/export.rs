//! The figures of a store, handed to the recorder of the `metrics` facade: every few seconds and at close, by who does
//! the work that nobody waits for.
//!
//! A recorder is code of the user's: it is called with no lock held.

use std::time::Duration;

use ::metrics::{Label, SharedString, Unit};

use super::Shared;
use super::stats::{PartitionStats, Stats};

/// How often.
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const RECORDS_WRITTEN: &str = "logstead_records_written_total";
const BYTES_WRITTEN: &str = "logstead_bytes_written_total";
const RECORDS_READ: &str = "logstead_records_read_total";
const BYTES_READ: &str = "logstead_bytes_read_total";
const RECORDS_DELETED: &str = "logstead_records_deleted_total";
const BYTES_DELETED: &str = "logstead_bytes_deleted_total";
const SYNC_SECONDS: &str = "logstead_sync_seconds";
const RECORDS: &str = "logstead_records";
const BYTES: &str = "logstead_bytes";
const SEGMENTS: &str = "logstead_segments";
const LOG_START: &str = "logstead_log_start_offset";
const HIGH_WATERMARK: &str = "logstead_high_watermark";
const LOG_END: &str = "logstead_log_end_offset";
const PINNED_BYTES: &str = "logstead_pinned_bytes";
const OPEN_FILES: &str = "logstead_open_files";
const FAILED_PARTITIONS: &str = "logstead_failed_partitions";
const CLOCK_AHEAD: &str = "logstead_clock_ahead_seconds";

/// All names; `docs/metrics.md` says the same at more length.
const DESCRIPTIONS: [(&str, Kind, Unit, &str); 17] = [
    (RECORDS_WRITTEN, Kind::Counter, Unit::Count, "records appended"),
    (BYTES_WRITTEN, Kind::Counter, Unit::Bytes, "bytes of appended batches, as stored"),
    (RECORDS_READ, Kind::Counter, Unit::Count, "records read"),
    (BYTES_READ, Kind::Counter, Unit::Bytes, "bytes of the batches that were read, as stored"),
    (RECORDS_DELETED, Kind::Counter, Unit::Count, "offsets that the start of the log passed"),
    (BYTES_DELETED, Kind::Counter, Unit::Bytes, "bytes of segments that were deleted"),
    (SYNC_SECONDS, Kind::Histogram, Unit::Seconds, "how long each sync took"),
    (RECORDS, Kind::Gauge, Unit::Count, "offsets from the log's start to its end"),
    (BYTES, Kind::Gauge, Unit::Bytes, "bytes of the segments"),
    (SEGMENTS, Kind::Gauge, Unit::Count, "segments"),
    (LOG_START, Kind::Gauge, Unit::Count, "first offset that can be read"),
    (HIGH_WATERMARK, Kind::Gauge, Unit::Count, "one behind the last committed record"),
    (LOG_END, Kind::Gauge, Unit::Count, "one behind the last record written"),
    (PINNED_BYTES, Kind::Gauge, Unit::Bytes, "bytes that records in the program's hands keep alive"),
    (OPEN_FILES, Kind::Gauge, Unit::Count, "descriptors of log files"),
    (FAILED_PARTITIONS, Kind::Gauge, Unit::Count, "partitions that are poisoned or damaged"),
    (CLOCK_AHEAD, Kind::Gauge, Unit::Seconds, "how far the wall clock jumped ahead, which is not believed"),
];

/// What the recorder knows.
#[derive(Debug, Default)]
pub(super) struct Exported {
    stats: Option<Stats>,
    due: Duration,
}

impl Shared {
    /// When the recorder is told next, on the monotonic clock; `None` while it is being told.
    pub(super) fn export_due(&self) -> Option<Duration> {
        Some(self.exported.try_lock()?.due)
    }

    /// Tells the recorder what changed since it was told last.
    pub(super) fn export(&self) {
        let (now, before) = {
            let mut exported = self.exported.lock();
            exported.due = self.context.clock.monotonic() + INTERVAL;
            let now = self.stats();
            let before = exported.stats.replace(now.clone());
            (now, before)
        };
        // Anew each time: the recorder may be installed after the store was opened.
        describe();
        let store = Label::new("store", self.context.root.display().to_string());
        let changes = before.as_ref().map_or_else(|| now.clone(), |before| now.since(before));
        for (topic, changed) in now.topics.iter().zip(&changes.topics) {
            let before = before.as_ref().and_then(|before| before.topic(&topic.name));
            let name = SharedString::from(topic.name.clone());
            for (partition, changed) in topic.partitions.iter().zip(&changed.partitions) {
                let before = before.and_then(|before| before.partition(partition.partition));
                if partition.opened && !before.is_some_and(|before| before.is_same(partition)) {
                    let number = partition.partition.to_string();
                    tell(
                        partition,
                        changed,
                        &[store.clone(), Label::new("topic", name.clone()), Label::new("partition", number)],
                    );
                }
            }
        }
        let failed = now.topics.iter().flat_map(|t| &t.partitions).filter(|p| p.failure.is_some()).count();
        let labels = [store];
        set(PINNED_BYTES, &labels, now.pinned_bytes as f64);
        set(OPEN_FILES, &labels, now.open_files as f64);
        set(FAILED_PARTITIONS, &labels, failed as f64);
        let ahead_ms = self.context.upkeep.now(self.context.clock.as_ref()).ahead_ms;
        set(CLOCK_AHEAD, &labels, ahead_ms as f64 / 1e3);
    }
}

fn describe() {
    for (name, kind, unit, what) in DESCRIPTIONS {
        match kind {
            Kind::Counter => ::metrics::describe_counter!(name, unit, what),
            Kind::Gauge => ::metrics::describe_gauge!(name, unit, what),
            Kind::Histogram => ::metrics::describe_histogram!(name, unit, what),
        }
    }
}

/// `changed`: the same partition, its counters since the recorder was told last.
fn tell(partition: &PartitionStats, changed: &PartitionStats, labels: &[Label]) {
    let (figures, changed) = (&partition.figures, &changed.figures);
    let count = |name: &'static str, more| ::metrics::counter!(name, labels.iter()).increment(more);
    count(RECORDS_WRITTEN, changed.written.records);
    count(BYTES_WRITTEN, changed.written.bytes);
    count(RECORDS_READ, changed.read.records);
    count(BYTES_READ, changed.read.bytes);
    count(RECORDS_DELETED, changed.deleted.records);
    count(BYTES_DELETED, changed.deleted.bytes);
    let times = ::metrics::histogram!(SYNC_SECONDS, labels.iter());
    for (end, syncs) in changed.syncs.buckets() {
        times.record_many(end, usize::try_from(syncs).unwrap_or(usize::MAX));
    }
    set(RECORDS, labels, figures.records as f64);
    set(BYTES, labels, figures.bytes as f64);
    set(SEGMENTS, labels, figures.segments as f64);
    set(LOG_START, labels, partition.log_start as f64);
    set(HIGH_WATERMARK, labels, partition.high_watermark as f64);
    set(LOG_END, labels, partition.log_end as f64);
}

fn set(name: &'static str, labels: &[Label], value: f64) {
    ::metrics::gauge!(name, labels.iter()).set(value);
}
