//! Waterwheel: thread-per-core reactors, messages between shards, and the proxies built on them.
#![forbid(unsafe_code)]

pub mod load;
pub mod mesh;
pub mod net;
pub mod proxy;
pub mod runtime;
pub mod shard;
pub mod steer;

#[cfg(feature = "cli")]
pub mod cli;

/// The seam that reactors implement, and the plain types that cross it.
pub use waterwheel_reactor as reactor;
