//! The open batch of one partition, and its way into the log.
//!
//! Invariants:
//! - Batches of a lane are appended in the order in which they were opened, by one thread at a time (`draining`).
//! - A full batch is due at once. The thread that fills one appends what is queued when that is worth a write
//!   (`GATHER_BYTES`); until then a waiter, the timer, `maintain` or a sender in need of memory may.
//! - Batches are sealed (compressed, checksummed) and appended with the lane unlocked.
//! - Whoever drains never waits for a sync while `draining` is set: a leader may be waiting for the lane.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Shared;
use super::appended::Appended;
use super::delivery::{BatchCell, Delivery};
use super::numbering::{Numbering, number, renumber};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Completion, Log, PendingBatches};
use crate::record::{BatchBuilder, Header, Sealed};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};
use crate::topic::TopicInner;
use crate::topic::partitioner::Sticky;
use crate::types::{Acks, Durability, Offset};

/// One producer's way to one partition.
#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
    topic: Arc<TopicInner>,
    partition: i32,
    state: Mutex<State>,
    drained: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: Option<OpenBatch>,
    full: VecDeque<OpenBatch>,
    full_bytes: usize,
    draining: bool,
    /// Whoever drains takes the open batch too.
    open_wanted: bool,
    /// Listed among the lanes whose batches linger.
    listed: bool,
    appended: Appended,
    failure: Failure,
    numbering: Numbering,
    /// Why nothing more is stored, where what is stored must be the first part of what is sent.
    stopped: Option<Error>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct OpenBatch {
    builder: BatchBuilder,
    cell: Arc<BatchCell>,
    /// `batch.size`, but never more than the topic takes.
    batch_size: usize,
    reserved_bytes: usize,
    due: Duration,
}

impl OpenBatch {
    #[inline]
    fn fits(&self, record: Incoming<'_>) -> bool {
        self.builder.bytes() + record.bytes <= self.batch_size
    }
}

/// A record, taken apart, with what was computed of it on the way.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) timestamp: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [Header<'a>],
    pub(super) bytes: usize,
}

impl Lane {
    pub(super) fn new(shared: &Arc<Shared>, topic: &Arc<TopicInner>, partition: i32) -> Self {
        Lane {
            shared: Arc::clone(shared),
            topic: Arc::clone(topic),
            partition,
            state: Mutex::default(),
            drained: Condvar::new(),
        }
    }

    pub(super) fn partition(&self) -> i32 {
        self.partition
    }

    pub(super) fn acks(&self) -> Acks {
        self.shared.config.acks
    }

    pub(super) fn topic_name(&self) -> Arc<str> {
        self.topic.name.shared()
    }

    pub(super) fn delivery_timeout(&self) -> Duration {
        Duration::from_millis(self.shared.config.delivery_timeout_ms)
    }

    pub(super) fn log(&self) -> Result<Arc<Log>> {
        self.topic.log(self.partition)
    }

    /// Puts a record into the open batch; the thread that fills a batch appends it.
    ///
    /// `sticky` comes with a record that may go elsewhere: it leaves this lane with the batch that is full, and a
    /// record that does not fit is not taken (`None`).
    #[inline]
    pub(super) fn send(
        self: &Arc<Self>,
        record: Incoming<'_>,
        sticky: Option<&Sticky>,
    ) -> Result<Option<Delivery>> {
        let mut state = self.state.lock();
        if self.shared.is_closed() {
            return Err(self.shared.closed_error());
        }
        if !state.open.as_ref().is_some_and(|open| open.fits(record)) {
            if let (Some(sticky), true) = (sticky, state.open.is_some()) {
                sticky.leave(self.partition.unsigned_abs(), self.topic.partitions());
                self.close_batch(state);
                return Ok(None);
            }
            state = self.open_batch(state, record)?;
        }
        let open = state.open.as_mut().ok_or(ErrorKind::Closed)?;
        let index = open
            .builder
            .push(record.timestamp, record.key, record.value, record.headers)
            .map_err(Error::from)?;
        let delivery = open.cell.delivery(index, record.timestamp);
        if open.builder.bytes() >= open.batch_size {
            if let Some(sticky) = sticky {
                sticky.leave(self.partition.unsigned_abs(), self.topic.partitions());
            }
            self.close_batch(state);
        } else if state.is_worth_a_write(self.shared.gather_bytes) {
            self.drain_full(state);
        }
        Ok(Some(delivery))
    }

    /// Queues the open batch, and appends what is queued when that is worth a write, unless somebody is at it.
    #[cold]
    fn close_batch(&self, mut state: MutexGuard<'_, State>) {
        state.queue_open();
        if state.is_worth_a_write(self.shared.gather_bytes) {
            self.drain_full(state);
        }
    }

