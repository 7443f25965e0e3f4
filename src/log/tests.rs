//! Kafka's cases D to G that need a whole partition's log, by number, on the simulated disk and on the real one.
//!
//! Kafka truncates on demand of a leader; here only recovery cuts, so its truncation cases (B5, D5 to D8) damage what
//! is to go and open the log again.

mod compaction;

use super::*;
use crate::config::TopicConfig;
use crate::record::{BatchBuilder, Compression, Sealed, TimestampType};
use crate::storage::{Disk, EntryKind, Open, SimDisk, read_small};
use crate::time::ManualClock;

mod producers;

type Opened = (Arc<Log>, Vec<RecoveryEvent>);

/// A partition's directory and what its log is opened with.
struct Bench {
    storage: Arc<dyn Storage>,
    root: PathBuf,
    clock: ManualClock,
    /// Keeps a real directory.
    _home: Option<tempfile::TempDir>,
}

const NOW_MS: u64 = 1_700_000_000_000;

impl Bench {
    fn new(storage: Arc<dyn Storage>, home: Option<tempfile::TempDir>) -> Bench {
        let root = home.as_ref().map_or(PathBuf::from("/s"), |home| home.path().to_owned());
        storage.create_dir(&root.join("t-0")).unwrap();
        Bench { storage, root, clock: ManualClock::new(NOW_MS), _home: home }
    }

    fn context(&self) -> Context {
        Context {
            storage: Arc::clone(&self.storage),
            clock: Arc::new(self.clock.clone()),
            root: self.root.clone(),
            read_only: false,
            threads: 1,
            shows: ReadOnly::Committed,
            lookout: None,
            dirty_max: 100,
            checkpoint_due: AtomicBool::default(),
            unheard: Mutex::default(),
            pins: Default::default(),
            unsynced: Unsynced::default(),
            wake: Wake::default(),
            names: Names::default(),
            producer_id_expiration_ms: 86_400_000,
            upkeep: Default::default(),
        }
    }

    fn open_with(&self, config: &TopicConfig, hints: OpenHints) -> Opened {
        self.try_open(config, hints).unwrap()
    }

    fn try_open(&self, config: &TopicConfig, hints: OpenHints) -> Result<Opened> {
        let context = Arc::new(self.context());
        Log::open(&context, &TopicName::new("t").unwrap(), 0, Arc::new(config.clone()), hints, Arc::default())
    }

    /// As after a crash, with nothing proven; a topic of this crate, where offsets have no gaps.
    fn open(&self, config: &TopicConfig) -> Opened {
        self.open_with(config, OpenHints { contiguous: true, ..OpenHints::default() })
    }

