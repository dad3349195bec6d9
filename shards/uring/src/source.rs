//! The receiving half of a connection.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use waterwheel_reactor::{Address, Handle, Incoming, Source};

use crate::chunk::{Chunk, Own};
use crate::core::Core;
use crate::socket::{Facts, Socket};

/// Lends what the kernel received, where the kernel put it.
#[derive(Debug)]
pub(crate) struct UringSource {
    pub(crate) core: Rc<Core>,
    pub(crate) socket: Rc<Socket>,
    /// What is lent, or may be: it stays where it is until it is consumed, since whoever borrowed it may keep it over many
    /// turns.
    front: Option<Chunk>,
    /// The end of the stream was met, or the connection released.
    over: bool,
    peer: Option<Address>,
    // Of the same open file, for `descriptor`: ours may be closed by the other half or by the reactor's end, which a
    // borrow of it would not outlive.
    borrowed: OnceCell<OwnedFd>,
}

impl UringSource {
    pub(crate) fn new(
        core: Rc<Core>,
        socket: Rc<Socket>,
        bytes: Vec<u8>,
        peer: Option<Address>,
    ) -> UringSource {
        core.pool.adopt(&bytes);
        let front = (!bytes.is_empty()).then(|| Chunk::Own(Own::all(bytes.into_boxed_slice())));
        UringSource { core, socket, front, over: false, peer, borrowed: OnceCell::new() }
    }

    /// The next chunk; `None` at the end of the stream.
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        if self.socket.is(Facts::ABORTED.and(Facts::RELEASING)) {
            // Who receives does not release, or no more.
            self.socket.clear(Facts::RELEASING);
            if self.socket.is(Facts::ABORTED) {
                self.empty();
                return Poll::Ready(Err(self.socket.failure()));
            }
        }
        if let Some(front) = self.front.take() {
            return Poll::Ready(Ok(Some(front)));
        }
        if self.over {
            return Poll::Ready(Ok(None));
        }
        let (socket, core) = (&self.socket, &*self.core);
        if let Some(chunk) = socket.inbox.take(core) {
            return Poll::Ready(Ok(Some(chunk)));
        }
        if let Some(own) = socket.inbox.receive_now(socket, core) {
            return Poll::Ready(Ok(Some(Chunk::Own(own))));
        }
        // A reset that the other half met first leaves what looks like an end to this one.
        if let Some(error) = socket.receive_error() {
            if socket.inbox.is_asked() && !socket.is(Facts::CLOSING) {
                // What came before it may be received already, and not be told yet.
                socket.inbox.stop(socket, core);
                socket.reader.wait(cx);
                return Poll::Pending;
            }
            return Poll::Ready(match socket.inbox.receive_rest(socket, core) {
                Some(own) => Ok(Some(Chunk::Own(own))),
                None => Err(error),
            });
        }
        if socket.inbox.is_over() {
            self.over = true;
            return Poll::Ready(Ok(None));
        }
        if !socket.is(Facts::CONNECTING) {
            socket.inbox.ask(socket, core);
        }
        socket.reader.wait(cx);
        Poll::Pending
    }

    /// Whether the next bytes are the connection's next, as far as is known: nothing is lent, nothing is over.
    pub(crate) fn is_bare(&self) -> bool {
        self.front.is_none()
            && !self.over
            && !self.socket.is(Facts::ABORTED.and(Facts::RELEASING))
            && self.socket.receive_error().is_none()
    }

    /// Puts back what is left of a chunk that was taken, or could not be used.
    pub(crate) fn put_back(&mut self, mut chunk: Chunk) {
        if self.core.is_short_of_buffers() {
            // Nobody finds it here, for as long as the sink takes nothing.
            chunk.copy_out(&self.core);
        }
        self.front = Some(chunk);
    }

    fn empty(&mut self) {
        if let Some(front) = self.front.take() {
            front.release(&self.core);
        }
    }

    /// Everything that was received and not consumed.
    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.front.take().or_else(|| self.socket.inbox.take(&self.core)) {
            bytes.extend_from_slice(chunk.bytes(&self.core));
            chunk.release(&self.core);
        }
        bytes
    }
}

impl Source for UringSource {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let mut chunk = ready!(self.poll_take(cx))?;
        if let Some(chunk) = &mut chunk
            && self.core.is_short_of_buffers()
        {
            // Once lent it stays where it is, for as long as its borrower likes.
            chunk.copy_out(&self.core);
        }
        self.front = chunk;
        Poll::Ready(Ok(self.front.as_ref().map_or(&[], |front| front.bytes(&self.core))))
    }

    fn consume(&mut self, count: usize) {
        let lent = self.front.as_ref().map_or(0, Chunk::len);
        assert!(count <= lent, "{count} bytes consumed, but only {lent} lent");
        if count == lent {
            return self.empty();
        }
        if let Some(front) = &mut self.front {
            front.advance(count);
        }
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let (socket, core) = (self.socket.clone(), self.core.clone());
        if socket.is(Facts::CLOSING) {
            return Poll::Ready(Err(socket.failure()));
        }
        if socket.is(Facts::CONNECTING) {
            socket.reader.wait(cx);
            return Poll::Pending;
        }
        if !socket.is_quiet() || !socket.outbox.is_empty() {
            // What the kernel has received until it stops is among the bytes to be given back.
            socket.inbox.stop(&socket, &core);
            socket.set(Facts::RELEASING);
            socket.reader.wait(cx);
            return Poll::Pending;
        }
        socket.take_error();
        if let Some(error) = socket.receive_error() {
            return Poll::Ready(Err(error));
        }
        let bytes = self.rest();
        let Some(file) = socket.hand_out(&core) else {
            return Poll::Ready(Err(socket.failure()));
        };
        self.borrowed.take();
        self.over = true;
        Poll::Ready(Ok(Incoming { handle: Handle::Os(file), bytes, peer: self.peer.take() }))
    }

    fn abort(&mut self) {
        self.borrowed.take();
        self.socket.abort(&self.core);
    }

    fn peer(&self) -> io::Result<Address> {
        match &self.peer {
            Some(peer) => Ok(peer.clone()),
            None => self.socket.with_file(waterwheel_os::peer).flatten(),
        }
    }

    fn local(&self) -> io::Result<Address> {
        self.socket.with_file(waterwheel_os::local).flatten()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        if self.borrowed.get().is_none() {
            let copy = self.socket.with_file(waterwheel_os::duplicate).flatten().ok()?;
            let _ = self.borrowed.set(copy);
        }
        self.borrowed.get().map(AsFd::as_fd)
    }
}

impl Drop for UringSource {
    fn drop(&mut self) {
        self.borrowed.take();
        self.empty();
        self.socket.reader.forget();
        self.socket.set(Facts::NO_SOURCE);
        self.socket.inbox.end(&self.socket, &self.core);
        self.socket.let_go(&self.core);
    }
}
