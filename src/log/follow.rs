//! A log of a store that was opened read-only: it follows what a writer in another process does to the same files.
//!
//! Where the committed end is told (`logstead-committed`, of `Disk` topics made here) a look takes it over: the bytes
//! below it are there, durable and final. Where it is not (`PageCache` topics, a broker's directory), or where the
//! reader asks for all that was written, a look takes every whole batch behind the last one, checked.
//! A new segment, and whatever else is not a plain continuation, is taken up by opening the files anew.
//!
//! Invariants:
//! - Nothing is written, no name changed, no lock taken.
//! - Where the committed end is told, the high watermark never passes it and never moves back.
//! - Where it is not, a writer may cut its log after a crash: then the high watermark moves back with the log.
//! - Only files that no recovery cuts any more are mapped: closed ones below a committed end that was told.
//! - The names in the directory, and where the log starts, are looked at once a second at least, while somebody reads.
//! - Lock order: `state` → `tail` → segment list; none of them is held when a bell rings.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::checkpoint::{LEADER_EPOCHS, LOG_STARTS, RECOVERY_POINTS, read_epochs, read_offsets};
use super::committed::{Committed, FILE_NAME, Slot};
use super::compact;
use super::open::Opening;
use super::start::confirmed;
use super::{Log, OpenHints};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::BATCH_HEADER_BYTES;
use crate::record::BatchHeader;
use crate::segment::name::{self, SegmentFile};
use crate::segment::{Fault, Segment, Step};
use crate::storage::{File, Open, read_small};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::types::{Durability, Offset, ReadOnly};

/// How long the names in a directory are taken for granted.
const NAMES_AGE: Duration = Duration::from_secs(1);

/// How often files are opened anew while others move them.
const ATTEMPTS: usize = 100;

/// Between two of these: an exchange of segments takes some syncs.
const PAUSE: Duration = Duration::from_millis(1);

/// Indexes of closed segments that are kept in memory where they can not be mapped.
const INDEXES_MAX: usize = 8;

/// What a log needs to follow its writer.
#[derive(Debug, Default)]
pub(super) struct Follow {
    state: Mutex<State>,
    /// The lookout knows of those who sleep here.
    pub(super) announced: AtomicBool,
    /// The closed segments read last, whose indexes may be in memory.
    recent: Mutex<VecDeque<Arc<Segment>>>,
}

#[derive(Debug, Default)]
struct State {
    slot: Option<Arc<dyn File>>,
    /// The last word was that of a writer which tells what is committed.
    told: bool,
    /// There are records, and no word of what is committed where one should be.
    unsure: bool,
    /// Position and header of the last batch, where nobody tells that it is committed.
    last: Option<(u64, [u8; BATCH_HEADER_BYTES])>,
    /// When the names in the directory were compared, on the monotonic clock.
    compared_at: Duration,
    /// `partition.metadata`: of a topic that was made later under the same name it says something else.
    identity: Option<Vec<u8>>,
    /// The checkpoint of epochs (which file, and when it was written) that told the log's start as it is known.
    start_of: Option<((u64, u64), i64)>,
    /// The directory is not this topic's any more.
    gone: bool,
    /// How often the files were opened anew.
    reloads: u64,
}

/// How far a walk over new batches came.
struct Noted {
    end: u64,
    next_offset: Offset,
    /// Where the last of them begins.
    last: Option<u64>,
}

/// Why the files are to be opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reload {
    /// There are other segments; what is known of those that are still there stays true.
    Names,
    /// A file that was open is not what its name leads to any more.
    Moved,
    /// The log was cut: what was taken may not be there.
    Cut,
}

impl Follow {
    /// For a log that was just opened.
    pub(super) fn begin(log: &Log) -> Result<()> {
        let Some(follow) = &log.follow else { return Ok(()) };
        let mut state = follow.state.lock();
        state.compared_at = log.context.clock.monotonic();
        state.identity = log.identity()?;
        // What the store knew when it was opened may be old.
        log.take_start()?;
        log.remember_last(&mut state)
    }
}

