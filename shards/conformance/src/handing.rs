//! The laws of handing over: a connection moves to another shard, and its peer cannot tell.

use std::fs;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use rustix::thread::gettid;
use waterwheel_reactor::{Backend, Incoming, Reactor, Sink, Source, Transport};

use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, Meeting, Peer, Venue, errand};
use crate::kit::stream::{
    expect, expect_end, flush, once, peek, peek_once, read, release, send, shutdown, turn, write, write_all,
    write_until_pending,
};
use crate::kit::{Mail, on_each, on_one, pause, shard, sleep, surroundings, thread};
use crate::{Law, Outcome};

pub(crate) const LAWS: &[Law] = &[
    Law::new("HAND-1", "a connection works only where it was accepted", adopted_elsewhere),
    Law::new("HAND-2", "a connection that nobody adopts leaves its peer waiting", dropped),
    Law::new("HAND-4", "bytes are lost or doubled on the way to another shard", released),
];

/// Exchanges that are counted while the shard that gave a connection away must stay asleep.
const EXCHANGES: usize = 500;

/// HAND-1: from a shard that goes on, and from one that has ended.
fn adopted_elsewhere(backend: &dyn Backend) -> Outcome {
    works_only_there(backend, Given::Accepted);
    works_only_there(backend, Given::Released);
    works_after_the_giver_ended(backend);
    Outcome::Holds
}

/// How a shard comes to give a connection away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Accepted,
    Released,
}

/// The giver sleeps while the taker works: were its reactor still asked to look at the connection, each message would
/// wake its thread; where shards share one, it would be polled.
fn works_only_there(backend: &dyn Backend, given: Given) {
    let venue = Venue::new(backend, Family::Tcp);
    let (there, back) = (Mail::default(), Mail::default());
    let (outbox, done) = (there.clone(), back.clone());
    let polls = Arc::new(AtomicUsize::new(0));
    let polled = Arc::clone(&polls);
    let giver = shard(move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        let (mut incoming, peer) = meeting.incoming().await;
        if given == Given::Released {
            incoming = with_history(&meeting, incoming, &peer).await;
        }
        meeting.close().await;
        outbox.send((incoming, peer, gettid().as_raw_nonzero().get()));
        let mut waiting = pin!(done.receive());
        poll_fn(|cx| {
            polled.fetch_add(1, Relaxed);
            waiting.as_mut().poll(cx)
        })
        .await;
    });
    let taker = shard(move |reactor| async move {
        let (incoming, peer, giver) = there.receive().await;
        let mut transport = reactor.adopt(incoming).expect("adopting on another shard");
        let echo = errand(move || peer.echo());
        exchange(&mut transport, 10).await;
        // Whatever the giver still does about the hand-over is done by then.
        sleep(&reactor, Duration::from_millis(20)).await;
        let wakes = || if surroundings().threads() { switches(giver) } else { polls.load(Relaxed) };
        let before = wakes();
        exchange(&mut transport, EXCHANGES).await;
        let woken = wakes() - before;
        assert!(
            woken < EXCHANGES / 5,
            "the giver woke {woken} times in {EXCHANGES} exchanges of the taker ({given:?})"
        );
        shutdown(transport.sink.as_mut()).await.expect("ending");
        expect_end(transport.source.as_mut()).await;
        echo.end().await;
        back.send(());
    });
    on_each(backend, vec![giver, taker]);
}

/// Used on this shard in both directions, with a poll under way, and then released.
async fn with_history(meeting: &Meeting, incoming: Incoming, peer: &Peer) -> Incoming {
    let mut transport = meeting.adopt(incoming);
    write_all(transport.sink.as_mut(), b"hello").await.expect("writing");
    flush(transport.sink.as_mut()).await.expect("flushing");
    let reader = peer.again();
    errand(move || reader.read_exact(&mut [0; 5])).end().await;
    assert!(peek_once(transport.source.as_mut()).await.is_pending(), "there is nothing to read yet");
    turn().await;
    release(transport.source.as_mut()).await.expect("releasing")
}

/// How often a thread gave up its processor because it had to wait.
fn switches(thread: i32) -> usize {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).expect("a thread that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("a count")
}

async fn exchange(transport: &mut Transport, rounds: usize) {
    for round in 0..rounds {
        let message = [round as u8; 16];
        write_all(transport.sink.as_mut(), &message).await.expect("writing");
        let mut got = Vec::new();
        while got.len() < message.len() {
            let more = read(transport.source.as_mut()).await.expect("reading");
            assert!(!more.is_empty(), "the echo ended in round {round}");
            got.extend(more);
        }
        assert_eq!(got, message, "round {round}");
    }
}

