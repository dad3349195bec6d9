//! Listeners that come and go while a shard pauses before its next life: nobody who comes to them waits for it, and what is
//! closed is closed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::net::{Connection, Endpoint, Leaving, Listening};
use waterwheel::reactor::{Address, ConnectOptions, ListenOptions, Time};
use waterwheel::runtime::{Config, Listeners, OnFailure, Supervision};
use waterwheel::shard::{Shard, ShardId};
use waterwheel::sim::{Check, Host, Running, World};
use waterwheel::steer::Mode;

/// From the second failure on.
const PAUSE: Duration = Duration::from_secs(10);
const VICTIM: usize = 0;
const FIRST_PORT: u16 = 80;
/// How long a listener that is closed takes in who waits there.
const CLOSED_WITHIN: Duration = Duration::from_millis(1_500);

/// The listeners that are open; those who begin open them all.
type Wanted = Arc<Mutex<Vec<Listening>>>;

/// What leaves the listeners of a shard.
struct Doors(RefCell<Vec<(Listening, Leaving)>>);

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut byte = [0];
    while connection.read(&mut byte).await? > 0 {
        connection.write_all(&byte).await?;
    }
    Ok(connection.close().await?)
}

fn serve(shard: &Shard, listening: &Listening) -> anyhow::Result<()> {
    let acceptor = shard.accept_on(listening)?;
    let doors = shard.kept::<Doors>().context("its doors")?;
    doors.0.borrow_mut().push((listening.clone(), acceptor.leaving()));
    shard.spawn_detached("serves", acceptor.serve(usize::MAX, echo));
    Ok(())
}

fn leave(shard: &Shard, at: &Address) {
    let Some(doors) = shard.kept::<Doors>() else { return };
    let left: Vec<_> = doors.0.borrow_mut().extract_if(.., |(door, _)| door.local() == at).collect();
    left.iter().for_each(|(_, leaving)| leaving.leave());
}

async fn lives(shard: Shard, wanted: Wanted, lives: Arc<AtomicUsize>) -> anyhow::Result<()> {
    if shard.id().index() == VICTIM {
        assert!(lives.fetch_add(1, Relaxed) >= 2, "planned");
    }
    drop(shard.keep(Rc::new(Doors(RefCell::default()))));
    let open = wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for listening in open {
        serve(&shard, &listening)?;
    }
    shard.stopping().await;
    Ok(())
}

struct Scene {
    world: World,
    host: Host,
    shards: usize,
    listeners: Listeners,
    running: Running<()>,
    wanted: Wanted,
    lives: Arc<AtomicUsize>,
    next_port: u16,
}

impl Scene {
    fn start(world: &World) -> anyhow::Result<Scene> {
        world.allow_panics();
        let host = world.host("paused");
        let shards = 2 + world.below(3) as usize;
        let steer = [Mode::Flow, Mode::Kernel, Mode::Least][world.below(3) as usize];
        let supervision = Supervision { pause: PAUSE, pause_most: PAUSE, ..Supervision::default() };
        let config = Config::default().cores(shards).steer(steer).steer_program(world.chance(0.5));
        let runtime = host.runtime_with(config.supervision(supervision).on_failure(OnFailure::Restart))?;
        let (wanted, counted) = (Wanted::default(), Arc::<AtomicUsize>::default());
        let (open, inside, listeners) = (wanted.clone(), counted.clone(), runtime.listeners());
        let running = host.start(runtime, move |shard| lives(shard, open.clone(), inside.clone()));
        let (world, lives) = (world.clone(), counted);
        Ok(Scene { world, host, shards, listeners, running, wanted, lives, next_port: FIRST_PORT })
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Vec<Listening>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that do not pause do this, and have done it.
    async fn on_others(&self, work: impl Fn(&Shard) + Clone + Send + 'static) -> anyhow::Result<()> {
        let done = Arc::<AtomicUsize>::default();
        for shard in (0..self.shards).filter(|shard| *shard != VICTIM) {
            let (work, done) = (work.clone(), done.clone());
            let asked = self.running.remote().try_run(ShardId::new(shard), move |shard| {
                work(shard);
                done.fetch_add(1, Relaxed);
            });
            ensure!(asked.is_ok(), "{asked:?}");
        }
        while done.load(Relaxed) < self.shards - 1 {
            self.world.sleep(Duration::from_micros(100)).await;
        }
        Ok(())
    }

    async fn bind(&mut self) -> anyhow::Result<()> {
        let endpoint: Endpoint = format!("tcp:{}", self.host.at(self.next_port)).parse()?;
        self.next_port += 1;
        let listening = self.listeners.listen(&endpoint, &ListenOptions::default())?;
        self.wanted().push(listening.clone());
        self.on_others(move |shard| serve(shard, &listening).expect("nobody has it")).await
    }

    /// Closes one; who comes later is refused.
    async fn close(&self) -> anyhow::Result<()> {
        let at = self.world.below(self.wanted().len() as u64) as usize;
        let listening = self.wanted().swap_remove(at);
        let to = listening.local().clone();
        self.listeners.close(&listening);
        drop(listening);
        let left = to.clone();
        self.on_others(move |shard| leave(shard, &left)).await?;
        self.world.sleep(CLOSED_WITHIN).await;
        let refused = self.world.shard().connect(&to, &ConnectOptions::default()).await;
        ensure!(refused.is_err(), "what is closed is kept open");
        Ok(())
    }

    /// Somebody answers at once, wherever one comes.
    async fn visit(&self) -> anyhow::Result<()> {
        let Some(to) = self.wanted().last().map(|listening| listening.local().clone()) else {
            return Ok(());
        };
        let asked = async {
            let mut connection = self.world.shard().connect(&to, &ConnectOptions::default()).await?;
            connection.write_all(b"x").await?;
            connection.read_exact(&mut [0]).await?;
            anyhow::Ok(connection.close().await?)
        };
        let asked = self.world.shard().timeout(Duration::from_secs(2), asked).await;
        asked.context("a client waits for the shard that pauses")?.context("a client is not served")
    }
}

async fn scene(world: World) -> anyhow::Result<()> {
    let mut scene = Scene::start(&world)?;
    scene.world.sleep(Duration::from_millis(100)).await;
    let over = Time::ZERO + (PAUSE - Duration::from_secs(2));
    while world.now() < over {
        match world.below(10) {
            0..3 => scene.bind().await?,
            3 if !scene.wanted().is_empty() => scene.close().await?,
            _ => scene.visit().await?,
        }
        world.sleep(Duration::from_micros(world.below(50_000))).await;
    }
    ensure!(scene.lives.load(Relaxed) == 2, "it did not pause");
    world.sleep(Duration::from_secs(4)).await;
    ensure!(scene.lives.load(Relaxed) == 3, "it is not back");
    for _ in 0..10 {
        scene.visit().await?;
    }
    let shards = scene.shards;
    scene.running.stop(Duration::from_secs(1));
    let ended = scene.running.await.context("the program")?;
    ensure!(ended.len() == shards, "{ended:?}");
    Ok(())
}

#[test]
fn what_is_bound_while_a_shard_pauses_is_served_and_what_is_closed_is_not() {
    Check::new().seeds(100).run(scene);
}
