//! The two halves of a connection whose time is limited.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use waterwheel_reactor::{Address, Incoming, Side, Sink, Source, Time};

use super::poll_forward;
use super::timeouts::{Record, TimedOut};
use crate::shard::Sleep;

/// One timer for all limits of a half. It is armed while the half waits, and stays where it is while bytes move: a
/// limit that has moved away is met with a look at the record, and one store (TIME-9).
#[derive(Debug)]
struct Limit(Sleep);

impl Limit {
    fn new(record: &Record) -> Limit {
        Limit(record.shard().sleep_until(Time::NEVER))
    }

    /// Ready when the limit is met. Wakes the waker of the latest call.
    fn poll(&mut self, cx: &mut Context<'_>, due: Option<(Time, TimedOut)>) -> Poll<TimedOut> {
        let Some((at, timed_out)) = due else { return Poll::Pending };
        if at < self.0.deadline() {
            self.0.reset(at);
        }
        while Pin::new(&mut self.0).poll(cx).is_ready() {
            if at <= self.0.deadline() {
                return Poll::Ready(timed_out);
            }
            self.0.reset(at);
        }
        Poll::Pending
    }
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct TimedSource {
    inner: Box<dyn Source>,
    record: Rc<Record>,
    limit: Limit,
    /// Reading has failed; it fails again.
    failed: Option<TimedOut>,
    /// The stream has ended or is broken: nobody waits for anything.
    over: bool,
}

impl TimedSource {
    pub(super) fn new(inner: Box<dyn Source>, record: Rc<Record>) -> TimedSource {
        TimedSource { inner, limit: Limit::new(&record), record, failed: None, over: false }
    }

    pub(super) fn into_inner(self) -> Box<dyn Source> {
        self.inner
    }

    /// Whether a limit is met, and bytes that came in the same turn do not count more.
    fn look(&mut self, cx: &mut Context<'_>) -> Result<(), TimedOut> {
        if let Some(timed_out) = self.record.ended().or(self.failed) {
            return Err(timed_out);
        }
        if self.over {
            return Ok(());
        }
        let Poll::Ready(timed_out) = self.limit.poll(cx, self.record.due_to_receive()) else { return Ok(()) };
        if self.inner.poll_fill(cx).is_ready() {
            return Ok(());
        }
        if self.record.met(timed_out) {
            self.inner.abort();
        }
        self.failed = Some(timed_out);
        Err(timed_out)
    }

    /// [`Sink::poll_forward`] of the sink with the source inside.
    pub(super) fn poll_forward_to(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn Sink,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        self.look(cx).map_err(|timed_out| Side::Source(timed_out.into()))?;
        let moved = poll_forward(sink, cx, &mut *self.inner, most);
        match moved {
            Poll::Ready(Ok(1..)) => self.record.heard(),
            Poll::Ready(Ok(0)) => self.over = true,
            _ => {}
        }
        moved
    }
}

impl Source for TimedSource {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.look(cx)?;
        let lent = self.inner.poll_fill(cx);
        match &lent {
            Poll::Ready(Ok(lent)) if !lent.is_empty() => self.record.heard(),
            Poll::Ready(_) => self.over = true,
            Poll::Pending => {}
        }
        lent
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.record.moved();
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
pub(super) struct TimedSink {
    inner: Box<dyn Sink>,
    record: Rc<Record>,
    limit: Limit,
    /// Since when something has waited to be taken, and how much of what was taken the peer did not have by then.
    waiting: Option<(Time, Option<usize>)>,
}

impl TimedSink {
    pub(super) fn new(inner: Box<dyn Sink>, record: Rc<Record>) -> TimedSink {
        TimedSink { inner, limit: Limit::new(&record), record, waiting: None }
    }

    fn look(&self) -> io::Result<()> {
        self.record.ended().map_or(Ok(()), |timed_out| Err(timed_out.into()))
    }

    /// What became of an operation, or the limit that is met while it waits.
    fn settle<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        Poll::Ready(Err(ready!(self.poll_limit(cx)).into()))
    }

    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<TimedOut> {
        loop {
            let left = self.inner.unacknowledged();
            let now = self.record.shard().turn_time();
            let (since, left_then) = *self.waiting.get_or_insert((now, left));
            let timed_out = ready!(self.limit.poll(cx, self.record.due_to_send(since)));
            // Nothing more was taken, but the peer has more than it had.
            if matches!(timed_out, TimedOut::StalledWrite(_)) && left < left_then {
                self.waiting = Some((now, left));
                continue;
            }
            self.record.met(timed_out);
            self.inner.abort();
            return Poll::Ready(timed_out);
        }
    }
}

impl Sink for TimedSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.look()?;
        let taken = self.inner.poll_write(cx, bytes);
        if matches!(taken, Poll::Ready(Ok(1..))) {
            self.record.moved();
        }
        self.settle(cx, taken)
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look()?;
        let taken = self.inner.poll_write_vectored(cx, slices);
        if matches!(taken, Poll::Ready(Ok(1..))) {
            self.record.moved();
        }
        self.settle(cx, taken)
    }

    fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn Source,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        self.look().map_err(Side::Sink)?;
        match poll_forward(&mut *self.inner, cx, from, most) {
            // It is this side that waits only if the other has something.
            Poll::Pending if from.poll_fill(cx).is_ready() => {
                self.poll_limit(cx).map(|timed_out| Err(Side::Sink(timed_out.into())))
            }
            moved => {
                self.waiting = None;
                if matches!(moved, Poll::Ready(Ok(1..))) {
                    self.record.moved();
                }
                moved
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look()?;
        let flushed = self.inner.poll_flush(cx);
        self.settle(cx, flushed)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look()?;
        let ended = self.inner.poll_shutdown(cx);
        self.settle(cx, ended)
    }

    fn unacknowledged(&self) -> Option<usize> {
        self.inner.unacknowledged()
    }

    fn abort(&mut self) {
        self.inner.abort();
    }
}
