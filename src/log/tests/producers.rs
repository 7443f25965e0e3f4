//! Kafka's cases H and I that need a log and its files, and random schedules of clients that send again what they do
//! not know the fate of.

use std::collections::HashMap;

use super::*;
use crate::config::IsolationLevel::{ReadCommitted, ReadUncommitted};
use crate::record::BatchFields;
use crate::record::ControlType::{self, Abort, Commit};
use crate::segment::AbortedTxn;
use crate::storage::{FaultKind, FaultOp};

/// A directory whose name no power cut takes.
fn on_sim(seed: u64) -> (SimDisk, Bench) {
    let disk = SimDisk::new(seed);
    let bench = Bench::new(Arc::new(disk.clone()), None);
    for dir in ["/", "/s"] {
        bench.storage.sync_dir(Path::new(dir)).unwrap();
    }
    (disk, bench)
}

/// What a batch of a producer carries.
#[derive(Clone, Copy)]
struct Sent {
    id: i64,
    epoch: i16,
    sequence: i32,
    transactional: bool,
}

fn sent(id: i64, sequence: i32) -> Sent {
    Sent { id, epoch: 0, sequence, transactional: false }
}

fn in_transaction(id: i64, sequence: i32) -> Sent {
    Sent { transactional: true, ..sent(id, sequence) }
}

fn build(sent: Sent, records: &[(i64, Vec<u8>)]) -> Sealed {
    let mut builder = BatchBuilder::new(0);
    builder.set_fields(BatchFields { transactional: sent.transactional, ..BatchFields::default() });
    builder.producer(sent.id, sent.epoch, sent.sequence);
    for (timestamp, value) in records {
        builder.push(*timestamp, None, Some(value), &[]).unwrap();
    }
    builder.seal(Compression::None, None, &mut Vec::new()).unwrap()
}

fn records(count: usize) -> Vec<(i64, Vec<u8>)> {
    (0..count).map(|i| (NOW_MS as i64 + i as i64, b"value".to_vec())).collect()
}

fn end_of(id: i64, kind: ControlType) -> Sealed {
    let mut builder = BatchBuilder::new(0);
    builder.set_fields(BatchFields {
        producer_id: id,
        producer_epoch: 0,
        transactional: true,
        control: true,
        ..BatchFields::default()
    });
    builder.push_end_marker(NOW_MS as i64, kind, 0).unwrap();
    builder.seal(Compression::None, None, &mut Vec::new()).unwrap()
}

/// Appends a batch; its offsets.
fn put(log: &Arc<Log>, batch: Sealed) -> Result<std::ops::Range<Offset>> {
    let mut batches = [batch];
    assert_eq!(log.append(&mut batches, None)?, 1);
    let header = batches[0].header();
    Ok(header.base_offset..header.next_offset())
}

fn put_some(log: &Arc<Log>, sent: Sent, count: usize) -> Result<std::ops::Range<Offset>> {
    put(log, build(sent, &records(count)))
}

fn is_out_of_order<T: std::fmt::Debug>(result: Result<T>) -> bool {
    matches!(result.unwrap_err().kind(), ErrorKind::OutOfOrderSequence { .. })
}

fn snapshots(bench: &Bench) -> Vec<Offset> {
    bench.names().iter().filter_map(|name| name.strip_suffix(".snapshot")?.parse().ok()).collect()
}

fn remove(bench: &Bench, suffix: &str) {
    for name in bench.names().iter().filter(|name| name.ends_with(suffix)) {
        bench.storage.remove_file(&bench.path(name)).unwrap();
    }
}

/// Last sequence and offset of each producer.
fn known(log: &Log) -> Vec<(i64, i32, Offset)> {
    let all = log.describe_producers().unwrap();
    all.iter().map(|(id, e)| (*id, e.last().unwrap().last_sequence, e.last().unwrap().last_offset)).collect()
}

