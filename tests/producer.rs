//! What a producer promises beyond the walk of one record (Kafka's cases L, and what this crate adds).
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use logstead::{
    Acks, Compression, Durability, ErrorKind, FaultKind, FaultOp, Maintenance, ManualClock, Partitioner,
    ProducerConfig, Record, SimDisk, Store, TimestampType, TopicConfig,
};

fn manual(disk: &SimDisk, clock: &ManualClock) -> Store {
    Store::options().maintenance(Maintenance::Manual).clock(clock.clone()).disk(disk).open("/s").unwrap()
}

/// A store that stands still unless it is moved.
fn still() -> (SimDisk, ManualClock, Store) {
    let (disk, clock) = (SimDisk::new(1), ManualClock::new(1_000_000));
    let store = manual(&disk, &clock);
    (disk, clock, store)
}

#[test]
fn l04_a_lingering_batch_is_ready_after_linger_ms_and_not_before() {
    let (_disk, clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default().durability(Durability::PageCache)).unwrap();
    let producer = store.producer_with(ProducerConfig::default().linger_ms(10)).unwrap();
    producer.send(Record::to(&topic).value("v")).unwrap();
    assert_eq!(store.maintain().unwrap().next_due, Some(Duration::from_millis(10)));
    clock.advance(Duration::from_millis(9));
    store.maintain().unwrap();
    assert_eq!(topic.partition(0).unwrap().log_end_offset(), 0);
    clock.advance(Duration::from_millis(1));
    store.maintain().unwrap();
    assert_eq!(topic.partition(0).unwrap().log_end_offset(), 1);
}

#[test]
fn l05_a_full_batch_is_ready_at_once_however_long_the_linger() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer =
        store.producer_with(ProducerConfig::default().linger_ms(60_000).batch_size(1_000)).unwrap();
    for _ in 0..10 {
        producer.send(Record::to(&topic).value(&[7; 150])).unwrap();
    }
    store.maintain().unwrap();
    assert!(topic.partition(0).unwrap().log_end_offset() >= 5);
}

#[test]
fn full_batches_go_out_together_and_without_linger_each_at_once() {
    for (linger_ms, writes) in [(5, 1..=2), (0, 14..=17)] {
        let (disk, _clock, store) = still();
        let topic =
            store.create_topic("t", TopicConfig::default().durability(Durability::PageCache)).unwrap();
        let config = ProducerConfig::default().linger_ms(linger_ms).batch_size(16 * 1024).acks(Acks::Leader);
        let producer = store.producer_with(config).unwrap();
        let before = disk.counts().writes;
        for _ in 0..16 * 16 {
            producer.send(Record::to(&topic).value(&[7; 1_000])).unwrap();
        }
        let done = disk.counts().writes - before;
        assert!(writes.contains(&done), "linger {linger_ms}: {done} writes");
    }
}

#[test]
fn l06_a_record_larger_than_batch_size_goes_alone_up_to_max_request_size() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let config = ProducerConfig::default().batch_size(1_000).max_request_size(5_000);
    let producer = store.producer_with(config).unwrap();
    producer.send(Record::to(&topic).value("small")).unwrap();
    let large = producer.send(Record::to(&topic).value(&[1; 4_000])).unwrap().wait().unwrap();
    assert_eq!(large.offset, 1);
    let batches = topic.partition(0).unwrap().read(0, 1 << 20).unwrap();
    assert_eq!(
        batches.batches().map(|b| (b.base_offset(), b.last_offset())).collect::<Vec<_>>(),
        [(0, 0), (1, 1)]
    );
    let refused = producer.send(Record::to(&topic).value(&[1; 5_001])).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::RecordTooLarge { limit: 5_000, .. }), "{refused}");
}

