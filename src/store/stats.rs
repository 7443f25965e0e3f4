//! The figures of a store: gathered without opening, locking or waiting for anything that is at work.

use std::fmt;
use std::time::Duration;

use super::Shared;
use crate::error::Error;
use crate::metrics::{SyncTimes, Traffic};
use crate::topic::Found;
use crate::types::Offset;

/// The figures of a store at one moment: see [`Store::stats`](crate::Store::stats).
///
/// Printed it is a table that a person reads, one line per opened partition.
///
/// What counts up (records and bytes written, read and deleted, syncs) begins at 0 when a partition is opened, which
/// is at its first use, and again when it is opened anew after [`Store::recover`](crate::Store::recover). `stats`
/// covers the time since the store was opened; [`Stats::since`] the time between two of them, which is how rates of
/// now are had.
///
/// ```
/// use logstead::{Acks, Record, Store, TopicConfig};
///
/// let store = Store::in_memory()?;
/// let topic = store.create_topic("flights", TopicConfig::default().partitions(2))?;
/// let before = store.stats();
/// topic.partition(1)?.append([Record::to(&topic).value("EWR,IAH")], None, Acks::All)?;
///
/// let now = store.stats().since(&before);
/// let flights = now.topic("flights").unwrap();
/// assert_eq!(flights.partitions[1].figures.written.records, 1);
/// assert_eq!(flights.partitions[1].high_watermark, 1);
/// assert_eq!(flights.total().syncs.count(), 1);
/// println!("{now}\n{:.1} records a second", now.per_second(now.total().written.records));
/// # Ok::<(), logstead::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// The time that all counters cover.
    pub interval: Duration,
    /// By name.
    pub topics: Vec<TopicStats>,
    /// Descriptors that the store has open for its files; directories and the lock are not among them, and a store in
    /// memory has none. Bounded by [`StoreOptions::max_open_files`](crate::StoreOptions::max_open_files).
    pub open_files: usize,
    /// As [`Figures::pinned_bytes`], of all partitions, those of deleted topics among them.
    pub pinned_bytes: u64,
    /// When they were taken, on the store's monotonic clock.
    taken_at: Duration,
}

/// The figures of one topic.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicStats {
    /// Its name.
    pub name: String,
    /// By number; of a topic that a broker made, only those that the directory has.
    pub partitions: Vec<PartitionStats>,
}

/// The figures of one partition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionStats {
    /// Its number.
    pub partition: i32,
    /// Whether it was opened, which happens at its first use. If not, its offsets are -1 and its figures 0.
    pub opened: bool,
    /// Why it takes no more records ([`Poisoned`](crate::ErrorKind::Poisoned)) or can not be served at all
    /// ([`Damaged`](crate::ErrorKind::Damaged)), if so.
    pub failure: Option<Error>,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// One behind the last committed record.
    pub high_watermark: Offset,
    /// One behind the last record that was written.
    pub log_end: Offset,
    /// How much there is, and what went on.
    pub figures: Figures,
    instance: u64,
}

/// How much there is, and what went on: of a partition, or summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Offsets from the log's start to its end: the records that are kept, where compaction and markers of
    /// transactions left no gaps.
    pub records: u64,
    /// Bytes of the segments, as handed to the operating system; their indexes do not count.
    pub bytes: u64,
    /// Segments, the active one among them.
    pub segments: u64,
    /// Bytes that [`Records`](crate::Records) keep alive: memory that they were read or unpacked into, and mapped
    /// segments that the log has no more, whose space on the disk is given back only then. Segments that the log
    /// still has do not count, whoever reads them.
    pub pinned_bytes: u64,
    /// Records that were appended.
    pub written: Traffic,
    /// Records that were read, by consumers and otherwise; searches by time do not count.
    pub read: Traffic,
    /// Offsets that the log's start passed, and bytes of the segments that went with them: by retention, and by
    /// [`Store::delete_records`](crate::Store::delete_records).
    pub deleted: Traffic,
    /// Syncs that succeeded. A `PageCache` topic syncs when a segment is full and at close.
    pub syncs: SyncTimes,
}

