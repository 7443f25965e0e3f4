//! The work that gives space back: retention, delete-records, files that wait to be unlinked.
//!
//! One function does a slice of it. The thread `logstead-clean` calls it when it is due, `maintain` does in a store
//! without threads, and whoever needs room does at once.
//!
//! Invariants:
//! - One at a time is at it (`Turn`): a flag, not a lock, since the user's [`GroupPositions`](crate::GroupPositions)
//!   are asked meanwhile.
//! - The files that tell where logs start are durable before readers see a start, and that before anything is unlinked.
//! - A partition that can not be cleaned keeps no other from being.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::open::holds_log;
use super::stats::size;
use super::{Shared, Store};
use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, HeldSpace, Result, each};
use crate::group::Positions;
use crate::log::checkpoint::{LOG_STARTS, write_offsets};
use crate::log::retention::{Held, stamp};
use crate::log::{Gone, GroupPositions, Log, Move, callback};
use crate::metrics::span;
use crate::segment::name::{self, SegmentFile};
use crate::segment::time_index;
use crate::storage::{EntryKind, Open};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};
use crate::topic::TopicInner;
use crate::types::Offset;

/// Partitions of a slice: their starts are told by one replace of the store's file.
const SLICE: usize = 64;

/// Kafka looks for the first time after this, however long its interval is.
const FIRST: Duration = Duration::from_secs(30);

/// How soon after it was tried in vain to make room it is tried again.
const RELIEF_PAUSE: Duration = Duration::from_secs(1);

/// Partitions that a full store names.
const NAMED_MAX: usize = 5;

/// What [`Store::run_retention_now`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionRun {
    /// Partitions whose start moved.
    pub partitions: u64,
    /// Segments that were deleted.
    pub segments: u64,
    /// Their bytes. With `file.delete.delay.ms` the disk has them back later.
    pub bytes: u64,
    /// How far the wall clock is ahead of what the steady clock proves: if not zero, nothing was deleted for an age
    /// that only the wall clock gives it. See [`Store::trust_clock`].
    pub clock_ahead: Duration,
}

impl fmt::Display for RetentionRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RetentionRun { partitions, segments, bytes, clock_ahead } = self;
        write!(f, "deleted {segments} segments ({}) of {partitions} partitions", size(*bytes as f64))?;
        match clock_ahead.is_zero() {
            true => Ok(()),
            false => {
                write!(f, "; the wall clock is {clock_ahead:?} ahead of the steady one, and not believed")
            }
        }
    }
}

impl RetentionRun {
    fn add(&mut self, gone: Gone) {
        self.partitions += 1;
        self.segments += gone.segments;
        self.bytes += gone.bytes;
    }

    fn plus(&mut self, other: RetentionRun) {
        self.partitions += other.partitions;
        self.segments += other.segments;
        self.bytes += other.bytes;
        self.clock_ahead = other.clock_ahead;
    }
}

/// When the next work is due, and who is at it.
#[derive(Debug)]
pub(super) struct Cleaner {
    interval: Duration,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    at_it: bool,
    /// When the next look at all partitions is due, on the monotonic clock.
    due: Duration,
    /// Partitions that the look which is under way has not come to.
    left: VecDeque<(Arc<TopicInner>, i32)>,
    /// When it was last tried in vain to make room.
    in_vain: Option<Duration>,
    /// The first error of the look that ended last, or of the one under way.
    failure: Option<Error>,
}

/// The right to clean; one at a time.
struct Turn<'c>(&'c Cleaner);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().at_it = false;
        self.0.ended.notify_all();
    }
}

impl Cleaner {
    pub(super) fn new(interval: Duration, now: Duration) -> Cleaner {
        let state = State {
            at_it: false,
            due: now + interval.min(FIRST),
            left: VecDeque::new(),
            in_vain: None,
            failure: None,
        };
        Cleaner { interval, state: Mutex::new(state), ended: Condvar::new() }
    }

    /// Waits for whoever is at it.
    fn turn(&self) -> Turn<'_> {
        let mut state = self.state.lock();
        while state.at_it {
            self.ended.wait(&mut state);
        }
        state.at_it = true;
        Turn(self)
    }

    /// The first one of a look is kept.
    fn note(&self, error: &Error) {
        self.state.lock().failure.get_or_insert_with(|| error.clone());
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.state.lock().failure.clone()
    }
}

