//! Resets: the peer's, which must be told from a clean end, and our own.
//!
//! What POSIX gives: the first call after a reset answers `ECONNRESET`, whichever direction makes it, and clears it;
//! from then on a read answers 0, which looks like a clean end, and a write answers `EPIPE`. The seam promises more:
//! an error stays the same kind of error. So a read must say `ConnectionReset` each time, also where a write was told
//! first, since a stream cut short must never look complete. A write may say `ConnectionReset` or `BrokenPipe`, since
//! both say the same to a writer, and which one the kernel gives depends on who asked first.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join;
use waterwheel_reactor::{Backend, Reactor, Sink, Source, Transport};

use crate::Outcome;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, Meeting, Peer, Venue, errand};
use crate::kit::stream::{
    drain, expect_end, flush, once, peek, peek_once, shutdown, turn, within, write, write_until_full,
};
use crate::kit::{on_one, pause};

/// A reset crosses the loopback in microseconds; this is for a machine that does much else.
const PROMPT: Duration = Duration::from_secs(5);

/// STREAM-5.
pub(super) fn reported(backend: &dyn Backend) -> Outcome {
    let signal = Arc::new(AtomicBool::new(false));
    // Rust ignores SIGPIPE, which would hide that one was raised; a program that embeds a reactor may not ignore it.
    signal_hook::flag::register(signal_hook::consts::SIGPIPE, Arc::clone(&signal)).expect("a signal handler");
    for family in [Family::Tcp, Family::Unix] {
        let venue = Venue::new(backend, family);
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            if family == Family::Tcp {
                seen_by_a_pending_read(&mut meeting).await;
                seen_by_a_later_read(&mut meeting).await;
                seen_by_a_write_first(&reactor, &mut meeting).await;
                behind_data(&mut meeting).await;
            }
            by_a_peer_that_left_bytes_unread(&mut meeting).await;
            writing_after_the_peers_end(&reactor, &mut meeting).await;
            writing_after_our_end(&mut meeting).await;
            meeting.close().await;
        });
    }
    assert!(!signal.load(SeqCst), "a write raised SIGPIPE");
    Outcome::Holds
}

/// Expects that reading says reset, and says so again.
async fn reads_reset(source: &mut dyn Source) {
    for attempt in 0..3 {
        match peek(source).await {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("read {attempt} after a reset: {error} ({:?})", error.kind()),
            Ok(bytes) if bytes.is_empty() => panic!("read {attempt} after a reset looks like a clean end"),
            Ok(bytes) => panic!("read {attempt} after a reset: {} bytes that nobody sent", bytes.len()),
        }
    }
}

/// Writes until that fails, which a reset must make it do.
async fn writes_fail(reactor: &Rc<dyn Reactor>, sink: &mut dyn Sink) {
    let failed = within(reactor, PROMPT, async {
        loop {
            if let Err(error) = write(sink, b"into the void").await {
                return error;
            }
            // What was taken may be sent only after this poll, and the answer comes later still.
            turn().await;
        }
    });
    let error = failed.await.expect("writing to a broken connection never failed");
    broken(&error);
    broken(&write(sink, b"again").await.expect_err("a write after a failed one was taken"));
    broken(&flush(sink).await.expect_err("a flush after a failed write went well"));
}

fn broken(error: &io::Error) {
    let known = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    assert!(known, "writing to a broken connection: {error} ({:?})", error.kind());
}

async fn seen_by_a_pending_read(meeting: &mut Meeting) {
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    assert!(peek_once(source.as_mut()).await.is_pending(), "there is nothing to read yet");
    turn().await;
    peer.reset();
    reads_reset(source.as_mut()).await;
}

async fn seen_by_a_later_read(meeting: &mut Meeting) {
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    peer.reset();
    turn().await;
    reads_reset(source.as_mut()).await;
}

/// The write takes the kernel's only report; the read must know of it all the same.
async fn seen_by_a_write_first(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    peer.reset();
    writes_fail(reactor, sink.as_mut()).await;
    reads_reset(source.as_mut()).await;
}

