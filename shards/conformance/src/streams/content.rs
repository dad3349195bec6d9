//! What arrives is what was sent: order, lending, the end, partial writes.

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use futures_util::future::join;
use waterwheel_reactor::{Backend, Transport};

use super::programs;
use crate::Outcome;
use crate::kit::on_one;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, Meeting, Venue, errand};
use crate::kit::stream::{
    expect, expect_end, flush, once, peek, peek_once, send, shutdown, turn, write, write_all,
    write_until_pending, write_vectored,
};

/// One byte, the sizes around a page, a large buffer, one that no buffer holds at once, and a prime.
const SIZES: [usize; 7] = [1, 4_095, 4_096, 4_097, 65_536, 1 << 20, 99_991];

/// STREAM-1.
pub(super) fn order(backend: &dyn Backend) -> Outcome {
    for family in [Family::Tcp, Family::Unix] {
        let venue = Venue::new(backend, family);
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            both_ends_here(&mut meeting).await;
            an_echo_elsewhere(&mut meeting).await;
            meeting.close().await;
        });
    }
    programs::any_order(backend);
    Outcome::Holds
}

/// Both ends on one shard, both directions at once: a reactor that serves one half at a time stops here.
async fn both_ends_here(meeting: &mut Meeting) {
    let (mut one, mut other) = meeting.own().await;
    let mut patterns = [1, 1, 2, 2].map(Pattern::new);
    for size in SIZES {
        let [sent, got, answered, heard] = &mut patterns;
        let there = join(send(one.sink.as_mut(), sent, size), expect(other.source.as_mut(), got, size));
        let back = join(send(other.sink.as_mut(), answered, size), expect(one.source.as_mut(), heard, size));
        join(there, back).await;
    }
    shutdown(one.sink.as_mut()).await.expect("ending one direction");
    shutdown(other.sink.as_mut()).await.expect("ending the other direction");
    join(expect_end(one.source.as_mut()), expect_end(other.source.as_mut())).await;
}

/// The peer on a thread of its own, so that bytes arrive in the middle of everything.
async fn an_echo_elsewhere(meeting: &mut Meeting) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    let echo = errand(move || peer.echo());
    let (mut sent, mut got) = (Pattern::new(3), Pattern::new(3));
    for size in SIZES {
        join(send(sink.as_mut(), &mut sent, size), expect(source.as_mut(), &mut got, size)).await;
    }
    shutdown(sink.as_mut()).await.expect("ending the requests");
    expect_end(source.as_mut()).await;
    echo.end().await;
}

/// STREAM-2.
pub(super) fn lending(backend: &dyn Backend) -> Outcome {
    let venue = Venue::new(backend, Family::Tcp);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        lent_until_consumed(&mut meeting).await;
        consumed_in_every_size(&mut meeting).await;
        consumed_too_much(&mut meeting).await;
        meeting.close().await;
    });
    Outcome::Holds
}

async fn lent_until_consumed(meeting: &mut Meeting) {
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    let mut sent = Pattern::new(1);
    peer.send(&mut sent, 1_000);
    let first = peek(source.as_mut()).await.expect("the first bytes");
    Pattern::new(1).check(&first);
    for round in 0..50 {
        // What is lent may grow, and its owner may move it; its content stays.
        peer.send(&mut sent, 1_000);
        turn().await;
        match peek_once(source.as_mut()).await {
            Poll::Ready(Ok(again)) => {
                assert!(again.starts_with(&first), "round {round}: other bytes were lent than before");
                Pattern::new(1).check(&again);
            }
            other => panic!("round {round}: bytes not consumed did not come back at once: {other:?}"),
        }
        source.consume(0);
    }
    expect(source.as_mut(), &mut Pattern::new(1), 51_000).await;
    peer.finish();
    expect_end(source.as_mut()).await;
}

