//! How unevenly each mode spreads connections: the table of the manual and the README.
//!
//! `cargo test -p waterwheel --lib spread -- --nocapture` prints it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use waterwheel_reactor::Address;

use super::places::{Counted, Part, Parts};
use crate::steer::{Mode, hash_bytes, jump, owner};

/// Placements of which the median counts: as many as take no time.
fn runs(mode: Mode) -> u64 {
    match mode {
        Mode::Cpu => 31,
        // They hardly differ.
        Mode::Least => 3,
        _ => 101,
    }
}

/// Connections of one client, where `source` tells them apart, and with one key.
const EACH: usize = 10;
/// The modes as the table has them.
const MODES: [Mode; 6] = [Mode::Flow, Mode::Kernel, Mode::Cpu, Mode::Source, Mode::Key, Mode::Least];

/// Connections, shards, and what the busiest shard has of what an even spread would give it, in percent, in [`MODES`].
const TABLE: [(usize, usize, [u32; 6]); 9] = [
    (64, 2, [109, 109, 100, 138, 125, 100]),
    (64, 8, [150, 150, 125, 250, 250, 100]),
    (64, 64, [400, 400, 300, 1_000, 1_000, 100]),
    (1_000, 2, [102, 102, 100, 118, 106, 100]),
    (1_000, 8, [112, 112, 103, 136, 136, 100]),
    (1_000, 64, [160, 160, 134, 320, 320, 102]),
    (10_000, 2, [101, 101, 100, 103, 102, 100]),
    (10_000, 8, [104, 104, 101, 112, 112, 100]),
    (10_000, 64, [118, 119, 110, 173, 166, 100]),
];

#[test]
fn the_imbalance_is_what_the_table_says() {
    println!("the busiest shard, in % of an even share");
    let names: Vec<String> = MODES.iter().map(|mode| format!("{mode:>8}")).collect();
    println!("connections  shards{}", names.concat());
    let mut wrong = Vec::new();
    for (connections, shards, said) in TABLE {
        let found = MODES
            .map(|mode| median(runs(mode), |seed| busiest(shards, placed(mode, connections, shards, seed))));
        let columns: Vec<String> = found.iter().map(|percent| format!("{percent:8}")).collect();
        println!("{connections:11}  {shards:6}{}", columns.concat());
        if found != said {
            wrong.push((connections, shards, found));
        }
    }
    assert!(wrong.is_empty(), "the table should say: {wrong:?}");
}

/// Of each connection, in the order in which they come, its shard.
fn placed(mode: Mode, connections: usize, shards: usize, seed: u32) -> Vec<usize> {
    let mut chance = Pcg64::seed_from_u64(u64::from(seed));
    match mode {
        Mode::Flow | Mode::Source => {
            let shard = |number| owner(&Address::Inet(peer(number)), mode, seed, shards);
            (0..connections).map(|number| shard(number).expect("a mode that hashes")).collect()
        }
        Mode::Kernel => (0..connections).map(|_| by_the_kernel(&mut chance, shards)).collect(),
        Mode::Cpu => by_the_card(&mut chance, connections, shards),
        Mode::Key => {
            let key = |number: usize| hash_bytes(format!("tenant-{}", number / EACH).as_bytes(), seed);
            (0..connections).map(|number| jump(key(number), shards)).collect()
        }
        Mode::Least => fewest(&mut chance, connections, shards),
    }
}

/// [`EACH`] connections of each client, each from the next port.
fn peer(number: usize) -> SocketAddr {
    let client = Ipv4Addr::from(0x0a00_0000 + (number / EACH) as u32);
    SocketAddr::new(client.into(), 32_768 + (number % 28_000) as u16)
}

/// The kernel scales a hash of its own (`reciprocal_scale` in net/core/sock_reuseport.c): as good as chance.
fn by_the_kernel(chance: &mut Pcg64, shards: usize) -> usize {
    ((u64::from(chance.next_u32()) * shards as u64) >> 32) as usize
}

/// What a network card's queues get whose interrupts come to the shards' CPUs in turn: 128 places of its table, as most
/// drivers fill it, and a random key, as the kernel gives it (`netdev_rss_key_fill`).
fn by_the_card(chance: &mut Pcg64, connections: usize, shards: usize) -> Vec<usize> {
    const PLACES: usize = 128;
    let mut key = [0; 40];
    chance.fill_bytes(&mut key);
    let server = SocketAddr::from(([10, 255, 0, 1], 443));
    let windows = windows(&key);
    let place = |number| toeplitz(&windows, peer(number), server) as usize % PLACES;
    (0..connections).map(|number| place(number) % shards).collect()
}

/// The bits of addresses and ports of a TCP connection over IPv4.
const BITS: usize = 96;

/// The hash of receive side scaling, as Microsoft specifies it and cards compute it: the sum without carry of the key's windows
/// where a bit is set.
fn toeplitz(windows: &[u32; BITS], from: SocketAddr, to: SocketAddr) -> u32 {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { panic!("IPv4 addresses") };
    let addresses = u64::from(from.ip().to_bits()) << 32 | u64::from(to.ip().to_bits());
    let ports = u32::from(from.port()) << 16 | u32::from(to.port());
    let mut bits = u128::from(addresses) << 32 | u128::from(ports);
    let mut sum = 0;
    while bits != 0 {
        sum ^= windows[BITS - 1 - bits.trailing_zeros() as usize];
        bits &= bits - 1;
    }
    sum
}

/// 32 bits of the key from each of its bits on.
fn windows(key: &[u8; 40]) -> [u32; BITS] {
    std::array::from_fn(|bit| {
        let bytes: [u8; 8] = std::array::from_fn(|at| key[bit / 8 + at]);
        (u64::from_be_bytes(bytes) << (bit % 8) >> 32) as u32
    })
}

/// Where each goes to who has fewest, by the counters of a listener whose kernel chooses who accepts. Three times as many end
/// meanwhile, in no order, each followed by another.
fn fewest(chance: &mut Pcg64, connections: usize, shards: usize) -> Vec<usize> {
    let parts = Arc::new(Parts::new(shards, Mode::Least));
    (0..shards).for_each(|shard| parts.set(shard, Part::Open));
    let come = |chance: &mut Pcg64| {
        let shard = parts.least(by_the_kernel(chance, shards)).expect("mode least");
        (shard, Counted::new(&parts, shard).expect("mode least"))
    };
    let mut all: Vec<(usize, Counted)> = (0..connections).map(|_| come(chance)).collect();
    for _ in 0..3 * connections {
        let ends = chance.next_u64() as usize % connections;
        drop(all.swap_remove(ends));
        all.push(come(chance));
    }
    all.into_iter().map(|(shard, _)| shard).collect()
}

fn busiest(shards: usize, placed: Vec<usize>) -> u32 {
    let mut counts = vec![0; shards];
    for shard in &placed {
        counts[*shard] += 1;
    }
    let most = counts.into_iter().max().unwrap_or(0);
    (100.0 * f64::from(most) * shards as f64 / placed.len() as f64).round() as u32
}

fn median(runs: u64, run: impl Fn(u32) -> u32) -> u32 {
    let mut found: Vec<u32> = (0..runs).map(|seed| run(seed as u32)).collect();
    found.sort_unstable();
    found[found.len() / 2]
}

/// Microsoft's own vectors, "Verifying the RSS Hash Calculation".
#[test]
fn the_card_s_hash_is_the_one_that_is_specified() {
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];
    for (from, to, hash) in [
        ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
        ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
    ] {
        assert_eq!(toeplitz(&windows(&KEY), from.parse().unwrap(), to.parse().unwrap()), hash, "{from}");
    }
}
