//! What threads may do to each other: share syncs, keep their order, wake readers, close while others send.
//!
//! Nothing here sleeps: threads meet at barriers and wait for events, with deadlines that only a hang reaches.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use logstead::{
    Acks, Delivery, Durability, ErrorKind, Maintenance, ManualClock, Partition, Producer, ProducerConfig,
    Record, SimDisk, Store, TopicConfig,
};

/// Long enough for the slowest machine; reached by a hang alone.
const HANG: Duration = Duration::from_secs(60);

fn open(disk: &SimDisk, maintenance: Maintenance) -> Store {
    Store::options().disk(disk).maintenance(maintenance).open("/s").unwrap()
}

fn read_all(partition: &Partition) -> Vec<String> {
    let (mut values, mut at) = (Vec::new(), partition.log_start_offset());
    while at < partition.high_watermark() {
        let records = partition.read(at, 1 << 20).unwrap();
        values.extend(records.iter().map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap()));
        at = records.next_offset().unwrap();
    }
    values
}

// ───────── group commit

/// 64 threads send and wait, record by record. Returns records per sync.
fn records_per_sync(producer_of: impl Fn(&Store) -> Box<dyn Fn() -> Producer>) -> f64 {
    const THREADS: usize = 64;
    const EACH: usize = 20;
    let disk = SimDisk::new(1);
    let store = open(&disk, Maintenance::Manual);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = producer_of(&store);
    let start = Arc::new(Barrier::new(THREADS));
    disk.set_sync_time(Duration::from_millis(5));
    let before = disk.counts().syncs;
    let threads: Vec<_> = (0..THREADS)
        .map(|i| {
            let (producer, start) = (producer(), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                let mut last = -1;
                for n in 0..EACH {
                    let value = format!("{i} {n}");
                    let receipt = producer.send(Record::to("t").value(&value)).unwrap().wait().unwrap();
                    assert_eq!(receipt.durability, Some(Durability::Disk));
                    assert!(receipt.offset > last);
                    last = receipt.offset;
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let syncs = disk.counts().syncs - before;
    assert_eq!(topic.partition(0).unwrap().high_watermark(), (THREADS * EACH) as i64);
    // Acknowledged is kept: a power cut takes nothing.
    let after = open(&disk.crash(3), Maintenance::Manual);
    let mut values = read_all(&after.topic("t").unwrap().partition(0).unwrap());
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), THREADS * EACH);
    (THREADS * EACH) as f64 / syncs as f64
}

#[test]
fn those_who_wait_on_one_producer_share_syncs() {
    let shared = records_per_sync(|store| {
        let producer = store.producer().unwrap();
        Box::new(move || producer.clone())
    });
    println!("{shared:.1} records a sync");
    assert!(shared >= 16.0, "{shared}");
}

#[test]
fn those_who_wait_on_producers_of_their_own_share_syncs() {
    let shared = records_per_sync(|store| {
        let store = store.clone();
        Box::new(move || store.producer().unwrap())
    });
    println!("{shared:.1} records a sync");
    assert!(shared >= 16.0, "{shared}");
}

#[test]
fn threads_that_do_not_wait_keep_their_own_order() {
    const THREADS: usize = 8;
    const EACH: usize = 2_000;
    for batch_size in [1, 500, 16_384] {
        let disk = SimDisk::new(1);
        let store = open(&disk, Maintenance::Threads);
        let topic = store.create_topic("t", TopicConfig::default().segment_bytes(100_000)).unwrap();
        let producer = store.producer_with(ProducerConfig::default().batch_size(batch_size)).unwrap();
        thread::scope(|scope| {
            for i in 0..THREADS {
                let producer = producer.clone();
                scope.spawn(move || {
                    for n in 0..EACH {
                        producer.send(Record::to("t").value(&format!("{i} {n}"))).unwrap();
                    }
                });
            }
        });
        producer.flush().unwrap();
        let mut next: HashMap<String, usize> = HashMap::new();
        for value in read_all(&topic.partition(0).unwrap()) {
            let (thread, n) = value.split_once(' ').unwrap();
            let expected = next.entry(thread.to_owned()).or_default();
            assert_eq!(n.parse(), Ok(*expected), "thread {thread}");
            *expected += 1;
        }
        assert!(next.len() == THREADS && next.values().all(|n| *n == EACH));
        store.close().unwrap();
    }
}

// ───────── readers

#[test]
fn a_commit_of_another_thread_wakes_a_waiting_reader() {
    for (maintenance, durability) in [
        (Maintenance::Threads, Durability::Disk),
        (Maintenance::Manual, Durability::Disk),
        (Maintenance::Manual, Durability::PageCache),
    ] {
        let store = open(&SimDisk::new(1), maintenance);
        store.create_topic("t", TopicConfig::default().partitions(3).durability(durability)).unwrap();
        let (seen, saw) = mpsc::channel();
        let reader = {
            let store = store.clone();
            thread::spawn(move || {
                let mut consumer = store.consumer().unwrap();
                consumer.assign_all(["t"]).unwrap();
                consumer.seek_to_beginning().unwrap();
                for _ in 0..100 {
                    let before = Instant::now();
                    let records = consumer.poll(HANG).unwrap();
                    assert!(before.elapsed() < HANG / 2, "woken by the clock alone");
                    assert_eq!(records.len(), 1);
                    seen.send(records.iter().next().unwrap().offset()).unwrap();
                }
            })
        };
        let producer = store.producer().unwrap();
        for i in 0..100 {
            let record = Record::to("t").partition(i % 3).value("v");
            let receipt = producer.send(record).unwrap().wait().unwrap();
            assert_eq!(saw.recv_timeout(HANG).unwrap(), receipt.offset);
        }
        reader.join().unwrap();
    }
}

#[test]
fn a_waker_ends_the_running_poll_or_else_the_next_and_only_that() {
    let store = open(&SimDisk::new(1), Maintenance::Manual);
    store.create_topic("t", TopicConfig::default()).unwrap();
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    let waker = consumer.waker();
    let (about_to, polls) = mpsc::channel();
    let reader = thread::spawn(move || {
        for _ in 0..100 {
            about_to.send(()).unwrap();
            let error = consumer.poll(HANG).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Woken), "{error}");
            assert!(error.is_retriable());
            assert!(consumer.poll(Duration::ZERO).unwrap().is_empty(), "woken once");
        }
    });
    for _ in 0..100 {
        polls.recv_timeout(HANG).unwrap();
        waker.wake();
    }
    reader.join().unwrap();
}

