//! `logstead-topics`: the topics this crate made and their settings; what a Kafka cluster keeps in its metadata log.
//!
//! One text file in the store's root, replaced as a whole, its last line a CRC-32 of the lines before:
//! ```text
//! logstead-topics 1
//! orders S44MOp8dTieKVhwtPk9aaw ready num.partitions=4 segment.bytes=1073741824 …
//! crc32 0a1b2c3d
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::config::TopicConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Storage, check_sum, read_small, replace_summed};
use crate::types::TopicName;

pub(crate) const FILE_NAME: &str = "logstead-topics";

const VERSION_LINE: &str = "logstead-topics 1";

/// A topic's id, as Kafka writes it in `partition.metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicId([u8; 16]);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl TopicId {
    /// A random one (version 4), whose text does not start with a dash.
    pub(crate) fn random() -> Result<Self> {
        loop {
            let mut bytes = [0; 16];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
                .map_err(|error| Error::io(Path::new("getrandom"), "read", &error.into()))?;
            bytes[6] = (bytes[6] & 0x0f) | 0x40;
            bytes[8] = (bytes[8] & 0x3f) | 0x80;
            let id = TopicId(bytes);
            if !id.to_string().starts_with('-') {
                return Ok(id);
            }
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bits = 0_u128;
        if text.len() != 22 {
            return None;
        }
        for (i, c) in text.bytes().enumerate() {
            let six = ALPHABET.iter().position(|a| *a == c)? as u128;
            // 22 characters carry 132 bits: the last four are none of the id's.
            bits = if i < 21 { bits << 6 | six } else { bits << 2 | six >> 4 };
        }
        Some(TopicId(bits.to_be_bytes()))
    }

    /// Reads the text of `partition.metadata`.
    pub(crate) fn of_metadata(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        text.lines().find_map(|line| Self::parse(line.strip_prefix("topic_id:")?.trim()))
    }

    /// 32 hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// The text of `partition.metadata`.
    pub(crate) fn metadata(&self) -> String {
        format!("version: 0\ntopic_id: {self}")
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for i in 0..22 {
            let six = if i < 21 { bits >> (122 - 6 * i) } else { bits << 4 } & 63;
            f.write_char(ALPHABET.get(six as usize).copied().unwrap_or(b'A').into())?;
        }
        Ok(())
    }
}

/// How far a topic is made, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicState {
    /// Opening the store makes the directories that are missing.
    Creating,
    Ready,
    /// Made by a broker: only the settings are ours.
    Foreign,
    /// Opening the store removes the directories that are left.
    Deleting,
}

impl TopicState {
    const WORDS: [(TopicState, &'static str); 4] = [
        (TopicState::Creating, "creating"),
        (TopicState::Ready, "ready"),
        (TopicState::Foreign, "foreign"),
        (TopicState::Deleting, "deleting"),
    ];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(state, _)| *state == self).map_or("", |(_, word)| word)
    }

    fn parse(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(_, known)| *known == word).map(|(state, _)| *state)
    }
}

/// One line of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogEntry {
    pub(crate) id: TopicId,
    pub(crate) state: TopicState,
    pub(crate) config: TopicConfig,
}

/// The file, as read and as it will be written next.
#[derive(Debug)]
pub(crate) struct Catalog {
    path: PathBuf,
    pub(crate) topics: BTreeMap<TopicName, CatalogEntry>,
}

impl Catalog {
    /// A catalog without topics.
    pub(crate) fn empty(root: &Path) -> Self {
        Catalog { path: root.join(FILE_NAME), topics: BTreeMap::new() }
    }

