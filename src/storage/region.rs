//! Bytes that own what they lie in: a mapped file or memory, and the reader can not tell which.

use std::fmt;
use std::ops::Range;

use super::Map;
use crate::metrics::{Pin, Pins};
use crate::sync::Arc;

/// A shared, cheap-to-clone slice; it keeps its map or buffer alive.
#[derive(Clone)]
pub(crate) struct Region {
    owner: Owner,
    start: usize,
    end: usize,
}

#[derive(Clone)]
enum Owner {
    Map(Arc<Map>),
    Heap(Arc<Held>),
}

/// A buffer, and its share of what readers keep alive.
struct Held {
    bytes: Vec<u8>,
    _pin: Option<Pin>,
}

impl AsRef<[u8]> for Region {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Region {
    /// All of a buffer.
    pub(crate) fn heap(bytes: Vec<u8>) -> Region {
        Region::held(bytes, None)
    }

    /// All of a buffer, which counts as pinned as long as a part of it lives.
    pub(crate) fn pinned(bytes: Vec<u8>, pins: &Arc<Pins>) -> Region {
        let pin = Pin::new(pins, bytes.capacity() as u64);
        Region::held(bytes, Some(pin))
    }

    fn held(bytes: Vec<u8>, pin: Option<Pin>) -> Region {
        Region { start: 0, end: bytes.len(), owner: Owner::Heap(Arc::new(Held { bytes, _pin: pin })) }
    }

    /// A published range of a map; `None` when it is not published.
    pub(crate) fn map(map: Arc<Map>, range: Range<u64>) -> Option<Region> {
        map.slice(range.clone())?;
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        Some(Region { owner: Owner::Map(map), start, end })
    }

    /// The bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.owner {
            Owner::Heap(held) => &held.bytes[self.start..self.end],
            // Published when the region was made, and the published end never falls.
            Owner::Map(map) => map.slice(self.start as u64..self.end as u64).unwrap_or_default(),
        }
    }

    /// Bytes in it.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// A part of it that shares the owner.
    ///
    /// # Panics
    /// When `range` does not lie inside.
    pub(crate) fn slice(&self, range: Range<usize>) -> Region {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "{range:?} is outside 0..{}",
            self.len()
        );
        Region { owner: self.owner.clone(), start: self.start + range.start, end: self.start + range.end }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = match self.owner {
            Owner::Map(_) => "map",
            Owner::Heap(_) => "heap",
        };
        write!(f, "Region({owner}, {}..{})", self.start, self.end)
    }
}

const _: () = {
    const fn shared<T: Send + Sync + 'static>() {}
    shared::<Region>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Disk, Open, Storage};

    #[test]
    fn a_heap_region_is_sliced_without_a_copy() {
        let whole = Region::heap(b"abcdef".to_vec());
        let part = whole.slice(1..5).slice(1..3);
        assert_eq!(part.bytes(), b"cd");
        assert_eq!(part.bytes().as_ptr(), whole.bytes()[2..].as_ptr());
        assert_eq!((part.len(), whole.slice(6..6).len()), (2, 0));
    }

    #[test]
    fn a_pinned_buffer_counts_until_its_last_part_is_dropped() {
        let pins = Arc::default();
        let whole = Region::pinned(vec![0; 100], &pins);
        let part = whole.slice(10..20);
        assert_eq!(pins.bytes(), 100);
        drop(whole);
        assert_eq!(pins.bytes(), 100);
        drop(part);
        assert_eq!(pins.bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_slice_outside_is_refused() {
        Region::heap(vec![0; 4]).slice(2..3).slice(0..2);
    }

    #[test]
    fn a_region_of_a_map_outlives_file_and_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let disk = Disk::new(8);
        let file = disk.open(&path, Open::New).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        let map = file.map(1 << 20).unwrap().unwrap();
        assert!(Region::map(Arc::clone(&map), 0..10).is_none());
        map.publish(10);
        let region = Region::map(map, 2..8).unwrap();
        disk.remove_file(&path).unwrap();
        drop((file, disk));
        assert_eq!(region.slice(1..4).bytes(), b"345");
    }
}
