//! Upstreams that die, answer nonsense, reset or are full, and what the proxy makes of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;
use waterwheel::net::proxy_header::{ProxyHeader, Subject, Version};

use super::kit::{
    LONG, Origin, Proxy, Watch, client, dead_port, end_of, eventually, meet, on_each_reactor, reset, total,
    waits,
};

const RESET: Result<usize, ErrorKind> = Err(ErrorKind::ConnectionReset);
/// Quick checks, which a busy machine does not fail.
const CHECKS: [&str; 6] =
    ["--check-interval", "50ms", "--check-fast-interval", "20ms", "--check-timeout", "10s"];

on_each_reactor![
    what_dies_is_found_and_left_alone_until_it_is_back,
    what_answers_nonsense_is_down_and_a_check_is_no_client,
    a_check_says_first_that_it_is_for_no_client,
    what_resets_early_is_ejected_and_tried_again_later,
    connections_beyond_an_upstreams_limit_wait_in_line,
    a_limit_of_one_is_shared_by_all_shards,
    who_waits_too_long_or_too_many_are_reset,
    retries_end_with_their_budget,
    a_client_goes_to_the_same_upstream_whatever_its_shard,
    weights_are_respected_and_zero_drains,
    two_choices_spread_over_all,
];

/// Sends something to an echo and checks that it comes back.
fn exchange(stream: &mut (impl Read + Write)) {
    stream.write_all(b"there and back").unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"there and back");
}

fn clients(proxy: &Proxy, count: usize) {
    (0..count).for_each(|_| exchange(&mut client(proxy.at)));
}

/// A counter of the upstream at `place`, over all shards.
fn of(report: &Value, place: usize, counter: &str) -> u64 {
    let shards = report["shards"].as_array().unwrap();
    shards.iter().map(|shard| shard["upstreams"][place][counter].as_u64().unwrap()).sum()
}

/// Waits until every shard believes this of the upstream at `place`.
fn believed(proxy: &Proxy, place: usize, state: &str) {
    eventually(&format!("upstream {place} to be {state}"), || {
        let report = proxy.report();
        let mut shards = report["shards"].as_array().unwrap().iter();
        shards.all(|shard| shard["upstreams"][place]["state"] == state).then_some(())
    });
}

fn what_dies_is_found_and_left_alone_until_it_is_back(reactor: &str) {
    let (mortal, other) = (Origin::echo(), Origin::echo());
    let at = mortal.at;
    let proxy = Proxy::start(reactor, &[at, other.at], &CHECKS);
    clients(&proxy, 8);
    let before = proxy.report();
    assert!(of(&before, 0, "connected") > 0 && of(&before, 0, "checks_failed") == 0, "{before}");
    drop(mortal);
    believed(&proxy, 0, "down");
    let known = proxy.report();
    clients(&proxy, 20);
    let after = proxy.report();
    assert_eq!(of(&after, 0, "failed"), of(&known, 0, "failed"), "{after}");
    assert_eq!(of(&after, 1, "connected"), of(&known, 1, "connected") + 20, "{after}");
    // One shard checks, and not both of them.
    let checkers = after["shards"].as_array().unwrap().iter();
    let checkers = checkers.filter(|shard| shard["upstreams"][0]["checks_failed"] != 0);
    assert_eq!(checkers.count(), 1, "{after}");
    let _mortal = Origin::echo_at(at);
    believed(&proxy, 0, "up");
    clients(&proxy, 20);
    let back = proxy.stop();
    assert!(of(&back, 0, "connected") >= of(&after, 0, "connected") + 5, "{back}");
    assert_eq!((total(&back, "finished"), total(&back, "no_upstream")), (48, 0), "{back}");
}

fn what_answers_nonsense_is_down_and_a_check_is_no_client(reactor: &str) {
    // It says what it is asked for in two pieces, behind something else.
    let right = Origin::start(|mut stream| {
        let mut asked = [0; 6];
        if stream.read_exact(&mut asked).is_ok() && asked == *b"PING\r\n" {
            stream.write_all(b"hello +PO").unwrap();
            super::kit::moment();
            // A check that has given up is no failure of this side's.
            let _ = stream.write_all(b"NG\r\n");
        } else {
            let _ = stream.write_all(&asked);
        }
    });
    let wrong = Origin::echo();
    let flags = [&CHECKS[..4], &["--check-send", "PING\\r\\n", "--check-expect", "+PONG"]].concat();
    let flags = [&flags[..], &["--check-timeout", "1s"]].concat();
    let proxy = Proxy::start(reactor, &[right.at, wrong.at], &flags);
    believed(&proxy, 1, "down");
    for _ in 0..10 {
        let mut stream = client(proxy.at);
        stream.write_all(b"abcdef").unwrap();
        let mut back = [0; 6];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"abcdef");
    }
    let report = proxy.stop();
    assert_eq!(total(&report, "accepted"), 10, "{report}");
    assert!(of(&report, 0, "checks_passed") > 0 && of(&report, 1, "checks_passed") == 0, "{report}");
    assert_eq!(of(&report, 0, "connected"), 10, "{report}");
}

