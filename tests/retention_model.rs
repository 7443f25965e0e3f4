//! Random schedules of appends, retention, delete-records, settings, clocks that jump, faults, kills, power cuts and
//! reopening, against a plain model: it knows each record's time, where it must be, and by Kafka's rule, written down
//! here once more, what of it goes.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Random, in_parallel, manual, prove, seed, soak, telling, value};
use logstead::{
    Acks, Clock, Durability, ErrorKind, FaultKind, FaultOp, ManualClock, Partition, Record, SimDisk, Store,
    TopicConfig,
};

const DIR: &str = "/data";
const NOW: u64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;
const TOPICS: [(&str, Durability); 2] = [("d", Durability::Disk), ("p", Durability::PageCache)];
/// Bytes of a value, and of a batch with one record of it.
const VALUE: usize = 76;
const BATCH: u64 = 61 + 2 + 6 + 100 + 1;

/// One topic, as the model knows it.
struct Model {
    /// Number and time of each record, by offset.
    records: Vec<(u64, i64)>,
    /// So many of them must be there.
    durable: usize,
    /// Where the log starts; after an error it may be there already, or not yet.
    start: usize,
    wanted: usize,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
}

struct Expected {
    start: usize,
    bases: Vec<usize>,
    is_sure: bool,
}

impl Expected {
    /// Where the log may start.
    fn most(&self, end: usize) -> usize {
        if self.is_sure { self.start } else { end }
    }
}

