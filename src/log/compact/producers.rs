//! The producers that are still active, by the batches that are there: what a retry of theirs is compared with must stay.

use std::collections::HashMap;

use super::filter::LastOfProducer;
use crate::error::Result;
use crate::log::Log;
use crate::segment::Step;
use crate::storage::Open;
use crate::types::Offset;

/// Kafka's `producer.id.expiration.ms`.
const EXPIRATION_MS: i64 = 86_400_000;

#[derive(Clone, Copy, Debug)]
struct Seen {
    epoch: i16,
    last_data_offset: Option<Offset>,
    last_timestamp: i64,
    in_transaction: bool,
}

impl Log {
    /// The last batch of each producer that did not expire (Kafka's `lastRecordsOfActiveProducers`).
    pub(super) fn last_of_producers(&self, now_ms: i64) -> Result<HashMap<i64, LastOfProducer>> {
        let mut seen: HashMap<i64, Seen> = HashMap::new();
        for segment in self.segments.read().clone() {
            let file = segment.file(Open::Read)?;
            let mut scan = segment.scan(file.as_ref(), 0, segment.visible());
            // Damage ends the pass later, where it is met.
            while let Step::Batch { header, .. } = scan.next(false)? {
                if header.producer_id < 0 {
                    continue;
                }
                let known = seen.get(&header.producer_id).copied();
                let before = known.filter(|known| known.epoch == header.producer_epoch);
                let data = match header.is_control() {
                    true => before.and_then(|before| before.last_data_offset),
                    false => Some(header.last_offset()),
                };
                let last_timestamp = match header.is_control() {
                    true => known.map_or(header.max_timestamp, |known| known.last_timestamp.max(header.max_timestamp)),
                    false => header.max_timestamp,
                };
                let in_transaction = header.is_transactional() && !header.is_control();
                let epoch = header.producer_epoch;
                seen.insert(header.producer_id, Seen { epoch, last_data_offset: data, last_timestamp, in_transaction });
            }
        }
        let active = |seen: &Seen| seen.in_transaction || now_ms.saturating_sub(seen.last_timestamp) < EXPIRATION_MS;
        Ok(seen
            .into_iter()
            .filter(|(_, seen)| active(seen))
            .map(|(id, seen)| (id, LastOfProducer { last_data_offset: seen.last_data_offset, epoch: seen.epoch }))
            .collect())
    }
}
