//! Ends in good order: half-close, dropped halves, and bytes that were taken before the end.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join;
use waterwheel_reactor::{Backend, ConnectOptions, Reactor, Sink, Source, Transport};

use crate::Outcome;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, Meeting, Peer, Venue, errand, listening};
use crate::kit::stream::{
    expect, expect_end, flush, forward, once, peek, peek_once, read, release, send, shutdown, turn, write,
    write_all, write_until_pending,
};
use crate::kit::{on_one, pause, thread};

/// Larger than the kernel's buffers at their first size, so that a response needs several turns.
const RESPONSE: usize = 300 << 10;

/// STREAM-4.
pub(super) fn half_close(backend: &dyn Backend) -> Outcome {
    for family in [Family::Tcp, Family::Unix] {
        let venue = Venue::new(backend, family);
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            request_ended_by_us(&mut meeting).await;
            request_ended_by_the_peer(&mut meeting).await;
            both_end_at_once(&mut meeting).await;
            for kept in [Kept::Copy, Kept::Released] {
                ended_while_somebody_keeps_the_file(&mut meeting, kept).await;
            }
            through_a_forwarder(&mut meeting, Pump::Copy).await;
            through_a_forwarder(&mut meeting, Pump::Forward).await;
            meeting.close().await;
        });
    }
    Outcome::Holds
}

/// Our FIN follows our request; the response comes after it. Ending twice is ending once.
async fn request_ended_by_us(meeting: &mut Meeting) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    let server = errand(move || {
        peer.expect(&mut Pattern::new(1), RESPONSE);
        peer.expect_end();
        peer.send(&mut Pattern::new(2), RESPONSE);
    });
    send(sink.as_mut(), &mut Pattern::new(1), RESPONSE).await;
    for _ in 0..2 {
        shutdown(sink.as_mut()).await.expect("ending the request");
    }
    expect(source.as_mut(), &mut Pattern::new(2), RESPONSE).await;
    expect_end(source.as_mut()).await;
    server.end().await;
}

/// The peer's FIN follows its request; it reads the response after it.
async fn request_ended_by_the_peer(meeting: &mut Meeting) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    let client = errand(move || {
        peer.send(&mut Pattern::new(1), 1_000);
        peer.finish();
        peer.expect(&mut Pattern::new(2), RESPONSE);
        peer.expect_end();
    });
    expect(source.as_mut(), &mut Pattern::new(1), 1_000).await;
    expect_end(source.as_mut()).await;
    send(sink.as_mut(), &mut Pattern::new(2), RESPONSE).await;
    flush(sink.as_mut()).await.expect("flushing after the peer's end");
    shutdown(sink.as_mut()).await.expect("ending the response");
    client.end().await;
}

#[derive(Clone, Copy, Debug)]
enum Kept {
    /// A duplicate of the descriptor.
    Copy,
    /// The connection as a whole.
    Released,
}

/// Both directions have ended, and the open file goes on: its peer must hear of the end all the same, though no close
/// tells it.
async fn ended_while_somebody_keeps_the_file(meeting: &mut Meeting, kept: Kept) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    let client = errand(move || {
        peer.finish();
        peer.expect(&mut Pattern::new(2), 1_000);
        peer.expect_end();
    });
    expect_end(source.as_mut()).await;
    let copy = source.descriptor().map(|file| file.try_clone_to_owned().expect("another descriptor"));
    send(sink.as_mut(), &mut Pattern::new(2), 1_000).await;
    shutdown(sink.as_mut()).await.expect("ending the response");
    let released = match kept {
        Kept::Copy => None,
        Kept::Released => Some(release(source.as_mut()).await.expect("releasing what has ended")),
    };
    drop((source, sink));
    client.end().await;
    drop((copy, released));
}

async fn both_end_at_once(meeting: &mut Meeting) {
    let (mut one, mut other) = meeting.own().await;
    let end = |half| async move {
        let half: &mut dyn Sink = half;
        send(half, &mut Pattern::new(3), 10_000).await;
        shutdown(half).await.expect("ending");
    };
    join(end(one.sink.as_mut()), end(other.sink.as_mut())).await;
    for source in [one.source.as_mut(), other.source.as_mut()] {
        expect(source, &mut Pattern::new(3), 10_000).await;
        expect_end(source).await;
    }
}

#[derive(Clone, Copy, Debug)]
enum Pump {
    Copy,
    Forward,
}

