//! Zigzag varints of 32 and 64 bits, as in protobuf: at most 5 and 10 bytes.

/// Bytes of the longest varint of 32 bits.
pub(super) const MAX_32: usize = 5;

/// Bytes of the longest varint of 64 bits.
pub(super) const MAX_64: usize = 10;

#[inline(always)]
fn zigzag_32(n: i32) -> u32 {
    ((n << 1) ^ (n >> 31)) as u32
}

#[inline(always)]
fn zigzag_64(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

/// Bytes of the varint of `n`.
#[inline(always)]
pub(super) fn len_32(n: i32) -> usize {
    let u = zigzag_32(n);
    if u < 1 << 14 { 1 + usize::from(u >= 0x80) } else { len(u.into()) }
}

#[inline(always)]
fn len(u: u64) -> usize {
    // ceil(bits / 7) without a division; exact for 1..=64 bits.
    let top = 63 - (u | 1).leading_zeros();
    ((top * 9 + 73) / 64) as usize
}

/// Takes a varint off the front of `bytes`; `None` when it is cut or longer than 5 bytes.
#[inline(always)]
pub(super) fn read_32(bytes: &mut &[u8]) -> Option<i32> {
    let u = match **bytes {
        [a, ref rest @ ..] if a < 0x80 => {
            *bytes = rest;
            u32::from(a)
        }
        [a, b, ref rest @ ..] if b < 0x80 => {
            *bytes = rest;
            u32::from(a & 0x7f) | u32::from(b) << 7
        }
        // Bits beyond the 32nd fall off, as in Kafka's reader.
        _ => read_slow(bytes, MAX_32)? as u32,
    };
    Some(unzigzag_32(u))
}

#[inline(never)]
fn read_slow(bytes: &mut &[u8], max: usize) -> Option<u64> {
    let mut u = 0;
    for (i, &byte) in bytes.iter().take(max).enumerate() {
        u |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(u);
        }
    }
    None
}

/// The first bytes of a record, or of what is left of a section, padded: varints in it are read by index alone.
pub(super) type Window = [u8; WINDOW];

/// Room for a record's length, attributes, both deltas and the length of its key.
pub(super) const WINDOW: usize = 32;

const _: () = assert!(3 * MAX_32 + MAX_64 < WINDOW && WINDOW.is_power_of_two());

/// Reads a varint at `at`, at most 26, and steps over it; bytes of the padding pass for data.
#[inline(always)]
pub(super) fn window_32(window: &Window, at: &mut usize) -> Option<i32> {
    Some(unzigzag_32(window_varint(window, at, MAX_32)? as u32))
}

/// As [`window_32`] for 64 bits.
#[inline(always)]
pub(super) fn window_64(window: &Window, at: &mut usize) -> Option<i64> {
    Some(unzigzag_64(window_varint(window, at, MAX_64)?))
}

#[inline(always)]
fn window_varint(window: &Window, at: &mut usize, max: usize) -> Option<u64> {
    // The masks spare the bounds checks.
    let a = window[*at % WINDOW];
    if a < 0x80 {
        *at += 1;
        return Some(a.into());
    }
    let b = window[(*at + 1) % WINDOW];
    if b < 0x80 {
        *at += 2;
        return Some(u64::from(a & 0x7f) | u64::from(b) << 7);
    }
    let mut rest = &window[*at % WINDOW..];
    let before = rest.len();
    let u = read_slow(&mut rest, max)?;
    *at += before - rest.len();
    Some(u)
}

#[inline(always)]
fn unzigzag_32(u: u32) -> i32 {
    (u >> 1) as i32 ^ -((u & 1) as i32)
}

#[inline(always)]
fn unzigzag_64(u: u64) -> i64 {
    (u >> 1) as i64 ^ -((u & 1) as i64)
}

/// The varint of `u`, below 2^14, and its one or two bytes; without a branch between them.
#[inline(always)]
fn short(u: u64) -> (u64, u32) {
    let long = u64::from(u >= 0x80);
    (u & 0x7f | long << 7 | u >> 7 << 8, 1 + long as u32)
}

