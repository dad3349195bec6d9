//! What the command says to an operator, and above all to one who asked for nonsense.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use waterwheel::runtime::reactors;

use super::kit::{self, Ended, command, run};

/// What a proxy needs at least; nobody listens on port 1.
const PROXY: [&str; 6] = ["proxy", "tcp", "--listen", "tcp:127.0.0.1:0", "--upstream", "tcp:127.0.0.1:1"];

/// Checks that a command refused: one line that says all of `parts`, this exit code, and nothing began.
#[track_caller]
pub(super) fn refused(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "one line: {:?}", ended.err);
    assert!(ended.err.starts_with("waterwheel: ") && ended.err.ends_with('\n'), "{:?}", ended.err);
    for part in parts {
        assert!(ended.err.contains(part), "{part:?} is not said: {:?}", ended.err);
    }
    assert_eq!(ended.out, "");
}

#[test]
fn a_variable_that_makes_no_sense_stops_the_start() {
    for (name, value, wrong, allowed) in [
        ("WATERWHEEL_CORE", "4", "no such variable, did you mean WATERWHEEL_CORES?", "WATERWHEEL_CPUS"),
        ("WATERWHEEL_THREADPOOL", "4", "no such variable", "WATERWHEEL_CORES"),
        ("WATERWHEEL_CORES", "0", "no shard could run", "a number from 1 to 1024"),
        ("WATERWHEEL_CORES", "two", "not a whole number", "auto"),
        ("WATERWHEEL_CORES", "99999", "more than 1024", "1024"),
        ("WATERWHEEL_CPUS", "0-", "", "as in 0-3,8"),
        ("WATERWHEEL_CPUS", "0,0", "", "as in 0-3,8"),
        ("WATERWHEEL_CPUS", "1023", "there is no CPU 1023", "CPUs "),
        ("WATERWHEEL_REACTOR", "kqueue", "there is no such reactor", "epoll"),
        ("WATERWHEEL_BLOCKING_THREADS", "0", "no work could be done", "a number from 1 to 1024"),
        ("WATERWHEEL_STEER", "hash", "no such steering mode", "flow, source, kernel"),
        ("WATERWHEEL_SPIN_US", "1ms", "not a whole number", "microseconds from 0"),
        ("WATERWHEEL_STALL_MS", "-1", "not a whole number", "milliseconds from 1"),
        ("WATERWHEEL_DRAIN_S", "30s", "not a whole number", "seconds from 0"),
        ("WATERWHEEL_LOG", "loud", "\"loud\" is not one of the levels", "info"),
        ("WATERWHEEL_STEER_PROGRAM", "yes", "neither on nor off", "on, off"),
        ("WATERWHEEL_ON_FAILURE", "retry", "nothing that could be done", "restart, escalate, ignore"),
        ("WATERWHEEL_RESTARTS", "many", "not a whole number", "a number from 0"),
        ("WATERWHEEL_STEER_SEED", "random", "not a whole number", "4294967295"),
    ] {
        let ended = run(command().args(PROXY).env(name, value));
        refused(&ended, 2, &[&format!("{name}={value:?}: {wrong}"), "; allowed: ", allowed]);
    }
}

