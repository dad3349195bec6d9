//! Lines as cargo's users know them, the list of deviations held against what happened, and the table at the end.

use std::collections::BTreeMap;
use std::process::ExitCode;

use waterwheel_reactor::Clock;

use super::process::Ending;
use super::{Case, Suite};
use crate::{Deviation, Held, Law};

/// How one case came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    NotOffered(String),
    Deviation,
    Failed,
}

impl Verdict {
    fn word(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::NotOffered(_) => "not offered",
            Verdict::Deviation => "deviation",
            Verdict::Failed => "FAILED",
        }
    }
}

/// What came out so far.
#[derive(Debug)]
pub(super) struct Report {
    clock: Clock,
    laws: Vec<(&'static str, &'static str)>,
    reactors: Vec<&'static str>,
    deviations: Vec<Deviation>,
    verdicts: BTreeMap<(&'static str, &'static str), Verdict>,
    /// Name and full account of each failure, printed together at the end.
    failures: Vec<(String, String)>,
    /// What deviating laws said, if that is to be printed.
    accounts: BTreeMap<(&'static str, &'static str), String>,
    show_output: bool,
    /// Reactors that cannot run here, with their reasons.
    unavailable: Vec<(&'static str, String)>,
    filtered_out: usize,
}

impl Report {
    pub(super) fn new(suite: &Suite<'_>, filtered_out: usize, show_output: bool) -> Report {
        let mut rows = Vec::new();
        for law in suite.held.iter().flat_map(|held| held.laws) {
            if !rows.iter().any(|(id, _)| *id == law.id) {
                rows.push((law.id, law.hazard));
            }
        }
        Report {
            clock: Clock::start(),
            laws: rows,
            reactors: suite.held.iter().map(|held| held.backend.name()).collect(),
            deviations: suite.deviations.to_vec(),
            verdicts: BTreeMap::new(),
            failures: Vec::new(),
            accounts: BTreeMap::new(),
            show_output,
            unavailable: Vec::new(),
            filtered_out,
        }
    }

    pub(super) fn begin(&self, cases: usize) {
        println!("\nrunning {cases} test{}", if cases == 1 { "" } else { "s" });
    }

    /// Fails entries of the list that can never apply, laws or reactors that share a name, and a suite that has no case
    /// at all: that a filter leaves none is what its user asked for, but this is a mistake.
    pub(super) fn check_list(&mut self, suite: &Suite<'_>) {
        if suite.held.iter().all(|held| held.laws.is_empty()) {
            self.fail("suite".to_owned(), "no reactor is held to any law".to_owned());
        }
        let mut wrong = Vec::new();
        for (index, entry) in suite.deviations.iter().enumerate() {
            let same = |other: &Deviation| (other.law, other.reactor) == (entry.law, entry.reactor);
            if suite.deviations[..index].iter().any(same) {
                wrong.push((entry, "is listed twice"));
            }
            match suite.held.iter().find(|held| held.backend.name() == entry.reactor) {
                None => wrong.push((entry, "names no reactor of this suite")),
                Some(held) if !held.laws.iter().any(|law| law.id == entry.law) => {
                    wrong.push((entry, "names no law that the reactor is held to"));
                }
                Some(_) => {}
            }
        }
        for (entry, what) in wrong {
            self.fail(format!("deviation {}::{}", entry.reactor, entry.law), what.to_owned());
        }
        for (index, Held { backend, laws, .. }) in suite.held.iter().enumerate() {
            if self.reactors[..index].contains(&backend.name()) {
                self.fail(format!("reactor {}", backend.name()), "two of this name".to_owned());
            }
            let twice = |(index, law): (usize, &Law)| laws[..index].iter().any(|other| other.id == law.id);
            if laws.iter().enumerate().any(twice) {
                self.fail(format!("laws of {}", backend.name()), "two of one id".to_owned());
            }
        }
    }

    pub(super) fn unavailable(&mut self, reactor: &'static str, reason: &str) {
        println!("reactor {reactor} cannot run here: {reason}");
        self.unavailable.push((reactor, reason.to_owned()));
    }

    pub(super) fn probe_broken(&mut self, reactor: &'static str, how: &str, output: &str) {
        self.fail(format!("{reactor}::probe"), format!("{output}\n{how}"));
    }

