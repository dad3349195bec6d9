//! What a run came to, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::account::Account;
use super::histogram::{Histogram, Percentile, Reading, Responses};
use super::job::Finished;
use super::plan::{Mode, Plan};
use super::slo::{Objective, percent};
use super::tally::Fault;
use super::units::{count, latency};
use super::usage;
use super::verdict::{self, Cause, Verdict};

/// The name and version of the JSON shape. A change that a reader could trip over gets a new number.
pub const SCHEMA: &str = "waterwheel/load-run/1";

/// What a run came to. Its `Display` is the table that the command prints; serialised it is the result for machines.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    target: String,
    /// What a request is.
    payload: String,
    load: Load,
    connections: Connections,
    /// How long requests were planned: what all rates here are per.
    seconds: f64,
    /// Whether it was stopped before its time.
    interrupted: bool,
    account: Account,
    /// Requests answered rightly per second while requests were planned; the answers that came later, which the end of
    /// the run waits for, do not count.
    ok_per_second: f64,
    content_bytes_per_second: f64,
    response: Response,
    service: Latencies,
    first_byte: Latencies,
    slot_wait: Latencies,
    server: Option<Server>,
    /// CPU time of the whole machine per answered request.
    machine_cpu_us_per_request: Option<f64>,
    /// Jain's index of the requests per connection: 1 if all did the same.
    fairness: Option<f64>,
    faults: Vec<FaultCount>,
    generator: Generator,
    slo: Vec<Clause>,
    /// How the command ends: 0, or 3, 4, 5 for a threshold that was missed, an invalid measurement, a target that died.
    exit_code: u8,
}

/// Who decided when a request starts.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Load {
    Open { rate_per_second: f64, arrivals: String, seed: u64 },
    Closed,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Connections {
    asked: u32,
    established: u32,
    established_at_end: u32,
    refused_at_end: u32,
    reconnects: u64,
}

/// `done − planned` of all planned requests, by percentile; `null` where too few samples lie beyond.
#[derive(Clone, Debug, Serialize)]
struct Response {
    percentiles: BTreeMap<String, Option<Known>>,
    max: Option<Known>,
    /// Of good answers only.
    mean_ns: Option<f64>,
}

/// What is known of a latency.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "known", rename_all = "kebab-case")]
enum Known {
    Exactly { ns: u64 },
    AtLeast { ns: u64 },
    Infinite,
}

