//! Bits that flip, files that are cut, lost, doubled or filled with noise: reading gives the records that were sent or
//! a typed error that says where to go on. Never another record, never a silent hole, and never a cut of what was
//! committed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};

use common::{in_parallel, manual, producer_config, soak, telling, value};
use logstead::{
    Acks, Durability, Error, ErrorKind, ManualClock, Partition, Record, SimDisk, StoreOptions, TopicConfig,
};

const DIR: &str = "/data";
const RECORDS: u64 = 40;
const T0: i64 = 1_700_000_000_000;

/// A small store with three segments and index entries, closed in order or left by a kill.
struct Sample {
    disk: SimDisk,
    sent: Vec<Vec<u8>>,
    clock: ManualClock,
}

impl Sample {
    fn new(durability: Durability, clean: bool) -> Sample {
        let (disk, clock) = (SimDisk::new(1), ManualClock::new(T0 as u64));
        let mut sent = Vec::new();
        let store = manual(&clock).disk(&disk).open(DIR).unwrap();
        let config =
            TopicConfig::default().durability(durability).segment_bytes(3_000).index_interval_bytes(300);
        let topic = store.create_topic("t", config).unwrap();
        let producer = store.producer_with(producer_config(Acks::All).batch_size(400)).unwrap();
        for seq in 0..RECORDS {
            let value = value(1, seq, 60 + seq as usize);
            let record = Record::to(&topic).value(&value).timestamp_ms(T0 + seq as i64 * 10);
            let delivery = producer.send(record).unwrap();
            if seq % 3 == 2 || seq + 1 == RECORDS {
                delivery.wait().unwrap();
            }
            sent.push(value);
        }
        let disk = if clean {
            drop(producer);
            store.close().unwrap();
            disk
        } else {
            disk.kill()
        };
        let sample = Sample { disk, sent, clock };
        assert!(sample.logs().len() >= 3);
        sample
    }

    fn options(&self, disk: &SimDisk) -> StoreOptions {
        manual(&self.clock).disk(disk)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.disk.files().into_iter().filter(|file| !file.ends_with(".lock")).collect()
    }

    fn logs(&self) -> Vec<PathBuf> {
        self.files().into_iter().filter(|file| file.extension().is_some_and(|e| e == "log")).collect()
    }

    /// What must hold of a damaged copy. `committed`: the damaged file holds what was committed, so it is not cut.
    fn holds(&self, disk: &SimDisk, damaged: Option<&Path>) -> Found {
        let before = damaged.map(|file| disk.read_file(file).unwrap().len());
        let store = match self.options(disk).open(DIR) {
            Ok(store) => store,
            Err(error) => panic!("does not open: {error}"),
        };
        let mut found = Found { report: store.recovery_report().to_string(), ..Found::default() };
        let topic = match store.topic("t") {
            Ok(topic) => topic,
            Err(error) => return Found { refused: Some(error), ..found },
        };
        let partition = match topic.partition(0) {
            Ok(partition) => partition,
            Err(error) => {
                assert!(error.is_corrupt(), "{error:?}");
                return Found { refused: Some(error), ..found };
            }
        };
        self.read_all(&partition, &mut found);
        self.search_times(&partition, &found);
        if let (Some(file), Some(before)) = (damaged, before) {
            let after = disk.read_file(file).map_or(0, |bytes| bytes.len());
            assert!(after >= before, "{} was cut from {before} to {after}\n{}", file.display(), found.report);
        }
        // The log goes on, behind everything that was committed, and that lasts.
        let end = partition.log_end_offset();
        assert!(end >= self.sent.len() as i64, "appends go to {end}\n{}", found.report);
        let receipt = partition.append([Record::to(&topic).value("next")], Some(end), Acks::All).unwrap();
        assert_eq!(receipt.offsets.start, end);
        assert_eq!(partition.get(end).unwrap().unwrap().record().value(), Some(b"next".as_slice()));
        let again = disk.kill();
        drop(store);
        let store = self.options(&again).open(DIR).unwrap();
        let partition = store.topic("t").unwrap().partition(0).unwrap();
        assert_eq!(partition.get(end).unwrap().unwrap().record().value(), Some(b"next".as_slice()));
        let mut later = Found::default();
        self.read_all(&partition, &mut later);
        assert_eq!(later.lost, found.lost, "another answer after the next open");
        found
    }

