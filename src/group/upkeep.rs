//! What happens to groups without anybody asking: time-outs, old offsets, and offsets of what is gone.
//!
//! Invariants:
//! - After a crash no group stands behind the end of a partition: an offset that does is moved back to the end before
//!   anybody can append there, and durably before anybody is told an offset of the group: whoever tells one first
//!   writes what was moved of it. Of a partition that is opened anew in use, to the end that was found, whatever is
//!   appended meanwhile.
//! - A topic that is made finds no offsets of an older one of its name.

use std::time::Duration;

use super::expiry::{Expired, expired};
use super::offsets::Change;
use super::replay::GroupOffsets;
use super::{GroupCell, Groups, MemberNo, OFFSETS_TOPIC};
use crate::error::{Result, each};
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
    /// Above that of every member of a group that is forgotten: no member's id comes again.
    pub(super) next_no: MemberNo,
    /// Offsets that lay behind the end of their partition; each stays here until it is written anew, durably.
    moved: Vec<Arc<Moved>>,
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
        Upkeep { ticked_at: now, checked_at: now, next_no: 0, moved: Vec::new() }
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
        let (mut unwritten, mut without_members) = (false, false);
        for cell in self.known_cells() {
            let state = cell.state.lock();
            unwritten |= state.unwritten;
            without_members |= state.is_empty();
            state.next_look(now).into_iter().for_each(&mut sooner);
        }
        let upkeep = self.upkeep.lock();
        if has_offsets && without_members {
            // To forget them.
            sooner(upkeep.ticked_at + CHECK_INTERVAL);
        }
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
        let written = self.write_moved(None).and(each(cells.iter().map(|cell| self.write_members(cell))));
        let kept = if check { written.and(self.expire_offsets()) } else { written };
        drop(cells);
        // What is known of them is written down, and found there again.
        let mut forgotten = 0;
        self.cells.lock().retain(|_, cell| {
            let goes = Arc::strong_count(cell) == 1 && cell.is_idle();
            if goes {
                forgotten = forgotten.max(cell.state.lock().next_no);
            }
            !goes
        });
        let mut upkeep = self.upkeep.lock();
        upkeep.next_no = upkeep.next_no.max(forgotten);
        kept
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
                    let moved = Moved { group, topic, partition, from, to };
                    self.upkeep.lock().moved.push(Arc::new(moved));
                }
            }
        }
        // On a full disk it is tried again, and nobody is told an offset before.
        let _ = self.write_moved(None);
        reports
    }

    /// Writes offsets anew that were moved back, of all groups or of one.
    pub(super) fn write_moved(&self, only: Option<&str>) -> Result<()> {
        let mut moved = self.upkeep.lock().moved.clone();
        moved.retain(|moved| only.is_none_or(|only| *moved.group == *only));
        each(moved.chunk_by(|a, b| a.group == b.group).map(|of_group| self.write_moved_of(of_group)))
    }

    /// Writes these of one group. Two who are at the same ones do no harm: the second finds them written.
    fn write_moved_of(&self, moved: &[Arc<Moved>]) -> Result<()> {
        let Some(first) = moved.first() else { return Ok(()) };
        let decide = |group: &GroupOffsets| {
            let now = |moved: &Moved| {
                let mut known = group.offsets();
                let at = (&moved.topic, moved.partition);
                let (_, _, value) = known.find(|(topic, partition, _)| (*topic, *partition) == at)?;
                (value.offset == moved.from).then(|| value.clone())
            };
            let changes = moved.iter().filter_map(|moved| {
                let value = super::codec::OffsetValue { offset: moved.to, ..now(moved)? };
                let (topic, partition) = (Arc::clone(&moved.topic), moved.partition);
                Some(Change::Offset { topic, partition, value: Some(value) })
            });
            Ok(changes.collect())
        };
        self.rewrite_as_written(&*self.cell(&first.group)?, decide)?;
        let is_done = |entry: &Arc<Moved>| moved.iter().any(|done| Arc::ptr_eq(done, entry));
        self.upkeep.lock().moved.retain(|entry| !is_done(entry));
        Ok(())
    }

    /// Where an offset was moved to, while that is not written.
    pub(super) fn moved_to(&self, group: &str, topic: &str, partition: i32) -> Option<Offset> {
        let upkeep = self.upkeep.lock();
        let is_it = |moved: &&Arc<Moved>| {
            (&*moved.group, &*moved.topic, moved.partition) == (group, topic, partition)
        };
        upkeep.moved.iter().filter(is_it).map(|moved| moved.to).min()
    }
}

fn tombstones(offsets: Vec<(Arc<str>, i32)>) -> Vec<Change> {
    let tombstone = |(topic, partition)| Change::Offset { topic, partition, value: None };
    offsets.into_iter().map(tombstone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::tests::Interrupted;
    use crate::storage::SimDisk;
    use crate::{Acks, Maintenance, Record, Store, TopicConfig};

    #[test]
    fn an_offset_that_was_moved_back_is_told_to_nobody_as_it_was_while_others_are_being_written() {
        let clock = Interrupted::default();
        let options = Store::options().maintenance(Maintenance::Manual).clock(clock.clone());
        let store = options.disk(&SimDisk::new(1)).open("/s").unwrap();
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        let records = (0..9).map(|_| Record::to(&topic).value("v"));
        topic.partition(0).unwrap().append(records, None, Acks::All).unwrap();
        let groups = ["a", "b"].map(|id| store.group(id));
        groups.iter().for_each(|group| group.commit_offsets([("t", 0, 9)]).unwrap());
        let moved = |id: &str| {
            let (group, topic) = (id.into(), "t".into());
            Arc::new(Moved { group, topic, partition: 0, from: 9, to: 5 })
        };
        let [a, b] = groups;
        a.groups.upkeep.lock().moved.extend([moved("b"), moved("a")]);

        let told = |group: &crate::Group| group.committed().unwrap().first().map(|(_, told)| told.offset);
        let (of_b, seen) = (b.clone(), Arc::new(crate::sync::Mutex::new(None)));
        let see = Arc::clone(&seen);
        // In the middle of the writing of `a`.
        clock.interrupt(1, move || {
            *see.lock() = of_b.committed().unwrap().first().map(|(_, told)| told.offset)
        });
        assert_eq!(told(&a), Some(5));
        assert_eq!(*seen.lock(), Some(5));
        assert_eq!(told(&b), Some(5));
        assert!(a.groups.upkeep.lock().moved.is_empty());
    }
}
