//! What an open found and did, and the rule that tells the residue of a crash from rot.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::segment::{Segment, Step, name};
use crate::storage::{Open, Storage, copy_range};
use crate::types::Offset;

/// Something that opening a partition found or did: nothing is discarded or moved without one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryEvent {
    /// The unsynced end of a segment was cut: what a crash had left half written.
    TailCut {
        /// The segment.
        file: PathBuf,
        /// Where it ends now.
        position: u64,
        /// How many bytes were cut.
        bytes: u64,
        /// What was wrong with the first of them.
        why: String,
        /// Where they were put, when there was a whole batch among them.
        quarantine: Option<PathBuf>,
    },
    /// A segment was set aside: it lay behind a cut, where its records do not follow on what is left, or the log ended
    /// below the start that a broker's checkpoint gives it.
    SegmentSetAside {
        /// The segment.
        file: PathBuf,
        /// Its new name; `None` when it was empty and was removed.
        quarantine: Option<PathBuf>,
    },
    /// Committed bytes are damaged. Nothing was cut; reads report the gap and go on behind it.
    Rot {
        /// The segment.
        file: PathBuf,
        /// Where the damage begins.
        position: u64,
        /// What is wrong there.
        why: String,
    },
    /// A left-over that only an interrupted operation makes was removed.
    LeftoverRemoved {
        /// The file.
        file: PathBuf,
    },
    /// A compaction that a crash interrupted was ended: its segment took the place of those it was made of.
    SwapFinished {
        /// The segment.
        file: PathBuf,
    },
    /// A compaction that a crash interrupted was given up: the segments it was made of stay.
    SwapUndone {
        /// The segment it was to become.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// A group had committed an offset behind the end that the log has now: it goes on at the end.
    OffsetMovedBack {
        /// The group.
        group: String,
        /// What it had committed.
        from: i64,
        /// The end.
        to: i64,
    },
    /// The partition can not be served.
    Damaged {
        /// Why.
        why: String,
    },
}

impl fmt::Display for RecoveryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryEvent::TailCut { file, position, bytes, why, quarantine } => {
                write!(f, "cut {bytes} bytes at {position} of {} ({why})", file.display())?;
                quarantine.iter().try_for_each(|to| write!(f, ", kept in {}", to.display()))
            }
            RecoveryEvent::SegmentSetAside { file, quarantine: None } => {
                write!(f, "removed empty {}", file.display())
            }
            RecoveryEvent::SegmentSetAside { file, quarantine: Some(to) } => {
                write!(f, "set {} aside as {}", file.display(), to.display())
            }
            RecoveryEvent::Rot { file, position, why } => {
                write!(
                    f,
                    "committed bytes are damaged at {position} of {} ({why}); nothing was cut",
                    file.display()
                )
            }
            RecoveryEvent::LeftoverRemoved { file } => write!(f, "removed left-over {}", file.display()),
            RecoveryEvent::SwapFinished { file } => write!(f, "ended the compaction of {}", file.display()),
            RecoveryEvent::SwapUndone { file, why } => {
                write!(f, "gave up the compaction of {} ({why})", file.display())
            }
            RecoveryEvent::OffsetMovedBack { group, from, to } => {
                write!(
                    f,
                    "group {group:?} had committed offset {from} and goes on at {to}, where the log ends now"
                )
            }
            RecoveryEvent::Damaged { why } => write!(f, "damaged: {why}"),
        }
    }
}

/// What opening one partition found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// In the order they happened.
    pub events: Vec<RecoveryEvent>,
}

/// How bad bytes at `position` of a segment are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A crash left them; they were never committed.
    Residue,
    /// They were committed, or too much that is whole lies behind them.
    Rot,
}

/// The rule (a pure function): rot, when the offset expected at the bad byte is below what is proven to be synced, or
/// when whole batches reach further behind it than a crash can leave behind unsynced.
pub(super) fn judge(
    expected: Offset,
    proven: Offset,
    valid_behind: Option<u64>,
    window: Option<u64>,
) -> Verdict {
    let beyond_window = match (valid_behind, window) {
        (Some(bytes), Some(window)) => bytes > window,
        _ => false,
    };
    if expected < proven || beyond_window { Verdict::Rot } else { Verdict::Residue }
}

/// Bytes from `position` to the end of the last whole batch behind it in this segment; `None`: there is none.
pub(super) fn valid_behind(segment: &Segment, position: u64, len: u64) -> Result<Option<u64>> {
    let file = segment.file(Open::Read)?;
    let mut scan = segment.scan(file.as_ref(), position, len);
    let mut end = None;
    loop {
        match scan.next(true)? {
            Step::Batch { .. } => end = Some(scan.position() - position),
            Step::End => return Ok(end),
            Step::Bad { .. } if scan.resync()?.is_none() => return Ok(end),
            Step::Bad { .. } => {}
        }
    }
}

/// Copies `[position, len)` of a segment to a file of its own, durably, before it is cut.
pub(super) fn set_aside(
    storage: &dyn Storage,
    dir: &Path,
    segment: &Segment,
    position: u64,
    len: u64,
) -> Result<PathBuf> {
    const PIECE_BYTES: u64 = 1 << 20;
    let to = dir.join(name::quarantine(segment.base(), position));
    let copy = storage.open(&to, Open::Truncate)?;
    let mut piece = vec![0; usize::try_from(PIECE_BYTES.min(len - position)).unwrap_or(0)];
    let mut at = position;
    while at < len {
        let read = segment.file(Open::Write)?.read_at(&mut piece, at)?;
        let bytes = piece.get(..read.min(usize::try_from(len - at).unwrap_or(read))).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        copy.write_at(bytes, at - position)?;
        at += bytes.len() as u64;
    }
    copy.sync_data()?;
    storage.sync_dir(dir)?;
    Ok(to)
}

/// Puts a copy in the place of a file that has other names, durably: these keep what they have, whatever is done here.
pub(super) fn detach(storage: &dyn Storage, path: &Path, len: u64) -> Result<()> {
    let tmp = path.with_extension("log.cleaned");
    let file = storage.open(&tmp, Open::Truncate)?;
    copy_range(storage.open(path, Open::Read)?.as_ref(), file.as_ref(), 0..len, path)?;
    file.sync_data()?;
    drop(file);
    storage.rename(&tmp, path)?;
    storage.sync_dir(path.parent().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r3_below_the_proven_end_it_is_rot_behind_it_residue() {
        assert_eq!(judge(99, 100, None, Some(10)), Verdict::Rot);
        assert_eq!(judge(100, 100, None, Some(10)), Verdict::Residue);
    }

    #[test]
    fn r3_whole_batches_within_the_window_are_residue_beyond_it_rot() {
        assert_eq!(judge(100, 100, Some(10), Some(10)), Verdict::Residue);
        assert_eq!(judge(100, 100, Some(11), Some(10)), Verdict::Rot);
        assert_eq!(judge(100, 100, Some(1 << 30), None), Verdict::Residue);
    }
}
