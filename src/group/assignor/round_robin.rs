//! Kafka's `roundrobin`: all partitions in turn, to the members in a circle.

use super::{GroupSpec, PartitionIndex};

pub(super) fn assign(group: &GroupSpec) -> Vec<Vec<PartitionIndex>> {
    let mut shares = vec![Vec::new(); group.members.len()];
    let mut turn = 0;
    for (topic, spec) in group.topics.iter().enumerate() {
        for partition in 0..i32::try_from(spec.partitions).unwrap_or(i32::MAX) {
            let members = group.members.len();
            let next = (turn..turn + members).map(|at| at % members);
            let mut wanting =
                next.filter(|at| group.members.get(*at).is_some_and(|m| m.topics.contains(&topic)));
            if let Some(at) = wanting.next()
                && let Some(share) = shares.get_mut(at)
            {
                share.push(PartitionIndex { topic, partition });
                turn = at + 1;
            }
        }
    }
    shares
}
