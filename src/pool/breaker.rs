//! The circuit breaker: when everything fails, the handler is left alone for a while.
//!
//! Invariants:
//! - While it is open nothing is attempted; behind its pause one attempt at a time is.
//! - Any success closes it.

use std::time::Duration;

use super::config::PoolConfig;

/// Whether a pool's handler is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Breaker {
    /// It is.
    #[default]
    Closed,
    /// It is not: it failed too often in a row, and is left alone for a while.
    Open,
    /// With one record, to see whether it fails still.
    Trying,
}

#[derive(Debug)]
pub(super) struct BreakerState {
    /// In a row, without a success.
    failures: u32,
    /// Not before this; `None`: closed.
    open_until: Option<Duration>,
    pause: Duration,
    trying: bool,
}

impl BreakerState {
    pub(super) fn new() -> Self {
        BreakerState { failures: 0, open_until: None, pause: Duration::ZERO, trying: false }
    }

    pub(super) fn view(&self) -> Breaker {
        match (self.open_until, self.trying) {
            (None, _) => Breaker::Closed,
            (_, false) => Breaker::Open,
            (_, true) => Breaker::Trying,
        }
    }

    /// Whether an attempt may begin now.
    pub(super) fn allows(&self, now: Duration) -> bool {
        self.open_until.is_none_or(|until| !self.trying && now >= until)
    }

    /// When an attempt may begin, if time alone decides that.
    pub(super) fn due(&self) -> Option<Duration> {
        self.open_until.filter(|_| !self.trying)
    }

    /// An attempt begins; whether it is the one that decides.
    pub(super) fn begin(&mut self) -> bool {
        self.trying = self.open_until.is_some();
        self.trying
    }

    /// The handler did its work: a record is done, or found to be one that can not be.
    pub(super) fn succeeded(&mut self) {
        *self = BreakerState::new();
    }

    /// An attempt failed; `decisive` is what [`BreakerState::begin`] said of it.
    pub(super) fn failed(&mut self, decisive: bool, now: Duration, config: &PoolConfig) {
        self.failures = self.failures.saturating_add(1);
        let first = Duration::from_millis(config.breaker_pause_ms);
        let longest = Duration::from_millis(config.breaker_pause_max_ms);
        let pause = match self.open_until {
            Some(_) if decisive => (self.pause * 2).min(longest),
            // It was opened while this one was on its way.
            Some(_) => return,
            None if config.breaker_failures == 0 || self.failures < config.breaker_failures => return,
            None => first,
        };
        (self.pause, self.open_until, self.trying) = (pause, Some(now + pause), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn config() -> PoolConfig {
        PoolConfig::default().breaker_failures(3).breaker_pause_ms(100).breaker_pause_max_ms(350)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_tries_one_behind_each_pause() {
        let (config, mut breaker) = (config(), BreakerState::new());
        for _ in 0..2 {
            assert!(!breaker.begin());
            breaker.failed(false, ms(0), &config);
        }
        assert!(breaker.allows(ms(0)));
        breaker.failed(false, ms(0), &config);
        let mut now = ms(0);
        for pause in [100, 200, 350, 350] {
            assert_eq!((breaker.view(), breaker.due()), (Breaker::Open, Some(now + ms(pause))));
            assert!(!breaker.allows(now + ms(pause - 1)));
            now += ms(pause);
            assert!(breaker.allows(now));
            assert!(breaker.begin());
            assert_eq!((breaker.view(), breaker.due()), (Breaker::Trying, None));
            assert!(!breaker.allows(now + ms(1_000_000)), "one at a time");
            breaker.failed(true, now, &config);
        }
        now += ms(350);
        assert!(breaker.allows(now) && breaker.begin());
        breaker.succeeded();
        assert_eq!(breaker.view(), Breaker::Closed);
        assert!(breaker.allows(ms(0)) && !breaker.begin());
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let (config, mut breaker) = (config(), BreakerState::new());
        for _ in 0..10 {
            breaker.failed(false, ms(0), &config);
            breaker.failed(false, ms(0), &config);
            breaker.succeeded();
        }
        assert_eq!(breaker.view(), Breaker::Closed);
    }

    #[test]
    fn what_was_on_its_way_when_it_opened_does_not_lengthen_the_pause() {
        let (config, mut breaker) = (config(), BreakerState::new());
        for _ in 0..3 {
            breaker.failed(false, ms(0), &config);
        }
        breaker.failed(false, ms(50), &config);
        assert_eq!(breaker.due(), Some(ms(100)));
        assert!(breaker.begin());
        breaker.failed(false, ms(120), &config);
        assert_eq!(breaker.view(), Breaker::Trying, "the other one decides");
    }

    #[test]
    fn it_can_be_switched_off() {
        let (config, mut breaker) = (config().breaker_failures(0), BreakerState::new());
        for _ in 0..1_000 {
            breaker.failed(false, ms(0), &config);
        }
        assert!(breaker.allows(ms(0)));
    }
}
