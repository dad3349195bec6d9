//! Ways to confine a process for good, and a log to look at.

use std::ffi::{c_long, c_ulong};
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, Once, PoisonError};

use waterwheel_reactor::{Address, Backend, Bound, Ended, Launch, ListenOptions, Unavailable};
use waterwheel_uring::Uring;

/// The reactor in a process that is confined before it is asked for anything, under a name that says how.
pub(crate) struct Confined {
    name: &'static str,
    uring: Uring,
    confine: fn(),
    once: Once,
}

impl Confined {
    pub(crate) const fn new(name: &'static str, uring: Uring, confine: fn()) -> Confined {
        Confined { name, uring, confine, once: Once::new() }
    }

    fn reactor(&self) -> Uring {
        self.once.call_once(self.confine);
        self.uring
    }
}

impl fmt::Debug for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Confined").field(&self.name).finish()
    }
}

impl Backend for Confined {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self) -> Result<(), Unavailable> {
        self.reactor().probe()
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        self.reactor().bind(at, options, count)
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        self.reactor().run(launches)
    }
}

/// What a filter does to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Fails(i32),
    Kills,
}

/// Filters this call of this thread, and of those that it starts from now on (seccomp(2)).
pub(crate) fn filter(call: c_long, verdict: Verdict) {
    let action = match verdict {
        Verdict::Fails(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
        Verdict::Kills => libc::SECCOMP_RET_KILL_PROCESS,
    };
    let does = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    // The number is the first word. The calls of io_uring have the same ones on all architectures.
    let mut program = [
        does(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        does(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        does(libc::BPF_RET | libc::BPF_K, 0, action),
        does(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (one, none): (c_ulong, c_ulong) = (1, 0);
    // SAFETY: the kernel copies the program, whose length is given, before the call returns.
    let answers = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, none, none, none),
            libc::prctl(libc::PR_SET_SECCOMP, c_ulong::from(libc::SECCOMP_MODE_FILTER), &raw const program),
        ]
    };
    assert_eq!(answers, [0, 0], "{}", io::Error::last_os_error());
}

/// What the process logs from now on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn begin() -> Log {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        log
    }

    /// Checks that one line, and no other, says all of this.
    #[track_caller]
    pub(crate) fn says_once(&self, parts: &[&str]) {
        let text =
            String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        let lines = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        assert_eq!(lines.count(), 1, "{parts:?} in:\n{text}");
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
