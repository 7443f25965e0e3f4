//! What `send` gives back: a place in a batch, and the way to wait for it.

use std::fmt;
use std::time::{Duration, Instant};

use super::hook::check_outside;
use super::lane::Lane;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Completion, Log};
use crate::record::{BatchHeader, TimestampType};
use crate::sync::{Arc, AtomicI64, Mutex, OnceLock, Ordering};
use crate::topic::BatchReceipt;
use crate::types::{Acks, Durability, Offset};

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The partition it went to.
    pub partition: i32,
    /// The offset it got; -1 with [`Acks::None`], which does not wait for one.
    pub offset: Offset,
    /// Its timestamp, as stored: in a `LogAppendTime` topic the log's (with [`Acks::None`] its own, as sent).
    pub timestamp_ms: i64,
    /// What it is safe from now.
    pub durability: Durability,
}

const PENDING: i64 = -1;
const FAILED: i64 = -2;

/// The fate of a batch, shared by its deliveries.
#[derive(Debug)]
pub(super) struct BatchCell {
    pub(super) lane: Arc<Lane>,
    /// The first offset of the batch, or what it waits for.
    base_offset: AtomicI64,
    end_offset: AtomicI64,
    failure: OnceLock<Error>,
    /// Where it was appended. Not looked up again: after a recovery the partition has another log, in which the same
    /// offsets may be other records'.
    log: OnceLock<Arc<Log>>,
    /// The time that the log gave all its records; -1: they kept their own.
    append_time: AtomicI64,
    base_timestamp: i64,
    /// Timestamps too far from the first for a delivery's 32 bits.
    far_timestamps: Mutex<Vec<(u32, i64)>>,
}

/// Marks a timestamp that lies in `far_timestamps`.
const FAR: i32 = i32::MIN;

impl BatchCell {
    pub(super) fn new(lane: &Arc<Lane>, base_timestamp: i64) -> Self {
        BatchCell {
            lane: Arc::clone(lane),
            base_offset: AtomicI64::new(PENDING),
            end_offset: AtomicI64::new(PENDING),
            failure: OnceLock::new(),
            log: OnceLock::new(),
            append_time: AtomicI64::new(-1),
            base_timestamp,
            far_timestamps: Mutex::new(Vec::new()),
        }
    }

    #[inline]
    pub(super) fn delivery(self: &Arc<Self>, index: u32, timestamp: i64) -> Delivery {
        let near =
            i32::try_from(timestamp.wrapping_sub(self.base_timestamp)).ok().filter(|delta| *delta != FAR);
        let timestamp_delta = near.unwrap_or_else(|| {
            self.far_timestamps.lock().push((index, timestamp));
            FAR
        });
        Delivery { cell: Arc::clone(self), index, timestamp_delta }
    }

    /// The batch was appended, as `header` says.
    pub(super) fn appended(&self, log: &Arc<Log>, header: &BatchHeader) {
        let _ = self.log.set(Arc::clone(log));
        if header.timestamp_type() == TimestampType::LogAppendTime {
            self.append_time.store(header.max_timestamp, Ordering::Relaxed);
        }
        self.end_offset.store(header.next_offset(), Ordering::Relaxed);
        self.base_offset.store(header.base_offset, Ordering::Release);
    }

    /// The batch was not appended.
    pub(super) fn fail(&self, error: &Error) {
        let _ = self.failure.set(error.clone());
        self.base_offset.store(FAILED, Ordering::Release);
    }

    fn receipt(&self, durability: Durability) -> BatchReceipt {
        let offsets = self.base_offset.load(Ordering::Acquire)..self.end_offset.load(Ordering::Relaxed);
        BatchReceipt::new(self.lane.topic_name(), self.lane.partition(), offsets, durability)
    }

    fn log(&self) -> Result<&Arc<Log>> {
        self.log.get().ok_or_else(|| ErrorKind::Closed.into())
    }

