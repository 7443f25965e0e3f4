//! The indexes of a segment: gathered while it grows, brought to their files, believed only as far as the log confirms
//! them, and made anew from the log otherwise.
//!
//! Invariants:
//! - An offset entry is written after the time entries up to it are synced: after a crash the offset index never knows
//!   more than the time index.
//! - Files that say more than the log confirms are cut when the segment is opened for writing.
//! - An index that was made stepping over damage says so: what it does not know is not "not there".

use super::offset_index::{self, OffsetIndex};
use super::scan::{Order, Step};
use super::time_index::{self, TimeIndex};
use super::{Fault, IndexBytes, NOT_ASKED, Segment, SegmentConfig, name};
use crate::error::Result;
use crate::record::BatchHeader;
use crate::storage::{self, File, Open, Region};
use crate::sync::{Arc, Ordering};
use crate::types::Offset;

/// Index entries that may wait in memory before they go to the files.
const UNFLUSHED_ENTRIES_MAX: usize = 1_024;

/// The indexes of a segment, by its age.
#[derive(Debug)]
pub(super) enum Index {
    Growing(Growing),
    Sealed { offsets: Region, times: Region },
    NotLoaded,
}

/// The indexes of a segment that is written, and what decides their next entry.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) offsets: OffsetIndex,
    pub(super) times: TimeIndex,
    pub(super) bytes_since_entry: u64,
    pub(super) max_timestamp: i64,
    pub(super) max_timestamp_offset: Offset,
    pub(super) first_timestamp: Option<i64>,
    /// Bytes of each index that are in the files already.
    pub(super) flushed: (usize, usize),
}

