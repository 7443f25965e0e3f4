//! Compaction: of each key the last record stays (`kafka-format.md` §7; Kafka's `Cleaner`).
//!
//! One pass: the last offset of each key in the part that was never compacted is gathered in a map ([`map`]); then all
//! closed segments up to there are filtered ([`filter`]), in groups that become one segment each ([`plan`]), which
//! takes the place of the old ones ([`swap`]).
//!
//! Invariants:
//! - Order and offsets never change. The active segment, undecided transactions and records behind the high watermark
//!   are not touched.
//! - What is compacted is on the device before, and the result is before anything of it is given up.
//! - A pass that stops anywhere leaves a log that says the same: groups go from low offsets to high ones, and what a
//!   group loses is replaced by records that lie in it or behind it.
//! - Readers of an old segment hold its files open and read on; those that come later find the new one.
//! - The lock of names is held while names change, never while records are read or written. One pass a log at a time.
//! - A pass of a log that is closed or given up ends soon, and the directory is nobody else's before: who closes waits
//!   for it. Nothing that belongs to users is called while it runs.

mod filter;
mod map;
mod output;
mod plan;
mod source;
mod swap;
mod throttle;
mod transactions;

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::Log;
use super::producer_state::LastOfProducer;
use crate::config::{IsolationLevel, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::segment::{AbortedTxn, Fault, Segment, SegmentConfig, name};
use crate::storage::Open;
use crate::sync::{Arc, AtomicI64, Mutex, Ordering};
use crate::types::{Durability, Offset};
use filter::{Filter, Outcome, Rules, Unpacked};
use map::OffsetMap;
use output::Output;
pub(crate) use plan::Cleanable;
use plan::{Limits, Piece, View};
use source::Source;
pub(crate) use swap::{Cleaned, FILE_NAME, SWAP, Unsettled, exchange_for, readable, see_exchange, settle};
use swap::{Exchange, Swap};
use throttle::Throttle;
use transactions::Walked;

/// How a pass is to be done.
pub(crate) struct CompactOptions<'o> {
    /// The most that the map of keys may take.
    pub(crate) map_bytes: usize,
    pub(crate) bytes_per_second: Option<u64>,
    /// Whether a pass that another is at is waited for.
    pub(crate) wait: bool,
    /// Asked between batches; `true` ends the pass with nothing half done.
    pub(crate) stop: &'o (dyn Fn() -> bool + Sync),
}

/// What a compaction of one partition did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset that no compaction had seen before.
    pub from: Offset,
    /// The first offset that none has seen now.
    pub to: Offset,
    /// Segments that were rewritten.
    pub segments_before: u64,
    /// What they became.
    pub segments_after: u64,
    /// Bytes of their `.log` files.
    pub bytes_before: u64,
    /// Bytes of what they became.
    pub bytes_after: u64,
    /// Records that were looked at; markers of transactions count.
    pub records_before: u64,
    /// Records that stay.
    pub records_after: u64,
    /// Different keys among the records that no compaction had seen before.
    pub keys: u64,
    /// The memory for keys was full before all were seen: the next compaction goes on at `to`.
    pub map_was_full: bool,
    /// How long it took.
    pub time: Duration,
}

/// What a log keeps of its compactions.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) running: Mutex<()>,
    /// `None`: as of a log that was never compacted, which most are.
    cleaned: Mutex<Option<Box<Cleaned>>>,
    /// Where the last pass ended; -1: there was none.
    cleaned_to: AtomicI64,
    /// Why the log is not compacted any more.
    given_up: Mutex<Option<Error>>,
}

impl State {
    pub(crate) fn new(cleaned: Cleaned, cleaned_to: Option<Offset>) -> State {
        let state = State {
            running: Mutex::default(),
            cleaned: Mutex::default(),
            cleaned_to: AtomicI64::new(cleaned_to.unwrap_or(-1)),
            given_up: Mutex::default(),
        };
        state.set_cleaned(cleaned);
        state
    }

    /// Waits for the pass that is under way. Of a closed log no other one is begun.
    pub(super) fn wait(&self) {
        drop(self.running.lock());
    }

    pub(crate) fn cleaned(&self) -> Cleaned {
        self.cleaned.lock().as_deref().copied().unwrap_or_default()
    }

    pub(crate) fn set_cleaned(&self, cleaned: Cleaned) {
        *self.cleaned.lock() = (cleaned != Cleaned::default()).then(|| Box::new(cleaned));
    }
}

