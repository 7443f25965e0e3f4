//! Zstandard: one frame without content size or checksum when written; any frames are read.

use std::io::Cursor;

use zstd::bulk::Compressor;
use zstd::stream::raw::{Decoder, Operation};
use zstd::zstd_safe::{CParameter, DCtx, DParameter, InBuffer, OutBuffer, compress_bound};

use super::{Output, Pool};
use crate::record::Invalid;

const LEVEL: i32 = 3;
/// 8 MiB: what a decoder keeps of its output beside ours, whatever the frame asks for.
const WINDOW_LOG_MAX: u32 = 23;
const INVALID: Invalid = Invalid::Decompress("zstd");

static COMPRESSORS: Pool<Compressor<'static>> = Pool::new();
static DECOMPRESSORS: Pool<DCtx<'static>> = Pool::new();

pub(super) fn compress(level: Option<i32>, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let level = level.unwrap_or(LEVEL);
    if !zstd::compression_level_range().contains(&level) {
        return Err(Invalid::Field { name: "zstd level", why: "it must be -131072 to 22" });
    }
    let failed = |_| Invalid::Field { name: "batch", why: "zstd failed" };
    let mut compressor = match COMPRESSORS.take() {
        Some(compressor) => compressor,
        None => Compressor::new(level).map_err(failed)?,
    };
    compressor.set_compression_level(level).map_err(failed)?;
    compressor.set_parameter(CParameter::ContentSizeFlag(false)).map_err(failed)?;
    compressor.set_parameter(CParameter::ChecksumFlag(false)).map_err(failed)?;
    let start = out.len();
    out.reserve(compress_bound(plain.len()));
    let mut cursor = Cursor::new(out);
    cursor.set_position(start as u64);
    compressor.compress_to_buffer(plain, &mut cursor).map_err(failed)?;
    COMPRESSORS.give_back(compressor);
    Ok(())
}

pub(super) fn decompress(packed: &[u8], out: &mut Output) -> Result<(), Invalid> {
    let mut context = match DECOMPRESSORS.take() {
        Some(context) => context,
        None => DCtx::try_create().ok_or(INVALID)?,
    };
    let done = stream(&mut context, packed, out);
    DECOMPRESSORS.give_back(context);
    done
}

fn stream(context: &mut DCtx<'static>, packed: &[u8], out: &mut Output) -> Result<(), Invalid> {
    let mut decoder = Decoder::with_context(context);
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(|_| INVALID)?;
    let mut input = InBuffer::around(packed);
    loop {
        let len = out.bytes.len();
        if len == out.bytes.capacity() {
            // One byte of room at the limit tells a full output from one that would go on.
            let more = len.max(out.step).min(out.limit - len).max(1);
            out.bytes.reserve_exact(more);
        }
        let room = out.bytes.capacity() - len;
        let mut output = OutBuffer::around_pos(&mut out.bytes, len);
        // What is left to do in the frame; 0 when it is complete.
        let left = decoder.run(&mut input, &mut output).map_err(|_| INVALID)?;
        let written = out.bytes.len() - len;
        if out.bytes.len() > out.limit {
            return Err(out.too_large());
        }
        if input.pos == packed.len() {
            match left {
                0 => return Ok(()),
                // Room was left over, so the frame waits for bytes that are not there.
                _ if written < room => return Err(INVALID),
                _ => {}
            }
        }
    }
}
