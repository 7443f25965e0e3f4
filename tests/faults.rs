//! Disks that refuse: every sync that can fail, every operation that can fail, no space. What was acknowledged stays,
//! what failed says so, and nothing hangs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{
    Random, append_one, check, in_parallel, manual, producer_config, prove, seed, soak, telling,
    topic_config, value,
};
use logstead::{
    Acks, Consumer, Durability, Error, ErrorKind, FaultKind, FaultOp, ManualClock, Partition, Record,
    SimDisk, Store,
};

const DIR: &str = "/data";
const COMMITS: u64 = 8;

/// A store with a partition that is written, and another one beside it.
struct Run {
    seed: u64,
    disk: SimDisk,
    clock: ManualClock,
    /// Values that were sent to the one, by number.
    sent: u64,
    /// Offsets and numbers that were acknowledged.
    acked: BTreeMap<usize, u64>,
    other_acked: usize,
    /// Numbers that a consumer saw, by offset.
    seen: Vec<u64>,
    errors: Vec<Error>,
    other_errors: Vec<Error>,
}

impl Run {
    fn new(seed: u64) -> Run {
        Run {
            seed,
            disk: SimDisk::new(seed),
            clock: ManualClock::new(1_700_000_000_000),
            sent: 0,
            acked: BTreeMap::new(),
            other_acked: 0,
            seen: Vec::new(),
            errors: Vec::new(),
            other_errors: Vec::new(),
        }
    }

    fn open(&self, disk: &SimDisk) -> logstead::Result<Store> {
        manual(&self.clock).disk(disk).open(DIR)
    }

    /// Makes the topics; before any fault.
    fn made(&self, durability: Durability) -> Store {
        let store = self.open(&self.disk).unwrap();
        store.create_topic("t", topic_config(durability)).unwrap();
        store.create_topic("other", topic_config(Durability::Disk)).unwrap();
        // Opened now: what a fault does to an open is a chapter of its own.
        for topic in ["t", "other"] {
            store.topic(topic).unwrap().partition(0).unwrap();
        }
        store
    }

    /// Group commits of several batches, with a reader and a neighbour. Errors are kept; what failed is not sent again.
    fn write(&mut self, store: &Store) {
        let topic = store.topic("t").unwrap();
        let producer = store.producer_with(producer_config(Acks::All)).unwrap();
        let mut consumer = store.consumer().unwrap();
        consumer.assign([("t", 0)]).unwrap();
        consumer.seek("t", 0, 0).unwrap();
        let mut random = Random(self.seed);
        for _ in 0..COMMITS {
            let mut deliveries = Vec::new();
            let poisoned = self.errors.iter().any(is_poisoned);
            for _ in 0..6 {
                let value = value(self.seed, self.sent, 250 + random.below(400) as usize);
                match producer.send(Record::to(&topic).value(&value)) {
                    Ok(delivery) => deliveries.push((self.sent, delivery)),
                    Err(error) => self.errors.push(error),
                }
                self.sent += 1;
            }
            for (number, delivery) in deliveries {
                match delivery.wait() {
                    Ok(receipt) => {
                        assert!(!poisoned, "acknowledged behind a failed sync");
                        self.acked.insert(receipt.offset as usize, number);
                    }
                    Err(error) => self.errors.push(error),
                }
            }
            let _ = store.maintain();
            self.clock.advance(Duration::from_millis(400));
            self.read(&mut consumer);
            self.write_other(store);
        }
        let _ = producer.close();
    }

    fn read(&mut self, consumer: &mut Consumer) {
        loop {
            match consumer.poll(Duration::ZERO) {
                Ok(records) if records.is_empty() => break,
                Ok(records) => {
                    for record in &records {
                        assert_eq!(record.offset(), self.seen.len() as i64);
                        self.seen.push(prove(self.seed, record.value().unwrap()));
                    }
                }
                Err(error) => {
                    self.errors.push(error);
                    break;
                }
            }
        }
    }

    fn write_other(&mut self, store: &Store) {
        let topic = store.topic("other").unwrap();
        let value = value(self.seed, self.other_acked as u64, 40);
        let append =
            topic.partition(0).and_then(|p| p.append([Record::to(&topic).value(&value)], None, Acks::All));
        match append {
            Ok(receipt) => {
                assert_eq!(receipt.offsets.start, self.other_acked as i64);
                assert!(!self.other_errors.iter().any(is_poisoned), "acknowledged behind a failed sync");
                self.other_acked += 1;
            }
            Err(error) => self.other_errors.push(error),
        }
    }