    /// The same for a directory of a broker's.
    fn open_kafkas(&self) -> Opened {
        self.open_with(&page_cache(), OpenHints::default())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join("t-0").join(name)
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        read_small(self.storage.as_ref(), &self.path(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let file = self.storage.open(&self.path(name), Open::Truncate).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.sync_data().unwrap();
    }

    fn plant(&self, base: Offset, batches: &[Vec<u8>]) {
        self.write(&log_name(base), &batches.concat());
    }

    /// Writes over a file's bytes.
    fn damage(&self, name: &str, position: usize, bytes: &[u8]) {
        let file = self.storage.open(&self.path(name), Open::Write).unwrap();
        file.write_at(bytes, position as u64).unwrap();
        file.sync_data().unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = self.storage.list(&self.root.join("t-0")).unwrap();
        let files = entries.into_iter().filter(|entry| entry.kind == EntryKind::File);
        let mut names: Vec<String> = files.map(|entry| entry.name).collect();
        names.sort();
        names
    }

    /// Base offsets of the `.log` files.
    fn bases(&self) -> Vec<Offset> {
        self.names().iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect()
    }
}

/// A disk that runs `hook` inside each of its directory syncs, as another thread might.
struct Hooked {
    disk: SimDisk,
    hook: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Storage for Hooked {
    fn list(&self, dir: &Path) -> Result<Vec<crate::storage::Entry>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.disk.create_dir(dir)
    }

    fn open(&self, path: &Path, how: Open) -> Result<Arc<dyn File>> {
        self.disk.open(path, how)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        self.disk.hard_link(from, to)
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.disk.canonical(path)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.disk.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        (self.hook)();
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn crate::storage::LockGuard>> {
        self.disk.lock(path)
    }
}

/// Runs a case on the simulated disk and on the real one.
fn each(case: impl Fn(&Bench)) {
    case(&Bench::new(Arc::new(SimDisk::new(1)), None));
    case(&Bench::new(Arc::new(Disk::new(16)), Some(tempfile::tempdir().unwrap())));
}

/// Neither bounds what a crash leaves behind nor leaves word of what is committed, as in Kafka.
fn page_cache() -> TopicConfig {
    TopicConfig::default().durability(Durability::PageCache)
}

fn log_name(base: Offset) -> String {
    format!("{base:020}.log")
}

fn sealed(records: &[(Offset, i64)], compression: Compression) -> Sealed {
    let base = records[0].0;
    let mut builder = BatchBuilder::new(0);
    for (offset, timestamp) in records {
        let delta = i32::try_from(offset - base).unwrap();
        builder.push_at(delta, *timestamp, Some(b"key"), Some(b"value"), &[]).unwrap();
    }
    let mut sealed = builder.seal(compression, None, &mut Vec::new()).unwrap();
    sealed.place(base, 0);
    sealed
}

fn batch(records: &[(Offset, i64)]) -> Vec<u8> {
    sealed(records, Compression::None).bytes().to_vec()
}

/// A batch of one record.
fn one(offset: Offset) -> Vec<u8> {
    batch(&[(offset, offset * 10)])
}

/// Appends one record of that time; its offset.
fn append(log: &Arc<Log>, timestamp: i64) -> Offset {
    let mut batches = [sealed(&[(0, timestamp)], Compression::None)];
    assert_eq!(log.append(&mut batches, None).unwrap(), 1);
    log.wait_committed(log.log_end(), None).unwrap();
    batches[0].header().base_offset
}

/// All offsets that can be read, in order.
fn offsets(log: &Arc<Log>) -> Vec<Offset> {
    let mut offsets = Vec::new();
    let mut at = log.log_start();
    while at < log.high_watermark() {
        let records = log.read(at, ReadOptions::max_bytes(1 << 20)).unwrap();
        offsets.extend(records.iter().map(|record| record.offset()));
        at = records.next_offset().unwrap_or(log.high_watermark());
    }
    offsets
}

fn segments(log: &Log) -> Vec<Offset> {
    log.segments.read().iter().map(|segment| segment.base()).collect()
}

fn out_of_range(result: Result<Records>) -> Option<(Offset, std::ops::Range<Offset>)> {
    match result.err()?.kind() {
        ErrorKind::OffsetOutOfRange { requested, valid, .. } => Some((*requested, valid.clone())),
        _ => None,
    }
}

/// Numbers of a seed (splitmix64); the seed is printed.
struct Random(u64);

impl Random {
    fn new(what: &str) -> Random {
        let seed = std::env::var("LOGSTEAD_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("{what}: replay with LOGSTEAD_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

// ───────── B: a file of batches

#[test]
fn b01_a_partial_batch_at_the_end_is_cut_and_said() {
    for k in [0, 2, 4, 5, 6] {
        each(|bench| {
            let whole = [one(0), one(1), one(2)].concat();
            bench.write(&log_name(0), &[whole.clone(), one(3)[..k].to_vec()].concat());
            let (log, events) = bench.open(&page_cache());
            assert_eq!(offsets(&log), [0, 1, 2]);
            assert_eq!(bench.read(&log_name(0)).unwrap(), whole);
            match &*events {
                [] => assert_eq!(k, 0),
                [RecoveryEvent::TailCut { position, bytes, quarantine: None, .. }] => {
                    assert_eq!((*position, *bytes), (whole.len() as u64, k as u64));
                }
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn b03_a_file_larger_than_a_segment_can_be_is_refused() {
    let bench = Bench::new(Arc::new(Disk::new(16)), Some(tempfile::tempdir().unwrap()));
    bench.plant(0, &[one(0)]);
    bench.storage.open(&bench.path(&log_name(0)), Open::Write).unwrap().set_len(1 << 31).unwrap();
    for clean in [false, true] {
        let hints = OpenHints { clean, contiguous: true, ..OpenHints::default() };
        let error = bench.try_open(&page_cache(), hints).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(&log_name(0)), "{error}");
    }
    // Nothing was cut.
    assert_eq!(bench.storage.open(&bench.path(&log_name(0)), Open::Read).unwrap().len().unwrap(), 1 << 31);
}

#[test]
fn b06_a_time_finds_the_first_record_as_young_not_before_the_start() {
    each(|bench| {
        bench.plant(
            0,
            &[batch(&[(0, 100), (1, 200)]), batch(&[(2, 50), (3, 300)]), batch(&[(4, 250), (5, 400)])],
        );
        let (log, _) = bench.open_kafkas();
        let find = |log: &Log, time| log.offset_for_time(time).unwrap();
        for (time, found) in [(0, 0), (100, 0), (101, 1), (200, 1), (201, 3), (300, 3), (301, 5), (400, 5)] {
            assert_eq!(find(&log, time).map(|found| found.0), Some(found), "{time}");
        }
        assert_eq!(find(&log, 401), None);
        drop(log);
        let (log, _) =
            bench.open_with(&page_cache(), OpenHints { log_start: Some(2), ..OpenHints::default() });
        assert_eq!(find(&log, 60), Some((3, 300)));
        assert_eq!(find(&log, 0), Some((2, 50)));
    });
}

// ───────── D: one segment, cut by recovery

#[test]
fn d05_what_is_cut_is_gone_and_the_log_goes_on_thirty_times() {
    each(|bench| {
        for o in 0..30 {
            let (log, _) = bench.open(&page_cache());
            assert_eq!((append(&log, -1), append(&log, -1)), (o, o + 1));
            log.close().unwrap();
            let file = bench.read(&log_name(0)).unwrap();
            // The last byte of the second record.
            bench.damage(&log_name(0), file.len() - 1, &[!file[file.len() - 1]]);
            let (log, events) = bench.open(&page_cache());
            assert!(matches!(&*events, [RecoveryEvent::TailCut { .. }]), "{events:?}");
            assert_eq!(offsets(&log), (0..=o).collect::<Vec<_>>());
            assert!(out_of_range(log.read(o + 2, ReadOptions::max_bytes(1))).is_some());
            log.close().unwrap();
        }
    });
}

#[test]
fn d06_a_cut_behind_a_gap_leaves_what_lies_before_the_gap() {
    each(|bench| {
        bench.plant(40, &[one(40), one(43)]);
        bench.damage(&log_name(40), one(40).len() + 65, &[0xff]);
        let (log, _) = bench.open_kafkas();
        assert_eq!(offsets(&log), [40]);
        assert_eq!(log.log_end(), 41);
    });
}

#[test]
fn d07_a_cut_takes_index_entries_and_the_largest_time_along() {
    each(|bench| {
        let size = one(40).len();
        let config = page_cache().index_interval_bytes(2 * size as u64 - 1);
        let (log, _) = bench.open_with(&config, OpenHints { log_start: Some(40), ..OpenHints::default() });
        for offset in 40..70 {
            assert_eq!(append(&log, offset * 10), offset);
        }
        log.close().unwrap();
        // The entry that closes a segment is not there when one more batch made the last.
        assert_eq!(bench.read("00000000000000000040.timeindex").unwrap().len() / 12, 15);
        bench.damage(&log_name(40), size + 65, &[0xff]);
        let (log, _) = bench.open_with(&config, OpenHints { log_start: Some(40), ..OpenHints::default() });
        assert_eq!(log.log_end(), 41);
        assert_eq!(log.tail.lock().active.max_timestamp().unwrap(), 400);
        assert_eq!(log.offset_for_time(401).unwrap(), None);
        log.close().unwrap();
        // None but the one that closes the segment.
        assert_eq!(bench.read("00000000000000000040.timeindex").unwrap().len() / 12, 1);
        assert_eq!(bench.read("00000000000000000040.index").unwrap().len() / 8, 0);
    });
}

#[test]
fn d08_a_segment_cut_to_nothing_takes_the_same_offsets_again() {
    each(|bench| {
        bench.plant(40, &[one(40), one(41)]);
        bench.damage(&log_name(40), 30, &[0xff; 4]);
        let config = page_cache().segment_ms(1_000);
        let file = bench.read(&log_name(40)).unwrap();
        bench.write(&log_name(40), &file[..file.len() - one(41).len()]);
        bench.clock.advance(Duration::from_secs(100));
        let (log, _) = bench.open_with(&config, OpenHints::default());
        assert_eq!((log.log_start(), log.log_end()), (40, 40));
        assert_eq!((append(&log, 400), append(&log, 410)), (40, 41));
        // Its age begins with the new first record.
        assert_eq!(segments(&log), [40]);
        assert_eq!(log.offset_for_time(401).unwrap(), Some((41, 410)));
    });
}

#[test]
fn d11_d12_garbage_indexes_are_rebuilt_by_recovery() {
    each(|bench| {
        let mut random = Random::new("d11");
        let config = page_cache().index_interval_bytes(1);
        let (log, _) = bench.open(&config);
        for offset in 0..100 {
            append(&log, offset * 10);
        }
        log.close().unwrap();
        for name in ["00000000000000000000.index", "00000000000000000000.timeindex"] {
            let len = bench.read(name).unwrap().len();
            bench.write(name, &random.bytes(len));
        }
        let (log, _) = bench.open(&config);
        for i in 0..100 {
            assert_eq!(log.get(i, Default::default()).unwrap().unwrap().record().offset(), i);
            assert_eq!(log.offset_for_time(i * 10).unwrap(), Some((i, i * 10)));
            let next = (i < 99).then(|| (i + 1, (i + 1) * 10));
            assert_eq!(log.offset_for_time(i * 10 + 1).unwrap(), next);
        }
    });
}

#[test]
fn d13_damage_in_record_k_up_to_the_end_leaves_the_records_before_it() {
    each(|bench| {
        let mut random = Random::new("d13");
        let size = one(10).len();
        for _ in 0..10 {
            bench.plant(0, &(10..30).map(one).collect::<Vec<_>>());
            let (k, within) = (random.below(20), random.below(size));
            let position = k * size + within;
            bench.damage(&log_name(0), position, &random.bytes(20 * size - position));
            let (log, _) = bench.open_kafkas();
            assert_eq!(offsets(&log), (10..10 + k as Offset).collect::<Vec<_>>(), "{k} {within}");
        }
    });
}

// ───────── E: rolling

#[test]
fn e01_size_rolls() {
    each(|bench| {
        let size = one(0).len() as u64;
        let (log, _) = bench.open(&page_cache().segment_bytes(10 * (size - 1)));
        for _ in 0..11 {
            append(&log, 0);
        }
        assert_eq!(segments(&log).len(), 2);
    });
}

#[test]
fn e02_without_timestamps_age_rolls_but_not_an_empty_segment() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache().segment_ms(1_000));
        bench.clock.advance(Duration::from_millis(1_001));
        append(&log, -1);
        assert_eq!(segments(&log), [0]);
        append(&log, -1);
        assert_eq!(segments(&log), [0, 1]);
    });
}

#[test]
fn e03_with_timestamps_only_theirs_roll() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache().segment_ms(1_000));
        append(&log, 5_000);
        bench.clock.advance(Duration::from_secs(3_600));
        append(&log, 5_000);
        assert_eq!(segments(&log), [0]);
        append(&log, 6_001);
        assert_eq!(segments(&log), [0, 2]);
    });
}

#[test]
fn e04_nothing_to_append_rolls_nothing() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache().segment_ms(1_000));
        append(&log, -1);
        bench.clock.advance(Duration::from_secs(3_600));
        assert_eq!(log.append(&mut [], None).unwrap(), 0);
        assert_eq!(segments(&log), [0]);
    });
}