/// Latencies of good answers in nanoseconds, by percentile; `null` where too few samples lie beyond.
#[derive(Clone, Debug, Serialize)]
struct Latencies {
    count: u64,
    percentiles: BTreeMap<String, Option<u64>>,
    mean_ns: Option<f64>,
    max_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Server {
    pid: u32,
    cpu_us_per_request: Option<f64>,
    user_us_per_request: Option<f64>,
    system_us_per_request: Option<f64>,
    resident_bytes: u64,
    /// Whether the process was still there at the end.
    alive: bool,
}

#[derive(Clone, Debug, Serialize)]
struct FaultCount {
    #[serde(flatten)]
    fault: Fault,
    count: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Generator {
    verdict: Verdict,
    causes: Vec<Cause>,
    /// Of the busiest shard; with `spins`, looking for work counts as being busy.
    busy: Option<f64>,
    spins: bool,
    wake_lag: Latencies,
    /// Latencies longer than an hour are counted as an hour; so many were.
    cut: u64,
    shards: Vec<Shard>,
}

#[derive(Clone, Debug, Serialize)]
struct Shard {
    shard: usize,
    planned: u64,
    busy: Option<f64>,
    queued: Option<f64>,
    cpus: Vec<usize>,
    wake_lag_p99_ns: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
struct Clause {
    clause: String,
    holds: bool,
    found: String,
}

impl Report {
    /// Puts a run into words. `target` and `payload` say what was loaded.
    pub fn new(plan: &Plan, target: &str, payload: &str, finished: &Finished, slo: &Objective) -> Report {
        let Finished { tally, .. } = finished;
        let account = tally.account;
        let seconds = (finished.end - finished.start).as_secs_f64();
        let each_second = |count: u64| count as f64 / seconds.max(1e-9);
        let answered = account.ok + account.http_error;
        let server = server(plan, finished, answered);
        let target_cpus = plan.target_pid.map_or(Vec::new(), usage::busy_cpus);
        let generator = Generator::new(plan, finished, &target_cpus);
        let slo: Vec<Clause> = slo
            .judge(&account, &tally.responses())
            .into_iter()
            .map(|judged| Clause {
                clause: judged.clause.to_string(),
                holds: judged.holds,
                found: judged.found,
            })
            .collect();
        let died = server.is_some_and(|server| !server.alive) || finished.refused_at_end == finished.asked;
        Report {
            schema: SCHEMA,
            target: target.to_owned(),
            payload: payload.to_owned(),
            load: match plan.mode {
                Mode::Closed => Load::Closed,
                Mode::Open { rate, arrivals } => Load::Open {
                    rate_per_second: rate.as_f64(),
                    arrivals: arrivals.to_string(),
                    seed: plan.seed,
                },
            },
            connections: Connections {
                asked: finished.asked,
                established: finished.established,
                established_at_end: finished.established_at_end,
                refused_at_end: finished.refused_at_end,
                reconnects: finished.reconnects,
            },
            seconds,
            interrupted: finished.interrupted,
            account,
            ok_per_second: each_second(tally.in_time.ok),
            content_bytes_per_second: each_second(tally.in_time.content_bytes),
            response: Response::new(&tally.responses()),
            service: Latencies::new(&tally.service),
            first_byte: Latencies::new(&tally.first_byte),
            slot_wait: Latencies::new(&tally.slot_wait),
            server,
            machine_cpu_us_per_request: finished
                .machine_cpu
                .filter(|_| answered > 0)
                .map(|cpu| cpu.as_secs_f64() * 1e6 / answered as f64),
            fairness: fairness(&finished.per_connection),
            faults: faults(finished),
            exit_code: match () {
                () if died => 5,
                () if generator.verdict == Verdict::Invalid => 4,
                () if slo.iter().any(|clause| !clause.holds) => 3,
                () => 0,
            },
            generator,
            slo,
        }
    }

