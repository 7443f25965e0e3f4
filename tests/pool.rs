//! Worker pools: order, retries, dead letters, the circuit breaker, stopping, sharing partitions with others.
//!
//! Handlers meet at a gate: the test sees who waits there, and decides who goes on, when, and with which answer. Time
//! is moved by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::{Random, seed};
use logstead::{
    AutoOffsetReset, Breaker, ConsumerConfig, ErrorKind, Group, HandlerError, ManualClock, Offset, OnError,
    OrderBy, PoolConfig, Record, RecordRef, Result, SimDisk, Store, TimestampType, TopicConfig, WorkerPool,
    header,
};

const PATIENCE: Duration = Duration::from_secs(30);
const DIR: &str = "/data";

// ───────── the gate

type Place = (i32, Offset);

#[derive(Clone, Copy, Debug)]
enum Answer {
    Fine,
    Fails,
    IsHopeless,
    Panics,
}

#[derive(Default)]
struct Inside {
    waiting: BTreeSet<Place>,
    answers: BTreeMap<Place, Answer>,
    /// In the order in which handlers came.
    came: Vec<Place>,
    done: BTreeSet<Place>,
    wrong: Vec<String>,
}

#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<Inside>, Condvar)>);

impl Gate {
    fn handle(&self, record: RecordRef<'_>, order: OrderBy) -> Result<(), HandlerError> {
        let place = (record.partition(), record.offset());
        let (inside, moved) = &*self.0;
        let mut inside = inside.lock().unwrap();
        let beside = inside.waiting.iter().find(|(partition, _)| *partition == place.0).copied();
        if let Some(beside) = beside.filter(|_| order == OrderBy::Partition) {
            inside.wrong.push(format!("{place:?} with {beside:?} in hand"));
        }
        if inside.done.contains(&place) || inside.waiting.contains(&place) {
            inside.wrong.push(format!("{place:?} twice"));
        }
        let later = |(partition, offset): &&Place| *partition == place.0 && *offset > place.1;
        if order == OrderBy::Partition && inside.done.iter().any(|done| later(&done)) {
            inside.wrong.push(format!("{place:?} after a later one"));
        }
        inside.came.push(place);
        inside.waiting.insert(place);
        moved.notify_all();
        // A test that has failed sends nobody on, and waits for its pool.
        let given_up = Instant::now() + 2 * PATIENCE;
        let answer = loop {
            if let Some(answer) = inside.answers.remove(&place) {
                break answer;
            }
            let left = given_up.checked_duration_since(Instant::now()).ok_or("nobody opened the gate")?;
            inside = moved.wait_timeout(inside, left).unwrap().0;
        };
        inside.waiting.remove(&place);
        if let Answer::Fine = answer {
            inside.done.insert(place);
        }
        moved.notify_all();
        drop(inside);
        match answer {
            Answer::Fine => Ok(()),
            Answer::Fails => Err("not now".into()),
            Answer::IsHopeless => Err(HandlerError::permanent("never")),
            Answer::Panics => panic!("as the test wants it"),
        }
    }

    /// Waits until it is so inside.
    #[track_caller]
    fn until<T>(&self, what: &str, so: impl Fn(&Inside) -> Option<T>) -> T {
        let (inside, moved) = &*self.0;
        let mut inside = inside.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = so(&inside) {
                return answer;
            }
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("{what}: in vain; waiting: {:?}", inside.waiting));
            inside = moved.wait_timeout(inside, left).unwrap().0;
        }
    }

    #[track_caller]
    fn waits(&self, place: Place) {
        self.until(&format!("{place:?} comes"), |inside| inside.waiting.contains(&place).then_some(()));
    }

    /// Sends a handler on that waits, or will.
    fn answer(&self, place: Place, answer: Answer) {
        let (inside, moved) = &*self.0;
        assert!(inside.lock().unwrap().answers.insert(place, answer).is_none());
        moved.notify_all();
    }

    /// Waits for one, and sends it on; then waits until it went.
    #[track_caller]
    fn pass(&self, place: Place, answer: Answer) {
        self.waits(place);
        let count = self.attempts(place);
        self.answer(place, answer);
        self.until("it goes", |inside| {
            let gone = !inside.waiting.contains(&place)
                || inside.came.iter().filter(|p| **p == place).count() > count;
            gone.then_some(())
        });
    }

    fn attempts(&self, place: Place) -> usize {
        self.0.0.lock().unwrap().came.iter().filter(|came| **came == place).count()
    }

    fn waiting(&self) -> Vec<Place> {
        self.0.0.lock().unwrap().waiting.iter().copied().collect()
    }

    #[track_caller]
    fn check(&self) {
        assert_eq!(self.0.0.lock().unwrap().wrong, [""; 0]);
    }
}

