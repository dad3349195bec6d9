//! Standard output and error, where a closed pipe is no reason to panic.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;

/// Writes to standard output. Who closed it does not want to read more.
pub(super) fn out(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes to standard error.
pub(super) fn err(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes a value as JSON, on lines of its own.
pub(super) fn json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => out(&format!("{text}\n")),
        Err(error) => err(&format!("waterwheel: cannot write the report as JSON: {error}\n")),
    }
}

/// Sends the log to standard error. `filter` was checked when the configuration was read.
pub(super) fn log(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    // A closed standard error is no reason to panic, which complaining about it on standard error would be. And if a
    // log is set already, somebody embeds this command and has one of their own.
    let _ = log.log_internal_errors(false).try_init();
}