#[test]
fn a_flag_that_makes_no_sense_stops_the_start_and_overrides_its_variable() {
    for (flags, parts) in [
        (&["--cores", "0"][..], &["--cores=\"0\": no shard could run; allowed: "][..]),
        (&["--cpus", "7-3"], &["--cpus=\"7-3\": ", "; allowed: "]),
        (&["--reactor", "iocp"], &["--reactor=\"iocp\": there is no such reactor; allowed: auto, "]),
        (&["--steer", "x"], &["--steer=\"x\": no such steering mode; allowed: "]),
        (&["--drain-s", "soon"], &["--drain-s=\"soon\": ", "; allowed: "]),
        (&["--log", "x=y"], &["--log=\"x=y\": ", "; allowed: "]),
        (
            &["--cores", "3", "--cpus", "0"],
            &["--cores=\"3\": contradicts --cpus=\"0\"", "; allowed: 1, auto"],
        ),
        (&["--connections", "0"], &["'0'", "--connections", "allowed: 1 to "]),
        (
            &["--cores", "2", "--connections", "1"],
            &["--connections: ", "a limit of 1", "allowed: at least 2"],
        ),
        (&["--connections", "many"], &["'many'", "--connections", "not a whole number", "allowed: 1 to "]),
        (&["--connect-timeout", "5"], &["\"5\"", "--connect-timeout", "allowed: ", "as in 30s"]),
        (&["--connect-timeout", "0s"], &["--connect-timeout", "no time", "allowed: "]),
        (&["--idle-timeout", "-1s"], &["\"-1s\"", "--idle-timeout", "allowed: "]),
        (&["--retries", "-1"], &["'-1'", "--retries", "allowed: 0 to "]),
        (&["--spin-us", "-1"], &["--spin-us=\"-1\": not a whole number; allowed: "]),
        (&["--balance", "fair"], &["fair", "--balance", "allowed: round-robin, least-connections"]),
        (&["--proxy-protocol", "maybe"], &["\"maybe\"", "--proxy-protocol", "allowed: accept, require"]),
        (&["--proxy-protocol", "require"], &["--proxy-trusted"]),
        (&["--proxy-trusted", "10.0.0.0/8"], &["--proxy-protocol"]),
        (
            &["--proxy-protocol", "accept", "--proxy-trusted", "10.0.0.0/8,10.1.2.3/8"],
            &["\"10.1.2.3/8\"", "--proxy-trusted", "allowed: 10.0.0.0/8, or unix"],
        ),
        (
            &["--proxy-protocol", "accept", "--proxy-trusted", "here"],
            &["\"here\"", "--proxy-trusted", "allowed: ADDRESS", "or unix"],
        ),
        (&["--proxy-untrusted", "deny"], &["\"deny\"", "--proxy-untrusted", "allowed: refuse, pass"]),
        (&["--send-proxy", "3"], &["\"3\"", "--send-proxy", "allowed: v1, v2"]),
        (&["--sni", "a.example=a"], &["--group"]),
        (&["--group", "a=127.0.0.1:1"], &["--sni"]),
        (&["--group", "127.0.0.1:1"], &["\"127.0.0.1:1\"", "--group", "NAME=UPSTREAM"]),
        (&["--group", "a=nowhere"], &["\"nowhere\"", "--group", "the port is missing; allowed: "]),
        (&["--sni", "a.example"], &["\"a.example\"", "--sni", "PATTERN=GROUP"]),
        (&["--sni", "*a.example=a"], &["\"*a.example\"", "--sni", "allowed: as in shop.example.org"]),
        (
            &["--group", "a=127.0.0.1:1", "--sni", "x.example=b", "--sni", "y.example=a"],
            &["--sni: the route of x.example leads to \"b\", and there is no group of that name"],
        ),
        (
            &["--group", "a=127.0.0.1:1", "--sni", "x.example=a", "--sni", "X.example=a"],
            &["--sni: x.example has two routes"],
        ),
        (
            &["--group", "a=127.0.0.1:1", "--group", "b=127.0.0.1:1", "--sni", "x.example=a"],
            &["--group: no route leads to the group \"b\""],
        ),
        (&["--total-timeout", "0s"], &["\"0s\"", "--total-timeout", "allowed: 1ms to a year"]),
        (&["--total-timeout", "-1s"], &["\"-1s\"", "--total-timeout", "allowed: "]),
        (&["--total-timeout", "9999999h"], &["9999999h", "--total-timeout"]),
        (&["--first-bytes-timeout", "0s"], &["--first-bytes-timeout: ", "no time", "allowed: more than 0s"]),
        (&["--bogus"], &["--bogus"]),
        (&["surplus"], &["surplus"]),
    ] {
        let ended = run(command().args(PROXY).args(flags).env("WATERWHEEL_CORES", "1"));
        refused(&ended, 2, parts);
    }
    refused(&run(command().args(["proxy", "tcp"])), 2, &["--listen", "--upstream"]);
    refused(&run(command().arg("prxy")), 2, &["prxy"]);
    refused(&run(command().args(["proxy", "udp"])), 2, &["udp"]);
}

