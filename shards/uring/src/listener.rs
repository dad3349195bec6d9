//! A listening socket at work.

use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::{Context, Poll};

use waterwheel_reactor::{Address, Bound, Handle, Incoming, ListenOptions, Listener};

use crate::core::Core;
use crate::waited::{Waited, Way};

/// Accepts one connection per poll. The ring tells when somebody has come, and then it asks until nobody waits, so
/// nothing is accepted that nobody asked for.
#[derive(Debug)]
pub(crate) struct UringListener {
    core: Rc<Core>,
    waited: Rc<Waited>,
    local: Address,
    options: ListenOptions,
}

impl UringListener {
    pub(crate) fn new(
        core: Rc<Core>,
        waited: Rc<Waited>,
        local: Address,
        options: ListenOptions,
    ) -> UringListener {
        UringListener { core, waited, local, options }
    }
}

impl Listener for UringListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        if !self.waited.is_ready(Way::In) {
            self.waited.wait(&self.core, Way::In, cx);
            return Poll::Pending;
        }
        match self.waited.with_file(waterwheel_os::accept).flatten() {
            Ok((connection, peer)) => {
                let handle = Handle::Os(connection);
                Poll::Ready(Ok(Incoming { handle, bytes: Vec::new(), peer: Some(peer) }))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.waited.used(Way::In);
                self.waited.wait(&self.core, Way::In, cx);
                Poll::Pending
            }
            // Still ready as far as we know: without a descriptor left, the connection is still in the queue, and nothing
            // will tell of it again.
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// # Panics
    /// If it gave the socket back already, or the reactor ended: there is none.
    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Bound> {
        let file = self.waited.take(&self.core);
        let handle = Handle::Os(file.expect("a listener that is closed already was polled"));
        Poll::Ready(Bound { local: self.local.clone(), handle, options: self.options })
    }
}

impl Drop for UringListener {
    fn drop(&mut self) {
        self.waited.forget_waiters();
        // Others may share the open file, so it is closed but never shut down.
        drop(self.waited.take(&self.core));
    }
}
