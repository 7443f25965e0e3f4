//! The topics of a group, and who owns each of their partitions and who is to own it next.
//!
//! Invariants:
//! - A topic keeps its index as long as the group has members; one that was made anew under a name has another.
//! - Partitions are added, never taken away: a [`Place`] stays good.

use std::collections::HashMap;

use super::coordinator::MemberNo;
use crate::sync::Arc;

/// One partition, by the index of its topic in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(super) topic: usize,
    pub(super) partition: i32,
}

/// What a topic's name stands for now: which topic, and how many partitions it has.
pub(crate) type Look<'l> = &'l dyn Fn(&str) -> Option<(usize, u32)>;

/// A topic that a member wants or wanted, as long as it is the same topic.
pub(super) struct TopicSlot {
    pub(super) name: Arc<str>,
    /// A topic made anew under the name is another one.
    instance: usize,
    /// 0 when it is gone.
    pub(super) partitions: u32,
    owners: Vec<Option<MemberNo>>,
    heirs: Vec<Option<MemberNo>>,
}

impl TopicSlot {
    fn grow(&mut self, partitions: u32) {
        self.partitions = partitions;
        self.owners.resize(self.owners.len().max(partitions as usize), None);
        self.heirs.resize(self.heirs.len().max(partitions as usize), None);
    }
}

/// All topics of a group.
#[derive(Default)]
pub(super) struct Slots {
    topics: Vec<TopicSlot>,
    by_name: HashMap<Arc<str>, usize>,
}

impl Slots {
    /// Looks what these names stand for now. Whether that is something else than before.
    pub(super) fn look_at(&mut self, names: impl Iterator<Item = Arc<str>>, look: Look<'_>) -> bool {
        let mut changed = false;
        for name in names {
            let now = look(&name);
            let known = self.by_name.get(&name).copied();
            let same = known.zip(now).and_then(|(at, (instance, partitions))| {
                let slot = self.topics.get_mut(at).filter(|slot| slot.instance == instance)?;
                Some((slot, partitions))
            });
            if let Some((slot, partitions)) = same {
                changed |= slot.partitions != partitions;
                slot.grow(partitions);
                continue;
            }
            changed |= known.is_some() || now.is_some();
            if let Some(gone) = known.and_then(|at| self.topics.get_mut(at)) {
                gone.partitions = 0;
            }
            self.by_name.remove(&name);
            if let Some((instance, partitions)) = now {
                let (owners, heirs) = (Vec::new(), Vec::new());
                let mut slot = TopicSlot { name: Arc::clone(&name), instance, partitions, owners, heirs };
                slot.grow(partitions);
                self.by_name.insert(name, self.topics.len());
                self.topics.push(slot);
            }
        }
        changed
    }

    /// Forgets all of them: there are no members, so no place is known to anybody.
    pub(super) fn clear(&mut self) {
        *self = Slots::default();
    }

    /// The index of the topic that has the name now.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Above every index that was given out.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(super) fn get(&self, topic: usize) -> Option<&TopicSlot> {
        self.topics.get(topic)
    }

    /// The topic's name, which topic of that name, and the partition.
    pub(super) fn name_of(&self, place: Place) -> Option<(Arc<str>, usize, i32)> {
        let slot = self.topics.get(place.topic)?;
        Some((Arc::clone(&slot.name), slot.instance, place.partition))
    }

    /// Who may read it now. Places are made from slots that are there.
    pub(super) fn owner(&mut self, place: Place) -> &mut Option<MemberNo> {
        &mut self.topics[place.topic].owners[place.partition as usize]
    }

    /// Whose target names it.
    pub(super) fn heir(&mut self, place: Place) -> &mut Option<MemberNo> {
        &mut self.topics[place.topic].heirs[place.partition as usize]
    }

    pub(super) fn forget_heirs(&mut self) {
        self.topics.iter_mut().for_each(|slot| slot.heirs.iter_mut().for_each(|heir| *heir = None));
    }
}