impl Stats {
    /// The figures of a topic.
    pub fn topic(&self, name: &str) -> Option<&TopicStats> {
        let found = self.topics.binary_search_by(|topic| topic.name.as_str().cmp(name)).ok()?;
        self.topics.get(found)
    }

    /// The sum over all topics, with [`Stats::pinned_bytes`].
    pub fn total(&self) -> Figures {
        let sum = sum(self.topics.iter().flat_map(|topic| &topic.partitions));
        Figures { pinned_bytes: self.pinned_bytes, ..sum }
    }

    /// The same figures, with counters that cover only the time since `earlier`.
    ///
    /// Of a partition that was opened, or opened anew, in between, they cover the time since then.
    #[must_use]
    pub fn since(&self, earlier: &Stats) -> Stats {
        let mut stats = self.clone();
        stats.interval = self.taken_at.saturating_sub(earlier.taken_at);
        for topic in &mut stats.topics {
            let Some(before) = earlier.topic(&topic.name) else { continue };
            for partition in &mut topic.partitions {
                let same = |p: &&PartitionStats| p.opened && p.instance == partition.instance;
                if let Some(before) = before.partition(partition.partition).filter(same) {
                    let (now, before) = (&mut partition.figures, &before.figures);
                    now.written = now.written.since(before.written);
                    now.read = now.read.since(before.read);
                    now.deleted = now.deleted.since(before.deleted);
                    now.syncs = now.syncs.since(&before.syncs);
                }
            }
        }
        stats
    }

    /// A count per second of [`Stats::interval`]; 0 when no time has passed.
    pub fn per_second(&self, count: u64) -> f64 {
        if self.interval.is_zero() { 0.0 } else { count as f64 / self.interval.as_secs_f64() }
    }
}

impl TopicStats {
    /// The sum over its partitions.
    pub fn total(&self) -> Figures {
        sum(self.partitions.iter())
    }

    pub(super) fn partition(&self, number: i32) -> Option<&PartitionStats> {
        let found = self.partitions.binary_search_by_key(&number, |partition| partition.partition).ok()?;
        self.partitions.get(found)
    }
}

fn sum<'p>(partitions: impl Iterator<Item = &'p PartitionStats>) -> Figures {
    let mut sum = Figures::default();
    for partition in partitions {
        let more = &partition.figures;
        sum.records += more.records;
        sum.bytes += more.bytes;
        sum.segments += more.segments;
        sum.pinned_bytes += more.pinned_bytes;
        sum.written = sum.written.plus(more.written);
        sum.read = sum.read.plus(more.read);
        sum.deleted = sum.deleted.plus(more.deleted);
        sum.syncs.add(&more.syncs);
    }
    sum
}

impl PartitionStats {
    /// Whether nothing has changed.
    #[cfg(feature = "metrics")]
    pub(super) fn is_same(&self, other: &PartitionStats) -> bool {
        let of = |p: &PartitionStats| (p.instance, p.log_start, p.high_watermark, p.log_end);
        self.opened == other.opened && of(self) == of(other) && self.figures == other.figures
    }

    fn new(partition: i32, found: Found) -> Self {
        let mut stats = PartitionStats {
            partition,
            opened: false,
            failure: None,
            log_start: -1,
            high_watermark: -1,
            log_end: -1,
            figures: Figures::default(),
            instance: 0,
        };
        match found {
            Found::NotOpened => {}
            Found::Damaged(error) => stats.failure = Some(error),
            Found::Open(log) => {
                stats.opened = true;
                stats.failure = log.failure;
                stats.instance = log.instance;
                (stats.log_start, stats.high_watermark, stats.log_end) =
                    (log.log_start, log.high_watermark, log.log_end);
                stats.figures = Figures {
                    records: u64::try_from(log.log_end - log.log_start).unwrap_or(0),
                    bytes: log.bytes,
                    segments: log.segments,
                    pinned_bytes: log.pinned_bytes,
                    written: log.written,
                    read: log.read,
                    deleted: log.deleted,
                    syncs: log.syncs,
                };
            }
        }
        stats
    }
}

