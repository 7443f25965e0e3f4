//! One segment: the `.log` of one base offset with its two indexes.
//!
//! Invariants:
//! - Offsets of a segment are at or above its base, and at most 2^31 - 1 above it; positions stay below 2^31.
//! - Readers see bytes below [`Segment::visible`] only. It rises and never falls; the file is not cut below it.
//! - Bytes below `visible` never change.
//! - An index is a hint: what it points to is compared with the batch found there, and an index that lies is
//!   rebuilt from the log.
//! - A sealed segment's index files are exact: no zero tail, and the last time entry is its youngest record.
//! - An offset entry is written after the time entries up to it are synced: after a crash the offset index never knows
//!   more than the time index. Files that say more than the log confirms are cut when the segment is opened.

pub(crate) mod name;
pub(crate) mod offset_index;
mod scan;
#[cfg(test)]
mod tests;
pub(crate) mod time_index;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::limits::BATCH_HEADER_BYTES;
use crate::record::{BatchHeader, Invalid};
use crate::storage::{self, File, Map, Open, Region, Storage};
use crate::sync::{Arc, AtomicBool, AtomicU64, OnceLock, Ordering, RwLock};
use crate::types::Offset;

use offset_index::OffsetIndex;
pub(crate) use scan::{Scan, Step};
use time_index::TimeIndex;

/// Index entries that may wait in memory before they go to the files.
const UNFLUSHED_ENTRIES_MAX: usize = 1_024;

/// The settings a segment follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentConfig {
    /// Offsets follow one another without gaps.
    pub(crate) contiguous: bool,
    pub(crate) index_interval_bytes: u64,
    pub(crate) segment_index_bytes: u64,
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

/// The offsets of batch after batch, the part of a header that Kafka's checksum leaves out.
struct Order {
    /// What the batch in front promised; `None` behind damage.
    expected: Option<Offset>,
    floor: Offset,
    contiguous: bool,
}

impl Order {
    fn new(base: Offset, contiguous: bool) -> Self {
        Order { expected: Some(base), floor: base, contiguous }
    }

    fn takes(&self, header: &BatchHeader) -> bool {
        match self.expected {
            Some(expected) if self.contiguous => header.base_offset == expected,
            _ => header.base_offset >= self.floor,
        }
    }

    fn pass(&mut self, header: &BatchHeader) {
        self.floor = header.next_offset();
        self.expected = Some(self.floor);
    }

    fn lose(&mut self) {
        self.expected = None;
    }
}

/// The indexes of a segment, by its age.
#[derive(Debug)]
enum Index {
    Growing(Growing),
    Sealed { offsets: Region, times: Region },
    NotLoaded,
}

/// The indexes of a segment that is written, and what decides their next entry.
#[derive(Debug)]
struct Growing {
    offsets: OffsetIndex,
    times: TimeIndex,
    bytes_since_entry: u64,
    max_timestamp: i64,
    max_timestamp_offset: Offset,
    first_timestamp: Option<i64>,
    /// Bytes of each index that are in the files already.
    flushed: (usize, usize),
}

impl Growing {
    fn new(base: Offset, config: &SegmentConfig) -> Self {
        Growing {
            offsets: OffsetIndex::new(base, config.segment_index_bytes),
            times: TimeIndex::new(base, config.segment_index_bytes),
            bytes_since_entry: 0,
            max_timestamp: -1,
            max_timestamp_offset: base,
            first_timestamp: None,
            flushed: (0, 0),
        }
    }

    /// Counts a batch, with an entry when enough bytes went by (Kafka's `LogSegment.append`, batch by batch).
    fn note(&mut self, position: u64, header: &BatchHeader, config: &SegmentConfig) {
        self.first_timestamp.get_or_insert(header.max_timestamp);
        if header.max_timestamp > self.max_timestamp {
            self.max_timestamp = header.max_timestamp;
            self.max_timestamp_offset = header.last_offset();
        }
        if self.bytes_since_entry > config.index_interval_bytes {
            // Positions of a segment fit 31 bits: roll sees to it.
            self.offsets.append(header.last_offset(), u32::try_from(position).unwrap_or(u32::MAX));
            self.times.append(self.max_timestamp, self.max_timestamp_offset);
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += header.size() as u64;
    }

    fn unflushed_entries(&self) -> usize {
        (self.offsets.bytes().len() - self.flushed.0) / offset_index::ENTRY_BYTES
    }
}

/// What a roll decision needs to know of the active segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) first_timestamp: Option<i64>,
    offset_slots: usize,
    time_slots: usize,
}

