//! The handle that a shard's tasks hold.

use std::any::TypeId;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use waterwheel_reactor::{Reactor, Time};

use super::between::Between;
use super::core::Core;
use super::deferred::{Abandoned, Deferred, deferred};
use super::group::{Group, GroupError, GroupStats, Shares};
use super::queue_times::QueueTimes;
use super::schedule::GroupId;
use super::sleep::{PhaseChange, Sleep, Timeout, YieldNow};
use super::stopping::Step;
use super::task::{Key, StopWish};
use super::{Phase, ShardId, ShardStats, part_of};

/// The handle to one core's world. Cheap to clone; never leaves its thread.
///
/// * Who: [`id`](Shard::id), [`count`](Shard::count), [`ids`](Shard::ids).
/// * Time: [`now`](Shard::now), [`sleep`](Shard::sleep), [`timeout`](Shard::timeout).
/// * Tasks: [`spawn`](Shard::spawn), [`yield_now`](Shard::yield_now), [`yield_if_needed`](Shard::yield_if_needed).
/// * Groups of tasks: [`group`](Shard::group), [`group_stats`](Shard::group_stats).
/// * Stopping: [`stopping`](Shard::stopping), [`phase`](Shard::phase), [`stop`](Shard::stop).
/// * Messages, connections and listeners are in [`crate::mesh`] and [`crate::net`].
#[derive(Clone)]
pub struct Shard {
    core: Rc<Core>,
}

impl Shard {
    pub(crate) fn from_core(core: Rc<Core>) -> Shard {
        Shard { core }
    }

    /// What the floor above keeps for this shard.
    pub(crate) fn between(&self) -> &Rc<dyn Between> {
        self.core.between()
    }

    /// The shard of the thread that calls; `None` on any other thread.
    pub fn current() -> Option<Shard> {
        Core::with_current(|core| Shard { core: core.clone() })
    }

    /// This shard's number.
    pub fn id(&self) -> ShardId {
        self.core.id()
    }

    /// How many shards the runtime has.
    pub fn count(&self) -> usize {
        self.core.count()
    }

