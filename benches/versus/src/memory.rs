//! Memory that an idle connection takes in the subject, by the slope between few and many.
//!
//! Every connection has exchanged one message, and for a proxy has its other half at the origin. Counted is
//! what only the process has, in user space; the kernel's memory for the sockets is the same for all and is
//! not.

use crate::asked::{Asked, Of};
use crate::cost::{fitting, in_rounds, start};
use crate::cpus::Cpus;
use crate::load::Workload;
use crate::report::Table;
use crate::statistics::median;
use crate::subject::Subject;
use crate::targets::judge_memory;
use crate::usage::private_bytes;

/// Idle connections at which memory is read. The slope between the last two leaves out what comes with the
/// first ones, such as buffers that all share; the slope over all is steadier where memory is had in large
/// steps.
const STEPS: [usize; 3] = [0, 1000, 4000];

/// How long a subject may take to put in order what it has, before it is read.
const SETTLING: std::time::Duration = std::time::Duration::from_millis(200);

/// Reads the memory of all subjects.
///
/// # Errors
/// One does not start, dies, or loses a connection.
pub fn table(
    asked: &Asked,
    subjects: &[Subject],
    (of, workload): (Of, Workload),
    cpus: Cpus,
) -> anyhow::Result<Table> {
    let mut random = fastrand::Rng::with_seed(asked.seed);
    let subjects = fitting(subjects, workload);
    // By subject, by step, by round.
    let mut bytes = vec![vec![Vec::new(); STEPS.len()]; subjects.len()];
    in_rounds(&subjects, workload, asked.rounds, &mut random, |place, subject| {
        let folder = tempfile::tempdir()?;
        let (mut generator, mut running) = start(subject, (of, workload), cpus, folder.path())?;
        for (step, connections) in STEPS.into_iter().enumerate() {
            generator.idle(connections)?;
            generator.rest(SETTLING)?;
            running.check()?;
            bytes[place][step].push(private_bytes(running.id())? as f64);
        }
        Ok(bytes[place][2].last().map_or(String::new(), |last| format!("{:.1} MiB", last / MIB)))
    })?;
    let mut judged = Vec::new();
    let rows = subjects.iter().zip(&bytes).map(|(subject, bytes)| {
        let steps: Vec<f64> = bytes.iter().map(|rounds| median(rounds)).collect();
        let slope = |from: usize| (steps[2] - steps[from]) / (STEPS[2] - STEPS[from]) as f64;
        let slopes = [slope(1), slope(0)];
        judged.extend(judge_memory(of, &subject.name, slopes[0]));
        let slopes = slopes.map(|slope| format!("{slope:.0}"));
        let mebibytes = steps.iter().map(|bytes| format!("{:.1}", bytes / MIB));
        std::iter::once(subject.name.clone()).chain(mebibytes).chain(slopes).collect()
    });
    let rows = rows.collect();
    let at = STEPS.map(|connections| format!("MiB at {connections}"));
    let slopes = [STEPS[1], STEPS[0]].map(|from| format!("bytes each from {from}"));
    let head = std::iter::once("subject".to_owned()).chain(at).chain(slopes);
    Ok(Table {
        title: format!("Private memory with idle connections, {} rounds", asked.rounds),
        head: head.collect(),
        rows,
        notes: vec![format!("Bytes of each connection up to {}, by medians.", STEPS[2])],
        judged,
    })
}

const MIB: f64 = (1 << 20) as f64;
