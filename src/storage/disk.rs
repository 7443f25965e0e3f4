//! The real disk: positioned calls, whole writes, and syncs that are tried once.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the room of the disk")]

use std::fs::File as StdFile;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::mmap::MapPermit;
use super::pool::{Pool, Slot, flags_of, retry};
use super::{
    Entry, EntryKind, File, LockGuard, Map, Open, Storage, Watch, bad_file, lock, parent, sync_error, watch,
};
use crate::error::{Error, Result};
use crate::sync::{Arc, Mutex, Weak};

/// Live maps of one disk: Linux allows 65,530 mappings per process, and they are not ours alone.
const MAPS_MAX: usize = 4_096;

/// Buffers given to the operating system in one call.
const PARTS_PER_CALL: usize = 64;

/// The files of the machine, with a bounded number of open descriptors.
#[derive(Debug)]
pub(crate) struct Disk {
    pool: Arc<Pool>,
}

impl Disk {
    /// A disk that keeps at most `max_open_files` descriptors, beyond those of files being used or not yet synced.
    pub(crate) fn new(max_open_files: usize) -> Disk {
        Disk { pool: Arc::new(Pool::new(max_open_files)) }
    }
}

/// An open file whose descriptor may be closed and opened again underneath.
#[derive(Debug)]
struct DiskFile {
    slot: Arc<Slot>,
    pool: Arc<Pool>,
    /// The last map made, to keep the file from being cut under it.
    map: Mutex<Weak<Map>>,
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        self.pool.forget(&self.slot);
    }
}

impl Storage for Disk {
    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        let err = |error: io::Error| Error::io(dir, "list", &error);
        self.pool.with_spare(|| {
            let mut entries = Vec::new();
            for entry in std::fs::read_dir(dir).map_err(err)? {
                let entry = entry.map_err(err)?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let kind = entry.file_type().map_err(err)?;
                if !kind.is_file() {
                    let kind = if kind.is_dir() { EntryKind::Directory } else { EntryKind::Other };
                    entries.push(Entry::other(name, kind));
                    continue;
                }
                match entry.metadata() {
                    Ok(meta) => entries.push(Entry {
                        name,
                        kind: EntryKind::File,
                        len: meta.len(),
                        file: (meta.dev(), meta.ino()),
                        links: meta.nlink(),
                        modified_ms: modified_ms(&meta),
                    }),
                    // Removed since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io(&entry.path(), "stat", &error)),
                }
            }
            Ok(entries)
        })
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        let make = || retry(|| rustix::fs::mkdir(dir, Mode::RWXU));
        let made = match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && parent(dir) != dir => {
                self.create_dir(parent(dir))?;
                make()
            }
            made => made,
        };
        match made {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match std::fs::metadata(dir) {
                Ok(meta) if meta.is_dir() => Ok(()),
                _ => Err(bad_file(dir, "not a directory")),
            },
            Err(error) => Err(Error::io(dir, "create directory", &error)),
        }
    }

    fn open(&self, path: &Path, how: Open) -> Result<Arc<dyn File>> {
        let path = absolute(path)?;
        let flags = flags_of(how != Open::Read)
            | match how {
                Open::Read | Open::Write => OFlags::empty(),
                // Emptied below: only once it is known to be no link.
                Open::Truncate => OFlags::CREATE,
                Open::New => OFlags::CREATE | OFlags::EXCL,
            };
        let slot = self.pool.open(path, how != Open::Read, flags)?;
        let file = DiskFile { slot, pool: Arc::clone(&self.pool), map: Mutex::default() };
        if how == Open::Truncate {
            file.set_len(0)?;
        }
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.pool.rename(absolute(from)?, absolute(to)?)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        match rustix::fs::link(from, to) {
            Ok(()) => Ok(true),
            Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(Error::io(from, "link", &errno.into())),
        }
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        std::fs::canonicalize(path).map_err(|error| Error::io(path, "resolve", &error))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.pool.remove_file(&absolute(path)?)
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        retry(|| rustix::fs::rmdir(dir)).map_err(|error| Error::io(dir, "remove directory", &error))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = self.pool.with_spare(|| {
            retry(|| rustix::fs::open(dir, flags, Mode::empty()))
                .map_err(|error| Error::io(dir, "open directory", &error))
        })?;
        sync_once(&handle.into(), true).map_err(|error| sync_error(dir, "sync directory", &error))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>> {
        self.pool.with_spare(|| lock::lock(path))
    }

    fn open_files(&self) -> usize {
        self.pool.open_count()
    }

    fn watch(&self) -> Box<dyn Watch> {
        watch::of_the_system()
    }
}

impl DiskFile {
    #[inline]
    fn with<R>(&self, op: &'static str, f: impl FnOnce(&StdFile) -> io::Result<R>) -> Result<R> {
        self.slot.with(&self.pool, |file| f(file).map_err(|error| self.error(op, &error)))
    }

    /// As `with`, for a call that changes the file: from then on the descriptor stays open until a sync succeeds.
    #[inline]
    fn with_write<R>(&self, op: &'static str, f: impl FnOnce(&StdFile) -> io::Result<R>) -> Result<R> {
        self.with(op, |file| {
            let result = f(file);
            self.slot.note_write();
            result
        })
    }

