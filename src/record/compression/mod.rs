//! The codecs of a records section: one stream of bytes in, one out, never more than a limit.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use std::fmt;
use std::str::FromStr;

use super::Invalid;
use crate::error::{Error, ErrorKind};

/// How the records of a batch are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Gzip; needs the feature `gzip`.
    Gzip,
    /// Snappy in the framing of Kafka's Java clients; needs the feature `snappy`.
    Snappy,
    /// LZ4; needs the feature `lz4`.
    Lz4,
    /// Zstandard; needs the feature `zstd`.
    Zstd,
}

impl Compression {
    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// Kafka's number of it.
    #[inline]
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name of it, which is also the feature that brings it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    #[inline]
    pub(super) fn from_id(id: u8) -> Option<Compression> {
        Compression::ALL.get(usize::from(id)).copied()
    }

    /// An error unless this build can pack and unpack it.
    pub(crate) fn available(self) -> Result<(), Error> {
        if self.is_built() { Ok(()) } else { Err(ErrorKind::CodecMissing { codec: self.name() }.into()) }
    }

    /// Whether this build can pack and unpack it.
    pub fn is_built(self) -> bool {
        match self {
            Compression::None => true,
            Compression::Gzip => cfg!(feature = "gzip"),
            Compression::Snappy => cfg!(feature = "snappy"),
            Compression::Lz4 => cfg!(feature = "lz4"),
            Compression::Zstd => cfg!(feature = "zstd"),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Compression::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| {
            Error::from(ErrorKind::InvalidConfig {
                name: "compression.type",
                value: name.to_owned(),
                why: "it must be one of none, gzip, snappy, lz4, zstd",
            })
        })
    }
}

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
    let step = packed.len().saturating_mul(4).clamp(Output::STEP_MIN, Output::STEP_MAX);
    let mut out = Output { bytes: Vec::new(), limit, step };
    match codec {
        Compression::None => out.copy(packed)?,
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::decompress(packed, &mut out)?,
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::decompress(packed, &mut out)?,
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::decompress(packed, &mut out)?,
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::decompress(packed, &mut out)?,
        #[allow(unreachable_patterns)]
        codec => return Err(Invalid::CodecMissing(codec.name())),
    }
    Ok(out.bytes)
}

/// Where a codec unpacks to: a vector that never grows beyond its limit.
struct Output {
    bytes: Vec<u8>,
    limit: usize,
    /// What is made room for at a time by a codec that has no unit of its own.
    step: usize,
}

// Each codec uses some of these; a build may leave any codec out.
#[allow(dead_code)]
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
