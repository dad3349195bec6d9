//! The `waterwheel` command: arguments become values, values become one call.

mod clients;
mod demo;
mod file;
mod knobs;
mod lines;
mod load;
mod output;
mod proxy;
mod reactors;
mod serve;
mod upstreams;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::runtime::Config;
use knobs::Knobs;

/// Thread-per-core reactors, and the proxies built on them.
#[derive(Debug, Parser)]
#[command(name = "waterwheel", version, about, propagate_version = true, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    knobs: Knobs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// An origin, a proxy and a load on the cores there are: shows that all of it works here.
    Demo(demo::Arguments),
    /// Load on a server, measured honestly.
    #[command(subcommand)]
    Load(load::Command),
    /// Proxies.
    Proxy(Box<proxy::Proxy>),
    /// The reactors of this build, and which of them can run here.
    Reactors,
    /// Origins: servers to load, and to put behind a proxy.
    #[command(subcommand)]
    Serve(serve::Command),
}

/// How the command ended, as its exit code: 0 as asked, 1 it could not start or run, 2 it was asked for nonsense.
#[derive(Debug)]
enum Failure {
    /// What was asked makes no sense: one line, or one for each error of a file.
    Usage(String),
    /// What was asked could not be done: one line.
    Run(String),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let code = run();
    output::flush();
    code
}

fn run() -> ExitCode {
    let given: Vec<OsString> = std::env::args_os().collect();
    let arguments = match Arguments::of(&given) {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return finish(output::out(&error.to_string()).map(|()| ExitCode::SUCCESS));
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::err(&error.to_string());
            return ExitCode::from(2);
        }
        Err(error) => return finish(Err(Failure::Usage(told(&error, &given)))),
    };
    finish(arguments.run())
}

/// What can be asked. A value may begin with a hyphen: `--rate -1` is a bad rate, and no flag that nobody knows.
fn grammar(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let has_value = arg.get_action().takes_values() && !arg.is_positional();
        if has_value { arg.allow_hyphen_values(true) } else { arg }
    });
    command.mut_subcommands(grammar)
}

impl Arguments {
    fn of(given: &[OsString]) -> Result<Arguments, clap::Error> {
        Arguments::from_arg_matches(&grammar(Arguments::command()).try_get_matches_from(given)?)
    }

    fn run(self) -> Result<ExitCode, Failure> {
        let mut command = self.command;
        let file = match &mut command {
            Command::Proxy(proxy) => proxy.read()?,
            _ => Config::default(),
        };
        let config = self.knobs.config(file)?;
        output::log(config.log_filter());
        match command {
            Command::Demo(demo) => demo.run(config),
            Command::Load(load) => load.run(config),
            Command::Proxy(proxy) => proxy.run(config),
            Command::Reactors => reactors::run(&config),
            Command::Serve(serve) => serve.run(config),
        }
    }
}

fn finish(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        failure.tell();
        ExitCode::from(match failure {
            Failure::Run(_) => 1,
            Failure::Usage(_) => 2,
        })
    })
}

impl Failure {
    fn tell(&self) {
        let (Failure::Usage(lines) | Failure::Run(lines)) = self;
        lines.lines().for_each(|line| output::err(&format!("waterwheel: {line}\n")));
    }
}

/// What is wrong with what was given, in one line, and what is allowed instead.
fn told(error: &clap::Error, given: &[OsString]) -> String {
    let line = one_line(&error.to_string());
    let mut grammar = grammar(Arguments::command());
    // Adds to each command the flags that it has from those above.
    grammar.build();
    let wrong = error.get(ContextKind::InvalidArg).or_else(|| error.get(ContextKind::InvalidSubcommand));
    let wrong = wrong.map_or(String::new(), ContextValue::to_string);
    let right = given.iter().skip(1).take_while(|word| !word.to_string_lossy().starts_with(&wrong));
    let asked = right.fold(&grammar, |command, word| command.find_subcommand(word).unwrap_or(command));
    let allowed: Vec<String> = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            asked.get_subcommands().map(|one| one.get_name().to_owned()).collect()
        }
        ErrorKind::UnknownArgument => {
            asked.get_arguments().filter_map(|flag| Some(format!("--{}", flag.get_long()?))).collect()
        }
        _ => return line,
    };
    format!("{line}; allowed: {}", allowed.join(", "))
}

/// What is wrong, of a message that goes on with usage and advice.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let lines =
        message.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    // No command here takes what looks like a flag and is none.
    let lines = lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("tip: to pass "));
    lines.collect::<Vec<_>>().join(" ")
}

