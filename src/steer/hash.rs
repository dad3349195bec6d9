//! The hash that says which shard owns a connection, and the step from a hash to a shard.
//!
//! Both are chosen so that a classic BPF program can compute the same in the kernel: 32 bits, no loop, no table. The
//! mixing constants are those of the golden ratio and of MurmurHash3's finalizer. The step is the linear-time form of
//! jump consistent hashing (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014, first
//! listing), walked from the top: shard `i` is taken with chance `1/(i+1)`, so that growing from `n` to `n + 1` shards
//! moves one key in `n + 1`, and only to the new shard.

use std::net::IpAddr;

/// 2^32 divided by the golden ratio, made odd.
pub(super) const GOLDEN_ODD: u32 = 0x9E37_79B1;
/// 2^32 divided by the golden ratio.
pub(super) const GOLDEN: u32 = 0x9E37_79B9;
/// The two multipliers of MurmurHash3's finalizer.
pub(super) const MIX: [u32; 2] = [0x85EB_CA6B, 0xC2B2_AE35];

/// Hashes a peer: its address, and its port where `port` is given. An IPv4 address hashes the same whether it came
/// plain or mapped into IPv6. `seed` keeps clients from choosing a shard by their source port.
pub fn hash(address: IpAddr, port: Option<u16>, seed: u32) -> u32 {
    let mut state = seed;
    match address.to_canonical() {
        IpAddr::V4(four) => state = absorb(state, u32::from(four)),
        IpAddr::V6(six) => {
            let bits = u128::from(six);
            for shift in [96, 64, 32, 0] {
                // Cuts the word out on purpose: the next ones follow.
                state = absorb(state, (bits >> shift) as u32);
            }
        }
    }
    if let Some(port) = port {
        state = absorb(state, u32::from(port));
    }
    finish(state)
}

/// Hashes any bytes, such as a name that a client sent: as big-endian words, the last one filled with zeros, and then
/// their count, so that zeros at the end count.
pub fn hash_bytes(bytes: &[u8], seed: u32) -> u32 {
    let word = |four: &[u8]| {
        let mut word = [0; 4];
        word[..four.len()].copy_from_slice(four);
        u32::from_be_bytes(word)
    };
    let state = bytes.chunks(4).map(word).fold(seed, absorb);
    // Of the count the lowest 32 bits, on purpose.
    finish(absorb(state, bytes.len() as u32))
}

/// The shard of a hash, of `shards`. Takes time linear in `shards`, about 2 ns for each.
///
/// # Panics
/// If there is no shard.
pub fn jump(hash: u32, shards: usize) -> usize {
    assert!(shards > 0, "no shard to choose from");
    for shard in (1..shards).rev() {
        if draw(hash, shard as u32) < limit(shard as u32) {
            return shard;
        }
    }
    0
}

/// 2^32 / (shard + 1): a draw below it has a chance of one in shard + 1. Shards from 1 on, whose limit has 32 bits.
pub(super) fn limit(shard: u32) -> u32 {
    ((1_u64 << 32) / (u64::from(shard) + 1)) as u32
}

fn absorb(state: u32, word: u32) -> u32 {
    let mixed = (state ^ word).wrapping_mul(GOLDEN_ODD);
    mixed ^ (mixed >> 15)
}

fn finish(state: u32) -> u32 {
    let mut mixed = state.wrapping_mul(MIX[0]);
    mixed ^= mixed >> 13;
    mixed = mixed.wrapping_mul(MIX[1]);
    mixed ^ (mixed >> 16)
}

/// A number that looks random, the same for the same hash and shard.
fn draw(hash: u32, shard: u32) -> u32 {
    let mut mixed = (hash ^ shard.wrapping_mul(GOLDEN)).wrapping_mul(MIX[0]);
    mixed ^= mixed >> 13;
    mixed.wrapping_mul(MIX[1])
}

#[cfg(test)]
mod tests {
    use super::super::vectors::VECTORS;
    use super::*;
    use proptest::prelude::*;
    use rand_core::{Rng, SeedableRng};
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Same keys in every run: the tests below are statements about these keys, not about luck.
    fn random_keys(count: usize) -> Vec<u32> {
        let mut rng = rand_pcg::Pcg64::seed_from_u64(7);
        (0..count)
            .map(|n| {
                let port = rng.next_u32() as u16;
                match n % 2 {
                    0 => hash(Ipv4Addr::from(rng.next_u32()).into(), Some(port), 0x5eed),
                    _ => hash(
                        Ipv6Addr::from_bits(u128::from(rng.next_u64()) << 64 | 1).into(),
                        Some(port),
                        0x5eed,
                    ),
                }
            })
            .collect()
    }

