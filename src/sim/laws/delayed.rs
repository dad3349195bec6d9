//! A stop that is delayed, with shards that fail in the delay: until it is over clients are served as at any other time, what
//! is to run before the stop runs once on each shard, and then all stop together.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join, select};
use waterwheel::net::{Connection, Listening};
use waterwheel::reactor::{Address, ConnectOptions, Time};
use waterwheel::runtime::{Config, OnFailure, RunError, Runtime, Supervision, When};
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, Host, Rule, Running, Verdict, World};

const MS: Duration = Duration::from_millis(1);
/// What shards may be apart, and what wakes may be late in these worlds.
const SLACK: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(600);
const DRAIN: Duration = Duration::from_millis(300);
const SERVER_PORT: u16 = 80;

/// What one shard did, in all of its lives.
#[derive(Clone, Debug, Default)]
struct Story {
    /// Main futures that were made.
    lives: usize,
    /// One of them is at work.
    works: bool,
    /// When one has heard that it is to stop.
    stops: Option<Time>,
    /// How often what the program wants before a stop began.
    prepared: usize,
    /// The latest life whose own wish before the stop was heard.
    own: Option<usize>,
    /// When a main future is to panic, once.
    doom: Option<Time>,
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<Story>>>);

impl Book {
    fn shards(&self) -> MutexGuard<'_, Vec<Story>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, shard: &Shard, note: impl FnOnce(&mut Story)) {
        note(&mut self.shards()[shard.id().index()]);
    }
}

/// A main future is at work until this goes.
struct Works(Book, Shard);

impl Drop for Works {
    fn drop(&mut self) {
        self.0.note(&self.1, |story| story.works = false);
    }
}

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut byte = [0];
    while connection.read(&mut byte).await? > 0 {
        connection.write_all(&byte).await?;
    }
    Ok(connection.close().await?)
}

/// One life of a shard: serves until it is asked to stop, or its doom comes.
async fn lives(shard: Shard, listening: Listening, book: Book, adds: bool) -> anyhow::Result<()> {
    let mut life = 0;
    book.note(&shard, |story| {
        story.lives += 1;
        story.works = true;
        life = story.lives;
    });
    let _works = Works(book.clone(), shard.clone());
    let acceptor = shard.accept_on(&listening)?;
    shard.spawn_detached("serves", acceptor.serve(usize::MAX, echo));
    // Later than its first breath, as after the opening of a file.
    shard.sleep(MS).await;
    if adds {
        let (own, told) = (shard.clone(), book.clone());
        shard.trigger(When::BeforeStop, "own", async move {
            told.note(&own, |story| story.own = Some(life));
            Ok(())
        })?;
    }
    let dies = async {
        loop {
            let doom = book.shards()[shard.id().index()].doom.take_if(|doom| *doom <= shard.now());
            assert!(doom.is_none(), "planned");
            shard.sleep(MS * 5).await;
        }
    };
    select(pin!(dies), shard.stopping()).await;
    book.note(&shard, |story| story.stops = Some(shard.now()));
    Ok(())
}

struct Scene {
    world: World,
    shards: usize,
    delay: Duration,
    book: Book,
    to: Address,
    /// Each main future has something of its own done before the stop.
    adds: bool,
}

impl Scene {
    /// A program whose stop is delayed.
    fn start(world: &World) -> anyhow::Result<(Scene, Running<()>)> {
        let host = world.host("delayed");
        let (shards, adds) = (1 + world.below(4) as usize, world.chance(0.5));
        let delay = MS * (1_000 + world.below(2_000) as u32);
        let pause = MS * world.below(100) as u32;
        let supervision =
            Supervision { restarts: 100, pause, pause_most: pause * 2, ..Supervision::default() };
        let config = Config::default().cores(shards).drain(DRAIN).stop_delay(delay);
        let runtime = host.runtime_with(config.on_failure(OnFailure::Restart).supervision(supervision))?;
        let book = Book(Arc::new(Mutex::new(vec![Story::default(); shards])));
        if world.chance(0.7) {
            deregisters(&runtime, world, &book);
        }
        let listening = runtime.listen(&format!("tcp:{}", host.at(SERVER_PORT)))?;
        let to = listening.local().clone();
        let scene = Scene { world: world.clone(), shards, delay, book, to, adds };
        let running = scene.run(&host, runtime, listening);
        Ok((scene, running))
    }

    fn run(&self, host: &Host, runtime: Runtime, listening: Listening) -> Running<()> {
        let (book, adds) = (self.book.clone(), self.adds);
        host.start(runtime, move |shard| lives(shard, listening.clone(), book.clone(), adds))
    }

