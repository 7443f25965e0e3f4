//! One stored record: its fields as slices of the section, and its headers, decoded when asked.

use std::fmt;
use std::iter::FusedIterator;

use super::{Header, varint};

/// A record as it is stored: deltas, not offsets; slices of the section, no copies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawRecord<'a> {
    pub(crate) offset_delta: i32,
    pub(crate) timestamp_delta: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
}

/// What is wrong with a record.
type Why = &'static str;

impl<'a> RawRecord<'a> {
    /// Takes one record off the front of `section`; its headers are bounded here, and not looked into.
    #[inline(always)]
    pub(super) fn take(section: &mut &'a [u8]) -> Result<Self, Why> {
        let padded;
        let window = match section.first_chunk::<{ varint::WINDOW }>() {
            Some(window) => window,
            None => {
                padded = pad(section);
                &padded
            }
        };
        let mut at = 0;
        let len = varint::window_32(window, &mut at).ok_or("its length is too long")?;
        let len = usize::try_from(len).map_err(|_| "its length is negative")?;
        let end =
            at.checked_add(len).filter(|&end| end <= section.len()).ok_or("it is longer than the batch")?;
        // The attributes of a record are unused: Kafka writes 0 and reads whatever is there.
        at += 1;
        let timestamp_delta = varint::window_64(window, &mut at).ok_or("its timestamp is too long")?;
        let offset_delta = varint::window_32(window, &mut at).ok_or("its offset is too long")?;
        let key_len = varint::window_32(window, &mut at).ok_or("its key's length is too long")?;
        // One check for all of the above, which may have read on into what follows the record.
        let mut body = section.get(at..end).ok_or("it is too short")?;
        let key = field(&mut body, key_len).ok_or("its key does not fit")?;
        let value = nullable(&mut body).ok_or("its value does not fit")?;
        let count = varint::read_32(&mut body).ok_or("its header count is cut or too long")?;
        let count = u32::try_from(count).map_err(|_| "its header count is negative")?;
        *section = &section[end..];
        Ok(RawRecord { offset_delta, timestamp_delta, key, value, headers: Headers { bytes: body, count } })
    }
}

#[inline(never)]
fn pad(section: &[u8]) -> varint::Window {
    let mut window = [0; varint::WINDOW];
    for (to, from) in window.iter_mut().zip(section) {
        *to = *from;
    }
    window
}

/// Takes a length and that many bytes; `None` when they are not there.
#[inline(always)]
fn nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = varint::read_32(bytes)?;
    field(bytes, len)
}

/// Takes `len` bytes; -1 is null. `None` when they are not there.
#[inline(always)]
fn field<'a>(bytes: &mut &'a [u8], len: i32) -> Option<Option<&'a [u8]>> {
    if len < 0 {
        return if len == -1 { Some(None) } else { None };
    }
    let (field, rest) = bytes.split_at_checked(len as usize)?;
    *bytes = rest;
    Some(Some(field))
}

/// The headers of a stored record, decoded when asked.
#[derive(Clone, Copy, Default)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl<'a> Headers<'a> {
    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers in the order in which they were written.
    #[inline]
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter { bytes: self.bytes, left: self.count }
    }

    /// How they lie in the record, and how many they are.
    #[inline]
    pub(super) fn stored(&self) -> (&'a [u8], u32) {
        (self.bytes, self.count)
    }

    /// The value of the last header of that name; `None` also when that value is null.
    pub fn get(&self, key: &str) -> Option<&'a [u8]> {
        self.iter().filter(|header| header.key == key).last()?.value
    }

    /// Whether the bytes are exactly `count` well-formed headers.
    #[inline(always)]
    pub(super) fn check(&self) -> Result<(), Why> {
        if self.count == 0 && self.bytes.is_empty() { Ok(()) } else { self.check_each() }
    }

    #[inline(never)]
    fn check_each(&self) -> Result<(), Why> {
        let mut bytes = self.bytes;
        // A header takes two bytes at least, so a hostile count ends here, not in the loop.
        if self.count as usize > bytes.len() / 2 {
            return Err(if self.count == 0 {
                "bytes are left in it"
            } else {
                "it has fewer headers than it says"
            });
        }
        for _ in 0..self.count {
            take_header(&mut bytes)?;
        }
        if bytes.is_empty() { Ok(()) } else { Err("bytes are left in it") }
    }
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Result<Header<'a>, Why> {
    let key = nullable(bytes).ok_or("a header's key does not fit")?.ok_or("a header's key is null")?;
    let key = std::str::from_utf8(key).map_err(|_| "a header's key is not UTF-8")?;
    let value = nullable(bytes).ok_or("a header's value does not fit")?;
    Ok(Header { key, value })
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    #[inline]
    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    #[inline]
    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// Iterator over [`Headers`].
#[derive(Clone)]
pub struct HeaderIter<'a> {
    bytes: &'a [u8],
    left: u32,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    #[inline]
    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        let header = take_header(&mut self.bytes).ok();
        if header.is_none() {
            self.left = 0;
        }
        header
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Not `left` below: unchecked bytes may end early.
        (0, Some(self.left as usize))
    }
}

impl FusedIterator for HeaderIter<'_> {}

impl fmt::Debug for HeaderIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
