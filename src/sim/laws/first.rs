//! The proxy's reading of first bytes, where clients cut them at every byte, wait between the pieces, stop in the middle,
//! end or reset: who is served has every byte passed on, and who says too little is told at the deadline and not before.

use std::time::Duration;

use anyhow::ensure;
use futures_util::future::join_all;
use waterwheel::net::proxy_header::{
    Extra, HEADER_BYTES_MAX, HeaderPolicy, ProxyHeader, Relayed, Subject, Version, Wanted, parse,
};
use waterwheel::net::{Connection, Endpoint};
use waterwheel::proxy::tcp::{Counters, Group, Proxy, Settings};
use waterwheel::reactor::{Address, ConnectOptions, Time};
use waterwheel::runtime::Config;
use waterwheel::sim::{Check, Random, World};

use crate::started;

const LIMIT: Duration = Duration::from_secs(5);
/// More than a turn and the way there and back take in a world without faults.
const SLACK: Duration = Duration::from_millis(500);
const CLIENTS: u64 = 12;
const SHARDS: usize = 3;

/// What a client's first bytes are to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Served,
    /// Reset for what it sent.
    Refused,
    /// Reset at the deadline.
    Late,
}

/// A client's first bytes: what of them its upstream is to get, and what is to come of it.
struct Plan {
    bytes: Vec<u8>,
    taken_off: usize,
    fate: Fate,
    /// In which group it ends up.
    named: bool,
}

/// A hello with a name, in records of at most `most` bytes.
fn hello(name: &str, most: usize) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let list = long(&[&[0][..], &long(name.as_bytes())].concat());
    let extensions = [&[0, 21, 0, 90][..], &[0; 90], &[0, 0], &long(&list)].concat();
    let body = [&[3, 3][..], &[5; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    message.chunks(most).flat_map(|piece| [&[22, 3, 1][..], &long(piece)].concat()).collect()
}

impl Plan {
    fn draw(world: &World) -> Plan {
        let below = |end: usize| world.below(end as u64) as usize;
        let at = |text: &str| Address::Inet(text.parse().expect("an address"));
        let subject = Subject::Relayed(Relayed {
            source: at("192.0.2.7:1"),
            destination: at("192.0.2.8:2"),
            datagrams: false,
        });
        let version = if world.chance(0.5) { Version::One } else { Version::Two };
        let extras = vec![Extra::Padding(below(400)), Extra::Authority("said.example".into())];
        let header = ProxyHeader { version, subject, extras, checksum: true };
        let mut bytes = header.encode().expect("a header");
        let mut taken_off = bytes.len();
        let mut fate = Fate::Served;
        match below(8) {
            0 => {
                bytes.clear();
                taken_off = 0;
            }
            1 => {
                bytes.truncate(1 + below(taken_off - 1));
                return Plan { bytes, taken_off, fate: Fate::Late, named: false };
            }
            2 => {
                // The signature, and then what makes no header.
                bytes.truncate(if version == Version::One { 6 } else { 12 });
                bytes.extend_from_slice(b"\x91\r\n");
                fate = Fate::Refused;
            }
            _ => {}
        }
        let (named, mut hello) = match below(4) {
            0 => (false, b"no TLS, but enough of it to be sure".to_vec()),
            1 => (false, hello("other.example", 1 + below(300))),
            _ => (true, hello("www.a.example", 1 + below(300))),
        };
        if named && fate == Fate::Served && world.chance(0.15) {
            hello.truncate(below(hello.len()));
            fate = Fate::Late;
        }
        bytes.extend_from_slice(&hello);
        Plan { bytes, taken_off, fate, named }
    }
}

/// What one client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The answer, and the end.
    Answered,
    /// A reset, or its own end of patience.
    Reset(Time),
}

