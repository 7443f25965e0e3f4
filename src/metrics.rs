//! Counters and histograms that are always kept, and the spans of the feature `tracing`.
//!
//! Invariants:
//! - Nothing is touched per record: counters once per append or read, all of them relaxed, and once per sync a lock
//!   that nobody else waits for.
//! - Every figure takes a bounded amount of memory, and a partition that was never synced has no histogram.
//! - A gauge goes down by exactly what it went up, when what it counts is dropped.

use std::time::Duration;

use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Weak};

/// A `tracing` span from here to the end of the block; nothing at all without the feature.
///
/// A subscriber is code of the user's: no lock is held where a span begins or ends.
macro_rules! span {
    ($($name_and_fields:tt)*) => {
        #[cfg(feature = "tracing")]
        let _span = ::tracing::info_span!(target: "logstead", $($name_and_fields)*).entered();
    };
}
pub(crate) use span;

/// A `tracing` event; nothing at all without the feature.
macro_rules! event {
    ($($fields_and_text:tt)*) => {
        #[cfg(feature = "tracing")]
        ::tracing::info!(target: "logstead", $($fields_and_text)*);
    };
}
pub(crate) use event;

/// Records and bytes that went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// How many records.
    pub records: u64,
    /// Bytes of their batches as stored: compressed where they are.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn plus(self, other: Traffic) -> Traffic {
        Traffic { records: self.records + other.records, bytes: self.bytes + other.bytes }
    }

    /// What came on top of `earlier`.
    pub(crate) fn since(self, earlier: Traffic) -> Traffic {
        Traffic {
            records: self.records.saturating_sub(earlier.records),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

/// Counts [`Traffic`].
#[derive(Debug, Default)]
pub(crate) struct TrafficCounter {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl TrafficCounter {
    /// For whoever a lock keeps alone here: no locked instruction.
    #[inline]
    pub(crate) fn add_alone(&self, records: u64, bytes: u64) {
        let add = |to: &AtomicU64, more| to.store(to.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        add(&self.records, records);
        add(&self.bytes, bytes);
    }

    #[inline]
    pub(crate) fn add(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Traffic {
        Traffic { records: self.records.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// Bytes of one partition that are kept alive by whoever reads.
#[derive(Debug, Default)]
pub(crate) struct Pins(AtomicU64);

impl Pins {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A share of [`Pins`], given back on drop.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Arc<Pins>,
    bytes: u64,
}

impl Pin {
    #[inline]
    pub(crate) fn new(pins: &Arc<Pins>, bytes: u64) -> Pin {
        pins.0.fetch_add(bytes, Ordering::Relaxed);
        Pin { pins: Arc::clone(pins), bytes }
    }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        self.pins.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The pins of all partitions of a store, those of deleted topics too as long as something is pinned.
#[derive(Debug, Default)]
pub(crate) struct AllPins {
    all: Mutex<Vec<Weak<Pins>>>,
    made: AtomicU64,
}

impl AllPins {
    /// Pins for one more opened partition, and a number that no other has.
    pub(crate) fn add(&self) -> (Arc<Pins>, u64) {
        let pins = Arc::new(Pins::default());
        let mut all = self.all.lock();
        if all.len() == all.capacity() {
            all.retain(|pins| pins.strong_count() > 0);
        }
        all.push(Arc::downgrade(&pins));
        (pins, self.made.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.all.lock().iter().filter_map(Weak::upgrade).map(|pins| pins.bytes()).sum()
    }
}

/// Up to 4 µs one microsecond each, then four to an octave, up to 2^25 µs (33 s); the last one takes all above.
const BUCKETS: usize = 4 * 24;

fn bucket_of(micros: u64) -> usize {
    let Some(octave) = micros.checked_ilog2().filter(|octave| *octave >= 2) else {
        return usize::try_from(micros).unwrap_or(0);
    };
    let quarter = (micros >> (octave - 2)) & 3;
    (4 * (octave as usize - 1) + quarter as usize).min(BUCKETS - 1)
}

/// Where a bucket ends: what lies in it is shorter.
fn bucket_end(bucket: usize) -> Duration {
    let micros = match bucket {
        0..4 => bucket as u64 + 1,
        _ => (4 + bucket as u64 % 4 + 1) << (bucket / 4 - 1),
    };
    Duration::from_micros(micros)
}

/// Counts syncs and what they took. The times of a device lie near each other: a few of the buckets are ever needed.
#[derive(Debug, Default)]
pub(crate) struct SyncCounter(Mutex<SyncBuckets>);

#[derive(Debug, Default)]
struct SyncBuckets {
    nanos: u64,
    /// Buckets that are not empty, rising, and how many syncs lie in them.
    counts: Vec<(u8, u32)>,
}

impl SyncCounter {
    pub(crate) fn add(&self, took: Duration) {
        let bucket = bucket_of(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)) as u8;
        let mut buckets = self.0.lock();
        buckets.nanos = buckets.nanos.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        match buckets.counts.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(at) => {
                if let Some((_, count)) = buckets.counts.get_mut(at) {
                    *count = count.saturating_add(1);
                }
            }
            Err(at) => {
                buckets.counts.reserve_exact(1);
                buckets.counts.insert(at, (bucket, 1));
            }
        }
    }

    pub(crate) fn get(&self) -> SyncTimes {
        let buckets = self.0.lock();
        let mut counts = Vec::new();
        for (bucket, count) in &buckets.counts {
            counts.resize(usize::from(*bucket), 0);
            counts.push(u64::from(*count));
        }
        SyncTimes { total: Duration::from_nanos(buckets.nanos), counts }
    }
}

/// How many syncs there were, and what they took.
///
/// A sync here is one group commit: the time in which the device took all that was waited for, however many files it
/// lay in. Its length is kept in a histogram of fixed size: a percentile is never too short, and at most a quarter (or
/// one microsecond) too long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncTimes {
    total: Duration,
    /// By bucket, up to the last that is not empty.
    counts: Vec<u64>,
}

impl SyncTimes {
    /// How many.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they took, on average; `None` when there was none.
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| Duration::from_secs_f64(self.total.as_secs_f64() / count as f64))
    }

    /// The time within which `percent` of them ended, from 0 to 100 (the longest); `None` when there was none.
    ///
    /// Times of more than 33 seconds count as 33 seconds.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil().max(1.0);
        let mut below = 0;
        self.buckets().find_map(|(end, count)| {
            below += count;
            (below as f64 >= rank).then_some(end)
        })
    }

    /// Buckets that are not empty, rising: where they end, and how many syncs lie in them.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let all = self.counts.iter().enumerate();
        all.filter(|(_, count)| **count > 0).map(|(bucket, count)| (bucket_end(bucket), *count))
    }

    pub(crate) fn add(&mut self, other: &SyncTimes) {
        self.total = self.total.saturating_add(other.total);
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// What came on top of `earlier`.
    pub(crate) fn since(&self, earlier: &SyncTimes) -> SyncTimes {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        let between = self.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(before));
        let mut counts: Vec<u64> = between.collect();
        counts.truncate(counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
        SyncTimes { total: self.total.saturating_sub(earlier.total), counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_on_each_other_and_are_a_quarter_wide_at_most() {
        let mut begin = 0;
        for bucket in 0..BUCKETS {
            let end = u64::try_from(bucket_end(bucket).as_micros()).unwrap();
            assert_eq!((bucket_of(begin), bucket_of(end - 1)), (bucket, bucket), "{begin}..{end}");
            assert!(end - begin == 1 || (end - begin) * 4 <= begin, "{begin}..{end}");
            begin = end;
        }
        assert_eq!(begin, 1 << 25);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_percentile_is_never_too_short_and_at_most_a_quarter_too_long() {
        let syncs = SyncCounter::default();
        assert_eq!((syncs.get().count(), syncs.get().percentile(50.0), syncs.get().mean()), (0, None, None));
        for micros in 1..=10_000 {
            syncs.add(Duration::from_micros(micros));
        }
        let times = syncs.get();
        assert_eq!((times.count(), times.mean()), (10_000, Some(Duration::from_nanos(5_000_500))));
        for (percent, exact) in [(0.0, 1), (1.0, 100), (50.0, 5_000), (99.0, 9_900), (100.0, 10_000)] {
            let found = times.percentile(percent).unwrap().as_micros();
            assert!((exact..=exact + exact / 4 + 1).contains(&found), "{percent} %: {found} for {exact}");
        }
    }

    #[test]
    fn times_add_up_and_differences_are_what_came_between() {
        let syncs = SyncCounter::default();
        syncs.add(Duration::from_millis(1));
        let before = syncs.get();
        syncs.add(Duration::from_secs(100));
        let mut sum = before.clone();
        let between = syncs.get().since(&before);
        assert_eq!((between.count(), between.mean()), (1, Some(Duration::from_secs(100))));
        assert_eq!(between.percentile(50.0), Some(bucket_end(BUCKETS - 1)));
        sum.add(&between);
        assert_eq!(sum, syncs.get());
        let mut none = SyncTimes::default();
        none.add(&sum);
        assert_eq!(none, sum);
    }

    #[test]
    fn what_is_pinned_counts_until_it_is_dropped_also_when_its_partition_is_gone() {
        let all = AllPins::default();
        let ((first, a), (second, b)) = (all.add(), all.add());
        assert_ne!(a, b);
        let pin = Pin::new(&first, 100);
        let other = Pin::new(&second, 7);
        drop(first);
        assert_eq!((all.bytes(), second.bytes()), (107, 7));
        drop(pin);
        drop(other);
        assert_eq!((all.bytes(), second.bytes()), (0, 0));
        for _ in 0..1_000 {
            all.add();
        }
        assert!(all.all.lock().capacity() < 100, "gone partitions are forgotten");
    }
}