impl Fill {
    /// Whether an index may be full after `pending` more batches.
    pub(crate) fn is_full_with(&self, pending: usize) -> bool {
        self.offset_slots.min(self.time_slots) <= pending
    }
}

/// One base offset's files.
#[derive(Debug)]
pub(crate) struct Segment {
    base: Offset,
    dir: Arc<Path>,
    storage: Arc<dyn Storage>,
    config: SegmentConfig,
    log: OnceLock<Arc<dyn File>>,
    map: OnceLock<Option<Arc<Map>>>,
    index: RwLock<Index>,
    /// Bytes handed to the operating system. Only the append lock's holder moves it.
    written: AtomicU64,
    visible: AtomicU64,
    sealed: AtomicBool,
    /// The index was made stepping over damage: it does not know the times of what lies there.
    damaged: AtomicBool,
    /// Bytes known to be on the device.
    synced: AtomicU64,
    /// Whether the directory entry is on the device.
    entry_synced: AtomicBool,
    pub(crate) created_ms: i64,
}

impl Segment {
    /// Makes the files of a new segment. Their entries are not synced: see [`Segment::sync`].
    pub(crate) fn create(
        storage: &Arc<dyn Storage>,
        dir: &Arc<Path>,
        base: Offset,
        config: SegmentConfig,
        now_ms: i64,
    ) -> Result<Self> {
        let log = storage.open(&dir.join(name::log(base)), Open::Truncate)?;
        let segment = Segment::existing(storage, dir, base, config, now_ms);
        *segment.index.write() = Index::Growing(Growing::new(base, &config));
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
        now_ms: i64,
    ) -> Self {
        Segment {
            base,
            dir: Arc::clone(dir),
            storage: Arc::clone(storage),
            config,
            log: OnceLock::new(),
            map: OnceLock::new(),
            index: RwLock::new(Index::NotLoaded),
            written: AtomicU64::new(0),
            visible: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            synced: AtomicU64::new(0),
            entry_synced: AtomicBool::new(true),
            created_ms: now_ms,
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(name::log(self.base))
    }

    /// Bytes handed to the operating system.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Bytes that readers may see.
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
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
        if let Some(Some(map)) = self.map.get() {
            map.publish(end);
        }
        self.visible.fetch_max(end, Ordering::AcqRel);
    }

