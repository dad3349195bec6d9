//! A child's standard streams as halves of a connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use waterwheel_os::{is_broken_pipe, read_pipe, unread, write_pipe};
use waterwheel_reactor::{Address, Incoming, Sink, Source, Watched};

/// How much is read at once. A pipe holds 64 KiB (pipe(7)), so a flood takes four reads for a pipe; and a buffer is
/// only held while there is something in it.
const PIECE: usize = 16 << 10;

fn closed() -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, "the pipe was closed here")
}

fn no_address() -> io::Error {
    io::Error::new(ErrorKind::Unsupported, "a pipe has no address")
}

/// Whether all that was in a pipe when somebody asked has been read, or the pipe's end. Shared by the pipe and by who waits
/// for a child's last words.
#[derive(Debug, Default)]
pub(super) struct Rest {
    asked: Cell<Asked>,
    waiting: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Asked {
    #[default]
    No,
    Yes,
    /// So many bytes of what was there are to be read, and then there is to be no more.
    Bytes(usize),
    /// The pipe is closed.
    Gone,
}

impl Rest {
    /// From now on reading waits for no readiness, until it has read what is there.
    pub(super) fn ask(&self) {
        if !matches!(self.asked.get(), Asked::Gone) {
            self.asked.set(Asked::Yes);
        }
    }

    /// Ready once that is read.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.asked.get(), Asked::No | Asked::Gone) {
            return Poll::Ready(());
        }
        self.waiting.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn is_asked(&self, pipe: BorrowedFd<'_>) -> bool {
        if matches!(self.asked.get(), Asked::Yes) {
            self.asked.set(Asked::Bytes(unread(pipe).unwrap_or(0)));
        }
        matches!(self.asked.get(), Asked::Bytes(_))
    }

    /// So many bytes were read. Those that come after what was there may be without end.
    fn took(&self, count: usize) {
        match self.asked.get() {
            Asked::Bytes(0) => self.answer(Asked::No),
            Asked::Bytes(left) => self.asked.set(Asked::Bytes(left.saturating_sub(count))),
            _ => {}
        }
    }

    fn answer(&self, asked: Asked) {
        if !matches!(self.asked.get(), Asked::Gone) {
            self.asked.set(asked);
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

/// The reading end of a pipe.
pub(super) struct PipeSource {
    /// `None` once closed.
    watched: Option<Box<dyn Watched>>,
    /// The kernel has said that a read would not wait, and no read has met a pipe without bytes since.
    ready: bool,
    buffer: Vec<u8>,
    /// Which bytes of the buffer are lent.
    lent: std::ops::Range<usize>,
    ended: bool,
    rest: Rc<Rest>,
}

impl PipeSource {
    pub(super) fn new(watched: Box<dyn Watched>, rest: Rc<Rest>) -> PipeSource {
        PipeSource {
            watched: Some(watched),
            ready: false,
            buffer: Vec::new(),
            lent: 0..0,
            ended: false,
            rest,
        }
    }

    /// Bytes, or the end, are there.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.lent.is_empty() && !self.ended {
            let watched = self.watched.as_mut().ok_or_else(closed)?;
            let is_asked = self.rest.is_asked(watched.descriptor());
            if !self.ready && !is_asked {
                (self.buffer, self.lent) = (Vec::new(), 0..0);
                ready!(watched.poll_readable(cx))?;
                self.ready = true;
            }
            self.buffer.resize(PIECE, 0);
            match read_pipe(watched.descriptor(), &mut self.buffer) {
                Ok(0) => {
                    self.ended = true;
                    (self.buffer, self.lent) = (Vec::new(), 0..0);
                    self.rest.answer(Asked::No);
                }
                Ok(count) => {
                    self.lent = 0..count;
                    self.rest.took(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.ready = false;
                    self.rest.answer(Asked::No);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Source for PipeSource {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_read(cx))?;
        Poll::Ready(Ok(&self.buffer[self.lent.clone()]))
    }

    fn consume(&mut self, count: usize) {
        assert!(count <= self.lent.len(), "consumed {count} bytes of {} that were lent", self.lent.len());
        self.lent.start += count;
    }

    fn poll_release(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let told = "a pipe of a child process stays on its shard";
        Poll::Ready(Err(io::Error::new(ErrorKind::Unsupported, told)))
    }

    fn abort(&mut self) {
        (self.watched, self.buffer, self.lent, self.ended) = (None, Vec::new(), 0..0, false);
        self.rest.answer(Asked::Gone);
    }

    fn peer(&self) -> io::Result<Address> {
        Err(no_address())
    }

    fn local(&self) -> io::Result<Address> {
        Err(no_address())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watched.as_ref().map(|watched| watched.descriptor())
    }
}

impl Drop for PipeSource {
    fn drop(&mut self) {
        self.rest.answer(Asked::Gone);
    }
}

impl fmt::Debug for PipeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeSource").field("lent", &self.lent.len()).field("ended", &self.ended).finish()
    }
}

/// The writing end of a pipe. It queues nothing: what was taken is in the kernel.
#[derive(Debug)]
pub(super) struct PipeSink {
    /// `None` once closed.
    watched: Option<Box<dyn Watched>>,
}

impl PipeSink {
    pub(super) fn new(watched: Box<dyn Watched>) -> PipeSink {
        PipeSink { watched: Some(watched) }
    }
}

impl Sink for PipeSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let watched = self.watched.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            match write_pipe(watched.descriptor(), bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(watched.poll_writable(cx))?,
                answer => return Poll::Ready(answer),
            }
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let watched = self.watched.as_ref().ok_or(ErrorKind::BrokenPipe)?;
        let broken = is_broken_pipe(watched.descriptor());
        Poll::Ready(if broken { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) })
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched = None;
        Poll::Ready(Ok(()))
    }

    fn unacknowledged(&self) -> Option<usize> {
        Some(0)
    }

    fn abort(&mut self) {
        self.watched = None;
    }
}
