//! Kafka's own assignors on random groups: `range` and `roundrobin` give the same; `sticky` gives shares of the same
//! sizes and lets as many partitions stay where they are.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips. `LOGSTEAD_SEED=n` replays a run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/oracle.rs"]
mod oracle;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Random, seed};
use logstead::{AssignmentStrategy, Assignor, GroupSpec, MemberSpec, PartitionIndex, TopicSpec};
use oracle::Oracle;

const GROUPS: usize = 3_000;

/// The jars that the oracle's setup fetched.
fn jars() -> Option<PathBuf> {
    let common = Oracle::find()?.script("common.sh").get_program().to_owned();
    let script = format!(". {}; use_line 4.x; echo $LINE_HOME/lib", common.display());
    let answer = Command::new("bash").args(["-c", &script]).output().unwrap();
    Some(String::from_utf8(answer.stdout).unwrap().trim().into())
}

type Shares = Vec<Vec<PartitionIndex>>;

/// A group of members that came, went and changed their minds, with what they own since.
fn random_group(random: &mut Random) -> GroupSpec {
    let topics = 1 + random.below(6) as usize;
    let topics: Vec<TopicSpec> =
        (0..topics).map(|t| TopicSpec::new(&format!("t{t}"), random.below(9) as u32)).collect();
    let even = random.one_in(2);
    let wants = |random: &mut Random| -> Vec<usize> {
        let all = 0..topics.len();
        let wanted: Vec<usize> = all.clone().filter(|_| even || random.one_in(2)).collect();
        // Kafka takes a first member without topics for one that wants what the others want.
        if wanted.is_empty() { vec![random.below(topics.len() as u64) as usize] } else { wanted }
    };
    let member = |random: &mut Random, id: u64| {
        let member = MemberSpec::new(&format!("m{id:02}"), wants(random));
        if random.one_in(4) { member.instance_id(&format!("i{:02}", 99 - id)) } else { member }
    };
    let count = 1 + random.below(9);
    let mut members: Vec<MemberSpec> = (0..count).map(|id| member(random, id)).collect();
    // Kafka leaves out of its sight what nobody wants; so nobody may own it either.
    for round in 0..random.below(4) as i32 {
        let spec = GroupSpec::new(topics.clone(), members.clone());
        let shares = AssignmentStrategy::Sticky.assign(&spec);
        members = spec.members.into_iter().zip(shares).map(|(m, share)| m.owned(share, round)).collect();
        for _ in 0..random.below(3) {
            let at = random.below(members.len() as u64) as usize;
            match random.below(3) {
                0 if members.len() > 1 => drop(members.remove(at)),
                1 => {
                    let id = 50 + random.below(40);
                    members.retain(|m| *m.member_id != *format!("m{id:02}"));
                    members.push(member(random, id));
                }
                _ => members[at].topics = wants(random),
            }
        }
    }
    let wanted = |topic: usize| members.iter().any(|member| member.topics.contains(&topic));
    let kept: Vec<usize> = (0..topics.len()).filter(|topic| wanted(*topic)).collect();
    let now = |topic: usize| kept.iter().position(|kept| *kept == topic);
    for member in &mut members {
        member.topics = member.topics.iter().filter_map(|topic| now(*topic)).collect();
        member.owned = (member.owned.iter())
            .filter_map(|p| Some(PartitionIndex { topic: now(p.topic)?, partition: p.partition }))
            .collect();
    }
    GroupSpec::new(kept.iter().map(|topic| topics[*topic].clone()).collect(), members)
}

fn name(spec: &GroupSpec, partition: &PartitionIndex) -> String {
    format!("{}:{}", spec.topics[partition.topic].name, partition.partition)
}

fn describe(spec: &GroupSpec, number: usize) -> String {
    let mut text = format!("group {number}\n");
    for topic in &spec.topics {
        text += &format!("topic {} {}\n", topic.name, topic.partitions);
    }
    for member in &spec.members {
        let instance = member.instance_id.as_deref().unwrap_or("-");
        let topics: Vec<&str> = member.topics.iter().map(|topic| &*spec.topics[*topic].name).collect();
        let owned: Vec<String> = member.owned.iter().map(|partition| name(spec, partition)).collect();
        let (id, generation) = (&member.member_id, member.generation);
        text += &format!("member {id} {instance} {generation} {} {}\n", topics.join(","), owned.join(","));
    }
    text + "end\n"
}

