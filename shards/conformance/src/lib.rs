//! The laws of a reactor, as a suite that any reactor runs in its own test.
//!
//! A test target without the standard harness (`harness = false`) hands its backends over:
//!
//! ```no_run
//! # let mine: &dyn waterwheel_reactor::Backend = unimplemented_backend();
//! # fn unimplemented_backend() -> &'static dyn waterwheel_reactor::Backend { loop {} }
//! // In `fn main() -> std::process::ExitCode`:
//! let code = waterwheel_conformance::main(&[mine], &[]);
//! # let _ = code;
//! ```
//!
//! Every law runs in a child process of its own, once per reactor, under a deadline of its own: a hang is a failure
//! with a name. After the law the child compares its descriptors and threads with those it began with; a leak fails
//! the law that made it. The runner understands the filters and the usual flags of `cargo test`, and ends with the
//! table of laws and reactors. What a reactor does not offer is reported as *not offered*, never as passed.
//!
//! A defect that cannot be worked around stands in the strict list of [`Deviation`]s: a listed law that passes is a
//! failure, so that the list never outlives its reasons.
//!
//! Peers are the kernel's sockets; a reactor that lives in a simulated world brings the peers of that world, as
//! [`Surroundings`], through [`main_among`].
//!
//! The environment variable `WATERWHEEL_REACTOR`, unless it is `auto`, limits a suite of several reactors to the one
//! that it names; a name that none of them has is refused. A suite of one reactor runs whatever the variable says.
#![forbid(unsafe_code)]

pub mod kit;

mod connecting;
mod datagrams;
mod handing;
mod law;
mod life;
mod listening;
mod runner;
mod streams;
mod time;
mod waking;
mod watching;

use std::process::ExitCode;
use std::sync::Arc;

use waterwheel_reactor::Backend;

use kit::{Kernel, Surroundings};

pub use kit::set_allocation_counter;
pub use law::{Deviation, Law, Outcome};

/// Every law of the suite, in the order of the contract.
const LAWS: &[&[Law]] = &[
    life::LAWS,
    time::LAWS,
    waking::LAWS,
    listening::LAWS,
    connecting::LAWS,
    streams::LAWS,
    handing::LAWS,
    watching::LAWS,
    datagrams::LAWS,
];

/// A reactor, what it is held to, and what is around it meanwhile.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    /// The reactor under test.
    pub backend: &'a dyn Backend,
    /// Some of [these](laws), or others, written with the [`kit`].
    pub laws: &'a [Law],
    /// The world that it lives in: the [`Kernel`], unless it is simulated. Each law meets it as it is when `main` began.
    pub surroundings: Arc<dyn Surroundings>,
}

/// Runs all laws on all `reactors`, but for what the command line and the environment leave out.
///
/// The exit code is 0 if every law that ran holds or deviates as listed, 1 if not, 2 if the command line or the
/// environment makes no sense. In a child process, which runs one law, it does not return.
#[must_use = "it is what `main` has to return"]
pub fn main(reactors: &[&dyn Backend], deviations: &[Deviation]) -> ExitCode {
    let laws = laws();
    let held: Vec<_> = reactors.iter().map(|backend| by_the_kernel(*backend, &laws)).collect();
    main_among(&held, deviations)
}

/// As [`main`], with each reactor held to laws of its own: some of [these](laws), or others, written with the [`kit`].
/// The environment leaves none of them out.
#[must_use = "it is what `main` has to return"]
pub fn main_with(held: &[(&dyn Backend, &[Law])], deviations: &[Deviation]) -> ExitCode {
    let held: Vec<_> = held.iter().map(|(backend, laws)| by_the_kernel(*backend, laws)).collect();
    runner::run(&runner::Suite { held: &held, deviations, limited: false })
}

/// As [`main`], with each reactor in surroundings of its own: the way in for a reactor whose network is simulated.
#[must_use = "it is what `main` has to return"]
pub fn main_among(held: &[Held<'_>], deviations: &[Deviation]) -> ExitCode {
    runner::run(&runner::Suite { held, deviations, limited: held.len() > 1 })
}

fn by_the_kernel<'a>(backend: &'a dyn Backend, laws: &'a [Law]) -> Held<'a> {
    Held { backend, laws, surroundings: Arc::new(Kernel) }
}

/// Every law of the suite, in the order of the contract.
pub fn laws() -> Vec<Law> {
    LAWS.iter().copied().flatten().copied().collect()
}
