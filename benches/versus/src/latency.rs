//! Response times at one rate that every subject bears, planned in advance.
//!
//! First each subject's greatest rate is measured, closed loop; then all get half of the slowest peer's.
//! Messages are planned at random times (Poisson) and a response is timed from its plan, so that a subject
//! that stalls pays for every message that it kept waiting. The plan is the same for all subjects in a round.
//!
//! A generator that is late looks like a subject that is slow, and so does a subject whose CPU others had. So
//! the generator notes how late it was, and a window in which it was away for long, or the subject was kept
//! waiting for its CPU for long, is measured again.

use std::time::Duration;

use fastrand::Rng;

use crate::asked::{Asked, Of, What};
use crate::cost::{Measured, best, fitting, in_rounds, others_had, start};
use crate::cpus::Cpus;
use crate::load::{Opened, Planned, Timing, Workload};
use crate::report::{NOTHING, Table, cell};
use crate::statistics::{median, percentile, ratio_of_medians};
use crate::subject::{Rank, Subject};
use crate::targets::judge;
use crate::usage::Usage;

/// Of these there are medians over rounds.
const SHARES: [(f64, &str); 3] = [(0.5, "p50 µs"), (0.99, "p99 µs"), (0.999, "p99.9 µs")];

/// The place in `SHARES` that the reference is chosen by and that has a target.
const P99: usize = 1;

/// Rounds of closed loop that find the greatest rate.
const RATE_ROUNDS: usize = 3;

/// The generator may be away at once for this part of a window: 5 ms of a second. All that is planned
/// meanwhile is late, and as much again until they are through: together one hundredth, which is just what
/// may lie beyond p99. A longer one would decide p99; of a shorter one p99 sees little.
///
/// The subject may have waited for its CPU, awake, for as long in all: waking up takes it some 3 ms of a second, and
/// others run for some 3 ms when they come.
const AWAY_MAX: u32 = 200;

/// Times that a window is measured before the calmest of them counts though it was not calm enough.
const WINDOWS_MAX: usize = 5;

/// What a subject's windows gave, by round.
#[derive(Clone, Debug, Default)]
struct Responses {
    /// Percentiles in µs; fewer than rounds where there were too few messages.
    micros: [Vec<f64>; SHARES.len()],
    /// The generator's p99 of how late it was, and the most, in µs.
    late: [Vec<f64>; 2],
    /// The shares that others had of the subject's and the generator's CPU.
    waited: [Vec<f64>; 2],
    /// Windows measured again.
    void: usize,
    /// Rounds that count though the generator or the subject was away for too long.
    uneasy: usize,
}

/// Measures all subjects under one load.
///
/// # Errors
/// One does not start, dies, loses a byte or sends a wrong one.
pub fn table(
    asked: &Asked,
    subjects: &[Subject],
    (of, workload): (Of, Workload),
    cpus: Cpus,
) -> anyhow::Result<Table> {
    let mut random = Rng::with_seed(asked.seed);
    let subjects = fitting(subjects, workload);
    let mut closed = vec![Measured::default(); subjects.len()];
    in_rounds(&subjects, workload, RATE_ROUNDS.min(asked.rounds), &mut random, |place, subject| {
        closed[place].once(subject, (of, workload), asked, cpus)?;
        Ok(closed[place].rates.last().map_or(String::new(), |rate| format!("{rate:.0}/s")))
    })?;
    let most: Vec<f64> = closed.iter().map(|closed| median(&closed.rates)).collect();
    let ranks: Vec<Rank> = subjects.iter().map(|subject| subject.rank).collect();
    let slowest = slowest(&ranks, &most);
    let rate = most[slowest] / 2.0;
    let mut responses = vec![Responses::default(); subjects.len()];
    let first_seed = random.u64(..);
    in_rounds(&subjects, workload, asked.rounds, &mut random, |place, subject| {
        let responses = &mut responses[place];
        let seed = first_seed.wrapping_add(responses.late[0].len() as u64);
        responses.once(subject, (of, workload), asked, cpus, (rate, seed))?;
        Ok(responses.micros[0].last().map_or(String::new(), |p50| format!("{p50:.0} µs")))
    })?;
    let mut table = tabled(asked, &subjects, (of, workload), &responses, &mut random);
    table.title = format!(
        "{}: {} connections, {} bytes, {rate:.0} messages/s planned, {} rounds of {} s",
        workload.name,
        workload.connections,
        workload.bytes,
        asked.rounds,
        asked.window.as_secs_f64()
    );
    table.head.push("most, closed loop /s".to_owned());
    for (row, most) in table.rows.iter_mut().zip(&most) {
        row.push(format!("{most:.0}"));
    }
    let kind =
        if Rank::PEERS.contains(&ranks[slowest]) { "peer" } else { "subject, since no peer was measured" };
    table
        .notes
        .insert(0, format!("Planned is half of the most of {}, the slowest {kind}.", subjects[slowest].name));
    Ok(table)
}

