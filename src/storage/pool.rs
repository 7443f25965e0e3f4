//! The descriptors of a disk: at most so many open, the least recently used given up first, none that is still needed.
//!
//! Lock order: the pool, then a slot. Who holds a slot never asks for the pool, so a slow call on one file stops no one
//! but those who open, rename or remove that file's name. The pool's lock is also the lock of names: it is held over
//! rename and remove, so that no descriptor is reopened by a name that is moving.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the room of the disk")]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::{Bound, Deref};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::bad_file;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, RwLock};

/// What a handle keeps while its descriptor comes and goes.
#[derive(Debug)]
pub(super) struct Slot {
    /// Read-locked while in use, which is what keeps it from being closed.
    file: RwLock<Option<File>>,
    path: Mutex<Arc<Path>>,
    id: (u64, u64),
    writable: bool,
    /// Writes that ended, and how many of them the last good sync covers: apart, the file is dirty.
    written: AtomicU64,
    synced: AtomicU64,
    /// The name is gone or going: a closed descriptor could not be had again.
    pinned: AtomicBool,
    /// The pool's tick at the last use.
    used: AtomicU64,
}

impl Slot {
    pub(super) fn path(&self) -> Arc<Path> {
        Arc::clone(&self.path.lock())
    }

    /// To be called when a write ended, well or not, and before the descriptor is let go.
    pub(super) fn note_write(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    /// The writes that a sync which begins now will cover.
    pub(super) fn writes(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn note_sync(&self, covered: u64) {
        self.synced.fetch_max(covered, Ordering::AcqRel);
    }

    /// How many names a file has that was opened again, if it is this slot's.
    fn check(&self, path: &Path, file: &File) -> Result<u64> {
        match check(path, file, false)? {
            (id, links) if id == self.id => Ok(links),
            _ => Err(bad_file(path, "another file took its place while it was in use")),
        }
    }

    fn is_dirty(&self) -> bool {
        self.synced.load(Ordering::Acquire) != self.written.load(Ordering::Acquire)
    }

    /// Calls `f` with the descriptor, opening it first where it was given up.
    #[inline]
    pub(super) fn with<R>(self: &Arc<Self>, pool: &Pool, f: impl FnOnce(&File) -> Result<R>) -> Result<R> {
        {
            let guard = self.file.read();
            if let Some(file) = &*guard {
                let tick = pool.tick.load(Ordering::Relaxed);
                if self.used.load(Ordering::Relaxed) != tick {
                    self.used.store(tick, Ordering::Relaxed);
                }
                return f(file);
            }
        }
        let guard = pool.reopen(self)?;
        match &*guard {
            Some(file) => f(file),
            None => Err(ErrorKind::Closed.into()),
        }
    }
}

/// All descriptors of one disk.
#[derive(Debug)]
pub(super) struct Pool {
    cap: usize,
    /// Counts opens; a slot's last use is told in it, so that a use costs no shared write.
    tick: AtomicU64,
    names: Mutex<Names>,
    pub(super) maps: Arc<AtomicUsize>,
}

/// Which slots live under which name, and which of them are open.
#[derive(Debug, Default)]
struct Names {
    by_path: BTreeMap<Arc<Path>, Vec<Arc<Slot>>>,
    /// By the slot's address.
    open: HashMap<usize, Arc<Slot>>,
}

fn address(slot: &Arc<Slot>) -> usize {
    Arc::as_ptr(slot).addr()
}

impl Pool {
    pub(super) fn new(cap: usize) -> Pool {
        Pool { cap: cap.max(1), tick: AtomicU64::new(1), names: Mutex::default(), maps: Arc::default() }
    }

    /// Opens a file for a new handle.
    pub(super) fn open(&self, path: PathBuf, writable: bool, flags: OFlags) -> Result<Arc<Slot>> {
        let mut names = self.names.lock();
        let file = self.open_file(&mut names, &path, flags)?;
        let (id, _) = check(&path, &file, writable)?;
        let path: Arc<Path> = path.into();
        let slot = Arc::new(Slot {
            file: RwLock::new(Some(file)),
            path: Mutex::new(Arc::clone(&path)),
            id,
            writable,
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            pinned: AtomicBool::new(false),
            used: AtomicU64::new(self.next_tick()),
        });
        // Most names have one.
        names.by_path.entry(path).or_insert_with(|| Vec::with_capacity(1)).push(Arc::clone(&slot));
        names.open.insert(address(&slot), Arc::clone(&slot));
        Ok(slot)
    }

    /// Forgets the slot of a dropped handle; its descriptor is closed by the caller's drop.
    pub(super) fn forget(&self, slot: &Arc<Slot>) {
        let mut names = self.names.lock();
        names.open.remove(&address(slot));
        names.unname(slot);
    }

    fn next_tick(&self) -> u64 {
        self.tick.fetch_add(1, Ordering::Relaxed) + 1
    }

    #[cold]
    fn reopen<'a>(&self, slot: &'a Arc<Slot>) -> Result<impl Deref<Target = Option<File>> + use<'a>> {
        let mut names = self.names.lock();
        if slot.file.read().is_none() {
            self.restore(&mut names, slot)?;
        }
        // Under the lock of names, which every close needs: it can not be given up again in between.
        Ok(slot.file.read())
    }

