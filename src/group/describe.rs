//! What a group tells of itself: its members, what they have, and how far behind they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::codec::{GroupValue, MemberValue, assignment, subscription};
use super::coordinator::{Coordinator, Member};
use super::slots::Place;
use super::{GroupCell, Groups};
use crate::config::IsolationLevel;
use crate::error::Result;
use crate::sync::Arc;
use crate::types::{Offset, TopicPartition};

/// Where a group stands between two assignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupState {
    /// It has no members; its offsets are kept.
    Empty,
    /// Something changed, and nobody has worked out yet who reads what from now on.
    Assigning,
    /// Partitions are on their way from one member to another.
    Reconciling,
    /// Every member has what it shall have.
    Stable,
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A group at one moment: see [`Group::describe`](crate::Group::describe).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// Where it stands.
    pub state: GroupState,
    /// Counts the changes of members, of what they want, and of their topics; it goes on after a restart.
    pub epoch: i32,
    /// Who worked out the assignment; `None` before the first.
    pub assignor: Option<String>,
    /// In the order in which they joined.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberDescription {
    /// Another one each time that a consumer joins.
    pub member_id: String,
    /// `group.instance.id`, the same each time.
    pub instance_id: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// The newest epoch whose assignment it has, all of it; -1 before the first.
    pub epoch: i32,
    /// Its consumer is gone, and its partitions are kept for the next one.
    pub absent: bool,
    /// The topics that it wants.
    pub topics: Vec<String>,
    /// What it reads now.
    pub assignment: Vec<TopicPartition>,
    /// What it will read when the others let go of it.
    pub target: Vec<TopicPartition>,
}

/// How far a group is behind: see [`Group::lag`](crate::Group::lag).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLag {
    /// By topic and partition: what was committed, and what members have.
    pub partitions: Vec<PartitionLag>,
    /// Records behind what was committed, in all of them.
    pub total: u64,
}

/// How far a group is behind in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionLag {
    /// Which.
    pub partition: TopicPartition,
    /// The offset of the next record; `None`: nothing was committed.
    pub committed: Option<Offset>,
    /// The first offset that is kept.
    pub log_start_offset: Offset,
    /// One behind the last record that readers see.
    pub end_offset: Offset,
    /// Offsets from the committed one to the end, those that are not kept any more left out; all that are kept, where
    /// nothing was committed.
    pub lag: u64,
    /// The id of the member that reads it.
    pub owner: Option<String>,
}

impl Coordinator {
    fn state(&self) -> GroupState {
        if self.is_empty() {
            GroupState::Empty
        } else if self.target_epoch != self.epoch {
            GroupState::Assigning
        } else if self.members.values().any(|member| !member.is_absent() && member.epoch != self.epoch) {
            GroupState::Reconciling
        } else {
            GroupState::Stable
        }
    }

    fn names<'p>(&self, places: impl IntoIterator<Item = &'p Place>) -> Vec<TopicPartition> {
        let named = places.into_iter().filter_map(|place| self.slots.name_of(*place));
        let mut named: Vec<TopicPartition> =
            named.map(|(topic, _, partition)| TopicPartition { topic, partition }).collect();
        named.sort();
        named
    }

    fn describe(&self, group: &str) -> GroupDescription {
        let member = |member: &Member| MemberDescription {
            member_id: member.id.to_string(),
            instance_id: member.joining.instance_id.as_deref().map(str::to_owned),
            client_id: member.joining.client_id.to_string(),
            epoch: member.epoch,
            absent: member.is_absent(),
            topics: member.joining.wanted.iter().map(|topic| topic.to_string()).collect(),
            assignment: self.names(member.held()),
            target: self.names(&member.target),
        };
        GroupDescription {
            group: group.to_owned(),
            state: self.state(),
            epoch: self.epoch,
            assignor: self.assignor.as_deref().map(str::to_owned),
            members: self.members.values().map(member).collect(),
        }
    }

    /// The group as Kafka's record of it: an epoch is a generation, and the assignment is what it shall be.
    pub(super) fn value(&self, now_ms: i64) -> GroupValue {
        let ms = |time: std::time::Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        let member = |member: &Member| {
            let mut by_topic: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
            for (topic, _, partition) in member.target.iter().filter_map(|place| self.slots.name_of(*place)) {
                by_topic.entry(topic).or_default().push(partition);
            }
            MemberValue {
                member_id: member.id.to_string(),
                instance_id: member.joining.instance_id.as_deref().map(str::to_owned),
                client_id: member.joining.client_id.to_string(),
                // Kafka's form of an address: the consumer is in this process.
                client_host: "/127.0.0.1".to_owned(),
                rebalance_timeout_ms: ms(member.joining.max_poll_interval),
                session_timeout_ms: ms(member.joining.session_timeout),
                subscription: subscription(member.joining.wanted.iter().map(|topic| &**topic)),
                assignment: assignment(
                    by_topic.iter().map(|(topic, partitions)| (&**topic, partitions.clone())),
                ),
            }
        };
        let members: Vec<MemberValue> = self.members.values().map(member).collect();
        GroupValue {
            protocol_type: "consumer".to_owned(),
            generation: self.epoch,
            protocol: self.assignor.as_deref().filter(|_| !members.is_empty()).map(str::to_owned),
            leader: members.first().map(|member| member.member_id.clone()),
            state_ms: if members.is_empty() && self.state_ms >= 0 { self.state_ms } else { now_ms },
            members,
        }
    }
}