    #[cold]
    fn drain_full(&self, state: MutexGuard<'_, State>) {
        self.drain_locked(state);
        // The record was taken: a failed sync is told by its delivery, by `flush`, and by the next batch.
        let _ = self.log().and_then(|log| log.bound_unsynced());
    }

    /// Puts a full open batch in the queue and opens the next, with memory for it.
    #[cold]
    fn open_batch<'s>(
        self: &'s Arc<Self>,
        mut state: MutexGuard<'s, State>,
        record: Incoming<'_>,
    ) -> Result<MutexGuard<'s, State>> {
        let batch_size = self.topic.config().batch_size(self.shared.config.batch_size);
        let reserved_bytes = batch_size.max(record.bytes + crate::limits::BATCH_HEADER_BYTES);
        if let Some(stopped) = &state.stopped {
            return Err(stopped.clone());
        }
        state.queue_open();
        drop(state);
        // Before it is asked whether the producer is closed: then the hook is forgotten.
        let hook = self.shared.hook.get();
        // With the lane unlocked: the first use of a partition opens it, which may take a recovery.
        if let Some(failure) = self.log()?.failure() {
            return Err(failure.clone());
        }
        self.shared.context.upkeep.check_room()?;
        loop {
            let reserved = self.shared.reserve(reserved_bytes);
            state = self.state.lock();
            if self.shared.is_closed() {
                if reserved {
                    self.shared.release(reserved_bytes);
                }
                return Err(self.shared.closed_error());
            }
            // Another sender may have opened the batch meanwhile.
            if state.open.as_ref().is_some_and(|open| open.fits(record)) {
                if reserved {
                    self.shared.release(reserved_bytes);
                }
                return Ok(state);
            }
            state.queue_open();
            if reserved {
                break;
            }
            drop(state);
            self.shared.make_room(reserved_bytes)?;
        }
        let now = self.shared.clock.monotonic();
        let builder = self.shared.builder(batch_size);
        let cell = Arc::new(BatchCell::new(self, hook, record.timestamp));
        let due = now + Duration::from_millis(self.shared.config.linger_ms);
        state.open = Some(OpenBatch { builder, cell, batch_size, reserved_bytes, due });
        if !std::mem::replace(&mut state.listed, true) {
            self.shared.list(self, now, due);
        }
        self.shared.tell_who_looks();
        Ok(state)
    }

    /// Appends all that was sent before the call, or waits until whoever is at it has. `false`: the time was up.
    pub(super) fn drain_all(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.draining {
            state.open_wanted = true;
            match deadline {
                None => self.drained.wait(&mut state),
                Some(deadline) if self.drained.wait_until(&mut state, deadline).timed_out() => return false,
                Some(_) => {}
            }
        }
        state.open_wanted = true;
        self.drain_locked(state);
        true
    }

    /// As [`Lane::drain_all`], for who leads no sync: what became dirty is kept in bounds.
    pub(super) fn drain_in_bounds(&self, deadline: Option<Instant>) -> bool {
        let drained = self.drain_all(deadline);
        if drained {
            self.shared.context.bound_dirty();
        }
        drained
    }

    /// Appends all that was sent, for the last time. What failed before, and was told to nobody, is told to who closes
    /// the store.
    pub(super) fn drain_for_good(&self) {
        self.drain_all(None);
        if let Some(failure) = self.state.lock().failure.untold() {
            self.shared.context.note_unheard(failure);
        }
    }

    /// Lets go of the files of a topic that was just deleted. What was lost with them the next flush says.
    pub(super) fn leave_deleted(&self, topic: &TopicInner) {
        if std::ptr::eq(Arc::as_ptr(&self.topic), topic) {
            self.state.lock().leave_deleted();
        }
    }

    /// Appends what is due, unless somebody is at it.
    pub(super) fn drain_due(&self, now: Duration) {
        let mut state = self.state.lock();
        if !state.draining && state.due().is_some_and(|due| due <= now) {
            state.open_wanted |= state.open.as_ref().is_some_and(|open| open.due <= now);
            self.drain_locked(state);
            self.shared.context.bound_dirty();
        }
    }

    /// Takes batches out, oldest first, until none is left that is full or wanted.
    fn drain_locked<'s>(&'s self, mut state: MutexGuard<'s, State>) {
        state.draining = true;
        loop {
            if std::mem::take(&mut state.open_wanted) {
                state.queue_open();
            }
            state.full_bytes = 0;
            let mut batches = std::mem::take(&mut state.full);
            if batches.is_empty() {
                state.full = batches;
                break;
            }
            let mut tools = Tools {
                numbering: std::mem::take(&mut state.numbering),
                scratch: std::mem::take(&mut state.scratch),
                stopped: state.stopped.clone(),
                before: self.is_named().then(|| state.appended.clone()),
            };
            drop(state);
            let (end, failed) = self.append(&mut batches, &mut tools);
            state = self.state.lock();
            (state.numbering, state.scratch) = (tools.numbering, tools.scratch);
            if let (Some((error, _)), true) = (failed.first(), self.is_named()) {
                state.stopped.get_or_insert_with(|| error.clone());
            }
            if let Some((log, end)) = end {
                if let Err(lost) = state.appended.leave_all_but(&log) {
                    state.failure.note(lost, None);
                }
                state.appended.note(log, end);
                state.leave_deleted();
            }
            for (error, cell) in failed {
                state.failure.note(error, Some(cell));
            }
        }
        state.draining = false;
        drop(state);
        self.drained.notify_all();
    }

    /// Seals and appends batches in order, and tells their deliveries. Which log took them and where the last one ends,
    /// and the batches that failed.
    fn append(
        &self,
        batches: &mut VecDeque<OpenBatch>,
        tools: &mut Tools,
    ) -> (Option<(Arc<Log>, Offset)>, Vec<Failed>) {
        let freed_bytes: usize = batches.iter().map(|batch| batch.reserved_bytes).sum();
        let log = self.log_to_append_to(tools);
        let mut failed = Vec::new();
        let mut appended = None;
        let (mut sealed, cells) = self.seal(batches, tools, &mut failed);
        let mut done = 0;
        while let Some(rest) = sealed.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match log.as_ref().map_err(Error::clone).and_then(|log| log.append(rest, None)) {
                Ok(count) => {
                    for (cell, batch) in cells.iter().zip(&sealed).skip(done).take(count) {
                        let end = batch.header().next_offset();
                        tools.numbering.appended(batch.header());
                        if let Ok(log) = &log {
                            cell.appended(log, batch.header());
                            self.tell(log, cell, end);
                            appended = Some((Arc::clone(log), end));
                        }
                    }
                    done += count;
                }
                Err(error) => {
                    // A batch that is too large fails alone. A write that failed fails all that were to go with it:
                    // none of them may overtake those in front.
                    let alone = matches!(error.kind(), ErrorKind::RecordTooLarge { .. }) && !self.is_named();
                    let count = if alone { 1 } else { cells.len() - done };
                    failed.extend(cells.iter().skip(done).take(count).map(|cell| fail(cell, error.clone())));
                    done += count;
                    match sealed.get_mut(done..) {
                        // The next one takes its numbers.
                        Some(behind) if alone && self.shared.identity.is_some() => {
                            renumber(behind, tools.numbering.next());
                        }
                        _ => tools.numbering.ask_again(),
                    }
                }
            }
        }
        self.shared.release(freed_bytes);
        for batch in sealed {
            self.shared.recycle(batch.into_buffer());
        }
        (appended, failed)
    }

    /// The log, and what comes next in it.
    fn log_to_append_to(&self, tools: &mut Tools) -> Result<Arc<Log>> {
        if let Some(stopped) = &tools.stopped {
            return Err(stopped.clone());
        }
        let log = self.log()?;
        if let Some(before) = &mut tools.before {
            // What the log before this one lost would be missing in front.
            before.leave_all_but(&log)?;
        }
        if let Some(identity) = &self.shared.identity {
            tools.numbering.follow(&log, identity)?;
        }
        Ok(log)
    }

    /// Whether what is stored must be the first part of what is sent.
    fn is_named(&self) -> bool {
        self.shared.config.name.is_some()
    }

    /// Seals batches. Those that can not be sealed fail.
    fn seal(
        &self,
        batches: &mut VecDeque<OpenBatch>,
        tools: &mut Tools,
        failed: &mut Vec<Failed>,
    ) -> (Vec<Sealed>, Vec<Arc<BatchCell>>) {
        let config = &self.shared.config;
        let (codec, level) = self.topic.config().codec(config.compression, config.level(config.compression));
        let mut sealed: Vec<Sealed> = Vec::with_capacity(batches.len());
        let mut cells = Vec::with_capacity(batches.len());
        let mut next = tools.numbering.next();
        for mut batch in batches.drain(..) {
            if batch.builder.is_empty() {
                // Opened for a record that was refused.
                continue;
            }
            if let (Some((error, _)), true) = (failed.first(), self.is_named()) {
                let error = error.clone();
                failed.push(fail(&batch.cell, error));
                continue;
            }
            let behind = self.shared.identity.as_ref().map(|id| number(&mut batch.builder, id, next));
            match batch.builder.seal(codec, level, &mut tools.scratch) {
                Ok(bytes) => {
                    sealed.push(bytes);
                    cells.push(batch.cell);
                    next = behind.unwrap_or(next);
                }
                Err(invalid) => failed.push(fail(&batch.cell, invalid.into())),
            }
        }
        (sealed, cells)
    }

    /// Has the hook called when the batch is delivered, as `acks` defines it.
    fn tell(&self, log: &Arc<Log>, cell: &Arc<BatchCell>, end: Offset) {
        if !cell.hook.is_set() {
            return;
        }
        match self.acks() {
            Acks::All => log.when_committed(end, Arc::clone(cell) as Arc<dyn Completion>),
            Acks::None | Acks::Leader => cell.complete(Ok(Durability::PageCache)),
        }
    }

    /// One step towards a delivery that is not appended yet. `false`: the time was up.
    pub(super) fn drive(self: &Arc<Self>, deadline: Option<Instant>) -> Result<bool> {
        if self.acks() != Acks::All || self.topic.config().durability == Durability::PageCache {
            return Ok(self.drain_in_bounds(deadline));
        }
        let log = self.log()?;
        if let Some(lead) = log.try_lead() {
            if !self.drain_all(deadline) {
                return Ok(false);
            }
            // What the sync says, the delivery says too.
            let _ = lead.commit();
            return Ok(true);
        }
        // Left in the open batch, the record goes out with those of all who wait: the next leader takes them.
        log.enlist(Arc::clone(self) as Arc<dyn PendingBatches>);
        Ok(log.wait_for_leader(deadline))
    }

    /// Appends and commits all that was sent; the first error since the last call. `false`: the time was up.
    pub(super) fn flush(&self, deadline: Option<Instant>) -> Result<bool> {
        if !self.drain_in_bounds(deadline) {
            return Ok(false);
        }
        let (appended, failure) = {
            let mut state = self.state.lock();
            (state.appended.last(), state.failure.take())
        };
        let failed = failure.map_or(Ok(()), Err);
        let Some((log, end)) = appended else { return failed.map(|()| true) };
        // What was appended is committed all the same.
        let result = log.wait_committed(end, deadline);
        failed?;
        if let (Err(_), Ok(now)) = (&result, self.log()) {
            // What it could say was just said.
            let _ = self.state.lock().appended.leave_all_but(&now);
        }
        result
    }

    /// Whether a flush would find something to do.
    pub(super) fn needs_flush(&self) -> bool {
        let state = self.state.lock();
        let uncommitted = || state.appended.last().is_some_and(|(log, end)| log.high_watermark() < end);
        state.draining || state.due().is_some() || state.failure.0.is_some() || uncommitted()
    }

    /// When the oldest batch is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.state.lock().due()
    }

    /// When the oldest batch is due. Without one the lane leaves the list of those that linger; the error says whether
    /// this call did that, and must remove it there, once.
    pub(super) fn due_or_delist(&self) -> Result<Duration, bool> {
        let mut state = self.state.lock();
        state.due().ok_or_else(|| std::mem::take(&mut state.listed))
    }
}

