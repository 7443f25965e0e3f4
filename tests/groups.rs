//! What groups promise, seen from outside: cases N16 to N27 by number, the outcomes of N1 to N15, and what Kafka's
//! tests do not have: threads, tasks, crashes, damage.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use logstead::{
    Acks, AssignmentStrategy, Assignor, AutoOffsetReset, Consumer, ConsumerConfig, Durability, ErrorKind,
    FaultKind, FaultOp, Group, GroupSpec, GroupState, Maintenance, ManualClock, OffsetAndMetadata,
    PartitionIndex, ProducerConfig, RebalanceListener, Record, RecoveryEvent, ResetTo, Result, SimDisk,
    Store, StoreOptions, TopicConfig, TopicPartition,
};

const OFFSETS: &str = "__consumer_offsets";
const DIR: &str = "/s";

/// A store on a disk of its own that does nothing by itself, and a topic `t` with four partitions.
struct Bench {
    disk: SimDisk,
    clock: ManualClock,
    store: Store,
}

fn options(clock: &ManualClock) -> StoreOptions {
    Store::options().maintenance(Maintenance::Manual).clock(clock.clone())
}

impl Bench {
    fn new() -> Bench {
        let (disk, clock) = (SimDisk::new(1), ManualClock::new(1_700_000_000_000));
        let store = options(&clock).disk(&disk).open(DIR).unwrap();
        store.create_topic("t", TopicConfig::default().partitions(4)).unwrap();
        Bench { disk, clock, store }
    }

    fn reopen(&mut self, disk: SimDisk) {
        self.store = options(&self.clock).disk(&disk).open(DIR).unwrap();
        self.disk = disk;
    }

    fn fill(&self, topic: &str, partition: i32, count: usize) {
        let topic = self.store.topic(topic).unwrap();
        let records = (0..count).map(|_| Record::to(&topic).value("v"));
        topic.partition(partition).unwrap().append(records, None, Acks::All).unwrap();
    }

    fn group(&self) -> Group {
        self.store.group("g")
    }

    fn member(&self) -> Consumer {
        member(&self.group(), config())
    }

    fn pass(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    fn committed(&self, partition: i32) -> Option<i64> {
        let all = self.group().committed().unwrap();
        let found = all.iter().find(|(at, _)| *at == TopicPartition::new("t", partition));
        found.map(|(_, committed)| committed.offset)
    }
}

fn config() -> ConsumerConfig {
    ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest).max_poll_interval_ms(1_000)
}

