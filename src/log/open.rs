//! Opening a partition: after a clean stop by trust, after any other by looking (reliability rules R1 to R5 and R7).
//!
//! What is proven to be synced (recovery point, `logstead-committed`) is not checked again here, as far as the index
//! reaches. Behind it every batch is, from the device and not from the cache, and the log ends before the first byte
//! that is wrong.
//!
//! Long because recovery is one walk, whose steps share what they found.
//!
//! Invariants:
//! - What recovery leaves is durable, names included, before anything of it is served.
//! - Whatever happens to be lost, an interrupted recovery followed by another one ends like one that was left in peace.
//! - Behind a cut, and behind a gap that a crash left, nothing is served; it is set aside.
//! - Rot is reported and stays where it is: no file with committed records is cut, emptied or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::checkpoint::{LEADER_EPOCHS, read_epochs};
use super::committed::{Committed, FILE_NAME as COMMITTED};
use super::compact::{self, Cleaned};
use super::recover::{RecoveryEvent, Verdict, detach, judge, valid_behind};
use super::start::{below, confirmed};
use super::{Bells, Context, Log, Tail, flush::Flush, follow, follow::Follow, records::Source};
use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Pins, SyncCounter, TrafficCounter};
use crate::record::{BatchHeader, Invalid};
use crate::segment::{Segment, SegmentConfig, Step, name};
use crate::storage::Open;
use crate::sync::{Arc, AtomicBool, AtomicI64, AtomicU64, Condvar, Mutex, OnceLock, RwLock};
use crate::types::{Durability, Offset, ReadOnly, TopicName};

/// What the store knows of a partition before it is opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenHints {
    pub(crate) recovery_point: Option<Offset>,
    pub(crate) log_start: Option<Offset>,
    /// The store was closed in order.
    pub(crate) clean: bool,
    /// The topic was made by this crate: its offsets have no gaps but those of compactions.
    pub(crate) contiguous: bool,
    /// Where the last compaction ended.
    pub(crate) cleaned_to: Option<Offset>,
}

/// Where the walk over a segment ended, and how.
struct Walked {
    end: u64,
    next_offset: Offset,
    /// Committed bytes of it are damaged.
    rotten: bool,
    /// The log ends here: what lies behind does not follow on it.
    cut: bool,
}

pub(super) struct Opening<'c> {
    pub(super) context: &'c Context,
    pub(super) topic: &'c TopicName,
    pub(super) partition: i32,
    pub(super) dir: Arc<Path>,
    pub(super) config: &'c TopicConfig,
    pub(super) hints: OpenHints,
    pub(super) pins: Arc<Pins>,
    pub(super) proven: Offset,
    /// A writer left word of what is committed.
    pub(super) slot_seen: bool,
    /// Where a reader stops that shows what is committed, when a writer left word of it.
    pub(super) limit: Option<Offset>,
    /// A name that says that somebody is exchanging segments.
    pub(super) in_flux: Option<String>,
    /// What is known of compactions.
    pub(super) cleaned: Cleaned,
    /// The segment whose `.log` has another name at the moment.
    pub(super) stand_in: Option<(Offset, PathBuf)>,
    /// What the leader-epoch checkpoint says, if it can be read.
    pub(super) epochs: Option<Vec<(i32, Offset)>>,
    /// The youngest epoch among the batches that were looked at.
    pub(super) seen_epoch: i32,
    /// The segments whose `.log` has names elsewhere: a checkpoint of the store, or the store it is one of.
    pub(super) shared: BTreeSet<Offset>,
    /// The snapshots of producers that lie there.
    pub(super) snapshots: BTreeSet<Offset>,
    /// How many of its two index files each segment has.
    pub(super) indexes: BTreeMap<Offset, u8>,
    pub(super) events: Vec<RecoveryEvent>,
}

impl Log {
    /// Opens the partition in `dir`, with what was found and done.
    pub(crate) fn open(
        context: &Arc<Context>,
        topic: &TopicName,
        partition: i32,
        config: Arc<TopicConfig>,
        hints: OpenHints,
        bells: Arc<Bells>,
    ) -> Result<(Arc<Log>, Vec<RecoveryEvent>)> {
        let open = || Log::open_once(context, topic, partition, &config, hints.clone(), Arc::clone(&bells));
        follow::while_moving(context.read_only, open)
    }

