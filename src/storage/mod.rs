//! Files and directories, and nothing of Kafka: the one road to the disk.
//!
//! Invariants:
//! - Every byte that the crate reads or writes passes through [`Storage`] and [`File`].
//! - A write is whole or an error; a short write is continued here, an interrupted call repeated.
//! - What is durable: file contents after `sync_data` of that file; names (create, rename, remove) after `sync_dir`
//!   of the directory. Nothing else is promised, and the simulated disk takes away the rest.
//! - A failed `sync_data` or `sync_dir` is reported once and never retried here.
//! - Bytes below a map's published end never change and the file is never cut below it; see [`Map`].
//! - A handle stays good when its name is renamed or removed, as long as it is in use.
//! - A file with several hard links is read, and never opened for writing: what it holds is another directory's too.

mod atomic;
mod disk;
mod lock;
mod mmap;
mod pool;
mod region;
// Its faults and crash states are for tests: without them only `in_memory` is used.
#[cfg_attr(not(feature = "testing"), allow(dead_code, unreachable_pub))]
mod sim;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

pub(crate) use atomic::{check_sum, copy_range, read_small, replace, replace_summed, write_new};
pub(crate) use disk::Disk;
pub(crate) use mmap::Map;
pub(crate) use region::Region;
#[cfg_attr(not(feature = "testing"), allow(unused_imports, unreachable_pub))]
pub use sim::{CrashPoint, FaultKind, FaultOp, OpCounts, SimDisk};
pub(crate) use watch::{Changes, Watch};

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name, without its directory. Names that are not UTF-8 are left out of listings: none of ours is.
    pub(crate) name: String,
    pub(crate) kind: EntryKind,
    /// Bytes, for a regular file.
    pub(crate) len: u64,
    /// Which file it is, for a regular file: names that are hard links of one another have the same.
    pub(crate) file: (u64, u64),
    /// How many names the file has.
    pub(crate) links: u64,
    /// When the file was last written, in milliseconds since 1970.
    pub(crate) modified_ms: i64,
}

impl Entry {
    /// One that is no regular file.
    fn other(name: String, kind: EntryKind) -> Entry {
        Entry { name, kind, len: 0, file: (0, 0), links: 1, modified_ms: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    /// A link, a socket, …: never followed, never opened.
    Other,
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// It must exist; it is only read.
    Read,
    /// It must exist; it is read and written.
    Write,
    /// Made when absent, emptied when there.
    Truncate,
    /// It must not exist.
    New,
}

/// A disk. Object-safe; called at most once per batch on the hot paths.
pub(crate) trait Storage: fmt::Debug + Send + Sync {
    /// All names in a directory, in no order.
    fn list(&self, dir: &Path) -> Result<Vec<Entry>>;
    /// Makes a directory, and its missing parents, unless it is there.
    fn create_dir(&self, dir: &Path) -> Result<()>;
    /// Opens a regular file. Symbolic links are refused, and for writing a file that has several names.
    fn open(&self, path: &Path, how: Open) -> Result<Arc<dyn File>>;
    /// Renames a file or directory, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Gives a file a second name, which must be free. `false`: this can not be had here (another file system, one
    /// without such links, too many of them); nothing was done.
    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool>;
    /// The path of what is there, without links and dots.
    fn canonical(&self, path: &Path) -> Result<PathBuf>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<()>;
    /// Takes the exclusive lock of a directory, whose lock file is `path`; released when the guard is dropped.
    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>>;
    /// Descriptors that are open now. A disk in memory has none.
    fn open_files(&self) -> usize {
        0
    }
    /// Somebody who is told of changes made by other processes, as far as that is to be had.
    fn watch(&self) -> Box<dyn Watch> {
        Box::new(watch::Timer::default())
    }
}

/// Keeps a directory's lock.
pub(crate) trait LockGuard: fmt::Debug + Send + Sync {}

/// An open file.
pub(crate) trait File: fmt::Debug + Send + Sync {
    /// Its length now.
    fn len(&self) -> Result<u64>;
    /// Reads from `position` until `into` is full or the file ends; returns how many bytes were read.
    fn read_at(&self, into: &mut [u8], position: u64) -> Result<usize>;
    /// Writes all of `bytes` at `position`, growing the file as needed. After an error any part may have been written.
    fn write_at(&self, bytes: &[u8], position: u64) -> Result<()>;
    /// Writes several buffers one after the other as a single operation.
    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> Result<()>;
    /// As `write_at`, for bytes that may be lost: they do not count as unsynced.
    fn write_hint(&self, bytes: &[u8], position: u64) -> Result<()> {
        self.write_at(bytes, position)
    }
    /// Cuts the file, or grows it with zeros.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Makes the contents, and the length, durable (`fdatasync`).
    fn sync_data(&self) -> Result<()>;
    /// Forgets what the operating system caches of this file, so that the next read shows the device's view.
    fn drop_cache(&self) -> Result<()>;
    /// Says that these bytes will be read soon, so that the device may begin. A hint: that it fails is not told.
    fn read_ahead(&self, _range: Range<u64>) {}
    /// When the file was last written, in milliseconds since 1970.
    fn modified_ms(&self) -> Result<i64>;
    /// Makes it look as if it had been written last then, in milliseconds since 1970.
    fn set_modified_ms(&self, ms: i64) -> Result<()>;
    /// Maps the first `len` bytes for reading; `len` may lie beyond the end of the file.
    /// `None` where maps are not to be had (the simulated disk, no address space left): use `read_at` then.
    fn map(&self, len: u64) -> Result<Option<Arc<Map>>>;
}

/// The error of a failed sync. Never [`ErrorKind::Full`], whatever the errno: what was written before may be lost.
#[cold]
fn sync_error(path: &Path, op: &'static str, error: &std::io::Error) -> Error {
    ErrorKind::Io { path: path.to_owned(), op, kind: error.kind(), code: error.raw_os_error() }.into()
}

/// A file that is not what we would have made: a link, a socket, too large.
#[cold]
fn bad_file(path: &Path, why: impl Into<String>) -> Error {
    ErrorKind::BadFile { file: path.to_owned(), why: why.into() }.into()
}

/// The directory that holds a name; of a bare name the current one.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
