//! The one function of the user's that runs inside a producer: the delivery hook.
//!
//! It is called once per batch, in the order of a partition, by whichever thread completed the batch, with no lock
//! held. It may send; it may not wait for deliveries, which would be waiting for itself.

use std::fmt;

use crate::error::{ErrorKind, Result};
use crate::log::callback;
use crate::sync::OnceLock;
use crate::topic::BatchReceipt;

type Function = Box<dyn Fn(&Result<BatchReceipt>) + Send + Sync>;

/// The hook of a producer, if it has one.
#[derive(Default)]
pub(super) struct Hook(OnceLock<Function>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.is_set()).finish()
    }
}

impl Hook {
    pub(super) fn set(&self, function: impl Fn(&Result<BatchReceipt>) + Send + Sync + 'static) -> Result<()> {
        self.0.set(Box::new(function)).map_err(|_| {
            let why = "there is one already: a producer has one for its whole life";
            ErrorKind::InvalidConfig { name: "delivery hook", value: "another".to_owned(), why }.into()
        })
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    pub(super) fn call(&self, outcome: &Result<BatchReceipt>) {
        if let Some(function) = self.0.get() {
            callback::run(|| function(outcome));
        }
    }
}
