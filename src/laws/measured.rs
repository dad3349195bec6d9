//! What a program counts, as it is told over HTTP: consistent under load, never less than before, bounded; and how it
//! stands.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};
use waterwheel::metrics::{Condition, Counter, FamilyOptions, Unit};
use waterwheel::net::Connection;
use waterwheel::runtime::{Config, OnFailure, RunError, Runtime, Stopper, Supervision};
use waterwheel::shard::{Shard, ShardId};

use super::kit::{
    LONG, Page, Proxy, Watch, client, config, dead_port, eventually, meet, on_each_reactor, spawn, total,
};

on_each_reactor![
    a_scrape_under_load_is_what_clients_did,
    nothing_goes_back_over_restarts,
    wrong_http_has_its_answer,
    clients_that_say_nothing_keep_nobody_out,
    ready_is_told_from_starting_and_stopping,
    who_is_about_to_stop_says_so_and_serves_as_before,
    shards_that_stall_or_wait_for_their_restart_are_named,
    the_endpoint_goes_to_the_next_shard_when_one_is_gone_for_good,
    the_endpoint_is_there_while_an_escalated_failure_drains,
    the_proxy_tells_what_it_reports,
    a_connection_is_a_span_of_the_log,
    a_unix_socket_is_as_good_and_goes_with_the_runtime,
];

const SHARDS: usize = 3;

/// Kept on a shard, it ends the life of that.
struct Killed;

struct Running {
    at: SocketAddr,
    admin: SocketAddr,
    stopper: Stopper,
    remote: waterwheel::mesh::Remote,
    condition: Condition,
    thread: JoinHandle<Result<Vec<()>, RunError>>,
}

/// Echoes and counts; on a `!` the shard's main future panics.
fn start(config: Config) -> Running {
    let (tell, told) = channel();
    let thread = spawn(move || {
        let config = config.admin("tcp:127.0.0.1:0".parse().unwrap());
        let runtime = Runtime::new(config).unwrap().without_signals();
        let listening = runtime.listen("127.0.0.1:0").unwrap();
        let echoed = runtime.counter("mill_echoed_total", "Echoes \\ so\nfar.").unwrap();
        let sizes = runtime.histogram("mill_echo_bytes", "Of each.", Unit::Bytes).unwrap();
        let open = runtime.gauge("mill_open", "Connections.").unwrap();
        let options = FamilyOptions { children: 3, ..FamilyOptions::default() };
        let letters = runtime.counters("mill_letters_total", "", ["first"], options).unwrap();
        let condition = runtime.condition("the weir is open");
        let (at, admin) = (listening.local().inet().unwrap(), runtime.admin_local().unwrap().inet().unwrap());
        tell.send((at, admin, runtime.stopper(), runtime.remote(), condition)).unwrap();
        runtime.run(move |shard| {
            let (listening, echoed, sizes) = (listening.clone(), echoed.clone(), sizes.clone());
            let (open, letters) = (open.clone(), letters.clone());
            async move {
                let (echoed, sizes) = (shard.counter(&echoed)?, shard.histogram(&sizes)?);
                let (open, letters) = (shard.gauge(&open)?, shard.children(&letters)?);
                let kill = Rc::new(std::cell::Cell::new(false));
                let order = kill.clone();
                let count = move |bytes: &[u8]| {
                    echoed.increment();
                    sizes.record(bytes.len() as u64);
                    let first = String::from_utf8_lossy(&bytes[..1]).into_owned();
                    Counter::increment(&letters.with([&first]));
                    order.set(order.get() || bytes.contains(&b'!'));
                };
                let serving = shard.accept_on(&listening)?.serve(usize::MAX, move |connection| {
                    let (open, count) = (open.clone(), count.clone());
                    async move {
                        open.add(1.0);
                        let ended = echo(connection, count).await;
                        open.add(-1.0);
                        ended
                    }
                });
                let killer = async {
                    while !kill.get() && shard.kept::<Killed>().is_none() {
                        shard.sleep(Duration::from_millis(1)).await;
                    }
                    panic!("planned");
                };
                futures_util::future::select(std::pin::pin!(serving), std::pin::pin!(killer)).await;
                Ok(())
            }
        })
    });
    let (at, admin, stopper, remote, condition) = told.recv_timeout(LONG).unwrap();
    Running { at, admin, stopper, remote, condition, thread }
}

