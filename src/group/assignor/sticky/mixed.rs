//! The case in which members want different topics: what is free goes to the least loaded who wants it, then partitions
//! move from one member to another that has at least two less, until none can.
//!
//! Each move takes from a member that has at least two more than the one it gives to. So the sum of the differences
//! between members falls with every move: it ends, and nothing has to be taken back.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::{Owned, Places};
use crate::group::assignor::{GroupSpec, PartitionIndex};

pub(super) fn assign(group: &GroupSpec, places: &Places, owned: &Owned) -> Vec<Vec<PartitionIndex>> {
    let mut balance = Balance::new(group, places, owned);
    let free = balance.keep_what_is_wanted();
    balance.deal(&free);
    let contested = |partition: &PartitionIndex| balance.wanting[partition.topic].len() >= 2;
    let all: Vec<PartitionIndex> = balance.order.iter().copied().filter(contested).collect();
    let free: Vec<PartitionIndex> = free.into_iter().filter(contested).collect();
    if !balance.something_is_revoked {
        balance.even_out(&free);
    }
    balance.even_out(&all);
    balance.undo_swaps();
    balance.shares()
}

struct Balance<'g> {
    group: &'g GroupSpec,
    places: &'g Places,
    owned: &'g Owned,
    /// By topic: who wants it, in the order of the members.
    wanting: Vec<Vec<usize>>,
    /// Partitions that somebody wants; those that few want come first, for they have the least choice.
    order: Vec<PartitionIndex>,
    /// By place: whose it is.
    owner: Vec<Option<usize>>,
    /// By member: how many it has.
    sizes: Vec<usize>,
    moves: Moves,
    /// A member has to give up something that it does not want any more: then a free partition is as good to move as
    /// any other.
    something_is_revoked: bool,
}

impl<'g> Balance<'g> {
    fn new(group: &'g GroupSpec, places: &'g Places, owned: &'g Owned) -> Self {
        let mut wanting = vec![Vec::new(); group.topics.len()];
        for (member, spec) in group.members.iter().enumerate() {
            for &topic in &spec.topics {
                if let Some(wanting) = wanting.get_mut(topic) {
                    wanting.push(member);
                }
            }
        }
        let mut topics: Vec<usize> = (0..wanting.len()).filter(|topic| !wanting[*topic].is_empty()).collect();
        topics.sort_by_key(|topic| wanting[*topic].len());
        let order = topics.into_iter().flat_map(|topic| group.partitions(topic)).collect();
        Balance {
            group,
            places,
            owned,
            wanting,
            order,
            owner: vec![None; places.count],
            sizes: vec![0; group.members.len()],
            moves: Moves::default(),
            something_is_revoked: false,
        }
    }

    /// Leaves with its owner what the owner still wants; the answer is the rest.
    fn keep_what_is_wanted(&mut self) -> Vec<PartitionIndex> {
        let mut free = Vec::new();
        for partition in &self.order {
            let place = self.places.of(partition);
            match self.owned.by[place] {
                Some(owner) if self.group.members[owner].wants(partition.topic) => {
                    self.owner[place] = Some(owner);
                    self.sizes[owner] += 1;
                }
                Some(_) => {
                    self.something_is_revoked = true;
                    free.push(*partition);
                }
                None => free.push(*partition),
            }
        }
        free
    }

    /// Gives each to the least loaded who wants it; of several, to the first by its id.
    fn deal(&mut self, free: &[PartitionIndex]) {
        for partitions in free.chunk_by(|a, b| a.topic == b.topic) {
            let Some(first) = partitions.first() else { continue };
            let wanting = &self.wanting[first.topic];
            let mut loads: BinaryHeap<_> =
                wanting.iter().map(|&member| Reverse((self.sizes[member], member))).collect();
            for partition in partitions {
                let Some(mut least) = loads.peek_mut() else { break };
                let Reverse((size, member)) = &mut *least;
                *size += 1;
                self.owner[self.places.of(partition)] = Some(*member);
                self.sizes[*member] = *size;
            }
        }
    }

