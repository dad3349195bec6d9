//! What to run, and how.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use super::error::{CommandFault, SpawnError};

/// What a child has as one of its standard streams.
#[derive(Clone, Debug)]
pub enum Stdio {
    /// `/dev/null`.
    Null,
    /// The same as this process.
    Inherit,
    /// A pipe, whose other end is a half of a connection on the shard.
    Piped,
    /// A descriptor of the program's: a file, a socket. The child gets a copy of it.
    Given(Arc<OwnedFd>),
}

impl Stdio {
    /// A file, a socket, one end of a pipe.
    pub fn given(descriptor: impl Into<OwnedFd>) -> Stdio {
        Stdio::Given(Arc::new(descriptor.into()))
    }
}

/// A program to run as a child: [`Shard::spawn_process`](crate::shard::Shard::spawn_process),
/// [`Shard::output_of`](crate::shard::Shard::output_of), [`Shard::keep_running`](crate::shard::Shard::keep_running).
/// It can be run any number of times.
///
/// * What: [`new`](Command::new), [`argument`](Command::argument), [`arguments`](Command::arguments).
/// * Where: [`variable`](Command::variable), [`without_variable`](Command::without_variable),
///   [`no_variables`](Command::no_variables), [`directory`](Command::directory).
/// * Its streams: [`stdin`](Command::stdin), [`stdout`](Command::stdout), [`stderr`](Command::stderr).
/// * Its life: [`own_group`](Command::own_group), [`group_ends_with_it`](Command::group_ends_with_it),
///   [`kill_on_drop`](Command::kill_on_drop), [`dies_with_shard`](Command::dies_with_shard).
/// * Of [`output`](crate::process::Child::output): [`output_most`](Command::output_most),
///   [`patience`](Command::patience).
///
/// A child inherits no descriptor of ours but its standard streams, no blocked signal and no ignored `SIGPIPE`, and may run
/// on every CPU on which the process's first thread may, not only on the shard's.
#[derive(Clone, Debug)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    no_variables: bool,
    /// `None`: taken away.
    variables: BTreeMap<OsString, Option<OsString>>,
    directory: Option<PathBuf>,
    pub(super) stdin: Option<Stdio>,
    pub(super) stdout: Option<Stdio>,
    pub(super) stderr: Option<Stdio>,
    pub(super) own_group: bool,
    pub(super) group_ends_with_it: bool,
    pub(super) kill_on_drop: bool,
    pub(super) dies_with_shard: bool,
    pub(super) output_most: usize,
    pub(super) patience: Duration,
}

impl Command {
    /// A program by its path, or by a name without a slash that is looked for in `PATH`.
    pub fn new(program: impl Into<OsString>) -> Command {
        Command {
            program: program.into(),
            arguments: Vec::new(),
            no_variables: false,
            variables: BTreeMap::new(),
            directory: None,
            stdin: None,
            stdout: None,
            stderr: None,
            own_group: true,
            group_ends_with_it: false,
            kill_on_drop: false,
            dies_with_shard: false,
            output_most: 1 << 20,
            patience: Duration::from_secs(1),
        }
    }

    /// One more argument. No shell sees it.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Command {
        self.arguments.push(argument.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Command {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment; the others are inherited.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Command {
        self.variables.insert(name.into(), Some(value.into()));
        self
    }

    /// Does not hand a variable on.
    #[must_use]
    pub fn without_variable(mut self, name: impl Into<OsString>) -> Command {
        self.variables.insert(name.into(), None);
        self
    }

    /// Hands no variable on but those that are set here.
    #[must_use]
    pub fn no_variables(mut self) -> Command {
        self.no_variables = true;
        self
    }

    /// The directory in which it runs; this process's by default.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Command {
        self.directory = Some(directory.into());
        self
    }

    /// Its input; nothing by default: a server has no terminal to share.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdio) -> Command {
        self.stdin = Some(stdin);
        self
    }

    /// Its output; by default this process's.
    #[must_use]
    pub fn stdout(mut self, stdout: Stdio) -> Command {
        self.stdout = Some(stdout);
        self
    }

    /// Its output for errors; by default this process's.
    #[must_use]
    pub fn stderr(mut self, stderr: Stdio) -> Command {
        self.stderr = Some(stderr);
        self
    }

    /// Whether it leads a process group of its own, with what it starts. So it is by default: then all of it can be
    /// signalled and ended, and Ctrl-C at a terminal does not reach it, but this process only, which says what is next.
    #[must_use]
    pub fn own_group(mut self, own: bool) -> Command {
        self.own_group = own;
        self
    }

    /// Whether what is left of its group is killed when it has ended. Not by default: some programs are meant to leave
    /// others behind. Without [a group of its own](Command::own_group) it means nothing.
    #[must_use]
    pub fn group_ends_with_it(mut self, ends: bool) -> Command {
        self.group_ends_with_it = ends;
        self
    }

