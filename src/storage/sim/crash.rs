//! What a power cut can leave: every subset of what was not synced, torn, reordered, or replaced by garbage.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::SimDisk;
use super::image::PAGE;
use super::state::{Child, DirNode, FileNode, FileOp, NameOp, Names, ROOT, State};
use crate::sync::Arc;

const SECTOR: u64 = 512;

/// Up to so many unsynced operations every subset of them is tried.
const EXHAUSTIVE_MAX: usize = 6;

/// Random fates tried beyond the systematic ones.
const RANDOM_PLANS: u64 = 64;

/// The disk at one moment between two operations, and all that it could be after a power cut then.
#[derive(Clone)]
pub struct CrashPoint {
    pub(super) op: u64,
    pub(super) state: State,
}

/// What becomes of one unsynced operation. All but the first two are of writes.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Keep,
    Lose,
    /// Only so many bytes from the front, or all but so many.
    Head(usize),
    Tail(usize),
    /// Only some of its sectors.
    Sectors(u64),
    /// The file grows, the content is zeros, or whatever lay there before.
    Zeros,
    Garbage(u64),
}

/// A way to give each operation its fate; operations are counted from the oldest.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Mask(u64),
    Prefix(usize),
    AllBut(usize),
    /// Earlier ones kept, this one so, later ones kept or lost.
    One {
        unit: usize,
        fate: Fate,
        later: bool,
    },
    Random(u64),
}

/// An unsynced operation.
#[derive(Clone, Copy)]
struct Unit {
    seq: u64,
    node: Child,
    /// Its place among the pending ones of its node.
    index: usize,
}

impl CrashPoint {
    /// How many mutating or syncing operations were done before it.
    pub fn op(&self) -> u64 {
        self.op
    }

    /// The death of the process at this moment: see [`SimDisk::kill`].
    pub fn killed(&self, seed: u64) -> SimDisk {
        SimDisk::of(self.state.killed(), mix(seed, self.op))
    }

    /// Disks that a power cut at this moment can leave, at most `limit` different ones: all there are when few
    /// operations are unsynced, otherwise a choice made by `seed`. The first two are the one that lost all that was
    /// not synced and the one that kept it.
    pub fn states(&self, limit: usize, seed: u64) -> impl Iterator<Item = SimDisk> {
        let units = self.units();
        let mut plans = self.plans(&units, seed).into_iter();
        let (mut seen, mut yielded) = (HashSet::new(), 0);
        std::iter::from_fn(move || {
            while yielded < limit {
                let state = self.realize(&units, plans.next()?);
                if seen.insert(self.hash(&state)) {
                    yielded += 1;
                    return Some(SimDisk::of(state, mix(seed ^ self.op, yielded as u64)));
                }
            }
            None
        })
    }

    /// One of the states, by chance.
    pub(super) fn any(&self, seed: u64) -> SimDisk {
        let units = self.units();
        let plan = match mix(seed, 0) % 8 {
            0 => Plan::Prefix(0),
            1 => Plan::Prefix(units.len()),
            2 | 3 => Plan::Prefix(mix(seed, 1) as usize % (units.len() + 1)),
            _ => Plan::Random(seed),
        };
        SimDisk::of(self.realize(&units, plan), mix(seed, 2))
    }

    /// All unsynced operations that can matter, oldest first.
    fn units(&self) -> Vec<Unit> {
        let mut named = BTreeSet::new();
        for dir in self.state.dirs.values() {
            named.extend(dir.durable.values().copied());
            named.extend(dir.pending.iter().filter_map(|(_, op)| match op {
                NameOp::Link { child, .. } | NameOp::Rename { child, .. } => Some(*child),
                NameOp::Unlink { .. } => None,
            }));
        }
        let mut units = Vec::new();
        for (id, dir) in &self.state.dirs {
            let node = Child::Dir(*id);
            units.extend(dir.pending.iter().enumerate().map(|(index, (seq, _))| Unit {
                seq: *seq,
                node,
                index,
            }));
        }
        for (id, file) in &self.state.files {
            let node = Child::File(*id);
            if named.contains(&node) {
                units.extend(file.pending.iter().enumerate().map(|(index, (seq, _))| Unit {
                    seq: *seq,
                    node,
                    index,
                }));
            }
        }
        units.sort_unstable_by_key(|unit| (unit.seq, unit.index));
        units
    }

