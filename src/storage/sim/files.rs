//! The simulated disk as the crate sees it: `Storage` and `File`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::SimDisk;
use super::fault::{FaultKind, FaultOp};
use super::image::Image;
use super::inner::Inner;
use super::state::{Child, FileOp, fail, parts};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Entry, EntryKind, File, LockGuard, Map, Open, Storage, bad_file, sync_error};
use crate::sync::{Arc, Mutex};

/// Largest simulated file.
const FILE_BYTES_MAX: u64 = 1 << 36;

impl Storage for SimDisk {
    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        let inner = self.0.lock();
        let id = inner.state.find_dir(dir, "list")?;
        let names = inner.state.dirs.get(&id).map(|dir| &dir.now);
        let entry = |(name, child): (&Arc<str>, &Child)| {
            let name = name.to_string();
            let file = match child {
                Child::File(id) => inner.state.files.get(id).map(|file| (*id, file)),
                Child::Dir(_) => None,
            };
            match file {
                Some((id, file)) => Entry {
                    name,
                    kind: EntryKind::File,
                    len: file.now.len(),
                    file: (0, id),
                    links: file.links,
                    modified_ms: file.modified_ms,
                },
                None => Entry::other(name, EntryKind::Directory),
            }
        };
        Ok(names.into_iter().flatten().map(entry).collect())
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.0.lock().create_dir(dir)
    }

    fn open(&self, path: &Path, how: Open) -> Result<Arc<dyn File>> {
        let mut inner = self.0.lock();
        let found = inner.state.find(path, "open")?;
        let id = match (found, how) {
            (Some(_), Open::New) => return Err(fail(path, "open", io::ErrorKind::AlreadyExists)),
            (Some(Child::Dir(_)), _) => return Err(bad_file(path, "not a regular file: refused")),
            (Some(Child::File(id)), _) => {
                inner.begin_or_fail(FaultOp::Open, path, "open")?;
                let links = inner.state.file(id).links;
                if how != Open::Read && links > 1 {
                    return Err(bad_file(path, format!("{links} hard links: refused")));
                }
                if how == Open::Truncate {
                    inner.begin_or_fail(FaultOp::SetLen, path, "set length")?;
                    inner.change(id, FileOp::SetLen(0));
                }
                id
            }
            (None, Open::Read | Open::Write) => return Err(fail(path, "open", io::ErrorKind::NotFound)),
            (None, Open::New | Open::Truncate) => {
                inner.begin_or_fail(FaultOp::Create, path, "create")?;
                inner.create(path)?
            }
        };
        inner.state.file(id).handles += 1;
        let writable = how != Open::Read;
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.0), id, path: path.to_owned(), writable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.lock().rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        self.0.lock().hard_link(from, to)
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        const OP: &str = "resolve";
        match self.0.lock().state.find(path, OP)? {
            Some(_) => Ok(Path::new("/").join(parts(path, OP)?.iter().collect::<PathBuf>())),
            None => Err(fail(path, OP, io::ErrorKind::NotFound)),
        }
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.0.lock().remove(path, false)
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.0.lock().remove(dir, true)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.0.lock().sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>> {
        let mut inner = self.0.lock();
        let key: Vec<String> = parts(path, "lock")?.into_iter().map(str::to_owned).collect();
        if inner.locks.contains(&key) {
            let kind = ErrorKind::Locked { path: path.to_owned(), holder: "this process".to_owned() };
            return Err(kind.into());
        }
        match inner.state.find(path, "lock")? {
            Some(Child::File(_)) => inner.begin_or_fail(FaultOp::Open, path, "open")?,
            Some(Child::Dir(_)) => return Err(bad_file(path, "not a regular file: refused")),
            None => {
                inner.begin_or_fail(FaultOp::Create, path, "create")?;
                inner.create(path)?;
            }
        }
        inner.locks.insert(key.clone());
        Ok(Box::new(SimLock { disk: self.clone(), key }))
    }
}

/// A lock of a simulated disk.
#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    key: Vec<String>,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.0.lock().locks.remove(&self.key);
    }
}

