//! The store: a directory of topics, opened by one process at a time.
//!
//! Invariants:
//! - The lock is taken before anything is written and given back after everything else is closed.
//! - The mark of a clean stop is written last, and only when every partition closed without an error.
//! - A checkpoint never says more than what is synced.

mod backup;
mod broker;
mod clean;
mod compaction;
mod explain;
#[cfg(feature = "metrics")]
mod export;
mod follow;
mod groups;
mod hand;
mod maintenance;
mod marker;
mod meta;
mod open;
mod options;
mod place;
mod producers;
#[cfg(all(test, logstead_shuttle))]
mod schedules;
mod stats;
mod take;
mod topics;
mod verify;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{ConsumerConfig, ProducerConfig};
use crate::consumer::Consumer;
use crate::error::{Error, ErrorKind, Result};
use crate::group::Groups;
use crate::log::checkpoint::{
    CLEANER_OFFSETS, HIGH_WATERMARKS, LOG_STARTS, Offsets, RECOVERY_POINTS, write_offsets,
};
use crate::log::{Context, Lookout, PartitionReport, callback};
use crate::metrics::span;
use crate::producer::{Producer, Shared as ProducerShared};
use crate::storage::{LockGuard, replace};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Weak};
use crate::time::Clock;
use crate::topic::Topics;
use crate::topic::catalog::Catalog;

pub use backup::Checkpoint;
pub use broker::Transfer;
use clean::Cleaner;
pub use clean::RetentionRun;
use compaction::Compactor;
pub use explain::{PartitionRetention, RetentionReport, SegmentRetention};
pub use maintenance::Maintained;
use maintenance::Threads;
pub use options::{Maintenance, StoreOptions};
pub use producers::ProducerDescription;
pub use stats::{Figures, PartitionStats, Stats, TopicStats};

/// What opening a store found, cut or moved. Indexes that were made anew are not told, nor what is found in partitions
/// that are opened later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the store had been closed in order, or was new.
    pub clean: bool,
    /// Partitions where something was found. After a clean stop, and in a read-only store, partitions are opened, and
    /// so looked at, when they are first used.
    pub partitions: Vec<PartitionReport>,
    /// Files of the store itself that could not be read and count as absent.
    pub unreadable_files: Vec<PathBuf>,
}

impl RecoveryReport {
    fn add(&mut self, reports: impl IntoIterator<Item = PartitionReport>) {
        for report in reports {
            let known = |other: &&mut PartitionReport| {
                (&other.topic, other.partition) == (&report.topic, report.partition)
            };
            match self.partitions.iter_mut().find(known) {
                Some(known) => known.events.extend(report.events),
                None => self.partitions.push(report),
            }
        }
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.clean { "after a clean stop" } else { "after a stop that was not clean" })?;
        for file in &self.unreadable_files {
            write!(f, "\n{}: not readable, taken as absent", file.display())?;
        }
        for report in &self.partitions {
            for event in &report.events {
                write!(f, "\n{}-{}: {event}", report.topic, report.partition)?;
            }
        }
        Ok(())
    }
}

/// What the handles and the threads of a store share.
struct Shared {
    context: Arc<Context>,
    topics: Arc<Topics>,
    groups: Arc<Groups>,
    catalog: Mutex<Catalog>,
    producers: Mutex<Vec<Weak<ProducerShared>>>,
    checkpoints: Mutex<Checkpoints>,
    cleaner: Cleaner,
    compactor: Compactor,
    report: RecoveryReport,
    /// On the monotonic clock.
    opened_at: std::time::Duration,
    /// When producers were forgotten last, on the monotonic clock.
    expired_at: Mutex<std::time::Duration>,
    #[cfg(feature = "metrics")]
    exported: Mutex<export::Exported>,
    closed: AtomicBool,
}

/// What the checkpoint files say, and since when.
struct Checkpoints {
    files: open::Checkpoints,
    written_at: std::time::Duration,
}

/// The owner: when the last one goes, the store is closed.
struct Handle {
    shared: Arc<Shared>,
    open: Mutex<Open>,
}

/// What an open store has, or what closing it said.
struct Open {
    parts: Option<Parts>,
    outcome: Result<()>,
}

struct Parts {
    threads: Option<Threads>,
    lock: Option<Box<dyn LockGuard>>,
}

