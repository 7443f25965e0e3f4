use super::*;
use crate::limits::{BATCH_BYTES_MAX, HEADERS_MAX};

const EXAMPLE: &str = "
    00 00 00 00 00 00 00 2a 00 00 00 52 00 00 00 00
    02 c5 8e 11 52 00 00 00 00 00 01 00 00 01 8b cf
    e5 68 00 00 00 01 8b cf e5 68 05 ff ff ff ff ff
    ff ff ff ff ff ff ff ff ff 00 00 00 02 1a 00 00
    00 04 6b 31 0a 68 65 6c 6c 6f 00 24 00 0a 02 01
    0c 77 6f 72 6c 64 21 02 04 68 31 04 76 31";

const EMPTY: &str = "
    00 00 00 00 00 00 00 64 00 00 00 31 00 00 00 00
    02 d8 93 0e 99 00 00 00 00 00 02 ff ff ff ff ff
    ff ff ff 00 00 01 8b cf e5 68 02 00 00 00 00 00
    00 03 e8 00 03 00 00 00 0a 00 00 00 00";

#[test]
fn a01_the_worked_example_byte_for_byte() {
    let sealed = example(Compression::None);
    assert_eq!(sealed.bytes(), hex(EXAMPLE));
    assert_eq!(sealed.bytes().len(), 94);
    assert_eq!(sealed.header().crc, 0xc58e_1152);
    let (header, records) = read(sealed.bytes()).unwrap();
    assert_eq!(header, *sealed.header());
    assert_eq!(records, example_records());
    assert_eq!((header.size(), header.last_offset(), header.next_offset()), (94, 43, 44));
    assert_eq!(
        (header.compression(), header.timestamp_type()),
        (Compression::None, TimestampType::CreateTime)
    );
    assert!(!header.is_control() && !header.is_transactional());
    assert_eq!((header.delete_horizon(), header.last_sequence()), (None, -1));
}

#[test]
fn a01_placing_leaves_the_checksum_valid() {
    let mut sealed = example(Compression::None);
    sealed.place(7_000_000_000, 9);
    let (header, records) = read(sealed.bytes()).unwrap();
    assert_eq!((header.base_offset, header.leader_epoch, header.crc), (7_000_000_000, 9, 0xc58e_1152));
    assert_eq!(records[1].offset, 7_000_000_001);
    let mut written = [0xaa; 61];
    header.write(&mut written);
    assert_eq!(written, sealed.bytes()[..61]);
}

#[test]
fn a02_any_flipped_bit_after_byte_21_is_found() {
    let good = hex(EXAMPLE);
    for bit in 21 * 8..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let Ok(header) = BatchHeader::parse(&bad) else { continue };
        let Err(Invalid::Crc { stored, computed }) = verify_crc(&bad, &header) else { panic!("bit {bit}") };
        assert_eq!(stored, 0xc58e_1152);
        assert_ne!(computed, stored);
    }
}

#[test]
fn a03_offset_and_epoch_are_not_checksummed() {
    for byte in [7, 15] {
        let mut batch = hex(EXAMPLE);
        batch[byte] ^= 1;
        read(&batch).unwrap();
    }
}

#[test]
fn a04_a_length_below_the_header_is_corrupt_before_the_checksum() {
    for length in [i32::MIN, -1, 0, 13, 14, 48] {
        let mut batch = hex(EXAMPLE);
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        assert_eq!(BatchHeader::parse(&batch), Err(Invalid::Length(length)));
    }
    for length in [BATCH_BYTES_MAX as i32 - 11, i32::MAX] {
        let mut batch = hex(EXAMPLE);
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        assert_eq!(BatchHeader::parse(&batch), Err(Invalid::Length(length)));
    }
}

#[test]
fn a04_a_cut_batch_is_short() {
    let batch = hex(EXAMPLE);
    for len in 0..batch.len() {
        let cut = &batch[..len];
        match BatchHeader::parse(cut) {
            Err(e) => assert_eq!(e, Invalid::Short { have: len, need: 61 }),
            Ok(header) => {
                let short = Invalid::Short { have: len, need: 94 };
                assert_eq!(verify_crc(cut, &header), Err(short));
                assert_eq!(decompress(&header, cut), Err(short));
            }
        }
    }
}

