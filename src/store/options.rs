//! How a store is opened.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::Store;
use super::compaction::CompactorOptions;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::log::GroupPositions;
use crate::storage::{Disk, SimDisk, Storage};
use crate::sync::Arc;
use crate::time::{Clock, SystemClock};
use crate::types::ReadOnly;

/// Who does the work that nobody waits for: batches that linger, `flush.ms`, checkpoints, retention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maintenance {
    /// Threads of the store: `logstead-timer`, `logstead-clean`, and up to `flush_threads` named `logstead-flush`.
    #[default]
    Threads,
    /// The host, which calls [`Store::maintain`].
    Manual,
}

/// Settings of a store: see [`Store::options`].
#[derive(Clone)]
pub struct StoreOptions {
    pub(super) maintenance: Maintenance,
    pub(super) flush_threads: usize,
    max_open_files: Option<usize>,
    pub(super) producer_id_expiration_ms: u64,
    pub(super) shows: ReadOnly,
    pub(super) compactor: CompactorOptions,
    pub(super) retention_check_interval: Duration,
    pub(super) max_store_bytes: Option<u64>,
    pub(super) group_positions: Option<Arc<dyn GroupPositions>>,
    offsets_retention_minutes: Option<u64>,
    clock: Arc<dyn Clock>,
    disk: Option<SimDisk>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            maintenance: Maintenance::Threads,
            flush_threads: 16,
            max_open_files: None,
            producer_id_expiration_ms: 86_400_000,
            shows: ReadOnly::Committed,
            compactor: CompactorOptions::default(),
            retention_check_interval: Duration::from_secs(300),
            max_store_bytes: None,
            group_positions: None,
            offsets_retention_minutes: Some(10_080),
            clock: Arc::new(SystemClock),
            disk: None,
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("maintenance", &self.maintenance)
            .field("flush_threads", &self.flush_threads)
            .field("max_open_files", &self.max_open_files)
            .field("retention_check_interval", &self.retention_check_interval)
            .field("max_store_bytes", &self.max_store_bytes)
            .finish_non_exhaustive()
    }
}

