//! One segment: the `.log` of one base offset with its indexes.
//!
//! Invariants:
//! - Offsets of a segment are at or above its base, and at most 2^31 - 1 above it; positions stay below 2^31.
//! - Readers see bytes below [`Segment::visible`] only. It rises and never falls; the file is not cut below it.
//! - Bytes below `visible` never change.
//! - An index is a hint: what it points to is compared with the batch found there, and an index that lies is
//!   rebuilt from the log.
//! - A sealed segment's index files are exact: no zero tail, and the last time entry is its youngest record.

mod copy;
mod digest;
mod index;
pub(crate) mod name;
pub(crate) mod offset_index;
mod scan;
#[cfg(test)]
mod tests;
pub(crate) mod time_index;
pub(crate) mod txn_index;
mod verify;

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::limits::BATCH_HEADER_BYTES;
use crate::metrics::Pins;
use crate::record::{BatchHeader, Invalid, unpack, verify_crc};
use crate::storage::{File, Map, Open, Region, Storage};
use crate::sync::{Arc, AtomicBool, AtomicI64, AtomicU64, OnceLock, Ordering, RwLock};
use crate::types::Offset;

pub(crate) use copy::IndexBytes;
use digest::Digest;
pub(crate) use digest::{DigestDraft, reader as digest_reader};
pub(crate) use index::IndexDraft;
use index::{Growing, Index};
use scan::Order;
pub(crate) use scan::{Scan, Step};
use txn_index::Aborted;
pub(crate) use txn_index::AbortedTxn;
pub(crate) use verify::{Disagreement, IndexCheck};

/// The settings a segment follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentConfig {
    /// Made by this crate: no old formats.
    pub(crate) ours: bool,
    /// Offsets follow one another without gaps: ours, and never compacted.
    pub(crate) contiguous: bool,
    /// Another process writes, and may put other bytes under its names.
    pub(crate) followed: bool,
    pub(crate) index_interval_bytes: u64,
    pub(crate) segment_index_bytes: u64,
    /// Nobody cuts its closed files any more: they may be mapped.
    pub(crate) maps: bool,
}

/// Why a read stopped: the disk, or the bytes.
#[derive(Debug)]
pub(crate) enum Fault {
    Disk(Error),
    Bytes { position: u64, why: Invalid },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Disk(error)
    }
}

/// What an index says about an offset.
#[derive(Debug)]
enum Hint {
    Nothing,
    /// A batch that ends at or before the offset, as the log confirms.
    Batch {
        position: u64,
        header: BatchHeader,
    },
    /// An entry that the log does not confirm.
    Wrong,
}

/// A batch found by a search, and the offset its predecessor promised, where one was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Landing {
    pub(crate) position: u64,
    pub(crate) header: BatchHeader,
    pub(crate) expected_base: Option<Offset>,
}

/// A youngest timestamp that nobody asked for yet: no record has it.
const NOT_ASKED: i64 = i64::MIN;

/// One base offset's files.
#[derive(Debug)]
pub(crate) struct Segment {
    base: Offset,
    dir: Arc<Path>,
    storage: Arc<dyn Storage>,
    config: SegmentConfig,
    /// The name of the `.log`, where it has not its own while segments are exchanged.
    stand_in: Option<Box<Path>>,
    log: OnceLock<Arc<dyn File>>,
    map: OnceLock<Option<Arc<Map>>>,
    index: RwLock<Index>,
    /// Of a closed segment that may have gaps.
    digest: OnceLock<Option<Box<Digest>>>,
    aborted: RwLock<Aborted>,
    /// Bytes handed to the operating system. Only the append lock's holder moves it.
    written: AtomicU64,
    visible: AtomicU64,
    sealed: AtomicBool,
    /// The index was made stepping over damage: it does not know the times of what lies there.
    damaged: AtomicBool,
    /// Its youngest timestamp, once it was asked for and can not change any more.
    youngest: AtomicI64,
    /// Bytes known to be on the device.
    synced: AtomicU64,
    /// Whether the directory entry is on the device.
    entry_synced: AtomicBool,
    /// What readers keep alive.
    pins: Arc<Pins>,
    pub(crate) created_ms: i64,
}

