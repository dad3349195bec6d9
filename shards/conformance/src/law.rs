//! What a law is, how it may come out, and which failures are known.

use std::time::Duration;

use waterwheel_reactor::Backend;

/// One law of the contract as a case that can fail.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// Its number in the contract: `WAKE-2`.
    pub id: &'static str,
    /// What goes wrong in a reactor that breaks it, in a few words.
    pub hazard: &'static str,
    /// Tries it, alone in a process. A panic means that the law is broken, and says how.
    pub run: fn(&dyn Backend) -> Outcome,
    /// After this long the process is killed and the law counts as broken.
    pub deadline: Duration,
    /// Measures time or counts wake-ups, so nothing else of the suite runs beside it.
    pub alone: bool,
    /// Runs even where the reactor's probe says that it cannot run here.
    pub unprobed: bool,
}

impl Law {
    /// Long for any case that works, even on a busy machine with two cores.
    const DEADLINE: Duration = Duration::from_secs(30);

    /// A law with a deadline of 30 s, run beside others.
    pub const fn new(id: &'static str, hazard: &'static str, run: fn(&dyn Backend) -> Outcome) -> Law {
        Law { id, hazard, run, deadline: Law::DEADLINE, alone: false, unprobed: false }
    }

    /// Run while nothing else of the suite runs.
    pub const fn alone(self) -> Law {
        Law { alone: true, ..self }
    }

    /// With another deadline.
    pub const fn within(self, deadline: Duration) -> Law {
        Law { deadline, ..self }
    }

    /// Run even where the reactor cannot run.
    pub const fn unprobed(self) -> Law {
        Law { unprobed: true, ..self }
    }
}

/// How a law came out, if it was not broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Holds,
    /// The reactor, or this machine, does not offer what the law is about: what is missing.
    NotOffered(&'static str),
}

/// A law that a reactor is known to break. The list is strict: an entry whose law holds, is not offered, is unknown or
/// stands there twice is a failure.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// The law's id.
    pub law: &'static str,
    /// The reactor's name.
    pub reactor: &'static str,
    /// Why it cannot be mended here: whose defect it is.
    pub reason: &'static str,
    /// What was measured, and where.
    pub measured: &'static str,
}
