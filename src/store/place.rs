//! One partition's part of a checkpoint: closed segments linked, the last one copied as far as it is committed.
//!
//! Invariants:
//! - At every moment, and after a crash at any, the target's directory is a log that opens: its segments follow one
//!   another, each but the last one whole, and nothing claims more than what is there.
//! - A file gets its final name when it is whole and durable. One exception: the last segment grows in place, behind
//!   the bytes that the marker vouches for.
//! - One more: where segments were compacted since the last checkpoint the marker says `incomplete` until all is here.
//! - Only `.log` files of closed segments are shared: they never change. Indexes and all else are copied.
//! - A `.log` that is there and right has its indexes there: they were durable before it got its name. Those of the
//!   segment that was the last one are written anew, until a checkpoint is finished where it is not.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::backup::Checkpoint;
use super::marker::{Marker, Tail};
use super::open::remove_partition_dir;
use crate::error::{ErrorKind, Result};
use crate::log::checkpoint::{LEADER_EPOCHS, epochs_text, read_epochs};
use crate::log::compact::{self, Cleaned, Unsettled};
use crate::log::{Moment, committed, snapshot, start::epochs_from};
use crate::segment::name::{self, SegmentFile};
use crate::segment::{IndexBytes, Segment, txn_index};
use crate::storage::{Entry, EntryKind, File, Open, Storage, copy_range, read_small, replace, write_new};
use crate::sync::Arc;
use crate::types::Offset;

pub(super) const METADATA: &str = "partition.metadata";

/// How much of what a copy has is compared before it grows.
const COMPARED_BYTES: u64 = 4_096;

/// Names of a directory.
type Names = HashMap<String, Entry>;

/// Puts partitions into a checkpoint.
pub(super) struct Placing<'s> {
    pub(super) storage: &'s dyn Storage,
    /// Whether hard links are to be had, as far as it is known.
    pub(super) links: bool,
    pub(super) done: Checkpoint,
    /// The root, and whether its marker says that the checkpoint is not finished.
    pub(super) root: &'s Path,
    pub(super) unfinished: bool,
}

/// What became of one partition.
pub(super) struct Placed {
    pub(super) tail: Tail,
    /// Where it starts.
    pub(super) start: Offset,
    /// What the source has no more: to be removed when nothing refers to it.
    pub(super) stale: Vec<PathBuf>,
}

struct Place<'p, 's> {
    placing: &'p mut Placing<'s>,
    from: &'p Path,
    to: &'p Path,
    there: Names,
    /// Names were made or moved since the directory was synced.
    dirty: bool,
}

