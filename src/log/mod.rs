//! One partition: an ordered list of segments, one of them active.
//!
//! Invariants:
//! - The high watermark passes a record only after it is committed: written (`PageCache`), or synced (`Disk`).
//! - Records are published after they are written; offsets are given out and published under one lock (`tail`).
//! - The `tail` lock covers check, patch, one write, publish. Never a sync, a directory operation, compression or a
//!   checksum: a roll makes its files outside the lock, behind the `rolling` flag.
//! - In a `Disk` topic a new segment's directory entry is synced before the high watermark enters it.
//! - Nothing is cut below what readers may see of a live segment, and never below the committed end.
//! - A failed sync poisons the log; it is not retried.
//! - A segment below the one that the remembered recovery point lies in has complete indexes on disk.
//! - Lock order: a running compaction → `names` → leadership → lane (above) → `tail` → `producers` → segment list →
//!   bell. `flush` is never held while one of them is taken.
//! - Names of segments are taken away, or given to other bytes, under `names` and only while the log is open: nobody
//!   touches files that belong to the next log of this directory. Who closes a log, or gives it up, waits for its
//!   compaction too, which writes files beside it.

mod alter;
mod append;
mod bell;
pub(crate) mod callback;
pub(crate) mod checkpoint;
pub(crate) mod committed;
pub(crate) mod compact;
mod copy;
mod figures;
mod findings;
mod flush;
mod follow;
mod lookout;
pub(crate) mod names;
mod open;
pub(crate) mod producer_state;
mod producers;
mod read;
mod records;
mod recover;
pub(crate) mod retention;
mod roll;
pub(crate) mod snapshot;
pub(crate) mod start;
mod survey;
#[cfg(test)]
mod tests;
mod transactions;
mod trim;
mod upkeep;
mod verify;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{AllPins, SyncCounter, TrafficCounter};
use crate::segment::name;
use crate::segment::{Segment, SegmentConfig};
use crate::storage::{File, Storage};
use crate::sync::{
    Arc, AtomicBool, AtomicI64, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, Ordering, RwLock,
};
use crate::time::Clock;
use crate::types::{Durability, Offset, ReadOnly, TopicName};

pub(crate) use bell::{Bell, Bells};
pub use compact::CompactionReport;
pub(crate) use copy::Moment;
pub(crate) use figures::LogFigures;
pub(crate) use findings::readable;
pub use findings::{Finding, VerifyReport};
pub(crate) use flush::{Completion, Source as PendingBatches};
pub(crate) use lookout::Lookout;
pub(crate) use names::{Identity, Names};
pub(crate) use open::OpenHints;
pub(crate) use read::ReadOptions;
pub use records::{BatchRef, RecordRef, Records, RecordsIter, SharedRecord};
pub use recover::{PartitionReport, RecoveryEvent};
pub use retention::{AgedBy, Fate, GroupPositions};
pub(crate) use trim::{Gone, Move};
pub(crate) use upkeep::Upkeep;
pub(crate) use verify::{Claims, verify};

/// The files of a partition that never held a record: a broker misses an index after a clean stop.
pub(crate) fn first_segment_files() -> [String; 3] {
    [name::log(0), name::offset_index(0), name::time_index(0)]
}

/// What all logs of a store share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) root: PathBuf,
    pub(crate) read_only: bool,
    /// How many may work together where many partitions are synced, made or recovered at once.
    pub(crate) threads: usize,
    /// How many logs may have unsynced files.
    pub(crate) dirty_max: usize,
    /// A recovery point moved since the checkpoints were last written.
    pub(crate) checkpoint_due: AtomicBool,
    /// Why records are lost that a dropped producer or writer had taken: closing the store says so.
    pub(crate) unheard: Mutex<Option<Error>>,
    /// What is shown, when it is read-only.
    pub(crate) shows: ReadOnly,
    /// Who looks for sleepers, when it is read-only.
    pub(crate) lookout: Option<Arc<Lookout>>,
    pub(crate) unsynced: Unsynced,
    pub(crate) wake: Wake,
    pub(crate) pins: AllPins,
    /// Producers that have a name.
    pub(crate) names: Names,
    /// How long a partition remembers a producer that writes nothing.
    pub(crate) producer_id_expiration_ms: u64,
    pub(crate) upkeep: Upkeep,
}

impl Context {
    /// Keeps the number of logs with unsynced files in bounds, by syncing those that wait longest: such a file must
    /// stay open. For those who appended, and never for a leader.
    pub(crate) fn bound_dirty(&self) {
        // Whoever appends from inside a hook must not wait for a sync: the next one will.
        while !callback::is_inside()
            && let Some(oldest) = self.unsynced.over(self.dirty_max)
        {
            // A failure stays with the partition, whose users are told.
            let _ = oldest.sync_all();
        }
    }

