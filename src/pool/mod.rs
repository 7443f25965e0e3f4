//! Worker pools: a group's records handed to threads, in order, and committed when they are done.
//!
//! A room on the public API: all that it does, a program could do with a [`Consumer`](crate::Consumer) of its group and
//! threads of its own. From inside the crate it takes only the store's clock, and a cheaper way to share records.
//!
//! The walk of a record: `reader` polls → `schedule` gives it a row → `worker` takes it and calls the handler → done,
//! to be retried, or given up (`dead_letter`) → `reader` commits the lowest offset that is not done.

mod breaker;
mod config;
mod dead_letter;
mod handler;
mod progress;
mod reader;
mod schedule;
mod shared;
#[cfg(test)]
mod tests;
mod worker;

use std::any::type_name;
use std::fmt;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::{Consumer, Error, ErrorKind, Group, RecordRef, Result};

pub use breaker::Breaker;
pub use config::{OnError, OrderBy, PoolConfig};
use dead_letter::DeadLetters;
pub use handler::HandlerError;
pub use progress::{InHand, PartitionProgress, PoolProgress};
use reader::Reader;
use shared::Shared;
use worker::Handler;

impl Group {
    /// Has `n_threads` threads handle the records of these topics, together with whoever else is in the group; see
    /// [`WorkerPool`].
    ///
    /// A record whose handler answers an error, or panics, is tried three times more; if that is no use either, the
    /// pool stops. [`Group::run_with`] takes other settings.
    ///
    /// ```
    /// use std::time::Duration;
    /// use logstead::{Record, Store, TopicConfig};
    ///
    /// let store = Store::in_memory()?;
    /// store.create_topic("orders", TopicConfig::default().partitions(4))?;
    /// let group = store.group("billing");
    /// let pool = group.run(["orders"], 2, |record| {
    ///     let order = std::str::from_utf8(record.value().unwrap_or_default())?;
    ///     println!("to be paid: {order}");
    ///     Ok(())
    /// })?;
    /// pool.wait_caught_up(Duration::from_secs(10))?; // it stands at the end, where a new group begins
    ///
    /// let producer = store.producer()?;
    /// producer.send(Record::to("orders").key("alice").value("2 apples"))?.wait()?;
    /// assert!(pool.wait_caught_up(Duration::from_secs(10))?);
    /// assert_eq!(pool.progress().handled, 1);
    /// pool.stop()?;
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: no thread. [`ErrorKind::Closed`], [`ErrorKind::ReadOnly`]. A thread can not be
    /// started.
    pub fn run<'t, H>(
        &self,
        topics: impl IntoIterator<Item = &'t str>,
        n_threads: usize,
        handler: H,
    ) -> Result<WorkerPool>
    where
        H: Fn(RecordRef<'_>) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        let mut consumer = self.consumer()?;
        consumer.subscribe(topics)?;
        self.run_with(consumer, PoolConfig::default().threads(n_threads), handler)
    }

    /// As [`Group::run`], with other settings, and a consumer of this group that was subscribed as you like: to topics
    /// by pattern, from the beginning, as a static member.
    ///
    /// The pool owns the consumer, and its rebalance listener. Partitions that the consumer has already are read on
    /// from its positions, paused or not; what it returned before is the caller's, and counts as done.
    ///
    /// # Errors
    /// As [`Group::run`]; [`ErrorKind::InvalidConfig`] also for a consumer that commits by itself, is of another group
    /// or did not subscribe, and for settings that contradict each other; [`ErrorKind::NoGroup`]: a consumer of no
    /// group; [`ErrorKind::UnknownTopic`]: the dead-letter topic does not exist.
    pub fn run_with<H>(&self, consumer: Consumer, config: PoolConfig, handler: H) -> Result<WorkerPool>
    where
        H: Fn(RecordRef<'_>) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        config.validate()?;
        WorkerPool::start(self, consumer, config, Arc::new(handler), type_name::<H>())
    }
}

