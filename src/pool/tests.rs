use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;

use super::config::OrderBy;
use super::schedule::{Schedule, Task};
use crate::{Acks, Offset, Record, Records, Store, TopicConfig, TopicPartition};

const PARTITIONS: i32 = 3;
const RECORDS: usize = 60;
const KEYS: usize = 4;

/// Partitions whose record at offset `n` has the key `n % 5`, and none for the last of these.
fn written() -> Vec<Records> {
    let store = Store::in_memory().unwrap();
    let topic = store.create_topic("t", TopicConfig::default().partitions(PARTITIONS as u32)).unwrap();
    let keys: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
    (0..PARTITIONS)
        .map(|partition| {
            let partition = topic.partition(partition).unwrap();
            let record = |n: usize| match keys.get(n % (KEYS + 1)) {
                Some(key) => Record::to(&topic).key(key),
                None => Record::to(&topic),
            };
            // In two batches.
            partition.append((0..RECORDS / 2).map(record), None, Acks::All).unwrap();
            partition.append((RECORDS / 2..RECORDS).map(record), None, Acks::All).unwrap();
            partition.read(0, 1 << 20).unwrap()
        })
        .collect()
}

fn name(partition: i32) -> TopicPartition {
    TopicPartition { topic: "t".into(), partition }
}

fn give(schedule: &mut Schedule, records: &[Records], partition: i32, offsets: std::ops::Range<usize>) {
    let of_partition = records[partition as usize].iter().shared();
    schedule.give(&name(partition), of_partition.skip(offsets.start).take(offsets.len()));
}

fn offset(task: &Task) -> Offset {
    task.record.record().offset()
}

fn done(schedule: &Schedule, partition: i32) -> Option<Offset> {
    schedule.view().iter().find(|view| view.name == name(partition)).and_then(|view| view.done)
}

#[test]
fn records_are_shared_in_one_pass_as_one_by_one() {
    for records in written() {
        let one_by_one: Vec<_> = records.iter().map(|record| record.share()).collect();
        let in_one_pass: Vec<_> = records.iter().shared().collect();
        assert_eq!(in_one_pass.len(), RECORDS);
        for (a, b) in one_by_one.iter().zip(&in_one_pass) {
            assert_eq!((a.record().offset(), a.record().key()), (b.record().offset(), b.record().key()));
        }
    }
}

#[test]
fn done_is_the_lowest_offset_that_is_not() {
    let records = written();
    let mut schedule = Schedule::new(OrderBy::Key, 1_000);
    schedule.assign(&name(0), Some(0));
    give(&mut schedule, &records, 0, 0..4);
    let mut tasks: Vec<Task> = (0..4).map(|_| schedule.take(Duration::ZERO).unwrap()).collect();
    assert!(schedule.take(Duration::ZERO).is_none());
    let first = tasks.remove(0);
    for task in tasks.iter().rev() {
        schedule.finish(task);
        assert_eq!(done(&schedule, 0), Some(0), "the first is in hand");
    }
    assert_eq!(schedule.to_commit(), []);
    schedule.finish(&first);
    assert_eq!(schedule.to_commit(), [(name(0), 4)]);
    // Behind the records may be others that no consumer gets.
    schedule.read_up_to(&name(0), 7);
    assert_eq!(schedule.to_commit(), [(name(0), 7)]);
    schedule.committed(&name(0), 7);
    assert_eq!(schedule.to_commit(), []);
}

#[test]
fn a_record_in_hand_of_a_partition_that_was_taken_away_counts_no_more() {
    let records = written();
    let mut schedule = Schedule::new(OrderBy::Partition, 1_000);
    schedule.assign(&name(0), Some(0));
    give(&mut schedule, &records, 0, 0..4);
    let task = schedule.take(Duration::ZERO).unwrap();
    assert_eq!(schedule.leave(&name(0)), 1);
    assert!(schedule.take(Duration::ZERO).is_none(), "it gives out nothing more");
    schedule.forget(&name(0));
    // It comes back, from where it was committed.
    schedule.assign(&name(0), Some(0));
    schedule.finish(&task);
    assert_eq!((done(&schedule, 0), schedule.to_commit()), (Some(0), vec![]));
    give(&mut schedule, &records, 0, 0..4);
    assert_eq!(offset(&schedule.take(Duration::ZERO).unwrap()), 0);
}

