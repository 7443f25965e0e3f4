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

/// Bytes that `n` takes.
#[inline(always)]
pub(super) fn len_32(n: i32) -> usize {
    len(u64::from(zigzag_32(n)))
}

/// Bytes that `n` takes.
#[inline(always)]
pub(super) fn len_64(n: i64) -> usize {
    len(zigzag_64(n))
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
    Some(unzigzag(u.into()) as i32)
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
    Some(unzigzag(window_varint(window, at, MAX_32)? as u32 as u64) as i32)
}

/// As [`window_32`] for 64 bits.
#[inline(always)]
pub(super) fn window_64(window: &Window, at: &mut usize) -> Option<i64> {
    Some(unzigzag(window_varint(window, at, MAX_64)?))
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
fn unzigzag(u: u64) -> i64 {
    (u >> 1) as i64 ^ -((u & 1) as i64)
}

/// Appends small fields to a buffer: gathered in a register, stored eight bytes at a time.
pub(super) struct Writer<'a> {
    buffer: &'a mut Vec<u8>,
    gathered: u64,
    len: u32,
}

impl<'a> Writer<'a> {
    /// How far the buffer passes beyond what is written, for whoever reserves.
    pub(super) const OVERSHOOT: usize = 8;

    #[inline(always)]
    pub(super) fn new(buffer: &'a mut Vec<u8>) -> Self {
        Writer { buffer, gathered: 0, len: 0 }
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, byte: u8) {
        self.put(byte.into(), 1);
    }

    #[inline(always)]
    pub(super) fn varint(&mut self, n: i32) {
        self.write(u64::from(zigzag_32(n)));
    }

    #[inline(always)]
    pub(super) fn varlong(&mut self, n: i64) {
        self.write(zigzag_64(n));
    }

    #[inline(always)]
    fn write(&mut self, u: u64) {
        if u < 0x80 {
            self.put(u, 1);
        } else if u < 1 << 28 {
            // Groups of seven spread to bytes, and a continuation bit on all but the last.
            let spread = u & 0x7f | (u & 0x3f80) << 1 | (u & 0x1f_c000) << 2 | (u & 0xfe0_0000) << 3;
            let bytes = len(u) as u32;
            let more = 0x80_8080 & ((1 << (8 * (bytes - 1))) - 1);
            self.put(spread | more, bytes);
        } else {
            self.write_long(u);
        }
    }

    #[inline(never)]
    fn write_long(&mut self, mut u: u64) {
        while u >= 0x80 {
            self.put(u & 0x7f | 0x80, 1);
            u >>= 7;
        }
        self.put(u, 1);
    }

    #[inline(always)]
    fn put(&mut self, bytes: u64, len: u32) {
        if self.len + len > 8 {
            self.flush();
        }
        self.gathered |= bytes << (8 * self.len);
        self.len += len;
    }

    #[inline(always)]
    fn flush(&mut self) {
        // A store of constant size, then a cut: cheaper than a copy of `len` bytes.
        let end = self.buffer.len() + self.len as usize;
        self.buffer.extend_from_slice(&self.gathered.to_le_bytes());
        self.buffer.truncate(end);
        self.gathered = 0;
        self.len = 0;
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.flush();
        self.buffer.extend_from_slice(bytes);
    }

    #[inline(always)]
    pub(super) fn finish(mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buffer = Vec::new();
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer);
        writer.finish();
        buffer
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
            assert_eq!(written(|w| w.varlong(n.into())), bytes);
            assert_eq!(read_32(&mut &bytes[..]), Some(n));
            assert_eq!(windowed(bytes), (Some(n), Some(n.into()), [bytes.len(); 2]));
        }
        let max = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(written(|w| w.varlong(i64::MAX)), max);
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
                assert_eq!(len_64(n), written(|w| w.varlong(n)).len(), "{n}");
                assert_eq!(len_32(n as i32), written(|w| w.varint(n as i32)).len(), "{n}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n: i64, tail: Vec<u8>) {
            let bytes = written(|w| w.varlong(n));
            prop_assert_eq!(bytes.len(), len_64(n));
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
