//! Kafka's cases K, and the swap cases of G, by number.

use super::*;
use crate::config::{Cleanup, IsolationLevel};
use crate::log::compact::{CompactOptions, CompactionReport};
use crate::record::{BatchFields, BatchHeader, ControlType, header};
use crate::segment::AbortedTxn;

fn compacted() -> TopicConfig {
    page_cache().cleanup_policy(Cleanup::COMPACT)
}

const UNCOMMITTED: IsolationLevel = IsolationLevel::ReadUncommitted;

const HINTS: OpenHints =
    OpenHints { recovery_point: None, log_start: None, clean: false, contiguous: true, cleaned_to: None };

fn options(stop: &(dyn Fn() -> bool + Sync)) -> CompactOptions<'_> {
    CompactOptions { map_bytes: 1 << 20, bytes_per_second: None, wait: false, stop }
}

fn try_compact(log: &Arc<Log>, map_bytes: usize) -> Result<Option<CompactionReport>> {
    log.compact(&CompactOptions { map_bytes, ..options(&|| false) })
}

/// Closes the active segment and compacts.
fn clean(log: &Arc<Log>) -> CompactionReport {
    log.roll_active().unwrap();
    try_compact(log, 1 << 20).unwrap().expect("something to compact")
}

type Entry<'e> = (&'e str, Option<&'e str>);

fn plain(entries: &[Entry<'_>], timestamp: i64) -> Sealed {
    fields(entries, timestamp, BatchFields::default())
}

fn fields(entries: &[Entry<'_>], timestamp: i64, fields: BatchFields) -> Sealed {
    let mut builder = BatchBuilder::new(0);
    builder.set_fields(fields);
    for (key, value) in entries {
        let key = Some(*key).filter(|key| !key.is_empty()).map(str::as_bytes);
        builder.push(timestamp, key, value.map(str::as_bytes), &[header("h", "1")]).unwrap();
    }
    builder.seal(Compression::None, None, &mut Vec::new()).unwrap()
}

fn put(log: &Arc<Log>, batch: Sealed) -> Offset {
    let mut batches = [batch];
    assert_eq!(log.append(&mut batches, None).unwrap(), 1);
    batches[0].header().base_offset
}

/// Appends each of these keys as a batch of its own.
fn puts(log: &Arc<Log>, keys: &[&str]) {
    for key in keys {
        put(log, plain(&[(key, Some("v"))], 5));
    }
}

/// Offset and key of all records, in order.
fn keys(log: &Arc<Log>) -> Vec<(Offset, String)> {
    let mut keys = Vec::new();
    let mut at = log.log_start();
    while at < log.high_watermark() {
        let records = log.read(at, ReadOptions::max_bytes(1 << 20)).unwrap();
        keys.extend(records.iter().map(|record| {
            (record.offset(), String::from_utf8(record.key().unwrap_or_default().to_vec()).unwrap())
        }));
        at = records.next_offset().unwrap_or(log.high_watermark());
    }
    keys
}

fn only_keys(log: &Arc<Log>) -> Vec<String> {
    keys(log).into_iter().map(|(_, key)| key).collect()
}

/// The headers of all batches of the closed segments.
fn headers(bench: &Bench, log: &Log) -> Vec<BatchHeader> {
    let closed = segments(log);
    let mut headers = Vec::new();
    for base in &closed[..closed.len() - 1] {
        let bytes = bench.read(&log_name(*base)).unwrap();
        let mut at = 0;
        while at < bytes.len() {
            let header = BatchHeader::parse(&bytes[at..]).unwrap();
            at += header.size();
            headers.push(header);
        }
    }
    headers
}

fn last_offsets(bench: &Bench, log: &Log) -> Vec<Offset> {
    headers(bench, log).iter().map(BatchHeader::last_offset).collect()
}

/// How many files of an exchange there are.
fn left_over(bench: &Bench) -> usize {
    let ends = [".cleaned", ".swap", ".deleted"];
    bench.names().iter().filter(|name| ends.iter().any(|end| name.ends_with(end))).count()
}

/// Batches of one producer.
struct Writer {
    id: i64,
    sequence: i32,
    transactional: bool,
}

impl Writer {
    fn new(id: i64) -> Writer {
        Writer { id, sequence: 0, transactional: false }
    }

    fn transactional(id: i64) -> Writer {
        Writer { transactional: true, ..Writer::new(id) }
    }

    fn batch(&mut self, keys: &[&str]) -> Sealed {
        let entries: Vec<Entry<'_>> = keys.iter().map(|key| (*key, Some("v"))).collect();
        let sequence = self.sequence;
        self.sequence += i32::try_from(keys.len()).unwrap();
        let of = BatchFields {
            producer_id: self.id,
            producer_epoch: 0,
            base_sequence: sequence,
            transactional: self.transactional,
            ..BatchFields::default()
        };
        fields(&entries, NOW_MS as i64, of)
    }

    fn put(&mut self, log: &Arc<Log>, keys: &[&str]) -> Offset {
        put(log, self.batch(keys))
    }

    fn end(&self, log: &Arc<Log>, kind: ControlType) -> Offset {
        let mut builder = BatchBuilder::new(0);
        builder.set_fields(BatchFields {
            producer_id: self.id,
            producer_epoch: 0,
            transactional: true,
            control: true,
            ..BatchFields::default()
        });
        builder.push_end_marker(NOW_MS as i64, kind, 0).unwrap();
        put(log, builder.seal(Compression::None, None, &mut Vec::new()).unwrap())
    }
}

// ───────── K: compaction

#[test]
fn k01_keys_with_newer_records_go_and_the_others_stay_in_order() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        for i in 0..10 {
            puts(&log, &[&i.to_string()]);
            if i % 4 == 3 {
                log.roll_active().unwrap();
            }
        }
        puts(&log, &["1", "3", "5", "7", "9"]);
        let before = log.size_bytes();
        let report = clean(&log);
        assert_eq!(only_keys(&log), ["0", "2", "4", "6", "8", "1", "3", "5", "7", "9"]);
        assert_eq!(offsets(&log), [0, 2, 4, 6, 8, 10, 11, 12, 13, 14]);
        assert_eq!((report.from, report.to, report.keys), (0, 15, 10));
        assert_eq!((report.records_before, report.records_after), (15, 10));
        assert_eq!((report.bytes_before, report.bytes_after), (before, log.size_bytes()));
        assert_eq!((report.segments_before, report.segments_after), (3, 1));
        // What is clean is not compacted again.
        assert_eq!(try_compact(&log, 1 << 20).unwrap(), None);
        // Other things lead to the same: a second life, and one after a crash of the system.
        for hints in [HINTS, OpenHints { recovery_point: Some(15), clean: true, ..HINTS }] {
            let (log, events) = bench.open_with(&compacted(), hints);
            assert_eq!(events, []);
            assert_eq!(offsets(&log), [0, 2, 4, 6, 8, 10, 11, 12, 13, 14]);
        }
    });
}

