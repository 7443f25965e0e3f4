//! Random schedules against a plain model: sends, waits, appends, polls, seeks, pauses, clock jumps, faults, kills,
//! power cuts, reopening. One in five runs with the store's own threads and the system's clock: these append and sync
//! when they like, so such a schedule does not replay exactly.
//!
//! The model knows what was issued, what was seen in each log, and what of it may go: nothing of a `Disk` topic, of a
//! `PageCache` topic what a power cut or a failed sync takes from its end.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use common::{Random, in_parallel, manual, producer_config, prove, seed, soak, telling, topic_config, value};
use logstead::{
    Acks, Consumer, Delivery, Durability, ErrorKind, FaultKind, FaultOp, ManualClock, Partition, Producer,
    Record, SimDisk, Store, StoreOptions,
};

const DIR: &str = "/data";
const TOPICS: [(&str, Durability); 2] = [("d", Durability::Disk), ("p", Durability::PageCache)];

/// Where a record came from: records of one source keep their order.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Producer,
    Append,
}

/// One topic, as the model knows it.
#[derive(Default)]
struct Model {
    /// The source of each number issued.
    issued: HashMap<u64, Source>,
    /// Numbers seen below the high watermark, by offset.
    seen: Vec<u64>,
    /// What was acknowledged, by offset.
    acked: BTreeMap<usize, u64>,
    /// So many of them no power cut takes any more.
    durable: usize,
    /// A sync failed: of a `PageCache` topic anything behind `durable` may be gone.
    sync_failed: bool,
}