/// A directory of topics.
///
/// Cheap to clone; all clones are one store. A directory is open for writing in one process, and in one store of it,
/// at a time. [`Store::close`] says whether everything reached the disk; dropping the last clone (and the last
/// producer, consumer, topic and partition, which keep the store open) closes it as well as it can.
///
/// ```
/// use logstead::{Record, Store, TopicConfig};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("data");
///
/// let store = Store::open(&dir)?;
/// let flights = store.create_topic("flights", TopicConfig::default().partitions(4))?;
/// store.producer()?.send(Record::to(&flights).value("EWR,IAH"))?.wait()?;
/// store.close()?;
///
/// assert_eq!(Store::open(&dir)?.topic("flights")?.partitions(), 4);
/// # Ok::<(), logstead::Error>(())
/// ```
#[derive(Clone)]
pub struct Store(Arc<Handle>);

impl Store {
    /// Opens the store in a directory, and makes it where there is none.
    ///
    /// A directory that a Kafka broker made opens as well. After a crash this repairs what the crash left, and
    /// [`Store::recovery_report`] tells what that was; a partition that can not be served does not keep the others
    /// from being.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`]; [`ErrorKind::NotAStore`]; the directory can not be read or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Store> {
        StoreOptions::default().open(dir)
    }

    /// Opens a store in a directory without a lock and without changing a byte; see
    /// [`StoreOptions::open_read_only`].
    ///
    /// # Errors
    /// [`ErrorKind::NotAStore`]; the directory can not be read.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Store> {
        StoreOptions::default().open_read_only(dir)
    }

    /// A new store in memory: everything works, nothing outlives it.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn in_memory() -> Result<Store> {
        StoreOptions::default().in_memory().open("/")
    }

    /// Settings to open a store with.
    pub fn options() -> StoreOptions {
        StoreOptions::default()
    }

    fn open_with(options: StoreOptions, dir: &Path, read_only: bool) -> Result<Store> {
        let storage = options.storage();
        let own_threads = options.maintenance == Maintenance::Threads;
        let context = Arc::new(Context {
            lookout: read_only.then(|| Lookout::new(&storage, own_threads)),
            storage,
            clock: options.shared_clock(),
            // Once and for all: the process may change its directory.
            root: absolute(dir)?,
            read_only,
            // A host that allows no threads has none here either.
            threads: if options.maintenance == Maintenance::Threads { options.flush_threads } else { 1 },
            dirty_max: options.open_files() / 2,
            checkpoint_due: Default::default(),
            unheard: Default::default(),
            shows: options.shows,
            unsynced: Default::default(),
            wake: Default::default(),
            pins: Default::default(),
            names: Default::default(),
            producer_id_expiration_ms: options.producer_id_expiration_ms,
            upkeep: Default::default(),
        });
        context.upkeep.begin(context.clock.as_ref());
        span!("open", dir = %context.root.display(), read_only);
        let opened_at = context.clock.monotonic();
        let mut opened = open::open(&context)?;
        let topics = Arc::new(opened.topics);
        let groups = Arc::new(Groups::new(&context, &topics, options.offsets_retention_ms()));
        if !opened.report.clean {
            opened.report.add(groups.move_back(None));
        }
        let checkpoints = Checkpoints { files: opened.checkpoints, written_at: context.clock.monotonic() };
        let shared = Arc::new(Shared {
            context,
            topics,
            groups,
            catalog: Mutex::new(opened.catalog),
            producers: Mutex::default(),
            checkpoints: Mutex::new(checkpoints),
            compactor: options.compactor(opened_at),
            cleaner: Cleaner::new(options.retention_check_interval, opened_at),
            report: opened.report,
            opened_at,
            expired_at: Mutex::new(opened_at),
            #[cfg(feature = "metrics")]
            exported: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        groups::begin(&shared);
        if read_only {
            follow::begin(&shared);
        } else {
            clean::begin(&shared, options.group_positions.clone(), options.max_store_bytes);
        }
        if !read_only && !shared.report.clean {
            // On a full disk the store opens all the same; they are tried again.
            let _ = shared.write_checkpoints();
        }
        let threads = match own_threads && !read_only {
            true => Some(Threads::start(&shared, options.flush_threads)?),
            false => None,
        };
        let open = Open { parts: Some(Parts { threads, lock: opened.lock }), outcome: Ok(()) };
        Ok(Store(Arc::new(Handle { shared, open: Mutex::new(open) })))
    }

    /// What opening found.
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.shared().report
    }

    /// A producer with the default settings.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], [`ErrorKind::ReadOnly`].
    pub fn producer(&self) -> Result<Producer> {
        self.producer_with(ProducerConfig::default())
    }

    /// A producer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], [`ErrorKind::CodecMissing`], [`ErrorKind::Closed`], [`ErrorKind::ReadOnly`]; of
    /// one with a name also [`ErrorKind::Full`], and [`ErrorKind::WouldWaitForItself`] from inside a delivery hook.
    pub fn producer_with(&self, config: ProducerConfig) -> Result<Producer> {
        config.validate()?;
        self.shared().check_writable()?;
        self.make_producer(config)
    }

    /// A consumer with the default settings.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub fn consumer(&self) -> Result<Consumer> {
        self.consumer_with(ConsumerConfig::default())
    }

    /// A consumer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], [`ErrorKind::Closed`].
    pub fn consumer_with(&self, config: ConsumerConfig) -> Result<Consumer> {
        config.validate()?;
        self.shared().check_open()?;
        Consumer::new(config, &self.shared().topics, &self.shared().groups, None, self.keep())
    }

    /// Takes a partition back into service after a failed sync ([`ErrorKind::Poisoned`]) or after its files were
    /// repaired ([`ErrorKind::Damaged`]): it is opened anew from what the device holds.
    ///
    /// Records that were not committed may be gone; the answer tells what was found.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it still can not be served; [`ErrorKind::Full`] if there is no room to keep what must
    /// be cut. [`ErrorKind::UnknownTopic`], [`ErrorKind::UnknownPartition`], [`ErrorKind::ReadOnly`],
    /// [`ErrorKind::Closed`].
    pub fn recover(&self, topic: &str, partition: i32) -> Result<Option<PartitionReport>> {
        span!("recover", topic, partition);
        self.shared().check_writable()?;
        let (handle, quota) = (self.shared().topics.get(topic)?, &self.shared().context.upkeep.quota);
        let bytes = || handle.opened_log(partition).map_or(0, |log| log.size_bytes());
        let before = bytes();
        let recovered = handle.recover(partition);
        quota.gave_back(before);
        quota.took(bytes());
        // Groups may have read more than was left; what was appended since is not what they read.
        let (found, end) = recovered?;
        let mut report = RecoveryReport::default();
        report.add(found.into_iter().chain(self.shared().groups.move_back(Some((topic, partition, end)))));
        Ok(report.partitions.pop())
    }

    /// The figures of now, per topic and partition: what there is, what went on since the store was opened, how long
    /// syncs took.
    ///
    /// It opens no partition and waits for none; counting is always on and costs nothing per record.
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// Does the work that nobody waits for and that is due: for stores opened with [`Maintenance::Manual`]. A read-only
    /// one looks for what the writer did, where a task waits for it.
    ///
    /// Bounded by what is due; call it again after `next_due`, or earlier.
    ///
    /// # Errors
    /// The first error of that work; the rest of it is done all the same.
    pub fn maintain(&self) -> Result<Maintained> {
        self.shared().check_open()?;
        self.shared().maintain()
    }

    /// Commits and closes everything, whoever else has a handle: theirs answer [`ErrorKind::Closed`] from now on.
    ///
    /// # Errors
    /// The first failure: what it names may not have reached the disk. The rest is closed all the same. A later call
    /// says the same again. [`ErrorKind::WouldWaitForItself`] from inside a delivery hook: nothing was closed.
    pub fn close(self) -> Result<()> {
        self.0.close()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Where it takes its time from.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.shared().context.clock)
    }

    fn keep(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.0) as Arc<dyn Any + Send + Sync>
    }
}

