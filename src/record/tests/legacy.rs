use super::*;
use proptest::prelude::*;

/// A message of format 0 or 1, by the words of the format.
#[derive(Clone, Debug)]
struct Message {
    offset: i64,
    magic: i8,
    attributes: u8,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl Message {
    fn new(magic: i8, offset: i64, value: &[u8]) -> Self {
        let timestamp = if magic == 0 { -1 } else { T };
        Message { offset, magic, attributes: 0, timestamp, key: None, value: Some(value.to_vec()) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut body = vec![self.magic as u8, self.attributes];
        if self.magic > 0 {
            body.extend(self.timestamp.to_be_bytes());
        }
        for field in [&self.key, &self.value] {
            let len = field.as_ref().map_or(-1, |field| field.len() as i32);
            body.extend(len.to_be_bytes());
            body.extend(field.iter().flatten());
        }
        let mut bytes = self.offset.to_be_bytes().to_vec();
        bytes.extend((body.len() as i32 + 4).to_be_bytes());
        bytes.extend(crc32fast::hash(&body).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn owned(&self, offset: i64) -> Owned {
        let (key, value) = (self.key.clone(), self.value.clone());
        Owned { offset, timestamp: self.timestamp, key, value, headers: vec![] }
    }
}

/// A wrapper around a run of messages, with the offset of the last of them.
fn wrapper(magic: i8, codec: Compression, offset: i64, run: &[u8]) -> Message {
    let mut packed = Vec::new();
    compression::compress(codec, None, run, &mut packed).unwrap();
    Message { attributes: codec.id(), ..Message::new(magic, offset, &packed) }
}

fn run(messages: &[Message]) -> Vec<u8> {
    messages.iter().flat_map(Message::bytes).collect()
}

/// Every check, then the records.
fn read_old(message: &[u8]) -> Result<(BatchHeader, Vec<Owned>), Invalid> {
    let header = BatchHeader::parse(message)?;
    verify_crc(message, &header)?;
    let (header, section) = unpack(&header, message)?;
    check_records(&header, &section).expect("what is unpacked is good");
    Ok((header, RecordIter::new(&section).map(|record| owned(&header, &record)).collect()))
}

fn old_codecs() -> impl Iterator<Item = Compression> {
    CODECS.into_iter().filter(|codec| codec.is_built() && *codec != Compression::Zstd)
}

#[test]
fn a_message_of_each_format_is_read_from_its_bytes() {
    // Made by Kafka 3.9: offset 102, key "k2", no value.
    let v0 = hex("0000000000000066 00000010 8b23e3da 00 00 00000002 6b32 ffffffff");
    let (header, records) = read_old(&v0).unwrap();
    let expected =
        Owned { offset: 102, timestamp: -1, key: Some(b"k2".to_vec()), value: None, headers: vec![] };
    assert_eq!((header.base_offset, header.next_offset(), header.size()), (102, 103, v0.len()));
    assert_eq!((header.max_timestamp, header.leader_epoch, header.producer_id), (-1, -1, -1));
    assert_eq!(records, [expected]);

    let message = Message { key: Some(vec![]), value: None, ..Message::new(1, 5, b"") };
    assert_eq!(read_old(&message.bytes()).unwrap().1, [message.owned(5)]);
    let appended = Message { attributes: 0x08, ..message.clone() };
    let (header, records) = read_old(&appended.bytes()).unwrap();
    assert_eq!((header.timestamp_type(), records), (TimestampType::LogAppendTime, vec![message.owned(5)]));
    // Bits that mean nothing are left alone, in format 0 the one of the timestamp's kind among them.
    let odd = Message { attributes: 0xf8, ..Message::new(0, 5, b"v") };
    assert_eq!(read_old(&odd.bytes()).unwrap().1, [odd.owned(5)]);
}

#[test]
fn wrappers_hold_true_offsets_in_format_0_and_distances_in_format_1() {
    let first =
        |magic, from: i64| [0, 1, 4].map(|i| Message::new(magic, from + i, format!("v{i}").as_bytes()));
    for codec in old_codecs().filter(|codec| *codec != Compression::None) {
        let (old, new) = (first(0, 100), first(1, 0));
        for (magic, messages) in [(0, &old), (1, &new)] {
            let wrapper = wrapper(magic, codec, 104, &run(messages)).bytes();
            let (header, records) = read_old(&wrapper).unwrap();
            assert_eq!((header.base_offset, header.last_offset(), header.count), (100, 104, 3), "{codec}");
            assert_eq!(header.size(), wrapper.len());
            let expected =
                [0, 1, 4].map(|i| Message::new(magic, 0, format!("v{i}").as_bytes()).owned(100 + i));
            assert_eq!(records, expected, "{codec}");
        }
        // Distances need not begin at 0.
        let wrapper = wrapper(1, codec, 104, &run(&first(1, 10))).bytes();
        assert_eq!(read_old(&wrapper).unwrap().0.base_offset, 100);
    }
}

#[test]
fn a_wrapper_with_the_time_of_the_append_gives_it_to_all_its_records() {
    for codec in old_codecs().filter(|codec| *codec != Compression::None) {
        let messages = [0, 1].map(|i| Message { timestamp: i, ..Message::new(1, i, b"v") });
        let wrapper = wrapper(1, codec, 9, &run(&messages));
        let attributes = wrapper.attributes | 0x08;
        let (_, records) =
            read_old(&Message { attributes, timestamp: T + 7, ..wrapper.clone() }.bytes()).unwrap();
        assert_eq!(records.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [T + 7, T + 7]);
        let (_, records) = read_old(&wrapper.bytes()).unwrap();
        assert_eq!(records.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [0, 1]);
    }
}

#[test]
#[cfg(feature = "lz4")]
fn the_header_checksum_of_lz4_counts_in_format_1_only() {
    for (magic, read) in [(0, true), (1, false)] {
        let mut wrapper = wrapper(magic, Compression::Lz4, 3, &Message::new(magic, 3, b"v").bytes());
        // As the first writers computed it: over the magic number too.
        wrapper.value.as_mut().unwrap()[6] = 0x1a;
        let result = read_old(&wrapper.bytes()).map(|(_, records)| records.len());
        assert_eq!(result, if read { Ok(1) } else { Err(Invalid::Decompress("lz4")) });
    }
}

#[test]
fn what_no_writer_makes_is_an_error() {
    let field = |name| move |found: &Invalid| matches!(found, Invalid::Field { name: n, .. } if *n == name);
    let wrong = |message: &Message, expected: &dyn Fn(&Invalid) -> bool| {
        let error = read_old(&message.bytes()).unwrap_err();
        assert!(expected(&error), "{error:?} of {message:?}");
    };
    let good = Message::new(1, 5, b"v");
    assert!(read_old(&good.bytes()).is_ok());
    wrong(&Message { offset: -1, ..good.clone() }, &field("offset"));
    wrong(&Message { offset: i64::MAX, ..good.clone() }, &field("offset"));
    for codec in 4..8 {
        // Zstandard came later.
        wrong(&Message { attributes: codec, ..good.clone() }, &|found| *found == Invalid::Codec(codec));
    }
    for (at, wrong) in [(26, -2), (26, 2), (26, i32::MAX), (30, -2), (30, 0), (30, 2), (30, i32::MIN)] {
        let mut bytes = good.bytes();
        bytes[at..at + 4].copy_from_slice(&i32::to_be_bytes(wrong));
        assert!(matches!(BatchHeader::parse(&bytes), Err(Invalid::Field { .. })), "{wrong} at {at}");
    }
    for length in [13, 21, i32::MIN, i32::MAX] {
        let mut bytes = good.bytes();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes.resize(100, 0);
        assert_eq!(BatchHeader::parse(&bytes), Err(Invalid::Length(length)));
    }
    for codec in old_codecs().filter(|codec| *codec != Compression::None) {
        let around = |messages: &[Message]| wrapper(1, codec, 7, &run(messages));
        assert!(read_old(&around(&[Message::new(1, 0, b"v"), Message::new(1, 1, b"v")]).bytes()).is_ok());
        wrong(&Message { value: None, ..around(&[]) }, &field("value"));
        wrong(&around(&[Message::new(1, 8, b"v")]), &field("offset"));
        let record = |found: &Invalid| matches!(found, Invalid::Record { index: 1, .. });
        wrong(&around(&[Message::new(1, 1, b"v"), Message::new(1, 1, b"v")]), &record);
        wrong(&around(&[Message::new(1, 0, b"v"), Message::new(0, 1, b"v")]), &record);
        let nested = wrapper(1, codec, 1, &good.bytes());
        wrong(&around(&[Message::new(1, 0, b"v"), nested]), &record);
        wrong(&around(&[]), &|found| {
            matches!(found, Invalid::Count { .. }) || *found == Invalid::Decompress(codec.name())
        });
        let mut damaged = run(&[Message::new(1, 0, b"value")]);
        *damaged.last_mut().unwrap() ^= 1;
        wrong(&wrapper(1, codec, 7, &damaged), &|found| matches!(found, Invalid::Crc { .. }));
        let cut = run(&[Message::new(1, 0, b"value"), Message::new(1, 1, b"value")]);
        wrong(&wrapper(1, codec, 7, &cut[..cut.len() - 1]), &|found| matches!(found, Invalid::Short { .. }));
        let far = wrapper(0, codec, i64::from(i32::MAX) + 1, &run(&[Message::new(0, 0, b"v")]));
        wrong(&far, &field("offset"));
    }
    for codec in CODECS.into_iter().filter(|codec| !codec.is_built() && *codec != Compression::Zstd) {
        let missing = Message { attributes: codec.id(), ..good.clone() };
        wrong(&missing, &|found| *found == Invalid::CodecMissing(codec.name()));
    }
}

#[test]
fn a_message_cut_anywhere_is_short_and_a_changed_one_has_a_wrong_checksum() {
    for magic in [0, 1] {
        let message = Message { key: Some(b"key".to_vec()), ..Message::new(magic, 5, b"value") }.bytes();
        for len in 0..message.len() {
            let result = BatchHeader::parse(&message[..len]);
            let header = match result {
                Err(Invalid::Short { have, need }) if have == len && need > len => continue,
                result => result.unwrap(),
            };
            assert!(matches!(verify_crc(&message[..len], &header), Err(Invalid::Short { .. })), "{len}");
            assert!(matches!(unpack(&header, &message[..len]), Err(Invalid::Short { .. })), "{len}");
        }
        // The offset lies outside the checksum, the format decides where what lies.
        for bit in 12 * 8..message.len() * 8 {
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if changed[16] as i8 == magic {
                assert!(read_old(&changed).is_err(), "format {magic}, bit {bit}");
            }
        }
    }
}

#[test]
fn old_messages_are_found_between_garbage_where_they_are_looked_for() {
    let (old, new) = (Message::new(0, 7, b"v").bytes(), Message::new(1, 8, b"").bytes());
    for garbage in [0, 1, 16, 17, 30, 61, 500] {
        let mut bytes = vec![0; garbage];
        bytes.extend(&old);
        bytes.extend(&new);
        assert_eq!(find_batch(&bytes, 0), Some(garbage));
        assert_eq!(find_batch(&bytes, garbage + 1), Some(garbage + old.len()));
        assert_eq!(find_batch(&bytes, garbage + old.len() + 1), None);
        assert_eq!(find_header(&bytes, 0, false), None);
    }
}

#[test]
#[cfg(feature = "gzip")]
fn a_wrapper_that_unpacks_beyond_the_budget_is_refused() {
    let many = crate::limits::DECOMPRESS_BUDGET_BYTES;
    let bomb = wrapper(1, Compression::Gzip, 0, &Message::new(1, 0, &vec![0; 2 * many]).bytes());
    assert!(bomb.value.as_ref().unwrap().len() < many / 100);
    assert!(matches!(read_old(&bomb.bytes()), Err(Invalid::TooLarge { .. })));
}

fn messages() -> impl Strategy<Value = (i8, Vec<Message>)> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let one = (1..1_000i64, any::<i64>(), bytes(), bytes());
    (0..2i8, proptest::collection::vec(one, 1..20)).prop_map(|(magic, all)| {
        let mut next = -1;
        let message = |(gap, time, key, value)| {
            next += gap;
            let timestamp = if magic == 0 { -1 } else { time };
            Message { offset: next, magic, attributes: 0, timestamp, key, value }
        };
        (magic, all.into_iter().map(message).collect())
    })
}

proptest! {
    #[test]
    fn runs_of_any_messages_are_read_as_they_were_written((magic, messages) in messages(), base in 0..1_000_000i64) {
        let last = messages.last().unwrap().offset;
        for codec in old_codecs().filter(|codec| *codec != Compression::None) {
            let mut run_of = messages.clone();
            if magic == 0 {
                run_of.iter_mut().for_each(|message| message.offset += base);
            }
            let wrapper = wrapper(magic, codec, base + last, &run(&run_of)).bytes();
            let expected: Vec<Owned> = messages.iter().map(|m| m.owned(base + m.offset)).collect();
            prop_assert_eq!(read_old(&wrapper).unwrap().1, expected, "{}", codec);
        }
        for message in &messages {
            prop_assert_eq!(read_old(&message.bytes()).unwrap().1, vec![message.owned(message.offset)]);
        }
    }

    #[test]
    fn bytes_from_nowhere_never_panic_and_what_is_unpacked_is_good(
        magic in 0..2i8,
        codec in 0..8u8,
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        // With and without the packing of a codec, so that what lies inside is reached.
        let plain = Message { attributes: codec, ..Message::new(magic, 99, &body) };
        let mut all = vec![plain];
        all.extend(old_codecs().map(|codec| wrapper(magic, codec, 99, &body)));
        for message in all {
            let _ = read_old(&message.bytes());
        }
    }
}
