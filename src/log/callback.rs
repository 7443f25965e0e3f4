//! Whether this thread runs a function of the user's that must not wait: a delivery hook.
//!
//! The thread that calls a hook may lead a sync, or drain a lane that others wait for: a wait inside the hook could be
//! a wait for itself. So every call that waits asks here first.
//!
//! And whether it holds a lock under which nothing of the user's may run: those whom it would call or wake meanwhile
//! are told when it is given back ([`Hold`]).

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Bell, Log};
use crate::error::{ErrorKind, Result};
use crate::sync::{Arc, Mutex};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static HELD: RefCell<Option<Vec<Told>>> = const { RefCell::new(None) };
}

/// Who is to be told of something.
#[derive(Debug)]
pub(crate) enum Told {
    /// Those whose batches are decided.
    Hooks(Arc<Log>),
    Reader(Arc<Bell>),
}

/// Tells now, or, while this thread has a [`Hold`], when that ends.
pub(super) fn tell(told: Told) {
    let mut now = Some(told);
    // A thread that is about to end holds nothing.
    let _ = HELD.try_with(|held| held.borrow_mut().as_mut().map(|held| held.extend(now.take())));
    match now {
        Some(Told::Hooks(log)) => log.tell_completions(),
        Some(Told::Reader(bell)) => bell.ring(),
        None => {}
    }
}

/// While it lives this thread tells nobody; when it is dropped, all whom it would have told. For who holds a lock.
#[derive(Debug)]
pub(crate) struct Hold(Option<Vec<Told>>);

impl Hold {
    pub(crate) fn begin() -> Hold {
        Hold(replace_held(Some(Vec::new())))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let told = replace_held(self.0.take());
        told.into_iter().flatten().for_each(tell);
    }
}

fn replace_held(held: Option<Vec<Told>>) -> Option<Vec<Told>> {
    HELD.try_with(|before| before.replace(held)).ok().flatten()
}

/// What several threads would tell, for the one that has them work.
#[derive(Debug, Default)]
pub(crate) struct Gathered(Mutex<Vec<Told>>);

impl Gathered {
    /// Runs the function, and keeps whom it would tell.
    pub(crate) fn hold<T>(&self, function: impl FnOnce() -> T) -> T {
        let hold = Hold::begin();
        let answer = function();
        let told = replace_held(None);
        drop(hold);
        self.0.lock().extend(told.into_iter().flatten());
        answer
    }

    pub(crate) fn tell(self) {
        let told = std::mem::take(&mut *self.0.lock());
        told.into_iter().for_each(tell);
    }
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
