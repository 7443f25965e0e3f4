//! The codecs of a records section: one stream of bytes in, one out, never more than a limit.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use super::Invalid;
use crate::types::Compression;

/// Appends `plain`, packed, to `out`.
pub(super) fn compress(
    codec: Compression,
    level: Option<i32>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Invalid> {
    match codec {
        Compression::None => {
            out.extend_from_slice(plain);
            Ok(())
        }
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::compress(level, plain, out),
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::compress(plain, out),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::compress(plain, out),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::compress(level, plain, out),
        #[allow(unreachable_patterns)]
        codec => {
            // Codecs without a level ignore it, and a build may have only those.
            let _ = level;
            Err(Invalid::CodecMissing(codec.name()))
        }
    }
}

/// Unpacks `packed` into at most `limit` bytes.
pub(super) fn decompress(codec: Compression, packed: &[u8], limit: usize) -> Result<Vec<u8>, Invalid> {
    decompress_framed(codec, packed, limit, true)
}

/// As [`decompress`]; the checksum of an LZ4 frame's header counts only if `lz4_header_checked`.
pub(super) fn decompress_framed(
    codec: Compression,
    packed: &[u8],
    limit: usize,
    lz4_header_checked: bool,
) -> Result<Vec<u8>, Invalid> {
    // A build may leave its codec out.
    let _ = lz4_header_checked;
    let step = packed.len().saturating_mul(4).clamp(Output::STEP_MIN, Output::STEP_MAX);
    let mut out = Output { bytes: Vec::new(), limit, step };
    match codec {
        Compression::None => out.copy(packed)?,
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::decompress(packed, &mut out)?,
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::decompress(packed, &mut out)?,
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::decompress(packed, lz4_header_checked, &mut out)?,
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::decompress(packed, &mut out)?,
        #[allow(unreachable_patterns)]
        codec => return Err(Invalid::CodecMissing(codec.name())),
    }
    Ok(out.bytes)
}

/// Where a codec unpacks to: a vector that never grows beyond its limit.
#[allow(dead_code, reason = "a build may leave all codecs out")]
struct Output {
    bytes: Vec<u8>,
    limit: usize,
    /// What is made room for at a time by a codec that has no unit of its own.
    step: usize,
}

#[allow(dead_code, reason = "each codec uses some of these, and a build may leave any codec out")]
impl Output {
    const STEP_MIN: usize = 512;
    const STEP_MAX: usize = 64 * 1024;

    fn too_large(&self) -> Invalid {
        Invalid::TooLarge { limit: self.limit }
    }

    /// Allocates for `more` bytes: twice what there is, within the limit.
    fn reserve(&mut self, more: usize) -> Result<(), Invalid> {
        let len = self.bytes.len();
        if more > self.limit - len {
            return Err(self.too_large());
        }
        if self.bytes.capacity() - len < more {
            self.bytes.reserve_exact(more.max(len).min(self.limit - len));
        }
        Ok(())
    }

    fn copy(&mut self, bytes: &[u8]) -> Result<(), Invalid> {
        self.reserve(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// `write` fills a slice of `at_most` zeroed bytes, or fewer at the limit, and returns how many it used.
    fn fill(
        &mut self,
        at_most: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, Invalid>,
    ) -> Result<usize, Invalid> {
        let len = self.bytes.len();
        let room = at_most.min(self.limit - len);
        self.reserve(room)?;
        self.bytes.resize(len + room, 0);
        let used = write(&mut self.bytes[len..])?.min(room);
        self.bytes.truncate(len + used);
        Ok(used)
    }
}

/// Codec contexts that are dear to make: a few are kept, however many threads pack and unpack.
#[cfg(any(feature = "snappy", feature = "lz4", feature = "zstd"))]
struct Pool<T>(crate::sync::Mutex<Vec<T>>);

#[cfg(any(feature = "snappy", feature = "lz4", feature = "zstd"))]
impl<T> Pool<T> {
    const KEPT: usize = 2;

    const fn new() -> Self {
        Pool(crate::sync::Mutex::new(Vec::new()))
    }

    fn take(&self) -> Option<T> {
        self.0.lock().pop()
    }

    fn give_back(&self, context: T) {
        let mut kept = self.0.lock();
        if kept.len() < Self::KEPT {
            kept.push(context);
        }
    }
}
