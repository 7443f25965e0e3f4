//! Many schedules of the protocols that a single run can not show: the step "schedules" of `.ci/run`, ten times as many
//! with `LOGSTEAD_SOAK`.
//!
//! A schedule that loses a wake-up, or in which a leader and a follower wait for each other, ends in a deadlock,
//! which the checker reports with the schedule that replays it.

use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler};

use super::{Maintenance, Store};
use crate::config::{AutoOffsetReset, ConsumerConfig, ProducerConfig, TopicConfig};
use crate::consumer::{Consumer, Waker};
use crate::storage::SimDisk;
use crate::sync::{AtomicUsize, Ordering};
use crate::time::ManualClock;
use crate::topic::{Record, Topic};
use crate::types::{Acks, Durability};

fn check(test: impl Fn() + Send + Sync + 'static) {
    let schedules = if std::env::var_os("LOGSTEAD_SOAK").is_some() { 5_000 } else { 500 };
    let test = std::sync::Arc::new(test);
    for chance in [true, false] {
        let test = std::sync::Arc::clone(&test);
        let mut config = shuttle::Config::new();
        // The checker's own stacks are too small for opening a store.
        config.stack_size = 1 << 19;
        if chance {
            let scheduler = RandomScheduler::new(schedules);
            shuttle::Runner::new(scheduler, config).run(move || test());
        } else {
            let scheduler = PctScheduler::new(3, schedules);
            shuttle::Runner::new(scheduler, config).run(move || test());
        }
    }
}

fn store(durability: Durability) -> (Store, Topic, SimDisk) {
    let disk = SimDisk::new(1);
    let options = Store::options().maintenance(Maintenance::Manual).clock(ManualClock::new(1));
    let store = options.disk(&disk).open("/s").unwrap();
    let topic = store.create_topic("t", TopicConfig::default().durability(durability)).unwrap();
    (store, topic, disk)
}

#[test]
fn leadership_is_handed_over_and_everyone_who_waits_is_served() {
    check(|| {
        let (store, topic, _disk) = store(Durability::Disk);
        let shared = store.producer().unwrap();
        let own = store.producer_with(ProducerConfig::default().batch_size(0)).unwrap();
        let threads: Vec<_> = [shared.clone(), shared, own]
            .into_iter()
            .map(|producer| {
                let topic = topic.clone();
                shuttle::thread::spawn(move || {
                    let receipt = producer.send(Record::to(&topic).value("v")).unwrap().wait().unwrap();
                    assert!(topic.partition(0).unwrap().high_watermark() > receipt.offset);
                    receipt.offset
                })
            })
            .collect();
        let mut offsets: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, [0, 1, 2]);
    });
}

#[test]
fn a_failed_sync_wakes_everyone_with_the_error() {
    check(|| {
        let (store, topic, disk) = store(Durability::Disk);
        let producer = store.producer().unwrap();
        disk.fail_nth(crate::storage::FaultOp::SyncData, 1, crate::storage::FaultKind::Io, false);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (producer, topic) = (producer.clone(), topic.clone());
                shuttle::thread::spawn(move || {
                    producer.send(Record::to(&topic).value("v")).and_then(|d| d.wait()).is_err()
                })
            })
            .collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
}

#[test]
fn a_reader_that_sleeps_is_woken_by_what_is_committed() {
    for durability in [Durability::PageCache, Durability::Disk] {
        check(move || {
            let (store, topic, _disk) = store(durability);
            let mut consumer = store.consumer_with(ConsumerConfig::default()).unwrap();
            consumer.assign_all(["t"]).unwrap();
            consumer.seek_to_beginning().unwrap();
            let reader = shuttle::thread::spawn(move || {
                let mut seen = 0;
                while seen < 2 {
                    seen += consumer.poll(Duration::from_secs(1_000)).unwrap().len();
                }
            });
            for _ in 0..2 {
                topic.partition(0).unwrap().append([Record::to(&topic).value("v")], None, Acks::All).unwrap();
            }
            reader.join().unwrap();
        });
    }
}

#[test]
fn members_that_sleep_are_woken_by_each_other_and_by_records() {
    check(|| {
        let (store, _, _disk) = store(Durability::PageCache);
        let topic = store.create_topic("u", TopicConfig::default().partitions(2)).unwrap();
        let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
        let consumers: Vec<Consumer> = (0..2)
            .map(|_| {
                let mut consumer = store.group("g").consumer_with(config.clone()).unwrap();
                consumer.subscribe(["u"]).unwrap();
                consumer
            })
            .collect();
        let wakers: Vec<Waker> = consumers.iter().map(Consumer::waker).collect();
        let seen = std::sync::Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = consumers
            .into_iter()
            .map(|mut consumer| {
                let (wakers, seen) = (wakers.clone(), std::sync::Arc::clone(&seen));
                shuttle::thread::spawn(move || {
                    while let Ok(records) = consumer.poll(Duration::from_secs(1_000)) {
                        consumer.commit_async().unwrap();
                        if seen.fetch_add(records.len(), Ordering::SeqCst) + records.len() == 2 {
                            wakers.iter().for_each(Waker::wake);
                        }
                    }
                })
            })
            .collect();
        for p in 0..2 {
            topic.partition(p).unwrap().append([Record::to(&topic).value("v")], None, Acks::All).unwrap();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(seen.load(Ordering::SeqCst), 2);
        assert_eq!(store.group("g").lag().unwrap().total, 0);
    });
}
