//! Programs that send their input under a name and begin again wherever they stopped: after errors, failed syncs,
//! kills, power cuts, orderly stops, and while the one before still holds its producer. What a name stored in a
//! partition is always the first part of what it sends there, each record once; what was acknowledged is there.
//!
//! Each schedule follows from its seed. Beside the programs a nameless producer and plain appends write to the same
//! partitions.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{Random, in_parallel, manual, producer_config, prove, seed, soak, telling, value};
use logstead::{
    Acks, Delivery, Durability, ErrorKind, FaultKind, FaultOp, ManualClock, Partition, Producer, Record,
    SimDisk, Store, TopicConfig,
};

const DIR: &str = "/data";
const PARTITIONS: u64 = 2;
const NAMES: [&str; 3] = ["import", "b.2", "c_3-d"];

/// A record of this number goes there.
fn partition_of(number: u64) -> usize {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % PARTITIONS as usize
}

/// The numbers that go to a partition, in order.
fn input(partition: usize) -> impl Iterator<Item = u64> {
    (1..).filter(move |number| partition_of(*number) == partition)
}

/// A program that sends records number 1, 2, 3, …
struct Program {
    name: &'static str,
    producer: Option<Producer>,
    /// The number it sends next, if it is not stored already.
    next: u64,
    /// The last number stored in each partition, as it found it when it began.
    done: [u64; PARTITIONS as usize],
    waiting: Vec<(u64, Delivery)>,
    /// The largest number acknowledged, by partition.
    acked: [u64; PARTITIONS as usize],
}

