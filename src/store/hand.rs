//! A topic that is handed to a broker: copied into the log directory of one that is stopped, in the place of the empty
//! topic that it made.
//!
//! Invariants:
//! - A broker that is started at any moment, whatever was interrupted, serves of each partition all or nothing: the
//!   files are exchanged by Kafka's own swap protocol, which its start finishes or takes back.
//! - Nothing that holds a record is removed there.
//! - What the broker believed of the empty partitions is gone before the first file is in place.

use std::path::Path;

use super::broker::{Broker, Copying, Piece, Transfer};
use super::open::CLEAN_SHUTDOWN;
use super::place::METADATA;
use super::{Shared, Store};
use crate::config::IsolationLevel;
use crate::error::Result;
use crate::log::callback;
use crate::log::checkpoint::{
    HIGH_WATERMARKS, LEADER_EPOCHS, LOG_STARTS, Offsets, RECOVERY_POINTS, epochs_text, read_offsets,
    write_offsets,
};
use crate::log::{Log, Moment};
use crate::segment::Segment;
use crate::segment::name::{self, SegmentFile};
use crate::storage::{EntryKind, Open, write_new};
use crate::sync::Arc;
use crate::topic::TopicInner;
use crate::topic::catalog::{Catalog, TopicState};
use crate::types::Offset;

/// Kafka's names of files that have no content yet, and of such that are whole.
const CLEANED: &str = ".cleaned";
const SWAP: &str = ".swap";

/// How far the log cleaner came; per partition.
const CLEANED_TO: &str = "cleaner-offset-checkpoint";

