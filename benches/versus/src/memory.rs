//! Memory that an idle connection takes in the subject, by the slope between few and many.
//!
//! Every connection has exchanged one message, and for a proxy has its other half at the origin. Counted is what only the
//! process has, in user space; the kernel's memory for the sockets is the same for all and is not.

use crate::asked::Asked;
use crate::cost::{fitting, in_rounds, start};
use crate::cpus::Cpus;
use crate::load::Workload;
use crate::report::Table;
use crate::statistics::median;
use crate::subject::Subject;
use crate::usage::private_bytes;

/// Idle connections at which memory is read. The slope is between the last two: what comes with the first ones, be it
/// buffers or tables, is no connection's.
const STEPS: [usize; 3] = [0, 1000, 4000];

/// How long a subject may take to put in order what it has, before it is read.
const SETTLING: std::time::Duration = std::time::Duration::from_millis(200);

/// Reads the memory of all subjects.
///
/// # Errors
/// One does not start, dies, or loses a connection.
pub fn table(asked: &Asked, subjects: &[Subject], workload: Workload, cpus: Cpus) -> anyhow::Result<Table> {
    let mut random = fastrand::Rng::with_seed(asked.seed);
    let subjects = fitting(subjects, workload);
    // By subject, by step, by round.
    let mut bytes = vec![vec![Vec::new(); STEPS.len()]; subjects.len()];
    in_rounds(&subjects, workload, asked.rounds, &mut random, |place, subject| {
        let folder = tempfile::tempdir()?;
        let (mut generator, mut running) = start(subject, workload, asked, cpus, folder.path())?;
        for (step, connections) in STEPS.into_iter().enumerate() {
            generator.idle(connections)?;
            generator.rest(SETTLING)?;
            running.check()?;
            bytes[place][step].push(private_bytes(running.id())? as f64);
        }
        Ok(bytes[place][2].last().map_or(String::new(), |last| format!("{:.1} MiB", last / MIB)))
    })?;
    let rows = subjects.iter().zip(&bytes).map(|(subject, bytes)| {
        let steps: Vec<f64> = bytes.iter().map(|rounds| median(rounds)).collect();
        let slope = (steps[2] - steps[1]) / (STEPS[2] - STEPS[1]) as f64;
        let mebibytes = steps.iter().map(|bytes| format!("{:.1}", bytes / MIB));
        std::iter::once(subject.name.clone()).chain(mebibytes).chain([format!("{slope:.0}")]).collect()
    });
    let at = STEPS.map(|connections| format!("MiB at {connections}"));
    let head = std::iter::once("subject".to_owned()).chain(at).chain(["bytes/connection".to_owned()]);
    Ok(Table {
        title: format!("Private memory with idle connections, {} rounds", asked.rounds),
        head: head.collect(),
        rows: rows.collect(),
        notes: vec![format!("Bytes per connection: from {} to {} connections, median.", STEPS[1], STEPS[2])],
    })
}

const MIB: f64 = (1 << 20) as f64;
