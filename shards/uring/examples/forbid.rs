//! Runs a program as in a container that forbids io_uring, whose filter fails the calls or kills whoever makes them:
//!
//! ```sh
//! cargo run -p waterwheel-uring --example forbid -- fail target/release/waterwheel demo
//! cargo run -p waterwheel-uring --example forbid -- kill target/release/waterwheel demo
//! ```

#[path = "../tests/hazards/filter.rs"]
mod filter;

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use filter::{Verdict, filter};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let verdict = arguments.next().and_then(|verdict| match verdict.to_str() {
        Some("fail") => Some(Verdict::Fails(libc::EPERM)),
        Some("kill") => Some(Verdict::Kills),
        _ => None,
    });
    let (Some(verdict), Some(program)) = (verdict, arguments.next()) else {
        eprintln!("usage: forbid fail|kill PROGRAM [ARGUMENTS]");
        return ExitCode::from(2);
    };
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        filter(call, verdict);
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("{}: {error}", program.display());
    ExitCode::FAILURE
}
