//! How the members of a group share partitions.

use std::fmt;
use std::str::FromStr;

use super::invalid;
use crate::error::Error;

/// How a group spreads partitions over its members, by Kafka's algorithms: `partition.assignment.strategy`.
///
/// Whichever it is, members that keep a partition go on reading it while others move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AssignmentStrategy {
    /// `range`: of each topic by itself, consecutive partitions to each member. Partitions of the same number go to the
    /// same member, whatever the topic: for joins. With fewer partitions a topic than members, some stand idle.
    Range,
    /// `roundrobin`: all partitions in turn. Even, and most of them move when a member comes or goes.
    RoundRobin,
    /// `sticky`: even, and as few as possible move.
    Sticky,
    /// `cooperative-sticky`: the same as `sticky` here, where every group hands over partition by partition.
    CooperativeSticky,
}

impl AssignmentStrategy {
    const ALL: [(AssignmentStrategy, &'static str, &'static str); 4] = [
        (AssignmentStrategy::Range, "range", "RangeAssignor"),
        (AssignmentStrategy::RoundRobin, "roundrobin", "RoundRobinAssignor"),
        (AssignmentStrategy::Sticky, "sticky", "StickyAssignor"),
        (AssignmentStrategy::CooperativeSticky, "cooperative-sticky", "CooperativeStickyAssignor"),
    ];

    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(strategy, ..)| *strategy == self).map_or("", |(_, name, _)| name)
    }
}

impl fmt::Display for AssignmentStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AssignmentStrategy {
    type Err = Error;

    /// By its name, or by the class that Kafka's clients name.
    fn from_str(text: &str) -> Result<Self, Error> {
        let class = text.strip_prefix("org.apache.kafka.clients.consumer.");
        let found = Self::ALL.iter().find(|(_, name, known)| *name == text || class == Some(known));
        found.map(|(strategy, ..)| *strategy).ok_or_else(|| {
            let why = "is none of range, roundrobin, sticky, cooperative-sticky";
            invalid("partition.assignment.strategy", text, why)
        })
    }
}