/// Threads that handle the records of a group: see [`Group::run`].
///
/// **Order.** Records of one partition are handled one after another, or, with [`OrderBy::Key`], records of one key.
/// Others are handled at the same time. A record that waits for its retry holds up those behind it, and no thread.
///
/// **At least once.** What is committed of a partition is the lowest offset that is not done, whatever is done above
/// it, every `commit_interval_ms`, when a partition is given back and when the pool stops. After a crash everything
/// above is handled again, so a handler must bear to see a record twice.
///
/// **Errors.** A handler's error, or panic, has the record retried with growing pauses, then [`OnError`] decides: stop,
/// skip, or a dead-letter topic. [`HandlerError::permanent`] spares the retries. When everything fails, a circuit
/// breaker leaves the handler alone for a while instead of burning the retries of one record after the other; then it
/// tries one.
///
/// **Liveness.** A thread of its own polls whatever the handlers do, so a slow handler does not cost the pool its
/// partitions; one that hangs is seen in [`PoolProgress::in_hand`]. A partition that goes to another member first waits
/// for its records in hand.
///
/// **Memory.** `buffered_records` are read ahead; partitions that hold their share are paused.
///
/// A record in a dead-letter topic has the headers of Kafka Connect, as text:
///
/// | header | value |
/// |---|---|
/// | `__connect.errors.topic`, `.partition`, `.offset` | where it was |
/// | `__connect.errors.timestamp` | its timestamp (Connect has no header for it) |
/// | `__connect.errors.connector.name` | the group |
/// | `__connect.errors.task.id` | the thread, counted from 0 |
/// | `__connect.errors.stage` | `TASK_PUT`, as of Connect's sinks |
/// | `__connect.errors.class.name` | the handler's type |
/// | `__connect.errors.exception.class.name` | the error's type, or `panic` |
/// | `__connect.errors.exception.message` | what it says, at most 1,024 characters |
/// | `__connect.errors.exception.stacktrace` | that, and the errors behind it |
///
/// Dropping a pool stops it, as [`WorkerPool::stop`] does, and says nothing of errors.
///
/// ```
/// use std::time::Duration;
/// use logstead::{
///     AutoOffsetReset, ConsumerConfig, HandlerError, OnError, OrderBy, PoolConfig, Record, Store, TopicConfig,
/// };
///
/// let store = Store::in_memory()?;
/// store.create_topic("numbers", TopicConfig::default().partitions(2))?;
/// store.create_topic("numbers.dead", TopicConfig::default())?;
/// let producer = store.producer()?;
/// producer.send_all(["1", "2", "three", "4"].map(|n| Record::to("numbers").key(n).value(n)))?;
///
/// let group = store.group("sums");
/// let from_the_start = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
/// let mut consumer = group.consumer_with(from_the_start)?;
/// consumer.subscribe(["numbers"])?;
/// let dead = OnError::dead_letter("numbers.dead");
/// let config = PoolConfig::default().threads(4).order_by(OrderBy::Key).on_error(dead);
/// let pool = group.run_with(consumer, config, |record| {
///     let number = std::str::from_utf8(record.value().unwrap_or_default())?;
///     let _: u32 = number.parse().map_err(HandlerError::permanent)?;
///     Ok(())
/// })?;
/// assert!(pool.wait_caught_up(Duration::from_secs(10))?);
/// let progress = pool.progress();
/// assert_eq!((progress.handled, progress.dead_lettered, progress.lag()), (3, 1, 0));
/// pool.stop()?;
///
/// let dead = store.topic("numbers.dead")?.partition(0)?.get(0)?.unwrap();
/// assert_eq!(dead.record().value(), Some(b"three".as_slice()));
/// let why = dead.record().headers().get("__connect.errors.exception.message");
/// assert_eq!(why, Some(b"invalid digit found in string".as_slice()));
/// # Ok::<(), logstead::Error>(())
/// ```
#[must_use = "a pool that is dropped stops"]
pub struct WorkerPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Stops a [`WorkerPool`] from anywhere: a signal handler, another thread, its own handler.
#[derive(Clone)]
pub struct Stopper(Arc<Shared>);