async fn client(world: &World, to: Address, plan: &Plan) -> anyhow::Result<(Time, Seen)> {
    world.sleep(Duration::from_micros(world.below(50_000))).await;
    let mut connection = world.shard().connect(&to, &ConnectOptions::default()).await?;
    let began = world.now();
    let mut rest = &plan.bytes[..];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + world.below(rest.len().min(200) as u64) as usize);
        // Who is refused in the middle cannot send all of it.
        if connection.write_all(piece).await.is_err() {
            break;
        }
        rest = after;
        if plan.fate == Fate::Late {
            // So slow that whoever counts from the last byte would take too long.
            world.sleep(SLACK * 3 / 5).await;
        } else if world.chance(0.5) {
            world.sleep(Duration::from_micros(world.below(20_000))).await;
        }
    }
    if plan.fate == Fate::Served {
        connection.close_write().await?;
    }
    let mut got = Vec::new();
    loop {
        match connection.fill().await {
            Ok([]) => break,
            Ok(lent) => {
                got.extend_from_slice(lent);
                let count = lent.len();
                connection.consume(count);
            }
            Err(_) => return Ok((began, Seen::Reset(world.now()))),
        }
    }
    ensure!(got == b"answer", "{got:?}");
    Ok((began, Seen::Answered))
}

/// What a connection brought to an upstream: whether that is the one with a name, and all the bytes.
type Got = (bool, Vec<u8>);

async fn serve(mut connection: Connection, named: bool, tell: flume::Sender<Got>) -> anyhow::Result<()> {
    let mut all = Vec::new();
    loop {
        let lent = connection.fill().await?;
        if lent.is_empty() {
            break;
        }
        all.extend_from_slice(lent);
        let count = lent.len();
        connection.consume(count);
    }
    tell.send((named, all))?;
    connection.write_all(b"answer").await?;
    connection.close().await?;
    Ok(())
}

/// An upstream on a host of its own; answers where it is.
fn upstream(world: &World, name: &str, named: bool, tell: &flume::Sender<Got>) -> anyhow::Result<Endpoint> {
    let origin = world.host(name);
    let runtime = origin.runtime(1);
    let listening = runtime.listen("tcp:0.0.0.0:80")?;
    let tell = tell.clone();
    drop(origin.start(runtime, move |shard| {
        let (listening, tell) = (listening.clone(), tell.clone());
        async move {
            let serving = move |connection| serve(connection, named, tell.clone());
            shard.accept_on(&listening)?.serve(1_000, serving).await;
            Ok(())
        }
    }));
    Ok(format!("tcp:{}", origin.at(80)).parse()?)
}

async fn scene(world: World) -> anyhow::Result<()> {
    let host = world.host("proxy");
    let (tell, told) = flume::unbounded();
    let (others, named) =
        (upstream(&world, "others", false, &tell)?, upstream(&world, "named", true, &tell)?);
    let listen = vec![format!("tcp:{}", host.at(443)).parse()?];
    let settings = Settings {
        header: Some(HeaderPolicy::new(Wanted::Accept, vec!["0.0.0.0/0".parse()?, "::/0".parse()?])),
        send_header: Some(Version::Two),
        groups: vec![Group::new("a", vec![named.into()])],
        routes: vec!["*.a.example=a".parse().map_err(anyhow::Error::msg)?],
        first_bytes_timeout: LIMIT,
        ..Settings::new(listen, vec![others])
    };
    let runtime = host.runtime_with(Config::default().cores(SHARDS))?;
    let proxy = Proxy::bind(&runtime, settings)?;
    let running = started::proxy(&host, runtime, &proxy);
    world.sleep(Duration::from_millis(10)).await;
    let plans: Vec<Plan> = (0..CLIENTS).map(|_| Plan::draw(&world)).collect();
    let to = Address::Inet(host.at(443));
    let seen = join_all(plans.iter().map(|plan| client(&world, to.clone(), plan))).await;
    for (plan, seen) in plans.iter().zip(seen) {
        match (plan.fate, seen?) {
            (Fate::Served, (_, Seen::Answered)) => {}
            (Fate::Refused, (began, Seen::Reset(at))) => {
                ensure!(at.since(began) < LIMIT, "refused after {:?}", at.since(began));
            }
            (Fate::Late, (began, Seen::Reset(at))) => {
                let took = at.since(began);
                ensure!((LIMIT - SLACK..LIMIT + SLACK).contains(&took), "reset after {took:?}");
            }
            (fate, (_, seen)) => anyhow::bail!("{fate:?}, and it saw {seen:?}"),
        }
    }
    running.stop(Duration::from_secs(5));
    let total = proxy.final_report(running.await?).total;
    passed_on(&plans, &told.try_iter().collect::<Vec<_>>(), &total)
}

