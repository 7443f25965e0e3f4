//! Every crash of a log whose start moves: each operation of retention and of delete-records on the simulated disk is a
//! place where the power can go, and each time many disks can be left. All of them must open, start where they were
//! told to or where they were about to, and hold every committed record behind that.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Random, in_parallel, manual, seed, soak, telling, value};
use logstead::{
    Acks, CrashPoint, Durability, ManualClock, Partition, Record, RecoveryEvent, SimDisk, Store, TopicConfig,
};

const DIR: &str = "/s/data";
const HOUR: u64 = 3_600_000;

/// What holds once so many operations were done.
#[derive(Clone, Copy, Debug)]
struct Mark {
    op: u64,
    /// So many records were acknowledged.
    acked: usize,
    /// The start that was acknowledged.
    start: usize,
    /// The start that was asked for, or may have been decided.
    wanted: usize,
}

struct Run {
    seed: u64,
    durability: Durability,
    disk: SimDisk,
    clock: ManualClock,
    sent: Vec<Vec<u8>>,
    marks: Vec<Mark>,
}

impl Run {
    fn new(seed: u64, durability: Durability) -> Run {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        Run { seed, durability, disk, clock, sent: Vec::new(), marks: Vec::new() }
    }

    fn options(&self, disk: &SimDisk) -> logstead::StoreOptions {
        manual(&self.clock).disk(disk)
    }

    fn config(&self) -> TopicConfig {
        // Five or six records a segment.
        TopicConfig::default()
            .durability(self.durability)
            .segment_bytes(1_000)
            .index_interval_bytes(300)
            .retention_bytes(1_500)
            .retention_ms(HOUR)
    }

    fn mark(&mut self, start: usize, wanted: usize) {
        self.marks.push(Mark { op: self.disk.op_count(), acked: self.sent.len(), start, wanted });
    }

    fn append(&mut self, partition: &Partition, count: usize) {
        let last = *self.marks.last().unwrap();
        for _ in 0..count {
            let value = value(self.seed, self.sent.len() as u64, 60);
            self.sent.push(value.clone());
            partition.append([Record::to(partition.topic()).value(&value)], None, Acks::All).unwrap();
            self.mark(last.start, last.wanted);
        }
    }

    /// Moves the start by `work`, which answers where it is then.
    fn moving(&mut self, partition: &Partition, wanted: usize, work: impl FnOnce()) {
        let before = partition.log_start_offset() as usize;
        self.mark(before, wanted);
        work();
        let after = partition.log_start_offset() as usize;
        assert!((before..=wanted).contains(&after));
        self.mark(after, after);
    }

    fn go(&mut self) {
        let store = self.options(&self.disk).open(DIR).unwrap();
        let topic = store.create_topic("t", self.config()).unwrap();
        let partition = topic.partition(0).unwrap();
        self.mark(0, 0);
        self.disk.record_states(true);
        self.append(&partition, 27);
        // By size.
        let end = self.sent.len();
        self.moving(&partition, end, || assert!(store.run_retention_now().unwrap().segments >= 2));
        self.append(&partition, 4);
        // In the middle of a segment, then over several.
        let start = partition.log_start_offset();
        self.moving(&partition, start as usize + 2, || {
            assert_eq!(store.delete_records("t", 0, start + 2).unwrap(), start + 2)
        });
        self.append(&partition, 9);
        self.clock.advance(Duration::from_millis(1_100));
        store.maintain().unwrap();
        let before = self.sent.len() - 3;
        self.moving(&partition, before, || assert!(store.delete_records("t", 0, before as i64).is_ok()));
        self.append(&partition, 13);
        // By age, all of it: the active segment is closed first.
        self.clock.advance(Duration::from_millis(2 * HOUR));
        let end = self.sent.len();
        self.moving(&partition, end, || assert!(store.run_retention_now().unwrap().segments > 0));
        assert_eq!(partition.log_start_offset() as usize, end);
        self.append(&partition, 7);
        let last = *self.marks.last().unwrap();
        drop((topic, partition));
        store.close().unwrap();
        self.mark(last.start, last.wanted);
    }

