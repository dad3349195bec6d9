//! A log to look at.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

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
        let lines = self.lines(parts);
        assert_eq!(lines.len(), 1, "{parts:?} in:\n{}", self.text());
    }

    /// The lines that say all of this.
    pub(crate) fn lines(&self, parts: &[&str]) -> Vec<String> {
        let text = self.text();
        text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
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