impl Log {
    /// Takes up what the writer did since the last look. Nothing to do in a store that is open for writing.
    pub(crate) fn look(&self) -> Result<()> {
        self.look_closely(false)
    }

    /// As [`Log::look`], at the names in the directory too if asked for.
    pub(super) fn look_closely(&self, names: bool) -> Result<()> {
        let Some(follow) = &self.follow else { return Ok(()) };
        let before = self.high_watermark();
        let looked = self.look_with(&mut follow.state.lock(), names);
        if self.high_watermark() != before || looked.is_err() {
            self.bells.ring();
        }
        looked
    }

    /// Whether there are records behind the end that is known, and no word of what is committed where these settings
    /// promise one: they may have been changed.
    pub(crate) fn is_unsure(&self) -> bool {
        self.follow.as_ref().is_some_and(|follow| follow.state.lock().unsure)
    }

    fn look_with(&self, state: &mut State, names_too: bool) -> Result<()> {
        if state.gone {
            return Err(self.deleted());
        }
        let reload = match self.take_news(state) {
            Ok(None) => self.compare_names(state, names_too),
            other => other,
        };
        match reload {
            Ok(None) => Ok(()),
            Ok(Some(why)) => self.reload(state, why),
            Err(error) if is_moved(&error) => self.reload(state, Reload::Moved),
            Err(error) => Err(error),
        }
    }

