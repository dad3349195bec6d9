//! Whether somebody is killed for trying io_uring. A container may filter system calls (seccomp(2)), and a filter may kill
//! the whole process instead of failing the call; so where there is one, a child tries first.

use std::ffi::{c_int, c_long};
use std::fs;
use std::io;
use std::sync::OnceLock;

/// The calls that a reactor makes, which a filter tells apart by their numbers.
const CALLS: [(&str, c_long); 3] = [
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
];

/// Whether io_uring's calls may be tried here without being killed. Each is tried in a child process, about 0.3 ms each,
/// once per process and only where a filter is in force.
///
/// # Errors
/// The name of the call that is deadly, or why that could not be found out.
pub fn survives_io_uring() -> Result<(), String> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            if !is_filtered() {
                return Ok(());
            }
            CALLS.into_iter().try_for_each(|(name, number)| match dies_of(number) {
                Ok(None) => Ok(()),
                Ok(Some(signal)) => {
                    Err(format!("{name}: a filter kills whoever calls it (seccomp, signal {signal})"))
                }
                Err(error) => {
                    Err(format!("{name}: a filter may kill whoever calls it, and no child can try: {error}"))
                }
            })
        })
        .clone()
}

/// Whether system calls of this thread are filtered (proc_pid_status(5)). Without `/proc` they may be.
fn is_filtered() -> bool {
    const FILTER: &str = "2";
    let status = fs::read_to_string("/proc/thread-self/status");
    status.map_or(true, |status| {
        let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        mode.is_some_and(|mode| mode.trim() == FILTER)
    })
}

/// The signal that kills a child that makes this call, if one does. The arguments make sense to none of them, so the call
/// does nothing else.
fn dies_of(call: c_long) -> io::Result<Option<c_int>> {
    let (nothing, wrong): (c_long, c_long) = (0, -1);
    // SAFETY: without flags the child has a copy of everything and is alone in it, as after fork(2), and goes on here. It
    // makes system calls and nothing else, since another thread may have held any lock. The number of its signal is
    // 0: whoever waits for children of this process is not told of this one.
    let child = unsafe { libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing) };
    match child {
        ..0 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: none of these calls is given memory; the last one does not return. What the filter kills leaves
            // no core behind.
            unsafe {
                libc::syscall(
                    libc::SYS_prctl,
                    c_long::from(libc::PR_SET_DUMPABLE),
                    nothing,
                    nothing,
                    nothing,
                    nothing,
                );
                libc::syscall(call, wrong, nothing, nothing, nothing, nothing, nothing);
                libc::_exit(0)
            }
        }
        child => end_of(child as libc::pid_t),
    }
}

/// Waits for a child's end, and answers which signal it died of.
fn end_of(child: libc::pid_t) -> io::Result<Option<c_int>> {
    let mut status: c_int = 0;
    loop {
        // SAFETY: the status is ours to write to.
        let ended = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
        if ended == child {
            return Ok(libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
