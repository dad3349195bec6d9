//! The bytes that are sent: pseudo-random, the same in every run, so that a byte in a wrong place is seen.

use std::sync::OnceLock;

use anyhow::{bail, ensure};

use super::MIB;

/// The most of it that is sent at once.
pub(crate) const PIECE_MAX: usize = 256 * 1024;

/// Exchanges start inside this much, so that their pattern stays in the nearest cache.
const STARTS: usize = 8 * 1024;

/// Bytes at each end of a piece that are always looked at.
const ENDS: usize = 64;

/// A MiB that repeats, and so much of the next round that a piece never wraps.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(7);
        let mut bytes = vec![0; MIB];
        random.fill(&mut bytes);
        bytes.extend_from_within(..PIECE_MAX);
        bytes
    })
}

/// The bytes of a client's n-th exchange.
pub(crate) fn exchange(client: usize, n: u64, length: usize) -> &'static [u8] {
    let start = (client * 1031 + (n as usize).wrapping_mul(193)) % STARTS;
    &pattern()[start..][..length]
}

/// What a client's stream has at a position, to the end of a piece.
pub(crate) fn stream(client: usize, position: u64) -> &'static [u8] {
    let start = (client as u64 * 65_537 + position) as usize % MIB;
    &pattern()[start..][..PIECE_MAX]
}

/// The number of the client whose stream begins like this.
pub(crate) fn whose_stream(beginning: &[u8], clients: usize) -> Option<usize> {
    (0..clients).find(|client| stream(*client, 0).starts_with(beginning))
}

/// Compares what was received with what was sent, in full.
pub(crate) fn check(received: &[u8], sent: &[u8]) -> anyhow::Result<()> {
    if received != sent {
        let wrong = received.iter().zip(sent).position(|(one, other)| one != other);
        bail!(
            "WRONG BYTES: {} received, {} expected, first difference at {wrong:?}",
            received.len(),
            sent.len()
        );
    }
    Ok(())
}

/// Compares the two ends.
pub(crate) fn check_ends(received: &[u8], sent: &[u8]) -> anyhow::Result<()> {
    ensure!(received.len() <= sent.len(), "a piece larger than any buffer");
    let end = received.len().min(ENDS);
    check(&received[..end], &sent[..end])?;
    check(&received[received.len() - end..], &sent[received.len() - end..received.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_is_found() {
        let sent = exchange(3, 9, 64);
        check(sent, sent).unwrap();
        for place in 0..64 {
            let mut received = sent.to_vec();
            received[place] ^= 1;
            assert!(check(&received, sent).is_err());
            assert!(check_ends(&received, sent).is_err());
        }
        assert!(check(&sent[..63], sent).is_err(), "one is missing");
        assert!(check(exchange(3, 8, 64), sent).is_err(), "another message's");
        assert!(check(exchange(4, 9, 64), sent).is_err(), "another client's");
    }

    #[test]
    fn a_stream_tells_whose_it_is_and_goes_on_over_the_wrap() {
        for client in 0..8 {
            assert_eq!(whose_stream(&stream(client, 0)[..8], 8), Some(client));
        }
        assert_eq!(whose_stream(&[0; 8], 8), None);
        let last = MIB as u64 - 1;
        assert_eq!(stream(0, last)[1..9], stream(0, last + 1)[..8]);
    }
}