/// Client and server are peers; this shard forwards. The client ends its request first and must get the response all
/// the same: Twisted's port forwarder closes both sides at the first end.
async fn through_a_forwarder(meeting: &mut Meeting, pump: Pump) {
    let (mut front, client) = meeting.peer().await;
    let (mut back, server) = meeting.peer().await;
    let client = errand(move || {
        client.send(&mut Pattern::new(1), 10_000);
        client.finish();
        client.expect(&mut Pattern::new(2), RESPONSE);
        client.expect_end();
    });
    let server = errand(move || {
        server.expect(&mut Pattern::new(1), 10_000);
        server.expect_end();
        server.send(&mut Pattern::new(2), RESPONSE);
    });
    let there = carry(pump, front.source.as_mut(), back.sink.as_mut());
    let back = carry(pump, back.source.as_mut(), front.sink.as_mut());
    join(there, back).await;
    client.end().await;
    server.end().await;
}

async fn carry(pump: Pump, source: &mut dyn Source, sink: &mut dyn Sink) {
    loop {
        let moved = match pump {
            Pump::Forward => forward(sink, source, 64 << 10).await.expect("forwarding"),
            Pump::Copy => {
                let bytes = read(source).await.expect("reading");
                write_all(sink, &bytes).await.expect("writing");
                bytes.len()
            }
        };
        if moved == 0 {
            return shutdown(sink).await.expect("passing the end on");
        }
    }
}

/// STREAM-7.
pub(super) fn dropped_sink(backend: &dyn Backend) -> Outcome {
    for family in [Family::Tcp, Family::Unix] {
        let venue = match family {
            Family::Tcp => Venue::small(backend),
            Family::Unix => Venue::new(backend, family),
        };
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            for also_the_source in [false, true] {
                for full in [false, true] {
                    dropped_with_bytes_taken(&mut meeting, full, also_the_source).await;
                }
            }
            for source_first in [false, true] {
                dropped_while_somebody_keeps_the_file(&mut meeting, source_first).await;
            }
            if family == Family::Tcp {
                for polled in [false, true] {
                    dropped_while_connecting(&reactor, polled).await;
                }
            }
            meeting.close().await;
        });
    }
    Outcome::Holds
}

/// The open file goes on in somebody's duplicate: its peer must hear of the end all the same, though no close tells it.
async fn dropped_while_somebody_keeps_the_file(meeting: &mut Meeting, source_first: bool) {
    let (Transport { source, mut sink }, peer) = meeting.peer().await;
    let copy = source.descriptor().map(|file| file.try_clone_to_owned().expect("another descriptor"));
    let client = errand(move || {
        peer.expect(&mut Pattern::new(1), 1_000);
        peer.expect_end();
    });
    send(sink.as_mut(), &mut Pattern::new(1), 1_000).await;
    // What was taken is sent by then.
    for _ in 0..5 {
        turn().await;
    }
    if source_first {
        drop(source);
        drop(sink);
    } else {
        drop(sink);
        drop(source);
    }
    client.end().await;
    drop(copy);
}

/// The sink goes in the turn in which it took its last bytes; the peer reads only later.
async fn dropped_with_bytes_taken(meeting: &mut Meeting, full: bool, also_the_source: bool) {
    let (Transport { source, mut sink }, peer) = meeting.peer().await;
    let mut sent = Pattern::new(1);
    let taken = if full {
        write_until_pending(sink.as_mut(), &mut sent).await
    } else {
        send(sink.as_mut(), &mut sent, 1_000).await;
        1_000
    };
    let kept = (!also_the_source).then_some(source);
    drop(sink);
    let reader = errand(move || {
        let (got, last) = peer.drain(&mut Pattern::new(1), 10_000);
        last.unwrap_or_else(|error| panic!("an error instead of the end after {got} bytes: {error}"));
        (got, peer)
    });
    let (got, peer) = reader.end().await;
    assert_eq!(got, taken, "bytes received, bytes taken before the drop (full: {full})");
    if let Some(mut source) = kept {
        peer.send(&mut Pattern::new(2), 1_000);
        drop(peer);
        expect(source.as_mut(), &mut Pattern::new(2), 1_000).await;
        expect_end(source.as_mut()).await;
    }
}

/// The sink goes before the connection is established, and the source waits in vain or is not looked at: FIN must
/// follow by itself.
async fn dropped_while_connecting(reactor: &Rc<dyn Reactor>, polled: bool) {
    let (listener, at) = listening();
    let Transport { mut source, sink } =
        reactor.connect(&at.into(), &ConnectOptions::default()).expect("connecting");
    if polled {
        assert!(peek_once(source.as_mut()).await.is_pending(), "there is nothing to read yet");
    }
    drop(sink);
    let peer = errand(move || {
        let peer = Peer::accept(&*listener);
        peer.expect_end();
        peer.send(&mut Pattern::new(3), 1_000);
    });
    peer.end().await;
    expect(source.as_mut(), &mut Pattern::new(3), 1_000).await;
    expect_end(source.as_mut()).await;
}

