//! A disk in memory: a plain one, or one that lies as real ones do and can be cut off at any moment.
//!
//! - `image`: bytes in shared pages
//! - `state`: files, names, and for each what is durable and what is not yet
//! - `crash`: what a power cut can leave
//! - `fault`: errors on demand

mod crash;
mod fault;
mod image;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

pub use crash::CrashPoint;
pub use fault::{FaultKind, FaultOp, OpCounts};

use self::fault::{Faults, Struck};
use self::image::Image;
use self::state::{Child, FileOp, NameOp, ROOT, State, fail, parts};
use super::{Entry, EntryKind, File, LockGuard, Map, Open, Storage, bad_file, parent, sync_error};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};
use crate::time::{Clock, SystemClock};

/// Largest simulated file.
const FILE_BYTES_MAX: u64 = 1 << 36;

/// A disk in memory. Clones are the same disk.
///
/// [`SimDisk::in_memory`] is for stores that need no disk. [`SimDisk::new`] is for tests: it loses what was not synced,
/// tears and reorders writes, forgets names, fails on demand, and shows every state that a crash can leave.
/// A relative path begins at the root.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Inner>>);

struct Inner {
    state: State,
    seed: u64,
    /// Mutating and syncing operations so far.
    ops: u64,
    counts: OpCounts,
    faults: Faults,
    /// The states before each operation, while they are recorded.
    points: Option<Vec<CrashPoint>>,
    capacity: Option<u64>,
    locks: HashSet<Vec<String>>,
    time_ms: Option<i64>,
}

impl SimDisk {
    /// A disk that keeps all until its last clone is dropped. Syncs cost nothing and mean nothing.
    pub fn in_memory() -> SimDisk {
        SimDisk::with(State::new(false), 0)
    }