impl Drop for Segment {
    fn drop(&mut self) {
        // Between the two lines the last reader may let go: then the map goes with this segment, and counts no more.
        if let Some(Some(map)) = self.map.get()
            && Arc::strong_count(map) > 1
        {
            map.orphan(&self.pins);
        }
    }
}

impl Segment {
    /// Makes the files of a new segment, the indexes too: their names are durable with the log's then, and no broker
    /// misses them after a clean stop. The entries are not synced: see [`Segment::sync`].
    pub(crate) fn create(
        storage: &Arc<dyn Storage>,
        dir: &Arc<Path>,
        base: Offset,
        config: SegmentConfig,
        pins: &Arc<Pins>,
        now_ms: i64,
    ) -> Result<Self> {
        for index in [name::offset_index(base), name::time_index(base)] {
            storage.open(&dir.join(index), Open::Truncate)?;
        }
        // Last: if one of them fails, no `.log` may stay behind that the segment in front goes on to overtake.
        let log = storage.open(&dir.join(name::log(base)), Open::Truncate)?;
        let segment = Segment::existing(storage, dir, base, config, pins, now_ms);
        *segment.index.write() = Index::Growing(Growing::new(base, &config));
        *segment.aborted.write() = Aborted::none();
        segment.entry_synced.store(false, Ordering::Release);
        // The cell is empty: the segment was made two lines above.
        let _ = segment.log.set(log);
        Ok(segment)
    }