/// A reset may destroy data that came before it, so none is demanded; but it must not look like the end of it.
async fn behind_data(meeting: &mut Meeting) {
    for polled_before in [false, true] {
        let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
        if polled_before {
            assert!(peek_once(source.as_mut()).await.is_pending(), "there is nothing to read yet");
            turn().await;
        }
        peer.send(&mut Pattern::new(1), 10_000);
        peer.reset();
        let (_, last) = drain(source.as_mut(), &mut Pattern::new(1)).await;
        let error = last.expect_err("data and a reset look like data and a clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "reading after data and a reset: {error}");
        reads_reset(source.as_mut()).await;
    }
}

/// A close with unread input is a reset too, over TCP (RFC 2525, 2.17) and over Unix sockets.
async fn by_a_peer_that_left_bytes_unread(meeting: &mut Meeting) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    write(sink.as_mut(), b"never read").await.expect("writing");
    let waiting = errand(move || {
        peer.wait_for_input();
        drop(peer);
    });
    waiting.end().await;
    reads_reset(source.as_mut()).await;
}

/// The peer has closed in good order; whoever goes on writing is told, by an error and nothing else. The end that was
/// read before stays the end.
async fn writing_after_the_peers_end(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    drop(peer);
    expect_end(source.as_mut()).await;
    writes_fail(reactor, sink.as_mut()).await;
    expect_end(source.as_mut()).await;
}

async fn writing_after_our_end(meeting: &mut Meeting) {
    let (Transport { source: _source, mut sink }, _peer) = meeting.peer().await;
    shutdown(sink.as_mut()).await.expect("ending");
    for _ in 0..2 {
        let error = write(sink.as_mut(), b"late").await.expect_err("a write after our own end was taken");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "writing after our own end: {error}");
    }
    shutdown(sink.as_mut()).await.expect("ending again");
}

/// STREAM-6.
pub(super) fn abort(backend: &dyn Backend) -> Outcome {
    let venue = Venue::small(backend);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        for by in [By::Source, By::Sink] {
            for state in [State::Idle, State::Full, State::Unread, State::Pending] {
                aborted(&reactor, &mut meeting, by, state).await;
            }
            after_the_other_half_went(&mut meeting, by).await;
            after_a_shutdown(&mut meeting, by).await;
            during_a_shutdown(&reactor, &mut meeting, by).await;
        }
        meeting.close().await;
    });
    Outcome::Holds
}

/// Which half aborts.
#[derive(Clone, Copy, Debug)]
enum By {
    Source,
    Sink,
}

impl By {
    fn abort(self, transport: &mut Transport) {
        match self {
            By::Source => transport.source.abort(),
            By::Sink => transport.sink.abort(),
        }
    }
}

/// What is under way when it aborts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Full,
    Unread,
    Pending,
}

/// The peer reads what there is, and then the reset; how many bytes came before it.
async fn sees_reset(peer: Peer) -> usize {
    let (count, last) = errand(move || peer.drain(&mut Pattern::new(1), 10_000)).end().await;
    let error = last.expect_err("the peer saw a clean end where the connection was aborted");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the peer of an aborted connection: {error}");
    count
}

/// The peer sees the reset while both halves still exist, so it was the abort that sent it, and not their drop.
async fn aborted(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting, by: By, state: State) {
    let (mut transport, peer) = meeting.peer().await;
    let mut taken = 0;
    match state {
        State::Idle => {}
        State::Full => {
            taken = write_until_full(reactor, transport.sink.as_mut(), &mut Pattern::new(1)).await;
        }
        State::Unread => {
            peer.write_all(b"never consumed");
            assert!(!peek(transport.source.as_mut()).await.expect("lent").is_empty(), "bytes, not the end");
        }
        State::Pending => {
            assert!(peek_once(transport.source.as_mut()).await.is_pending(), "nothing to read yet");
            turn().await;
        }
    }
    by.abort(&mut transport);
    by.abort(&mut transport);
    let got = sees_reset(peer).await;
    assert!(got <= taken, "{got} bytes came, {taken} were taken");
    // Neither half may leave its owner waiting, and a writer must be told.
    let Transport { source, sink } = &mut transport;
    let told = async {
        write(sink.as_mut(), b"late").await.expect_err("a write after an abort was taken");
        // Ready is what matters; there is nothing left to end.
        drop(shutdown(sink.as_mut()).await);
        if state == State::Unread {
            // A reader that was in the midst of it must not be harmed.
            source.consume(1);
        }
        for _ in 0..2 {
            peek(source.as_mut()).await.expect_err("bytes were lent after an abort, or an end was told");
        }
    };
    within(reactor, PROMPT, told)
        .await
        .unwrap_or_else(|| panic!("{by:?} aborted ({state:?}): a half waits on"));
    transport.source.abort();
    transport.sink.abort();
}

