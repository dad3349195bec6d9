//! The choice between upstreams that may all be chosen.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use waterwheel_reactor::Address;

use super::settings::Balance;
use crate::steer::{hash, hash_bytes};

/// An upstream that may be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Among all of its group.
    pub(super) place: usize,
    /// More than zero.
    pub(super) weight: u64,
    /// Its connections.
    pub(super) active: u64,
}

/// What the choices of one shard in one group have left behind.
#[derive(Debug)]
pub(super) struct Chooser {
    balance: Balance,
    rng: RefCell<Pcg64Mcg>,
    /// By place.
    all: Box<[Each]>,
}

#[derive(Debug)]
struct Each {
    /// What it is owed by the turns, in weights.
    owed: Cell<i64>,
    /// Of its address.
    hash: u64,
}

impl Chooser {
    pub(super) fn new(balance: Balance, addresses: &[Address], seed: u64) -> Chooser {
        let each = |address: &Address| Each { owed: Cell::new(0), hash: hash_address(address) };
        let all = addresses.iter().map(each).collect();
        Chooser { balance, rng: RefCell::new(Pcg64Mcg::seed_from_u64(seed)), all }
    }

    /// One of the candidates, given in the order in which equals are taken; `None` if there are none. `client` is who
    /// asks, as far as that is known and counts.
    pub(super) fn choose(&self, candidates: &[Candidate], client: Option<IpAddr>) -> Option<usize> {
        match (self.balance, client) {
            (Balance::RoundRobin, _) | (Balance::Rendezvous, None) => self.next_in_turn(candidates, |_| true),
            (Balance::LeastConnections, _) => {
                let least = candidates.iter().min_by(|a, b| busier(a, b))?;
                self.next_in_turn(candidates, |other| busier(other, least).is_eq())
            }
            (Balance::TwoChoices, _) => self.of_two(candidates),
            (Balance::Rendezvous, Some(client)) => self.highest(candidates, client),
        }
    }

    /// Smooth weighted round robin: each is owed its weight in each turn, who is owed most is taken, and owes all that
    /// was given. So those of great weight are spread among the others.
    fn next_in_turn(&self, candidates: &[Candidate], among: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let (mut best, mut given) = (None, 0);
        for Candidate { place, weight, .. } in candidates.iter().filter(|candidate| among(candidate)) {
            let owed = &self.all[*place].owed;
            // A weight is at most some ten thousands.
            owed.set(owed.get() + *weight as i64);
            given += *weight as i64;
            if best.is_none_or(|best: usize| owed.get() > self.all[best].owed.get()) {
                best = Some(*place);
            }
        }
        let owed = &self.all[best?].owed;
        owed.set(owed.get() - given);
        best
    }

    /// Two of them by chance, as their weights are, and of these the one that is less busy.
    fn of_two(&self, candidates: &[Candidate]) -> Option<usize> {
        let mut rng = self.rng.borrow_mut();
        let mut draw = |but: Option<usize>| {
            let others = || candidates.iter().filter(move |candidate| Some(candidate.place) != but);
            let total: u64 = others().map(|candidate| candidate.weight).sum();
            // Nobody's chance is off by more than a part in 2^48.
            let mut at = ((u128::from(rng.next_u64()) * u128::from(total)) >> 64) as u64;
            others().find(|candidate| {
                let found = at < candidate.weight;
                at = at.saturating_sub(candidate.weight);
                found
            })
        };
        let one = draw(None)?;
        let other = draw(Some(one.place)).unwrap_or(one);
        Some(if busier(one, other).is_gt() { other.place } else { one.place })
    }

    /// The greatest score of a hash of client and upstream together. Weighted as by Schindelhauer and Schomaker,
    /// "Weighted distributed hash tables" (2005): the chance of each is its share of the weights, exactly.
    fn highest(&self, candidates: &[Candidate], client: IpAddr) -> Option<usize> {
        let client = wide(hash(client, None, SEEDS[0]), hash(client, None, SEEDS[1]));
        let score = |candidate: &Candidate| {
            let mixed = mix(client ^ self.all[candidate.place].hash);
            // Between 0 and 1, and neither of them.
            let drawn = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            candidate.weight as f64 / -drawn.ln()
        };
        let best = candidates.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
        Some(best.place)
    }
}

