//! The proxy as a process, with what stands on either side of it.

use std::fmt::Display;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::{Process, Watch, client, command, eventually, meet};

/// `waterwheel proxy tcp --json` at work.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) process: Process,
    /// Where it listens.
    pub(crate) at: SocketAddr,
}

impl Proxy {
    /// With two shards unless `flags` say otherwise, on a free port.
    pub(crate) fn start(reactor: &str, upstreams: &[SocketAddr], flags: &[&str]) -> Proxy {
        Proxy::spawn(Proxy::command(reactor, upstreams).args(flags))
    }

    pub(crate) fn command(reactor: &str, upstreams: &[impl Display]) -> Command {
        let mut command = command();
        command.args(["proxy", "tcp", "--json", "--listen", "tcp:127.0.0.1:0"]);
        command.envs([("WATERWHEEL_REACTOR", reactor), ("WATERWHEEL_CORES", "2")]);
        for upstream in upstreams {
            command.args(["--upstream", &upstream.to_string()]);
        }
        command
    }

    pub(crate) fn spawn(command: &mut Command) -> Proxy {
        let process = Process::start(command);
        let at = process.told("waterwheel: listening on tcp:").parse().expect("an address");
        Proxy { process, at }
    }

    /// Stops it while something happens, which it then finds all at once.
    pub(crate) fn misses(&self, what: impl FnOnce()) {
        self.process.signal(Signal::STOP);
        what();
        self.process.signal(Signal::CONT);
    }

    /// What it counts now. On a busy machine a shard may need more time than it is given.
    pub(crate) fn report(&self) -> Value {
        let report = eventually("every shard to answer", || {
            self.process.signal(Signal::USR1);
            Some(self.process.json()).filter(|report| report["silent"] == Value::Array(Vec::new()))
        });
        sums_hold(&report);
        report
    }

    /// Waits until a counter has a value.
    pub(crate) fn counts(&self, counter: &str, value: u64) {
        let watch = Watch::start();
        loop {
            let report = self.report();
            if total(&report, counter) == value {
                return;
            }
            watch.left(&format!("{counter} to be {value}: {report}"));
        }
    }

    /// Ends it in order; answers what it counted.
    pub(crate) fn stop(self) -> Value {
        self.process.signal(Signal::TERM);
        self.ended()
    }

    /// Its last report, once it has ended by itself and well.
    pub(crate) fn ended(self) -> Value {
        let ended = self.process.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        // Earlier reports may stand before the last one.
        let reports = serde_json::Deserializer::from_str(&ended.out).into_iter::<Value>();
        let report = reports.last().expect("a last report").expect("JSON");
        sums_hold(&report);
        assert_eq!(total(&report, "active"), 0, "{report}");
        accepting_adds_up(&report);
        report
    }
}

/// Checks, for a run that has ended, that each connection that the kernel gave to a shard came to one end, and that
/// each that was handed over was taken over.
fn accepting_adds_up(report: &Value) {
    let shards = report["shards"].as_array().expect("shards");
    let sum =
        |counter: &str| -> u64 { shards.iter().map(|shard| number(&shard["accepting"], counter)).sum() };
    let undelivered = number(report, "undelivered");
    assert_eq!(sum("handed_over"), sum("taken_over") + undelivered, "{report}");
    let unserved = sum("crowded") + sum("dropped") + sum("adopt_failed") + undelivered;
    let served = total(report, "accepted");
    // A task that was cut before it began counted nothing.
    let all = sum("accepted");
    assert!(
        served + unserved == all || (total(report, "cut_short") > 0 && served + unserved < all),
        "{report}"
    );
}

/// A counter of a report, over all shards.
pub(crate) fn total(report: &Value, counter: &str) -> u64 {
    number(&report["total"], counter)
}

fn number(counters: &Value, counter: &str) -> u64 {
    counters[counter].as_u64().unwrap_or_else(|| panic!("no {counter} in {counters}"))
}

/// Checks that every shard answered, that each connection is counted once, and that the total is the sum.
pub(crate) fn sums_hold(report: &Value) {
    const ENDS: [&str; 15] = [
        "active",
        "finished",
        "idle_closed",
        "expired",
        "client_broke",
        "upstream_broke",
        "no_upstream",
        "no_place",
        "refused",
        "too_many",
        "too_often",
        "no_route",
        "shortage",
        "panicked",
        "cut_short",
    ];
    assert_eq!(report["silent"], Value::Array(Vec::new()), "{report}");
    let shards = report["shards"].as_array().expect("shards");
    for counters in shards.iter().map(|shard| &shard["counters"]).chain([&report["total"]]) {
        let ends: u64 = ENDS.iter().map(|end| number(counters, end)).sum();
        assert_eq!(number(counters, "accepted"), ends, "{report}");
    }
    for counter in ENDS.iter().chain(&[
        "accepted",
        "connect_failed",
        "retries",
        "retries_refused",
        "bytes_up",
        "bytes_down",
    ]) {
        let sum: u64 = shards.iter().map(|shard| number(&shard["counters"], counter)).sum();
        assert_eq!(total(report, counter), sum, "{counter}: {report}");
    }
}

/// A proxy, and the one upstream that it has, in the test's own hands.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) proxy: Proxy,
    pub(crate) listener: TcpListener,
}

impl Bench {
    pub(crate) fn start(reactor: &str, flags: &[&str]) -> Bench {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let proxy = Proxy::start(reactor, &[listener.local_addr().expect("bound")], flags);
        Bench { proxy, listener }
    }

    /// A connection through the proxy: the client's end and the upstream's. One at a time, so that they belong together.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let client = client(self.proxy.at);
        (client, meet(&self.listener))
    }
}
