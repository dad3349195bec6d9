//! Bytes whose place can be told from their value, so that a lost, doubled or moved byte is seen at once.

/// An endless stream of bytes, the same for the same seed: eight of each counter value, mixed.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    seed: u64,
    at: u64,
}

impl Pattern {
    /// The stream of this seed, from its beginning.
    pub(crate) fn new(seed: u64) -> Pattern {
        Pattern { seed, at: 0 }
    }

    /// How many bytes were taken or checked.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        let skip = (self.at % 8) as usize;
        for word in self.at / 8.. {
            if bytes.len() >= count + skip {
                break;
            }
            bytes.extend(self.word(word));
        }
        self.at += count as u64;
        bytes.truncate(skip + count);
        bytes.drain(..skip);
        bytes
    }

    /// Compares the next bytes with the stream and goes on behind them.
    ///
    /// # Panics
    /// At the first byte that differs, with its place in the stream.
    pub(crate) fn check(&mut self, bytes: &[u8]) {
        let from = self.at;
        let wanted = self.take(bytes.len());
        if bytes == wanted {
            return;
        }
        if let Some(place) = bytes.iter().zip(&wanted).position(|(got, want)| got != want) {
            let [got, want] = [bytes, &wanted].map(|all| &all[place..all.len().min(place + 16)]);
            panic!("byte {} of the stream is wrong: got {got:x?}, wanted {want:x?}", from + place as u64);
        }
    }

    /// One step of SplitMix64 (Steele, Lea, Flood 2014): neighbouring counters share no byte pattern.
    fn word(&self, number: u64) -> [u8; 8] {
        let mut mixed = self.seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ number;
        mixed = mixed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_stream() {
        let whole = Pattern::new(7).take(1000);
        let (mut pieces, mut checked) = (Pattern::new(7), Pattern::new(7));
        let mut joined = Vec::new();
        for size in [0, 1, 7, 8, 9, 100, 3, 872] {
            joined.extend(pieces.take(size));
        }
        assert_eq!(joined, whole);
        checked.check(&whole[..333]);
        checked.check(&whole[333..]);
        assert_eq!(checked.at(), 1000);
    }

    #[test]
    #[should_panic(expected = "byte 8 of the stream is wrong")]
    fn a_lost_byte_is_seen_where_it_is_missing() {
        let mut bytes = Pattern::new(7).take(64);
        bytes.remove(8);
        Pattern::new(7).check(&bytes);
    }

    #[test]
    #[should_panic(expected = "byte 0 of the stream is wrong")]
    fn another_stream_is_told_apart() {
        Pattern::new(7).check(&Pattern::new(1 << 40).take(8));
    }
}
