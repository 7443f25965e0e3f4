//! What must hold of every assignment (M19), for random topics, members and changes.

use std::collections::{BTreeSet, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use AssignmentStrategy::{CooperativeSticky, Range, RoundRobin, Sticky};

/// One change of a group.
#[derive(Clone, Debug)]
enum Change {
    Join(u8, Vec<u8>),
    JoinStatic(u8, Vec<u8>),
    Leave(u8),
    Want(u8, Vec<u8>),
    /// A topic gets so many partitions; 0: it is deleted.
    Topic(u8, u32),
    /// A member missed the last assignments and still thinks that it has what it had before them.
    Stale(u8, i32),
}

fn wants(all_the_same: bool) -> BoxedStrategy<Vec<u8>> {
    if all_the_same { Just((0..6).collect()).boxed() } else { vec(0..6_u8, 0..5).boxed() }
}

fn change(even: bool) -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..12_u8, wants(even)).prop_map(|(id, wants)| Change::Join(id, wants)),
        1 => (0..12_u8, wants(even)).prop_map(|(id, wants)| Change::JoinStatic(id, wants)),
        2 => (0..12_u8).prop_map(Change::Leave),
        1 => (0..12_u8, wants(even)).prop_map(|(id, wants)| Change::Want(id, wants)),
        2 => (0..6_u8, 0..9_u32).prop_map(|(topic, partitions)| Change::Topic(topic, partitions)),
        1 => (0..12_u8, 0..4_i32).prop_map(|(id, by)| Change::Stale(id, by)),
    ]
}

fn make(world: &mut World, change: &Change) {
    let (id, topic) = (|id: &u8| format!("m{id:02}"), |topic: &u8| format!("t{topic}"));
    let names = |wants: &[u8]| wants.iter().map(topic).collect::<Vec<_>>().join(" ");
    match change {
        Change::Join(member, wants) => *world = world.clone().join(&id(member), &names(wants)),
        Change::JoinStatic(member, wants) => {
            *world = world.clone().join_static(&id(member), &format!("i{}", 99 - member), &names(wants));
        }
        Change::Leave(member) => drop(world.members.remove(&id(member))),
        Change::Want(member, wants) => {
            if let Some(member) = world.members.get_mut(&id(member)) {
                member.wants = wants.iter().map(topic).collect();
            }
        }
        Change::Topic(name, 0) => drop(world.topics.remove(&topic(name))),
        Change::Topic(name, partitions) => {
            let count = world.topics.entry(topic(name)).or_default();
            *count = (*count).max(*partitions);
        }
        Change::Stale(member, by) => {
            if let Some(member) = world.members.get_mut(&id(member)) {
                member.generation = (member.generation - by).max(-1);
            }
        }
    }
}

/// Every partition of a topic that somebody wants has one owner, who wants it; and nothing else is given.
fn check_valid(spec: &GroupSpec, assignment: &[Vec<PartitionIndex>]) {
    assert_eq!(assignment.len(), spec.members.len());
    let mut given = BTreeSet::new();
    for (member, share) in spec.members.iter().zip(assignment) {
        for partition in share {
            assert!(spec.has(partition), "{partition:?} is not there");
            assert!(
                member.topics.contains(&partition.topic),
                "{} does not want {partition:?}",
                member.member_id
            );
            assert!(given.insert(*partition), "{partition:?} is given twice");
        }
    }
    let wanted = |topic: &usize| spec.members.iter().any(|member| member.topics.contains(topic));
    let all: usize = (0..spec.topics.len()).filter(wanted).map(|topic| spec.partitions(topic).len()).sum();
    assert_eq!(given.len(), all, "some are given to nobody");
}

/// No member can take a partition from one that has at least two more.
fn check_balanced(spec: &GroupSpec, assignment: &[Vec<PartitionIndex>]) {
    for (poor, few) in spec.members.iter().zip(assignment) {
        for (rich, many) in spec.members.iter().zip(assignment) {
            let could = many.iter().find(|partition| poor.topics.contains(&partition.topic));
            if let Some(partition) = could.filter(|_| many.len() >= few.len() + 2) {
                let (rich, poor) = (&rich.member_id, &poor.member_id);
                panic!("{poor} with {} could take {partition:?} from {rich} with {}", few.len(), many.len());
            }
        }
    }
}

/// Between two members, partitions of one topic move one way only.
fn check_no_swaps(spec: &GroupSpec, assignment: &[Vec<PartitionIndex>]) {
    let mut before: HashMap<PartitionIndex, usize> = HashMap::new();
    for (member, spec) in spec.members.iter().enumerate() {
        before.extend(spec.owned.iter().map(|partition| (*partition, member)));
    }
    let mut moves = BTreeSet::new();
    for (to, share) in assignment.iter().enumerate() {
        for partition in share {
            if let Some(&from) = before.get(partition).filter(|from| **from != to) {
                assert!(
                    !moves.contains(&(partition.topic, to, from)),
                    "{from} and {to} swap of {partition:?}"
                );
                moves.insert((partition.topic, from, to));
            }
        }
    }
}

fn kept(spec: &GroupSpec, assignment: &[Vec<PartitionIndex>]) -> usize {
    let kept = |(member, share): (&MemberSpec, &Vec<PartitionIndex>)| {
        share.iter().filter(|partition| member.owned.contains(partition)).count()
    };
    spec.members.iter().zip(assignment).map(kept).sum()
}

