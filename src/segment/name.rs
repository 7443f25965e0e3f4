//! Names inside a partition's directory: `00000000000000000042.log` and its kin.

use crate::types::Offset;

/// What a name in a partition's directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentFile {
    Log(Offset),
    OffsetIndex(Offset),
    TimeIndex(Offset),
    TransactionIndex(Offset),
    Snapshot(Offset),
    Digest(Offset),
    /// Any of them, renamed before it is unlinked.
    Deleted,
    /// Output of an unfinished compaction.
    Cleaned,
    /// Output of a finished compaction whose last rename is missing.
    Swap,
}

impl SegmentFile {
    /// `None` for names that mean nothing to a log (Kafka's `LogLoader` leaves them alone, and so do we).
    pub(crate) fn parse(name: &str) -> Option<SegmentFile> {
        if let Some((base, _, suffix)) = split_suffix(name).filter(|_| name.starts_with(DIGEST_PREFIX)) {
            return match suffix {
                "" => Some(SegmentFile::Digest(base)),
                ".deleted" => Some(SegmentFile::Deleted),
                ".cleaned" => Some(SegmentFile::Cleaned),
                _ => Some(SegmentFile::Swap),
            };
        }
        let digits = name.split('.').next()?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let base: Offset = digits.parse().ok()?;
        match name.get(digits.len()..)? {
            LOG_SUFFIX => Some(SegmentFile::Log(base)),
            ".index" => Some(SegmentFile::OffsetIndex(base)),
            ".timeindex" => Some(SegmentFile::TimeIndex(base)),
            ".txnindex" => Some(SegmentFile::TransactionIndex(base)),
            ".snapshot" => Some(SegmentFile::Snapshot(base)),
            rest if rest.ends_with(".deleted") => Some(SegmentFile::Deleted),
            rest if rest.ends_with(".cleaned") => Some(SegmentFile::Cleaned),
            rest if rest.ends_with(".swap") => Some(SegmentFile::Swap),
            _ => None,
        }
    }
}

const DIGEST_PREFIX: &str = "seg-";

/// Takes the name of a segment's file apart: the base (of a snapshot its offset), the name it has when nothing is done
/// to it, and what is appended to that while something is (`.cleaned`, `.swap`, `.deleted`).
pub(crate) fn split_suffix(name: &str) -> Option<(Offset, &str, &str)> {
    const KINDS: [&str; 5] = [".log", ".index", ".timeindex", ".txnindex", ".snapshot"];
    let (digits, kinds) = match name.strip_prefix(DIGEST_PREFIX) {
        Some(rest) => (rest, &[".sum"][..]),
        None => (name, &KINDS[..]),
    };
    let len = digits.find('.')?;
    let (digits, rest) = digits.split_at_checked(len)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let base = digits.parse().ok()?;
    let kind = kinds
        .iter()
        .find(|kind| rest.strip_prefix(**kind).is_some_and(|s| s.is_empty() || s.starts_with('.')))?;
    let suffix = rest.strip_prefix(kind)?;
    let plain = name.strip_suffix(suffix)?;
    matches!(suffix, "" | ".cleaned" | ".swap" | DELETED_SUFFIX).then_some((base, plain, suffix))
}

pub(crate) fn log(base: Offset) -> String {
    format!("{base:020}{LOG_SUFFIX}")
}

pub(crate) fn offset_index(base: Offset) -> String {
    format!("{base:020}.index")
}

pub(crate) fn time_index(base: Offset) -> String {
    format!("{base:020}.timeindex")
}

/// The digest of a compacted segment. No name that begins with an offset: a broker removes those when it finishes a
/// swap.
pub(crate) fn digest(base: Offset) -> String {
    format!("seg-{base:020}.sum")
}

/// All that goes when a segment goes. Any of them but the first may be missing.
pub(crate) fn files_of(base: Offset) -> [String; 6] {
    let of = |suffix| format!("{base:020}.{suffix}");
    [log(base), offset_index(base), time_index(base), of("txnindex"), of("snapshot"), digest(base)]
}

/// How the name of a file with records ends.
pub(crate) const LOG_SUFFIX: &str = ".log";

/// How the name of a file ends that is about to be unlinked (Kafka's `.deleted`).
pub(crate) const DELETED_SUFFIX: &str = ".deleted";

pub(crate) fn txn_index(base: Offset) -> String {
    format!("{base:020}.txnindex")
}

/// The state of producers below an offset.
pub(crate) fn snapshot(offset: Offset) -> String {
    format!("{offset:020}.snapshot")
}

/// Where bytes go that recovery sets aside; no sub-directory (a broker refuses those), no name a broker reads.
pub(crate) fn quarantine(base: Offset, position: u64) -> String {
    format!("quarantine-{base:020}-{position}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_apart_and_put_together_again() {
        for plain in files_of(7) {
            for suffix in ["", ".cleaned", ".swap", DELETED_SUFFIX] {
                let name = format!("{plain}{suffix}");
                assert_eq!(split_suffix(&name), Some((7, plain.as_str(), suffix)), "{name}");
            }
        }
        for other in
            ["seg-7.log", "7.sum", "x7.log", "7.log.tmp", "7.logs", "7", "seg-.sum", "partition.metadata"]
        {
            assert_eq!(split_suffix(other), None, "{other}");
        }
    }

    #[test]
    fn names_are_twenty_digits_and_round_trip() {
        assert_eq!(log(42), "00000000000000000042.log");
        assert_eq!(SegmentFile::parse(&log(42)), Some(SegmentFile::Log(42)));
        assert_eq!(SegmentFile::parse(&offset_index(i64::MAX)), Some(SegmentFile::OffsetIndex(i64::MAX)));
        assert_eq!(SegmentFile::parse(&time_index(0)), Some(SegmentFile::TimeIndex(0)));
        assert_eq!(SegmentFile::parse(&txn_index(7)), Some(SegmentFile::TransactionIndex(7)));
        assert_eq!(SegmentFile::parse(&snapshot(7)), Some(SegmentFile::Snapshot(7)));
        assert_eq!(SegmentFile::parse("00000000000000000007.log.deleted"), Some(SegmentFile::Deleted));
        assert_eq!(SegmentFile::parse("00000000000000000007.index.cleaned"), Some(SegmentFile::Cleaned));
        assert_eq!(SegmentFile::parse("00000000000000000007.log.swap"), Some(SegmentFile::Swap));
        for name in files_of(7).iter().take(5) {
            assert!(SegmentFile::parse(name).is_some(), "{name}");
            assert_eq!(SegmentFile::parse(&format!("{name}{DELETED_SUFFIX}")), Some(SegmentFile::Deleted));
        }
        assert_eq!(SegmentFile::parse(&digest(7)), Some(SegmentFile::Digest(7)));
        assert_eq!(SegmentFile::parse("seg-00000000000000000007.sum.cleaned"), Some(SegmentFile::Cleaned));
        for other in
            ["leader-epoch-checkpoint", "99999999999999999999.log", &quarantine(0, 7), "x.log", ".log", ""]
        {
            assert_eq!(SegmentFile::parse(other), None, "{other}");
        }
    }
}
