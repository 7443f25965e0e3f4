//! The logs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use crate::peer::{Mode, Peer};

/// Room for a step's records where a peer asks for a size first.
const ROOM: u64 = 4 << 30;

// ───────── commitlog

struct CommitLog(Mutex<::commitlog::CommitLog>);

pub fn commitlog(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let mut options = ::commitlog::LogOptions::new(dir.join("log"));
    options.segment_max_bytes(1 << 30).index_max_items(100_000_000).message_max_bytes(2 << 20);
    Box::new(CommitLog(Mutex::new(::commitlog::CommitLog::new(options).unwrap())))
}

impl Peer for CommitLog {
    fn append(&self, batch: &[&[u8]]) {
        let mut buffer = ::commitlog::message::MessageBuf::default();
        for value in batch {
            buffer.push(value).unwrap();
        }
        self.0.lock().unwrap().append(&mut buffer).unwrap();
    }

    fn append_durable(&self, _value: &[u8]) {
        unreachable!("commitlog never syncs its log");
    }

    fn scan(&self) -> u64 {
        use ::commitlog::message::MessageSet;
        let log = self.0.lock().unwrap();
        let (mut next, mut count) = (0, 0);
        loop {
            let Ok(messages) = log.read(next, ::commitlog::ReadLimit::max_bytes(1 << 20)) else {
                return count;
            };
            if messages.is_empty() {
                return count;
            }
            for message in messages.iter() {
                assert!(message.verify_hash());
                std::hint::black_box(message.payload().last());
                next = message.offset() + 1;
                count += 1;
            }
        }
    }

    fn get(&self, index: u64) -> usize {
        use ::commitlog::message::MessageSet;
        // A message must fit: 100 bytes and its head.
        let limit = ::commitlog::ReadLimit::max_bytes(200);
        let messages = self.0.lock().unwrap().read(index, limit).unwrap();
        let message = messages.iter().next().unwrap();
        assert!(message.verify_hash());
        message.payload().len()
    }

    fn close(self: Box<Self>) {
        self.0.lock().unwrap().flush().unwrap();
    }
}

// ───────── seglog

struct SegLog {
    path: PathBuf,
    writer: Mutex<::seglog::write::Writer<0>>,
    reader: Mutex<Option<::seglog::read::Reader<0>>>,
    offsets: OnceLock<Vec<u64>>,
    count: AtomicU64,
}

pub fn seglog(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let path = dir.join("segment");
    let writer = if path.exists() {
        ::seglog::write::Writer::open(&path, ROOM as usize, 0)
    } else {
        ::seglog::write::Writer::create(&path, ROOM as usize, 0)
    };
    Box::new(SegLog {
        path,
        writer: Mutex::new(writer.unwrap()),
        reader: Mutex::new(None),
        offsets: OnceLock::new(),
        count: AtomicU64::new(0),
    })
}

impl SegLog {
    fn reader(&self) -> ::seglog::read::Reader<0> {
        let flushed = self.writer.lock().unwrap().flushed_offset();
        ::seglog::read::Reader::open(&self.path, Some(flushed)).unwrap()
    }

    fn each(&self, mut see: impl FnMut(u64, &[u8])) {
        let mut reader = self.reader();
        let mut records = reader.iter(0);
        while let Some(record) = records.next_record().unwrap() {
            see(record.offset, &record.data);
        }
    }
}

impl Peer for SegLog {
    fn append(&self, batch: &[&[u8]]) {
        let mut writer = self.writer.lock().unwrap();
        for value in batch {
            writer.append_data(value).unwrap();
        }
        self.count.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }

    fn append_durable(&self, value: &[u8]) {
        let mut writer = self.writer.lock().unwrap();
        writer.append_data(value).unwrap();
        writer.commit(self.count.fetch_add(1, Ordering::Relaxed)).unwrap();
    }

    fn hand_over(&self) {
        self.writer.lock().unwrap().flush_writer().unwrap();
    }

    fn settle(&self) {
        self.writer.lock().unwrap().commit(self.count.load(Ordering::Relaxed)).unwrap();
    }

    fn scan(&self) -> u64 {
        let mut count = 0;
        self.each(|_, value| {
            std::hint::black_box(value.last());
            count += 1;
        });
        count
    }

    fn prepare_reads(&self) {
        let mut offsets = Vec::new();
        self.each(|offset, _| offsets.push(offset));
        self.offsets.set(offsets).unwrap();
        *self.reader.lock().unwrap() = Some(self.reader());
    }

    fn get(&self, index: u64) -> usize {
        let offset = self.offsets.get().unwrap()[index as usize];
        let mut reader = self.reader.lock().unwrap();
        let reader = reader.as_mut().unwrap();
        reader.read_record(offset, ::seglog::read::ReadHint::Random).unwrap().data.len()
    }

    fn close(self: Box<Self>) {}
}

// ───────── wal-db