/// The whole path of a store's directory.
fn absolute(dir: &Path) -> Result<PathBuf> {
    if dir.as_os_str().is_empty() {
        let why = "the path is empty; \".\" is the current directory".to_owned();
        return Err(ErrorKind::NotAStore { path: dir.to_owned(), why }.into());
    }
    std::path::absolute(dir).map_err(|error| Error::io(dir, "resolve", &error))
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.shared().context.root).finish_non_exhaustive()
    }
}

impl Handle {
    /// Whoever calls this while it goes on, or later, gets the same answer.
    fn close(&self) -> Result<()> {
        callback::check_outside("Store::close")?;
        let mut open = self.open.lock();
        if let Some(parts) = open.parts.take() {
            open.outcome = parts.close(&self.shared);
        }
        open.outcome.clone()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(parts) = self.open.lock().parts.take() else { return };
        let shared = Arc::clone(&self.shared);
        // Nobody is left to hear of an error; `close` is for those who ask. From inside a hook, which closing would
        // wait for, another thread closes; without one the next open finds what a crash leaves.
        let close = move || drop(parts.close(&shared));
        if callback::is_inside() {
            let _ = std::thread::Builder::new().name("logstead-close".to_owned()).spawn(close);
        } else {
            close();
        }
    }
}

impl Parts {
    fn close(self, shared: &Shared) -> Result<()> {
        shared.closed.store(true, Ordering::Release);
        if let Some(threads) = self.threads {
            threads.stop(shared);
        }
        let result = shared.close();
        #[cfg(feature = "metrics")]
        shared.export();
        drop(self.lock);
        result
    }
}