/// Waits until it is so, with a deadline.
#[track_caller]
fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}: in vain");
        std::thread::yield_now();
    }
}

// ───────── a store with a topic

struct World {
    clock: ManualClock,
    disk: SimDisk,
    store: Store,
    group: Group,
    gate: Gate,
}

impl World {
    fn new(partitions: u32) -> World {
        let (clock, disk) = (ManualClock::new(1_700_000_000_000), SimDisk::new(1));
        let store = Store::options().clock(clock.clone()).disk(&disk).open(DIR).unwrap();
        store.create_topic("t", TopicConfig::default().partitions(partitions)).unwrap();
        let group = store.group("g");
        World { clock, disk, store, group, gate: Gate::default() }
    }

    /// So many records in each partition; the key of a record is its offset modulo `keys`, none in every sixth.
    fn fill(&self, partitions: i32, records: usize, keys: usize) {
        let producer = self.store.producer().unwrap();
        for partition in 0..partitions {
            for n in 0..records {
                let key = (n % keys).to_string();
                let record = Record::to("t").partition(partition).value("v");
                producer.send(if n % 6 == 5 { record } else { record.key(&key) }).unwrap();
            }
        }
        producer.close().unwrap();
    }

    fn start(&self, config: PoolConfig) -> WorkerPool {
        self.start_with(config, ConsumerConfig::default(), OrderBy::Partition)
    }

    fn start_with(&self, config: PoolConfig, consumer: ConsumerConfig, order: OrderBy) -> WorkerPool {
        let consumer = consumer.auto_offset_reset(AutoOffsetReset::Earliest);
        let mut consumer = self.group.consumer_with(consumer).unwrap();
        consumer.subscribe(["t"]).unwrap();
        let gate = self.gate.clone();
        let config = config.order_by(order);
        self.group.run_with(consumer, config, move |record| gate.handle(record, order)).unwrap()
    }

    fn committed(&self) -> BTreeMap<i32, Offset> {
        let committed = self.group.committed().unwrap();
        committed.into_iter().map(|(name, committed)| (name.partition, committed.offset)).collect()
    }
}

fn earliest() -> ConsumerConfig {
    ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest)
}

/// Commits whenever it can.
fn eager() -> PoolConfig {
    PoolConfig::default().commit_interval_ms(0)
}

// ───────── order

/// Sends handlers on in a random order until all records are done; what is committed never passes one that is not.
fn passes_in_any_order(order: OrderBy, partitions: i32, threads: usize, at_once: usize) {
    let seed = seed();
    let mut random = Random(seed);
    let (records, keys) = (30, 5);
    let world = World::new(partitions as u32);
    world.fill(partitions, records, keys);
    let pool = world.start_with(eager().threads(threads), ConsumerConfig::default(), order);
    world.gate.until("as many as can are at work at once", |inside| {
        (inside.waiting.len() == at_once).then_some(())
    });
    let all = partitions as usize * records;
    let mut done: BTreeMap<i32, BTreeSet<Offset>> = BTreeMap::new();
    let mut last_of_key: BTreeMap<(i32, Offset), Offset> = BTreeMap::new();
    for _ in 0..all {
        let waiting = world.gate.until("a handler comes", |inside| {
            (!inside.waiting.is_empty()).then(|| inside.waiting.iter().copied().collect::<Vec<_>>())
        });
        let place = waiting[random.below(waiting.len() as u64) as usize];
        let keyed = place.1 % 6 != 5;
        if order == OrderBy::Key && keyed {
            let last = last_of_key.insert((place.0, place.1 % keys as i64), place.1);
            assert!(last < Some(place.1), "{place:?} after {last:?} of the same key");
        }
        for (partition, committed) in world.committed() {
            let done = done.get(&partition);
            let lowest = (0..).find(|offset| done.is_none_or(|done| !done.contains(offset))).unwrap();
            assert!(committed <= lowest, "{committed} is committed, {lowest} is not done");
        }
        done.entry(place.0).or_default().insert(place.1);
        world.gate.pass(place, Answer::Fine);
    }
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    assert_eq!(pool.progress().handled, all as u64);
    pool.stop().unwrap();
    world.gate.check();
    assert!(world.committed().values().all(|offset| *offset == records as i64));
}

#[test]
fn records_of_a_partition_are_handled_in_their_order_whoever_is_slow() {
    passes_in_any_order(OrderBy::Partition, 3, 8, 3);
    passes_in_any_order(OrderBy::Partition, 4, 2, 2);
}

