//! What happens to groups without anybody asking: time-outs, old offsets, and offsets of what is gone.
//!
//! Invariants:
//! - After a crash no group stands behind the end of a partition: an offset that does is moved back to the end before
//!   anybody can append there, and durably before anybody is told an offset of the group. Of a partition that is opened
//!   anew in use, to the end that was found, whatever is appended meanwhile.
//! - A topic that is made finds no offsets of an older one of its name.

use std::time::Duration;

use super::expiry::{Expired, expired};
use super::offsets::Change;
use super::replay::GroupOffsets;
use super::{GroupCell, Groups, OFFSETS_TOPIC};
use crate::error::{Error, Result, each};
use crate::log::{PartitionReport, RecoveryEvent};
use crate::sync::Arc;
use crate::types::{Durability, Offset};

/// How often old offsets are looked for: Kafka's `offsets.retention.check.interval.ms`.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

/// When what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is to be done, and when it was done last.
#[derive(Debug)]
pub(super) struct Upkeep {
    ticked_at: Duration,
    checked_at: Duration,
    /// Offsets that lay behind the end of their partition, and are not written anew yet.
    moved: Vec<Moved>,
}

#[derive(Clone, Debug)]
struct Moved {
    group: Arc<str>,
    topic: Arc<str>,
    partition: i32,
    from: Offset,
    to: Offset,
}

impl Upkeep {
    pub(super) fn new(now: Duration) -> Self {
        Upkeep { ticked_at: now, checked_at: now, moved: Vec::new() }
    }
}

impl Groups {
    fn known_cells(&self) -> Vec<Arc<GroupCell>> {
        self.cells.lock().values().map(Arc::clone).collect()
    }

    fn has_offsets(&self) -> bool {
        self.topics.contains(OFFSETS_TOPIC)
    }

    /// Whether [`Groups::tick`] has something to do, and how long until it has. Looks at no file.
    pub(crate) fn due(&self, now: Duration) -> (bool, Option<Duration>) {
        if self.context.read_only {
            return (false, None);
        }
        let has_offsets = self.has_offsets();
        let mut at: Option<Duration> = None;
        let mut sooner = |other: Duration| at = Some(at.map_or(other, |at| at.min(other)));
        let mut unwritten = false;
        for cell in self.known_cells() {
            let state = cell.state.lock();
            unwritten |= state.unwritten;
            state.next_look(now).into_iter().for_each(&mut sooner);
        }
        let upkeep = self.upkeep.lock();
        if has_offsets && (unwritten || !upkeep.moved.is_empty()) {
            sooner(upkeep.ticked_at + RETRY);
        }
        if has_offsets && self.retention_ms.is_some() {
            sooner(upkeep.checked_at + CHECK_INTERVAL);
        }
        (at.is_some_and(|at| at <= now), at.map(|at| at.saturating_sub(now)))
    }

    /// Removes members whose time is up, and offsets that are too old; writes down what was not yet.
    pub(crate) fn tick(&self) -> Result<()> {
        if self.context.read_only {
            return Ok(());
        }
        let now = self.context.clock.monotonic();
        let check = {
            let mut upkeep = self.upkeep.lock();
            upkeep.ticked_at = now;
            let check = now >= upkeep.checked_at + CHECK_INTERVAL;
            if check {
                upkeep.checked_at = now;
            }
            check
        };
        let cells = self.known_cells();
        cells.iter().for_each(|cell| self.with_state(cell, |_, _, _| ()));
        if !self.has_offsets() {
            return Ok(());
        }
        let written = self.write_moved().and(each(cells.iter().map(|cell| self.write_members(cell))));
        if check { written.and(self.expire_offsets()) } else { written }
    }

    /// Takes offsets back that are older than `offsets.retention.minutes`.
    fn expire_offsets(&self) -> Result<()> {
        let Some(retention_ms) = self.retention_ms else { return Ok(()) };
        each(self.written_groups()?.iter().map(|(id, group)| self.expire_group(id, group, retention_ms)))
    }

    fn expire_group(&self, id: &Arc<str>, group: &GroupOffsets, retention_ms: i64) -> Result<()> {
        let now_ms = self.context.clock.now_ms();
        let had_members = group.listed.as_ref().is_some_and(|listed| listed.members > 0);
        let may_go = expired(group, None, now_ms, retention_ms);
        if !had_members && may_go == Expired::default() {
            return Ok(());
        }
        let cell = self.cell(id)?;
        if had_members && cell.state.lock().is_empty() {
            // They ended with another run of the program: it is empty from now on.
            cell.state.lock().unwritten = true;
            return self.write_members(&cell);
        }
        if self.with_replay(&cell, |replay| replay.is_damaged())? == Some(true) {
            // What is known of it may not be the last word.
            return Ok(());
        }
        let decide = |group: &GroupOffsets| {
            let state = cell.state.lock();
            let wants = |topic: &str| state.wants(topic);
            let wants: Option<&dyn Fn(&str) -> bool> = if state.is_empty() { None } else { Some(&wants) };
            let expired = expired(group, wants, now_ms, retention_ms);
            let mut changes = tombstones(expired.offsets);
            if expired.group && group.listed.is_some() {
                changes.push(Change::Members(None));
            }
            Ok(changes)
        };
        self.rewrite(&cell, decide).map(drop)
    }

