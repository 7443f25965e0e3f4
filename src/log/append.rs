//! From sealed batches to bytes in the active segment: offsets, one write, publish.

use super::producer_state::goes_on;
use super::producers::First;
use super::roll::{RollCheck, should_roll};
use super::trim::is_full;
use super::{Log, Tail, callback};
use crate::config::TopicConfig;
use crate::error::{ErrorKind, Result};
use crate::metrics::span;
use crate::record::{Sealed, TimestampType};
use crate::segment::Segment;
use crate::sync::{Arc, MutexGuard, Ordering};
use crate::types::{Durability, Offset};

/// How many closed segments of a log may wait for their sync: each keeps a descriptor.
const SEALED_MAX: usize = 16;

impl Log {
    /// Appends the first of `batches`, and as many more as go into the same segment, with one write. Returns how
    /// many; their headers then carry their offsets. On an error nothing was appended.
    ///
    /// A batch that its producer has sent before is not appended again, and carries the offsets that it got then.
    pub(crate) fn append(
        self: &Arc<Self>,
        batches: &mut [Sealed],
        expected_end: Option<Offset>,
    ) -> Result<usize> {
        let count = self.append_quietly(batches, expected_end);
        self.tell_append(count.is_ok());
        count
    }

    /// As [`Log::append`], for a caller that holds a lock: nobody is told of it, so nothing of a user's runs. When the
    /// lock is given back, [`Log::tell_append`] must follow.
    pub(crate) fn append_quietly(
        self: &Arc<Self>,
        batches: &mut [Sealed],
        expected_end: Option<Offset>,
    ) -> Result<usize> {
        let config = self.config();
        let fitting = fitting(&config, batches)?;
        let batches = batches.get_mut(..fitting).unwrap_or_default();
        self.ready_producers()?;
        if config.timestamp_type == TimestampType::LogAppendTime {
            // A checksum: before the lock.
            batches.iter_mut().for_each(|batch| batch.stamp_append_time(self.context.clock.now_ms()));
        }
        let wanted: u64 = batches.iter().map(|batch| batch.bytes().len() as u64).sum();
        let admitted = self.context.upkeep.quota.admit(wanted);
        let written = admitted.and_then(|()| self.roomy_tail(batches, expected_end)).and_then(
            |(mut tail, first)| match (first, &mut *batches) {
                (First::Duplicate { base_offset, timestamp }, [batch, ..]) => {
                    batch.place_duplicate(base_offset, self.leader_epoch, timestamp);
                    Ok(1)
                }
                (_, batches) => self.write(&mut tail, batches),
            },
        );
        if written.as_ref().is_err_and(is_full) {
            self.context.upkeep.ask();
        }
        written
    }

    /// Tells readers and those who sync that something was appended; those who wait, that the log failed.
    pub(crate) fn tell_append(self: &Arc<Self>, appended: bool) {
        if self.failure().is_some() {
            self.tell_failure();
            self.run_completions();
        }
        if !appended {
            return;
        }
        self.context.unsynced.note_dirty(self);
        match self.config().durability {
            Durability::PageCache => {
                self.bells.ring();
                if self.flush.sealed_len() > 0 {
                    self.mark_dirty();
                }
            }
            Durability::Disk => {
                // A reader that sleeps commits what it waits for.
                self.bells.ring();
                self.mark_dirty();
            }
        }
    }

    /// A directory of others can end anywhere: no offset may pass the last one there is.
    fn check_offsets_left(&self, next: Offset, batches: &[Sealed]) -> Result<()> {
        let wanted: Offset =
            batches.iter().map(|batch| Offset::from(batch.header().last_offset_delta) + 1).sum();
        if wanted < Offset::MAX - next {
            return Ok(());
        }
        let why = format!("it ends at offset {next}, and none are left behind it");
        Err(ErrorKind::Damaged { topic: self.topic.to_string(), partition: self.partition, why }.into())
    }

    /// The tail, with an active segment that has room for the first batch, unless that is in the log already.
    fn roomy_tail(
        &self,
        batches: &[Sealed],
        expected_end: Option<Offset>,
    ) -> Result<(MutexGuard<'_, Tail>, First)> {
        let mut tail = self.tail.lock();
        loop {
            while tail.rolling {
                self.rolled.wait(&mut tail);
            }
            self.check_writable()?;
            self.check_offsets_left(tail.next_offset, batches)?;
            if let Some(expected) = expected_end
                && expected != tail.next_offset
            {
                let (topic, partition, actual) = (self.topic.to_string(), self.partition, tail.next_offset);
                return Err(ErrorKind::OffsetMismatch { topic, partition, expected, actual }.into());
            }
            let first = batches.first().map_or(Ok(First::Append), |batch| self.check_first(batch))?;
            if matches!(first, First::Duplicate { .. }) {
                return Ok((tail, first));
            }
            let config = self.config();
            let full = batches
                .first()
                .is_some_and(|batch| self.is_full_for(&config, &tail, &[], tail.next_offset, batch));
            if !full {
                return Ok((tail, first));
            }
            tail = self.roll_with(tail, &config)?;
        }
    }

