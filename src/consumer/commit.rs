//! Committing: how far the group is, told to the group.

use super::Consumer;
use super::position::Assigned;
use crate::error::{ErrorKind, Result};
use crate::group::{By, Group, OffsetAndMetadata};
use crate::sync::Arc;
use crate::types::Offset;

impl Consumer {
    /// Commits the positions of all that is assigned: everything that `poll` returned is done with. When this returns
    /// the group goes on behind it after any crash.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use logstead::{AutoOffsetReset, ConsumerConfig, Record, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # store.create_topic("orders", TopicConfig::default())?;
    /// # store.producer()?.send(Record::to("orders").value("v"))?.wait()?;
    /// let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
    /// let mut consumer = store.group("billing").consumer_with(config)?;
    /// consumer.subscribe(["orders"])?;
    /// for record in &consumer.poll(Duration::ZERO)? {
    ///     println!("{:?}", record.value());
    /// }
    /// consumer.commit()?;
    /// assert_eq!(consumer.committed([("orders", 0)])?[0].as_ref().unwrap().offset, 1);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::RemovedFromGroup`], [`ErrorKind::FencedInstance`], [`ErrorKind::NotOwner`]: others may read those
    /// partitions; nothing was committed. [`ErrorKind::NoGroup`]. [`ErrorKind::GroupNotEmpty`]: partitions that were
    /// assigned by hand, while the group has members. [`ErrorKind::Full`], [`ErrorKind::Poisoned`] and others of the
    /// disk: whether it was committed is not known.
    pub fn commit(&mut self) -> Result<()> {
        self.commit_positions(true)
    }

    /// As [`Consumer::commit`], without waiting for the disk: when this returns the commit was let in and written. It
    /// survives the death of the process, and a power cut after `flush.ms` (1000) or the next commit that waits.
    ///
    /// # Errors
    /// As [`Consumer::commit`]. A failed sync later on comes out of the next commit that waits.
    pub fn commit_async(&mut self) -> Result<()> {
        self.commit_positions(false)
    }

    fn commit_positions(&mut self, sync: bool) -> Result<()> {
        let member = self.member.as_ref().ok_or(ErrorKind::NoGroup)?;
        if member.is_subscribed() && member.seat.is_none() {
            // It has nothing, so nothing is left undone.
            return Ok(());
        }
        // Nobody else commits what a member owns: what it knows to be committed is.
        let is_member = member.seat.is_some();
        // Of what was deleted there is nothing to go on with.
        let is_there = |name: &str, index| self.topics.known(name).is_ok_and(|topic| topic.index == index);
        let position = |(at, assigned): (usize, &Assigned)| {
            let position = assigned.uncommitted()?;
            is_there(assigned.topic.name.as_str(), assigned.topic.index).then_some((at, position))
        };
        let positions: Vec<(usize, Offset)> = self.assigned.iter().enumerate().filter_map(position).collect();
        let offset = |(at, position): &(usize, Offset)| {
            let assigned = self.assigned.get(*at)?;
            Some((assigned.topic.name.as_str(), assigned.partition, (*position).into()))
        };
        let offsets: Vec<(&str, i32, OffsetAndMetadata)> = positions.iter().filter_map(offset).collect();
        self.commit_all(&offsets, sync)?;
        if sync && is_member {
            for (at, position) in positions {
                if let Some(assigned) = self.assigned.get_mut(at) {
                    assigned.committed = Some(position);
                }
            }
        }
        Ok(())
    }