#[test]
fn a04_old_formats_and_zeroed_bytes_are_told_apart() {
    for magic in [-128i8, -1] {
        let mut batch = hex(EXAMPLE);
        batch[16] = magic as u8;
        batch[8..12].copy_from_slice(&22i32.to_be_bytes());
        assert_eq!(BatchHeader::parse(&batch), Err(Invalid::Magic(magic)));
    }
    // The fields of a batch are no fields of a message.
    for magic in [0, 1] {
        let mut batch = hex(EXAMPLE);
        batch[16] = magic;
        assert!(read(&batch).is_err());
    }
    assert_eq!(BatchHeader::parse(&[0; 100]), Err(Invalid::Length(0)));
    for magic in [3, 127] {
        let mut batch = hex(EXAMPLE);
        batch[16] = magic;
        assert_eq!(read(&batch).unwrap().1, example_records());
    }
}

#[test]
fn f40_impossible_headers_are_refused() {
    let refuse = |change: fn(&mut BatchHeader), name: &str| {
        let mut header = *example(Compression::None).header();
        change(&mut header);
        let mut bytes = hex(EXAMPLE);
        header.write(&mut bytes);
        match BatchHeader::parse(&bytes) {
            Err(Invalid::Field { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    };
    refuse(|h| h.base_offset = -1, "base offset");
    refuse(|h| h.base_offset = i64::MAX - 1, "base offset");
    refuse(|h| h.last_offset_delta = -1, "last offset delta");
    refuse(|h| h.count = -1, "record count");
    refuse(|h| h.count = 3, "record count");
    let mut header = *example(Compression::None).header();
    header.base_offset = i64::MAX - 2;
    let mut bytes = hex(EXAMPLE);
    header.write(&mut bytes);
    assert_eq!(BatchHeader::parse(&bytes).unwrap().next_offset(), i64::MAX);
}

#[test]
fn a05_count_larger_than_stored_is_invalid() {
    for codec in CODECS.into_iter().filter(|codec| codec.is_built()) {
        let sealed = example(codec);
        let section = &sealed.bytes()[61..];
        let batch = batch_around(3, 2, codec.id().into(), section);
        assert_eq!(read(&batch).unwrap_err(), Invalid::Count { declared: 3, found: 2 }, "{codec}");
    }
}

#[test]
fn a06_count_smaller_than_stored_is_invalid() {
    for codec in CODECS.into_iter().filter(|codec| codec.is_built()) {
        let sealed = example(codec);
        let section = &sealed.bytes()[61..];
        let batch = batch_around(1, 1, codec.id().into(), section);
        let why = "bytes are left after the last record";
        assert_eq!(read(&batch).unwrap_err(), Invalid::Record { index: 1, why }, "{codec}");
    }
}

#[test]
fn a07_sequences_wrap_to_zero() {
    let mut builder = BatchBuilder::new(1024);
    for _ in 0..3 {
        builder.push(T, None, Some(b"v"), &[]).unwrap();
    }
    builder.producer(1000, 3, i32::MAX - 1);
    let sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    let (header, _) = read(sealed.bytes()).unwrap();
    assert_eq!(header.last_sequence(), 0);
    let sequences = [0, 1, 2].map(|delta| increment_sequence(header.base_sequence, delta));
    assert_eq!(sequences, [i32::MAX - 1, i32::MAX, 0]);
}

#[test]
fn a08_sequence_arithmetic() {
    assert_eq!(increment_sequence(5, 5), 10);
    assert_eq!(increment_sequence(i32::MAX, 1), 0);
    assert_eq!(increment_sequence(i32::MAX - 5, 10), 4);
    assert_eq!(decrement_sequence(5, 5), 0);
    assert_eq!(decrement_sequence(0, 1), i32::MAX);
}

#[test]
fn a09_append_time_is_what_every_record_reads() {
    let mut sealed = example(Compression::None);
    let before = sealed.header().crc;
    sealed.stamp_append_time(T + 1234);
    let (header, records) = read(sealed.bytes()).unwrap();
    assert_eq!(header, *sealed.header());
    assert_ne!(header.crc, before);
    assert_eq!(header.attributes, 0x08);
    assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, T + 1234));
    assert!(records.iter().all(|record| record.timestamp == T + 1234));
    assert_eq!((header.base_offset, header.leader_epoch), (42, 0));
}

#[test]
fn a10_an_emptied_batch_keeps_offsets_and_sequences() {
    let mut builder = BatchBuilder::new(1024);
    for i in 0..3 {
        builder.push(T + i, None, Some(b"v"), &[]).unwrap();
    }
    builder.producer(1000, 3, 10);
    let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    sealed.place(100, 0);
    let empty = empty_batch(sealed.header());
    assert_eq!(empty[..], hex(EMPTY));
    let (header, records) = read(&empty).unwrap();
    assert_eq!(records, []);
    assert_eq!((header.base_offset, header.last_offset(), header.max_timestamp), (100, 102, T + 2));
    assert_eq!((header.base_sequence, header.last_sequence()), (10, 12));
    assert_eq!((header.producer_id, header.producer_epoch, header.count), (1000, 3, 0));
}

#[test]
fn a10_an_emptied_batch_loses_codec_and_horizon_only() {
    let mut header = *example(Compression::None).header();
    header.attributes = 0x7c;
    let empty = BatchHeader::parse(&empty_batch(&header)).unwrap();
    assert_eq!(empty.attributes, 0x38);
    assert_eq!(empty.delete_horizon(), None);
    assert_eq!(empty.base_timestamp, -1);
}

#[test]
fn a11_malformed_records_are_named_not_followed() {
    // Length, attributes, timestamp delta, offset delta, key, value, headers.
    let cases: &[(&str, &str)] = &[
        ("its length is negative", "ff"),
        ("its length is too long", "ffffffffff01"),
        ("its length is negative", "01"),
        ("it is longer than the batch", "10 00 00 00 01 01 00"),
        ("it is longer than the batch", "feffffff0f 00 00 00 01 01 00"),
        ("it is too short", "00"),
        ("it is too short", "02 00"),
        ("it is too short", "06 00 ffff"),
        ("its timestamp is too long", "18 00 ffffffffffffffffffff 00"),
        ("it is too short", "04 00 00"),
        ("its offset is too long", "10 00 00 ffffffffff 01"),
        ("it is too short", "06 00 00 00"),
        ("its key's length is too long", "14 00 00 00 ffffffffff 01 01"),
        ("its key does not fit", "0c 00 00 00 20 01 00"),
        ("its key does not fit", "0c 00 00 00 03 01 00"),
        ("its key does not fit", "14 00 00 00 feffffff0f 01 00"),
        ("its value does not fit", "08 00 00 00 01"),
        ("its value does not fit", "0c 00 00 00 01 20 00"),
        ("its header count is cut or too long", "0a 00 00 00 01 01"),
        ("its header count is negative", "0c 00 00 00 01 01 01"),
        ("it has fewer headers than it says", "0c 00 00 00 01 01 02"),
        ("it has fewer headers than it says", "14 00 00 00 01 01 feffffff0f"),
        ("a header's key is null", "10 00 00 00 01 01 02 01 01"),
        ("a header's key does not fit", "10 00 00 00 01 01 02 03 01"),
        ("a header's key does not fit", "10 00 00 00 01 01 02 20 01"),
        ("a header's key is not UTF-8", "14 00 00 00 01 01 02 04 c328 01"),
        ("a header's value does not fit", "10 00 00 00 01 01 02 00 20"),
        ("bytes are left in it", "0e 00 00 00 01 01 00 00"),
        ("bytes are left in it", "12 00 00 00 01 01 02 00 00 00"),
        ("its offset is beyond the batch's last", "0c 00 00 04 01 01 00"),
        ("its offset is not larger than the one before", "0c 00 00 01 01 01 00"),
    ];
    for (why, section) in cases {
        let section = hex(section);
        let batch = batch_around(1, 1, 0, &section);
        assert_eq!(read(&batch).unwrap_err(), Invalid::Record { index: 0, why }, "{section:02x?}");
        assert!(RecordIter::new(&section).count() <= 1);
    }
    let twice = hex("0c 00 00 00 01 01 00  0c 00 00 00 01 01 00");
    let why = "its offset is not larger than the one before";
    assert_eq!(read(&batch_around(2, 1, 0, &twice)).unwrap_err(), Invalid::Record { index: 1, why });
    // A gap where compaction took records is no fault.
    let gap = hex("0c 00 00 02 01 01 00  0c 00 00 0a 01 01 00");
    assert_eq!(read(&batch_around(2, 7, 0, &gap)).unwrap().1.len(), 2);
}

#[test]
fn a12_headers_round_trip_in_order() {
    let headers = [
        header("a", "1"),
        header("", ""),
        Header { key: "a", value: None },
        header("a", "2"),
        Header { key: "null", value: None },
    ];
    let mut builder = BatchBuilder::new(64);
    builder.push(T, Some(b""), None, &headers).unwrap();
    let sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    let (header, _) = read(sealed.bytes()).unwrap();
    let record = RecordIter::new(&sealed.bytes()[61..]).next().unwrap();
    assert_eq!(record.headers.into_iter().collect::<Vec<_>>(), headers);
    assert_eq!((record.headers.len(), record.headers.is_empty()), (5, false));
    assert_eq!(record.headers.get("a"), Some(&b"2"[..]));
    assert_eq!(record.headers.get(""), Some(&b""[..]));
    assert_eq!((record.headers.get("null"), record.headers.get("none")), (None, None));
    assert_eq!((record.key, record.value), (Some(&b""[..]), None));
    assert_eq!(header.count, 1);
}

#[test]
fn a13_offsets_must_increase() {
    let mut builder = BatchBuilder::new(1024);
    assert_eq!(builder.push_at(5, T, None, None, &[]), Ok(0));
    for offset in [5, 4, -1] {
        let refused = builder.push_at(offset, T, None, None, &[]);
        assert!(matches!(refused, Err(Invalid::Field { name: "offset", .. })));
    }
    assert_eq!(builder.push(T, None, None, &[]), Ok(1));
    assert_eq!(builder.push_at(i32::MAX, T, None, None, &[]), Ok(2));
    assert!(matches!(builder.push(T, None, None, &[]), Err(Invalid::Field { name: "offset", .. })));
    let sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    let (header, records) = read(sealed.bytes()).unwrap();
    assert_eq!(records.iter().map(|r| r.offset).collect::<Vec<_>>(), [5, 6, i32::MAX.into()]);
    assert_eq!((header.last_offset_delta, header.count), (i32::MAX, 3));
}

#[test]
fn a13_timestamps_are_none_or_not_negative() {
    let mut builder = BatchBuilder::new(1024);
    for timestamp in [i64::MIN, -2] {
        let refused = builder.push(timestamp, None, None, &[]);
        assert!(matches!(refused, Err(Invalid::Field { name: "timestamp", .. })));
    }
    assert!(builder.is_empty());
    for timestamp in [-1, 0, i64::MAX] {
        builder.push(timestamp, None, None, &[]).unwrap();
    }
    assert_eq!(
        (builder.first_timestamp(), builder.last_timestamp(), builder.max_timestamp()),
        (-1, i64::MAX, i64::MAX)
    );
    let sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    let (_, records) = read(sealed.bytes()).unwrap();
    assert_eq!(records.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [-1, 0, i64::MAX]);
}

#[test]
fn a13_what_no_batch_can_hold_is_refused() {
    let mut builder = BatchBuilder::new(0);
    let many = vec![header("h", "v"); HEADERS_MAX + 1];
    assert!(matches!(builder.push(T, None, None, &many), Err(Invalid::Field { name: "headers", .. })));
    let huge = vec![0; BATCH_BYTES_MAX];
    assert!(matches!(builder.push(T, None, Some(&huge), &[]), Err(Invalid::Oversize { .. })));
    assert!(builder.is_empty() && builder.bytes() == 61);
    assert_eq!(builder.push(T, None, None, &many[1..]), Ok(0));
    let around = BatchBuilder::size_bound(None, Some(&huge), &[]) - huge.len();
    let largest = BATCH_BYTES_MAX - builder.bytes() - around;
    builder.push(T, None, Some(&huge[..largest]), &[]).unwrap();
    assert!(builder.bytes() <= BATCH_BYTES_MAX);
    assert!(builder.push(T, None, Some(&huge[..100]), &[]).is_err());
}

fn sealed_with(fields: BatchFields) -> Result<Sealed, Invalid> {
    let mut builder = BatchBuilder::new(1024);
    builder.set_fields(fields);
    builder.push(T, None, Some(b"v"), &[]).unwrap();
    let result = builder.seal(Compression::None, None, &mut Vec::new());
    assert_eq!(builder.count(), u32::from(result.is_err()));
    result
}

#[test]
fn a14_producer_fields_come_together() {
    let producer = BatchFields { producer_id: 7, producer_epoch: 0, base_sequence: 0, ..Default::default() };
    let refused = |fields, expected: &str| match sealed_with(fields) {
        Err(Invalid::Field { name, .. }) => assert_eq!(name, expected),
        other => panic!("{other:?}"),
    };
    refused(BatchFields { producer_epoch: -1, ..producer }, "producer epoch");
    refused(BatchFields { base_sequence: -1, ..producer }, "base sequence");
    refused(BatchFields { transactional: true, ..Default::default() }, "producer id");
    refused(BatchFields { last_offset_delta: Some(-1), ..producer }, "last offset delta");
    let sealed = sealed_with(BatchFields { transactional: true, ..producer }).unwrap();
    assert!(sealed.header().is_transactional() && !sealed.header().is_control());
    let marker = BatchFields { control: true, transactional: true, base_sequence: -1, ..producer };
    assert!(sealed_with(marker).unwrap().header().is_control());
}

#[test]
fn a14_a_horizon_set_too_late_is_refused() {
    let mut builder = example_builder();
    builder.set_fields(BatchFields { delete_horizon: Some(5), ..Default::default() });
    let refused = builder.seal(Compression::None, None, &mut Vec::new());
    assert!(matches!(refused, Err(Invalid::Field { name: "delete horizon", .. })));
}

#[test]
fn a16_an_empty_builder_seals_nothing() {
    let mut builder = BatchBuilder::new(1024);
    let mut scratch = Vec::new();
    assert!(builder.seal(Compression::None, None, &mut scratch).is_err());
    assert_eq!((scratch.len(), builder.bytes(), builder.count()), (0, 61, 0));
}

#[test]
fn a18_a_delete_horizon_leaves_timestamps_alone() {
    let mut builder = BatchBuilder::new(1024);
    let horizon = T + 86_400_000;
    builder.set_fields(BatchFields { delete_horizon: Some(horizon), ..Default::default() });
    builder.push(5, Some(b"a"), Some(b"v"), &[]).unwrap();
    builder.push(10, Some(b"b"), None, &[]).unwrap();
    builder.push(15, Some(b"c"), Some(b"v"), &[]).unwrap();
    let sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    let (header, records) = read(sealed.bytes()).unwrap();
    assert_eq!(header.delete_horizon(), Some(horizon));
    assert_eq!(records.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [5, 10, 15]);
    assert_eq!(header.max_timestamp, 15);
}

#[test]
fn a18_the_tombstone_example_before_and_after() {
    let mut builder = BatchBuilder::new(1024);
    builder.push(T, Some(b"a"), None, &[]).unwrap();
    let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    sealed.place(200, 0);
    assert_eq!((sealed.bytes().len(), sealed.header().crc), (69, 0xb8eb_8330));
    assert_eq!(sealed.bytes()[61..], hex("0e 00 00 00 02 61 01 00"));

    builder.set_fields(BatchFields { delete_horizon: Some(T + 86_400_000), ..Default::default() });
    builder.push(T, Some(b"a"), None, &[]).unwrap();
    let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    sealed.place(200, 0);
    assert_eq!((sealed.bytes().len(), sealed.header().crc), (72, 0xc752_ca00));
    assert_eq!(sealed.bytes()[61..], hex("14 00 ffefb252 00 02 61 01 00"));
    assert_eq!((sealed.header().attributes, sealed.header().max_timestamp), (0x40, T));
}

#[test]
fn a19_an_emptied_transactional_batch() {
    let mut builder = BatchBuilder::new(1024);
    let fields = BatchFields {
        producer_id: 23,
        producer_epoch: 5,
        base_sequence: 10,
        transactional: true,
        ..Default::default()
    };
    builder.set_fields(fields);
    builder.push(5, Some(b"a"), Some(b"v"), &[]).unwrap();
    builder.push(10, Some(b"b"), Some(b"v"), &[]).unwrap();
    let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    sealed.place(3, 1);
    let (header, _) = read(&empty_batch(sealed.header())).unwrap();
    assert_eq!((header.count, header.base_offset, header.last_offset()), (0, 3, 4));
    assert_eq!((header.base_sequence, header.last_sequence(), header.max_timestamp), (10, 11, 10));
    assert!(header.is_transactional());
    assert_eq!((header.size(), header.leader_epoch), (61, 1));
}

#[test]
fn a22_a_rewritten_batch_keeps_append_time_and_offset_range() {
    let mut builder = BatchBuilder::new(1024);
    let fields = BatchFields { append_time: Some(T), last_offset_delta: Some(9), ..Default::default() };
    builder.set_fields(fields);
    builder.push_at(4, T, Some(b"a"), Some(b"v"), &[]).unwrap();
    let mut sealed = builder.seal(Compression::None, None, &mut Vec::new()).unwrap();
    sealed.place(20, 2);
    let (header, records) = read(sealed.bytes()).unwrap();
    assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, T));
    assert_eq!((header.last_offset(), header.count), (29, 1));
    assert_eq!((records[0].offset, records[0].timestamp), (24, T));
}

