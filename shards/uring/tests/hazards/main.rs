//! Bad input and bad days of a reactor on io_uring, as laws beside those of the conformance suite: each in a process of its
//! own, which may be confined for good, under a deadline, and with a count of what is left.

mod crowds;
mod filter;
mod forbidden;
mod little;
mod log;
mod regressions;
mod unread;
mod wakers;

use std::process::ExitCode;

use waterwheel_conformance::kit::Confined;
use waterwheel_conformance::{Law, laws, main_with};
use waterwheel_reactor::Backend;
use waterwheel_uring::{Feature, Features, Uring};

/// Those of the suite's laws that a confined reactor is held to here: the rest takes long, and CI has a step for it.
fn some(ids: &[&str]) -> Vec<Law> {
    laws().into_iter().filter(|law| ids.contains(&law.id)).collect()
}

fn main() -> ExitCode {
    let own =
        [forbidden::LAWS, little::LAWS, crowds::LAWS, unread::LAWS, regressions::LAWS, wakers::LAWS].concat();
    let unregistered = some(&["LIFE-1", "LIFE-3", "WAKE-1", "STREAM-1", "STREAM-6", "STREAM-15", "HAND-1"]);
    // Rings of another law would count, too.
    let alone = some(&["LIFE-1", "WAKE-1", "STREAM-1", "STREAM-15"]).into_iter().chain([crowds::OVERFLOW]);
    let little: Vec<Law> = alone.map(Law::alone).collect();
    // Completions come one by one while the shard is blocked, and not when it asks for them.
    let unasked = Uring::without(Features::NONE.with(Feature::DeferTaskrun));
    let held: [(&dyn Backend, &[Law]); 4] = [
        (&Uring::new(), &own),
        (&Confined::new("no-register", Uring::new(), forbidden::forbid_registering), &unregistered),
        (&Confined::new("memlock", Uring::new(), little::lock_little), &little),
        (&Confined::new("no-defer", unasked, || ()), crowds::LAWS),
    ];
    main_with(&held, &[])
}