fn a_check_says_first_that_it_is_for_no_client(reactor: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let flags = [&CHECKS[..], &["--send-proxy", "v2", "--check-send", "hi", "--check-expect", "ho"]].concat();
    let proxy = Proxy::start(reactor, &[listener.local_addr().unwrap()], &flags);
    let local = ProxyHeader::new(Version::Two, Subject::Own).encode().unwrap();
    let mut check = meet(&listener);
    let mut said = vec![0; local.len() + 2];
    check.read_exact(&mut said).unwrap();
    assert_eq!(said, [&local[..], b"hi"].concat());
    assert_eq!(total(&proxy.stop(), "accepted"), 0);
}

fn what_resets_early_is_ejected_and_tried_again_later(reactor: &str) {
    let (rude, other) = (Origin::start(reset), Origin::echo());
    let flags = ["--cores", "1", "--eject-after", "2", "--eject-time", "2s"];
    let proxy = Proxy::start(reactor, &[rude.at, other.at], &flags);
    // It is reset, or its reset is taken for a refusal and another one tried.
    let visit = || -> bool {
        let Ok(mut stream) = TcpStream::connect_timeout(&proxy.at, LONG) else { return false };
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut back = [0; 1];
        stream.write_all(b"?").is_ok() && stream.read_exact(&mut back).is_ok()
    };
    let watch = Watch::start();
    // It is ejected after this at the earliest, and for two seconds then.
    let mut ejected = Watch::start();
    while of(&proxy.report(), 0, "ejections") == 0 {
        ejected = Watch::start();
        visit();
        watch.left("an ejection");
    }
    while ejected.elapsed() < Duration::from_secs(1) {
        let served = visit();
        let too_late = ejected.elapsed() >= Duration::from_secs(2);
        assert!(served || too_late, "somebody goes to the one that was ejected");
    }
    believed(&proxy, 0, "up");
    let watch = Watch::start();
    while of(&proxy.report(), 0, "ejections") == 1 {
        visit();
        watch.left("a second ejection");
    }
}

fn connections_beyond_an_upstreams_limit_wait_in_line(reactor: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("{},connections=2", listener.local_addr().unwrap());
    let mut command = Proxy::command(reactor, &[upstream]);
    let proxy = Proxy::spawn(command.args(["--cores", "1", "--queue-timeout", "1h"]));
    let pair = || (client(proxy.at), meet(&listener));
    let (one, two) = (pair(), pair());
    let mut waiting: Vec<TcpStream> = (0..4_u8)
        .map(|number| {
            let mut stream = client(proxy.at);
            stream.write_all(&[number]).unwrap();
            proxy.counts("active", 3 + u64::from(number));
            stream
        })
        .collect();
    assert!(!waits(&listener, Duration::from_millis(200)), "more than two are connected");
    drop(one);
    for number in 0..4_u8 {
        let mut upstream = meet(&listener);
        let mut said = [9];
        upstream.read_exact(&mut said).unwrap();
        assert_eq!(said, [number], "first come, first served");
        assert!(!waits(&listener, Duration::from_millis(20)), "a place for two");
        drop((upstream, waiting.remove(0)));
    }
    drop(two);
    proxy.counts("finished", 6);
    let report = proxy.stop();
    assert!(of(&report, 0, "queue_waits") >= 4 && total(&report, "no_place") == 0, "{report}");
}

fn a_limit_of_one_is_shared_by_all_shards(reactor: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("{},connections=1", listener.local_addr().unwrap());
    let mut command = Proxy::command(reactor, &[upstream]);
    let proxy = Proxy::spawn(command.args(["--cores", "4", "--queue-timeout", "1h"]));
    let numbered = |number: u8| {
        let mut stream = client(proxy.at);
        stream.write_all(&[number]).unwrap();
        Some(stream)
    };
    let mut clients: Vec<Option<TcpStream>> = (0..30).map(numbered).collect();
    for _ in 0..30 {
        let (mut upstream, mut number) = (meet(&listener), [0]);
        upstream.read_exact(&mut number).unwrap();
        assert!(!waits(&listener, Duration::from_millis(10)), "two at once");
        drop((upstream, clients[usize::from(number[0])].take()));
    }
    proxy.counts("finished", 30);
    let report = proxy.stop();
    let shards = report["shards"].as_array().unwrap().iter();
    let used = shards.filter(|shard| shard["upstreams"][0]["connected"] != 0).count();
    assert!(used >= 2, "one shard had it all the time: {report}");
}