    /// Reads again what failed only because files were moved, exchanged or cut meanwhile: by the writer, or here by
    /// whoever cleans.
    pub(super) fn retried<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        let mut left = ATTEMPTS;
        loop {
            let result = read();
            let Err(error) = &result else { return result };
            let (moved, damaged) = (is_moved(error), matches!(error.kind(), ErrorKind::Corrupt { .. }));
            if left == 0 || !(moved || damaged) {
                return result;
            }
            left -= 1;
            let Some(follow) = &self.follow else {
                if moved {
                    continue;
                }
                return result;
            };
            let mut state = follow.state.lock();
            let reloads = state.reloads;
            match moved {
                true => self.reload(&mut state, Reload::Moved)?,
                false => self.look_with(&mut state, true)?,
            }
            if state.reloads == reloads {
                return result;
            }
        }
    }

    /// Counts what lies behind the end that is known; or says why that is not enough.
    fn take_news(&self, state: &mut State) -> Result<Option<Reload>> {
        (state.told, state.unsure) = (false, false);
        if !self.contiguous || self.context.shows == ReadOnly::Written {
            return self.take_written(state);
        }
        let slot = self.read_slot(state)?;
        state.told = matches!(slot, Slot::At(_));
        match slot {
            Slot::At(committed) => self.take_committed(committed),
            Slot::Absent if self.config().durability == Durability::Disk => {
                // Its writer makes the slot before the first record, unless it could not.
                let active = self.last_segment();
                state.unsure = active.is_some_and(|active| active.is_outgrown().unwrap_or(false));
                Ok(None)
            }
            Slot::Unreadable => Ok(None),
            Slot::Absent | Slot::Empty => self.take_written(state),
        }
    }

    fn read_slot(&self, state: &mut State) -> Result<Slot> {
        let file = match &state.slot {
            Some(file) => file,
            None => match self.context.storage.open(&self.dir.join(FILE_NAME), Open::Read) {
                Ok(file) => state.slot.insert(file),
                Err(error) if error.is_not_found() => return Ok(Slot::Absent),
                Err(error) => return Err(error),
            },
        };
        let slot = Slot::read(file.as_ref());
        if slot.is_err() {
            state.slot = None;
        }
        slot
    }

    fn take_committed(&self, committed: Committed) -> Result<Option<Reload>> {
        if committed.end_offset <= self.high_watermark() {
            return Ok(None);
        }
        let Some(active) = self.last_segment() else { return Ok(Some(Reload::Names)) };
        let (from, to) = (active.written(), u64::from(committed.position));
        if committed.segment_base != active.base() || to <= from {
            return Ok(Some(Reload::Names));
        }
        // Not checked here: every read checks what it gives out.
        let noted = self.note_batches(&active, from..to, false)?;
        if (noted.end, noted.next_offset) != (to, committed.end_offset) {
            // Committed and damaged: reads report it, and go on behind it.
            active.note_damage();
        }
        active.set_end(to);
        self.publish(committed.end_offset);
        Ok(None)
    }

    fn take_written(&self, state: &mut State) -> Result<Option<Reload>> {
        let Some(active) = self.last_segment() else { return Ok(Some(Reload::Names)) };
        let file = match active.file(Open::Read) {
            // No file yet: nothing was ever written.
            Err(error) if error.is_not_found() && active.written() == 0 => return Ok(None),
            file => file?,
        };
        let (from, len) = (active.written(), file.len()?);
        if len < from || (len > from && !still_there(file.as_ref(), state.last)?) {
            return Ok(Some(Reload::Cut));
        }
        if len > from {
            let noted = self.note_batches(&active, from..len, true)?;
            if let Some(last) = noted.last {
                state.last = header_at(file.as_ref(), last)?;
                active.set_end(noted.end);
                self.publish(noted.next_offset);
            }
        }
        let end = self.high_watermark();
        // What lies behind the last whole batch is on its way, or the log ends there, whatever follows.
        if end == active.base() || active.written() < len {
            return Ok(None);
        }
        // The next segment begins where this one ends.
        match self.context.storage.open(&self.dir.join(name::log(end)), Open::Read) {
            Ok(_) => Ok(Some(Reload::Names)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes over the batches in these bytes, up to the first that is not whole or not in its place.
    fn note_batches(&self, active: &Segment, bytes: Range<u64>, checked: bool) -> Result<Noted> {
        let mut noted = Noted { end: bytes.start, next_offset: self.high_watermark(), last: None };
        let mut scan = active.scan(active.file(Open::Read)?.as_ref(), bytes.start, bytes.end);
        loop {
            match scan.next(checked)? {
                Step::Batch { position, header } if self.follows(active, &header, noted.next_offset) => {
                    active.note(position, &header);
                    noted = Noted {
                        end: scan.position(),
                        next_offset: header.next_offset(),
                        last: Some(position),
                    };
                }
                _ => return Ok(noted),
            }
        }
    }

    fn follows(&self, active: &Segment, header: &BatchHeader, next: Offset) -> bool {
        let in_reach = header.last_offset() - active.base() <= Offset::from(i32::MAX);
        let behind = if self.contiguous { header.base_offset == next } else { header.base_offset >= next };
        in_reach && behind
    }

    /// Remembers the last batch of the log, to see a cut by.
    fn remember_last(&self, state: &mut State) -> Result<()> {
        let Some(active) = self.last_segment().filter(|active| active.written() > 0) else {
            state.last = None;
            return Ok(());
        };
        state.last = match active.find(self.high_watermark() - 1) {
            Ok(Some(found)) => header_at(active.file(Open::Read)?.as_ref(), found.position)?,
            Err(Fault::Disk(error)) => return Err(error),
            Ok(None) | Err(Fault::Bytes { .. }) => None,
        };
        Ok(())
    }

    fn publish(&self, end: Offset) {
        self.log_end.store(end, Ordering::SeqCst);
        self.high_watermark.store(end, Ordering::SeqCst);
    }

    fn last_segment(&self) -> Option<Arc<Segment>> {
        self.segments.read().last().map(Arc::clone)
    }

    /// Whether the directory holds other segments than those that are known, once in a while or when it is asked for.
    fn compare_names(&self, state: &mut State, now_too: bool) -> Result<Option<Reload>> {
        let now = self.context.clock.monotonic();
        if !now_too && now.saturating_sub(state.compared_at) < NAMES_AGE {
            return Ok(None);
        }
        state.compared_at = now;
        if compact::readable(self.context.storage.as_ref(), &self.dir)? != self.compaction.cleaned() {
            return Ok(Some(Reload::Moved));
        }
        let identity = self.identity()?;
        let entries = match self.context.storage.list(&self.dir) {
            Ok(entries) if state.identity.is_none() || state.identity == identity => entries,
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {
                state.gone = true;
                return Err(self.deleted());
            }
        };
        // It moves with the start, before anything else does.
        let epochs = entries.iter().find(|entry| entry.name == LEADER_EPOCHS);
        let epochs = epochs.map(|entry| (entry.file, entry.modified_ms));
        if epochs != state.start_of && self.take_start()? {
            state.start_of = epochs;
        }
        let mut listed = Vec::new();
        for entry in entries {
            if let Some(SegmentFile::Log(base)) = SegmentFile::parse(&entry.name) {
                listed.push((base, entry.len));
            }
        }
        listed.sort_unstable();
        let known = self.segments.read().clone();
        let last = known.last().map_or(-1, |last| last.base());
        // Where the end is told, what lies behind it does not count yet.
        let is_longer = !state.told && listed.last().is_some_and(|(base, _)| *base > last);
        let is_there = |segment: &Arc<Segment>| {
            let found = listed.binary_search_by_key(&segment.base(), |(base, _)| *base).ok();
            let len = found.and_then(|found| listed.get(found)).map(|(_, len)| *len);
            // A log without a file has none to miss.
            len.map_or(segment.written() == 0, |len| !segment.is_sealed() || len >= segment.written())
        };
        Ok((is_longer || !known.iter().all(is_there)).then_some(Reload::Names))
    }

    /// Takes over where the writer says that the log starts. Whether all that says so says the same: it may be at it.
    fn take_start(&self) -> Result<bool> {
        let epochs = unreadable_is_none(
            read_epochs(self.context.storage.as_ref(), &self.dir.join(LEADER_EPOCHS)).map(Some),
        )?;
        let first = epochs.as_ref().and_then(|epochs| epochs.first()).map_or(0, |(_, start)| *start);
        if first <= self.log_start() {
            return Ok(true);
        }
        let told = self.told(LOG_STARTS)?;
        let start = match self.contiguous {
            true => {
                let segments = self.segments.read().clone();
                confirmed(told, epochs.as_deref(), segments.iter().map(|segment| segment.base()))
            }
            false => told,
        };
        let start = start.unwrap_or(0);
        // What it deleted may lie behind what was seen here.
        self.log_start.fetch_max(start.min(self.high_watermark()), Ordering::AcqRel);
        Ok(self.log_start() >= start && told.unwrap_or(0) >= first)
    }

    /// What an offset checkpoint of the store's says of this partition.
    fn told(&self, file: &str) -> Result<Option<Offset>> {
        let offsets = read_offsets(self.context.storage.as_ref(), &self.context.root.join(file));
        let key = (self.topic.to_string(), self.partition);
        unreadable_is_none(offsets.map(|offsets| offsets.get(&key).copied()))
    }

    fn identity(&self) -> Result<Option<Vec<u8>>> {
        read_small(self.context.storage.as_ref(), &self.dir.join("partition.metadata"))
    }

    fn deleted(&self) -> Error {
        ErrorKind::TopicDeleted { topic: self.topic.to_string() }.into()
    }

    /// Whether the directory is not this topic's any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.follow.as_ref().is_some_and(|follow| follow.state.lock().gone)
    }

    /// Opens the files anew, and goes on with what they hold. While others move them all stays as it is: the next look
    /// comes soon.
    fn reload(&self, state: &mut State, why: Reload) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let (hints, config) = (self.hints(why)?, self.config());
            let found =
                Opening::new(&self.context, &self.topic, self.partition, &config, hints, &self.source.pins)
                    .and_then(|mut opening| Ok((opening.segments()?, opening)));
            let ((segments, next), mut opening) = match found {
                Ok((_, opening)) if opening.is_in_flux() => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Ok(found) => found,
                // Of a directory that is gone the next comparison tells.
                Err(error) if is_moved(&error) && self.is_there() => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(error) if is_moved(&error) => break,
                Err(error) => return Err(error),
            };
            if opening.is_limited() && next < self.high_watermark() {
                return Ok(());
            }
            let log_start = opening.log_start(&segments);
            // What is known of them lies with the segments that go.
            *self.producers.lock() = opening.producers(&segments, log_start, next)?;
            self.go_on_with(segments, why);
            self.compaction.set_cleaned(opening.cleaned);
            self.log_start.fetch_max(log_start, Ordering::AcqRel);
            self.publish(next);
            state.reloads += 1;
            state.slot = None;
            return self.remember_last(state);
        }
        state.compared_at = Duration::ZERO;
        Ok(())
    }

    fn is_there(&self) -> bool {
        self.context.storage.list(&self.dir).is_ok()
    }

    /// What is known without looking: all that was taken so far, or after a cut what the checkpoints prove.
    fn hints(&self, why: Reload) -> Result<OpenHints> {
        Ok(OpenHints {
            recovery_point: match why {
                // Up to the last record, not behind it: whether its segment ends there is looked at again.
                Reload::Names | Reload::Moved => Some(self.high_watermark().saturating_sub(1)),
                Reload::Cut => self.told(RECOVERY_POINTS)?,
            },
            log_start: self.told(LOG_STARTS)?,
            clean: false,
            contiguous: self.contiguous,
            cleaned_to: None,
        })
    }

    /// Replaces the list of segments; of those that did not change the one with its map and its index stays.
    fn go_on_with(&self, mut segments: Vec<Arc<Segment>>, why: Reload) {
        let known = self.segments.read().clone();
        if why == Reload::Names {
            for segment in segments.iter_mut().filter(|segment| segment.is_sealed()) {
                let same = known.binary_search_by_key(&segment.base(), |known| known.base());
                let same = same.ok().and_then(|same| known.get(same));
                if let Some(same) = same.filter(|s| s.is_sealed() && s.written() == segment.written()) {
                    *segment = Arc::clone(same);
                }
            }
        }
        if let (Some(follow), Some(last)) = (&self.follow, segments.last()) {
            self.tail.lock().active = Arc::clone(last);
            // They would keep files that are gone.
            follow.recent.lock().clear();
        }
        *self.segments.write() = segments;
    }

    /// Notes that a segment is read; the index of one that was not for a while is dropped, where it takes memory.
    pub(super) fn note_read(&self, segment: &Arc<Segment>) {
        let Some(follow) = self.follow.as_ref().filter(|_| segment.is_sealed() && !segment.maps()) else {
            return;
        };
        let mut recent = follow.recent.lock();
        if recent.iter().any(|other| Arc::ptr_eq(other, segment)) {
            return;
        }
        recent.push_back(Arc::clone(segment));
        if recent.len() > INDEXES_MAX
            && let Some(oldest) = recent.pop_front()
        {
            oldest.forget_index();
        }
    }
}

