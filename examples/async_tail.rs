//! Follows a topic from an async task, with no async runtime but the twenty lines below.
//!
//! `Consumer::poll_ready` is the hook: it returns records, or has the task woken when there are some. A real runtime
//! needs nothing else.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};

use logstead::{Consumer, Record, Result, Store, TopicConfig};

const RECORDS: usize = 1_000;

/// The smallest runtime there is: one task, one thread, which sleeps until the task is woken.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(task: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut cx = Context::from_waker(&waker);
    let mut task = pin!(task);
    loop {
        match task.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

async fn count(mut consumer: Consumer) -> Result<usize> {
    let mut seen = 0;
    while seen < RECORDS {
        seen += poll_fn(|cx| consumer.poll_ready(cx)).await?.len();
    }
    Ok(seen)
}

fn main() -> Result<()> {
    let store = Store::in_memory()?;
    store.create_topic("ticks", TopicConfig::default().partitions(3))?;
    let mut consumer = store.consumer()?;
    consumer.assign_all(["ticks"])?;
    consumer.seek_to_beginning()?;

    let producer = store.producer()?;
    let sender = thread::spawn(move || -> Result<()> {
        for tick in 0..RECORDS {
            producer.send(Record::to("ticks").key(&tick.to_string()))?;
            if tick % 100 == 99 {
                producer.flush()?;
            }
        }
        producer.close()
    });
    println!("the task saw {} records", block_on(count(consumer))?);
    sender.join().expect("the sender did not panic")
}