#[test]
fn what_was_in_hand_when_a_partition_left_still_counts_until_it_is_forgotten() {
    let records = written();
    let mut schedule = Schedule::new(OrderBy::Partition, 1_000);
    schedule.assign(&name(0), Some(0));
    give(&mut schedule, &records, 0, 0..4);
    let task = schedule.take(Duration::ZERO).unwrap();
    assert_eq!(schedule.leave(&name(0)), 1);
    schedule.finish(&task);
    assert_eq!(schedule.leave(&name(0)), 0);
    assert_eq!(schedule.to_commit(), [(name(0), 1)]);
}

#[test]
fn a_partition_is_paused_at_its_share_and_read_on_at_half_of_it() {
    let records = written();
    let mut schedule = Schedule::new(OrderBy::Partition, 20);
    schedule.assign(&name(0), Some(0));
    schedule.assign(&name(1), Some(0));
    give(&mut schedule, &records, 0, 0..9);
    assert_eq!(schedule.flow(), (vec![], vec![]));
    give(&mut schedule, &records, 0, 9..15);
    assert_eq!(schedule.flow(), (vec![name(0)], vec![]));
    assert_eq!(schedule.flow(), (vec![], vec![]));
    for left in (0..15).rev() {
        let task = schedule.take(Duration::ZERO).unwrap();
        assert_eq!(schedule.finish(&task), left <= 5, "{left} left");
        if left == 5 {
            assert_eq!(schedule.flow(), (vec![], vec![name(0)]));
            return;
        }
    }
}

// ───────── any order of events, against plain lists

#[derive(Clone, Debug)]
enum Event {
    Give(i32, usize),
    Take,
    Finish(usize),
    Retry(usize, u64),
    Pass(u64),
    Leave(i32),
    Assign(i32),
}

fn event() -> impl Strategy<Value = Event> {
    let partition = || 0..PARTITIONS;
    prop_oneof![
        3 => (partition(), 1..12_usize).prop_map(|(p, n)| Event::Give(p, n)),
        8 => Just(Event::Take),
        6 => any::<usize>().prop_map(Event::Finish),
        2 => (any::<usize>(), 0..50_u64).prop_map(|(at, ms)| Event::Retry(at, ms)),
        2 => (1..40_u64).prop_map(Event::Pass),
        1 => partition().prop_map(Event::Leave),
        1 => partition().prop_map(Event::Assign),
    ]
}

/// The reference: what is given in and not done, and when each may be handled.
#[derive(Default)]
struct Plain {
    /// By partition: the first offset to be given in; the offsets that are open, with their times.
    partitions: BTreeMap<i32, (usize, BTreeMap<Offset, Duration>)>,
    in_hand: BTreeSet<(i32, Offset)>,
}

fn row(order: OrderBy, offset: Offset) -> Option<i64> {
    match (order, offset % (KEYS as i64 + 1)) {
        (OrderBy::Partition, _) => Some(0),
        (OrderBy::Key, key) if key == KEYS as i64 => None,
        (OrderBy::Key, key) => Some(key),
    }
}

impl Plain {
    /// What may be taken now.
    fn may_go(&self, order: OrderBy, now: Duration) -> BTreeSet<(i32, Offset)> {
        let mut may = BTreeSet::new();
        for (partition, (_, open)) in &self.partitions {
            let mut rows: HashMap<i64, Offset> = HashMap::new();
            for (offset, due) in open {
                let first = match row(order, *offset) {
                    Some(row) => *rows.entry(row).or_insert(*offset),
                    None => *offset,
                };
                if first == *offset && *due <= now && !self.in_hand.contains(&(*partition, *offset)) {
                    may.insert((*partition, *offset));
                }
            }
        }
        may
    }
}