#[test]
fn threads_share_one_partition_by_key_and_commit_below_what_is_open() {
    // Five keys, and five records without one.
    passes_in_any_order(OrderBy::Key, 1, 16, 10);
    passes_in_any_order(OrderBy::Key, 2, 3, 3);
}

#[test]
fn what_is_done_above_an_open_record_is_not_committed() {
    let world = World::new(1);
    world.fill(1, 5, 5);
    let pool = world.start_with(eager().threads(5), ConsumerConfig::default(), OrderBy::Key);
    for offset in [4, 1, 2] {
        world.gate.pass((0, offset), Answer::Fine);
    }
    world.gate.pass((0, 0), Answer::Fine);
    until("up to the open one", || world.committed().get(&0) == Some(&3));
    world.gate.pass((0, 3), Answer::Fine);
    until("all", || world.committed().get(&0) == Some(&5));
    pool.stop().unwrap();
}

// ───────── errors

#[test]
fn a_record_that_fails_is_retried_when_its_time_has_come_and_holds_up_no_other_partition() {
    let world = World::new(2);
    world.fill(2, 2, 5);
    let pool = world.start(eager().retry_backoff_ms(100).retries(2));
    for (partition, answer) in [(0, Answer::Fails), (1, Answer::Fine)] {
        world.gate.pass((partition, 0), answer);
    }
    // One thread: it took the other partition's next record instead of waiting.
    world.gate.waits((1, 1));
    assert_eq!(world.gate.attempts((0, 0)), 1);
    world.clock.advance(Duration::from_millis(79));
    world.gate.pass((1, 1), Answer::Fine);
    until("done", || pool.progress().handled == 2);
    assert_eq!(world.gate.attempts((0, 0)), 1, "too early");
    world.clock.advance(Duration::from_millis(42));
    world.gate.pass((0, 0), Answer::Fails);
    until("its time is set", || pool.progress().failures == 2);
    // Twice as long.
    world.clock.advance(Duration::from_millis(241));
    world.gate.pass((0, 0), Answer::Fine);
    world.gate.pass((0, 1), Answer::Fine);
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    let progress = pool.progress();
    assert_eq!((progress.handled, progress.failures, progress.skipped), (4, 2, 0));
    assert_eq!(progress.last_error.as_deref(), Some("not now"));
    pool.stop().unwrap();
    world.gate.check();
}

#[test]
fn a_pool_stops_at_a_record_that_can_not_be_done_and_the_next_begins_there() {
    let world = World::new(1);
    world.fill(1, 3, 5);
    let pool = world.start(PoolConfig::default().retries(1).retry_backoff_ms(10));
    world.gate.pass((0, 0), Answer::Fine);
    world.gate.pass((0, 1), Answer::Fails);
    until("its time is set", || pool.progress().failures == 1);
    world.clock.advance(Duration::from_millis(20));
    world.gate.pass((0, 1), Answer::Fails);
    let error = pool.join().unwrap_err();
    let ErrorKind::HandlerFailed { group, topic, partition, offset, attempts, why } = error.kind() else {
        panic!("{error:?}")
    };
    assert_eq!((group.as_str(), topic.as_str(), *partition, *offset, *attempts), ("g", "t", 0, 1, 2));
    assert_eq!(why, "not now");
    assert_eq!(world.committed(), [(0, 1)].into());

    let pool = world.start(PoolConfig::default());
    world.gate.pass((0, 1), Answer::Fine);
    world.gate.pass((0, 2), Answer::Fine);
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    pool.stop().unwrap();
    assert_eq!(world.committed(), [(0, 3)].into());
}

#[test]
fn a_panic_is_a_failure_like_any_other_and_the_thread_goes_on() {
    let world = World::new(1);
    world.fill(1, 2, 5);
    let pool = world.start(PoolConfig::default().retries(1).retry_backoff_ms(0).on_error(OnError::Skip));
    world.gate.pass((0, 0), Answer::Panics);
    world.gate.pass((0, 0), Answer::Panics);
    world.gate.pass((0, 1), Answer::Fine);
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    let progress = pool.progress();
    assert_eq!((progress.handled, progress.failures, progress.panics, progress.skipped), (1, 2, 2, 1));
    assert_eq!(progress.last_error.as_deref(), Some("as the test wants it"));
    pool.stop().unwrap();
    assert_eq!(world.committed(), [(0, 2)].into());
}

/// An error that panics in one of the things that are asked of it.
#[derive(Debug)]
struct Trap(&'static str);

impl std::fmt::Display for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        assert_ne!(self.0, "display", "a trap");
        f.write_str("a trap")
    }
}

