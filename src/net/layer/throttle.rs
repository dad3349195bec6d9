//! The two halves of a connection whose rate is limited.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use waterwheel_reactor::{Address, Incoming, Side, Sink, Source, Transport};

use super::bucket::Bucket;
use super::poll_forward;
use crate::net::connection::Connection;
use crate::shard::Sleep;

impl Connection {
    /// Lends and moves what is received no faster than the bucket lets pass. The peer feels it once the socket's
    /// buffers are full.
    #[must_use = "the connection with the layer is the answer"]
    pub fn throttle_receiving(self, bucket: &Bucket) -> Connection {
        self.layered(|Transport { source, sink }| Transport {
            source: Box::new(ThrottledSource { inner: source, share: Share::new(bucket) }),
            sink,
        })
    }

    /// Takes what is to be sent no faster than the bucket lets pass.
    #[must_use = "the connection with the layer is the answer"]
    pub fn throttle_sending(self, bucket: &Bucket) -> Connection {
        self.layered(|Transport { source, sink }| Transport {
            source,
            sink: Box::new(ThrottledSink { inner: sink, share: Share::new(bucket) }),
        })
    }
}

/// What a half has of its bucket.
#[derive(Debug)]
struct Share {
    bucket: Bucket,
    /// Bytes that may pass.
    granted: usize,
    /// Bytes that may pass once the sleep is over.
    promised: usize,
    sleep: Sleep,
}

impl Share {
    fn new(bucket: &Bucket) -> Share {
        let sleep = bucket.shard().sleep_until(bucket.shard().turn_time());
        Share { bucket: bucket.clone(), granted: 0, promised: 0, sleep }
    }

    /// How many of `want` bytes may pass: at least one, unless none is wanted.
    fn poll_grant(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<usize> {
        if self.granted < want && self.promised == 0 {
            self.granted += self.bucket.take(want - self.granted);
        }
        if self.granted == 0 && want > 0 {
            if self.promised == 0 {
                let (promised, at) = self.bucket.promise(want);
                self.promised = promised;
                self.sleep.reset(at);
            }
            ready!(Pin::new(&mut self.sleep).poll(cx));
            self.granted = std::mem::take(&mut self.promised);
        }
        Poll::Ready(self.granted.min(want))
    }

    /// So much passed; what is left stays granted, since it was lent.
    fn passed(&mut self, count: usize) {
        self.granted -= count;
    }

    /// So much passed; others of the bucket may have what is left.
    fn settle(&mut self, passed: usize) {
        self.bucket.give_back(std::mem::take(&mut self.granted) - passed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bucket.give_back(self.granted + self.promised);
    }
}

/// How many bytes an operation moved.
fn passed<E>(polled: &Poll<Result<usize, E>>) -> usize {
    match polled {
        Poll::Ready(Ok(count)) => *count,
        _ => 0,
    }
}

/// The receiving half. What it lends was granted before, so that it may be lent again.
#[derive(Debug)]
pub(super) struct ThrottledSource {
    inner: Box<dyn Source>,
    share: Share,
}

impl ThrottledSource {
    pub(super) fn into_inner(self) -> Box<dyn Source> {
        self.inner
    }

    /// [`Sink::poll_forward`] of the sink with the source inside.
    pub(super) fn poll_forward_to(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn Sink,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        let most = ready!(self.share.poll_grant(cx, most));
        let moved = poll_forward(sink, cx, &mut *self.inner, most);
        self.share.settle(passed(&moved));
        moved
    }
}

impl Source for ThrottledSource {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let lent = ready!(self.inner.poll_fill(cx))?;
        let granted = ready!(self.share.poll_grant(cx, lent.len()));
        Poll::Ready(Ok(&lent[..granted]))
    }

    fn consume(&mut self, count: usize) {
        assert!(count <= self.share.granted, "consumed {count} bytes; {} were lent", self.share.granted);
        self.inner.consume(count);
        self.share.passed(count);
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        self.inner.poll_release(cx)
    }

    fn abort(&mut self) {
        self.inner.abort();
    }

    fn peer(&self) -> io::Result<Address> {
        self.inner.peer()
    }

    fn local(&self) -> io::Result<Address> {
        self.inner.local()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor()
    }
}

/// The sending half.
#[derive(Debug)]
struct ThrottledSink {
    inner: Box<dyn Sink>,
    share: Share,
}

impl Sink for ThrottledSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let granted = ready!(self.share.poll_grant(cx, bytes.len()));
        let taken = self.inner.poll_write(cx, &bytes[..granted]);
        self.share.settle(passed(&taken));
        taken
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let want = slices.iter().map(|slice| slice.len()).sum();
        if ready!(self.share.poll_grant(cx, want)) < want {
            // Slices cannot be cut without a list of others; the first one can.
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        let taken = self.inner.poll_write_vectored(cx, slices);
        self.share.settle(passed(&taken));
        taken
    }

    fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn Source,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        let most = ready!(self.share.poll_grant(cx, most));
        let moved = poll_forward(&mut *self.inner, cx, from, most);
        self.share.settle(passed(&moved));
        moved
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_shutdown(cx)
    }

    fn unacknowledged(&self) -> Option<usize> {
        self.inner.unacknowledged()
    }

    fn abort(&mut self) {
        self.inner.abort();
    }
}
