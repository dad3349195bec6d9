//! The `waterwheel` command: arguments become values, values become one call.

mod demo;
mod knobs;
mod lines;
mod load;
mod output;
mod proxy;
mod reactors;
mod serve;
mod values;

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
    /// Load on a server, measured honestly.
    #[command(subcommand)]
    Load(load::Command),
    /// Proxies.
    #[command(subcommand)]
    Proxy(proxy::Command),
    /// The reactors of this build, and which of them can run here.
    Reactors,
    /// Origins: servers to load, and to put behind a proxy.
    #[command(subcommand)]
    Serve(serve::Command),
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
    let code = run();
    output::flush();
    code
}

fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return finish(output::out(&error.to_string()).map(|()| ExitCode::SUCCESS));
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
        let (Failure::Usage(line) | Failure::Run(line)) = self;
        output::err(&format!("waterwheel: {line}\n"));
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
            let error = Arguments::try_parse_from(run.iter().chain(arguments)).unwrap_err();
            let line = one_line(&error.to_string());
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
            Arguments::try_parse_from(line.split(' ')).map(drop).unwrap();
        }
    }
}
