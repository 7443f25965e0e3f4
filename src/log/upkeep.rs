//! What keeps a store's space in bounds, as far as its logs take part: the quota, the time that makes records old,
//! files that wait to be unlinked, and whom to ask for room.
//!
//! Invariants:
//! - What the user supplies (positions of groups, a clock) is called with no lock held.
//! - Room is made only by callers that may wait: nobody who drains a lane, leads a sync or runs a hook.

use std::fmt;
use std::time::Duration;

use super::retention::GroupPositions;
use super::{Log, Wake, callback};
use crate::error::{Error, ErrorKind, HeldSpace, Result};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, Weak};
use crate::time::{Clock, Steady, Trusted};

/// Files that are to go: of segments that left their log a while ago.
#[derive(Debug)]
pub(crate) struct Doomed {
    /// On the monotonic clock.
    pub(crate) due: Duration,
    pub(crate) log: Weak<Log>,
    /// In its directory.
    pub(crate) names: Vec<String>,
    /// Of records.
    pub(crate) bytes: u64,
}

/// Frees what may go, and waits for that; whether it freed anything.
type Relief = Box<dyn Fn() -> bool + Send + Sync>;

#[derive(Default)]
pub(crate) struct Upkeep {
    steady: Steady,
    /// When the store was opened, in milliseconds since 1970.
    opened_ms: OnceLock<i64>,
    pub(crate) quota: Quota,
    /// Who knows how far groups have read.
    pub(crate) positions: OnceLock<Arc<dyn GroupPositions>>,
    pub(crate) doomed: Mutex<Vec<Doomed>>,
    relief: OnceLock<Relief>,
    /// Somebody needs room now.
    asked: AtomicBool,
    /// Wakes the thread that cleans.
    pub(crate) wake: Wake,
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep")
            .field("quota", &self.quota)
            .field("doomed", &self.doomed)
            .finish_non_exhaustive()
    }
}

impl Upkeep {
    /// For a store that is being opened.
    pub(crate) fn begin(&self, clock: &dyn Clock) {
        let now = self.now(clock);
        // Called once, by whoever opens.
        let _ = self.opened_ms.set(now.now_ms);
    }

    /// The time that makes records old.
    pub(crate) fn now(&self, clock: &dyn Clock) -> Trusted {
        self.steady.now(clock)
    }

    /// Goes by the wall clock from now on, however far it jumped.
    pub(crate) fn believe(&self, clock: &dyn Clock) {
        self.steady.believe(clock);
    }

    pub(crate) fn opened_ms(&self) -> i64 {
        self.opened_ms.get().copied().unwrap_or(i64::MAX)
    }

    pub(crate) fn relieve_by(&self, relief: impl Fn() -> bool + Send + Sync + 'static) {
        // Called once, by whoever opens.
        let _ = self.relief.set(Box::new(relief));
    }

    /// Has room made soon, by whoever cleans.
    pub(crate) fn ask(&self) {
        if !self.asked.swap(true, Ordering::SeqCst) {
            self.wake.wake_always();
        }
    }

    /// Whether somebody asked for room since this was called last.
    pub(crate) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Makes room now, if this thread may wait; whether any was made.
    pub(crate) fn relieve(&self) -> bool {
        !callback::is_inside() && self.relief.get().is_some_and(|relief| relief())
    }

    /// Makes room in a store that is nearly full, and refuses more for one that is full all the same. For callers that
    /// may wait.
    #[inline]
    pub(crate) fn check_room(&self) -> Result<()> {
        if self.quota.is_tight() { self.make_room() } else { Ok(()) }
    }

    #[cold]
    fn make_room(&self) -> Result<()> {
        self.relieve();
        self.quota.admit(1)
    }

    /// Takes files that are due out of the queue; all of them, if `all`.
    pub(crate) fn take_due(&self, now: Duration, all: bool) -> Vec<Doomed> {
        let mut doomed = self.doomed.lock();
        doomed.extract_if(.., |files| all || files.due <= now).collect()
    }

    /// When the next files are due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.doomed.lock().iter().map(|files| files.due).min()
    }
}

/// How many bytes of records a store may hold, and holds.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    limit: OnceLock<u64>,
    used: AtomicU64,
    /// Little is left, or nothing.
    tight: AtomicBool,
    /// Who holds most of it, as it was found last.
    held: Mutex<Arc<[HeldSpace]>>,
}

impl Quota {
    pub(crate) fn begin(&self, limit: u64, used: u64) {
        // Called once, by whoever opens.
        let _ = self.limit.set(limit);
        self.took(used);
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit.get().copied()
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether less than a sixteenth is left.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }

    pub(crate) fn took(&self, bytes: u64) {
        if let Some(limit) = self.limit() {
            let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if used > limit - limit / 16 {
                self.tight.store(true, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn gave_back(&self, bytes: u64) {
        if let Some(limit) = self.limit() {
            let less = |used: u64| Some(used.saturating_sub(bytes));
            let before = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or(0);
            if before.saturating_sub(bytes) <= limit - limit / 16 {
                self.tight.store(false, Ordering::Relaxed);
            }
        }
    }

    /// An error if the store has no room for so many bytes more.
    #[inline]
    pub(crate) fn admit(&self, bytes: u64) -> Result<()> {
        match self.limit() {
            Some(limit) if self.used().saturating_add(bytes) > limit => Err(self.full(limit)),
            _ => Ok(()),
        }
    }

    #[cold]
    fn full(&self, max_store_bytes: u64) -> Error {
        let held = Arc::clone(&self.held.lock());
        ErrorKind::StoreFull { max_store_bytes, used_bytes: self.used(), held }.into()
    }

    pub(crate) fn note_held(&self, held: Vec<HeldSpace>) {
        *self.held.lock() = held.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_what_comes_and_goes_and_says_when_it_gets_tight() {
        let quota = Quota::default();
        quota.took(1 << 60);
        quota.admit(1 << 60).unwrap();
        assert!(!quota.is_tight(), "without a limit nothing is full");
        let quota = Quota::default();
        quota.begin(1_600, 1_000);
        quota.took(400);
        assert!(!quota.is_tight());
        quota.took(101);
        assert!(quota.is_tight());
        quota.admit(99).unwrap();
        let error = quota.admit(100).unwrap_err();
        assert!(error.is_retriable());
        assert!(matches!(
            error.kind(),
            ErrorKind::StoreFull { max_store_bytes: 1_600, used_bytes: 1_501, .. }
        ));
        quota.took(99);
        quota.gave_back(1_500);
        assert!(!quota.is_tight());
        assert_eq!(quota.used(), 100);
        quota.gave_back(1_000);
        assert_eq!(quota.used(), 0);
    }
}
