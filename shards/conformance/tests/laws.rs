//! Every law on every reactor of this workspace.

mod allocations;

use std::process::ExitCode;

use waterwheel_conformance::{Deviation, main as laws};

/// What cannot be mended here.
const DEVIATIONS: &[Deviation] = &[Deviation {
    law: "STREAM-16",
    reactor: "glommio",
    reason: "glommio 0.9 allocates for every poll of a socket, and for two timers in every turn of its loop",
    measured: "6.1 allocations per round of the law's writing and reading, Linux 6.18",
}];

fn main() -> ExitCode {
    allocations::count();
    laws(
        &[&waterwheel_epoll::Epoll, &waterwheel_glommio::Glommio, &waterwheel_uring::Uring::new()],
        DEVIATIONS,
    )
}
