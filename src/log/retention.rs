//! Which segments go: a pure decision from a snapshot of a log (Kafka's `UnifiedLog.deleteOldSegments`), and how it
//! reads.
//!
//! Invariants:
//! - Segments go from the oldest on, whole ones, up to the first that stays. One that is not committed stays.
//! - What is decided is what is explained: there is one rule.
//! - A hold keeps more than the limits do, never less, and no more than its own bounds.

use std::fmt;

use crate::config::{Hold, TopicConfig};
use crate::error::Result;
use crate::limits::FUTURE_MS;
use crate::types::Offset;

/// How far groups have read: what a topic's holds ([`TopicConfig::hold_for`](crate::TopicConfig::hold_for)) go by.
///
/// The store's own groups are asked, unless [`StoreOptions::group_positions`](crate::StoreOptions::group_positions)
/// names somebody else: a program that keeps its positions in its own database.
///
/// It is called by whoever looks for what can go (the thread `logstead-clean`,
/// [`Store::maintain`](crate::Store::maintain), an append that found the store full), with no lock held. It must not
/// wait for the store.
pub trait GroupPositions: Send + Sync {
    /// The offset behind the last record that the group has dealt with for good; `None` where it never said so, which
    /// holds everything, and so does an error.
    ///
    /// # Errors
    /// What keeps it from telling; [`Store::explain_retention`](crate::Store::explain_retention) shows it.
    fn position(&self, group: &str, topic: &str, partition: i32) -> Result<Option<Offset>>;
}

/// A segment, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) base: Offset,
    /// The next one's base, or the log's end.
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
}

/// What the age of a segment is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgedBy {
    /// The youngest timestamp of its records.
    Records,
    /// When its file was last written: no record has a timestamp.
    File,
    /// When its file was last written: the youngest timestamp, this one, is more than an hour ahead of now.
    FileSinceFuture {
        /// That timestamp, in milliseconds since 1970.
        claimed_ms: i64,
    },
    /// When its file was last written: it is damaged, so not all of its timestamps are known, or one of them is the
    /// largest number there is.
    FileSinceDamaged,
    /// When the store was opened: records and file both claim to be of the future.
    Opened,
}

/// The time by which a segment's age is told, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) ms: i64,
    pub(crate) by: AgedBy,
}

/// The rule: Kafka's (the youngest timestamp, else the file's time), except where these are of the future.
///
/// `youngest`: of all records, -1 where none has a timestamp, the largest number there is where that is not known.
pub(crate) fn stamp(
    youngest: i64,
    modified_ms: impl FnOnce() -> Result<i64>,
    opened_ms: i64,
    now_ms: i64,
) -> Result<Stamp> {
    let sane = |ms: i64| ms <= now_ms.saturating_add(FUTURE_MS);
    if youngest >= 0 && sane(youngest) {
        return Ok(Stamp { ms: youngest, by: AgedBy::Records });
    }
    let modified_ms = modified_ms()?;
    Ok(match youngest {
        _ if !sane(modified_ms) => Stamp { ms: opened_ms.min(now_ms), by: AgedBy::Opened },
        i64::MAX => Stamp { ms: modified_ms, by: AgedBy::FileSinceDamaged },
        0.. => Stamp { ms: modified_ms, by: AgedBy::FileSinceFuture { claimed_ms: youngest } },
        _ => Stamp { ms: modified_ms, by: AgedBy::File },
    })
}

/// What a log is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// `cleanup.policy` says `delete`.
    pub(crate) delete: bool,
    pub(crate) retention_ms: Option<u64>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) now_ms: i64,
    pub(crate) held: Option<Held>,
}

/// What the slowest group of a hold keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) group: String,
    /// It has not read this offset yet.
    pub(crate) position: Offset,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_ms: Option<u64>,
}

impl Held {
    /// The group that is furthest behind, of those that are waited for; `None`: none is.
    pub(crate) fn by(hold: &Hold, position: impl Fn(&str) -> Option<Offset>) -> Option<Held> {
        let of = |group: &String| (position(group).unwrap_or(-1), group.clone());
        let (position, group) = hold.groups.iter().map(of).min()?;
        Some(Held { group, position, max_bytes: hold.max_bytes, max_ms: hold.max_ms })
    }
}

