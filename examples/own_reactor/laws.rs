//! Every law of the contract on the reactor of this example: `cargo test --test own_reactor`.
#![deny(unsafe_code)]

mod reactor;

fn main() -> std::process::ExitCode {
    waterwheel_conformance::main(&[&reactor::Polling], &[])
}
