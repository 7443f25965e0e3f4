//! What a consumer promises beyond reading everything once.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use logstead::{
    Acks, AutoOffsetReset, Consumer, ConsumerConfig, Durability, ErrorKind, FaultKind, FaultOp, Maintenance,
    ProducerConfig, Record, Records, SimDisk, Store, Topic, TopicConfig,
};

/// A topic with `per_partition` records in each partition, committed one batch each.
fn filled(partitions: u32, per_partition: i64) -> (Store, Topic) {
    let store = Store::in_memory().unwrap();
    let topic = store.create_topic("t", TopicConfig::default().partitions(partitions)).unwrap();
    for p in 0..partitions as i32 {
        for i in 0..per_partition {
            append(&topic, p, i);
        }
    }
    (store, topic)
}

fn append(topic: &Topic, p: i32, i: i64) {
    let value = format!("{p}/{i}");
    let record = Record::to(topic).value(&value).timestamp_ms(1_000 + i * 10);
    topic.partition(p).unwrap().append([record], None, Acks::All).unwrap();
}

fn reader(store: &Store, config: ConsumerConfig) -> Consumer {
    let mut consumer = store.consumer_with(config).unwrap();
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    consumer
}

fn places(records: &Records) -> Vec<(i32, i64)> {
    records.iter().map(|record| (record.partition(), record.offset())).collect()
}

#[test]
fn max_poll_records_slices_and_every_record_comes_once_in_order() {
    let store = Store::in_memory().unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    for batch in 0..4 {
        let records = (0..10).map(|_| Record::to(&topic).value("v"));
        let receipt = topic.partition(0).unwrap().append(records, None, Acks::All).unwrap();
        assert_eq!(receipt.offsets.start, batch * 10);
    }
    let mut consumer = reader(&store, ConsumerConfig::default().max_poll_records(7));
    let mut seen = Vec::new();
    loop {
        let records = consumer.poll(Duration::ZERO).unwrap();
        assert!(records.len() <= 7);
        if records.is_empty() {
            break;
        }
        seen.extend(records.iter().map(|r| r.offset()));
        assert_eq!(consumer.position("t", 0).unwrap(), seen.last().unwrap() + 1);
    }
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    consumer.seek("t", 0, 33).unwrap();
    assert_eq!(
        places(&consumer.poll(Duration::ZERO).unwrap())[0],
        (0, 33),
        "a seek forgets what was fetched ahead"
    );
}

#[test]
fn no_partition_starves_behind_a_fast_one() {
    let (store, topic) = filled(3, 4);
    for i in 4..400 {
        append(&topic, 0, i);
    }
    let config = ConsumerConfig::default().max_poll_records(10).max_partition_fetch_bytes(500);
    let mut consumer = reader(&store, config);
    let mut polls_until_all = 0;
    let mut left = 8;
    while left > 0 {
        polls_until_all += 1;
        left -= places(&consumer.poll(Duration::ZERO).unwrap()).iter().filter(|(p, _)| *p != 0).count();
    }
    assert!(polls_until_all <= 4, "{polls_until_all}");
}

#[test]
fn a_record_larger_than_the_limits_is_still_delivered() {
    let store = Store::in_memory().unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    topic.partition(0).unwrap().append([Record::to(&topic).value(&[1; 10_000])], None, Acks::All).unwrap();
    let mut consumer =
        reader(&store, ConsumerConfig::default().fetch_max_bytes(10).max_partition_fetch_bytes(10));
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
}

#[test]
fn a_paused_partition_keeps_its_position_and_gives_nothing() {
    let (store, _topic) = filled(2, 3);
    let mut consumer = reader(&store, ConsumerConfig::default());
    consumer.pause("t", 0).unwrap();
    assert!(places(&consumer.poll(Duration::ZERO).unwrap()).iter().all(|(p, _)| *p == 1));
    assert_eq!(consumer.position("t", 0).unwrap(), 0);
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
    consumer.resume("t", 0).unwrap();
    assert_eq!(places(&consumer.poll(Duration::ZERO).unwrap()), [(0, 0), (0, 1), (0, 2)]);
    assert!(matches!(consumer.pause("t", 7).unwrap_err().kind(), ErrorKind::NotAssigned { .. }));
}

