//! The program and the function place alike.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use waterwheel_reactor::Address;
use waterwheel_reactor::program::{INSTRUCTIONS_MAX, Packet};

use super::*;
use crate::steer::owner;

/// A packet of TCP from there over IPv4, with so many words of options.
fn four(from: [u8; 4], port: u16, options: u8) -> Vec<u8> {
    let mut packet = vec![0; 20 + 4 * usize::from(options)];
    packet[0] = 4 << 4 | (5 + options);
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from);
    packet.extend(port.to_be_bytes());
    packet.extend([0; 18]);
    packet
}

/// The same over IPv6, behind these extension headers: each a number and its length beyond 8 bytes in units of them.
fn six(from: [u8; 16], port: u16, extensions: &[(u8, u8)], protocol: u8) -> Vec<u8> {
    let next = |place: usize| extensions.get(place).map_or(protocol, |(number, _)| *number);
    let mut packet = vec![0; 40];
    packet[0] = 6 << 4;
    packet[6] = next(0);
    packet[8..24].copy_from_slice(&from);
    for (place, (_, length)) in extensions.iter().enumerate() {
        let from = packet.len();
        packet.resize(from + 8 + 8 * usize::from(*length), 0xee);
        packet[from..from + 2].copy_from_slice(&[next(place + 1), *length]);
    }
    packet.extend(port.to_be_bytes());
    packet.extend([0; 18]);
    packet
}

fn answer(mode: Mode, seed: u32, shards: usize, bytes: &[u8]) -> Option<u32> {
    program(mode, seed, shards, &[]).unwrap().run(Packet { bytes, cpu: 0 })
}

fn hashed() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Flow), Just(Mode::Source)]
}

/// Mostly few, and up to the most that a program is written for.
fn shards() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 2..9usize, 1 => 2..400usize]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shard_4_ipv4_is_placed_by_the_kernel_as_here(
        mode in hashed(), from: [u8; 4], port: u16, options in 0..11u8, seed: u32, shards in shards(),
    ) {
        let peer = Address::Inet(SocketAddr::new(IpAddr::from(from), port));
        let owner = owner(&peer, mode, seed, shards).unwrap();
        prop_assert_eq!(answer(mode, seed, shards, &four(from, port, options)), Some(owner as u32));
        // What a dual-stack socket of ours sees of it.
        let mapped = SocketAddr::new(std::net::Ipv4Addr::from(from).to_ipv6_mapped().into(), port);
        let mapped = crate::steer::owner(&Address::Inet(mapped), mode, seed, shards);
        prop_assert_eq!(mapped, Some(owner));
    }

    #[test]
    fn shard_4_ipv6_is_placed_by_the_kernel_as_here(
        mode in hashed(), from: [u8; 16], port: u16, seed: u32, shards in shards(),
        extensions in vec((prop_oneof![Just(0u8), Just(60), Just(43)], 0..4u8), 0..=EXTENSIONS),
        protocol in prop_oneof![Just(6u8), Just(17)],
    ) {
        let address = Ipv6Addr::from(from);
        // Nothing on the wire has such an address: it would be IPv4.
        prop_assume!(address.to_ipv4_mapped().is_none());
        let peer = Address::Inet(SocketAddr::new(address.into(), port));
        let owner = owner(&peer, mode, seed, shards).unwrap();
        let packet = six(from, port, &extensions, protocol);
        prop_assert_eq!(answer(mode, seed, shards, &packet), Some(owner as u32));
    }

    #[test]
    fn no_packet_makes_a_program_answer_what_is_no_shard_and_no_choice_of_the_kernels(
        mode in hashed(), bytes in vec(any::<u8>(), 0..120), shards in shards(),
    ) {
        let answer = answer(mode, 7, shards, &bytes).unwrap();
        prop_assert!(answer == KERNELS_CHOICE || (answer as usize) < shards, "{}", answer);
    }
}

#[test]
fn what_the_program_does_not_understand_is_left_to_the_kernel() {
    let from = Ipv6Addr::LOCALHOST.octets();
    let long = [(0, 0), (60, 0), (43, 0), (60, 0)];
    assert_eq!(answer(Mode::Flow, 1, 8, &six(from, 9, &long, 6)), Some(KERNELS_CHOICE), "four headers");
    let fragment = [(44, 0)];
    assert_eq!(answer(Mode::Flow, 1, 8, &six(from, 9, &fragment, 6)), Some(KERNELS_CHOICE), "a fragment");
    assert_eq!(answer(Mode::Flow, 1, 8, &[0x50; 60]), Some(KERNELS_CHOICE), "IP version 5");
    // The address alone needs no walk.
    let by_address =
        owner(&Address::Inet(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 9)), Mode::Source, 1, 8);
    assert_eq!(answer(Mode::Source, 1, 8, &six(from, 9, &long, 6)).map(|shard| shard as usize), by_address);
}

#[test]
fn a_cpu_of_a_shard_is_its_own_and_other_cpus_are_hashed() {
    let packet = four([10, 1, 2, 3], 77, 0);
    let by_cpu = program(Mode::Cpu, 5, 3, &[Some(4), None, Some(2)]).unwrap();
    let on = |cpu| by_cpu.run(Packet { bytes: &packet, cpu });
    assert_eq!((on(4), on(2)), (Some(0), Some(2)));
    let hashed = answer(Mode::Flow, 5, 3, &packet);
    assert_eq!((on(0), on(1)), (hashed, hashed));
}

#[test]
fn a_program_is_as_short_as_the_kernel_asks_or_there_is_none() {
    for mode in [Mode::Flow, Mode::Source] {
        let longest = (2..600).rev().find(|shards| program(mode, 0, *shards, &[]).is_some()).unwrap();
        assert!((435..450).contains(&longest), "{mode}: up to {longest} shards");
        let length = program(mode, 0, longest, &[]).unwrap().instructions().len();
        assert!(length <= INSTRUCTIONS_MAX && length + 10 > INSTRUCTIONS_MAX, "{length}");
        // 20 480 bytes are what an old kernel lets a socket take: 8 for each instruction, and some for the program itself.
        let old = program(mode, 0, 227, &[]).unwrap().instructions().len();
        assert!(old * 8 <= 20_480, "{old}");
    }
    for mode in [Mode::Kernel, Mode::Least, Mode::Key] {
        assert_eq!(program(mode, 0, 8, &[]), None, "{mode}");
    }
    assert_eq!(program(Mode::Flow, 0, 1, &[]), None, "one shard");
}
