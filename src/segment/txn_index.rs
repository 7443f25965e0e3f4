//! `.txnindex`: the aborted transactions whose markers lie in a segment, 34 bytes each (Kafka's `TransactionIndex`):
//! version, producer, first offset, offset of the marker, and the first offset that was undecided behind it.
//!
//! Invariants:
//! - The offsets of markers rise. No file is no aborted transaction.
//! - What memory knows goes to the file, synced, before bytes of the segment count as synced.
//! - Only who syncs cuts the file.
//! - A file that can not be right is not believed: whoever asks makes it anew from the log.

use super::{Segment, name};
use crate::error::Result;
use crate::storage::{Open, read_small};
use crate::types::Offset;

pub(crate) const ENTRY_BYTES: usize = 34;

const VERSION: i16 = 0;

/// A transaction whose records do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AbortedTxn {
    pub(crate) producer_id: i64,
    /// Its first record.
    pub(crate) first_offset: Offset,
    /// Its marker.
    pub(crate) last_offset: Offset,
    /// The first offset that was still undecided when the marker was written, at most the one behind it.
    pub(crate) last_stable_offset: Offset,
}

impl AbortedTxn {
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
        let fields = [self.producer_id, self.first_offset, self.last_offset, self.last_stable_offset];
        for (field, into) in fields.iter().zip(bytes[2..].as_chunks_mut::<8>().0) {
            *into = field.to_be_bytes();
        }
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> AbortedTxn {
        let mut fields = [0; 4];
        for (field, from) in fields.iter_mut().zip(bytes[2..].as_chunks::<8>().0) {
            *field = i64::from_be_bytes(*from);
        }
        let [producer_id, first_offset, last_offset, last_stable_offset] = fields;
        AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset }
    }
}

/// What encoded entries say; a last one that is not whole is none.
pub(crate) fn entries(bytes: &[u8]) -> impl Iterator<Item = AbortedTxn> + '_ {
    bytes.as_chunks().0.iter().map(AbortedTxn::decode)
}

pub(crate) fn encoded(entries: &[AbortedTxn]) -> Vec<u8> {
    entries.iter().flat_map(AbortedTxn::encode).collect()
}

/// The entries up to the first that can not be right in a segment of this base.
pub(crate) fn sane_prefix(bytes: &[u8], base: Offset) -> &[u8] {
    let mut before = base.saturating_sub(1);
    let good = bytes.as_chunks::<ENTRY_BYTES>().0.iter().take_while(|bytes| {
        let entry = AbortedTxn::decode(bytes);
        let rising = entry.last_offset > before;
        before = entry.last_offset;
        rising
            && bytes.starts_with(&VERSION.to_be_bytes())
            && entry.producer_id >= 0
            && (0..=entry.last_offset).contains(&entry.first_offset)
            && entry.last_offset < Offset::MAX
    });
    bytes.get(..good.count() * ENTRY_BYTES).unwrap_or_default()
}

/// What is known of the aborted transactions of a segment.
#[derive(Debug)]
pub(super) enum Aborted {
    /// What the file says.
    InFile,
    /// The entries, and how many bytes of them the file has; `None`: what it has is wrong.
    Known { bytes: Vec<u8>, in_file: Option<usize> },
}

impl Aborted {
    /// None, and no file.
    pub(super) fn none() -> Self {
        Aborted::Known { bytes: Vec::new(), in_file: Some(0) }
    }
}

/// The largest file of a closed segment that is kept in memory.
const KEPT_BYTES_MAX: usize = 4_096;

impl Segment {
    /// The transactions that were aborted in this segment, in the order of their markers.
    pub(crate) fn aborted(&self) -> Result<Vec<AbortedTxn>> {
        self.with_aborted(|bytes| entries(bytes).collect())
    }

    /// Adds those that overlap the offsets from `from` to `upper` (Kafka's `TransactionIndex.collectAbortedTxns`).
    /// `true`: no later segment holds one. `None`: what the file says can not be right.
    pub(crate) fn collect_aborted(
        &self,
        from: Offset,
        upper: Offset,
        into: &mut Vec<AbortedTxn>,
    ) -> Result<Option<bool>> {
        self.with_aborted(|bytes| {
            if sane_prefix(bytes, self.base).len() / ENTRY_BYTES != bytes.len() / ENTRY_BYTES {
                return None;
            }
            for entry in entries(bytes) {
                if entry.last_offset >= from && entry.first_offset < upper {
                    into.push(entry);
                }
                if entry.last_stable_offset >= upper {
                    return Some(true);
                }
            }
            Some(false)
        })
    }

    /// Whether it has one, or that is not known yet.
    pub(crate) fn may_have_aborted(&self) -> bool {
        !matches!(&*self.aborted.read(), Aborted::Known { bytes, .. } if bytes.is_empty())
    }

