//! The child's side: one law on one reactor, then the count of what is left.

use std::io::{self, Write};
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use waterwheel_reactor::Backend;

use super::Suite;
use crate::kit::{Census, surround};
use crate::{Held, Outcome};

/// In place of a law's id: ask the reactor's probe.
pub(super) const PROBE: &str = "probe";
/// A probe tries a few system calls.
pub(super) const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// Exit codes of the child. Neither is 0, so that a reactor that ends the process is not taken for one that passed,
/// and neither is 101, a panic's.
pub(super) const HOLDS: u8 = 40;
/// The reason is the last line of the output.
pub(super) const NOT_OFFERED: u8 = 41;

/// Runs the case called `name`; a panic ends the process with a panic's code.
pub(super) fn run(suite: &Suite<'_>, name: &str) -> ExitCode {
    // The runner may be killed itself; a law that hangs must not stay behind then.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("the case may outlive its runner: {error}");
    }
    let found = name.split_once("::").and_then(|(reactor, law)| {
        Some((suite.held.iter().find(|held| held.backend.name() == reactor)?, law))
    });
    let Some((Held { backend, laws, surroundings }, id)) = found else {
        eprintln!("no such case: {name}");
        return ExitCode::from(2);
    };
    surround(Arc::clone(surroundings));
    if id == PROBE {
        return match backend.probe() {
            Ok(()) => end(HOLDS),
            Err(unavailable) => not_offered(&unavailable.to_string()),
        };
    }
    let Some(law) = laws.iter().find(|law| law.id == id) else {
        eprintln!("no such law: {name}");
        return ExitCode::from(2);
    };
    judge(law.run, *backend)
}

fn judge(law: fn(&dyn Backend) -> Outcome, backend: &dyn Backend) -> ExitCode {
    let before = Census::take();
    let outcome = law(backend);
    before.assert_restored();
    match outcome {
        Outcome::Holds => end(HOLDS),
        Outcome::NotOffered(reason) => not_offered(reason),
    }
}

fn not_offered(reason: &str) -> ExitCode {
    println!("{}", reason.replace('\n', " "));
    end(NOT_OFFERED)
}

/// Ends at once: destructors of process-wide state must not change a verdict that was reached.
fn end(code: u8) -> ExitCode {
    // Without its output the verdict still stands in the code.
    let _ = io::stdout().flush();
    exit(i32::from(code))
}
