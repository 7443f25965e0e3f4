//! A batch as it lies in a file: its header, its checksum, its records section.

use super::checksum::crc32c;
use super::layout as at;
use super::record::RawRecord;
use super::{Compression, Invalid, TimestampType, compression, legacy};
use crate::limits::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES, DECOMPRESS_BUDGET_BYTES};

/// The 61 bytes before the records, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) base_offset: i64,
    pub(crate) batch_length: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) magic: i8,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    /// As stored: the first record's timestamp, or the delete horizon.
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) count: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes` and checks all that it can say alone; the checksum is not looked at.
    /// Formats 0 and 1 are read too: see [`BatchHeader::is_legacy`].
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Result<BatchHeader, Invalid> {
        let Some(b) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return legacy::parse_short(bytes, BATCH_HEADER_BYTES);
        };
        let header = BatchHeader {
            base_offset: i64::from_be_bytes(at::get(b, at::BASE_OFFSET)),
            batch_length: i32::from_be_bytes(at::get(b, at::LENGTH)),
            leader_epoch: i32::from_be_bytes(at::get(b, at::LEADER_EPOCH)),
            magic: i8::from_be_bytes(at::get(b, at::MAGIC)),
            crc: u32::from_be_bytes(at::get(b, at::CRC)),
            attributes: i16::from_be_bytes(at::get(b, at::ATTRIBUTES)),
            last_offset_delta: i32::from_be_bytes(at::get(b, at::LAST_OFFSET_DELTA)),
            base_timestamp: i64::from_be_bytes(at::get(b, at::BASE_TIMESTAMP)),
            max_timestamp: i64::from_be_bytes(at::get(b, at::MAX_TIMESTAMP)),
            producer_id: i64::from_be_bytes(at::get(b, at::PRODUCER_ID)),
            producer_epoch: i16::from_be_bytes(at::get(b, at::PRODUCER_EPOCH)),
            base_sequence: i32::from_be_bytes(at::get(b, at::BASE_SEQUENCE)),
            count: i32::from_be_bytes(at::get(b, at::COUNT)),
        };
        if header.is_legacy() && header.batch_length >= at::LEGACY_LENGTH_MIN {
            return legacy::parse(bytes);
        }
        header.check()?;
        Ok(header)
    }

    #[inline]
    fn check(&self) -> Result<(), Invalid> {
        let field = |name, why| Err(Invalid::Field { name, why });
        // Zeroed bytes are "no batch", not "an old batch": the length is looked at first.
        if self.batch_length < at::LEGACY_LENGTH_MIN {
            return Err(Invalid::Length(self.batch_length));
        }
        if self.magic < at::MAGIC_V2 {
            return Err(Invalid::Magic(self.magic));
        }
        if self.batch_length < at::LENGTH_MIN || self.size() > BATCH_BYTES_MAX {
            return Err(Invalid::Length(self.batch_length));
        }
        let codec = (self.attributes & at::CODEC_MASK) as u8;
        if Compression::from_id(codec).is_none() {
            return Err(Invalid::Codec(codec));
        }
        if self.base_offset < 0 {
            return field("base offset", "it is negative");
        }
        if self.last_offset_delta < 0 {
            return field("last offset delta", "it is negative");
        }
        if self.base_offset >= i64::MAX - i64::from(self.last_offset_delta) {
            return field("base offset", "the next offset is out of range");
        }
        if self.count < 0 {
            return field("record count", "it is negative");
        }
        if i64::from(self.count) > i64::from(self.last_offset_delta) + 1 {
            return field("record count", "it is larger than the range of offsets");
        }
        Ok(())
    }

    /// Whether it is a message of format 0 or 1. Then it says little, and is to be believed only with its checksum;
    /// its records, and its base offset, are had by [`unpack`](super::unpack).
    #[inline]
    pub(crate) fn is_legacy(&self) -> bool {
        (0..at::MAGIC_V2).contains(&self.magic)
    }

    /// Bytes of the whole batch.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        at::UNCOUNTED + self.batch_length as usize
    }

    /// The offset of the last record that was ever in it.
    #[inline]
    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// The offset after it.
    #[inline]
    pub(crate) fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// The codec of its records section.
    #[inline]
    pub(crate) fn compression(&self) -> Compression {
        Compression::from_id((self.attributes & at::CODEC_MASK) as u8).unwrap_or_default()
    }

    /// What its timestamps mean.
    #[inline]
    pub(crate) fn timestamp_type(&self) -> TimestampType {
        if self.attributes & at::LOG_APPEND_TIME != 0 {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// The timestamp of a record of it.
    #[inline]
    pub(crate) fn timestamp(&self, timestamp_delta: i64) -> i64 {
        match self.timestamp_type() {
            TimestampType::CreateTime => self.base_timestamp.wrapping_add(timestamp_delta),
            TimestampType::LogAppendTime => self.max_timestamp,
        }
    }

    /// Whether it holds markers, not records.
    #[inline]
    pub(crate) fn is_control(&self) -> bool {
        self.attributes & at::CONTROL != 0
    }

    /// Whether it belongs to a transaction.
    #[inline]
    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & at::TRANSACTIONAL != 0
    }

    /// When its tombstones and markers may go, if that was decided.
    #[inline]
    pub(crate) fn delete_horizon(&self) -> Option<i64> {
        (self.attributes & at::DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// The sequence number of the last record that was ever in it; -1 when it has none.
    #[inline]
    pub(crate) fn last_sequence(&self) -> i32 {
        match self.base_sequence {
            -1 => -1,
            base => increment_sequence(base, self.last_offset_delta),
        }
    }

    /// Writes the 61 bytes, checksum as given, to the front of `into`, which must have room for them.
    #[inline]
    pub(crate) fn write(&self, into: &mut [u8]) {
        let into = &mut into[..BATCH_HEADER_BYTES];
        at::put(into, at::BASE_OFFSET, self.base_offset.to_be_bytes());
        at::put(into, at::LENGTH, self.batch_length.to_be_bytes());
        at::put(into, at::LEADER_EPOCH, self.leader_epoch.to_be_bytes());
        at::put(into, at::MAGIC, self.magic.to_be_bytes());
        at::put(into, at::CRC, self.crc.to_be_bytes());
        at::put(into, at::ATTRIBUTES, self.attributes.to_be_bytes());
        at::put(into, at::LAST_OFFSET_DELTA, self.last_offset_delta.to_be_bytes());
        at::put(into, at::BASE_TIMESTAMP, self.base_timestamp.to_be_bytes());
        at::put(into, at::MAX_TIMESTAMP, self.max_timestamp.to_be_bytes());
        at::put(into, at::PRODUCER_ID, self.producer_id.to_be_bytes());
        at::put(into, at::PRODUCER_EPOCH, self.producer_epoch.to_be_bytes());
        at::put(into, at::BASE_SEQUENCE, self.base_sequence.to_be_bytes());
        at::put(into, at::COUNT, self.count.to_be_bytes());
    }

    /// Writes the header over the front of `batch` with the checksum of what lies there then.
    pub(super) fn finish(&mut self, batch: &mut [u8]) {
        self.write(batch);
        self.crc = crc32c(&batch[at::CHECKSUMMED..]);
        at::put(batch, at::CRC, self.crc.to_be_bytes());
    }
}

/// `sequence + by`; after the largest comes 0.
#[inline]
pub(crate) fn increment_sequence(sequence: i32, by: i32) -> i32 {
    (sequence.wrapping_add(by)) & i32::MAX
}

/// `sequence - by`; before 0 comes the largest.
#[inline]
pub(crate) fn decrement_sequence(sequence: i32, by: i32) -> i32 {
    (sequence.wrapping_sub(by)) & i32::MAX
}

/// The bytes of `batch` that `header` speaks of.
#[inline]
pub(super) fn whole<'a>(batch: &'a [u8], header: &BatchHeader) -> Result<&'a [u8], Invalid> {
    let need = header.size();
    if need < BATCH_HEADER_BYTES && !header.is_legacy() {
        return Err(Invalid::Length(header.batch_length));
    }
    batch.get(..need).ok_or(Invalid::Short { have: batch.len(), need })
}

/// Compares the checksum in `header` with the one of `batch`, its whole bytes.
#[inline]
pub(crate) fn verify_crc(batch: &[u8], header: &BatchHeader) -> Result<(), Invalid> {
    let batch = whole(batch, header)?;
    let computed =
        if header.is_legacy() { legacy::checksum(batch) } else { crc32c(&batch[at::CHECKSUMMED..]) };
    if computed == header.crc { Ok(()) } else { Err(Invalid::Crc { stored: header.crc, computed }) }
}

/// Walks the uncompressed records; after `Ok` a [`RecordIter`](super::RecordIter) yields exactly `header.count` of
/// them.
pub(crate) fn check_records(header: &BatchHeader, section: &[u8]) -> Result<(), Invalid> {
    let mut rest = section;
    let mut last = -1;
    let mut found = 0;
    while found < header.count {
        if rest.is_empty() {
            return Err(Invalid::Count { declared: header.count, found });
        }
        let record = match RawRecord::take(&mut rest) {
            Ok(record) => record,
            Err(why) => return Err(invalid(found, why)),
        };
        if let Err(why) = record.headers.check() {
            return Err(invalid(found, why));
        }
        if record.offset_delta <= last {
            return Err(invalid(found, "its offset is not larger than the one before"));
        }
        last = record.offset_delta;
        found += 1;
    }
    // The deltas increase: only the last one can lie beyond the range.
    if last > header.last_offset_delta {
        return Err(invalid(found - 1, "its offset is beyond the batch's last"));
    }
    if !rest.is_empty() {
        return Err(invalid(found, "bytes are left after the last record"));
    }
    Ok(())
}

#[cold]
fn invalid(index: i32, why: &'static str) -> Invalid {
    Invalid::Record { index: index as u32, why }
}

/// The unpacked records of `batch`, the whole bytes of one of format 2; at most the budget more than the bytes that
/// went in.
pub(crate) fn decompress(header: &BatchHeader, batch: &[u8]) -> Result<Vec<u8>, Invalid> {
    let section = whole(batch, header)?.get(at::RECORDS..).ok_or(Invalid::Magic(header.magic))?;
    if section.is_empty() && header.count == 0 {
        return Ok(Vec::new());
    }
    compression::decompress(header.compression(), section, section.len() + DECOMPRESS_BUDGET_BYTES)
}

/// The next position at or after `from` where a whole batch with a good header and checksum starts.
///
/// A record's value may hold bytes that pass for a batch: whoever resumes there compares its offsets with what it
/// knows.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn find_batch(bytes: &[u8], from: usize) -> Option<usize> {
    let mut from = from;
    loop {
        let (position, header) = find_header(bytes, from, true)?;
        if verify_crc(&bytes[position..], &header).is_ok() {
            return Some(position);
        }
        from = position + 1;
    }
}

/// The next position at or after `from` where a good header starts; whether its batch is whole is not looked at.
/// Those of formats 0 and 1 count when `legacy` says so.
pub(crate) fn find_header(bytes: &[u8], from: usize, legacy: bool) -> Option<(usize, BatchHeader)> {
    let mut position = from;
    loop {
        position += match bytes.get(position.checked_add(at::MAGIC)?..)? {
            // Writers put exactly 2 there; other values would let text pass the filter.
            candidates if !legacy => candidates.iter().position(|&b| b == at::MAGIC_V2 as u8)?,
            _ => bytes.get(position..)?.windows(at::MAGIC + 1).position(may_be_any)?,
        };
        let candidate = &bytes[position..];
        // The high byte of the attributes is unused and 0.
        let old = candidate.get(at::MAGIC).is_some_and(|&b| b < at::MAGIC_V2 as u8);
        if (old || candidate.get(at::ATTRIBUTES) == Some(&0))
            && let Ok(header) = BatchHeader::parse(candidate)
        {
            return Some((position, header));
        }
        position += 1;
    }
}

/// Whether a batch of any format may start here, by the least that is needed: a format, and a length.
#[inline]
fn may_be_any(bytes: &[u8]) -> bool {
    bytes[at::MAGIC] <= at::MAGIC_V2 as u8 && bytes[at::LENGTH..at::UNCOUNTED] != [0; 4]
}

/// What compaction leaves of a batch without records whose offsets or sequences still matter.
pub(crate) fn empty_batch(header: &BatchHeader) -> [u8; BATCH_HEADER_BYTES] {
    let mut empty = BatchHeader {
        batch_length: at::LENGTH_MIN,
        attributes: header.attributes & (at::LOG_APPEND_TIME | at::TRANSACTIONAL | at::CONTROL),
        base_timestamp: at::NONE.into(),
        count: 0,
        ..*header
    };
    let mut bytes = [0; BATCH_HEADER_BYTES];
    empty.finish(&mut bytes);
    bytes
}
