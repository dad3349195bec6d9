//! What broke a connection, told to both halves alike.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::{is_shortage, shutdown_write, take_error};

/// The system's number of the error that ended a connection, if one did.
///
/// The kernel tells each error once, to whichever half asks first, so both ask here afterwards. The first one stays, but for
/// a broken pipe, which only says that the peer does not read and gives way to what says more.
#[derive(Debug, Default)]
pub struct Fault(Cell<i32>);

const PIPE: i32 = Errno::PIPE.raw_os_error();

impl Fault {
    /// Of a connection that broke before it was one.
    pub fn of(error: &io::Error) -> Fault {
        let fault = Fault::default();
        fault.end_with(error);
        fault
    }

    /// Remembers an error that a call answered, and answers with the one to report.
    pub fn note(&self, error: io::Error) -> io::Error {
        let known = self.0.get();
        if known != 0 && known != PIPE {
            return io::Error::from_raw_os_error(known);
        }
        // Short of memory is not broken.
        if let (false, Some(number)) = (is_shortage(&error), error.raw_os_error()) {
            self.0.set(number);
        }
        error
    }

    /// Later attempts report `error`, if there was none before. One that is not the kernel's counts as a refusal.
    pub fn end_with(&self, error: &io::Error) {
        if self.0.get() == 0 {
            self.0.set(error.raw_os_error().unwrap_or(Errno::CONNREFUSED.raw_os_error()));
        }
    }

    /// Asks the kernel for an error that nobody was told of.
    pub fn take_from(&self, socket: BorrowedFd<'_>) {
        if let Ok(Some(error)) | Err(error) = take_error(socket) {
            self.note(error);
        }
    }

    /// Whether anything broke it.
    pub fn is_some(&self) -> bool {
        self.0.get() != 0
    }

    /// What broke it, if anything did.
    pub fn error(&self) -> Option<io::Error> {
        match self.0.get() {
            0 => None,
            number => Some(io::Error::from_raw_os_error(number)),
        }
    }

    /// What broke the receiving half: a broken pipe does not.
    pub fn receive_error(&self) -> Option<io::Error> {
        if self.0.get() == PIPE { None } else { self.error() }
    }

    /// Why there is no connection any more.
    pub fn failure(&self) -> io::Error {
        self.error().unwrap_or_else(|| Errno::NOTCONN.into())
    }

    /// Sends FIN, behind what the kernel has.
    ///
    /// # Errors
    /// What broke the connection, which says more than the `NotConnected` of shutdown(2).
    pub fn shut(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        shutdown_write(socket).map_err(|error| {
            self.take_from(socket);
            self.error().unwrap_or(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno) -> io::Error {
        errno.into()
    }

    fn told(fault: &Fault) -> [Option<i32>; 2] {
        [fault.error(), fault.receive_error()].map(|error| error.and_then(|error| error.raw_os_error()))
    }

    #[test]
    fn the_first_error_stays_and_a_broken_pipe_gives_way() {
        let (pipe, reset) = (Errno::PIPE.raw_os_error(), Errno::CONNRESET.raw_os_error());
        let fault = Fault::default();
        assert_eq!((fault.is_some(), told(&fault)), (false, [None, None]));
        assert_eq!(fault.failure().raw_os_error(), Some(Errno::NOTCONN.raw_os_error()));
        for short in [Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(fault.note(of(short)).raw_os_error(), Some(short.raw_os_error()));
            assert!(!fault.is_some(), "short of memory is not broken");
        }
        fault.note(of(Errno::PIPE));
        assert_eq!(told(&fault), [Some(pipe), None], "one may receive from a broken pipe");
        fault.end_with(&of(Errno::NOTCONN));
        assert_eq!(told(&fault), [Some(pipe), None]);
        fault.note(of(Errno::CONNRESET));
        let later = fault.note(of(Errno::TIMEDOUT));
        assert_eq!(later.raw_os_error(), Some(reset));
        assert_eq!(told(&fault), [Some(reset); 2]);
        assert_eq!(fault.failure().raw_os_error(), Some(reset));
    }

    #[test]
    fn an_error_that_is_not_the_kernels_is_a_refusal() {
        assert_eq!(Fault::of(&io::Error::other("mine")).failure().kind(), io::ErrorKind::ConnectionRefused);
    }
}
