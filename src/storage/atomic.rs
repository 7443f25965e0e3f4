//! Small files that are replaced whole: a crash leaves the old or the new content, never a mix, never nothing.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{File, Open, Storage, bad_file, parent};
use crate::error::{Error, Result};
use crate::limits::SMALL_FILE_BYTES_MAX;

/// Replaces the content of `path`, durably: `<name>.tmp` is written, synced, renamed, and the directory synced.
pub(crate) fn replace(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = tmp_of(path);
    let written = (|| {
        let file = storage.open(&tmp, Open::Truncate)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        drop(file);
        storage.rename(&tmp, path)
    })();
    if let Err(error) = written {
        // On a full disk its bytes are wanted back at once; what is left is overwritten by the next replace.
        let _ = storage.remove_file(&tmp);
        return Err(error);
    }
    storage.sync_dir(parent(path))
}

/// Writes a small file that nobody relies on before the caller has synced the directory: its content is durable then,
/// but until then it may be there in part.
pub(crate) fn write_new(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = storage.open(path, Open::Truncate)?;
    file.write_at(bytes, 0)?;
    file.sync_data()
}

/// Replaces the content of `path`, durably, by text and a last line with its CRC-32.
pub(crate) fn replace_summed(storage: &dyn Storage, path: &Path, mut text: String) -> Result<()> {
    let sum = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("crc32 {sum:08x}\n"));
    replace(storage, path, text.as_bytes())
}

/// The text that [`replace_summed`] was given, or why it is not that.
pub(crate) fn check_sum(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let end = text.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
    let (body, last) = text.split_at_checked(end).unwrap_or_default();
    let sum = last.trim_end().strip_prefix("crc32 ").and_then(|hex| u32::from_str_radix(hex, 16).ok());
    if sum == Some(crc32fast::hash(body.as_bytes())) { Ok(body) } else { Err("its checksum is wrong") }
}

/// Reads a small file whole; `None` when there is none.
pub(crate) fn read_small(storage: &dyn Storage, path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match storage.open(path, Open::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    let Some(len) = usize::try_from(len).ok().filter(|_| len <= SMALL_FILE_BYTES_MAX) else {
        return Err(bad_file(path, format!("{len} bytes, at most {SMALL_FILE_BYTES_MAX} are read")));
    };
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Copies the bytes of `range` to the same place in another file; an error if they are not all there.
pub(crate) fn copy_range(from: &dyn File, to: &dyn File, range: Range<u64>, path: &Path) -> Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut at = range.start;
    let mut piece = vec![0; usize::try_from(PIECE_BYTES.min(range.end.saturating_sub(at))).unwrap_or(0)];
    while at < range.end {
        let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(piece.len());
        let piece = piece.get_mut(..want).unwrap_or_default();
        let read = from.read_at(piece, at)?;
        if read < want {
            return Err(Error::io(path, "copy", &std::io::ErrorKind::UnexpectedEof.into()));
        }
        to.write_at(piece, at)?;
        at += read as u64;
    }
    Ok(())
}

fn tmp_of(path: &Path) -> PathBuf {
    let mut tmp = OsString::from(path);
    tmp.push(".tmp");
    tmp.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::{Disk, FaultKind, FaultOp, SimDisk};

    const PATH: &str = "/s/checkpoint";

    #[test]
    fn round_trip_on_the_real_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, path) = (Disk::new(4), dir.path().join("checkpoint"));
        assert_eq!(read_small(&disk, &path).unwrap(), None);
        replace(&disk, &path, b"one").unwrap();
        replace(&disk, &path, b"").unwrap();
        assert_eq!(read_small(&disk, &path).unwrap(), Some(vec![]));
        replace(&disk, &path, b"three").unwrap();
        assert_eq!(read_small(&disk, &path).unwrap().as_deref(), Some(&b"three"[..]));
        assert_eq!(disk.list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn too_large_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, path) = (Disk::new(4), dir.path().join("huge"));
        disk.open(&path, Open::New).unwrap().set_len(SMALL_FILE_BYTES_MAX + 1).unwrap();
        let error = read_small(&disk, &path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BadFile { .. }), "{error}");
    }

    #[test]
    fn every_crash_leaves_the_old_or_the_new_content() {
        let sim = SimDisk::new(7);
        sim.write_file(PATH, b"old content").unwrap();
        sim.record_states(true);
        replace(&sim, Path::new(PATH), &[b'n'; 9000]).unwrap();
        let (mut old, mut new, points) = (0, 0, sim.crash_points());
        let last = points.len() - 1;
        for (i, point) in points.iter().enumerate() {
            for disk in point.states(500, 1) {
                match disk.read_file(PATH).unwrap() {
                    bytes if bytes == b"old content" && i < last => old += 1,
                    bytes if bytes == [b'n'; 9000] => new += 1,
                    bytes => panic!("op {}: {} bytes", point.op(), bytes.len()),
                }
            }
        }
        assert!(old > 0 && new > 0);
    }

    #[test]
    fn every_failure_leaves_the_old_or_the_new_content() {
        for nth in 1.. {
            let sim = SimDisk::new(nth);
            sim.write_file(PATH, b"old").unwrap();
            sim.fail_nth(FaultOp::Any, nth, FaultKind::Io, true);
            let done = replace(&sim, Path::new(PATH), b"new").is_ok();
            sim.clear_faults();
            let bytes = read_small(&sim, Path::new(PATH)).unwrap().unwrap();
            assert!(if done { bytes == b"new" } else { bytes == b"old" || bytes == b"new" });
            if done {
                break;
            }
        }
    }

    #[test]
    fn a_full_disk_keeps_the_old_content_and_leaves_nothing_behind() {
        let sim = SimDisk::new(1);
        sim.write_file(PATH, b"old").unwrap();
        sim.set_capacity(Some(10));
        let error = replace(&sim, Path::new(PATH), &[1; 100]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Full { .. }), "{error}");
        assert_eq!(sim.files(), [PathBuf::from(PATH)]);
        assert_eq!(sim.read_file(PATH).unwrap(), b"old");
    }
}
