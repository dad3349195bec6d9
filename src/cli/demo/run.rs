//! One runtime, three services: an echo origin, a proxy in front of it, and clients. Each connection's tally is kept
//! by the next shard, reached by a call, so that messages cross.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use waterwheel_reactor::{Address, ConnectOptions, Time};

use super::show::{Result as Outcome, ShardRow};
use crate::load::histogram::Histogram;
use crate::load::usage::ThreadUsage;
use crate::mesh::{CallPort, Caller, Port};
use crate::net::{Connection, Listening};
use crate::proxy::tcp::{Proxy, Settings, ShardReport};
use crate::runtime::{Runtime, Stopper};
use crate::shard::{Phase, Shard, ShardId};

/// Messages between two entries of a connection's tally.
const TALLY_EVERY: u64 = 32;
/// How long the services may take to end once the load is over.
const DRAIN: Duration = Duration::from_secs(5);
/// No message takes so long on loopback; a client that waits longer gives up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) length: Duration,
    pub(super) connections: u32,
    pub(super) size: usize,
}

/// An entry of a tally: so many messages more on this connection.
#[derive(Clone, Copy, Debug)]
struct Entry {
    connection: u32,
    messages: u64,
}

/// What all shards of the demo are given.
#[derive(Clone)]
struct Demo {
    asked: Asked,
    origin: Listening,
    proxy: Proxy,
    tally: CallPort<Entry, u64>,
    done: Port<()>,
    stopper: Stopper,
}

/// What one shard saw.
pub(super) struct ShardResult {
    pub(super) row: ShardRow,
    pub(super) proxied: ShardReport,
    pub(super) latency: Histogram,
    pub(super) faults: Vec<String>,
    /// From its first message to the end of its load, by the clock that all shards have; `None`: nothing was sent.
    pub(super) span: Option<Span>,
    /// Whether it was stopped before its time.
    pub(super) interrupted: bool,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: Time,
    pub(super) to: Time,
}

impl Span {
    /// From the first beginning to the last end.
    pub(super) fn over(spans: impl Iterator<Item = Span>) -> Option<Span> {
        spans.reduce(|all, one| Span { from: all.from.min(one.from), to: all.to.max(one.to) })
    }
}

/// What one client saw.
#[derive(Default)]
struct Client {
    messages: u64,
    span: Option<Span>,
    interrupted: bool,
    fault: Option<String>,
}

/// Runs the demo and sums it up.
pub(super) fn run(runtime: Runtime, asked: Asked) -> anyhow::Result<Outcome> {
    let origin = runtime.listen("tcp:127.0.0.1:0")?;
    let upstream = origin.local().to_string().parse()?;
    let proxy = Proxy::bind(&runtime, Settings::new(vec!["tcp:127.0.0.1:0".parse()?], vec![upstream]))?;
    let demo = Demo {
        asked,
        origin,
        proxy,
        tally: runtime.call_port("tally")?,
        done: runtime.port("done")?,
        stopper: runtime.stopper(),
    };
    let (choice, cpus) = (runtime.choice().to_string(), runtime.plan().shards.clone());
    let results = runtime.run(move |shard| demo.clone().shard(shard))?;
    Ok(Outcome::new(asked, choice, cpus, results))
}

impl Demo {
    /// One shard's part of all three services.
    async fn shard(self, shard: Shard) -> anyhow::Result<ShardResult> {
        let before = ThreadUsage::current();
        let echo = shard.accept_on(&self.origin)?.serve(usize::MAX, echo);
        let echo = shard.spawn("origin", echo);
        let tallies = Rc::new(RefCell::new(BTreeMap::<(ShardId, u32), u64>::new()));
        let kept = tallies.clone();
        let _serving = shard.serve(&self.tally, move |from, entry: Entry| {
            let mut kept = kept.borrow_mut();
            let total = kept.entry((from, entry.connection)).or_insert(0);
            *total += entry.messages;
            std::future::ready(*total)
        })?;
        let (at, proxy) = (self.proxy.local()[0].clone(), self.proxy.clone());
        let serving = shard.clone();
        let proxied = shard.spawn("proxy", async move { proxy.serve(&serving).await });
        let latency = Rc::new(RefCell::new(Histogram::default()));
        let clients = self.load(&shard, &at, &latency).await?;
        self.finish(&shard).await?;
        let proxied = proxied.await.context("the proxy")??;
        echo.await.context("the origin")?;
        let stats = shard.mesh_stats();
        let row = ShardRow {
            shard: shard.id().index(),
            connections: clients.len(),
            proxied: proxied.counters.accepted,
            handed_over: proxied.accepting.handed_over,
            messages: clients.iter().map(|client| client.messages).sum(),
            tallies: tallies.borrow().values().sum(),
            crossed: stats.ports.iter().map(|port| port.sent).sum(),
            parks: stats.parks,
            wakes: stats.wakes,
            turns: shard.stats().turns,
            cpu_nanos: before
                .zip(ThreadUsage::current())
                .map(|(then, now)| now.since(&then).on_cpu.as_nanos() as u64),
        };
        let span = Span::over(clients.iter().filter_map(|client| client.span));
        let interrupted = clients.iter().any(|client| client.interrupted);
        let faults = clients.into_iter().filter_map(|client| client.fault).collect();
        let latency = latency.replace(Histogram::default());
        Ok(ShardResult { row, proxied, latency, faults, span, interrupted })
    }