#[test]
fn offsets_are_told_for_partitions_assigned_or_not() {
    let (store, _topic) = filled(2, 5);
    let consumer = store.consumer().unwrap();
    assert_eq!(consumer.beginning_offsets([("t", 0), ("t", 1)]).unwrap(), [0, 0]);
    assert_eq!(consumer.end_offsets([("t", 1)]).unwrap(), [5]);
    let found = consumer.offsets_for_times([("t", 0, 1_015), ("t", 1, 1_020), ("t", 0, 9_999)]).unwrap();
    assert_eq!(found, [Some((2, 1_020)), Some((2, 1_020)), None]);
    assert!(consumer.end_offsets([("u", 0)]).is_err());
}

#[test]
fn positions_follow_seek_by_time_and_reset_policy() {
    let (store, _topic) = filled(1, 5);
    let mut consumer = reader(&store, ConsumerConfig::default());
    consumer.seek_to_time(1_025).unwrap();
    assert_eq!(consumer.position("t", 0).unwrap(), 3);
    consumer.seek_to_time(9_999).unwrap();
    assert_eq!(consumer.position("t", 0).unwrap(), 5);
    for (reset, expected) in [(AutoOffsetReset::Earliest, 0), (AutoOffsetReset::Latest, 5)] {
        let mut consumer = store.consumer_with(ConsumerConfig::default().auto_offset_reset(reset)).unwrap();
        consumer.assign([("t", 0)]).unwrap();
        assert_eq!(consumer.position("t", 0).unwrap(), expected);
        consumer.seek("t", 0, 77).unwrap();
        consumer.poll(Duration::ZERO).unwrap();
        assert_eq!(consumer.position("t", 0).unwrap(), 5, "read from there to the end");
    }
    let mut strict =
        store.consumer_with(ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::None)).unwrap();
    strict.assign([("t", 0)]).unwrap();
    assert!(matches!(strict.poll(Duration::ZERO).unwrap_err().kind(), ErrorKind::NoPosition { .. }));
    strict.seek("t", 0, 77).unwrap();
    assert!(matches!(strict.poll(Duration::ZERO).unwrap_err().kind(), ErrorKind::OffsetOutOfRange { .. }));
    strict.seek("t", 0, 4).unwrap();
    assert_eq!(strict.poll(Duration::ZERO).unwrap().len(), 1);
}

#[test]
fn fetch_min_bytes_is_waited_for_as_long_as_fetch_max_wait_ms() {
    let (store, _topic) = filled(1, 1);
    let config = ConsumerConfig::default().fetch_min_bytes(1_000_000).fetch_max_wait_ms(30);
    let mut consumer = reader(&store, config);
    let start = Instant::now();
    assert_eq!(consumer.poll(Duration::from_secs(100)).unwrap().len(), 1);
    assert!((Duration::from_millis(30)..Duration::from_secs(50)).contains(&start.elapsed()));
}

#[test]
fn read_your_writes_after_a_flush_or_a_receipt_the_next_poll_sees_the_record() {
    for durability in [Durability::Disk, Durability::PageCache] {
        let store = Store::in_memory().unwrap();
        let topic = store.create_topic("t", TopicConfig::default().durability(durability)).unwrap();
        let producer = store.producer().unwrap();
        let mut consumer = reader(&store, ConsumerConfig::default());
        for i in 0..50 {
            let delivery = producer.send(Record::to(&topic).value("v")).unwrap();
            if i % 2 == 0 {
                producer.flush().unwrap();
            } else {
                delivery.wait().unwrap();
            }
            assert_eq!(places(&consumer.poll(Duration::ZERO).unwrap()), [(0, i)]);
        }
    }
}

