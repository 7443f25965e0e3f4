//! From members to a target: what an assignor is asked, with no lock held, and whether its answer can be followed.

use std::time::Duration;

use super::assignor::{Assignor, GroupSpec, MemberSpec, PartitionIndex, TopicSpec};
use super::coordinator::{Coordinator, Member, MemberNo, Named, Wakes};
use super::slots::Place;
use crate::sync::Arc;

/// A question to an assignor, and what it takes to understand the answer.
pub(crate) struct Plan {
    pub(super) assignor: Arc<dyn Assignor>,
    pub(super) name: Arc<str>,
    pub(super) spec: GroupSpec,
    epoch: i32,
    /// The group's own index of each topic of the question.
    topics: Vec<usize>,
    members: Vec<MemberNo>,
}

/// What became of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    Followed,
    /// The group changed meanwhile.
    Late,
    /// It can not be followed, and why.
    Wrong(String),
}

/// Those of `one` that are known to all `others`.
pub(super) fn common<'n, 'm>(one: &'n [Named], others: impl Iterator<Item = &'m [Named]>) -> Vec<&'n str> {
    let mut common: Vec<&str> = one.iter().map(|assignor| &*assignor.name).collect();
    for other in others {
        common.retain(|name| other.iter().any(|assignor| &*assignor.name == *name));
    }
    common
}

/// Each member votes for the first of its assignors that all know; the most votes win, the first member's among equals.
fn choose<'m>(members: &[&'m Member]) -> Option<&'m Named> {
    let (first, others) = members.split_first()?;
    let common = common(&first.joining.assignors, others.iter().map(|other| &*other.joining.assignors));
    let mut votes: Vec<(&Named, usize)> = Vec::new();
    for member in members {
        let vote = member.joining.assignors.iter().find(|assignor| common.contains(&&*assignor.name))?;
        match votes.iter_mut().find(|(voted, _)| voted.name == vote.name) {
            Some((_, count)) => *count += 1,
            None => votes.push((vote, 1)),
        }
    }
    // Of equal ones `max_by_key` takes the last.
    votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(assignor, _)| assignor)
}

impl Coordinator {
    /// The question for the present epoch; whoever asks it plans until [`Coordinator::set_planning`] says otherwise.
    /// `None`: nothing is to be planned, or somebody is at it.
    pub(crate) fn plan(&mut self, now: Duration, wakes: &mut Wakes) -> Option<Plan> {
        if self.is_planned() {
            return None;
        }
        let mut members: Vec<(&MemberNo, &Member)> = self.members.iter().collect();
        members.sort_by(|(_, a), (_, b)| a.id.cmp(&b.id));
        let (nos, members): (Vec<MemberNo>, Vec<&Member>) =
            members.into_iter().map(|(no, m)| (*no, m)).unzip();
        // All members were found to have one in common when they joined.
        let chosen = choose(&members)?;
        let (assignor, name) = (Arc::clone(&chosen.assignor), Arc::clone(&chosen.name));
        // In the order of their names.
        let topics: Vec<usize> = self.wanted().iter().filter_map(|name| self.slots.find(name)).collect();
        // By the group's own index.
        let mut index_of: Vec<Option<usize>> = vec![None; self.slots.len()];
        for (index, slot) in topics.iter().enumerate() {
            index_of[*slot] = Some(index);
        }
        let mut specs: Vec<MemberSpec> = Vec::with_capacity(members.len());
        let mut last: Option<&Member> = None;
        for member in members {
            // Most members of a group want the same.
            let same = last.filter(|last| last.joining.wanted == member.joining.wanted).and(specs.last());
            let indexes = match same {
                Some(spec) => spec.topics.clone(),
                None => {
                    let slots = member.joining.wanted.iter().filter_map(|name| self.slots.find(name));
                    slots.filter_map(|slot| index_of[slot]).collect()
                }
            };
            let owned = member.target.iter().filter_map(|place| {
                let topic = index_of[place.topic]?;
                Some(PartitionIndex { topic, partition: place.partition })
            });
            let mut owned: Vec<PartitionIndex> = owned.collect();
            owned.sort_unstable();
            specs.push(MemberSpec {
                member_id: Arc::clone(&member.id),
                instance_id: member.joining.instance_id.clone(),
                topics: indexes,
                owned,
                generation: member.targeted,
            });
            last = Some(member);
        }
        let topic_specs = topics.iter().filter_map(|slot| self.slots.get(*slot));
        let topic_specs =
            topic_specs.map(|slot| TopicSpec { name: Arc::clone(&slot.name), partitions: slot.partitions });
        let spec = GroupSpec { topics: topic_specs.collect(), members: specs };
        let plan = Plan { assignor, name, spec, epoch: self.epoch, topics, members: nos };
        self.set_planning(true, now, wakes);
        Some(plan)
    }

    /// Takes an assignor's answer for the target, if it is one, and still asked for.
    pub(crate) fn install(
        &mut self,
        plan: &Plan,
        answer: &[Vec<PartitionIndex>],
        now: Duration,
        wakes: &mut Wakes,
    ) -> Installed {
        if plan.epoch != self.epoch {
            return Installed::Late;
        }
        if let Err(why) = check(&plan.spec, answer) {
            return Installed::Wrong(why);
        }
        let place = |index: &PartitionIndex| {
            Some(Place { topic: *plan.topics.get(index.topic)?, partition: index.partition })
        };
        let targets = plan.members.iter().zip(answer);
        let targets = targets.map(|(no, share)| (*no, share.iter().filter_map(place).collect())).collect();
        self.assignor = Some(Arc::clone(&plan.name));
        self.follow(targets, now, wakes);
        Installed::Followed
    }
}

/// Whether every partition is there, wanted by whom it is given to, and given once.
fn check(spec: &GroupSpec, answer: &[Vec<PartitionIndex>]) -> Result<(), String> {
    if answer.len() != spec.members.len() {
        return Err(format!("answered for {} members, not {}", answer.len(), spec.members.len()));
    }
    let mut given: Vec<Vec<bool>> =
        spec.topics.iter().map(|topic| vec![false; topic.partitions as usize]).collect();
    for (member, share) in spec.members.iter().zip(answer) {
        for index in share {
            let name = || spec.topics.get(index.topic).map_or("?", |topic| &*topic.name);
            let place = given.get_mut(index.topic).and_then(|topic| {
                let partition = usize::try_from(index.partition).ok()?;
                topic.get_mut(partition)
            });
            let Some(place) = place else {
                return Err(format!("gives away {}-{}, which does not exist", name(), index.partition));
            };
            if std::mem::replace(place, true) {
                return Err(format!("gives {}-{} away twice", name(), index.partition));
            }
            if member.topics.binary_search(&index.topic).is_err() {
                let (member, partition) = (&member.member_id, index.partition);
                return Err(format!("gives {}-{partition} to {member}, which does not want it", name()));
            }
        }
    }
    Ok(())
}