    fn write_of(&self, unit: &Unit) -> Option<(u64, usize)> {
        let Child::File(id) = unit.node else { return None };
        match &self.state.files.get(&id)?.pending.get(unit.index)?.1 {
            FileOp::Write { position, bytes } if !bytes.is_empty() => Some((*position, bytes.len())),
            _ => None,
        }
    }

    fn plans(&self, units: &[Unit], seed: u64) -> Vec<Plan> {
        let n = units.len();
        let mut plans = vec![Plan::Prefix(0), Plan::Prefix(n)];
        if n <= EXHAUSTIVE_MAX {
            plans.extend((0..1u64 << n).map(Plan::Mask));
        } else {
            plans.extend((1..n).map(Plan::Prefix));
            plans.extend((0..n).map(Plan::AllBut));
        }
        for (unit, op) in units.iter().enumerate() {
            let Some((position, len)) = self.write_of(op) else { continue };
            let salt = mix(seed, unit as u64);
            let mut fates =
                vec![Fate::Zeros, Fate::Garbage(salt), Fate::Garbage(salt ^ 1), Fate::Sectors(salt)];
            for cut in cuts(position, len) {
                fates.extend([Fate::Head(cut), Fate::Tail(cut)]);
            }
            for fate in fates {
                plans.push(Plan::One { unit, fate, later: false });
                if unit + 1 < n {
                    plans.push(Plan::One { unit, fate, later: true });
                }
            }
        }
        if n > 1 {
            plans.extend((0..RANDOM_PLANS).map(|i| Plan::Random(mix(seed, i))));
        }
        // So that a limit takes some of every sort.
        for i in (3..plans.len()).rev() {
            let j = 2 + mix(seed, i as u64) as usize % (i - 1);
            plans.swap(i, j);
        }
        plans
    }

    fn fate(&self, units: &[Unit], i: usize, plan: Plan) -> Fate {
        let keep = |keep| if keep { Fate::Keep } else { Fate::Lose };
        match plan {
            Plan::Mask(mask) => keep(mask >> i & 1 == 1),
            Plan::Prefix(n) => keep(i < n),
            Plan::AllBut(out) => keep(i != out),
            Plan::One { unit, fate, .. } if i == unit => fate,
            Plan::One { unit, later, .. } => keep(later || i < unit),
            Plan::Random(seed) => {
                let dice = mix(seed, i as u64);
                match (dice % 16, self.write_of(&units[i])) {
                    (0..7, _) => Fate::Keep,
                    (10, Some(_)) => Fate::Zeros,
                    (11, Some(_)) => Fate::Garbage(dice),
                    (12, Some(_)) => Fate::Sectors(dice),
                    (dice, Some((position, len))) if dice > 12 => {
                        let mut cuts = cuts(position, len);
                        match cuts.len() {
                            0 => Fate::Lose,
                            n if dice % 2 == 0 => Fate::Head(cuts.swap_remove(mix(seed, !0) as usize % n)),
                            n => Fate::Tail(cuts.swap_remove(mix(seed, !0) as usize % n)),
                        }
                    }
                    _ => Fate::Lose,
                }
            }
        }
    }

    /// The disk that is left when every operation has its fate.
    fn realize(&self, units: &[Unit], plan: Plan) -> State {
        let mut fates: BTreeMap<Child, Vec<Fate>> = BTreeMap::new();
        for (i, unit) in units.iter().enumerate() {
            let list = fates.entry(unit.node).or_default();
            if list.len() <= unit.index {
                list.resize(unit.index + 1, Fate::Lose);
            }
            list[unit.index] = self.fate(units, i, plan);
        }
        let (mut files, mut dirs) = (BTreeMap::new(), BTreeMap::new());
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            let Some(dir) = self.state.dirs.get(&id) else { continue };
            let names = names_left(dir, fates.get(&Child::Dir(id)).map_or(&[], Vec::as_slice));
            for child in names.values() {
                match child {
                    Child::Dir(id) => todo.push(*id),
                    Child::File(id) => {
                        let Some(file) = self.state.files.get(id) else { continue };
                        let fates = fates.get(child).map_or(&[][..], Vec::as_slice);
                        let left = files.entry(*id).or_insert_with(|| Arc::new(file_left(file, fates)));
                        Arc::make_mut(left).links += 1;
                    }
                }
            }
            dirs.insert(id, Arc::new(DirNode { now: names.clone(), durable: names, pending: Vec::new() }));
        }
        self.state.with_nodes(files, dirs)
    }

    /// Tells states of this point apart: only what differs from what was durable is looked at.
    fn hash(&self, state: &State) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (id, dir) in &state.dirs {
            (id, &dir.now).hash(&mut hasher);
        }
        for (id, file) in &state.files {
            id.hash(&mut hasher);
            if let Some(base) = self.state.files.get(id) {
                file.now.hash_changes(&base.durable, &mut hasher);
            }
        }
        hasher.finish()
    }
}

