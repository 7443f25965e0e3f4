//! From sealed batches to bytes in the active segment: offsets, one write, publish.

use super::roll::{RollCheck, should_roll};
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
        if config.timestamp_type == TimestampType::LogAppendTime {
            // A checksum: before the lock.
            batches.iter_mut().for_each(|batch| batch.stamp_append_time(self.context.clock.now_ms()));
        }
        self.roomy_tail(batches, expected_end).and_then(|mut tail| self.write(&mut tail, batches))
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

    /// The tail, with an active segment that has room for the first batch.
    fn roomy_tail(&self, batches: &[Sealed], expected_end: Option<Offset>) -> Result<MutexGuard<'_, Tail>> {
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
            let config = self.config();
            let full = batches
                .first()
                .is_some_and(|batch| self.is_full_for(&config, &tail, &[], tail.next_offset, batch));
            if !full {
                return Ok(tail);
            }
            tail.rolling = true;
            let base = tail.next_offset;
            let old = Arc::clone(&tail.active);
            drop(tail);
            let rolled = self.roll(&config, &old, base);
            tail = self.tail.lock();
            tail.rolling = false;
            if let Ok(new) = &rolled {
                tail.active = Arc::clone(new);
                tail.segment_ms = self.jittered_segment_ms(&config);
            }
            self.rolled.notify_all();
            rolled?;
        }
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
            if count > 0 && self.is_full_for(&config, tail, pending, next, batch) {
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
        tail.active.publish(position, group.iter().map(Sealed::header));
        tail.next_offset = next;
        self.written.add_alone(records, bytes);
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
        let mut segments = self.segments.read().clone();
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
        if base == old.base() {
            // An empty segment whose indexes are full: made anew at the same base (E9).
            segments.pop();
        } else {
            old.seal();
            self.flush.add_sealed(old);
        }
        segments.push(Arc::clone(&new));
        *self.segments.write() = segments;
        Ok(new)
    }

    pub(super) fn jittered_segment_ms(&self, config: &TopicConfig) -> u64 {
        let jitter = config.segment_jitter_ms.min(config.segment_ms);
        if jitter == 0 {
            return config.segment_ms;
        }
        let mut bytes = [0; 8];
        // No luck with the random source: no jitter is a good value too.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        config.segment_ms - u64::from_ne_bytes(bytes) % jitter
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
        let now_ms = u64::try_from(self.context.clock.monotonic().as_millis()).unwrap_or(u64::MAX - 1);
        if self.dirty_since_ms.load(Ordering::SeqCst) == 0 {
            self.dirty_since_ms.store(now_ms + 1, Ordering::SeqCst);
        }
        self.context.unsynced.list(self);
    }
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
