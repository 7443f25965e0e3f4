//! The small words that every room uses.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::TOPIC_NAME_CHARS_MAX;
use crate::sync::Arc;

/// A record's place in its partition: 0, 1, 2, … as in Kafka.
pub type Offset = i64;

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
