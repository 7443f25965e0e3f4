//! The consumer: positions in partitions, and what lies behind them.
//!
//! `poll` → a fair round over the partitions → `log` read (up to the high watermark) → [`Records`].

use std::any::Any;
use std::fmt;
use std::time::{Duration, Instant};

use crate::config::{AutoOffsetReset, ConsumerConfig};
use crate::error::{ErrorKind, Result};
use crate::log::{Bell, Log, Records};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::topic::{TopicInner, Topics};
use crate::types::Offset;

/// Reads records from partitions that it was assigned. One owner at a time; [`Consumer::waker`] is for the others.
///
/// It sees committed records only, in order within a partition. Between partitions it is fair.
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
    woken: Arc<AtomicBool>,
    /// Keeps the store open.
    _store: Arc<dyn Any + Send + Sync>,
}

#[derive(Debug)]
struct Assigned {
    topic: Arc<TopicInner>,
    partition: i32,
    /// The offset that comes next; `None`: as `auto.offset.reset` says.
    position: Option<Offset>,
}

impl Assigned {
    fn log(&self) -> Result<Arc<Log>> {
        self.topic.log(self.partition)
    }

    /// Whether committed records lie behind the position.
    fn has_more(&self) -> bool {
        self.log().is_ok_and(|log| self.position.is_some_and(|position| log.high_watermark() > position))
    }
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
    pub(crate) fn new(
        config: ConsumerConfig,
        topics: &Arc<Topics>,
        store: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Consumer {
            config,
            topics: Arc::clone(topics),
            assigned: Vec::new(),
            turn: 0,
            bell: Arc::default(),
            woken: Arc::default(),
            _store: store,
        }
    }