/// The place of the slowest peer, so that no build of ours and no limit decides what all others are asked.
/// Where there is no peer, the slowest of all.
fn slowest(ranks: &[Rank], most: &[f64]) -> usize {
    let has_peers = ranks.iter().any(|rank| Rank::PEERS.contains(rank));
    let counts = |place: &usize| !has_peers || Rank::PEERS.contains(&ranks[*place]);
    let slowest = (0..ranks.len()).filter(counts).min_by(|one, other| most[*one].total_cmp(&most[*other]));
    slowest.unwrap_or(0)
}

impl Responses {
    /// Measures a round: one window, or more where the generator was away.
    fn once(
        &mut self,
        subject: &Subject,
        (of, workload): (Of, Workload),
        asked: &Asked,
        cpus: Cpus,
        (rate, seed): (f64, u64),
    ) -> anyhow::Result<()> {
        let timing = Timing { warm_up: asked.warm_up, window: asked.window };
        let limit = asked.window / AWAY_MAX;
        let (planned, windows) = calm(limit, || {
            let folder = tempfile::tempdir()?;
            let (mut generator, mut running) = start(subject, (of, workload), cpus, folder.path())?;
            let id = running.id();
            let probe = || Ok((Usage::of(id)?, Usage::of_this_thread()?));
            let planned = generator.planned(timing, rate, seed, probe);
            running.check()?;
            let planned = planned?;
            let away = away(&planned.window);
            Ok((planned, away))
        })?;
        self.void += windows - 1;
        let Planned { responses, late, window } = planned;
        self.uneasy += usize::from(away(&window) > limit);
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        for ((share, _), of) in SHARES.iter().zip(&mut self.micros) {
            of.extend(percentile(&responses, *share).map(micros));
        }
        let most = late.last().copied().unwrap_or_default();
        self.late[0].push(micros(percentile(&late, SHARES[P99].0).unwrap_or(most)));
        self.late[1].push(micros(most));
        let ([before, after], time) = (window.probed, window.time.as_secs_f64());
        self.waited[0].push(after.0.since(&before.0).waiting.as_secs_f64() / time);
        self.waited[1].push(after.1.since(&before.1).waiting.as_secs_f64() / time);
        Ok(())
    }
}

/// How long the generator was away at once, or the subject was ready and others had its CPU, whichever is more.
fn away(window: &Opened<(Usage, Usage)>) -> Duration {
    let [before, after] = &window.probed;
    window.stall.max(after.0.since(&before.0).waiting)
}

/// Measures until neither was away for longer than the limit, or the calmest of [`WINDOWS_MAX`]
/// windows. Says how many there were.
fn calm<T>(
    limit: Duration,
    mut measure: impl FnMut() -> anyhow::Result<(T, Duration)>,
) -> anyhow::Result<(T, usize)> {
    let (mut calmest, mut least) = measure()?;
    let mut windows = 1;
    while least > limit && windows < WINDOWS_MAX {
        eprintln!("void: the generator or the subject was away for {:.1} ms", least.as_secs_f64() * 1e3);
        let (measured, stall) = measure()?;
        windows += 1;
        if stall < least {
            (calmest, least) = (measured, stall);
        }
    }
    Ok((calmest, windows))
}