    /// Moves what can be moved to a member that has at least two less, round after round until nothing can.
    fn even_out(&mut self, partitions: &[PartitionIndex]) {
        loop {
            let before = self.moves.count;
            // By topic, and good until the next move: who of those who want it has the least.
            let mut least: HashMap<usize, (usize, usize)> = HashMap::new();
            for partition in partitions {
                let place = self.places.of(partition);
                let Some(owner) = self.owner[place] else { continue };
                let heavy = |to: usize| self.sizes[owner] > self.sizes[to] + 1;
                let back = self.owned.before[place]
                    .filter(|&member| self.group.members[member].wants(partition.topic) && heavy(member));
                let to = back.or_else(|| {
                    let (at, member) = least.get(&partition.topic).copied().unwrap_or((usize::MAX, 0));
                    let member = if at == self.moves.count { member } else { self.least(partition.topic)? };
                    least.insert(partition.topic, (self.moves.count, member));
                    Some(member).filter(|&member| heavy(member))
                });
                if let Some(to) = to {
                    self.give(partition, owner, to);
                }
            }
            if self.moves.count == before {
                return;
            }
        }
    }

    /// Who of those who want a topic has the fewest partitions; of several, the first by its id.
    fn least(&self, topic: usize) -> Option<usize> {
        self.wanting[topic].iter().copied().min_by_key(|&member| self.sizes[member])
    }

    /// Gives a partition to a member. Where one of the same topic went the other way before, that one goes back
    /// instead.
    fn give(&mut self, partition: &PartitionIndex, from: usize, to: usize) {
        let place = self.places.of(partition);
        let back = self.moves.to_take_back(partition.topic, place, from, to);
        let back = back.and_then(|place| Some((place, self.owner[place]?)));
        let (place, from) = match back {
            Some((other, owner)) if self.sizes[owner] > self.sizes[to] + 1 => (other, owner),
            _ => (place, from),
        };
        self.moves.note(partition.topic, place, from, to);
        self.owner[place] = Some(to);
        self.sizes[from] -= 1;
        self.sizes[to] += 1;
    }

    /// Where two members gave each other partitions of one topic all the same, by way of others, each keeps its own.
    fn undo_swaps(&mut self) {
        let mut went: HashMap<(usize, usize, usize), Vec<usize>> = HashMap::new();
        for partition in &self.order {
            let (topic, place) = (partition.topic, self.places.of(partition));
            let (Some(from), Some(to)) = (self.owned.by[place], self.owner[place]) else { continue };
            if from == to {
                continue;
            }
            match went.get_mut(&(topic, to, from)).and_then(Vec::pop) {
                Some(other) => (self.owner[place], self.owner[other]) = (Some(from), Some(to)),
                None => went.entry((topic, from, to)).or_default().push(place),
            }
        }
    }

    fn shares(&self) -> Vec<Vec<PartitionIndex>> {
        let mut shares: Vec<Vec<PartitionIndex>> =
            self.sizes.iter().map(|size| Vec::with_capacity(*size)).collect();
        for partition in &self.order {
            if let Some(owner) = self.owner[self.places.of(partition)] {
                shares[owner].push(*partition);
            }
        }
        shares
    }
}

/// Which partitions went from whom to whom; one that moves twice counts as moved from the first to the last.
#[derive(Default)]
struct Moves {
    count: usize,
    by_place: HashMap<usize, (usize, usize)>,
    by_pair: HashMap<(usize, (usize, usize)), BTreeSet<usize>>,
}

impl Moves {
    fn to_take_back(&self, topic: usize, place: usize, from: usize, to: usize) -> Option<usize> {
        let from = self.by_place.get(&place).map_or(from, |(first, _)| *first);
        self.by_pair.get(&(topic, (to, from)))?.first().copied()
    }

    fn note(&mut self, topic: usize, place: usize, from: usize, to: usize) {
        self.count += 1;
        let before = self.by_place.remove(&place);
        if let Some(pair) = before
            && let Some(places) = self.by_pair.get_mut(&(topic, pair))
        {
            places.remove(&place);
        }
        let first = before.map_or(from, |(first, _)| first);
        if first != to {
            self.by_place.insert(place, (first, to));
            self.by_pair.entry((topic, (first, to))).or_default().insert(place);
        }
    }
}
