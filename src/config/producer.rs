//! How a producer gathers records into batches.

use super::check;
use crate::error::Result;
use crate::limits::BATCH_BYTES_MAX;
use crate::types::{Acks, Compression};

/// How a [`Producer`](crate::Producer) sends.
///
/// ```
/// use logstead::{Acks, Compression, ProducerConfig};
///
/// let config = ProducerConfig::default().acks(Acks::Leader).compression(Compression::Lz4).linger_ms(20);
/// assert_ne!(config, ProducerConfig::default());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerConfig {
    pub(crate) acks: Acks,
    pub(crate) compression: Compression,
    pub(crate) compression_level: Option<i32>,
    pub(crate) batch_size: usize,
    pub(crate) linger_ms: u64,
    pub(crate) buffer_memory: usize,
    pub(crate) max_block_ms: u64,
    pub(crate) max_request_size: usize,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            acks: Acks::All,
            compression: Compression::None,
            compression_level: None,
            batch_size: 16_384,
            linger_ms: 5,
            buffer_memory: 8 << 20,
            max_block_ms: 60_000,
            max_request_size: 1 << 20,
        }
    }
}

impl ProducerConfig {
    /// `acks`: when a delivery completes. Default [`Acks::All`].
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// `compression.type`: how batches are packed. Default none.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// `compression.zstd.level`, `compression.gzip.level`: default 3 and 6. LZ4 here has one level, the fast one.
    #[must_use]
    pub fn compression_level(mut self, level: i32) -> Self {
        self.compression_level = Some(level);
        self
    }

    /// `batch.size`: bytes of a batch before it is sent, header included. Default 16,384.
    ///
    /// A record that is larger goes in a batch of its own; 0 gives one record a batch.
    #[must_use]
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.batch_size = bytes;
        self
    }

    /// `linger.ms`: how long an unfilled batch may wait for more records. Default 5, as in Kafka 4.
    ///
    /// Whoever waits for a delivery, flushes or closes never waits for this.
    #[must_use]
    pub fn linger_ms(mut self, ms: u64) -> Self {
        self.linger_ms = ms;
        self
    }

    /// `buffer.memory`: bytes of batches not yet handed to the operating system. Default 8 MiB.
    ///
    /// Kafka's 32 MiB bridge a network; here a batch waits for nothing but the disk.
    #[must_use]
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.buffer_memory = bytes;
        self
    }

    /// `max.block.ms`: how long `send` may wait for the disk while the buffer is full. Default 60,000.
    #[must_use]
    pub fn max_block_ms(mut self, ms: u64) -> Self {
        self.max_block_ms = ms;
        self
    }

    /// `max.request.size`: the largest record, uncompressed. Default 1 MiB.
    #[must_use]
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.max_request_size = bytes;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        check(self.batch_size <= BATCH_BYTES_MAX, "batch.size", self.batch_size, "must be at most 100 MiB")?;
        check(
            self.max_request_size <= BATCH_BYTES_MAX,
            "max.request.size",
            self.max_request_size,
            "must be at most 100 MiB",
        )?;
        check(
            self.buffer_memory >= self.batch_size,
            "buffer.memory",
            self.buffer_memory,
            "must hold at least one batch (batch.size)",
        )?;
        self.compression.available()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_errors() {
        ProducerConfig::default().validate().unwrap();
        assert!(ProducerConfig::default().buffer_memory(100).validate().is_err());
        assert!(ProducerConfig::default().batch_size(usize::MAX).validate().is_err());
    }
}