fn tabled(
    asked: &Asked,
    subjects: &[&Subject],
    (of, workload): (Of, Workload),
    responses: &[Responses],
    random: &mut Rng,
) -> Table {
    let column = |of: usize| responses.iter().map(|all| all.micros[of].clone()).collect::<Vec<Vec<f64>>>();
    // Whether a percentile is had depends on the count of messages, which the plan gives to all alike.
    let complete = |values: &[Vec<f64>]| values.iter().all(|values| values.len() == asked.rounds);
    let p99 = column(P99);
    let reference = complete(&p99).then(|| best(subjects, &p99, &Rank::PEERS)).flatten();
    let reference = reference.map(|(place, _)| place);
    let mut head = vec!["subject".to_owned()];
    let mut rows: Vec<Vec<String>> = subjects.iter().map(|subject| vec![subject.name.clone()]).collect();
    for (place, (_, name)) in SHARES.iter().enumerate() {
        let values = column(place);
        let to = reference.filter(|_| complete(&values)).map(|reference| &values[reference]);
        head.push((*name).to_owned());
        head.push(match reference {
            Some(reference) => format!("of {} (95 %)", subjects[reference].name),
            None => "of the best peer".to_owned(),
        });
        for (row, values) in rows.iter_mut().zip(&values) {
            row.push(if values.is_empty() { NOTHING.to_owned() } else { format!("{:.0}", median(values)) });
            row.push(to.map_or(NOTHING.to_owned(), |to| cell(ratio_of_medians(values, to, random))));
        }
    }
    let names: Vec<&str> = subjects.iter().map(|subject| &*subject.name).collect();
    let judged = judge((What::Latency, of, workload.name), &names, &p99, random);
    let all = |of: fn(&Responses) -> &Vec<f64>| responses.iter().flat_map(of).copied().collect::<Vec<_>>();
    let sum = |of: fn(&Responses) -> usize| responses.iter().map(of).sum::<usize>();
    let notes = vec![
        "Percentiles are medians over rounds; – where a round has fewer than ten messages beyond.".to_owned(),
        format!(
            "The generator had sent by {:.0} µs after the plan in p99, by {:.0} µs the latest (medians over windows); \
             {} windows were void since it was away, or the subject waited for its CPU, for more than {:.1} ms; {} \
             count though it was.",
            median(&all(|own| &own.late[0])),
            median(&all(|own| &own.late[1])),
            sum(|own| own.void),
            (asked.window / AWAY_MAX).as_secs_f64() * 1e3,
            sum(|own| own.uneasy),
        ),
        others_had(&all(|own| &own.waited[0]), &all(|own| &own.waited[1])),
    ];
    Table { title: String::new(), head, rows, notes, judged }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_alone_decide_the_rate() {
        let ranks = [Rank::Ours, Rank::Reference, Rank::Other, Rank::Limit];
        assert_eq!(slowest(&ranks, &[1.0, 5.0, 4.0, 2.0]), 2);
        assert_eq!(slowest(&ranks, &[1.0, 3.0, 4.0, 2.0]), 1);
        assert_eq!(slowest(&[Rank::Ours, Rank::Limit, Rank::Ours], &[3.0, 2.0, 1.0]), 2);
    }

    #[test]
    fn windows_are_repeated_until_one_is_calm_and_not_for_ever() {
        let limit = Duration::from_millis(5);
        let tried = |stalls: &[u64]| {
            let mut windows = stalls.iter().map(|stall| Ok((*stall, Duration::from_millis(*stall))));
            calm(limit, || windows.next().expect("no more windows than allowed")).unwrap()
        };
        assert_eq!(tried(&[5, 0]), (5, 1));
        assert_eq!(tried(&[9, 30, 1, 0]), (1, 3));
        assert_eq!(tried(&[9, 30, 7, 8, 50]), (7, WINDOWS_MAX));
    }
}
