//! Topics that are made, changed and deleted while the store is open.
//!
//! Invariants:
//! - One change at a time, with the catalog locked. Each is one replace of the catalog's file: a crash leaves the topic
//!   as it was or as it will be, and the next open finishes what was begun.
//! - The file is never ahead of what is there: directories are made before it lists them, and are taken away after it
//!   says that they go.
//! - The window in which recovery takes bad bytes for the residue of a crash, which follows from the file, is never
//!   smaller than what the logs leave unsynced.
//! - A new topic finds no checkpoint of an older one of its name, and no group's offsets.
//! - While the catalog is locked no hook and no task of a user's is called: they are when it is given back.

use std::ops::{Deref, DerefMut};

use super::{Shared, Store, open};
use crate::config::{Cleanup, TopicConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::group::OFFSETS_TOPIC;
use crate::log::{OpenHints, callback};
use crate::metrics::span;
use crate::sync::{Arc, MutexGuard};
use crate::topic::catalog::{Catalog, CatalogEntry, TopicId, TopicState};
use crate::topic::{Topic, TopicInner};
use crate::types::{Durability, TopicName};

impl Store {
    /// Makes a topic. When this returns it is there for good; after a crash in between it is either there, whole, or
    /// not.
    ///
    /// # Errors
    /// [`ErrorKind::TopicExists`], [`ErrorKind::InvalidTopic`], [`ErrorKind::InvalidConfig`], [`ErrorKind::Full`],
    /// [`ErrorKind::ReadOnly`]; [`ErrorKind::WouldWaitForItself`] from inside a delivery hook.
    pub fn create_topic(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        let name = TopicName::new(name)?;
        config.validate()?;
        let inner = self.shared().create_topic(name, config)?;
        self.shared().topics.tell_change();
        Ok(Topic::new(inner, self.keep()))
    }

    /// Changes a topic's settings, and adds partitions where `config` names more than there are. Start from
    /// [`Topic::config`]: what is not set there goes back to its default.
    ///
    /// Every handle goes by the new settings from its next batch on; a segment that is open keeps the index settings it
    /// began with. When this returns they are there for good; after a crash in between all are, or none. A topic that
    /// becomes a [`Durability::Disk`](crate::Durability::Disk) one is synced before that is noted. With more
    /// partitions keys go elsewhere than before, as in Kafka.
    ///
    /// ```
    /// use logstead::{Store, TopicConfig};
    ///
    /// let store = Store::in_memory()?;
    /// let topic = store.create_topic("t", TopicConfig::default())?;
    /// store.alter_topic("t", topic.config().segment_bytes(1 << 20).partitions(3))?;
    /// assert_eq!(topic.partitions(), 3);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`]; [`ErrorKind::InvalidConfig`], also for fewer partitions than there are;
    /// [`ErrorKind::Full`]; [`ErrorKind::Poisoned`]: a partition could not be synced; [`ErrorKind::WouldWaitForItself`]
    /// from inside a delivery hook. Nothing is changed then.
    pub fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<()> {
        config.validate()?;
        self.shared().alter_topic(name, config)?;
        self.shared().topics.tell_change();
        Ok(())
    }

    /// Deletes a topic and its records.
    ///
    /// From now on its handles, producers and consumers answer [`ErrorKind::TopicDeleted`], also those who wait;
    /// records that somebody holds stay good. After a crash in between the topic is either there, whole, or gone. A
    /// topic made later under the same name is another one.
    ///
    /// ```
    /// use logstead::{ErrorKind, Store, TopicConfig};
    ///
    /// let store = Store::in_memory()?;
    /// let topic = store.create_topic("t", TopicConfig::default())?;
    /// store.delete_topic("t")?;
    /// assert!(matches!(topic.partition(0).unwrap_err().kind(), ErrorKind::TopicDeleted { .. }));
    /// assert!(matches!(store.topic("t").unwrap_err().kind(), ErrorKind::UnknownTopic { .. }));
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::ReadOnly`]; [`ErrorKind::InvalidTopic`] for `__consumer_offsets`;
    /// [`ErrorKind::WouldWaitForItself`] from inside a delivery hook; the catalog could not be written, and nothing is
    /// changed. After any other error the topic is gone, and the next open removes what is left of its files.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        span!("delete_topic", topic = name);
        let deleted = self.shared().delete_topic(name);
        self.shared().topics.tell_change();
        deleted
    }

    /// A topic by name. A read-only store looks for what the writer made, added and deleted.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`].
    pub fn topic(&self, name: &str) -> Result<Topic> {
        Ok(Topic::new(self.shared().topics.get(name)?, self.keep()))
    }

    /// The names of all topics, sorted.
    pub fn topic_names(&self) -> Vec<String> {
        // What can not be read says nothing new.
        let _ = self.shared().follow_topics(None);
        self.shared().topics.sorted().iter().map(|topic| topic.name.to_string()).collect()
    }
}

