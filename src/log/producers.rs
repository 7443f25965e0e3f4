//! The producers of a log: read when they are first asked for, kept by who appends, written beside the segments.
//!
//! They are the newest good snapshot and what the batches behind it say. The same walk finds the transactions that were
//! aborted, of segments whose index may have been lost.
//!
//! Invariants:
//! - Nothing is appended before they are read, and a batch is taken in before it is published: who sees it sees what it
//!   belongs to.
//! - A snapshot is a hint: one that is missing, cut or wrong is made up for by the log. Where the front of the log
//!   goes, the one at its new front is durable before. What lies above the end of a log that is opened is gone,
//!   durably, before anything is appended.
//! - `producers` is locked behind `tail` and before the segment list.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::producer_state::{Checked, LastOfProducer, ProducerEntry, ProducerState, Refused};
use super::{Log, snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{EndMarker, Sealed};
use crate::segment::{AbortedTxn, Fault, Segment, Step, name};
use crate::storage::{Open, read_small};
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

/// What is known of them.
#[derive(Debug)]
pub(super) struct Producers {
    /// As of the end of the log; `None`: not read yet.
    state: Option<ProducerState>,
    /// The snapshots in the directory.
    snapshots: BTreeSet<Offset>,
    /// From here on the log is looked at when they are read: what its indexes say of transactions may be lost.
    unproven: Offset,
    /// The log was closed in order.
    clean: bool,
}

impl Producers {
    /// Those of a log that was just opened.
    pub(super) fn new(snapshots: BTreeSet<Offset>, unproven: Offset, clean: bool) -> Self {
        Producers { state: None, snapshots, unproven, clean }
    }
}

/// What is to be done with the first of several batches.
pub(super) enum First {
    Append,
    /// It stands in the log, from this offset on.
    Duplicate {
        base_offset: Offset,
        timestamp: i64,
    },
}

impl Log {
    /// Reads them, if nobody has. To be called before the tail is locked.
    pub(super) fn ready_producers(&self) -> Result<()> {
        if self.producers_ready.load(Ordering::Acquire) { Ok(()) } else { self.with_producers(|_| ()) }
    }

    fn with_producers<T>(&self, ask: impl FnOnce(&mut ProducerState) -> T) -> Result<T> {
        let mut producers = self.producers.lock();
        Ok(ask(self.up_to_date(&mut producers)?))
    }

    fn up_to_date<'p>(&self, producers: &'p mut Producers) -> Result<&'p mut ProducerState> {
        // Beside a writer they are brought up when they are asked for; one that cut its log takes back what was seen.
        let end = match self.follow {
            Some(_) => self.high_watermark(),
            None => producers.state.as_ref().map_or_else(|| self.log_end(), ProducerState::end),
        };
        match &mut producers.state {
            Some(state) if state.end() == end => {}
            Some(state) if state.end() < end => {
                let replayed = self.replay(state, end);
                if replayed.is_err() {
                    // What it took in is not told to the segments.
                    producers.state = None;
                }
                replayed?;
            }
            _ => {
                let state = self.read_producers(producers, end)?;
                if self.follow.is_none() {
                    // Whoever appends adds to them.
                    self.tail_segment().map_or(Ok(()), |active| active.load_aborted())?;
                }
                producers.state = Some(state);
                self.producers_ready.store(self.follow.is_none(), Ordering::Release);
            }
        }
        Ok(producers.state.get_or_insert_default())
    }

    fn tail_segment(&self) -> Option<Arc<Segment>> {
        self.segments.read().last().map(Arc::clone)
    }

    fn read_producers(&self, producers: &mut Producers, end: Offset) -> Result<ProducerState> {
        let from = end.min(producers.unproven);
        let candidates = producers.snapshots.range(..=from).rev().copied().collect();
        let (known, bad) = self.newest_snapshot(candidates)?;
        producers.snapshots.retain(|at| !bad.contains(at));
        let first = self.segments.read().first().map_or(0, |first| first.base());
        if known.is_none() && producers.clean && self.contiguous && !self.last_has_producers()? {
            // Of a store that is older than producers with ids: nor has it transactions.
            return Ok(ProducerState::new(end, []));
        }
        let mut state = known.unwrap_or_else(|| ProducerState::new(first, []));
        self.replay(&mut state, end)?;
        // Behind the replay: a transaction that is open in the snapshot keeps its producer, and may have ended since.
        self.expire_in(&mut state);
        Ok(state)
    }

    /// What the first of these snapshots says that is good, and those before it. Their files are removed; they are to
    /// be taken off the list then, which keeps others from being written in their place.
    fn newest_snapshot(&self, candidates: Vec<Offset>) -> Result<(Option<ProducerState>, Vec<Offset>)> {
        let mut bad = Vec::new();
        for at in candidates {
            let path = self.dir.join(name::snapshot(at));
            let bytes = match read_small(self.context.storage.as_ref(), &path) {
                Err(error) if error.is_corrupt() => None,
                bytes => bytes?,
            };
            if let Some(Ok(state)) = bytes.map(|bytes| snapshot::decode(&bytes, at)) {
                return Ok((Some(state), bad));
            }
            bad.push(at);
            if !self.context.read_only {
                // If it stays, it is read in vain once more.
                let _ = self.context.storage.remove_file(&path);
            }
        }
        Ok((None, bad))
    }

    fn last_has_producers(&self) -> Result<bool> {
        let segments = self.segments.read().clone();
        let Some(last) = segments.iter().rev().find(|segment| segment.written() > 0) else {
            return Ok(false);
        };
        let mut found = ProducerState::new(last.base(), []);
        self.walk_batches(last, &mut found, Offset::MAX)?;
        Ok(found.entries().len() > 0)
    }

    /// Takes in the batches up to `end`, and tells the segments which transactions were aborted in them.
    fn replay(&self, state: &mut ProducerState, end: Offset) -> Result<()> {
        let segments = self.segments.read().clone();
        let first = segments.partition_point(|segment| segment.base() <= state.end()).saturating_sub(1);
        for segment in segments.iter().skip(first).take_while(|segment| segment.base() < end) {
            self.replay_segment(segment, state, end)?;
        }
        state.set_end(end);
        Ok(())
    }

    fn replay_segment(&self, segment: &Segment, state: &mut ProducerState, end: Offset) -> Result<()> {
        let from = state.end();
        let found = self.walk_batches(segment, state, end)?;
        if from > segment.base() && found.is_empty() {
            return Ok(());
        }
        let mut aborted = if from > segment.base() { segment.aborted()? } else { Vec::new() };
        aborted.retain(|txn| txn.last_offset < from);
        aborted.extend(found);
        segment.set_aborted(&aborted)?;
        if !self.context.read_only && segment.is_sealed() {
            // Nobody syncs a closed segment again. Memory has it all the same.
            let _ = segment.flush_aborted(true);
        }
        Ok(())
    }

    /// Takes in the batches of a segment from where the state ends up to `end`. The transactions aborted in it.
    fn walk_batches(
        &self,
        segment: &Segment,
        state: &mut ProducerState,
        end: Offset,
    ) -> Result<Vec<AbortedTxn>> {
        let from = state.end();
        let position = match from > segment.base() {
            false => 0,
            true => match segment.find(from) {
                Ok(Some(landing)) => landing.position,
                Ok(None) => return Ok(Vec::new()),
                Err(Fault::Bytes { .. }) => 0,
                Err(Fault::Disk(error)) => return Err(error),
            },
        };
        let file = match segment.file(Open::Read) {
            // No file yet: nothing was ever written.
            Err(error) if error.is_not_found() && segment.written() == 0 => return Ok(Vec::new()),
            file => file?,
        };
        let mut aborted = Vec::new();
        let mut scan = segment.scan(file.as_ref(), position, segment.written());
        loop {
            match scan.next(false)? {
                Step::Batch { header, .. } if header.base_offset >= end => return Ok(aborted),
                Step::Batch { header, .. } if header.base_offset < from => {}
                Step::Batch { position, header } => {
                    let marker = match header.is_control() && !header.is_legacy() {
                        true => EndMarker::of(&header, scan.batch(position, &header)?),
                        false => None,
                    };
                    aborted.extend(state.apply(&header, marker.as_ref(), Offset::MAX));
                }
                Step::End => return Ok(aborted),
                // Reads report the damage; a marker in it leaves its transaction open.
                Step::Bad { .. } if scan.resync()?.is_none() => return Ok(aborted),
                Step::Bad { .. } => {}
            }
        }
    }

    /// The state as of an earlier end, by the files alone.
    fn state_at(&self, end: Offset) -> Result<ProducerState> {
        // Read without the lock, for which appends would wait.
        let candidates = self.producers.lock().snapshots.range(..=end).rev().copied().collect();
        let (known, bad) = self.newest_snapshot(candidates)?;
        if !bad.is_empty() {
            self.producers.lock().snapshots.retain(|at| !bad.contains(at));
        }
        let segments = self.segments.read().clone();
        let start = segments.first().map_or(0, |first| first.base());
        let mut state = known.unwrap_or_else(|| ProducerState::new(start, []));
        let first = segments.partition_point(|segment| segment.base() <= state.end()).saturating_sub(1);
        for segment in segments.iter().skip(first).take_while(|segment| segment.base() < end) {
            self.walk_batches(segment, &mut state, end)?;
        }
        state.set_end(end);
        Ok(state)
    }

    /// Makes the index of aborted transactions anew, of a segment whose file says what can not be.
    fn find_aborted(&self, segment: &Segment) -> Result<()> {
        let mut state = self.state_at(segment.base())?;
        self.replay_segment(segment, &mut state, Offset::MAX)
    }

    // ───────── who appends

    /// What is to be done with a batch that is to be appended next. Asked with the tail locked.
    pub(super) fn check_first(&self, batch: &Sealed) -> Result<First> {
        let header = batch.header();
        if header.producer_id < 0 {
            return Ok(First::Append);
        }
        let marker = header.is_control().then(|| EndMarker::of(header, batch.bytes())).flatten();
        let producers = self.producers.lock();
        let Some(state) = &producers.state else { return Ok(First::Append) };
        match state.check(header, marker.as_ref()) {
            Ok(Checked::Append) => Ok(First::Append),
            Ok(Checked::Duplicate(original)) => {
                Ok(First::Duplicate { base_offset: original.first_offset(), timestamp: original.timestamp })
            }
            Err(refused) => Err(self.refusal(refused)),
        }
    }

    /// Takes in what was written to a segment and is not published yet. With the tail locked.
    pub(super) fn take_in(&self, active: &Segment, batches: &[Sealed]) {
        let high_watermark = self.high_watermark();
        let mut producers = self.producers.lock();
        let Some(state) = &mut producers.state else { return };
        for batch in batches {
            let header = batch.header();
            let marker = header.is_control().then(|| EndMarker::of(header, batch.bytes())).flatten();
            if let Some(aborted) = state.apply(header, marker.as_ref(), high_watermark) {
                active.note_aborted(&aborted);
            }
        }
    }

    #[cold]
    fn refusal(&self, refused: Refused) -> Error {
        let (topic, partition) = (self.topic.to_string(), self.partition);
        match refused {
            Refused::OutOfOrder { producer_id, expected, actual } => {
                ErrorKind::OutOfOrderSequence { topic, partition, producer_id, expected, actual }
            }
            Refused::Fenced { producer_id, epoch, current } => {
                let (epoch, current) = (i32::from(epoch), i32::from(current));
                ErrorKind::InvalidProducerEpoch { topic, partition, producer_id, epoch, current }
            }
            Refused::CoordinatorFenced { producer_id, epoch, current } => {
                ErrorKind::InvalidProducerEpoch { topic, partition, producer_id, epoch, current }
            }
            Refused::PlainInTransaction { producer_id } => {
                ErrorKind::InvalidTxnState { topic, partition, producer_id }
            }
        }
        .into()
    }

    /// The number that a producer's next record has, by what the log holds.
    pub(crate) fn next_sequence(&self, producer_id: i64, epoch: i16) -> Result<i32> {
        self.with_producers(|state| state.next_sequence(producer_id, epoch))
    }

    // ───────── who asks

    /// The first offset of a transaction that is not decided, or whose marker is not committed.
    pub(crate) fn first_unstable(&self) -> Result<Option<Offset>> {
        // Before the state is looked at, which is ahead of it.
        let high_watermark = self.high_watermark();
        let first = self.with_producers(|state| state.first_unstable(high_watermark))?;
        Ok(first.map(|first| first.max(self.log_start())))
    }

    /// The aborted transactions that overlap these offsets, by their first offsets.
    pub(crate) fn aborted_in(&self, offsets: Range<Offset>) -> Result<Vec<AbortedTxn>> {
        self.ready_producers()?;
        let segments: Vec<Arc<Segment>> = {
            let all = self.segments.read();
            let first = all.partition_point(|segment| segment.base() <= offsets.start).saturating_sub(1);
            all.iter().skip(first).filter(|segment| segment.may_have_aborted()).map(Arc::clone).collect()
        };
        let mut found = Vec::new();
        for segment in segments {
            let mut answer = segment.collect_aborted(offsets.start, offsets.end, &mut found)?;
            if answer.is_none() {
                self.find_aborted(&segment)?;
                answer = segment.collect_aborted(offsets.start, offsets.end, &mut found)?;
            }
            if answer == Some(true) {
                break;
            }
        }
        found.sort_unstable_by_key(|txn| txn.first_offset);
        Ok(found)
    }

    /// What compaction must leave of each producer.
    pub(crate) fn last_of_producers(&self) -> Result<HashMap<i64, LastOfProducer>> {
        self.with_producers(|state| state.last_of_producers())
    }

    /// All producers, by their ids.
    pub(crate) fn describe_producers(&self) -> Result<Vec<(i64, ProducerEntry)>> {
        let mut all = self.with_producers(|state| {
            state.entries().map(|(id, entry)| (id, entry.clone())).collect::<Vec<_>>()
        })?;
        all.sort_unstable_by_key(|(id, _)| *id);
        Ok(all)
    }

    /// The last offset that one of these producers wrote, of the first of them that is known.
    pub(crate) fn last_offset_of(&self, producer_ids: &[i64]) -> Result<Option<Offset>> {
        self.with_producers(|state| {
            let known = |id: &i64| state.get(*id)?.last().map(|last| last.last_offset);
            producer_ids.iter().find_map(known)
        })
    }

    /// Drops those that wrote nothing for long.
    pub(crate) fn expire_producers(&self) {
        if let Some(state) = &mut self.producers.lock().state {
            self.expire_in(state);
        }
    }

    fn expire_in(&self, state: &mut ProducerState) {
        let (now_ms, names) = (self.context.clock.now_ms(), &self.context.names);
        state.expire(now_ms, self.context.producer_id_expiration_ms, |id| names.is_named(id));
    }

    // ───────── snapshots

    /// Writes the state as of the end of the log, which must not grow meanwhile; a second time it does nothing (H17).
    pub(super) fn take_snapshot(&self, sync: bool) -> Result<()> {
        let (at, bytes) = {
            let producers = self.producers.lock();
            let Some(state) = &producers.state else { return Ok(()) };
            let newest = producers.snapshots.last().copied().unwrap_or(0).max(self.log_start());
            if state.end() <= newest {
                return Ok(());
            }
            (state.end(), snapshot::encode(state))
        };
        self.write_snapshot(at, &bytes, sync)
    }

    fn write_snapshot(&self, at: Offset, bytes: &[u8], sync: bool) -> Result<()> {
        let (storage, path) = (&self.context.storage, self.dir.join(name::snapshot(at)));
        let written = storage.open(&path, Open::Truncate).and_then(|file| match sync {
            true => {
                file.write_at(bytes, 0)?;
                file.sync_data()?;
                storage.sync_dir(&self.dir)
            }
            // A crash may take it: then the one before it is read, and more of the log.
            false => file.write_hint(bytes, 0),
        });
        if written.is_err() {
            let _ = storage.remove_file(&path);
        }
        let mut producers = self.producers.lock();
        let _ =
            if written.is_ok() { producers.snapshots.insert(at) } else { producers.snapshots.remove(&at) };
        written
    }

    /// Makes durable what is known of producers as of `first`, where segments in front of it are about to go: then
    /// nothing else says it. The producers must have been read.
    pub(super) fn keep_producers(&self, first: Offset) -> Result<()> {
        if !self.would_miss_snapshot() {
            return Ok(());
        }
        match self.snapshot_at(first)? {
            Some(bytes) => self.write_snapshot(first, &bytes, true),
            None => Ok(()),
        }
    }

    /// Whether somebody would miss a snapshot: only who goes on under its id after a restart. Nothing else is lost with
    /// it.
    fn would_miss_snapshot(&self) -> bool {
        let producers = self.producers.lock();
        let would_miss = |(id, entry): (i64, &ProducerEntry)| {
            entry.txn_first.is_some() || !self.contiguous || self.context.names.is_named(id)
        };
        producers.state.as_ref().is_some_and(|state| state.entries().any(would_miss))
    }

    /// The snapshot of an orderly stop.
    pub(super) fn take_last_snapshot(&self) {
        let clean = self.producers.lock().clean;
        // A log that was not looked at since a clean stop is as it was.
        if !clean && self.ready_producers().is_err() {
            return;
        }
        let _ = self.take_snapshot(self.would_miss_snapshot());
    }

    /// The state as of an earlier end, encoded; `None`: nobody has asked for it since a clean stop.
    pub(super) fn snapshot_at(&self, end: Offset) -> Result<Option<Vec<u8>>> {
        let mut producers = self.producers.lock();
        if producers.state.is_none() && producers.clean {
            return Ok(None);
        }
        let state = self.up_to_date(&mut producers)?;
        if state.end() == end {
            return Ok(Some(snapshot::encode(state)));
        }
        drop(producers);
        self.state_at(end).map(|state| Some(snapshot::encode(&state)))
    }

    /// Whether somebody who takes the files for those of an orderly stop would miss producers.
    pub(crate) fn lacks_snapshot(&self) -> bool {
        let producers = self.producers.lock();
        let missed = match &producers.state {
            Some(state) => !self.contiguous || state.entries().len() > 0,
            None => !producers.clean,
        };
        missed && producers.snapshots.is_empty() && self.log_end() > self.log_start()
    }

    /// The segment of this base was deleted, or merged into another: its snapshot goes with it.
    pub(super) fn forget_snapshot(&self, base: Offset) {
        self.producers.lock().snapshots.remove(&base);
    }
}
