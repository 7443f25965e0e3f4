//! How far groups are: commits into `__consumer_offsets`, and reading them back.
//!
//! Invariants:
//! - Who commits is checked, and the commit written, with the group's `commits` held: whoever reads an offset to start
//!   from, and whoever commits next, comes behind every commit that was let in.
//! - What is read is committed: a read first waits for what the group wrote before it.
//! - `commits` is never held while a sync is waited for, and nothing of a user's is called under it: the log is told of
//!   an append when it is given back.
//! - What is committed is of the topic that was looked at: that its name still stands for it is checked with `commits`
//!   held, too.
//! - An offset is never committed beyond what is committed of its partition.

use std::collections::BTreeMap;

use super::codec::{self, GroupValue, Key, OffsetValue};
use super::coordinator::Wakes;
use super::replay::{GroupOffsets, Replay};
use super::{GroupCell, Groups, OFFSETS_TOPIC, Seat};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{OFFSET_METADATA_BYTES_MAX, OFFSETS_BATCH_BYTES};
use crate::log::{GroupPositions, Log, callback};
use crate::record::{BatchBuilder, Compression, Sealed};
use crate::sync::{Arc, Mutex, Weak};
use crate::topic::TopicInner;
use crate::types::Offset;

/// Where a group stands in a partition: the offset it reads next, and what it noted with that.
///
/// ```
/// use logstead::OffsetAndMetadata;
///
/// assert_eq!(OffsetAndMetadata::from(7).offset, 7);
/// assert_eq!(OffsetAndMetadata::from(7).metadata("host a").metadata, "host a");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OffsetAndMetadata {
    /// The offset of the next record to read.
    pub offset: Offset,
    /// Any text, at most 4096 bytes of it.
    pub metadata: String,
    /// Kafka's leader epoch of the last record read, if it is known.
    pub leader_epoch: Option<i32>,
}

impl OffsetAndMetadata {
    /// With a text beside it.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }

    pub(super) fn of(value: &OffsetValue) -> Self {
        let leader_epoch = Some(value.leader_epoch).filter(|epoch| *epoch >= 0);
        OffsetAndMetadata { offset: value.offset, metadata: value.metadata.clone(), leader_epoch }
    }
}

impl From<Offset> for OffsetAndMetadata {
    fn from(offset: Offset) -> Self {
        OffsetAndMetadata { offset, ..OffsetAndMetadata::default() }
    }
}

/// Who commits.
#[derive(Clone, Copy)]
pub(crate) enum By<'s> {
    /// A member, what it owns.
    Member(&'s Seat),
    /// Somebody outside, while the group has no members.
    Outside,
}

/// One record about a group; `None` takes back what was written before.
pub(super) enum Change {
    Offset { topic: Arc<str>, partition: i32, value: Option<OffsetValue> },
    Members(Option<GroupValue>),
}

/// How far the last thing that a group wrote reaches, and in which log.
#[derive(Debug, Default)]
pub(super) struct Written {
    log: Weak<Log>,
    end: Offset,
}

impl Written {
    /// Whether no crash takes it back, or it is gone.
    pub(super) fn is_committed(&self) -> bool {
        self.log.upgrade().is_none_or(|log| log.high_watermark() >= self.end)
    }

    /// The end in this log: one that was opened anew may hold less, and what is gone is not waited for.
    fn end_in(&self, log: &Arc<Log>) -> Offset {
        if std::ptr::eq(self.log.as_ptr(), Arc::as_ptr(log)) { self.end } else { 0 }
    }
}

