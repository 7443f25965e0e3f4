//! What a partition knows of its producers, from bytes: snapshots, indexes of aborted transactions, names, batches.

use std::path::Path;

use super::Bytes;
use crate::log::names::{self, Names};
use crate::log::producer_state::{Checked, ProducerState};
use crate::log::snapshot;
use crate::record::{BatchHeader, EndMarker, crc32c};
use crate::segment::txn_index;
use crate::storage::SimDisk;
use crate::types::Offset;

/// Reads bytes as each of the files of producers, and as batches of theirs: nothing panics, what is accepted is the
/// same when written and read again, and what a state takes it knows again.
pub fn producers(data: &[u8]) {
    let Some((kind, content)) = data.split_first() else { return };
    match kind % 4 {
        0 => read_snapshot(content),
        1 => {
            let mut bytes = Bytes(content);
            let base = (bytes.number::<8>() >> 1) as i64;
            let sane = txn_index::sane_prefix(bytes.0, base);
            let entries: Vec<_> = txn_index::entries(sane).collect();
            assert_eq!(txn_index::encoded(&entries), sane);
            assert!(entries.is_sorted_by_key(|entry| entry.last_offset));
        }
        2 => {
            let (disk, root) = (SimDisk::in_memory(), Path::new("/"));
            // The checksum is no bar: a hostile writer can compute it.
            let sum = format!("crc32 {:08x}\n", crc32fast::hash(content));
            let file = [content, sum.as_bytes()].concat();
            disk.write_file(root.join(names::FILE_NAME), &file).expect("planted");
            let known = Names::default();
            if known.read(&disk, root).is_ok() {
                let first = known.claim(&disk, root, "name").expect("claimed");
                let again = Names::default();
                again.read(&disk, root).expect("our own");
                assert_ne!(again.claim(&disk, root, "name").expect("claimed"), first);
            }
        }
        _ => batches(content),
    }
}

fn read_snapshot(content: &[u8]) {
    let mut bytes = Bytes(content);
    let offset = (bytes.number::<8>() >> 1) as i64;
    let mut file = bytes.0.to_vec();
    let _ = snapshot::decode(&file, offset);
    if let Some(rest) = file.get(6..) {
        let sum = crc32c(rest);
        file.splice(2..6, sum.to_be_bytes());
    }
    if let Ok(mut state) = snapshot::decode(&file, offset) {
        let again = snapshot::encode(&state);
        assert_eq!(snapshot::decode(&again, offset).as_ref(), Ok(&state));
        let _ = state.first_unstable(offset);
        state.expire(i64::MAX, 1, |_| false);
        state.expire(i64::MIN, u64::MAX, |_| false);
    }
}

/// Batches of few producers, in any order and of any kind.
fn batches(content: &[u8]) {
    let (mut bytes, mut state, mut next) = (Bytes(content), ProducerState::default(), 0);
    while !bytes.0.is_empty() {
        let (flags, count) = (bytes.byte(), 1 + bytes.below(4) as i32);
        let header = BatchHeader {
            base_offset: next,
            batch_length: 100,
            leader_epoch: 0,
            magic: 2,
            crc: 0,
            attributes: i16::from(flags & 0x30),
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: bytes.number::<2>() as i64,
            producer_id: bytes.below(4) as i64 - 1,
            producer_epoch: bytes.below(3) as i16,
            base_sequence: if flags & 1 == 0 {
                bytes.below(16) as i32
            } else {
                i32::MAX - bytes.below(4) as i32
            },
            count,
        };
        let marker = EndMarker {
            is_abort: flags & 2 != 0,
            coordinator_epoch: bytes.below(3) as i32,
            timestamp: bytes.number::<2>() as i64,
        };
        let checked = state.check(&header, Some(&marker));
        // What a client may not send can stand in a log all the same.
        if checked == Ok(Checked::Append) || flags & 0x80 != 0 {
            let high_watermark = next - Offset::from(flags >> 6 & 1);
            let aborted = state.apply(&header, Some(&marker), high_watermark);
            assert!(aborted.is_none_or(|txn| txn.first_offset < txn.last_offset));
            next = header.next_offset();
            if header.producer_id >= 0 && !header.is_control() {
                let again = state.check(&BatchHeader { base_offset: next, ..header }, None);
                assert!(matches!(again, Ok(Checked::Duplicate(_))), "{again:?}");
            }
        }
        if let Ok(Checked::Duplicate(known)) = checked {
            assert!(known.last_offset < next);
        }
        assert!(state.first_unstable(next).is_none_or(|first| first < next));
        let file = snapshot::encode(&state);
        let read = snapshot::decode(&file, next).expect("our own");
        assert_eq!(snapshot::encode(&read), file);
    }
}