impl Growing {
    pub(super) fn new(base: Offset, config: &SegmentConfig) -> Self {
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
    pub(super) fn note(&mut self, position: u64, header: &BatchHeader, config: &SegmentConfig) {
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

    pub(super) fn unflushed_entries(&self) -> usize {
        (self.offsets.bytes().len() - self.flushed.0) / offset_index::ENTRY_BYTES
    }
}

/// The indexes of a segment that is written elsewhere, batch by batch.
#[derive(Debug)]
pub(crate) struct IndexDraft {
    growing: Growing,
    config: SegmentConfig,
}

impl IndexDraft {
    pub(crate) fn new(base: Offset, config: SegmentConfig) -> Self {
        IndexDraft { growing: Growing::new(base, &config), config }
    }

    /// Counts the batch that comes next.
    pub(crate) fn note(&mut self, position: u64, header: &BatchHeader) {
        self.growing.note(position, header, &self.config);
    }

    /// What the files of the closed segment hold.
    pub(crate) fn end(mut self) -> IndexBytes {
        let growing = &mut self.growing;
        growing.times.append_last(growing.max_timestamp, growing.max_timestamp_offset);
        IndexBytes { offsets: growing.offsets.bytes().to_vec(), times: growing.times.bytes().to_vec() }
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

impl Segment {
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

    /// Drops the index of a sealed segment from memory; it is read again when it is asked.
    pub(crate) fn forget_index(&self) {
        if self.is_sealed() {
            *self.index.write() = Index::NotLoaded;
            self.forget_aborted();
        }
    }

    /// Brings the index of a sealed segment to its files and drops it from memory.
    pub(crate) fn close_index(&self) {
        if self.settle_index() {
            *self.index.write() = Index::NotLoaded;
        }
    }

    /// Makes the index files exact and durable, last entry included. If that fails they are removed: a missing index
    /// is rebuilt, a short one would be believed.
    pub(crate) fn settle_index(&self) -> bool {
        self.end_index();
        if self.sync_index().is_ok() {
            return true;
        }
        for name in [name::offset_index(self.base), name::time_index(self.base)] {
            let _ = self.storage.remove_file(&self.dir.join(name));
        }
        let _ = self.storage.sync_dir(&self.dir);
        false
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

    pub(super) fn write_index(&self, name: &str, bytes: &[u8], at: usize) -> Result<Arc<dyn File>> {
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

    /// As [`Segment::max_timestamp`], for whoever asks again and again: what a closed segment answers is remembered,
    /// and its index is not kept in memory for it.
    pub(crate) fn youngest(&self) -> Result<i64, Fault> {
        let known = self.youngest.load(Ordering::Relaxed);
        if known != NOT_ASKED {
            return Ok(known);
        }
        let is_loaded = !matches!(&*self.index.read(), Index::NotLoaded);
        let youngest = self.max_timestamp()?;
        if self.is_sealed() && !self.damaged.load(Ordering::Acquire) {
            self.youngest.store(youngest, Ordering::Relaxed);
        }
        if !is_loaded {
            self.forget_index();
        }
        Ok(youngest)
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
            Some(_) if !self.is_sealed() => Ok(self.base),
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
    pub(super) fn entry_holds(&self, entry: time_index::TimestampOffset) -> Result<bool, Fault> {
        Ok(self.find(entry.offset)?.is_some_and(|found| {
            found.header.last_offset() == entry.offset && found.header.max_timestamp == entry.timestamp
        }))
    }

    pub(super) fn with_index<T>(&self, ask: impl Fn(&[u8], &[u8]) -> T) -> Result<T, Fault> {
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
    pub(super) fn load_index(&self) -> Result<(), Fault> {
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

    pub(super) fn index_region(&self, name: &str) -> Result<Option<Region>> {
        let file = match self.storage.open(&self.dir.join(name), Open::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.len()?;
        if len == 0 {
            return Ok(Some(Region::heap(Vec::new())));
        }
        let map = if self.config.maps { file.map(len)? } else { None };
        if let Some(map) = map {
            map.publish(len);
            return Ok(Region::map(map, 0..len));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(Some(Region::heap(bytes)))
    }

    /// Makes the index of a sealed segment anew, in memory, from the headers of its batches, stepping over damage.
    pub(super) fn rebuild_index(&self) -> Result<(), Fault> {
        let growing = self.made_anew()?;
        *self.index.write() = Index::Sealed {
            offsets: Region::heap(growing.offsets.bytes().to_vec()),
            times: Region::heap(growing.times.bytes().to_vec()),
        };
        Ok(())
    }

    /// Makes the files of a closed segment's indexes anew where a crash took a part of them. We would notice when they
    /// are used; a broker believes them after a clean stop.
    pub(crate) fn mend_index(&self) -> Result<()> {
        let offsets = self.index_region(&name::offset_index(self.base))?;
        let times = self.index_region(&name::time_index(self.base))?;
        if let (Some(offsets), Some(times)) = (offsets, times)
            && offset_index::is_sane(offsets.bytes(), self.visible())
            && time_index::is_sane(times.bytes(), self.base)
            && self.times_reach_the_end(offsets.bytes(), times.bytes())?
        {
            return Ok(());
        }
        let growing = self.made_anew()?;
        // One that steps over damage does not say so to others.
        if !self.damaged.load(Ordering::Acquire) {
            *self.index.write() = Index::Growing(growing);
            self.close_index();
        }
        Ok(())
    }

    pub(super) fn made_anew(&self) -> Result<Growing> {
        let file = self.file(Open::Read)?;
        let mut growing = Growing::new(self.base, &self.config);
        let mut scan = self.scan(file.as_ref(), 0, self.visible());
        let mut order = Order::new(self.base, self.config.contiguous);
        loop {
            // Checked: a length that is wrong would hide what it steps over from every later search.
            match scan.next(true)? {
                Step::Batch { position, header }
                    if order.takes(&header) && self.knows(position, &header)? =>
                {
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
        Ok(growing)
    }

    /// Whether the batches behind the last offset entry are no younger than the last time entry: a time index that was
    /// cut short would hide them from a search.
    pub(super) fn times_reach_the_end(&self, offsets: &[u8], times: &[u8]) -> Result<bool> {
        let youngest = time_index::last(times, self.base).map_or(-1, |last| last.timestamp);
        let from = offset_index::last(offsets, self.base).map_or(0, |last| u64::from(last.position));
        let mut scan = self.scan(self.file(Open::Read)?.as_ref(), from, self.visible());
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
        if !read_only {
            for (name, found) in
                [(name::offset_index(self.base), &offsets), (name::time_index(self.base), &times)]
            {
                if found.is_none() {
                    self.write_index(&name, &[], 0)?;
                }
            }
        }
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

    pub(super) fn cut_index(&self, name: &str, len: usize, to: usize) -> Result<()> {
        if len <= to {
            return Ok(());
        }
        let file = self.storage.open(&self.dir.join(name), Open::Write)?;
        file.set_len(to as u64)?;
        file.sync_data()
    }

    /// The part of index files that the log confirms, and where it ends; `None`: nothing of it is to be believed.
    pub(super) fn confirmed(
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
    pub(super) fn header_if(&self, position: u64, len: u64) -> Result<Option<BatchHeader>> {
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