struct World {
    seed: u64,
    /// The store has threads of its own.
    threads: bool,
    random: Random,
    clock: ManualClock,
    disk: SimDisk,
    store: Store,
    producer: Producer,
    consumer: Consumer,
    /// What the consumer returns next.
    positions: [usize; 2],
    paused: [bool; 2],
    waiting: Vec<(usize, u64, Delivery)>,
    models: [Model; 2],
    next: u64,
    /// An error may be the fault's: none is expected otherwise.
    faulty: bool,
    /// A producer was dropped with records that a fault may have taken: closing the store tells that.
    unheard: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        let threads = seed.is_multiple_of(5);
        let store = options(threads, &clock).disk(&disk).open(DIR).unwrap();
        for (topic, durability) in TOPICS {
            store.create_topic(topic, topic_config(durability).segment_bytes(3_000)).unwrap();
        }
        let (producer, consumer) = hands(&store, threads);
        World {
            seed,
            threads,
            random: Random(seed),
            clock,
            disk,
            store,
            producer,
            consumer,
            positions: [0; 2],
            paused: [false; 2],
            waiting: Vec::new(),
            models: Default::default(),
            next: 0,
            faulty: false,
            unheard: false,
        }
    }

    fn partition(&self, t: usize) -> logstead::Result<Partition> {
        self.store.topic(TOPICS[t].0)?.partition(0)
    }

    fn issue(&mut self, t: usize, source: Source) -> (u64, Vec<u8>) {
        let number = self.next;
        self.next += 1;
        self.models[t].issued.insert(number, source);
        (number, value(self.seed, number, self.random.below(300) as usize))
    }

    /// An error, which must be a fault's and one of those that a fault can cause.
    fn failed(&self, error: &logstead::Error) {
        assert!(self.faulty, "without a fault: {error:?}");
        let closed = matches!(error.kind(), ErrorKind::Closed | ErrorKind::Corrupt { .. });
        assert!(!closed, "{error:?}");
    }

    fn step(&mut self) {
        let t = self.random.below(2) as usize;
        match self.random.below(100) {
            0..25 => self.send(t),
            25..40 => self.wait(),
            40..46 => self.flush(),
            46..58 => self.append(t),
            58..68 => self.poll(),
            68..71 => self.seek(t),
            71 => self.pause(t),
            72..77 => self.get(t),
            77..84 => {
                self.clock.advance(Duration::from_millis(self.random.below(1_500)));
                if let Err(error) = self.store.maintain() {
                    self.failed(&error);
                }
            }
            84..88 => self.fault(),
            88..90 => self.heal(),
            90..93 => self.close(),
            93..97 => {
                let disk = self.disk.kill();
                self.begin_life(disk, false);
            }
            _ => {
                let disk = self.disk.crash(self.random.next());
                self.begin_life(disk, true);
            }
        }
        for t in 0..2 {
            self.look(t, false);
        }
    }

    fn send(&mut self, t: usize) {
        let (number, value) = self.issue(t, Source::Producer);
        match self.producer.send(Record::to(TOPICS[t].0).value(&value)) {
            Ok(delivery) => self.waiting.push((t, number, delivery)),
            Err(error) => self.failed(&error),
        }
    }

    fn wait(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let i = self.random.below(self.waiting.len() as u64) as usize;
        let (t, number, delivery) = self.waiting.swap_remove(i);
        match delivery.wait() {
            Ok(receipt) => {
                self.models[t].acked.insert(receipt.offset as usize, number);
            }
            Err(error) => self.failed(&error),
        }
    }

    fn flush(&mut self) {
        match self.producer.flush() {
            Ok(()) => {
                for (t, number, delivery) in self.waiting.drain(..) {
                    match delivery.try_receipt().expect("flushed") {
                        Ok(receipt) => {
                            self.models[t].acked.insert(receipt.offset as usize, number);
                        }
                        Err(error) => assert!(self.faulty, "{error}"),
                    }
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn append(&mut self, t: usize) {
        let partition = match self.partition(t) {
            Ok(partition) => partition,
            Err(error) => return self.failed(&error),
        };
        let end = partition.log_end_offset();
        let expected = match self.random.below(4) {
            0 => None,
            1 => Some(end + 1 - 2 * (self.random.below(2) as i64)),
            _ => Some(end),
        };
        let acks = if self.random.one_in(2) { Acks::All } else { Acks::Leader };
        let batch: Vec<_> = (0..1 + self.random.below(3)).map(|_| self.issue(t, Source::Append)).collect();
        let records = batch.iter().map(|(_, value)| Record::to(TOPICS[t].0).value(value));
        match partition.append(records, expected, acks) {
            Ok(receipt) => {
                let start = receipt.offsets.start;
                assert!(start == end || self.threads && start > end, "{start} instead of {end}");
                assert_eq!(receipt.offsets.end, start + batch.len() as i64);
                assert!(expected.is_none_or(|expected| expected == start), "appended at another end");
                if acks == Acks::All {
                    let numbers = batch.iter().map(|(number, _)| *number);
                    self.models[t].acked.extend((start as usize..).zip(numbers));
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::OffsetMismatch { .. }) => {
                assert!(expected.is_some_and(|expected| self.threads || expected != end), "{error}");
            }
            Err(error) => self.failed(&error),
        }
    }

    fn poll(&mut self) {
        match self.consumer.poll(Duration::ZERO) {
            Ok(records) => {
                for t in 0..2 {
                    self.look(t, false);
                }
                for record in &records {
                    let t = usize::from(record.topic() != TOPICS[0].0);
                    assert!(!self.paused[t], "a record of a paused partition");
                    assert_eq!(record.offset(), self.positions[t] as i64, "a poll skips or repeats");
                    let number = prove(self.seed, record.value().unwrap());
                    let seen = self.models[t].seen.get(self.positions[t]);
                    assert!(seen == Some(&number) || self.faulty && seen.is_none());
                    self.positions[t] += 1;
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn seek(&mut self, t: usize) {
        let to = self.random.below(self.models[t].seen.len() as u64 + 1) as usize;
        self.consumer.seek(TOPICS[t].0, 0, to as i64).unwrap();
        self.positions[t] = to;
    }

    fn pause(&mut self, t: usize) {
        self.paused[t] = !self.paused[t];
        let toggle = if self.paused[t] { Consumer::pause } else { Consumer::resume };
        toggle(&mut self.consumer, TOPICS[t].0, 0).unwrap();
    }

    fn get(&mut self, t: usize) {
        if self.models[t].seen.is_empty() {
            return;
        }
        let at = self.random.below(self.models[t].seen.len() as u64) as usize;
        match self.partition(t).and_then(|partition| partition.get(at as i64)) {
            Ok(found) => {
                let number = prove(self.seed, found.unwrap().record().value().unwrap());
                assert_eq!(number, self.models[t].seen[at]);
            }
            Err(error) => self.failed(&error),
        }
    }

    fn fault(&mut self) {
        use FaultOp::{Create, Read, SetLen, SyncData, SyncDir, Write};
        let ops = [Write, Write, SetLen, SyncData, SyncData, SyncDir, Create, Read];
        let op = ops[self.random.below(ops.len() as u64) as usize];
        let kind = if self.random.one_in(2) { FaultKind::Io } else { FaultKind::NoSpace };
        self.disk.fail_nth(op, 1 + self.random.below(4), kind, self.random.one_in(4));
        self.faulty = true;
        for model in &mut self.models {
            model.sync_failed |= op == SyncData;
        }
    }

    /// The disk works again: partitions are taken back into service, and everything goes on.
    fn heal(&mut self) {
        self.disk.clear_faults();
        if !self.faulty {
            return;
        }
        for t in 0..2 {
            self.store.recover(topic_of(t), 0).unwrap();
            self.look(t, true);
            self.settle(t);
        }
        // What the producer still knows is of the time before; the records it holds may come yet.
        let (producer, consumer) = hands(&self.store, self.threads);
        drop(std::mem::replace(&mut self.producer, producer));
        self.waiting.clear();
        self.take_up(consumer);
        self.faulty = false;
        self.unheard = true;
    }

    fn close(&mut self) {
        for t in 0..2 {
            self.look(t, false);
        }
        let ends: Vec<_> =
            (0..2).map(|t| self.partition(t).map_or(0, |p| p.log_end_offset() as usize)).collect();
        let closed = self.store.clone().close();
        let disk = if closed.is_ok() || self.random.one_in(2) { self.disk.clone() } else { self.disk.kill() };
        disk.clear_faults();
        if let Err(error) = &closed
            && !self.unheard
        {
            self.failed(error);
        }
        let clean = closed.is_ok() && !self.faulty;
        self.reopen(disk);
        if clean {
            assert!(self.store.recovery_report().clean);
            for (t, end) in ends.into_iter().enumerate() {
                self.look(t, true);
                assert!(self.models[t].seen.len() >= end, "closed in order, and records are gone");
            }
        }
        for t in 0..2 {
            self.look(t, true);
            self.settle(t);
        }
    }

    fn begin_life(&mut self, disk: SimDisk, power_cut: bool) {
        self.reopen(disk);
        for t in 0..2 {
            self.models[t].sync_failed |= power_cut;
            self.look(t, true);
            self.settle(t);
        }
    }

    fn reopen(&mut self, disk: SimDisk) {
        let store = options(self.threads, &self.clock).disk(&disk).open(DIR).unwrap();
        let (producer, consumer) = hands(&store, self.threads);
        // The old life ends here, on its own disk where it was cut off.
        self.waiting.clear();
        self.producer = producer;
        self.take_up(consumer);
        self.store = store;
        self.disk = disk;
        self.faulty = false;
        self.unheard = false;
    }

    /// What an open leaves is durable.
    fn settle(&mut self, t: usize) {
        self.models[t].durable = self.models[t].seen.len();
        self.models[t].sync_failed = false;
        self.positions[t] = self.positions[t].min(self.models[t].seen.len());
        self.consumer.seek(TOPICS[t].0, 0, self.positions[t] as i64).unwrap();
    }

    fn take_up(&mut self, consumer: Consumer) {
        self.consumer = consumer;
        self.paused = [false; 2];
        for (t, position) in self.positions.into_iter().enumerate() {
            self.consumer.seek(TOPICS[t].0, 0, position as i64).unwrap();
        }
    }

    /// Reads what is new, or everything, and compares it with what was seen before.
    fn look(&mut self, t: usize, whole: bool) {
        let partition = match self.partition(t) {
            Ok(partition) => partition,
            Err(error) => return self.failed(&error),
        };
        let model = &mut self.models[t];
        let high_watermark = partition.high_watermark() as usize;
        assert!(high_watermark <= partition.log_end_offset() as usize);
        let kept = if whole && TOPICS[t].1 == Durability::PageCache && model.sync_failed {
            model.durable
        } else {
            model.seen.len()
        };
        assert!(high_watermark >= kept, "{}: {high_watermark} of {kept}", TOPICS[t].0);
        let mut at = if whole { 0 } else { model.seen.len() };
        model.seen.truncate(high_watermark);
        if whole && TOPICS[t].1 == Durability::PageCache && model.sync_failed {
            model.acked.retain(|offset, _| *offset < high_watermark);
        }
        assert!(model.acked.keys().all(|offset| *offset < high_watermark), "acknowledged, and gone");
        while at < high_watermark {
            let records = match partition.read(at as i64, 2_000) {
                Ok(records) => records,
                Err(error) => {
                    assert!(self.faulty, "{error}");
                    return;
                }
            };
            for record in &records {
                assert_eq!(record.offset(), at as i64);
                let number = prove(self.seed, record.value().unwrap());
                match model.seen.get(at) {
                    Some(before) => assert_eq!(*before, number, "{} changed at {at}", TOPICS[t].0),
                    None => {
                        let source = model.issued.get(&number).expect("never issued");
                        let last = model.seen.iter().rev().find(|seen| model.issued[seen] == *source);
                        assert!(last.is_none_or(|last| *last < number), "out of order, or twice");
                        model.seen.push(number);
                    }
                }
                at += 1;
            }
        }
        for (offset, number) in &model.acked {
            assert_eq!(model.seen.get(*offset), Some(number), "acknowledged at {offset}");
        }
    }
}

fn topic_of(t: usize) -> &'static str {
    TOPICS[t].0
}

fn options(threads: bool, clock: &ManualClock) -> StoreOptions {
    if threads { Store::options() } else { manual(clock) }
}

fn hands(store: &Store, threads: bool) -> (Producer, Consumer) {
    let mut config = producer_config(Acks::All).batch_size(500);
    if threads {
        config = config.linger_ms(1);
    }
    let producer = store.producer_with(config).unwrap();
    let mut consumer = store.consumer().unwrap();
    consumer.assign(TOPICS.map(|(topic, _)| (topic, 0))).unwrap();
    for (topic, _) in TOPICS {
        consumer.seek(topic, 0, 0).unwrap();
    }
    (producer, consumer)
}

#[test]
fn random_schedules_agree_with_the_model() {
    let seed = seed();
    let schedules = if soak() { 500_000 } else { 5_000 };
    in_parallel(schedules, |i| {
        let seed = seed.wrapping_add(i as u64);
        telling(
            || format!("LOGSTEAD_SEED={seed}, its first schedule"),
            || {
                let mut world = World::new(seed);
                let steps = 20 + world.random.below(60);
                for _ in 0..steps {
                    world.step();
                }
            },
        );
    });
    eprintln!("{schedules} schedules");
}