#[test]
fn a_limit_of_clients_or_connections_that_makes_no_sense_stops_the_start() {
    for (flags, parts) in [
        (&["--throttle-up", "0"][..], &["'0'", "--throttle-up", "allowed: 1 to 1099511627776 bytes"][..]),
        (&["--throttle-down", "-5"], &["\"-5\"", "--throttle-down", "allowed: bytes as in 64, 1k"]),
        (&["--throttle-down", "2000g"], &["'2000g'", "--throttle-down", "allowed: 1 to"]),
        (&["--throttle-burst", "1m"], &["--throttle-burst 1048576", "allowed: with one"]),
        (&["--client-connections", "0"], &["'0'", "--client-connections", "allowed: 1 to 1000000000"]),
        (&["--client-connections", "-1"], &["'-1'", "--client-connections", "allowed: 1 to 1000000000"]),
        (&["--client-rate", "0"], &["\"0\"", "--client-rate", "allowed: connections from 1 to"]),
        (&["--client-rate", "5/d"], &["\"5/d\"", "--client-rate", "as in 10, 30/m, 100/h"]),
        (
            &["--client-rate", "1", "--client-burst", "0"],
            &["'0'", "--client-burst", "allowed: 1 to 1000000000"],
        ),
        (&["--client-burst", "5"], &["--client-rate"]),
        (&["--client-ipv6-prefix", "64"], &["--client-ipv6-prefix 64", "allowed: both"]),
        (
            &["--client-connections", "1", "--client-ipv4-prefix", "33"],
            &["'33'", "--client-ipv4-prefix", "allowed: 1 to 32"],
        ),
    ] {
        let ended = run(command().args(PROXY).args(flags).env("WATERWHEEL_CORES", "1"));
        refused(&ended, 2, parts);
    }
}

#[test]
fn a_flag_of_the_proxy_that_makes_no_sense_stops_the_start() {
    for (flags, parts) in [
        (
            &["--upstream", "127.0.0.1:1,weight=300"][..],
            &["\"127.0.0.1:1,weight=300\"", "weight is not", "allowed: 0 to 256"][..],
        ),
        (&["--upstream", "127.0.0.1:1,size=3"], &["\"size\" is no option", "allowed: weight, connections"]),
        (&["--upstream", "127.0.0.1:1,connections=0"], &["connections is not", "allowed: 1 to 1000000000"]),
        (&["--check-interval", "0s"], &["\"0s\"", "--check-interval", "allowed: 1ms to a year"]),
        (&["--check-fall", "3"], &["--check-interval"]),
        (&["--check-interval", "1s", "--check-rise", "0"], &["'0'", "--check-rise", "allowed: 1 to 1000"]),
        (
            &["--check-interval", "1s", "--check-jitter", "51"],
            &["'51'", "--check-jitter", "allowed: 0 to 50"],
        ),
        (
            &["--check-interval", "1s", "--check-send", "a\\q"],
            &["--check-send: \"a\\\\q\": an escape", "allowed: \\r, \\n"],
        ),
        (&["--eject-time", "1s"], &["--eject-after"]),
        (
            &["--eject-after", "3", "--eject-time", "1h"],
            &["--eject-time-max: 300s", "allowed: at least the time of the first ejection"],
        ),
        (&["--shares", "wbe=300"], &["no group \"wbe\"", "allowed: default, control"]),
        (&["--queue-times", "web"], &["no group \"web\"", "allowed: default, control"]),
        (&["--latency-class", "web"], &["no group \"web\"", "allowed: default, control"]),
        (&["--panic-percent", "101"], &["'101'", "--panic-percent", "allowed: 0 to 100"]),
        (&["--retry-rate", "x"], &["'x'", "--retry-rate", "allowed: 0 to 1000000"]),
        (&["--slow-start", "0s"], &["\"0s\"", "--slow-start", "allowed: 1ms to a year"]),
        (&["--queue-length", "-1"], &["'-1'", "--queue-length", "allowed: 0 to 1000000"]),
    ] {
        let ended = run(command().args(PROXY).args(flags).env("WATERWHEEL_CORES", "1"));
        refused(&ended, 2, parts);
    }
}

#[test]
fn cores_that_contradict_cpus_are_refused() {
    let ended = run(command().args(PROXY).envs([("WATERWHEEL_CORES", "3"), ("WATERWHEEL_CPUS", "0")]));
    refused(
        &ended,
        2,
        &["WATERWHEEL_CORES=\"3\": contradicts WATERWHEEL_CPUS=\"0\", which names 1 CPU; allowed: "],
    );
}

