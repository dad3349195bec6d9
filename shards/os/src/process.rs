//! Child processes: seen by pidfd(2), so that no other code's child and no process that got the same number is meant.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpgid, getpid, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use crate::without_sigpipe;

/// A descriptor of a child that nobody has waited for yet: readable once it has ended. Linux 5.3.
///
/// # Errors
/// As pidfd_open(2): `ESRCH` if somebody has waited for it, no descriptor left, an old kernel.
pub fn child(id: u32) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid(id)?, PidfdFlags::empty())?)
}

fn pid(id: u32) -> io::Result<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw).ok_or_else(|| Errno::SRCH.into())
}

/// How a child ended, taken from the kernel: no zombie is left. `last` is called before that, when the child has ended
/// and its number still is its own. `None`: it has not ended. Linux 5.4.
///
/// # Errors
/// `ECHILD`: somebody else has taken it, or this process ignores `SIGCHLD` and so nobody may.
pub fn reap(child: BorrowedFd<'_>, last: impl FnOnce()) -> io::Result<Option<ExitStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let ask = |options| retry_on_intr(|| waitid(WaitId::PidFd(child), options));
    if ask(options | WaitIdOptions::NOWAIT)?.is_none() {
        return Ok(None);
    }
    last();
    let Some(told) = ask(options)? else { return Ok(None) };
    // As wait(2) would have told it.
    const DUMPED: i32 = 0x80;
    let raw = match (told.exit_status(), told.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal | if told.dumped() { DUMPED } else { 0 },
        (None, None) => return Err(io::Error::other("waitid(2) told neither a code nor a signal")),
    };
    Ok(Some(ExitStatus::from_raw(raw)))
}

/// Waits, on this thread, until one of these children has ended or `interrupt` is readable.
///
/// # Errors
/// As poll(2).
pub fn wait_for_one(children: &[OwnedFd], interrupt: BorrowedFd<'_>) -> io::Result<()> {
    let mut asked: Vec<PollFd<'_>> = children.iter().map(|child| PollFd::new(child, PollFlags::IN)).collect();
    asked.push(PollFd::from_borrowed_fd(interrupt, PollFlags::IN));
    retry_on_intr(|| poll(&mut asked, None))?;
    Ok(())
}

/// Sends a signal to a child.
///
/// # Errors
/// `ESRCH`: it has ended and was waited for. `InvalidInput`: no such signal.
pub fn signal_child(child: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    Ok(pidfd_send_signal(child, named(number)?)?)
}

/// Sends a signal to every process of a group. Its number is the one of the process that leads it: that one must not
/// have been waited for, lest the number mean somebody else.
///
/// # Errors
/// As kill(2).
pub fn signal_group(leader: u32, number: i32) -> io::Result<()> {
    Ok(kill_process_group(pid(leader)?, named(number)?)?)
}

/// Whether a child that nobody has waited for is in the group that it was started to lead: it may have gone to another one.
pub fn leads_group(id: u32) -> bool {
    pid(id).is_ok_and(|pid| getpgid(Some(pid)) == Ok(pid))
}

/// Kills what a thread of this process has forked and what has not become another program yet: the start of a program that
/// hangs, as on a file system that does not answer. Whether there was one. To be called only while the thread cannot begin
/// another start.
///
/// # Errors
/// The system does not tell a thread's children (`CONFIG_PROC_CHILDREN`), or has no descriptor left.
pub fn kill_unborn(thread: i32) -> io::Result<bool> {
    // PF_FORKNOEXEC and PF_EXITING, of the flags in proc_pid_stat(5) (include/linux/sched.h). Whoever was killed before has both,
    // until somebody has waited for it.
    const UNBORN: u64 = 0x40;
    const EXITING: u64 = 0x4;
    let children = || std::fs::read_to_string(format!("/proc/self/task/{thread}/children"));
    let is_listed = |id: &str| Ok::<bool, io::Error>(children()?.split_whitespace().any(|other| other == id));
    for id in children()?.split_whitespace() {
        let Some(number) = id.parse().ok() else { continue };
        let Ok(descriptor) = child(number) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        // The name, which is first, may have anything in it.
        let flags = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(6));
        let is_unborn = flags
            .and_then(|flags| flags.parse::<u64>().ok())
            .is_some_and(|flags| flags & (UNBORN | EXITING) == UNBORN);
        // A number that is still in the list is that of the descriptor, and no other process's.
        if is_unborn && is_listed(id)? {
            signal_child(descriptor.as_fd(), Signal::KILL.as_raw())?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn named(number: i32) -> io::Result<Signal> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidInput, format!("there is no signal {number}"));
    Signal::from_named_raw(number).ok_or_else(unknown)
}