fn run(order: OrderBy, records: &[Records], events: &[Event]) {
    let mut schedule = Schedule::new(order, 1_000);
    let mut plain = Plain::default();
    // With the assignment that each belongs to.
    let mut tasks: Vec<(i32, u64, Task)> = Vec::new();
    let mut assignments = [0_u64; PARTITIONS as usize];
    let mut now = Duration::ZERO;
    for event in events {
        match event {
            Event::Assign(p) => {
                assignments[*p as usize] += 1;
                plain.in_hand.retain(|(partition, _)| partition != p);
                plain.partitions.insert(*p, Default::default());
                schedule.assign(&name(*p), Some(0));
            }
            Event::Leave(p) => {
                assignments[*p as usize] += 1;
                plain.in_hand.retain(|(partition, _)| partition != p);
                plain.partitions.remove(p);
                schedule.forget(&name(*p));
            }
            Event::Give(p, n) => {
                let Some((next, open)) = plain.partitions.get_mut(p) else { continue };
                let offsets = *next..(*next + n).min(RECORDS);
                open.extend(offsets.clone().map(|offset| (offset as i64, Duration::ZERO)));
                *next = offsets.end;
                give(&mut schedule, records, *p, offsets);
            }
            Event::Take => {
                let may = plain.may_go(order, now);
                match schedule.take(now) {
                    None => assert_eq!(may, BTreeSet::new(), "these could go"),
                    Some(task) => {
                        let partition = task.record.record().partition();
                        let taken = (partition, offset(&task));
                        assert!(may.contains(&taken), "{taken:?} may not go, only {may:?}");
                        plain.in_hand.insert(taken);
                        tasks.push((partition, assignments[partition as usize], task));
                    }
                }
            }
            Event::Finish(_) | Event::Retry(..) if tasks.is_empty() => {}
            Event::Finish(at) => {
                let (partition, assignment, task) = tasks.swap_remove(at % tasks.len());
                if assignment == assignments[partition as usize] {
                    plain.in_hand.remove(&(partition, offset(&task)));
                    plain.partitions.get_mut(&partition).unwrap().1.remove(&offset(&task));
                }
                schedule.finish(&task);
            }
            Event::Retry(at, ms) => {
                let (partition, assignment, task) = tasks.swap_remove(at % tasks.len());
                let due = now + Duration::from_millis(*ms);
                if assignment == assignments[partition as usize] {
                    plain.in_hand.remove(&(partition, offset(&task)));
                    plain.partitions.get_mut(&partition).unwrap().1.insert(offset(&task), due);
                }
                schedule.retry(task, due);
            }
            Event::Pass(ms) => now += Duration::from_millis(*ms),
        }
        let views = schedule.view();
        assert_eq!(views.len(), plain.partitions.len());
        for (view, (partition, (next, open))) in views.iter().zip(&plain.partitions) {
            let lowest = open.keys().next().copied().unwrap_or(*next as i64);
            assert_eq!((view.name.partition, view.done), (*partition, Some(lowest)), "{event:?}");
            let in_hand = plain.in_hand.iter().filter(|(p, _)| p == partition).count();
            assert_eq!((view.open, view.in_hand), (open.len(), in_hand));
        }
    }
}

proptest! {
    #[test]
    fn rows_keep_their_order_and_nothing_is_lost(events in proptest::collection::vec(event(), 1..300)) {
        thread_local! {
            static RECORDS_READ: Vec<Records> = written();
        }
        let assigned = (0..PARTITIONS).map(Event::Assign);
        let events: Vec<Event> = assigned.chain(events).collect();
        RECORDS_READ.with(|records| {
            run(OrderBy::Partition, records, &events);
            run(OrderBy::Key, records, &events);
        });
    }
}
