//! Forwarding must be what copying is, whatever a reactor does to save the copy.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use futures_util::future::join;
use waterwheel_reactor::{Address, Backend, Incoming, Side, Source, Transport};

use crate::Outcome;
use crate::kit::on_one;
use crate::kit::pattern::Pattern;
use crate::kit::peer::{Family, Meeting, Venue, errand};
use crate::kit::stream::{
    HELD_BYTES_MAX, drain, expect_end, forward, once, peek, peek_once, send, shutdown, turn,
    write_until_pending,
};

/// STREAM-18.
pub(super) fn as_copied(backend: &dyn Backend) -> Outcome {
    for small in [false, true] {
        let venue = if small { Venue::small(backend) } else { Venue::new(backend, Family::Tcp) };
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            for (total, most) in [(2_000, 1), (300_000, 4_097), (2 << 20, 64 << 10), (STREAM, usize::MAX)] {
                every_byte(&mut meeting, total, most, Kind::Own).await;
                every_byte(&mut meeting, total, most, Kind::Foreign).await;
            }
            behind_other_bytes(&mut meeting).await;
            into_a_full_sink(&mut meeting).await;
            for before in [10, STREAM] {
                source_reset(&mut meeting, before).await;
            }
            sink_reset(&mut meeting).await;
            after_our_end(&mut meeting).await;
            meeting.close().await;
        });
    }
    Outcome::Holds
}

/// Longer than all buffers between together, so that sinks fill, and what a reactor found out about a stream is used.
const STREAM: usize = 12 << 20;

/// Whose source it is: the reactor's own, which it may know again, or one that somebody wrapped around it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Own,
    Foreign,
}

impl Kind {
    fn wrap(self, source: Box<dyn Source>) -> Box<dyn Source> {
        match self {
            Kind::Own => source,
            Kind::Foreign => Box::new(Foreign(source)),
        }
    }
}

/// A source that no reactor knows.
#[derive(Debug)]
struct Foreign(Box<dyn Source>);

impl Source for Foreign {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.0.poll_fill(cx)
    }
    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        self.0.poll_release(cx)
    }
    fn abort(&mut self) {
        self.0.abort();
    }
    fn peer(&self) -> io::Result<Address> {
        self.0.peer()
    }
    fn local(&self) -> io::Result<Address> {
        self.0.local()
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.descriptor()
    }
}

/// All bytes up to the end, which is told again as often as it is asked for; then the end is passed on by hand.
async fn every_byte(meeting: &mut Meeting, total: usize, most: usize, kind: Kind) {
    let (Transport { source, sink: _keep }, client) = meeting.peer().await;
    let (Transport { source: _kept, mut sink }, server) = meeting.peer().await;
    let mut source = kind.wrap(source);
    let sender = errand(move || {
        client.send(&mut Pattern::new(1), total);
        client.finish();
        client
    });
    let reader = errand(move || {
        server.expect(&mut Pattern::new(1), total);
        server.expect_end();
    });
    let mut moved = 0;
    loop {
        match forward(sink.as_mut(), source.as_mut(), most).await {
            Ok(0) => break,
            Ok(count) => moved += count,
            Err(side) => panic!("{kind:?}, at most {most}: {side} after {moved} bytes"),
        }
    }
    assert_eq!(moved, total, "bytes moved ({kind:?}, at most {most})");
    let again = forward(sink.as_mut(), source.as_mut(), most).await.expect("the end, again");
    assert_eq!(again, 0, "bytes moved behind the end");
    expect_end(source.as_mut()).await;
    shutdown(sink.as_mut()).await.expect("passing the end on");
    reader.end().await;
    drop(sender.end().await);
}

/// Bytes that came with an adopted connection, bytes lent and partly consumed, bytes in the kernel, bytes that the
/// sink took before and takes after: forwarding keeps to the order.
async fn behind_other_bytes(meeting: &mut Meeting) {
    let (mut incoming, client) = meeting.incoming().await;
    let mut sent = Pattern::new(1);
    incoming.bytes = sent.take(500);
    client.send(&mut sent, 1_500);
    client.finish();
    let Transport { mut source, sink: _keep } = meeting.adopt(incoming);
    let (Transport { source: _kept, mut sink }, server) = meeting.peer().await;
    let lent = peek(source.as_mut()).await.expect("what came with it");
    Pattern::new(1).check(&lent);
    source.consume(100);
    send(sink.as_mut(), &mut Pattern::new(2), 1_000).await;
    let mut moved = 0;
    while moved < 1_000 {
        let most = (1_000 - moved).min(300);
        moved += forward(sink.as_mut(), source.as_mut(), most).await.expect("forwarding");
    }
    let mut rest = Pattern::new(1);
    drop(rest.take(100 + moved));
    let (count, last) = drain(source.as_mut(), &mut rest).await;
    last.expect("a clean end");
    assert_eq!(count, 2_000 - 100 - moved, "bytes that were left to read");
    send(sink.as_mut(), &mut Pattern::new(3), 1_000).await;
    let reader = errand(move || {
        server.expect(&mut Pattern::new(2), 1_000);
        let mut forwarded = Pattern::new(1);
        drop(forwarded.take(100));
        server.expect(&mut forwarded, moved);
        server.expect(&mut Pattern::new(3), 1_000);
    });
    reader.end().await;
}