async fn echo(mut connection: Connection, count: impl Fn(&[u8])) -> anyhow::Result<()> {
    let mut buffer = [0; 1000];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(connection.close().await?),
            read => {
                connection.write_all(&buffer[..read]).await?;
                count(&buffer[..read]);
            }
        }
    }
}

impl Running {
    fn stop(self) -> Result<Vec<()>, RunError> {
        self.stopper.stop(LONG);
        self.thread.join().unwrap()
    }

    /// `None`: the shard that serves it died just then.
    fn page_if_it_lives(&self) -> Option<Page> {
        let (mut stream, mut text) = (client(self.admin), String::new());
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        stream.read_to_string(&mut text).ok()?;
        Some(Page::read(text.split_once("\r\n\r\n")?.1, false))
    }

    fn page(&self) -> Page {
        let (head, body) = get(self.admin, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        Page::read(&body, false)
    }
}

/// Head and body of the answer to a request.
fn ask(stream: &mut (impl Read + Write), request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    (format!("{head}\r\n"), body.to_owned())
}

fn get(at: SocketAddr, path: &str) -> (String, String) {
    ask(&mut client(at), &format!("GET {path} HTTP/1.1\r\nHost: mill\r\nConnection: close\r\n\r\n"))
}

fn goes_round(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let mut back = vec![0; bytes.len()];
    stream.write_all(bytes).is_ok() && stream.read_exact(&mut back).is_ok() && back == bytes
}

fn a_scrape_under_load_is_what_clients_did(reactor: &str) {
    const CLIENTS: usize = 6;
    const ECHOES: usize = 200;
    let running = start(config(reactor, SHARDS));
    let at = running.at;
    let mut pages = vec![running.page()];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            spawn(move || {
                let mut stream = client(at);
                // Each begins with another letter: there is room for three.
                let word = format!("{number}water");
                assert!((0..ECHOES).all(|_| goes_round(&mut stream, word.as_bytes())));
                stream
            })
        })
        .collect();
    while clients.iter().any(|client| !client.is_finished()) {
        let page = running.page();
        page.has_grown_since(&pages[pages.len() - 1]);
        let (echoed, recorded) = (page.value("mill_echoed_total{}"), page.value("mill_echo_bytes_count{}"));
        assert_eq!(echoed, recorded, "a shard was asked between the two");
        pages.push(page);
    }
    let open: Vec<TcpStream> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let all = (CLIENTS * ECHOES) as f64;
    // The last echo is counted after it was sent.
    let page = eventually("all to be counted", || {
        Some(running.page()).filter(|page| page.value("mill_echoed_total{}") == all)
    });
    assert_eq!(page.value("mill_echo_bytes_sum{}"), all * 6.0);
    assert_eq!(page.value("mill_echo_bytes_bucket{le=64}"), all);
    assert_eq!(page.value("mill_open{}"), CLIENTS as f64);
    let letters: Vec<(&str, f64)> =
        page.growing().filter(|(key, _)| key.starts_with("mill_letters_total")).collect();
    assert_eq!(letters.len(), 4, "three, and the others: {letters:?}");
    assert_eq!(letters.iter().map(|(_, count)| count).sum::<f64>(), all, "{letters:?}");
    assert_eq!(page.value("mill_letters_total{first=other}"), all / 2.0);
    let of_shards = |name: &str| -> f64 {
        let series = page.series.iter().filter(|(key, _)| key.starts_with(&format!("{name}{{")));
        series.map(|(_, value)| value).sum()
    };
    assert_eq!(of_shards("waterwheel_accepted_total"), CLIENTS as f64);
    assert_eq!(of_shards("waterwheel_shard_answered"), SHARDS as f64);
    assert!(
        of_shards("waterwheel_shard_cpu_seconds_total") > 0.0 && of_shards("waterwheel_turns_total") > 10.0
    );
    assert!(of_shards("process_cpu_seconds_total") > 0.0 && of_shards("process_open_fds") > 6.0);
    assert_eq!(page.help["mill_echoed_total"], r"Echoes \\ so\nfar.");
    drop(open);
    running.stop().unwrap();
}

