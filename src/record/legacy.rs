//! Kafka's message formats 0 and 1 (before 0.11), which are read and never written.
//!
//! A message is: offset (8), size of what follows (4), CRC-32 of what follows it (4), format (1), attributes (1),
//! in format 1 a timestamp (8), key and value, each behind its length (4; -1 is null). A wrapper is a message whose
//! value is a compressed run of messages. It carries the offset of the last of them; their own offsets are the true
//! ones in format 0, and in format 1 only count how far they lie apart.
//!
//! A header of these formats says little that could be checked: it is believed only with its checksum. Unpacked, the
//! messages become the records of a batch of format 2, in the memory that they were unpacked into.
//!
//! Invariants:
//! - A message takes no more bytes as a record of format 2: so it can be turned into one where it lies.
//! - What is unpacked takes no more memory than the budget of `decompress`, whatever the bytes claim.

use std::ops::Range;

use super::batch::{BatchHeader, verify_crc, whole};
use super::checksum::crc32;
use super::layout as at;
use super::varint::{self, Writer};
use super::{Compression, Invalid, compression};
use crate::limits::{BATCH_BYTES_MAX, DECOMPRESS_BUDGET_BYTES};

const CRC: usize = at::UNCOUNTED;
const CHECKSUMMED: usize = CRC + size_of::<u32>();
const ATTRIBUTES: usize = at::MAGIC + size_of::<i8>();
const TIMESTAMP: usize = ATTRIBUTES + size_of::<i8>();

const _: () = {
    assert!(CHECKSUMMED == at::MAGIC && TIMESTAMP == 18);
    // The bytes of an empty message, and what is the most that they become: attributes, a count of headers, four
    // varints of 32 bits (the lengths of the record, its key and its value, the offset) and the timestamp, which is one
    // byte in format 0.
    assert!(size_of_fields(0) - at::UNCOUNTED == at::LEGACY_LENGTH_MIN as usize);
    assert!(3 + 4 * varint::MAX_32 <= size_of_fields(0));
    assert!(2 + 4 * varint::MAX_32 + varint::MAX_64 <= size_of_fields(1));
};

/// Where the length of the key lies.
const fn key_length(magic: i8) -> usize {
    if magic == 0 { TIMESTAMP } else { TIMESTAMP + size_of::<i64>() }
}