    /// Takes back what groups committed of a topic: it is gone, or is about to be made.
    pub(crate) fn forget_topic(&self, topic: &str) -> Result<()> {
        if topic == OFFSETS_TOPIC || !self.has_offsets() {
            return Ok(());
        }
        // What can not be read is not told to anybody either.
        let groups = self.written_groups().unwrap_or_default();
        let with = groups.iter().filter(|(_, group)| group.partitions(topic).next().is_some());
        each(with.map(|(id, _)| {
            let name: Arc<str> = topic.into();
            let all = |group: &GroupOffsets| {
                Ok(tombstones(
                    group.partitions(topic).map(|partition| (Arc::clone(&name), partition)).collect(),
                ))
            };
            self.rewrite(&*self.cell(id)?, all).map(drop)
        }))
    }

    /// Moves offsets back that lie behind the end of their partition: after a crash that took records, or of the one
    /// partition that was just opened anew, by the end that was found then.
    pub(crate) fn move_back(&self, only: Option<(&str, i32, Offset)>) -> Vec<PartitionReport> {
        // What a `Disk` topic of ours showed is never lost.
        let may_lose = |topic: &str| {
            let topic = self.topics.known(topic).ok()?;
            (topic.config().durability == Durability::PageCache || !topic.is_ours()).then_some(topic)
        };
        let any = self.topics.sorted().iter().any(|topic| may_lose(topic.name.as_str()).is_some());
        if self.context.read_only || !self.has_offsets() || !any {
            return Vec::new();
        }
        let mut reports = Vec::new();
        for (id, group) in self.written_groups().unwrap_or_default() {
            for (topic, partition, value) in group.offsets() {
                if only.is_some_and(|(only, number, _)| (only, number) != (&**topic, partition)) {
                    continue;
                }
                let Some(log) = may_lose(topic).and_then(|topic| topic.log(partition).ok()) else { continue };
                let (from, to) = (value.offset, only.map_or_else(|| log.log_end(), |(_, _, end)| end));
                if from > to {
                    let event = RecoveryEvent::OffsetMovedBack { group: id.to_string(), from, to };
                    reports.push(PartitionReport {
                        topic: topic.to_string(),
                        partition,
                        events: vec![event],
                    });
                    let (group, topic) = (Arc::clone(&id), Arc::clone(topic));
                    self.upkeep.lock().moved.push(Moved { group, topic, partition, from, to });
                }
            }
        }
        // On a full disk it is tried again, and nobody is told an offset before.
        let _ = self.write_moved();
        reports
    }

    /// Writes offsets anew that were moved back.
    pub(super) fn write_moved(&self) -> Result<()> {
        let mut moved = std::mem::take(&mut self.upkeep.lock().moved);
        while let Some(last) = moved.last() {
            let group = Arc::clone(&last.group);
            let of_group = |group: &GroupOffsets| {
                let now = |moved: &Moved| {
                    let mut known = group.offsets();
                    let (_, _, value) = known.find(|(topic, partition, _)| {
                        (*topic, *partition) == (&moved.topic, moved.partition)
                    })?;
                    (value.offset == moved.from).then(|| value.clone())
                };
                let mine = moved.iter().filter(|moved| moved.group == last.group);
                let changes = mine.filter_map(|moved| {
                    let value = super::codec::OffsetValue { offset: moved.to, ..now(moved)? };
                    let (topic, partition) = (Arc::clone(&moved.topic), moved.partition);
                    Some(Change::Offset { topic, partition, value: Some(value) })
                });
                Ok(changes.collect())
            };
            let written: Result<usize, Error> =
                self.cell(&group).and_then(|cell| self.rewrite(&cell, of_group));
            if let Err(error) = written {
                self.upkeep.lock().moved.append(&mut moved);
                return Err(error);
            }
            moved.retain(|moved| moved.group != group);
        }
        Ok(())
    }
}

fn tombstones(offsets: Vec<(Arc<str>, i32)>) -> Vec<Change> {
    let tombstone = |(topic, partition)| Change::Offset { topic, partition, value: None };
    offsets.into_iter().map(tombstone).collect()
}
