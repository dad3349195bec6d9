//! When requests are planned: a pure function of (seed, shard, k) that never reads a clock.
//!
//! A generator that asks the clock "when did I wake up?" and calls the answer the planned time leaves out its own
//! delay, and with it part of every latency that it reports. Here the k-th planned time of a shard follows from
//! numbers alone; the clock is only compared with it.
//!
//! Each shard has an independent Poisson process. Their superposition is exactly Poisson with the sum of the rates,
//! so shards need not talk to each other about time, and their connections do not march in step.

use std::fmt;
use std::str::FromStr;

use rand_core::Rng;
use rand_pcg::Pcg64;

use super::units::Rate;
use crate::net::quoted::Quoted;
use crate::shard::part_of;

/// How the planned times of requests are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Independent users: exponential gaps. Shows the queueing that real traffic meets.
    #[default]
    Poisson,
    /// Equal gaps. Less noise where the server's CPU per request is the question.
    Uniform,
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Arrivals, String> {
        match text {
            "poisson" => Ok(Arrivals::Poisson),
            "uniform" => Ok(Arrivals::Uniform),
            other => Err(format!("arrivals {}: unknown; allowed: poisson, uniform", Quoted(other))),
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arrivals::Poisson => "poisson",
            Arrivals::Uniform => "uniform",
        })
    }
}

/// The part of all connections that one shard has; it plans the same part of the total rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many connections the shards before this one have.
    pub first: u32,
    /// How many connections this shard has.
    pub count: u32,
    /// How many connections all shards have together.
    pub total: u32,
}

impl Share {
    /// Divides `total` connections over `shards` as evenly as whole numbers allow; the first shards have one more.
    ///
    /// # Panics
    /// If `shard` is not below `shards`.
    pub fn of(shard: usize, shards: usize, total: u32) -> Share {
        let part = part_of(total as usize, shard, shards);
        // Neither is more than the total.
        Share { first: part.start as u32, count: part.len() as u32, total }
    }
}

/// The planned times of one shard, in nanoseconds from the start of the phase, never decreasing, without end.
///
/// Fixed-point integers throughout, so that the same seed gives the same times on every machine; the fraction of a
/// nanosecond is carried on, so that rounding does not shift the rate.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    /// The mean gap, in 2⁻³² ns.
    gap: u128,
    /// The latest planned time, or for uniform arrivals the next one, in 2⁻³² ns.
    at: u128,
    rng: Pcg64,
}

/// No mean gap is longer than 2⁵² ns (52 days), so that products stay within 128 bits.
const GAP_MAX: u128 = 1 << 84;

impl Schedule {
    /// The schedule of the shard whose part is `share`, or `None` if it has no connection and therefore no plan.
    pub fn new(arrivals: Arrivals, rate: Rate, seed: u64, shard: usize, share: Share) -> Option<Schedule> {
        if share.count == 0 {
            return None;
        }
        // Requests per 1 000 s, so that the time between two requests of all shards together is 10¹² ns / rate.
        let total = u128::from(rate.per_1000_s());
        // Rounded up, so that the grid of a second never has one request too many.
        let gap_of_one = (1_000_000_000_000u128 << 32).div_ceil(total);
        let gap = (gap_of_one * u128::from(share.total)).div_ceil(u128::from(share.count)).min(GAP_MAX);
        let at = match arrivals {
            Arrivals::Poisson => 0,
            // Shards of equal size interleave to one uniform grid.
            Arrivals::Uniform => (gap_of_one * u128::from(share.first)).div_ceil(u128::from(share.count)),
        };
        Some(Schedule { arrivals, gap, at, rng: generator(seed, shard) })
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let planned = match self.arrivals {
            Arrivals::Poisson => {
                let gap = u128::from(exponential(&mut self.rng)) * self.gap;
                self.at = self.at.saturating_add(gap >> 32);
                self.at
            }
            Arrivals::Uniform => {
                let at = self.at;
                self.at = at.saturating_add(self.gap);
                at
            }
        };
        Some(u64::try_from(planned >> 32).unwrap_or(u64::MAX))
    }
}