    /// Has the checkpoint files written before long.
    pub(crate) fn ask_for_checkpoints(&self) {
        if !self.checkpoint_due.swap(true, Ordering::SeqCst) {
            let now = self.clock.monotonic();
            self.wake.wake_by(now, now.saturating_add(CHECKPOINT_INTERVAL));
        }
    }

    /// Notes the first error that nobody was left to hear of.
    pub(crate) fn note_unheard(&self, error: Error) {
        // Of a topic that was deleted nobody misses records.
        if !matches!(error.kind(), ErrorKind::TopicDeleted { .. }) {
            self.unheard.lock().get_or_insert(error);
        }
    }
}

/// How long the checkpoint files are left as they are after each writing.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Wakes the one who does the work that nobody waits for, if it sleeps.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    /// When it will wake by itself, in microseconds of the monotonic clock. 0: it is awake; [`u64::MAX`]: it is about
    /// to sleep.
    until: AtomicU64,
    bell: Bell,
}

impl Wake {
    /// Free when nobody sleeps.
    pub(crate) fn wake(&self) {
        if self.until.load(Ordering::SeqCst) != 0 && self.until.swap(0, Ordering::SeqCst) != 0 {
            self.bell.ring();
        }
    }

    /// For something that is to be done at `due`: free too when the sleep ends before. Who should be awake by `now`
    /// sleeps by another clock.
    pub(crate) fn wake_by(&self, now: Duration, due: Duration) {
        let until = self.until.load(Ordering::SeqCst);
        if micros(due) < until || micros(now) >= until {
            self.wake();
        }
    }

