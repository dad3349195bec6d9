//! Descriptors: whose they are, how many there may be, and one in reserve.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use waterwheel_reactor::Handle;

/// The descriptor of a handle from another part of the program.
///
/// # Errors
/// `InvalidInput` if it belongs to a world without a kernel (a simulation): the program mixed two backends.
pub fn open(handle: Handle) -> io::Result<OwnedFd> {
    match handle {
        Handle::Os(descriptor) => Ok(descriptor),
        Handle::Virtual(number) => Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("handle {number} is of a backend without a kernel; this one needs a descriptor"),
        )),
    }
}

/// Another descriptor of the same open file, close-on-exec.
///
/// # Errors
/// As fcntl(2): no descriptor left.
pub fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(descriptor, 0)?)
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

/// A descriptor kept in hand for the moment when there are no others.
///
/// At the limit accept(2) fails and leaves the client in the queue, connected as far as it knows, waiting. So
/// [`spend`](Reserve::spend) the reserve, accept, close what was accepted, and [`refill`](Reserve::refill): the client
/// is told. Another thread may take the number in between; then accept fails again, and one tries again later.
#[derive(Debug)]
pub struct Reserve {
    held: Option<OwnedFd>,
}

impl Reserve {
    /// Takes a descriptor into reserve.
    ///
    /// # Errors
    /// None left.
    pub fn new() -> io::Result<Reserve> {
        Ok(Reserve { held: Some(spare()?) })
    }

    /// Gives the descriptor back to the process, for the next one who asks. Answers whether there was one.
    pub fn spend(&mut self) -> bool {
        self.held.take().is_some()
    }

    /// Takes a descriptor into reserve if there is none. Answers whether there is one now.
    pub fn refill(&mut self) -> bool {
        if self.held.is_none() {
            self.held = spare().ok();
        }
        self.held.is_some()
    }
}

/// The cheapest descriptor there is that needs nothing of the file system.
fn spare() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
}
