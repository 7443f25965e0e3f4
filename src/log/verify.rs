//! Every byte of a partition's log compared with what it should be; nothing is repaired, cut, rebuilt or written.
//!
//! Invariants:
//! - Files are opened for reading only. What a writer beside this adds, rolls or deletes is no damage.
//! - What lies behind the committed end is no damage either: a crash, or a write that is under way, leaves it.
//! - Memory is bounded by one batch, its unpacked records and one index, whatever the log's size.

use std::path::Path;

use super::checkpoint::{LEADER_EPOCHS, read_epochs};
use super::committed::Committed;
use super::compact::{self, Cleaned};
use super::findings::VerifyReport;
use super::start::{below, confirmed};
use super::transactions::Transactions;
use crate::error::{ErrorKind, Result};
use crate::record::{BatchHeader, Compression, Invalid, check_records, decompress, unpack};
use crate::segment::name::{self, SegmentFile};
use crate::segment::{Disagreement, IndexCheck, Scan, Step, digest_reader};
use crate::storage::{Entry, EntryKind, File, Open, Storage};
use crate::sync::Arc;
use crate::types::Offset;

/// Kafka reads batches of later formats as if they were of this one; nobody writes them.
const NEWEST_FORMAT: i8 = 2;

/// What is known of a partition from outside of its directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// The store was closed in order: all that is there is committed.
    pub(crate) clean: bool,
    /// Made by this crate: offsets have no gaps.
    pub(crate) contiguous: bool,
    /// A `Disk` topic: its writer leaves word of what is committed.
    pub(crate) on_disk: bool,
    pub(crate) recovery_point: Option<Offset>,
    pub(crate) log_start: Option<Offset>,
    /// In a checkpoint, the base and the length of the last segment. One that ends elsewhere is being repeated, or that
    /// was interrupted: then it is as after a crash.
    pub(crate) tail: Option<(Offset, u64)>,
}

struct Verifying<'v> {
    storage: &'v dyn Storage,
    dir: &'v Path,
    claims: Claims,
    report: &'v mut VerifyReport,
    slot: Option<Committed>,
    epochs: Option<Vec<(i32, Offset)>>,
    /// What was compacted, and what is being exchanged at the moment.
    cleaned: Cleaned,
    /// Below this offset everything is committed.
    proven: Offset,
    /// The offset that comes next; `None` behind damage.
    expected: Option<Offset>,
    floor: Offset,
    /// `None` behind damage: then nobody knows what became of a transaction.
    transactions: Option<Transactions>,
}

/// A segment to be read.
#[derive(Clone, Copy)]
struct Piece {
    base: Offset,
    len: u64,
    next_base: Option<Offset>,
    /// Offsets have no gaps here.
    contiguous: bool,
    /// Whether anything lies in the segments behind it.
    more_behind: bool,
}

/// Reads the partition in `dir`, and tells `report` what is wrong with it.
pub(crate) fn verify(
    storage: &dyn Storage,
    dir: &Path,
    mut claims: Claims,
    report: &mut VerifyReport,
) -> Result<()> {
    // First the word of what is committed, then what is there, then where it starts: a writer beside this moves on.
    let slot = Committed::read(storage, dir)?.filter(|_| claims.contiguous);
    let cleaned = match Cleaned::read(storage, dir) {
        Err(error) if error.is_corrupt() => {
            report.damage(&dir.join(compact::FILE_NAME), 0, error.to_string());
            compact::readable(storage, dir)?
        }
        cleaned => cleaned?,
    };
    let logs = list_logs(storage, dir, cleaned, report)?;
    claims.clean &= claims.tail.is_none_or(|tail| logs.last() == Some(&tail));
    let path = dir.join(LEADER_EPOCHS);
    let epochs = match read_epochs(storage, &path) {
        Err(error) if error.is_corrupt() => {
            report.damage(&path, 0, error.to_string());
            None
        }
        epochs => Some(epochs?).filter(|epochs| !epochs.is_empty()),
    };
    let proven = claims.recovery_point.unwrap_or(0).max(slot.map_or(0, |slot| slot.end_offset));
    let logs = match claims.contiguous {
        true => {
            let start = confirmed(claims.log_start, epochs.as_deref(), logs.iter().map(|log| log.0));
            claims.log_start = start;
            let deleted = start.map_or(0, |start| below(start, logs.iter().map(|log| log.0)));
            logs.get(deleted..).unwrap_or_default().to_vec()
        }
        false => logs,
    };
    let first = logs.first().map_or(0, |log| log.0);
    // A topic that was a `Disk` one has the word of that time; after a crash it may be older than the checkpoint,
    // which is synced, or from before a compaction.
    let slot = slot.filter(|slot| claims.on_disk && slot.end_offset >= proven.max(cleaned.needed_to));
    let slot = slot.filter(|slot| is_of_these_bytes(*slot, cleaned, &logs));
    let mut verifying = Verifying {
        storage,
        dir,
        claims,
        report,
        slot,
        epochs,
        cleaned,
        proven,
        expected: Some(first),
        floor: first,
        transactions: Some(Transactions::default()),
    };
    verifying.report.partitions += 1;
    verifying.start(&logs);
    verifying.segments(logs)
}