    #[cold]
    fn error(&self, op: &'static str, error: &io::Error) -> Error {
        Error::io(&self.slot.path(), op, error)
    }

    fn published(&self) -> u64 {
        self.map.lock().upgrade().map_or(0, |map| map.published())
    }
}

impl File for DiskFile {
    fn len(&self) -> Result<u64> {
        self.with("stat", |file| Ok(file.metadata()?.len()))
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> Result<usize> {
        self.with("read", |file| {
            let mut done = 0;
            while done < into.len() {
                match file.read_at(&mut into[done..], position + done as u64) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        })
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> Result<()> {
        debug_assert!(position >= self.published(), "a write below the published end of a map");
        self.with_write("write", |file| write_whole(file, bytes, position))
    }

    fn write_hint(&self, bytes: &[u8], position: u64) -> Result<()> {
        // Its descriptor may be closed at any time: nobody asks whether it reached the device.
        self.with("write", |file| write_whole(file, bytes, position))
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> Result<()> {
        debug_assert!(position >= self.published(), "a write below the published end of a map");
        self.with_write("write", |file| {
            write_parts(parts, position, |iov, at| rustix::io::pwritev(file, iov, at))
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if len < self.published() {
            let why = io::Error::new(io::ErrorKind::InvalidInput, "below the published end of a map");
            return Err(self.error("set length", &why));
        }
        self.with_write("set length", |file| file.set_len(len))
    }

    fn sync_data(&self) -> Result<()> {
        let slot = &self.slot;
        slot.with(&self.pool, |file| {
            let covered = slot.writes();
            sync_once(file, false).map_err(|error| sync_error(&slot.path(), "sync", &error))?;
            slot.note_sync(covered);
            Ok(())
        })
    }

    fn drop_cache(&self) -> Result<()> {
        #[cfg(target_os = "linux")]
        self.with("drop cache", |file| {
            Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
        })?;
        Ok(())
    }

    fn read_ahead(&self, range: Range<u64>) {
        #[cfg(target_os = "linux")]
        let _ = self.with("read ahead", |file| {
            let len = NonZeroU64::new(range.end.saturating_sub(range.start));
            Ok(rustix::fs::fadvise(file, range.start, len, rustix::fs::Advice::WillNeed)?)
        });
    }

    fn modified_ms(&self) -> Result<i64> {
        self.with("stat", |file| Ok(modified_ms(&file.metadata()?)))
    }

    fn set_modified_ms(&self, ms: i64) -> Result<()> {
        let time =
            Timespec { tv_sec: ms.div_euclid(1_000), tv_nsec: (ms.rem_euclid(1_000) * 1_000_000) as _ };
        let times =
            Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time };
        self.with("set time", |file| Ok(rustix::fs::futimens(file, &times)?))
    }

    fn map(&self, len: u64) -> Result<Option<Arc<Map>>> {
        let Some(permit) = MapPermit::take(&self.pool.maps, MAPS_MAX) else { return Ok(None) };
        let Some(map) = self.with("map", |file| Map::new(file, len, permit))? else { return Ok(None) };
        let map = Arc::new(map);
        *self.map.lock() = Arc::downgrade(&map);
        Ok(Some(map))
    }
}

fn modified_ms(meta: &std::fs::Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000).saturating_add(meta.mtime_nsec() / 1_000_000)
}

/// One sync, not even repeated when interrupted: a second one may report success for what the first one lost.
#[cfg(not(target_vendor = "apple"))]
fn sync_once(file: &StdFile, metadata: bool) -> io::Result<()> {
    let synced = if metadata { rustix::fs::fsync(file) } else { rustix::fs::fdatasync(file) };
    synced.map_err(io::Error::from)
}

/// One sync. Here only `F_FULLFSYNC` reaches the device, and it covers all.
#[cfg(target_vendor = "apple")]
fn sync_once(file: &StdFile, _metadata: bool) -> io::Result<()> {
    rustix::fs::fcntl_fullfsync(file).map_err(io::Error::from)
}

fn write_whole(file: &StdFile, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                position += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all parts, however much of them one call takes.
fn write_parts(
    mut parts: &[&[u8]],
    mut position: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    // Bytes of the first part that are written already.
    let mut skip = 0;
    loop {
        while parts.first().is_some_and(|part| part.len() == skip) {
            parts = &parts[1..];
            skip = 0;
        }
        let Some(first) = parts.first() else { return Ok(()) };
        let mut iov = [IoSlice::new(&[]); PARTS_PER_CALL];
        let count = parts.len().min(PARTS_PER_CALL);
        iov[0] = IoSlice::new(&first[skip..]);
        for (slice, part) in iov[1..count].iter_mut().zip(&parts[1..]) {
            *slice = IoSlice::new(part);
        }
        let mut wrote = match write(&iov[..count], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        position += wrote as u64;
        while let Some(part) = parts.first() {
            let rest = part.len() - skip;
            if wrote < rest {
                skip += wrote;
                break;
            }
            wrote -= rest;
            skip = 0;
            parts = &parts[1..];
        }
    }
}

/// Names are told apart by their whole path, so that a host which changes its directory changes no file of ours.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(path, "resolve", &error))
}

#[cfg(test)]
mod tests;
