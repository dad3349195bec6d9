//! Readiness of any descriptor that the kernel can poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use waterwheel_reactor::Watched;

use crate::core::Core;
use crate::descriptor::{Descriptor, Facts};

/// A descriptor of the user's, and its readiness.
#[derive(Debug)]
pub(crate) struct EpollWatched {
    registered: Registered,
    // Of the same open file: the one in the set is closed when the reactor ends, which a borrow would not outlive.
    own: OwnedFd,
}

/// Its place in the set, until this is dropped.
#[derive(Debug)]
struct Registered {
    core: Rc<Core>,
    descriptor: Rc<Descriptor>,
}

impl EpollWatched {
    pub(crate) fn new(core: Rc<Core>, descriptor: Rc<Descriptor>) -> io::Result<EpollWatched> {
        let own = match &*descriptor.file().borrow() {
            Some(file) => waterwheel_os::duplicate(file.as_fd()),
            None => Err(descriptor.failure()),
        };
        descriptor.set(Facts::SHARED);
        match own {
            Ok(own) => Ok(EpollWatched { registered: Registered { core, descriptor }, own }),
            Err(error) => {
                core.close(&descriptor);
                Err(error)
            }
        }
    }

    /// Ready, once, if `fact` holds.
    fn take(&self, fact: Facts) -> Option<io::Result<()>> {
        let descriptor = &self.registered.descriptor;
        if !descriptor.is(fact) {
            return None;
        }
        if descriptor.file().borrow().is_none() {
            return Some(Err(descriptor.failure()));
        }
        descriptor.clear(fact);
        Some(Ok(()))
    }
}

impl Watched for EpollWatched {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.take(Facts::READABLE).map_or_else(
            || {
                self.registered.descriptor.reader.wait(cx);
                Poll::Pending
            },
            Poll::Ready,
        )
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.take(Facts::WRITABLE).map_or_else(
            || {
                self.registered.descriptor.writer.wait(cx);
                Poll::Pending
            },
            Poll::Ready,
        )
    }

    fn into_descriptor(self: Box<Self>) -> io::Result<OwnedFd> {
        Ok(self.own)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.core.close(&self.descriptor);
    }
}
