//! Words shared by the tests of this room; test names carry the number of the acceptance case they state.

mod cases;
mod codecs;
mod interop;
mod legacy;
mod markers;
mod properties;
mod timing;

use super::*;

/// The time T of the worked examples.
pub(super) const T: i64 = 1_700_000_000_000;

pub(super) const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A record that owns what it holds: what a batch gave back, with its offset and timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) offset: i64,
    pub(super) timestamp: i64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Every check, then the records.
pub(super) fn read(batch: &[u8]) -> Result<(BatchHeader, Vec<Owned>), Invalid> {
    let header = BatchHeader::parse(batch)?;
    verify_crc(batch, &header)?;
    let section = decompress(&header, &batch[..header.size()])?;
    check_records(&header, &section)?;
    let records: Vec<Owned> = RecordIter::new(&section).map(|record| owned(&header, &record)).collect();
    assert_eq!(records.len(), header.count as usize);
    Ok((header, records))
}

pub(super) fn owned(header: &BatchHeader, record: &RawRecord<'_>) -> Owned {
    Owned {
        offset: header.base_offset.wrapping_add(record.offset_delta.into()),
        timestamp: header.timestamp(record.timestamp_delta),
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record.headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect(),
    }
}

/// The two records of the worked example.
pub(super) fn example_builder() -> BatchBuilder {
    let mut builder = BatchBuilder::new(1024);
    builder.push(T, Some(b"k1"), Some(b"hello"), &[]).unwrap();
    builder.push(T + 5, None, Some(b"world!"), &[header("h1", "v1")]).unwrap();
    builder
}

pub(super) fn example(codec: Compression) -> Sealed {
    let mut sealed = example_builder().seal(codec, None, &mut Vec::new()).unwrap();
    sealed.place(42, 0);
    sealed
}

pub(super) fn example_records() -> Vec<Owned> {
    vec![
        Owned {
            offset: 42,
            timestamp: T,
            key: Some(b"k1".to_vec()),
            value: Some(b"hello".to_vec()),
            headers: vec![],
        },
        Owned {
            offset: 43,
            timestamp: T + 5,
            key: None,
            value: Some(b"world!".to_vec()),
            headers: vec![("h1".to_owned(), Some(b"v1".to_vec()))],
        },
    ]
}

/// A batch around a hand-made section, with a good checksum.
pub(super) fn batch_around(count: i32, last_offset_delta: i32, attributes: i16, section: &[u8]) -> Vec<u8> {
    let mut header = *example(Compression::None).header();
    header.batch_length = (layout::LENGTH_MIN as usize + section.len()) as i32;
    header.count = count;
    header.last_offset_delta = last_offset_delta;
    header.attributes = attributes;
    let mut bytes = vec![0; layout::RECORDS];
    bytes.extend_from_slice(section);
    header.finish(&mut bytes);
    bytes
}
