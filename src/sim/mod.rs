//! Whole programs in simulated worlds: all shards of several runtimes on one thread, in virtual time, and a seed that
//! decides whatever real machines leave to chance.
//!
//! | type | what it is |
//! |---|---|
//! | [`check`], [`Check`] | runs a test with many seeds; says of the first failure what happened and how to replay it |
//! | [`World`] | what a test runs in: hosts, rules, time, chance |
//! | [`Host`], [`Running`] | a machine with addresses and a name; a program on it |
//! | [`Rule`], [`Verdict`] | what goes wrong, to whom, when and how often |
//! | [`Options`] | what a world is like: latencies, chunks, delays of wakes |
//!
//! ```
//! use std::time::Duration;
//! use waterwheel::sim;
//!
//! sim::check(|world| async move {
//!     let host = world.host("crew");
//!     let program = host.start(host.runtime(3), |shard| async move {
//!         shard.sleep(Duration::from_secs(3600)).await; // an hour that takes no time
//!         Ok(shard.id().index())
//!     });
//!     anyhow::ensure!(program.await? == [0, 1, 2]);
//!     anyhow::ensure!(world.now() >= waterwheel::reactor::Time::from_nanos(3_600_000_000_000));
//!     Ok(())
//! });
//! ```
//!
//! The manual's chapter `simulation` says how to write such tests, and what they ask of a program.

mod check;
mod host;
mod log;
mod world;

pub use check::{Check, Ending, check};
pub use host::{Host, Running};
pub use waterwheel_sim::{Options, Random, Rule, Standing, Stuck, Verdict, Whom};
pub use world::World;