struct World {
    seed: u64,
    random: Random,
    clock: ManualClock,
    /// When both clocks agreed last: the wall clock then, and the steady one.
    agreed: (i64, i64),
    disk: SimDisk,
    store: Store,
    models: [Model; 2],
    next: u64,
    faulty: bool,
    passes: usize,
    gone: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(NOW));
        let store = manual(&clock).disk(&disk).open(DIR).unwrap();
        let model = || Model {
            records: Vec::new(),
            durable: 0,
            start: 0,
            wanted: 0,
            retention_ms: None,
            retention_bytes: None,
        };
        let world = World {
            seed,
            random: Random(seed),
            agreed: (NOW as i64, NOW as i64),
            clock,
            disk,
            store,
            models: [model(), model()],
            next: 0,
            faulty: false,
            passes: 0,
            gone: 0,
        };
        for (t, (name, _)) in TOPICS.into_iter().enumerate() {
            world.store.create_topic(name, world.config(t)).unwrap();
        }
        world
    }

    fn config(&self, t: usize) -> TopicConfig {
        let model = &self.models[t];
        TopicConfig::default()
            .durability(TOPICS[t].1)
            .segment_bytes(4 * BATCH)
            .index_interval_bytes(200)
            .retention_ms(model.retention_ms)
            .retention_bytes(model.retention_bytes)
    }

    fn partition(&self, t: usize) -> Partition {
        self.store.topic(TOPICS[t].0).unwrap().partition(0).unwrap()
    }

    fn committed(&self, t: usize) -> usize {
        self.partition(t).high_watermark() as usize
    }

    fn failed(&self, error: &logstead::Error) {
        assert!(self.faulty, "without a fault: {error:?}");
    }

    fn step(&mut self) {
        let t = self.random.below(2) as usize;
        match self.random.below(100) {
            0..45 => self.append(t),
            45..62 => self.retain(),
            62..72 => self.delete(t),
            72..77 => self.alter(t),
            77..84 => self.pass_time(),
            84..87 => self.jump(),
            87..90 => self.fault(),
            90..93 => {
                let closed = self.store.clone().close();
                if let Err(error) = &closed {
                    self.failed(error);
                }
                let disk = if closed.is_ok() { self.disk.clone() } else { self.disk.kill() };
                disk.clear_faults();
                self.live_on(disk, false);
            }
            93..96 => {
                let disk = self.disk.kill();
                self.live_on(disk, false);
            }
            96..99 => {
                let disk = self.disk.crash(self.random.next());
                self.live_on(disk, true);
            }
            _ => self.copy(),
        }
        for t in 0..2 {
            self.look(t);
        }
    }

    fn append(&mut self, t: usize) {
        let partition = self.partition(t);
        for _ in 0..1 + self.random.below(6) {
            let (number, now) = (self.next, self.clock.now_ms());
            self.next += 1;
            // Mostly now; some old, some a little ahead.
            let time = match self.random.below(10) {
                0 => now - self.random.below(20 * HOUR as u64) as i64,
                1 => now + self.random.below(HOUR as u64 / 2) as i64,
                _ => now,
            }
            .max(0);
            let value = value(self.seed, number, VALUE);
            let acks = if self.random.one_in(3) { Acks::Leader } else { Acks::All };
            let end = self.models[t].records.len();
            let record = Record::to(TOPICS[t].0).value(&value).timestamp_ms(time);
            match partition.append([record], Some(end as i64), acks) {
                Ok(receipt) => {
                    assert_eq!(receipt.offsets.start, end as i64);
                    self.models[t].records.push((number, time));
                    if acks == Acks::All && TOPICS[t].1 == Durability::Disk {
                        self.models[t].durable = end + 1;
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    // Whether it is there is not known: it is looked up when the fault is over.
                    if partition.log_end_offset() as usize > end {
                        self.models[t].records.push((number, time));
                    }
                }
            }
        }
    }

    /// What time makes records old: the wall clock, unless it is far ahead of the steady one.
    fn trusted(&mut self) -> i64 {
        let (wall, steady) = (self.clock.now_ms(), self.clock.monotonic().as_millis() as i64);
        let expected = self.agreed.0 + steady - self.agreed.1;
        if wall > expected + 300_000 {
            return expected;
        }
        if wall >= expected - 300_000 {
            self.agreed = (wall, steady);
        }
        wall
    }

    fn bases(&self, t: usize) -> Vec<usize> {
        let dir = format!("{DIR}/{}-0", TOPICS[t].0);
        let files = self.disk.files();
        let files = files.iter().filter(|file| file.parent() == Some(Path::new(&dir)));
        files.filter_map(|file| file.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()).collect()
    }

    /// Kafka's rule: where the log starts after it, and which segments are left. Where times are of the future, which
    /// tell no age here, it says at least so much.
    fn expected(&self, t: usize, now: i64, committed: usize) -> Expected {
        let (model, mut bases) = (&self.models[t], self.bases(t));
        let end = model.records.len();
        let mut start = model.start;
        let mut is_sure = true;
        loop {
            let base = bases[0];
            let next = bases.get(1).copied().unwrap_or(end);
            let total = (end - base) as u64 * BATCH;
            let bytes = (next - base) as u64 * BATCH;
            if bytes == 0 || committed < next {
                break;
            }
            let below = bases.len() > 1 && next <= start;
            let large = model.retention_bytes.is_some_and(|limit| total >= limit && total - limit >= bytes);
            let youngest = model.records[base..next].iter().map(|record| record.1).max().unwrap();
            let old = model.retention_ms.is_some_and(|ms| now - youngest > ms as i64);
            if !(below || large || old) {
                is_sure = model.retention_ms.is_none() || youngest <= now + HOUR;
                break;
            }
            bases.remove(0);
            start = start.max(next);
            if bases.is_empty() {
                bases.push(end);
            }
        }
        Expected { start, bases, is_sure }
    }

    /// What was decided may be reached, also when the answer is an error.
    fn want(&mut self, expected: &[Expected; 2]) {
        for (t, expected) in expected.iter().enumerate() {
            let most = expected.most(self.models[t].records.len());
            self.models[t].wanted = self.models[t].wanted.max(most);
        }
    }

    fn retain(&mut self) {
        let now = self.trusted();
        let expected = [0, 1].map(|t| self.expected(t, now, self.committed(t)));
        let before = [0, 1].map(|t| self.models[t].start);
        self.want(&expected);
        match self.store.run_retention_now() {
            Ok(run) if !self.faulty => {
                for (t, expected) in expected.iter().enumerate() {
                    let start = self.partition(t).log_start_offset() as usize;
                    assert!(start >= expected.start, "{}: {start} of {}", TOPICS[t].0, expected.start);
                    if expected.is_sure {
                        assert_eq!(start, expected.start, "{}", TOPICS[t].0);
                        assert_eq!(self.bases(t), expected.bases, "{}", TOPICS[t].0);
                    }
                    self.models[t].start = start;
                }
                self.passes += 1;
                self.gone += run.segments as usize;
            }
            Ok(_) => {}
            Err(error) => self.failed(&error),
        }
        for (t, before) in before.into_iter().enumerate() {
            assert!(self.partition(t).log_start_offset() as usize >= before);
        }
    }

    fn delete(&mut self, t: usize) {
        let partition = self.partition(t);
        let committed = partition.high_watermark() as usize;
        let before = self.random.below(committed as u64 + 2) as usize;
        let wanted = self.models[t].start.max(before);
        match self.store.delete_records(TOPICS[t].0, 0, before as i64) {
            Ok(start) => {
                assert!(before <= committed);
                assert_eq!(start as usize, partition.log_start_offset() as usize);
                assert!(start as usize == wanted || self.faulty && start as usize >= wanted);
                let model = &mut self.models[t];
                (model.start, model.wanted) = (start as usize, model.wanted.max(start as usize));
                if before > 0 {
                    // What lies behind a start is synced first.
                    model.durable = model.durable.max(start as usize);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. }) => {
                assert!(before > committed, "{error}");
            }
            Err(error) => {
                self.failed(&error);
                self.models[t].wanted = self.models[t].wanted.max(wanted);
            }
        }
    }

    fn alter(&mut self, t: usize) {
        if self.faulty {
            return;
        }
        let of = |random: &mut Random, most: u64| (!random.one_in(3)).then(|| random.below(most));
        self.models[t].retention_ms = of(&mut self.random, 30 * HOUR as u64);
        self.models[t].retention_bytes = of(&mut self.random, 30 * BATCH);
        self.store.alter_topic(TOPICS[t].0, self.config(t)).unwrap();
        // Both are synced by that, or not: at least what was is.
    }

    fn pass_time(&mut self) {
        let most = if self.random.one_in(3) { 20 * HOUR as u64 } else { 2_000 };
        self.clock.advance(Duration::from_millis(self.random.below(most)));
        let now = self.trusted();
        // What was not committed may be, before it is looked for what goes.
        let expected = [0, 1].map(|t| self.expected(t, now, self.models[t].records.len()));
        self.want(&expected);
        if let Err(error) = self.store.maintain() {
            self.failed(&error);
        }
        if !self.faulty {
            // It may have been due, or not.
            for t in 0..2 {
                let start = self.partition(t).log_start_offset() as usize;
                assert!((self.models[t].start..=self.models[t].wanted).contains(&start));
                self.models[t].start = start;
            }
        }
    }

    fn jump(&mut self) {
        self.trusted();
        let by = [-1_000 * HOUR, -HOUR, -60_000, 60_000, HOUR, 1_000 * HOUR];
        self.clock.jump(by[self.random.below(by.len() as u64) as usize]);
        if self.clock.now_ms() < HOUR {
            self.clock.jump(NOW as i64);
        }
        if self.random.one_in(4) {
            self.store.trust_clock();
            self.agreed = (self.clock.now_ms(), self.clock.monotonic().as_millis() as i64);
        } else {
            self.trusted();
            // The store looks at its clock when it cleans: the same look.
            drop(self.store.explain_retention(TOPICS[0].0));
        }
    }

    fn fault(&mut self) {
        use FaultOp::{Create, Remove, Rename, SyncData, SyncDir, Write};
        let ops = [Write, Create, Rename, Rename, Remove, Remove, SyncData, SyncDir];
        let op = ops[self.random.below(ops.len() as u64) as usize];
        let kind = if self.random.one_in(2) { FaultKind::Io } else { FaultKind::NoSpace };
        self.disk.fail_nth(op, 1 + self.random.below(6), kind, self.random.one_in(4));
        self.faulty = true;
        let now = self.trusted();
        let _ = self.store.explain_retention(TOPICS[0].0);
        let expected = [0, 1].map(|t| self.expected(t, now, self.committed(t)));
        self.want(&expected);
        if self.random.one_in(2) {
            if let Err(error) = self.store.run_retention_now() {
                self.failed(&error);
            }
        } else {
            let t = self.random.below(2) as usize;
            self.delete(t);
        }
        for t in 0..2 {
            self.look(t);
        }
        let disk = if self.random.one_in(2) { self.disk.kill() } else { self.disk.crash(self.random.next()) };
        self.live_on(disk, true);
    }

    /// Another life on the disk that the last one left.
    fn live_on(&mut self, disk: SimDisk, lost_something: bool) {
        disk.clear_faults();
        if self.random.one_in(3) {
            let reader = manual(&self.clock).disk(&disk).open_read_only(DIR).unwrap();
            for (name, _) in TOPICS {
                let partition = reader.topic(name).unwrap().partition(0).unwrap();
                for records in partition.scan(partition.log_start_offset()) {
                    records.unwrap();
                }
            }
        }
        let store = manual(&self.clock).disk(&disk).open(DIR).unwrap();
        self.agreed = (self.clock.now_ms(), self.clock.monotonic().as_millis() as i64);
        // The old one ends on its own disk.
        let old = std::mem::replace(&mut self.store, store);
        self.disk = disk;
        drop(old);
        self.faulty = false;
        for (t, (name, _)) in TOPICS.into_iter().enumerate() {
            let partition = self.partition(t);
            let (start, end) = (partition.log_start_offset() as usize, partition.high_watermark() as usize);
            let model = &mut self.models[t];
            assert!(end >= model.durable, "{}: {end} of {} durable ones", name, model.durable);
            assert!(end <= model.records.len());
            if !lost_something {
                assert_eq!(end, model.records.len(), "{}: a kill takes nothing that was written", name);
            }
            let wanted = model.wanted.max(model.start);
            assert!((model.start..=wanted).contains(&start), "{start} in {}..={wanted}", model.start);
            model.records.truncate(end);
            // What an open leaves is durable.
            (model.start, model.wanted, model.durable) = (start, start, end);
        }
    }

    /// A checkpoint of the store is a store, with the same records.
    fn copy(&mut self) {
        if self.faulty {
            return;
        }
        let checkpoint = self.store.checkpoint("/copy");
        if checkpoint.is_err() {
            // Of another life of this disk.
            return;
        }
        for t in 0..2 {
            self.models[t].durable = self.models[t].records.len();
        }
        let copy = manual(&self.clock).disk(&self.disk).open_read_only("/copy").unwrap();
        for (t, (name, _)) in TOPICS.into_iter().enumerate() {
            let partition = copy.topic(name).unwrap().partition(0).unwrap();
            self.compare(t, &partition);
        }
        drop(copy);
        let verified = manual(&self.clock).disk(&self.disk).verify("/copy").unwrap();
        assert!(verified.is_sound(), "{verified}");
    }

    /// What a partition holds is what was sent, from the start on.
    fn compare(&self, t: usize, partition: &Partition) {
        let model = &self.models[t];
        let (start, end) = (partition.log_start_offset() as usize, partition.high_watermark() as usize);
        let wanted = model.wanted.max(model.start);
        let in_reach =
            if self.faulty { start >= model.start && start <= wanted } else { start == model.start };
        assert!(in_reach, "{}: starts at {start}, not in {}..={wanted}", TOPICS[t].0, model.start);
        assert!(end <= model.records.len());
        if start > 0 {
            let gone = partition.read(start as i64 - 1, 1).unwrap_err();
            assert!(matches!(gone.kind(), ErrorKind::OffsetOutOfRange { .. }), "{gone}");
        }
        let mut at = start;
        while at < end {
            let records = match partition.read(at as i64, 4_000) {
                Ok(records) => records,
                Err(error) => return self.failed(&error),
            };
            for record in &records {
                assert_eq!(record.offset(), at as i64);
                let (number, time) = model.records[at];
                assert_eq!(prove(self.seed, record.value().unwrap()), number, "another record at {at}");
                assert_eq!(record.timestamp_ms(), time);
                at += 1;
            }
        }
    }

    fn look(&self, t: usize) {
        self.compare(t, &self.partition(t));
    }
}

#[test]
fn retention_and_delete_records_do_what_kafkas_rule_says_whatever_happens() {
    let seed = seed();
    let (schedules, steps) = if soak() { (100_000, 60) } else { (5_000, 40) };
    let totals = std::sync::Mutex::new((0, 0));
    in_parallel(schedules, |i| {
        let seed = seed.wrapping_add(i as u64);
        telling(
            || format!("replay with LOGSTEAD_SEED={seed}"),
            || {
                let mut world = World::new(seed);
                for _ in 0..steps {
                    world.step();
                }
                let mut totals = totals.lock().unwrap();
                totals.0 += world.passes;
                totals.1 += world.gone;
            },
        );
    });
    let (passes, gone) = totals.into_inner().unwrap();
    eprintln!("{schedules} schedules, {passes} passes compared, {gone} segments went");
    assert!(passes >= schedules && gone >= schedules);
}