#[test]
fn a_close_ends_the_poll_of_another_thread() {
    for maintenance in [Maintenance::Manual, Maintenance::Threads] {
        let store = open(&SimDisk::new(1), maintenance);
        store.create_topic("t", TopicConfig::default()).unwrap();
        let mut consumer = store.consumer().unwrap();
        consumer.assign_all(["t"]).unwrap();
        let (about_to, polls) = mpsc::channel();
        let reader = thread::spawn(move || {
            about_to.send(()).unwrap();
            consumer.poll(HANG).unwrap_err()
        });
        polls.recv_timeout(HANG).unwrap();
        let before = Instant::now();
        store.close().unwrap();
        let error = reader.join().unwrap();
        assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        assert!(before.elapsed() < HANG / 2);
    }
}

#[test]
fn a_poll_commits_what_lies_above_the_high_watermark_itself() {
    let clock = ManualClock::new(1);
    let store = Store::options()
        .disk(&SimDisk::new(1))
        .maintenance(Maintenance::Manual)
        .clock(clock)
        .open("/s")
        .unwrap();
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let partition = topic.partition(0).unwrap();
    partition.append([Record::to(&topic).value("v")], None, Acks::Leader).unwrap();
    assert_eq!((partition.high_watermark(), partition.log_end_offset()), (0, 1));
    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
    assert_eq!(partition.high_watermark(), 1);
}

