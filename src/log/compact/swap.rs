//! The exchange of segments for the one that a compaction made of them, whole at every step (reliability R6), and its
//! end at the next open if a crash comes between: that of ours, which a manifest tells of, and that of a broker's.
//!
//! The steps: the new files are written as `.cleaned` and synced; the manifest says what replaces what (from here on
//! the exchange happens, whatever comes); the new files become `.swap`; the old ones `.deleted`; the new `.log` gets
//! its name; the other new ones theirs; the manifest says that it is done; the old ones are unlinked. The directory is
//! synced after each. A broker that opens the directory in between comes to the same end by its own rules.
//!
//! Invariants:
//! - The old segments or the new one, never neither, never both: at each step one side is whole under names that the
//!   next open finds.
//! - While the new `.log` has not its name, what has one is old: so the others get theirs behind it.
//! - Nothing is unlinked before the side that survives was read back, compared and synced, names included.
//! - Without a manifest a `.swap` is a broker's. It takes effect only if every batch of it is good and the old segments
//!   do not hold all of its batches; else the old ones stay.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use super::super::recover::RecoveryEvent;
use crate::error::{ErrorKind, Result};
use crate::record::BatchHeader;
use crate::segment::name::{self, SegmentFile};
use crate::segment::{Scan, Step};
use crate::storage::{Entry, EntryKind, File, Open, Storage, check_sum, read_small, replace_summed};
use crate::types::Offset;

/// What a partition's directory says of its compactions.
pub(crate) const FILE_NAME: &str = "logstead-cleaned";

const VERSION_LINE: &str = "logstead-cleaned 1";

pub(crate) const CLEANED: &str = ".cleaned";
pub(crate) const SWAP: &str = ".swap";
pub(crate) const DELETED: &str = ".deleted";

/// The content of [`FILE_NAME`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleaned {
    /// Segments of a base below it may have gaps between their offsets; they are on the device.
    pub(crate) sparse_below: Offset,
    /// What replaces records that were taken lies below it, on the device: without all of that the rest says nothing.
    pub(crate) needed_to: Offset,
    /// How many exchanges there were: readers in other processes see by it that there was one.
    pub(crate) exchanges: u64,
    /// The exchange that is under way.
    pub(crate) swap: Option<Swap>,
}

/// Segments whose bases lie in `base..end` are replaced by one of base `base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swap {
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    /// Of its `.log`.
    pub(crate) bytes: u64,
    /// CRC-32 of its `.log`.
    pub(crate) sum: u32,
}