/// Whether its position means anything: a compaction may have exchanged the bytes that it was noted for. All of what
/// took their place is committed. The last segment is never compacted.
fn is_of_these_bytes(slot: Committed, cleaned: Cleaned, logs: &[(Offset, u64)]) -> bool {
    slot.segment_base >= cleaned.sparse_below || logs.last().is_some_and(|last| last.0 == slot.segment_base)
}

/// The `.log` files and their lengths, rising. A directory that is written to while it is listed may leave out what is
/// made meanwhile and show what is made later: all that was there when the youngest of a first listing was made is in a
/// second one.
fn list_logs(
    storage: &dyn Storage,
    dir: &Path,
    cleaned: Cleaned,
    report: &mut VerifyReport,
) -> Result<Vec<(Offset, u64)>> {
    let base = |entry: &Entry| match SegmentFile::parse(&entry.name) {
        Some(SegmentFile::Log(base)) => Some(base),
        _ => None,
    };
    let youngest = storage.list(dir)?.iter().filter_map(base).max();
    let mut logs = Vec::new();
    let mut entries = storage.list(dir)?;
    if let Some(swap) = cleaned.swap {
        compact::see_exchange(swap, &mut entries);
    }
    for entry in entries {
        match base(&entry) {
            Some(_) if entry.kind != EntryKind::File => {
                report.damage(&dir.join(&entry.name), 0, "it is not a regular file");
            }
            Some(base) if Some(base) <= youngest => logs.push((base, entry.len)),
            _ => {}
        }
    }
    logs.sort_unstable();
    Ok(logs)
}