    /// All clients of this shard, until the time is over.
    async fn load(
        &self,
        shard: &Shard,
        at: &Address,
        latency: &Rc<RefCell<Histogram>>,
    ) -> anyhow::Result<Vec<Client>> {
        let caller = Rc::new(shard.caller(&self.tally)?);
        let clients: Vec<_> = (0..self.asked.connections)
            .map(|number| {
                let client =
                    client(shard.clone(), at.clone(), self.asked, number, caller.clone(), latency.clone());
                shard.spawn("client", client)
            })
            .collect();
        let gone = |_| Client { fault: Some("a client panicked".to_owned()), ..Client::default() };
        Ok(join_all(clients).await.into_iter().map(|client| client.unwrap_or_else(gone)).collect())
    }

    /// Tells the first shard that this one's load is over; the first shard stops all once all are.
    async fn finish(&self, shard: &Shard) -> anyhow::Result<()> {
        let first = ShardId::new(0);
        let mailbox = shard.open(&self.done)?;
        mailbox.send(first, ()).await.map_err(|_| anyhow::anyhow!("the first shard has ended"))?;
        if shard.id() == first {
            for _ in shard.ids() {
                mailbox.receive().await;
            }
            self.stopper.stop(DRAIN);
        }
        Ok(())
    }
}

/// The origin: what comes in goes out.
async fn echo(connection: Connection) -> anyhow::Result<()> {
    let (mut receiving, mut sending) = connection.split();
    crate::net::pump(&mut receiving, &mut sending).await?;
    Ok(())
}

async fn client(
    shard: Shard,
    at: Address,
    asked: Asked,
    number: u32,
    tally: Rc<Caller<Entry, u64>>,
    latency: Rc<RefCell<Histogram>>,
) -> Client {
    let mut client = Client::default();
    if let Err(fault) = talk(&shard, &at, asked, number, &tally, &latency, &mut client).await {
        client.fault = Some(format!("{:?}, connection {number}: {fault:#}", shard.id()));
    }
    client
}

/// Sends messages and checks every byte that comes back.
async fn talk(
    shard: &Shard,
    at: &Address,
    asked: Asked,
    number: u32,
    tally: &Caller<Entry, u64>,
    latency: &RefCell<Histogram>,
    client: &mut Client,
) -> anyhow::Result<()> {
    let keeper = ShardId::new((shard.id().index() + 1) % shard.count());
    let options = ConnectOptions::default();
    let connecting = shard.connect(at, &options);
    let mut connection = shard.timeout(PATIENCE, connecting).await.context("connecting")??;
    let (mut message, mut answer) = (vec![0; asked.size], vec![0; asked.size]);
    let from = shard.now();
    let end = from + asked.length;
    // Which of all connections this is: what it sends must differ from what every other one sends.
    let sender = shard.id().index() as u64 * u64::from(asked.connections) + u64::from(number);
    let mut told = 0;
    let mut patience = shard.sleep(PATIENCE);
    loop {
        let start = shard.now();
        client.span = Some(Span { from, to: start });
        client.interrupted = start < end && shard.phase() != Phase::Running;
        let over = start >= end || client.interrupted;
        if over || client.messages - told >= TALLY_EVERY {
            let entry = Entry { connection: number, messages: client.messages - told };
            told = tally.call(keeper, entry).await.context("the tally")?;
            anyhow::ensure!(told == client.messages, "the tally says {told} of {} messages", client.messages);
        }
        if over {
            break;
        }
        fill(&mut message, sender, client.messages);
        patience.reset(start + PATIENCE);
        let exchange = async {
            connection.write_all(&message).await?;
            connection.read_exact(&mut answer).await
        };
        match futures_util::future::select(std::pin::pin!(exchange), &mut patience).await {
            futures_util::future::Either::Left((result, _)) => result.context("an exchange")?,
            futures_util::future::Either::Right(_) => anyhow::bail!("no answer within {PATIENCE:?}"),
        }
        anyhow::ensure!(answer == message, "message {} came back changed", client.messages);
        latency.borrow_mut().record(shard.now().since(start).as_nanos() as u64);
        client.messages += 1;
    }
    connection.close_write().await?;
    let rest = connection.fill().await?;
    anyhow::ensure!(rest.is_empty(), "{} bytes too many came back", rest.len());
    Ok(())
}

/// Bytes that are different in each message and on each connection, as far as so few bytes can be.
fn fill(message: &mut [u8], sender: u64, number: u64) {
    // Each sender's numbers are its own: no demo sends 2^40 messages. SplitMix64 (Steele, Lea, Flood 2014) goes on
    // from there.
    let mut state = sender << 40 ^ number;
    for chunk in message.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^= word >> 31;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

/// A demo is shared by all shards.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Demo>>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_messages_are_alike_and_a_single_byte_takes_every_value() {
        let mut seen = BTreeSet::new();
        for sender in 0..100 {
            for number in 0..100 {
                let mut message = [0; 24];
                fill(&mut message, sender, number);
                assert!(seen.insert(message), "message {number} of {sender} was sent before");
            }
        }
        let mut single = [0];
        let values: BTreeSet<u8> = (0..10_000)
            .map(|number| {
                fill(&mut single, 7, number);
                single[0]
            })
            .collect();
        assert_eq!(values.len(), 256);
    }
}
