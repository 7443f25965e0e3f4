//! A segment's indexes compared with the log, batch by batch, without a change to either.

use std::path::{Path, PathBuf};

use super::{name, offset_index, time_index};
use crate::error::Result;
use crate::record::BatchHeader;
use crate::storage::{Storage, read_small};
use crate::types::Offset;

/// What an index says that the log does not: in which file, at which byte, and what.
pub(crate) type Disagreement = (PathBuf, u64, String);

/// One index file, and how far it was compared.
struct Half {
    path: PathBuf,
    bytes: Vec<u8>,
    next: usize,
}

/// The index files of a segment that is closed.
pub(crate) struct IndexCheck {
    base: Offset,
    offsets: Half,
    times: Half,
    youngest: i64,
}

impl IndexCheck {
    /// Reads both files; one that can be no index is told and compared as far as it can be. So is a missing one, if
    /// `all`: a crash can take the name of one whose segment it leaves.
    pub(crate) fn open(
        storage: &dyn Storage,
        dir: &Path,
        base: Offset,
        log_bytes: u64,
        all: bool,
        told: &mut Vec<Disagreement>,
    ) -> Result<IndexCheck> {
        let mut half = |name: String, entry_bytes: usize, sane: &dyn Fn(&[u8]) -> usize| {
            let path = dir.join(name);
            let bytes = match read_small(storage, &path) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    if all {
                        let why = "it is missing: it is made anew when it is needed".to_owned();
                        told.push((path.clone(), 0, why));
                    }
                    Vec::new()
                }
                Err(error) if error.is_corrupt() => {
                    told.push((path.clone(), 0, error.to_string()));
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            let good = sane(&bytes);
            if good < bytes.len() {
                told.push((
                    path.clone(),
                    good as u64,
                    "its entries do not rise, or leave the log".to_owned(),
                ));
            }
            let bytes = bytes.get(..good / entry_bytes * entry_bytes).unwrap_or_default().to_vec();
            Ok(Half { path, bytes, next: 0 })
        };
        let offsets = half(name::offset_index(base), offset_index::ENTRY_BYTES, &|bytes| {
            offset_index::sane_prefix(bytes, log_bytes).len()
        })?;
        let times = half(name::time_index(base), time_index::ENTRY_BYTES, &|bytes| {
            time_index::sane_prefix(bytes, base).len()
        })?;
        Ok(IndexCheck { base, offsets, times, youngest: -1 })
    }

    /// Compares what the indexes say of the batch that comes next.
    pub(crate) fn batch(&mut self, position: u64, header: &BatchHeader, told: &mut Vec<Disagreement>) {
        self.youngest = self.youngest.max(header.max_timestamp);
        while let Some(entry) = offset_index::entry(&self.offsets.bytes, self.base, self.offsets.next)
            && u64::from(entry.position) <= position
        {
            let at = (self.offsets.next * offset_index::ENTRY_BYTES) as u64;
            if (u64::from(entry.position), entry.offset) != (position, header.last_offset()) {
                let why =
                    format!("no batch that ends at offset {} is at byte {}", entry.offset, entry.position);
                told.push((self.offsets.path.clone(), at, why));
            }
            self.offsets.next += 1;
        }
        while let Some(entry) = time_index::entry(&self.times.bytes, self.base, self.times.next)
            && entry.offset <= header.last_offset()
        {
            let at = (self.times.next * time_index::ENTRY_BYTES) as u64;
            if entry.timestamp != self.youngest || entry.offset < header.base_offset {
                let why =
                    format!("offset {} has not the youngest time so far, {}", entry.offset, entry.timestamp);
                told.push((self.times.path.clone(), at, why));
            }
            self.times.next += 1;
        }
    }

    /// Compares what is left when the last batch was seen.
    pub(crate) fn end(&self, told: &mut Vec<Disagreement>) {
        if offset_index::entry(&self.offsets.bytes, self.base, self.offsets.next).is_some() {
            let at = (self.offsets.next * offset_index::ENTRY_BYTES) as u64;
            told.push((self.offsets.path.clone(), at, "it speaks of more than there is".to_owned()));
        }
        let last = time_index::last(&self.times.bytes, self.base).map_or(-1, |last| last.timestamp);
        let all_seen = time_index::entry(&self.times.bytes, self.base, self.times.next).is_none();
        if (!all_seen || last < self.youngest) && !self.times.bytes.is_empty() {
            let why = "its last entry is not the youngest record".to_owned();
            told.push((self.times.path.clone(), self.times.bytes.len() as u64, why));
        }
    }
}
