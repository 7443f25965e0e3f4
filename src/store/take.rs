//! A topic that is taken from a broker: copied out of the log directory of one that is stopped.
//!
//! Invariants:
//! - The catalog calls the topic deleted until all of it is there and durable: a crash leaves the topic whole, or
//!   nothing of it after the next open.
//! - The catalog stays locked: nobody makes a topic of that name meanwhile.
//! - It is a new topic to groups, to those who wait for one, and to the quota.

use std::path::Path;

use super::broker::{Broker, Copying, Piece, Transfer};
use super::open::{CLEAN_SHUTDOWN, remove_partition_dir};
use super::place::METADATA;
use super::{Shared, Store};
use crate::config::TopicConfig;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::log::OpenHints;
use crate::log::checkpoint::{LEADER_EPOCHS, LOG_STARTS, Offsets, epochs_text, read_offsets, write_offsets};
use crate::segment::name::{self, SegmentFile};
use crate::storage::{Entry, Open, read_small, write_new};
use crate::sync::{Arc, in_parallel};
use crate::topic::TopicInner;
use crate::topic::catalog::{Catalog, CatalogEntry, TopicId, TopicState};
use crate::types::{Offset, TopicName};

impl Store {
    /// Copies a topic out of the log directory of a Kafka broker that is stopped: the way back from
    /// [`Store::hand_to_broker`]. Offsets, timestamps, headers and the topic's id stay.
    ///
    /// To go on in the broker's own directory instead, open that with [`Store::open`]. The number of partitions is the
    /// broker's, whatever `config` says; its settings are not in the directory and so come from `config`: with the
    /// default `retention.ms` records older than seven days go soon. Offsets may have gaps, as Kafka's do (markers of
    /// transactions, compaction). No topic can be made or deleted meanwhile.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path();
    /// use logstead::{Record, Store, TopicConfig};
    ///
    /// # let broker = Store::open(dir.join("kafka-data"))?;
    /// # broker.create_topic("orders", TopicConfig::default())?;
    /// # broker.producer()?.send(Record::to("orders").key("alice").value("2 apples"))?.wait()?;
    /// # broker.close()?;
    /// let store = Store::open(dir.join("data"))?;
    /// store.take_from_broker(dir.join("kafka-data"), "orders", TopicConfig::default().retention_ms(None))?;
    /// assert_eq!(store.topic("orders")?.partition(0)?.high_watermark(), 1);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::TransferRefused`], and nothing is changed: the directory is no broker's; it was not stopped in
    /// order; the topic is not there, or not all of its partitions; a batch is damaged. [`ErrorKind::Locked`]: the
    /// broker runs. [`ErrorKind::TopicExists`], [`ErrorKind::InvalidTopic`], [`ErrorKind::InvalidConfig`],
    /// [`ErrorKind::ReadOnly`], [`ErrorKind::Full`].
    pub fn take_from_broker(
        &self,
        log_dir: impl AsRef<Path>,
        topic: &str,
        config: TopicConfig,
    ) -> Result<Transfer> {
        let taken = self.shared().take_from_broker(log_dir.as_ref(), &TopicName::new(topic)?, config)?;
        self.shared().topics.tell_change();
        Ok(taken)
    }
}

impl Shared {
    fn take_from_broker(&self, dir: &Path, name: &TopicName, config: TopicConfig) -> Result<Transfer> {
        let mut catalog = self.change_catalog("Store::take_from_broker")?;
        self.check_new(&mut catalog, name)?;
        self.groups.forget_topic(name.as_str())?;
        let broker = Broker::lock(&self.context, dir, name)?;
        let partitions = broker.gives()?;
        let config = config.partitions(partitions);
        config.validate()?;
        let id = read_small(broker.storage, &broker.dir(0).join(METADATA))?;
        let id = id.and_then(|text| TopicId::of_metadata(&text)).map_or_else(TopicId::random, Ok)?;
        let entry = CatalogEntry { id, state: TopicState::Deleting, config };
        catalog.topics.insert(name.clone(), entry.clone());
        let taken = catalog.write(broker.storage).and_then(|()| {
            let mut done = Transfer { partitions, ..Transfer::default() };
            let topic = self.take(&broker, &entry, &mut done)?;
            let entry = CatalogEntry { state: TopicState::Foreign, ..entry.clone() };
            catalog.topics.insert(name.clone(), entry);
            catalog.write(broker.storage)?;
            Ok((topic, done))
        });
        match taken {
            Ok((topic, done)) => {
                let bytes = topic.opened_logs().iter().map(|(_, log)| log.size_bytes()).sum();
                self.context.upkeep.quota.took(bytes);
                self.topics.insert(&topic);
                Ok(done)
            }
            Err(error) => {
                self.give_back(&mut catalog, name, entry);
                Err(error)
            }
        }
    }