#[test]
fn k03_k04_the_last_batch_of_a_producer_stays_and_tells_its_duplicates() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        let (mut p1, mut p2, mut p3, mut p4) =
            (Writer::new(1), Writer::new(2), Writer::new(3), Writer::new(4));
        p1.put(&log, &["1", "2", "3"]);
        p2.put(&log, &["3", "1", "4"]);
        p3.put(&log, &["1", "4"]);
        clean(&log);
        let expected = [(1, "2"), (3, "3"), (6, "1"), (7, "4")].map(|(o, k)| (o, k.to_owned()));
        assert_eq!(keys(&log), expected);
        assert_eq!(last_offsets(bench, &log), [2, 5, 7]);
        let sequences: Vec<i32> = headers(bench, &log).iter().map(BatchHeader::last_sequence).collect();
        assert_eq!(sequences, [2, 2, 1]);

        let duplicates = |log: &Arc<Log>| {
            let end = log.log_end();
            for (id, keys, offset) in
                [(1, ["1", "2", "3"].as_slice(), 0), (2, &["3", "1", "4"], 3), (3, &["1", "4"], 6)]
            {
                assert_eq!(Writer::new(id).put(log, keys), offset, "of producer {id}");
            }
            assert_eq!(log.log_end(), end);
        };
        drop(log);
        let (log, _) = bench.open(&compacted());
        duplicates(&log);

        p4.put(&log, &["2"]);
        clean(&log);
        assert_eq!(last_offsets(bench, &log), [2, 5, 7, 8]);
        assert_eq!(headers(bench, &log)[0].count, 0, "the first became empty");
        assert_eq!(offsets(&log), [3, 6, 7, 8]);
        drop(log);
        let (log, _) = bench.open(&compacted());
        duplicates(&log);
    });
}

#[test]
fn k05_only_the_last_batch_of_each_producer_stays_empty() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        puts(&log, &["0"]);
        let (mut p1, mut p2, mut p3) = (Writer::new(1), Writer::new(2), Writer::new(3));
        p1.put(&log, &["0"]);
        p2.put(&log, &["0"]);
        p3.put(&log, &["0"]);
        p2.put(&log, &["1"]);
        clean(&log);
        assert_eq!(last_offsets(bench, &log), [1, 3, 4]);
        assert_eq!(offsets(&log), [3, 4]);
    });
}

#[test]
fn k06_the_last_batch_of_an_aborted_transaction_stays_empty_while_it_is_the_last() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        let mut p = Writer::transactional(7);
        p.put(&log, &["1"]);
        p.put(&log, &["2", "3"]);
        p.end(&log, ControlType::Abort);
        clean(&log);
        assert_eq!(last_offsets(bench, &log), [2, 3]);
        assert_eq!(headers(bench, &log)[0].count, 0);
        p.put(&log, &["1"]);
        p.end(&log, ControlType::Commit);
        clean(&log);
        assert_eq!(last_offsets(bench, &log)[..1], [3]);
        assert_eq!(keys(&log), [(4, "1".to_owned())]);
    });
}

