use super::*;
use crate::limits::DECOMPRESS_BUDGET_BYTES;

#[cfg(feature = "snappy")]
const SNAPPY: &str = "82534e415050590000000001000000010000002321801a000000046b310a68656c6c6f0024000a02010c776f726c642102046831047631";
#[cfg(feature = "lz4")]
const LZ4: &str =
    "04224d18604082210000801a000000046b310a68656c6c6f0024000a02010c776f726c64210204683104763100000000";
#[cfg(feature = "zstd")]
const ZSTD: &str =
    "28b52ffd00580801001a000000046b310a68656c6c6f0024000a02010c776f726c642102046831047631010000";
#[cfg(feature = "gzip")]
const GZIP: &str = "1f8b08000000000000ff9362606060c936e4ca48cdc9c9675061e06262e429cf2fca49516462c930642933040049a47e1a21000000";

fn unpack(codec: Compression, section: &[u8]) -> Result<Vec<Owned>, Invalid> {
    read(&batch_around(2, 1, codec.id().into(), section)).map(|(_, records)| records)
}

#[cfg_attr(not(any(feature = "snappy", feature = "lz4", feature = "zstd")), allow(dead_code))]
fn sample(codec: Compression, section: &str, crc: u32) {
    let section = hex(section);
    let batch = batch_around(2, 1, codec.id().into(), &section);
    assert_eq!(BatchHeader::parse(&batch).unwrap().crc, crc, "{codec}");
    assert_eq!(unpack(codec, &section).unwrap(), example_records(), "{codec}");
    // Cut anywhere it is an error, never fewer bytes; a trailing end mark alone carries none.
    for len in 0..section.len() {
        assert!(unpack(codec, &section[..len]).is_err(), "{codec} cut to {len}");
    }
}

#[test]
#[cfg(feature = "snappy")]
fn a23_snappy_sample_and_raw_block() {
    sample(Compression::Snappy, SNAPPY, 0x3c88_1eee);
    assert_eq!(example(Compression::Snappy).bytes()[61..], hex(SNAPPY));
    let raw = &hex(SNAPPY)[20..];
    assert_eq!(unpack(Compression::Snappy, raw).unwrap(), example_records());
    let plain = &example(Compression::None).bytes()[61..].to_vec();
    let twice: Vec<u8> =
        [plain.chunks(10).collect::<Vec<_>>()].concat().iter().fold(vec![], |mut out, block| {
            compression::compress(Compression::Snappy, None, block, &mut out).unwrap();
            out
        });
    assert_eq!(unpack(Compression::Snappy, &twice).unwrap(), example_records());
}

#[test]
#[cfg(feature = "lz4")]
fn a23_lz4_sample() {
    sample(Compression::Lz4, LZ4, 0xdb7c_0de8);
    assert_eq!(example(Compression::Lz4).bytes()[61..], hex(LZ4));
}

#[cfg(feature = "lz4")]
fn lz4_frame(
    change: impl FnOnce(lz4_flex::frame::FrameInfo) -> lz4_flex::frame::FrameInfo,
    plain: &[u8],
) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(change(Default::default()), Vec::new());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[test]
#[cfg(feature = "lz4")]
fn a23_lz4_with_sizes_and_checksums() {
    use lz4_flex::frame::BlockSize;
    let plain = example(Compression::None).bytes()[61..].to_vec();
    let frame =
        lz4_frame(|info| info.content_size(Some(33)).content_checksum(true).block_checksums(true), &plain);
    assert_eq!(unpack(Compression::Lz4, &frame).unwrap(), example_records());
    let mut bad = frame.clone();
    let last = frame.len() - 9;
    bad[last] ^= 1;
    assert_eq!(unpack(Compression::Lz4, &bad).unwrap_err(), Invalid::Decompress("lz4"));

    let long: Vec<u8> = (0..3_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
        let frame = lz4_frame(|info| info.block_size(size).block_checksums(true), &long);
        assert!(compression::decompress(Compression::Lz4, &frame, long.len()).unwrap() == long);
    }
}

#[test]
#[cfg(feature = "lz4")]
fn a24_loose_lz4_frames_are_errors() {
    use lz4_flex::frame::BlockMode;
    let plain = example(Compression::None).bytes()[61..].to_vec();
    let invalid = Err(Invalid::Decompress("lz4"));
    let dependent = lz4_frame(|info| info.block_mode(BlockMode::Linked), &plain);
    assert_eq!(unpack(Compression::Lz4, &dependent), invalid);
    let good = hex(LZ4);
    let mut wrong_checksum = good.clone();
    wrong_checksum[6] ^= 1;
    assert_eq!(unpack(Compression::Lz4, &wrong_checksum), invalid);
    assert_eq!(unpack(Compression::Lz4, &good[..good.len() - 4]), invalid);
    for (at, byte) in [(0, 5), (4, 0x62), (4, 0x61), (4, 0x20), (5, 0x30), (5, 0x41), (5, 0xc0)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(unpack(Compression::Lz4, &bad), invalid, "{byte:02x} at {at}");
    }
}

