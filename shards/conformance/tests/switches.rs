//! Every law on the reactor of io_uring, with each of its features switched off in turn, with all of them, and where next to
//! no memory may be locked. Not among the tests that `cargo test` runs by itself, since it takes minutes:
//! `cargo test -p waterwheel-conformance --test switches`.

mod allocations;

use std::process::ExitCode;

use waterwheel_conformance::kit::{Confined, lock_at_most};
use waterwheel_conformance::{Law, laws, main_with};
use waterwheel_reactor::Backend;
use waterwheel_uring::{Feature, Features, Uring};

/// The limit that many systems have.
const LITTLE: u64 = 64 << 10;

fn main() -> ExitCode {
    allocations::count();
    let without = |name, off| Confined::new(name, Uring::without(off), || ());
    // The names live as long as the program, which runs once.
    let each = |feature: Feature| without(format!("no-{feature}").leak(), Features::NONE.with(feature));
    let mut reactors: Vec<Confined<Uring>> = Feature::ALL.into_iter().map(each).collect();
    let all = Feature::ALL.into_iter().fold(Features::NONE, Features::with);
    reactors.push(without("nothing", all));
    let little = Confined::new("memlock", Uring::new(), || lock_at_most(LITTLE));
    let laws = laws();
    // What others lock counts for all of them.
    let alone: Vec<Law> = laws.iter().copied().map(Law::alone).collect();
    let mut held: Vec<(&dyn Backend, &[Law])> =
        reactors.iter().map(|reactor| -> (&dyn Backend, &[Law]) { (reactor, &laws) }).collect();
    held.push((&little, &alone));
    main_with(&held, &[])
}
