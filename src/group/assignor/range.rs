//! Kafka's `range` (`RangeAssignor`): of each topic by itself, consecutive partitions to each who wants it.

use super::{GroupSpec, PartitionIndex, static_first};

pub(super) fn assign(group: &GroupSpec) -> Vec<Vec<PartitionIndex>> {
    let mut wanting = vec![Vec::new(); group.topics.len()];
    for member in static_first(group) {
        for &topic in &group.members[member].topics {
            if let Some(wanting) = wanting.get_mut(topic) {
                wanting.push(member);
            }
        }
    }
    let mut shares = vec![Vec::new(); group.members.len()];
    for (topic, members) in wanting.iter().enumerate().filter(|(_, members)| !members.is_empty()) {
        let mut partitions = group.partitions(topic);
        let (each, more) = (partitions.len() / members.len(), partitions.len() % members.len());
        for (at, &member) in members.iter().enumerate() {
            shares[member].extend(partitions.by_ref().take(each + usize::from(at < more)));
        }
    }
    shares
}