#[test]
#[cfg(feature = "zstd")]
fn a23_zstd_sample_and_several_frames() {
    sample(Compression::Zstd, ZSTD, 0x108a_582b);
    let sealed = example(Compression::Zstd);
    // Frame header: magic, then a descriptor without content size, checksum or dictionary.
    assert_eq!(sealed.bytes()[61..66], hex("28b52ffd 00"));
    let plain = example(Compression::None).bytes()[61..].to_vec();
    let mut frames = zstd::bulk::compress(&plain[..10], 1).unwrap();
    frames.extend(zstd::bulk::compress(&plain[10..], 19).unwrap());
    assert_eq!(unpack(Compression::Zstd, &frames).unwrap(), example_records());
}

#[test]
#[cfg(feature = "zstd")]
fn f41_a_zstd_window_beyond_the_cap_is_refused() {
    use std::io::Write;
    let frame = |log| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&example(Compression::None).bytes()[61..]).unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(unpack(Compression::Zstd, &frame(23)).unwrap(), example_records());
    assert_eq!(unpack(Compression::Zstd, &frame(24)), Err(Invalid::Decompress("zstd")));
}

#[test]
#[cfg(feature = "gzip")]
fn a23_gzip_sample_with_any_header() {
    sample(Compression::Gzip, GZIP, 0x2d66_6374);
    assert_eq!(example(Compression::Gzip).bytes()[61..71], hex(GZIP)[..10]);
    let mut other = hex(GZIP);
    other[8] = 2;
    other[9] = 3;
    assert_eq!(unpack(Compression::Gzip, &other).unwrap(), example_records());
}

#[test]
fn f41_bombs_stop_at_the_budget() {
    let plain = vec![0u8; 2 * DECOMPRESS_BUDGET_BYTES];
    for codec in CODECS.into_iter().filter(|codec| codec.is_built()).skip(1) {
        let mut packed = Vec::new();
        compression::compress(codec, None, &plain, &mut packed).unwrap();
        let batch = batch_around(2, 1, codec.id().into(), &packed);
        let header = BatchHeader::parse(&batch).unwrap();
        let limit = packed.len() + DECOMPRESS_BUDGET_BYTES;
        assert_eq!(decompress(&header, &batch), Err(Invalid::TooLarge { limit }), "{codec}");
        // A builder does not make what it could not read.
        let mut builder = BatchBuilder::new(0);
        builder.push(T, None, Some(&plain), &[]).unwrap();
        let refused = builder.seal(codec, None, &mut Vec::new());
        assert!(matches!(refused, Err(Invalid::Oversize { .. })), "{codec}");
        assert_eq!(builder.count(), 1);
    }
}

#[test]
fn f41_the_limit_itself_is_allowed() {
    let plain: Vec<u8> = (0..200_000u32).map(|i| (i / 3) as u8).collect();
    for codec in CODECS.into_iter().filter(|codec| codec.is_built()) {
        let mut packed = Vec::new();
        compression::compress(codec, None, &plain, &mut packed).unwrap();
        let out = compression::decompress(codec, &packed, plain.len()).unwrap();
        assert!(out == plain && out.capacity() <= plain.len() + 1, "{codec}");
        let limit = plain.len() - 1;
        assert_eq!(
            compression::decompress(codec, &packed, limit),
            Err(Invalid::TooLarge { limit }),
            "{codec}"
        );
    }
}

#[test]
fn levels_are_taken_or_refused() {
    let levels: &[(Compression, &[i32], &[i32])] = &[
        (Compression::Gzip, &[-1, 1, 9], &[0, 10, -2]),
        (Compression::Zstd, &[-131_072, -1, 1, 22], &[23, -131_073]),
        (Compression::Lz4, &[1, 9, 17], &[]),
    ];
    for (codec, good, bad) in levels.iter().filter(|(codec, ..)| codec.is_built()) {
        for &level in *good {
            let sealed = example_builder().seal(*codec, Some(level), &mut Vec::new()).unwrap();
            assert_eq!(read(sealed.bytes()).unwrap().1.len(), 2);
        }
        for &level in *bad {
            assert!(example_builder().seal(*codec, Some(level), &mut Vec::new()).is_err(), "{codec} {level}");
        }
    }
}

#[test]
fn codecs_left_out_say_so() {
    for codec in CODECS.into_iter().filter(|codec| !codec.is_built()) {
        let missing = Invalid::CodecMissing(codec.name());
        assert_eq!(example_builder().seal(codec, None, &mut Vec::new()).unwrap_err(), missing);
        assert_eq!(unpack(codec, b"anything").unwrap_err(), missing);
    }
}

#[test]
fn names_and_numbers_are_kafkas() {
    for (id, (codec, name)) in CODECS.into_iter().zip(["none", "gzip", "snappy", "lz4", "zstd"]).enumerate() {
        assert_eq!((codec.id() as usize, codec.to_string().as_str()), (id, name));
        assert_eq!(name.parse::<Compression>().unwrap(), codec);
    }
    assert!("LZ4".parse::<Compression>().is_err());
    assert_eq!(Compression::default(), Compression::None);
}
