//! A Waterwheel reactor on edge-triggered epoll: for every Linux, and for containers that forbid io_uring.
//!
//! One epoll instance per shard. A connection is registered once, for both directions, when it is made; from then on
//! the loop makes one system call per turn, and a connection one per receive or send. Receiving is tried first and
//! waited for only if there was nothing; sending happens at once, in the caller. A stream from one connection to another
//! goes through a pipe without a copy (splice(2)), one per shard and empty between two calls: with as much at once as the
//! sink lately took ([`Gulp`](waterwheel_os::Gulp)). A MiB took 240 µs of CPU so, and 590 with receives and sends of 64 KiB.
//!
//! | file | what |
//! |---|---|
//! | `life` | the loop of one shard, and its waker |
//! | `poller` | the epoll instance; deadlines with `epoll_pwait2`, or a timerfd where there is none |
//! | `core` | what one reactor owns; the seam's [`Reactor`](waterwheel_reactor::Reactor) |
//! | `descriptor`, `slots` | a descriptor's readiness, and who gets an event |
//! | `source`, `sink`, `listener`, `watched` | the seam's objects |
//! | `pool` | buffers that are lent to sources |
//!
//! Memory: about 200 bytes per idle connection, and a buffer of 64 KiB only while received bytes are not consumed, or of
//! up to 256 KiB with what a sink turned out not to take of a stream. The pipe is two descriptors and 256 KiB, of which a user
//! may have 64 MiB (`fs.pipe-user-pages-soft`) unless the process is privileged; where there is no more, streams are copied.
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("epoll is Linux only");

mod core;
mod descriptor;
mod life;
mod listener;
mod poller;
mod pool;
mod sink;
mod slots;
mod source;
#[cfg(test)]
mod tests;
mod watched;

use std::io;
use std::time::Duration;

use waterwheel_reactor::{Backend, Clock, Ended, Launch, Unavailable, on_threads};

use crate::poller::Poller;

/// Runs each shard on a thread with an epoll instance of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epoll;

impl Backend for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn probe(&self) -> Result<(), Unavailable> {
        let once = || -> io::Result<()> {
            let interrupt = waterwheel_os::Interrupt::new()?;
            let poller = Poller::new(&interrupt)?;
            interrupt.raise();
            poller.wait(&mut poller::events(), Some(Duration::ZERO))
        };
        once().map_err(|error| Unavailable::new(format!("epoll: {error}")))
    }

    waterwheel_os::bind_by_the_kernel!();

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let clock = Clock::start();
        on_threads(launches, |_, start| life::live(clock, start))
    }
}
