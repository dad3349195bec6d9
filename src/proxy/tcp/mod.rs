//! A TCP proxy: listeners, upstreams, and what happens in between.

pub mod access;
mod balance;
mod budget;
mod change;
mod checks;
mod clients;
mod connecting;
mod counters;
mod doors;
mod down;
mod ejection;
mod entry;
mod escapes;
mod first;
mod itself;
mod limits;
mod line;
mod measures;
mod news;
mod part;
mod plan;
mod proxy;
mod routes;
mod selection;
mod serve;
mod settings;
mod throttle;
mod upstream_settings;
mod upstreams;

pub use change::{Change, ChangeError};
pub use clients::{CLIENT_CONNECTIONS_MAX, ClientLimits, ClientRate};
pub use counters::{Counters, ProxyCounters, Report, ShardReport, UpstreamCounters, UpstreamState};
pub use escapes::unescape;
pub use plan::Named;
pub use proxy::{Proxy, Reload, run, run_all};
pub use routes::{Group, NamePattern, Route};
pub use selection::Selection;
pub use settings::{Balance, ProxyError, Settings};
pub use throttle::{THROTTLE_MAX, Throttle};
pub use upstream_settings::{
    CHECK_BYTES_MAX, CONNECTIONS_MAX, Checks, Ejection, ParseUpstreamError, RetryBudget, Upstream,
    UpstreamsError, WEIGHT_MAX,
};
