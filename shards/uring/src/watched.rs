//! Readiness of any descriptor that the kernel can poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use waterwheel_reactor::Watched;

use crate::core::Core;
use crate::waited::{Waited, Way};

/// A descriptor of the user's, and its readiness.
#[derive(Debug)]
pub(crate) struct UringWatched {
    polled: Polled,
    // Of the same open file: the one that is polled is closed when the reactor ends, which a borrow would not outlive.
    own: OwnedFd,
}

/// What the ring polls, until this is dropped.
#[derive(Debug)]
struct Polled {
    core: Rc<Core>,
    waited: Rc<Waited>,
}

impl UringWatched {
    pub(crate) fn new(core: Rc<Core>, file: OwnedFd) -> io::Result<UringWatched> {
        let own = waterwheel_os::duplicate(file.as_fd())?;
        let waited = Waited::new(&core, file);
        // Nothing was attempted yet, so nothing is known.
        waited.used(Way::In);
        waited.used(Way::Out);
        Ok(UringWatched { polled: Polled { core, waited }, own })
    }

    fn poll(&self, way: Way, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let Polled { core, waited } = &self.polled;
        if waited.is_ready(way) {
            if let Err(closed) = waited.with_file(|_| ()) {
                return Poll::Ready(Err(closed));
            }
            waited.used(way);
            return Poll::Ready(Ok(()));
        }
        waited.wait(core, way, cx);
        Poll::Pending
    }
}

impl Watched for UringWatched {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(Way::In, cx)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(Way::Out, cx)
    }

    fn into_descriptor(self: Box<Self>) -> io::Result<OwnedFd> {
        Ok(self.own)
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.waited.forget_waiters();
        drop(self.waited.take(&self.core));
    }
}
