//! Why one thread per core.
//!
//! A proxy moves bytes between sockets. What it computes is little; what it waits for is memory that another core had
//! last, a lock that another core holds, a wake-up that crosses cores. A work-stealing executor pays for all three to
//! keep every core busy with any task. Here a connection stays where it is: its socket, buffers, timers and counters are
//! touched by one core alone, so they need neither lock nor atomic, and a wake-up is a write to that core's own memory.
//!
//! ```
//! use std::{cell::Cell, rc::Rc};
//! use waterwheel::runtime::{Config, Runtime};
//!
//! // A counter that all tasks of a shard share is a `Cell` behind an `Rc`. That it never crosses a thread is not a
//! // convention: `Rc` is not `Send`, and a task that holds one compiles, since tasks do not have to be.
//! let config = Config::from_env()?.cores(2);
//! let counts = Runtime::new(config)?.run(|shard| async move {
//!     let count = Rc::new(Cell::new(0));
//!     let tasks: Vec<_> = (0..10)
//!         .map(|_| {
//!             let count = count.clone();
//!             shard.spawn("one more", async move { count.set(count.get() + 1) })
//!         })
//!         .collect();
//!     for task in tasks {
//!         task.await?;
//!     }
//!     Ok(count.get())
//! })?;
//! assert_eq!(counts, [10, 10]);
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # What it costs
//!
//! * **No stealing.** A shard with much to do gets no help from one with little. With many connections a hash spreads
//!   them well; with a few long ones it does not: of 64 connections over 2 shards, one shard has 36 or more in 38 of
//!   100 runs, by the binomial distribution.
//! * **A task that computes holds its shard up**, every connection on it included. Long work asks
//!   [`Shard::yield_if_needed`](crate::shard::Shard::yield_if_needed) now and then; a turn that took longer than
//!   `WATERWHEEL_STALL_MS` is logged; what blocks belongs on another thread, which comes back through a
//!   [`Remote`](crate::mesh::Remote).
//! * **State that all shards need** is not a `Mutex` around a map but a message to the shard that keeps it: see
//!   [`messages`](super::messages).
//!
//! # For whom it is
//!
//! For proxies, gateways and servers whose requests are short and many, and for those who want to say on which core
//! something happens. A program that computes much and waits little, or that needs libraries which bring an executor of
//! their own, is better served by a work-stealing one.
