//! logstead, through a producer and through a partition.

use std::path::Path;
use std::time::Duration;

use logstead::{
    Acks, Compression, Durability, Partition, Producer, ProducerConfig, Record, Store, Topic, TopicConfig,
};

use crate::peer::{Mode, Peer};

const TOPIC: &str = "t";

struct Ours {
    producer: Option<Producer>,
    partition: Partition,
    topic: Topic,
    store: Store,
}

pub fn producer(dir: &Path, mode: Mode) -> Box<dyn Peer> {
    let mut ours = open(dir, mode);
    let acks = if mode == Mode::Durable { Acks::All } else { Acks::Leader };
    let config = ProducerConfig::default().acks(acks).compression(Compression::None);
    ours.producer = Some(ours.store.producer_with(config).unwrap());
    Box::new(ours)
}

pub fn partition(dir: &Path, mode: Mode) -> Box<dyn Peer> {
    Box::new(open(dir, mode))
}

fn open(dir: &Path, mode: Mode) -> Ours {
    let store = Store::open(dir.join("store")).unwrap();
    let topic = store.topic(TOPIC).unwrap_or_else(|_| {
        let durability = if mode == Mode::Durable { Durability::Disk } else { Durability::PageCache };
        store.create_topic(TOPIC, TopicConfig::default().durability(durability)).unwrap()
    });
    let partition = topic.partition(0).unwrap();
    Ours { producer: None, partition, topic, store }
}

impl Peer for Ours {
    fn append(&self, batch: &[&[u8]]) {
        match &self.producer {
            Some(producer) => {
                for value in batch {
                    producer.send(Record::to(&self.topic).value(*value)).unwrap();
                }
            }
            None => {
                let records = batch.iter().map(|value| Record::to(&self.topic).value(*value));
                self.partition.append(records, None, Acks::Leader).unwrap();
            }
        }
    }

    fn append_durable(&self, value: &[u8]) {
        let record = Record::to(&self.topic).value(value);
        match &self.producer {
            Some(producer) => drop(producer.send(record).unwrap().wait().unwrap()),
            None => drop(self.partition.append([record], None, Acks::All).unwrap()),
        }
    }

    fn hand_over(&self) {
        if let Some(producer) = &self.producer {
            producer.flush().unwrap();
        }
    }

    fn scan(&self) -> u64 {
        let mut consumer = self.store.consumer().unwrap();
        consumer.assign_all([TOPIC]).unwrap();
        consumer.seek_to_beginning().unwrap();
        let mut count = 0;
        loop {
            let records = consumer.poll(Duration::ZERO).unwrap();
            if records.is_empty() {
                return count;
            }
            for record in &records {
                std::hint::black_box(record.value().and_then(<[u8]>::last));
                count += 1;
            }
        }
    }

    fn get(&self, index: u64) -> usize {
        let record = self.partition.get(index as i64).unwrap().unwrap();
        std::hint::black_box(record.record().value()).unwrap().len()
    }

    fn close(self: Box<Self>) {
        let Ours { producer, partition, topic, store } = *self;
        drop((producer, partition, topic));
        store.close().unwrap();
    }
}
