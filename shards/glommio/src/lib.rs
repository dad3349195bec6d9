//! A Waterwheel reactor driven by somebody else's executor: [glommio](https://docs.rs/glommio) 0.9, on io_uring.
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
mod sigpipe;
mod sink;
mod source;
mod wait;
mod watched;

use std::io;

use waterwheel_reactor::{
    Address, Backend, Bound, Clock, Ended, Launch, ListenOptions, Unavailable, on_threads,
};

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
        life::make().map(drop).map_err(|error| Unavailable::new(format!("glommio: {error}")))
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        waterwheel_os::bind_group(at, options, count)
    }

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