#[test]
fn k07_of_aborted_transactions_only_markers_and_index_stay() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        let (mut p1, mut p2) = (Writer::transactional(1), Writer::transactional(2));
        p1.put(&log, &["1", "2"]);
        p2.put(&log, &["2", "3"]);
        p1.put(&log, &["3", "4"]);
        assert_eq!(p1.end(&log, ControlType::Abort), 6);
        p2.end(&log, ControlType::Commit);
        p1.put(&log, &["2"]);
        p1.end(&log, ControlType::Commit);
        let before = log.aborted_in(0..log.log_end()).unwrap();
        assert_eq!(before.len(), 1);
        clean(&log);
        assert_eq!(keys(&log), [(3, "3".to_owned()), (8, "2".to_owned())]);
        let records_and_markers: Vec<Offset> =
            headers(bench, &log).iter().filter(|h| h.count > 0).map(BatchHeader::last_offset).collect();
        assert_eq!(records_and_markers, [3, 6, 7, 8, 9]);
        assert_eq!(log.aborted_in(0..log.log_end()).unwrap(), before);
        let stored = bench.read("00000000000000000000.txnindex").unwrap();
        assert_eq!(crate::segment::txn_index::entries(&stored).collect::<Vec<AbortedTxn>>(), before);
    });
}

#[test]
fn k08_a_marker_goes_when_its_records_went_and_its_horizon_passed() {
    each(|bench| {
        let (log, _) = bench.open(&compacted().delete_retention_ms(1_000));
        let marker = |log: &Log| headers(bench, log).into_iter().find(BatchHeader::is_control);
        let mut p = Writer::transactional(1);
        p.put(&log, &["0", "1"]);
        p.end(&log, ControlType::Commit);
        puts(&log, &["0", "1"]);
        clean(&log);
        assert_eq!(marker(&log).unwrap().delete_horizon(), None, "its records were met");
        // The producer's batch goes when another one is its last.
        Writer { sequence: 2, ..Writer::transactional(1) }.put(&log, &["5"]);
        p.end(&log, ControlType::Commit);
        clean(&log);
        puts(&log, &["6"]);
        clean(&log);
        let horizon = marker(&log).unwrap().delete_horizon();
        assert_eq!(horizon, Some(NOW_MS as i64 + 1_000));
        bench.clock.advance(Duration::from_millis(999));
        puts(&log, &["6"]);
        clean(&log);
        assert_eq!(marker(&log).unwrap().delete_horizon(), horizon);
        assert_eq!(marker(&log).unwrap().last_offset(), 2);
        bench.clock.advance(Duration::from_millis(1));
        puts(&log, &["6"]);
        clean(&log);
        assert_ne!(marker(&log).map(|marker| marker.last_offset()), Some(2));
    });
}

#[test]
fn k09_a_tombstone_replaces_its_key_and_stays_until_its_horizon() {
    each(|bench| {
        let (log, _) = bench.open(&compacted().delete_retention_ms(1_000));
        puts(&log, &["0", "1", "2", "3"]);
        for key in ["0", "2"] {
            put(&log, plain(&[(key, None)], 9));
        }
        clean(&log);
        let expected = [(1, "1"), (3, "3"), (4, "0"), (5, "2")].map(|(o, k)| (o, k.to_owned()));
        assert_eq!(keys(&log), expected);
        let horizons: Vec<_> = headers(bench, &log).iter().map(BatchHeader::delete_horizon).collect();
        let horizon = Some(NOW_MS as i64 + 1_000);
        assert_eq!(horizons, [None, None, horizon, horizon]);
        // Their own time is what it was.
        let tombstone = log.get(4, UNCOMMITTED).unwrap().unwrap();
        assert_eq!((tombstone.record().value(), tombstone.record().timestamp_ms()), (None, 9));

        bench.clock.advance(Duration::from_millis(1_000));
        puts(&log, &["9"]);
        clean(&log);
        assert_eq!(only_keys(&log), ["1", "3", "9"]);
    });
}

#[test]
fn k10_the_horizon_counts_from_the_compaction_not_from_the_record() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        put(&log, plain(&[("0", None)], 1));
        for _ in 0..2 {
            puts(&log, &["1"]);
            clean(&log);
            bench.clock.advance(Duration::from_secs(3_600));
        }
        assert_eq!(only_keys(&log), ["0", "1"]);
    });
}

#[test]
fn k11_records_without_a_key_go() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache());
        put(&log, plain(&[("", Some("lost")), ("0", Some("v"))], 5));
        puts(&log, &["", "1"]);
        log.set_config(&Arc::new(compacted()));
        let report = clean(&log);
        assert_eq!(only_keys(&log), ["0", "1"]);
        assert_eq!((report.records_before, report.records_after), (4, 2));
    });
}

