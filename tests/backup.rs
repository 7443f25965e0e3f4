//! Checkpoints of a live store, and the reading of every byte: under load, on a disk that crashes at every operation,
//! beside what must not be touched.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use common::{Random, append_one, check, in_parallel, manual, seed, soak, telling, topic_config, value};
use logstead::{
    Acks, CrashPoint, Durability, ErrorKind, ManualClock, Record, SimDisk, Store, StoreOptions, TopicConfig,
};

const DATA: &str = "/s/data";
const COPY: &str = "/b/copy";

/// Appends the next records of a partition, one batch each, until it ends at `end`.
fn fill(store: &Store, topic: &str, sent: &mut Vec<Vec<u8>>, seed: u64, end: usize) {
    let topic = store.topic(topic).unwrap();
    let partition = topic.partition(0).unwrap();
    while sent.len() < end {
        let next = value(seed, sent.len() as u64, 300 + sent.len() * 37 % 900);
        partition.append([Record::to(&topic).value(&next)], Some(sent.len() as i64), Acks::All).unwrap();
        sent.push(next);
    }
}

fn is_refused(error: &logstead::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotACheckpoint { .. })
}

#[test]
fn checkpoints_under_full_write_load_open_with_all_that_was_committed_before() {
    let seed = seed();
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().join("data")).unwrap();
    for (name, durability) in [("disk", Durability::Disk), ("cache", Durability::PageCache)] {
        // Rolls come often, but not so often that the syncs of closed segments can not follow.
        store.create_topic(name, topic_config(durability).partitions(2).segment_bytes(1 << 18)).unwrap();
    }
    // How many records a partition may have; `u64::MAX`: it is over. Written as fast as can be, up to there.
    let (allowed, more) = (Mutex::new(2_000), Condvar::new());
    let rounds = if soak() { 300 } else { 10 };
    let (mut linked, mut kept, mut records) = (0, 0, 0);
    std::thread::scope(|scope| {
        for (t, name) in ["disk", "cache"].iter().enumerate() {
            for p in 0..2 {
                let (store, allowed, more) = (store.clone(), &allowed, &more);
                scope.spawn(move || {
                    let topic = store.topic(name).unwrap();
                    let partition = topic.partition(p).unwrap();
                    let seed = seed ^ (t as u64 * 2 + p as u64);
                    let mut next = 0;
                    loop {
                        let mut allowed = allowed.lock().unwrap();
                        while next >= *allowed {
                            allowed = more.wait(allowed).unwrap();
                        }
                        if *allowed == u64::MAX {
                            return;
                        }
                        drop(allowed);
                        let values: Vec<_> = (next..next + 5).map(|i| value(seed, i, 400)).collect();
                        let batch = values.iter().map(|value| Record::to(&topic).value(value));
                        let acks = if next % 4 == 0 { Acks::All } else { Acks::Leader };
                        next += 5;
                        partition.append(batch, None, acks).unwrap();
                    }
                });
            }
        }
        let all = [("disk", 0), ("disk", 1), ("cache", 0), ("cache", 1)];
        let mut read_to = [0; 4];
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..rounds {
                // Into the same directory again and again; now and then into a new one, which is then written to.
                let fresh = round % 5 == 4;
                let dir = home.path().join(if fresh { format!("fresh-{round}") } else { "copy".to_owned() });
                let ends: Vec<i64> = all
                    .map(|(topic, p)| store.topic(topic).unwrap().partition(p).unwrap().high_watermark())
                    .to_vec();
                *allowed.lock().unwrap() += 2_000;
                more.notify_all();
                let done = store.checkpoint(&dir).unwrap();
                (linked, kept) = (linked + done.segments_linked, kept + done.segments_kept);
                if round % 10 == 4 || round % 10 == 8 {
                    let report = Store::verify(&dir).unwrap();
                    assert!(report.is_sound() && report.uncommitted_bytes == 0, "{report}");
                }
                let copy = if fresh { Store::open(&dir) } else { Store::open_read_only(&dir) }.unwrap();
                let found = copy.recovery_report();
                assert!(
                    found.clean && found.partitions.is_empty() && found.unreadable_files.is_empty(),
                    "{found}"
                );
                for (i, ((topic, p), end)) in all.iter().zip(ends).enumerate() {
                    let partition = copy.topic(topic).unwrap().partition(*p).unwrap();
                    // What the copy before had is shared with this one; in a new directory all is looked at.
                    let from = if fresh { 0 } else { read_to[i] };
                    let mut next = from;
                    for records in partition.scan(from) {
                        for record in &records.unwrap() {
                            assert_eq!(record.offset(), next, "an offset is missing, or comes twice");
                            let number = common::prove(seed ^ i as u64, record.value().unwrap());
                            assert_eq!(number, next as u64);
                            next += 1;
                        }
                    }
                    assert_eq!(next, partition.high_watermark());
                    assert!(next >= end && next >= read_to[i], "{next} of {end} in {topic}-{p}");
                    read_to[i] = next;
                    records += next - from;
                    if fresh {
                        let record = Record::to(*topic).value("of the copy");
                        partition.append([record], Some(next), Acks::All).unwrap();
                    }
                }
                copy.close().unwrap();
            }
        }));
        *allowed.lock().unwrap() = u64::MAX;
        more.notify_all();
        done.unwrap();
    });
    eprintln!("{rounds} checkpoints, {linked} segments linked, {kept} kept, {records} records read");
    assert!(linked > 50 && kept > 50, "{linked} linked, {kept} kept");
    let report = Store::verify(home.path().join("data")).unwrap();
    assert!(report.is_sound(), "{report}");
    store.close().unwrap();
}