impl Cleaned {
    /// Of a partition's directory; the default when there was no compaction.
    pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Cleaned> {
        let path = dir.join(FILE_NAME);
        match read_small(storage, &path)? {
            None => Ok(Cleaned::default()),
            Some(bytes) => Self::parse(&bytes)
                .map_err(|why| ErrorKind::BadFile { file: path, why: why.to_owned() }.into()),
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Cleaned, &'static str> {
        const BAD: &str = "it does not say what it should";
        let mut lines = check_sum(bytes)?.lines();
        if lines.next() != Some(VERSION_LINE) {
            return Err("it is of a version this crate does not know");
        }
        let number = |text: Option<&str>| text?.parse::<Offset>().ok().filter(|n| *n >= 0);
        let mut field = |name: &str| number(lines.next()?.strip_prefix(name)?.strip_prefix(' '));
        let sparse_below = field("sparse-below").ok_or(BAD)?;
        let needed_to = field("needed-to").ok_or(BAD)?;
        let exchanges = field("exchanges").and_then(|n| u64::try_from(n).ok()).ok_or(BAD)?;
        let swap = match lines.next().map(|line| line.split(' ').collect::<Vec<_>>()) {
            None => None,
            Some(words) => match *words {
                ["swap", base, end, bytes, sum] => Some(Swap {
                    base: number(Some(base)).ok_or(BAD)?,
                    end: number(Some(end)).ok_or(BAD)?,
                    bytes: bytes.parse().map_err(|_| BAD)?,
                    sum: u32::from_str_radix(sum, 16).map_err(|_| BAD)?,
                }),
                _ => return Err(BAD),
            },
        };
        let good = lines.next().is_none() && swap.is_none_or(|swap| swap.base < swap.end);
        if good { Ok(Cleaned { sparse_below, needed_to, exchanges, swap }) } else { Err(BAD) }
    }

    /// Its text, without the sum behind it.
    pub(crate) fn text(&self) -> String {
        let Cleaned { sparse_below, needed_to, exchanges, .. } = self;
        let mut text = format!(
            "{VERSION_LINE}\nsparse-below {sparse_below}\nneeded-to {needed_to}\nexchanges {exchanges}\n"
        );
        if let Some(Swap { base, end, bytes, sum }) = self.swap {
            text.push_str(&format!("swap {base} {end} {bytes} {sum:08x}\n"));
        }
        text
    }

    pub(crate) fn write(&self, storage: &dyn Storage, dir: &Path) -> Result<()> {
        replace_summed(storage, &dir.join(FILE_NAME), self.text())
    }
}

/// Puts the new segment of `swap`, whose files lie there synced as `.cleaned`, in the place of the old ones. `cleaned`
/// becomes what the directory says then. After an error the next open ends it one way or the other.
pub(crate) fn exchange(
    storage: &dyn Storage,
    dir: &Path,
    cleaned: &mut Cleaned,
    swap: Swap,
    needed_to: Offset,
) -> Result<(), Exchange> {
    let begin = || {
        // What the one before left: it must not pass for the old side of this one.
        remove_deleted(storage, dir, swap.base..swap.end)?;
        storage.sync_dir(dir)?;
        let new = dir.join(name::log(swap.base) + CLEANED);
        if !is_whole(storage, &new, swap)? {
            let why = "it is not what was written to it".to_owned();
            return Err(ErrorKind::BadFile { file: new, why }.into());
        }
        Ok(())
    };
    begin().map_err(Exchange::NotBegun)?;
    let begun = Cleaned {
        sparse_below: cleaned.sparse_below.max(swap.end),
        needed_to: cleaned.needed_to.max(needed_to),
        exchanges: cleaned.exchanges + 1,
        swap: Some(swap),
    };
    if let Err(error) = begun.write(storage, dir) {
        // On a full disk, say: then it is as it was, and nothing happened.
        let is_as_before = Cleaned::read(storage, dir).is_ok_and(|found| found == *cleaned);
        return Err(if is_as_before { Exchange::NotBegun(error) } else { Exchange::Begun(error) });
    }
    *cleaned = begun;
    let done = Cleaned { swap: None, ..begun };
    roll_forward(storage, dir, swap, false)
        .and_then(|()| done.write(storage, dir))
        .map_err(Exchange::Begun)?;
    *cleaned = done;
    // What is left of them the next open removes.
    let _ = remove_deleted(storage, dir, swap.base..swap.end);
    Ok(())
}

/// Puts a segment whose files lie in `dir` synced as `.cleaned` in the place of those whose bases lie in `bases`.
pub(crate) fn exchange_for(storage: &dyn Storage, dir: &Path, bases: Range<Offset>) -> Result<()> {
    let path = dir.join(name::log(bases.start) + CLEANED);
    let file = storage.open(&path, Open::Read)?;
    let bytes = file.len()?;
    let mut swap = Swap { base: bases.start, end: bases.end, bytes, sum: 0 };
    swap.sum = sum_of(file.as_ref(), bytes)?.unwrap_or(0);
    let mut cleaned = Cleaned::read(storage, dir)?;
    let needed_to = cleaned.needed_to;
    match exchange(storage, dir, &mut cleaned, swap, needed_to) {
        Ok(()) => Ok(()),
        Err(Exchange::NotBegun(error) | Exchange::Begun(error)) => Err(error),
    }
}

/// Why an exchange failed: all is as before, or nobody knows how far it came.
#[derive(Debug)]
pub(crate) enum Exchange {
    NotBegun(crate::error::Error),
    Begun(crate::error::Error),
}

/// Whether a file is the new `.log` of an exchange, by what the device has of it.
fn is_whole(storage: &dyn Storage, path: &Path, swap: Swap) -> Result<bool> {
    let file = storage.open(path, Open::Read)?;
    if file.len()? != swap.bytes {
        return Ok(false);
    }
    file.drop_cache()?;
    Ok(sum_of(file.as_ref(), swap.bytes)? == Some(swap.sum))
}

/// The CRC-32 of the first `len` bytes of a file; `None`: it has not so many.
fn sum_of(file: &dyn File, len: u64) -> Result<Option<u32>> {
    const PIECE_BYTES: usize = 256 * 1024;
    let mut sum = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < len {
        let read = file.read_at(&mut piece, at)?;
        let bytes = piece.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(None);
        }
        sum.update(bytes);
        at += read as u64;
    }
    Ok(Some(sum.finalize()))
}

