//! Why there is no child.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use crate::net::quoted::Quoted;

/// Why a program was not started. Shows the program and the reason in one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The command makes no sense, on this machine or any other.
    #[error("cannot run {}: {fault}", Quoted(&.program.to_string_lossy()))]
    Command {
        /// What was to run.
        program: OsString,
        /// What is wrong with it.
        fault: CommandFault,
    },
    /// The system cannot run this program: there is none of that name, it is a directory, it may not be executed.
    #[error("cannot run {}: {error}", Quoted(&.program.to_string_lossy()))]
    Program {
        /// What was to run.
        program: OsString,
        /// The system's reason.
        error: io::Error,
    },
    /// The directory in which the program was to run is none.
    #[error(
        "cannot run {} in the directory {}: {error}",
        Quoted(&.program.to_string_lossy()),
        Quoted(&.directory.to_string_lossy())
    )]
    Directory {
        /// What was to run.
        program: OsString,
        /// Where.
        directory: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// As many commands as may wait are waiting to be started on this shard already.
    #[error("cannot run {}: {most} others are being started on this shard already", Quoted(&.program.to_string_lossy()))]
    Busy {
        /// What was to run.
        program: OsString,
        /// How many may wait.
        most: usize,
    },
    /// The shard's reactor cannot wait for descriptors, as one in a simulation: there are no child processes on it.
    #[error("this shard's reactor cannot watch descriptors, so that it cannot have child processes")]
    Unsupported,
    /// The system has no process, thread or descriptor to give.
    #[error("cannot start a process: {0}")]
    System(io::Error),
}

/// What is wrong with a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandFault {
    /// The program has no name.
    #[error("the program's name is empty; allowed: a path, or a name that is looked for in PATH")]
    NoProgram,
    /// The system's calls end a text at its first zero byte.
    #[error("there is a zero byte in {}; allowed: any other byte", Quoted(&.0.to_string_lossy()))]
    ZeroByte(OsString),
    /// The name of an environment variable.
    #[error("{} cannot be a variable; allowed: a name that is not empty and has no = in it", Quoted(&.0.to_string_lossy()))]
    Variable(OsString),
}

impl SpawnError {
    /// Whether it would be the same on the next attempt, unless somebody changes the command or the machine's files.
    pub fn is_lasting(&self) -> bool {
        !matches!(self, SpawnError::Busy { .. } | SpawnError::System(_))
    }

    pub(super) fn fault(program: &OsStr, fault: CommandFault) -> SpawnError {
        SpawnError::Command { program: program.to_owned(), fault }
    }
}
