//! The operations of a simulated disk: each is numbered, counted, and may be told to fail.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::CrashPoint;
use super::fault::{FaultOp, Faults, OpCounts, Struck};
use super::image::Image;
use super::state::{Child, FileOp, NameOp, ROOT, State, fail, parts};
use crate::error::{Error, Result};
use crate::storage::{bad_file, parent, sync_error};
use crate::time::{Clock, SystemClock};

/// The disk behind all clones.
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) seed: u64,
    /// Mutating and syncing operations so far.
    pub(super) ops: u64,
    pub(super) counts: OpCounts,
    pub(super) faults: Faults,
    /// The states before each operation, while they are recorded.
    pub(super) points: Option<Vec<CrashPoint>>,
    pub(super) capacity: Option<u64>,
    pub(super) locks: HashSet<Vec<String>>,
    pub(super) time_ms: Option<i64>,
    pub(super) sync_time: Duration,
    pub(super) hard_links: bool,
}

impl Inner {
    /// Begins an operation: numbers it, keeps the state before it, and tells whether it is to fail.
    pub(super) fn begin(&mut self, op: FaultOp) -> Option<Struck> {
        if !matches!(op, FaultOp::Read | FaultOp::Open) {
            if let Some(points) = &mut self.points {
                points.push(CrashPoint { op: self.ops, state: self.state.clone() });
            }
            self.ops += 1;
        }
        self.counts.count(op);
        self.faults.strike(op)
    }

    pub(super) fn begin_or_fail(&mut self, op: FaultOp, path: &Path, what: &'static str) -> Result<()> {
        match self.begin(op) {
            None => Ok(()),
            Some(struck) => Err(Error::io(path, what, &struck.kind.error())),
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        match self.time_ms {
            Some(ms) => ms,
            None if self.state.lying => i64::try_from(self.ops).unwrap_or(i64::MAX),
            None => SystemClock.now_ms(),
        }
    }

    pub(super) fn image(&self, id: u64) -> Option<&Image> {
        self.state.files.get(&id).map(|file| &file.now)
    }

    pub(super) fn find_file(&self, path: &Path, op: &'static str) -> Result<u64> {
        match self.state.find(path, op)? {
            Some(Child::File(id)) => Ok(id),
            Some(Child::Dir(_)) => Err(bad_file(path, "not a regular file: refused")),
            None => Err(fail(path, op, io::ErrorKind::NotFound)),
        }
    }

    /// All files with their paths.
    pub(super) fn walk(&self) -> Vec<(PathBuf, u64)> {
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
    pub(super) fn create(&mut self, path: &Path) -> Result<u64> {
        let (dir, name) = self.state.find_parent(path, "create")?;
        let (now, seq) = (self.now_ms(), self.ops);
        let id = self.state.new_file();
        let file = self.state.file(id);
        (file.links, file.modified_ms) = (1, now);
        self.state.change(dir, seq, NameOp::Link { name: name.into(), child: Child::File(id) });
        Ok(id)
    }

    /// Changes a file; a disk that lies remembers how.
    pub(super) fn change(&mut self, id: u64, op: FileOp) {
        let (seq, now, lying) = (self.ops, self.now_ms(), self.state.lying);
        let file = self.state.file(id);
        file.modified_ms = now;
        if lying {
            file.pending.push((seq, op.clone()));
        }
        file.apply(op);
    }

    /// How long a file of `len` bytes can become on the way to `end`.
    pub(super) fn room(&self, len: u64, end: u64) -> u64 {
        match self.capacity {
            Some(capacity) if end > len => end.min(len + capacity.saturating_sub(self.state.used())),
            _ => end,
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> Result<()> {
        let id = self.state.find_dir(dir, "sync directory")?;
        if let Some(struck) = self.begin(FaultOp::SyncDir) {
            return Err(sync_error(dir, "sync directory", &struck.kind.error()));
        }
        if self.state.lying {
            self.state.dir(id).sync();
        }
        Ok(())
    }

    pub(super) fn create_dir(&mut self, dir: &Path) -> Result<()> {
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
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
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
        if replaced == Some(child) {
            // Two names of one file: POSIX says that nothing happens.
            return Ok(());
        }
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

    pub(super) fn hard_link(&mut self, from: &Path, to: &Path) -> Result<bool> {
        const OP: &str = "link";
        if !self.hard_links {
            return Ok(false);
        }
        self.begin_or_fail(FaultOp::Create, from, OP)?;
        let id = self.find_file(from, OP)?;
        if self.state.find(to, OP)?.is_some() {
            return Err(fail(to, OP, io::ErrorKind::AlreadyExists));
        }
        let ((dir, name), seq) = (self.state.find_parent(to, OP)?, self.ops);
        self.state.change(dir, seq, NameOp::Link { name: name.into(), child: Child::File(id) });
        self.state.file(id).links += 1;
        Ok(true)
    }

    pub(super) fn remove(&mut self, path: &Path, want_dir: bool) -> Result<()> {
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