/// The names of a directory's regular files.
fn listed(storage: &dyn Storage, dir: &Path) -> Result<BTreeSet<String>> {
    let files = storage.list(dir)?.into_iter().filter(|entry| entry.kind == EntryKind::File);
    Ok(files.map(|entry| entry.name).collect())
}

/// Those of `names` that end so, of segments in `bases`, without the ending.
fn ending<'n>(
    names: &'n BTreeSet<String>,
    suffix: &'static str,
    bases: Range<Offset>,
) -> impl Iterator<Item = &'n str> {
    names.iter().filter_map(move |name| {
        let (base, plain, has) = name::split_suffix(name)?;
        (has == suffix && bases.contains(&base)).then_some(plain)
    })
}

/// Ends an exchange that must happen, wherever it stopped; done twice it does nothing more. `named`: the new `.log` may
/// have its name already.
fn roll_forward(storage: &dyn Storage, dir: &Path, swap: Swap, named: bool) -> Result<()> {
    let (base, one) = (swap.base, swap.base..swap.base + 1);
    let rename = |from: String, to: String| storage.rename(&dir.join(from), &dir.join(to));
    let names = listed(storage, dir)?;
    for plain in ending(&names, CLEANED, one.clone()) {
        rename(format!("{plain}{CLEANED}"), format!("{plain}{SWAP}"))?;
    }
    storage.sync_dir(dir)?;
    let names = listed(storage, dir)?;
    let moving = name::log(base) + SWAP;
    if names.contains(&moving) {
        for old in ending(&names, "", base..swap.end) {
            // The state of the producers in front of the base stays true.
            if SegmentFile::parse(old) != Some(SegmentFile::Snapshot(base)) {
                rename(old.to_owned(), format!("{old}{DELETED}"))?;
            }
        }
        storage.sync_dir(dir)?;
        // While it has none, who goes on here, or a broker, takes what has a name for an old file.
        rename(moving, name::log(base))?;
        storage.sync_dir(dir)?;
    } else if !named {
        let why = "somebody took it away while it got its name".to_owned();
        return Err(ErrorKind::BadFile { file: dir.join(moving), why }.into());
    }
    for plain in ending(&names, SWAP, one).filter(|plain| *plain != name::log(base)) {
        rename(format!("{plain}{SWAP}"), plain.to_owned())?;
    }
    storage.sync_dir(dir)
}

/// Goes back to the old segments, where the new one is not what it should be; `false`: they are not all there.
fn roll_back(storage: &dyn Storage, dir: &Path, swap: Swap) -> Result<bool> {
    let names = listed(storage, dir)?;
    let log = name::log(swap.base);
    let old: Vec<&str> = ending(&names, DELETED, swap.base..swap.end).collect();
    let moved = old.contains(&log.as_str());
    if !moved && !names.contains(&log) {
        return Ok(false);
    }
    for plain in &old {
        let is_log = matches!(SegmentFile::parse(plain), Some(SegmentFile::Log(_)));
        if is_log && !walk(storage, &dir.join(format!("{plain}{DELETED}")), swap.base)?.1 {
            return Ok(false);
        }
    }
    for plain in &old {
        storage.rename(&dir.join(format!("{plain}{DELETED}")), &dir.join(plain))?;
    }
    storage.sync_dir(dir)?;
    for suffix in [SWAP, CLEANED] {
        for plain in ending(&names, suffix, swap.base..swap.base + 1) {
            storage.remove_file(&dir.join(format!("{plain}{suffix}")))?;
        }
    }
    storage.sync_dir(dir)?;
    Ok(true)
}

fn remove_deleted(storage: &dyn Storage, dir: &Path, bases: Range<Offset>) -> Result<()> {
    for plain in ending(&listed(storage, dir)?, DELETED, bases) {
        storage.remove_file(&dir.join(format!("{plain}{DELETED}")))?;
    }
    storage.sync_dir(dir)
}

