//! Every crash of a workload: each operation on the simulated disk is a place where the power can go, and each time
//! many disks can be left (lost, torn, reordered writes, lost names). All of them must open, hold what was
//! acknowledged, and invent nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{
    Random, append_one, check, check_polled, different_states, in_parallel, manual, producer_config, seed,
    soak, telling, topic_config, value,
};
use logstead::{Acks, CrashPoint, Durability, ErrorKind, ManualClock, Record, SimDisk, Store};

const COMMITS: u64 = 12;
const RECORDS_A_COMMIT: u64 = 9;
const DIR: &str = "/s/data";

/// A workload as far as it came.
struct Run {
    seed: u64,
    durability: Durability,
    disk: SimDisk,
    clock: ManualClock,
    sent: Vec<Vec<u8>>,
    /// After so many operations so many records were acknowledged; `None` at first: not even the topic.
    acked: Vec<(u64, Option<usize>)>,
}

impl Run {
    fn new(seed: u64, durability: Durability) -> Run {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        Run { seed, durability, disk, clock, sent: Vec::new(), acked: vec![(0, None)] }
    }

    fn options(&self, disk: &SimDisk) -> logstead::StoreOptions {
        manual(&self.clock).disk(disk)
    }

    fn note(&mut self, acked: usize) {
        self.acked.push((self.disk.op_count(), Some(acked)));
    }

    /// Create, twelve group commits of several batches each, two rolls, close. Ends at the first error.
    fn go(&mut self) -> logstead::Result<()> {
        let store = self.options(&self.disk).open(DIR)?;
        let result = self.fill(&store);
        if result.is_err() {
            // What a dropped store still does is not part of a process that died.
            std::mem::forget(store);
            return result;
        }
        store.close()
    }

    fn fill(&mut self, store: &Store) -> logstead::Result<()> {
        let topic = match store.create_topic("t", topic_config(self.durability)) {
            Err(error) if matches!(error.kind(), ErrorKind::TopicExists { .. }) => store.topic("t")?,
            other => other?,
        };
        self.note(0);
        // Without linger each full batch is a write of its own: more to lose, to tear and to reorder.
        let producer = store.producer_with(producer_config(Acks::All).linger_ms(0))?;
        let mut random = Random(self.seed);
        let result = (|| {
            for _ in 0..COMMITS {
                let mut last = None;
                for _ in 0..RECORDS_A_COMMIT {
                    let value = value(self.seed, self.sent.len() as u64, 250 + random.below(400) as usize);
                    self.sent.push(value.clone());
                    last = Some(producer.send(Record::to(&topic).key("k").value(&value))?);
                }
                self.clock.advance(std::time::Duration::from_millis(300));
                store.maintain()?;
                if let Some(last) = last {
                    assert_eq!(last.wait()?.offset, self.sent.len() as i64 - 1);
                    self.note(self.sent.len());
                }
            }
            Ok(())
        })();
        if result.is_err() {
            std::mem::forget(producer);
        }
        result
    }

    /// What was acknowledged when `op` operations were done.
    fn acked_at(&self, op: u64) -> Option<usize> {
        self.acked.iter().rev().find(|(ops, _)| *ops <= op).and_then(|(_, acked)| *acked)
    }

    /// How much of it a power cut must leave.
    fn kept_at(&self, op: u64) -> Option<usize> {
        self.acked_at(op).map(|acked| if self.durability == Durability::Disk { acked } else { 0 })
    }

