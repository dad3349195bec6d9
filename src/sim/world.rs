//! A world as the test inside it sees it.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::Time;
use waterwheel_sim::{Options, Rule};

use super::host::Host;
use crate::runtime::Stopper;
use crate::shard::Shard;

/// The world that a test runs in, and the shard that the test itself runs on. Clones are the same world.
///
/// * Build it: [`host`](World::host), [`rule`](World::rule).
/// * Time: [`sleep`](World::sleep), [`now`](World::now); everything else a [`shard`](World::shard) can do.
/// * Chance: [`number`](World::number), [`below`](World::below), [`chance`](World::chance): of the seed, and no other.
#[derive(Clone)]
pub struct World {
    inner: waterwheel_sim::World,
    shard: Shard,
    /// Programs that were started, so that they can be stopped.
    started: Rc<RefCell<Vec<Started>>>,
    panics_allowed: Rc<std::cell::Cell<bool>>,
    /// Programs that failed by themselves, and that nobody asked.
    failures: Rc<RefCell<Vec<String>>>,
    /// Messages that nobody received in programs that ended by themselves.
    lost: Rc<RefCell<Vec<String>>>,
}

/// A program under way.
pub(super) struct Started {
    pub(super) stopper: Stopper,
    pub(super) drain: Duration,
    pub(super) over: Box<dyn Fn() -> bool>,
    /// Why it failed, if it did and nobody has asked.
    pub(super) failure: Box<dyn Fn() -> Option<String>>,
    /// Messages that nobody received, if it has ended by itself.
    pub(super) lost: Box<dyn Fn() -> Vec<String>>,
}

impl World {
    pub(super) fn new(inner: waterwheel_sim::World, shard: Shard) -> World {
        let (started, panics_allowed, failures, lost) = Default::default();
        World { inner, shard, started, panics_allowed, failures, lost }
    }

    /// The world under it all, for what this type does not offer: connections, descriptors, the trace.
    pub fn inner(&self) -> &waterwheel_sim::World {
        &self.inner
    }

    /// The shard that the test runs on: a host of its own, named `test`, with all that shards can do.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// A new host. Others find it under its name (`tcp:NAME:80`), or at its [addresses](Host::ip).
    ///
    /// # Panics
    /// If there is a host of this name already: `test` is where the test itself runs.
    pub fn host(&self, name: &str) -> Host {
        Host::new(self.clone(), self.inner.host(name))
    }

    /// From now on this may go wrong.
    pub fn rule(&self, rule: Rule) {
        self.inner.rule(rule);
    }

    /// From now on nothing goes wrong any more. Partitions heal: what they held back arrives soon. What else the rules have
    /// done stays done.
    pub fn end_rules(&self) {
        self.inner.end_rules();
    }

    /// Tasks that panic are no failure of the test: their program is to cope with it.
    pub fn allow_panics(&self) {
        self.panics_allowed.set(true);
    }

    pub(super) fn panics_are_allowed(&self) -> bool {
        self.panics_allowed.get()
    }

    /// How old the world is.
    pub fn now(&self) -> Time {
        self.shard.now()
    }

    /// Waits. Virtual time passes, and no other.
    pub async fn sleep(&self, duration: Duration) {
        self.shard.sleep(duration).await;
    }

    /// What the world is like.
    pub fn options(&self) -> Options {
        self.inner.options()
    }

    /// The seed that decides.
    pub fn seed(&self) -> u64 {
        self.inner.seed()
    }

    /// A number that the seed decides.
    pub fn number(&self) -> u64 {
        self.inner.number()
    }

    /// One below `end`; 0 if that is 0.
    pub fn below(&self, end: u64) -> u64 {
        self.inner.below(end)
    }

    /// True with this probability.
    pub fn chance(&self, probability: f64) -> bool {
        ((self.number() >> 11) as f64) < probability * (1_u64 << 53) as f64
    }

    /// Adds a line to the trace.
    pub fn say(&self, text: impl AsRef<str>) {
        self.inner.say(text.as_ref());
    }

    /// Takes note of programs that have failed so far.
    fn look_for_failures(&self) {
        for one in self.started.borrow().iter().filter(|one| (one.over)()) {
            self.failures.borrow_mut().extend((one.failure)());
            self.lost.borrow_mut().extend((one.lost)());
        }
    }

    /// What went wrong in programs that nobody asked, one line each.
    pub(super) fn failures(&self) -> Vec<String> {
        self.look_for_failures();
        std::mem::take(&mut *self.failures.borrow_mut())
    }

    /// Messages that nobody received.
    pub(super) fn lost(&self) -> Vec<String> {
        std::mem::take(&mut *self.lost.borrow_mut())
    }

    pub(super) fn has_started(&self, started: Started) {
        self.started.borrow_mut().push(started);
    }

    /// Stops every program that still runs, each within its drain time, and waits until all have ended.
    pub async fn stop_all(&self) {
        self.look_for_failures();
        let started = std::mem::take(&mut *self.started.borrow_mut());
        for one in started.iter().filter(|one| !(one.over)()) {
            one.stopper.stop(one.drain);
        }
        // Their ends wake nobody here.
        const LOOK: Duration = Duration::from_millis(1);
        while started.iter().any(|one| !(one.over)()) {
            self.shard.sleep(LOOK).await;
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
