//! Which records of transactions count, in a partition that a broker wrote: this crate writes no transactions yet, so
//! what is found when the log is first read this way stays true. Beside a broker that writes on, what came since is
//! looked at too.

use std::collections::HashMap;
use std::ops::Range;

use super::Log;
use crate::error::Result;
use crate::record::{BatchHeader, ControlType, RecordIter, verify_crc};
use crate::segment::{AbortedTxn, Fault, Segment, Step};
use crate::storage::Open;
use crate::sync::Arc;
use crate::types::Offset;

/// The fate of the transactions of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Transactions {
    /// First data offset and marker of each aborted transaction, by producer, in order.
    aborted: HashMap<i64, Vec<(Offset, Offset)>>,
    /// First data offset of the transaction that each producer has open.
    open: HashMap<i64, Offset>,
    /// Everything below was looked at.
    end: Offset,
}

impl Transactions {
    /// The first offset that is not decided yet.
    pub(super) fn last_stable_offset(&self) -> Option<Offset> {
        self.open.values().copied().min()
    }

    /// Whether a data batch belongs to a transaction that was aborted. Markers and data match by producer alone.
    pub(super) fn is_aborted(&self, header: &BatchHeader) -> bool {
        header.is_transactional()
            && !header.is_control()
            && self.aborted.get(&header.producer_id).is_some_and(|ranges| {
                ranges.iter().any(|(first, marker)| (first..marker).contains(&&header.base_offset))
            })
    }

    /// All that were aborted, by first offset.
    pub(super) fn aborted(&self) -> Vec<AbortedTxn> {
        let all = self.aborted.iter().flat_map(|(producer, ranges)| ranges.iter().map(move |range| (*producer, *range)));
        let mut aborted: Vec<AbortedTxn> = all
            .map(|(producer_id, (first_offset, last_offset))| AbortedTxn {
                producer_id,
                first_offset,
                last_offset,
                last_stable_offset: last_offset + 1,
            })
            .collect();
        aborted.sort_unstable_by_key(|txn| (txn.first_offset, txn.producer_id));
        aborted
    }

    fn note(&mut self, header: &BatchHeader, marker: Option<ControlType>) {
        let (producer, at) = (header.producer_id, header.base_offset);
        match marker {
            None => {
                self.open.entry(producer).or_insert(at);
            }
            Some(ControlType::Commit) => {
                self.open.remove(&producer);
            }
            Some(ControlType::Abort) => {
                if let Some(first) = self.open.remove(&producer) {
                    self.aborted.entry(producer).or_default().push((first, at));
                }
            }
            Some(ControlType::Other(_)) => {}
        }
    }
}

impl Log {
    /// Goes over all batches on first use, and over those that a writer elsewhere added since.
    pub(super) fn transactions(&self) -> Result<Arc<Transactions>> {
        let known = self.transactions.read().clone();
        let end = self.high_watermark();
        let mut found = match known {
            Some(known) if self.follow.is_none() || known.end >= end => return Ok(known),
            Some(known) => Transactions::clone(&known),
            None => Transactions::default(),
        };
        // Offsets without gaps: made here, where nobody writes transactions.
        let segments = if self.contiguous { Vec::new() } else { self.segments.read().clone() };
        let first = segments.partition_point(|segment| segment.base() <= found.end).saturating_sub(1);
        for segment in segments.iter().skip(first) {
            self.note_transactions(segment, found.end..end, &mut found)?;
        }
        found.end = end;
        let found = Arc::new(found);
        *self.transactions.write() = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Takes the batches whose offsets lie in `new`.
    fn note_transactions(
        &self,
        segment: &Segment,
        new: Range<Offset>,
        found: &mut Transactions,
    ) -> Result<()> {
        let from = match segment.find(new.start) {
            Ok(Some(landing)) => landing.position,
            Ok(None) if new.start > segment.base() => return Ok(()),
            Ok(None) | Err(Fault::Bytes { .. }) => 0,
            Err(Fault::Disk(error)) => return Err(error),
        };
        let file = segment.file(Open::Read)?;
        let mut scan = segment.scan(file.as_ref(), from, segment.visible());
        loop {
            match scan.next(false)? {
                Step::Batch { header, .. } if header.base_offset >= new.end => return Ok(()),
                Step::Batch { position, header }
                    if header.is_transactional() && header.base_offset >= new.start =>
                {
                    let marker = match header.is_control() {
                        true => {
                            Some(control_type(&header, segment.read(position, header.size() as u64)?.bytes()))
                        }
                        false => None,
                    };
                    found.note(&header, marker);
                }
                Step::Batch { .. } => {}
                Step::End => return Ok(()),
                // Reads report the damage; a marker in it leaves its transaction open.
                Step::Bad { .. } if scan.resync()?.is_none() => return Ok(()),
                Step::Bad { .. } => {}
            }
        }
    }
}

fn control_type(header: &BatchHeader, batch: &[u8]) -> ControlType {
    let section = batch.get(crate::limits::BATCH_HEADER_BYTES..).unwrap_or_default();
    let key = RecordIter::new(section).next().and_then(|record| record.key);
    match (verify_crc(batch, header), key.map(ControlType::parse)) {
        (Ok(()), Some(Ok(kind))) => kind,
        _ => ControlType::Other(-1),
    }
}
