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
        let digits = name.split('.').next()?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let base: Offset = digits.parse().ok()?;
        match name.get(digits.len()..)? {
            ".log" => Some(SegmentFile::Log(base)),
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

pub(crate) fn log(base: Offset) -> String {
    format!("{base:020}.log")
}

pub(crate) fn offset_index(base: Offset) -> String {
    format!("{base:020}.index")
}

pub(crate) fn time_index(base: Offset) -> String {
    format!("{base:020}.timeindex")
}

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
        for other in
            ["leader-epoch-checkpoint", "99999999999999999999.log", &quarantine(0, 7), "x.log", ".log", ""]
        {
            assert_eq!(SegmentFile::parse(other), None, "{other}");
        }
    }
}
