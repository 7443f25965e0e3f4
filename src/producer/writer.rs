//! The exclusive writer: one owner, one partition, no lock per record.

use std::fmt;

use super::appended::Appended;
use super::numbering::{Numbering, number, renumber};
use crate::config::ProducerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::GATHER_BYTES;
use crate::log::{Identity, Log, callback};
use crate::record::{BatchBuilder, Sealed, increment_sequence};
use crate::sync::Arc;
use crate::time::Clock;
use crate::topic::{Partition, Record};
use crate::types::{Acks, Offset};

/// Writes records to one partition through `&mut`: what a [`Producer`](crate::Producer) does, without the lock and
/// without a delivery for each record.
///
/// It is exclusive of its own batches only: others may append to the partition as well. Full batches are appended as
/// soon as they are worth a write (128 KiB); the rest by [`Writer::flush`], or when the writer is dropped. There is no
/// `linger.ms`: no other thread can see what it holds.
///
/// ```
/// use logstead::{ProducerConfig, Record, Store, TopicConfig};
///
/// let store = Store::in_memory()?;
/// let topic = store.create_topic("t", TopicConfig::default())?;
/// let mut writer = topic.partition(0)?.writer(ProducerConfig::default())?;
/// for value in ["a", "b", "c"] {
///     writer.send(Record::to(&topic).value(value))?;
/// }
/// assert_eq!(writer.flush()?, 3);
/// # Ok::<(), logstead::Error>(())
/// ```
pub struct Writer {
    partition: Partition,
    config: ProducerConfig,
    clock: Arc<dyn Clock>,
    /// `batch.size`, but never more than the topic takes.
    batch_size: usize,
    builder: BatchBuilder,
    /// Full batches that wait for each other, or for a disk that takes them.
    sealed: Vec<Sealed>,
    sealed_bytes: usize,
    /// Buffers to go on with.
    spare: Vec<Vec<u8>>,
    end: Offset,
    appended: Appended,
    /// Under what it writes, when the log is to know its batches again.
    identity: Option<Identity>,
    numbering: Numbering,
    /// The number of the next record that is sealed.
    next_sequence: i32,
}

impl Partition {
    /// A writer for this partition. Of the configuration it uses `acks`, `enable.idempotence`, `batch.size`,
    /// `compression` and `max.request.size`; a writer has no name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], also for one with a name; [`ErrorKind::InvalidTopic`] for the topic of committed
    /// offsets; [`ErrorKind::CodecMissing`], [`ErrorKind::Closed`], [`ErrorKind::ReadOnly`].
    pub fn writer(&self, config: ProducerConfig) -> Result<Writer> {
        config.validate()?;
        if let Some(name) = &config.name {
            let (value, why) = (name.to_string(), "a writer has no name: use a producer");
            return Err(ErrorKind::InvalidConfig { name: "producer.name", value, why }.into());
        }
        super::check_user_topic(&self.topic().inner)?;
        let log = self.log()?;
        log.check_writable()?;
        let identity = config.is_idempotent().then(Identity::random).transpose()?;
        let end = log.log_end();
        Ok(Writer {
            partition: self.clone(),
            clock: self.topic().clock(),
            batch_size: self.topic().inner.config().batch_size(config.batch_size),
            builder: BatchBuilder::new(config.batch_size),
            sealed: Vec::new(),
            sealed_bytes: 0,
            spare: Vec::new(),
            end,
            appended: Appended::default(),
            identity,
            numbering: Numbering::default(),
            next_sequence: 0,
            config,
        })
    }
}

impl Writer {
    /// Takes a record into the open batch. The record's own topic and partition are not looked at.
    ///
    /// # Errors
    /// The record was not taken, and nothing that was taken before is lost: a batch that could not be appended stays,
    /// and the next call tries again. [`ErrorKind::Full`], [`ErrorKind::Poisoned`], [`ErrorKind::Closed`], …
    ///
    /// [`ErrorKind::RecordTooLarge`]: the record, or one taken before that is larger than the topic takes even alone
    /// (`max.message.bytes`); that one is given up.
    #[inline]
    pub fn send(&mut self, record: Record<'_>) -> Result<()> {
        let bytes = BatchBuilder::size_bound(record.key, record.value, record.headers);
        if bytes > self.config.max_request_size {
            let limit = self.config.max_request_size;
            return Err(ErrorKind::RecordTooLarge { bytes, limit, setting: "max.request.size" }.into());
        }
        self.partition.topic().inner.check_record(&record)?;
        if self.builder.bytes() + bytes > self.batch_size && !self.builder.is_empty() {
            self.close_batch()?;
        }
        if self.builder.is_empty() {
            // Once a batch: whether the store is open, and what the topic takes now.
            self.partition.log()?;
            self.batch_size = self.partition.topic().inner.config().batch_size(self.config.batch_size);
        }
        let timestamp = record.timestamp_ms.unwrap_or_else(|| self.clock.now_ms());
        self.builder.push(timestamp, record.key, record.value, record.headers).map_err(Error::from)?;
        Ok(())
    }