    /// Wakes also one who is about to sleep.
    pub(crate) fn wake_always(&self) {
        self.until.store(0, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Announces the sleep; what became due before is looked for once more after this.
    pub(crate) fn fall_asleep(&self) {
        self.until.store(u64::MAX, Ordering::SeqCst);
    }

    /// Sleeps for so long; `now`: when it was looked for what is due. What comes up since is late by the time that the
    /// look took, at most.
    pub(crate) fn sleep(&self, now: Duration, time: Duration) {
        let until = micros(now.saturating_add(time));
        // Who was woken since the announcement finds the bell rung.
        let _ = self.until.compare_exchange(u64::MAX, until, Ordering::SeqCst, Ordering::SeqCst);
        self.bell.wait_until(std::time::Instant::now() + time);
        self.until.store(0, Ordering::SeqCst);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The logs that hold something no sync covers, for whoever does the work that nobody waits for.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    logs: Mutex<Vec<Arc<Log>>>,
    /// Those with unsynced files, whatever they promise, in the order in which they were written to first.
    dirty: Mutex<VecDeque<Arc<Log>>>,
}

impl Unsynced {
    /// Those whose sync is due, and how long until the next is. Logs that are clean are dropped from the list.
    pub(crate) fn due(&self, now: Duration) -> (Vec<Arc<Log>>, Option<Duration>) {
        let mut due = Vec::new();
        let mut next: Option<Duration> = None;
        self.logs.lock().retain(|log| match log.sync_due_at() {
            None => {
                log.listed.store(false, Ordering::SeqCst);
                // An append that saw `listed` a moment ago counts on this list.
                log.sync_due_at().is_some() && !log.listed.swap(true, Ordering::SeqCst)
            }
            Some(at) if at <= now => {
                due.push(Arc::clone(log));
                true
            }
            Some(at) => {
                let left = at - now;
                next = Some(next.map_or(left, |n| n.min(left)));
                true
            }
        });
        (due, next)
    }

    fn list(&self, log: &Arc<Log>, now: Duration) {
        if !log.listed.swap(true, Ordering::SeqCst) {
            self.logs.lock().push(Arc::clone(log));
            if let Some(due) = log.sync_due_at() {
                log.context.wake.wake_by(now, due);
            }
        }
    }

    fn note_dirty(&self, log: &Arc<Log>) {
        if !log.noted_dirty.swap(true, Ordering::SeqCst) {
            let mut dirty = self.dirty.lock();
            // Looked at with the list locked: one that was given up since the write must not come to stay here.
            if log.failure().is_none() {
                dirty.push_back(Arc::clone(log));
            }
        }
    }

    /// The log that is to be synced first, if more than `max` have unsynced files.
    fn over(&self, max: usize) -> Option<Arc<Log>> {
        let mut dirty = self.dirty.lock();
        if dirty.len() <= max {
            return None;
        }
        dirty.retain(|log| {
            log.noted_dirty.store(false, Ordering::SeqCst);
            // A write that saw the note a moment ago counts on this list.
            log.is_dirty() && !log.noted_dirty.swap(true, Ordering::SeqCst)
        });
        let oldest = if dirty.len() > max { dirty.pop_front() } else { None };
        oldest.inspect(|log| log.noted_dirty.store(false, Ordering::SeqCst))
    }

    fn forget(&self, log: &Arc<Log>) {
        self.logs.lock().retain(|other| !Arc::ptr_eq(other, log));
        self.dirty.lock().retain(|other| !Arc::ptr_eq(other, log));
    }

    pub(crate) fn clear(&self) {
        self.logs.lock().clear();
        self.dirty.lock().clear();
    }
}

/// One partition's log.
#[derive(Debug)]
pub(crate) struct Log {
    context: Arc<Context>,
    topic: TopicName,
    partition: i32,
    dir: Arc<Path>,
    /// Changed with the tail locked.
    config: RwLock<Arc<TopicConfig>>,
    /// Made by this crate: offsets have no gaps but those of compactions, which the segments know of.
    contiguous: bool,
    leader_epoch: i32,
    tail: Mutex<Tail>,
    rolled: Condvar,
    /// Held by whoever takes names of closed segments away, or gives them to other bytes; over disk operations, and by
    /// nobody who appends or reads.
    names: Mutex<()>,
    /// Changed by read and write under its lock only: one end grows, others take segments out.
    segments: RwLock<Vec<Arc<Segment>>>,
    log_start: AtomicI64,
    log_end: AtomicI64,
    high_watermark: AtomicI64,
    recovery_point: AtomicI64,
    /// Since the log was opened. Counted by who holds the tail.
    written: TrafficCounter,
    /// Offsets that the start passed, and bytes of segments that went.
    deleted: TrafficCounter,
    syncs: SyncCounter,
    unsynced_bytes: AtomicU64,
    /// When the oldest write that no sync covers happened, in milliseconds of the monotonic clock plus one; 0 = none.
    dirty_since_ms: AtomicU64,
    listed: AtomicBool,
    noted_dirty: AtomicBool,
    flush: flush::Flush,
    /// In a `Disk` topic, where one could be had.
    committed_file: OnceLock<Arc<dyn File>>,
    failure: OnceLock<Error>,
    closed: AtomicBool,
    /// In a read-only store: elsewhere ten thousand partitions have no room for it.
    follow: Option<Box<follow::Follow>>,
    producers: Mutex<producers::Producers>,
    pub(super) compaction: compact::State,
    /// They were read; never so in a read-only store.
    producers_ready: AtomicBool,
    pub(crate) bells: Arc<Bells>,
    source: Arc<records::Source>,
}

/// The end that grows.
#[derive(Debug)]
struct Tail {
    active: Arc<Segment>,
    next_offset: Offset,
    /// `segment.ms` less this segment's jitter.
    segment_ms: u64,
    rolling: bool,
}

impl Log {
    /// Keeps names of closed segments from being taken away, or given to other bytes, until it is dropped.
    pub(crate) fn keep_names(&self) -> MutexGuard<'_, ()> {
        self.names.lock()
    }

    pub(crate) fn topic(&self) -> &str {
        self.topic.as_str()
    }

    pub(crate) fn partition(&self) -> i32 {
        self.partition
    }

    pub(crate) fn log_start(&self) -> Offset {
        self.log_start.load(Ordering::Acquire)
    }

    /// One behind the last record that was written.
    pub(crate) fn log_end(&self) -> Offset {
        self.log_end.load(Ordering::SeqCst)
    }

    /// One behind the last record that is committed.
    pub(crate) fn high_watermark(&self) -> Offset {
        self.high_watermark.load(Ordering::SeqCst)
    }

    pub(crate) fn recovery_point(&self) -> Offset {
        self.recovery_point.load(Ordering::Acquire)
    }

    /// What the checkpoint may say: an offset in the first closed segment whose indexes are not complete on disk, for
    /// Kafka's start rebuilds those of the segment of that offset and of the later ones.
    pub(crate) fn recovery_point_to_remember(&self) -> Offset {
        let proven = self.recovery_point();
        let Some(oldest) = self.flush.oldest_sealed_base() else { return proven };
        let segments = self.segments.read();
        let next = segments.iter().map(|segment| segment.base()).find(|base| *base > oldest);
        next.map_or(proven, |next| proven.min(next - 1))
    }

    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.config.read())
    }

