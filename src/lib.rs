//! Waterwheel: thread-per-core reactors, messages between shards, and the proxies built on them.
//!
//! Each CPU core turns its own reactor. A connection is served by one shard, as a rule the one that a hash of the client's
//! address and port names, and by no other unless the program hands it on. Shards share nothing; what they have to say to
//! each other they send.
//!
//! ```text
//!             core 0                               core 1                    … core N
//!  +--------------------------+         +--------------------------+
//!  | shard 0                  |         | shard 1                  |     one thread each, pinned;
//!  |   tasks, timers          |         |   tasks, timers          |     no locks inside
//!  |   connections            |         |   connections            |
//!  |   mailbox      <=========|= lanes =|=========>      mailbox   |     ports: bounded, typed
//!  +--------------------------+         +--------------------------+
//!  | reactor (uring, epoll, … |         | reactor                  |     how one core waits
//!  |          or your own)    |         |                          |
//!  +------------+-------------+         +-------------+------------+
//!               | its own listening socket            | its own       (SO_REUSEPORT)
//!  +------------+-------------------------------------+------------+
//!  | kernel                                                        |
//!  +---------------------------------------------------------------+
//! ```
//!
//! # A program
//!
//! Each shard keeps a total that needs no lock, and the others add to it by calls:
//!
//! ```
//! use std::{cell::Cell, future::ready};
//! use waterwheel::runtime::Runtime;
//!
//! fn main() -> anyhow::Result<()> {
//!     let runtime = Runtime::from_env()?; // one pinned thread per core, unless the environment says otherwise
//!     let (port, shards) = (runtime.call_port("total")?, runtime.shards());
//!     let answers = runtime.run(move |shard| {
//!         let port = port.clone();
//!         async move {
//!             let total = Cell::new(0); // never leaves its shard
//!             let _serving = shard.serve(&port, move |_from, more: usize| {
//!                 total.set(total.get() + more);
//!                 ready(total.get())
//!             })?;
//!             let caller = shard.caller(&port)?;
//!             Ok(caller.call(shard.id(), 1).await?) // to oneself or to another, the same rules
//!         }
//!     })?;
//!     assert_eq!(answers, vec![1; shards]);
//!     Ok(())
//! }
//! ```
//!
//! # The words
//!
//! | word | is | here |
//! |---|---|---|
//! | reactor, backend | how one core waits; a value that runs reactors | [`reactor::Reactor`], [`reactor::Backend`] |
//! | shard | one core's world, and the handle to it | [`shard::Shard`] |
//! | runtime | all shards, started together | [`runtime::Runtime`] |
//! | turn | one poll of a shard: messages, timers, tasks, each within a budget | [`shard::Budgets`] |
//! | group, shares | tasks that share a shard's time with others, and how much of it they get | [`shard::Group`], [`shard::Shares`] |
//! | port, mailbox | a typed channel over all shards, and a shard's end of it | [`mesh::Port`], [`mesh::Mailbox`] |
//! | call | a request to another shard, and its reply or an error | [`mesh::CallPort`], [`mesh::Caller`] |
//! | lane, bell | the queue from one shard to one other; the word that says "look" | [`mesh`] |
//! | remote | the way in for other threads | [`mesh::Remote`] |
//! | deferred, resolver | a value to come, and who gives it | [`shard::Deferred`], [`shard::Resolver`] |
//! | connection, endpoint | a transport with async methods; where to listen or connect | [`net::Connection`], [`net::Endpoint`] |
//! | service | one instance per shard: start, connection, stop | [`runtime::Service`] |
//! | steer | to decide which shard owns a connection | [`steer::Mode`] |
//!
//! # The floors
//!
//! A module imports its own directory and lower floors, never a higher one. Lowest first:
//!
//! | floor | knows |
//! |---|---|
//! | [`reactor`] | the seam: what a reactor promises; implemented by the crates `waterwheel-uring`, `waterwheel-epoll`, `waterwheel-glommio` and `waterwheel-sim` |
//! | [`shard`] | one core: tasks, timers, deferred values, the turn |
//! | [`mesh`] | between shards: ports, lanes, bells, calls, stop |
//! | [`steer`] | which shard: the hash and its modes |
//! | [`net`] | connections, listeners, endpoints, forwarding; frames, layers, protocols; HTTP/1 heads |
//! | [`metrics`] | counters of each shard, merged by message; the admin endpoint |
//! | [`runtime`] | settings, CPUs, start, signals, drain |
//! | [`process`] | child processes, and programs that are kept running |
//! | `sim` | whole programs in simulated worlds, for tests |
//! | [`proxy`], [`load`] | the programs, as libraries |
//! | `cli` | the `waterwheel` command: arguments become values, values one call |
//!
//! Why it is like this, and what to expect of each part: the [`manual`].
#![forbid(unsafe_code)]

pub mod load;
pub mod manual;
pub mod mesh;
pub mod metrics;
pub mod net;
pub mod process;
pub mod proxy;
pub mod runtime;
pub mod shard;
pub mod steer;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "sim")]
pub mod sim;

/// The seam that reactors implement, and the plain types that cross it.
pub use waterwheel_reactor as reactor;

/// Compiles the code in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
