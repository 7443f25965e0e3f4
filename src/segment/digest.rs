//! `seg-<base>.sum`: what each batch of a compacted segment began with when it was written.
//!
//! Kafka's checksum leaves out a batch's first fields (base offset, length, leader epoch, format). Where offsets have
//! no gaps the neighbours tell what they must be; in a compacted segment nothing does but this: for each batch its
//! position and the CRC-32 of its first 21 bytes, which hold those fields and the checksum of the rest. So a batch
//! that lies here is the one that was written here, whole and in its place.
//!
//! The file: 8 bytes of magic, the base (8), then per batch position (4) and sum (4), rising, then the length of the
//! `.log` (8), the number of batches (4), and the CRC-32 of all of it (4); big-endian.
//!
//! Invariants:
//! - It is written and synced with the segment that it speaks of, and exchanged with it.
//! - It counts only whole, and for a `.log` of the length that it names: else a reader does without it, as for segments
//!   that a broker compacted.

use std::path::Path;

use super::{Fault, Segment, name};
use crate::error::Result;
use crate::limits::BATCH_HEADER_BYTES;
use crate::record::{BatchHeader, Invalid};
use crate::storage::{File, Open, Region, Storage};
use crate::sync::Arc;
use crate::types::Offset;

const MAGIC: &[u8; 8] = b"logstead";
const HEAD_BYTES: usize = MAGIC.len() + size_of::<Offset>();
const ENTRY_BYTES: usize = 8;
const TAIL_BYTES: usize = 16;

/// The part of a header that is summed: what Kafka's checksum leaves out, and that checksum.
const SUMMED_BYTES: usize = 21;

const _: () = assert!(SUMMED_BYTES < BATCH_HEADER_BYTES);

/// How much of a digest that is written waits in memory.
const BUFFER_BYTES: usize = 64 * 1024;

fn sum_of(batch: &[u8]) -> u32 {
    crc32fast::hash(batch.get(..SUMMED_BYTES).unwrap_or(batch))
}

/// A digest being written.
#[derive(Debug)]
pub(crate) struct DigestDraft {
    file: Arc<dyn File>,
    written: u64,
    buffer: Vec<u8>,
    sum: crc32fast::Hasher,
    count: u32,
}

impl DigestDraft {
    pub(crate) fn new(file: Arc<dyn File>, base: Offset) -> Self {
        let mut buffer = Vec::new();
        buffer.extend_from_slice(MAGIC);
        buffer.extend_from_slice(&base.to_be_bytes());
        DigestDraft { file, written: 0, buffer, sum: crc32fast::Hasher::new(), count: 0 }
    }

