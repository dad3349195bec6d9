//! The programs together: the demo, and a load through a proxy on an origin, each a process of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::cli::refused;
use super::kit::{Process, Proxy, client, command, end_of, eventually, on_each_reactor, pause, run, total};

on_each_reactor![
    the_demo_gets_every_byte_back_on_any_number_of_cores,
    the_demo_prints_what_it_measured,
    a_demo_that_is_stopped_reports_the_time_that_it_took,
    an_origin_serves_so_many_at_once_and_no_more,
    a_load_through_a_proxy_accounts_for_every_request,
    an_origin_answers_byte_by_byte_and_refuses_garbage,
];

/// A command on this reactor.
fn on(reactor: &str, cores: usize, arguments: &str) -> Command {
    let mut command = command();
    command.envs([("WATERWHEEL_REACTOR", reactor), ("WATERWHEEL_CORES", &cores.to_string())]);
    command.args(arguments.split(' '));
    command
}

fn the_demo_gets_every_byte_back_on_any_number_of_cores(reactor: &str) {
    for cores in 1..=3 {
        let ended = run(&mut on(reactor, cores, "demo --for 300ms --connections 4 --json"));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let result: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!((&result["right"], &result["faults"]), (&true.into(), &Value::Array(vec![])), "{result}");
        assert!(result["reactor"].as_str().unwrap().starts_with(reactor), "{result}");
        let shards = result["shards"].as_array().unwrap();
        let sum = |name: &str| shards.iter().map(|shard| shard[name].as_u64().unwrap()).sum::<u64>();
        assert_eq!((shards.len(), sum("connections")), (cores, 4 * cores as u64), "{result}");
        let messages = result["messages"].as_u64().unwrap();
        assert!(messages > 0 && sum("messages") == messages && sum("tallies") == messages, "{result}");
        assert_eq!(sum("proxied"), 4 * cores as u64, "{result}");
        // Each message goes there and back, 64 bytes long.
        assert_eq!(result["proxy"]["bytes_up"], messages * 64, "{result}");
        assert_eq!(result["proxy"]["bytes_down"], messages * 64, "{result}");
    }
}

fn a_demo_that_is_stopped_reports_the_time_that_it_took(reactor: &str) {
    let stopped_after = |time: Duration| -> Value {
        let process = Process::start(&mut on(reactor, 2, "demo --for 1h --connections 2 --json"));
        process.hears_interrupts();
        pause(time);
        process.signal(Signal::INT);
        let ended = process.wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        serde_json::from_str(&ended.out).unwrap()
    };
    // On a busy machine it may not have begun by then.
    let mut results = (0..4).map(|times| stopped_after(Duration::from_secs(1 << times)));
    let result = results.find(|result| result["messages"] != 0).expect("messages in eight seconds");
    assert_eq!(result["interrupted"], true, "{result}");
    let (seconds, messages) = (result["seconds"].as_f64().unwrap(), result["messages"].as_f64().unwrap());
    assert!(seconds > 0.0 && seconds < 30.0, "{result}");
    assert!(
        (result["messages_per_second"].as_f64().unwrap() * seconds / messages - 1.0).abs() < 1e-6,
        "{result}"
    );
}

fn an_origin_serves_so_many_at_once_and_no_more(reactor: &str) {
    let process =
        Process::start(&mut on(reactor, 2, "serve http --listen 127.0.0.1:0 --connections 3 --size 1"));
    let at = process.told("waterwheel: listening on tcp:").parse().unwrap();
    // So many that each shard has more than it may serve. A connection that is served says so at once.
    let mut clients: Vec<_> = (0..40).map(|_| client(at)).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap());
    let mut answered = |limit: Duration| {
        clients.iter_mut().for_each(|client| client.set_read_timeout(Some(limit)).unwrap());
        clients.iter_mut().filter_map(|client| client.peek(&mut [0]).ok()).sum::<usize>()
    };
    eventually("three answers", || (answered(Duration::from_millis(1)) >= 3).then_some(()));
    assert_eq!(answered(Duration::from_millis(20)), 3);
    let few = run(&mut on(reactor, 2, "serve http --listen 127.0.0.1:0 --connections 1"));
    refused(&few, 2, &["--connections 1: fewer than the 2 shards"]);
}