impl Rules {
    pub(crate) fn new(
        config: &TopicConfig,
        (log_start, high_watermark): (Offset, Offset),
        now_ms: i64,
        held: Option<Held>,
    ) -> Rules {
        Rules {
            delete: config.cleanup.delete,
            retention_ms: config.retention.ms,
            retention_bytes: config.retention.bytes,
            log_start,
            high_watermark,
            now_ms,
            held,
        }
    }
}

/// Why a segment goes, or why it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It goes: all of it lies below the log's start ([`Store::delete_records`](crate::Store::delete_records)).
    BelowLogStart,
    /// It goes: without it the partition still has `retention.bytes`.
    OverBytes,
    /// It goes: its youngest record is older than `retention.ms`.
    TooOld,
    /// It stays while it is younger than `retention.ms`.
    Young,
    /// It stays: without it the partition would have less than `retention.bytes`, and `retention.ms` is not set.
    WithinBytes,
    /// It stays: the topic has neither `retention.ms` nor `retention.bytes`.
    Unlimited,
    /// It stays: `cleanup.policy` does not say `delete`.
    NotDeleted,
    /// It stays until its records are committed.
    NotCommitted,
    /// It stays until a group has read it, or the hold's bounds are reached.
    Held {
        /// The group that is furthest behind.
        group: String,
        /// Where it reads on; -1 where it never said so.
        position: Offset,
    },
    /// It would go, and stays since an older one does: a log has no holes.
    BehindOlder {
        /// The base of that one.
        base: Offset,
    },
    /// It is the active segment, and empty.
    Active,
}

impl Fate {
    /// Whether the next look for what can go takes it away.
    pub fn goes(&self) -> bool {
        matches!(self, Fate::BelowLogStart | Fate::OverBytes | Fate::TooOld)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::BelowLogStart => "goes: it lies below the log's start",
            Fate::OverBytes => "goes: the rest still has retention.bytes",
            Fate::TooOld => "goes: it is older than retention.ms",
            Fate::Young => "younger than retention.ms",
            Fate::WithinBytes => "within retention.bytes",
            Fate::Unlimited => "no limit is set",
            Fate::NotDeleted => "cleanup.policy does not say delete",
            Fate::NotCommitted => "not committed yet",
            Fate::Held { group, position: -1 } => return write!(f, "group {group} has read nothing"),
            Fate::Held { group, position } => return write!(f, "group {group} has read up to {position}"),
            Fate::BehindOlder { base } => return write!(f, "segment {base} in front of it stays"),
            Fate::Active => "active and empty",
        })
    }
}

/// A segment's fate, and the time by which its age was told, where that mattered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) fate: Fate,
    pub(crate) stamp: Option<Stamp>,
    /// When it goes for its age, if nothing else changes.
    pub(crate) until_ms: Option<i64>,
}

/// Judges segments from the oldest on; up to the first that stays, or `all` of them. `stamp` tells the time of one.
pub(crate) fn judge(
    rules: &Rules,
    segments: &[View],
    all: bool,
    mut stamp: impl FnMut(usize) -> Result<Stamp>,
) -> Result<Vec<Judged>> {
    let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut judged = Vec::new();
    let mut older: Option<Offset> = None;
    // When all in front of it are gone.
    let mut free_at = Some(i64::MIN);
    for (i, segment) in segments.iter().enumerate() {
        let is_last = i + 1 == segments.len();
        let mut one = judge_one(rules, segment, is_last, total, || stamp(i))?;
        match older {
            Some(base) if one.fate.goes() => one.fate = Fate::BehindOlder { base },
            None if one.fate.goes() => total -= segment.bytes,
            None => older = Some(segment.base),
            Some(_) => {}
        }
        let own = if matches!(one.fate, Fate::BehindOlder { .. }) { Some(i64::MIN) } else { one.until_ms };
        if older.is_some() {
            one.until_ms = free_at.zip(own).map(|(free, own)| free.max(own));
            free_at = one.until_ms;
        }
        judged.push(one);
        if older.is_some() && !all {
            break;
        }
    }
    Ok(judged)
}

