//! A TCP proxy: listeners, upstreams, and what happens in between.

mod counters;
mod first;
mod itself;
mod routes;
mod serve;
mod settings;
mod upstream_settings;
mod upstreams;

pub use counters::{Counters, Report, ShardReport, UpstreamCounters};
pub use routes::{Group, NamePattern, Route};
pub use serve::{Proxy, run};
pub use settings::{Balance, ProxyError, Settings};
pub use upstream_settings::{
    CHECK_BYTES_MAX, Checks, Ejection, ParseUpstreamError, RetryBudget, Upstream, UpstreamsError, WEIGHT_MAX,
};
