//! krabka-log: Kafka's files, byte for byte, one directory a partition.

use std::path::Path;
use std::sync::RwLock;
use std::time::SystemTime;

use bytes::Bytes;
use krabka_log::{Log, LogConfig, Offset, SegmentAllocation};
use krabka_protocol::DecodeBorrow;
use krabka_protocol::records::{Record, RecordBatch, RecordBatchBorrowed};
use krabka_units::prelude::{ByteSize, bytes, mebibytes};

use crate::peer::{ALL, About, Mode, Peer};

struct Krabka(RwLock<Log>);

pub fn about() -> About {
    About {
        name: "krabka-log",
        open,
        checksum: "CRC-32C per batch, checked by us with its decoder",
        relaxed: "page cache, one write per call",
        durable: "fdatasync of log and indexes per call, one at a time",
        index: "sparse, 4 KiB",
        can: ALL,
    }
}

fn open(dir: &Path, mode: Mode) -> Box<dyn Peer> {
    let config = LogConfig {
        flush_on_append: mode == Mode::Durable,
        segment_allocation: match mode {
            Mode::Relaxed => SegmentAllocation::OnWrite,
            // Faster where every append is synced.
            Mode::Durable => SegmentAllocation::Preallocate,
        },
        ..LogConfig::default()
    };
    Box::new(Krabka(RwLock::new(Log::open(dir.join("t-0"), config).unwrap())))
}

impl Krabka {
    /// Sees whole batches until one ends the walk; the offset after the last.
    fn read(&self, from: u64, max: ByteSize, mut see: impl FnMut(u64, &RecordBatchBorrowed<'_>)) -> u64 {
        let log = self.0.read().unwrap();
        let read = log.read_raw(Offset(from as i64), log.log_end_offset(), max).unwrap();
        let mut rest: &[u8] = &read.bytes;
        while !rest.is_empty() {
            let batch = RecordBatchBorrowed::decode_borrow(&mut rest, 0).unwrap();
            see(batch.header().base_offset.get() as u64, &batch);
        }
        read.last_offset.map_or(from, |last| last.0 as u64 + 1)
    }
}

impl Peer for Krabka {
    fn append(&self, batch: &[&[u8]]) {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
        let records = (0..).zip(batch).map(|(offset_delta, value)| Record {
            attributes: 0,
            timestamp_delta: 0,
            offset_delta,
            key: None,
            value: Some(Bytes::copy_from_slice(value)),
            headers: Vec::new(),
        });
        let mut batch = RecordBatch {
            last_offset_delta: batch.len() as i32 - 1,
            base_timestamp: now,
            max_timestamp: now,
            records: records.collect(),
            ..RecordBatch::default()
        };
        self.0.write().unwrap().append(&mut batch).unwrap();
    }

    fn append_durable(&self, value: &[u8]) {
        self.append(&[value]);
    }

    fn scan(&self) -> u64 {
        let (mut next, mut count) = (0, 0);
        loop {
            let until = self.read(next, mebibytes(1), |_, batch| {
                for record in batch {
                    std::hint::black_box(record.unwrap().value.and_then(<[u8]>::last));
                    count += 1;
                }
            });
            if until == next {
                return count;
            }
            next = until;
        }
    }

    fn get(&self, index: u64) -> usize {
        let mut len = None;
        // The first batch always comes whole.
        self.read(index, bytes(1), |base, batch| {
            if base <= index && len.is_none() {
                let record = batch.iter().nth((index - base) as usize).unwrap().unwrap();
                len = Some(record.value.unwrap().len());
            }
        });
        len.unwrap()
    }

    fn close(self: Box<Self>) {
        let mut log = self.0.into_inner().unwrap();
        log.sync().unwrap();
        log.close();
    }
}