/// An open file of a simulated disk; it outlives its name.
struct SimFile {
    disk: Arc<Mutex<Inner>>,
    id: u64,
    path: PathBuf,
    writable: bool,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut inner = self.disk.lock();
        inner.state.file(self.id).handles -= 1;
        inner.state.release(self.id);
    }
}

impl SimFile {
    fn check(&self, op: &'static str, end: Option<u64>) -> Result<u64> {
        match end {
            _ if !self.writable => Err(fail(&self.path, op, io::ErrorKind::PermissionDenied)),
            Some(end) if end <= FILE_BYTES_MAX => Ok(end),
            _ => Err(fail(&self.path, op, io::ErrorKind::FileTooLarge)),
        }
    }
}

impl File for SimFile {
    fn len(&self) -> Result<u64> {
        Ok(self.disk.lock().image(self.id).map_or(0, Image::len))
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> Result<usize> {
        let mut inner = self.disk.lock();
        inner.begin_or_fail(FaultOp::Read, &self.path, "read")?;
        Ok(inner.image(self.id).map_or(0, |image| image.read(into, position)))
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> Result<()> {
        self.write_all_at(&[bytes], position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> Result<()> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let end = self.check("write", position.checked_add(total as u64))?;
        let mut inner = self.disk.lock();
        let struck = inner.begin(FaultOp::Write);
        let mut allowed = struck.as_ref().map_or(total, |struck| struck.written.min(total));
        let len = inner.image(self.id).map_or(0, Image::len);
        let room = inner.room(len, end).saturating_sub(position);
        allowed = allowed.min(usize::try_from(room).unwrap_or(usize::MAX));
        inner.counts.bytes_written += allowed as u64;
        if inner.state.lying {
            let mut bytes = parts.concat();
            bytes.truncate(allowed);
            if !bytes.is_empty() {
                inner.change(self.id, FileOp::Write { position, bytes: bytes.into() });
            }
        } else {
            let now = inner.now_ms();
            let file = inner.state.file(self.id);
            file.modified_ms = now;
            let (mut at, mut left) = (position, allowed);
            for part in parts {
                let part = &part[..part.len().min(left)];
                file.now.write(part, at);
                at += part.len() as u64;
                left -= part.len();
            }
        }
        match struck {
            Some(struck) => Err(Error::io(&self.path, "write", &struck.kind.error())),
            None if allowed < total => Err(Error::io(&self.path, "write", &FaultKind::NoSpace.error())),
            None => Ok(()),
        }
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.check("set length", Some(len))?;
        let mut inner = self.disk.lock();
        inner.begin_or_fail(FaultOp::SetLen, &self.path, "set length")?;
        let now = inner.image(self.id).map_or(0, Image::len);
        if inner.room(now, len) < len {
            return Err(Error::io(&self.path, "set length", &FaultKind::NoSpace.error()));
        }
        inner.change(self.id, FileOp::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let time = self.disk.lock().sync_time;
        if !time.is_zero() {
            std::thread::sleep(time);
        }
        let mut inner = self.disk.lock();
        let struck = inner.begin(FaultOp::SyncData);
        let (seq, lying) = (inner.ops, inner.state.lying);
        if lying {
            let file = inner.state.file(self.id);
            match &struck {
                None => file.sync(),
                Some(_) => file.fail_sync(seq),
            }
        }
        match struck {
            None => Ok(()),
            Some(struck) => Err(sync_error(&self.path, "sync", &struck.kind.error())),
        }
    }

    fn drop_cache(&self) -> Result<()> {
        let mut inner = self.disk.lock();
        if inner.state.lying {
            inner.state.file(self.id).drop_cache();
        }
        Ok(())
    }

    fn modified_ms(&self) -> Result<i64> {
        Ok(self.disk.lock().state.files.get(&self.id).map_or(0, |file| file.modified_ms))
    }

    fn set_modified_ms(&self, ms: i64) -> Result<()> {
        self.disk.lock().state.file(self.id).modified_ms = ms;
        Ok(())
    }

    fn map(&self, _len: u64) -> Result<Option<Arc<Map>>> {
        Ok(None)
    }
}
