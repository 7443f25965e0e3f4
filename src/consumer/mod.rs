//! The consumer: positions in partitions, and what lies behind them.
//!
//! `poll` → what the group wants, if there is one → a fair round over the partitions → `log` read (up to the high
//! watermark) → [`Records`].

mod batches;
mod commit;
mod listener;
mod membership;
mod position;

use std::any::Any;
use std::fmt;
use std::task;
use std::time::{Duration, Instant};

use crate::config::ConsumerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::group::{Assignor, Groups};
use crate::limits::FOLLOW_INTERVAL;
use crate::log::{Bell, Log, Records};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::topic::{TopicInner, Topics};
use crate::types::Offset;
pub use batches::Batches;
pub use listener::RebalanceListener;
use membership::Membership;
use position::Assigned;

/// Reads records from partitions that it was assigned. One owner at a time; [`Consumer::waker`] is for the others.
///
/// It sees committed records only, in order within a partition. Between partitions it is fair: each gives one fetch
/// (`max.partition.fetch.bytes`), however many polls return that, then it is the next one's turn.
///
/// ```
/// use std::time::Duration;
/// use logstead::{Record, Store, TopicConfig};
///
/// let store = Store::in_memory()?;
/// store.create_topic("t", TopicConfig::default().partitions(2))?;
/// let producer = store.producer()?;
/// producer.send(Record::to("t").key("k").value("v"))?;
/// producer.flush()?;
///
/// let mut consumer = store.consumer()?;
/// consumer.assign_all(["t"])?;
/// consumer.seek_to_beginning()?;
/// let records = consumer.poll(Duration::ZERO)?;
/// assert_eq!(records.iter().next().unwrap().value(), Some(b"v".as_slice()));
/// # Ok::<(), logstead::Error>(())
/// ```
pub struct Consumer {
    config: ConsumerConfig,
    topics: Arc<Topics>,
    assigned: Vec<Assigned>,
    /// Whose turn is next.
    turn: usize,
    bell: Arc<Bell>,
    /// The partitions count this consumer as asleep.
    armed: bool,
    woken: Arc<AtomicBool>,
    /// Of a consumer that was made for a group.
    member: Option<Box<Membership>>,
    /// Keeps the store open.
    _store: Arc<dyn Any + Send + Sync>,
}

/// Wakes a consumer that sits in [`Consumer::poll`]; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    bell: Arc<Bell>,
    woken: Arc<AtomicBool>,
}

impl Waker {
    /// Makes the running, or else the next, `poll` return [`ErrorKind::Woken`].
    pub fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

impl Consumer {
    /// `own`: what the group shares partitions by, instead of the configuration's strategies.
    pub(crate) fn new(
        config: ConsumerConfig,
        topics: &Arc<Topics>,
        groups: &Arc<Groups>,
        own: Option<Arc<dyn Assignor>>,
        store: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self> {
        let bell = Arc::default();
        let member = Membership::new(groups, &config, own, &bell, topics)?;
        Ok(Consumer {
            config,
            topics: Arc::clone(topics),
            assigned: Vec::new(),
            turn: 0,
            bell,
            armed: false,
            woken: Arc::default(),
            member,
            _store: store,
        })
    }

    /// Reads from these partitions from now on. A partition that was assigned before keeps its position; in a consumer
    /// of a group a new one begins where the group stands. A consumer that subscribed leaves its group first.
    ///
    /// # Errors
    /// An unknown topic or partition; nothing is changed then. What [`Consumer::unsubscribe`] answers.
    pub fn assign<'t>(&mut self, partitions: impl IntoIterator<Item = (&'t str, i32)>) -> Result<()> {
        let mut wanted: Vec<(Arc<TopicInner>, i32)> = Vec::new();
        for (name, partition) in partitions {
            let topic = self.topics.get(name)?;
            topic.bells(partition)?;
            if !wanted.iter().any(|(other, p)| *p == partition && Arc::ptr_eq(other, &topic)) {
                wanted.push((topic, partition));
            }
        }
        self.unsubscribe()?;
        self.disarm();
        self.take_bells_off();
        let in_group = self.member.is_some();
        let mut before = std::mem::take(&mut self.assigned);
        for (topic, partition) in wanted {
            topic.bells(partition)?.hang(&self.bell);
            let same = before.iter().position(|a| a.partition == partition && Arc::ptr_eq(&a.topic, &topic));
            self.assigned.push(match same {
                Some(same) => before.swap_remove(same),
                None if in_group => Assigned::of_group(topic, partition),
                None => Assigned::new(topic, partition),
            });
        }
        self.turn = 0;
        Ok(())
    }