fn member(group: &Group, config: ConsumerConfig) -> Consumer {
    let mut consumer = group.consumer_with(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

/// Polls without waiting; where the records lie.
fn poll(consumer: &mut Consumer) -> Vec<(i32, i64)> {
    places(&consumer.poll(Duration::ZERO).unwrap())
}

fn places(records: &logstead::Records) -> Vec<(i32, i64)> {
    records.iter().map(|record| (record.partition(), record.offset())).collect()
}

fn owned(consumer: &Consumer) -> Vec<i32> {
    let mut owned: Vec<i32> = consumer.assignment().map(|(_, partition)| partition).collect();
    owned.sort_unstable();
    owned
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> String {
    format!("{:?}", result.unwrap_err().kind()).split([' ', '{', '(']).next().unwrap().to_owned()
}

// ───────── sharing

#[test]
fn members_share_the_partitions_and_go_on_where_the_group_stands() {
    let bench = Bench::new();
    (0..4).for_each(|p| bench.fill("t", p, 2));
    let mut a = bench.member();
    assert_eq!(poll(&mut a).len(), 8);
    a.commit().unwrap();
    let mut b = bench.member();
    assert_eq!(poll(&mut b), []);
    assert_eq!(owned(&b), [0; 0], "nothing before the other lets go of it");
    poll(&mut a);
    poll(&mut b);
    assert_eq!((owned(&a).len(), owned(&b).len()), (2, 2));
    let both: BTreeSet<i32> = owned(&a).into_iter().chain(owned(&b)).collect();
    assert_eq!(both.len(), 4);
    (0..4).for_each(|p| bench.fill("t", p, 1));
    let mut news = poll(&mut a);
    news.extend(poll(&mut b));
    news.sort_unstable();
    assert_eq!(news, [(0, 2), (1, 2), (2, 2), (3, 2)], "each once, and none again");

    let group = bench.group().describe().unwrap();
    assert_eq!((group.state, group.members.len()), (GroupState::Stable, 2));
    assert_eq!(group.assignor.as_deref(), Some("cooperative-sticky"));
    assert_eq!(a.group_epoch(), Some(group.epoch));
    assert_eq!(group.members[0].member_id, a.member_id().unwrap());
    assert_eq!(group.members[0].assignment, group.members[0].target);
    assert_eq!(bench.store.group_names().unwrap(), ["g"]);
}

#[test]
fn a_consumer_that_leaves_is_dropped_or_panics_gives_its_partitions_to_the_others() {
    let bench = Bench::new();
    let mut a = bench.member();
    poll(&mut a);
    let leave: [fn(Consumer); 3] = [
        |consumer| consumer.close().unwrap(),
        drop,
        |consumer| {
            let thread = std::thread::spawn(move || {
                let _consumer = consumer;
                std::panic::resume_unwind(Box::new("a handler's bug"));
            });
            assert!(thread.join().is_err());
        },
    ];
    for leave in leave {
        let mut b = bench.member();
        poll(&mut b);
        poll(&mut a);
        poll(&mut b);
        assert_eq!(owned(&b).len(), 2);
        leave(b);
        poll(&mut a);
        assert_eq!(owned(&a), [0, 1, 2, 3]);
    }
}

#[test]
fn who_stops_polling_loses_its_partitions_is_told_so_and_its_late_commits_are_refused() {
    let bench = Bench::new();
    (0..4).for_each(|p| bench.fill("t", p, 2));
    let (mut a, mut b) = (bench.member(), bench.member());
    poll(&mut a);
    poll(&mut b);
    poll(&mut a);
    poll(&mut b);
    let lost = owned(&a);
    bench.pass(999);
    poll(&mut b);
    assert_eq!(owned(&b).len(), 2);
    bench.pass(1);
    poll(&mut b);
    assert_eq!(owned(&b), [0, 1, 2, 3]);
    b.commit().unwrap();

    assert_eq!(kind(a.commit_offsets([("t", lost[0], 1)])), "RemovedFromGroup");
    assert_eq!(kind(a.commit()), "RemovedFromGroup");
    assert_eq!(bench.committed(lost[0]), Some(2), "the late one changed nothing");
    assert_eq!(kind(a.poll(Duration::ZERO)), "RemovedFromGroup");
    assert_eq!(owned(&a), [0; 0]);
    a.commit().unwrap();
    assert_eq!(poll(&mut a), [], "it joins anew");
    poll(&mut b);
    poll(&mut a);
    assert_eq!(owned(&a).len(), 2);
}

#[test]
fn a_commit_of_what_was_given_back_is_refused() {
    let bench = Bench::new();
    (0..4).for_each(|p| bench.fill("t", p, 2));
    let mut a = bench.member();
    poll(&mut a);
    let mut b = bench.member();
    poll(&mut b);
    poll(&mut a);
    let kept = owned(&a);
    let gone = (0..4).find(|p| !kept.contains(p)).unwrap();
    assert_eq!(kind(a.commit_offsets([("t", gone, 1)])), "NotOwner");
    assert_eq!(kind(a.commit_offsets([("t", kept[0], 1), ("t", gone, 1)])), "NotOwner");
    assert_eq!(bench.committed(kept[0]), None, "all or nothing, when it is about ownership");
    a.commit_offsets([("t", kept[0], 1)]).unwrap();
    assert_eq!(kind(b.commit_offsets([("t", kept[0], 1)])), "NotOwner");
}

#[test]
fn n9_n11_a_static_member_finds_its_partitions_again() {
    let bench = Bench::new();
    let with = |id: &str| config().group_instance_id(id).session_timeout_ms(500);
    let (mut a, mut b) = (member(&bench.group(), with("a")), member(&bench.group(), with("b")));
    for _ in 0..2 {
        poll(&mut a);
        poll(&mut b);
    }
    let (mine, epoch) = (owned(&a), bench.group().describe().unwrap().epoch);
    a.close().unwrap();
    bench.pass(499);
    poll(&mut b);
    assert_eq!(owned(&b).len(), 2);
    assert!(bench.group().describe().unwrap().members.iter().any(|member| member.absent));
    let mut a = member(&bench.group(), with("a"));
    poll(&mut a);
    assert_eq!((owned(&a), bench.group().describe().unwrap().epoch), (mine, epoch));

    let mut usurper = member(&bench.group(), with("a"));
    poll(&mut usurper);
    for _ in 0..2 {
        assert_eq!(kind(a.poll(Duration::ZERO)), "FencedInstance", "for good");
    }
    drop(a);
    assert_eq!(owned(&usurper).len(), 2, "who is fenced takes nothing with it");
    drop(usurper);
    bench.pass(500);
    poll(&mut b);
    assert_eq!(owned(&b), [0, 1, 2, 3]);
}

#[test]
fn n2_members_without_a_common_strategy_are_refused() {
    let bench = Bench::new();
    let with = |strategies: &[AssignmentStrategy]| {
        config().partition_assignment_strategy(strategies.iter().copied())
    };
    let mut a = member(&bench.group(), with(&[AssignmentStrategy::Range]));
    poll(&mut a);
    let mut b = member(&bench.group(), with(&[AssignmentStrategy::RoundRobin]));
    assert_eq!(kind(b.poll(Duration::ZERO)), "InconsistentStrategies");
    let mut c = member(&bench.group(), with(&[AssignmentStrategy::RoundRobin, AssignmentStrategy::Range]));
    poll(&mut c);
    assert_eq!(bench.group().describe().unwrap().assignor.as_deref(), Some("range"));
}

#[test]
fn topics_that_are_made_deleted_and_given_partitions_are_taken_up() {
    let bench = Bench::new();
    let mut a = bench.group().consumer_with(config()).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    a.subscribe_matching(move |name| {
        count.fetch_add(1, Ordering::SeqCst);
        name.starts_with("t")
    })
    .unwrap();
    poll(&mut a);
    assert_eq!(a.assignment().count(), 4);
    let before = asked.load(Ordering::SeqCst);
    poll(&mut a);
    assert_eq!(asked.load(Ordering::SeqCst), before, "nothing changed, nothing is asked");
    bench.store.create_topic("t2", TopicConfig::default()).unwrap();
    bench.store.create_topic("other", TopicConfig::default()).unwrap();
    bench.fill("t2", 0, 3);
    assert_eq!(poll(&mut a).len(), 3);
    let config = bench.store.topic("t2").unwrap().config().partitions(3);
    bench.store.alter_topic("t2", config).unwrap();
    poll(&mut a);
    assert_eq!(a.assignment().count(), 7);
    a.commit().unwrap();
    assert!(a.assignment().all(|(topic, _)| topic != OFFSETS), "internal topics are never meant");
    bench.store.delete_topic("t2").unwrap();
    poll(&mut a);
    assert_eq!(a.assignment().count(), 4);
    a.commit().unwrap();
}

#[test]
fn a_topic_that_is_made_anew_is_read_from_its_beginning() {
    let bench = Bench::new();
    bench.store.create_topic("u", TopicConfig::default()).unwrap();
    bench.fill("u", 0, 5);
    let mut a = bench.group().consumer_with(config()).unwrap();
    a.subscribe(["u"]).unwrap();
    assert_eq!(poll(&mut a).len(), 5);
    a.commit().unwrap();
    bench.store.delete_topic("u").unwrap();
    assert_eq!(bench.group().committed().unwrap(), [], "its offsets went with it");
    bench.store.create_topic("u", TopicConfig::default()).unwrap();
    bench.fill("u", 0, 3);
    assert_eq!(kind(a.commit_offsets([("u", 0, 1)])), "NotOwner", "that was the other one");
    assert_eq!(poll(&mut a), [(0, 0), (0, 1), (0, 2)]);
    a.commit().unwrap();
    assert_eq!(bench.group().lag().unwrap().total, 0);
}

// ───────── threads and tasks

#[test]
fn a_poll_that_sleeps_is_woken_when_the_group_wants_something() {
    let store = Store::in_memory().unwrap();
    store.create_topic("t", TopicConfig::default().partitions(4)).unwrap();
    let mut a = member(&store.group("g"), ConsumerConfig::default());
    poll(&mut a);
    let (waker, (sent, rebalanced)) = (a.waker(), mpsc::channel());
    struct Tell(mpsc::Sender<usize>);
    impl RebalanceListener for Tell {
        fn revoked(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
            self.0.send(partitions.len()).unwrap();
            Ok(())
        }
    }
    a.on_rebalance(Tell(sent));
    let sleeper = std::thread::spawn(move || {
        let woken = a.poll(Duration::from_secs(3_600));
        (kind(woken), owned(&a).len())
    });
    let mut b = member(&store.group("g"), ConsumerConfig::default());
    poll(&mut b);
    assert_eq!(rebalanced.recv_timeout(Duration::from_secs(60)).unwrap(), 2);
    while owned(&b).len() < 2 {
        b.poll(Duration::from_millis(10)).unwrap();
    }
    waker.wake();
    assert_eq!(sleeper.join().unwrap(), ("Woken".to_owned(), 2));
}

#[test]
fn the_timer_finds_out_that_a_member_stalls() {
    let store = Store::in_memory().unwrap();
    store.create_topic("t", TopicConfig::default().partitions(4)).unwrap();
    let config = ConsumerConfig::default().max_poll_interval_ms(50);
    let mut stalled = member(&store.group("g"), config.clone());
    poll(&mut stalled);
    let mut other = member(&store.group("g"), config);
    let (sent, taken) = mpsc::channel();
    struct Tell(mpsc::Sender<usize>);
    impl RebalanceListener for Tell {
        fn assigned(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
            self.0.send(partitions.len()).unwrap();
            Ok(())
        }
    }
    other.on_rebalance(Tell(sent));
    let waker = other.waker();
    let thread = std::thread::spawn(move || kind(other.poll(Duration::from_secs(3_600))));
    assert_eq!(taken.recv_timeout(Duration::from_secs(60)).unwrap(), 4);
    waker.wake();
    assert_eq!(thread.join().unwrap(), "Woken");
    assert_eq!(kind(stalled.commit_offsets([("t", 0, 0)])), "RemovedFromGroup");
}

#[test]
fn a_task_in_a_group_is_woken_too() {
    #[derive(Default)]
    struct Flag(AtomicUsize);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let bench = Bench::new();
    let mut a = bench.member();
    let flag = Arc::new(Flag::default());
    let waker = Arc::clone(&flag).into();
    let mut cx = Context::from_waker(&waker);
    assert!(a.poll_ready(&mut cx).is_pending());
    assert_eq!(owned(&a).len(), 4);
    bench.pass(100_000);
    let mut b = bench.member();
    poll(&mut b);
    assert_eq!(flag.0.load(Ordering::SeqCst), 1);
    assert!(a.poll_ready(&mut cx).is_pending(), "it slept for long and is a member all the same");
    assert_eq!(owned(&a).len(), 2);
    let taken = (0..4).find(|p| owned(&a).contains(p)).unwrap();
    bench.fill("t", taken, 1);
    assert_eq!(flag.0.load(Ordering::SeqCst), 2);
    let Poll::Ready(records) = a.poll_ready(&mut cx) else { panic!("a record is there") };
    assert_eq!(places(&records.unwrap()), [(taken, 0)]);
}

#[test]
fn many_threads_read_every_record_once_while_members_come_and_go() {
    let store = Store::in_memory().unwrap();
    store.create_topic("t", TopicConfig::default().partitions(8)).unwrap();
    let producer = store.producer().unwrap();
    let total = 4_000_usize;
    let seen: Arc<Mutex<Vec<u32>>> = Arc::new(Mutex::new(vec![0; total]));
    let left = Arc::new(AtomicUsize::new(total));
    let threads: Vec<_> = (0..6)
        .map(|worker| {
            let (store, seen, left) = (store.clone(), Arc::clone(&seen), Arc::clone(&left));
            std::thread::spawn(move || {
                let config = ConsumerConfig::default()
                    .auto_offset_reset(AutoOffsetReset::Earliest)
                    .max_poll_records(7 + worker);
                let mut polls = 0;
                while left.load(Ordering::SeqCst) > 0 {
                    let mut consumer = member(&store.group("g"), config.clone());
                    // Each consumer lives for a while, then another takes its place.
                    for _ in 0..20 {
                        let records = consumer.poll(Duration::from_millis(5)).unwrap();
                        for record in &records {
                            let number: usize =
                                std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
                            seen.lock().unwrap()[number] += 1;
                            left.fetch_sub(1, Ordering::SeqCst);
                        }
                        consumer.commit_async().unwrap();
                        polls += 1;
                    }
                    if polls % 40 == 0 { consumer.close().unwrap() } else { drop(consumer) }
                }
            })
        })
        .collect();
    for number in 0..total {
        let text = number.to_string();
        producer.send(Record::to("t").key(&text).value(&text)).unwrap();
        if number % 100 == 0 {
            producer.flush().unwrap();
        }
    }
    producer.flush().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(seen.lock().unwrap().iter().all(|count| *count == 1), "a record was skipped or read twice");
    assert_eq!(store.group("g").lag().unwrap().total, 0);
}

// ───────── the listener

/// Writes down what it is told, and does what a test wants.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn note(&self, what: &str, partitions: &[TopicPartition]) -> Result<()> {
        let mut partitions: Vec<i32> = partitions.iter().map(|at| at.partition).collect();
        partitions.sort_unstable();
        self.0.lock().unwrap().push(format!("{what} {partitions:?}"));
        Ok(())
    }
}

impl RebalanceListener for Journal {
    fn revoked(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        // Its own until this returns.
        consumer.commit()?;
        assert_eq!(kind(consumer.poll(Duration::ZERO)), "WouldWaitForItself");
        assert_eq!(kind(consumer.unsubscribe()), "WouldWaitForItself");
        self.note("revoked", partitions)
    }

    fn assigned(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.note("assigned", partitions)
    }

    fn lost(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let refused = kind(consumer.commit_offsets([("t", partitions[0].partition, 0)]));
        self.note(&format!("lost, {refused},"), partitions)
    }
}

#[test]
fn n24_the_listener_hears_of_differences_only_and_of_a_loss_as_such() {
    let bench = Bench::new();
    (0..4).for_each(|p| bench.fill("t", p, 1));
    let (mut a, journal) = (bench.member(), Journal::default());
    a.on_rebalance(journal.clone());
    poll(&mut a);
    assert_eq!(journal.take(), ["assigned [0, 1, 2, 3]"]);
    let mut b = bench.member();
    poll(&mut b);
    poll(&mut a);
    let kept = owned(&a);
    let given: Vec<i32> = (0..4).filter(|p| !kept.contains(p)).collect();
    assert_eq!(journal.take(), [format!("revoked {given:?}")]);
    assert_eq!(bench.committed(given[0]), Some(1), "committed by the listener");
    poll(&mut b);
    assert_eq!(owned(&b), given);
    b.close().unwrap();
    poll(&mut a);
    assert_eq!(journal.take(), [format!("assigned {given:?}")]);
    bench.pass(1_000);
    bench.member().poll(Duration::ZERO).unwrap();
    assert_eq!(kind(a.poll(Duration::ZERO)), "RemovedFromGroup");
    assert_eq!(journal.take(), ["lost, NotOwner, [0, 1, 2, 3]"]);
    poll(&mut a);
    assert_eq!(journal.take(), ["assigned [0, 1, 2, 3]"]);
    a.close().unwrap();
    assert_eq!(journal.take(), ["revoked [0, 1, 2, 3]"]);
}

#[test]
fn a_listener_can_seek_and_its_error_and_its_panic_come_out_of_the_poll() {
    struct Seek(u32);
    impl RebalanceListener for Seek {
        fn assigned(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
            self.0 += 1;
            match self.0 {
                1 => {
                    for at in partitions {
                        consumer.seek(&at.topic, at.partition, 3)?;
                    }
                    Ok(())
                }
                2 => Err(ErrorKind::Woken.into()),
                _ => panic!("third"),
            }
        }
    }
    let bench = Bench::new();
    bench.fill("t", 0, 5);
    bench.group().commit_offsets([("t", 0, 1)]).unwrap();
    let mut a = bench.member();
    a.on_rebalance(Seek(0));
    assert_eq!(poll(&mut a), [(0, 3), (0, 4)]);
    for outcome in ["Woken", "panic"] {
        bench.pass(1_000);
        assert_eq!(kind(a.poll(Duration::ZERO)), "RemovedFromGroup");
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| a.poll(Duration::ZERO)));
        match polled {
            Ok(polled) => assert_eq!(kind(polled), outcome),
            Err(_) => assert_eq!("panic", outcome),
        }
        assert_eq!(owned(&a).len(), 4, "they are its own all the same");
    }
    assert_eq!(poll(&mut a).first(), Some(&(0, 1)), "from what was committed");
}

