//! Wakers that do what the reactor's own never would.

use std::cell::RefCell;
use std::fs;
use std::future::poll_fn;
use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};

use waterwheel_conformance::kit::{on_one, turn};
use waterwheel_conformance::{Law, Outcome};
use waterwheel_reactor::{Address, Backend, Launch, Reactor, Root, Transport};

use crate::regressions::tcp;

pub(crate) const LAWS: &[Law] = &[
    Law::new("WAKER-1", "a waker's panic takes completions of others with it", panics_at_the_end_of_a_stream),
    Law::new("WAKER-2", "a waker's panic at the end leaves the kernel at work", panics_at_the_reactors_end),
    Law::new("WAKER-3", "a refused connect looks established to its own waker", asks_while_it_is_woken),
];

/// Panics whenever it is woken.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker of the test's");
    }
}

thread_local! {
    /// Outlives the root.
    static KEPT: RefCell<Option<Transport>> = const { RefCell::new(None) };
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Of two connections whose peers end at once, one has such a waker: the other hears of its end, and the shard ends with
/// nothing left to wait for.
fn panics_at_the_end_of_a_stream(backend: &dyn Backend) -> Outcome {
    on_one(backend, |reactor| async move {
        let (mut bad, bad_peer) = tcp(&reactor);
        let (mut good, good_peer) = tcp(&reactor);
        let waker = Waker::from(Arc::new(Panics));
        for _ in 0..2 {
            assert!(bad.source.poll_fill(&mut Context::from_waker(&waker)).is_pending());
            turn().await;
        }
        for peer in [&bad_peer, &good_peer] {
            peer.shutdown(Shutdown::Write).expect("ending");
        }
        let end = poll_fn(|cx| good.source.poll_fill(cx).map_ok(<[u8]>::len)).await;
        assert_eq!(end.expect("the end"), 0);
        let end = poll_fn(|cx| bad.source.poll_fill(cx).map_ok(<[u8]>::len)).await;
        assert_eq!(end.expect("the end"), 0);
    });
    Outcome::Holds
}

/// How many rings this process has open.
fn rings() -> usize {
    let links = fs::read_dir("/proc/self/fd").expect("what is open");
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("io_uring")).count()
}

/// Somebody keeps a connection whose both wakers panic: the ring is closed with the life it belonged to.
fn panics_at_the_reactors_end(backend: &dyn Backend) -> Outcome {
    let before = rings();
    let (tell, told) = mpsc::channel();
    let mut is_first = true;
    let launch = Launch {
        shard: 0,
        name: "wakers".to_owned(),
        prepare: Box::new(|| {}),
        start: Box::new(move |reactor: Rc<dyn Reactor>| {
            if !std::mem::take(&mut is_first) {
                drop(KEPT.with(RefCell::take));
                tell.send(rings()).expect("somebody asks");
                return None;
            }
            Some(Box::pin(async move {
                let (mut transport, mut peer) = tcp(&reactor);
                let waker = Waker::from(Arc::new(Panics));
                let cx = &mut Context::from_waker(&waker);
                assert!(transport.source.poll_fill(cx).is_pending());
                while let Poll::Ready(taken) = transport.sink.poll_write(cx, &[0; 1 << 16]) {
                    taken.expect("an open connection");
                    turn().await;
                }
                peer.write_all(b"x").expect("writing");
                turn().await;
                KEPT.with(|kept| kept.replace(Some(transport)));
            }) as Root)
        }),
    };
    backend.run(vec![launch]).expect("a life that ends, and another");
    // The second life has one, and its duplicate for messages.
    let there = told.recv().expect("a second life");
    assert!(there <= before + 2, "{there} rings are open, {before} were before: one outlived its reactor");
    Outcome::Holds
}

/// Asks the connection that it is woken for.
struct Asks;

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        KEPT.with(|kept| {
            if let Ok(mut kept) = kept.try_borrow_mut()
                && let Some(transport) = &mut *kept
            {
                let flushed = transport.sink.poll_flush(&mut Context::from_waker(Waker::noop()));
                SAID.with(|said| said.borrow_mut().push(format!("{flushed:?}")));
            }
        });
    }
}

fn asks_while_it_is_woken(backend: &dyn Backend) -> Outcome {
    on_one(backend, |reactor| async move {
        // Not where others are given a port.
        let nobody = TcpListener::bind("127.64.0.1:0").and_then(|listener| listener.local_addr());
        let to = Address::Inet(nobody.expect("a free port"));
        let mut transport = reactor.connect(&to, &Default::default()).expect("a socket");
        let waker = Waker::from(Arc::new(Asks));
        assert!(transport.sink.poll_flush(&mut Context::from_waker(&waker)).is_pending());
        KEPT.with(|kept| kept.replace(Some(transport)));
        for _ in 0..20 {
            turn().await;
        }
        drop(KEPT.with(RefCell::take));
        let said = SAID.with(RefCell::take);
        assert!(!said.is_empty() && said.iter().all(|word| word.contains("refused")), "{said:?}");
    });
    Outcome::Holds
}
