//! `waterwheel load run`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};

use super::values::{YEAR_MS, length, whole};
use super::{Failure, output};
use crate::load::job::{Finished, Job, LoadError};
use crate::load::plan::{Mode, Plan};
use crate::load::progress::{Interval, Progress};
use crate::load::report::Report;
use crate::load::schedule::Arrivals;
use crate::load::slo::Objective;
use crate::load::target::{Protocol, Target};
use crate::load::units::{Rate, parse_duration, parse_size};
use crate::load::workload::{BodyLength, Echo, HttpGet, Workload};
use crate::runtime::{Config, Runtime};
use crate::steer::random_seed;

/// The numbers contradict each other: nothing of them may be believed.
const INVALID: u8 = 4;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Loads one target, and says how it did and whether the measurement may be believed. Exit codes: 0 as asked, 1 it
    /// could not start or run, 2 usage, 3 a threshold was missed, 4 the measurement is invalid, 5 the target died.
    Run(Run),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("mode").required(true))]
pub(super) struct Run {
    /// `http://HOST:PORT/path` (GET, keep-alive), or `tcp:HOST:PORT` or `unix:PATH` (an echo).
    #[arg(value_name = "TARGET")]
    target: Target,
    /// Open loop: so many requests are planned per second, as in `800` or `40k`, whatever the target does.
    #[arg(long, value_name = "RATE", group = "mode")]
    rate: Option<Rate>,
    /// How the planned requests are spread: `poisson` or `uniform`.
    #[arg(long, default_value_t, value_name = "PROCESS", conflicts_with = "closed")]
    arrival: Arrivals,
    /// Closed loop: each connection asks again as soon as it has its answer.
    #[arg(long, group = "mode")]
    closed: bool,
    /// How many connections.
    #[arg(long, default_value_t = Plan::default().connections, value_parser = whole::<u32, 1, 1_048_576>, value_name = "COUNT")]
    connections: u32,
    /// How long requests are planned and measured.
    #[arg(long = "for", default_value = "10s", value_parser = length::<10, YEAR_MS>, value_name = "TIME")]
    length: Duration,
    /// How long the target is loaded before that, unmeasured; `0s`: not at all.
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "TIME")]
    warm_up: Duration,
    /// How long an exchange may take; the end of the run waits as long for missing answers.
    #[arg(long, default_value = "5s", value_parser = length::<1, YEAR_MS>, value_name = "TIME")]
    timeout: Duration,
    /// Echo: bytes per message (64). HTTP: how long the body of a good answer must be (as long as the first), or `any`.
    #[arg(long, value_parser = size, value_name = "BYTES")]
    size: Option<Size>,
    /// How many requests may wait for a connection; what comes beyond is shed, and counted.
    #[arg(long, default_value_t = Plan::default().waiting_max, value_parser = whole::<usize, 0, 1_000_000_000>, value_name = "COUNT")]
    queue: usize,
    /// Plans the same requests as a run with the same seed; random by default.
    #[arg(long, value_parser = whole::<u64, 0, { u64::MAX }>, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Thresholds, as in `p99<1ms,err<0.1%`. Failures count as infinitely slow.
    #[arg(long, default_value = "", hide_default_value = true, value_parser = objective, value_name = "CLAUSES")]
    slo: Objective,
    /// The target's process: reports its CPU time per request and its memory, descendants included.
    #[arg(long, value_parser = whole::<u32, 1, { i32::MAX as u64 }>, value_name = "PID")]
    target_pid: Option<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Print no line each second.
    #[arg(long)]
    quiet: bool,
}

/// What `--size` asks for.
#[derive(Clone, Copy, Debug)]
enum Size {
    Bytes(u64),
    Any,
}

fn size(text: &str) -> Result<Size, String> {
    if text == "any" { Ok(Size::Any) } else { parse_size(text).map(Size::Bytes) }
}

/// Nothing asks for nothing.
fn objective(text: &str) -> Result<Objective, String> {
    if text.is_empty() { Ok(Objective::default()) } else { text.parse() }
}

impl Command {
    pub(super) fn run(self, config: Config) -> Result<ExitCode, Failure> {
        let Command::Run(run) = self;
        run.run(config)
    }
}

