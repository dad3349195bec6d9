//! Thresholds that a run is held against: `p99<1ms,err<0.1%`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::account::Account;
use super::histogram::{Percentile, Reading, Responses};
use super::units;
use crate::net::quoted::Quoted;

/// All of its clauses must hold. An empty one always passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objective {
    clauses: Vec<Clause>,
}

/// One threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clause {
    /// The response time at a percentile must be below this. Failures and unanswered requests are infinitely slow.
    Slower {
        /// Which percentile.
        percentile: Percentile,
        /// Below what, in nanoseconds.
        below_ns: u64,
    },
    /// The part of all planned requests that were not answered rightly must be below this.
    Errors {
        /// Below what part, 0 to 1.
        below: f64,
    },
}

/// How a clause came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The clause.
    pub clause: Clause,
    /// Whether it holds. One that cannot be decided does not.
    pub holds: bool,
    /// What was found, for people.
    pub found: String,
}

impl Objective {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }

    /// Holds a run against each clause.
    pub fn judge(&self, account: &Account, responses: &Responses<'_>) -> Vec<Judged> {
        self.clauses.iter().map(|clause| clause.judge(account, responses)).collect()
    }
}

impl Clause {
    fn judge(self, account: &Account, responses: &Responses<'_>) -> Judged {
        let (holds, found) = match self {
            Clause::Slower { percentile, below_ns } => match responses.at_worst(percentile) {
                Some(reading) => (reading < Reading::Exactly(below_ns), reading.to_string()),
                None => (false, format!("unknown, needs {} requests", percentile.samples_needed())),
            },
            Clause::Errors { below } => {
                let ratio = account.error_ratio();
                (account.planned > 0 && ratio < below, percent(ratio))
            }
        };
        Judged { clause: self, holds, found }
    }
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Objective, String> {
        let clause = |part: &str| {
            clause(part).ok_or_else(|| {
                format!(
                    "objective {}: allowed are clauses like p99<1ms and err<0.1%, with commas between",
                    Quoted(part)
                )
            })
        };
        Ok(Objective { clauses: text.split(',').map(|part| clause(part.trim())).collect::<Result<_, _>>()? })
    }
}

fn clause(part: &str) -> Option<Clause> {
    let (what, limit) = part.split_once('<')?;
    let (what, limit) = (what.trim(), limit.trim());
    if what == "err" {
        let below = match limit.strip_suffix('%') {
            // Reports leave a blank before the sign.
            Some(number) => units::decimal(number.trim_end())? / 100.0,
            None => units::decimal(limit)?,
        };
        return (below <= 1.0).then_some(Clause::Errors { below });
    }
    let below: Duration = units::parse_duration(limit).ok()?;
    let below_ns = u64::try_from(below.as_nanos()).ok()?;
    Some(Clause::Slower { percentile: what.parse().ok()?, below_ns })
}

/// A part of a whole in percent, with as many digits as tell small ones apart.
pub(super) fn percent(part: f64) -> String {
    let percent = part * 100.0;
    let digits = match percent {
        10.0.. => 0,
        1.0.. => 1,
        0.01.. => 3,
        _ => 4,
    };
    format!("{} %", units::fixed(percent, digits))
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clause::Slower { percentile, below_ns } => {
                write!(f, "{percentile}<{}", units::latency(*below_ns))
            }
            Clause::Errors { below } => write!(f, "err<{}", percent(*below)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::histogram::Histogram;

    fn judge(text: &str, count: u64, failed: u64, in_flight: u64) -> Vec<bool> {
        let mut answered = Histogram::default();
        let mut unanswered = Histogram::default();
        (1..=count).for_each(|us| answered.record(us * 1_000));
        (0..in_flight).for_each(|_| unanswered.record(1));
        let ok = answered.count();
        let account = Account {
            planned: ok + failed + in_flight,
            ok,
            timeout: failed,
            in_flight,
            ..Account::default()
        };
        let responses = Responses { answered: &answered, unanswered: &unanswered, failed };
        let objective: Objective = text.parse().unwrap();
        objective.judge(&account, &responses).into_iter().map(|judged| judged.holds).collect()
    }

    #[test]
    fn each_clause_is_judged_by_itself() {
        assert_eq!(judge("p99<1ms,err<0.1%", 1_000, 0, 0), [true, true]);
        assert_eq!(judge("p99<900us, err < 0.1%", 1_000, 0, 0), [false, true]);
        assert_eq!(judge("p99<1ms,err<0.1%", 1_000, 5, 0), [true, false]);
    }

    #[test]
    fn failures_and_unanswered_requests_miss_a_threshold() {
        assert_eq!(judge("p99<1s", 980, 20, 0), [false], "two of a hundred failed");
        assert_eq!(judge("p99<1s", 980, 0, 20), [false], "two of a hundred were never answered");
        assert_eq!(judge("err<1%", 980, 0, 20), [false]);
    }

    #[test]
    fn what_cannot_be_known_does_not_hold() {
        assert_eq!(judge("p99.9<1s", 1_000, 0, 0), [false], "only one sample beyond p99.9");
        assert_eq!(judge("err<1%", 0, 0, 0), [false], "nothing was planned");
    }

    #[test]
    fn what_a_report_shows_can_be_asked_for() {
        for text in ["err<0.1%", "err<0.1 %", "err<12%", "p99.9<1.5ms", "p50<250us", "p99<2s"] {
            let shown = clause(text).unwrap().to_string();
            assert_eq!(clause(&shown), clause(text), "{text} is shown as {shown}");
        }
    }

    #[test]
    fn nonsense_is_refused_on_one_line() {
        for text in [
            "",
            "p99",
            "p99<",
            "p99<1",
            "p99>1ms",
            "err<-1%",
            "err<200%",
            "p100<1ms",
            "p99<1ms,,err<1%",
            "x<1",
        ] {
            let error = text.parse::<Objective>().unwrap_err();
            assert!(error.contains("allowed") && !error.contains('\n'), "{text}: {error}");
        }
    }
}