// ───────── offsets

#[test]
fn n16_metadata_that_is_too_long_keeps_that_partition_out_and_no_other() {
    let bench = Bench::new();
    (0..2).for_each(|p| bench.fill("t", p, 2));
    let mut a = bench.member();
    poll(&mut a);
    let with = |len: usize| OffsetAndMetadata::from(1).metadata("x".repeat(len));
    assert_eq!(
        kind(a.commit_offsets([("t", 0, with(4_097)), ("t", 1, with(4_096))])),
        "OffsetMetadataTooLarge"
    );
    assert_eq!((bench.committed(0), bench.committed(1)), (None, Some(1)));
    assert_eq!(a.committed([("t", 1)]).unwrap()[0].as_ref().unwrap().metadata.len(), 4_096);
}

#[test]
fn n17_of_what_was_never_committed_nothing_is_told_and_no_error() {
    let bench = Bench::new();
    assert_eq!(bench.store.group("nobody").committed().unwrap(), []);
    let a = bench.member();
    assert_eq!(a.committed([("t", 0), ("no-topic", 7)]).unwrap(), [None, None]);
    assert_eq!(bench.store.group("nobody").describe().unwrap().state, GroupState::Empty);
    assert_eq!(bench.store.group_names().unwrap(), [""; 0]);
    assert!(bench.store.topic(OFFSETS).is_err(), "asking makes no topic");
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// The key of what group `g` committed of partition `p` of `t`.
fn key(p: u8) -> Vec<u8> {
    hex(&format!("0001 0001 67 0001 74 000000{p:02x}"))
}

fn value(offset: u8) -> Vec<u8> {
    hex(&format!("0003 00000000000000{offset:02x} ffffffff 0000 0000018bcfe56800"))
}

fn put(store: &Store, key: &[u8], value: Option<&[u8]>) {
    let topic = match store.topic(OFFSETS) {
        Ok(topic) => topic,
        Err(_) => store.create_topic(OFFSETS, TopicConfig::default()).unwrap(),
    };
    let record = Record::to(&topic).key(key);
    let record = value.map_or(record, |value| record.value(value));
    topic.partition(0).unwrap().append([record], None, Acks::All).unwrap();
}

#[test]
fn n18_n22_n23_what_others_wrote_is_read_the_last_word_counts_and_the_unknown_is_left_alone() {
    let bench = Bench::new();
    (0..4).for_each(|p| bench.fill("t", p, 9));
    put(&bench.store, &key(0), Some(&value(5)));
    put(&bench.store, &key(0), Some(&value(6)));
    put(&bench.store, &key(1), Some(&value(5)));
    put(&bench.store, &key(1), None);
    put(&bench.store, &hex("0063 0001 67"), Some(&[1, 2, 3]));
    put(&bench.store, &hex("0007 0001 67"), Some(&[1, 2, 3]));
    put(&bench.store, &key(2), Some(&hex("0000 0000000000000007 0001 6d 0000018bcfe56800")));
    let v4 = hex(
        "0004 0000000000000003 00000002 03 6d6d 0000018bcfe56800 01 00 10 00112233445566778899aabbccddeeff",
    );
    put(&bench.store, &key(3), Some(&v4));
    let all: Vec<(i32, i64, String)> = bench
        .group()
        .committed()
        .unwrap()
        .into_iter()
        .map(|(at, committed)| (at.partition, committed.offset, committed.metadata))
        .collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(all, [(0, 6, text("")), (2, 7, text("m")), (3, 3, text("mm"))]);
    put(&bench.store, &key(0), Some(&value(8)));
    assert_eq!(bench.committed(0), Some(8), "what comes later is taken up");
}

#[test]
fn an_offset_whose_record_can_not_be_understood_is_an_error_and_not_zero() {
    let bench = Bench::new();
    (0..2).for_each(|p| bench.fill("t", p, 9));
    put(&bench.store, &key(0), Some(&value(5)));
    put(&bench.store, &key(0), Some(&hex("0009 00")));
    put(&bench.store, &key(1), Some(&value(4)));
    assert_eq!(kind(bench.group().committed()), "OffsetsDamaged");
    let mut a = bench.member();
    assert_eq!(kind(a.poll(Duration::ZERO)), "OffsetsDamaged");
    a.seek("t", 0, 2).unwrap();
    assert_eq!(poll(&mut a).len(), 12, "whoever knows better goes on");
    a.commit().unwrap();
    assert_eq!((bench.committed(0), bench.committed(1)), (Some(9), Some(9)));
}

#[test]
fn a_whole_record_that_names_no_group_blocks_none() {
    let mut bench = Bench::new();
    bench.fill("t", 0, 9);
    put(&bench.store, &key(0), Some(&value(5)));
    put(&bench.store, &[1], Some(&[1, 2, 3]));
    put(&bench.store, &hex("0001 ffff"), None);
    bench.reopen(bench.disk.kill());
    assert_eq!(bench.committed(0), Some(5));
    let told = bench.store.group("other").consumer().unwrap().committed([("t", 0)]).unwrap();
    assert_eq!(told, [None]);
}

#[test]
fn a_name_that_no_record_of_a_group_can_hold_is_refused() {
    struct Named(String);
    impl Assignor for Named {
        fn name(&self) -> &str {
            &self.0
        }

        fn assign(&self, group: &GroupSpec) -> Vec<Vec<PartitionIndex>> {
            vec![Vec::new(); group.members.len()]
        }
    }
    let mut bench = Bench::new();
    bench.fill("t", 0, 9);
    bench.group().commit_offsets([("t", 0, 5)]).unwrap();
    let long = "n".repeat(33_000);
    assert_eq!(kind(bench.store.group(&long).commit_offsets([("t", 0, 1)])), "InvalidConfig");
    let mut a = member(&bench.group().assignor(Named(long.clone())), config());
    assert_eq!(kind(a.poll(Duration::ZERO)), "InvalidConfig");
    assert_eq!(kind(a.subscribe([&*long])), "InvalidTopic");
    drop(a);
    bench.reopen(bench.disk.kill());
    assert_eq!(bench.committed(0), Some(5));
}

#[test]
fn only_groups_write_to_the_topic_of_offsets() {
    let bench = Bench::new();
    bench.fill("t", 0, 9);
    bench.group().commit_offsets([("t", 0, 5)]).unwrap();
    let producer = bench.store.producer().unwrap();
    assert_eq!(kind(producer.send(Record::to(OFFSETS).key("k").value("v"))), "InvalidTopic");
    let partition = bench.store.topic(OFFSETS).unwrap().partition(0).unwrap();
    assert_eq!(kind(partition.writer(ProducerConfig::default())), "InvalidTopic");
}

#[test]
fn the_topic_of_offsets_stays_and_is_compacted_and_synced_whatever_is_asked_for() {
    let mut bench = Bench::new();
    bench.fill("t", 0, 9);
    let careless = || TopicConfig::default().partitions(3).durability(Durability::PageCache);
    let topic = bench.store.create_topic(OFFSETS, careless()).unwrap();
    let policy = || topic.config().properties();
    bench.group().commit_offsets([("t", 0, 5)]).unwrap();
    let settled = [("cleanup.policy", "compact".to_owned()), ("logstead.durability", "disk".to_owned())];
    assert!(settled.iter().all(|setting| policy().contains(setting)));
    bench.store.alter_topic(OFFSETS, careless().retention_ms(1)).unwrap();
    assert!(settled.iter().all(|setting| policy().contains(setting)));
    assert_eq!(kind(bench.store.alter_topic(OFFSETS, topic.config().partitions(4))), "InvalidConfig");
    assert_eq!(kind(bench.store.delete_topic(OFFSETS)), "InvalidTopic");
    assert_eq!(bench.committed(0), Some(5));
    drop(topic);
    bench.reopen(bench.disk.crash(5));
    assert_eq!(bench.committed(0), Some(5), "it was waited for");
}

#[test]
fn damage_of_the_topic_is_told_to_every_group_that_it_may_concern() {
    let mut bench = Bench::new();
    (0..4).for_each(|p| bench.fill("t", p, 9));
    for offset in [3, 4, 5] {
        bench.group().commit_offsets([("t", 0, offset)]).unwrap();
    }
    bench.group().commit_offsets([("t", 1, 7)]).unwrap();
    let disk = bench.disk.kill();
    // One byte of the third commit.
    let path = std::path::Path::new(DIR).join(format!("{OFFSETS}-0/00000000000000000000.log"));
    let mut bytes = disk.read_file(&path).unwrap();
    let third = bytes.len() / 4 * 2 + 90;
    bytes[third] ^= 1;
    disk.write_file(&path, &bytes).unwrap();
    bench.reopen(disk);
    let consumer = bench.member();
    let told = |p| consumer.committed([("t", p)]).map(|all| all[0].as_ref().map(|c| c.offset));
    match told(0).unwrap_err().kind() {
        ErrorKind::OffsetsDamaged { file, position, .. } => {
            assert!(file.ends_with("00000000000000000000.log") && *position > 0, "{file:?} {position}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(told(1).unwrap(), Some(7), "committed after the damage");
    assert_eq!(kind(told(2)), "OffsetsDamaged", "whether it was ever committed is not known");
    let plan = bench.group().plan_reset("t", ResetTo::Earliest).unwrap();
    plan.apply().unwrap();
    assert_eq!((told(0).unwrap(), told(1).unwrap(), told(2).unwrap()), (Some(0), Some(0), Some(0)));
}

#[test]
fn n20_offsets_of_a_group_without_members_go_after_their_time_and_the_group_with_them() {
    let mut bench = Bench::new();
    bench.store =
        options(&bench.clock).disk(&bench.disk.kill()).offsets_retention_minutes(60).open(DIR).unwrap();
    bench.fill("t", 0, 2);
    let mut a = bench.member();
    poll(&mut a);
    a.commit().unwrap();
    let check = |minutes: u64| {
        bench.pass(minutes * 60_000);
        bench.store.maintain().unwrap();
    };
    for _ in 0..10 {
        bench.pass(999);
        poll(&mut a);
    }
    check(0);
    a.close().unwrap();
    check(59);
    assert_eq!(bench.committed(0), Some(2), "time counts from when it became empty");
    bench.group().commit_offsets([("t", 1, 0)]).unwrap();
    check(11);
    assert_eq!((bench.committed(0), bench.committed(1)), (None, Some(0)));
    assert_eq!(bench.store.group_names().unwrap(), ["g"]);
    check(60);
    assert_eq!(bench.store.group_names().unwrap(), [""; 0]);
}

#[test]
fn n21_of_a_group_at_work_only_what_no_member_wants_any_more_goes() {
    let mut bench = Bench::new();
    bench.store =
        options(&bench.clock).disk(&bench.disk.kill()).offsets_retention_minutes(60).open(DIR).unwrap();
    bench.store.create_topic("u", TopicConfig::default()).unwrap();
    bench.fill("t", 0, 2);
    bench.fill("u", 0, 2);
    bench.group().commit_offsets([("t", 0, 1), ("u", 0, 1)]).unwrap();
    let mut a = member(&bench.group(), config().max_poll_interval_ms(100_000_000));
    poll(&mut a);
    bench.pass(70 * 60_000);
    bench.store.maintain().unwrap();
    let left = bench.group().committed().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, TopicPartition::new("t", 0));
}

#[test]
fn members_of_another_run_are_gone_and_their_group_is_empty_from_now_on() {
    let mut bench = Bench::new();
    bench.fill("t", 0, 2);
    let mut a = bench.member();
    poll(&mut a);
    a.commit().unwrap();
    poll(&mut a);
    let epoch = bench.group().describe().unwrap().epoch;
    bench.store.maintain().unwrap();
    std::mem::forget(a);
    let disk = bench.disk.kill();
    bench.store = options(&bench.clock).disk(&disk).offsets_retention_minutes(60).open(DIR).unwrap();
    assert_eq!(bench.group().describe().unwrap().state, GroupState::Empty);
    assert_eq!(bench.group().describe().unwrap().epoch, epoch, "it goes on from there");
    let check = |minutes: u64| {
        bench.pass(minutes * 60_000);
        bench.store.maintain().unwrap();
    };
    check(100);
    assert_eq!(bench.committed(0), Some(2), "empty since it was looked at, not since the crash");
    check(61);
    assert_eq!(bench.committed(0), None);
}

#[test]
fn n25_auto_commit_commits_what_the_last_poll_returned_and_nothing_beyond() {
    let bench = Bench::new();
    let with = config().enable_auto_commit(true).auto_commit_interval_ms(500).max_poll_records(3);
    let mut a = member(&bench.group(), with.clone());
    bench.fill("t", 0, 10);
    assert_eq!(poll(&mut a).len(), 3);
    assert_eq!(bench.committed(0), None);
    bench.pass(499);
    assert_eq!(poll(&mut a).len(), 3);
    assert_eq!(bench.committed(0), None, "not due");
    bench.pass(1);
    assert_eq!(poll(&mut a).len(), 3);
    assert_eq!(bench.committed(0), Some(6), "what the poll before had returned");
    let mut b = member(&bench.group(), with);
    poll(&mut b);
    let mut last = poll(&mut a).len();
    assert_eq!(bench.committed(0), Some(9), "before a partition is given back");
    last += poll(&mut b).len() + poll(&mut a).len();
    assert_eq!(last, 1);
    a.close().unwrap();
    b.close().unwrap();
    assert_eq!(bench.committed(0), Some(10), "on close");
    assert!(
        !ConsumerConfig::default().eq(&ConsumerConfig::default().enable_auto_commit(true)),
        "off by default"
    );
}

#[test]
fn n26_a_poll_slices_what_was_fetched() {
    let bench = Bench::new();
    bench.fill("t", 0, 10);
    let mut a = member(&bench.group(), config().max_poll_records(3));
    let sizes: Vec<usize> = (0..4).map(|_| poll(&mut a).len()).collect();
    assert_eq!(sizes, [3, 3, 3, 1]);
}

#[test]
fn n27_where_a_group_begins_that_committed_nothing_or_what_is_gone() {
    let bench = Bench::new();
    let topic = bench.store.topic("t").unwrap();
    let at = |ms| Record::to(&topic).value("v").timestamp_ms(ms);
    let now = 1_700_000_000_000;
    topic
        .partition(0)
        .unwrap()
        .append([at(now - 7_200_000), at(now - 60_000), at(now)], None, Acks::All)
        .unwrap();
    let first = |reset: AutoOffsetReset| {
        let group = bench.store.group(&format!("{reset:?}"));
        let mut consumer = member(&group, config().auto_offset_reset(reset));
        consumer.poll(Duration::ZERO).map(|records| places(&records).first().copied())
    };
    assert_eq!(first(AutoOffsetReset::Earliest).unwrap(), Some((0, 0)));
    assert_eq!(first(AutoOffsetReset::Latest).unwrap(), None);
    assert_eq!(first(AutoOffsetReset::ByDuration(Duration::from_secs(3_600))).unwrap(), Some((0, 1)));
    assert_eq!(first(AutoOffsetReset::ByDuration(Duration::from_secs(u64::MAX))).unwrap(), Some((0, 0)));
    assert_eq!(kind(first(AutoOffsetReset::None)), "NoPosition");
    // Behind the end, as only another program can write it.
    put(&bench.store, &key(0), Some(&value(9)));
    let mut a = bench.member();
    assert_eq!(poll(&mut a).first(), Some(&(0, 0)), "out of range is no position");
}

#[test]
fn n15_who_is_no_member_commits_only_while_there_are_none() {
    let bench = Bench::new();
    bench.fill("t", 0, 3);
    let mut outside = bench.group().consumer_with(config()).unwrap();
    outside.assign([("t", 0)]).unwrap();
    assert_eq!(poll(&mut outside).len(), 3);
    outside.commit().unwrap();
    let mut again = bench.group().consumer_with(config()).unwrap();
    again.assign([("t", 0)]).unwrap();
    assert_eq!(again.position("t", 0).unwrap(), 3, "by hand, too, it goes on where the group stands");
    let mut a = bench.member();
    poll(&mut a);
    bench.fill("t", 0, 1);
    assert_eq!(poll(&mut outside).len(), 1);
    assert_eq!(kind(outside.commit()), "GroupNotEmpty");
    let plan = bench.group().plan_reset("t", ResetTo::Earliest).unwrap();
    assert_eq!(kind(plan.apply()), "GroupNotEmpty");
    assert_eq!(kind(bench.group().delete()), "GroupNotEmpty");
    let mut nobody = bench.store.consumer().unwrap();
    assert_eq!(kind(nobody.subscribe(["t"])), "NoGroup");
    assert_eq!(kind(nobody.commit()), "NoGroup");
    assert_eq!(kind(bench.store.group("").consumer()), "InvalidConfig");
}

#[test]
fn what_can_be_no_position_is_not_committed() {
    let bench = Bench::new();
    bench.fill("t", 0, 3);
    let group = bench.group();
    assert_eq!(kind(group.commit_offsets([("t", 0, -1)])), "OffsetOutOfRange");
    assert_eq!(kind(group.commit_offsets([("t", 0, 4)])), "OffsetOutOfRange");
    assert_eq!(kind(group.commit_offsets([("no", 0, 0)])), "UnknownTopic");
    assert_eq!(kind(group.commit_offsets([("t", 4, 0)])), "UnknownPartition");
    assert_eq!(group.committed().unwrap(), []);
    group.commit_offsets([("t", 0, 3)]).unwrap();
}

#[test]
fn of_a_members_commit_only_the_topic_that_is_gone_is_left_out() {
    let bench = Bench::new();
    bench.store.create_topic("u", TopicConfig::default()).unwrap();
    bench.fill("t", 0, 9);
    bench.fill("u", 0, 9);
    let mut a = bench.group().consumer_with(config()).unwrap();
    a.subscribe(["t", "u"]).unwrap();
    a.poll(Duration::ZERO).unwrap();
    bench.store.delete_topic("u").unwrap();
    assert_eq!(kind(a.commit_offsets([("u", 0, 3), ("t", 0, 4)])), "UnknownTopic");
    assert_eq!(bench.committed(0), Some(4));
}

#[test]
fn a_commit_survives_what_it_says() {
    let mut bench = Bench::new();
    (0..2).for_each(|p| bench.fill("t", p, 9));
    bench.group().commit_offsets([("t", 0, 1), ("t", 1, 1)]).unwrap();
    let mut a = bench.member();
    poll(&mut a);
    a.commit_offsets([("t", 0, 5)]).unwrap();
    a.commit_offsets_async([("t", 1, 6)]).unwrap();
    let (killed, cut) = (bench.disk.kill(), bench.disk.crash(3));
    bench.reopen(killed);
    assert_eq!((bench.committed(0), bench.committed(1)), (Some(5), Some(6)), "the system had both");
    bench.reopen(cut);
    assert_eq!(bench.committed(0), Some(5));
    assert!(matches!(bench.committed(1), Some(1 | 6)), "a power cut may take what was not waited for");
}

#[test]
fn what_is_told_is_what_no_crash_takes_back() {
    let mut bench = Bench::new();
    bench.fill("t", 0, 9);
    let mut a = bench.member();
    poll(&mut a);
    a.commit_offsets_async([("t", 0, 6)]).unwrap();
    assert_eq!(a.committed([("t", 0)]).unwrap()[0].as_ref().unwrap().offset, 6);
    bench.reopen(bench.disk.crash(4));
    assert_eq!(bench.committed(0), Some(6));
}

#[test]
fn a_failed_sync_is_told_to_who_commits_and_the_group_goes_on_after_recover() {
    let bench = Bench::new();
    bench.fill("t", 0, 9);
    bench.group().commit_offsets([("t", 0, 1)]).unwrap();
    bench.disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    assert_eq!(kind(bench.group().commit_offsets([("t", 0, 2)])), "Poisoned");
    bench.disk.clear_faults();
    assert_eq!(kind(bench.group().commit_offsets([("t", 0, 3)])), "Poisoned");
    bench.store.recover(OFFSETS, 0).unwrap();
    assert!(matches!(bench.committed(0), Some(1 | 2)));
    bench.group().commit_offsets([("t", 0, 4)]).unwrap();
    assert_eq!(bench.committed(0), Some(4));
}

#[test]
fn a_group_is_never_behind_the_end_of_a_log_that_lost_records() {
    let mut bench = Bench::new();
    bench.store.create_topic("p", TopicConfig::default().durability(Durability::PageCache)).unwrap();
    bench.fill("p", 0, 3);
    bench.store.alter_topic("p", bench.store.topic("p").unwrap().config().segment_ms(77)).unwrap();
    let mut moved = 0;
    for seed in 0..20 {
        let before = bench.store.topic("p").unwrap().partition(0).unwrap().high_watermark();
        bench.fill("p", 0, 5);
        bench.group().commit_offsets([("p", 0, before + 5)]).unwrap();
        bench.reopen(bench.disk.crash(seed));
        let end = bench.store.topic("p").unwrap().partition(0).unwrap().high_watermark();
        let lost = end < before + 5;
        moved += u32::from(lost);
        let events = bench.store.recovery_report().partitions.iter().flat_map(|report| &report.events);
        let told = events.clone().any(|event| {
            *event == RecoveryEvent::OffsetMovedBack { group: "g".into(), from: before + 5, to: end }
        });
        assert_eq!(told, lost, "{}", bench.store.recovery_report());
        // Others write where the lost ones were before the group comes back.
        bench.fill("p", 0, 9);
        let mut a = bench.group().consumer_with(config()).unwrap();
        a.subscribe(["p"]).unwrap();
        assert_eq!(poll(&mut a).first(), Some(&(0, end)), "not one of the new ones is skipped");
        a.commit().unwrap();
    }
    assert!(moved > 3, "{moved}");
}

// ───────── from outside

#[test]
fn a_reset_is_a_plan_first_and_moves_within_what_is_kept() {
    let bench = Bench::new();
    let topic = bench.store.topic("t").unwrap();
    for p in 0..2 {
        let records = (0..10).map(|i| Record::to(&topic).value("v").timestamp_ms(1_000 + i));
        topic.partition(p).unwrap().append(records, None, Acks::All).unwrap();
    }
    let group = bench.group();
    group.commit_offsets([("t", 0, 4)]).unwrap();
    let to = |to| -> Vec<(i32, Option<i64>, i64)> {
        let plan = group.plan_reset("t", to).unwrap();
        plan.moves.iter().map(|m| (m.partition.partition, m.from, m.to)).collect()
    };
    assert_eq!(to(ResetTo::Earliest)[..2], [(0, Some(4), 0), (1, None, 0)]);
    assert_eq!(to(ResetTo::Latest), [(0, Some(4), 10), (1, None, 10), (2, None, 0), (3, None, 0)]);
    assert_eq!(to(ResetTo::Offset(99))[0], (0, Some(4), 10));
    assert_eq!(to(ResetTo::Offset(-3))[0], (0, Some(4), 0));
    assert_eq!(to(ResetTo::Time(1_007))[1], (1, None, 7));
    assert_eq!(to(ResetTo::Shift(-99)), [(0, Some(4), 0)], "what was never committed has nothing to shift");
    let mut plan = group.plan_reset("t", ResetTo::Shift(3)).unwrap();
    plan.moves.retain(|m| m.partition.partition == 0);
    assert!(plan.to_string().contains("t-0"));
    plan.apply().unwrap();
    assert_eq!(bench.committed(0), Some(7));
    let lag = group.lag().unwrap();
    assert_eq!((lag.total, lag.partitions.len(), lag.partitions[0].lag), (3, 1, 3));
    assert!(lag.to_string().contains("total"));
    assert_eq!(kind(group.plan_reset("no", ResetTo::Latest)), "UnknownTopic");
}

#[test]
fn a_deleted_group_is_forgotten_for_good() {
    let mut bench = Bench::new();
    bench.fill("t", 0, 3);
    assert_eq!(kind(bench.group().delete()), "UnknownGroup");
    let mut a = bench.member();
    poll(&mut a);
    a.commit().unwrap();
    a.close().unwrap();
    bench.store.group("other").commit_offsets([("t", 0, 1)]).unwrap();
    bench.group().delete().unwrap();
    assert_eq!(bench.group().committed().unwrap(), []);
    assert_eq!(kind(bench.group().delete()), "UnknownGroup");
    bench.reopen(bench.disk.crash(1));
    assert_eq!(bench.store.group_names().unwrap(), ["other"]);
}

#[test]
fn a_read_only_store_tells_of_groups_and_has_no_members() {
    let bench = Bench::new();
    bench.fill("t", 0, 3);
    bench.group().commit_offsets([("t", 0, 1)]).unwrap();
    let reader = options(&bench.clock).disk(&bench.disk).open_read_only(DIR).unwrap();
    let group = reader.group("g");
    assert_eq!((reader.group_names().unwrap(), group.lag().unwrap().total), (vec!["g".to_owned()], 2));
    bench.group().commit_offsets([("t", 0, 2)]).unwrap();
    assert_eq!(group.committed().unwrap()[0].1.offset, 2, "it follows the writer");
    assert_eq!(kind(group.commit_offsets([("t", 0, 3)])), "ReadOnly");
    let mut consumer = member(&group, config());
    assert_eq!(kind(consumer.poll(Duration::ZERO)), "ReadOnly");
    let mut by_hand = group.consumer_with(config()).unwrap();
    by_hand.assign([("t", 0)]).unwrap();
    assert_eq!(poll(&mut by_hand), [(0, 2)], "by hand it begins where the group stands");
}

/// Gives everything to whoever has the largest id, or nonsense.
struct Odd(bool);

impl Assignor for Odd {
    fn name(&self) -> &str {
        "odd"
    }

    fn assign(&self, group: &GroupSpec) -> Vec<Vec<PartitionIndex>> {
        let mut shares = vec![Vec::new(); group.members.len()];
        if self.0 {
            let partitions = 0..group.topics[0].partitions as i32;
            *shares.last_mut().unwrap() =
                partitions.map(|partition| PartitionIndex { topic: 0, partition }).collect();
        } else {
            shares.push(Vec::new());
        }
        shares
    }
}

#[test]
fn an_assignor_of_the_users_own_is_followed_when_it_can_be() {
    let bench = Bench::new();
    let own = bench.group().assignor(Odd(true));
    let (mut a, mut b) = (member(&own, config()), member(&own, config()));
    for _ in 0..2 {
        poll(&mut a);
        poll(&mut b);
    }
    assert_eq!((owned(&a).len(), owned(&b).len()), (0, 4));
    assert_eq!(bench.group().describe().unwrap().assignor.as_deref(), Some("odd"));
    let mut wrong = member(&bench.store.group("h").assignor(Odd(false)), config());
    assert_eq!(kind(wrong.poll(Duration::ZERO)), "InvalidAssignment");
}

/// An assignor that asks for its group whenever it is asked itself, and when it goes.
struct Curious(Group, Arc<AtomicUsize>);

impl Assignor for Curious {
    fn name(&self) -> &str {
        self.0.describe().unwrap();
        "curious"
    }

    fn assign(&self, group: &GroupSpec) -> Vec<Vec<PartitionIndex>> {
        self.0.describe().unwrap();
        vec![Vec::new(); group.members.len()]
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        self.0.describe().unwrap();
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn an_assignor_is_asked_called_and_dropped_with_no_lock_held() {
    let bench = Bench::new();
    let gone = Arc::new(AtomicUsize::new(0));
    let curious = || bench.group().assignor(Curious(bench.group(), Arc::clone(&gone)));
    let static_member = || config().group_instance_id("i").session_timeout_ms(1_000);
    let mut a = member(&curious(), static_member());
    poll(&mut a);
    drop(a);
    let mut again = member(&curious(), static_member());
    poll(&mut again);
    assert_eq!(gone.load(Ordering::SeqCst), 1, "another has its place");
    drop(again);
    bench.pass(1_001);
    assert_eq!(bench.group().describe().unwrap().members, []);
    assert_eq!(gone.load(Ordering::SeqCst), 2, "its time is up");
}

#[test]
fn a_generation_that_others_wrote_is_one_that_can_grow() {
    for generation in ["7fffffff", "fffffffe", "80000000"] {
        let bench = Bench::new();
        bench.fill("t", 0, 1);
        let empty = format!("0003 0008 636f6e73756d6572 {generation} ffff ffff 0000018bcfe56800 00000000");
        put(&bench.store, &hex("0002 0001 67"), Some(&hex(&empty)));
        let mut a = bench.member();
        assert_eq!(poll(&mut a), [(0, 0)], "{generation}");
        let epoch = a.group_epoch().unwrap();
        let mut b = bench.member();
        poll(&mut b);
        poll(&mut a);
        poll(&mut b);
        assert_eq!((owned(&a).len(), owned(&b).len()), (2, 2), "{generation}");
        assert!(epoch > 0 && a.group_epoch().unwrap() > epoch);
    }
}

#[test]
fn a_group_without_members_is_forgotten_when_nobody_asks_and_is_the_same_when_somebody_does() {
    let bench = Bench::new();
    bench.fill("t", 0, 9);
    let mut a = bench.member();
    poll(&mut a);
    a.commit().unwrap();
    let id = a.member_id().unwrap().to_owned();
    a.close().unwrap();
    let before = bench.group().describe().unwrap();
    bench.pass(600_000);
    bench.store.maintain().unwrap();
    assert_eq!(bench.group().describe().unwrap(), before);
    assert_eq!(bench.committed(0), Some(9));
    let mut b = bench.member();
    poll(&mut b);
    assert_ne!(b.member_id(), Some(&*id), "each has an id of its own");
    assert!(b.group_epoch().unwrap() > before.epoch);
}

#[test]
fn all_partitions_of_kafkas_topic_are_used_where_there_are_more() {
    let mut bench = Bench::new();
    bench.store.create_topic(OFFSETS, TopicConfig::default().partitions(50)).unwrap();
    bench.fill("t", 0, 3);
    for id in ["g1", "my-group", "test"] {
        bench.store.group(id).commit_offsets([("t", 0, 2)]).unwrap();
    }
    let offsets = bench.store.topic(OFFSETS).unwrap();
    let held: Vec<i32> = (0..50).filter(|p| offsets.partition(*p).unwrap().high_watermark() > 0).collect();
    assert_eq!(held, [12, 42, 48], "where Kafka looks for them");
    bench.reopen(bench.disk.kill());
    assert_eq!(bench.store.group_names().unwrap(), ["g1", "my-group", "test"]);
}

/// A task that makes the topic anew as soon as it is woken, and commits of it.
struct GoesOn {
    store: Store,
    done: std::sync::OnceLock<()>,
}

impl Wake for GoesOn {
    fn wake(self: Arc<Self>) {
        self.done.get_or_init(|| {
            let topic = self.store.create_topic("t", TopicConfig::default()).unwrap();
            let records = (0..4).map(|_| Record::to(&topic).value("v"));
            topic.partition(0).unwrap().append(records, None, Acks::All).unwrap();
            self.store.group("g").commit_offsets([("t", 0, 4)]).unwrap();
        });
    }
}

#[test]
fn a_deletion_takes_back_nothing_that_is_committed_of_a_topic_made_anew() {
    let bench = Bench::new();
    bench.fill("t", 0, 9);
    bench.group().commit_offsets([("t", 0, 9)]).unwrap();
    let mut consumer = bench.store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    let task = Arc::new(GoesOn { store: bench.store.clone(), done: Default::default() });
    let waker = Arc::clone(&task).into();
    while consumer.poll_ready(&mut Context::from_waker(&waker)).is_ready() {}
    // Its last steps come after those who use the topic are told.
    bench.store.delete_topic("t").unwrap();
    assert!(task.done.get().is_some());
    assert_eq!(bench.committed(0), Some(4));
}
