//! Limits and replicated values while shards, the keepers too, die at any moment and begin again: never more is out than the
//! limit, also while that is changed, nothing leaks, nobody hangs, and when all is quiet each shard has what was published
//! last.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join_all, join4};
use waterwheel::mesh::{
    CountLease, CountLimiter, Permit, RateLease, RateLimiter, Replica, Replicated, TryTakeError, Version,
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
struct Book {
    out: Arc<Out>,
    /// The newest value of the count.
    count: Mutex<CountLease>,
    /// So many may be out when one more is taken.
    bound: AtomicU64,
    /// The most that were out then beyond the bound.
    beyond: AtomicU64,
    /// Somebody changes the limit.
    changing: AtomicBool,
    changes: AtomicU64,
    /// The newest value of the rate.
    rate: Mutex<RateLease>,
    paced: Mutex<Paced>,
    /// Somebody changes the rate.
    pacing: AtomicBool,
    taken: AtomicU64,
    /// In the last half second of work, when nobody dies any more.
    taken_late: AtomicU64,
    lives: AtomicU64,
    versions: Mutex<Vec<(Version, u64)>>,
}

/// What may be taken by a rate that changes.
struct Paced {
    /// The greatest of those that may be gone by, since then.
    most: u64,
    since: Time,
    /// Tokens until then.
    allowed: f64,
}

impl Paced {
    /// From now on it is another one.
    fn change(&mut self, most: u64, now: Time) {
        self.allowed += self.most as f64 * now.since(self.since).as_secs_f64();
        (self.most, self.since) = (most, now);
    }
}

impl Book {
    fn new(count: CountLease, rate: RateLease) -> Book {
        let bound = AtomicU64::new(count.limit());
        let (out, beyond, changing, changes, pacing, taken, taken_late, lives, versions) = Default::default();
        // Buckets are full at first, and so are those that hold one at least.
        let allowed = rate.per_second() as f64 / 50.0;
        let paced = Mutex::new(Paced { most: rate.per_second(), since: Time::ZERO, allowed });
        let (count, rate) = (Mutex::new(count), Mutex::new(rate));
        Book {
            out,
            count,
            bound,
            beyond,
            changing,
            changes,
            rate,
            paced,
            pacing,
            taken,
            taken_late,
            lives,
            versions,
        }
    }

    fn rate(&self) -> MutexGuard<'_, RateLease> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paced(&self) -> MutexGuard<'_, Paced> {
        self.paced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> MutexGuard<'_, CountLease> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more is out.
    fn counts(&self, permit: Permit) -> Counted {
        let counted = Counted::new(&self.out, permit);
        let beyond = self.out.now.load(Relaxed).saturating_sub(self.bound.load(Relaxed));
        self.beyond.fetch_max(beyond, Relaxed);
        counted
    }

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
            Ok(permit) => held.push(book.counts(permit)),
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

/// Changes the limit now and then, once or several times before all have heard of it, from whichever shard chance has it;
/// nobody else does meanwhile, but it may die.
async fn changes(
    shard: Shard,
    limiter: CountLimiter,
    book: Arc<Book>,
    most: u64,
    mut rng: Random,
) -> anyhow::Result<()> {
    while shard.now() < WORK {
        shard.sleep(Duration::from_micros(rng.below(200_000))).await;
        if book.changing.swap(true, Relaxed) {
            continue;
        }
        let _alone = Alone(&book.changing);
        let mut pause = Duration::ZERO;
        for _ in 0..1 + rng.below(3) {
            shard.sleep(pause).await;
            let next = book.count().with_limit(1 + rng.below(most))?;
            *book.count() = next.clone();
            book.bound.fetch_max(next.limit(), Relaxed);
            limiter.change_limit(&next);
            book.changes.fetch_add(1, Relaxed);
            pause = Duration::from_micros(rng.below(2_000));
        }
        let reached = shard.timeout(Duration::from_secs(10), limiter.limit_reached());
        reached.await.context("not all hear of a limit")?;
        let newest = book.count().limit();
        book.bound.store(newest, Relaxed);
    }
    Ok(())
}

/// The same for the rate, so that it is settled when the last half second begins.
async fn paces(shard: Shard, limiter: RateLimiter, book: Arc<Book>, mut rng: Random) -> anyhow::Result<()> {
    while shard.now() < Time::ZERO + DEATHS / 2 {
        shard.sleep(Duration::from_micros(rng.below(300_000))).await;
        if book.pacing.swap(true, Relaxed) {
            continue;
        }
        let _alone = Alone(&book.pacing);
        let mut pause = Duration::ZERO;
        for _ in 0..1 + rng.below(3) {
            shard.sleep(pause).await;
            let next = book.rate().with_rate(100 + rng.below(2_000))?;
            *book.rate() = next.clone();
            let most = book.paced().most.max(next.per_second());
            book.paced().change(most, shard.now());
            limiter.change_rate(&next);
            pause = Duration::from_micros(rng.below(2_000));
        }
        let reached = shard.timeout(Duration::from_secs(10), limiter.rate_reached());
        reached.await.context("not all hear of a rate")?;
        let newest = book.rate().per_second();
        book.paced().change(newest, shard.now());
    }
    Ok(())
}

struct Alone<'a>(&'a AtomicBool);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
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
    /// The greatest limit of the count.
    most: u64,
    value: Replicated<u64>,
}

/// One life of a shard.
async fn lives(shard: Shard, declared: Declared, book: Arc<Book>) -> anyhow::Result<()> {
    let life = book.lives.fetch_add(1, Relaxed);
    let mut rng = Random::new(shard.reactor().seed() ^ life << 32);
    let (newest, newest_rate) = (book.count().clone(), book.rate().clone());
    let (count, rate) = (shard.count_limiter(&newest)?, shard.rate_limiter(&newest_rate)?);
    drop((newest, newest_rate));
    let replica = shard.replica(&declared.value)?;
    shard.spawn_detached("publishes", publishes(shard.clone(), replica.clone(), Random::new(rng.number())));
    let hurries = hurries(shard.clone(), rate.clone(), book.clone(), Random::new(rng.number()));
    let uses = (0..1 + rng.below(4))
        .map(|_| uses(shard.clone(), count.clone(), book.clone(), Random::new(rng.number())))
        .collect::<Vec<_>>();
    let changes =
        changes(shard.clone(), count.clone(), book.clone(), declared.most, Random::new(rng.number()));
    let paces = paces(shard.clone(), rate.clone(), book.clone(), Random::new(rng.number()));
    let (used, hurried, changed, paced) = join4(join_all(uses), hurries, changes, paces).await;
    hurried?;
    changed?;
    paced?;
    used.into_iter().collect::<anyhow::Result<()>>()?;
    shard.sleep_until(LOOK + Duration::from_secs(10) * shard.id().index() as u32).await;
    let newest = book.count().clone();
    ensure!(count.limit() == newest.limit(), "it goes by {}, not by {}", count.limit(), newest.limit());
    let per_second = book.rate().per_second();
    ensure!(rate.per_second() == per_second, "it goes by {}, not by {per_second}", rate.per_second());
    is_whole(&shard, &newest).await?;
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
    let count = runtime.count_lease("count", 1 + world.below(most))?;
    let per_second = 100 + world.below(2_000);
    let rate = runtime.rate_lease("rate", per_second)?;
    let declared = Declared { most, value: runtime.replicated("value", 0)? };
    for dying in 0..shards {
        let deaths = world.below(4);
        if deaths > 0 {
            let rule = Rule::new(Verdict::Panic).to(("mesh", dying)).with(0.002);
            world.rule(rule.at_most(deaths).between(Duration::ZERO..=DEATHS));
        }
    }
    // One is stuck now and then, while others change what it has to hear of.
    let (stuck, by) = (world.below(shards as u64) as usize, Duration::from_micros(world.below(200_000)));
    let rule = Rule::new(Verdict::SlowTurn(by)).to(("mesh", stuck)).with(0.002);
    world.rule(rule.at_most(world.below(4)).between(Duration::ZERO..=DEATHS));
    let book = Arc::new(Book::new(count, rate));
    let inside = book.clone();
    let running = host.start(runtime, move |shard| lives(shard, declared.clone(), inside.clone()));
    world.sleep(Duration::from_secs(100)).await;
    running.stop(Duration::from_secs(1));
    let ended = world.shard().timeout(PATIENCE, running).await.context("a shard hangs")?;
    ensure!(ended.is_ok(), "{ended:?}");
    let (beyond, changes) = (book.beyond.load(Relaxed), book.changes.load(Relaxed));
    ensure!(beyond == 0, "one more was given out while {beyond} too many were");
    ensure!(changes > 0, "no limit was changed");
    let lives = book.lives.load(Relaxed);
    book.paced().change(0, WORK);
    // One in each bucket.
    let (taken, allowed) = (book.taken.load(Relaxed), book.paced().allowed + shards as f64 + 1.0);
    ensure!(taken as f64 <= allowed, "{taken} taken, {allowed} allowed, in {lives} lives");
    let (late, wanted) = (book.taken_late.load(Relaxed), book.rate().per_second() / 2);
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
