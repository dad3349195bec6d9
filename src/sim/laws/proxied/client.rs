//! Clients: each makes one connection, says what it wants, sends and receives.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join, join_all};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use waterwheel::net::{Receiving, Sending};
use waterwheel::reactor::{Address, ConnectOptions, StreamOptions};
use waterwheel::shard::Shard;
use waterwheel::sim::{Host, Running};

use super::ledger::{Ledger, Way, bytes};
use super::{CLIENTS, PATIENCE};

/// What a client says first: who it is, how much it sends, how much it wants, and how the origin is to behave.
pub(super) const HEADER: usize = 16;

/// What one client does.
#[derive(Clone, Copy, Debug)]
struct Plan {
    id: u32,
    up: usize,
    down: usize,
    style: u32,
    begins: Duration,
    /// Sends its end only after it has seen the origin's.
    ends_late: bool,
    /// Resets after so many bytes of the answer.
    aborts_at: Option<usize>,
}

impl Plan {
    fn draw(id: u32, rng: &mut Pcg64, manners: Manners) -> Plan {
        let mut below = |end: u64| rng.next_u64() % end;
        let size = |kind: u64, number: u64| match kind {
            0 => 0,
            1..=5 => number % 300,
            6..=8 => number % 20_000,
            _ => number % 150_000,
        };
        let (up, down) = (size(below(10), below(1 << 40)) as usize, size(below(10), below(1 << 40)) as usize);
        let (style, aborts) = (below(super::origin::STYLES) as u32, below(12) == 0 && !manners.whole);
        let style = if manners.whole {
            super::origin::WHOLE[style as usize % super::origin::WHOLE.len()]
        } else {
            style
        };
        Plan {
            id,
            up,
            down,
            style,
            begins: Duration::from_micros(below(2_000_000)),
            // Not where the origin waits for the end in turn.
            ends_late: below(4) == 0 && style != super::origin::AFTER,
            aborts_at: aborts.then(|| below(down as u64 + 1) as usize),
        }
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let words = [self.id, self.up as u32, self.down as u32, self.style];
        for (part, word) in header.chunks_exact_mut(4).zip(words) {
            part.copy_from_slice(&word.to_be_bytes());
        }
        header
    }
}

/// How the clients of a world behave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    /// All of them come at once, after so long.
    pub(super) burst: Option<Duration>,
    /// None of them resets, nor asks an origin to: everything comes whole.
    pub(super) whole: bool,
}

pub(super) fn start(host: &Host, doors: Vec<SocketAddr>, ledger: &Ledger, manners: Manners) -> Running<()> {
    let ledger = ledger.clone();
    host.start(host.runtime(2), move |shard| {
        let (ledger, doors) = (ledger.clone(), doors.clone());
        async move {
            let mut rng = Pcg64::seed_from_u64(shard.reactor().seed());
            let plans = shard.part_of(CLIENTS as usize).map(|id| Plan::draw(id as u32, &mut rng, manners));
            let clients = plans.map(|plan| {
                let (shard, ledger) = (shard.clone(), ledger.clone());
                let proxy = doors[plan.id as usize % doors.len()];
                ledger.plans(plan.style == super::origin::RESETS, plan.aborts_at.is_some());
                async move {
                    let begins = manners.burst.map_or(plan.begins, |at| at + plan.begins / 1_000);
                    shard.sleep(begins).await;
                    let served = shard.timeout(PATIENCE, client(&shard, proxy, plan, &ledger)).await;
                    served.with_context(|| format!("client {} saw no end: {plan:?}", plan.id))?
                }
            });
            join_all(clients).await.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
            Ok(())
        }
    })
}

/// An error of the network is no failure of the client's; wrong bytes are.
async fn client(shard: &Shard, proxy: SocketAddr, plan: Plan, ledger: &Ledger) -> anyhow::Result<()> {
    // With keep-alive, so that it learns of a peer that is gone.
    let stream = StreamOptions { keepalive: Some(Duration::from_secs(60)), ..StreamOptions::default() };
    let options = ConnectOptions { stream, ..ConnectOptions::default() };
    let Ok(connection) = shard.connect(&Address::Inet(proxy), &options).await else { return Ok(()) };
    tracing::info!("client {} is at {}: {plan:?}", plan.id, connection.local()?);
    let (mut receiving, mut sending) = connection.split();
    let (answer, told) = waterwheel::shard::deferred();
    let up = async {
        let sent = upload(&plan, &mut sending, ledger).await;
        if plan.ends_late {
            let _ = told.await;
        }
        if sent.is_ok() && sending.close().await.is_ok() {
            ledger.write(plan.id, Way::Up, |stream| stream.ended = true);
        }
    };
    let down = async {
        let received = download(&plan, &mut receiving, ledger).await;
        answer.resolve(());
        if let Ok(Fate::Aborts) = received {
            receiving.abort();
        }
        received.map(drop)
    };
    let ((), received) = join(up, down).await;
    received
}

async fn upload(plan: &Plan, sending: &mut Sending, ledger: &Ledger) -> std::io::Result<()> {
    // The header is part of the stream that the proxy carries.
    let all = [&plan.header()[..], &bytes(plan.id, Way::Up, plan.up)].concat();
    ledger.send(plan.id, Way::Up, &all, sending).await
}

enum Fate {
    Over,
    Aborts,
}

async fn download(plan: &Plan, receiving: &mut Receiving, ledger: &Ledger) -> anyhow::Result<Fate> {
    let mut got = 0;
    loop {
        if plan.aborts_at.is_some_and(|at| got >= at) {
            return Ok(Fate::Aborts);
        }
        let Ok(lent) = receiving.fill().await else { return Ok(Fate::Over) };
        if lent.is_empty() {
            ledger.write(plan.id, Way::Down, |stream| stream.saw_end = true);
            return Ok(Fate::Over);
        }
        ledger.receive(plan.id, Way::Down, lent)?;
        got += lent.len();
        ensure!(got <= plan.down, "client {} got {got} bytes of {}", plan.id, plan.down);
        let count = lent.len();
        receiving.consume(count);
    }
}