#[test]
fn e05_jitter_makes_segments_shorter_by_less_than_it_says() {
    each(|bench| {
        let (segment_ms, jitter_ms) = (1_000, 500);
        let (log, _) = bench.open(&page_cache().segment_ms(segment_ms).segment_jitter_ms(jitter_ms));
        append(&log, -1);
        let real_ms = log.tail.lock().segment_ms;
        assert!((segment_ms - jitter_ms..=segment_ms).contains(&real_ms), "{real_ms}");
        bench.clock.advance(Duration::from_millis(segment_ms - jitter_ms));
        append(&log, -1);
        assert_eq!(segments(&log), [0]);
        bench.clock.advance(Duration::from_millis(real_ms + 1 - (segment_ms - jitter_ms)));
        append(&log, -1);
        assert_eq!(segments(&log), [0, 2]);
    });
}

#[test]
fn e06_an_offset_too_far_from_the_base_rolls() {
    each(|bench| {
        let far = Offset::from(i32::MAX);
        bench.plant(0, &[one(0), one(far - 1)]);
        let (log, _) = bench.open_kafkas();
        assert_eq!(append(&log, -1), far);
        assert_eq!(segments(&log), [0]);
        assert_eq!(append(&log, -1), far + 1);
        assert_eq!(segments(&log), [0, far + 1]);
        log.close().unwrap();
        let (log, events) = bench.open_kafkas();
        assert_eq!(events, []);
        assert_eq!(offsets(&log), [0, far - 1, far, far + 1]);
    });
}