    /// An empty disk that lies; `seed` decides whatever is left to chance.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::with(State::new(true), seed)
    }

    fn with(state: State, seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Inner {
            state,
            seed,
            ops: 0,
            counts: OpCounts::default(),
            faults: Faults::default(),
            points: None,
            capacity: None,
            locks: HashSet::new(),
            time_ms: None,
        })))
    }

    /// A disk found after a crash.
    fn of(state: State, seed: u64) -> SimDisk {
        SimDisk::with(state, seed)
    }

    /// Mutating and syncing operations so far: create, write, set length, sync, rename, remove.
    pub fn op_count(&self) -> u64 {
        self.0.lock().ops
    }

    /// What was asked of the disk so far.
    pub fn counts(&self) -> OpCounts {
        self.0.lock().counts
    }

    /// Begins to keep the state before every operation, forgetting those kept before; or stops.
    pub fn record_states(&self, on: bool) {
        self.0.lock().points = on.then(Vec::new);
    }

    /// The states before each operation since [`record_states`](Self::record_states), and the one of now.
    pub fn crash_points(&self) -> Vec<CrashPoint> {
        let inner = self.0.lock();
        let mut points = inner.points.clone().unwrap_or_default();
        points.push(CrashPoint { op: inner.ops, state: inner.state.clone() });
        points
    }

    /// A power cut now: one of the disks that it can leave, chosen by `seed`. This disk goes on undisturbed.
    pub fn crash(&self, seed: u64) -> SimDisk {
        let inner = self.0.lock();
        let point = CrashPoint { op: inner.ops, state: inner.state.clone() };
        let seed = crash::mix(seed, inner.seed);
        drop(inner);
        point.any(seed)
    }

    /// The death of the process: all that was written is there, locks are free, and what was not synced can still be
    /// lost by a later power cut. This disk goes on undisturbed.
    pub fn kill(&self) -> SimDisk {
        let inner = self.0.lock();
        let mut state = inner.state.clone();
        let open: Vec<u64> = state.files.iter().filter(|(_, f)| f.handles > 0).map(|(id, _)| *id).collect();
        for id in open {
            state.file(id).handles = 0;
            state.release(id);
        }
        let disk = SimDisk::with(state, inner.seed);
        disk.0.lock().capacity = inner.capacity;
        disk
    }

    /// Makes the `nth` operation of that sort from now (1 is the next) fail, and when `sticky` all after it.
    ///
    /// A failed write writes nothing; see [`fail_write_short`](Self::fail_write_short). A failed sync of a file loses what
    /// it was to save, as on Linux: reads still show it, later syncs succeed without saving it.
    pub fn fail_nth(&self, op: FaultOp, nth: u64, kind: FaultKind, sticky: bool) {
        self.0.lock().faults.add(op, nth, kind, sticky, 0);
    }

    /// Makes the `nth` write from now fail after `written` of its bytes.
    pub fn fail_write_short(&self, nth: u64, kind: FaultKind, written: usize) {
        self.0.lock().faults.add(FaultOp::Write, nth, kind, false, written);
    }

    /// Forgets the failures planned and not yet struck, and ends the sticky ones.
    pub fn clear_faults(&self) {
        self.0.lock().faults.clear();
    }

    /// Limits the sum of all files' lengths: what would grow beyond it fails with "no space", after the part that fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Sets the time that files written from now on show. Without it a lying disk counts operations.
    pub fn set_time_ms(&self, ms: i64) {
        self.0.lock().time_ms = Some(ms);
    }

    /// Flips bits of one byte, in the cache and on the device.
    pub fn rot(&self, path: impl AsRef<Path>, position: u64, mask: u8) -> Result<()> {
        let path = path.as_ref();
        let mut inner = self.0.lock();
        let id = inner.find_file(path, "rot")?;
        let file = inner.state.file(id);
        if position >= file.now.len() {
            return Err(fail(path, "rot", io::ErrorKind::UnexpectedEof));
        }
        for image in [&mut file.now, &mut file.durable] {
            let mut byte = [0];
            if image.read(&mut byte, position) == 1 {
                image.write(&[byte[0] ^ mask], position);
            }
        }
        Ok(())
    }

    /// All files, by their paths from the root, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        let inner = self.0.lock();
        let mut files: Vec<PathBuf> = inner.walk().into_iter().map(|(path, _)| path).collect();
        files.sort_unstable();
        files
    }

    /// The content of a file, as a program would read it.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let inner = self.0.lock();
        let id = inner.find_file(path.as_ref(), "read")?;
        Ok(inner.image(id).map(Image::to_vec).unwrap_or_default())
    }

    /// Plants a file, durably and uncounted, with the directories it needs.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = path.as_ref();
        let mut inner = self.0.lock();
        let (now, state) = (inner.now_ms(), &mut inner.state);
        let names = parts(path, "plant")?;
        let (name, dirs) =
            names.split_last().ok_or_else(|| fail(path, "plant", io::ErrorKind::InvalidInput))?;
        let mut at = ROOT;
        for dir in dirs {
            at = match state.dir(at).now.get(*dir) {
                Some(Child::Dir(id)) => *id,
                Some(Child::File(_)) => return Err(fail(path, "plant", io::ErrorKind::NotADirectory)),
                None => {
                    let id = state.new_dir();
                    state.change(at, 0, NameOp::Link { name: (*dir).into(), child: Child::Dir(id) });
                    state.dir(at).sync();
                    id
                }
            };
        }
        let id = match state.dir(at).now.get(*name) {
            Some(Child::File(id)) => *id,
            Some(Child::Dir(_)) => return Err(fail(path, "plant", io::ErrorKind::IsADirectory)),
            None => {
                let id = state.new_file();
                state.change(at, 0, NameOp::Link { name: (*name).into(), child: Child::File(id) });
                id
            }
        };
        state.dir(at).sync();
        let lying = state.lying;
        let file = state.file(id);
        file.now.set_len(0);
        file.now.write(bytes.as_ref(), 0);
        file.lost.clear();
        (file.linked, file.modified_ms) = (true, now);
        if lying {
            file.sync();
        }
        Ok(())
    }

    /// A hash of all names and contents, as a program would read them: to look at each state once.
    pub fn content_hash(&self) -> u64 {
        let inner = self.0.lock();
        let mut files = inner.walk();
        files.sort_unstable();
        let mut hasher = DefaultHasher::new();
        for (path, id) in files {
            path.hash(&mut hasher);
            if let Some(image) = inner.image(id) {
                image.hash_changes(&Image::default(), &mut hasher);
            }
        }
        hasher.finish()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.0.lock();
        let mut out = f.debug_struct("SimDisk");
        out.field("seed", &inner.seed)
            .field("ops", &inner.ops)
            .field("files", &inner.state.files.len())
            .finish()
    }
}