    /// How far the spread is from even, in standard deviations of chi-square.
    fn unevenness(keys: &[u32], shards: usize) -> f64 {
        let mut counts = vec![0_u32; shards];
        for key in keys {
            counts[jump(*key, shards)] += 1;
        }
        let expected = keys.len() as f64 / shards as f64;
        let chi: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
        let freedom = shards as f64 - 1.0;
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn the_kernels_program_and_this_agree_on_the_vectors() {
        for &(address, port, seed, expected, shards, owner) in VECTORS {
            let key = hash(address.parse().unwrap(), port, seed);
            assert_eq!(key, expected, "hash of {address} {port:?} with seed {seed}");
            assert_eq!(jump(key, shards), owner, "shard of {address} {port:?}, seed {seed}, of {shards}");
        }
    }

    #[test]
    fn mapped_ipv4_is_ipv4() {
        for word in [0, 1, 0x7f00_0001, 0x0a01_0203, u32::MAX] {
            let four = Ipv4Addr::from(word);
            let mapped = IpAddr::V6(four.to_ipv6_mapped());
            assert_eq!(hash(four.into(), Some(1), 9), hash(mapped, Some(1), 9));
        }
    }

    #[test]
    fn shard_3_keys_spread_evenly() {
        let mut kinds = vec![("random", random_keys(60_000))];
        for seed in 3..7 {
            let ports = (1024..=u16::MAX).map(|port| hash(Ipv4Addr::LOCALHOST.into(), Some(port), seed));
            let addresses = (0..50_000).map(|n| hash(Ipv4Addr::from(0x0a00_0000 + n).into(), None, seed));
            let network = |n: u128| Ipv6Addr::from_bits(0x2001_0db8 << 96 | n << 64 | 1).into();
            let networks = (0..50_000).map(|n| hash(network(n), None, seed));
            kinds.push(("ports in sequence", ports.collect()));
            kinds.push(("addresses in sequence", addresses.collect()));
            kinds.push(("networks in sequence", networks.collect()));
        }
        for (what, keys) in kinds {
            for shards in [2, 3, 8, 61, 64] {
                let z = unevenness(&keys, shards);
                assert!(z.abs() < 4.0, "{what} over {shards} shards: {z:.1} standard deviations");
            }
        }
    }

    #[test]
    fn shard_3_growing_moves_few_keys_and_only_to_the_new_shard() {
        let keys = random_keys(60_000);
        for shards in [1, 2, 3, 7, 15, 63] {
            let mut moved = 0_u32;
            for key in &keys {
                let (before, after) = (jump(*key, shards), jump(*key, shards + 1));
                if before != after {
                    assert_eq!(after, shards, "a key moved between old shards");
                    moved += 1;
                }
            }
            let share = f64::from(moved) / keys.len() as f64 * (shards as f64 + 1.0);
            assert!((0.85..1.15).contains(&share), "{shards} to one more moved {share:.2} of the ideal");
        }
    }

    #[test]
    fn another_seed_gives_another_placement() {
        let stay = (0..10_000_u16)
            .filter(|port| {
                let owner = |seed| jump(hash(Ipv4Addr::LOCALHOST.into(), Some(*port), seed), 8);
                owner(1) == owner(2)
            })
            .count();
        assert!((1_000..1_500).contains(&stay), "{stay} of 10 000 stay where one in eight should");
    }

    #[test]
    #[should_panic(expected = "no shard to choose from")]
    fn no_shards_is_a_bug_of_the_caller() {
        jump(1, 0);
    }

    /// The hash as the design words it, in wide numbers, over the address's bytes.
    fn hash_of(octets: &[u8], port: Option<u16>, seed: u32) -> u64 {
        const WIDE: u64 = 1 << 32;
        let words =
            octets.chunks(4).map(|word| word.iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte)));
        let mut h = u64::from(seed);
        for word in words.chain(port.map(u64::from)) {
            h = (h ^ word) * 0x9E37_79B1 % WIDE;
            h ^= h >> 15;
        }
        h = h * 0x85EB_CA6B % WIDE;
        h ^= h >> 13;
        h = h * 0xC2B2_AE35 % WIDE;
        h ^ h >> 16
    }

    /// Jump hash as its paper words it: shards are added one by one, and the key jumps to some of them.
    fn owner_of(h: u64, shards: usize) -> usize {
        const WIDE: u64 = 1 << 32;
        let jumps = |shard: usize| {
            let i = shard as u64;
            let mut r = (h ^ (i * 0x9E37_79B9 % WIDE)) * 0x85EB_CA6B % WIDE;
            r ^= r >> 13;
            r * 0xC2B2_AE35 % WIDE < WIDE / (i + 1)
        };
        (1..shards).fold(0, |owner, new| if jumps(new) { new } else { owner })
    }

    /// Mostly few, where a new one takes many keys.
    fn shards() -> impl Strategy<Value = usize> {
        prop_oneof![3 => 1..9usize, 1 => 1..600usize]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn four_bytes_hash_as_the_design_says(
            address: [u8; 4], port: Option<u16>, seed: u32, shards in shards(),
        ) {
            let four = Ipv4Addr::from(address);
            let key = hash(four.into(), port, seed);
            prop_assert_eq!(u64::from(key), hash_of(&address, port, seed));
            prop_assert_eq!(hash(four.to_ipv6_mapped().into(), port, seed), key, "mapped IPv4 is IPv4");
            prop_assert_eq!(jump(key, shards), owner_of(key.into(), shards));
        }

        #[test]
        fn sixteen_bytes_hash_as_the_design_says(
            address: [u8; 16], port: Option<u16>, seed: u32, shards in shards(),
        ) {
            let key = hash(Ipv6Addr::from(address).into(), port, seed);
            prop_assert_eq!(u64::from(key), hash_of(&address, port, seed));
            prop_assert_eq!(jump(key, shards), owner_of(key.into(), shards));
        }

        #[test]
        fn a_key_only_ever_moves_to_the_new_shard(key: u32) {
            let owners: Vec<usize> = (1..300).map(|shards| jump(key, shards)).collect();
            for (new, pair) in (1..).zip(owners.windows(2)) {
                prop_assert!(pair[1] == pair[0] || pair[1] == new, "from {} to {} when {new} came", pair[0], pair[1]);
            }
        }
    }
}
