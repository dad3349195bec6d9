//! A TCP proxy: listeners, upstreams, and what happens in between.

mod counters;
mod first;
mod itself;
mod measures;
mod routes;
mod serve;
mod settings;
mod upstreams;

pub use counters::{Counters, Report, ShardReport, UpstreamCounters};
pub use routes::{Group, NamePattern, Route};
pub use serve::{Proxy, run};
pub use settings::{Balance, ProxyError, Settings};
