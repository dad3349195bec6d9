//! What an operation costs once everything has been done a few times.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use waterwheel_reactor::{Backend, Reactor, Sink, Source, Transport};

use crate::Outcome;
use crate::kit::allocations::allocation_counter;
use crate::kit::on_one;
use crate::kit::peer::{Family, Meeting, Peer, Venue, errand};
use crate::kit::stream::shutdown;

/// Rounds before the count, in which tables and buffers may grow, and rounds that are counted. One allocation for
/// every thousand operations would still be seen.
const WARM_UP: usize = 1_000;
const COUNTED: usize = 2_000;

/// Messages of both kinds: smaller than any buffer, and several of them.
const SIZES: [usize; 2] = [64, 40_000];

/// STREAM-16.
pub(super) fn no_allocation(backend: &dyn Backend) -> Outcome {
    let Some(counter) = allocation_counter() else {
        return Outcome::NotOffered("the test program does not count allocations");
    };
    let before = counter();
    drop(std::hint::black_box(Box::new(before)));
    assert_eq!(counter(), before + 1, "the counter of the test program does not count");
    let venue = Venue::new(backend, Family::Tcp);
    on_one(backend, move |reactor| async move {
        let mut meeting = venue.open(&reactor);
        for size in SIZES {
            write_and_read(&reactor, &mut meeting, size, counter).await;
            forward(&mut meeting, size, counter).await;
        }
        meeting.close().await;
    });
    Outcome::Holds
}

/// Fails if the rounds that are counted allocate.
fn none_since(before: u64, counter: fn() -> u64, what: &str) {
    let made = counter() - before;
    assert_eq!(made, 0, "{what}: {made} allocations in {COUNTED} rounds after {WARM_UP} to warm up");
}

/// Write, flush, read and consume, each under an alarm as every real connection is.
async fn write_and_read(reactor: &Rc<dyn Reactor>, meeting: &mut Meeting, size: usize, counter: fn() -> u64) {
    let (mut transport, peer) = meeting.peer().await;
    let echo = errand(move || peer.echo());
    let message = vec![7; size];
    let mut before = counter();
    for round in 0..WARM_UP + COUNTED {
        if round == WARM_UP {
            before = counter();
        }
        let idle = reactor.now() + Duration::from_secs(60);
        let alarm = poll_fn(|cx| Poll::Ready(reactor.poll_until(cx, idle))).await;
        assert!(alarm.is_pending(), "a minute has not passed");
        exchange(&mut transport, &message).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    none_since(before, counter, "writing and reading");
    shutdown(transport.sink.as_mut()).await.expect("ending");
    echo.end().await;
}

/// There and back, without memory of its own.
async fn exchange(transport: &mut Transport, message: &[u8]) -> io::Result<()> {
    let Transport { source, sink } = transport;
    let (mut sent, mut got) = (0, 0);
    while got < message.len() {
        got += poll_fn(|cx| {
            while sent < message.len()
                && let Poll::Ready(taken) = sink.poll_write(cx, &message[sent..])
            {
                sent += taken?;
            }
            if sent == message.len()
                && let Poll::Ready(Err(error)) = sink.poll_flush(cx)
            {
                return Poll::Ready(Err(error));
            }
            let lent = ready!(source.poll_fill(cx))?;
            assert!(!lent.is_empty(), "the echo ended early");
            assert!(lent.iter().all(|byte| *byte == message[0]), "other bytes came back");
            let count = lent.len();
            source.consume(count);
            Poll::Ready(Ok::<usize, io::Error>(count))
        })
        .await?;
    }
    Ok(())
}

/// A proxied read: the source of one connection forwarded to the sink of the same, an echo.
async fn forward(meeting: &mut Meeting, size: usize, counter: fn() -> u64) {
    let (Transport { mut source, mut sink }, peer) = meeting.peer().await;
    let client = errand(move || ping(&peer, size));
    let mut before = counter();
    for round in 0..WARM_UP + COUNTED {
        if round == WARM_UP {
            before = counter();
        }
        let mut moved = 0;
        while moved < size {
            moved += step(sink.as_mut(), source.as_mut()).await;
        }
    }
    none_since(before, counter, "forwarding");
    client.end().await;
}

async fn step(sink: &mut dyn Sink, source: &mut dyn Source) -> usize {
    let moved = poll_fn(|cx| sink.poll_forward(cx, source, 64 << 10)).await;
    let moved = moved.unwrap_or_else(|side| panic!("forwarding failed: {side}"));
    assert!(moved > 0, "the client ended early");
    moved
}

/// Sends each message once the one before has come back.
fn ping(peer: &Peer, size: usize) {
    let message = vec![9; size];
    let mut back = vec![0; size];
    for _ in 0..WARM_UP + COUNTED {
        peer.write_all(&message);
        peer.read_exact(&mut back);
        assert!(back == message, "other bytes came back");
    }
}
