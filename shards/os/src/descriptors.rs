//! Descriptors: whose they are, and how many there may be.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use waterwheel_reactor::Handle;

use crate::abort;

/// The descriptor of a handle from another part of the program.
///
/// # Errors
/// `InvalidInput` if it belongs to a world without a kernel (a simulation): the program mixed two backends.
pub fn open(handle: Handle) -> io::Result<OwnedFd> {
    match handle {
        Handle::Os(descriptor) => Ok(descriptor),
        Handle::Virtual(_) => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "a socket of a backend without a kernel; this one needs a descriptor",
        )),
    }
}

/// Resets the connection that a handle is, if it is one, and closes it.
pub fn reset(handle: Handle) {
    match handle {
        Handle::Os(descriptor) => abort(descriptor.as_fd()),
        Handle::Virtual(socket) => socket.reset(),
    }
}

/// Another descriptor of the same open file, close-on-exec.
///
/// # Errors
/// As fcntl(2): no descriptor left.
pub fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(descriptor, 0)?)
}

/// Whether the kernel can tell when a descriptor becomes ready; a regular file or a directory always is.
///
/// # Errors
/// No descriptor left, or it is not open.
pub fn can_be_polled(descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    match epoll::add(&epoll, descriptor, EventData::new_u64(0), EventFlags::IN) {
        Ok(()) => Ok(true),
        Err(Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Raises this process's soft limit of open descriptors (`RLIMIT_NOFILE`) to the hard one, and answers how many there
/// may be now; `None`: no limit. The soft limit is 1 024 nearly everywhere, for the sake of select(2), which we do
/// not use.
///
/// # Errors
/// The kernel refused; the old limit holds.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    let now = getrlimit(Resource::Nofile);
    if now.current != now.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum })?;
    }
    Ok(now.maximum)
}
