//! The origins on a real reactor, with a plain blocking client.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use waterwheel_reactor::Address;

use super::*;
use crate::runtime::{Config, Runtime, Service};

/// Runs an origin on one shard while `client` talks to it.
fn with_origin<S: Service<Settings = OriginSettings>>(
    settings: OriginSettings,
    client: impl FnOnce(&dyn Fn() -> TcpStream),
) {
    let runtime = Runtime::new(Config::default().cores(1)).unwrap().without_signals();
    let listening = runtime.listen("tcp:127.0.0.1:0").unwrap();
    let Address::Inet(at) = listening.local().clone() else { panic!("an internet address") };
    let stopper = runtime.stopper();
    std::thread::scope(|scope| {
        let served = scope.spawn(move || runtime.serve::<S>(listening, settings));
        let connect = || {
            let stream = TcpStream::connect(at).unwrap();
            stream.set_nodelay(true).unwrap();
            // A hang is a failure with a name.
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        let talked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client(&connect)));
        stopper.stop(Duration::from_secs(20));
        served.join().unwrap().unwrap();
        talked.unwrap();
    });
}

fn http(client: impl FnOnce(&dyn Fn() -> TcpStream)) {
    with_origin::<HttpOrigin>(OriginSettings::default(), client);
}

/// Everything until the end of the stream.
fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// One response with a Content-Length: its head and its body.
fn response(stream: &mut TcpStream, with_body: bool) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; if with_body { length } else { 0 }];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[test]
fn an_echo_returns_everything_also_behind_a_half_close() {
    with_origin::<EchoOrigin>(OriginSettings::default(), |connect| {
        // More than all buffers hold, so that both directions must move at once.
        let sent: Vec<u8> = (0..8u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut stream = connect();
        let mut writing = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                writing.write_all(&sent).unwrap();
                writing.shutdown(Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            assert!(back == sent, "{} of {} bytes came back right", back.len(), sent.len());
        });
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_arrive() {
    http(|connect| {
        let sizes = [5u64, 0, 1024, 20_000, 3, 300_000, 16_384, 1];
        let asked: String = sizes.iter().map(|size| get(&format!("/{size}"))).collect();
        for piece in [1, 7, asked.len()] {
            let mut stream = connect();
            let mut writing = stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    asked.as_bytes().chunks(piece).for_each(|part| writing.write_all(part).unwrap())
                });
                for size in sizes {
                    let (head, body) = response(&mut stream, true);
                    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
                    assert_eq!(body.len() as u64, size);
                }
            });
        }
    });
}

#[test]
fn heads_methods_and_paths_are_told_apart() {
    http(|connect| {
        let mut stream = connect();
        let mut ask = |request: &str, with_body| {
            stream.write_all(request.as_bytes()).unwrap();
            response(&mut stream, with_body)
        };
        let head_of = |path: &str| get(path).replacen("GET", "HEAD", 1);
        assert!(ask(&head_of("/1m"), false).0.contains("Content-Length: 1048576\r\n"));
        assert_eq!(ask(&get("/"), true).1.len(), 1024, "the default");
        assert_eq!(ask(&get("/index.html?x=7"), true).1.len(), 1024);
        assert_eq!(ask(&get("/2k?x=7"), true).1.len(), 2048);
        assert_eq!(ask(&get("/redirect?u=http://x/5"), true).1.len(), 1024, "a URL in a query is none");
        assert_eq!(ask(&get("http://localhost/7"), true).1.len(), 7, "as a proxy asks");
        assert!(ask(&get("/2g"), true).0.starts_with("HTTP/1.1 404 "));
        assert!(ask(&get("/1x"), true).0.starts_with("HTTP/1.1 404 "));
        let post = "POST /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        assert!(ask(post, true).0.starts_with("HTTP/1.1 405 "));
        let chunked = "PUT /5 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert!(ask(chunked, true).0.contains("\r\nAllow: GET, HEAD\r\n"));
        assert_eq!(ask(&get("/9"), true).1.len(), 9, "and the connection is still in step");
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            .unwrap();
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"ok").unwrap();
        assert!(response(&mut stream, true).0.starts_with("HTTP/1.1 405 "));
    });
}

#[test]
fn connections_end_when_the_client_wants_it() {
    http(|connect| {
        for request in ["GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET /3 HTTP/1.0\r\n\r\n"]
        {
            let mut stream = connect();
            stream.write_all(request.as_bytes()).unwrap();
            let all = rest(&mut stream);
            assert!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.contains("Connection: close\r\n"), "{all}");
        }
        let mut stream = connect();
        stream.write_all(b"GET /3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        assert!(response(&mut stream, true).0.contains("Connection: keep-alive\r\n"));
        stream.write_all(get("/4").as_bytes()).unwrap();
        assert_eq!(response(&mut stream, true).1.len(), 4);
    });
}

#[test]
fn garbage_is_answered_with_400_and_an_end_behind_what_was_asked_before() {
    http(|connect| {
        for (garbage, status) in [
            ("GARBAGE\r\n\r\n".to_owned(), "400 "),
            ("\u{1}\u{2}\r\n".to_owned(), "400 "),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400 "),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned(), "400 "),
            ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n".to_owned(), "400 "),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000)), "431 "),
        ] {
            let mut stream = connect();
            stream.write_all(get("/3").as_bytes()).unwrap();
            stream.write_all(garbage.as_bytes()).unwrap();
            assert!(response(&mut stream, true).0.starts_with("HTTP/1.1 200 "));
            let all = rest(&mut stream);
            assert!(all.starts_with(&format!("HTTP/1.1 {status}")), "{garbage:.40}: {all}");
            assert!(all.contains("Connection: close\r\n"), "{all}");
        }
    });
}

#[test]
fn clients_that_say_nothing_or_only_begin_are_let_go() {
    let settings = OriginSettings { idle: Duration::from_millis(150), ..OriginSettings::default() };
    with_origin::<HttpOrigin>(settings, |connect| {
        let mut silent = connect();
        assert_eq!(rest(&mut silent), "");
        // A byte now and then is no progress until the head is complete.
        let mut slow = connect();
        slow.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut ended = false;
        for byte in get("/1").bytes().chain(std::iter::repeat_n(b'\n', 500)) {
            ended = slow.write_all(&[byte]).is_err() || matches!(slow.read(&mut [0]), Ok(0));
            if ended {
                break;
            }
        }
        assert!(ended, "one byte every 20 ms kept it");
        // It takes a response and does not read it.
        let mut greedy = connect();
        greedy.write_all(get("/1g").as_bytes()).unwrap();
        let mut busy = connect();
        for _ in 0..30 {
            busy.write_all(get("/1").as_bytes()).unwrap();
            response(&mut busy, true);
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_stop_does_not_wait_for_idle_clients() {
    let mut kept = Vec::new();
    http(|connect| {
        let mut stream = connect();
        stream.write_all(get("/1").as_bytes()).unwrap();
        response(&mut stream, true);
        kept.push(stream);
    });
    // The origin has returned although the client is still there; the idle limit is a minute, the drain 20 s.
    assert_eq!(rest(&mut kept[0]), "");
}
