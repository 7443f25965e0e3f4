//! Kafka's own cases, by the numbers of the acceptance list (M1 to M20).

use super::*;
use AssignmentStrategy::{CooperativeSticky, Range, RoundRobin, Sticky};

const ALL: [AssignmentStrategy; 4] = [Range, RoundRobin, Sticky, CooperativeSticky];

fn sizes(shares: &Shares) -> Vec<usize> {
    shares.values().map(Vec::len).collect()
}

#[test]
fn m1_members_with_different_topics() {
    let world = World::new("t1:3 t2:2").join("c1", "t1").join("c2", "t1 t2").join("c3", "t1");
    let expected = shares([("c1", "t1p0"), ("c2", "t1p1 t2p0 t2p1"), ("c3", "t1p2")]);
    assert_eq!(world.by(Range), expected);
    assert_eq!(world.by(RoundRobin), expected);
}

#[test]
fn m2_one_partition_for_two() {
    for strategy in ALL {
        let world = World::new("t:1").join("c1", "t").join("c2", "t");
        assert_eq!(world.by(strategy), shares([("c1", "tp0"), ("c2", "")]));
    }
}

#[test]
fn m3_static_members_come_first() {
    let world =
        World::new("t1:3 t2:3").join("consumer-a", "t1 t2").join_static("consumer-b", "instance1", "t1 t2");
    let expected = shares([("consumer-a", "t1p2 t2p2"), ("consumer-b", "t1p0 t1p1 t2p0 t2p1")]);
    assert_eq!(world.by(Range), expected);
    // The static instance "a" under the last member id of all.
    let world = World::new("t:3").join("b", "t").join_static("z", "a", "t");
    for strategy in [Range, RoundRobin] {
        let expected = match strategy {
            Range => shares([("b", "tp2"), ("z", "tp0 tp1")]),
            _ => shares([("b", "tp1"), ("z", "tp0 tp2")]),
        };
        assert_eq!(world.by(strategy), expected);
    }
}

#[test]
fn m4_static_members_keep_their_shares_under_new_member_ids() {
    let world = |ids: [&str; 3]| {
        let [a, b, c] = ids;
        World::new("t1:7 t2:5")
            .join_static(a, "instance-1", "t1 t2")
            .join_static(b, "instance-2", "t1 t2")
            .join_static(c, "instance-3", "t1 t2")
    };
    for strategy in [Range, RoundRobin] {
        let before = world(["m1", "m2", "m3"]).by(strategy);
        let after = world(["m9", "m5", "m7"]).by(strategy);
        for (old, new) in [("m1", "m9"), ("m2", "m5"), ("m3", "m7")] {
            assert_eq!(before[old], after[new], "{strategy}");
        }
    }
}

#[test]
fn m5_a_topic_that_is_missing() {
    for strategy in ALL {
        assert_eq!(World::new("").join("c", "gone").by(strategy), shares([("c", "")]));
        let world = World::new("t:1").join("c", "gone t").join("d", "gone");
        assert_eq!(world.by(strategy), shares([("c", "tp0"), ("d", "")]));
    }
}

#[test]
fn m6_two_fresh_members_and_two_topics() {
    let world = World::new("t1:3 t2:3").join("c1", "t1 t2").join("c2", "t1 t2");
    let expected = shares([("c1", "t1p0 t1p2 t2p1"), ("c2", "t1p1 t2p0 t2p2")]);
    assert_eq!(world.by(Sticky), expected);
    assert_eq!(world.by(CooperativeSticky), expected);
    assert_eq!(world.by(RoundRobin), expected);
}

#[test]
fn m7_one_below_its_share_takes_what_is_free() {
    let mut world = World::new("t1:2 t2:3")
        .join("c1", "t1 t2")
        .join("c2", "t1 t2")
        .owns("c1", "t1p0 t2p1", 1)
        .owns("c2", "t1p1 t2p2", 1);
    let expected = shares([("c1", "t1p0 t2p0 t2p1"), ("c2", "t1p1 t2p2")]);
    assert_eq!(world.settle(), (expected, vec![]));
}

#[test]
fn m8_all_below_their_share() {
    let mut world = World::new("t1:2 t2:3")
        .join("c1", "t1 t2")
        .join("c2", "t1 t2")
        .join("c3", "t1 t2")
        .owns("c1", "t1p0", 1)
        .owns("c2", "t1p1", 1);
    let expected = shares([("c1", "t1p0 t2p1"), ("c2", "t1p1 t2p2"), ("c3", "t2p0")]);
    assert_eq!(world.settle(), (expected, vec![]));
}

#[test]
fn m9_more_members_with_the_larger_share_than_there_may_be() {
    let mut world = World::new("t1:2 t2:2")
        .join("c1", "t1 t2")
        .join("c2", "t1 t2")
        .join("c3", "t1 t2")
        .owns("c1", "t1p0 t2p0", 1)
        .owns("c2", "t1p1 t2p1", 1);
    let expected = shares([("c1", "t1p0 t2p0"), ("c2", "t1p1"), ("c3", "t2p1")]);
    assert_eq!(world.settle(), (expected, parse("t2p1")));
}

