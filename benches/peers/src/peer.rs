//! What a log must be able to do to be compared, and the list of those that are.

use std::path::Path;

#[cfg(feature = "krabka-log")]
use crate::krabka;
use crate::{kv, logs, ours, raw, tokio_logs};

/// How a log is opened.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// Appends end in the page cache, or wherever the peer acknowledges without a sync.
    Relaxed,
    /// Appends end on the device.
    Durable,
}

/// One open log. Peers that take `&mut` stand behind a mutex.
pub trait Peer: Send + Sync {
    /// Appends records, acknowledged as the peer does without a sync.
    fn append(&self, batch: &[&[u8]]);
    /// Appends one record and returns when it is on the device. Called by many threads.
    fn append_durable(&self, value: &[u8]);
    /// Hands everything to the operating system; inside the clock.
    fn hand_over(&self) {}
    /// What readers need before they see all; outside the clock.
    fn settle(&self) {}
    /// Reads everything, in order, and looks at the last byte of each record; how many there were.
    fn scan(&self) -> u64 {
        0
    }
    /// Whether it holds so many records.
    fn holds(&self, count: u64) -> bool {
        self.scan() == count
    }
    /// Finds what a caller must keep to read at random; outside the clock.
    fn prepare_reads(&self) {}
    /// Reads one record by its number; its length.
    fn get(&self, _index: u64) -> usize {
        0
    }
    fn close(self: Box<Self>);
}

/// What is said about a peer, and how to open it.
pub struct About {
    pub name: &'static str,
    pub open: fn(&Path, Mode) -> Box<dyn Peer>,
    /// The checksum, and whether readers check it.
    pub checksum: &'static str,
    /// Where a record is when a relaxed append returns.
    pub relaxed: &'static str,
    pub durable: &'static str,
    /// How a record is found by number.
    pub index: &'static str,
    pub can: Can,
}

/// What a peer is measured in, or why not.
#[derive(Clone, Copy)]
pub struct Can {
    pub durable: Result<(), &'static str>,
    pub scan: Result<(), &'static str>,
    pub get: Result<(), &'static str>,
}

pub const ALL: Can = Can { durable: Ok(()), scan: Ok(()), get: Ok(()) };
const NEVER_SYNCS: Result<(), &str> = Err("no durable append");

/// Peers that this build is without, and why.
pub const ABSENT: &[(&str, &str)] = &[
    #[cfg(not(feature = "krabka-log"))]
    ("krabka-log", "1.0.8 needs Rust 1.98: `--features krabka-log`"),
    #[cfg(not(feature = "rocksdb"))]
    ("rocksdb", "`--features rocksdb`"),
];

pub fn all() -> Vec<About> {
    let mut peers = vec![
        About {
            name: "logstead",
            open: ours::producer,
            checksum: "CRC-32C per batch, checked on read",
            relaxed: "in the producer's open batch (at most 16 KiB or 5 ms), then the page cache",
            durable: "fdatasync, grouped",
            index: "sparse, 4 KiB",
            can: ALL,
        },
        About {
            name: "logstead-partition",
            open: ours::partition,
            checksum: "CRC-32C per batch, checked on read",
            relaxed: "page cache, one write per call",
            durable: "fdatasync, grouped",
            index: "sparse, 4 KiB",
            can: ALL,
        },
        About {
            name: "raw",
            open: raw::open,
            checksum: "CRC-32C per record, checked on read",
            relaxed: "page cache, one write per call",
            durable: "fdatasync per call, one at a time",
            index: "computed (records of one size)",
            can: ALL,
        },
        About {
            name: "commitlog",
            open: logs::commitlog,
            checksum: "CRC-32C per message, checked by us on scan",
            relaxed: "page cache, one write per call",
            durable: "none",
            index: "dense",
            can: Can { durable: NEVER_SYNCS, ..ALL },
        },
        About {
            name: "seglog",
            open: logs::seglog,
            checksum: "CRC-32C per record, checked on read",
            relaxed: "user-space buffer, lost on kill",
            durable: "fdatasync, one at a time",
            index: "none: the caller keeps byte offsets",
            can: ALL,
        },
        About {
            name: "wal-db",
            open: logs::wal_db,
            checksum: "CRC-32C per record, checked on read",
            relaxed: "page cache, one write per record",
            durable: "fdatasync, grouped",
            index: "none: the caller keeps byte offsets",
            can: ALL,
        },
        About {
            name: "logdb",
            open: logs::logdb,
            checksum: "CRC-32C per record; a bad one is skipped",
            relaxed: "ring in memory, lost on kill; asked not to sync",
            durable: "fdatasync, grouped",
            index: "sparse, read anew for each get",
            can: ALL,
        },
        About {
            name: "tephra",
            open: logs::tephra,
            checksum: "CRC-32 per record, checked on read",
            relaxed: "queue in memory, lost on kill; synced in groups behind it",
            durable: "fdatasync, grouped",
            index: "dense in memory, and by type",
            can: ALL,
        },
        About {
            name: "okaywal",
            open: logs::okaywal,
            checksum: "CRC-32C per chunk",
            relaxed: "none: every commit is synced",
            durable: "fsync, shared",
            index: "none; reads only in recovery",
            can: Can { scan: Err("reads only in recovery: see W7"), get: Err("no random read"), ..ALL },
        },
        About {
            name: "mrecordlog",
            open: tokio_logs::mrecordlog,
            checksum: "CRC-32 per frame, checked at open only",
            relaxed: "user-space buffer, lost on kill; all records stay in memory",
            durable: "none: its sync only flushes",
            index: "all in memory, records too",
            can: Can { durable: NEVER_SYNCS, ..ALL },
        },
        About {
            name: "kafko",
            open: tokio_logs::kafko,
            checksum: "CRC-32 per record, checked on read",
            relaxed: "page cache, one write per call",
            durable: "fdatasync of log and index per call, one at a time",
            index: "sparse, 4 KiB; each read copies the rest of the segment",
            can: Can { scan: Err("days: each read copies the rest of the segment, see W6"), ..ALL },
        },
        About {
            name: "raft-engine",
            open: logs::raft_engine,
            checksum: "CRC-32 per batch, checked on read",
            relaxed: "page cache",
            durable: "fdatasync, grouped",
            index: "all in memory",
            can: ALL,
        },
        About {
            name: "lmdb",
            open: kv::lmdb,
            checksum: "none",
            relaxed: "map, NOSYNC: a system crash can corrupt it",
            durable: "fdatasync per transaction",
            index: "B-tree",
            can: ALL,
        },
        About {
            name: "redb",
            open: kv::redb,
            checksum: "pages; checked at recovery only",
            relaxed: "memory until a durable commit",
            durable: "fsync per transaction",
            index: "B-tree",
            can: ALL,
        },
        About {
            name: "fjall",
            open: kv::fjall,
            checksum: "XXH3, checked on read",
            relaxed: "page cache (journal)",
            durable: "fdatasync, one at a time",
            index: "LSM",
            can: ALL,
        },
        About {
            name: "sqlite",
            open: kv::sqlite,
            checksum: "write-ahead frames only",
            relaxed: "page cache, synchronous=OFF",
            durable: "fsync per transaction, synchronous=FULL",
            index: "B-tree",
            can: ALL,
        },
    ];
    #[cfg(feature = "krabka-log")]
    peers.push(krabka::about());
    peers.extend(kv::rocksdb_about());
    peers
}

pub fn find(name: &str) -> Option<About> {
    all().into_iter().find(|peer| peer.name == name)
}