    fn open_once(
        context: &Arc<Context>,
        topic: &TopicName,
        partition: i32,
        config: &Arc<TopicConfig>,
        hints: OpenHints,
        bells: Arc<Bells>,
    ) -> Result<(Arc<Log>, Vec<RecoveryEvent>)> {
        let (pins, instance) = context.pins.add();
        let mut opening = Opening::new(context, topic, partition, config, hints, &pins)?;
        let (segments, next_offset) = opening.segments()?;
        if let Some(name) = &opening.in_flux {
            return Err(opening.in_motion(name));
        }
        let log_start = opening.log_start(&segments);
        let leader_epoch = opening.leader_epoch();
        let producers = opening.producers(&segments, log_start, next_offset)?;
        let Opening { dir, hints, events, slot_seen, cleaned, .. } = opening;
        let Some(active) = segments.last().map(Arc::clone) else {
            return Err(ErrorKind::Damaged {
                topic: topic.to_string(),
                partition,
                why: "it has no segment".to_owned(),
            }
            .into());
        };
        let log = Arc::new(Log {
            context: Arc::clone(context),
            topic: topic.clone(),
            partition,
            contiguous: hints.contiguous,
            leader_epoch,
            tail: Mutex::new(Tail {
                active: Arc::clone(&active),
                next_offset,
                segment_ms: config.segment_ms,
                rolling: false,
            }),
            rolled: Condvar::new(),
            names: Mutex::default(),
            segments: RwLock::new(segments),
            log_start: AtomicI64::new(log_start),
            log_end: AtomicI64::new(next_offset),
            high_watermark: AtomicI64::new(next_offset),
            recovery_point: AtomicI64::new(next_offset),
            written: TrafficCounter::default(),
            deleted: TrafficCounter::default(),
            syncs: SyncCounter::default(),
            unsynced_bytes: AtomicU64::new(0),
            dirty_since_ms: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            noted_dirty: AtomicBool::new(false),
            flush: Flush::default(),
            committed_file: OnceLock::new(),
            failure: OnceLock::new(),
            closed: AtomicBool::new(false),
            follow: context.read_only.then(Box::<Follow>::default),
            producers: Mutex::new(producers),
            compaction: compact::State::new(cleaned, hints.cleaned_to),
            producers_ready: AtomicBool::new(false),
            bells,
            source: Arc::new(Source {
                topic: topic.shared(),
                partition,
                instance,
                pins,
                read: TrafficCounter::default(),
            }),
            config: RwLock::new(Arc::clone(config)),
            dir,
        });
        if config.durability == Durability::Disk && !context.read_only {
            log.open_committed_file();
            // From the first moment on, for readers in other processes.
            log.note_committed(&active, active.written(), next_offset);
        } else if slot_seen && !context.read_only {
            // Left of a topic that was a `Disk` one: the crash came before it was taken back.
            log.open_committed_file();
            log.cease_to_tell();
        }
        let jittered = log.jittered_segment_ms(config);
        log.tail.lock().segment_ms = jittered;
        Follow::begin(&log)?;
        Ok((log, events))
    }

    /// Opens the file that says what is committed. Without it recovery looks at more: a full disk is no reason not to
    /// serve.
    pub(super) fn open_committed_file(&self) {
        let path = self.dir.join(COMMITTED);
        let file = match self.context.storage.open(&path, Open::Write) {
            Err(error) if error.is_not_found() => self.context.storage.open(&path, Open::New),
            other => other,
        };
        if let Ok(file) = file {
            // One that is there already is the same.
            let _ = self.committed_file.set(file);
        }
    }
}

