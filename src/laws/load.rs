//! `waterwheel load run` against targets that a test plays, as a process: its exit codes, and that nothing it measured
//! is lost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::kit::{Ended, Origin, command, pause, run};

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
