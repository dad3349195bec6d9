//! One run over all shards: made before they start, carried out on each, read after they ended.

use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use waterwheel_reactor::{Address, Time};

use super::account::Imbalance;
use super::generator::{Generator, PhaseResult};
use super::meeting::{Brought, Left, Meeting, Member};
use super::plan::{Mode, Plan};
use super::progress::{Progress, Teller};
use super::schedule::Schedule;
use super::tally::{Faults, Tally};
use super::usage::{self, ProcessUsage, ThreadUsage};
use super::workload::Workload;
use crate::shard::{Phase, Shard, Task};

/// Between "all are ready" and the first planned request: time for every shard to hear of it.
const LEAD: Duration = Duration::from_millis(20);
/// The longest that the end of the warm-up waits for its answers. What is still missing then is nobody's loss.
const WARM_UP_DRAIN: Duration = Duration::from_secs(1);

/// One run: what to do, and what came of it.
///
/// Make it with [`Job::new`], let every shard of a runtime call [`Job::generate`], and ask for
/// [`Job::finish`] when they have ended. Nothing is shared between shards while requests are on their way.
#[derive(Debug)]
pub struct Job<W> {
    plan: Plan,
    workload: Arc<W>,
    addresses: Arc<[Address]>,
    meeting: Meeting,
    /// One per shard that ended well.
    results: Mutex<Vec<ShardResult>>,
    /// Why shards did not.
    failures: Mutex<Vec<LoadError>>,
    /// Why connections could not be made at the start.
    faults: Mutex<Faults>,
    /// Where intervals go, until [`Job::finish`].
    progress: Mutex<Option<Teller>>,
}

/// What one shard counted.
#[derive(Debug)]
struct ShardResult {
    shard: usize,
    /// How many shards there are.
    of: usize,
    spins: bool,
    established: u32,
    measured: PhaseResult,
    cpus: Vec<usize>,
    watched: Option<Watched>,
}

