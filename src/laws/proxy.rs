//! What passes through the proxy, and what does not: ends, resets, refusals, limits.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::kit::{
    Bench, Origin, Pattern, Process, Proxy, Unreachable, Watch, client, dead_port, end_of, eventually, meet,
    moment, on_each_reactor, pause, reset, sums_hold, total, waits,
};

const RESET: Result<usize, ErrorKind> = Err(ErrorKind::ConnectionReset);

on_each_reactor![
    a_half_close_is_carried_through_and_the_answer_still_comes,
    last_bytes_and_the_end_are_never_truncated,
    one_byte_at_a_time_passes,
    an_answer_before_the_end_of_the_question_arrives_whole,
    a_reset_is_passed_on_as_a_reset_and_others_do_not_notice,
    connections_that_are_gone_at_once_leave_nothing,
    an_upstream_that_refuses_costs_a_try_and_not_the_client,
    a_client_that_no_upstream_takes_is_reset,
    a_connect_that_takes_too_long_is_given_up,
    what_is_idle_is_closed_and_what_trickles_is_not,
    what_lasts_too_long_is_reset_whatever_moves,
    connections_beyond_the_limit_wait_and_are_served_later,
    the_limit_is_exact_over_shards_and_listeners,
    the_upstream_with_the_fewest_connections_is_taken,
    unix_sockets_work_on_both_sides,
    a_unix_upstream_whose_queue_is_full_is_waited_for,
    keep_alive_watches_what_no_idle_limit_ends,
    a_unix_listener_leaves_no_file_when_it_ends_in_order,
    every_listener_is_served,
];

fn a_half_close_is_carried_through_and_the_answer_still_comes(reactor: &str) {
    let bench = Bench::start(reactor, &[]);
    for _ in 0..20 {
        let (client, upstream) = bench.pair();
        let (answered, asking) = bench.pair();
        for (mut asks, mut answers) in [(client, upstream), (asking, answered)] {
            asks.write_all(b"a question").unwrap();
            asks.shutdown(Shutdown::Write).unwrap();
            assert_eq!(all(&mut answers), b"a question");
            answers.write_all(b"an answer").unwrap();
            drop(answers);
            assert_eq!(all(&mut asks), b"an answer");
        }
        let (mut client, mut upstream) = bench.pair();
        upstream.write_all(b"a greeting").unwrap();
        upstream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(all(&mut client), b"a greeting");
        client.write_all(b"thanks").unwrap();
        drop(client);
        assert_eq!(all(&mut upstream), b"thanks");
    }
    let report = bench.proxy.stop();
    assert_eq!((total(&report, "accepted"), total(&report, "finished")), (60, 60), "{report}");
}

fn all(stream: &mut impl Read) -> Vec<u8> {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    got
}

fn last_bytes_and_the_end_are_never_truncated(reactor: &str) {
    let bench = Bench::start(reactor, &[]);
    for round in 0..100_usize {
        let size = [1, 4096, 65_536, 100_000][round % 4] + round;
        let (mut client, mut upstream) = bench.pair();
        let (mut sent, mut got) = (Pattern::new(round as u64), Pattern::new(round as u64));
        sent.write(&mut upstream, size).unwrap();
        drop(upstream);
        assert_eq!(got.read_to_end(&mut client).unwrap(), size as u64);
    }
    // The same where the reader comes late, so that the end waits in the proxy behind bytes that it cannot pass on.
    let (mut client, mut upstream) = bench.pair();
    let (mut sent, mut got) = (Pattern::new(7), Pattern::new(7));
    super::kit::until_full(&mut upstream, &mut sent);
    drop(upstream);
    assert_eq!(got.read_to_end(&mut client).unwrap(), sent.at());
}

