//! The sending half of a connection.

use std::any::Any;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use waterwheel_os::{Gulp, Pipe};
use waterwheel_reactor::{Side, Sink, Source, forward_by_writing};

use crate::core::Core;
use crate::descriptor::{Descriptor, Facts};
use crate::source::EpollSource;

/// Sends in the caller: what it took is in the kernel's hands when the call returns, and nothing is queued here.
#[derive(Debug)]
pub(crate) struct EpollSink {
    core: Rc<Core>,
    descriptor: Rc<Descriptor>,
    gulp: Gulp,
}

impl EpollSink {
    pub(crate) fn new(core: Rc<Core>, descriptor: Rc<Descriptor>) -> EpollSink {
        EpollSink { core, descriptor, gulp: Gulp::default() }
    }

    /// Sends some of `size` bytes if the kernel may take them.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        size: usize,
        send: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if size == 0 {
            return Poll::Ready(Ok(0));
        }
        let descriptor = &*self.descriptor;
        if !descriptor.is(Facts::WRITABLE) {
            descriptor.writer.wait(cx);
            return Poll::Pending;
        }
        let file = descriptor.file().borrow();
        let Some(file) = &*file else {
            return Poll::Ready(Err(descriptor.failure()));
        };
        if descriptor.is(Facts::SHUT) {
            return Poll::Ready(Err(Errno::PIPE.into()));
        }
        match send(file.as_fd()) {
            Ok(count) => {
                if count < size && !descriptor.is(Facts::LOCAL) {
                    // The buffers are full: the kernel will tell when there is room.
                    descriptor.clear(Facts::WRITABLE);
                }
                Poll::Ready(Ok(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                descriptor.clear(Facts::WRITABLE);
                descriptor.writer.wait(cx);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(descriptor.fail(error))),
        }
    }
}

impl EpollSink {
    #[cold]
    fn forward_stream(&self, from: &mut dyn Source, most: usize) -> Option<Result<usize, Side<io::Error>>> {
        let any: &mut dyn Any = from;
        let source = any.downcast_mut::<EpollSource>().filter(|source| source.is_of(&self.core))?;
        self.splice(source, most)
    }

    /// Moves what a stream has for us through the pipe. `None`: nothing, or it has to be received. What the kernel does not
    /// take here goes back to the source.
    fn splice(&self, source: &mut EpollSource, most: usize) -> Option<Result<usize, Side<io::Error>>> {
        let (descriptor, most) = (&*self.descriptor, most.min(self.gulp.bytes()));
        if !self.core.pool.buffered.has_room_for(Gulp::MAX) {
            // What the kernel did not take would have to be kept.
            return None;
        }
        let waits = !descriptor.is(Facts::WRITABLE) || descriptor.is(Facts::CONNECTING.and(Facts::SHUT));
        if most < Gulp::MIN || waits || descriptor.error().is_some() || !descriptor.may_splice() {
            return None;
        }
        self.core.pipe.with(|pipe| {
            let count = source.splice(pipe, most)?;
            self.give(source, pipe, count)
        })
    }

    /// Sends the `count` bytes that are in the pipe.
    fn give(
        &self,
        source: &mut EpollSource,
        pipe: &mut Pipe,
        count: usize,
    ) -> Option<Result<usize, Side<io::Error>>> {
        let descriptor = &*self.descriptor;
        let given = match &*descriptor.file().borrow() {
            Some(file) => pipe.give(file.as_fd()),
            None => Err(descriptor.failure()),
        };
        match given {
            Ok(given) if given == count => {
                if count < Gulp::MIN {
                    self.gulp.took(count);
                } else {
                    self.gulp.took_all(count);
                }
                return Some(Ok(count));
            }
            Ok(given) => {
                self.gulp.took(given);
                if !descriptor.is(Facts::LOCAL) {
                    descriptor.clear(Facts::WRITABLE);
                }
            }
            Err(error) if waterwheel_os::is_refusal(&error) => descriptor.set(Facts::NO_SPLICE),
            Err(error) => return Some(Err(Side::Sink(descriptor.fail(error)))),
        }
        let moved = count - pipe.held();
        match source.take_back(pipe) {
            Err(error) => Some(Err(Side::Source(error))),
            Ok(()) => Some(moved).filter(|moved| *moved > 0).map(Ok),
        }
    }
}

impl Sink for EpollSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes.len(), |file| waterwheel_os::send(file, bytes))
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Without empty ones in front, so that what one call takes is not nothing; and no more than that, so that a
        // short count means full buffers.
        let first = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(slices.len());
        let slices = &slices[first..];
        let slices = &slices[..slices.len().min(waterwheel_os::SLICES_MAX)];
        let size = slices.iter().map(|slice| slice.len()).sum();
        self.poll_send(cx, size, |file| waterwheel_os::send_vectored(file, slices))
    }

    fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn Source,
        most: usize,
    ) -> Poll<Result<usize, Side<io::Error>>> {
        if self.gulp.bytes() > 0
            && let Some(outcome) = self.forward_stream(from, most)
        {
            return Poll::Ready(outcome);
        }
        let moved = forward_by_writing(self, cx, from, most);
        if let Poll::Ready(Ok(count)) = moved {
            self.gulp.took_all(count);
        }
        moved
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let descriptor = &*self.descriptor;
        if descriptor.is(Facts::CONNECTING) {
            descriptor.writer.wait(cx);
            return Poll::Pending;
        }
        if descriptor.is(Facts::BROKEN) {
            descriptor.take_error();
        }
        Poll::Ready(descriptor.error().map_or(Ok(()), Err))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let descriptor = &*self.descriptor;
        if descriptor.is(Facts::CONNECTING) {
            descriptor.writer.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(if descriptor.is(Facts::SHUT) { Ok(()) } else { descriptor.shut() })
    }

    fn abort(&mut self) {
        self.core.abort(&self.descriptor);
    }
}

impl Drop for EpollSink {
    fn drop(&mut self) {
        let descriptor = &*self.descriptor;
        descriptor.writer.forget();
        descriptor.set(Facts::NO_SINK);
        if descriptor.is(Facts::CONNECTING) {
            // Now it would cancel the connect.
            descriptor.set(Facts::SHUT_LATER);
        } else if !descriptor.is(Facts::SHUT) {
            // Also where it is closed at once: somebody may keep another descriptor of the open file. If it fails the
            // connection broke, which the source learns by itself.
            let _ = descriptor.shut();
        }
        if descriptor.is(Facts::NO_SOURCE) {
            self.core.close(descriptor);
        }
    }
}
