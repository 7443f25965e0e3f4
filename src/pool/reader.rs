//! The thread of a pool that owns the consumer: it reads ahead, gives partitions back and commits what is done.
//!
//! It polls whatever the handlers do, so a slow one costs no partition: the pool is alive as long as this thread is.
//!
//! Invariants:
//! - The schedule knows every partition that the consumer has: what a poll returns is taken in, or the pool ends.
//! - What is committed of a partition is its lowest offset that is not done, never more; and before its first record is
//!   handled, so that a crash does not leave the start to `auto.offset.reset` again.
//! - A partition is given back after what was in hand of it is done and committed, or its time for that is up.

use std::sync::Arc;
use std::time::Duration;

use super::shared::{LOOK, Shared};
use crate::{Consumer, ErrorKind, Offset, RebalanceListener, Records, RecordsIter, Result, TopicPartition};

/// How long one poll waits while nothing is due; it is woken earlier.
const IDLE: Duration = Duration::from_secs(60);
/// How long one poll waits while something is to be done or committed: handlers do not say when they are done, and the
/// clock may be one that is moved by hand.
const BUSY: Duration = Duration::from_millis(50);

pub(super) struct Reader {
    shared: Arc<Shared>,
    consumer: Consumer,
    /// On the store's clock.
    committed_at: Duration,
}

impl Reader {
    pub(super) fn new(shared: &Arc<Shared>, mut consumer: Consumer) -> Self {
        consumer.on_rebalance(Listener(Arc::clone(shared)));
        let committed_at = shared.clock.monotonic();
        let mut reader = Reader { shared: Arc::clone(shared), consumer, committed_at };
        reader.take_over();
        reader
    }

    /// Until the pool stops; then waits for what is in hand, commits it and leaves the group.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _ends = StopAtEnd(&shared);
        if let Err(error) = self.read() {
            self.shared.fail(error);
        }
        let all = self.shared.schedule(|schedule| schedule.names());
        self.shared.quiet(&all, None);
        let committed = match commit(&self.shared, &mut self.consumer, None) {
            Err(error) if is_topic_gone(error.kind()) => {
                self.shared.note(&error);
                let store = self.shared.group.store();
                let mut there = all;
                there.retain(|name| store.topic(&name.topic).is_ok());
                // Of the others nothing may be hidden by that.
                commit(&self.shared, &mut self.consumer, Some(&there))
            }
            committed => committed,
        };
        if let Err(error) = committed.and(self.consumer.close()) {
            self.shared.fail(error);
        }
    }

    fn read(&mut self) -> Result<()> {
        while !self.shared.is_stopping() {
            let unread = self.shared.schedule(|schedule| schedule.unread());
            self.look_where_reading_goes_on(unread);
            self.pause_and_resume()?;
            let timeout = self.commit_if_due()?;
            match self.consumer.poll(timeout) {
                Ok(records) => self.take_in(&records)?,
                Err(error) => match error.kind() {
                    // It re-joins with the next poll; the listener heard of what was lost.
                    ErrorKind::Woken | ErrorKind::RemovedFromGroup { .. } => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Takes over what was assigned before there was a listener to hear of it.
    fn take_over(&mut self) {
        let name = |(topic, partition): (&str, i32)| TopicPartition { topic: topic.into(), partition };
        let names: Vec<TopicPartition> = self.consumer.assignment().map(name).collect();
        self.shared.change(|schedule| names.iter().for_each(|name| schedule.assign(name, None)));
        for name in &names {
            // What is assigned can be resumed.
            let _ = self.consumer.resume(&name.topic, name.partition);
        }
        self.look_where_reading_goes_on(names);
    }

    fn take_in(&mut self, records: &Records) -> Result<()> {
        self.commit_starts(records)?;
        let mut read = Vec::new();
        for (topic, partition, records) in records.by_partition() {
            let name = TopicPartition { topic: topic.into(), partition };
            if !self.shared.change(|schedule| schedule.give(&name, records.shared())) {
                // To go on would be to lose them.
                return Err(ErrorKind::NotAssigned { topic: topic.to_owned(), partition }.into());
            }
            read.push(name);
        }
        if records.is_empty() {
            // Positions move over markers of transactions too.
            read = self.shared.schedule(|schedule| schedule.idle());
        }
        self.look_where_reading_goes_on(read);
        Ok(())
    }

    /// Commits where partitions begin that the group has no offset of.
    fn commit_starts(&mut self, records: &Records) -> Result<()> {
        let first = |(topic, partition, mut records): (&str, i32, RecordsIter<'_>)| {
            let name = TopicPartition { topic: topic.into(), partition };
            records.next().map(|first| (name, first.offset()))
        };
        let mut starts: Vec<_> = records.by_partition().filter_map(first).collect();
        self.shared.schedule(|schedule| starts.retain(|(name, _)| schedule.begins(name)));
        let committed = commit_offsets(&self.shared, &mut self.consumer, &starts);
        self.unless_it_goes_on(committed)
    }

    /// An error of a commit, unless it is one that the pool goes on with: that is noted.
    fn unless_it_goes_on(&self, committed: Result<()>) -> Result<()> {
        match committed {
            Err(error) if goes_on(error.kind()) || error.is_retriable() => {
                self.shared.note(&error);
                Ok(())
            }
            other => other,
        }
    }

    fn look_where_reading_goes_on(&mut self, partitions: Vec<TopicPartition>) {
        for name in partitions {
            // Where there is none, the next poll says why.
            if let Ok(position) = self.consumer.position(&name.topic, name.partition) {
                self.shared.change(|schedule| schedule.read_up_to(&name, position));
            }
        }
    }

    fn pause_and_resume(&mut self) -> Result<()> {
        let (pause, resume) = self.shared.schedule(|schedule| schedule.flow());
        let paused = pause.iter().map(|name| self.consumer.pause(&name.topic, name.partition));
        let mut answers: Vec<Result<()>> = paused.collect();
        answers.extend(resume.iter().map(|name| self.consumer.resume(&name.topic, name.partition)));
        for answer in answers {
            match answer {
                // Its topic was deleted, which the consumer saw first: the listener will hear of it.
                Err(error) if matches!(error.kind(), ErrorKind::NotAssigned { .. }) => {}
                answer => answer?,
            }
        }
        Ok(())
    }

    /// How long the next poll may wait.
    fn commit_if_due(&mut self) -> Result<Duration> {
        if !self.shared.schedule(|schedule| schedule.is_busy()) {
            return Ok(IDLE);
        }
        let now = self.shared.clock.monotonic();
        let due = self.committed_at + Duration::from_millis(self.shared.config.commit_interval_ms);
        if now < due {
            return Ok((due - now).clamp(LOOK, BUSY));
        }
        self.committed_at = now;
        let committed = commit(&self.shared, &mut self.consumer, None);
        self.unless_it_goes_on(committed)?;
        Ok(LOOK)
    }
}

/// The partition is somebody else's by now, or is gone: the next poll tells.
fn goes_on(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::RemovedFromGroup { .. } | ErrorKind::NotOwner { .. }) || is_topic_gone(kind)
}

fn is_topic_gone(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnknownTopic { .. } | ErrorKind::TopicDeleted { .. })
}

/// Commits what is done, of these partitions only if any are given.
fn commit(shared: &Shared, consumer: &mut Consumer, only: Option<&[TopicPartition]>) -> Result<()> {
    let mut offsets = shared.schedule(|schedule| schedule.to_commit());
    offsets.retain(|(name, _)| only.is_none_or(|only| only.contains(name)));
    commit_offsets(shared, consumer, &offsets)
}

fn commit_offsets(
    shared: &Shared,
    consumer: &mut Consumer,
    offsets: &[(TopicPartition, Offset)],
) -> Result<()> {
    if offsets.is_empty() {
        return Ok(());
    }
    consumer.commit_offsets(offsets.iter().map(|(name, offset)| (&*name.topic, name.partition, *offset)))?;
    shared.change(|schedule| {
        for (name, offset) in offsets {
            schedule.committed(name, *offset);
        }
    });
    Ok(())
}

/// Stops the pool when the reader ends, however it does: the others would wait for ever.
struct StopAtEnd<'s>(&'s Shared);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct Listener(Arc<Shared>);