impl std::error::Error for Trap {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        assert_ne!(self.0, "source", "a trap");
        None
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        assert_ne!(self.0, "drop", "a trap");
    }
}

#[test]
fn an_error_that_panics_itself_ends_the_pool_and_nobody_waits_for_ever() {
    for at in ["display", "source", "drop"] {
        let world = World::new(1);
        world.fill(1, 1, 5);
        world.store.create_topic("dead", TopicConfig::default()).unwrap();
        let mut consumer = world.group.consumer_with(earliest()).unwrap();
        consumer.subscribe(["t"]).unwrap();
        let config = eager().on_error(OnError::dead_letter("dead"));
        let handler = move |_: RecordRef<'_>| Err(HandlerError::permanent(Trap(at)));
        let pool = world.group.run_with(consumer, config, handler).unwrap();
        until("it ends", || pool.wait_caught_up(Duration::ZERO).is_err());
        let error = pool.stop().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::HandlerFailed { offset: 0, .. }), "{error}");
        assert_eq!(world.committed().get(&0).copied().unwrap_or(0), 0);
    }
}

#[test]
fn a_permanent_error_is_not_retried() {
    let world = World::new(1);
    world.fill(1, 2, 5);
    let pool = world.start(PoolConfig::default().retries(u32::MAX).on_error(OnError::Skip));
    world.gate.pass((0, 0), Answer::IsHopeless);
    world.gate.pass((0, 1), Answer::Fine);
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    assert_eq!((pool.progress().skipped, world.gate.attempts((0, 0))), (1, 1));
    pool.stop().unwrap();
}

#[test]
fn a_dead_letter_says_where_it_was_when_and_why_it_failed() {
    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("not a price")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    let world = World::new(2);
    let append_time = TopicConfig::default().timestamp_type(TimestampType::LogAppendTime);
    world.store.create_topic("dead", TopicConfig::default()).unwrap();
    world.store.create_topic("dead-late", append_time).unwrap();
    let producer = world.store.producer().unwrap();
    let own = [header("trace", "42"), header("__connect.errors.topic", "earlier")];
    let poison =
        Record::to("t").partition(1).key("k").value("ten").headers(&own).timestamp_ms(1_699_999_999_000);
    let empty = Record::to("t").partition(1).timestamp_ms(1_699_999_999_001);
    producer.send_all([Record::to("t").partition(1).value("7"), poison, empty]).unwrap();

    for dead in ["dead", "dead-late"] {
        let group = world.store.group(dead);
        let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
        let mut consumer = group.consumer_with(config).unwrap();
        consumer.subscribe(["t"]).unwrap();
        let config = PoolConfig::default().retries(0).on_error(OnError::dead_letter(dead));
        let pool = group
            .run_with(consumer, config, |record| {
                let text = std::str::from_utf8(record.value().unwrap_or_default())?;
                text.parse::<u32>().map_err(Outer)?;
                Ok(())
            })
            .unwrap();
        assert!(pool.wait_caught_up(PATIENCE).unwrap());
        assert_eq!((pool.progress().handled, pool.progress().dead_lettered), (1, 2));
        pool.stop().unwrap();

        let partition = world.store.topic(dead).unwrap().partition(0).unwrap();
        let read = partition.read(0, 1 << 20).unwrap();
        let [poison, empty] = read.iter().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((poison.key(), poison.value()), (Some(b"k".as_slice()), Some(b"ten".as_slice())));
        assert_eq!((empty.key(), empty.value()), (None, None));
        let time = if dead == "dead" { 1_699_999_999_000 } else { 1_700_000_000_000 };
        assert_eq!(poison.timestamp_ms(), time);
        let context = |name: &str| {
            let value = poison.headers().get(&format!("__connect.errors.{name}")).unwrap();
            std::str::from_utf8(value).unwrap().to_owned()
        };
        for (name, value) in [
            ("topic", "t"),
            ("partition", "1"),
            ("offset", "1"),
            ("timestamp", "1699999999000"),
            ("connector.name", dead),
            ("task.id", "0"),
            ("stage", "TASK_PUT"),
            ("exception.message", "not a price"),
        ] {
            assert_eq!(context(name), value, "{name}");
        }
        assert!(context("exception.class.name").ends_with("Outer"));
        assert!(context("class.name").contains("pool::"), "{}", context("class.name"));
        let trace = context("exception.stacktrace");
        assert!(trace.ends_with("Outer: not a price\nCaused by: invalid digit found in string"), "{trace}");
        assert_eq!(poison.headers().get("trace"), Some(b"42".as_slice()), "its own headers stay");
        assert_eq!(poison.headers().len(), 2 + 11);
        assert_eq!(empty.headers().get("__connect.errors.offset"), Some(b"2".as_slice()));
    }
}