    /// The disk opens, holds at least `kept` records, and nothing that was not sent. Returns how many it holds.
    fn opens(&self, disk: &SimDisk, kept: Option<usize>) -> (Store, usize) {
        let store = self.options(disk).open(DIR).unwrap_or_else(|error| panic!("does not open: {error}"));
        let end = match store.topic("t") {
            Ok(topic) => {
                let partition = topic.partition(0).unwrap_or_else(|error| panic!("{error}"));
                check(&partition, &self.sent).unwrap_or_else(|e| panic!("{e}\n{}", store.recovery_report()))
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::UnknownTopic { .. }), "{error}");
                assert_eq!(kept, None, "the topic is gone");
                store.create_topic("t", topic_config(self.durability)).unwrap();
                0
            }
        };
        assert!(end >= kept.unwrap_or(0), "{end} of {kept:?}\n{}", store.recovery_report());
        (store, end)
    }

    /// How many records a reader is shown before a writer recovered the disk; it changes nothing.
    fn shown(&self, disk: &SimDisk) -> usize {
        let before = disk.content_hash();
        let Ok(store) = self.options(disk).open_read_only(DIR) else { return 0 };
        let shown = store.topic("t").map_or(0, |topic| {
            let partition = topic.partition(0).unwrap_or_else(|error| panic!("{error}"));
            check(&partition, &self.sent).unwrap()
        });
        store.close().unwrap();
        assert_eq!(disk.content_hash(), before, "a reader changed something");
        shown
    }

    /// All that must hold of a disk that a crash left.
    fn survives(&self, disk: &SimDisk, kept: Option<usize>, random: &mut Random) {
        let files = disk.files();
        proven_segments_have_whole_indexes(disk);
        let shown = if random.one_in(5) { self.shown(disk) } else { 0 };
        let (store, end) = self.opens(disk, kept);
        assert!(shown <= end, "a reader saw {shown} records, the writer found {end}");
        // Where there was no partition it was made just now, which is no recovery.
        let made = !files.iter().any(|file| file.starts_with("/s/data/t-0"));
        if random.one_in(8) {
            // What was seen after a recovery is there after a crash that follows at once.
            self.opens(&disk.crash(random.next()), Some(end));
        }
        let again = disk.kill();
        drop(store);
        let before = again.content_hash();
        let (store, end_again) = self.opens(&again, Some(end));
        assert_eq!(end_again, end);
        if !made {
            assert_eq!(again.content_hash(), before, "a second recovery changed something");
        }
        // Every state must take an append; whole lives that follow are led by some.
        let next = value(self.seed, end as u64, 300);
        append_one(&store, "t", end, &next);
        if !random.one_in(3) {
            return;
        }
        let after_append = again.crash(random.next());
        store.close().unwrap();
        // A broker that takes the directory over misses none of them.
        let files: Vec<String> = again.files().iter().map(|file| file.display().to_string()).collect();
        for log in files.iter().filter(|file| file.ends_with(".log")) {
            for index in [".index", ".timeindex"].map(|suffix| log.replace(".log", suffix)) {
                assert!(files.contains(&index), "{index} is missing: {files:?}");
            }
        }
        let mut sent = self.sent[..end].to_vec();
        sent.push(next);
        let must = if self.durability == Durability::Disk { end + 1 } else { end };
        for (disk, clean) in [(&again, true), (&after_append, false)] {
            let store = self.options(disk).open(DIR).unwrap();
            assert_eq!(store.recovery_report().clean, clean);
            let found = check_polled(&store, "t", &sent).unwrap();
            assert!(found >= if clean { end + 1 } else { must }, "{found} of {must}");
        }
    }

    /// Crashes of the recovery itself: the same must hold, and no less than a recovery that is left in peace.
    fn survives_twice(
        &self,
        disk: &SimDisk,
        kept: Option<usize>,
        limit: usize,
        random: &mut Random,
    ) -> usize {
        disk.record_states(true);
        let (store, _) = self.opens(disk, kept);
        let points = disk.crash_points();
        disk.record_states(false);
        drop(store);
        let mut count = 0;
        for point in &points {
            for disk in point.states(limit, random.next()) {
                self.opens(&disk, kept);
                count += 1;
            }
        }
        count
    }
}

