//! `logstead-producers`: the ids of producers that have a name, which outlive the program.
//!
//! One text file in the store's root, replaced as a whole, its last line a CRC-32 of the lines before. A line is a
//! name, its id, the epoch given out last, and the ids that it had before, youngest first:
//! ```text
//! logstead-producers 1
//! import 4107553126871306240 3
//! crc32 0a1b2c3d
//! ```
//!
//! Invariants:
//! - An id and epoch is given out once, and only when the file says so, durably.
//! - What a name's ids wrote stays known while it has the name, by the file: they do not expire.
//! - Who asks about names, with a log's producers locked, never waits for the file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Storage, check_sum, read_small, replace_summed};
use crate::sync::Mutex;

pub(crate) const FILE_NAME: &str = "logstead-producers";

const VERSION_LINE: &str = "logstead-producers 1";

/// Under what a producer writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
    /// The ids that its name had before, youngest first.
    before: Vec<i64>,
}

impl Identity {
    /// A new one, by chance: nothing need be remembered for it to be the only one of its kind. Of 2^62 ids two of a
    /// million producers are the same with a probability of 1 in 10 million; and Kafka, which counts from 0, takes none
    /// of them.
    pub(crate) fn random() -> Result<Self> {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Error::io(Path::new("getrandom"), "read", &error.into()))?;
        let id = i64::from_ne_bytes(bytes) & (i64::MAX >> 1) | 1 << 62;
        Ok(Identity { id, epoch: 0, before: Vec::new() })
    }

    /// All ids that it wrote under, youngest first.
    pub(crate) fn ids(&self) -> Vec<i64> {
        [&[self.id], self.before.as_slice()].concat()
    }

    fn has(&self, id: i64) -> bool {
        self.id == id || self.before.contains(&id)
    }

    /// The one that comes next under the same name.
    fn next(&self) -> Result<Self> {
        match self.epoch.checked_add(1) {
            Some(epoch) => Ok(Identity { epoch, ..self.clone() }),
            None => Ok(Identity { before: self.ids(), ..Identity::random()? }),
        }
    }
}

/// The names of a store, as the file has them.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Taken first, by who changes the file.
    writing: Mutex<()>,
    known: Mutex<BTreeMap<String, Identity>>,
}

impl Names {
    /// Reads the file; an absent one is no names.
    pub(crate) fn read(&self, storage: &dyn Storage, root: &Path) -> Result<()> {
        let path = root.join(FILE_NAME);
        let Some(bytes) = read_small(storage, &path)? else { return Ok(()) };
        let names = parse(&bytes).map_err(|why| Error::from(ErrorKind::BadFile { file: path, why }))?;
        *self.known.lock() = names;
        Ok(())
    }

    /// The next epoch of a name, durably.
    pub(crate) fn claim(&self, storage: &dyn Storage, root: &Path, name: &str) -> Result<Identity> {
        let _writing = self.writing.lock();
        let (next, text) = {
            let mut names = self.known.lock();
            let next = match names.get(name) {
                Some(known) => known.next()?,
                None => Identity::random()?,
            };
            // If the write fails it may have been made all the same: the epoch is not given out again.
            names.insert(name.to_owned(), next.clone());
            (next, text(&names))
        };
        replace_summed(storage, &root.join(FILE_NAME), text)?;
        Ok(next)
    }

    /// What was given out last under a name.
    pub(crate) fn newest(&self, name: &str) -> Option<Identity> {
        self.known.lock().get(name).cloned()
    }

    /// Forgets a name; whether there was one.
    pub(crate) fn forget(&self, storage: &dyn Storage, root: &Path, name: &str) -> Result<bool> {
        let _writing = self.writing.lock();
        let mut others = self.known.lock().clone();
        if others.remove(name).is_none() {
            return Ok(false);
        }
        replace_summed(storage, &root.join(FILE_NAME), text(&others))?;
        *self.known.lock() = others;
        Ok(true)
    }

    /// Writes them to another root, where there are any.
    pub(crate) fn copy(&self, storage: &dyn Storage, root: &Path) -> Result<()> {
        let names = self.known.lock().clone();
        let path: PathBuf = root.join(FILE_NAME);
        let there = read_small(storage, &path)?.and_then(|bytes| parse(&bytes).ok()).unwrap_or_default();
        if names == there { Ok(()) } else { replace_summed(storage, &path, text(&names)) }
    }

    /// Whether a name writes, or wrote, under this id.
    pub(crate) fn is_named(&self, id: i64) -> bool {
        self.known.lock().values().any(|identity| identity.has(id))
    }