#[test]
fn a_dead_letter_topic_must_exist_and_must_take_the_record() {
    let world = World::new(1);
    world.fill(1, 2, 5);
    let consumer = || {
        let mut consumer = world.group.consumer().unwrap();
        consumer.subscribe(["t"]).unwrap();
        consumer
    };
    let config = PoolConfig::default().retries(0).on_error(OnError::dead_letter("dead"));
    let error = world.group.run_with(consumer(), config.clone(), |_| Ok(())).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnknownTopic { .. }), "{error:?}");

    // One that goes away meanwhile stops the pool, and the record is not lost.
    world.store.create_topic("dead", TopicConfig::default()).unwrap();
    let pool = world.start(config.clone());
    world.gate.waits((0, 0));
    world.store.delete_topic("dead").unwrap();
    world.gate.pass((0, 0), Answer::Fails);
    let error = pool.join().unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::TopicDeleted { .. } | ErrorKind::UnknownTopic { .. }),
        "{error:?}"
    );
    assert_eq!(world.committed().get(&0).copied().unwrap_or(0), 0);

    // A pool that reads its own dead letters does not feed itself.
    let config = PoolConfig::default().retries(0).on_error(OnError::dead_letter("t"));
    let pool = world.start(config);
    world.gate.pass((0, 0), Answer::Fails);
    let error = pool.join().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::HandlerFailed { offset: 0, .. }), "{error:?}");
}

#[test]
fn when_everything_fails_the_handler_is_left_alone_and_retries_are_not_burnt() {
    let world = World::new(4);
    world.fill(4, 1, 5);
    let config = PoolConfig::default()
        .threads(4)
        .retries(5)
        .retry_backoff_ms(1)
        .breaker_failures(4)
        .breaker_pause_ms(1_000)
        .on_error(OnError::Skip);
    let pool = world.start(config);
    for partition in 0..4 {
        world.gate.waits((partition, 0));
    }
    for partition in 0..4 {
        world.gate.answer((partition, 0), Answer::Fails);
    }
    until("it opens", || pool.progress().breaker == Breaker::Open);
    let attempts = || (0..4).map(|partition| world.gate.attempts((partition, 0))).sum::<usize>();
    world.clock.advance(Duration::from_millis(999));
    assert_eq!((attempts(), world.gate.waiting()), (4, vec![]));
    // One attempt behind the pause, however many wait; then twice the pause.
    world.clock.advance(Duration::from_millis(1));
    let probe = world.gate.until("one is tried", |inside| inside.waiting.first().copied());
    assert_eq!((attempts(), pool.progress().breaker), (5, Breaker::Trying));
    world.gate.pass(probe, Answer::Fails);
    until("it opens again", || pool.progress().breaker == Breaker::Open);
    world.clock.advance(Duration::from_millis(1_999));
    assert_eq!((attempts(), pool.progress().breaker), (5, Breaker::Open));
    world.clock.advance(Duration::from_millis(1));
    let probe = world.gate.until("another is tried", |inside| inside.waiting.first().copied());
    world.gate.pass(probe, Answer::Fine);
    for partition in (0..4).filter(|partition| *partition != probe.0) {
        world.gate.pass((partition, 0), Answer::Fine);
    }
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    let progress = pool.progress();
    assert_eq!((progress.handled, progress.skipped, progress.breaker), (4, 0, Breaker::Closed));
    pool.stop().unwrap();
}

// ───────── the end

#[test]
fn stopping_finishes_what_is_in_hand_begins_nothing_and_commits() {
    let world = World::new(2);
    world.fill(2, 3, 5);
    let pool = world.start(PoolConfig::default().threads(2));
    world.gate.waits((0, 0));
    world.gate.waits((1, 0));
    let stopper = pool.stopper();
    let stopping = std::thread::spawn(move || pool.stop());
    stopper.stop();
    world.gate.answer((0, 0), Answer::Fine);
    world.gate.answer((1, 0), Answer::Fails);
    stopping.join().unwrap().unwrap();
    assert_eq!(world.gate.until("who came", |inside| Some(inside.came.len())), 2);
    // What failed waits for the next pool.
    assert_eq!(world.committed().get(&0), Some(&1));
    assert_eq!(world.committed().get(&1).copied().unwrap_or(0), 0);
}

