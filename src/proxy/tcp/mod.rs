//! A TCP proxy: listeners, upstreams, and what happens in between.

mod counters;
mod itself;
mod serve;
mod settings;
mod upstreams;

pub use counters::{Counters, Report, ShardReport, UpstreamCounters};
pub use serve::{Proxy, run};
pub use settings::{Balance, ProxyError, Settings};
