//! Upstreams that die and come back, under load, while shards of the proxy may die too.
//!
//! * What has died is connected to by nobody, once the checks have had their time; and is again when it is back.
//! * Meanwhile every client is served, where there is no limit that would keep it.
//! * No more connections than its limit go to an upstream, over all shards; no more of them are ejected than may be.
//! * Retries keep to their budget, whatever fails.
//! * A shard that was restarted knows what the others know.
//! * At the end nothing of it is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use waterwheel::net::{Connection, Endpoint};
use waterwheel::proxy::tcp::{
    Balance, Checks, Ejection, Proxy, RetryBudget, Settings, ShardReport, Upstream, UpstreamState,
};
use waterwheel::reactor::{Address, ConnectOptions, Time};
use waterwheel::runtime::{Config, OnFailure, Supervision};
use waterwheel::shard::{Shard, ShardId};
use waterwheel::sim::{Check, Host, Random, Rule, Running, Verdict, World};

use crate::started;

const SHARDS: usize = 3;
const CLIENTS: u64 = 9;
const PORT: u16 = 80;
/// Longer than anything here may take: a world that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// More than messages, turns and ways take in a world.
const SLACK: Duration = Duration::from_millis(400);

/// What a client saw: when it began, and whether it was served.
type Visits = Arc<Mutex<Vec<(Time, bool)>>>;
/// The last report of each shard.
type Reports = Arc<Mutex<BTreeMap<usize, ShardReport>>>;

fn locked<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends back what it gets.
async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut buffer = [0; 64];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(connection.close().await?),
            count => connection.write_all(&buffer[..count]).await?,
        }
    }
}

struct Scene {
    world: World,
    proxy: Host,
    origins: Vec<Host>,
    settings: Settings,
    checks: Checks,
    /// Which of them dies, or all.
    dying: Option<usize>,
    dies: Duration,
    returns: Duration,
    over: Duration,
    /// When a shard of the proxy dies, if one does.
    panics: Option<Duration>,
    /// It stays dead, and with it the places that it kept count of.
    for_good: bool,
    /// When everybody has to know what died.
    known: Duration,
    visits: Visits,
    reports: Reports,
}

impl Scene {
    fn new(world: &World) -> anyhow::Result<Scene> {
        let proxy = world.host("proxy");
        let origins: Vec<Host> =
            (1..=2 + world.below(3)).map(|n| world.host(&format!("origin{n}"))).collect();
        for origin in &origins {
            drop(started::server(origin, 1, &format!("tcp:{}", origin.at(PORT)), 1_000, echo)?);
        }
        let listen: Endpoint = format!("tcp:{}", proxy.at(PORT)).parse()?;
        let checks = draw_checks(world);
        let settings = draw_settings(world, listen, &origins, &checks)?;
        let dying = world.chance(0.8).then(|| world.below(origins.len() as u64) as usize);
        let dies = millis(world, 300, 1_000);
        // Before that is known, so that another shard has to find it out, or the same one again.
        let found = latency(&checks, checks.fall);
        let panics = world.chance(0.5).then(|| millis(world, 50, 1_000).min(dies + found / 2));
        let for_good = panics.is_some() && world.chance(0.4);
        let known = dies + found * if panics.is_some() { 2 } else { 1 };
        let returns = known + millis(world, 500, 1_500);
        // One whose last attempt failed, begun before it was back, comes behind the others for 5 s.
        let over = returns + latency(&checks, checks.rise) + Duration::from_secs(6);
        let (visits, reports) = Default::default();
        let (world, proxy) = (world.clone(), proxy.clone());
        Ok(Scene {
            world,
            proxy,
            origins,
            settings,
            checks,
            dying,
            dies,
            returns,
            over,
            panics,
            for_good,
            known,
            visits,
            reports,
        })
    }

