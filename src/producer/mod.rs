//! The producer: records in, batches out.
//!
//! `send` → the lane of the partition (encode into its open batch) → seal → `log` append → [`Delivery`].

mod appended;
mod delivery;
mod hook;
mod lane;
mod numbering;
mod writer;

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

use crate::config::ProducerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::group::OFFSETS_TOPIC;
use crate::limits::GATHER_BYTES;
use crate::log::{Identity, callback};
use crate::record::BatchBuilder;
use crate::sync::{Arc, AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, Weak, in_parallel};
use crate::time::Clock;
use crate::topic::partitioner::{Sticky, partition_of};
use crate::topic::table::Table;
use crate::topic::{BatchReceipt, Record, To, TopicInner, Topics};
use crate::types::Offset;

pub use delivery::{Delivery, Receipt};
use hook::HookSlot;
use lane::{Incoming, Lane};
pub use writer::Writer;

/// What lanes and handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: ProducerConfig,
    clock: Arc<dyn Clock>,
    context: Arc<crate::log::Context>,
    closed: AtomicBool,
    buffered_bytes: AtomicUsize,
    /// Lanes with a batch that lingers, about in the order in which they opened one.
    lingering: Mutex<Vec<Arc<Lane>>>,
    /// Senders that look for room, and what tells them to look again: a count that rises when memory was given back, or
    /// a batch was opened that they can append.
    looking: AtomicUsize,
    room: Mutex<u64>,
    moved: Condvar,
    hook: HookSlot,
    /// Under what batches are written, when the log is to know them again.
    identity: Option<Identity>,
    /// Its name was given to another one.
    fenced: AtomicBool,
    /// Full batches of a lane wait for each other up to this, to go out with one write.
    gather_bytes: usize,
    /// Every lane there is, for whoever closes.
    lanes: Mutex<Vec<Weak<Lane>>>,
    spare: Mutex<Vec<BatchBuilder>>,
}

/// Buffers kept for the next batches: as many as one gathered write frees.
const SPARE_MAX: usize = 16;

/// The lanes to one topic, each made when it is first used.
#[derive(Debug)]
struct TopicLanes {
    shared: Arc<Shared>,
    topic: Arc<TopicInner>,
    lanes: Table<Arc<Lane>>,
    sticky: Sticky,
}

impl TopicLanes {
    #[cold]
    fn new(shared: &Arc<Shared>, topic: &Arc<TopicInner>) -> Self {
        let seed = u64::try_from(shared.clock.now_ms()).unwrap_or(1) ^ (topic.index as u64) << 32;
        let sticky = Sticky::new(seed, topic.partitions());
        TopicLanes { shared: Arc::clone(shared), topic: Arc::clone(topic), lanes: Table::default(), sticky }
    }

    /// The lane of a partition, if there is such a partition.
    #[inline]
    fn lane(&self, partition: u32) -> Option<&Arc<Lane>> {
        if partition >= self.topic.partitions() {
            return None;
        }
        self.lanes.get_or_init(partition as usize, || {
            let lane = Arc::new(Lane::new(&self.shared, &self.topic, partition as i32));
            self.shared.lanes.lock().push(Arc::downgrade(&lane));
            lane
        })
    }

    /// Sends a record that may go to any partition: none is left before its batch is full (L7).
    #[inline]
    fn send_anywhere(&self, record: Incoming<'_>) -> Result<Delivery> {
        let here = || self.lane(self.sticky.current()).ok_or(ErrorKind::Closed);
        match here()?.send(record, Some(&self.sticky))? {
            Some(delivery) => Ok(delivery),
            None => here()?.send(record, None)?.ok_or_else(|| ErrorKind::Closed.into()),
        }
    }
}

struct Core {
    shared: Arc<Shared>,
    topics: Arc<Topics>,
    by_topic: Table<TopicLanes>,
    /// Keeps the store open.
    _store: Arc<dyn Any + Send + Sync>,
}

/// Sends records; cheap to clone, shared by threads, all of them filling the same batches.
///
/// Dropping the last clone hands what was sent to the operating system; [`Producer::close`] also commits it and says
/// how that went.
///
/// ```
/// use logstead::{Record, Store, TopicConfig};
///
/// let store = Store::in_memory()?;
/// let flights = store.create_topic("flights", TopicConfig::default().partitions(4))?;
/// let producer = store.producer()?;
///
/// let receipt = producer.send(Record::to(&flights).key("N14228").value("EWR,IAH"))?.wait()?;
/// assert_eq!(receipt.offset, 0);
///
/// producer.send(Record::to("flights").value("nobody waits for this one"))?;
/// producer.flush()?;
/// # Ok::<(), logstead::Error>(())
/// ```
#[derive(Clone)]
pub struct Producer(Arc<Core>);