#[test]
fn a_cpu_outside_the_mask_is_refused() {
    let mine = sched_getaffinity(None).unwrap();
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| mine.is_set(*cpu)).collect();
    let [one, other, ..] = allowed[..] else {
        return eprintln!("not tried: this process may use one CPU only");
    };
    // A child has the mask of the thread that starts it.
    let start = move || {
        let mut mask = CpuSet::new();
        mask.set(one);
        sched_setaffinity(None, &mask).unwrap();
        run(command().args(PROXY).env("WATERWHEEL_CPUS", other.to_string()))
    };
    let line = format!(
        "WATERWHEEL_CPUS=\"{other}\": CPU {other} is outside the affinity mask of this process; allowed: CPUs {one}"
    );
    refused(&kit::spawn(start).join().unwrap(), 2, &[&line]);
}

#[test]
fn an_endpoint_that_is_none_is_refused_on_either_side() {
    let long = format!("unix:/{}", "x".repeat(200));
    for (endpoint, wrong) in [
        ("nowhere", "the port is missing"),
        ("", "it is empty"),
        ("http://127.0.0.1:80", "it is a URL"),
        ("/run/x.sock", "it looks like a path"),
        ("udp:127.0.0.1:80", "udp: carries datagrams, which are no stream"),
        ("::1:80", "an IPv6 address needs brackets"),
        ("tcp:127.0.0.1:65536", "the port is not a number from 0 to 65535"),
        ("tcp:127.0.0.256:80", "the host is not an IPv4 address"),
        ("unix:", "the socket's name is empty"),
        (&long, "the socket's name is longer than 107 bytes"),
    ] {
        for flag in ["--listen", "--upstream"] {
            let ended = run(command().args(PROXY).args([flag, endpoint]));
            let shown = &endpoint[..endpoint.len().min(100)];
            refused(&ended, 2, &[shown, wrong, "; allowed: ", flag]);
        }
    }
}

#[test]
fn an_upstream_that_nobody_can_connect_to_is_refused() {
    for (endpoint, wrong) in [
        ("tcp:127.0.0.1:0", "nothing can connect to port 0; allowed: a port from 1 to 65535"),
        ("tcp:*:80", "it means every interface, and a connection goes to one; allowed: one address or name"),
    ] {
        refused(&run(command().args(PROXY).args(["--upstream", endpoint])), 2, &[wrong]);
    }
}

