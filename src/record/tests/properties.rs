use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Input {
    gap: i32,
    record: Owned,
}

fn input() -> impl Strategy<Value = Input> {
    let bytes = || option::of(prop_oneof![vec(any::<u8>(), 0..80), vec(0u8..3, 0..3000)]);
    let headers = vec((".{0,6}", option::of(vec(any::<u8>(), 0..20))), 0..4);
    let timestamp = prop_oneof![Just(-1), T..T + 1000, 0..i64::MAX];
    (prop_oneof![4 => Just(1), 1 => 1..1000i32], timestamp, bytes(), bytes(), headers).prop_map(
        |(gap, timestamp, key, value, headers)| Input {
            gap,
            record: Owned { offset: 0, timestamp, key, value, headers },
        },
    )
}

fn build(inputs: &[Input], codec: Compression) -> (Sealed, Vec<Owned>) {
    let mut builder = BatchBuilder::new(256);
    let mut offset = -1;
    let mut expected = Vec::new();
    for Input { gap, record } in inputs {
        offset += gap;
        let headers: Vec<Header<'_>> =
            record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let before = builder.bytes();
        builder.push_at(offset, record.timestamp, key, value, &headers).unwrap();
        assert!(builder.bytes() - before <= BatchBuilder::size_bound(key, value, &headers));
        expected.push(Owned { offset: 500 + i64::from(offset), ..record.clone() });
    }
    let mut sealed = builder.seal(codec, None, &mut Vec::new()).unwrap();
    sealed.place(500, 1);
    (sealed, expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_codec_gives_back_what_went_in(inputs in vec(input(), 1..40)) {
        for codec in CODECS.into_iter().filter(|codec| codec.is_built()) {
            let (sealed, expected) = build(&inputs, codec);
            let (header, records) = read(sealed.bytes()).unwrap();
            prop_assert_eq!(header, *sealed.header());
            prop_assert_eq!(header.compression(), codec);
            prop_assert_eq!(header.max_timestamp, expected.iter().map(|r| r.timestamp).max().unwrap());
            prop_assert_eq!(header.last_offset(), expected.last().unwrap().offset);
            prop_assert_eq!(records, expected);
            prop_assert_eq!(find_batch(sealed.bytes(), 0), Some(0));
        }
    }

    #[test]
    fn mutated_batches_never_panic(
        inputs in vec(input(), 1..6),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        for codec in CODECS.into_iter().filter(|codec| codec.is_built()) {
            let mut bytes = build(&inputs, codec).0.bytes().to_vec();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(bytes.len() - cut.index(bytes.len()) / 8);
            look_at(&bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        look_at(&bytes);
        let mut header = [0; 61];
        example(Compression::None).header().write(&mut header);
        for codec in 0..5 {
            look_at(&batch_around(2, 1, codec, &bytes));
        }
    }
}

/// Everything that reads, whatever the checksum says.
fn look_at(bytes: &[u8]) {
    let _ = find_batch(bytes, 0);
    let Ok(header) = BatchHeader::parse(bytes) else { return };
    let _ = (verify_crc(bytes, &header), header.last_sequence(), empty_batch(&header));
    let Ok(section) = decompress(&header, bytes) else { return };
    let checked = check_records(&header, &section);
    let found = RecordIter::new(&section).filter(|record| owned(&header, record).offset >= 0).count();
    if checked.is_ok() {
        assert_eq!(found, header.count as usize);
    }
}
