//! `logstead-committed`: 24 bytes that say how far a `Disk` topic's partition is durable.
//!
//! Written in place after each group sync, and synced only at close: when it is there and whole, everything below was
//! durable; when not, nothing is assumed. It is also the high watermark that readers in other processes follow.

use std::path::Path;

use crate::error::Result;
use crate::storage::{File, Open, Storage};
use crate::types::Offset;

pub(crate) const FILE_NAME: &str = "logstead-committed";

/// The end of the committed prefix: a segment, a position in it, and the offset that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) segment_base: Offset,
    pub(crate) position: u32,
    pub(crate) end_offset: Offset,
}

/// What the file says to a reader beside the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// There is no file.
    Absent,
    /// It says that nobody tells.
    Empty,
    At(Committed),
    /// It is damaged, or written right now by somebody who never ends.
    Unreadable,
}

/// How often a slot is read that does not match its checksum: its writer may be at it.
const ATTEMPTS: usize = 100;

impl Slot {
    pub(crate) fn read(file: &dyn File) -> Result<Slot> {
        let mut bytes = [0; Committed::BYTES];
        for _ in 0..ATTEMPTS {
            let read = file.read_at(&mut bytes, 0)?;
            let bytes = bytes.get(..read).unwrap_or_default();
            if bytes.iter().all(|byte| *byte == 0) {
                return Ok(Slot::Empty);
            }
            if let Some(committed) = Committed::decode(bytes) {
                return Ok(Slot::At(committed));
            }
            std::hint::spin_loop();
        }
        Ok(Slot::Unreadable)
    }
}

impl Committed {
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.segment_base.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.position.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.end_offset.to_be_bytes());
        let sum = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Committed> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let sum = u32::from_be_bytes(bytes[20..].try_into().ok()?);
        let committed = Committed {
            segment_base: Offset::from_be_bytes(bytes[..8].try_into().ok()?),
            position: u32::from_be_bytes(bytes[8..12].try_into().ok()?),
            end_offset: Offset::from_be_bytes(bytes[12..20].try_into().ok()?),
        };
        (sum == crc32fast::hash(&bytes[..20])
            && 0 <= committed.segment_base
            && committed.segment_base <= committed.end_offset)
            .then_some(committed)
    }

    /// The slot of a partition's directory; `None` when it proves nothing.
    pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Option<Committed>> {
        match storage.open(&dir.join(FILE_NAME), Open::Read) {
            Ok(file) => match Slot::read(file.as_ref())? {
                Slot::At(committed) => Ok(Some(committed)),
                Slot::Absent | Slot::Empty | Slot::Unreadable => Ok(None),
            },
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_round_trips_and_every_flipped_bit_is_seen() {
        let slot = Committed { segment_base: 40, position: 4_158, end_offset: 1_047 };
        let bytes = slot.encode();
        assert_eq!(Committed::decode(&bytes), Some(slot));
        for bit in 0..Committed::BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Committed::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Committed::decode(&bytes[..23]), None);
        assert_eq!(Committed::decode(&[0; Committed::BYTES]), None);
    }
}
