//! `waterwheel demo`: the whole path on this machine, in a few seconds.

mod run;
mod show;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::values::{length, whole};
use super::{Failure, output};
use crate::runtime::{Config, Runtime};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How long the load runs: long enough that every connection says something, and no endurance test.
    #[arg(long = "for", default_value = "3s", value_parser = length::<100, 3_600_000>, value_name = "TIME")]
    length: Duration,
    /// Connections that each shard opens to the proxy.
    #[arg(long, default_value = "32", value_parser = whole::<u32, 1, 2_000>, value_name = "COUNT")]
    connections: u32,
    /// Bytes per message.
    #[arg(long, default_value = "64", value_parser = whole::<u32, 1, 65_536>, value_name = "BYTES")]
    size: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self, config: Config) -> Result<ExitCode, Failure> {
        let runtime = Runtime::new(config)?;
        let asked =
            run::Asked { length: self.length, connections: self.connections, size: self.size as usize };
        let result = run::run(runtime, asked).map_err(|error| Failure::Run(format!("{error:#}")))?;
        output::out(&if self.json { output::json(&result)? } else { result.to_string() })?;
        Ok(if result.right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
