//! What a TCP proxy is asked to do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::clients::ClientLimits;
use super::counters::Report;
use super::routes::{Group, NamePattern, Route};
use super::throttle::Throttle;
use super::upstream_settings::{Checks, Ejection, RetryBudget, Upstream, UpstreamsError};
use crate::net::proxy_header::{HeaderPolicy, Version};
use crate::net::quoted::Quoted;
use crate::net::{Endpoint, ResolveError};
use crate::runtime::{RunError, StartError};

/// The settings of one TCP proxy. Every field has a default but the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where clients connect. At least one.
    pub listen: Vec<Endpoint>,
    /// Where connections go that no route takes elsewhere. At least one, unless there are routes: then without any, what no
    /// route takes is reset. A name that has several addresses is as many upstreams.
    pub upstreams: Vec<Upstream>,
    /// How an upstream is chosen.
    pub balance: Balance,
    /// How long a connect may take, more than zero. Default 5 s.
    pub connect_timeout: Duration,
    /// How many other upstreams are tried when one cannot be connected. Default 2; never more than there are. A shortage
    /// of our own (descriptors, memory) is no reason to try another.
    pub retries: usize,
    /// What all retries together may be; `None`: whatever they come to. Default: as [`RetryBudget`] says.
    pub retry_budget: Option<RetryBudget>,
    /// Active checks of upstreams. Default: none.
    pub checks: Option<Checks>,
    /// Whether upstreams that fail for clients are left alone. Default: no.
    pub ejection: Option<Ejection>,
    /// If less than this share of a group's upstreams is healthy (neither found down nor ejected), all of them are
    /// used, since what is left would hardly bear it and the checks may be wrong: 0 to 100 percent; 0: never, so that
    /// clients are reset if none is healthy. Those that are draining are not counted. Default 50.
    pub panic_percent: u32,
    /// An upstream that is healthy again gets a tenth of its weight, which grows to all of it in so long; `None`: all of
    /// it at once. More than zero. Default: none.
    pub slow_start: Option<Duration>,
    /// How long a client waits for a place where each upstream that it could go to has as many connections as
    /// [it takes](Upstream::connections); then it is reset. A tenth of a second
    /// at least, since other shards may have places to spare and are asked for them. Default 5 s.
    pub queue_timeout: Duration,
    /// The most clients of each group that wait so, over all shards; each shard has its even part, and one at least. One
    /// more is reset at once. Default 1000.
    pub queue_length: usize,
    /// A connection over which nothing moves for so long is closed; `None`: never. Default 300 s. With none,
    /// or one of more than 10 minutes, TCP keep-alive ends connections whose peer is gone: asked after 2 minutes of
    /// silence, then every 12 s, as often as `net.ipv4.tcp_keepalive_probes` says.
    pub idle_timeout: Option<Duration>,
    /// A connection that lasts for so long is reset, whatever moves; `None`: as long as it likes. From when it was accepted,
    /// all that comes before an upstream included. More than zero. Default: none.
    pub total_timeout: Option<Duration>,
    /// The most bytes per second of each connection. Default: as many as there are.
    pub throttle: Throttle,
    /// The most connections served at once, over all shards and listeners, and at least one for each shard. Each shard
    /// has its even part. A shard at its part goes on accepting for those that are below theirs; once all are
    /// at theirs nobody accepts, and clients wait in the kernel's backlog. Default 100 000.
    pub connections: usize,
    /// What each client may have of them. Default: as much as there is.
    pub clients: ClientLimits,
    /// Whose PROXY headers are believed, and who has to send one. Default: nobody's, and what looks like one is passed on.
    pub header: Option<HeaderPolicy>,
    /// Tell each upstream first, in a PROXY header of this version, who the client is: what a believed header said, or the
    /// ends of the client's connection. Version 2 has a checksum, the other values of a believed header, and the
    /// server's name where routes had it read. Default: no.
    pub send_header: Option<Version>,
    /// Upstreams with names, for routes. Default: none.
    pub groups: Vec<Group>,
    /// Where connections go by the server's name that their client asks for in TLS (SNI), which is passed on as it is.
    /// Who asks for none, or speaks something else than TLS, goes to the upstreams without a name. Default: none.
    pub routes: Vec<Route>,
    /// How long the header and the client's hello may take, together, where they are read. More than zero; more than 3 s
    /// let TCP repeat what was lost. Default 5 s.
    pub first_bytes_timeout: Duration,
}

impl Default for Settings {
    /// Without any endpoint, which nobody can run.
    fn default() -> Settings {
        Settings::new(Vec::new(), Vec::new())
    }
}

impl Settings {
    /// With the defaults.
    pub fn new(listen: Vec<Endpoint>, upstreams: Vec<Endpoint>) -> Settings {
        Settings {
            listen,
            upstreams: upstreams.into_iter().map(Upstream::new).collect(),
            balance: Balance::default(),
            connect_timeout: Duration::from_secs(5),
            retries: 2,
            retry_budget: Some(RetryBudget::default()),
            checks: None,
            ejection: None,
            panic_percent: 50,
            slow_start: None,
            queue_timeout: Duration::from_secs(5),
            queue_length: 1000,
            idle_timeout: Some(Duration::from_secs(300)),
            total_timeout: None,
            throttle: Throttle::default(),
            connections: 100_000,
            clients: ClientLimits::default(),
            header: None,
            send_header: None,
            groups: Vec::new(),
            routes: Vec::new(),
            first_bytes_timeout: Duration::from_secs(5),
        }
    }

