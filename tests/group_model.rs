//! Random schedules of a group against a plain model: eight consumers and thirty-two partitions; consumers that join,
//! leave, stall and die, records, commits, kills and power cuts, on the simulated disk and a clock that is moved by
//! hand.
//!
//! The model knows who polled when, what was committed, and how far each consumer was given each partition. From that
//! alone it says what every call must answer.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{Random, in_parallel, manual, seed, soak, telling};
use logstead::{
    Acks, AutoOffsetReset, Consumer, ConsumerConfig, ErrorKind, ManualClock, Record, SimDisk, Store,
    TopicConfig, TopicPartition,
};

const DIR: &str = "/data";
const PARTITIONS: usize = 32;
const CONSUMERS: usize = 8;
/// `max.poll.interval.ms` and `session.timeout.ms`.
const POLL_MS: u64 = 1_000;
const SESSION_MS: u64 = 400;

/// A consumer, as the model knows it.
struct Member {
    consumer: Consumer,
    /// Its `group.instance.id`, if it is a static member.
    instance: Option<u64>,
    /// When its last poll ended; `None`: it is not a member.
    polled: Option<u64>,
    /// Another consumer has its instance now.
    replaced: bool,
    /// It does not poll before this.
    stalls_until: u64,
    /// What it owns, and the offset that comes next.
    next: BTreeMap<i32, i64>,
}

/// What is known of one partition.
#[derive(Clone, Default)]
struct Partition {
    records: i64,
    /// Everything below was given to somebody.
    delivered: i64,
    committed: i64,
    /// What a power cut leaves: this, or one of the commits after it.
    durable: i64,
    since: BTreeSet<i64>,
}

