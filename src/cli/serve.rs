//! `waterwheel serve`: origins.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use waterwheel_reactor::ListenOptions;

use super::values::{SERVED_MAX, whole};
use super::{Failure, output};
use crate::load::origin::{EchoOrigin, HttpOrigin, OriginSettings};
use crate::load::units::{parse_duration, parse_size};
use crate::net::Endpoint;
use crate::runtime::{Config, OnFailure, Runtime, Service, serve};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Sends back what comes in.
    Echo(Common),
    /// Answers HTTP/1.1 GET and HEAD: `/1k` has a body of 1024 bytes.
    Http(Http),
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Where clients connect: `tcp:HOST:PORT` or `unix:PATH`. A host that is a name stands for the first of its addresses.
    #[arg(long, value_name = "ENDPOINT")]
    listen: Endpoint,
    /// Close a connection that says nothing for so long.
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    idle_timeout: Duration,
    /// The most connections served at once, over all shards; at least one for each shard.
    #[arg(long, default_value = "100000", value_parser = whole::<u32, 1, SERVED_MAX>, value_name = "COUNT")]
    connections: u32,
}

#[derive(Debug, Args)]
pub(super) struct Http {
    #[command(flatten)]
    common: Common,
    /// Bytes of the body where the path names no size.
    #[arg(long, default_value = "1k", value_parser = parse_size, value_name = "BYTES")]
    size: u64,
}

impl Command {
    pub(super) fn run(self, config: Config) -> Result<ExitCode, Failure> {
        match self {
            Command::Echo(common) => common.serve::<EchoOrigin>(config, OriginSettings::default().size),
            Command::Http(http) => http.common.serve::<HttpOrigin>(config, http.size),
        }
    }
}

impl Common {
    fn serve<S: Service<Settings = OriginSettings>>(
        self,
        config: Config,
        size: u64,
    ) -> Result<ExitCode, Failure> {
        if self.idle_timeout.is_zero() {
            return Err(Failure::Usage(
                "--idle-timeout 0s: nobody could be served; allowed: more".to_owned(),
            ));
        }
        let runtime = Runtime::new(config)?;
        let listening = runtime.listen_with(&self.listen, &ListenOptions::default())?;
        let (total, shards) = (self.connections, runtime.shards());
        // Those that belong to a shard without any would wait for ever.
        if (total as usize) < shards {
            let wrong =
                format!("--connections {total}: fewer than the {shards} shards; allowed: one for each");
            return Err(Failure::Usage(wrong));
        }
        let idle = self.idle_timeout;
        let ran = runtime.on_failure(OnFailure::Restart).run(move |shard| {
            let connections = shard.part_of(total as usize).len();
            let (listening, settings) = (listening.clone(), OriginSettings { idle, connections, size });
            // Said once the signals are handled: whoever hears it may stop this.
            if shard.id().index() == 0 {
                output::err(&format!("waterwheel: listening on {}\n", listening.local()));
            }
            async move { serve::<S>(&shard, &listening, &settings).await }
        });
        ran.map_err(|error| Failure::Run(error.to_string()))?;
        Ok(ExitCode::SUCCESS)
    }
}
