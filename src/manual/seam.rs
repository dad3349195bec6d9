//! What lies between a shard and its reactor.
//!
//! A **backend** is a value. It starts threads and drives *one* future on each, the shard's root; tasks, timers and
//! mailboxes live inside that future and are the same everywhere. So a program is written once, is not generic over the
//! reactor, and has no `cfg` in it:
//!
//! ```
//! use waterwheel::runtime::{Config, Runtime, reactors};
//!
//! for backend in reactors() {
//!     if let Err(why) = backend.probe() {
//!         println!("{} cannot run here: {why}", backend.name());
//!         continue;
//!     }
//!     let config = Config::default().cores(2).reactor(backend.name());
//!     let ids = Runtime::new(config)?.run(|shard| async move { Ok(shard.id().index()) })?;
//!     assert_eq!(ids, [0, 1]);
//! }
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # Why it is cut there
//!
//! * **Object-safe traits with poll methods.** An operation costs a virtual call and no allocation. Generics would put
//!   the reactor's type into every program; async methods in objects would box a future per operation.
//! * **One alarm.** The reactor keeps one deadline; the timer wheel above it is written and tested once, so that equal
//!   deadlines fire in order on every reactor.
//! * **The reactor lends what it received** ([`Source::poll_fill`](crate::reactor::Source::poll_fill)). An idle
//!   connection needs no buffer of the program's, and no memory of the program's is ever in the kernel's hands: dropping
//!   a future is all it takes to cancel.
//! * **A sink sends what it took without being polled again**, and dropping it sends that, then the end. A program
//!   cannot forget to flush.
//! * **Two halves.** A direction of a proxy is one source and one sink, and
//!   [`poll_forward`](crate::reactor::Sink::poll_forward) lets a reactor that knows both move bytes its own way.
//! * **Bind, listen, accept and adopt are apart**, since a connection may be accepted on one shard and owned by another.
//! * **No hidden clock.** Time and the seed of random choices come from the reactor, so that a run can be replayed where
//!   a reactor keeps the time.
//!
//! # What keeps it honest
//!
//! Each promise has a number, and each number is a case in `waterwheel-conformance`, run for every reactor in a process
//! of its own with a deadline and a count of descriptors and threads before and after:
//! `cargo test -p waterwheel-conformance --test laws` prints the table. A reactor that cannot keep a law for a reason
//! outside it stands in a list with the reason and a measurement; a law on that list that holds fails the run.