fn who_waits_too_long_or_too_many_are_reset(reactor: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("{},connections=1", listener.local_addr().unwrap());
    let start = |flags: &[&str]| {
        let mut command = Proxy::command(reactor, &[&upstream]);
        Proxy::spawn(command.args(["--cores", "1"]).args(flags))
    };
    let proxy = start(&["--queue-timeout", "300ms"]);
    let pair = (client(proxy.at), meet(&listener));
    let watch = Watch::start();
    assert_eq!(end_of(&mut client(proxy.at)), RESET);
    assert!(watch.elapsed() >= Duration::from_millis(300), "too early");
    drop(pair);
    proxy.counts("no_place", 1);
    // Its place in the line is nobody's.
    let pair = (client(proxy.at), meet(&listener));
    drop(pair);
    proxy.counts("finished", 2);
    proxy.stop();
    let proxy = start(&["--queue-timeout", "1h", "--queue-length", "1"]);
    let pair = (client(proxy.at), meet(&listener));
    let _waiting = client(proxy.at);
    proxy.counts("active", 2);
    // The reset may be there before the connect has returned.
    if let Ok(mut stream) = TcpStream::connect_timeout(&proxy.at, LONG) {
        assert_eq!(end_of(&mut stream), RESET);
    }
    drop(pair);
    let _next = meet(&listener);
    assert_eq!(total(&proxy.report(), "no_place"), 1);
}

fn retries_end_with_their_budget(reactor: &str) {
    let ((_one, first), (_other, second)) = (dead_port(), dead_port());
    let flags = ["--cores", "1", "--retry-percent", "0", "--retry-rate", "1"];
    let proxy = Proxy::start(reactor, &[first, second], &flags);
    let watch = Watch::start();
    for _ in 0..20 {
        // The reset may be there before the connect has returned.
        if let Ok(mut stream) = TcpStream::connect_timeout(&proxy.at, LONG) {
            assert_eq!(end_of(&mut stream), RESET);
        }
    }
    proxy.counts("no_upstream", 20);
    let most = 2 + watch.elapsed().as_secs();
    let report = proxy.stop();
    let (retries, refused) = (total(&report, "retries"), total(&report, "retries_refused"));
    assert!((1..=most).contains(&retries), "{report}");
    assert_eq!((retries + refused, total(&report, "connect_failed")), (20, 20 + retries), "{report}");
    assert_eq!(of(&report, 0, "retries_refused") + of(&report, 1, "retries_refused"), refused, "{report}");
}

fn a_client_goes_to_the_same_upstream_whatever_its_shard(reactor: &str) {
    let origins = [(); 3].map(|()| Origin::echo());
    let at = origins.each_ref().map(|origin| origin.at);
    let trusted = ["--proxy-protocol", "accept", "--proxy-trusted", "127.0.0.0/8"];
    let flags = [&["--balance", "rendezvous"], &trusted[..]].concat();
    let proxy = Proxy::start(reactor, &at, &flags);
    let connected = || {
        let report = proxy.report();
        [0, 1, 2].map(|place| of(&report, place, "connected"))
    };
    let visit = |source: u8| {
        let mut stream = client(proxy.at);
        let header = format!("PROXY TCP4 192.0.2.{source} 192.0.2.200 {} 80\r\n", 1000 + u32::from(source));
        stream.write_all(header.as_bytes()).unwrap();
        exchange(&mut stream);
    };
    (0..30).for_each(visit);
    let first = connected();
    assert!(first.iter().all(|count| *count > 0), "all of them to one: {first:?}");
    (0..30).for_each(visit);
    assert_eq!(connected(), first.map(|count| count * 2), "somebody went elsewhere");
    // Without a header it is the address of the connection.
    for _ in 0..8 {
        let mut stream = client(proxy.at);
        exchange(&mut stream);
    }
    let last = connected();
    let grown: Vec<u64> = (0..3).map(|place| last[place] - 2 * first[place]).collect();
    assert_eq!(grown.iter().filter(|count| **count == 8).count(), 1, "{grown:?}");
}

fn weights_are_respected_and_zero_drains(reactor: &str) {
    let origins = [(); 3].map(|()| Origin::echo());
    let weigh = |place: usize, weight: u32| format!("{},weight={weight}", origins[place].at);
    let at: Vec<String> = vec![weigh(0, 3), weigh(1, 0), weigh(2, 1)];
    let mut command = Proxy::command(reactor, &at);
    let proxy = Proxy::spawn(command.args(["--cores", "1"]));
    clients(&proxy, 12);
    believed(&proxy, 1, "draining");
    let report = proxy.stop();
    assert_eq!([0, 1, 2].map(|place| of(&report, place, "connected")), [9, 0, 3], "{report}");
}

fn two_choices_spread_over_all(reactor: &str) {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let at: Vec<SocketAddr> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let proxy = Proxy::start(reactor, &at, &["--cores", "1", "--balance", "two-choices"]);
    let held: Vec<TcpStream> = (0..30).map(|_| client(proxy.at)).collect();
    proxy.counts("active", 30);
    eventually("all to be connected", || {
        let report = proxy.report();
        let counts = [0, 1, 2].map(|place| of(&report, place, "connected"));
        (counts.iter().sum::<u64>() == 30).then_some(counts).map(|counts| {
            // Of three, one choice each would leave 6 or less somewhere in one of four runs.
            assert!(counts.iter().all(|count| (7..=13).contains(count)), "{counts:?}");
        })
    });
    drop(held);
}