impl Verifying<'_> {
    /// Whether the first segment is where the log starts.
    fn start(&mut self, logs: &[(Offset, u64)]) {
        // A writer beside this may have moved one of them only.
        let known = self.claims.log_start.max(self.epochs.as_ref().and_then(|e| e.first()).map(|e| e.1));
        match (logs.first(), known) {
            (None, _) => self.report.damage(self.dir, 0, "it has no segment"),
            (Some(&(first, _)), Some(start)) if self.claims.contiguous && start < first => {
                let why = format!("offsets {start}..{first} are missing in front of it");
                self.report.damage(&self.dir.join(name::log(first)), 0, why);
            }
            _ => {}
        }
    }

    fn segments(&mut self, mut logs: Vec<(Offset, u64)>) -> Result<()> {
        let (mut next, mut sparse_before) = (0, false);
        while let Some(&(base, len)) = logs.get(next) {
            let later = logs.get(next + 1..).unwrap_or_default();
            let piece = Piece {
                base,
                len,
                next_base: later.first().map(|next| next.0),
                contiguous: false,
                more_behind: later.iter().any(|later| later.1 > 0),
            };
            next += 1;
            if let Some(slot) = self.slot.filter(|slot| !self.claims.clean && slot.segment_base < base) {
                // Rolled since; what is in there is not committed.
                self.expected = self.expected.filter(|expected| *expected != slot.end_offset);
                self.report.uncommitted_bytes += len;
                continue;
            }
            let file = self.open(base);
            if self.exchanged(&logs)? {
                // A compaction put other segments in the place of these: on with those that are there now.
                logs = list_logs(self.storage, self.dir, self.cleaned, self.report)?;
                next = logs.partition_point(|(other, _)| *other < base.max(self.floor));
                self.forget_to(logs.get(next).map(|next| next.0));
                continue;
            }
            let file = match file {
                Err(error) if error.is_not_found() && !self.is_listed(base)? => {
                    self.forget_to(piece.next_base);
                    continue;
                }
                Err(error) if error.is_corrupt() => {
                    self.report.damage(&self.dir.join(name::log(base)), 0, error.to_string());
                    self.forget_to(piece.next_base);
                    continue;
                }
                file => file?,
            };
            // Listed while it grew, perhaps; since there is one behind it, it is closed.
            let len = if later.is_empty() { len } else { file.len()? };
            let contiguous = self.claims.contiguous && base >= self.cleaned.sparse_below;
            let piece = Piece { len, contiguous, ..piece };
            if contiguous && sparse_before {
                // Compaction may have taken what lay in front of it.
                self.expected = self.expected.map(|expected| expected.max(base));
            }
            sparse_before = !contiguous;
            if base < self.cleaned.sparse_below {
                // The records of a transaction may be gone, and its index tells where they began.
                self.transactions = None;
            }
            let goes_on = self.segment(piece, &file)?;
            if !goes_on {
                self.report.uncommitted_bytes += later.iter().map(|later| later.1).sum::<u64>();
                return Ok(());
            }
            self.follow(piece);
        }
        self.last_is_committed(&logs);
        Ok(())
    }

    /// The `.log` of a segment, under the name that it has in the middle of an exchange if that is so.
    fn open(&self, base: Offset) -> Result<Arc<dyn File>> {
        let own = self.storage.open(&self.dir.join(name::log(base)), Open::Read);
        match self.cleaned.swap {
            Some(swap) if swap.base == base => {
                let moving = self.dir.join(name::log(base) + compact::SWAP);
                match self.storage.open(&moving, Open::Read) {
                    Err(error) if error.is_not_found() => own,
                    file => file,
                }
            }
            _ => own,
        }
    }

    /// Whether a compaction wrote this segment: durably, before it took the name.
    fn was_exchanged(&self, base: Offset) -> bool {
        self.claims.contiguous && self.cleaned.sparse_below != Offset::MAX && base < self.cleaned.sparse_below
    }

    /// Whether an exchange of this segment was begun and not ended: its other files may be of either side.
    fn is_in_motion(&self, base: Offset) -> bool {
        self.cleaned.swap.is_some_and(|swap| (swap.base..swap.end).contains(&base))
    }

    /// Whether a writer beside this exchanged segments since it was last asked.
    fn exchanged(&mut self, logs: &[(Offset, u64)]) -> Result<bool> {
        let now = compact::readable(self.storage, self.dir)?;
        self.slot = self.slot.filter(|slot| is_of_these_bytes(*slot, now, logs));
        Ok(std::mem::replace(&mut self.cleaned, now) != now)
    }

    /// Whether the next segment goes on where this one ended.
    fn follow(&mut self, piece: Piece) {
        if let (Some(next), Some(expected)) = (piece.next_base, self.expected)
            && piece.contiguous
            && next != expected
            && piece.more_behind
        {
            let why = format!("the records from offset {expected} to {next} are missing behind it");
            self.report.damage(&self.dir.join(name::log(piece.base)), piece.len, why);
            self.forget_to(piece.next_base);
        }
    }

    fn forget_to(&mut self, next_base: Option<Offset>) {
        self.transactions = None;
        self.expected = next_base;
        self.floor = next_base.unwrap_or(self.floor);
    }

    fn last_is_committed(&mut self, logs: &[(Offset, u64)]) {
        let Some(expected) =
            self.expected.filter(|expected| self.claims.contiguous && *expected < self.proven)
        else {
            return;
        };
        let (file, position) = match logs.last() {
            Some(&(base, len)) => (self.dir.join(name::log(base)), len),
            None => (self.dir.to_owned(), 0),
        };
        let why = format!("offsets {expected}..{} were committed and are missing", self.proven);
        self.report.damage(&file, position, why);
    }

    fn is_listed(&self, base: Offset) -> Result<bool> {
        let name = name::log(base);
        match self.storage.list(self.dir) {
            Ok(entries) => Ok(entries.iter().any(|entry| entry.name == name)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a segment; `false`: the committed log ends in it.
    fn segment(&mut self, piece: Piece, file: &Arc<dyn File>) -> Result<bool> {
        let path = self.dir.join(name::log(piece.base));
        // The device's bytes, not those that were read, or written, a while ago.
        file.drop_cache()?;
        self.report.segments += 1;
        let slot = self.slot.filter(|slot| !self.claims.clean && slot.segment_base == piece.base);
        let end = slot.map_or(piece.len, |slot| u64::from(slot.position).min(piece.len));
        self.report.uncommitted_bytes += piece.len - end;
        let mut indexes = self.indexes(piece)?;
        let mut told: Vec<Disagreement> = Vec::new();
        let digest = self.digest(piece)?;
        let scan = Scan::new(file.as_ref(), 0, end).reading_ahead();
        let mut scan = if self.claims.contiguous { scan } else { scan.of_broker(piece.base) };
        loop {
            let step = match scan.next(true) {
                Err(error) if matches!(error.kind(), ErrorKind::Io { .. }) => {
                    self.report.damage(&path, scan.position(), error.to_string());
                    self.forget_to(piece.next_base);
                    return Ok(true);
                }
                step => step?,
            };
            let (position, why) = match step {
                Step::End => break,
                Step::Bad { position, why } => (position, why),
                Step::Batch { position, header } => {
                    let known = match &digest {
                        Some(knows) => knows(position, scan.batch(position, &header)?),
                        None => true,
                    };
                    let checked = match known {
                        true => self.batch(piece, &path, position, &header, &mut scan)?,
                        false => {
                            Err(Invalid::Field { name: "header", why: "it is not the one in the digest" })
                        }
                    };
                    match checked {
                        Ok(()) => {
                            if let Some(indexes) = &mut indexes {
                                indexes.batch(position, &header, &mut told);
                            }
                            continue;
                        }
                        Err(why) => {
                            scan.reject(position);
                            (position, why)
                        }
                    }
                }
            };
            // What it says of the rest can not be compared.
            indexes = None;
            self.transactions = None;
            let surely = self.claims.clean
                || slot.is_some()
                || self.was_exchanged(piece.base)
                || self.expected.is_none_or(|next| next < self.proven);
            let resumed = scan.resync()?;
            if !surely && resumed.is_none() && !piece.more_behind {
                self.report.uncommitted_bytes += end - position;
                return Ok(false);
            }
            self.report.damage(&path, position, why.to_string());
            self.expected = None;
            if resumed.is_none() {
                break;
            }
        }
        if let Some(transactions) = &mut self.transactions {
            let ended = transactions.take_ended();
            if indexes.is_some() {
                ended.compare(self.storage, self.dir, piece.base, &mut told)?;
            }
        }
        if let Some(indexes) = indexes {
            indexes.end(&mut told);
        }
        for (file, position, why) in told {
            self.report.damage(&file, position, why);
        }
        if slot.is_some() {
            self.last_is_committed(&[(piece.base, end)]);
        }
        Ok(slot.is_none())
    }

    /// What tells the headers of a segment that was compacted here; one that is damaged is told.
    fn digest(&mut self, piece: Piece) -> Result<Option<impl Fn(u64, &[u8]) -> bool + use<>>> {
        if self.claims.contiguous && piece.contiguous {
            return Ok(None);
        }
        let digest = digest_reader(self.storage, self.dir, piece.base, piece.len)?;
        let path = self.dir.join(name::digest(piece.base));
        // A missing one is none of damage: what it would tell is not told.
        if digest.is_none() && !self.is_in_motion(piece.base) && self.storage.open(&path, Open::Read).is_ok()
        {
            self.report.damage(&path, 0, "it is damaged, or of another state of its segment");
        }
        Ok(digest)
    }

    /// The indexes of a segment that is known to be closed; those of the others are hints that are still written.
    fn indexes(&mut self, piece: Piece) -> Result<Option<IndexCheck>> {
        let closed = piece.next_base.is_some_and(|next| next <= self.claims.recovery_point.unwrap_or(0))
            || self.slot.is_some_and(|slot| piece.base < slot.segment_base);
        if (!self.claims.clean && !closed) || self.is_in_motion(piece.base) {
            return Ok(None);
        }
        let mut told = Vec::new();
        let indexes =
            IndexCheck::open(self.storage, self.dir, piece.base, piece.len, self.claims.clean, &mut told)?;
        if !told.is_empty() && !self.is_listed(piece.base)? {
            return Ok(None);
        }
        for (file, position, why) in told {
            self.report.damage(&file, position, why);
        }
        Ok(Some(indexes))
    }

    /// A batch whose checksum is right: its place, and its records. The inner error: what is wrong with it.
    fn batch(
        &mut self,
        piece: Piece,
        path: &Path,
        position: u64,
        header: &BatchHeader,
        scan: &mut Scan<'_>,
    ) -> Result<Result<(), Invalid>> {
        let batch = scan.batch(position, header)?;
        let checked = match header.compression() {
            _ if header.is_legacy() => unpack(header, batch)
                .and_then(|(header, section)| check_records(&header, &section).map(|()| header)),
            Compression::None => {
                let section = batch.get(crate::limits::BATCH_HEADER_BYTES..).unwrap_or_default();
                check_records(header, section).map(|()| *header)
            }
            _ => decompress(header, batch)
                .and_then(|section| check_records(header, &section))
                .map(|()| *header),
        };
        let header = match checked {
            Err(why @ Invalid::CodecMissing(_)) => {
                self.report.not_checked(path, position, why.to_string());
                *header
            }
            Err(why) => return Ok(Err(why)),
            // Where a wrapper of an old format begins, its records say.
            Ok(header) => header,
        };
        if let Err(why) = self.place(piece, &header) {
            return Ok(Err(why));
        }
        if let Some(transactions) = &mut self.transactions {
            transactions.note(&header, batch);
        }
        self.report.batches += 1;
        self.report.records += u64::try_from(header.count).unwrap_or(0);
        self.report.bytes += header.size() as u64;
        self.floor = header.next_offset();
        self.expected = Some(self.floor);
        Ok(Ok(()))
    }

    /// The header fields that Kafka's checksum leaves out, against their neighbours.
    fn place(&self, piece: Piece, header: &BatchHeader) -> Result<(), Invalid> {
        let wrong = |why| Err(Invalid::Field { name: "base offset", why });
        match self.expected {
            Some(expected) if piece.contiguous && header.base_offset != expected => {
                return wrong("it does not follow the batch in front of it");
            }
            _ if header.base_offset < self.floor.max(piece.base) => {
                return wrong("it lies before the batch in front of it");
            }
            _ => {}
        }
        if header.magic > NEWEST_FORMAT {
            return Err(Invalid::Field { name: "format", why: "no such one is known" });
        }
        if header.last_offset() - piece.base > Offset::from(i32::MAX) {
            return wrong("it is too far from its segment's base");
        }
        if piece.next_base.is_some_and(|next| header.last_offset() >= next) {
            return wrong("it lies in the segment behind it");
        }
        if let Some(epochs) = self.epochs.as_ref().filter(|_| self.claims.contiguous) {
            let epoch = epochs.iter().rev().find(|(_, start)| *start <= header.base_offset);
            if epoch.is_some_and(|(epoch, _)| *epoch != header.leader_epoch) {
                return Err(Invalid::Field { name: "leader epoch", why: "it is not the one of its offset" });
            }
        }
        Ok(())
    }
}
