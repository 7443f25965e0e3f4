//! From an offset to checked records: choose a segment, find the batch, read bytes, verify, unpack.

use std::ops::Range;

use super::records::Part;
use super::{Log, Records, SharedRecord};
use crate::config::IsolationLevel;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::BATCH_HEADER_BYTES;
use crate::record::{BatchHeader, Compression, Invalid, check_records, decompress, unpack, verify_crc};
use crate::segment::{AbortedTxn, Fault, Landing, Segment};
use crate::storage::Region;
use crate::sync::Arc;
use crate::types::Offset;

/// A segment, with the first offset that is not its own any more.
struct Chosen {
    segment: Arc<Segment>,
    next_base: Offset,
}

/// What a read is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOptions {
    /// About how much; at least one batch is read.
    pub(crate) max_bytes: usize,
    pub(crate) check_crcs: bool,
    pub(crate) isolation_level: IsolationLevel,
}

impl ReadOptions {
    pub(crate) fn max_bytes(max_bytes: usize) -> Self {
        ReadOptions { max_bytes, check_crcs: true, isolation_level: IsolationLevel::ReadUncommitted }
    }
}

impl Log {
    /// One behind the last record that a reader may see.
    pub(crate) fn read_end(&self, isolation_level: IsolationLevel) -> Result<Offset> {
        let end = self.high_watermark();
        Ok(match isolation_level {
            IsolationLevel::ReadUncommitted => end,
            IsolationLevel::ReadCommitted => self.first_unstable()?.map_or(end, |first| first.min(end)),
        })
    }

    /// Committed batches from the one that holds `from`; at least one if there is one.
    pub(crate) fn read(&self, from: Offset, options: ReadOptions) -> Result<Records> {
        self.retried(|| self.read_once(from, options))
    }

    fn read_once(&self, from: Offset, options: ReadOptions) -> Result<Records> {
        let committed = self.high_watermark();
        let start = self.log_start();
        if !(start..=committed).contains(&from) {
            return Err(self.out_of_range(from, start..committed));
        }
        let end = self.read_end(options.isolation_level)?.min(committed);
        let mut records = Records::default();
        let mut at = from;
        while at < end {
            let Some(chosen) = self.segment_of(at) else { break };
            if at < chosen.segment.base() && at < self.log_start() {
                // It was deleted meanwhile: what lies behind it is not what was asked for.
                match records.next_offset() {
                    Some(_) => break,
                    None => return Err(self.out_of_range(from, self.log_start()..committed)),
                }
            }
            if self.contiguous && at < chosen.segment.base() {
                return Err(self.missing(&chosen, 0, at..chosen.segment.base().min(end)));
            }
            let max_bytes = options.max_bytes.saturating_sub(records.stored_bytes());
            match self.read_segment(&chosen, at, end, ReadOptions { max_bytes, ..options }, &mut records) {
                Ok(()) => {}
                // What lies in front of the damage is given out; the next read starts at the damage.
                Err(_) if records.next_offset().is_some() => break,
                Err(fault) => self.read_behind_damage(&chosen, at..end, options, &mut records, fault)?,
            }
            match records.next_offset() {
                // Nothing there: a hole that compaction left.
                None => at = chosen.next_base.min(end),
                // The segment is read to its end, and there is room for more.
                Some(next) if next >= chosen.next_base && records.stored_bytes() < options.max_bytes => {
                    at = next
                }
                Some(_) => break,
            }
        }
        self.source.read.add(records.len() as u64, records.stored_bytes() as u64);
        Ok(records)
    }

    /// The record at `offset`; `None` when compaction removed it or the offset belongs to a marker.
    pub(crate) fn get(
        &self,
        offset: Offset,
        isolation_level: IsolationLevel,
    ) -> Result<Option<SharedRecord>> {
        let end = self.high_watermark();
        if offset == end {
            return Err(self.out_of_range(offset, self.log_start()..end - 1));
        }
        let records = self.read(offset, ReadOptions { isolation_level, ..ReadOptions::max_bytes(1) })?;
        Ok(records.iter().next().filter(|record| record.offset() == offset).map(|record| record.share()))
    }

    /// The first committed record that is as young as `timestamp`.
    pub(crate) fn offset_for_time(&self, timestamp: i64) -> Result<Option<(Offset, i64)>> {
        self.retried(|| self.offset_for_time_once(timestamp))
    }

