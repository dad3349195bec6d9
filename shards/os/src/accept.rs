//! Accepting connections.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use socket2::SockRef;
use waterwheel_reactor::Address;

use crate::address::from_kernel;

/// The next connection of a listener, close-on-exec and non-blocking, and where it comes from. One system call: what
/// [`StreamOptions`](waterwheel_reactor::StreamOptions) ask for was set on the listener and is inherited.
///
/// # Errors
/// As accept(2): `WouldBlock` if nobody waits. `EMFILE`, `ENFILE`, `ENOBUFS` and `ENOMEM` leave the connection in the
/// queue; after `ECONNABORTED`, `EPERM` and a network error of the connection itself the next one may be there.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Address)> {
    loop {
        match SockRef::from(&listener).accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
            Ok((socket, peer)) => return Ok((OwnedFd::from(socket), from_kernel(&peer))),
            // A signal's handler ran; there are only so many signals.
            Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
}