#[test]
fn l07_records_without_a_key_leave_no_fractional_batches() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default().partitions(3)).unwrap();
    let config = ProducerConfig::default().batch_size(1_000).linger_ms(60_000).acks(Acks::Leader);
    let producer = store.producer_with(config).unwrap();
    for _ in 0..200 {
        producer.send(Record::to(&topic).value(&[7; 140])).unwrap();
    }
    let mut batches = 0;
    store.maintain().unwrap();
    let ends = [0, 1, 2].map(|p| topic.partition(p).unwrap().log_end_offset());
    producer.flush().unwrap();
    for (p, end) in (0..).zip(ends) {
        let partition = topic.partition(p).unwrap();
        for records in partition.scan(0) {
            for batch in records.unwrap().batches().filter(|batch| batch.last_offset() < end) {
                batches += 1;
                assert!(batch.records().count() >= 5, "{batch:?}");
            }
        }
    }
    assert!(batches > 20);
}

#[test]
fn l09_a_delivery_timeout_below_linger_is_refused() {
    let config = ProducerConfig::default().linger_ms(200).delivery_timeout_ms(100);
    let (_disk, _clock, store) = still();
    assert!(matches!(store.producer_with(config).unwrap_err().kind(), ErrorKind::InvalidConfig { .. }));
}

#[test]
fn f12_log_append_time_stamps_every_record_with_the_time_of_its_append() {
    let (_disk, clock, store) = still();
    let config = TopicConfig::default().timestamp_type(TimestampType::LogAppendTime);
    let topic = store.create_topic("t", config).unwrap();
    let producer = store.producer().unwrap();
    producer.send(Record::to(&topic).value("v").timestamp_ms(5)).unwrap();
    clock.advance(Duration::from_secs(1));
    producer.flush().unwrap();
    let records = topic.partition(0).unwrap().read(0, 1).unwrap();
    assert_eq!(records.iter().map(|r| r.timestamp_ms()).collect::<Vec<_>>(), [1_001_000]);
    assert_eq!(records.batches().next().unwrap().timestamp_type(), TimestampType::LogAppendTime);
}

#[test]
fn f11_timestamps_too_far_from_now_are_refused_by_index_and_none_is_appended() {
    let (_disk, clock, store) = still();
    let config = TopicConfig::default().timestamp_before_max_ms(1_000).timestamp_after_max_ms(500);
    let topic = store.create_topic("t", config).unwrap();
    let now = logstead::Clock::now_ms(&clock);
    let times = [now, now - 1_000, now - 1_001, now + 500, now + 501, -1];
    let records = times.map(|time| Record::to(&topic).value("v").timestamp_ms(time));
    let partition = topic.partition(0).unwrap();
    let refused = partition.append(records, None, Acks::All).unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::InvalidTimestamp { records, .. } if records == &[2, 4]),
        "{refused}"
    );
    assert_eq!(partition.log_end_offset(), 0);
    let producer = store.producer().unwrap();
    let sent: Vec<bool> = records.iter().map(|record| producer.send(*record).is_ok()).collect();
    assert_eq!(sent, [true, true, false, true, false, true]);
}

#[cfg(all(feature = "lz4", feature = "zstd"))]
#[test]
fn f13_the_topics_codec_wins_over_the_producers() {
    let codec_of = |topic: &logstead::Topic, disk: &SimDisk| {
        let log = disk.read_file(format!("/s/{}-0/00000000000000000000.log", topic.name())).unwrap();
        log[22] & 7
    };
    // `producer`, the default, keeps what each producer chose.
    let kept =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let kept = kept.into_iter().filter(|codec| codec.is_built()).map(|codec| (None, codec, codec));
    for (topics, producers, stored) in kept.chain([
        (Some(Compression::Zstd), Compression::Lz4, Compression::Zstd),
        (Some(Compression::None), Compression::Lz4, Compression::None),
    ]) {
        let (disk, _clock, store) = still();
        let config = topics.map_or(TopicConfig::default(), |codec| TopicConfig::default().compression(codec));
        let topic = store.create_topic("t", config).unwrap();
        let producer = store.producer_with(ProducerConfig::default().compression(producers)).unwrap();
        producer.send(Record::to(&topic).value(&[7; 1_000])).unwrap().wait().unwrap();
        assert_eq!(codec_of(&topic, &disk), stored.id());
    }
}