struct World {
    seed: u64,
    random: Random,
    clock: ManualClock,
    disk: SimDisk,
    store: Store,
    programs: Vec<Program>,
    nameless: Producer,
    durability: Durability,
    faulty: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        let durability = if random.one_in(2) { Durability::Disk } else { Durability::PageCache };
        let store = manual(&clock).disk(&disk).open(DIR).unwrap();
        let config = TopicConfig::default().durability(durability).segment_bytes(2_000).retention_ms(None);
        store.create_topic("t", config.partitions(PARTITIONS as u32)).unwrap();
        let nameless = store.producer_with(producer_config(Acks::All).batch_size(400)).unwrap();
        let count = 1 + random.below(NAMES.len() as u64) as usize;
        let program = |name| Program {
            name,
            producer: None,
            next: 1,
            done: [0; PARTITIONS as usize],
            waiting: Vec::new(),
            acked: [0; PARTITIONS as usize],
        };
        let programs = NAMES[..count].iter().map(|name| program(name)).collect();
        World { seed, random, clock, disk, store, programs, nameless, durability, faulty: false }
    }

    fn partition(&self, p: usize) -> logstead::Result<Partition> {
        self.store.topic("t")?.partition(p as i32)
    }

    fn step(&mut self) {
        let i = self.random.below(self.programs.len() as u64) as usize;
        match self.random.below(100) {
            0..45 => self.send(i),
            45..55 => self.wait(i),
            55..60 => self.flush(i),
            60..66 => self.replace(i),
            66..72 => self.noise(),
            72..80 => {
                let days = u64::from(self.random.one_in(10)) * 3 * 86_400;
                self.clock
                    .advance(Duration::from_secs(days) + Duration::from_millis(self.random.below(1_500)));
                let maintained = self.store.maintain();
                assert!(maintained.is_ok() || self.faulty, "{maintained:?}");
            }
            80..86 => self.fault(),
            86..90 => self.heal(),
            90..93 => {
                self.disk.clear_faults();
                self.faulty |= self.store.clone().close().is_err();
                self.begin_life(self.disk.clone(), false);
            }
            93..97 => self.begin_life(self.disk.kill(), false),
            _ => {
                let disk = self.disk.crash(self.random.next());
                self.begin_life(disk, true);
            }
        }
    }

    /// Begins, where it stopped.
    fn begin(&mut self, i: usize) -> logstead::Result<()> {
        let config = producer_config(Acks::All).batch_size(300).producer_name(self.programs[i].name);
        let producer = self.store.producer_with(config)?;
        let mut done = [0; PARTITIONS as usize];
        for (p, done) in done.iter_mut().enumerate() {
            if let Some(offset) = producer.last_offset("t", p as i32)? {
                let last = self.partition(p)?.get(offset)?.expect("it names a record");
                let record = last.record();
                assert_eq!(record.key(), Some(self.programs[i].name.as_bytes()), "a record of another");
                *done = prove(self.seed, record.value().unwrap());
                assert_eq!(partition_of(*done), p);
            }
        }
        let program = &mut self.programs[i];
        // What it was told of before is of another life.
        program.waiting.clear();
        (program.next, program.done) = (1, done);
        program.producer = Some(producer);
        Ok(())
    }

    fn send(&mut self, i: usize) {
        if self.programs[i].producer.is_none()
            && let Err(error) = self.begin(i)
        {
            return self.failed(i, &error);
        }
        for _ in 0..1 + self.random.below(4) {
            let program = &mut self.programs[i];
            while program.next <= program.done[partition_of(program.next)] {
                program.next += 1;
            }
            let number = program.next;
            let value = value(self.seed, number, self.random.below(150) as usize);
            let record =
                Record::to("t").partition(partition_of(number) as i32).key(program.name).value(&value);
            match program.producer.as_ref().unwrap().send(record) {
                Ok(delivery) => {
                    program.waiting.push((number, delivery));
                    program.next += 1;
                }
                Err(error) => return self.failed(i, &error),
            }
        }
    }

    /// A program stops at its first error. Another run of it begins behind what is stored.
    fn failed(&mut self, i: usize, error: &logstead::Error) {
        assert!(self.faulty, "without a fault: {error}");
        let wrong = matches!(
            error.kind(),
            ErrorKind::OutOfOrderSequence { .. }
                | ErrorKind::InvalidProducerEpoch { .. }
                | ErrorKind::ProducerFenced { .. }
        );
        assert!(!wrong, "{error}");
        self.programs[i].producer = None;
        self.programs[i].waiting.clear();
    }

    fn wait(&mut self, i: usize) {
        if self.programs[i].waiting.is_empty() {
            return;
        }
        let at = self.random.below(self.programs[i].waiting.len() as u64) as usize;
        let (number, delivery) = self.programs[i].waiting.swap_remove(at);
        match delivery.wait() {
            Ok(receipt) => self.acknowledged(i, number, receipt.offset),
            Err(error) => self.failed(i, &error),
        }
    }

    fn acknowledged(&mut self, i: usize, number: u64, offset: i64) {
        let p = partition_of(number);
        let acked = &mut self.programs[i].acked[p];
        *acked = number.max(*acked);
        if !self.faulty {
            let found = self.partition(p).unwrap().get(offset).unwrap().expect("acknowledged");
            assert_eq!(prove(self.seed, found.record().value().unwrap()), number);
        }
    }

    fn flush(&mut self, i: usize) {
        let Some(producer) = &self.programs[i].producer else { return };
        match producer.flush() {
            Ok(()) => {
                for (number, delivery) in std::mem::take(&mut self.programs[i].waiting) {
                    let receipt = delivery.try_receipt().expect("flushed").unwrap();
                    self.acknowledged(i, number, receipt.offset);
                }
            }
            Err(error) => self.failed(i, &error),
        }
    }

    /// Another run of a program begins while the one before still has its producer, and records on their way.
    fn replace(&mut self, i: usize) {
        let Some(old) = self.programs[i].producer.clone() else { return };
        if let Err(error) = self.begin(i) {
            return self.failed(i, &error);
        }
        let late = old.send(Record::to("t").partition(0).value("too late"));
        assert!(matches!(late.unwrap_err().kind(), ErrorKind::ProducerFenced { .. }));
        assert!(matches!(old.last_offset("t", 0).unwrap_err().kind(), ErrorKind::ProducerFenced { .. }));
    }

    fn noise(&mut self) {
        let (p, len) = (self.random.below(PARTITIONS) as usize, self.random.below(200) as usize);
        let value = vec![b'x'; len];
        let record = Record::to("t").partition(p as i32).key("noise").value(&value);
        let sent = match self.random.below(2) {
            0 => self.nameless.send(record).map(drop),
            _ => self.partition(p).and_then(|p| p.append([record], None, Acks::Leader)).map(drop),
        };
        assert!(sent.is_ok() || self.faulty, "{sent:?}");
    }

    fn fault(&mut self) {
        use FaultOp::{Create, Read, Rename, SetLen, SyncData, SyncDir, Write};
        let ops = match self.durability {
            Durability::Disk => [Write, Write, SetLen, SyncData, SyncData, SyncDir, Create, Read, Rename],
            // What a failed sync leaves of what is not promised to be on the device, nobody knows.
            Durability::PageCache => [Write, Write, SetLen, Create, Create, Write, Create, Read, Rename],
        };
        let op = ops[self.random.below(ops.len() as u64) as usize];
        let kind = if self.random.one_in(2) { FaultKind::Io } else { FaultKind::NoSpace };
        self.disk.fail_nth(op, 1 + self.random.below(4), kind, self.random.one_in(4));
        self.faulty = true;
    }

    /// The disk works again. Programs that saw no error go on with what they have.
    fn heal(&mut self) {
        self.disk.clear_faults();
        for p in 0..PARTITIONS as i32 {
            self.store.recover("t", p).unwrap();
        }
        self.look();
        // Of those that go on some hear only now of what went wrong: that is the fault's, still.
    }

    fn begin_life(&mut self, disk: SimDisk, power_cut: bool) {
        self.store = manual(&self.clock).disk(&disk).open(DIR).unwrap();
        self.nameless = self.store.producer_with(producer_config(Acks::All).batch_size(400)).unwrap();
        self.disk = disk;
        for program in &mut self.programs {
            program.producer = None;
            program.waiting.clear();
            if power_cut && self.durability == Durability::PageCache {
                program.acked = Default::default();
            }
        }
        self.faulty = false;
        self.look();
    }

    /// Compares all that can be read with what was sent.
    fn look(&mut self) {
        for p in 0..PARTITIONS as usize {
            let mut stored = vec![0; self.programs.len()];
            let mut expected: Vec<_> = self.programs.iter().map(|_| input(p)).collect();
            for records in self.partition(p).unwrap().scan(0) {
                for record in &records.unwrap() {
                    let key = record.key().unwrap();
                    let Some(i) = self.programs.iter().position(|program| program.name.as_bytes() == key)
                    else {
                        continue;
                    };
                    stored[i] = prove(self.seed, record.value().unwrap());
                    let wanted = expected[i].next();
                    assert_eq!(Some(stored[i]), wanted, "{} in partition {p}", self.programs[i].name);
                }
            }
            for (program, stored) in self.programs.iter().zip(stored) {
                assert!(stored >= program.acked[p], "{}: {} acknowledged", program.name, program.acked[p]);
            }
        }
    }
}

