//! Polling for ever, as an iterator.

use std::time::Duration;

use super::Consumer;
use crate::error::{ErrorKind, Result};
use crate::log::Records;

impl Consumer {
    /// Blocks for batch after batch of records; ends when the [`Waker`](crate::Waker) wakes it, or the
    /// store closes. An error comes again and again until its cause is gone, as from `poll`: seek, assign anew, or end
    /// the loop.
    ///
    /// ```
    /// # use logstead::{Record, Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # store.create_topic("t", TopicConfig::default())?;
    /// # let producer = store.producer()?;
    /// # for value in ["a", "b", "stop"] { producer.send(Record::to("t").value(value))?; }
    /// # producer.flush()?;
    /// # let mut consumer = store.consumer()?;
    /// # consumer.assign_all(["t"])?;
    /// # consumer.seek_to_beginning()?;
    /// let stop = consumer.waker();
    /// let mut seen = 0;
    /// for records in consumer.batches() {
    ///     for record in &records? {
    ///         seen += 1;
    ///         if record.value() == Some(b"stop") {
    ///             stop.wake();
    ///         }
    ///     }
    /// }
    /// assert_eq!(seen, 3);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    pub fn batches(&mut self) -> Batches<'_> {
        Batches { consumer: self, done: false }
    }
}

/// Blocks for batch after batch: see [`Consumer::batches`].
#[derive(Debug)]
pub struct Batches<'c> {
    consumer: &'c mut Consumer,
    done: bool,
}

impl Iterator for Batches<'_> {
    type Item = Result<Records>;

    fn next(&mut self) -> Option<Result<Records>> {
        while !self.done {
            match self.consumer.poll(LONG) {
                Ok(records) if records.is_empty() => {}
                Err(error) if matches!(error.kind(), ErrorKind::Woken | ErrorKind::Closed) => {
                    self.done = true
                }
                other => return Some(other),
            }
        }
        None
    }
}

/// How long one wait of [`Batches`] lasts; it is woken earlier.
const LONG: Duration = Duration::from_secs(3_600);
