//! What the fuzz targets under `fuzz/` call: one function per target, each fed with bytes from nowhere.

use crate::limits::{BATCH_HEADER_BYTES, DECOMPRESS_BUDGET_BYTES};
use crate::record::{self, BatchHeader, Compression, RecordIter};

/// Reads bytes as a batch, with every check and without: nothing may panic, and what was accepted must hold.
pub fn batch(data: &[u8]) {
    if let Some(position) = record::find_batch(data, 0) {
        let found = &data[position..];
        let header = BatchHeader::parse(found).expect("find_batch parsed it");
        record::verify_crc(found, &header).expect("find_batch verified it");
    }
    let Ok(header) = BatchHeader::parse(data) else { return };
    let _ = record::verify_crc(data, &header);
    let _ = record::empty_batch(&header);
    let _ = (header.last_sequence(), header.next_offset(), header.timestamp(i64::MIN));

    // The checksum is no bar here: a hostile writer can compute it.
    let Some(batch) = data.get(..header.size()) else { return };
    let Ok(section) = record::decompress(&header, batch) else { return };
    assert!(section.len() <= batch.len() + DECOMPRESS_BUDGET_BYTES);
    if header.compression() == Compression::None {
        assert_eq!(section, &batch[BATCH_HEADER_BYTES..]);
    }
    let checked = record::check_records(&header, &section);
    let mut records = 0;
    for record in RecordIter::new(&section) {
        records += 1;
        let headers = record.headers.into_iter().count();
        if checked.is_ok() {
            assert_eq!(headers, record.headers.len());
            assert!((0..=header.last_offset_delta).contains(&record.offset_delta));
        }
    }
    if checked.is_ok() {
        assert_eq!(records, header.count);
    }
}