    /// Copies and opens all partitions.
    fn take(
        &self,
        broker: &Broker<'_>,
        entry: &CatalogEntry,
        done: &mut Transfer,
    ) -> Result<Arc<TopicInner>> {
        let starts = read_offsets(broker.storage, &broker.root.join(LOG_STARTS))?;
        let mut kept = Offsets::new();
        let mut hints = Vec::new();
        for partition in 0..entry.config.partitions {
            let key = (broker.topic.to_string(), i32::try_from(partition).unwrap_or(i32::MAX));
            let log_start = starts.get(&key).copied();
            kept.extend(log_start.map(|start| (key, start)));
            let to = self.context.root.join(format!("{}-{partition}", broker.topic));
            broker.take_one(partition, log_start, &entry.id, &to, done)?;
            // Whatever was believed there: here every byte is looked at.
            hints.push(Some(OpenHints { log_start, ..OpenHints::default() }));
        }
        broker.storage.sync_dir(&self.context.root)?;
        if !kept.is_empty() {
            let mut checkpoints = self.checkpoints.lock();
            checkpoints.files.log_starts.extend(kept);
            let path = self.context.root.join(LOG_STARTS);
            write_offsets(broker.storage, &path, &checkpoints.files.log_starts)?;
        }
        let (index, context) = (self.topics.next_index(), Arc::clone(&self.context));
        let topic = TopicInner::new(index, broker.topic.clone(), None, entry.config.clone(), context, hints);
        let partitions: Vec<u32> = (0..entry.config.partitions).collect();
        in_parallel(self.context.threads, &partitions, |partition| {
            topic.open(i32::try_from(*partition).unwrap_or(i32::MAX)).map(drop)
        })?;
        Ok(Arc::new(topic))
    }

    /// Removes what was copied. What can not be removed now is by the next open.
    fn give_back(&self, catalog: &mut Catalog, name: &TopicName, entry: CatalogEntry) {
        catalog.topics.insert(name.clone(), entry);
        if catalog.write(self.context.storage.as_ref()).is_ok()
            && let Ok(left) = self.finish_deletion(catalog, name)
        {
            // What can not be removed now is tried again by the next open.
            left.iter().for_each(|dir| drop(remove_partition_dir(self.context.storage.as_ref(), dir)));
        }
    }
}

impl Broker<'_> {
    /// How many partitions there are to take.
    fn gives(&self) -> Result<u32> {
        let partitions = self.partitions()?;
        if partitions == 0 {
            return self.refuse("there is no such topic");
        }
        let entries = self.storage.list(&self.root)?;
        if !entries.iter().any(|entry| entry.name == CLEAN_SHUTDOWN) {
            return self.refuse(
                "it was not stopped in order: start and stop it, or open the directory itself with Store::open, which \
                 recovers it",
            );
        }
        for partition in 0..partitions {
            let files = self.files(partition)?;
            let kind = |file: &&Entry, kind: fn(SegmentFile) -> bool| {
                SegmentFile::parse(&file.name).is_some_and(kind)
            };
            if let Some(swap) = files.iter().find(|file| kind(file, |kind| kind == SegmentFile::Swap)) {
                return self.refuse(format!("{} waits to take its place: start the broker once", swap.name));
            }
            if !files.iter().any(|file| kind(&file, |kind| matches!(kind, SegmentFile::Log(_)))) {
                return self.refuse(format!("{}-{partition} has no segment", self.topic));
            }
        }
        Ok(partitions)
    }

    fn take_one(
        &self,
        partition: u32,
        log_start: Option<Offset>,
        id: &TopicId,
        to: &Path,
        done: &mut Transfer,
    ) -> Result<()> {
        let (storage, from) = (self.storage, self.dir(partition));
        let files = self.files(partition)?;
        let mut logs: Vec<(Offset, &Entry)> = Vec::new();
        for file in &files {
            if let Some(SegmentFile::Log(base)) = SegmentFile::parse(&file.name) {
                logs.push((base, file));
            }
        }
        logs.sort_unstable_by_key(|(base, _)| *base);
        let first = logs.first().map_or(0, |(base, _)| *base);
        storage.create_dir(to)?;
        let mut copying = Copying { broker: self, contiguous: false, expected: None, done };
        for (base, entry) in logs {
            let path = from.join(&entry.name);
            let file = storage.open(&path, Open::Read)?;
            let piece = Piece { file: file.as_ref(), path, base, len: entry.len, contiguous: false };
            copying.segment(&piece, &to.join(name::log(base)))?;
        }
        let start = log_start.unwrap_or(first).max(first);
        write_new(storage, &to.join(METADATA), id.metadata().as_bytes())?;
        write_new(storage, &to.join(LEADER_EPOCHS), epochs_text(&[(0, start)]).as_bytes())?;
        storage.sync_dir(to)
    }
}
