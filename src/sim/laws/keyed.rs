//! Limits by keys, where shards die at any moment and begin again: never more than the limit while all live; and when it
//! is quiet the homes know exactly what is out, whoever died before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::mesh::{KeyLease, KeyLimits, KeyPermit};
use waterwheel::reactor::Time;
use waterwheel::runtime::{Config, OnFailure, Supervision};
use waterwheel::shard::{Shard, ShardId};
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

const KEYS: u64 = 6;
const MOST: u32 = 4;
/// Work until here; they die in the first half of it.
const WORK: Duration = Duration::from_millis(300);
/// All is quiet, and what is out stays out.
const QUIET: Duration = Duration::from_secs(20);
const OVER: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(600);

/// What is out, written down from outside of the shards, so to say.
type Book = Arc<Mutex<BTreeMap<u64, i64>>>;
/// What was wrong meanwhile.
type Wrong = Arc<Mutex<Vec<String>>>;

struct Counted {
    key: u64,
    book: Book,
    _permit: KeyPermit<u64>,
}

impl Counted {
    fn new(book: &Book, key: u64, permit: KeyPermit<u64>) -> Counted {
        *book.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        Counted { key, book: book.clone(), _permit: permit }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.book.lock().unwrap_or_else(PoisonError::into_inner).entry(self.key).or_default() -= 1;
    }
}

fn out(book: &Book, key: u64) -> i64 {
    book.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied().unwrap_or(0)
}

/// Takes and gives back without end, gives up now and then.
async fn uses(
    shard: Shard,
    lease: KeyLease<u64>,
    held: Rc<RefCell<Vec<Counted>>>,
    (book, wrong): (Book, Option<Wrong>),
) {
    let limiter = shard.key_limiter(&lease).expect("of this runtime");
    let mut rng = Random::new(shard.reactor().seed() ^ shard.now().since(Time::ZERO).as_nanos() as u64);
    while shard.now() < Time::ZERO + WORK {
        let key = rng.below(KEYS);
        let home = ShardId::new(key as usize % shard.count());
        let take = limiter.take(home, key, KeyLimits { most: Some(MOST), rate: None });
        let taken = match rng.below(3) {
            0 => shard.timeout(Duration::from_micros(rng.below(400)), take).await.ok(),
            _ => Some(take.await),
        };
        if let Some(Ok(Some(permit))) = taken {
            held.borrow_mut().push(Counted::new(&book, key, permit));
            let count = out(&book, key);
            if let Some(wrong) = wrong.as_ref().filter(|_| count > i64::from(MOST)) {
                let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                wrong.push(format!("{count} of {key} are out"));
            }
        }
        if rng.below(2) == 0 {
            let count = held.borrow().len() as u64;
            let gone = (count > 0).then(|| held.borrow_mut().swap_remove(rng.below(count) as usize));
            drop(gone);
        }
        shard.sleep(Duration::from_micros(rng.below(1_500))).await;
    }
}

/// One life of a shard.
async fn lives(
    shard: Shard,
    lease: KeyLease<u64>,
    (book, wrong): (Book, Option<Wrong>),
) -> anyhow::Result<()> {
    let limiter = shard.key_limiter(&lease)?;
    let held = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..3 {
        let work = uses(shard.clone(), lease.clone(), held.clone(), (book.clone(), wrong.clone()));
        shard.spawn_detached("uses", work);
    }
    shard.sleep_until(Time::ZERO + QUIET).await;
    for key in (0..KEYS).filter(|key| *key as usize % shard.count() == shard.id().index()) {
        let (known, real) = (limiter.count(shard.id(), key), out(&book, key));
        ensure!(known as i64 == real, "{known} of {key} are known to be out, and {real} are");
    }
    ensure!(limiter.far_keys().1 == 0, "a home was not told of all");
    shard.sleep_until(Time::ZERO + OVER).await;
    held.borrow_mut().clear();
    shard.sleep_until(Time::ZERO + OVER + QUIET).await;
    for key in (0..KEYS).filter(|key| *key as usize % shard.count() == shard.id().index()) {
        ensure!(limiter.count(shard.id(), key) == 0, "something of {key} is left");
    }
    ensure!(limiter.far_keys() == (0, 0), "{:?}", limiter.far_keys());
    shard.sleep_until(Time::ZERO + OVER + 2 * QUIET).await;
    Ok(())
}

async fn scene(world: World) -> anyhow::Result<()> {
    world.allow_panics();
    let host = world.host("mesh");
    let shards = 1 + world.below(4) as usize;
    let pause = Duration::from_micros(world.below(3_000));
    let supervision = Supervision { restarts: 1_000, pause, pause_most: pause * 2, ..Supervision::default() };
    let config = Config::default().cores(shards).on_failure(OnFailure::Restart).supervision(supervision);
    let runtime = host.runtime_with(config)?;
    let lease = runtime.key_lease::<u64>("keys")?;
    let dies = world.chance(0.7);
    for dying in (0..shards).filter(|_| dies) {
        let deaths = world.below(4);
        if deaths > 0 {
            let rule = Rule::new(Verdict::Panic).to(("mesh", dying)).with(0.02);
            world.rule(rule.at_most(deaths).between(Duration::ZERO..=WORK / 2));
        }
    }
    let (book, wrong) = (Book::default(), Wrong::default());
    // Where a home is in a pause, each shard has its own.
    let inside = (book.clone(), Some(wrong.clone()).filter(|_| !dies));
    let running = host.start(runtime, move |shard| lives(shard, lease.clone(), inside.clone()));
    let ended = world.shard().timeout(PATIENCE, running).await.context("a shard hangs")?;
    ensure!(ended.is_ok(), "{ended:?}");
    let wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    let left: i64 = (0..KEYS).map(|key| out(&book, key)).sum();
    ensure!(left == 0, "{left} permits were not dropped");
    Ok(())
}

/// `WATERWHEEL_SEEDS=10000 cargo test --release --test simulation keyed`
#[test]
fn what_is_out_of_a_key_is_known_at_its_home_whoever_died() {
    Check::new().seeds(100).run(scene);
}
