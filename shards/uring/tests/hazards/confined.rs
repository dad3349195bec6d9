//! The reactor in a process that is confined for good, and a log to look at.

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