fn the_demo_prints_what_it_measured(reactor: &str) {
    let ended = run(&mut on(reactor, 2, "demo --for 200ms --connections 2 --size 1000"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in [reactor, "p50", "shard", "message", "CPU"] {
        assert!(ended.out.contains(part), "{part} is missing:\n{}", ended.out);
    }
}

/// An origin, and where it listens.
fn serve(reactor: &str, arguments: &str) -> (Process, SocketAddr) {
    let process = Process::start(&mut on(reactor, 1, &format!("serve {arguments} --listen 127.0.0.1:0")));
    let at = process.told("waterwheel: listening on tcp:").parse().unwrap();
    (process, at)
}

fn ends_well(process: Process) {
    process.signal(Signal::TERM);
    let ended = process.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

fn a_load_through_a_proxy_accounts_for_every_request(reactor: &str) {
    for (origin, scheme, path, mode) in [
        ("echo", "tcp:", "", "--closed"),
        ("http", "http://", "/1k", "--closed"),
        ("http", "http://", "/1k", "--rate 300"),
    ] {
        let (origin, at) = serve(reactor, origin);
        let proxy = Proxy::start(reactor, &[at], &[]);
        let target = format!("{scheme}{}{path}", proxy.at);
        let arguments = format!(
            "load run {target} {mode} --connections 6 --for 400ms --warm-up 100ms --timeout 20s --json --quiet"
        );
        let ended = run(&mut on(reactor, 1, &arguments));
        // A crowded machine makes the measurement invalid (4), but no answer wrong.
        assert!(matches!(ended.code, Some(0 | 4)), "{ended:?}");
        let report: Value = serde_json::from_str(&ended.out).unwrap();
        let count = |name: &str| report["account"][name].as_u64().unwrap();
        let ends = ["ok", "http_error", "transport_error", "timeout", "shed", "unsent", "in_flight"];
        assert_eq!(count("planned"), ends.map(count).iter().sum::<u64>(), "{report}");
        let wrong = ["http_error", "transport_error", "timeout", "shed"].map(count);
        assert!(count("ok") > 0 && wrong == [0; 4], "{report}");
        assert_eq!(report["connections"]["established"], 6, "{report}");
        let counted = proxy.stop();
        assert_eq!(total(&counted, "accepted"), total(&counted, "finished"), "{counted}");
        assert!(total(&counted, "bytes_up") > 0, "{counted}");
        ends_well(origin);
    }
}

fn an_origin_answers_byte_by_byte_and_refuses_garbage(reactor: &str) {
    let (process, at) = serve(reactor, "http");
    let mut stream = client(at);
    for byte in b"GET /10 HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && body.len() == 10, "{answer}");
    let endless = [b"GET / HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(100_000)].concat();
    for garbage in [&b"\x16\x03\x01\0\xff\0\0\r\n\r\n"[..], b"GET\r\n\r\n", &[0; 100_000], &endless] {
        let mut stream = client(at);
        // It may hang up before it has read all.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it hangs"),
            Ok(_) => assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}"),
        }
    }
    ends_well(process);
    let (process, at) = serve(reactor, "echo");
    let mut stream = client(at);
    stream.write_all(b"there").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut stream), Ok(5));
    ends_well(process);
}

#[test]
fn what_makes_no_sense_is_refused_by_every_program() {
    for (arguments, parts) in [
        ("demo --for 0s", &["\"0s\"", "--for", "allowed: 100ms to 1h"][..]),
        ("demo --connections 0", &["'0'", "--connections", "allowed: 1 to 2000"]),
        ("demo --connections -1", &["'-1'", "--connections", "allowed: 1 to 2000"]),
        ("demo --size 1k", &["'1k'", "--size", "allowed: 1 to 65536"]),
        ("serve http", &["--listen"]),
        ("serve echo --listen x", &["\"x\"", "--listen", "allowed: "]),
        ("serve echo --listen 127.0.0.1:0 --connections 0", &["'0'", "--connections", "allowed: 1 to "]),
        ("serve http --listen 127.0.0.1:0 --size x", &["\"x\"", "--size", "allowed: "]),
        ("load run tcp:127.0.0.1:1", &["--rate", "--closed"]),
        ("load run tcp:127.0.0.1:0 --closed", &["port 0", "allowed: "]),
        ("load run https://127.0.0.1/ --closed", &["TLS", "allowed: "]),
        ("load run tcp:127.0.0.1:1 --rate 0", &["'0'", "--rate", "from 0.001"]),
        ("load run tcp:127.0.0.1:1 --closed --connections 0", &["'0'", "allowed: 1 to "]),
        ("load run tcp:127.0.0.1:1 --closed --seed x", &["'x'", "--seed", "allowed: 0 to "]),
        ("load run tcp:127.0.0.1:1 --closed --slo p99", &["\"p99\"", "--slo", "p99<1ms"]),
        ("load run tcp:127.0.0.1:1 --closed --for -1s", &["\"-1s\"", "--for", "allowed: "]),
    ] {
        refused(&run(command().args(arguments.split(' '))), 2, parts);
    }
}

#[test]
fn a_target_that_is_not_there_is_told_with_the_systems_reason() {
    let (_held, dead) = super::kit::dead_port();
    let arguments = format!("load run tcp:{dead} --closed --for 100ms --quiet");
    let ended = run(command().args(arguments.split(' ')).env("WATERWHEEL_LOG", "warn"));
    refused(&ended, 1, &[&format!("tcp:{dead}: "), "refused"]);
}
