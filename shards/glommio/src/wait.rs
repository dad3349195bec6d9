//! Waiting until any descriptor is readable.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::AsyncRead;
use glommio::net::TcpStream;

use crate::core::Core;

/// Waits on a descriptor that cannot be received from: a listener, an epoll instance.
///
/// glommio 0.9 has no such wait. But a stream of its own, whatever descriptor it is made of, begins with a poll of the
/// kernel's, and when that is done, receives; the error says that the descriptor is readable. That works once per
/// stream, so each wait makes a new one.
pub(crate) struct Wait {
    /// Owns the descriptor.
    stream: ManuallyDrop<TcpStream>,
    /// The stream's poll is with the kernel, or done and not yet looked at.
    armed: bool,
}

impl Wait {
    /// Begins to wait on a descriptor of its own.
    pub(crate) fn new(descriptor: OwnedFd) -> Wait {
        // SAFETY: the descriptor is open, and the stream becomes its only owner.
        let stream = unsafe { TcpStream::from_raw_fd(descriptor.into_raw_fd()) };
        Wait { stream: ManuallyDrop::new(stream), armed: true }
    }

    /// Ready when the descriptor is, once per wait: the next call begins another.
    pub(crate) fn poll(&mut self, core: &Core, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        core.check()?;
        if !self.armed {
            let descriptor = self.stream.as_raw_fd();
            // The old stream is forgotten, not dropped, since it would close the descriptor. Its poll is done, so it
            // holds nothing else but one count of a weak reference: 2.6 KiB of glommio's for its reactor are not
            // freed when the executor ends.
            // SAFETY: the descriptor is open, and what owned it is forgotten.
            self.stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(descriptor) });
            self.armed = true;
        }
        // Nothing is received, whatever the descriptor is: there is no room.
        match Pin::new(&mut *self.stream).poll_read(cx, &mut []) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => {
                self.armed = false;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // SAFETY: `self` is dropped, so the stream is not used again.
        unsafe { ManuallyDrop::drop(&mut self.stream) };
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait")
            .field("descriptor", &self.stream.as_raw_fd())
            .field("armed", &self.armed)
            .finish()
    }
}
