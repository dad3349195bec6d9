//! More connections than there is room for.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{Address, Backend, Incoming, ListenOptions, Listener, Reactor};

use crate::Outcome;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, LOOPBACK, Peer, Venue};
use crate::kit::stream::{once, read, shutdown, turn, write_all};
use crate::kit::{Census, DescriptorLimit, accept, bind_local, local, on_one, sleep, thread, with_deadline};

/// LISTEN-3.
pub(super) fn served_in_the_end(backend: &dyn Backend) -> Outcome {
    above_the_backlog(backend);
    bounded(backend)
}

/// The kernel drops what does not fit, and the clients try again, later each time: so in the end every client is served
/// if the reactor goes on accepting. The clients speak first: where the kernel answered with a SYN cookie and dropped
/// the acknowledgement, only more data from the client brings the connection back (tcp(7), tcp_syncookies).
fn above_the_backlog(backend: &dyn Backend) {
    const CLIENTS: usize = 24;
    let options = ListenOptions { backlog: 5, ..ListenOptions::default() };
    let bound = backend.bind(&LOOPBACK, &options, 1).expect("a free port").remove(0);
    let to = Address::Inet(local(&bound));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let to = to.clone();
            thread(move || {
                let peer = Peer::connect(&to, Default::default());
                peer.write_all(b"me too");
                peer.expect(&mut Pattern::new(5), 1_000);
                peer.expect_end();
            })
        })
        .collect();
    on_one(backend, move |reactor| async move {
        sleep(&reactor, Duration::from_millis(50)).await;
        let mut listener = reactor.listen(bound).expect("listening");
        for number in 0..CLIENTS {
            let what = format!("client {number} of a burst");
            let incoming =
                with_deadline(&reactor, Duration::from_secs(9), &what, accept(&mut listener)).await;
            let mut transport = reactor.adopt(incoming.expect("accepting")).expect("adopting");
            assert_eq!(read(&mut *transport.source).await.expect("reading"), b"me too");
            write_all(&mut *transport.sink, &Pattern::new(5).take(1_000)).await.expect("writing");
            shutdown(&mut *transport.sink).await.expect("the end");
        }
    });
    clients.into_iter().for_each(|client| client.join());
}

/// A reactor may accept more than it was asked for, but not the whole queue: what it holds, no other shard and no
/// successor can serve, and nobody counts it.
fn bounded(backend: &dyn Backend) -> Outcome {
    const CLIENTS: usize = 500;
    const AHEAD_MAX: usize = 256;
    let Some(limit) = DescriptorLimit::raise(2 * CLIENTS as u64 + 100) else {
        return Outcome::NotOffered("the hard limit on descriptors is too low for the burst");
    };
    let bound = bind_local(backend);
    let to = Address::Inet(local(&bound));
    on_one(backend, move |reactor| async move {
        let mut listener = reactor.listen(bound).expect("listening");
        let peers: Vec<Peer> = (0..CLIENTS).map(|_| Peer::connect(&to, Default::default())).collect();
        let before = Census::take().descriptors.len();
        let first = accept(&mut listener).await.expect("accepting");
        for _ in 0..20 {
            turn().await;
        }
        let ahead = Census::take().descriptors.len() - before;
        assert!(ahead <= AHEAD_MAX, "one connection was asked for, {ahead} were accepted");
        drop(first);
        for _ in 1..CLIENTS {
            drop(accept(&mut listener).await.expect("accepting"));
        }
        drop(peers);
    });
    drop(limit);
    Outcome::Holds
}

/// LISTEN-4. The client's socket is the last that there is room for, so that only the reactor's side lacks one. EMFILE
/// stands for its like (ENFILE, ENOBUFS, ENOMEM), which cannot be arranged without disturbing the machine.
pub(super) fn at_the_limit(backend: &dyn Backend) -> Outcome {
    let (venue, bound) = (Venue::new(backend, Family::Tcp), bind_local(backend));
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        let (mut open, friend) = meeting.peer().await;
        let at = local(&bound).into();
        let mut listener = reactor.listen(bound).expect("listening");
        for round in 0..3 {
            let pending = once(|cx| listener.poll_accept(cx)).await.is_pending();
            assert!(pending, "round {round}: nobody has connected");
            // What was dropped in the round before may be closed behind the turn.
            sleep(&reactor, Duration::from_millis(1)).await;
            let limit = DescriptorLimit::leave(1);
            let client = Peer::connect(&at, Default::default());
            told_once(&reactor, &mut listener).await;
            friend.write_all(b"still there?");
            let bytes = read(&mut *open.source).await.expect("an open connection, at the limit");
            assert_eq!(bytes, b"still there?");
            write_all(&mut *open.sink, b"yes").await.expect("an open connection, at the limit");
            drop(limit);
            recovers(&reactor, &mut listener, client).await;
        }
        meeting.close().await;
    });
    Outcome::Holds
}

/// The error comes, and after it the shard sleeps, whether the listener is polled again or not.
async fn told_once(reactor: &Rc<dyn Reactor>, listener: &mut Box<dyn Listener>) {
    const EMFILE: i32 = 24;
    const POLLS_MAX: u32 = 20;
    let told = with_deadline(reactor, Duration::from_secs(5), "EMFILE is reported", accept(listener)).await;
    let error = told.expect_err("no descriptor is left for the connection");
    assert_eq!(error.raw_os_error(), Some(EMFILE), "{error:?}");
    let until = reactor.now() + Duration::from_millis(200);
    let (mut polls, mut errors) = (0, 0);
    std::future::poll_fn(|cx| {
        polls += 1;
        // The first of these polls tries again, and so does every poll that the reactor asks for.
        match listener.poll_accept(cx) {
            Poll::Ready(Ok(incoming)) => panic!("accepted without a descriptor: {incoming:?}"),
            Poll::Ready(Err(_)) => errors += 1,
            Poll::Pending => {}
        }
        reactor.poll_until(cx, until)
    })
    .await;
    assert!(
        polls <= POLLS_MAX,
        "the root was polled {polls} times in 200 ms, with {errors} errors: it spins"
    );
}

/// With descriptors again, a later poll gets the connection.
async fn recovers(reactor: &Rc<dyn Reactor>, listener: &mut Box<dyn Listener>, client: Peer) {
    let until = reactor.now() + Duration::from_secs(5);
    let incoming: Incoming = loop {
        match once(|cx| listener.poll_accept(cx)).await {
            Poll::Ready(Ok(incoming)) => break incoming,
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        assert!(reactor.now() < until, "the connection that waited is never accepted");
        sleep(reactor, Duration::from_millis(10)).await;
    };
    let mut transport = reactor.adopt(incoming).expect("adopting");
    client.write_all(b"served at last");
    assert_eq!(read(&mut *transport.source).await.expect("reading"), b"served at last");
}