    fn offset_for_time_once(&self, timestamp: i64) -> Result<Option<(Offset, i64)>> {
        let end = self.high_watermark();
        let mut at = self.log_start();
        while at < end {
            let Some(chosen) = self.segment_of(at) else { break };
            if at < chosen.segment.base() && at < self.log_start() {
                at = self.log_start();
                continue;
            }
            if self.contiguous && at < chosen.segment.base() {
                return Err(self.missing(&chosen, 0, at..chosen.segment.base().min(end)));
            }
            match self.search_time(&chosen, at, end, timestamp) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => at = chosen.next_base,
                Err(fault) => return Err(self.explain(&chosen, at, end, fault)),
            }
        }
        Ok(None)
    }

    fn search_time(
        &self,
        chosen: &Chosen,
        start: Offset,
        end: Offset,
        timestamp: i64,
    ) -> Result<Option<(Offset, i64)>, Fault> {
        if chosen.segment.max_timestamp()? < timestamp {
            if chosen.segment.is_contiguous() {
                // None of its records is as young, if they are all there.
                self.land(chosen, chosen.next_base.min(end) - 1)?;
            }
            return Ok(None);
        }
        let mut at = chosen.segment.offset_before(timestamp)?.max(start);
        while at < chosen.next_base.min(end) {
            let Some(landing) = self.land(chosen, at)?.filter(|landing| landing.header.base_offset < end)
            else {
                break;
            };
            let mut walk = self.walk(chosen, landing, start, end, ReadOptions::max_bytes(SEARCH_BYTES))?;
            walk.not_older_than = timestamp;
            while let Some(part) = walk.next(&mut Records::default())? {
                let mut records = Records::default();
                records.push(part);
                let young = records
                    .batches()
                    .flat_map(|batch| batch.records())
                    .find(|r| r.timestamp_ms() >= timestamp);
                if let Some(record) = young {
                    return Ok(Some((record.offset(), record.timestamp_ms())));
                }
            }
            // At least the batch that was landed on lies behind now.
            at = walk.expected.unwrap_or(end);
        }
        Ok(None)
    }

    /// The last segment whose base is at or below `offset`, else the first.
    fn segment_of(&self, offset: Offset) -> Option<Chosen> {
        let segments = self.segments.read();
        let after = segments.partition_point(|segment| segment.base() <= offset).max(1);
        let segment = Arc::clone(segments.get(after - 1)?);
        let next_base = segments.get(after).map_or(Offset::MAX, |next| next.base());
        drop(segments);
        self.note_read(&segment);
        Some(Chosen { segment, next_base })
    }

    fn read_segment(
        &self,
        chosen: &Chosen,
        from: Offset,
        end: Offset,
        options: ReadOptions,
        records: &mut Records,
    ) -> Result<(), Fault> {
        let Some(landing) = self.land(chosen, from)? else { return Ok(()) };
        self.read_from(chosen, landing, from, end, options, records)
    }

    /// The batch to read `from` in. Where offsets have no gaps there is one that holds it.
    fn land(&self, chosen: &Chosen, from: Offset) -> Result<Option<Landing>, Fault> {
        let landing = chosen.segment.find(from)?;
        let is_contiguous = chosen.segment.is_contiguous();
        let why = Invalid::Field { name: "base offset", why: "the records in front of it are missing" };
        match &landing {
            Some(landing) if is_contiguous && from < landing.header.base_offset => {
                Err(Fault::Bytes { position: landing.position, why })
            }
            None if is_contiguous => Err(Fault::Bytes { position: chosen.segment.visible(), why }),
            _ => Ok(landing),
        }
    }

    fn read_from(
        &self,
        chosen: &Chosen,
        landing: Landing,
        from: Offset,
        end: Offset,
        options: ReadOptions,
        records: &mut Records,
    ) -> Result<(), Fault> {
        if landing.header.base_offset >= end {
            return Ok(());
        }
        let mut walk = self.walk(chosen, landing, from, end, options)?;
        loop {
            match walk.next(records) {
                Ok(Some(part)) => records.push(part),
                Ok(None) => return Ok(()),
                // What was good before the damage is given out; the next read starts at the damage.
                Err(Fault::Bytes { .. }) if records.next_offset().is_some() => return Ok(()),
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Damage between the start of the search and `offsets` does not hide records that are whole: the batch that holds
    /// the first of them is looked for by checksum. If that one is lost, the error says where reading can go on.
    #[cold]
    fn read_behind_damage(
        &self,
        chosen: &Chosen,
        offsets: Range<Offset>,
        options: ReadOptions,
        records: &mut Records,
        fault: Fault,
    ) -> Result<()> {
        let (from, end) = (offsets.start, offsets.end);
        if let Some(error) = self.not_damage(chosen, &fault) {
            return Err(error);
        }
        let found = match chosen.segment.find_behind_damage(from) {
            Ok(found) => found,
            Err(fault) => return Err(self.explain(chosen, from, end, fault)),
        };
        let resume_at = match found {
            Some(landing) if landing.header.base_offset <= from => {
                match self.read_from(chosen, landing, from, end, options, records) {
                    Ok(()) => return Ok(()),
                    Err(Fault::Disk(error)) => return Err(error),
                    Err(Fault::Bytes { .. }) => landing.header.next_offset(),
                }
            }
            Some(landing) => landing.header.base_offset,
            None => chosen.next_base,
        };
        Err(self.corrupt(chosen, from..resume_at.min(chosen.next_base).min(end), fault))
    }

    /// Reads bytes from a batch on, at least the whole of it.
    fn walk<'l>(
        &'l self,
        chosen: &'l Chosen,
        landing: Landing,
        from: Offset,
        end: Offset,
        options: ReadOptions,
    ) -> Result<Walk<'l>, Fault> {
        let want = options.max_bytes.max(landing.header.size()) as u64;
        let region = chosen.segment.read(landing.position, want)?;
        let expected = landing.expected_base;
        let aborted = match options.isolation_level {
            IsolationLevel::ReadUncommitted => Vec::new(),
            IsolationLevel::ReadCommitted => {
                self.aborted_in(landing.header.base_offset..end.min(chosen.next_base))?
            }
        };
        Ok(Walk {
            log: self,
            chosen,
            from,
            end,
            check_crcs: options.check_crcs,
            aborted,
            region,
            at: 0,
            landing,
            expected,
            not_older_than: i64::MIN,
        })
    }

    pub(crate) fn out_of_range(&self, requested: Offset, valid: Range<Offset>) -> Error {
        ErrorKind::OffsetOutOfRange {
            topic: self.topic.to_string(),
            partition: self.partition,
            requested,
            valid,
        }
        .into()
    }

    /// Turns bad bytes into an error that says which offsets are gone and where reading can go on.
    #[cold]
    fn explain(&self, chosen: &Chosen, from: Offset, end: Offset, fault: Fault) -> Error {
        if let Some(error) = self.not_damage(chosen, &fault) {
            return error;
        }
        let next_good = match fault {
            Fault::Bytes { position, .. } => chosen.segment.resync(position),
            Fault::Disk(_) => Ok(None),
        };
        let next_good = match next_good {
            Ok(Some((_, offset))) if (from + 1..chosen.next_base).contains(&offset) => offset,
            Ok(_) => chosen.next_base,
            Err(error) => return error,
        };
        self.corrupt(chosen, from..next_good.min(end), fault)
    }

    /// What is no damage of the bytes: the disk's own errors, and formats that are not read here.
    fn not_damage(&self, chosen: &Chosen, fault: &Fault) -> Option<Error> {
        match fault {
            Fault::Disk(error) => Some(error.clone()),
            // What this crate wrote is never of an old format: there it is damage like any other.
            Fault::Bytes { position, why: Invalid::Magic(magic) } if !self.contiguous => {
                let (file, position, magic) = (chosen.segment.path(), *position, *magic);
                Some(ErrorKind::UnsupportedMagic { file, position, magic }.into())
            }
            Fault::Bytes { why: Invalid::CodecMissing(codec), .. } => {
                Some(ErrorKind::CodecMissing { codec }.into())
            }
            Fault::Bytes { .. } => None,
        }
    }

    fn corrupt(&self, chosen: &Chosen, offsets: Range<Offset>, fault: Fault) -> Error {
        let (position, why) = match fault {
            Fault::Disk(error) => return error,
            Fault::Bytes { position, why } => (position, why.to_string()),
        };
        let (file, resume_at) = (chosen.segment.path(), offsets.end);
        ErrorKind::Corrupt { file, position, offsets, resume_at, why }.into()
    }

    fn missing(&self, chosen: &Chosen, position: u64, offsets: Range<Offset>) -> Error {
        let (file, resume_at, why) = (chosen.segment.path(), offsets.end, "records are missing".to_owned());
        ErrorKind::Corrupt { file, position, offsets, resume_at, why }.into()
    }
}

