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
    Some((u >> 1) as i32 ^ -((u & 1) as i32))
}

/// Takes a varint off the front of `bytes`; `None` when it is cut or longer than 10 bytes.
#[inline(always)]
pub(super) fn read_64(bytes: &mut &[u8]) -> Option<i64> {
    let u = match **bytes {
        [a, ref rest @ ..] if a < 0x80 => {
            *bytes = rest;
            u64::from(a)
        }
        [a, b, ref rest @ ..] if b < 0x80 => {
            *bytes = rest;
            u64::from(a & 0x7f) | u64::from(b) << 7
        }
        _ => read_slow(bytes, MAX_64)?,
    };
    Some((u >> 1) as i64 ^ -((u & 1) as i64))
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

/// A few varints gathered on the stack, so that they reach a buffer in one copy of constant size.
pub(super) struct Prefix {
    bytes: [u8; Prefix::BYTES],
    len: usize,
}

impl Prefix {
    /// Room for the fields before a record's value: length, attributes, both deltas, both lengths.
    pub(super) const BYTES: usize = 32;

    #[inline(always)]
    pub(super) fn new() -> Self {
        Prefix { bytes: [0; Self::BYTES], len: 0 }
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, byte: u8) {
        // The mask spares a bounds check; a record's fields never reach it (asserted below).
        self.bytes[self.len % Self::BYTES] = byte;
        self.len += 1;
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
    fn write(&mut self, mut u: u64) {
        while u >= 0x80 {
            self.byte(u as u8 | 0x80);
            u >>= 7;
        }
        self.byte(u as u8);
    }

    /// Moves what was gathered to the end of `buffer`, which passes through `len() + BYTES`.
    #[inline(always)]
    pub(super) fn flush(&mut self, buffer: &mut Vec<u8>) {
        let end = buffer.len() + self.len;
        buffer.extend_from_slice(&self.bytes);
        buffer.truncate(end);
        self.len = 0;
    }
}

const _: () = assert!(4 * MAX_32 + MAX_64 + 1 < Prefix::BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Prefix)) -> Vec<u8> {
        let mut prefix = Prefix::new();
        write(&mut prefix);
        let mut buffer = Vec::new();
        prefix.flush(&mut buffer);
        buffer
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
            assert_eq!(written(|p| p.varint(n)), bytes);
            assert_eq!(written(|p| p.varlong(n.into())), bytes);
            assert_eq!(read_32(&mut &bytes[..]), Some(n));
        }
        let max = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(written(|p| p.varlong(i64::MAX)), max);
        assert_eq!(read_64(&mut &max[..]), Some(i64::MAX));
    }

    #[test]
    fn too_long_or_cut_is_refused() {
        assert_eq!(read_32(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..]), None);
        assert_eq!(read_64(&mut &[0xff; 11][..]), None);
        for len in 0..10 {
            assert_eq!(read_64(&mut &[0x80; 10][..len]), None);
        }
    }

    #[test]
    fn lengths_at_every_power_of_two() {
        for bit in 0..64 {
            for n in [1i64 << bit, (1i64 << bit).wrapping_sub(1), (1i64 << bit).wrapping_neg()] {
                assert_eq!(len_64(n), written(|p| p.varlong(n)).len(), "{n}");
                assert_eq!(len_32(n as i32), written(|p| p.varint(n as i32)).len(), "{n}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n: i64, tail: Vec<u8>) {
            let mut bytes = written(|p| p.varlong(n));
            prop_assert_eq!(bytes.len(), len_64(n));
            bytes.extend_from_slice(&tail);
            let mut rest = &bytes[..];
            prop_assert_eq!(read_64(&mut rest), Some(n));
            prop_assert_eq!(rest, &tail[..]);

            let n = n as i32;
            let mut bytes = written(|p| p.varint(n));
            prop_assert_eq!(bytes.len(), len_32(n));
            bytes.extend_from_slice(&tail);
            let mut rest = &bytes[..];
            prop_assert_eq!(read_32(&mut rest), Some(n));
            prop_assert_eq!(rest, &tail[..]);
        }
    }
}
