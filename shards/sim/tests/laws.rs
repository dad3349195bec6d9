//! Every law of a reactor, on a host of a live world: real time, and foreign threads as peers.

mod around;
// The counter is the same program's part for every reactor's laws.
#[path = "../../conformance/tests/allocations/mod.rs"]
mod allocations;

use std::process::ExitCode;
use std::sync::Arc;

use waterwheel_conformance::{Held, laws, main_among};
use waterwheel_sim::World;

use around::Around;

fn main() -> ExitCode {
    allocations::count();
    let host = World::live().host("here");
    let surroundings = Arc::new(Around::new(&host));
    main_among(&[Held { backend: &host, laws: &laws(), surroundings }], &[])
}
