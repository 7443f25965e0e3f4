//! The directory of a log that is opened: what lies in it, and what recovery takes out of the log.
//!
//! Invariants:
//! - Nothing is removed that holds a record: it is set aside under a name that nobody reads.
//! - Read-only, nothing is touched.

use std::collections::{BTreeSet, HashSet};

use super::compact::{self, Unsettled};
use super::open::Opening;
use super::producers::Producers;
use super::recover::{RecoveryEvent, set_aside};
use super::snapshot;
use crate::error::Result;
use crate::limits::SEGMENT_BYTES_MAX;
use crate::record::Invalid;
use crate::segment::Segment;
use crate::segment::name::{self, SegmentFile};
use crate::storage::{Entry, EntryKind, Open, read_small};
use crate::sync::Arc;
use crate::types::Offset;

impl Opening<'_> {
    /// Names and lengths of the `.log` files, rising; left-overs of interrupted operations are removed.
    pub(super) fn survey(&mut self) -> Result<Vec<(Offset, u64)>> {
        let storage = Arc::clone(&self.context.storage);
        (self.in_flux, self.stand_in) = (None, None);
        self.cleaned = match self.context.read_only {
            true => compact::readable(storage.as_ref(), &self.dir)?,
            false => {
                let ours = self.hints.contiguous;
                match compact::settle(storage.as_ref(), &self.dir, ours, &mut self.events) {
                    Ok(cleaned) => cleaned,
                    Err(Unsettled::Disk(error)) => return Err(error),
                    Err(Unsettled::Neither(why)) => return Err(self.damaged(why)),
                }
            }
        };
        if let Some(limit) = &mut self.limit {
            // The word of what is committed may be one from before a crash.
            *limit = (*limit).max(self.cleaned.needed_to);
        }
        let mut entries = storage.list(&self.dir)?;
        if self.context.read_only {
            // A segment that has one behind it is complete: its length is taken after that one was seen.
            let is_log = |entry: &Entry| matches!(SegmentFile::parse(&entry.name), Some(SegmentFile::Log(_)));
            let seen: HashSet<String> = entries.into_iter().filter(is_log).map(|entry| entry.name).collect();
            entries = self.context.storage.list(&self.dir)?;
            entries.retain(|entry| !is_log(entry) || seen.contains(&entry.name));
            let mut moves = false;
            if let Some(swap) = self.cleaned.swap {
                // Names that move while they are listed may be seen twice, or not at all.
                let names = |entries: &[Entry]| -> BTreeSet<_> {
                    entries.iter().map(|entry| (entry.name.clone(), entry.file)).collect()
                };
                let all = storage.list(&self.dir)?;
                moves = names(&storage.list(&self.dir)?) != names(&all);
                entries = all;
                let moving = compact::see_exchange(swap, &mut entries);
                self.stand_in = moving.map(|log| (swap.base, log.into()));
            }
            if moves || compact::readable(storage.as_ref(), &self.dir)? != self.cleaned {
                self.in_flux = Some(compact::FILE_NAME.to_owned());
            }
        }
        self.shared.clear();
        self.snapshots.clear();
        self.indexes.clear();
        let mut logs = Vec::new();
        let mut indexes = Vec::new();
        let mut leftovers = Vec::new();
        for entry in &entries {
            match SegmentFile::parse(&entry.name) {
                Some(SegmentFile::Log(_)) if entry.kind != EntryKind::File => {
                    let name = &entry.name;
                    let why = format!("{name} is a link or a directory: put the file back, or move it away");
                    return Err(self.damaged(why));
                }
                _ if entry.kind != EntryKind::File => {}
                Some(SegmentFile::Log(_)) if entry.len > SEGMENT_BYTES_MAX => {
                    return Err(self.damaged(format!(
                        "{} has {} bytes, more than a segment can have: restore it, or move it away",
                        entry.name, entry.len
                    )));
                }
                Some(SegmentFile::Log(base)) => {
                    logs.push((base, entry.len));
                    if entry.links > 1 {
                        self.shared.insert(base);
                    }
                }
                Some(
                    SegmentFile::OffsetIndex(base)
                    | SegmentFile::TimeIndex(base)
                    | SegmentFile::TransactionIndex(base)
                    | SegmentFile::Digest(base),
                ) => {
                    indexes.push((base, entry.name.clone()));
                    let index = [".index", ".timeindex"].iter().any(|suffix| entry.name.ends_with(suffix));
                    *self.indexes.entry(base).or_default() += u8::from(index);
                }
                Some(SegmentFile::Snapshot(offset)) => drop(self.snapshots.insert(offset)),
                Some(SegmentFile::Deleted | SegmentFile::Cleaned) => leftovers.push(entry.name.clone()),
                Some(SegmentFile::Swap) if self.cleaned.swap.is_none() && self.context.read_only => {
                    self.in_flux = Some(entry.name.clone());
                }
                Some(SegmentFile::Swap) if !self.context.read_only => {
                    return Err(self.interrupted(&entry.name));
                }
                Some(SegmentFile::Swap) => {}
                None => {}
            }
        }
        logs.sort_unstable();
        if self.in_flux.is_some() {
            return Ok(Vec::new());
        }
        if self.cleaned.sparse_below == Offset::MAX {
            // Nobody knows what was compacted; the active segment was not.
            self.cleaned.sparse_below = logs.last().map_or(0, |last| last.0);
            if !self.context.read_only {
                self.cleaned.write(storage.as_ref(), &self.dir)?;
            }
        }
        let bases: BTreeSet<Offset> = logs.iter().map(|log| log.0).collect();
        leftovers.extend(indexes.into_iter().filter(|(base, _)| !bases.contains(base)).map(|(_, name)| name));
        if !self.context.read_only && !leftovers.is_empty() {
            for name in leftovers {
                let file = self.dir.join(name);
                self.context.storage.remove_file(&file)?;
                self.events.push(RecoveryEvent::LeftoverRemoved { file });
            }
            self.context.storage.sync_dir(&self.dir)?;
        }
        Ok(logs)
    }

    /// What is known of the producers of a log with these segments; snapshots that are not of it go.
    pub(super) fn producers(
        &mut self,
        segments: &[Arc<Segment>],
        log_start: Offset,
        end: Offset,
    ) -> Result<Producers> {
        let bases: BTreeSet<Offset> = segments.iter().map(|segment| segment.base()).collect();
        let mut snapshots = std::mem::take(&mut self.snapshots);
        let gone = snapshot::to_remove(&snapshots, &bases, log_start, end);
        snapshots.retain(|offset| !gone.contains(offset));
        if !self.context.read_only && !gone.is_empty() {
            for offset in gone {
                self.context.storage.remove_file(&self.dir.join(name::snapshot(offset)))?;
            }
            // One that came back would be taken for that of other records.
            self.context.storage.sync_dir(&self.dir)?;
        }
        // After a clean stop too: a roll does not sync its snapshot, and a power cut may come soon after the stop.
        if !self.context.read_only {
            snapshots.retain(|offset| self.keeps_snapshot(*offset));
        }
        let unproven = match self.hints.clean {
            true => end,
            false => bases.range(..=self.proven).next_back().copied().unwrap_or(0),
        };
        Ok(Producers::new(snapshots, unproven, self.hints.clean))
    }

    /// Removes a snapshot that a crash has torn, also one that nobody would go back to: a broker finds fault with it.
    fn keeps_snapshot(&self, offset: Offset) -> bool {
        let storage = self.context.storage.as_ref();
        let path = self.dir.join(name::snapshot(offset));
        let torn = match read_small(storage, &path) {
            Ok(bytes) => bytes.is_none_or(|bytes| snapshot::decode(&bytes, offset).is_err()),
            Err(error) => error.is_corrupt(),
        };
        !torn || storage.remove_file(&path).is_err()
    }

    pub(super) fn cut_tail(
        &mut self,
        segment: &Segment,
        position: u64,
        len: u64,
        why: Invalid,
        keep: bool,
    ) -> Result<()> {
        if self.context.read_only {
            return Ok(());
        }
        let quarantine = match keep {
            true => Some(set_aside(self.context.storage.as_ref(), &self.dir, segment, position, len)?),
            false => None,
        };
        let file = segment.file(Open::Write)?;
        file.set_len(position)?;
        file.sync_data()?;
        self.events.push(RecoveryEvent::TailCut {
            file: segment.path(),
            position,
            bytes: len - position,
            why: why.to_string(),
            quarantine,
        });
        Ok(())
    }

    /// Takes segments out of the log.
    pub(super) fn set_aside_all(&mut self, later: &[(Offset, u64)]) -> Result<()> {
        if later.is_empty() || self.context.read_only {
            return Ok(());
        }
        let storage = &self.context.storage;
        for &(base, len) in later {
            let file = self.dir.join(name::log(base));
            let quarantine = (len > 0).then(|| self.dir.join(name::quarantine(base, 0)));
            match &quarantine {
                Some(to) => storage.rename(&file, to)?,
                None => storage.remove_file(&file)?,
            }
            self.remove_indexes(base)?;
            self.events.push(RecoveryEvent::SegmentSetAside { file, quarantine });
        }
        storage.sync_dir(&self.dir)
    }

    fn remove_indexes(&self, base: Offset) -> Result<()> {
        for name in [name::offset_index(base), name::time_index(base), name::txn_index(base)] {
            match self.context.storage.remove_file(&self.dir.join(name)) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
