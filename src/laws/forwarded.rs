//! SHARD-7: a proxy that is warm allocates nothing for what it forwards.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use waterwheel::proxy::tcp::{Proxy, Settings};
use waterwheel::runtime::{Config, Runtime};

use super::{IS_WATCHED, WATCHED};

const LONG: Duration = Duration::from_secs(30);
/// Rounds in which tables and buffers may grow, and rounds that are counted. An allocation in every thousandth would
/// still be seen.
const WARM_UP: usize = 300;
const COUNTED_ROUNDS: usize = 1_000;

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

#[test]
fn shard_7_a_warm_proxy_allocates_nothing_for_a_read() {
    let (tell, told) = channel();
    let upstream = format!("tcp:{}", origin());
    let running = thread::Builder::new().spawn(move || {
        let config = Config::default().cores(1).reactor("epoll");
        let runtime = Runtime::new(config).unwrap().without_signals();
        let settings =
            Settings::new(vec!["tcp:127.0.0.1:0".parse().unwrap()], vec![upstream.parse().unwrap()]);
        let proxy = Proxy::bind(&runtime, settings).unwrap();
        tell.send((proxy.local()[0].inet().unwrap(), runtime.stopper())).unwrap();
        runtime.run(move |shard| {
            IS_WATCHED.set(true);
            let proxy = proxy.clone();
            async move { proxy.serve(&shard).await }
        })
    });
    let (at, stopper) = told.recv_timeout(LONG).unwrap();
    let before = WATCHED.load(Relaxed);
    let connect = |_| {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = (0..4).map(connect).collect();
    for size in [64, 40_000] {
        let (message, mut back) = (vec![size as u8 | 1; size], vec![0; size]);
        (0..WARM_UP).for_each(|_| round(&mut streams, &message, &mut back));
        let warm = WATCHED.load(Relaxed);
        assert!(warm > before, "the shard's allocations are not counted");
        (0..COUNTED_ROUNDS).for_each(|_| round(&mut streams, &message, &mut back));
        let taken = WATCHED.load(Relaxed) - warm;
        let messages = COUNTED_ROUNDS * streams.len();
        assert_eq!(taken, 0, "{taken} allocations for {messages} messages of {size} bytes");
    }
    drop(streams);
    stopper.stop(LONG);
    running.unwrap().join().unwrap().unwrap();
}
