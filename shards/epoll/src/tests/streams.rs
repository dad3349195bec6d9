//! Connections.

use std::cell::RefCell;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Waker};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use waterwheel_reactor::{Handle, Incoming};

use super::*;
use crate::descriptor::Descriptor;
use crate::sink::EpollSink;
use crate::slots::Slots;
use crate::source::EpollSource;

fn incoming(handle: impl Into<OwnedFd>) -> Incoming {
    Incoming { handle: Handle::Os(handle.into()), bytes: Vec::new(), peer: None }
}

/// A connection whose far end is a plain blocking socket.
async fn with_plain_peer(reactor: &EpollReactor) -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Address::Inet(listener.local_addr().unwrap());
    let mut near = reactor.connect(&at, &ConnectOptions::default()).unwrap();
    poll_fn(|cx| near.sink.poll_flush(cx)).await.unwrap();
    (near, listener.accept().unwrap().0)
}

/// Turns until the peer's doing has become an event; loopback delivers before the peer's call returns.
async fn settle() {
    for _ in 0..3 {
        turn().await;
    }
}

#[test]
fn an_end_that_came_together_with_the_connection_is_not_lost() {
    run(async |reactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = Address::Inet(listener.local_addr().unwrap());
        let mut near = reactor.connect(&at, &ConnectOptions::default()).unwrap();
        // All before the first event: established, bytes, end.
        let mut far = listener.accept().unwrap().0;
        far.write_all(b"short").unwrap();
        drop(far);
        assert_eq!(read(&mut *near.source, 100).await.unwrap(), b"short");
    });
}

#[test]
fn an_end_behind_bytes_is_met_without_another_event() {
    run(async |reactor| {
        let (mut near, mut far) = with_plain_peer(&reactor).await;
        far.write_all(b"short").unwrap();
        drop(far);
        settle().await;
        assert_eq!(read(&mut *near.source, 100).await.unwrap(), b"short");
    });
}

#[test]
fn bytes_behind_an_urgent_one_do_not_wait_for_the_next_event() {
    run(async |reactor| {
        let (mut near, mut far) = with_plain_peer(&reactor).await;
        far.write_all(b"before").unwrap();
        rustix::net::send(&far, b"!", SendFlags::OOB).unwrap();
        far.write_all(b"after").unwrap();
        settle().await;
        assert_eq!(read(&mut *near.source, 11).await.unwrap(), b"beforeafter");
    });
}

#[test]
fn bytes_behind_a_passed_descriptor_do_not_wait_for_the_next_event() {
    run(async |reactor| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = reactor.adopt(incoming(near)).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let passed = [far.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        rustix::net::sendmsg(&far, &[IoSlice::new(b"first")], &mut control, SendFlags::empty()).unwrap();
        far.write_all(b"second").unwrap();
        settle().await;
        assert_eq!(read(&mut *near.source, 11).await.unwrap(), b"firstsecond");
    });
}

#[test]
fn more_slices_than_one_call_takes_are_not_mistaken_for_full_buffers() {
    run(async |reactor| {
        let (mut near, mut far) = pair(&reactor).await;
        let mut slices = vec![IoSlice::new(b""); 2000];
        slices.extend([IoSlice::new(b"ab"); 3000]);
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let taken = poll_fn(|cx| near.sink.poll_write_vectored(cx, left)).await.unwrap();
            IoSlice::advance_slices(&mut left, taken);
        }
        drop(near);
        assert_eq!(read(&mut *far.source, 10_000).await.unwrap(), b"ab".repeat(3000));
    });
}