#[test]
fn acks_none_leader_and_all_complete_when_they_say() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let send = |acks| {
        let producer = store.producer_with(ProducerConfig::default().acks(acks)).unwrap();
        producer.send(Record::to(&topic).value("v")).unwrap().wait().unwrap()
    };
    let none = send(Acks::None);
    assert_eq!((none.offset, none.durability), (-1, None));
    let leader = send(Acks::Leader);
    assert_eq!((leader.offset, leader.durability), (1, Some(Durability::PageCache)));
    assert_eq!(topic.partition(0).unwrap().high_watermark(), 0, "nothing was synced for it");
    let all = send(Acks::All);
    assert_eq!((all.offset, all.durability), (2, Some(Durability::Disk)));
    assert_eq!(topic.partition(0).unwrap().high_watermark(), 3);
}

#[test]
fn a_receipt_has_the_records_own_timestamp_however_far_from_the_others() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer().unwrap();
    let times = [1_700_000_000_000, 0, 1_700_000_000_001, i64::MAX, -1];
    let sent: Vec<_> = times
        .iter()
        .map(|t| producer.send(Record::to(&topic).value("v").timestamp_ms(*t)).unwrap())
        .collect();
    let got: Vec<_> = sent.into_iter().map(|delivery| delivery.wait().unwrap().timestamp_ms).collect();
    assert_eq!(got, times);
}

struct ByLength;

impl Partitioner for ByLength {
    fn partition(&self, _topic: &str, key: Option<&[u8]>, _value: Option<&[u8]>, _partitions: u32) -> i32 {
        key.map_or(99, |key| key.len() as i32)
    }
}

#[test]
fn a_partitioner_of_ones_own_decides_unless_the_record_does() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default().partitions(4)).unwrap();
    let producer = store.producer_with(ProducerConfig::default().partitioner(ByLength)).unwrap();
    let partition = |record| producer.send(record).unwrap().wait().unwrap().partition;
    assert_eq!(partition(Record::to(&topic).key("abc")), 3);
    assert_eq!(partition(Record::to(&topic).key("abc").partition(1)), 1);
    let wild = producer.send(Record::to(&topic).value("no key")).unwrap_err();
    assert!(
        matches!(wild.kind(), ErrorKind::UnknownPartition { partition: 99, partitions: 4, .. }),
        "{wild}"
    );
}

#[test]
fn the_hook_hears_of_every_batch_once_in_order_and_may_send_but_not_wait() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer_with(ProducerConfig::default().batch_size(0)).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let inside = producer.clone();
    let note = Arc::clone(&heard);
    producer
        .on_delivery(move |outcome| {
            let receipt = outcome.as_ref().unwrap();
            assert_eq!(receipt.durability, Durability::Disk);
            assert!(matches!(inside.flush().unwrap_err().kind(), ErrorKind::WouldWaitForItself { .. }));
            if receipt.offsets.start < 3 {
                inside.send(Record::to("t").value("from the hook")).unwrap();
            }
            note.lock().unwrap().push(receipt.offsets.clone());
        })
        .unwrap();
    assert!(producer.on_delivery(|_| {}).is_err(), "one a producer");
    for _ in 0..3 {
        producer.send(Record::to(&topic).value("v")).unwrap().wait().unwrap();
    }
    while topic.partition(0).unwrap().high_watermark() < 6 {
        producer.flush().unwrap();
    }
    let heard = heard.lock().unwrap();
    assert_eq!(heard.iter().map(|offsets| offsets.start).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn the_hook_and_every_delivery_of_a_failed_group_hear_of_it_and_no_offset_is_given_out() {
    let (disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer().unwrap();
    let errors = Arc::new(Mutex::new(0));
    let note = Arc::clone(&errors);
    producer.on_delivery(move |outcome| *note.lock().unwrap() += i32::from(outcome.is_err())).unwrap();
    let sent: Vec<_> = (0..3).map(|_| producer.send(Record::to(&topic).value("v")).unwrap()).collect();
    disk.fail_nth(FaultOp::Write, 1, FaultKind::NoSpace, false);
    for delivery in sent {
        let error = delivery.wait().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Full { .. }), "{error}");
    }
    assert_eq!(*errors.lock().unwrap(), 1, "one batch");
    assert!(matches!(producer.flush().unwrap_err().kind(), ErrorKind::Full { .. }), "flush tells it once");
    producer.flush().unwrap();
    let next = producer.send(Record::to(&topic).value("v")).unwrap().wait().unwrap();
    assert_eq!(next.offset, 0);
}

