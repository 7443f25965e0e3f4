//! Group commit: one leader syncs for all who wait, holding no lock that an append needs.
//!
//! Leadership is asked for from above. The leader first lets those who wait append what they hold, then takes the
//! end of the log, syncs, moves the high watermark there, gives leadership back and wakes the others, one of whom
//! leads next with all that came in meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Log, callback, committed::Committed};
use crate::error::{ErrorKind, Result};
use crate::segment::Segment;
use crate::sync::{Arc, Condvar, Mutex, Ordering};
use crate::types::{Durability, Offset};

/// Batches that were accepted above and not appended yet.
pub(crate) trait Source: Send + Sync {
    /// Seals and appends them, unless somebody else is at it.
    fn drain(&self);
}

/// Something that is told when its records are committed, or never will be. Called with no lock held.
pub(crate) trait Completion: Send + Sync {
    fn complete(&self, outcome: Result<Durability>);
}

/// Who leads, and what waits for the leader.
#[derive(Default)]
pub(super) struct Flush {
    leading: Mutex<bool>,
    done: Condvar,
    /// Closed segments that are not known to be synced.
    sealed: Mutex<Vec<Arc<Segment>>>,
    /// Whose batches the next leader appends first.
    sources: Mutex<Vec<Arc<dyn Source>>>,
    /// Who is told when the high watermark reaches an offset.
    completions: Mutex<Completions>,
}

#[derive(Default)]
struct Completions {
    queue: VecDeque<(Offset, Arc<dyn Completion>)>,
    /// A thread is telling them.
    running: bool,
}

impl Completions {
    /// Takes out the first, if its fate is known.
    fn next(&mut self, log: &Log) -> Option<(Arc<dyn Completion>, Result<Durability>)> {
        let committed = log.high_watermark() >= self.queue.front()?.0;
        let outcome = match log.failure() {
            _ if committed => Ok(log.durability(self.queue.front()?.0)),
            Some(failure) => Err(failure.clone()),
            None => return None,
        };
        self.queue.pop_front().map(|(_, completion)| (completion, outcome))
    }
}

impl std::fmt::Debug for Flush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flush").field("leading", &self.leading).finish_non_exhaustive()
    }
}

impl Flush {
    pub(super) fn add_sealed(&self, segment: &Arc<Segment>) {
        self.sealed.lock().push(Arc::clone(segment));
    }

    pub(super) fn oldest_sealed_base(&self) -> Option<Offset> {
        self.sealed.lock().first().map(|segment| segment.base())
    }

    pub(super) fn sealed_len(&self) -> usize {
        self.sealed.lock().len()
    }

    /// They hold what holds the log.
    pub(super) fn forget_sources(&self) {
        self.sources.lock().clear();
    }

    pub(super) fn wake_all(&self) {
        // Under the lock, or a waiter between its check and its sleep would miss it.
        let _leading = self.leading.lock();
        self.done.notify_all();
    }
}

/// The right to sync a log; one at a time. Dropped without [`Lead::commit`] it passes on.
#[derive(Debug)]
pub(crate) struct Lead<'l> {
    log: &'l Arc<Log>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        *self.log.flush.leading.lock() = false;
        self.log.flush.done.notify_all();
        self.log.run_completions();
    }
}

impl Lead<'_> {
    /// Makes everything committed that was written, or handed in by a [`Source`], before the call.
    pub(crate) fn commit(self) -> Result<()> {
        let log = self.log;
        let sources = std::mem::take(&mut *log.flush.sources.lock());
        for source in sources {
            source.drain();
        }
        log.sync(log.config().durability == Durability::Disk).map(drop)
    }
}