    /// Counts the batch that comes next.
    pub(crate) fn note(&mut self, position: u64, batch: &[u8]) -> Result<()> {
        // Positions of a segment fit 31 bits.
        self.buffer.extend_from_slice(&u32::try_from(position).unwrap_or(u32::MAX).to_be_bytes());
        self.buffer.extend_from_slice(&sum_of(batch).to_be_bytes());
        self.count += 1;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.sum.update(&self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the rest, for a `.log` of this many bytes, and syncs it.
    pub(crate) fn end(mut self, log_bytes: u64) -> Result<()> {
        self.buffer.extend_from_slice(&log_bytes.to_be_bytes());
        self.buffer.extend_from_slice(&self.count.to_be_bytes());
        self.flush()?;
        let sum = std::mem::take(&mut self.sum).finalize();
        self.file.write_at(&sum.to_be_bytes(), self.written)?;
        self.file.sync_data()
    }
}

/// A digest that was read and is whole.
#[derive(Debug)]
pub(super) struct Digest {
    region: Region,
}

impl Digest {
    fn entries(&self) -> &[[u8; ENTRY_BYTES]] {
        let bytes = self.region.bytes();
        let end = bytes.len().saturating_sub(TAIL_BYTES);
        bytes.get(HEAD_BYTES..end).unwrap_or_default().as_chunks().0
    }

    /// Whether a batch that begins with these bytes was written at `position`.
    fn knows(&self, position: u64, batch: &[u8]) -> bool {
        let entries = self.entries();
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        let at = |entry: &[u8; ENTRY_BYTES]| {
            let [p0, p1, p2, p3, ..] = *entry;
            u32::from_be_bytes([p0, p1, p2, p3])
        };
        let found = entries.partition_point(|entry| at(entry) < position);
        let entry = entries.get(found).filter(|entry| at(entry) == position);
        entry.is_some_and(|[_, _, _, _, s @ ..]| u32::from_be_bytes(*s) == sum_of(batch))
    }
}

/// Whether bytes are a whole digest of a `.log` of this base and length.
pub(crate) fn is_whole(bytes: &[u8], base: Offset, log_bytes: u64) -> bool {
    let Some((body, sum)) = bytes.split_last_chunk::<4>() else { return false };
    let Some((rest, count)) = body.split_last_chunk::<4>() else { return false };
    let Some((rest, len)) = rest.split_last_chunk::<8>() else { return false };
    let entries = rest.len().checked_sub(HEAD_BYTES);
    rest.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk()) == Some(&base.to_be_bytes())
        && u64::from_be_bytes(*len) == log_bytes
        && entries
            == usize::try_from(u32::from_be_bytes(*count)).ok().and_then(|n| n.checked_mul(ENTRY_BYTES))
        && u32::from_be_bytes(*sum) == crc32fast::hash(body)
}

/// The digest of a segment whose `.log` has `log_bytes`, for a check without a log: whether it knows a batch. `None`:
/// there is none, or none that counts.
pub(crate) fn reader(
    storage: &dyn Storage,
    dir: &Path,
    base: Offset,
    log_bytes: u64,
) -> Result<Option<impl Fn(u64, &[u8]) -> bool + use<>>> {
    let digest = load(storage, &dir.join(name::digest(base)), base, log_bytes, false)?;
    Ok(digest.map(|digest| move |position, batch: &[u8]| digest.knows(position, batch)))
}

fn load(
    storage: &dyn Storage,
    path: &Path,
    base: Offset,
    log_bytes: u64,
    maps: bool,
) -> Result<Option<Digest>> {
    let file = match storage.open(path, Open::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    // No batch is shorter than a header: a larger file is no digest of this segment.
    let most = log_bytes / BATCH_HEADER_BYTES as u64 * ENTRY_BYTES as u64;
    // Messages of the old formats are shorter, at 26 bytes or more.
    let most = most.saturating_mul(3) + (HEAD_BYTES + TAIL_BYTES + ENTRY_BYTES) as u64;
    if len > most {
        return Ok(None);
    }
    let map = if maps && len > 0 { file.map(len)? } else { None };
    let region = match map {
        Some(map) => {
            map.publish(len);
            Region::map(map, 0..len)
        }
        None => None,
    };
    let region = match region {
        Some(region) => region,
        None => {
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            let read = file.read_at(&mut bytes, 0)?;
            bytes.truncate(read);
            Region::heap(bytes)
        }
    };
    Ok(is_whole(region.bytes(), base, log_bytes).then_some(Digest { region }))
}

impl Segment {
    /// The digest, if there is one that counts. Read once.
    pub(super) fn digest(&self) -> Result<Option<&Digest>> {
        if self.config.contiguous || !self.is_sealed() {
            return Ok(None);
        }
        if let Some(digest) = self.digest.get() {
            return Ok(digest.as_deref());
        }
        let path = self.dir.join(name::digest(self.base));
        let digest = load(self.storage.as_ref(), &path, self.base, self.written(), self.config.maps)?;
        Ok(self.digest.get_or_init(|| digest.map(Box::new)).as_deref())
    }

    /// Compares the front of a batch at `position` with the digest.
    #[inline]
    pub(crate) fn check_digest(&self, position: u64, batch: &[u8]) -> Result<(), Fault> {
        if self.config.contiguous {
            return Ok(());
        }
        match self.digest()? {
            Some(digest) if !digest.knows(position, batch) => Err(Fault::Bytes { position, why: NOT_KNOWN }),
            _ => Ok(()),
        }
    }

    /// As [`Segment::check_digest`], for a header that was parsed.
    pub(super) fn check_header(&self, position: u64, header: &BatchHeader) -> Result<(), Fault> {
        if self.knows(position, header)? { Ok(()) } else { Err(Fault::Bytes { position, why: NOT_KNOWN }) }
    }

    /// Whether the digest, if there is one, knows a batch with this header.
    pub(super) fn knows(&self, position: u64, header: &BatchHeader) -> Result<bool> {
        if self.config.contiguous {
            return Ok(true);
        }
        let Some(digest) = self.digest()? else { return Ok(true) };
        let mut bytes = [0; BATCH_HEADER_BYTES];
        if header.is_legacy() {
            let batch = self.read(position, SUMMED_BYTES as u64)?;
            return Ok(digest.knows(position, batch.bytes()));
        }
        header.write(&mut bytes);
        Ok(digest.knows(position, &bytes))
    }
}

/// What a batch is that is not the one that was written there.
const NOT_KNOWN: Invalid =
    Invalid::Field { name: "header", why: "it is not the one that the segment's digest knows" };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimDisk;
    use std::path::PathBuf;

    fn written(batches: &[(u64, &[u8])], base: Offset, log_bytes: u64) -> (SimDisk, PathBuf) {
        let disk = SimDisk::in_memory();
        let dir = PathBuf::from("/d");
        disk.create_dir(&dir).unwrap();
        let file = disk.open(&dir.join(name::digest(base)), Open::New).unwrap();
        let mut draft = DigestDraft::new(file, base);
        for (position, batch) in batches {
            draft.note(*position, batch).unwrap();
        }
        draft.end(log_bytes).unwrap();
        (disk, dir)
    }

    #[test]
    fn r8_a_batch_is_known_in_its_place_and_with_its_bytes_only() {
        let (one, other) = ([7; 61], [9; 70]);
        let (disk, dir) = written(&[(0, &one), (61, &other)], 40, 1_000);
        let knows = reader(&disk, &dir, 40, 1_000).unwrap().unwrap();
        assert!(knows(0, &one) && knows(61, &other));
        assert!(!knows(0, &other) && !knows(61, &one) && !knows(30, &one) && !knows(1 << 40, &one));
        for bit in 0..SUMMED_BYTES * 8 {
            let mut flipped = one;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!knows(0, &flipped), "bit {bit}");
        }
    }

    #[test]
    fn r8_a_digest_counts_whole_and_for_its_own_log_only() {
        let (disk, dir) = written(&[(0, &[1; 61]), (61, &[2; 61])], 40, 122);
        assert!(reader(&disk, &dir, 40, 122).unwrap().is_some());
        assert!(reader(&disk, &dir, 40, 121).unwrap().is_none());
        assert!(reader(&disk, &dir, 41, 122).unwrap().is_none());
        let path = dir.join(name::digest(40));
        let good = disk.read_file(&path).unwrap();
        assert!(!is_whole(&good, 41, 122));
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_whole(&flipped, 40, 122), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(!is_whole(&good[..len], 40, 122), "{len} bytes");
        }
    }
}
