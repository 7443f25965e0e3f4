//! What a read gives: owned batches, and records that borrow from them.
//!
//! Everything in a [`Records`] was checked before it was made: checksum, lengths, counts, and compressed batches are
//! unpacked. So iterating can not fail.

use std::fmt;

use crate::record::{BatchHeader, ControlType, Headers, RawRecord, RecordIter, TimestampType};
use crate::storage::Region;
use crate::sync::Arc;
use crate::types::Offset;

/// Where batches came from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// One checked batch, from `from` on.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    source: Arc<Source>,
    header: BatchHeader,
    /// The records, unpacked.
    section: Region,
    from: Offset,
}

impl Part {
    pub(crate) fn new(source: &Arc<Source>, header: BatchHeader, section: Region, from: Offset) -> Self {
        Part { source: Arc::clone(source), header, section, from }
    }

    /// How many records a reader sees of it.
    fn visible_count(&self) -> usize {
        if self.header.is_control() {
            0
        } else if self.from <= self.header.base_offset {
            usize::try_from(self.header.count).unwrap_or(0)
        } else {
            self.iter().count()
        }
    }

    fn iter(&self) -> PartIter<'_> {
        PartIter { part: self, records: RecordIter::new(self.section.bytes()) }
    }
}

struct PartIter<'a> {
    part: &'a Part,
    records: RecordIter<'a>,
}

impl<'a> Iterator for PartIter<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        loop {
            let record = RecordRef { part: self.part, raw: self.records.next()? };
            if record.offset() >= self.part.from {
                return Some(record);
            }
        }
    }
}

/// Records that were read together: owned, immutable, free to move to another thread and to be shared.
///
/// They pin the memory or the map they lie in, and borrow nothing of the consumer that read them: keep them as long
/// as you like, even when retention removes the segment meanwhile.
///
/// ```
/// # use logstead::{Record, Store, TopicConfig};
/// # let store = Store::in_memory()?;
/// # let topic = store.create_topic("t", TopicConfig::default())?;
/// # topic.partition(0)?.append([Record::to(&topic).key("k").value("v")], None, logstead::Acks::All)?;
/// let records = topic.partition(0)?.read(0, 1 << 20)?;
/// for record in &records {
///     assert_eq!((record.offset(), record.key()), (0, Some(b"k".as_slice())));
/// }
/// # Ok::<(), logstead::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Records {
    parts: Vec<Part>,
    len: usize,
    bytes: usize,
}

impl Records {
    pub(crate) fn push(&mut self, part: Part) {
        self.len += part.visible_count();
        self.bytes += part.header.size();
        self.parts.push(part);
    }

    pub(crate) fn extend(&mut self, other: Records) {
        self.len += other.len;
        self.bytes += other.bytes;
        self.parts.extend(other.parts);
    }

    /// Bytes of the batches as stored.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.bytes
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no record. Markers of transactions do not count.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The records in order of each partition.
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter { parts: self.parts.iter(), current: None }
    }

    /// The batches that were read, markers of transactions among them: for tools that look at the log itself.
    pub fn batches(&self) -> impl Iterator<Item = BatchRef<'_>> {
        self.parts.iter().map(BatchRef)
    }

    /// Where reading goes on, when all batches are of one partition: one behind the last of them.
    pub fn next_offset(&self) -> Option<Offset> {
        self.parts.last().map(|part| part.header.next_offset())
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("len", &self.len).field("batches", &self.parts.len()).finish()
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = RecordRef<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

/// Iterates over the records of a [`Records`].
pub struct RecordsIter<'a> {
    parts: std::slice::Iter<'a, Part>,
    current: Option<PartIter<'a>>,
}

impl fmt::Debug for RecordsIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordsIter").field("batches_left", &self.parts.len()).finish()
    }
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        loop {
            if let Some(record) = self.current.as_mut().and_then(Iterator::next) {
                return Some(record);
            }
            let part = self.parts.by_ref().find(|part| !part.header.is_control())?;
            self.current = Some(part.iter());
        }
    }
}

/// One record of a [`Records`]: cheap to copy; what its getters return outlives it.
#[derive(Clone, Copy)]
pub struct RecordRef<'a> {
    part: &'a Part,
    raw: RawRecord<'a>,
}

impl<'a> RecordRef<'a> {
    /// The topic.
    pub fn topic(&self) -> &'a str {
        &self.part.source.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.part.source.partition
    }

    /// The offset.
    #[inline]
    pub fn offset(&self) -> Offset {
        self.part.header.base_offset + Offset::from(self.raw.offset_delta)
    }

    /// Milliseconds since 1970, -1 when the record has no timestamp.
    #[inline]
    pub fn timestamp_ms(&self) -> i64 {
        self.part.header.timestamp(self.raw.timestamp_delta)
    }

    /// The key; `None` is null, which is not the same as empty.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.raw.key
    }

    /// The value; `None` is null: in a compacted topic, the key's deletion.
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.raw.value
    }

    /// The headers, decoded when they are iterated.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        self.raw.headers
    }

    /// Keeps this one record without copying it; its batch stays pinned.
    pub fn share(&self) -> SharedRecord {
        let mut part = self.part.clone();
        part.from = self.offset();
        SharedRecord { part }
    }
}

impl fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordRef")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("offset", &self.offset())
            .field("timestamp_ms", &self.timestamp_ms())
            .field("key", &self.key())
            .field("value_bytes", &self.value().map(<[u8]>::len))
            .finish()
    }
}

/// One record that owns its place: see [`RecordRef::share`].
#[derive(Clone)]
pub struct SharedRecord {
    part: Part,
}

impl SharedRecord {
    /// The record.
    pub fn record(&self) -> RecordRef<'_> {
        let raw = self.part.iter().next().map(|record| record.raw).unwrap_or_default();
        RecordRef { part: &self.part, raw }
    }
}

impl fmt::Debug for SharedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record().fmt(f)
    }
}

/// One batch of a [`Records`], as it is stored.
#[derive(Clone, Copy)]
pub struct BatchRef<'a>(&'a Part);

impl<'a> BatchRef<'a> {
    /// The first offset that the batch had when it was written.
    pub fn base_offset(&self) -> Offset {
        self.0.header.base_offset
    }

    /// The last offset that the batch had when it was written.
    pub fn last_offset(&self) -> Offset {
        self.0.header.last_offset()
    }

    /// The producer's id, -1 when it had none.
    pub fn producer_id(&self) -> i64 {
        self.0.header.producer_id
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.0.header.is_transactional()
    }

    /// Whether it is a marker, which readers of records never see.
    pub fn is_control(&self) -> bool {
        self.0.header.is_control()
    }

    /// Whether it is a marker that ends a transaction, and which.
    pub fn control_type(&self) -> Option<ControlType> {
        if !self.0.header.is_control() {
            return None;
        }
        let key = RecordIter::new(self.0.section.bytes()).next().and_then(|record| record.key);
        Some(ControlType::parse(key.unwrap_or_default()).unwrap_or(ControlType::Other(-1)))
    }

    /// What the timestamps of its records mean.
    pub fn timestamp_type(&self) -> TimestampType {
        self.0.header.timestamp_type()
    }

    /// Its records from where the read started; those of a marker too.
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'a>> + use<'a> {
        self.0.iter()
    }
}

impl fmt::Debug for BatchRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRef")
            .field("base_offset", &self.base_offset())
            .field("last_offset", &self.last_offset())
            .field("producer_id", &self.producer_id())
            .field("control_type", &self.control_type())
            .finish()
    }
}