#[test]
fn e07_full_indexes_roll() {
    each(|bench| {
        // Room for two time entries, one of which is kept for the roll.
        let (log, _) = bench.open(&page_cache().segment_index_bytes(24).index_interval_bytes(1));
        for i in 0..5 {
            append(&log, i);
        }
        assert_eq!(segments(&log), [0, 2, 4]);
        log.close().unwrap();
        let (log, _) = bench.open(&page_cache());
        assert_eq!(offsets(&log), [0, 1, 2, 3, 4]);
    });
}

#[test]
fn e08_a_closed_segment_has_exact_indexes_and_is_synced_before_the_recovery_point_passes_it() {
    each(|bench| {
        let size = one(0).len() as u64;
        let (log, _) = bench.open(&page_cache().segment_bytes(4 * size).index_interval_bytes(1));
        for i in 0..5 {
            append(&log, i * 10);
        }
        assert_eq!(segments(&log), [0, 4]);
        log.sync_due().unwrap();
        assert!(log.recovery_point() >= 4);
        let entry =
            |ms: i64, offset: i32| [ms.to_be_bytes().to_vec(), offset.to_be_bytes().to_vec()].concat();
        assert_eq!(
            bench.read("00000000000000000000.timeindex").unwrap(),
            [entry(10, 1), entry(20, 2), entry(30, 3)].concat()
        );
        assert_eq!(bench.read("00000000000000000000.index").unwrap().len(), 3 * 8);
    });
}

// A segment of the list can not have the base of the next one: the base is the log's end. A file of that name can.
#[test]
fn e09_a_stray_file_at_the_next_base_is_no_part_of_the_log() {
    each(|bench| {
        let size = one(0).len() as u64;
        let (log, _) = bench.open(&page_cache().segment_bytes(2 * size));
        append(&log, 0);
        append(&log, 1);
        bench.plant(2, &[one(2), one(3), one(4)]);
        append(&log, 2);
        assert_eq!(segments(&log), [0, 2]);
        assert_eq!(offsets(&log), [0, 1, 2]);
        log.close().unwrap();
        assert_eq!(offsets(&bench.open(&page_cache()).0), [0, 1, 2]);
    });
}

// ───────── F: reads and appends

