//! Triggers: what a program wants done before, during and after the start and the stop of its shards.

mod course;
mod owned;
mod steps;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use course::APART;
pub(super) use course::Course;
pub(super) use owned::Owned;
use steps::{Done, Steps};
use waterwheel_reactor::Time;

use super::Runtime;
use super::config::Config;
use super::knob;
use super::stop::Stopper;
use crate::shard::Shard;

/// When a trigger runs. The steps follow each other in this order, and all shards take each together: one begins when all
/// have the one before behind them, or its time is up ([`StepTimes`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum When {
    /// Before the main futures are made: to open what they need.
    BeforeStart,
    /// While the main futures begin.
    DuringStart,
    /// The triggers of the start have run: to say that the program is ready.
    AfterStart,
    /// The runtime was asked to stop, and goes on as before, a shard that fails included: to be taken out of a load balancer's
    /// list first.
    BeforeStop,
    /// Nothing new is accepted, and what runs may finish, within the drain's time.
    DuringStop,
    /// The main futures have returned or the drain's time is up, and all other tasks and connections are gone.
    AfterStop,
}

impl When {
    /// All of them, in their order.
    pub const ALL: [When; 6] = [
        When::BeforeStart,
        When::DuringStart,
        When::AfterStart,
        When::BeforeStop,
        When::DuringStop,
        When::AfterStop,
    ];

    /// What it is called in the log.
    pub const fn name(self) -> &'static str {
        match self {
            When::BeforeStart => "before the start",
            When::DuringStart => "during the start",
            When::AfterStart => "after the start",
            When::BeforeStop => "before the stop",
            When::DuringStop => "during the stop",
            When::AfterStop => "after the stop",
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How long the triggers of each step may run; those that have not ended then are ended. Set by
/// [`Config::step_times`](super::Config::step_times) or `WATERWHEEL_STEPS_S`. During a stop they have the drain's
/// time ([`Config::drain`](super::Config::drain)). A second signal ends what is before the close at once, and leaves the
/// close a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTimes {
    /// Default 30 s.
    pub before_start: Duration,
    /// Default 30 s.
    pub during_start: Duration,
    /// Default 30 s.
    pub after_start: Duration,
    /// Default 10 s.
    pub before_stop: Duration,
    /// Default 10 s.
    pub after_stop: Duration,
}

impl Default for StepTimes {
    fn default() -> StepTimes {
        let (start, stop) = (Duration::from_secs(30), Duration::from_secs(10));
        StepTimes {
            before_start: start,
            during_start: start,
            after_start: start,
            before_stop: stop,
            after_stop: stop,
        }
    }
}

impl StepTimes {
    /// What an operator calls them.
    pub(super) const NAMES: [&'static str; 5] =
        ["before-start", "during-start", "after-start", "before-stop", "after-stop"];

    fn named(&mut self, name: &str) -> Option<&mut Duration> {
        let times = [
            &mut self.before_start,
            &mut self.during_start,
            &mut self.after_start,
            &mut self.before_stop,
            &mut self.after_stop,
        ];
        StepTimes::NAMES.iter().zip(times).find(|(known, _)| **known == name).map(|(_, time)| time)
    }

    /// `before-start=60,after-stop=5`: sets those that are named.
    pub(super) fn set(&mut self, text: &str) -> Result<(), String> {
        let times = knob::pairs(text, "a step and its seconds", |name, seconds| {
            if !StepTimes::NAMES.contains(&name) {
                let drain = if name == "during-stop" { ", but the drain, which has its own" } else { "" };
                return Err(format!("{name:?} is no step whose time can be set{drain}"));
            }
            let seconds = knob::number(seconds, knob::DRAIN_S_MAX);
            seconds.map(Duration::from_secs).map_err(|wrong| format!("{name}: {wrong}"))
        })?;
        for (name, time) in times {
            self.named(&name).into_iter().for_each(|own| *own = time);
        }
        Ok(())
    }
}

/// A trigger's work on one shard.
type Work = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// A trigger of all shards.
struct Listed {
    when: When,
    name: &'static str,
    make: Box<dyn Fn(Shard) -> Work + Send + Sync>,
}

/// What was declared before the start.
#[derive(Default)]
pub(super) struct Declared(Mutex<Vec<Listed>>);

impl Declared {
    /// What all shards share.
    pub(super) fn begin(
        &self,
        stopper: &Stopper,
        shards: usize,
        mut times: StepTimes,
        drain: Duration,
        delay: Duration,
    ) -> Common {
        let listed = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if !delay.is_zero() {
            times.before_stop = times.before_stop.max(delay.saturating_add(APART));
        }
        if !delay.is_zero() || listed.iter().any(|trigger| trigger.when == When::BeforeStop) {
            stopper.hold();
        }
        Common { listed, steps: Steps::new(shards), stopper: stopper.clone(), times, drain, delay }
    }
}

impl fmt::Debug for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(listed.iter().map(|trigger| (trigger.when, trigger.name))).finish()
    }
}

