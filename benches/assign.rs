//! How long one assignment takes: 100 members, ten topics of 100 partitions, by each of Kafka's strategies.
//!
//! `fresh`: nobody has anything yet. `join`: 99 members share all, and one more comes. `mixed`: the same, and every
//! member wants three of the ten topics. No disk, no threads: an assignment is a function.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod support;

use std::time::{Duration, Instant};

use criterion::Criterion;
use logstead::{AssignmentStrategy, Assignor, GroupSpec, MemberSpec, TopicSpec};

const MEMBERS: usize = 100;
const TOPICS: usize = 10;
const PARTITIONS: u32 = 100;

/// Members `0..count`, who want all topics, or three each.
fn group(count: usize, mixed: bool) -> GroupSpec {
    let topics = (0..TOPICS).map(|topic| TopicSpec::new(&format!("topic-{topic}"), PARTITIONS)).collect();
    let wants = |member: usize| match mixed {
        true => vec![member % TOPICS, (member + 3) % TOPICS, (member * 7 + 1) % TOPICS],
        false => (0..TOPICS).collect(),
    };
    let member = |member: usize| MemberSpec::new(&format!("consumer-{member:03}"), wants(member));
    GroupSpec::new(topics, (0..count).map(member).collect())
}

/// The group after one more member came to those that had settled.
fn joined(mixed: bool) -> GroupSpec {
    let before = group(MEMBERS - 1, mixed);
    let shares = AssignmentStrategy::CooperativeSticky.assign(&before);
    let mut now = group(MEMBERS, mixed);
    for (member, share) in now.members.iter_mut().zip(shares) {
        *member = member.clone().owned(share, 1);
    }
    now
}

fn time(strategy: AssignmentStrategy, spec: &GroupSpec) -> Duration {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(strategy.assign(std::hint::black_box(spec)));
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let mut criterion: Criterion = support::criterion();
    let cases = [
        ("fresh", AssignmentStrategy::Range, group(MEMBERS, false)),
        ("fresh", AssignmentStrategy::RoundRobin, group(MEMBERS, false)),
        ("fresh", AssignmentStrategy::CooperativeSticky, group(MEMBERS, false)),
        ("join", AssignmentStrategy::CooperativeSticky, joined(false)),
        ("mixed", AssignmentStrategy::CooperativeSticky, joined(true)),
    ];
    for (name, strategy, spec) in &cases {
        let what = format!("assign/{strategy}/{name}");
        criterion.bench_function(&what, |b| b.iter(|| strategy.assign(std::hint::black_box(spec))));
        if support::wants(&what) {
            println!("time {what} = {:?} for {MEMBERS} members and 1,000 partitions", time(*strategy, spec));
        }
    }
    criterion.final_summary();
}