    /// Appends what was sent, and waits as `acks` says; one behind the last record of this writer.
    ///
    /// # Errors
    /// As [`Writer::send`]. [`ErrorKind::WouldWaitForItself`] from inside a delivery hook with [`Acks::All`]: nothing
    /// was appended.
    pub fn flush(&mut self) -> Result<Offset> {
        if self.config.acks == Acks::All {
            callback::check_outside("Writer::flush")?;
        }
        self.seal()?;
        self.append()?;
        if let (Acks::All, Some((log, end))) = (self.config.acks, self.appended.last()) {
            let committed = log.wait_committed(end, None);
            if let (Err(_), Ok(now)) = (&committed, self.partition.log()) {
                // After a recovery it can say nothing more than it just did.
                let _ = self.appended.leave_all_but(&now);
            }
            committed?;
        }
        Ok(self.end)
    }

    /// Makes room for the next record.
    #[cold]
    fn close_batch(&mut self) -> Result<()> {
        if self.sealed_bytes + self.builder.bytes() >= GATHER_BYTES {
            // What waits goes first: if that fails, the open batch stays as it is and nothing was taken.
            self.append()?;
        }
        self.seal()
    }

    fn seal(&mut self) -> Result<()> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let mut scratch = self.spare.pop().unwrap_or_default();
        let topic = self.partition.topic().inner.config();
        let (codec, level) = topic.codec(self.config.compression, self.config.level(self.config.compression));
        let behind =
            self.identity.as_ref().map(|identity| number(&mut self.builder, identity, self.next_sequence));
        let sealed = self.builder.seal(codec, level, &mut scratch)?;
        self.next_sequence = behind.unwrap_or(self.next_sequence);
        self.sealed_bytes += sealed.bytes().len();
        self.sealed.push(sealed);
        Ok(())
    }

    /// Appends what is sealed; after an error the rest stays.
    fn append(&mut self) -> Result<()> {
        while !self.sealed.is_empty() {
            let log = self.partition.log()?;
            self.appended.leave_all_but(&log)?;
            self.follow(&log)?;
            let count = match log.append_making_room(&mut self.sealed, None) {
                Err(error) if matches!(error.kind(), ErrorKind::RecordTooLarge { .. }) => {
                    // It will never be taken: kept, it would keep all behind it.
                    let given_up = self.sealed.remove(0);
                    self.sealed_bytes -= given_up.bytes().len();
                    self.number_from(given_up.header().base_sequence);
                    return Err(error);
                }
                appended => appended?,
            };
            for appended in self.sealed.drain(..count) {
                self.end = appended.header().next_offset();
                self.numbering.appended(appended.header());
                self.sealed_bytes -= appended.bytes().len();
                self.spare.push(appended.into_buffer());
            }
            self.appended.note(Arc::clone(&log), self.end);
            log.bound_unsynced()?;
        }
        Ok(())
    }
}

impl Writer {
    /// Goes on where a log that was opened anew ends. What waits may be in it after all, and is then known again; but
    /// where it lost more, what waits comes next.
    fn follow(&mut self, log: &Arc<Log>) -> Result<()> {
        let Some(identity) = &self.identity else { return Ok(()) };
        if self.numbering.follow(log, identity)?
            && let Some(first) = self.sealed.first().map(|first| first.header().base_sequence)
        {
            let (next, waiting) = (self.numbering.next(), self.waiting());
            let ahead = first.wrapping_sub(next) & i32::MAX;
            let is_known = (next.wrapping_sub(first) & i32::MAX) <= waiting;
            if ahead != 0 && !is_known {
                self.number_from(next);
            }
        }
        Ok(())
    }

    /// How many records wait.
    fn waiting(&self) -> i32 {
        self.sealed.iter().fold(0, |sum, batch| sum.saturating_add(batch.header().count))
    }

    /// Gives what waits the numbers from `next` on.
    fn number_from(&mut self, next: i32) {
        if self.identity.is_some() {
            renumber(&mut self.sealed, next);
            self.next_sequence =
                self.sealed.last().map_or(next, |last| increment_sequence(last.header().last_sequence(), 1));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // `flush` is for those who ask; else who closes the store is told.
        if let Err(error) = self.seal().and_then(|()| self.append()) {
            self.partition.topic().inner.context.note_unheard(error);
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("partition", &self.partition)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
