//! What there is to compact, and in which portions: pure decisions over the segments as they are (Kafka's
//! `LogCleanerManager` and `Cleaner.groupSegmentsBySize`).

use std::ops::Range;

use crate::config::TopicConfig;
use crate::types::Offset;

/// A closed segment, as far as a decision needs to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) base: Offset,
    pub(crate) bytes: u64,
    pub(crate) index_bytes: u64,
    pub(crate) time_index_bytes: u64,
    /// Of its youngest record, or when the file was last written; looked up when `min.compaction.lag.ms` asks.
    pub(crate) largest_timestamp: i64,
    /// Of its first batch; looked up when `max.compaction.lag.ms` asks.
    pub(crate) first_timestamp: Option<i64>,
}

/// A log at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'v> {
    /// Rising by base; the active one is not among them.
    pub(crate) closed: &'v [Piece],
    pub(crate) active_base: Offset,
    pub(crate) log_start: Offset,
    pub(crate) log_end: Offset,
    /// Below it all transactions are decided, and all records committed.
    pub(crate) stable_end: Offset,
    /// Where the last compaction ended.
    pub(crate) cleaned_to: Option<Offset>,
}

/// The part of a log that a compaction may work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cleanable {
    /// What lies below it was compacted before.
    pub(crate) first_dirty: Offset,
    /// A segment's base: what lies behind it stays as it is.
    pub(crate) first_uncleanable: Offset,
    pub(crate) clean_bytes: u64,
    pub(crate) cleanable_bytes: u64,
    /// Something of it is older than `max.compaction.lag.ms` allows.
    pub(crate) overdue: bool,
    /// The end of the last compaction is not one of this log: it is to be written anew (K18).
    pub(crate) reset: bool,
}

impl Cleanable {
    /// The share of the closed segments that was never compacted.
    pub(crate) fn ratio(&self) -> f64 {
        let all = self.clean_bytes + self.cleanable_bytes;
        if all == 0 { 0.0 } else { self.cleanable_bytes as f64 / all as f64 }
    }

    /// Whether it is time, by the topic's settings.
    pub(crate) fn is_due(&self, config: &TopicConfig) -> bool {
        // Strictly more (K20).
        self.ratio() > config.min_cleanable_dirty_ratio.0 || (self.overdue && self.cleanable_bytes > 0)
    }
}

/// The segment that holds `offset`, and those behind it.
fn from_segment(closed: &[Piece], offset: Offset) -> &[Piece] {
    let first = closed.partition_point(|piece| piece.base <= offset).saturating_sub(1);
    closed.get(first..).unwrap_or_default()
}

/// What may be compacted of a log.
pub(crate) fn cleanable(view: &View<'_>, config: &TopicConfig, now_ms: i64) -> Cleanable {
    let known = view.cleaned_to.filter(|at| (view.log_start..=view.log_end).contains(at));
    let first_dirty = known.unwrap_or(view.log_start);
    // An offset in the active segment has no closed one in front of it that is dirty.
    let dirty = if first_dirty >= view.active_base { &[] } else { from_segment(view.closed, first_dirty) };
    let min_lag = i64::try_from(config.min_compaction_lag_ms).unwrap_or(i64::MAX);
    let too_young = match min_lag {
        0 => None,
        lag => dirty.iter().find(|piece| piece.largest_timestamp > now_ms.saturating_sub(lag)),
    };
    let bound = view.stable_end.min(view.active_base).min(too_young.map_or(Offset::MAX, |p| p.base));
    let bound = bound.max(first_dirty);
    // Of the segment that holds the bound nothing is compacted.
    let first_uncleanable = if bound >= view.active_base {
        view.active_base
    } else {
        from_segment(view.closed, bound).first().map_or(view.active_base, |piece| piece.base)
    };
    let sum = |pieces: &[Piece]| pieces.iter().map(|piece| piece.bytes).sum();
    let clean = view.closed.partition_point(|piece| piece.base < first_dirty);
    let cleanable = dirty.partition_point(|piece| piece.base < first_uncleanable.max(first_dirty));
    let max_lag = i64::try_from(config.max_compaction_lag_ms).unwrap_or(i64::MAX);
    let oldest = dirty.iter().filter_map(|piece| piece.first_timestamp).filter(|t| *t > 0).min();
    Cleanable {
        first_dirty,
        first_uncleanable,
        clean_bytes: sum(view.closed.get(..clean).unwrap_or_default()),
        cleanable_bytes: sum(dirty.get(..cleanable).unwrap_or_default()),
        overdue: oldest.is_some_and(|oldest| oldest < now_ms.saturating_sub(max_lag)),
        reset: view.cleaned_to.is_some() && known.is_none(),
    }
}