impl Stopper {
    /// Has the pool stop, and does not wait for it.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl WorkerPool {
    fn start(
        group: &Group,
        consumer: Consumer,
        config: PoolConfig,
        handler: Arc<Handler>,
        name: &'static str,
    ) -> Result<WorkerPool> {
        consumer.check_commits_by_hand(group)?;
        let dead_letters = match &config.on_error {
            OnError::DeadLetter(topic) => Some(DeadLetters::new(group, topic, name)?),
            _ => None,
        };
        let (clock, waker, threads) = (group.store().clock(), consumer.waker(), config.threads);
        let shared = Arc::new(Shared::new(group, config, clock, dead_letters, waker));
        let reader = Reader::new(&shared, consumer);
        // From here on, dropping it stops and joins what was started.
        let mut pool = WorkerPool { shared, threads: Vec::with_capacity(threads + 1) };
        pool.spawn("logstead-pool".to_owned(), move || reader.run())?;
        for thread in 0..threads {
            let (shared, handler) = (Arc::clone(&pool.shared), Arc::clone(&handler));
            let work = move || worker::run(&shared, thread, &*handler);
            pool.spawn(format!("logstead-pool-{thread}"), work)?;
        }
        Ok(pool)
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = Builder::new().name(name.clone()).spawn(body);
        self.threads.push(thread.map_err(|error| Error::io(name.as_ref(), "start thread", &error))?);
        Ok(())
    }

    /// Has every thread finish the record that it has in hand, commits what is done, and leaves the group.
    ///
    /// Records that were read ahead, and those that wait for a retry, are left to the next pool. It waits for handlers
    /// as long as they take.
    ///
    /// # Errors
    /// What ended the pool, as from [`WorkerPool::join`]; or why what was done could not be committed: the next pool
    /// does it again.
    pub fn stop(self) -> Result<()> {
        self.shared.stop();
        self.join()
    }

    /// Waits until the pool ends: when a [`Stopper`] stops it, or an error does.
    ///
    /// # Errors
    /// [`ErrorKind::HandlerFailed`]: a record was given up, and [`OnError::Stop`] says to stop then. An error of the
    /// dead-letter topic, or of reading or committing; [`ErrorKind::Closed`] when the store was closed.
    /// [`ErrorKind::WouldWaitForItself`] from its own handler: it stops all the same.
    pub fn join(mut self) -> Result<()> {
        self.join_threads()?;
        self.shared.outcome()
    }

    fn join_threads(&mut self) -> Result<()> {
        let own = std::thread::current().id();
        if self.threads.iter().any(|thread| thread.thread().id() == own) {
            self.threads.clear();
            return Err(ErrorKind::WouldWaitForItself { call: "WorkerPool::join" }.into());
        }
        let mut panicked = None;
        for thread in self.threads.drain(..) {
            panicked = thread.join().err().or(panicked);
        }
        // Handlers' panics are caught: it is one of ours.
        match panicked {
            Some(panic) if !std::thread::panicking() => std::panic::resume_unwind(panic),
            _ => Ok(()),
        }
    }

    /// What stops this pool from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// How far it is, and what it is doing now.
    ///
    /// The lag of the whole group, whoever reads its partitions, is in [`Group::lag`].
    pub fn progress(&self) -> PoolProgress {
        self.shared.progress()
    }

    /// Waits until all is done that was committed to its partitions when the call first saw them, for at most
    /// `timeout`; `false` when the time is up. It also waits until partitions are assigned at all.
    ///
    /// # Errors
    /// The pool ended: why, or [`ErrorKind::Closed`] when it was stopped. A topic is gone.
    pub fn wait_caught_up(&self, timeout: Duration) -> Result<bool> {
        self.shared.wait_caught_up(timeout)
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.shared.stop();
        // Nobody is left to hear of an error: `stop` is for those who ask.
        let _ = self.join_threads();
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.shared.group.id();
        f.debug_struct("WorkerPool").field("group", &group).field("config", &self.shared.config).finish()
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stopper").field(&self.0.group.id()).finish()
    }
}