impl Inner {
    /// Begins an operation: numbers it, keeps the state before it, and tells whether it is to fail.
    fn begin(&mut self, op: FaultOp) -> Option<Struck> {
        if !matches!(op, FaultOp::Read | FaultOp::Open) {
            if let Some(points) = &mut self.points {
                points.push(CrashPoint { op: self.ops, state: self.state.clone() });
            }
            self.ops += 1;
        }
        self.counts.count(op);
        self.faults.strike(op)
    }

    fn begin_or_fail(&mut self, op: FaultOp, path: &Path, what: &'static str) -> Result<()> {
        match self.begin(op) {
            None => Ok(()),
            Some(struck) => Err(Error::io(path, what, &struck.kind.error())),
        }
    }

    fn now_ms(&self) -> i64 {
        match self.time_ms {
            Some(ms) => ms,
            None if self.state.lying => i64::try_from(self.ops).unwrap_or(i64::MAX),
            None => SystemClock.now_ms(),
        }
    }

    fn image(&self, id: u64) -> Option<&Image> {
        self.state.files.get(&id).map(|file| &file.now)
    }

    fn find_file(&self, path: &Path, op: &'static str) -> Result<u64> {
        match self.state.find(path, op)? {
            Some(Child::File(id)) => Ok(id),
            Some(Child::Dir(_)) => Err(bad_file(path, "not a regular file: refused")),
            None => Err(fail(path, op, io::ErrorKind::NotFound)),
        }
    }

    /// All files with their paths.
    fn walk(&self) -> Vec<(PathBuf, u64)> {
        let (mut files, mut todo) = (Vec::new(), vec![(PathBuf::from("/"), ROOT)]);
        while let Some((path, id)) = todo.pop() {
            for (name, child) in self.state.dirs.get(&id).iter().flat_map(|dir| &dir.now) {
                let path = path.join(&**name);
                match child {
                    Child::File(id) => files.push((path, *id)),
                    Child::Dir(id) => todo.push((path, *id)),
                }
            }
        }
        files
    }

    /// Makes a file; the name must be free.
    fn create(&mut self, path: &Path) -> Result<u64> {
        let (dir, name) = self.state.find_parent(path, "create")?;
        let (now, seq) = (self.now_ms(), self.ops);
        let id = self.state.new_file();
        let file = self.state.file(id);
        (file.linked, file.modified_ms) = (true, now);
        self.state.change(dir, seq, NameOp::Link { name: name.into(), child: Child::File(id) });
        Ok(id)
    }

    /// Changes a file; a disk that lies remembers how.
    fn change(&mut self, id: u64, op: FileOp) {
        let (seq, now, lying) = (self.ops, self.now_ms(), self.state.lying);
        let file = self.state.file(id);
        file.modified_ms = now;
        if lying {
            file.pending.push((seq, op.clone()));
        }
        file.apply(op);
    }

    /// How long a file of `len` bytes can become on the way to `end`.
    fn room(&self, len: u64, end: u64) -> u64 {
        match self.capacity {
            Some(capacity) if end > len => end.min(len + capacity.saturating_sub(self.state.used())),
            _ => end,
        }
    }

    fn sync_dir(&mut self, dir: &Path) -> Result<()> {
        let id = self.state.find_dir(dir, "sync directory")?;
        if let Some(struck) = self.begin(FaultOp::SyncDir) {
            return Err(sync_error(dir, "sync directory", &struck.kind.error()));
        }
        if self.state.lying {
            self.state.dir(id).sync();
        }
        Ok(())
    }

