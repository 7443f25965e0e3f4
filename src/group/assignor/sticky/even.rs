//! The case in which all members want the same topics: shares differ by one at most, and a member gives away only what
//! is above its share.

use std::collections::VecDeque;

use super::{Owned, Places};
use crate::group::assignor::{GroupSpec, PartitionIndex};

pub(super) fn assign(group: &GroupSpec, places: &Places, owned: &Owned) -> Vec<Vec<PartitionIndex>> {
    let mut shares: Vec<Vec<PartitionIndex>> = vec![Vec::new(); group.members.len()];
    let Some(first) = group.members.first() else { return shares };
    let all: Vec<PartitionIndex> = first.topics.iter().flat_map(|&topic| group.partitions(topic)).collect();

    for partition in &all {
        if let Some(owner) = owned.by[places.of(partition)] {
            shares[owner].push(*partition);
        }
    }
    // Every share has `least`, and `more` of them have one above it.
    let (least, more) = (all.len() / shares.len(), all.len() % shares.len());
    let most = least + usize::from(more > 0);
    let mut with_more = 0;
    let mut under = Vec::new();
    let mut exact = VecDeque::new();
    for (member, share) in shares.iter_mut().enumerate() {
        if share.len() < least {
            under.push(member);
            continue;
        }
        // Of all topics the lower numbers stay.
        share.sort_unstable_by_key(|partition| (partition.partition, partition.topic));
        if share.len() >= most && with_more < more {
            with_more += 1;
            share.truncate(most);
        } else {
            share.truncate(least);
            exact.push_back(member);
        }
    }

    let mut kept = vec![false; places.count];
    for partition in shares.iter().flatten() {
        kept[places.of(partition)] = true;
    }
    // One at a time to those under their share; then one more each to those that have no more than it.
    let mut turn = 0;
    for partition in all.iter().filter(|partition| !kept[places.of(partition)]) {
        let member = match under.is_empty() {
            true => exact.pop_front(),
            false => {
                turn %= under.len();
                Some(under[turn])
            }
        };
        let Some(member) = member else { break };
        shares[member].push(*partition);
        if under.get(turn) != Some(&member) {
            continue;
        }
        if shares[member].len() == least {
            under.remove(turn);
            exact.push_back(member);
        } else {
            turn += 1;
        }
    }
    shares
}