/// `total`: the bytes of this segment and all behind it.
fn judge_one(
    rules: &Rules,
    segment: &View,
    is_last: bool,
    total: u64,
    stamp: impl FnOnce() -> Result<Stamp>,
) -> Result<Judged> {
    let untimed = |fate| Ok(Judged { fate, stamp: None, until_ms: None });
    if is_last && segment.bytes == 0 {
        return untimed(Fate::Active);
    }
    if rules.high_watermark < segment.end {
        return untimed(Fate::NotCommitted);
    }
    if !is_last && segment.end <= rules.log_start {
        return untimed(Fate::BelowLogStart);
    }
    if !rules.delete {
        return untimed(Fate::NotDeleted);
    }
    // Whether as much as that is left without it.
    let leaves = |limit: u64| total.checked_sub(limit).is_some_and(|over| over >= segment.bytes);
    let over_bytes = rules.retention_bytes.is_some_and(leaves);
    let held = rules.held.as_ref().filter(|held| held.position < segment.end);
    let stamp = match rules.retention_ms.or(held.and_then(|held| held.max_ms)) {
        Some(_) => Some(stamp()?),
        None => None,
    };
    let ends = |ms: u64| stamp.map(|stamp| stamp.ms.saturating_add_unsigned(ms));
    let is_past = |end: Option<i64>| end.is_some_and(|end| rules.now_ms > end);
    let old_at = rules.retention_ms.and_then(ends);
    let judged = |fate, until_ms: Option<i64>| {
        // It goes when that is over, not when it is reached.
        Ok(Judged { fate, stamp, until_ms: until_ms.map(|end| end.saturating_add(1)) })
    };
    // Until when a group may keep it; `None` in it: for ever.
    let held = held.filter(|held| !held.max_bytes.is_some_and(leaves));
    let holds = held.map(|held| held.max_ms.and_then(ends));
    if let Some(old_at) = old_at
        && !over_bytes
        && !is_past(Some(old_at))
    {
        return judged(Fate::Young, holds.map_or(Some(old_at), |end| end.map(|end| end.max(old_at))));
    }
    let why = match rules.retention_bytes {
        _ if over_bytes => Fate::OverBytes,
        _ if old_at.is_some() => Fate::TooOld,
        Some(_) => return untimed(Fate::WithinBytes),
        None => return untimed(Fate::Unlimited),
    };
    match held {
        Some(held) if !is_past(holds.flatten()) => {
            let fate = Fate::Held { group: held.group.clone(), position: held.position };
            judged(fate, holds.flatten())
        }
        _ => judged(why, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const DAY: i64 = 86_400_000;

    fn rules() -> Rules {
        Rules {
            delete: true,
            retention_ms: None,
            retention_bytes: None,
            log_start: 0,
            high_watermark: 15,
            now_ms: NOW,
            held: None,
        }
    }

    /// Three segments of five records of 100 bytes.
    fn three() -> [View; 3] {
        [0, 5, 10].map(|base| View { base, end: base + 5, bytes: 500 })
    }

    fn at(ms: i64) -> impl FnMut(usize) -> Result<Stamp> {
        move |_| Ok(Stamp { ms, by: AgedBy::Records })
    }

    fn fates(rules: &Rules, segments: &[View], stamp: impl FnMut(usize) -> Result<Stamp>) -> Vec<Fate> {
        judge(rules, segments, true, stamp).unwrap().into_iter().map(|judged| judged.fate).collect()
    }

    fn count(rules: &Rules, segments: &[View], stamp: impl FnMut(usize) -> Result<Stamp>) -> usize {
        let judged = judge(rules, segments, false, stamp).unwrap();
        judged.iter().filter(|judged| judged.fate.goes()).count()
    }

    #[test]
    fn j01_j02_the_oldest_go_while_the_rest_has_the_limit() {
        let limit = |bytes| Rules { retention_bytes: Some(bytes), ..rules() };
        assert_eq!(count(&limit(1_000), &three(), at(NOW)), 1);
        assert_eq!(count(&limit(1_500), &three(), at(NOW)), 0);
        // One byte less than a segment too many stays: the log never falls below the limit.
        assert_eq!(count(&limit(1_001), &three(), at(NOW)), 0);
        assert_eq!(count(&limit(0), &three(), at(NOW)), 3);
        assert_eq!(count(&limit(u64::MAX), &three(), at(NOW)), 0);
    }

    #[test]
    fn j03_j04_age_is_strictly_more_than_the_limit() {
        let rules = Rules { retention_ms: Some(10_000), ..rules() };
        assert_eq!(count(&rules, &three(), at(10)), 3);
        assert_eq!(count(&rules, &three(), at(NOW)), 0);
        assert_eq!(count(&rules, &three(), at(NOW - 10_000)), 0);
        assert_eq!(count(&rules, &three(), at(NOW - 10_001)), 3);
        let judged = judge(&rules, &three(), true, at(NOW - 9_999)).unwrap();
        assert_eq!(judged[0].until_ms, Some(NOW + 2));
    }

    #[test]
    fn j05_j06_without_delete_in_the_policy_only_what_lies_below_the_start_goes() {
        let rules = Rules { retention_ms: Some(1), retention_bytes: Some(0), log_start: 7, ..rules() };
        let compacted = Rules { delete: false, ..rules.clone() };
        assert_eq!(
            fates(&compacted, &three(), at(0)),
            [Fate::BelowLogStart, Fate::NotDeleted, Fate::NotDeleted]
        );
        assert_eq!(count(&rules, &three(), at(0)), 3);
    }

    #[test]
    fn j08_a_segment_is_below_the_start_when_the_next_one_begins_at_or_below_it() {
        for (start, kept) in [(0, 3), (1, 3), (4, 3), (5, 2), (6, 2), (10, 1), (15, 1)] {
            let rules = Rules { log_start: start, ..rules() };
            assert_eq!(three().len() - count(&rules, &three(), at(NOW)), kept, "start {start}");
        }
    }

    #[test]
    fn j10_nothing_goes_at_or_above_the_high_watermark() {
        for high_watermark in 0..=15 {
            let rules = Rules { retention_ms: Some(0), high_watermark, ..rules() };
            let gone = count(&rules, &three(), at(0));
            assert_eq!(gone as i64, high_watermark / 5);
        }
    }

    #[test]
    fn j13_a_young_segment_blocks_all_behind_it() {
        let rules = Rules { retention_ms: Some(1), ..rules() };
        let stamp = |i: usize| Ok(Stamp { ms: if i == 1 { NOW } else { 0 }, by: AgedBy::Records });
        assert_eq!(
            fates(&rules, &three(), stamp),
            [Fate::TooOld, Fate::Young, Fate::BehindOlder { base: 5 }]
        );
    }

    #[test]
    fn an_empty_active_segment_stays_and_an_old_one_goes() {
        let rules = Rules { retention_ms: Some(0), retention_bytes: Some(0), ..rules() };
        let empty = [View { base: 15, end: 15, bytes: 0 }];
        assert_eq!(fates(&rules, &empty, at(0)), [Fate::Active]);
        assert_eq!(fates(&rules, &three()[2..], at(0)), [Fate::OverBytes]);
    }

    #[test]
    fn limits_that_differ_take_one_after_the_other_as_kafkas_three_passes_do() {
        // One large old segment, then small ones: by size nothing goes, by age the first does, and then size is not
        // looked at again with more hope.
        let segments = [
            View { base: 0, end: 5, bytes: 1_000 },
            View { base: 5, end: 10, bytes: 1 },
            View { base: 10, end: 15, bytes: 1 },
        ];
        let rules = Rules { retention_ms: Some(1), retention_bytes: Some(900), ..rules() };
        let stamp = |i: usize| Ok(Stamp { ms: if i == 0 { 0 } else { NOW }, by: AgedBy::Records });
        assert_eq!(count(&rules, &segments, stamp), 1);
    }

    #[test]
    fn times_are_asked_for_only_as_far_as_needed() {
        let mut asked = Vec::new();
        let rules = Rules { retention_ms: Some(1), ..rules() };
        let judged = judge(&rules, &three(), false, |i| {
            asked.push(i);
            Ok(Stamp { ms: if i == 0 { 0 } else { NOW }, by: AgedBy::Records })
        });
        assert_eq!((judged.unwrap().len(), asked), (2, vec![0, 1]));
    }

    #[test]
    fn a_hold_keeps_what_a_group_has_not_read_within_its_bounds_and_no_longer() {
        let held = |position, max_bytes, max_ms| Rules {
            retention_ms: Some(1),
            held: Some(Held { group: "g".to_owned(), position, max_bytes, max_ms }),
            ..rules()
        };
        let old = NOW - 10 * DAY;
        let kept = Fate::Held { group: "g".to_owned(), position: 7 };
        assert_eq!(
            fates(&held(7, Some(u64::MAX), None), &three(), at(old)),
            [Fate::TooOld, kept.clone(), Fate::Held { group: "g".to_owned(), position: 7 }]
        );
        // All read: no hold.
        assert_eq!(count(&held(15, Some(u64::MAX), None), &three(), at(old)), 3);
        // Never read: all is held, except what is over the bounds.
        assert_eq!(count(&held(-1, Some(1_500), None), &three(), at(old)), 0);
        assert_eq!(count(&held(-1, Some(1_000), None), &three(), at(old)), 1);
        assert_eq!(count(&held(-1, None, Some(11 * DAY as u64)), &three(), at(old)), 0);
        assert_eq!(count(&held(-1, None, Some(9 * DAY as u64)), &three(), at(old)), 3);
        let judged = judge(&held(7, None, Some(11 * DAY as u64)), &three(), true, at(old)).unwrap();
        assert_eq!((&judged[1].fate, judged[1].until_ms), (&kept, Some(NOW + DAY + 1)));
        // What no limit takes is not held, it just stays.
        let young = Rules { retention_ms: Some(100 * DAY as u64), ..held(-1, Some(0), None) };
        assert_eq!(fates(&young, &three(), at(old))[0], Fate::Young);
        // Below the start it goes, whoever has not read it.
        let below = Rules { log_start: 5, ..held(-1, Some(u64::MAX), None) };
        assert_eq!(count(&below, &three(), at(old)), 1);
    }

    #[test]
    fn the_slowest_group_holds_and_one_that_never_said_anything_is_the_slowest() {
        let hold =
            Hold { groups: ["a", "b", "c"].map(str::to_owned).to_vec(), max_bytes: Some(1), max_ms: None };
        let by = |positions: [Option<Offset>; 3]| {
            Held::by(&hold, |group| positions[["a", "b", "c"].iter().position(|g| *g == group).unwrap()])
        };
        let slowest = by([Some(9), Some(3), Some(4)]).unwrap();
        assert_eq!((slowest.group.as_str(), slowest.position), ("b", 3));
        let slowest = by([Some(9), Some(0), None]).unwrap();
        assert_eq!((slowest.group.as_str(), slowest.position), ("c", -1));
        assert_eq!(Held::by(&Hold::default(), |_| None), None);
    }

    #[test]
    fn a_future_timestamp_does_not_pin_a_segment_for_ever() {
        let of = |youngest, modified: i64| stamp(youngest, || Ok(modified), NOW - 3 * DAY, NOW).unwrap();
        assert_eq!(of(NOW - 5, NOW), Stamp { ms: NOW - 5, by: AgedBy::Records });
        // As far ahead as clocks differ it counts, as in Kafka.
        assert_eq!(of(NOW + FUTURE_MS, 0), Stamp { ms: NOW + FUTURE_MS, by: AgedBy::Records });
        let claimed_ms = NOW + FUTURE_MS + 1;
        assert_eq!(
            of(claimed_ms, NOW - DAY),
            Stamp { ms: NOW - DAY, by: AgedBy::FileSinceFuture { claimed_ms } }
        );
        assert_eq!(of(claimed_ms, NOW + 2 * DAY), Stamp { ms: NOW - 3 * DAY, by: AgedBy::Opened });
        assert_eq!(of(-1, NOW - DAY), Stamp { ms: NOW - DAY, by: AgedBy::File });
        assert_eq!(of(i64::MAX, NOW - DAY), Stamp { ms: NOW - DAY, by: AgedBy::FileSinceDamaged });
    }
}
