//! One partition's log in the user's hand: append, read, search, without producer or consumer.

use std::ops::Range;

use super::{Record, Topic};
use crate::config::IsolationLevel;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Log, ReadOptions, Records, SharedRecord, callback};
use crate::record::{BatchBuilder, Compression};
use crate::sync::Arc;
use crate::types::{Acks, Durability, Offset};

/// What became of the records of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchReceipt {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offsets they got.
    pub offsets: Range<Offset>,
    /// What the records are safe from now.
    pub durability: Durability,
}

impl BatchReceipt {
    pub(crate) fn new(
        topic: Arc<str>,
        partition: i32,
        offsets: Range<Offset>,
        durability: Durability,
    ) -> Self {
        BatchReceipt { topic, partition, offsets, durability }
    }
}

/// One partition's log, without producer or consumer.
///
/// ```
/// use logstead::{Acks, Record, Store, TopicConfig};
///
/// let store = Store::in_memory()?;
/// let topic = store.create_topic("events", TopicConfig::default())?;
/// let partition = topic.partition(0)?;
///
/// let receipt = partition.append([Record::to(&topic).value("a"), Record::to(&topic).value("b")], None, Acks::All)?;
/// assert_eq!(receipt.offsets, 0..2);
///
/// // Compare-and-append: somebody else was faster.
/// let late = partition.append([Record::to(&topic).value("c")], Some(1), Acks::All);
/// assert!(late.is_err());
/// assert_eq!(partition.get(1)?.unwrap().record().value(), Some(b"b".as_slice()));
/// # Ok::<(), logstead::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Partition {
    topic: Topic,
    partition: i32,
    isolation_level: IsolationLevel,
}

impl Partition {
    pub(super) fn new(topic: Topic, partition: i32) -> Self {
        Partition { topic, partition, isolation_level: IsolationLevel::default() }
    }

