//! Which reactors a suite of one test per reactor is to try, where the standard harness runs it.

use std::env;
use std::io::{self, Write};

use waterwheel_reactor::Backend;

use super::thread;

/// Whether a test is to run on `reactor`, which is one of `all`: the environment variable `WATERWHEEL_REACTOR` names
/// it; or it names none, or `auto`, and the reactor's probe passes.
///
/// What cannot run here is said on the process's standard error, past the harness, which keeps what a test that passes
/// has printed to itself.
///
/// # Panics
/// If the variable names none of `all`, since nothing would be tried at all; or if it names this one and its probe says
/// that it cannot run here: who asks for a reactor by name must not be told that it passed.
pub fn wanted(reactor: &'static dyn Backend, all: &[&'static dyn Backend]) -> bool {
    let name = reactor.name();
    let asked = env::var_os("WATERWHEEL_REACTOR").filter(|asked| !asked.is_empty() && asked != "auto");
    if let Some(asked) = &asked {
        let known = all.iter().any(|backend| asked == backend.name());
        assert!(known, "WATERWHEEL_REACTOR={}: no such reactor among those compiled in", asked.display());
        if asked != name {
            return false;
        }
    }
    // On a thread of its own, since the end of a ring interrupts system calls of the thread that made it.
    match thread(move || reactor.probe()).join() {
        Ok(()) => true,
        Err(why) => {
            assert!(asked.is_none(), "{name} is asked for by name and cannot run here: {why}");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            // Where nobody reads it, nobody can be told.
            let _ = writeln!(io::stderr(), "not offered: {test}: {name} cannot run here: {why}");
            false
        }
    }
}
