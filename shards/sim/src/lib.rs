//! placeholder
#![forbid(unsafe_code)]

mod calls;
mod drive;
mod end;
mod errno;
mod fault;
mod halves;
mod host;
mod names;
mod options;
pub mod outside;
mod random;
mod reactor;
mod report;
mod shard;
mod socket;
mod state;
#[cfg(test)]
mod tests;
mod trace;
mod wire;
mod world;

pub use fault::{Rule, Verdict, Whom};
pub use options::Options;
pub use random::Random;
pub use report::Stuck;
pub use shard::Done;
pub use trace::{Event, Id, What};
pub use world::{Host, Standing, World};