/// The closed segments of a log, and what a decision needs to know of each.
struct Closed {
    segments: Vec<Arc<Segment>>,
    pieces: Vec<Piece>,
    active_base: Offset,
}

impl Closed {
    /// The offset at which the segment behind this one begins.
    fn next_base(&self, index: usize) -> Offset {
        self.segments.get(index + 1).map_or(self.active_base, |next| next.base())
    }

    /// Leaves out what a roll closed behind the last sync.
    fn keep_synced(&mut self) {
        let mut dirty = self.segments.iter().enumerate().filter(|(_, segment)| segment.is_dirty());
        let Some((first, base)) = dirty.next().map(|(i, segment)| (i, segment.base())) else { return };
        self.active_base = base;
        self.segments.truncate(first);
        self.pieces.truncate(first);
    }
}

/// One pass over a log, from the plan on.
struct Pass<'p> {
    log: &'p Arc<Log>,
    options: &'p CompactOptions<'p>,
    config: Arc<TopicConfig>,
    closed: Closed,
    what: Cleanable,
    aborted: Vec<AbortedTxn>,
    producers: HashMap<i64, LastOfProducer>,
    now_ms: i64,
    throttle: Throttle,
}

/// Why a pass ended early without a failure: it was told to, or the segments were somebody else's.
enum Stopped {
    Told,
    /// Retention, or a closing of the log, was faster.
    Overtaken,
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Failed(error)
    }
}

impl Log {
    /// Where the last compaction ended.
    pub(crate) fn cleaned_to(&self) -> Option<Offset> {
        Some(self.compaction.cleaned_to.load(Ordering::Acquire)).filter(|to| *to >= 0)
    }

    /// What there is to compact; `None` in a topic that is not, and when the log was given up.
    pub(crate) fn cleanable(&self) -> Result<Option<Cleanable>> {
        let config = self.config();
        if !config.cleanup.compact || self.context.read_only || self.failure().is_some() {
            return Ok(None);
        }
        if self.compaction.given_up.lock().is_some() {
            return Ok(None);
        }
        let closed = self.closed(&config, false)?;
        Ok(Some(plan::cleanable(&self.view(&closed)?, &config, self.trusted_now_ms())))
    }

    /// The time that makes records old, and tombstones go.
    pub(crate) fn trusted_now_ms(&self) -> i64 {
        self.context.upkeep.now(self.context.clock.as_ref()).now_ms
    }

    /// Why the log is not compacted any more, if so.
    pub(crate) fn uncleanable(&self) -> Option<Error> {
        self.compaction.given_up.lock().clone()
    }