/// What the lives of all shards have in common.
pub(super) struct Common {
    listed: Vec<Listed>,
    steps: Steps,
    stopper: Stopper,
    times: StepTimes,
    drain: Duration,
    /// How long all goes on as before once all were asked to stop.
    delay: Duration,
}

impl Common {
    /// A shard has ended for good, or will never begin.
    pub(super) fn ended(&self, shard: usize) {
        self.steps.reach(shard, Done::All);
    }

    /// A shard's life is over, and another one follows.
    pub(super) fn between_lives(&self, shard: usize) {
        self.steps.between_lives(shard);
    }

    /// Whether all shards were asked to stop and do: what is to run before it has, its time is up, or a later wish waits for
    /// nothing.
    pub(super) fn stop_has_begun(&self, now: Time) -> bool {
        // Those that fail again and again may never come to say so.
        if self.released_at().is_some_and(|latest| latest <= now) {
            self.steps.release();
        }
        self.steps.are_released() || self.stopper.waits_for_nothing()
    }

    /// When a stop that was asked for begins at the latest.
    fn released_at(&self) -> Option<Time> {
        self.steps.asked_at().map(|asked| asked + self.times.before_stop + APART)
    }

    /// Ready once what is to run before the stop of all has. For a shard that does not follow its life yet.
    pub(super) fn poll_released(&self, shard: usize, cx: &Context<'_>) -> Poll<()> {
        self.steps.poll_released(shard, cx)
    }

    fn has(&self, when: When) -> bool {
        self.listed.iter().any(|trigger| trigger.when == when)
    }
}

impl Config {
    /// How long triggers may take at each step ([`Runtime::trigger`]).
    pub fn step_times(mut self, times: StepTimes) -> Config {
        self.step_times = times;
        self
    }
}

impl Runtime {
    /// Has `make` make work that each shard does at this moment of its life. Triggers of one step run together on a shard; one
    /// that fails, panics or does not end in time is told of in the log with its name, and keeps nobody from anything.
    ///
    /// A shard that is restarted runs those of the start again. One that fails while those before the stop run does not run
    /// them again.
    ///
    /// ```
    /// use waterwheel::runtime::{Config, Runtime, When};
    ///
    /// let runtime = Runtime::new(Config::default().cores(1))?;
    /// runtime.trigger(When::AfterStop, "goodbye", |shard| async move {
    ///     println!("{} has nothing left to do", shard.id());
    ///     Ok(())
    /// });
    /// runtime.run(|_| async { Ok(()) })?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn trigger<F>(
        &self,
        when: When,
        name: &'static str,
        make: impl Fn(Shard) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let make = Box::new(move |shard| Box::pin(make(shard)) as Work);
        let mut listed = self.declared.0.lock().unwrap_or_else(PoisonError::into_inner);
        listed.push(Listed { when, name, make });
    }
}

/// The step has begun already on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too late for the trigger {name:?}: the step {when} has begun")]
pub struct TooLate {
    /// What was to be done.
    pub name: &'static str,
    /// When.
    pub when: When,
}

/// A trigger of one shard, to be taken back with [`Shard::remove_trigger`]; dropping it changes nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Trigger(u64);

impl Shard {
    /// Does `work` at this moment of this shard's life; otherwise as [`Runtime::trigger`]. From within the main future, steps
    /// of the start may have begun.
    ///
    /// # Errors
    /// The step has begun, or the shard is of no runtime.
    pub fn trigger(
        &self,
        when: When,
        name: &'static str,
        work: impl Future<Output = anyhow::Result<()>> + 'static,
    ) -> Result<Trigger, TooLate> {
        let course = self.kept::<Course>().ok_or(TooLate { name, when })?;
        course.add(self, when, name, Box::pin(work)).map(Trigger)
    }

    /// Takes a trigger back; true if it has not begun to run.
    pub fn remove_trigger(&self, trigger: Trigger) -> bool {
        self.kept::<Course>().is_some_and(|course| course.remove(trigger.0))
    }
}

/// Shared by all shards of a run.
pub(super) type Shared = Arc<Common>;
