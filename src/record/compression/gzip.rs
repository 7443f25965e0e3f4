//! Gzip: one member when written; several are read, as the Java class does.

use std::io::{Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::Output;
use crate::record::Invalid;

pub(super) fn compress(level: Option<i32>, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let level = match level {
        None | Some(-1) => flate2::Compression::default(),
        Some(level @ 1..=9) => flate2::Compression::new(level as u32),
        Some(_) => return Err(Invalid::Field { name: "gzip level", why: "it must be 1 to 9, or -1" }),
    };
    let mut encoder = GzEncoder::new(out, level);
    encoder
        .write_all(plain)
        .and_then(|()| encoder.try_finish())
        .map_err(|_| Invalid::Field { name: "batch", why: "gzip failed" })
}

pub(super) fn decompress(packed: &[u8], out: &mut Output) -> Result<(), Invalid> {
    let invalid = |_| Invalid::Decompress("gzip");
    let mut decoder = MultiGzDecoder::new(packed);
    while out.bytes.len() < out.limit {
        if out.fill(out.step, |room| decoder.read(room).map_err(invalid))? == 0 {
            return Ok(());
        }
    }
    // At the limit: right if nothing more comes.
    match decoder.read(&mut [0]).map_err(invalid)? {
        0 => Ok(()),
        _ => Err(out.too_large()),
    }
}