    /// From the first offset to the last, going on where errors say.
    fn read_all(&self, partition: &Partition, found: &mut Found) {
        let (mut at, end) = (0, self.sent.len() as i64);
        while at < end {
            match partition.read(at, 700) {
                Ok(records) => {
                    let next = records.next_offset().unwrap_or_else(|| panic!("silence at {at} of {end}"));
                    for record in &records {
                        assert_eq!(record.offset(), at, "a hole without an error\n{}", found.report);
                        let expected = self.sent.get(at as usize).map(Vec::as_slice);
                        if at < end {
                            assert_eq!(record.value(), expected, "another record at {at}");
                            assert_eq!(record.timestamp_ms(), T0 + at * 10);
                        }
                        at += 1;
                    }
                    assert_eq!(at, next);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Corrupt { offsets, resume_at, .. } => {
                        assert_eq!(offsets.start, at, "{error}");
                        assert!(*resume_at > at && *resume_at == offsets.end, "{error}");
                        found.lost.extend(at..(*resume_at).min(end));
                        at = *resume_at;
                    }
                    _ => panic!("{error:?}\n{}", found.report),
                },
            }
        }
    }

    /// A search by time finds the record, or says that bytes are damaged.
    fn search_times(&self, partition: &Partition, found: &Found) {
        for seq in (0..self.sent.len() as i64).step_by(3) {
            match partition.offset_for_time(T0 + seq * 10 - 5) {
                Ok(Some(hit)) if hit == (seq, T0 + seq * 10) => {}
                Ok(hit) => panic!("time of {seq}: {hit:?}, {:?} lost", found.lost),
                Err(error) => assert!(error.is_corrupt(), "{error}"),
            }
        }
    }
}

#[derive(Default)]
struct Found {
    /// Offsets that are reported as damaged or missing.
    lost: Vec<i64>,
    refused: Option<Error>,
    report: String,
}

/// How many records one damaged place may cost at most: those of its batch.
const BATCH_RECORDS: usize = 4;

fn flip_every_bit(durability: Durability, clean: bool) {
    let sample = Sample::new(durability, clean);
    let stride = if soak() { 1 } else { 31 };
    let mut flips = Vec::new();
    for file in sample.files() {
        let bits = sample.disk.read_file(&file).unwrap().len() * 8;
        // Another start in each file, so that no bit of a byte is left out.
        flips.extend((flips.len() % stride..bits).step_by(stride).map(|bit| (file.clone(), bit)));
    }
    in_parallel(flips.len(), |i| {
        let (file, bit) = &flips[i];
        let disk = sample.disk.kill();
        disk.rot(file, (bit / 8) as u64, 1 << (bit % 8)).unwrap();
        let is_log = file.extension().is_some_and(|e| e == "log");
        telling(
            || format!("{durability}, clean {clean}, bit {bit} of {}", file.display()),
            || {
                // Of a topic whose sync nobody waits for, a kill leaves an end that nothing proves.
                let proven = durability == Durability::Disk || clean;
                if is_log && !proven {
                    return;
                }
                let found = sample.holds(&disk, Some(file).filter(|_| is_log).map(PathBuf::as_path));
                assert!(found.refused.is_none(), "{:?}", found.refused);
                if is_log {
                    assert!(found.lost.len() <= BATCH_RECORDS, "one bit cost {:?}", found.lost);
                } else {
                    assert_eq!(found.lost, [], "nothing of the log was damaged\n{}", found.report);
                }
            },
        );
    });
    eprintln!("{} bits flipped", flips.len());
}

#[test]
fn any_flipped_bit_after_a_clean_stop_costs_at_most_its_batch_and_is_told() {
    flip_every_bit(Durability::Disk, true);
}

#[test]
fn any_flipped_bit_after_a_kill_costs_at_most_its_batch_and_is_told() {
    flip_every_bit(Durability::Disk, false);
}

#[test]
fn any_flipped_bit_of_a_page_cache_topic_costs_at_most_its_batch_and_is_told() {
    flip_every_bit(Durability::PageCache, true);
    flip_every_bit(Durability::PageCache, false);
}

/// A copy of the sample with one file changed.
fn with(sample: &Sample, file: &Path, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let disk = sample.disk.kill();
    let mut bytes = disk.read_file(file).unwrap();
    change(&mut bytes);
    disk.write_file(file, bytes).unwrap();
    disk
}

/// A copy of the sample without some files.
fn without(sample: &Sample, gone: &[PathBuf]) -> SimDisk {
    let disk = SimDisk::new(2);
    for file in sample.files().iter().filter(|file| !gone.contains(file)) {
        disk.write_file(file, sample.disk.read_file(file).unwrap()).unwrap();
    }
    disk
}

const LIVES: [(Durability, bool); 3] =
    [(Durability::Disk, true), (Durability::Disk, false), (Durability::PageCache, true)];

#[test]
fn a_log_cut_at_any_length_is_told_and_what_is_left_is_read() {
    let mut count = 0;
    for (durability, clean) in LIVES {
        let sample = Sample::new(durability, clean);
        let mut cuts = Vec::new();
        for (i, log) in sample.logs().into_iter().enumerate() {
            let len = sample.disk.read_file(&log).unwrap().len();
            cuts.extend((i..len).step_by(if soak() { 1 } else { 23 }).map(|to| (log.clone(), to)));
        }
        in_parallel(cuts.len(), |i| {
            let (log, to) = &cuts[i];
            let which = || format!("{durability}, clean {clean}, {} cut to {to}", log.display());
            telling(which, || {
                let disk = with(&sample, log, |bytes| bytes.truncate(*to));
                let found = sample.holds(&disk, Some(log));
                assert!(!found.lost.is_empty() && found.refused.is_none());
            });
        });
        count += cuts.len();
    }
    eprintln!("{count} cuts");
}

