//! The two halves of a connection. A direction of a proxy is one source and one sink; no lock joins them.

use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll, ready};

use crate::{Address, Incoming};

/// Both halves. Either may be dropped first; the connection is closed when both are gone.
#[derive(Debug)]
pub struct Transport {
    /// The receiving half.
    pub source: Box<dyn Source>,
    /// The sending half.
    pub sink: Box<dyn Sink>,
}

/// The receiving half: it lends bytes from a buffer of the reactor's, so an idle connection holds none.
///
/// Call [`poll_fill`](Source::poll_fill), use a part, [`consume`](Source::consume) it, and so on until the slice is
/// empty, which is the end of the stream.
pub trait Source: Any + fmt::Debug {
    /// Lends the next bytes. What was lent and not consumed comes back at once, perhaps with more behind it. An empty
    /// slice is the end of the stream, and stays so.
    ///
    /// # Errors
    /// `ConnectionReset` and its like; the same kind of error again if asked again. For a connection that is not yet
    /// established: why it could not be.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>>;

    /// Gives back the first `count` of the bytes lent.
    ///
    /// # Panics
    /// If more is consumed than was lent: that is a bug of the caller's, never a peer's doing.
    fn consume(&mut self, count: usize);

    /// Turns the connection back into something that another shard can adopt, with every byte that was received and
    /// not consumed. The peer notices nothing. The sink must have been flushed before and be kept until this is ready,
    /// since its drop sends FIN; it is of no use afterwards. This source is at its end afterwards.
    ///
    /// # Errors
    /// The receiving half is broken, or was released already. That a write met a broken pipe is none: the peer does not
    /// read any more, and what it sent is still there.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>>;

    /// Resets the connection (RST) and drops what is queued. May be called twice, and by either half. From then on each
    /// poll of either half is ready, and [`poll_fill`](Source::poll_fill) is an error, also where bytes were lent that
    /// nobody consumed, or the end was met; those lent before may still be consumed until then.
    fn abort(&mut self);

    /// The peer's address.
    ///
    /// # Errors
    /// As getpeername(2); `NotConnected` while the connect is in progress.
    fn peer(&self) -> io::Result<Address>;

    /// Our address.
    ///
    /// # Errors
    /// As getsockname(2).
    fn local(&self) -> io::Result<Address>;

    /// The descriptor, where there is one: for socket options that the seam does not name.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The sending half. Dropping it sends what it took, then FIN; while a connect is in progress, once that is done.
pub trait Sink: fmt::Debug {
    /// Takes some of `bytes`, at least one unless `bytes` is empty, and sends them without further polls. Pending
    /// while the peer does not read and the buffers between are full; memory stays bounded.
    ///
    /// # Errors
    /// `ConnectionReset`, `BrokenPipe` (also after [`poll_shutdown`](Sink::poll_shutdown)); for a connection that is
    /// not yet established: why it could not be.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// The same from several slices, in order. A reactor that cannot gather takes from the first one that is not
    /// empty.
    ///
    /// # Errors
    /// As [`poll_write`](Sink::poll_write).
    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| slice))
    }

    /// Moves up to `most` bytes from `from` to here: at least one, or 0 at the end of the stream. A reactor that
    /// knows its own kind of source may do so without a copy.
    ///
    /// # Errors
    /// Says which side failed: [`Side::Source`] or [`Side::Sink`].
    fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn Source,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        forward_by_writing(self, cx, from, most)
    }

    /// Ready when the connection is established and little is queued (less than the reactor's low mark); an error if
    /// it broke, also while nobody reads: a proxy asks this, every few seconds, of a side whose bytes the other side
    /// does not take, since nobody waits at its source then.
    ///
    /// # Errors
    /// As [`poll_write`](Sink::poll_write).
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends what was taken, then FIN. Reading goes on. Ready when the FIN is in the kernel's hands; ready again if
    /// asked again.
    ///
    /// # Errors
    /// As [`poll_write`](Sink::poll_write).
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// How many of the bytes taken the peer's side of the network does not have yet, those that the reactor queues among
    /// them; `None`: it queues none, and the kernel is asked by the source's [descriptor](Source::descriptor), where there
    /// is one.
    fn unacknowledged(&self) -> Option<usize> {
        None
    }

    /// Resets the connection (RST) and drops what is queued: as [`Source::abort`].
    fn abort(&mut self);
}

/// Forwards by fill, write and consume: [`Sink::poll_forward`] where a reactor has no other way, or none for this source.
///
/// # Errors
/// As [`Sink::poll_forward`].
pub fn forward_by_writing<S: Sink + ?Sized>(
    to: &mut S,
    cx: &mut Context<'_>,
    from: &mut dyn Source,
    most: usize,
) -> Poll<Result<usize, Side<io::Error>>> {
    let lent = ready!(from.poll_fill(cx)).map_err(Side::Source)?;
    if lent.is_empty() {
        return Poll::Ready(Ok(0));
    }
    let part = &lent[..lent.len().min(most)];
    let taken = ready!(to.poll_write(cx, part)).map_err(Side::Sink)?;
    from.consume(taken);
    Poll::Ready(Ok(taken))
}

/// Which side of a transfer something concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side<T> {
    /// The side that bytes come from.
    Source(T),
    /// The side that bytes go to.
    Sink(T),
}

impl<T> Side<T> {
    /// What it carries, whichever side.
    pub fn into_inner(self) -> T {
        match self {
            Side::Source(value) | Side::Sink(value) => value,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Side<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Side::Source(value) => write!(f, "receiving: {value}"),
            Side::Sink(value) => write!(f, "sending: {value}"),
        }
    }
}

impl<T: std::error::Error + 'static> std::error::Error for Side<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Side::Source(value) | Side::Sink(value) => Some(value),
        }
    }
}
