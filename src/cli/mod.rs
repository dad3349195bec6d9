//! The `waterwheel` command: arguments become values, values become one call.

mod demo;
mod knobs;
mod output;
mod proxy;
mod reactors;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

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
    /// Proxies.
    #[command(subcommand)]
    Proxy(proxy::Command),
    /// The reactors of this build, and which of them can run here.
    Reactors,
}

/// How the command ended, as its exit code: 0 as asked, 1 it could not start or run, 2 it was asked for nonsense.
#[derive(Debug)]
enum Failure {
    /// What was asked makes no sense: one line.
    Usage(String),
    /// What was asked could not be done: one line.
    Run(String),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::out(&error.to_string());
            return ExitCode::SUCCESS;
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::err(&error.to_string());
            return ExitCode::from(2);
        }
        Err(error) => return finish(Err(Failure::Usage(one_line(&error.to_string())))),
    };
    finish(arguments.run())
}

impl Arguments {
    fn run(self) -> Result<ExitCode, Failure> {
        let config = self.knobs.config()?;
        output::log(config.log_filter());
        match self.command {
            Command::Demo(demo) => demo.run(config),
            Command::Proxy(proxy) => proxy.run(config),
            Command::Reactors => reactors::run(&config),
        }
    }
}

fn finish(result: Result<ExitCode, Failure>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(Failure::Usage(line)) => {
            output::err(&format!("waterwheel: {line}\n"));
            ExitCode::from(2)
        }
        Err(Failure::Run(line)) => {
            output::err(&format!("waterwheel: {line}\n"));
            ExitCode::FAILURE
        }
    }
}

/// What is wrong, of a message that goes on with usage and advice.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let lines =
        message.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
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
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_bad_value_is_told_in_one_line() {
        let error =
            Arguments::try_parse_from(["waterwheel", "proxy", "tcp", "--listen", "nowhere"]).unwrap_err();
        let line = one_line(&error.to_string());
        assert!(!line.contains('\n') && line.contains("nowhere") && line.contains("--listen"), "{line}");
    }
}
