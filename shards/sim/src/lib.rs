//! A reactor in a simulated world: every shard on one thread, virtual time, a seed that decides, faults by rule.
//!
//! A [`World`] has [`Host`]s and a network between them. Each host is a [`Backend`](waterwheel_reactor::Backend), so a
//! program runs on it unchanged, with as many shards as it asks for; several hosts are several programs that talk to
//! each other. The same seed and options give the same run, event by event, and so a failure that comes once in ten
//! thousand runs comes again whenever its seed is given.
//!
//! ```
//! use std::{future::poll_fn, time::Duration};
//! use waterwheel_reactor::{Backend, Launch, Root};
//! use waterwheel_sim::World;
//!
//! let world = World::drawn(7);
//! let mut once = true;
//! let launch = Launch {
//!     shard: 0, name: "sleeper-0".into(), prepare: Box::new(|| {}),
//!     start: Box::new(move |reactor| std::mem::take(&mut once).then(|| -> Root {
//!         let late = reactor.now() + Duration::from_secs(3_600);
//!         Box::pin(async move { poll_fn(|cx| reactor.poll_until(cx, late)).await })
//!     })),
//! };
//! world.host("sleeper").run(vec![launch]).unwrap();
//! assert!(world.now().as_nanos() >= 3_600_000_000_000, "an hour has passed, in no time");
//! assert!(world.left_over().is_empty());
//! ```
//!
//! # Time
//!
//! One clock for the whole world, which no shard is ahead of. It moves
//!
//! * by a drawn time with each turn of a shard ([`Options::turn_min`] to [`Options::turn_max`]), so work takes time, and
//!   shards take their turns one after the other, as on one processor;
//! * by 20 ns with each look at it, so that a loop that waits for the clock ends;
//! * to the next thing that is to happen when no shard has anything to do: an hour's sleep takes no time.
//!
//! # What is drawn
//!
//! Which of the shards that are ready is polled next, and now and then one that is not; how late a wake or an alarm is;
//! how long each packet takes; how many bytes travel together, are taken by a write, are lent to a read; which
//! connection of a queue is accepted, which socket of a group gets it; whether a reset destroys what came before it;
//! each shard's own [`seed`](waterwheel_reactor::Reactor::seed). All of it comes from one stream of numbers
//! ([`Random`]), in the order in which things happen, with the odds that [`Options`] hold. What goes *wrong* comes from
//! [`Rule`]s alone: each is a [`Verdict`], and when, to whom and how often it is passed.
//!
//! # What a program must not do
//!
//! A run can only be repeated if nothing but the seed decides. So a program that runs here
//!
//! * asks its reactor for the time and for random numbers, and nobody else;
//! * makes no threads, and waits for none: whatever comes from one comes at any time;
//! * iterates over no map with a random hasher, and orders nothing by addresses in memory;
//! * reads and writes nothing past the seam: no files, no sockets of the system, no environment.
//!
//! [`World::trace_hash`] is a hash over all that happened: a program that breaks these rules is found by running a seed
//! twice.
//!
//! # What is not simulated
//!
//! * The packets of TCP: no loss but by rule, no congestion, no reordering, no windows that close by mistake. Keep-alive,
//!   retries and their limits are those of Linux as it comes. Acknowledgements are no packets either: a partition of
//!   one direction holds back what is said in it, and not that it was heard.
//! * Descriptors: [`Source::descriptor`](waterwheel_reactor::Source::descriptor) has none, and nothing can be watched.
//!   They are counted, and may run out.
//! * Files: a Unix socket's path is a name, free again once its socket is closed.
//! * Datagrams that are merged or cut by the network, and what they fill beside the receiver's queue; signals, processes; the memory that sockets take; processors, and what they do at the same time.
//!
//! # Live worlds
//!
//! [`World::live`] has real time, in which nothing is drawn and nothing takes time, and lets threads that are no shards
//! take part: they wake shards, and have blocking sockets ([`outside`]). The laws of a reactor are run on one, so that
//! what the simulator does is held to what the real reactors do.
//!
//! # Where things are
//!
//! | file | what is in it |
//! |---|---|
//! | `world` | what one who builds a world sees of it, and its hosts |
//! | `options`, `fault`, `random` | what it is like, what goes wrong, what decides |
//! | `state` | its memory, and what is to happen when |
//! | `drive`, `shard` | the loop, and when a shard's turn comes |
//! | `reactor`, `halves` | the seam: what a shard has |
//! | `host`, `socket`, `names` | addresses and descriptors; listening and connecting; names |
//! | `end`, `wire`, `calls` | an end of a connection; how its bytes travel; what its owner may ask |
//! | `datagrams`, `outlet` | datagram sockets: what becomes of what they send; the seam |
//! | `outside` | sockets for threads of a live world |
//! | `trace`, `report` | what happened; who waits for what, and what is left over |
#![forbid(unsafe_code)]

mod calls;
mod datagrams;
mod drive;
mod end;
mod errno;
mod fault;
mod halves;
mod host;
mod names;
mod options;
mod outlet;
pub mod outside;
mod random;
mod reactor;
mod report;
mod shard;
mod socket;
mod state;
mod steered;
#[cfg(test)]
mod tests;
mod trace;
mod wire;
mod world;

pub use drive::PLANNED;
pub use fault::{Rule, Verdict, Whom};
pub use options::Options;
pub use random::Random;
pub use report::Stuck;
pub use shard::Done;
pub use trace::{Event, Id, What};
pub use world::{Host, Standing, World};