#[test]
fn programs_that_begin_again_store_each_record_once() {
    run_schedules(1_000);
}

#[test]
#[ignore = "takes a minute; .ci/soak calls it, and many more"]
fn they_do_so_in_five_thousand_schedules() {
    run_schedules(if soak() { 200_000 } else { 5_000 });
}

fn run_schedules(schedules: usize) {
    let seed = seed();
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
                world.begin_life(world.disk.kill(), false);
                for i in 0..world.programs.len() {
                    world.begin(i).unwrap();
                    world.send(i);
                    world.flush(i);
                }
                world.look();
            },
        );
    });
    eprintln!("{schedules} schedules");
}

/// The `import` of the chapter on exactly once, over every crash that can be while it runs.
#[test]
fn a_file_sent_again_after_any_crash_is_there_line_by_line() {
    let lines: Vec<String> = (1..=40).map(|number| format!("line {number}")).collect();
    let import = |store: &Store| -> logstead::Result<()> {
        let config = producer_config(Acks::All).batch_size(150).producer_name("import");
        let producer = store.producer_with(config)?;
        let partition = store.topic("lines")?.partition(0)?;
        let last =
            producer.last_offset("lines", 0)?.map(|offset| partition.get(offset)).transpose()?.flatten();
        let done = last.map(|last| String::from_utf8(last.record().value().unwrap().to_vec()).unwrap());
        let from = done.map_or(0, |done| lines.iter().position(|line| *line == done).unwrap() + 1);
        for line in &lines[from..] {
            producer.send(Record::to("lines").value(line))?;
        }
        producer.close()
    };
    let sim = SimDisk::new(seed());
    let clock = ManualClock::new(1_700_000_000_000);
    let store = manual(&clock).disk(&sim).open(DIR).unwrap();
    store.create_topic("lines", TopicConfig::default().segment_bytes(600)).unwrap();
    sim.record_states(true);
    import(&store).unwrap();
    store.close().unwrap();
    let points = sim.crash_points();
    assert!(points.len() > 10, "{}", points.len());
    for point in points {
        for disk in point.states(8, 1) {
            let store = manual(&clock).disk(&disk).open(DIR).unwrap();
            import(&store).unwrap();
            let mut found = Vec::new();
            for records in store.topic("lines").unwrap().partition(0).unwrap().scan(0) {
                found.extend(records.unwrap().iter().map(|record| record.value().unwrap().to_vec()));
            }
            assert_eq!(found, lines.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
        }
    }
}

/// An import that runs once a month, in a topic of which retention takes all meanwhile: the power goes at any moment
/// of that.
#[test]
fn what_a_name_stored_is_known_when_retention_took_it_and_the_power_goes() {
    let (sim, clock) = (SimDisk::new(seed()), ManualClock::new(1_700_000_000_000));
    let store = manual(&clock).disk(&sim).open(DIR).unwrap();
    let config = TopicConfig::default().segment_bytes(600).retention_ms(3_600_000);
    store.create_topic("lines", config).unwrap();
    let named = || producer_config(Acks::All).batch_size(150).producer_name("import");
    let producer = store.producer_with(named()).unwrap();
    for number in 0..20 {
        producer.send(Record::to("lines").value(&value(1, number, 60))).unwrap();
    }
    producer.close().unwrap();
    clock.advance(Duration::from_secs(7_200));
    sim.record_states(true);
    assert!(store.run_retention_now().unwrap().segments > 1);
    let mut points = sim.crash_points();
    // And at last, when nothing more happens.
    store.create_topic("other", TopicConfig::default()).unwrap();
    points.extend(sim.crash_points());
    assert!(points.len() > 10, "{}", points.len());
    for point in points {
        for disk in point.states(16, 1) {
            let store = manual(&clock).disk(&disk).open(DIR).unwrap();
            let last = store.producer_with(named()).unwrap().last_offset("lines", 0).unwrap();
            assert_eq!(last, Some(19), "before operation {}", point.op());
        }
    }
}

/// A write that fails, and can not be taken back, leaves open what the device has. The writer sends the same batches
/// again, and those that are there after all are not stored twice.
#[test]
fn a_writer_sends_again_what_it_could_not_append_and_none_of_it_is_stored_twice() {
    for nth in 1..12 {
        let (disk, clock) = (SimDisk::new(nth), ManualClock::new(1_700_000_000_000));
        let store = manual(&clock).disk(&disk).open(DIR).unwrap();
        let topic = store.create_topic("t", TopicConfig::default().segment_bytes(2_000)).unwrap();
        let partition = topic.partition(0).unwrap();
        let mut writer = partition.writer(producer_config(Acks::All).batch_size(200)).unwrap();
        disk.fail_nth(FaultOp::Any, nth, FaultKind::Io, true);
        let mut failed = 0;
        let mut mend = || {
            failed += 1;
            assert!(failed < 5, "it does not go on");
            disk.clear_faults();
            store.recover("t", 0).unwrap();
        };
        for number in 0..40_u64 {
            let value = value(nth, number, 60);
            while writer.send(Record::to(&topic).value(&value)).is_err() {
                mend();
            }
            if number % 10 == 9 {
                while writer.flush().is_err() {
                    mend();
                }
            }
        }
        let mut found = Vec::new();
        for records in partition.scan(0) {
            found.extend(records.unwrap().iter().map(|record| prove(nth, record.value().unwrap())));
        }
        assert!(found.is_sorted_by(|a, b| a < b), "operation {nth}: {found:?}");
        assert_eq!(found.last(), Some(&39), "operation {nth}");
    }
}