    /// The `.log`, opened on first use.
    pub(crate) fn file(&self, how: Open) -> Result<&Arc<dyn File>> {
        if let Some(file) = self.log.get() {
            return Ok(file);
        }
        let file = self.storage.open(&self.path(), how)?;
        Ok(self.log.get_or_init(|| file))
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
                let cut_back = file.set_len(position).is_ok();
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

    /// Makes what was written before the call durable: first the directory entry, then the contents.
    pub(crate) fn sync(&self) -> Result<()> {
        let written = self.written();
        if !self.entry_synced.load(Ordering::Acquire) {
            self.storage.sync_dir(&self.dir)?;
            self.entry_synced.store(true, Ordering::Release);
        }
        if self.synced.load(Ordering::Acquire) < written {
            self.file(Open::Write)?.sync_data()?;
            self.synced.fetch_max(written, Ordering::AcqRel);
        }
        Ok(())
    }

    /// What the roll decision asks of an active segment.
    pub(crate) fn fill(&self) -> Fill {
        match &*self.index.read() {
            Index::Growing(growing) => Fill {
                first_timestamp: growing.first_timestamp,
                offset_slots: growing.offsets.slots_free(),
                time_slots: growing.times.slots_free(),
            },
            _ => Fill { first_timestamp: None, offset_slots: usize::MAX, time_slots: usize::MAX },
        }
    }

    /// Starts empty indexes, for a segment without any file (a read-only log that has none).
    pub(crate) fn begin_index(&self) {
        *self.index.write() = Index::Growing(Growing::new(self.base, &self.config));
    }

    /// Makes the last time entry: the segment's youngest record.
    pub(crate) fn end_index(&self) {
        if let Index::Growing(growing) = &mut *self.index.write() {
            growing.times.append_last(growing.max_timestamp, growing.max_timestamp_offset);
        }
    }

    /// Closes the segment for writing; readers may map the file from now on.
    pub(crate) fn seal(&self) {
        self.end_index();
        self.sealed.store(true, Ordering::Release);
    }

    /// Brings the index of a sealed segment to its files and drops it from memory. If that fails the files are
    /// removed: a missing index is rebuilt, a short one would be believed.
    pub(crate) fn close_index(&self) {
        if self.sync_index().is_ok() {
            *self.index.write() = Index::NotLoaded;
        } else {
            for name in [name::offset_index(self.base), name::time_index(self.base)] {
                let _ = self.storage.remove_file(&self.dir.join(name));
            }
            let _ = self.storage.sync_dir(&self.dir);
        }
    }

    /// Writes index entries that only memory has to the files, when there are many or `all` is asked for.
    pub(crate) fn flush_index(&self, all: bool) -> Result<()> {
        let (offsets, times, flushed) = match &*self.index.read() {
            Index::Growing(growing) if all || growing.unflushed_entries() >= UNFLUSHED_ENTRIES_MAX => (
                growing.offsets.bytes().get(growing.flushed.0..).unwrap_or_default().to_vec(),
                growing.times.bytes().get(growing.flushed.1..).unwrap_or_default().to_vec(),
                growing.flushed,
            ),
            _ => return Ok(()),
        };
        self.write_index(&name::time_index(self.base), &times, flushed.1)?.sync_data()?;
        self.write_index(&name::offset_index(self.base), &offsets, flushed.0)?;
        if let Index::Growing(growing) = &mut *self.index.write() {
            growing.flushed = (flushed.0 + offsets.len(), flushed.1 + times.len());
        }
        Ok(())
    }

    /// Makes the index files exact and durable.
    pub(crate) fn sync_index(&self) -> Result<()> {
        self.flush_index(true)?;
        self.storage.open(&self.dir.join(name::offset_index(self.base)), Open::Write)?.sync_data()
    }

    fn write_index(&self, name: &str, bytes: &[u8], at: usize) -> Result<Arc<dyn File>> {
        let path = self.dir.join(name);
        // Nothing was flushed yet: what lies there is of another life of this segment.
        let file = self.storage.open(&path, if at == 0 { Open::Truncate } else { Open::Write })?;
        if !bytes.is_empty() {
            file.write_at(bytes, at as u64)?;
        }
        Ok(file)
    }

    /// The youngest timestamp of the segment, -1 when no record has one. Sealed segments answer from the index.
    /// Of a damaged segment that is not known: the largest there can be.
    pub(crate) fn max_timestamp(&self) -> Result<i64, Fault> {
        if self.damaged.load(Ordering::Acquire) {
            return Ok(i64::MAX);
        }
        if let Index::Growing(growing) = &*self.index.read() {
            return Ok(growing.max_timestamp);
        }
        let last = self.with_index(|_, times| time_index::last(times, self.base))?;
        match last {
            Some(last) if self.entry_holds(last)? => Ok(last.timestamp),
            None if self.visible() == 0 => Ok(-1),
            _ => {
                self.rebuild_index()?;
                if self.damaged.load(Ordering::Acquire) {
                    return Ok(i64::MAX);
                }
                Ok(self
                    .with_index(|_, times| time_index::last(times, self.base))?
                    .map_or(-1, |l| l.timestamp))
            }
        }
    }

    /// An offset at or before which no record is as young as `timestamp`, to start a search by time from.
    pub(crate) fn offset_before(&self, timestamp: i64) -> Result<Offset, Fault> {
        if self.damaged.load(Ordering::Acquire) {
            return Ok(self.base);
        }
        let hint = self.with_index(|_, times| time_index::lookup(times, self.base, timestamp))?;
        match hint {
            None => Ok(self.base),
            Some(entry) if self.entry_holds(entry)? => Ok(entry.offset),
            // The index in memory is still being written: it stays as it is.
            Some(_) if !self.sealed.load(Ordering::Acquire) => Ok(self.base),
            Some(_) => {
                self.rebuild_index()?;
                if self.damaged.load(Ordering::Acquire) {
                    return Ok(self.base);
                }
                let again = self.with_index(|_, times| time_index::lookup(times, self.base, timestamp))?;
                Ok(again.map_or(self.base, |entry| entry.offset))
            }
        }
    }

    /// Whether a batch that ends at the entry's offset has the entry's timestamp.
    fn entry_holds(&self, entry: time_index::TimestampOffset) -> Result<bool, Fault> {
        Ok(self.find(entry.offset)?.is_some_and(|found| {
            found.header.last_offset() == entry.offset && found.header.max_timestamp == entry.timestamp
        }))
    }

    /// The first batch that ends at or behind `offset`; `None` when no visible one does.
    pub(crate) fn find(&self, offset: Offset) -> Result<Option<Landing>, Fault> {
        let visible = self.visible();
        let mut hint = self.hint(offset, visible)?;
        if matches!(hint, Hint::Wrong) && self.sealed.load(Ordering::Acquire) {
            self.rebuild_index()?;
            hint = self.hint(offset, visible)?;
        }
        let (mut position, mut expected_base) = match hint {
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
        let (start, base) = match self.hint(offset, visible)? {
            Hint::Batch { position, header } => (position, header.base_offset),
            Hint::Nothing | Hint::Wrong => (0, self.base),
        };
        let mut scan = Scan::new(self.file(Open::Read)?.as_ref(), start, visible);
        let mut order = Order::new(base, self.config.contiguous);
        loop {
            match scan.next(true)? {
                Step::Batch { position, header } if order.takes(&header) => {
                    if header.last_offset() >= offset {
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
        if have < BATCH_HEADER_BYTES as u64 {
            let have = usize::try_from(have).unwrap_or(0);
            return Err(Fault::Bytes { position, why: Invalid::Short { have, need: BATCH_HEADER_BYTES } });
        }
        let fault = |why| Fault::Bytes { position, why };
        let header = match self.mapped_bytes(position..position + BATCH_HEADER_BYTES as u64)? {
            Some(bytes) => BatchHeader::parse(bytes).map_err(fault)?,
            None => {
                let mut bytes = [0; BATCH_HEADER_BYTES];
                let read = self.file(Open::Read)?.read_at(&mut bytes, position)?;
                BatchHeader::parse(bytes.get(..read).unwrap_or_default()).map_err(fault)?
            }
        };
        if header.size() as u64 > have {
            let have = usize::try_from(have).unwrap_or(usize::MAX);
            return Err(fault(Invalid::Short { have, need: header.size() }));
        }
        Ok(header)
    }

    /// `len` visible bytes at `position`: a piece of the map when sealed, else a copy on the heap.
    pub(crate) fn read(&self, position: u64, len: u64) -> Result<Region> {
        let end = (position + len).min(self.visible());
        if self.sealed.load(Ordering::Acquire)
            && let Some(map) = self.map()?
            && let Some(region) = Region::map(Arc::clone(map), position..end)
        {
            return Ok(region);
        }
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX)];
        let read = self.file(Open::Read)?.read_at(&mut bytes, position)?;
        bytes.truncate(read);
        Ok(Region::heap(bytes))
    }

    fn mapped_bytes(&self, range: std::ops::Range<u64>) -> Result<Option<&[u8]>> {
        if !self.sealed.load(Ordering::Acquire) {
            return Ok(None);
        }
        Ok(self.map()?.and_then(|map| map.slice(range)))
    }

    fn map(&self) -> Result<Option<&Arc<Map>>> {
        if let Some(map) = self.map.get() {
            return Ok(map.as_ref());
        }
        let written = self.written();
        let map = if written == 0 { None } else { self.file(Open::Read)?.map(written)? };
        let map = self.map.get_or_init(|| map).as_ref();
        // After it is shared, so that no `show` in between is missed.
        if let Some(map) = map {
            map.publish(self.visible());
        }
        Ok(map)
    }

    /// The batch behind damaged bytes: where it starts, and its first offset.
    pub(crate) fn resync(&self, position: u64) -> Result<Option<(u64, Offset)>> {
        let mut scan = Scan::new(self.file(Open::Read)?.as_ref(), position, self.visible());
        while scan.resync()?.is_some() {
            if let Step::Batch { position, header } = scan.next(true)? {
                return Ok(Some((position, header.base_offset)));
            }
        }
        Ok(None)
    }

    fn with_index<T>(&self, ask: impl Fn(&[u8], &[u8]) -> T) -> Result<T, Fault> {
        if matches!(&*self.index.read(), Index::NotLoaded) {
            self.load_index()?;
        }
        Ok(match &*self.index.read() {
            Index::Growing(growing) => ask(growing.offsets.bytes(), growing.times.bytes()),
            Index::Sealed { offsets, times } => ask(offsets.bytes(), times.bytes()),
            Index::NotLoaded => ask(&[], &[]),
        })
    }

    /// Opens the index files of a sealed segment; those that can not be right are rebuilt.
    fn load_index(&self) -> Result<(), Fault> {
        let offsets = self.index_region(&name::offset_index(self.base))?;
        let times = self.index_region(&name::time_index(self.base))?;
        match (offsets, times) {
            (Some(offsets), Some(times))
                if offset_index::is_sane(offsets.bytes(), self.visible())
                    && time_index::is_sane(times.bytes(), self.base)
                    && self.times_reach_the_end(offsets.bytes(), times.bytes())? =>
            {
                *self.index.write() = Index::Sealed { offsets, times };
                Ok(())
            }
            _ => self.rebuild_index(),
        }
    }

    fn index_region(&self, name: &str) -> Result<Option<Region>> {
        let file = match self.storage.open(&self.dir.join(name), Open::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.len()?;
        if len == 0 {
            return Ok(Some(Region::heap(Vec::new())));
        }
        if let Some(map) = file.map(len)? {
            map.publish(len);
            return Ok(Region::map(map, 0..len));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(Some(Region::heap(bytes)))
    }

    /// Makes the index of a sealed segment anew, in memory, from the headers of its batches, stepping over damage.
    fn rebuild_index(&self) -> Result<(), Fault> {
        let file = self.file(Open::Read)?;
        let mut growing = Growing::new(self.base, &self.config);
        let mut scan = Scan::new(file.as_ref(), 0, self.visible());
        let mut order = Order::new(self.base, self.config.contiguous);
        loop {
            // Checked: a length that is wrong would hide what it steps over from every later search.
            match scan.next(true)? {
                Step::Batch { position, header } if order.takes(&header) => {
                    growing.note(position, &header, &self.config);
                    order.pass(&header);
                }
                Step::End => break,
                step => {
                    self.note_damage();
                    if let Step::Batch { position, .. } = step {
                        scan.reject(position);
                    }
                    if scan.resync()?.is_none() {
                        break;
                    }
                    order.lose();
                }
            }
        }
        growing.times.append_last(growing.max_timestamp, growing.max_timestamp_offset);
        *self.index.write() = Index::Sealed {
            offsets: Region::heap(growing.offsets.bytes().to_vec()),
            times: Region::heap(growing.times.bytes().to_vec()),
        };
        Ok(())
    }

    /// Whether the batches behind the last offset entry are no younger than the last time entry: a time index that was
    /// cut short would hide them from a search.
    fn times_reach_the_end(&self, offsets: &[u8], times: &[u8]) -> Result<bool> {
        let youngest = time_index::last(times, self.base).map_or(-1, |last| last.timestamp);
        let from = offset_index::last(offsets, self.base).map_or(0, |last| u64::from(last.position));
        let mut scan = Scan::new(self.file(Open::Read)?.as_ref(), from, self.visible());
        loop {
            match scan.next(false)? {
                Step::Batch { header, .. } if header.max_timestamp <= youngest => {}
                Step::End => return Ok(true),
                Step::Batch { .. } | Step::Bad { .. } => return Ok(false),
            }
        }
    }

    /// Takes up the index files of a segment that grows on after a restart: their entries below offset `proven`, if
    /// the log confirms the last of each. What is not taken up is cut off the files. Returns the position and the
    /// offset from which the walk must go on; it fills the indexes with [`Segment::note`].
    pub(crate) fn resume_index(
        &self,
        proven: Offset,
        len: u64,
        clean: bool,
        read_only: bool,
    ) -> Result<(u64, Offset)> {
        let read = |name: String| storage::read_small(self.storage.as_ref(), &self.dir.join(name));
        let offsets = read(name::offset_index(self.base))?;
        let times = read(name::time_index(self.base))?;
        let lens = (offsets.as_ref().map_or(0, Vec::len), times.as_ref().map_or(0, Vec::len));
        let resumed = match (offsets, times) {
            (Some(offsets), Some(times)) => self.confirmed(&offsets, &times, proven, len, clean)?,
            // One of them was lost: what the other says alone is not enough.
            _ => None,
        };
        let (mut growing, resume) =
            resumed.unwrap_or_else(|| (Growing::new(self.base, &self.config), (0, self.base)));
        growing.flushed = (growing.offsets.bytes().len(), growing.times.bytes().len());
        if !read_only {
            // In this order: see the invariant.
            self.cut_index(&name::offset_index(self.base), lens.0, growing.flushed.0)?;
            self.cut_index(&name::time_index(self.base), lens.1, growing.flushed.1)?;
        }
        *self.index.write() = Index::Growing(growing);
        Ok(resume)
    }

    fn cut_index(&self, name: &str, len: usize, to: usize) -> Result<()> {
        if len <= to {
            return Ok(());
        }
        let file = self.storage.open(&self.dir.join(name), Open::Write)?;
        file.set_len(to as u64)?;
        file.sync_data()
    }

    /// The part of index files that the log confirms, and where it ends; `None`: nothing of it is to be believed.
    fn confirmed(
        &self,
        offsets: &[u8],
        times: &[u8],
        proven: Offset,
        len: u64,
        clean: bool,
    ) -> Result<Option<(Growing, (u64, Offset))>> {
        let index_bytes_max = self.config.segment_index_bytes;
        // A preallocated index (Kafka's own, after a crash) ends in zeros: entries end where they stop rising.
        let offsets = offset_index::sane_prefix(offsets, len).to_vec();
        let mut offsets = OffsetIndex::from_bytes(self.base, offsets, index_bytes_max);
        let times = time_index::sane_prefix(times, self.base).to_vec();
        let mut times = TimeIndex::from_bytes(self.base, times, index_bytes_max);
        offsets.truncate_to(proven);
        let Some(last) = offsets.last() else { return Ok(None) };
        let Some(header) =
            self.header_if(u64::from(last.position), len)?.filter(|h| h.last_offset() == last.offset)
        else {
            return Ok(None);
        };
        // The last entry of a closed log is its youngest record, which may lie behind the last offset entry.
        times.truncate_to(if clean { proven } else { last.offset + 1 });
        let mut growing = Growing::new(self.base, &self.config);
        growing.first_timestamp = self.header_if(0, len)?.map(|first| first.max_timestamp);
        if let Some(youngest) = times.last() {
            growing.max_timestamp = youngest.timestamp;
            growing.max_timestamp_offset = youngest.offset;
            let from = offset_index::lookup(offsets.bytes(), self.base, youngest.offset);
            let mut position = from.map_or(0, |entry| u64::from(entry.position));
            let mut at = self.header_if(position, len)?;
            while let Some(header) = at.filter(|header| header.last_offset() < youngest.offset) {
                position += header.size() as u64;
                at = self.header_if(position, len)?;
            }
            if at.is_none_or(|h| (h.last_offset(), h.max_timestamp) != (youngest.offset, youngest.timestamp))
            {
                return Ok(None);
            }
        }
        if header.max_timestamp > growing.max_timestamp {
            return Ok(None);
        }
        growing.offsets = offsets;
        growing.times = times;
        growing.bytes_since_entry = header.size() as u64;
        Ok(Some((growing, (u64::from(last.position) + header.size() as u64, header.next_offset()))))
    }

    /// The header at a position; `None` where none is.
    fn header_if(&self, position: u64, len: u64) -> Result<Option<BatchHeader>> {
        if position >= len {
            return Ok(None);
        }
        match self.header_at(position, len) {
            Ok(header) => Ok(Some(header)),
            Err(Fault::Bytes { .. }) => Ok(None),
            Err(Fault::Disk(error)) => Err(error),
        }
    }

    /// Notes that an index is made without some of the batches.
    pub(crate) fn note_damage(&self) {
        self.damaged.store(true, Ordering::Release);
    }

    /// Counts a batch that recovery found.
    pub(crate) fn note(&self, position: u64, header: &BatchHeader) {
        if let Index::Growing(growing) = &mut *self.index.write() {
            growing.note(position, header, &self.config);
        }
    }
}

/// A write that failed, and whether the file was brought back to where it was.
#[derive(Debug)]
pub(crate) struct WriteFailed {
    pub(crate) error: Error,
    pub(crate) cut_back: bool,
}