#[test]
fn f01_reads_outside_the_log_are_out_of_range_at_its_end_empty() {
    each(|bench| {
        bench.plant(1_024, &[one(1_024)]);
        let (log, _) = bench.open(&page_cache());
        assert!(log.read(1_025, ReadOptions::max_bytes(1_000)).unwrap().is_empty());
        assert_eq!(out_of_range(log.read(0, ReadOptions::max_bytes(1_000))), Some((0, 1_024..1_025)));
        assert_eq!(out_of_range(log.read(1_026, ReadOptions::max_bytes(1_000))), Some((1_026, 1_024..1_025)));
        assert_eq!(out_of_range(log.read(-1, ReadOptions::max_bytes(1_000))), Some((-1, 1_024..1_025)));
    });
}

#[test]
fn f02_at_least_one_whole_batch_is_read_however_few_bytes_are_asked_for() {
    each(|bench| {
        // Batches of two records, offsets apart.
        bench.plant(0, &(0..50).map(|i| batch(&[(i * 7, i), (i * 7 + 3, i)])).collect::<Vec<_>>());
        let (log, _) = bench.open_kafkas();
        for i in 0..346 {
            let records = log.read(i, ReadOptions::max_bytes(1)).unwrap();
            let first = records.batches().next().unwrap();
            assert_eq!(records.batches().count(), 1);
            // The batch with the smallest last offset at or behind i.
            let expected = (0..50).map(|k| k * 7 + 3).find(|last| *last >= i).unwrap();
            assert_eq!(first.last_offset(), expected, "{i}");
            assert_eq!(records.next_offset(), Some(expected + 1));
        }
    });
}

#[test]
fn f03_a_read_in_a_hole_between_segments_gives_what_lies_behind() {
    each(|bench| {
        bench.plant(0, &[one(0), one(1)]);
        bench.plant(10, &[one(10), one(11)]);
        let (log, _) = bench.open_kafkas();
        for offset in 2..=10 {
            assert_eq!(
                log.read(offset, ReadOptions::max_bytes(1)).unwrap().iter().next().unwrap().offset(),
                10,
                "{offset}"
            );
        }
        assert_eq!(offsets(&log), [0, 1, 10, 11]);
    });
}

// Offsets of our own topics have no gaps, so there a hole is a loss and is said, not stepped over.
#[test]
fn f03_a_hole_in_a_topic_of_ours_is_an_error_that_says_where_to_go_on() {
    each(|bench| {
        bench.plant(0, &[one(0), one(1)]);
        bench.plant(10, &[one(10), one(11)]);
        let proven = OpenHints { recovery_point: Some(12), contiguous: true, ..OpenHints::default() };
        let (log, _) = bench.open_with(&page_cache(), proven);
        let error = log.read(5, ReadOptions::max_bytes(1)).unwrap_err();
        let ErrorKind::Corrupt { offsets, resume_at, file, .. } = error.kind() else { panic!("{error}") };
        assert_eq!((offsets.clone(), *resume_at), (5..10, 10));
        assert!(file.ends_with(log_name(0)));
        assert_eq!(log.read(10, ReadOptions::max_bytes(1 << 20)).unwrap().len(), 2);
    });
}

#[test]
fn f04_what_is_too_large_is_refused_and_the_log_is_unchanged() {
    each(|bench| {
        let size = batch(&[(0, 0), (1, 0)]).len();
        for config in [page_cache().max_message_bytes(size - 1), page_cache().segment_bytes(size as u64 - 1)]
        {
            let (log, _) = bench.open(&config);
            let before = (log.log_end(), bench.read(&log_name(0)).unwrap());
            let error = log.append(&mut [sealed(&[(0, 0), (1, 0)], Compression::None)], None).unwrap_err();
            let ErrorKind::RecordTooLarge { bytes, limit, .. } = error.kind() else { panic!("{error}") };
            assert_eq!((*bytes, *limit), (size, size - 1));
            assert_eq!((log.log_end(), bench.read(&log_name(0)).unwrap()), before);
            append(&log, 0);
            log.close().unwrap();
        }
    });
}

// Leader epochs are not part of an answer here: there is one leader.
#[test]
fn f07_a_time_finds_its_record_earliest_is_the_start_latest_the_end() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache());
        append(&log, 1_000);
        append(&log, 1_001);
        assert_eq!(log.offset_for_time(1_000).unwrap(), Some((0, 1_000)));
        assert_eq!(log.offset_for_time(1_001).unwrap(), Some((1, 1_001)));
        assert_eq!(log.offset_for_time(1_002).unwrap(), None);
        assert_eq!((log.log_start(), log.high_watermark()), (0, 2));
    });
}

#[test]
fn f12_append_time_is_stamped_and_the_payload_is_left_as_it_came() {
    let mut codecs = vec![Compression::None];
    codecs.extend(
        [Compression::Lz4, Compression::Zstd, Compression::Snappy, Compression::Gzip]
            .into_iter()
            .filter(|c| c.is_built()),
    );
    each(|bench| {
        let config = page_cache().timestamp_type(TimestampType::LogAppendTime);
        let (log, _) = bench.open(&config);
        for (i, codec) in codecs.iter().enumerate() {
            let came = sealed(&[(0, 5), (1, 7), (2, 6)], *codec);
            let payload = came.bytes()[61..].to_vec();
            let mut batches = [came];
            log.append(&mut batches, None).unwrap();
            let header = *batches[0].header();
            assert_eq!((header.base_offset, header.max_timestamp), (i as Offset * 3, NOW_MS as i64));
            assert_eq!(&batches[0].bytes()[61..], payload);
            let records = log.read(header.base_offset, ReadOptions::max_bytes(1)).unwrap();
            assert_eq!(records.len(), 3);
            assert!(records.iter().all(|record| record.timestamp_ms() == NOW_MS as i64));
        }
    });
}

