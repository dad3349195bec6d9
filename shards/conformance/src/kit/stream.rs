//! The seam's polls as futures, for the cases: one waits for what a half does, or looks at it once without waiting.
//! Nothing here is fast; all of it says where a byte went wrong.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use waterwheel_reactor::{Incoming, Reactor, Side, Sink, Source};

use super::pattern::Pattern;

/// Most bytes that a reactor may hold in user space for one direction of one connection: the number that the laws
/// about bounded memory state. Twice the largest message that the cases send at once would already be a queue.
pub(crate) const HELD_BYTES_MAX: usize = 1 << 20;

/// The outcome of one poll, without waiting for a second one.
pub(crate) async fn once<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(poll(cx))).await
}

/// Lets every other thing of this shard happen once: the root returns to its reactor and asks to be polled again.
pub async fn turn() {
    let mut returned = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut returned, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What `future` gives, or `None` if it is still pending after `limit`, and then it is dropped. It occupies the shard's
/// alarm, so `future` must not sleep.
pub(crate) async fn within<F: Future>(
    reactor: &Rc<dyn Reactor>,
    limit: Duration,
    future: F,
) -> Option<F::Output> {
    let deadline = reactor.now() + limit;
    let mut future = pin!(future);
    poll_fn(|cx| {
        // The clock first: what only the alarm's own wake brought to its end would not have ended without it.
        if reactor.poll_until(cx, deadline).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// All futures at once, on the one waker of the root.
pub(crate) async fn all<'a>(mut futures: Vec<Pin<Box<dyn Future<Output = ()> + 'a>>>) {
    poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The bytes lent, copied and not consumed.
pub(crate) async fn peek(source: &mut dyn Source) -> io::Result<Vec<u8>> {
    poll_fn(|cx| source.poll_fill(cx).map_ok(<[u8]>::to_vec)).await
}

/// The bytes that one poll lends, copied and not consumed.
pub(crate) async fn peek_once(source: &mut dyn Source) -> Poll<io::Result<Vec<u8>>> {
    once(|cx| source.poll_fill(cx).map_ok(<[u8]>::to_vec)).await
}

/// The next bytes, all that are lent, consumed. Empty at the end of the stream.
pub(crate) async fn read(source: &mut dyn Source) -> io::Result<Vec<u8>> {
    let lent = peek(source).await?;
    source.consume(lent.len());
    Ok(lent)
}

/// Reads `count` bytes, not one more, and compares them with the pattern.
pub(crate) async fn expect(source: &mut dyn Source, pattern: &mut Pattern, count: usize) {
    let mut missing = count;
    while missing > 0 {
        let taken = poll_fn(|cx| {
            let lent = ready!(source.poll_fill(cx))?;
            let part = &lent[..lent.len().min(missing)];
            pattern.check(part);
            let taken = part.len();
            Poll::Ready(Ok::<usize, io::Error>(taken))
        })
        .await
        .unwrap_or_else(|error| panic!("{missing} of {count} bytes missing: {error}"));
        assert!(taken > 0, "the stream ended with {missing} of {count} bytes missing");
        source.consume(taken);
        missing -= taken;
    }
}

/// Expects the end of the stream now, and that it stays.
pub(crate) async fn expect_end(source: &mut dyn Source) {
    let last = peek(source).await.unwrap_or_else(|error| panic!("an error instead of the end: {error}"));
    assert!(last.is_empty(), "{} bytes instead of the end", last.len());
    for _ in 0..3 {
        match peek_once(source).await {
            Poll::Ready(Ok(still)) if still.is_empty() => {}
            other => panic!("the end of the stream did not stay: {other:?}"),
        }
    }
}

/// Reads up to the end or the error; how many bytes came before it, compared with the pattern.
pub(crate) async fn drain(source: &mut dyn Source, pattern: &mut Pattern) -> (usize, io::Result<()>) {
    let mut count = 0;
    loop {
        match read(source).await {
            Ok(bytes) if bytes.is_empty() => return (count, Ok(())),
            Ok(bytes) => {
                pattern.check(&bytes);
                count += bytes.len();
            }
            Err(error) => return (count, Err(error)),
        }
    }
}

/// Hands over some of the bytes, as many as are taken.
pub(crate) async fn write(sink: &mut dyn Sink, bytes: &[u8]) -> io::Result<usize> {
    let taken = poll_fn(|cx| sink.poll_write(cx, bytes)).await?;
    counted(taken, bytes.len());
    Ok(taken)
}

/// Hands over all the bytes.
pub(crate) async fn write_all(sink: &mut dyn Sink, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let taken = write(sink, bytes).await?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

/// Hands over some of the slices' bytes, as many as are taken.
pub(crate) async fn write_vectored(sink: &mut dyn Sink, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let offered = slices.iter().map(|slice| slice.len()).sum();
    let taken = poll_fn(|cx| sink.poll_write_vectored(cx, slices)).await?;
    counted(taken, offered);
    Ok(taken)
}

/// Writes the next `count` bytes of the pattern.
pub(crate) async fn send(sink: &mut dyn Sink, pattern: &mut Pattern, count: usize) {
    let bytes = pattern.take(count);
    write_all(sink, &bytes).await.unwrap_or_else(|error| panic!("writing {count} bytes: {error}"));
}

/// Writes the pattern until a poll is pending, and answers how many bytes were taken. Fails if that is never.
///
/// The next poll may find room again, since a busy kernel delivers late what it was given: no case may count on it.
pub(crate) async fn write_until_pending(sink: &mut dyn Sink, pattern: &mut Pattern) -> usize {
    poll_fn(|cx| Poll::Ready(write_while_taken(cx, sink, pattern))).await
}

/// Writes the pattern until nothing more is taken for a while: not for want of room in the reactor alone, which sends behind
/// the turn, but since the buffers on the way are full of what the peer does not read. Answers how much was taken.
pub(crate) async fn write_until_full(
    reactor: &Rc<dyn Reactor>,
    sink: &mut dyn Sink,
    pattern: &mut Pattern,
) -> usize {
    // A socket that took nothing for this long takes nothing more.
    const QUIET: Duration = Duration::from_millis(100);
    let mut total = write_until_pending(sink, pattern).await;
    loop {
        let piece = pattern.clone().take(10_000);
        let Some(taken) = within(reactor, QUIET, write(sink, &piece)).await else { return total };
        let taken = taken.unwrap_or_else(|error| panic!("writing failed after {total} bytes: {error}"));
        drop(pattern.take(taken));
        total += taken;
        assert!(total < 16 * HELD_BYTES_MAX, "{total} bytes were taken though the peer reads nothing");
    }
}

/// The same with the waker of `cx`, which waits then.
pub(crate) fn write_while_taken(cx: &mut Context<'_>, sink: &mut dyn Sink, pattern: &mut Pattern) -> usize {
    const CHUNK: usize = 64 << 10;
    // Sixteen times what may be held, so that a sink that takes everything is told from one that takes much.
    const MOST: usize = 16 * HELD_BYTES_MAX;
    let mut total = 0;
    while total < MOST {
        let chunk = pattern.clone().take(CHUNK);
        match sink.poll_write(cx, &chunk) {
            Poll::Ready(Ok(taken)) => {
                counted(taken, CHUNK);
                drop(pattern.take(taken));
                total += taken;
            }
            Poll::Ready(Err(error)) => panic!("writing failed after {total} bytes: {error}"),
            Poll::Pending => return total,
        }
    }
    panic!("{total} bytes were taken though the peer reads nothing: the queue has no bound");
}

/// Waits until little is queued.
pub(crate) async fn flush(sink: &mut dyn Sink) -> io::Result<()> {
    poll_fn(|cx| sink.poll_flush(cx)).await
}

/// Sends what was taken, then FIN.
pub(crate) async fn shutdown(sink: &mut dyn Sink) -> io::Result<()> {
    poll_fn(|cx| sink.poll_shutdown(cx)).await
}

/// Gives the connection back for another shard.
pub(crate) async fn release(source: &mut dyn Source) -> io::Result<Incoming> {
    poll_fn(|cx| source.poll_release(cx)).await
}

/// Moves some bytes, at most `most`.
pub(crate) async fn forward(
    sink: &mut dyn Sink,
    source: &mut dyn Source,
    most: usize,
) -> Result<usize, Side<io::Error>> {
    let moved = poll_fn(|cx| sink.poll_forward(cx, source, most)).await?;
    assert!(moved <= most, "{moved} bytes moved where at most {most} were asked for");
    Ok(moved)
}

/// A sink that takes nothing of something, or more than it was offered, would make every caller loop or skip bytes.
fn counted(taken: usize, offered: usize) {
    assert!(taken <= offered, "{taken} bytes taken of {offered}");
    assert!(taken > 0 || offered == 0, "nothing taken of {offered} bytes: callers would spin");
}
