//! From a plan to running shards, and from what they left to a result.

use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use waterwheel_reactor::{Inspect, Launch, Reactor, Root, Start, Time};

use super::blocking::{self, Workers};
use super::lifecycle::{Course, Shared};
use super::listeners::Listeners;
use super::pausing::keep_clients;
use super::plan::Plan;
use super::portions::Portions;
use super::runtime::RunError;
use super::signal_stream::{self, Board};
use super::stop::Stopper;
use super::supervision::{Failures, OnFailure, Supervision};
use crate::mesh::{Mesh, StopGuard, reopened};
use crate::metrics::Registry;
use crate::metrics::admin::Admin;
use crate::metrics::status::Standing;
use crate::net::datagram::DatagramGroup;
use crate::net::{Lookups, lingered, names};
use crate::shard::core::Core;
use crate::shard::failing::Failure;
use crate::shard::root::RootFuture;
use crate::shard::{Budgets, Shard, ShardId};

/// How the main future of a shard came out.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// It was not asked, or was dropped before it had finished.
    None,
    Panicked,
    /// Something that the shard cannot do without has failed.
    Failed(Failure),
    /// It failed too often.
    Looped {
        times: usize,
        within: Duration,
    },
    Returned(anyhow::Result<T>),
}

pub(super) type Outcomes<T> = Arc<Mutex<Vec<Outcome<T>>>>;

/// What does for the shards what would keep them from their work. In a simulated world the reactors know every name
/// there is, and nothing blocks.
pub(crate) struct Threads {
    pub(super) lookups: Arc<Lookups>,
    pub(super) workers: Workers,
    /// `None`: signals are somebody else's.
    pub(super) board: Option<Arc<Board>>,
}

/// What all launches share.
pub(super) struct Crew<T, M> {
    pub(super) lifecycle: Shared,
    pub(super) portions: Portions,
    pub(super) mesh: Arc<Mesh>,
    pub(super) stopper: Stopper,
    pub(super) budgets: Budgets,
    pub(super) drain: Duration,
    pub(super) outcomes: Outcomes<T>,
    /// `None`: a simulated world.
    pub(super) threads: Option<Threads>,
    pub(super) listeners: Listeners,
    pub(super) datagrams: Vec<DatagramGroup>,
    pub(super) on_failure: OnFailure,
    pub(super) supervision: Supervision,
    pub(super) main: M,
    /// Where the program was started; for reports.
    pub(super) made: &'static Location<'static>,
    pub(super) metrics: Arc<Registry>,
    pub(super) admin: Option<Arc<Admin>>,
}

impl<T, F, M> Crew<T, M>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + 'static,
    M: Fn(Shard) -> F + Send + Sync + 'static,
{
    /// One launch per shard of the plan.
    pub(super) fn launches(self, plan: &Plan, guards: Vec<StopGuard>) -> Vec<Launch> {
        let crew = Arc::new(self);
        let launch = |(shard, guard)| Launch {
            shard,
            name: format!("waterwheel-{shard}"),
            prepare: plan.prepare(shard),
            start: start(crew.clone(), shard, guard),
        };
        guards.into_iter().enumerate().map(launch).collect()
    }
}

/// Makes a shard's root, and another one after each failure that is to be followed by a restart.
fn start<T, F, M>(crew: Arc<Crew<T, M>>, shard: usize, guard: StopGuard) -> Box<Start>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + 'static,
    M: Fn(Shard) -> F + Send + Sync + 'static,
{
    // Dropped with this closure: if the shard never starts, and when it has no next life.
    let mut guard = Some(guard);
    let mut part = Part { crew: crew.clone(), shard, started: false };
    let mut failures = Failures::new(crew.supervision);
    Box::new(move |reactor: Rc<dyn Reactor>| -> Option<Root> {
        // As a whole: the closure is to own it, not a copy of its flag.
        let part = &mut part;
        let again = std::mem::replace(&mut part.started, true);
        let pause = match again {
            true => {
                let next = crew.after_a_life(shard, &mut failures, reactor.now());
                let standing = if next.is_some() { Standing::Pausing } else { Standing::Ended };
                crew.metrics.status.set(shard, standing);
                next?
            }
            false => Duration::ZERO,
        };
        let guard = guard.take().unwrap_or_else(|| StopGuard::new(&crew.mesh, shard));
        let joined = guard.join();
        let id = ShardId::new(shard);
        let member = joined.member().clone();
        let foreign = crew.stopper.foreign(shard);
        foreign.heartbeat().begin_life(waterwheel_os::thread_number());
        let core = Core::new(id, crew.mesh.shards(), reactor, member, foreign, crew.budgets);
        let known: Rc<dyn Inspect> = core.clone();
        core.reactor().inspect(Rc::downgrade(&known));
        let shard = Shard::from_core(core.clone());
        crew.portions.give(&shard);
        joined.start(&shard);
        if let Some(threads) = &crew.threads {
            names::provide(&shard, threads.lookups.clone());
            blocking::provide(&shard, threads.workers.clone());
            if let Some(board) = &threads.board {
                signal_stream::provide(&shard, board.clone());
            }
        }
        // Outlives the tasks, and tells of the end when all that was counted is kept.
        let life = crew.metrics.begin(&shard, Box::new(joined));
        let main = live(crew.clone(), shard, again.then_some(pause));
        Some(Box::pin(RootFuture::made_at(crew.made, core, main, Box::new(life))))
    })
}

