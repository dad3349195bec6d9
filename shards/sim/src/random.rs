//! What a seed decides with: one stream of numbers for the whole world, drawn in the order in which things happen.

use std::ops::Range;
use std::time::Duration;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// The world's only source of chance. The order of the draws is part of a run: whoever adds a draw changes every trace.
#[derive(Clone, Debug)]
pub struct Random(Pcg64Mcg);

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Random {
        Random(Pcg64Mcg::seed_from_u64(seed))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`, 0 if that is 0. By multiplication, without the rejection that would make it exact: the
    /// error is one part in 2^64 / `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(end)) >> 64) as u64
    }

    /// A place in something of this length, which is not 0.
    pub fn place(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// A number of a range; its start if it is empty.
    pub fn of(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// True with this probability. Draws nothing where it is certain.
    pub fn chance(&mut self, probability: f64) -> bool {
        // 53 bits are what an f64 holds.
        probability > 0.0
            && (probability >= 1.0 || ((self.number() >> 11) as f64) / ((1_u64 << 53) as f64) < probability)
    }

    /// A duration between two, both included.
    pub fn duration(&mut self, least: Duration, most: Duration) -> Duration {
        Duration::from_nanos(self.of(nanos(least)..nanos(most).saturating_add(1)))
    }
}

/// As far as a [`Time`](waterwheel_reactor::Time) reaches.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_lies_in_its_range() {
        let mut random = Random::new(7);
        for _ in 0..1_000 {
            assert!(random.below(3) < 3);
            assert!((5..9).contains(&random.of(5..9)));
            let most = Duration::from_nanos(40);
            assert!(random.duration(Duration::from_nanos(30), most) <= most);
        }
        assert_eq!((random.below(0), random.of(4..4)), (0, 4));
    }

    #[test]
    fn chances_come_about_as_often_as_they_say() {
        let mut random = Random::new(3);
        let hits = (0..10_000).filter(|_| random.chance(0.25)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        assert!(!random.chance(0.0) && random.chance(1.0));
    }
}