#[test]
fn k12_with_memory_for_one_key_each_pass_makes_one_step() {
    each(|bench| {
        let (log, _) = bench.open_with(&compacted(), OpenHints { cleaned_to: Some(2), ..HINTS });
        puts(&log, &["0", "1", "0", "1", "0"]);
        log.roll_active().unwrap();
        for (to, left) in [(3, &["1", "0", "1", "0"][..]), (4, &["0", "1", "0"]), (5, &["1", "0"])] {
            let report = try_compact(&log, 2 * 24).unwrap().unwrap();
            assert_eq!((report.to, report.keys), (to, 1));
            assert_eq!(report.map_was_full, to < 5, "up to {to}");
            assert_eq!(only_keys(&log), left);
        }
    });
}

#[test]
fn k13_a_full_map_ends_in_the_middle_of_a_batch() {
    each(|bench| {
        let (log, _) = bench.open_with(&compacted(), OpenHints { cleaned_to: Some(2), ..HINTS });
        put(&log, plain(&["0", "1", "2", "3", "4"].map(|key| (key, Some("v"))), 5));
        log.roll_active().unwrap();
        let report = try_compact(&log, 3 * 24).unwrap().unwrap();
        assert_eq!((report.from, report.to, report.keys), (2, 4, 2));
    });
}

#[test]
fn k14_a_gap_in_front_of_the_next_segment_does_not_hold_it_up() {
    each(|bench| {
        bench.plant(0, &[one(0), one(1)]);
        bench.plant(20, &[one(25)]);
        bench.plant(40, &[one(40)]);
        let (log, _) = bench.open_with(&compacted(), OpenHints { contiguous: false, ..HINTS });
        let report = try_compact(&log, 1 << 20).unwrap().unwrap();
        assert_eq!((report.to, log.cleaned_to()), (40, Some(40)));
        assert_eq!(offsets(&log), [25, 40]);
        assert_eq!(try_compact(&log, 1 << 20).unwrap(), None);
    });
}

#[test]
fn k23_a_batch_of_which_all_stays_is_copied_byte_by_byte_whatever_its_codec() {
    for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
        if codec.available().is_err() {
            continue;
        }
        each(|bench| {
            let (log, _) = bench.open(&compacted());
            let mut builder = BatchBuilder::new(0);
            for i in 0..50 {
                builder.push(i, Some(format!("{i}").as_bytes()), Some(&[b'x'; 100]), &[]).unwrap();
            }
            put(&log, builder.seal(codec, None, &mut Vec::new()).unwrap());
            let before = bench.read(&log_name(0)).unwrap();
            clean(&log);
            assert_eq!(bench.read(&log_name(0)).unwrap(), before, "{codec}");
        });
    }
}

#[test]
fn k24_a_batch_larger_than_what_is_read_at_once_is_compacted_and_a_damaged_one_ends_it() {
    each(|bench| {
        let (log, _) = bench.open(&compacted().max_message_bytes(8 << 20));
        let large = "x".repeat(3 << 20);
        put(&log, plain(&[("0", Some(&large)), ("1", Some("v"))], 5));
        puts(&log, &["1"]);
        clean(&log);
        assert_eq!(keys(&log), [(0, "0".to_owned()), (2, "1".to_owned())]);
        assert_eq!(log.get(0, UNCOMMITTED).unwrap().unwrap().record().value().unwrap().len(), large.len());

        puts(&log, &["0", "0"]);
        log.roll_active().unwrap();
        let base = *segments(&log).iter().rev().nth(1).unwrap();
        // A length that leads nowhere.
        bench.damage(&log_name(base), 8, &1_000_000_i32.to_be_bytes());
        let bases = bench.bases();
        let error = try_compact(&log, 1 << 20).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt { .. }), "{error}");
        assert_eq!((bench.bases(), left_over(bench)), (bases, 0), "nothing is left of it");
        // It is given up until it is opened anew.
        assert!(log.cleanable().unwrap().is_none() && log.uncleanable().is_some());
    });
}

#[test]
fn k25_a_pass_that_is_stopped_or_overtaken_leaves_nothing() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        puts(&log, &["0", "1", "0"]);
        log.roll_active().unwrap();
        let bases = bench.bases();
        let stop = options(&|| true);
        assert_eq!(log.compact(&stop).unwrap(), None);
        assert_eq!((bench.bases(), left_over(bench)), (bases.clone(), 0));
        // Somebody takes the segment out of the list while it is rewritten.
        let asked = AtomicU64::new(0);
        let overtake = || {
            if asked.fetch_add(1, Ordering::SeqCst) == 4 {
                log.segments.write().remove(0);
            }
            false
        };
        let stop = options(&overtake);
        assert_eq!(log.compact(&stop).unwrap(), None);
        assert!(asked.load(Ordering::SeqCst) > 4);
        assert_eq!((bench.bases(), left_over(bench)), (bases, 0));
        assert_eq!(log.cleaned_to(), None);
    });
}