    /// Gives a slot its descriptor back. The name may lead elsewhere by now: then the handle is lost, and says so.
    fn restore(&self, names: &mut Names, slot: &Arc<Slot>) -> Result<()> {
        let path = slot.path();
        let mut file = self.open_file(names, &path, flags_of(slot.writable))?;
        let links = slot.check(&path, &file)?;
        if slot.writable && links > 1 {
            // It got a second name since it was opened: from now on it is only read and synced.
            file = self.open_file(names, &path, flags_of(false))?;
            slot.check(&path, &file)?;
        }
        slot.used.store(self.next_tick(), Ordering::Relaxed);
        *slot.file.write() = Some(file);
        names.open.insert(address(slot), Arc::clone(slot));
        Ok(())
    }

    fn open_file(&self, names: &mut Names, path: &Path, flags: OFlags) -> Result<File> {
        if names.open.len() >= self.cap {
            // Some at a time, so that the search is paid once for many opens.
            let over = names.open.len() + 1 - self.cap;
            names.close(over + self.cap / 16);
        }
        let mut opened = open_raw(path, flags);
        if let Err(Errno::MFILE | Errno::NFILE) = opened {
            names.close_half();
            opened = open_raw(path, flags);
        }
        opened.map_err(|errno| match errno {
            Errno::LOOP => bad_file(path, "a symbolic link: refused"),
            Errno::ISDIR | Errno::NXIO => bad_file(path, "not a regular file: refused"),
            errno => Error::io(path, "open", &errno.into()),
        })
    }

    /// Runs a call that needs a descriptor for a moment; out of descriptors, gives some up and tries once more.
    pub(super) fn with_spare<R>(&self, call: impl Fn() -> Result<R>) -> Result<R> {
        match call() {
            Err(error) if matches!(error.kind(), ErrorKind::TooManyOpenFiles { .. }) => {
                self.names.lock().close_half();
                call()
            }
            result => result,
        }
    }

