//! How fast a compaction goes: so many bytes a second, read and written together (Kafka's
//! `log.cleaner.io.max.bytes.per.second`).

use std::time::{Duration, Instant};

/// The longest that is slept without asking whether to stop.
const NAP: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    began: Instant,
    bytes: u64,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Throttle {
        Throttle { bytes_per_second, began: Instant::now(), bytes: 0 }
    }

    /// Counts bytes, and sleeps until they are due, or until `stop`.
    pub(super) fn take(&mut self, bytes: u64, stop: &dyn Fn() -> bool) {
        let Some(rate) = self.bytes_per_second else { return };
        self.bytes += bytes;
        loop {
            let pause = ahead(self.bytes, self.began.elapsed(), rate);
            if pause.is_zero() || stop() {
                return;
            }
            std::thread::sleep(pause.min(NAP));
        }
    }
}

/// How long before its time so many bytes are done.
fn ahead(bytes: u64, elapsed: Duration, rate: u64) -> Duration {
    let due = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
    due.saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_of_the_rate_waits() {
        let second = Duration::from_secs(1);
        assert_eq!(ahead(1_000, second, 1_000), Duration::ZERO);
        assert_eq!(ahead(3_000, second, 1_000), 2 * second);
        assert_eq!(ahead(1, second, u64::MAX), Duration::ZERO);
        assert_eq!(ahead(2, Duration::ZERO, 0), 2 * second);
    }

    #[test]
    fn without_a_rate_nobody_waits_and_one_who_is_to_stop_does_not_either() {
        Throttle::new(None).take(u64::MAX, &|| panic!("it waits"));
        Throttle::new(Some(1)).take(1 << 40, &|| true);
    }
}
