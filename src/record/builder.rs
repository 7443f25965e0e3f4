//! The open batch: push records into its buffer, seal it into bytes that are ready for the log.

use std::mem;

use super::batch::BatchHeader;
use super::control::{self, ControlType};
use super::layout as at;
use super::record::RawRecord;
use super::sealed::Sealed;
use super::varint::{self, Writer};
use super::{Compression, Header, Invalid, compression};
use crate::limits::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES, DECOMPRESS_BUDGET_BYTES, HEADERS_MAX};

/// A record's length, attributes and deltas at their longest.
const RECORD_OVERHEAD: usize = 2 * varint::MAX_32 + varint::MAX_64 + 1;

/// Room beyond the last record, so that writing it never makes a buffer of the right capacity grow.
const SLACK: usize = RECORD_OVERHEAD + Writer::OVERSHOOT;

/// What a batch's header says besides its records; the default is an ordinary batch without a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchFields {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) transactional: bool,
    pub(crate) control: bool,
    /// Takes the place of the base timestamp: must be set before the first record.
    pub(crate) delete_horizon: Option<i64>,
    /// Makes it a `LogAppendTime` batch of that time.
    pub(crate) append_time: Option<i64>,
    /// For a batch that lost its last records: the delta of the one that was last.
    pub(crate) last_offset_delta: Option<i32>,
}

impl Default for BatchFields {
    fn default() -> Self {
        BatchFields {
            producer_id: at::NONE.into(),
            producer_epoch: at::NONE.into(),
            base_sequence: at::NONE.into(),
            transactional: false,
            control: false,
            delete_horizon: None,
            append_time: None,
            last_offset_delta: None,
        }
    }
}

/// One open batch being filled; its buffer is reused between batches.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    /// Header bytes and records up to `end`; what follows is room, written over without growing a vector per field.
    buffer: Vec<u8>,
    /// 0 before the first record, so an idle builder can own nothing.
    end: usize,
    capacity: usize,
    count: i32,
    last_offset_delta: i32,
    first_timestamp: i64,
    base_timestamp: i64,
    last_timestamp: i64,
    max_timestamp: i64,
    fields: BatchFields,
}

impl BatchBuilder {
    /// A builder that takes `capacity` bytes when the first record comes.
    pub(crate) fn new(capacity: usize) -> Self {
        BatchBuilder {
            buffer: Vec::new(),
            end: 0,
            capacity,
            count: 0,
            last_offset_delta: -1,
            first_timestamp: at::NONE.into(),
            base_timestamp: at::NONE.into(),
            last_timestamp: at::NONE.into(),
            max_timestamp: at::NONE.into(),
            fields: BatchFields::default(),
        }
    }

    /// A builder that fills `buffer`; what it holds is forgotten.
    pub(crate) fn from_buffer(buffer: Vec<u8>) -> Self {
        let capacity = buffer.capacity().saturating_sub(SLACK);
        BatchBuilder { buffer, ..BatchBuilder::new(capacity) }
    }