#[test]
fn an_index_or_small_file_of_any_length_or_none_costs_no_record() {
    for (durability, clean) in LIVES {
        let sample = Sample::new(durability, clean);
        let others: Vec<_> = sample
            .files()
            .into_iter()
            // Without its catalog, or the log's own mark of a clean stop, a store is another one.
            .filter(|file| file.extension().is_none_or(|e| e != "log") && !file.ends_with("logstead-topics"))
            .collect();
        in_parallel(others.len(), |i| {
            let file = &others[i];
            telling(
                || format!("{durability}, clean {clean}, {}", file.display()),
                || {
                    let found = sample.holds(&without(&sample, std::slice::from_ref(file)), None);
                    assert_eq!(found.lost, [], "deleted");
                    let len = sample.disk.read_file(file).unwrap().len();
                    for to in 0..len {
                        let found = sample.holds(&with(&sample, file, |bytes| bytes.truncate(to)), None);
                        assert_eq!(found.lost, [], "cut to {to}\n{}", found.report);
                    }
                    for tail in [vec![0; 100], vec![0xa5; 37]] {
                        let found = sample.holds(&with(&sample, file, |bytes| bytes.extend(tail)), None);
                        assert_eq!(found.lost, [], "longer\n{}", found.report);
                    }
                },
            );
        });
    }
}

#[test]
fn tails_of_zeros_noise_or_old_batches_are_no_records() {
    for (durability, clean) in LIVES {
        let sample = Sample::new(durability, clean);
        let logs = sample.logs();
        let last = logs.last().unwrap();
        let old = sample.disk.read_file(&logs[0]).unwrap()[..400].to_vec();
        for tail in [vec![0; 5_000], vec![0xff; 100], vec![7; 61], old] {
            let len = tail.len();
            let found = sample.holds(&with(&sample, last, |bytes| bytes.extend(&tail)), None);
            assert_eq!(found.lost, [], "{durability}, clean {clean}, {len} bytes more\n{}", found.report);
        }
    }
}

#[test]
fn a_missing_segment_is_a_gap_that_is_told() {
    for (durability, clean) in LIVES {
        let sample = Sample::new(durability, clean);
        let logs = sample.logs();
        let base = |log: &Path| -> i64 { log.file_stem().unwrap().to_str().unwrap().parse().unwrap() };
        for (i, log) in logs.iter().enumerate() {
            let end = logs.get(i + 1).map_or(RECORDS as i64, |next| base(next));
            for with_indexes in [false, true] {
                let mut gone = vec![log.clone()];
                if with_indexes {
                    gone.extend([log.with_extension("index"), log.with_extension("timeindex")]);
                }
                let found = sample.holds(&without(&sample, &gone), None);
                assert_eq!(
                    found.lost,
                    (base(log)..end).collect::<Vec<_>>(),
                    "{}\n{}",
                    log.display(),
                    found.report
                );
            }
        }
        let found = sample.holds(&without(&sample, &logs), None);
        assert_eq!(found.lost.len() as u64, RECORDS, "all of them\n{}", found.report);
    }
}

#[test]
fn a_segment_that_is_another_ones_copy_is_never_read_as_its_own() {
    for (durability, clean) in LIVES {
        let sample = Sample::new(durability, clean);
        let logs = sample.logs();
        for (to, from) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
            let bytes = sample.disk.read_file(&logs[from]).unwrap();
            let found = sample.holds(&with(&sample, &logs[to], |old| *old = bytes), Some(&logs[to]));
            assert!(
                !found.lost.is_empty(),
                "{durability}, clean {clean}: {from} over {to}\n{}",
                found.report
            );
        }
    }
}

#[test]
fn left_overs_of_interrupted_operations_are_removed_and_strange_files_stay() {
    let sample = Sample::new(Durability::Disk, true);
    let disk = sample.disk.kill();
    let dir = Path::new("/data/t-0");
    let (ours, strange) = (
        ["00000000000000000007.log.deleted", "00000000000000000007.index.cleaned"],
        ["notes.txt", "00000000000000000007.bak", "quarantine-00000000000000000007-0", "x.log"],
    );
    for name in ours.iter().chain(&strange) {
        disk.write_file(dir.join(name), b"x").unwrap();
    }
    assert_eq!(sample.holds(&disk, None).lost, []);
    let files = disk.files();
    for name in ours {
        assert!(!files.contains(&dir.join(name)), "{name}");
    }
    for name in strange {
        assert!(files.contains(&dir.join(name)), "{name}");
    }
}
