//! A batch that moves to the log of another cluster: the numbers that each cluster gives out itself.

use super::batch::BatchHeader;
use super::checksum::crc32c;
use super::layout as at;

/// No Kafka cluster reaches producer ids with this bit: it counts them from 0 on.
const FROM_ELSEWHERE: i64 = 1 << 62;

/// Makes a batch, whose checksum is right, one that another cluster's log may hold. Records, offsets, timestamps and
/// sequences stay; so does which data and which markers belong together.
///
/// - Leader epochs begin at 0 there. They lie outside the checksum.
/// - Producer ids are counted from 0 there too, and a log remembers the last batches of each: a new producer that got
///   the id of an old one would be refused, or its records dropped as repeated. So they move out of the way.
///
/// Messages of formats 0 and 1 have neither.
pub(crate) fn move_to_another_cluster(batch: &mut [u8], header: &BatchHeader) {
    if header.is_legacy() {
        return;
    }
    at::put(batch, at::LEADER_EPOCH, 0_i32.to_be_bytes());
    if header.producer_id < 0 || header.producer_id & FROM_ELSEWHERE != 0 {
        return;
    }
    at::put(batch, at::PRODUCER_ID, (header.producer_id | FROM_ELSEWHERE).to_be_bytes());
    let crc = crc32c(batch.get(at::CHECKSUMMED..).unwrap_or_default());
    at::put(batch, at::CRC, crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, BatchFields, Compression, verify_crc};
    use super::*;

    fn batch(producer_id: i64) -> (Vec<u8>, BatchHeader) {
        let mut builder = BatchBuilder::new(100);
        builder.push(5, Some(b"key"), Some(b"value"), &[]).unwrap();
        if producer_id >= 0 {
            builder.set_fields(BatchFields {
                producer_id,
                producer_epoch: 3,
                base_sequence: 7,
                transactional: true,
                ..BatchFields::default()
            });
        }
        let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
        sealed.place(40, 9);
        (sealed.bytes().to_vec(), *sealed.header())
    }

    #[test]
    fn epochs_begin_anew_and_producers_move_out_of_the_way() {
        let (before, header) = batch(17);
        let mut after = before.clone();
        move_to_another_cluster(&mut after, &header);
        let moved = BatchHeader::parse(&after).unwrap();
        verify_crc(&after, &moved).unwrap();
        assert_eq!((moved.leader_epoch, moved.producer_id), (0, 17 | 1 << 62));
        let same = BatchHeader { leader_epoch: 9, producer_id: 17, crc: header.crc, ..moved };
        assert_eq!(same, header);
        assert_eq!(after[at::PRODUCER_EPOCH..], before[at::PRODUCER_EPOCH..]);

        // A second move changes nothing.
        let again = after.clone();
        move_to_another_cluster(&mut after, &moved);
        assert_eq!(after, again);
    }

    #[test]
    fn a_batch_without_a_producer_keeps_its_checksum() {
        let (before, header) = batch(-1);
        let mut after = before.clone();
        move_to_another_cluster(&mut after, &header);
        let moved = BatchHeader::parse(&after).unwrap();
        assert_eq!(moved, BatchHeader { leader_epoch: 0, ..header });
        verify_crc(&after, &moved).unwrap();
    }
}
