//! The access log of a process: a line for each connection, whatever becomes of the file, and nobody waits for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::Value;

use super::kit::{Origin, Proxy, Watch, client, end_of, eventually, on_each_reactor, total};

on_each_reactor![
    every_connection_has_its_line,
    a_file_that_is_moved_away_is_followed_by_another,
    a_full_disk_stops_nobody_and_is_said_seldom,
    a_log_that_nobody_reads_holds_nobody_up,
];

fn start(reactor: &str, origin: &Origin, to: &Path, flags: &[&str]) -> Proxy {
    let mut command = Proxy::command(reactor, &[origin.at]);
    command.arg("--access-log").arg(to).args(["--access-log-format", "json"]).args(flags);
    Proxy::spawn(&mut command)
}

/// One connection: so many bytes there and back.
fn visit(proxy: &Proxy, bytes: usize) {
    let mut stream = client(proxy.at);
    stream.write_all(&vec![7; bytes]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut stream), Ok(bytes));
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is cut: {text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

fn every_connection_has_its_line(reactor: &str) {
    let (origin, folder) = (Origin::echo(), tempfile::tempdir().unwrap());
    let path = folder.path().join("access.log");
    let proxy = start(reactor, &origin, &path, &[]);
    (1..=30).for_each(|bytes| visit(&proxy, bytes));
    // Written soon, and not only at the end.
    eventually("30 lines", || (lines(&path).len() == 30).then_some(()));
    // One that is cut short by the end, and one that nobody wants.
    let mut held = client(proxy.at);
    held.write_all(b"held").unwrap();
    held.read_exact(&mut [0; 4]).unwrap();
    let ours = held.local_addr().unwrap();
    proxy.process.signal(Signal::TERM);
    pause_for_drain(&proxy);
    proxy.process.signal(Signal::TERM);
    drop(proxy.process.wait());
    let lines = lines(&path);
    assert_eq!(lines.len(), 31);
    let sum = |of: &str| lines.iter().map(|line| line[of].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("bytes_up"), sum("bytes_down")), (465 + 4, 465 + 4));
    let last =
        lines.iter().find(|line| line["client"] == format!("tcp:{ours}")).expect("the last one's line");
    assert_eq!(last["end"], "cut_short", "{last}");
    for line in lines.iter().filter(|line| line["client"] != last["client"]) {
        assert_eq!(
            (&line["end"], &line["upstream"]),
            (&"finished".into(), &format!("tcp:{}", origin.at).into())
        );
        assert!(line["connect_s"].as_f64().unwrap() <= line["duration_s"].as_f64().unwrap(), "{line}");
    }
}

fn pause_for_drain(proxy: &Proxy) {
    proxy.process.told_of("what runs may finish");
}

fn a_file_that_is_moved_away_is_followed_by_another(reactor: &str) {
    let (origin, folder) = (Origin::echo(), tempfile::tempdir().unwrap());
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let proxy = start(reactor, &origin, &path, &[]);
    (0..10).for_each(|_| visit(&proxy, 1));
    std::fs::rename(&path, &moved).unwrap();
    // Asks for a report too.
    proxy.process.signal(Signal::USR1);
    proxy.process.json();
    eventually("another file", || path.exists().then_some(()));
    (0..10).for_each(|_| visit(&proxy, 2));
    let report = proxy.stop();
    assert_eq!(total(&report, "finished"), 20);
    let (before, after) = (lines(&moved), lines(&path));
    assert_eq!(before.len() + after.len(), 20, "a line is lost, or there twice");
    assert!(after.iter().filter(|line| line["bytes_up"] == 2).count() == 10, "{after:?}");
}

fn a_full_disk_stops_nobody_and_is_said_seldom(reactor: &str) {
    let origin = Origin::echo();
    let proxy = start(reactor, &origin, Path::new("/dev/full"), &[]);
    for _ in 0..5 {
        (0..20).for_each(|_| visit(&proxy, 3));
        // Longer than lines are held.
        super::kit::pause(Duration::from_millis(250));
    }
    proxy.process.signal(Signal::TERM);
    let ended = proxy.process.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let told =
        ended.err.lines().filter(|line| line.contains("the access log /dev/full cannot be written")).count();
    assert!((1..=2).contains(&told), "told {told} times: {}", ended.err);
}

fn a_log_that_nobody_reads_holds_nobody_up(reactor: &str) {
    let (origin, folder) = (Origin::echo(), tempfile::tempdir().unwrap());
    let path = folder.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let proxy = start(reactor, &origin, &path, &[]);
    let watch = Watch::start();
    (0..100).for_each(|_| visit(&proxy, 3));
    let _: TcpStream = client(proxy.at);
    proxy.process.signal(Signal::TERM);
    let ended = proxy.process.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    watch.left("an end that waits for no reader");
}

#[test]
fn a_log_that_cannot_be_written_is_no_start() {
    let origin = Origin::echo();
    let mut command = Proxy::command("auto", &[origin.at]);
    let ended = super::kit::run(command.args(["--access-log", "/no/such/folder/log"]));
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(
        ended.err.contains("cannot write an access log to /no/such/folder/log: No such file"),
        "{}",
        ended.err
    );
    let ended = super::kit::run(Proxy::command("auto", &[origin.at]).args([
        "--access-log-format",
        "xml",
        "--access-log",
        "-",
    ]));
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("\"xml\"") && ended.err.contains("allowed: text, json"), "{}", ended.err);
}
