//! What one partition of `__consumer_offsets` says: its committed records, replayed into memory.
//!
//! Invariants:
//! - The log is the truth: nothing comes in here but what was read from below the high watermark, in its order.
//! - What a transaction wrote counts from its commit marker on, and never if it was aborted.
//! - Damage is remembered: of an offset whose last record may lie in it nobody is told an older value, or none. A
//!   record that is whole and names no group is no damage: it is nobody's.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;

use super::codec::{GroupValue, Key, Malformed, OffsetValue};
use crate::error::{ErrorKind, Result};
use crate::log::{Log, ReadOptions, Records};
use crate::record::ControlType;
use crate::sync::{Arc, Weak};
use crate::types::Offset;

/// One committed offset, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    at: Offset,
    value: std::result::Result<OffsetValue, Malformed>,
}

/// What was last written about a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    at: Offset,
    pub(super) generation: i32,
    /// Since when it is in its state; -1: not known.
    pub(super) state_ms: i64,
    /// It was an ordinary consumer group, and not one that only keeps offsets.
    pub(super) has_type: bool,
    pub(super) members: usize,
}

/// All that is written about one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupOffsets {
    pub(super) topics: BTreeMap<Arc<str>, BTreeMap<i32, Entry>>,
    pub(super) listed: Option<Listed>,
}

impl GroupOffsets {
    fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.listed.is_none()
    }

    /// All offsets that can be read, by topic and partition.
    pub(super) fn offsets(&self) -> impl Iterator<Item = (&Arc<str>, i32, &OffsetValue)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .filter_map(move |(partition, entry)| Some((topic, *partition, entry.value.as_ref().ok()?)))
        })
    }

    /// The partitions of a topic that it has offsets of, readable or not.
    pub(super) fn partitions(&self, topic: &str) -> impl Iterator<Item = i32> {
        self.topics.get(topic).into_iter().flat_map(|partitions| partitions.keys().copied())
    }
}

/// Offsets of the log that could not be read.
#[derive(Clone, Debug)]
struct Damage {
    file: PathBuf,
    position: u64,
    offsets: Range<Offset>,
}

/// A record that waits for its transaction to end.
type Pending = (Offset, Option<Vec<u8>>, Option<Vec<u8>>);

/// One partition of the topic.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// A log that is opened anew is read anew.
    log: Weak<Log>,
    next: Offset,
    pub(super) groups: BTreeMap<Arc<str>, GroupOffsets>,
    damage: Vec<Damage>,
    /// By producer.
    pending: HashMap<i64, Vec<Pending>>,
}

impl Replay {
    /// Takes up what was committed since.
    pub(super) fn catch_up(&mut self, log: &Arc<Log>) -> Result<()> {
        if !self.is_of(log) {
            *self = Replay { log: Arc::downgrade(log), ..Replay::default() };
        }
        loop {
            self.next = self.next.max(log.log_start());
            if self.next >= log.high_watermark() {
                return Ok(());
            }
            match log.read(self.next, ReadOptions::max_bytes(READ_BYTES)) {
                Ok(records) => {
                    self.take(&records);
                    let Some(next) = records.next_offset() else { return Ok(()) };
                    self.next = next;
                }
                Err(error) => {
                    let ErrorKind::Corrupt { file, position, offsets, resume_at, .. } = error.kind() else {
                        return Err(error);
                    };
                    let (file, offsets) = (file.clone(), offsets.clone());
                    self.damage.push(Damage { file, position: *position, offsets });
                    self.next = (*resume_at).max(self.next + 1);
                }
            }
        }
    }

    pub(super) fn is_of(&self, log: &Arc<Log>) -> bool {
        std::ptr::eq(self.log.as_ptr(), Arc::as_ptr(log)) && self.log.strong_count() > 0
    }

    /// Everything below this was taken up.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    pub(super) fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }

