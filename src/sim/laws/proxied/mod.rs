//! The TCP proxy under every fault: clients that send and ask for patterns, origins that answer in many ways, and what
//! must hold whatever the world does.
//!
//! * What an end receives is what the other sent, from the start and in order; a stream that ends in order was ended in
//!   order by who sent it, after all of it. Unless the proxy counted that it closed an idle or a late connection.
//! * Every connection comes to an end that both sides see, and nothing of it stays behind in the proxy.
//! * The counters add up, and agree with what clients and origins saw.
//! * A drain ends by its deadline. No more connections are served at once than were allowed.

mod client;
mod faults;
mod ledger;
mod origin;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::proxy::tcp::{Balance, Counters, Proxy, Report, Settings, ShardReport};
use waterwheel::runtime::Config;
use waterwheel::shard::ShardId;
use waterwheel::sim::{Check, Host, Running, World};
use waterwheel::steer::Mode;

use crate::started;
use client::Manners;
use faults::Faults;
use ledger::Ledger;

/// Clients of one world.
const CLIENTS: u32 = 20;
const SHARDS: usize = 4;
const PROXY_PORT: u16 = 8080;
const ORIGIN_PORT: u16 = 80;
/// Nothing in the world waits longer for anything: 924 s until a silent peer is given up, 127 s for a connect, and the
/// longest linger.
const PATIENCE: Duration = Duration::from_secs(2_500);

/// What one world tries.
struct Scene {
    world: World,
    proxy: Host,
    settings: Settings,
    ledger: Ledger,
    /// Stop in the midst of it, after so long.
    stops_after: Option<Duration>,
    drain: Duration,
    steer: Mode,
    /// Where clients connect: at one port or two, over IPv4 and IPv6.
    doors: Vec<SocketAddr>,
    /// Bursts come as a rule when the proxy stops.
    manners: Manners,
}

impl Scene {
    fn new(world: &World) -> Scene {
        let (proxy, ledger) = (world.host("proxy"), Ledger::default());
        let origins = (1..=1 + world.below(3)).map(|number| {
            let origin = world.host(&format!("origin{number}"));
            origin::start(&origin, &ledger);
            origin
        });
        let origins: Vec<Host> = origins.collect();
        let endpoint = |text: String| text.parse().expect("an endpoint");
        let mut doors = vec![proxy.at(PROXY_PORT)];
        if world.chance(0.3) {
            let six = proxy.ips().into_iter().find(IpAddr::is_ipv6).unwrap_or(proxy.ip());
            doors.push(SocketAddr::new(six, PROXY_PORT + 1));
        }
        let listen = doors.iter().map(|door| endpoint(format!("tcp:{door}"))).collect();
        let upstreams = origins.iter().map(|origin| endpoint(format!("tcp:{}:{ORIGIN_PORT}", origin.name())));
        let mut settings = Settings::new(listen, upstreams.collect());
        settings.idle_timeout = match world.below(3) {
            0 => None,
            1 => Some(Duration::from_secs(1 + world.below(20))),
            _ => Some(Duration::from_secs(900)),
        };
        settings.connect_timeout = Duration::from_millis(200 + world.below(6_000));
        settings.retries = world.below(3) as usize;
        settings.balance = Balance::ALL[world.below(4) as usize];
        if world.chance(0.3) {
            settings.connections = SHARDS + world.below(12) as usize;
        }
        // Now and then a world in which nothing can go wrong, so that everything has to come whole.
        let whole = world.chance(0.2);
        if whole {
            (settings.idle_timeout, settings.connections) = (None, 100_000);
            settings.connect_timeout = Duration::from_secs(60);
        }
        let stops_after =
            (world.chance(0.3) && !whole).then(|| Duration::from_micros(world.below(3_000_000)));
        let drain = Duration::from_millis(100 + world.below(5_000));
        let burst = world.chance(0.3).then(|| {
            let lead = Duration::from_micros(world.below(6_000));
            stops_after.map_or(lead, |after| after.saturating_sub(lead))
        });
        let steer =
            [Mode::Flow, Mode::Flow, Mode::Source, Mode::Kernel, Mode::Least][world.below(5) as usize];
        if world.chance(0.15) && !whole {
            settings.total_timeout = Some(Duration::from_millis(500 + world.below(20_000)));
        }
        let manners = Manners { burst, whole };
        Scene { world: world.clone(), proxy, settings, ledger, stops_after, drain, steer, doors, manners }
    }