// ───────── G: opening and recovery

/// Thirty records over some segments, closed in order. Returns the segments' bases.
fn thirty(bench: &Bench, config: &TopicConfig) -> Vec<Offset> {
    let (log, _) = bench.open(config);
    for i in 0..30 {
        append(&log, i * 10);
    }
    let bases = segments(&log);
    log.close().unwrap();
    bases
}

fn rolling() -> TopicConfig {
    page_cache().segment_bytes(7 * one(1).len() as u64).index_interval_bytes(one(1).len() as u64)
}

fn assert_thirty(log: &Arc<Log>) {
    assert_eq!(offsets(log), (0..30).collect::<Vec<_>>());
    for i in 0..30 {
        assert_eq!(log.offset_for_time(i * 10).unwrap(), Some((i, i * 10)));
        assert_eq!(log.get(i, Default::default()).unwrap().unwrap().record().timestamp_ms(), i * 10);
    }
    assert_eq!(log.offset_for_time(291).unwrap(), None);
}

#[test]
fn g01_after_a_clean_stop_everything_is_as_it_was_and_nothing_is_scanned() {
    each(|bench| {
        let bases = thirty(bench, &rolling());
        let indexes = |bench: &Bench| {
            let names = bench.names();
            let indexes = names.into_iter().filter(|name| name.ends_with("index"));
            indexes.map(|name| (bench.read(&name), name)).collect::<Vec<_>>()
        };
        let before = indexes(bench);
        // Damage that a scan would see, in a record's value.
        bench.damage(&log_name(0), 80, &[0xff]);
        let hints =
            OpenHints { recovery_point: Some(30), clean: true, contiguous: true, ..OpenHints::default() };
        let (log, events) = bench.open_with(&rolling(), hints);
        assert_eq!(events, []);
        assert_eq!((log.log_end(), log.recovery_point(), segments(&log)), (30, 30, bases));
        log.close().unwrap();
        assert_eq!(indexes(bench), before);
    });
}

// Kafka leaves the recovery point at the checkpoint until the next flush; our recovery syncs what it looked at, since
// a second crash must not take back what is about to be served.
#[test]
fn g02_after_a_crash_everything_is_there_and_synced() {
    each(|bench| {
        thirty(bench, &rolling());
        let hints = OpenHints { recovery_point: Some(10), contiguous: true, ..OpenHints::default() };
        let (log, events) = bench.open_with(&rolling(), hints);
        assert_eq!(events, []);
        assert_thirty(&log);
        assert_eq!(log.recovery_point(), 30);
    });
}

#[test]
fn g03_without_any_index_all_are_rebuilt() {
    for clean in [false, true] {
        each(|bench| {
            thirty(bench, &rolling());
            let before: Vec<_> = bench.names().into_iter().map(|name| (bench.read(&name), name)).collect();
            for (_, name) in before.iter().filter(|(_, name)| name.ends_with("index")) {
                bench.storage.remove_file(&bench.path(name)).unwrap();
            }
            let recovery_point = clean.then_some(30);
            let (log, events) = bench.open_with(
                &rolling(),
                OpenHints { recovery_point, clean, contiguous: true, ..OpenHints::default() },
            );
            assert_eq!(events, []);
            assert_thirty(&log);
            log.close().unwrap();
        });
    }
}

#[test]
fn g04_a_missing_index_is_rebuilt_and_other_segments_are_left_alone() {
    each(|bench| {
        let bases = thirty(bench, &rolling());
        bench.storage.remove_file(&bench.path(&format!("{:020}.index", bases[1]))).unwrap();
        let others: Vec<_> = bench
            .names()
            .into_iter()
            .filter(|name| !name.starts_with(&format!("{:020}", bases[1])) && !name.starts_with("logstead"))
            .map(|name| (bench.read(&name), name))
            .collect();
        let hints =
            OpenHints { recovery_point: Some(30), clean: true, contiguous: true, ..OpenHints::default() };
        let (log, _) = bench.open_with(&rolling(), hints);
        assert_thirty(&log);
        log.close().unwrap();
        for (bytes, name) in others {
            assert_eq!(bench.read(&name), bytes, "{name}");
        }
    });
}

#[test]
fn g05_indexes_without_a_log_are_removed_and_it_is_said() {
    each(|bench| {
        bench.plant(0, &[one(0)]);
        bench.write("00000000000000000005.index", b"");
        bench.write("00000000000000000005.timeindex", &[0; 12]);
        let (log, mut events) = bench.open(&page_cache());
        assert_eq!(offsets(&log), [0]);
        events.sort_by_key(ToString::to_string);
        let removed = |name| RecoveryEvent::LeftoverRemoved { file: bench.path(name) };
        assert_eq!(events, ["00000000000000000005.index", "00000000000000000005.timeindex"].map(removed));
        assert!(!bench.names().iter().any(|name| name.starts_with("00000000000000000005")));
    });
}

