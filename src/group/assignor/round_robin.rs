//! Kafka's `roundrobin` (`RoundRobinAssignor`): all partitions, topic by topic, dealt to the members in a circle; one
//! that does not want the topic is passed over.

use super::{GroupSpec, PartitionIndex, static_first};

pub(super) fn assign(group: &GroupSpec) -> Vec<Vec<PartitionIndex>> {
    let circle = static_first(group);
    let mut shares = vec![Vec::new(); group.members.len()];
    // Whose turn it is, as a place in the circle.
    let mut turn = 0;
    for topic in 0..group.topics.len() {
        let wants: Vec<bool> = circle.iter().map(|&member| group.members[member].wants(topic)).collect();
        if !wants.contains(&true) {
            continue;
        }
        for partition in group.partitions(topic) {
            while !wants[turn] {
                turn = (turn + 1) % circle.len();
            }
            shares[circle[turn]].push(partition);
            turn = (turn + 1) % circle.len();
        }
    }
    shares
}