    /// Both partitions hold what was acknowledged, and what a consumer saw, and take more.
    fn holds(&self, store: &Store, kept: bool, appends: bool) {
        let end = self.holds_written(store, kept);
        let other: Vec<_> = (0..=self.other_acked).map(|i| value(self.seed, i as u64, 40)).collect();
        let other_end = check(&store.topic("other").unwrap().partition(0).unwrap(), &other).unwrap();
        assert!(other_end >= self.other_acked, "{other_end} of {} of the other", self.other_acked);
        if appends {
            append_one(store, "t", end, &value(self.seed, u64::MAX, 30));
            append_one(store, "other", other_end, b"more");
        }
    }

    fn holds_written(&self, store: &Store, kept: bool) -> usize {
        let partition = store.topic("t").unwrap().partition(0).unwrap();
        let found = numbers(&partition, self.seed)
            .unwrap_or_else(|error| panic!("{error}\n{}", store.recovery_report()));
        assert!(found.is_sorted_by(|a, b| a < b), "out of order, or twice");
        assert!(found.last().is_none_or(|last| *last < self.sent), "never sent");
        if kept {
            for (offset, number) in &self.acked {
                assert_eq!(
                    found.get(*offset),
                    Some(number),
                    "acknowledged at {offset}\n{}",
                    store.recovery_report()
                );
            }
            assert!(found.starts_with(&self.seen), "a consumer saw what is not there");
        }
        found.len()
    }
}

/// The numbers of all values in a partition.
fn numbers(partition: &Partition, seed: u64) -> logstead::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    loop {
        let records = partition.read(numbers.len() as i64, 1 << 20)?;
        if records.is_empty() {
            return Ok(numbers);
        }
        for record in &records {
            assert_eq!(record.offset(), numbers.len() as i64);
            numbers.push(prove(seed, record.value().unwrap()));
        }
    }
}

fn is_poisoned(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Poisoned { .. })
}

/// How many syncs of a sort the workload asks for.
fn count_syncs(seed: u64, op: FaultOp) -> u64 {
    let mut run = Run::new(seed);
    let store = run.made(Durability::Disk);
    let before = run.disk.counts();
    run.write(&store);
    assert!(run.errors.is_empty(), "{:?}", run.errors);
    let after = run.disk.counts();
    match op {
        FaultOp::SyncDir => after.dir_syncs - before.dir_syncs,
        _ => after.syncs - before.syncs,
    }
}

#[test]
fn a_failed_sync_is_told_to_all_who_wait_and_takes_nothing_acknowledged() {
    let seed = seed();
    let mut cases = Vec::new();
    for op in [FaultOp::SyncData, FaultOp::SyncDir] {
        for nth in 1..=count_syncs(seed, op) {
            for kind in [FaultKind::Io, FaultKind::NoSpace] {
                cases.extend([false, true].map(|sticky| (op, nth, kind, sticky)));
            }
        }
    }
    in_parallel(cases.len(), |i| {
        let (op, nth, kind, sticky) = cases[i];
        telling(
            || format!("seed {seed}: {op:?} {nth}, {kind:?}, sticky {sticky}"),
            || failed_sync(seed, op, nth, kind, sticky),
        );
    });
    eprintln!("{} failed syncs", cases.len());
}