fn one_byte_at_a_time_passes(reactor: &str) {
    let bench = Bench::start(reactor, &[]);
    let (mut client, mut upstream) = bench.pair();
    let (mut sent, mut got) = (Pattern::new(1), Pattern::new(1));
    for _ in 0..500 {
        sent.write(&mut client, 1).unwrap();
        assert_eq!(got.read(&mut upstream, 10).unwrap(), 1);
    }
    // And without waiting for each, in both directions at once.
    for _ in 0..2_000 {
        sent.write(&mut client, 1).unwrap();
        upstream.write_all(b"x").unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(got.read_to_end(&mut upstream).unwrap(), 2_500);
    assert_eq!(all(&mut client), [b'x'; 2_000]);
}

fn an_answer_before_the_end_of_the_question_arrives_whole(reactor: &str) {
    let bench = Bench::start(reactor, &[]);
    for round in 0..20 {
        let (mut client, mut upstream) = talking(&bench);
        let mut asking = client.try_clone().unwrap();
        let asker = super::kit::spawn(move || while asking.write_all(&[1; 50_000]).is_ok() {});
        upstream.read_exact(&mut [0; 4]).unwrap();
        upstream.write_all(&[7; 60_000]).unwrap();
        if round % 2 == 0 {
            upstream.shutdown(Shutdown::Write).unwrap();
        }
        // With input that it has not read, so that its kernel resets; what it has said must come through all the same.
        drop(upstream);
        let mut got = Vec::new();
        let _ended_or_reset = client.read_to_end(&mut got);
        assert_eq!(got.len(), 60_000, "round {round}");
        client.shutdown(Shutdown::Both).ok();
        asker.join().unwrap();
    }
    bench.proxy.counts("active", 0);
}

fn a_reset_is_passed_on_as_a_reset_and_others_do_not_notice(reactor: &str) {
    let bench = Bench::start(reactor, &[]);
    let (mut other, mut others) = bench.pair();
    let buffer = &mut [0; 16];
    let (mut client, upstream) = talking(&bench);
    reset(upstream);
    assert_eq!(end_of(&mut client), RESET);
    bench.proxy.counts("upstream_broke", 1);
    let (client, mut upstream) = talking(&bench);
    reset(client);
    assert_eq!(end_of(&mut upstream), RESET);
    bench.proxy.counts("client_broke", 1);
    // In the middle of a stream, and behind a half-close.
    let (mut client, mut upstream) = bench.pair();
    upstream.write_all(&[7; 10_000]).unwrap();
    client.read_exact(buffer).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all(&mut upstream), b"");
    reset(upstream);
    assert_eq!(end_of(&mut client), RESET);
    other.write_all(b"still here").unwrap();
    others.read_exact(&mut buffer[..10]).unwrap();
    drop((other, others));
    let report = bench.proxy.stop();
    let counts = ["accepted", "finished", "client_broke", "upstream_broke"].map(|name| total(&report, name));
    assert_eq!(counts, [4, 1, 1, 2], "{report}");
}

/// A pair that the proxy has joined for sure: an upstream that resets before that could not be connected.
fn talking(bench: &Bench) -> (TcpStream, TcpStream) {
    let (mut client, mut upstream) = bench.pair();
    upstream.write_all(b".").unwrap();
    client.read_exact(&mut [0]).unwrap();
    (client, upstream)
}

fn connections_that_are_gone_at_once_leave_nothing(reactor: &str) {
    let origin = Origin::echo();
    let proxy = Proxy::start(reactor, &[origin.at], &[]);
    drop(client(proxy.at));
    proxy.counts("finished", 1);
    let before = proxy.process.descriptors();
    for round in 0..150 {
        let mut stream = client(proxy.at);
        match round % 3 {
            0 => drop(stream),
            1 => reset(stream),
            _ => {
                // Garbage, and gone before the echo can come back.
                stream.write_all(Pattern::new(round).next(5_000)).unwrap();
                reset(stream);
            }
        }
    }
    // A reset in the kernel's queue may never be accepted at all.
    let accepted = eventually("the last connection to end", || {
        let report = proxy.report();
        (total(&report, "active") == 0 && total(&report, "accepted") > 50).then(|| total(&report, "accepted"))
    });
    eventually("the descriptors to be closed", || (proxy.process.descriptors() <= before).then_some(()));
    let report = proxy.stop();
    assert!(total(&report, "accepted") >= accepted && total(&report, "no_upstream") == 0, "{report}");
}

fn an_upstream_that_refuses_costs_a_try_and_not_the_client(reactor: &str) {
    let (origin, (_held, dead)) = (Origin::echo(), dead_port());
    let proxy = Proxy::start(reactor, &[dead, origin.at], &["--cores", "1"]);
    for _ in 0..6 {
        exchange(&mut client(proxy.at));
    }
    proxy.counts("finished", 6);
    let report = proxy.stop();
    // The first connection tries the dead one, and the others leave it alone for a while, which is long here.
    let failed = total(&report, "connect_failed");
    assert!((1..=2).contains(&failed) && total(&report, "no_upstream") == 0, "{report}");
    let upstreams = &report["shards"][0]["upstreams"];
    assert_eq!(
        (&upstreams[0]["failed"], &upstreams[0]["connected"]),
        (&failed.into(), &0.into()),
        "{report}"
    );
    assert_eq!((&upstreams[1]["failed"], &upstreams[1]["connected"]), (&0.into(), &6.into()), "{report}");
}