fn nothing_goes_back_over_restarts(reactor: &str) {
    const DEATHS: usize = 6;
    let supervision = Supervision { restarts: 100, pause: Duration::ZERO, ..Supervision::default() };
    let config = config(reactor, SHARDS).on_failure(OnFailure::Restart).supervision(supervision);
    let running = start(config);
    let over = AtomicBool::new(false);
    let (page, pages) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let (mut before, mut count) = (Page::default(), 0);
            while !over.load(Relaxed) {
                if let Some(page) = running.page_if_it_lives() {
                    page.has_grown_since(&before);
                    (before, count) = (page, count + 1);
                }
            }
            count
        });
        let page = kill_and_count(&running, DEATHS);
        over.store(true, Relaxed);
        (page, watching.join().unwrap())
    });
    assert_eq!(page.value("mill_echo_bytes_count{}"), page.value("mill_echoed_total{}"));
    assert!(pages > 0, "nobody looked");
    running.stop().unwrap();
}

/// Talks to shards and kills them, until so many have died; answers what is told when all is counted.
fn kill_and_count(running: &Running, deaths: usize) -> Page {
    let (mut done, mut killed, mut before) = (0, 0, running.page());
    while killed < deaths {
        let mut stream = client(running.at);
        if !goes_round(&mut stream, b"water") {
            continue;
        }
        done += 1;
        if done % 5 == 0 && goes_round(&mut stream, b"!") {
            (done, killed) = (done + 1, killed + 1);
            let _ = stream.read(&mut [0]);
            let page = eventually("an answer after a death", || running.page_if_it_lives());
            page.has_grown_since(&before);
            before = page;
        }
    }
    eventually("all shards to be back", || {
        let page = running.page_if_it_lives()?;
        let restarts: f64 = (0..SHARDS)
            .map(|shard| page.value(&format!("waterwheel_shard_restarts_total{{shard={shard}}}")))
            .sum();
        (restarts == deaths as f64 && page.value("mill_echoed_total{}") >= f64::from(done)).then_some(page)
    })
}

