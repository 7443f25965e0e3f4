//! The floor: frames of length, CRC-32C and payload in one growing file; no segments, no index.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use memmap2::Mmap;

use crate::peer::{Mode, Peer};

const HEAD: usize = 8;

struct Raw {
    path: PathBuf,
    file: Mutex<(File, Vec<u8>)>,
    map: OnceLock<Mmap>,
}

pub fn open(dir: &Path, _mode: Mode) -> Box<dyn Peer> {
    let path = dir.join("raw");
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).open(&path).unwrap();
    let raw = Raw { path, file: Mutex::new((file, Vec::new())), map: OnceLock::new() };
    if raw.path.metadata().unwrap().len() > 0 {
        // Everything is checked at open: there is no word of what was.
        raw.scan();
    }
    Box::new(raw)
}

fn frame(into: &mut Vec<u8>, value: &[u8]) {
    into.extend_from_slice(&(value.len() as u32).to_le_bytes());
    into.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
    into.extend_from_slice(value);
}

/// The value at a position, checked, and the next position.
fn value_at(map: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = map.get(at..at + HEAD)?;
    let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let value = map.get(at + HEAD..at + HEAD + len)?;
    let stored = u32::from_le_bytes(head[4..].try_into().ok()?);
    (crc32c::crc32c(value) == stored).then_some((value, at + HEAD + len))
}

impl Raw {
    fn map(&self) -> &Mmap {
        // SAFETY: nobody writes to the file of a step while it reads.
        self.map.get_or_init(|| unsafe { Mmap::map(&File::open(&self.path).unwrap()).unwrap() })
    }
}

impl Peer for Raw {
    fn append(&self, batch: &[&[u8]]) {
        let (file, buffer) = &mut *self.file.lock().unwrap();
        buffer.clear();
        for value in batch {
            frame(buffer, value);
        }
        file.write_all(buffer).unwrap();
    }

    fn append_durable(&self, value: &[u8]) {
        let (file, buffer) = &mut *self.file.lock().unwrap();
        buffer.clear();
        frame(buffer, value);
        file.write_all(buffer).unwrap();
        file.sync_data().unwrap();
    }

    fn scan(&self) -> u64 {
        // A fresh map, as after a fresh open.
        // SAFETY: as above.
        let map = unsafe { Mmap::map(&File::open(&self.path).unwrap()).unwrap() };
        let (mut at, mut count) = (0, 0);
        while let Some((value, next)) = value_at(&map, at) {
            std::hint::black_box(value.last());
            at = next;
            count += 1;
        }
        count
    }

    fn get(&self, index: u64) -> usize {
        let map = self.map();
        let size = HEAD + u32::from_le_bytes(map[..4].try_into().unwrap()) as usize;
        value_at(map, index as usize * size).unwrap().0.len()
    }

    fn close(self: Box<Self>) {
        self.file.lock().unwrap().0.sync_data().unwrap();
    }
}