/// How much a search by time reads at once.
const SEARCH_BYTES: usize = 256 * 1024;

enum Step {
    Part(Part),
    /// Checked and not given out; reading goes on at this offset.
    LeftOut(Offset),
    End,
}

/// Goes from batch to batch of what was read, checking each before it is given out.
struct Walk<'l> {
    log: &'l Log,
    chosen: &'l Chosen,
    from: Offset,
    end: Offset,
    check_crcs: bool,
    /// Transactions whose records do not count, when that is asked for; by their first offsets.
    aborted: Vec<AbortedTxn>,
    region: Region,
    at: usize,
    landing: Landing,
    /// The base offset that the batch before promised.
    expected: Option<Offset>,
    /// Batches whose youngest record is older are checked and left out.
    not_older_than: i64,
}

impl Walk<'_> {
    /// The next batch; `records` is told of those that are left out.
    fn next(&mut self, records: &mut Records) -> Result<Option<Part>, Fault> {
        loop {
            match self.step()? {
                Step::Part(part) => return Ok(Some(part)),
                Step::LeftOut(next) => records.pass(next),
                Step::End => return Ok(None),
            }
        }
    }

    fn step(&mut self) -> Result<Step, Fault> {
        let position = self.landing.position + self.at as u64;
        let fault = |why| Fault::Bytes { position, why };
        let rest = self.region.bytes().get(self.at..).unwrap_or_default();
        let header = match BatchHeader::parse(rest) {
            Err(Invalid::Short { have, need }) => return self.ends_short(have, need),
            parsed => parsed.map_err(fault)?,
        };
        if header.is_legacy() && self.log.contiguous {
            return Err(fault(Invalid::Magic(header.magic)));
        }
        if header.base_offset >= self.end && self.at > 0 {
            return Ok(Step::End);
        }
        let expected = self.expected;
        self.check_place(&header, expected).map_err(fault)?;
        let size = header.size();
        let Some(batch) = rest.get(..size) else { return self.ends_short(rest.len(), size) };
        if self.check_crcs {
            verify_crc(batch, &header).map_err(fault)?;
        }
        self.chosen.segment.check_digest(position, batch)?;
        let start = self.at;
        self.at += size;
        self.expected = Some(header.next_offset());
        if header.max_timestamp < self.not_older_than || self.is_aborted(&header) {
            return Ok(Step::LeftOut(header.next_offset()));
        }
        let (header, section) = if header.is_legacy() {
            let (header, section) = unpack(&header, batch).map_err(fault)?;
            // Only now its first offset is known.
            self.check_place(&header, expected).map_err(fault)?;
            (header, Region::pinned(section, &self.log.source.pins))
        } else if header.compression() == Compression::None {
            (header, self.region.slice(start + BATCH_HEADER_BYTES..start + size))
        } else {
            let section = decompress(&header, batch).map_err(fault)?;
            (header, Region::pinned(section, &self.log.source.pins))
        };
        check_records(&header, section.bytes()).map_err(fault)?;
        Ok(Step::Part(Part::new(&self.log.source, header, section, self.from)))
    }

    /// Whether a data batch belongs to a transaction that was aborted. Markers and data match by producer alone.
    fn is_aborted(&self, header: &BatchHeader) -> bool {
        let holds = |txn: &AbortedTxn| {
            txn.producer_id == header.producer_id
                && (txn.first_offset..txn.last_offset).contains(&header.base_offset)
        };
        header.is_transactional() && !header.is_control() && self.aborted.iter().any(holds)
    }

    /// A read may end inside any batch but the first: that one was asked for whole.
    fn ends_short(&self, have: usize, need: usize) -> Result<Step, Fault> {
        if self.at > 0 {
            return Ok(Step::End);
        }
        Err(Fault::Bytes { position: self.landing.position, why: Invalid::Short { have, need } })
    }

    /// The header fields that Kafka's checksum leaves out, against the neighbours.
    fn check_place(&self, header: &BatchHeader, expected: Option<Offset>) -> Result<(), Invalid> {
        let wrong = |why| Err(Invalid::Field { name: "base offset", why });
        if header.base_offset < self.chosen.segment.base() || header.last_offset() >= self.chosen.next_base {
            return wrong("it lies outside its segment");
        }
        match expected {
            Some(expected) if header.base_offset < expected => {
                wrong("it lies before the batch in front of it")
            }
            Some(expected) if self.chosen.segment.is_contiguous() && header.base_offset != expected => {
                wrong("it does not follow the batch in front of it")
            }
            _ => Ok(()),
        }
    }
}