/// Writes a record's fields into a slice that has room for them and [`OVERSHOOT`](Writer::OVERSHOOT) more.
pub(super) struct Writer<'a> {
    into: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Bytes beyond the end that may be overwritten: small fields are stored in words of constant size.
    pub(super) const OVERSHOOT: usize = 8;

    #[inline(always)]
    pub(super) fn new(into: &'a mut [u8]) -> Self {
        Writer { into, at: 0 }
    }

    /// How many bytes were written.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.at
    }

    #[inline(always)]
    pub(super) fn varint(&mut self, n: i32) {
        self.write(u64::from(zigzag_32(n)));
    }

    /// Length, attributes and both deltas of a record whose other fields take `payload` bytes.
    #[inline(always)]
    pub(super) fn prefix(&mut self, payload: usize, timestamp_delta: i64, offset_delta: i32) {
        let (timestamp, offset) = (zigzag_64(timestamp_delta), u64::from(zigzag_32(offset_delta)));
        if timestamp | offset | (payload as u64 + 5) << 1 < 1 << 14 {
            // All of one or two bytes: put together in a register, stored at once.
            let ((timestamp, timestamp_len), (offset, offset_len)) = (short(timestamp), short(offset));
            let deltas = timestamp | offset << (8 * timestamp_len);
            let body = 1 + timestamp_len as usize + offset_len as usize + payload;
            let (length, length_len) = short(u64::from(zigzag_32(body as i32)));
            // Between the length and the deltas the attributes, 0.
            let word = length | deltas << (8 * length_len + 8);
            self.into[self.at..self.at + 8].copy_from_slice(&word.to_le_bytes());
            self.at += (length_len + 1 + timestamp_len + offset_len) as usize;
        } else {
            let body = 1 + len(timestamp) + len(offset) + payload;
            self.write(u64::from(zigzag_32(body as i32)));
            self.write(0);
            self.write(timestamp);
            self.write(offset);
        }
    }

    #[inline(always)]
    fn write(&mut self, u: u64) {
        if u < 1 << 14 {
            let (word, len) = short(u);
            self.into[self.at..self.at + 2].copy_from_slice(&(word as u16).to_le_bytes());
            self.at += len as usize;
        } else {
            self.write_long(u);
        }
    }

    #[cold]
    fn write_long(&mut self, mut u: u64) {
        while u >= 0x80 {
            self.into[self.at] = u as u8 | 0x80;
            self.at += 1;
            u >>= 7;
        }
        self.into[self.at] = u as u8;
        self.at += 1;
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        self.into[self.at..end].copy_from_slice(bytes);
        self.at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buffer = [0xaa; MAX_64 + Writer::OVERSHOOT];
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer);
        let len = writer.len();
        buffer[..len].to_vec()
    }

    fn windowed(bytes: &[u8]) -> (Option<i32>, Option<i64>, [usize; 2]) {
        let mut window = [0xff; WINDOW];
        window[5..][..bytes.len()].copy_from_slice(bytes);
        let mut ends = [5, 5];
        let (small, large) = (window_32(&window, &mut ends[0]), window_64(&window, &mut ends[1]));
        (small, large, ends.map(|end| end - 5))
    }

    #[test]
    fn the_examples_of_the_format() {
        let cases: &[(i32, &[u8])] = &[
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (-2, &[0x03]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (300, &[0xd8, 0x04]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ];
        for &(n, bytes) in cases {
            assert_eq!(written(|w| w.varint(n)), bytes);
            assert_eq!(written(|w| w.write(zigzag_64(n.into()))), bytes);
            assert_eq!(read_32(&mut &bytes[..]), Some(n));
            assert_eq!(windowed(bytes), (Some(n), Some(n.into()), [bytes.len(); 2]));
        }
        let max = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(written(|w| w.write(zigzag_64(i64::MAX))), max);
        assert_eq!(windowed(&max).1, Some(i64::MAX));
    }

    #[test]
    fn too_long_or_cut_is_refused() {
        assert_eq!(read_32(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..]), None);
        assert_eq!(windowed(&[0xff; 11]), (None, None, [0; 2]));
        for len in 0..5 {
            assert_eq!(read_32(&mut &[0x80; 5][..len]), None);
        }
    }

    #[test]
    fn lengths_at_every_power_of_two() {
        for bit in 0..64 {
            for n in [1i64 << bit, (1i64 << bit).wrapping_sub(1), (1i64 << bit).wrapping_neg()] {
                assert_eq!(len(zigzag_64(n)), written(|w| w.write(zigzag_64(n))).len(), "{n}");
                assert_eq!(len_32(n as i32), written(|w| w.varint(n as i32)).len(), "{n}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n: i64, tail: Vec<u8>) {
            let bytes = written(|w| w.write(zigzag_64(n)));
            prop_assert_eq!(bytes.len(), len(zigzag_64(n)));
            prop_assert_eq!(windowed(&bytes).1, Some(n));
            let n = n as i32;
            let mut bytes = written(|w| w.varint(n));
            prop_assert_eq!(bytes.len(), len_32(n));
            bytes.extend_from_slice(&tail);
            let mut rest = &bytes[..];
            prop_assert_eq!(read_32(&mut rest), Some(n));
            prop_assert_eq!(rest, &tail[..]);
        }
    }
}
