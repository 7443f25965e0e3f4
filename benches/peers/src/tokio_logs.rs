//! The logs with an asynchronous API. Each call is driven to its end by the caller: on one thread there is no faster
//! way into a tokio runtime than being its only thread.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::peer::{Mode, Peer};

fn on_callers_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

// ───────── mrecordlog

const QUEUE: &str = "t";

struct MRecordLog {
    runtime: Runtime,
    log: Mutex<::mrecordlog::MultiRecordLog>,
}

pub fn mrecordlog(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let dir = dir.join("mrecordlog");
    std::fs::create_dir_all(&dir).unwrap();
    let runtime = on_callers_thread();
    // Flushes only when asked to.
    let policy = ::mrecordlog::SyncPolicy::OnDelay(Duration::from_secs(3600));
    let mut log = runtime.block_on(::mrecordlog::MultiRecordLog::open_with_prefs(&dir, policy)).unwrap();
    if !log.queue_exists(QUEUE) {
        runtime.block_on(log.create_queue(QUEUE)).unwrap();
    }
    Box::new(MRecordLog { runtime, log: Mutex::new(log) })
}

impl Peer for MRecordLog {
    fn append(&self, batch: &[&[u8]]) {
        let mut log = self.log.lock().unwrap();
        self.runtime.block_on(log.append_records(QUEUE, None, batch.iter().copied())).unwrap();
    }

    fn append_durable(&self, _value: &[u8]) {
        unreachable!("mrecordlog never syncs its log");
    }

    fn hand_over(&self) {
        self.runtime.block_on(self.log.lock().unwrap().sync()).unwrap();
    }

    fn scan(&self) -> u64 {
        let log = self.log.lock().unwrap();
        let mut count = 0;
        for (_, value) in log.range(QUEUE, ..).unwrap() {
            std::hint::black_box(value.last());
            count += 1;
        }
        count
    }

    fn get(&self, index: u64) -> usize {
        let log = self.log.lock().unwrap();
        let (_, value) = log.range(QUEUE, index..=index).unwrap().next().unwrap();
        value.len()
    }

    fn close(self: Box<Self>) {
        self.hand_over();
    }
}

// ───────── kafko

const TOPIC: &str = "t";

struct Kafko {
    broker: ::kafko::Kafko,
    producer: ::kafko::Producer,
    partition: Arc<::kafko::Partition>,
    // Dropped last: the others need it.
    runtime: Runtime,
}

pub fn kafko(dir: &Path, mode: Mode) -> Box<dyn Peer> {
    let runtime = match mode {
        Mode::Relaxed => on_callers_thread(),
        // Its writer needs a thread where many callers wait.
        Mode::Durable => Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
    };
    let (broker, producer, partition) = runtime.block_on(async {
        let broker = ::kafko::Kafko::open(dir.join("kafko")).await.unwrap();
        if !broker.has_topic(TOPIC).await {
            broker.create_topic(TOPIC).await.unwrap();
        }
        let producer = broker.producer_for(TOPIC).await.unwrap();
        let partition = broker.topic(TOPIC).await.unwrap().partition(0).unwrap().clone();
        (broker, producer, partition)
    });
    Box::new(Kafko { broker, producer, partition, runtime })
}

impl Peer for Kafko {
    fn append(&self, batch: &[&[u8]]) {
        self.runtime.block_on(async {
            match batch {
                [value] => drop(self.producer.send(None, Bytes::copy_from_slice(value)).await.unwrap()),
                values => {
                    let values = values.iter().map(|value| (None, Bytes::copy_from_slice(value)));
                    drop(self.producer.send_batch(values.collect()).await.unwrap());
                }
            }
        });
    }

    fn append_durable(&self, value: &[u8]) {
        self.append(&[value]);
        self.runtime.block_on(self.partition.sync()).unwrap();
    }

    fn get(&self, index: u64) -> usize {
        let record = self.runtime.block_on(self.partition.read_record_at(index)).unwrap().unwrap();
        record.value().len()
    }

    fn holds(&self, count: u64) -> bool {
        let read = |index| self.runtime.block_on(self.partition.read_record_at(index));
        read(count - 1).is_ok_and(|record| record.is_some())
            && !read(count).is_ok_and(|record| record.is_some())
    }

    fn close(self: Box<Self>) {
        let Kafko { broker, producer, partition, runtime } = *self;
        // What is still referenced is not shut down.
        drop((producer, partition));
        runtime.block_on(broker.shutdown()).unwrap();
    }
}
