mod cases;
mod properties;

use std::collections::BTreeMap;

use super::*;

/// A group that changes, in words: topics by name, members by id, and what each owns by the last assignment.
#[derive(Clone, Debug, Default)]
struct World {
    topics: BTreeMap<String, u32>,
    members: BTreeMap<String, Member>,
    generation: i32,
}

#[derive(Clone, Debug, Default)]
struct Member {
    instance: Option<String>,
    wants: Vec<String>,
    owned: Vec<(String, i32)>,
    generation: i32,
}

/// By member id: topics and partitions, ascending.
type Shares = BTreeMap<String, Vec<(String, i32)>>;

impl World {
    /// `"t1:3 t2:2"`
    fn new(topics: &str) -> World {
        let topic = |word: &str| {
            let (name, partitions) = word.split_once(':').unwrap();
            (name.to_owned(), partitions.parse().unwrap())
        };
        World { topics: topics.split_whitespace().map(topic).collect(), ..World::default() }
    }

    /// A member that wants `"t1 t2"`.
    fn join(mut self, id: &str, wants: &str) -> World {
        let wants = wants.split_whitespace().map(str::to_owned).collect();
        self.members.insert(id.to_owned(), Member { wants, generation: -1, ..Member::default() });
        self
    }

    fn join_static(mut self, id: &str, instance: &str, wants: &str) -> World {
        self = self.join(id, wants);
        self.members.get_mut(id).unwrap().instance = Some(instance.to_owned());
        self
    }

    fn leave(mut self, id: &str) -> World {
        self.members.remove(id).unwrap();
        self
    }

    /// Lets a member say that it owns `"t1p0 t1p2"` since `generation`.
    fn owns(mut self, id: &str, partitions: &str, generation: i32) -> World {
        let member = self.members.get_mut(id).unwrap();
        (member.owned, member.generation) = (parse(partitions), generation);
        self
    }

    fn spec(&self) -> GroupSpec {
        let wanted = |name: &String| self.members.values().any(|member| member.wants.contains(name));
        let topics: Vec<(&String, u32)> =
            self.topics.iter().map(|(name, count)| (name, *count)).filter(|(name, _)| wanted(name)).collect();
        let index = |name: &String| topics.iter().position(|(other, _)| *other == name);
        let members = self.members.iter().map(|(id, member)| {
            let owned = |(name, partition): &(String, i32)| {
                Some(PartitionIndex { topic: index(name)?, partition: *partition })
            };
            let mut spec = MemberSpec::new(id, member.wants.iter().filter_map(index).collect())
                .owned(member.owned.iter().filter_map(owned).collect(), member.generation);
            if let Some(instance) = &member.instance {
                spec = spec.instance_id(instance);
            }
            spec
        });
        let members = members.collect();
        GroupSpec::new(topics.iter().map(|(name, count)| TopicSpec::new(name, *count)).collect(), members)
    }

    fn by(&self, strategy: AssignmentStrategy) -> Shares {
        let spec = self.spec();
        named(&spec, &strategy.assign(&spec))
    }

    /// The sticky assignment, which every member has from then on, and what moved from one to another.
    fn settle(&mut self) -> (Shares, Vec<(String, i32)>) {
        let spec = self.spec();
        let outcome = sticky::assign(&spec);
        let shares = named(&spec, &outcome.assignment);
        self.generation += 1;
        for (id, member) in &mut self.members {
            (member.owned, member.generation) = (shares[id].clone(), self.generation);
        }
        (shares, outcome.transferring.iter().map(|p| name(&spec, p)).collect())
    }
}

fn name(spec: &GroupSpec, partition: &PartitionIndex) -> (String, i32) {
    (spec.topics[partition.topic].name.to_string(), partition.partition)
}

fn named(spec: &GroupSpec, assignment: &[Vec<PartitionIndex>]) -> Shares {
    assert_eq!(assignment.len(), spec.members.len());
    let share = |(member, share): (&MemberSpec, &Vec<PartitionIndex>)| {
        let mut share: Vec<_> = share.iter().map(|p| name(spec, p)).collect();
        share.sort();
        (member.member_id.to_string(), share)
    };
    spec.members.iter().zip(assignment).map(share).collect()
}

/// `"t1p0 t2p1"`
fn parse(partitions: &str) -> Vec<(String, i32)> {
    let partition = |word: &str| {
        let (topic, partition) = word.rsplit_once('p').unwrap();
        (topic.to_owned(), partition.parse().unwrap())
    };
    let mut partitions: Vec<_> = partitions.split_whitespace().map(partition).collect();
    partitions.sort();
    partitions
}

/// `[("c1", "t1p0 t1p1"), …]`
fn shares<const N: usize>(shares: [(&str, &str); N]) -> Shares {
    shares.map(|(id, share)| (id.to_owned(), parse(share))).into()
}