/// Two checkpoints of a store that grows in between, with everything that can change between them.
struct Story {
    seed: u64,
    disk: SimDisk,
    clock: ManualClock,
    sent: BTreeMap<&'static str, Vec<Vec<u8>>>,
    /// After so many operations a checkpoint was there, with these ends.
    checkpoints: Vec<(u64, BTreeMap<&'static str, usize>)>,
    /// After so many operations so much was committed.
    committed: Vec<(u64, BTreeMap<&'static str, usize>)>,
}

impl Story {
    fn tell(seed: u64, hard_links: bool) -> (Story, Vec<CrashPoint>) {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        disk.set_hard_links(hard_links);
        let mut story = Story {
            seed,
            disk,
            clock,
            sent: BTreeMap::new(),
            checkpoints: Vec::new(),
            committed: Vec::new(),
        };
        let store = story.options(&story.disk).open(DATA).unwrap();
        for (name, durability) in [("disk", Durability::Disk), ("cache", Durability::PageCache)] {
            store.create_topic(name, topic_config(durability)).unwrap();
            story.fill(&store, name, 60);
        }
        story.disk.record_states(true);
        story.note();
        story.checkpoint(&store);
        // The last segment grows; then it is closed and another is the last; then a topic is new.
        for (disk, cache) in [(62, 61), (110, 95)] {
            story.fill(&store, "disk", disk);
            story.fill(&store, "cache", cache);
            story.note();
            story.checkpoint(&store);
        }
        let disk = store.topic("disk").unwrap();
        store.alter_topic("disk", disk.config().partitions(2)).unwrap();
        disk.partition(1).unwrap().append([Record::to("disk").value("added")], None, Acks::All).unwrap();
        store.create_topic("new", topic_config(Durability::Disk)).unwrap();
        story.fill(&store, "new", 5);
        story.note();
        story.checkpoint(&store);
        let points = story.disk.crash_points();
        story.disk.record_states(false);
        store.close().unwrap();
        (story, points)
    }

    fn options(&self, disk: &SimDisk) -> StoreOptions {
        manual(&self.clock).disk(disk)
    }

    fn fill(&mut self, store: &Store, topic: &'static str, end: usize) {
        fill(store, topic, self.sent.entry(topic).or_default(), self.seed, end);
    }

    fn ends(&self) -> BTreeMap<&'static str, usize> {
        self.sent.iter().map(|(name, sent)| (*name, sent.len())).collect()
    }

    fn note(&mut self) {
        self.committed.push((self.disk.op_count(), self.ends()));
    }

    fn checkpoint(&mut self, store: &Store) {
        store.checkpoint(COPY).unwrap();
        self.checkpoints.push((self.disk.op_count(), self.ends()));
    }

    /// The directory opens, with at least `least` of each topic and nothing that was not sent.
    fn opens(&self, disk: &SimDisk, dir: &str, least: &BTreeMap<&str, usize>, read_only: bool) -> Store {
        let options = self.options(disk);
        let store = if read_only { options.open_read_only(dir) } else { options.open(dir) };
        let store = store.unwrap_or_else(|error| panic!("{dir} does not open: {error}"));
        for (name, least) in least {
            let partition = store.topic(name).unwrap().partition(0).unwrap();
            let end = check(&partition, &self.sent[name])
                .unwrap_or_else(|error| panic!("{error}\n{}", store.recovery_report()));
            assert!(end >= *least, "{end} of {least} in {name} of {dir}\n{}", store.recovery_report());
        }
        for name in store.topic_names() {
            assert!(self.sent.contains_key(name.as_str()), "{name:?} is no topic");
            let properties = store.topic(&name).unwrap().config().properties();
            let segment_bytes = ("segment.bytes", common::SEGMENT_BYTES.to_string());
            assert!(properties.contains(&segment_bytes), "{name}: {properties:?}");
        }
        store
    }

    /// All that must hold of a disk that a crash left.
    fn survives(&self, op: u64, disk: &SimDisk, cut: bool, random: &mut Random) {
        let none = BTreeMap::new();
        let copied = self.checkpoints.iter().rev().find(|(ops, _)| *ops <= op).map(|(_, ends)| ends);
        let committed = &self.committed.iter().rev().find(|(ops, _)| *ops <= op).unwrap().1;
        // A power cut may take what was not synced of the page cache; a checkpoint synced what it copied.
        let kept: BTreeMap<&str, usize> = committed
            .iter()
            .filter(|(name, _)| !cut || **name != "cache")
            .map(|(name, end)| (*name, *end))
            .collect();
        for dir in [DATA, COPY] {
            let Ok(report) = self.options(disk).verify(dir) else { continue };
            // A power cut tears the middle out of what a topic of the page cache had not synced.
            let torn = Path::new(DATA).join("cache-0");
            let told = report.damaged.iter().filter(|found| !cut || !found.file.starts_with(&torn));
            assert_eq!(told.count(), 0, "{dir}: {report}");
        }
        match self.options(disk).open_read_only(COPY) {
            Ok(copy) => {
                drop(copy);
                drop(self.opens(disk, COPY, copied.unwrap_or(&none), true));
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::NotAStore { .. }), "{error}");
                assert_eq!(copied, None, "a finished checkpoint is refused: {error}");
            }
        }
        // The copy is written to, and the source is as it was.
        let written = disk.kill();
        if let Some(copied) = copied {
            let copy = self.opens(&written, COPY, copied, false);
            let found = copy.recovery_report().to_string();
            assert!(!found.contains("damaged") && !found.contains("aside"), "{found}");
            for name in copied.keys() {
                let end = copy.topic(name).unwrap().partition(0).unwrap().high_watermark();
                append_one(&copy, name, usize::try_from(end).unwrap(), &value(1, 2, 5_000));
            }
            copy.close().unwrap();
        }
        let source = self.opens(&written, DATA, &kept, false);
        let report = self.options(&written).verify(DATA).unwrap();
        assert!(report.is_sound(), "{report}");
        if copied.is_some() {
            assert!(is_refused(&source.checkpoint(COPY).unwrap_err()));
        }
        drop(source);
        if !random.one_in(4) {
            return;
        }
        // The source opens again and goes on with its checkpoint where it was interrupted.
        let source = self.opens(disk, DATA, &kept, false);
        let ends: BTreeMap<&str, usize> = source
            .topic_names()
            .iter()
            .map(|name| {
                let end = source.topic(name).unwrap().partition(0).unwrap().high_watermark();
                (*self.sent.get_key_value(name.as_str()).unwrap().0, usize::try_from(end).unwrap())
            })
            .collect();
        source.checkpoint(COPY).unwrap();
        drop(source);
        let after = disk.crash(random.next());
        let report = self.options(&after).verify(COPY).unwrap();
        assert!(report.is_sound(), "{report}");
        drop(self.opens(&after, COPY, &ends, true));
        let left: Vec<PathBuf> =
            after.files().into_iter().filter(|f| f.starts_with(COPY) && is_leftover(f)).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}

