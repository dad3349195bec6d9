//! How a proxy that has connections stops, and what it says meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::kit::{
    self, Bench, Origin, Process, Proxy, Unreachable, Watch, client, end_of, eventually, on_each_reactor,
    spawn, sums_hold, total,
};

on_each_reactor![
    shard_6_what_runs_may_finish_and_nothing_new_is_accepted,
    shard_6_traffic_is_drained_and_every_connection_counted,
    shard_6_the_drain_has_a_deadline_and_says_what_it_waits_for,
    shard_6_a_second_signal_ends_at_once,
    shard_6_a_second_signal_ends_at_once_under_load,
    shard_6_a_proxy_at_its_limit_stops_too,
    a_stop_while_connecting_leaves_nobody_hanging,
    a_signal_right_after_the_start_is_not_lost,
    a_report_during_the_drain_has_the_shards_that_have_ended,
    a_report_is_printed_as_a_table,
    a_report_adds_up_while_traffic_flows,
];

fn shard_6_what_runs_may_finish_and_nothing_new_is_accepted(reactor: &str) {
    let bench = Bench::start(reactor, &[]);
    let pairs = [(); 8].map(|()| bench.pair());
    bench.proxy.process.signal(Signal::TERM);
    bench.proxy.process.told_of("SIGTERM");
    eventually("new connections to be refused", || match TcpStream::connect(bench.proxy.at) {
        Ok(_early) => {
            // If it came before the end of listening it is served, and has to end.
            if kit::waits(&bench.listener, Duration::from_millis(50)) {
                drop(kit::meet(&bench.listener));
            }
            None
        }
        Err(error) => (error.kind() == ErrorKind::ConnectionRefused).then_some(()),
    });
    for (mut client, mut upstream) in pairs {
        client.write_all(b"a last word").unwrap();
        upstream.read_exact(&mut [0; 11]).unwrap();
        assert!(!bench.proxy.process.has_ended(), "it did not wait for everybody");
        drop(upstream);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    let report = bench.proxy.ended();
    assert!(total(&report, "accepted") >= 8, "{report}");
    assert_eq!(total(&report, "finished"), total(&report, "accepted"), "{report}");
}

/// Clients that exchange messages with an echo, in as many connections as they can, until told to stop.
struct Traffic {
    over: Arc<AtomicBool>,
    /// By client.
    done: Arc<[AtomicU64]>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Each connection makes `messages` exchanges. What is refused or cut is no fault of the clients'; who would have gone on
    /// for ever does not come again.
    fn start(at: SocketAddr, clients: usize, messages: usize) -> Traffic {
        let over = Arc::new(AtomicBool::new(false));
        let done: Arc<[AtomicU64]> = (0..clients).map(|_| AtomicU64::new(0)).collect();
        let client = |number: usize| {
            let (over, done) = (over.clone(), done.clone());
            spawn(move || {
                let mut buffer = [0; 1000];
                while !over.load(SeqCst) {
                    let Ok(mut stream) = TcpStream::connect(at) else { continue };
                    stream.set_read_timeout(Some(kit::LONG)).unwrap();
                    let message = [number as u8; 1000];
                    for _ in 0..messages {
                        if stream.write_all(&message).is_err() || stream.read_exact(&mut buffer).is_err() {
                            break;
                        }
                        assert_eq!(buffer, message);
                        done[number].fetch_add(1, SeqCst);
                    }
                    if messages == usize::MAX {
                        return;
                    }
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Traffic { over, done, clients }
    }

    /// Each client has made some exchanges more.
    fn flows(&self) {
        let done = || self.done.iter().map(|done| done.load(SeqCst));
        let before: Vec<u64> = done().collect();
        let all = || done().zip(&before).all(|(done, before)| done > before + 5);
        eventually("traffic", || all().then_some(()));
    }

    fn end(self) {
        self.over.store(true, SeqCst);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

fn shard_6_traffic_is_drained_and_every_connection_counted(reactor: &str) {
    let origin = Origin::echo();
    let proxy = Proxy::start(reactor, &[origin.at], &[]);
    let traffic = Traffic::start(proxy.at, 8, 20);
    traffic.flows();
    let report = proxy.stop();
    traffic.end();
    assert!(total(&report, "finished") > 0 && total(&report, "cut_short") == 0, "{report}");
    assert_eq!(total(&report, "bytes_up"), total(&report, "bytes_down"), "{report}");
}

fn shard_6_the_drain_has_a_deadline_and_says_what_it_waits_for(reactor: &str) {
    let bench = Bench::start(reactor, &["--drain-s", "1"]);
    let mut pairs = [(); 3].map(|()| bench.pair());
    let watch = Watch::start();
    bench.proxy.process.signal(Signal::TERM);
    // A shard that has nothing to wait for does not wait.
    bench.proxy.process.told_of("ran out of time; it still waited for");
    let report = bench.proxy.ended();
    assert!(watch.elapsed() >= Duration::from_secs(1), "it ended too early");
    assert_eq!(total(&report, "cut_short"), 3, "{report}");
    for (client, upstream) in &mut pairs {
        assert!(!matches!(client.read(&mut [0]), Ok(1..)) && !matches!(upstream.read(&mut [0]), Ok(1..)));
    }
}

fn shard_6_a_second_signal_ends_at_once(reactor: &str) {
    let bench = Bench::start(reactor, &["--drain-s", "3600"]);
    let _pair = bench.pair();
    bench.proxy.process.signal(Signal::TERM);
    bench.proxy.process.told_of("a second signal ends it at once");
    bench.proxy.process.signal(Signal::INT);
    assert_eq!(total(&bench.proxy.ended(), "cut_short"), 1);
}

fn shard_6_a_second_signal_ends_at_once_under_load(reactor: &str) {
    let origin = Origin::echo();
    let proxy = Proxy::start(reactor, &[origin.at], &["--drain-s", "3600"]);
    let traffic = Traffic::start(proxy.at, 8, usize::MAX);
    traffic.flows();
    proxy.process.signal(Signal::TERM);
    proxy.process.told_of("a second signal ends it at once");
    traffic.flows();
    proxy.process.signal(Signal::TERM);
    let report = proxy.ended();
    traffic.end();
    assert_eq!(total(&report, "cut_short"), 8, "{report}");
}

fn shard_6_a_proxy_at_its_limit_stops_too(reactor: &str) {
    let bench = Bench::start(reactor, &["--cores", "1", "--connections", "1"]);
    let (mut client, upstream) = bench.pair();
    let mut waiting = kit::client(bench.proxy.at);
    bench.proxy.process.signal(Signal::TERM);
    // Nobody will serve it any more, so it must not wait for the one that is being served.
    assert!(!matches!(waiting.read(&mut [0]), Ok(1..)));
    assert!(!bench.proxy.process.has_ended());
    drop(upstream);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    assert_eq!(total(&bench.proxy.ended(), "finished"), 1);
}

fn a_stop_while_connecting_leaves_nobody_hanging(reactor: &str) {
    let nowhere = Unreachable::new();
    let proxy = Proxy::start(reactor, &[nowhere.at], &["--connect-timeout", "1s"]);
    let mut clients = [(); 5].map(|()| client(proxy.at));
    proxy.counts("active", 5);
    // In time: the connect's own limit ends what it waits for.
    proxy.process.signal(Signal::TERM);
    let report = proxy.ended();
    assert_eq!(total(&report, "no_upstream"), 5, "{report}");
    clients.iter_mut().for_each(|client| assert_eq!(end_of(client), Err(ErrorKind::ConnectionReset)));
    // Out of time.
    let proxy = Proxy::start(reactor, &[nowhere.at], &["--connect-timeout", "1h", "--drain-s", "3600"]);
    let mut client = client(proxy.at);
    proxy.counts("active", 1);
    [Signal::TERM, Signal::TERM].into_iter().for_each(|signal| {
        proxy.process.signal(signal);
        proxy.process.told_of("SIGTERM");
    });
    assert_eq!(total(&proxy.ended(), "cut_short"), 1);
    assert!(!matches!(client.read(&mut [0]), Ok(1..)));
}

fn a_signal_right_after_the_start_is_not_lost(reactor: &str) {
    let origin = Origin::echo();
    for round in 0..10 {
        let proxy = Proxy::start(reactor, &[origin.at], &[]);
        if round % 2 == 0 {
            sums_hold(&proxy.report());
        }
        assert_eq!(total(&proxy.stop(), "accepted"), 0);
    }
}

fn a_report_during_the_drain_has_the_shards_that_have_ended(reactor: &str) {
    let bench = Bench::start(reactor, &["--drain-s", "3600"]);
    let mut pairs = vec![bench.pair()];
    let shards = |report: &Value| -> Vec<u64> {
        let shards = report["shards"].as_array().unwrap();
        shards.iter().map(|shard| shard["counters"]["accepted"].as_u64().unwrap()).collect()
    };
    while shards(&bench.proxy.report()).contains(&0) {
        pairs.push(bench.pair());
    }
    let (_last, count) = (pairs.swap_remove(0), pairs.len() as u64 + 1);
    drop(pairs);
    bench.proxy.process.signal(Signal::TERM);
    bench.proxy.process.told_of("SIGTERM");
    eventually("the shard that has nothing to do to end", || {
        let names = bench.proxy.process.masks();
        (names.keys().filter(|name| name.starts_with("waterwheel-")).count() == 1).then_some(())
    });
    let report = bench.proxy.report();
    assert_eq!((total(&report, "accepted"), total(&report, "active")), (count, 1), "{report}");
}

fn a_report_is_printed_as_a_table(reactor: &str) {
    let origin = Origin::echo();
    let at = format!("tcp:{}", origin.at);
    let mut command = kit::command();
    command.envs([("WATERWHEEL_REACTOR", reactor), ("WATERWHEEL_CORES", "2")]);
    let process =
        Process::start(command.args(["proxy", "tcp", "--listen", "127.0.0.1:0", "--upstream", &at]));
    let proxy = Proxy { at: process.told("waterwheel: listening on tcp:").parse().unwrap(), process };
    let mut streams = [(); 3].map(|()| client(proxy.at));
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    let row = |table: &str, start: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.trim_start().starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no row {start}: {table}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    proxy.process.signal(Signal::USR1);
    let table = proxy.process.text_to(|line| line.starts_with("upstream "));
    assert_eq!(row(&table, "shard")[..4], ["shard", "accepted", "active", "finished"]);
    assert_eq!(row(&table, "all")[..4], ["all", "3", "3", "0"]);
    let number = |cell: &str| cell.parse::<u64>().unwrap();
    let shards = ["0 ", "1 "].map(|shard| number(&row(&table, shard)[1]));
    assert_eq!(shards.iter().sum::<u64>(), 3, "{table}");
    assert!(table.contains(&format!("upstream {at}: up, active 3, connected 3, failed 0")), "{table}");
    drop(streams);
    proxy.process.signal(Signal::TERM);
    let ended = proxy.process.wait();
    assert_eq!(ended.code, Some(0));
    let last = ended.out.rfind("shard").expect("a table at exit");
    assert_eq!(row(&ended.out[last..], "all")[..4], ["all", "3", "0", "3"]);
}

fn a_report_adds_up_while_traffic_flows(reactor: &str) {
    let origin = Origin::echo();
    let proxy = Proxy::start(reactor, &[origin.at], &[]);
    let traffic = Traffic::start(proxy.at, 6, 5);
    let mut before = 0;
    for _ in 0..10 {
        traffic.flows();
        let report = proxy.report();
        assert_eq!(report["reactor"], reactor);
        let accepted = total(&report, "accepted");
        assert!(accepted >= before && total(&report, "bytes_up") > 0, "{report}");
        before = accepted;
    }
    traffic.end();
    proxy.counts("active", 0);
    // It checks that each connection is owned by somebody, and each hand-over has a giver and a taker.
    proxy.stop();
}