#[test]
fn a_topic_that_goes_just_before_a_pool_stops_costs_the_others_nothing() {
    let world = World::new(1);
    world.fill(1, 2, 5);
    let gone = world.store.create_topic("u", TopicConfig::default()).unwrap();
    gone.partition(0).unwrap().append([Record::to(&gone).value("v")], None, logstead::Acks::All).unwrap();
    let mut consumer = world.group.consumer_with(earliest()).unwrap();
    consumer.subscribe(["t", "u"]).unwrap();
    consumer.poll(Duration::ZERO).unwrap();
    consumer.seek_to_beginning().unwrap();
    let gate = world.gate.clone();
    // Time stands still: nothing is committed before the pool stops.
    let handler = move |record: RecordRef<'_>| match record.topic() {
        "t" => gate.handle(record, OrderBy::Partition),
        _ => Ok(()),
    };
    let pool = world.group.run_with(consumer, PoolConfig::default().threads(2), handler).unwrap();
    world.gate.pass((0, 0), Answer::Fine);
    world.gate.waits((0, 1));
    until("the other is done", || pool.progress().handled == 2);
    let stopper = pool.stopper();
    stopper.stop();
    world.store.delete_topic("u").unwrap();
    world.gate.answer((0, 1), Answer::Fine);
    pool.stop().unwrap();
    assert_eq!(world.committed(), BTreeMap::from([(0, 2)]));
}