fn is_leftover(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    name == ".lock" || name.ends_with(".tmp") || name.ends_with(".cleaned")
}

fn crash_everywhere(hard_links: bool, limit: usize) {
    let seed = seed();
    let (story, points) = Story::tell(seed, hard_links);
    let (story, states) = (&story, AtomicUsize::new(0));
    let different = common::different_states(&points, limit, seed, |point| {
        story.checkpoints.iter().filter(|(ops, _)| *ops <= point.op()).count()
    });
    in_parallel(points.len(), |i| {
        let point = &points[i];
        let mut random = Random(seed ^ point.op());
        let killed = std::iter::once((point.killed(seed), false));
        let cut = point.states(limit, seed).enumerate().filter(|(n, _)| different[i].contains(n));
        for (n, (disk, cut)) in killed.chain(cut.map(|(_, disk)| (disk, true))).enumerate() {
            disk.set_hard_links(hard_links);
            telling(
                || format!("seed {seed}, crash after operation {}, state {n}", point.op()),
                || story.survives(point.op(), &disk, cut, &mut random),
            );
            states.fetch_add(1, Ordering::Relaxed);
        }
    });
    eprintln!("{} crash points, {} states", points.len(), states.into_inner());
}

#[test]
fn a_crash_in_a_checkpoint_leaves_the_source_and_the_older_copy_or_more() {
    crash_everywhere(true, if soak() { 300 } else { 3 });
}

#[test]
fn a_crash_in_a_checkpoint_without_hard_links_does_no_harm_either() {
    crash_everywhere(false, if soak() { 300 } else { 1 });
}