fn failed_sync(seed: u64, op: FaultOp, nth: u64, kind: FaultKind, sticky: bool) {
    let mut run = Run::new(seed);
    let store = run.made(Durability::Disk);
    run.disk.fail_nth(op, nth, kind, sticky);
    run.write(&store);
    for error in run.errors.iter().chain(&run.other_errors) {
        assert!(is_poisoned(error) || matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
    }
    run.disk.clear_faults();
    let topic = store.topic("t").unwrap();
    let poisoned: Vec<&str> = ["t", "other"]
        .into_iter()
        .filter(|name| {
            let partition = store.topic(name).unwrap().partition(0).unwrap();
            partition
                .append([Record::to(*name).value("x")], Some(i64::MAX), Acks::All)
                .is_err_and(|e| is_poisoned(&e))
        })
        .collect();
    assert!(sticky || poisoned.len() <= 1, "one failed sync, two partitions");
    // Reads of what is committed go on.
    let before = topic.partition(0).unwrap().high_watermark();
    assert_eq!(run.holds_written(&store, true) as i64, before);
    // A power cut now.
    run.holds(&run.open(&run.disk.crash(nth)).unwrap(), true, false);
    // The process dies, and what the cache shows is not what the device has.
    run.holds(&run.open(&run.disk.kill()).unwrap(), true, true);
    // Or the partition is taken back into service.
    for name in poisoned {
        store.recover(name, 0).unwrap();
    }
    run.holds(&store, true, true);
    store.close().unwrap();
    let store = run.open(&run.disk).unwrap();
    assert!(store.recovery_report().clean);
}

#[test]
fn after_recover_old_deliveries_do_not_mistake_new_records_for_their_own() {
    let run = Run::new(7);
    let store = run.made(Durability::Disk);
    let topic = store.topic("t").unwrap();
    let producer = store.producer_with(producer_config(Acks::All)).unwrap();
    producer.send(Record::to(&topic).value("kept")).unwrap().wait().unwrap();
    let lost = producer.send(Record::to(&topic).value("lost")).unwrap();
    let lost_too = producer.send(Record::to(&topic).value("lost too")).unwrap();
    run.disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    assert!(is_poisoned(&lost.wait().unwrap_err()));
    store.recover("t", 0).unwrap();
    assert_eq!(topic.partition(0).unwrap().high_watermark(), 1);
    let partition = topic.partition(0).unwrap();
    for offset in 1..4 {
        partition.append([Record::to(&topic).value("another")], Some(offset), Acks::All).unwrap();
    }
    assert!(is_poisoned(&lost_too.wait().unwrap_err()), "an answer about a record of somebody else");
    // The producer goes on: it says once that something was lost, and does not wait for offsets of another life.
    assert!(is_poisoned(&producer.flush().unwrap_err()));
    assert_eq!(producer.send(Record::to(&topic).value("on")).unwrap().wait().unwrap().offset, 4);
    producer.flush().unwrap();
}

#[test]
fn recovering_a_healthy_partition_loses_nothing() {
    let run = Run::new(8);
    let store = run.made(Durability::Disk);
    let topic = store.topic("t").unwrap();
    let producer = store.producer_with(producer_config(Acks::All)).unwrap();
    let waiting = producer.send(Record::to(&topic).value("a")).unwrap();
    let leader = topic.partition(0).unwrap();
    leader.append([Record::to(&topic).value("b")], None, Acks::Leader).unwrap();
    store.recover("t", 0).unwrap();
    assert_eq!(topic.partition(0).unwrap().high_watermark(), 1);
    assert_eq!(waiting.wait().unwrap().offset, 1);
    producer.flush().unwrap();
    store.close().unwrap();
}

/// Fails the n-th operation, n = 1, 2, … until the workload passes untouched.
fn sweep(op: FaultOp, kind: FaultKind, sticky: bool, durability: Durability) -> u64 {
    for nth in 1.. {
        let passed = telling(
            || format!("{op:?} {nth}, {kind:?}, sticky {sticky}, {durability}"),
            || one_of_sweep(op, nth, kind, sticky, durability),
        );
        if passed {
            return nth;
        }
    }
    unreachable!()
}

/// Open, create, write, roll, close, open again: any of it may fail, with a typed error.
fn one_of_sweep(op: FaultOp, nth: u64, kind: FaultKind, sticky: bool, durability: Durability) -> bool {
    let mut run = Run::new(nth);
    run.disk.fail_nth(op, nth, kind, sticky);
    let mut untouched = true;
    let mut lived = || -> logstead::Result<()> {
        let store = run.open(&run.disk)?;
        for topic in ["t", "other"] {
            let config = topic_config(if topic == "t" { durability } else { Durability::Disk });
            if let Err(error) = store.create_topic(topic, config.clone()) {
                untouched = false;
                // The call can be repeated at once.
                if let Err(again) = store.create_topic(topic, config) {
                    assert!(sticky, "{error}, and again {again}");
                    return Err(again);
                }
            }
        }
        run.write(&store);
        store.close()
    };
    untouched &= lived().is_ok();
    untouched &= run.errors.is_empty() && run.other_errors.is_empty();
    for error in run.errors.iter().chain(&run.other_errors) {
        assert!(!matches!(error.kind(), ErrorKind::Closed | ErrorKind::OffsetOutOfRange { .. }), "{error:?}");
    }
    // Opening with the fault still there: an error or a store, but no panic.
    if sticky && let Ok(store) = run.open(&run.disk) {
        drop(store);
    }
    run.disk.clear_faults();
    let lives = [run.disk.kill(), run.disk.crash(nth), run.disk.clone()];
    for (life, disk) in lives.iter().enumerate() {
        let store = run.open(disk).unwrap_or_else(|error| panic!("life {life}: {error}"));
        for topic in ["t", "other"] {
            if store.topic(topic).is_err() {
                assert!(run.acked.is_empty() && run.other_acked == 0, "{topic} is gone");
                store.create_topic(topic, topic_config(durability)).unwrap();
            }
        }
        // A failed sync takes from the cache too what only the cache had.
        let synced = matches!(op, FaultOp::SyncData | FaultOp::Any);
        run.holds(&store, durability == Durability::Disk || (life != 1 && !synced), true);
        store.close().unwrap();
    }
    untouched
}

#[test]
fn any_operation_may_fail_once_or_for_ever_and_nothing_acknowledged_is_lost() {
    use FaultKind::{Io, NoSpace, ReadOnly, TooManyFiles};
    use FaultOp::{Any, Create, Open, Read, Remove, Rename, SetLen, SyncData, SyncDir, Write};
    let mut cases = Vec::new();
    let all = soak();
    for (op, kinds) in [
        (Write, vec![NoSpace, Io, ReadOnly]),
        (SetLen, vec![Io]),
        (SyncData, vec![NoSpace, Io]),
        (SyncDir, vec![Io]),
        (Rename, vec![Io, NoSpace]),
        (Create, vec![NoSpace, TooManyFiles, ReadOnly]),
        (Remove, vec![Io]),
        (Read, vec![Io]),
        (Open, vec![TooManyFiles, Io]),
        (Any, vec![Io, NoSpace]),
    ] {
        for (i, kind) in kinds.into_iter().enumerate() {
            for sticky in [false, true] {
                cases.push((op, kind, sticky, Durability::Disk));
                if i == 0 || all {
                    cases.push((op, kind, sticky, Durability::PageCache));
                }
            }
        }
    }
    let count = std::sync::atomic::AtomicU64::new(0);
    in_parallel(cases.len(), |i| {
        let (op, kind, sticky, durability) = cases[i];
        count.fetch_add(sweep(op, kind, sticky, durability), std::sync::atomic::Ordering::Relaxed);
    });
    eprintln!("{} failures injected", count.into_inner());
}

#[test]
fn a_short_write_leaves_no_half_batch() {
    for written in [0, 1, 11, 12, 60, 61, 100, 1_000] {
        for nth in 1..30 {
            let mut run = Run::new(nth);
            let store = run.made(Durability::Disk);
            run.disk.fail_write_short(nth, FaultKind::NoSpace, written);
            run.write(&store);
            run.disk.clear_faults();
            run.holds(&run.open(&run.disk.kill()).unwrap(), true, true);
            run.holds(&store, true, true);
            store.close().unwrap();
        }
    }
}

#[test]
fn a_full_disk_is_full_and_nothing_else_until_space_returns() {
    let run = Run::new(3);
    let store = run.made(Durability::Disk);
    let topic = store.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    let mut sent = Vec::new();
    for room in (0..3_000).step_by(331) {
        let used: usize = run.disk.files().iter().map(|file| run.disk.read_file(file).unwrap().len()).sum();
        run.disk.set_capacity(Some((used + room) as u64));
        let mut filled = None;
        for _ in 0..100 {
            let next = value(3, sent.len() as u64, 500);
            match partition.append([Record::to(&topic).value(&next)], Some(sent.len() as i64), Acks::All) {
                Ok(_) => sent.push(next),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Full { .. }), "{error}");
                    filled = Some(next);
                    break;
                }
            }
        }
        let next = filled.expect("the disk gets full");
        // Nothing was changed: what was written of the batch is cut back.
        let logs = run.disk.files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "log"));
        let bytes: usize = logs
            .filter(|log| log.starts_with("/data/t-0"))
            .map(|log| run.disk.read_file(log).unwrap().len())
            .sum();
        assert_eq!(bytes as u64, partition.size_bytes());
        // Reads, checks and another try go on; a crash now opens, full as the disk is.
        assert_eq!(check(&partition, &sent).unwrap(), sent.len());
        assert_eq!(partition.log_end_offset(), sent.len() as i64);
        let killed = run.disk.kill();
        let again = run.open(&killed).unwrap();
        assert_eq!(check(&again.topic("t").unwrap().partition(0).unwrap(), &sent).unwrap(), sent.len());
        run.disk.set_capacity(None);
        let receipt = partition.append([Record::to(&topic).value(&next)], Some(sent.len() as i64), Acks::All);
        assert_eq!(receipt.unwrap().offsets.start, sent.len() as i64);
        sent.push(next);
        assert_eq!(check(&partition, &sent).unwrap(), sent.len());
    }
    store.close().unwrap();
}