#[test]
fn a_failed_sync_fails_who_waits_and_the_partition_takes_no_more() {
    let (disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    let producer = store.producer().unwrap();
    let sent: Vec<_> =
        (0..3).map(|_| producer.send(Record::to(&topic).partition(0).value("v")).unwrap()).collect();
    disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    for delivery in sent {
        let error = delivery.wait().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Poisoned { partition: 0, from: 0, .. }), "{error}");
    }
    let again = producer.send(Record::to(&topic).partition(0).value("v")).unwrap_err();
    assert!(matches!(again.kind(), ErrorKind::Poisoned { .. }), "{again}");
    let other = producer.send(Record::to(&topic).partition(1).value("v")).unwrap().wait().unwrap();
    assert_eq!(other.offset, 0, "other partitions go on");
    store.recover("t", 0).unwrap();
    producer.send(Record::to(&topic).partition(0).value("v")).unwrap().wait().unwrap();
}

#[test]
fn buffer_memory_full_of_half_filled_batches_makes_progress() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default().partitions(1_000)).unwrap();
    let config = ProducerConfig::default().batch_size(4_096).buffer_memory(100 * 4_096).linger_ms(60_000);
    let producer = store.producer_with(config).unwrap();
    for round in 0..3 {
        for p in 0..1_000 {
            producer.send(Record::to(&topic).partition(p).value(&[round; 100])).unwrap();
        }
    }
    producer.flush().unwrap();
    let total: i64 = (0..1_000).map(|p| topic.partition(p).unwrap().high_watermark()).sum();
    assert_eq!(total, 3_000);
}

#[test]
fn close_takes_no_more_and_commits_what_was_sent() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer().unwrap();
    let other = producer.clone();
    producer.send(Record::to(&topic).value("v")).unwrap();
    producer.close_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(topic.partition(0).unwrap().high_watermark(), 1);
    assert!(matches!(other.send(Record::to(&topic)).unwrap_err().kind(), ErrorKind::Closed));
}