/// By connections for each weight, without a division.
fn busier(one: &Candidate, other: &Candidate) -> std::cmp::Ordering {
    let load = |a: &Candidate, b: &Candidate| u128::from(a.active) * u128::from(b.weight);
    load(one, other).cmp(&load(other, one))
}

/// The same for every proxy and every run, so that all of them send a client to the same upstream.
const SEEDS: [u32; 2] = [0x243F_6A88, 0x85A3_08D3];

fn hash_address(address: &Address) -> u64 {
    let text = address.to_string();
    wide(hash_bytes(text.as_bytes(), SEEDS[0]), hash_bytes(text.as_bytes(), SEEDS[1]))
}

fn wide(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn addresses(count: u16) -> Vec<Address> {
        (0..count).map(|number| Address::Inet(([10, 0, 0, 1], 8000 + number).into())).collect()
    }

    fn candidates(weights: &[u64], active: &[u64]) -> Vec<Candidate> {
        let each =
            |(place, weight): (usize, &u64)| Candidate { place, weight: *weight, active: active[place] };
        weights.iter().enumerate().map(each).collect()
    }

    fn client(number: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(Ipv4Addr::from(0x0A01_0000 + number)))
    }

    /// How often each was chosen, all of them idle.
    fn spread(balance: Balance, weights: &[u64], rounds: u32) -> Vec<f64> {
        let chooser = Chooser::new(balance, &addresses(weights.len() as u16), 7);
        let mut counts = vec![0.0; weights.len()];
        for round in 0..rounds {
            let idle = candidates(weights, &vec![0; weights.len()]);
            counts[chooser.choose(&idle, client(round)).unwrap()] += 1.0;
        }
        counts
    }

    /// Pearson's chi-square of what was counted against the weights.
    fn chi_square(counts: &[f64], weights: &[u64]) -> f64 {
        let (all, total): (f64, u64) = (counts.iter().sum(), weights.iter().sum());
        let each = counts.iter().zip(weights).map(|(count, weight)| {
            let expected = all * *weight as f64 / total as f64;
            (count - expected).powi(2) / expected
        });
        each.sum()
    }

    #[test]
    fn turns_are_exact_and_spread_the_heavy_among_the_others() {
        let chooser = Chooser::new(Balance::RoundRobin, &addresses(3), 0);
        let all = candidates(&[5, 1, 1], &[0; 3]);
        let order: Vec<usize> = (0..7).map(|_| chooser.choose(&all, None).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(spread(Balance::RoundRobin, &[3, 2, 1], 600), [300.0, 200.0, 100.0]);
    }

    #[test]
    fn turns_go_on_evenly_among_those_that_are_left() {
        let chooser = Chooser::new(Balance::RoundRobin, &addresses(4), 0);
        let mut counts = [0; 4];
        for round in 0..300 {
            let mut some = candidates(&[1; 4], &[0; 4]);
            if round >= 100 {
                some.remove(1);
            }
            counts[chooser.choose(&some, None).unwrap()] += 1;
        }
        assert_eq!(counts[1], 25);
        // Nobody gets the lot of the one that is gone all by himself.
        assert!([0, 2, 3].iter().all(|place| (90..=93).contains(&counts[*place])), "{counts:?}");
    }

    #[test]
    fn the_least_busy_is_taken_for_its_weight_and_equals_by_turns() {
        let chooser = Chooser::new(Balance::LeastConnections, &addresses(3), 0);
        let choose = |active: &[u64]| chooser.choose(&candidates(&[1, 2, 4], active), None).unwrap();
        assert_eq!([choose(&[1, 1, 4]), choose(&[1, 3, 4]), choose(&[0, 1, 1])], [1, 2, 0]);
        // Filled up one by one, the weights come out.
        let mut active = [0; 3];
        (0..70).for_each(|_| active[choose(&active)] += 1);
        assert_eq!(active, [10, 20, 40]);
        let idle = spread(Balance::LeastConnections, &[1, 3], 400);
        assert_eq!(idle, [100.0, 300.0], "also when all of them are idle");
    }

    #[test]
    fn two_choices_are_spread_by_weight_and_avoid_the_busy() {
        // Of two, both are always drawn, so that the first draw decides between idle ones.
        let (weights, counts) = ([1, 1, 2, 4], spread(Balance::TwoChoices, &[1, 1, 2, 4], 40_000));
        // The 0.999 quantile for three degrees of freedom is 16.3.
        assert!(chi_square(&counts, &weights) < 16.3, "{counts:?}");
        let chooser = Chooser::new(Balance::TwoChoices, &addresses(2), 3);
        let busy = candidates(&[1, 1], &[9, 8]);
        assert!((0..100).all(|_| chooser.choose(&busy, None) == Some(1)));
        let one = &candidates(&[1], &[5]);
        assert_eq!((chooser.choose(one, None), chooser.choose(&[], None)), (Some(0), None));
    }

    #[test]
    fn two_choices_keep_the_greatest_load_low() {
        // 1000 balls into 100 bins: one choice leaves a bin with 20 or so, two leave log log n more than the mean.
        let chooser = Chooser::new(Balance::TwoChoices, &addresses(100), 11);
        let mut active = vec![0; 100];
        for _ in 0..1_000 {
            let place = chooser.choose(&candidates(&[1; 100], &active), None).unwrap();
            active[place] += 1;
        }
        let most = active.iter().max().unwrap();
        assert!(*most <= 13, "{most}");
    }

    #[test]
    fn clients_are_spread_by_the_weights() {
        for weights in [&[1; 8][..], &[1, 2, 3, 10]] {
            let counts = spread(Balance::Rendezvous, weights, 50_000);
            // The 0.999 quantile for seven degrees of freedom is 24.3.
            assert!(chi_square(&counts, weights) < 24.3, "{counts:?}");
        }
    }

    #[test]
    fn only_the_clients_of_one_that_goes_move() {
        let chooser = Chooser::new(Balance::Rendezvous, &addresses(10), 0);
        let all = candidates(&[100; 10], &[0; 10]);
        let (mut without, mut heavier) = (all.clone(), all.clone());
        without.remove(4);
        heavier[4].weight = 200;
        let (mut gone, mut drawn) = (0, 0);
        for number in 0..20_000 {
            let choose = |some: &[Candidate]| chooser.choose(some, client(number)).unwrap();
            let (before, after, grown) = (choose(&all), choose(&without), choose(&heavier));
            assert!(after == before || before == 4, "client {number} moved from {before} to {after}");
            assert!(grown == before || grown == 4, "client {number} moved from {before} to {grown}");
            gone += u32::from(after != before);
            drawn += u32::from(grown != before);
        }
        assert!((1_800..2_200).contains(&gone), "{gone} of a tenth of 20000");
        // From 1 in 10 to 2 in 11.
        assert!((1_450..1_820).contains(&drawn), "{drawn}");
    }

    #[test]
    fn the_order_and_the_run_do_not_matter_to_a_client() {
        let (one, other) = (addresses(5), addresses(5).into_iter().rev().collect::<Vec<_>>());
        let of = |all: &[Address], seed, number| {
            let chooser = Chooser::new(Balance::Rendezvous, all, seed);
            let place = chooser.choose(&candidates(&[1; 5], &[0; 5]), client(number)).unwrap();
            all[place].clone()
        };
        assert!((0..200).all(|number| of(&one, 1, number) == of(&other, 2, number)));
        let mapped: IpAddr = "::ffff:10.1.0.9".parse().unwrap();
        let chooser = Chooser::new(Balance::Rendezvous, &one, 0);
        let all = candidates(&[1; 5], &[0; 5]);
        assert_eq!(chooser.choose(&all, Some(mapped)), chooser.choose(&all, client(9)));
        // Who has no address goes by turns.
        assert_eq!([0; 3].map(|_| chooser.choose(&all, None)), [Some(0), Some(1), Some(2)]);
    }
}
