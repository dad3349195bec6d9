//! Streams that are cut: what was said before still arrives, and none of them looks whole.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket, sockopt};
use rustix::process::Signal;

use super::kit::{
    Bench, LONG, Pattern, Proxy, Watch, eventually, meet, on_each_reactor, pause, reset, total, until_full,
};

on_each_reactor![
    what_came_before_a_reset_reaches_a_peer_that_reads_late,
    a_peer_that_never_reads_holds_a_reset_up_for_seconds_and_no_longer,
    a_reset_behind_back_pressure_is_noticed_without_an_idle_limit,
    a_stream_cut_by_the_idle_limit_does_not_look_whole,
    a_stream_cut_by_the_end_of_the_drain_does_not_look_whole,
];

/// A socket whose kernel takes little before its program reads.
fn narrow() -> rustix::fd::OwnedFd {
    let end = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&end, 4 << 10).unwrap();
    end
}

/// A proxied connection whose ends take little: the client's end and the upstream's.
fn narrow_pair(reactor: &str, flags: &[&str]) -> (Bench, TcpStream, TcpStream) {
    let listening = narrow();
    bind(&listening, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listen(&listening, 16).unwrap();
    let listener = TcpListener::from(listening);
    let proxy = Proxy::start(reactor, &[listener.local_addr().unwrap()], flags);
    let bench = Bench { proxy, listener };
    let client = narrow();
    connect(&client, &bench.proxy.at).unwrap();
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(LONG)).unwrap();
    client.set_write_timeout(Some(LONG)).unwrap();
    let upstream = meet(&bench.listener);
    (bench, client, upstream)
}

/// Reads a pattern up to a reset; answers how much there was.
///
/// # Panics
/// If the stream ends in order.
fn up_to_a_reset(stream: &mut TcpStream, seed: u64) -> u64 {
    let mut got = Pattern::new(seed);
    let end = got.read_to_end(stream).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset), "after {} bytes", got.at());
    got.at()
}

fn what_came_before_a_reset_reaches_a_peer_that_reads_late(reactor: &str) {
    const SAID: u64 = 300_000;
    for (counter, broke) in [("bytes_down", "upstream_broke"), ("bytes_up", "client_broke")] {
        let (bench, client, upstream) = narrow_pair(reactor, &[]);
        let (mut reads, mut says) =
            if counter == "bytes_down" { (client, upstream) } else { (upstream, client) };
        let mut sent = Pattern::new(1);
        (0..3).for_each(|_| sent.write(&mut says, SAID as usize / 3).unwrap());
        // All of it is with the proxy, or on its way from there.
        bench.proxy.counts(counter, SAID);
        reset(says);
        bench.proxy.counts(broke, 1);
        pause(Duration::from_millis(300));
        assert_eq!(up_to_a_reset(&mut reads, 1), SAID, "{counter}");
    }
}

fn a_peer_that_never_reads_holds_a_reset_up_for_seconds_and_no_longer(reactor: &str) {
    let (bench, _client, mut upstream) = narrow_pair(reactor, &["--cores", "1", "--connections", "1"]);
    let mut sent = Pattern::new(1);
    until_full(&mut upstream, &mut sent);
    reset(upstream);
    // The next one is served when the first one's place is free.
    let next = super::kit::client(bench.proxy.at);
    let watch = Watch::start();
    drop(meet(&bench.listener));
    assert!(watch.elapsed() < Duration::from_secs(20), "held for {:?}", watch.elapsed());
    drop(next);
    eventually("the counters", || (total(&bench.proxy.report(), "active") == 0).then_some(()));
    assert_eq!(total(&bench.proxy.stop(), "upstream_broke"), 1);
}

fn a_reset_behind_back_pressure_is_noticed_without_an_idle_limit(reactor: &str) {
    for broke in ["client_broke", "upstream_broke"] {
        let (bench, client, upstream) = narrow_pair(reactor, &["--idle-timeout", "0s"]);
        let (mut says, mut silent) =
            if broke == "client_broke" { (client, upstream) } else { (upstream, client) };
        let before = bench.proxy.process.descriptors();
        let mut sent = Pattern::new(1);
        until_full(&mut says, &mut sent);
        reset(says);
        bench.proxy.counts(broke, 1);
        eventually("both sockets to be closed", || {
            (bench.proxy.process.descriptors() + 2 <= before).then_some(())
        });
        assert!(up_to_a_reset(&mut silent, 1) < sent.at());
    }
}

fn a_stream_cut_by_the_idle_limit_does_not_look_whole(reactor: &str) {
    let (bench, mut client, mut upstream) = narrow_pair(reactor, &["--idle-timeout", "500ms"]);
    let mut sent = Pattern::new(1);
    // Until it fails, since the proxy has given up.
    while sent.write(&mut upstream, 64 << 10).is_ok() {}
    bench.proxy.counts("idle_closed", 1);
    assert!(up_to_a_reset(&mut client, 1) > 0);
}

fn a_stream_cut_by_the_end_of_the_drain_does_not_look_whole(reactor: &str) {
    let (bench, mut client, mut upstream) = narrow_pair(reactor, &["--drain-s", "3600"]);
    let mut sent = Pattern::new(1);
    until_full(&mut upstream, &mut sent);
    [Signal::TERM, Signal::TERM].into_iter().for_each(|signal| {
        bench.proxy.process.signal(signal);
        bench.proxy.process.told_of("SIGTERM");
    });
    assert_eq!(total(&bench.proxy.ended(), "cut_short"), 1);
    assert!(up_to_a_reset(&mut client, 1) < sent.at());
}