    /// `None`: not appended yet.
    fn base_offset(&self) -> Option<Result<Offset>> {
        match self.base_offset.load(Ordering::Acquire) {
            PENDING => None,
            FAILED => Some(Err(self.failure.get().cloned().unwrap_or_else(|| ErrorKind::Closed.into()))),
            base => Some(Ok(base)),
        }
    }
}

impl Completion for BatchCell {
    fn complete(&self, outcome: Result<Durability>) {
        self.lane.hook().call(&outcome.map(|durability| self.receipt(durability)));
    }
}

/// A record on its way. Wait for it, look at it now and then, or drop it: the record is sent all the same, and the
/// error of a dropped one comes out of [`Producer::flush`](crate::Producer::flush).
pub struct Delivery {
    cell: Arc<BatchCell>,
    index: u32,
    timestamp_delta: i32,
}

impl Delivery {
    /// Waits until the record is delivered, as the producer's `acks` define it.
    ///
    /// Never waits for `linger.ms`: whoever waits appends the batch, and leads the sync if nobody else does.
    ///
    /// # Errors
    /// Why the batch was not appended ([`ErrorKind::Full`], …), or not committed ([`ErrorKind::Poisoned`]);
    /// [`ErrorKind::TimedOut`] after `delivery.timeout.ms`, when neither is known.
    pub fn wait(self) -> Result<Receipt> {
        let waited = self.cell.lane.delivery_timeout();
        self.wait_timeout(waited)?.ok_or_else(|| ErrorKind::TimedOut { waited }.into())
    }

    /// As [`Delivery::wait`], for a limited time; `None`: not yet.
    ///
    /// # Errors
    /// As [`Delivery::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Receipt>> {
        check_outside("Delivery::wait")?;
        if let Some(done) = self.try_receipt() {
            return done.map(Some);
        }
        self.wait_until(Some(Instant::now() + timeout))
    }

    /// The receipt, if the record is delivered by now. Drives nothing.
    pub fn try_receipt(&self) -> Option<Result<Receipt>> {
        let lane = &self.cell.lane;
        if lane.acks() == Acks::None {
            return Some(Ok(self.receipt(None, Durability::PageCache)));
        }
        let offset = match self.cell.base_offset()? {
            Ok(base) => base + Offset::from(self.index),
            Err(error) => return Some(Err(error)),
        };
        if lane.acks() == Acks::Leader {
            return Some(Ok(self.receipt(Some(offset), Durability::PageCache)));
        }
        let log = match self.cell.log() {
            Ok(log) => log,
            Err(error) => return Some(Err(error)),
        };
        if log.high_watermark() > offset {
            return Some(Ok(self.receipt(Some(offset), log.durability())));
        }
        log.failure().map(|failure| Err(failure.clone()))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<Receipt>> {
        loop {
            if let Some(done) = self.try_receipt() {
                return done.map(Some);
            }
            let in_time = match self.cell.base_offset() {
                None => self.cell.lane.drive(deadline)?,
                Some(base) => {
                    self.cell.log()?.wait_committed(base? + Offset::from(self.index) + 1, deadline)?
                }
            };
            if !in_time {
                return self.try_receipt().transpose();
            }
        }
    }

    fn receipt(&self, offset: Option<Offset>, durability: Durability) -> Receipt {
        let append_time = self.cell.append_time.load(Ordering::Relaxed);
        let timestamp_ms = match self.timestamp_delta {
            _ if append_time >= 0 => append_time,
            FAR => {
                let far = self.cell.far_timestamps.lock();
                far.iter().find(|(index, _)| *index == self.index).map_or(-1, |(_, timestamp)| *timestamp)
            }
            delta => self.cell.base_timestamp + i64::from(delta),
        };
        Receipt {
            partition: self.cell.lane.partition(),
            offset: offset.unwrap_or(-1),
            timestamp_ms,
            durability,
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("partition", &self.cell.lane.partition())
            .field("receipt", &self.try_receipt())
            .finish()
    }
}

const _: () = assert!(size_of::<Result<Delivery>>() <= 16);
