//! The batches of a closed segment, each checked and unpacked, read in pieces and only once.
//!
//! Invariants:
//! - What is handed out passed everything that a reader's batch passes: checksum, place, digest, every record.
//! - Memory is bounded by one piece, or one batch, and one unpacked batch.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::BATCH_HEADER_BYTES;
use crate::record::{BatchHeader, Compression, Invalid, check_records, decompress, unpack, verify_crc};
use crate::segment::{Fault, Segment};
use crate::storage::Region;
use crate::types::Offset;

/// Read at once.
const PIECE_BYTES: u64 = 1 << 20;

/// One batch as it lies in the segment, and what is in it.
#[derive(Debug)]
pub(super) struct Batch<'s> {
    pub(super) header: BatchHeader,
    pub(super) bytes: &'s [u8],
    pub(super) section: Cow<'s, [u8]>,
}

/// A walk over the batches of a segment.
pub(super) struct Source<'s> {
    segment: &'s Segment,
    next_base: Offset,
    position: u64,
    expected: Offset,
    region: Region,
    /// Where `region` begins.
    region_at: u64,
}

impl<'s> Source<'s> {
    /// From the batch that holds `from` on, or the first behind it.
    pub(super) fn open(segment: &'s Segment, next_base: Offset, from: Offset) -> Result<Source<'s>> {
        let (position, expected) = if from <= segment.base() {
            (0, segment.base())
        } else {
            match segment.find(from) {
                Ok(Some(landing)) => (landing.position, landing.header.base_offset),
                Ok(None) => (segment.visible(), next_base),
                Err(fault) => return Err(damage(segment, from..next_base, fault)),
            }
        };
        let region = Region::heap(Vec::new());
        Ok(Source { segment, next_base, position, expected, region, region_at: position })
    }

    /// Where the next batch begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next batch; `None` behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Batch<'_>>> {
        let (segment, position) = (self.segment, self.position);
        let end = segment.visible();
        if position >= end {
            return Ok(None);
        }
        let offsets = self.expected..self.next_base;
        let bad = |why| corrupt(segment, position, offsets.clone(), why);
        let header = BatchHeader::parse(self.bytes(BATCH_HEADER_BYTES as u64)?).map_err(bad)?;
        let size = header.size();
        if size as u64 > end - position {
            let have = usize::try_from(end - position).unwrap_or(usize::MAX);
            return Err(bad(Invalid::Short { have, need: size }));
        }
        let (expected, next_base) = (self.expected, self.next_base);
        let bytes = self.bytes(size as u64)?;
        check(segment, position, bytes, expected, next_base)
            .map_err(|fault| damage(segment, expected..next_base, fault))?;
        self.position += size as u64;
        self.expected = header.next_offset();
        let bytes = self.slice(position, size);
        let (header, section) = unpacked(bytes).map_err(bad)?;
        Ok(Some(Batch { header, bytes, section }))
    }

    /// `len` bytes from the position on, fewer at the end of the segment.
    fn bytes(&mut self, len: u64) -> Result<&[u8]> {
        let len = len.min(self.segment.visible() - self.position);
        let have = self.region_at + self.region.bytes().len() as u64;
        if self.position + len > have {
            self.region = self.segment.read(self.position, len.max(PIECE_BYTES))?;
            self.region_at = self.position;
        }
        Ok(self.slice(self.position, usize::try_from(len).unwrap_or(usize::MAX)))
    }

    /// What was read, from `position` on.
    fn slice(&self, position: u64, len: usize) -> &[u8] {
        let at = usize::try_from(position - self.region_at).unwrap_or(usize::MAX);
        let rest = self.region.bytes().get(at..).unwrap_or_default();
        rest.get(..len).unwrap_or(rest)
    }
}

/// Everything about a batch but its records.
fn check(
    segment: &Segment,
    position: u64,
    bytes: &[u8],
    expected: Offset,
    next_base: Offset,
) -> Result<(), Fault> {
    let fault = |why| Fault::Bytes { position, why };
    let wrong = |why| Err(fault(Invalid::Field { name: "base offset", why }));
    let header = BatchHeader::parse(bytes).map_err(fault)?;
    verify_crc(bytes, &header).map_err(fault)?;
    segment.check_digest(position, bytes)?;
    if header.last_offset() >= next_base {
        return wrong("it lies in the segment behind it");
    }
    // Of a wrapper of an old format the last offset is known; unpacking compares the others with it.
    let first = if header.is_legacy() { header.last_offset() } else { header.base_offset };
    if first < expected {
        return wrong("it lies before the batch in front of it");
    }
    if segment.is_contiguous() && first != expected {
        return wrong("it does not follow the batch in front of it");
    }
    Ok(())
}

fn unpacked(bytes: &[u8]) -> Result<(BatchHeader, Cow<'_, [u8]>), Invalid> {
    let header = BatchHeader::parse(bytes)?;
    let (header, section) = if header.is_legacy() {
        let (header, section) = unpack(&header, bytes)?;
        (header, Cow::Owned(section))
    } else if header.compression() == Compression::None {
        (header, Cow::Borrowed(bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default()))
    } else {
        let section = decompress(&header, bytes)?;
        (header, Cow::Owned(section))
    };
    check_records(&header, &section)?;
    Ok((header, section))
}

#[cold]
pub(super) fn damage(segment: &Segment, offsets: Range<Offset>, fault: Fault) -> Error {
    match fault {
        Fault::Disk(error) => error,
        Fault::Bytes { position, why } => corrupt(segment, position, offsets, why),
    }
}

#[cold]
fn corrupt(segment: &Segment, position: u64, offsets: Range<Offset>, why: Invalid) -> Error {
    if let Invalid::CodecMissing(codec) = why {
        return ErrorKind::CodecMissing { codec }.into();
    }
    let (file, resume_at) = (segment.path(), offsets.end);
    ErrorKind::Corrupt { file, position, offsets, resume_at, why: why.to_string() }.into()
}