/// The giver's reactor and thread are gone when the taker first looks.
fn works_after_the_giver_ended(backend: &dyn Backend) {
    for given in [Given::Accepted, Given::Released] {
        let venue = Venue::new(backend, Family::Tcp);
        let (incoming, peer) = on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            let (mut incoming, peer) = meeting.incoming().await;
            if given == Given::Released {
                incoming = with_history(&meeting, incoming, &peer).await;
            }
            meeting.close().await;
            (incoming, peer)
        });
        on_one(backend, move |reactor| async move {
            let mut transport = reactor.adopt(incoming).expect("adopting from a shard that ended");
            let echo = errand(move || peer.echo());
            exchange(&mut transport, 10).await;
            shutdown(transport.sink.as_mut()).await.expect("ending");
            expect_end(transport.source.as_mut()).await;
            echo.end().await;
        });
    }
}

/// HAND-2: on its own shard, on a foreign thread, in the mail of a shard that never looked, and released before.
fn dropped(backend: &dyn Backend) -> Outcome {
    let venue = Venue::new(backend, Family::Tcp);
    let unread = Mail::default();
    let letterbox = unread.clone();
    let peer = on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        let (incoming, peer) = meeting.incoming().await;
        drop(incoming);
        told(peer).await;
        let (incoming, peer) = meeting.incoming().await;
        thread(move || drop(incoming)).join();
        told(peer).await;
        let (incoming, peer) = meeting.incoming().await;
        let incoming = with_history(&meeting, incoming, &peer).await;
        drop(incoming);
        told(peer).await;
        let (incoming, peer) = meeting.incoming().await;
        peer.write_all(b"never read");
        letterbox.send(incoming);
        meeting.close().await;
        peer
    });
    drop(unread);
    closed(&peer);
    Outcome::Holds
}

async fn told(peer: Peer) {
    errand(move || closed(&peer)).end().await;
}

/// The end, or a reset where input was left unread; but no bytes, and no waiting.
fn closed(peer: &Peer) {
    let (count, last) = peer.drain(&mut Pattern::new(1), 100);
    assert_eq!(count, 0, "bytes from a connection that nobody adopted");
    if let Err(error) = last {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the peer of a dropped connection: {error}");
    }
}

/// HAND-4.
fn released(backend: &dyn Backend) -> Outcome {
    for family in [Family::Tcp, Family::Unix] {
        for case in [Case::Idle, Case::Buffered, Case::PendingFill, Case::PendingFillMet, Case::Ended] {
            carried(backend, family, case);
        }
        unsent_bytes_go_first(backend, family);
    }
    a_peer_that_reads_no_more(backend);
    Outcome::Holds
}

/// What the connection has behind it when it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// Nothing.
    Idle,
    /// Bytes lent and partly consumed, and more in the kernel.
    Buffered,
    /// A poll that found nothing, with a receive in flight where the reactor has such a thing.
    PendingFill,
    /// The same, and the bytes it waits for have just come.
    PendingFillMet,
    /// Bytes and the peer's end.
    Ended,
}

/// The connection goes to the other shard, then back, and loses nothing either time.
fn carried(backend: &dyn Backend, family: Family, case: Case) {
    let venue = Venue::new(backend, family);
    let (there, back) = (Mail::default(), Mail::default());
    let (outbox, inbox) = (there.clone(), back.clone());
    let first = shard(move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        let (transport, peer) = meeting.peer().await;
        let (mut sent, mut got) = (Pattern::new(1), Pattern::new(1));
        let incoming = released_in(case, transport, &peer, &mut sent, &mut got).await;
        outbox.send((incoming, peer, sent, got));
        let (incoming, peer, sent, got) = inbox.receive().await;
        let mut transport = reactor.adopt(incoming).expect("adopting what came back");
        rest(case, &mut transport, peer, sent, got).await;
        meeting.close().await;
    });
    let second = shard(move |reactor| async move {
        let (incoming, peer, mut sent, mut got): (_, Peer, Pattern, Pattern) = there.receive().await;
        let mut transport = reactor.adopt(incoming).expect("adopting on another shard");
        if case != Case::Ended {
            peer.send(&mut sent, 700);
        }
        // A part is read here, the rest where it came from.
        let unread = (sent.at() - got.at()) as usize;
        expect(transport.source.as_mut(), &mut got, unread / 2).await;
        let incoming = release(transport.source.as_mut()).await.expect("releasing again");
        let Transport { source, sink } = transport;
        drop((source, sink));
        back.send((incoming, peer, sent, got));
    });
    on_each(backend, vec![first, second]);
}

/// Brings a connection into the state of the case and releases it. `got` is where the next owner has to go on.
async fn released_in(
    case: Case,
    transport: Transport,
    peer: &Peer,
    sent: &mut Pattern,
    got: &mut Pattern,
) -> Incoming {
    let Transport { mut source, mut sink } = transport;
    let mut held = 0;
    match case {
        Case::Idle => {}
        Case::Buffered | Case::Ended => {
            peer.send(sent, 1_000);
            let lent = peek(source.as_mut()).await.expect("lent");
            assert!(!lent.is_empty(), "bytes, not the end");
            let part = lent.len().min(300);
            got.check(&lent[..part]);
            source.consume(part);
            held = lent.len() - part;
            peer.send(sent, 1_000);
            if case == Case::Ended {
                peer.finish();
            }
        }
        Case::PendingFill | Case::PendingFillMet => {
            assert!(peek_once(source.as_mut()).await.is_pending(), "there is nothing to read yet");
            turn().await;
            if case == Case::PendingFillMet {
                peer.send(sent, 1_000);
            }
        }
    }
    let incoming =
        release(source.as_mut()).await.unwrap_or_else(|error| panic!("releasing ({case:?}): {error}"));
    assert!(incoming.bytes.len() >= held, "{held} bytes were lent, {} came back", incoming.bytes.len());
    got.clone().check(&incoming.bytes);
    of_no_use(source.as_mut(), sink.as_mut(), case).await;
    incoming
}

