//! How much a reactor holds for somebody who does not take it.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{Backend, Reactor, Source, Transport};

use crate::Outcome;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{Errand, Family, KERNEL_BYTES_MAX, Meeting, Peer, Venue, errand};
use crate::kit::stream::{
    HELD_BYTES_MAX, expect, expect_end, flush, peek, peek_once, send, shutdown, turn, within, write,
    write_until_pending,
};
use crate::kit::{on_one, sleep};

/// What a case tries to push: far above any bound, so that a queue without one is seen.
const PUSHED: usize = 8 * HELD_BYTES_MAX;

/// What a peer may get rid of while nobody takes it.
const BOUND: usize = HELD_BYTES_MAX + KERNEL_BYTES_MAX;

/// A socket that took nothing for this long takes nothing more.
const QUIET: Duration = Duration::from_millis(300);

/// STREAM-10.
pub(super) fn unread_by_the_peer(backend: &dyn Backend) -> Outcome {
    let venue = Venue::small(backend);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        let (Transport { source: _source, mut sink }, peer) = meeting.peer().await;
        let mut sent = Pattern::new(1);
        let mut total = write_until_pending(sink.as_mut(), &mut sent).await;
        loop {
            let piece = sent.clone().take(10_000);
            let Some(taken) = within(&reactor, QUIET, write(sink.as_mut(), &piece)).await else { break };
            drop(sent.take(taken.expect("writing")));
            total = sent.at() as usize;
            assert!(
                total <= BOUND,
                "{total} bytes were taken for a peer that reads nothing, at most {BOUND} may be"
            );
        }
        // The peer reads what was taken and no more: that must be enough to let the writer go on.
        let reader = errand(move || {
            let mut got = Pattern::new(1);
            peer.expect(&mut got, total);
            (peer, got)
        });
        send(sink.as_mut(), &mut sent, 10_000).await;
        let (peer, mut got) = reader.end().await;
        let rest = errand(move || {
            peer.expect(&mut got, 10_000 + (2 << 20));
            peer.expect_end();
        });
        send(sink.as_mut(), &mut sent, 2 << 20).await;
        flush(sink.as_mut()).await.expect("flushing");
        shutdown(sink.as_mut()).await.expect("ending");
        rest.end().await;
        meeting.close().await;
    });
    Outcome::Holds
}

/// STREAM-11.
pub(super) fn unpolled(backend: &dyn Backend) -> Outcome {
    for lent in [false, true] {
        let venue = Venue::small(backend);
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
            let mut sent = Pattern::new(1);
            if lent {
                peer.send(&mut sent, 1_000);
                assert!(!peek(source.as_mut()).await.expect("lent").is_empty(), "bytes, not the end");
            }
            let (peer, count) = push(peer, sent).end().await;
            held(count);
            all_of_it(peer, source.as_mut(), count).await;
            meeting.close().await;
        });
    }
    Outcome::Holds
}

/// STREAM-13, the reactor's half of it.
pub(super) fn pushed_unasked(backend: &dyn Backend) -> Outcome {
    let venue = Venue::small(backend);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        behind_a_pending_poll(&mut meeting).await;
        meeting.close().await;
    });
    let venue = Venue::new(backend, Family::Tcp);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        behind_polls_that_consume_nothing(&reactor, &mut meeting).await;
        meeting.close().await;
    });
    Outcome::Holds
}

/// One poll asked for bytes and was pending; what comes then is one answer, not a licence to push for ever.
async fn behind_a_pending_poll(meeting: &mut Meeting) {
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    assert!(peek_once(source.as_mut()).await.is_pending(), "there is nothing to read yet");
    turn().await;
    let (peer, count) = push(peer, Pattern::new(1)).end().await;
    held(count);
    all_of_it(peer, source.as_mut(), count).await;
}

/// Somebody looks again and again and consumes nothing, as a codec does that waits for a long frame. What is lent is
/// counted, so the kernel's buffers may be large, and had better be: small ones trickle.
async fn behind_polls_that_consume_nothing(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting) {
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    let pushing = push(peer, Pattern::new(1));
    let mut most = 0;
    for _ in 0..200 {
        sleep(reactor, Duration::from_millis(2)).await;
        if let Poll::Ready(lent) = peek_once(source.as_mut()).await {
            let lent = lent.expect("bytes").len();
            assert!(lent >= most, "{lent} bytes are lent where {most} were, and none was consumed");
            assert!(lent <= HELD_BYTES_MAX, "{lent} bytes are lent at once, at most {HELD_BYTES_MAX} may be");
            most = lent;
        }
    }
    let (peer, count) = pushing.end().await;
    all_of_it(peer, source.as_mut(), count).await;
}

/// A peer that sends all it can get rid of.
fn push(peer: Peer, mut sent: Pattern) -> Errand<(Peer, usize)> {
    errand(move || {
        peer.send_until_blocked(&mut sent, PUSHED, QUIET);
        (peer, sent.at() as usize)
    })
}

/// What left the peer is in the kernel's buffers, which the case made small, or held by the reactor.
fn held(count: usize) {
    assert!(count <= BOUND, "{count} bytes of a stream that nobody reads are held, at most {BOUND} may be");
}

/// Held back is not lost: everything comes, in order, once somebody reads.
async fn all_of_it(peer: Peer, source: &mut dyn Source, count: usize) {
    drop(peer);
    expect(source, &mut Pattern::new(1), count).await;
    expect_end(source).await;
}
