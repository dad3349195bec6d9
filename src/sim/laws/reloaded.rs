//! The proxy's settings change again and again while clients come, listeners and names among them, some of them impossible,
//! and with shards that die in the midst: no connection is lost, each is served wholly by one version, and nothing is left
//! of those that are over. And a shard that waits for its restart holds none of it up.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join, join_all};
use waterwheel::net::Connection;
use waterwheel::proxy::tcp::{Change, ChangeError, Named, Proxy, Report, Settings, ShardReport, Upstream};
use waterwheel::reactor::{Address, ConnectOptions, ListenOptions};
use waterwheel::runtime::{Config, OnFailure, Supervision};
use waterwheel::shard::ShardId;
use waterwheel::sim::{Check, Host, Rule, Running, Verdict, World};
use waterwheel::steer::Mode;

use crate::started;

const SHARDS: usize = 3;
/// Where the proxy listens in every version.
const KEPT: u16 = 80;
/// Where it listens in some.
const SOMETIMES: u16 = 81;
/// Where somebody else listens.
const TAKEN: u16 = 82;
const ORIGIN: u16 = 7;
/// How long clients come.
const WORK: Duration = Duration::from_millis(1_500);
const CLIENTS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// Answers every byte with its own; where it is.
fn origin(world: &World, tag: u8) -> anyhow::Result<Address> {
    let host = world.host(&format!("origin{tag}"));
    let serve = move |mut connection: Connection| async move {
        let mut buffer = [0; 64];
        loop {
            match connection.read(&mut buffer).await? {
                0 => return Ok(connection.close().await?),
                count => connection.write_all(&vec![tag; count]).await?,
            }
        }
    };
    drop(started::server(&host, 1, &format!("tcp:{}", host.at(ORIGIN)), 1_000, serve)?);
    Ok(Address::Inet(host.at(ORIGIN)))
}

struct Scene {
    world: World,
    host: Host,
    proxy: Proxy,
    running: Running<ShardReport>,
    origins: Vec<Address>,
    /// The origins of the versions, from the first on, and whether the last of them is still on its way.
    tags: RefCell<Vec<u8>>,
    arrived: Cell<usize>,
    panics: bool,
}

/// What a version is like.
#[derive(Clone, Copy)]
struct Shape {
    ports: &'static [u16],
    places: usize,
    /// Of its proxy.
    name: &'static str,
    /// At the kept port it listens at all addresses.
    wide: bool,
    /// The other ports are another proxy's.
    split: bool,
}

const PLAIN: Shape = Shape { ports: &[KEPT], places: 1_000, name: "one", wide: false, split: false };

/// All connections of a version go to one origin, so that a client sees which version it is.
fn settings(host: &Host, origin: &Address, shape: Shape) -> Vec<Named> {
    let endpoint = |text: String| text.parse().expect("an endpoint");
    let at = |port: &u16| match *port {
        KEPT if shape.wide => endpoint(format!("tcp:0.0.0.0:{KEPT}")),
        port => endpoint(format!("tcp:{}", host.at(port))),
    };
    let proxy = |name: &str, ports: Vec<&u16>| {
        let listen = ports.into_iter().map(at).collect();
        let mut upstream = Upstream::new(endpoint(origin.to_string()));
        // Another limit in most versions, and never less than there are clients.
        upstream.connections = Some(CLIENTS + shape.places % 30);
        let settings = Settings::new(listen, Vec::new());
        let settings = Settings { connections: shape.places, upstreams: vec![upstream], ..settings };
        (Some(name.to_owned()), settings)
    };
    let (own, others) = shape.ports.iter().partition(|port| !shape.split || **port == KEPT);
    let second = if shape.name == "one" { "two" } else { "one" };
    let mut wanted = vec![proxy(shape.name, own)];
    if shape.ports.len() > 1 && shape.split {
        wanted.push(proxy(second, others));
    }
    wanted
}