    /// Reads from these partitions from now on. A partition that was assigned before keeps its position.
    ///
    /// # Errors
    /// An unknown topic or partition; nothing is changed then.
    pub fn assign<'t>(&mut self, partitions: impl IntoIterator<Item = (&'t str, i32)>) -> Result<()> {
        let mut assigned: Vec<Assigned> = Vec::new();
        for (name, partition) in partitions {
            let topic = self.topics.get(name)?;
            topic.bells(partition)?;
            let same = |other: &&Assigned| other.partition == partition && Arc::ptr_eq(&other.topic, &topic);
            if assigned.iter().any(|other| same(&other)) {
                continue;
            }
            let position = self.assigned.iter().find(same).and_then(|before| before.position);
            assigned.push(Assigned { topic, partition, position });
        }
        self.take_bells_off();
        for partition in &assigned {
            partition.topic.bells(partition.partition)?.hang(&self.bell);
        }
        self.assigned = assigned;
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

    /// Continues at `offset` in one partition.
    ///
    /// The offset is not looked at before the next `poll`.
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn seek(&mut self, topic: &str, partition: i32, offset: Offset) -> Result<()> {
        self.find(topic, partition)?.position = Some(offset);
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
        let reset = self.config.auto_offset_reset;
        let assigned = self.find(topic, partition)?;
        let log = assigned.log()?;
        position_of(assigned, &log, reset)
    }

    /// A handle that wakes this consumer.
    pub fn waker(&self) -> Waker {
        Waker { bell: Arc::clone(&self.bell), woken: Arc::clone(&self.woken) }
    }

    /// Records behind the positions, which move behind them; empty when none came within `timeout`.
    ///
    /// About `fetch.max.bytes` are returned, in whole batches, and at least one record if there is one. While records
    /// are written and not committed yet, a `poll` that has nothing else to return commits them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`]: the position stays in front of the damage; seek to its `resume_at` to go on.
    /// [`ErrorKind::OffsetOutOfRange`] if `auto.offset.reset` is none. [`ErrorKind::Woken`], [`ErrorKind::Closed`].
    pub fn poll(&mut self, timeout: Duration) -> Result<Records> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.woken.swap(false, Ordering::SeqCst) {
                return Err(ErrorKind::Woken.into());
            }
            let records = self.fetch()?;
            if !records.is_empty() {
                return Ok(records);
            }
            if self.commit_pending(deadline)? {
                continue;
            }
            if Instant::now() >= deadline {
                return Ok(records);
            }
            self.sleep(deadline)?;
        }
    }

    /// One round over the partitions, starting with the one whose turn it is.
    fn fetch(&mut self) -> Result<Records> {
        let mut records = Records::default();
        for _ in 0..self.assigned.len() {
            let room = self.config.fetch_max_bytes.saturating_sub(records.stored_bytes());
            if room == 0 {
                break;
            }
            let turn = self.turn % self.assigned.len();
            self.turn = turn + 1;
            let Some(assigned) = self.assigned.get_mut(turn) else { break };
            match fetch_one(
                assigned,
                room.min(self.config.max_partition_fetch_bytes),
                self.config.auto_offset_reset,
            ) {
                Ok(more) => records.extend(more),
                // What other partitions gave is not lost; this one says the same again when it is its turn.
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// Commits what assigned partitions hold above their high watermark. `true`: something may have come of it.
    fn commit_pending(&self, deadline: Instant) -> Result<bool> {
        for assigned in &self.assigned {
            let log = assigned.log()?;
            let end = log.log_end();
            if log.high_watermark() < end && log.failure().is_none() {
                return log.wait_committed(end, Some(deadline));
            }
        }
        Ok(false)
    }

    fn sleep(&self, deadline: Instant) -> Result<()> {
        let each = |f: fn(&crate::log::Bells)| {
            self.assigned.iter().try_for_each(|a| a.topic.bells(a.partition).map(|bells| f(bells)))
        };
        each(crate::log::Bells::sleep)?;
        // A publisher that saw no sleeper has stored its high watermark before this look.
        if !self.assigned.iter().any(Assigned::has_more) && !self.woken.load(Ordering::SeqCst) {
            self.bell.wait_until(deadline);
        }
        each(crate::log::Bells::awake)?;
        if self.topics.is_closed() { Err(ErrorKind::Closed.into()) } else { Ok(()) }
    }

    fn find(&mut self, topic: &str, partition: i32) -> Result<&mut Assigned> {
        self.assigned
            .iter_mut()
            .find(|a| a.partition == partition && a.topic.name.as_str() == topic)
            .ok_or_else(|| ErrorKind::NotAssigned { topic: topic.to_owned(), partition }.into())
    }

    fn seek_each(&mut self, position: impl Fn(&Arc<Log>) -> Result<Offset>) -> Result<()> {
        let positions =
            self.assigned.iter().map(|assigned| position(&assigned.log()?)).collect::<Result<Vec<_>>>()?;
        for (assigned, position) in self.assigned.iter_mut().zip(positions) {
            assigned.position = Some(position);
        }
        Ok(())
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
        self.take_bells_off();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("assigned", &self.assigned).finish_non_exhaustive()
    }
}

fn fetch_one(assigned: &mut Assigned, max_bytes: usize, reset: AutoOffsetReset) -> Result<Records> {
    let log = assigned.log()?;
    let mut position = position_of(assigned, &log, reset)?;
    loop {
        let records = match log.read(position, max_bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. }) => {
                assigned.position = None;
                match position_of(assigned, &log, reset) {
                    Ok(again) if again != position => {
                        position = again;
                        continue;
                    }
                    _ => {
                        assigned.position = Some(position);
                        return Err(error);
                    }
                }
            }
            other => other?,
        };
        let Some(next) = records.next_offset() else { return Ok(records) };
        position = next.max(position);
        assigned.position = Some(position);
        if !records.is_empty() {
            return Ok(records);
        }
        // Markers only: what follows them is what is asked for.
    }
}

fn position_of(assigned: &mut Assigned, log: &Log, reset: AutoOffsetReset) -> Result<Offset> {
    if let Some(position) = assigned.position {
        return Ok(position);
    }
    let position = match reset {
        AutoOffsetReset::Earliest => log.log_start(),
        AutoOffsetReset::Latest => log.high_watermark(),
        AutoOffsetReset::None => {
            return Err(ErrorKind::NoPosition {
                topic: assigned.topic.name.to_string(),
                partition: assigned.partition,
            }
            .into());
        }
    };
    assigned.position = Some(position);
    Ok(position)
}
