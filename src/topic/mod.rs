//! Topics and their partitions: names to logs, opened on first use.
//!
//! Invariants:
//! - A topic is in the catalog before its first directory exists, so a crash never leaves a topic that is half made:
//!   the next open finishes it.
//! - A log is opened at most once at a time; whoever asks while it is opened waits.
//! - Partitions are added, never taken away: a number, once there, stays good until the topic is deleted.

pub(crate) mod catalog;
mod figures;
mod partition;
pub(crate) mod partitioner;
mod record;
mod registry;
pub(crate) mod table;

use std::any::Any;
use std::fmt;
use std::path::Path;

use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Bells, Context, Log, OpenHints, PartitionReport, RecoveryEvent, callback};
use crate::metrics::span;
use crate::storage::read_small;
use crate::sync::{Arc, AtomicBool, AtomicU32, Ordering, RwLock, in_parallel};
use crate::time::Clock;
use crate::types::{Offset, TopicName};

use catalog::{Catalog, CatalogEntry, TopicId, TopicState};
use table::Table;

pub(crate) use figures::Found;
pub use partition::{BatchReceipt, Partition, Scan};
pub use record::{Record, To};
pub(crate) use registry::Topics;

/// Where one partition stands.
#[derive(Debug)]
enum State {
    /// Boxed: of those that are open nothing is left of it.
    NotOpened(Box<OpenHints>),
    Open(Arc<Log>),
    /// With what is known of it, for when it is opened again.
    Damaged(Error, Box<OpenHints>),
    /// A broker's topic of which this directory holds other partitions only.
    Absent,
    Closed(Option<Arc<Log>>),
    Deleted,
}

/// One partition of a topic, open or not.
#[derive(Debug)]
struct Slot {
    state: RwLock<State>,
    bells: Arc<Bells>,
}

/// What the handles of a topic share.
#[derive(Debug)]
pub(crate) struct TopicInner {
    /// A small number, for tables.
    pub(crate) index: usize,
    pub(crate) name: TopicName,
    pub(crate) context: Arc<Context>,
    /// `None`: a broker's; a file tells it.
    id: Option<TopicId>,
    config: RwLock<Arc<TopicConfig>>,
    /// The settings refuse some timestamps: kept apart, since every record asks.
    limits_timestamps: AtomicBool,
    needs_keys: AtomicBool,
    slots: Table<Slot>,
    partitions: AtomicU32,
}

impl TopicInner {
    /// `hints`: one a partition; `None` where the partition does not exist.
    pub(crate) fn new(
        index: usize,
        name: TopicName,
        id: Option<TopicId>,
        config: TopicConfig,
        context: Arc<Context>,
        hints: Vec<Option<OpenHints>>,
    ) -> Self {
        let topic = TopicInner {
            index,
            name,
            context,
            id,
            limits_timestamps: AtomicBool::new(config.limits_timestamps()),
            needs_keys: AtomicBool::new(config.cleanup.compact),
            config: RwLock::new(Arc::new(config)),
            slots: Table::default(),
            partitions: AtomicU32::new(0),
        };
        topic.add(hints);
        topic
    }