    pub(crate) fn name_of(&self, id: i64) -> Option<String> {
        let names = self.known.lock();
        names.iter().find(|(_, identity)| identity.has(id)).map(|(name, _)| name.clone())
    }
}

fn text(names: &BTreeMap<String, Identity>) -> String {
    let mut text = format!("{VERSION_LINE}\n");
    for (name, identity) in names {
        // Writing to a String can not fail.
        let _ = write!(text, "{name} {} {}", identity.id, identity.epoch);
        for id in &identity.before {
            let _ = write!(text, " {id}");
        }
        text.push('\n');
    }
    text
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Identity>, String> {
    let mut lines = check_sum(bytes)?.lines();
    if lines.next() != Some(VERSION_LINE) {
        return Err("it is of a version this crate does not know".to_owned());
    }
    lines.map(|line| parse_line(line).ok_or_else(|| format!("{line:?} is not a producer"))).collect()
}

fn parse_line(line: &str) -> Option<(String, Identity)> {
    let mut words = line.split(' ');
    let name = words.next().filter(|name| is_name(name))?.to_owned();
    let id = words.next()?.parse().ok().filter(|id| *id >= 0)?;
    let epoch = words.next()?.parse().ok().filter(|epoch| *epoch >= 0)?;
    let before = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    Some((name, Identity { id, epoch, before }))
}

/// Whether a producer may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    crate::types::TopicName::new(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimDisk;

    #[test]
    fn a_name_keeps_its_id_and_gets_a_new_epoch_each_time() {
        let (disk, root) = (SimDisk::in_memory(), Path::new("/s"));
        disk.create_dir(root).unwrap();
        let claim = |name: &str| {
            let names = Names::default();
            names.read(&disk, root).unwrap();
            names.claim(&disk, root, name).unwrap()
        };
        let (first, other, second) = (claim("import"), claim("other"), claim("import"));
        assert_ne!(first.id, other.id);
        assert_eq!((second.id, second.epoch), (first.id, 1));
        let names = Names::default();
        names.read(&disk, root).unwrap();
        assert_eq!(names.name_of(first.id).as_deref(), Some("import"));
        assert!(names.forget(&disk, root, "import").unwrap() && !names.is_named(first.id));
        assert_ne!(claim("import").id, first.id);
    }

    #[test]
    fn who_asks_about_names_does_not_wait_for_one_that_is_being_claimed() {
        let (disk, root) = (SimDisk::in_memory(), Path::new("/s"));
        disk.create_dir(root).unwrap();
        let names = Names::default();
        let known = names.claim(&disk, root, "import").unwrap();
        let _claiming = names.writing.lock();
        assert!(names.is_named(known.id) && !names.is_named(7));
        assert_eq!(names.name_of(known.id).as_deref(), Some("import"));
    }

    #[test]
    fn a_name_that_could_not_be_forgotten_is_known_on() {
        let (disk, root) = (SimDisk::in_memory(), Path::new("/s"));
        disk.create_dir(root).unwrap();
        let names = Names::default();
        let known = names.claim(&disk, root, "import").unwrap();
        disk.set_capacity(Some(0));
        names.forget(&disk, root, "import").unwrap_err();
        assert!(names.is_named(known.id));
    }

    #[test]
    fn when_its_epochs_are_used_up_a_name_gets_another_id_and_knows_the_one_before() {
        let (disk, root) = (SimDisk::in_memory(), Path::new("/s"));
        disk.create_dir(root).unwrap();
        let last = format!("{VERSION_LINE}\nimport 7 32767 3\n");
        replace_summed(&disk, &root.join(FILE_NAME), last).unwrap();
        let names = Names::default();
        names.read(&disk, root).unwrap();
        let next = names.claim(&disk, root, "import").unwrap();
        assert_eq!((next.epoch, &next.ids()[1..]), (0, [7, 3].as_slice()));
        let again = Names::default();
        again.read(&disk, root).unwrap();
        assert!([next.id, 7, 3].iter().all(|id| again.is_named(*id)));
    }

    #[test]
    fn a_flipped_byte_is_seen() {
        let (disk, root) = (SimDisk::in_memory(), Path::new("/s"));
        disk.create_dir(root).unwrap();
        Names::default().claim(&disk, root, "import").unwrap();
        let path = root.join(FILE_NAME);
        let good = disk.read_file(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            disk.write_file(&path, &bytes).unwrap();
            assert!(Names::default().read(&disk, root).is_err(), "byte {at}");
        }
    }
}