#[test]
fn m10_one_joins_and_one_leaves() {
    let mut world = World::new("t:3").join("c1", "t");
    assert_eq!(world.settle(), (shares([("c1", "tp0 tp1 tp2")]), vec![]));
    world = world.join("c2", "t");
    assert_eq!(world.settle(), (shares([("c1", "tp0 tp1"), ("c2", "tp2")]), parse("tp2")));
    world = world.leave("c1");
    assert_eq!(world.settle(), (shares([("c2", "tp0 tp1 tp2")]), vec![]));
}

#[test]
fn m11_two_join_and_two_leave() {
    let mut world = World::new("t1:3 t2:4").join("c1", "t1 t2").join("c2", "t1 t2");
    let expected = shares([("c1", "t1p0 t1p2 t2p1 t2p3"), ("c2", "t1p1 t2p0 t2p2")]);
    assert_eq!(world.settle().0, expected);
    world = world.join("c3", "t1 t2").join("c4", "t1 t2");
    let expected = shares([("c1", "t1p0 t2p1"), ("c2", "t1p1 t2p0"), ("c3", "t1p2 t2p3"), ("c4", "t2p2")]);
    assert_eq!(world.settle(), (expected, parse("t1p2 t2p2 t2p3")));
    world = world.leave("c1").leave("c2");
    let expected = shares([("c3", "t1p0 t1p2 t2p1 t2p3"), ("c4", "t1p1 t2p0 t2p2")]);
    assert_eq!(world.settle(), (expected, vec![]));
}

#[test]
fn m12_each_topic_stays_even_among_members() {
    let mut world = World::new("t1:12 t2:12").join("c1", "t1 t2");
    let per_topic = |world: &mut World, count: usize| {
        for (id, share) in world.settle().0 {
            for topic in ["t1", "t2"] {
                assert_eq!(share.iter().filter(|(name, _)| name == topic).count(), count, "{id} of {topic}");
            }
        }
    };
    per_topic(&mut world, 12);
    world = world.join("c2", "t1 t2");
    per_topic(&mut world, 6);
    world = world.join("c3", "t1 t2").join("c4", "t1 t2");
    per_topic(&mut world, 3);
    world = world.leave("c1").leave("c3");
    per_topic(&mut world, 6);
}

#[test]
fn m13_sticky_is_even_where_round_robin_is_not() {
    let mut world = World::new("t1:2 t2:1 t3:2 t4:1 t5:2")
        .join("c1", "t1 t2 t3 t4 t5")
        .join("c2", "t1 t3 t5")
        .join("c3", "t1 t3 t5")
        .join("c4", "t1 t2 t3 t4 t5");
    assert_eq!(sizes(&world.by(RoundRobin)), [3, 3, 0, 2]);
    assert_eq!(sizes(&world.settle().0), [2, 2, 2, 2]);
}

#[test]
fn m14_a_partition_that_two_claim_in_one_generation_is_nobodys() {
    // All want the same, or not.
    for third in ["t", "t u"] {
        let mut world = World::new("t:3 u:1")
            .join("c1", "t")
            .join("c2", "t")
            .join("c3", third)
            .owns("c1", "tp0 tp1", 1)
            .owns("c2", "tp0 tp2", 1);
        let (shares, moved) = world.settle();
        assert_eq!(moved, parse("tp0"), "whoever has it now, another claims it too");
        assert_eq!(shares.values().flatten().filter(|(topic, _)| topic == "t").count(), 3);
        for (id, keeps) in [("c1", 1), ("c2", 2)] {
            assert!(shares[id].contains(&("t".to_owned(), keeps)), "{id} has lost what nobody else claims");
        }
    }
}

#[test]
fn m15_the_higher_generation_keeps_what_two_claim() {
    let world = |third| {
        World::new("t1:1 t2:1 t3:1 u:0")
            .join("c1", "t1 t2 t3")
            .join("c2", "t1 t2 t3")
            .join("c3", third)
            .owns("c1", "t1p0 t3p0", 10)
            .owns("c2", "t2p0 t1p0", 9)
            .owns("c3", "t2p0 t3p0", 8)
    };
    let expected = shares([("c1", "t1p0"), ("c2", "t2p0"), ("c3", "t3p0")]);
    assert_eq!(world("t1 t2 t3").settle(), (expected, parse("t3p0")));
    // Where not all want the same, c1 gives away the other one of its two.
    let expected = shares([("c1", "t3p0"), ("c2", "t2p0"), ("c3", "t1p0")]);
    assert_eq!(world("t1 t2 t3 u").settle(), (expected, parse("t1p0")));
}