    /// Refuses all connects to those who die, or lets them wait in vain.
    fn kill(&self) {
        let refuse = self.world.chance(0.5);
        for (place, origin) in self.origins.iter().enumerate() {
            if self.dying.is_none_or(|dying| dying == place) {
                let verdict = if refuse { Verdict::Refuse } else { Verdict::Lose };
                self.world.rule(Rule::new(verdict).to(&*origin.name()).between(self.dies..=self.returns));
            }
        }
    }

    fn start(&self) -> anyhow::Result<(Proxy, Running<ShardReport>)> {
        let supervision = Supervision { pause: Duration::from_millis(1), ..Supervision::default() };
        let policy = if self.for_good { OnFailure::Ignore } else { OnFailure::Restart };
        let config = Config::default().cores(SHARDS).on_failure(policy).supervision(supervision);
        let runtime = self.proxy.runtime_with(config)?;
        let proxy = Proxy::bind(&runtime, self.settings.clone())?;
        let running = started::proxy(&self.proxy, runtime, &proxy);
        Ok((proxy, running))
    }

    /// What all shards count at this moment, or a little later.
    async fn look(
        &self,
        proxy: &Proxy,
        running: &Running<ShardReport>,
    ) -> anyhow::Result<BTreeMap<usize, ShardReport>> {
        locked(&self.reports).clear();
        for shard in 0..SHARDS {
            let (proxy, reports) = (proxy.clone(), self.reports.clone());
            // One that is dead at the moment says nothing.
            let _ = running.remote().try_run(ShardId::new(shard), move |shard| {
                if let Some(report) = proxy.shard_report(shard) {
                    locked(&reports).insert(report.shard, report);
                }
            });
        }
        for _ in 0..10 {
            self.world.sleep(Duration::from_millis(2)).await;
            self.limits_hold()?;
        }
        let reports = locked(&self.reports).clone();
        self.limits_hold()?;
        for report in reports.values() {
            let ejected = report.upstreams.iter().filter(|one| one.state == UpstreamState::Ejected).count();
            let most = self.settings.ejection.as_ref().map_or(0, |it| it.max_ejected_percent as usize);
            ensure!(
                ejected * 100 <= most * report.upstreams.len(),
                "{ejected} are ejected, {most} percent may be"
            );
        }
        Ok(reports)
    }

    /// No more connections than may be go to an upstream at this very moment, but for checks: two, if a shard takes over.
    fn limits_hold(&self) -> anyhow::Result<()> {
        let all = self.proxy.connections();
        for (upstream, origin) in self.settings.upstreams.iter().zip(&self.origins) {
            let to = Address::Inet(origin.at(PORT));
            let open = all.iter().filter(|one| one.peer == to && one.shard.is_some()).count();
            let most = upstream.connections.unwrap_or(usize::MAX - 2);
            ensure!(open <= most + 2, "{open} connections to an upstream that takes {most}");
        }
        Ok(())
    }

    /// Looks until then.
    async fn watch(
        &self,
        proxy: &Proxy,
        running: &Running<ShardReport>,
        until: Duration,
    ) -> anyhow::Result<BTreeMap<usize, ShardReport>> {
        loop {
            let reports = self.look(proxy, running).await?;
            if self.world.now() >= Time::ZERO + until {
                return Ok(reports);
            }
        }
    }

    /// Retries of one life of a shard, in all the time that there was.
    fn keeps_to_the_budget(&self, report: &ShardReport) -> anyhow::Result<()> {
        let Some(RetryBudget { percent, per_second }) = self.settings.retry_budget else { return Ok(()) };
        let part = if per_second == 0 { 0.0 } else { (f64::from(per_second) / SHARDS as f64).max(1.0) };
        let rate = f64::from(percent) / 100.0 * CLIENTS as f64 + part;
        let most = rate.max(1.0) + rate * self.world.now().since(Time::ZERO).as_secs_f64();
        let retries = report.counters.retries as f64;
        ensure!(retries <= most, "{retries} retries, {most} allowed");
        Ok(())
    }

