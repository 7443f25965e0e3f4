//! Which record a thread takes next, and how far each partition is done: no thread, no clock and no log in sight.
//!
//! A *strand* is a row of records that must be handled one after another: those of a partition, or of a key.
//!
//! Invariants:
//! - Of a strand at most one record is in hand; it goes on when that one is done, and waits when it is to be retried.
//! - `done` of a partition is the lowest offset that is not done, whatever is done above it.
//! - A partition that was taken away gives out no more records, and what is still in hand of it counts no more once
//!   it is forgotten.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use super::config::OrderBy;
use crate::{Offset, SharedRecord, TopicPartition};

/// A strand: of which assignment of a partition, and of which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct StrandId {
    assignment: u64,
    key: u64,
}

#[derive(Debug, Default)]
struct Strand {
    records: VecDeque<SharedRecord>,
    /// Of the first one.
    failures: u32,
}

/// A record in the hand of a thread.
#[derive(Debug)]
pub(super) struct Task {
    strand: StrandId,
    pub(super) record: SharedRecord,
    /// How often it failed before.
    pub(super) failures: u32,
}

/// How far a partition is.
#[derive(Debug)]
struct Progress {
    name: TopicPartition,
    /// What was given in, from the first that is not done; whether each is done.
    given: VecDeque<(Offset, bool)>,
    /// Where reading goes on behind all that was given in, or where it begins.
    position: Option<Offset>,
    committed: Option<Offset>,
    /// Given in and not done.
    open: usize,
    in_hand: usize,
    paused: bool,
    leaving: bool,
}

impl Progress {
    fn done(&self) -> Option<Offset> {
        self.given.front().map(|(offset, _)| *offset).or(self.position)
    }

    fn finish(&mut self, offset: Offset) {
        let Ok(at) = self.given.binary_search_by_key(&offset, |(offset, _)| *offset) else { return };
        if let Some((_, done)) = self.given.get_mut(at)
            && !std::mem::replace(done, true)
        {
            self.open -= 1;
        }
        while self.given.front().is_some_and(|(_, done)| *done) {
            self.given.pop_front();
        }
    }
}

/// How far a partition is, for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) name: TopicPartition,
    pub(super) done: Option<Offset>,
    pub(super) committed: Option<Offset>,
    pub(super) open: usize,
    pub(super) in_hand: usize,
    pub(super) paused: bool,
}

#[derive(Debug, Default)]
pub(super) struct Schedule {
    order: OrderBy,
    /// Records that a pool reads ahead.
    buffered: usize,
    assigned: BTreeMap<TopicPartition, u64>,
    partitions: HashMap<u64, Progress>,
    next_assignment: u64,
    strands: HashMap<StrandId, Strand>,
    ready: VecDeque<StrandId>,
    /// Strands whose first record waits for its next attempt.
    waiting: BinaryHeap<Reverse<(Duration, StrandId)>>,
    /// Rows of strands that ended, for new ones.
    spare: Vec<VecDeque<SharedRecord>>,
}

/// More rows than this are given back.
const SPARE_MAX: usize = 64;

impl Schedule {
    pub(super) fn new(order: OrderBy, buffered: usize) -> Self {
        Schedule { order, buffered, ..Schedule::default() }
    }

    pub(super) fn assign(&mut self, name: &TopicPartition, committed: Option<Offset>) {
        self.forget(name);
        self.next_assignment += 1;
        self.assigned.insert(name.clone(), self.next_assignment);
        let progress = Progress {
            name: name.clone(),
            given: VecDeque::new(),
            position: committed,
            committed,
            open: 0,
            in_hand: 0,
            paused: false,
            leaving: false,
        };
        self.partitions.insert(self.next_assignment, progress);
    }

    /// Takes in records of one partition, in their order. `false`: it is not assigned, and none was taken.
    pub(super) fn give(
        &mut self,
        name: &TopicPartition,
        records: impl Iterator<Item = SharedRecord>,
    ) -> bool {
        let Some(&assignment) = self.assigned.get(name) else { return false };
        let Some(progress) = self.partitions.get_mut(&assignment) else { return false };
        for shared in records {
            let record = shared.record();
            let offset = record.offset();
            let key = match self.order {
                OrderBy::Partition => 0,
                OrderBy::Key => record.key().map_or(offset as u64, hash),
            };
            let id = StrandId { assignment, key };
            let strand = self.strands.entry(id).or_insert_with(|| {
                self.ready.push_back(id);
                Strand { records: self.spare.pop().unwrap_or_default(), failures: 0 }
            });
            strand.records.push_back(shared);
            progress.given.push_back((offset, false));
            progress.position = Some(offset + 1);
            progress.open += 1;
        }
        true
    }

    /// Where reading goes on in a partition, behind what was given in.
    pub(super) fn read_up_to(&mut self, name: &TopicPartition, position: Offset) {
        if let Some(progress) = self.progress(name) {
            progress.position = Some(position);
        }
    }

    /// Whether nothing of it was committed or given in.
    pub(super) fn begins(&self, name: &TopicPartition) -> bool {
        let progress = self.assigned.get(name).and_then(|assignment| self.partitions.get(assignment));
        progress.is_some_and(|progress| progress.committed.is_none() && progress.given.is_empty())
    }

    pub(super) fn committed(&mut self, name: &TopicPartition, offset: Offset) {
        if let Some(progress) = self.progress(name) {
            progress.committed = Some(offset);
        }
    }

    fn progress(&mut self, name: &TopicPartition) -> Option<&mut Progress> {
        self.partitions.get_mut(self.assigned.get(name)?)
    }

    // ───────── records out and back