    fn mark_at(&self, op: u64) -> Mark {
        *self.marks.iter().rev().find(|mark| mark.op <= op).unwrap_or(&self.marks[0])
    }

    /// What a partition holds must be right: from a start that was told or wanted, all that was committed, nothing
    /// else.
    fn holds(&self, partition: &Partition, mark: Mark) -> (usize, usize) {
        let (start, end) = (partition.log_start_offset() as usize, partition.high_watermark() as usize);
        assert!(start >= mark.start, "the start moved back from {} to {start}", mark.start);
        assert!(start <= mark.wanted, "the start is {start}, and nobody wanted more than {}", mark.wanted);
        if self.durability == Durability::Disk {
            assert!(end >= mark.acked, "{end} of {} acknowledged records", mark.acked);
        }
        let mut at = start;
        while at < end {
            let records = partition.read(at as i64, 2_000).unwrap_or_else(|error| panic!("{error}"));
            for record in &records {
                assert_eq!(record.offset(), at as i64);
                assert_eq!(record.value(), self.sent.get(at).map(Vec::as_slice), "another value at {at}");
                at += 1;
            }
        }
        (start, end)
    }

    fn opens(&self, disk: &SimDisk, mark: Mark) -> (Store, usize, usize) {
        let store = self.options(disk).open(DIR).unwrap_or_else(|error| panic!("does not open: {error}"));
        let partition = store.topic("t").unwrap().partition(0).unwrap();
        let (start, end) = self.holds(&partition, mark);
        for report in &store.recovery_report().partitions {
            for event in &report.events {
                let is_known = match event {
                    RecoveryEvent::TailCut { .. } | RecoveryEvent::LeftoverRemoved { .. } => true,
                    // Of a `PageCache` topic a power cut takes what it likes behind the last sync.
                    RecoveryEvent::SegmentSetAside { .. } => self.durability == Durability::PageCache,
                    _ => false,
                };
                assert!(is_known, "{event}");
            }
        }
        (store, start, end)
    }

    /// What is deleted, in part or in whole, is no damage of a log. An index that the crash of a roll left torn is a
    /// hint.
    fn is_sound(&self, disk: &SimDisk) {
        let verified = self.options(disk).verify(DIR).unwrap();
        let is_index = |file: &Path| file.extension().is_some_and(|kind| kind != "log");
        assert!(verified.damaged.iter().all(|found| is_index(&found.file)), "{verified}");
    }

    /// All that must hold of a disk that a crash left.
    fn survives(&self, disk: &SimDisk, mark: Mark, random: &mut Random) {
        if random.one_in(4) {
            let before = disk.content_hash();
            let reader = self.options(disk).open_read_only(DIR).unwrap();
            let partition = reader.topic("t").unwrap().partition(0).unwrap();
            self.holds(&partition, Mark { acked: 0, ..mark });
            if self.durability == Durability::Disk {
                self.is_sound(disk);
            }
            assert_eq!(disk.content_hash(), before, "a reader changed something");
        }
        let (store, start, end) = self.opens(disk, mark);
        let now = Mark { start, wanted: start, acked: end, op: 0 };
        if random.one_in(8) {
            // What was seen after a recovery is there after a crash that follows at once.
            self.opens(&disk.crash(random.next()), now);
        }
        let again = disk.kill();
        drop(store);
        let before = again.content_hash();
        let (store, ..) = self.opens(&again, now);
        assert_eq!(again.content_hash(), before, "a second recovery changed something");
        if random.one_in(4) {
            self.is_sound(&again);
        }
        // It goes on: appends, and another pass of retention.
        let topic = store.topic("t").unwrap();
        let next = value(self.seed, end as u64, 60);
        let receipt = topic.partition(0).unwrap().append(
            [Record::to(&topic).value(&next)],
            Some(end as i64),
            Acks::All,
        );
        assert_eq!(receipt.unwrap().offsets.start, end as i64);
        store.run_retention_now().unwrap();
        let partition = topic.partition(0).unwrap();
        let start = partition.log_start_offset();
        assert!(start >= now.start as i64);
        drop((topic, partition));
        store.close().unwrap();
        let store = self.options(&again).open(DIR).unwrap();
        assert!(store.recovery_report().clean);
        assert_eq!(store.topic("t").unwrap().partition(0).unwrap().log_start_offset(), start);
    }

