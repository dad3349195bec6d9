//! Runs every law on every reactor, each in a process of its own, and tells how they came out.

mod arguments;
mod child;
mod process;
mod report;

use std::collections::VecDeque;
use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::{Deviation, Held, Law};
use arguments::{Arguments, Task};
use process::Ending;
use report::{Report, Verdict};

/// What there is to run.
#[derive(Debug)]
pub(crate) struct Suite<'a> {
    pub(crate) held: &'a [Held<'a>],
    pub(crate) deviations: &'a [Deviation],
    /// Whether [`ONLY`] may leave out all reactors but one.
    pub(crate) limited: bool,
}

/// The variable that names the one reactor to try, as it does for programs.
const ONLY: &str = "WATERWHEEL_REACTOR";

/// One law on one reactor.
#[derive(Clone, Copy, Debug)]
struct Case<'a> {
    law: &'a Law,
    reactor: &'static str,
}

impl Case<'_> {
    fn name(&self) -> String {
        format!("{}::{}", self.reactor, self.law.id)
    }
}

/// The whole program: see [`crate::main`].
pub(crate) fn run(suite: &Suite<'_>) -> ExitCode {
    let senseless = |wrong: String| {
        eprintln!("error: {wrong}");
        ExitCode::from(2)
    };
    let arguments = match Arguments::parse(env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => return senseless(wrong),
    };
    if let Task::Child(name) = &arguments.task {
        return child::run(suite, name);
    }
    match limited_to(suite) {
        Ok(only) => {
            let (cases, count) = selected(suite, &arguments, only);
            if let Task::List = arguments.task {
                list(&cases)
            } else {
                run_all(suite, &arguments, cases, count)
            }
        }
        Err(wrong) => senseless(wrong),
    }
}

/// The one reactor that the environment asks for. A name that none of the suite's has is an error: nothing would be
/// run, and that would look like success.
fn limited_to(suite: &Suite<'_>) -> Result<Option<&'static str>, String> {
    let Some(asked) = env::var_os(ONLY).filter(|name| suite.limited && !name.is_empty() && name != "auto")
    else {
        return Ok(None);
    };
    let names: Vec<&'static str> = suite.held.iter().map(|held| held.backend.name()).collect();
    match names.iter().find(|name| asked == ***name) {
        Some(name) => Ok(Some(*name)),
        None => {
            let allowed = names.join(", ");
            Err(format!(
                "{ONLY}={}: no such reactor in this suite; allowed are auto, {allowed}",
                asked.display()
            ))
        }
    }
}

/// The cases that the command line leaves of those on reactor `only`, or on all; and how many there are in all.
fn selected<'a>(suite: &Suite<'a>, arguments: &Arguments, only: Option<&str>) -> (Vec<Case<'a>>, usize) {
    let wanted =
        |case: &Case<'_>| only.is_none_or(|only| only == case.reactor) && arguments.admit(&case.name());
    let all: Vec<Case<'a>> = suite
        .held
        .iter()
        .flat_map(|held| held.laws.iter().map(|law| Case { law, reactor: held.backend.name() }))
        .collect();
    let count = all.len();
    (all.into_iter().filter(wanted).collect(), count)
}

fn list(cases: &[Case<'_>]) -> ExitCode {
    let mut out = io::stdout().lock();
    for case in cases {
        // A reader that went away has seen enough.
        let _ = writeln!(out, "{}: test", case.name());
    }
    ExitCode::SUCCESS
}

fn run_all(suite: &Suite<'_>, arguments: &Arguments, cases: Vec<Case<'_>>, count: usize) -> ExitCode {
    let mut report = Report::new(suite, count - cases.len(), arguments.show_output);
    report.begin(cases.len());
    report.check_list(suite);
    let mut ready = Vec::new();
    for Held { backend, .. } in suite.held {
        let mine = cases.iter().filter(|case| case.reactor == backend.name());
        let mut mine: Vec<Case<'_>> = mine.copied().collect();
        if mine.is_empty() {
            continue;
        }
        if let Some(why_not) = probe(backend.name(), &mut report) {
            let (unprobed, missing) = mine.into_iter().partition(|case| case.law.unprobed);
            mine = unprobed;
            for case in missing {
                let case: Case<'_> = case;
                report.add(&case, &Verdict::NotOffered(why_not.clone()));
            }
        }
        ready.extend(mine);
    }
    let (alone, together): (Vec<_>, Vec<_>) = ready.into_iter().partition(|case| case.law.alone);
    let width = arguments.threads.unwrap_or_else(usual_width);
    let report = Mutex::new(report);
    run_cases(together, width, &report);
    run_cases(alone, 1, &report);
    report.into_inner().unwrap_or_else(PoisonError::into_inner).end()
}

/// Why a reactor cannot run here, if so. It is asked in a child, since a probe may also end its process or hang.
fn probe(reactor: &'static str, report: &mut Report) -> Option<String> {
    match process::watch(&format!("{reactor}::{}", child::PROBE), child::PROBE_DEADLINE) {
        Ending::Holds => None,
        Ending::NotOffered(reason) => {
            report.unavailable(reactor, &reason);
            Some(reason)
        }
        Ending::Broken { how, output } => {
            report.probe_broken(reactor, &how, &output);
            Some("its probe gave no answer".to_owned())
        }
    }
}

/// As the standard harness: the variable counts if it is a number from 1.
fn usual_width() -> usize {
    let said = env::var("RUST_TEST_THREADS").ok().and_then(|said| said.parse().ok());
    said.filter(|width| *width > 0).unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into))
}

/// Runs `cases` in order, `width` of them at a time.
fn run_cases(cases: Vec<Case<'_>>, width: usize, report: &Mutex<Report>) {
    let queue = Mutex::new(VecDeque::from(cases));
    thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(case) = next else { break };
                    let ending = process::watch(&case.name(), case.law.deadline);
                    report.lock().unwrap_or_else(PoisonError::into_inner).judge(&case, ending);
                }
            });
        }
    });
}
