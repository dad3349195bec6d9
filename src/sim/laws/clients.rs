//! What the proxy lets each client and each connection have, in virtual time: never more connections than may be, over all
//! shards, whatever the steering; all of it again when they are gone, also where shards died; rates, bytes per second and
//! total times that hold.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use waterwheel::net::Connection;
use waterwheel::net::proxy_header::{HeaderPolicy, Wanted};
use waterwheel::proxy::tcp::{ClientLimits, ClientRate, Proxy, Report, Settings, ShardReport, Throttle};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::{Config, OnFailure, Supervision};
use waterwheel::sim::{Check, Options, Rule, Running, Verdict, World};
use waterwheel::steer::Mode;

const SHARDS: usize = 4;
const CLIENTS: usize = 3;
const SECOND: Duration = Duration::from_secs(1);
/// What turns, alarms and the wire may add to a moment in a drawn world.
const SLACK: Duration = Duration::from_millis(500);

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut buffer = [0; 4_096];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(connection.close().await?),
            count => connection.write_all(&buffer[..count]).await?,
        }
    }
}

struct Site {
    world: World,
    proxy: Proxy,
    running: Running<ShardReport>,
    at: Address,
}

impl Site {
    /// A proxy with an echo behind it.
    async fn start(
        world: &World,
        config: Config,
        change: impl FnOnce(&mut Settings),
    ) -> anyhow::Result<Site> {
        let origin = world.host("origin");
        let runtime = origin.runtime(1);
        let listening = runtime.listen("tcp:0.0.0.0:80")?;
        drop(origin.start(runtime, move |shard| {
            let listening = listening.clone();
            async move {
                shard.accept_on(&listening)?.serve(100_000, echo).await;
                Ok(())
            }
        }));
        let host = world.host("proxy");
        let at = Address::Inet(host.at(443));
        let endpoint = |at: &Address| at.to_string().parse();
        let mut settings =
            Settings::new(vec![endpoint(&at)?], vec![endpoint(&Address::Inet(origin.at(80)))?]);
        change(&mut settings);
        let runtime = host.runtime_with(config.cores(SHARDS))?;
        let proxy = Proxy::bind(&runtime, settings)?;
        let serving = proxy.clone();
        let running = host.start(runtime, move |shard| {
            let serving = serving.clone();
            async move { serving.serve(&shard).await }
        });
        world.sleep(Duration::from_millis(50)).await;
        Ok(Site { world: world.clone(), proxy, running, at })
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        self.world.shard().connect(&self.at, &ConnectOptions::default()).await
    }

    /// A connection of one of the clients, by its header, if it is served.
    async fn visit(&self, client: usize) -> Option<Connection> {
        let mut connection = self.connect().await.ok()?;
        let line = format!("PROXY TCP4 192.0.2.{client} 192.0.2.9 1 2\r\n?");
        connection.write_all(line.as_bytes()).await.ok()?;
        connection.read_exact(&mut [0]).await.ok()?;
        Some(connection)
    }

    async fn stop(self) -> anyhow::Result<Report> {
        self.running.stop(Duration::from_secs(5));
        Ok(self.proxy.final_report(self.running.await?))
    }
}

fn believing(settings: &mut Settings) {
    let all = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
    settings.header = Some(HeaderPolicy::new(Wanted::Require, all.into()));
}

/// One client: comes and goes.
async fn client(site: &Site, number: usize, most: usize, dies: bool) -> anyhow::Result<()> {
    let (world, held, late) = (&site.world, RefCell::new(Vec::new()), Cell::new(0));
    let until = world.now() + SECOND;
    let visitor = async || {
        while world.now() < until {
            if let Some(connection) = site.visit(number).await {
                held.borrow_mut().push(connection);
                let count = held.borrow().len();
                ensure!(dies || count <= most, "client {number} has {count} of {most}");
            } else {
                late.set(late.get() + 1);
            }
            let gone = match held.borrow().len() as u64 {
                0 => None,
                count if world.chance(0.4) => Some(world.below(count) as usize),
                _ => None,
            };
            let gone = gone.map(|place| held.borrow_mut().swap_remove(place));
            drop(gone);
            world.sleep(Duration::from_micros(world.below(40_000))).await;
        }
        Ok(())
    };
    let came = join_all((0..3).map(|_| visitor())).await;
    came.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    Ok(())
}

async fn crowds(world: World) -> anyhow::Result<()> {
    world.allow_panics();
    let most = 1 + world.below(6) as usize;
    let pause = Duration::from_micros(world.below(3_000));
    let supervision = Supervision { restarts: 1_000, pause, pause_most: pause * 2, ..Supervision::default() };
    let steer = [Mode::Flow, Mode::Source, Mode::Kernel, Mode::Least][world.below(4) as usize];
    let config = Config::default().steer(steer).steer_program(world.chance(0.5));
    let config = config.on_failure(OnFailure::Restart).supervision(supervision);
    let site = Site::start(&world, config, |settings| {
        believing(settings);
        settings.clients = ClientLimits { connections: Some(most as u32), ..ClientLimits::default() };
    })
    .await?;
    let dies = world.chance(0.5);
    let now = world.now().since(waterwheel::reactor::Time::ZERO);
    for dying in (0..SHARDS).filter(|_| dies) {
        let rule = Rule::new(Verdict::Panic).to(("proxy", dying)).with(0.01);
        world.rule(rule.at_most(1 + world.below(3)).between(now..=now + SECOND / 2));
    }
    let came = join_all((1..=CLIENTS).map(|number| client(&site, number, most, dies))).await;
    came.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    world.end_rules();
    // Whatever lingers has ended, and what came back is known.
    world.sleep(Duration::from_secs(30)).await;
    for number in 1..=CLIENTS {
        let mut held = Vec::new();
        for place in 0..most {
            held.push(site.visit(number).await.with_context(|| format!("place {place} of {most} is lost"))?);
        }
        ensure!(site.visit(number).await.is_none(), "client {number} has more than {most}");
        drop(held);
    }
    // A client that died with its shard never ended.
    let report = site.stop().await?;
    ensure!(dies || report.total.too_many >= CLIENTS as u64, "{:?}", report.total);
    Ok(())
}

