//! CRC-32C (Castagnoli), Kafka's checksum of batches and snapshots, and CRC-32 (IEEE), that of the old formats: the one
//! place of this room that names an implementation.

/// The checksum of `bytes`.
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// The checksum of a message of formats 0 and 1.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step of the table-less definition: bit by bit, reflected polynomial.
    fn step(mut crc: u32, byte: u8) -> u32 {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
        crc
    }

    #[test]
    fn check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_length_at_every_alignment_as_bit_by_bit() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        })
        .take(4096 + 16)
        .collect();
        for start in 0..16 {
            let mut crc = !0;
            for len in 0..=4096 {
                assert_eq!(crc32c(&bytes[start..start + len]), !crc, "{len} bytes at {start}");
                crc = step(crc, bytes[start + len]);
            }
        }
    }
}
