//! Every law can hold and every law can fail: a plain reactor keeps them all, and each of its faults breaks the law
//! that guards against it. A fault that its law does not notice fails here, as a deviation that is none.

mod allocations;
mod reference;

use std::process::ExitCode;

use waterwheel_conformance::{Deviation, Law, laws, main_with};
use waterwheel_reactor::Backend;

use reference::{FAULTS, Fault, MISTAKES, Reference};

/// The control's own: it allocates a buffer whenever it receives, as a plain reactor may and a fast one may not.
const ALLOCATES: Deviation = Deviation {
    law: "STREAM-16",
    reactor: "reference",
    reason: "a buffer for each receive",
    measured: "by this run",
};

fn main() -> ExitCode {
    allocations::count();
    let laws = laws();
    let control = Reference::new();
    let mistakes = MISTAKES.iter().map(|(name, mistake, broken)| (*name, Fault::Halves(*mistake), *broken));
    let faults: Vec<(&str, Fault, &str)> = FAULTS.iter().copied().chain(mistakes).collect();
    let guards = |law: &&Law| faults.iter().any(|(_, _, broken)| *broken == law.id);
    let untried: Vec<&str> = laws.iter().filter(|law| !guards(law)).map(|law| law.id).collect();
    assert_eq!(untried, [ALLOCATES.law], "every other law needs a fault that breaks it");
    let faulty: Vec<(Reference, Vec<Law>)> = faults
        .iter()
        .map(|(name, fault, broken)| {
            let guard = laws.iter().filter(|law| law.id == *broken);
            (Reference::faulty(name, *fault), guard.copied().collect())
        })
        .collect();
    let mut expected: Vec<Deviation> = faults
        .iter()
        .map(|(name, _, broken)| Deviation {
            law: broken,
            reactor: name,
            reason: "the fault is there to be noticed",
            measured: "by this run",
        })
        .collect();
    expected.push(ALLOCATES);
    let mut held: Vec<(&dyn Backend, &[Law])> = vec![(&control, &laws)];
    held.extend(faulty.iter().map(|(reactor, laws)| -> (&dyn Backend, &[Law]) { (reactor, laws) }));
    main_with(&held, &expected)
}