impl StoreOptions {
    /// Who does the work that nobody waits for. Default [`Maintenance::Threads`].
    #[must_use]
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.maintenance = maintenance;
        self
    }

    /// How many partitions may be synced at the same time: by the store's own threads, and by a call that flushes,
    /// opens or closes several, which starts threads for that time. At least 1 (0 counts as 1).
    /// Default 16: a device that takes many syncs at a time is mostly waited for. Threads are started when there is
    /// work.
    #[must_use]
    pub fn flush_threads(mut self, threads: usize) -> Self {
        self.flush_threads = threads.max(1);
        self
    }

    /// `producer.id.expiration.ms`: how long a partition remembers a producer that writes nothing to it, by the
    /// timestamps of its records. Default one day, as in Kafka. One with a name is not forgotten, nor one with a
    /// transaction open.
    #[must_use]
    pub fn producer_id_expiration_ms(mut self, ms: u64) -> Self {
        self.producer_id_expiration_ms = ms;
        self
    }

    /// How many files may be open at a time, at least 16 (less counts as 16). Default: half the soft limit of the
    /// process.
    ///
    /// A file with unsynced bytes stays open. So that these are few, whoever appends to one partition more than fits
    /// into half of this first syncs the one that waits longest.
    #[must_use]
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = Some(files.max(MIN_OPEN_FILES));
        self
    }

    /// `log.retention.check.interval.ms`: how often it is looked for segments that may go, at least every millisecond
    /// (0 counts as 1). Default 300,000. The first look comes after that, or after 30 seconds if that is sooner.
    #[must_use]
    pub fn retention_check_interval_ms(mut self, ms: u64) -> Self {
        self.retention_check_interval = Duration::from_millis(ms.max(1));
        self
    }

    /// How many bytes of records all topics may hold together. Default: no limit but the disk's.
    ///
    /// When little is left, what may go is deleted at once, before the next retention check. When that is not enough,
    /// appends and sends answer [`ErrorKind::StoreFull`], which names the partitions that hold most of it and why; what
    /// was accepted before may fail with it too. Segments count from the write on until their files are unlinked;
    /// indexes and small files come on top, about a hundredth.
    #[must_use]
    pub fn max_store_bytes(mut self, bytes: u64) -> Self {
        self.max_store_bytes = Some(bytes);
        self
    }

    /// Who knows how far groups have read, for topics that keep records for them
    /// ([`TopicConfig::hold_for`](crate::TopicConfig::hold_for)). Without it the store's own groups are asked.
    #[must_use]
    pub fn group_positions(mut self, positions: impl GroupPositions + 'static) -> Self {
        self.group_positions = Some(Arc::new(positions));
        self
    }

    /// What a store that is opened with [`StoreOptions::open_read_only`] shows. Default [`ReadOnly::Committed`].
    ///
    /// [`ReadOnly::Written`] shows records that a crash can take back: a reader may act on what then never was.
    #[must_use]
    pub fn read_only(mut self, shows: ReadOnly) -> Self {
        self.shows = shows;
        self
    }

    /// `offsets.retention.minutes`: how long the committed offsets of a group are kept that has no members, or of a
    /// topic that no member wants any more. Default 10,080 (a week); `None`: for ever.
    #[must_use]
    pub fn offsets_retention_minutes(mut self, minutes: impl Into<Option<u64>>) -> Self {
        self.offsets_retention_minutes = minutes.into();
        self
    }

    /// Where time comes from. Default: the system.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Runs on a simulated disk instead of the real one.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn disk(mut self, disk: &SimDisk) -> Self {
        self.disk = Some(disk.clone());
        self
    }

    pub(super) fn in_memory(mut self) -> Self {
        self.disk = Some(SimDisk::in_memory());
        self
    }

    /// Opens a store, and makes it where there is none.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Store> {
        Store::open_with(self, dir.as_ref(), false)
    }

    /// Opens a store, or a directory that a broker made, without a lock and without changing a byte.
    ///
    /// It follows a writer in another process, through its crashes and restarts: every read looks at what is there
    /// now, and a [`Consumer::poll`](crate::Consumer::poll) that waits is woken by what the writer commits. On Linux
    /// the system reports changes (inotify) to a thread `logstead-follow`, which is started by the first wait;
    /// elsewhere, and where too many directories are watched already, it looks every 10 ms. With
    /// [`Maintenance::Manual`] there is no thread: the waiting `poll` looks every 10 ms, and a task of
    /// [`Consumer::poll_ready`](crate::Consumer::poll_ready) is woken by [`Store::maintain`].
    ///
    /// What is shown, unless [`StoreOptions::read_only`] says otherwise: of topics with
    /// [`Durability::Disk`](crate::Durability::Disk), what the writer committed; of others, and of topics that a broker
    /// made, every whole batch that was written. Such records can be taken back by a power cut, and a broker may cut
    /// them; a reader that stands behind the new end then gets [`ErrorKind::OffsetOutOfRange`], as it does for records
    /// that were deleted.
    ///
    /// Topics that are made or deleted are found by [`Store::topic`] and [`Store::topic_names`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use logstead::{Acks, Record, Store, TopicConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("data");
    ///
    /// let writer = Store::open(&dir)?;
    /// let topic = writer.create_topic("t", TopicConfig::default())?;
    ///
    /// let reader = Store::open_read_only(&dir)?; // as another process would
    /// let mut consumer = reader.consumer()?;
    /// consumer.assign_all(["t"])?;
    /// consumer.seek_to_beginning()?;
    ///
    /// topic.partition(0)?.append([Record::to(&topic).value("news")], None, Acks::All)?;
    /// let records = consumer.poll(Duration::from_secs(10))?;
    /// assert_eq!(records.iter().next().unwrap().value(), Some(b"news".as_slice()));
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::open`], but never that it is locked.
    pub fn open_read_only(self, dir: impl AsRef<Path>) -> Result<Store> {
        Store::open_with(self, dir.as_ref(), true)
    }

    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        match &self.disk {
            Some(disk) => Arc::new(disk.clone()),
            None => Arc::new(Disk::new(self.open_files())),
        }
    }

    pub(super) fn offsets_retention_ms(&self) -> Option<i64> {
        let ms = |minutes: u64| i64::try_from(minutes.saturating_mul(60_000)).unwrap_or(i64::MAX);
        self.offsets_retention_minutes.map(ms)
    }

    pub(super) fn open_files(&self) -> usize {
        self.max_open_files.unwrap_or_else(default_open_files)
    }

    pub(super) fn shared_clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }
}

const MIN_OPEN_FILES: usize = 16;

fn default_open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    usize::try_from(limit.unwrap_or(1_024) / 2).unwrap_or(512).max(MIN_OPEN_FILES)
}
