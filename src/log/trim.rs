//! The front of a log, which moves forward: what retention and delete-records take away.
//!
//! Invariants:
//! - A start is durable, in both files that tell it, before readers see it, and they see it before anything is
//!   unlinked.
//! - What is known of producers that somebody would miss is durable, as of the first segment that stays, before.
//! - Only closed, synced segments go, that are committed. What takes their place as the active one has a durable name.
//! - Who reads in a segment that goes reads on: its file is held open, and its space given back when the last one lets
//!   go.
//! - Segments go oldest first. A crash leaves some files of what lies below the start: the next open removes them.
//! - Decisions, rolls and syncs, which tell users of what they complete, come before `names` is taken.

use std::time::Duration;

use super::checkpoint::{LEADER_EPOCHS, epochs_text, read_epochs};
use super::retention::{self, Held, Judged, Rules, Stamp, View, stamp};
use super::start::{below, epochs_from};
use super::upkeep::Doomed;
use super::{Log, callback};
use crate::error::{Error, ErrorKind, Result, each};
use crate::metrics::event;
use crate::record::Sealed;
use crate::segment::name::{self, DELETED_SUFFIX};
use crate::segment::{Fault, Segment};
use crate::storage::replace;
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::types::{Durability, Offset};

/// How long a file that could not be removed is left alone.
const RETRY: Duration = Duration::from_secs(30);

/// Where a log's start is to move. Segments wholly below it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) to: Offset,
    /// Segments that begin below this are closed and synced, and in nobody's hands.
    settled: Offset,
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
}

/// A log, as it is judged at one moment.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) rules: Rules,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) views: Vec<View>,
}

impl Log {
    /// What retention sees of the log now.
    pub(crate) fn look_for_retention(&self, now_ms: i64, held: Option<Held>) -> Looked {
        // In this order: what is committed lies below the end that is taken after it.
        let committed = (self.log_start(), self.high_watermark());
        let segments = self.segments.read().clone();
        let ends = segments.iter().skip(1).map(|next| next.base()).chain([self.log_end()]);
        let view = |(segment, end): (&Arc<Segment>, Offset)| View {
            base: segment.base(),
            end,
            bytes: segment.written(),
        };
        let views = segments.iter().zip(ends).map(view).collect();
        Looked { views, segments, rules: Rules::new(&self.config(), committed, now_ms, held) }
    }

    /// Judges what was looked at; up to the first segment that stays, or `all`.
    pub(crate) fn judge(&self, looked: &Looked, all: bool) -> Result<Vec<Judged>> {
        retention::judge(&looked.rules, &looked.views, all, |i| match looked.segments.get(i) {
            Some(segment) => self.stamp(segment, looked.rules.now_ms),
            None => Err(ErrorKind::Closed.into()),
        })
    }

    fn stamp(&self, segment: &Segment, now_ms: i64) -> Result<Stamp> {
        let youngest = match segment.youngest() {
            Ok(youngest) => youngest,
            // What can not be read tells no time.
            Err(Fault::Bytes { .. }) => i64::MAX,
            Err(Fault::Disk(error)) => return Err(error),
        };
        stamp(youngest, || segment.modified_ms(), self.context.upkeep.opened_ms(), now_ms)
    }

    /// What retention takes now; `None`: nothing.
    pub(crate) fn plan_retention(self: &Arc<Self>, now_ms: i64, held: Option<Held>) -> Result<Option<Move>> {
        self.check_writable()?;
        let looked = self.look_for_retention(now_ms, held);
        let going = self.judge(&looked, false)?.iter().take_while(|judged| judged.fate.goes()).count();
        let to = match (looked.views.get(going), looked.views.last()) {
            _ if going == 0 => return Ok(None),
            (Some(stays), _) => stays.base,
            (None, Some(active)) => {
                // The active one too: it is closed first, if nobody appended since.
                let is_all = |end: Offset| end == active.end && self.high_watermark() >= end;
                if self.roll_active_if(is_all)? { active.end } else { active.base }
            }
            (None, None) => return Ok(None),
        };
        let plan = self.plan_to(to)?;
        Ok((to > self.log_start() || !self.going(plan).is_empty()).then_some(plan))
    }

    /// What a start at `to` takes.
    pub(crate) fn plan_to(self: &Arc<Self>, to: Offset) -> Result<Move> {
        self.check_writable()?;
        // Those that go say who they are.
        self.ready_producers()?;
        if to > self.recovery_point() {
            // What is left behind the start must not end in front of it after a power cut.
            self.sync_all()?;
        }
        Ok(Move { to, settled: self.settle()? })
    }