#[test]
fn by_hand_linger_and_flush_ms_elapse_through_maintain_alone() {
    let (disk, clock) = (SimDisk::new(1), ManualClock::new(1_000_000));
    let store = Store::options()
        .disk(&disk)
        .maintenance(Maintenance::Manual)
        .clock(clock.clone())
        .open("/s")
        .unwrap();
    let topic = store.create_topic("t", TopicConfig::default().flush_ms(1_000)).unwrap();
    let partition = topic.partition(0).unwrap();
    let config = ProducerConfig::default().linger_ms(50).acks(Acks::Leader);
    let delivery = store.producer_with(config).unwrap().send(Record::to(&topic).value("v")).unwrap();
    let ends = || (partition.high_watermark(), partition.log_end_offset());

    // The producer is gone by now: dropped, it handed over what it had.
    assert_eq!(ends(), (0, 1));
    drop(delivery);
    let producer = store.producer_with(ProducerConfig::default().linger_ms(50)).unwrap();
    let delivery = producer.send(Record::to(&topic).value("v")).unwrap();
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(ends(), (0, 1));
    assert!(delivery.try_receipt().is_none());
    store.maintain().unwrap();
    // The first record's sync was due, and so was the second's batch.
    while ends() != (2, 2) {
        let due = store.maintain().unwrap().next_due.unwrap();
        assert!(due <= Duration::from_secs(1), "{due:?}");
        clock.advance(due);
    }
    assert_eq!(delivery.wait().unwrap().offset, 1);

    let delivery = producer.send(Record::to(&topic).value("v")).unwrap();
    assert_eq!(store.maintain().unwrap().next_due, Some(Duration::from_millis(50)));
    clock.advance(Duration::from_millis(49));
    store.maintain().unwrap();
    assert_eq!(ends(), (2, 2));
    clock.advance(Duration::from_millis(1));
    store.maintain().unwrap();
    assert_eq!(ends(), (2, 3));
    clock.advance(Duration::from_millis(999));
    store.maintain().unwrap();
    assert_eq!(ends(), (2, 3));
    clock.advance(Duration::from_millis(1));
    store.maintain().unwrap();
    assert_eq!(ends(), (3, 3));
    assert_eq!(delivery.try_receipt().unwrap().unwrap().offset, 2);
}

// ───────── the end

