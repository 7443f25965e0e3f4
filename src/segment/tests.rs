//! Kafka's cases B, C and D that one segment can show. Cases that cut a segment are in `log/tests.rs`: here only
//! recovery cuts. D4 (an offset too far from the base) is the roll's decision: `log/roll.rs`, E6.

use std::path::Path;

use super::*;
use crate::record::{BatchBuilder, Compression};
use crate::storage::{Disk, SimDisk};

/// A batch of records at these (offset, timestamp) places.
fn batch(records: &[(Offset, i64)]) -> Vec<u8> {
    let base = records[0].0;
    let mut builder = BatchBuilder::new(0);
    for (offset, timestamp) in records {
        let delta = i32::try_from(offset - base).unwrap();
        builder.push_at(delta, *timestamp, None, Some(b"hello"), &[]).unwrap();
    }
    let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    sealed.place(base, 0);
    sealed.bytes().to_vec()
}

fn run(offsets: std::ops::Range<Offset>) -> Vec<u8> {
    batch(&offsets.map(|offset| (offset, -1)).collect::<Vec<_>>())
}

/// A segment and where it lies.
struct Bench {
    storage: Arc<dyn Storage>,
    dir: Arc<Path>,
    config: SegmentConfig,
    segment: Segment,
    /// Keeps a real directory.
    _home: Option<tempfile::TempDir>,
}

impl Bench {
    fn new(storage: Arc<dyn Storage>, home: Option<tempfile::TempDir>, base: Offset, interval: u64) -> Bench {
        let dir: Arc<Path> = home.as_ref().map_or(Path::new("/t-0"), |home| home.path()).into();
        storage.create_dir(&dir).unwrap();
        let config = SegmentConfig {
            ours: false,
            contiguous: false,
            followed: false,
            index_interval_bytes: interval,
            segment_index_bytes: 1 << 20,
            maps: true,
        };
        let segment = Segment::create(&storage, &dir, base, config, &Arc::default(), 0).unwrap();
        Bench { storage, dir, config, segment, _home: home }
    }

    fn append(&self, bytes: &[u8]) {
        let header = BatchHeader::parse(bytes).unwrap();
        let position = self.segment.write(&[bytes]).unwrap();
        self.segment.publish(position, [&header]);
        self.segment.show(position + bytes.len() as u64);
    }

    /// First offset of the batch where a read of `offset` begins.
    fn find(&self, offset: Offset) -> Option<Offset> {
        self.segment.find(offset).unwrap().map(|landing| landing.header.base_offset)
    }

    /// The segment as a later open finds it, sealed.
    fn reopened(&self) -> Segment {
        let segment =
            Segment::existing(&self.storage, &self.dir, self.segment.base(), self.config, &Arc::default(), 0);
        segment.set_end(self.segment.written());
        segment.seal();
        segment
    }

    fn bytes_of(&self, name: &str) -> Vec<u8> {
        crate::storage::read_small(self.storage.as_ref(), &self.dir.join(name)).unwrap().unwrap()
    }
}

/// Runs a case on the simulated disk and on the real one.
fn each(base: Offset, interval: u64, case: impl Fn(&Bench)) {
    case(&Bench::new(Arc::new(SimDisk::new(1)), None, base, interval));
    let home = tempfile::tempdir().unwrap();
    case(&Bench::new(Arc::new(Disk::new(16)), Some(home), base, interval));
}

#[test]
fn b01_three_batches_and_a_partial_one_are_three_batches() {
    for k in [0, 2, 4, 5, 6] {
        each(0, 4_096, |bench| {
            for offset in 0..3 {
                bench.append(&run(offset..offset + 1));
            }
            let end = bench.segment.written();
            let file = bench.segment.file(Open::Write).unwrap();
            file.write_at(&vec![0x5a; k], end).unwrap();
            let mut scan = Scan::new(file.as_ref(), 0, end + k as u64);
            for expected in 0..3 {
                assert!(
                    matches!(scan.next(true).unwrap(), Step::Batch { header, .. } if header.base_offset == expected)
                );
            }
            // Not an error of the disk: the walk says that it ended, and at what.
            match scan.next(true).unwrap() {
                Step::End => assert_eq!(k, 0),
                Step::Bad { position, why: Invalid::Short { have, .. } } => {
                    assert_eq!((position, have), (end, k));
                }
                other => panic!("{k} bytes behind the end: {other:?}"),
            }
        });
    }
}