    fn with_aborted<T>(&self, ask: impl FnOnce(&[u8]) -> T) -> Result<T> {
        if let Aborted::Known { bytes, .. } = &*self.aborted.read() {
            return Ok(ask(bytes));
        }
        // Never mapped: a repair cuts it.
        let file = read_small(self.storage.as_ref(), &self.dir.join(name::txn_index(self.base)))?;
        let bytes = file.unwrap_or_default();
        let mut aborted = self.aborted.write();
        if let Aborted::Known { bytes, .. } = &*aborted {
            return Ok(ask(bytes));
        }
        let answer = ask(&bytes);
        if !self.is_sealed() || bytes.len() <= KEPT_BYTES_MAX {
            let in_file = bytes.len().is_multiple_of(ENTRY_BYTES).then_some(bytes.len());
            *aborted = Aborted::Known { bytes, in_file };
        }
        Ok(answer)
    }

    /// Drops what the file has too.
    pub(super) fn forget_aborted(&self) {
        let mut aborted = self.aborted.write();
        if matches!(&*aborted, Aborted::Known { bytes, in_file } if *in_file == Some(bytes.len())) {
            *aborted = Aborted::InFile;
        }
    }

    /// Has what the file says in memory, for [`Segment::note_aborted`].
    pub(crate) fn load_aborted(&self) -> Result<()> {
        self.with_aborted(|_| ())
    }

    /// Counts one more.
    pub(crate) fn note_aborted(&self, txn: &AbortedTxn) {
        if let Aborted::Known { bytes, .. } = &mut *self.aborted.write() {
            bytes.extend_from_slice(&txn.encode());
        }
    }

    /// Takes what a walk over the log found, instead of what the file says.
    pub(crate) fn set_aborted(&self, found: &[AbortedTxn]) -> Result<()> {
        let bytes = encoded(found);
        let in_file = match read_small(self.storage.as_ref(), &self.dir.join(name::txn_index(self.base)))? {
            None if bytes.is_empty() => Some(0),
            Some(there) if bytes.starts_with(&there) => Some(there.len()),
            _ => None,
        };
        *self.aborted.write() = Aborted::Known { bytes, in_file };
        Ok(())
    }

    /// Brings to the file what only memory has. Without `sync` a crash may take it.
    pub(crate) fn flush_aborted(&self, sync: bool) -> Result<()> {
        let (bytes, at) = match &*self.aborted.read() {
            Aborted::Known { bytes, in_file } if *in_file != Some(bytes.len()) => {
                (bytes.get(in_file.unwrap_or(0)..).unwrap_or_default().to_vec(), *in_file)
            }
            _ => return Ok(()),
        };
        let path = self.dir.join(name::txn_index(self.base));
        let from = at.unwrap_or(0);
        let file = match (sync, at) {
            // An empty one would be as good as none; whoever cuts one must see that it is cut.
            (true, None | Some(0)) => self.storage.open(&path, Open::Truncate)?,
            // What is wrong waits for a sync.
            (false, None) => return Ok(()),
            // Another thread may be syncing the same entries: they must not be cut behind its sync.
            (false, Some(0)) => match self.storage.open(&path, Open::Write) {
                Err(error) if error.is_not_found() => self.storage.open(&path, Open::New)?,
                file => file?,
            },
            (_, Some(_)) => self.storage.open(&path, Open::Write)?,
        };
        match sync {
            true => {
                file.write_at(&bytes, from as u64)?;
                file.sync_data()?;
                if from == 0 {
                    self.storage.sync_dir(&self.dir)?;
                }
            }
            false => file.write_hint(&bytes, from as u64)?,
        }
        if let Aborted::Known { in_file, .. } = &mut *self.aborted.write()
            && sync
            && *in_file == at
        {
            *in_file = Some(from + bytes.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TXN: AbortedTxn =
        AbortedTxn { producer_id: 1_000, first_offset: 50, last_offset: 57, last_stable_offset: 58 };

    #[test]
    fn an_entry_has_kafkas_bytes() {
        let hex = "000000000000000003e80000000000000032000000000000\
                   0039000000000000003a";
        let bytes = TXN.encode();
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
        assert_eq!(entries(&bytes).collect::<Vec<_>>(), [TXN]);
        assert_eq!(entries(&bytes[..33]).count(), 0);
    }

    #[test]
    fn entries_that_fall_or_lie_before_the_segment_are_not_sane() {
        let later = AbortedTxn { first_offset: 55, last_offset: 60, ..TXN };
        let bytes = encoded(&[TXN, later]);
        assert_eq!(sane_prefix(&bytes, 57), bytes);
        assert_eq!(sane_prefix(&bytes, 58), b"");
        assert_eq!(sane_prefix(&encoded(&[later, TXN]), 0).len(), ENTRY_BYTES);
        assert_eq!(sane_prefix(&encoded(&[TXN, TXN]), 0).len(), ENTRY_BYTES);
        for wrong in [AbortedTxn { producer_id: -1, ..TXN }, AbortedTxn { first_offset: 58, ..TXN }] {
            assert_eq!(sane_prefix(&encoded(&[wrong]), 0), b"");
        }
        let mut version = bytes.clone();
        version[1] = 1;
        assert_eq!(sane_prefix(&version, 0), b"");
    }
}