    /// A segment whose files are there; nothing is opened yet. [`Segment::set_end`] tells how far it reaches.
    pub(crate) fn existing(
        storage: &Arc<dyn Storage>,
        dir: &Arc<Path>,
        base: Offset,
        config: SegmentConfig,
        pins: &Arc<Pins>,
        now_ms: i64,
    ) -> Self {
        Segment {
            base,
            dir: Arc::clone(dir),
            storage: Arc::clone(storage),
            config,
            stand_in: None,
            log: OnceLock::new(),
            map: OnceLock::new(),
            index: RwLock::new(Index::NotLoaded),
            digest: OnceLock::new(),
            aborted: RwLock::new(Aborted::InFile),
            written: AtomicU64::new(0),
            visible: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            youngest: AtomicI64::new(NOT_ASKED),
            synced: AtomicU64::new(0),
            entry_synced: AtomicBool::new(true),
            pins: Arc::clone(pins),
            created_ms: now_ms,
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    pub(crate) fn path(&self) -> PathBuf {
        match &self.stand_in {
            Some(path) => path.to_path_buf(),
            None => self.dir.join(name::log(self.base)),
        }
    }

    /// Reads its `.log` from another name, the one it has in the middle of an exchange.
    pub(crate) fn standing_in(mut self, log: Option<PathBuf>) -> Self {
        self.stand_in = log.map(PathBuf::into_boxed_path);
        self
    }

    /// Whether its offsets follow one another without gaps.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.config.contiguous
    }

    /// Bytes handed to the operating system.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Bytes that readers may see.
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    /// Whether it is closed for writing.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether the file is longer than what is known of it.
    pub(crate) fn is_outgrown(&self) -> Result<bool> {
        Ok(self.file(Open::Read)?.len()? > self.written())
    }

    /// Whether its files may be mapped.
    pub(crate) fn maps(&self) -> bool {
        self.config.maps
    }

    /// Whether bytes were written that no sync covers.
    pub(crate) fn is_dirty(&self) -> bool {
        self.synced.load(Ordering::Acquire) < self.written() || !self.entry_synced.load(Ordering::Acquire)
    }

    /// Takes `end` as the length found by recovery, all of it synced.
    pub(crate) fn set_end(&self, end: u64) {
        self.written.store(end, Ordering::Release);
        self.synced.store(end, Ordering::Release);
        self.show(end);
    }

    /// Lets readers see bytes below `end`.
    pub(crate) fn show(&self, end: u64) {
        // In this order: who makes the map meanwhile publishes what is visible then.
        self.visible.fetch_max(end, Ordering::AcqRel);
        if let Some(Some(map)) = self.map.get() {
            map.publish(end);
        }
    }

    /// The `.log`, opened on first use.
    pub(crate) fn file(&self, how: Open) -> Result<&Arc<dyn File>> {
        if let Some(file) = self.log.get() {
            return Ok(file);
        }
        let file = self.storage.open(&self.path(), how)?;
        if self.config.followed && self.is_sealed() && file.len()? != self.written() {
            let why = "it was exchanged for another".to_owned();
            return Err(ErrorKind::BadFile { file: self.path(), why }.into());
        }
        Ok(self.log.get_or_init(|| file))
    }

    /// Opens the `.log`, and what is asked with it: who holds this segment reads on when its names go, or lead to
    /// another one's bytes, and the space is given back when the last of them lets go.
    pub(crate) fn hold_files(&self) -> Result<()> {
        self.file(Open::Read)?;
        self.digest()?;
        self.aborted()?;
        match self.with_index(|_, _| ()) {
            Err(Fault::Disk(error)) => Err(error),
            Ok(()) | Err(Fault::Bytes { .. }) => Ok(()),
        }
    }

    /// The youngest timestamp of its first batch, if it has one.
    pub(crate) fn first_timestamp(&self) -> Result<Option<i64>, Fault> {
        let visible = self.visible();
        if visible == 0 {
            Ok(None)
        } else {
            self.header_at(0, visible).map(|first| Some(first.max_timestamp))
        }
    }

    /// Writes batches behind the last, in one operation. They are not counted before [`Segment::publish`].
    /// After an error the file is cut back; if even that fails the caller must give the segment up.
    pub(crate) fn write(&self, parts: &[&[u8]]) -> Result<u64, WriteFailed> {
        let position = self.written();
        let file = self.file(Open::Write).map_err(|error| WriteFailed { error, cut_back: true })?;
        let result = match parts {
            [one] => file.write_at(one, position),
            many => file.write_all_at(many, position),
        };
        match result {
            Ok(()) => Ok(position),
            Err(error) => {
                // Without a descriptor nothing was written.
                let begun = !matches!(error.kind(), ErrorKind::TooManyOpenFiles { .. });
                let cut_back = !begun || file.set_len(position).is_ok();
                Err(WriteFailed { error, cut_back })
            }
        }
    }

    /// Counts written batches: their index entries, then the written end.
    pub(crate) fn publish<'h>(&self, position: u64, headers: impl IntoIterator<Item = &'h BatchHeader>) {
        let mut at = position;
        if let Index::Growing(growing) = &mut *self.index.write() {
            for header in headers {
                growing.note(at, header, &self.config);
                at += header.size() as u64;
            }
        }
        self.written.store(at, Ordering::Release);
    }

