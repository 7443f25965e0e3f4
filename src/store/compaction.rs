//! Compaction as the store does it: which log next, how fast, with how much memory, and what of it is remembered.
//!
//! Invariants:
//! - One pass of a store's cleaner at a time; its memory is given back when the pass ends.
//! - A log whose compaction fails does not keep others from theirs: damage ends its compactions until it is opened
//!   anew, anything else is tried again, each time after twice as long.

use std::collections::HashMap;
use std::time::Duration;

use super::{Shared, Store, StoreOptions};
use crate::error::{ErrorKind, Result};
use crate::log::Log;
use crate::log::compact::{CompactOptions, CompactionReport};
use crate::sync::{Arc, Mutex};

/// Kafka's `log.cleaner.dedupe.buffer.size`.
const DEDUPE_BUFFER_BYTES: usize = 128 * 1024 * 1024;

/// Kafka's `log.cleaner.backoff.ms`, the pause when there was nothing to do, and the first after a failure; and the
/// longest.
const BACKOFF: Duration = Duration::from_secs(15);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// How long it is not looked again when there was nothing to compact: Kafka's `log.cleaner.backoff.ms`.
const PAUSE: Duration = Duration::from_secs(15);

/// The settings of the compaction, when it is next looked for work, and what failed.
#[derive(Debug)]
pub(super) struct Compactor {
    dedupe_buffer_bytes: usize,
    bytes_per_second: Option<u64>,
    /// On the monotonic clock.
    due: Mutex<Duration>,
    /// By topic and partition: when it is tried again, on the monotonic clock, and the pause that was.
    failed: Mutex<HashMap<(String, i32), (Duration, Duration)>>,
}

/// How a store compacts.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompactorOptions {
    pub(super) dedupe_buffer_bytes: usize,
    pub(super) bytes_per_second: Option<u64>,
}

impl Default for CompactorOptions {
    fn default() -> Self {
        CompactorOptions { dedupe_buffer_bytes: DEDUPE_BUFFER_BYTES, bytes_per_second: None }
    }
}

impl StoreOptions {
    /// `log.cleaner.dedupe.buffer.size`: the most memory that a compaction takes for the keys of one partition, 24
    /// bytes each. Default 128 MiB, which is five million keys.
    ///
    /// It is taken while a compaction runs, and no more than the records to compact can need. A partition with more new
    /// keys than fit is compacted in several passes.
    #[must_use]
    pub fn cleaner_dedupe_buffer_bytes(mut self, bytes: usize) -> Self {
        self.compactor.dedupe_buffer_bytes = bytes;
        self
    }

    /// `log.cleaner.io.max.bytes.per.second`: how much a compaction reads and writes in a second. Default: no limit.
    #[must_use]
    pub fn cleaner_bytes_per_second(mut self, bytes: u64) -> Self {
        self.compactor.bytes_per_second = Some(bytes);
        self
    }

    pub(super) fn compactor(&self, now: Duration) -> Compactor {
        let CompactorOptions { dedupe_buffer_bytes, bytes_per_second } = self.compactor;
        Compactor { dedupe_buffer_bytes, bytes_per_second, due: Mutex::new(now), failed: Mutex::default() }
    }
}

impl Store {
    /// Compacts a topic now, whatever its `min.cleanable.dirty.ratio`: of each key the last record stays.
    ///
    /// The active segments are closed first, so that everything committed so far takes part; younger than
    /// `min.compaction.lag.ms` it stays. Tombstones stay for `delete.retention.ms` and then until the next compaction.
    /// One report for each pass that did something: several, when the keys of a partition did not fit into
    /// [`StoreOptions::cleaner_dedupe_buffer_bytes`]; none, when there was nothing to do. A pass that is under way is
    /// waited for.
    ///
    /// Records are told apart by a 128-bit hash of their keys (SipHash, keyed anew for each pass).
    ///
    /// ```
    /// use logstead::{Cleanup, Record, Store, TopicConfig};
    ///
    /// let store = Store::in_memory()?;
    /// let topic = store.create_topic("position", TopicConfig::default().cleanup_policy(Cleanup::COMPACT))?;
    /// let producer = store.producer()?;
    /// for value in ["EWR", "ORD", "IAH"] {
    ///     producer.send(Record::to(&topic).key("N14228").value(value))?.wait()?;
    /// }
    /// let report = &store.compact_now("position")?[0];
    /// assert_eq!((report.records_before, report.records_after), (3, 1));
    ///
    /// let records = topic.partition(0)?.read(0, 1_000)?;
    /// let last = records.iter().next().unwrap();
    /// assert_eq!((last.offset(), last.value()), (2, Some(b"IAH".as_slice())));
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for a topic whose `cleanup.policy` does not say `compact`; [`ErrorKind::Full`]:
    /// what was compacted stays so, the rest is as it was; [`ErrorKind::Corrupt`]: a damaged partition is not
    /// compacted until it is opened anew. The first error of a partition is returned when the others were compacted.
    pub fn compact_now(&self, topic: &str) -> Result<Vec<CompactionReport>> {
        crate::log::callback::check_outside("Store::compact_now")?;
        let shared = self.shared();
        shared.check_writable()?;
        let topic = shared.topics.get(topic)?;
        let config = topic.config();
        if !config.cleanup.compact {
            let (name, value) = ("cleanup.policy", config.cleanup.to_string());
            let why = "does not say that the topic is compacted";
            return Err(ErrorKind::InvalidConfig { name, value, why }.into());
        }
        let mut reports = Vec::new();
        let mut outcome = Ok(());
        for partition in 0..topic.partitions() {
            let log = topic.log(i32::try_from(partition).unwrap_or(i32::MAX));
            let compacted = log.and_then(|log| {
                log.roll_active()?;
                loop {
                    let before = log.size_bytes();
                    match shared.compact(&log, true, &|| false) {
                        // What it freed before it met the end of the space may be enough for the rest.
                        Err(error)
                            if matches!(error.kind(), ErrorKind::Full { .. })
                                && log.size_bytes() < before => {}
                        Err(error) => return Err(error),
                        Ok(None) => return Ok(()),
                        Ok(Some(report)) => {
                            let more = report.map_was_full;
                            reports.push(report);
                            if !more {
                                return Ok(());
                            }
                        }
                    }
                }
            });
            outcome = outcome.and(compacted);
        }
        outcome?;
        shared.check_open()?;
        shared.write_checkpoints()?;
        Ok(reports)
    }
}

