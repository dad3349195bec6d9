//! DATAGRAM-3: waking, groups, and a socket that changes hands.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{Address, Backend, BoundDatagrams, DatagramOptions, Outgoing, Reactor};

use super::{
    LATE, LOOPBACK, bind, connect, datagrams, name, offered, poll_receive, receive_now, receive_one, send,
    send_one,
};
use crate::Outcome;
use crate::kit::{DescriptorLimit, Mail, on_each, on_one, shard, sleep, with_deadline};

pub(super) fn law(backend: &dyn Backend) -> Outcome {
    offered(backend, |backend| {
        woken_from_another_shard(backend);
        woken_when_there_is_room(backend);
        peers_stay_together(backend);
        changes_hands(backend);
        on_one(backend, taken);
    })
}

/// A reactor that sleeps is woken by a datagram, each time.
fn woken_from_another_shard(backend: &dyn Backend) {
    let (there, done) = (Mail::default(), Mail::default());
    let (outbox, finish) = (there.clone(), done.clone());
    let asks = shard(move |reactor: Rc<dyn Reactor>| async move {
        let to: Address = with_deadline(&reactor, LATE, "an address", there.receive()).await;
        let mut here = connect(&reactor, &to);
        for number in 0..50_u8 {
            sleep(&reactor, Duration::from_millis(u64::from(number % 3))).await;
            send(&reactor, &mut *here, &[Outgoing::to_peer(&[number])]).await.expect("it goes");
            assert_eq!(receive_one(&reactor, &mut *here, 100).await.expect("an answer").1, [number]);
        }
        finish.send(());
    });
    let answers = shard(move |reactor: Rc<dyn Reactor>| async move {
        let mut socket = bind(&reactor, &LOOPBACK);
        outbox.send(socket.local().expect("bound"));
        let mut finished = pin!(done.receive());
        loop {
            let next = poll_fn(|cx| match finished.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => poll_receive(cx, &mut *socket, 1, 100).map(Some),
            });
            let Some(got) = with_deadline(&reactor, LATE, "a question", next).await else { break };
            for (datagram, bytes) in got.expect("it comes") {
                send_one(&reactor, &mut *socket, &bytes, &datagram.from).await.expect("it goes");
            }
        }
    });
    on_each(backend, vec![asks, answers]);
}

/// A sender that found no room goes on when its peer has taken something. On a shard of its own, where nothing else has it
/// polled.
fn woken_when_there_is_room(backend: &dyn Backend) {
    const ALL: usize = 2_000;
    let (there, full) = (Mail::default(), Mail::default());
    let (outbox, begin) = (there.clone(), full.clone());
    let takes = shard(move |reactor: Rc<dyn Reactor>| async move {
        let mut socket = bind(&reactor, &name("slow"));
        outbox.send(socket.local().expect("bound"));
        // A receiver that keeps up would leave room for ever.
        with_deadline(&reactor, LATE, "a queue to be full", begin.receive()).await;
        // One at a time, so that the sender finds no room again and again.
        for _ in 0..ALL {
            receive_one(&reactor, &mut *socket, 2_000).await.expect("it comes");
        }
    });
    let sends = shard(move |reactor: Rc<dyn Reactor>| async move {
        let to: Address = with_deadline(&reactor, LATE, "an address", there.receive()).await;
        let mut here = connect(&reactor, &to);
        let (mut sent, mut waited) = (0, false);
        while sent < ALL {
            let one = [Outgoing::to_peer(&[7; 1_000])];
            let room = poll_fn(|cx| {
                let polled = here.poll_send(cx, &one);
                if polled.is_pending() && !waited {
                    waited = true;
                    full.send(());
                }
                polled
            });
            sent += with_deadline(&reactor, LATE, "room to send", room).await.expect("it goes");
        }
        assert!(waited, "a queue without a limit");
    });
    on_each(backend, vec![takes, sends]);
}

