//! When a segment is closed: a pure decision (Kafka's `LogSegment.shouldRoll`).

use crate::limits::SEGMENT_BYTES_MAX;
use crate::types::Offset;

/// The active segment, and the batch that wants to go into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RollCheck {
    pub(crate) segment_base: Offset,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_bytes_max: u64,
    /// `segment.ms`, less this segment's jitter.
    pub(crate) segment_ms: u64,
    pub(crate) created_ms: i64,
    /// The youngest timestamp of the segment's first batch.
    pub(crate) first_timestamp: Option<i64>,
    pub(crate) indexes_full: bool,
    pub(crate) incoming_bytes: u64,
    pub(crate) incoming_last_offset: Offset,
    pub(crate) incoming_max_timestamp: i64,
    pub(crate) now_ms: i64,
}

pub(crate) fn should_roll(check: &RollCheck) -> bool {
    let too_large =
        check.segment_bytes + check.incoming_bytes > check.segment_bytes_max.min(SEGMENT_BYTES_MAX);
    let offset_overflow = !(0..=Offset::from(i32::MAX))
        .contains(&(check.incoming_last_offset.saturating_sub(check.segment_base)));
    let waited = match check.first_timestamp {
        // Event time, where the records have one: a replay of old data rolls as it did when it was new.
        Some(first) if first >= 0 => check.incoming_max_timestamp.saturating_sub(first),
        _ => check.now_ms.saturating_sub(check.created_ms),
    };
    let too_old = i128::from(waited) > i128::from(check.segment_ms);
    // An empty segment has room for any batch; only its indexes or its base can be in the way.
    (check.segment_bytes > 0 && (too_large || too_old)) || check.indexes_full || offset_overflow
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: RollCheck = RollCheck {
        segment_base: 0,
        segment_bytes: 90,
        segment_bytes_max: 100,
        segment_ms: 1_000,
        created_ms: 10_000,
        first_timestamp: None,
        indexes_full: false,
        incoming_bytes: 10,
        incoming_last_offset: 9,
        incoming_max_timestamp: -1,
        now_ms: 10_000,
    };

    #[test]
    fn e01_a_batch_that_fits_exactly_stays_one_byte_more_rolls() {
        assert!(!should_roll(&BASE));
        assert!(should_roll(&RollCheck { incoming_bytes: 11, ..BASE }));
    }

    #[test]
    fn e02_without_timestamps_the_wall_clock_rolls_but_never_an_empty_segment() {
        let late = RollCheck { now_ms: 11_001, ..BASE };
        assert!(should_roll(&late));
        assert!(!should_roll(&RollCheck { now_ms: 11_000, ..BASE }));
        assert!(!should_roll(&RollCheck { segment_bytes: 0, ..late }));
    }

    #[test]
    fn e03_with_timestamps_event_time_rolls() {
        let timed =
            RollCheck { first_timestamp: Some(500), incoming_max_timestamp: 500, now_ms: i64::MAX, ..BASE };
        assert!(!should_roll(&timed));
        assert!(!should_roll(&RollCheck { incoming_max_timestamp: 1_500, ..timed }));
        assert!(should_roll(&RollCheck { incoming_max_timestamp: 1_501, ..timed }));
    }

    #[test]
    fn e06_an_offset_too_far_from_the_base_rolls() {
        assert!(!should_roll(&RollCheck { incoming_last_offset: i64::from(i32::MAX), ..BASE }));
        assert!(should_roll(&RollCheck { incoming_last_offset: i64::from(i32::MAX) + 1, ..BASE }));
        assert!(should_roll(&RollCheck { segment_base: 10, incoming_last_offset: 9, ..BASE }));
    }

    #[test]
    fn e07_full_indexes_roll() {
        assert!(should_roll(&RollCheck { indexes_full: true, ..BASE }));
    }

    #[test]
    fn an_empty_segment_takes_a_batch_of_any_size() {
        assert!(!should_roll(&RollCheck { segment_bytes: 0, incoming_bytes: 1_000, ..BASE }));
    }
}
