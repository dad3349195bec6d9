//! How unevenly each mode spreads connections: the table of the manual and the README.
//!
//! `cargo test -p waterwheel --lib spread -- --nocapture` prints it.

use std::net::{Ipv4Addr, SocketAddr};

use rand_core::{Rng, SeedableRng};
use waterwheel_reactor::Address;

use super::{Mode, owner};

/// Placements of which the median counts.
const RUNS: u64 = 101;

/// Connections, shards, and what the busiest shard has of what an even spread would give it, in percent: `flow`, `source`
/// with ten connections from each client, `kernel`, `least`.
const TABLE: [(usize, usize, [u32; 4]); 9] = [
    (64, 2, [109, 138, 109, 100]),
    (64, 8, [150, 250, 150, 100]),
    (64, 64, [400, 1_000, 400, 100]),
    (1_000, 2, [102, 118, 102, 100]),
    (1_000, 8, [112, 136, 112, 100]),
    (1_000, 64, [160, 320, 160, 102]),
    (10_000, 2, [101, 103, 101, 100]),
    (10_000, 8, [104, 112, 104, 100]),
    (10_000, 64, [118, 173, 119, 100]),
];

/// From how many clients the connections come where `source` tells them apart.
const PER_CLIENT: usize = 10;

#[test]
fn the_imbalance_is_what_the_table_says() {
    println!("connections  shards  flow  source  kernel  least   (busiest shard, % of an even share)");
    let mut wrong = Vec::new();
    for (connections, shards, said) in TABLE {
        let found = [
            median(|seed| busiest(shards, hashed(Mode::Flow, connections, shards, seed))),
            median(|seed| busiest(shards, hashed(Mode::Source, connections, shards, seed))),
            median(|seed| busiest(shards, by_the_kernel(connections, shards, seed))),
            median(|_| busiest(shards, fewest(connections, shards))),
        ];
        let [flow, source, kernel, least] = found;
        println!("{connections:11}  {shards:6}  {flow:4}  {source:6}  {kernel:6}  {least:5}");
        if found != said {
            wrong.push((connections, shards, found));
        }
    }
    assert!(wrong.is_empty(), "the table should say: {wrong:?}");
}

/// One client per [`PER_CLIENT`] connections, each from the next port.
fn hashed(mode: Mode, connections: usize, shards: usize, seed: u32) -> Vec<usize> {
    let place = |number: usize| {
        let client = Ipv4Addr::from(0x0a00_0000 + (number / PER_CLIENT) as u32);
        let peer = SocketAddr::new(client.into(), 32_768 + (number % 28_000) as u16);
        owner(&Address::Inet(peer), mode, seed, shards).expect("a mode that hashes")
    };
    (0..connections).map(place).collect()
}

/// The kernel scales a hash of its own (`reciprocal_scale` in net/core/sock_reuseport.c): as good as chance.
fn by_the_kernel(connections: usize, shards: usize, seed: u32) -> Vec<usize> {
    let mut chance = rand_pcg::Pcg64::seed_from_u64(u64::from(seed));
    (0..connections).map(|_| ((u64::from(chance.next_u32()) * shards as u64) >> 32) as usize).collect()
}

/// Where each goes to who has fewest, and none ends meanwhile.
fn fewest(connections: usize, shards: usize) -> Vec<usize> {
    (0..connections).map(|number| number % shards).collect()
}

fn busiest(shards: usize, placed: Vec<usize>) -> u32 {
    let mut counts = vec![0; shards];
    for shard in &placed {
        counts[*shard] += 1;
    }
    let most = counts.into_iter().max().unwrap_or(0);
    (100.0 * f64::from(most) * shards as f64 / placed.len() as f64).round() as u32
}

fn median(run: impl Fn(u32) -> u32) -> u32 {
    let mut found: Vec<u32> = (0..RUNS).map(|seed| run(seed as u32)).collect();
    found.sort_unstable();
    found[found.len() / 2]
}