struct WalDb {
    wal: ::wal_db::Wal,
    offsets: OnceLock<Vec<::wal_db::Lsn>>,
}

pub fn wal_db(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let wal = ::wal_db::Wal::open(dir.join("wal")).unwrap();
    Box::new(WalDb { wal, offsets: OnceLock::new() })
}

impl Peer for WalDb {
    fn append(&self, batch: &[&[u8]]) {
        for value in batch {
            let _lsn = self.wal.append(value).unwrap();
        }
    }

    fn append_durable(&self, value: &[u8]) {
        let _lsn = self.wal.append_and_sync(value).unwrap();
    }

    fn scan(&self) -> u64 {
        let mut count = 0;
        for record in self.wal.iter().unwrap() {
            std::hint::black_box(record.unwrap().data().last());
            count += 1;
        }
        count
    }

    fn prepare_reads(&self) {
        let offsets = self.wal.iter().unwrap().map(|record| record.unwrap().lsn()).collect();
        self.offsets.set(offsets).unwrap();
    }

    fn get(&self, index: u64) -> usize {
        let offset = self.offsets.get().unwrap()[index as usize];
        self.wal.iter_from(offset).unwrap().next().unwrap().unwrap().len()
    }

    fn close(self: Box<Self>) {
        self.wal.sync().unwrap();
    }
}

// ───────── logdb

struct LogDb(::logdb::LogDb);

pub fn logdb(dir: &Path, mode: Mode) -> Box<dyn Peer> {
    let config = ::logdb::Config {
        data_dir: dir.join("logdb"),
        // One segment: 0.6.0 loses data when it opens a log that has rolled.
        segment_size: 4 * ROOM,
        // Else it syncs what nobody asked it to.
        durability_mode: match mode {
            Mode::Relaxed => ::logdb::DurabilityMode::Async,
            Mode::Durable => ::logdb::Config::default().durability_mode,
        },
        ..Default::default()
    };
    Box::new(LogDb(::logdb::LogDb::open(config).unwrap()))
}

impl Peer for LogDb {
    fn append(&self, batch: &[&[u8]]) {
        self.0.append_batch(batch).unwrap();
    }

    fn append_durable(&self, value: &[u8]) {
        self.0.append(value).unwrap();
        self.0.flush().unwrap();
    }

    fn settle(&self) {
        self.0.flush().unwrap();
    }

    fn scan(&self) -> u64 {
        let mut count = 0;
        for record in self.0.scan(0, u64::MAX).unwrap() {
            std::hint::black_box(record.unwrap().content.last());
            count += 1;
        }
        count
    }

    fn get(&self, index: u64) -> usize {
        self.0.read(index).unwrap().unwrap().content.len()
    }

    fn close(self: Box<Self>) {
        // After a reopen with nothing appended it waits for all of its time.
        let _ = self.0.shutdown(Duration::from_secs(1));
    }
}

// ───────── tephra

struct Tephra {
    coordinator: ::tephra::WriteCoordinator,
    handle: ::tephra::WriteHandle,
    kind: ::tephra::EventType,
    reply: flume::Sender<TephraReply>,
    replies: flume::Receiver<TephraReply>,
    awaited: AtomicU64,
}

type TephraReply = (u64, Result<::tephra::PositionRange, ::tephra::AppendError>);

pub fn tephra(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let set = ::tephra::SegmentSet::open(dir.join("tephra"), ::tephra::SegmentConfig::new(1 << 28)).unwrap();
    let (coordinator, handle) = ::tephra::WriteCoordinator::start(set, Default::default()).unwrap();
    let kind = ::tephra::EventType::new("e").unwrap();
    let (reply, replies) = flume::unbounded();
    Box::new(Tephra { coordinator, handle, kind, reply, replies, awaited: AtomicU64::new(0) })
}

impl Tephra {
    fn event(&self, value: &[u8]) -> ::tephra::Event {
        ::tephra::Event::new(&self.kind, &::tephra::Tags::empty(), value).unwrap()
    }
}

impl Peer for Tephra {
    fn append(&self, batch: &[&[u8]]) {
        let events = batch.iter().map(|value| self.event(value)).collect();
        self.handle.append_submit(events, None, 0, self.reply.clone()).unwrap();
        self.awaited.fetch_add(1, Ordering::Relaxed);
    }

    fn append_durable(&self, value: &[u8]) {
        self.handle.append(vec![self.event(value)], None).unwrap();
    }

    fn hand_over(&self) {
        for (_, result) in self.replies.iter().take(self.awaited.swap(0, Ordering::Relaxed) as usize) {
            result.unwrap();
        }
    }

    fn scan(&self) -> u64 {
        let mut reads = self.handle.read(&::tephra::Query::all(), ::tephra::Position::ZERO, None);
        let mut count = 0;
        while let Some(event) = reads.next() {
            std::hint::black_box(event.unwrap().event.data().last());
            count += 1;
        }
        count
    }