/// Sends something to an echo and checks that it comes back.
fn exchange(stream: &mut (impl Read + Write)) {
    stream.write_all(b"there and back").unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"there and back");
}

fn a_client_that_no_upstream_takes_is_reset(reactor: &str) {
    let ((_one, first), (_other, second)) = (dead_port(), dead_port());
    let proxy = Proxy::start(reactor, &[first, second], &[]);
    for _ in 0..5 {
        // The reset may be there before the connect has returned.
        match TcpStream::connect(proxy.at) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(mut stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                assert_eq!(end_of(&mut stream), RESET);
            }
        }
    }
    let report = proxy.stop();
    assert_eq!((total(&report, "no_upstream"), total(&report, "connect_failed")), (5, 10), "{report}");
}

fn a_connect_that_takes_too_long_is_given_up(reactor: &str) {
    let (nowhere, origin) = (Unreachable::new(), Origin::echo());
    let flags = ["--connect-timeout", "300ms", "--cores", "1"];
    let proxy = Proxy::start(reactor, &[nowhere.at], &flags);
    let watch = Watch::start();
    assert_eq!(end_of(&mut client(proxy.at)), RESET);
    assert!(watch.elapsed() >= Duration::from_millis(300), "given up too early");
    assert_eq!(total(&proxy.stop(), "no_upstream"), 1);
    let proxy = Proxy::start(reactor, &[nowhere.at, origin.at], &flags);
    exchange(&mut client(proxy.at));
    assert_eq!(total(&proxy.stop(), "connect_failed"), 1);
}

fn what_is_idle_is_closed_and_what_trickles_is_not(reactor: &str) {
    // Long enough that a busy machine does not hold this thread up for as long.
    const LIMIT: Duration = Duration::from_secs(2);
    let bench = Bench::start(reactor, &["--idle-timeout", "2s"]);
    let ((mut busy, mut answering), watch) = (bench.pair(), Watch::start());
    let (begun, (mut idle, mut upstream)) = (Watch::start(), bench.pair());
    let ended = super::kit::spawn(move || {
        assert_eq!((all(&mut idle), all(&mut upstream)), (vec![], vec![]), "in order on both sides");
        begun.elapsed()
    });
    // One way only: activity on either side counts for both.
    while watch.elapsed() < LIMIT * 5 / 2 {
        answering.write_all(b".").unwrap();
        busy.read_exact(&mut [0]).unwrap();
        moment();
    }
    let after = ended.join().unwrap();
    assert!(after >= LIMIT, "closed after {after:?}");
    drop((busy, answering));
    bench.proxy.counts("active", 0);
    let report = bench.proxy.stop();
    assert_eq!((total(&report, "idle_closed"), total(&report, "finished")), (1, 1), "{report}");
}

fn what_lasts_too_long_is_reset_whatever_moves(reactor: &str) {
    let bench = Bench::start(reactor, &["--total-timeout", "700ms", "--cores", "1"]);
    let ((mut client, mut upstream), watch) = (bench.pair(), Watch::start());
    let broken = loop {
        let moved = upstream.write_all(b".").and_then(|()| client.read_exact(&mut [0]));
        if let Err(error) = moved {
            break error.kind();
        }
        watch.left("a reset");
        moment();
    };
    let after = watch.elapsed();
    // The upstream sees it first, or the client does.
    let broken_off = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(broken_off.contains(&broken), "{broken:?}");
    assert!(after >= Duration::from_millis(500), "reset after {after:?}");
    // Also where none of it has come to an upstream.
    let origin = Unreachable::new();
    let flags = ["--total-timeout", "300ms", "--connect-timeout", "1h"];
    let proxy = Proxy::start(reactor, &[origin.at], &flags);
    assert_eq!(end_of(&mut self::client(proxy.at)), RESET);
    assert_eq!(total(&proxy.stop(), "expired"), 1);
    let report = bench.proxy.stop();
    assert_eq!((total(&report, "expired"), total(&report, "accepted")), (1, 1), "{report}");
}

