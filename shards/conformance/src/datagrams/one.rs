//! DATAGRAM-1: one datagram, and one error.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{
    Address, Backend, Congestion, DATAGRAM_BYTES_MAX, DatagramOptions, Outgoing, Reactor, Via,
};

use super::{
    LOOPBACK, bind, connect, datagrams, name, offered, pattern, receive_now, receive_one, send, send_one, six,
};
use crate::Outcome;
use crate::kit::{on_one, sleep};

pub(super) fn law(backend: &dyn Backend) -> Outcome {
    offered(backend, |backend| {
        for at in [LOOPBACK, six(), name("whole")] {
            on_one(backend, |reactor| whole(reactor, at));
        }
        on_one(backend, cut);
        on_one(backend, thrown_away);
        on_one(backend, refused);
        on_one(backend, too_large);
        on_one(backend, answered_from_where_it_came);
        on_one(backend, marked);
        on_one(backend, unix_without_a_peer);
    })
}

/// Each arrives as it was sent, with its sender's address.
async fn whole(reactor: Rc<dyn Reactor>, at: Address) {
    let (mut here, mut there) = match &at {
        Address::Inet(_) => (bind(&reactor, &at), bind(&reactor, &at)),
        Address::Unix(_) => (bind(&reactor, &at), bind(&reactor, &name("other"))),
    };
    let (from, to) = (here.local().expect("bound"), there.local().expect("bound"));
    assert!(receive_now(&mut *there).await.is_pending(), "nothing was sent");
    for (seed, size) in [0, 1, 512, 1_200, 9_000, 65_000].into_iter().enumerate() {
        let bytes = pattern(seed, size);
        send_one(&reactor, &mut *here, &bytes, &to).await.expect("it goes");
        let (datagram, got) = receive_one(&reactor, &mut *there, DATAGRAM_BYTES_MAX).await.expect("it comes");
        assert_eq!((datagram.size, datagram.segment), (size, None));
        assert!(got == bytes, "the bytes of a datagram of {size}");
        assert_eq!(datagram.from, from);
    }
    assert!(receive_now(&mut *there).await.is_pending(), "nothing comes twice");
}

/// What has no room is cut, its true size is told, and the next is whole.
async fn cut(reactor: Rc<dyn Reactor>) {
    let (mut here, mut there) = (bind(&reactor, &LOOPBACK), bind(&reactor, &LOOPBACK));
    let to = there.local().expect("bound");
    let bytes = pattern(3, 1_200);
    for _ in 0..2 {
        send_one(&reactor, &mut *here, &bytes, &to).await.expect("it goes");
    }
    let (datagram, got) = receive_one(&reactor, &mut *there, 100).await.expect("it comes");
    assert_eq!(datagram.size, 1_200, "its size as sent");
    assert!(got == bytes[..100], "what has room");
    let (datagram, got) = receive_one(&reactor, &mut *there, 2_000).await.expect("it comes");
    assert_eq!(datagram.size, 1_200);
    assert!(got == bytes, "the next one is whole");
}

/// What finds no room is gone, and the others are whole; whoever tells how many those are tells the truth.
async fn thrown_away(reactor: Rc<dyn Reactor>) {
    const ALL: u32 = 100;
    let options = DatagramOptions { receive_buffer: Some(8_000), ..DatagramOptions::default() };
    let mut there = datagrams(&reactor).bind(&LOOPBACK, &options).expect("a socket");
    let mut here = bind(&reactor, &LOOPBACK);
    let (to, bytes) = (there.local().expect("bound"), pattern(5, 1_000));
    for _ in 0..ALL {
        send_one(&reactor, &mut *here, &bytes, &to).await.expect("it goes");
    }
    // Until all are there, or gone: the kernel may take its time with what was sent.
    let (mut gone, mut quiet) = (0, 0);
    while quiet < 5 {
        sleep(&reactor, Duration::from_millis(10)).await;
        let Some(by_now) = there.discarded() else { return };
        quiet = if by_now == gone && gone > 0 { quiet + 1 } else { 0 };
        gone = by_now;
    }
    assert!((1..ALL).contains(&gone), "{gone} of {ALL} are gone");
    for _ in gone..ALL {
        assert!(receive_one(&reactor, &mut *there, 2_000).await.expect("it comes").1 == bytes);
    }
    assert!(receive_now(&mut *there).await.is_pending() && there.discarded() == Some(gone));
    // It is the socket's, whoever serves it.
    let bound = there.release().expect("given back");
    let there = datagrams(&reactor).serve(bound).expect("served");
    assert_eq!((there.discarded(), here.discarded()), (Some(gone), Some(0)));
}

