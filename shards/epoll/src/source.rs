//! The receiving half of a connection.

use std::cell::OnceCell;
use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use waterwheel_os::Pipe;
use waterwheel_reactor::{Address, Handle, Incoming, Source};

use crate::core::Core;
use crate::descriptor::{Descriptor, Facts};

/// Lends what it receives from a chunk of the reactor's pool, which it holds only while it holds bytes.
#[derive(Debug)]
pub(crate) struct EpollSource {
    core: Rc<Core>,
    descriptor: Rc<Descriptor>,
    // Empty unless `start < end`. First it may be what came with the connection, of any size; later also what a sink did not
    // take of a stream.
    chunk: Box<[u8]>,
    start: usize,
    end: usize,
    /// The end of the stream was met, or the connection released.
    over: bool,
    peer: Option<Address>,
    // Of the same open file, for `descriptor`: ours may be closed by the other half or by the reactor's end, which a
    // borrow of it would not outlive.
    borrowed: OnceCell<OwnedFd>,
}

impl EpollSource {
    pub(crate) fn new(
        core: Rc<Core>,
        descriptor: Rc<Descriptor>,
        bytes: Vec<u8>,
        peer: Option<Address>,
    ) -> EpollSource {
        core.pool.adopt(&bytes);
        let end = bytes.len();
        let chunk = bytes.into_boxed_slice();
        let borrowed = OnceCell::new();
        EpollSource { core, descriptor, chunk, start: 0, end, over: false, peer, borrowed }
    }

    /// Receives into a chunk, of which nothing is in use; leaves it empty at the end of the stream.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let descriptor = &*self.descriptor;
        if self.over {
            return Poll::Ready(Ok(()));
        }
        if !descriptor.is(Facts::READABLE) {
            descriptor.reader.wait(cx);
            return Poll::Pending;
        }
        let file = descriptor.file().borrow();
        let Some(file) = &*file else {
            return Poll::Ready(Err(descriptor.failure()));
        };
        let mut chunk = self.core.pool.take();
        let outcome = waterwheel_os::receive(file.as_fd(), &mut chunk);
        if let Ok(count @ 1..) = outcome {
            if count < chunk.len() && !descriptor.is(Facts::DRAIN.and(Facts::LOCAL)) {
                // Nothing is left, and what comes from now on comes with an edge.
                descriptor.clear(Facts::READABLE);
            }
            (self.chunk, self.start, self.end) = (chunk, 0, count);
            return Poll::Ready(Ok(()));
        }
        self.core.pool.give_back(chunk);
        match outcome {
            // A reset that the other half met first leaves what looks like an end to this one.
            Ok(_) => Poll::Ready(match descriptor.receive_error() {
                Some(error) => Err(error),
                None => {
                    self.over = true;
                    Ok(())
                }
            }),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                descriptor.clear(Facts::READABLE.and(Facts::DRAIN));
                descriptor.reader.wait(cx);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(descriptor.fail(error))),
        }
    }

    /// The next bytes of the connection into a pipe; answers how many. `None` is no verdict: a receive tells.
    pub(crate) fn splice(&mut self, pipe: &mut Pipe, most: usize) -> Option<usize> {
        let descriptor = &*self.descriptor;
        let waits = self.start < self.end || self.over || !descriptor.is(Facts::READABLE);
        if waits || descriptor.is(Facts::ABORTED) || descriptor.error().is_some() || !descriptor.may_splice()
        {
            return None;
        }
        let taken = match &*descriptor.file().borrow() {
            Some(file) => pipe.take(file.as_fd(), most),
            None => return None,
        };
        taken.unwrap_or_else(|error| {
            if waterwheel_os::is_refusal(&error) {
                descriptor.set(Facts::NO_SPLICE);
            } else {
                // The kernel says so once; a receive would meet an end.
                descriptor.fail(error);
            }
            None
        })
    }

    /// Takes back what is in a pipe, to be lent next.
    pub(crate) fn take_back(&mut self, pipe: &mut Pipe) -> io::Result<()> {
        let (mut chunk, mut end) = (self.core.pool.take_much(), 0);
        while pipe.held() > 0 {
            match pipe.read(&mut chunk[end..]) {
                Ok(count @ 1..) => end += count,
                // Bytes that were there and are not any more: the stream has a hole.
                _ => {
                    self.core.pool.give_back(chunk);
                    return Err(self.descriptor.fail(Errno::IO.into()));
                }
            }
        }
        (self.chunk, self.start, self.end) = (chunk, 0, end);
        Ok(())
    }

    pub(crate) fn is_of(&self, core: &Rc<Core>) -> bool {
        Rc::ptr_eq(&self.core, core)
    }

    /// Gives the chunk back, with whatever it holds.
    fn empty(&mut self) {
        (self.start, self.end) = (0, 0);
        let chunk = mem::take(&mut self.chunk);
        if !chunk.is_empty() {
            self.core.pool.give_back(chunk);
        }
    }
}

impl Source for EpollSource {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.descriptor.is(Facts::ABORTED) {
            self.empty();
            return Poll::Ready(Err(self.descriptor.failure()));
        }
        if self.start == self.end {
            ready!(self.receive(cx))?;
        }
        Poll::Ready(Ok(&self.chunk[self.start..self.end]))
    }

    fn consume(&mut self, count: usize) {
        let lent = self.end - self.start;
        assert!(count <= lent, "{count} bytes consumed, but only {lent} lent");
        self.start += count;
        if self.start == self.end {
            self.empty();
        }
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let descriptor = &*self.descriptor;
        if descriptor.is(Facts::CONNECTING) {
            descriptor.reader.wait(cx);
            return Poll::Pending;
        }
        if descriptor.is(Facts::BROKEN) {
            descriptor.take_error();
        }
        if let Some(error) = descriptor.receive_error() {
            return Poll::Ready(Err(error));
        }
        let Some(file) = self.core.take(descriptor, Errno::NOTCONN) else {
            return Poll::Ready(Err(descriptor.failure()));
        };
        self.borrowed.take();
        self.over = true;
        let bytes = self.chunk[self.start..self.end].to_vec();
        self.empty();
        Poll::Ready(Ok(Incoming { handle: Handle::Os(file), bytes, peer: self.peer.take() }))
    }

    fn abort(&mut self) {
        self.borrowed.take();
        self.core.abort(&self.descriptor);
    }

    fn peer(&self) -> io::Result<Address> {
        match (&self.peer, &*self.descriptor.file().borrow()) {
            (Some(peer), _) => Ok(peer.clone()),
            (None, Some(file)) => waterwheel_os::peer(file.as_fd()),
            (None, None) => Err(self.descriptor.failure()),
        }
    }

    fn local(&self) -> io::Result<Address> {
        match &*self.descriptor.file().borrow() {
            Some(file) => waterwheel_os::local(file.as_fd()),
            None => Err(self.descriptor.failure()),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        if self.borrowed.get().is_none() {
            let copy = waterwheel_os::duplicate(self.descriptor.file().borrow().as_ref()?.as_fd()).ok()?;
            self.descriptor.set(Facts::SHARED);
            let _ = self.borrowed.set(copy);
        }
        self.borrowed.get().map(AsFd::as_fd)
    }
}

impl Drop for EpollSource {
    fn drop(&mut self) {
        self.borrowed.take();
        self.empty();
        self.descriptor.reader.forget();
        if self.descriptor.is(Facts::NO_SINK) {
            self.core.close(&self.descriptor);
        } else {
            self.descriptor.set(Facts::NO_SOURCE);
        }
    }
}