/// What one peer sends comes to one socket of the group, and every socket of it serves somebody.
fn peers_stay_together(backend: &dyn Backend) {
    const PEERS: usize = 64;
    let group = backend.bind_datagrams(&LOOPBACK, &DatagramOptions::default(), 3).expect("a group");
    assert_eq!(group.len(), 3, "one socket for each");
    let to = group[0].local.clone();
    assert!(group.iter().all(|bound| bound.local == to), "they share a port");
    let again = backend.bind_datagrams(&to, &DatagramOptions::default(), 1).expect_err("it is taken");
    assert_eq!(again.kind(), ErrorKind::AddrInUse, "{again}");
    on_one(backend, move |reactor| async move {
        let serve = |bound: BoundDatagrams| datagrams(&reactor).serve(bound).expect("served");
        let mut sockets: Vec<_> = group.into_iter().map(serve).collect();
        let mut peers: Vec<_> = (0..PEERS).map(|_| connect(&reactor, &to)).collect();
        let mut came = [0; 3];
        for (number, peer) in peers.iter_mut().enumerate() {
            let mut at = None;
            for _ in 0..3 {
                send(&reactor, &mut **peer, &[Outgoing::to_peer(&[number as u8])]).await.expect("it goes");
                let next = poll_fn(|cx| {
                    let mut ready = sockets.iter_mut().enumerate().filter_map(|(at, socket)| {
                        match poll_receive(cx, &mut **socket, 1, 10) {
                            Poll::Ready(got) => Some((at, got)),
                            Poll::Pending => None,
                        }
                    });
                    ready.next().map_or(Poll::Pending, Poll::Ready)
                });
                let (socket, got) = with_deadline(&reactor, LATE, "a datagram at some socket", next).await;
                assert_eq!(got.expect("it comes")[0].1, [number as u8]);
                assert_eq!(*at.get_or_insert(socket), socket, "peer {number} moved");
            }
            came[at.expect("it came")] += 1;
        }
        assert!(came.iter().all(|count| *count > 0), "of {PEERS} peers: {came:?}");
    });
}

/// What waits in a socket that is given back is there for who serves it next, on another shard.
fn changes_hands(backend: &dyn Backend) {
    let mut group = backend.bind_datagrams(&LOOPBACK, &DatagramOptions::default(), 1).expect("a group");
    let (bound, mail) = (group.remove(0), Mail::default());
    let to = bound.local.clone();
    let inbox = mail.clone();
    let gives = shard(move |reactor: Rc<dyn Reactor>| async move {
        let mut socket = datagrams(&reactor).serve(bound).expect("served");
        let mut peer = bind(&reactor, &LOOPBACK);
        for bytes in [b"first", b"other"] {
            send_one(&reactor, &mut *peer, bytes, &to).await.expect("it goes");
        }
        assert_eq!(receive_one(&reactor, &mut *socket, 100).await.expect("it comes").1, b"first");
        // Whoever ends because no descriptor is left must not lose it.
        let limit = DescriptorLimit::leave(0);
        let bound = socket.release().expect("given back");
        drop(limit);
        assert_eq!(bound.local, to);
        mail.send(bound);
    });
    let takes = shard(move |reactor: Rc<dyn Reactor>| async move {
        let bound = with_deadline(&reactor, LATE, "a socket", inbox.receive()).await;
        let mut socket = datagrams(&reactor).serve(bound).expect("served");
        assert_eq!(receive_one(&reactor, &mut *socket, 100).await.expect("it waited").1, b"other");
        assert!(receive_now(&mut *socket).await.is_pending(), "nothing comes twice");
    });
    on_each(backend, vec![gives, takes]);
}

/// An address that somebody has is an error at once, and free when he is gone.
async fn taken(reactor: Rc<dyn Reactor>) {
    for at in [LOOPBACK, name("taken")] {
        let first = bind(&reactor, &at);
        let local = first.local().expect("bound");
        let again = datagrams(&reactor).bind(&local, &DatagramOptions::default()).expect_err("it is taken");
        assert_eq!(again.kind(), ErrorKind::AddrInUse, "{again}");
        drop(first);
        sleep(&reactor, Duration::from_millis(1)).await;
        drop(bind(&reactor, &local));
    }
    let nobodys = Address::Inet("203.0.113.1:0".parse().expect("an address"));
    let error = datagrams(&reactor).bind(&nobodys, &DatagramOptions::default()).expect_err("not ours");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{error}");
}
