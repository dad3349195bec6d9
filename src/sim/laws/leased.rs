//! Leases under random schedules: a rate is kept and reached while demand moves, with few messages; of a count never more
//! is out than the limit, and when all is dropped all of it is there again; whatever dies, nobody hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use waterwheel::mesh::{CountLease, CountLimiter, Permit, RateLimiter};
use waterwheel::reactor::Time;
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, Options, Random, Rule, Verdict, World};

/// Longer than anything here may take: a world that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);

// ---- rates

const PER_SECOND: u64 = 10_000;
const SHARDS: usize = 4;
/// Stretches of time, each with a demand of its own.
const STRETCHES: usize = 4;
const STRETCH: Duration = Duration::from_secs(2);
/// So long it may take until each shard has what it needs: words are few, and who caught up with what it missed looks as
/// if it needed more than it does.
const SETTLED: Duration = Duration::from_secs(1);

/// What all shards took, by stretch: before it was settled, and after; and the messages.
type Sums = Arc<[AtomicU64; 2 * STRETCHES + 1]>;

/// Takes `demand` tokens per second until then, or, if that is `None`, as many as it gets.
async fn takes(
    shard: &Shard,
    limiter: &RateLimiter,
    demand: Option<u64>,
    until: Time,
) -> anyhow::Result<u64> {
    let (began, mut taken) = (shard.now(), 0);
    loop {
        if let Some(demand) = demand {
            let gap = Duration::from_nanos((taken + 1) * 1_000_000_000 / demand);
            shard.sleep_until(until.min(began + gap)).await;
        }
        let left = until.since(shard.now());
        match shard.timeout(left, limiter.take()).await {
            Ok(outcome) if !left.is_zero() => outcome?,
            _ => return Ok(taken),
        }
        taken += 1;
    }
}

async fn rates(world: World) -> anyhow::Result<()> {
    let host = world.host("mesh");
    let runtime = host.runtime(SHARDS);
    let lease = runtime.rate_lease("rate", PER_SECOND)?;
    // One shard wants all, and it is another one each time; the others want little, as unevenly as chance has it.
    let (greedy, seed) = (world.below(SHARDS as u64) as usize, world.below(u64::MAX));
    let sums = Sums::default();
    let counted = sums.clone();
    let running = host.start(runtime, move |shard| {
        let (lease, sums) = (lease.clone(), counted.clone());
        async move {
            let limiter = shard.rate_limiter(&lease)?;
            let mut rng = Random::new(seed ^ shard.id().index() as u64);
            for number in 0..STRETCHES {
                let began = Time::ZERO + STRETCH * number as u32;
                let all = (greedy + number) % SHARDS == shard.id().index();
                let most = [20, 300, 1500][rng.below(3) as usize];
                let little = 1 + rng.below(most);
                for (part, until) in [began + SETTLED, began + STRETCH].into_iter().enumerate() {
                    let taken = takes(&shard, &limiter, (!all).then_some(little), until).await?;
                    sums[2 * number + part].fetch_add(taken, Relaxed);
                    shard.sleep_until(until).await;
                }
            }
            let stats = shard.mesh_stats();
            let port = stats.ports.iter().find(|port| port.name == "rate").context("it was used")?;
            sums[2 * STRETCHES].fetch_add(2 * port.sent, Relaxed);
            // Nobody ends before all have counted.
            shard.sleep(STRETCH).await;
            Ok(())
        }
    });
    world.shard().timeout(PATIENCE, running).await.context("takers hang")??;
    let sums: Vec<u64> = sums.iter().map(|sum| sum.load(Relaxed)).collect();
    let (parts, seconds) = (sums[..2 * STRETCHES].chunks(2), STRETCHES as u64 * STRETCH.as_secs());
    let near = |taken: u64, time: Duration, least: u64| {
        let allowed = PER_SECOND * time.as_millis() as u64 / 1_000;
        taken * 100 >= allowed * least && taken * 100 <= allowed * 102
    };
    for part in parts {
        let [moving, settled] = *part else { unreachable!("of two") };
        ensure!(near(settled, STRETCH - SETTLED, 98), "{settled} where demand was steady: {sums:?}");
        // A move may cost a period of what moves, and nothing is gained by it.
        ensure!(near(moving + settled, STRETCH, 90), "{moving} and {settled}: {sums:?}");
    }
    let all = sums[..2 * STRETCHES].iter().sum();
    ensure!(near(all, STRETCH * STRETCHES as u32, 96), "{all} with {STRETCHES} moves: {sums:?}");
    ensure!(sums[2 * STRETCHES] <= 100 * seconds, "{} messages in {seconds} s", sums[2 * STRETCHES]);
    Ok(())
}