    /// Checks what delete-records may be asked; the start as it will be, `None` where it is there already.
    pub(crate) fn check_before(&self, before: Offset) -> Result<Option<Offset>> {
        callback::check_outside("Store::delete_records")?;
        let config = self.config();
        if !config.cleanup.delete {
            let (topic, policy) = (self.topic.to_string(), config.cleanup.to_string());
            return Err(ErrorKind::NotDeletable { topic, policy }.into());
        }
        let (start, end) = (self.log_start(), self.high_watermark());
        match before {
            // As Kafka has it.
            -1 => Ok(Some(end).filter(|end| *end > start)),
            before if (0..=end).contains(&before) => Ok(Some(before).filter(|before| *before > start)),
            before => Err(self.out_of_range(before, start..end)),
        }
    }

    /// Syncs what is closed, and the name of the active segment. Where that begins: nobody has one in front of it in
    /// hand any more.
    fn settle(self: &Arc<Self>) -> Result<Offset> {
        let lead = self.lead_until(None).ok_or(ErrorKind::Closed)?;
        // As every commit: what is written is covered, or goes on waiting for its own.
        let (active, ..) = self.sync(self.config().durability == Durability::Disk)?;
        drop(lead);
        match active.sync_name() {
            Ok(()) => Ok(active.base()),
            Err(error) if matches!(error.kind(), ErrorKind::TooManyOpenFiles { .. }) => Err(error),
            Err(error) => Err(self.poison(&error)),
        }
    }

