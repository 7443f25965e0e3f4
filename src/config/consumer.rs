//! How a consumer fetches.

use super::check;
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

/// How a [`Consumer`](crate::Consumer) reads.
///
/// ```
/// use logstead::{AutoOffsetReset, ConsumerConfig};
///
/// let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
/// assert_ne!(config, ConsumerConfig::default());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    pub(crate) fetch_max_bytes: usize,
    pub(crate) max_partition_fetch_bytes: usize,
    pub(crate) auto_offset_reset: AutoOffsetReset,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig {
            fetch_max_bytes: 4 << 20,
            max_partition_fetch_bytes: 1 << 20,
            auto_offset_reset: AutoOffsetReset::Latest,
        }
    }
}

impl ConsumerConfig {
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

    /// `auto.offset.reset`: where a partition without a position starts. Default latest.
    #[must_use]
    pub fn auto_offset_reset(mut self, reset: AutoOffsetReset) -> Self {
        self.auto_offset_reset = reset;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        check(self.fetch_max_bytes > 0, "fetch.max.bytes", self.fetch_max_bytes, "must be at least 1")?;
        check(
            self.max_partition_fetch_bytes > 0,
            "max.partition.fetch.bytes",
            self.max_partition_fetch_bytes,
            "must be at least 1",
        )
    }
}
