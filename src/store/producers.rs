//! Producers: who writes under which name, and what partitions remember of them.

use super::{Shared, Store};
use crate::config::ProducerConfig;
use crate::error::Result;
use crate::log::{Identity, callback};
use crate::producer::Producer;
use crate::sync::Arc;

/// How often partitions look for producers to forget (Kafka's `producer.id.expiration.check.interval.ms`).
pub(super) const EXPIRATION_INTERVAL: std::time::Duration = std::time::Duration::from_secs(600);

/// What a partition knows of a producer: Kafka's `DescribeProducers`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerDescription {
    /// Its id.
    pub producer_id: i64,
    /// The name that writes, or wrote, under this id.
    pub name: Option<String>,
    /// Its epoch: a producer of an older one is refused.
    pub producer_epoch: i16,
    /// The sequence number of its last record; -1 when none is known.
    pub last_sequence: i32,
    /// The offset of its last record; -1 when none is known.
    pub last_offset: i64,
    /// When it wrote last, by the timestamps of its records.
    pub last_timestamp_ms: i64,
    /// The epoch of the coordinator that ended its last transaction.
    pub coordinator_epoch: Option<i32>,
    /// Where the transaction begins that it has open.
    pub current_transaction_start_offset: Option<i64>,
}

impl Store {
    pub(super) fn make_producer(&self, config: ProducerConfig) -> Result<Producer> {
        let shared = self.shared();
        let identity = match &config.name {
            Some(name) => {
                // It may have to wait for the one before it.
                callback::check_outside("Store::producer_with a name")?;
                let storage = shared.context.storage.as_ref();
                Some(shared.context.names.claim(storage, &shared.context.root, name)?)
            }
            None => config.is_idempotent().then(Identity::random).transpose()?,
        };
        Ok(self.enter(config, identity))
    }

    /// Lists a producer among those that live. Whoever claims its name later ends this one: when either returns, at
    /// most one still appends.
    fn enter(&self, config: ProducerConfig, identity: Option<Identity>) -> Producer {
        let (shared, name, known) = (self.shared(), config.name.clone(), identity.clone());
        let (producer, watched) =
            Producer::new(config, &shared.context, &shared.topics, self.keep(), identity);
        {
            let mut producers = shared.producers.lock();
            producers.retain(|producer| producer.strong_count() > 0);
            producers.push(Arc::downgrade(&watched));
        }
        if let (Some(name), Some(identity)) = (name, known) {
            for before in shared.live_producers().iter().filter(|other| other.is_before(&name, &identity)) {
                before.fence();
            }
            // Who claimed it since may have looked before this one was listed.
            if shared.context.names.newest(&name).is_some_and(|newest| watched.is_before(&name, &newest)) {
                watched.fence();
            }
        }
        producer
    }

    /// Gives a producer's name up: the next one of that name is another producer, which knows nothing of what this one
    /// stored, and what it stored may be forgotten. Whether there was one. A producer that has the name keeps writing.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), [`ErrorKind::Full`](crate::ErrorKind::Full),
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    pub fn forget_producer(&self, name: &str) -> Result<bool> {
        let shared = self.shared();
        shared.check_writable()?;
        shared.context.names.forget(shared.context.storage.as_ref(), &shared.context.root, name)
    }

    /// What a partition knows of the producers that wrote to it, by their ids; those that wrote nothing for long are
    /// forgotten.
    ///
    /// ```
    /// use logstead::{ProducerConfig, Record, Store, TopicConfig};
    ///
    /// let store = Store::in_memory()?;
    /// store.create_topic("t", TopicConfig::default())?;
    /// let producer = store.producer_with(ProducerConfig::default().producer_name("import"))?;
    /// producer.send_all(["a", "b"].map(|value| Record::to("t").value(value)))?;
    ///
    /// let known = store.describe_producers("t", 0)?;
    /// assert_eq!((known[0].name.as_deref(), known[0].last_sequence), (Some("import"), 1));
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`](crate::ErrorKind::UnknownTopic),
    /// [`ErrorKind::UnknownPartition`](crate::ErrorKind::UnknownPartition); the partition can not be read.
    pub fn describe_producers(&self, topic: &str, partition: i32) -> Result<Vec<ProducerDescription>> {
        let names = &self.shared().context.names;
        let known = self.shared().topics.get(topic)?.log(partition)?.describe_producers()?;
        Ok(known
            .into_iter()
            .map(|(producer_id, entry)| ProducerDescription {
                producer_id,
                name: names.name_of(producer_id),
                producer_epoch: entry.epoch,
                last_sequence: entry.last().map_or(-1, |last| last.last_sequence),
                last_offset: entry.last().map_or(-1, |last| last.last_offset),
                last_timestamp_ms: entry.last_timestamp,
                coordinator_epoch: (entry.coordinator_epoch >= 0).then_some(entry.coordinator_epoch),
                current_transaction_start_offset: entry.txn_first,
            })
            .collect())
    }
}

impl Shared {
    /// Lets partitions forget producers that wrote nothing for long, now and then.
    pub(super) fn expire_producers(&self) {
        *self.expired_at.lock() = self.context.clock.monotonic();
        for topic in self.topics.sorted() {
            topic.opened_logs().iter().for_each(|(_, log)| log.expire_producers());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TopicConfig;
    use crate::error::ErrorKind;
    use crate::topic::Record;

    #[test]
    fn of_two_that_claim_a_name_the_older_writes_nothing_also_when_it_is_listed_last() {
        let store = Store::in_memory().unwrap();
        store.create_topic("t", TopicConfig::default()).unwrap();
        let enter = |identity| store.enter(ProducerConfig::default().producer_name("import"), Some(identity));
        let claim = || {
            let context = &store.shared().context;
            context.names.claim(context.storage.as_ref(), &context.root, "import").unwrap()
        };
        let (first, second) = (claim(), claim());
        let newer = enter(second);
        let older = enter(first);
        let refused = older.send(Record::to("t").value("v")).unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::ProducerFenced { .. }), "{refused}");
        newer.send(Record::to("t").value("v")).unwrap().wait().unwrap();
    }
}