#[test]
fn h02_h03_h04_a_batch_that_is_sent_again_gets_the_offsets_it_had() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache());
        for i in 0..6 {
            assert_eq!(put_some(&log, sent(1, i), 1).unwrap(), i.into()..Offset::from(i) + 1);
        }
        assert_eq!(put_some(&log, sent(1, 6), 3).unwrap(), 6..9);
        assert_eq!(put_some(&log, sent(1, 6), 3).unwrap(), 6..9);
        assert!(is_out_of_order(put_some(&log, sent(1, 7), 2)));
        assert_eq!(put_some(&log, sent(1, 2), 1).unwrap(), 2..3);
        assert!(is_out_of_order(put_some(&log, sent(1, 1), 1)));
        assert_eq!(log.log_end(), 9);
        assert_eq!(offsets(&log), (0..9).collect::<Vec<_>>());
    });
}

#[test]
fn several_batches_go_out_with_one_write_up_to_the_first_that_does_not_follow() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache());
        let batch = |sequence| build(sent(1, sequence), &records(2));
        assert_eq!(log.append(&mut [batch(0), batch(2), batch(4)], None).unwrap(), 3);
        // The second is known, the third is new, the fourth leaves one out.
        let mut more = [batch(6), batch(4), batch(8), batch(12)];
        assert_eq!(log.append(&mut more, None).unwrap(), 1);
        assert_eq!(log.append(&mut more[1..], None).unwrap(), 1);
        assert_eq!(more[1].header().base_offset, 4);
        assert_eq!(log.append(&mut more[2..], None).unwrap(), 1);
        assert!(is_out_of_order(log.append(&mut more[3..], None)));
        assert_eq!(log.log_end(), 10);
    });
}

#[test]
fn a_write_that_fails_leaves_the_producers_as_they_were() {
    let (disk, bench) = on_sim(1);
    let (log, _) = bench.open(&page_cache());
    put_some(&log, sent(1, 0), 1).unwrap();
    disk.set_capacity(Some(0));
    assert!(put_some(&log, sent(1, 1), 1).is_err());
    disk.set_capacity(None);
    assert_eq!(known(&log), [(1, 0, 0)]);
    assert_eq!(put_some(&log, sent(1, 1), 1).unwrap(), 1..2);
}

#[test]
fn h14_a_bad_snapshot_is_removed_and_the_one_before_it_counts() {
    for bad in [b"".as_slice(), b"\0\x01", &[0; 56]] {
        each(|bench| {
            let config = page_cache().segment_bytes(200);
            let (log, _) = bench.open(&config);
            for i in 0..6 {
                put_some(&log, sent(1, i), 1).unwrap();
            }
            log.close().unwrap();
            let (all, state) = (snapshots(bench), known(&log));
            assert_eq!(all.last(), Some(&6));
            bench.write(&name::snapshot(6), bad);
            for hints in [true, false].map(|clean| OpenHints {
                clean,
                contiguous: true,
                recovery_point: Some(6),
                ..OpenHints::default()
            }) {
                let (log, _) = bench.open_with(&config, hints);
                assert_eq!(known(&log), state);
                assert_eq!(snapshots(bench), all[..all.len() - 1]);
            }
        });
    }
}

#[test]
fn h17_a_snapshot_of_the_same_offset_is_not_written_twice() {
    let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
    let (log, _) = bench.open(&page_cache());
    put_some(&log, sent(1, 0), 1).unwrap();
    log.take_snapshot(false).unwrap();
    bench.write(&name::snapshot(1), b"mine");
    log.take_snapshot(false).unwrap();
    assert_eq!(bench.read(&name::snapshot(1)).unwrap(), b"mine");
    put_some(&log, sent(1, 1), 1).unwrap();
    log.take_snapshot(false).unwrap();
    assert_eq!(snapshots(&bench), [1, 2]);
}