    fn get(&self, index: u64) -> usize {
        let after = ::tephra::Position::new(index);
        let mut reads = self.handle.read(&::tephra::Query::all(), after, Some(1));
        reads.next().unwrap().unwrap().event.data().len()
    }

    fn close(self: Box<Self>) {
        self.coordinator.shutdown();
    }
}

// ───────── okaywal

#[derive(Debug)]
struct Reader;

/// How many records were found by the open of this process.
static RECOVERED: AtomicU64 = AtomicU64::new(0);

impl ::okaywal::LogManager for Reader {
    fn recover(&mut self, entry: &mut ::okaywal::Entry<'_>) -> io::Result<()> {
        let chunks = std::hint::black_box(entry.read_all_chunks()?);
        RECOVERED.fetch_add(chunks.map_or(0, |chunks| chunks.len() as u64), Ordering::Relaxed);
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: ::okaywal::EntryId,
        _entries: &mut ::okaywal::SegmentReader,
        _wal: &::okaywal::WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

struct OkayWal(::okaywal::WriteAheadLog);

pub fn okaywal(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let config = ::okaywal::Configuration::default_for(dir.join("wal")).checkpoint_after_bytes(u64::MAX);
    Box::new(OkayWal(config.open(Reader).unwrap()))
}

impl Peer for OkayWal {
    fn append(&self, batch: &[&[u8]]) {
        let mut entry = self.0.begin_entry().unwrap();
        for value in batch {
            entry.write_chunk(value).unwrap();
        }
        entry.commit().unwrap();
    }

    fn append_durable(&self, value: &[u8]) {
        self.append(&[value]);
    }

    fn holds(&self, count: u64) -> bool {
        RECOVERED.load(Ordering::Relaxed) == count
    }

    fn close(self: Box<Self>) {
        self.0.shutdown().unwrap();
    }
}

// ───────── raft-engine

/// An entry without a generated message: eight bytes of index, then the payload.
struct Entries;

impl ::raft_engine::MessageExt for Entries {
    type Entry = protobuf::well_known_types::BytesValue;

    fn index(entry: &Self::Entry) -> u64 {
        u64::from_le_bytes(entry.value[..8].try_into().unwrap())
    }
}

struct RaftEngine {
    engine: ::raft_engine::Engine,
    next: AtomicU64,
}

/// The log of the relaxed workloads; durable threads each have one of their own, as regions do.
const REGION: u64 = 1;

pub fn raft_engine(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let config = ::raft_engine::Config {
        dir: dir.join("raft").to_str().unwrap().to_owned(),
        // Payloads are random.
        batch_compression_threshold: ::raft_engine::ReadableSize(0),
        ..Default::default()
    };
    let engine = ::raft_engine::Engine::open(config).unwrap();
    let next = AtomicU64::new(engine.last_index(REGION).map_or(0, |last| last + 1));
    Box::new(RaftEngine { engine, next })
}

fn entry(index: u64, value: &[u8]) -> protobuf::well_known_types::BytesValue {
    let mut entry = protobuf::well_known_types::BytesValue::new();
    let mut bytes = Vec::with_capacity(8 + value.len());
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(value);
    entry.set_value(bytes);
    entry
}

impl Peer for RaftEngine {
    fn append(&self, batch: &[&[u8]]) {
        let first = self.next.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let entries: Vec<_> = (first..).zip(batch).map(|(index, value)| entry(index, value)).collect();
        let mut log = ::raft_engine::LogBatch::with_capacity(1);
        log.add_entries::<Entries>(REGION, &entries).unwrap();
        self.engine.write(&mut log, false).unwrap();
    }

    fn append_durable(&self, value: &[u8]) {
        static REGIONS: AtomicU64 = AtomicU64::new(REGION + 1);
        thread_local! {
            static MINE: (u64, std::cell::Cell<u64>) =
                (REGIONS.fetch_add(1, Ordering::Relaxed), std::cell::Cell::new(0));
        }
        MINE.with(|(region, next)| {
            let mut log = ::raft_engine::LogBatch::with_capacity(1);
            log.add_entries::<Entries>(*region, &[entry(next.replace(next.get() + 1), value)]).unwrap();
            self.engine.write(&mut log, true).unwrap();
        });
    }

    fn scan(&self) -> u64 {
        let (mut next, end) = (0, self.engine.last_index(REGION).map_or(0, |last| last + 1));
        let mut entries = Vec::new();
        while next < end {
            entries.clear();
            let until = end.min(next + 1000);
            self.engine.fetch_entries_to::<Entries>(REGION, next, until, None, &mut entries).unwrap();
            for entry in &entries {
                std::hint::black_box(entry.value.last());
            }
            next += entries.len() as u64;
        }
        next
    }

    fn get(&self, index: u64) -> usize {
        self.engine.get_entry::<Entries>(REGION, index).unwrap().unwrap().value.len() - 8
    }

    fn close(self: Box<Self>) {
        self.engine.sync().unwrap();
    }
}