#[test]
fn a25_unknown_codecs_are_refused() {
    for codec in 5..=7 {
        let batch = batch_around(2, 1, codec, &hex(EXAMPLE)[61..]);
        assert_eq!(BatchHeader::parse(&batch), Err(Invalid::Codec(codec as u8)));
    }
}

#[test]
fn b01_the_next_batch_is_found_between_garbage() {
    let batch = hex(EXAMPLE);
    for garbage in [0usize, 1, 16, 17, 61, 200] {
        let mut bytes = vec![2; garbage];
        bytes.extend_from_slice(&batch);
        bytes.extend_from_slice(&batch);
        bytes.extend_from_slice(&batch[..50]);
        assert_eq!(find_batch(&bytes, 0), Some(garbage));
        assert_eq!(find_batch(&bytes, garbage), Some(garbage));
        assert_eq!(find_batch(&bytes, garbage + 1), Some(garbage + 94));
        assert_eq!(find_batch(&bytes, garbage + 95), None);
        bytes[garbage + 70] ^= 1;
        assert_eq!(find_batch(&bytes, 0), Some(garbage + 94));
    }
    assert_eq!(find_batch(&batch, 95), None);
    assert_eq!(find_batch(&batch, usize::MAX), None);
    assert_eq!(find_batch(&[], 0), None);
}

