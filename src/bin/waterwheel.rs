//! The `waterwheel` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    waterwheel::cli::main()
}