#[test]
fn h18_snapshots_are_written_at_every_roll_and_at_the_end_of_an_orderly_stop() {
    each(|bench| {
        let config = page_cache().segment_bytes(150);
        let (log, _) = bench.open(&config);
        for i in 0..4 {
            put_some(&log, sent(1, i), 1).unwrap();
        }
        assert_eq!(segments(&log), [0, 2]);
        log.close().unwrap();
        assert_eq!(snapshots(bench), [2, 4]);
        // The one of the stop goes when it is none any more.
        let (log, _) = bench.open(&config);
        put_some(&log, sent(1, 4), 1).unwrap();
        put_some(&log, sent(1, 5), 1).unwrap();
        put_some(&log, sent(1, 6), 1).unwrap();
        assert_eq!(segments(&log), [0, 2, 4, 6]);
        log.close().unwrap();
        assert_eq!(snapshots(bench), [2, 4, 6, 7]);
        // Without producers, too.
        let plain = Bench::new(Arc::new(SimDisk::new(1)), None);
        let (log, _) = plain.open(&page_cache());
        append(&log, 1);
        log.close().unwrap();
        assert_eq!(plain.read(&name::snapshot(1)).unwrap(), [0, 1, 0x48, 0x67, 0x4b, 0xc7, 0, 0, 0, 0]);
    });
}

#[test]
fn h19_without_snapshots_the_log_says_who_its_producers_are() {
    for clean in [true, false] {
        each(|bench| {
            let config = page_cache().segment_bytes(200);
            let (log, _) = bench.open(&config);
            for i in 0..5 {
                put_some(&log, sent(1, i), 1).unwrap();
                put_some(&log, sent(2, i * 2), 2).unwrap();
            }
            log.close().unwrap();
            let state = known(&log);
            remove(bench, ".snapshot");
            let hints = OpenHints { clean, contiguous: true, ..OpenHints::default() };
            let (log, _) = bench.open_with(&config, hints);
            assert_eq!(known(&log), state);
            assert!(is_out_of_order(put_some(&log, sent(1, 6), 1)));
            assert_eq!(put_some(&log, sent(2, 8), 2).unwrap(), 13..15);
            assert_eq!(put_some(&log, sent(1, 5), 1).unwrap(), 15..16);
        });
    }
}

#[test]
fn a_snapshot_above_the_end_of_what_a_crash_left_is_gone_for_good() {
    let (disk, bench) = on_sim(1);
    let (log, _) = bench.open(&page_cache());
    put_some(&log, sent(1, 0), 1).unwrap();
    log.sync_all().unwrap();
    put_some(&log, sent(2, 0), 5).unwrap();
    log.take_snapshot(true).unwrap();
    assert_eq!(snapshots(&bench), [6]);
    let cut = bench.read(&log_name(0)).unwrap().len() as u64 - 1;
    bench.storage.open(&bench.path(&log_name(0)), Open::Write).unwrap().set_len(cut).unwrap();
    let (log, _) = bench.open(&page_cache());
    assert_eq!((known(&log), snapshots(&bench)), (vec![(1, 0, 0)], vec![]));
    // Others take its offsets: it must not come back.
    for i in 0..9 {
        put_some(&log, sent(3, i), 1).unwrap();
    }
    log.sync_all().unwrap();
    for seed in 0..20 {
        let (root, clock) = (bench.root.clone(), bench.clock.clone());
        let bench = Bench { storage: Arc::new(disk.crash(seed)), root, clock, _home: None };
        let (log, _) = bench.open(&page_cache());
        assert_eq!(known(&log), [(1, 0, 0), (3, 8, 9)], "{seed}");
    }
}

/// Takes away what lies below `to`, as retention does.
fn cut_front(log: &Arc<Log>, to: Offset) {
    let plan = log.plan_to(to).unwrap();
    let _names = log.lock_names(true).unwrap().unwrap();
    log.begin_move(plan).unwrap();
    log.publish_start(to);
    let (gone, removed) = log.remove_front(plan);
    removed.unwrap();
    assert!(gone.segments > 0);
}

