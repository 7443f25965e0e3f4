//! What a topic is made with; kept in the store's catalog under Kafka's property names.

use super::retention::Retention;
use super::{Cleanup, check, each_once, invalid, parse, unknown};
use crate::error::Result;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, PARTITIONS_MAX, SEGMENT_BYTES_MAX, UNSYNCED_BYTES_MAX,
};
use crate::types::{Compression, Durability, TimestampType};

/// How a topic stores its records.
///
/// ```
/// use logstead::{Durability, TopicConfig};
///
/// let config = TopicConfig::default().partitions(4).durability(Durability::PageCache);
/// assert_eq!(config, config.clone());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    pub(crate) partitions: u32,
    pub(crate) durability: Durability,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_ms: u64,
    pub(crate) segment_jitter_ms: u64,
    pub(crate) segment_index_bytes: u64,
    pub(crate) index_interval_bytes: u64,
    pub(crate) max_message_bytes: usize,
    pub(crate) flush_ms: u64,
    pub(crate) flush_bytes: u64,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) timestamp_before_max_ms: u64,
    pub(crate) timestamp_after_max_ms: u64,
    /// `None`: as the producer says.
    pub(crate) compression: Option<Compression>,
    pub(crate) cleanup: Cleanup,
    pub(crate) min_cleanable_dirty_ratio: Ratio,
    pub(crate) min_compaction_lag_ms: u64,
    pub(crate) max_compaction_lag_ms: u64,
    pub(crate) delete_retention_ms: u64,
    pub(crate) retention: Retention,
}

/// A share of 0 to 1, compared by its bits: what was read is what was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio(pub(crate) f64);

impl PartialEq for Ratio {
    fn eq(&self, other: &Ratio) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Ratio {}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig {
            partitions: 1,
            durability: Durability::Disk,
            segment_bytes: 1 << 30,
            segment_ms: 604_800_000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10_485_760,
            index_interval_bytes: 4_096,
            max_message_bytes: 1_048_588,
            flush_ms: 1_000,
            flush_bytes: UNSYNCED_BYTES_MAX,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: NO_LIMIT_MS,
            timestamp_after_max_ms: NO_LIMIT_MS,
            compression: None,
            cleanup: Cleanup::DELETE,
            min_cleanable_dirty_ratio: Ratio(0.5),
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: NO_LIMIT_MS,
            delete_retention_ms: 86_400_000,
            retention: Retention::default(),
        }
    }
}

/// Kafka's way to say that there is no limit.
const NO_LIMIT_MS: u64 = i64::MAX as u64;

fn compression_name(compression: Option<Compression>) -> String {
    match compression {
        None => "producer".to_owned(),
        Some(Compression::None) => "uncompressed".to_owned(),
        Some(codec) => codec.to_string(),
    }
}

impl TopicConfig {
    /// `num.partitions`: how many partitions, 1 to 10,000. Default 1. Can be raised later.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// What "committed" means for this topic. Default [`Durability::Disk`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// `segment.bytes`: a segment is closed before it grows beyond this. Default 1 GiB, at most 2 GiB - 1.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// `segment.ms`: a segment is closed when a record this much younger than its first arrives. Default 7 days.
    #[must_use]
    pub fn segment_ms(mut self, ms: u64) -> Self {
        self.segment_ms = ms;
        self
    }

    /// `segment.jitter.ms`: at most this is taken off `segment.ms`, by chance, once per segment. Default 0.
    #[must_use]
    pub fn segment_jitter_ms(mut self, ms: u64) -> Self {
        self.segment_jitter_ms = ms;
        self
    }

    /// `segment.index.bytes`: the most an index may take; a full one closes the segment. Default 10 MiB.
    #[must_use]
    pub fn segment_index_bytes(mut self, bytes: u64) -> Self {
        self.segment_index_bytes = bytes;
        self
    }

    /// `index.interval.bytes`: an index entry is made after more than this many bytes. Default 4096.
    #[must_use]
    pub fn index_interval_bytes(mut self, bytes: u64) -> Self {
        self.index_interval_bytes = bytes;
        self
    }

    /// `max.message.bytes`: the largest batch accepted, as stored. Default 1,048,588, at most 100 MiB.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// `flush.ms`: records of a `Disk` topic that nobody waits for are synced after this long. Default 1000.
    ///
    /// Kafka's default is "never", since its safety comes from replication; ours comes from the disk.
    #[must_use]
    pub fn flush_ms(mut self, ms: u64) -> Self {
        self.flush_ms = ms;
        self
    }

