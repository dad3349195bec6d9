//! What the process does when a signal arrives, kept so that it can be put back.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// What the process does on one signal, as sigaction(2) tells it. Libraries that install handlers seldom remove them;
/// whoever must leave the process as it was reads the disposition before and puts it back after.
pub struct Disposition {
    signal: i32,
    action: libc::sigaction,
}

impl Disposition {
    /// What the process does now on the signal of this number.
    ///
    /// # Errors
    /// `InvalidInput` if there is no such signal.
    pub fn of(signal: i32) -> io::Result<Disposition> {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: nothing is installed, and the kernel writes to a place that is ours and large enough.
        if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so it has filled the structure.
        Ok(Disposition { signal, action: unsafe { action.assume_init() } })
    }

    /// Makes the process do this again on that signal.
    ///
    /// # Errors
    /// `InvalidInput` for the signals that cannot be caught.
    pub fn install(&self) -> io::Result<()> {
        // SAFETY: the action, with its handler, was installed in this process before, by code that promised to be
        // fit for a signal; it is put back unchanged. The previous action is not asked for.
        match unsafe { libc::sigaction(self.signal, &self.action, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether a handler of the program runs, rather than the system's default or nothing.
    pub fn is_handled(&self) -> bool {
        ![libc::SIG_DFL, libc::SIG_IGN].contains(&self.action.sa_sigaction)
    }
}

impl fmt::Debug for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (signal, handled) = (self.signal, self.is_handled());
        f.debug_struct("Disposition").field("signal", &signal).field("handled", &handled).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_back_is_what_was() {
        // Rust ignores SIGPIPE at start, and nobody sends SIGWINCH to a test.
        let (ignored, default) =
            (Disposition::of(libc::SIGPIPE).unwrap(), Disposition::of(libc::SIGWINCH).unwrap());
        assert!(!ignored.is_handled() && !default.is_handled());
        let changed = Disposition { signal: libc::SIGWINCH, action: ignored.action };
        changed.install().unwrap();
        assert_eq!(Disposition::of(libc::SIGWINCH).unwrap().action.sa_sigaction, libc::SIG_IGN);
        default.install().unwrap();
        assert_eq!(Disposition::of(libc::SIGWINCH).unwrap().action.sa_sigaction, libc::SIG_DFL);
    }

    #[test]
    fn no_such_signal_is_an_error() {
        assert_eq!(Disposition::of(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Disposition::of(1_000).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
