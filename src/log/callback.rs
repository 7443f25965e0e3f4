//! Whether this thread runs a function of the user's that must not wait: a delivery hook.
//!
//! The thread that calls a hook may lead a sync, or drain a lane that others wait for: a wait inside the hook could be
//! a wait for itself. So every call that waits asks here first.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{ErrorKind, Result};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs the function. A panic in it ends there: the thread may be one that others wait for.
pub(crate) fn run(function: impl FnOnce()) {
    let before = INSIDE.replace(true);
    let _ = catch_unwind(AssertUnwindSafe(function));
    INSIDE.set(before);
}

pub(crate) fn is_inside() -> bool {
    INSIDE.get()
}

/// An error for calls that wait, made from inside.
pub(crate) fn check_outside(call: &'static str) -> Result<()> {
    if is_inside() { Err(ErrorKind::WouldWaitForItself { call }.into()) } else { Ok(()) }
}
