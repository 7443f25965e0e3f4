//! Consumer groups of a store: handles by name, and the topic that their offsets are kept in.

use super::{Handle, Shared, Store};
use crate::config::TopicConfig;
use crate::error::{ErrorKind, Result};
use crate::group::{Group, OFFSETS_TOPIC};
use crate::sync::Arc;
use crate::types::TopicName;

/// Kafka's `offsets.topic.num.partitions` is 50, to spread the groups over the brokers of a cluster. Here all groups
/// are coordinated by one process, and each partition is a file to be synced: in one, the commits of all groups share
/// their syncs. Kafka's broker, too, goes by the number that the topic has. Who wants another one makes the topic,
/// under its name, before the first commit.
const OFFSETS_PARTITIONS: u32 = 1;

/// Kafka's `offsets.topic.segment.bytes`.
const OFFSETS_SEGMENT_BYTES: u64 = 104_857_600;

impl Store {
    /// A consumer group by name, whether it exists or not: see [`Group`].
    pub fn group(&self, id: &str) -> Group {
        Group::new(&self.shared().groups, id, self.keep())
    }

    /// The names of all groups that have members, or committed offsets, sorted.
    ///
    /// # Errors
    /// What is written about groups can not be read.
    pub fn group_names(&self) -> Result<Vec<String>> {
        self.shared().check_open()?;
        self.shared().groups.names()
    }
}

impl Group {
    /// The store that it is a group of.
    pub fn store(&self) -> Store {
        let handle = Arc::clone(&self.store).downcast::<Handle>();
        Store(handle.unwrap_or_else(|_| unreachable!("only a store makes groups")))
    }
}

/// Has the topic of offsets made when it is needed.
pub(super) fn begin(shared: &Arc<Shared>) {
    let store = Arc::downgrade(shared);
    shared.groups.make_topic_by(move || {
        let store = store.upgrade().ok_or(ErrorKind::Closed)?;
        let config =
            TopicConfig::default().partitions(OFFSETS_PARTITIONS).segment_bytes(OFFSETS_SEGMENT_BYTES);
        store.create_topic(TopicName::new(OFFSETS_TOPIC)?, config).map(drop)
    });
}