impl RebalanceListener for Listener {
    fn assigned(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let committed = consumer.committed(partitions.iter().map(|name| (&*name.topic, name.partition)));
        // One whose offset can not be read is told of by the poll.
        let committed = committed.unwrap_or_default();
        self.0.change(|schedule| {
            for (at, name) in partitions.iter().enumerate() {
                let committed = committed.get(at).and_then(|committed| committed.as_ref());
                schedule.assign(name, committed.map(|committed| committed.offset));
            }
        });
        // So that the poll ends, and where reading begins is looked at.
        self.0.waker.wake();
        Ok(())
    }

    fn revoked(&mut self, consumer: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        let timeout = Duration::from_millis(self.0.config.revoke_timeout_ms);
        self.0.quiet(partitions, Some(timeout));
        let committed = commit(&self.0, consumer, Some(partitions));
        self.lost(consumer, partitions)?;
        match committed {
            Err(error) if goes_on(error.kind()) => {
                self.0.note(&error);
                Ok(())
            }
            other => other,
        }
    }

    fn lost(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.0.change(|schedule| partitions.iter().for_each(|name| schedule.forget(name)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::config::PoolConfig;
    use crate::{Acks, Record, Store, TopicConfig};

    #[test]
    fn a_partition_whose_topic_the_consumer_saw_go_first_ends_no_pool() {
        let store = Store::in_memory().unwrap();
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        let partition = topic.partition(0).unwrap();
        partition.append((0..9).map(|_| Record::to(&topic).value("v")), None, Acks::All).unwrap();
        let group = store.group("g");
        let mut consumer = group.consumer().unwrap();
        consumer.subscribe(["t"]).unwrap();
        let config = PoolConfig::default().buffered_records(4);
        let shared = Arc::new(Shared::new(&group, config, group.store().clock(), None, consumer.waker()));
        let mut reader = Reader::new(&shared, consumer);
        let name = TopicPartition::new("t", 0);
        let records = partition.read(0, 1 << 20).unwrap();
        shared.change(|schedule| {
            schedule.assign(&name, None);
            assert!(schedule.give(&name, records.iter().shared()));
        });
        assert!(reader.pause_and_resume().is_ok(), "it is to be paused, and the consumer has it no more");
        shared.change(|schedule| {
            while let Some(task) = schedule.take(Duration::ZERO) {
                schedule.finish(&task);
            }
        });
        assert!(reader.pause_and_resume().is_ok(), "and to be read on");
    }
}
