//! A topic that moves between a store and the log directory of a broker that is stopped: what both ways share.
//!
//! Invariants:
//! - The directory is locked as a broker locks it, from before anything is looked at to the end.
//! - Every batch is checked before it is copied, and nothing else is: what a broker's recovery would cut is refused.
//! - Where the copy comes from is not changed.

use std::fmt;
use std::path::{Path, PathBuf};

use super::meta;
use super::open::{LOCK, list_root, parse_dir};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Context;
use crate::record::move_to_another_cluster;
use crate::segment::{Scan, Step};
use crate::storage::{Entry, File, LockGuard, Open, Storage, read_small};
use crate::types::{Offset, TopicName};

/// Bytes that are written at once.
const PIECE_BYTES: usize = 256 * 1024;

/// What [`Store::hand_to_broker`](crate::Store::hand_to_broker) or
/// [`Store::take_from_broker`](crate::Store::take_from_broker) copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// Partitions, the empty ones among them.
    pub partitions: u32,
    /// Segments.
    pub segments: u64,
    /// Batches, each of which was checked.
    pub batches: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transfer { partitions, segments, batches, bytes } = self;
        write!(f, "{partitions} partitions, {segments} segments, {batches} batches, {bytes} bytes")
    }
}

/// The log directory of a broker that does not run, and the topic in question.
pub(super) struct Broker<'s> {
    pub(super) storage: &'s dyn Storage,
    pub(super) root: PathBuf,
    pub(super) topic: TopicName,
    _lock: Box<dyn LockGuard>,
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        // As a broker does when it stops. It goes while it is held: whoever takes it finds that its name is gone.
        let _ = self.storage.remove_file(&self.root.join(LOCK));
    }
}

impl<'s> Broker<'s> {
    /// Looks whether it is one, and locks it.
    pub(super) fn lock(context: &'s Context, dir: &Path, topic: &TopicName) -> Result<Broker<'s>> {
        let storage = context.storage.as_ref();
        let refuse = |why: &str| Err(refused(topic, dir, why));
        if topic.as_str().starts_with("__") {
            return refuse("it is one that brokers and groups keep for themselves");
        }
        let root = match storage.canonical(&super::absolute(dir)?) {
            Err(error) if error.is_not_found() => return refuse("there is no such directory"),
            root => root?,
        };
        let store = storage.canonical(&context.root)?;
        if root.starts_with(&store) {
            return refuse("that is the store itself, or lies in it");
        }
        if store.starts_with(&root) {
            return refuse(
                "the store lies in it, where a broker takes only its own directories: use another place",
            );
        }
        list_root(storage, &root)?;
        let is_formatted = read_small(storage, &root.join(meta::FILE_NAME))?.is_some_and(|text| {
            String::from_utf8_lossy(&text).lines().any(|line| line.starts_with("cluster.id="))
        });
        if !is_formatted {
            return refuse(
                "it is no broker's log.dir: it has no meta.properties with a cluster.id; format it with \
                 kafka-storage.sh",
            );
        }
        let lock = storage.lock(&root.join(LOCK))?;
        Ok(Broker { storage, root, topic: topic.clone(), _lock: lock })
    }

    /// How many partitions of the topic are there: all numbers from 0 on.
    pub(super) fn partitions(&self) -> Result<u32> {
        let entries = list_root(self.storage, &self.root)?;
        let mut found: Vec<u32> =
            entries.iter().filter_map(parse_dir).filter(|dir| dir.0 == self.topic).map(|dir| dir.1).collect();
        found.sort_unstable();
        match (0..).zip(&found).find(|(expected, found)| expected != *found) {
            Some((missing, _)) => self.refuse(format!(
                "partition {missing} is not there: all partitions must lie in this one directory, not on other \
                 brokers or disks"
            )),
            None => Ok(found.len() as u32),
        }
    }

    pub(super) fn dir(&self, partition: u32) -> PathBuf {
        self.root.join(format!("{}-{partition}", self.topic))
    }

    pub(super) fn files(&self, partition: u32) -> Result<Vec<Entry>> {
        self.storage.list(&self.dir(partition))
    }

    #[cold]
    pub(super) fn refuse<T>(&self, why: impl Into<String>) -> Result<T> {
        Err(refused(&self.topic, &self.root, why))
    }
}

#[cold]
fn refused(topic: &TopicName, path: &Path, why: impl Into<String>) -> Error {
    ErrorKind::TransferRefused { topic: topic.to_string(), path: path.to_owned(), why: why.into() }.into()
}

/// The `.log` of a segment, to be copied.
pub(super) struct Piece<'p> {
    pub(super) file: &'p dyn File,
    pub(super) path: PathBuf,
    pub(super) base: Offset,
    pub(super) len: u64,
    /// Whether its offsets follow one another without gaps.
    pub(super) contiguous: bool,
}

/// Copies the segments of one partition, one after the other.
pub(super) struct Copying<'s> {
    pub(super) broker: &'s Broker<'s>,
    /// Whether the segment that was copied last has no gaps, and so none behind it.
    pub(super) contiguous: bool,
    /// The offset that comes next; `None` in front of the first segment.
    pub(super) expected: Option<Offset>,
    pub(super) done: &'s mut Transfer,
}

impl Copying<'_> {
    /// Copies all batches of a segment into a new file, whole and synced; its name is not synced.
    pub(super) fn segment(&mut self, from: &Piece<'_>, to: &Path) -> Result<()> {
        if self.contiguous && self.expected.is_some_and(|expected| expected != from.base) {
            return self.damaged(from, 0, "records in front of it are missing");
        }
        let mut floor = self.expected.unwrap_or(from.base).max(from.base);
        let file = self.broker.storage.open(to, Open::Truncate)?;
        let mut scan = Scan::new(from.file, 0, from.len).of_broker(from.base);
        let (mut out, mut written) = (Vec::new(), 0);
        loop {
            let (position, header) = match scan.next(true)? {
                Step::Batch { position, header } => (position, header),
                Step::End => break,
                Step::Bad { position, why } => return self.damaged(from, position, why),
            };
            let first = if header.is_legacy() { header.last_offset() } else { header.base_offset };
            if first < floor || (from.contiguous && first != floor) {
                return self.damaged(from, position, "its offset does not follow the one in front of it");
            }
            floor = header.next_offset();
            let at = out.len();
            out.extend_from_slice(scan.batch(position, &header)?);
            move_to_another_cluster(out.get_mut(at..).unwrap_or_default(), &header);
            self.done.batches += 1;
            if out.len() >= PIECE_BYTES {
                file.write_at(&out, written)?;
                written += out.len() as u64;
                out.clear();
            }
        }
        file.write_at(&out, written)?;
        file.sync_data()?;
        self.done.segments += 1;
        self.done.bytes += from.len;
        (self.expected, self.contiguous) = (Some(floor), from.contiguous);
        Ok(())
    }

    #[cold]
    fn damaged<T>(&self, from: &Piece<'_>, position: u64, why: impl fmt::Display) -> Result<T> {
        let file = from.path.display();
        self.broker.refuse(format!(
            "{file} is damaged at byte {position}: {why}; a broker would cut the log there: restore the file from a \
             backup first"
        ))
    }
}
