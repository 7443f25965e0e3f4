//! Snappy in the framing of xerial's Java library: a header, then blocks with their lengths.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Output, Pool};
use crate::record::Invalid;

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
/// Magic, version 1, and the oldest version that can read it, 1.
const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const BLOCK: usize = 32 * 1024;
/// A block unpacks to less than this many times its size (3 bytes copy 64).
const RATIO_MAX: usize = 32;
const INVALID: Invalid = Invalid::Decompress("snappy");

static ENCODERS: Pool<Encoder> = Pool::new();

pub(super) fn compress(plain: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let mut encoder = ENCODERS.take().unwrap_or_else(Encoder::new);
    out.extend_from_slice(&HEADER);
    for block in plain.chunks(BLOCK) {
        let start = out.len();
        out.resize(start + 4 + max_compress_len(block.len()), 0);
        let len = encoder
            .compress(block, &mut out[start + 4..])
            .map_err(|_| Invalid::Field { name: "batch", why: "snappy failed" })?;
        out[start..start + 4].copy_from_slice(&(len as u32).to_be_bytes());
        out.truncate(start + 4 + len);
    }
    ENCODERS.give_back(encoder);
    Ok(())
}

pub(super) fn decompress(packed: &[u8], out: &mut Output) -> Result<(), Invalid> {
    if packed.len() < HEADER.len() || !packed.starts_with(&MAGIC) {
        return block(packed, out);
    }
    let mut rest = packed;
    while !rest.is_empty() {
        // Streams may follow each other: Java's reader skips a header wherever a block could start.
        if rest.starts_with(&MAGIC) {
            let (header, blocks) = rest.split_first_chunk::<16>().ok_or(INVALID)?;
            if header[MAGIC.len()..MAGIC.len() + 4] < HEADER[MAGIC.len()..MAGIC.len() + 4] {
                return Err(INVALID);
            }
            rest = blocks;
            continue;
        }
        let (len, blocks) = rest.split_first_chunk::<4>().ok_or(INVALID)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (packed, blocks) = blocks.split_at_checked(len).ok_or(INVALID)?;
        block(packed, out)?;
        rest = blocks;
    }
    Ok(())
}

fn block(packed: &[u8], out: &mut Output) -> Result<(), Invalid> {
    let len = decompress_len(packed).map_err(|_| INVALID)?;
    if len > packed.len().saturating_mul(RATIO_MAX) {
        return Err(INVALID);
    }
    out.reserve(len)?;
    out.fill(len, |room| Decoder::new().decompress(packed, room).map_err(|_| INVALID))?;
    Ok(())
}