#[test]
fn a_proxy_pointed_at_itself_is_refused_at_start() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (at, wide) = (format!("tcp:{free}"), format!("tcp:0.0.0.0:{}", free.port()));
    for listen in [&at, &wide] {
        let ended = run(command().args(["proxy", "tcp", "--listen", listen, "--upstream", &at]));
        refused(&ended, 2, &[&at, listen, "own listener"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("own.sock").display());
    let ended = run(command().args(["proxy", "tcp", "--listen", &path, "--upstream", &path]));
    refused(&ended, 2, &[&path, "own listener"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a socket's file is left");
}

#[test]
fn a_start_that_fails_leaves_no_socket_file() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, folder) = (held.local_addr().unwrap(), tempfile::tempdir().unwrap());
    let path = format!("unix:{}", folder.path().join("x.sock").display());
    let ended = run(command().args(PROXY).args(["--listen", &path, "--listen", &taken.to_string()]));
    refused(&ended, 1, &[&format!("cannot listen on tcp:{taken}: "), "in use"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a socket's file is left");
}

#[test]
fn every_address_of_a_name_is_told_and_what_becomes_of_it() {
    // A name with two addresses, in a file system of this command's own.
    let mut hosts = tempfile::NamedTempFile::new().unwrap();
    hosts.write_all(b"127.0.0.1 two.test\n127.0.0.2 two.test\n").unwrap();
    let own_hosts = |script: &str| {
        let script = format!("mount --bind \"$1\" /etc/hosts && {script}");
        let mut unshared = Command::new("unshare");
        unshared.args(["--mount", "--", "sh", "-c", &script]).arg(command().get_program()).arg(hosts.path());
        unshared.stderr(Stdio::null());
        unshared
    };
    if !own_hosts("getent ahostsv4 two.test")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        return eprintln!("not tried: this user may not have a file system of its own");
    }
    let process = kit::Process::start(&mut own_hosts("exec \"$0\" serve echo --listen two.test:0"));
    process.told_of("tcp:two.test:0 is tcp:127.0.0.2:0 too, which is not listened on");
    process.told("waterwheel: listening on tcp:127.0.0.1:");
    let script = "exec \"$0\" proxy tcp --listen 127.0.0.1:0 --upstream two.test:1";
    let process = kit::Process::start(&mut own_hosts(script));
    process.told_of("upstream tcp:two.test:1 is 2 upstreams: tcp:127.0.0.1:1, tcp:127.0.0.2:1");
}

#[test]
fn an_upstream_that_may_be_bound_to_is_not_taken_for_ones_own() {
    // As on hosts that share an address by VRRP, in a network of its own, where 192.0.2.1 is the other one's.
    let network = |script: &str| {
        let script = format!("echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind && {script}");
        let mut unshared = Command::new("unshare");
        unshared.args(["--net", "--", "sh", "-c", &script]).arg(command().get_program());
        unshared
    };
    if !network("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return eprintln!("not tried: this user may not have a network of its own");
    }
    let mut alone = network("exec \"$0\" proxy tcp --listen '*:7' --upstream 192.0.2.1:7");
    let process = kit::Process::start(&mut alone);
    process.told("waterwheel: listening on tcp:0.0.0.0:7");
}

#[test]
fn a_listener_given_twice_is_refused() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ended = run(command().args(PROXY).args(["--listen", &free, "--listen", &free]));
    refused(&ended, 1, &[&format!("cannot listen on tcp:{free}: "), "in use"]);
}

#[test]
fn a_port_in_use_is_told_with_the_systems_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("tcp:{}", taken.local_addr().unwrap());
    let listen = |at: &str| run(command().args(PROXY).args(["--listen", at]));
    refused(&listen(&at), 1, &[&format!("cannot listen on {at}: "), "in use"]);
    // The kernel would let another proxy of the same user share the port.
    let proxy = kit::Proxy::start("auto", &[taken.local_addr().unwrap()], &[]);
    let at = format!("tcp:{}", proxy.at);
    refused(&listen(&at), 1, &[&format!("cannot listen on {at}: "), "in use"]);
}

#[test]
fn a_name_that_nobody_knows_is_told_with_the_systems_reason() {
    // RFC 6761 reserves the domain, so that no resolver knows it.
    for flag in ["--listen", "--upstream"] {
        let ended = run(command().args(PROXY).args([flag, "tcp:no-such-host.invalid:80"]));
        refused(&ended, 1, &["tcp:no-such-host.invalid:80: "]);
        assert!(ended.err.trim_end().len() > "waterwheel: tcp:no-such-host.invalid:80: ".len(), "{ended:?}");
    }
}

#[test]
fn no_permission_is_told_with_the_systems_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).unwrap();
    let at = format!("unix:{}", path.display());
    let mut command = command();
    command.args(PROXY).args(["--listen", &at]);
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere.
        let Some(unprivileged) = as_nobody(&command) else {
            return eprintln!("not tried: root, and setpriv cannot run the command as nobody");
        };
        command = unprivileged;
    }
    refused(&run(&mut command), 1, &[&format!("cannot listen on {at}: "), "ermission denied"]);
}

/// The same by a user who owns nothing; `None` if there is no way to be one, or that user cannot read the command.
fn as_nobody(command: &Command) -> Option<Command> {
    let nobody = || {
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(command.get_program());
        nobody
    };
    let can = nobody().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let mut same = nobody();
    same.args(command.get_args());
    can.is_ok_and(|status| status.success()).then_some(same)
}

#[test]
fn help_and_version_are_no_errors() {
    for (flags, parts) in [
        (&["--help"][..], &["proxy", "demo", "reactors", "--cores"][..]),
        (&["proxy", "tcp", "--help"], &["--listen", "--upstream", "--idle-timeout", "least-connections"]),
        (&["--version"], &[env!("CARGO_PKG_VERSION")]),
    ] {
        let ended = run(command().args(flags));
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{flags:?}");
        for part in parts {
            assert!(ended.out.contains(part), "{part}: {}", ended.out);
        }
    }
    let ended = run(&mut command());
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{ended:?}");
    assert!(ended.err.contains("Usage: waterwheel"), "{ended:?}");
}