#[test]
fn shared_records_outlive_their_batch() {
    let (store, _topic) = filled(1, 3);
    let mut consumer = reader(&store, ConsumerConfig::default());
    let shared: Vec<_> = consumer.poll(Duration::ZERO).unwrap().iter().map(|record| record.share()).collect();
    drop((consumer, store));
    let values: Vec<_> = shared.iter().map(|s| s.record().value().unwrap().to_vec()).collect();
    assert_eq!(values, [b"0/0".to_vec(), b"0/1".to_vec(), b"0/2".to_vec()]);
}

#[cfg(feature = "bytes")]
#[test]
fn values_come_as_bytes_without_a_copy() {
    let (store, _topic) = filled(1, 1);
    let records = reader(&store, ConsumerConfig::default()).poll(Duration::ZERO).unwrap();
    let record = records.iter().next().unwrap();
    let bytes = record.value_bytes().unwrap();
    assert_eq!(bytes.as_ptr(), record.value().unwrap().as_ptr());
    drop(records);
    assert_eq!(&bytes[..], b"0/0");
}

#[test]
fn the_last_records_are_those_at_the_end() {
    let (_store, topic) = filled(1, 5);
    let partition = topic.partition(0).unwrap();
    let offsets = |n| partition.last(n).unwrap().iter().map(|r| r.offset()).collect::<Vec<_>>();
    assert_eq!(offsets(2), [3, 4]);
    assert_eq!(offsets(0), [0_i64; 0]);
    assert_eq!(offsets(99), [0, 1, 2, 3, 4]);
}

/// Counts how often a runtime would be told to poll again.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_task_is_woken_when_there_is_more() {
    let (store, topic) = filled(1, 0);
    let mut consumer = reader(&store, ConsumerConfig::default());
    let counter = Arc::new(Counter::default());
    let waker = Arc::clone(&counter).into();
    let mut cx = Context::from_waker(&waker);
    assert!(consumer.poll_ready(&mut cx).is_pending());
    assert_eq!(counter.0.load(Ordering::SeqCst), 0);
    append(&topic, 0, 0);
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(records) = consumer.poll_ready(&mut cx) else { panic!("woken for nothing") };
    assert_eq!(records.unwrap().len(), 1);
    assert!(consumer.poll_ready(&mut cx).is_pending());
    consumer.waker().wake();
    assert!(
        matches!(consumer.poll_ready(&mut cx), Poll::Ready(Err(e)) if matches!(e.kind(), ErrorKind::Woken))
    );
}

#[test]
fn a_thousand_idle_consumers_cost_no_cpu() {
    let (store, _topic) = filled(1, 0);
    let cpu_ms = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        (ticks(11) + ticks(12)) * 10
    };
    let consumers: Vec<Consumer> = (0..1_000).map(|_| reader(&store, ConsumerConfig::default())).collect();
    let wakers: Vec<_> = consumers.iter().map(Consumer::waker).collect();
    let arrived = Arc::new(std::sync::Barrier::new(1_001));
    std::thread::scope(|scope| {
        for mut consumer in consumers {
            let arrived = Arc::clone(&arrived);
            let thread = std::thread::Builder::new().stack_size(64 * 1024);
            let wait = move || {
                arrived.wait();
                consumer.batches().count()
            };
            thread.spawn_scoped(scope, wait).unwrap();
        }
        arrived.wait();
        // The clock of this test is a consumer that waits as well.
        let mut clock = reader(&store, ConsumerConfig::default());
        clock.poll(Duration::from_millis(300)).unwrap();
        let before = cpu_ms();
        clock.poll(Duration::from_millis(500)).unwrap();
        let used = cpu_ms() - before;
        wakers.iter().for_each(logstead::Waker::wake);
        assert!(used <= 100, "{used} ms of CPU in 500 ms of waiting");
    });
}

