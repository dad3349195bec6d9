//! The sending half of a connection.

use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use waterwheel_reactor::Sink;

use crate::link::Link;

/// Sends at once, in the caller; waits through glommio. What it took is in the kernel's hands.
#[derive(Debug)]
pub(crate) struct GlommioSink {
    link: Rc<Link>,
}

impl GlommioSink {
    pub(crate) fn new(link: Rc<Link>) -> GlommioSink {
        GlommioSink { link }
    }

    /// `send` sends; `first` is what to send when glommio waited and finds that it may.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        send: impl Fn(&Link) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.link.is_shut() {
            return Poll::Ready(Err(Errno::PIPE.into()));
        }
        ready!(self.link.poll_connected(cx))?;
        ready!(self.link.poll_room(cx));
        let sent = match send(&self.link) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready!(self.link.poll_sendable(cx, first))
            }
            other => other,
        };
        Poll::Ready(sent.map_err(|error| self.link.fail_with(error)))
    }
}

impl Sink for GlommioSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, bytes, |link| waterwheel_os::send(link.socket()?, bytes))
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // glommio waits with the first slice that has something: with none it would not wait.
        let Some(first) = slices.iter().position(|slice| !slice.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let slices = &slices[first..];
        self.poll_send(cx, &slices[0], |link| waterwheel_os::send_vectored(link.socket()?, slices))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.link.poll_connected(cx))?;
        Poll::Ready(self.link.look_for_fault())
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.is_shut() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.link.poll_connected(cx))?;
        Poll::Ready(self.link.shut())
    }

    fn abort(&mut self) {
        self.link.abort();
    }
}

impl Drop for GlommioSink {
    fn drop(&mut self) {
        self.link.drop_sink();
    }
}
