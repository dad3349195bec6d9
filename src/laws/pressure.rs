//! Peers that are slower than others, or do not read at all: bounded memory, no deadlock, every byte.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::kit::{
    Bench, Origin, Pattern, Process, Random, client, on_each_reactor, pause, spawn, total, until_full,
};

on_each_reactor![
    a_peer_that_reads_late_costs_no_memory,
    both_sides_blocked_and_released_lose_nothing,
    random_pieces_arrive_in_order_on_many_connections,
];

/// What the proxy may hold beyond what it held when it was idle: buffers of its pools, none of what is waiting.
const GROWTH_MAX: u64 = 12 << 20;

#[track_caller]
fn bounded(proxy: &Process, before: u64) {
    let now = proxy.anonymous_bytes();
    assert!(now < before + GROWTH_MAX, "grew from {before} to {now} bytes");
}

fn a_peer_that_reads_late_costs_no_memory(reactor: &str) {
    const TOTAL: u64 = 128 << 20;
    let bench = Bench::start(reactor, &[]);
    // The upstream writes and the client reads, then the other way round.
    for turn in 0..2_u64 {
        let before = bench.proxy.process.anonymous_bytes();
        let (client, upstream) = bench.pair();
        let (mut reads, mut writes) = if turn == 0 { (client, upstream) } else { (upstream, client) };
        let mut sent = Pattern::new(turn);
        until_full(&mut writes, &mut sent);
        bounded(&bench.proxy.process, before);
        let mut got = Pattern::new(turn);
        let writer = spawn(move || {
            while sent.at() < TOTAL {
                let count = (TOTAL - sent.at()).min(128 << 10) as usize;
                sent.write(&mut writes, count).unwrap();
            }
            writes
        });
        while got.at() < TOTAL {
            let stop = (got.at() + (32 << 20)).min(TOTAL);
            while got.at() < stop {
                assert!(got.read(&mut reads, 128 << 10).unwrap() > 0, "ended early");
            }
            // Long enough that everything behind is full again.
            pause(Duration::from_millis(50));
            bounded(&bench.proxy.process, before);
        }
        writer.join().unwrap().shutdown(Shutdown::Write).unwrap();
        assert_eq!(got.read_to_end(&mut reads).unwrap(), TOTAL);
    }
    let report = bench.proxy.stop();
    assert_eq!((total(&report, "bytes_up"), total(&report, "bytes_down")), (TOTAL, TOTAL));
}

fn both_sides_blocked_and_released_lose_nothing(reactor: &str) {
    let bench = Bench::start(reactor, &[]);
    let before = bench.proxy.process.anonymous_bytes();
    let mut ends = Vec::new();
    for number in 0..6_u64 {
        let (client, upstream) = bench.pair();
        for (seed, mut stream) in [(2 * number, client), (2 * number + 1, upstream)] {
            let mut sent = Pattern::new(seed);
            until_full(&mut stream, &mut sent);
            ends.push((stream, sent));
        }
    }
    bounded(&bench.proxy.process, before);
    // All of them write on while they read, a little at a time, so that each side depends on the other.
    let expected: Vec<u64> = (0..12).map(|end| end ^ 1).collect();
    let running: Vec<_> = ends
        .into_iter()
        .zip(expected)
        .map(|((stream, sent), seed)| {
            spawn(move || {
                let (mut reading, mut writing) = (stream.try_clone().unwrap(), stream);
                let mut sent = sent;
                let writer = spawn(move || {
                    for _ in 0..64 {
                        sent.write(&mut writing, 10_000).unwrap();
                    }
                    writing.shutdown(Shutdown::Write).unwrap();
                    sent.at()
                });
                let got = Pattern::new(seed).read_to_end(&mut reading).unwrap();
                (writer.join().unwrap(), got)
            })
        })
        .collect();
    let moved: Vec<(u64, u64)> = running.into_iter().map(|end| end.join().unwrap()).collect();
    for pair in moved.chunks(2) {
        assert_eq!((pair[0].0, pair[1].0), (pair[1].1, pair[0].1));
    }
    bounded(&bench.proxy.process, before);
    assert_eq!(total(&bench.proxy.stop(), "finished"), 6);
}

fn random_pieces_arrive_in_order_on_many_connections(reactor: &str) {
    const EACH: u64 = 3 << 20;
    const CONNECTIONS: u64 = 24;
    // The origin learns the seed of a connection from its first byte.
    let origin = Origin::start(|mut stream| {
        let mut seed = [0];
        std::io::Read::read_exact(&mut stream, &mut seed).unwrap();
        both_ways(stream, u64::from(seed[0]) + 1000, u64::from(seed[0]), EACH);
    });
    let proxy = super::kit::Proxy::start(reactor, &[origin.at], &[]);
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|seed| {
            let at = proxy.at;
            spawn(move || {
                let mut stream = client(at);
                std::io::Write::write_all(&mut stream, &[seed as u8]).unwrap();
                both_ways(stream, seed, seed + 1000, EACH);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    proxy.counts("active", 0);
    let report = proxy.stop();
    assert_eq!(total(&report, "finished"), CONNECTIONS, "{report}");
    assert_eq!(total(&report, "bytes_up"), CONNECTIONS * (EACH + 1), "{report}");
    assert_eq!(total(&report, "bytes_down"), CONNECTIONS * EACH, "{report}");
}

/// Writes one pattern and reads another, both in pieces of random sizes, small ones most often.
fn both_ways(stream: TcpStream, mine: u64, theirs: u64, each: u64) {
    let (mut reading, mut writing) = (stream.try_clone().unwrap(), stream);
    let writer = spawn(move || {
        let (mut sent, mut random) = (Pattern::new(mine), Random::new(mine));
        while sent.at() < each {
            let most = [100, 5_000, 128 << 10][random.up_to(3) - 1];
            let count = random.up_to(most).min((each - sent.at()) as usize);
            sent.write(&mut writing, count).unwrap();
        }
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let (mut got, mut random) = (Pattern::new(theirs), Random::new(theirs));
    while got.read(&mut reading, random.up_to(128 << 10)).unwrap() > 0 {}
    assert_eq!(got.at(), each);
    writer.join().unwrap();
}