    /// Reads from all partitions of these topics from now on.
    ///
    /// # Errors
    /// An unknown topic; nothing is changed then.
    pub fn assign_all<'t>(&mut self, topics: impl IntoIterator<Item = &'t str>) -> Result<()> {
        let mut partitions = Vec::new();
        for name in topics {
            let count = self.topics.get(name)?.partitions();
            partitions.extend((0..count as i32).map(|partition| (name, partition)));
        }
        self.assign(partitions)
    }

    /// What is assigned.
    pub fn assignment(&self) -> impl Iterator<Item = (&str, i32)> {
        self.assigned.iter().map(|a| (a.topic.name.as_str(), a.partition))
    }

    /// Those of the assigned partitions that are paused.
    pub fn paused(&self) -> impl Iterator<Item = (&str, i32)> {
        self.assigned.iter().filter(|a| a.paused).map(|a| (a.topic.name.as_str(), a.partition))
    }

    /// Returns no records of a partition until [`Consumer::resume`]; its position stays.
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn pause(&mut self, topic: &str, partition: i32) -> Result<()> {
        self.find(topic, partition)?.paused = true;
        Ok(())
    }

    /// Returns records of a paused partition again.
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn resume(&mut self, topic: &str, partition: i32) -> Result<()> {
        self.find(topic, partition)?.paused = false;
        Ok(())
    }

    /// Continues at `offset` in one partition.
    ///
    /// The offset is not looked at before the next `poll`: one that is out of range then is handled as
    /// `auto.offset.reset` says. An offset that was given out and is not committed yet is waited for.
    ///
    /// # Errors
    /// The partition is not assigned. [`ErrorKind::OffsetOutOfRange`]: the offset is negative.
    pub fn seek(&mut self, topic: &str, partition: i32, offset: Offset) -> Result<()> {
        let assigned = self.find(topic, partition)?;
        if offset < 0 {
            let log = assigned.log()?;
            return Err(log.out_of_range(offset, log.log_start()..log.high_watermark()));
        }
        assigned.seek(offset);
        Ok(())
    }

    /// Continues at the first record of every assigned partition.
    ///
    /// # Errors
    /// A partition can not be opened.
    pub fn seek_to_beginning(&mut self) -> Result<()> {
        self.seek_each(|log| Ok(log.log_start()))
    }

    /// Continues behind the last committed record of every assigned partition.
    ///
    /// # Errors
    /// A partition can not be opened.
    pub fn seek_to_end(&mut self) -> Result<()> {
        self.seek_each(|log| Ok(log.high_watermark()))
    }

    /// Continues, in every assigned partition, at the first record at least as young as a time; at the end where
    /// there is none.
    ///
    /// # Errors
    /// A partition can not be opened or searched.
    pub fn seek_to_time(&mut self, timestamp_ms: i64) -> Result<()> {
        self.seek_each(|log| {
            Ok(log.offset_for_time(timestamp_ms)?.map_or_else(|| log.high_watermark(), |found| found.0))
        })
    }

    /// The offset that `poll` returns next from a partition.
    ///
    /// # Errors
    /// The partition is not assigned, or can not be opened.
    pub fn position(&mut self, topic: &str, partition: i32) -> Result<Offset> {
        self.start_from_committed()?;
        let reset = self.config.auto_offset_reset;
        let assigned = self.find(topic, partition)?;
        let log = assigned.log()?;
        assigned.position(&log, reset)
    }

    /// The first offset of each of these partitions, assigned or not.
    ///
    /// # Errors
    /// An unknown topic or partition.
    pub fn beginning_offsets<'t>(
        &self,
        partitions: impl IntoIterator<Item = (&'t str, i32)>,
    ) -> Result<Vec<Offset>> {
        self.ask(partitions, |log| Ok(log.log_start()))
    }

    /// One behind the last record that this consumer may see, for each of these partitions, assigned or not.
    ///
    /// # Errors
    /// An unknown topic or partition.
    pub fn end_offsets<'t>(
        &self,
        partitions: impl IntoIterator<Item = (&'t str, i32)>,
    ) -> Result<Vec<Offset>> {
        self.ask(partitions, |log| log.read_end(self.config.isolation_level))
    }

    /// The first record at least as young as a time, and its own time, for each of these partitions, assigned or
    /// not; `None` where all are older.
    ///
    /// # Errors
    /// An unknown topic or partition; damage on the way.
    pub fn offsets_for_times<'t>(
        &self,
        times: impl IntoIterator<Item = (&'t str, i32, i64)>,
    ) -> Result<Vec<Option<(Offset, i64)>>> {
        let search = |(name, partition, time)| self.topics.get(name)?.log(partition)?.offset_for_time(time);
        times.into_iter().map(search).collect()
    }

    fn ask<'t>(
        &self,
        partitions: impl IntoIterator<Item = (&'t str, i32)>,
        what: impl Fn(&Arc<Log>) -> Result<Offset>,
    ) -> Result<Vec<Offset>> {
        partitions
            .into_iter()
            .map(|(name, partition)| what(&self.topics.get(name)?.log(partition)?))
            .collect()
    }

    /// A handle that wakes this consumer.
    pub fn waker(&self) -> Waker {
        Waker { bell: Arc::clone(&self.bell), woken: Arc::clone(&self.woken) }
    }

    /// Records behind the positions, which move behind them; empty when none came within `timeout`.
    ///
    /// At most `max.poll.records` records and about `fetch.max.bytes` are returned, and at least one if there is one,
    /// however large. While records are written and not committed yet, a `poll` that has nothing else to return
    /// commits them; a sync that it leads then is not broken off when the time is up.
    ///
    /// A member of a group first does what the group wants: it joins, gives partitions back and takes others, which it
    /// tells its [`RebalanceListener`].
    ///
    /// # Errors
    /// [`ErrorKind::RemovedFromGroup`]: it did not poll in time; the next poll joins anew, from what was committed.
    /// [`ErrorKind::FencedInstance`], [`ErrorKind::InconsistentStrategies`], [`ErrorKind::InvalidAssignment`],
    /// [`ErrorKind::OffsetsDamaged`]: about the group.
    /// [`ErrorKind::Corrupt`]: the position stays in front of the damage; seek to its `resume_at` to go on.
    /// [`ErrorKind::OffsetOutOfRange`] where the position is gone, and [`ErrorKind::NoPosition`] where there is none,
    /// if `auto.offset.reset` is none. [`ErrorKind::Woken`], [`ErrorKind::Closed`], [`ErrorKind::TopicDeleted`].
    /// [`ErrorKind::WouldWaitForItself`] from inside a delivery hook, where it would have to commit.
    pub fn poll(&mut self, timeout: Duration) -> Result<Records> {
        self.begin_poll()?;
        let polled = self.poll_until(timeout);
        self.end_poll(false);
        polled
    }

    fn poll_until(&mut self, timeout: Duration) -> Result<Records> {
        let start = Instant::now();
        let deadline = start.checked_add(timeout).unwrap_or(start + AGES);
        let full_by = deadline.min(start + Duration::from_millis(self.config.fetch_max_wait_ms));
        self.disarm();
        let mut records = Records::default();
        let mut driven = false;
        loop {
            if records.is_empty() {
                if self.woken.swap(false, Ordering::SeqCst) {
                    return Err(ErrorKind::Woken.into());
                }
                self.reconcile()?;
            }
            self.gather(&mut records)?;
            let until = if records.is_empty() { deadline } else { full_by };
            if self.is_enough(&records) {
                return Ok(records);
            }
            // Once even without time; others may write faster than this commits.
            let in_time = !std::mem::replace(&mut driven, true) || Instant::now() < until;
            let waited = match if in_time { self.commit_pending(until) } else { Ok(false) } {
                Ok(true) => continue,
                Ok(false) if Instant::now() >= until => return Ok(records),
                Ok(false) => self.sleep(until),
                Err(error) => Err(error),
            };
            match waited {
                // The positions stand behind what was gathered: not to return it would be to lose it.
                Err(_) if !records.is_empty() => return Ok(records),
                other => other?,
            }
        }
    }

    /// As [`Consumer::poll`] for a task of an async runtime: never waits for records, and has the task woken when there
    /// are more; `fetch.min.bytes` is not waited for. Commits no records: they become visible when whoever sent them
    /// waits, or after `flush.ms`. A member of a group may wait for a sync of the committed offsets when it takes
    /// partitions, gives them back, or commits by itself.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<Records>> {
        if let Err(error) = self.begin_poll() {
            return task::Poll::Ready(Err(error));
        }
        let polled = self.poll_task(cx);
        self.end_poll(polled.is_pending());
        polled
    }

    fn poll_task(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<Records>> {
        self.disarm();
        let mut records = Records::default();
        loop {
            if self.woken.swap(false, Ordering::SeqCst) {
                return task::Poll::Ready(Err(ErrorKind::Woken.into()));
            }
            if let Err(error) = self.reconcile().and_then(|()| self.gather(&mut records)) {
                return task::Poll::Ready(Err(error));
            }
            if !records.is_empty() {
                return task::Poll::Ready(Ok(records));
            }
            self.bell.wake_task(cx.waker());
            if let Err(error) = self.arm() {
                return task::Poll::Ready(Err(error));
            }
            if !self.has_news() {
                return task::Poll::Pending;
            }
            self.disarm();
        }
    }

    /// Whether a poll need not wait for more.
    fn is_enough(&self, records: &Records) -> bool {
        !records.is_empty()
            && (records.stored_bytes() >= self.config.fetch_min_bytes
                || records.len() >= self.config.max_poll_records)
    }

    /// One round over the partitions, starting with the one whose turn it is. A partition keeps its turn until what
    /// was fetched of it is returned, so at most one fetch waits in memory.
    fn gather(&mut self, records: &mut Records) -> Result<()> {
        let partitions = self.assigned.len();
        let mut visited = 0;
        while visited < partitions {
            let records_max = self.config.max_poll_records.saturating_sub(records.len());
            let bytes_max = self.config.fetch_max_bytes.saturating_sub(records.stored_bytes());
            if records_max == 0 || bytes_max == 0 {
                break;
            }
            let turn = self.turn % partitions;
            let Some(assigned) = self.assigned.get_mut(turn) else { break };
            let taken = if assigned.paused {
                Ok(Records::default())
            } else {
                assigned.take(records_max, bytes_max, &self.config)
            };
            if assigned.paused || taken.is_err() || assigned.is_drained() {
                self.turn = turn + 1;
                visited += 1;
            }
            match taken {
                Ok(more) => records.extend(more),
                // What others gave is not lost; this one says the same again when it is its turn.
                Err(_) if !records.is_empty() => break,
                // The group will say so, too: nobody has to do anything about it.
                Err(error) if self.is_subscribed_to_deleted(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether an error is that a topic of the group's was deleted; its partitions are dropped then.
    fn is_subscribed_to_deleted(&mut self, error: &Error) -> bool {
        self.is_groups_deleted(error) && self.drop_deleted()
    }

    fn is_groups_deleted(&self, error: &Error) -> bool {
        let deleted = matches!(error.kind(), ErrorKind::TopicDeleted { .. });
        deleted && self.member.as_ref().is_some_and(|member| member.is_subscribed())
    }

    /// Commits what assigned partitions hold above their high watermark. `true`: something may have come of it.
    fn commit_pending(&self, deadline: Instant) -> Result<bool> {
        let commit = |assigned: &Assigned| {
            let log = assigned.log()?;
            let end = log.log_end();
            let pending = log.high_watermark() < end && log.failure().is_none();
            if pending { log.wait_committed(end, Some(deadline)).map(Some) } else { Ok(None) }
        };
        for assigned in self.assigned.iter().filter(|assigned| !assigned.paused && assigned.is_written_here())
        {
            match commit(assigned) {
                Ok(None) => {}
                // The group will say so.
                Err(error) if self.is_groups_deleted(&error) => {}
                Ok(Some(outcome)) => return Ok(outcome),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn sleep(&mut self, deadline: Instant) -> Result<()> {
        self.arm()?;
        if !self.has_news() && !self.has_pending() {
            let by_hand = self.assigned.iter().any(|assigned| assigned.topic.is_looked_at_by_hand());
            let look_in = self.member.as_ref().and_then(|member| member.next_look());
            let look_in = if by_hand { Some(FOLLOW_INTERVAL) } else { look_in };
            let look_by = look_in.map(|left| Instant::now() + left.max(Duration::from_millis(1)));
            self.bell.wait_until(look_by.map_or(deadline, |look_by| deadline.min(look_by)));
        }
        self.disarm();
        if self.topics.is_closed() { Err(ErrorKind::Closed.into()) } else { Ok(()) }
    }

    /// Announces a sleeper to every partition. A publisher that saw none has stored its high watermark before what
    /// is looked at after this.
    fn arm(&mut self) -> Result<()> {
        self.armed = true;
        if self.member.is_some() {
            self.topics.changes().sleep();
        }
        self.assigned.iter().try_for_each(|a| a.topic.sleep(a.partition))
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) {
            if self.member.is_some() {
                self.topics.changes().awake();
            }
            for assigned in &self.assigned {
                if let Ok(bells) = assigned.topic.bells(assigned.partition) {
                    bells.awake();
                }
            }
        }
    }

    /// Whether an assigned partition holds records that are written and not committed.
    fn has_pending(&self) -> bool {
        let pending = |log: &Arc<Log>| log.high_watermark() < log.log_end() && log.failure().is_none();
        let mut own = self.assigned.iter().filter(|assigned| !assigned.paused && assigned.is_written_here());
        own.any(|assigned| assigned.log().is_ok_and(|log| pending(&log)))
    }

    fn has_news(&self) -> bool {
        self.assigned.iter().any(|assigned| assigned.has_more(&self.config))
            || self.woken.load(Ordering::SeqCst)
            || self.member.as_ref().is_some_and(|member| member.has_news(&self.topics))
            || self.topics.is_closed()
    }

    fn find(&mut self, topic: &str, partition: i32) -> Result<&mut Assigned> {
        self.assigned
            .iter_mut()
            .find(|assigned| assigned.is(topic, partition))
            .ok_or_else(|| ErrorKind::NotAssigned { topic: topic.to_owned(), partition }.into())
    }

    fn seek_each(&mut self, position: impl Fn(&Arc<Log>) -> Result<Offset>) -> Result<()> {
        let positions = self.assigned.iter().map(|a| position(&a.log()?)).collect::<Result<Vec<_>>>()?;
        for (assigned, position) in self.assigned.iter_mut().zip(positions) {
            assigned.seek(position);
        }
        Ok(())
    }

    /// Reads no more from these. Whether there were any.
    fn unassign(&mut self, which: impl Fn(&Assigned) -> bool) -> bool {
        self.disarm();
        let before = self.assigned.len();
        self.assigned.retain(|assigned| {
            let goes = which(assigned);
            if let (true, Ok(bells)) = (goes, assigned.topic.bells(assigned.partition)) {
                bells.take_off(&self.bell);
            }
            !goes
        });
        self.assigned.len() != before
    }

    fn take_bells_off(&self) {
        for assigned in &self.assigned {
            if let Ok(bells) = assigned.topic.bells(assigned.partition) {
                bells.take_off(&self.bell);
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.disarm();
        self.take_bells_off();
        self.abandon_group();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("assigned", &self.assigned).finish_non_exhaustive()
    }
}

/// For a time-out that reaches beyond the end of the clock.
const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, TopicConfig};

    #[test]
    fn a_topic_of_the_groups_that_goes_in_the_middle_of_a_poll_is_no_error_of_the_poll() {
        let store = Store::in_memory().unwrap();
        store.create_topic("t", TopicConfig::default()).unwrap();
        let mut consumer = store.group("g").consumer().unwrap();
        consumer.subscribe(["t"]).unwrap();
        consumer.poll(Duration::ZERO).unwrap();
        store.delete_topic("t").unwrap();
        // What a poll does behind its look at the group.
        assert!(matches!(consumer.commit_pending(Instant::now()), Ok(false)));
        assert!(consumer.gather(&mut Records::default()).is_ok());
        assert_eq!(consumer.assignment().count(), 0);
        assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
    }
}
