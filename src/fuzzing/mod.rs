//! What the fuzz targets under `fuzz/` call: one function per target, each fed with bytes from nowhere.

mod directory;
mod producers;

use std::path::Path;

use crate::config::TopicConfig;
use crate::group::{GroupValue, Key, OFFSETS_TOPIC, OffsetValue};
use crate::limits::{BATCH_HEADER_BYTES, DECOMPRESS_BUDGET_BYTES};
use crate::log::checkpoint::{epochs_text, read_epochs, read_offsets, write_offsets};
use crate::log::committed::Committed;
use crate::record::{self, BatchHeader, Compression, RecordIter};
use crate::segment::{name::SegmentFile, offset_index, time_index};
use crate::storage::SimDisk;
use crate::store::Store;
use crate::topic::Record;
use crate::topic::catalog::{self, Catalog};
use crate::types::Acks;

pub use directory::directory;
pub use producers::producers;

/// Takes bytes off the front, zeros when there are no more.
struct Bytes<'d>(&'d [u8]);

impl<'d> Bytes<'d> {
    fn take(&mut self, len: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number<const N: usize>(&mut self) -> u64 {
        self.take(N).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn byte(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }
}

/// Reads bytes as a batch, with every check and without: nothing may panic, and what was accepted must hold.
pub fn batch(data: &[u8]) {
    if let Some(position) = record::find_batch(data, 0) {
        let found = &data[position..];
        let header = BatchHeader::parse(found).expect("find_batch parsed it");
        record::verify_crc(found, &header).expect("find_batch verified it");
    }
    let Ok(header) = BatchHeader::parse(data) else { return };
    let _ = record::verify_crc(data, &header);
    if !header.is_legacy() {
        let _ = record::empty_batch(&header);
    }
    let _ = (header.last_sequence(), header.next_offset(), header.timestamp(i64::MIN));

    // The checksum is no bar here: a hostile writer can compute it.
    let Some(batch) = data.get(..header.size()) else { return };
    let (header, section) = if header.is_legacy() {
        let Ok((unpacked, section)) = record::unpack(&header, batch) else { return };
        assert_eq!(unpacked.next_offset(), header.next_offset());
        // What a run of messages becomes is never larger than the messages, and always good.
        assert!(record::check_records(&unpacked, &section).is_ok());
        (unpacked, section)
    } else {
        let Ok(section) = record::decompress(&header, batch) else { return };
        if header.compression() == Compression::None {
            assert_eq!(section, &batch[BATCH_HEADER_BYTES..]);
        }
        (header, section)
    };
    assert!(section.len() <= batch.len() + DECOMPRESS_BUDGET_BYTES);
    let checked = record::check_records(&header, &section);
    let mut records = 0;
    for record in RecordIter::new(&section) {
        records += 1;
        let headers = record.headers.into_iter().count();
        if checked.is_ok() {
            assert_eq!(headers, record.headers.len());
            assert!((0..=header.last_offset_delta).contains(&record.offset_delta));
        }
    }
    if checked.is_ok() {
        assert_eq!(records, header.count);
    }
}

/// Reads bytes as the two indexes of a segment: nothing panics, and on what is sane a lookup is a linear scan.
pub fn index(data: &[u8]) {
    let mut bytes = Bytes(data);
    // A base comes from a file's name: never negative.
    let base = (bytes.number::<8>() >> 1) as i64;
    let (log_bytes, target) = (bytes.number::<4>(), bytes.number::<8>() as i64);
    let targets = [target, base.saturating_add(target & 0xffff), i64::MIN, i64::MAX, base];
    let entries = bytes.0;

    let sane = offset_index::sane_prefix(entries, log_bytes);
    assert_eq!(offset_index::is_sane(entries, log_bytes), sane.len() == entries.len());
    for target in targets {
        let _ = offset_index::lookup(entries, base, target);
        let scanned = sane
            .chunks_exact(offset_index::ENTRY_BYTES)
            .map(|entry| (u32::from_be_bytes(entry[..4].try_into().expect("its length")), &entry[4..]))
            .map(|(relative, at)| {
                (base.saturating_add(relative.into()), u32::from_be_bytes(at.try_into().expect("its length")))
            })
            .rfind(|(offset, _)| *offset <= target);
        let found = offset_index::lookup(sane, base, target);
        assert_eq!(found.map(|found| (found.offset, found.position)), scanned);
    }
    let mut index = offset_index::OffsetIndex::from_bytes(base, sane.to_vec(), 4_096);
    // An offset is never negative.
    index.append(target & i64::MAX, 7);
    index.truncate_to(target);
    assert!(index.last().is_none_or(|last| last.offset < target));
    let _ = index.slots_free();

    let sane = time_index::sane_prefix(entries, base);
    assert_eq!(time_index::is_sane(entries, base), sane.len() == entries.len());
    for target in targets {
        let _ = (time_index::lookup(entries, base, target), time_index::last(entries, base));
        let scanned = sane
            .chunks_exact(time_index::ENTRY_BYTES)
            .map(|entry| (i64::from_be_bytes(entry[..8].try_into().expect("its length")), &entry[8..]))
            .map(|(time, at)| {
                (time, base.saturating_add(u32::from_be_bytes(at.try_into().expect("its length")).into()))
            })
            .rfind(|(time, _)| *time <= target);
        let found = time_index::lookup(sane, base, target);
        assert_eq!(found.map(|found| (found.timestamp, found.offset)), scanned);
    }
    let mut index = time_index::TimeIndex::from_bytes(base, sane.to_vec(), 4_096);
    index.append(target, base);
    index.append_last(i64::MAX, base.saturating_add(1));
    index.truncate_to(target);
    assert!(index.last().is_none_or(|last| last.offset < target));
}

/// Reads bytes as each of the small files: nothing panics, and what is accepted is the same when written and read.
pub fn checkpoint(data: &[u8]) {
    let Some((kind, content)) = data.split_first() else { return };
    let (disk, root) = (SimDisk::in_memory(), Path::new("/"));
    let path = root.join("x");
    let plant = |name: &Path, bytes: &[u8]| disk.write_file(name, bytes).expect("planted");
    match kind % 5 {
        0 => {
            plant(&path, content);
            if let Ok(offsets) = read_offsets(&disk, &path) {
                write_offsets(&disk, &path, &offsets).expect("written");
                assert_eq!(read_offsets(&disk, &path).expect("our own"), offsets);
            }
        }
        1 => {
            plant(&path, content);
            if let Ok(epochs) = read_epochs(&disk, &path) {
                crate::storage::replace(&disk, &path, epochs_text(&epochs).as_bytes()).expect("written");
                assert_eq!(read_epochs(&disk, &path).expect("our own"), epochs);
            }
        }
        2 => {
            // The checksum is no bar: a hostile writer can compute it.
            let sum = format!("crc32 {:08x}\n", crc32fast::hash(content));
            plant(&root.join(catalog::FILE_NAME), &[content, sum.as_bytes()].concat());
            if let Ok(catalog) = Catalog::read(&disk, root) {
                catalog.write(&disk).expect("written");
                assert_eq!(Catalog::read(&disk, root).expect("our own").topics, catalog.topics);
            }
            plant(&root.join(catalog::FILE_NAME), content);
            let _ = Catalog::read(&disk, root);
        }
        3 => {
            let mut slot = content.to_vec();
            slot.resize(20, 0);
            slot.extend(crc32fast::hash(&slot).to_be_bytes());
            for bytes in [content, &slot] {
                if let Some(committed) = Committed::decode(bytes) {
                    assert_eq!(committed.encode(), bytes);
                }
            }
        }
        _ => {
            let name = String::from_utf8_lossy(content);
            let _ = SegmentFile::parse(&name);
        }
    }
}

/// Reads bytes as records of `__consumer_offsets`: nothing panics, what is accepted is the same when written and read,
/// and a store that holds them answers for its groups.
pub fn offsets(data: &[u8]) {
    if let Ok(value) = OffsetValue::decode(data) {
        let again = OffsetValue::decode(&value.encode()).expect("our own");
        assert_eq!(again, OffsetValue { expire_ms: None, ..value });
    }
    if let Ok(value) = GroupValue::decode(data) {
        assert_eq!(GroupValue::decode(&value.encode()).expect("our own"), value);
    }
    match Key::decode(data) {
        Ok(Key::Offset { group, topic, partition }) => {
            let key = Key::offset(&group, &topic, partition);
            assert_eq!(Key::decode(&key), Ok(Key::Offset { group, topic, partition }));
        }
        Ok(Key::Group { group }) => {
            assert_eq!(Key::decode(&Key::group(&group)), Ok(Key::Group { group }));
        }
        _ => {}
    }
    let store = Store::in_memory().expect("opened");
    let topic = store.create_topic(OFFSETS_TOPIC, TopicConfig::default()).expect("made");
    let mut bytes = Bytes(data);
    while !bytes.0.is_empty() {
        let kind = bytes.byte();
        // Most of them are keys that mean something.
        let key = match kind % 4 {
            0 => Key::offset("g", "t", i32::from(kind >> 4)),
            1 => Key::group("g"),
            _ => {
                let len = bytes.below(32);
                bytes.take(len).to_vec()
            }
        };
        let len = bytes.below(64);
        let value = bytes.take(len);
        let record = Record::to(&topic).key(&key);
        let record = if kind & 8 == 0 { record.value(value) } else { record };
        topic.partition(0).and_then(|p| p.append([record], None, Acks::All)).expect("appended");
    }
    for name in store.group_names().expect("whatever it holds") {
        let group = store.group(&name);
        let _ = (group.describe(), group.committed(), group.lag());
    }
}