impl Shared {
    pub(super) fn stats(&self) -> Stats {
        let taken_at = self.context.clock.monotonic();
        let topics = self.topics.sorted().into_iter().map(|topic| {
            let partitions = topic.figures().into_iter();
            TopicStats {
                name: topic.name.to_string(),
                partitions: partitions.map(|(number, found)| PartitionStats::new(number, found)).collect(),
            }
        });
        Stats {
            interval: taken_at.saturating_sub(self.opened_at),
            topics: topics.collect(),
            open_files: self.context.storage.open_files(),
            pinned_bytes: self.context.pins.bytes(),
            taken_at,
        }
    }
}

const COLUMNS: [&str; 14] = [
    "partition",
    "records",
    "bytes",
    "segments",
    "log start",
    "committed",
    "log end",
    "written/s",
    "",
    "read/s",
    "",
    "syncs",
    "p50/p99/max",
    "pinned",
];

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> =
            self.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |p| (topic, p))).collect();
        let opened = all.iter().filter(|(_, partition)| partition.opened);
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(
            opened.map(|(topic, p)| self.row(format!("{}-{}", topic.name, p.partition), &p.figures, Some(p))),
        );
        let count = rows.len() - 1;
        rows.push(self.row("total".to_owned(), &self.total(), None));
        writeln!(
            f,
            "over {} | topics: {} | partitions opened: {count} of {} | open files: {} | pinned: {}",
            seconds(self.interval),
            self.topics.len(),
            all.len(),
            self.open_files,
            size(self.pinned_bytes as f64),
        )?;
        table(f, &rows, &[0])?;
        for (topic, partition) in all {
            if let Some(failure) = &partition.failure {
                write!(f, "\n{}-{} FAILED: {failure}", topic.name, partition.partition)?;
            }
        }
        Ok(())
    }
}

impl Stats {
    fn row(
        &self,
        name: String,
        figures: &Figures,
        partition: Option<&PartitionStats>,
    ) -> [String; COLUMNS.len()] {
        let offset =
            |of: fn(&PartitionStats) -> Offset| partition.map(|p| of(p).to_string()).unwrap_or_default();
        let records = |traffic: Traffic| rate(self.per_second(traffic.records));
        let bytes = |traffic: Traffic| size(self.per_second(traffic.bytes));
        let times = [50.0, 99.0, 100.0].map(|p| figures.syncs.percentile(p).map(seconds));
        let times =
            times.into_iter().collect::<Option<Vec<_>>>().map_or("-".to_owned(), |times| times.join(" / "));
        [
            name,
            figures.records.to_string(),
            size(figures.bytes as f64),
            figures.segments.to_string(),
            offset(|p| p.log_start),
            offset(|p| p.high_watermark),
            offset(|p| p.log_end),
            records(figures.written),
            bytes(figures.written),
            records(figures.read),
            bytes(figures.read),
            figures.syncs.count().to_string(),
            times,
            size(figures.pinned_bytes as f64),
        ]
    }
}

/// Words to the left, in the columns named, and figures to the right.
pub(super) fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    rows: &[[String; N]],
    words: &[usize],
) -> fmt::Result {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            writeln!(f)?;
        }
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            if column > 0 {
                f.write_str("  ")?;
            }
            match words.contains(&column) {
                // Nothing behind the last word of a line.
                true if column + 1 == N => f.write_str(cell)?,
                true => write!(f, "{cell:<width$}")?,
                false => write!(f, "{cell:>width$}")?,
            }
        }
    }
    Ok(())
}

pub(super) fn size(bytes: f64) -> String {
    let (mut amount, mut units) = (bytes, ["B", "KiB", "MiB", "GiB", "TiB"].iter());
    let mut unit = units.next().unwrap_or(&"");
    while amount >= 1_024.0
        && let Some(larger) = units.next()
    {
        (amount, unit) = (amount / 1_024.0, larger);
    }
    if bytes < 1_024.0 { format!("{amount:.0} {unit}") } else { format!("{amount:.1} {unit}") }
}

fn rate(per_second: f64) -> String {
    if per_second == 0.0 || per_second >= 10.0 {
        format!("{per_second:.0}")
    } else {
        format!("{per_second:.2}")
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 0.001 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}