/// Has room made, and says who knows how far groups have read, in a store that was just opened for writing.
pub(super) fn begin(
    shared: &Arc<Shared>,
    positions: Option<Arc<dyn GroupPositions>>,
    max_store_bytes: Option<u64>,
) {
    let upkeep = &shared.context.upkeep;
    let own = || Arc::new(Positions(Arc::downgrade(&shared.groups))) as Arc<dyn GroupPositions>;
    // Nobody else was there to name somebody.
    let _ = upkeep.positions.set(positions.unwrap_or_else(own));
    if let Some(limit) = max_store_bytes {
        upkeep.quota.begin(limit, shared.measure());
    }
    let weak = Arc::downgrade(shared);
    upkeep.relieve_by(move || weak.upgrade().is_some_and(|shared| shared.relieve()));
}

impl Store {
    /// Deletes what retention would delete, in all topics, without waiting for its time. What stays, and why:
    /// [`Store::explain_retention`].
    ///
    /// # Errors
    /// The first error; the other partitions are cleaned all the same. [`ErrorKind::ReadOnly`];
    /// [`ErrorKind::WouldWaitForItself`] from inside a delivery hook or a
    /// [`GroupPositions`](crate::GroupPositions).
    pub fn run_retention_now(&self) -> Result<RetentionRun> {
        callback::check_outside("Store::run_retention_now")?;
        self.shared().check_writable()?;
        self.shared().clean_all(false)
    }