struct World {
    random: Random,
    clock: ManualClock,
    disk: SimDisk,
    store: Store,
    now: u64,
    members: Vec<Option<Member>>,
    partitions: Vec<Partition>,
    has_static: bool,
    /// What the model saw, so that it is known to look.
    polls: u64,
    refused: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        let store = manual(&clock).disk(&disk).open(DIR).unwrap();
        store.create_topic("t", TopicConfig::default().partitions(PARTITIONS as u32)).unwrap();
        World {
            random: Random(seed),
            clock,
            disk,
            store,
            now: 0,
            members: (0..CONSUMERS).map(|_| None).collect(),
            partitions: vec![Partition::default(); PARTITIONS],
            has_static: seed.is_multiple_of(2),
            polls: 0,
            refused: 0,
        }
    }

    fn step(&mut self) {
        let i = self.random.below(CONSUMERS as u64) as usize;
        match self.random.below(100) {
            0..45 => self.poll(i),
            45..55 => self.commit(i),
            55..67 => self.produce(),
            67..77 => {
                let ms = self.now_and_then();
                self.pass(ms);
            }
            77..87 => self.join(i),
            87..91 => self.leave(i),
            91..94 => self.stall(i),
            94..97 => drop(self.store.maintain().unwrap()),
            97 => self.settle(),
            98 => self.restart(false),
            _ => self.restart(true),
        }
        self.check_owners();
    }

    fn now_and_then(&mut self) -> u64 {
        if self.random.one_in(6) { self.random.below(3 * POLL_MS) } else { self.random.below(POLL_MS / 4) }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.clock.advance(Duration::from_millis(ms));
    }

    fn produce(&mut self) {
        let p = self.random.below(PARTITIONS as u64) as usize;
        let count = 1 + self.random.below(5);
        let topic = self.store.topic("t").unwrap();
        let records = (0..count).map(|_| Record::to(&topic).value("v"));
        topic.partition(p as i32).unwrap().append(records, None, Acks::All).unwrap();
        self.partitions[p].records += count as i64;
    }

    fn join(&mut self, i: usize) {
        if self.members[i].is_some() {
            return;
        }
        let instance = (self.has_static && self.random.one_in(2)).then(|| self.random.below(4));
        let mut config = ConsumerConfig::default()
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .max_poll_interval_ms(POLL_MS)
            .session_timeout_ms(SESSION_MS)
            .max_poll_records(1 + self.random.below(40) as usize);
        if let Some(instance) = instance {
            config = config.group_instance_id(&instance.to_string());
        }
        let mut consumer = self.store.group("g").consumer_with(config).unwrap();
        consumer.subscribe(["t"]).unwrap();
        self.members[i] = Some(Member {
            consumer,
            instance,
            polled: None,
            replaced: false,
            stalls_until: 0,
            next: BTreeMap::new(),
        });
    }

    fn leave(&mut self, i: usize) {
        let Some(member) = self.members[i].take() else { return };
        // Who heard of it has nothing left to lose.
        let gone = member.polled.is_some() && member.is_gone(self.now);
        if self.random.one_in(2) {
            drop(member.consumer);
        } else {
            let closed = member.consumer.close();
            assert_eq!(closed.is_err(), gone, "{closed:?}");
        }
    }

    fn stall(&mut self, i: usize) {
        let ms = self.random.below(3 * POLL_MS);
        if let Some(member) = &mut self.members[i] {
            member.stalls_until = self.now + ms;
        }
    }

    fn poll(&mut self, i: usize) {
        let now = self.now;
        let Some(member) = self.members[i].as_mut().filter(|member| member.stalls_until <= now) else {
            return;
        };
        let gone = member.is_gone(now);
        match member.consumer.poll(Duration::ZERO) {
            Err(error) => {
                assert!(gone, "a member was removed that polled {:?} of {now}: {error}", member.polled);
                member.check_gone(&error);
                // Removed, and not fenced: it may join anew.
                member.replaced &= matches!(error.kind(), ErrorKind::FencedInstance { .. });
                (member.polled, self.refused) = (None, self.refused + 1);
                member.next.clear();
                assert_eq!(member.consumer.assignment().count(), 0);
            }
            Ok(records) => {
                assert!(!gone, "who was away for too long must hear of it");
                self.polls += 1;
                let joins = member.polled.replace(now).is_none();
                let owned: BTreeSet<i32> = member.consumer.assignment().map(|(_, p)| p).collect();
                assert_eq!(owned.len(), member.consumer.assignment().count(), "one twice");
                member.next.retain(|p, _| owned.contains(p));
                for p in owned {
                    member.next.entry(p).or_insert(self.partitions[p as usize].committed);
                }
                for record in &records {
                    let next = member.next.get_mut(&record.partition()).expect("a record of another's");
                    assert_eq!(record.offset(), *next, "skipped or repeated in {}", record.partition());
                    *next += 1;
                    let known = &mut self.partitions[record.partition() as usize];
                    assert!(record.offset() <= known.delivered, "a record was skipped");
                    known.delivered = known.delivered.max(*next);
                }
                for (p, next) in &member.next {
                    assert_eq!(member.consumer.position("t", *p).unwrap(), *next);
                }
                if let (true, Some(instance)) = (joins, member.instance) {
                    self.replace_others(i, instance);
                }
            }
        }
    }

    fn replace_others(&mut self, i: usize, instance: u64) {
        for (j, other) in self.members.iter_mut().enumerate() {
            if let Some(other) = other.as_mut().filter(|other| j != i && other.instance == Some(instance)) {
                other.replaced |= other.polled.is_some();
            }
        }
    }

    fn commit(&mut self, i: usize) {
        let (now, sync) = (self.now, self.random.one_in(2));
        let some = self.random.one_in(3);
        let Some(member) = &mut self.members[i] else { return };
        let mut offsets = member.next.clone();
        if some {
            // Some of what was read, and not all of it.
            let keep = self.random.next();
            offsets.retain(|p, _| keep >> (*p % 32) & 1 == 1);
            for (p, next) in &mut offsets {
                let back = if self.random.one_in(4) {
                    *next
                } else {
                    *next - self.partitions[*p as usize].committed
                };
                *next -= self.random.below(back.max(0) as u64 + 1) as i64;
            }
        }
        let positions = offsets.iter().map(|(p, next)| ("t", *p, *next));
        let committed = match (some, sync) {
            (true, true) => member.consumer.commit_offsets(positions),
            (true, false) => member.consumer.commit_offsets_async(positions),
            (false, true) => member.consumer.commit(),
            (false, false) => member.consumer.commit_async(),
        };
        if member.polled.is_some() && member.is_gone(now) {
            self.refused += 1;
            return member.check_gone(&committed.unwrap_err());
        }
        committed.unwrap();
        for (p, next) in offsets {
            let known = &mut self.partitions[p as usize];
            known.committed = next;
            known.since.insert(next);
            if sync {
                // What others committed before may be durable as well, or not.
                known.durable = next;
                known.since.clear();
            }
        }
    }

    fn note_durable(&mut self) {
        for known in &mut self.partitions {
            known.durable = known.committed;
            known.since.clear();
        }
    }

    /// The process dies, or the power goes: no member is left, and the group stands where it committed last.
    fn restart(&mut self, power_cut: bool) {
        let disk = if power_cut { self.disk.crash(self.random.next()) } else { self.disk.kill() };
        let store = manual(&self.clock).disk(&disk).open(DIR).unwrap();
        // The old life ends on its own disk.
        self.members.iter_mut().for_each(|member| *member = None);
        (self.store, self.disk) = (store, disk);
        let all = self.store.group("g").committed().unwrap();
        let all: BTreeMap<TopicPartition, i64> = all.into_iter().map(|(at, c)| (at, c.offset)).collect();
        for (p, known) in self.partitions.iter_mut().enumerate() {
            let found = all.get(&TopicPartition::new("t", p as i32)).copied().unwrap_or(0);
            if power_cut {
                assert!(found == known.durable || known.since.contains(&found), "{p}: {found}");
            } else {
                assert_eq!(found, known.committed, "{p}: not where it stood");
            }
            known.committed = found;
            let partition = self.store.topic("t").unwrap().partition(p as i32).unwrap();
            assert_eq!(partition.high_watermark(), known.records);
        }
        self.note_durable();
    }

    /// No partition has two owners that are alive.
    fn check_owners(&self) {
        let mut owners: BTreeMap<i32, usize> = BTreeMap::new();
        for (i, member) in self.members.iter().enumerate() {
            let Some(member) = member.as_ref().filter(|member| !member.is_gone(self.now)) else { continue };
            for p in member.next.keys() {
                if let Some(other) = owners.insert(*p, i) {
                    panic!("{p} is owned by {other} and {i}");
                }
            }
        }
    }

    fn poll_all(&mut self) {
        (0..CONSUMERS).for_each(|i| self.poll(i));
    }

    /// Those who poll go on; whatever happened before, every partition has an owner within the time that a stalled
    /// member has, and one poll.
    fn settle(&mut self) {
        let before = self.now;
        self.join(0);
        if let Some(first) = &mut self.members[0] {
            first.stalls_until = 0;
        }
        // Who stalls does so for longer than this takes.
        let bound = POLL_MS + if self.has_static { SESSION_MS } else { 0 };
        for member in self.members.iter_mut().flatten() {
            if member.stalls_until > before {
                member.stalls_until = before + 10 * POLL_MS;
            }
        }
        while self.now < before + bound {
            self.poll_all();
            self.check_owners();
            self.pass(POLL_MS / 5);
        }
        self.poll_all();
        self.check_owners();
        let live = self.members.iter().flatten().filter(|m| m.polled.is_some() && !m.is_gone(self.now));
        let sizes: Vec<usize> = live.map(|member| member.next.len()).collect();
        assert_eq!(
            sizes.iter().sum::<usize>(),
            PARTITIONS,
            "a partition without an owner: {sizes:?} {:#?}",
            self.store.group("g").describe()
        );
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(most - least <= 1, "{sizes:?}");
        self.part_with_one();
    }

    /// One goes from a group that is at rest: nobody else loses anything.
    fn part_with_one(&mut self) {
        let now = self.now;
        let is_live = |m: &Member| m.polled.is_some() && !m.is_gone(now) && m.stalls_until <= now;
        let live: Vec<usize> =
            (0..CONSUMERS).filter(|i| self.members[*i].as_ref().is_some_and(is_live)).collect();
        let all_live = self.members.iter().flatten().all(is_live);
        if live.len() < 2 || !all_live || self.has_static {
            return;
        }
        let goes = live[self.random.below(live.len() as u64) as usize];
        self.members[goes] = None;
        let before: Vec<BTreeSet<i32>> = live
            .iter()
            .map(|i| self.members[*i].iter().flat_map(|member| member.next.keys().copied()).collect())
            .collect();
        for _ in 0..2 {
            self.poll_all();
            for (i, before) in live.iter().zip(&before) {
                let Some(member) = &self.members[*i] else { continue };
                assert!(before.iter().all(|p| member.next.contains_key(p)), "moved without need");
            }
        }
    }

    /// At the end everything was given to somebody, and the group says so.
    fn drain(&mut self) {
        self.settle();
        for _ in 0..1_000 {
            if self.partitions.iter().all(|known| known.delivered == known.records) {
                break;
            }
            self.poll_all();
        }
        assert!(self.partitions.iter().all(|known| known.delivered == known.records), "a record was skipped");
        // What was given to those who died, and not committed, comes again.
        for _ in 0..1_000 {
            self.poll_all();
            (0..CONSUMERS).for_each(|i| self.commit_all(i));
            if self.store.group("g").lag().unwrap().total == 0 {
                return;
            }
        }
        panic!("{}", self.store.group("g").lag().unwrap());
    }

    fn commit_all(&mut self, i: usize) {
        let now = self.now;
        if let Some(member) = self.members[i].as_mut().filter(|m| m.polled.is_some() && !m.is_gone(now)) {
            member.consumer.commit_async().unwrap();
        }
    }
}

