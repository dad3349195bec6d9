//! A TCP proxy: listeners, upstreams, and what happens in between.

mod balance;
mod budget;
mod checks;
mod connecting;
mod counters;
mod ejection;
mod first;
mod itself;
mod line;
mod routes;
mod serve;
mod settings;
mod upstream_settings;
mod upstreams;

pub use counters::{Counters, Report, ShardReport, UpstreamCounters, UpstreamState};
pub use routes::{Group, NamePattern, Route};
pub use serve::{Proxy, run};
pub use settings::{Balance, ProxyError, Settings};
pub use upstream_settings::{
    CHECK_BYTES_MAX, CONNECTIONS_MAX, Checks, Ejection, ParseUpstreamError, RetryBudget, Upstream,
    UpstreamsError, WEIGHT_MAX,
};
