//! What a rebalance costs, beside one assignment of the same size: 100 members, 1,000 partitions.
//!
//! One member comes to 99 that have settled, or one of 100 goes. The time is that of all that follows: the assignment,
//! and every member's polls until each has what it shall have, positions looked up among it. The same number of polls
//! of the settled group, which look for records in all partitions and find none, is timed behind it and taken off: what
//! is left is the rebalance's. In turn with it, in the same run, one cooperative-sticky assignment of that size.
//!
//! Commits: how many a second one member makes that waits for the disk, and one that does not.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod support;

use std::time::{Duration, Instant};

use logstead::{
    Acks, AssignmentStrategy, Assignor, Consumer, Group, GroupSpec, GroupState, MemberSpec, Record, Store,
    TopicConfig, TopicSpec,
};

const MEMBERS: usize = 100;
const TOPICS: usize = 10;
const PARTITIONS: u32 = 100;
const RUNS: usize = 15;

fn names() -> Vec<String> {
    (0..TOPICS).map(|topic| format!("topic-{topic}")).collect()
}

fn member(group: &Group) -> Consumer {
    let mut consumer = group.consumer().unwrap();
    consumer.subscribe(names().iter().map(String::as_str)).unwrap();
    consumer
}

/// Has every member poll once.
fn round(members: &mut [Consumer]) -> Duration {
    let start = Instant::now();
    for member in &mut *members {
        member.poll(Duration::ZERO).unwrap();
    }
    start.elapsed()
}

/// Polls until every member has what it shall have; how long the polls took, and how long as many take after that.
fn settle(group: &Group, members: &mut [Consumer]) -> (Duration, Duration) {
    let (mut spent, mut rounds) = (Duration::ZERO, 0);
    while rounds == 0 || group.describe().unwrap().state != GroupState::Stable {
        spent += round(members);
        rounds += 1;
    }
    (spent, (0..rounds).map(|_| round(members)).sum())
}

/// The question that the assignor is asked when one more comes to 99.
fn spec() -> GroupSpec {
    let topics: Vec<TopicSpec> = names().iter().map(|name| TopicSpec::new(name, PARTITIONS)).collect();
    let members = |count: usize| -> Vec<MemberSpec> {
        (0..count).map(|m| MemberSpec::new(&format!("consumer-g-{m}"), (0..TOPICS).collect())).collect()
    };
    let before = GroupSpec::new(topics.clone(), members(MEMBERS - 1));
    let shares = AssignmentStrategy::CooperativeSticky.assign(&before);
    let mut now = GroupSpec::new(topics, members(MEMBERS));
    for (old, share) in before.members.iter().zip(shares) {
        let member = now.members.iter_mut().find(|member| member.member_id == old.member_id).unwrap();
        *member = member.clone().owned(share, 1);
    }
    now
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn rebalance() {
    let store = Store::in_memory().unwrap();
    for name in names() {
        store.create_topic(&name, TopicConfig::default().partitions(PARTITIONS)).unwrap();
    }
    let group = store.group("g");
    let mut members: Vec<Consumer> = (0..MEMBERS).map(|_| member(&group)).collect();
    settle(&group, &mut members);
    let spec = spec();
    let (mut assigns, mut joins, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let start = Instant::now();
        std::hint::black_box(AssignmentStrategy::CooperativeSticky.assign(std::hint::black_box(&spec)));
        assigns.push(start.elapsed());
        drop(members.swap_remove(MEMBERS / 2));
        leaves.push(settle(&group, &mut members));
        members.push(member(&group));
        joins.push(settle(&group, &mut members));
    }
    let assign = median(assigns);
    println!("time groups/assign = {assign:?}: one assignment of {MEMBERS} members and 1,000 partitions");
    for (what, runs) in [("join", joins), ("leave", leaves)] {
        let (all, added): (Vec<_>, Vec<_>) =
            runs.into_iter().map(|(spent, idle)| (spent, spent.saturating_sub(idle))).unzip();
        let (all, added) = (median(all), median(added));
        let times = added.as_secs_f64() / assign.as_secs_f64();
        println!("time groups/{what} = {added:?}, with the polls {all:?}");
        println!("ratio groups/{what} = {times:.2} (budget 5)");
    }
}

fn commits() {
    let dir = support::temp_dir();
    let store = Store::open(dir.path().join("groups")).unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let records = (0..10_000).map(|_| Record::to(&topic).value("v"));
    topic.partition(0).unwrap().append(records, None, Acks::All).unwrap();
    let mut consumer = store.group("g").consumer().unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer.poll(Duration::ZERO).unwrap();
    let mut rate = |what: &str, count: i64, commit: &dyn Fn(&mut Consumer, i64)| {
        let start = Instant::now();
        (1..=count).for_each(|offset| commit(&mut consumer, offset));
        println!("time groups/{what} = {:?} a commit", start.elapsed() / count as u32);
    };
    rate("commit", 300, &|consumer, offset| consumer.commit_offsets([("t", 0, offset)]).unwrap());
    rate("commit_async", 10_000, &|consumer, offset| {
        consumer.commit_offsets_async([("t", 0, offset)]).unwrap()
    });
}

fn main() {
    if support::wants("groups/rebalance") {
        rebalance();
    }
    if support::wants("groups/commit") {
        commits();
    }
}