#[test]
fn a_topic_that_was_deleted_and_made_anew_is_never_mixed_with_its_namesake() {
    let seed = seed();
    for hard_links in [true, false] {
        let (disk, clock) = (SimDisk::new(seed), ManualClock::new(1_700_000_000_000));
        disk.set_hard_links(hard_links);
        let store = manual(&clock).disk(&disk).open(DATA).unwrap();
        let (mut old, mut new, mut other) = (Vec::new(), Vec::new(), Vec::new());
        store.create_topic("t", topic_config(Durability::Disk)).unwrap();
        store.create_topic("other", topic_config(Durability::Disk)).unwrap();
        fill(&store, "t", &mut old, seed, 70);
        fill(&store, "other", &mut other, seed ^ 2, 10);
        store.checkpoint(COPY).unwrap();
        store.delete_topic("t").unwrap();
        store.create_topic("t", topic_config(Durability::PageCache)).unwrap();
        fill(&store, "t", &mut new, seed ^ 1, 75);
        disk.record_states(true);
        store.checkpoint(COPY).unwrap();
        let points = disk.crash_points();
        disk.record_states(false);
        let (mut olds, mut none, mut news) = (0, 0, 0);
        for point in &points {
            for (n, state) in point.states(4, seed).enumerate() {
                telling(
                    || format!("seed {seed}, crash after operation {}, state {n}", point.op()),
                    || {
                        let options = || manual(&clock).disk(&state);
                        let report = options().verify(COPY).unwrap();
                        assert!(report.is_sound(), "{report}");
                        for read_only in [true, false] {
                            let copy =
                                if read_only { options().open_read_only(COPY) } else { options().open(COPY) };
                            let copy = copy.unwrap();
                            let found = copy.topic("other").unwrap().partition(0).unwrap();
                            assert_eq!(check(&found, &other).unwrap(), 10);
                            let Ok(topic) = copy.topic("t") else {
                                none += 1;
                                continue;
                            };
                            let partition = topic.partition(0).unwrap();
                            let is_old =
                                partition.get(0).unwrap().unwrap().record().value() == Some(&old[0][..]);
                            let (sent, count) = if is_old { (&old, &mut olds) } else { (&new, &mut news) };
                            assert_eq!(check(&partition, sent).unwrap(), sent.len());
                            *count += 1;
                        }
                    },
                );
            }
        }
        eprintln!("{olds} times the old, {none} times none, {news} times the new");
        assert!(olds > 0 && none > 0 && news > 0);
        store.delete_topic("t").unwrap();
        store.checkpoint(COPY).unwrap();
        assert!(disk.files().iter().all(|file| !file.starts_with(format!("{COPY}/t-0"))));
    }
}

#[test]
fn a_failure_of_any_operation_leaves_the_source_at_work_and_the_copy_to_be_finished() {
    let clock = ManualClock::new(1_700_000_000_000);
    let (mut operations, mut nth) = (0, 0);
    // The first time nothing fails, and they are counted.
    while nth <= operations {
        let disk = SimDisk::new(nth);
        let store = manual(&clock).disk(&disk).open(DATA).unwrap();
        store.create_topic("t", topic_config(Durability::PageCache)).unwrap();
        let mut sent = Vec::new();
        fill(&store, "t", &mut sent, 9, 50);
        store.checkpoint(COPY).unwrap();
        fill(&store, "t", &mut sent, 9, 80);
        let before = asked(&disk);
        if nth > 0 {
            disk.fail_nth(logstead::FaultOp::Any, nth, logstead::FaultKind::NoSpace, false);
        }
        let failed = store.checkpoint(COPY).is_err();
        operations = operations.max(asked(&disk) - before);
        disk.clear_faults();
        let partition = store.topic("t").unwrap().partition(0).unwrap();
        assert_eq!(check(&partition, &sent).unwrap(), 80);
        // A failed sync of the source's own ends its service, as everywhere, and takes what was not synced.
        let poisoned =
            failed && store.checkpoint(COPY).is_err_and(|e| matches!(e.kind(), ErrorKind::Poisoned { .. }));
        if poisoned {
            store.recover("t", 0).unwrap();
        }
        store.checkpoint(COPY).unwrap();
        let copy = manual(&clock).disk(&disk).open_read_only(COPY).unwrap();
        let here = check(&store.topic("t").unwrap().partition(0).unwrap(), &sent).unwrap();
        let there = check(&copy.topic("t").unwrap().partition(0).unwrap(), &sent).unwrap();
        assert!(here == there && (here == 80 || poisoned && here >= 50), "operation {nth}: {here}, {there}");
        nth += 1;
        assert!(manual(&clock).disk(&disk).verify(COPY).unwrap().is_sound());
    }
    assert!(operations > 60, "only {operations} operations");
}

/// How many operations a disk was asked for.
fn asked(disk: &SimDisk) -> u64 {
    let c = disk.counts();
    c.creates + c.opens + c.reads + c.writes + c.set_lens + c.syncs + c.dir_syncs + c.renames + c.removes
}

#[test]
fn a_repeated_checkpoint_costs_what_is_new() {
    for hard_links in [true, false] {
        let (disk, clock) = (SimDisk::new(3), ManualClock::new(1_700_000_000_000));
        disk.set_hard_links(hard_links);
        let store = manual(&clock).disk(&disk).open(DATA).unwrap();
        store.create_topic("t", topic_config(Durability::Disk)).unwrap();
        let mut sent = Vec::new();
        fill(&store, "t", &mut sent, 7, 100);
        let size = store.topic("t").unwrap().partition(0).unwrap().size_bytes();
        let first = store.checkpoint(COPY).unwrap();
        assert!(first.segments_linked + first.segments_copied > 3, "{first}");
        assert_eq!(first.segments_linked == 0, !hard_links, "{first}");
        assert!(if hard_links { first.bytes_copied < size } else { first.bytes_copied == size }, "{first}");

        let before = disk.counts();
        let idle = store.checkpoint(COPY).unwrap();
        assert_eq!((idle.segments_linked, idle.segments_copied, idle.bytes_copied), (0, 0, 0), "{idle}");
        // The word of what is committed is written with each sync, of which there are two.
        assert!(disk.counts().bytes_written <= before.bytes_written + 48, "written for nothing new");

        fill(&store, "t", &mut sent, 7, 101);
        let grown = store.checkpoint(COPY).unwrap();
        let now = store.topic("t").unwrap().partition(0).unwrap().size_bytes();
        assert_eq!((grown.segments_copied, grown.bytes_copied), (1, now - size), "{grown}");
        let text = grown.to_string();
        assert_eq!(text, format!("0 segments linked, 1 copied ({} bytes), 3 kept", now - size));
    }
}

