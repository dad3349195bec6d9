//! Standard output and error, where neither a closed pipe is a reason to panic nor a full one a reason to wait.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::Failure;
use super::lines::Lines;

/// How long the end of the command waits for whoever should read what it has said.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long standard output waits for what went to standard error before.
const IN_ORDER: Duration = Duration::from_millis(100);

/// Takes what goes to standard error, once the command has shards.
static ERR: OnceLock<Lines> = OnceLock::new();

/// Writes to standard output. Who closed it does not want to read more; who does not read makes the caller wait. What
/// cannot be written for another reason is lost, which must not pass for success.
pub(super) fn out(text: &str) -> Result<(), Failure> {
    // On a terminal, what was said before should stand before.
    if let Some(lines) = ERR.get() {
        lines.flush(IN_ORDER);
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Run(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes to standard output as the last thing before the end, which waits two seconds for whoever reads it.
pub(super) fn last_out(text: String) -> Result<(), Failure> {
    let (done, ended) = flume::bounded(1);
    // Never joined: the end of the process ends it.
    let writing = thread::Builder::new().name("last words".to_owned()).spawn(move || done.send(out(&text)));
    match ended.recv_timeout(PATIENCE) {
        Ok(written) => return written,
        Err(flume::RecvTimeoutError::Timeout) if writing.is_ok() => {
            err("waterwheel: nobody reads standard output: the last report is lost\n");
        }
        Err(_) => {}
    }
    Ok(())
}

/// Writes to standard error. Once there are shards it does not wait, as [`log`] says.
pub(super) fn err(text: &str) {
    match ERR.get() {
        Some(lines) => lines.say(text.as_bytes()),
        None => drop(io::stderr().lock().write_all(text.as_bytes())),
    }
}

/// Waits until everything that went to standard error is there, two seconds at most.
pub(super) fn flush() {
    if let Some(lines) = ERR.get() {
        lines.flush(PATIENCE);
    }
}

/// A value as JSON, on lines of its own.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Failure::Run(format!("cannot write the report as JSON: {error}")))?;
    Ok(text + "\n")
}

/// Sends the log to standard error, and from here on everything else that goes there, through a thread of its own: a
/// shard must not wait for whoever should read it. What finds too much waiting is lost, and counted. `filter` was
/// checked when the configuration was read.
pub(super) fn log(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    // A closed standard error is no reason to panic, which complaining about it on standard error would be. And if a
    // log is set already, somebody embeds this command and has one of their own.
    let log = log.log_internal_errors(false);
    let _ = match Lines::start(io::stderr()) {
        Ok(lines) => {
            let lines = ERR.get_or_init(|| lines).clone();
            log.with_writer(move || lines.clone()).try_init()
        }
        // The system has no thread to give: better a log that may wait than none.
        Err(_) => log.with_writer(io::stderr).try_init(),
    };
}