fn wrong_http_has_its_answer(reactor: &str) {
    let running = start(config(reactor, 1));
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200));
    for (request, status) in [
        ("nonsense\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "400 Bad Request"),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "400 Bad Request"),
        (&long, "431 Request Header Fields Too Large"),
        (&many, "431 Request Header Fields Too Large"),
        ("GET / HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("GET /metrics/x HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("DELETE /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405 Method Not Allowed"),
    ] {
        let (head, body) = ask(&mut client(running.admin), request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request:?}: {head}");
        assert_eq!(head.contains("Allow: GET, HEAD\r\n"), status.starts_with("405"), "{head}");
        assert!(head.contains("Connection: close\r\n") && !body.is_empty(), "{head}");
    }
    let (head, body) = ask(&mut client(running.admin), "HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body.is_empty(), "{head}{body}");
    let (head, body) = ask(
        &mut client(running.admin),
        "GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n",
    );
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert_eq!(Page::read(&body, true).types["mill_echoed"], "counter");
    // One byte after the other, and two requests at once, on one connection.
    let mut stream = client(running.admin);
    for byte in b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let twice =
        "GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (head, rest) = ask(&mut stream, twice);
    assert!(head.starts_with("HTTP/1.1 200 OK") && rest.matches("alive\n").count() == 2, "{head}{rest}");
    assert!(rest.contains("HTTP/1.1 404 Not Found"), "{rest}");
    running.stop().unwrap();
}

fn clients_that_say_nothing_keep_nobody_out(reactor: &str) {
    let running = start(config(reactor, 1));
    // As many as are served at once, and more, all of which begin a request and do not go on.
    let mut silent: Vec<TcpStream> = (0..20).map(|_| client(running.admin)).collect();
    silent.iter_mut().for_each(|stream| stream.write_all(b"GET /metrics HT").unwrap());
    let watch = Watch::start();
    assert!(goes_round(&mut client(running.at), b"water"), "others are kept waiting");
    assert!(watch.elapsed() < Duration::from_secs(4));
    let (head, _) = get(running.admin, "/health");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    // Three times the limit of a head.
    assert!(watch.elapsed() < Duration::from_secs(25), "after {:?}", watch.elapsed());
    let ended = silent[0].read(&mut [0]);
    let gone = ended.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |n| *n == 0);
    assert!(gone, "{ended:?}");
    drop(silent);
    running.stop().unwrap();
}

fn ready_is_told_from_starting_and_stopping(reactor: &str) {
    let running = start(config(reactor, SHARDS).drain(LONG));
    let ready = || get(running.admin, "/ready");
    let (head, body) = eventually("all shards to run", || {
        Some(ready()).filter(|(_, body)| !body.contains("is starting") && !body.contains("is not served"))
    });
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    assert_eq!(body, "not ready\nthe weir is open is not met\n");
    running.condition.set(true);
    let (head, body) = ready();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "ready\n", "{head}{body}");
    let mut held = client(running.at);
    assert!(goes_round(&mut held, b"water"));
    // On each shard, so that none ends before the others are asked.
    let mut more: Vec<TcpStream> = (0..30).map(|_| client(running.at)).collect();
    assert!(more.iter_mut().all(|stream| goes_round(stream, b"water")));
    running.stopper.stop(LONG);
    let (head, body) =
        eventually("the stop to be told", || Some(ready()).filter(|(_, body)| body.contains("stopping")));
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}{body}");
    drop((held, more));
    running.stop().unwrap();
}

fn who_is_about_to_stop_says_so_and_serves_as_before(reactor: &str) {
    let running = start(config(reactor, SHARDS).drain(LONG).stop_delay(LONG).queue_times("default"));
    running.condition.set(true);
    let ready = || get(running.admin, "/ready");
    eventually("it to be ready", || (ready().1 == "ready\n").then_some(()));
    running.stopper.stop(LONG);
    let (head, body) =
        eventually("the stop to be told", || Some(ready()).filter(|(_, body)| body != "ready\n"));
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    assert_eq!(body, "not ready\nstopping\n");
    // As many as it takes for each shard to have some.
    for _ in 0..30 {
        assert!(goes_round(&mut client(running.at), b"water"));
    }
    let is_timed = |line: &str| {
        line.starts_with("waterwheel_group_queue_seconds_count{")
            && line.contains("group=\"default\"")
            && !line.ends_with(" 0")
    };
    assert!(get(running.admin, "/metrics").1.lines().any(is_timed), "nobody has measured how tasks waited");
    running.stopper.stop(Duration::ZERO);
    let _ = running.thread.join().unwrap();
}