impl Scene {
    fn start(world: &World) -> anyhow::Result<Scene> {
        let (host, panics) = (world.host("proxy"), world.chance(0.3));
        let origins = (0..3).map(|tag| origin(world, tag)).collect::<anyhow::Result<Vec<Address>>>()?;
        let pause = Duration::from_micros(world.below(3_000));
        let supervision =
            Supervision { restarts: 1_000, pause, pause_most: pause * 2, ..Supervision::default() };
        let steer = [Mode::Flow, Mode::Source, Mode::Kernel, Mode::Least][world.below(4) as usize];
        let config = Config::default().cores(SHARDS).steer(steer).steer_program(world.chance(0.5));
        Scene::run(world, host, origins, config.supervision(supervision), panics)
    }

    fn run(
        world: &World,
        host: Host,
        origins: Vec<Address>,
        config: Config,
        panics: bool,
    ) -> anyhow::Result<Scene> {
        let runtime = host.runtime_with(config.on_failure(OnFailure::Restart))?;
        let proxy = Proxy::bind_all(&runtime, settings(&host, &origins[0], PLAIN))?;
        let running = started::proxy(&host, runtime, &proxy);
        let (tags, arrived) = (RefCell::new(vec![0]), Cell::new(0));
        Ok(Scene { world: world.clone(), host, proxy, running, origins, tags, arrived, panics })
    }

    /// Makes a change real, asked for on one of the shards.
    async fn make(&self, change: Change) -> anyhow::Result<Result<u64, ChangeError>> {
        let (answer, proxy) = (Arc::new(Mutex::new(None)), self.proxy.clone());
        let told = answer.clone();
        let by = ShardId::new(self.world.below(SHARDS as u64) as usize);
        let asked = self.running.remote().try_run(by, move |shard| {
            let own = shard.clone();
            shard.spawn_detached("reload", async move {
                let result = proxy.change(&own, change).await;
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            });
        });
        ensure!(asked.is_ok() || self.panics, "{asked:?}");
        // With the job that came back, if it did.
        drop(asked);
        let until = self.world.now() + Duration::from_secs(20);
        loop {
            if let Some(result) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Ok(result);
            }
            // The shard that was asked has died.
            let alone = Arc::strong_count(&answer) == 1;
            if alone && self.panics {
                return Ok(Err(ChangeError::Ended));
            }
            ensure!(self.world.now() < until, "a change never ends");
            self.world.sleep(Duration::from_millis(1)).await;
        }
    }

    /// To another version, or one that cannot be.
    async fn reload(&self, origin: usize, shape: Shape) -> anyhow::Result<bool> {
        let (before, open, ports) = (self.proxy.version(), self.host.descriptors(), shape.ports);
        let wanted = settings(&self.host, &self.origins[origin], shape);
        let change = match self.proxy.prepare(wanted) {
            Ok(change) => change,
            Err(error) => {
                ensure!(ports.contains(&TAKEN), "a change that could be is refused: {error}");
                ensure!(error.to_string().contains("82"), "the port is not named: {error}");
                ensure!(self.proxy.version() == before, "a change that cannot be has an effect");
                ensure!(self.panics || self.host.descriptors() <= open + 40, "it leaves sockets");
                return Ok(false);
            }
        };
        ensure!(!ports.contains(&TAKEN), "a port that is taken is taken");
        self.tags.borrow_mut().push(origin as u8);
        match self.make(change).await? {
            Ok(number) => {
                ensure!(number == before + 1 && self.proxy.version() == number, "version {number}");
                self.arrived.set(self.tags.borrow().len() - 1);
                Ok(true)
            }
            Err(error) => {
                ensure!(self.panics, "a change that could be is not made: {error}");
                // A shard that died in the midst may have begun with it.
                Ok(false)
            }
        }
    }

    async fn client(&self) -> anyhow::Result<()> {
        let (world, until) = (&self.world, self.world.now() + WORK);
        while self.world.now() < until {
            let door = if world.chance(0.8) { KEPT } else { SOMETIMES };
            let since = self.arrived.get();
            match self.visit(door).await? {
                None => ensure!(self.panics || door == SOMETIMES, "a client at the kept port is lost"),
                Some(tag) => {
                    let tags = self.tags.borrow();
                    let fits = self.panics || tags[since..].contains(&tag);
                    ensure!(fits, "served by {tag}, of {tags:?} from {since} on");
                }
            }
            world.sleep(Duration::from_micros(world.below(60_000))).await;
        }
        Ok(())
    }

    /// Who answers, the same one to the end; `None`: nobody does.
    async fn visit(&self, door: u16) -> anyhow::Result<Option<u8>> {
        let to = Address::Inet(self.host.at(door));
        let shard = self.world.shard();
        let Ok(mut connection) = shard.connect(&to, &ConnectOptions::default()).await else {
            return Ok(None);
        };
        let mut first = None;
        for _ in 0..1 + self.world.below(4) {
            let mut answer = [0];
            let asked = async {
                connection.write_all(&[1]).await?;
                connection.read_exact(&mut answer).await
            };
            let asked = shard.timeout(PATIENCE, asked).await.context("a client is left to wait")?;
            if let Err(error) = asked {
                ensure!(first.is_none() || self.panics, "cut in the middle: {error}");
                return Ok(None);
            }
            let [tag] = answer;
            ensure!(*first.get_or_insert(tag) == tag, "served by {first:?} and then by {tag}");
            self.world.sleep(Duration::from_micros(self.world.below(30_000))).await;
        }
        let closed = connection.close().await;
        ensure!(closed.is_ok() || self.panics, "{closed:?}");
        Ok(first)
    }

    async fn reloads(&self) -> anyhow::Result<u32> {
        let (world, until, mut made) = (&self.world, self.world.now() + WORK, 0);
        while world.now() < until {
            let origin = world.below(3) as usize;
            let ports: &[u16] = [&[KEPT][..], &[SOMETIMES, KEPT], &[KEPT, TAKEN]][world.below(3) as usize];
            let places = SHARDS + world.below(40) as usize;
            let name = ["one", "two", "three"][world.below(3) as usize];
            let shape = Shape { ports, places, name, wide: world.chance(0.3), split: world.chance(0.5) };
            made += u32::from(self.reload(origin, shape).await?);
            // Longer than a port that was left stays bound, now and then.
            world.sleep(Duration::from_micros(world.below(300_000))).await;
        }
        Ok(made)
    }

    /// Descriptors, and tasks of each shard.
    async fn belongings(&self) -> (usize, Vec<(usize, u64)>) {
        let alive = Arc::new(Mutex::new(Vec::new()));
        for shard in (0..SHARDS).map(ShardId::new) {
            let alive = alive.clone();
            let asked = self.running.remote().try_run(shard, move |shard| {
                let mut alive = alive.lock().unwrap_or_else(PoisonError::into_inner);
                alive.push((shard.id().index(), shard.stats().alive));
            });
            drop(asked);
        }
        self.world.sleep(Duration::from_millis(400)).await;
        let mut alive = std::mem::take(&mut *alive.lock().unwrap_or_else(PoisonError::into_inner));
        alive.sort_unstable();
        (self.host.descriptors(), alive)
    }
}

