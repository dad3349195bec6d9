//! The laws of connecting.

use std::io::ErrorKind::{
    self, AddrInUse, AddrNotAvailable, ConnectionRefused, NetworkUnreachable, NotFound, TimedOut,
};
use std::io::{self};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tempfile::TempDir;
use waterwheel_reactor::{Address, Backend, ConnectOptions, Listener, Reactor, Transport, UnixName};

use crate::kit::full::Full;
use crate::kit::peer::{Family, Venue, free_port, listening};
use crate::kit::stream::{drain, flush, once, peek, read, turn, write, write_all};
use crate::kit::{
    Census, DescriptorLimit, accept, bind_local, local, on_one, sleep, surroundings, with_deadline,
};
use crate::{Law, Outcome};

pub(crate) const LAWS: &[Law] = &[
    Law::new("CONNECT-1", "a connect that failed cannot say why, or completes inside the call", own_kinds),
    Law::new("CONNECT-2", "a connect that nobody waits for goes on", cancelled),
    Law::new("CONNECT-3", "some of many connects at once are lost", burst).within(Duration::from_secs(60)),
];

/// Longer than any answer on the loopback takes, also on a busy machine.
const LATE: Duration = Duration::from_secs(10);

/// What is asked for, and how it must fail.
#[derive(Debug)]
struct Failure {
    to: Address,
    from: Option<SocketAddr>,
    kinds: &'static [ErrorKind],
    /// Whether it may be told at once: what needs no answer from anywhere.
    known: bool,
}

/// CONNECT-1. Each half is asked on a connection of its own, since each must be able to tell.
fn own_kinds(backend: &dyn Backend) -> Outcome {
    let directory = TempDir::new().expect("a temporary directory");
    let (holder, held) = listening();
    let venue = Venue::new(backend, Family::Tcp);
    let unix = |path| Address::Unix(UnixName::Path(path));
    let mut failures = vec![
        Failure { to: free_port().into(), from: None, kinds: &[ConnectionRefused], known: false },
        Failure { to: unix(directory.path().join("none")), from: None, kinds: &[NotFound], known: false },
        // The kernel connects no TCP to a broadcast or multicast address, with or without a network (ip(7)).
        Failure { to: inet([255, 255, 255, 255], 9), from: None, kinds: &[NetworkUnreachable], known: false },
        // A network for documentation (RFC 5737): nobody's address.
        Failure {
            to: Address::Inet(held),
            from: Some(([203, 0, 113, 1], 0).into()),
            kinds: &[AddrNotAvailable],
            known: true,
        },
        Failure {
            to: Address::Inet(held),
            from: Some(held),
            kinds: &[AddrInUse, AddrNotAvailable],
            known: true,
        },
    ];
    if surroundings().files() {
        let stale = unix(directory.path().join("stale"));
        drop(surroundings().listen(&stale, 1).expect("a path of our own"));
        failures.push(Failure { to: stale, from: None, kinds: &[ConnectionRefused], known: false });
    }
    on_one(backend, move |reactor| async move {
        for failure in &failures {
            fails(&reactor, failure).await;
        }
        succeeds_outside_the_call(&reactor, venue).await;
        times_out(&reactor).await;
    });
    drop(holder);
    Outcome::Holds
}

fn inet(ip: [u8; 4], port: u16) -> Address {
    Address::Inet(SocketAddr::from((ip, port)))
}

async fn fails(reactor: &Rc<dyn Reactor>, failure: &Failure) {
    let Failure { to, from, kinds, known } = failure;
    let options = ConnectOptions { from: *from, ..ConnectOptions::default() };
    for half in ["flush", "write", "fill"] {
        let mut transport = match reactor.connect(to, &options) {
            Ok(transport) => transport,
            Err(error) if *known => {
                assert!(kinds.contains(&error.kind()), "{to} from {from:?}: {error:?}, expected {kinds:?}");
                continue;
            }
            Err(error) => panic!("{to}: told inside the call: {error:?}"),
        };
        for again in ["", ", asked again"] {
            let what = format!("{to} from {from:?}: {half}{again}");
            let told = with_deadline(reactor, LATE, &what, ask(&mut transport, half)).await;
            let error = told.expect_err("a connect that must fail");
            assert!(kinds.contains(&error.kind()), "{what}: {error:?}, expected {kinds:?}");
        }
        assert!(transport.source.peer().is_err(), "{to}: the peer of a connection that never was");
    }
}