async fn rates(world: World) -> anyhow::Result<()> {
    let (count, burst) = (2 + world.below(30) as u32, 1 + world.below(8) as u32);
    let site = Site::start(&world, Config::default(), |settings| {
        believing(settings);
        let rate = ClientRate { connections: count, per: SECOND, burst };
        settings.clients = ClientLimits { rate: Some(rate), ..ClientLimits::default() };
    })
    .await?;
    let (began, served) = (world.now(), Cell::new(0));
    let visitor = async || {
        while world.now().since(began) < SECOND * 5 {
            if site.visit(1).await.is_some() {
                served.set(served.get() + 1);
            }
            world.sleep(Duration::from_millis(10 + world.below(20))).await;
        }
    };
    join_all((0..3).map(|_| visitor())).await;
    let (served, took) = (served.get(), world.now().since(began).as_secs_f64());
    let most = f64::from(burst) + f64::from(count) * took + 1.0;
    ensure!(f64::from(served) <= most, "{served} in {took} s, {most} allowed");
    ensure!(f64::from(served) >= f64::from(count) * 5.0 * 0.8, "{served} in {took} s");
    let total = site.stop().await?.total;
    ensure!(total.too_often > 0 && total.too_many == 0, "{total:?}");
    Ok(())
}

/// A connection that moves something all the time, and one that does nothing, end at their time.
async fn times(world: World) -> anyhow::Result<()> {
    let limit = Duration::from_millis(1_000 + world.below(20_000));
    let site = Site::start(&world, Config::default(), |settings| {
        settings.total_timeout = Some(limit);
        settings.idle_timeout = Some(SECOND * 60).filter(|_| world.chance(0.5));
    })
    .await?;
    let lasts = async |busy: bool| -> anyhow::Result<()> {
        let mut connection = site.connect().await?;
        let began = world.now();
        let end = loop {
            if busy && connection.write_all(b"?").await.is_err() {
                break true;
            }
            match connection.fill().await.map(<[u8]>::len) {
                Ok(0) => break false,
                Ok(count) => connection.consume(count),
                Err(_) => break true,
            }
            world.sleep(Duration::from_millis(world.below(100))).await;
        };
        let took = world.now().since(began);
        ensure!(end, "a stream that was cut looks whole");
        ensure!(took + SLACK >= limit && took <= limit + SLACK, "{took:?} instead of {limit:?}");
        Ok(())
    };
    let (one, other) = futures_util::future::join(lasts(true), lasts(false)).await;
    one.and(other)?;
    let total = site.stop().await?.total;
    ensure!((total.expired, total.accepted) == (2, 2), "{total:?}");
    Ok(())
}

/// What goes through takes the time that its limit says, in the direction that has one.
async fn bytes(world: World) -> anyhow::Result<()> {
    const RATE: u64 = 20_000;
    let (size, burst) = (60_000 + world.below(60_000), 1_000 + world.below(20_000));
    let site = Site::start(&world, Config::default(), |settings| {
        let (up, down) = match world.below(3) {
            0 => (Some(RATE), None),
            1 => (None, Some(RATE)),
            _ => (Some(RATE), Some(RATE)),
        };
        settings.throttle = Throttle { up, down, burst: Some(burst) };
    })
    .await?;
    let began = world.now();
    let (mut receiving, mut sending) = site.connect().await?.split();
    let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    let sends = async {
        sending.write_all(&sent).await?;
        sending.close().await
    };
    let receives = async {
        let mut got = Vec::new();
        loop {
            let lent = receiving.fill().await?;
            if lent.is_empty() {
                return std::io::Result::Ok(got);
            }
            got.extend_from_slice(lent);
            let count = lent.len();
            receiving.consume(count);
        }
    };
    let (sends, got) = futures_util::future::join(sends, receives).await;
    sends?;
    ensure!(got? == sent, "other bytes came back");
    let took = world.now().since(began);
    let least = Duration::from_secs_f64((size - burst) as f64 / RATE as f64);
    ensure!(took >= least && took <= least + SLACK * 4, "{size} bytes took {took:?}, not {least:?}");
    ensure!(site.stop().await?.total.finished == 1);
    Ok(())
}

/// `WATERWHEEL_SEEDS=10000 cargo test --release --test simulation clients`
#[test]
fn a_client_has_what_it_may_and_all_of_it_again() {
    Check::new().seeds(60).run(crowds);
}

#[test]
fn a_client_comes_as_often_as_it_may_over_all_shards() {
    Check::new().seeds(10).options(Options::default()).run(rates);
}

#[test]
fn a_connection_ends_at_its_time_whatever_moves() {
    Check::new().seeds(60).run(times);
}

#[test]
fn a_throttled_connection_is_as_fast_as_it_may_be() {
    Check::new().seeds(40).run(bytes);
}
