//! Every law on every reactor of this workspace.

mod allocations;

use std::process::ExitCode;

use waterwheel_conformance::main as laws;

fn main() -> ExitCode {
    allocations::count();
    laws(&[&waterwheel_epoll::Epoll], &[])
}
