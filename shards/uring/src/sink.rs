//! The sending half of a connection.

use std::any::Any;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use waterwheel_os::Gulp;
use waterwheel_reactor::{Side, Sink, Source, forward_by_writing};

use crate::core::Core;
use crate::outbox::LOW;
use crate::socket::{Facts, Socket};
use crate::source::UringSource;

/// Takes bytes until it holds 64 KiB, or 16 where the shard holds as much as it may, and sends them with the turn's others.
#[derive(Debug)]
pub(crate) struct UringSink {
    core: Rc<Core>,
    socket: Rc<Socket>,
}

impl UringSink {
    pub(crate) fn new(core: Rc<Core>, socket: Rc<Socket>) -> UringSink {
        UringSink { core, socket }
    }

    /// Ready when something can be taken.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &*self.socket;
        // Nobody flushes for it now.
        socket.clear(Facts::SOUND);
        if socket.is(Facts::CONNECTING) {
            socket.writer.wait(cx);
            return Poll::Pending;
        }
        if let Some(error) = socket.error() {
            return Poll::Ready(Err(error));
        }
        if socket.is(Facts::SHUT.and(Facts::SHUT_LATER)) {
            return Poll::Ready(Err(Errno::PIPE.into()));
        }
        if socket.outbox.room(&self.core) == 0 {
            socket.writer.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl UringSink {
    /// Moves what a stream has for us through the pipe. `None`: nothing, or it has to be received.
    fn splice(&self, source: &UringSource, most: usize) -> Option<usize> {
        let (from, to) = (&source.socket, &self.socket);
        let most = most.min(to.outbox.gulp(&self.core));
        if most < Gulp::MIN || !source.is_bare() || !self.may_send() || !from.may_splice() || !to.may_splice()
        {
            return None;
        }
        self.core.pipe.with(|pipe| {
            let count = from.inbox.splice_now(from, pipe, most)?;
            to.outbox.take_from(to, &self.core, pipe);
            Some(count)
        })
    }

    /// Whether bytes may be sent, as far as is known.
    fn may_send(&self) -> bool {
        let socket = &self.socket;
        !socket.is(Facts::CONNECTING.and(Facts::CLOSING).and(Facts::SHUT).and(Facts::SHUT_LATER))
            && socket.error().is_none()
    }
}

impl Sink for UringSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_room(cx))?;
        Poll::Ready(Ok(self.socket.outbox.write(&self.socket, &self.core, bytes)))
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_room(cx))?;
        let mut taken = 0;
        for slice in slices {
            let count = self.socket.outbox.write(&self.socket, &self.core, slice);
            taken += count;
            if count < slice.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn Source,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        let any: &mut dyn Any = from;
        if let Some(source) = any.downcast_mut::<UringSource>()
            && Rc::ptr_eq(&source.core, &self.core)
        {
            if self.socket.outbox.gulp(&self.core) > 0
                && let Some(count) = self.splice(source, most)
            {
                return Poll::Ready(Ok(count));
            }
            let Some(chunk) = ready!(source.poll_take(cx)).map_err(Side::Source)? else {
                return Poll::Ready(Ok(0));
            };
            let count = chunk.len();
            let room = self.poll_room(cx);
            if matches!(room, Poll::Ready(Ok(()))) && count <= most {
                self.socket.outbox.put(&self.socket, &self.core, chunk);
                return Poll::Ready(Ok(count));
            }
            source.put_back(chunk);
            ready!(room).map_err(Side::Sink)?;
        }
        forward_by_writing(self, cx, from, most)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &*self.socket;
        if socket.is(Facts::CONNECTING) || socket.outbox.bytes() > LOW && socket.error().is_none() {
            socket.writer.wait(cx);
            return Poll::Pending;
        }
        if socket.is(Facts::SOUND) {
            socket.clear(Facts::SOUND);
        } else if socket.error().is_none() && !socket.inbox.is_asked() {
            socket.take_error();
        }
        Poll::Ready(socket.error().map_or(Ok(()), Err))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &*self.socket;
        if socket.is(Facts::CONNECTING) {
            socket.writer.wait(cx);
            return Poll::Pending;
        }
        if socket.is(Facts::SHUT) {
            return Poll::Ready(Ok(()));
        }
        if socket.error().is_none() {
            // The end often comes with the last bytes, which then need not wait for the turn's end.
            socket.outbox.send_now(&self.socket, &self.core);
            if !socket.outbox.is_empty() {
                socket.writer.wait(cx);
                return Poll::Pending;
            }
        }
        // What was taken did not all go out.
        Poll::Ready(socket.error().map_or_else(|| socket.shut(), Err))
    }

    fn unacknowledged(&self) -> Option<usize> {
        let kernels = self.socket.with_file(waterwheel_os::unacknowledged).flatten().ok()?;
        Some(kernels + self.socket.outbox.bytes())
    }

    fn abort(&mut self) {
        self.socket.abort(&self.core);
    }
}

impl Drop for UringSink {
    fn drop(&mut self) {
        let socket = &self.socket;
        socket.writer.forget();
        socket.set(Facts::NO_SINK);
        if socket.is(Facts::CONNECTING) || !socket.outbox.is_empty() {
            socket.set(Facts::SHUT_LATER);
        } else if !socket.is(Facts::SHUT) && socket.error().is_none() {
            // Also where it is closed at once: somebody may keep another descriptor of the open file.
            // If it fails the connection broke, which the source learns by itself.
            let _ = socket.shut();
        }
        socket.let_go(&self.core);
    }
}