    fn view<'v>(&self, closed: &'v Closed) -> Result<View<'v>> {
        Ok(View {
            closed: &closed.pieces,
            active_base: closed.active_base,
            log_start: self.log_start(),
            log_end: self.log_end(),
            stable_end: self.read_end(IsolationLevel::ReadCommitted)?,
            cleaned_to: self.cleaned_to(),
        })
    }

    /// The closed segments now; with the lengths of their indexes, if asked for.
    fn closed(&self, config: &TopicConfig, with_indexes: bool) -> Result<Closed> {
        let mut segments = self.segments.read().clone();
        let Some(active) = segments.pop() else {
            return Err(ErrorKind::Closed.into());
        };
        let mut index_bytes: HashMap<String, u64> = HashMap::new();
        if with_indexes {
            let entries = self.context.storage.list(&self.dir)?;
            index_bytes.extend(entries.into_iter().map(|entry| (entry.name, entry.len)));
        }
        let len = |name: String| index_bytes.get(&name).copied().unwrap_or(0);
        let mut pieces = Vec::with_capacity(segments.len());
        for segment in &segments {
            let (base, bytes) = (segment.base(), segment.written());
            let largest_timestamp = match config.min_compaction_lag_ms {
                0 => 0,
                _ => match segment.max_timestamp() {
                    Ok(-1) => segment.file(Open::Read)?.modified_ms()?,
                    Ok(timestamp) => timestamp,
                    Err(fault) => return Err(source::damage(segment, base..base + 1, fault)),
                },
            };
            let first_timestamp = match config.max_compaction_lag_ms {
                ms if ms >= i64::MAX as u64 => None,
                _ => segment
                    .first_timestamp()
                    .map_err(|fault| source::damage(segment, base..base + 1, fault))?,
            };
            pieces.push(Piece {
                base,
                bytes,
                index_bytes: len(name::offset_index(base)),
                time_index_bytes: len(name::time_index(base)),
                largest_timestamp,
                first_timestamp,
            });
        }
        Ok(Closed { segments, pieces, active_base: active.base() })
    }

    /// Compacts what there is; `None`: nothing, or another pass is at it that is not waited for, or it was told to
    /// stop.
    ///
    /// After an error the log is as it was, or compacted up to some segment. Damage ends its compactions until it is
    /// opened anew.
    pub(crate) fn compact(
        self: &Arc<Self>,
        options: &CompactOptions<'_>,
    ) -> Result<Option<CompactionReport>> {
        if !self.config().cleanup.compact {
            return Ok(None);
        }
        if let Some(why) = self.uncleanable() {
            return Err(why);
        }
        self.check_writable()?;
        // It tells users of what it commits: before anybody could wait for the pass.
        self.sync_closed()?;
        let running = match options.wait {
            true => Some(self.compaction.running.lock()),
            false => self.compaction.running.try_lock(),
        };
        let Some(_running) = running else { return Ok(None) };
        match self.compact_once(options) {
            Ok(report) => Ok(report),
            Err(Stopped::Told | Stopped::Overtaken) => Ok(None),
            Err(Stopped::Failed(error)) => {
                if error.is_corrupt() || matches!(error.kind(), ErrorKind::CodecMissing { .. }) {
                    *self.compaction.given_up.lock() = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    fn compact_once(
        self: &Arc<Self>,
        options: &CompactOptions<'_>,
    ) -> Result<Option<CompactionReport>, Stopped> {
        // Looked at while it runs: whoever closes the log waits for it from now on.
        self.check_writable()?;
        let (config, now_ms) = (self.config(), self.trusted_now_ms());
        let mut closed = self.closed(&config, true)?;
        closed.keep_synced();
        let what = plan::cleanable(&self.view(&closed)?, &config, now_ms);
        if what.reset {
            self.compaction.cleaned_to.store(what.first_dirty, Ordering::Release);
            self.context.ask_for_checkpoints();
        }
        if what.cleanable_bytes == 0 {
            return Ok(None);
        }
        let began = Instant::now();
        let aborted = self.aborted_in(self.log_start()..what.first_uncleanable)?;
        let producers = self.last_of_producers()?;
        let throttle = Throttle::new(options.bytes_per_second);
        let mut pass =
            Pass { log: self, options, config, closed, what, aborted, producers, now_ms, throttle };
        let (map, map_was_full) = pass.gather()?;
        let end = map.latest() + 1;
        let mut report = CompactionReport {
            topic: self.topic.to_string(),
            partition: self.partition,
            from: what.first_dirty,
            to: end,
            segments_before: 0,
            segments_after: 0,
            bytes_before: 0,
            bytes_after: 0,
            records_before: 0,
            records_after: 0,
            keys: map.len() as u64,
            map_was_full,
            time: Duration::ZERO,
        };
        pass.rewrite(&map, end, &mut report)?;
        self.compaction.cleaned_to.store(end, Ordering::Release);
        self.context.ask_for_checkpoints();
        report.time = began.elapsed();
        Ok(Some(report))
    }

    /// Closed segments to the device, their indexes too; of a `Disk` topic all, so that nothing of them is uncommitted.
    fn sync_closed(self: &Arc<Self>) -> Result<()> {
        let Some(lead) = self.lead_until(None) else { return Ok(()) };
        match self.config().durability {
            Durability::Disk => lead.commit(),
            Durability::PageCache => self.sync(false).map(drop),
        }
    }
}

impl Pass<'_> {
    /// Counts bytes that were read or written. An error: the pass is to end, or its log is closed or given up.
    fn go_on(&mut self, bytes: u64) -> Result<(), Stopped> {
        let (log, stop) = (self.log, self.options.stop);
        if stop() {
            return Err(Stopped::Told);
        }
        log.check_writable()?;
        self.throttle.take(bytes, &|| stop() || log.check_writable().is_err());
        Ok(())
    }

    /// The last offset of each key in the dirty part, as far as memory goes; and whether it went only so far.
    fn gather(&mut self) -> Result<(OffsetMap, bool), Stopped> {
        let dirty = self.what.first_dirty..self.what.first_uncleanable;
        let keys = u64::try_from(dirty.end - dirty.start).unwrap_or(0);
        let mut map = OffsetMap::new(self.options.map_bytes, keys);
        let first = self.closed.pieces.partition_point(|piece| piece.base <= dirty.start).saturating_sub(1);
        let mut walked = Walked::new(&self.aborted);
        for index in first..self.closed.segments.len() {
            let Some(segment) = self.closed.segments.get(index).filter(|s| s.base() < dirty.end) else {
                break;
            };
            let (segment, next_base) = (Arc::clone(segment), self.closed.next_base(index));
            let mut source = Source::open(&segment, next_base, dirty.start)?;
            while let Some(batch) = source.next()? {
                let (header, size) = (batch.header, batch.bytes.len());
                let marker = match header.is_control() {
                    true => {
                        crate::record::RecordIter::new(&batch.section).next().map(|r| filter::marker_of(&r))
                    }
                    false => None,
                };
                let may_go = walked.may_go(&header, marker);
                if !header.is_control() && !may_go {
                    for record in crate::record::RecordIter::new(&batch.section) {
                        let offset = header.base_offset + Offset::from(record.offset_delta);
                        if let Some(key) = record.key.filter(|_| offset >= dirty.start)
                            && !map.put(key, offset)
                        {
                            return Ok((map, true));
                        }
                    }
                }
                if header.last_offset() >= dirty.start {
                    map.set_latest(header.last_offset());
                }
                self.go_on(size as u64)?;
            }
            // Over a gap behind its last batch (K14).
            map.set_latest(next_base.min(dirty.end) - 1);
        }
        Ok((map, false))
    }

    /// Filters all segments in front of `end`, group by group.
    fn rewrite(
        &mut self,
        map: &OffsetMap,
        end: Offset,
        report: &mut CompactionReport,
    ) -> Result<(), Stopped> {
        let count = self.closed.pieces.partition_point(|piece| piece.base < end);
        let limits =
            Limits { segment_bytes: self.config.segment_bytes, index_bytes: self.config.segment_index_bytes };
        let pieces = self.closed.pieces.get(..count).unwrap_or_default();
        let groups = plan::groups(pieces, limits, self.what.first_uncleanable);
        let producers = std::mem::take(&mut self.producers);
        let mut filter = Filter::new(Rules {
            map,
            producers: &producers,
            now_ms: self.now_ms,
            delete_retention_ms: i64::try_from(self.config.delete_retention_ms).unwrap_or(i64::MAX),
            first_uncleanable: self.what.first_uncleanable,
        });
        let old_horizon = self.old_horizon()?;
        let mut walked = Walked::new(&self.aborted);
        for group in groups {
            let base = self.closed.pieces.get(group.start).map_or(0, |piece| piece.base);
            let made = self.rewrite_group(group.clone(), &mut filter, &mut walked, old_horizon);
            let exchanged = made.and_then(|made| self.exchange(group.clone(), made, end));
            let new = exchanged.inspect_err(|_| self.discard(base))?;
            let old = self.closed.pieces.get(group).unwrap_or_default();
            report.segments_before += old.len() as u64;
            report.bytes_before += old.iter().map(|piece| piece.bytes).sum::<u64>();
            report.segments_after += 1;
            report.bytes_after += new.written();
            report.records_before = filter.counted.read;
            report.records_after = filter.counted.kept;
        }
        Ok(())
    }

    /// Removes what was written for a group, unless the log was given up: then the next open does, which knows whether
    /// an exchange was begun.
    fn discard(&self, base: Offset) {
        let _names = self.log.names.lock();
        if self.log.failure().is_none() {
            swap::discard(self.log.context.storage.as_ref(), &self.log.dir, base);
        }
    }

    /// Tombstones of the old formats, which have no horizon of their own, go by the time of the last clean segment.
    fn old_horizon(&self) -> Result<i64> {
        let clean = self.closed.pieces.partition_point(|piece| piece.base < self.what.first_dirty);
        let Some(last) = clean.checked_sub(1).and_then(|last| self.closed.segments.get(last)) else {
            return Ok(0);
        };
        let retention = i64::try_from(self.config.delete_retention_ms).unwrap_or(i64::MAX);
        Ok(last.file(Open::Read)?.modified_ms()?.saturating_sub(retention))
    }

    /// Writes what stays of the segments of a group.
    fn rewrite_group(
        &mut self,
        group: Range<usize>,
        filter: &mut Filter<'_>,
        walked: &mut Walked,
        old_horizon: i64,
    ) -> Result<output::Made, Stopped> {
        let log = Arc::clone(self.log);
        let base = self.closed.pieces.get(group.start).map_or(0, |piece| piece.base);
        let mut output = Output::create(log.context.storage.as_ref(), &log.dir, base, self.segment_config())?;
        let mut modified_ms = 0;
        for index in group {
            let Some(segment) = self.closed.segments.get(index).map(Arc::clone) else { break };
            modified_ms = segment.file(Open::Read)?.modified_ms()?;
            let mut source = Source::open(&segment, self.closed.next_base(index), segment.base())?;
            loop {
                let position = source.position();
                let Some(batch) = source.next()? else { break };
                let header = batch.header;
                let unpacked = Unpacked {
                    header: &header,
                    section: &batch.section,
                    keeps_old_tombstones: modified_ms > old_horizon,
                };
                let outcome = filter.filter(unpacked, walked).map_err(|why| {
                    source::damage(
                        &segment,
                        header.base_offset..header.next_offset(),
                        Fault::Bytes { position, why },
                    )
                })?;
                let mut written = 0;
                match outcome {
                    Outcome::Dropped => {}
                    Outcome::Copied => {
                        written = batch.bytes.len();
                        output.push(&header, batch.bytes)?;
                    }
                    Outcome::Rewritten(sealed) => {
                        written = sealed.bytes().len();
                        output.push(sealed.header(), sealed.bytes())?;
                        filter.recycle(sealed);
                    }
                    Outcome::Emptied(empty) => {
                        written = empty.len();
                        output.push(&header, &empty)?;
                    }
                }
                let bytes = batch.bytes.len() + written;
                self.go_on(bytes as u64)?;
            }
        }
        Ok(output.end(&walked.take_kept(), modified_ms)?)
    }

    /// Of a segment that was compacted.
    fn segment_config(&self) -> SegmentConfig {
        let config = Log::segment_config(&self.config, self.log.contiguous);
        SegmentConfig { contiguous: false, ..config }
    }

    /// Puts what was made of a group in the place of its segments.
    fn exchange(
        &self,
        group: Range<usize>,
        made: output::Made,
        needed_to: Offset,
    ) -> Result<Arc<Segment>, Stopped> {
        let log = self.log;
        let old = self.closed.segments.get(group.clone()).unwrap_or_default();
        let Some(first) = old.first() else { return Err(Stopped::Overtaken) };
        let end = self.closed.next_base(group.end - 1);
        let swap = Swap { base: first.base(), end, bytes: made.bytes, sum: made.sum };
        let _names = log.names.lock();
        log.check_writable()?;
        if !log.holds(old) {
            return Err(Stopped::Overtaken);
        }
        old.iter().try_for_each(|segment| segment.hold_files())?;
        let mut cleaned = log.compaction.cleaned();
        let exchanged = swap::exchange(log.context.storage.as_ref(), &log.dir, &mut cleaned, swap, needed_to);
        log.compaction.set_cleaned(cleaned);
        match exchanged {
            Ok(()) => {}
            Err(Exchange::NotBegun(error)) => return Err(error.into()),
            // Which of the two sides the directory shows nobody knows: the next open does.
            Err(Exchange::Begun(error)) => return Err(log.poison(&error).into()),
        }
        let new = Segment::existing(
            &log.context.storage,
            &log.dir,
            swap.base,
            self.segment_config(),
            &log.source.pins,
            first.created_ms,
        );
        new.set_end(made.bytes);
        new.seal();
        let new = Arc::new(new);
        log.replace(old, &new);
        let (before, quota) = (old.iter().map(|old| old.written()).sum::<u64>(), &log.context.upkeep.quota);
        match before.checked_sub(made.bytes) {
            Some(less) => quota.gave_back(less),
            None => quota.took(made.bytes - before),
        }
        Ok(new)
    }
}

impl Log {
    /// Whether these segments are in the list, one behind the other.
    fn holds(&self, old: &[Arc<Segment>]) -> bool {
        let segments = self.segments.read();
        let Some(base) = old.first().map(|first| first.base()) else { return false };
        let at = segments.partition_point(|segment| segment.base() < base);
        let there = segments.get(at..at + old.len()).unwrap_or_default();
        there.len() == old.len() && there.iter().zip(old).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    fn replace(&self, old: &[Arc<Segment>], new: &Arc<Segment>) {
        for gone in old.iter().filter(|old| old.base() != new.base()) {
            self.forget_snapshot(gone.base());
        }
        let mut segments = self.segments.write();
        let at = segments.partition_point(|segment| segment.base() < new.base());
        let end = (at + old.len()).min(segments.len());
        segments.splice(at..end, [Arc::clone(new)]);
    }
}