    /// The same partition, read at this level by [`read`](Self::read), [`scan`](Self::scan), [`last`](Self::last),
    /// [`get`](Self::get) and [`offset_for_time`](Self::offset_for_time). Default: records of transactions are read
    /// whatever became of these.
    ///
    /// ```
    /// # use logstead::{Acks, IsolationLevel, Record, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # let topic = store.create_topic("t", TopicConfig::default())?;
    /// let partition = topic.partition(0)?.isolation_level(IsolationLevel::ReadCommitted);
    /// partition.append([Record::to(&topic).value("of no transaction")], None, Acks::All)?;
    /// assert_eq!(partition.read(0, 1 << 20)?.len(), 1);
    /// assert_eq!(partition.last_stable_offset()?, 1);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    #[must_use]
    pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.isolation_level = level;
        self
    }

    pub(crate) fn log(&self) -> Result<Arc<Log>> {
        self.topic.inner.log(self.partition)
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.partition
    }

    /// Appends records as one batch: all of them or none.
    ///
    /// With `expected_end` the append happens only if the log ends there (compare-and-append). The records' own
    /// partition and topic are not looked at. Returns when `acks` says so.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetMismatch`] if the log ends elsewhere; [`ErrorKind::InvalidRecord`] (no records at all, one
    /// without a key in a compacted topic); [`ErrorKind::InvalidTimestamp`]; [`ErrorKind::RecordTooLarge`];
    /// [`ErrorKind::Full`] and [`ErrorKind::StoreFull`], after what may go was deleted; [`ErrorKind::TopicDeleted`],
    /// [`ErrorKind::Closed`], [`ErrorKind::ReadOnly`]; [`ErrorKind::WouldWaitForItself`] from inside a delivery hook
    /// with [`Acks::All`]: in these nothing was appended. [`ErrorKind::Poisoned`], and a sync's
    /// [`ErrorKind::TooManyOpenFiles`]: whether it was is not known.
    pub fn append<'r>(
        &self,
        records: impl IntoIterator<Item = Record<'r>>,
        expected_end: Option<Offset>,
        acks: Acks,
    ) -> Result<BatchReceipt> {
        if acks == Acks::All {
            callback::check_outside("Partition::append")?;
        }
        let topic = &self.topic.inner;
        let now = topic.context.clock.now_ms();
        let records = records.into_iter();
        let mut builder = BatchBuilder::new(records.size_hint().0.clamp(1, 1_000) * TYPICAL_RECORD_BYTES);
        let mut wrong_times = Vec::new();
        for record in records {
            topic.check_key(record.key)?;
            let timestamp = record.timestamp_ms.unwrap_or(now);
            let index =
                builder.push(timestamp, record.key, record.value, record.headers).map_err(Error::from)?;
            if !topic.takes_timestamp(timestamp, || now) {
                wrong_times.push(index);
            }
        }
        if !wrong_times.is_empty() {
            return Err(topic.wrong_times(wrong_times, now));
        }
        if builder.is_empty() {
            return Err(ErrorKind::InvalidRecord { why: "an append needs at least one" }.into());
        }
        let (codec, level) = topic.config().codec(Compression::None, None);
        let mut batch = [builder.seal(codec, level, &mut Vec::new())?];
        let log = self.log()?;
        log.append_making_room(&mut batch, expected_end)?;
        let header = batch[0].header();
        let offsets = header.base_offset..header.next_offset();
        let durability = match acks {
            Acks::All => {
                log.wait_committed(offsets.end, None)?;
                log.bound_unsynced()?;
                log.durability(offsets.end)
            }
            Acks::None | Acks::Leader => {
                log.bound_unsynced()?;
                Durability::PageCache
            }
        };
        Ok(BatchReceipt::new(topic.name.shared(), self.partition, offsets, durability))
    }

    /// Reads committed records from `from` on, about `max_bytes` of them.
    ///
    /// Whole batches are read, at least one if there is one; records before `from` are left out. At the end the
    /// answer is empty. Go on at [`Records::next_offset`].
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`]; [`ErrorKind::Corrupt`], which says where reading can go on.
    pub fn read(&self, from: Offset, max_bytes: usize) -> Result<Records> {
        let options = ReadOptions::max_bytes(max_bytes);
        self.log()?.read(from, ReadOptions { isolation_level: self.isolation_level, ..options })
    }

    /// Reads from `from` to the end as it is now, piece by piece; nothing when `from` lies behind that.
    ///
    /// ```
    /// # use logstead::{Acks, Record, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # let topic = store.create_topic("t", TopicConfig::default())?;
    /// # let partition = topic.partition(0)?;
    /// # for _ in 0..3 { partition.append([Record::to(&topic).value("v")], None, Acks::All)?; }
    /// let mut count = 0;
    /// for records in partition.scan(0) {
    ///     count += records?.len();
    /// }
    /// assert_eq!(count, 3);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    pub fn scan(&self, from: Offset) -> Scan {
        Scan { partition: self.clone(), next: from, end: self.read_end() }
    }

    /// The last `count` records, fewer if there are fewer.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub fn last(&self, count: usize) -> Result<Records> {
        let (start, end) = (self.log_start_offset(), self.read_end());
        let mut back = Offset::try_from(count).unwrap_or(Offset::MAX);
        loop {
            let from = end.saturating_sub(back).max(start);
            let mut records = Records::default();
            for more in self.scan(from) {
                records.extend(more?);
            }
            if records.len() >= count || from == start {
                let surplus = records.len().saturating_sub(count);
                records.take_front(surplus);
                return Ok(records);
            }
            // Offsets have gaps here: look further back.
            back = back.saturating_mul(2);
        }
    }

    /// The record at an offset; `None` where compaction removed it, or a transaction's marker lies.
    ///
    /// # Errors
    /// As [`Partition::read`]; the end is out of range here.
    pub fn get(&self, offset: Offset) -> Result<Option<SharedRecord>> {
        self.log()?.get(offset, self.isolation_level)
    }

    /// The first record at least as young as a time, and its own time; `None` when all are older.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub fn offset_for_time(&self, timestamp_ms: i64) -> Result<Option<(Offset, i64)>> {
        let log = self.log()?;
        let found = log.offset_for_time(timestamp_ms)?;
        match self.isolation_level {
            IsolationLevel::ReadUncommitted => Ok(found),
            level => {
                let end = log.read_end(level)?;
                Ok(found.filter(|(offset, _)| *offset < end))
            }
        }
    }

    /// The first offset that can be read.
    pub fn log_start_offset(&self) -> Offset {
        self.log().map_or(-1, |log| log.log_start())
    }

    /// One behind the last committed record; -1 when the store is closed.
    pub fn high_watermark(&self) -> Offset {
        self.log().map_or(-1, |log| log.high_watermark())
    }

    /// The first offset of a transaction that is still open, else the high watermark: where reading at
    /// [`IsolationLevel::ReadCommitted`] stops.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub fn last_stable_offset(&self) -> Result<Offset> {
        self.log()?.read_end(IsolationLevel::ReadCommitted)
    }

    /// Where reading stops; what is wrong is told by who reads.
    fn read_end(&self) -> Offset {
        let end = self.log().and_then(|log| log.read_end(self.isolation_level));
        end.unwrap_or_else(|_| self.high_watermark())
    }

    /// One behind the last record that was written; -1 when the store is closed.
    pub fn log_end_offset(&self) -> Offset {
        self.log().map_or(-1, |log| log.log_end())
    }

    /// Bytes of its segments, as handed to the operating system.
    pub fn size_bytes(&self) -> u64 {
        self.log().map_or(0, |log| log.size_bytes())
    }
}

/// Reads a partition piece by piece: see [`Partition::scan`].
#[derive(Debug)]
pub struct Scan {
    partition: Partition,
    next: Offset,
    end: Offset,
}

impl Iterator for Scan {
    type Item = Result<Records>;

    /// After damage it goes on behind it.
    fn next(&mut self) -> Option<Result<Records>> {
        while self.next < self.end {
            let records = match self.partition.read(self.next, SCAN_BYTES) {
                Ok(records) => records,
                Err(error) => {
                    self.next = match error.kind() {
                        ErrorKind::Corrupt { resume_at, .. } => *resume_at,
                        _ => self.end,
                    };
                    return Some(Err(error));
                }
            };
            self.next = records.next_offset().unwrap_or(self.end);
            if !records.is_empty() {
                return Some(Ok(records));
            }
        }
        None
    }
}

/// A first guess at the room that records of an append take.
const TYPICAL_RECORD_BYTES: usize = 128;

/// How much one step of a [`Scan`] reads.
const SCAN_BYTES: usize = 1 << 20;
