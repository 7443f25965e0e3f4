//! How a producer gathers records into batches.

use std::fmt;

use super::{check, each_once, invalid, parse, unknown};
use crate::error::Result;
use crate::limits::BATCH_BYTES_MAX;
use crate::sync::Arc;
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
    /// `None`: where `acks` allows it.
    enable_idempotence: Option<bool>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) compression: Compression,
    /// By codec, as far as they were set.
    levels: Levels,
    pub(crate) batch_size: usize,
    pub(crate) linger_ms: u64,
    pub(crate) buffer_memory: usize,
    pub(crate) max_block_ms: u64,
    pub(crate) max_request_size: usize,
    pub(crate) delivery_timeout_ms: u64,
    pub(crate) partitioner_ignore_keys: bool,
    pub(crate) partitioner: Option<SharedPartitioner>,
}

/// Levels of the codecs that have some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Levels {
    zstd: Option<i32>,
    gzip: Option<i32>,
}

/// Chooses a partition for records that name none.
///
/// Called by the thread that sends, with no lock held. A number that is not a partition makes `send` fail.
pub trait Partitioner: Send + Sync {
    /// The partition for a record, 0 to `partitions` - 1.
    fn partition(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, partitions: u32) -> i32;
}

/// A partitioner in a configuration: equal to itself only.
#[derive(Clone)]
pub(crate) struct SharedPartitioner(pub(crate) Arc<dyn Partitioner>);