    /// Whether it is killed, with its group, when its [`Child`](crate::process::Child) is dropped or the shard ends. Not by default, as in the
    /// standard library: it runs on, and no zombie is left of it.
    #[must_use]
    pub fn kill_on_drop(mut self, kill: bool) -> Command {
        self.kill_on_drop = kill;
        self
    }

    /// Whether the kernel kills it when this life of the shard is over, also if that is because the whole process was
    /// killed (prctl(2), `PR_SET_PDEATHSIG`). What it has started itself is not killed, and a program that is set-user-id
    /// neither. Not by default: starting it is slower then, by fork(2) in place of vfork(2).
    #[must_use]
    pub fn dies_with_shard(mut self, dies: bool) -> Command {
        self.dies_with_shard = dies;
        self
    }

    /// How many bytes [`output`](crate::process::Child::output) keeps of each stream; what comes after them is read and dropped. Default 1 MiB.
    #[must_use]
    pub fn output_most(mut self, bytes: usize) -> Command {
        self.output_most = bytes;
        self
    }

    /// How long the end of its output is waited for when it has ended itself: a process that it has left behind may hold the
    /// pipe open for ever. Counted from when the pipe was found empty, so that what it wrote itself is complete in any case.
    /// Default 1 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Command {
        self.patience = patience;
        self
    }

    /// What runs.
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// Where it runs, if that was said.
    pub(super) fn place(&self) -> Option<&PathBuf> {
        self.directory.as_ref()
    }

    /// How many descriptors a child of it takes of this process: its pipes, and the one that tells its end.
    pub(super) fn descriptors(&self) -> usize {
        let streams = [&self.stdin, &self.stdout, &self.stderr];
        1 + streams.into_iter().filter(|stream| matches!(stream, Some(Stdio::Piped))).count()
    }

    /// The same for the standard library, which knows how to start it.
    pub(super) fn to_standard(&self) -> Result<process::Command, SpawnError> {
        self.check().map_err(|fault| SpawnError::fault(&self.program, fault))?;
        let mut command = process::Command::new(&self.program);
        command.args(&self.arguments);
        if self.no_variables {
            command.env_clear();
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let stream = |chosen: &Option<Stdio>, otherwise| {
            standard(chosen.as_ref().unwrap_or(otherwise)).map_err(SpawnError::System)
        };
        command.stdin(stream(&self.stdin, &Stdio::Null)?);
        command.stdout(stream(&self.stdout, &Stdio::Inherit)?);
        command.stderr(stream(&self.stderr, &Stdio::Inherit)?);
        if self.own_group {
            command.process_group(0);
        }
        if self.dies_with_shard {
            waterwheel_os::kill_with_this_thread(&mut command);
        }
        Ok(command)
    }

    fn check(&self) -> Result<(), CommandFault> {
        if self.program.is_empty() {
            return Err(CommandFault::NoProgram);
        }
        let variables =
            self.variables.iter().flat_map(|(name, value)| [Some(name), value.as_ref()]).flatten();
        let mut texts = [&self.program].into_iter().chain(&self.arguments).chain(variables);
        if let Some(text) = texts.find(|text| text.as_bytes().contains(&0)) {
            return Err(CommandFault::ZeroByte(text.clone()));
        }
        if let Some(directory) = self.directory.as_ref().filter(|at| at.as_os_str().as_bytes().contains(&0)) {
            return Err(CommandFault::ZeroByte(directory.clone().into()));
        }
        let wrong = |name: &&OsString| name.is_empty() || name.as_bytes().contains(&b'=');
        self.variables.keys().find(wrong).map_or(Ok(()), |name| Err(CommandFault::Variable(name.clone())))
    }
}

fn standard(stdio: &Stdio) -> io::Result<process::Stdio> {
    Ok(match stdio {
        Stdio::Null => process::Stdio::null(),
        Stdio::Inherit => process::Stdio::inherit(),
        Stdio::Piped => process::Stdio::piped(),
        Stdio::Given(descriptor) => descriptor.try_clone()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_told_with_what_is_allowed() {
        let good = || Command::new("true");
        for (command, told) in [
            (Command::new(""), "the program's name is empty; allowed: a path"),
            (Command::new("a\0b"), "there is a zero byte in \"a\\0b\""),
            (good().argument("-x\0"), "zero byte in \"-x\\0\""),
            (good().variable("A", "\0"), "zero byte"),
            (good().directory("/\0"), "zero byte"),
            (good().variable("", "x"), "\"\" cannot be a variable"),
            (good().variable("a=b", "x"), "\"a=b\" cannot be a variable; allowed: a name"),
            (good().without_variable("a=b"), "\"a=b\" cannot be a variable"),
        ] {
            let error = command.to_standard().unwrap_err();
            assert!(error.is_lasting());
            let line = error.to_string();
            assert!(
                line.starts_with("cannot run \"") && line.contains(told) && !line.contains('\0'),
                "{line}"
            );
        }
        assert!(good().argument("").variable("A", "").to_standard().is_ok(), "empty ones are none");
    }
}