/// The largest that a group of segments may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) segment_bytes: u64,
    pub(crate) index_bytes: u64,
}

/// Which segments become one: as many as fit into a segment and its indexes together, and whose offsets can be told
/// from the base of the first.
pub(crate) fn groups(closed: &[Piece], limits: Limits, first_uncleanable: Offset) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut rest = 0..closed.len();
    while let Some(first) = rest.next() {
        let Some(head) = closed.get(first) else { break };
        let (mut bytes, mut index, mut times) = (head.bytes, head.index_bytes, head.time_index_bytes);
        let mut end = first + 1;
        while let Some(piece) = closed.get(end) {
            // An empty one may join whatever its base: else one would be left for every 2^31 offsets.
            let last = closed.get(end + 1).map_or(first_uncleanable, |next| next.base) - 1;
            let reaches = piece.bytes == 0 || last - head.base <= Offset::from(i32::MAX);
            if bytes + piece.bytes > limits.segment_bytes
                || index + piece.index_bytes > limits.index_bytes
                || times + piece.time_index_bytes > limits.index_bytes
                || !reaches
            {
                break;
            }
            bytes += piece.bytes;
            index += piece.index_bytes;
            times += piece.time_index_bytes;
            end += 1;
        }
        groups.push(first..end);
        rest = end..closed.len();
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cleanup;

    fn pieces(bases: &[Offset]) -> Vec<Piece> {
        bases.iter().map(|base| Piece { base: *base, bytes: 100, ..Piece::default() }).collect()
    }

    fn config() -> TopicConfig {
        TopicConfig::default().cleanup_policy(Cleanup::COMPACT)
    }

    fn view(closed: &[Piece], active_base: Offset) -> View<'_> {
        View {
            closed,
            active_base,
            log_start: closed.first().map_or(active_base, |first| first.base),
            log_end: active_base + 5,
            stable_end: active_base + 5,
            cleaned_to: None,
        }
    }

    #[test]
    fn k16_min_lag_stops_at_the_first_segment_that_is_too_young() {
        const HOUR: i64 = 3_600_000;
        let mut closed = pieces(&[0, 10, 20, 30]);
        for (i, piece) in closed.iter_mut().enumerate() {
            piece.largest_timestamp = if i < 2 { 0 } else { HOUR + 1 };
        }
        let config = config().min_compaction_lag_ms(HOUR as u64);
        let found = cleanable(&view(&closed, 40), &config, HOUR + 1);
        assert_eq!((found.first_dirty, found.first_uncleanable), (0, 20));
        assert_eq!(found.cleanable_bytes, 200);
        // Exactly as old as the lag is old enough.
        assert_eq!(cleanable(&view(&closed, 40), &config, 2 * HOUR + 1).first_uncleanable, 40);
        assert_eq!(cleanable(&view(&closed, 40), &config, 2 * HOUR).first_uncleanable, 20);
    }

    #[test]
    fn k17_an_open_transaction_stops_it_at_its_segment() {
        let closed = pieces(&[0, 10, 20]);
        let open = View { stable_end: 3, ..view(&closed, 30) };
        let found = cleanable(&open, &config(), 0);
        assert_eq!((found.first_uncleanable, found.cleanable_bytes), (0, 0));
        assert!(!found.is_due(&config()));
        let found = cleanable(&View { stable_end: 25, ..open }, &config(), 0);
        assert_eq!((found.first_uncleanable, found.cleanable_bytes), (20, 200));
    }

    #[test]
    fn k18_a_checkpoint_outside_of_the_log_begins_at_its_start() {
        let closed = pieces(&[5, 10, 20]);
        for wrong in [200, 4] {
            let found = cleanable(&View { cleaned_to: Some(wrong), ..view(&closed, 30) }, &config(), 0);
            assert_eq!((found.first_dirty, found.reset), (5, true), "{wrong}");
        }
        let found = cleanable(&View { cleaned_to: Some(20), ..view(&closed, 30) }, &config(), 0);
        assert_eq!((found.first_dirty, found.reset), (20, false));
        assert_eq!((found.clean_bytes, found.cleanable_bytes), (200, 100));
    }

    #[test]
    fn k19_with_only_the_active_segment_there_is_nothing_to_do() {
        let found = cleanable(&View { log_start: 33, ..view(&[], 30) }, &config(), 0);
        assert_eq!((found.cleanable_bytes, found.ratio()), (0, 0.0));
        assert!(!found.is_due(&config()));
    }

    #[test]
    fn k20_a_ratio_that_equals_the_threshold_is_not_enough() {
        let closed = pieces(&[0, 10, 20, 30]);
        let half = View { cleaned_to: Some(20), ..view(&closed, 40) };
        assert!(!cleanable(&half, &config(), 0).is_due(&config()));
        assert!(cleanable(&View { cleaned_to: Some(10), ..half }, &config(), 0).is_due(&config()));
    }

    #[test]
    fn k21_max_lag_makes_it_due_whatever_the_ratio() {
        let mut closed = pieces(&[0, 10, 20, 30]);
        closed.iter_mut().for_each(|piece| piece.first_timestamp = Some(1_000));
        let config = config().max_compaction_lag_ms(500);
        let view = View { cleaned_to: Some(30), ..view(&closed, 40) };
        assert!(!cleanable(&view, &config, 1_500).is_due(&config));
        assert!(cleanable(&view, &config, 1_501).is_due(&config));
        // With nothing dirty there is nothing that could be late.
        assert!(!cleanable(&View { cleaned_to: Some(40), ..view }, &config, 9_999).is_due(&config));
    }

    #[test]
    fn a_bound_within_a_segment_leaves_that_segment_alone() {
        let closed = pieces(&[0, 10, 20]);
        let found = cleanable(&View { stable_end: 19, ..view(&closed, 30) }, &config(), 0);
        assert_eq!((found.first_uncleanable, found.cleanable_bytes), (10, 100));
    }

    #[test]
    fn k15_groups_keep_to_bytes_indexes_and_offsets() {
        let limits = Limits { segment_bytes: 250, index_bytes: 1_000 };
        let closed = pieces(&[0, 10, 20, 30, 40]);
        assert_eq!(groups(&closed, limits, 50), [0..2, 2..4, 4..5]);
        let all = Limits { segment_bytes: 10_000, ..limits };
        assert_eq!(groups(&closed, all, 50), vec![0..5]);

        let mut full = closed.clone();
        full.iter_mut().for_each(|piece| piece.index_bytes = 400);
        assert_eq!(groups(&full, all, 50), [0..2, 2..4, 4..5]);
        full.iter_mut().for_each(|piece| (piece.index_bytes, piece.time_index_bytes) = (0, 600));
        assert_eq!(groups(&full, all, 50).len(), 5);

        const FAR: Offset = i32::MAX as Offset;
        // The last offset of a piece is at most one below the next base.
        assert_eq!(groups(&pieces(&[0, FAR]), all, FAR + 1), vec![0..2]);
        assert_eq!(groups(&pieces(&[0, FAR]), all, FAR + 2), [0..1, 1..2]);
        assert_eq!(groups(&pieces(&[0, 7, FAR + 2]), all, FAR + 8), [0..1, 1..3]);
        let mut empty = pieces(&[0, 7, FAR + 2]);
        empty[1].bytes = 0;
        assert_eq!(groups(&empty, all, FAR + 9), [0..2, 2..3]);
        assert!(groups(&[], all, 0).is_empty());
    }
}