/// Compacts, and runs `event` when the pass asks for the third time whether to stop. What came of it, and how often it
/// asked.
fn compact_with(log: &Arc<Log>, event: impl Fn() + Sync) -> (Result<Option<CompactionReport>>, u64) {
    let asked = AtomicU64::new(0);
    let stop = || {
        if asked.fetch_add(1, Ordering::SeqCst) == 2 {
            event();
        }
        false
    };
    let done = log.compact(&options(&stop));
    (done, asked.load(Ordering::SeqCst))
}

#[test]
fn a_pass_ends_at_the_next_batch_when_its_log_is_closed() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        puts(&log, &["0", "1", "0", "2", "3", "4"]);
        log.roll_active().unwrap();
        let (done, asked) = compact_with(&log, || log.commit_last());
        assert!(matches!(done.unwrap_err().kind(), ErrorKind::Closed));
        assert_eq!((asked, left_over(bench), bench.bases()), (3, 0, vec![0, 6]));
        // With a rate that lets one byte through in a second, too.
        let (log, _) = bench.open(&compacted());
        let stop = || {
            log.commit_last();
            false
        };
        let slow = CompactOptions { bytes_per_second: Some(1), ..options(&stop) };
        assert!(matches!(log.compact(&slow).unwrap_err().kind(), ErrorKind::Closed));
    });
}

#[test]
fn a_pass_whose_log_was_given_up_takes_nothing_from_the_next_one() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        puts(&log, &["0", "1", "0"]);
        log.roll_active().unwrap();
        let others = format!("{}.cleaned", log_name(0));
        let (done, _) = compact_with(&log, || {
            log.failure.set(ErrorKind::Closed.into()).unwrap();
            bench.write(&others, b"of the next log");
        });
        assert!(matches!(done.unwrap_err().kind(), ErrorKind::Closed));
        assert_eq!(bench.read(&others).unwrap(), b"of the next log");
    });
}

#[test]
fn a_log_is_closed_or_given_up_only_when_its_compaction_has_ended() {
    type End = fn(&Arc<Log>);
    let ends: [End; 2] = [|log| log.abandon(ErrorKind::Closed), |log| log.close().unwrap()];
    for end in ends {
        let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
        let (log, _) = bench.open(&compacted());
        puts(&log, &["0", "1", "0", "2", "3", "4"]);
        log.roll_active().unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let (done, _) = compact_with(&log, || {
                threads.spawn(|| {
                    end(&log);
                    ended.store(true, Ordering::SeqCst);
                });
                let deadline = std::time::Instant::now() + Duration::from_secs(60);
                while !log.is_closed() {
                    assert!(std::time::Instant::now() < deadline, "nobody closes it");
                    std::thread::yield_now();
                }
                // Time enough for one who does not wait.
                (0..10_000).for_each(|_| std::thread::yield_now());
                assert!(!ended.load(Ordering::SeqCst));
            });
            assert!(matches!(done.unwrap_err().kind(), ErrorKind::Closed));
        });
        assert!(ended.load(Ordering::SeqCst));
    }
}

#[test]
fn a_segment_that_is_closed_behind_the_sync_waits_for_the_next_pass() {
    let (disk, rolling) = (SimDisk::new(1), Arc::<OnceLock<Arc<Log>>>::default());
    let hook = {
        let (rolling, once) = (Arc::clone(&rolling), AtomicBool::new(false));
        Box::new(move || {
            if let Some(log) = rolling.get().filter(|_| !once.swap(true, Ordering::SeqCst)) {
                puts(log, &["0"]);
                log.roll_active().unwrap();
            }
        })
    };
    let bench = Bench::new(Arc::new(Hooked { disk, hook }), None);
    let (log, _) = bench.open(&compacted());
    for keys in [["0", "1", "0"], ["2", "3", "4"]] {
        puts(&log, &keys);
        log.roll_active().unwrap();
    }
    // The sync of the second segment begins with its name.
    rolling.set(Arc::clone(&log)).unwrap();
    let report = try_compact(&log, 1 << 20).unwrap().unwrap();
    assert_eq!((report.from, report.to, segments(&log)), (0, 6, vec![0, 6, 7]));
    assert_eq!(try_compact(&log, 1 << 20).unwrap().unwrap().to, 7);
}

// ───────── what stays of a record