impl Placing<'_> {
    /// A segment that was compacted lacks what later ones replace: until these are here too the directory is no store.
    fn begin_exchanges(&mut self) -> Result<()> {
        if !self.unfinished {
            Marker::default().write(self.storage, self.root)?;
            self.unfinished = true;
        }
        Ok(())
    }

    /// Brings the directory `to` up to a moment of the log in `from`. `known`: what an earlier checkpoint vouches for.
    pub(super) fn place(
        &mut self,
        from: &Path,
        to: &Path,
        moment: &Moment,
        known: Option<Tail>,
    ) -> Result<Placed> {
        let storage = self.storage;
        let here = names(storage, from)?;
        let metadata = read_small(storage, &from.join(METADATA))?;
        if known.is_none() && self.is_another(to, metadata.as_deref())? {
            remove_partition_dir(storage, to).1?;
        }
        storage.create_dir(to)?;
        settle_compactions(storage, from, to)?;
        let there = names(storage, to)?;
        let mut place = Place { placing: self, from, to, there, dirty: false };
        let mut kept = BTreeSet::new();
        place.small_file(METADATA, metadata)?;
        let mut start = Some(moment.log_start);
        for (i, segment) in moment.sealed.iter().enumerate() {
            let next_base = moment.sealed.get(i + 1).map_or(moment.last.base(), |next| next.base());
            let placed = match here.get(&name::log(segment.base())) {
                Some(entry) if !segment.is_contiguous() && place.is_exchange(segment.base(), next_base) => {
                    place.exchanged(segment, entry, next_base, &here)
                }
                Some(entry) => place.sealed(segment, entry, known),
                // Its handle may still hold it.
                None => place.copied(segment, segment.written(), Offset::MAX, known),
            };
            match placed {
                // Retention was faster: the log starts behind it by now.
                Err(error) if error.is_not_found() && kept.is_empty() => start = None,
                placed => {
                    placed?;
                    kept.insert(segment.base());
                }
            }
        }
        place.last(moment, known)?;
        kept.insert(moment.last.base());
        let start = start.unwrap_or_else(|| kept.first().copied().unwrap_or(0));
        // Before anything in front of it goes.
        place.small_file(LEADER_EPOCHS, epochs_at(storage, from, start)?)?;
        for entry in here.values().filter(|entry| entry.kind == EntryKind::File) {
            match SegmentFile::parse(&entry.name) {
                Some(SegmentFile::TransactionIndex(base))
                    if base < moment.last.base() && kept.contains(&base) => {}
                // One that a crash had cut is none, and is not handed on.
                Some(SegmentFile::Snapshot(offset)) if offset < moment.end => {
                    let bytes = read_small(storage, &from.join(&entry.name))?;
                    let good = bytes.filter(|bytes| snapshot::decode(bytes, offset).is_ok());
                    place.small_file(&entry.name, good)?;
                    continue;
                }
                _ => continue,
            }
            place.small_file(&entry.name, read_small(storage, &from.join(&entry.name))?)?;
        }
        for base in &kept {
            if let Some(digest) = here.get(&name::digest(*base)) {
                place.digest(digest)?;
            }
        }
        let mut aborted = moment.last.aborted()?;
        aborted.retain(|txn| txn.last_offset < moment.end);
        let aborted = (!aborted.is_empty()).then(|| txn_index::encoded(&aborted));
        place.small_file(&name::txn_index(moment.last.base()), aborted)?;
        let last_snapshot = name::snapshot(moment.end);
        let last = match &moment.snapshot {
            Some(last) if moment.end > 0 => Some(last.clone()),
            _ => read_small(storage, &from.join(&last_snapshot))?,
        };
        place.small_file(&last_snapshot, last)?;
        // The word of what is committed comes behind what it speaks of.
        place.settle()?;
        place.small_file(committed::FILE_NAME, moment.committed.clone())?;
        let stale = place.stale(&kept, &here, moment.end);
        Ok(Placed { tail: (moment.last.base(), moment.position), start, stale })
    }

    /// Whether a directory is there that belongs to a topic of another id: what a crash left of another checkpoint.
    fn is_another(&self, to: &Path, metadata: Option<&[u8]>) -> Result<bool> {
        match self.storage.list(to) {
            Ok(_) => Ok(read_small(self.storage, &to.join(METADATA))?.as_deref() != metadata),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Place<'_, '_> {
    fn storage(&self) -> &dyn Storage {
        self.placing.storage
    }

    /// A closed segment, by a link if that can be had.
    fn sealed(&mut self, segment: &Segment, entry: &Entry, known: Option<Tail>) -> Result<()> {
        let log = name::log(segment.base());
        let has_indexes = [name::offset_index(segment.base()), name::time_index(segment.base())]
            .iter()
            .all(|name| self.there.contains_key(name));
        let there = self.there.get(&log).filter(|there| there.len == entry.len);
        let is_known = known.is_some_and(|(base, _)| base == segment.base());
        if there.is_some_and(|there| there.file == entry.file) {
            self.placing.done.segments_kept += 1;
            if !has_indexes || is_known {
                self.put_indexes(segment.index_below(entry.len, Offset::MAX)?, segment.base())?;
            }
            return Ok(());
        }
        // The last segment of the checkpoint before is never taken for a whole copy: it was written in place.
        let copy_is_right =
            !is_known && has_indexes && there.is_some_and(|there| there.modified_ms >= entry.modified_ms);
        if self.placing.links {
            let tmp = self.tmp(&log)?;
            if self.storage().hard_link(&self.from.join(&log), &tmp)? {
                self.placing.done.segments_linked += 1;
                return self.finish(segment, entry.len, Offset::MAX, Some(&tmp), is_known);
            }
            self.placing.links = false;
        }
        if copy_is_right {
            self.placing.done.segments_kept += 1;
            return Ok(());
        }
        self.copied(segment, entry.len, Offset::MAX, known)
    }

    /// Whether a segment that was compacted takes the place of others here.
    fn is_exchange(&self, base: Offset, next_base: Offset) -> bool {
        self.there.keys().any(|name| match SegmentFile::parse(name) {
            Some(SegmentFile::Log(other)) => (base..next_base).contains(&other),
            _ => false,
        })
    }

    /// A segment that was compacted, in the place of those it was made of, which are all here: as the log itself does
    /// it, so that a crash leaves these or that one.
    fn exchanged(&mut self, segment: &Segment, entry: &Entry, next_base: Offset, here: &Names) -> Result<()> {
        let (base, storage) = (segment.base(), self.placing.storage);
        let (log, digest) = (name::log(base), name::digest(base));
        let alone = !self.is_exchange(base + 1, next_base);
        let same =
            |name: &str| self.there.get(name).zip(here.get(name)).is_some_and(|(a, b)| a.file == b.file);
        let read = |dir: &Path| read_whole(storage, &dir.join(&digest));
        let is_there = self.there.get(&log).is_some_and(|there| there.len == entry.len);
        if alone
            && is_there
            && (same(&log) || read(self.from)?.is_some() && read(self.from)? == read(self.to)?)
        {
            self.placing.done.segments_kept += 1;
            return Ok(());
        }
        let tmp = self.tmp(&log)?;
        let linked = self.placing.links && storage.hard_link(&self.from.join(&log), &tmp)?;
        self.placing.links &= linked;
        if linked {
            self.placing.done.segments_linked += 1;
        } else {
            let (source, file) = (segment.file(Open::Read)?, storage.open(&tmp, Open::New)?);
            copy_range(source.as_ref(), file.as_ref(), 0..entry.len, &self.from.join(&log))?;
            file.sync_data()?;
            self.placing.done.segments_copied += 1;
            self.placing.done.bytes_copied += entry.len;
        }
        let index = segment.index_below(entry.len, Offset::MAX)?;
        let aborted = txn_index::encoded(&segment.aborted()?);
        let digest_bytes = read(self.from)?;
        let others = [
            (name::offset_index(base), Some(index.offsets)),
            (name::time_index(base), Some(index.times)),
            (name::txn_index(base), Some(aborted).filter(|aborted| !aborted.is_empty())),
            (digest, digest_bytes),
        ];
        for (name, bytes) in &others {
            let tmp = self.tmp(name)?;
            if let Some(bytes) = bytes {
                write_new(storage, &tmp, bytes)?;
            }
        }
        self.placing.begin_exchanges()?;
        compact::exchange_for(storage, self.to, base..next_base)?;
        self.there = names(storage, self.to)?;
        Ok(())
    }

    /// The digest of a segment that was compacted, where it differs.
    fn digest(&mut self, entry: &Entry) -> Result<()> {
        let bytes = read_whole(self.storage(), &self.from.join(&entry.name))?;
        match bytes {
            Some(bytes)
                if read_whole(self.storage(), &self.to.join(&entry.name))?.as_ref() != Some(&bytes) =>
            {
                self.put(&entry.name, &bytes)
            }
            _ => Ok(()),
        }
    }

    /// The last segment, as far as it is committed.
    fn last(&mut self, moment: &Moment, known: Option<Tail>) -> Result<()> {
        let segment = &moment.last;
        let names = [name::offset_index(segment.base()), name::time_index(segment.base())];
        let there = self.there.get(&name::log(segment.base()));
        if known == Some((segment.base(), moment.position))
            && there.is_some_and(|there| there.len == moment.position && there.links == 1)
            && names.iter().all(|name| self.there.contains_key(name))
        {
            self.placing.done.segments_kept += 1;
            return Ok(());
        }
        self.copied(segment, moment.position, moment.end, known)
    }

    /// The first `len` bytes of a segment, with the indexes of them; only what is missing is copied.
    fn copied(&mut self, segment: &Segment, len: u64, end: Offset, known: Option<Tail>) -> Result<()> {
        let log = name::log(segment.base());
        let source = Arc::clone(segment.file(Open::Read)?);
        let known = known.filter(|(base, _)| *base == segment.base()).map(|(_, bytes)| bytes);
        let grown = match known {
            Some(known) if known <= len => self.grow(&log, source.as_ref(), known, len)?,
            _ => false,
        };
        let tmp = if grown {
            None
        } else {
            let tmp = self.tmp(&log)?;
            let file = self.storage().open(&tmp, Open::New)?;
            copy_range(source.as_ref(), file.as_ref(), 0..len, &self.from.join(&log))?;
            file.sync_data()?;
            self.placing.done.bytes_copied += len;
            Some(tmp)
        };
        self.placing.done.segments_copied += 1;
        self.finish(segment, len, end, tmp.as_deref(), known.is_some())
    }

    /// Gives a segment its indexes, and its final name if it has another so far. What the checkpoint before had of it
    /// is never without a log that has what its indexes speak of; a new one is never without its indexes.
    fn finish(
        &mut self,
        segment: &Segment,
        len: u64,
        end: Offset,
        tmp: Option<&Path>,
        is_known: bool,
    ) -> Result<()> {
        if let (Some(tmp), true) = (tmp, is_known) {
            self.rename(tmp, &name::log(segment.base()))?;
            self.settle()?;
        }
        self.put_indexes(segment.index_below(len, end)?, segment.base())?;
        self.settle()?;
        if let (Some(tmp), false) = (tmp, is_known) {
            self.rename(tmp, &name::log(segment.base()))?;
            self.settle()?;
        }
        Ok(())
    }

    /// Lets a copy grow from the `known` bytes of it to `len`; `false` when it is not what it should be.
    fn grow(&mut self, log: &str, source: &dyn File, known: u64, len: u64) -> Result<bool> {
        if !self.there.get(log).is_some_and(|there| there.len >= known && there.links == 1) {
            return Ok(false);
        }
        let path = self.to.join(log);
        let copy = self.storage().open(&path, Open::Write)?;
        let compared = known.saturating_sub(COMPARED_BYTES);
        let (mut ours, mut theirs) =
            (vec![0; (known - compared) as usize], vec![0; (known - compared) as usize]);
        if copy.read_at(&mut ours, compared)? != source.read_at(&mut theirs, compared)? || ours != theirs {
            return Ok(false);
        }
        copy_range(source, copy.as_ref(), known..len, &self.from.join(log))?;
        if copy.len()? > len {
            // What an interrupted checkpoint had begun.
            copy.set_len(len)?;
        }
        copy.sync_data()?;
        self.placing.done.bytes_copied += len - known;
        Ok(true)
    }

    fn put_indexes(&mut self, index: IndexBytes, base: Offset) -> Result<()> {
        self.put(&name::offset_index(base), &index.offsets)?;
        self.put(&name::time_index(base), &index.times)
    }

    /// A file with these bytes under its final name, whole and synced; the name is not synced yet.
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let tmp = self.tmp(name)?;
        let file = self.storage().open(&tmp, Open::New)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        drop(file);
        self.rename(&tmp, name)
    }

    /// A file that is replaced as a whole, where it differs; `None`: there is none.
    fn small_file(&mut self, name: &str, bytes: Option<Vec<u8>>) -> Result<()> {
        let path = self.to.join(name);
        match bytes {
            Some(bytes) if read_small(self.storage(), &path)?.as_ref() != Some(&bytes) => {
                replace(self.storage(), &path, &bytes)
            }
            None if self.there.contains_key(name) => {
                self.storage().remove_file(&path)?;
                self.storage().sync_dir(self.to)
            }
            _ => Ok(()),
        }
    }

    /// A free name, for what has no content yet. A log that finds such a file removes it.
    fn tmp(&self, name: &str) -> Result<PathBuf> {
        let tmp = format!("{name}.cleaned");
        let path = self.to.join(&tmp);
        if self.there.contains_key(&tmp) {
            match self.storage().remove_file(&path) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(path)
    }

    fn rename(&mut self, from: &Path, name: &str) -> Result<()> {
        self.dirty = true;
        self.storage().rename(from, &self.to.join(name))
    }

    fn settle(&mut self) -> Result<()> {
        if std::mem::take(&mut self.dirty) {
            self.storage().sync_dir(self.to)?;
        }
        Ok(())
    }

    /// Files of segments that are no more, and what interrupted checkpoints left.
    fn stale(&self, kept: &BTreeSet<Offset>, here: &Names, end: Offset) -> Vec<PathBuf> {
        let is_stale = |name: &&String| match SegmentFile::parse(name) {
            Some(
                SegmentFile::Log(base)
                | SegmentFile::OffsetIndex(base)
                | SegmentFile::TimeIndex(base)
                | SegmentFile::Digest(base),
            ) => !kept.contains(&base),
            Some(SegmentFile::TransactionIndex(base)) => !kept.contains(&base) || !here.contains_key(*name),
            Some(SegmentFile::Snapshot(offset)) => offset != end && !here.contains_key(*name),
            Some(SegmentFile::Deleted | SegmentFile::Cleaned | SegmentFile::Swap) => true,
            // Of a small file that was being replaced.
            None => name.ends_with(".tmp"),
        };
        self.there.keys().filter(is_stale).map(|name| self.to.join(name)).collect()
    }
}

/// Ends what an interrupted checkpoint left of an exchange, and takes over which segments may have gaps: before there
/// is one of them.
fn settle_compactions(storage: &dyn Storage, from: &Path, to: &Path) -> Result<()> {
    let source = compact::readable(storage, from)?;
    let target = match compact::settle(storage, to, false, &mut Vec::new()) {
        Ok(target) => target,
        Err(Unsettled::Disk(error)) => return Err(error),
        Err(Unsettled::Neither(why)) => {
            return Err(ErrorKind::BadFile { file: to.join(compact::FILE_NAME), why }.into());
        }
    };
    if target.sparse_below >= source.sparse_below {
        return Ok(());
    }
    let exchanges = target.exchanges.max(source.exchanges);
    let (sparse_below, needed_to) = (source.sparse_below, target.needed_to);
    Cleaned { sparse_below, needed_to, exchanges, swap: None }.write(storage, to)
}

/// A file of any size; `None`: there is none.
fn read_whole(storage: &dyn Storage, path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match storage.open(path, Open::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// The checkpoint of epochs of a log that starts there. One that can not be read is copied as it is.
fn epochs_at(storage: &dyn Storage, from: &Path, start: Offset) -> Result<Option<Vec<u8>>> {
    let path = from.join(LEADER_EPOCHS);
    match read_epochs(storage, &path) {
        Ok(epochs) if !epochs.is_empty() => Ok(Some(epochs_text(&epochs_from(&epochs, start)).into_bytes())),
        Err(error) if !error.is_corrupt() => Err(error),
        _ => read_small(storage, &path),
    }
}

fn names(storage: &dyn Storage, dir: &Path) -> Result<Names> {
    Ok(storage.list(dir)?.into_iter().map(|entry| (entry.name.clone(), entry)).collect())
}