#[test]
fn every_reactor_is_listed_with_its_answer() {
    let ended = run(command().arg("reactors"));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(ended.out.lines().count(), reactors().len(), "{ended:?}");
    for (line, backend) in ended.out.lines().zip(reactors()) {
        assert!(line.starts_with(backend.name()), "{line}");
        let answer = if backend.probe().is_ok() { "can run here" } else { "cannot run here: " };
        assert!(line.contains(answer), "{line}");
    }
}

#[test]
fn a_closed_output_is_no_panic_and_a_report_lost_on_a_full_one_no_success() {
    let origin = kit::Origin::echo();
    let target = format!("tcp:{}", origin.at);
    let load = ["load", "run", &target, "--closed", "--connections", "1", "--for", "50ms", "--warm-up", "0s"];
    for (flags, closed, full) in [
        (&["--help"][..], 0, 1),
        (&["--version"], 0, 1),
        (&["reactors"], 0, 1),
        (&load, 0, 1),
        (&[&load[..], &["--json"]].concat(), 0, 1),
        (&["demo", "--for", "100ms", "--connections", "1"], 0, 1),
        // Only standard error is written to.
        (&["proxy", "tcp"], 2, 2),
    ] {
        // Closed before the command begins, and full from its first byte on.
        for (output, code) in [(closed_pipe as fn() -> Stdio, closed), (full_device, full)] {
            let mut child = command().args(flags).stdout(output()).stderr(output()).spawn().unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(code), "{flags:?}");
        }
    }
}

#[test]
fn a_report_that_cannot_be_written_is_told_with_the_systems_reason() {
    let child = command().arg("reactors").stdout(full_device()).stderr(Stdio::piped()).spawn().unwrap();
    refused(&kit::Process::of(child).wait(), 1, &["cannot write to standard output: ", "No space left"]);
}

#[test]
fn what_uring_does_without_is_logged_however_it_was_said() {
    let uring = reactors().into_iter().find(|backend| backend.name() == "uring");
    if uring.is_none_or(|uring| uring.probe().is_err()) {
        return;
    }
    let origin = kit::Origin::echo();
    for (variable, flag) in [("skip,multishot", None), ("buffers", Some("multishot,skip"))] {
        let mut command = kit::Proxy::command("uring", &[origin.at]);
        command.env("WATERWHEEL_URING_OFF", variable);
        command.args(flag.into_iter().flat_map(|list| ["--uring-off", list]));
        let process = kit::Process::start(&mut command);
        let at = process.told("waterwheel: listening on tcp:");
        let mut stream = kit::client(at.parse().unwrap());
        kit::Pattern::new(1).write(&mut stream, 100).unwrap();
        assert_eq!(kit::Pattern::new(1).read(&mut stream, 100).unwrap(), 100);
        drop(stream);
        process.signal(Signal::TERM);
        let ended = process.wait();
        let line = ended.err.lines().find(|line| line.contains("features of io_uring are switched off"));
        assert!(line.is_some_and(|line| line.contains("multishot,skip")), "{}", ended.err);
        assert_eq!(ended.code, Some(0));
    }
}

fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_device() -> Stdio {
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert!(full.metadata().unwrap().file_type().is_char_device());
    full.into()
}

#[test]
fn a_proxy_whose_outputs_are_closed_works_on_and_ends_well() {
    let origin = kit::Origin::echo();
    let mut command = kit::Proxy::command("auto", &[origin.at]);
    let mut child = command.stdout(closed_pipe()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = |line: String| line.strip_prefix("waterwheel: listening on tcp:").map(str::to_owned);
    let at = lines.map_while(Result::ok).find_map(told).unwrap();
    let process = kit::Process::of(child);
    process.signal(Signal::USR1);
    let mut stream = kit::client(at.parse().unwrap());
    kit::Pattern::new(1).write(&mut stream, 100).unwrap();
    assert_eq!(kit::Pattern::new(1).read(&mut stream, 100).unwrap(), 100);
    drop(stream);
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code, Some(0));
}