impl<'c> Opening<'c> {
    /// Finds out what is proven to be synced.
    pub(super) fn new(
        context: &'c Context,
        topic: &'c TopicName,
        partition: i32,
        config: &'c TopicConfig,
        hints: OpenHints,
        pins: &Arc<Pins>,
    ) -> Result<Self> {
        let dir: Arc<Path> = context.root.join(format!("{topic}-{partition}")).into();
        let slot = Committed::read(context.storage.as_ref(), &dir)?.filter(|_| hints.contiguous);
        let proven = match (hints.recovery_point, slot) {
            (None, None) if hints.clean => Offset::MAX,
            // Synced when the log was closed, and with a checksum, which the checkpoint has not.
            (_, Some(slot)) if hints.clean => slot.end_offset,
            (point, slot) => point.unwrap_or(0).max(slot.map_or(0, |slot| slot.end_offset)),
        };
        let limit = slot.filter(|_| context.read_only && context.shows == ReadOnly::Committed);
        Ok(Opening {
            context,
            topic,
            partition,
            dir,
            config,
            hints,
            pins: Arc::clone(pins),
            proven,
            slot_seen: slot.is_some(),
            limit: limit.map(|_| proven),
            in_flux: None,
            cleaned: Cleaned::default(),
            stand_in: None,
            epochs: None,
            seen_epoch: 0,
            shared: BTreeSet::new(),
            snapshots: BTreeSet::new(),
            indexes: BTreeMap::new(),
            events: Vec::new(),
        })
    }

    /// Whether a writer left word of where a reader has to stop.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether the segments found are not the whole log, since somebody is exchanging some of them.
    pub(super) fn is_in_flux(&self) -> bool {
        self.in_flux.is_some()
    }

    /// All segments, the last one active, and the offset that comes next.
    pub(super) fn segments(&mut self) -> Result<(Vec<Arc<Segment>>, Offset)> {
        self.epochs = read_epochs(self.context.storage.as_ref(), &self.dir.join(LEADER_EPOCHS))
            .ok()
            .filter(|epochs| !epochs.is_empty());
        let found = self.survey()?;
        let found = self.without_deleted(found)?;
        let Some(last) = found.len().checked_sub(1) else {
            return self.finish(Vec::new(), self.hints.log_start.unwrap_or(0));
        };
        let first_unproven = if self.hints.clean {
            last
        } else {
            // What was compacted was synced, whatever a checkpoint says.
            let compacted = found.partition_point(|(base, _)| self.may_have_gaps(*base)).min(last);
            found.partition_point(|(base, _)| *base <= self.proven).saturating_sub(1).max(compacted)
        };
        let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(found.len());
        let mut next_offset = 0;
        for (i, &(base, len)) in found.iter().enumerate() {
            let segment = self.segment(base);
            segments.push(Arc::clone(&segment));
            if i < first_unproven {
                segment.set_end(len);
                segment.seal();
                if self.may_lack_index(base, found.get(i + 1).map(|next| next.0)) {
                    // They are hints: what fails here fails again, and is told, when they are needed.
                    let _ = segment.mend_index();
                }
                continue;
            }
            let next_base = found.get(i + 1).map(|next| next.0);
            let behind: u64 = found.iter().skip(i + 1).map(|later| later.1).sum();
            let mut walked = self.walk(&segment, len, next_base, behind)?;
            next_offset = walked.next_offset;
            segment.set_end(walked.end);
            if !walked.cut && next_base.is_some_and(|next| segment.is_contiguous() && next != next_offset) {
                walked.cut = self.ends_before_gap(&segment, next_offset, behind);
            }
            let is_last = i == last || walked.cut;
            if walked.cut {
                self.set_aside_all(found.get(i + 1..).unwrap_or_default())?;
            }
            if is_last && !walked.rotten {
                break;
            }
            segment.seal();
            if !self.context.read_only {
                segment.close_index();
            }
            if is_last {
                return self.go_on_behind_rot(segments, next_offset);
            }
        }
        self.finish(segments, next_offset)
    }

