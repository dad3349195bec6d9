//! Between shards: ports, mailboxes, calls, and the bell that says that there is something to look at.
//!
//! Shards share nothing; they send each other messages. What is to be sent is *declared* before they start, as a
//! [`Port`] (messages one way) or a [`CallPort`] (a request and its reply), and given to each shard by clone:
//!
//! | on a shard | gives | for |
//! |---|---|---|
//! | [`open`](crate::shard::Shard::open) | [`Mailbox`] | receiving, and sending |
//! | [`sender`](crate::shard::Shard::sender) | [`Sender`] | sending alone |
//! | [`serve`](crate::shard::Shard::serve) | [`Server`] | answering calls, each in a task of its own |
//! | [`caller`](crate::shard::Shard::caller) | [`Caller`] | calling |
//! | [`run_on`](crate::shard::Shard::run_on) | a future | running a closure there, now and then |
//! | [`remote`](crate::shard::Shard::remote) | [`Remote`] | threads that are not shards |
//!
//! And on top of calls, declared in the same way:
//!
//! | on a shard | gives | for |
//! |---|---|---|
//! | [`instances`](crate::shard::Shard::instances) | [`Instances`] | one object per shard ([`Sharded`]), asked by closures |
//! | [`replica`](crate::shard::Shard::replica) | [`Replica`] | a value that each shard has a copy of ([`Replicated`]) |
//! | [`count_limiter`](crate::shard::Shard::count_limiter) | [`CountLimiter`] | at most so many at once, over all shards ([`CountLease`]) |
//! | [`rate_limiter`](crate::shard::Shard::rate_limiter) | [`RateLimiter`] | at most so many per second, over all shards ([`RateLease`]) |
//! | [`key_limiter`](crate::shard::Shard::key_limiter) | [`KeyLimiter`] | both for each of many keys ([`KeyLease`]) |
//! | [`ended`](crate::shard::Shard::ended) | a future | the end of another shard |
//!
//! ```
//! use waterwheel::runtime::{Config, Runtime};
//! use waterwheel::shard::ShardId;
//!
//! # #[cfg(feature = "epoll")]
//! # fn main() -> anyhow::Result<()> {
//! let runtime = Runtime::new(Config::default().cores(2).reactor("epoll"))?;
//! let numbers = runtime.port::<u32>("numbers")?;
//! let double = runtime.call_port::<u32, u32>("double")?;
//! let sums = runtime.run(move |shard| {
//!     let (numbers, double) = (numbers.clone(), double.clone());
//!     async move {
//!         let mailbox = shard.open(&numbers)?;
//!         let other = ShardId::new(1 - shard.id().index());
//!         mailbox.send(other, 20).await?;
//!         let (from, number) = mailbox.receive().await;
//!         assert_eq!((from, number), (other, 20));
//!
//!         // A call to oneself follows the same rules: nothing runs inside the caller's stack.
//!         shard.serve(&double, |_from, number| async move { number * 2 })?;
//!         Ok(shard.caller(&double)?.call(shard.id(), number + 1).await?)
//!     }
//! })?;
//! assert_eq!(sums, [42, 42]);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "epoll"))]
//! # fn main() {}
//! ```
//!
//! What holds, and is tested as the contract's laws MESSAGE-1 to MESSAGE-12:
//!
//! * **Order** is first-in first-out per source, target and port, and nothing more.
//! * **Bounds**: a lane from one shard to one other holds so many messages, and a send waits for room. Calls wait for
//!   credit at the caller, so neither a request nor a reply ever waits in between. A turn takes so many messages from
//!   each source ([`Budgets::messages`](crate::shard::Budgets::messages)); timers and I/O are looked at between turns.
//! * **The end** of a shard is heard: sends are answered with their message ([`Closed`]), calls with
//!   [`CallError::Closed`], and what was on the way is counted ([`Port::undelivered`]). Nobody hangs.
//! * **Cost**: a message is a push into a ring (`rtrb`), and a turn rings each target once. No allocation once warm.
//!   A ring wakes its target only if that sleeps, and only the first does.
//!
//! A deadlock that no limit can prevent: a shard whose only receiving task awaits a send on the same port, or handlers
//! of two ports that call each other in a ring. Receive in a task of its own, and let calls go one way.

mod bell;
mod calls;
mod ended;
mod ends;
mod hub;
mod jobs;
mod lane;
#[cfg(test)]
#[cfg(not(loom))]
mod laws;
mod lease;
mod ledger;
mod mailbox;
mod member;
#[cfg(test)]
#[cfg(loom)]
mod models;
mod nudge;
mod port;
mod remote;
mod replica;
mod run_on;
mod set;
mod sharded;
mod stats;
mod stop;
mod sync;
mod waiters;
mod wanted;

pub use calls::{CallError, CallOptions, CallPort, Caller, Server};
pub use ended::ShardEnd;
pub use hub::Mesh;
pub use jobs::Job;
pub(crate) use lease::WeakCountLease;
pub use lease::{CountLease, CountLimiter, KeeperEnded, Permit, RateLease, RateLimiter, TryTakeError};
pub use lease::{KeyLease, KeyLimiter, KeyLimits, KeyPermit, KeyRate, KeyRefusal};
pub use mailbox::{Mailbox, Receive, Sender};
pub use port::{Closed, DeclareError, OpenError, Port, PortOptions, TrySendError};
pub use remote::{Remote, TryRunError};
pub use replica::{Replica, Replicated, Version};
pub use sharded::{Instance, Instances, InvokeError, Local, Sharded, SpreadError};
pub use stats::{MeshStats, PortStats};
pub(crate) use stop::{StopGuard, reopened};