#[test]
fn an_open_transaction_outlives_the_segments_that_tell_of_it_whatever_became_of_the_rolls_snapshot() {
    for full in [false, true] {
        let (disk, bench) = on_sim(1);
        let (log, _) = bench.open(&page_cache());
        put_some(&log, in_transaction(1, 0), 2).unwrap();
        log.sync_all().unwrap();
        // The snapshot of the roll is not written, or not synced.
        disk.set_capacity(full.then_some(0));
        log.roll_active().unwrap();
        disk.set_capacity(None);
        assert_eq!(snapshots(&bench), if full { vec![] } else { vec![2] });
        cut_front(&log, 2);
        for seed in 0..30 {
            let (root, clock) = (bench.root.clone(), bench.clock.clone());
            let bench = Bench { storage: Arc::new(disk.crash(seed)), root, clock, _home: None };
            let hints = OpenHints { log_start: Some(2), contiguous: true, ..OpenHints::default() };
            let (log, _) = bench.open_with(&page_cache(), hints);
            assert_eq!(known(&log), [(1, 1, 1)], "{seed}");
            assert_eq!(log.describe_producers().unwrap()[0].1.txn_first, Some(0), "{seed}");
        }
    }
}

#[test]
fn producers_whose_records_are_gone_are_known_though_younger_snapshots_lie_behind_what_is_proven() {
    let (disk, bench) = on_sim(1);
    let (log, _) = bench.open(&page_cache());
    put_some(&log, in_transaction(1, 0), 2).unwrap();
    log.roll_active().unwrap();
    put_some(&log, sent(2, 0), 1).unwrap();
    log.roll_active().unwrap();
    put_some(&log, sent(2, 1), 1).unwrap();
    cut_front(&log, 2);
    assert_eq!(snapshots(&bench), [2, 3]);
    log.sync_all().unwrap();
    for (seed, recovery_point) in (0..10).flat_map(|seed| [2, 3, 4].map(|point| (seed, point))) {
        let (root, clock) = (bench.root.clone(), bench.clock.clone());
        let bench = Bench { storage: Arc::new(disk.crash(seed)), root, clock, _home: None };
        let hints = OpenHints {
            log_start: Some(2),
            recovery_point: Some(recovery_point),
            contiguous: true,
            ..OpenHints::default()
        };
        let (log, _) = bench.open_with(&page_cache(), hints);
        assert_eq!(known(&log), [(1, 1, 1), (2, 1, 3)], "{seed}, proven up to {recovery_point}");
    }
}

// ───────── I: transactions

fn aborted(log: &Log) -> Vec<(i64, Offset, Offset, Offset)> {
    let found = log.aborted_in(0..Offset::MAX).unwrap();
    found.iter().map(|t| (t.producer_id, t.first_offset, t.last_offset, t.last_stable_offset)).collect()
}

fn committed_offsets(log: &Arc<Log>) -> Vec<Offset> {
    let mut offsets = Vec::new();
    let mut at = log.log_start();
    let end = log.read_end(ReadCommitted).unwrap();
    while at < end {
        let options = ReadOptions { isolation_level: ReadCommitted, ..ReadOptions::max_bytes(1) };
        let records = log.read(at, options).unwrap();
        offsets.extend(records.iter().map(|record| record.offset()));
        at = records.next_offset().unwrap_or(end);
    }
    offsets
}

#[test]
fn i01_the_last_stable_offset_is_the_start_of_the_first_open_transaction() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache());
        let stable = |log: &Log| log.read_end(ReadCommitted).unwrap();
        put_some(&log, in_transaction(1, 0), 3).unwrap();
        assert_eq!(stable(&log), 0);
        append(&log, 1);
        put_some(&log, in_transaction(2, 0), 3).unwrap();
        assert_eq!(stable(&log), 0);
        put(&log, end_of(1, Abort)).unwrap();
        assert_eq!(stable(&log), 4);
        put(&log, end_of(2, Commit)).unwrap();
        assert_eq!(stable(&log), 9);
        assert_eq!(committed_offsets(&log), [3, 4, 5, 6]);
        assert_eq!(offsets(&log), [0, 1, 2, 3, 4, 5, 6]);
    });
}