    /// The most that a record takes in a batch, lengths included.
    #[inline]
    pub(crate) fn size_bound(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> usize {
        RECORD_OVERHEAD.saturating_add(payload_size(key, value, headers))
    }

    /// Appends a record one offset after the last, and returns its index.
    #[inline]
    pub(crate) fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<u32, Invalid> {
        // Wraps to a negative one at the very end, which is refused as not increasing.
        self.push_at(self.last_offset_delta.wrapping_add(1), timestamp, key, value, headers)
    }

    /// Appends a record at an offset larger than the last, and returns its index.
    // Inlined by force: as a call its nine arguments pass through the stack, which doubles its time.
    #[inline(always)]
    pub(crate) fn push_at(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<u32, Invalid> {
        if headers.len() > HEADERS_MAX {
            return Err(Invalid::Field { name: "headers", why: "there can be at most 1000 headers" });
        }
        let payload = payload_size(key, value, headers);
        let mut writer = self.begin(offset_delta, timestamp, payload)?;
        write_nullable(&mut writer, key);
        write_nullable(&mut writer, value);
        if headers.is_empty() {
            writer.varint(0);
        } else {
            write_headers(&mut writer, headers);
        }
        let len = writer.len();
        Ok(self.count_in(len, offset_delta, timestamp))
    }

    /// Checks a record of `payload` bytes and makes room; the answer has its prefix written.
    #[inline(always)]
    fn begin(&mut self, offset_delta: i32, timestamp: i64, payload: usize) -> Result<Writer<'_>, Invalid> {
        if offset_delta <= self.last_offset_delta {
            return Err(Invalid::Field { name: "offset", why: "it must be larger than the one before" });
        }
        if timestamp < -1 {
            return Err(Invalid::Field {
                name: "timestamp",
                why: "a timestamp must be -1 (none) or not negative",
            });
        }
        // Keeps every length below within an i32 as well.
        if payload > (BATCH_BYTES_MAX - RECORD_OVERHEAD).saturating_sub(self.bytes()) {
            return Err(oversize(self.bytes() + payload));
        }
        if self.count == 0 {
            self.open(timestamp);
        }
        let delta = timestamp.wrapping_sub(self.base_timestamp);
        let room = RECORD_OVERHEAD + payload + Writer::OVERSHOOT;
        if self.buffer.len() - self.end < room {
            self.grow(room);
        }
        let mut writer = Writer::new(&mut self.buffer[self.end..]);
        writer.prefix(payload, delta, offset_delta);
        Ok(writer)
    }

    /// Counts a record of `len` bytes that was written.
    #[inline(always)]
    fn count_in(&mut self, len: usize, offset_delta: i32, timestamp: i64) -> u32 {
        self.end += len;
        let index = self.count as u32;
        self.count += 1;
        self.last_offset_delta = offset_delta;
        self.last_timestamp = timestamp;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        index
    }

    /// Appends a stored record as it is, at its own offset; only its timestamp is told anew.
    pub(crate) fn push_stored(&mut self, timestamp: i64, record: &RawRecord<'_>) -> Result<u32, Invalid> {
        let (headers, count) = record.headers.stored();
        let payload = nullable_size(record.key)
            .saturating_add(nullable_size(record.value))
            .saturating_add(len_size(count as usize))
            .saturating_add(headers.len());
        let mut writer = self.begin(record.offset_delta, timestamp, payload)?;
        write_nullable(&mut writer, record.key);
        write_nullable(&mut writer, record.value);
        writer.varint(count as i32);
        writer.bytes(headers);
        let len = writer.len();
        Ok(self.count_in(len, record.offset_delta, timestamp))
    }

    /// Appends the marker that ends a transaction.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "written by transactions and compaction; its reading is in use")
    )]
    pub(crate) fn push_end_marker(
        &mut self,
        timestamp: i64,
        kind: ControlType,
        coordinator_epoch: i32,
    ) -> Result<u32, Invalid> {
        if !self.fields.transactional || !self.fields.control {
            let why = "a marker needs a batch that is both transactional and control";
            return Err(Invalid::Field { name: "attributes", why });
        }
        let (key, value) = control::end_marker(kind, coordinator_epoch);
        self.push(timestamp, Some(&key), Some(&value), &[])
    }

    #[inline(never)]
    fn open(&mut self, timestamp: i64) {
        self.first_timestamp = timestamp;
        self.base_timestamp = self.fields.delete_horizon.unwrap_or(timestamp);
        self.end = BATCH_HEADER_BYTES;
        self.grow(self.capacity.saturating_add(SLACK).saturating_sub(BATCH_HEADER_BYTES));
    }

    /// Makes room for `room` more bytes, at least doubling what there is when it must grow.
    #[inline(never)]
    fn grow(&mut self, room: usize) {
        let len = self.end.saturating_add(room);
        if len > self.buffer.capacity() {
            self.buffer.reserve(len - self.buffer.len());
        }
        // All of it, so that a buffer is filled with zeros once and not once per batch.
        self.buffer.resize(self.buffer.capacity().max(len), 0);
    }

    /// Bytes so far, header included, before compression.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.end.max(BATCH_HEADER_BYTES)
    }

    /// Records so far.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count as u32
    }

    /// Whether it holds no record.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The timestamp of the first record, -1 without one.
    #[inline]
    #[cfg_attr(not(test), expect(dead_code, reason = "asked by compaction"))]
    pub(crate) fn first_timestamp(&self) -> i64 {
        self.first_timestamp
    }

    /// The timestamp of the last record, -1 without one.
    #[inline]
    #[cfg_attr(not(test), expect(dead_code, reason = "asked by compaction"))]
    pub(crate) fn last_timestamp(&self) -> i64 {
        self.last_timestamp
    }

    /// The largest timestamp, -1 without one.
    #[inline]
    #[cfg_attr(not(test), expect(dead_code, reason = "asked by compaction"))]
    pub(crate) fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Sets what the header says besides its records; forgotten by [`seal`](Self::seal).
    pub(crate) fn set_fields(&mut self, fields: BatchFields) {
        self.fields = fields;
    }

    /// Names the producer; may come at any time before [`seal`](Self::seal), which forgets it.
    pub(crate) fn producer(&mut self, id: i64, epoch: i16, base_sequence: i32) {
        self.fields.producer_id = id;
        self.fields.producer_epoch = epoch;
        self.fields.base_sequence = base_sequence;
    }

    /// Forgets the records and fields and keeps the buffer.
    pub(crate) fn clear(&mut self) {
        let buffer = mem::take(&mut self.buffer);
        *self = BatchBuilder { buffer, ..BatchBuilder::new(self.capacity) };
    }

    /// Compresses, fills in the header, and leaves the builder empty; on an error it keeps its records.
    ///
    /// `scratch` is used up: it becomes the batch's bytes, or the builder's next buffer.
    pub(crate) fn seal(
        &mut self,
        compression: Compression,
        level: Option<i32>,
        scratch: &mut Vec<u8>,
    ) -> Result<Sealed, Invalid> {
        let mut header = self.header()?;
        let plain = &self.buffer[BATCH_HEADER_BYTES..self.end];
        let (mut bytes, len) = if compression == Compression::None {
            (mem::replace(&mut self.buffer, mem::take(scratch)), self.end)
        } else {
            scratch.clear();
            scratch.resize(BATCH_HEADER_BYTES, 0);
            compression::compress(compression, level, plain, scratch)?;
            let packed = scratch.len() - BATCH_HEADER_BYTES;
            // A reader would refuse to unpack it.
            if plain.len() > packed + DECOMPRESS_BUDGET_BYTES {
                let limit_is =
                    "the most that a batch packed this small may hold; send it without compression";
                return Err(Invalid::Oversize {
                    bytes: plain.len(),
                    limit: packed + DECOMPRESS_BUDGET_BYTES,
                    limit_is,
                });
            }
            if scratch.len() > BATCH_BYTES_MAX {
                return Err(oversize(scratch.len()));
            }
            let bytes = mem::take(scratch);
            let len = bytes.len();
            (bytes, len)
        };
        header.attributes |= i16::from(compression.id());
        header.batch_length = (len - at::UNCOUNTED) as i32;
        header.finish(&mut bytes[..len]);
        self.clear();
        Ok(Sealed::new(bytes, header))
    }

    fn header(&self) -> Result<BatchHeader, Invalid> {
        let fields = &self.fields;
        let refuse = |name, why| Err(Invalid::Field { name, why });
        if self.count == 0 {
            return refuse("record count", "there is no record to seal");
        }
        if fields.producer_id >= 0 {
            if fields.producer_epoch < 0 {
                return refuse("producer epoch", "a batch with a producer needs one");
            }
            if fields.base_sequence < 0 && !fields.control {
                return refuse("base sequence", "a batch with a producer needs one");
            }
        } else if fields.transactional {
            return refuse("producer id", "a transactional batch needs one");
        }
        if fields.delete_horizon.is_some_and(|horizon| horizon != self.base_timestamp) {
            return refuse("delete horizon", "it was set after the first record");
        }
        let last_offset_delta = fields.last_offset_delta.unwrap_or(self.last_offset_delta);
        if last_offset_delta < self.last_offset_delta {
            return refuse("last offset delta", "a record lies beyond it");
        }
        let flag = |set, bit| if set { bit } else { 0 };
        Ok(BatchHeader {
            base_offset: 0,
            batch_length: 0,
            leader_epoch: at::NONE.into(),
            magic: at::MAGIC_V2,
            crc: 0,
            attributes: flag(fields.append_time.is_some(), at::LOG_APPEND_TIME)
                | flag(fields.transactional, at::TRANSACTIONAL)
                | flag(fields.control, at::CONTROL)
                | flag(fields.delete_horizon.is_some(), at::DELETE_HORIZON),
            last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: fields.append_time.unwrap_or(self.max_timestamp),
            producer_id: fields.producer_id,
            producer_epoch: fields.producer_epoch,
            base_sequence: fields.base_sequence,
            count: self.count,
        })
    }
}