/// The same, while a shard dies: never more, and who is told of the keeper's end takes nothing any more.
async fn rates_of_the_mortal(world: World) -> anyhow::Result<()> {
    let host = world.host("mesh");
    let shards = 2 + world.below(4) as usize;
    let runtime = host.runtime(shards);
    let limit = 1 + world.below(2_000);
    let lease = runtime.rate_lease("rate", limit)?;
    let dying = world.below(shards as u64) as usize;
    world.rule(Rule::new(Verdict::Panic).to(("mesh", dying)).with(0.002).at_most(1));
    let taken = Arc::new(AtomicU64::new(0));
    let counted = taken.clone();
    let running = host.start(runtime, move |shard| {
        let (lease, taken) = (lease.clone(), counted.clone());
        async move {
            let limiter = shard.rate_limiter(&lease)?;
            let mut rng = Random::new(shard.reactor().seed());
            let end = Time::ZERO + Duration::from_secs(3);
            while shard.now() < end {
                let patience = Duration::from_micros(rng.below(200_000)).min(end.since(shard.now()));
                match shard.timeout(patience, limiter.take()).await {
                    Ok(Ok(())) => taken.fetch_add(1, Relaxed),
                    Ok(Err(_)) => break,
                    Err(_) => continue,
                };
                if rng.below(40) == 0 {
                    shard.sleep(Duration::from_micros(rng.below(300_000))).await;
                }
            }
            shard.sleep_until(end + Duration::from_secs(1)).await;
            Ok(())
        }
    });
    let _ended = world.shard().timeout(PATIENCE, running).await.context("takers hang")?;
    let (taken, most) = (taken.load(Relaxed), 3 * limit + limit / 50 + shards as u64 + 1);
    ensure!(taken <= most, "{taken} taken, {most} allowed");
    Ok(())
}

// ---- counts

/// How many are out, over all shards.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) now: AtomicU64,
    pub(crate) most: AtomicU64,
}

/// A permit that is counted while it is out, also if its shard dies.
pub(crate) struct Counted {
    out: Arc<Out>,
    _permit: Permit,
}

impl Counted {
    pub(crate) fn new(out: &Arc<Out>, permit: Permit) -> Counted {
        out.most.fetch_max(out.now.fetch_add(1, Relaxed) + 1, Relaxed);
        Counted { out: out.clone(), _permit: permit }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.out.now.fetch_sub(1, Relaxed);
    }
}

/// Takes in every way there is, holds for a while, gives up now and then; until it is told of the keeper's end.
async fn uses(shard: Shard, limiter: CountLimiter, out: Arc<Out>, seed: u64) {
    let mut rng = Random::new(seed);
    let mut held = Vec::new();
    for _ in 0..rng.below(60) {
        let taken = match rng.below(4) {
            0 => limiter.try_take().ok(),
            1 => {
                let patience = Duration::from_micros(rng.below(500));
                match shard.timeout(patience, limiter.take()).await {
                    Ok(Err(_)) => return,
                    outcome => outcome.ok().and_then(Result::ok),
                }
            }
            // Whoever holds some and waits for more could wait for ever.
            _ => {
                held.clear();
                let Ok(permit) = limiter.take().await else { return };
                Some(permit)
            }
        };
        held.extend(taken.map(|permit| Counted::new(&out, permit)));
        if rng.below(2) == 0 {
            shard.sleep(Duration::from_micros(rng.below(300))).await;
        }
        if rng.below(3) == 0 {
            held.clear();
        }
    }
}

/// All of it can be taken at once, so that nothing has leaked.
pub(crate) async fn is_whole(shard: &Shard, lease: &CountLease) -> anyhow::Result<()> {
    let limiter = shard.count_limiter(lease)?;
    let all = join_all((0..lease.limit()).map(|_| limiter.take()).collect::<Vec<_>>());
    let permits = shard.timeout(Duration::from_secs(5), all).await.context("some have leaked")?;
    ensure!(permits.iter().all(Result::is_ok), "the keeper is there");
    ensure!(limiter.try_take().is_err(), "there are more than the limit");
    Ok(())
}