#[test]
fn i02_a_transaction_that_spans_segments_is_aborted_in_all_of_them() {
    each(|bench| {
        let config = page_cache().segment_bytes(200);
        let (log, _) = bench.open(&config);
        for i in 0..8 {
            put_some(&log, in_transaction(1, i), 1).unwrap();
        }
        assert!(segments(&log).len() > 2);
        put(&log, end_of(1, Abort)).unwrap();
        let check = |log: &Arc<Log>| {
            assert_eq!(aborted(log), [(1, 0, 8, 9)]);
            assert!(committed_offsets(log).is_empty());
            assert_eq!(log.aborted_in(3..4).unwrap().len(), 1);
            assert_eq!(log.aborted_in(9..10).unwrap(), []);
        };
        check(&log);
        log.close().unwrap();
        check(&bench.open(&config).0);
    });
}

/// The scenario of Kafka's recovery test: four producers, two of whose transactions are aborted, over many segments.
fn four_producers(bench: &Bench, config: &TopicConfig) {
    let (log, _) = bench.open(config);
    let mut next = HashMap::new();
    let mut add = |id: i64, count: usize| {
        let sequence = next.entry(id).or_insert(0);
        put_some(&log, in_transaction(id, *sequence), count).unwrap();
        *sequence += count as i32;
    };
    // 0..5 of 1, 5..8 plain, 8..12 of 2, 12..17 of 1, 17..21 plain, 21..24 of 3, 24..29 of 1, 29 its end.
    add(1, 5);
    for _ in 0..3 {
        append(&log, 1);
    }
    add(2, 4);
    add(1, 5);
    for _ in 0..4 {
        append(&log, 1);
    }
    add(3, 3);
    add(1, 5);
    put(&log, end_of(1, Abort)).unwrap();
    // 30..36 of 2, 36..40 of 4, 40 the end of 3.
    add(2, 6);
    add(4, 4);
    put(&log, end_of(3, Commit)).unwrap();
    add(2, 33);
    put(&log, end_of(2, Abort)).unwrap();
    add(4, 3);
    put(&log, end_of(4, Commit)).unwrap();
    log.close().unwrap();
}

const FOUR_ABORTED: [(i64, Offset, Offset, Offset); 2] = [(1, 0, 29, 8), (2, 8, 74, 36)];

#[test]
fn i03_lost_indexes_of_aborted_transactions_are_made_anew() {
    each(|bench| {
        let config = page_cache().segment_bytes(1_024);
        four_producers(bench, &config);
        let files = || bench.names().iter().filter(|name| name.ends_with(".txnindex")).count();
        assert_eq!(files(), 2);
        let last = *bench.bases().last().unwrap();
        let (whole, _) = bench.open(&config);
        let (shown, wanted) = (committed_offsets(&whole), bench.names());
        assert_eq!(aborted(&whole), FOUR_ABORTED);
        whole.close().unwrap();
        // All of them, with nothing proven; then that of a log whose last segment alone is not.
        for (suffix, proven) in [(".txnindex", None), (".txnindex", Some(0)), (".snapshot", None)] {
            remove(bench, suffix);
            let hints = OpenHints { contiguous: true, recovery_point: proven, ..OpenHints::default() };
            let (log, _) = bench.open_with(&config, hints);
            assert_eq!(aborted(&log), FOUR_ABORTED, "without {suffix}");
            assert_eq!(committed_offsets(&log), shown);
            log.close().unwrap();
        }
        remove(bench, &format!("{last:020}.txnindex"));
        let hints = OpenHints { contiguous: true, recovery_point: Some(last), ..OpenHints::default() };
        let (log, _) = bench.open_with(&config, hints);
        assert_eq!(aborted(&log), FOUR_ABORTED);
        log.close().unwrap();
        for name in wanted.iter().filter(|name| name.ends_with(".txnindex")) {
            assert!(bench.read(name).is_some(), "{name}");
        }
    });
}