    /// Holds how a case ended against the list of deviations.
    pub(super) fn judge(&mut self, case: &Case<'_>, ending: Ending) {
        let same = |entry: &&Deviation| entry.law == case.law.id && entry.reactor == case.reactor;
        let listed = self.deviations.iter().find(same).copied();
        let stale =
            |what: &str, entry: Deviation| format!("listed as a deviation ({}), but {what}", entry.reason);
        match (ending, listed) {
            (Ending::Holds, None) => self.add(case, &Verdict::Passed),
            (Ending::Holds, Some(entry)) => self.fail_case(case, stale("it holds", entry)),
            (Ending::NotOffered(reason), None) => self.add(case, &Verdict::NotOffered(reason)),
            (Ending::NotOffered(reason), Some(entry)) => {
                self.fail_case(case, stale(&format!("it is not offered: {reason}"), entry));
            }
            (Ending::Broken { how, output }, Some(_)) => {
                self.add(case, &Verdict::Deviation);
                self.accounts.insert((case.reactor, case.law.id), format!("{output}\n{how}"));
            }
            (Ending::Broken { how, output }, None) => self.fail_case(case, format!("{output}\n{how}")),
        }
    }

    pub(super) fn add(&mut self, case: &Case<'_>, verdict: &Verdict) {
        let tail = match verdict {
            Verdict::Passed => "ok".to_owned(),
            Verdict::NotOffered(reason) => format!("not offered: {reason}"),
            word => word.word().to_owned(),
        };
        println!("test {} ... {tail}", case.name());
        self.verdicts.insert((case.reactor, case.law.id), verdict.clone());
    }

    fn fail_case(&mut self, case: &Case<'_>, account: String) {
        self.add(case, &Verdict::Failed);
        self.failures.push((format!("{} ({})", case.name(), case.law.hazard), account));
    }

    /// A failure that belongs to no case.
    fn fail(&mut self, name: String, account: String) {
        println!("test {name} ... FAILED");
        self.failures.push((name, account));
    }

    fn count(&self, word: &str) -> usize {
        self.verdicts.values().filter(|verdict| verdict.word() == word).count()
    }

    /// Prints failures, deviations, the table and the result.
    pub(super) fn end(self) -> ExitCode {
        if !self.failures.is_empty() {
            println!("\nfailures:");
            for (name, account) in &self.failures {
                println!("\n---- {name} ----\n{}", account.trim());
            }
        }
        self.table();
        self.print_deviations();
        for (reactor, reason) in &self.unavailable {
            println!("\nNOT TESTED: reactor {reactor} cannot run here: {reason}");
        }
        let (not_offered, deviations) = (self.count("not offered"), self.count("deviation"));
        if not_offered + deviations > 0 {
            println!(
                "\n{not_offered} not offered, {deviations} known deviations: counted as ignored, not as passed"
            );
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
            if self.failures.is_empty() { "ok" } else { "FAILED" },
            self.count("passed"),
            self.failures.len(),
            not_offered + deviations,
            self.filtered_out,
            self.clock.now().since(waterwheel_reactor::Time::ZERO).as_secs_f64(),
        );
        if self.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn print_deviations(&self) {
        for entry in &self.deviations {
            let key = (entry.reactor, entry.law);
            if let (true, Some(account)) = (self.show_output, self.accounts.get(&key)) {
                println!("\n---- {}::{} ----\n{}", entry.reactor, entry.law, account.trim());
            }
            if self.verdicts.get(&key) == Some(&Verdict::Deviation) {
                println!(
                    "\n{}::{} deviates: {}. Measured: {}",
                    entry.reactor, entry.law, entry.reason, entry.measured
                );
            }
        }
    }

    /// The table laws × reactors, of the cases that were selected. A reactor with one case, as where a suite tries
    /// one fault, has said all in its line above.
    fn table(&self) {
        let cases = |reactor: &str| self.verdicts.keys().filter(|(of, _)| *of == reactor).count();
        let reactors: Vec<&'static str> =
            self.reactors.iter().copied().filter(|reactor| cases(reactor) > 1).collect();
        if reactors.is_empty() {
            return;
        }
        print!("\n{:<12}", "law");
        for reactor in &reactors {
            print!("{reactor:<13}");
        }
        println!("what it guards against");
        for (law, hazard) in &self.laws {
            let cell =
                |reactor: &&'static str| self.verdicts.get(&(*reactor, *law)).map_or("-", Verdict::word);
            if reactors.iter().all(|reactor| cell(reactor) == "-") {
                continue;
            }
            print!("{law:<12}");
            for reactor in &reactors {
                print!("{:<13}", cell(reactor));
            }
            println!("{hazard}");
        }
    }
}
