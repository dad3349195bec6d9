//! The laws of the whole, on real sockets: the command as it was built, and runtimes in this process.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod again;
mod blocking;
mod cli;
mod clients;
mod crowded;
mod cut;
mod datagrams;
mod ending;
mod endless;
mod full;
mod grouped;
mod handing;
mod headers;
mod kit;
mod leased;
mod left;
mod lifecycle;
mod limits;
mod load;
mod logged;
mod measured;
mod pressure;
mod programs;
mod proxy;
mod quotas;
mod refused;
mod reloaded;
mod renamed;
mod services;
mod shards;
mod shares;
mod spoken;
mod steering;
mod supervised;
mod throttled;
mod upstreams;
