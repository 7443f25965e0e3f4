//! A whole directory from bytes: files of a store, or of none, planted, damaged, cut and continued, then opened.

use std::path::PathBuf;
use std::time::Duration;

use super::Bytes;
use crate::config::TopicConfig;
use crate::error::{ErrorKind, Result};
use crate::record::{BatchBuilder, Compression};
use crate::storage::SimDisk;
use crate::store::{Maintenance, Store};
use crate::time::ManualClock;
use crate::topic::{Partition, Record};
use crate::types::{Acks, Durability, Offset};

const ROOT: &str = "/s";

const ROOT_FILES: &[&str] = &[
    "logstead-topics",
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
    "meta.properties",
    ".kafka_cleanshutdown",
    "logstead-topics.tmp",
];
const DIRS: &[&str] = &["t-0", "t-0", "t-0", "t-1", "u-0", "u-3", "x-delete", "__cluster_metadata-0"];
const FILES: &[&str] = &[
    "00000000000000000000.log",
    "00000000000000000000.index",
    "00000000000000000000.timeindex",
    "00000000000000000005.log",
    "00000000000000000005.index",
    "00000000000000000005.timeindex",
    "00000000002147483648.log",
    "09223372036854775807.log",
    "logstead-committed",
    "leader-epoch-checkpoint",
    "partition.metadata",
    "00000000000000000000.log.deleted",
    "00000000000000000000.log.cleaned",
    "00000000000000000000.log.swap",
    "00000000000000000000.txnindex",
    "00000000000000000007.snapshot",
];

/// Makes a directory from bytes, opens it read-only and for writing, reads all of it, appends, and opens it again.
///
/// Nothing may panic, hang or eat memory; a read-only open changes nothing; reads go forward; what was acknowledged
/// is there after the next open.
pub fn directory(data: &[u8]) {
    let mut bytes = Bytes(data);
    let disk = SimDisk::in_memory();
    let flags = bytes.byte();
    if flags & 1 != 0 {
        make_store(&disk, flags);
    }
    if flags & 8 == 0 {
        // Not closed in order.
        let _ = remove(&disk, ".kafka_cleanshutdown");
    }
    while !bytes.0.is_empty() {
        change(&disk, &mut bytes);
    }

    let before = disk.content_hash();
    if let Ok(store) = options(&disk).open_read_only(ROOT) {
        each_partition(&store, read_all);
        let _ = store.close();
    }
    assert_eq!(disk.content_hash(), before, "a read-only open changed something");

    let mut acknowledged: Vec<(String, i32, Offset)> = Vec::new();
    for round in 0..2 {
        let Ok(store) = options(&disk).open(ROOT) else { return };
        for (topic, partition, offset) in &acknowledged {
            let partition =
                store.topic(topic).expect("it was there").partition(*partition).expect("it was sound");
            let kept = partition.get(*offset).expect("it was acknowledged").expect("it was appended");
            assert_eq!(kept.record().value(), Some(b"fuzz".as_slice()));
        }
        each_partition(&store, |partition| {
            read_all(partition);
            let record = Record::to("t").value("fuzz").timestamp_ms(5);
            if let Ok(receipt) = partition.append([record], None, Acks::All) {
                let kept = partition.get(receipt.offsets.start).expect("it was acknowledged");
                assert!(kept.is_some());
                let name = partition.topic().name().to_owned();
                acknowledged.push((name, partition.number(), receipt.offsets.start));
            }
        });
        let _ = store.create_topic("new", TopicConfig::default());
        let _ = store.maintain();
        if round == 0 && flags & 4 != 0 {
            continue; // dropped
        }
        let _ = store.close();
    }
}

fn options(disk: &SimDisk) -> crate::store::StoreOptions {
    Store::options().disk(disk).maintenance(Maintenance::Manual).clock(ManualClock::new(1_000))
}

/// A store with some segments, closed in order.
fn make_store(disk: &SimDisk, flags: u8) {
    let made: Result<()> = (|| {
        let store = options(disk).open(ROOT)?;
        let durability = if flags & 2 != 0 { Durability::PageCache } else { Durability::Disk };
        let config = TopicConfig::default().durability(durability).segment_bytes(400).index_interval_bytes(1);
        let topic = store.create_topic("t", config.partitions(2))?;
        for i in 0..12 {
            topic.partition(0)?.append(
                [Record::to(&topic).value("value").timestamp_ms(i)],
                None,
                Acks::All,
            )?;
        }
        store.close()
    })();
    made.expect("a store in memory");
}

fn remove(disk: &SimDisk, name: &str) -> Result<()> {
    use crate::storage::Storage;
    disk.remove_file(&PathBuf::from(ROOT).join(name))
}