impl Run {
    fn run(self, config: Config) -> Result<ExitCode, Failure> {
        let runtime = Runtime::new(config)?;
        let plan = self.plan(runtime.shards())?;
        let (payload, report) = match &self.target.protocol {
            Protocol::Echo => {
                let size = match self.size {
                    None => 64,
                    Some(Size::Bytes(size)) => size,
                    Some(Size::Any) => {
                        let wrong =
                            "--size any: a message has a size; allowed: bytes as in 64, 1k (1024), 4m, 1g";
                        return Err(Failure::Usage(wrong.to_owned()));
                    }
                };
                let workload = Echo::new(size).map_err(|wrong| Failure::Usage(format!("--{wrong}")))?;
                (format!("echo of {size} bytes"), self.carry_out(runtime, plan.clone(), workload)?)
            }
            Protocol::Http { authority, path } => {
                let length = match self.size {
                    None => BodyLength::LikeFirst,
                    Some(Size::Bytes(bytes)) => BodyLength::Exactly(bytes),
                    Some(Size::Any) => BodyLength::Any,
                };
                let workload = HttpGet::new(authority, path, length);
                (
                    format!("HTTP/1.1 GET keep-alive, {length}"),
                    self.carry_out(runtime, plan.clone(), workload)?,
                )
            }
        };
        let finished = match report {
            Ok(finished) => finished,
            Err(error @ LoadError::Imbalance(_)) => {
                output::err(&format!("waterwheel: {error}\n"));
                return Ok(ExitCode::from(INVALID));
            }
            Err(error) => return Err(Failure::Run(format!("{}: {error}", self.target))),
        };
        let report = Report::new(&plan, &self.target.to_string(), &payload, &finished, &self.slo);
        output::out(&if self.json { output::json(&report)? } else { report.to_string() })?;
        Ok(ExitCode::from(report.exit_code()))
    }

    /// What to do on so many shards.
    fn plan(&self, shards: usize) -> Result<Plan, Failure> {
        let mode = match self.rate {
            Some(rate) => Mode::Open { rate, arrivals: self.arrival },
            None => Mode::Closed,
        };
        let plan = Plan {
            mode,
            connections: self.connections,
            measure: self.length,
            warm_up: self.warm_up,
            timeout: self.timeout,
            seed: self.seed.unwrap_or_else(|| u64::from(random_seed())),
            waiting_max: self.queue,
            target_pid: self.target_pid,
        };
        // The others of its numbers were checked one by one.
        plan.check(shards)
            .map_err(|wrong| Failure::Usage(format!("--rate, --connections, --for or --timeout: {wrong}")))?;
        Ok(plan)
    }

    /// Runs the job on all shards, with a thread beside them that prints what happens.
    fn carry_out<W: Workload>(
        &self,
        runtime: Runtime,
        plan: Plan,
        workload: W,
    ) -> Result<Result<Finished, LoadError>, Failure> {
        let addresses =
            self.target.endpoint.resolve_blocking().map_err(|error| Failure::Run(error.to_string()))?;
        let job = Arc::new(Job::new(plan, workload, addresses));
        let shards = runtime.shards();
        let progress = (!self.quiet).then(|| job.progress());
        std::thread::scope(|scope| {
            if let Some(progress) = progress {
                // Merging and printing would be late requests on a shard.
                scope.spawn(move || print(&progress, shards));
            }
            let on_shard = job.clone();
            let ran = runtime.run(move |shard| {
                let job = on_shard.clone();
                async move {
                    job.generate(&shard).await;
                    Ok(())
                }
            });
            match (job.finish(), ran) {
                // Why a shard ended says more than that it did. What all shards measured is not lost by it.
                (Err(LoadError::ShardLeft), Err(error)) => Err(Failure::Run(error.to_string())),
                (finished, _) => Ok(finished),
            }
        })
    }
}

/// One line for each second that all shards have told of.
fn print(progress: &Progress, shards: usize) {
    let mut seconds: BTreeMap<u64, (usize, Box<Interval>)> = BTreeMap::new();
    while let Some(interval) = progress.next() {
        let second = interval.second;
        let told = match seconds.get_mut(&second) {
            Some((told, whole)) => {
                whole.merge(&interval);
                progress.give_back(interval);
                *told += 1;
                *told
            }
            None => {
                seconds.insert(second, (1, interval));
                1
            }
        };
        if told == shards {
            if second == 0 {
                output::err(&format!("{}\n", Interval::HEADING));
            }
            let later = seconds.split_off(&(second + 1));
            for (number, (_, whole)) in std::mem::replace(&mut seconds, later) {
                // A shard that was held up has lost its turn for good.
                if number == second {
                    output::err(&format!("{whole}\n"));
                }
                progress.give_back(whole);
            }
        }
    }
}
