//! Every law can hold and every law can fail: a plain reactor keeps them all, and each of its faults breaks the law
//! that guards against it. A fault that its law does not notice fails here, as a deviation that is none.

mod reference;

use std::process::ExitCode;

use waterwheel_conformance::{Deviation, Law, laws, main_with};
use waterwheel_reactor::Backend;

use reference::{FAULTS, Fault, MISTAKES, Reference};

fn main() -> ExitCode {
    let laws = laws();
    let control = Reference::new();
    let mistakes = MISTAKES.iter().map(|(name, mistake, broken)| (*name, Fault::Halves(*mistake), *broken));
    let faults: Vec<(&str, Fault, &str)> = FAULTS.iter().copied().chain(mistakes).collect();
    let faulty: Vec<(Reference, Vec<Law>)> = faults
        .iter()
        .map(|(name, fault, broken)| {
            let guard = laws.iter().filter(|law| law.id == *broken);
            (Reference::faulty(name, *fault), guard.copied().collect())
        })
        .collect();
    let expected: Vec<Deviation> = faults
        .iter()
        .map(|(name, _, broken)| Deviation {
            law: broken,
            reactor: name,
            reason: "the fault is there to be noticed",
            measured: "by this run",
        })
        .collect();
    let mut held: Vec<(&dyn Backend, &[Law])> = vec![(&control, &laws)];
    held.extend(faulty.iter().map(|(reactor, laws)| -> (&dyn Backend, &[Law]) { (reactor, laws) }));
    main_with(&held, &expected)
}
