//! Key-value stores that are used as logs: the record's number is the key, one transaction or write batch a call.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(feature = "rocksdb"))]
use crate::peer::About;
use crate::peer::{Mode, Peer};

// ───────── LMDB

struct Lmdb {
    env: heed::Env,
    table: heed::Database<heed::types::U64<heed::byteorder::BigEndian>, heed::types::Bytes>,
    next: Mutex<u64>,
}

pub fn lmdb(dir: &Path, mode: Mode) -> Box<dyn Peer> {
    let mut options = heed::EnvOpenOptions::new();
    options.map_size(16 << 30);
    if mode == Mode::Relaxed {
        // SAFETY: only a system crash can corrupt it, and a benchmark's data is thrown away.
        unsafe { options.flags(heed::EnvFlags::NO_SYNC) };
    }
    // SAFETY: nobody else has the file.
    let env = unsafe { options.open(dir).unwrap() };
    let mut txn = env.write_txn().unwrap();
    let table = env.create_database(&mut txn, None).unwrap();
    txn.commit().unwrap();
    let next = {
        let txn = env.read_txn().unwrap();
        Lmdb::last(&table, &txn)
    };
    Box::new(Lmdb { env, table, next: Mutex::new(next) })
}

impl Lmdb {
    fn last(
        table: &heed::Database<heed::types::U64<heed::byteorder::BigEndian>, heed::types::Bytes>,
        txn: &heed::RoTxn<'_>,
    ) -> u64 {
        table.last(txn).unwrap().map_or(0, |(key, _)| key + 1)
    }
}

impl Peer for Lmdb {
    fn append(&self, batch: &[&[u8]]) {
        let mut next = self.next.lock().unwrap();
        let mut txn = self.env.write_txn().unwrap();
        for value in batch {
            self.table.put_with_flags(&mut txn, heed::PutFlags::APPEND, &next, value).unwrap();
            *next += 1;
        }
        txn.commit().unwrap();
    }

    fn append_durable(&self, value: &[u8]) {
        self.append(&[value]);
    }

    fn scan(&self) -> u64 {
        let txn = self.env.read_txn().unwrap();
        let mut count = 0;
        for row in self.table.iter(&txn).unwrap() {
            std::hint::black_box(row.unwrap().1.last());
            count += 1;
        }
        count
    }

    fn get(&self, index: u64) -> usize {
        let txn = self.env.read_txn().unwrap();
        self.table.get(&txn, &index).unwrap().unwrap().len()
    }

    fn close(self: Box<Self>) {
        self.env.force_sync().unwrap();
    }
}

// ───────── redb

const TABLE: redb::TableDefinition<'static, u64, &'static [u8]> = redb::TableDefinition::new("t");

struct Redb {
    db: redb::Database,
    next: AtomicU64,
    mode: Mode,
}

pub fn redb(dir: &Path, mode: Mode) -> Box<dyn Peer> {
    use redb::{ReadableDatabase, ReadableTable};
    let db = redb::Database::create(dir.join("redb")).unwrap();
    let next = match db.begin_read().unwrap().open_table(TABLE) {
        Ok(table) => table.last().unwrap().map_or(0, |(key, _)| key.value() + 1),
        Err(_) => 0,
    };
    Box::new(Redb { db, next: AtomicU64::new(next), mode })
}

impl Redb {
    fn write(&self, batch: &[&[u8]], durability: redb::Durability) {
        let mut txn = self.db.begin_write().unwrap();
        txn.set_durability(durability).unwrap();
        {
            let mut table = txn.open_table(TABLE).unwrap();
            for value in batch {
                table.insert(self.next.fetch_add(1, Ordering::Relaxed), *value).unwrap();
            }
        }
        txn.commit().unwrap();
    }
}

impl Peer for Redb {
    fn append(&self, batch: &[&[u8]]) {
        self.write(batch, redb::Durability::None);
    }

    fn append_durable(&self, value: &[u8]) {
        self.write(&[value], redb::Durability::Immediate);
    }

    fn settle(&self) {
        if self.mode == Mode::Relaxed {
            self.write(&[], redb::Durability::Immediate);
        }
    }

    fn scan(&self) -> u64 {
        use redb::{ReadableDatabase, ReadableTable};
        let table = self.db.begin_read().unwrap().open_table(TABLE).unwrap();
        let mut count = 0;
        for row in table.iter().unwrap() {
            std::hint::black_box(row.unwrap().1.value().last());
            count += 1;
        }
        count
    }

    fn get(&self, index: u64) -> usize {
        use redb::ReadableDatabase;
        let table = self.db.begin_read().unwrap().open_table(TABLE).unwrap();
        table.get(index).unwrap().unwrap().value().len()
    }

    fn close(self: Box<Self>) {}
}

// ───────── fjall

struct Fjall {
    db: fjall::Database,
    items: fjall::Keyspace,
    next: AtomicU64,
}

