//! Against an independent codec of the same format, both ways.

use super::*;
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;

fn their_codec(codec: Compression) -> theirs::Compression {
    match codec {
        Compression::None => theirs::Compression::None,
        Compression::Gzip => theirs::Compression::Gzip,
        Compression::Snappy => theirs::Compression::Snappy,
        Compression::Lz4 => theirs::Compression::Lz4,
        Compression::Zstd => theirs::Compression::Zstd,
    }
}

/// More than a block of every codec.
fn records() -> Vec<Owned> {
    (0..3000i64)
        .map(|i| Owned {
            offset: 42 + i,
            timestamp: T + i * 37 % 1000,
            key: (i % 3 != 0).then(|| format!("key-{}", i % 100).into_bytes()),
            value: (i % 7 != 0)
                .then(|| format!("{{\"n\":{},\"of\":\"a value\"}}", i * 7919 % 1009).into_bytes()),
            headers: (0..i % 3).map(|h| (format!("h{h}"), (h == 0).then(|| vec![h as u8; 3]))).collect(),
        })
        .collect()
}

#[test]
fn they_read_what_we_write() {
    for codec in CODECS.into_iter().filter(|codec| codec.is_built()) {
        let mut builder = BatchBuilder::new(16 * 1024);
        for record in records() {
            let headers: Vec<Header<'_>> =
                record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            builder.push(record.timestamp, key, value, &headers).unwrap();
        }
        builder.producer(1000, 3, 10);
        let mut sealed = builder.seal(codec, None, &mut Vec::new()).unwrap();
        sealed.place(42, 5);

        let mut bytes = sealed.bytes();
        let set = theirs::RecordBatchDecoder::decode(&mut bytes).unwrap();
        assert_eq!((set.compression, set.version), (their_codec(codec), 2));
        let read: Vec<Owned> = set
            .records
            .into_iter()
            .map(|record| {
                assert_eq!(
                    (record.producer_id, record.producer_epoch, record.partition_leader_epoch),
                    (1000, 3, 5)
                );
                Owned {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    key: record.key.map(|key| key.to_vec()),
                    value: record.value.map(|value| value.to_vec()),
                    headers: record
                        .headers
                        .into_iter()
                        .map(|(key, value)| (key.as_str().to_owned(), value.map(|value| value.to_vec())))
                        .collect(),
                }
            })
            .collect();
        assert!(read == records(), "{codec}");
    }
}

#[test]
fn we_read_what_they_write() {
    for codec in CODECS.into_iter().filter(|codec| codec.is_built()) {
        let given: Vec<theirs::Record> = records()
            .into_iter()
            .map(|record| theirs::Record {
                transactional: false,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: 5,
                producer_id: 1000,
                producer_epoch: 3,
                timestamp_type: theirs::TimestampType::Creation,
                offset: record.offset,
                sequence: record.offset as i32,
                timestamp: record.timestamp,
                key: record.key.map(Into::into),
                value: record.value.map(Into::into),
                headers: record
                    .headers
                    .into_iter()
                    .map(|(key, value)| (StrBytes::from_string(key), value.map(Into::into)))
                    .collect::<IndexMap<_, _>>(),
            })
            .collect();
        let options = theirs::RecordEncodeOptions { version: 2, compression: their_codec(codec) };
        let mut bytes = Vec::new();
        theirs::RecordBatchEncoder::encode(&mut bytes, &given, &options).unwrap();
        let (header, read) = read(&bytes).unwrap();
        assert_eq!((header.compression(), header.base_sequence, header.leader_epoch), (codec, 42, 5));
        assert!(read == records(), "{codec}");
    }
}