async fn ask(transport: &mut Transport, half: &str) -> io::Result<()> {
    match half {
        "flush" => flush(&mut *transport.sink).await,
        "write" => write(&mut *transport.sink, b"x").await.map(drop),
        _ => peek(&mut *transport.source).await.map(drop),
    }
}

/// Nothing is told inside the call, and bytes written before the connection stands wait for it.
async fn succeeds_outside_the_call(reactor: &Rc<dyn Reactor>, venue: Venue) {
    let meeting = venue.open(reactor);
    let (to, mut listener) = meeting.into_listener();
    let mut transport = reactor.connect(&to, &ConnectOptions::default()).expect("connecting to ourselves");
    write_all(&mut *transport.sink, b"early").await.expect("writing before the connection stands");
    let incoming = accept(&mut listener).await.expect("accepting");
    let mut accepted = reactor.adopt(incoming).expect("adopting");
    assert_eq!(read(&mut *accepted.source).await.expect("reading"), b"early");
    flush(&mut *transport.sink).await.expect("connected");
    assert_eq!(transport.source.peer().expect("connected"), to);
    assert_eq!(accepted.source.peer().ok(), transport.source.local().ok(), "both know each other");
    let wanted = free_port();
    let options = ConnectOptions { from: Some(wanted), ..ConnectOptions::default() };
    let mut transport = reactor.connect(&to, &options).expect("from a port that is free");
    flush(&mut *transport.sink).await.expect("connected");
    assert_eq!(transport.source.local().expect("connected"), Address::Inet(wanted), "where it comes from");
}

/// A peer that does not answer. To wait for the kernel's own limit would take minutes, so it is shortened for this
/// socket, where the reactor tells which one it is.
async fn times_out(reactor: &Rc<dyn Reactor>) {
    let full = Full::new();
    let begin = || {
        let before = reactor.now();
        let transport = reactor.connect(&full.address(), &ConnectOptions::default());
        (reactor.now().since(before), transport.expect("a connect begins"))
    };
    // Several, since a busy machine may hold one of them up.
    let mut calls: Vec<(Duration, Transport)> = (0..3).map(|_| begin()).collect();
    let fastest = calls.iter().map(|(took, _)| *took).min().expect("three");
    assert!(fastest < Duration::from_millis(500), "the call waited {fastest:?} for an answer");
    let mut transport = calls.swap_remove(0).1;
    drop(calls);
    assert!(once(|cx| transport.sink.poll_flush(cx)).await.is_pending(), "nobody has answered");
    if !surroundings().give_up_after(Duration::from_millis(1_200), &*transport.source) {
        return;
    }
    let told = with_deadline(reactor, LATE, "a connect times out", flush(&mut *transport.sink)).await;
    assert_eq!(told.expect_err("nobody answered").kind(), TimedOut);
}

/// CONNECT-2: polled or not, one half first, or aborted: in the end the kernel tries no more.
fn cancelled(backend: &dyn Backend) -> Outcome {
    const ROUNDS: usize = 20;
    let full = Full::new();
    let venue = Venue::new(backend, Family::Tcp);
    let to = full.address();
    on_one(backend, move |reactor| async move {
        let (here, mut listener) = venue.open(&reactor).into_listener();
        let census = Census::take();
        for round in 0..ROUNDS {
            in_progress(&reactor, &to, round).await;
            nobody_stays(&reactor, &here, &mut listener).await;
            turn().await;
        }
        census.descriptors_restored(&reactor).await;
        let trying = surroundings().still_trying(&to);
        assert!(trying.is_empty(), "connects that were dropped go on: {trying:?}");
    });
    drop(full);
    Outcome::Holds
}

