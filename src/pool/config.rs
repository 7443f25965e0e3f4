//! How a worker pool works: threads, order, and what becomes of records that fail.

use std::time::Duration;

use crate::{ErrorKind, Result};

/// Which records of a pool wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OrderBy {
    /// Those of one partition: each is handled after the one before it. At most as many threads are at work as
    /// partitions are assigned.
    #[default]
    Partition,
    /// Those of one key in one partition; records without a key wait for none. Any number of threads can share one
    /// partition.
    Key,
}

/// What becomes of a record that its handler could not do, after all retries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnError {
    /// The pool stops, and says so by [`ErrorKind::HandlerFailed`]. The record is not committed: the next pool of the
    /// group gets it again.
    #[default]
    Stop,
    /// It counts as done.
    Skip,
    /// It goes to this topic, which must exist, and counts as done when it is committed there: key, value, headers and
    /// timestamp as they were, and what happened in headers by Kafka Connect's names (see [`WorkerPool`]).
    ///
    /// [`WorkerPool`]: crate::WorkerPool
    DeadLetter(String),
}

impl OnError {
    /// [`OnError::DeadLetter`] to a topic.
    pub fn dead_letter(topic: &str) -> Self {
        OnError::DeadLetter(topic.to_owned())
    }
}

/// How a [`WorkerPool`](crate::WorkerPool) works.
///
/// ```
/// use logstead::{OnError, OrderBy, PoolConfig};
///
/// let config = PoolConfig::default()
///     .threads(8)
///     .order_by(OrderBy::Key)
///     .retries(5)
///     .on_error(OnError::dead_letter("orders.dead"));
/// # let _ = config;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    pub(super) threads: usize,
    pub(super) order: OrderBy,
    pub(super) on_error: OnError,
    pub(super) retries: u32,
    pub(super) retry_backoff_ms: u64,
    pub(super) retry_backoff_max_ms: u64,
    pub(super) breaker_failures: u32,
    pub(super) breaker_pause_ms: u64,
    pub(super) breaker_pause_max_ms: u64,
    pub(super) commit_interval_ms: u64,
    pub(super) buffered_records: usize,
    pub(super) revoke_timeout_ms: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            threads: 1,
            order: OrderBy::Partition,
            on_error: OnError::Stop,
            retries: 3,
            retry_backoff_ms: 100,
            retry_backoff_max_ms: 1_000,
            breaker_failures: 10,
            breaker_pause_ms: 1_000,
            breaker_pause_max_ms: 60_000,
            commit_interval_ms: 5_000,
            buffered_records: 1_000,
            revoke_timeout_ms: 60_000,
        }
    }
}

impl PoolConfig {
    /// How many threads call the handler, at least 1. Default 1. One more reads and commits.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Which records wait for each other. Default [`OrderBy::Partition`].
    #[must_use]
    pub fn order_by(mut self, order: OrderBy) -> Self {
        self.order = order;
        self
    }

    /// What becomes of a record that can not be done. Default [`OnError::Stop`].
    #[must_use]
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// How often a record is tried again after its first failure, before it is given up. Default 3; `u32::MAX`: as
    /// often as it takes.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// `retry.backoff.ms`: how long a record waits for its first retry; twice as long for each more, and by up to a
    /// fifth more or less, as chance has it (Kafka's `ExponentialBackoff`). Default 100.
    #[must_use]
    pub fn retry_backoff_ms(mut self, ms: u64) -> Self {
        self.retry_backoff_ms = ms;
        self
    }

    /// `retry.backoff.max.ms`: the longest that a record waits for a retry. Default 1000.
    #[must_use]
    pub fn retry_backoff_max_ms(mut self, ms: u64) -> Self {
        self.retry_backoff_max_ms = ms;
        self
    }

    /// After so many failures in a row, of whichever records, without a success, the handler is left alone for
    /// [`breaker_pause_ms`](PoolConfig::breaker_pause_ms). Default 10; 0: never.
    #[must_use]
    pub fn breaker_failures(mut self, failures: u32) -> Self {
        self.breaker_failures = failures;
        self
    }

    /// How long the handler is left alone. Then one record is tried: if that fails too, the pause is twice as long.
    /// Default 1000.
    #[must_use]
    pub fn breaker_pause_ms(mut self, ms: u64) -> Self {
        self.breaker_pause_ms = ms;
        self
    }

