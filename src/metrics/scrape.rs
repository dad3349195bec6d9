//! Asking all shards what they have counted.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::lock::Mutex;

use super::cells::{Counter, Gauge, Histogram, Value};
use super::distribution::Distribution;
use super::family::{self, Declared, Family, FamilyError};
use super::process::Process;
use super::registry::{Registry, Snapshot};
use super::status::Standing;
use super::store::Store;
use crate::shard::{Shard, ShardId, Task};

/// What all shards had counted at one moment or shortly after it. Of a shard that did not answer in time, and of one that
/// has ended, there is what was known of it last: a counter never goes back.
pub struct Scrape {
    pub(super) registry: Arc<Registry>,
    pub(super) shards: Vec<One>,
    pub(super) process: Process,
    /// How long it took.
    pub(super) took: Duration,
}

/// What is known of one shard.
#[derive(Debug)]
pub(super) struct One {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) answered: bool,
    pub(super) standing: Standing,
    pub(super) restarts: u32,
}

/// What a shard keeps from one scrape to the next.
#[derive(Default)]
struct Asking {
    /// By other shard: the question that it has not answered in time. It is asked again when it has.
    unanswered: RefCell<Vec<Option<Task<()>>>>,
    /// Scrapes of one shard are made one after the other, so that no shard has two questions.
    turn: Mutex<()>,
}

impl Shard {
    /// Asks all shards what they have counted, and waits for their answers, but not longer than `within`. From any shard;
    /// scrapes of one shard are made one after the other. Each shard is asked by [`run_on`](Shard::run_on), once, until it
    /// has answered.
    ///
    /// # Errors
    /// The shard ends, or is none of a runtime.
    pub async fn scrape(&self, within: Duration) -> Result<Scrape, FamilyError> {
        let nobody = || FamilyError::Foreign { name: "a scrape".to_owned() };
        let registry = Store::of(self).ok_or_else(nobody)?.registry.clone();
        let asking = match self.kept::<Asking>() {
            Some(asking) => asking,
            None => {
                drop(self.keep(Rc::new(Asking::default())));
                self.kept::<Asking>().ok_or_else(nobody)?
            }
        };
        let _turn = asking.turn.lock().await;
        let began = self.now();
        asking.unanswered.borrow_mut().resize_with(registry.shards(), || None);
        let limit = began + within;
        let answers = self.ids().map(|to| {
            let (asking, registry) = (asking.clone(), registry.clone());
            let time = self.sleep_until(limit);
            async move {
                let asked = std::pin::pin!(asking.ask(self, &registry, to));
                match futures_util::future::select(asked, time).await {
                    futures_util::future::Either::Left((answered, _)) => answered,
                    futures_util::future::Either::Right(_) => false,
                }
            }
        });
        let answered = join_all(answers).await;
        let one = |(shard, answered)| One {
            snapshot: registry.newest(shard),
            answered,
            standing: registry.status.of(shard),
            restarts: registry.status.restarts(shard),
        };
        let shards = answered.into_iter().enumerate().map(one).collect();
        let process = if registry.is_real { Process::read() } else { Process::default() };
        Ok(Scrape { registry, shards, process, took: self.now().since(began) })
    }
}

impl Asking {
    /// Asks one shard; whether it has answered. Dropped while it waits, it leaves the question where the next scrape finds
    /// it.
    async fn ask(&self, shard: &Shard, registry: &Arc<Registry>, to: ShardId) -> bool {
        let at = to.index();
        let mut place = Place { asking: self, at, task: self.unanswered.borrow_mut()[at].take() };
        // The answer to an old question may be older than this scrape.
        place.answered().await;
        let life = registry.newest(at).taken;
        let (asker, known) = (shard.clone(), registry.clone());
        place.task = Some(shard.spawn("scrape", async move {
            let answer = asker
                .run_on(to, |there| async move { Store::of(&there).map(|store| Arc::new(store.snapshot())) });
            if let Ok(Some(snapshot)) = answer.await {
                known.learn(at, snapshot);
            }
        }));
        place.answered().await;
        registry.newest(at).taken > life && registry.status.of(at) != Standing::Ended
    }
}

/// The question to one shard, while it waits for the answer.
struct Place<'a> {
    asking: &'a Asking,
    at: usize,
    task: Option<Task<()>>,
}

impl Place<'_> {
    async fn answered(&mut self) {
        if let Some(task) = &mut self.task {
            // It panicked, or the shard asked is over: there is no more to wait for.
            let _ended = task.await;
        }
        self.task = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            self.asking.unanswered.borrow_mut()[self.at] = Some(task);
        }
    }
}

impl Scrape {
    /// What all shards together have counted.
    pub fn counter<const N: usize>(&self, family: &Family<Counter, N>, labels: [&str; N]) -> u64 {
        match self.sum(&family.declared, &labels) {
            Some(Value::Count(count)) => count,
            _ => 0,
        }
    }

    /// What the levels of all shards are together.
    pub fn gauge<const N: usize>(&self, family: &Family<Gauge, N>, labels: [&str; N]) -> f64 {
        match self.sum(&family.declared, &labels) {
            Some(Value::Level(level)) => level,
            _ => 0.0,
        }
    }

    /// What all shards together have recorded.
    pub fn histogram<const N: usize>(
        &self,
        family: &Family<Histogram, N>,
        labels: [&str; N],
    ) -> Distribution {
        match self.sum(&family.declared, &labels) {
            Some(Value::Values(values)) => values,
            _ => Distribution::default(),
        }
    }

    /// The shards that did not answer in time, or have ended.
    pub fn silent(&self) -> impl Iterator<Item = ShardId> + '_ {
        let silent = self.shards.iter().enumerate().filter(|(_, one)| !one.answered);
        silent.map(|(shard, _)| ShardId::new(shard))
    }

    /// How long it took.
    pub fn took(&self) -> Duration {
        self.took
    }

    fn sum(&self, family: &Declared, labels: &[&str]) -> Option<Value> {
        if family.registry != self.registry.id() {
            return None;
        }
        let found = family.all_values().iter().position(|values| family::is(values, labels));
        let is_other = !labels.is_empty() && labels.iter().all(|value| *value == family::OTHER);
        let number = found.map(|at| at as u32).or(is_other.then(|| family.other()))?;
        let mut sum = family.sort.zero();
        for (child, value) in self.shards.iter().flat_map(|one| one.snapshot.children(family)) {
            if *child == number {
                sum.merge(value);
            }
        }
        Some(sum)
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let silent: Vec<_> = self.silent().collect();
        f.debug_struct("Scrape").field("silent", &silent).field("took", &self.took).finish_non_exhaustive()
    }
}
