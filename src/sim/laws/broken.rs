//! Listeners whose sockets turn out to be of no use, at any moment: the life of their shard ends, its next one has the
//! socket, and nobody who waits there is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::net::{Connection, Listening};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::{Config, OnFailure, Supervision};
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, Rule, Verdict, World};

const WORK: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(600);
const SERVER_PORT: u16 = 80;
/// The socket does not listen any more; it is none.
const EINVAL: i32 = 22;
const EBADF: i32 = 9;
/// What passes, and what nobody has thought of.
const ENOBUFS: i32 = 105;
const EXDEV: i32 = 18;

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut byte = [0];
    while connection.read(&mut byte).await? > 0 {
        connection.write_all(&byte).await?;
    }
    Ok(connection.close().await?)
}

async fn lives(shard: Shard, listening: Listening, lives: Arc<AtomicUsize>) -> anyhow::Result<()> {
    lives.fetch_add(1, Relaxed);
    shard.accept_on(&listening)?.serve(usize::MAX, echo).await;
    Ok(())
}

/// Whether somebody answers.
async fn asks(world: &World, to: &Address) -> anyhow::Result<bool> {
    let asked = async {
        let mut connection = world.shard().connect(to, &ConnectOptions::default()).await?;
        connection.write_all(b"x").await?;
        connection.read_exact(&mut [0]).await?;
        connection.close().await?;
        anyhow::Ok(())
    };
    let asked = world.shard().timeout(Duration::from_secs(10), asked).await;
    Ok(asked.context("a client is left to wait")?.is_ok())
}

async fn they_come_back(world: World) -> anyhow::Result<()> {
    let host = world.host("fragile");
    let shards = 1 + world.below(4) as usize;
    let pause = Duration::from_micros(world.below(5_000)) * u32::from(world.chance(0.5));
    let supervision = Supervision { restarts: 100, pause, pause_most: pause, ..Supervision::default() };
    let config = Config::default().cores(shards).on_failure(OnFailure::Restart).supervision(supervision);
    let runtime = host.runtime_with(config)?;
    let listening = runtime.listen(&format!("tcp:{}", host.at(SERVER_PORT)))?;
    let to = listening.local().clone();
    let counted = Arc::new(AtomicUsize::new(0));
    let inside = counted.clone();
    let running = host.start(runtime, move |shard| lives(shard, listening.clone(), inside.clone()));
    let breaks = 1 + world.below(5) as usize;
    let errno = if world.chance(0.5) { EINVAL } else { EBADF };
    let broken = Rule::new(Verdict::AcceptFails(errno)).to("fragile").with(0.2).at_most(breaks as u64);
    world.rule(broken);
    for errno in [ENOBUFS, EXDEV] {
        world.rule(Rule::new(Verdict::AcceptFails(errno)).to("fragile").with(0.2).at_most(10));
    }
    let began = world.now();
    // Without a pause each of them ends the life of a main future, and none ends two.
    let all_lives = if pause.is_zero() { shards + breaks } else { 0 };
    while world.now() < began + WORK || counted.load(Relaxed) < all_lives {
        ensure!(world.now() < began + PATIENCE, "{} lives, not {all_lives}", counted.load(Relaxed));
        // Reset, if it was with a shard whose life ended; but never left to wait.
        asks(&world, &to).await?;
        world.sleep(Duration::from_micros(world.below(5_000))).await;
    }
    world.end_rules();
    // One that is in its pause comes back.
    world.sleep(pause * 2).await;
    for _ in 0..10 {
        ensure!(asks(&world, &to).await?, "nothing breaks any more, and a client is not served");
    }
    let lives = counted.load(Relaxed);
    ensure!(!pause.is_zero() || lives == all_lives, "{lives} lives, not {all_lives}");
    ensure!(!running.is_over(), "a broken listener ended all");
    running.stop(Duration::from_millis(50));
    let ended = world.shard().timeout(PATIENCE, running).await.context("a shard hangs")?;
    ensure!(ended.is_ok(), "{ended:?}");
    Ok(())
}

/// Nobody thought of this error of one listener, and it is told for long.
async fn they_go_on(world: World) -> anyhow::Result<()> {
    let host = world.host("fragile");
    let runtime = host.runtime_with(Config::default().cores(1).on_failure(OnFailure::Restart))?;
    let listening = runtime.listen(&format!("tcp:{}", host.at(SERVER_PORT)))?;
    let (to, counted) = (listening.local().clone(), Arc::new(AtomicUsize::new(0)));
    let inside = counted.clone();
    let running = host.start(runtime, move |shard| lives(shard, listening.clone(), inside.clone()));
    let mut old = world.shard().connect(&to, &ConnectOptions::default()).await?;
    old.write_all(b"x").await?;
    old.read_exact(&mut [0]).await?;
    world.rule(Rule::new(Verdict::AcceptFails(EXDEV)).to("fragile"));
    let mut client = world.shard().connect(&to, &ConnectOptions::default()).await?;
    client.write_all(b"y").await?;
    world.sleep(Duration::from_secs(300)).await;
    old.write_all(b"x").await?;
    old.read_exact(&mut [0]).await?;
    world.end_rules();
    let served = world.shard().timeout(Duration::from_secs(1), client.read_exact(&mut [0])).await;
    served.context("who waits is not served when it is over")??;
    ensure!(counted.load(Relaxed) == 1 && !running.is_over(), "it ended a life");
    drop((old, client));
    running.stop(Duration::from_millis(50));
    running.await.map(drop).context("the end")
}

#[test]
fn a_listener_that_breaks_ends_a_life_and_the_next_one_serves_who_waits() {
    Check::new().seeds(200).run(they_come_back);
}

#[test]
fn an_error_that_nobody_knows_hurts_nobody_else() {
    Check::new().seeds(20).run(they_go_on);
}
