//! A walk over the batches of a file, through a window of memory and never through a map.

use std::ops::Range;

use crate::error::Result;
use crate::limits::BATCH_HEADER_BYTES;
use crate::record::{BatchHeader, Invalid, find_header, verify_crc, wrapper_offset};
use crate::storage::File;
use crate::types::Offset;

const WINDOW_BYTES: usize = 256 * 1024;

/// How much the device is asked for at a time, and how long before it is read at the latest.
const AHEAD_BYTES: u64 = 32 << 20;

/// How far from its segment's base an offset may lie.
const SEGMENT_OFFSETS: Offset = 1 << 31;

/// What the walk met.
#[derive(Debug)]
pub(crate) enum Step {
    Batch {
        position: u64,
        header: BatchHeader,
    },
    /// The last batch ended where the file ends.
    End,
    /// The bytes from `position` on are no batch.
    Bad {
        position: u64,
        why: Invalid,
    },
}

/// Walks from batch to batch up to `end`.
pub(crate) struct Scan<'f> {
    file: &'f dyn File,
    position: u64,
    end: u64,
    /// Whether messages of formats 0 and 1 are batches too.
    legacy: bool,
    /// What lies elsewhere is not of this segment.
    offsets: Range<Offset>,
    window: Vec<u8>,
    window_at: u64,
    /// Up to where the device was asked for what will be read; `None`: it is not asked.
    asked: Option<u64>,
}

impl<'f> Scan<'f> {
    /// Over what this crate wrote: batches of format 2.
    pub(crate) fn new(file: &'f dyn File, position: u64, end: u64) -> Self {
        Scan {
            file,
            position,
            end,
            legacy: false,
            offsets: 0..Offset::MAX,
            window: Vec::new(),
            window_at: 0,
            asked: None,
        }
    }

    /// Over what a broker may have written to the segment of this base: messages of formats 0 and 1 too.
    pub(crate) fn of_broker(self, base: Offset) -> Self {
        Scan { legacy: true, offsets: base..base.saturating_add(SEGMENT_OFFSETS), ..self }
    }

    /// Asks the device for what comes while it looks at what came: for a walk to the end over what no cache has.
    pub(crate) fn reading_ahead(self) -> Self {
        Scan { asked: Some(self.position), ..self }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next batch; its checksum is computed when `checked`, else only its header is looked at. A header of an old
    /// format alone is not believed.
    pub(crate) fn next(&mut self, checked: bool) -> Result<Step> {
        let position = self.position;
        if position >= self.end {
            return Ok(Step::End);
        }
        let bad = |why| Ok(Step::Bad { position, why });
        let left = usize::try_from(self.end - position).unwrap_or(usize::MAX);
        let header = match BatchHeader::parse(self.bytes(position, BATCH_HEADER_BYTES)?) {
            Ok(header) => header,
            Err(why) => return bad(why),
        };
        if header.size() > left {
            return bad(Invalid::Short { have: left, need: header.size() });
        }
        if header.is_legacy() && !self.legacy {
            return bad(Invalid::Magic(header.magic));
        }
        if checked || header.is_legacy() {
            let batch = self.bytes(position, header.size())?;
            if let Err(why) = verify_crc(batch, &header) {
                return bad(why);
            }
        }
        self.position = position + header.size() as u64;
        Ok(Step::Batch { position, header })
    }

    /// The bytes of the batch that was found last.
    pub(crate) fn batch(&mut self, position: u64, header: &BatchHeader) -> Result<&[u8]> {
        self.bytes(position, header.size())
    }

    /// Goes back to a batch that was found, to call its bytes bad after all.
    pub(crate) fn reject(&mut self, position: u64) {
        self.position = position;
    }

    /// Moves to the next place behind the current one where a whole, checked batch starts.
    pub(crate) fn resync(&mut self) -> Result<Option<u64>> {
        // A header that begins in a piece is seen whole with it.
        const PIECE_BYTES: usize = WINDOW_BYTES - BATCH_HEADER_BYTES;
        let (legacy, offsets) = (self.legacy, self.offsets_behind(self.position)?);
        let mut from = self.position + 1;
        while from < self.end {
            let mut at = 0;
            while let Some((found, header)) = find_header(self.bytes(from, WINDOW_BYTES)?, at, legacy)
                .filter(|(found, _)| *found < PIECE_BYTES)
            {
                let position = from + found as u64;
                if offsets.contains(&header.last_offset())
                    && header.size() as u64 <= self.end - position
                    && verify_crc(self.bytes(position, header.size())?, &header).is_ok()
                {
                    self.position = position;
                    return Ok(Some(position));
                }
                at = found + 1;
            }
            from += PIECE_BYTES as u64;
        }
        Ok(None)
    }

    /// Where the offsets of batches behind a damaged one lie. A wrapper of an old format may hold its messages as they
    /// are: they are not taken for batches, for they lie at or before the offset that the wrapper carries.
    fn offsets_behind(&mut self, position: u64) -> Result<Range<Offset>> {
        let (legacy, offsets) = (self.legacy, self.offsets.clone());
        let damaged = self.bytes(position, BATCH_HEADER_BYTES)?;
        Ok(match wrapper_offset(damaged).filter(|offset| legacy && offsets.contains(offset)) {
            Some(last) => last + 1..offsets.end,
            None => offsets,
        })
    }

    /// `len` bytes at `position`, fewer at the end.
    fn bytes(&mut self, position: u64, len: usize) -> Result<&[u8]> {
        let len = have_len(self.end, position).min(len);
        let inside =
            position >= self.window_at && position + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let want = usize::try_from(self.end - position).unwrap_or(usize::MAX).min(len.max(WINDOW_BYTES));
            if let Some(next) = self.asked.and_then(|asked| to_ask(asked, position, self.end)) {
                self.asked = Some(next.end);
                self.file.read_ahead(next);
            }
            self.window.resize(want, 0);
            let read = self.file.read_at(&mut self.window, position)?;
            self.window.truncate(read);
            self.window_at = position;
        }
        let at = usize::try_from(position - self.window_at).unwrap_or(usize::MAX);
        let to = (at + len).min(self.window.len());
        Ok(self.window.get(at..to).unwrap_or_default())
    }
}