#[test]
fn an_index_of_aborted_transactions_that_can_not_be_right_is_made_anew_also_after_a_clean_stop() {
    each(|bench| {
        let config = page_cache().segment_bytes(1_024);
        four_producers(bench, &config);
        let names: Vec<String> =
            bench.names().into_iter().filter(|name| name.ends_with(".txnindex")).collect();
        for name in &names {
            let good = bench.read(name).unwrap();
            let wrong =
                AbortedTxn { producer_id: -1, first_offset: 3, last_offset: 2, last_stable_offset: 0 };
            for bad in [wrong.encode().to_vec(), [wrong.encode().to_vec(), good.clone()].concat()] {
                bench.write(name, &bad);
                let hints = OpenHints { contiguous: true, clean: true, ..OpenHints::default() };
                let (log, _) = bench.open_with(&config, hints);
                assert_eq!(aborted(&log), FOUR_ABORTED, "{name}");
                log.close().unwrap();
            }
            bench.write(name, &good);
        }
    });
}

#[test]
fn i04_the_last_stable_offset_is_never_below_the_start() {
    each(|bench| {
        let (log, _) = bench.open_kafkas();
        put_some(&log, in_transaction(1, 0), 3).unwrap();
        put_some(&log, in_transaction(1, 3), 3).unwrap();
        log.close().unwrap();
        let hints = OpenHints { log_start: Some(4), clean: true, ..OpenHints::default() };
        let (log, _) = bench.open_with(&page_cache(), hints);
        assert_eq!((log.log_start(), log.read_end(ReadCommitted).unwrap()), (4, 4));
    });
}

#[test]
fn i05_an_abort_without_records_leaves_no_entry() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache());
        put(&log, end_of(1, Abort)).unwrap();
        append(&log, 1);
        assert_eq!((aborted(&log), log.read_end(ReadCommitted).unwrap()), (vec![], 2));
        log.close().unwrap();
        assert!(!bench.names().iter().any(|name| name.ends_with(".txnindex")));
    });
}

#[test]
fn i06_i07_who_reads_what_is_committed_sees_that_alone_and_ends_behind_the_last_marker() {
    each(|bench| {
        let (log, _) = bench.open(&page_cache());
        put_some(&log, in_transaction(1, 0), 2).unwrap();
        append(&log, 1);
        put_some(&log, in_transaction(2, 0), 2).unwrap();
        put(&log, end_of(2, Commit)).unwrap();
        put_some(&log, in_transaction(1, 2), 1).unwrap();
        put(&log, end_of(1, Abort)).unwrap();
        put_some(&log, in_transaction(1, 3), 1).unwrap();
        put(&log, end_of(1, Commit)).unwrap();
        assert_eq!(committed_offsets(&log), [2, 3, 4, 8]);
        assert_eq!(offsets(&log), [0, 1, 2, 3, 4, 6, 8]);
        let all = |isolation_level| {
            let options = ReadOptions { isolation_level, ..ReadOptions::max_bytes(1 << 20) };
            log.read(0, options).unwrap().next_offset()
        };
        assert_eq!((all(ReadCommitted), all(ReadUncommitted)), (Some(10), Some(10)));
    });
}

#[test]
fn in_a_disk_topic_a_transaction_is_stable_when_its_marker_is_committed() {
    let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
    let (log, _) = bench.open(&TopicConfig::default());
    put_some(&log, in_transaction(1, 0), 2).unwrap();
    log.wait_committed(2, None).unwrap();
    put(&log, end_of(1, Abort)).unwrap();
    assert_eq!((log.high_watermark(), log.read_end(ReadCommitted).unwrap()), (2, 0));
    log.wait_committed(3, None).unwrap();
    assert_eq!(log.read_end(ReadCommitted).unwrap(), 3);
    assert!(committed_offsets(&log).is_empty());
}

#[test]
fn the_last_of_each_producer_is_told() {
    let bench = Bench::new(Arc::new(SimDisk::new(1)), None);
    let (log, _) = bench.open(&page_cache());
    put_some(&log, sent(1, 0), 2).unwrap();
    put_some(&log, sent(2, 0), 3).unwrap();
    put(&log, end_of(3, Commit)).unwrap();
    let last = log.last_of_producers().unwrap();
    assert_eq!(last[&1].last_data_offset, Some(1));
    assert_eq!(last[&2].last_data_offset, Some(4));
    assert_eq!((last[&3].last_data_offset, last[&3].epoch), (None, 0));
    assert_eq!(log.last_offset_of(&[9, 2, 1]).unwrap(), Some(4));
}

