//! The seam's datagram socket over any reactor's readiness.

use std::io::{self, ErrorKind, IoSliceMut};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use waterwheel_reactor::{
    Address, BoundDatagrams, Datagram, DatagramOptions, DatagramSocket, Handle, Outgoing, Watched,
};

use super::messages::{Messages, Traits, is_about_segments};
use super::{discarded, set};
use crate::address::invalid;
use crate::local;

/// Attempts in one poll, each behind a readiness that turned out to be none: a checksum that was wrong, another process that
/// was first. Then the others of the shard have their turn.
const ATTEMPTS_MAX: usize = 3;

/// Tries first, and waits only if there was nothing.
#[derive(Debug)]
pub(super) struct WatchedDatagrams {
    watched: Box<dyn Watched>,
    traits: Traits,
    options: DatagramOptions,
    messages: Messages,
    /// An attempt may not have to wait.
    readable: bool,
    writable: bool,
}

impl WatchedDatagrams {
    pub(super) fn new(
        watched: Box<dyn Watched>,
        traits: Traits,
        options: DatagramOptions,
    ) -> WatchedDatagrams {
        let messages = Messages::default();
        WatchedDatagrams { watched, traits, options, messages, readable: true, writable: true }
    }

    /// What a failed send means to who sent.
    fn explain(&mut self, error: io::Error, first: &Outgoing<'_>) -> io::Error {
        if first.segment.is_some() && is_about_segments(&error) {
            if error.raw_os_error() == Some(Errno::IO.raw_os_error()) {
                self.traits.segments_max = 1;
            }
            return io::Error::new(ErrorKind::Unsupported, error);
        }
        // Nobody tells when a peer's queue has room again, unless it is the only peer.
        if error.kind() == ErrorKind::WouldBlock && !self.traits.internet && !self.traits.connected {
            return Errno::BUSY.into();
        }
        error
    }
}

/// Polled too often for nothing: later.
fn later<T>(cx: &Context<'_>) -> Poll<io::Result<T>> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl DatagramSocket for WatchedDatagrams {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        found: &mut [Datagram],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..ATTEMPTS_MAX {
            if !self.readable {
                ready!(self.watched.poll_readable(cx))?;
                self.readable = true;
            }
            match self.messages.receive(self.watched.descriptor(), buffers, found) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return Poll::Ready(outcome),
            }
        }
        later(cx)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, outgoing: &[Outgoing<'_>]) -> Poll<io::Result<usize>> {
        let Some(first) = outgoing.first() else {
            return Poll::Ready(Err(invalid("no datagram to send")));
        };
        if outgoing.iter().any(|one| one.segment == Some(0)) {
            return Poll::Ready(Err(invalid("segments of no bytes")));
        }
        for _ in 0..ATTEMPTS_MAX {
            if !self.writable {
                ready!(self.watched.poll_writable(cx))?;
                self.writable = true;
            }
            match self.messages.send(self.watched.descriptor(), outgoing) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(error) => match self.explain(error, first) {
                    error if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                    error if error.kind() == ErrorKind::Interrupted => {}
                    error => return Poll::Ready(Err(error)),
                },
            }
        }
        later(cx)
    }

    fn segments_max(&self) -> usize {
        self.traits.segments_max
    }

    fn merge(&mut self, on: bool) -> bool {
        let set = set(self.watched.descriptor(), libc::SOL_UDP, libc::UDP_GRO, on.into());
        self.traits.internet && on && set.is_ok()
    }

    fn discarded(&self) -> Option<u32> {
        discarded(self.watched.descriptor())
    }

    fn local(&self) -> io::Result<Address> {
        local(self.watched.descriptor())
    }

    fn release(self: Box<Self>) -> io::Result<BoundDatagrams> {
        let local = self.local()?;
        let handle = Handle::Os(self.watched.into_descriptor()?);
        Ok(BoundDatagrams { local, handle, options: self.options })
    }
}