/// What the kernel counted from the start to the end, read by the first shard.
#[derive(Clone, Copy, Debug)]
struct Watched {
    target: Option<(ProcessUsage, Option<ProcessUsage>)>,
    machine: Option<(Duration, Duration)>,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No connection could be made.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The process that was to be watched is not there.
    #[error("the target's process {pid} cannot be read: {error}")]
    NoProcess {
        /// Which one.
        pid: u32,
        /// The system's reason.
        error: std::io::Error,
    },
    /// A shard ended before the run did.
    #[error("a shard ended before the run did")]
    ShardLeft,
    /// The run was stopped before anything was measured.
    #[error("stopped before anything was measured")]
    Stopped,
    /// The numbers contradict each other.
    #[error(transparent)]
    Imbalance(#[from] Imbalance),
}

impl From<Left> for LoadError {
    fn from(_: Left) -> LoadError {
        LoadError::ShardLeft
    }
}

impl<W: Workload> Job<W> {
    /// A run against the first of `addresses` that answers.
    pub fn new(plan: Plan, workload: W, addresses: Vec<Address>) -> Job<W> {
        Job {
            plan,
            workload: Arc::new(workload),
            addresses: addresses.into(),
            meeting: Meeting::default(),
            results: Mutex::default(),
            failures: Mutex::default(),
            faults: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    /// From each shard one [`Interval`](super::progress::Interval) a second, while the measurement lasts. To be called
    /// before the shards run; it ends with [`finish`](Job::finish).
    pub fn progress(&self) -> Progress {
        let (teller, progress) = Progress::new();
        *lock(&self.progress) = Some(teller);
        progress
    }

    /// What was asked for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Carries out one shard's part. Every shard of the runtime must call it, once. Returns when the run is over, or
    /// could not start; [`finish`](Job::finish) says which. A shard that is asked to stop ends the measurement early
    /// and still reports, also when the stop has no time left: then only as the shard's main task, which is polled once
    /// more.
    pub async fn generate(&self, shard: &Shard) {
        match self.try_generate(shard).await {
            Ok(result) => lock(&self.results).push(result),
            Err(failure) => lock(&self.failures).push(failure),
        }
    }

    async fn try_generate(&self, shard: &Shard) -> Result<ShardResult, LoadError> {
        let mut member = self.meeting.join(shard.count());
        if let Err(error) = waterwheel_os::sleep_exactly() {
            tracing::debug!("requests may be up to 50 µs late: {error}");
        }
        let watches = shard.id().index() == 0;
        if watches {
            // Before anything is done for nothing.
            Watched::begin(self.plan.target_pid)?;
        }
        let generator =
            Generator::new(shard.clone(), self.workload.clone(), self.addresses.clone(), &self.plan);
        let mut tasks = Tasks(Vec::new());
        let connecting = pin!(generator.connect(&mut tasks.0));
        if let Either::Right(_) = select(connecting, shard.stopping()).await {
            return Err(LoadError::Stopped);
        }
        lock(&self.faults).merge(&generator.take_faults());
        let established = generator.established() as u32;
        let all = self.meet(&mut member, shard, u64::from(established)).await?;
        if all.count == 0 {
            let faults = lock(&self.faults);
            let why = faults.by_count().first().map_or("unknown".to_owned(), |(fault, _)| fault.what.clone());
            return Err(LoadError::NoConnection(why));
        }
        let _stop = Tasks(vec![stop_early(&generator)]);
        let mut start = all.time + LEAD;
        if !self.plan.warm_up.is_zero() {
            let length = self.plan.warm_up;
            let drain = WARM_UP_DRAIN.min(self.plan.timeout);
            // Another seed, so that the measurement does not repeat what caches have just seen.
            generator
                .run_phase(start, length, drain, self.schedule(&generator, !self.plan.seed), self.closed())
                .await;
            start = self.meet(&mut member, shard, 0).await?.time + LEAD;
        }
        let watched = if watches { Some(Watched::begin(self.plan.target_pid)?) } else { None };
        let _progress = Tasks(self.report_progress(&generator, start).into_iter().collect());
        let schedule = self.schedule(&generator, self.plan.seed);
        let measured =
            generator.run_phase(start, self.plan.measure, self.plan.timeout, schedule, self.closed()).await;
        Ok(ShardResult {
            shard: shard.id().index(),
            of: shard.count(),
            spins: shard.spins(),
            established,
            measured,
            cpus: usage::own_cpus(),
            watched: watched.map(|watched| watched.end(self.plan.target_pid)),
        })
    }

    /// Waits for the other shards, unless this one is asked to stop: before the measurement there is nothing to save.
    async fn meet(&self, member: &mut Member<'_>, shard: &Shard, count: u64) -> Result<Brought, LoadError> {
        let mine = Brought { time: shard.now(), count };
        match select(pin!(member.meet(mine)), shard.stopping()).await {
            Either::Left((all, _)) if shard.phase() == Phase::Running => Ok(all?),
            Either::Left(_) | Either::Right(_) => Err(LoadError::Stopped),
        }
    }

    fn closed(&self) -> bool {
        self.plan.mode == Mode::Closed
    }

    fn schedule(&self, generator: &Generator<W>, seed: u64) -> Option<Schedule> {
        let Mode::Open { rate, arrivals } = self.plan.mode else { return None };
        Schedule::new(arrivals, rate, seed, generator.shard().id().index(), generator.share())
    }

    /// Hands out what happened in each second from `start` on, if anybody wants to know.
    fn report_progress(&self, generator: &Rc<Generator<W>>, start: Time) -> Option<Task<()>> {
        let teller = lock(&self.progress).clone()?;
        // By the time that this one is full, the first has come back.
        let mut second_one = Some(Box::default());
        let watched = generator.clone();
        Some(generator.shard().spawn("load-progress", async move {
            watched.watch();
            let mut at = start;
            for second in 0.. {
                at = at + Duration::from_secs(1);
                watched.shard().sleep_until(at).await;
                let empty = second_one.take().unwrap_or_else(|| teller.empty());
                if let Some(mut interval) = watched.swap_interval(empty) {
                    interval.second = second;
                    teller.tell(interval);
                }
            }
        }))
    }

    /// Puts together what the shards counted, once all of them have ended.
    ///
    /// # Errors
    /// There is nothing to put together, or the numbers contradict each other.
    pub fn finish(&self) -> Result<Finished, LoadError> {
        lock(&self.progress).take();
        let mut failures = std::mem::take(&mut *lock(&self.failures));
        // When one shard fails the others miss it; what failed first says more.
        failures.sort_by_key(|failure| matches!(failure, LoadError::ShardLeft));
        if let Some(failure) = failures.into_iter().next() {
            return Err(failure);
        }
        let mut results = std::mem::take(&mut *lock(&self.results));
        results.sort_by_key(|result| result.shard);
        let Some(first) = results.first() else { return Err(LoadError::ShardLeft) };
        if results.len() != first.of {
            return Err(LoadError::ShardLeft);
        }
        let mut finished = Finished {
            tally: Tally::default(),
            per_connection: Vec::new(),
            asked: self.plan.connections,
            established: 0,
            established_at_end: 0,
            refused_at_end: 0,
            reconnects: 0,
            start: first.measured.start,
            end: first.measured.end,
            over: first.measured.over,
            interrupted: false,
            target: results.iter().find_map(|result| result.watched?.target),
            machine_cpu: results
                .iter()
                .find_map(|result| result.watched?.machine)
                .map(|(a, b)| b.saturating_sub(a)),
            shards: Vec::new(),
        };
        for ShardResult { shard, spins, established, measured, cpus, .. } in results {
            measured.tally.account.settle()?;
            finished.tally.merge(&measured.tally);
            finished.per_connection.extend(&measured.per_link);
            finished.established += established;
            finished.established_at_end += measured.established as u32;
            finished.refused_at_end += measured.refused as u32;
            finished.reconnects += measured.reconnects;
            finished.end = finished.end.max(measured.end);
            finished.over = finished.over.max(measured.over);
            finished.shards.push(ShardHealth {
                shard,
                wall: measured.wall,
                thread: measured.thread,
                spins,
                cpus,
                wake_lag: measured.tally.wake_lag,
                planned: measured.tally.account.planned,
            });
        }
        finished.tally.faults.merge(&lock(&self.faults));
        finished.interrupted = finished.end - finished.start < self.plan.measure;
        finished.tally.account.settle()?;
        Ok(finished)
    }
}

/// What all shards counted in the measurement, put together.
#[derive(Debug)]
pub struct Finished {
    /// Everything counted per request.
    pub tally: Tally,
    /// How many requests each connection brought to an end.
    pub per_connection: Vec<u64>,
    /// Connections asked for, established at the start, and at the end; and those made anew in between.
    pub asked: u32,
    /// See [`asked`](Finished::asked).
    pub established: u32,
    /// See [`asked`](Finished::asked).
    pub established_at_end: u32,
    /// Connections whose latest attempt to connect failed. If it is all of them the target is gone; that none is
    /// established says less, for a target that closes after each answer.
    pub refused_at_end: u32,
    /// See [`asked`](Finished::asked).
    pub reconnects: u64,
    /// When planning began.
    pub start: Time,
    /// When planning ended.
    pub end: Time,
    /// When the last answer was no longer waited for.
    pub over: Time,
    /// Whether it was stopped before its time.
    pub interrupted: bool,
    /// The target's usage at the start and at the end; `None` at the end: it was gone.
    pub target: Option<(ProcessUsage, Option<ProcessUsage>)>,
    /// What the whole machine used.
    pub machine_cpu: Option<Duration>,
    /// How each shard fared.
    pub shards: Vec<ShardHealth>,
}

/// How one shard of the generator fared.
#[derive(Debug)]
pub struct ShardHealth {
    /// Its number.
    pub shard: usize,
    /// From the start to the end of planning.
    pub wall: Duration,
    /// What its thread had of its CPU in this time.
    pub thread: Option<ThreadUsage>,
    /// It spins before it sleeps: then its CPU time does not say how much it had to do.
    pub spins: bool,
    /// The CPUs it may run on.
    pub cpus: Vec<usize>,
    /// How late it was with its requests.
    pub wake_lag: super::histogram::Histogram,
    /// How many requests it planned.
    pub planned: u64,
}

impl Watched {
    fn begin(pid: Option<u32>) -> Result<Watched, LoadError> {
        let read = |pid| ProcessUsage::of(pid).map_err(|error| LoadError::NoProcess { pid, error });
        let target = pid.map(read).transpose()?.map(|before| (before, None));
        Ok(Watched { target, machine: usage::machine_busy().map(|before| (before, before)) })
    }

    fn end(self, pid: Option<u32>) -> Watched {
        let target = self.target.zip(pid).map(|((before, _), pid)| (before, ProcessUsage::of(pid).ok()));
        let machine = self.machine.map(|(before, _)| (before, usage::machine_busy().unwrap_or(before)));
        Watched { target, machine }
    }
}

/// Brings the end of the phase forward when the shard is asked to stop.
fn stop_early<W: Workload>(generator: &Rc<Generator<W>>) -> Task<()> {
    let generator = generator.clone();
    let shard = generator.shard().clone();
    shard.clone().spawn("load-stop", async move {
        shard.stopping().await;
        generator.interrupt();
    })
}

/// Tasks that end with their owner.
struct Tasks(Vec<Task<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Task::cancel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
