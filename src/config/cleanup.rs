//! `cleanup.policy`: what becomes of old records.

use std::fmt;
use std::str::FromStr;

use super::invalid;
use crate::error::{Error, Result};

/// What becomes of a topic's old records: Kafka's `cleanup.policy`.
///
/// ```
/// use logstead::{Cleanup, TopicConfig};
///
/// let latest = TopicConfig::default().cleanup_policy(Cleanup::COMPACT);
/// assert_eq!(latest, TopicConfig::from_properties([("cleanup.policy", "compact")])?);
/// # Ok::<(), logstead::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cleanup {
    pub(crate) delete: bool,
    pub(crate) compact: bool,
}

impl Cleanup {
    /// Whole segments go by `retention.ms` and `retention.bytes`. The default.
    pub const DELETE: Cleanup = Cleanup { delete: true, compact: false };
    /// The latest record of each key stays; nothing goes by age or size.
    pub const COMPACT: Cleanup = Cleanup { delete: false, compact: true };
    /// The latest record of each key stays, as long as it is not too old, nor the log too large.
    pub const COMPACT_DELETE: Cleanup = Cleanup { delete: true, compact: true };
    /// Everything stays (Kafka 4.3 and later).
    pub const NONE: Cleanup = Cleanup { delete: false, compact: false };
}

impl Default for Cleanup {
    fn default() -> Self {
        Cleanup::DELETE
    }
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.compact, self.delete) {
            (true, true) => "compact,delete",
            (true, false) => "compact",
            (false, true) => "delete",
            (false, false) => "",
        })
    }
}

impl FromStr for Cleanup {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut cleanup = Cleanup::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "delete" => cleanup.delete = true,
                "compact" => cleanup.compact = true,
                _ => {
                    return Err(invalid("cleanup.policy", text, "must be a list of delete and compact"));
                }
            }
        }
        Ok(cleanup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_round_trip_in_kafkas_form() {
        for policy in [Cleanup::DELETE, Cleanup::COMPACT, Cleanup::COMPACT_DELETE, Cleanup::NONE] {
            assert_eq!(policy.to_string().parse::<Cleanup>().unwrap(), policy);
        }
        assert_eq!("delete, compact".parse::<Cleanup>().unwrap(), Cleanup::COMPACT_DELETE);
        assert!("delete;compact".parse::<Cleanup>().is_err());
    }
}
