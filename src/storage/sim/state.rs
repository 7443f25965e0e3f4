//! What lies on a simulated disk: every file and directory as the program sees it and as a power cut would leave it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};

use super::image::{Image, PAGE};
use crate::error::{Error, Result};
use crate::sync::Arc;

pub(super) const ROOT: u64 = 0;

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Child {
    File(u64),
    Dir(u64),
}

/// A change of a file's content that is not durable yet.
#[derive(Clone)]
pub(super) enum FileOp {
    Write { position: u64, bytes: Arc<[u8]> },
    SetLen(u64),
}

/// A change of a directory's names that is not durable yet.
#[derive(Clone)]
pub(super) enum NameOp {
    Link { name: Arc<str>, child: Child },
    Unlink { name: Arc<str> },
    Rename { from: Arc<str>, to: Arc<str>, child: Child },
}

/// Names and where they lead.
pub(super) type Names = BTreeMap<Arc<str>, Child>;

#[derive(Clone, Default)]
pub(super) struct FileNode {
    /// What a read sees.
    pub(super) now: Image,
    /// What is safe. Not kept by a disk that does not lie.
    pub(super) durable: Image,
    /// What was done since, with the number of each operation.
    pub(super) pending: Vec<(u64, FileOp)>,
    /// Pages that a failed sync gave up, and the first byte given up in each: no later sync makes them durable until
    /// the cache is dropped or the file is cut below them.
    pub(super) lost: BTreeMap<u64, u64>,
    /// Its names.
    pub(super) links: u64,
    pub(super) handles: u32,
    pub(super) modified_ms: i64,
}

#[derive(Clone, Default)]
pub(super) struct DirNode {
    pub(super) now: Names,
    pub(super) durable: Names,
    pub(super) pending: Vec<(u64, NameOp)>,
}

/// The whole disk. A copy shares everything with the original until one of them changes it.
#[derive(Clone)]
pub(super) struct State {
    pub(super) files: BTreeMap<u64, Arc<FileNode>>,
    pub(super) dirs: BTreeMap<u64, Arc<DirNode>>,
    next: u64,
    /// Whether durable and pending are kept at all.
    pub(super) lying: bool,
}

