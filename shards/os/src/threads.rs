//! What the kernel says of a thread of this process.

use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

/// The number by which the system knows the calling thread (gettid(2)).
pub fn thread_number() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// What one thread of this process does, as the kernel sees it (proc(5), `/proc/self/task/NUMBER`). Parts that the kernel
/// does not tell here are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadState {
    /// CPU time that it has had so far.
    pub cpu: Duration,
    /// It runs, or waits for a CPU only.
    pub runs: bool,
    /// The system call that it is in, by its number on this architecture.
    pub call: Option<i64>,
    /// The function of the kernel in which it waits.
    pub waits_in: Option<String>,
}

impl ThreadState {
    /// Of the thread of this number.
    ///
    /// # Errors
    /// There is no such thread, or no `/proc`.
    pub fn of(thread: i32) -> io::Result<ThreadState> {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/task/{thread}/{name}"));
        let (stat, times) = (read("stat")?, read("schedstat")?);
        // The name, in parentheses, may have any letter.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        let nanos = times.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0);
        let runs = state == Some('R');
        // "running", or the number and its arguments; -1: it waits outside of a call.
        let call = read("syscall").ok().and_then(|line| line.split_whitespace().next()?.parse().ok());
        let waits_in = read("wchan").ok().filter(|name| !name.is_empty() && name != "0");
        Ok(ThreadState {
            cpu: Duration::from_nanos(nanos),
            runs,
            call: call.filter(|call| !runs && *call >= 0),
            waits_in: waits_in.filter(|_| !runs),
        })
    }
}

impl fmt::Display for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.runs {
            return f.write_str("it runs, or waits for a CPU");
        }
        f.write_str("it waits")?;
        if let Some(call) = self.call {
            write!(f, " in system call {call}")?;
        }
        match &self.waits_in {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_that_works_runs_and_one_that_waits_says_where() {
        let own = ThreadState::of(thread_number()).unwrap();
        assert!(own.runs && own.call.is_none() && own.waits_in.is_none(), "{own:?}");
        assert_eq!(own.to_string(), "it runs, or waits for a CPU");
        let ((tell, told), (end, ended)) = (channel(), channel::<()>());
        let waiting = thread::Builder::new().spawn(move || {
            tell.send(thread_number()).unwrap();
            ended.recv().unwrap_err();
        });
        let number = told.recv().unwrap();
        // It may still be on its way into the call.
        let state = (0..1000).find_map(|_| {
            thread::yield_now();
            ThreadState::of(number).ok().filter(|state| !state.runs)
        });
        let state = state.expect("a thread that waits for a message");
        assert!(state.to_string().starts_with("it waits"), "{state}");
        drop(end);
        waiting.unwrap().join().unwrap();
        // The kernel lists it for a moment after it was joined.
        while ThreadState::of(number).is_ok() {
            thread::yield_now();
        }
    }
}