#[test]
fn with_threads_off_send_and_maintain_make_every_record_visible() {
    let clock = logstead::ManualClock::new(0);
    let store = Store::options()
        .maintenance(Maintenance::Manual)
        .clock(clock.clone())
        .disk(&logstead::SimDisk::new(3))
        .open("/s")
        .unwrap();
    let topic = store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    let producer = store.producer().unwrap();
    let sent: Vec<_> =
        (0..20).map(|i| producer.send(Record::to(&topic).partition(i % 2).value("v")).unwrap()).collect();
    let mut slices = 0;
    while let Some(due) = store.maintain().unwrap().next_due {
        clock.advance(due.max(Duration::from_millis(1)));
        slices += 1;
        assert!(slices < 100, "work that never ends");
        if sent.iter().all(|delivery| matches!(delivery.try_receipt(), Some(Ok(_)))) {
            break;
        }
    }
    assert!(sent.iter().all(|delivery| delivery.try_receipt().is_some_and(|r| r.is_ok())));
    assert_eq!([0, 1].map(|p| topic.partition(p).unwrap().high_watermark()), [10, 10]);
}

/// On a disk that can be made to fail, a topic with one committed record.
fn on_a_disk() -> (SimDisk, Store, Topic) {
    let disk = SimDisk::new(1);
    let store = Store::options().maintenance(Maintenance::Manual).disk(&disk).open("/s").unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    append(&topic, 0, 0);
    (disk, store, topic)
}

#[test]
fn a_poll_whose_commit_fails_gives_what_it_has() {
    let (disk, store, topic) = on_a_disk();
    let mut consumer = reader(&store, ConsumerConfig::default().fetch_min_bytes(1_000));
    let record = Record::to(&topic).value("v").timestamp_ms(1_010);
    topic.partition(0).unwrap().append([record], None, Acks::Leader).unwrap();
    disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    assert_eq!(places(&consumer.poll(Duration::ZERO).unwrap()), [(0, 0)]);
    assert_eq!(consumer.position("t", 0).unwrap(), 1);
}

#[test]
fn a_poll_may_wait_as_long_as_can_be_said() {
    let (store, _topic) = filled(1, 1);
    assert_eq!(reader(&store, ConsumerConfig::default()).poll(Duration::MAX).unwrap().len(), 1);
}

/// A task that uses the partition in the very call that wakes it.
struct Eager(Topic, mpsc::Sender<bool>);

impl Wake for Eager {
    fn wake(self: Arc<Self>) {
        let record = Record::to(&self.0).value("v");
        let appended = self.0.partition(0).unwrap().append([record], None, Acks::Leader);
        self.1.send(appended.is_err()).unwrap();
    }
}

#[test]
fn a_task_that_a_failed_write_wakes_may_use_the_partition() {
    let (disk, store, topic) = on_a_disk();
    let mut consumer = reader(&store, ConsumerConfig::default());
    consumer.seek_to_end().unwrap();
    let (refused, heard) = mpsc::channel();
    let waker = Arc::new(Eager(topic.clone(), refused)).into();
    assert!(consumer.poll_ready(&mut Context::from_waker(&waker)).is_pending());
    disk.fail_nth(FaultOp::Any, 1, FaultKind::Io, true);
    std::thread::spawn(move || {
        let record = Record::to(&topic).value("v").timestamp_ms(1_010);
        topic.partition(0).unwrap().append([record], None, Acks::Leader)
    });
    assert!(heard.recv_timeout(Duration::from_secs(10)).unwrap());
}

#[test]
fn a_poll_goes_on_into_the_next_segments() {
    let store = Store::in_memory().unwrap();
    let topic = store.create_topic("t", TopicConfig::default().segment_bytes(200)).unwrap();
    for i in 0..50 {
        append(&topic, 0, i);
    }
    let mut consumer = reader(&store, ConsumerConfig::default());
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 50);
}

