//! LZ4 in Kafka's frame: independent blocks of 64 KiB, no checksums; anything looser is refused when read.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::{Output, Pool};
use crate::record::Invalid;

/// Magic, flags (version 1, independent blocks), block size (64 KiB), header checksum.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
const BLOCK: usize = 64 * 1024;
/// In a block's length: the block is stored as it is.
const STORED: u32 = 1 << 31;
const END_MARK: [u8; 4] = [0; 4];
/// A block unpacks to less than this many times its size (a length byte counts 255).
const RATIO_MAX: usize = 256;
const INVALID: Invalid = Invalid::Decompress("lz4");

const VERSION: u8 = 0xc0;
const VERSION_1: u8 = 0x40;
const INDEPENDENT: u8 = 0x20;
const BLOCK_CHECKSUM: u8 = 0x10;
const CONTENT_SIZE: u8 = 0x08;
/// Reserved, and dictionaries, which Kafka has none of.
const FORBIDDEN: u8 = 0x03;

static TABLES: Pool<CompressTable> = Pool::new();
static ROOMS: Pool<Vec<u8>> = Pool::new();

pub(super) fn compress(plain: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let mut table = TABLES.take().unwrap_or_default();
    out.extend_from_slice(&HEADER);
    for block in plain.chunks(BLOCK) {
        let start = out.len();
        out.resize(start + 4 + get_maximum_output_size(block.len()), 0);
        let len = compress_into_with_table(block, &mut out[start + 4..], &mut table)
            .map_err(|_| Invalid::Field { name: "batch", why: "lz4 failed" })?;
        let (len, flag) = if len < block.len() {
            (len, 0)
        } else {
            out[start + 4..start + 4 + block.len()].copy_from_slice(block);
            (block.len(), STORED)
        };
        out[start..start + 4].copy_from_slice(&(len as u32 | flag).to_le_bytes());
        out.truncate(start + 4 + len);
    }
    out.extend_from_slice(&END_MARK);
    TABLES.give_back(table);
    Ok(())
}

/// `header_checked`: message format 0 knows a header checksum of another kind, which Kafka does not look at.
pub(super) fn decompress(packed: &[u8], header_checked: bool, out: &mut Output) -> Result<(), Invalid> {
    let frame = packed.strip_prefix(&MAGIC).ok_or(INVALID)?;
    let &[flags, size, ..] = frame else { return Err(INVALID) };
    if flags & VERSION != VERSION_1 || flags & FORBIDDEN != 0 || flags & INDEPENDENT == 0 {
        return Err(INVALID);
    }
    let block_max = match size {
        0x40 => 64 * 1024,
        0x50 => 256 * 1024,
        0x60 => 1024 * 1024,
        0x70 => 4 * 1024 * 1024,
        _ => return Err(INVALID),
    };
    let descriptor = if flags & CONTENT_SIZE == 0 { 2 } else { 10 };
    let (descriptor, rest) = frame.split_at_checked(descriptor).ok_or(INVALID)?;
    let (&checksum, mut rest) = rest.split_first().ok_or(INVALID)?;
    if header_checked && (xxh32(descriptor) >> 8) as u8 != checksum {
        return Err(INVALID);
    }
    loop {
        let (word, after) = rest.split_first_chunk::<4>().ok_or(INVALID)?;
        let word = u32::from_le_bytes(*word);
        if word == 0 {
            // A content checksum may follow; Kafka does not verify it, the batch's own covers it.
            return Ok(());
        }
        let (block, after) = after.split_at_checked((word & !STORED) as usize).ok_or(INVALID)?;
        rest = after;
        if flags & BLOCK_CHECKSUM != 0 {
            let (checksum, after) = rest.split_first_chunk::<4>().ok_or(INVALID)?;
            if xxh32(block) != u32::from_le_bytes(*checksum) {
                return Err(INVALID);
            }
            rest = after;
        }
        if block.len() > block_max {
            return Err(INVALID);
        }
        if word & STORED != 0 {
            out.copy(block)?;
            continue;
        }
        let at_most = block_max.min(block.len() * RATIO_MAX);
        if at_most <= BLOCK {
            // Through a buffer that is kept: a block says nothing of its unpacked size, and room for the largest would
            // be allocated and zeroed for each batch, and held as long as its records are.
            let mut room = ROOMS.take().unwrap_or_else(|| vec![0; BLOCK]);
            let used =
                decompress_into(block, room.get_mut(..at_most).ok_or(INVALID)?).map_err(|_| INVALID)?;
            out.copy(room.get(..used).ok_or(INVALID)?)?;
            ROOMS.give_back(room);
            continue;
        }
        let at_limit = out.limit - out.bytes.len() < at_most;
        let error = if at_limit { out.too_large() } else { INVALID };
        out.fill(at_most, |room| decompress_into(block, room).map_err(|_| error))?;
    }
}

/// XXH32 with seed 0, the checksum of LZ4 frames.
fn xxh32(bytes: &[u8]) -> u32 {
    const P1: u32 = 0x9e37_79b1;
    const P2: u32 = 0x85eb_ca77;
    const P3: u32 = 0xc2b2_ae3d;
    const P4: u32 = 0x27d4_eb2f;
    const P5: u32 = 0x1656_67b1;
    let (stripes, tail) = bytes.as_chunks::<16>();
    let mut hash = if stripes.is_empty() {
        P5
    } else {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, 0u32.wrapping_sub(P1)];
        for stripe in stripes {
            for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<4>().0) {
                let input = u32::from_le_bytes(*word).wrapping_mul(P2);
                *lane = lane.wrapping_add(input).rotate_left(13).wrapping_mul(P1);
            }
        }
        let [a, b, c, d] = lanes;
        a.rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18))
    };
    hash = hash.wrapping_add(bytes.len() as u32);
    let (words, tail) = tail.as_chunks::<4>();
    for word in words {
        let input = u32::from_le_bytes(*word).wrapping_mul(P3);
        hash = hash.wrapping_add(input).rotate_left(17).wrapping_mul(P4);
    }
    for &byte in tail {
        hash = hash.wrapping_add(u32::from(byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ hash >> 15).wrapping_mul(P2);
    hash = (hash ^ hash >> 13).wrapping_mul(P3);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxh32_of_known_inputs() {
        assert_eq!(xxh32(b""), 0x02cc_5d05);
        assert_eq!(xxh32(b"a"), 0x550d_7456);
        assert_eq!(xxh32(b"Nobody inspects the spammish repetition"), 0xe229_3b2f);
        assert_eq!((xxh32(&HEADER[4..6]) >> 8) as u8, HEADER[6]);
    }
}
