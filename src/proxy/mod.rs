//! Proxies, as libraries first: the `waterwheel proxy` command is one call of this.
//!
//! [`tcp::run`] moves bytes between clients and upstreams. It accepts on every shard; a connection, its upstream side
//! and its counters live on the shard that owns it, and nothing is shared on the way.

#[cfg(feature = "cli")]
pub mod config;
pub mod tcp;