#[test]
fn the_writer_loses_nothing_when_the_disk_is_full_and_goes_on_when_there_is_space() {
    let (disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let partition = topic.partition(0).unwrap();
    let mut writer = partition.writer(ProducerConfig::default().batch_size(500)).unwrap();
    disk.fail_nth(FaultOp::Write, 1, FaultKind::NoSpace, true);
    let mut taken = 0;
    for i in 0..50_u32 {
        taken += i64::from(writer.send(Record::to(&topic).value(&i.to_be_bytes().repeat(2_500))).is_ok());
    }
    assert!((1..50).contains(&taken), "{taken}");
    assert!(matches!(writer.flush().unwrap_err().kind(), ErrorKind::Full { .. }));
    disk.clear_faults();
    assert_eq!(writer.flush().unwrap(), taken);
    assert_eq!(partition.high_watermark(), taken);
    let values: Vec<u32> = partition
        .scan(0)
        .flat_map(|records| {
            let records = records.unwrap();
            let of = |v: Option<&[u8]>| u32::from_be_bytes(v.unwrap()[..4].try_into().unwrap());
            records.iter().map(|r| of(r.value())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(values, (0..taken as u32).collect::<Vec<_>>());
}

#[test]
fn a_batch_that_is_too_large_for_the_topic_takes_no_other_with_it() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default().max_message_bytes(20_000)).unwrap();
    let producer = store.producer().unwrap();
    let sent = [100, 30_000, 100].map(|len| producer.send(Record::to(&topic).value(&vec![7; len])).unwrap());
    let [first, large, last] = sent.map(|delivery| delivery.wait().map(|receipt| receipt.offset));
    assert_eq!(first.unwrap(), 0);
    assert!(matches!(large.unwrap_err().kind(), ErrorKind::RecordTooLarge { .. }));
    assert_eq!(last.unwrap(), 1);
}

#[test]
fn a_wait_may_be_as_long_as_can_be_said() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer().unwrap();
    let delivery = producer.send(Record::to(&topic).value("v")).unwrap();
    assert_eq!(delivery.wait_timeout(Duration::MAX).unwrap().unwrap().offset, 0);
    producer.close_timeout(Duration::MAX).unwrap();
}

#[test]
fn a_sender_finds_room_while_what_is_due_is_being_appended() {
    let (_disk, clock, store) = still();
    let config = TopicConfig::default().partitions(3).durability(Durability::PageCache);
    let topic = store.create_topic("t", config).unwrap();
    let config = ProducerConfig::default().batch_size(1_000).buffer_memory(2_000).linger_ms(1_000);
    let producer = store.producer_with(config.max_block_ms(2_000)).unwrap();
    let (entered, inside) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let left = Mutex::new(left);
    producer
        .on_delivery(move |outcome| {
            if outcome.as_ref().unwrap().partition == 0 {
                entered.send(()).unwrap();
                left.lock().unwrap().recv().unwrap();
            }
        })
        .unwrap();
    producer.send(Record::to(&topic).partition(0).value("due")).unwrap();
    clock.advance(Duration::from_millis(600));
    producer.send(Record::to(&topic).partition(1).value("not due")).unwrap();
    clock.advance(Duration::from_millis(600));
    std::thread::scope(|scope| {
        let maintained = scope.spawn(|| store.maintain());
        inside.recv_timeout(Duration::from_secs(10)).unwrap();
        let sent = producer.send(Record::to(&topic).partition(2).value("needs room"));
        leave.send(()).unwrap();
        maintained.join().unwrap().unwrap();
        sent.unwrap();
    });
    assert_eq!(topic.partition(1).unwrap().log_end_offset(), 1, "made room");
}

#[test]
fn a_send_from_the_hook_waits_for_no_sync() {
    let (disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default().partitions(2)).unwrap();
    let config = ProducerConfig::default().acks(Acks::Leader);
    let (producer, other) =
        (store.producer_with(config.clone()).unwrap(), store.producer_with(config).unwrap());
    let large = vec![7; 1_000_000];
    other.send(Record::to(&topic).partition(1).value(&large)).unwrap().wait().unwrap();
    let syncs = Arc::new(Mutex::new(0));
    let (note, counted, inside, value) = (Arc::clone(&syncs), disk.clone(), other.clone(), large.clone());
    producer
        .on_delivery(move |_| {
            let before = counted.counts().syncs;
            for _ in 0..10 {
                inside.send(Record::to("t").partition(1).value(&value)).unwrap();
            }
            *note.lock().unwrap() += counted.counts().syncs - before;
        })
        .unwrap();
    producer.send(Record::to(&topic).partition(0).value("v")).unwrap().wait().unwrap();
    assert_eq!(topic.partition(1).unwrap().log_end_offset(), 11);
    assert_eq!(*syncs.lock().unwrap(), 0);
    other.send(Record::to(&topic).partition(1).value(&large)).unwrap();
    assert_eq!(topic.partition(1).unwrap().high_watermark(), 12, "the next one outside keeps the bound");
}

#[test]
fn the_writer_says_at_every_flush_that_its_records_are_not_safe() {
    let (disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let partition = topic.partition(0).unwrap();
    let large = vec![7; 1_000_000];
    for _ in 0..8 {
        partition.append([Record::to(&topic).value(&large)], None, Acks::Leader).unwrap();
    }
    let mut writer = partition.writer(ProducerConfig::default()).unwrap();
    writer.send(Record::to(&topic).value(&large)).unwrap();
    disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    for _ in 0..2 {
        assert!(matches!(writer.flush().unwrap_err().kind(), ErrorKind::Poisoned { .. }));
    }
}

#[test]
fn the_writer_says_what_a_recovery_lost_before_it_goes_on() {
    let (disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let partition = topic.partition(0).unwrap();
    let mut writer = partition.writer(ProducerConfig::default()).unwrap();
    for _ in 0..3 {
        writer.send(Record::to(&topic).value(&[7; 200_000])).unwrap();
    }
    assert_eq!(partition.log_end_offset(), 1);
    disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, false);
    partition.append([Record::to(&topic).value("v")], None, Acks::All).unwrap_err();
    store.recover("t", 0).unwrap();
    assert_eq!(partition.log_end_offset(), 0);
    assert!(matches!(writer.flush().unwrap_err().kind(), ErrorKind::Poisoned { .. }));
    assert_eq!(writer.flush().unwrap(), 2, "the two that were not appended yet");
}

#[test]
fn a_hook_may_not_close_the_store_and_dropping_the_last_handle_in_it_is_no_deadlock() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("s")).unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer_with(ProducerConfig::default().acks(Acks::Leader).linger_ms(1)).unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let last = Mutex::new(Some((store, topic.clone())));
    producer
        .on_delivery(move |_| {
            if let Some((store, topic)) = last.lock().unwrap().take() {
                let refused = store.clone().close().unwrap_err();
                drop((store, topic));
                told.send(matches!(refused.kind(), ErrorKind::WouldWaitForItself { .. })).unwrap();
            }
        })
        .unwrap();
    producer.send(Record::to(&topic).value("v")).unwrap();
    drop((producer, topic));
    assert!(heard.recv_timeout(Duration::from_secs(60)).unwrap());
    let patience = std::time::Instant::now() + Duration::from_secs(60);
    let reopened = loop {
        match Store::open(dir.path().join("s")) {
            Err(error) if error.is_retriable() && std::time::Instant::now() < patience => {
                std::thread::yield_now()
            }
            other => break other.unwrap(),
        }
    };
    assert_eq!(reopened.topic("t").unwrap().partition(0).unwrap().high_watermark(), 1);
}