#[test]
fn topics_may_come_change_and_go_while_a_checkpoint_is_made() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().join("data")).unwrap();
    store.create_topic("stays", TopicConfig::default()).unwrap();
    let mut sent = Vec::new();
    fill(&store, "stays", &mut sent, 8, 20);
    let stop = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for name in ["a", "b"] {
            let (store, stop) = (store.clone(), &stop);
            scope.spawn(move || {
                let mut round = 0;
                while stop.load(Ordering::SeqCst) == 0 {
                    let topic = store.create_topic(name, topic_config(Durability::PageCache)).unwrap();
                    // A life knows its records from those of its namesakes.
                    fill(&store, name, &mut Vec::new(), round, 40);
                    store.alter_topic(name, topic.config().partitions(3)).unwrap();
                    store.delete_topic(name).unwrap();
                    round += 1;
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..20 {
                store.checkpoint(home.path().join("copy")).unwrap();
                let report = Store::verify(home.path().join("copy")).unwrap();
                assert!(report.is_sound(), "{report}");
                let copy = Store::open_read_only(home.path().join("copy")).unwrap();
                assert!(copy.recovery_report().clean && copy.recovery_report().partitions.is_empty());
                for name in copy.topic_names() {
                    let partition = copy.topic(&name).unwrap().partition(0).unwrap();
                    if name == "stays" {
                        assert_eq!(check(&partition, &sent).unwrap(), 20);
                    } else if partition.high_watermark() > 0 {
                        let first = partition.get(0).unwrap().unwrap();
                        let life =
                            u64::from_le_bytes(first.record().value().unwrap()[8..16].try_into().unwrap());
                        for records in partition.scan(0) {
                            for record in &records.unwrap() {
                                assert_eq!(
                                    common::prove(life, record.value().unwrap()),
                                    record.offset() as u64
                                );
                            }
                        }
                    }
                }
                let report = Store::verify(home.path().join("data")).unwrap();
                assert!(report.is_sound(), "{report}");
            }
        }));
        stop.store(1, Ordering::SeqCst);
        done.unwrap();
    });
}

#[test]
fn only_an_empty_directory_or_a_checkpoint_of_this_store_is_written_to() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let store = Store::open(at("data")).unwrap();
    store.create_topic("t", TopicConfig::default()).unwrap();
    store.checkpoint(at("copy")).unwrap();
    let refused = |dir: PathBuf, words: &str| {
        let before = listing(&dir);
        let error = store.checkpoint(&dir).unwrap_err();
        assert!(is_refused(&error) && error.to_string().contains(words), "{error}");
        assert_eq!(listing(&dir), before, "{error}");
    };
    std::fs::create_dir(at("full")).unwrap();
    refused(at("data"), "in the store itself");
    refused(at("data/t-0"), "in the store itself");
    refused(at("data/a/b"), "in the store itself");
    refused(at("full/../data/new"), "in the store itself");
    refused(at("nowhere/../data/new"), "goes back from");
    std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
    refused(at("link"), "in the store itself");
    refused(at("link/t-0/x"), "in the store itself");
    std::fs::write(at("full/letter"), "dear").unwrap();
    refused(at("full"), "it holds \"letter\"");
    refused(home.path().to_owned(), "no checkpoint");
    std::fs::write(at("file"), "").unwrap();
    assert!(store.checkpoint(at("file")).is_err());

    // A copy that was damaged.
    for name in ["logstead-checkpoint", "logstead-topics"] {
        store.checkpoint(at("rotten")).unwrap();
        let good = std::fs::read(at("rotten").join(name)).unwrap();
        let mut bytes = good.clone();
        bytes[20] ^= 1;
        std::fs::write(at("rotten").join(name), &bytes).unwrap();
        refused(at("rotten"), "give an empty or a new directory");
        std::fs::write(at("rotten").join(name), good).unwrap();
    }

    // Of another store; of this one and written to since.
    let other = Store::open(at("other")).unwrap();
    other.checkpoint(at("others")).unwrap();
    refused(at("others"), "of another store");
    refused(at("other"), "no checkpoint");
    Store::open_read_only(at("copy")).unwrap().close().unwrap();
    store.checkpoint(at("copy")).unwrap();
    let copy = Store::open(at("copy")).unwrap();
    let error = store.checkpoint(at("copy")).unwrap_err();
    assert!(is_refused(&error), "{error}");
    copy.close().unwrap();
    refused(at("copy"), "was opened for writing since");
    // A checkpoint that is moved elsewhere and opened there is not the one that its source knew either.
    store.checkpoint(at("again")).unwrap();
    common::copy_dir(&at("again"), &at("restored"));
    let restored = Store::open(at("restored")).unwrap();
    let error = restored.checkpoint(at("again")).unwrap_err();
    assert!(is_refused(&error) && error.to_string().contains("of another store"), "{error}");

    let reader = Store::open_read_only(at("data")).unwrap();
    assert!(matches!(reader.checkpoint(at("x")).unwrap_err().kind(), ErrorKind::ReadOnly { .. }));
    assert!(is_refused(&Store::in_memory().unwrap().checkpoint("/x").unwrap_err()));
}

