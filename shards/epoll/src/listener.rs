//! A listening socket at work.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use waterwheel_reactor::{Address, Bound, Handle, Incoming, ListenOptions, Listener};

use crate::core::Core;
use crate::descriptor::{Descriptor, Facts};

/// Accepts one connection per poll. It is told of by an edge, and asked until nobody waits, so nothing is accepted
/// that nobody asked for.
#[derive(Debug)]
pub(crate) struct EpollListener {
    core: Rc<Core>,
    descriptor: Rc<Descriptor>,
    local: Address,
    options: ListenOptions,
}

impl EpollListener {
    pub(crate) fn new(
        core: Rc<Core>,
        descriptor: Rc<Descriptor>,
        local: Address,
        options: ListenOptions,
    ) -> EpollListener {
        EpollListener { core, descriptor, local, options }
    }
}

impl Listener for EpollListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let descriptor = &*self.descriptor;
        if !descriptor.is(Facts::READABLE) {
            descriptor.reader.wait(cx);
            return Poll::Pending;
        }
        let file = descriptor.file().borrow();
        let Some(file) = &*file else {
            return Poll::Ready(Err(descriptor.failure()));
        };
        match waterwheel_os::accept(file.as_fd()) {
            Ok((connection, peer)) => {
                let handle = Handle::Os(connection);
                Poll::Ready(Ok(Incoming { handle, bytes: Vec::new(), peer: Some(peer) }))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                descriptor.clear(Facts::READABLE);
                descriptor.reader.wait(cx);
                Poll::Pending
            }
            // Still readable as far as we know: without a descriptor left, the connection is still in the queue, and
            // no edge will tell of it again.
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// # Panics
    /// If it gave the socket back already, or the reactor ended: there is none.
    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Bound> {
        let file = self.core.take(&self.descriptor, Errno::NOTCONN);
        let handle = Handle::Os(file.expect("a listener that is closed already was polled"));
        Poll::Ready(Bound { local: self.local.clone(), handle, options: self.options })
    }
}

impl Drop for EpollListener {
    fn drop(&mut self) {
        self.descriptor.reader.forget();
        // Others may share the open file, so it is taken out of the set, and closed but never shut down.
        drop(self.core.take(&self.descriptor, Errno::NOTCONN));
    }
}
