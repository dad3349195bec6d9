//! How shards talk.
//!
//! A **port** is declared before the shards start, has a type and a name, and belongs to all of them. Each shard opens
//! it once and has a **mailbox** then. A **call port** is the same for a request with a reply.
//!
//! ```
//! use waterwheel::mesh::{PortOptions, TrySendError};
//! use waterwheel::runtime::{Config, Runtime};
//! use waterwheel::shard::ShardId;
//!
//! let runtime = Runtime::new(Config::from_env()?.cores(2))?;
//! let port = runtime.port_with::<u32>("numbers", PortOptions { capacity: 2 })?;
//! let received = runtime.run(move |shard| {
//!     let port = port.clone();
//!     async move {
//!         let mailbox = shard.open(&port)?;
//!         let mut sum = 0;
//!         if shard.id().index() == 0 {
//!             // To oneself, by the same rules: nothing is handled inside the call.
//!             let own = shard.id();
//!             mailbox.try_send(own, 1)?;
//!             mailbox.try_send(own, 2)?;
//!             assert!(matches!(mailbox.try_send(own, 3), Err(TrySendError::Full(3))), "it comes back");
//!             sum = mailbox.receive().await.1 + mailbox.receive().await.1;
//!             for number in 0..100 {
//!                 // Waits where the lane is full.
//!                 mailbox.send(ShardId::new(1), number).await?;
//!             }
//!         } else {
//!             for _ in 0..100 {
//!                 sum += mailbox.receive().await.1;
//!             }
//!         }
//!         Ok(sum)
//!     }
//! })?;
//! assert_eq!(received, [3, 4950]);
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # What is promised
//!
//! * **Order** is first-in first-out from one shard to one other through one port, and nothing more.
//! * **Bounds.** From each shard to each other, a port has a lane of its own, made at its first use, with as many slots
//!   as its [capacity](crate::mesh::PortOptions). A full lane gives a message back
//!   ([`try_send`](crate::mesh::Sender::try_send)) or makes its sender wait ([`send`](crate::mesh::Sender::send)); it
//!   never grows.
//! * **No deadlock by flooding.** A call waits for a credit before it is sent, and its reply has a place reserved, so a
//!   reply never waits. Handlers run as tasks of their own, so receiving never waits for sending. Two shards that flood
//!   each other both finish. A handler that calls its own port could still wait in a circle, so that is
//!   [an error](crate::mesh::CallError::Nested) that names the port.
//! * **Nobody hangs on a shard that is gone.** Sends answer [`Closed`](crate::mesh::Closed) with the message, calls end
//!   with [`CallError`](crate::mesh::CallError), and what was in a lane is dropped and
//!   [counted](crate::mesh::Port::undelivered).
//! * **A handler that panics** fails its caller and nobody else.
//! * **A call that is dropped** is cancelled. Its request is handled all the same, its late reply is dropped, and its
//!   credit comes back with that. There is no deadline but the one that is put around it:
//!   [`Shard::timeout`](crate::shard::Shard::timeout).
//! * **One wake per sleep.** A shard that is awake finds what was sent in its next turn; only one that sleeps is woken,
//!   once, by the first that has something for it. [`MeshStats`](crate::mesh::MeshStats) counts both. An idle shard
//!   makes no system call.
//!
//! # Which one to take
//!
//! | for | take |
//! |---|---|
//! | something that happens often | a [`Port`](crate::mesh::Port); with an answer, a [`CallPort`](crate::mesh::CallPort). Neither allocates per message |
//! | something that happens rarely | [`Shard::run_on`](crate::shard::Shard::run_on): a closure, three allocations |
//! | an object on every shard, with a start and a stop | [`Sharded`](crate::mesh::Sharded): closures go to the objects |
//! | settings that all read and one changes | [`Replicated`](crate::mesh::Replicated): a read takes no lock and no atomic |
//! | a limit over all shards | [`CountLease`](crate::mesh::CountLease), [`RateLease`](crate::mesh::RateLease): most takes send nothing |
//! | another thread that has something for a shard | [`Remote`](crate::mesh::Remote): a job, at most 1 024 waiting per shard |
//! | a task of the same shard | [`deferred`](crate::shard::deferred()), or an `Rc` |