#[test]
fn a_partition_that_can_not_be_served_is_named_and_all_others_are_copied() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let append = |store: &Store, partition| {
        let topic = store.topic("t").unwrap();
        topic.partition(partition).unwrap().append([Record::to(&topic).value("v")], None, Acks::All).unwrap();
    };
    let ends = |dir: &str| {
        let store = Store::open_read_only(at(dir)).unwrap();
        let topic = store.topic("t").unwrap();
        [0, 1, 2].map(|p| topic.partition(p).map(|partition| partition.high_watermark()).ok())
    };
    let store = Store::open(at("data")).unwrap();
    store.create_topic("t", topic_config(Durability::Disk).partitions(3)).unwrap();
    [0, 1, 2].into_iter().for_each(|p| append(&store, p));
    store.checkpoint(at("copy")).unwrap();
    [0, 1, 2].into_iter().for_each(|p| append(&store, p));
    store.close().unwrap();
    std::fs::rename(at("data/t-1"), at("away")).unwrap();
    let store = Store::open(at("data")).unwrap();
    let named = |dir: &str| {
        let error = store.checkpoint(at(dir)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Damaged { partition: 1, .. }), "{error}");
        assert!(error.to_string().contains("Store::recover"), "{error}");
    };
    // It is as it was.
    named("copy");
    assert_eq!(ends("copy"), [Some(2), Some(1), Some(2)]);
    let report = Store::verify(at("copy")).unwrap();
    assert!(report.is_sound(), "{report}");
    // Where there was none it is missing, which everybody says who looks.
    named("first");
    assert_eq!(ends("first"), [Some(2), None, Some(2)]);
    let report = Store::verify(at("first")).unwrap();
    assert!(report.damaged.len() == 1 && report.to_string().contains("missing"), "{report}");

    std::fs::rename(at("away"), at("data/t-1")).unwrap();
    store.recover("t", 1).unwrap();
    for dir in ["copy", "first"] {
        store.checkpoint(at(dir)).unwrap();
        let report = Store::verify(at(dir)).unwrap();
        assert!(report.is_sound(), "{report}");
        let copy = Store::open(at(dir)).unwrap();
        assert!(copy.recovery_report().clean, "{}", copy.recovery_report());
        copy.close().unwrap();
        assert_eq!(ends(dir), [Some(2); 3]);
    }
}

#[test]
fn a_poisoned_partition_keeps_its_older_copy_and_no_other() {
    let (disk, clock) = (SimDisk::new(5), ManualClock::new(1_700_000_000_000));
    let options = || manual(&clock).disk(&disk);
    let store = options().open(DATA).unwrap();
    let (mut first, mut other) = (Vec::new(), Vec::new());
    for name in ["a", "b"] {
        store.create_topic(name, topic_config(Durability::Disk)).unwrap();
    }
    fill(&store, "a", &mut first, 1, 40);
    fill(&store, "b", &mut other, 2, 40);
    store.checkpoint(COPY).unwrap();
    fill(&store, "a", &mut first, 1, 45);
    fill(&store, "b", &mut other, 2, 80);
    disk.fail_nth(logstead::FaultOp::SyncData, 1, logstead::FaultKind::Io, false);
    let topic = store.topic("a").unwrap();
    topic.partition(0).unwrap().append([Record::to(&topic).value("v")], None, Acks::All).unwrap_err();
    let error = store.checkpoint(COPY).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Poisoned { partition: 0, .. }), "{error}");
    let copy = options().open_read_only(COPY).unwrap();
    let end =
        |name: &str, sent: &[Vec<u8>]| check(&copy.topic(name).unwrap().partition(0).unwrap(), sent).unwrap();
    assert_eq!((end("a", &first), end("b", &other)), (40, 80));
    assert!(options().verify(COPY).unwrap().is_sound());
}

#[test]
fn another_file_system_gets_copies() {
    let shm = Path::new("/dev/shm");
    let home = tempfile::tempdir().unwrap();
    let Ok(elsewhere) = tempfile::tempdir_in(shm) else { return eprintln!("skipped: no /dev/shm") };
    let store = Store::open(home.path().join("data")).unwrap();
    store.create_topic("t", topic_config(Durability::Disk)).unwrap();
    let mut sent = Vec::new();
    for end in [60, 61, 130] {
        fill(&store, "t", &mut sent, 5, end);
        let done = store.checkpoint(elsewhere.path().join("copy")).unwrap();
        eprintln!("{done}");
        let copy = Store::open_read_only(elsewhere.path().join("copy")).unwrap();
        assert_eq!(check(&copy.topic("t").unwrap().partition(0).unwrap(), &sent).unwrap(), end);
        let report = Store::verify(elsewhere.path().join("copy")).unwrap();
        assert!(report.is_sound(), "{report}");
    }
}

