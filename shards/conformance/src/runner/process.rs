//! The parent's side: starts one child per case, captures what it says, and kills it when its time is over.

use std::env;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use waterwheel_reactor::Clock;

use super::arguments::CHILD;
use super::child::{HOLDS, NOT_OFFERED};

/// How a child ended.
#[derive(Debug)]
pub(super) enum Ending {
    Holds,
    NotOffered(String),
    Broken { how: String, output: String },
}

/// Runs the case called `name` in a child process and waits for its end, at most for `deadline`.
pub(super) fn watch(name: &str, deadline: Duration) -> Ending {
    match start(name) {
        Ok((child, output)) => follow(child, output, deadline),
        Err(error) => Ending::Broken { how: format!("could not be started: {error}"), output: String::new() },
    }
}

/// The child, in a process group of its own so that it can be killed with all that it started, and the pipe that
/// everything it says goes to, in the order in which it said it.
fn start(name: &str) -> io::Result<(Child, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    let child = Command::new(env::current_exe()?)
        .args([CHILD, name])
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    Ok((child, reader))
}

fn follow(mut child: Child, output: PipeReader, deadline: Duration) -> Ending {
    let (ended, output) = thread::scope(|scope| {
        let captured = scope.spawn(|| capture(output));
        let ended = wait(&mut child, deadline);
        (ended, captured.join().unwrap_or_default())
    });
    let how = match ended {
        Ok(Some(status)) => match status.code() {
            Some(code) if code == i32::from(HOLDS) => return Ending::Holds,
            Some(code) if code == i32::from(NOT_OFFERED) => {
                return Ending::NotOffered(output.lines().last().unwrap_or("no reason given").to_owned());
            }
            _ => describe(status),
        },
        Ok(None) => format!("did not end within {deadline:?} and was killed"),
        Err(error) => format!("could not be watched: {error}"),
    };
    Ending::Broken { how, output }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(101), _) => "panicked".to_owned(),
        (Some(code), _) => format!("ended the process with code {code} before the law came to its end"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in no known way".to_owned(),
    }
}

/// The child's end, `None` if it had to be killed. Its whole group is gone when this returns.
fn wait(child: &mut Child, deadline: Duration) -> io::Result<Option<ExitStatus>> {
    let group = Pid::from_child(child);
    let in_time = ends_within(group, deadline);
    // Also after a good end: what the law started must not hold the pipe open. The child is not reaped yet, so its
    // number still names its own group.
    match kill_process_group(group, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let status = child.wait()?;
    Ok(in_time?.then_some(status))
}

fn ends_within(child: Pid, deadline: Duration) -> io::Result<bool> {
    let descriptor = pidfd_open(child, PidfdFlags::empty())?;
    let clock = Clock::start();
    let end = clock.now() + deadline;
    loop {
        let left = end.since(clock.now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Everything that the child says, up to a mebibyte; what comes after that is read and forgotten, so that a law that
/// floods its output fails by its own fault and not by a full pipe.
fn capture(mut output: PipeReader) -> String {
    const KEPT_MAX: u64 = 1 << 20;
    let mut kept = Vec::new();
    let read = (&mut output).take(KEPT_MAX).read_to_end(&mut kept);
    let drained = io::copy(&mut output, &mut io::sink());
    if let Err(error) = read.and(drained.map(|_| 0)) {
        kept.extend_from_slice(format!("\n(output lost: {error})").as_bytes());
    }
    String::from_utf8_lossy(&kept).into_owned()
}
