//! CRC32C: the cyclic redundancy check with Castagnoli's polynomial (RFC 3720, sections 12.1 and B.4; RFC 9260,
//! appendix A), a byte at a time from a table. A header has few bytes, and one checksum.

/// The polynomial with its bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut rest, mut bit) = (byte as u32, 0);
        while bit < 8 {
            rest = if rest & 1 == 1 { (rest >> 1) ^ POLYNOMIAL } else { rest >> 1 };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
};

/// The checksum of several pieces, one behind the other.
pub(super) fn crc32c(pieces: &[&[u8]]) -> u32 {
    let bytes = pieces.iter().copied().flatten();
    !bytes.fold(!0, |rest, byte| TABLE[usize::from(rest as u8 ^ byte)] ^ (rest >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4. The bytes there are in the order of the wire, lowest first.
    #[test]
    fn the_vectors_of_the_standard() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        let mut read = [0; 48];
        read[0] = 1;
        read[1] = 0xC0;
        read[16] = 0x14;
        read[22..24].copy_from_slice(&[4, 0]);
        read[27] = 0x14;
        read[31] = 0x18;
        read[32] = 0x28;
        read[40] = 2;
        for (bytes, expected) in [
            (&[0; 32][..], [0xAA, 0x36, 0x91, 0x8A]),
            (&[0xFF; 32], [0x43, 0xAB, 0xA8, 0x62]),
            (&up, [0x4E, 0x79, 0xDD, 0x46]),
            (&down, [0x5C, 0xDB, 0x3F, 0x11]),
            (&read, [0x56, 0x3A, 0x96, 0xD9]),
            (b"", [0; 4]),
        ] {
            assert_eq!(crc32c(&[bytes]).to_le_bytes(), expected, "{bytes:x?}");
            let (one, two) = bytes.split_at(bytes.len() / 3);
            assert_eq!(crc32c(&[one, two]).to_le_bytes(), expected, "in pieces");
        }
    }
}