#[test]
fn what_stays_is_what_was_written() {
    let mut random = Random::new("what stays");
    for codec in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        if codec.available().is_err() {
            continue;
        }
        for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
            let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
            let config = compacted().timestamp_type(timestamp_type).index_interval_bytes(100);
            let (log, _) = bench.open(&config);
            for _ in 0..30 {
                let mut builder = BatchBuilder::new(0);
                for _ in 0..1 + random.below(12) {
                    let key = [random.below(20) as u8];
                    let value = random.below(80);
                    let value = random.bytes(value);
                    let names: Vec<String> = (0..random.below(3)).map(|i| format!("n{i}")).collect();
                    let headers: Vec<_> = names.iter().map(|name| header(name, &value)).collect();
                    let timestamp = random.below(1_000) as i64 - 1;
                    let value = Some(&*value).filter(|_| random.below(5) > 0);
                    builder.push(timestamp, Some(&key), value, &headers).unwrap();
                }
                put(&log, builder.seal(codec, None, &mut Vec::new()).unwrap());
                if random.below(4) == 0 {
                    log.roll_active().unwrap();
                }
            }
            log.roll_active().unwrap();
            let all = |log: &Arc<Log>| {
                let mut all = Vec::new();
                let mut at = log.log_start();
                while at < log.high_watermark() {
                    let records = log.read(at, ReadOptions::max_bytes(1 << 20)).unwrap();
                    for r in &records {
                        let headers = format!("{:?}", r.headers());
                        let value = r.value().map(<[u8]>::to_vec);
                        all.push((r.offset(), r.timestamp_ms(), r.key().unwrap().to_vec(), value, headers));
                    }
                    at = records.next_offset().unwrap_or(log.high_watermark());
                }
                all
            };
            let before = all(&log);
            let codecs = |log: &Log| -> Vec<_> {
                headers(&bench, log).iter().map(|h| (h.compression(), h.timestamp_type())).collect()
            };
            let kinds = codecs(&log);
            try_compact(&log, 1 << 20).unwrap().unwrap();
            let last_of = |key: &[u8]| before.iter().rev().find(|r| r.2 == key).map(|r| r.0);
            let expected: Vec<_> = before.iter().filter(|r| last_of(&r.2) == Some(r.0)).cloned().collect();
            assert_eq!(all(&log), expected, "{codec} {timestamp_type:?}");
            assert!(codecs(&log).iter().all(|kind| kinds.contains(kind)));
            // By time, too: through the index that was written.
            let (log, _) = bench.open(&config);
            for time in [0, 100, 500, 900, 998] {
                let found = log.offset_for_time(time).unwrap().map(|found| found.0);
                let first = expected.iter().find(|r| r.1 >= time).map(|r| r.0);
                assert_eq!(found, first, "{codec} {timestamp_type:?} at {time}");
            }
            for record in &before {
                let found = log.get(record.0, UNCOMMITTED).unwrap().map(|found| found.record().offset());
                assert_eq!(found, expected.iter().any(|e| e.0 == record.0).then_some(record.0));
            }
        }
    }
}

#[test]
fn who_reads_an_old_segment_reads_on_when_another_took_its_place() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        puts(&log, &["0", "1", "0"]);
        log.roll_active().unwrap();
        puts(&log, &["0", "1"]);
        log.roll_active().unwrap();
        let old = log.segments.read().clone();
        let held = log.read(0, ReadOptions::max_bytes(1)).unwrap();
        try_compact(&log, 1 << 20).unwrap().unwrap();
        assert_eq!(offsets(&log), [3, 4]);
        // Nothing of it was opened before the exchange, and none of its names is there.
        assert_eq!(segments(&log), [0, 5]);
        for (segment, offset) in [(&old[0], 0), (&old[0], 2), (&old[1], 3), (&old[1], 4)] {
            let landing = segment.find(offset).unwrap().unwrap();
            assert_eq!(landing.header.base_offset, offset);
            let region = segment.read(landing.position, 1_000).unwrap();
            assert_eq!(BatchHeader::parse(region.bytes()).unwrap(), landing.header);
        }
        assert_eq!(held.iter().next().unwrap().offset(), 0);
    });
}