impl Groups {
    /// The topic, if anything was ever committed.
    pub(super) fn offsets_topic(&self) -> Result<Option<Arc<TopicInner>>> {
        match self.topics.get(OFFSETS_TOPIC) {
            Ok(topic) => Ok(Some(topic)),
            Err(error) if matches!(error.kind(), ErrorKind::UnknownTopic { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The log that holds a group.
    pub(super) fn log_of(&self, group: &str) -> Result<Option<Arc<Log>>> {
        let Some(topic) = self.offsets_topic()? else { return Ok(None) };
        topic.log(codec::partition_of(group, topic.partitions())).map(Some)
    }

    /// The log that holds a group, made if nothing was ever committed.
    fn log_to_write(&self, cell: &GroupCell) -> Result<Arc<Log>> {
        if let Some(log) = self.log_of(&cell.id)? {
            return Ok(log);
        }
        match self.make_topic.get().map(|make| make()) {
            Some(Err(error)) if !matches!(error.kind(), ErrorKind::TopicExists { .. }) => return Err(error),
            _ => {}
        }
        // Until now there was nowhere to write it.
        self.write_members(cell)?;
        let unknown = || ErrorKind::UnknownTopic { topic: OFFSETS_TOPIC.to_owned() }.into();
        self.log_of(&cell.id)?.ok_or_else(unknown)
    }

    /// Commits offsets; with `sync`, returns when they are durable. What is wrong with one of them keeps none of the
    /// others from being committed, except that somebody else owns it.
    pub(crate) fn commit(
        &self,
        cell: &GroupCell,
        by: By<'_>,
        offsets: &[(&str, i32, OffsetAndMetadata)],
        sync: bool,
    ) -> Result<()> {
        if sync {
            callback::check_outside("a commit")?;
        }
        self.check_writable()?;
        let mut refused = Ok(());
        let mut accepted = Vec::with_capacity(offsets.len());
        let mut changes = Vec::with_capacity(offsets.len());
        let mut checked = Vec::with_capacity(offsets.len());
        let commit_ms = self.context.clock.now_ms();
        for (topic, partition, wanted) in offsets {
            match self.check_offset(&cell.id, topic, *partition, wanted) {
                Err(error) => refused = refused.and(Err(error)),
                Ok(inner) => {
                    accepted.push((*topic, *partition));
                    changes.push(Change::Offset {
                        topic: inner.name.shared(),
                        partition: *partition,
                        value: Some(OffsetValue {
                            offset: wanted.offset,
                            leader_epoch: wanted.leader_epoch.unwrap_or(-1),
                            metadata: wanted.metadata.clone(),
                            commit_ms,
                            expire_ms: None,
                        }),
                    });
                    checked.push(inner);
                }
            }
        }
        let mut wakes = Wakes::default();
        if changes.is_empty() {
            // Whether it is still a member is said all the same.
            let checked = self.check_committer(cell, by, &[], &mut wakes);
            wakes.ring();
            return checked.and(refused);
        }
        let log = self.log_to_write(cell)?;
        let mut batches = self.encode(&cell.id, &changes)?;
        let end = writing(cell, &log, |written| {
            // Whoever takes back what was committed of a deleted topic comes behind this, if it is still there.
            if let Some(gone) = checked.iter().position(|topic| !self.is_there(topic)) {
                return Ok(Err(gone));
            }
            self.check_committer(cell, by, &accepted, &mut wakes)?;
            append(&log, &mut batches, written).map(Ok)
        });
        wakes.ring();
        let end = match end? {
            Ok(end) => end,
            Err(gone) => {
                // Without that one, and with a new look at the others.
                let gone = &checked[gone].name;
                let others: Vec<_> =
                    offsets.iter().filter(|(topic, _, _)| *topic != gone.as_str()).cloned().collect();
                let deleted = ErrorKind::TopicDeleted { topic: gone.to_string() };
                return self.commit(cell, by, &others, sync).and(Err(deleted.into()));
            }
        };
        if sync {
            log.wait_committed(end, None)?;
        }
        log.bound_unsynced()?;
        refused
    }

    /// Whether a topic's name still stands for it.
    fn is_there(&self, topic: &Arc<TopicInner>) -> bool {
        self.topics.known(topic.name.as_str()).is_ok_and(|known| Arc::ptr_eq(&known, topic))
    }

    /// Whether an offset can be a position at all.
    fn check_offset(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
        wanted: &OffsetAndMetadata,
    ) -> Result<Arc<TopicInner>> {
        let inner = self.topics.get(topic)?;
        if wanted.metadata.len() > OFFSET_METADATA_BYTES_MAX {
            let (group, topic, bytes) = (group.to_owned(), topic.to_owned(), wanted.metadata.len());
            return Err(ErrorKind::OffsetMetadataTooLarge { group, topic, partition, bytes }.into());
        }
        let log = inner.log(partition)?;
        if !(0..=log.log_end()).contains(&wanted.offset) {
            return Err(log.out_of_range(wanted.offset, log.log_start()..log.log_end()));
        }
        // A crash must not take back what a group has read.
        log.wait_committed(wanted.offset, None)?;
        Ok(inner)
    }

    /// Whether `by` may commit these now. `wakes` are to be rung when no lock is held.
    fn check_committer(
        &self,
        cell: &GroupCell,
        by: By<'_>,
        partitions: &[(&str, i32)],
        wakes: &mut Wakes,
    ) -> Result<()> {
        let version = self.topics.version();
        let mut state = cell.state.lock();
        state.expire(self.context.clock.monotonic(), self.context.clock.now_ms(), wakes);
        // What was owned of a topic that was made anew since is another's.
        state.refresh(version, &|name| self.look(name));
        let By::Member(seat) = by else { return cell.check_empty(&state) };
        match state.check_owner(seat.no, seat.instance.as_deref(), partitions.iter().copied()) {
            Err(gone) => Err(seat.error(gone)),
            Ok(Some((topic, partition))) => {
                let (group, topic) = (cell.id.to_string(), topic.to_owned());
                Err(ErrorKind::NotOwner { group, topic, partition }.into())
            }
            Ok(None) => Ok(()),
        }
    }

    /// Writes what `decide` says, with everything before it known and nobody committing meanwhile. Nothing is written
    /// when it says nothing.
    pub(super) fn rewrite(
        &self,
        cell: &GroupCell,
        decide: impl Fn(&GroupOffsets) -> Result<Vec<Change>>,
    ) -> Result<usize> {
        self.write_moved(Some(&cell.id))?;
        self.rewrite_as_written(cell, decide)
    }

    /// As [`Groups::rewrite`], for what [`Groups::write_moved`] itself writes.
    pub(super) fn rewrite_as_written(
        &self,
        cell: &GroupCell,
        decide: impl Fn(&GroupOffsets) -> Result<Vec<Change>>,
    ) -> Result<usize> {
        callback::check_outside("a change of a group's offsets")?;
        self.check_writable()?;
        let log = self.log_to_write(cell)?;
        loop {
            let replay = self.as_written(cell, &log)?;
            let outcome = writing(cell, &log, |written| {
                let replay = replay.lock();
                if replay.next() < written.end_in(&log) {
                    return Ok(None);
                }
                let nothing = GroupOffsets::default();
                let changes = decide(replay.groups.get(&cell.id).unwrap_or(&nothing))?;
                drop(replay);
                let mut batches = self.encode(&cell.id, &changes)?;
                Ok(Some((append(&log, &mut batches, written)?, changes.len())))
            });
            if let Some((end, count)) = outcome? {
                log.wait_committed(end, None)?;
                return Ok(count);
            }
        }
    }

    /// Writes the group's members down, where something is written down at all. Nobody waits for it: it is for those
    /// who look from outside, and for the time after the last member left.
    pub(super) fn write_members(&self, cell: &GroupCell) -> Result<()> {
        let Some(log) = self.log_of(&cell.id)? else { return Ok(()) };
        let written = writing(cell, &log, |written| {
            let value = {
                let mut state = cell.state.lock();
                if !std::mem::take(&mut state.unwritten) {
                    return Ok(());
                }
                state.value(self.context.clock.now_ms())
            };
            let mut batches = self.encode(&cell.id, &[Change::Members(Some(value))])?;
            append(&log, &mut batches, written).map(drop)
        });
        if written.is_err() {
            cell.state.lock().unwritten = true;
        }
        written
    }

    /// Batches of records about a group.
    fn encode(&self, group: &str, changes: &[Change]) -> Result<Vec<Sealed>> {
        let now = self.context.clock.now_ms();
        let mut batches = Vec::new();
        let mut builder = BatchBuilder::new(changes.len().min(1_000) * 128);
        let seal = |builder: &mut BatchBuilder| -> Result<Sealed> {
            Ok(builder.seal(Compression::None, None, &mut Vec::new())?)
        };
        for change in changes {
            let (key, value) = match change {
                Change::Offset { topic, partition, value } => {
                    (Key::offset(group, topic, *partition), value.as_ref().map(OffsetValue::encode))
                }
                Change::Members(value) => (Key::group(group), value.as_ref().map(GroupValue::encode)),
            };
            builder.push(now, Some(&key), value.as_deref(), &[]).map_err(Error::from)?;
            if builder.bytes() > OFFSETS_BATCH_BYTES {
                batches.push(seal(&mut builder)?);
                builder = BatchBuilder::new(0);
            }
        }
        if !builder.is_empty() {
            batches.push(seal(&mut builder)?);
        }
        Ok(batches)
    }

    /// The replay of a log, with everything taken up that is committed.
    pub(super) fn replay(&self, log: &Arc<Log>) -> Result<Arc<Mutex<Replay>>> {
        let replay = Arc::clone(self.replays.lock().entry(log.partition()).or_default());
        replay.lock().catch_up(log)?;
        Ok(replay)
    }

    /// As [`Groups::replay`], once everything is committed that the group wrote before the call, and what was moved
    /// back of it.
    fn settled(&self, cell: &GroupCell, log: &Arc<Log>) -> Result<Arc<Mutex<Replay>>> {
        self.write_moved(Some(&cell.id))?;
        self.as_written(cell, log)
    }

    fn as_written(&self, cell: &GroupCell, log: &Arc<Log>) -> Result<Arc<Mutex<Replay>>> {
        let end = cell.commits.lock().end_in(log);
        if end > log.high_watermark() {
            log.wait_committed(end, None)?;
        }
        self.replay(log)
    }

    /// What is known of a group, for `f`; `None` where nothing was ever committed by anybody.
    pub(super) fn with_replay<T>(&self, cell: &GroupCell, f: impl FnOnce(&Replay) -> T) -> Result<Option<T>> {
        let Some(log) = self.log_of(&cell.id)? else { return Ok(None) };
        let replay = self.settled(cell, &log)?;
        let replay = replay.lock();
        Ok(Some(f(&replay)))
    }

    /// What a group committed of each of these partitions.
    pub(crate) fn committed<'t>(
        &self,
        cell: &GroupCell,
        partitions: impl Iterator<Item = (&'t str, i32)>,
    ) -> Result<Vec<Result<Option<OffsetAndMetadata>>>> {
        let Some(log) = self.log_of(&cell.id)? else { return Ok(partitions.map(|_| Ok(None)).collect()) };
        let replay = self.settled(cell, &log)?;
        let replay = replay.lock();
        let of =
            |(topic, partition)| Ok(replay.committed(&cell.id, topic, partition)?.map(OffsetAndMetadata::of));
        Ok(partitions.map(of).collect())
    }

    /// Every group that anything is written about, with its generation there.
    pub(super) fn written_groups(&self) -> Result<BTreeMap<Arc<str>, GroupOffsets>> {
        let mut groups = BTreeMap::new();
        let Some(topic) = self.offsets_topic()? else { return Ok(groups) };
        for partition in 0..i32::try_from(topic.partitions()).unwrap_or(i32::MAX) {
            let log = match topic.log(partition) {
                Ok(log) => log,
                // A broker's directory need not hold all of them.
                Err(error) if matches!(error.kind(), ErrorKind::UnknownPartition { .. }) => continue,
                Err(error) => return Err(error),
            };
            let replay = self.replay(&log)?;
            let replay = replay.lock();
            groups.extend(replay.groups.iter().map(|(id, group)| (Arc::clone(id), group.clone())));
        }
        Ok(groups)
    }
}

/// How far the groups of a store are, for the topics that hold records for them. It does not keep them alive: they know
/// whom it is for.
pub(crate) struct Positions(pub(crate) Weak<Groups>);

impl GroupPositions for Positions {
    /// What no crash takes back; waits for nobody.
    fn position(&self, group: &str, topic: &str, partition: i32) -> Result<Option<Offset>> {
        let Some(groups) = self.0.upgrade() else { return Ok(None) };
        let Some(log) = groups.log_of(group)? else { return Ok(None) };
        let replay = groups.replay(&log)?;
        let replay = replay.lock();
        let told = replay.committed(group, topic, partition)?.map(|value| value.offset);
        // What is not written yet counts already: records behind it may be others than the group read.
        Ok(told.map(|told| groups.moved_to(group, topic, partition).map_or(told, |to| to.min(told))))
    }
}

/// Does something with nobody else of the group committing, and tells the log of it when that is over.
fn writing<T>(cell: &GroupCell, log: &Arc<Log>, work: impl FnOnce(&mut Written) -> Result<T>) -> Result<T> {
    let (result, appended) = {
        let mut written = cell.commits.lock();
        let before = written.end_in(log);
        let result = work(&mut written);
        (result, written.end_in(log) != before)
    };
    log.tell_append(appended);
    result
}

/// Appends all batches; where the last ends, or the last before.
fn append(log: &Arc<Log>, batches: &mut [Sealed], written: &mut Written) -> Result<Offset> {
    let mut rest = batches;
    while !rest.is_empty() {
        let count = log.append_quietly(rest, None)?;
        let (done, left) = rest.split_at_mut(count);
        if let Some(last) = done.last() {
            *written = Written { log: Arc::downgrade(log), end: last.header().next_offset() };
        }
        rest = left;
    }
    Ok(written.end_in(log))
}