impl Shared {
    /// When it is next looked for a log to compact, on the monotonic clock; `None`: no topic asks for it.
    pub(super) fn compaction_due(&self) -> Option<Duration> {
        self.topics
            .sorted()
            .iter()
            .any(|topic| topic.config().cleanup.compact)
            .then(|| *self.compactor.due.lock())
    }

    /// Compacts one log, if it is time. `stop` ends it with nothing half done.
    pub(super) fn compaction_slice(&self, stop: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let now = self.context.clock.monotonic();
        if crate::log::callback::is_inside() || self.compaction_due().is_none_or(|due| due > now) {
            return Ok(());
        }
        let done = self.compact_one(stop);
        if !matches!(done, Ok(Some(_))) {
            *self.compactor.due.lock() = now + PAUSE;
        }
        done.map(drop)
    }

    /// Compacts the one log that needs it most, if one does. `None`: none does.
    fn compact_one(&self, stop: &(dyn Fn() -> bool + Sync)) -> Result<Option<CompactionReport>> {
        let Some(log) = self.filthiest() else { return Ok(None) };
        let key = (log.topic().to_owned(), log.partition());
        let compacted = self.compact(&log, false, stop);
        let mut failed = self.compactor.failed.lock();
        match &compacted {
            Ok(_) => {
                failed.remove(&key);
            }
            Err(_) => {
                let pause = failed.get(&key).map_or(BACKOFF, |(_, pause)| (*pause * 2).min(BACKOFF_MAX));
                failed.insert(key, (self.context.clock.monotonic() + pause, pause));
            }
        }
        drop(failed);
        if matches!(compacted, Ok(Some(_))) {
            self.write_checkpoints()?;
        }
        compacted
    }

    fn compact(
        &self,
        log: &Arc<Log>,
        wait: bool,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<CompactionReport>> {
        log.compact(&CompactOptions {
            wait,
            map_bytes: self.compactor.dedupe_buffer_bytes,
            bytes_per_second: self.compactor.bytes_per_second,
            stop,
        })
    }

    /// The log with the largest share of records that were never compacted, of those where it is time.
    fn filthiest(&self) -> Option<Arc<Log>> {
        let now = self.context.clock.monotonic();
        let mut filthiest: Option<(f64, Arc<Log>)> = None;
        for topic in self.topics.sorted() {
            let config = topic.config();
            if !config.cleanup.compact {
                continue;
            }
            for partition in 0..topic.partitions() {
                // One that can not be opened, or looked at, is none to compact; whoever uses it is told why.
                let Ok(log) = topic.log(i32::try_from(partition).unwrap_or(i32::MAX)) else { continue };
                let waits = {
                    let failed = self.compactor.failed.lock();
                    failed
                        .get(&(log.topic().to_owned(), log.partition()))
                        .is_some_and(|(until, _)| *until > now)
                };
                let Some(what) = log.cleanable().ok().flatten().filter(|_| !waits) else { continue };
                let ratio = what.ratio();
                if what.is_due(&config) && filthiest.as_ref().is_none_or(|(most, _)| ratio > *most) {
                    filthiest = Some((ratio, log));
                }
            }
        }
        filthiest.map(|(_, log)| log)
    }
}