fn connections_beyond_the_limit_wait_and_are_served_later(reactor: &str) {
    let bench = Bench::start(reactor, &["--cores", "1", "--connections", "2"]);
    let (one, two) = (bench.pair(), bench.pair());
    let mut waiting: Vec<TcpStream> = (0..5).map(|_| client(bench.proxy.at)).collect();
    waiting.iter_mut().for_each(|stream| stream.write_all(b"patience").unwrap());
    assert!(!waits(&bench.listener, Duration::from_millis(200)), "more than two are served");
    assert_eq!(total(&bench.proxy.report(), "active"), 2);
    drop(one);
    for mut stream in waiting {
        let mut upstream = meet(&bench.listener);
        upstream.read_exact(&mut [0; 8]).unwrap();
        assert!(total(&bench.proxy.report(), "active") <= 2);
        drop(upstream);
        assert_eq!(all(&mut stream), b"");
    }
    drop(two);
    bench.proxy.counts("finished", 7);
}

fn the_limit_is_exact_over_shards_and_listeners(reactor: &str) {
    let origin = Origin::echo();
    let mut command = Proxy::command(reactor, &[origin.at]);
    command.args(["--listen", "tcp:127.0.0.2:0", "--cores", "3", "--connections", "4"]);
    let proxy = Proxy::spawn(&mut command);
    let other = proxy.process.told("waterwheel: listening on tcp:").parse().unwrap();
    let before = proxy.process.descriptors();
    let asking = |pairs: usize| -> Vec<TcpStream> {
        let mut streams: Vec<TcpStream> = [proxy.at, other].repeat(pairs).into_iter().map(client).collect();
        streams.iter_mut().for_each(|stream| stream.write_all(b"?").unwrap());
        streams
    };
    let mut served = asking(2);
    served.iter_mut().for_each(|stream| stream.read_exact(&mut [0]).unwrap());
    let mut waiting = asking(8);
    waiting.iter_mut().for_each(|stream| stream.set_nonblocking(true).unwrap());
    pause(Duration::from_millis(200));
    // Those beyond it are not even accepted, but for the one that each part of a listener waited for already.
    let open = proxy.process.descriptors();
    assert!(open <= before + 2 * 4 + 3 * 2, "{open} descriptors are open, {before} when idle");
    while !waiting.is_empty() {
        assert!(waiting.iter_mut().all(|stream| stream.read(&mut [0]).is_err()), "more than 4 are served");
        served.clear();
        eventually("as many to be served as may be", || {
            served.extend(waiting.extract_if(.., |stream| stream.read(&mut [0]).is_ok()));
            (served.len() >= 4).then_some(())
        });
        moment();
    }
    drop(served);
    proxy.counts("active", 0);
    assert_eq!(total(&proxy.stop(), "finished"), 20);
}

fn the_upstream_with_the_fewest_connections_is_taken(reactor: &str) {
    let benches = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let at = benches.each_ref().map(|listener| listener.local_addr().unwrap());
    let proxy = Proxy::start(reactor, &at, &["--balance", "least-connections", "--cores", "1"]);
    // Each in turn has one, then the second has none.
    let mut held: Vec<_> = benches.iter().map(|listener| (client(proxy.at), meet(listener))).collect();
    drop(held.remove(1));
    proxy.counts("finished", 1);
    for _ in 0..5 {
        let pair = (client(proxy.at), meet(&benches[1]));
        drop(pair);
        eventually("the end of it", || (total(&proxy.report(), "active") == 2).then_some(()));
    }
    let report = proxy.report();
    let active = (0..3).map(|place| &report["shards"][0]["upstreams"][place]["active"]);
    assert_eq!(active.collect::<Vec<_>>(), [1, 0, 1], "{report}");
}