/// What to ask the device for when `position` is about to be read of a file that ends at `end`; it was asked for what
/// lies before `asked`.
fn to_ask(asked: u64, position: u64, end: u64) -> Option<Range<u64>> {
    let far = asked >= position.saturating_add(AHEAD_BYTES);
    let next = asked.max(position)..asked.max(position).saturating_add(AHEAD_BYTES).min(end);
    (!far && !next.is_empty()).then_some(next)
}

/// The offsets of batch after batch, the part of a header that Kafka's checksum leaves out.
pub(super) struct Order {
    /// What the batch in front promised; `None` behind damage.
    pub(super) expected: Option<Offset>,
    floor: Offset,
    contiguous: bool,
}

impl Order {
    pub(super) fn new(base: Offset, contiguous: bool) -> Self {
        Order { expected: Some(base), floor: base, contiguous }
    }

    pub(super) fn takes(&self, header: &BatchHeader) -> bool {
        match self.expected {
            Some(expected) if self.contiguous => header.base_offset == expected,
            _ => header.base_offset >= self.floor,
        }
    }

    pub(super) fn pass(&mut self, header: &BatchHeader) {
        self.floor = header.next_offset();
        self.expected = Some(self.floor);
    }

    pub(super) fn lose(&mut self) {
        self.expected = None;
    }
}

fn have_len(end: u64, from: u64) -> usize {
    usize::try_from(end.saturating_sub(from))
        .unwrap_or(usize::MAX)
        .min(WINDOW_BYTES.max(crate::limits::BATCH_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_asks_for_every_byte_once_and_early() {
        let (end, step) = (3 * AHEAD_BYTES + 17, WINDOW_BYTES as u64);
        let (mut asked, mut ranges) = (step, Vec::new());
        for position in (step..end).step_by(WINDOW_BYTES) {
            if let Some(next) = to_ask(asked, position, end) {
                asked = next.end;
                ranges.push(next);
            }
            assert!(asked == end || asked >= position + AHEAD_BYTES / 2, "{position}: {ranges:?}");
        }
        assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.end == b.start), "{ranges:?}");
        assert_eq!((ranges.first().map(|r| r.start), ranges.last().map(|r| r.end)), (Some(step), Some(end)));
        assert!(ranges.len() <= 4, "{ranges:?}");
        assert_eq!(to_ask(0, end - 1, end), Some(end - 1..end), "behind a jump only what is left");
        assert_eq!(to_ask(end, end, end), None);
        assert_eq!(to_ask(0, u64::MAX, u64::MAX), None);
    }
}
