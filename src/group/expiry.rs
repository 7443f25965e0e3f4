//! Which committed offsets are so old that they go: `offsets.retention.minutes`, by Kafka's rules. Pure.
//!
//! Kafka: `OffsetExpirationConditionImpl`, `ClassicGroup.offsetExpirationCondition`.

use super::replay::GroupOffsets;
use crate::sync::Arc;

/// What goes of one group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expired {
    pub(super) offsets: Vec<(Arc<str>, i32)>,
    /// Nothing is left of it.
    pub(super) group: bool,
}

/// `wants`: whether members want a topic; `None` when there are no members.
pub(super) fn expired(
    group: &GroupOffsets,
    wants: Option<&dyn Fn(&str) -> bool>,
    now_ms: i64,
    retention_ms: i64,
) -> Expired {
    let is_over = |since: i64| now_ms.saturating_sub(since) >= retention_ms;
    let empty_since = group.listed.as_ref().filter(|listed| listed.has_type).map(|listed| listed.state_ms);
    let mut expired = Expired::default();
    let mut kept = group.topics.values().map(|partitions| partitions.len()).sum::<usize>();
    for (topic, partition, value) in group.offsets() {
        let goes = match (value.expire_ms, wants) {
            (_, Some(wants)) if wants(topic) => false,
            (Some(expire_ms), _) => now_ms >= expire_ms,
            (None, Some(_)) => is_over(value.commit_ms),
            // Kafka counts from the first alone; what was committed since, by a reset for one, is not old yet.
            (None, None) => is_over(empty_since.unwrap_or(-1).max(value.commit_ms)),
        };
        if goes {
            expired.offsets.push((Arc::clone(topic), partition));
            kept -= 1;
        }
    }
    // A group that never committed goes as well when it has been empty for so long.
    expired.group =
        wants.is_none() && kept == 0 && (!expired.offsets.is_empty() || empty_since.is_none_or(is_over));
    expired
}