pub fn fjall(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let db = fjall::Database::builder(dir.join("fjall")).open().unwrap();
    let items = db.keyspace("t", fjall::KeyspaceCreateOptions::default).unwrap();
    Box::new(Fjall { db, items, next: AtomicU64::new(0) })
}

impl Peer for Fjall {
    fn append(&self, batch: &[&[u8]]) {
        let mut write = self.db.batch();
        for value in batch {
            let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            write.insert(&self.items, key, *value);
        }
        write.commit().unwrap();
    }

    fn append_durable(&self, value: &[u8]) {
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.items.insert(key, value).unwrap();
        self.db.persist(fjall::PersistMode::SyncData).unwrap();
    }

    fn scan(&self) -> u64 {
        let mut count = 0;
        for row in self.items.iter() {
            std::hint::black_box(row.value().unwrap().last());
            count += 1;
        }
        count
    }

    fn get(&self, index: u64) -> usize {
        self.items.get(index.to_be_bytes()).unwrap().unwrap().len()
    }

    fn close(self: Box<Self>) {
        self.db.persist(fjall::PersistMode::SyncAll).unwrap();
    }
}

// ───────── SQLite

struct Sqlite(Mutex<rusqlite::Connection>);

pub fn sqlite(dir: &Path, mode: Mode) -> Box<dyn Peer> {
    let db = rusqlite::Connection::open(dir.join("sqlite")).unwrap();
    let synchronous = if mode == Mode::Durable { "FULL" } else { "OFF" };
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.pragma_update(None, "synchronous", synchronous).unwrap();
    db.execute_batch("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, value BLOB NOT NULL)").unwrap();
    Box::new(Sqlite(Mutex::new(db)))
}

impl Peer for Sqlite {
    fn append(&self, batch: &[&[u8]]) {
        let mut db = self.0.lock().unwrap();
        let txn = db.transaction().unwrap();
        {
            let mut insert = txn.prepare_cached("INSERT INTO t (value) VALUES (?1)").unwrap();
            for value in batch {
                insert.execute([value]).unwrap();
            }
        }
        txn.commit().unwrap();
    }

    fn append_durable(&self, value: &[u8]) {
        self.append(&[value]);
    }

    fn scan(&self) -> u64 {
        let db = self.0.lock().unwrap();
        let mut select = db.prepare("SELECT value FROM t ORDER BY id").unwrap();
        let mut rows = select.query([]).unwrap();
        let mut count = 0;
        while let Some(row) = rows.next().unwrap() {
            std::hint::black_box(row.get_ref(0).unwrap().as_blob().unwrap().last());
            count += 1;
        }
        count
    }

    fn get(&self, index: u64) -> usize {
        let db = self.0.lock().unwrap();
        let mut select = db.prepare_cached("SELECT value FROM t WHERE id = ?1").unwrap();
        select.query_row([index as i64 + 1], |row| Ok(row.get_ref(0)?.as_blob()?.len())).unwrap()
    }

    fn close(self: Box<Self>) {}
}

// ───────── RocksDB

#[cfg(not(feature = "rocksdb"))]
pub fn rocksdb_about() -> Option<About> {
    None
}

#[cfg(feature = "rocksdb")]
pub use with_rocksdb::about as rocksdb_about;

#[cfg(feature = "rocksdb")]
mod with_rocksdb {
    use super::{AtomicU64, Mode, Ordering, Path, Peer};
    use crate::peer::{ALL, About};

    struct RocksDb {
        db: rocksdb::DB,
        next: AtomicU64,
    }

    pub fn about() -> Option<About> {
        Some(About {
            name: "rocksdb",
            open,
            checksum: "CRC-32C (log), XXH3 (blocks), checked on read",
            relaxed: "page cache (write-ahead log)",
            durable: "fdatasync, grouped",
            index: "LSM",
            can: ALL,
        })
    }

    fn open(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        let db = rocksdb::DB::open(&options, dir.join("rocksdb")).unwrap();
        Box::new(RocksDb { db, next: AtomicU64::new(0) })
    }

    impl RocksDb {
        fn write(&self, batch: &[&[u8]], sync: bool) {
            let mut write = rocksdb::WriteBatch::default();
            for value in batch {
                write.put(self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes(), value);
            }
            let mut options = rocksdb::WriteOptions::default();
            options.set_sync(sync);
            self.db.write_opt(&write, &options).unwrap();
        }
    }

    impl Peer for RocksDb {
        fn append(&self, batch: &[&[u8]]) {
            self.write(batch, false);
        }

        fn append_durable(&self, value: &[u8]) {
            self.write(&[value], true);
        }

        fn scan(&self) -> u64 {
            let mut count = 0;
            for row in self.db.iterator(rocksdb::IteratorMode::Start) {
                std::hint::black_box(row.unwrap().1.last());
                count += 1;
            }
            count
        }

        fn get(&self, index: u64) -> usize {
            self.db.get_pinned(index.to_be_bytes()).unwrap().unwrap().len()
        }

        fn close(self: Box<Self>) {
            self.db.flush_wal(true).unwrap();
        }
    }
}