impl Log {
    /// Leadership, if nobody has it.
    pub(crate) fn try_lead(self: &Arc<Self>) -> Option<Lead<'_>> {
        let mut leading = self.flush.leading.lock();
        if *leading {
            return None;
        }
        *leading = true;
        Some(Lead { log: self })
    }

    /// Tells `completion` when everything below `end` is committed, or the log failed; at once if that is so.
    pub(crate) fn when_committed(self: &Arc<Self>, end: Offset, completion: Arc<dyn Completion>) {
        self.flush.completions.lock().queue.push_back((end, completion));
        self.run_completions();
    }

    /// Tells those whose turn has come; not while this thread has a [`callback::Hold`].
    pub(crate) fn run_completions(self: &Arc<Self>) {
        callback::tell(callback::Told::Hooks(Arc::clone(self)));
    }

    /// In order: one thread at a time, which also tells what comes in meanwhile.
    pub(super) fn tell_completions(&self) {
        let mut completions = self.flush.completions.lock();
        if std::mem::replace(&mut completions.running, true) {
            return;
        }
        // Looked at with the queue locked: whoever moves the high watermark later comes here later.
        while let Some((completion, outcome)) = completions.next(self) {
            drop(completions);
            completion.complete(outcome);
            completions = self.flush.completions.lock();
        }
        completions.running = false;
    }

    /// Leadership, waited for until `deadline`.
    pub(super) fn lead_until(self: &Arc<Self>, deadline: Option<Instant>) -> Option<Lead<'_>> {
        let mut leading = self.flush.leading.lock();
        while *leading {
            if !self.wait(&mut leading, deadline) {
                return None;
            }
        }
        *leading = true;
        Some(Lead { log: self })
    }

    fn wait(&self, leading: &mut crate::sync::MutexGuard<'_, bool>, deadline: Option<Instant>) -> bool {
        match deadline {
            None => {
                self.flush.done.wait(leading);
                true
            }
            Some(deadline) => !self.flush.done.wait_until(leading, deadline).timed_out(),
        }
    }

    /// Asks the next leader to append what `source` holds.
    pub(crate) fn enlist(&self, source: Arc<dyn Source>) {
        let mut sources = self.flush.sources.lock();
        if !sources.iter().any(|listed| Arc::ptr_eq(listed, &source)) {
            sources.push(source);
        }
    }

    /// Sleeps until the present leader is done; returns at once when there is none. `false`: the time is up.
    pub(crate) fn wait_for_leader(&self, deadline: Option<Instant>) -> bool {
        let mut leading = self.flush.leading.lock();
        !*leading || self.wait(&mut leading, deadline)
    }

    /// Drives until everything below `end` is committed. `false`: the time was up first.
    pub(crate) fn wait_committed(self: &Arc<Self>, end: Offset, deadline: Option<Instant>) -> Result<bool> {
        while self.high_watermark() < end {
            if let Some(failure) = self.failure() {
                return Err(failure.clone());
            }
            callback::check_outside("a wait for a commit")?;
            match self.try_lead() {
                Some(lead) => lead.commit()?,
                None if self.wait_for_leader(deadline) => {}
                None => return Ok(self.high_watermark() >= end),
            }
        }
        Ok(true)
    }

    /// What `flush.ms`, and closed segments of a `PageCache` topic, ask for.
    pub(crate) fn sync_due(self: &Arc<Self>) -> Result<()> {
        match self.try_lead() {
            Some(lead) if self.config().durability == Durability::Disk => lead.commit(),
            Some(_lead) => self.sync(false).map(drop),
            None => Ok(()),
        }
    }

    /// When the next sync is due that nobody waits for, on the monotonic clock.
    pub(super) fn sync_due_at(&self) -> Option<Duration> {
        let since = self.dirty_since_ms.load(Ordering::SeqCst).checked_sub(1)?;
        if self.failure().is_some() {
            return None;
        }
        let config = self.config();
        Some(Duration::from_millis(match config.durability {
            Durability::Disk => since.saturating_add(config.flush_ms),
            Durability::PageCache => since,
        }))
    }

    /// Everything to the device, whatever the durability: for `close`. No other leader touches a file before the
    /// answer is dropped.
    pub(super) fn sync_everything(self: &Arc<Self>) -> Result<Lead<'_>> {
        let lead = self.lead_until(None).ok_or(ErrorKind::Closed)?;
        self.sync(true)?;
        Ok(lead)
    }

    /// Syncs closed segments, and the active one if `active_too`, then moves what depends on it. Leader only. Returns
    /// the end that was covered: the active segment then, a position in it, and the offset that comes next.
    pub(super) fn sync(&self, active_too: bool) -> Result<(Arc<Segment>, u64, Offset)> {
        if let Some(failure) = self.failure() {
            return Err(failure.clone());
        }
        // Before the end is taken: what is written later is dirty again.
        let since = self.dirty_since_ms.swap(0, Ordering::SeqCst);
        let unsynced = self.unsynced_bytes.swap(0, Ordering::Relaxed);
        let (active, position, end) = {
            let tail = self.tail.lock();
            (Arc::clone(&tail.active), tail.active.written(), tail.next_offset)
        };
        let sealed = std::mem::take(&mut *self.flush.sealed.lock());
        let also = (active_too && active.is_dirty()).then_some(&active);
        let work = also.is_some() || sealed.iter().any(|segment| segment.is_dirty());
        let began = work.then(Instant::now);
        if let Err(error) = sealed.iter().chain(also).try_for_each(|segment| segment.sync()) {
            if !matches!(error.kind(), ErrorKind::TooManyOpenFiles { .. }) {
                return Err(self.poison(&error));
            }
            // Nothing failed but to begin: all of it waits for the next sync.
            self.flush.sealed.lock().splice(0..0, sealed);
            self.unsynced_bytes.fetch_add(unsynced, Ordering::Relaxed);
            let _ = self.dirty_since_ms.compare_exchange(0, since, Ordering::SeqCst, Ordering::SeqCst);
            return Err(error);
        }
        if let Some(began) = began {
            self.syncs.add(began.elapsed());
        }
        // An index is rebuilt when it is missing: its loss is no reason to stop. That of the active segment is a hint.
        sealed.iter().for_each(|segment| segment.close_index());
        also.into_iter().for_each(|active| drop(active.flush_index(false)));
        let proven = if active_too { end } else { active.base() };
        if self.recovery_point.fetch_max(proven, Ordering::AcqRel) < proven {
            self.context.ask_for_checkpoints();
        }
        // A topic that became a `Disk` one meanwhile: only what was synced is committed.
        if active_too && self.config().durability == Durability::Disk {
            for segment in &sealed {
                segment.show(segment.written());
            }
            self.note_committed(&active, position, end);
            active.show(position);
            self.high_watermark.fetch_max(end, Ordering::SeqCst);
            self.bells.ring();
        }
        Ok((active, position, end))
    }

    /// Syncs, and leaves word of it: from now on readers in other processes wait for such words.
    pub(super) fn begin_to_tell(self: &Arc<Self>) {
        let Some(_lead) = self.lead_until(None) else { return };
        // If it fails the log is poisoned, and whoever appends is told.
        if let Ok((active, position, end)) = self.sync(true) {
            self.note_committed(&active, position, end);
        }
    }

    /// Takes the word back: readers in other processes look at what is written.
    pub(super) fn cease_to_tell(self: &Arc<Self>) {
        // A leader that began before may be about to leave one.
        let Some(_lead) = self.lead_until(None) else { return };
        if let Some(file) = self.committed_file.get() {
            // Without it they stay where they are until the next open.
            let _ = file.write_hint(&[0; Committed::BYTES], 0);
        }
    }

    /// Leaves word of the committed end beside the segments.
    pub(super) fn note_committed(&self, active: &Segment, position: u64, end_offset: Offset) {
        let Some(file) = self.committed_file.get() else { return };
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        let slot = Committed { segment_base: active.base(), position, end_offset };
        // Opportunistic: without it recovery looks at more, and loses nothing.
        let _ = file.write_hint(&slot.encode(), 0);
    }
}
