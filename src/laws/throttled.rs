//! Connections of the proxy whose bytes per second are limited, on real sockets: no faster, not much slower, and whole.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::kit::{Bench, Pattern, Watch, end_of, on_each_reactor, spawn, total};

on_each_reactor![
    a_direction_is_as_fast_as_it_may_be_and_the_other_is_free,
    what_is_throttled_arrives_whole_in_both_directions_and_ends,
    a_peer_that_resets_a_throttled_connection_is_noticed,
];

const RATE: usize = 1 << 20;
const BURST: usize = 64 << 10;

/// How long so many bytes take at least.
fn least(bytes: usize) -> Duration {
    Duration::from_secs_f64((bytes - BURST) as f64 / RATE as f64)
}

fn a_direction_is_as_fast_as_it_may_be_and_the_other_is_free(reactor: &str) {
    const BYTES: usize = 1_500_000;
    let bench = Bench::start(reactor, &["--throttle-up", "1m", "--throttle-burst", "64k"]);
    for up in [true, false] {
        let (client, upstream) = bench.pair();
        let (mut from, mut to) = if up { (client, upstream) } else { (upstream, client) };
        let watch = Watch::start();
        let sends = spawn(move || {
            let mut sent = Pattern::new(3);
            while sent.at() < BYTES as u64 {
                let count = (BYTES - sent.at() as usize).min(64 << 10);
                sent.write(&mut from, count).unwrap();
            }
            from.shutdown(Shutdown::Write).unwrap();
            from
        });
        assert_eq!(Pattern::new(3).read_to_end(&mut to).unwrap(), BYTES as u64);
        let took = watch.elapsed();
        drop(sends.join().unwrap());
        // A busy machine is slower; a limit that does not hold is ten times faster.
        assert!(!up || took >= least(BYTES).mul_f64(0.95), "{BYTES} bytes took {took:?}");
        assert!(took < if up { least(BYTES) * 4 } else { least(BYTES) * 3 }, "{BYTES} bytes took {took:?}");
    }
    bench.proxy.counts("finished", 2);
}

fn what_is_throttled_arrives_whole_in_both_directions_and_ends(reactor: &str) {
    const BYTES: usize = 700_000;
    let flags =
        ["--throttle-up", "1m", "--throttle-down", "1m", "--throttle-burst", "64k", "--idle-timeout", "5s"];
    let bench = Bench::start(reactor, &flags);
    let (client, upstream) = bench.pair();
    let watch = Watch::start();
    let ends = [(client, 1, 2), (upstream, 2, 1)].map(|(mut stream, own, others)| {
        spawn(move || {
            let mut reads = stream.try_clone().unwrap();
            let reading = spawn(move || Pattern::new(others).read_to_end(&mut reads).unwrap());
            let mut sent = Pattern::new(own);
            // In pieces that have nothing to do with anything.
            while sent.at() < BYTES as u64 {
                let count = (BYTES - sent.at() as usize).min(7_919);
                sent.write(&mut stream, count).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
            reading.join().unwrap()
        })
    });
    for end in ends {
        assert_eq!(end.join().unwrap(), BYTES as u64);
    }
    assert!(watch.elapsed() >= least(BYTES).mul_f64(0.95), "{:?}", watch.elapsed());
    bench.proxy.counts("finished", 1);
    let report = bench.proxy.stop();
    let moved = (total(&report, "bytes_up"), total(&report, "bytes_down"));
    assert_eq!(moved, (BYTES as u64, BYTES as u64), "{report}");
}

fn a_peer_that_resets_a_throttled_connection_is_noticed(reactor: &str) {
    // So slow that most of it waits in the proxy's sockets.
    let bench = Bench::start(reactor, &["--throttle-up", "100", "--throttle-burst", "100"]);
    let (mut client, mut upstream) = bench.pair();
    client.write_all(&[7; 10_000]).unwrap();
    upstream.read_exact(&mut [0; 100]).unwrap();
    super::kit::reset(upstream);
    assert!(end_of(&mut client).is_err(), "a cut stream looks whole");
    bench.proxy.counts("active", 0);
    assert_eq!(total(&bench.proxy.stop(), "finished"), 0);
}