    /// Deletes the records in front of an offset: when this returns they are gone for good, and the log starts there.
    /// -1 is the high watermark, which deletes all that is committed. An offset in front of the start changes nothing.
    ///
    /// Space is given back for whole segments: what lies in front of the offset in its own segment can not be read any
    /// more, and goes with that. Readers that hold such records keep them; who reads on in front of the offset gets
    /// [`ErrorKind::OffsetOutOfRange`]. Holds of groups do not keep it. The answer: where the log starts now.
    ///
    /// ```
    /// use logstead::{Acks, ErrorKind, Record, Store, TopicConfig};
    ///
    /// let store = Store::in_memory()?;
    /// let topic = store.create_topic("t", TopicConfig::default())?;
    /// let partition = topic.partition(0)?;
    /// for value in ["a", "b", "c"] {
    ///     partition.append([Record::to(&topic).value(value)], None, Acks::All)?;
    /// }
    /// assert_eq!(store.delete_records("t", 0, 2)?, 2);
    /// assert_eq!((partition.log_start_offset(), partition.high_watermark()), (2, 3));
    /// assert!(matches!(partition.read(1, 100).unwrap_err().kind(), ErrorKind::OffsetOutOfRange { .. }));
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`]: it lies behind the high watermark. [`ErrorKind::NotDeletable`]: the topic's
    /// `cleanup.policy` does not say `delete`. [`ErrorKind::UnknownTopic`], [`ErrorKind::UnknownPartition`],
    /// [`ErrorKind::Poisoned`], [`ErrorKind::ReadOnly`]; [`ErrorKind::WouldWaitForItself`] from inside a delivery hook.
    /// After any other error the records may be gone or not, and are so for good once a call succeeded.
    pub fn delete_records(&self, topic: &str, partition: i32, before: Offset) -> Result<Offset> {
        self.shared().check_writable()?;
        let log = self.shared().topics.get(topic)?.log(partition)?;
        if let Some(before) = log.check_before(before)? {
            span!("delete_records", topic, partition, before);
            let plan = log.plan_to(before)?;
            let (_, done) = self.shared().carry_out(&[(Arc::clone(&log), plan)], true);
            done?;
        }
        Ok(log.log_start())
    }

    /// Believes the wall clock, after it was set right.
    ///
    /// Retention by time believes the wall clock only as far as a clock that nobody sets confirms it: one that jumped
    /// forward by more than five minutes would make everything old at once. Until this is called, the clock is set
    /// back, or the store is opened anew, records grow old by the steady clock.
    pub fn trust_clock(&self) {
        let context = &self.shared().context;
        context.upkeep.believe(context.clock.as_ref());
    }
}

impl Shared {
    /// When there is something to clean, on the monotonic clock.
    pub(super) fn clean_due(&self) -> Duration {
        let state = self.cleaner.state.lock();
        if !state.left.is_empty() || self.context.upkeep.is_asked() {
            return Duration::ZERO;
        }
        let unlink = self.context.upkeep.next_due();
        unlink.map_or(state.due, |unlink| unlink.min(state.due))
    }

    /// Does what is due, as much as one slice; whether more is due now.
    pub(super) fn clean_slice(&self) -> Result<bool> {
        if callback::is_inside() {
            return Ok(false);
        }
        let _turn = self.cleaner.turn();
        let asked = self.context.upkeep.take_asked();
        let (_, unlinked) = self.unlink_due(asked);
        let now = self.context.clock.monotonic();
        let begins = {
            let state = self.cleaner.state.lock();
            state.left.is_empty() && (asked || state.due <= now)
        };
        let all = begins.then(|| self.partitions());
        let slice: Vec<_> = {
            let mut state = self.cleaner.state.lock();
            if let Some(all) = all {
                state.left = all.into();
                state.failure = None;
                state.due = now + self.cleaner.interval;
            }
            let count = state.left.len().min(SLICE);
            state.left.drain(..count).collect()
        };
        let (_, retained) = self.retain(&slice);
        let more = !self.cleaner.state.lock().left.is_empty();
        if let Err(error) = &retained {
            self.cleaner.note(error);
        }
        unlinked.and(retained).map(|()| more)
    }

    /// Looks at all partitions now; waiting files go too, if space is needed.
    fn clean_all(&self, in_need: bool) -> Result<RetentionRun> {
        let _turn = self.cleaner.turn();
        let (freed, unlinked) = self.unlink_due(in_need);
        let mut run = RetentionRun { bytes: freed, ..RetentionRun::default() };
        if !in_need {
            // They were told of when they left their logs.
            run.bytes = 0;
        }
        let mut done = unlinked;
        for slice in self.partitions().chunks(SLICE) {
            let (more, retained) = self.retain(slice);
            run.plus(more);
            done = done.and(retained);
        }
        if in_need {
            // With `file.delete.delay.ms` nothing is given back before this.
            done = done.and(self.unlink_due(true).1);
        }
        done.map(|()| run)
    }

    /// Makes room, for somebody who waits for it; whether any was made.
    pub(super) fn relieve(&self) -> bool {
        let (now, quota) = (self.context.clock.monotonic(), &self.context.upkeep.quota);
        let is_recent = |at: Duration| now < at + RELIEF_PAUSE;
        if self.cleaner.state.lock().in_vain.is_some_and(is_recent)
            && self.context.upkeep.next_due().is_none()
        {
            return false;
        }
        let before = quota.used();
        let freed = self.clean_all(true).is_ok_and(|run| run.bytes > 0) || quota.used() < before;
        if quota.is_tight() {
            quota.note_held(self.space_held());
        }
        self.cleaner.state.lock().in_vain = (!freed).then_some(now);
        freed
    }

    /// All partitions there are, opened or not.
    fn partitions(&self) -> Vec<(Arc<TopicInner>, i32)> {
        let of = |topic: Arc<TopicInner>| {
            let partitions = 0..i32::try_from(topic.partitions()).unwrap_or(0);
            partitions.map(move |partition| (Arc::clone(&topic), partition))
        };
        self.topics.sorted().into_iter().flat_map(of).collect()
    }

    /// Removes files whose time has come, or all that wait; the bytes of records among them.
    fn unlink_due(&self, all: bool) -> (u64, Result<()>) {
        let due = self.context.upkeep.take_due(self.context.clock.monotonic(), all);
        let mut bytes = 0;
        let removed = each(due.into_iter().map(|doomed| match doomed.log.upgrade() {
            Some(log) => {
                bytes += doomed.bytes;
                log.remove_doomed(doomed)
            }
            None => Ok(()),
        }));
        (bytes, removed)
    }

    /// Retention in some partitions.
    fn retain(&self, partitions: &[(Arc<TopicInner>, i32)]) -> (RetentionRun, Result<()>) {
        let trusted = self.context.upkeep.now(self.context.clock.as_ref());
        let mut plans = Vec::new();
        let mut done = Ok(());
        for (topic, partition) in partitions {
            let config = topic.config();
            let worth = |dir: &Path| self.is_worth_opening(dir, &config, trusted.now_ms);
            let Some(log) = topic.log_to_clean(*partition, worth) else { continue };
            span!("retain", topic = %topic.name, partition);
            match log.plan_retention(trusted.now_ms, self.held(topic, *partition, &config)) {
                Ok(Some(plan)) => plans.push((log, plan)),
                Ok(None) => {}
                // Its users are told.
                Err(_) if log.failure().is_some() || log.is_closed() => {}
                Err(error) => done = done.and(Err(error)),
            }
        }
        let (mut run, carried) = self.carry_out(&plans, false);
        run.clock_ahead = Duration::from_millis(trusted.ahead_ms);
        (run, done.and(carried))
    }

    /// The group that holds most, where the topic waits for groups.
    pub(super) fn held(&self, topic: &TopicInner, partition: i32, config: &TopicConfig) -> Option<Held> {
        let positions = self.context.upkeep.positions.get();
        Held::by(&config.retention.hold, |group| {
            let mut found = Ok(None);
            if let Some(positions) = positions {
                // The user's: it must not wait for the store, nor end whoever cleans.
                callback::run(|| found = positions.position(group, topic.name.as_str(), partition));
            }
            found.unwrap_or_else(|error| {
                self.cleaner.note(&error);
                None
            })
        })
    }

    /// Whether a partition that nobody opened so far has something that may go, by its oldest segment: after a clean
    /// stop the last entry of its time index is its youngest record.
    fn is_worth_opening(&self, dir: &Path, config: &TopicConfig, now_ms: i64) -> bool {
        let limits = &config.retention;
        if !config.cleanup.delete || (limits.ms, limits.bytes) == (None, None) {
            return false;
        }
        let entries = self.context.storage.list(dir).unwrap_or_default();
        let logs = entries.iter().filter_map(|entry| match SegmentFile::parse(&entry.name) {
            Some(SegmentFile::Log(base)) if entry.kind == EntryKind::File && entry.len > 0 => {
                Some((base, entry))
            }
            _ => None,
        });
        let logs: Vec<_> = logs.collect();
        let total: u64 = logs.iter().map(|(_, entry)| entry.len).sum();
        let Some((base, oldest)) = logs.iter().min_by_key(|(base, _)| *base) else { return false };
        let over = |limit: u64| total.checked_sub(limit).is_some_and(|over| over >= oldest.len);
        if limits.bytes.is_some_and(over) {
            return true;
        }
        let Some(ms) = limits.ms else { return false };
        let youngest = self.last_time(dir, *base).unwrap_or(-1);
        let aged = stamp(youngest, || Ok(oldest.modified_ms), now_ms, now_ms);
        aged.is_ok_and(|aged| i128::from(now_ms) - i128::from(aged.ms) > i128::from(ms))
    }

    /// The last entry of a segment's time index; `None` where that can not be had.
    fn last_time(&self, dir: &Path, base: Offset) -> Option<i64> {
        let file = self.context.storage.open(&dir.join(name::time_index(base)), Open::Read).ok()?;
        let mut entry = [0; time_index::ENTRY_BYTES];
        let at = file.len().ok()?.checked_sub(entry.len() as u64)?;
        let read = file.read_at(&mut entry, at).ok()?;
        time_index::last(entry.get(..read)?, base).map(|last| last.timestamp)
    }

    /// Moves the starts of logs, durably, and removes what lies below. `wait`: for whoever exchanges or copies segments
    /// of one of them now; otherwise that one is left for the next time.
    fn carry_out(&self, plans: &[(Arc<Log>, Move)], wait: bool) -> (RetentionRun, Result<()>) {
        let mut done = Ok(());
        let mut run = RetentionRun::default();
        let mut locked: Vec<(&Arc<Log>, Move, MutexGuard<'_, ()>)> = Vec::new();
        for (log, plan) in plans {
            match log.lock_names(wait) {
                Ok(Some(names)) => locked.push((log, *plan, names)),
                Ok(None) => {}
                Err(error) => done = done.and(Err(error)),
            }
        }
        locked.retain(|(log, plan, _)| match roomy(|| log.begin_move(*plan), || log.drop_hints(*plan)) {
            Ok(()) => true,
            Err(error) => {
                done = std::mem::replace(&mut done, Ok(())).and(Err(error));
                false
            }
        });
        if locked.is_empty() {
            return (run, done);
        }
        let free = || locked.iter().for_each(|(log, plan, _)| log.drop_hints(*plan));
        if let Err(error) = roomy(|| self.move_log_starts(&locked), free) {
            return (run, done.and(Err(error)));
        }
        let mut told = Vec::new();
        for (log, plan, _names) in &locked {
            let (gone, removed) = log.remove_front(*plan);
            run.add(gone);
            told.push((Arc::clone(log), plan.to, gone));
            done = done.and(removed);
        }
        // A subscriber is the user's.
        drop(locked);
        told.iter().for_each(|(log, start, gone)| log.tell_of(*start, *gone));
        (run, done)
    }

    /// Tells where logs start in the store's file, durably, and then their readers.
    fn move_log_starts(&self, moves: &[(&Arc<Log>, Move, MutexGuard<'_, ()>)]) -> Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        let mut log_starts = checkpoints.files.log_starts.clone();
        for (log, plan, _) in moves {
            let start = log_starts.entry(log.key()).or_insert(0);
            *start = plan.to.max(*start);
        }
        if log_starts != checkpoints.files.log_starts {
            let path = self.context.root.join(LOG_STARTS);
            write_offsets(self.context.storage.as_ref(), &path, &log_starts)?;
            checkpoints.files.log_starts = log_starts;
        }
        // Before anybody else writes the file, from what logs say of themselves.
        for (log, plan, _) in moves {
            log.publish_start(plan.to);
        }
        Ok(())
    }

    /// The partitions that hold most, and why they do.
    fn space_held(&self) -> Vec<HeldSpace> {
        let now_ms = self.context.upkeep.now(self.context.clock.as_ref()).now_ms;
        let mut all: Vec<_> = (self.partitions().into_iter())
            .map(|(topic, partition)| {
                let log = topic.opened_log(partition);
                let bytes = match &log {
                    Some(log) => log.size_bytes(),
                    None => bytes_in(self, &self.context.root.join(format!("{}-{partition}", topic.name))),
                };
                (bytes, topic, partition, log)
            })
            .collect();
        all.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        all.truncate(NAMED_MAX);
        let named = all.into_iter().map(|(bytes, topic, partition, log)| {
            let held = self.held(&topic, partition, &topic.config());
            let judged = log.map(|log| log.judge(&log.look_for_retention(now_ms, held), false));
            let why = match judged {
                Some(Ok(judged)) => judged.last().map(|oldest| oldest.fate.to_string()),
                Some(Err(error)) => Some(error.to_string()),
                None => Some("not opened".to_owned()),
            };
            HeldSpace::new(topic.name.as_str(), partition, bytes, why.unwrap_or_default())
        });
        named.filter(|held| held.bytes > 0).collect()
    }

    /// Bytes of records in all partitions, those that are about to be unlinked among them.
    pub(super) fn measure(&self) -> u64 {
        let dirs = self.partitions().into_iter();
        dirs.map(|(topic, partition)| {
            bytes_in(self, &self.context.root.join(format!("{}-{partition}", topic.name)))
        })
        .sum()
    }
}

/// Bytes of records in a partition's directory.
fn bytes_in(shared: &Shared, dir: &Path) -> u64 {
    let entries = shared.context.storage.list(dir).unwrap_or_default();
    entries.iter().filter(|entry| holds_log(&entry.name)).map(|entry| entry.len).sum()
}

/// Does something that needs a little space; where there is none, once more after some was given back.
fn roomy(write: impl Fn() -> Result<()>, free: impl FnOnce()) -> Result<()> {
    match write() {
        Err(error) if matches!(error.kind(), ErrorKind::Full { .. }) => {
            free();
            write()
        }
        written => written,
    }
}
