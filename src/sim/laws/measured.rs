//! What shards count while they die at any moment and begin again: nothing is lost, nothing goes back, whoever asks and
//! whenever.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::metrics::{Counter, Family, Histogram, Unit};
use waterwheel::runtime::{Config, OnFailure, Supervision};
use waterwheel::shard::{Shard, ShardId};
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

/// Longer than anything here may take: a world that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the shards work; they die in the first half.
const WORK: Duration = Duration::from_millis(300);

type Families = (Family<Counter>, Family<Histogram>);

/// What all lives of all shards share; written from outside of them, so to say.
#[derive(Clone, Default)]
struct Book {
    counted: Arc<AtomicU64>,
    scrapes: Arc<AtomicU64>,
}

/// Counts without end.
async fn counts(shard: Shard, families: Families, book: Book, mut rng: Random) -> anyhow::Result<()> {
    let (counter, sizes) = (shard.counter(&families.0)?, shard.histogram(&families.1)?);
    loop {
        // In one turn: a panic comes between turns.
        counter.increment();
        sizes.record(64);
        book.counted.fetch_add(1, Relaxed);
        shard.sleep(Duration::from_micros(rng.below(2_000))).await;
    }
}

/// Asks all shards without end; no answer may be less than the one before.
async fn asks(shard: Shard, families: Families, book: Book, mut rng: Random) -> anyhow::Result<()> {
    let mut before = (0, 0);
    loop {
        let known = book.counted.load(Relaxed);
        let within = Duration::from_micros(rng.below(20_000));
        let scrape = shard.scrape(within).await?;
        let now = (scrape.counter(&families.0, []), scrape.histogram(&families.1, []).count());
        assert!(now >= before, "{now:?} after {before:?}");
        assert!(now.0 <= book.counted.load(Relaxed), "more than there was");
        assert!(scrape.took() <= within + Duration::from_millis(5), "{:?}, not {within:?}", scrape.took());
        if scrape.silent().next().is_none() {
            assert!(now.0 >= known, "{} of {known} are missing", known - now.0);
        }
        before = now;
        book.scrapes.fetch_add(1, Relaxed);
        shard.sleep(Duration::from_micros(rng.below(60_000))).await;
    }
}

async fn lives(shard: Shard, families: Families, book: Book) -> anyhow::Result<()> {
    let mut rng = Random::new(shard.reactor().seed() ^ book.counted.load(Relaxed) << 32);
    let mut next = || Random::new(rng.number());
    for _ in 0..2 {
        let counting = counts(shard.clone(), families.clone(), book.clone(), next());
        drop(shard.spawn("counts", counting));
    }
    drop(shard.spawn("asks", asks(shard.clone(), families.clone(), book.clone(), next())));
    shard.stopping().await;
    Ok(())
}

async fn scene(world: World) -> anyhow::Result<()> {
    let host = world.host("mill");
    let shards = 2 + world.below(4) as usize;
    let pause = Duration::from_micros(world.below(3_000));
    let supervision = Supervision { restarts: 1_000, pause, pause_most: pause * 2, ..Supervision::default() };
    let config = Config::default().cores(shards).on_failure(OnFailure::Restart).supervision(supervision);
    let runtime = host.runtime_with(config)?;
    let counter = runtime.counter("mill_turns_total", "")?;
    let sizes = runtime.histogram("mill_sack_bytes", "", Unit::Bytes)?;
    let families: Families = (counter, sizes);
    for dying in 0..shards {
        let deaths = world.below(4);
        if deaths > 0 {
            let rule = Rule::new(Verdict::Panic).to(("mill", dying)).with(0.02);
            world.rule(rule.at_most(deaths).between(Duration::ZERO..=WORK / 2));
        }
    }
    world.allow_panics();
    let (book, given) = (Book::default(), families.clone());
    let inside = book.clone();
    let running = host.start(runtime, move |shard| lives(shard, given.clone(), inside.clone()));
    world.sleep(WORK).await;
    let last: Arc<Mutex<Option<(u64, u64, usize)>>> = Arc::default();
    let (ended, seen, tell) = (families.clone(), book.clone(), last.clone());
    let job = move |shard: &Shard| {
        let shard = shard.clone();
        shard.clone().spawn_detached("last", async move {
            let known = seen.counted.load(Relaxed);
            let Ok(scrape) = shard.scrape(Duration::from_secs(1)).await else { return };
            let told = (known, scrape.counter(&ended.0, []), scrape.silent().count());
            *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        });
    };
    running
        .remote()
        .try_run(ShardId::new(0), job)
        .ok()
        .context("a shard is over, and nobody dies any more")?;
    world.sleep(Duration::from_secs(2)).await;
    let told = *last.lock().unwrap_or_else(PoisonError::into_inner);
    let (known, counted, silent) = told.context("the last scrape hangs")?;
    ensure!(silent == 0, "{silent} shards are silent, and nobody dies any more");
    ensure!(counted >= known, "{counted} of {known} were counted");
    ensure!(book.scrapes.load(Relaxed) > 0, "nobody asked");
    running.stop(Duration::from_millis(50));
    let ended = world.shard().timeout(PATIENCE, running).await.context("a shard hangs")?;
    ensure!(ended.is_ok(), "{ended:?}");
    Ok(())
}

#[test]
fn what_shards_count_outlives_them_and_never_goes_back() {
    Check::new().seeds(25).run(scene);
}