#[test]
fn a_merge_of_segments_keeps_within_a_segment() {
    each(|bench| {
        let (log, _) = bench.open(&compacted().segment_bytes(400));
        for round in 0..4 {
            let keys: Vec<String> = (0..20).map(|i| format!("{}", round * 10 + i)).collect();
            puts(&log, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        }
        puts(&log, &["0"; 10]);
        log.roll_active().unwrap();
        let before = segments(&log).len();
        // Which segments go together is decided by what they take before: the second pass merges what the first left.
        try_compact(&log, 1 << 20).unwrap().unwrap();
        puts(&log, &["0"]);
        clean(&log);
        let after = segments(&log).len();
        assert!(after + 4 < before, "{after} of {before}");
        for segment in log.segments.read().iter() {
            assert!(segment.written() <= 400);
        }
        assert_eq!(bench.bases(), segments(&log));
        assert_eq!(keys(&log).len(), 50);
    });
}

// ───────── R8: digests

#[test]
fn r8_no_bit_of_a_header_that_the_checksum_leaves_out_passes_in_a_compacted_segment() {
    let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
    let (log, _) = bench.open(&compacted());
    puts(&log, &["0", "1", "2", "0", "3", "2", "4"]);
    clean(&log);
    let right = keys(&log);
    assert_eq!(right.len(), 5);
    drop(log);
    let good = bench.read(&log_name(0)).unwrap();
    let mut starts = Vec::new();
    let mut at = 0;
    while at < good.len() {
        starts.push(at);
        at += BatchHeader::parse(&good[at..]).unwrap().size();
    }
    for start in starts {
        // Base offset, length, leader epoch, format.
        for bit in 0..17 * 8 {
            let mut bytes = good.clone();
            bytes[start + bit / 8] ^= 1 << (bit % 8);
            bench.write(&log_name(0), &bytes);
            let (log, _) = bench.open_with(&compacted(), OpenHints { clean: true, ..HINTS });
            let (mut at, mut found, mut told) = (0, Vec::new(), 0);
            while at < log.high_watermark() {
                match log.read(at, ReadOptions::max_bytes(1)) {
                    Ok(records) => {
                        found.extend(
                            records
                                .iter()
                                .map(|r| (r.offset(), str::from_utf8(r.key().unwrap()).unwrap().to_owned())),
                        );
                        at = records.next_offset().unwrap_or(log.high_watermark());
                    }
                    Err(error) => match error.kind() {
                        ErrorKind::Corrupt { resume_at, .. } => {
                            told += 1;
                            at = *resume_at;
                        }
                        other => panic!("{other:?}"),
                    },
                }
            }
            assert!(told > 0, "bit {bit} of the batch at {start} was not told");
            assert_eq!(found.len(), right.len() - 1, "bit {bit} of the batch at {start}: {found:?}");
            assert!(found.iter().all(|found| right.contains(found)), "{found:?}");
            for (offset, key) in &right {
                if let Ok(Some(record)) = log.get(*offset, UNCOMMITTED) {
                    assert_eq!(
                        (record.record().offset(), record.record().key()),
                        (*offset, Some(key.as_bytes()))
                    );
                }
            }
        }
    }
}

// ───────── G: exchanges that a broker left half done

/// A partition before and after a compaction, by files.
struct Halves {
    before: Vec<(String, Vec<u8>)>,
    after: Vec<(String, Vec<u8>)>,
    old: Vec<(Offset, String)>,
    new: Vec<(Offset, String)>,
}

fn halves() -> Halves {
    let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
    let (log, _) = bench.open(&compacted());
    puts(&log, &["0", "1", "2", "0"]);
    log.roll_active().unwrap();
    puts(&log, &["2", "3"]);
    log.roll_active().unwrap();
    puts(&log, &["4"]);
    log.sync_all().unwrap();
    let files = || -> Vec<(String, Vec<u8>)> {
        let mine = |name: &String| name.starts_with("0000") && !name.ends_with("snapshot");
        bench
            .names()
            .into_iter()
            .filter(mine)
            .map(|name| (name.clone(), bench.read(&name).unwrap()))
            .collect()
    };
    let (before, old) = (files(), keys(&log));
    try_compact(&log, 1 << 20).unwrap().unwrap();
    let (after, new) = (files(), keys(&log));
    assert_ne!(old, new);
    Halves { before, after, old, new }
}

impl Halves {
    /// A directory with the old closed segments under these endings, and the new one under those; of the new one only
    /// the files that `part` takes have the first.
    fn lay(&self, old: Option<&str>, new: impl Fn(&str) -> Option<&'static str>) -> Bench {
        let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
        let base = |name: &str| name[..20].parse::<Offset>().unwrap();
        for (name, bytes) in &self.before {
            match old {
                _ if base(name) == 6 => bench.write(name, bytes),
                Some(suffix) => bench.write(&format!("{name}{suffix}"), bytes),
                None => {}
            }
        }
        for (name, bytes) in self.after.iter().filter(|(name, _)| base(name) == 0) {
            if let Some(suffix) = new(name) {
                bench.write(&format!("{name}{suffix}"), bytes);
            }
        }
        bench
    }

    fn opens_as(&self, bench: &Bench, new: bool) {
        for _ in 0..2 {
            let (log, _) = bench.open_with(&compacted(), OpenHints { contiguous: false, ..HINTS });
            assert_eq!(keys(&log), if new { self.new.clone() } else { self.old.clone() });
            let names = bench.names();
            let left =
                |name: &String| [".swap", ".cleaned", ".deleted"].iter().any(|end| name.ends_with(end));
            assert!(!names.iter().any(left), "{names:?}");
            assert_eq!(bench.bases(), if new { vec![0, 6] } else { vec![0, 4, 6] });
        }
    }
}

#[test]
fn g10_with_only_cleaned_files_the_old_segments_stay() {
    let halves = halves();
    halves.opens_as(&halves.lay(Some(""), |_| Some(".cleaned")), false);
}

#[test]
fn g11_with_some_of_them_renamed_the_old_segments_stay() {
    let halves = halves();
    let some = |name: &str| Some(if name.ends_with(".log") { ".swap" } else { ".cleaned" });
    halves.opens_as(&halves.lay(Some(""), some), false);
    let others = |name: &str| Some(if name.ends_with(".log") { ".cleaned" } else { ".swap" });
    halves.opens_as(&halves.lay(Some(""), others), false);
}

// Kafka completes the exchange here. The old segments are whole: they hold all that the new one does, and nothing is
// given up for it (reliability R6). The next compaction does it again.
#[test]
fn g12_with_all_renamed_and_all_old_ones_there_these_stay() {
    let halves = halves();
    halves.opens_as(&halves.lay(Some(""), |_| Some(".swap")), false);
}

#[test]
fn g13_with_the_old_ones_gone_the_exchange_is_completed() {
    let halves = halves();
    halves.opens_as(&halves.lay(Some(".deleted"), |_| Some(".swap")), true);
    halves.opens_as(&halves.lay(None, |_| Some(".swap")), true);
    // Some of them gone.
    let bench = halves.lay(Some(""), |_| Some(".swap"));
    for name in [".log", ".index", ".timeindex"].map(|end| format!("{:020}{end}", 0)) {
        bench.storage.rename(&bench.path(&name), &bench.path(&format!("{name}.deleted"))).unwrap();
    }
    halves.opens_as(&bench, true);
}

#[test]
fn g14_the_last_renames_are_made_up_for() {
    let halves = halves();
    let last = |name: &str| Some(if name.ends_with(".timeindex") { ".swap" } else { "" });
    halves.opens_as(&halves.lay(Some(".deleted"), last), true);
}

#[test]
fn whatever_a_crash_keeps_of_the_last_renames_the_new_segment_has_all_of_its_files() {
    let disk = SimDisk::new(1);
    let bench = Bench::new(Arc::new(disk.clone()), None);
    for dir in ["/", "/s"] {
        bench.storage.sync_dir(Path::new(dir)).unwrap();
    }
    let (log, _) = bench.open(&compacted());
    let mut writer = Writer::transactional(1);
    writer.put(&log, &["0", "1"]);
    writer.end(&log, ControlType::Abort);
    puts(&log, &["2", "3", "2"]);
    log.roll_active().unwrap();
    puts(&log, &["4"]);
    log.sync_all().unwrap();
    let old = keys(&log);
    disk.record_states(true);
    try_compact(&log, 1 << 20).unwrap().unwrap();
    let new = keys(&log);
    let files = [name::digest(0), name::txn_index(0)];
    let whole = files.each_ref().map(|name| bench.read(name).unwrap());
    let mut ended = 0;
    for point in disk.crash_points() {
        for disk in point.states(64, 1) {
            let (root, clock) = (bench.root.clone(), bench.clock.clone());
            let bench = Bench { storage: Arc::new(disk), root, clock, _home: None };
            let (log, _) = bench.open(&compacted());
            let found = keys(&log);
            assert!(found == old || found == new, "{found:?}");
            if found == new {
                ended += 1;
                let found = files.each_ref().map(|name| bench.read(name).unwrap_or_default());
                assert_eq!(found, whole, "before operation {}: {:?}", point.op(), bench.names());
            }
        }
    }
    assert!(ended > 20, "{ended}");
}

#[test]
fn g15_what_is_left_of_the_old_ones_is_removed() {
    let halves = halves();
    halves.opens_as(&halves.lay(Some(".deleted"), |_| Some("")), true);
}

#[test]
fn g16_g17_the_upper_half_of_a_split_is_taken_only_when_the_lower_one_is_there() {
    let (low, high) = ([one(0), one(1)].concat(), [one(2), one(3)].concat());
    let whole = [low.clone(), high.clone()].concat();
    let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
    bench.write(&log_name(0), &whole);
    bench.write(&format!("{}.cleaned", log_name(0)), &low);
    bench.write(&format!("{}.swap", log_name(2)), &high);
    let (log, _) = bench.open_kafkas();
    assert_eq!((offsets(&log), bench.bases()), (vec![0, 1, 2, 3], vec![0]));

    let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
    bench.write(&log_name(0), &low);
    bench.write(&format!("{}.swap", log_name(2)), &high);
    let (log, _) = bench.open_kafkas();
    assert_eq!((offsets(&log), bench.bases()), (vec![0, 1, 2, 3], vec![0, 2]));
}

#[test]
fn r6_a_damaged_swap_is_never_taken_and_the_only_copy_is_never_lost() {
    let halves = halves();
    let name = format!("{}.swap", log_name(0));
    // The old ones are there.
    let bench = halves.lay(Some(""), |_| Some(".swap"));
    bench.damage(&name, 70, b"!");
    halves.opens_as(&bench, false);
    // They are not: nothing is changed, and the partition says so.
    let bench = halves.lay(None, |_| Some(".swap"));
    bench.damage(&name, 70, b"!");
    let names = bench.names();
    let error = bench.try_open(&compacted(), OpenHints { contiguous: false, ..HINTS }).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Damaged { .. }), "{error}");
    assert_eq!(bench.names(), names);
}

#[test]
fn a_pass_that_is_under_way_is_waited_for_where_that_is_asked() {
    each(|bench| {
        let (log, _) = bench.open(&compacted());
        puts(&log, &["0", "1", "0"]);
        log.roll_active().unwrap();
        let pass = |wait| log.compact(&CompactOptions { wait, ..options(&|| false) }).unwrap();
        let running = log.compaction.running.lock();
        assert_eq!(pass(false), None);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| pass(true));
            drop(running);
            assert!(waits.join().unwrap().is_some());
        });
    });
}
