//! A record that was given up, on its way to a topic of its own.
//!
//! The record stays as it was, its timestamp included. What happened is in headers by the names of Kafka Connect's
//! `DeadLetterQueueReporter`, as text. Connect has no header for the timestamp; here it has one of the same family,
//! because a topic with `LogAppendTime` gives the record another.

use std::fmt::Write;

use super::handler::HandlerError;
use crate::{Group, Header, Producer, Record, RecordRef, Result, Topic, header};

/// What messages are cut to: a record that just fits its topic should fit here too.
const MESSAGE_CHARS_MAX: usize = 1_024;
const CAUSES_MAX: usize = 16;

/// Where records go that were given up.
pub(super) struct DeadLetters {
    producer: Producer,
    topic: Topic,
    group: String,
    /// The handler's type.
    handler: &'static str,
}

/// How a record failed.
pub(super) struct Failed<'a> {
    pub(super) error: &'a HandlerError,
    pub(super) worker: usize,
}

impl DeadLetters {
    /// # Errors
    /// The topic does not exist.
    pub(super) fn new(group: &Group, topic: &str, handler: &'static str) -> Result<Self> {
        let store = group.store();
        let topic = store.topic(topic)?;
        Ok(DeadLetters { producer: store.producer()?, topic, group: group.id().to_owned(), handler })
    }

    pub(super) fn topic(&self) -> &str {
        self.topic.name()
    }

    /// Sends the record and waits until it is committed.
    pub(super) fn send(&self, record: RecordRef<'_>, failed: &Failed<'_>) -> Result<()> {
        let (partition, offset) = (record.partition().to_string(), record.offset().to_string());
        let (timestamp, worker) = (record.timestamp_ms().to_string(), failed.worker.to_string());
        let message = cut(&failed.error.to_string());
        let trace = trace(failed.error, &message);
        let context = [
            header("__connect.errors.topic", record.topic()),
            header("__connect.errors.partition", &partition),
            header("__connect.errors.offset", &offset),
            header("__connect.errors.timestamp", &timestamp),
            header("__connect.errors.connector.name", &self.group),
            header("__connect.errors.task.id", &worker),
            header("__connect.errors.stage", "TASK_PUT"),
            header("__connect.errors.class.name", self.handler),
            header("__connect.errors.exception.class.name", failed.error.kind()),
            header("__connect.errors.exception.message", &message),
            header("__connect.errors.exception.stacktrace", &trace),
        ];
        // As in Connect, these come last: whoever asks for a header of that name gets the newest.
        let headers: Vec<Header<'_>> = record.headers().iter().chain(context).collect();
        let mut dead = Record::to(&self.topic).headers(&headers);
        if let Some(key) = record.key() {
            dead = dead.key(key);
        }
        if let Some(value) = record.value() {
            dead = dead.value(value);
        }
        if record.timestamp_ms() >= 0 {
            dead = dead.timestamp_ms(record.timestamp_ms());
        }
        self.producer.send(dead)?.wait()?;
        Ok(())
    }
}

fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS_MAX).collect()
}

/// The error and those behind it, a line each, as Java prints them.
fn trace(error: &HandlerError, message: &str) -> String {
    let mut trace = format!("{}: {message}", error.kind());
    for cause in error.causes().take(CAUSES_MAX) {
        // A string takes everything.
        let _ = write!(trace, "\nCaused by: {}", cut(&cause.to_string()));
    }
    trace
}