#[test]
fn a_reset_that_the_sink_met_is_no_clean_end_for_the_source() {
    run(async |reactor| {
        let (mut near, far) = with_plain_peer(&reactor).await;
        waterwheel_os::abort(far.as_fd());
        settle().await;
        for _ in 0..2 {
            // The kernel calls the second one a broken pipe.
            let wrote = poll_fn(|cx| near.sink.poll_write(cx, b"x")).await;
            assert_eq!(wrote.unwrap_err().kind(), ErrorKind::ConnectionReset);
            let got = poll_fn(|cx| near.source.poll_fill(cx).map_ok(<[u8]>::len)).await;
            assert_eq!(got.unwrap_err().kind(), ErrorKind::ConnectionReset);
            let flushed = poll_fn(|cx| near.sink.poll_flush(cx)).await;
            assert_eq!(flushed.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn a_broken_pipe_takes_nothing_from_what_the_peer_sent() {
    run(async |reactor| {
        let (mut near, mut far) = with_plain_peer(&reactor).await;
        far.write_all(b"last words").unwrap();
        drop(far);
        // The peer is gone: the first write is answered with a reset, which after its FIN is a broken pipe.
        while poll_fn(|cx| near.sink.poll_write(cx, b"x")).await.is_ok() {
            settle().await;
        }
        let shut = poll_fn(|cx| near.sink.poll_shutdown(cx)).await;
        assert_eq!(shut.unwrap_err().kind(), ErrorKind::BrokenPipe);
        drop(near.sink);
        assert_eq!(read(&mut *near.source, 100).await.unwrap(), b"last words");
    });
}

#[test]
fn a_sink_dropped_while_connecting_ends_its_direction_and_no_more() {
    run(async |reactor| {
        let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
        let full = Epoll.bind(&loopback(), &options, 1).unwrap().remove(0);
        let at = full.local.clone();
        // The queue holds two; the handshake of the third waits for a second until it is tried again.
        let _first = TcpStream::connect(at.inet().unwrap()).unwrap();
        let _second = TcpStream::connect(at.inet().unwrap()).unwrap();
        let Transport { mut source, mut sink } = reactor.connect(&at, &ConnectOptions::default()).unwrap();
        settle().await;
        assert!(poll_fn(|cx| Poll::Ready(sink.poll_flush(cx).is_pending())).await, "it is connecting");
        drop(sink);
        let mut listener = reactor.listen(full).unwrap();
        let mut accepted = Vec::new();
        for _ in 0..3 {
            accepted.push(poll_fn(|cx| listener.poll_accept(cx)).await.unwrap());
        }
        let mut far = reactor.adopt(accepted.pop().unwrap()).unwrap();
        assert_eq!(read(&mut *far.source, 1).await.unwrap(), b"", "FIN");
        write_all(&mut *far.sink, b"still").await.unwrap();
        assert_eq!(read(&mut *source, 5).await.unwrap(), b"still");
    });
}

#[test]
fn a_connection_to_itself_is_refused() {
    run(async |reactor| {
        let free = bound().local.inet().unwrap();
        let options = ConnectOptions { from: Some(free), ..ConnectOptions::default() };
        let mut near = reactor.connect(&Address::Inet(free), &options).unwrap();
        let flushed = poll_fn(|cx| near.sink.poll_flush(cx)).await;
        assert_eq!(flushed.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let got = poll_fn(|cx| near.source.poll_fill(cx).map_ok(<[u8]>::len)).await;
        assert_eq!(got.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn an_event_of_a_closed_connection_does_not_reach_its_successor() {
    run(async |reactor| {
        let (near, mut far) = with_plain_peer(&reactor).await;
        let (next, _peer) = UnixStream::pair().unwrap();
        settle().await;
        // The event for `near` is in the kernel's list, and `next` takes over number and slot before it is fetched.
        far.write_all(b"x").unwrap();
        drop(near);
        let mut next = reactor.adopt(incoming(next)).unwrap();
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            assert!(next.source.poll_fill(cx).is_pending(), "nothing was sent to it");
            if polls == 5 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    });
}

#[test]
fn no_buffer_is_held_while_nothing_is_lent() {
    let bench = Bench::new();
    let core = bench.core.clone();
    bench.run(async move |reactor| {
        let mut pairs = Vec::new();
        for _ in 0..8 {
            let (near, mut far) = pair(&reactor).await;
            let idle = poll_fn(|cx| Poll::Ready(far.source.poll_fill(cx).is_pending())).await;
            assert!(idle);
            pairs.push((near, far));
        }
        assert_eq!(core.pool.kept(), 1, "all of them tried with the same chunk");
        for (near, far) in &mut pairs {
            write_all(&mut *near.sink, b"12").await.unwrap();
            let lent = poll_fn(|cx| far.source.poll_fill(cx).map_ok(<[u8]>::len)).await.unwrap();
            far.source.consume(lent - 1);
        }
        assert_eq!(core.pool.kept(), 0, "each lends from one of its own");
        drop(pairs);
        assert_eq!(core.pool.kept(), 8, "all came back");
    });
}

#[test]
fn what_outlives_the_reactor_is_closed_and_says_so() {
    let bench = Bench::new();
    let kept = Rc::new(RefCell::new(None));
    let keep = kept.clone();
    bench.run(async move |reactor| {
        let ends = with_plain_peer(&reactor).await;
        let listener = reactor.listen(bound()).unwrap();
        *keep.borrow_mut() = Some((ends, listener));
    });
    bench.core.end();
    let ((mut near, mut far), mut listener) = kept.take().unwrap();
    assert_eq!(far.read(&mut [0; 8]).unwrap(), 0, "the peer sees the end");
    let cx = &mut Context::from_waker(Waker::noop());
    let kind = |error: Option<io::Error>| error.map(|error| error.kind());
    let failed = [
        kind(now(near.source.poll_fill(cx).map_ok(|_| ())).err()),
        kind(now(near.source.poll_release(cx)).err()),
        kind(now(near.sink.poll_write(cx, b"x")).err()),
        kind(now(near.sink.poll_flush(cx)).err()),
        kind(now(near.sink.poll_shutdown(cx)).err()),
        kind(now(listener.poll_accept(cx)).err()),
        kind(near.source.local().err()),
        kind(bench.reactor().listen(bound()).err()),
    ];
    assert_eq!(failed, [Some(ErrorKind::NotConnected); 8]);
    assert!(near.source.descriptor().is_none());
    near.sink.abort();
    near.source.abort();
}

#[test]
fn a_descriptor_lent_to_the_user_keeps_nothing_in_the_set() {
    let bench = Bench::new();
    let core = bench.core.clone();
    bench.run(async move |reactor| {
        let (near, mut far) = with_plain_peer(&reactor).await;
        // The user's copy keeps the open file alive; closing ours alone would leave it in the set.
        let copy = near.source.descriptor().unwrap().try_clone_to_owned().unwrap();
        let ours = near.source.descriptor().unwrap().as_raw_fd();
        assert_ne!(ours, copy.as_raw_fd());
        settle().await;
        drop(near);
        far.write_all(b"x").unwrap();
        let mut events = crate::poller::events();
        core.poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "{} events for nobody", events.len());
        drop(copy);
    });
}

/// The answer of something that must not wait.
fn now<T>(poll: Poll<T>) -> T {
    match poll {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("must not wait"),
    }
}

#[test]
fn an_idle_connection_takes_little_memory() {
    let reference_counts = 2 * size_of::<usize>();
    let bytes = size_of::<Descriptor>()
        + reference_counts
        + size_of::<EpollSource>()
        + size_of::<EpollSink>()
        + Slots::SLOT_BYTES;
    assert!(bytes <= 256, "{bytes} bytes");
}
