//! `waterwheel proxy tcp`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::clients::Clients;
use super::file::{FileArguments, LogArguments};
use super::upstreams::Upstreams;
use super::values::{SERVED_MAX, YEAR_MS, length, whole};
use super::{Failure, output};
use crate::load::units::parse_duration;
use crate::net::Endpoint;
use crate::net::proxy_header::{HeaderPolicy, Others, TrustedSource, Version, Wanted};
use crate::net::quoted::Quoted;
use crate::proxy::tcp::Reload;
use crate::proxy::tcp::access::{AccessLog, LogSettings};
use crate::proxy::tcp::{self, Balance, Group, ProxyError, Route, Settings, Upstream};
use crate::runtime::{Config, Runtime};

/// Proxies.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub(super) struct Proxy {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    file: FileArguments,
}

impl Proxy {
    /// Reads the file, if one is given; answers what it says of the runtime.
    pub(super) fn read(&mut self) -> Result<Config, Failure> {
        match (&self.command, self.file.is_given()) {
            (None, _) => self.file.read(),
            (Some(_), false) => Ok(Config::default()),
            (Some(_), true) => Err(Failure::Usage(
                "--config, --check: a file says all there is to say; allowed: without a command".to_owned(),
            )),
        }
    }

    pub(super) fn run(self, config: Config) -> Result<ExitCode, Failure> {
        match self.command {
            Some(Command::Tcp(tcp)) => tcp.run(config),
            None => self.file.run(config),
        }
    }
}

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
    /// an upstream. One that could not be connected comes behind the others for 5 s. With a weight (0 to 256, 0: no new
    /// connections) and the most connections over all shards, as in `tcp:10.0.0.1:80,weight=3,connections=100`.
    #[arg(long, required_unless_present = "sni", value_name = "UPSTREAM")]
    upstream: Vec<Upstream>,
    /// How an upstream is chosen: `round-robin`, `least-connections`, `two-choices` (of two by chance the less busy), or
    /// `rendezvous` (by the client's address).
    #[arg(long, default_value_t, value_name = "WAY")]
    balance: Balance,
    /// How long a connect may take, more than `0s`.
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    connect_timeout: Duration,
    /// How many other upstreams are tried when one cannot be connected.
    #[arg(long, default_value = "2", value_parser = whole::<usize, 0, 1_000>, value_name = "COUNT")]
    retries: usize,
    #[command(flatten)]
    upstreams: Upstreams,
    /// Close a connection over which nothing moved for so long; `0s`: never, but for TCP keep-alive.
    #[arg(long, default_value = "300s", value_parser = parse_duration, value_name = "TIME")]
    idle_timeout: Duration,
    /// Reset a connection that lasts for so long, whatever moves.
    #[arg(long, value_parser = length::<1, YEAR_MS>, value_name = "TIME")]
    total_timeout: Option<Duration>,
    /// The most connections served at once, over all shards and listeners; at least one for each shard.
    #[arg(long, default_value = "100000", value_parser = whole::<usize, 1, SERVED_MAX>, value_name = "COUNT")]
    connections: usize,
    #[command(flatten)]
    clients: Clients,
    /// Read PROXY headers (versions 1 and 2): `require` one of each client, or `accept` clients without one too. Who may
    /// send one says --proxy-trusted.
    #[arg(long, requires = "proxy_trusted", value_name = "WAY")]
    proxy_protocol: Option<Wanted>,
    /// Whose PROXY headers are believed: networks as in `10.0.0.0/8,2001:db8::/32`, and `unix` for clients of Unix sockets.
    /// May be given several times.
    #[arg(long, requires = "proxy_protocol", value_delimiter = ',', value_name = "LIST")]
    proxy_trusted: Vec<TrustedSource>,
    /// What becomes of clients that are not trusted: `refuse` resets them, `pass` serves them and believes nothing.
    #[arg(long, requires = "proxy_protocol", default_value_t, value_name = "WAY")]
    proxy_untrusted: Others,
    /// Tell upstreams who the client is, in a PROXY header of version `v1` or `v2`.
    #[arg(long, value_name = "VERSION")]
    send_proxy: Option<Version>,
    /// Where connections of a group go, as in `shop=tcp:10.0.0.1:443`. May be given several times, also for one group.
    #[arg(long, requires = "sni", value_parser = member, value_name = "NAME=UPSTREAM")]
    group: Vec<(String, Upstream)>,
    /// Send clients to a group by the server's name in their TLS hello, which is passed on: `shop.example.org=shop`, or
    /// `*.example.org=shop` for all names below it. May be given several times. Others go to --upstream.
    #[arg(long, requires = "group", value_name = "NAME=GROUP")]
    sni: Vec<Route>,
    /// How long a client's PROXY header and TLS hello may take together, where they are read; more than `0s`.
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    first_bytes_timeout: Duration,
    #[command(flatten)]
    log: LogArguments,
    /// Print counters as JSON.
    #[arg(long)]
    json: bool,
}