    /// Makes an active segment at the log's end, with the tail unlocked meanwhile.
    fn roll_with<'l>(
        &'l self,
        mut tail: MutexGuard<'l, Tail>,
        config: &TopicConfig,
    ) -> Result<MutexGuard<'l, Tail>> {
        tail.rolling = true;
        let base = tail.next_offset;
        let old = Arc::clone(&tail.active);
        drop(tail);
        let rolled = self.roll(config, &old, base);
        tail = self.tail.lock();
        tail.rolling = false;
        if let Ok(new) = &rolled {
            tail.active = Arc::clone(new);
            tail.segment_ms = self.jittered_segment_ms(config);
        }
        self.rolled.notify_all();
        rolled.map(|_| tail)
    }

    /// Closes the active segment, if it holds anything, and makes the next.
    pub(crate) fn roll_active(self: &Arc<Self>) -> Result<()> {
        self.roll_active_if(|_| true).map(drop)
    }

    /// As [`Log::roll_active`], if the log's end is as wanted. Whether the active segment is empty now.
    pub(super) fn roll_active_if(self: &Arc<Self>, wanted: impl Fn(Offset) -> bool) -> Result<bool> {
        // Their snapshot is made with the next segment; those before it may be about to go.
        self.ready_producers()?;
        let config = self.config();
        let mut tail = self.tail.lock();
        while tail.rolling {
            self.rolled.wait(&mut tail);
        }
        self.check_writable()?;
        if tail.active.written() == 0 || !wanted(tail.next_offset) {
            return Ok(tail.active.written() == 0);
        }
        drop(self.roll_with(tail, &config)?);
        // What was closed waits for its sync, also where nobody appends any more.
        self.mark_dirty();
        Ok(true)
    }

    /// Whether the active segment, with the `pending` batches behind it, must not take this batch.
    fn is_full_for(
        &self,
        config: &TopicConfig,
        tail: &Tail,
        pending: &[Sealed],
        next: Offset,
        batch: &Sealed,
    ) -> bool {
        let fill = tail.active.fill();
        let pending_bytes: u64 = pending.iter().map(|batch| batch.bytes().len() as u64).sum();
        let first_timestamp =
            fill.first_timestamp.or(pending.first().map(|first| first.header().max_timestamp));
        should_roll(&RollCheck {
            segment_base: tail.active.base(),
            segment_bytes: tail.active.written() + pending_bytes,
            segment_bytes_max: config.segment_bytes,
            segment_ms: tail.segment_ms,
            created_ms: tail.active.created_ms,
            first_timestamp,
            indexes_full: fill.is_full_with(pending.len()),
            incoming_bytes: batch.bytes().len() as u64,
            incoming_last_offset: next + Offset::from(batch.header().last_offset_delta),
            incoming_max_timestamp: batch.header().max_timestamp,
            now_ms: if first_timestamp.is_some_and(|first| first >= 0) {
                0
            } else {
                self.context.clock.now_ms()
            },
        })
    }

    /// Patches, writes and publishes what goes into the active segment.
    fn write(&self, tail: &mut Tail, batches: &mut [Sealed]) -> Result<usize> {
        // With the tail locked, so that it does not change before this is published.
        let config = self.config();
        let mut next = tail.next_offset;
        let mut bytes = 0;
        let mut count = 0;
        let mut records = 0;
        while let Some((pending, batch)) = batches
            .split_at_mut_checked(count)
            .and_then(|(pending, rest)| Some((&*pending, rest.first_mut()?)))
        {
            if count > 0
                && (self.is_full_for(&config, tail, pending, next, batch) || !may_follow(pending, batch))
            {
                break;
            }
            batch.place(next, self.leader_epoch);
            next = batch.header().next_offset();
            bytes += batch.bytes().len() as u64;
            records += u64::from(batch.header().count.unsigned_abs());
            count += 1;
        }
        let group = batches.get(..count).unwrap_or_default();
        let written = match group {
            [one] => tail.active.write(&[one.bytes()]),
            many => tail.active.write(&many.iter().map(Sealed::bytes).collect::<Vec<_>>()),
        };
        let position = written
            .map_err(|failed| if failed.cut_back { failed.error } else { self.fail(&failed.error) })?;
        self.take_in(&tail.active, group);
        tail.active.publish(position, group.iter().map(Sealed::header));
        tail.next_offset = next;
        self.written.add_alone(records, bytes);
        self.context.upkeep.quota.took(bytes);
        self.log_end.store(next, Ordering::SeqCst);
        match config.durability {
            Durability::PageCache => {
                tail.active.show(position + bytes);
                self.high_watermark.store(next, Ordering::SeqCst);
            }
            Durability::Disk => {
                self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        Ok(count)
    }

    /// Closes the active segment and makes the next, outside the tail's lock: `rolling` keeps others away.
    fn roll(&self, config: &TopicConfig, old: &Arc<Segment>, base: Offset) -> Result<Arc<Segment>> {
        span!("roll", topic = %self.topic, partition = self.partition, base);
        // First what goes with the segments there are: who sees the new one finds it. A crash may take it.
        if base > old.base() {
            let _ = self.take_snapshot(false);
            let _ = old.flush_aborted(false);
            if self.recovery_point() >= base {
                old.settle_index();
            }
        }
        let now = self.context.clock.now_ms();
        let new = Segment::create(
            &self.context.storage,
            &self.dir,
            base,
            Self::segment_config(config, self.contiguous),
            &self.source.pins,
            now,
        )?;
        let new = Arc::new(new);
        let anew = base == old.base();
        if !anew {
            old.seal();
            self.flush.add_sealed(old);
        }
        let mut segments = self.segments.write();
        if anew {
            // An empty segment whose indexes are full: made anew at the same base (E9).
            segments.pop();
        }
        segments.push(Arc::clone(&new));
        Ok(new)
    }

    pub(super) fn jittered_segment_ms(&self, config: &TopicConfig) -> u64 {
        let roll_ms = config.roll_ms();
        let jitter = config.segment_jitter_ms.min(roll_ms);
        if jitter == 0 {
            return roll_ms;
        }
        let mut bytes = [0; 8];
        // No luck with the random source: no jitter is a good value too.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        roll_ms - u64::from_ne_bytes(bytes) % jitter
    }

    /// Keeps the bound on unsynced bytes: whoever crossed it syncs, or waits for who does. For those who appended,
    /// and never for a leader.
    pub(crate) fn bound_unsynced(self: &Arc<Self>) -> Result<()> {
        // Whoever appends from inside a hook must not wait for a sync: the next one will.
        if !callback::is_inside() {
            if self.unsynced_bytes.load(Ordering::Relaxed) > self.config().flush_bytes {
                self.wait_committed(self.log_end(), None)?;
            }
            if self.flush.sealed_len() > SEALED_MAX {
                self.sync_all()?;
            }
        }
        self.context.bound_dirty();
        Ok(())
    }

    fn mark_dirty(self: &Arc<Self>) {
        let now = self.context.clock.monotonic();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1);
        if self.dirty_since_ms.load(Ordering::SeqCst) == 0 {
            self.dirty_since_ms.store(now_ms + 1, Ordering::SeqCst);
        }
        self.context.unsynced.list(self, now);
    }
}