/// One generator per seed and shard: both are mixed into the state as well as into the stream, since PCG streams that
/// differ in the increment alone are correlated.
fn generator(seed: u64, shard: usize) -> Pcg64 {
    let mut mixed = seed ^ (shard as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    let mut wide = || u128::from(split_mix(&mut mixed)) << 64 | u128::from(split_mix(&mut mixed));
    let state = wide();
    Pcg64::new(state, wide())
}

/// SplitMix64 (Steele, Lea, Flood 2014): turns near-by seeds into unrelated ones.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An exponential variate of mean 1, in 2⁻³². By von Neumann's comparison method ("Various techniques used in
/// connection with random digits", 1951): it needs no logarithm, whose last bit differs between machines.
///
/// A run of descending uniforms that starts at u has odd length with probability e⁻ᵘ: then u is the fraction. Else
/// one more whole unit has passed, which happens with probability 1/e, and the next run decides. A result above 255
/// is cut off there; its probability is e⁻²⁵⁵.
fn exponential(rng: &mut Pcg64) -> u64 {
    let mut whole = 0;
    while whole < 255 {
        let first = rng.next_u64();
        let mut latest = first;
        let mut odd = true;
        loop {
            let next = rng.next_u64();
            if next >= latest {
                break;
            }
            latest = next;
            odd = !odd;
        }
        if odd {
            return whole << 32 | first >> 32;
        }
        whole += 1;
    }
    whole << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(per_second: u64) -> Rate {
        Rate::per_second(per_second).unwrap()
    }

    fn whole(arrivals: Arrivals, per_second: u64, seed: u64) -> Schedule {
        Schedule::new(arrivals, rate(per_second), seed, 0, Share::of(0, 1, 1)).unwrap()
    }

    /// Planned times of all shards within one second, sorted.
    fn second(arrivals: Arrivals, per_second: u64, seed: u64, shards: usize, connections: u32) -> Vec<u64> {
        let mut all: Vec<u64> = (0..shards)
            .filter_map(|s| {
                Schedule::new(arrivals, rate(per_second), seed, s, Share::of(s, shards, connections))
            })
            .flat_map(|schedule| schedule.take_while(|at| *at < 1_000_000_000))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn the_exponential_has_the_right_distribution() {
        // Kolmogorov and Smirnov: for 100 000 draws a distance above 0.0062 has probability 0.001.
        let mut rng = generator(7, 3);
        let mut drawn: Vec<f64> =
            (0..100_000).map(|_| exponential(&mut rng) as f64 / (1u64 << 32) as f64).collect();
        drawn.sort_by(f64::total_cmp);
        let n = drawn.len() as f64;
        let worst = drawn
            .iter()
            .enumerate()
            .map(|(i, x)| ((1.0 - (-x).exp()) - i as f64 / n).abs())
            .fold(0.0, f64::max);
        assert!(worst < 0.0062, "distance {worst}");
        let mean = drawn.iter().sum::<f64>() / n;
        assert!((mean - 1.0).abs() < 0.0125, "mean {mean}");
    }

    #[test]
    fn gaps_are_not_correlated_with_their_predecessors() {
        let times: Vec<f64> = whole(Arrivals::Poisson, 1_000, 42).take(50_000).map(|at| at as f64).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) / 1e6 - 1.0).collect();
        let with_next: f64 = gaps.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / gaps.len() as f64;
        assert!(with_next.abs() < 0.02, "correlation {with_next}");
    }

    #[test]
    fn shards_of_one_seed_are_unrelated() {
        let counts = |shard| {
            let mut bins = vec![0.0f64; 10_000];
            let share = Share::of(shard, 2, 2);
            let schedule = Schedule::new(Arrivals::Poisson, rate(20_000), 5, shard, share).unwrap();
            for at in schedule.take_while(|at| *at < 1_000_000_000) {
                bins[(at / 100_000) as usize] += 1.0;
            }
            bins
        };
        let (a, b) = (counts(0), counts(1));
        let product: f64 = a.iter().zip(&b).map(|(a, b)| (a - 1.0) * (b - 1.0)).sum();
        assert!((product / 10_000.0).abs() < 0.05, "{product}");
    }

    #[test]
    fn superposed_shards_are_poisson_with_the_total_rate() {
        // In 2 000 windows of 0.5 ms the counts must have mean and variance 20.
        for shards in [1, 3, 8] {
            let mut bins = vec![0.0f64; 2_000];
            for at in second(Arrivals::Poisson, 40_000, 11, shards, 256) {
                bins[(at / 500_000) as usize] += 1.0;
            }
            let mean = bins.iter().sum::<f64>() / 2_000.0;
            let variance = bins.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 1_999.0;
            assert!((mean - 20.0).abs() < 0.4, "{shards} shards: mean {mean}");
            assert!((variance / mean - 1.0).abs() < 0.15, "{shards} shards: dispersion {}", variance / mean);
        }
    }

    #[test]
    fn uniform_shards_interleave_to_one_grid() {
        let all = second(Arrivals::Uniform, 3_000, 1, 3, 3);
        assert_eq!(all.len(), 3_000);
        assert!(all.windows(2).all(|pair| (333_332..=333_334).contains(&(pair[1] - pair[0]))), "{all:?}");
    }

    #[test]
    fn rounding_does_not_shift_the_rate() {
        // 300 000 per second: a gap of 3 333 ns instead of 3 333.3 would be 10 requests too many in 0.3 s.
        let last = whole(Arrivals::Uniform, 300_000, 0).nth(90_000).unwrap();
        assert_eq!(last, 300_000_000);
    }

    #[test]
    fn a_shard_without_connections_plans_nothing() {
        assert!(
            Schedule::new(Arrivals::Poisson, rate(10), 1, 2, Share { first: 2, count: 0, total: 2 })
                .is_none()
        );
    }

    #[test]
    fn known_times_never_change() {
        // A changed plan would make results of two versions incomparable under one seed.
        let times: Vec<u64> = whole(Arrivals::Poisson, 1_000, 1).take(4).collect();
        assert_eq!(times, KNOWN);
    }

    const KNOWN: [u64; 4] = [326_777, 480_674, 3_177_316, 3_845_394];

    proptest! {
        #[test]
        fn shares_cover_all_connections(shards in 1usize..200, total in 0u32..10_000) {
            let shares: Vec<Share> = (0..shards).map(|shard| Share::of(shard, shards, total)).collect();
            prop_assert_eq!(shares.iter().map(|share| share.count).sum::<u32>(), total);
            prop_assert!(shares.windows(2).all(|pair| pair[0].first + pair[0].count == pair[1].first));
            let counts = shares.iter().map(|share| share.count);
            prop_assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1);
        }

        #[test]
        fn times_follow_from_seed_shard_and_k_alone(
            seed: u64, shard in 0usize..64, per_second in 1u64..10_000_000, poisson: bool,
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Uniform };
            let share = Share::of(shard, 64, 1_000);
            let make = || Schedule::new(arrivals, rate(per_second), seed, shard, share).unwrap();
            let at_once: Vec<u64> = make().take(50).collect();
            // Asked one by one from fresh copies, as by a generator that wakes at any time whatever.
            let apart: Vec<u64> = (0..50).map(|k| make().nth(k).unwrap()).collect();
            prop_assert_eq!(&at_once, &apart);
            prop_assert!(at_once.windows(2).all(|pair| pair[0] <= pair[1]));
        }

        #[test]
        fn the_mean_rate_is_the_rate_asked_for(seed: u64, shards in 1usize..9) {
            // 10 000 expected, standard deviation 100: six of them are allowed.
            let n = second(Arrivals::Poisson, 10_000, seed, shards, 100).len();
            prop_assert!((9_400..=10_600).contains(&n), "{} planned in a second", n);
        }

        #[test]
        fn absurd_rates_neither_overflow_nor_go_back(seed: u64, per_1000_s in 1u64..1_000, total in 1u32..u32::MAX) {
            let share = Share { first: total - 1, count: 1, total };
            for arrivals in [Arrivals::Poisson, Arrivals::Uniform] {
                let rate = Rate::per_1000_seconds(per_1000_s).unwrap();
                let times: Vec<u64> = Schedule::new(arrivals, rate, seed, 9, share).unwrap().take(20).collect();
                prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            }
        }
    }
}