/// Nobody is at the peer's address: a connected socket is told, and goes on.
async fn refused(reactor: Rc<dyn Reactor>) {
    let gone = bind(&reactor, &LOOPBACK);
    let to = gone.local().expect("bound");
    drop(gone);
    let mut here = connect(&reactor, &to);
    for _ in 0..2 {
        send(&reactor, &mut *here, &[Outgoing::to_peer(b"anybody?")]).await.expect("it goes");
        let error = receive_one(&reactor, &mut *here, 100).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
    let mut there = bind(&reactor, &to);
    send(&reactor, &mut *here, &[Outgoing::to_peer(b"hello")]).await.expect("it goes");
    let (datagram, got) = receive_one(&reactor, &mut *there, 100).await.expect("somebody came");
    assert_eq!(got, b"hello");
    send_one(&reactor, &mut *there, b"hi", &datagram.from).await.expect("it goes");
    assert_eq!(receive_one(&reactor, &mut *here, 100).await.expect("an answer").1, b"hi");
    // A stranger is not heard on a connected socket.
    let mut stranger = bind(&reactor, &LOOPBACK);
    send_one(&reactor, &mut *stranger, b"psst", &here.local().expect("bound")).await.expect("it goes");
    send_one(&reactor, &mut *there, b"again", &datagram.from).await.expect("it goes");
    assert_eq!(receive_one(&reactor, &mut *here, 100).await.expect("the peer").1, b"again");
}

/// No datagram is that large: an error at once, and nothing else is lost.
async fn too_large(reactor: Rc<dyn Reactor>) {
    let (mut here, mut there) = (bind(&reactor, &LOOPBACK), bind(&reactor, &LOOPBACK));
    let to = there.local().expect("bound");
    let error = send_one(&reactor, &mut *here, &pattern(0, 65_508), &to).await.expect_err("too large");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::MSGSIZE.raw_os_error()), "{error}");
    let error = send(&reactor, &mut *here, &[Outgoing::to_peer(b"whom?")]).await.expect_err("to nobody");
    assert!(error.kind() != ErrorKind::WouldBlock, "{error}");
    send_one(&reactor, &mut *here, b"small", &to).await.expect("it goes");
    assert_eq!(receive_one(&reactor, &mut *there, 100).await.expect("it comes").1, b"small");
}

/// A socket of all addresses tells where a datagram came to, and can answer from there.
async fn answered_from_where_it_came(reactor: Rc<dyn Reactor>) {
    for (all, one) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")] {
        let mut there = bind(&reactor, &Address::Inet(all.parse().expect("an address")));
        let port = there.local().expect("bound").inet().expect("an internet address").port();
        let to = Address::Inet(SocketAddr::new(one.parse().expect("an address"), port));
        let mut here = connect(&reactor, &to);
        send(&reactor, &mut *here, &[Outgoing::to_peer(b"question")]).await.expect("it goes");
        let (datagram, _) = receive_one(&reactor, &mut *there, 100).await.expect("it comes");
        let via = datagram.via.expect("where it came to");
        assert_eq!(via.address.to_string(), one, "to {all}");
        let from = Some(Via { interface: 0, ..via });
        let answer = Outgoing { from, ..Outgoing::new(b"answer", &datagram.from) };
        send(&reactor, &mut *there, &[answer]).await.expect("it goes");
        // Connected, so it hears only what comes from where it sent to.
        assert_eq!(receive_one(&reactor, &mut *here, 100).await.expect("an answer").1, b"answer");
    }
}

/// What the network is told of congestion arrives.
async fn marked(reactor: Rc<dyn Reactor>) {
    for at in [LOOPBACK, six()] {
        let (mut here, mut there) = (bind(&reactor, &at), bind(&reactor, &at));
        let to = there.local().expect("bound");
        for congestion in [Congestion::Capable, Congestion::Scalable, Congestion::NotCapable] {
            let one = Outgoing { congestion, ..Outgoing::new(b"x", &to) };
            send(&reactor, &mut *here, &[one]).await.expect("it goes");
            let (datagram, _) = receive_one(&reactor, &mut *there, 100).await.expect("it comes");
            assert_eq!(datagram.congestion, congestion);
        }
    }
}

/// Over Unix names: nobody there is told at once, a full queue does not wait for ever.
async fn unix_without_a_peer(reactor: Rc<dyn Reactor>) {
    let mut here = bind(&reactor, &name("here"));
    let nobody = name("nobody");
    let error = send_one(&reactor, &mut *here, b"anybody?", &nobody).await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let there = bind(&reactor, &name("there"));
    let to = there.local().expect("bound");
    let mut sent = 0;
    let full = loop {
        assert!(sent < 1 << 20, "a queue without a limit");
        match send_one(&reactor, &mut *here, b"more", &to).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::ResourceBusy, "after {sent}: {full}");
    // And in the connected form, the answer finds its way.
    let (mut ask, mut tell) = (connect(&reactor, &here.local().expect("bound")), here);
    send(&reactor, &mut *ask, &[Outgoing::to_peer(b"question")]).await.expect("it goes");
    let (datagram, _) = receive_one(&reactor, &mut *tell, 100).await.expect("it comes");
    send_one(&reactor, &mut *tell, b"answer", &datagram.from).await.expect("it goes");
    assert_eq!(receive_one(&reactor, &mut *ask, 100).await.expect("an answer").1, b"answer");
}
