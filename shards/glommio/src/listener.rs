//! A listening socket at work.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use waterwheel_os::{accept, duplicate};
use waterwheel_reactor::{Address, Bound, Handle, Incoming, ListenOptions, Listener};

use crate::core::Core;
use crate::wait::Wait;

/// Accepts by itself, and waits through glommio on a duplicate. glommio's own listener loses a connection when a
/// pending accept is dropped, leaks descriptors to child processes, and makes four system calls per attempt.
#[derive(Debug)]
pub(crate) struct GlommioListener {
    core: Rc<Core>,
    local: Address,
    options: ListenOptions,
    /// `None` once it was given back.
    serving: Option<Serving>,
}

#[derive(Debug)]
struct Serving {
    socket: OwnedFd,
    /// `None` while there is no descriptor for it.
    wait: Option<Wait>,
    /// An attempt may succeed: the last one did, or the wait ended.
    ready: bool,
}

impl GlommioListener {
    pub(crate) fn new(core: Rc<Core>, bound: Bound) -> io::Result<GlommioListener> {
        let socket = waterwheel_os::open(bound.handle)?;
        // At the limit of descriptors the socket is not to be lost for want of another: the first wait tries again.
        let wait = duplicate(socket.as_fd()).ok().map(Wait::new);
        let serving = Some(Serving { socket, wait, ready: true });
        Ok(GlommioListener { core, local: bound.local, options: bound.options, serving })
    }
}

impl Listener for GlommioListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let Some(serving) = &mut self.serving else { return Poll::Ready(Err(Errno::NOTCONN.into())) };
        loop {
            if !serving.ready {
                let wait = match &mut serving.wait {
                    Some(wait) => wait,
                    none => none.insert(Wait::new(duplicate(serving.socket.as_fd())?)),
                };
                ready!(wait.poll(&self.core, cx))?;
                serving.ready = true;
            }
            match accept(serving.socket.as_fd()) {
                Ok((socket, peer)) => {
                    let handle = Handle::Os(socket);
                    return Poll::Ready(Ok(Incoming { handle, bytes: Vec::new(), peer: Some(peer) }));
                }
                // Another shard took it, or there was none. A wait that begins now is pending: this ends.
                Err(error) if error.kind() == ErrorKind::WouldBlock => serving.ready = false,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// # Panics
    /// If it gave the socket back already.
    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Bound> {
        let Serving { socket, .. } =
            self.serving.take().expect("a listener that is closed already was polled");
        let handle = Handle::Os(socket);
        Poll::Ready(Bound { local: self.local.clone(), handle, options: self.options })
    }
}
