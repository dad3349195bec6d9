//! Origins to load and to put behind a proxy: `waterwheel serve echo` and `waterwheel serve http`.
//!
//! They are as plain as a server can be, so that what is measured is the proxy. Each is a [`Service`]; memory per
//! connection is bounded, and nothing is allocated per request once warm.
//!
//! [`Service`]: crate::runtime::Service

mod echo;
mod http;
mod patience;

use std::time::Duration;

pub use echo::EchoOrigin;
pub use http::HttpOrigin;

/// What an origin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginSettings {
    /// A connection that says nothing for so long is closed; so is one that does not take what it asked for, and one
    /// that does not complete the head of its request.
    pub idle: Duration,
    /// How many connections each shard serves at once; the others wait in the kernel's backlog.
    pub connections: usize,
    /// HTTP: the length of the body where the path names none.
    pub size: u64,
}

impl Default for OriginSettings {
    /// A minute, 100 000 connections per shard, 1 KiB.
    fn default() -> OriginSettings {
        OriginSettings { idle: Duration::from_secs(60), connections: 100_000, size: 1024 }
    }
}

#[cfg(test)]
mod tests;