/// The settings that a topic gets: that of offsets is compacted whatever is asked for, as in Kafka, for else retention
/// would take positions of groups; and synced, for a commit that was waited for survives a power cut.
fn settled(name: &TopicName, config: TopicConfig) -> TopicConfig {
    match name.as_str() == OFFSETS_TOPIC {
        true => config.cleanup_policy(Cleanup::COMPACT).durability(Durability::Disk),
        false => config,
    }
}

/// The catalog, locked for a change.
pub(super) struct Change<'s> {
    /// Given back first: those who are told may change the catalog.
    catalog: MutexGuard<'s, Catalog>,
    _hold: callback::Hold,
}

impl Deref for Change<'_> {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        &self.catalog
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }
}

impl Shared {
    /// The catalog, for a change. `close` waits for whoever holds it; a hook, whose thread others wait for, may not.
    pub(super) fn change_catalog(&self, call: &'static str) -> Result<Change<'_>> {
        callback::check_outside(call)?;
        let catalog = self.catalog.lock();
        self.check_writable()?;
        Ok(Change { catalog, _hold: callback::Hold::begin() })
    }

    /// Whether a topic of that name can be made; what is left of one that was deleted goes out of the way.
    pub(super) fn check_new(&self, catalog: &mut Catalog, name: &TopicName) -> Result<()> {
        if self.topics.contains(name.as_str()) {
            return Err(ErrorKind::TopicExists { topic: name.to_string() }.into());
        }
        if catalog.topics.get(name).is_some_and(|entry| entry.state == TopicState::Deleting) {
            self.finish_deletion(catalog, name)?;
        }
        Ok(())
    }

    pub(super) fn create_topic(&self, name: TopicName, config: TopicConfig) -> Result<Arc<TopicInner>> {
        let config = settled(&name, config);
        let mut catalog = self.change_catalog("Store::create_topic")?;
        self.check_new(&mut catalog, &name)?;
        self.groups.forget_topic(name.as_str())?;
        let storage = self.context.storage.as_ref();
        let entry = CatalogEntry { id: TopicId::random()?, state: TopicState::Creating, config };
        let partitions = 0..entry.config.partitions;
        catalog.topics.insert(name.clone(), entry.clone());
        let mut listed = false;
        let made = catalog.write(storage).and_then(|()| {
            self.forget_checkpoints(&name)?;
            open::make_partitions(&self.context, &name, &entry.id, partitions.clone())?;
            catalog.topics.insert(name.clone(), CatalogEntry { state: TopicState::Ready, ..entry.clone() });
            listed = true;
            catalog.write(storage)
        });
        if let Err(error) = made {
            catalog.topics.insert(name.clone(), entry.clone());
            // The file may call it ready, if it was replaced at all: not any more before its directories go. They go
            // before its entry: one without an entry would count as a topic that a broker made. If that fails the
            // entry stays, and the next open, or the next call, finishes what was begun.
            let unlisted = !listed || was_not_replaced(&error) || catalog.write(storage).is_ok();
            if unlisted && open::unmake_partitions(&self.context, &name, partitions).is_ok() {
                catalog.topics.remove(&name);
                let _ = catalog.write(storage);
            }
            return Err(error);
        }
        let hints = vec![Some(NEW.clone()); entry.config.partitions as usize];
        let (index, context) = (self.topics.next_index(), Arc::clone(&self.context));
        let topic = Arc::new(TopicInner::new(index, name, Some(entry.id), entry.config, context, hints));
        self.topics.insert(&topic);
        Ok(topic)
    }

    fn alter_topic(&self, name: &str, config: TopicConfig) -> Result<()> {
        let mut catalog = self.change_catalog("Store::alter_topic")?;
        let topic = self.topics.get(name)?;
        let config = settled(&topic.name, config);
        let (before, partitions) = (topic.config(), topic.partitions()..config.partitions);
        if name == OFFSETS_TOPIC && !partitions.is_empty() {
            let why = "a group lies in the partition of its name's hash: it would be looked for elsewhere";
            let value = config.partitions.to_string();
            return Err(ErrorKind::InvalidConfig { name: "num.partitions", value, why }.into());
        }
        if config.partitions < partitions.start {
            let (value, why) = (config.partitions.to_string(), "partitions can be added, not taken away");
            return Err(ErrorKind::InvalidConfig { name: "num.partitions", value, why }.into());
        }
        open::check_free(&self.context, &topic.name, partitions.clone())?;
        let old = self.entry_of(&catalog, &topic)?;
        let new = CatalogEntry { config: config.clone(), ..old.clone() };
        let file_first = covers(config.unsynced_window(), before.unsynced_window());
        if !file_first {
            // All together: what each log has to sync when its turn comes is little then.
            topic.sync_all()?;
            topic.set_config(config.clone());
        }
        let synced = if file_first { Ok(()) } else { topic.sync_all() };
        let mut listed = false;
        let made = synced.and_then(|()| {
            open::make_partitions(&self.context, &topic.name, &new.id, partitions.clone())?;
            catalog.topics.insert(topic.name.clone(), new);
            listed = true;
            catalog.write(self.context.storage.as_ref())
        });
        if let Err(error) = made {
            catalog.topics.insert(topic.name.clone(), old);
            // The logs go back to looser settings only when the file says the old ones.
            let untouched = !listed || was_not_replaced(&error);
            if untouched || catalog.write(self.context.storage.as_ref()).is_ok() {
                topic.set_config(TopicConfig::clone(&before));
                let _ = open::unmake_partitions(&self.context, &topic.name, partitions);
            }
            return Err(error);
        }
        topic.set_config(config);
        let hint = OpenHints { contiguous: old.state != TopicState::Foreign, ..NEW };
        topic.add(partitions.map(|_| Some(hint.clone())).collect());
        Ok(())
    }

    fn delete_topic(&self, name: &str) -> Result<()> {
        if name == OFFSETS_TOPIC {
            let why = "the positions of all groups are there: delete groups, with Group::delete";
            return Err(ErrorKind::InvalidTopic { topic: name.to_owned(), why }.into());
        }
        let mut catalog = self.change_catalog("Store::delete_topic")?;
        let topic = self.topics.get(name)?;
        let before = catalog.topics.get(&topic.name).cloned();
        let entry = CatalogEntry { state: TopicState::Deleting, ..self.entry_of(&catalog, &topic)? };
        catalog.topics.insert(topic.name.clone(), entry);
        if let Err(error) = catalog.write(self.context.storage.as_ref()) {
            match before {
                Some(entry) => catalog.topics.insert(topic.name.clone(), entry),
                None => catalog.topics.remove(&topic.name),
            };
            let _ = catalog.write(self.context.storage.as_ref());
            return Err(error);
        }
        self.topics.remove(name);
        topic.delete();
        self.live_producers().iter().for_each(|producer| producer.leave_deleted(&topic));
        let left = self.finish_deletion(&mut catalog, &topic.name)?;
        // Before a topic of that name is made, of which groups commit anew. If it fails it is done when one is.
        let _ = self.groups.forget_topic(name);
        // What users wait for is done: the space is given back without the lock.
        drop(catalog);
        for dir in left {
            // What can not be removed now is tried again by the next open.
            let (given_back, _) = open::remove_partition_dir(self.context.storage.as_ref(), &dir);
            self.context.upkeep.quota.gave_back(given_back);
        }
        Ok(())
    }

    /// What the catalog says of a topic, or would if it were there.
    fn entry_of(&self, catalog: &Catalog, topic: &TopicInner) -> Result<CatalogEntry> {
        if let Some(entry) = catalog.topics.get(&topic.name) {
            return Ok(entry.clone());
        }
        let id = topic.id().map_or_else(TopicId::random, Ok)?;
        Ok(CatalogEntry { id, state: TopicState::Foreign, config: TopicConfig::clone(&topic.config()) })
    }

    /// Takes the directories of a topic that the catalog calls deleted out of the way, then its entry. The directories.
    pub(super) fn finish_deletion(
        &self,
        catalog: &mut Catalog,
        name: &TopicName,
    ) -> Result<Vec<std::path::PathBuf>> {
        let Some(entry) = catalog.topics.get(name).cloned() else { return Ok(Vec::new()) };
        let left = open::put_partitions_away(&self.context, name)?;
        self.forget_checkpoints(name)?;
        catalog.topics.remove(name);
        let written = catalog.write(self.context.storage.as_ref());
        if written.is_err() {
            catalog.topics.insert(name.clone(), entry);
        }
        written.map(|()| left)
    }

    fn forget_checkpoints(&self, name: &TopicName) -> Result<()> {
        self.checkpoints.lock().files.forget(&self.context, name)
    }
}

/// What is known of a partition that was just made.
const NEW: OpenHints =
    OpenHints { contiguous: true, clean: true, recovery_point: Some(0), log_start: None, cleaned_to: None };

/// Whether a write of the catalog that failed has left its file as it was: on a full disk nothing takes its place.
fn was_not_replaced(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Full { .. })
}

/// Whether a window takes in all of another; `None` has no end.
fn covers(one: Option<u64>, other: Option<u64>) -> bool {
    one.is_none_or(|one| other.is_some_and(|other| one >= other))
}
