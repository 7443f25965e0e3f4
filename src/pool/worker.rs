//! One thread of a pool: takes a record, calls the handler, decides what becomes of it.
//!
//! Invariants:
//! - Whatever of the user's panics, the record in hand is settled: who waits for it is not left waiting.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::config::OnError;
use super::dead_letter::Failed;
use super::handler::HandlerError;
use super::schedule::Task;
use super::shared::{Failure, Next, Outcome, Shared};
use crate::{Error, ErrorKind, RecordRef};

/// What a pool calls for each record.
pub(super) type Handler = dyn Fn(RecordRef<'_>) -> Result<(), HandlerError> + Send + Sync;

pub(super) fn run(shared: &Shared, thread: usize, handler: &Handler) {
    let mut last = None;
    while let Some(task) = shared.next(thread, last.take()) {
        // The user's errors may panic as well, in what they say and when they go.
        let work = AssertUnwindSafe(|| handle(shared, thread, &task, handler));
        let outcome = catch_unwind(work).unwrap_or_else(|payload| stop(shared, &task, payload));
        last = Some((task, outcome));
    }
}

/// What becomes of a record whose error panicked: it is not known whether that is done with, so the pool stops.
fn stop(shared: &Shared, task: &Task, payload: Box<dyn Any + Send>) -> Outcome {
    let text = HandlerError::panicked(&*payload).to_string();
    // Its drop is the user's, too.
    std::mem::forget(payload);
    let why = format!("its error panicked: {text}");
    let attempts = task.failures.saturating_add(1);
    let next = Next::Stop(failed(shared, task.record.record(), attempts, why.clone()));
    Outcome::Failed(Failure { text: why, permanent: false, panicked: true, next })
}

fn handle(shared: &Shared, thread: usize, task: &Task, handler: &Handler) -> Outcome {
    let record = task.record.record();
    // What the handler left half done is the handler's: it is called again, for this record or for others.
    let error = match catch_unwind(AssertUnwindSafe(|| handler(record))) {
        Ok(Ok(())) => return Outcome::Handled,
        Ok(Err(error)) => error,
        Err(payload) => HandlerError::panicked(&*payload),
    };
    let attempts = task.failures.saturating_add(1);
    let next = match !error.is_permanent() && shared.config.tries_again(attempts) {
        true => Next::Retry,
        false => give_up(shared, thread, record, attempts, &error),
    };
    let (text, permanent, panicked) = (error.to_string(), error.is_permanent(), error.is_panic());
    Outcome::Failed(Failure { text, permanent, panicked, next })
}

fn give_up(
    shared: &Shared,
    worker: usize,
    record: RecordRef<'_>,
    attempts: u32,
    error: &HandlerError,
) -> Next {
    match (&shared.config.on_error, &shared.dead_letters) {
        (OnError::Skip, _) => Next::Skip,
        // A pool that reads its own dead letters would go round for ever.
        (OnError::DeadLetter(_), Some(dead)) if dead.topic() != record.topic() => {
            match dead.send(record, &Failed { error, worker }) {
                Ok(()) => Next::DeadLettered,
                Err(error) => Next::Stop(error),
            }
        }
        _ => Next::Stop(failed(shared, record, attempts, error.to_string())),
    }
}

fn failed(shared: &Shared, record: RecordRef<'_>, attempts: u32, why: String) -> Error {
    ErrorKind::HandlerFailed {
        group: shared.group.id().to_owned(),
        topic: record.topic().to_owned(),
        partition: record.partition(),
        offset: record.offset(),
        attempts,
        why,
    }
    .into()
}