#[test]
fn buffers_go_round() {
    let mut scratch = Vec::new();
    let mut builder = BatchBuilder::new(4096);
    for codec in [Compression::None, Compression::None] {
        builder.push(T, None, Some(&[7; 1000]), &[]).unwrap();
        let sealed = builder.seal(codec, None, &mut scratch).unwrap();
        assert!(builder.is_empty());
        scratch = sealed.into_buffer();
        assert!(scratch.capacity() >= 4096);
    }
    let mut builder = BatchBuilder::from_buffer(scratch);
    builder.push(T, None, Some(&[7; 1000]), &[]).unwrap();
    builder.clear();
    assert!(builder.is_empty() && builder.bytes() == 61 && builder.first_timestamp() == -1);
}

#[test]
fn the_size_bound_is_a_bound() {
    for len in [0, 1, 63, 64, 8191, 8192, 100_000] {
        let bytes = vec![1; len];
        for (key, value) in [(None, Some(&bytes[..])), (Some(&bytes[..]), None), (None, None)] {
            let headers = [header("key", &bytes), Header { key: "", value: None }];
            for headers in [&headers[..], &[]] {
                let mut builder = BatchBuilder::new(0);
                builder.push(0, None, None, &[]).unwrap();
                let before = builder.bytes();
                let bound = BatchBuilder::size_bound(key, value, headers);
                builder.push_at(i32::MAX, i64::MAX, key, value, headers).unwrap();
                let size = builder.bytes() - before;
                assert!(size <= bound && bound <= size + 4, "{size} {bound}");
            }
        }
    }
}

#[test]
fn errors_say_it_in_words() {
    let crc = Invalid::Crc { stored: 1, computed: 0xc58e_1152 };
    assert_eq!(crc.to_string(), "the checksum does not match: stored 00000001, computed c58e1152");
    assert_eq!(Invalid::Magic(-1).to_string(), "the batch is of format -1, which no Kafka has written");
}