async fn consumed_in_every_size(meeting: &mut Meeting) {
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    const TOTAL: usize = 30_000;
    peer.send(&mut Pattern::new(2), TOTAL);
    let (mut got, mut seen, mut size) = (Pattern::new(2), 0, 1);
    while seen < TOTAL {
        let lent = peek(source.as_mut()).await.expect("bytes");
        assert!(!lent.is_empty(), "the stream ended after {seen} of {TOTAL} bytes");
        let part = size.min(lent.len());
        got.check(&lent[..part]);
        source.consume(part);
        seen += part;
        if part < lent.len() {
            let rest = peek_once(source.as_mut()).await;
            let Poll::Ready(Ok(rest)) = rest else { panic!("the rest did not come back at once: {rest:?}") };
            assert!(rest.starts_with(&lent[part..]), "consuming {part} of {} bytes took others", lent.len());
        }
        size = size % 997 + 31;
    }
}

/// A count that is too large is a bug of the caller's: a panic, also where the sum overflows, and also at the end.
async fn consumed_too_much(meeting: &mut Meeting) {
    for more in [1, usize::MAX / 2, usize::MAX] {
        let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
        peer.write_all(b"0123456789");
        let lent = peek(source.as_mut()).await.expect("ten bytes").len();
        let count = lent.saturating_add(more);
        let panicked = catch_unwind(AssertUnwindSafe(|| source.consume(count))).is_err();
        assert!(panicked, "consuming {count} bytes of the {lent} that were lent was accepted");
    }
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    peer.finish();
    expect_end(source.as_mut()).await;
    let panicked = catch_unwind(AssertUnwindSafe(|| source.consume(1))).is_err();
    assert!(panicked, "a byte was consumed behind the end of the stream");
}

/// STREAM-3.
pub(super) fn end(backend: &dyn Backend) -> Outcome {
    for family in [Family::Tcp, Family::Unix] {
        let venue = Venue::new(backend, family);
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            for size in [0, 1, 4_096, 20_000] {
                closed_before_the_first_poll(&mut meeting, size).await;
                closed_under_a_pending_poll(&mut meeting, size).await;
                closed_while_lent(&mut meeting, size).await;
            }
            closed_behind_much(&mut meeting).await;
            meeting.close().await;
        });
    }
    Outcome::Holds
}

/// Data, FIN and hang-up are all there when the reactor first looks.
async fn closed_before_the_first_poll(meeting: &mut Meeting, size: usize) {
    let (incoming, peer) = meeting.incoming().await;
    peer.send(&mut Pattern::new(1), size);
    drop(peer);
    let Transport { mut source, sink: _sink } = meeting.adopt(incoming);
    expect(source.as_mut(), &mut Pattern::new(1), size).await;
    expect_end(source.as_mut()).await;
}

/// The reactor waits for input when all of it comes in one event.
async fn closed_under_a_pending_poll(meeting: &mut Meeting, size: usize) {
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    assert!(peek_once(source.as_mut()).await.is_pending(), "there is nothing to read yet");
    turn().await;
    peer.send(&mut Pattern::new(1), size);
    drop(peer);
    expect(source.as_mut(), &mut Pattern::new(1), size).await;
    expect_end(source.as_mut()).await;
}

/// The hang-up comes while earlier bytes are lent, and must wait behind them.
async fn closed_while_lent(meeting: &mut Meeting, size: usize) {
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    let mut sent = Pattern::new(1);
    peer.send(&mut sent, 100);
    let lent = peek(source.as_mut()).await.expect("the first bytes");
    peer.send(&mut sent, size);
    drop(peer);
    for _ in 0..5 {
        turn().await;
        let again = peek(source.as_mut()).await.expect("what was lent");
        assert!(again.starts_with(&lent), "a hang-up took {} bytes that were lent", lent.len());
    }
    expect(source.as_mut(), &mut Pattern::new(1), 100 + size).await;
    expect_end(source.as_mut()).await;
}