fn shards_that_stall_or_wait_for_their_restart_are_named(reactor: &str) {
    let long = Duration::from_secs(60);
    let supervision = Supervision { pause: long, pause_most: long, ..Supervision::default() };
    let config = config(reactor, SHARDS).on_failure(OnFailure::Restart).supervision(supervision);
    let running = start(config);
    let healthy = || get(running.admin, "/health").1;
    assert_eq!(eventually("health", || Some(healthy()).filter(|body| body == "alive\n")), "alive\n");
    let before = running.page();
    // Until the other end is dropped.
    let (free, stuck) = flume::bounded::<()>(1);
    running
        .remote
        .try_run(ShardId::new(2), move |_: &Shard| _ = stuck.recv_timeout(Duration::from_secs(60)))
        .unwrap_or_else(|error| panic!("{error}"));
    let page = eventually("a shard that stalls", || {
        Some(running.page()).filter(|page| page.value("waterwheel_shard_answered{shard=2}") == 0.0)
    });
    page.has_grown_since(&before);
    assert_eq!(healthy(), "alive\nshard 2 does not answer\n");
    let (head, body) = get(running.admin, "/health/shards");
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    assert_eq!(body, "not alive\nshard 2 does not answer\n");
    drop(free);
    eventually("it to be back", || (healthy() == "alive\n").then_some(()));
    assert_eq!(get(running.admin, "/health/shards").1, "alive\n");
    assert_eq!(running.page().value("waterwheel_shard_answered{shard=2}"), 1.0);
    // Twice each: the first restart does not wait. The first one is who serves this.
    for shard in [0, 0, 1, 1] {
        let lives = || {
            let page = running.page_if_it_lives()?;
            Some(page.value(&format!("waterwheel_shard_restarts_total{{shard={shard}}}")))
        };
        let before = eventually("an answer", lives);
        let order = |shard: &Shard| drop(shard.keep(Rc::new(Killed)));
        eventually("it to be told", || running.remote.try_run(ShardId::new(shard), order).ok());
        eventually("it to begin another life", || lives().filter(|now| *now > before));
    }
    let waiting = "alive\nshard 0 waits for its restart\nshard 1 waits for its restart\n";
    eventually("them to be named", || (healthy() == waiting).then_some(()));
    running.page().has_grown_since(&page);
    let body = get(running.admin, "/ready").1;
    assert_eq!(body, "not ready\nthe weir is open is not met\n", "others serve their clients");
    running.stopper.stop(Duration::ZERO);
    assert!(running.thread.join().unwrap().is_err());
}

/// Ends the life of a shard, and asks until the endpoint tells `health`.
fn kill(running: &Running, shard: usize, health: &str) {
    let order = |shard: &Shard| drop(shard.keep(Rc::new(Killed)));
    running.remote.try_run(ShardId::new(shard), order).unwrap_or_else(|error| panic!("{error}"));
    // Whoever is connected to a shard that ends is cut off; the others wait, and are served by the next one.
    let healthy = || {
        let (mut stream, mut text) = (TcpStream::connect(running.admin).ok()?, String::new());
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").ok()?;
        stream.read_to_string(&mut text).ok()?;
        Some(text.split_once("\r\n\r\n")?.1.to_owned())
    };
    eventually("the endpoint to move", || healthy().filter(|body| body == health).map(drop));
}

fn the_endpoint_goes_to_the_next_shard_when_one_is_gone_for_good(reactor: &str) {
    let running = start(config(reactor, SHARDS).on_failure(OnFailure::Ignore));
    let before = running.page();
    // Not this one's to serve it.
    kill(&running, 1, "alive\nshard 1 has ended\n");
    let served = |by| format!("shard {by} serves the admin endpoint, since those before it have ended\n");
    kill(&running, 0, &format!("alive\nshard 0 has ended\nshard 1 has ended\n{}", served(2)));
    let page = running.page();
    page.has_grown_since(&before);
    assert_eq!(page.value("waterwheel_shard_answered{shard=0}"), 0.0);
    assert!(get(running.admin, "/health/shards").0.starts_with("HTTP/1.1 503 "), "two are gone");
    assert_eq!(page.value("waterwheel_shard_answered{shard=2}"), 1.0);
    running.condition.set(true);
    assert_eq!(get(running.admin, "/ready").1, "ready\n", "the last one serves all clients");
    let admin = running.admin;
    assert!(running.stop().is_err());
    assert!(TcpStream::connect(admin).is_err(), "nobody is there to serve it");
}