/// Tries again what fails since a writer elsewhere moves the files.
pub(super) fn while_moving<T>(beside_a_writer: bool, call: impl Fn() -> Result<T>) -> Result<T> {
    let mut left = if beside_a_writer { ATTEMPTS } else { 1 };
    loop {
        left -= 1;
        match call() {
            Err(error) if left > 0 && is_moved(&error) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// A small file that can not be read tells nothing.
fn unreadable_is_none<T>(result: Result<Option<T>>) -> Result<Option<T>> {
    match result {
        Err(error) if error.is_corrupt() => Ok(None),
        other => other,
    }
}

/// Whether a file is not there any more, or another one took its place.
fn is_moved(error: &Error) -> bool {
    error.is_not_found() || matches!(error.kind(), ErrorKind::BadFile { .. })
}

fn header_at(file: &dyn File, position: u64) -> Result<Option<(u64, [u8; BATCH_HEADER_BYTES])>> {
    let mut header = [0; BATCH_HEADER_BYTES];
    let read = file.read_at(&mut header, position)?;
    Ok((read == BATCH_HEADER_BYTES).then_some((position, header)))
}

/// Whether the batch that was taken last is still what the file holds there.
fn still_there(file: &dyn File, last: Option<(u64, [u8; BATCH_HEADER_BYTES])>) -> Result<bool> {
    match last {
        None => Ok(true),
        Some((position, _)) => Ok(header_at(file, position)? == last),
    }
}
