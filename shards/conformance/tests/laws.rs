//! Every law on every reactor of this workspace.

use std::process::ExitCode;

use waterwheel_conformance::main as laws;

fn main() -> ExitCode {
    laws(&[&waterwheel_epoll::Epoll], &[])
}