    /// The next record that may be handled at `now`.
    pub(super) fn take(&mut self, now: Duration) -> Option<Task> {
        while let Some(Reverse((due, strand))) = self.waiting.peek().copied()
            && due <= now
        {
            self.waiting.pop();
            if self.strands.contains_key(&strand) {
                self.ready.push_back(strand);
            }
        }
        loop {
            let id = self.ready.pop_front()?;
            // One of a partition that was taken away has none.
            let Some(strand) = self.strands.get_mut(&id) else { continue };
            let Some(record) = strand.records.pop_front() else { continue };
            if let Some(progress) = self.partitions.get_mut(&id.assignment) {
                progress.in_hand += 1;
            }
            return Some(Task { strand: id, record, failures: strand.failures });
        }
    }

    /// When the next record may be handled that waits for its time.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.waiting.peek().map(|Reverse((due, _))| *due)
    }

    /// A record is done. `true`: its partition holds little enough to be read on.
    pub(super) fn finish(&mut self, task: &Task) -> bool {
        let share = self.share();
        self.next_of(task.strand);
        let Some(progress) = self.partitions.get_mut(&task.strand.assignment) else { return false };
        progress.in_hand -= 1;
        progress.finish(task.record.record().offset());
        progress.paused && progress.open <= share / 2
    }

    /// A record is to be tried again at `due`.
    pub(super) fn retry(&mut self, task: Task, due: Duration) {
        let strand = task.strand;
        self.put_back(task);
        if self.strands.contains_key(&strand) {
            self.waiting.push(Reverse((due, strand)));
        }
    }

    /// A record is not done, and nobody tries it again here.
    pub(super) fn put_back(&mut self, task: Task) {
        if let Some(progress) = self.partitions.get_mut(&task.strand.assignment) {
            progress.in_hand -= 1;
        }
        if let Some(strand) = self.strands.get_mut(&task.strand) {
            strand.failures = task.failures.saturating_add(1);
            strand.records.push_front(task.record);
        }
    }

    /// The strand of a record that is done goes on, or ends.
    fn next_of(&mut self, id: StrandId) {
        let Some(strand) = self.strands.get_mut(&id) else { return };
        strand.failures = 0;
        if !strand.records.is_empty() {
            return self.ready.push_back(id);
        }
        if let Some(ended) = self.strands.remove(&id)
            && self.spare.len() < SPARE_MAX
        {
            self.spare.push(ended.records);
        }
    }

    // ───────── partitions away

    /// Gives out no more records of a partition; how many of it are in hand.
    pub(super) fn leave(&mut self, name: &TopicPartition) -> usize {
        let Some(&assignment) = self.assigned.get(name) else { return 0 };
        let Some(progress) = self.partitions.get_mut(&assignment) else { return 0 };
        if !std::mem::replace(&mut progress.leaving, true) {
            self.strands.retain(|id, _| id.assignment != assignment);
        }
        progress.in_hand
    }

    pub(super) fn forget(&mut self, name: &TopicPartition) {
        self.leave(name);
        if let Some(assignment) = self.assigned.remove(name) {
            self.partitions.remove(&assignment);
        }
    }

    // ───────── how far

    /// What is done and not committed.
    pub(super) fn to_commit(&self) -> Vec<(TopicPartition, Offset)> {
        let done = |progress: &Progress| {
            let done = progress.done().filter(|done| progress.committed != Some(*done))?;
            Some((progress.name.clone(), done))
        };
        self.in_order().filter_map(done).collect()
    }

    /// Which partitions hold too much and are to be paused, and which are to be read on; they count as that from now.
    pub(super) fn flow(&mut self) -> (Vec<TopicPartition>, Vec<TopicPartition>) {
        let share = self.share();
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for progress in self.partitions.values_mut() {
            let (full, low) = (progress.open >= share, progress.open <= share / 2);
            match progress.paused {
                false if full => pause.push(progress.name.clone()),
                true if low => resume.push(progress.name.clone()),
                _ => continue,
            }
            progress.paused = !progress.paused;
        }
        (pause, resume)
    }

    /// How many records a partition may hold.
    fn share(&self) -> usize {
        (self.buffered / self.partitions.len().max(1)).max(1)
    }

    pub(super) fn view(&self) -> Vec<View> {
        let view = |progress: &Progress| View {
            name: progress.name.clone(),
            done: progress.done(),
            committed: progress.committed,
            open: progress.open,
            in_hand: progress.in_hand,
            paused: progress.paused,
        };
        self.in_order().map(view).collect()
    }

    /// Whether anything is to be done, or to be committed.
    pub(super) fn is_busy(&self) -> bool {
        self.in_order().any(|p| p.open > 0 || p.done().is_some() && p.done() != p.committed)
    }

    /// The partitions that were never read.
    pub(super) fn unread(&self) -> Vec<TopicPartition> {
        self.in_order().filter(|p| p.position.is_none()).map(|p| p.name.clone()).collect()
    }

    pub(super) fn names(&self) -> Vec<TopicPartition> {
        self.assigned.keys().cloned().collect()
    }

    /// The partitions of which everything is done that was given in.
    pub(super) fn idle(&self) -> Vec<TopicPartition> {
        self.in_order().filter(|p| p.given.is_empty()).map(|p| p.name.clone()).collect()
    }

    pub(super) fn name_of(&self, task: &Task) -> Option<&TopicPartition> {
        self.partitions.get(&task.strand.assignment).map(|progress| &progress.name)
    }

    fn in_order(&self) -> impl Iterator<Item = &Progress> {
        self.assigned.values().filter_map(|assignment| self.partitions.get(assignment))
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}