/// Ends what a crash interrupted, at the open of a log that is written to. `ours`: the log has no gaps that no
/// compaction made. An error: neither side is whole, and nothing was changed.
pub(crate) fn settle(
    storage: &dyn Storage,
    dir: &Path,
    ours: bool,
    events: &mut Vec<RecoveryEvent>,
) -> Result<Cleaned, Unsettled> {
    let mut cleaned = match Cleaned::read(storage, dir) {
        Err(error) if error.is_corrupt() => {
            events.push(RecoveryEvent::Rot {
                file: dir.join(FILE_NAME),
                position: 0,
                why: error.to_string(),
            });
            // Everything that is closed may have gaps.
            Cleaned { sparse_below: Offset::MAX, ..Cleaned::default() }
        }
        cleaned => cleaned?,
    };
    if let Some(swap) = cleaned.swap {
        let log = dir.join(name::log(swap.base));
        let mut whole = false;
        for suffix in [CLEANED, SWAP, ""] {
            let path = dir.join(name::log(swap.base) + suffix);
            whole = whole
                || match is_whole(storage, &path, swap) {
                    Err(error) if error.is_not_found() => false,
                    whole => whole?,
                };
        }
        if whole {
            roll_forward(storage, dir, swap, true)?;
            events.push(RecoveryEvent::SwapFinished { file: log });
        } else if roll_back(storage, dir, swap)? {
            let why = "the compacted segment is damaged".to_owned();
            events.push(RecoveryEvent::SwapUndone { file: log, why });
        } else {
            return Err(Unsettled::Neither(format!(
                "{} was being compacted, and neither the old nor the new files of it are whole: restore them",
                log.display()
            )));
        }
        cleaned.swap = None;
        cleaned.write(storage, dir)?;
    }
    settle_brokers(storage, dir, ours, &mut cleaned, events)?;
    Ok(cleaned)
}

/// Why what a crash interrupted could not be ended.
#[derive(Debug)]
pub(crate) enum Unsettled {
    Disk(crate::error::Error),
    /// Neither side is whole.
    Neither(String),
}

impl From<crate::error::Error> for Unsettled {
    fn from(error: crate::error::Error) -> Self {
        Unsettled::Disk(error)
    }
}

/// A batch by the offsets that it keeps in every compaction.
type Span = (Offset, Offset);

fn span(header: &BatchHeader) -> Span {
    // Where a wrapper of an old format begins is not known here.
    (if header.is_legacy() { header.last_offset() } else { header.base_offset }, header.last_offset())
}

/// The batches of a file, and whether it holds nothing else.
fn walk(storage: &dyn Storage, path: &Path, base: Offset) -> Result<(Vec<Span>, bool)> {
    let file = storage.open(path, Open::Read)?;
    file.drop_cache()?;
    let mut scan = Scan::new(file.as_ref(), 0, file.len()?).of_broker(base).reading_ahead();
    let mut spans: Vec<Span> = Vec::new();
    loop {
        match scan.next(true)? {
            Step::End => return Ok((spans, true)),
            Step::Batch { header, .. } if spans.last().is_none_or(|last| last.1 < span(&header).0) => {
                spans.push(span(&header));
            }
            Step::Batch { .. } | Step::Bad { .. } => return Ok((spans, false)),
        }
    }
}