impl Shared {
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(ErrorKind::Closed.into()) } else { Ok(()) }
    }

    fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.context.read_only {
            return Err(ErrorKind::ReadOnly { path: self.context.root.clone() }.into());
        }
        Ok(())
    }

    fn live_producers(&self) -> Vec<Arc<ProducerShared>> {
        self.producers.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn close(&self) -> Result<()> {
        if let Some(lookout) = &self.context.lookout {
            lookout.stop();
            return self.topics.close();
        }
        for producer in self.live_producers() {
            producer.shut();
        }
        let closed = self.close_partitions();
        let unheard = self.context.unheard.lock().take();
        closed.and(unheard.map_or(Ok(()), Err))
    }

    fn close_partitions(&self) -> Result<()> {
        // A topic that is being made is made, and closed with the others; none is begun from now on.
        drop(self.catalog.lock());
        let closed = self.topics.close();
        self.context.unsynced.clear();
        closed.and(self.write_checkpoints())?;
        let served = self.topics.sorted().iter().all(|topic| topic.is_sound());
        if !served {
            // A damaged partition must be looked at again.
            return Ok(());
        }
        if !self.may_count_as_clean() {
            return Ok(());
        }
        replace(
            self.context.storage.as_ref(),
            &self.context.root.join(open::CLEAN_SHUTDOWN),
            open::CLEAN_MARK,
        )
    }

    /// Brings the checkpoint files up to date, where anything moved.
    fn write_checkpoints(&self) -> Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        // Before it is looked: what moves from now on is for the next time.
        self.context.checkpoint_due.store(false, Ordering::SeqCst);
        let written = self.write_changed(&mut checkpoints);
        checkpoints.written_at = self.context.clock.monotonic();
        written.inspect_err(|_| self.context.checkpoint_due.store(true, Ordering::SeqCst))
    }

    fn write_changed(&self, checkpoints: &mut Checkpoints) -> Result<()> {
        let mut recovery_points = checkpoints.files.recovery_points.clone();
        let mut log_starts = checkpoints.files.log_starts.clone();
        let mut cleaned = checkpoints.files.cleaned.clone();
        let mut high_watermarks: BTreeMap<_, _> = Offsets::new();
        for topic in self.topics.sorted() {
            for (partition, log) in topic.opened_logs() {
                let key = (topic.name.to_string(), partition);
                recovery_points.insert(key.clone(), log.recovery_point_to_remember());
                high_watermarks.insert(key.clone(), log.high_watermark());
                cleaned.extend(log.cleaned_to().map(|to| (key.clone(), to)));
                match log.log_start_to_remember() {
                    Some(start) => log_starts.insert(key, start),
                    None => log_starts.remove(&key),
                };
            }
        }
        let storage = self.context.storage.as_ref();
        let path = |name| self.context.root.join(name);
        if recovery_points != checkpoints.files.recovery_points {
            write_offsets(storage, &path(RECOVERY_POINTS), &recovery_points)?;
            checkpoints.files.recovery_points = recovery_points;
        }
        if log_starts != checkpoints.files.log_starts {
            write_offsets(storage, &path(LOG_STARTS), &log_starts)?;
            checkpoints.files.log_starts = log_starts;
        }
        if cleaned != checkpoints.files.cleaned {
            write_offsets(storage, &path(CLEANER_OFFSETS), &cleaned)?;
            checkpoints.files.cleaned = cleaned;
        }
        if self.closed.load(Ordering::Acquire) {
            // Nobody here reads it: it is for a broker that takes the directory over.
            let mut all = checkpoints.files.recovery_points.clone();
            all.extend(high_watermarks);
            write_offsets(storage, &path(HIGH_WATERMARKS), &all)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TopicConfig;
    use crate::topic::Record;
    use crate::types::{Acks, Durability};

    #[test]
    fn a_group_goes_back_to_the_end_that_recovery_found_whatever_was_appended_since() {
        let store = Store::in_memory().unwrap();
        let topic =
            store.create_topic("t", TopicConfig::default().durability(Durability::PageCache)).unwrap();
        let append = |count| {
            let records = (0..count).map(|_| Record::to(&topic).value("v"));
            topic.partition(0).unwrap().append(records, None, Acks::All).unwrap();
        };
        append(100);
        store.group("g").commit_offsets([("t", 0, 100)]).unwrap();
        let (nothing, end) = topic.inner.recover(0).unwrap();
        assert_eq!((nothing, end), (None, 100));
        // Others write before the groups are looked at.
        append(20);
        let groups = &store.shared().groups;
        assert_eq!(groups.move_back(Some(("t", 0, end))), []);
        // Had the last ten been lost:
        assert_eq!(groups.move_back(Some(("t", 0, 90))).len(), 1);
        assert_eq!(store.group("g").committed().unwrap()[0].1.offset, 90);
    }
}