impl Producer {
    pub(crate) fn new(
        config: ProducerConfig,
        context: &Arc<crate::log::Context>,
        topics: &Arc<Topics>,
        store: Arc<dyn Any + Send + Sync>,
        identity: Option<Identity>,
    ) -> (Self, Arc<Shared>) {
        // Who does not linger does not gather either.
        let gather_bytes = if config.linger_ms == 0 { 0 } else { GATHER_BYTES };
        let shared = Arc::new(Shared {
            config,
            clock: Arc::clone(&context.clock),
            context: Arc::clone(context),
            closed: AtomicBool::new(false),
            buffered_bytes: AtomicUsize::new(0),
            lingering: Mutex::default(),
            looking: AtomicUsize::new(0),
            room: Mutex::new(0),
            moved: Condvar::new(),
            hook: HookSlot::default(),
            identity,
            fenced: AtomicBool::new(false),
            gather_bytes,
            lanes: Mutex::default(),
            spare: Mutex::default(),
        });
        let core = Core {
            shared: Arc::clone(&shared),
            topics: Arc::clone(topics),
            by_topic: Table::default(),
            _store: store,
        };
        (Producer(Arc::new(core)), shared)
    }

    /// Takes a record into a batch; waits while the buffer is full, for at most `max.block.ms`.
    ///
    /// It also does what is due then and nobody else did: writes a batch that is full, opens a partition that is used
    /// for the first time, syncs a `Disk` partition of which 8 MiB are not synced, makes room under a limit of the
    /// store.
    ///
    /// The record goes to its partition, if it names one, else to the one its key decides (Kafka's murmur2), else to
    /// one that changes batch by batch. Records sent to one partition from one thread keep their order.
    ///
    /// # Errors
    /// The record is still the caller's: [`ErrorKind::UnknownTopic`], [`ErrorKind::UnknownPartition`],
    /// [`ErrorKind::InvalidTopic`] for the topic of committed offsets, [`ErrorKind::TopicDeleted`],
    /// [`ErrorKind::InvalidRecord`] (without a key in a compacted topic, too many headers),
    /// [`ErrorKind::InvalidTimestamp`], [`ErrorKind::RecordTooLarge`], [`ErrorKind::BufferFull`],
    /// [`ErrorKind::StoreFull`], [`ErrorKind::Poisoned`], [`ErrorKind::Damaged`], [`ErrorKind::Closed`],
    /// [`ErrorKind::ProducerFenced`]. Of a producer with a name also the error of the first
    /// record of that partition that was not stored: nothing is stored behind it.
    pub fn send(&self, record: Record<'_>) -> Result<Delivery> {
        match record.to {
            To::Handle(topic) => self.0.send(&topic.inner, record),
            To::Name(name) => self.0.send(&self.0.topics.get(name)?, record),
        }
    }