    /// The right to take names away, with the log in use; `None`: somebody else has it, and is not waited for.
    pub(crate) fn lock_names(&self, wait: bool) -> Result<Option<MutexGuard<'_, ()>>> {
        let names = if wait { Some(self.names.lock()) } else { self.names.try_lock() };
        // Looked at under it: whoever gives the files up takes it once.
        names.map(|names| self.check_writable().map(|()| names)).transpose()
    }

    /// Topic and partition, as the checkpoints of the store name them.
    pub(crate) fn key(&self) -> (String, i32) {
        (self.topic.to_string(), self.partition)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Tells a subscriber what went.
    pub(crate) fn tell_of(&self, start: Offset, gone: Gone) {
        #[cfg(not(feature = "tracing"))]
        let _ = (start, gone);
        event!(
            topic = %self.topic,
            partition = self.partition,
            start,
            segments = gone.segments,
            bytes = gone.bytes,
            "deleted"
        );
    }

    /// The segments that go with a move.
    fn going(&self, plan: Move) -> Vec<Arc<Segment>> {
        let segments = self.segments.read();
        let count = below(plan.to, segments.iter().map(|segment| segment.base()));
        segments.iter().take(count).filter(|segment| segment.base() < plan.settled).map(Arc::clone).collect()
    }

    /// Makes durable what must be so before a start is told by the store's file: what only the segments that go say of
    /// producers, and the checkpoint of leader epochs. With `names` held by the caller.
    pub(crate) fn begin_move(&self, plan: Move) -> Result<()> {
        let going = self.going(plan).len();
        let first = self.segments.read().get(going).map(|first| first.base());
        if let Some(first) = first.filter(|_| going > 0) {
            self.keep_producers(first)?;
        }
        self.move_epochs(plan.to)
    }

    /// Moves the checkpoint of leader epochs, durably: the first of the two files that tell a start.
    fn move_epochs(&self, to: Offset) -> Result<()> {
        let path = self.dir.join(LEADER_EPOCHS);
        let epochs = match read_epochs(self.context.storage.as_ref(), &path) {
            Err(error) if error.is_corrupt() => None,
            other => Some(other?).filter(|epochs| !epochs.is_empty()),
        };
        let moved = match &epochs {
            Some(epochs) => epochs_from(epochs, to),
            None if self.contiguous => vec![(self.leader_epoch, to)],
            // A broker finds out itself.
            None => return Ok(()),
        };
        if epochs.as_ref() == Some(&moved) {
            return Ok(());
        }
        replace(self.context.storage.as_ref(), &path, epochs_text(&moved).as_bytes())
    }

    /// Gives space back that nothing depends on: the indexes of segments that go. For a disk that is too full for the
    /// files that must come first.
    pub(crate) fn drop_hints(&self, plan: Move) {
        for segment in self.going(plan) {
            for name in [name::offset_index(segment.base()), name::time_index(segment.base())] {
                // What is not given back is no loss.
                let _ = self.context.storage.remove_file(&self.dir.join(name));
            }
        }
    }

    /// Lets readers see the start, which is durable.
    pub(crate) fn publish_start(&self, to: Offset) {
        let before = self.log_start.fetch_max(to, Ordering::AcqRel);
        self.deleted.add(u64::try_from(to - before).unwrap_or(0), 0);
        // Below it there is nothing to recover.
        if self.recovery_point.fetch_max(to, Ordering::AcqRel) < to {
            self.context.ask_for_checkpoints();
        }
    }

    /// Takes the segments of a published move out of the log, and their files off the disk, with `names` held by the
    /// caller. What can not be removed now is tried again later.
    pub(crate) fn remove_front(self: &Arc<Self>, plan: Move) -> (Gone, Result<()>) {
        let going = self.going(plan);
        if going.is_empty() {
            return (Gone::default(), Ok(()));
        }
        self.segments.write().retain(|segment| !going.iter().any(|gone| Arc::ptr_eq(gone, segment)));
        // Also for a name that is gone quickly: a large file's space is given back when its last descriptor is closed,
        // and that holds no lock of the disk. Without a descriptor who reads there is told that the log begins later.
        going.iter().for_each(|segment| drop(segment.hold_files()));
        let delay = Duration::from_millis(self.config().retention.file_delete_delay_ms);
        let removed = each(going.iter().map(|gone| self.remove_segment(gone.base(), gone.written(), delay)));
        let synced = self.context.storage.sync_dir(&self.dir);
        let gone =
            Gone { segments: going.len() as u64, bytes: going.iter().map(|segment| segment.written()).sum() };
        self.deleted.add(0, gone.bytes);
        (gone, removed.and(synced))
    }

    /// Takes the names of a segment's files away: at once, or by another name first. Their directory is not synced.
    fn remove_segment(self: &Arc<Self>, base: Offset, bytes: u64, delay: Duration) -> Result<()> {
        let names = name::files_of(base).to_vec();
        self.forget_snapshot(base);
        let (left, result) = if delay.is_zero() { self.unlink(names) } else { self.put_aside(names) };
        let pause = if delay.is_zero() { RETRY } else { delay };
        self.doom(left, bytes, pause);
        result
    }

    /// Has files removed later; those of records count as used until then.
    fn doom(self: &Arc<Self>, names: Vec<String>, bytes: u64, pause: Duration) {
        let has_records = names.iter().any(|name| name.contains(name::LOG_SUFFIX));
        if !has_records {
            self.context.upkeep.quota.gave_back(bytes);
        }
        if !names.is_empty() {
            let (log, bytes) = (Arc::downgrade(self), if has_records { bytes } else { 0 });
            let due = self.context.clock.monotonic() + pause;
            self.context.upkeep.doomed.lock().push(Doomed { due, log, names, bytes });
            self.context.upkeep.wake.wake();
        }
    }

    /// Removes files; those that are left, and why.
    fn unlink(&self, names: Vec<String>) -> (Vec<String>, Result<()>) {
        let mut result = Ok(());
        let mut left = Vec::new();
        for name in names {
            match self.context.storage.remove_file(&self.dir.join(&name)) {
                Err(error) if !error.is_not_found() => {
                    result = result.and(Err(error));
                    left.push(name);
                }
                _ => {}
            }
        }
        (left, result)
    }

    /// Gives files the names that say that they go; all that are to be removed later.
    fn put_aside(&self, names: Vec<String>) -> (Vec<String>, Result<()>) {
        let mut result = Ok(());
        let mut aside = Vec::new();
        for name in names {
            let away = format!("{name}{DELETED_SUFFIX}");
            match self.context.storage.rename(&self.dir.join(&name), &self.dir.join(&away)) {
                Ok(()) => aside.push(away),
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    result = result.and(Err(error));
                    aside.push(name);
                }
            }
        }
        (aside, result)
    }

    /// Removes files whose time has come; those that can not be removed come back later.
    pub(crate) fn remove_doomed(self: &Arc<Self>, doomed: Doomed) -> Result<()> {
        let _names = self.names.lock();
        // The directory may be somebody else's by now; whoever opens it removes what is left.
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let (left, result) = self.unlink(doomed.names);
        self.doom(left, doomed.bytes, RETRY);
        result.and(self.context.storage.sync_dir(&self.dir))
    }

    /// As [`Log::append`], for callers that may wait: a full disk, or store, gets room made first, if there is any to
    /// be made.
    pub(crate) fn append_making_room(
        self: &Arc<Self>,
        batches: &mut [Sealed],
        expected_end: Option<Offset>,
    ) -> Result<usize> {
        match self.append(batches, expected_end) {
            Err(error) if is_full(&error) => {
                let made = self.context.upkeep.relieve();
                // Who holds the space of a full store is known only now.
                let again = made || matches!(error.kind(), ErrorKind::StoreFull { .. });
                if again { self.append(batches, expected_end) } else { Err(error) }
            }
            other => other,
        }
    }
}

/// Whether space would help.
pub(super) fn is_full(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Full { .. } | ErrorKind::StoreFull { .. })
}
