//! What each client of the proxy may have, on real sockets: connections at once, new ones in a time, whoever it is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use serde_json::Value;

use super::kit::{Origin, Proxy, end_of, eventually, on_each_reactor, total};
use super::reloaded::{Site, origin};
use super::steering::try_client_from;

on_each_reactor![
    a_client_has_no_more_than_its_connections_whatever_the_shard,
    what_a_client_gave_up_it_may_have_again,
    a_client_is_who_a_believed_header_says,
    a_client_makes_no_more_than_its_rate,
    a_reload_changes_what_a_client_may_have,
];

/// Whether a connection is served: sends a byte and waits for it, or for the reset, which may be there before the connect
/// has returned.
fn served(host: u8, at: SocketAddr, first: &[u8]) -> Option<TcpStream> {
    let mut stream = try_client_from(host, at).ok()?;
    let asked = stream.write_all(&[first, b"?"].concat());
    let answered = asked.and_then(|()| stream.read_exact(&mut [0]));
    answered.is_ok().then_some(stream)
}

fn serves(host: u8, at: SocketAddr) -> Option<TcpStream> {
    served(host, at, b"")
}

/// How many of so many connections, all held, are served.
fn held(host: u8, at: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).filter_map(|_| serves(host, at)).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn a_client_has_no_more_than_its_connections_whatever_the_shard(reactor: &str) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    for steer in ["flow", "source", "kernel", "least"] {
        let origin = Origin::echo();
        let mut command = Proxy::command(reactor, &[origin.at]);
        command.args(["--listen", "tcp:127.0.0.1:0", "--cores", "3", "--steer", steer]);
        command.args(["--access-log-format", "json", "--access-log"]).arg(&log);
        let proxy = Proxy::spawn(command.args(["--client-connections", "4"]));
        let other: SocketAddr = proxy.process.told("waterwheel: listening on tcp:").parse().unwrap();
        let (one, two) = (held(1, proxy.at, 3), held(1, other, 3));
        assert_eq!(one.len() + two.len(), 4, "{steer}, over both listeners");
        assert_eq!(held(1, proxy.at, 5).len(), 0, "{steer}");
        assert_eq!(held(2, proxy.at, 6).len(), 4, "another client has its own");
        drop((one, two));
        let report = proxy.stop();
        assert_eq!((total(&report, "accepted"), total(&report, "too_many")), (17, 9), "{steer}: {report}");
    }
    let lines = lines(&log);
    assert_eq!(lines.iter().filter(|line| line["end"] == "too_many").count(), 36, "{lines:?}");
}

fn what_a_client_gave_up_it_may_have_again(reactor: &str) {
    let origin = Origin::echo();
    let proxy = Proxy::start(reactor, &[origin.at], &["--cores", "3", "--client-connections", "2"]);
    let mut open = held(1, proxy.at, 3);
    for round in 0..30 {
        assert_eq!(open.len(), 2, "round {round}");
        assert!(serves(1, proxy.at).is_none(), "round {round}: one too many");
        drop(open.remove(0));
        // That it has ended its client knows before the proxy does.
        open.push(eventually("a place", || serves(1, proxy.at)));
    }
    drop(open);
    proxy.counts("active", 0);
    assert_eq!(eventually("all of it", || Some(held(1, proxy.at, 2)).filter(|all| all.len() == 2)).len(), 2);
    proxy.stop();
}

fn a_client_is_who_a_believed_header_says(reactor: &str) {
    let origin = Origin::echo();
    let header = ["--proxy-protocol", "require", "--proxy-trusted", "127.0.0.0/8"];
    let start = |flags: &[&str]| {
        let flags = [&header[..], &["--cores", "2", "--client-connections", "1"], flags].concat();
        Proxy::start(reactor, &[origin.at], &flags)
    };
    let from = |proxy: &Proxy, client: &str| {
        let family = if client.contains(':') { "TCP6" } else { "TCP4" };
        let line = format!("PROXY {family} {client} {client} 1 2\r\n");
        served(1, proxy.at, line.as_bytes())
    };
    // All come from one address, and each is a client of its own; an IPv6 network is one.
    let proxy = start(&[]);
    let four = from(&proxy, "192.0.2.1").expect("the first");
    assert!(from(&proxy, "192.0.2.1").is_none(), "the same");
    let (_next, _six) =
        (from(&proxy, "192.0.2.2").expect("another"), from(&proxy, "2001:db8::1").expect("a third"));
    assert!(from(&proxy, "2001:db8::2").is_none(), "the same network");
    let _other = from(&proxy, "2001:db8:0:1::1").expect("another network");
    assert!(from(&proxy, "::ffff:192.0.2.1").is_none(), "IPv4 as IPv6");
    drop(four);
    proxy.counts("too_many", 3);
    drop(eventually("a place", || from(&proxy, "192.0.2.1")));
    let proxy = start(&["--client-ipv4-prefix", "24", "--client-ipv6-prefix", "128"]);
    let _four = from(&proxy, "192.0.2.1").expect("the first");
    assert!(from(&proxy, "192.0.2.2").is_none(), "the same network");
    let _six = (from(&proxy, "2001:db8::1").expect("one"), from(&proxy, "2001:db8::2").expect("and another"));
}

fn a_client_makes_no_more_than_its_rate(reactor: &str) {
    let origin = Origin::echo();
    // So seldom that none comes to the burst while this runs.
    let flags = ["--cores", "3", "--client-rate", "1/h", "--client-burst", "5"];
    let proxy = Proxy::start(reactor, &[origin.at], &flags);
    for host in [1, 2] {
        let through = (0..20).filter(|_| serves(host, proxy.at).is_some()).count();
        assert_eq!(through, 5, "{host}");
    }
    let report = proxy.stop();
    assert_eq!((total(&report, "too_often"), total(&report, "too_many")), (30, 0), "{report}");
    // And one that comes again soon.
    let proxy =
        Proxy::start(reactor, &[origin.at], &["--cores", "2", "--client-rate", "10", "--client-burst", "1"]);
    drop(serves(1, proxy.at).expect("the first"));
    drop(eventually("a tenth of a second", || serves(1, proxy.at)));
    proxy.stop();
}

fn a_reload_changes_what_a_client_may_have(reactor: &str) {
    let origin = origin(7);
    let listen = super::reloaded::free();
    let text = |name: &str, more: &str| {
        format!("[proxy.{name}]\nlisten = {listen:?}\nupstream = \"tcp:{}\"\n{more}\n", origin.at)
    };
    let site = Site::start(reactor, &text("web", "client-connections = 3"));
    let at = site.proxy.at;
    let open = held(1, at, 5);
    assert_eq!(open.len(), 3);
    site.reload(&text("web", "client-connections = 5"), "version 1 of");
    let more = held(1, at, 5);
    assert_eq!(more.len(), 2, "those of before count");
    // Under another name it is the same proxy, since the listener is.
    site.reload(&text("shop", "client-connections = 5"), "version 2 of");
    assert!(serves(1, at).is_none());
    site.reload(&text("shop", "client-connections = 1"), "version 3 of");
    drop(more);
    for mut stream in open {
        stream.write_all(b"?").unwrap();
        stream.read_exact(&mut [0]).expect("those of before stay");
        assert!(serves(1, at).is_none(), "as long as it has more than it may");
        drop(stream);
    }
    drop(eventually("a place", || serves(1, at)));
    site.reload(&text("shop", ""), "version 4 of");
    assert_eq!(held(1, at, 8).len(), 8);
    let mut last = serves(1, at).expect("no limit");
    last.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut last), Ok(0));
    site.proxy.stop();
}
