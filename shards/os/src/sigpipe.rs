//! Keeps sends that cannot be told not to from raising `SIGPIPE`, which ends a program that has not ignored it.

use std::mem::MaybeUninit;
use std::ptr;

/// Runs `attempt` with `SIGPIPE` blocked on this thread, and takes back the one that it raised: if `may_have` says that it
/// may have.
///
/// splice(2) has no `MSG_NOSIGNAL`, and glommio does not use it. The Rust runtime ignores the signal, but a program may
/// have restored it, as command line tools do. Two system calls, and a third after what may have raised it.
pub fn without_sigpipe<T>(attempt: impl FnOnce() -> T, may_have: impl FnOnce(&T) -> bool) -> T {
    let pipe = only_sigpipe();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets live until the call returns, which writes the second one.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, before.as_mut_ptr()) } == 0;
    let answer = attempt();
    if blocked {
        // SAFETY: the call above succeeded and so has written the set.
        let before = unsafe { before.assume_init() };
        // SAFETY: a set that the system gave, and a signal's number.
        let was_blocked = unsafe { libc::sigismember(&before, libc::SIGPIPE) } == 1;
        // Where the program blocks the signal itself, one that is pending may be older than ours.
        if !was_blocked && may_have(&answer) {
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the set and the time live until the call returns; it is told to store nothing.
            unsafe { libc::sigtimedwait(&pipe, ptr::null_mut(), &at_once) };
        }
        // SAFETY: the set lives until the call returns, which is told to store nothing.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    }
    answer
}

fn only_sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set and cannot fail; sigaddset then changes it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, ErrorKind};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    /// Sends one byte as glommio does.
    fn send_loudly(socket: &UnixStream) -> io::Result<usize> {
        // SAFETY: one byte is read from a literal, and the descriptor is open.
        let sent = unsafe { libc::send(socket.as_raw_fd(), b"x".as_ptr().cast(), 1, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    #[test]
    fn a_send_to_nobody_raises_no_signal_and_leaves_none_behind() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        // SAFETY: the default action of a signal that this process ignores; nothing is shared.
        let ignored = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let answer = without_sigpipe(|| send_loudly(&near), Result::is_err);
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::BrokenPipe);
        // The process would be gone by now if the signal had been left pending.
        // SAFETY: what was there before.
        unsafe { libc::signal(libc::SIGPIPE, ignored) };
    }
}