    /// Reads the catalog of a store's root; an absent file is an empty catalog. One of a later version is no damage: it
    /// is refused with [`ErrorKind::NotAStore`], and stays what it is.
    pub(crate) fn read(storage: &dyn Storage, root: &Path) -> Result<Self> {
        let path = root.join(FILE_NAME);
        let mut topics = BTreeMap::new();
        if let Some(bytes) = read_small(storage, &path)? {
            let text = check_sum(&bytes).map_err(|why| {
                let (file, why) = (path.clone(), why.to_owned());
                Error::from(ErrorKind::BadFile { file, why })
            })?;
            parse(text, &mut topics).map_err(|line| {
                let why = format!(
                    "its {FILE_NAME} says {line:?}, which this version of logstead does not know: open it with the one that wrote it"
                );
                Error::from(ErrorKind::NotAStore { path: root.to_owned(), why })
            })?;
        }
        Ok(Catalog { path, topics })
    }

    /// Replaces the file by what is in memory.
    pub(crate) fn write(&self, storage: &dyn Storage) -> Result<()> {
        let mut text = format!("{VERSION_LINE}\n");
        for (name, entry) in &self.topics {
            // Writing to a String can not fail.
            let _ = write!(text, "{name} {} {}", entry.id, entry.state.word());
            for (property, value) in entry.config.properties() {
                let _ = write!(text, " {property}={value}");
            }
            text.push('\n');
        }
        replace_summed(storage, &self.path, text)
    }
}

/// The error is the line that means nothing here. The checksum is right, so it is what somebody wrote.
fn parse<'t>(text: &'t str, topics: &mut BTreeMap<TopicName, CatalogEntry>) -> Result<(), &'t str> {
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default();
    if version != VERSION_LINE {
        return Err(version);
    }
    for line in lines {
        let (name, entry) = parse_line(line).ok_or(line)?;
        topics.insert(name, entry);
    }
    Ok(())
}

fn parse_line(line: &str) -> Option<(TopicName, CatalogEntry)> {
    let mut words = line.split(' ');
    let name = TopicName::new(words.next()?).ok()?;
    let id = TopicId::parse(words.next()?)?;
    let state = TopicState::parse(words.next()?)?;
    // A line of a version that deleted nothing: nothing is deleted before somebody says so. All others name it.
    let mut config = TopicConfig::default().retention_ms(None);
    for word in words {
        let (property, value) = word.split_once('=')?;
        config.set(property, value).ok()?;
    }
    config.validate().ok()?;
    Some((name, CatalogEntry { id, state, config }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimDisk;

    #[test]
    fn an_id_has_kafkas_text() {
        let bytes = 0x4b8e_0c3a_9f1d_4e27_8a56_1c2d_3e4f_5a6b_u128.to_be_bytes();
        assert_eq!(TopicId(bytes).to_string(), "S44MOp8dTieKVhwtPk9aaw");
        assert_eq!(TopicId::parse("S44MOp8dTieKVhwtPk9aaw"), Some(TopicId(bytes)));
        assert_eq!(TopicId::parse("S44MOp8dTieKVhwtPk9aa!"), None);
        assert_eq!(TopicId::parse("S44M"), None);
        for _ in 0..100 {
            let id = TopicId::random().unwrap();
            assert_eq!(TopicId::parse(&id.to_string()), Some(id));
            assert!(!id.to_string().starts_with('-'));
        }
    }

    #[test]
    fn a_catalog_round_trips_and_a_flipped_byte_is_seen() {
        let disk = SimDisk::in_memory();
        let root = Path::new("/s");
        disk.create_dir(root).unwrap();
        let mut catalog = Catalog::read(&disk, root).unwrap();
        assert!(catalog.topics.is_empty());
        for (name, (state, _)) in ["orders", "a.b-c", "x", "y"].into_iter().zip(TopicState::WORDS) {
            let config = TopicConfig::default().partitions(3);
            let entry = CatalogEntry { id: TopicId::random().unwrap(), state, config };
            catalog.topics.insert(TopicName::new(name).unwrap(), entry);
        }
        catalog.write(&disk).unwrap();
        assert_eq!(Catalog::read(&disk, root).unwrap().topics, catalog.topics);

        let path = root.join(FILE_NAME);
        let good = disk.read_file(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            disk.write_file(&path, &bytes).unwrap();
            assert!(Catalog::read(&disk, root).is_err(), "byte {at}");
        }
    }
}