    /// Nobody was turned away who came in this time, if nothing but the dead could turn them away.
    fn all_were_served(&self, from: Duration, until: Duration) -> anyhow::Result<()> {
        let unlimited = self.settings.upstreams.iter().all(|upstream| upstream.connections.is_none());
        let visits = locked(&self.visits);
        let of = Time::ZERO + from..Time::ZERO + until;
        let lost = visits.iter().filter(|(began, served)| of.contains(began) && !served).count();
        ensure!(lost == 0 || !unlimited, "{lost} were not served although the checks had found the dead");
        Ok(())
    }
}

fn draw_settings(
    world: &World,
    listen: Endpoint,
    origins: &[Host],
    checks: &Checks,
) -> anyhow::Result<Settings> {
    let mut settings = Settings::new(vec![listen], Vec::new());
    for origin in origins {
        let mut upstream = Upstream::new(format!("tcp:{}", origin.at(PORT)).parse()?);
        upstream.weight = 1 + world.below(4) as u32;
        upstream.connections = world.chance(0.3).then(|| 1 + world.below(8) as usize);
        settings.upstreams.push(upstream);
    }
    settings.balance = Balance::ALL[world.below(4) as usize];
    settings.connect_timeout = millis(world, 100, 400);
    settings.queue_timeout = millis(world, 0, 1_000);
    settings.queue_length = world.below(20) as usize;
    settings.slow_start = world.chance(0.3).then(|| millis(world, 1, 1_000));
    settings.retry_budget = Some(RetryBudget {
        percent: if world.chance(0.5) { 0 } else { 20 },
        per_second: world.below(30) as u32,
    });
    settings.ejection = world.chance(0.5).then(|| Ejection {
        failures: 1 + world.below(4) as u32,
        time: millis(world, 100, 1_000),
        time_max: Duration::from_secs(1),
        max_ejected_percent: world.below(101) as u32,
    });
    settings.checks = Some(checks.clone());
    Ok(settings)
}

fn draw_checks(world: &World) -> Checks {
    let checks = Checks {
        interval: millis(world, 100, 400),
        fast_interval: millis(world, 20, 100),
        // The slowest network takes 20 ms one way, and four of them are gone.
        timeout: millis(world, 200, 300),
        rise: 1 + world.below(3) as u32,
        fall: 1 + world.below(3) as u32,
        send: if world.chance(0.5) { b"to and fro".to_vec() } else { Vec::new() },
        ..Checks::default()
    };
    Checks { expect: checks.send.clone(), ..checks }
}

fn millis(world: &World, least: u64, most: u64) -> Duration {
    Duration::from_micros(least * 1_000 + world.below((most - least) * 1_000 + 1))
}

/// The longest that it may take until so many checks in a row have turned what is believed.
fn latency(checks: &Checks, count: u32) -> Duration {
    let fast = (checks.fast_interval * 11 / 10).max(checks.timeout);
    checks.interval * 11 / 10 + checks.timeout + fast * count + checks.timeout + SLACK
}

fn failed(reports: &BTreeMap<usize, ShardReport>, place: usize) -> Vec<u64> {
    reports.values().map(|report| report.upstreams[place].failed).collect()
}

fn connected(reports: &BTreeMap<usize, ShardReport>, place: usize) -> u64 {
    reports.values().map(|report| report.upstreams[place].connected).sum()
}

/// Comes again and again until the end.
async fn comes(shard: Shard, to: Address, until: Time, visits: Visits, mut rng: Random) {
    while shard.now() < until {
        let began = shard.now();
        let hold = Duration::from_micros(rng.below(60_000));
        let visit = async {
            let mut connection = shard.connect(&to, &ConnectOptions::default()).await?;
            connection.write_all(b"ping").await?;
            let mut back = [0; 4];
            connection.read_exact(&mut back).await?;
            shard.sleep(hold).await;
            connection.close().await
        };
        let served = matches!(shard.timeout(Duration::from_secs(60), visit).await, Ok(Ok(())));
        locked(&visits).push((began, served));
        shard.sleep(Duration::from_micros(rng.below(40_000))).await;
    }
}