impl fmt::Debug for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashPoint").field("op", &self.op).field("unsynced", &self.units().len()).finish()
    }
}

/// Names after a crash. An operation on a name whose earlier change was lost is lost too: directories are journaled in
/// order, name by name at least.
fn names_left(dir: &DirNode, fates: &[Fate]) -> Names {
    let mut names = dir.durable.clone();
    let mut broken = HashSet::new();
    for (i, (_, op)) in dir.pending.iter().enumerate() {
        let kept = matches!(fates.get(i), Some(Fate::Keep)) && !op.names().any(|name| broken.contains(name));
        if kept {
            op.apply(&mut names);
        } else {
            broken.extend(op.names().cloned());
        }
    }
    names
}

fn file_left(file: &FileNode, fates: &[Fate]) -> FileNode {
    let mut image = file.durable.clone();
    for (i, (_, op)) in file.pending.iter().enumerate() {
        let fate = fates.get(i).copied().unwrap_or(Fate::Lose);
        match (op, fate) {
            (_, Fate::Lose) => {}
            (FileOp::SetLen(len), _) => image.set_len(*len),
            (FileOp::Write { position, bytes }, fate) => match fate {
                Fate::Keep | Fate::Lose => image.write(bytes, *position),
                Fate::Head(n) => image.write(&bytes[..n], *position),
                Fate::Tail(n) => {
                    image.write(&bytes[n..], position + n as u64);
                }
                Fate::Sectors(seed) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let sector = (position + at as u64) / SECTOR;
                        let end = ((sector + 1) * SECTOR - position).min(bytes.len() as u64) as usize;
                        if mix(seed, sector) & 1 == 0 {
                            image.write(&bytes[at..end], position + at as u64);
                        }
                        at = end;
                    }
                }
                Fate::Zeros => image.set_len(image.len().max(position + bytes.len() as u64)),
                Fate::Garbage(seed) => image.write(&garbage(file, bytes.len(), seed), *position),
            },
        }
    }
    for page in file.lost.keys() {
        image.take_page(*page, &file.durable);
    }
    FileNode { now: image.clone(), durable: image, modified_ms: file.modified_ms, ..FileNode::default() }
}

/// What lay on the device before: noise, or an old part of the same file.
fn garbage(file: &FileNode, len: usize, seed: u64) -> Vec<u8> {
    let old = file.durable.len();
    let mut bytes = vec![0; len];
    if seed & 1 == 1 && old > 0 {
        file.durable.read(&mut bytes, mix(seed, 0) % old / SECTOR * SECTOR);
    } else {
        for (i, chunk) in bytes.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&mix(seed, i as u64).to_le_bytes()[..chunk.len()]);
        }
    }
    bytes
}

/// Where a write may be torn: page borders, and sector borders in its first and last page; no more than a few.
fn cuts(position: u64, len: usize) -> Vec<usize> {
    const PAGE_BYTES: u64 = PAGE as u64;
    let end = position + len as u64;
    let (first, last) = (position / PAGE_BYTES, (end - 1) / PAGE_BYTES);
    let step = ((last - first) / 8).max(1);
    let pages = (first + 1..=last).step_by(step as usize).map(|page| page * PAGE_BYTES);
    let sectors =
        [first, last].into_iter().flat_map(|page| (1..8).map(move |i| page * PAGE_BYTES + i * SECTOR));
    let cuts: BTreeSet<u64> = pages.chain(sectors).filter(|cut| position < *cut && *cut < end).collect();
    cuts.into_iter().map(|cut| (cut - position) as usize).collect()
}

/// A number drawn from two others (splitmix64).
pub(super) fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