/// `NAME=UPSTREAM`: an upstream of a group.
fn member(text: &str) -> Result<(String, Upstream), String> {
    let (name, upstream) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
        format!("{} is not NAME=UPSTREAM; allowed: as in shop=tcp:10.0.0.1:443", Quoted(text))
    })?;
    Ok((name.to_owned(), upstream.parse().map_err(|error| format!("{error}"))?))
}

/// Each name once, in the order in which they came first.
fn groups(members: Vec<(String, Upstream)>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (name, upstream) in members {
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.upstreams.push(upstream),
            None => groups.push(Group::new(name, vec![upstream])),
        }
    }
    groups
}

impl Tcp {
    fn run(self, config: Config) -> Result<ExitCode, Failure> {
        let header = self.proxy_protocol.map(|wanted| {
            let others = self.proxy_untrusted;
            HeaderPolicy { others, ..HeaderPolicy::new(wanted, self.proxy_trusted) }
        });
        let settings = Settings {
            header,
            send_header: self.send_proxy,
            groups: groups(self.group),
            routes: self.sni,
            first_bytes_timeout: self.first_bytes_timeout,
            balance: self.balance,
            connect_timeout: self.connect_timeout,
            retries: self.retries,
            idle_timeout: Some(self.idle_timeout).filter(|idle| !idle.is_zero()),
            throttle: self.clients.throttle()?,
            total_timeout: self.total_timeout,
            connections: self.connections,
            clients: self.clients.limits()?,
            upstreams: self.upstream,
            ..self.upstreams.settings(self.listen)?
        };
        let runtime = Runtime::new(config)?;
        let log = self.log.settings(None)?;
        let proxy = tcp::Proxy::bind(&runtime, settings).map_err(failure)?;
        serve(runtime, proxy, log, self.json, None, failure)
    }
}

/// What an error of flags is told as.
fn failure(error: ProxyError) -> Failure {
    let flag = match &error {
        ProxyError::TooFewConnections { .. } => "--connections: ",
        ProxyError::NoTimeToConnect => "--connect-timeout: ",
        ProxyError::NoTimeForFirstBytes => "--first-bytes-timeout: ",
        ProxyError::UnroutedGroup { .. } => "--group: ",
        ProxyError::NoGroup { .. } | ProxyError::RouteTwice { .. } => "--sni: ",
        ProxyError::Value { .. } | ProxyError::Upstreams(_) => "--",
        ProxyError::NoListener | ProxyError::NoUpstream | ProxyError::Itself { .. } => "",
        _ => {
            return match error {
                ProxyError::Start(error) => error.into(),
                error => Failure::Run(error.to_string()),
            };
        }
    };
    Failure::Usage(format!("{flag}{error}"))
}

/// Runs proxies that are bound to their end.
pub(super) fn serve(
    runtime: Runtime,
    proxy: tcp::Proxy,
    log: Option<LogSettings>,
    json: bool,
    reload: Option<Reload>,
    failure: impl Fn(ProxyError) -> Failure,
) -> Result<ExitCode, Failure> {
    let text = move |report: &tcp::Report| {
        if json { output::json(report) } else { Ok(report.to_string()) }
    };
    // What cannot be said now is no reason to stop.
    let say = move |report| {
        if let Err(failure) = text(&report).and_then(|text| output::out(&text)) {
            failure.tell();
        }
    };
    if let Some(log) = log {
        let started = AccessLog::start(&log);
        let wrong = |error| Failure::Run(format!("cannot write an access log to {}: {error}", log.target));
        proxy.log_to(started.map_err(wrong)?);
    }
    let ready = |proxy: &tcp::Proxy| {
        proxy.local().iter().for_each(|at| output::err(&format!("waterwheel: listening on {at}\n")));
    };
    match tcp::run_all(runtime, proxy, ready, say, reload) {
        Ok(report) => {
            output::last_out(text(&report)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(ProxyError::Run { error, report }) => {
            say(*report);
            Err(Failure::Run(error.to_string()))
        }
        Err(error) => Err(failure(error)),
    }
}
