//! What a copy of a segment needs: its bytes, and the index of as much of it as is copied.
//!
//! Invariants:
//! - An index that is handed out speaks of nothing behind the end of the copy, and its last time entry is the youngest
//!   record in front of it, as if the segment had been closed there.

use super::offset_index::{self, OffsetIndex};
use super::scan::Step;
use super::time_index::{self, TimeIndex};
use super::{Segment, index::Index, name};
use crate::error::Result;
use crate::storage::Open;
use crate::types::Offset;

/// The encoded entries of a segment's two indexes.
#[derive(Debug)]
pub(crate) struct IndexBytes {
    pub(crate) offsets: Vec<u8>,
    pub(crate) times: Vec<u8>,
}

impl Segment {
    /// The indexes of the first `position` bytes, which end at offset `end`.
    pub(crate) fn index_below(&self, position: u64, end: Offset) -> Result<IndexBytes> {
        let all = self.index_bytes()?;
        let room = self.config.segment_index_bytes;
        let mut offsets = OffsetIndex::from_bytes(self.base, all.offsets, room);
        let mut times = TimeIndex::from_bytes(self.base, all.times, room);
        offsets.truncate_to(end);
        times.truncate_to(end);
        // An entry is made every few kilobytes: only what lies behind the last one is looked at.
        let from = offsets.last().map_or(0, |last| u64::from(last.position));
        let mut scan = self.scan(self.file(Open::Read)?.as_ref(), from, position);
        let mut youngest = (-1, self.base);
        while let Step::Batch { header, .. } = scan.next(false)? {
            if header.max_timestamp > youngest.0 {
                youngest = (header.max_timestamp, header.last_offset());
            }
        }
        times.append_last(youngest.0, youngest.1);
        Ok(IndexBytes { offsets: offsets.bytes().to_vec(), times: times.bytes().to_vec() })
    }

    /// What memory, or the files, or, where these are not right, the log itself says; nothing is kept in memory for it.
    fn index_bytes(&self) -> Result<IndexBytes> {
        if let Index::Growing(growing) = &*self.index.read() {
            let (offsets, times) = (growing.offsets.bytes().to_vec(), growing.times.bytes().to_vec());
            return Ok(IndexBytes { offsets, times });
        }
        let offsets = self.index_region(&name::offset_index(self.base))?;
        let times = self.index_region(&name::time_index(self.base))?;
        if let (Some(offsets), Some(times)) = (offsets, times)
            && offset_index::is_sane(offsets.bytes(), self.visible())
            && time_index::is_sane(times.bytes(), self.base)
            && self.times_reach_the_end(offsets.bytes(), times.bytes())?
        {
            return Ok(IndexBytes { offsets: offsets.bytes().to_vec(), times: times.bytes().to_vec() });
        }
        let rebuilt = self.made_anew()?;
        Ok(IndexBytes { offsets: rebuilt.offsets.bytes().to_vec(), times: rebuilt.times.bytes().to_vec() })
    }
}
