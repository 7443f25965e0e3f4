//! The segment that a compaction writes: its files under names that end in `.cleaned`, synced when it is ended.
//!
//! Invariants:
//! - Nothing is written to a file that has a segment's own name.
//! - A write is one call of [`WRITE_BYTES`] or a little more, however small the batches are.

use std::path::Path;

use super::swap::CLEANED;
use crate::error::{ErrorKind, Result};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::record::BatchHeader;
use crate::segment::{AbortedTxn, DigestDraft, IndexDraft, SegmentConfig, name, txn_index};
use crate::storage::{File, Open, Storage};
use crate::sync::Arc;
use crate::types::Offset;

/// What goes out with one call: the best size for a file that grows.
const WRITE_BYTES: usize = 128 * 1024;

pub(super) struct Output<'o> {
    storage: &'o dyn Storage,
    dir: &'o Path,
    base: Offset,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    /// Where `buffer` goes.
    written: u64,
    sum: crc32fast::Hasher,
    index: IndexDraft,
    digest: DigestDraft,
    pub(super) batches: u64,
}

/// A segment that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) bytes: u64,
    pub(super) sum: u32,
}

impl<'o> Output<'o> {
    pub(super) fn create(
        storage: &'o dyn Storage,
        dir: &'o Path,
        base: Offset,
        config: SegmentConfig,
    ) -> Result<Output<'o>> {
        let open = |name: String| storage.open(&dir.join(name + CLEANED), Open::Truncate);
        Ok(Output {
            storage,
            dir,
            base,
            file: open(name::log(base))?,
            buffer: Vec::with_capacity(WRITE_BYTES * 2),
            written: 0,
            sum: crc32fast::Hasher::new(),
            index: IndexDraft::new(base, config),
            digest: DigestDraft::new(open(name::digest(base))?, base),
            batches: 0,
        })
    }

    /// Adds a batch behind the last.
    pub(super) fn push(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<()> {
        let position = self.written + self.buffer.len() as u64;
        if position + batch.len() as u64 > SEGMENT_BYTES_MAX {
            // What was packed by somebody else took less room.
            let file = self.dir.join(name::log(self.base));
            let why = "its batches take more than a segment can hold when they are packed anew".to_owned();
            return Err(ErrorKind::BadFile { file, why }.into());
        }
        self.index.note(position, header);
        self.digest.note(position, batch)?;
        self.batches += 1;
        if batch.len() >= WRITE_BYTES {
            self.flush()?;
            return self.write(batch);
        }
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = if buffer.is_empty() { Ok(()) } else { self.write(&buffer) };
        buffer.clear();
        self.buffer = buffer;
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, self.written)?;
        self.sum.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes what is left, and makes all files durable; their names are not yet.
    pub(super) fn end(mut self, aborted: &[AbortedTxn], modified_ms: i64) -> Result<Made> {
        self.flush()?;
        let put = |name: String, bytes: &[u8]| {
            let file = self.storage.open(&self.dir.join(name + CLEANED), Open::Truncate)?;
            file.write_at(bytes, 0)?;
            file.sync_data()
        };
        let indexes = self.index.end();
        put(name::offset_index(self.base), &indexes.offsets)?;
        put(name::time_index(self.base), &indexes.times)?;
        if !aborted.is_empty() {
            put(name::txn_index(self.base), &txn_index::encoded(aborted))?;
        }
        self.digest.end(self.written)?;
        // Retention goes by it where records have no timestamps. Synced with the contents.
        self.file.set_modified_ms(modified_ms)?;
        self.file.sync_data()?;
        Ok(Made { bytes: self.written, sum: self.sum.finalize() })
    }
}