    /// What committed records below `end` are safe from. A topic that became a `Disk` one has older records, which are
    /// committed and wait for their sync.
    pub(crate) fn durability(&self, end: Offset) -> Durability {
        match self.config().durability {
            Durability::Disk if self.recovery_point() >= end => Durability::Disk,
            _ => Durability::PageCache,
        }
    }

    /// Which of all logs that the store opened: after a recovery it is another one.
    pub(crate) fn instance(&self) -> u64 {
        self.source.instance
    }

    /// Whether it was made by this crate.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.contiguous
    }

    /// The log start, when anything was deleted. Kafka remembers it only inside a segment: here it also tells which
    /// of the files that a crash leaves are to go.
    pub(crate) fn log_start_to_remember(&self) -> Option<Offset> {
        Some(self.log_start()).filter(|start| *start > 0)
    }

    /// Bytes of all segments that were handed to the operating system.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.segments.read().iter().map(|segment| segment.written()).sum()
    }

    /// Whether a file of it holds what no sync covers.
    fn is_dirty(&self) -> bool {
        self.failure().is_none() && (self.tail.lock().active.is_dirty() || self.flush.sealed_len() > 0)
    }

    /// Why nothing more is accepted, if so.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Ends the log for good after a failed sync, and tells those who wait. The first failure counts.
    #[cold]
    fn poison(&self, error: &Error) -> Error {
        let poisoned = self.fail(error);
        self.tell_failure();
        poisoned
    }

    /// The first half of [`Log::poison`], for who holds the tail; [`Log::tell_failure`] must follow without it.
    #[cold]
    fn fail(&self, error: &Error) -> Error {
        let poisoned = self.failure.get_or_init(|| {
            ErrorKind::Poisoned {
                topic: self.topic.to_string(),
                partition: self.partition,
                from: self.high_watermark(),
                why: error.to_string(),
            }
            .into()
        });
        poisoned.clone()
    }

    /// Wakes all whom a failure concerns: tasks of users among them, so with no lock held.
    #[cold]
    fn tell_failure(&self) {
        self.flush.wake_all();
        self.bells.ring();
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        if self.context.read_only {
            return Err(ErrorKind::ReadOnly { path: self.dir.to_path_buf() }.into());
        }
        if self.closed.load(Ordering::Acquire) { Err(ErrorKind::Closed.into()) } else { Ok(()) }
    }

    /// Commits everything, as far as that goes, and takes no more appends.
    pub(crate) fn commit_last(self: &Arc<Self>) {
        self.closed.store(true, Ordering::Release);
        let _ = self.sync_everything();
    }

    /// Of a segment that was never compacted, in a log that is `ours` or not.
    fn segment_config(config: &TopicConfig, ours: bool) -> SegmentConfig {
        SegmentConfig {
            ours,
            contiguous: ours,
            followed: false,
            index_interval_bytes: config.index_interval_bytes,
            segment_index_bytes: config.segment_index_bytes,
            maps: true,
        }
    }

    /// Commits everything, closes the files' indexes, and takes no more appends. Reads go on.
    pub(crate) fn close(self: &Arc<Self>) -> Result<()> {
        if self.context.read_only || self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let active = {
            let mut tail = self.tail.lock();
            while tail.rolling {
                self.rolled.wait(&mut tail);
            }
            Arc::clone(&tail.active)
        };
        // A compaction, a removal or a swap that goes on ends first; none is begun any more.
        self.compaction.wait();
        drop(self.names.lock());
        let synced = self.sync_everything();
        self.flush.forget_sources();
        let _lead = synced?;
        if let Some(file) = self.committed_file.get() {
            // After a clean stop it is believed before the checkpoint, which has no checksum.
            file.sync_data()?;
        }
        active.end_index();
        active.flush_aborted(true)?;
        active.sync_index()?;
        self.take_last_snapshot();
        Ok(())
    }

    /// Gives the files up, to a log that is opened anew or to nobody: when this returns, none of them is written
    /// through this log any more. Those who still wait here are told `why`.
    pub(crate) fn abandon(self: &Arc<Self>, why: ErrorKind) {
        // First: whoever is refused from now on hears why.
        let _ = self.failure.set(why.into());
        self.closed.store(true, Ordering::Release);
        {
            let mut tail = self.tail.lock();
            while tail.rolling {
                self.rolled.wait(&mut tail);
            }
        }
        self.compaction.wait();
        drop(self.names.lock());
        // Who leads has files in hand.
        drop(self.lead_until(None));
        self.flush.forget_sources();
        // What it holds open is given back when nobody reads from it.
        self.context.unsynced.forget(self);
        self.tell_failure();
    }
}