/// The most that can stay where it is if shares differ by one at most: a member keeps up to the smaller share, and as
/// many of them as may have the larger share keep one more.
fn most_that_can_stay(spec: &GroupSpec) -> usize {
    let all: usize = spec.members[0].topics.iter().map(|topic| spec.partitions(*topic).len()).sum();
    let (least, more) = (all / spec.members.len(), all % spec.members.len());
    let owned =
        |member: &MemberSpec| member.owned.iter().filter(|p| member.topics.contains(&p.topic)).count();
    let above = spec.members.iter().filter(|member| owned(member) > least).count();
    spec.members.iter().map(|member| owned(member).min(least)).sum::<usize>() + above.min(more)
}

fn claims_are_unique(spec: &GroupSpec) -> bool {
    let mut seen = BTreeSet::new();
    spec.members.iter().flat_map(|member| &member.owned).all(|partition| seen.insert(*partition))
}

proptest! {
    #[test]
    fn range_gives_each_who_wants_a_topic_a_run_of_it(changes in vec(change(false), 1..40)) {
        let mut world = World::default();
        for change in &changes {
            make(&mut world, change);
        }
        let spec = world.spec();
        let assignment = Range.assign(&spec);
        check_valid(&spec, &assignment);
        for topic in 0..spec.topics.len() {
            let of_topic = |share: &Vec<PartitionIndex>| {
                share.iter().filter(|p| p.topic == topic).map(|p| p.partition).collect::<Vec<_>>()
            };
            let mut counts = Vec::new();
            for (member, share) in spec.members.iter().zip(&assignment) {
                let run = of_topic(share);
                prop_assert!(run.windows(2).all(|pair| pair[1] == pair[0] + 1), "{run:?} has a gap");
                if member.topics.contains(&topic) {
                    counts.push(run.len());
                }
            }
            let spread = counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0);
            prop_assert!(spread <= 1, "{counts:?}");
        }
    }

    #[test]
    fn round_robin_is_even_when_all_want_the_same(changes in vec(change(true), 1..40)) {
        let mut world = World::default();
        for change in &changes {
            make(&mut world, change);
        }
        let spec = world.spec();
        let assignment = RoundRobin.assign(&spec);
        check_valid(&spec, &assignment);
        check_balanced(&spec, &assignment);
    }

    #[test]
    fn round_robin_gives_everything_to_who_wants_it(changes in vec(change(false), 1..40)) {
        let mut world = World::default();
        for change in &changes {
            make(&mut world, change);
        }
        let spec = world.spec();
        check_valid(&spec, &RoundRobin.assign(&spec));
    }

    #[test]
    fn sticky_is_even_and_moves_no_more_than_it_must(changes in vec(change(true), 1..60)) {
        let mut world = World::default();
        for change in &changes {
            make(&mut world, change);
            let spec = world.spec();
            let outcome = sticky::assign(&spec);
            check_valid(&spec, &outcome.assignment);
            check_balanced(&spec, &outcome.assignment);
            if claims_are_unique(&spec) && !spec.members.is_empty() {
                prop_assert_eq!(kept(&spec, &outcome.assignment), most_that_can_stay(&spec), "{:?}", spec);
            }
            world.settle();
        }
    }

    #[test]
    fn sticky_is_balanced_and_never_swaps_whatever_members_want(changes in vec(change(false), 1..60)) {
        let mut world = World::default();
        for change in &changes {
            make(&mut world, change);
            let spec = world.spec();
            let outcome = sticky::assign(&spec);
            check_valid(&spec, &outcome.assignment);
            check_balanced(&spec, &outcome.assignment);
            if claims_are_unique(&spec) {
                // Kafka's own assignor fails this where a partition moves by way of a third member.
                check_no_swaps(&spec, &outcome.assignment);
            }
            world.settle();
            let again = sticky::assign(&world.spec());
            prop_assert_eq!(&again.assignment, &outcome.assignment, "an unchanged group is left alone (M17)");
            prop_assert_eq!(again.transferring, vec![]);
        }
    }

    #[test]
    fn what_is_transferring_is_all_that_another_still_claims(changes in vec(change(false), 1..40)) {
        let mut world = World::default();
        for (round, change) in changes.iter().enumerate() {
            make(&mut world, change);
            let spec = world.spec();
            let outcome = sticky::assign(&spec);
            for (member, share) in outcome.assignment.iter().enumerate() {
                for partition in share {
                    let rivals = spec.members.iter().enumerate().filter(|(other, rival)| {
                        *other != member
                            && rival.owned.contains(partition)
                            && rival.generation >= spec.members[member].generation
                    });
                    if !spec.members[member].owned.contains(partition) && rivals.count() > 0 {
                        prop_assert!(outcome.transferring.contains(partition), "round {}: {:?}", round, partition);
                    }
                }
            }
            world.settle();
        }
    }

    #[test]
    fn the_order_in_which_members_are_named_does_not_matter(
        changes in vec(change(false), 1..30),
        seed in any::<u64>(),
    ) {
        let mut world = World::default();
        for change in &changes {
            make(&mut world, change);
            if seed % 3 == 0 {
                world.settle();
            }
        }
        let spec = world.spec();
        let mut members = spec.members.clone();
        members.sort_by_key(|member| member.member_id.bytes().fold(seed, |h, b| h.wrapping_mul(31) ^ u64::from(b)));
        let same = GroupSpec::new(spec.topics.clone(), members);
        for strategy in [Range, RoundRobin, Sticky, CooperativeSticky] {
            prop_assert_eq!(strategy.assign(&spec), strategy.assign(&same));
        }
    }
}
