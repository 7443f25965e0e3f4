//! How a consumer fetches.

use std::time::Duration;

use super::duration::parse_iso;
use super::{AssignmentStrategy, check, each_once, invalid, parse, unknown};
use crate::error::Result;
use crate::limits::GROUP_TEXT_BYTES_MAX;
use crate::sync::Arc;

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
    /// At the first record that is at most so old; behind the last where all are older.
    ByDuration(Duration),
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
    pub(crate) group_id: Option<Arc<str>>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    pub(crate) client_id: Option<Arc<str>>,
    pub(crate) max_poll_interval_ms: u64,
    pub(crate) session_timeout_ms: u64,
    pub(crate) enable_auto_commit: bool,
    pub(crate) auto_commit_interval_ms: u64,
    pub(crate) assignment_strategies: Vec<AssignmentStrategy>,
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
            group_id: None,
            group_instance_id: None,
            client_id: None,
            max_poll_interval_ms: 300_000,
            session_timeout_ms: 45_000,
            enable_auto_commit: false,
            auto_commit_interval_ms: 5_000,
            assignment_strategies: vec![AssignmentStrategy::CooperativeSticky],
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

    /// `group.id`: the group that the consumer belongs to. Default none. [`Group::consumer`](crate::Group::consumer)
    /// sets it.
    #[must_use]
    pub fn group_id(mut self, id: &str) -> Self {
        self.group_id = Some(id.into());
        self
    }

    /// `group.instance.id`: makes the consumer a static member of its group. Default none.
    ///
    /// When such a consumer is gone, its partitions are kept for `session.timeout.ms`; the next one with the same id
    /// gets them without any moving of others. One consumer has an id at a time: the last that joined.
    #[must_use]
    pub fn group_instance_id(mut self, id: &str) -> Self {
        self.group_instance_id = Some(id.into());
        self
    }

    /// `client.id`: a name for descriptions; the member's id begins with it. Default `consumer-<group>`.
    #[must_use]
    pub fn client_id(mut self, id: &str) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// `max.poll.interval.ms`: a member that does not poll for so long loses its partitions. Default 300,000.
    ///
    /// It is the only sign of life: there is no heartbeat, since a consumer dies with its process. A consumer that sits
    /// in `poll` is alive.
    #[must_use]
    pub fn max_poll_interval_ms(mut self, ms: u64) -> Self {
        self.max_poll_interval_ms = ms;
        self
    }

    /// `session.timeout.ms`: how long the partitions of a static member are kept when its consumer is gone. Default
    /// 45,000. Without a `group.instance.id` it means nothing here.
    #[must_use]
    pub fn session_timeout_ms(mut self, ms: u64) -> Self {
        self.session_timeout_ms = ms;
        self
    }

    /// `enable.auto.commit`: whether `poll` commits what the last one returned, every `auto.commit.interval.ms`, before
    /// a partition is given back, and on `close`. Default false.
    ///
    /// Kafka's default is true. Here [`Records`](crate::Records) may still be at work on another thread when the next
    /// `poll` would commit them.
    #[must_use]
    pub fn enable_auto_commit(mut self, enable: bool) -> Self {
        self.enable_auto_commit = enable;
        self
    }

    /// `auto.commit.interval.ms`: see [`ConsumerConfig::enable_auto_commit`]. Default 5000.
    #[must_use]
    pub fn auto_commit_interval_ms(mut self, ms: u64) -> Self {
        self.auto_commit_interval_ms = ms;
        self
    }

    /// `partition.assignment.strategy`: how the group shares partitions, the one that is liked best first. Default
    /// [`AssignmentStrategy::CooperativeSticky`].
    ///
    /// A group goes by one that all its members name; most votes win. Kafka names `range` first for the sake of clients
    /// that are older than the others; in one process there are none.
    #[must_use]
    pub fn partition_assignment_strategy(
        mut self,
        strategies: impl IntoIterator<Item = AssignmentStrategy>,
    ) -> Self {
        self.assignment_strategies = strategies.into_iter().collect();
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
                    text => match text.strip_prefix("by_duration:").and_then(parse_iso) {
                        Some(duration) => AutoOffsetReset::ByDuration(duration),
                        None => {
                            let why = "is none of earliest, latest, none, by_duration:PnDTnHnMn.nS";
                            return Err(invalid("auto.offset.reset", value, why));
                        }
                    },
                }
            }
            "group.id" => self.group_id = Some(value.into()),
            "group.instance.id" => self.group_instance_id = Some(value.into()),
            "client.id" => self.client_id = Some(value.into()),
            "max.poll.interval.ms" => self.max_poll_interval_ms = parse("max.poll.interval.ms", value)?,
            "session.timeout.ms" => self.session_timeout_ms = parse("session.timeout.ms", value)?,
            "enable.auto.commit" => self.enable_auto_commit = parse("enable.auto.commit", value)?,
            "auto.commit.interval.ms" => {
                self.auto_commit_interval_ms = parse("auto.commit.interval.ms", value)?;
            }
            "partition.assignment.strategy" => {
                let names = value.split(',').map(|name| name.trim().parse());
                self.assignment_strategies = names.collect::<Result<_>>()?;
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
        )?;
        let texts = [
            ("group.id", &self.group_id),
            ("group.instance.id", &self.group_instance_id),
            ("client.id", &self.client_id),
        ];
        for (name, text) in texts {
            let fits = text.as_ref().is_none_or(|text| (1..=GROUP_TEXT_BYTES_MAX).contains(&text.len()));
            check(fits, name, text.as_deref().unwrap_or_default(), "must be 1 to 32000 bytes")?;
        }
        let at_least_1 = |ms: u64, name| check(ms > 0, name, ms, "must be at least 1");
        at_least_1(self.max_poll_interval_ms, "max.poll.interval.ms")?;
        at_least_1(self.session_timeout_ms, "session.timeout.ms")?;
        check(
            !self.assignment_strategies.is_empty(),
            "partition.assignment.strategy",
            "",
            "must name at least one",
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
            ("group.id", "g"),
            ("group.instance.id", "i"),
            ("client.id", "c"),
            ("max.poll.interval.ms", "1"),
            ("session.timeout.ms", "2"),
            ("enable.auto.commit", "true"),
            ("auto.commit.interval.ms", "3"),
            (
                "partition.assignment.strategy",
                "range, org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
            ),
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
            .auto_offset_reset(AutoOffsetReset::None)
            .group_id("g")
            .group_instance_id("i")
            .client_id("c")
            .max_poll_interval_ms(1)
            .session_timeout_ms(2)
            .enable_auto_commit(true)
            .auto_commit_interval_ms(3)
            .partition_assignment_strategy([
                AssignmentStrategy::Range,
                AssignmentStrategy::CooperativeSticky,
            ]);
        assert_eq!(config, same);
        let day = ConsumerConfig::from_properties([("auto.offset.reset", "by_duration:P1D")]).unwrap();
        let reset = AutoOffsetReset::ByDuration(Duration::from_secs(86_400));
        assert_eq!(day, ConsumerConfig::default().auto_offset_reset(reset));
    }

    #[test]
    fn unknown_wild_and_contradictory_values_are_errors() {
        let wrong = [
            ("max.poll.records", "0"),
            ("fetch.min.bytes", "5000000"),
            ("isolation.level", "serializable"),
            ("auto.offset.reset", "first"),
            ("auto.offset.reset", "by_duration:1h"),
            ("group.id", ""),
            ("max.poll.interval.ms", "0"),
            ("partition.assignment.strategy", ""),
            ("partition.assignment.strategy", "uniform"),
            ("heartbeat.interval.ms", "3000"),
        ];
        for (name, value) in wrong {
            assert!(ConsumerConfig::from_properties([(name, value)]).is_err(), "{name}={value}");
        }
    }
}