/// The peer is gone long before its last bytes were read.
async fn closed_behind_much(meeting: &mut Meeting) {
    const SIZE: usize = 1 << 20;
    let (Transport { mut source, sink: _sink }, peer) = meeting.peer().await;
    let sender = errand(move || peer.send(&mut Pattern::new(1), SIZE));
    expect(source.as_mut(), &mut Pattern::new(1), SIZE).await;
    expect_end(source.as_mut()).await;
    sender.end().await;
}

/// STREAM-9.
pub(super) fn partial(backend: &dyn Backend) -> Outcome {
    let venue = Venue::small(backend);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        nothing_is_nothing(&mut meeting).await;
        every_byte_in_pieces(&mut meeting).await;
        every_byte_in_slices(&mut meeting).await;
        meeting.close().await;
    });
    Outcome::Holds
}

/// An empty write is ready at once and sends nothing, on an idle connection and on one that can take no more.
async fn nothing_is_nothing(meeting: &mut Meeting) {
    let (Transport { source: _source, mut sink }, peer) = meeting.peer().await;
    let empty = [IoSlice::new(&[]), IoSlice::new(&[])];
    let mut sent = Pattern::new(1);
    let mut count = 0;
    for full in [false, true] {
        if full {
            count = write_until_pending(sink.as_mut(), &mut sent).await;
        }
        let plain = once(|cx| sink.poll_write(cx, &[])).await;
        assert!(matches!(plain, Poll::Ready(Ok(0))), "an empty write (full: {full}): {plain:?}");
        for slices in [&empty[..], &[]] {
            let vectored = once(|cx| sink.poll_write_vectored(cx, slices)).await;
            assert!(matches!(vectored, Poll::Ready(Ok(0))), "empty slices (full: {full}): {vectored:?}");
        }
    }
    let reader = errand(move || peer.drain(&mut Pattern::new(1), usize::MAX));
    shutdown(sink.as_mut()).await.expect("ending");
    let (got, last) = reader.end().await;
    last.expect("a clean end");
    assert_eq!(got, count, "bytes taken and bytes received");
}

/// Writes of odd sizes against small buffers and a reader of odd sizes: the kernel takes parts of most of them.
async fn every_byte_in_pieces(meeting: &mut Meeting) {
    const TOTAL: usize = 2 << 20;
    let (Transport { source: _source, mut sink }, peer) = meeting.peer().await;
    let reader = errand(move || peer.drain(&mut Pattern::new(4), 7_919));
    let (mut sent, mut size) = (Pattern::new(4), 1);
    while (sent.at() as usize) < TOTAL {
        let piece = sent.clone().take(size);
        let taken = write(sink.as_mut(), &piece).await.expect("writing");
        drop(sent.take(taken));
        size = (size * 31 + 17) % 150_001;
    }
    flush(sink.as_mut()).await.expect("flushing");
    shutdown(sink.as_mut()).await.expect("ending");
    let (got, last) = reader.end().await;
    last.expect("a clean end");
    assert_eq!(got as u64, sent.at(), "bytes taken and bytes received");
}

/// The same in slices, some of them empty; then plain writes behind them.
async fn every_byte_in_slices(meeting: &mut Meeting) {
    const TOTAL: usize = 1 << 20;
    let (Transport { source: _source, mut sink }, peer) = meeting.peer().await;
    let reader = errand(move || peer.drain(&mut Pattern::new(5), 7_919));
    let (mut sent, mut size) = (Pattern::new(5), 1);
    while (sent.at() as usize) < TOTAL {
        let piece = sent.clone().take(size);
        let (head, tail) = piece.split_at(size / 3);
        let slices = [&[], head, &[], tail].map(IoSlice::new);
        let taken = write_vectored(sink.as_mut(), &slices).await.expect("writing");
        drop(sent.take(taken));
        size = (size * 31 + 17) % 90_001;
    }
    write_all(sink.as_mut(), &sent.take(10)).await.expect("writing");
    shutdown(sink.as_mut()).await.expect("ending");
    let (got, last) = reader.end().await;
    last.expect("a clean end");
    assert_eq!(got as u64, sent.at(), "bytes taken and bytes received");
}
