//! What a TCP proxy is asked to do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::counters::Report;
use crate::net::quoted::Quoted;
use crate::net::{Endpoint, ResolveError};
use crate::runtime::{RunError, StartError};

/// The settings of one TCP proxy. Every field has a default but the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where clients connect. At least one.
    pub listen: Vec<Endpoint>,
    /// Where connections go. At least one; a name that has several addresses is as many upstreams.
    pub upstreams: Vec<Endpoint>,
    /// How an upstream is chosen.
    pub balance: Balance,
    /// How long a connect may take, more than zero. Default 5 s.
    pub connect_timeout: Duration,
    /// How many other upstreams are tried when one cannot be connected. Default 2; never more than there are. A shortage
    /// of our own (descriptors, memory) is no reason to try another.
    pub retries: usize,
    /// A connection over which nothing moves for so long is closed; `None`: never. Default 300 s. With none,
    /// or one of more than 10 minutes, TCP keep-alive ends connections whose peer is gone: asked after 2 minutes of
    /// silence, then every 12 s, as often as `net.ipv4.tcp_keepalive_probes` says.
    pub idle_timeout: Option<Duration>,
    /// The most connections served at once, over all shards and listeners, and at least one for each shard. Each shard
    /// has its even part. A shard at its part goes on accepting for those that are below theirs; once all are
    /// at theirs nobody accepts, and clients wait in the kernel's backlog. Default 100 000.
    pub connections: usize,
}

impl Settings {
    /// With the defaults.
    pub fn new(listen: Vec<Endpoint>, upstreams: Vec<Endpoint>) -> Settings {
        Settings {
            listen,
            upstreams,
            balance: Balance::default(),
            connect_timeout: Duration::from_secs(5),
            retries: 2,
            idle_timeout: Some(Duration::from_secs(300)),
            connections: 100_000,
        }
    }
}

/// How the upstream of a connection is chosen. Each shard chooses for itself, from what it knows. One that could not be
/// connected comes behind the others for 5 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest connections from this shard; of equals, the next in turn.
    LeastConnections,
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Balance::RoundRobin => "round-robin",
            Balance::LeastConnections => "least-connections",
        })
    }
}

impl FromStr for Balance {
    type Err = String;

    fn from_str(text: &str) -> Result<Balance, String> {
        let known = [Balance::RoundRobin, Balance::LeastConnections];
        let found = known.into_iter().find(|balance| balance.to_string() == text);
        found.ok_or_else(|| {
            format!("{} is no way to balance; allowed: round-robin, least-connections", Quoted(text))
        })
    }
}

/// Why a proxy could not be started, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// No listener was given.
    #[error("a proxy needs at least one endpoint to listen on")]
    NoListener,
    /// No upstream was given.
    #[error("a proxy needs at least one upstream")]
    NoUpstream,
    /// It would connect to itself, and each connection would take all that there are.
    #[error(
        "upstream {upstream} is this proxy's own listener {listener}: every connection would come back for ever"
    )]
    Itself {
        /// The upstream as it was given.
        upstream: Endpoint,
        /// The listener that it reaches.
        listener: Endpoint,
    },
    /// A shard could not serve anybody.
    #[error(
        "a limit of {connections} for {shards} shards leaves a shard without any; allowed: at least {shards}"
    )]
    TooFewConnections {
        /// The most that were to be served at once.
        connections: usize,
        /// The shards of the runtime.
        shards: usize,
    },
    /// Every connect would fail.
    #[error("a timeout of zero leaves no time to connect; allowed: more than 0s, as in 5s")]
    NoTimeToConnect,
    /// An upstream's name is not known.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A listener or a setting.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The run did not end well.
    #[error("{error}")]
    Run {
        /// Why.
        #[source]
        error: RunError,
        /// What was counted all the same.
        report: Box<Report>,
    },
}
