//! Mistakes that a reactor may make with connections, as halves and listeners around the good ones.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use waterwheel_reactor::{Address, Bound, Handle, Incoming, Listener, Side, Sink, Source, Transport};

use super::Poller;
use super::stream::Slot;

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    EdgeDoubled,
    LentOnce,
    EndOverData,
    ClosesBoth,
    ResetOnce,
    AbortEnds,
    DropCuts,
    HalvesTogether,
    PartialLost,
    TakesAll,
    ReadsAhead,
    WriterDeaf,
    LendsAll,
    StaleNews,
    PoolDry,
    SentWhenPolled,
    WrongSide,
    OwnOnly,
    IncomingKept,
    ReleaseForgets,
}

/// Each mistake under the name that its reactor gets, and the law that it breaks.
pub(crate) const MISTAKES: &[(&str, Mistake, &str)] = &[
    ("edge-doubled", Mistake::EdgeDoubled, "STREAM-1"),
    ("lent-once", Mistake::LentOnce, "STREAM-2"),
    ("end-over-data", Mistake::EndOverData, "STREAM-3"),
    ("closes-both", Mistake::ClosesBoth, "STREAM-4"),
    ("reset-once", Mistake::ResetOnce, "STREAM-5"),
    ("abort-ends", Mistake::AbortEnds, "STREAM-6"),
    ("drop-cuts", Mistake::DropCuts, "STREAM-7"),
    ("halves-together", Mistake::HalvesTogether, "STREAM-8"),
    ("partial-lost", Mistake::PartialLost, "STREAM-9"),
    ("takes-all", Mistake::TakesAll, "STREAM-10"),
    ("reads-ahead", Mistake::ReadsAhead, "STREAM-11"),
    ("writer-deaf", Mistake::WriterDeaf, "STREAM-12"),
    ("lends-all", Mistake::LendsAll, "STREAM-13"),
    ("stale-news", Mistake::StaleNews, "STREAM-14"),
    ("pool-dry", Mistake::PoolDry, "STREAM-15"),
    ("sent-when-polled", Mistake::SentWhenPolled, "STREAM-17"),
    ("wrong-side", Mistake::WrongSide, "STREAM-18"),
    ("own-only", Mistake::OwnOnly, "HAND-1"),
    ("incoming-kept", Mistake::IncomingKept, "HAND-2"),
    ("release-forgets", Mistake::ReleaseForgets, "HAND-4"),
];

thread_local! {
    /// Connections that this shard accepted: for [`Mistake::OwnOnly`].
    static OWN: RefCell<Vec<RawFd>> = const { RefCell::new(Vec::new()) };
    /// Closed descriptors that the kernel still had news of: for [`Mistake::StaleNews`].
    static NEWS: RefCell<Vec<RawFd>> = const { RefCell::new(Vec::new()) };
    /// Buffers that are lent: for [`Mistake::PoolDry`].
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// A listener with the mistake.
pub(super) fn listener(mistake: Mistake, good: impl Listener + 'static) -> Box<dyn Listener> {
    Box::new(Faulty { mistake, good })
}

#[derive(Debug)]
struct Faulty<L> {
    mistake: Mistake,
    good: L,
}

impl<L: Listener> Listener for Faulty<L> {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let incoming = ready!(self.good.poll_accept(cx))?;
        if let Handle::Os(descriptor) = &incoming.handle {
            OWN.with_borrow_mut(|own| own.push(descriptor.as_raw_fd()));
            if self.mistake == Mistake::IncomingKept {
                mem::forget(descriptor.try_clone()?);
            }
        }
        Poll::Ready(Ok(incoming))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Bound> {
        self.good.poll_close(cx)
    }
}

/// Refuses what another shard accepted, if that is the mistake.
pub(super) fn admit(mistake: Mistake, incoming: &Incoming) -> io::Result<()> {
    let Handle::Os(descriptor) = &incoming.handle else { return Ok(()) };
    let own = OWN.with_borrow(|own| own.contains(&descriptor.as_raw_fd()));
    if own || mistake != Mistake::OwnOnly { Ok(()) } else { Err(ErrorKind::Unsupported.into()) }
}

/// A connection with the mistake.
pub(super) fn transport(mistake: Mistake, poller: &Rc<Poller>, good: Transport) -> io::Result<Transport> {
    let descriptor = good.source.descriptor().ok_or(ErrorKind::Unsupported)?;
    let number = descriptor.as_raw_fd();
    let again = Rc::new(descriptor.try_clone_to_owned()?);
    let mut slot = None;
    if mistake == Mistake::ReadsAhead {
        let waker = Waker::from(Arc::new(Ahead(descriptor.try_clone_to_owned()?)));
        let ahead = Slot::new(poller);
        ahead.wait(&again, PollFlags::IN, &Context::from_waker(&waker));
        slot = Some(ahead);
    }
    let stale = mistake == Mistake::StaleNews && NEWS.with_borrow(|news| news.contains(&number));
    let source = Receiving {
        mistake,
        good: good.source,
        descriptor: Rc::clone(&again),
        number,
        _slot: slot,
        lent: 0,
        failed: stale,
        all: Vec::new(),
    };
    let sink = Sending { mistake, good: good.sink, descriptor: again, late: Vec::new() };
    Ok(Transport { source: Box::new(source), sink: Box::new(sink) })
}

/// Swallows all that comes until nothing came for a while.
#[derive(Debug)]
struct Ahead(OwnedFd);

impl Wake for Ahead {
    fn wake(self: Arc<Ahead>) {
        let mut quiet = 0;
        while quiet < 50 {
            match recv(&self.0, &mut [0u8; 16 << 10], RecvFlags::empty()) {
                Ok((count, _)) if count > 0 => quiet = 0,
                Ok(_) => return,
                Err(_) => {
                    quiet += 1;
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            }
        }
    }
}

struct Receiving {
    mistake: Mistake,
    good: Box<dyn Source>,
    descriptor: Rc<OwnedFd>,
    number: RawFd,
    _slot: Option<Slot>,
    lent: usize,
    failed: bool,
    all: Vec<u8>,
}

impl fmt::Debug for Receiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiving").field("mistake", &self.mistake).finish_non_exhaustive()
    }
}