/// STREAM-8.
pub(super) fn either_half_first(backend: &dyn Backend) -> Outcome {
    let venue = Venue::new(backend, Family::Tcp);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        for state in [Left::Idle, Left::Pending, Left::Lent] {
            source_first(&mut meeting, state).await;
        }
        for full in [false, true] {
            sink_first(&mut meeting, full).await;
        }
        meeting.close().await;
    });
    Outcome::Holds
}

/// How the source is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Idle,
    Pending,
    Lent,
}

async fn source_first(meeting: &mut Meeting, state: Left) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    if state == Left::Lent {
        peer.write_all(b"never read");
        assert!(!peek(source.as_mut()).await.expect("lent").is_empty(), "bytes, not the end");
    }
    if state == Left::Pending {
        assert!(peek_once(source.as_mut()).await.is_pending(), "there is nothing to read yet");
    }
    drop(source);
    // Input that comes later must not disturb the half that is left.
    peer.write_all(b"also never read");
    let reader = errand(move || {
        peer.expect(&mut Pattern::new(1), RESPONSE);
        peer.expect_end();
    });
    send(sink.as_mut(), &mut Pattern::new(1), RESPONSE).await;
    flush(sink.as_mut()).await.expect("flushing without a source");
    shutdown(sink.as_mut()).await.expect("ending without a source");
    reader.end().await;
}

async fn sink_first(meeting: &mut Meeting, full: bool) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    let mut taken = 0;
    if full {
        taken = write_until_pending(sink.as_mut(), &mut Pattern::new(1)).await;
    }
    drop(sink);
    let sender = errand(move || {
        peer.send(&mut Pattern::new(2), RESPONSE);
        peer.expect(&mut Pattern::new(1), taken);
        peer.expect_end();
    });
    expect(source.as_mut(), &mut Pattern::new(2), RESPONSE).await;
    sender.end().await;
    expect_end(source.as_mut()).await;
}

/// STREAM-17.
pub(super) fn sent_without_polls(backend: &dyn Backend) -> Outcome {
    let venue = Venue::small(backend);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        taken_and_never_polled_again(&mut meeting).await;
        taken_before_it_was_connected(&reactor).await;
        meeting.close().await;
    });
    taken_just_before_the_end(backend);
    Outcome::Holds
}

async fn taken_and_never_polled_again(meeting: &mut Meeting) {
    let (Transport { source: _source, mut sink }, peer) = meeting.peer().await;
    let taken = write_until_pending(sink.as_mut(), &mut Pattern::new(1)).await;
    let reader = errand(move || peer.expect(&mut Pattern::new(1), taken));
    reader.end().await;
}

/// Whether a sink takes bytes while its connect is in progress is its own choice; if it does, it must send them.
async fn taken_before_it_was_connected(reactor: &Rc<dyn Reactor>) {
    let (listener, at) = listening();
    let Transport { source: _source, mut sink } =
        reactor.connect(&at.into(), &ConnectOptions::default()).expect("connecting");
    let bytes = Pattern::new(1).take(1_000);
    let taken = match once(|cx| sink.poll_write(cx, &bytes)).await {
        Poll::Ready(taken) => taken.expect("writing early"),
        Poll::Pending => {
            write_all(sink.as_mut(), &bytes).await.expect("writing");
            bytes.len()
        }
    };
    let reader = errand(move || {
        let peer = Peer::accept(&*listener);
        peer.expect(&mut Pattern::new(1), taken);
    });
    reader.end().await;
}

/// The root ends in the turn in which its sinks took their last bytes, and the peers read only after that.
fn taken_just_before_the_end(backend: &dyn Backend) {
    const PEERS: usize = 8;
    let venue = Venue::small(backend);
    let readers = on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        let mut connections = Vec::new();
        for _ in 0..PEERS {
            connections.push(meeting.peer().await);
        }
        meeting.close().await;
        let mut readers = Vec::new();
        for (number, (mut transport, peer)) in connections.into_iter().enumerate() {
            let taken = match number % 2 {
                0 => write_until_pending(transport.sink.as_mut(), &mut Pattern::new(number as u64)).await,
                _ => write(transport.sink.as_mut(), &Pattern::new(number as u64).take(1))
                    .await
                    .expect("writing"),
            };
            readers.push(thread(move || {
                // Long enough for the root to end first, which it does without waiting for anything.
                pause(Duration::from_millis(100));
                let (got, last) = peer.drain(&mut Pattern::new(number as u64), 10_000);
                last.unwrap_or_else(|error| panic!("an error instead of the end after {got} bytes: {error}"));
                assert_eq!(got, taken, "bytes received, bytes taken just before the root ended");
            }));
        }
        readers
    });
    for reader in readers {
        reader.join();
    }
}