/// Each upstream got what its clients sent behind their headers, and was told who they are.
fn passed_on(plans: &[Plan], got: &[Got], total: &Counters) -> anyhow::Result<()> {
    let count = |fate| plans.iter().filter(|plan| plan.fate == fate).count() as u64;
    ensure!(total.finished == count(Fate::Served), "{total:?}");
    ensure!(total.refused == count(Fate::Refused) + count(Fate::Late), "{total:?}");
    ensure!(total.accepted == CLIENTS && total.connect_failed == 0, "{total:?}");
    let mut wanted: Vec<(bool, &[u8])> = plans
        .iter()
        .filter(|plan| plan.fate == Fate::Served)
        .map(|plan| (plan.named, &plan.bytes[plan.taken_off..]))
        .collect();
    let mut passed = Vec::new();
    for (named, all) in got {
        let (header, length) = parse(all, HEADER_BYTES_MAX)?.expect("a whole header");
        ensure!(header.checksum && header.source().is_some(), "{header:?}");
        passed.push((*named, &all[length..]));
    }
    wanted.sort_unstable();
    passed.sort_unstable();
    ensure!(passed == wanted, "{passed:?} instead of {wanted:?}");
    Ok(())
}

/// `WATERWHEEL_SEEDS=10000 cargo test --release --test simulation first`
#[test]
fn first_bytes_are_read_in_time_and_passed_on_whole() {
    Check::new().seeds(300).run(scene);
}

/// Takes bytes and puts some back, again and again, with more behind them that were lent already.
async fn puts_back(world: World) -> anyhow::Result<()> {
    let (tell, told) = flume::unbounded();
    let sent: Vec<u8> = (0..3_000 + world.below(3_000)).map(|at| (at % 251) as u8).collect();
    let to = upstream(&world, "sink", true, &tell)?.literal().expect("an address");
    let proxy = world.host("proxy");
    let runtime = proxy.runtime(1);
    let listening = runtime.listen("tcp:0.0.0.0:80")?;
    let (seed, kept) = (world.number(), sent.len());
    let running = proxy.start(runtime, move |shard| {
        let (listening, to) = (listening.clone(), to.clone());
        async move {
            let mut acceptor = shard.accept_on(&listening)?;
            let mut client = acceptor.accept().await.expect("a client")?;
            let mut rng = Random::new(seed);
            let mut far = shard.connect(&to, &ConnectOptions::default()).await?;
            let mut passed = 0;
            while passed < kept / 2 {
                let lent = client.fill().await?;
                let taken = lent[..1 + rng.below(lent.len() as u64) as usize].to_vec();
                client.consume(taken.len());
                let (front, back) = taken.split_at(rng.below(taken.len() as u64 + 1) as usize);
                client.unread(back.to_vec()).await?;
                far.write_all(front).await?;
                passed += front.len();
            }
            // The rest goes with what was put back last.
            client.pump(far, None).await;
            Ok(())
        }
    });
    world.sleep(Duration::from_millis(10)).await;
    let mut near = world.shard().connect(&Address::Inet(proxy.at(80)), &ConnectOptions::default()).await?;
    for piece in sent.chunks(1 + world.below(900) as usize) {
        near.write_all(piece).await?;
    }
    near.close_write().await?;
    running.await?;
    let got = told.try_iter().map(|(_, bytes)| bytes).max_by_key(Vec::len);
    ensure!(got.as_ref() == Some(&sent), "other bytes came");
    Ok(())
}

#[test]
fn what_is_put_back_comes_first_and_once() {
    Check::new().seeds(200).run(puts_back);
}