impl Store {
    /// Copies a topic into the log directory of a Kafka broker, which serves it from its next start on: the same
    /// records, offsets, timestamps and headers.
    ///
    /// What to do before and after, command by command, is in the guide [`kafka`](crate::guide::kafka). In short: make
    /// the topic on the broker, with as many partitions and `retention.ms=-1`; stop the broker; call this; start it.
    ///
    /// The copy ends where each partition ended when it was looked at, synced. The store keeps the topic: stop writing
    /// to it before. Two things are numbered anew, as each cluster counts them for itself: leader epochs begin at 0,
    /// and producer ids of idempotent producers get a bit that no cluster reaches. The broker then recovers the
    /// partitions, as after a crash, which reads all of the copied bytes once more.
    ///
    /// Nothing is lost silently: it is refused what the broker would not serve as it is here.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path();
    /// use logstead::{Record, Store, TopicConfig};
    ///
    /// # let broker = Store::open(dir.join("kafka-data"))?;
    /// # broker.create_topic("orders", TopicConfig::default().partitions(4))?;
    /// # broker.close()?;
    /// # std::fs::remove_file(dir.join("kafka-data/logstead-topics")).unwrap();
    /// let store = Store::open(dir.join("data"))?;
    /// store.create_topic("orders", TopicConfig::default().partitions(4))?;
    /// store.producer()?.send(Record::to("orders").key("alice").value("2 apples"))?.wait()?;
    ///
    /// // The broker made an empty topic "orders" of four partitions, and was stopped.
    /// let copied = store.hand_to_broker("orders", dir.join("kafka-data"))?;
    /// assert_eq!((copied.partitions, copied.batches), (4, 1));
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::TransferRefused`](crate::ErrorKind::TransferRefused), and nothing was changed: the directory is no
    /// broker's; the topic is not there, has another number of partitions, or held records; a batch here is damaged; a
    /// transaction is open. [`ErrorKind::Locked`](crate::ErrorKind::Locked): the broker runs.
    /// [`ErrorKind::UnknownTopic`](crate::ErrorKind::UnknownTopic); [`ErrorKind::Full`](crate::ErrorKind::Full).
    pub fn hand_to_broker(&self, topic: &str, log_dir: impl AsRef<Path>) -> Result<Transfer> {
        self.shared().hand_to_broker(topic, log_dir.as_ref())
    }
}

/// What was put beside the broker's files of one partition.
struct Prepared {
    partition: u32,
    /// The bases of its segments, rising.
    bases: Vec<Offset>,
    /// The first offset, and whether it lies inside a segment.
    start: Offset,
    inside: bool,
}

impl Shared {
    fn hand_to_broker(&self, topic: &str, dir: &Path) -> Result<Transfer> {
        callback::check_outside("Store::hand_to_broker")?;
        self.check_writable()?;
        let topic = self.topics.get(topic)?;
        let broker = Broker::lock(&self.context, dir, &topic.name)?;
        broker.expects(&topic)?;
        let mut done = Transfer { partitions: topic.partitions(), ..Transfer::default() };
        let prepared = broker.prepare(&topic, &mut done);
        if prepared.is_err() {
            broker.take_back(topic.partitions());
        }
        broker.exchange(&prepared?)?;
        Ok(done)
    }
}

impl Broker<'_> {
    /// Refuses what is not the empty topic that this one shall be.
    fn expects(&self, topic: &TopicInner) -> Result<()> {
        let (there, here) = (self.partitions()?, topic.partitions());
        if there == 0 {
            return self.refuse(format!(
                "the broker has no such topic: start it, make the topic with {here} partitions, stop it"
            ));
        }
        if there != here {
            return self.refuse(format!(
                "it has {there} partitions there and {here} here: delete it there, and make it with {here}"
            ));
        }
        let ours = Catalog::read(self.storage, &self.root)?;
        if ours.topics.get(&topic.name).is_some_and(|entry| entry.state == TopicState::Ready) {
            return self.refuse("it is a topic of another store, not of a broker: use Store::checkpoint");
        }
        for partition in 0..there {
            self.expects_empty(partition)?;
        }
        Ok(())
    }

    fn expects_empty(&self, partition: u32) -> Result<()> {
        let files = self.files(partition)?;
        let name = format!("{}-{partition}", self.topic);
        if !files.iter().any(|file| file.name == METADATA) {
            return self.refuse(format!(
                "{name} has no {METADATA}, and the broker would set it aside: start the broker once, and stop it"
            ));
        }
        for file in &files {
            let held = match SegmentFile::parse(&file.name) {
                Some(SegmentFile::Log(base)) => base != 0 || file.len > 0,
                Some(SegmentFile::Swap) => true,
                _ => false,
            };
            if held {
                return self.refuse(format!(
                    "{name} holds, or held, records there ({}): delete the topic on the broker, make it anew",
                    file.name
                ));
            }
        }
        Ok(())
    }

    /// Copies all partitions, under names that the broker throws away when it starts.
    fn prepare(&self, topic: &TopicInner, done: &mut Transfer) -> Result<Vec<Prepared>> {
        (0..topic.partitions())
            .map(|partition| {
                let log = topic.log(i32::try_from(partition).unwrap_or(i32::MAX))?;
                self.prepare_one(&log, partition, done)
            })
            .collect()
    }

    fn prepare_one(&self, log: &Arc<Log>, partition: u32, done: &mut Transfer) -> Result<Prepared> {
        let moment = log.moment()?;
        let stable = log.read_end(IsolationLevel::ReadCommitted)?;
        if stable < moment.end {
            return self.refuse(format!(
                "{}-{partition} has a transaction that is open since offset {stable}, which no broker could end: commit \
                 or abort it first",
                self.topic
            ));
        }
        let dir = self.dir(partition);
        let Moment { sealed, last, position, log_start, .. } = &moment;
        // Where segments were compacted offsets jump.
        let contiguous = log.is_contiguous() && sealed.iter().all(|segment| segment.is_contiguous());
        let mut copying = Copying { broker: self, contiguous, expected: None, done };
        let mut bases = Vec::new();
        let each = sealed.iter().map(|segment| (segment, segment.written())).chain([(last, *position)]);
        for (segment, len) in each {
            copying.segment(&piece(segment, len)?, &dir.join(name::log(segment.base()) + CLEANED))?;
            bases.push(segment.base());
        }
        self.storage.sync_dir(&dir)?;
        let first = bases.first().copied().unwrap_or_default();
        let start = first.max(*log_start);
        Ok(Prepared { partition, bases, start, inside: start > first })
    }

    /// Removes what [`Broker::prepare`] made, as far as that goes: the broker does it too.
    fn take_back(&self, partitions: u32) {
        for partition in 0..partitions {
            for file in self.files(partition).unwrap_or_default() {
                if file.name.ends_with(CLEANED) {
                    let _ = self.storage.remove_file(&self.dir(partition).join(file.name));
                }
            }
        }
    }

    fn exchange(&self, prepared: &[Prepared]) -> Result<()> {
        // The broker looks at the files, and believes nothing of them, unless it finds that it was stopped in order.
        match self.storage.remove_file(&self.root.join(CLEAN_SHUTDOWN)) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => self.storage.sync_dir(&self.root)?,
        }
        let starts = prepared.iter().filter(|one| one.inside);
        let starts = starts.map(|one| ((self.topic.to_string(), one.partition as i32), one.start)).collect();
        self.forget_offsets(&starts)?;
        prepared.iter().try_for_each(|one| self.exchange_one(one))
    }

    /// Takes the topic out of the checkpoints; where a log starts inside a segment, they say so.
    fn forget_offsets(&self, starts: &Offsets) -> Result<()> {
        for name in [RECOVERY_POINTS, HIGH_WATERMARKS, CLEANED_TO, LOG_STARTS] {
            let path = self.root.join(name);
            let before = read_offsets(self.storage, &path)?;
            let mut after = before.clone();
            after.retain(|(topic, _), _| topic != self.topic.as_str());
            if name == LOG_STARTS {
                after.extend(starts.clone());
            }
            if after != before {
                write_offsets(self.storage, &path, &after)?;
            }
        }
        Ok(())
    }

    fn exchange_one(&self, one: &Prepared) -> Result<()> {
        let (storage, dir) = (self.storage, self.dir(one.partition));
        for file in self.files(one.partition)?.iter().filter(|file| file.kind == EntryKind::File) {
            if file.name != METADATA && !file.name.ends_with(CLEANED) {
                storage.remove_file(&dir.join(&file.name))?;
            }
        }
        write_new(storage, &dir.join(LEADER_EPOCHS), epochs_text(&[(0, one.start)]).as_bytes())?;
        storage.sync_dir(&dir)?;
        // The first segment turns last: until then a start throws all of them away, from then on it takes all.
        let rename = |base: Offset, from: &str, to: &str| {
            let log = name::log(base);
            storage.rename(&dir.join(log.clone() + from), &dir.join(log + to))
        };
        let Some((first, others)) = one.bases.split_first() else { return Ok(()) };
        others.iter().rev().try_for_each(|base| rename(*base, CLEANED, SWAP))?;
        storage.sync_dir(&dir)?;
        rename(*first, CLEANED, SWAP)?;
        storage.sync_dir(&dir)?;
        // One after the other: a start removes what has its final name behind one that waits for it.
        one.bases.iter().try_for_each(|base| {
            rename(*base, SWAP, "")?;
            storage.sync_dir(&dir)
        })
    }
}

fn piece(segment: &Segment, len: u64) -> Result<Piece<'_>> {
    Ok(Piece { file: segment.file(Open::Read)?.as_ref(), path: segment.path(), base: segment.base(), len })
}