impl<T, M> Crew<T, M> {
    /// A life of a shard is over: how long the next one waits. `None`: there is none.
    fn after_a_life(&self, shard: usize, failures: &mut Failures, now: Time) -> Option<Duration> {
        {
            let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            let what = match &outcomes[shard] {
                Outcome::Returned(_) | Outcome::Looped { .. } => return None,
                Outcome::Panicked => "its main task panicked".to_owned(),
                Outcome::Failed(failure) => failure.to_string(),
                Outcome::None => "its reactor failed".to_owned(),
            };
            drop(outcomes);
            // Until then clients are still sent here.
            if self.lifecycle.stop_has_begun(now) {
                return None;
            }
            match self.on_failure {
                OnFailure::Ignore => {
                    tracing::error!(shard, "{what}; the others go on without it");
                    return None;
                }
                OnFailure::Escalate => {
                    tracing::error!(shard, "{what}; all shards are stopped");
                    self.stopper.stop(self.drain);
                    return None;
                }
                OnFailure::Restart => {}
            }
            if let Some(pause) = failures.one_more(now) {
                tracing::error!(shard, ?pause, "{what}; it is restarted");
                self.lifecycle.between_lives(shard);
                return Some(pause);
            }
            let (times, within) = (failures.count(), self.supervision.within);
            tracing::error!(shard, "{what}, {times} times within {within:?}: all shards are stopped");
            self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)[shard] =
                Outcome::Looped { times, within };
        }
        self.stopper.stop(self.drain);
        None
    }
}

/// One life of a shard; with `pause`, not its first.
async fn live<T, F, M>(crew: Arc<Crew<T, M>>, shard: Shard, pause: Option<Duration>)
where
    F: Future<Output = anyhow::Result<T>>,
    M: Fn(Shard) -> F,
{
    let index = shard.id().index();
    let serve_admin = || {
        if let Some(admin) = &crew.admin {
            admin.serve(&shard, &crew.metrics);
        }
    };
    if let Some(pause) = pause {
        let began = shard.now();
        reopened(&shard).await;
        // Not before, since it calls the others; and during the pause.
        serve_admin();
        // In the next turn it has heard of a stop.
        shard.yield_now().await;
        if !pause.is_zero() {
            keep_clients(&shard, &crew.listeners, &crew.lifecycle, pause).await;
        }
        if crew.lifecycle.stop_has_begun(shard.now()) {
            return;
        }
        let took = shard.now().since(began);
        tracing::info!(shard = shard.id().index(), ?took, "the shard is back");
    } else {
        serve_admin();
    }
    Course::begin(&shard, crew.lifecycle.clone(), pause.is_some()).opened().await;
    crew.metrics.status.set(index, Standing::Running);
    run_main(crew, shard).await;
}

/// A shard's part in what all share, given up when the shard ends, or when it could not start.
struct Part<T, M> {
    crew: Arc<Crew<T, M>>,
    shard: usize,
    started: bool,
}

impl<T, M> Drop for Part<T, M> {
    fn drop(&mut self) {
        // Clients that the kernel gave to a part that nobody opened would wait for ever.
        self.crew.listeners.give_up(self.shard);
        self.crew.datagrams.iter().for_each(|group| group.give_up(self.shard));
        if let Some(admin) = &self.crew.admin {
            admin.gone(self.shard);
        }
        self.crew.lifecycle.ended(self.shard);
        if !self.started {
            tracing::error!(
                shard = self.shard,
                "the shard's reactor could not start; the others are stopped"
            );
            self.crew.stopper.stop(self.crew.drain);
        }
    }
}

/// The main task: what the program gave, and a note of how it came out.
async fn run_main<T, F, M>(crew: Arc<Crew<T, M>>, shard: Shard)
where
    F: Future<Output = anyhow::Result<T>>,
    M: Fn(Shard) -> F,
{
    let note = Note { outcomes: &crew.outcomes, shard: shard.id().index() };
    note.write(Outcome::None);
    let failure = poll_fn(|cx| shard.core().poll_failure(cx));
    let main = pin!((crew.main)(shard.clone()));
    let result = match select(failure, main).await {
        Either::Left((failure, _)) => return note.write(Outcome::Failed(failure)),
        Either::Right((result, _)) => result,
    };
    if result.is_err() {
        crew.stopper.stop(crew.drain);
    }
    note.write(Outcome::Returned(result));
    shard.core().end_for_good();
    lingered(&shard).await;
}

/// Writes down that a main task panicked, if it did.
struct Note<'a, T> {
    outcomes: &'a Outcomes<T>,
    shard: usize,
}

impl<T> Note<'_, T> {
    fn write(&self, outcome: Outcome<T>) {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)[self.shard] = outcome;
    }
}

impl<T> Drop for Note<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.write(Outcome::Panicked);
        }
    }
}

/// What all main futures returned, or the worst of what went wrong.
pub(super) fn results<T>(outcomes: Vec<Outcome<T>>) -> Result<Vec<T>, RunError> {
    let mut values = Vec::with_capacity(outcomes.len());
    let mut stopped = Vec::new();
    for (shard, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Outcome::Returned(Ok(value)) => values.push(value),
            Outcome::Returned(Err(error)) => return Err(RunError::Main { shard, error }),
            Outcome::Panicked => return Err(RunError::Panicked { shard }),
            Outcome::Failed(error) => return Err(RunError::Failed { shard, error }),
            Outcome::Looped { times, within } => return Err(RunError::CrashLoop { shard, times, within }),
            Outcome::None => stopped.push(shard),
        }
    }
    if stopped.is_empty() { Ok(values) } else { Err(RunError::Stopped { shards: stopped }) }
}