/// What whoever drains has in hand.
struct Tools {
    numbering: Numbering,
    scratch: Vec<u8>,
    stopped: Option<Error>,
    /// What was appended before, of a producer with a name.
    before: Option<Appended>,
}

/// Why a batch was given up, and which.
type Failed = (Error, Arc<BatchCell>);

/// Gives a batch up, and tells who waits for it.
fn fail(cell: &Arc<BatchCell>, error: Error) -> Failed {
    cell.fail(&error);
    cell.hook.call(&Err(error.clone()));
    (error, Arc::clone(cell))
}

/// The first error since the last flush; one that no delivery told comes before one that was.
#[derive(Debug, Default)]
struct Failure(Option<(Error, Option<Arc<BatchCell>>)>);

impl Failure {
    fn note(&mut self, error: Error, cell: Option<Arc<BatchCell>>) {
        if self.0.as_ref().is_none_or(is_told) {
            self.0 = Some((error, cell));
        }
    }

    fn take(&mut self) -> Option<Error> {
        self.0.take().map(|(error, _)| error)
    }

    fn untold(&self) -> Option<Error> {
        self.0.as_ref().filter(|failure| !is_told(failure)).map(|(error, _)| error.clone())
    }
}

fn is_told((_, cell): &(Error, Option<Arc<BatchCell>>)) -> bool {
    cell.as_ref().is_some_and(|cell| cell.is_told())
}

impl State {
    /// Puts the open batch behind those that are full, where it is due at once.
    fn queue_open(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.due = Duration::ZERO;
            self.full_bytes += open.builder.bytes();
            self.full.push_back(open);
        }
    }

    fn leave_deleted(&mut self) {
        if let Err(lost) = self.appended.leave_deleted() {
            self.failure.note(lost, None);
        }
    }

    fn is_worth_a_write(&self, gather_bytes: usize) -> bool {
        !self.draining && !self.full.is_empty() && self.full_bytes >= gather_bytes
    }

    fn due(&self) -> Option<Duration> {
        self.full.front().or(self.open.as_ref()).map(|batch| batch.due)
    }
}

impl PendingBatches for Lane {
    fn drain(&self) {
        self.drain_all(None);
    }
}