/// Kafka's start after a crash rebuilds indexes from the segment on that the recovery point lies in. Those below must
/// be complete: a sync that ended where the next roll came left an empty time index there, and Kafka then found no
/// timestamp in that segment. (A missing offset index is rebuilt wherever it lies.)
fn proven_segments_have_whole_indexes(disk: &SimDisk) {
    let Ok(points) = disk.read_file(format!("{DIR}/recovery-point-offset-checkpoint")) else { return };
    let text = String::from_utf8(points).unwrap();
    let proven = text.lines().skip(2).find_map(|line| line.strip_prefix("t 0 "));
    let proven: i64 = proven.map_or(0, |offset| offset.parse().unwrap());
    let bases = disk.files().into_iter().filter(|file| file.starts_with("/s/data/t-0"));
    let mut bases: Vec<i64> = bases
        .filter(|file| file.extension().is_some_and(|e| e == "log"))
        .map(|file| file.file_stem().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    bases.sort_unstable();
    for pair in bases.windows(2).filter(|pair| pair[1] <= proven) {
        let file = |suffix: &str| disk.read_file(format!("{DIR}/t-0/{:020}.{suffix}", pair[0]));
        let log = file("log").unwrap();
        let (mut at, mut youngest) = (0, -1);
        while at + 61 <= log.len() {
            youngest = youngest.max(i64::from_be_bytes(log[at + 35..at + 43].try_into().unwrap()));
            at += 12 + u32::from_be_bytes(log[at + 8..at + 12].try_into().unwrap()) as usize;
        }
        if file("index").is_ok() {
            let times = file("timeindex").unwrap();
            let last = times.chunks_exact(12).last().map(|entry| entry[..8].try_into().unwrap());
            assert_eq!(last.map(i64::from_be_bytes), Some(youngest), "of segment {} below {proven}", pair[0]);
        }
    }
}

/// Runs the workload and looks at every state of every crash point; returns how many different ones.
fn all_crashes(seed: u64, durability: Durability, limit: usize, twice_one_in: u64) -> (usize, usize) {
    let mut run = Run::new(seed, durability);
    run.disk.record_states(true);
    run.go().unwrap();
    let points: Vec<CrashPoint> = run.disk.crash_points();
    run.disk.record_states(false);
    let logs = run.disk.files().iter().filter(|f| f.extension().is_some_and(|e| e == "log")).count();
    assert_eq!(logs, 3, "two rolls");
    let different = different_states(&points, limit, seed, |point| run.kept_at(point.op()));
    let twice = AtomicUsize::new(0);
    in_parallel(points.len(), |i| {
        let point = &points[i];
        let (acked, mut random) = (run.kept_at(point.op()), Random(seed ^ point.op()));
        for (n, disk) in point.states(limit, seed).enumerate().filter(|(n, _)| different[i].contains(n)) {
            let which =
                || format!("seed {seed}, {durability}, crash after operation {}, state {n}", point.op());
            telling(which, || {
                if random.one_in(twice_one_in) {
                    let count = run.survives_twice(&disk.crash(0), acked, 6, &mut random);
                    twice.fetch_add(count, Ordering::Relaxed);
                }
                run.survives(&disk, acked, &mut random);
            });
        }
    });
    (different.iter().map(HashSet::len).sum(), twice.into_inner())
}

#[test]
fn no_crash_takes_a_committed_record_or_invents_one() {
    let seed = seed();
    let (limit, runs) = if soak() { (1_000, 20) } else { (200, 1) };
    let (mut states, mut twice) = (0, 0);
    for run in 0..runs {
        let (once, again) = all_crashes(seed + run, Durability::Disk, limit, 100);
        (states, twice) = (states + once, twice + again);
    }
    eprintln!("{states} different states of crashes, {twice} of crashes during recovery");
    assert!(states >= 5_000, "only {states}");
    assert!(twice >= 500, "only {twice}");
}

#[test]
fn a_power_cut_leaves_a_prefix_of_a_page_cache_topic() {
    let seed = seed();
    let (limit, runs) = if soak() { (1_000, 20) } else { (8, 1) };
    let mut states = 0;
    for run in 0..runs {
        states += all_crashes(seed + run, Durability::PageCache, limit, 40).0;
    }
    eprintln!("{states} different states");
}

/// Kills the process before each operation of the workload in turn: what was acknowledged is there; then it goes on,
/// and a power cut that follows takes nothing of what was acknowledged since.
fn kill_everywhere(durability: Durability) {
    let seed = seed();
    let mut run = Run::new(seed, durability);
    run.disk.record_states(true);
    run.go().unwrap();
    let points = run.disk.crash_points();
    let run = &run;
    in_parallel(points.len(), |i| {
        let point = &points[i];
        telling(
            || format!("seed {seed}, killed after operation {}", point.op()),
            || {
                let disk = point.killed(seed);
                proven_segments_have_whole_indexes(&disk);
                let acked = run.acked_at(point.op());
                let shown = run.shown(&disk);
                assert!(shown >= acked.unwrap_or(0), "a reader saw {shown} of {acked:?}");
                let (store, end) = run.opens(&disk, acked);
                assert!(shown <= end, "a reader saw {shown} records, the writer found {end}");
                // The next life: what it acknowledges rests on files whose names nobody has synced so far.
                let next = value(seed, end as u64, 50);
                append_one(&store, "t", end, &next);
                let mut sent = run.sent[..end].to_vec();
                sent.push(next);
                let kept = if durability == Durability::Disk { end + 1 } else { end };
                for i in 0..4 {
                    let store = run.options(&disk.crash(i)).open(DIR).unwrap();
                    let partition = store.topic("t").unwrap().partition(0).unwrap();
                    let found = check(&partition, &sent).unwrap();
                    assert!(found >= kept, "{found} of {kept}\n{}", store.recovery_report());
                }
            },
        );
    });
    eprintln!("{} kills", points.len());
}

#[test]
fn a_kill_before_any_operation_takes_nothing_acknowledged_on_disk() {
    kill_everywhere(Durability::Disk);
}

#[test]
fn a_kill_before_any_operation_takes_nothing_acknowledged_in_the_page_cache() {
    kill_everywhere(Durability::PageCache);
}

#[test]
fn a_roll_behind_a_remembered_sync_leaves_whole_indexes() {
    let run = Run::new(seed(), Durability::Disk);
    let store = run.options(&run.disk).open(DIR).unwrap();
    let topic = store.create_topic("t", topic_config(Durability::Disk).segment_bytes(500)).unwrap();
    append_one(&store, "t", 0, &value(run.seed, 0, 300));
    run.clock.advance(std::time::Duration::from_secs(300));
    store.maintain().unwrap();
    // This one rolls, and no sync follows.
    let partition = topic.partition(0).unwrap();
    partition.append([Record::to(&topic).value(&value(run.seed, 1, 300))], None, Acks::Leader).unwrap();
    let disk = run.disk.kill();
    let points = disk.read_file(format!("{DIR}/recovery-point-offset-checkpoint")).unwrap();
    assert_eq!(points, b"0\n1\nt 0 1\n");
    assert!(disk.files().iter().any(|file| file.ends_with("00000000000000000001.log")));
    proven_segments_have_whole_indexes(&disk);
}
