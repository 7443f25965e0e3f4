//! How long a topic keeps what it has: the settings of retention.

use super::{TopicConfig, check, invalid, parse};
use crate::error::Result;
use crate::types::TopicName;

/// The settings of a topic that say when old segments go, where `cleanup.policy` says `delete`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// `None`: no limit.
    pub(crate) ms: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) file_delete_delay_ms: u64,
    pub(crate) hold: Hold,
}

/// For whom more is kept, and within which bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) groups: Vec<String>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_ms: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            ms: Some(604_800_000),
            bytes: None,
            // Kafka's 60 s keep the files for readers that are in the middle of one: here they hold them open.
            file_delete_delay_ms: 0,
            hold: Hold::default(),
        }
    }
}

const MS: &str = "retention.ms";
const BYTES: &str = "retention.bytes";
const FILE_DELETE_DELAY_MS: &str = "file.delete.delay.ms";
const HOLD_GROUPS: &str = "logstead.hold.groups";
const HOLD_MAX_BYTES: &str = "logstead.hold.max.bytes";
const HOLD_MAX_MS: &str = "logstead.hold.max.ms";

impl TopicConfig {
    /// `retention.ms`: a segment goes when its youngest record is older than this; `None`, or -1 as a property: never
    /// for its age. Default 7 days, which a topic made by an older version, or by a broker, does not have.
    ///
    /// Records with timestamps of long ago are old when they come. How age is told, and when: [`guide::retention`].
    ///
    /// [`guide::retention`]: crate::guide::retention
    #[must_use]
    pub fn retention_ms(mut self, ms: impl Into<Option<u64>>) -> Self {
        self.retention.ms = ms.into();
        self
    }

    /// `retention.bytes`: of each partition the oldest segments go, as long as this much is left; `None`, or -1 as a
    /// property: never for its size. Default `None`.
    #[must_use]
    pub fn retention_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.retention.bytes = bytes.into();
        self
    }

    /// `file.delete.delay.ms`: how long the files of a segment that went lie there under another name (Kafka's
    /// `.deleted`). Default 0: readers of this process keep what they read, until they are done. Kafka's default is
    /// 60,000; set it where others, such as a copying program, are in the middle of the files.
    #[must_use]
    pub fn file_delete_delay_ms(mut self, ms: u64) -> Self {
        self.retention.file_delete_delay_ms = ms;
        self
    }

    /// `logstead.hold.groups`: retention keeps, beyond its own limits, what one of these groups has not read yet.
    /// Needs a bound: [`TopicConfig::hold_max_bytes`], [`TopicConfig::hold_max_ms`] or both. Default: none.
    ///
    /// A group that never committed has read nothing. [`Store::delete_records`](crate::Store::delete_records) deletes
    /// all the same.
    #[must_use]
    pub fn hold_for<'g>(mut self, groups: impl IntoIterator<Item = &'g str>) -> Self {
        self.retention.hold.groups = groups.into_iter().map(str::to_owned).collect();
        self
    }

    /// `logstead.hold.max.bytes`: what lies further than this from a partition's end is not held. Default: no bound.
    #[must_use]
    pub fn hold_max_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.retention.hold.max_bytes = bytes.into();
        self
    }

    /// `logstead.hold.max.ms`: a segment whose youngest record is older than this is not held. Default: no bound.
    #[must_use]
    pub fn hold_max_ms(mut self, ms: impl Into<Option<u64>>) -> Self {
        self.retention.hold.max_ms = ms.into();
        self
    }
}

impl Retention {
    pub(super) fn properties(&self) -> Vec<(&'static str, String)> {
        let limit = |limit: Option<u64>| limit.map_or("-1".to_owned(), |limit| limit.to_string());
        vec![
            (MS, limit(self.ms)),
            (BYTES, limit(self.bytes)),
            (FILE_DELETE_DELAY_MS, self.file_delete_delay_ms.to_string()),
            (HOLD_GROUPS, self.hold.groups.join(",")),
            (HOLD_MAX_BYTES, limit(self.hold.max_bytes)),
            (HOLD_MAX_MS, limit(self.hold.max_ms)),
        ]
    }

    /// Sets a property, if it is one of these.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        match name {
            MS => self.ms = parse_limit(MS, value)?,
            BYTES => self.bytes = parse_limit(BYTES, value)?,
            FILE_DELETE_DELAY_MS => self.file_delete_delay_ms = parse(FILE_DELETE_DELAY_MS, value)?,
            HOLD_GROUPS => {
                let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                self.hold.groups = names.map(str::to_owned).collect();
            }
            HOLD_MAX_BYTES => self.hold.max_bytes = parse_limit(HOLD_MAX_BYTES, value)?,
            HOLD_MAX_MS => self.hold.max_ms = parse_limit(HOLD_MAX_MS, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn validate(&self) -> Result<()> {
        for group in &self.hold.groups {
            // They stand in a list, in a line of the catalog.
            let good = TopicName::new(group).is_ok();
            check(good, HOLD_GROUPS, group, "must be 1 to 249 letters, digits, '.', '_' and '-'")?;
        }
        let Hold { groups, max_bytes, max_ms } = &self.hold;
        let bounded = groups.is_empty() || max_bytes.is_some() || max_ms.is_some();
        check(bounded, HOLD_GROUPS, groups.join(","), "needs logstead.hold.max.bytes or logstead.hold.max.ms")
    }
}

/// Kafka writes "no limit" as -1.
fn parse_limit(name: &'static str, value: &str) -> Result<Option<u64>> {
    match parse::<i64>(name, value)? {
        -1 => Ok(None),
        limit => match u64::try_from(limit) {
            Ok(limit) => Ok(Some(limit)),
            Err(_) => Err(invalid(name, value, "must be -1, which is no limit, or more")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_kafkas_and_minus_one_is_none() {
        let config =
            TopicConfig::from_properties([("retention.ms", "-1"), ("retention.bytes", "7")]).unwrap();
        assert_eq!(config, TopicConfig::default().retention_ms(None).retention_bytes(7));
        assert_eq!(TopicConfig::default().retention.ms, Some(7 * 24 * 3_600_000));
        assert!(TopicConfig::from_properties([("retention.ms", "-2")]).is_err());
    }

    #[test]
    fn a_hold_needs_a_bound_and_names_that_fit_into_a_list() {
        let held = TopicConfig::default().hold_for(["billing", "audit"]);
        assert!(held.validate().is_err());
        held.clone().hold_max_ms(1).validate().unwrap();
        held.hold_max_bytes(1).validate().unwrap();
        assert!(TopicConfig::default().hold_for(["a b"]).hold_max_ms(1).validate().is_err());
        assert!(TopicConfig::default().hold_for(["a,b"]).hold_max_ms(1).validate().is_err());
    }
}