    /// Starts the proxy.
    fn start(&self) -> anyhow::Result<(Proxy, Running<ShardReport>)> {
        let runtime = self.proxy.runtime_with(Config::default().cores(SHARDS).steer(self.steer))?;
        let proxy = Proxy::bind(&runtime, self.settings.clone())?;
        let running = started::proxy(&self.proxy, runtime, &proxy);
        Ok((proxy, running))
    }

    /// Client connections that the proxy serves at the moment.
    fn served(&self) -> usize {
        let from_clients =
            |at: &waterwheel::reactor::Address| at.inet().is_some_and(|at| self.doors.contains(&at));
        let all = self.proxy.connections();
        all.iter().filter(|one| one.shard.is_some() && from_clients(&one.local)).count()
    }

    /// Looks for a while whether the limit holds.
    async fn watch(&self) -> anyhow::Result<()> {
        let until = self.world.now() + Duration::from_secs(4);
        while self.world.now() < until {
            let served = self.served();
            ensure!(served <= self.settings.connections, "{served} connections are served at once");
            self.world.sleep(Duration::from_millis(7)).await;
        }
        Ok(())
    }

    /// What the proxy has open and alive: descriptors, and tasks of each shard.
    async fn belongings(&self, running: &Running<ShardReport>) -> (usize, Vec<(usize, u64)>) {
        let alive = Arc::new(Mutex::new(Vec::new()));
        for shard in 0..SHARDS {
            let alive = alive.clone();
            // A shard that has panicked says nothing.
            let _ = running.remote().try_run(ShardId::new(shard), move |shard| {
                let tasks = (shard.id().index(), shard.stats().alive);
                alive.lock().unwrap_or_else(PoisonError::into_inner).push(tasks);
            });
        }
        self.world.sleep(Duration::from_millis(400)).await;
        let mut alive = std::mem::take(&mut *alive.lock().unwrap_or_else(PoisonError::into_inner));
        alive.sort_unstable();
        (self.proxy.descriptors(), alive)
    }

    /// What the last client's end leaves in the proxy goes by itself: soon, unless somebody fell silent.
    async fn nothing_stays(
        &self,
        before: &(usize, Vec<(usize, u64)>),
        running: &Running<ShardReport>,
        faults: Faults,
    ) -> anyhow::Result<()> {
        // The longest linger, a stall, and some.
        let soon = Duration::from_secs(90);
        let until = self.world.now() + if faults.silent { PATIENCE } else { soon };
        loop {
            let (left, after) = (self.proxy.connections(), self.belongings(running).await);
            if left.is_empty() && (after == *before || faults.panics) {
                return Ok(());
            }
            let wrong = format!("{left:?}, {after:?} instead of {before:?}");
            ensure!(self.world.now() < until, "the proxy keeps what nobody has: {wrong}");
            self.world.sleep(Duration::from_secs(1)).await;
        }
    }

    /// Stops the proxy and answers what it counted, also where a shard of it `panics`.
    async fn stop(
        &self,
        proxy: &Proxy,
        mut running: Running<ShardReport>,
        faults: Faults,
    ) -> anyhow::Result<Report> {
        let asked = self.world.now();
        running.stop(self.drain);
        let result = (&mut running).await;
        let took = self.world.now().since(asked);
        // Late by some late wakes and alarms, and by a few of the slowest turns if a rule makes them slow.
        let slack = if faults.slow { Duration::from_secs(2) } else { Duration::from_millis(50) };
        let late = self.drain + slack;
        ensure!(took <= late, "a drain of {:?} took {took:?}", self.drain);
        let report = match result {
            Ok(reports) => proxy.final_report(reports),
            // Every shard has ended, so nobody is waited for.
            Err(_) if faults.panics => proxy.report(running.remote(), SHARDS),
            Err(error) => return Err(error).context("the proxy did not end well"),
        };
        let early = faults.panics || report.total.cut_short == 0 || took >= self.drain;
        ensure!(early, "{} were cut short after {took:?} of {:?}", report.total.cut_short, self.drain);
        Ok(report)
    }
}

/// Ways to end, which together with those that still run make up all that were accepted.
fn ends(total: &Counters) -> u64 {
    let Counters { finished, idle_closed, client_broke, upstream_broke, .. } = total;
    let Counters { no_upstream, no_place, shortage, panicked, cut_short, .. } = total;
    let first_bytes = total.refused + total.no_route;
    let clients = total.too_many + total.too_often;
    let ours =
        no_upstream + no_place + shortage + panicked + cut_short + first_bytes + clients + total.expired;
    finished + idle_closed + client_broke + upstream_broke + ours
}