/// A connect that stays in progress, ended in one of five ways.
async fn in_progress(reactor: &Rc<dyn Reactor>, to: &Address, round: usize) {
    let mut transport = reactor.connect(to, &ConnectOptions::default()).expect("a connect begins");
    if round.is_multiple_of(5) {
        return drop(transport);
    }
    assert!(once(|cx| transport.sink.poll_flush(cx)).await.is_pending(), "nobody answers");
    assert!(once(|cx| transport.source.poll_fill(cx).map_ok(drop)).await.is_pending(), "nobody answers");
    match round % 5 {
        1 => {}
        2 => {
            drop(transport.source);
            turn().await;
            assert!(once(|cx| transport.sink.poll_flush(cx)).await.is_pending(), "the sink goes on alone");
            return;
        }
        3 => {
            drop(transport.sink);
            return turn().await;
        }
        _ => transport.sink.abort(),
    }
    turn().await;
}

/// A connect that the kernel completes, dropped before anybody looked: the other side sees the end.
async fn nobody_stays(reactor: &Rc<dyn Reactor>, here: &Address, listener: &mut Box<dyn Listener>) {
    drop(reactor.connect(here, &ConnectOptions::default()).expect("connecting to ourselves"));
    let mut alone = reactor.connect(here, &ConnectOptions::default()).expect("connecting to ourselves");
    flush(&mut *alone.sink).await.expect("connected");
    // The first one may have been cancelled before the kernel queued it.
    let mut ends = 0;
    let limit = reactor.now() + LATE;
    loop {
        match once(|cx| listener.poll_accept(cx)).await {
            std::task::Poll::Ready(incoming) => {
                let mut accepted = reactor.adopt(incoming.expect("accepting")).expect("adopting");
                if accepted.source.peer().ok() == alone.source.local().ok() {
                    return;
                }
                let mut nothing = crate::kit::pattern::Pattern::new(0);
                let (bytes, _end_or_reset) =
                    with_deadline(reactor, LATE, "the end of a connection that was dropped", async {
                        drain(&mut *accepted.source, &mut nothing).await
                    })
                    .await;
                assert_eq!(bytes, 0);
                ends += 1;
                assert!(ends <= 1, "more connections than there were connects");
            }
            std::task::Poll::Pending => sleep(reactor, Duration::from_millis(1)).await,
        }
        assert!(reactor.now() < limit, "our own connection is never accepted");
    }
}

/// CONNECT-3: every connection tells its number, and every number arrives.
fn burst(backend: &dyn Backend) -> Outcome {
    const CONNECTS: usize = 1_000;
    let Some(limit) = DescriptorLimit::raise(2 * CONNECTS as u64 + 100) else {
        return Outcome::NotOffered("the hard limit on descriptors is too low for the burst");
    };
    let bound = bind_local(backend);
    let to = Address::Inet(local(&bound));
    on_one(backend, move |reactor| async move {
        let mut listener = reactor.listen(bound).expect("listening");
        let begin = |_| reactor.connect(&to, &ConnectOptions::default()).expect("a connect begins");
        let transports: Vec<Transport> = (0..CONNECTS).map(begin).collect();
        let tell = |(number, mut transport): (usize, Transport)| async move {
            let connected = flush(&mut *transport.sink).await;
            connected.unwrap_or_else(|error| panic!("connect {number} of {CONNECTS}: {error}"));
            let bytes = (number as u32).to_be_bytes();
            write_all(&mut *transport.sink, &bytes).await.expect("writing");
            transport
        };
        let telling = join_all(transports.into_iter().enumerate().map(tell));
        let accepting = numbers(&reactor, &mut listener, CONNECTS);
        let all = with_deadline(&reactor, 4 * LATE, "a burst of connects", join(telling, accepting)).await;
        let mut numbers = all.1;
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..CONNECTS as u32), "a number is missing or came twice");
    });
    drop(limit);
    Outcome::Holds
}

async fn numbers(reactor: &Rc<dyn Reactor>, listener: &mut Box<dyn Listener>, count: usize) -> Vec<u32> {
    let mut accepted = Vec::new();
    for _ in 0..count {
        let incoming = accept(listener).await.expect("accepting");
        accepted.push(reactor.adopt(incoming).expect("adopting"));
    }
    join_all(accepted.into_iter().map(|mut transport| async move {
        let bytes = read(&mut *transport.source).await.expect("reading");
        u32::from_be_bytes(bytes.try_into().expect("four bytes sent at once come at once"))
    }))
    .await
}
