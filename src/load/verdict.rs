//! Whether a measurement may be believed: the harness judges itself, names the cause and the next step.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::histogram::{Histogram, Percentile};
use super::job::{Finished, ShardHealth};
use super::plan::Mode;
use super::slo::percent;
use super::units::latency;

/// Whether a measurement may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Nothing speaks against it.
    Valid,
    /// Good for comparing like with like on this machine, and no more.
    Suspect,
    /// It shows the generator, not the target.
    Invalid,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Valid => "VALID",
            Verdict::Suspect => "SUSPECT",
            Verdict::Invalid => "INVALID",
        })
    }
}

/// Something that speaks against a measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// How much.
    pub verdict: Verdict,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub next: &'static str,
}

/// Being late by less than this is what a timer of the kernel's costs anywhere.
const LAG_ALWAYS_NS: u64 = 50_000;
/// A generator that is late by this part of the target's own p50, or of its p99, is part of the result.
const LAG_OF_MEDIAN: f64 = 0.05;
const LAG_OF_P99: f64 = 0.20;
/// One stall longer than this is worth a word even if it is too short for a percentile.
const STALL_NS: u64 = 10_000_000;
/// A thread that is on its CPU for more of the time has queues of its own.
const BUSY_SUSPECT: f64 = 0.5;
const BUSY_INVALID: f64 = 0.85;
/// A thread that waits longer for its CPU does not have it alone.
const QUEUED_SUSPECT: f64 = 0.01;
/// Requests dispatched after the end of planning, or given up.
const LATE_INVALID: f64 = 0.01;

/// Everything that speaks against a measurement; nothing if it is [`Verdict::Valid`].
pub fn judge(finished: &Finished, mode: Mode, target_cpus: &[usize]) -> Vec<Cause> {
    let mut causes = Vec::new();
    if mode != Mode::Closed {
        lag(finished, &mut causes);
    }
    for shard in &finished.shards {
        busy(shard, mode, &mut causes);
        let shared: Vec<usize> = shard.cpus.iter().copied().filter(|cpu| target_cpus.contains(cpu)).collect();
        if let Some(cpu) = shared.first() {
            causes.push(Cause {
                verdict: Verdict::Suspect,
                what: format!("shard {} may run on CPU {cpu}, and so may the target", shard.shard),
                next: "give each its own with --cpus and taskset",
            });
        }
    }
    let local = finished.tally.faults.local();
    if local > 0 {
        causes.push(Cause {
            verdict: Verdict::Invalid,
            what: format!("{local} errors of this machine's own: it ran out of descriptors, ports or memory"),
            next: "use fewer connections, or raise the limit",
        });
    }
    if finished.established < finished.asked {
        causes.push(Cause {
            verdict: Verdict::Suspect,
            what: format!("only {} of {} connections were made", finished.established, finished.asked),
            next: "look at the faults",
        });
    }
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.verdict));
    causes
}

/// Open loop: requests that went out later than planned by our own fault.
fn lag(finished: &Finished, causes: &mut Vec<Cause>) {
    let crowded =
        finished.shards.iter().any(|shard| shard.queued().is_some_and(|part| part > QUEUED_SUSPECT));
    let next = match crowded {
        true => "something else runs on its CPU: stop that, or move one of them with --cpus",
        false => "lower the rate or use more shards",
    };
    let tally = &finished.tally;
    let at = |histogram: &Histogram, percentile| histogram.roughly_at(percentile).unwrap_or(0);
    let lag = at(&tally.wake_lag, Percentile::P99);
    // Without a good answer there is no response time that our lag could be a part of.
    let known = |percentile| tally.response.roughly_at(percentile).unwrap_or(u64::MAX);
    let (median, p99) = (known(Percentile::MEDIAN), known(Percentile::P99));
    let worst = finished.shards.iter().max_by_key(|shard| at(&shard.wake_lag, Percentile::P99));
    let worst = worst.map_or(0, |shard| shard.shard);
    let mut say = |verdict, what| causes.push(Cause { verdict, what, next });
    if lag > LAG_ALWAYS_NS && lag as f64 > p99 as f64 * LAG_OF_P99 {
        let (lag, p99) = (latency(lag), latency(p99));
        say(
            Verdict::Invalid,
            format!("wake lag p99 {lag} of a response p99 of {p99}, worst on shard {worst}"),
        );
    } else if lag > LAG_ALWAYS_NS && lag as f64 > median as f64 * LAG_OF_MEDIAN {
        let (lag, median) = (latency(lag), latency(median));
        say(
            Verdict::Suspect,
            format!("wake lag p99 {lag} at a response p50 of {median}, worst on shard {worst}"),
        );
    }
    let longest = tally.wake_lag.max().unwrap_or(0);
    if longest > STALL_NS {
        say(Verdict::Suspect, format!("the generator itself stalled for {}", latency(longest)));
    }
    let late = tally.late as f64 / tally.account.planned.max(1) as f64;
    if late > LATE_INVALID {
        say(Verdict::Invalid, format!("{} of all requests were sent after the end or never", percent(late)));
    }
}

fn busy(shard: &ShardHealth, mode: Mode, causes: &mut Vec<Cause>) {
    let Some(busy) = shard.busy() else { return };
    let number = shard.shard;
    let what = format!("shard {number} was busy for {} of the time", percent(busy));
    // What a shard that spins had to do shows in its lag alone.
    let busy = if shard.spins { 0.0 } else { busy };
    if busy > BUSY_INVALID && mode != Mode::Closed {
        causes.push(Cause { verdict: Verdict::Invalid, what, next: "lower the rate or use more shards" });
    } else if busy > BUSY_INVALID {
        let next = "the target could do more: use more shards, or read this as the generator's limit";
        causes.push(Cause { verdict: Verdict::Suspect, what, next });
    } else if busy > BUSY_SUSPECT && mode != Mode::Closed {
        causes.push(Cause { verdict: Verdict::Suspect, what, next: "lower the rate or use more shards" });
    }
    let queued = shard.queued().unwrap_or(0.0);
    if queued > QUEUED_SUSPECT {
        let what = format!("shard {number} waited for its CPU for {} of the time", percent(queued));
        causes.push(Cause { verdict: Verdict::Suspect, what, next: "give it a CPU of its own" });
    }
}

impl ShardHealth {
    /// The part of the time that its thread was on a CPU.
    pub fn busy(&self) -> Option<f64> {
        self.part(self.thread?.on_cpu)
    }

    /// The part of the time that its thread could have run and somebody else did.
    pub fn queued(&self) -> Option<f64> {
        self.part(self.thread?.waiting)
    }

    /// Nothing is known of no time: the run was stopped before it began.
    fn part(&self, time: Duration) -> Option<f64> {
        (!self.wall.is_zero()).then(|| time.as_secs_f64() / self.wall.as_secs_f64())
    }
}