    /// Crashes of the recovery itself.
    fn survives_twice(&self, disk: &SimDisk, mark: Mark, limit: usize, random: &mut Random) -> usize {
        disk.record_states(true);
        let (store, ..) = self.opens(disk, mark);
        let points = disk.crash_points();
        disk.record_states(false);
        drop(store);
        let mut count = 0;
        for point in &points {
            for disk in point.states(limit, random.next()) {
                self.opens(&disk, mark);
                count += 1;
            }
        }
        count
    }
}

fn all_crashes(seed: u64, durability: Durability, limit: usize, twice_one_in: u64) -> (usize, usize) {
    let mut run = Run::new(seed, durability);
    run.go();
    let points: Vec<CrashPoint> = run.disk.crash_points();
    run.disk.record_states(false);
    let (run, seen, twice) = (&run, Mutex::new(HashSet::new()), AtomicUsize::new(0));
    in_parallel(points.len(), |i| {
        let point = &points[i];
        let (mark, mut random) = (run.mark_at(point.op()), Random(seed ^ point.op()));
        for (n, disk) in point.states(limit, seed).enumerate() {
            if !seen.lock().unwrap().insert((disk.content_hash(), mark.acked, mark.start)) {
                continue;
            }
            let which =
                || format!("seed {seed}, {durability}, crash after operation {}, state {n}", point.op());
            telling(which, || {
                if random.one_in(twice_one_in) {
                    let count = run.survives_twice(&disk.crash(0), mark, 6, &mut random);
                    twice.fetch_add(count, Ordering::Relaxed);
                }
                run.survives(&disk, mark, &mut random);
            });
        }
    });
    eprintln!("{} operations", points.len());
    let seen = seen.into_inner().unwrap().len();
    (seen, twice.into_inner())
}

#[test]
fn no_crash_moves_a_start_back_or_takes_a_committed_record_behind_it() {
    let seed = seed();
    let (limit, runs) = if soak() { (1_000, 20) } else { (16, 1) };
    let (mut states, mut twice) = (0, 0);
    for run in 0..runs {
        let (once, again) = all_crashes(seed + run, Durability::Disk, limit, 60);
        (states, twice) = (states + once, twice + again);
    }
    eprintln!("{states} different states of crashes, {twice} of crashes during recovery");
    assert!(states >= 2_000, "only {states}");
    assert!(twice >= 200, "only {twice}");
}

#[test]
fn a_start_is_durable_in_a_page_cache_topic_too() {
    let seed = seed();
    let (limit, runs) = if soak() { (1_000, 20) } else { (12, 1) };
    let mut states = 0;
    for run in 0..runs {
        states += all_crashes(seed + run, Durability::PageCache, limit, 40).0;
    }
    eprintln!("{states} different states");
}

/// Kills the process before each operation in turn: no start moves back, nothing acknowledged is gone.
#[test]
fn a_kill_before_any_operation_leaves_a_log_that_goes_on() {
    let seed = seed();
    for durability in [Durability::Disk, Durability::PageCache] {
        let mut run = Run::new(seed, durability);
        run.go();
        let points = run.disk.crash_points();
        let run = &run;
        in_parallel(points.len(), |i| {
            let (point, mark) = (&points[i], run.mark_at(points[i].op()));
            telling(
                || format!("seed {seed}, {durability}, killed after operation {}", point.op()),
                || {
                    let (store, _, end) = run.opens(&point.killed(seed), mark);
                    assert!(end >= mark.acked, "{end} of {} acknowledged records", mark.acked);
                    drop(store);
                },
            );
        });
    }
}