#[test]
fn b02_a_search_finds_the_first_batch_that_ends_at_or_behind_the_offset() {
    each(0, 4_096, |bench| {
        let sizes: Vec<usize> = [0..1, 1..2, 2..3, 50..51]
            .map(|offsets| {
                let bytes = run(offsets);
                bench.append(&bytes);
                bytes.len()
            })
            .to_vec();
        for (target, found, before) in [(0, 0, 0), (1, 1, 1), (3, 50, 3), (50, 50, 3)] {
            let landing = bench.segment.find(target).unwrap().unwrap();
            assert_eq!(landing.header.base_offset, found);
            assert_eq!(landing.position, sizes[..before].iter().sum::<usize>() as u64);
            assert_eq!(landing.header.size(), sizes[before]);
        }
        assert_eq!(bench.find(51), None);
    });
}

#[test]
fn c07_a_closed_index_is_exact_and_keeps_its_entries() {
    each(0, 0, |bench| {
        for offset in 0..4 {
            bench.append(&batch(&[(offset, offset * 10)]));
        }
        bench.segment.seal();
        bench.segment.close_index();
        // The first batch has no entry.
        assert_eq!(bench.bytes_of("00000000000000000000.index").len(), 3 * 8);
        assert_eq!(bench.bytes_of("00000000000000000000.timeindex").len(), 3 * 12);
        let again = bench.reopened();
        again
            .with_index(|offsets, times| {
                assert_eq!(offsets.len(), 3 * 8);
                assert_eq!(offset_index::lookup(offsets, 0, 100).unwrap().offset, 3);
                assert_eq!(time_index::last(times, 0).unwrap().timestamp, 30);
            })
            .unwrap();
    });
}

// Ours are never preallocated, so there is nothing to resize; a broker's that crashed are.
#[test]
fn c12_a_preallocated_or_empty_index_keeps_what_it_holds() {
    for (index_bytes, entries) in [(4_096, 3), (0, 0)] {
        each(0, 0, |bench| {
            for offset in 0..4 {
                bench.append(&batch(&[(offset, offset * 10)]));
            }
            bench.segment.sync_index().unwrap();
            for name in ["00000000000000000000.index", "00000000000000000000.timeindex"] {
                bench.storage.open(&bench.dir.join(name), Open::Write).unwrap().set_len(index_bytes).unwrap();
            }
            let segment = Segment::existing(&bench.storage, &bench.dir, 0, bench.config, &Arc::default(), 0);
            let (_, next) = segment.resume_index(Offset::MAX, bench.segment.written(), true, false).unwrap();
            assert_eq!(next, if entries == 0 { 0 } else { 4 });
            segment.with_index(|offsets, _| assert_eq!(offsets.len(), entries * 8)).unwrap();
        });
    }
}

#[test]
fn d01_an_empty_segment_gives_nothing() {
    each(40, 4_096, |bench| assert_eq!(bench.find(40), None));
}

#[test]
fn d02_a_read_before_the_first_offset_gives_the_first_batch() {
    each(40, 4_096, |bench| {
        bench.append(&run(50..54));
        assert_eq!(bench.find(41), Some(50));
    });
}

#[test]
fn d03_read_in_a_gap_gives_the_next_batch_and_behind_the_last_nothing() {
    each(40, 4_096, |bench| {
        bench.append(&run(50..52));
        bench.append(&run(60..62));
        for offset in 52..=55 {
            assert_eq!(bench.find(offset), Some(60), "{offset}");
        }
        assert_eq!(bench.find(62), None);
    });
}

/// Thirty batches of one record, offsets from 40, timestamp = offset * 10, with an index entry every second batch.
fn thirty(bench: &Bench) {
    for offset in 40..70 {
        bench.append(&batch(&[(offset, offset * 10)]));
    }
}

#[test]
fn d07_an_interval_below_two_batches_makes_an_entry_every_second_batch() {
    let size = batch(&[(40, 400)]).len() as u64;
    each(40, 2 * size - 1, |bench| {
        thirty(bench);
        bench
            .segment
            .with_index(|offsets, times| {
                assert_eq!(offsets.len() / offset_index::ENTRY_BYTES, 14);
                assert_eq!(times.len() / time_index::ENTRY_BYTES, 14);
            })
            .unwrap();
    });
}

#[test]
fn d09_a_time_finds_the_batch_of_the_first_record_that_young() {
    let size = batch(&[(40, 400)]).len() as u64;
    for interval in [0, 2 * size - 1, 4_096] {
        each(40, interval, |bench| {
            for offset in 40..50 {
                bench.append(&batch(&[(offset, offset * 10)]));
            }
            for sealed in [false, true] {
                let again = sealed.then(|| {
                    bench.segment.seal();
                    bench.segment.close_index();
                    bench.reopened()
                });
                let segment = again.as_ref().unwrap_or(&bench.segment);
                assert_eq!(segment.max_timestamp().unwrap(), 490);
                for (time, first) in [(420, 42), (421, 43), (430, 43), (431, 44), (401, 41), (399, 40)] {
                    // No record as young lies before the answer.
                    let from = segment.offset_before(time).unwrap();
                    assert!(from <= first, "{time}: {from}");
                    let mut at = from;
                    let found = loop {
                        let landing = segment.find(at).unwrap().unwrap();
                        if landing.header.max_timestamp >= time {
                            break landing.header.base_offset;
                        }
                        at = landing.header.next_offset();
                    };
                    assert_eq!(found, first, "{time}");
                }
            }
        });
    }
}

