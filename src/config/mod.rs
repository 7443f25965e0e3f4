//! Settings under Kafka's names and with Kafka's defaults; an exception says why.
//!
//! Every configuration is a value with builder methods, and can be set and listed by property name as well:
//! `from_properties` refuses names it does not know, so a typing error is not a silent default.

mod cleanup;
mod consumer;
mod duration;
mod group;
mod producer;
mod retention;
mod topic;

pub use cleanup::Cleanup;
pub use consumer::{AutoOffsetReset, ConsumerConfig, IsolationLevel};
pub use group::AssignmentStrategy;
pub use producer::{Partitioner, ProducerConfig};
pub(crate) use retention::Hold;
pub use topic::TopicConfig;

use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// `Ok` when `good`, else the typed error of a setting.
fn check(good: bool, name: &'static str, value: impl ToString, why: &'static str) -> Result<()> {
    if good { Ok(()) } else { Err(invalid(name, value, why)) }
}

fn invalid(name: &'static str, value: impl ToString, why: &'static str) -> Error {
    ErrorKind::InvalidConfig { name, value: value.to_string(), why }.into()
}

/// The value of a property, or the typed error.
fn parse<T: FromStr>(name: &'static str, value: &str) -> Result<T> {
    value.trim().parse().map_err(|_| invalid(name, value, "is not a value of this setting"))
}

/// Sets properties; one that is named twice is an error.
fn each_once<'a>(
    properties: impl IntoIterator<Item = (&'a str, &'a str)>,
    mut set: impl FnMut(&'a str, &'a str) -> Result<()>,
) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for (name, value) in properties {
        if !seen.insert(name) {
            return Err(invalid("property", name, "is given twice"));
        }
        set(name, value)?;
    }
    Ok(())
}

fn unknown(name: &str) -> Error {
    invalid("property", name, "is not known here")
}
