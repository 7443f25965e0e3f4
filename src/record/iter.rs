//! The records of a section, one after another, without a copy.

use std::iter::FusedIterator;

use super::record::RawRecord;
use super::varint;

/// Iterates a section that [`check_records`](super::check_records) accepted; over any other it ends early.
#[derive(Clone, Debug)]
pub(crate) struct RecordIter<'a> {
    section: &'a [u8],
}

impl<'a> RecordIter<'a> {
    /// `section`: the uncompressed records of one batch.
    #[inline]
    pub(crate) fn new(section: &'a [u8]) -> Self {
        RecordIter { section }
    }

    /// Leaves out `count` records, looking at nothing but their lengths.
    pub(crate) fn step_over(&mut self, count: u32) {
        for _ in 0..count {
            let mut rest = self.section;
            let len = varint::read_32(&mut rest).and_then(|len| usize::try_from(len).ok());
            self.section = len.and_then(|len| rest.get(len..)).unwrap_or_default();
        }
    }

    /// What was not iterated yet.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.section
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = RawRecord<'a>;

    #[inline]
    fn next(&mut self) -> Option<RawRecord<'a>> {
        if self.section.is_empty() {
            return None;
        }
        let record = RawRecord::take(&mut self.section).ok();
        if record.is_none() {
            self.section = &[];
        }
        record
    }
}

impl FusedIterator for RecordIter<'_> {}
