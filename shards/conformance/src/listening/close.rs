//! How a listening socket is given back, given up and left alone.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::{Address, Backend, Bound, ListenOptions, Listener, Reactor};

use crate::Outcome;
use crate::kit::peer::{self, Peer};
use crate::kit::stream::{once, read, turn};
use crate::kit::{DescriptorLimit, accept, bind_local, close_listener, local, on_one, surroundings};

/// LISTEN-2.
pub(super) fn gives_back(backend: &dyn Backend) -> Outcome {
    queue_survives(backend);
    let alone = bind_local(backend);
    let at = local(&alone);
    on_one(backend, move |reactor| async move {
        let bound = close_listener(listening(&reactor, alone).await).await;
        assert_eq!(local(&bound), at, "it listens where it did");
        taken(at, "a listener that was closed and whose socket is still held");
        drop(bound);
        turn().await;
        free(at, "the socket that a closed listener gave back was dropped");
    });
    without_another_descriptor(backend);
    closed_once(backend);
    dropped_at_once(backend);
    the_last_of_a_group(backend);
    Outcome::Holds
}

/// A listener with an accept under way.
async fn listening(reactor: &Rc<dyn Reactor>, bound: Bound) -> Box<dyn Listener> {
    let mut listener = reactor.listen(bound).expect("listening");
    assert!(once(|cx| listener.poll_accept(cx)).await.is_pending(), "nobody has connected");
    listener
}

/// What waits in the kernel's queue stays there: for connections that come after the close, and for those that came
/// before it if nobody had asked for them.
fn queue_survives(backend: &dyn Backend) {
    let bound = bind_local(backend);
    let to = Address::Inet(local(&bound));
    on_one(backend, move |reactor| async move {
        let early = Peer::connect(&to, Default::default());
        let listener = reactor.listen(bound).expect("listening");
        turn().await;
        let bound = close_listener(listener).await;
        let late = Peer::connect(&to, Default::default());
        early.write_all(b"early");
        late.write_all(b"late");
        let mut listener = reactor.listen(bound).expect("listening again");
        for word in [&b"early"[..], b"late"] {
            let incoming = accept(&mut listener).await.expect("a connection that waited");
            let mut transport = reactor.adopt(incoming).expect("adopting");
            assert_eq!(read(&mut *transport.source).await.expect("reading"), word);
        }
        // And once more with an accept under way when it is closed.
        assert!(once(|cx| listener.poll_accept(cx)).await.is_pending());
        let bound = close_listener(listener).await;
        let last = Peer::connect(&to, Default::default());
        last.write_all(b"last");
        let mut listener = reactor.listen(bound).expect("listening a third time");
        let incoming = accept(&mut listener).await.expect("a connection that waited");
        let mut transport = reactor.adopt(incoming).expect("adopting");
        assert_eq!(read(&mut *transport.source).await.expect("reading"), b"last");
    });
}

/// A listener begins and ends where no other descriptor is left, and nothing of it is lost.
fn without_another_descriptor(backend: &dyn Backend) {
    let bound = bind_local(backend);
    let to = Address::Inet(local(&bound));
    on_one(backend, move |reactor| async move {
        let limit = DescriptorLimit::leave(0);
        let mut listener = reactor.listen(bound).expect("it has all that it needs");
        // It may say that it cannot wait, but not that somebody came.
        assert!(!matches!(once(|cx| listener.poll_accept(cx)).await, Poll::Ready(Ok(_))));
        let bound = close_listener(listener).await;
        let mut listener = reactor.listen(bound).expect("listening again");
        drop(limit);
        let client = Peer::connect(&to, Default::default());
        client.write_all(b"late");
        let incoming = accept(&mut listener).await.expect("a connection");
        let mut transport = reactor.adopt(incoming).expect("adopting");
        assert_eq!(read(&mut *transport.source).await.expect("reading"), b"late");
    });
}

/// A second close is a bug of the caller's: a panic, where another answer would be a wait without end.
fn closed_once(backend: &dyn Backend) {
    let bound = bind_local(backend);
    on_one(backend, move |reactor| async move {
        let mut listener = listening(&reactor, bound).await;
        let bound = once(|cx| listener.poll_close(cx)).await;
        let again = AssertUnwindSafe(|| listener.poll_close(&mut Context::from_waker(Waker::noop())));
        assert!(catch_unwind(again).is_err(), "a listener was closed twice");
        let Poll::Ready(Err(error)) = once(|cx| listener.poll_accept(cx)).await else {
            panic!("a closed listener accepts, or waits");
        };
        assert_eq!(error.kind(), ErrorKind::NotConnected, "accepting with a closed listener: {error}");
        drop(bound);
    });
}

/// Without a close: a multishot accept in flight must not keep the socket open.
fn dropped_at_once(backend: &dyn Backend) {
    let bound = bind_local(backend);
    let at = local(&bound);
    on_one(backend, move |reactor| async move {
        drop(listening(&reactor, bound).await);
        turn().await;
        free(at, "a listener was dropped");
    });
}

fn the_last_of_a_group(backend: &dyn Backend) {
    let mut bound = backend.bind(&peer::LOOPBACK, &ListenOptions::default(), 2).expect("a free port");
    let at = local(&bound[0]);
    let (second, first) = (bound.pop().expect("two"), bound.pop().expect("two"));
    on_one(backend, move |reactor| async move {
        drop(listening(&reactor, first).await);
        turn().await;
        taken(at, "one of two sockets is left");
        drop(listening(&reactor, second).await);
        turn().await;
        free(at, "the last socket of a group was dropped");
    });
}

fn taken(at: SocketAddr, while_what: &str) {
    match surroundings().listen(&at.into(), 1) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        other => panic!("{while_what}, yet binding its port gives {other:?}"),
    }
}

fn free(at: SocketAddr, after_what: &str) {
    if let Err(error) = surroundings().listen(&at.into(), 1) {
        panic!("{after_what}, yet one turn later its port is not free: {error}");
    }
}

/// LISTEN-6: the socket is listened on by somebody else too, as where a service manager passed it on.
pub(super) fn never_shut_down(backend: &dyn Backend) -> Outcome {
    let (owner, at) = peer::listening();
    let bounds: Vec<Bound> = (0..4).map(|_| owner.share().expect("a duplicate")).collect();
    on_one(backend, move |reactor| async move {
        let [dropped, closed, unused, left] = bounds.try_into().expect("four");
        drop(listening(&reactor, dropped).await);
        turn().await;
        drop(close_listener(listening(&reactor, closed).await).await);
        turn().await;
        drop(reactor.listen(unused).expect("listening"));
        turn().await;
        // The last one ends with the reactor.
        let _left = listening(&reactor, left).await;
    });
    for _ in 0..3 {
        let client = Peer::connect(&at.into(), Default::default());
        drop((client, Peer::accept(&*owner)));
    }
    Outcome::Holds
}
