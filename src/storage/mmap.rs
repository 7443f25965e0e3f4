//! Read-only maps of files that still grow: the only unsafe code of the crate.
#![allow(unsafe_code)]
#![allow(clippy::disallowed_types, reason = "the room of the disk")]

use std::io;
use std::ops::Range;

use memmap2::{MmapOptions, MmapRaw};

use crate::metrics::{Pin, Pins};
use crate::sync::{Arc, AtomicU64, AtomicUsize, OnceLock, Ordering};

/// A mapped file. It may be longer than the file: bytes exist only below the published end.
///
/// Two rules, kept by whoever publishes: bytes below the published end lie in the file and never change again, and the
/// file is never cut below it while the map lives.
#[derive(Debug)]
pub(crate) struct Map {
    raw: MmapRaw,
    published: AtomicU64,
    /// Once the log has given it up.
    orphan: OnceLock<Pin>,
    _permit: MapPermit,
}

/// One of a bounded number of maps; given back on drop.
#[derive(Debug)]
pub(super) struct MapPermit(Arc<AtomicUsize>);

impl MapPermit {
    /// Takes a permit unless `cap` are taken.
    pub(super) fn take(live: &Arc<AtomicUsize>, cap: usize) -> Option<Self> {
        let taken = live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < cap).then_some(n + 1));
        taken.is_ok().then(|| MapPermit(Arc::clone(live)))
    }
}

impl Drop for MapPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Map {
    /// Maps `len` bytes of `file`, nothing of it published. `None` when there is no address space left.
    pub(super) fn new(file: &std::fs::File, len: u64, permit: MapPermit) -> io::Result<Option<Map>> {
        let Ok(len) = usize::try_from(len) else { return Ok(None) };
        match MmapOptions::new().len(len).map_raw_read_only(file) {
            Ok(raw) => {
                Ok(Some(Map { raw, published: AtomicU64::new(0), orphan: OnceLock::new(), _permit: permit }))
            }
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of the map, published or not.
    pub(crate) fn len(&self) -> u64 {
        self.raw.len() as u64
    }

    /// Where the readable bytes end.
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Makes bytes below `end` readable, for ever: they are in the file and will not change. Never lowers the end.
    pub(crate) fn publish(&self, end: u64) {
        self.published.fetch_max(end.min(self.len()), Ordering::Release);
    }

    /// Counts as pinned from now on: its log has it no more, and only readers keep it.
    pub(crate) fn orphan(&self, pins: &Arc<Pins>) {
        self.orphan.get_or_init(|| Pin::new(pins, self.len()));
    }

    /// Bytes of the file, when all of them are published.
    pub(crate) fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.published() {
            return None;
        }
        // Both fit: the end is at most the map's length, which is a usize.
        let (start, len) = (range.start as usize, (range.end - range.start) as usize);
        // SAFETY: `start + len` is at most the published end, which `publish` keeps within the map, so the pointer and
        // the length stay inside one live mapping, and `self` keeps it mapped for the slice's life. Bytes below the
        // published end were written before the Release store that the Acquire load above saw, and by the rules of
        // `Map` no one writes them or cuts the file below them again: shared reads are all that happens to them.
        Some(unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(start), len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn map_of(bytes: &[u8], len: u64) -> Map {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let permit = MapPermit::take(&Arc::default(), 1).unwrap();
        Map::new(&file, len, permit).unwrap().unwrap()
    }

    #[test]
    fn only_published_bytes_are_seen_and_the_end_only_rises() {
        let map = map_of(b"hello world", 1 << 20);
        assert_eq!(map.slice(0..1), None);
        map.publish(5);
        assert_eq!(map.slice(0..5), Some(&b"hello"[..]));
        assert_eq!(map.slice(0..6), None);
        map.publish(3);
        assert_eq!(map.published(), 5);
        map.publish(11);
        assert_eq!(map.slice(6..11), Some(&b"world"[..]));
        assert_eq!(map.slice(11..11), Some(&b""[..]));
        map.publish(u64::MAX);
        assert_eq!(map.published(), map.len());
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = map.slice(5..4);
        assert_eq!(reversed, None);
    }

    #[test]
    fn permits_are_counted_and_given_back() {
        let live = Arc::default();
        let first = MapPermit::take(&live, 1).unwrap();
        assert!(MapPermit::take(&live, 1).is_none());
        drop(first);
        assert!(MapPermit::take(&live, 1).is_some());
    }
}
