//! Testing a whole program in a simulated world: every shard on one thread, virtual time, and a seed that decides.
//!
//! A test builds a world of hosts, runs real programs on them (a proxy, its origins, its clients), and says what must
//! hold. [`check`](crate::sim::check) runs it with many seeds. A seed decides what real machines leave to chance: which
//! shard runs next, when a wake arrives, how long bytes travel and in how many pieces, which member of a group accepts.
//! Whatever fails, fails again with that seed.
//!
//! ```
//! use waterwheel::reactor::{Address, ConnectOptions};
//! use waterwheel::sim::{self, Rule, Verdict, World};
//!
//! async fn an_echo_comes_back(world: World) -> anyhow::Result<()> {
//!     let server = world.host("server");                  // a machine with addresses and a name
//!     let runtime = server.runtime(4);                    // what `Runtime::from_env` would be, of four shards
//!     let listening = runtime.listen("tcp:0.0.0.0:7")?;
//!     let running = server.start(runtime, move |shard| {  // what `Runtime::run` would be, without waiting for it
//!         let listening = listening.clone();
//!         async move {
//!             let echo = |mut client: waterwheel::net::Connection| async move {
//!                 let mut word = [0; 5];
//!                 client.read_exact(&mut word).await?;
//!                 client.write_all(&word).await?;
//!                 Ok(client.close().await?)
//!             };
//!             shard.accept_on(&listening)?.serve(100, echo).await;
//!             Ok(())
//!         }
//!     });
//!     world.rule(Rule::new(Verdict::ShortWrite(1)).from("server").with(0.5)); // what may go wrong
//!     // The test runs on a shard of its own, and does what any program does.
//!     let to = Address::Inet(server.at(7));
//!     let mut client = world.shard().connect(&to, &ConnectOptions::default()).await?;
//!     client.write_all(b"hello").await?;
//!     let mut word = [0; 5];
//!     client.read_exact(&mut word).await?;
//!     anyhow::ensure!(word == *b"hello", "{word:?} came back");
//!     client.close().await?;
//!     running.stop(std::time::Duration::from_secs(5));    // as SIGTERM
//!     running.await?;
//!     Ok(())
//! }
//!
//! // In a test of its own, this line is all of it. `WATERWHEEL_SEEDS=10000` before `cargo test` tries more.
//! sim::check(an_echo_comes_back);
//! ```
//!
//! # What is checked without being asked for
//!
//! * The test returned `Ok` and did not panic, and neither did any task, unless the test
//!   [allows](crate::sim::World::allow_panics) that.
//! * Nobody waits for what never comes. Where nothing is under way and nobody is awake, the report says of each task
//!   where it was spawned and what it waits for: to read, to write, to accept, for a message or a reply, for room.
//! * When all programs have ended, nothing is left over: no task, no timer, no shard that a cycle of references keeps,
//!   no connection, no listening socket, no descriptor, no name being asked for.
//!
//! # A failure
//!
//! It names the seed, what went wrong, the options of the world, the last events, and the command that replays it:
//! `WATERWHEEL_SEED=17 cargo test NAME`. With `WATERWHEEL_TRACE=FILE` too, every event goes to the file as a line of JSON:
//!
//! ```json
//! {"at_ns":33251349,"host":"proxy","shard":0,"event":"answered","end":14,"error":0}
//! ```
//!
//! What programs log is in it as well, from `INFO` on, and so is whatever the test [says](crate::sim::World::say).
//! `examples/simulate.rs` finds a bug in a small proxy and replays it.
//!
//! # Faults
//!
//! A [`Rule`](crate::sim::Rule) says what ([`Verdict`](crate::sim::Verdict)), from whom and to whom, when, and how
//! often: refuse, lose or delay a connect; delay, stall, hold (a partition, which heals when the rule's time is over),
//! reset or silence (a half-open peer) a connection; a slow reader, short writes; errors of accept(2); a shard that
//! panics or whose turns are slow; names that resolve late or not. Hosts have a limit of descriptors.
//!
//! Without rules a world is lively but sound. Its [`Options`](crate::sim::Options) are drawn by the seed as well, some
//! of them turned off or far up, so that worlds differ in kind; a test may fix them ([`Check`](crate::sim::Check)).
//!
//! # The rules of determinism
//!
//! The same seed gives the same run, byte for byte, in every build and from every folder, as long as the program takes
//! all that it does not compute from its shard:
//!
//! 1. **Time**: [`Shard::now`](crate::shard::Shard::now), [`sleep`](crate::shard::Shard::sleep),
//!    [`unix_time`](crate::shard::Shard::unix_time). `Instant::now` and its like see real time, in which nothing passes.
//! 2. **Chance**: generators seeded with [`Reactor::seed`](crate::reactor::Reactor::seed); in the test
//!    [`World::number`](crate::sim::World::number). Not the process's: that of `HashMap` is one, so what is iterated over
//!    is a `BTreeMap` or has a fixed hasher.
//! 3. **Other threads**: none. What they do arrives when it arrives. Work for them is a host of its own, or done in place.
//! 4. **Input and output**: connections, and names to look up. A file that is read is the same each time only if nobody
//!    writes to it.
//! 5. **Addresses of memory** decide nothing: no order by pointer, no hash of one.
//! 6. **Static state** of the process lasts from one world to the next. What a program keeps belongs to its shards.
//!
//! A test that breaks one of them fails now and then, and replays something else. To find out, run a seed twice:
//! [`Check::seed`](crate::sim::Check::seed) gives the hash of the trace.
//!
//! # What a simulation does not show
//!
//! Shards take turns; two never run at once. What depends on the order of single instructions of two cores is for
//! models (loom) and real threads. A turn costs what the seed draws, whatever it computes: nothing is learnt of speed.
//! The network is TCP as programs see it (order, windows, half-close, reset, keep-alive), without packets or congestion.
//! The kernel's steering, priorities and memory are not there. [`waterwheel_sim`] says more.
