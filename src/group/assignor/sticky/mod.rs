//! Kafka's `sticky` and `cooperative-sticky` (`AbstractStickyAssignor`): even shares, and as much as can be stays where
//! it is.
//!
//! Invariants:
//! - A partition that several members claim counts as owned by the one of the highest generation, and by nobody where
//!   two of that generation claim it.
//! - Every partition of a topic that somebody wants is given to exactly one who wants it.
//! - What is transferring is claimed by a member that does not keep it: until all of those let go of it, nobody may
//!   have it.
//!
//! Where Kafka's answer hangs on the order of a hash map (who of several keeps one more than the others), members go by
//! their ids here: the same input gives the same answer.

mod even;
mod mixed;

use super::{GroupSpec, PartitionIndex};

/// An assignment, and what moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// By member; each share ascending.
    pub(super) assignment: Vec<Vec<PartitionIndex>>,
    /// Partitions that go from one member to another, or that two claimed; ascending. Kafka's cooperative assignor
    /// leaves them out of its answer; here the coordinator withholds what is still owned, whatever the strategy.
    pub(super) transferring: Vec<PartitionIndex>,
}

pub(super) fn assign(group: &GroupSpec) -> Outcome {
    let places = Places::new(group);
    let owned = Owned::new(group, &places);
    let even = group.members.windows(2).all(|pair| pair[0].topics == pair[1].topics);
    let mut assignment = match even {
        true => even::assign(group, &places, &owned),
        false => mixed::assign(group, &places, &owned),
    };
    let mut transferring = Vec::new();
    for (member, share) in assignment.iter_mut().enumerate() {
        share.sort_unstable();
        let moves = |partition: &&PartitionIndex| {
            let place = places.of(partition);
            owned.claimed[place] && owned.by[place] != Some(member)
        };
        transferring.extend(share.iter().filter(moves).copied());
    }
    transferring.sort_unstable();
    Outcome { assignment, transferring }
}

/// Every partition as a number: those of the first topic, then those of the next, and so on.
struct Places {
    firsts: Vec<usize>,
    count: usize,
}

impl Places {
    fn new(group: &GroupSpec) -> Self {
        let mut count = 0;
        let first = |topic| {
            let first = count;
            count += group.partitions(topic).len();
            first
        };
        let firsts = (0..group.topics.len()).map(first).collect();
        Places { firsts, count }
    }

    fn of(&self, partition: &PartitionIndex) -> usize {
        self.firsts[partition.topic] + partition.partition as usize
    }
}

/// Who has what, by the members' own words.
struct Owned {
    /// By place: who has it rightly.
    by: Vec<Option<usize>>,
    /// By place: whether anybody says to have it.
    claimed: Vec<bool>,
    /// By place: who had it by the latest word that is older than the newest of the group.
    before: Vec<Option<usize>>,
}

impl Owned {
    fn new(group: &GroupSpec, places: &Places) -> Self {
        let newest = group.members.iter().map(|member| member.generation).max().unwrap_or(NEVER);
        let mut owned = Owned {
            by: vec![None; places.count],
            claimed: vec![false; places.count],
            before: vec![None; places.count],
        };
        let mut generations = vec![(i32::MIN, i32::MIN); places.count];
        let mut last_claim = vec![usize::MAX; places.count];
        for (member, spec) in group.members.iter().enumerate() {
            for partition in spec.owned.iter().filter(|partition| group.has(partition)) {
                let place = places.of(partition);
                if std::mem::replace(&mut last_claim[place], member) == member {
                    continue; // named twice by the same one
                }
                owned.claimed[place] = true;
                let (best, best_before) = &mut generations[place];
                match spec.generation.cmp(best) {
                    std::cmp::Ordering::Greater => (owned.by[place], *best) = (Some(member), spec.generation),
                    std::cmp::Ordering::Equal => owned.by[place] = None,
                    std::cmp::Ordering::Less => {}
                }
                if spec.generation < newest && spec.generation > *best_before {
                    (owned.before[place], *best_before) = (Some(member), spec.generation);
                }
            }
        }
        owned
    }
}

/// The generation of a member that was never assigned anything.
const NEVER: i32 = -1;