    /// `message.timestamp.type`: whose time a record carries. Default [`TimestampType::CreateTime`], the sender's.
    ///
    /// With [`TimestampType::LogAppendTime`] every record gets the time of its append, whatever was sent.
    #[must_use]
    pub fn timestamp_type(mut self, timestamp_type: TimestampType) -> Self {
        self.timestamp_type = timestamp_type;
        self
    }

    /// `cleanup.policy`: what becomes of old records. Default [`Cleanup::DELETE`].
    ///
    /// A topic that is compacted takes records with a key only, as Kafka does.
    #[must_use]
    pub fn cleanup_policy(mut self, cleanup: Cleanup) -> Self {
        self.cleanup = cleanup;
        self
    }

    /// `min.cleanable.dirty.ratio`: a log is compacted when more than this share of its closed segments was never
    /// compacted. Default 0.5: at most half of the log are records that a later one replaced.
    #[must_use]
    pub fn min_cleanable_dirty_ratio(mut self, ratio: f64) -> Self {
        self.min_cleanable_dirty_ratio = Ratio(ratio);
        self
    }

    /// `min.compaction.lag.ms`: records younger than this are not compacted. Default 0.
    #[must_use]
    pub fn min_compaction_lag_ms(mut self, ms: u64) -> Self {
        self.min_compaction_lag_ms = ms;
        self
    }

    /// `max.compaction.lag.ms`: records older than this make their log be compacted, whatever the ratio; it also closes
    /// segments earlier than `segment.ms`. Default: no limit.
    #[must_use]
    pub fn max_compaction_lag_ms(mut self, ms: u64) -> Self {
        self.max_compaction_lag_ms = ms;
        self
    }

    /// `delete.retention.ms`: how long a tombstone (a record without a value) stays after the compaction that met it
    /// first, for readers that began before. Default one day.
    #[must_use]
    pub fn delete_retention_ms(mut self, ms: u64) -> Self {
        self.delete_retention_ms = ms;
        self
    }

    /// `segment.ms`, or what `max.compaction.lag.ms` makes of it.
    pub(crate) fn roll_ms(&self) -> u64 {
        if self.cleanup.compact {
            self.segment_ms.min(self.max_compaction_lag_ms.max(1))
        } else {
            self.segment_ms
        }
    }

    /// Checks every value and the relations between them.
    pub(crate) fn validate(&self) -> Result<()> {
        check(
            (1..=PARTITIONS_MAX).contains(&self.partitions),
            "num.partitions",
            self.partitions,
            "must be 1 to 10,000",
        )?;
        check(
            (BATCH_HEADER_BYTES as u64..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes),
            "segment.bytes",
            self.segment_bytes,
            "must be 61 to 2147483647",
        )?;
        check(self.segment_ms >= 1, "segment.ms", self.segment_ms, "must be at least 1")?;
        check(
            (24..=i32::MAX as u64).contains(&self.segment_index_bytes),
            "segment.index.bytes",
            self.segment_index_bytes,
            "must hold two entries: 24 to 2147483647",
        )?;
        check(
            self.index_interval_bytes <= i32::MAX as u64,
            "index.interval.bytes",
            self.index_interval_bytes,
            "must be at most 2147483647",
        )?;
        check(
            (BATCH_HEADER_BYTES..=BATCH_BYTES_MAX).contains(&self.max_message_bytes),
            "max.message.bytes",
            self.max_message_bytes,
            "must be 61 bytes to 100 MiB",
        )?;
        check(self.flush_ms >= 1, "flush.ms", self.flush_ms, "must be at least 1")?;
        check(
            (0.0..=1.0).contains(&self.min_cleanable_dirty_ratio.0),
            "min.cleanable.dirty.ratio",
            self.min_cleanable_dirty_ratio.0,
            "must be 0 to 1",
        )?;
        for (name, ms) in [
            ("min.compaction.lag.ms", self.min_compaction_lag_ms),
            ("max.compaction.lag.ms", self.max_compaction_lag_ms),
            ("delete.retention.ms", self.delete_retention_ms),
        ] {
            check(ms <= NO_LIMIT_MS, name, ms, "must be at most 9223372036854775807")?;
        }
        check(
            self.min_compaction_lag_ms <= self.max_compaction_lag_ms,
            "min.compaction.lag.ms",
            self.min_compaction_lag_ms,
            "must be at most max.compaction.lag.ms",
        )?;
        self.retention.validate()?;
        self.compression.unwrap_or_default().available()
    }

