//! Kafka's small text files: the offset checkpoints of a store and the leader epochs of a partition.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::error::{ErrorKind, Result};
use crate::storage::{Storage, read_small, replace};
use crate::types::Offset;

/// What everything below is synced; per partition.
pub(crate) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// First offsets that lie inside a segment; per partition.
pub(crate) const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// Where the next compaction begins; per partition that was compacted.
pub(crate) const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";
/// High watermarks; per partition.
pub(crate) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
/// Leader epochs and where they start; in a partition's directory.
pub(crate) const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";

/// `topic partition offset` lines.
pub(crate) type Offsets = BTreeMap<(String, i32), Offset>;

/// Reads an offset checkpoint; absent or empty is no entries.
pub(crate) fn read_offsets(storage: &dyn Storage, path: &Path) -> Result<Offsets> {
    let mut offsets = Offsets::new();
    for line in read_lines(storage, path)? {
        let entry = match *line.split_whitespace().collect::<Vec<_>>() {
            [topic, partition, offset] => partition
                .parse()
                .ok()
                .zip(offset.parse::<Offset>().ok().filter(|o| *o >= 0))
                .map(|(p, o)| ((topic.to_owned(), p), o)),
            _ => None,
        };
        let (key, offset) =
            entry.ok_or_else(|| bad(path, format!("{line:?} is not `topic partition offset`")))?;
        offsets.insert(key, offset);
    }
    Ok(offsets)
}

pub(crate) fn write_offsets(storage: &dyn Storage, path: &Path, offsets: &Offsets) -> Result<()> {
    let lines = offsets.iter().map(|((topic, partition), offset)| format!("{topic} {partition} {offset}"));
    replace(storage, path, text_of(lines).as_bytes())
}

/// Reads `epoch start-offset` lines, both rising.
pub(crate) fn read_epochs(storage: &dyn Storage, path: &Path) -> Result<Vec<(i32, Offset)>> {
    let mut epochs: Vec<(i32, Offset)> = Vec::new();
    for line in read_lines(storage, path)? {
        let entry = match *line.split_whitespace().collect::<Vec<_>>() {
            [epoch, start] => epoch.parse().ok().zip(start.parse().ok()),
            _ => None,
        };
        match entry {
            Some((epoch, start))
                if epoch >= 0 && start >= 0 && epochs.last().is_none_or(|l| l.0 < epoch && l.1 <= start) =>
            {
                epochs.push((epoch, start));
            }
            _ => return Err(bad(path, format!("{line:?} is not a rising `epoch start-offset`"))),
        }
    }
    Ok(epochs)
}

/// The text of a checkpoint of epochs.
pub(crate) fn epochs_text(epochs: &[(i32, Offset)]) -> String {
    text_of(epochs.iter().map(|(epoch, start)| format!("{epoch} {start}")))
}

fn bad(path: &Path, why: String) -> crate::error::Error {
    ErrorKind::BadFile { file: path.to_owned(), why }.into()
}

/// The lines behind version and count (Kafka's `CheckpointFile`).
fn read_lines(storage: &dyn Storage, path: &Path) -> Result<Vec<String>> {
    let Some(bytes) = read_small(storage, path)? else { return Ok(Vec::new()) };
    let text = String::from_utf8(bytes).map_err(|_| bad(path, "it is not UTF-8".to_owned()))?;
    let mut lines = text.lines().map(str::trim);
    match lines.next() {
        None => return Ok(Vec::new()),
        Some("0") => {}
        Some(version) => return Err(bad(path, format!("version {version:?} is not known"))),
    }
    let count = lines.next().unwrap_or_default();
    let rest: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if count.parse() != Ok(rest.len()) {
        return Err(bad(path, format!("it promises {count:?} entries and holds {}", rest.len())));
    }
    Ok(rest)
}

fn text_of(lines: impl ExactSizeIterator<Item = String>) -> String {
    let mut text = String::new();
    // Writing to a String can not fail.
    let _ = writeln!(text, "0\n{}", lines.len());
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimDisk;

    fn disk(name: &str, text: &str) -> SimDisk {
        let disk = SimDisk::in_memory();
        disk.create_dir(Path::new("/d")).unwrap();
        disk.write_file(Path::new("/d").join(name), text.as_bytes()).unwrap();
        disk
    }

    #[test]
    fn offsets_round_trip_in_kafkas_form() {
        let disk = disk("x", "");
        let path = Path::new("/d/x");
        let offsets = Offsets::from([(("orders".to_owned(), 0), 1500), (("my-topic".to_owned(), 3), 42)]);
        write_offsets(&disk, path, &offsets).unwrap();
        assert_eq!(disk.read_file(path).unwrap(), b"0\n2\nmy-topic 3 42\norders 0 1500\n");
        assert_eq!(read_offsets(&disk, path).unwrap(), offsets);
    }

    #[test]
    fn g22_spaces_and_crlf_are_fine_wrong_counts_and_versions_are_not() {
        let read = |text| read_offsets(&disk("x", text), Path::new("/d/x"));
        assert_eq!(read("0\r\n1\r\na   0  7\r\n").unwrap(), Offsets::from([(("a".to_owned(), 0), 7)]));
        assert!(read("").unwrap().is_empty());
        for wrong in
            ["1\n1\na 0 7\n", "0\n2\na 0 7\n", "0\n1\na 0\n", "0\n1\na x 7\n", "0\nx\n", "0\n1\na 0 -7\n"]
        {
            assert!(read(wrong).is_err_and(|e| e.is_corrupt()), "{wrong:?}");
        }
    }

    #[test]
    fn epochs_must_rise() {
        let read = |text| read_epochs(&disk("x", text), Path::new("/d/x"));
        assert_eq!(read("0\n2\n0 0\n3 150\n").unwrap(), [(0, 0), (3, 150)]);
        for wrong in ["0\n2\n3 0\n3 150\n", "0\n2\n0 9\n1 8\n", "0\n1\n-1 0\n"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
