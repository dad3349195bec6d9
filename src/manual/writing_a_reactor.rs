//! Writing a reactor of your own.
//!
//! Where it is explained: the documentation of [`waterwheel_reactor`](crate::reactor), in the order in which one writes
//! it, with a whole loop that compiles. Where it is done: `examples/own_reactor`, 300 lines on the `polling`
//! crate, and `shards/epoll`, which is made for speed. This chapter is about joining, and about what goes wrong.
//!
//! # Joining
//!
//! A backend joins by its name, which the environment may choose. It may also wrap another one. Here, one that counts
//! the sockets it was asked for:
//!
//! ```
//! use std::io;
//! use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
//! use waterwheel::reactor::{Address, Backend, Bound, Ended, Launch, ListenOptions, Unavailable};
//! use waterwheel::runtime::{Config, Runtime, reactors};
//!
//! #[derive(Debug)]
//! struct Counted { inner: &'static dyn Backend, sockets: AtomicUsize }
//!
//! impl Backend for Counted {
//!     fn name(&self) -> &'static str { "counted" }
//!     fn probe(&self) -> Result<(), Unavailable> { self.inner.probe() }
//!     fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
//!         self.sockets.fetch_add(count, Relaxed);
//!         self.inner.bind(at, options, count)
//!     }
//!     fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> { self.inner.run(launches) }
//! }
//!
//! # fn main() -> anyhow::Result<()> {
//! let counted: &'static Counted = Box::leak(Box::new(Counted { inner: reactors()[0], sockets: AtomicUsize::new(0) }));
//! // As WATERWHEEL_REACTOR=counted would, with `Runtime::from_env_with(&[counted])`.
//! let runtime = Runtime::with_backends(Config::default().cores(2).reactor("counted"), &[counted])?;
//! let listening = runtime.listen("tcp:127.0.0.1:0")?;
//! runtime.run(|shard| async move { Ok(shard.id()) })?;
//! assert_eq!(counted.sockets.load(Relaxed), 2, "each shard listens with a socket of its own");
//! # Ok(())
//! # }
//! ```
//!
//! # What goes wrong
//!
//! What reactors get wrong, and the law that finds it:
//!
//! | mistake | law |
//! |---|---|
//! | a wake between the last look and the sleep is lost | WAKE-2; use [`Doorbell`](crate::reactor::Doorbell) |
//! | a root that always wakes itself never sees its sockets | WAKE-5: look, without sleeping, in every turn |
//! | the kernel reports a reset once, to the half that asks first; the other sees a clean end | STREAM-5 |
//! | a writer waits, the peer resets, and only a reader would be told | STREAM-12 |
//! | dropping a sink sends no end, or cuts off what it took | STREAM-7 |
//! | an abort sends FIN, which looks like a clean end | STREAM-6 |
//! | a connection was released, and its first shard still wakes for it | HAND-1 |
//! | an event for a closed descriptor reaches the next one with its number | STREAM-14 |
//! | without a descriptor left, accepting spins or stays silent for ever | LISTEN-4 |
//! | a ring or a buffer is left behind by each life | LIFE-3 |
//!
//! Run the suite from the first day, one group at a time (`cargo test --test own_reactor -- TIME`): what is not written
//! yet fails with the name of what is missing.
