//! A Waterwheel reactor driven by somebody else's executor: [glommio](https://docs.rs/glommio) 0.9, on io_uring.
//!
//! It shows that the seam fits a runtime whose loop cannot be embedded, and it is the choice of those who know glommio
//! already. A glommio executor runs on each shard's thread with one task, which polls the root; the root itself does
//! not see glommio.
//!
//! # To build it
//!
//! glommio builds liburing: it needs a C compiler, `make`'s usual shell, and a `git` program to be there, though the
//! messages of the latter ("not a git repository") mean nothing. Where the C compiler stumbles over `struct open_how`
//! (glibc 2.42 and later), build with `CFLAGS="-D_GNU_SOURCE -include linux/openat2.h"`. The root package built without
//! its feature `glommio` needs none of this.
//!
//! # To run it
//!
//! Linux 5.8 or later with io_uring allowed, which many containers forbid, and 512 KiB of memory that may be locked
//! (`ulimit -l`). [`probe`](Backend::probe) asks for all of that first and says what is missing: glommio panics or ends
//! the process where something is.
//!
//! # How it works
//!
//! | file | what |
//! |---|---|
//! | `life` | an executor, a reactor and a root, from start to end |
//! | `drive`, `bell` | when the root is polled and when the thread sleeps; the waker |
//! | `core` | what one reactor owns; the seam's [`Reactor`](waterwheel_reactor::Reactor) |
//! | `link`, `source`, `sink` | a connection: glommio's stream receives and waits, we send |
//! | `wait`, `listener`, `watched` | readiness of what is not a connection |
//! | `probe` | whether io_uring is here |
//! | `leak` | a defect kept from the program |
//!
//! Receiving is glommio's: recv(2), and a one-shot poll in the ring if that did not fill the buffer. Sending is one
//! send(2) in the caller, and a poll in the ring only if the kernel takes nothing. Accepting is accept4(2) after a poll.
//! Deadlines are glommio's timers. Nothing that io_uring holds points into memory of ours or has bytes in it, so
//! dropping anything cancels it without a loss.
//!
//! # What glommio 0.9 does wrong, and what became of it
//!
//! | defect | here |
//! |---|---|
//! | sleeps with its task ready to run if the preemption timer fires before the first look at the task queue; with 1 ms an echo server hung within thousands of messages | the timer is set to a day, and the drive gives way by itself |
//! | leaks an eventfd with every executor that ran | found and closed, see below; lives of a shard share one executor |
//! | leaks 600 bytes with every executor that ran; with the way in which we wait on listeners, 3.2 KiB | not mended |
//! | counts the clones of a waker in an `i16`, and panics | its waker is cloned once per life |
//! | keeps the connection of a pending accept that is dropped, and passes descriptors on to child processes | its listener is not used |
//! | sends without `MSG_NOSIGNAL` | it sends only with the signal blocked |
//! | starts a thread for blocking calls, and does not join it | told to start none |
//! | allocates for each poll of a socket, and for two timers in each turn | not mended: about six allocations per message |
//! | at least four system calls per turn of its loop, a `membarrier` more per sleep | not mended: dear for few connections, bearable for many |
//!
//! The eventfd that glommio leaks is found by trying: of the blocking eventfds that appeared in the process while the
//! executor was made, it is the one that the executor reads, three times running. So a program that makes such an
//! eventfd on another thread, in the moment in which a shard starts, may find that 1 was written to it once; and one that
//! also reads it at once, each time in a moment in which the executor has other news, would lose it when the shard ends.
//! Make such descriptors before or after the shards start, or with `EFD_NONBLOCK`, which is left alone.
//!
//! Memory: about 800 bytes per idle connection, and a buffer of 16 KiB only while received bytes are not consumed.
#[cfg(not(target_os = "linux"))]
compile_error!("glommio is Linux only");

mod bell;
mod core;
mod drive;
mod leak;
mod life;
mod link;
mod listener;
mod probe;
mod sink;
mod source;
mod wait;
mod watched;

use std::io;

use waterwheel_reactor::{Backend, Clock, Ended, Launch, Unavailable, on_threads};

/// Runs each shard on a thread with a glommio executor of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glommio;

impl Backend for Glommio {
    fn name(&self) -> &'static str {
        "glommio"
    }

    fn probe(&self) -> Result<(), Unavailable> {
        probe::probe()?;
        // One that never ran leaks nothing.
        leak::apart(|| life::make().map(drop)).map_err(|error| Unavailable::new(format!("glommio: {error}")))
    }

    waterwheel_os::bind_by_the_kernel!();

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let clock = Clock::start();
        // glommio must not be touched where it would panic or end the process.
        let probed = probe::probe();
        on_threads(launches, |_, start| match &probed {
            Ok(()) => life::live(clock, start),
            Err(unavailable) => Err(io::Error::other(unavailable.clone())),
        })
    }
}