    /// Makes the directory entry durable.
    pub(crate) fn sync_name(&self) -> Result<()> {
        if !self.entry_synced.load(Ordering::Acquire) {
            self.storage.sync_dir(&self.dir)?;
            self.entry_synced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// When the file was last written, in milliseconds since 1970.
    pub(crate) fn modified_ms(&self) -> Result<i64> {
        self.file(Open::Read)?.modified_ms()
    }

    /// Makes what was written before the call durable: first the directory entry, then the contents.
    pub(crate) fn sync(&self) -> Result<()> {
        let written = self.written();
        self.sync_name()?;
        // Without it records that do not count would.
        self.flush_aborted(true)?;
        if self.synced.load(Ordering::Acquire) < written {
            self.file(Open::Write)?.sync_data()?;
            self.synced.fetch_max(written, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Closes the segment for writing; readers may map the file from now on.
    pub(crate) fn seal(&self) {
        self.end_index();
        self.sealed.store(true, Ordering::Release);
    }

    /// The first batch that ends at or behind `offset`; `None` when no visible one does.
    pub(crate) fn find(&self, offset: Offset) -> Result<Option<Landing>, Fault> {
        let visible = self.visible();
        let mut hint = self.hint(offset, visible)?;
        if matches!(hint, Hint::Wrong) && self.is_sealed() {
            self.rebuild_index()?;
            hint = self.hint(offset, visible)?;
        }
        let (mut position, mut expected_base) = match hint {
            // Where a wrapper of an old format begins is not known yet.
            Hint::Batch { position, header } if header.is_legacy() => (position, None),
            Hint::Batch { position, header } => (position, Some(header.base_offset)),
            Hint::Nothing | Hint::Wrong => (0, Some(self.base)),
        };
        while position < visible {
            let header = self.header_at(position, visible)?;
            if header.last_offset() >= offset {
                return Ok(Some(Landing { position, header, expected_base }));
            }
            expected_base = Some(header.next_offset());
            position += header.size() as u64;
        }
        Ok(None)
    }

    /// As [`Segment::find`], by checksums and the order of offsets instead of headers alone, stepping over damage.
    /// The landing has an expected base only when no damage lies between it and the batch in front of it.
    pub(crate) fn find_behind_damage(&self, offset: Offset) -> Result<Option<Landing>, Fault> {
        let visible = self.visible();
        let (start, base, known) = match self.hint(offset, visible)? {
            Hint::Batch { position, header } => (position, header.base_offset, !header.is_legacy()),
            Hint::Nothing | Hint::Wrong => (0, self.base, true),
        };
        let mut scan = self.scan(self.file(Open::Read)?.as_ref(), start, visible);
        let mut order = Order::new(base, self.config.contiguous);
        if !known {
            order.lose();
        }
        loop {
            match scan.next(true)? {
                Step::Batch { position, header }
                    if order.takes(&header) && self.knows(position, &header)? =>
                {
                    if header.last_offset() >= offset {
                        let header = self.with_base(position, header)?;
                        return Ok(Some(Landing { position, header, expected_base: order.expected }));
                    }
                    order.pass(&header);
                }
                Step::End => return Ok(None),
                step => {
                    if let Step::Batch { position, .. } = step {
                        scan.reject(position);
                    }
                    if scan.resync()?.is_none() {
                        return Ok(None);
                    }
                    order.lose();
                }
            }
        }
    }

    /// The index's answer, compared with the log.
    fn hint(&self, offset: Offset, visible: u64) -> Result<Hint, Fault> {
        let Some(entry) = self.with_index(|offsets, _| offset_index::lookup(offsets, self.base, offset))?
        else {
            return Ok(Hint::Nothing);
        };
        let position = u64::from(entry.position);
        if position >= visible {
            return Ok(Hint::Wrong);
        }
        Ok(match self.header_at(position, visible) {
            Ok(header) if header.last_offset() == entry.offset => Hint::Batch { position, header },
            Err(Fault::Disk(error)) => return Err(error.into()),
            Ok(_) | Err(Fault::Bytes { .. }) => Hint::Wrong,
        })
    }

    fn header_at(&self, position: u64, visible: u64) -> Result<BatchHeader, Fault> {
        let have = visible - position;
        let fault = |why| Fault::Bytes { position, why };
        let header_bytes = have.min(BATCH_HEADER_BYTES as u64);
        let header = match self.mapped_bytes(position..position + header_bytes)? {
            Some(bytes) => BatchHeader::parse(bytes).map_err(fault)?,
            None => {
                let mut bytes = [0; BATCH_HEADER_BYTES];
                let bytes = bytes.get_mut(..usize::try_from(header_bytes).unwrap_or(0)).unwrap_or_default();
                let read = self.file(Open::Read)?.read_at(bytes, position)?;
                BatchHeader::parse(bytes.get(..read).unwrap_or_default()).map_err(fault)?
            }
        };
        if header.size() as u64 > have {
            let have = usize::try_from(have).unwrap_or(usize::MAX);
            return Err(fault(Invalid::Short { have, need: header.size() }));
        }
        if header.is_legacy() {
            self.check_legacy(position, &header)?;
        }
        self.check_header(position, &header)?;
        Ok(header)
    }

    /// A message of an old format in a log of ours is none, and elsewhere it is believed only with its checksum.
    #[cold]
    fn check_legacy(&self, position: u64, header: &BatchHeader) -> Result<(), Fault> {
        let checked = match self.config.ours {
            true => Err(Invalid::Magic(header.magic)),
            false => verify_crc(self.read(position, header.size() as u64)?.bytes(), header),
        };
        checked.map_err(|why| Fault::Bytes { position, why })
    }

    /// The header with its base offset, which a wrapper of an old format does not carry in front. If it can not be had
    /// the header stays as it is: whoever reads the batch is told why.
    fn with_base(&self, position: u64, header: BatchHeader) -> Result<BatchHeader> {
        if !header.is_legacy() {
            return Ok(header);
        }
        let batch = self.read(position, header.size() as u64)?;
        Ok(unpack(&header, batch.bytes()).map_or(header, |(header, _)| header))
    }

    /// A walk over its batches, by `file`.
    pub(crate) fn scan<'f>(&self, file: &'f dyn File, position: u64, end: u64) -> Scan<'f> {
        let scan = Scan::new(file, position, end);
        if self.config.ours { scan } else { scan.of_broker(self.base) }
    }

    /// `len` visible bytes at `position`: a piece of the map when sealed, else a copy on the heap.
    pub(crate) fn read(&self, position: u64, len: u64) -> Result<Region> {
        let end = position.saturating_add(len).min(self.visible());
        if self.is_sealed()
            && let Some(map) = self.map()?
            && let Some(region) = Region::map(Arc::clone(map), position..end)
        {
            return Ok(region);
        }
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX)];
        let read = self.file(Open::Read)?.read_at(&mut bytes, position)?;
        bytes.truncate(read);
        Ok(Region::pinned(bytes, &self.pins))
    }

    fn mapped_bytes(&self, range: std::ops::Range<u64>) -> Result<Option<&[u8]>> {
        if !self.is_sealed() {
            return Ok(None);
        }
        Ok(self.map()?.and_then(|map| map.slice(range)))
    }

    fn map(&self) -> Result<Option<&Arc<Map>>> {
        if let Some(map) = self.map.get() {
            return Ok(map.as_ref());
        }
        let written = self.written();
        let map =
            if written == 0 || !self.config.maps { None } else { self.file(Open::Read)?.map(written)? };
        let map = self.map.get_or_init(|| map).as_ref();
        // After it is shared, so that no `show` in between is missed.
        if let Some(map) = map {
            map.publish(self.visible());
        }
        Ok(map)
    }

    /// The batch behind damaged bytes: where it starts, and its first offset.
    pub(crate) fn resync(&self, position: u64) -> Result<Option<(u64, Offset)>> {
        let mut scan = self.scan(self.file(Open::Read)?.as_ref(), position, self.visible());
        while scan.resync()?.is_some() {
            if let Step::Batch { position, header } = scan.next(true)? {
                return Ok(Some((position, self.with_base(position, header)?.base_offset)));
            }
        }
        Ok(None)
    }
}

/// A write that failed, and whether the file was brought back to where it was.
#[derive(Debug)]
pub(crate) struct WriteFailed {
    pub(crate) error: Error,
    pub(crate) cut_back: bool,
}