#[test]
fn a_recovery_that_cuts_a_shared_segment_cuts_its_own() {
    // The source's proof of what is synced is lost, and a byte of a shared segment with it: what one of the two does
    // about that is not done to the other.
    let (disk, clock) = (SimDisk::new(11), ManualClock::new(1_700_000_000_000));
    let store = manual(&clock).disk(&disk).open(DATA).unwrap();
    store.create_topic("t", topic_config(Durability::PageCache)).unwrap();
    let mut sent = Vec::new();
    fill(&store, "t", &mut sent, 5, 100);
    store.checkpoint(COPY).unwrap();
    let crashed = disk.kill();
    std::mem::forget(store);
    crashed.write_file(format!("{DATA}/recovery-point-offset-checkpoint"), b"0\n0\n").unwrap();
    let second = crashed
        .files()
        .into_iter()
        .filter(|f| f.starts_with(DATA) && f.extension().is_some_and(|e| e == "log"));
    let second = second.into_iter().nth(1).unwrap();
    crashed.rot(&second, 5_000, 0xff).unwrap();
    let shared = |dir: &str| {
        let name = Path::new(dir).join("t-0").join(second.file_name().unwrap());
        crashed.read_file(name).unwrap().len()
    };
    let whole = shared(COPY);
    let source = manual(&clock).disk(&crashed).open(DATA).unwrap();
    assert!(source.recovery_report().to_string().contains("cut"), "{}", source.recovery_report());
    assert!(shared(DATA) < whole, "the source cut its own");
    assert_eq!(shared(COPY), whole);
    let report = manual(&clock).disk(&crashed).verify(COPY).unwrap();
    assert_eq!(report.damaged.len(), 1, "shared rot: {report}");
}

// ───────── verify

/// A store of a few segments, closed in order.
fn sealed_store(durability: Durability) -> (SimDisk, ManualClock) {
    let (disk, clock) = (SimDisk::new(21), ManualClock::new(1_700_000_000_000));
    let store = manual(&clock).disk(&disk).open(DATA).unwrap();
    store.create_topic("t", topic_config(durability)).unwrap();
    let mut sent = Vec::new();
    let topic = store.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    for i in 0..70 {
        clock.advance(std::time::Duration::from_millis(10));
        let value = value(3, i, 600);
        partition.append([Record::to(&topic).value(&value)], None, Acks::All).unwrap();
        sent.push(value);
    }
    store.close().unwrap();
    (disk, clock)
}

#[test]
fn verify_names_every_flipped_byte_and_changes_none() {
    let (disk, clock) = sealed_store(Durability::Disk);
    let verify = || manual(&clock).disk(&disk).verify(DATA).unwrap();
    let sound = verify();
    assert!(sound.is_sound() && sound.unchecked.is_empty(), "{sound}");
    assert_eq!((sound.partitions, sound.segments, sound.records, sound.uncommitted_bytes), (1, 3, 70, 0));
    assert!(sound.to_string().ends_with("nothing is damaged"), "{sound}");
    let (mut random, mut flips) = (Random(seed()), 0);
    for file in disk.files() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        // A hint that is written in place, the mark that is only there or not, the lock.
        if [".lock", ".kafka_cleanshutdown", "logstead-committed"].contains(&name.as_str()) {
            continue;
        }
        let log = name.ends_with(".log");
        let text = !log && !name.ends_with("index");
        // The last byte of a text is its line end.
        let len = disk.read_file(&file).unwrap().len() as u64 - u64::from(text);
        let step = if log { 31 } else { 1 };
        let mut at = if log { random.below(step) } else { 0 };
        while at < len {
            // Hexadecimal digits are the same in upper case.
            let mask = if text { 4 } else { 1 << random.below(8) };
            disk.rot(&file, at, mask).unwrap();
            let before = (disk.content_hash(), disk.op_count());
            let report = verify();
            assert_eq!((disk.content_hash(), disk.op_count()), before, "something was changed");
            // The random text of an id is nowhere else, and a number of a checkpoint can become another that is true.
            let vouched =
                log || name.ends_with("index") || ["logstead-topics", "partition.metadata"].contains(&&*name);
            if vouched {
                let found =
                    report.damaged.first().unwrap_or_else(|| panic!("{} at {at}, {mask:#x}", file.display()));
                assert_eq!(found.file, file, "{report}");
                assert!(!log || found.position <= at && at - found.position < 1_000, "{at}: {report}");
            }
            disk.rot(&file, at, mask).unwrap();
            (at, flips) = (at + step, flips + 1);
        }
    }
    assert!(verify().is_sound() && flips > 1_000, "{flips} flips");
}