    /// Sends records and waits for all of them: one receipt each, in order.
    ///
    /// ```
    /// # use logstead::{Record, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # store.create_topic("t", TopicConfig::default())?;
    /// # let producer = store.producer()?;
    /// let receipts = producer.send_all(["a", "b", "c"].map(|value| Record::to("t").value(value)))?;
    /// assert_eq!(receipts.iter().map(|receipt| receipt.offset).collect::<Vec<_>>(), [0, 1, 2]);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first error. It says nothing about the other records: those in front of one that `send` refuses are sent.
    pub fn send_all<'r>(&self, records: impl IntoIterator<Item = Record<'r>>) -> Result<Vec<Receipt>> {
        callback::check_outside("Producer::send_all")?;
        let deliveries = records.into_iter().map(|record| self.send(record)).collect::<Result<Vec<_>>>()?;
        deliveries.into_iter().map(Delivery::wait).collect()
    }

    /// Has `hook` called once for every batch that is begun from now on: with its offsets when it is delivered, as
    /// `acks` defines it, else with the error.
    ///
    /// It is called by whichever thread completed the batch, with no lock held, in order within a partition. It must
    /// not block: others may wait for that thread. It may send; `wait` and `flush` answer
    /// [`ErrorKind::WouldWaitForItself`] in it. A panic in it is swallowed. It may own a clone of this producer, which
    /// then lives, and keeps the store open, until somebody calls [`Producer::close`] or
    /// [`Store::close`](crate::Store::close).
    ///
    /// # Errors
    /// The producer has a hook already; [`ErrorKind::Closed`].
    pub fn on_delivery(&self, hook: impl Fn(&Result<BatchReceipt>) + Send + Sync + 'static) -> Result<()> {
        if self.0.shared.is_closed() {
            return Err(ErrorKind::Closed.into());
        }
        self.0.shared.hook.set(hook)
    }

    /// Appends and commits all that was sent before the call. A `poll` after it sees the records.
    ///
    /// # Errors
    /// The first error since the last flush, whether or not a delivery told it. What it does not concern is committed
    /// all the same.
    pub fn flush(&self) -> Result<()> {
        self.flush_until(None)
    }

    fn flush_until(&self, deadline: Option<Instant>) -> Result<()> {
        callback::check_outside("Producer::flush")?;
        let start = Instant::now();
        let flush = |lane: &Arc<Lane>| match lane.flush(deadline)? {
            true => Ok(()),
            false => Err(ErrorKind::TimedOut { waited: start.elapsed() }.into()),
        };
        let lanes: Vec<_> = self.0.by_topic.iter().flat_map(|topic| topic.lanes.iter()).collect();
        let lanes: Vec<_> = lanes.into_iter().filter(|lane| lane.needs_flush()).collect();
        in_parallel(self.0.shared.context.threads, &lanes, |lane| flush(lane))
    }

    /// Flushes, and takes no more records from any clone.
    ///
    /// # Errors
    /// As [`Producer::flush`]. [`ErrorKind::WouldWaitForItself`] from inside a delivery hook: it was not closed.
    pub fn close(self) -> Result<()> {
        self.close_until(None)
    }

    /// As [`Producer::close`], but waits no longer than `timeout`, and for the end of a sync that it leads then.
    ///
    /// # Errors
    /// As [`Producer::flush`]; [`ErrorKind::TimedOut`]: what is still on its way goes on.
    pub fn close_timeout(self, timeout: Duration) -> Result<()> {
        self.close_until(Instant::now().checked_add(timeout))
    }

    /// The offset of the last record of a partition that this producer stored, or, if it has a name, any producer of
    /// that name before it. `None`: there is none. What it names is committed when this returns.
    ///
    /// What a producer with a name stored in a partition is always the first part of what it sent there. So after a
    /// crash this says where to go on: see [exactly once](crate::guide::exactly_once). It is also the answer when a
    /// delivery ended with an error that leaves open whether the record is stored ([`ErrorKind::Poisoned`]): ask when
    /// [`Store::recover`](crate::Store::recover) has returned.
    ///
    /// ```
    /// # use logstead::{ProducerConfig, Record, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// store.create_topic("lines", TopicConfig::default())?;
    /// let named = || store.producer_with(ProducerConfig::default().producer_name("import"));
    ///
    /// let producer = named()?;
    /// assert_eq!(producer.last_offset("lines", 0)?, None);
    /// producer.send(Record::to("lines").value("one"))?;
    /// producer.send(Record::to("lines").value("two"))?;
    /// producer.close()?;
    /// assert_eq!(named()?.last_offset("lines", 0)?, Some(1));
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::UnknownPartition`], [`ErrorKind::Poisoned`]; the producer is not
    /// idempotent ([`ErrorKind::InvalidConfig`]); [`ErrorKind::WouldWaitForItself`] from inside a delivery hook.
    pub fn last_offset(&self, topic: &str, partition: i32) -> Result<Option<Offset>> {
        callback::check_outside("Producer::last_offset")?;
        let shared = &self.0.shared;
        if shared.is_closed() {
            return Err(shared.closed_error());
        }
        let Some(identity) = &shared.identity else {
            let (name, value, why) =
                ("enable.idempotence", "false".to_owned(), "needed to know a producer again");
            return Err(ErrorKind::InvalidConfig { name, value, why }.into());
        };
        let log = self.0.topics.get(topic)?.log(partition)?;
        let last = log.last_offset_of(&identity.ids())?;
        if let Some(last) = last {
            log.wait_committed(last + 1, None)?;
        }
        Ok(last)
    }

    fn close_until(self, deadline: Option<Instant>) -> Result<()> {
        callback::check_outside("Producer::close")?;
        self.0.shared.close();
        let flushed = self.flush_until(deadline);
        self.0.shared.hook.forget();
        flushed
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("config", &self.0.shared.config).finish_non_exhaustive()
    }
}

/// Refuses the topic of offsets: groups alone write there.
fn check_user_topic(topic: &TopicInner) -> Result<()> {
    if topic.name.as_str() != OFFSETS_TOPIC {
        return Ok(());
    }
    let why = "only groups write there: commit with a consumer, or with Group::commit_offsets";
    Err(ErrorKind::InvalidTopic { topic: OFFSETS_TOPIC.to_owned(), why }.into())
}

impl Core {
    #[inline]
    fn send(&self, topic: &Arc<TopicInner>, record: Record<'_>) -> Result<Delivery> {
        let shared = &self.shared;
        if shared.closed.load(Ordering::Relaxed) {
            return Err(shared.closed_error());
        }
        let bytes = BatchBuilder::size_bound(record.key, record.value, record.headers);
        if bytes > shared.config.max_request_size {
            return Err(too_large(bytes, shared.config.max_request_size));
        }
        let lanes = match self.by_topic.get(topic.index) {
            Some(lanes) => lanes,
            None => self.new_lanes(topic)?,
        };
        let timestamp = record.timestamp_ms.unwrap_or_else(|| shared.clock.now_ms());
        topic.check_record(&record)?;
        let (key, value, headers) = (record.key, record.value, record.headers);
        let incoming = Incoming { timestamp, key, value, headers, bytes };
        let partition = match (record.partition, record.key) {
            (Some(partition), _) => partition,
            _ if shared.config.partitioner.is_some() => self.ask_partitioner(topic, &record),
            (None, Some(key)) if !shared.config.partitioner_ignore_keys => {
                partition_of(key, topic.partitions()) as i32
            }
            (None, _) => return lanes.send_anywhere(incoming),
        };
        match u32::try_from(partition).ok().and_then(|p| lanes.lane(p)) {
            // Taken or refused: `None` is for records that may go elsewhere.
            Some(lane) => lane.send(incoming, None)?.ok_or_else(|| ErrorKind::Closed.into()),
            None => Err(topic.unknown(partition)),
        }
    }

    #[cold]
    fn new_lanes(&self, topic: &Arc<TopicInner>) -> Result<&TopicLanes> {
        check_user_topic(topic)?;
        let new = || TopicLanes::new(&self.shared, topic);
        self.by_topic.get_or_init(topic.index, new).ok_or_else(|| ErrorKind::Closed.into())
    }

    fn ask_partitioner(&self, topic: &TopicInner, record: &Record<'_>) -> i32 {
        let partitioner = self.shared.config.partitioner.as_ref();
        let (key, value) = (record.key, record.value);
        partitioner.map_or(-1, |p| p.0.partition(topic.name.as_str(), key, value, topic.partitions()))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Inside its own hook this would wait for itself: whoever drains, or the close, takes the rest.
        if callback::is_inside() {
            return;
        }
        for lane in self.by_topic.iter().flat_map(|topic| topic.lanes.iter()) {
            lane.drain_for_good();
        }
    }
}

#[cold]
fn too_large(bytes: usize, limit: usize) -> Error {
    ErrorKind::RecordTooLarge { bytes, limit, setting: "max.request.size" }.into()
}

impl Shared {
    /// Takes memory for a batch, if there is some left.
    fn reserve(&self, bytes: usize) -> bool {
        let limit = self.config.buffer_memory;
        self.buffered_bytes
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |used| {
                // One batch always fits, however large.
                (used == 0 || used + bytes <= limit).then_some(used + bytes)
            })
            .is_ok()
    }

    fn release(&self, bytes: usize) {
        self.buffered_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.tell_who_looks();
    }

    /// Called behind every change that may help who waits for room.
    fn tell_who_looks(&self) {
        if self.looking.load(Ordering::SeqCst) > 0 {
            *self.room.lock() += 1;
            self.moved.notify_all();
        }
    }

    /// Waits for memory, by appending the oldest batch if nobody does.
    #[cold]
    fn make_room(&self, bytes: usize) -> Result<()> {
        if callback::check_outside("send").is_err() {
            return Err(ErrorKind::BufferFull { waited: Duration::ZERO }.into());
        }
        self.looking.fetch_add(1, Ordering::SeqCst);
        let found = self.look_for_room(bytes);
        self.looking.fetch_sub(1, Ordering::SeqCst);
        found
    }

    fn look_for_room(&self, bytes: usize) -> Result<()> {
        let start = Instant::now();
        let deadline = start + Duration::from_millis(self.config.max_block_ms);
        loop {
            // Before it is looked: what changes from now on moves it.
            let seen = *self.room.lock();
            let used = self.buffered_bytes.load(Ordering::SeqCst);
            if used == 0 || used + bytes <= self.config.buffer_memory {
                return Ok(());
            }
            let lingering = self.lingering.lock().clone();
            let oldest = lingering
                .into_iter()
                .filter_map(|lane| Some((lane.due()?, lane)))
                .min_by_key(|(due, _)| *due);
            let in_time = match oldest {
                Some((_, lane)) => lane.drain_in_bounds(Some(deadline)),
                None => {
                    let mut room = self.room.lock();
                    *room != seen || !self.moved.wait_until(&mut room, deadline).timed_out()
                }
            };
            if !in_time {
                return Err(ErrorKind::BufferFull { waited: start.elapsed() }.into());
            }
        }
    }

    /// Notes a lane whose batch lingers until then. Called with the lane locked.
    fn list(&self, lane: &Arc<Lane>, now: Duration, due: Duration) {
        self.lingering.lock().push(Arc::clone(lane));
        self.context.wake.wake_by(now, due);
    }

    /// Appends the batches that lingered long enough.
    pub(crate) fn drain_due(&self, now: Duration) {
        // They stay listed meanwhile: a sender in need of memory, or `close`, must find them.
        let lanes = self.lingering.lock().clone();
        lanes.iter().for_each(|lane| lane.drain_due(now));
        self.due_or_delist(&lanes);
    }

    /// When the next batch is due, on the monotonic clock.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let lanes = self.lingering.lock().clone();
        self.due_or_delist(&lanes)
    }

    /// When the first batch of these lanes is due. Lanes without one are taken off the list: with their next they are
    /// listed anew, which wakes who went to sleep over this.
    fn due_or_delist(&self, lanes: &[Arc<Lane>]) -> Option<Duration> {
        let mut first = None;
        let mut empty = HashSet::new();
        for lane in lanes {
            match lane.due_or_delist() {
                Ok(due) => first = Some(first.map_or(due, |first: Duration| first.min(due))),
                Err(delisted) if delisted => drop(empty.insert(Arc::as_ptr(lane))),
                Err(_) => {}
            }
        }
        if !empty.is_empty() {
            // Once each: a lane that was listed again since stands there twice.
            self.lingering.lock().retain(|lane| !empty.remove(&Arc::as_ptr(lane)));
        }
        first
    }

    fn all_lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Lets go of the files of a topic that was just deleted: nobody may send to it any more, and so nobody close it.
    pub(crate) fn leave_deleted(&self, topic: &TopicInner) {
        self.all_lanes().iter().for_each(|lane| lane.leave_deleted(topic));
    }

    /// Appends everything that was sent.
    fn drain_everything(&self) {
        for lane in self.all_lanes() {
            lane.drain_for_good();
        }
        self.lingering.lock().clear();
    }

    /// Appends everything that was sent, takes no more, and lets go of what the user gave.
    pub(crate) fn shut(&self) {
        self.close();
        self.drain_everything();
        self.hook.forget();
    }

    /// As [`Shared::shut`], for a producer whose name is given to another one. When this returns it appends no more.
    pub(crate) fn fence(&self) {
        self.fenced.store(true, Ordering::SeqCst);
        self.shut();
    }

    /// Whether it writes under this name, in an epoch before this one.
    pub(crate) fn is_before(&self, name: &str, identity: &Identity) -> bool {
        let epoch = |identity: &Identity| (identity.ids().len(), identity.epoch);
        self.config.name.as_deref() == Some(name)
            && self.identity.as_ref().is_some_and(|own| epoch(own) < epoch(identity))
    }

    #[cold]
    fn closed_error(&self) -> Error {
        match &self.config.name {
            Some(name) if self.fenced.load(Ordering::SeqCst) => {
                ErrorKind::ProducerFenced { producer: name.to_string() }.into()
            }
            _ => ErrorKind::Closed.into(),
        }
    }

    /// Takes no more records.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Asked with a lane locked: whoever closes locks every lane after this is set, so a record is either refused or
    /// drained.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// A builder for the next batch, with the buffer of an earlier one where there is one.
    fn builder(&self, batch_size: usize) -> BatchBuilder {
        self.spare.lock().pop().unwrap_or_else(|| BatchBuilder::new(batch_size))
    }

    /// Keeps the buffer of a batch that was appended, if not many are kept: idle lanes own no memory.
    fn recycle(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.lock();
        if spare.len() < SPARE_MAX && buffer.capacity() <= 2 * self.config.batch_size {
            spare.push(BatchBuilder::from_buffer(buffer));
        }
    }
}