    /// Finds out where the log starts, and takes out what lies wholly below that: an interrupted deletion, which may
    /// have left some of it and not the rest. A broker's it deletes itself, or retention does.
    fn without_deleted(&mut self, mut found: Vec<(Offset, u64)>) -> Result<Vec<(Offset, u64)>> {
        if !self.hints.contiguous {
            return Ok(found);
        }
        let bases = || found.iter().map(|(base, _)| *base);
        self.hints.log_start = confirmed(self.hints.log_start, self.epochs.as_deref(), bases());
        let start = self.hints.log_start.unwrap_or(0);
        // What lies in front of a start was synced before it was moved.
        self.proven = self.proven.max(start);
        self.limit = self.limit.map(|limit| limit.max(start));
        let deleted = below(start, bases());
        let left = found.split_off(deleted);
        if !self.context.read_only && !found.is_empty() {
            self.snapshots.retain(|offset| found.iter().all(|(base, _)| base != offset));
            let storage = &self.context.storage;
            for file in
                found.iter().flat_map(|(base, _)| name::files_of(*base)).map(|name| self.dir.join(name))
            {
                match storage.remove_file(&file) {
                    Ok(()) => self.events.push(RecoveryEvent::LeftoverRemoved { file }),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            storage.sync_dir(&self.dir)?;
        }
        Ok(left)
    }

    /// Whether a crash may have come before the indexes of a closed segment were durable: they are when a segment
    /// behind it is synced, and the recovery point moves behind that one's base.
    fn may_lack_index(&self, base: Offset, next_base: Option<Offset>) -> bool {
        let synced = self.hints.recovery_point.unwrap_or(0);
        let has_both = self.indexes.get(&base).is_some_and(|files| *files == 2);
        !self.context.read_only
            && !self.hints.clean
            && (!has_both || next_base.is_none_or(|next| next >= synced))
    }

    fn finish(
        &mut self,
        segments: Vec<Arc<Segment>>,
        next_offset: Offset,
    ) -> Result<(Vec<Arc<Segment>>, Offset)> {
        if let Some(start) = self.hints.log_start.filter(|start| next_offset < *start) {
            if !self.hints.contiguous {
                return self.all_below_start(&segments, start);
            }
            // Nothing is deleted above what is there: the checkpoint, which has no checksum, is wrong.
            self.hints.log_start = None;
        }
        let missing = self.hints.contiguous && next_offset < self.proven && self.proven != Offset::MAX;
        if missing {
            let (file, position) =
                segments.last().map_or((self.dir.to_path_buf(), 0), |s| (s.path(), s.written()));
            let why = format!("offsets {next_offset}..{} were committed and are missing", self.proven);
            self.events.push(RecoveryEvent::Rot { file, position, why });
            if let Some(last) = segments.last() {
                last.seal();
            }
            return self.go_on_behind_rot(segments, next_offset);
        }
        if segments.is_empty() {
            return self.fresh(next_offset);
        }
        if !self.context.read_only
            && !self.hints.clean
            && let Some(active) = segments.last()
        {
            // What is about to be served must not be lost by a second crash.
            active.file(Open::Write)?.sync_data()?;
            self.context.storage.sync_dir(&self.dir)?;
        }
        Ok((segments, next_offset))
    }

    fn segment(&self, base: Offset) -> Arc<Segment> {
        let config = self.segment_config();
        let contiguous = config.contiguous && !self.may_have_gaps(base);
        let segment = Segment::existing(
            &self.context.storage,
            &self.dir,
            base,
            SegmentConfig { contiguous, ..config },
            &self.pins,
            self.context.clock.now_ms(),
        );
        let stand_in = self.stand_in.as_ref().filter(|(of, _)| *of == base);
        Arc::new(segment.standing_in(stand_in.map(|(_, log)| self.dir.join(log))))
    }

    fn may_have_gaps(&self, base: Offset) -> bool {
        base < self.cleaned.sparse_below
    }

    fn segment_config(&self) -> SegmentConfig {
        let config = Log::segment_config(self.config, self.hints.contiguous);
        // Beside a writer only what no recovery cuts: closed segments below the committed end.
        SegmentConfig {
            maps: !self.context.read_only || self.limit.is_some(),
            followed: self.context.read_only,
            ..config
        }
    }

    /// A log of one empty segment.
    fn fresh(&self, base: Offset) -> Result<(Vec<Arc<Segment>>, Offset)> {
        if self.context.read_only {
            let segment = self.segment(base);
            segment.begin_index();
            return Ok((vec![segment], base));
        }
        let config = self.segment_config();
        let now = self.context.clock.now_ms();
        let segment = Segment::create(&self.context.storage, &self.dir, base, config, &self.pins, now)?;
        segment.sync()?;
        Ok((vec![Arc::new(segment)], base))
    }

    /// Goes over the batches of a segment from what is proven on, and decides what its end is.
    fn walk(
        &mut self,
        segment: &Segment,
        len: u64,
        next_base: Option<Offset>,
        behind: u64,
    ) -> Result<Walked> {
        let how = if self.context.read_only { Open::Read } else { Open::Write };
        if how == Open::Write && self.shared.remove(&segment.base()) {
            // It may be cut here, or grow: not under those who share it.
            detach(self.context.storage.as_ref(), &segment.path(), len)?;
        }
        let file = segment.file(how)?;
        let looks = !self.context.read_only && !self.hints.clean;
        if looks {
            file.sync_data()?;
            file.drop_cache()?;
        }
        let (position, mut expected) =
            segment.resume_index(self.proven, len, self.hints.clean, self.context.read_only)?;
        let scan = segment.scan(file.as_ref(), position, len);
        let mut scan = if looks { scan.reading_ahead() } else { scan };
        let mut rotten = false;
        let mut after_gap = false;
        loop {
            if self.limit.is_some_and(|limit| expected >= limit) {
                return Ok(Walked { end: scan.position(), next_offset: expected, rotten, cut: true });
            }
            let (position, why) = match scan.next(true)? {
                Step::End => return Ok(Walked { end: len, next_offset: expected, rotten, cut: false }),
                Step::Bad { position, why } => (position, why),
                Step::Batch { position, header } => {
                    match self.check_place(segment, &header, expected, next_base, after_gap) {
                        Ok(()) => {
                            segment.note(position, &header);
                            expected = header.next_offset();
                            self.seen_epoch = self.seen_epoch.max(header.leader_epoch);
                            after_gap = false;
                            continue;
                        }
                        Err(why) => {
                            scan.reject(position);
                            (position, why)
                        }
                    }
                }
            };
            if self.cut_or_report(segment, expected, position..len, behind, why)? {
                return Ok(Walked { end: position, next_offset: expected, rotten, cut: true });
            }
            rotten = true;
            if scan.resync()?.is_none() {
                return Ok(Walked { end: len, next_offset: expected, rotten, cut: false });
            }
            after_gap = true;
        }
    }

    /// Cuts a segment at its first bad byte, if a crash left that (`true`), or reports it as rot. `bad`: from there to
    /// the segment's end; `behind`: the bytes in later segments.
    fn cut_or_report(
        &mut self,
        segment: &Segment,
        expected: Offset,
        bad: Range<u64>,
        behind: u64,
        why: Invalid,
    ) -> Result<bool> {
        let valid = match behind {
            0 => valid_behind(segment, bad.start, bad.end)?,
            behind => Some(bad.end - bad.start + behind),
        };
        match judge(expected, self.proven, valid, self.window()) {
            Verdict::Residue => self.cut_tail(segment, bad.start, bad.end, why, valid.is_some())?,
            Verdict::Rot => {
                segment.note_damage();
                let (file, why) = (segment.path(), why.to_string());
                self.events.push(RecoveryEvent::Rot { file, position: bad.start, why });
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the log ends with this segment, since the next one does not follow on it: a crash lost what lay between,
    /// or an earlier recovery was interrupted between a cut and what follows it. Committed records that are missing
    /// are rot instead, and what lies behind them is served.
    fn ends_before_gap(&mut self, segment: &Segment, next_offset: Offset, behind: u64) -> bool {
        match judge(next_offset, self.proven, Some(behind), self.window()) {
            Verdict::Residue => true,
            Verdict::Rot => {
                let why = format!("the records from offset {next_offset} to the next segment are missing");
                self.events.push(RecoveryEvent::Rot {
                    file: segment.path(),
                    position: segment.written(),
                    why,
                });
                false
            }
        }
    }

    /// The first offset: of the first segment, unless the log is known to start elsewhere.
    pub(super) fn log_start(&mut self, segments: &[Arc<Segment>]) -> Offset {
        let first = segments.first().map_or(0, |first| first.base());
        if self.context.read_only {
            // Beside a writer that deletes, a checkpoint may be behind.
            return self.hints.log_start.unwrap_or(0).max(first);
        }
        let known = self.hints.log_start.or(self.epochs.as_ref().and_then(|e| e.first()).map(|e| e.1));
        match known {
            // The checkpoint of epochs moves with the log's start: what lies between is missing.
            Some(start) if self.hints.contiguous && start < first && !segments.is_empty() => {
                let file = segments.first().map_or_else(|| self.dir.to_path_buf(), |first| first.path());
                let why = format!("offsets {start}..{first} are missing in front of it");
                self.events.push(RecoveryEvent::Rot { file, position: 0, why });
                start.max(0)
            }
            _ => self.hints.log_start.unwrap_or(0).max(first),
        }
    }

    /// The epoch of what is appended from now on.
    fn leader_epoch(&self) -> i32 {
        match self.epochs.as_ref().and_then(|epochs| epochs.last()) {
            Some(last) => last.0,
            // Batches carry it outside of their checksums: only when there is nothing better.
            None => self.seen_epoch,
        }
    }

    /// How much a crash can leave behind unsynced.
    fn window(&self) -> Option<u64> {
        self.config.unsynced_window().filter(|_| self.hints.contiguous)
    }

    fn check_place(
        &self,
        segment: &Segment,
        header: &BatchHeader,
        expected: Offset,
        next_base: Option<Offset>,
        after_gap: bool,
    ) -> Result<(), Invalid> {
        let wrong = |why| Err(Invalid::Field { name: "base offset", why });
        if header.base_offset < expected {
            return wrong("it lies before the batch in front of it");
        }
        if segment.is_contiguous() && !after_gap && header.base_offset != expected {
            return wrong("it does not follow the batch in front of it");
        }
        if header.last_offset() - segment.base() > Offset::from(i32::MAX) {
            return wrong("it is too far from its segment's base");
        }
        if next_base.is_some_and(|next| header.last_offset() >= next) {
            return wrong("it lies in the segment behind it");
        }
        Ok(())
    }

    /// Leaves a damaged last segment as it is; appends go to a fresh one behind everything that was committed.
    fn go_on_behind_rot(
        &mut self,
        mut segments: Vec<Arc<Segment>>,
        next_offset: Offset,
    ) -> Result<(Vec<Arc<Segment>>, Offset)> {
        let committed = if self.hints.contiguous && self.proven != Offset::MAX { self.proven } else { 0 };
        // Never the damaged segment itself: making it anew would empty it.
        let base = next_offset.max(committed).max(segments.last().map_or(0, |last| last.base() + 1));
        let (fresh, next_offset) = self.fresh(base)?;
        segments.extend(fresh);
        Ok((segments, next_offset))
    }

    /// Everything lies below the log's start (a broker's delete-records): what is there counts as deleted (G9).
    fn all_below_start(
        &mut self,
        segments: &[Arc<Segment>],
        start: Offset,
    ) -> Result<(Vec<Arc<Segment>>, Offset)> {
        let all: Vec<_> = segments.iter().map(|segment| (segment.base(), segment.written())).collect();
        self.set_aside_all(&all)?;
        self.fresh(start)
    }

    pub(super) fn interrupted(&self, name: &str) -> Error {
        let why = "is left from a compaction that was interrupted: let the broker that made it start once";
        self.damaged(format!("{name} {why}"))
    }

    /// What a reader is told beside somebody who exchanges segments. With our writer it comes to an end at once.
    fn in_motion(&self, name: &str) -> Error {
        match name == compact::FILE_NAME {
            true => Error::io(&self.dir.join(name), "read", &std::io::ErrorKind::NotFound.into()),
            false => self.interrupted(name),
        }
    }

    pub(super) fn damaged(&self, why: String) -> Error {
        ErrorKind::Damaged { topic: self.topic.to_string(), partition: self.partition, why }.into()
    }
}
