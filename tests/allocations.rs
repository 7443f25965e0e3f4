//! Counters that do not depend on the clock: allocations per record on the hot paths, and the calls to the disk that a
//! million records take.
//!
//! What is allowed is some work per batch and per poll, and none per record.
#![allow(unsafe_code, reason = "a counting allocator")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use logstead::{Acks, Compression, Durability, ProducerConfig, Record, Store, TopicConfig};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const VALUE: [u8; 100] = [42; 100];

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Records one behind the other, then all of them back; allocations per record of each way.
fn per_record(durability: Durability, acks: Acks, count: u64) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let topic = store.create_topic("t", TopicConfig::default().durability(durability)).unwrap();
    let config = ProducerConfig::default().acks(acks).compression(Compression::None);
    let producer = store.producer_with(config).unwrap();
    let send = |count| {
        for i in 0..count {
            let delivery =
                producer.send(Record::to(&topic).key("key").value(&VALUE).timestamp_ms(i)).unwrap();
            // Looked at, so that the delivery itself counts.
            assert!(delivery.try_receipt().is_none_or(|receipt| receipt.is_ok()));
        }
        producer.flush().unwrap();
    };
    send(1_000);
    let sending = allocations_of(|| send(count as i64));

    let mut consumer = store.consumer().unwrap();
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    let mut found = 0;
    let reading = allocations_of(|| {
        loop {
            let records = consumer.poll(Duration::ZERO).unwrap();
            if records.is_empty() {
                break;
            }
            found += records.iter().filter(|record| record.value() == Some(&VALUE)).count() as u64;
        }
    });
    assert_eq!(found, count + 1_000);
    (sending as f64 / count as f64, reading as f64 / found as f64)
}

#[test]
fn no_allocation_per_record() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (durability, acks) in [(Durability::PageCache, Acks::Leader), (Durability::Disk, Acks::All)] {
        let (sending, reading) = per_record(durability, acks, 200_000);
        println!(
            "{durability:?}, {acks:?}: {sending:.4} allocations per record sent, {reading:.4} per record read"
        );
        // 133 records of this size fill a batch: even 5 a batch stay below this.
        assert!(sending < 0.05, "{sending} allocations per record sent ({durability:?}, {acks:?})");
        assert!(reading < 0.05, "{reading} allocations per record read ({durability:?}, {acks:?})");
    }
}

#[cfg(feature = "testing")]
#[test]
fn calls_to_the_disk_are_per_batch() {
    use logstead::SimDisk;

    const RECORDS: u64 = 200_000;
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (durability, acks) in [(Durability::PageCache, Acks::Leader), (Durability::Disk, Acks::All)] {
        let disk = SimDisk::in_memory();
        let options = Store::options().disk(&disk).maintenance(logstead::Maintenance::Manual);
        let store = options.open("/store").unwrap();
        let topic = store.create_topic("t", TopicConfig::default().durability(durability)).unwrap();
        let producer = store.producer_with(ProducerConfig::default().acks(acks)).unwrap();
        let before = disk.counts();
        for _ in 0..RECORDS {
            producer.send(Record::to(&topic).value(&VALUE)).unwrap();
        }
        producer.flush().unwrap();
        let after = disk.counts();
        let batches = RECORDS * 108 / 16_384 + 1;
        let (writes, syncs) = (after.writes - before.writes, after.syncs - before.syncs);
        let million = |calls: u64| calls * 1_000_000 / RECORDS;
        // One of the syncs is the flush's, however many records there are.
        let of_all = million(syncs.saturating_sub(1)) + syncs.min(1);
        println!("{durability:?}: {} writes, {of_all} syncs per million records", million(writes));
        // One for each batch, and a few for what stands beside the segments.
        assert!(writes <= batches + batches / 10 + 10, "{writes} writes for about {batches} batches");
        match durability {
            Durability::PageCache => assert_eq!(syncs, 0),
            // One for each 8 MiB, and one for the flush.
            _ => assert!((1..=4).contains(&syncs), "{syncs} syncs"),
        }
        drop(producer);
        store.close().unwrap();
    }
}