impl From<crate::runtime::StartError> for Failure {
    fn from(error: crate::runtime::StartError) -> Failure {
        use crate::runtime::StartError::{Config, Endpoint};
        match error {
            Config(_) | Endpoint(_) => Failure::Usage(error.to_string()),
            error => Failure::Run(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        grammar(Arguments::command()).debug_assert();
    }

    /// What is said about a line that is refused.
    fn refused(line: &str) -> String {
        let given: Vec<OsString> =
            ["waterwheel"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
        told(&Arguments::of(&given).unwrap_err(), &given)
    }

    #[test]
    fn a_value_that_begins_with_a_hyphen_is_a_bad_value_of_its_flag() {
        for (command, flags) in [
            (
                "load run tcp:127.0.0.1:1 --closed",
                "--connections --for --warm-up --timeout --size --queue --seed --slo --target-pid",
            ),
            ("load run tcp:127.0.0.1:1", "--rate"),
            ("load run tcp:127.0.0.1:1 --rate 1", "--arrival"),
            ("demo", "--for --connections --size"),
            ("serve http --listen 127.0.0.1:0", "--idle-timeout --connections --size"),
            ("proxy tcp --upstream 127.0.0.1:1", "--listen"),
            (
                "proxy tcp --upstream 127.0.0.1:1 --listen 127.0.0.1:0",
                "--balance --connect-timeout --retries --proxy-protocol --proxy-trusted --proxy-untrusted --send-proxy \
                 --group --sni --first-bytes-timeout",
            ),
        ] {
            for flag in flags.split(' ') {
                let line = refused(&format!("{command} {flag} -1"));
                assert!(
                    line.contains(flag) && line.contains("-1") && line.contains("allowed"),
                    "{flag}: {line}"
                );
                assert!(!line.contains("unexpected"), "{flag}: {line}");
            }
        }
        // These are read later, with their variables.
        let given =
            ["waterwheel", "demo", "--steer", "-1", "--reactor", "-1", "--log", "-1"].map(OsString::from);
        Arguments::of(&given).map(drop).unwrap();
    }

    #[test]
    fn an_unknown_command_or_flag_is_told_with_what_there_is() {
        for (line, parts) in [
            ("prxy", &["prxy", "; allowed: demo, load, proxy, reactors, serve"][..]),
            ("proxy udp", &["udp", "; allowed: tcp"]),
            (
                "load run tcp:127.0.0.1:1 --closed --duration 5s",
                &["--duration", "; allowed: --rate, --arrival, ", "--cores"],
            ),
            ("demo surplus", &["surplus", "; allowed: --for, --connections, --size, --json, --cores"]),
            ("--bogus demo", &["--bogus", "; allowed: --cores, "]),
            ("load run tcp:127.0.0.1:1 --closed --for 1ms", &["--for", "1ms", "; allowed: 10ms to a year"]),
            (
                "load run tcp:127.0.0.1:1 --closed --timeout 0s",
                &["--timeout", "0s", "; allowed: 1ms to a year"],
            ),
        ] {
            let told = refused(line);
            parts.iter().for_each(|part| assert!(told.contains(part), "{part:?} is missing: {told}"));
            assert!(!told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn a_bad_value_is_told_in_one_line() {
        let line = refused("proxy tcp --listen nowhere");
        assert!(!line.contains('\n') && line.contains("nowhere") && line.contains("--listen"), "{line}");
    }

    #[test]
    fn bad_loads_are_told_in_one_line_with_what_is_allowed() {
        let run = ["waterwheel", "load", "run"];
        for (arguments, parts) in [
            (&["tcp:127.0.0.1:1"][..], &["--rate", "--closed"][..]),
            (&["tcp:127.0.0.1:1", "--rate", "40 k"], &["40 k", "requests per second"]),
            (&["tcp:127.0.0.1:1", "--rate", "1k", "--closed"], &["--rate", "--closed"]),
            (&["https://127.0.0.1/", "--closed"], &["https", "TLS is not offered"]),
            (&["tcp:127.0.0.1:0", "--closed"], &["tcp:127.0.0.1:0", "allowed"]),
            (&["tcp:127.0.0.1:1", "--closed", "--for", "10"], &["--for", "10", "as in 30s"]),
            (&["tcp:127.0.0.1:1", "--rate", "1", "--slo", "p99"], &["p99<1ms", "allowed"]),
            (&["tcp:127.0.0.1:1", "--rate", "1", "--arrival", "gauss"], &["gauss", "poisson, uniform"]),
        ] {
            let given: Vec<OsString> = run.iter().chain(arguments).map(OsString::from).collect();
            let line = told(&Arguments::of(&given).unwrap_err(), &given);
            assert!(!line.contains('\n'), "{line}");
            parts.iter().for_each(|part| assert!(line.contains(part), "{part:?} is missing: {line}"));
        }
    }

    #[test]
    fn loads_and_origins_of_the_manual_are_understood() {
        for line in [
            "waterwheel load run http://127.0.0.1:8080/1k --rate 40k --connections 256 --for 30s --slo p99<1ms,err<0.1%",
            "waterwheel load run unix:/run/x.sock --closed --size 1k --warm-up 0s --json --target-pid 1 --quiet",
            "waterwheel load run tcp:localhost:7 --rate 0.5 --arrival uniform --seed 7 --timeout 100ms --queue 0",
            "waterwheel serve http --listen tcp:127.0.0.1:0 --size 4k --idle-timeout 5s --connections 10",
            "waterwheel serve echo --listen unix:@echo --cores 1",
        ] {
            let given: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            Arguments::of(&given).map(drop).unwrap();
        }
    }
}
