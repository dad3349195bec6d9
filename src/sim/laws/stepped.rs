//! The steps of a start and a stop, with triggers that work, fail, panic and hang, main futures that do not listen, shards that
//! die at any moment, and second wishes: the steps keep their order over all shards, and everything ends in time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::reactor::Time;
use waterwheel::runtime::{Config, OnFailure, StepTimes, When};
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

const MS: Duration = Duration::from_millis(1);
/// What shards may be apart, and what wakes may be late in these worlds, for all steps together.
const SLACK: Duration = Duration::from_secs(4);

/// What a trigger, or a main future, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Ends(Duration),
    Fails(Duration),
    Panics(Duration),
    PanicsAtOnce,
    Hangs,
}

impl Does {
    fn drawn(world: &World, calm: bool) -> Does {
        let time = MS * world.below(400) as u32;
        match world.below(if calm { 2 } else { 6 }) {
            0 | 2 => Does::Ends(time),
            1 => Does::Fails(time),
            3 => Does::Panics(time),
            4 => Does::PanicsAtOnce,
            _ => Does::Hangs,
        }
    }

    async fn run(self, shard: Shard) -> anyhow::Result<()> {
        match self {
            Does::Ends(time) => shard.sleep(time).await,
            Does::Fails(time) => {
                shard.sleep(time).await;
                anyhow::bail!("planned");
            }
            Does::Panics(time) => {
                shard.sleep(time).await;
                panic!("planned");
            }
            Does::PanicsAtOnce => panic!("planned"),
            Does::Hangs => std::future::pending().await,
        }
        Ok(())
    }
}

/// One trigger on one shard: when it began, and when it was over in whatever way.
#[derive(Clone, Copy, Debug)]
struct Run {
    shard: usize,
    when: When,
    trigger: usize,
    began: Time,
    over: Option<Time>,
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<Run>>>);

impl Book {
    fn runs(&self) -> std::sync::MutexGuard<'_, Vec<Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, run: Run) -> usize {
        let mut runs = self.runs();
        runs.push(run);
        runs.len() - 1
    }

    async fn notes(self, shard: Shard, when: When, trigger: usize, does: Does) -> anyhow::Result<()> {
        let run = Run { shard: shard.id().index(), when, trigger, began: shard.now(), over: None };
        let at = self.begins(run);
        let _over = Over(self.clone(), shard.clone(), at);
        does.run(shard).await
    }
}

struct Over(Book, Shard, usize);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.runs()[self.2].over = Some(self.1.now());
    }
}

/// What main futures do: most stop when they are asked to.
async fn lives(shard: Shard, does: Option<Does>) -> anyhow::Result<()> {
    match does {
        None => shard.stopping().await,
        Some(Does::Fails(time)) => shard.sleep(time).await,
        Some(does) => does.run(shard).await?,
    }
    Ok(())
}

fn config(world: &World, shards: usize, times: StepTimes, drain: Duration) -> Config {
    let policies = OnFailure::ALL;
    let policy = policies[world.below(policies.len() as u64) as usize];
    Config::default().cores(shards).step_times(times).drain(drain).on_failure(policy)
}

async fn scene(world: World, calm: bool) -> anyhow::Result<()> {
    world.allow_panics();
    let host = world.host("stepped");
    let shards = 1 + world.below(4) as usize;
    let time = || MS * (500 + world.below(1_500) as u32);
    let times = StepTimes {
        before_start: time(),
        during_start: time(),
        after_start: time(),
        before_stop: time(),
        after_stop: time(),
    };
    let drain = time();
    let runtime = host.runtime_with(config(&world, shards, times, drain))?;
    let stopper = runtime.stopper();
    let book = Book::default();
    let mut declared = Vec::new();
    for when in When::ALL {
        for trigger in 0..world.below(3) as usize {
            let (does, own) = (Does::drawn(&world, calm), book.clone());
            declared.push(when);
            runtime.trigger(when, "trigger", move |shard| own.clone().notes(shard, when, trigger, does));
        }
    }
    if !calm && world.below(2) == 0 {
        let dying = world.below(shards as u64) as usize;
        let rule = Rule::new(Verdict::Panic).to(("stepped", dying)).with(0.1);
        world.rule(rule.at_most(1 + world.below(3)));
    }
    let odd = (!calm && world.below(3) == 0).then(|| Does::drawn(&world, false));
    // Some shards have triggers of their own, added while they run.
    let (own, added) = (book.clone(), world.below(2) == 0);
    let running = host.start(runtime, move |shard| {
        let own = own.clone();
        async move {
            if added {
                let mut rng = Random::new(shard.reactor().seed());
                let work =
                    own.notes(shard.clone(), When::AfterStop, 100, Does::Ends(MS * rng.below(100) as u32));
                shard.trigger(When::AfterStop, "own", work)?;
            }
            lives(shard, odd).await
        }
    });
    world.sleep(MS * world.below(3_000) as u32 + MS * if calm { 2_000 } else { 0 }).await;
    let asked = world.now();
    running.stop(drain);
    let mut latest = asked + times.before_stop + drain + times.after_stop + SLACK;
    if !calm && world.below(3) == 0 {
        world.sleep(MS * world.below(2_000) as u32).await;
        stopper.hurry();
        latest = latest.min(world.now() + SLACK);
    }
    let patience = Duration::from_secs(600);
    let ended = world.shard().timeout(patience, running).await.context("a shard hangs")?;
    ensure!(world.now() <= latest, "it took until {:?}, not {latest:?}", world.now());
    if calm {
        ensure!(ended.is_ok(), "{ended:?}");
        in_order(&book.runs(), &declared, shards, added)?;
    }
    Ok(())
}

/// Every trigger has run once on each shard, and none before all those of the steps before were over everywhere.
fn in_order(runs: &[Run], declared: &[When], shards: usize, added: bool) -> anyhow::Result<()> {
    let expected = shards * (declared.len() + usize::from(added));
    ensure!(runs.len() == expected, "{} triggers ran, not {expected}: {runs:?}", runs.len());
    for later in runs {
        for earlier in runs.iter().filter(|earlier| earlier.when < later.when) {
            let over = earlier.over.context("it never ended")?;
            ensure!(over <= later.began, "{later:?} began before {earlier:?} was over");
        }
        let twice = runs
            .iter()
            .filter(|run| (run.shard, run.when, run.trigger) == (later.shard, later.when, later.trigger));
        ensure!(twice.count() == 1, "{later:?} ran twice");
    }
    Ok(())
}

#[test]
fn the_steps_keep_their_order_over_all_shards() {
    Check::new().seeds(200).run(|world| scene(world, true));
}

#[test]
fn whatever_hangs_fails_or_dies_everything_ends_in_time() {
    Check::new().seeds(400).run(|world| scene(world, false));
}