fn unix_sockets_work_on_both_sides(reactor: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (front, back) = (folder.path().join("front.sock"), folder.path().join("back.sock"));
    let start = || {
        let mut command = super::kit::command();
        command.envs([("WATERWHEEL_REACTOR", reactor), ("WATERWHEEL_CORES", "2")]);
        let (listen, upstream) = (format!("unix:{}", front.display()), format!("unix:{}", back.display()));
        command.args(["proxy", "tcp", "--json", "--listen", &listen, "--upstream", &upstream]);
        let process = Process::start(&mut command);
        assert_eq!(process.told("waterwheel: listening on "), listen);
        process
    };
    // The second one finds what the first, which is killed, has left in the file system.
    for _ in 0..2 {
        let _ = std::fs::remove_file(&back);
        // The kernel takes the sockets of a killed ring apart in its own time.
        eventually("nobody to answer", || UnixStream::connect(&front).err());
        let (listener, process) = (UnixListener::bind(&back).unwrap(), start());
        for _ in 0..10 {
            let mut client = UnixStream::connect(&front).unwrap();
            client.write_all(&[5; 100_000]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut upstream = listener.accept().unwrap().0;
            assert_eq!(all(&mut upstream), [5; 100_000]);
            upstream.write_all(b"an answer").unwrap();
            drop(upstream);
            assert_eq!(all(&mut client), b"an answer");
        }
        process.signal(rustix::process::Signal::USR1);
        let report = process.json();
        sums_hold(&report);
        assert_eq!(total(&report, "accepted"), 10);
    }
}

fn a_unix_listener_leaves_no_file_when_it_ends_in_order(reactor: &str) {
    let (folder, origin) = (tempfile::tempdir().unwrap(), Origin::echo());
    let path = folder.path().join("front.sock");
    let at = format!("unix:{}", path.display());
    // Once by one signal, once by two, and both times what may connect is what the umask says.
    for (signals, umask, mode) in [(1, "007", 0o770), (2, "111", 0o666)] {
        let script = format!("umask {umask} && exec \"$@\"");
        let proxy = Proxy::command(reactor, &[origin.at]);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(proxy.get_program()).args(proxy.get_args());
        command.args(["--drain-s", "3600", "--listen", &at]).env_clear();
        command.envs(proxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let proxy = Proxy::spawn(&mut command);
        let own = std::fs::metadata(&path).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&own.permissions()) & 0o777, mode);
        let mut held = UnixStream::connect(&path).unwrap();
        exchange(&mut held);
        for _ in 0..signals {
            proxy.process.signal(rustix::process::Signal::TERM);
            proxy.process.told_of("SIGTERM");
        }
        drop(held);
        proxy.ended();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a file is left");
    }
}

fn a_unix_upstream_whose_queue_is_full_is_waited_for(reactor: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("back.sock");
    let listening =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    bind(&listening, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listening, 0).unwrap();
    let mut crowd = Vec::new();
    loop {
        let end = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        if connect(&end, &SocketAddrUnix::new(&path).unwrap()).is_err() {
            break;
        }
        crowd.push(end);
    }
    let proxy = Proxy::spawn(&mut Proxy::command(reactor, &[format!("unix:{}", path.display())]));
    let mut client = client(proxy.at);
    client.write_all(b"?").unwrap();
    proxy.counts("active", 1);
    pause(Duration::from_millis(300));
    assert_eq!(total(&proxy.report(), "active"), 1, "given up at once");
    let listener = UnixListener::from(listening);
    let mut upstream = eventually("the proxy to come", || {
        let mut stream = listener.accept().ok()?.0;
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        stream.read_exact(&mut [0]).ok().map(|()| stream)
    });
    upstream.write_all(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

fn keep_alive_watches_what_no_idle_limit_ends(reactor: &str) {
    // What the kernel says of both sides: 2 is a keep-alive timer (or, for a moment, an acknowledgement to come).
    let watched = |proxy: &Proxy, origin: &Origin| -> Option<(bool, bool)> {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let (front, back) = (format!(":{:04X}", proxy.at.port()), format!(":{:04X}", origin.at.port()));
        let timers = table.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
            let (of_client, of_upstream) = (local.ends_with(&front), remote.ends_with(&back));
            let mut timed = || fields.nth(1).is_some_and(|timer| timer.starts_with("02:"));
            ((of_client || of_upstream) && state == "01").then(|| (of_client, timed()))
        });
        let timers: Vec<(bool, bool)> = timers.collect();
        // The kernel's list may miss what moves while it is read.
        let [one, other] = timers[..] else { return None };
        let (client, upstream) = if one.0 { (one, other) } else { (other, one) };
        (client.0 && !upstream.0).then_some((client.1, upstream.1))
    };
    // Clients inherit it from a listener, which may stay when the limit changes: they are watched always.
    for (limit, wanted) in [("0s", (true, true)), ("1h", (true, true)), ("300s", (true, false))] {
        let origin = Origin::echo();
        let proxy = Proxy::start(reactor, &[origin.at], &["--idle-timeout", limit]);
        let mut client = client(proxy.at);
        exchange(&mut client);
        eventually("the timers", || (watched(&proxy, &origin) == Some(wanted)).then_some(()));
    }
}

fn every_listener_is_served(reactor: &str) {
    let origin = Origin::echo();
    let mut command = Proxy::command(reactor, &[origin.at]);
    let mut proxy = Proxy::spawn(command.args(["--listen", "tcp:[::1]:0", "--listen", "tcp:127.0.0.2:0"]));
    for _ in 0..2 {
        exchange(&mut client(proxy.at));
        proxy.at = proxy.process.told("waterwheel: listening on tcp:").parse().unwrap();
    }
    exchange(&mut client(proxy.at));
    assert_eq!(total(&proxy.stop(), "accepted"), 3);
}