#[test]
fn d10_the_next_offset_follows_the_last_batch() {
    each(40, 4_096, |bench| {
        assert_eq!(bench.segment.resume_index(0, 0, true, false).unwrap(), (0, 40));
        bench.append(&run(50..53));
        let mut scan =
            Scan::new(bench.segment.file(Open::Read).unwrap().as_ref(), 0, bench.segment.written());
        assert!(matches!(scan.next(true).unwrap(), Step::Batch { header, .. } if header.next_offset() == 53));
    });
}

/// Garbage of a fixed seed, never the same twice.
fn garbage(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

#[test]
fn d11_a_garbage_offset_index_does_not_mislead_a_read() {
    for (seed, len) in [(1, 40), (2, 80), (3, 800), (4, 7)] {
        each(0, 0, |bench| {
            for offset in 0..100 {
                bench.append(&batch(&[(offset, offset * 10)]));
            }
            bench.segment.seal();
            bench.segment.close_index();
            let index = bench.dir.join("00000000000000000000.index");
            let file = bench.storage.open(&index, Open::Truncate).unwrap();
            file.write_at(&garbage(seed, len), 0).unwrap();
            let segment = bench.reopened();
            for offset in 0..100 {
                assert_eq!(segment.find(offset).unwrap().unwrap().header.base_offset, offset);
            }
        });
    }
}

#[test]
fn d11_an_index_that_is_sane_and_wrong_does_not_mislead_a_read() {
    each(0, 0, |bench| {
        for offset in 0..100 {
            bench.append(&batch(&[(offset, offset * 10)]));
        }
        bench.segment.seal();
        bench.segment.close_index();
        // Rising, inside the file, and each pointing where a batch of another offset starts.
        let size = bench.segment.written() / 100;
        let wrong: Vec<u8> = (1..50_u32)
            .flat_map(|i| [i.to_be_bytes(), u32::try_from((u64::from(i) + 30) * size).unwrap().to_be_bytes()])
            .flatten()
            .collect();
        let index = bench.dir.join("00000000000000000000.index");
        bench.storage.open(&index, Open::Truncate).unwrap().write_at(&wrong, 0).unwrap();
        let segment = bench.reopened();
        for offset in 0..100 {
            assert_eq!(segment.find(offset).unwrap().unwrap().header.base_offset, offset);
        }
    });
}

#[test]
fn d12_a_garbage_time_index_does_not_mislead_a_search() {
    for (seed, len) in [(1, 36), (2, 120), (3, 1_200), (4, 7)] {
        each(0, 0, |bench| {
            for offset in 0..100 {
                bench.append(&batch(&[(offset, offset * 10)]));
            }
            bench.segment.seal();
            bench.segment.close_index();
            let index = bench.dir.join("00000000000000000000.timeindex");
            let file = bench.storage.open(&index, Open::Truncate).unwrap();
            file.write_at(&garbage(seed, len), 0).unwrap();
            let segment = bench.reopened();
            for offset in 0..100 {
                assert!(segment.offset_before(offset * 10).unwrap() <= offset);
                assert!(segment.offset_before(offset * 10 + 1).unwrap() <= offset + 1);
            }
            assert_eq!(segment.max_timestamp().unwrap(), 990);
        });
    }
}

#[test]
fn the_search_for_the_next_batch_reads_every_byte_about_once() {
    const ZEROS: u64 = 8 << 20;
    let disk = SimDisk::new(1);
    let bench = Bench::new(Arc::new(disk.clone()), None, 0, 4_096);
    bench.append(&run(0..1));
    let first = bench.segment.written();
    let file = bench.segment.file(Open::Write).unwrap();
    // As a broker with preallocation leaves it; and a header behind which its batch is missing.
    file.write_at(&run(1..2)[..70], first + ZEROS / 2).unwrap();
    let whole = run(1..9);
    for at in [first + ZEROS, first + ZEROS + 100, first + ZEROS + 262_144 - 30] {
        file.set_len(first + ZEROS / 2 + 70).unwrap();
        file.write_at(&whole, at).unwrap();
        let mut scan = Scan::new(file.as_ref(), first, at + whole.len() as u64);
        let before = disk.counts().reads;
        assert_eq!(scan.resync().unwrap(), Some(at));
        let reads = disk.counts().reads - before;
        assert!(reads < 3 * ZEROS / (256 * 1024), "{reads} reads");
        assert!(matches!(scan.next(true).unwrap(), Step::Batch { position, .. } if position == at));
        assert_eq!(scan.resync().unwrap(), None);
    }
}
