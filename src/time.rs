//! Time as the crate sees it: a trait, the system's clock, and one that is moved by hand.

use std::fmt;
use std::time::Duration;

use crate::sync::{Arc, AtomicU64, Ordering};

/// Where a store takes its time from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Wall time in milliseconds since 1970, as good as the system's coarse clock (4 ms on Linux).
    fn now_ms(&self) -> i64;
    /// Time that never goes back, from an origin of the clock's choice.
    fn monotonic(&self) -> Duration;
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[cfg(target_os = "linux")]
const REALTIME: rustix::time::ClockId = rustix::time::ClockId::RealtimeCoarse;
#[cfg(target_os = "linux")]
const MONOTONIC: rustix::time::ClockId = rustix::time::ClockId::MonotonicCoarse;
#[cfg(not(target_os = "linux"))]
const REALTIME: rustix::time::ClockId = rustix::time::ClockId::Realtime;
#[cfg(not(target_os = "linux"))]
const MONOTONIC: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let now = rustix::time::clock_gettime(REALTIME);
        now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
    }

    fn monotonic(&self) -> Duration {
        let now = rustix::time::clock_gettime(MONOTONIC);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// A clock that stands still until it is moved: for tests that must not wait.
///
/// Clones share the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    ms: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that shows `ms` milliseconds since 1970.
    pub fn new(ms: u64) -> Self {
        ManualClock { ms: Arc::new(AtomicU64::new(ms)) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.ms.load(Ordering::SeqCst)).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.ms.load(Ordering::SeqCst))
    }
}