#[test]
fn closing_twice_says_the_same_twice() {
    let (disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    store.producer().unwrap().send(Record::to(&topic).value("v")).unwrap();
    disk.fail_nth(FaultOp::SyncData, 1, FaultKind::Io, true);
    assert!(store.clone().close().is_err());
    assert!(store.close().is_err());
}

#[test]
fn a_failed_write_fails_all_batches_that_were_to_go_with_it() {
    let (disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer_with(ProducerConfig::default().batch_size(500).linger_ms(60_000)).unwrap();
    let sent: Vec<_> = (0..5).map(|_| producer.send(Record::to(&topic).value(&[7; 400])).unwrap()).collect();
    disk.fail_nth(FaultOp::Write, 1, FaultKind::NoSpace, false);
    assert!(sent.into_iter().all(|delivery| delivery.wait().is_err()));
    assert_eq!(topic.partition(0).unwrap().log_end_offset(), 0, "none overtakes those in front");
}

#[test]
fn batches_are_never_larger_than_the_topic_takes_and_a_record_that_is_fails_alone() {
    let (_disk, _clock, store) = still();
    let topic = store.create_topic("t", TopicConfig::default().max_message_bytes(1_000)).unwrap();
    let partition = topic.partition(0).unwrap();
    let producer = store.producer().unwrap();
    let mut writer = partition.writer(ProducerConfig::default()).unwrap();
    for _ in 0..20 {
        producer.send(Record::to(&topic).value(&[7; 300])).unwrap();
        writer.send(Record::to(&topic).value(&[7; 300])).unwrap();
    }
    producer.flush().unwrap();
    writer.flush().unwrap();
    writer.send(Record::to(&topic).value(&[7; 2_000])).unwrap();
    assert!(matches!(writer.flush().unwrap_err().kind(), ErrorKind::RecordTooLarge { limit: 1_000, .. }));
    writer.send(Record::to(&topic).value("after")).unwrap();
    assert_eq!(writer.flush().unwrap(), 41);
}

// ───────── what a fresh user found

/// A store whose next write fails, once or for ever.
fn about_to_fail(sticky: bool) -> (SimDisk, Store, logstead::Topic) {
    let disk = SimDisk::new(1);
    let store = Store::options().maintenance(Maintenance::Manual).disk(&disk).open("/s").unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    topic.partition(0).unwrap();
    disk.fail_nth(FaultOp::Write, 1, FaultKind::NoSpace, sticky);
    (disk, store, topic)
}

#[test]
fn closing_the_store_tells_of_accepted_records_that_could_not_be_written() {
    for dropped in [false, true] {
        let (_disk, store, topic) = about_to_fail(false);
        let producer = store.producer_with(ProducerConfig::default().linger_ms(60_000)).unwrap();
        producer.send(Record::to(&topic).value("lost")).unwrap();
        let kept = (!dropped).then_some(producer);
        let error = store.close().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Full { .. }), "{error}");
        drop(kept);
    }
    let (_disk, store, topic) = about_to_fail(true);
    let mut writer = topic.partition(0).unwrap().writer(ProducerConfig::default()).unwrap();
    writer.send(Record::to(&topic).value("lost")).unwrap();
    drop(writer);
    assert!(store.close().is_err());
}

