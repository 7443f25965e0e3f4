//! The exclusive writer: one owner, one partition, no lock per record.

use std::fmt;

use crate::config::ProducerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Log;
use crate::record::{BatchBuilder, Sealed};
use crate::sync::Arc;
use crate::time::Clock;
use crate::topic::{Partition, Record};
use crate::types::{Acks, Offset};

/// Writes records to one partition through `&mut`: what a [`Producer`](crate::Producer) does, without the lock and
/// without a delivery for each record.
///
/// It is exclusive of its own batch only: others may append to the partition as well. Full batches are appended at
/// once; the rest by [`Writer::flush`], or when the writer is dropped. Nothing lingers: no other thread can see it.
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
    builder: BatchBuilder,
    /// Sealed, and not appended yet because that failed.
    pending: Option<Sealed>,
    scratch: Vec<u8>,
    end: Offset,
    /// Where the last batch was appended; after a recovery the partition has another log.
    log: Option<Arc<Log>>,
}

impl Partition {
    /// A writer for this partition. Of the configuration it uses `acks`, `batch.size`, `compression` and
    /// `max.request.size`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], [`ErrorKind::CodecMissing`], [`ErrorKind::Closed`].
    pub fn writer(&self, config: ProducerConfig) -> Result<Writer> {
        config.validate()?;
        let end = self.log()?.log_end();
        Ok(Writer {
            partition: self.clone(),
            clock: self.topic().clock(),
            builder: BatchBuilder::new(config.batch_size),
            pending: None,
            scratch: Vec::new(),
            end,
            log: None,
            config,
        })
    }
}

impl Writer {
    /// Takes a record into the open batch. The record's own topic and partition are not looked at.
    ///
    /// # Errors
    /// The record was not taken, and nothing that was taken before is lost: a batch that could not be appended stays,
    /// and the next call tries again. [`ErrorKind::RecordTooLarge`], [`ErrorKind::Full`], [`ErrorKind::Poisoned`],
    /// [`ErrorKind::Closed`], …
    #[inline]
    pub fn send(&mut self, record: Record<'_>) -> Result<()> {
        let bytes = BatchBuilder::size_bound(record.key, record.value, record.headers);
        if bytes > self.config.max_request_size {
            let limit = self.config.max_request_size;
            return Err(ErrorKind::RecordTooLarge { bytes, limit, setting: "max.request.size" }.into());
        }
        if self.builder.bytes() + bytes > self.config.batch_size && !self.builder.is_empty()
            || self.pending.is_some()
        {
            self.append()?;
        }
        let timestamp = record.timestamp_ms.unwrap_or_else(|| self.clock.now_ms());
        self.builder.push(timestamp, record.key, record.value, record.headers).map_err(Error::from)?;
        Ok(())
    }

    /// Appends what was sent, and waits as `acks` says; one behind the last record of this writer.
    ///
    /// # Errors
    /// As [`Writer::send`].
    pub fn flush(&mut self) -> Result<Offset> {
        self.append()?;
        if self.config.acks == Acks::All
            && let Some(log) = self.log.take()
        {
            log.wait_committed(self.end, None)?;
        }
        Ok(self.end)
    }

    #[cold]
    fn append(&mut self) -> Result<()> {
        while self.pending.is_some() || !self.builder.is_empty() {
            let sealed = match self.pending.take() {
                Some(sealed) => sealed,
                None => {
                    let (compression, level) = (self.config.compression, self.config.compression_level);
                    self.builder.seal(compression, level, &mut self.scratch)?
                }
            };
            let log = self.partition.log();
            let mut batch = [sealed];
            let appended = log.as_ref().map_err(Error::clone).and_then(|log| log.append(&mut batch, None));
            let [sealed] = batch;
            if let Err(error) = appended {
                self.pending = Some(sealed);
                return Err(error);
            }
            self.end = sealed.header().next_offset();
            self.scratch = sealed.into_buffer();
            let log = log?;
            self.log = Some(Arc::clone(&log));
            log.bound_unsynced()?;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody is left to hear of an error; `flush` is for those who ask.
        let _ = self.append();
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