// ───────── random schedules

/// A client with one batch under way, which it sends until it is told where it is.
struct Client {
    id: i64,
    next: i32,
    count: usize,
    /// Values of batches that were acknowledged, and where.
    acked: Vec<(Offset, Vec<Vec<u8>>)>,
    pending: Option<Vec<(i64, Vec<u8>)>>,
}

/// Clients that send again after every error and every crash: each batch is stored once, in their order. What the log
/// forgot of a client that wrote nothing for long is not held against it: then it has nothing under way.
fn resend(seed: u64) {
    let mut random = Random(seed);
    // What is acknowledged survives a power cut of a `Disk` topic, and a kill of any.
    let on_disk = random.below(2) == 0;
    let durability = if on_disk { Durability::Disk } else { Durability::PageCache };
    let disk_config = TopicConfig::default().durability(durability).segment_bytes(1_000);
    let (mut disk, mut bench) = on_sim(seed);
    let (mut log, _) = bench.open(&disk_config);
    let mut clients: Vec<Client> = (0..1 + random.below(3) as i64)
        .map(|id| Client { id: id + 10, next: 0, count: 0, acked: Vec::new(), pending: None })
        .collect();
    for _ in 0..40 {
        let at = random.below(clients.len());
        match random.below(16) {
            0..9 => {
                let client = &mut clients[at];
                let pending = client.pending.get_or_insert_with(|| {
                    let values =
                        (0..1 + random.below(4)).map(|i| format!("{}/{}/{i}", client.id, client.count));
                    let now = bench.clock.now_ms();
                    let values = values.map(|value| (now, value.into_bytes())).collect();
                    client.count += 1;
                    values
                });
                let batch = build(sent(client.id, client.next), pending);
                match put(&log, batch).and_then(|at| log.wait_committed(at.end, None).map(|_| at)) {
                    Ok(at) => {
                        let values: Vec<Vec<u8>> = pending.iter().map(|(_, value)| value.clone()).collect();
                        client.next = crate::record::increment_sequence(client.next, values.len() as i32);
                        client.acked.push((at.start, values));
                        client.pending = None;
                    }
                    Err(error) => assert!(
                        !matches!(
                            error.kind(),
                            ErrorKind::OutOfOrderSequence { .. } | ErrorKind::InvalidProducerEpoch { .. }
                        ),
                        "{error}"
                    ),
                }
            }
            9 => {
                let op = [FaultOp::Write, FaultOp::SyncData, FaultOp::Any];
                let op = op[random.below(if on_disk { 3 } else { 1 })];
                disk.fail_nth(op, 1 + random.below(4) as u64, FaultKind::Io, random.below(2) == 0);
            }
            10 => {
                bench.clock.advance(Duration::from_secs(random.below(1_000) as u64));
                // Whoever has a batch under way for a day may find it forgotten, as in Kafka.
                if clients.iter().all(|client| client.pending.is_none()) {
                    bench.clock.advance(Duration::from_millis(86_400_000) * random.below(2) as u32);
                    log.expire_producers();
                }
            }
            11 => drop(log.sync_all()),
            12 => {
                disk.clear_faults();
                let clean = log.close().is_ok();
                damage_snapshots(&bench, &mut random);
                let recovery_point = Some(log.recovery_point());
                let hints = OpenHints { clean, contiguous: true, recovery_point, ..OpenHints::default() };
                log = bench.open_with(&disk_config, hints).0;
            }
            kind => {
                disk = if kind == 13 && on_disk { disk.crash(random.next()) } else { disk.kill() };
                bench = Bench { storage: Arc::new(disk.clone()), ..bench };
                if random.below(3) == 0 {
                    damage_snapshots(&bench, &mut random);
                }
                log = bench.open(&disk_config).0;
            }
        }
        if log.failure().is_some() {
            disk.clear_faults();
            log.commit_last();
            log.abandon(ErrorKind::Closed);
            log = bench.open(&disk_config).0;
        }
    }
    disk.clear_faults();
    let mut found: HashMap<Vec<u8>, Vec<Offset>> = HashMap::new();
    let mut order: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
    log.wait_committed(log.log_end(), None).unwrap();
    let mut at = 0;
    while at < log.high_watermark() {
        let records = log.read(at, ReadOptions::max_bytes(1 << 20)).unwrap();
        for record in &records {
            let value = record.value().unwrap().to_vec();
            found.entry(value.clone()).or_default().push(record.offset());
            let client = value.split(|byte| *byte == b'/').next().unwrap().to_vec();
            order.entry(client).or_default().push(value);
        }
        at = records.next_offset().unwrap();
    }
    assert!(found.values().all(|offsets| offsets.len() == 1), "stored twice: {found:?}");
    for client in &clients {
        for (base, values) in &client.acked {
            for (i, value) in values.iter().enumerate() {
                assert_eq!(
                    found.get(value),
                    Some(&vec![base + i as Offset]),
                    "{}",
                    String::from_utf8_lossy(value)
                );
            }
        }
        let wanted: Vec<Vec<u8>> = client.acked.iter().flat_map(|(_, values)| values.clone()).collect();
        let stored = order.remove(client.id.to_string().as_bytes()).unwrap_or_default();
        assert!(stored.starts_with(&wanted), "client {}: another order", client.id);
    }
}

