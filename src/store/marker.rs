//! `logstead-checkpoint`: says that a directory is a checkpoint of a store, how far it is one, and that nobody has
//! opened it for writing since.
//!
//! One text file in the root, replaced as a whole, its last line a CRC-32 of the lines before:
//! ```text
//! logstead-checkpoint 1
//! complete
//! orders-0 1500 4158
//! crc32 0a1b2c3d
//! ```
//! A line for each partition: the base of its last segment, and the bytes of it that are known to be right.
//!
//! Invariants:
//! - While it says `incomplete` the directory is no store.
//! - A partition's directory that neither it nor the catalog knows was begun by a checkpoint that was interrupted.
//! - Whoever opens the directory for writing makes it a store of its own first: another `directory.id`, no marker. Then
//!   no later checkpoint can be taken for its sequel.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::meta;
use super::open::remove_partition_dir;
use crate::error::{ErrorKind, Result};
use crate::storage::{Storage, check_sum, read_small, replace, replace_summed};
use crate::topic::catalog::{Catalog, TopicId, TopicState};
use crate::types::{Offset, TopicName};

pub(super) const FILE_NAME: &str = "logstead-checkpoint";

const VERSION_LINE: &str = "logstead-checkpoint 1";

/// The base of a partition's last segment, and the bytes of it that are known to be right.
pub(super) type Tail = (Offset, u64);

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) complete: bool,
    /// By the name of the partition's directory.
    pub(super) tails: BTreeMap<String, Tail>,
}

impl Marker {
    pub(super) fn read(storage: &dyn Storage, root: &Path) -> Result<Option<Marker>> {
        let path = root.join(FILE_NAME);
        let Some(bytes) = read_small(storage, &path)? else { return Ok(None) };
        match parse(&bytes) {
            Some(marker) => Ok(Some(marker)),
            None => {
                let why = "it is damaged, or of a later version".to_owned();
                Err(ErrorKind::BadFile { file: path, why }.into())
            }
        }
    }

    pub(super) fn write(&self, storage: &dyn Storage, root: &Path) -> Result<()> {
        let state = if self.complete { "complete" } else { "incomplete" };
        let mut text = format!("{VERSION_LINE}\n{state}\n");
        for (dir, (base, bytes)) in &self.tails {
            // Writing to a String can not fail.
            let _ = writeln!(text, "{dir} {base} {bytes}");
        }
        replace_summed(storage, &root.join(FILE_NAME), text)
    }

    /// Whether a partition's directory was begun and never finished.
    pub(super) fn is_leftover(&self, catalog: &Catalog, topic: &TopicName, partition: u32) -> bool {
        // Of a broker's topic the directories say which partitions there are.
        let in_catalog = catalog
            .topics
            .get(topic)
            .is_some_and(|entry| entry.state != TopicState::Foreign && partition < entry.config.partitions);
        !in_catalog && !self.tails.contains_key(&format!("{topic}-{partition}"))
    }
}

fn parse(bytes: &[u8]) -> Option<Marker> {
    let mut lines = check_sum(bytes).ok()?.lines();
    if lines.next() != Some(VERSION_LINE) {
        return None;
    }
    let complete = match lines.next()? {
        "complete" => true,
        "incomplete" => false,
        _ => return None,
    };
    let mut tails = BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ');
        let (dir, base, bytes) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        tails.insert(dir.to_owned(), (base, bytes));
    }
    Some(Marker { complete, tails })
}

/// Makes a checkpoint a store of its own, durably, before it is written to.
pub(super) fn adopt(storage: &dyn Storage, root: &Path, leftovers: &[PathBuf]) -> Result<()> {
    for dir in leftovers {
        remove_partition_dir(storage, dir).1?;
    }
    let path = root.join(meta::FILE_NAME);
    let text = read_small(storage, &path)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("directory.id=")).collect();
    let id = format!("directory.id={}", TopicId::random()?);
    lines.push(&id);
    replace(storage, &path, (lines.join("\n") + "\n").as_bytes())?;
    storage.remove_file(&root.join(FILE_NAME))?;
    storage.sync_dir(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimDisk;

    #[test]
    fn a_marker_round_trips_and_every_flipped_byte_is_seen() {
        let disk = SimDisk::in_memory();
        let root = Path::new("/s");
        disk.create_dir(root).unwrap();
        assert_eq!(Marker::read(&disk, root).unwrap(), None);
        for complete in [false, true] {
            let tails =
                BTreeMap::from([("orders-0".to_owned(), (1500, 4158)), ("a-b-12".to_owned(), (0, 0))]);
            let marker = Marker { complete, tails };
            marker.write(&disk, root).unwrap();
            assert_eq!(Marker::read(&disk, root).unwrap(), Some(marker));
        }
        let path = root.join(FILE_NAME);
        let good = disk.read_file(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            disk.write_file(&path, &bytes).unwrap();
            assert!(Marker::read(&disk, root).is_err(), "byte {at}");
        }
    }
}