    /// Commits these offsets, and no others: for programs that finish records in another order than they read them, or
    /// note something beside an offset. An offset is that of the next record to read.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use logstead::{AutoOffsetReset, ConsumerConfig, OffsetAndMetadata, Record, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # store.create_topic("orders", TopicConfig::default())?;
    /// # for _ in 0..2 { store.producer()?.send(Record::to("orders").value("v"))?.wait()?; }
    /// # let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
    /// # let mut consumer = store.group("billing").consumer_with(config)?;
    /// # consumer.subscribe(["orders"])?;
    /// for record in &consumer.poll(Duration::ZERO)? {
    ///     consumer.commit_offsets([(record.topic(), record.partition(), record.offset() + 1)])?;
    /// }
    /// consumer.commit_offsets([("orders", 0, OffsetAndMetadata::from(2).metadata("by host a"))])?;
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Consumer::commit`]; [`ErrorKind::OffsetOutOfRange`] behind the end of a partition,
    /// [`ErrorKind::OffsetMetadataTooLarge`], [`ErrorKind::UnknownTopic`]: the others are committed all the same.
    pub fn commit_offsets<'t, O: Into<OffsetAndMetadata>>(
        &mut self,
        offsets: impl IntoIterator<Item = (&'t str, i32, O)>,
    ) -> Result<()> {
        self.commit_these(offsets, true)
    }

    /// As [`Consumer::commit_offsets`], without waiting for the disk: see [`Consumer::commit_async`].
    ///
    /// # Errors
    /// As [`Consumer::commit_offsets`].
    pub fn commit_offsets_async<'t, O: Into<OffsetAndMetadata>>(
        &mut self,
        offsets: impl IntoIterator<Item = (&'t str, i32, O)>,
    ) -> Result<()> {
        self.commit_these(offsets, false)
    }

    fn commit_these<'t, O: Into<OffsetAndMetadata>>(
        &mut self,
        offsets: impl IntoIterator<Item = (&'t str, i32, O)>,
        sync: bool,
    ) -> Result<()> {
        let offsets: Vec<_> =
            offsets.into_iter().map(|(topic, p, offset)| (topic, p, offset.into())).collect();
        for (topic, partition, _) in &offsets {
            // A commit of the position is no repetition now.
            if let Ok(assigned) = self.find(topic, *partition) {
                assigned.committed = None;
            }
        }
        self.commit_all(&offsets, sync)
    }

    /// An error unless it is a subscribed consumer of this group, and somebody else may commit for it, and only they.
    pub(crate) fn check_commits_by_hand(&self, group: &Group) -> Result<()> {
        let member = self.member.as_ref().ok_or(ErrorKind::NoGroup)?;
        if !Arc::ptr_eq(&member.groups, &group.groups) || *member.cell.id != *group.id() {
            let why =
                "the consumer is of another group, or store: make it with Group::consumer_with of this one";
            let value = member.cell.id.to_string();
            return Err(ErrorKind::InvalidConfig { name: "group.id", value, why }.into());
        }
        if self.config.enable_auto_commit {
            let why = "a worker pool commits what is done; positions are ahead of that";
            let value = "true".to_owned();
            return Err(ErrorKind::InvalidConfig { name: "enable.auto.commit", value, why }.into());
        }
        if !member.is_subscribed() {
            let why = "a worker pool shares partitions with its group: call Consumer::subscribe first";
            let value = "none".to_owned();
            return Err(ErrorKind::InvalidConfig { name: "subscription", value, why }.into());
        }
        Ok(())
    }

    pub(super) fn commit_all(&self, offsets: &[(&str, i32, OffsetAndMetadata)], sync: bool) -> Result<()> {
        let member = self.member.as_ref().ok_or(ErrorKind::NoGroup)?;
        let by = match &member.seat {
            Some(seat) => By::Member(seat),
            None if !member.is_subscribed() => By::Outside,
            None => {
                let Some((topic, partition, _)) = offsets.first() else { return Ok(()) };
                let (group, topic) = (member.cell.id.to_string(), (*topic).to_owned());
                return Err(ErrorKind::NotOwner { group, topic, partition: *partition }.into());
            }
        };
        member.groups.commit(&member.cell, by, offsets, sync)
    }

    /// What the group committed of each of these partitions, assigned or not; `None`: nothing. Only what no crash takes
    /// back is told: a commit that was not waited for is, here.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetsDamaged`], [`ErrorKind::NoGroup`]; the offsets can not be read.
    pub fn committed<'t>(
        &self,
        partitions: impl IntoIterator<Item = (&'t str, i32)>,
    ) -> Result<Vec<Option<OffsetAndMetadata>>> {
        let member = self.member.as_ref().ok_or(ErrorKind::NoGroup)?;
        member.groups.committed(&member.cell, partitions.into_iter())?.into_iter().collect()
    }
}