/// Exact bytes of key, value and headers with their lengths; saturates instead of wrapping.
#[inline(always)]
#[cold]
fn oversize(bytes: usize) -> Invalid {
    Invalid::Oversize { bytes, limit: BATCH_BYTES_MAX, limit_is: "the most that a batch may hold" }
}

fn payload_size(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> usize {
    let fields = nullable_size(key).saturating_add(nullable_size(value));
    let headers = if headers.is_empty() { 1 } else { headers_size(headers) };
    fields.saturating_add(headers)
}

#[inline(never)]
fn headers_size(headers: &[Header<'_>]) -> usize {
    headers.iter().fold(varint::MAX_32.min(len_size(headers.len())), |size, header| {
        size.saturating_add(nullable_size(Some(header.key.as_bytes())))
            .saturating_add(nullable_size(header.value))
    })
}

#[inline(always)]
fn nullable_size(field: Option<&[u8]>) -> usize {
    match field {
        None => 1,
        Some(bytes) => bytes.len() + len_size(bytes.len()),
    }
}

/// Bytes of a length; one that no batch can hold counts as the longest.
#[inline(always)]
fn len_size(len: usize) -> usize {
    i32::try_from(len).map_or(varint::MAX_32, varint::len_32)
}

#[inline(always)]
fn write_nullable(writer: &mut Writer<'_>, field: Option<&[u8]>) {
    match field {
        None => writer.varint(-1),
        Some(bytes) => {
            writer.varint(bytes.len() as i32);
            writer.bytes(bytes);
        }
    }
}

#[inline(never)]
fn write_headers(writer: &mut Writer<'_>, headers: &[Header<'_>]) {
    writer.varint(headers.len() as i32);
    for header in headers {
        write_nullable(writer, Some(header.key.as_bytes()));
        write_nullable(writer, header.value);
    }
}
