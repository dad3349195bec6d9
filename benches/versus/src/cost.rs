//! CPU per message: every subject once per round, in random order, each freshly started.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use fastrand::Rng;

use crate::asked::{Asked, Of, What};
use crate::cpus::Cpus;
use crate::load::{Generator, STALL_MAX, Timing, Workload};
use crate::report::{NOTHING, Table, cell};
use crate::statistics::{mean_of_ratios, median, ratio_of_medians};
use crate::subject::{Rank, Subject};
use crate::targets::judge;
use crate::usage::Usage;

/// What a subject's windows gave, by round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// CPU time per message, in µs.
    pub(crate) micros: Vec<f64>,
    /// Messages a second.
    pub(crate) rates: Vec<f64>,
    /// The share of the window that the subject was on its CPU.
    busy: Vec<f64>,
    /// The share that it could have been and was not let.
    waited: Vec<f64>,
    /// The same of the generator.
    generator_waited: Vec<f64>,
}

impl Measured {
    /// Starts the subject, loads it, measures one window, and ends it.
    pub(crate) fn once(
        &mut self,
        subject: &Subject,
        (of, workload): (Of, Workload),
        asked: &Asked,
        cpus: Cpus,
    ) -> anyhow::Result<()> {
        let timing = Timing { warm_up: asked.warm_up, window: asked.window };
        let window = awake(|| {
            let folder = tempfile::tempdir()?;
            let (mut generator, mut running) = start(subject, (of, workload), cpus, folder.path())?;
            let id = running.id();
            let window = generator.closed(timing, || Ok((Usage::of(id)?, Usage::of_this_thread()?)));
            running.check()?;
            let window = window?;
            let stall = window.stall;
            Ok((window, stall))
        })?;
        let [before, after] = window.probed;
        let (used, time) = (after.0.since(&before.0), window.time.as_secs_f64());
        self.micros.push(used.on_cpu.as_secs_f64() * 1e6 / window.messages);
        self.rates.push(window.messages / time);
        self.busy.push(used.on_cpu.as_secs_f64() / time);
        self.waited.push(used.waiting.as_secs_f64() / time);
        self.generator_waited.push(after.1.since(&before.1).waiting.as_secs_f64() / time);
        Ok(())
    }
}

/// Windows that may be void one after the other before the run gives up.
const VOID_MAX: usize = 5;

/// Measures again where the generator was away for long: then the numbers are its own, or of a machine that
/// stood still.
pub(crate) fn awake<T>(mut measure: impl FnMut() -> anyhow::Result<(T, Duration)>) -> anyhow::Result<T> {
    for _ in 0..VOID_MAX {
        let (measured, stall) = measure()?;
        if stall <= STALL_MAX {
            return Ok(measured);
        }
        eprintln!("void: the generator was away for {} ms", stall.as_millis());
    }
    bail!(
        "the generator was away for more than {STALL_MAX:?} in {VOID_MAX} windows: too much runs on this machine"
    )
}

/// A generator and a subject that know each other.
pub(crate) fn start(
    subject: &Subject,
    (of, workload): (Of, Workload),
    cpus: Cpus,
    folder: &Path,
) -> anyhow::Result<(Generator, crate::subject::Running)> {
    let is_proxy = of == Of::Proxies;
    let mut generator = Generator::new(workload, is_proxy)?;
    let origin = is_proxy.then(|| generator.origin()).transpose()?;
    let running = subject.start(cpus, folder, origin)?;
    generator.set_target(running.at());
    Ok((generator, running))
}

/// Those that take part under a load.
pub(crate) fn fitting(subjects: &[Subject], workload: Workload) -> Vec<&Subject> {
    subjects.iter().filter(|subject| !subject.leaves_out.contains(&workload.name)).collect()
}

/// Calls for every subject once per round, in an order that the seed decides.
pub(crate) fn in_rounds(
    subjects: &[&Subject],
    workload: Workload,
    rounds: usize,
    random: &mut Rng,
    mut measure: impl FnMut(usize, &Subject) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    for round in 1..=rounds {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        random.shuffle(&mut order);
        let mut said = vec![String::new(); subjects.len()];
        for place in order {
            let subject = subjects[place];
            let what = || format!("{} under {}, round {round}", subject.name, workload.name);
            said[place] = format!("{} {}", subject.name, measure(place, subject).with_context(what)?);
        }
        eprintln!("{} round {round}: {}", workload.name, said.join("  "));
    }
    Ok(())
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
    let mut measured = vec![Measured::default(); subjects.len()];
    in_rounds(&subjects, workload, asked.rounds, &mut random, |place, subject| {
        let measured = &mut measured[place];
        measured.once(subject, (of, workload), asked, cpus)?;
        Ok(measured.micros.last().map_or(String::new(), |micros| format!("{micros:.2}")))
    })?;
    Ok(tabled(asked, &subjects, (of, workload), &measured, &mut random))
}

