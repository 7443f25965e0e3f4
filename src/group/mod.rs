//! Consumer groups: who of a group reads what, and how far the group is.

mod assignor;

pub use assignor::{Assignor, GroupSpec, MemberSpec, PartitionIndex, TopicSpec};
