//! Time as the crate sees it: a trait, the system's clock, one that is moved by hand, and the wall clock as far as it
//! can be believed.

use std::fmt;
use std::time::Duration;

use crate::limits::CLOCK_TOLERANCE;
use crate::sync::{Arc, AtomicI64, AtomicU64, Mutex, Ordering};

/// Where a store takes its time from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Wall time in milliseconds since 1970, as good as the system's coarse clock (4 ms on Linux).
    fn now_ms(&self) -> i64;
    /// Time that never goes back, from an origin of the clock's choice.
    fn monotonic(&self) -> Duration;
    /// As `monotonic`, and it goes on while the machine sleeps, where there is such a clock: what the wall clock is
    /// compared with before anything is deleted for its age.
    fn steady(&self) -> Duration {
        self.monotonic()
    }
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

#[cfg(target_os = "linux")]
const STEADY: rustix::time::ClockId = rustix::time::ClockId::Boottime;
// On macOS this one goes on while the machine sleeps.
#[cfg(not(target_os = "linux"))]
const STEADY: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

fn since_origin(clock: rustix::time::ClockId) -> Duration {
    let now = rustix::time::clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let now = rustix::time::clock_gettime(REALTIME);
        now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
    }

    fn monotonic(&self) -> Duration {
        since_origin(MONOTONIC)
    }

    fn steady(&self) -> Duration {
        since_origin(STEADY)
    }
}

/// A clock that stands still until it is moved: for tests that must not wait.
///
/// Clones share the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    ms: Arc<AtomicU64>,
    /// How far the wall clock is off.
    off_ms: Arc<AtomicI64>,
}

impl ManualClock {
    /// A clock that shows `ms` milliseconds since 1970.
    pub fn new(ms: u64) -> Self {
        ManualClock { ms: Arc::new(AtomicU64::new(ms)), off_ms: Arc::default() }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Sets the wall clock forward, or back: as a person does, or a time server. No time goes by.
    pub fn jump(&self, by_ms: i64) {
        self.off_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        let ms = i64::try_from(self.ms.load(Ordering::SeqCst)).unwrap_or(i64::MAX);
        ms.saturating_add(self.off_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.ms.load(Ordering::SeqCst))
    }
}

/// A moment that both clocks agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Agreed {
    wall_ms: i64,
    steady: Duration,
}

/// What time it is, as far as that is sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trusted {
    pub(crate) now_ms: i64,
    /// How far the wall clock is ahead of that; 0 when it is believed.
    pub(crate) ahead_ms: u64,
}

/// The wall clock, as far as the steady one confirms it: one that jumped forward must not make everything old.
///
/// At first it is believed. From then on it may be ahead of the steady clock by [`CLOCK_TOLERANCE`] from one look to
/// the next; further ahead, the steady clock counts on from where both agreed. Behind, the wall clock counts: it makes
/// nothing old.
#[derive(Debug, Default)]
pub(crate) struct Steady(Mutex<Option<Agreed>>);

impl Steady {
    pub(crate) fn now(&self, clock: &dyn Clock) -> Trusted {
        // A clock is the user's: it is asked with no lock held.
        let seen = Agreed { wall_ms: clock.now_ms(), steady: clock.steady() };
        let mut agreed = self.0.lock();
        let (trusted, now) = trust(*agreed, seen);
        *agreed = Some(now);
        trusted
    }

    /// Believes the wall clock from now on.
    pub(crate) fn believe(&self, clock: &dyn Clock) {
        let seen = Agreed { wall_ms: clock.now_ms(), steady: clock.steady() };
        *self.0.lock() = Some(seen);
    }
}

/// The rule: what is believed, and what both clocks agree on from now on.
fn trust(agreed: Option<Agreed>, seen: Agreed) -> (Trusted, Agreed) {
    let sure = Trusted { now_ms: seen.wall_ms, ahead_ms: 0 };
    let Some(agreed) = agreed else { return (sure, seen) };
    let went_by = i64::try_from(seen.steady.saturating_sub(agreed.steady).as_millis()).unwrap_or(i64::MAX);
    let expected = agreed.wall_ms.saturating_add(went_by);
    let tolerance = i64::try_from(CLOCK_TOLERANCE.as_millis()).unwrap_or(i64::MAX);
    match seen.wall_ms.saturating_sub(expected) {
        ahead if ahead > tolerance => (Trusted { now_ms: expected, ahead_ms: ahead.unsigned_abs() }, agreed),
        // Far behind: what was agreed stays, so that it may come back.
        ahead if ahead < -tolerance => (sure, agreed),
        _ => (sure, seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn f32_a_wall_clock_that_jumped_forward_is_believed_no_further_than_the_steady_one() {
        let (clock, steady) = (ManualClock::new(1_700_000_000_000), Steady::default());
        let begin = clock.now_ms();
        assert_eq!(steady.now(&clock), Trusted { now_ms: begin, ahead_ms: 0 });
        clock.jump(3_650 * DAY_MS);
        clock.advance(Duration::from_secs(60));
        let jumped = steady.now(&clock);
        assert_eq!((jumped.now_ms, jumped.ahead_ms), (begin + 60_000, 3_650 * DAY_MS as u64));
        // It goes on with the steady clock, however often it is asked.
        for i in 2..100 {
            clock.advance(Duration::from_secs(60));
            assert_eq!(steady.now(&clock).now_ms, begin + i * 60_000);
        }
        // Set right again, it is believed again.
        clock.jump(-3_650 * DAY_MS);
        assert_eq!(steady.now(&clock), Trusted { now_ms: clock.now_ms(), ahead_ms: 0 });
        clock.jump(DAY_MS);
        assert_ne!(steady.now(&clock).ahead_ms, 0);
        steady.believe(&clock);
        assert_eq!(steady.now(&clock), Trusted { now_ms: clock.now_ms(), ahead_ms: 0 });
    }

    #[test]
    fn f31_a_wall_clock_that_jumped_back_counts_and_may_come_back() {
        let (clock, steady) = (ManualClock::new(1_700_000_000_000), Steady::default());
        steady.now(&clock);
        clock.jump(-400 * DAY_MS);
        assert_eq!(steady.now(&clock), Trusted { now_ms: clock.now_ms(), ahead_ms: 0 });
        clock.advance(Duration::from_secs(60));
        assert_eq!(steady.now(&clock), Trusted { now_ms: clock.now_ms(), ahead_ms: 0 });
        clock.jump(400 * DAY_MS);
        assert_eq!(steady.now(&clock), Trusted { now_ms: clock.now_ms(), ahead_ms: 0 });
    }

    #[test]
    fn small_corrections_add_up_without_making_the_clock_suspect() {
        let (clock, steady) = (ManualClock::new(1_700_000_000_000), Steady::default());
        for _ in 0..1_000 {
            clock.jump(i64::try_from(CLOCK_TOLERANCE.as_millis()).unwrap());
            assert_eq!(steady.now(&clock), Trusted { now_ms: clock.now_ms(), ahead_ms: 0 });
            clock.advance(Duration::from_secs(300));
        }
    }
}
