//! `waterwheel load run` against targets that a test plays, as a process: its exit codes, and that nothing it measured
//! is lost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::cli::refused;
use super::kit::{Ended, LONG, Origin, Process, Unreachable, command, pause, run};

/// What the command reported.
#[track_caller]
fn report(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// A load on `target` with one shard.
fn load(target: &str, arguments: &str) -> std::process::Command {
    let mut command = command();
    command.env("WATERWHEEL_CORES", "1").args(["load", "run", target, "--quiet", "--json"]);
    command.args(arguments.split(' '));
    command
}

fn http(at: SocketAddr) -> String {
    format!("http://{at}/")
}

/// Reads the head of a request; false at the end of the stream.
fn asked(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1..) => head.extend(byte),
            _ => return false,
        }
    }
    true
}

#[test]
fn a_target_that_closes_after_each_answer_is_not_dead() {
    let origin = Origin::start(|mut stream| {
        if asked(&mut stream) {
            // So slow that one is asked for when the time is over, and no connection established when its answer came.
            pause(Duration::from_millis(200));
            // The generator may be gone: its last connection waits for nobody.
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello");
        }
    });
    let ended = run(&mut load(&http(origin.at), "--closed --connections 1 --for 300ms --warm-up 0s"));
    let report = report(&ended);
    assert!(report["account"]["ok"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["connections"]["refused_at_end"], 0, "{report}");
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_load_on_a_target_that_hangs_reports_when_it_is_interrupted_twice_or_its_drain_is_over() {
    for (arguments, signals) in [("", 2), (" --drain-s 1", 1)] {
        let (asks, was_asked) = channel();
        let origin = Origin::start(move |mut stream| {
            // It is the client that ends this.
            if asked(&mut stream) && asks.send(()).is_ok() {
                asked(&mut stream);
            }
        });
        let arguments = format!("--closed --connections 2 --for 60s --warm-up 0s --timeout 60s{arguments}");
        let process = Process::start(&mut load(&http(origin.at), &arguments));
        (0..2).for_each(|_| was_asked.recv_timeout(LONG).unwrap());
        process.signal(Signal::INT);
        if signals == 2 {
            // Two signals at the same time are one, also where it takes the process a while to look at the first.
            pause(Duration::from_secs(1));
            process.signal(Signal::INT);
        }
        let ended = process.wait();
        let report = report(&ended);
        assert_eq!(
            (&report["interrupted"], &report["account"]["in_flight"]),
            (&true.into(), &2.into()),
            "{report}"
        );
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn a_load_is_stopped_while_it_connects() {
    let nowhere = Unreachable::new();
    let target = format!("tcp:{}", nowhere.at);
    let process = Process::start(&mut load(&target, "--closed --connections 1000 --timeout 60s"));
    process.hears_interrupts();
    process.signal(Signal::INT);
    let ended = process.wait();
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains(&format!("{target}: stopped before anything was measured")), "{ended:?}");
}

#[test]
fn a_rate_that_nobody_can_send_is_refused() {
    let ended = run(&mut load("tcp:127.0.0.1:1", "--rate 100m"));
    refused(&ended, 2, &["--rate", "100M", "allowed: up to 1M"]);
}