    fn take(&mut self, records: &Records) {
        for batch in records.batches() {
            match batch.control_type() {
                Some(ControlType::Commit) => {
                    for (at, key, value) in self.pending.remove(&batch.producer_id()).unwrap_or_default() {
                        self.apply(at, key.as_deref(), value.as_deref());
                    }
                }
                Some(ControlType::Abort) => {
                    self.pending.remove(&batch.producer_id());
                }
                Some(_) => {}
                None if batch.is_transactional() => {
                    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                    let pending = self.pending.entry(batch.producer_id()).or_default();
                    let records = batch.records();
                    pending.extend(records.map(|r| (r.offset(), owned(r.key()), owned(r.value()))));
                }
                None => {
                    batch.records().for_each(|record| {
                        self.apply(record.offset(), record.key(), record.value());
                    });
                }
            }
        }
    }

    /// One record. Of two about the same the later one counts, whichever comes here first.
    fn apply(&mut self, at: Offset, key: Option<&[u8]>, value: Option<&[u8]>) {
        match key.map(Key::decode) {
            Some(Ok(Key::Offset { group, topic, partition })) => {
                let partitions = entry(&mut self.group(&group).topics, &topic);
                if partitions.get(&partition).is_none_or(|entry| entry.at < at) {
                    match value {
                        Some(value) => {
                            partitions.insert(partition, Entry { at, value: OffsetValue::decode(value) });
                        }
                        None => {
                            partitions.remove(&partition);
                        }
                    }
                }
                if partitions.is_empty() {
                    self.group(&group).topics.remove(topic.as_str());
                    self.drop_if_empty(&group);
                }
            }
            Some(Ok(Key::Group { group })) => {
                let known = self.group(&group);
                if known.listed.as_ref().is_none_or(|listed| listed.at < at) {
                    // What can not be read says nothing; no offset is lost by that.
                    let value = value.and_then(|value| GroupValue::decode(value).ok());
                    known.listed = value.map(|value| Listed {
                        at,
                        generation: value.generation,
                        state_ms: value.state_ms,
                        has_type: !value.protocol_type.is_empty(),
                        members: value.members.len(),
                    });
                }
                self.drop_if_empty(&group);
            }
            // Of kinds that are not known here: others may know them (N23). And whole records whose key is none: no
            // offset is ever written under such a key.
            Some(Ok(Key::Other(_)) | Err(_)) | None => {}
        }
    }

    fn group(&mut self, id: &str) -> &mut GroupOffsets {
        entry(&mut self.groups, id)
    }

    fn drop_if_empty(&mut self, id: &str) {
        if self.groups.get(id).is_some_and(GroupOffsets::is_empty) {
            self.groups.remove(id);
        }
    }

    /// What a group committed of a partition.
    pub(super) fn committed(&self, group: &str, topic: &str, partition: i32) -> Result<Option<&OffsetValue>> {
        let entry = self.groups.get(group).and_then(|group| group.topics.get(topic)?.get(&partition));
        let damaged = |file: PathBuf, position, why: String| {
            let (group, topic) = (group.to_owned(), topic.to_owned());
            Err(ErrorKind::OffsetsDamaged { group, topic, partition, file, position, why }.into())
        };
        let newer = |damage: &&Damage| entry.is_none_or(|entry| entry.at < damage.offsets.start);
        if let Some(damage) = self.damage.iter().rfind(newer) {
            let why = format!("offsets {}..{} can not be read", damage.offsets.start, damage.offsets.end);
            return damaged(damage.file.clone(), damage.position, why);
        }
        match entry {
            None => Ok(None),
            Some(Entry { value: Ok(value), .. }) => Ok(Some(value)),
            Some(Entry { at, value: Err(why) }) => {
                damaged(PathBuf::from(super::OFFSETS_TOPIC), 0, format!("the record at offset {at}: {why}"))
            }
        }
    }
}

/// The value of a name, made when it is new.
fn entry<'m, T: Default>(map: &'m mut BTreeMap<Arc<str>, T>, name: &str) -> &'m mut T {
    map.entry(name.into()).or_default()
}

/// How much is read at once.
const READ_BYTES: usize = 256 * 1024;