#[test]
fn a_handler_can_stop_its_own_pool() {
    let world = World::new(1);
    world.fill(1, 9, 5);
    let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
    let mut consumer = world.group.consumer_with(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    let stopper: Arc<Mutex<Option<logstead::Stopper>>> = Arc::default();
    let own = Arc::clone(&stopper);
    let started = Arc::new((Mutex::new(false), Condvar::new()));
    let start = Arc::clone(&started);
    let pool = world
        .group
        .run_with(consumer, PoolConfig::default(), move |record| {
            let mut go = start.0.lock().unwrap();
            while !*go {
                go = start.1.wait(go).unwrap();
            }
            if record.offset() == 3 {
                own.lock().unwrap().as_ref().unwrap().stop();
            }
            Ok(())
        })
        .unwrap();
    *stopper.lock().unwrap() = Some(pool.stopper());
    *started.0.lock().unwrap() = true;
    started.1.notify_all();
    pool.join().unwrap();
    assert_eq!(world.committed(), [(0, 4)].into());
}

#[test]
fn a_pool_that_is_dropped_stops_and_commits() {
    let world = World::new(1);
    world.fill(1, 2, 5);
    let pool = world.start(PoolConfig::default());
    world.gate.pass((0, 0), Answer::Fine);
    world.gate.waits((0, 1));
    world.gate.answer((0, 1), Answer::Fine);
    drop(pool);
    assert!(matches!(world.committed().get(&0), Some(2)), "{:?}", world.committed());
    assert!(world.group.describe().unwrap().members.is_empty());
}

#[test]
fn a_pool_ends_when_its_store_is_closed() {
    let world = World::new(1);
    world.fill(1, 1, 5);
    let pool = world.start(PoolConfig::default());
    world.gate.pass((0, 0), Answer::Fine);
    world.store.close().unwrap();
    assert!(matches!(pool.join().unwrap_err().kind(), ErrorKind::Closed));
}

#[test]
fn after_a_power_cut_a_pool_goes_on_where_it_had_committed() {
    let world = World::new(1);
    world.fill(1, 6, 5);
    let pool = world.start(eager());
    for offset in 0..3 {
        world.gate.pass((0, offset), Answer::Fine);
    }
    until("committed", || world.committed().get(&0) == Some(&3));
    world.gate.waits((0, 3));
    let disk = world.disk.crash(7);
    // Nothing is begun any more, which nobody would send on.
    pool.stopper().stop();
    world.gate.answer((0, 3), Answer::Fine);
    drop(pool);

    let store = Store::options().clock(world.clock.clone()).disk(&disk).open(DIR).unwrap();
    let group = store.group("g");
    let gate = Gate::default();
    let at_gate = gate.clone();
    let pool = group.run(["t"], 1, move |record| at_gate.handle(record, OrderBy::Partition)).unwrap();
    gate.waits((0, 3));
    for offset in 3..6 {
        gate.pass((0, offset), Answer::Fine);
    }
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    pool.stop().unwrap();
}

// ───────── with others in the group

#[test]
fn a_slow_handler_costs_the_pool_no_partition() {
    let world = World::new(2);
    let producer = world.store.producer().unwrap();
    let send = |partition| producer.send(Record::to("t").partition(partition)).unwrap().wait().unwrap();
    send(0);
    let pool = world.start(eager().threads(2));
    world.gate.waits((0, 0));
    // Twice `max.poll.interval.ms`. What comes between shows that the pool polls.
    for offset in 0..6 {
        world.clock.advance(Duration::from_secs(100));
        send(1);
        world.gate.pass((1, offset), Answer::Fine);
    }
    let hand = pool.progress().in_hand.into_iter().find(|hand| hand.partition.partition == 0).unwrap();
    assert_eq!((hand.offset, hand.since), (0, Duration::from_secs(600)));
    world.gate.pass((0, 0), Answer::Fine);
    until("committed", || world.committed() == [(0, 1), (1, 6)].into());
    pool.stop().unwrap();
    world.gate.check();
}

#[test]
fn a_partition_goes_to_another_pool_when_what_is_in_hand_is_done_and_committed() {
    let world = World::new(2);
    world.fill(2, 4, 5);
    let first = world.start(PoolConfig::default().threads(2));
    world.gate.waits((0, 0));
    world.gate.waits((1, 0));
    let second = world.start(PoolConfig::default().threads(2));
    // Both are in the hand of the first pool: the second gets neither.
    until("the second has joined", || world.group.describe().unwrap().members.len() == 2);
    assert_eq!(second.progress().partitions, []);
    // The first goes on until it hears of the second: whoever comes is sent on.
    let mut sent = BTreeSet::new();
    let mut send_on = || {
        for place in world.gate.waiting() {
            if sent.insert(place) {
                world.gate.answer(place, Answer::Fine);
            }
        }
    };
    let deadline = Instant::now() + PATIENCE;
    while first.progress().handled + second.progress().handled < 8 {
        assert!(Instant::now() < deadline, "in vain: {} and {}", first.progress(), second.progress());
        send_on();
        std::thread::yield_now();
    }
    until("each has one", || {
        second.progress().partitions.len() == 1 && first.progress().partitions.len() == 1
    });
    assert!(first.wait_caught_up(PATIENCE).unwrap() && second.wait_caught_up(PATIENCE).unwrap());
    first.stop().unwrap();
    second.stop().unwrap();
    world.gate.check();
    assert_eq!(world.committed(), [(0, 4), (1, 4)].into());
}

#[test]
fn pools_that_come_and_go_do_every_record_and_each_of_them_once() {
    let world = World::new(8);
    let count = Arc::new(AtomicUsize::new(0));
    let seen: Arc<Mutex<BTreeMap<Place, usize>>> = Arc::default();
    let start = || {
        let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
        let mut consumer = world.group.consumer_with(config).unwrap();
        consumer.subscribe(["t"]).unwrap();
        let (count, seen) = (Arc::clone(&count), Arc::clone(&seen));
        let config = PoolConfig::default().threads(2).buffered_records(50);
        let handler = move |record: RecordRef<'_>| {
            *seen.lock().unwrap().entry((record.partition(), record.offset())).or_default() += 1;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        world.group.run_with(consumer, config, handler).unwrap()
    };
    let mut random = Random(seed());
    let mut pools = vec![start()];
    let mut sent = 0;
    for _ in 0..12 {
        world.fill(8, 25, 7);
        sent += 8 * 25;
        match pools.len() {
            1 => pools.push(start()),
            4 => pools.swap_remove(random.below(4) as usize).stop().unwrap(),
            n if random.one_in(2) => pools.swap_remove(random.below(n as u64) as usize).stop().unwrap(),
            _ => pools.push(start()),
        }
        let before = count.load(Ordering::SeqCst);
        until("they get on", || count.load(Ordering::SeqCst) > before || before >= sent);
    }
    let deadline = Instant::now() + PATIENCE;
    while count.load(Ordering::SeqCst) < sent {
        if Instant::now() > deadline {
            let ends: Vec<_> = pools.iter().map(|pool| pool.wait_caught_up(Duration::ZERO)).collect();
            let progress: Vec<_> = pools.iter().map(|pool| pool.progress().to_string()).collect();
            panic!("in vain: {ends:?}\n{}\n{:#?}", progress.join("\n"), world.group.describe());
        }
        std::thread::yield_now();
    }
    for pool in pools {
        pool.stop().unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), sent);
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "in a group that nobody leaves by force: {twice:?}");
    assert_eq!(world.committed().values().sum::<i64>(), sent as i64);
}

// ───────── bounds and settings