impl Receiving {
    fn has(&self, flags: PollFlags) -> bool {
        let mut polled = [PollFd::new(&*self.descriptor, flags)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
    }

    /// Whether this source has to do without a buffer, since 64 others have one.
    fn starves(&self) -> bool {
        self.mistake == Mistake::PoolDry && self.lent == 0 && LENT.get() >= 64
    }

    fn lends(&mut self, count: usize) {
        match (self.lent, count) {
            (0, 1..) => LENT.set(LENT.get() + 1),
            (1.., 0) => LENT.set(LENT.get() - 1),
            _ => {}
        }
        self.lent = count;
    }

    fn fill_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        while let Poll::Ready(lent) = self.good.poll_fill(cx) {
            let lent = lent?;
            if lent.is_empty() {
                return Poll::Ready(Ok(&self.all));
            }
            self.all.extend(lent);
            let count = lent.len();
            self.good.consume(count);
        }
        if self.all.is_empty() { Poll::Pending } else { Poll::Ready(Ok(&self.all)) }
    }
}

impl Source for Receiving {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self.mistake {
            Mistake::LendsAll => return self.fill_all(cx),
            Mistake::EndOverData if self.has(PollFlags::RDHUP) => return Poll::Ready(Ok(&[])),
            Mistake::LentOnce => self.good.consume(mem::take(&mut self.lent)),
            _ if self.failed => return Poll::Ready(Ok(&[])),
            _ if self.starves() => return Poll::Pending,
            _ => {}
        }
        let count = match ready!(self.good.poll_fill(cx)) {
            Ok(lent) => lent.len(),
            Err(error) => {
                self.failed = self.mistake == Mistake::ResetOnce;
                return Poll::Ready(Err(error));
            }
        };
        self.lends(count);
        self.good.poll_fill(cx).map_ok(|lent| &lent[..count])
    }

    fn consume(&mut self, count: usize) {
        match self.mistake {
            Mistake::LendsAll => drop(self.all.drain(..count)),
            Mistake::EdgeDoubled if count > 4_096 => self.good.consume(count - 1),
            _ => self.good.consume(count),
        }
        if count <= self.lent {
            self.lends(self.lent - count);
        }
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let mut incoming = ready!(self.good.poll_release(cx))?;
        if self.mistake == Mistake::ReleaseForgets {
            incoming.bytes.clear();
        }
        Poll::Ready(Ok(incoming))
    }

    fn abort(&mut self) {
        if self.mistake == Mistake::AbortEnds {
            return end_both(&self.descriptor);
        }
        self.good.abort();
    }

    fn peer(&self) -> io::Result<Address> {
        self.good.peer()
    }

    fn local(&self) -> io::Result<Address> {
        self.good.local()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.descriptor.as_fd())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.lends(0);
        if self.mistake == Mistake::HalvesTogether {
            end_both(&self.descriptor);
        }
        if self.has(PollFlags::IN | PollFlags::RDHUP) {
            NEWS.with_borrow_mut(|news| news.push(self.number));
        }
    }
}

fn end_both(descriptor: &OwnedFd) {
    // Where it is ended already there is nothing to do wrong.
    let _ = SockRef::from(descriptor).shutdown(Shutdown::Both);
}

#[derive(Debug)]
struct Sending {
    mistake: Mistake,
    good: Box<dyn Sink>,
    descriptor: Rc<OwnedFd>,
    late: Vec<u8>,
}

impl Sending {
    /// Sends what waited for this poll.
    fn send_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.late.is_empty() {
            let count = ready!(self.good.poll_write(cx, &self.late))?;
            self.late.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl Sink for Sending {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.mistake == Mistake::SentWhenPolled && !bytes.is_empty() {
            ready!(self.send_late(cx))?;
            self.late.extend(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = self.good.poll_write(cx, bytes);
        match (self.mistake, result) {
            (Mistake::TakesAll, Poll::Pending) => Poll::Ready(Ok(bytes.len())),
            (Mistake::WriterDeaf, Poll::Ready(Err(_))) => Poll::Pending,
            (Mistake::PartialLost, Poll::Ready(Ok(count))) if count < bytes.len() => {
                Poll::Ready(Ok(count + 1))
            }
            (_, result) => result,
        }
    }

    fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn Source,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        let moved = self.good.poll_forward(cx, from, most);
        if self.mistake != Mistake::WrongSide {
            return moved;
        }
        moved.map_err(|side| Side::Sink(side.into_inner()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.good.poll_flush(cx) {
            Poll::Ready(Err(_)) if self.mistake == Mistake::WriterDeaf => Poll::Ready(Ok(())),
            result => result,
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send_late(cx))?;
        if self.mistake == Mistake::ClosesBoth {
            end_both(&self.descriptor);
        }
        self.good.poll_shutdown(cx)
    }

    fn abort(&mut self) {
        if self.mistake == Mistake::AbortEnds {
            return end_both(&self.descriptor);
        }
        self.good.abort();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.mistake == Mistake::DropCuts {
            self.good.abort();
        }
    }
}
