//! A table that grows and is read without a lock.

use crate::sync::OnceLock;

const BUCKETS: usize = 24;

/// Values by small number; a value never moves once it is there.
#[derive(Debug)]
pub(crate) struct Table<T> {
    /// Bucket `b` holds the 2^b values from 2^b - 1 on.
    buckets: [OnceLock<Box<[OnceLock<T>]>>; BUCKETS],
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { buckets: [const { OnceLock::new() }; BUCKETS] }
    }
}

impl<T> Table<T> {
    /// The value at `index`, if it was made.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        let bucket = (index + 1).ilog2() as usize;
        self.buckets.get(bucket)?.get()?.get(index + 1 - (1 << bucket))?.get()
    }

    /// The value at `index`, made by `make` on first use. `None` beyond 16 million.
    #[inline]
    pub(crate) fn get_or_init(&self, index: usize, make: impl FnOnce() -> T) -> Option<&T> {
        let bucket = (index + 1).ilog2() as usize;
        let cells = self
            .buckets
            .get(bucket)?
            .get_or_init(|| (0..1_usize << bucket).map(|_| OnceLock::new()).collect());
        Some(cells.get(index + 1 - (1 << bucket))?.get_or_init(make))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.buckets.iter().filter_map(OnceLock::get).flat_map(|cells| cells.iter()).filter_map(OnceLock::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_where_they_are() {
        let table = Table::default();
        for i in (0..100).rev() {
            assert_eq!(table.get_or_init(i, || i * 10), Some(&(i * 10)));
        }
        assert_eq!(table.get_or_init(7, || unreachable!()), Some(&70));
        assert_eq!((table.get(7), table.get(100)), (Some(&70), None));
        assert_eq!(table.iter().count(), 100);
        assert_eq!(table.get_or_init(1 << 30, || 0), None);
    }
}