impl PartialEq for SharedPartitioner {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedPartitioner {}

impl fmt::Debug for SharedPartitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Partitioner")
    }
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            acks: Acks::All,
            enable_idempotence: None,
            name: None,
            compression: Compression::None,
            levels: Levels::default(),
            batch_size: 16_384,
            linger_ms: 5,
            buffer_memory: 8 << 20,
            max_block_ms: 60_000,
            max_request_size: 1 << 20,
            delivery_timeout_ms: 120_000,
            partitioner_ignore_keys: false,
            partitioner: None,
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

    /// `enable.idempotence`: whether each batch carries an id and a number, by which the log knows one that it has
    /// already, and one that does not follow on the last. Default: yes with [`Acks::All`], no with others, as in
    /// Kafka; asked for with others it is an error.
    #[must_use]
    pub fn enable_idempotence(mut self, enable: bool) -> Self {
        self.enable_idempotence = Some(enable);
        self
    }

    /// Whether batches carry an id and a number.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.enable_idempotence.unwrap_or(self.acks == Acks::All)
    }

    /// `producer.name` (Kafka has none): who the producer is when the program runs again, 1 to 249 of
    /// `[a-zA-Z0-9._-]`. Default: nobody.
    ///
    /// A store has at most one producer of a name at a time: opening another ends the one before
    /// ([`ErrorKind::ProducerFenced`](crate::ErrorKind::ProducerFenced)), wherever that is held. What it promises is
    /// said in [exactly once](crate::guide::exactly_once).
    #[must_use]
    pub fn producer_name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// `compression.type`: how batches are packed. Default none.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// `compression.zstd.level`, -131,072 to 22, default 3.
    #[must_use]
    pub fn zstd_level(mut self, level: i32) -> Self {
        self.levels.zstd = Some(level);
        self
    }

    /// `compression.gzip.level`, 1 to 9, default 6. LZ4 here has one level, the fast one.
    #[must_use]
    pub fn gzip_level(mut self, level: i32) -> Self {
        self.levels.gzip = Some(level);
        self
    }

    /// The level that was set for a codec.
    pub(crate) fn level(&self, codec: Compression) -> Option<i32> {
        match codec {
            Compression::Zstd => self.levels.zstd,
            Compression::Gzip => self.levels.gzip,
            _ => None,
        }
    }

    /// `batch.size`: bytes of a batch before it is sent, header included, at most 100 MiB. Default 16,384.
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

    /// `buffer.memory`: bytes of batches not yet handed to the operating system, at least `batch.size`. Default
    /// 8 MiB.
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

    /// `max.request.size`: the largest record in bytes, uncompressed, at most 100 MiB. Default 1 MiB.
    ///
    /// The topic's `max.message.bytes` holds for the batch as it is stored: a record may pass this one and fail that
    /// one, which its delivery says.
    #[must_use]
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.max_request_size = bytes;
        self
    }

    /// `delivery.timeout.ms`: the longest that `wait` waits, at least `linger.ms`. Default 120,000. A sync that `wait`
    /// leads is not broken off.
    #[must_use]
    pub fn delivery_timeout_ms(mut self, ms: u64) -> Self {
        self.delivery_timeout_ms = ms;
        self
    }

    /// `partitioner.ignore.keys`: spread records with a key as if they had none. Default false.
    #[must_use]
    pub fn partitioner_ignore_keys(mut self, ignore: bool) -> Self {
        self.partitioner_ignore_keys = ignore;
        self
    }

    /// `partitioner.class`: who chooses the partition of records that name none. Default: Kafka's built-in one, by
    /// murmur2 of the key, and without a key one partition a batch.
    #[must_use]
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Some(SharedPartitioner(Arc::new(partitioner)));
        self
    }

    /// A configuration from properties by Kafka's names; what is not named keeps its default.
    ///
    /// ```
    /// use logstead::{Acks, ProducerConfig};
    ///
    /// let config = ProducerConfig::from_properties([("acks", "1"), ("linger.ms", "20")])?;
    /// assert_eq!(config, ProducerConfig::default().acks(Acks::Leader).linger_ms(20));
    /// assert!(ProducerConfig::from_properties([("linger", "20")]).is_err());
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig): an unknown name, a value that is none, or values
    /// that contradict each other.
    pub fn from_properties<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut config = ProducerConfig::default();
        each_once(properties, |name, value| config.set(name, value))?;
        config.validate()?;
        Ok(config)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let level = |name| -> Result<Option<i32>> { parse(name, value).map(Some) };
        match name {
            "acks" => {
                self.acks = match value.trim() {
                    "0" => Acks::None,
                    "1" => Acks::Leader,
                    "all" | "-1" => Acks::All,
                    _ => return Err(invalid("acks", value, "is none of 0, 1, all")),
                }
            }
            "enable.idempotence" => self.enable_idempotence = Some(parse("enable.idempotence", value)?),
            "producer.name" => self.name = Some(value.trim().into()),
            "compression.type" => self.compression = parse("compression.type", value)?,
            "compression.zstd.level" => self.levels.zstd = level("compression.zstd.level")?,
            "compression.gzip.level" => self.levels.gzip = level("compression.gzip.level")?,
            "batch.size" => self.batch_size = parse("batch.size", value)?,
            "linger.ms" => self.linger_ms = parse("linger.ms", value)?,
            "buffer.memory" => self.buffer_memory = parse("buffer.memory", value)?,
            "max.block.ms" => self.max_block_ms = parse("max.block.ms", value)?,
            "max.request.size" => self.max_request_size = parse("max.request.size", value)?,
            "delivery.timeout.ms" => self.delivery_timeout_ms = parse("delivery.timeout.ms", value)?,
            "partitioner.ignore.keys" => {
                self.partitioner_ignore_keys = parse("partitioner.ignore.keys", value)?
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    pub(crate) fn validate(&self) -> Result<()> {
        check(self.batch_size <= BATCH_BYTES_MAX, "batch.size", self.batch_size, "must be at most 100 MiB")?;
        check(
            (1..=BATCH_BYTES_MAX).contains(&self.max_request_size),
            "max.request.size",
            self.max_request_size,
            "must be 1 byte to 100 MiB",
        )?;
        check(
            self.buffer_memory >= self.batch_size,
            "buffer.memory",
            self.buffer_memory,
            "must hold at least one batch (batch.size)",
        )?;
        check(
            self.delivery_timeout_ms >= self.linger_ms,
            "delivery.timeout.ms",
            self.delivery_timeout_ms,
            "must be at least linger.ms",
        )?;
        check(
            !(self.partitioner_ignore_keys && self.partitioner.is_some()),
            "partitioner.ignore.keys",
            true,
            "contradicts a partitioner of your own, which sees the keys",
        )?;
        let idempotent = self.is_idempotent();
        check(
            !idempotent || self.acks == Acks::All,
            "enable.idempotence",
            true,
            "needs acks=all: without them nobody knows what is stored",
        )?;
        if let Some(name) = &self.name {
            let is_name = crate::types::TopicName::new(name).is_ok();
            check(is_name, "producer.name", name, "must be 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'")?;
            check(idempotent, "producer.name", name, "needs enable.idempotence")?;
        }
        if let Some(level) = self.levels.gzip {
            check((1..=9).contains(&level), "compression.gzip.level", level, "must be 1 to 9")?;
        }
        if let Some(level) = self.levels.zstd {
            check(
                (-131_072..=22).contains(&level),
                "compression.zstd.level",
                level,
                "must be -131072 to 22",
            )?;
        }
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
        assert!(ProducerConfig::default().linger_ms(200_000).validate().is_err());
        assert!(ProducerConfig::default().producer_name("").validate().is_err());
        assert!(ProducerConfig::default().producer_name("a b").validate().is_err());
        let without = ProducerConfig::default().enable_idempotence(false);
        assert!(without.validate().is_ok() && without.producer_name("a").validate().is_err());
        assert!(ProducerConfig::default().gzip_level(10).validate().is_err());
        assert!(ProducerConfig::default().zstd_level(23).validate().is_err());
        assert!(ProducerConfig::from_properties([("acks", "all"), ("acks", "0")]).is_err());
        for (name, value) in
            [("acks", "2"), ("batch.size", "-1"), ("batch.sise", "1"), ("compression.type", "lz5")]
        {
            assert!(ProducerConfig::from_properties([(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn l08_idempotence_asked_for_needs_all_acks_and_is_off_without_them_otherwise() {
        for (acks, default) in [(Acks::All, true), (Acks::Leader, false), (Acks::None, false)] {
            let config = ProducerConfig::default().acks(acks);
            assert_eq!(config.is_idempotent(), default, "{acks:?}");
            assert_eq!(config.clone().enable_idempotence(true).validate().is_ok(), default, "{acks:?}");
            assert!(config.enable_idempotence(false).validate().is_ok());
        }
    }

    #[test]
    fn every_property_is_set_by_its_kafka_name() {
        let config = ProducerConfig::from_properties([
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("producer.name", "import"),
            ("compression.type", "none"),
            ("batch.size", "1000"),
            ("linger.ms", "7"),
            ("buffer.memory", "5000"),
            ("max.block.ms", "9"),
            ("max.request.size", "800"),
            ("delivery.timeout.ms", "70"),
            ("partitioner.ignore.keys", "true"),
        ])
        .unwrap();
        let same = ProducerConfig::default()
            .enable_idempotence(true)
            .producer_name("import")
            .batch_size(1_000)
            .linger_ms(7)
            .buffer_memory(5_000)
            .max_block_ms(9)
            .max_request_size(800)
            .delivery_timeout_ms(70)
            .partitioner_ignore_keys(true);
        assert_eq!(config, same);
    }
}
