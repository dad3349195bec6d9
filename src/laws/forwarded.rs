//! SHARD-7: a proxy that is warm allocates nothing for what it forwards, and its shards touch nothing of each other's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use waterwheel::mesh::{MeshStats, Remote};
use waterwheel::proxy::tcp::{Proxy, Settings};
use waterwheel::shard::{Shard, ShardId};

use super::{IS_WATCHED, WATCHED};

const LONG: Duration = Duration::from_secs(30);
/// Rounds in which tables and buffers may grow, and rounds that are counted. An allocation in every thousandth would
/// still be seen.
const WARM_UP: usize = 150;
const COUNTED_ROUNDS: usize = 500;
/// At least so many clients, and at most: until one is handed over, which may take some more.
const CLIENTS: usize = 8;
const CLIENTS_MOST: usize = 64;

/// Echoes each connection on a thread of its own.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let serve = move || {
        for stream in listener.incoming() {
            let mut to = stream.unwrap();
            to.set_nodelay(true).unwrap();
            let mut from = to.try_clone().unwrap();
            // A client that ends is as it should be.
            let echo = move || drop(std::io::copy(&mut from, &mut to));
            thread::Builder::new().spawn(echo).unwrap();
        }
    };
    // It ends with the program.
    thread::Builder::new().spawn(serve).unwrap();
    at
}

/// Sends a message over each connection in turn and waits for it to come back.
fn round(streams: &mut [TcpStream], message: &[u8], back: &mut [u8]) {
    for stream in streams {
        stream.write_all(message).unwrap();
        stream.read_exact(back).unwrap();
        assert!(back == message, "other bytes came back");
    }
}

/// What each shard has counted so far.
fn counted(remote: &Remote) -> Vec<MeshStats> {
    let ask = |shard| {
        let (tell, told) = channel();
        let job = move |shard: &Shard| tell.send(shard.mesh_stats()).unwrap();
        remote.try_run(ShardId::new(shard), job).unwrap_or_else(|_| panic!("shard {shard} takes no job"));
        told.recv_timeout(LONG).unwrap()
    };
    (0..remote.shards()).map(ask).collect()
}

/// Rings of bells, and what went through lanes: all that one shard ever writes where another one reads. Sleeping and
/// being woken by the kernel is each shard's own.
fn crossed(stats: &[MeshStats]) -> Vec<(u64, u64)> {
    let sent = |stats: &MeshStats| stats.ports.iter().map(|port| port.sent).sum();
    stats.iter().map(|stats| (stats.rings, sent(stats))).collect()
}

#[test]
fn shard_7_a_warm_proxy_allocates_nothing_for_a_read_and_crosses_to_no_other_shard() {
    let (tell, told) = channel();
    let upstream = format!("tcp:{}", origin());
    let running = thread::Builder::new().spawn(move || {
        let runtime = super::runtime();
        let settings =
            Settings::new(vec!["tcp:127.0.0.1:0".parse().unwrap()], vec![upstream.parse().unwrap()]);
        let proxy = Proxy::bind(&runtime, settings).unwrap();
        let at = proxy.local()[0].inet().unwrap();
        tell.send((at, runtime.stopper(), runtime.remote())).unwrap();
        runtime.run(move |shard| {
            IS_WATCHED.set(true);
            let proxy = proxy.clone();
            async move { proxy.serve(&shard).await }
        })
    });
    let (at, stopper, remote) = told.recv_timeout(LONG).unwrap();
    let before = WATCHED.load(Relaxed);
    let connect = || {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let mut streams = Vec::new();
    // Without one that was handed over, nothing could be counted that should not be.
    while streams.len() < CLIENTS || crossed(&counted(&remote)).iter().all(|(_, sent)| *sent == 0) {
        assert!(streams.len() < CLIENTS_MOST, "no connection is handed over");
        streams.push(connect());
        round(&mut streams, b"?", &mut [0]);
    }
    for size in [64, 40_000] {
        let (message, mut back) = (vec![size as u8 | 1; size], vec![0; size]);
        (0..WARM_UP).for_each(|_| round(&mut streams, &message, &mut back));
        let crossed_before = crossed(&counted(&remote));
        let warm = WATCHED.load(Relaxed);
        assert!(warm > before, "the shards' allocations are not counted");
        (0..COUNTED_ROUNDS).for_each(|_| round(&mut streams, &message, &mut back));
        let taken = WATCHED.load(Relaxed) - warm;
        let messages = COUNTED_ROUNDS * streams.len();
        assert_eq!(taken, 0, "{taken} allocations for {messages} messages of {size} bytes");
        let crossed_after = crossed(&counted(&remote));
        assert_eq!(crossed_after, crossed_before, "(rings, sent) by shard, for {messages} messages");
    }
    drop(streams);
    stopper.stop(LONG);
    running.unwrap().join().unwrap().unwrap();
}
