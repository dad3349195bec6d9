//! Every law on the reactor of io_uring, with each of its features switched off in turn, and with all of them. Not among
//! the tests that `cargo test` runs by itself, since it takes minutes: `cargo test -p waterwheel-conformance --test switches`.

mod allocations;

use std::io;
use std::process::ExitCode;

use waterwheel_conformance::{laws, main_with};
use waterwheel_reactor::{Address, Backend, Bound, Ended, Launch, ListenOptions, Unavailable};
use waterwheel_uring::{Feature, Features, Uring};

/// The reactor without something, under a name that says so.
#[derive(Debug)]
struct Without {
    name: &'static str,
    uring: Uring,
}

impl Backend for Without {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self) -> Result<(), Unavailable> {
        self.uring.probe()
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        self.uring.bind(at, options, count)
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        self.uring.run(launches)
    }
}

fn name(feature: Feature) -> &'static str {
    match feature {
        Feature::Buffers => "no-buffers",
        Feature::Multishot => "no-multishot",
        Feature::SkipSuccess => "no-skip",
        Feature::MessageRing => "no-msg_ring",
        Feature::DeferTaskrun => "no-defer_taskrun",
        Feature::NoSqArray => "no-no_sqarray",
        Feature::RingFd => "no-ring_fd",
        Feature::NoIowait => "no-no_iowait",
    }
}

fn main() -> ExitCode {
    allocations::count();
    let mut without: Vec<Without> = Feature::ALL
        .into_iter()
        .map(|feature| Without { name: name(feature), uring: Uring::without(Features::NONE.with(feature)) })
        .collect();
    let all = Feature::ALL.into_iter().fold(Features::NONE, Features::with);
    without.push(Without { name: "nothing", uring: Uring::without(all) });
    let laws = laws();
    let held: Vec<_> = without.iter().map(|backend| -> (&dyn Backend, &[_]) { (backend, &laws) }).collect();
    main_with(&held, &[])
}
