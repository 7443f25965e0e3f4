//! What a verification found: the places, and how much was looked at.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Places that a report lists; those beyond are counted.
const FINDINGS_MAX: usize = 1_000;

/// A place where something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, or the directory that is missing.
    pub file: PathBuf,
    /// The byte where it begins.
    pub position: u64,
    /// What it is.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of {}: {}", self.position, self.file.display(), self.why)
    }
}

/// What [`Store::verify`](crate::Store::verify) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Partitions looked at.
    pub partitions: u64,
    /// Segments read.
    pub segments: u64,
    /// Batches that are right.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes behind the committed ends, which were not judged.
    pub uncommitted_bytes: u64,
    /// What is damaged, the first 1,000 places.
    pub damaged: Vec<Finding>,
    /// Damaged places beyond those.
    pub damaged_more: u64,
    /// What this build can not judge: batches of a codec that it leaves out. The first 1,000.
    pub unchecked: Vec<Finding>,
}

impl VerifyReport {
    /// Whether nothing is damaged. Look at `unchecked` too: what could not be judged is not counted.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty()
    }

    pub(crate) fn damage(&mut self, file: &Path, position: u64, why: impl Into<String>) {
        if self.damaged.len() < FINDINGS_MAX {
            self.damaged.push(Finding { file: file.to_owned(), position, why: why.into() });
        } else {
            self.damaged_more += 1;
        }
    }

    pub(super) fn not_checked(&mut self, file: &Path, position: u64, why: String) {
        if self.unchecked.len() < FINDINGS_MAX {
            self.unchecked.push(Finding { file: file.to_owned(), position, why });
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyReport { partitions, segments, batches, records, bytes, .. } = self;
        write!(
            f,
            "{partitions} partitions, {segments} segments, {batches} batches, {records} records, {bytes} bytes: "
        )?;
        match self.damaged.len() as u64 + self.damaged_more {
            0 => f.write_str("nothing is damaged")?,
            places => write!(f, "{places} damaged places")?,
        }
        self.damaged.iter().try_for_each(|found| write!(f, "\ndamaged: {found}"))?;
        if self.damaged_more > 0 {
            write!(f, "\nand {} more", self.damaged_more)?;
        }
        self.unchecked.iter().try_for_each(|found| write!(f, "\nnot checked: {found}"))
    }
}

/// Tells `report` of a small file that is not readable; other errors are passed on.
pub(crate) fn readable<T>(
    result: Result<T>,
    file: &Path,
    report: &mut VerifyReport,
) -> Result<Option<T>, Error> {
    match result {
        Err(error) if error.is_corrupt() => {
            report.damage(file, 0, error.to_string());
            Ok(None)
        }
        other => other.map(Some),
    }
}