    /// Some shards die from now on, for so long: their reactors or their main futures.
    fn doom(&self, within: Duration) {
        self.world.allow_panics();
        let now = self.world.now().since(Time::ZERO);
        for shard in 0..self.shards {
            match self.world.below(4) {
                0 => {}
                1 => {
                    let doom = MS * self.world.below(within.as_millis() as u64) as u32;
                    self.book.shards()[shard].doom = Some(self.world.now() + doom);
                }
                times => {
                    let rule = Rule::new(Verdict::Panic).to(("delayed", shard)).with(0.1);
                    self.world.rule(rule.at_most(times - 1).between(now..=now + within));
                }
            }
        }
    }

    /// Whether somebody answers.
    async fn asks(&self) -> anyhow::Result<bool> {
        let asked = async {
            let mut connection = self.world.shard().connect(&self.to, &ConnectOptions::default()).await?;
            connection.write_all(b"x").await?;
            let mut back = [0];
            connection.read_exact(&mut back).await?;
            connection.close().await?;
            anyhow::Ok(())
        };
        let asked = self.world.shard().timeout(Duration::from_secs(60), asked).await;
        // Reset, if it was with a shard that died; but never left to wait.
        Ok(asked.context("a client is left to wait")?.is_ok())
    }
}

/// Says so before the stop, and takes its time.
fn deregisters(runtime: &Runtime, world: &World, book: &Book) {
    let (book, takes) = (book.clone(), MS * world.below(1_000) as u32);
    book.shards().iter_mut().for_each(|story| story.prepared = 0);
    runtime.trigger(When::BeforeStop, "deregisters", move |shard: Shard| {
        let book = book.clone();
        async move {
            book.note(&shard, |story| story.prepared += 1);
            shard.sleep(takes).await;
            Ok(())
        }
    });
}

/// They fail in the first half of the delay.
async fn back_in_time(world: World) -> anyhow::Result<()> {
    let (scene, running) = Scene::start(&world)?;
    world.sleep(MS * 100).await;
    let (asked, delay) = (world.now(), scene.delay);
    scene.doom(delay / 2);
    running.stop(DRAIN);
    let quiet = asked + delay / 2 + MS * 300;
    let before = asked + (delay - MS * 100);
    let asking = async {
        while world.now() < before {
            let began = world.now();
            let served = scene.asks().await? || world.now() >= asked + delay;
            ensure!(served || began < quiet, "nobody dies any more, and a client is not served");
            world.sleep(MS * world.below(60) as u32).await;
        }
        anyhow::Ok(())
    };
    // A client may take long.
    let early = async {
        world.sleep(before.since(world.now())).await;
        scene.book.shards().clone()
    };
    let (asking, early) = join(asking, early).await;
    asking?;
    ensure!(early.iter().all(|story| story.works), "a shard is not back: {early:?}");
    ensure!(early.iter().all(|story| story.stops.is_none()), "before the delay is over: {early:?}");
    let ended = world.shard().timeout(PATIENCE, running).await.context("a shard hangs")?;
    ensure!(ended.is_ok(), "{ended:?}");
    let shards = scene.book.shards();
    let prepared = shards[0].prepared;
    for story in shards.iter() {
        let stops = story.stops.context("a main future did not hear of the stop")?;
        ensure!(stops >= asked + delay && stops <= asked + delay + SLACK, "{story:?}, asked at {asked:?}");
        ensure!(story.prepared == prepared && prepared <= 1, "not once on each: {shards:?}");
        ensure!(!scene.adds || story.own == Some(story.lives), "the last life is not heard: {story:?}");
    }
    Ok(())
}

/// They fail at any moment, also when the delay is over.
async fn over_in_time(world: World) -> anyhow::Result<()> {
    let (scene, running) = Scene::start(&world)?;
    world.sleep(MS * 100).await;
    let asked = world.now();
    scene.doom(scene.delay + DRAIN);
    running.stop(DRAIN);
    let ended = world.shard().timeout(PATIENCE, running).await.context("a shard hangs")?;
    // One that fails once the delay is over does not come back.
    let fails = matches!(ended, Err(RunError::Panicked { .. } | RunError::Stopped { .. }) | Ok(_));
    ensure!(fails, "{ended:?}");
    let took = world.now().since(asked);
    // The step before the stop may take two seconds more than the delay, where a shard that has not begun it is waited for.
    ensure!(took >= scene.delay && took <= scene.delay + DRAIN + SLACK * 3, "it took {took:?}");
    let shards = scene.book.shards();
    ensure!(shards.iter().all(|story| story.prepared <= 1), "more than once: {shards:?}");
    let stops = shards.iter().filter_map(|story| story.stops);
    ensure!(stops.min().is_none_or(|stops| stops >= asked + scene.delay), "too early: {shards:?}");
    Ok(())
}

#[test]
fn a_shard_that_fails_while_a_stop_is_delayed_is_back_until_it_begins() {
    Check::new().seeds(100).run(back_in_time);
}

#[test]
fn a_delayed_stop_comes_in_time_whoever_fails_at_whatever_moment() {
    Check::new().seeds(300).run(over_in_time);
}