/// How much of the two CPUs was not the run's, from the shares of all windows. The kernel counts from when a
/// thread is woken, so a subject that sleeps between messages has some percent of it on a machine of its own.
pub(crate) fn others_had(subjects: &[f64], generators: &[f64]) -> String {
    let [subjects, generators] = [subjects, generators].map(|shares| 100.0 * median(shares));
    format!(
        "Others, or waking up, had the subjects' CPU {subjects:.1} % of the time and the generator's {generators:.1} % \
         (medians)."
    )
}

/// The subject of these ranks with the least median.
pub(crate) fn best<'a>(
    subjects: &[&Subject],
    values: &'a [Vec<f64>],
    ranks: &[Rank],
) -> Option<(usize, &'a [f64])> {
    let of_rank = (0..subjects.len()).filter(|place| ranks.contains(&subjects[*place].rank));
    let by_median = |one: &usize, other: &usize| median(&values[*one]).total_cmp(&median(&values[*other]));
    of_rank.min_by(by_median).map(|place| (place, &*values[place]))
}

fn tabled(
    asked: &Asked,
    subjects: &[&Subject],
    (of, workload): (Of, Workload),
    measured: &[Measured],
    random: &mut Rng,
) -> Table {
    let micros: Vec<Vec<f64>> = measured.iter().map(|measured| measured.micros.clone()).collect();
    let reference = best(subjects, &micros, &[Rank::Reference]);
    let names: Vec<&str> = subjects.iter().map(|subject| &*subject.name).collect();
    // A loop of another kind may be better under some load, but what one can do with io_uring is the limit.
    let on_uring = names.iter().position(|name| *name == "bare-uring").map(|place| (place, &*micros[place]));
    let limit = on_uring.or_else(|| best(subjects, &micros, &[Rank::Limit]));
    let name = |best: Option<(usize, &[f64])>, none: &str| {
        best.map_or(none.to_owned(), |(place, _)| subjects[place].name.clone())
    };
    let (to_reference, to_limit) = (name(reference, "the better peer"), name(limit, "the limit"));
    let message = workload.message;
    let head = [
        "subject".to_owned(),
        format!("CPU µs/{message}"),
        "from … to".to_owned(),
        format!("{message}/s"),
        "busy".to_owned(),
        format!("of {to_reference} (95 %)"),
        "by round (95 %)".to_owned(),
        format!("of {to_limit}"),
    ];
    let rows = subjects.iter().zip(measured).map(|(subject, measured)| {
        let Measured { micros, rates, busy, .. } = measured;
        let bounds = micros.iter().fold((f64::MAX, 0f64), |(low, high), one| (low.min(*one), high.max(*one)));
        let mut to = |statistic: fn(&[f64], &[f64], &mut Rng) -> crate::statistics::Ratio| {
            reference.map_or(NOTHING.to_owned(), |(_, to)| cell(statistic(micros, to, random)))
        };
        vec![
            subject.name.clone(),
            format!("{:.2}", median(micros)),
            format!("{:.2} … {:.2}", bounds.0, bounds.1),
            format!("{:.0}", median(rates)),
            format!("{:.2}", median(busy)),
            to(ratio_of_medians),
            to(mean_of_ratios),
            limit.map_or(NOTHING.to_owned(), |(_, to)| format!("{:.2}", median(micros) / median(to))),
        ]
    });
    let rows = rows.collect();
    let judged = judge((What::Cost, of, workload.name), &names, &micros, random);
    let waited = |of: fn(&Measured) -> &Vec<f64>| measured.iter().flat_map(of).copied().collect::<Vec<_>>();
    let waited = others_had(&waited(|own| &own.waited), &waited(|own| &own.generator_waited));
    let Workload { name, connections, bytes, .. } = workload;
    Table {
        title: format!(
            "{name}: {connections} connections, {bytes} bytes a {message}, {} rounds of {} s",
            asked.rounds,
            asked.window.as_secs_f64()
        ),
        head: head.into(),
        rows,
        notes: vec![waited],
        judged,
    }
}
