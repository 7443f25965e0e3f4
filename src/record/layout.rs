//! Where the fields of a batch header lie: each offset follows from the field before it.

use crate::limits::BATCH_HEADER_BYTES;

pub(super) const BASE_OFFSET: usize = 0;
pub(super) const LENGTH: usize = BASE_OFFSET + size_of::<i64>();
pub(super) const LEADER_EPOCH: usize = LENGTH + size_of::<i32>();
pub(super) const MAGIC: usize = LEADER_EPOCH + size_of::<i32>();
pub(super) const CRC: usize = MAGIC + size_of::<i8>();
pub(super) const ATTRIBUTES: usize = CRC + size_of::<u32>();
pub(super) const LAST_OFFSET_DELTA: usize = ATTRIBUTES + size_of::<i16>();
pub(super) const BASE_TIMESTAMP: usize = LAST_OFFSET_DELTA + size_of::<i32>();
pub(super) const MAX_TIMESTAMP: usize = BASE_TIMESTAMP + size_of::<i64>();
pub(super) const PRODUCER_ID: usize = MAX_TIMESTAMP + size_of::<i64>();
pub(super) const PRODUCER_EPOCH: usize = PRODUCER_ID + size_of::<i64>();
pub(super) const BASE_SEQUENCE: usize = PRODUCER_EPOCH + size_of::<i16>();
pub(super) const COUNT: usize = BASE_SEQUENCE + size_of::<i32>();
pub(super) const RECORDS: usize = COUNT + size_of::<i32>();

/// Bytes that the length field does not count: itself and what lies before it.
pub(super) const UNCOUNTED: usize = LENGTH + size_of::<i32>();

/// The first byte that the checksum covers; it ends with the batch.
pub(super) const CHECKSUMMED: usize = ATTRIBUTES;

/// The smallest length field of format 2: a header without records.
pub(super) const LENGTH_MIN: i32 = (RECORDS - UNCOUNTED) as i32;

/// The smallest length field of formats 0 and 1: checksum, magic, attributes, two null fields.
pub(super) const LEGACY_LENGTH_MIN: i32 = 14;

/// The format that is written; 3..=127 are read like it, as Kafka does, because no checksum covers the byte.
pub(super) const MAGIC_V2: i8 = 2;

pub(super) const CODEC_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
pub(super) const CONTROL: i16 = 0x20;
pub(super) const DELETE_HORIZON: i16 = 0x40;

/// What Kafka stores for "no producer", "no epoch", "no sequence", "no timestamp".
pub(super) const NONE: i8 = -1;

const _: () = {
    assert!(RECORDS == BATCH_HEADER_BYTES);
    assert!(MAGIC == 16 && CRC == 17 && ATTRIBUTES == 21 && COUNT == 57);
    assert!(LENGTH_MIN == 49 && UNCOUNTED == 12);
    assert!(CODEC_MASK & (LOG_APPEND_TIME | TRANSACTIONAL | CONTROL | DELETE_HORIZON) == 0);
};

/// `N` bytes of a header; the offset is a constant above, so no check is left after inlining.
#[inline(always)]
pub(super) fn get<const N: usize>(header: &[u8; RECORDS], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&header[at..at + N]);
    field
}

#[inline(always)]
pub(super) fn put<const N: usize>(header: &mut [u8], at: usize, field: [u8; N]) {
    header[at..at + N].copy_from_slice(&field);
}