/// The same files, but for what `change` makes of them; `None`: the file is gone.
fn altered(disk: &SimDisk, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> SimDisk {
    let copy = SimDisk::new(1);
    for file in disk.files() {
        let bytes = disk.read_file(&file).unwrap();
        if let Some(bytes) = change(file.file_name().unwrap().to_str().unwrap(), bytes) {
            copy.write_file(&file, bytes).unwrap();
        }
    }
    copy
}

#[test]
fn verify_tells_what_is_missing_and_what_was_never_committed() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let (disk, clock) = sealed_store(durability);
        let names: Vec<String> =
            disk.files().iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        let logs: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| name.ends_with(".log")).collect();
        let verify = |disk: &SimDisk| manual(&clock).disk(disk).verify(DATA).unwrap();
        let found = |file: &str, words: &str, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>| {
            let report =
                verify(&altered(&disk, |name, bytes| if name == file { change(bytes) } else { Some(bytes) }));
            let text = report.to_string();
            assert!(
                !report.is_sound() && text.contains(file) && text.contains(words),
                "{file}, {words}: {text}"
            );
        };
        let last = logs[2];
        // Closed in order: everything is committed.
        found(last, "where a batch needs", &|bytes| Some(bytes[..bytes.len() - 10].to_vec()));
        found(last, "were committed and are missing", &|bytes| Some(bytes[..0].to_vec()));
        found(last, "damaged", &|bytes| Some([&bytes[..], &[7; 100]].concat()));
        found(logs[1], "are missing behind it", &|bytes| Some(bytes[..0].to_vec()));
        found("partition.metadata", "missing", &|_| None);
        let index = last.replace(".log", ".index");
        found(&index, "missing", &|_| None);
        found(&index, "do not rise", &|bytes| Some([&bytes[..], &bytes[..8]].concat()));
        let times = last.replace(".log", ".timeindex");
        found(&times, "not the youngest", &|bytes| Some(bytes[..bytes.len() - 12].to_vec()));
        let report = verify(&altered(&disk, |name, bytes| (name != logs[0]).then_some(bytes)));
        assert!(report.to_string().contains("offsets 0.."), "{report}");
        let report = verify(&altered(&disk, |name, bytes| {
            let gone =
                name.starts_with('0') || ["partition.metadata", "leader-epoch-checkpoint"].contains(&name);
            (!gone && name != "logstead-committed").then_some(bytes)
        }));
        assert!(report.to_string().contains("the directory is missing"), "{report}");

        // After a crash a torn end is what crashes leave; below the committed end it is damage as before.
        for tail in [&[7; 100][..], &[0; 5_000]] {
            let report = verify(&altered(&disk, |name, mut bytes| {
                if name == last {
                    bytes.extend(tail);
                }
                (name != ".kafka_cleanshutdown").then_some(bytes)
            }));
            assert!(report.is_sound() && report.uncommitted_bytes == tail.len() as u64, "{report}");
        }
        let report = verify(&altered(&disk, |name, mut bytes| {
            if name == last {
                bytes[700] ^= 1;
            }
            (name != ".kafka_cleanshutdown").then_some(bytes)
        }));
        assert_eq!(report.damaged.len(), 1, "{report}");
    }
    let disk = SimDisk::new(1);
    disk.write_file("/s/letters/dear", "sir").unwrap();
    let verify = |dir: &str| Store::options().disk(&disk).verify(dir).unwrap_err();
    assert!(matches!(verify("/s/letters").kind(), ErrorKind::NotAStore { .. }));
    assert!(matches!(verify("/s/nothing").kind(), ErrorKind::NotAStore { .. }));
}

#[test]
fn verify_finds_a_live_store_sound_while_it_is_written() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    for (name, durability) in [("disk", Durability::Disk), ("cache", Durability::PageCache)] {
        store.create_topic(name, topic_config(durability)).unwrap();
    }
    let writers = AtomicUsize::new(2);
    let mut rounds = 0;
    std::thread::scope(|scope| {
        for (name, end) in [("disk", 400), ("cache", 3_000)] {
            let (store, writers) = (store.clone(), &writers);
            scope.spawn(move || {
                fill(&store, name, &mut Vec::new(), 4, end);
                writers.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while writers.load(Ordering::SeqCst) > 0 {
            let report = Store::verify(home.path()).unwrap();
            assert!(report.is_sound(), "{report}");
            rounds += 1;
        }
    });
    let report = Store::verify(home.path()).unwrap();
    assert!(report.is_sound() && report.records == 3_400, "{report}");
    eprintln!("verified {rounds} times meanwhile");
}

/// All names below a directory, with lengths and times; a link is not followed.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
            let meta = entry.path().symlink_metadata().unwrap();
            found.push((entry.path(), meta.len(), meta.modified().unwrap()));
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// The snapshot of an end that the source does not have any more is not written again, so nothing overwrites its draft.
#[test]
fn what_an_interrupted_checkpoint_left_of_a_small_file_goes_with_the_next() {
    let (disk, clock) = sealed_store(Durability::Disk);
    let store = manual(&clock).disk(&disk).open(DATA).unwrap();
    store.checkpoint(COPY).unwrap();
    let left = Path::new(COPY).join("t-0/00000000000000000099.snapshot.tmp");
    disk.write_file(&left, b"half of").unwrap();
    store.checkpoint(COPY).unwrap();
    assert!(!disk.files().contains(&left));
}