#[test]
fn m16_a_stale_member_loses_what_another_has() {
    for stale in [-1, 4] {
        let mut world = World::new("t:4")
            .join("c1", "t")
            .join("c2", "t")
            .owns("c1", "tp0 tp1", 5)
            .owns("c2", "tp1 tp3", stale);
        let expected = shares([("c1", "tp0 tp1"), ("c2", "tp2 tp3")]);
        assert_eq!(world.settle().0, expected);
    }
}

#[test]
fn m17_an_unchanged_group_stays_as_it_is() {
    let mut even = World::new("t1:5 t2:3").join("c1", "t1 t2").join("c2", "t1 t2").join("c3", "t1 t2");
    let mut mixed = World::new("t1:5 t2:3").join("c1", "t1").join("c2", "t1 t2").join("c3", "t2");
    for world in [&mut even, &mut mixed] {
        let (first, _) = world.settle();
        assert_eq!(world.settle(), (first, vec![]));
        for strategy in [Range, RoundRobin] {
            assert_eq!(world.by(strategy), world.by(strategy));
        }
    }
}

#[test]
fn m18_a_topic_is_deleted() {
    let mut world = World::new("t1:2 t2:2 t3:2").join("c1", "t1 t2 t3").join("c2", "t1 t2 t3");
    let (before, _) = world.settle();
    world.topics.remove("t2");
    let (after, moved) = world.settle();
    assert_eq!(moved, vec![]);
    for (id, share) in after {
        let rest: Vec<_> = before[&id].iter().filter(|(topic, _)| topic != "t2").cloned().collect();
        assert_eq!(share, rest, "{id}");
    }
}

#[test]
fn m20_nothing_is_given_before_its_owner_let_go_of_it() {
    let mut world = World::new("t0:2 t1:2 t2:2 t3:2");
    for id in ["c0", "c1", "c2"] {
        world = world.join(id, "t0 t1 t2 t3");
    }
    world.settle();
    let mut world = world.join("c3", "t0 t1 t2 t3");
    let owned: Shares = world.members.iter().map(|(id, member)| (id.clone(), member.owned.clone())).collect();
    let (mut target, moved) = world.settle();
    assert_eq!(moved, parse("t1p1 t3p1"));
    for share in target.values_mut() {
        share.retain(|partition| !moved.contains(partition));
    }
    for (id, share) in &target {
        let others = owned.iter().filter(|(other, _)| *other != id).flat_map(|(_, owned)| owned);
        assert!(others.into_iter().all(|partition| !share.contains(partition)), "{id}");
    }
    // The owners come again without what moves, and then nothing is in the way.
    for (id, member) in &mut world.members {
        member.owned = target[id].clone();
    }
    let (target, moved) = world.settle();
    assert_eq!(moved, vec![]);
    assert_eq!(target["c3"], parse("t1p1 t3p1"));
}

// ───────── the worked examples of the reference's §9.5

#[test]
fn the_worked_examples_come_out() {
    let two = World::new("t0:3 t1:3").join("c0", "t0 t1").join("c1", "t0 t1");
    assert_eq!(two.by(Range), shares([("c0", "t0p0 t0p1 t1p0 t1p1"), ("c1", "t0p2 t1p2")]));
    assert_eq!(two.by(RoundRobin), shares([("c0", "t0p0 t0p2 t1p1"), ("c1", "t0p1 t1p0 t1p2")]));

    let all = "t0 t1 t2 t3";
    let mut three = World::new("t0:2 t1:2 t2:2 t3:2").join("c0", all).join("c1", all).join("c2", all);
    assert_eq!(
        three.by(Range),
        shares([("c0", "t0p0 t1p0 t2p0 t3p0"), ("c1", "t0p1 t1p1 t2p1 t3p1"), ("c2", "")])
    );
    let dealt = shares([("c0", "t0p0 t1p1 t3p0"), ("c1", "t0p1 t2p0 t3p1"), ("c2", "t1p0 t2p1")]);
    assert_eq!(three.by(RoundRobin), dealt);
    assert_eq!(three.settle().0, dealt);

    let mut left = three.clone().leave("c1");
    assert_eq!(left.by(RoundRobin), shares([("c0", "t0p0 t1p0 t2p0 t3p0"), ("c2", "t0p1 t1p1 t2p1 t3p1")]));
    let expected = shares([("c0", "t0p0 t0p1 t1p1 t3p0"), ("c2", "t1p0 t2p0 t2p1 t3p1")]);
    assert_eq!(left.settle(), (expected, vec![]));

    let mut nested = World::new("t0:1 t1:2 t2:3").join("c0", "t0").join("c1", "t0 t1").join("c2", "t0 t1 t2");
    assert_eq!(
        nested.by(RoundRobin),
        shares([("c0", "t0p0"), ("c1", "t1p0"), ("c2", "t1p1 t2p0 t2p1 t2p2")])
    );
    let expected = shares([("c0", "t0p0"), ("c1", "t1p0 t1p1"), ("c2", "t2p0 t2p1 t2p2")]);
    assert_eq!(nested.settle().0, expected);
}
