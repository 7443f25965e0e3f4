//! A consistent copy of a store that goes on being written.
//!
//! Partition after partition: commit what is written, note where the log ends, share the closed segments by hard links,
//! copy the rest. Then the files of the root, the catalog and the marker, and last what the source has no more goes.
//!
//! Invariants:
//! - No lock of the source is held while anything is linked or copied.
//! - A first checkpoint is no store before all of it is there: the marker says so.
//! - A repeated one is a store at every moment: each partition ends where the checkpoint before ended, or later. What
//!   the catalog does not list yet, or any more, is not seen.
//! - A partition that can not be served keeps no other from being copied: it stays as the older copy has it, and the
//!   error names it.
//! - When it returns, all is durable.
//! - Nothing is written into a directory that is not empty and no checkpoint of this store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::marker::{self, Marker};
use super::open::{CLEAN_MARK, CLEAN_SHUTDOWN, LOCK, parse_dir, remove_partition_dir};
use super::place::Placing;
use super::{Shared, Store, meta};
use crate::error::{Error, ErrorKind, Result};
use crate::log::callback;
use crate::log::checkpoint::{
    HIGH_WATERMARKS, LOG_STARTS, Offsets, RECOVERY_POINTS, read_offsets, write_offsets,
};
use crate::storage::{Storage, read_small, replace};
use crate::sync::{Arc, in_parallel};
use crate::topic::TopicInner;
use crate::topic::catalog::{Catalog, CatalogEntry, TopicState};
use crate::types::TopicName;

/// What [`Store::checkpoint`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Segments that share their file with the source.
    pub segments_linked: u64,
    /// Segments of which bytes were copied: the last one of a partition, and all where links are not to be had.
    pub segments_copied: u64,
    /// Segments that were there and right.
    pub segments_kept: u64,
    /// Bytes of segments that were copied.
    pub bytes_copied: u64,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checkpoint { segments_linked, segments_copied, segments_kept, bytes_copied } = self;
        write!(
            f,
            "{segments_linked} segments linked, {segments_copied} copied ({bytes_copied} bytes), {segments_kept} kept"
        )
    }
}