    /// How the command ends: 0, or 3, 4, 5 for a threshold that was missed, an invalid measurement, a target that died.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// Whether the measurement may be believed.
    pub fn verdict(&self) -> Verdict {
        self.generator.verdict
    }
}

fn server(plan: &Plan, finished: &Finished, answered: u64) -> Option<Server> {
    let pid = plan.target_pid?;
    let (before, after) = finished.target?;
    let used = after.map(|after| after.since(&before));
    let each = |cpu: std::time::Duration| cpu.as_secs_f64() * 1e6 / answered as f64;
    let used = used.filter(|_| answered > 0);
    let split = used.and_then(|used| used.split);
    Some(Server {
        pid,
        cpu_us_per_request: used.map(|used| each(used.total)),
        user_us_per_request: split.map(|(user, _)| each(user)),
        system_us_per_request: split.map(|(_, system)| each(system)),
        resident_bytes: after.unwrap_or(before).resident_bytes,
        alive: after.is_some(),
    })
}

fn faults(finished: &Finished) -> Vec<FaultCount> {
    let all = finished.tally.faults.by_count();
    all.into_iter().map(|(fault, count)| FaultCount { fault: fault.clone(), count }).collect()
}

/// Jain, Chiu, Hawe 1984: (Σx)² / (n·Σx²).
fn fairness(per_connection: &[u64]) -> Option<f64> {
    let sum: f64 = per_connection.iter().map(|n| *n as f64).sum();
    let squares: f64 = per_connection.iter().map(|n| (*n as f64).powi(2)).sum();
    (squares > 0.0).then(|| sum * sum / (per_connection.len() as f64 * squares))
}

impl Response {
    fn new(responses: &Responses<'_>) -> Response {
        Response {
            percentiles: by_percentile(|percentile| responses.at(percentile).map(Known::from)),
            max: responses.max().map(Known::from),
            mean_ns: responses.answered.mean(),
        }
    }
}

impl Latencies {
    fn new(histogram: &Histogram) -> Latencies {
        Latencies {
            count: histogram.count(),
            percentiles: by_percentile(|percentile| histogram.at(percentile)),
            mean_ns: histogram.mean(),
            max_ns: histogram.max(),
        }
    }
}

fn by_percentile<T>(value: impl Fn(Percentile) -> T) -> BTreeMap<String, T> {
    Percentile::COLUMNS.into_iter().map(|percentile| (percentile.to_string(), value(percentile))).collect()
}

impl From<Reading> for Known {
    fn from(reading: Reading) -> Known {
        match reading {
            Reading::Exactly(ns) => Known::Exactly { ns },
            Reading::AtLeast(ns) => Known::AtLeast { ns },
            Reading::Infinite => Known::Infinite,
        }
    }
}

impl From<Known> for Reading {
    fn from(known: Known) -> Reading {
        match known {
            Known::Exactly { ns } => Reading::Exactly(ns),
            Known::AtLeast { ns } => Reading::AtLeast(ns),
            Known::Infinite => Reading::Infinite,
        }
    }
}

impl Generator {
    fn new(plan: &Plan, finished: &Finished, target_cpus: &[usize]) -> Generator {
        let causes = verdict::judge(finished, plan.mode, target_cpus);
        let tally = &finished.tally;
        let shards = finished.shards.iter().map(|shard| Shard {
            shard: shard.shard,
            planned: shard.planned,
            busy: shard.busy(),
            queued: shard.queued(),
            cpus: shard.cpus.clone(),
            wake_lag_p99_ns: shard.wake_lag.at(Percentile::P99),
        });
        Generator {
            verdict: causes.iter().map(|cause| cause.verdict).max().unwrap_or(Verdict::Valid),
            causes,
            busy: finished.shards.iter().filter_map(|shard| shard.busy()).max_by(f64::total_cmp),
            spins: finished.shards.iter().any(|shard| shard.spins),
            wake_lag: Latencies::new(&tally.wake_lag),
            cut: tally.response.cut() + tally.unanswered.cut(),
            shards: shards.collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.heading(f)?;
        writeln!(f, "{}", self.account)?;
        self.table(f)?;
        self.details(f)?;
        let Generator { verdict, causes, busy, spins, wake_lag, .. } = &self.generator;
        write!(f, "generator {verdict}")?;
        if let Some(busy) = busy {
            write!(f, "   busy {}{}", percent(*busy), if *spins { ", spinning" } else { "" })?;
        }
        if let (Some(lag), Load::Open { .. }) =
            (wake_lag.percentiles.get("p99").copied().flatten(), &self.load)
        {
            write!(f, " · wake lag p99 {}", latency(lag))?;
        }
        writeln!(f)?;
        for Cause { verdict, what, next } in causes {
            writeln!(f, "  {verdict}: {what} → {next}")?;
        }
        if !self.slo.is_empty() {
            let passes = self.slo.iter().all(|clause| clause.holds);
            write!(f, "slo {}", if passes { "PASS" } else { "MISSED" })?;
            for (n, Clause { clause, holds, found }) in self.slo.iter().enumerate() {
                let separator = if n == 0 { " " } else { " ·" };
                write!(f, "{separator} {clause}: {found}{}", if *holds { "" } else { " (missed)" })?;
            }
            writeln!(f)?;
        }
        if self.exit_code == 5 {
            writeln!(f, "the target died")?;
        }
        Ok(())
    }
}

impl Report {
    fn heading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connections { asked, established, reconnects, .. } = self.connections;
        let shards = self.generator.shards.len();
        write!(f, "target    {}, {}, {established} of {asked} connections", self.target, self.payload)?;
        if reconnects > 0 {
            write!(f, " ({} made anew)", count(reconnects as f64))?;
        }
        writeln!(f, " on {shards} {}", if shards == 1 { "shard" } else { "shards" })?;
        match &self.load {
            Load::Open { rate_per_second, arrivals, seed } => {
                write!(
                    f,
                    "load      open loop, {arrivals}, {}/s for {:.1} s",
                    count(*rate_per_second),
                    self.seconds
                )?;
                write!(f, " (seed {seed})")?;
            }
            Load::Closed => write!(
                f,
                "load      closed loop for {:.1} s: service time under saturation, not what a user waits",
                self.seconds
            )?,
        }
        if self.interrupted {
            write!(f, ", stopped early")?;
        }
        let bytes = count(self.content_bytes_per_second);
        writeln!(f, "\nachieved  {} answers/s, {bytes}B/s\n", count(self.ok_per_second))
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<18}", "")?;
        for percentile in Percentile::COLUMNS {
            write!(f, "{:>8}", percentile.to_string())?;
        }
        writeln!(f, "{:>8}", "max")?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, cells: Vec<Option<String>>, note: &str| {
            write!(f, "{name:<18}")?;
            cells.into_iter().try_for_each(|cell| write!(f, "{:>8}", cell.as_deref().unwrap_or("-")))?;
            writeln!(f, "   {note}")
        };
        if let Load::Open { .. } = self.load {
            let known = |known: Option<Known>| known.map(|known| Reading::from(known).to_string());
            let columns = Percentile::COLUMNS.iter();
            let mut cells: Vec<_> = columns
                .map(|percentile| {
                    known(self.response.percentiles.get(&percentile.to_string()).copied().flatten())
                })
                .collect();
            cells.push(known(self.response.max));
            row(f, "response", cells, "planned → done, failures count as ∞")?;
        }
        let mut cells: Vec<_> = Percentile::COLUMNS
            .iter()
            .map(|percentile| self.service.percentiles.get(&percentile.to_string()).copied().flatten())
            .collect();
        cells.push(self.service.max_ns);
        row(f, "service, ok only", cells.into_iter().map(|ns| ns.map(latency)).collect(), "sent → done")
    }

    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.slot_wait.count > 0 {
            let part = percent(self.slot_wait.count as f64 / self.account.planned.max(1) as f64);
            let longest = latency(self.slot_wait.max_ns.unwrap_or(0));
            writeln!(f, "queue     {part} of all requests waited for a connection, at most {longest}")?;
        }
        if let Some(server) = self.server {
            let mebibytes = server.resident_bytes as f64 / f64::from(1 << 20);
            write!(f, "server    {mebibytes:.1} MiB")?;
            if let Some(cpu) = server.cpu_us_per_request {
                write!(f, " · {cpu:.1} µs/request")?;
            }
            if let (Some(user), Some(system)) = (server.user_us_per_request, server.system_us_per_request) {
                write!(f, " (user {user:.1}, system {system:.1})")?;
            }
            writeln!(f, "{}", if server.alive { "" } else { " · gone at the end" })?;
        }
        if let Some(cpu) = self.machine_cpu_us_per_request {
            write!(f, "machine   {cpu:.1} µs/request")?;
            writeln!(f, "{}", self.fairness.map_or(String::new(), |jain| format!(" · Jain {jain:.4}")))?;
        }
        for FaultCount { fault, count } in self.faults.iter().take(10) {
            writeln!(f, "fault     {count} × {fault}")?;
        }
        if self.faults.len() > 10 {
            writeln!(f, "fault     and {} more kinds", self.faults.len() - 10)?;
        }
        Ok(())
    }
}