    /// Adds partitions behind those that are there.
    pub(crate) fn add(&self, hints: Vec<Option<OpenHints>>) {
        for hint in hints {
            let number = self.partitions();
            let slot = || Slot {
                state: RwLock::new(hint.map_or(State::Absent, |hints| State::NotOpened(Box::new(hints)))),
                bells: Arc::default(),
            };
            self.slots.get_or_init(number as usize, slot);
            self.partitions.store(number + 1, Ordering::Release);
        }
    }

    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.config.read())
    }

    /// Goes by other settings from the next append on; the number of partitions is not looked at.
    pub(crate) fn set_config(&self, config: TopicConfig) {
        let config = Arc::new(config);
        self.limits_timestamps.store(config.limits_timestamps(), Ordering::Relaxed);
        self.needs_keys.store(config.cleanup.compact, Ordering::Relaxed);
        // First here: a log that is opened from now on goes by it.
        *self.config.write() = Arc::clone(&config);
        for slot in self.slots() {
            let log = match &*slot.state.read() {
                State::Open(log) => Arc::clone(log),
                _ => continue,
            };
            log.set_config(&config);
        }
        // A sync may be due earlier now.
        self.context.wake.wake();
    }

    /// Makes everything durable that was appended before the call, whatever the topic promises.
    pub(crate) fn sync_all(&self) -> Result<()> {
        // Whoever asks may hold a lock: its own thread tells users, when it may.
        let gathered = callback::Gathered::default();
        let each = |(_, log): &(i32, Arc<Log>)| gathered.hold(|| log.sync_all());
        let synced = in_parallel(self.context.threads, &self.opened_logs(), each);
        gathered.tell();
        synced
    }

    pub(crate) fn id(&self) -> Option<TopicId> {
        let file = || {
            let dirs = (0..self.partitions()).map(|p| self.context.root.join(format!("{}-{p}", self.name)));
            let texts =
                dirs.map(|dir| read_small(self.context.storage.as_ref(), &dir.join("partition.metadata")));
            texts.filter_map(|text| TopicId::of_metadata(&text.ok()??)).next()
        };
        self.id.or_else(file)
    }

    /// Whether it was made here, and not by a broker.
    pub(crate) fn is_ours(&self) -> bool {
        self.id.is_some()
    }

    /// Whether another process, in whose files both were found, means the same topic by them.
    pub(crate) fn is_same(&self, found: &TopicInner) -> bool {
        self.id == found.id && !self.opened_logs().iter().any(|(_, log)| log.is_gone())
    }

    /// Takes up settings and partitions that another process gave the topic.
    pub(crate) fn follow(&self, found: &TopicInner) {
        if self.config() != found.config() {
            self.set_config(TopicConfig::clone(&found.config()));
        }
        for (number, slot) in found.slots().enumerate() {
            let hints = match &*slot.state.read() {
                State::NotOpened(hints) => Some((**hints).clone()),
                _ => None,
            };
            match (self.slots.get(number), hints) {
                // Also one that the directory has not: those behind it keep their numbers.
                (None, hints) => self.add(vec![hints]),
                (Some(known), Some(hints)) => {
                    let mut state = known.state.write();
                    if matches!(*state, State::Absent) {
                        *state = State::NotOpened(Box::new(hints));
                    }
                }
                (Some(_), None) => {}
            }
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        (0..self.partitions() as usize).filter_map(|number| self.slots.get(number))
    }

    /// Refuses a record whose timestamp is too far from now, and one without a key in a topic that is compacted.
    #[inline]
    pub(crate) fn check_record(&self, record: &Record<'_>) -> Result<()> {
        self.check_key(record.key)?;
        let now = || self.context.clock.now_ms();
        match record.timestamp_ms {
            Some(timestamp) if !self.takes_timestamp(timestamp, now) => Err(self.wrong_times(vec![0], now())),
            _ => Ok(()),
        }
    }

    #[inline]
    fn check_key(&self, key: Option<&[u8]>) -> Result<()> {
        if key.is_none() && self.needs_keys.load(Ordering::Relaxed) {
            let why = "its topic is compacted (cleanup.policy), which takes a key: give it one";
            return Err(ErrorKind::InvalidRecord { why }.into());
        }
        Ok(())
    }

    fn takes_timestamp(&self, timestamp: i64, now: impl FnOnce() -> i64) -> bool {
        !self.limits_timestamps.load(Ordering::Relaxed) || self.config().takes_timestamp(timestamp, now)
    }

    #[cold]
    fn wrong_times(&self, records: Vec<u32>, now_ms: i64) -> Error {
        ErrorKind::InvalidTimestamp { topic: self.name.to_string(), records, now_ms }.into()
    }

    #[inline]
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions.load(Ordering::Acquire)
    }

    fn slot(&self, partition: i32) -> Result<&Slot> {
        let slot = usize::try_from(partition).ok().and_then(|p| self.slots.get(p));
        slot.ok_or_else(|| self.unknown(partition))
    }

    pub(crate) fn unknown(&self, partition: i32) -> Error {
        ErrorKind::UnknownPartition { topic: self.name.to_string(), partition, partitions: self.partitions() }
            .into()
    }

    /// The bells of a partition: they outlive its log.
    pub(crate) fn bells(&self, partition: i32) -> Result<&Arc<Bells>> {
        Ok(&self.slot(partition)?.bells)
    }

    /// The partition's log, opened when it is not yet.
    pub(crate) fn log(&self, partition: i32) -> Result<Arc<Log>> {
        let open = match &*self.slot(partition)?.state.read() {
            State::Open(log) => Some(Arc::clone(log)),
            _ => None,
        };
        match open {
            Some(log) if self.context.read_only => {
                log.look()?;
                if log.is_unsure() && self.reread_config()? {
                    log.look()?;
                }
                Ok(log)
            }
            Some(log) => Ok(log),
            None => self.open(partition).map(|(log, _)| log),
        }
    }

    /// What the catalog says of this topic now.
    #[cold]
    fn reread_entry(&self) -> Result<Option<CatalogEntry>> {
        let mut catalog = Catalog::read(self.context.storage.as_ref(), &self.context.root)?;
        Ok(catalog.topics.remove(&self.name).filter(|entry| Some(entry.id) == self.id))
    }

    /// Whether another process changed the settings since, which are taken over.
    fn reread_config(&self) -> Result<bool> {
        let new = self.reread_entry()?.filter(|entry| entry.config != *self.config());
        let changed = new.is_some();
        new.into_iter().for_each(|entry| self.set_config(entry.config));
        Ok(changed)
    }

    /// Whether another process deleted the topic; of a broker's that is not known.
    fn is_deleted_elsewhere(&self) -> bool {
        let is_there = |entry: Option<CatalogEntry>| entry.is_some_and(|e| e.state != TopicState::Deleting);
        self.id.is_some() && self.reread_entry().is_ok_and(|entry| !is_there(entry))
    }

    /// The partition's log, and what opening it found if it was this call that opened it.
    pub(crate) fn open(&self, partition: i32) -> Result<(Arc<Log>, Option<PartitionReport>)> {
        let slot = self.slot(partition)?;
        self.open_in(slot, &mut slot.state.write(), partition)
    }

    fn open_in(
        &self,
        slot: &Slot,
        state: &mut State,
        partition: i32,
    ) -> Result<(Arc<Log>, Option<PartitionReport>)> {
        span!("open_partition", topic = %self.name, partition);
        let hints = match &*state {
            State::Open(log) => return Ok((Arc::clone(log), None)),
            State::Damaged(error, _) => return Err(error.clone()),
            State::Absent => return Err(self.unknown(partition)),
            State::Closed(_) => return Err(ErrorKind::Closed.into()),
            State::Deleted => return Err(self.deleted()),
            State::NotOpened(hints) => (**hints).clone(),
        };
        let bells = Arc::clone(&slot.bells);
        match Log::open(&self.context, &self.name, partition, self.config(), hints.clone(), bells) {
            Ok((log, events)) => {
                *state = State::Open(Arc::clone(&log));
                Ok((log, self.report(partition, events)))
            }
            // Too many open files pass by; what the bytes say does not.
            Err(error) if error.is_retriable() => Err(error),
            Err(error) if self.context.read_only && error.is_not_found() && self.is_deleted_elsewhere() => {
                Err(self.deleted())
            }
            // Somebody else's writer may be at it.
            Err(error) if self.context.read_only => Err(self.as_damage(partition, error)),
            Err(error) => {
                let damaged = self.as_damage(partition, error);
                *state = State::Damaged(damaged.clone(), Box::new(OpenHints { clean: false, ..hints }));
                Err(damaged)
            }
        }
    }

    fn as_damage(&self, partition: i32, error: Error) -> Error {
        let topic = self.name.to_string();
        match error.kind() {
            ErrorKind::Damaged { .. } => error,
            _ => ErrorKind::Damaged { topic, partition, why: error.to_string() }.into(),
        }
    }

    /// Announces somebody who sleeps on a partition, and will look at it once more before.
    pub(crate) fn sleep(&self, partition: i32) -> Result<()> {
        self.bells(partition)?.sleep();
        if let (Some(lookout), Ok(log)) = (&self.context.lookout, self.log(partition)) {
            lookout.announce(&log);
        }
        Ok(())
    }

    /// Whether another process may add records, which nobody here would hear of.
    pub(crate) fn is_looked_at_by_hand(&self) -> bool {
        self.context.lookout.as_ref().is_some_and(|lookout| lookout.is_by_hand())
    }

    pub(crate) fn report(&self, partition: i32, events: Vec<RecoveryEvent>) -> Option<PartitionReport> {
        (!events.is_empty()).then(|| PartitionReport { topic: self.name.to_string(), partition, events })
    }

    /// Gives up the log of a partition and opens it anew from what the device holds. What was found, and where the log
    /// ended then, before anybody could append.
    pub(crate) fn recover(&self, partition: i32) -> Result<(Option<PartitionReport>, Offset)> {
        let slot = self.slot(partition)?;
        let open = match &*slot.state.read() {
            State::Open(log) => Some(Arc::clone(log)),
            _ => None,
        };
        if let Some(log) = &open {
            log.commit_last();
            log.abandon(ErrorKind::Closed);
            // What it calls belongs to users: no lock is held.
            log.run_completions();
        }
        // Held until it is open: whoever uses the partition is not the one who opens it, and is told nothing of this.
        let mut state = slot.state.write();
        match &*state {
            // Another call may have opened it anew meanwhile.
            State::Open(log) if open.as_ref().is_some_and(|open| Arc::ptr_eq(open, log)) => {
                let hints = OpenHints {
                    recovery_point: Some(log.recovery_point()),
                    log_start: log.log_start_to_remember(),
                    clean: false,
                    contiguous: log.is_contiguous(),
                    cleaned_to: log.cleaned_to(),
                };
                *state = State::NotOpened(Box::new(hints));
            }
            State::Damaged(_, hints) => *state = State::NotOpened(hints.clone()),
            State::Open(_) | State::NotOpened(_) | State::Absent | State::Closed(_) | State::Deleted => {}
        }
        let (log, report) = self.open_in(slot, &mut state, partition)?;
        Ok((report, log.log_end()))
    }

    /// The log of a partition, for whoever looks for what can go: one that nobody opened so far only if a look at its
    /// directory finds that worth it. Nobody is waited for.
    pub(crate) fn log_to_clean(
        &self,
        partition: i32,
        is_worth_it: impl FnOnce(&Path) -> bool,
    ) -> Option<Arc<Log>> {
        match &*self.slot(partition).ok()?.state.try_read()? {
            State::Open(log) => return Some(Arc::clone(log)),
            State::NotOpened(_) => {}
            State::Damaged(..) | State::Absent | State::Closed(_) | State::Deleted => return None,
        }
        let dir = self.context.root.join(format!("{}-{partition}", self.name));
        // What keeps it from being opened is told to who uses it.
        is_worth_it(&dir).then(|| self.open(partition).ok().map(|(log, _)| log)).flatten()
    }

    /// The log of a partition, if it is open.
    pub(crate) fn opened_log(&self, partition: i32) -> Option<Arc<Log>> {
        match &*self.slot(partition).ok()?.state.try_read()? {
            State::Open(log) => Some(Arc::clone(log)),
            _ => None,
        }
    }

    /// The logs that were opened, by partition; those that were closed since among them.
    pub(crate) fn opened_logs(&self) -> Vec<(i32, Arc<Log>)> {
        // One that is being opened at this moment has nothing to tell yet, and may take long.
        let opened = |(p, slot): (i32, &Slot)| match &*slot.state.try_read()? {
            State::Open(log) | State::Closed(Some(log)) => Some((p, Arc::clone(log))),
            _ => None,
        };
        (0..).zip(self.slots()).filter_map(opened).collect()
    }

    /// Whether no partition is damaged or poisoned.
    pub(crate) fn is_sound(&self) -> bool {
        self.slots().all(|slot| match &*slot.state.read() {
            State::Damaged(..) => false,
            State::Open(log) | State::Closed(Some(log)) => log.failure().is_none(),
            State::NotOpened(_) | State::Absent | State::Closed(None) | State::Deleted => true,
        })
    }

    /// Notes that a partition can not be served.
    pub(crate) fn set_damaged(&self, partition: i32, why: String) {
        if let Ok(slot) = self.slot(partition) {
            let topic = self.name.to_string();
            let mut state = slot.state.write();
            let hints = match &*state {
                State::NotOpened(hints) => OpenHints { clean: false, ..(**hints).clone() },
                _ => OpenHints::default(),
            };
            *state = State::Damaged(ErrorKind::Damaged { topic, partition, why }.into(), Box::new(hints));
        }
    }

    fn deleted(&self) -> Error {
        ErrorKind::TopicDeleted { topic: self.name.to_string() }.into()
    }

    /// Gives all files up. Whoever waits here, and every later call, is told that the topic was deleted; what readers
    /// hold stays good.
    pub(crate) fn delete(&self) {
        for slot in self.slots() {
            let before = std::mem::replace(&mut *slot.state.write(), State::Deleted);
            if let State::Open(log) = before {
                log.abandon(ErrorKind::TopicDeleted { topic: self.name.to_string() });
                log.run_completions();
            }
            slot.bells.ring();
        }
    }

    /// Closes all partitions; the first error is returned, the others are closed all the same.
    pub(crate) fn close(&self) -> Result<()> {
        let mut logs = Vec::new();
        for slot in self.slots() {
            let log = {
                let mut state = slot.state.write();
                let log = match &*state {
                    State::Open(log) => Some(Arc::clone(log)),
                    // Still to be seen: a damaged partition keeps the stop from counting as clean.
                    State::Damaged(..) | State::Deleted => continue,
                    // Nor does one that was not looked at after a crash, for lack of space or of descriptors.
                    State::NotOpened(hints) if !hints.clean => {
                        let hints = hints.clone();
                        *state = State::Damaged(ErrorKind::Closed.into(), hints);
                        continue;
                    }
                    _ => None,
                };
                *state = State::Closed(log.clone());
                log
            };
            logs.extend(log);
            slot.bells.ring();
        }
        in_parallel(self.context.threads, &logs, |log| log.close())
    }
}