/// Bytes of a message whose key and value are null.
const fn size_of_fields(magic: i8) -> usize {
    key_length(magic) + 2 * size_of::<i32>()
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// The bytes behind a length field; `None` when they do not end at or before `end`.
fn field(length: i32, from: usize, end: usize) -> Option<Option<Range<usize>>> {
    match length {
        -1 => (from <= end).then_some(None),
        _ => {
            let to = from.checked_add(usize::try_from(length).ok()?)?;
            (to <= end).then_some(Some(from..to))
        }
    }
}

/// The header of a message of format 0 or 1, as far as one can be had: of a wrapper the base offset is that of its last
/// record until it is unpacked. `bytes` may end behind it.
#[cold]
pub(super) fn parse(bytes: &[u8]) -> Result<BatchHeader, Invalid> {
    let short = |need| Invalid::Short { have: bytes.len(), need };
    let wrong = |name, why| Err(Invalid::Field { name, why });
    let (Some(offset), Some(length), Some(crc), Some([magic, attributes])) =
        (get(bytes, at::BASE_OFFSET), get(bytes, at::LENGTH), get(bytes, CRC), get(bytes, at::MAGIC))
    else {
        return Err(short(size_of_fields(0)));
    };
    let (offset, length, magic) = (i64::from_be_bytes(offset), i32::from_be_bytes(length), magic as i8);
    let fields = size_of_fields(magic);
    let size = usize::try_from(length).map_or(0, |length| length + at::UNCOUNTED);
    if size < fields || size > BATCH_BYTES_MAX {
        return Err(Invalid::Length(length));
    }
    if !(0..i64::MAX).contains(&offset) {
        return wrong("offset", "it is out of range");
    }
    let codec = attributes & at::CODEC_MASK as u8;
    if codec > Compression::Lz4.id() {
        return Err(Invalid::Codec(codec));
    }
    let Some(key_len) = get(bytes, key_length(magic)) else { return Err(short(fields)) };
    // Both fields fill the message exactly. The second length may lie beyond what is here.
    let key = field(i32::from_be_bytes(key_len), key_length(magic) + 4, size - 4);
    let Some(key) = key else { return wrong("key", "it does not fit") };
    let value_length = key.map_or(key_length(magic) + 4, |key| key.end);
    if let Some(value_len) = get(bytes, value_length) {
        let value = field(i32::from_be_bytes(value_len), value_length + 4, size);
        if value.is_none_or(|value| value.map_or(value_length + 4, |value| value.end) != size) {
            return wrong("value", "it does not fit");
        }
    }
    let (timestamp, kind) = match magic {
        0 => (at::NONE.into(), 0),
        _ => match get(bytes, TIMESTAMP) {
            Some(timestamp) => (i64::from_be_bytes(timestamp), i16::from(attributes) & at::LOG_APPEND_TIME),
            None => return Err(short(fields)),
        },
    };
    Ok(BatchHeader {
        base_offset: offset,
        batch_length: length,
        leader_epoch: at::NONE.into(),
        magic,
        crc: u32::from_be_bytes(crc),
        attributes: i16::from(codec) | kind,
        last_offset_delta: 0,
        base_timestamp: timestamp,
        max_timestamp: timestamp,
        producer_id: at::NONE.into(),
        producer_epoch: at::NONE.into(),
        base_sequence: at::NONE.into(),
        count: 1,
    })
}

/// As [`parse`] for fewer bytes than a header of format 2 has: an old message may be as short.
#[cold]
pub(super) fn parse_short(bytes: &[u8], need: usize) -> Result<BatchHeader, Invalid> {
    let length = get(bytes, at::LENGTH).map(i32::from_be_bytes);
    match bytes.get(at::MAGIC) {
        // A length that is none says more than that bytes are missing.
        Some(0 | 1) if length.is_some_and(|length| length >= at::LEGACY_LENGTH_MIN) => parse(bytes),
        _ => Err(Invalid::Short { have: bytes.len(), need }),
    }
}

/// The last offset in a wrapper, by what its bytes say, damaged as they may be; `None` when they say that it is none.
pub(crate) fn wrapper_offset(bytes: &[u8]) -> Option<i64> {
    let [magic, attributes] = get(bytes, at::MAGIC)?;
    let packed = (1..=Compression::Lz4.id()).contains(&(attributes & at::CODEC_MASK as u8));
    (magic < at::MAGIC_V2 as u8 && packed).then_some(i64::from_be_bytes(get(bytes, at::BASE_OFFSET)?))
}

/// The checksum of `message`, its whole bytes.
#[cold]
pub(super) fn checksum(message: &[u8]) -> u32 {
    crc32(message.get(CHECKSUMMED..).unwrap_or_default())
}

/// One whole message of a run, its fields by their places in the run.
struct Message {
    header: BatchHeader,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    end: usize,
}

impl Message {
    fn at(run: &[u8], start: usize) -> Result<Message, Invalid> {
        let message = run.get(start..).unwrap_or_default();
        let header = parse(message)?;
        let end = header.size();
        if end > message.len() {
            return Err(Invalid::Short { have: message.len(), need: end });
        }
        let mut from = key_length(header.magic);
        let mut next = |name| {
            let field = get(message, from).and_then(|len| field(i32::from_be_bytes(len), from + 4, end));
            let field = field.ok_or(Invalid::Field { name, why: "it does not fit" })?;
            from = field.as_ref().map_or(from + 4, |field| field.end);
            Ok(field.map(|field| start + field.start..start + field.end))
        };
        let (key, value) = (next("key")?, next("value")?);
        Ok(Message { header, key, value, end: start + end })
    }
}

/// The records of `batch`, a whole message or wrapper, as a section of format 2, and the header that goes with them.
/// Its own checksum is not looked at, those inside a wrapper are.
pub(crate) fn unpack(header: &BatchHeader, batch: &[u8]) -> Result<(BatchHeader, Vec<u8>), Invalid> {
    let batch = whole(batch, header)?;
    let wrapped = header.compression() != Compression::None;
    let mut run = if wrapped {
        let value = Message::at(batch, 0)?.value.and_then(|value| batch.get(value));
        let Some(value) = value else {
            return Err(Invalid::Field { name: "value", why: "a wrapper has none" });
        };
        let limit = value.len() + DECOMPRESS_BUDGET_BYTES;
        // The first writers of this format computed the checksum of LZ4's own header in another way.
        compression::decompress_framed(header.compression(), value, limit, header.magic > 0)?
    } else {
        batch.to_vec()
    };
    let header = survey(header, &run, wrapped)?;
    turn(&header, &mut run, wrapped)?;
    Ok((header, run))
}

/// Checks a run of messages, and finds the header of the batch that they are.
fn survey(outer: &BatchHeader, run: &[u8], wrapped: bool) -> Result<BatchHeader, Invalid> {
    let mut start = 0;
    let mut count = 0;
    let mut first: Option<BatchHeader> = None;
    let mut last = -1;
    while start < run.len() {
        let message = Message::at(run, start)?;
        let invalid = |why| Invalid::Record { index: count, why };
        if wrapped {
            if message.header.magic != outer.magic {
                return Err(invalid("its format is not that of the wrapper"));
            }
            if message.header.compression() != Compression::None {
                return Err(invalid("it is a wrapper in a wrapper"));
            }
            verify_crc(run.get(start..message.end).unwrap_or_default(), &message.header)?;
        }
        if message.header.base_offset <= last {
            return Err(invalid("its offset is not larger than the one before"));
        }
        last = message.header.base_offset;
        first.get_or_insert(message.header);
        count += 1;
        start = message.end;
    }
    let wrong = |why| Invalid::Field { name: "offset", why };
    let Some(first) = first else { return Err(Invalid::Count { declared: 1, found: 0 }) };
    let behind = outer.base_offset.checked_sub(last).filter(|behind| *behind >= 0);
    let behind = behind.ok_or(wrong("a record of the wrapper lies behind it"))?;
    let base = if is_relative(outer, wrapped) { first.base_offset + behind } else { first.base_offset };
    let span = i32::try_from(outer.base_offset - base);
    Ok(BatchHeader {
        base_offset: base,
        last_offset_delta: span.map_err(|_| wrong("the records of the wrapper lie too far apart"))?,
        base_timestamp: first.base_timestamp,
        // A message takes at least 26 bytes.
        count: i32::try_from(count).unwrap_or(i32::MAX),
        ..*outer
    })
}

/// Whether offsets say only how far records lie apart.
fn is_relative(outer: &BatchHeader, wrapped: bool) -> bool {
    wrapped && outer.magic > 0
}

/// Turns a run of messages, which `survey` found good, into the records of a batch with this header, where they lie.
fn turn(header: &BatchHeader, run: &mut Vec<u8>, wrapped: bool) -> Result<(), Invalid> {
    let (mut from, mut to) = (0, 0);
    let mut base = (!is_relative(header, wrapped)).then_some(header.base_offset);
    while from < run.len() {
        let Message { header: message, key, value, end } = Message::at(run, from)?;
        let base = *base.get_or_insert(message.base_offset);
        let delta = i32::try_from(message.base_offset - base).unwrap_or(i32::MAX);
        let age = match header.attributes & at::LOG_APPEND_TIME {
            0 => message.base_timestamp.wrapping_sub(header.base_timestamp),
            _ => 0,
        };
        // The range of a field that fits in a message fits in an i32.
        let len = |field: &Option<Range<usize>>| field.as_ref().map_or(-1, |f| f.len() as i32);
        let (key_len, value_len) = (len(&key), len(&value));
        let bytes = key_len.max(0) as usize + value_len.max(0) as usize + 1;
        let mut head = [0; 2 * varint::WINDOW];
        let mut head_writer = Writer::new(&mut head);
        head_writer.prefix(varint::len_32(key_len) + varint::len_32(value_len) + bytes, age, delta);
        head_writer.varint(key_len);
        let head_len = head_writer.len();
        put(run, &mut to, &head[..head_len]);
        shift(run, &mut to, key);
        let mut head_writer = Writer::new(&mut head);
        head_writer.varint(value_len);
        let head_len = head_writer.len();
        put(run, &mut to, &head[..head_len]);
        shift(run, &mut to, value);
        // No headers.
        put(run, &mut to, &[0]);
        debug_assert!(to <= end, "a record grew beyond its message");
        from = end;
    }
    run.truncate(to);
    Ok(())
}

fn put(run: &mut [u8], to: &mut usize, bytes: &[u8]) {
    run[*to..*to + bytes.len()].copy_from_slice(bytes);
    *to += bytes.len();
}

fn shift(run: &mut [u8], to: &mut usize, field: Option<Range<usize>>) {
    if let Some(field) = field {
        let len = field.len();
        run.copy_within(field, *to);
        *to += len;
    }
}
