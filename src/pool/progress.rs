//! How far a pool is: what it hands to whoever asks.

use std::fmt;
use std::time::Duration;

use super::breaker::Breaker;
use crate::{Offset, TopicPartition};

/// How far a [`WorkerPool`](crate::WorkerPool) is, and what it is doing; printed as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolProgress {
    /// The partitions that are assigned to this pool, by name.
    pub partitions: Vec<PartitionProgress>,
    /// Records that the handler did.
    pub handled: u64,
    /// Attempts that failed, panics among them.
    pub failures: u64,
    /// Attempts that ended in a panic.
    pub panics: u64,
    /// Records that were given up and skipped.
    pub skipped: u64,
    /// Records that were given up and went to the dead-letter topic.
    pub dead_lettered: u64,
    /// Whether the handler is called at all.
    pub breaker: Breaker,
    /// What the threads have in hand, by thread.
    pub in_hand: Vec<InHand>,
    /// What the last attempt that failed said, or the last commit.
    pub last_error: Option<String>,
}

/// How far a pool is in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionProgress {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset that is not done, whatever is done above it; `None` before the first look.
    pub done: Option<Offset>,
    /// What is committed of that.
    pub committed: Option<Offset>,
    /// The end of the log: one behind the last record that can be read.
    pub end: Offset,
    /// Records that were read ahead and are not done.
    pub buffered: usize,
    /// Those of them that a thread has in hand.
    pub in_hand: usize,
    /// It is not read on, because it holds its share.
    pub is_paused: bool,
}

impl PartitionProgress {
    /// How many offsets lie between what is done and the end of the log; all, while that is not known.
    pub fn lag(&self) -> u64 {
        u64::try_from(self.end - self.done.unwrap_or(0)).unwrap_or(0)
    }
}

/// A record that a thread has in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InHand {
    /// The thread, counted from 0.
    pub thread: usize,
    /// Where the record is from.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// For how long.
    pub since: Duration,
}

impl PoolProgress {
    /// The lag of all its partitions.
    pub fn lag(&self) -> u64 {
        self.partitions.iter().map(PartitionProgress::lag).sum()
    }
}

impl fmt::Display for PoolProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = |offset: Option<Offset>| offset.map_or_else(|| "-".to_owned(), |o| o.to_string());
        let titles = ("partition", "done", "committed", "end", "lag", "buffered");
        writeln!(
            f,
            "{:<30} {:>12} {:>12} {:>12} {:>10} {:>9}",
            titles.0, titles.1, titles.2, titles.3, titles.4, titles.5
        )?;
        for p in &self.partitions {
            let name = format!("{}-{}", p.topic, p.partition);
            let (done, committed) = (offset(p.done), offset(p.committed));
            let paused = if p.is_paused { " paused" } else { "" };
            writeln!(
                f,
                "{name:<30} {done:>12} {committed:>12} {:>12} {:>10} {:>9}{paused}",
                p.end,
                p.lag(),
                p.buffered
            )?;
        }
        let PoolProgress { handled, failures, panics, skipped, dead_lettered, breaker, .. } = self;
        write!(
            f,
            "handled {handled}, failed attempts {failures} (panics {panics}), skipped {skipped}, \
             dead-lettered {dead_lettered}, breaker {breaker:?}"
        )?;
        for hand in &self.in_hand {
            write!(
                f,
                "\nthread {}: {} offset {} for {:?}",
                hand.thread, hand.partition, hand.offset, hand.since
            )?;
        }
        match &self.last_error {
            Some(error) => write!(f, "\nlast error: {error}"),
            None => Ok(()),
        }
    }
}
