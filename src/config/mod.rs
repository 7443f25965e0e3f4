//! Settings under Kafka's names and with Kafka's defaults; an exception says why.

mod consumer;
mod producer;
mod topic;

pub use consumer::{AutoOffsetReset, ConsumerConfig};
pub use producer::ProducerConfig;
pub use topic::TopicConfig;

use crate::error::{Error, ErrorKind, Result};

/// `Ok` when `good`, else the typed error of a setting.
fn check(good: bool, name: &'static str, value: impl ToString, why: &'static str) -> Result<()> {
    if good { Ok(()) } else { Err(invalid(name, value, why)) }
}

fn invalid(name: &'static str, value: impl ToString, why: &'static str) -> Error {
    ErrorKind::InvalidConfig { name, value: value.to_string(), why }.into()
}
