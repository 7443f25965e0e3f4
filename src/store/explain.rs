//! Why a topic still has what it has, and until when.

use std::fmt;
use std::time::Duration;

use super::stats::{size, table};
use super::{Shared, Store};
use crate::config::Cleanup;
use crate::error::{Error, Result};
use crate::log::{AgedBy, Fate};
use crate::topic::TopicInner;
use crate::types::Offset;

/// What retention makes of a topic: see [`Store::explain_retention`]. Printed it is a table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RetentionReport {
    /// The topic.
    pub topic: String,
    /// Its `cleanup.policy`.
    pub cleanup: Cleanup,
    /// Its `retention.ms`; `None`: no limit.
    pub retention_ms: Option<u64>,
    /// Its `retention.bytes`; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// The time by which ages were told, in milliseconds since 1970.
    pub now_ms: i64,
    /// How far the wall clock is ahead of that: not zero when it jumped and is not believed, see
    /// [`Store::trust_clock`].
    pub clock_ahead: Duration,
    /// By number.
    pub partitions: Vec<PartitionRetention>,
    /// The first error of the last look for what can go, in whichever topic; that of
    /// [`GroupPositions`](crate::GroupPositions) among them.
    pub failure: Option<Error>,
}

/// What retention makes of a partition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionRetention {
    /// Its number.
    pub partition: i32,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// Rising. The last one is the active one.
    pub segments: Vec<SegmentRetention>,
}

/// What retention makes of a segment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentRetention {
    /// Its first offset.
    pub base: Offset,
    /// One behind its last.
    pub end: Offset,
    /// Its bytes.
    pub bytes: u64,
    /// Why it stays, or that it goes.
    pub fate: Fate,
    /// The time by which its age was told, in milliseconds since 1970; `None`: it did not matter.
    pub aged_ms: Option<i64>,
    /// What told that time.
    pub aged_by: Option<AgedBy>,
    /// When it goes for its age, in milliseconds since 1970, if nothing else changes: the first look after that takes
    /// it. `None`: not for its age.
    pub until_ms: Option<i64>,
}

impl Store {
    /// Says of each segment of a topic why it is kept, and until when; the same rule decides what goes. It opens the
    /// topic's partitions and deletes nothing.
    ///
    /// ```
    /// use logstead::{Acks, Fate, Record, Store, TopicConfig};
    ///
    /// let store = Store::in_memory()?;
    /// let topic = store.create_topic("orders", TopicConfig::default().retention_ms(3_600_000))?;
    /// topic.partition(0)?.append([Record::to(&topic).value("2 apples")], None, Acks::All)?;
    ///
    /// let report = store.explain_retention("orders")?;
    /// let segment = &report.partitions[0].segments[0];
    /// assert_eq!(segment.fate, Fate::Young);
    /// assert_eq!(segment.until_ms, segment.aged_ms.map(|youngest| youngest + 3_600_001));
    /// println!("{report}");
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`UnknownTopic`](crate::ErrorKind::UnknownTopic); a partition can not be opened or read.
    pub fn explain_retention(&self, topic: &str) -> Result<RetentionReport> {
        self.shared().check_open()?;
        self.shared().explain_retention(&*self.shared().topics.get(topic)?)
    }
}

impl Shared {
    fn explain_retention(&self, topic: &TopicInner) -> Result<RetentionReport> {
        let (config, upkeep) = (topic.config(), &self.context.upkeep);
        let trusted = upkeep.now(self.context.clock.as_ref());
        let mut partitions = Vec::new();
        for partition in 0..i32::try_from(topic.partitions()).unwrap_or(0) {
            let log = match topic.log(partition) {
                // A broker's topic, of which this directory holds other partitions only.
                Err(error) if matches!(error.kind(), crate::error::ErrorKind::UnknownPartition { .. }) => {
                    continue;
                }
                log => log?,
            };
            let looked = log.look_for_retention(trusted.now_ms, self.held(topic, partition, &config));
            let judged = log.judge(&looked, true)?;
            let segments = looked.views.iter().zip(judged).map(|(view, judged)| SegmentRetention {
                base: view.base,
                end: view.end,
                bytes: view.bytes,
                fate: judged.fate,
                aged_ms: judged.stamp.map(|stamp| stamp.ms),
                aged_by: judged.stamp.map(|stamp| stamp.by),
                until_ms: judged.until_ms,
            });
            partitions.push(PartitionRetention {
                partition,
                log_start: looked.rules.log_start,
                segments: segments.collect(),
            });
        }
        Ok(RetentionReport {
            topic: topic.name.to_string(),
            cleanup: config.cleanup,
            retention_ms: config.retention.ms,
            retention_bytes: config.retention.bytes,
            now_ms: trusted.now_ms,
            clock_ahead: Duration::from_millis(trusted.ahead_ms),
            partitions,
            failure: self.cleaner.failure(),
        })
    }
}

