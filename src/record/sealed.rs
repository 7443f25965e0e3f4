//! The finished batch, on its way into the log.

use super::batch::BatchHeader;
use super::layout as at;

/// A finished batch: ready to be written once offset and epoch are placed, which lie outside the checksum.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// May be longer than the batch: the rest is room that the next user of the buffer need not fill again.
    bytes: Vec<u8>,
    header: BatchHeader,
}

impl Sealed {
    /// `bytes` begin with the batch that `header` describes, checksum and all.
    pub(super) fn new(bytes: Vec<u8>, header: BatchHeader) -> Self {
        Sealed { bytes, header }
    }

    /// The whole batch.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.header.size()]
    }

    /// Its header.
    #[inline]
    pub(crate) fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Gives it its place in the log.
    #[inline]
    pub(crate) fn place(&mut self, base_offset: i64, leader_epoch: i32) {
        self.header.base_offset = base_offset;
        self.header.leader_epoch = leader_epoch;
        at::put(&mut self.bytes, at::BASE_OFFSET, base_offset.to_be_bytes());
        at::put(&mut self.bytes, at::LEADER_EPOCH, leader_epoch.to_be_bytes());
    }

    /// Says where its records lie, that are in the log already.
    pub(crate) fn place_duplicate(&mut self, base_offset: i64, leader_epoch: i32, timestamp: i64) {
        self.place(base_offset, leader_epoch);
        self.header.max_timestamp = timestamp;
    }

    /// Makes every record read `now`; the checksum is computed again.
    pub(crate) fn stamp_append_time(&mut self, now: i64) {
        self.header.attributes |= at::LOG_APPEND_TIME;
        self.header.max_timestamp = now;
        self.header.finish(&mut self.bytes[..self.header.size()]);
    }

    /// Gives its records other sequence numbers; the checksum is computed again.
    pub(crate) fn renumber(&mut self, base_sequence: i32) {
        self.header.base_sequence = base_sequence;
        self.header.finish(&mut self.bytes[..self.header.size()]);
    }

    /// Its buffer, for the next batch; what it holds means nothing.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}
