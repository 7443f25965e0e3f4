//! More partitions than the process may have files: a program of its own, since the limit is the process's.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "counts what the process has open")]

use logstead::{Acks, Durability, Maintenance, ProducerConfig, Record, Store, TopicConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LIMIT: u64 = 200;
const PARTITIONS: u32 = 500;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn partitions_without_number_are_served_with_few_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum }).unwrap();
    for durability in [Durability::Disk, Durability::PageCache] {
        let home = tempfile::tempdir().unwrap();
        let before = open_files();
        let store = Store::open(home.path().join("data")).unwrap();
        let config = TopicConfig::default().partitions(PARTITIONS).durability(durability);
        let topic = store.create_topic("t", config).unwrap();
        let producer = store.producer_with(ProducerConfig::default().acks(Acks::All)).unwrap();
        for round in 0..3 {
            for p in 0..PARTITIONS as i32 {
                producer.send(Record::to(&topic).partition(p).value("v")).unwrap();
            }
            producer.flush().unwrap();
            let open = open_files() - before;
            // Half the limit, a quarter of it dirty at most, and what a few threads have in hand.
            assert!(open <= LIMIT as usize / 2 + 16, "{durability}, round {round}: {open} files");
        }
        for p in 0..PARTITIONS as i32 {
            assert_eq!(topic.partition(p).unwrap().high_watermark(), 3);
            let read = topic.partition(p).unwrap().read(0, 1 << 20).unwrap();
            assert_eq!(read.len(), 3);
        }
        drop(topic);
        producer.close().unwrap();
        store.close().unwrap();
        let store = Store::open(home.path().join("data")).unwrap();
        assert!(store.recovery_report().clean, "{}", store.recovery_report());
        assert_eq!(store.topic("t").unwrap().partition(PARTITIONS as i32 - 1).unwrap().high_watermark(), 3);
    }

    // A sender that makes room for the next batch by appending the oldest, partition after partition.
    let home = tempfile::tempdir().unwrap();
    let before = open_files();
    let store = Store::options().maintenance(Maintenance::Manual).open(home.path().join("data")).unwrap();
    let topic = store.create_topic("t", TopicConfig::default().partitions(PARTITIONS)).unwrap();
    let config = ProducerConfig::default().linger_ms(60_000).batch_size(1_000).buffer_memory(20_000);
    let producer = store.producer_with(config).unwrap();
    for p in 0..PARTITIONS as i32 {
        producer.send(Record::to(&topic).partition(p).value("v")).unwrap();
        let open = open_files() - before;
        assert!(open <= LIMIT as usize / 2 + 16, "behind partition {p}: {open} files");
    }
    producer.close().unwrap();
    store.close().unwrap();

    // One partition that rolls with every few records: closed segments that wait for their sync are few.
    for (durability, acks) in [
        (Durability::PageCache, Acks::All),
        (Durability::PageCache, Acks::Leader),
        (Durability::Disk, Acks::Leader),
    ] {
        let home = tempfile::tempdir().unwrap();
        let before = open_files();
        let store = Store::options().maintenance(Maintenance::Manual).open(home.path().join("data")).unwrap();
        let config = TopicConfig::default().durability(durability).segment_bytes(400);
        let topic = store.create_topic("t", config).unwrap();
        let partition = topic.partition(0).unwrap();
        for _ in 0..1_000 {
            partition.append([Record::to(&topic).value(&[7; 100][..])], None, acks).unwrap();
        }
        assert!(open_files() - before <= 100, "{durability}: {}", open_files() - before);
        assert_eq!(partition.log_end_offset(), 1_000);
        store.close().unwrap();
    }
}