async fn after_the_other_half_went(meeting: &mut Meeting, by: By) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    match by {
        By::Source => {
            drop(sink);
            let peer = sees_end(peer).await;
            source.abort();
            writes_reach_nobody(peer).await;
        }
        By::Sink => {
            drop(source);
            sink.abort();
            sees_reset(peer).await;
        }
    }
}

/// Our FIN is out and the peer has seen it. A reset behind it is seen by the peer's next write.
async fn after_a_shutdown(meeting: &mut Meeting, by: By) {
    let (mut transport, peer) = meeting.peer().await;
    shutdown(transport.sink.as_mut()).await.expect("ending");
    let peer = sees_end(peer).await;
    by.abort(&mut transport);
    writes_reach_nobody(peer).await;
    peek(transport.source.as_mut()).await.expect_err("an end was told after an abort");
    by.abort(&mut transport);
}

/// The FIN waits behind a full buffer when the abort overtakes it.
async fn during_a_shutdown(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting, by: By) {
    let (mut transport, peer) = meeting.peer().await;
    write_until_full(reactor, transport.sink.as_mut(), &mut Pattern::new(1)).await;
    let ended = once(|cx| transport.sink.poll_shutdown(cx)).await;
    // Ready is possible where the whole queue is the kernel's; the FIN is stuck all the same, since the window is shut.
    assert!(!matches!(ended, Poll::Ready(Err(_))), "ending behind a full buffer: {ended:?}");
    by.abort(&mut transport);
    sees_reset(peer).await;
}

/// The peer reads our end.
async fn sees_end(peer: Peer) -> Peer {
    let reader = errand(move || {
        peer.expect_end();
        peer
    });
    reader.end().await
}

/// The peer of a connection that we ended and then aborted: had we only ended it, its writes would go on being taken.
async fn writes_reach_nobody(peer: Peer) {
    let writer = errand(move || {
        for _ in 0..1_000 {
            if let Err(error) = peer.try_write(b"?") {
                return broken(&error);
            }
            pause(Duration::from_millis(1));
        }
        panic!("the peer goes on writing to a connection that was aborted");
    });
    writer.end().await;
}

/// STREAM-12.
pub(super) fn while_nobody_reads(backend: &dyn Backend) -> Outcome {
    let venue = Venue::small(backend);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        for unread in [0, 1, 100_000] {
            a_pending_write_is_told(&reactor, &mut meeting, unread).await;
            a_pending_flush_is_told(&reactor, &mut meeting, unread).await;
        }
        meeting.close().await;
    });
    Outcome::Holds
}

/// A connection whose buffers are full, with input that nobody will read.
async fn full(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting, unread: usize) -> (Transport, Peer) {
    let (mut transport, peer) = meeting.peer().await;
    let mut sent = Pattern::new(2);
    let peer = errand(move || {
        peer.send_until_blocked(&mut sent, unread, Duration::from_millis(100));
        peer
    });
    let peer = peer.end().await;
    write_until_full(reactor, transport.sink.as_mut(), &mut Pattern::new(1)).await;
    (transport, peer)
}

async fn a_pending_write_is_told(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting, unread: usize) {
    let (Transport { source: _source, mut sink }, peer) = full(reactor, meeting, unread).await;
    let reset = async {
        turn().await;
        peer.reset();
    };
    let writing = async {
        let bytes = [0; 64 << 10];
        loop {
            if let Err(error) = write(sink.as_mut(), &bytes).await {
                return error;
            }
        }
    };
    let told = within(reactor, PROMPT, join(writing, reset)).await;
    let (error, ()) =
        told.unwrap_or_else(|| panic!("a pending write was not told of the reset ({unread} unread)"));
    broken(&error);
}

/// A flush that is ready because all is with the kernel has nothing to tell yet; it must the next time.
async fn a_pending_flush_is_told(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting, unread: usize) {
    let (Transport { source: _source, mut sink }, peer) = full(reactor, meeting, unread).await;
    let before = once(|cx| sink.poll_flush(cx)).await;
    if let Poll::Ready(Err(error)) = before {
        panic!("flushing a connection that is only full: {error}");
    }
    turn().await;
    peer.reset();
    let flushing = poll_fn(|cx| match sink.poll_flush(cx) {
        Poll::Ready(Ok(())) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        other => other,
    });
    let told = within(reactor, PROMPT, flushing).await;
    let told = told.unwrap_or_else(|| panic!("a flush was not told of the reset ({unread} unread)"));
    broken(&told.expect_err("a flush after a reset"));
}
