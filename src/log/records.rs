//! What a read gives: owned batches, and records that borrow from them.
//!
//! Everything in a [`Records`] was checked before it was made: checksum, lengths, counts, and compressed batches are
//! unpacked. So iterating can not fail.

use std::fmt;

use crate::metrics::{Pins, TrafficCounter};
use crate::record::{BatchHeader, ControlType, Headers, RawRecord, RecordIter, TimestampType};
use crate::storage::Region;
use crate::sync::Arc;
use crate::types::Offset;

/// Where batches came from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// Which of all logs that the store opened.
    pub(crate) instance: u64,
    pub(crate) pins: Arc<Pins>,
    pub(crate) read: TrafficCounter,
}

/// One checked batch, or a run of its records.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    source: Arc<Source>,
    header: BatchHeader,
    /// The records, unpacked.
    section: Region,
    /// Where in the section the run begins, and how many records it has.
    start: u32,
    len: u32,
    /// Where reading goes on behind the run.
    next: Offset,
}

impl Part {
    /// The records of a batch from offset `from` on.
    pub(crate) fn new(source: &Arc<Source>, header: BatchHeader, section: Region, from: Offset) -> Self {
        let (next, len) = (header.next_offset(), u32::try_from(header.count).unwrap_or(0));
        let part = Part { source: Arc::clone(source), header, section, start: 0, len, next };
        let before = u32::try_from(from.saturating_sub(part.header.base_offset)).unwrap_or(0);
        if before == 0 {
            part
        } else if i64::from(len) == next - part.header.base_offset {
            part.behind(before)
        } else {
            part.split(|record| record.offset() < from).1
        }
    }

    /// The run without its first `count` records; for a batch in which no offset is missing, so that no record needs
    /// to be looked at. (Offsets were found to increase: whether one is missing is a matter of counting.)
    fn behind(self, count: u32) -> Part {
        let count = count.min(self.len);
        let mut records = RecordIter::new(self.bytes());
        records.step_over(count);
        let start = u32::try_from(self.section.len() - records.rest().len()).unwrap_or(u32::MAX);
        Part { start, len: self.len - count, ..self }
    }

    /// The run of records up to the first that does not satisfy `in_front`, and the run of the others.
    fn split(self, mut in_front: impl FnMut(&RecordRef<'_>) -> bool) -> (Part, Part) {
        let mut records = RecordIter::new(self.bytes());
        let (mut count, mut rest, mut next) = (0, records.rest().len(), self.next);
        while count < self.len
            && let Some(raw) = records.next()
        {
            let record = RecordRef { part: &self, raw };
            if !in_front(&record) {
                next = record.offset();
                break;
            }
            count += 1;
            rest = records.rest().len();
        }
        // A section is smaller than a batch may be, which fits.
        let behind = self.section.len() - rest;
        let start = u32::try_from(behind).unwrap_or(u32::MAX);
        let back = Part { start, len: self.len - count, ..self.clone() };
        (Part { len: count, next, ..self }, back)
    }

    fn bytes(&self) -> &[u8] {
        self.section.bytes().get(self.start as usize..).unwrap_or_default()
    }

    /// A piece of the section that owns it.
    #[cfg(feature = "bytes")]
    fn shared_bytes(&self, piece: &[u8]) -> bytes::Bytes {
        bytes::Bytes::from_owner(self.section.clone()).slice_ref(piece)
    }

    fn visible_len(&self) -> usize {
        if self.header.is_control() { 0 } else { self.len as usize }
    }

    fn iter(&self) -> PartIter<'_> {
        PartIter { part: self, left: self.len, records: RecordIter::new(self.bytes()) }
    }
}

#[derive(Clone)]
struct PartIter<'a> {
    part: &'a Part,
    left: u32,
    records: RecordIter<'a>,
}

impl<'a> Iterator for PartIter<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(RecordRef { part: self.part, raw: self.records.next()? })
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
    next: Option<Offset>,
}

impl Records {
    pub(crate) fn push(&mut self, part: Part) {
        self.len += part.visible_len();
        self.bytes += part.header.size();
        self.next = Some(part.next);
        self.parts.push(part);
    }

