//! Who of a group reads what: pure functions from members and topics to partitions.
//!
//! An assignor says what shall be. That nobody gets a partition before its owner let go of it is the coordinator's
//! work, whatever the assignor; so an answer is always the whole target.

mod range;
mod round_robin;
mod sticky;
#[cfg(test)]
mod tests;

use crate::config::AssignmentStrategy;
use crate::sync::Arc;

/// One partition, by its topic's index in [`GroupSpec::topics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex {
    /// The topic's index.
    pub topic: usize,
    /// The partition's number.
    pub partition: i32,
}

/// A topic that exists and that a member wants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSpec {
    /// Its name.
    pub name: Arc<str>,
    /// How many partitions it has.
    pub partitions: u32,
}

impl TopicSpec {
    /// A topic.
    pub fn new(name: &str, partitions: u32) -> Self {
        TopicSpec { name: name.into(), partitions }
    }
}

/// A member of a group, as an assignor sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberSpec {
    /// Its id, another one each time a consumer joins.
    pub member_id: Arc<str>,
    /// Its `group.instance.id`, the same each time, if it has one.
    pub instance_id: Option<Arc<str>>,
    /// The topics it wants, by their indexes in [`GroupSpec::topics`], ascending.
    pub topics: Vec<usize>,
    /// What the last assignment gave it, ascending; without topics that are gone.
    pub owned: Vec<PartitionIndex>,
    /// Which assignment that was; higher is newer.
    pub generation: i32,
}

impl MemberSpec {
    /// A member that owns nothing.
    pub fn new(member_id: &str, mut topics: Vec<usize>) -> Self {
        topics.sort_unstable();
        topics.dedup();
        MemberSpec {
            member_id: member_id.into(),
            instance_id: None,
            topics,
            owned: Vec::new(),
            generation: -1,
        }
    }

    fn wants(&self, topic: usize) -> bool {
        self.topics.binary_search(&topic).is_ok()
    }

    /// As the static member of this `group.instance.id`.
    #[must_use]
    pub fn instance_id(mut self, instance_id: &str) -> Self {
        self.instance_id = Some(instance_id.into());
        self
    }

    /// As the owner of these since an earlier assignment.
    #[must_use]
    pub fn owned(mut self, mut owned: Vec<PartitionIndex>, generation: i32) -> Self {
        owned.sort_unstable();
        (self.owned, self.generation) = (owned, generation);
        self
    }
}

/// What an assignor decides about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupSpec {
    /// Sorted by name.
    pub topics: Vec<TopicSpec>,
    /// Sorted by member id.
    pub members: Vec<MemberSpec>,
}

impl GroupSpec {
    /// Topics, which must be sorted by name since members refer to them by index, and members.
    pub fn new(topics: Vec<TopicSpec>, mut members: Vec<MemberSpec>) -> Self {
        members.sort_by(|a, b| a.member_id.cmp(&b.member_id));
        GroupSpec { topics, members }
    }

    /// The partitions of a topic; none of one that is not there.
    fn partitions(&self, topic: usize) -> impl ExactSizeIterator<Item = PartitionIndex> + use<> {
        let count =
            self.topics.get(topic).map_or(0, |topic| i32::try_from(topic.partitions).unwrap_or(i32::MAX));
        (0..count).map(move |partition| PartitionIndex { topic, partition })
    }

    fn has(&self, partition: &PartitionIndex) -> bool {
        let topic = self.topics.get(partition.topic);
        topic.is_some_and(|topic| u32::try_from(partition.partition).is_ok_and(|p| p < topic.partitions))
    }
}

/// The members in Kafka's order for those strategies that keep nothing: static ones by their instance ids, then the
/// others by their member ids. So a static member keeps its share when it comes back under another member id.
fn static_first(group: &GroupSpec) -> Vec<usize> {
    let mut order: Vec<usize> = (0..group.members.len()).collect();
    order.sort_by_key(|&member| {
        let member = &group.members[member];
        (member.instance_id.is_none(), member.instance_id.as_ref(), &member.member_id)
    });
    order
}

/// Decides which member of a group reads which partitions.
///
/// Called by the thread that polls, with no lock held, when members, their subscriptions or their topics changed. The
/// same input must give the same answer. [`AssignmentStrategy`](crate::AssignmentStrategy) implements it by Kafka's
/// algorithms.
///
/// ```
/// use logstead::{Assignor, GroupSpec, MemberSpec, PartitionIndex, TopicSpec};
///
/// /// Everything to the first member; the others stand by.
/// struct Leader;
///
/// impl Assignor for Leader {
///     fn name(&self) -> &str {
///         "leader"
///     }
///
///     fn assign(&self, group: &GroupSpec) -> Vec<Vec<PartitionIndex>> {
///         let mut shares = vec![Vec::new(); group.members.len()];
///         if let (Some(first), Some(share)) = (group.members.first(), shares.first_mut()) {
///             for &topic in &first.topics {
///                 let partitions = 0..group.topics[topic].partitions as i32;
///                 share.extend(partitions.map(|partition| PartitionIndex { topic, partition }));
///             }
///         }
///         shares
///     }
/// }
///
/// let group = GroupSpec::new(
///     vec![TopicSpec::new("t", 2)],
///     vec![MemberSpec::new("a", vec![0]), MemberSpec::new("b", vec![0])],
/// );
/// assert_eq!(Leader.assign(&group)[0].len(), 2);
/// ```
pub trait Assignor: Send + Sync {
    /// The name by which members agree on it: Kafka's `partition.assignment.strategy`.
    fn name(&self) -> &str;

    /// For each member, in the order of [`GroupSpec::members`], what it shall read from now on.
    ///
    /// A partition may be left to nobody. One that is given twice, or does not exist, or is of a topic that its member
    /// does not want, makes the poll that asked fail with
    /// [`ErrorKind::InvalidAssignment`](crate::ErrorKind::InvalidAssignment); everyone keeps what they have then.
    fn assign(&self, group: &GroupSpec) -> Vec<Vec<PartitionIndex>>;
}

impl Assignor for AssignmentStrategy {
    fn name(&self) -> &str {
        AssignmentStrategy::name(*self)
    }

    fn assign(&self, group: &GroupSpec) -> Vec<Vec<PartitionIndex>> {
        match self {
            AssignmentStrategy::Range => range::assign(group),
            AssignmentStrategy::RoundRobin => round_robin::assign(group),
            AssignmentStrategy::Sticky | AssignmentStrategy::CooperativeSticky => {
                sticky::assign(group).assignment
            }
        }
    }
}
