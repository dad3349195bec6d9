//! epoll_wait(2) for kernels before 5.11. rustix, told to use `epoll_pwait2`, has no other.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What epoll_wait(2) tells of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainEvent {
    /// `EPOLLIN` and its like.
    pub flags: u32,
    /// What was given when the descriptor was added.
    pub data: u64,
}

/// The most events that one call takes; the rest comes with the next call.
const EVENTS_MAX: usize = 64;

/// Waits for events, without end or not at all, and hands each to `each`. For a deadline, use a timerfd in the set.
///
/// # Errors
/// As epoll_wait(2), but a signal is no error.
pub fn wait_plainly(epoll: BorrowedFd<'_>, block: bool, mut each: impl FnMut(PlainEvent)) -> io::Result<()> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
    let timeout = if block { -1 } else { 0 };
    // SAFETY: the descriptor is open for as long as it is borrowed; `events` is valid for writing EVENTS_MAX records,
    // and the kernel keeps no pointer to it after the call.
    let count = unsafe {
        libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS_MAX as libc::c_int, timeout)
    };
    let Ok(count) = usize::try_from(count) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
    };
    for event in &events[..count] {
        each(PlainEvent { flags: event.events, data: event.u64 });
    }
    Ok(())
}