fn the_endpoint_is_there_while_an_escalated_failure_drains(reactor: &str) {
    let running = start(config(reactor, 2).on_failure(OnFailure::Escalate).drain(LONG));
    // On each shard, so that the other one drains until they go.
    let mut held: Vec<TcpStream> = (0..30).map(|_| client(running.at)).collect();
    assert!(held.iter_mut().all(|stream| goes_round(stream, b"water")));
    let served = "shard 1 serves the admin endpoint, since those before it have ended\n";
    kill(&running, 0, &format!("alive\nshard 0 has ended\n{served}"));
    let body = eventually("the stop to be told", || {
        Some(get(running.admin, "/ready").1).filter(|body| body.contains("stopping"))
    });
    assert!(body.starts_with("not ready\nstopping\n"), "{body}");
    drop(held);
    assert!(matches!(running.stop(), Err(RunError::Panicked { shard: 0 })));
}

fn the_proxy_tells_what_it_reports(reactor: &str) {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = origin.local_addr().unwrap();
    let mut command = Proxy::command(reactor, &[upstream]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    command.args(["--admin", &format!("unix:{}", path.display())]);
    command.args(["--log", "info,waterwheel::net=debug"]);
    let proxy = Proxy::spawn(&mut command);
    let mut client = client(proxy.at);
    let mut server = meet(&origin);
    client.write_all(b"water").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    let page = || {
        Page::read(&ask(&mut UnixStream::connect(&path).unwrap(), "GET /metrics HTTP/1.0\r\n\r\n").1, false)
    };
    let page = eventually("the bytes to be counted", || {
        Some(page()).filter(|page| page.value("proxy_forwarded_bytes_total{direction=up}") == 5.0)
    });
    assert_eq!(page.value("proxy_connections_active{}"), 1.0);
    let upstream = format!("proxy_upstream_connections_total{{proxy=,group=,upstream=tcp:{upstream}}}");
    assert_eq!(page.value(&upstream), 1.0);
    for (family, count) in [("queue_waits", 0.0), ("connects_failed", 0.0), ("checks_passed", 0.0)] {
        assert_eq!(page.value(&upstream.replace("connections", family)), count, "{family}");
    }
    drop(client);
    drop(server);
    let report = proxy.report();
    assert_eq!(total(&report, "accepted"), 1);
    proxy.counts("active", 0);
    let ended = |how: &str| format!("proxy_connections_ended_total{{how={how}}}");
    let text = ask(&mut UnixStream::connect(&path).unwrap(), "GET /metrics HTTP/1.0\r\n\r\n").1;
    let page = Page::read(&text, false);
    let report = proxy.report();
    for how in ["finished", "client_broke", "upstream_broke"] {
        assert_eq!(page.value(&ended(how)), total(&report, how) as f64, "{how}");
    }
    proxy.stop();
}

fn a_connection_is_a_span_of_the_log(reactor: &str) {
    let (_held, upstream) = dead_port();
    let mut command = Proxy::command(reactor, &[upstream]);
    command.args(["--log", "info,waterwheel::net=debug"]);
    let proxy = Proxy::spawn(&mut command);
    // Bound first: the reset may be there before the call that connects has returned, which is an error then.
    let caller = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&caller, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let own = SocketAddr::try_from(rustix::net::getsockname(&caller).unwrap()).unwrap();
    let _ = rustix::net::connect(&caller, &proxy.at);
    proxy.process.told_of(&format!("id=1 peer=\"tcp:{own}\" listener=tcp:{}}}: ", proxy.at));
    proxy.stop();
}

fn a_unix_socket_is_as_good_and_goes_with_the_runtime(reactor: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let config = config(reactor, 2).admin(format!("unix:{}", path.display()).parse().unwrap());
    let runtime = Runtime::new(config).unwrap().without_signals();
    let stopper = runtime.stopper();
    let thread = spawn(move || {
        runtime.run(|shard| async move {
            shard.stopping().await;
            Ok(())
        })
    });
    let mut stream = UnixStream::connect(&path).unwrap();
    let (_, body) = ask(&mut stream, "GET /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(Page::read(&body, false).value("waterwheel_shards{}"), 2.0);
    stopper.stop(LONG);
    thread.join().unwrap().unwrap();
    assert!(!path.exists());
}
