//! `logstead-committed`: 24 bytes that say how far a `Disk` topic's partition is durable.
//!
//! Written in place after each group sync, and synced only at close: when it is there and whole, everything below was
//! durable; when not, nothing is assumed. It is also the high watermark that readers in other processes follow.

use std::path::Path;

use crate::error::Result;
use crate::storage::{Storage, read_small};
use crate::types::Offset;

pub(crate) const FILE_NAME: &str = "logstead-committed";

const BYTES: usize = 24;

/// The end of the committed prefix: a segment, a position in it, and the offset that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) segment_base: Offset,
    pub(crate) position: u32,
    pub(crate) end_offset: Offset,
}

impl Committed {
    pub(crate) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&self.segment_base.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.position.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.end_offset.to_be_bytes());
        let sum = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Committed> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
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
        Ok(read_small(storage, &dir.join(FILE_NAME))?.and_then(|bytes| Committed::decode(&bytes)))
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
        for bit in 0..BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Committed::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Committed::decode(&bytes[..23]), None);
        assert_eq!(Committed::decode(&[0; BYTES]), None);
    }
}