#[test]
fn g06_random_bytes_behind_log_and_index_cost_nothing() {
    each(|bench| {
        let mut random = Random::new("g06");
        thirty(bench, &rolling());
        for _ in 0..10 {
            let last = *bench.bases().last().unwrap();
            for suffix in ["log", "index"] {
                let name = format!("{last:020}.{suffix}");
                let mut bytes = bench.read(&name).unwrap_or_default();
                let more = 1 + random.below(1_024);
                bytes.extend(random.bytes(more));
                bench.write(&name, &bytes);
            }
            let (log, events) = bench.open(&rolling());
            assert!(matches!(&*events, [RecoveryEvent::TailCut { .. }]), "{events:?}");
            assert_thirty(&log);
            log.close().unwrap();
        }
    });
}

// Kafka deletes the segments behind the cut; ours are set aside, whole, and the report names them.
#[test]
fn g07_damage_above_the_recovery_point_cuts_there_and_later_segments_are_set_aside() {
    each(|bench| {
        let bases = thirty(bench, &rolling());
        assert!(bases.len() >= 4, "{bases:?}");
        let (middle, size) = (bases[1], one(1).len());
        let later: Vec<_> = bases[2..].iter().map(|base| bench.read(&log_name(*base)).unwrap()).collect();
        bench.damage(&log_name(middle), size + 65, &[0xff]);
        let hints = OpenHints { recovery_point: Some(middle), contiguous: true, ..OpenHints::default() };
        let (log, events) = bench.open_with(&rolling(), hints);
        assert_eq!(offsets(&log), (0..=middle).collect::<Vec<_>>());
        assert_eq!(bench.bases(), [bases[0], middle]);
        let RecoveryEvent::TailCut { file, quarantine: Some(_), .. } = &events[0] else {
            panic!("{events:?}")
        };
        assert!(file.ends_with(log_name(middle)));
        for (bytes, event) in later.iter().zip(&events[1..]) {
            let RecoveryEvent::SegmentSetAside { quarantine: Some(to), .. } = event else {
                panic!("{event}")
            };
            let name = to.file_name().unwrap().to_str().unwrap();
            assert_eq!(bench.read(name).as_ref(), Some(bytes));
        }
        assert_eq!(events.len(), 1 + later.len());
        assert_eq!(append(&log, -1), middle + 1);
    });
}

// As in Kafka the open does not look below the recovery point; unlike there, no read gives such bytes out.
#[test]
fn g08_damage_below_the_recovery_point_is_found_by_the_read_that_meets_it() {
    each(|bench| {
        let bases = thirty(bench, &rolling());
        bench.damage(&log_name(0), one(1).len() + 65, &[0xff]);
        let hints = OpenHints { recovery_point: Some(bases[2]), contiguous: true, ..OpenHints::default() };
        let (log, events) = bench.open_with(&rolling(), hints);
        assert_eq!(events, []);
        let error = log.read(1, ReadOptions::max_bytes(1)).unwrap_err();
        let ErrorKind::Corrupt { offsets, resume_at: 2, .. } = error.kind() else { panic!("{error}") };
        assert_eq!(*offsets, 1..2);
        assert_eq!(log.read(2, ReadOptions::max_bytes(1)).unwrap().iter().next().unwrap().offset(), 2);
        assert_eq!(log.log_end(), 30);
    });
}

#[test]
fn g09_a_log_that_ends_below_its_start_begins_anew_at_the_start() {
    each(|bench| {
        bench.plant(0, &[one(0), one(1)]);
        bench.damage(&log_name(0), 0, &[0xff; 200]);
        let (log, events) = bench.open_with(
            &page_cache(),
            OpenHints { log_start: Some(4), recovery_point: Some(0), ..OpenHints::default() },
        );
        assert_eq!((log.log_start(), log.log_end(), segments(&log)), (4, 4, vec![4]));
        assert!(matches!(events.as_slice(), [.., RecoveryEvent::SegmentSetAside { .. }]), "{events:?}");
        assert_eq!(bench.bases(), [4]);
        assert_eq!(append(&log, -1), 4);
    });
}

// The checkpoint of log starts has no checksum: one that lies must not take committed records out of the log.
#[test]
fn a_wrong_start_checkpoint_removes_nothing_of_a_log_of_ours() {
    for proven in [2, 900] {
        each(|bench| {
            bench.plant(0, &[one(0), one(1)]);
            let hints = OpenHints {
                log_start: Some(800),
                recovery_point: Some(proven),
                contiguous: true,
                ..OpenHints::default()
            };
            let (log, events) = bench.open_with(&page_cache(), hints);
            let rot = events.iter().any(|event| matches!(event, RecoveryEvent::Rot { .. }));
            assert_eq!(rot, proven == 900, "{events:?}");
            assert_eq!((log.log_start(), bench.bases()[0]), (0, 0));
            assert_eq!(log.read(0, ReadOptions::max_bytes(1 << 20)).unwrap().iter().count(), 2);
            assert_eq!(append(&log, -1), proven);
        });
    }
}