/// Has the kernel kill the command's process (`PR_SET_PDEATHSIG`) when the *thread* that spawned it has ended, however it
/// did. Spawning is slower with it, by fork(2) in place of vfork(2), and the children of the process are not killed.
pub fn kill_with_this_thread(command: &mut Command) {
    let parent = getpid().as_raw_nonzero().get();
    let before_exec = move || {
        // SAFETY: prctl(2) with this option changes nothing but a number in the kernel, and may be called after a fork.
        let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it reads a number, and may be called after a fork.
        let now = unsafe { libc::getppid() };
        // It may have ended before: then nobody would tell.
        if now == parent { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls, and neither allocates, nor locks, nor panics.
    unsafe { command.pre_exec(before_exec) };
}

/// Lets this thread run on the CPUs on which the first thread of the process may: for what must not inherit the one CPU
/// of a pinned thread.
///
/// # Errors
/// The kernel refuses.
pub fn unpin() -> io::Result<()> {
    Ok(sched_setaffinity(None, &sched_getaffinity(Some(getpid()))?)?)
}

/// Reads from a pipe, at least a byte; 0 is its end.
///
/// # Errors
/// As read(2); `WouldBlock` if there is nothing yet.
pub fn read_pipe(pipe: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| rustix::io::read(pipe, &mut *buffer))?)
}

/// How many bytes there are in a pipe, asked at its reading end.
///
/// # Errors
/// As ioctl(2) with `FIONREAD`.
pub fn unread(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(rustix::io::ioctl_fionread(pipe)? as usize)
}

/// Writes to a pipe, without a signal if nobody reads any more.
///
/// # Errors
/// As write(2): `BrokenPipe`; `WouldBlock` if it is full.
pub fn write_pipe(pipe: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let attempt = || retry_on_intr(|| rustix::io::write(pipe, bytes));
    Ok(without_sigpipe(attempt, |answer| *answer == Err(Errno::PIPE))?)
}

/// Whether nobody reads from a pipe any more, asked at its writing end.
pub fn is_broken_pipe(pipe: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(&pipe, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    retry_on_intr(|| poll(&mut asked, Some(&at_once)))
        .is_ok_and(|_| asked[0].revents().contains(PollFlags::ERR))
}

/// Makes calls on this end of a pipe return at once. The other end is another open file and stays as it is.
///
/// # Errors
/// As fcntl(2).
pub fn never_wait(pipe: &impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(pipe, true)?)
}

#[cfg(test)]
#[expect(clippy::zombie_processes, reason = "they are waited for by what is tested")]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn ended(mut command: Command) -> ExitStatus {
        let spawned = command.stdin(Stdio::null()).spawn().unwrap();
        let child = child(spawned.id()).unwrap();
        wait(&child);
        let status = reap(child.as_fd(), || {}).unwrap().expect("it has ended");
        assert_eq!(reap(child.as_fd(), || {}).unwrap_err().raw_os_error(), Some(libc::ECHILD), "seen twice");
        assert_eq!(signal_child(child.as_fd(), libc::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        status
    }

    fn wait(child: &OwnedFd) {
        let mut asked = [PollFd::new(child, PollFlags::IN)];
        let long = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(retry_on_intr(|| poll(&mut asked, Some(&long))).unwrap(), 1, "it has not ended");
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_became_of_a_child_is_what_the_standard_library_would_say() {
        for script in ["exit 0", "exit 3", "exit 255", "kill -TERM $$", "kill -KILL $$"] {
            assert_eq!(ended(shell(script)), shell(script).status().unwrap(), "{script}");
        }
    }

    #[test]
    fn a_child_that_runs_is_not_reaped_and_can_be_signalled() {
        let mut spawned = shell("exec sleep 60");
        spawned.process_group(0);
        for by_group in [false, true] {
            let spawned = spawned.spawn().unwrap();
            let child = child(spawned.id()).unwrap();
            assert!(reap(child.as_fd(), || {}).unwrap().is_none());
            match by_group {
                true => signal_group(spawned.id(), libc::SIGTERM).unwrap(),
                false => signal_child(child.as_fd(), libc::SIGTERM).unwrap(),
            }
            wait(&child);
            assert_eq!(reap(child.as_fd(), || {}).unwrap().unwrap().signal(), Some(libc::SIGTERM));
        }
        assert_eq!(named(1_000).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_child_dies_with_the_thread_that_spawned_it() {
        let spawned = std::thread::scope(|scope| {
            let spawn = || {
                let mut command = shell("exec sleep 60");
                kill_with_this_thread(&mut command);
                command.spawn().unwrap()
            };
            scope.spawn(spawn).join().unwrap()
        });
        let child = child(spawned.id()).unwrap();
        wait(&child);
        assert_eq!(reap(child.as_fd(), || {}).unwrap().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_broken_and_raises_nothing() {
        let (reader, writer) = io::pipe().unwrap();
        never_wait(&reader).unwrap();
        assert_eq!(read_pipe(reader.as_fd(), &mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(write_pipe(writer.as_fd(), b"abc").unwrap(), 3);
        assert_eq!(unread(reader.as_fd()).unwrap(), 3);
        assert_eq!(read_pipe(reader.as_fd(), &mut [0; 9]).unwrap(), 3);
        assert!(!is_broken_pipe(writer.as_fd()));
        drop(reader);
        // Another test's child has a copy of it, until it executes its program.
        assert!((0..10_000_000).any(|_| is_broken_pipe(writer.as_fd())));
        assert_eq!(write_pipe(writer.as_fd(), b"abc").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
