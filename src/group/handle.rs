//! A group in the user's hand: a name, and what can be asked of it and done to it.

use std::any::Any;
use std::fmt;

use super::offsets::Change;
use super::replay::GroupOffsets;
use super::reset::plan;
use super::{
    Assignor, By, GroupCell, GroupDescription, GroupLag, Groups, OffsetAndMetadata, ResetPlan, ResetTo,
};
use crate::error::{ErrorKind, Result};
use crate::sync::Arc;
use crate::types::TopicPartition;

/// A consumer group: consumers that share topics, and how far they are together.
///
/// Cheap to clone, for any thread; made by [`Store::group`](crate::Store::group), whether the group exists or not. It
/// begins to exist with its first member or committed offset.
///
/// ```
/// use std::time::Duration;
/// use logstead::{AutoOffsetReset, ConsumerConfig, Record, Store, TopicConfig};
///
/// let store = Store::in_memory()?;
/// store.create_topic("orders", TopicConfig::default().partitions(4))?;
/// store.producer()?.send(Record::to("orders").key("alice").value("2 apples"))?.wait()?;
///
/// let billing = store.group("billing");
/// let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
/// let mut consumer = billing.consumer_with(config)?;
/// consumer.subscribe(["orders"])?;
/// assert_eq!(consumer.poll(Duration::ZERO)?.len(), 1);
/// assert_eq!(billing.lag()?.total, 1);
/// consumer.commit()?;
/// assert_eq!(billing.lag()?.total, 0);
/// # Ok::<(), logstead::Error>(())
/// ```
#[derive(Clone)]
pub struct Group {
    pub(crate) groups: Arc<Groups>,
    id: Arc<str>,
    /// Of the user's own; in front of those of the configuration.
    pub(crate) assignor: Option<Arc<dyn Assignor>>,
    pub(crate) store: Arc<dyn Any + Send + Sync>,
}

impl Group {
    pub(crate) fn new(groups: &Arc<Groups>, id: &str, store: Arc<dyn Any + Send + Sync>) -> Self {
        Group { groups: Arc::clone(groups), id: id.into(), assignor: None, store }
    }

    /// Its name: Kafka's `group.id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Has consumers that are made by this handle share partitions as this assignor says, instead of as
    /// `partition.assignment.strategy` does. All members of the group must know it by its name.
    #[must_use]
    pub fn assignor(mut self, assignor: impl Assignor + 'static) -> Self {
        self.assignor = Some(Arc::new(assignor));
        self
    }

    fn cell(&self) -> Result<Arc<GroupCell>> {
        self.groups.cell(&self.id)
    }

    /// Its members, what they have, and where the group stands. A group that nobody heard of is empty.
    ///
    /// # Errors
    /// What is written about the group can not be read.
    pub fn describe(&self) -> Result<GroupDescription> {
        Ok(self.groups.describe(&*self.cell()?))
    }

    /// How far it is behind, in each partition that it committed an offset of or that a member has, and in all.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetsDamaged`]; a partition can not be opened.
    pub fn lag(&self) -> Result<GroupLag> {
        self.groups.lag(&*self.cell()?)
    }

    /// All that it committed, by topic and partition: what no crash takes back.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetsDamaged`]; what is written about the group can not be read.
    pub fn committed(&self) -> Result<Vec<(TopicPartition, OffsetAndMetadata)>> {
        let cell = self.cell()?;
        let all = self.groups.with_replay(&cell, |replay| {
            let group = replay.groups.get(&cell.id);
            let all = group.into_iter().flat_map(|group| group.topics.iter());
            let all = all.flat_map(|(topic, partitions)| {
                partitions.keys().map(|partition| (Arc::clone(topic), *partition))
            });
            all.filter_map(|(topic, partition)| {
                let value = replay.committed(&cell.id, &topic, partition).transpose()?;
                let at = TopicPartition { topic, partition };
                Some(value.map(|value| (at, OffsetAndMetadata::of(value))))
            })
            .collect::<Result<Vec<_>>>()
        })?;
        all.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Commits offsets from outside, while the group has no members: when this returns they are durable.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotEmpty`], [`ErrorKind::InvalidConfig`] (its name is too long to be written), and nothing is
    /// changed. An unknown topic or partition,
    /// [`ErrorKind::OffsetOutOfRange`], [`ErrorKind::OffsetMetadataTooLarge`]: the others are committed all the same.
    pub fn commit_offsets<'t, O: Into<OffsetAndMetadata>>(
        &self,
        offsets: impl IntoIterator<Item = (&'t str, i32, O)>,
    ) -> Result<()> {
        let offsets: Vec<_> =
            offsets.into_iter().map(|(topic, p, offset)| (topic, p, offset.into())).collect();
        self.groups.commit(&*self.cell()?, By::Outside, &offsets, true)
    }

    /// Works out where the group would stand in a topic, and changes nothing: [`ResetPlan::apply`] does.
    ///
    /// ```
    /// # use logstead::{Acks, Record, ResetTo, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # let topic = store.create_topic("orders", TopicConfig::default())?;
    /// # topic.partition(0)?.append((0..9).map(|_| Record::to(&topic).value("v")), None, Acks::All)?;
    /// let billing = store.group("billing");
    /// billing.commit_offsets([("orders", 0, 9)])?;
    ///
    /// let plan = billing.plan_reset("orders", ResetTo::Shift(-2))?;
    /// assert_eq!((plan.moves[0].from, plan.moves[0].to), (Some(9), 7));
    /// assert_eq!(billing.committed()?[0].1.offset, 9, "a plan changes nothing");
    /// plan.apply()?;
    /// assert_eq!(billing.committed()?[0].1.offset, 7);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`]; a partition can not be read.
    pub fn plan_reset(&self, topic: &str, to: ResetTo) -> Result<ResetPlan> {
        plan(self, &*self.cell()?, topic, to)
    }

    /// Forgets the group and all that it committed.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownGroup`]; [`ErrorKind::GroupNotEmpty`]: close its consumers first.
    pub fn delete(&self) -> Result<()> {
        let unknown = || ErrorKind::UnknownGroup { group: self.id.to_string() };
        let cell = self.cell()?;
        self.groups.with_state(&cell, |state, _, _| cell.check_empty(state))?;
        if self.groups.log_of(&self.id)?.is_none() {
            return Err(unknown().into());
        }
        let decide = |group: &GroupOffsets| {
            let mut state = cell.state.lock();
            cell.check_empty(&state)?;
            let at = group.topics.iter().flat_map(|(topic, partitions)| {
                partitions.keys().map(|partition| (Arc::clone(topic), *partition))
            });
            let mut changes: Vec<Change> =
                at.map(|(topic, partition)| Change::Offset { topic, partition, value: None }).collect();
            if group.listed.is_some() {
                changes.push(Change::Members(None));
            }
            state.unwritten = false;
            Ok(changes)
        };
        if self.groups.rewrite(&cell, decide)? == 0 { Err(unknown().into()) } else { Ok(()) }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).finish_non_exhaustive()
    }
}