fn adds_up(report: &Report, ledger: &Ledger) -> anyhow::Result<()> {
    let total = &report.total;
    ensure!(total.active == 0, "{} are active after the end", total.active);
    ensure!(total.accepted == ends(total), "{} accepted, {} ended: {total:?}", total.accepted, ends(total));
    let leased: u64 =
        report.shards.iter().flat_map(|shard| &shard.upstreams).map(|upstream| upstream.active).sum();
    ensure!(
        leased == 0 || total.cut_short > 0,
        "{leased} connections to upstreams count as active after the end"
    );
    let sum = |of: fn(&ShardReport) -> u64| report.shards.iter().map(of).sum::<u64>();
    let (came, went) = (
        sum(|shard| shard.accepting.accepted + shard.accepting.taken_over),
        sum(|shard| {
            let one = &shard.accepting;
            one.handed_over + one.crowded + one.dropped + one.adopt_failed
        }),
    );
    ensure!(came == went + total.accepted, "{came} came, {went} went, {} were served", total.accepted);
    let (handed, taken) = (sum(|shard| shard.accepting.handed_over), sum(|shard| shard.accepting.taken_over));
    ensure!(
        handed == taken + report.undelivered,
        "{handed} handed over, {taken} taken, {} undelivered",
        report.undelivered
    );
    let ((up, down), (got_up, got_down)) = (ledger.sent(), ledger.got());
    ensure!(total.bytes_up <= up, "{} bytes went up of {up} sent", total.bytes_up);
    ensure!(total.bytes_down <= down, "{} bytes went down of {down} sent", total.bytes_down);
    ensure!(total.bytes_up >= got_up, "{} bytes went up, {got_up} came", total.bytes_up);
    ensure!(total.bytes_down >= got_down, "{} bytes went down, {got_down} came", total.bytes_down);
    ensure!(
        report.shards.iter().all(|shard| shard.tasks.panics == 0 || total.panicked > 0),
        "a task panicked"
    );
    Ok(())
}

pub(crate) async fn scene(world: World) -> anyhow::Result<()> {
    let scene = Scene::new(&world);
    let (proxy, running) = scene.start()?;
    // Once its shards have begun.
    world.sleep(Duration::from_millis(100)).await;
    let before = scene.belongings(&running).await;
    let faults = if scene.manners.whole { Faults::default() } else { faults::draw(&world, &scene.proxy) };
    let clients = world.host("clients");
    let clients = client::start(&clients, scene.doors.clone(), &scene.ledger, scene.manners);
    let watched = scene.watch();
    let report = match scene.stops_after {
        Some(after) => {
            world.sleep(after).await;
            let report = scene.stop(&proxy, running, faults).await?;
            clients.await.context("clients")?;
            report
        }
        None => {
            let (watched, clients) = futures_util::future::join(watched, clients).await;
            watched?;
            clients.context("clients")?;
            scene.nothing_stays(&before, &running, faults).await?;
            scene.stop(&proxy, running, faults).await?
        }
    };
    // Each connection that the proxy closed by itself may have looked whole to its client and to its origin.
    scene.ledger.check(report.total.idle_closed + report.total.cut_short)?;
    adds_up(&report, &scene.ledger)?;
    causes(&scene, &report.total, faults)
}

/// Where nothing but the clients and origins themselves can break a connection, nothing else did.
fn causes(scene: &Scene, total: &Counters, faults: Faults) -> anyhow::Result<()> {
    if faults.any || scene.stops_after.is_some() || total.idle_closed + total.expired > 0 {
        return Ok(());
    }
    let (resets, aborts) = scene.ledger.resetting();
    ensure!(total.accepted == u64::from(CLIENTS), "{} of {CLIENTS} were accepted", total.accepted);
    ensure!(total.no_upstream + total.shortage + total.cut_short == 0, "without a fault: {total:?}");
    ensure!(total.client_broke <= aborts, "{aborts} clients reset: {total:?}");
    ensure!(total.finished + resets <= u64::from(CLIENTS), "{resets} origins reset: {total:?}");
    if scene.manners.whole {
        let (up, down) = scene.ledger.sent();
        ensure!(total.finished == u64::from(CLIENTS) && scene.ledger.whole() == CLIENTS, "{total:?}");
        ensure!((total.bytes_up, total.bytes_down) == (up, down), "{up} and {down} were sent: {total:?}");
    }
    Ok(())
}

/// `WATERWHEEL_SEEDS=10000 cargo test --release --test simulation the_proxy_keeps_its_promises`
#[test]
fn the_proxy_keeps_its_promises_under_every_fault() {
    Check::new().seeds(500).run(scene);
}