    /// Whether something is done between a client and its upstream before bytes are passed on.
    pub(super) fn asks_first(&self) -> bool {
        self.header.is_some() || self.send_header.is_some() || !self.routes.is_empty()
    }
}

/// How the upstream of a connection is chosen. Each shard chooses for itself, from what it knows, and each way respects
/// the weights. One that could not be connected comes behind the others for 5 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other, those of greater weight more often, and spread evenly among the others.
    #[default]
    RoundRobin,
    /// The one with the fewest connections from this shard, for its weight; of equals, the next in turn.
    LeastConnections,
    /// Of two that chance names, the one with fewer connections from this shard, for its weight (Mitzenmacher, "The Power
    /// of Two Choices in Randomized Load Balancing", 2001): nearly as even, and shards that know nothing of each other
    /// do not all run to the same one.
    TwoChoices,
    /// By the client's address: a client goes to the same upstream from every shard and every proxy, and if one
    /// comes or goes only its own clients move (highest random weight: Thaler and Ravishankar, "Using Name-Based
    /// Mappings to Increase Hit Rates", 1998). The client is who a believed PROXY header says; the port does not count.
    /// Clients without an internet address go by turns.
    Rendezvous,
}

impl Balance {
    /// Every one, in the order in which they are listed to an operator.
    pub const ALL: [Balance; 4] =
        [Balance::RoundRobin, Balance::LeastConnections, Balance::TwoChoices, Balance::Rendezvous];

    /// The name by which an operator chooses it.
    pub const fn name(self) -> &'static str {
        match self {
            Balance::RoundRobin => "round-robin",
            Balance::LeastConnections => "least-connections",
            Balance::TwoChoices => "two-choices",
            Balance::Rendezvous => "rendezvous",
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Balance {
    type Err = String;

    fn from_str(text: &str) -> Result<Balance, String> {
        let found = Balance::ALL.into_iter().find(|balance| balance.name() == text);
        found.ok_or_else(|| {
            let allowed = Balance::ALL.map(Balance::name).join(", ");
            format!("{} is no way to balance; allowed: {allowed}", Quoted(text))
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
    /// A header would be believed from nobody.
    #[error("PROXY headers are to be read and nobody is trusted to send them; allowed: at least one source")]
    NoTrustedSource,
    /// Every client would come too late.
    #[error("a timeout of zero leaves no time for a client's first bytes; allowed: more than 0s, as in 5s")]
    NoTimeForFirstBytes,
    /// A route to nowhere.
    #[error("the route of {pattern} leads to {}, and there is no group of that name", Quoted(.group))]
    NoGroup {
        /// Whose route.
        pattern: NamePattern,
        /// The group that is missing.
        group: String,
    },
    /// A group without an upstream.
    #[error("the group {} has no upstream", Quoted(.group))]
    EmptyGroup {
        /// Its name.
        group: String,
    },
    /// A group that no connection would ever go to.
    #[error("no route leads to the group {}", Quoted(.group))]
    UnroutedGroup {
        /// Its name.
        group: String,
    },
    /// Groups that cannot be told apart.
    #[error("two groups are called {}", Quoted(.group))]
    GroupTwice {
        /// Their name.
        group: String,
    },
    /// Routes that contradict each other, or say the same.
    #[error("{pattern} has two routes")]
    RouteTwice {
        /// Whose routes.
        pattern: NamePattern,
    },
    /// A setting out of its bounds.
    #[error("{key}: {value} makes no sense; allowed: {allowed}")]
    Value {
        /// Which, as the command's flag is called.
        key: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A setting of upstreams.
    #[error(transparent)]
    Upstreams(#[from] UpstreamsError),
    /// One of several proxies.
    #[error("proxy {}: {error}", Quoted(.name))]
    Of {
        /// Its name.
        name: String,
        /// What is wrong with it.
        error: Box<ProxyError>,
    },
    /// A listener cannot be bound beside the one that it is to replace: somebody else's share of the port, or another user's.
    #[error(
        "{error}; {other}, which it overlaps, is given up only when this one listens; allowed: give {other} up first, and \
         read the settings again for this one"
    )]
    Overlaps {
        /// The one that is given up.
        other: Endpoint,
        /// The system's reason.
        error: Box<StartError>,
    },
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

/// Whether a value is allowed; if not, why.
pub(super) fn within(
    key: &'static str,
    value: impl fmt::Debug,
    fits: bool,
    allowed: &'static str,
) -> Result<(), ProxyError> {
    if fits { Ok(()) } else { Err(ProxyError::Value { key, value: format!("{value:?}"), allowed }) }
}

impl ProxyError {
    /// Of the proxy of this name, if it has one.
    pub(super) fn of(self, name: Option<String>) -> ProxyError {
        match name {
            Some(name) => ProxyError::Of { name, error: Box::new(self) },
            None => self,
        }
    }
}
