//! The small words that every room uses.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::TOPIC_NAME_CHARS_MAX;
use crate::sync::Arc;

/// A record's place in its partition: 0, 1, 2, … as in Kafka.
pub type Offset = i64;

/// One partition of a topic, by name.
///
/// ```
/// use logstead::TopicPartition;
///
/// assert_eq!(TopicPartition::new("orders", 3).to_string(), "orders-3");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

impl TopicPartition {
    /// A partition, which need not exist.
    pub fn new(topic: &str, partition: i32) -> Self {
        TopicPartition { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// What "committed" means for a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Handed to the operating system: survives the death of the process, not of the machine.
    PageCache,
    /// Synced to the device: survives a power cut.
    #[default]
    Disk,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::PageCache => "page-cache",
            Durability::Disk => "disk",
        })
    }
}

/// What a store that was opened read-only shows: see
/// [`StoreOptions::read_only`](crate::StoreOptions::read_only).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadOnly {
    /// What is committed: nothing that a crash of the writer can take back.
    #[default]
    Committed,
    /// All that was written and is whole, committed or not. Unsafe to act on: a crash, or a failed sync, can take
    /// records back, and others get their offsets.
    Written,
}

/// When a delivery completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Acks {
    /// When the record was accepted into a batch; its offset is not known (-1).
    None,
    /// When the batch was handed to the operating system.
    Leader,
    /// When the record is committed, as the topic's [`Durability`] defines it.
    #[default]
    All,
}

/// What the timestamps of a batch mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// When the record was made: given by its sender.
    #[default]
    CreateTime,
    /// When the record was appended: given by the log.
    LogAppendTime,
}

impl fmt::Display for TimestampType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        })
    }
}

/// How the records of a batch are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Gzip; needs the feature `gzip`.
    Gzip,
    /// Snappy in the framing of Kafka's Java clients; needs the feature `snappy`.
    Snappy,
    /// LZ4; needs the feature `lz4`.
    Lz4,
    /// Zstandard; needs the feature `zstd`.
    Zstd,
}

impl Compression {
    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// Kafka's number of it.
    #[inline]
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name of it, which is also the feature that brings it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    #[inline]
    pub(crate) fn from_id(id: u8) -> Option<Compression> {
        Compression::ALL.get(usize::from(id)).copied()
    }

    /// An error unless this build can pack and unpack it.
    pub(crate) fn available(self) -> Result<(), Error> {
        if self.is_built() { Ok(()) } else { Err(ErrorKind::CodecMissing { codec: self.name() }.into()) }
    }

    /// Whether this build can pack and unpack it.
    pub fn is_built(self) -> bool {
        match self {
            Compression::None => true,
            Compression::Gzip => cfg!(feature = "gzip"),
            Compression::Snappy => cfg!(feature = "snappy"),
            Compression::Lz4 => cfg!(feature = "lz4"),
            Compression::Zstd => cfg!(feature = "zstd"),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Compression::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| {
            Error::from(ErrorKind::InvalidConfig {
                name: "compression.type",
                value: name.to_owned(),
                why: "it must be one of none, gzip, snappy, lz4, zstd",
            })
        })
    }
}

/// A topic's name, checked by Kafka's rule: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` and not `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicName(Arc<str>);

impl TopicName {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let why = if name.is_empty() {
            "it is empty"
        } else if name == "." || name == ".." {
            "it names a directory of the file system"
        } else if name.len() > TOPIC_NAME_CHARS_MAX {
            "it is longer than 249 characters"
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            "only letters, digits, '.', '_' and '-' are allowed"
        } else {
            return Ok(TopicName(name.into()));
        };
        Err(Error::from(ErrorKind::InvalidTopic { topic: name.to_owned(), why }))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for good in ["a", "orders", "a.b_c-D9", "...", &"x".repeat(249)] {
            assert!(TopicName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a b", "ä", "a\0", &"x".repeat(250)] {
            assert!(TopicName::new(bad).is_err(), "{bad:?}");
        }
    }
}