#[test]
fn a_reader_beside_a_writer_sees_what_is_committed_from_the_first_record_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = Store::options().maintenance(Maintenance::Manual);
    let store = options.open(dir.path().join("s")).unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let seen = || {
        let reader = Store::open_read_only(dir.path().join("s")).unwrap();
        reader.topic("t").unwrap().partition(0).unwrap().high_watermark()
    };
    for i in 0..3 {
        topic.partition(0).unwrap().append([Record::to(&topic).value("v")], None, Acks::Leader).unwrap();
        assert_eq!(seen(), i, "not committed yet");
        store.producer().unwrap().flush().unwrap();
        let mut consumer = reader(&store, ConsumerConfig::default());
        consumer.seek_to_end().unwrap();
        consumer.poll(Duration::ZERO).unwrap();
        assert_eq!(seen(), i + 1);
    }
}

#[test]
fn sizes_without_bound_are_no_damage() {
    let (store, topic) = filled(1, 5);
    assert_eq!(topic.partition(0).unwrap().read(1, usize::MAX).unwrap().len(), 4);
    let config = ConsumerConfig::default().fetch_max_bytes(usize::MAX).max_partition_fetch_bytes(usize::MAX);
    let mut consumer = reader(&store, config);
    consumer.seek("t", 0, 1).unwrap();
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 4);
}

#[test]
fn a_poll_that_waits_commits_what_is_appended_meanwhile() {
    let store = Store::in_memory().unwrap();
    // Nobody else syncs within the time of this test.
    let topic = store.create_topic("t", TopicConfig::default().flush_ms(3_600_000)).unwrap();
    let mut consumer = reader(&store, ConsumerConfig::default());
    store.producer().unwrap().send(Record::to(&topic).value("lingers")).unwrap();
    assert_eq!(consumer.poll(Duration::from_secs(60)).unwrap().len(), 1);
}

// An offset that the library gave out is no reason to start over.
#[test]
fn a_seek_to_a_record_that_is_not_committed_yet_waits_for_it() {
    for reset in [AutoOffsetReset::Earliest, AutoOffsetReset::Latest, AutoOffsetReset::None] {
        let store =
            Store::options().maintenance(Maintenance::Manual).disk(&SimDisk::new(1)).open("/s").unwrap();
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        let producer = store.producer_with(ProducerConfig::default().acks(Acks::Leader)).unwrap();
        for _ in 0..5 {
            producer.send(Record::to(&topic).value("v")).unwrap().wait().unwrap();
        }
        let mut consumer = store.consumer_with(ConsumerConfig::default().auto_offset_reset(reset)).unwrap();
        consumer.assign_all(["t"]).unwrap();
        consumer.seek("t", 0, 4).unwrap();
        let records = consumer.poll(Duration::from_millis(100)).unwrap();
        assert_eq!(records.iter().map(|record| record.offset()).collect::<Vec<_>>(), [4], "{reset:?}");
        assert!(matches!(consumer.seek("t", 0, -1).unwrap_err().kind(), ErrorKind::OffsetOutOfRange { .. }));
        assert_eq!(consumer.position("t", 0).unwrap(), 5);
        consumer.pause("t", 0).unwrap();
        assert_eq!(consumer.paused().collect::<Vec<_>>(), [("t", 0)]);
    }
}

// A directory of others can end at the last offset there is: found by the fuzzer, which the seed keeps.
#[test]
fn a_log_that_ends_at_the_last_offset_is_polled_without_an_overflow() {
    let disk = SimDisk::new(1);
    disk.write_file("/s/t-0/09223372036854775807.log", b"").unwrap();
    let store = Store::options().maintenance(Maintenance::Manual).disk(&disk).open("/s").unwrap();
    let topic = store.topic("t").unwrap();
    assert_eq!(topic.partition(0).unwrap().high_watermark(), i64::MAX);
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
}