/// What a broker left between its renames (`kafka-format.md` §1.4), with more care than it would take itself.
fn settle_brokers(
    storage: &dyn Storage,
    dir: &Path,
    ours: bool,
    cleaned: &mut Cleaned,
    events: &mut Vec<RecoveryEvent>,
) -> Result<(), Unsettled> {
    let names = listed(storage, dir)?;
    let all = 0..Offset::MAX;
    let swaps: Vec<Offset> = ending(&names, SWAP, all.clone())
        .filter_map(|plain| match SegmentFile::parse(plain) {
            Some(SegmentFile::Log(base)) => Some(base),
            _ => None,
        })
        .collect();
    for base in swaps {
        let log = name::log(base);
        let names = listed(storage, dir)?;
        let (new, whole) = walk(storage, &dir.join(format!("{log}{SWAP}")), base)?;
        let end = new.last().map_or(base, |last| last.1) + 1;
        // The first of the old ones loses its name first.
        let old_is_there = names.contains(&log);
        let old_has_all = match new.first() {
            Some(_) => covers(storage, dir, &names, &new)?,
            None => old_is_there || covers(storage, dir, &names, &[(base, base)])?,
        };
        if whole && !old_has_all {
            roll_forward(storage, dir, Swap { base, end, bytes: 0, sum: 0 }, false)?;
            if ours && cleaned.sparse_below < end {
                cleaned.sparse_below = end;
                cleaned.write(storage, dir)?;
            }
            events.push(RecoveryEvent::SwapFinished { file: dir.join(log) });
            continue;
        }
        if !whole && !old_is_there {
            return Err(Unsettled::Neither(format!(
                "{log}{SWAP} is left from a compaction that was interrupted, and is damaged, and what it was made of \
                 is gone: restore the partition"
            )));
        }
        for plain in ending(&names, SWAP, base..base + 1) {
            storage.remove_file(&dir.join(format!("{plain}{SWAP}")))?;
        }
        storage.sync_dir(dir)?;
        let why = match whole {
            true => "all that it holds is in the files it was made of".to_owned(),
            false => "it is damaged, and what it was made of is there".to_owned(),
        };
        events.push(RecoveryEvent::SwapUndone { file: dir.join(format!("{log}{SWAP}")), why });
    }
    // The last renames of an exchange whose log has its name.
    let names = listed(storage, dir)?;
    let mut renamed = false;
    for plain in ending(&names, SWAP, all) {
        storage.rename(&dir.join(format!("{plain}{SWAP}")), &dir.join(plain))?;
        renamed = true;
    }
    if renamed {
        storage.sync_dir(dir)?;
    }
    Ok(())
}

/// Whether each of these batches is in a segment that has its name.
fn covers(storage: &dyn Storage, dir: &Path, names: &BTreeSet<String>, new: &[Span]) -> Result<bool> {
    let (Some(first), Some(last)) = (new.first(), new.last()) else { return Ok(true) };
    let mut logs: Vec<Offset> = names
        .iter()
        .filter_map(|name| match SegmentFile::parse(name) {
            Some(SegmentFile::Log(base)) if base <= last.1 => Some(base),
            _ => None,
        })
        .collect();
    logs.sort_unstable();
    let from = logs.partition_point(|base| *base <= first.0).saturating_sub(1);
    let mut left = new.iter().peekable();
    for base in logs.into_iter().skip(from) {
        for old in walk(storage, &dir.join(name::log(base)), base)?.0 {
            if left.peek().is_some_and(|next| **next == old) {
                left.next();
            }
        }
    }
    Ok(left.peek().is_none())
}

/// What a reader beside the writer goes by; when it can not be read, everything that is closed may have gaps.
pub(crate) fn readable(storage: &dyn Storage, dir: &Path) -> Result<Cleaned> {
    match Cleaned::read(storage, dir) {
        Err(error) if error.is_corrupt() => Ok(Cleaned { sparse_below: Offset::MAX, ..Cleaned::default() }),
        cleaned => cleaned,
    }
}

/// Makes of the names in the middle of an exchange what it leads to, for whoever reads beside the writer, or a
/// directory that a crash left so. The answer: the name under which the new segment's `.log` lies. `None`: all have
/// their names.
pub(crate) fn see_exchange(swap: Swap, entries: &mut Vec<Entry>) -> Option<String> {
    let log = name::log(swap.base);
    let moving = format!("{log}{SWAP}");
    let at = entries.iter().position(|entry| entry.name == moving)?;
    let new = entries.swap_remove(at);
    entries.retain(|entry| match name::split_suffix(&entry.name) {
        Some((base, _, "")) => !(swap.base..swap.end).contains(&base),
        _ => true,
    });
    entries.push(Entry { name: log, ..new });
    Some(moving)
}

/// Removes what an abandoned compaction wrote.
pub(crate) fn discard(storage: &dyn Storage, dir: &Path, base: Offset) {
    // What stays the next open removes.
    let Ok(names) = listed(storage, dir) else { return };
    for plain in ending(&names, CLEANED, base..base + 1) {
        let _ = storage.remove_file(&dir.join(format!("{plain}{CLEANED}")));
    }
}
