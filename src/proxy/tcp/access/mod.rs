//! The access log: a line per connection, when it has ended, that never makes a shard wait.
//!
//! Each shard gathers lines in a buffer of its own, which goes to one thread that writes: when it is full, or a fifth of a
//! second after its first line. The thread may wait for whoever reads, or for a disk; shards do not. What finds no room is
//! lost, and how much was is told in the program's log. [`AccessLog::reopen`] is for log rotation.

mod record;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use record::Record;
pub use writer::AccessLog;
pub(super) use writer::ShardLog;

use crate::net::quoted::Quoted;

/// Where an access log goes, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Where it goes.
    pub target: LogTarget,
    /// How a line looks.
    pub format: LogFormat,
}

/// Where an access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// To a file, at its end; made if there is none. A pipe with a name is opened once somebody reads it.
    File(PathBuf),
    /// To standard output.
    Out,
    /// To standard error.
    Err,
}

impl FromStr for LogTarget {
    type Err = String;

    /// A path, `-` for standard output, `stderr` for standard error.
    fn from_str(text: &str) -> Result<LogTarget, String> {
        match text {
            "" => Err(format!("{} is no path; allowed: the path of a file, - or stderr", Quoted(text))),
            "-" => Ok(LogTarget::Out),
            "stderr" => Ok(LogTarget::Err),
            // The system would cut it there.
            path if path.contains('\0') => {
                Err(format!("{} is no path; allowed: the path of a file, - or stderr", Quoted(text)))
            }
            path => Ok(LogTarget::File(path.into())),
        }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTarget::File(path) => write!(f, "{}", path.display()),
            LogTarget::Out => f.write_str("-"),
            LogTarget::Err => f.write_str("stderr"),
        }
    }
}

/// How a line of an access log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// The time, then `NAME=VALUE` for everything; what is not known is `-`, and what could be mistaken is in quotes.
    #[default]
    Text,
    /// An object of JSON; what is not known is `null`.
    Json,
}

impl LogFormat {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        let found = [LogFormat::Text, LogFormat::Json].into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| format!("{} is no format of a log; allowed: text, json", Quoted(text)))
    }
}