    /// All shards' numbers, this one's included.
    pub fn ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.count()).map(ShardId::new)
    }

    /// Which of `total` things that all shards share, numbered from 0, are this shard's: as evenly as whole numbers
    /// allow; the first shards have one more.
    pub fn part_of(&self, total: usize) -> Range<usize> {
        part_of(total, self.id().index(), self.count())
    }

    /// The reactor, for what this handle does not offer.
    pub fn reactor(&self) -> &Rc<dyn Reactor> {
        self.core.reactor()
    }

    /// The time, read now; the origin is the same for all shards of a run.
    pub fn now(&self) -> Time {
        self.core.reactor().now()
    }

    /// When this turn began: the time without reading a clock, at most a turn old.
    pub fn turn_time(&self) -> Time {
        self.core.turn_began()
    }

    /// Wall time since 1970, for log lines and HTTP dates.
    pub fn unix_time(&self) -> Duration {
        self.core.reactor().unix_time()
    }

    // ---- tasks

    /// Starts a task on this shard, in the [`Group`] of the one that calls; it runs from the next turn on, not inside
    /// this call. `name` says in reports what kind of task it is. Dropping the returned [`Task`] lets it run; [`Task::cancel`] ends it.
    ///
    /// A task that panics ends alone: it is logged with its name and counted, and the shard goes on.
    #[track_caller]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
    {
        self.spawn_marked(name, 0, future)
    }

    /// The same for a task that runs a port's handler.
    #[track_caller]
    pub(crate) fn spawn_marked<F>(&self, name: &'static str, mark: u32, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
    {
        Task::begin(&self.core, self.core.groups.running(), name, mark, future)
    }

    /// Starts a task whose result nobody wants; it takes less memory than [`spawn`](Shard::spawn).
    #[track_caller]
    pub fn spawn_detached(&self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.core.spawn(name, Location::caller(), 0, self.core.groups.running(), Box::pin(future));
    }

    /// Runs a handler inside a task that goes on if it panics; that is logged and counted as a task's.
    pub(crate) fn contain<T>(&self, task: &'static str, handler: impl FnOnce() -> T) -> Option<T> {
        self.core.contain(task, handler)
    }

    /// The group of this name, for tasks that are to have these shares of this shard's time; made if there is none yet,
    /// else its shares are changed, unless they are an operator's. `default` is the one whose tasks nobody spawned into another.
    ///
    /// # Errors
    /// The shares make no sense, or the shard has 32 groups.
    pub fn group(&self, name: &'static str, shares: Shares) -> Result<Group, GroupError> {
        Group::find_or_make(&self.core, name, shares)
    }

    /// See [`Group::control`].
    pub(crate) fn control(&self) -> Group {
        Group::control(&self.core)
    }

    /// What each group has done, the default one first, then in the order in which they were made.
    pub fn group_stats(&self) -> Vec<GroupStats> {
        self.core.groups.stats(self.core.stats.polls.get())
    }

    /// The port mark of the running task; 0: none.
    pub(crate) fn mark(&self) -> u32 {
        self.core.mark()
    }

    /// Lets everything else that is ready run first.
    pub fn yield_now(&self) -> YieldNow {
        YieldNow::new(true)
    }

    /// Gives way if the turn has used up its time, messages wait, or another [`Group`] is to run; else goes on at once.
    /// For long work.
    pub fn yield_if_needed(&self) -> YieldNow {
        YieldNow::new(self.core.should_yield())
    }

    // ---- what the program keeps here

    /// Keeps one value of its type for this shard, for tasks and messages that come later. Answers the one before.
    pub fn keep<T: 'static>(&self, value: Rc<T>) -> Option<Rc<T>> {
        self.core.keep(value).and_then(|before| before.downcast().ok())
    }

    /// The value of this type that is kept for this shard.
    pub fn kept<T: 'static>(&self) -> Option<Rc<T>> {
        self.core.kept(TypeId::of::<T>()).and_then(|value| value.downcast().ok())
    }

    // ---- time

    /// Waits for `duration`; never less. A zero sleep is over in the next turn, after I/O was looked at.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Waits until `deadline`. Deadlines that are equal are over in the order in which they were set.
    pub fn sleep_until(&self, deadline: Time) -> Sleep {
        Sleep::new(self.core.clone(), deadline)
    }

    /// Waits for `future`, but not longer than `duration`. If both come in one turn the future's result counts.
    pub fn timeout<F: Future>(&self, duration: Duration, future: F) -> Timeout<F> {
        Timeout::new(future, self.sleep(duration))
    }

    // ---- stopping

    /// Where the shard stands.
    pub fn phase(&self) -> Phase {
        self.core.phase()
    }

    /// Waits until the shard is asked to stop; at once if it was.
    pub fn stopping(&self) -> PhaseChange {
        PhaseChange::new(self.core.clone(), Step::Draining)
    }

    /// Waits until the stop's time is up: then the shard ends in this turn, whatever still runs. For a last word.
    pub async fn time_up(&self) {
        self.stopping().await;
        if let Phase::Draining { until } = self.phase() {
            let ending = PhaseChange::new(self.core.clone(), Step::Ending);
            futures_util::future::select(ending, self.sleep_until(until)).await;
        }
    }

    /// Whether the shard looks for work for a while before it sleeps, so that its CPU time says nothing of its work.
    pub(crate) fn spins(&self) -> bool {
        !self.core.budgets.spin.is_zero()
    }

    /// Asks this shard to stop: what runs may finish within `drain`, then it is ended. Zero ends it at once.
    pub fn stop(&self, drain: Duration) {
        self.core.stop(if drain.is_zero() { StopWish::AtOnce } else { StopWish::Drain(drain) });
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Whether the shard's tasks are being dropped, since its life ends, and another one may follow.
    pub(crate) fn is_clearing(&self) -> bool {
        self.core.is_clearing()
    }

    /// How many timers are set.
    pub(crate) fn timers(&self) -> usize {
        self.core.wheel.len()
    }

    /// How long its turns took, while stalls are reported.
    pub(crate) fn turn_times(&self) -> QueueTimes {
        self.core.stats.turn_times.borrow().clone()
    }

    /// A copy of the shard's counters.
    pub fn stats(&self) -> ShardStats {
        let stats = &self.core.stats;
        ShardStats {
            turns: stats.turns.get(),
            polls: stats.polls.get(),
            spawned: stats.spawned.get(),
            alive: self.core.tasks_alive() as u64,
            panics: stats.panics.get(),
            stalls: stats.stalls.get(),
        }
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shard({} of {})", self.id(), self.count())
    }
}

/// A running task, and its result once it has ended. Dropping this lets the task run on.
#[derive(Debug)]
#[must_use = "dropping it lets the task run on unwatched; say so with `drop`, or use `spawn_detached`"]
pub struct Task<T> {
    core: Rc<Core>,
    key: Key,
    output: Deferred<T>,
}

impl<T> Task<T> {
    #[track_caller]
    pub(super) fn begin(
        core: &Rc<Core>,
        group: GroupId,
        name: &'static str,
        mark: u32,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T>
    where
        T: 'static,
    {
        let (resolver, output) = deferred();
        let task = Box::pin(async move { resolver.resolve(future.await) });
        let key = core.spawn(name, Location::caller(), mark, group, task);
        Task { core: core.clone(), key, output }
    }

    /// Ends the task: its future is dropped now, or after the current poll if it cancels itself.
    pub fn cancel(self) {
        self.core.cancel(self.key);
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskEnded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.output).poll(cx).map_err(|Abandoned { .. }| TaskEnded)
    }
}

/// The task panicked or was cancelled, so there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task ended without a result: it panicked or was cancelled")]
pub struct TaskEnded;
