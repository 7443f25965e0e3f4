//! Compaction against a plain model, under crashes, and beside readers of other processes.
//!
//! The model is the whole history, by offset. A log that was compacted holds some of it, nothing else, and whoever
//! applies what it holds from the first record to the last comes to the state that the history leads to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Random, in_parallel, manual, seed, soak, telling};
use logstead::{
    Acks, Cleanup, Compression, Durability, ErrorKind, FaultKind, FaultOp, ManualClock, Partition, Record,
    SimDisk, Store, StoreOptions, TopicConfig,
};

const DIR: &str = "/s/data";
const RETENTION_MS: u64 = 10_000;

fn config(durability: Durability) -> TopicConfig {
    TopicConfig::default()
        .durability(durability)
        .cleanup_policy(Cleanup::COMPACT)
        .segment_bytes(700)
        .index_interval_bytes(150)
        .delete_retention_ms(RETENTION_MS)
}

/// One record of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Put {
    key: String,
    value: Option<String>,
}

/// A state: the value of each key that has one.
type Values = BTreeMap<String, String>;

fn apply<'p>(values: &mut Values, puts: impl IntoIterator<Item = &'p Put>) {
    for put in puts {
        match &put.value {
            Some(value) => drop(values.insert(put.key.clone(), value.clone())),
            None => drop(values.remove(&put.key)),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a partition holds from `from` on, with its offsets.
fn read_from(partition: &Partition, from: i64) -> logstead::Result<Vec<(i64, Put)>> {
    let (mut found, mut at) = (Vec::new(), from);
    while at < partition.high_watermark() {
        let records = partition.read(at, 500)?;
        for record in &records {
            let (key, value) = (text(record.key().unwrap()), record.value().map(text));
            found.push((record.offset(), Put { key, value }));
        }
        match records.next_offset() {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(found)
}

/// All that must hold of what a partition has of a history, of which `end` records are there.
fn check(found: &[(i64, Put)], history: &[Put], end: usize) {
    assert!(found.is_sorted_by(|a, b| a.0 < b.0), "offsets do not rise");
    for (offset, put) in found {
        assert_eq!(history.get(*offset as usize), Some(put), "offset {offset} was never written so");
    }
    let (mut is, mut should) = (Values::new(), Values::new());
    apply(&mut is, found.iter().map(|(_, put)| put));
    apply(&mut should, &history[..end]);
    assert_eq!(is, should, "what is there leads to another state");
    let there: HashSet<i64> = found.iter().map(|(offset, _)| *offset).collect();
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (offset, put) in history[..end].iter().enumerate() {
        last.insert(&put.key, offset);
    }
    for offset in last.into_values().filter(|offset| history[*offset].value.is_some()) {
        assert!(there.contains(&(offset as i64)), "the last record of a key, at {offset}, is missing");
    }
}

// ───────── a model

/// Reads from the first record on, a piece now and then.
struct Reader {
    position: i64,
    values: Values,
    since: u64,
}

struct World {
    random: Random,
    clock: ManualClock,
    now: u64,
    disk: SimDisk,
    store: Store,
    durability: Durability,
    history: Vec<Put>,
    /// So many of them no crash takes any more.
    durable: usize,
    reader: Reader,
    /// Since when each tombstone that is the last of its key is there, by offset.
    faulty: bool,
    compactions: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        let mut random = Random(seed);
        let durability = if random.one_in(3) { Durability::PageCache } else { Durability::Disk };
        let store = options(&clock).disk(&disk).open(DIR).unwrap();
        let codec = if random.one_in(3) { Compression::Lz4 } else { Compression::None };
        store.create_topic("c", config(durability).compression(codec)).unwrap();
        let reader = Reader { position: 0, values: Values::new(), since: 0 };
        World {
            random,
            clock,
            now: 0,
            disk,
            store,
            durability,
            history: Vec::new(),
            durable: 0,
            reader,
            faulty: false,
            compactions: 0,
        }
    }

    fn partition(&self) -> logstead::Result<Partition> {
        self.store.topic("c")?.partition(0)
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..50 => self.put(),
            50..62 => self.compact(),
            62..70 => self.look(),
            70..82 => self.read_on(),
            82..88 => {
                let ms = if self.random.one_in(4) { RETENTION_MS } else { self.random.below(2_000) };
                self.clock.advance(Duration::from_millis(ms));
                self.now += ms;
                if let Err(error) = self.store.maintain() {
                    assert!(self.faulty, "{error}");
                }
            }
            88..91 => {
                let op = [FaultOp::Any, FaultOp::Write, FaultOp::SyncDir, FaultOp::Rename];
                let op = op[self.random.below(4) as usize];
                let kind = if self.random.one_in(2) { FaultKind::NoSpace } else { FaultKind::Io };
                self.disk.fail_nth(op, 1 + self.random.below(40), kind, self.random.one_in(4));
                self.faulty = true;
            }
            91..94 => {
                self.disk.clear_faults();
                let closed = self.store.clone().close();
                assert!(closed.is_ok() || self.faulty, "{closed:?}");
                let all = closed.is_ok();
                let disk = self.disk.kill();
                self.begin_life(disk, all);
            }
            94..97 => {
                let disk = self.disk.kill();
                self.begin_life(disk, true);
            }
            _ => {
                let disk = self.disk.crash(self.random.next());
                self.begin_life(disk, false);
            }
        }
    }

    fn put(&mut self) {
        let Ok(partition) = self.partition() else { return assert!(self.faulty) };
        let count = 1 + self.random.below(4);
        let mut puts = Vec::new();
        for i in 0..count {
            let key = format!("k{}", self.random.below(12));
            let value = format!("{}-{i}-{}", self.history.len(), "x".repeat(self.random.below(60) as usize));
            puts.push(Put { key, value: Some(value).filter(|_| !self.random.one_in(4)) });
        }
        let records = puts.iter().map(|put| {
            let record = Record::to("c").key(&put.key);
            match &put.value {
                Some(value) => record.value(value),
                None => record,
            }
        });
        let end = self.history.len() as i64;
        let acks = if self.random.one_in(2) { Acks::All } else { Acks::Leader };
        match partition.append(records, Some(end), acks) {
            Ok(receipt) => {
                assert_eq!(receipt.offsets.start, end);
                self.history.extend(puts);
                if acks == Acks::All && self.durability == Durability::Disk {
                    self.durable = self.history.len();
                }
            }
            Err(error) => {
                assert!(self.faulty, "{error:?}");
                if matches!(error.kind(), ErrorKind::OffsetMismatch { .. }) {
                    panic!("{error}");
                }
                // Whether it was appended is not known if the log failed; then the next life tells.
                if partition.log_end_offset() > end {
                    self.history.extend(puts);
                }
            }
        }
    }

    fn compact(&mut self) {
        match self.store.compact_now("c") {
            Ok(reports) => {
                self.compactions += reports.len();
                // What is closed was synced.
                if !reports.is_empty() && self.partition().is_ok() {
                    self.durable = self.durable.max(reports.last().map_or(0, |report| report.to as usize));
                }
            }
            Err(error) => assert!(self.faulty, "{error:?}"),
        }
        self.look();
    }

    fn look(&mut self) {
        let Ok(partition) = self.partition() else { return assert!(self.faulty) };
        let end = partition.high_watermark();
        match read_from(&partition, 0) {
            Ok(found) => check(&found, &self.history, end as usize),
            Err(error) => assert!(self.faulty, "{error:?}"),
        }
    }

    /// The slow reader reads a piece; at the end it must have come to the state of the whole history.
    fn read_on(&mut self) {
        let Ok(partition) = self.partition() else { return assert!(self.faulty) };
        let too_slow = self.now - self.reader.since >= RETENTION_MS;
        if too_slow || self.reader.position > partition.high_watermark() {
            self.reader = Reader { position: 0, values: Values::new(), since: self.now };
        }
        let records = match partition.read(self.reader.position, 200) {
            Ok(records) => records,
            Err(error) => return assert!(self.faulty, "{error:?}"),
        };
        for record in &records {
            let put = Put { key: text(record.key().unwrap()), value: record.value().map(text) };
            assert_eq!(self.history.get(record.offset() as usize), Some(&put));
            apply(&mut self.reader.values, [&put]);
        }
        if let Some(next) = records.next_offset() {
            self.reader.position = next;
        }
        if self.reader.position == partition.high_watermark() {
            let mut should = Values::new();
            apply(&mut should, &self.history[..self.reader.position as usize]);
            assert_eq!(self.reader.values, should, "a reader that was fast enough missed something");
            self.reader = Reader { position: 0, values: Values::new(), since: self.now };
        }
    }

    /// The process is dead; another one opens the disk. `all`: nothing that was written may be missing.
    fn begin_life(&mut self, disk: SimDisk, all: bool) {
        let was_faulty = std::mem::take(&mut self.faulty);
        let store = options(&self.clock).disk(&disk).open(DIR).unwrap();
        // What a dropped store still does it does to the disk that it had.
        drop(std::mem::replace(&mut self.store, store));
        self.disk = disk;
        let partition = self.partition().unwrap_or_else(|error| panic!("{error}"));
        let end = partition.log_end_offset() as usize;
        let least = if all && !was_faulty { self.history.len() } else { self.durable };
        assert!(end >= least.min(self.history.len()), "{end} of {least}\n{}", self.store.recovery_report());
        assert!(end <= self.history.len(), "{end} of {}", self.history.len());
        self.history.truncate(end);
        self.durable = self.durable.min(end);
        self.reader = Reader { position: 0, values: Values::new(), since: self.now };
        self.look();
    }
}

fn options(clock: &ManualClock) -> StoreOptions {
    manual(clock)
}

#[test]
fn whatever_happens_the_latest_value_of_each_key_is_there_and_every_reader_comes_to_it() {
    run_schedules(500);
}

#[test]
#[ignore = "takes minutes; .ci/soak calls it, and many more"]
fn they_do_so_in_five_thousand_schedules() {
    run_schedules(if soak() { 100_000 } else { 5_000 });
}

fn run_schedules(schedules: usize) {
    let seed = seed();
    let compactions = AtomicUsize::new(0);
    in_parallel(schedules, |i| {
        let seed = seed + i as u64;
        telling(
            || format!("replay this schedule alone with LOGSTEAD_SEED={seed}"),
            || {
                let mut world = World::new(seed);
                for _ in 0..40 {
                    world.step();
                }
                compactions.fetch_add(world.compactions, Ordering::Relaxed);
            },
        );
    });
    let compactions = compactions.into_inner();
    eprintln!("{schedules} schedules, {compactions} compactions");
    assert!(compactions > 2 * schedules, "only {compactions}");
}

// ───────── every crash

/// A workload: some segments, a compaction, more, another one that merges, and the operations at which they began and
/// ended.
struct Run {
    disk: SimDisk,
    clock: ManualClock,
    history: Vec<Put>,
}

fn fill(run: &mut Run, store: &Store, count: usize, random: &mut Random) {
    let partition = store.topic("c").unwrap().partition(0).unwrap();
    for _ in 0..count {
        let key = format!("k{}", random.below(9));
        let value = Some(format!("{}-{}", run.history.len(), "y".repeat(random.below(90) as usize)));
        let put = Put { key, value: value.filter(|_| !random.one_in(5)) };
        let record = Record::to("c").key(&put.key);
        let record = match &put.value {
            Some(value) => record.value(value),
            None => record,
        };
        partition.append([record], None, Acks::All).unwrap();
        run.history.push(put);
    }
}

impl Run {
    fn opens(&self, disk: &SimDisk) -> Store {
        let store = manual(&self.clock).disk(disk).open(DIR).unwrap_or_else(|error| panic!("{error}"));
        self.holds(&store);
        store
    }

    fn holds(&self, store: &Store) {
        let partition = store
            .topic("c")
            .unwrap()
            .partition(0)
            .unwrap_or_else(|e| panic!("{e}\n{}", store.recovery_report()));
        assert_eq!(partition.high_watermark(), self.history.len() as i64);
        let found = read_from(&partition, 0).unwrap_or_else(|e| panic!("{e}\n{}", store.recovery_report()));
        check(&found, &self.history, self.history.len());
    }

    /// A reader beside goes by the word of what is committed, which a crash may have taken: it may show less.
    fn shows(&self, store: &Store) {
        let partition = store.topic("c").unwrap().partition(0).unwrap_or_else(|e| panic!("{e}"));
        let end = partition.high_watermark() as usize;
        check(&read_from(&partition, 0).unwrap_or_else(|e| panic!("{e}")), &self.history, end);
    }

    /// All that must hold of a disk that a crash left.
    fn survives(&self, disk: &SimDisk, random: &mut Random) {
        let before = disk.content_hash();
        let shown = manual(&self.clock).disk(disk).open_read_only(DIR).unwrap();
        self.shows(&shown);
        shown.close().unwrap();
        assert_eq!(disk.content_hash(), before, "a reader changed something");
        let report = Store::options().disk(disk).verify(DIR).unwrap();
        assert!(report.is_sound(), "{report}");

        let store = self.opens(disk);
        let left: Vec<_> = disk
            .files()
            .into_iter()
            .filter(|file| {
                let name = file.to_str().unwrap();
                [".cleaned", ".swap", ".deleted", ".tmp"].iter().any(|end| name.ends_with(end))
            })
            .collect();
        assert!(
            left.is_empty() || left.iter().all(|file| file.to_str().unwrap().ends_with(".tmp")),
            "{left:?}"
        );
        if random.one_in(8) {
            // What was seen after a recovery is there after a crash that follows at once.
            drop(self.opens(&disk.crash(random.next())));
        }
        let again = disk.kill();
        drop(store);
        let before = again.content_hash();
        let store = self.opens(&again);
        assert_eq!(again.content_hash(), before, "a second recovery changed something");
        if random.one_in(6) {
            store.compact_now("c").unwrap();
            self.holds(&store);
            store.close().unwrap();
            let store = self.opens(&again);
            assert!(store.recovery_report().clean);
        }
    }
}

/// A tombstone is written anew with the time at which it may go, a few bytes longer. Where a power cut took the newest
/// word of what is committed, the one before still named the end of the bytes that were exchanged: in the middle of
/// those that took their place.
#[test]
fn verify_goes_by_no_position_in_bytes_that_a_compaction_exchanged() {
    let (disk, clock) = (SimDisk::new(1), ManualClock::new(1_700_000_000_000));
    let store = manual(&clock).disk(&disk).open(DIR).unwrap();
    let topic = store.create_topic("c", config(Durability::Disk)).unwrap();
    let length = || disk.read_file(format!("{DIR}/c-0/{:020}.log", 0)).unwrap().len();
    topic.partition(0).unwrap().append([Record::to("c").key("k")], None, Acks::All).unwrap();
    let before = length();
    disk.record_states(true);
    assert!(!store.compact_now("c").unwrap().is_empty());
    assert!(length() > before, "{} bytes of {before}", length());

    for disk in disk.crash_points().iter().flat_map(|point| point.states(32, 1)) {
        let report = Store::options().disk(&disk).verify(DIR).unwrap();
        assert!(report.is_sound(), "{report}");
    }
}

#[test]
#[ignore = "takes minutes; .ci/soak calls it, with more states"]
fn no_crash_of_a_compaction_leaves_anything_but_the_old_or_the_new() {
    let seed = seed();
    let (limit, runs) = if soak() { (1_000, 30) } else { (12, 1) };
    let (mut states, mut operations) = (0, 0);
    for n in 0..runs {
        let (s, o) = all_crashes(seed + n, limit);
        (states, operations) = (states + s, operations + o);
    }
    eprintln!("{states} different states of crashes at {operations} operations of compactions");
    assert!(states > 1_000 && operations > 100, "{states} states, {operations} operations");
}

fn all_crashes(seed: u64, limit: usize) -> (usize, usize) {
    let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
    let mut run = Run { disk, clock, history: Vec::new() };
    let mut random = Random(seed);
    let store = manual(&run.clock).disk(&run.disk).open(DIR).unwrap();
    store.create_topic("c", config(Durability::Disk)).unwrap();
    let mut all = Vec::new();
    for round in 0..3 {
        fill(&mut run, &store, 40, &mut random);
        run.disk.record_states(true);
        let reports = store.compact_now("c").unwrap();
        assert!(!reports.is_empty());
        all.extend(run.disk.crash_points());
        run.disk.record_states(false);
        run.clock.advance(Duration::from_millis(RETENTION_MS / 2 + 1));
        let history = run.history.clone();
        let points = std::mem::take(&mut all);
        let seen = Mutex::new(HashSet::new());
        let now = Run { disk: run.disk.clone(), clock: run.clock.clone(), history };
        in_parallel(points.len(), |i| {
            let point = &points[i];
            let mut random = Random(seed ^ point.op());
            for (n, disk) in point.states(limit, seed).enumerate() {
                if !seen.lock().unwrap().insert(disk.content_hash()) {
                    continue;
                }
                let which = || format!("seed {seed}, round {round}, operation {}, state {n}", point.op());
                telling(which, || {
                    if random.one_in(40) {
                        // A crash of the recovery itself.
                        let disk = disk.crash(0);
                        disk.record_states(true);
                        let store = now.opens(&disk);
                        let points = disk.crash_points();
                        disk.record_states(false);
                        drop(store);
                        for point in &points {
                            for disk in point.states(6, random.next()) {
                                drop(now.opens(&disk));
                            }
                        }
                    }
                    now.survives(&disk, &mut random);
                });
            }
        });
        STATES.fetch_add(seen.into_inner().unwrap().len(), Ordering::Relaxed);
        OPERATIONS.fetch_add(points.len(), Ordering::Relaxed);
    }
    store.close().unwrap();
    (STATES.swap(0, Ordering::Relaxed), OPERATIONS.swap(0, Ordering::Relaxed))
}

static STATES: AtomicUsize = AtomicUsize::new(0);
static OPERATIONS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn every_operation_of_a_compaction_may_fail_and_nothing_is_lost() {
    for (kind, sticky) in [(FaultKind::Io, false), (FaultKind::Io, true), (FaultKind::NoSpace, true)] {
        for nth in 1.. {
            let (disk, clock) = (SimDisk::new(nth), ManualClock::new(1_700_000_000_000));
            let mut run = Run { disk, clock, history: Vec::new() };
            let store = manual(&run.clock).disk(&run.disk).open(DIR).unwrap();
            store.create_topic("c", config(Durability::Disk)).unwrap();
            fill(&mut run, &store, 30, &mut Random(5));
            run.disk.fail_nth(FaultOp::Any, nth, kind, sticky);
            let done = store.compact_now("c");
            run.disk.clear_faults();
            telling(
                || format!("operation {nth}, {kind:?}, sticky: {sticky}, {done:?}"),
                || {
                    // Whoever has it open reads what there was, or what there is now.
                    run.holds(&store);
                    if kind == FaultKind::NoSpace
                        && let Err(error) = &done
                        && matches!(error.kind(), ErrorKind::Full { .. })
                    {
                        // Nothing else than space is missing: it goes on when there is some.
                        store.compact_now("c").unwrap();
                        run.holds(&store);
                    }
                    for disk in [run.disk.kill(), run.disk.crash(nth)] {
                        drop(run.opens(&disk));
                    }
                },
            );
            drop(store);
            if done.is_ok() {
                break;
            }
        }
    }
}

// ───────── beside readers

#[test]
fn a_reader_of_another_process_follows_through_compactions() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data");
    let store = Store::open(&dir).unwrap();
    let topic = store.create_topic("c", config(Durability::Disk).segment_bytes(4_000)).unwrap();
    let partition = topic.partition(0).unwrap();
    let history = Mutex::new(Vec::<Put>::new());
    let done = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let reader = Store::open_read_only(&dir).unwrap();
                let partition = reader.topic("c").unwrap().partition(0).unwrap();
                let mut last = false;
                while !last {
                    last = done.load(Ordering::SeqCst);
                    let (mut at, mut values) = (0, Values::new());
                    loop {
                        let records =
                            partition.read(at, 300).unwrap_or_else(|error| panic!("at {at}: {error}"));
                        for record in &records {
                            let put =
                                Put { key: text(record.key().unwrap()), value: record.value().map(text) };
                            assert_eq!(history.lock().unwrap().get(record.offset() as usize), Some(&put));
                            apply(&mut values, [&put]);
                        }
                        match records.next_offset() {
                            Some(next) => at = next,
                            None => break,
                        }
                    }
                    let mut should = Values::new();
                    apply(&mut should, &history.lock().unwrap()[..at as usize]);
                    assert_eq!(values, should, "up to {at}");
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut random = Random(3);
        let mut compactions = 0;
        while compactions < 60 || rounds.load(Ordering::Relaxed) < 50 {
            for _ in 0..20 {
                let key = format!("k{}", random.below(40));
                let value = Some("z".repeat(random.below(100) as usize)).filter(|_| !random.one_in(9));
                let put = Put { key: key.clone(), value: value.clone() };
                // First the word of it, then the record: a reader may be faster than the writer's next line.
                history.lock().unwrap().push(put);
                let record = Record::to(&topic).key(&key);
                let record = match &value {
                    Some(value) => record.value(value),
                    None => record,
                };
                partition.append([record], None, Acks::All).unwrap();
            }
            compactions += store.compact_now("c").unwrap().len();
        }
        done.store(true, Ordering::SeqCst);
    });
    eprintln!("{} rounds of readers", rounds.into_inner());
    store.close().unwrap();
}

#[test]
fn a_checkpoint_of_a_compacted_topic_is_a_store_and_so_is_one_that_is_repeated() {
    let seed = seed();
    let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
    let mut run = Run { disk, clock, history: Vec::new() };
    let mut random = Random(seed);
    let store = manual(&run.clock).disk(&run.disk).open(DIR).unwrap();
    store.create_topic("c", config(Durability::Disk)).unwrap();
    let copy = "/copy/data";
    let mut states = 0;
    for round in 0..4 {
        fill(&mut run, &store, 30, &mut random);
        if round != 1 {
            store.compact_now("c").unwrap();
        }
        fill(&mut run, &store, 3, &mut random);
        run.disk.record_states(true);
        store.checkpoint(copy).unwrap();
        let points = run.disk.crash_points();
        run.disk.record_states(false);
        let opened = manual(&run.clock).disk(&run.disk).open_read_only(copy).unwrap();
        run.holds(&opened);
        let report = Store::options().disk(&run.disk).verify(copy).unwrap();
        assert!(report.is_sound(), "round {round}: {report}");
        // At every moment the copy is the one before, or this one, or says that it is to be made again.
        for point in points.iter().filter(|_| round > 0) {
            for disk in point.states(4, seed) {
                let which = || format!("seed {seed}, round {round}, operation {}", point.op());
                telling(which, || {
                    let store = match manual(&run.clock).disk(&disk).open(copy) {
                        // Between the exchange of compacted segments and the end it says that it is not finished.
                        Err(error) if matches!(error.kind(), ErrorKind::NotAStore { .. }) => return,
                        store => store.unwrap(),
                    };
                    let partition = store.topic("c").unwrap().partition(0).unwrap();
                    let end = partition.high_watermark() as usize;
                    let found = read_from(&partition, 0)
                        .unwrap_or_else(|e| panic!("{e}\n{}", store.recovery_report()));
                    check(&found, &run.history, end);
                });
                states += 1;
            }
        }
    }
    eprintln!("{states} states of crashes of checkpoints");
    store.close().unwrap();
}

#[test]
fn a_compacted_topic_takes_records_with_a_key_only() {
    let store = Store::in_memory().unwrap();
    let topic = store.create_topic("c", TopicConfig::default().cleanup_policy(Cleanup::COMPACT)).unwrap();
    let is_refused = |error: &logstead::Error| matches!(error.kind(), ErrorKind::InvalidRecord { .. });
    let producer = store.producer().unwrap();
    let partition = topic.partition(0).unwrap();
    let refuse = || {
        let keyless = Record::to(&topic).value("v");
        assert!(producer.send(keyless).is_err_and(|error| is_refused(&error)));
        let mixed = [Record::to(&topic).key("k").value("v"), keyless];
        assert!(partition.append(mixed, None, Acks::All).is_err_and(|error| is_refused(&error)));
    };
    refuse();
    assert_eq!(partition.log_end_offset(), 0);
    producer.send(Record::to(&topic).key("").value("v")).unwrap().wait().unwrap();
    // It goes by the settings of the moment.
    store.alter_topic("c", topic.config().cleanup_policy(Cleanup::DELETE)).unwrap();
    producer.send(Record::to(&topic).value("v")).unwrap().wait().unwrap();
    assert!(store.compact_now("c").is_err_and(|e| matches!(e.kind(), ErrorKind::InvalidConfig { .. })));
    store.alter_topic("c", topic.config().cleanup_policy(Cleanup::COMPACT)).unwrap();
    refuse();
    assert_eq!(store.compact_now("c").unwrap()[0].records_after, 1);
}