/// A topic of an open store: resolved once, cheap to clone.
///
/// It keeps the store open.
#[derive(Clone)]
pub struct Topic {
    pub(crate) inner: Arc<TopicInner>,
    /// What must live as long as handles do.
    _store: Arc<dyn Any + Send + Sync>,
}

impl Topic {
    pub(crate) fn new(inner: Arc<TopicInner>, store: Arc<dyn Any + Send + Sync>) -> Self {
        Topic { inner, _store: store }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.inner.name.as_str()
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    /// Its id, in the form that Kafka's tools show; another one when a topic of the same name is made anew. `None` for
    /// one that a broker made and left no id of.
    pub fn id(&self) -> Option<String> {
        self.inner.id().map(|id| id.to_string())
    }

    /// Its settings as they are now; Kafka's defaults, without `retention.ms`, for a topic that a broker made.
    pub fn config(&self) -> TopicConfig {
        TopicConfig::clone(&self.inner.config())
    }

    /// The partition that a producer's record with this key goes to, unless the record names another or the producer
    /// has a partitioner of its own: Kafka's murmur2 of the key. With more partitions it is another one.
    pub fn partition_for_key<K: AsRef<[u8]> + ?Sized>(&self, key: &K) -> i32 {
        partitioner::partition_of(key.as_ref(), self.partitions()) as i32
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.context.clock)
    }

    /// One of its partitions.
    ///
    /// # Errors
    /// There is no such partition, or it is damaged, or the store is closed.
    pub fn partition(&self, partition: i32) -> Result<Partition> {
        self.inner.log(partition)?;
        Ok(Partition::new(self.clone(), partition))
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.name()).field("partitions", &self.partitions()).finish()
    }
}