    /// Renames a file or directory and tells the handles below it.
    pub(super) fn rename(&self, from: PathBuf, to: PathBuf) -> Result<()> {
        let mut names = self.names.lock();
        if from == to {
            return rename_raw(&from, &to);
        }
        let replaced = self.pin(&mut names, &to)?;
        if let Err(error) = rename_raw(&from, &to) {
            unpin(&replaced);
            return Err(error);
        }
        names.by_path.remove(to.as_path());
        let from_on = names.by_path.range::<Path, _>((Bound::Included(from.as_path()), Bound::Unbounded));
        let below = from_on.take_while(|(path, _)| path.starts_with(&from));
        let moved: Vec<Arc<Path>> = below.map(|(path, _)| Arc::clone(path)).collect();
        for old in moved {
            let Some(slots) = names.by_path.remove(&old) else { continue };
            let new: Arc<Path> = match old.strip_prefix(&from) {
                Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest).into(),
                _ => to.as_path().into(),
            };
            for slot in &slots {
                *slot.path.lock() = Arc::clone(&new);
            }
            names.by_path.entry(new).or_default().extend(slots);
        }
        Ok(())
    }

    /// Removes a file; its handles keep their descriptors.
    pub(super) fn remove_file(&self, path: &Path) -> Result<()> {
        let mut names = self.names.lock();
        let removed = self.pin(&mut names, path)?;
        if let Err(error) = retry(|| rustix::fs::unlink(path)) {
            unpin(&removed);
            return Err(Error::io(path, "remove", &error));
        }
        names.by_path.remove(path);
        Ok(())
    }

    /// Opens and keeps the descriptors of all handles of a name that is about to go.
    fn pin(&self, names: &mut Names, path: &Path) -> Result<Vec<Arc<Slot>>> {
        let slots = names.by_path.get(path).cloned().unwrap_or_default();
        for (i, slot) in slots.iter().enumerate() {
            slot.pinned.store(true, Ordering::Release);
            if slot.file.read().is_some() {
                continue;
            }
            match self.restore(names, slot) {
                // Lost before: nothing to keep, and no reason to refuse.
                Err(error) if error.is_not_found() || error.is_corrupt() => {}
                Err(error) => {
                    unpin(&slots[..=i]);
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        Ok(slots)
    }

    pub(super) fn open_count(&self) -> usize {
        self.names.lock().open.len()
    }

    #[cfg(test)]
    pub(super) fn name_count(&self) -> usize {
        self.names.lock().by_path.len()
    }
}

fn unpin(slots: &[Arc<Slot>]) {
    for slot in slots {
        slot.pinned.store(false, Ordering::Release);
    }
}

impl Names {
    /// Closes up to `n` descriptors, least recently used first: none that is in use, dirty or without a name.
    fn close(&mut self, n: usize) {
        let idle = self.open.values().filter(|slot| !slot.is_dirty() && !slot.pinned.load(Ordering::Acquire));
        let mut idle: Vec<(u64, Arc<Slot>)> =
            idle.map(|slot| (slot.used.load(Ordering::Relaxed), Arc::clone(slot))).collect();
        idle.sort_unstable_by_key(|(used, _)| *used);
        let mut closed = 0;
        for (_, slot) in idle {
            if closed == n {
                break;
            }
            let Some(mut file) = slot.file.try_write() else { continue };
            // Only now can no write be under way.
            if slot.is_dirty() {
                continue;
            }
            *file = None;
            closed += 1;
            self.open.remove(&address(&slot));
        }
    }

    fn close_half(&mut self) {
        self.close(self.open.len().div_ceil(2));
    }

    fn unname(&mut self, slot: &Arc<Slot>) {
        let path = slot.path.lock();
        if let Some(slots) = self.by_path.get_mut(&*path) {
            slots.retain(|other| !Arc::ptr_eq(other, slot));
            if slots.is_empty() {
                self.by_path.remove(&*path);
            }
        }
    }
}

/// The flags of every open: links are not followed, and nothing that blocks is waited for.
pub(super) fn flags_of(writable: bool) -> OFlags {
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY
}

/// Repeats a call that a signal interrupted.
pub(super) fn retry<R>(mut call: impl FnMut() -> rustix::io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

fn open_raw(path: &Path, flags: OFlags) -> rustix::io::Result<File> {
    loop {
        match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::INTR) => {}
            result => return result.map(File::from),
        }
    }
}

fn rename_raw(from: &Path, to: &Path) -> Result<()> {
    retry(|| rustix::fs::rename(from, to)).map_err(|error| Error::io(from, "rename", &error))
}

/// Refuses what is not a file of our own making; says which file it is, and how many names it has. One with several
/// is not ours alone, and only read.
fn check(path: &Path, file: &File, writable: bool) -> Result<((u64, u64), u64)> {
    let meta = file.metadata().map_err(|error| Error::io(path, "stat", &error))?;
    if !meta.is_file() {
        return Err(bad_file(path, "not a regular file: refused"));
    }
    if meta.nlink() == 0 || writable && meta.nlink() > 1 {
        return Err(bad_file(path, format!("{} hard links: refused", meta.nlink())));
    }
    Ok(((meta.dev(), meta.ino()), meta.nlink()))
}