    fn create_dir(&mut self, dir: &Path) -> Result<()> {
        match self.state.find(dir, "create directory") {
            Ok(Some(Child::Dir(_))) => return Ok(()),
            Ok(Some(Child::File(_))) => return Err(bad_file(dir, "not a directory")),
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        self.create_dir(parent(dir))?;
        self.begin_or_fail(FaultOp::Create, dir, "create directory")?;
        let (parent_id, name) = self.state.find_parent(dir, "create directory")?;
        let (id, seq) = (self.state.new_dir(), self.ops);
        self.state.change(parent_id, seq, NameOp::Link { name: name.into(), child: Child::Dir(id) });
        self.sync_dir(parent(dir))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        const OP: &str = "rename";
        self.begin_or_fail(FaultOp::Rename, from, OP)?;
        let child = self.state.find(from, OP)?.ok_or_else(|| fail(from, OP, io::ErrorKind::NotFound))?;
        let (from_dir, from_name) = self.state.find_parent(from, OP)?;
        let (to_dir, to_name) = self.state.find_parent(to, OP)?;
        if (from_dir, from_name) == (to_dir, to_name) {
            return Ok(());
        }
        if parts(to, OP)?.starts_with(&parts(from, OP)?) {
            return Err(fail(from, OP, io::ErrorKind::InvalidInput));
        }
        let replaced = self.state.find(to, OP)?;
        match (child, replaced) {
            (Child::File(_), Some(Child::Dir(_))) => return Err(fail(to, OP, io::ErrorKind::IsADirectory)),
            (Child::Dir(_), Some(Child::File(_))) => return Err(fail(to, OP, io::ErrorKind::NotADirectory)),
            (_, Some(Child::Dir(id))) if !self.state.dir(id).now.is_empty() => {
                return Err(fail(to, OP, io::ErrorKind::DirectoryNotEmpty));
            }
            _ => {}
        }
        let (seq, to_name) = (self.ops, to_name.into());
        if from_dir == to_dir {
            let op = NameOp::Rename { from: from_name.into(), to: to_name, child };
            self.state.change(from_dir, seq, op);
        } else {
            // Two directories are not durable together: either half may be lost.
            self.state.change(to_dir, seq, NameOp::Link { name: to_name, child });
            self.state.change(from_dir, seq, NameOp::Unlink { name: from_name.into() });
        }
        if let Some(replaced) = replaced {
            self.state.unlinked(replaced);
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path, want_dir: bool) -> Result<()> {
        const OP: &str = "remove";
        self.begin_or_fail(FaultOp::Remove, path, OP)?;
        let child = self.state.find(path, OP)?.ok_or_else(|| fail(path, OP, io::ErrorKind::NotFound))?;
        match child {
            Child::File(_) if want_dir => return Err(fail(path, OP, io::ErrorKind::NotADirectory)),
            Child::Dir(_) if !want_dir => return Err(fail(path, OP, io::ErrorKind::IsADirectory)),
            Child::Dir(id) if !self.state.dir(id).now.is_empty() => {
                return Err(fail(path, OP, io::ErrorKind::DirectoryNotEmpty));
            }
            _ => {}
        }
        let ((dir, name), seq) = (self.state.find_parent(path, OP)?, self.ops);
        self.state.change(dir, seq, NameOp::Unlink { name: name.into() });
        self.state.unlinked(child);
        Ok(())
    }
}

impl Storage for SimDisk {
    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        let inner = self.0.lock();
        let id = inner.state.find_dir(dir, "list")?;
        let names = inner.state.dirs.get(&id).map(|dir| &dir.now);
        let entry = |(name, child): (&Arc<str>, &Child)| {
            let (kind, len) = match child {
                Child::File(id) => (EntryKind::File, inner.image(*id).map_or(0, Image::len)),
                Child::Dir(_) => (EntryKind::Directory, 0),
            };
            Entry { name: name.to_string(), kind, len }
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

    fn map(&self, _len: u64) -> Result<Option<Arc<Map>>> {
        Ok(None)
    }
}
