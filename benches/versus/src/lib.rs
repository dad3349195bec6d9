//! Waterwheel's proxies and echo servers beside those of others, measured on this machine.
//!
//! ```sh
//! cargo run --release --manifest-path benches/versus/Cargo.toml -- proxies
//! cargo run --release --manifest-path benches/versus/Cargo.toml -- echo --workload 64b-64 --only tokio,monoio
//! cargo run --release --manifest-path benches/versus/Cargo.toml -- latency --write latency.md
//! cargo run --release --manifest-path benches/versus/Cargo.toml -- all --write all.md
//! ```
//!
//! By default 12 rounds of 1 s: all loads of `proxies` take some 15 minutes, `all` some 40;
//! `--rounds 3 --seconds 0.3` shows whether all works. `--help` names the flags. What `--write` writes begins
//! with machine, kernel, versions, commit, command and seed, and for `all` with every target and what came of
//! it.
//!
//! A workspace of its own, so that nothing of what it measures comes into Waterwheel's dependencies. It
//! builds Waterwheel and the programs of this folder; HAProxy and nginx (with its stream module) are measured
//! where they are installed.
//!
//! # Method
//!
//! * **Two CPUs.** The subject is one thread on one, the generator on the other; which two is printed. The
//!   generator is all clients and, behind a proxy, the origin too. It is an io_uring loop that never sleeps:
//!   it costs less than the subjects, and none of them pays for waking it.
//! * **CPU** is user and system time of all the subject's threads by `schedstat`, over a window, divided by
//!   the messages completed in it. On loopback the receiver's TCP work runs inside the sender's call, for
//!   every subject alike. The column *busy* is the subject's share of its CPU: far below 1 it waited for the
//!   generator, and then it gathers fewer events per turn than it could.
//! * **Rounds.** Each round starts every subject afresh, in random order, loads it, lets it warm up, and
//!   measures one window. The seed is printed and `--seed` repeats the order. Fresh processes spread over the
//!   rounds what luck gives a process for life, such as where its memory lies.
//! * **Ratios** are to the best of the others by median: of proxies the better of HAProxy and nginx, of echo
//!   servers the best of tokio, monoio and glommio. The first is the ratio of the medians over rounds; *by
//!   round* is the geometric mean of the ratios within each round, which a machine that gets slower and
//!   faster disturbs less. Both intervals are the middle 95 % of what resampled rounds give. The last column
//!   is the ratio of medians to `bare-uring`, or where that was not measured to the other bare loop.
//! * **Targets** ([`targets`]) are judged below each table: the ratio of medians with its interval, and
//!   whether that ends at most 0.03 above the bound. One is left out where not all of its subjects were
//!   measured, and not judged by fewer than 10 rounds. On a machine that gets slower and faster the interval
//!   is wide, and NOT REACHED may mean no more than that: *by round* tells.
//! * **Others on the machine** are not kept away. How much of the two CPUs they had stands below each table:
//!   where that is more than a few percent, only ratios mean anything, and they are less sure than they look.
//!   A window in which the generator was away for 100 ms is void and measured again. Root can let a run go
//!   before all others, in a session of its own (sched(7), the autogroup feature):
//!   `setsid --wait sh -c 'echo -15 >/proc/self/autogroup; exec cargo run …'`
//! * **Correctness.** Every subject is tried first ([`trial`]). Under load every length is checked and, but
//!   for the middle of most pieces of streams, every byte; a wrong one ends the run.
//!
//! # Loads
//!
//! | name | a message is | connections |
//! |---|---|---|
//! | `64b-1`, `64b-64`, `64b-512` | 64 bytes there and back | 1, 64, 512 |
//! | `16k-64` | 16 KiB there and back | 64 |
//! | `stream-8` | a MiB from client to origin | 8 |
//! | `connect-16` | a connection with 64 bytes there and back, closed by the origin first | 16 at a time |
//!
//! `latency` finds each subject's greatest rate in a closed loop, takes half of the slowest peer's for all,
//! and times responses from when they were planned. Its ratios are to the peer with the best p99. Peers are
//! other people's: no build of Waterwheel and no bare loop decides the rate or is the reference. It says how
//! late the generator was, and measures a window again in which that was away for more than a two-hundredth
//! of it, four times at most. A subject that others keep from its CPU looks slow all the same: p99 needs a
//! machine that has nothing else to do.
//!
//! `memory` reads what only the process has with 0, 1000 and 4000 idle connections.
//!
//! # Subjects
//!
//! * `waterwheel-…`: `waterwheel proxy tcp` or `serve echo` with one shard, on each reactor that can run
//!   here. It gets no `WATERWHEEL_…` of the environment, so that no switch set for something else is
//!   measured.
//! * `haproxy`, `haproxy-splice`, `nginx`: see [`peers`]. With `option splice-auto` only for streams.
//! * `tokio`: a current-thread runtime and `copy_bidirectional` with buffers of 16 KiB.
//! * `monoio`: its io_uring driver with `DEFER_TASKRUN`, which took a tenth less CPU than its defaults, and
//!   its copying loop with buffers of 16 KiB. Its splicing took three times the CPU.
//! * `glommio` (echo only): its executor, read and write.
//! * `bare-epoll` (echo only): an edge-triggered loop. `bare-uring`: multishot receives into provided buffers
//!   that the kernel fills one piece behind the other (Linux 6.12), sends from them ([`ring`]). Neither does
//!   anything that it need not: they are the limits, not rivals. For streams there is a lower one, since
//!   splice(2) copies nothing. Of what our own reactor asks of the kernel `bare-uring` does without four
//!   things, each of which was tried with 64 bytes and 64 connections and gained nothing. With the ring's
//!   descriptor registered, `NO_SQARRAY` and `NO_IOWAIT` the proxy took 8.16 µs instead of 8.13 and the echo
//!   server 4.14 instead of 4.18 (16 rounds). With sends that have no completion when all was sent
//!   (`SKIP_SUCCESS`) they took 11.96 instead of 11.67 and 6.06 instead of 5.96 (24 rounds).
//!
//! # Order of reading
//!
//! [`subjects`] finds what there is, [`cost`], [`latency`] and [`memory`] measure it with [`load`],
//! [`statistics`] and [`report`] say what came out.

pub mod asked;
pub mod cost;
pub mod cpus;
pub mod flow;
pub mod latency;
pub mod load;
pub mod memory;
pub mod peers;
pub mod report;
#[expect(unsafe_code, reason = "it gives the kernel addresses")]
pub mod ring;
pub mod server;
pub mod statistics;
pub mod subject;
pub mod subjects;
pub mod targets;
pub mod trial;
pub mod usage;

/// Raises the limit of open files as far as it may be, for this process and those that it starts.
///
/// # Errors
/// The kernel refuses.
pub fn more_files() -> std::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
