//! What `send` gives back: a place in a batch, and the way to wait for it.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::hook::Hook;
use super::lane::Lane;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Completion, Log, callback};
use crate::record::{BatchHeader, TimestampType};
use crate::sync::{Arc, AtomicBool, Mutex, OnceLock, Ordering};
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
    /// What it is safe from now; `None` with [`Acks::None`], which does not wait to know.
    pub durability: Option<Durability>,
}

/// Where a batch went. After a recovery another log gives the same offsets to other records, so the log is part of it.
#[derive(Debug)]
struct Placed {
    log: Arc<Log>,
    offsets: Range<Offset>,
    /// The time that the log gave all records, if they did not keep their own.
    append_time: Option<i64>,
}

/// The fate of a batch, shared by its deliveries.
#[derive(Debug)]
pub(super) struct BatchCell {
    pub(super) lane: Arc<Lane>,
    pub(super) hook: Hook,
    /// Empty until the batch is appended, or can not be.
    fate: OnceLock<Result<Placed>>,
    base_timestamp: i64,
    /// A delivery answered with the error.
    told: AtomicBool,
    /// Timestamps too far from the first for a delivery's 32 bits.
    far_timestamps: Mutex<Vec<(u32, i64)>>,
}

/// Marks a timestamp that lies in `far_timestamps`.
const FAR: i32 = i32::MIN;

impl BatchCell {
    pub(super) fn new(lane: &Arc<Lane>, hook: Hook, base_timestamp: i64) -> Self {
        let (fate, far_timestamps) = (OnceLock::new(), Mutex::default());
        let told = AtomicBool::new(false);
        BatchCell { lane: Arc::clone(lane), hook, fate, base_timestamp, told, far_timestamps }
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
        let append_time = match header.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        let offsets = header.base_offset..header.next_offset();
        let _ = self.fate.set(Ok(Placed { log: Arc::clone(log), offsets, append_time }));
    }

    /// The batch was not appended.
    pub(super) fn fail(&self, error: &Error) {
        let _ = self.fate.set(Err(error.clone()));
    }

    pub(super) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    fn receipt(&self, durability: Durability) -> BatchReceipt {
        let offsets =
            self.fate.get().and_then(|fate| fate.as_ref().ok()).map_or(-1..-1, |p| p.offsets.clone());
        BatchReceipt::new(self.lane.topic_name(), self.lane.partition(), offsets, durability)
    }
}

impl Completion for BatchCell {
    fn complete(&self, outcome: Result<Durability>) {
        self.hook.call(&outcome.map(|durability| self.receipt(durability)));
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

    /// As [`Delivery::wait`], for a limited time; `None`: not yet. A sync that this call leads is not broken off: it
    /// may take that much longer.
    ///
    /// # Errors
    /// As [`Delivery::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Receipt>> {
        callback::check_outside("Delivery::wait")?;
        if let Some(done) = self.try_receipt() {
            return done.map(Some);
        }
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// The receipt, if the record is delivered by now. Drives nothing.
    pub fn try_receipt(&self) -> Option<Result<Receipt>> {
        let acks = self.cell.lane.acks();
        if acks == Acks::None {
            return Some(Ok(self.receipt(None, None)));
        }
        let placed = match self.cell.fate.get()? {
            Ok(placed) => placed,
            Err(error) => {
                self.cell.told.store(true, Ordering::Relaxed);
                return Some(Err(error.clone()));
            }
        };
        if acks == Acks::Leader {
            return Some(Ok(self.receipt(Some(placed), Some(Durability::PageCache))));
        }
        if placed.log.high_watermark() >= placed.offsets.end {
            return Some(Ok(self.receipt(Some(placed), Some(placed.log.durability(placed.offsets.end)))));
        }
        placed.log.failure().map(|failure| Err(failure.clone()))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<Receipt>> {
        loop {
            if let Some(done) = self.try_receipt() {
                return done.map(Some);
            }
            let in_time = match self.cell.fate.get() {
                None => self.cell.lane.drive(deadline)?,
                Some(Ok(placed)) => placed.log.wait_committed(placed.offsets.end, deadline)?,
                Some(Err(error)) => return Err(error.clone()),
            };
            if !in_time {
                return self.try_receipt().transpose();
            }
        }
    }

    fn receipt(&self, placed: Option<&Placed>, durability: Option<Durability>) -> Receipt {
        let own_time = || match self.timestamp_delta {
            FAR => {
                let far = self.cell.far_timestamps.lock();
                far.iter().find(|(index, _)| *index == self.index).map_or(-1, |(_, timestamp)| *timestamp)
            }
            delta => self.cell.base_timestamp + i64::from(delta),
        };
        Receipt {
            partition: self.cell.lane.partition(),
            offset: placed.map_or(-1, |placed| placed.offsets.start + Offset::from(self.index)),
            timestamp_ms: placed.and_then(|placed| placed.append_time).unwrap_or_else(own_time),
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
