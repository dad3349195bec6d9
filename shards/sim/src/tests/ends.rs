//! How connections end.

use std::io::ErrorKind;
use std::time::Duration;

use waterwheel_conformance::kit::sleep;
use waterwheel_reactor::{StreamOptions, Time, Transport};

use super::*;
use crate::{Rule, Verdict};

/// Far longer than anything on this network takes.
const LATER: Duration = Duration::from_secs(1);

/// Waits until the other side has done what it does at once.
async fn later(reactor: &Rc<dyn Reactor>) {
    sleep(reactor, LATER).await;
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn a_dropped_sink_ends_the_stream_behind_what_it_took() {
    let client = |reactor, transport: Transport| async move {
        let Transport { mut source, mut sink } = transport;
        write_all(&mut *sink, b"all of it").await.unwrap();
        drop(sink);
        let answer = drain(&mut *source).await;
        later(&reactor).await;
        answer.0
    };
    let server = |_, transport: Transport| async move {
        let Transport { mut source, mut sink } = transport;
        let (got, end) = drain(&mut *source).await;
        end.unwrap();
        assert!(read(&mut *source).await.unwrap().is_empty(), "the end stays the end");
        write_all(&mut *sink, b"an answer behind the end").await.unwrap();
        got
    };
    let (answer, got) = meet(&calm(1), client, server);
    assert_eq!((&*answer, &*got), (&b"an answer behind the end"[..], &b"all of it"[..]));
}

#[test]
fn an_abort_is_a_reset_for_both_halves_of_the_peer() {
    let client = |reactor, mut transport: Transport| async move {
        flush(&mut *transport.sink).await.unwrap();
        later(&reactor).await;
        transport.sink.abort();
        let own = (kind(read(&mut *transport.source).await), kind(write(&mut *transport.sink, b"x").await));
        assert_eq!(own, (Some(ErrorKind::ConnectionAborted), Some(ErrorKind::ConnectionAborted)));
    };
    let server = |reactor, mut transport: Transport| async move {
        let reading = kind(read(&mut *transport.source).await);
        later(&reactor).await;
        let [flushed, written] =
            [kind(flush(&mut *transport.sink).await), kind(write(&mut *transport.sink, b"x").await)];
        [reading, flushed, written, kind(read(&mut *transport.source).await)]
    };
    let ((), told) = meet(&calm(2), client, server);
    assert_eq!(told, [Some(ErrorKind::ConnectionReset); 4]);
}

/// What a server is told whose client closes; `unread`: with input that nobody has read.
fn close(unread: bool) -> (Vec<u8>, Option<ErrorKind>) {
    let client = move |reactor, mut transport: Transport| async move {
        write_all(&mut *transport.sink, b"request").await.unwrap();
        later(&reactor).await;
        if !unread {
            read(&mut *transport.source).await.unwrap();
        }
    };
    let server = |reactor, transport: Transport| async move {
        let Transport { mut source, mut sink } = transport;
        write_all(&mut *sink, b"response").await.unwrap();
        let (got, end) = drain(&mut *source).await;
        later(&reactor).await;
        (got, kind(end))
    };
    let world = World::new(3, Options { reset_destroys: 0.0, ..Options::calm() });
    meet(&world, client, server).1
}

#[test]
fn a_close_with_unread_input_is_a_reset() {
    assert_eq!(close(false), (b"request".to_vec(), None));
    assert_eq!(close(true), (b"request".to_vec(), Some(ErrorKind::ConnectionReset)));
}

/// What a server reads that looks only after bytes and a reset have come.
fn behind_a_reset(reset_destroys: f64) -> (Vec<u8>, Option<ErrorKind>) {
    let client = |reactor, mut transport: Transport| async move {
        write_all(&mut *transport.sink, b"before").await.unwrap();
        later(&reactor).await;
        transport.source.abort();
    };
    let server = |reactor: Rc<dyn Reactor>, mut transport: Transport| async move {
        sleep(&reactor, 3 * LATER).await;
        let (got, end) = drain(&mut *transport.source).await;
        (got, kind(end))
    };
    meet(&World::new(4, Options { reset_destroys, ..Options::calm() }), client, server).1
}

#[test]
fn a_reset_destroys_what_came_before_it_or_does_not() {
    let reset = Some(ErrorKind::ConnectionReset);
    assert_eq!(behind_a_reset(0.0), (b"before".to_vec(), reset));
    assert_eq!(behind_a_reset(1.0), (Vec::new(), reset));
}

#[test]
fn writing_to_who_has_closed_fails_and_the_end_stays_the_end() {
    let client = |_, mut transport: Transport| async move { flush(&mut *transport.sink).await.unwrap() };
    let server = |reactor, transport: Transport| async move {
        let Transport { mut source, mut sink } = transport;
        assert!(read(&mut *source).await.unwrap().is_empty());
        write_all(&mut *sink, b"into the void").await.unwrap();
        later(&reactor).await;
        (kind(write(&mut *sink, b"again").await), read(&mut *source).await.unwrap())
    };
    let ((), told) = meet(&calm(5), client, server);
    assert_eq!(told, (Some(ErrorKind::BrokenPipe), Vec::new()));
}

/// When, and how, a server learns that its client has vanished; `None`: not within an hour.
fn vanished(keepalive: Option<Duration>, has_something_to_say: bool) -> Option<(Duration, ErrorKind)> {
    const GOES: Time = Time::from_nanos(10_000_000_000);
    let world = calm(6);
    world.rule(Rule::new(Verdict::HalfOpen).between(GOES - Time::ZERO..=Duration::MAX));
    let client = |reactor: Rc<dyn Reactor>, mut transport: Transport| async move {
        flush(&mut *transport.sink).await.unwrap();
        poll_fn(|cx| reactor.poll_until(cx, GOES)).await;
        // The last word, which nobody hears.
        write_all(&mut *transport.sink, b"farewell").await.unwrap();
        sleep(&reactor, Duration::from_secs(500)).await;
        transport.source.abort();
    };
    let server = move |reactor: Rc<dyn Reactor>, mut transport: Transport| async move {
        poll_fn(|cx| reactor.poll_until(cx, GOES + LATER)).await;
        if has_something_to_say {
            write_all(&mut *transport.sink, b"hello?").await.unwrap();
        }
        let late = reactor.now() + Duration::from_secs(3_500);
        let told = poll_fn(|cx| match transport.source.poll_fill(cx) {
            Poll::Ready(told) => Poll::Ready(Some(told.map(<[u8]>::to_vec).expect_err("nothing arrives"))),
            Poll::Pending => reactor.poll_until(cx, late).map(|()| None),
        })
        .await;
        told.map(|error| (reactor.now() - GOES, error.kind()))
    };
    let stream = StreamOptions { keepalive, ..StreamOptions::default() };
    meet_with(&world, stream, client, server).1
}

#[test]
fn a_half_open_connection_is_found_out_by_keep_alive_or_by_sending() {
    assert_eq!(vanished(None, false), None, "nobody has told it");
    let (after, error) = vanished(None, true).expect("nobody acknowledges");
    assert_eq!(error, ErrorKind::TimedOut);
    assert!((925..926).contains(&after.as_secs()), "924 s after the second at which it spoke: {after:?}");
    let (after, error) = vanished(Some(Duration::from_secs(60)), false).expect("keep-alive");
    assert_eq!(error, ErrorKind::TimedOut);
    assert!((114..115).contains(&after.as_secs()), "60 s and nine probes of 6 s: {after:?}");
}