    /// The longest that the handler is left alone between two attempts. Default 60000.
    #[must_use]
    pub fn breaker_pause_max_ms(mut self, ms: u64) -> Self {
        self.breaker_pause_max_ms = ms;
        self
    }

    /// How often what is done is committed; also when partitions are given back, and when the pool stops. Default 5000,
    /// as `auto.commit.interval.ms`.
    #[must_use]
    pub fn commit_interval_ms(mut self, ms: u64) -> Self {
        self.commit_interval_ms = ms;
        self
    }

    /// About how many records are read ahead of the handler: each partition has its share, and is paused when it holds
    /// that much. A partition can hold one poll (`max.poll.records`) more. Default 1000.
    #[must_use]
    pub fn buffered_records(mut self, records: usize) -> Self {
        self.buffered_records = records;
        self
    }

    /// How long a partition that goes to another member waits for the records that are being handled. Then it goes all
    /// the same: these are not committed, and the other member does them again. Keep it below `max.poll.interval.ms`.
    /// Default 60000.
    #[must_use]
    pub fn revoke_timeout_ms(mut self, ms: u64) -> Self {
        self.revoke_timeout_ms = ms;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        let positive = |name, value: usize| match value {
            0 => Err(ErrorKind::InvalidConfig { name, value: "0".to_owned(), why: "must be at least 1" }),
            _ => Ok(()),
        };
        positive("threads", self.threads)?;
        positive("buffered_records", self.buffered_records)?;
        let at_most = |name, value: u64, max: u64, why| match value > max {
            true => Err(ErrorKind::InvalidConfig { name, value: value.to_string(), why }),
            false => Ok(()),
        };
        let why = "must be at most retry.backoff.max.ms";
        at_most("retry.backoff.ms", self.retry_backoff_ms, self.retry_backoff_max_ms, why)?;
        let why = "must be at most breaker_pause_max_ms";
        at_most("breaker_pause_ms", self.breaker_pause_ms, self.breaker_pause_max_ms, why)?;
        Ok(())
    }

    /// Whether a record that failed `attempts` times is tried again.
    pub(super) fn tries_again(&self, attempts: u32) -> bool {
        attempts <= self.retries || self.retries == u32::MAX
    }

    /// How long a record that failed `attempts` times waits; `chance` is below 1.
    pub(super) fn backoff(&self, attempts: u32, chance: f64) -> Duration {
        const JITTER: f64 = 0.2;
        let doubled = self.retry_backoff_ms as f64 * 2_f64.powi(attempts.clamp(1, 64) as i32 - 1);
        let ms = doubled.min(self.retry_backoff_max_ms as f64) * (1.0 - JITTER + 2.0 * JITTER * chance);
        Duration::from_micros((ms * 1e3) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_its_maximum_and_varies_by_a_fifth() {
        let config = PoolConfig::default();
        for (attempts, ms) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (u32::MAX, 1_000)] {
            assert_eq!(config.backoff(attempts, 0.5), Duration::from_millis(ms), "{attempts}");
            assert_eq!(config.backoff(attempts, 0.0), Duration::from_millis(ms * 8 / 10));
            let most = config.backoff(attempts, 1.0 - f64::EPSILON);
            assert!(most <= Duration::from_millis(ms * 12 / 10), "{most:?}");
        }
    }

    #[test]
    fn retries_are_counted_behind_the_first_attempt() {
        let tried = |retries: u32| {
            (1..20).take_while(move |n| PoolConfig::default().retries(retries).tries_again(*n))
        };
        assert_eq!(tried(0).count(), 0);
        assert_eq!(tried(3).count(), 3);
        assert!(PoolConfig::default().retries(u32::MAX).tries_again(u32::MAX));
    }

    #[test]
    fn settings_that_contradict_each_other_are_errors() {
        let fine = PoolConfig::default();
        fine.validate().unwrap();
        for wrong in [
            fine.clone().threads(0),
            fine.clone().buffered_records(0),
            fine.clone().retry_backoff_ms(1_001),
            fine.clone().breaker_pause_ms(60_001),
        ] {
            assert!(matches!(wrong.validate().unwrap_err().kind(), ErrorKind::InvalidConfig { .. }));
        }
    }
}
