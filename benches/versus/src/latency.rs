//! Response times at one rate that every subject bears, planned in advance.
//!
//! First each subject's greatest rate is measured, closed loop; then all get half of the slowest's. Messages are planned
//! at random times (Poisson) and a response is timed from its plan, so that a subject that stalls pays for every message
//! that it kept waiting. The plan is the same for all subjects in a round.

use fastrand::Rng;

use crate::asked::Asked;
use crate::cost::{Measured, awake, best, fitting, in_rounds, start};
use crate::cpus::Cpus;
use crate::load::{Timing, Workload};
use crate::report::{NOTHING, Table, cell};
use crate::statistics::{median, percentile, ratio_of_medians};
use crate::subject::{Rank, Subject};

/// Of these there are medians over rounds.
const SHARES: [(f64, &str); 3] = [(0.5, "p50 µs"), (0.99, "p99 µs"), (0.999, "p99.9 µs")];

/// Rounds of closed loop that find the greatest rate.
const RATE_ROUNDS: usize = 3;

/// A subject's percentiles by round, in µs; fewer than rounds where there were too few messages.
type Percentiles = [Vec<f64>; SHARES.len()];

/// Measures all subjects under one load.
///
/// # Errors
/// One does not start, dies, loses a byte or sends a wrong one.
pub fn table(asked: &Asked, subjects: &[Subject], workload: Workload, cpus: Cpus) -> anyhow::Result<Table> {
    let mut random = Rng::with_seed(asked.seed);
    let subjects = fitting(subjects, workload);
    let mut closed = vec![Measured::default(); subjects.len()];
    in_rounds(&subjects, workload, RATE_ROUNDS.min(asked.rounds), &mut random, |place, subject| {
        closed[place].once(subject, workload, asked, cpus)?;
        Ok(closed[place].rates.last().map_or(String::new(), |rate| format!("{rate:.0}/s")))
    })?;
    let slowest = closed.iter().map(|closed| median(&closed.rates)).fold(f64::MAX, f64::min);
    let rate = slowest / 2.0;
    let timing = Timing { warm_up: asked.warm_up, window: asked.window };
    let mut responses = vec![Percentiles::default(); subjects.len()];
    let first_seed = random.u64(..);
    in_rounds(&subjects, workload, asked.rounds, &mut random, |place, subject| {
        let of = &mut responses[place];
        let times = awake(|| {
            let folder = tempfile::tempdir()?;
            let (mut generator, mut running) = start(subject, workload, asked, cpus, folder.path())?;
            let planned = generator.planned(timing, rate, first_seed.wrapping_add(of[0].len() as u64));
            running.check()?;
            let (times, window) = planned?;
            Ok((times, window.stall))
        })?;
        for ((share, _), of) in SHARES.iter().zip(of.iter_mut()) {
            of.extend(percentile(&times, *share).map(|time| time.as_secs_f64() * 1e6));
        }
        Ok(of[0].last().map_or(String::new(), |p50| format!("{p50:.0} µs")))
    })?;
    let mut table = tabled(&subjects, &responses, &mut random);
    table.title = format!(
        "{}: {} connections, {} bytes, {rate:.0} messages/s planned, {} rounds of {} s",
        workload.name,
        workload.connections,
        workload.bytes,
        asked.rounds,
        asked.window.as_secs_f64()
    );
    for (row, closed) in table.rows.iter_mut().zip(&closed) {
        row.push(format!("{:.0}", median(&closed.rates)));
    }
    Ok(table)
}

fn tabled(subjects: &[&Subject], responses: &[Percentiles], random: &mut Rng) -> Table {
    let mut head = vec!["subject".to_owned()];
    let mut rows: Vec<Vec<String>> = subjects.iter().map(|subject| vec![subject.name.clone()]).collect();
    for (column, (_, name)) in SHARES.iter().enumerate() {
        let values: Vec<Vec<f64>> = responses.iter().map(|all| all[column].clone()).collect();
        // Whether a percentile is had depends on the count of messages, which the plan gives to all alike.
        let rounds = responses.first().map_or(0, |all| all[0].len());
        let complete = values.iter().all(|values| !values.is_empty() && values.len() == rounds);
        let reference = complete.then(|| best(subjects, &values, Rank::Reference)).flatten();
        head.push((*name).to_owned());
        head.push(reference.map_or("of the better peer".to_owned(), |(place, _)| {
            format!("of {} (95 %)", subjects[place].name)
        }));
        for (row, values) in rows.iter_mut().zip(&values) {
            row.push(if values.is_empty() { NOTHING.to_owned() } else { format!("{:.0}", median(values)) });
            row.push(
                reference.map_or(NOTHING.to_owned(), |(_, to)| cell(ratio_of_medians(values, to, random))),
            );
        }
    }
    head.push("most, closed loop /s".to_owned());
    let notes = vec![
        "Percentiles are medians over rounds; – where a round has fewer than ten messages beyond.".to_owned(),
    ];
    Table { title: String::new(), head, rows, notes }
}
