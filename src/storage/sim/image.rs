//! The bytes of a simulated file in shared pages: a copy costs a pointer, a write the pages it touches.

use std::hash::{Hash, Hasher};

use crate::sync::Arc;

/// Bytes of a page: what a disk tears a write into.
pub(super) const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// A sparse file. Bytes beyond its length are zero in every page.
#[derive(Clone, Default)]
pub(super) struct Image {
    len: u64,
    pages: Arc<Vec<Option<Arc<Page>>>>,
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read(&self, into: &mut [u8], position: u64) -> usize {
        let n = into.len().min(usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX));
        for (page, at, range) in spans(position, n) {
            match self.page(page) {
                Some(bytes) => into[range.clone()].copy_from_slice(&bytes[at..at + range.len()]),
                None => into[range].fill(0),
            }
        }
        n
    }

    pub(super) fn write(&mut self, bytes: &[u8], position: u64) {
        if bytes.is_empty() {
            return;
        }
        self.len = self.len.max(position + bytes.len() as u64);
        let pages = Arc::make_mut(&mut self.pages);
        for (page, at, range) in spans(position, bytes.len()) {
            let page = page as usize;
            if pages.len() <= page {
                pages.resize(page + 1, None);
            }
            let slot = pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(slot)[at..at + range.len()].copy_from_slice(&bytes[range]);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let pages = Arc::make_mut(&mut self.pages);
            pages.truncate(usize::try_from(len.div_ceil(PAGE as u64)).unwrap_or(usize::MAX));
            let (last, at) = ((len / PAGE as u64) as usize, (len % PAGE as u64) as usize);
            if let Some(Some(page)) = pages.get_mut(last) {
                Arc::make_mut(page)[at..].fill(0);
            }
        }
        self.len = len;
    }

    /// Makes one page what it is in `from`; the length stays.
    pub(super) fn take_page(&mut self, page: u64, from: &Image) {
        let mut bytes = from.page(page).map_or([0; PAGE], |page| **page);
        let start = page * PAGE as u64;
        let room = self.len.saturating_sub(start).min(PAGE as u64) as usize;
        bytes[room..].fill(0);
        self.write(&bytes[..room], start);
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Hashes what differs from `base`; for images of one base equal hashes mean equal bytes.
    pub(super) fn hash_changes(&self, base: &Image, hasher: &mut impl Hasher) {
        self.len.hash(hasher);
        for i in 0..self.pages.len().max(base.pages.len()) as u64 {
            let (ours, theirs) = (self.page(i), base.page(i));
            let same = match (ours, theirs) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
                (Some(page), None) | (None, Some(page)) => **page == [0; PAGE],
                (None, None) => true,
            };
            if !same {
                i.hash(hasher);
                ours.map_or(&[0; PAGE], |page| &**page).hash(hasher);
            }
        }
    }

    fn page(&self, page: u64) -> Option<&Arc<Page>> {
        self.pages.get(usize::try_from(page).ok()?)?.as_ref()
    }
}

/// Cuts a range of a file at page borders: page, place in the page, and the part of the buffer.
fn spans(position: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = position + done as u64;
        let at = (position % PAGE as u64) as usize;
        let n = (PAGE - at).min(len - done);
        done += n;
        Some((position / PAGE as u64, at, done - n..done))
    })
}
