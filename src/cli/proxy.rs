//! `waterwheel proxy tcp`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::values::{SERVED_MAX, whole};
use super::{Failure, output};
use crate::load::units::parse_duration;
use crate::net::Endpoint;
use crate::proxy::tcp::{self, Balance, ProxyError, Settings};
use crate::runtime::{Config, Runtime};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Moves bytes between clients and upstreams. SIGUSR1 prints the counters, SIGTERM drains.
    Tcp(Tcp),
}

#[derive(Debug, Args)]
pub(super) struct Tcp {
    /// Where clients connect: `tcp:HOST:PORT` or `unix:PATH`. May be given several times. A host that is a name stands for
    /// the first of its addresses.
    #[arg(long, required = true, value_name = "ENDPOINT")]
    listen: Vec<Endpoint>,
    /// Where connections go. May be given several times. A name is looked up once, at the start; each of its addresses is
    /// an upstream. One that could not be connected comes behind the others for 5 s.
    #[arg(long, required = true, value_name = "ENDPOINT")]
    upstream: Vec<Endpoint>,
    /// How an upstream is chosen: `round-robin` or `least-connections`.
    #[arg(long, default_value_t, value_name = "WAY")]
    balance: Balance,
    /// How long a connect may take, more than `0s`.
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    connect_timeout: Duration,
    /// How many other upstreams are tried when one cannot be connected.
    #[arg(long, default_value = "2", value_parser = whole::<usize, 0, 1_000>, value_name = "COUNT")]
    retries: usize,
    /// Close a connection over which nothing moved for so long; `0s`: never, but for TCP keep-alive.
    #[arg(long, default_value = "300s", value_parser = parse_duration, value_name = "TIME")]
    idle_timeout: Duration,
    /// The most connections served at once, over all shards and listeners; at least one for each shard.
    #[arg(long, default_value = "100000", value_parser = whole::<usize, 1, SERVED_MAX>, value_name = "COUNT")]
    connections: usize,
    /// Print counters as JSON.
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) fn run(self, config: Config) -> Result<ExitCode, Failure> {
        let Command::Tcp(tcp) = self;
        tcp.run(config)
    }
}

impl Tcp {
    fn run(self, config: Config) -> Result<ExitCode, Failure> {
        let json = self.json;
        let text = move |report: &tcp::Report| {
            if json { output::json(report) } else { Ok(report.to_string()) }
        };
        // What cannot be said now is no reason to stop.
        let say = move |report| {
            if let Err(failure) = text(&report).and_then(|text| output::out(&text)) {
                failure.tell();
            }
        };
        let settings = Settings {
            balance: self.balance,
            connect_timeout: self.connect_timeout,
            retries: self.retries,
            idle_timeout: Some(self.idle_timeout).filter(|idle| !idle.is_zero()),
            connections: self.connections,
            ..Settings::new(self.listen, self.upstream)
        };
        let runtime = Runtime::new(config)?;
        let ready = |proxy: &tcp::Proxy| {
            proxy.local().iter().for_each(|at| output::err(&format!("waterwheel: listening on {at}\n")));
        };
        match tcp::run(runtime, settings, ready, say) {
            Ok(report) => {
                output::last_out(text(&report)?)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(ProxyError::Start(error)) => Err(error.into()),
            Err(error @ ProxyError::TooFewConnections { .. }) => {
                Err(Failure::Usage(format!("--connections: {error}")))
            }
            Err(error @ ProxyError::NoTimeToConnect) => {
                Err(Failure::Usage(format!("--connect-timeout: {error}")))
            }
            Err(error @ (ProxyError::NoListener | ProxyError::NoUpstream | ProxyError::Itself { .. })) => {
                Err(Failure::Usage(error.to_string()))
            }
            Err(ProxyError::Run { error, report }) => {
                say(*report);
                Err(Failure::Run(error.to_string()))
            }
            Err(error) => Err(Failure::Run(error.to_string())),
        }
    }
}