fn ask_kafka(jars: &Path, groups: &[GroupSpec]) -> Vec<BTreeMap<String, Shares>> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/assignors/Assignors.java");
    let mut kafka = Command::new("java")
        .args(["-XX:TieredStopAtLevel=1", "-cp", &format!("{}/*", jars.display())])
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let text: String = groups.iter().enumerate().map(|(number, group)| describe(group, number)).collect();
    let mut input = kafka.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = kafka.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let mut answers: Vec<BTreeMap<String, Shares>> = Vec::new();
    for line in std::str::from_utf8(&output.stdout).unwrap().lines() {
        let mut words = line.split(' ');
        let first = words.next().unwrap();
        if first == "group" {
            answers.push(BTreeMap::new());
            continue;
        }
        let group = &groups[answers.len() - 1];
        let partition = |word: &str| {
            let (topic, partition) = word.split_once(':').unwrap();
            let topic = group.topics.iter().position(|spec| *spec.name == *topic).unwrap();
            PartitionIndex { topic, partition: partition.parse().unwrap() }
        };
        let mut share: Vec<_> = words.skip(1).map(partition).collect();
        share.sort();
        answers.last_mut().unwrap().entry(first.to_owned()).or_default().push(share);
    }
    assert_eq!(answers.len(), groups.len());
    answers
}

fn sizes(shares: &Shares) -> Vec<usize> {
    let mut sizes: Vec<usize> = shares.iter().map(Vec::len).collect();
    sizes.sort();
    sizes
}

fn kept(spec: &GroupSpec, shares: &Shares) -> usize {
    let kept = |(member, share): (&MemberSpec, &Vec<PartitionIndex>)| {
        share.iter().filter(|partition| member.owned.contains(partition)).count()
    };
    spec.members.iter().zip(shares).map(kept).sum()
}

#[test]
fn kafkas_assignors_give_the_same_or_as_good() {
    let Some(jars) = jars() else { return };
    let mut random = Random(seed());
    let groups: Vec<GroupSpec> = (0..GROUPS).map(|_| random_group(&mut random)).collect();
    let (mut fresh, mut moved, mut same, mut more) = (0, 0, 0, 0);
    for (number, (spec, theirs)) in groups.iter().zip(ask_kafka(&jars, &groups)).enumerate() {
        let ours = |strategy: AssignmentStrategy| {
            let mut shares = strategy.assign(spec);
            shares.iter_mut().for_each(|share| share.sort());
            shares
        };
        let group = describe(spec, number);
        for strategy in [AssignmentStrategy::Range, AssignmentStrategy::RoundRobin] {
            assert_eq!(ours(strategy), theirs[strategy.name()], "{strategy}\n{group}");
        }
        let (sticky, their_sticky) = (ours(AssignmentStrategy::Sticky), &theirs["sticky"]);
        assert_eq!(sizes(&sticky), sizes(their_sticky), "{group}ours {sticky:?}\ntheirs {their_sticky:?}");
        let (we_keep, they_keep) = (kept(spec, &sticky), kept(spec, their_sticky));
        assert!(we_keep >= they_keep, "{group}ours {sticky:?}\ntheirs {their_sticky:?}");
        more += usize::from(we_keep > they_keep);
        // Their cooperative answer leaves out what moves: as much as moves here.
        let theirs_now: usize = theirs["cooperative-sticky"].iter().map(Vec::len).sum();
        let moves = |shares: &Shares| {
            let owner = |p: &PartitionIndex| spec.members.iter().position(|member| member.owned.contains(p));
            let of = |(at, share): (usize, &Vec<PartitionIndex>)| {
                share.iter().filter(|p| owner(p).is_some_and(|owner| owner != at)).count()
            };
            shares.iter().enumerate().map(of).sum::<usize>()
        };
        let all: usize = sticky.iter().map(Vec::len).sum();
        let stays = all - moves(&sticky);
        assert!(stays >= theirs_now, "{group}ours {sticky:?}\ntheirs {theirs:?}");
        assert!(we_keep > they_keep || stays == theirs_now, "{group}ours {sticky:?}\ntheirs {theirs:?}");
        if spec.members.iter().all(|member| member.owned.is_empty()) {
            fresh += 1;
            assert_eq!(&sticky, their_sticky, "{group}");
        }
        moved += usize::from(moves(&sticky) > 0);
        same += usize::from(&sticky == their_sticky);
    }
    println!("{GROUPS} groups: {fresh} fresh, {moved} in which something moves; the same answer in {same}");
    // Two members that swap partitions of a topic, which is undone here.
    assert!(more <= GROUPS / 100, "in {more} groups more stays than with Kafka");
    assert!(
        fresh > GROUPS / 20 && moved > GROUPS / 10,
        "too few of a kind: {fresh} fresh, {moved} that move"
    );
}
