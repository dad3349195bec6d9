//! Child processes of a shard: their streams, their end, and programs that are kept running.
//!
//! | to | use |
//! |---|---|
//! | run a program and have what it wrote | [`Shard::output_of`](crate::shard::Shard::output_of) |
//! | start one and talk with it | [`Shard::spawn_process`](crate::shard::Shard::spawn_process), [`Child`] |
//! | keep one running | [`Shard::keep_running`](crate::shard::Shard::keep_running), [`ProcessMonitor`] |
//!
//! ```
//! use waterwheel::process::Command;
//! use waterwheel::runtime::{Config, Runtime};
//!
//! # fn main() -> anyhow::Result<()> {
//! Runtime::new(Config::default().cores(1))?.run(|shard| async move {
//!     let output = shard.output_of(&Command::new("echo").argument("round and round")).await?;
//!     assert_eq!(output.stdout, b"round and round\n");
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # The end
//!
//! A child is seen by its pidfd (pidfd_open(2), Linux 5.3; waitid(2) with `P_PIDFD`, Linux 5.4): once, as soon as it has ended, and
//! no other code's child with it. Signals go by it too, so that they never reach a process that got the same number later. A
//! group has no such descriptor: it is signalled only while the child that leads it has not been waited for, which keeps the
//! number its own. A child that has gone to another group is signalled by itself.
//!
//! No zombie is left, whatever happens to a [`Child`]: a task of the shard's sees its end. What outlives the shard, or is
//! started for somebody who waits no more, is seen out by one thread of the process, which ends with the last of them; of more
//! than 1 024 at once the latest are left as zombies, and the log says so. Other code of the process that waits for *any* child (waitpid(2) with -1), or ignores
//! `SIGCHLD`, takes the end away; then [`Child::wait`] says so ([`EndUnknown`]).
//!
//! What a child wrote is complete before its end is told by [`Child::output`] and by a monitor: what is in a pipe is read before
//! it is closed, also by a shard that stalls. A process that it left behind may hold a pipe open for ever: for that one they
//! wait for the command's [`patience`](Command::patience), counted from when the pipe was found empty, and then close it.
//!
//! Who drops a [`Child`] lets it run on, as in the standard library; [`Command::kill_on_drop`],
//! [`group_ends_with_it`](Command::group_ends_with_it) and [`dies_with_shard`](Command::dies_with_shard) say otherwise. Futures
//! that hold the child ([`output`](Child::output), the start itself) kill it when they are dropped, since nobody else could.
//!
//! # The streams
//!
//! Those that are [piped](Stdio::Piped) are pipes, not sockets, since a program may open its `/dev/stderr` again; this side of them
//! is a [`Receiving`](crate::net::Receiving) or a [`Sending`](crate::net::Sending), to be read, written, framed and pumped as a
//! connection's. A pipe holds 64 KiB, and whatever is read here at most 16 KiB more: who does not read stops the child, and a
//! child that does not read stops who writes. Writing to one that has ended is `BrokenPipe`, and never a signal.
//!
//! # What it costs
//!
//! Whoever starts a program waits until it runs. Measured on a machine with two cores, busy with other things, for
//! `/bin/true` (median, 95th percentile): 0.1 ms, 1.3 ms where vfork(2) can be used, as is the case here but with
//! [`dies_with_shard`](Command::dies_with_shard); with fork(2) 0.2 ms, and 75 ms, 110 ms in a process that has touched 1 GiB.
//! Also, a child inherits the CPUs of the thread that starts it, and a shard has one. So a thread per shard starts programs,
//! made with the first one (and up to three more while starts hang, as of programs on a file system that does not answer): the future of a start was ready after 0.5 ms, 1.3 ms, and the end was known after 1.1 ms, 2 ms
//! on each reactor. Meanwhile the shard turns.
//!
//! # Where there are none
//!
//! It works on every reactor that can [watch](crate::reactor::Reactor::watch) descriptors; in a simulation starting a program
//! is [`SpawnError::Unsupported`].

mod child;
mod command;
mod error;
mod keep;
mod life;
mod lines;
mod orphans;
mod pipe;
mod spawner;
mod told;

pub use child::{Child, Output};
pub use command::{Command, Stdio};
pub use error::{CommandFault, SpawnError};
pub use keep::{Again, Keep, KeepError, Kept, ProcessMonitor};
pub use life::EndUnknown;
pub use told::{Line, Stream};