impl Store {
    /// Makes a consistent copy of the store in a directory while the store is in use.
    ///
    /// The copy holds of every partition a prefix with all that was committed before the call, and opens as a store of
    /// its own, as after a clean stop. The partitions' ends are taken one after the other: together they are no moment
    /// that ever was. All of it is durable when this returns.
    ///
    /// Closed segments are hard links where the file system allows it, and cost no space; the rest is copied. Called
    /// again with the same directory it adds what is new and removes what is gone. If the first call is interrupted
    /// the directory is refused until a call is finished. If a later one is, the directory is still a store: each
    /// partition as in the older copy or further, topics that were deleted since may be gone, new ones are not seen.
    ///
    /// Opening the copy read-only leaves it a checkpoint. Opening it for writing makes it a store of its own, which
    /// takes no checkpoint any more. Neither changes the source, nor does the source change the copy; but **a link
    /// is no second copy of the bytes**: damage to a segment is in both. A backup that must outlive the device lies on
    /// another one; [`Store::verify`] reads either. Only this crate knows which files are shared: hand a copy made by
    /// `cp -r` to other programs that write.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path();
    /// use logstead::{Record, Store, TopicConfig};
    ///
    /// let store = Store::open(dir.join("data"))?;
    /// store.create_topic("orders", TopicConfig::default())?;
    /// store.producer()?.send(Record::to("orders").value("2 apples"))?.wait()?;
    /// store.checkpoint(dir.join("backup"))?;
    ///
    /// let copy = Store::open_read_only(dir.join("backup"))?;
    /// assert_eq!(copy.topic("orders")?.partition(0)?.high_watermark(), 1);
    /// assert!(Store::verify(dir.join("backup"))?.is_sound());
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NotACheckpoint`]: the directory holds something else, or a copy that was damaged, or lies in the
    /// store itself; nothing was changed there. [`ErrorKind::Locked`]: it is open as a store, or another call is at it.
    /// [`ErrorKind::ReadOnly`] of a store that was opened so; [`ErrorKind::Full`].
    ///
    /// [`ErrorKind::Damaged`] or [`ErrorKind::Poisoned`]: a partition can not be served, the first one is named.
    /// **Everything else is in the copy**, which is a store: that partition is there as in the older copy, or, if there
    /// was none, as one whose directory is missing. Recover it and call again.
    ///
    /// [`ErrorKind::WouldWaitForItself`] from inside a delivery hook.
    pub fn checkpoint(&self, dir: impl AsRef<Path>) -> Result<Checkpoint> {
        self.shared().checkpoint(dir.as_ref())
    }
}

/// The directory that a checkpoint goes to.
struct Target<'s> {
    storage: &'s dyn Storage,
    root: PathBuf,
    marker: Marker,
    catalog: Catalog,
    ends: Ends,
}

/// What the source consists of.
struct Source {
    topics: Vec<Arc<TopicInner>>,
    catalog: BTreeMap<TopicName, CatalogEntry>,
    meta: Vec<u8>,
}

/// The root's offset files, as they will be.
#[derive(Default)]
struct Ends {
    ends: Offsets,
    log_starts: Offsets,
}

/// What became of one topic.
#[derive(Default)]
struct PlacedTopic {
    tails: BTreeMap<String, marker::Tail>,
    stale: Vec<PathBuf>,
    /// Why the first of the partitions that were left as they were can not be served.
    left_out: Option<Error>,
}

impl Shared {
    fn checkpoint(&self, dir: &Path) -> Result<Checkpoint> {
        callback::check_outside("Store::checkpoint")?;
        self.check_writable()?;
        let storage = self.context.storage.as_ref();
        let root = super::absolute(dir)?;
        let root = resolved(storage, &self.context.root, root)?;
        let source = self.source()?;
        // Before anything is written, the lock's file included.
        match storage.list(&root) {
            Ok(_) => drop(Target::open(storage, &root, &source)?),
            Err(error) if error.is_not_found() => storage.create_dir(&root)?,
            Err(error) => return Err(error),
        }
        let lock = storage.lock(&root.join(LOCK))?;
        let done = Target::open(storage, &root, &source).and_then(|target| self.fill(target, source));
        // A copy has no lock file. It goes while it is held: whoever takes it finds that its name is gone.
        let unlocked = storage.remove_file(&root.join(LOCK)).and_then(|()| storage.sync_dir(&root));
        drop(lock);
        done.and_then(|done| unlocked.map(|()| done))
    }

    fn source(&self) -> Result<Source> {
        let root = &self.context.root;
        let meta =
            read_small(self.context.storage.as_ref(), &root.join(meta::FILE_NAME))?.unwrap_or_default();
        // A topic is in both or in none while this is locked.
        let catalog = self.catalog.lock();
        let ready = |entry: &CatalogEntry| matches!(entry.state, TopicState::Ready | TopicState::Foreign);
        let ready = catalog.topics.iter().filter(|(_, entry)| ready(entry));
        Ok(Source {
            topics: self.topics.sorted(),
            catalog: ready.map(|(name, entry)| (name.clone(), entry.clone())).collect(),
            meta,
        })
    }

    fn fill(&self, mut target: Target<'_>, mut source: Source) -> Result<Checkpoint> {
        let clean = self.may_count_as_clean();
        target.prepare(&source, clean)?;
        let logs: Vec<_> = source.topics.iter().flat_map(|topic| topic.opened_logs()).collect();
        // Together, which is much faster than one by one; what fails fails again where it is looked at.
        let _ = in_parallel(self.context.threads, &logs, |(_, log)| log.sync_all());
        drop(logs);
        let root = target.root.clone();
        let mut placing = Placing {
            storage: target.storage,
            links: true,
            done: Checkpoint::default(),
            root: &root,
            unfinished: false,
        };
        let mut ends = Ends::default();
        let mut tails = BTreeMap::new();
        let mut stale = Vec::new();
        let mut left_out = None;
        for topic in &source.topics {
            // As many as the catalog says: more may have been added since.
            let partitions = match source.catalog.get(&topic.name) {
                Some(entry) if entry.state == TopicState::Ready => entry.config.partitions,
                _ => topic.partitions(),
            };
            let placed = self.place_topic(topic, partitions, &target, &mut placing, &mut ends);
            self.check_open()?;
            // A topic leaves this list before its directories go, or become those of another one.
            let there = self.topics.get(topic.name.as_str()).is_ok_and(|now| Arc::ptr_eq(&now, topic));
            match placed {
                Ok(placed) if there => {
                    tails.extend(placed.tails);
                    stale.extend(placed.stale);
                    left_out = left_out.or(placed.left_out);
                }
                Err(error) if there => return Err(error),
                _ => {
                    source.catalog.remove(&topic.name);
                    ends.forget(&topic.name);
                }
            }
        }
        // Behind the records: names that it does not know would be given out anew.
        self.context.names.copy(target.storage, &target.root)?;
        if placing.unfinished {
            target.marker = Marker::default();
        }
        target.finish(&source, &ends, tails, clean)?;
        target.remove(&stale)?;
        left_out.map_or(Ok(placing.done), Err)
    }

    fn place_topic(
        &self,
        topic: &TopicInner,
        partitions: u32,
        target: &Target<'_>,
        placing: &mut Placing<'_>,
        ends: &mut Ends,
    ) -> Result<PlacedTopic> {
        let mut all = PlacedTopic::default();
        for partition in 0..i32::try_from(partitions).unwrap_or(0) {
            self.check_open()?;
            let dir = format!("{}-{partition}", topic.name);
            let key = (topic.name.to_string(), partition);
            let known = target.marker.tails.get(&dir).copied();
            let log = topic.log(partition);
            // The names in its directory lead to the segments of this moment until they are placed.
            let _names = log.as_ref().ok().map(|log| log.keep_names());
            let moment = match log.as_ref().map_err(Clone::clone).and_then(|log| log.moment()) {
                Ok(moment) => moment,
                Err(error) => match error.kind() {
                    // A broker's topic, of which this directory holds other partitions only.
                    ErrorKind::UnknownPartition { .. } => continue,
                    // The others are no less worth a copy.
                    ErrorKind::Damaged { .. } | ErrorKind::Poisoned { .. } => {
                        all.tails.extend(known.map(|tail| (dir, tail)));
                        ends.keep(&target.ends, &key);
                        all.left_out.get_or_insert(error);
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            let placed =
                placing.place(&self.context.root.join(&dir), &target.root.join(&dir), &moment, known)?;
            ends.ends.insert(key.clone(), moment.end);
            if placed.start > 0 {
                ends.log_starts.insert(key, placed.start);
            }
            all.tails.insert(dir, placed.tail);
            all.stale.extend(placed.stale);
        }
        Ok(all)
    }

    /// Whether a stop now would count as clean for a broker, too.
    pub(super) fn may_count_as_clean(&self) -> bool {
        // After a clean stop a broker that finds no snapshot takes it that there are no producers, and would serve an
        // open transaction as committed. After any other it looks for them in the log.
        let mut logs = self.topics.sorted().into_iter().flat_map(|topic| topic.opened_logs());
        self.report.clean || !logs.any(|(_, log)| log.lacks_snapshot())
    }
}

impl Ends {
    /// What the files of a copy say; those that can not be read say nothing.
    fn read(storage: &dyn Storage, root: &Path) -> Ends {
        let read = |name| read_offsets(storage, &root.join(name)).unwrap_or_default();
        Ends { ends: read(RECOVERY_POINTS), log_starts: read(LOG_STARTS) }
    }

    /// Takes over what an older copy says of a partition.
    fn keep(&mut self, older: &Ends, key: &(String, i32)) {
        let of = |offsets: &Offsets| offsets.get(key).map(|offset| (key.clone(), *offset));
        self.ends.extend(of(&older.ends));
        self.log_starts.extend(of(&older.log_starts));
    }

    fn forget(&mut self, name: &TopicName) {
        for offsets in [&mut self.ends, &mut self.log_starts] {
            offsets.retain(|(topic, _), _| topic != name.as_str());
        }
    }
}

impl<'s> Target<'s> {
    /// Looks at the directory, which is there, and refuses what is no checkpoint of this source.
    fn open(storage: &'s dyn Storage, root: &Path, source: &Source) -> Result<Target<'s>> {
        let refuse = |why| Err(not_a_checkpoint(root, why));
        let readable = |error: Error| match error.is_corrupt() {
            true => not_a_checkpoint(root, error.to_string()),
            false => error,
        };
        let root = root.to_owned();
        let Some(marker) = Marker::read(storage, &root).map_err(readable)? else {
            let others = storage.list(&root)?;
            let strange = others.iter().find(|entry| !is_neutral(&entry.name));
            if let Some(strange) = strange {
                let why = format!(
                    "it holds {:?} and is no checkpoint, or was opened for writing since",
                    strange.name
                );
                return refuse(why);
            }
            let (catalog, marker, ends) = (Catalog::empty(&root), Marker::default(), Ends::default());
            return Ok(Target { storage, catalog, marker, ends, root });
        };
        match read_small(storage, &root.join(meta::FILE_NAME))? {
            Some(meta) if meta == source.meta => {}
            None if !marker.complete => {}
            _ => return refuse("it is a checkpoint of another store".to_owned()),
        }
        let catalog = Catalog::read(storage, &root).map_err(readable)?;
        let ends = Ends::read(storage, &root);
        Ok(Target { storage, root, marker, catalog, ends })
    }

    /// Makes the directory ready to receive: what must not be seen while it is filled is not seen from here on.
    fn prepare(&mut self, source: &Source, clean: bool) -> Result<()> {
        let (storage, root) = (self.storage, self.root.as_path());
        if !self.marker.complete {
            self.marker = Marker::default();
            self.marker.write(storage, root)?;
            replace(storage, &root.join(meta::FILE_NAME), &source.meta)?;
            return meta::sync_above(storage, root);
        }
        if !clean && storage.list(root)?.iter().any(|entry| entry.name == CLEAN_SHUTDOWN) {
            storage.remove_file(&root.join(CLEAN_SHUTDOWN))?;
            storage.sync_dir(root)?;
        }
        self.forget_gone(source)
    }

    /// Takes out topics that are gone, or are others of the same name by now. First the marker, which vouches for what
    /// the catalog does not list; then the catalog: in between they are there, and after it they are not seen.
    fn forget_gone(&mut self, source: &Source) -> Result<()> {
        let mut gone: BTreeSet<String> = BTreeSet::new();
        let mut dirs = |name: &TopicName, partitions: u32| {
            gone.extend((0..partitions).map(|partition| format!("{name}-{partition}")));
        };
        let topics = self.catalog.topics.len();
        for (name, entry) in &source.catalog {
            // A topic of ours in the place of one that a broker had made.
            if entry.state == TopicState::Ready && !self.catalog.topics.contains_key(name) {
                dirs(name, entry.config.partitions);
            }
        }
        self.catalog.topics.retain(|name, entry| {
            let same = source.catalog.get(name).is_some_and(|now| now.id == entry.id);
            if !same {
                dirs(name, entry.config.partitions);
            }
            same
        });
        let tails = self.marker.tails.len();
        self.marker.tails.retain(|dir, _| !gone.contains(dir));
        if self.marker.tails.len() != tails {
            self.marker.write(self.storage, &self.root)?;
        }
        if self.catalog.topics.len() != topics {
            self.catalog.write(self.storage)?;
        }
        Ok(())
    }

    /// The files of the root, the marker last: from here on the directory is the new checkpoint.
    fn finish(
        &mut self,
        source: &Source,
        ends: &Ends,
        tails: BTreeMap<String, marker::Tail>,
        clean: bool,
    ) -> Result<()> {
        // Of topics that were deleted meanwhile.
        self.forget_gone(source)?;
        let (storage, root) = (self.storage, self.root.as_path());
        let files =
            [(LOG_STARTS, &ends.log_starts), (RECOVERY_POINTS, &ends.ends), (HIGH_WATERMARKS, &ends.ends)];
        for (name, offsets) in files {
            let path = root.join(name);
            if read_offsets(storage, &path).ok().as_ref() != Some(offsets) {
                write_offsets(storage, &path, offsets)?;
            }
        }
        if self.catalog.topics != source.catalog {
            self.catalog.topics.clone_from(&source.catalog);
            self.catalog.write(storage)?;
        }
        if clean && !storage.list(root)?.iter().any(|entry| entry.name == CLEAN_SHUTDOWN) {
            replace(storage, &root.join(CLEAN_SHUTDOWN), CLEAN_MARK)?;
        }
        let marker = Marker { complete: true, tails };
        if self.marker != marker {
            marker.write(storage, root)?;
            self.marker = marker;
        }
        Ok(())
    }

    /// What the source has no more: nothing refers to it now.
    fn remove(&self, stale: &[PathBuf]) -> Result<()> {
        let mut dirs = BTreeSet::new();
        for path in stale {
            match self.storage.remove_file(path) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => dirs.extend(path.parent()),
            }
        }
        dirs.into_iter().try_for_each(|dir| self.storage.sync_dir(dir))?;
        for entry in self.storage.list(&self.root)? {
            if parse_dir(&entry).is_some() && !self.marker.tails.contains_key(&entry.name) {
                remove_partition_dir(self.storage, &self.root.join(&entry.name)).1?;
            }
            if entry.name.ends_with(".tmp") {
                self.storage.remove_file(&self.root.join(&entry.name))?;
            }
        }
        Ok(())
    }
}

fn is_neutral(name: &str) -> bool {
    name == LOCK || name == "lost+found" || name.ends_with(".tmp")
}

#[cold]
fn not_a_checkpoint(path: &Path, why: String) -> Error {
    ErrorKind::NotACheckpoint { path: path.to_owned(), why }.into()
}

/// The directory without links and dots; refused if it lies in the store itself.
fn resolved(storage: &dyn Storage, store: &Path, dir: PathBuf) -> Result<PathBuf> {
    let store = storage.canonical(store)?;
    let mut there = dir.as_path();
    let found = loop {
        match storage.canonical(there) {
            Ok(found) => break found,
            Err(error) if error.is_not_found() => match there.parent() {
                Some(parent) => there = parent,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        }
    };
    let missing = dir.strip_prefix(there).unwrap_or(Path::new(""));
    if missing.components().any(|part| part == Component::ParentDir) {
        return Err(not_a_checkpoint(
            &dir,
            "its path goes back from a directory that does not exist".to_owned(),
        ));
    }
    if found.starts_with(&store) {
        return Err(not_a_checkpoint(&dir, "it lies in the store itself".to_owned()));
    }
    Ok(found.join(missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TopicConfig;
    use crate::storage::SimDisk;
    use crate::topic::catalog::TopicId;

    #[test]
    fn a_crash_never_leaves_a_partition_that_the_marker_vouches_for_and_the_catalog_has_not() {
        let (sim, root) = (SimDisk::new(1), Path::new("/copy"));
        sim.create_dir(root).unwrap();
        sim.sync_dir(Path::new("/")).unwrap();
        let name = TopicName::new("t").unwrap();
        let (id, config) = (TopicId::random().unwrap(), TopicConfig::default());
        let mut catalog = Catalog::empty(root);
        catalog.topics.insert(name.clone(), CatalogEntry { id, state: TopicState::Ready, config });
        catalog.write(&sim).unwrap();
        let tails = BTreeMap::from([("t-0".to_owned(), (0, 0))]);
        let marker = Marker { complete: true, tails };
        marker.write(&sim, root).unwrap();
        let ends = Ends::default();
        let mut target = Target { storage: &sim, root: root.to_owned(), marker, catalog, ends };
        // Deleted since it was placed.
        let source = Source { topics: Vec::new(), catalog: BTreeMap::new(), meta: Vec::new() };
        sim.record_states(true);
        target.finish(&source, &Ends::default(), BTreeMap::new(), false).unwrap();
        let (mut there, mut gone) = (0, 0);
        for state in sim.crash_points().iter().flat_map(|point| point.states(100, 1)) {
            let vouched = Marker::read(&state, root).unwrap().unwrap().tails.contains_key("t-0");
            match Catalog::read(&state, root).unwrap().topics.contains_key(&name) {
                true => there += 1,
                false => {
                    assert!(!vouched, "it would be taken for a broker's");
                    gone += 1;
                }
            }
        }
        assert!(there > 0 && gone > 0);
    }
}
