//! Limits and replicated values while shards, the keepers too, die at any moment and begin again: never more is out than the
//! limit, nothing leaks, nobody hangs, and when all is quiet each shard has what was published last.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use waterwheel::mesh::{
    CountLease, CountLimiter, RateLease, RateLimiter, Replica, Replicated, TryTakeError, Version,
};
use waterwheel::reactor::Time;
use waterwheel::runtime::{Config, OnFailure, Supervision};
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

use super::leased::{Counted, Out, is_whole};

/// Longer than anything here may take: a world that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// They die in the first two seconds, work for three, and are looked at one after the other from the fourth on.
const DEATHS: Duration = Duration::from_secs(2);
const WORK: Time = Time::from_nanos(3_000_000_000);
const LOOK: Time = Time::from_nanos(4_000_000_000);

/// What is seen from outside of all lives.
#[derive(Default)]
struct Book {
    out: Arc<Out>,
    taken: AtomicU64,
    /// In the last half second of work, when nobody dies any more.
    taken_late: AtomicU64,
    lives: AtomicU64,
    versions: Mutex<Vec<(Version, u64)>>,
}

impl Book {
    fn saw(&self, version: Version, value: u64) {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).push((version, value));
    }
}

/// Takes and holds, alone or several; waits for the keeper where it has ended.
async fn uses(shard: Shard, limiter: CountLimiter, book: Arc<Book>, mut rng: Random) -> anyhow::Result<()> {
    let mut held = Vec::new();
    while shard.now() < WORK {
        if held.len() as u64 > rng.below(4) {
            held.clear();
        }
        let patience = Duration::from_micros(rng.below(20_000));
        let taken = match rng.below(3) {
            0 => limiter.try_take().map_err(|error| matches!(error, TryTakeError::KeeperEnded(_))),
            _ => match shard.timeout(patience, limiter.take()).await {
                Ok(outcome) => outcome.map_err(|_ended| true),
                Err(_late) => Err(false),
            },
        };
        match taken {
            Ok(permit) => held.push(Counted::new(&book.out, permit)),
            Err(true) => {
                let kept = shard.timeout(Duration::from_secs(10), limiter.kept()).await;
                kept.context("the keeper is not back")?;
            }
            Err(false) => held.clear(),
        }
        shard.sleep(Duration::from_micros(rng.below(3_000))).await;
    }
    Ok(())
}

/// Takes as much as it gets, for a while, and rests.
async fn hurries(shard: Shard, limiter: RateLimiter, book: Arc<Book>, mut rng: Random) -> anyhow::Result<()> {
    while shard.now() < WORK {
        let patience = WORK.since(shard.now());
        match shard.timeout(patience, limiter.take()).await {
            Ok(Ok(())) => {
                book.taken.fetch_add(1, Relaxed);
                let late = WORK.since(shard.now()) <= Duration::from_millis(500);
                book.taken_late.fetch_add(u64::from(late), Relaxed);
            }
            Ok(Err(_ended)) => {
                let kept = shard.timeout(Duration::from_secs(10), limiter.kept()).await;
                kept.context("the keeper is not back")?;
            }
            Err(_late) => return Ok(()),
        }
        let early = shard.now() < Time::ZERO + DEATHS;
        if early && rng.below(50) == 0 {
            shard.sleep(Duration::from_micros(rng.below(50_000))).await;
        }
    }
    Ok(())
}

async fn publishes(shard: Shard, replica: Replica<u64>, mut rng: Random) {
    replica.caught_up().await;
    // Some die later, and have to find out.
    while shard.now() < Time::ZERO + DEATHS / 2 {
        shard.sleep(Duration::from_micros(rng.below(100_000))).await;
        replica.publish(rng.number());
    }
}

#[derive(Clone)]
struct Declared {
    count: CountLease,
    rate: RateLease,
    value: Replicated<u64>,
}

/// One life of a shard.
async fn lives(shard: Shard, declared: Declared, book: Arc<Book>) -> anyhow::Result<()> {
    let life = book.lives.fetch_add(1, Relaxed);
    let mut rng = Random::new(shard.reactor().seed() ^ life << 32);
    let (count, rate) = (shard.count_limiter(&declared.count)?, shard.rate_limiter(&declared.rate)?);
    let replica = shard.replica(&declared.value)?;
    shard.spawn_detached("publishes", publishes(shard.clone(), replica.clone(), Random::new(rng.number())));
    let hurries = hurries(shard.clone(), rate, book.clone(), Random::new(rng.number()));
    let uses = (0..1 + rng.below(4))
        .map(|_| uses(shard.clone(), count.clone(), book.clone(), Random::new(rng.number())))
        .collect::<Vec<_>>();
    let (used, hurried) = futures_util::future::join(join_all(uses), hurries).await;
    hurried?;
    used.into_iter().collect::<anyhow::Result<()>>()?;
    shard.sleep_until(LOOK + Duration::from_secs(10) * shard.id().index() as u32).await;
    is_whole(&shard, &declared.count).await?;
    book.saw(replica.version(), *replica.value());
    shard.stopping().await;
    Ok(())
}

async fn scene(world: World) -> anyhow::Result<()> {
    world.allow_panics();
    let host = world.host("mesh");
    let shards = 2 + world.below(4) as usize;
    let pause = Duration::from_micros(world.below(30_000));
    let supervision = Supervision { restarts: 1_000, pause, pause_most: pause * 2, ..Supervision::default() };
    let config = Config::default().cores(shards).on_failure(OnFailure::Restart).supervision(supervision);
    let runtime = host.runtime_with(config)?;
    let most = [2, 8, 60][world.below(3) as usize];
    let limit = 1 + world.below(most);
    let per_second = 100 + world.below(2_000);
    let declared = Declared {
        count: runtime.count_lease("count", limit)?,
        rate: runtime.rate_lease("rate", per_second)?,
        value: runtime.replicated("value", 0)?,
    };
    for dying in 0..shards {
        let deaths = world.below(4);
        if deaths > 0 {
            let rule = Rule::new(Verdict::Panic).to(("mesh", dying)).with(0.002);
            world.rule(rule.at_most(deaths).between(Duration::ZERO..=DEATHS));
        }
    }
    let book = Arc::new(Book::default());
    let inside = book.clone();
    let running = host.start(runtime, move |shard| lives(shard, declared.clone(), inside.clone()));
    world.sleep(Duration::from_secs(100)).await;
    running.stop(Duration::from_secs(1));
    let ended = world.shard().timeout(PATIENCE, running).await.context("a shard hangs")?;
    ensure!(ended.is_ok(), "{ended:?}");
    let most = book.out.most.load(Relaxed);
    ensure!(most <= limit, "{most} of {limit} were out at once");
    let lives = book.lives.load(Relaxed);
    let (taken, allowed) = (book.taken.load(Relaxed), 3 * per_second + per_second / 50 + shards as u64 + 1);
    ensure!(taken <= allowed, "{taken} taken, {allowed} allowed, in {lives} lives");
    let (late, wanted) = (book.taken_late.load(Relaxed), per_second / 2);
    // What is late in these worlds overflows small buckets.
    ensure!(
        late * 100 >= wanted * 70 && late <= wanted + wanted / 25 + shards as u64 + 1,
        "{late} of {wanted}"
    );
    let versions = book.versions.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(versions.len() == shards && versions.iter().all(|one| *one == versions[0]), "{versions:?}");
    Ok(())
}

#[test]
fn limits_and_values_outlive_the_shards_that_keep_them() {
    Check::new().seeds(25).run(scene);
}
