//! Values of flags.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::Duration;

use waterwheel::load::account::Account;
use waterwheel::load::histogram::{Histogram, Percentile, Responses};
use waterwheel::load::schedule::Arrivals;
use waterwheel::load::slo::{Clause, Objective};
use waterwheel::load::units::{Rate, parse_duration, parse_size};
use waterwheel::net::Network;
use waterwheel::net::proxy_header::{Others, TrustedSource, Version, Wanted};
use waterwheel::proxy::tcp::{Balance, NamePattern};
use waterwheel::steer::Mode;

use super::line;

/// More than the two to four digits that reports show can lose.
const ROUNDED_MAX: f64 = 0.06;

/// Whatever is taken lies in its bounds and, as it is shown, reads back as the same or, where digits are left out, as
/// nearly the same; an error is one line that names the text.
///
/// # Panics
/// If not.
pub fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    exact::<Percentile>(text);
    exact::<Arrivals>(text);
    exact::<Balance>(text);
    exact::<Mode>(text);
    exact::<Network>(text);
    exact::<TrustedSource>(text);
    exact::<Version>(text);
    exact::<Wanted>(text);
    exact::<Others>(text);
    exact::<NamePattern>(text);
    rate(text);
    duration(text);
    size(text);
    objective(text);
}

fn exact<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => {
            let again = value.to_string().parse::<T>().ok();
            assert_eq!(again, Some(value), "{text:?}");
        }
        Err(error) => refused(text, &error.to_string()),
    }
}

fn refused(text: &str, error: &str) {
    line::check(error, &[text]);
}

fn rate(text: &str) {
    let rate = match text.parse::<Rate>() {
        Ok(rate) => rate,
        Err(error) => return refused(text, &error),
    };
    assert!((1..=1_000_000_000_000).contains(&rate.per_1000_s()), "{text:?}: {rate:?}");
    assert_eq!(Rate::per_1000_seconds(rate.per_1000_s()), Ok(rate));
    let shown = rate.to_string();
    let again: Rate = shown.parse().unwrap_or_else(|error| panic!("{text:?} is shown as {shown:?}: {error}"));
    near(text, rate.as_f64(), again.as_f64());
}

fn near(text: &str, value: f64, again: f64) {
    let far = (value - again).abs() > value * ROUNDED_MAX;
    assert!(!far, "{text:?}: {value} is shown as {again}");
}

fn duration(text: &str) {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    let duration = match parse_duration(text) {
        Ok(duration) => duration,
        Err(error) => return refused(text, &error),
    };
    assert!(duration <= YEAR, "{text:?}: {duration:?}");
    let again = parse_duration(&format!("{}ns", duration.as_nanos())).expect("nanoseconds");
    // A binary fraction of 53 bits counts a year's nanoseconds in steps of four.
    assert!(again.abs_diff(duration) <= Duration::from_nanos(4), "{text:?}: {duration:?}, {again:?}");
}

fn size(text: &str) {
    match parse_size(text) {
        Ok(size) => assert_eq!(parse_size(&size.to_string()), Ok(size), "{text:?}"),
        Err(error) => refused(text, &error),
    }
}

fn objective(text: &str) {
    let objective = match text.parse::<Objective>() {
        Ok(objective) => objective,
        // It names the clause that is wrong.
        Err(error) => {
            let part = text.split(',').map(str::trim).find(|part| part.parse::<Objective>().is_err());
            return refused(
                part.unwrap_or_else(|| panic!("each clause is taken, all are not: {text:?}")),
                &error,
            );
        }
    };
    let clauses = clauses(&objective);
    assert_eq!(clauses.len(), text.split(',').count(), "{text:?}");
    for clause in clauses {
        let shown = clause.to_string();
        let again: Objective =
            shown.parse().unwrap_or_else(|error| panic!("{text:?} is shown as {shown:?}: {error}"));
        match (clause, &self::clauses(&again)[..]) {
            (
                Clause::Slower { percentile, below_ns },
                [Clause::Slower { percentile: same, below_ns: again }],
            ) => {
                assert_eq!(percentile, *same, "{text:?}");
                near(text, below_ns as f64, *again as f64);
            }
            (Clause::Errors { below }, [Clause::Errors { below: again }]) => {
                assert!((0.0..=1.0).contains(&below), "{text:?}: {below}");
                near(text, below, *again);
            }
            (clause, again) => panic!("{text:?}: {clause:?} is shown as {again:?}"),
        }
    }
}

/// The clauses, which a run without a request is held against.
fn clauses(objective: &Objective) -> Vec<Clause> {
    let (answered, unanswered) = (Histogram::default(), Histogram::default());
    let responses = Responses { answered: &answered, unanswered: &unanswered, failed: 0 };
    let judged = objective.judge(&Account::default(), &responses);
    assert!(judged.iter().all(|judged| !judged.holds), "nothing was measured");
    judged.into_iter().map(|judged| judged.clause).collect()
}