#[test]
fn closing_the_store_does_not_repeat_what_a_delivery_told() {
    let (_disk, store, topic) = about_to_fail(false);
    let producer = store.producer().unwrap();
    let delivery = producer.send(Record::to(&topic).value("lost")).unwrap();
    assert!(delivery.wait().is_err());
    store.close().unwrap();
    drop(producer);
}

#[test]
fn a_failed_flush_commits_what_could_be_written() {
    let (disk, store, topic) = about_to_fail(false);
    disk.clear_faults();
    let producer = store.producer_with(ProducerConfig::default().acks(Acks::Leader)).unwrap();
    producer.send(Record::to(&topic).value("good")).unwrap().wait().unwrap();
    disk.fail_nth(FaultOp::Write, 1, FaultKind::NoSpace, false);
    producer.send(Record::to(&topic).value("lost")).unwrap();
    assert!(matches!(producer.flush().unwrap_err().kind(), ErrorKind::Full { .. }));
    assert_eq!(topic.partition(0).unwrap().high_watermark(), 1);
}

#[test]
fn calls_that_would_wait_are_refused_in_a_hook_before_they_did_anything() {
    let store = Store::in_memory().unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let other = store.create_topic("other", TopicConfig::default()).unwrap();
    let producer = store.producer().unwrap();
    let (own, said) = (producer.clone(), Arc::new(Mutex::new(Vec::new())));
    let (partition, say) = (other.partition(0).unwrap(), Arc::clone(&said));
    producer
        .on_delivery(move |_| {
            let record = Record::to(partition.topic()).value("v");
            let mut writer = partition.writer(ProducerConfig::default()).unwrap();
            let errors = [
                partition.append([record], None, Acks::All).unwrap_err(),
                writer.flush().unwrap_err(),
                own.clone().close().unwrap_err(),
            ];
            say.lock().unwrap().extend(errors.map(|error| error.to_string()));
        })
        .unwrap();
    producer.send(Record::to(&topic).value("v")).unwrap().wait().unwrap();
    let said = said.lock().unwrap();
    for (error, call) in said.iter().zip(["Partition::append", "Writer::flush", "Producer::close"]) {
        assert!(error.starts_with(call), "{error}");
    }
    assert_eq!((said.len(), other.partition(0).unwrap().log_end_offset()), (3, 0));
    producer.send(Record::to(&topic).value("it goes on")).unwrap();
}

#[test]
fn each_codec_has_its_own_level_whatever_the_order() {
    let orders = [
        [("compression.type", "zstd"), ("compression.zstd.level", "3"), ("compression.gzip.level", "9")],
        [("compression.gzip.level", "9"), ("compression.zstd.level", "3"), ("compression.type", "zstd")],
    ];
    for properties in orders {
        let config = ProducerConfig::from_properties(properties).unwrap();
        assert_eq!(
            config,
            ProducerConfig::default().compression(Compression::Zstd).zstd_level(3).gzip_level(9)
        );
    }
}

#[test]
fn a_writer_of_a_closed_store_takes_nothing() {
    let store = Store::in_memory().unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let mut writer = topic.partition(0).unwrap().writer(ProducerConfig::default()).unwrap();
    store.close().unwrap();
    let error = writer.send(Record::to(&topic).value("v")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
}