    /// Notes that reading goes on at `next`, for batches that are not given out.
    pub(crate) fn pass(&mut self, next: Offset) {
        self.next = Some(next);
    }

    pub(crate) fn extend(&mut self, other: Records) {
        self.len += other.len;
        self.bytes += other.bytes;
        self.next = other.next.or(self.next);
        self.parts.extend(other.parts);
    }

    /// Takes the first `count` records out.
    pub(crate) fn take_front(&mut self, count: usize) -> Records {
        if count >= self.len {
            return std::mem::take(self);
        }
        let mut front = Records::default();
        let end = self.next;
        let mut parts = std::mem::take(self).parts.into_iter();
        for part in parts.by_ref() {
            let room = count - front.len;
            if part.visible_len() <= room {
                front.push(part);
                continue;
            }
            let mut taken = 0;
            let (here, back) = part.split(|_| {
                taken += 1;
                taken <= room
            });
            if here.len > 0 {
                front.push(here);
            }
            self.push(back);
            break;
        }
        for part in parts {
            self.push(part);
        }
        self.next = end;
        front
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

    /// The records, in order within each partition.
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter { parts: self.parts.iter(), current: None }
    }

    /// The records by partition: name, number, and the records that were read from there together.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use logstead::{Record, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # store.create_topic("t", TopicConfig::default().partitions(2))?;
    /// # let producer = store.producer()?;
    /// # for p in [0, 1, 1] { producer.send(Record::to("t").partition(p).value("v"))?; }
    /// # producer.flush()?;
    /// # let mut consumer = store.consumer()?;
    /// # consumer.assign_all(["t"])?;
    /// # consumer.seek_to_beginning()?;
    /// let records = consumer.poll(Duration::ZERO)?;
    /// let counts: Vec<_> = records.by_partition().map(|(topic, p, records)| (topic, p, records.count())).collect();
    /// assert_eq!(counts, [("t", 0, 1), ("t", 1, 2)]);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    pub fn by_partition(&self) -> impl Iterator<Item = (&str, i32, RecordsIter<'_>)> {
        self.parts.chunk_by(|a, b| Arc::ptr_eq(&a.source, &b.source)).filter_map(|parts| {
            let first = parts.first()?;
            let records = RecordsIter { parts: parts.iter(), current: None };
            Some((&*first.source.topic, first.source.partition, records))
        })
    }

    /// The batches that were read, markers of transactions among them: for tools that look at the log itself.
    pub fn batches(&self) -> impl Iterator<Item = BatchRef<'_>> {
        self.parts.iter().map(BatchRef)
    }

    /// Where a [`Partition::read`](crate::Partition::read) goes on behind these; `None` at the end of the log.
    pub fn next_offset(&self) -> Option<Offset> {
        self.next
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

impl<'a> RecordsIter<'a> {
    /// The records, each with a hold of its own on its batch, in one pass: [`RecordRef::share`] looks for its record
    /// anew. For an iterator from which nothing was taken yet.
    pub(crate) fn shared(self) -> impl Iterator<Item = SharedRecord> + use<'a> {
        self.parts.filter(|part| !part.header.is_control()).flat_map(|part| {
            let mut records = RecordIter::new(part.bytes());
            (0..part.len).map_while(move |_| {
                let start = u32::try_from(part.section.len() - records.rest().len()).ok()?;
                records.next()?;
                Some(SharedRecord { part: Part { start, len: 1, ..part.clone() } })
            })
        })
    }
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
        let offset = self.offset();
        let (_, from_here) = self.part.clone().split(|record| record.offset() < offset);
        SharedRecord { part: from_here }
    }

    /// The value as [`bytes::Bytes`] that share the batch's memory.
    #[cfg(feature = "bytes")]
    pub fn value_bytes(&self) -> Option<bytes::Bytes> {
        self.raw.value.map(|value| self.part.shared_bytes(value))
    }

    /// The key as [`bytes::Bytes`] that share the batch's memory.
    #[cfg(feature = "bytes")]
    pub fn key_bytes(&self) -> Option<bytes::Bytes> {
        self.raw.key.map(|key| self.part.shared_bytes(key))
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
