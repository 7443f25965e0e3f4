//! Moving a group to other offsets: worked out first, done when asked to.

use std::fmt;

use super::{Group, GroupCell};
use crate::config::IsolationLevel;
use crate::error::Result;
use crate::types::{Offset, TopicPartition};

/// Where a group is to go on: see [`Group::plan_reset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResetTo {
    /// At the first record that is kept.
    Earliest,
    /// Behind the last record.
    Latest,
    /// At this offset; where it is not kept, at the nearest that is.
    Offset(Offset),
    /// At the first record at least as young as this time, in milliseconds since 1970; behind the last where all are
    /// older.
    Time(i64),
    /// This many records further, or back where it is negative, as far as there are any. A partition that nothing was
    /// committed of is left out.
    Shift(i64),
}

/// What a reset would do to one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OffsetMove {
    /// Which.
    pub partition: TopicPartition,
    /// What is committed; `None`: nothing.
    pub from: Option<Offset>,
    /// What will be.
    pub to: Offset,
}

/// What a reset would do: look at it, take out what is to stay, apply it.
#[derive(Clone, Debug)]
#[must_use = "a plan changes nothing before it is applied"]
pub struct ResetPlan {
    group: Group,
    /// By partition.
    pub moves: Vec<OffsetMove>,
}

impl ResetPlan {
    /// Commits the new offsets; when this returns they are durable.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotEmpty`](crate::ErrorKind::GroupNotEmpty): members would go on from where they are. Close
    /// them first; nothing is changed.
    pub fn apply(self) -> Result<()> {
        let moves = self.moves.iter();
        self.group.commit_offsets(moves.map(|m| (&*m.partition.topic, m.partition.partition, m.to)))
    }
}

impl fmt::Display for ResetPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<32} {:>14} {:>14}", "partition", "from", "to")?;
        for OffsetMove { partition, from, to } in &self.moves {
            let from = from.map_or_else(|| "-".to_owned(), |from| from.to_string());
            write!(f, "\n{:<32} {from:>14} {to:>14}", partition.to_string())?;
        }
        Ok(())
    }
}

pub(super) fn plan(group: &Group, cell: &GroupCell, topic: &str, to: ResetTo) -> Result<ResetPlan> {
    let inner = group.groups.topics.get(topic)?;
    let partitions = 0..i32::try_from(inner.partitions()).unwrap_or(i32::MAX);
    let committed = group.groups.committed(cell, partitions.clone().map(|partition| (topic, partition)))?;
    let mut moves = Vec::new();
    for (partition, committed) in partitions.zip(committed) {
        // A reset is how a damaged offset is mended.
        let from = committed.ok().flatten().map(|committed| committed.offset);
        let log = inner.log(partition)?;
        let (start, end) = (log.log_start(), log.read_end(IsolationLevel::ReadUncommitted)?);
        let to = match to {
            ResetTo::Earliest => start,
            ResetTo::Latest => end,
            ResetTo::Offset(offset) => offset,
            ResetTo::Time(time) => log.offset_for_time(time)?.map_or(end, |(offset, _)| offset),
            ResetTo::Shift(by) => match from {
                Some(from) => from.saturating_add(by),
                None => continue,
            },
        };
        let at = TopicPartition { topic: inner.name.shared(), partition };
        moves.push(OffsetMove { partition: at, from, to: to.clamp(start, end) });
    }
    Ok(ResetPlan { group: group.clone(), moves })
}