/// The same descriptors and shards, and as many tasks in all: which shard keeps a limit differs. Four more for each may be
/// kept for what other shards ask of them at once; a limit that is left has eight at least.
fn is_no_more(after: &(usize, Vec<(usize, u64)>), before: &(usize, Vec<(usize, u64)>)) -> bool {
    let tasks = |all: &[(usize, u64)]| all.iter().map(|(_, tasks)| tasks).sum::<u64>();
    let is_alike = after.0 == before.0 && after.1.len() == before.1.len();
    is_alike && tasks(&after.1) <= tasks(&before.1) + 4 * SHARDS as u64
}

fn adds_up(report: &Report) -> anyhow::Result<()> {
    let total = &report.total;
    ensure!(total.accepted == total.finished, "{total:?}");
    let sum = |of: fn(&ShardReport) -> u64| report.shards.iter().map(of).sum::<u64>();
    let came = sum(|shard| shard.accepting.accepted + shard.accepting.taken_over);
    let went = sum(|shard| shard.accepting.handed_over + shard.accepting.dropped + shard.accepting.crowded);
    ensure!(came == went + total.accepted, "{came} came, {went} went, {} were served", total.accepted);
    ensure!(report.undelivered == 0, "{} were handed to nobody", report.undelivered);
    Ok(())
}