#[test]
fn a_partition_that_is_held_up_is_paused_and_the_others_go_on() {
    let world = World::new(2);
    world.fill(2, 400, 5);
    let config = eager().threads(2).buffered_records(40);
    let pool = world.start_with(config, ConsumerConfig::default().max_poll_records(10), OrderBy::Partition);
    world.gate.waits((0, 0));
    for offset in 0..400 {
        world.gate.pass((1, offset), Answer::Fine);
    }
    until("the other is done", || pool.progress().partitions[1].done == Some(400));
    let progress = pool.progress();
    let held = &progress.partitions[0];
    assert_eq!((held.done, held.in_hand, held.is_paused), (Some(0), 1, true));
    assert!((20..30).contains(&held.buffered), "{progress}");
    assert_eq!((held.lag(), progress.lag()), (400, 400));
    for offset in 0..400 {
        world.gate.pass((0, offset), Answer::Fine);
    }
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    pool.stop().unwrap();
    world.gate.check();
}

#[test]
fn a_pool_takes_over_the_partitions_that_its_consumer_has_already() {
    let world = World::new(2);
    world.fill(2, 3, 5);
    world.group.commit_offsets([("t", 0, 3), ("t", 1, 3)]).unwrap();
    let mut consumer = world.group.consumer().unwrap();
    consumer.subscribe(["t"]).unwrap();
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
    consumer.seek_to_beginning().unwrap();
    consumer.pause("t", 1).unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let pool = world.group.run_with(consumer, eager(), move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let pool = pool.unwrap();
    assert!(pool.wait_caught_up(PATIENCE).unwrap());
    assert_eq!(handled.load(Ordering::SeqCst), 6);
    pool.stop().unwrap();
    assert_eq!(world.committed(), BTreeMap::from([(0, 3), (1, 3)]));
}

#[test]
fn a_consumer_that_shares_nothing_with_the_group_is_no_pools() {
    let world = World::new(1);
    let refused = |consumer: logstead::Consumer| {
        let error = world.group.run_with(consumer, eager(), |_| Ok(())).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    };
    let mut of_another = world.store.group("other").consumer().unwrap();
    of_another.subscribe(["t"]).unwrap();
    refused(of_another);
    refused(world.group.consumer().unwrap());
    let mut by_hand = world.group.consumer().unwrap();
    by_hand.assign([("t", 0)]).unwrap();
    refused(by_hand);
}

#[test]
fn waiting_for_a_pool_that_is_behind_ends_with_the_time() {
    let world = World::new(1);
    world.fill(1, 1, 5);
    let pool = world.start(PoolConfig::default());
    world.gate.waits((0, 0));
    assert!(!pool.wait_caught_up(Duration::ZERO).unwrap());
    let text = pool.progress().to_string();
    for word in ["t-0", "thread 0: t-0 offset 0", "breaker Closed"] {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    world.gate.answer((0, 0), Answer::Fine);
    pool.stop().unwrap();
}

#[test]
fn settings_that_can_not_work_are_refused() {
    let world = World::new(1);
    let refused = |result: Result<WorkerPool>| match result.unwrap_err().kind() {
        ErrorKind::InvalidConfig { name, .. } => *name,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(world.group.run(["t"], 0, |_| Ok(()))), "threads");
    let auto = world.group.consumer_with(ConsumerConfig::default().enable_auto_commit(true)).unwrap();
    let refused = refused(world.group.run_with(auto, PoolConfig::default(), |_| Ok(())));
    assert_eq!(refused, "enable.auto.commit");
    let error = world.group.run_with(world.store.consumer().unwrap(), PoolConfig::default(), |_| Ok(()));
    assert!(matches!(error.unwrap_err().kind(), ErrorKind::NoGroup));
}

#[test]
fn a_pool_that_begins_at_the_end_and_dies_at_its_first_record_is_given_that_record_again() {
    let world = World::new(1);
    world.fill(1, 3, 1);
    let start = |store: &Store, gate: &Gate| {
        let gate = gate.clone();
        store.group("g").run(["t"], 1, move |record| gate.handle(record, OrderBy::Partition)).unwrap()
    };
    let pool = start(&world.store, &world.gate);
    until("it has begun", || !pool.progress().partitions.is_empty());
    assert!(pool.wait_caught_up(PATIENCE).unwrap(), "by default what was there before is not read");
    world.fill(1, 5, 1);
    world.gate.waits((0, 3));
    // Killed with that record in hand.
    let disk = world.disk.kill();
    let store = Store::options().clock(world.clock.clone()).disk(&disk).open(DIR).unwrap();
    let gate = Gate::default();
    let again = start(&store, &gate);
    (3..8).for_each(|offset| gate.pass((0, offset), Answer::Fine));
    again.stop().unwrap();
    gate.check();
    // The first pool may take the next ones before it is told to stop.
    (3..8).for_each(|offset| world.gate.answer((0, offset), Answer::Fine));
    drop(pool);
}