/// A broken pipe breaks the sending half alone: what the peer sent can still be carried away. Over a Unix socket, whose
/// peer can stop to read without a reset.
fn a_peer_that_reads_no_more(backend: &dyn Backend) {
    let venue = Venue::new(backend, Family::Unix);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
        peer.send(&mut Pattern::new(1), 1_000);
        peer.stop_reading();
        let error = refused(&reactor, sink.as_mut()).await;
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "writing to who does not read: {error}");
        let incoming = release(source.as_mut()).await.expect("releasing after a broken pipe");
        drop((source, sink));
        let Transport { mut source, sink: _sink } = meeting.adopt(incoming);
        expect(source.as_mut(), &mut Pattern::new(1), 1_000).await;
        drop(peer);
        expect_end(source.as_mut()).await;
        meeting.close().await;
    });
}

/// Writes until it is told that the peer does not read: a sink that sends behind the turn has taken the first bytes by then.
async fn refused(reactor: &Rc<dyn Reactor>, sink: &mut dyn Sink) -> io::Error {
    for _ in 0..100 {
        if let Err(error) = write_all(sink, b"unread").await {
            return error;
        }
        sleep(reactor, Duration::from_millis(1)).await;
    }
    panic!("writing to who does not read is never told");
}

/// The halves that stay behind are at their end, and nothing done to them reaches the connection.
async fn of_no_use(source: &mut dyn Source, sink: &mut dyn Sink, case: Case) {
    expect_end(source).await;
    let again = once(|cx| source.poll_release(cx)).await;
    assert!(matches!(again, Poll::Ready(Err(_))), "a connection was released twice ({case:?}): {again:?}");
    write(sink, b"late").await.expect_err("a sink took bytes after its connection was released");
    source.abort();
    sink.abort();
}

/// Everything that was sent comes, once and in order, and both directions work; the peer saw one connection.
async fn rest(case: Case, transport: &mut Transport, peer: Peer, mut sent: Pattern, mut got: Pattern) {
    let Transport { source, sink } = transport;
    if case != Case::Ended {
        peer.send(&mut sent, 5_000);
        peer.finish();
    }
    let unread = (sent.at() - got.at()) as usize;
    expect(source.as_mut(), &mut got, unread).await;
    expect_end(source.as_mut()).await;
    send(sink.as_mut(), &mut Pattern::new(2), 5_000).await;
    shutdown(sink.as_mut()).await.expect("ending");
    let reader = errand(move || {
        peer.expect(&mut Pattern::new(2), 5_000);
        peer.expect_end();
    });
    reader.end().await;
}

/// A flush is ready while a little is still queued: that must reach the peer before anything that the next owner
/// writes. The peer is slow, so that there is a queue where the reactor has one.
fn unsent_bytes_go_first(backend: &dyn Backend, family: Family) {
    let venue = match family {
        Family::Tcp => Venue::small(backend),
        Family::Unix => Venue::new(backend, family),
    };
    let there = Mail::default();
    let outbox = there.clone();
    let giver = shard(move |reactor: Rc<dyn Reactor>| async move {
        let mut meeting = venue.open(&reactor);
        let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
        let mut sent = Pattern::new(1);
        let taken = write_until_pending(sink.as_mut(), &mut sent).await;
        let reader = errand(move || {
            let mut got = Pattern::new(1);
            for _ in 0..taken / 10_000 {
                peer.expect(&mut got, 10_000);
                pause(Duration::from_millis(1));
            }
            (peer, got)
        });
        flush(sink.as_mut()).await.expect("flushing");
        let incoming = release(source.as_mut()).await.expect("releasing after a flush");
        drop((source, sink));
        let (peer, got) = reader.end().await;
        meeting.close().await;
        outbox.send((incoming, peer, sent, got));
    });
    let taker = shard(move |reactor: Rc<dyn Reactor>| async move {
        let (incoming, peer, mut sent, mut got): (Incoming, Peer, Pattern, Pattern) = there.receive().await;
        let Transport { source: _source, mut sink } =
            reactor.adopt(incoming).expect("adopting on another shard");
        send(sink.as_mut(), &mut sent, 5_000).await;
        let unread = (sent.at() - got.at()) as usize;
        shutdown(sink.as_mut()).await.expect("ending");
        let reader = errand(move || {
            peer.expect(&mut got, unread);
            peer.expect_end();
        });
        reader.end().await;
    });
    on_each(backend, vec![giver, taker]);
}
