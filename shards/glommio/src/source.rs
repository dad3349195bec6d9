//! The receiving half of a connection.

use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use waterwheel_reactor::{Address, Handle, Incoming, Source};

use crate::link::Link;

/// Receives through glommio into a chunk of the reactor's, and lends from it.
#[derive(Debug)]
pub(crate) struct GlommioSource {
    link: Rc<Link>,
    /// Holds `lent`; empty while nothing is lent.
    chunk: Box<[u8]>,
    /// What of the chunk is not consumed.
    from: usize,
    to: usize,
    peer: Option<Address>,
    /// The end of the stream was met, or the connection was released.
    ended: bool,
    /// The connection broke, and everything before that was lent.
    broken: bool,
}

impl GlommioSource {
    /// A source that lends `bytes` first.
    pub(crate) fn new(link: Rc<Link>, bytes: Vec<u8>, peer: Option<Address>) -> GlommioSource {
        let chunk = bytes.into_boxed_slice();
        link.core().buffered.take(chunk.len());
        GlommioSource { link, from: 0, to: chunk.len(), chunk, peer, ended: false, broken: false }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.connecting() {
            if let Some(error) = self.link.fault() {
                return Poll::Ready(Err(error));
            }
            self.link.await_early(cx);
        }
        let mut chunk = self.link.core().take_chunk();
        let received = match self.link.poll_receive(cx, &mut chunk) {
            Poll::Ready(Ok(count)) if count > 0 => {
                (self.chunk, self.from, self.to) = (chunk, 0, count);
                return Poll::Ready(self.link.connected());
            }
            other => other,
        };
        self.link.core().give_back(chunk);
        match ready!(received) {
            // The kernel tells an error once, so the sink may have heard of it instead of us.
            Ok(_) => match self.link.receive_fault() {
                Some(error) => Poll::Ready(Err(error)),
                None => {
                    self.ended = true;
                    Poll::Ready(self.link.connected())
                }
            },
            Err(error) => Poll::Ready(Err(self.link.fail_with(error))),
        }
    }

    fn let_go(&mut self) {
        if !self.chunk.is_empty() {
            self.link.core().give_back(std::mem::take(&mut self.chunk));
        }
        (self.from, self.to) = (0, 0);
    }
}

impl Source for GlommioSource {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.link.aborted()
            && let Some(error) = self.link.fault()
        {
            self.let_go();
            return Poll::Ready(Err(error));
        }
        if self.from == self.to && !self.ended {
            if self.broken
                && let Some(error) = self.link.fault()
            {
                return Poll::Ready(Err(error));
            }
            if let Err(error) = ready!(self.poll_receive(cx)) {
                self.broken = true;
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(&self.chunk[self.from..self.to]))
    }

    fn consume(&mut self, count: usize) {
        let lent = self.to - self.from;
        assert!(count <= lent, "{count} bytes consumed of {lent} that were lent");
        self.from += count;
        if self.from == self.to {
            self.let_go();
        }
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        ready!(self.link.poll_established(cx))?;
        let socket = self.link.release()?;
        let bytes = self.chunk[self.from..self.to].to_vec();
        self.let_go();
        self.ended = true;
        Poll::Ready(Ok(Incoming { handle: Handle::Os(socket), bytes, peer: self.peer.take() }))
    }

    fn abort(&mut self) {
        self.link.abort();
    }

    fn peer(&self) -> io::Result<Address> {
        match &self.peer {
            Some(peer) => Ok(peer.clone()),
            None if self.link.connecting() => Err(Errno::NOTCONN.into()),
            None => waterwheel_os::peer(self.link.socket()?),
        }
    }

    fn local(&self) -> io::Result<Address> {
        waterwheel_os::local(self.link.socket()?)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.descriptor()
    }
}

impl Drop for GlommioSource {
    fn drop(&mut self) {
        self.let_go();
    }
}