/// Whether a batch can go out with one write behind others: of the same producer it must go on where they end. Of
/// another one nothing is known here.
fn may_follow(pending: &[Sealed], batch: &Sealed) -> bool {
    let (header, last) = (batch.header(), pending.last().map(Sealed::header));
    header.producer_id < 0
        || last.is_some_and(|last| last.producer_id == header.producer_id && goes_on(last, header))
}

/// How many batches stand in front of the first that is too large; an error if it is the first of all.
fn fitting(config: &TopicConfig, batches: &[Sealed]) -> Result<usize> {
    for (i, batch) in batches.iter().enumerate() {
        match check_size(config, batch.bytes().len()) {
            Err(error) if i == 0 => return Err(error),
            Err(_) => return Ok(i),
            Ok(()) => {}
        }
    }
    Ok(batches.len())
}

fn check_size(config: &TopicConfig, bytes: usize) -> Result<()> {
    let too_large = |limit, setting| Err(ErrorKind::RecordTooLarge { bytes, limit, setting }.into());
    if bytes > config.max_message_bytes {
        return too_large(config.max_message_bytes, "max.message.bytes");
    }
    if bytes as u64 > config.segment_bytes {
        return too_large(usize::try_from(config.segment_bytes).unwrap_or(usize::MAX), "segment.bytes");
    }
    Ok(())
}