async fn scene(world: World) -> anyhow::Result<()> {
    let scene = Scene::start(&world)?;
    // Somebody else's port.
    let other = scene.host.runtime(1);
    let alone = ListenOptions { reuse_port: false, ..ListenOptions::default() };
    let _taken = other.listen_with(&format!("tcp:{}", scene.host.at(TAKEN)).parse()?, &alone)?;
    world.sleep(Duration::from_millis(50)).await;
    // So that what is made once is there.
    scene.reload(1, Shape { ports: &[KEPT, SOMETIMES], ..PLAIN }).await?;
    scene.reload(1, Shape { ports: &[KEPT, SOMETIMES], wide: true, split: true, ..PLAIN }).await?;
    scene.reload(0, PLAIN).await?;
    world.sleep(Duration::from_secs(3)).await;
    let before = scene.belongings().await;
    if scene.panics {
        world.allow_panics();
        let rule = Rule::new(Verdict::Panic).to(("proxy", world.below(SHARDS as u64) as usize)).with(0.002);
        world.rule(rule.at_most(1 + world.below(3)));
    }
    let clients = join_all((0..CLIENTS).map(|_| scene.client()));
    let (clients, reloads) = join(clients, scene.reloads()).await;
    clients.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    ensure!(reloads? > 0 || scene.panics, "nothing ever changed");
    world.end_rules();
    world.sleep(Duration::from_secs(3)).await;
    // Whatever happened, the next change comes, and to every shard.
    ensure!(scene.reload(0, PLAIN).await?, "the last change did not come");
    for _ in 0..8 {
        ensure!(scene.visit(KEPT).await? == Some(0), "not all shards know the last version");
    }
    world.sleep(Duration::from_secs(40)).await;
    let after = scene.belongings().await;
    ensure!(is_no_more(&after, &before) || scene.panics, "{after:?} is left, of {before:?}");
    scene.running.stop(Duration::from_secs(5));
    let panics = scene.panics;
    let reports = scene.running.await.context("the proxy")?;
    if panics { Ok(()) } else { adds_up(&scene.proxy.final_report(reports)) }
}

#[test]
fn settings_change_under_load_and_no_connection_is_lost() {
    Check::new().seeds(150).run(scene);
}

/// How long a shard waits for its restart after its second failure.
const PAUSE: Duration = Duration::from_secs(60);

/// A shard dies twice, so that it waits for its restart; the settings change meanwhile.
async fn in_a_pause(world: World) -> anyhow::Result<()> {
    world.allow_panics();
    let host = world.host("proxy");
    let origins = (0..2).map(|tag| origin(&world, tag)).collect::<anyhow::Result<Vec<Address>>>()?;
    let supervision = Supervision { pause: PAUSE, pause_most: PAUSE, ..Supervision::default() };
    let config = Config::default().cores(SHARDS).supervision(supervision);
    let scene = Scene::run(&world, host, origins, config, false)?;
    world.sleep(Duration::from_millis(50)).await;
    let victim = world.below(SHARDS as u64) as usize;
    world.rule(Rule::new(Verdict::Panic).to(("proxy", victim)).at_most(2));
    // So that it takes a turn.
    drop(scene.running.remote().try_run(ShardId::new(victim), |_| ()));
    world.sleep(Duration::from_secs(1)).await;
    let began = world.now();
    let change =
        scene.proxy.prepare(settings(&scene.host, &scene.origins[1], Shape { name: "two", ..PLAIN }))?;
    let made = scene.make(change).await?;
    ensure!(matches!(made, Ok(1)), "{made:?}");
    let took = world.now().since(began);
    ensure!(took < Duration::from_secs(1), "a shard in its pause holds a change up for {took:?}");
    for back in [false, true] {
        for _ in 0..12 {
            ensure!(scene.visit(KEPT).await? == Some(1), "served by what was before; it is back: {back}");
        }
        world.sleep(PAUSE).await;
    }
    scene.running.stop(Duration::from_secs(5));
    let reports = scene.running.await.context("the proxy")?;
    let versions: Vec<u64> = reports.iter().map(|report| report.version).collect();
    ensure!(versions == [1; SHARDS], "{versions:?}");
    Ok(())
}

#[test]
fn a_shard_that_waits_for_its_restart_holds_no_change_up() {
    Check::new().seeds(60).run(in_a_pause);
}
