//! A record on its way in: borrowed and `Copy`, so an error can not lose it.

use super::Topic;
use crate::record::Header;

/// Where a record goes: a topic's name, or a handle, which saves looking the name up.
#[derive(Clone, Copy, Debug)]
pub enum To<'a> {
    /// By name.
    Name(&'a str),
    /// By handle.
    Handle(&'a Topic),
}

impl<'a> From<&'a str> for To<'a> {
    fn from(name: &'a str) -> Self {
        To::Name(name)
    }
}

impl<'a> From<&'a String> for To<'a> {
    fn from(name: &'a String) -> Self {
        To::Name(name)
    }
}

impl<'a> From<&'a Topic> for To<'a> {
    fn from(topic: &'a Topic) -> Self {
        To::Handle(topic)
    }
}

/// A record to store.
///
/// Everything is borrowed and the record is `Copy`: a failed call leaves it with the caller. Key and value are null
/// unless set; a null value in a compacted topic deletes the key.
///
/// ```
/// use logstead::Record;
///
/// let record = Record::to("flights").key("N14228").value("EWR,IAH").timestamp_ms(1_357_034_400_000);
/// let deletion = Record::to("flights").key("N14228");
/// # let _ = (record, deletion);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub(crate) to: To<'a>,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Header<'a>],
    pub(crate) timestamp_ms: Option<i64>,
}

impl<'a> Record<'a> {
    /// A record for a topic, given by name or by handle.
    pub fn to(topic: impl Into<To<'a>>) -> Self {
        Record { to: topic.into(), partition: None, key: None, value: None, headers: &[], timestamp_ms: None }
    }

    /// The key: records of one key go to one partition and keep their order.
    #[must_use]
    pub fn key<K: AsRef<[u8]> + ?Sized>(self, key: &'a K) -> Self {
        Record { key: Some(key.as_ref()), ..self }
    }

    /// The value.
    #[must_use]
    pub fn value<V: AsRef<[u8]> + ?Sized>(self, value: &'a V) -> Self {
        Record { value: Some(value.as_ref()), ..self }
    }

    /// The headers; see [`header`](crate::header).
    #[must_use]
    pub fn headers(self, headers: &'a [Header<'a>]) -> Self {
        Record { headers, ..self }
    }

    /// The partition, instead of the one that the key decides.
    #[must_use]
    pub fn partition(self, partition: i32) -> Self {
        Record { partition: Some(partition), ..self }
    }

    /// When it happened, in milliseconds since 1970; now, if not set.
    #[must_use]
    pub fn timestamp_ms(self, timestamp_ms: i64) -> Self {
        Record { timestamp_ms: Some(timestamp_ms), ..self }
    }
}