async fn counts(world: World) -> anyhow::Result<()> {
    let host = world.host("mesh");
    let shards = 1 + world.below(5) as usize;
    let runtime = host.runtime(shards);
    let most = [2, 8, 60][world.below(3) as usize];
    let limit = 1 + world.below(most);
    let lease = runtime.count_lease("count", limit)?;
    let (keeper, dies) = (lease.keeper(), world.chance(0.5));
    let dying = world.below(shards as u64) as usize;
    if dies {
        world.rule(Rule::new(Verdict::Panic).to(("mesh", dying)).with(0.02).at_most(1));
    }
    if world.chance(0.3) {
        let slow = world.below(shards as u64) as usize;
        let by = Duration::from_micros(world.below(2_000));
        world.rule(Rule::new(Verdict::SlowTurn(by)).to(("mesh", slow)).with(0.2));
    }
    let out = Arc::new(Out::default());
    let counted = out.clone();
    let running = host.start(runtime, move |shard| {
        let (lease, out) = (lease.clone(), counted.clone());
        async move {
            let limiter = shard.count_limiter(&lease)?;
            let mut rng = Random::new(shard.reactor().seed());
            let tasks = (0..1 + rng.below(6))
                .map(|_| uses(shard.clone(), limiter.clone(), out.clone(), rng.number()))
                .collect::<Vec<_>>();
            let work = shard.timeout(Duration::from_secs(60), join_all(tasks)).await;
            ensure!(work.is_ok(), "somebody waits for ever");
            ensure!(limiter.taken() == 0, "{} are out", limiter.taken());
            // One after the other, when all is quiet.
            let turn = Duration::from_secs(100 + 10 * shard.id().index() as u64);
            shard.sleep_until(Time::ZERO + turn).await;
            if !(dies && dying == keeper.index()) {
                is_whole(&shard, &lease).await?;
            }
            shard.sleep_until(Time::ZERO + Duration::from_secs(200)).await;
            Ok(())
        }
    });
    let ended = world.shard().timeout(PATIENCE, running).await.context("takers hang")?;
    if let Err(error) = ended {
        // That it died is planned.
        ensure!(dies && error.to_string().contains("simulation said so"), "{error:?}");
    }
    let most = out.most.load(Relaxed);
    ensure!(most <= limit, "{most} of {limit} were out at once");
    ensure!(out.now.load(Relaxed) == 0, "a permit was not dropped");
    Ok(())
}

/// How long a shard does nothing at all.
const STUCK: Duration = Duration::from_secs(60);

/// The limit is changed twice while a shard is stuck: the second change takes effect at once, but for what that has.
async fn changes_while_one_is_stuck(world: World) -> anyhow::Result<()> {
    let host = world.host("mesh");
    let shards = 3 + world.below(3) as usize;
    let runtime = host.runtime(shards);
    let each = 1 + world.below(5);
    let lease = runtime.count_lease("count", each * shards as u64)?;
    let other = |than: usize| (than + 1 + world.below(shards as u64 - 1) as usize) % shards;
    let stuck = other(lease.keeper().index());
    let changer = other(stuck);
    let (small, more) = (1 + world.below(lease.limit()), 1 + world.below(40));
    let pause = Duration::from_micros(world.below(3_000));
    let second = Duration::from_secs(1);
    let rule = Rule::new(Verdict::SlowTurn(STUCK)).to(("mesh", stuck)).at_most(1);
    world.rule(rule.between(second..=second * 2));
    let running = host.start(runtime, move |shard| {
        let lease = lease.clone();
        async move {
            let limiter = shard.count_limiter(&lease)?;
            let mut permits = Vec::new();
            for _ in 0..each {
                permits.push(limiter.take().await?);
            }
            // All are out now, and one of these turns is a long one.
            while shard.now() < Time::ZERO + second * 3 {
                shard.sleep(Duration::from_millis(50)).await;
            }
            if shard.id().index() == changer {
                let smaller = lease.with_limit(small)?;
                limiter.change_limit(&smaller);
                shard.sleep(pause).await;
                ensure!(limiter.try_take().is_err(), "one more than there may be");
                let greater = smaller.with_limit(lease.limit() + more)?;
                limiter.change_limit(&greater);
                let all = join_all((0..more).map(|_| limiter.take()).collect::<Vec<_>>());
                let taken = shard.timeout(second, all).await.context("a stuck shard holds them up")?;
                ensure!(taken.iter().all(Result::is_ok) && limiter.try_take().is_err(), "one too many");
                let reached = shard.timeout(second, limiter.limit_reached()).await;
                ensure!(reached.is_err(), "it cannot have heard of it");
                let reached = shard.timeout(STUCK, limiter.limit_reached()).await;
                reached.context("it never hears of it")?;
            }
            shard.sleep_until(Time::ZERO + STUCK * 2).await;
            Ok(())
        }
    });
    world.shard().timeout(PATIENCE, running).await.context("takers hang")??;
    Ok(())
}

#[test]
fn a_limit_is_changed_once_more_while_a_shard_is_stuck() {
    Check::new().seeds(60).run(changes_while_one_is_stuck);
}

#[test]
fn a_rate_is_kept_within_two_percent_and_follows_when_demand_moves() {
    Check::new().seeds(6).at_most(300).options(Options::default()).run(rates);
}

#[test]
fn a_rate_is_not_exceeded_when_a_shard_dies_and_nobody_hangs() {
    Check::new().seeds(60).run(rates_of_the_mortal);
}

#[test]
fn a_count_is_kept_and_nothing_of_it_leaks() {
    Check::new().seeds(300).run(counts);
}
