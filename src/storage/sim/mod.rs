//! A disk in memory: a plain one, or one that lies as real ones do and can be cut off at any moment.
//!
//! - `files`: the disk as the crate sees it; `inner`: its operations
//! - `image`: bytes in shared pages
//! - `state`: files, names, and for each what is durable and what is not yet
//! - `crash`: what a power cut can leave
//! - `fault`: errors on demand

mod crash;
mod fault;
mod files;
mod image;
mod inner;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crash::CrashPoint;
pub use fault::{FaultKind, FaultOp, OpCounts};

use self::fault::Faults;
use self::image::Image;
use self::inner::Inner;
use self::state::{Child, NameOp, ROOT, State, fail, parts};
use crate::error::Result;
use crate::sync::{Arc, Mutex};

/// A disk in memory. Clones are the same disk.
///
/// [`SimDisk::in_memory`] is for stores that need no disk. [`SimDisk::new`] is for tests: it loses what was not synced,
/// tears and reorders writes, forgets names, fails on demand, and shows every state that a crash can leave.
/// A relative path begins at the root.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Inner>>);

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
            sync_time: Duration::ZERO,
            hard_links: true,
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
        let disk = SimDisk::with(inner.state.killed(), inner.seed);
        disk.0.lock().capacity = inner.capacity;
        disk
    }

    /// Makes the `nth` operation of that sort from now (1 is the next) fail, and when `sticky` all after it.
    ///
    /// A failed write writes nothing; see [`fail_write_short`](Self::fail_write_short). A failed sync of a file loses
    /// what it was to save, as on Linux: reads still show it, later syncs succeed without saving it.
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

    /// How long the sync of a file takes, as a device's would: those who wait meanwhile can share the next one.
    pub fn set_sync_time(&self, time: Duration) {
        self.0.lock().sync_time = time;
    }

    /// Whether a file can have several names, as most file systems allow. Without, they are copied.
    pub fn set_hard_links(&self, allowed: bool) {
        self.0.lock().hard_links = allowed;
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
        (file.links, file.modified_ms) = (file.links.max(1), now);
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
