//! Every bound there is, and what happens at it.
//!
//! Nothing grows without one. Where a peer or a neighbour is slow, the bound is felt as waiting; where waiting cannot
//! help, as an error that says which bound it was.
//!
//! | what | at most | set with | then |
//! |---|---|---|---|
//! | shards | 1 024 | `WATERWHEEL_CORES` | an error at start |
//! | messages from one shard to one other through one port | 256 | [`PortOptions`](crate::mesh::PortOptions) | `try_send` gives it back, `send` waits |
//! | calls on the way from one shard to one other through one port | 64 | [`CallOptions`](crate::mesh::CallOptions) | the call waits for a credit |
//! | jobs from outside threads per shard | 1 024 | | `Full`, with the job |
//! | messages, timers, polls of tasks in a turn | 64 per source, 256, 512 | [`Budgets`](crate::shard::Budgets) | the rest comes in the next turn |
//! | groups of tasks per shard | 32 | [`group`](crate::shard::Shard::group) | an error |
//! | what a group with something to do is kept waiting beyond its shares | a quarter of a turn's time of each other group, a turn of one in the latency class, and the poll that runs | [`Budgets`](crate::shard::Budgets), [`yield_if_needed`](crate::shard::Shard::yield_if_needed) | it runs |
//! | a turn before it is logged | 100 ms | `WATERWHEEL_STALL_MS` | a line that names the shard and the length |
//! | a turn before [`yield_if_needed`](crate::shard::Shard::yield_if_needed) gives way | 500 µs | [`Budgets`](crate::shard::Budgets) | others run first |
//! | connections served at once | as [`serve`](crate::net::Acceptor::serve) is told | its `limit` | they go to a shard below its limit; without one they wait in the backlog |
//! | connections accepted for a shard and not yet served | 128, 256 if others have room | | accepting rests; those beyond are reset |
//! | connections handed over and on the way, from one shard to one other | 64; in mode `source` 128 more wait | | another shard serves them; in mode `source` they are reset |
//! | connections waiting in the kernel, per socket | 4 096 | [`ListenOptions`](crate::reactor::ListenOptions), `net.core.somaxconn` | as the kernel does |
//! | descriptors | the hard limit of the process | `ulimit -n`, `LimitNOFILE` | new connections are reset at once, open ones work on |
//! | bytes moved in one direction of a forwarded connection per turn | 256 KiB | | others get their turn |
//! | bytes received and not consumed | one buffer of the reactor | | the kernel's window closes, the peer waits |
//! | what a closing connection still reads, so that its last bytes survive | 1 MiB, 2 s | | it is closed |
//! | how long a connect waits while the queue of a Unix socket's listener is full | 60 s | [`timeout`](crate::shard::Shard::timeout) | `ResourceBusy` |
//! | how long an upstream that could not be connected comes last | 5 s | | it is tried again |
//! | silence of a proxied peer where no idle limit of at most 10 minutes ends it | 2 minutes, then 9 probes | `net.ipv4.tcp_keepalive_probes` | its connection breaks |
//! | how long a reset waits until what came before it has arrived | 2 s without progress, 60 s | | what is left is lost |
//! | how long a reset behind bytes that the other side does not take goes unnoticed | 2 s | | the other side is reset as above |
//! | names being looked up at once; waiting | 4; 256 | | an error that says so |
//! | the head of an HTTP/1 message | 16 KiB, 100 fields | | an error, the peer's fault |
//! | a frame | what its [codec](crate::net::codec) is told | its limit | an error before any of it is collected, the peer's fault |
//! | bytes a protocol wrote and that are not sent | 64 KiB, then it is full; 1 MiB | [`QueueLimits`](crate::net::protocol::QueueLimits) | nothing more is received; an error |
//! | what a protocol receives per turn | 64 frames, 256 KiB | | others get their turn |
//! | how long a peer takes nothing of what a closed protocol left to send | 30 s | | it is reset |
//! | connections of one client, bytes per second, time of all kinds | as long and as many as they like | [layers](crate::net::layer) | refused; delayed; `TimedOut` |
//! | texts for standard error that the command has not written yet | 1 024 | | more is lost, and how much is told |
//! | reports asked for (SIGUSR1) and not begun | 1 | | further requests are the same one |
//! | how long the command's end waits for who reads its outputs | 2 s for a report under way, the last report, and the log each | | what is not read is lost |
//! | programs waiting to be started, per shard | 64 | | an error that says so |
//! | what a child process wrote and nobody has read | 64 KiB in the pipe, 16 KiB here | | its next write waits |
//! | what is kept of a child's [output](crate::process::Child::output), of each stream | 1 MiB | [`output_most`](crate::process::Command::output_most) | the rest is read and dropped, which is told |
//! | how long an open pipe is read after its child has ended | 1 s | [`patience`](crate::process::Command::patience) | it is closed, which is told |
//! | failures of a kept program; its lines of output, bytes and per second | 10 restarts in 10 minutes; 4 096; 1 000 | [`Keep`](crate::process::Keep) | given up, with the reason; told in pieces; dropped and counted |
//! | the drain after a signal | 30 s | `WATERWHEEL_DRAIN_S` | what still runs is ended |
//!
//! # What is not bounded
//!
//! Tasks: a program that spawns without end runs out of memory. [`serve`](crate::net::Acceptor::serve) has a limit for
//! that reason. Memory as such is not counted.
//!
//! ```
//! use std::time::Duration;
//! use waterwheel::runtime::{Config, Runtime};
//! use waterwheel::shard::Budgets;
//!
//! // Shorter turns: what waits is looked at more often, and each look is paid for more often.
//! let budgets = Budgets { tasks: 64, turn: Duration::from_micros(100), ..Budgets::default() };
//! let runtime = Runtime::new(Config::default().cores(1).budgets(budgets))?;
//! runtime.run(|shard| async move {
//!     for _ in 0..1000 {
//!         shard.yield_if_needed().await;
//!     }
//!     Ok(())
//! })?;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # What is missing
//!
//! There is no reload: a new configuration is a new process.
//! The names of a proxy's upstreams are looked up once, when it starts: where their addresses change, start a new one.