impl FileNode {
    pub(super) fn apply(&mut self, op: FileOp) {
        match op {
            FileOp::Write { position, bytes } => self.now.write(&bytes, position),
            FileOp::SetLen(len) => {
                self.now.set_len(len);
                self.lost.retain(|page, first| page * PAGE as u64 + *first < len);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        let before = std::mem::replace(&mut self.durable, self.now.clone());
        for page in self.lost.keys() {
            self.durable.take_page(*page, &before);
        }
        self.pending.clear();
    }

    /// The device refused: the pages are clean from now on, and wrong.
    pub(super) fn fail_sync(&mut self, seq: u64) {
        const PAGE_BYTES: u64 = PAGE as u64;
        for (_, op) in &self.pending {
            let FileOp::Write { position, bytes } = op else { continue };
            if bytes.is_empty() {
                continue;
            }
            for page in position / PAGE_BYTES..=(position + bytes.len() as u64 - 1) / PAGE_BYTES {
                let first = position.saturating_sub(page * PAGE_BYTES);
                self.lost.entry(page).and_modify(|f| *f = first.min(*f)).or_insert(first);
            }
        }
        self.pending.retain(|(_, op)| matches!(op, FileOp::SetLen(_)));
        if self.now.len() != self.durable.len() {
            self.pending.push((seq, FileOp::SetLen(self.now.len())));
        }
    }

    /// Clean pages are read from the device again; those written since stay.
    pub(super) fn drop_cache(&mut self) {
        let dirty = |page: u64| {
            self.pending.iter().any(|(_, op)| match op {
                FileOp::Write { position, bytes } => {
                    let start = page * PAGE as u64;
                    *position < start + PAGE as u64 && start < position + bytes.len() as u64
                }
                FileOp::SetLen(_) => false,
            })
        };
        let (kept, dropped) =
            self.lost.iter().map(|(page, first)| (*page, *first)).partition(|(p, _)| dirty(*p));
        self.lost = kept;
        let dropped: BTreeMap<u64, u64> = dropped;
        for page in dropped.keys() {
            self.now.take_page(*page, &self.durable);
        }
    }
}

impl DirNode {
    pub(super) fn sync(&mut self) {
        self.durable.clone_from(&self.now);
        self.pending.clear();
    }
}

impl NameOp {
    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            NameOp::Link { name, child } => {
                names.insert(Arc::clone(name), *child);
            }
            NameOp::Unlink { name } => {
                names.remove(name);
            }
            NameOp::Rename { from, to, child } => {
                if names.get(from) == Some(child) {
                    names.remove(from);
                }
                names.insert(Arc::clone(to), *child);
            }
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let (a, b) = match self {
            NameOp::Link { name, .. } | NameOp::Unlink { name } => (name, None),
            NameOp::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(a).chain(b)
    }
}

impl State {
    pub(super) fn new(lying: bool) -> State {
        let root = (ROOT, Arc::default());
        State { files: BTreeMap::new(), dirs: BTreeMap::from([root]), next: ROOT + 1, lying }
    }

    /// As `self`, with other nodes.
    pub(super) fn with_nodes(
        &self,
        files: BTreeMap<u64, Arc<FileNode>>,
        dirs: BTreeMap<u64, Arc<DirNode>>,
    ) -> State {
        State { files, dirs, next: self.next, lying: self.lying }
    }

    pub(super) fn file(&mut self, id: u64) -> &mut FileNode {
        Arc::make_mut(self.files.entry(id).or_default())
    }

    pub(super) fn dir(&mut self, id: u64) -> &mut DirNode {
        Arc::make_mut(self.dirs.entry(id).or_default())
    }

    pub(super) fn new_file(&mut self) -> u64 {
        let id = self.next_id();
        self.file(id);
        id
    }

    pub(super) fn new_dir(&mut self) -> u64 {
        let id = self.next_id();
        self.dir(id);
        id
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Where a path leads now.
    pub(super) fn find(&self, path: &Path, op: &'static str) -> Result<Option<Child>> {
        let mut at = Child::Dir(ROOT);
        for name in parts(path, op)? {
            let Child::Dir(dir) = at else { return Err(fail(path, op, io::ErrorKind::NotADirectory)) };
            match self.dirs.get(&dir).and_then(|dir| dir.now.get(name)) {
                Some(child) => at = *child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// As `find`, of a directory that must be there.
    pub(super) fn find_dir(&self, path: &Path, op: &'static str) -> Result<u64> {
        match self.find(path, op)? {
            Some(Child::Dir(id)) => Ok(id),
            Some(Child::File(_)) => Err(fail(path, op, io::ErrorKind::NotADirectory)),
            None => Err(fail(path, op, io::ErrorKind::NotFound)),
        }
    }

    /// The directory that holds a name, which must be there, and the name, which need not.
    pub(super) fn find_parent<'p>(&self, path: &'p Path, op: &'static str) -> Result<(u64, &'p str)> {
        let name = parts(path, op)?.pop().ok_or_else(|| fail(path, op, io::ErrorKind::InvalidInput))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        Ok((self.find_dir(dir, op)?, name))
    }

    /// Changes the names of a directory.
    pub(super) fn change(&mut self, dir: u64, seq: u64, op: NameOp) {
        let lying = self.lying;
        let node = self.dir(dir);
        op.apply(&mut node.now);
        if lying {
            node.pending.push((seq, op));
        }
    }

    /// Marks a node as having no name any more, and frees it where nothing can bring it back.
    pub(super) fn unlinked(&mut self, child: Child) {
        match child {
            Child::File(id) => {
                let file = self.file(id);
                file.links = file.links.saturating_sub(1);
                self.release(id);
            }
            Child::Dir(id) if !self.lying => {
                self.dirs.remove(&id);
            }
            Child::Dir(_) => {}
        }
    }

    /// Frees a file without name and handle.
    pub(super) fn release(&mut self, id: u64) {
        if !self.lying && self.files.get(&id).is_some_and(|file| file.links == 0 && file.handles == 0) {
            self.files.remove(&id);
        }
    }

    /// The same disk without the process that had files open.
    pub(super) fn killed(&self) -> State {
        let mut state = self.clone();
        let open: Vec<u64> = state.files.iter().filter(|(_, f)| f.handles > 0).map(|(id, _)| *id).collect();
        for id in open {
            state.file(id).handles = 0;
            state.release(id);
        }
        state
    }

    /// Bytes of all files that have a name or a handle.
    pub(super) fn used(&self) -> u64 {
        self.files.values().filter(|f| f.links > 0 || f.handles > 0).map(|f| f.now.len()).sum()
    }
}

/// The names of a path from the root; a relative one begins there too.
pub(super) fn parts<'p>(path: &'p Path, op: &'static str) -> Result<Vec<&'p str>> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                names.push(name.to_str().ok_or_else(|| fail(path, op, io::ErrorKind::InvalidInput))?);
            }
            Component::RootDir | Component::CurDir => {}
            _ => return Err(fail(path, op, io::ErrorKind::InvalidInput)),
        }
    }
    Ok(names)
}

#[cold]
pub(super) fn fail(path: &Path, op: &'static str, kind: io::ErrorKind) -> Error {
    Error::io(path, op, &kind.into())
}