/// One file made, continued, cut, damaged or removed.
fn change(disk: &SimDisk, bytes: &mut Bytes<'_>) {
    let what = bytes.byte();
    let name = match bytes.below(4) {
        0 => ROOT_FILES[bytes.below(ROOT_FILES.len())].to_owned(),
        _ => format!("{}/{}", DIRS[bytes.below(DIRS.len())], FILES[bytes.below(FILES.len())]),
    };
    let path = PathBuf::from(ROOT).join(&name);
    let mut content = disk.read_file(&path).unwrap_or_default();
    match what % 8 {
        0 => {
            let len = usize::from(bytes.byte());
            content = bytes.take(len).to_vec();
        }
        1 => {
            let len = usize::from(bytes.byte());
            content.extend(bytes.take(len));
        }
        2 => content.truncate(bytes.number::<2>() as usize),
        3 => {
            let at = bytes.number::<2>() as usize;
            let mask = bytes.byte();
            if let Some(byte) = content.get_mut(at) {
                *byte ^= mask;
            }
        }
        4 => content.extend(vec![0; bytes.number::<2>() as usize]),
        5 => {
            let _ = remove(disk, &name);
            return;
        }
        _ => content.extend(batch(bytes)),
    }
    // A directory may stand where a file is to be: then nothing is changed.
    let _ = disk.write_file(&path, content);
}

/// A message of format 0 or 1, or a wrapper around whatever comes.
fn old_message(bytes: &mut Bytes<'_>, how: u8, offset: Offset) -> Vec<u8> {
    let len = usize::from(bytes.byte());
    let value = bytes.take(len);
    let mut body = vec![how >> 5 & 1, if how & 4 != 0 { bytes.byte() } else { 0 }];
    if how >> 5 & 1 == 1 {
        body.extend(bytes.number::<1>().to_be_bytes());
    }
    body.extend((-1i32).to_be_bytes());
    body.extend((value.len() as i32).to_be_bytes());
    body.extend(value);
    let mut message = offset.to_be_bytes().to_vec();
    message.extend((body.len() as i32 + 4).to_be_bytes());
    message.extend(crc32fast::hash(&body).to_be_bytes());
    message.extend(body);
    message
}

/// A whole batch, at an offset near to nothing or anywhere.
fn batch(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let how = bytes.byte();
    let offset = match how & 3 {
        0 => bytes.number::<8>() as i64,
        1 => i64::from(i32::MAX) + bytes.number::<1>() as i64 - 8,
        _ => bytes.number::<1>() as i64,
    };
    if how & 0x40 != 0 {
        return old_message(bytes, how, offset);
    }
    let mut builder = BatchBuilder::new(0);
    for i in 0..1 + bytes.below(4) as i32 {
        let delta = if how & 4 != 0 { i * 3 } else { i };
        let timestamp = i64::from(bytes.byte()) - 1;
        let value = usize::from(bytes.byte() & 31);
        let value = bytes.take(value);
        if builder.push_at(delta, timestamp, None, Some(value), &[]).is_err() {
            return Vec::new();
        }
    }
    let codec =
        if how & 8 != 0 && Compression::Lz4.is_built() { Compression::Lz4 } else { Compression::None };
    let Ok(mut sealed) = builder.seal(codec, None, &mut Vec::new()) else { return Vec::new() };
    sealed.place(offset, i32::from(how >> 4));
    sealed.bytes().to_vec()
}

fn each_partition(store: &Store, mut see: impl FnMut(&Partition)) {
    for name in store.topic_names() {
        let Ok(topic) = store.topic(&name) else { continue };
        for partition in 0..i32::try_from(topic.partitions()).unwrap_or(0) {
            if let Ok(partition) = topic.partition(partition) {
                see(&partition);
            }
        }
    }
    let Ok(mut consumer) = store.consumer() else { return };
    let names = store.topic_names();
    if consumer.assign_all(names.iter().map(String::as_str)).is_ok() && consumer.seek_to_beginning().is_ok() {
        let _ = consumer.poll(Duration::ZERO);
    }
}

/// From the start to the end, over whatever is damaged.
fn read_all(partition: &Partition) {
    let end = partition.high_watermark();
    let mut at = partition.log_start_offset();
    while at < end {
        let next = match partition.read(at, 1_000) {
            Ok(records) => {
                let mut last = at - 1;
                for record in &records {
                    assert!(record.offset() > last && record.offset() < end);
                    last = record.offset();
                }
                match records.next_offset() {
                    Some(next) => next,
                    None => break,
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume_at, .. } => *resume_at,
                _ => break,
            },
        };
        assert!(next > at, "reading at {at} goes on at {next}");
        at = next;
    }
    for time in [i64::MIN, -1, 0, 5, 11, 250, i64::MAX] {
        if let Ok(Some((offset, found))) = partition.offset_for_time(time) {
            assert!(found >= time && (partition.log_start_offset()..end).contains(&offset));
        }
    }
    let _ = (partition.size_bytes(), partition.get(at), partition.get(end - 1));
}