fn load(scene: &Scene, to: &Address) -> Running<()> {
    let host = scene.world.host("clients");
    let (to, visits, until) = (to.clone(), scene.visits.clone(), Time::ZERO + scene.over);
    let seed = scene.world.number();
    host.start(host.runtime(1), move |shard| {
        let clients = (0..CLIENTS).map(|number| {
            comes(shard.clone(), to.clone(), until, visits.clone(), Random::new(seed ^ number))
        });
        let clients = join_all(clients.collect::<Vec<_>>());
        async move {
            clients.await;
            Ok(())
        }
    })
}

async fn scene(world: World) -> anyhow::Result<()> {
    let scene = Scene::new(&world)?;
    scene.kill();
    if let Some(when) = scene.panics {
        world.allow_panics();
        let mortal = world.below(SHARDS as u64) as usize;
        let rule = Rule::new(Verdict::Panic).to(("proxy", mortal)).at_most(1);
        world.rule(rule.between(when..=when + Duration::from_millis(200)));
    }
    let (proxy, running) = scene.start()?;
    let clients = load(&scene, &proxy.local()[0]);
    scene.watch(&proxy, &running, scene.known).await?;
    let settled = scene.look(&proxy, &running).await?;
    let quiet_from = world.now().since(Time::ZERO);
    let before =
        scene.watch(&proxy, &running, scene.returns.saturating_sub(Duration::from_millis(25))).await?;
    if let Some(dying) = scene.dying.filter(|_| world.now() < Time::ZERO + scene.returns) {
        let alive = SHARDS - usize::from(scene.for_good);
        ensure!(before.len() >= alive && settled.len() == before.len(), "a shard is not back");
        let (then, now) = (failed(&settled, dying), failed(&before, dying));
        ensure!(then == now, "somebody still connects to what has died: {then:?}, then {now:?}");
        let states: Vec<_> = before.values().map(|report| report.upstreams[dying].state).collect();
        ensure!(states.iter().all(|state| *state == UpstreamState::Down), "{states:?}");
        scene.all_were_served(quiet_from, scene.returns.saturating_sub(SLACK))?;
    }
    let up = scene.returns + latency(&scene.checks, scene.checks.rise);
    let back = scene.watch(&proxy, &running, up).await?;
    clients.await.context("clients")?;
    let last = scene.look(&proxy, &running).await?;
    for place in 0..scene.origins.len() {
        // A client's address decides where it goes, and all of them have the same.
        let (then, now) = (connected(&back, place), connected(&last, place));
        let limited = scene.settings.upstreams[place].connections.is_some();
        let awaited = scene.settings.balance != Balance::Rendezvous && !(scene.for_good && limited);
        ensure!(now > then || !awaited, "nobody connects to {place}, which is back: {now}");
        let states: Vec<_> = last.values().map(|report| report.upstreams[place].state).collect();
        let seen: Vec<_> = last.values().map(|report| &report.upstreams[place]).collect();
        ensure!(!states.contains(&UpstreamState::Down), "{place} is still down: {seen:?}");
    }
    world.sleep(Duration::from_secs(5)).await;
    running.stop(Duration::from_secs(5));
    let ended = world.shard().timeout(PATIENCE, running).await.context("the proxy hangs")?;
    if scene.for_good {
        return Ok(());
    }
    let reports = ended?;
    for report in &reports {
        scene.keeps_to_the_budget(report)?;
        let left: u64 = report.upstreams.iter().map(|one| one.active).sum();
        ensure!(left == 0, "{left} connections to upstreams count as active after the end");
    }
    Ok(())
}

#[test]
fn what_dies_is_left_alone_and_what_is_back_is_used() {
    Check::new().seeds(15).run(scene);
}