impl Groups {
    /// The names of all groups: those that have members, and those of which anything is written.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names: BTreeSet<Arc<str>> = self.written_groups()?.into_keys().collect();
        let cells: Vec<Arc<GroupCell>> = self.cells.lock().values().map(Arc::clone).collect();
        for cell in cells {
            if self.with_state(&cell, |state, _, _| !state.is_empty()) {
                names.insert(Arc::clone(&cell.id));
            }
        }
        Ok(names.into_iter().map(|name| name.to_string()).collect())
    }

    pub(super) fn describe(&self, cell: &GroupCell) -> GroupDescription {
        let version = self.topics.version();
        self.with_state(cell, |state, _, _| {
            state.refresh(version, &|name| self.look(name));
            state.describe(&cell.id)
        })
    }

    pub(super) fn lag(&self, cell: &GroupCell) -> Result<GroupLag> {
        let committed = self.with_replay(cell, |replay| {
            let group = replay.groups.get(&cell.id);
            let all = group.into_iter().flat_map(|group| group.topics.iter());
            let all = all.flat_map(|(topic, partitions)| {
                partitions.keys().map(|partition| (Arc::clone(topic), *partition))
            });
            all.map(|(topic, partition)| {
                let offset = replay.committed(&cell.id, &topic, partition)?.map(|value| value.offset);
                Ok(((topic, partition), offset))
            })
            .collect::<Result<BTreeMap<_, _>>>()
        })?;
        let mut committed = committed.transpose()?.unwrap_or_default();
        let owners: BTreeMap<(Arc<str>, i32), Arc<str>> = self.with_state(cell, |state, _, _| {
            let held =
                state.members.values().flat_map(|member| member.held().map(move |place| (member, *place)));
            held.filter_map(|(member, place)| {
                let (topic, _, partition) = state.slots.name_of(place)?;
                Some(((topic, partition), Arc::clone(&member.id)))
            })
            .collect()
        });
        for partition in owners.keys() {
            committed.entry(partition.clone()).or_insert(None);
        }
        let mut lag = GroupLag::default();
        for ((topic, partition), committed) in committed {
            // Of a topic that was deleted there is nothing to read.
            let Ok(inner) = self.topics.known(&topic) else { continue };
            let log = inner.log(partition)?;
            let (start, end) = (log.log_start(), log.read_end(IsolationLevel::ReadUncommitted)?);
            let next = committed.unwrap_or(start).max(start);
            let behind = u64::try_from(end.saturating_sub(next)).unwrap_or(0);
            lag.total += behind;
            lag.partitions.push(PartitionLag {
                owner: owners.get(&(Arc::clone(&topic), partition)).map(|owner| owner.to_string()),
                partition: TopicPartition { topic, partition },
                committed,
                log_start_offset: start,
                end_offset: end,
                lag: behind,
            });
        }
        Ok(lag)
    }
}

impl fmt::Display for GroupLag {
    /// A table, as Kafka's `kafka-consumer-groups` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32} {:>14} {:>14} {:>12}  owner", "partition", "committed", "end", "lag")?;
        for partition in &self.partitions {
            let name = partition.partition.to_string();
            let committed = partition.committed.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
            let (end, lag) = (partition.end_offset, partition.lag);
            let owner = partition.owner.as_deref().unwrap_or("-");
            writeln!(f, "{name:<32} {committed:>14} {end:>14} {lag:>12}  {owner}")?;
        }
        write!(f, "{:<32} {:>14} {:>14} {:>12}", "total", "", "", self.total)
    }
}
