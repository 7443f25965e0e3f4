//! How a consumer fetches.

use super::{check, each_once, invalid, parse, unknown};
use crate::error::Result;

/// Where reading starts when no position was set, or the position is gone: Kafka's `auto.offset.reset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AutoOffsetReset {
    /// At the first record that is still there.
    Earliest,
    /// Behind the last committed record.
    #[default]
    Latest,
    /// Nowhere: `poll` answers an error.
    None,
}

/// Which records of transactions are read: Kafka's `isolation.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IsolationLevel {
    /// All of them.
    #[default]
    ReadUncommitted,
    /// Those of transactions that were committed; reading stops in front of the first that is still open.
    ReadCommitted,
}

/// How a [`Consumer`](crate::Consumer) reads.
///
/// ```
/// use logstead::{AutoOffsetReset, ConsumerConfig};
///
/// let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
/// assert_eq!(config, ConsumerConfig::from_properties([("auto.offset.reset", "earliest")])?);
/// # Ok::<(), logstead::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    pub(crate) max_poll_records: usize,
    pub(crate) fetch_min_bytes: usize,
    pub(crate) fetch_max_wait_ms: u64,
    pub(crate) fetch_max_bytes: usize,
    pub(crate) max_partition_fetch_bytes: usize,
    pub(crate) check_crcs: bool,
    pub(crate) isolation_level: IsolationLevel,
    pub(crate) auto_offset_reset: AutoOffsetReset,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig {
            max_poll_records: 500,
            fetch_min_bytes: 1,
            fetch_max_wait_ms: 500,
            fetch_max_bytes: 4 << 20,
            max_partition_fetch_bytes: 1 << 20,
            check_crcs: true,
            isolation_level: IsolationLevel::ReadUncommitted,
            auto_offset_reset: AutoOffsetReset::Latest,
        }
    }
}

impl ConsumerConfig {
    /// `max.poll.records`: the most records that one `poll` returns. Default 500.
    ///
    /// It slices what was fetched and fetches nothing twice.
    #[must_use]
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.max_poll_records = records;
        self
    }

    /// `fetch.min.bytes`: `poll` waits for this much, for at most `fetch.max.wait.ms`. Default 1.
    #[must_use]
    pub fn fetch_min_bytes(mut self, bytes: usize) -> Self {
        self.fetch_min_bytes = bytes;
        self
    }

    /// `fetch.max.wait.ms`: how long `poll` waits for `fetch.min.bytes` when less is there. Default 500.
    #[must_use]
    pub fn fetch_max_wait_ms(mut self, ms: u64) -> Self {
        self.fetch_max_wait_ms = ms;
        self
    }

    /// `fetch.max.bytes`: about how much one `poll` returns. Default 4 MiB.
    ///
    /// Kafka's 50 MiB make up for round trips; there are none here.
    #[must_use]
    pub fn fetch_max_bytes(mut self, bytes: usize) -> Self {
        self.fetch_max_bytes = bytes;
        self
    }

    /// `max.partition.fetch.bytes`: about how much of that one partition gives. Default 1 MiB.
    ///
    /// A batch larger than this is still returned, alone.
    #[must_use]
    pub fn max_partition_fetch_bytes(mut self, bytes: usize) -> Self {
        self.max_partition_fetch_bytes = bytes;
        self
    }

    /// `check.crcs`: whether the checksum of each batch is computed. Default true.
    ///
    /// Without it a flipped bit in a record goes unseen; lengths and counts are checked all the same.
    #[must_use]
    pub fn check_crcs(mut self, check: bool) -> Self {
        self.check_crcs = check;
        self
    }

    /// `isolation.level`: which records of transactions are read. Default all.
    ///
    /// Transactions are those that a Kafka broker wrote: this crate does not write any yet.
    #[must_use]
    pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.isolation_level = level;
        self
    }

    /// `auto.offset.reset`: where a partition without a position, or with one out of range, starts. Default latest.
    #[must_use]
    pub fn auto_offset_reset(mut self, reset: AutoOffsetReset) -> Self {
        self.auto_offset_reset = reset;
        self
    }

    /// A configuration from properties by Kafka's names; what is not named keeps its default.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig): an unknown name, a value that is none, or values
    /// that contradict each other.
    pub fn from_properties<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut config = ConsumerConfig::default();
        each_once(properties, |name, value| config.set(name, value))?;
        config.validate()?;
        Ok(config)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "max.poll.records" => self.max_poll_records = parse("max.poll.records", value)?,
            "fetch.min.bytes" => self.fetch_min_bytes = parse("fetch.min.bytes", value)?,
            "fetch.max.wait.ms" => self.fetch_max_wait_ms = parse("fetch.max.wait.ms", value)?,
            "fetch.max.bytes" => self.fetch_max_bytes = parse("fetch.max.bytes", value)?,
            "max.partition.fetch.bytes" => {
                self.max_partition_fetch_bytes = parse("max.partition.fetch.bytes", value)?;
            }
            "check.crcs" => self.check_crcs = parse("check.crcs", value)?,
            "isolation.level" => {
                self.isolation_level = match value.trim() {
                    "read_uncommitted" => IsolationLevel::ReadUncommitted,
                    "read_committed" => IsolationLevel::ReadCommitted,
                    _ => {
                        return Err(invalid(
                            "isolation.level",
                            value,
                            "is neither read_uncommitted nor read_committed",
                        ));
                    }
                }
            }
            "auto.offset.reset" => {
                self.auto_offset_reset = match value.trim() {
                    "earliest" => AutoOffsetReset::Earliest,
                    "latest" => AutoOffsetReset::Latest,
                    "none" => AutoOffsetReset::None,
                    _ => {
                        return Err(invalid("auto.offset.reset", value, "is none of earliest, latest, none"));
                    }
                }
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let positive = |value: usize, name| check(value > 0, name, value, "must be at least 1");
        positive(self.max_poll_records, "max.poll.records")?;
        positive(self.fetch_max_bytes, "fetch.max.bytes")?;
        positive(self.max_partition_fetch_bytes, "max.partition.fetch.bytes")?;
        check(
            self.fetch_min_bytes <= self.fetch_max_bytes,
            "fetch.min.bytes",
            self.fetch_min_bytes,
            "must be at most fetch.max.bytes: more is never fetched",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_is_set_by_its_kafka_name() {
        let config = ConsumerConfig::from_properties([
            ("max.poll.records", "7"),
            ("fetch.min.bytes", "10"),
            ("fetch.max.wait.ms", "20"),
            ("fetch.max.bytes", "3000"),
            ("max.partition.fetch.bytes", "2000"),
            ("check.crcs", "false"),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "none"),
        ])
        .unwrap();
        let same = ConsumerConfig::default()
            .max_poll_records(7)
            .fetch_min_bytes(10)
            .fetch_max_wait_ms(20)
            .fetch_max_bytes(3_000)
            .max_partition_fetch_bytes(2_000)
            .check_crcs(false)
            .isolation_level(IsolationLevel::ReadCommitted)
            .auto_offset_reset(AutoOffsetReset::None);
        assert_eq!(config, same);
    }

    #[test]
    fn unknown_wild_and_contradictory_values_are_errors() {
        let wrong = [
            ("max.poll.records", "0"),
            ("fetch.min.bytes", "5000000"),
            ("isolation.level", "serializable"),
            ("auto.offset.reset", "first"),
            ("group.id", "g"),
        ];
        for (name, value) in wrong {
            assert!(ConsumerConfig::from_properties([(name, value)]).is_err(), "{name}={value}");
        }
    }
}