const COLUMNS: [&str; 6] = ["segment", "offsets", "bytes", "youngest", "until", "why"];

impl fmt::Display for RetentionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |limit: Option<String>| limit.unwrap_or_else(|| "none".to_owned());
        write!(
            f,
            "{} | cleanup.policy: {} | retention.ms: {} | retention.bytes: {} | now: {}",
            self.topic,
            self.cleanup,
            limit(self.retention_ms.map(span)),
            limit(self.retention_bytes.map(|bytes| size(bytes as f64))),
            date(self.now_ms),
        )?;
        if !self.clock_ahead.is_zero() {
            let ahead = u64::try_from(self.clock_ahead.as_millis()).unwrap_or(u64::MAX);
            write!(
                f,
                "\nthe wall clock jumped ahead by {} and is not believed: Store::trust_clock",
                span(ahead)
            )?;
        }
        if let Some(failure) = &self.failure {
            write!(f, "\nthe last look for what can go failed: {failure}")?;
        }
        for partition in &self.partitions {
            writeln!(f, "\n{}-{} starts at {}", self.topic, partition.partition, partition.log_start)?;
            let mut rows = vec![COLUMNS.map(str::to_owned)];
            rows.extend(partition.segments.iter().map(SegmentRetention::row));
            table(f, &rows, &[0, 1, 3, 4, 5])?;
        }
        Ok(())
    }
}

impl SegmentRetention {
    fn row(&self) -> [String; COLUMNS.len()] {
        let aged_by = match self.aged_by {
            Some(AgedBy::File) => " (file)",
            Some(AgedBy::FileSinceFuture { .. }) => " (file: its records are of the future)",
            Some(AgedBy::FileSinceDamaged) => " (file: it is damaged)",
            Some(AgedBy::Opened) => " (opened: records and file are of the future)",
            Some(AgedBy::Records) | None => "",
        };
        let at = |ms: Option<i64>| ms.map_or("-".to_owned(), date);
        [
            self.base.to_string(),
            format!("{}..{}", self.base, self.end),
            size(self.bytes as f64),
            format!("{}{aged_by}", at(self.aged_ms)),
            at(self.until_ms),
            self.fate.to_string(),
        ]
    }
}

/// A length of time, in its largest whole unit.
fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    let whole = UNITS.iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit));
    let (unit, name) = whole.copied().unwrap_or((1, "ms"));
    format!("{} {name}", ms / unit)
}

/// Milliseconds since 1970 as a date and a time of day, in UTC.
fn date(ms: i64) -> String {
    let (days, ms) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The day of the proleptic Gregorian calendar, from days since 1970: counted in years that begin in March, whose leap
/// day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA_DAYS: i64 = 146_097; // 400 years
    // From 0000-03-01 on.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year = (day - day / 1_460 + day / 36_524 - day / (ERA_DAYS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // March, April, …: 31, 30, 31, 30, 31 days, over and over.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(1_700_000_000_123), "2023-11-14 22:13:20");
        assert_eq!(date(951_782_399_999), "2000-02-28 23:59:59");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(date(-1), "1969-12-31 23:59:59");
        assert_eq!(date(4_107_542_400_000), "2100-03-01 00:00:00");
        // One day after the other, from 1600 to 2400.
        let (mut days, mut before) = (-135_140, (1600, 1, 1));
        assert_eq!(civil(days), before);
        while before.0 < 2400 {
            days += 1;
            let (year, month, day) = civil(days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let next = match before {
                (y, m, d) if (y, m, d + 1) == (year, month, day) => true,
                (y, 12, 31) => (year, month, day) == (y + 1, 1, 1),
                (y, 2, d) => (year, month, day) == (y, 3, 1) && d == if leap { 29 } else { 28 },
                (y, m, d) => {
                    (year, month, day) == (y, m + 1, 1)
                        && d == if [4, 6, 9, 11].contains(&m) { 30 } else { 31 }
                }
            };
            assert!(next, "{before:?} is followed by {:?}", (year, month, day));
            before = (year, month, day);
        }
    }

    #[test]
    fn lengths_of_time_are_told_in_whole_units() {
        let told = [604_800_000, 3_600_000, 90_000, 1_001, 0].map(span);
        assert_eq!(told, ["7 d", "1 h", "90 s", "1001 ms", "0 ms"]);
    }
}