#[test]
fn a_close_while_others_send_loses_nothing_that_was_acknowledged() {
    for round in 0..20 {
        let disk = SimDisk::new(round);
        let maintenance = if round % 2 == 0 { Maintenance::Threads } else { Maintenance::Manual };
        let store = open(&disk, maintenance);
        store.create_topic("t", TopicConfig::default().partitions(2).segment_bytes(20_000)).unwrap();
        let producer = store.producer_with(ProducerConfig::default().batch_size(300)).unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let (producer, sent) = (producer.clone(), Arc::clone(&sent));
                thread::spawn(move || {
                    let mut deliveries: Vec<(String, Delivery)> = Vec::new();
                    for n in 0.. {
                        let value = format!("{i} {n}");
                        match producer.send(Record::to("t").partition(n % 2).value(&value)) {
                            Ok(delivery) => deliveries.push((value, delivery)),
                            Err(error) => {
                                assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
                                break;
                            }
                        }
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                    let mut acknowledged = Vec::new();
                    for (value, delivery) in deliveries {
                        match delivery.wait_timeout(HANG) {
                            Ok(receipt) => {
                                let receipt = receipt.expect("a delivery of a closed store is decided");
                                acknowledged.push((receipt.partition, receipt.offset, value));
                            }
                            Err(error) => assert!(matches!(error.kind(), ErrorKind::Closed), "{error}"),
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        while sent.load(Ordering::SeqCst) < 200 {
            thread::yield_now();
        }
        store.close().unwrap();
        let acknowledged: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        drop(producer);
        let store = open(&disk, Maintenance::Manual);
        assert!(store.recovery_report().clean);
        let topic = store.topic("t").unwrap();
        let values = [0, 1].map(|p| read_all(&topic.partition(p).unwrap()));
        for (partition, offset, value) in &acknowledged {
            assert_eq!(values[*partition as usize].get(*offset as usize), Some(value), "round {round}");
        }
        // And nothing is there twice.
        let mut all: Vec<_> = values.concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(acknowledged.len() >= 100, "round {round}: {}", acknowledged.len());
    }
}

#[test]
fn a_thousand_half_filled_batches_in_a_small_buffer_make_progress() {
    let store = open(&SimDisk::new(1), Maintenance::Manual);
    let topic = store.create_topic("t", TopicConfig::default().partitions(1_000)).unwrap();
    let config = ProducerConfig::default().buffer_memory(20 * 16_384).linger_ms(100_000).max_block_ms(10_000);
    let producer = store.producer_with(config).unwrap();
    thread::scope(|scope| {
        for i in 0..4 {
            let producer = producer.clone();
            scope.spawn(move || {
                for n in 0..1_000 {
                    let partition = (n * 7 + i * 250) % 1_000;
                    producer.send(Record::to("t").partition(partition).value(&[1; 100])).unwrap();
                }
            });
        }
    });
    producer.flush().unwrap();
    let held: i64 = (0..1_000).map(|p| topic.partition(p).unwrap().high_watermark()).sum();
    assert_eq!(held, 4_000);
}

#[test]
fn a_store_that_is_dropped_hands_everything_to_the_operating_system() {
    for maintenance in [Maintenance::Threads, Maintenance::Manual] {
        for durability in [Durability::Disk, Durability::PageCache] {
            let disk = SimDisk::new(1);
            let store = open(&disk, maintenance);
            store.create_topic("t", TopicConfig::default().durability(durability)).unwrap();
            let producer = store.producer_with(ProducerConfig::default().linger_ms(100_000)).unwrap();
            for i in 0..10 {
                producer.send(Record::to("t").value(&format!("{i}"))).unwrap();
            }
            drop(producer);
            drop(store);
            let found = open(&disk.kill(), Maintenance::Manual);
            assert_eq!(read_all(&found.topic("t").unwrap().partition(0).unwrap()).len(), 10);
        }
    }
}

#[test]
fn a_producer_that_is_dropped_alone_hands_over_what_it_holds() {
    let disk = SimDisk::new(1);
    let store = open(&disk, Maintenance::Manual);
    store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer_with(ProducerConfig::default().linger_ms(100_000)).unwrap();
    producer.send(Record::to("t").value("v")).unwrap();
    drop(producer);
    let found = open(&disk.kill(), Maintenance::Manual);
    assert_eq!(read_all(&found.topic("t").unwrap().partition(0).unwrap()), ["v"]);
    drop(store);
}

#[test]
fn handles_outlive_the_store_value_and_keep_it_open() {
    let disk = SimDisk::new(1);
    let store = open(&disk, Maintenance::Threads);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer().unwrap();
    let mut consumer = store.consumer().unwrap();
    drop(store);
    assert_eq!(producer.send(Record::to(&topic).value("a")).unwrap().wait().unwrap().offset, 0);
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
    let locked = Store::options().disk(&disk).open("/s").unwrap_err();
    assert!(matches!(locked.kind(), ErrorKind::Locked { .. }), "{locked}");
    let records = consumer.poll(Duration::ZERO).unwrap();
    drop((producer, consumer, topic));
    drop(records);
    // The last handle closed it, in order.
    let store = open(&disk, Maintenance::Manual);
    assert!(store.recovery_report().clean);
    assert_eq!(read_all(&store.topic("t").unwrap().partition(0).unwrap()), ["a"]);
}

#[test]
fn appends_that_expect_an_end_win_one_at_a_time() {
    const THREADS: usize = 8;
    const EACH: usize = 50;
    let store = open(&SimDisk::new(1), Maintenance::Manual);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let lost = AtomicUsize::new(0);
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for i in 0..THREADS {
            let (topic, lost, start) = (&topic, &lost, &start);
            scope.spawn(move || {
                let partition = topic.partition(0).unwrap();
                start.wait();
                let mut n = 0;
                while n < EACH {
                    let end = partition.log_end_offset();
                    let value = format!("{end} {i}");
                    match partition.append([Record::to(topic).value(&value)], Some(end), Acks::All) {
                        Ok(receipt) => {
                            assert_eq!(receipt.offsets, end..end + 1);
                            n += 1;
                        }
                        Err(error) => {
                            assert!(matches!(error.kind(), ErrorKind::OffsetMismatch { .. }), "{error}");
                            lost.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
    });
    let values = read_all(&topic.partition(0).unwrap());
    assert_eq!(values.len(), THREADS * EACH);
    for (offset, value) in values.iter().enumerate() {
        assert_eq!(value.split(' ').next().unwrap(), offset.to_string());
    }
    println!("{} appends came too late", lost.load(Ordering::SeqCst));
}

#[test]
fn readers_beside_a_writer_that_rolls_see_every_record_once_in_order() {
    const RECORDS: usize = 5_000;
    let home = tempfile::tempdir().unwrap();
    for real in [false, true] {
        let options = Store::options().maintenance(Maintenance::Threads);
        let store = match real {
            false => options.disk(&SimDisk::new(1)).open("/s"),
            true => options.open(home.path().join("s")),
        }
        .unwrap();
        // Small segments and one index entry a batch: rolls, seals and maps all the time.
        let config = TopicConfig::default().segment_bytes(4_000).index_interval_bytes(1).flush_ms(10);
        store.create_topic("t", config.durability(Durability::PageCache)).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut consumer = store.consumer().unwrap();
                    consumer.assign_all(["t"]).unwrap();
                    consumer.seek_to_beginning().unwrap();
                    let mut next = 0;
                    while next < RECORDS as i64 {
                        for record in &consumer.poll(HANG).unwrap() {
                            assert_eq!(record.offset(), next);
                            assert_eq!(record.value().unwrap(), next.to_string().as_bytes());
                            next += 1;
                        }
                    }
                });
            }
            scope.spawn(|| {
                // Jumps about, by offset and by time.
                let partition = store.topic("t").unwrap().partition(0).unwrap();
                let mut n = 0_i64;
                while !done.load(Ordering::SeqCst) {
                    let end = partition.high_watermark();
                    if end > 0 {
                        let at = n * 7_919 % end;
                        assert_eq!(partition.get(at).unwrap().unwrap().record().offset(), at);
                        assert_eq!(partition.offset_for_time(1_000 + at).unwrap(), Some((at, 1_000 + at)));
                    }
                    n += 1;
                }
            });
            let producer = store.producer_with(ProducerConfig::default().batch_size(200)).unwrap();
            for i in 0..RECORDS {
                producer.send(Record::to("t").value(&i.to_string()).timestamp_ms(1_000 + i as i64)).unwrap();
            }
            producer.flush().unwrap();
            done.store(true, Ordering::SeqCst);
        });
        store.close().unwrap();
    }
}

#[test]
fn close_waits_for_a_topic_that_is_being_made_and_leaves_none_open() {
    let disk = SimDisk::new(1);
    let store = open(&disk, Maintenance::Manual);
    let before = disk.counts().creates;
    disk.set_sync_time(Duration::from_millis(5));
    let maker = store.clone();
    let made = thread::spawn(move || maker.create_topic("t", TopicConfig::default().partitions(4)));
    let deadline = Instant::now() + HANG;
    while disk.counts().creates == before && Instant::now() < deadline {
        thread::yield_now();
    }
    store.close().unwrap();
    let files = disk.files();
    let topic = made.join().unwrap().unwrap();
    assert_eq!(disk.files(), files, "nothing is written to a closed store");
    assert!(matches!(topic.partition(0).unwrap_err().kind(), ErrorKind::Closed));
}

#[test]
fn a_wait_that_gave_up_keeps_nothing_of_a_closed_store_alive() {
    let disk = SimDisk::new(1);
    let store = open(&disk, Maintenance::Manual);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer().unwrap();
    let kept = Arc::new(());
    let of_the_hook = Arc::clone(&kept);
    producer.on_delivery(move |_| drop(Arc::clone(&of_the_hook))).unwrap();
    disk.set_sync_time(Duration::from_millis(100));
    let (partition, watched) = (topic.partition(0).unwrap(), topic.partition(0).unwrap());
    let leader = thread::spawn(move || {
        partition.append([Record::to(partition.topic()).value("v")], None, Acks::All).unwrap();
    });
    let deadline = Instant::now() + HANG;
    while watched.log_end_offset() == 0 && Instant::now() < deadline {
        thread::yield_now();
    }
    let delivery = producer.send(Record::to(&topic).value("v")).unwrap();
    // In time or not: as a rule the other one leads, and this one gives up.
    delivery.wait_timeout(Duration::from_millis(1)).unwrap();
    leader.join().unwrap();
    drop((delivery, topic, watched, producer));
    store.close().unwrap();
    assert_eq!(Arc::strong_count(&kept), 1);
}

#[test]
fn a_hook_that_owns_its_producer_is_let_go_by_a_close_and_told_of_every_batch() {
    for by_store in [false, true] {
        let disk = SimDisk::new(1);
        let store = open(&disk, Maintenance::Manual);
        let topic = store.create_topic("t", TopicConfig::default()).unwrap();
        let producer = store.producer().unwrap();
        let kept = Arc::new(AtomicUsize::new(0));
        let (own, told) = (producer.clone(), Arc::clone(&kept));
        producer
            .on_delivery(move |_| {
                let _ = &own;
                told.fetch_add(1, Ordering::SeqCst);
            })
            .unwrap();
        producer.send(Record::to(&topic).value("v")).unwrap();
        if by_store {
            drop(producer);
            store.close().unwrap();
        } else {
            producer.close().unwrap();
            drop(store);
        }
        assert_eq!((kept.load(Ordering::SeqCst), Arc::strong_count(&kept)), (1, 1), "by store: {by_store}");
        drop(topic);
        open(&disk, Maintenance::Manual).close().unwrap();
    }
}

#[test]
fn what_is_accepted_beside_a_close_is_there_or_refused() {
    for _ in 0..20 {
        let disk = logstead::SimDisk::new(7);
        let store = logstead::Store::options().disk(&disk).open("/s").unwrap();
        let topic = store.create_topic("t", logstead::TopicConfig::default()).unwrap();
        let config = logstead::ProducerConfig::default().acks(logstead::Acks::None);
        let producer = store.producer_with(config).unwrap();
        let accepted: i64 = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..4)
                .map(|_| {
                    let (producer, topic) = (producer.clone(), topic.clone());
                    scope.spawn(move || {
                        let send = || producer.send(logstead::Record::to(&topic).value("v"));
                        (0..).take_while(|_| send().is_ok()).count() as i64
                    })
                })
                .collect();
            while topic.partition(0).is_ok_and(|p| p.log_end_offset() == 0) {
                std::thread::yield_now();
            }
            store.clone().close().unwrap();
            senders.into_iter().map(|sender| sender.join().unwrap()).sum()
        });
        drop((producer, topic, store));
        let reopened = logstead::Store::options().disk(&disk).open("/s").unwrap();
        assert_eq!(reopened.topic("t").unwrap().partition(0).unwrap().high_watermark(), accepted);
    }
}

#[test]
fn no_sender_sleeps_over_a_batch_that_it_could_append_to_make_room() {
    for round in 0..40 {
        let maintenance = if round % 2 == 0 { Maintenance::Manual } else { Maintenance::Threads };
        let store = open(&SimDisk::new(round), maintenance);
        let topic = store.create_topic("t", TopicConfig::default().partitions(20)).unwrap();
        let config = ProducerConfig::default()
            .batch_size(1_000)
            .buffer_memory(1_000)
            .linger_ms(60_000)
            .max_block_ms(20_000);
        let producer = store.producer_with(config).unwrap();
        thread::scope(|scope| {
            for t in 0..4 {
                let (producer, topic) = (&producer, &topic);
                scope.spawn(move || {
                    for i in 0..300 {
                        let record = Record::to(topic).partition((i * 7 + t) % 20).value(&[0; 40][..]);
                        producer.send(record).unwrap();
                    }
                });
            }
        });
        store.close().unwrap();
    }
}

// A lane that was emptied by others stayed listed, and its next batch woke nobody.
#[test]
fn a_batch_of_a_lane_that_others_emptied_lingers_no_longer_than_it_may() {
    let store = open(&SimDisk::new(1), Maintenance::Threads);
    let topic = store.create_topic("t", TopicConfig::default()).unwrap();
    let producer = store.producer_with(ProducerConfig::default().linger_ms(1).acks(Acks::Leader)).unwrap();
    for _ in 0..200 {
        producer.send(Record::to(&topic).value("v")).unwrap().wait().unwrap();
        let start = Instant::now();
        let delivery = producer.send(Record::to(&topic).value("v")).unwrap();
        while delivery.try_receipt().is_none() {
            assert!(start.elapsed() < Duration::from_millis(700), "nobody appends it");
            thread::yield_now();
        }
    }
    store.close().unwrap();
}
