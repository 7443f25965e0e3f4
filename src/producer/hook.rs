//! The one function of the user's that runs inside a producer: the delivery hook.
//!
//! It is called once per batch, in the order of a partition, by whichever thread completed the batch, with no lock
//! held. It may send; it may not wait for deliveries, which would be waiting for itself.
//!
//! Every batch has the hook with it. So the producer can forget its own when it closes, and a hook that owns a clone
//! of its producer does not keep the store open.

use std::fmt;

use crate::error::{ErrorKind, Result};
use crate::log::callback;
use crate::sync::{Arc, Mutex};
use crate::topic::BatchReceipt;

type Function = dyn Fn(&Result<BatchReceipt>) + Send + Sync;

/// The hook of a batch, if it has one.
#[derive(Clone, Default)]
pub(super) struct Hook(Option<Arc<Function>>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.is_set()).finish()
    }
}

impl Hook {
    pub(super) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn call(&self, outcome: &Result<BatchReceipt>) {
        if let Some(function) = &self.0 {
            callback::run(|| function(outcome));
        }
    }
}

/// The hook of a producer, for its next batches.
#[derive(Debug, Default)]
pub(super) struct HookSlot(Mutex<Hook>);

impl HookSlot {
    pub(super) fn set(&self, function: impl Fn(&Result<BatchReceipt>) + Send + Sync + 'static) -> Result<()> {
        let mut hook = self.0.lock();
        if hook.is_set() {
            let why = "there is one already: a producer has one for its whole life";
            return Err(
                ErrorKind::InvalidConfig { name: "delivery hook", value: "another".to_owned(), why }.into()
            );
        }
        hook.0 = Some(Arc::new(function));
        Ok(())
    }

    pub(super) fn get(&self) -> Hook {
        self.0.lock().clone()
    }

    pub(super) fn forget(&self) {
        let hook = std::mem::take(&mut *self.0.lock());
        // What it owns is the user's, and dropped with no lock held.
        drop(hook);
    }
}
