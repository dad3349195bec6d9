//! Runs every law on every reactor, each in a process of its own, and tells how they came out.

mod arguments;
mod child;
mod process;
mod report;

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

use waterwheel_reactor::Backend;

use crate::{Deviation, Law};
use arguments::{Arguments, Task};
use process::Ending;
use report::{Report, Verdict};

/// What there is to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite<'a> {
    /// Each reactor with the laws that it is held to.
    pub(crate) held: &'a [(&'a dyn Backend, &'a [Law])],
    pub(crate) deviations: &'a [Deviation],
}

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
    let arguments = match Arguments::parse(env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            return ExitCode::from(2);
        }
    };
    match &arguments.task {
        Task::Child(name) => child::run(suite, name),
        Task::List => list(suite, &arguments),
        Task::Run => run_all(suite, &arguments),
    }
}

/// The cases that the command line and the environment leave, and how many there are without them.
fn selected<'a>(suite: &Suite<'a>, arguments: &Arguments) -> (Vec<Case<'a>>, usize) {
    let only = limited_to();
    let wanted = |case: &Case<'_>| {
        only.as_ref().is_none_or(|only| only == case.reactor) && arguments.admit(&case.name())
    };
    let all: Vec<Case<'a>> = suite
        .held
        .iter()
        .flat_map(|(backend, laws)| laws.iter().map(|law| Case { law, reactor: backend.name() }))
        .collect();
    let count = all.len();
    (all.into_iter().filter(wanted).collect(), count)
}

/// The one reactor that the environment asks for.
fn limited_to() -> Option<OsString> {
    env::var_os("WATERWHEEL_REACTOR").filter(|name| !name.is_empty() && name != "auto")
}

fn list(suite: &Suite<'_>, arguments: &Arguments) -> ExitCode {
    let mut out = io::stdout().lock();
    for case in selected(suite, arguments).0 {
        // A reader that went away has seen enough.
        let _ = writeln!(out, "{}: test", case.name());
    }
    ExitCode::SUCCESS
}

fn run_all(suite: &Suite<'_>, arguments: &Arguments) -> ExitCode {
    let (cases, count) = selected(suite, arguments);
    let mut report = Report::new(suite, count - cases.len(), arguments.show_output);
    report.begin(cases.len());
    if let (true, Some(only)) = (cases.is_empty(), limited_to()) {
        println!("WATERWHEEL_REACTOR={} is none of this suite's reactors, or left no case", only.display());
    }
    report.check_list(suite);
    let mut ready = Vec::new();
    for (backend, _) in suite.held {
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
    let width = arguments.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
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