impl Member {
    /// Whether it is a member no more, though it does not know it yet.
    fn is_gone(&self, now: u64) -> bool {
        let time = POLL_MS + if self.instance.is_some() { SESSION_MS } else { 0 };
        self.polled.is_some_and(|polled| self.replaced || now >= polled + time)
            || self.polled.is_none() && self.replaced
    }

    fn check_gone(&self, error: &logstead::Error) {
        match error.kind() {
            ErrorKind::RemovedFromGroup { .. } => {}
            ErrorKind::FencedInstance { .. } => assert!(self.replaced),
            other => panic!("{other:?}"),
        }
    }
}

fn run(schedules: usize) {
    let seed = seed();
    let (polls, refused) = Default::default();
    let totals: (std::sync::atomic::AtomicU64, std::sync::atomic::AtomicU64) = (polls, refused);
    in_parallel(schedules, |i| {
        let seed = seed.wrapping_add(i as u64);
        telling(
            || format!("LOGSTEAD_SEED={seed}, its first schedule"),
            || {
                let mut world = World::new(seed);
                let steps = 40 + world.random.below(120);
                for _ in 0..steps {
                    world.step();
                }
                world.drain();
                totals.0.fetch_add(world.polls, std::sync::atomic::Ordering::Relaxed);
                totals.1.fetch_add(world.refused, std::sync::atomic::Ordering::Relaxed);
            },
        );
    });
    let (polls, refused) = (totals.0.into_inner(), totals.1.into_inner());
    eprintln!("{schedules} schedules, {polls} polls, {refused} calls refused");
    assert!(schedules < 100 || refused > 0, "nobody was ever late: the model does not look");
}

#[test]
fn random_schedules_of_a_group_agree_with_the_model() {
    run(if soak() { 50_000 } else { 40 });
}

#[test]
#[ignore = "takes minutes; .ci/run calls it"]
fn two_thousand_schedules_of_a_group_agree_with_the_model() {
    run(2_000);
}