/// A sink that can take no more leaves the bytes in the source; nothing is lost or doubled when it can again.
async fn into_a_full_sink(meeting: &mut Meeting) {
    let (Transport { mut source, sink: _keep }, client) = meeting.peer().await;
    let (Transport { source: _kept, mut sink }, server) = meeting.peer().await;
    let sender = errand(move || {
        client.send(&mut Pattern::new(1), 4 * HELD_BYTES_MAX);
        client.finish();
        client
    });
    let filled = write_until_pending(sink.as_mut(), &mut Pattern::new(2)).await;
    let lent = peek(source.as_mut()).await.expect("bytes");
    let first = once(|cx| sink.poll_forward(cx, source.as_mut(), 4_096)).await;
    let moved = match first {
        // It may have found room once more; what counts is that the books agree in the end.
        Poll::Ready(moved) => moved.expect("forwarding"),
        Poll::Pending => {
            let still = peek_once(source.as_mut()).await;
            let Poll::Ready(Ok(still)) = still else {
                panic!("a pending forward took what was lent: {still:?}")
            };
            assert!(still.starts_with(&lent), "a pending forward changed what is lent");
            0
        }
    };
    let reader = errand(move || {
        server.expect(&mut Pattern::new(2), filled);
        server.expect(&mut Pattern::new(1), 4 * HELD_BYTES_MAX);
        server.expect_end();
    });
    let rest = async {
        let mut total = moved;
        loop {
            match forward(sink.as_mut(), source.as_mut(), 64 << 10).await.expect("forwarding") {
                0 => return total,
                count => total += count,
            }
        }
    };
    assert_eq!(rest.await, 4 * HELD_BYTES_MAX, "bytes moved");
    shutdown(sink.as_mut()).await.expect("passing the end on");
    reader.end().await;
    drop(sender.end().await);
}

/// The peer behind the source resets: that side is named, and the other is as good as before.
async fn source_reset(meeting: &mut Meeting, before: usize) {
    let (Transport { mut source, sink: _keep }, client) = meeting.peer().await;
    let (Transport { source: _kept, mut sink }, server) = meeting.peer().await;
    let sender = errand(move || {
        client.send(&mut Pattern::new(1), before);
        client
    });
    let reader = errand(move || {
        server.expect(&mut Pattern::new(1), before);
        server
    });
    let mut moved = 0;
    while moved < before {
        moved += forward(sink.as_mut(), source.as_mut(), usize::MAX).await.expect("forwarding");
    }
    let (client, server) = (sender.end().await, reader.end().await);
    let reset = async {
        turn().await;
        client.reset();
    };
    let (failed, ()) = join(forward(sink.as_mut(), source.as_mut(), 64), reset).await;
    match failed {
        Err(Side::Source(error)) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the source's peer sent a reset: {other:?}"),
    }
    send(sink.as_mut(), &mut Pattern::new(2), 100).await;
    shutdown(sink.as_mut()).await.expect("ending the good side");
    let reader = errand(move || {
        server.expect(&mut Pattern::new(2), 100);
        server.expect_end();
    });
    reader.end().await;
}

/// The peer behind the sink resets: that side is named, and what was not moved is still in the source.
async fn sink_reset(meeting: &mut Meeting) {
    let (Transport { mut source, sink: _keep }, client) = meeting.peer().await;
    let (Transport { source: _kept, mut sink }, server) = meeting.peer().await;
    client.send(&mut Pattern::new(1), 4_000);
    client.finish();
    server.reset();
    turn().await;
    let mut moved = 0;
    let error = loop {
        match forward(sink.as_mut(), source.as_mut(), 1).await {
            Ok(0) => panic!("all {moved} bytes were taken for a peer that has reset the connection"),
            Ok(count) => moved += count,
            Err(Side::Sink(error)) => break error,
            Err(Side::Source(error)) => panic!("the sink's peer sent a reset, the source is blamed: {error}"),
        }
        // What was taken may be sent only after this poll.
        turn().await;
    };
    broken(&error);
    let mut rest = Pattern::new(1);
    drop(rest.take(moved));
    let (count, last) = drain(source.as_mut(), &mut rest).await;
    last.expect("the source is as good as before");
    assert_eq!(count, 4_000 - moved, "bytes that were left to read");
}

fn broken(error: &io::Error) {
    let known = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    assert!(known, "forwarding to a broken connection: {error} ({:?})", error.kind());
}

/// A sink that has sent its end takes no more, also not without a copy.
async fn after_our_end(meeting: &mut Meeting) {
    let (Transport { mut source, sink: _keep }, client) = meeting.peer().await;
    let (Transport { source: _kept, mut sink }, _server) = meeting.peer().await;
    client.send(&mut Pattern::new(1), 10);
    shutdown(sink.as_mut()).await.expect("ending");
    match forward(sink.as_mut(), source.as_mut(), 64).await {
        Err(Side::Sink(error)) if error.kind() == ErrorKind::BrokenPipe => {}
        other => panic!("forwarding behind our own end: {other:?}"),
    }
    assert_eq!(
        peek(source.as_mut()).await.expect("what was not moved").len(),
        10,
        "bytes that were left to read"
    );
}