fn damage_snapshots(bench: &Bench, random: &mut Random) {
    for name in bench.names().iter().filter(|name| name.ends_with(".snapshot")) {
        match random.below(4) {
            0 => bench.storage.remove_file(&bench.path(name)).unwrap(),
            1 => bench.write(name, &random.bytes(random.0 as usize % 60)),
            _ => {}
        }
    }
}

#[test]
fn what_clients_send_until_they_know_is_stored_once_and_in_order() {
    let seeds = match std::env::var("LOGSTEAD_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..5_000,
    };
    for seed in seeds {
        let done = std::panic::catch_unwind(|| resend(seed));
        assert!(done.is_ok(), "replay with LOGSTEAD_SEED={seed}");
    }
}

// ───────── two threads at one file

#[test]
fn a_roll_behind_the_sync_of_the_first_aborted_transaction_leaves_it_durable() {
    let (disk, bench) = on_sim(1);
    let index = bench.path(&name::txn_index(0));
    let rolling: Arc<OnceLock<Arc<Log>>> = Arc::default();
    let hook = {
        let (disk, index, rolling) = (disk.clone(), index.clone(), Arc::clone(&rolling));
        let once = AtomicBool::new(false);
        Box::new(move || {
            let is_synced = disk.read_file(&index).is_ok_and(|bytes| !bytes.is_empty());
            if let Some(log) = rolling.get().filter(|_| is_synced && !once.swap(true, Ordering::SeqCst)) {
                log.roll_active().unwrap();
            }
        })
    };
    let hooked = Bench { storage: Arc::new(Hooked { disk: disk.clone(), hook }), ..bench };
    let (log, _) = hooked.open(&page_cache());
    log.sync_all().unwrap();
    put_some(&log, in_transaction(1, 0), 2).unwrap();
    put(&log, end_of(1, Abort)).unwrap();
    rolling.set(Arc::clone(&log)).unwrap();
    log.sync_everything().unwrap();
    assert_eq!(segments(&log), [0, 3]);
    append(&log, 1);
    log.sync_everything().unwrap();
    let hints = OpenHints { recovery_point: Some(4), contiguous: true, ..OpenHints::default() };
    for seed in 0..30 {
        let (root, clock) = (hooked.root.clone(), hooked.clock.clone());
        let bench = Bench { storage: Arc::new(disk.crash(seed)), root, clock, _home: None };
        let (log, _) = bench.open_with(&page_cache(), hints.clone());
        assert_eq!(aborted(&log), [(1, 0, 2, 3)], "{seed}");
        assert_eq!(committed_offsets(&log), [3], "{seed}");
    }
}