    /// All settings by property name, in a fixed order: Kafka's names, and ours, which begin with `logstead.`.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let mut properties = vec![
            ("num.partitions", self.partitions.to_string()),
            ("logstead.durability", self.durability.to_string()),
            ("segment.bytes", self.segment_bytes.to_string()),
            ("segment.ms", self.segment_ms.to_string()),
            ("segment.jitter.ms", self.segment_jitter_ms.to_string()),
            ("segment.index.bytes", self.segment_index_bytes.to_string()),
            ("index.interval.bytes", self.index_interval_bytes.to_string()),
            ("max.message.bytes", self.max_message_bytes.to_string()),
            ("flush.ms", self.flush_ms.to_string()),
            ("message.timestamp.type", self.timestamp_type.to_string()),
            ("message.timestamp.before.max.ms", self.timestamp_before_max_ms.to_string()),
            ("message.timestamp.after.max.ms", self.timestamp_after_max_ms.to_string()),
            ("compression.type", compression_name(self.compression)),
            ("cleanup.policy", self.cleanup.to_string()),
            ("min.cleanable.dirty.ratio", self.min_cleanable_dirty_ratio.0.to_string()),
            ("min.compaction.lag.ms", self.min_compaction_lag_ms.to_string()),
            ("max.compaction.lag.ms", self.max_compaction_lag_ms.to_string()),
            ("delete.retention.ms", self.delete_retention_ms.to_string()),
        ];
        properties.extend(self.retention.properties());
        properties
    }

    /// `message.timestamp.before.max.ms`: records older than this are refused. Default: no limit.
    #[must_use]
    pub fn timestamp_before_max_ms(mut self, ms: u64) -> Self {
        self.timestamp_before_max_ms = ms;
        self
    }

    /// `message.timestamp.after.max.ms`: records from further in the future are refused. Default: no limit, as in Kafka
    /// before 4.0, whose hour keeps wrong clocks from stopping retention by time.
    #[must_use]
    pub fn timestamp_after_max_ms(mut self, ms: u64) -> Self {
        self.timestamp_after_max_ms = ms;
        self
    }

    /// `compression.type`: how this topic's batches are packed, whatever a producer is set to. Default `producer`: as
    /// each producer says, so that one log may hold batches of several codecs; `Partition::append` packs none.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    pub(crate) fn limits_timestamps(&self) -> bool {
        let unlimited =
            self.timestamp_before_max_ms == NO_LIMIT_MS && self.timestamp_after_max_ms == NO_LIMIT_MS;
        !unlimited && self.timestamp_type == TimestampType::CreateTime
    }

    /// How much can lie behind the last sync when a crash comes: twice the bound (one window in the sync, one behind
    /// it), and the batches that crossed it. `None`: no bound.
    pub(crate) fn unsynced_window(&self) -> Option<u64> {
        let batches = 2 * self.max_message_bytes as u64;
        (self.durability == Durability::Disk).then_some(2 * self.flush_bytes + batches)
    }

    /// Whether the record at `index` of a call may carry this timestamp; -1 always may.
    pub(crate) fn takes_timestamp(&self, timestamp: i64, now: impl FnOnce() -> i64) -> bool {
        if timestamp < 0 || !self.limits_timestamps() {
            return true;
        }
        let ahead = i128::from(timestamp) - i128::from(now());
        (-i128::from(self.timestamp_before_max_ms)..=i128::from(self.timestamp_after_max_ms)).contains(&ahead)
    }

    /// How large a producer's batches become here: one that is larger would be refused.
    pub(crate) fn batch_size(&self, producers: usize) -> usize {
        let segment_bytes = usize::try_from(self.segment_bytes).unwrap_or(usize::MAX);
        producers.min(self.max_message_bytes).min(segment_bytes)
    }

    /// The codec and level to pack with, for a producer that is set to these.
    pub(crate) fn codec(&self, producers: Compression, level: Option<i32>) -> (Compression, Option<i32>) {
        match self.compression {
            Some(codec) if codec != producers => (codec, None),
            // A mere level is the producer's choice (F13).
            _ => (producers, level),
        }
    }

    /// A configuration from properties by Kafka's names; what is not named keeps its default.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig): an unknown name, or a value that is none.
    pub fn from_properties<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut config = TopicConfig::default();
        each_once(properties, |name, value| config.set(name, value))?;
        config.validate()?;
        Ok(config)
    }

    /// Sets one property by name; an unknown name is an error.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "num.partitions" => self.partitions = parse("num.partitions", value)?,
            "logstead.durability" => {
                self.durability = match value {
                    "disk" => Durability::Disk,
                    "page-cache" => Durability::PageCache,
                    _ => return Err(invalid("logstead.durability", value, "is neither disk nor page-cache")),
                }
            }
            "segment.bytes" => self.segment_bytes = parse("segment.bytes", value)?,
            "segment.ms" => self.segment_ms = parse("segment.ms", value)?,
            "segment.jitter.ms" => self.segment_jitter_ms = parse("segment.jitter.ms", value)?,
            "segment.index.bytes" => self.segment_index_bytes = parse("segment.index.bytes", value)?,
            "index.interval.bytes" => self.index_interval_bytes = parse("index.interval.bytes", value)?,
            "max.message.bytes" => self.max_message_bytes = parse("max.message.bytes", value)?,
            "flush.ms" => self.flush_ms = parse("flush.ms", value)?,
            "message.timestamp.type" => {
                self.timestamp_type = match value {
                    "CreateTime" => TimestampType::CreateTime,
                    "LogAppendTime" => TimestampType::LogAppendTime,
                    _ => {
                        return Err(invalid(
                            "message.timestamp.type",
                            value,
                            "is neither CreateTime nor LogAppendTime",
                        ));
                    }
                }
            }
            "message.timestamp.before.max.ms" => {
                self.timestamp_before_max_ms = parse("message.timestamp.before.max.ms", value)?;
            }
            "message.timestamp.after.max.ms" => {
                self.timestamp_after_max_ms = parse("message.timestamp.after.max.ms", value)?;
            }
            "compression.type" => {
                self.compression = match value {
                    "producer" => None,
                    "uncompressed" => Some(Compression::None),
                    codec => Some(parse("compression.type", codec)?),
                }
            }
            "cleanup.policy" => self.cleanup = value.parse()?,
            "min.cleanable.dirty.ratio" => {
                self.min_cleanable_dirty_ratio = Ratio(parse("min.cleanable.dirty.ratio", value)?);
            }
            "min.compaction.lag.ms" => self.min_compaction_lag_ms = parse("min.compaction.lag.ms", value)?,
            "max.compaction.lag.ms" => self.max_compaction_lag_ms = parse("max.compaction.lag.ms", value)?,
            "delete.retention.ms" => self.delete_retention_ms = parse("delete.retention.ms", value)?,
            _ if self.retention.set(name, value)? => {}
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_round_trip() {
        let config = TopicConfig::default()
            .partitions(7)
            .durability(Durability::PageCache)
            .segment_bytes(123_456)
            .segment_ms(9)
            .segment_jitter_ms(3)
            .segment_index_bytes(240)
            .index_interval_bytes(100)
            .max_message_bytes(2_000)
            .flush_ms(77)
            .timestamp_type(TimestampType::LogAppendTime)
            .timestamp_before_max_ms(5)
            .timestamp_after_max_ms(6)
            .compression(Compression::None)
            .cleanup_policy(Cleanup::COMPACT_DELETE)
            .min_cleanable_dirty_ratio(0.125)
            .min_compaction_lag_ms(7)
            .max_compaction_lag_ms(8)
            .delete_retention_ms(9)
            .retention_ms(8)
            .retention_bytes(1 << 40)
            .file_delete_delay_ms(60_000)
            .hold_for(["billing", "audit"])
            .hold_max_bytes(1)
            .hold_max_ms(2);
        let mut read = TopicConfig::default();
        for (name, value) in config.properties() {
            read.set(name, &value).unwrap();
        }
        assert_eq!(read, config);
    }

    #[test]
    fn unknown_and_wild_values_are_errors() {
        let mut config = TopicConfig::default();
        assert!(config.set("segment.byte", "1").is_err());
        assert!(config.set("segment.bytes", "many").is_err());
        assert!(config.set("cleanup.policy", "compact,shred").is_err());
        config.set("cleanup.policy", "delete , compact").unwrap();
        assert_eq!(config.cleanup, Cleanup::COMPACT_DELETE);
        assert!(TopicConfig::default().min_cleanable_dirty_ratio(f64::NAN).validate().is_err());
        assert!(TopicConfig::default().min_cleanable_dirty_ratio(1.5).validate().is_err());
        assert!(TopicConfig::default().min_compaction_lag_ms(2).max_compaction_lag_ms(1).validate().is_err());
        assert!(TopicConfig::default().partitions(0).validate().is_err());
        assert!(TopicConfig::default().segment_bytes(1 << 31).validate().is_err());
        assert!(TopicConfig::default().segment_index_bytes(8).validate().is_err());
        assert!(TopicConfig::default().max_message_bytes(1 << 30).validate().is_err());
        TopicConfig::default().validate().unwrap();
    }
}
