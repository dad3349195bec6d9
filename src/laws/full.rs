//! Outputs that nobody reads: whoever holds the other end of a pipe must not hold up traffic, nor the end.

use std::io::{ErrorKind, PipeReader, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::pipe::fcntl_setpipe_size;
use rustix::process::Signal;

use super::kit::{self, Origin, Process, Watch, dead_port, eventually, on_each_reactor, spawn};

on_each_reactor![
    a_full_output_makes_no_signal_deaf,
    a_full_error_output_stops_no_traffic_and_its_losses_are_told,
];

/// A pipe that takes nothing more, and the end that nobody reads.
fn full() -> (Stdio, PipeReader) {
    let (reader, mut writer) = pipe().unwrap();
    let size = fcntl_setpipe_size(&writer, 4096).unwrap();
    writer.write_all(&vec![b'\n'; size]).unwrap();
    (writer.into(), reader)
}

/// A proxy with two shards on a Unix path, so that nothing has to be read to know where it is.
fn proxy(reactor: &str, upstreams: &[String]) -> (Command, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front.sock");
    let mut command = kit::command();
    command.envs([("WATERWHEEL_REACTOR", reactor), ("WATERWHEEL_CORES", "2")]);
    command.args(["proxy", "tcp", "--json", "--drain-s", "3600", "--listen"]);
    command.arg(format!("unix:{}", path.display())).stdin(Stdio::null());
    for upstream in upstreams {
        command.args(["--upstream", upstream]);
    }
    (command, path, folder)
}

fn exchange(path: &PathBuf) -> UnixStream {
    let mut stream = eventually("a connection", || UnixStream::connect(path).ok());
    stream.set_read_timeout(Some(kit::LONG)).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

fn a_full_output_makes_no_signal_deaf(reactor: &str) {
    let origin = Origin::echo();
    // The first signal drains what there is; the second ends what does not end.
    for held in [false, true] {
        let (mut command, path, _folder) = proxy(reactor, &[origin.at.to_string()]);
        let ((out, _unread), (err, _unheard)) = (full(), full());
        let process = Process::of(command.stdout(out).stderr(err).spawn().unwrap());
        let stream = exchange(&path);
        for _ in 0..3 {
            process.signal(Signal::USR1);
            // So that each is seen by itself.
            kit::moment();
        }
        let held = held.then_some(stream);
        process.signal(Signal::TERM);
        if held.is_some() {
            eventually("the listener to close", || UnixStream::connect(&path).err());
            assert!(!process.has_ended(), "it did not wait for its connection");
            process.signal(Signal::TERM);
        }
        assert_eq!(process.wait().code, Some(0));
    }
}

fn a_full_error_output_stops_no_traffic_and_its_losses_are_told(reactor: &str) {
    const CONNECTIONS: u64 = 2_000;
    let (_held, dead) = dead_port();
    let (mut command, path, _folder) = proxy(reactor, &[dead.to_string()]);
    let (err, mut unread) = full();
    // A line at least for each connection, since nobody takes it: more than can wait.
    command.env("WATERWHEEL_LOG", "debug").stdout(Stdio::piped()).stderr(err);
    let process = Process::of(command.spawn().unwrap());
    // It holds an end of the pipe.
    drop(command);
    let watch = Watch::start();
    for _ in 0..CONNECTIONS {
        let mut stream = eventually("a connection", || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(kit::LONG)).unwrap();
        let ended = stream.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)), "{ended:?}");
        watch.left("all connections");
    }
    process.signal(Signal::USR1);
    let report = process.json();
    assert_eq!(report["total"]["no_upstream"], CONNECTIONS, "{report}");
    let heard = spawn(move || {
        let mut text = String::new();
        unread.read_to_string(&mut text).map(|_| text)
    });
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code, Some(0));
    let heard = heard.join().unwrap().unwrap();
    assert!(heard.contains("listening on unix:") && heard.contains(" lines were lost here"), "{heard}");
}