/// A batch of a transaction, or its marker.
fn of_producer(offset: Offset, producer_id: i64, marker: Option<crate::record::ControlType>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(0);
    let control = marker.is_some();
    let sequence = if control { -1 } else { 0 };
    builder.set_fields(crate::record::BatchFields {
        producer_id,
        producer_epoch: 0,
        base_sequence: sequence,
        transactional: true,
        control,
        ..Default::default()
    });
    match marker {
        Some(marker) => builder.push_end_marker(1, marker, 0).unwrap(),
        None => builder.push(1, Some(b"key"), Some(b"value"), &[]).unwrap(),
    };
    let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    sealed.place(offset, 0);
    sealed.bytes().to_vec()
}

#[test]
fn beside_a_broker_what_becomes_of_a_transaction_is_seen_when_it_is_decided() {
    use crate::config::IsolationLevel::ReadCommitted;
    use crate::record::ControlType::{Abort, Commit};
    each(|bench| {
        let batches = [
            of_producer(0, 7, None),
            of_producer(1, 8, None),
            of_producer(2, 7, Some(Abort)),
            of_producer(3, 7, None),
            of_producer(4, 8, Some(Commit)),
            of_producer(5, 7, Some(Commit)),
        ];
        bench.plant(0, &batches[..1]);
        let context = Arc::new(Context {
            read_only: true,
            lookout: Some(Lookout::new(&bench.storage, false)),
            ..bench.context()
        });
        let (name, config) = (TopicName::new("t").unwrap(), Arc::new(page_cache()));
        let (log, _) = Log::open(&context, &name, 0, config, OpenHints::default(), Arc::default()).unwrap();
        // The last stable offset, and what is shown below it.
        let expected: [(Offset, &[Offset]); 6] =
            [(0, &[]), (0, &[]), (1, &[]), (1, &[]), (3, &[1]), (6, &[1, 3])];
        for (i, (end, shown)) in expected.into_iter().enumerate() {
            bench.plant(0, &batches[..=i]);
            log.look().unwrap();
            assert_eq!(log.high_watermark(), i as Offset + 1);
            assert_eq!(log.read_end(ReadCommitted).unwrap(), end, "after batch {i}");
            let options = ReadOptions { isolation_level: ReadCommitted, ..ReadOptions::max_bytes(1 << 20) };
            let records = log.read(0, options).unwrap();
            assert_eq!(records.iter().map(|record| record.offset()).collect::<Vec<_>>(), shown);
        }
    });
}

#[test]
fn who_is_refused_while_a_deletion_waits_for_a_sync_hears_of_the_deletion() {
    let bench = Bench::new(Arc::new(SimDisk::in_memory()), None);
    let (log, _) = bench.open(&TopicConfig::default());
    let lead = log.try_lead().unwrap();
    std::thread::scope(|scope| {
        let deletion = scope.spawn(|| log.abandon(ErrorKind::TopicDeleted { topic: "t".to_owned() }));
        let refused = loop {
            match log.check_writable() {
                Ok(()) => std::thread::yield_now(),
                Err(refused) => break refused,
            }
        };
        assert!(!deletion.is_finished(), "a sync is under way");
        assert!(matches!(refused.kind(), ErrorKind::TopicDeleted { .. }), "{refused}");
        drop(lead);
    });
}

#[test]
fn a_log_that_is_given_up_is_kept_by_nobody_who_was_about_to_note_it() {
    let bench = Bench::new(Arc::new(SimDisk::in_memory()), None);
    let (log, _) = bench.open(&TopicConfig::default());
    append(&log, 1);
    log.context.unsynced.note_dirty(&log);
    assert!(Arc::strong_count(&log) > 1);
    log.abandon(ErrorKind::Closed);
    log.noted_dirty.store(false, Ordering::SeqCst);
    log.context.unsynced.note_dirty(&log);
    assert_eq!(Arc::strong_count(&log), 1);
}

#[test]
fn a_sleeper_is_woken_for_what_is_due_before_it_wakes_itself_or_when_its_clock_is_another() {
    let at = Duration::from_secs;
    let woken = |until: Duration, now, due| {
        let wake = Wake::default();
        wake.until.store(micros(until), Ordering::SeqCst);
        wake.wake_by(at(now), at(due));
        wake.until.load(Ordering::SeqCst) == 0
    };
    assert!(woken(at(20), 10, 19));
    assert!(!woken(at(20), 10, 20) && !woken(at(20), 10, 30));
    assert!(woken(at(20), 20, 30), "by the clock of who comes it should be awake");

    let wake = Wake::default();
    wake.wake_by(at(1), at(1));
    wake.fall_asleep();
    wake.wake_by(at(10), at(9_999));
    // Its bell is rung: it does not sleep, and is awake then.
    wake.sleep(at(10), at(3_600));
    assert_eq!(wake.until.load(Ordering::SeqCst), 0);
}
