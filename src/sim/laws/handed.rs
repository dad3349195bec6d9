//! Connections that go from shard to shard at every moment: no byte lost, none twice, none out of order, and one end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join_all, select};
use waterwheel::mesh::{Mailbox, Port};
use waterwheel::net::{Connection, Listening};
use waterwheel::reactor::{Address, ConnectOptions, Incoming};
use waterwheel::shard::{Shard, ShardId};
use waterwheel::sim::{Check, Random, Rule, Verdict, World};

const PATIENCE: Duration = Duration::from_secs(600);
const SHARDS: usize = 3;
const CLIENTS: usize = 6;

/// A connection on its way, and how many bytes of it were echoed so far.
struct Moving {
    incoming: Incoming,
    echoed: u64,
    moves: u64,
}

/// Echoes a while, then gives the connection to another shard with all that was read and not answered.
async fn echo(
    shard: Shard,
    to: Rc<Mailbox<Moving>>,
    mut connection: Connection,
    mut echoed: u64,
    moves: u64,
    rng: &mut Random,
) -> anyhow::Result<()> {
    let quota = rng.below(3_000);
    let mut done = 0;
    while done < quota || moves == 0 {
        let lent = connection.fill().await?;
        if lent.is_empty() {
            connection.close().await?;
            return Ok(());
        }
        // Only a part, so that something is left over to be carried along.
        let count = 1 + rng.below(lent.len() as u64) as usize;
        let part = lent[..count].to_vec();
        connection.consume(count);
        connection.write_all(&part).await?;
        echoed += count as u64;
        done += count as u64;
    }
    if rng.below(2) == 0 {
        // With a poll under way and perhaps more in the buffer.
        let _ = futures_util::poll!(std::pin::pin!(connection.fill()));
    }
    let next = ShardId::new(rng.below(shard.count() as u64) as usize);
    let moving = Moving { incoming: connection.release().await?, echoed, moves: moves - 1 };
    if to.send(next, moving).await.is_err() {
        anyhow::bail!("{next:?} takes no more");
    }
    Ok(())
}

async fn serve(shard: Shard, listening: Listening, port: Port<Moving>) -> anyhow::Result<()> {
    let mailbox = Rc::new(shard.open(&port)?);
    let mut acceptor = shard.accept_on(&listening)?;
    let seeds = Rc::new(Cell::new(shard.reactor().seed()));
    let begin = {
        let (shard, mailbox) = (shard.clone(), mailbox.clone());
        move |connection: Connection, echoed, moves| {
            seeds.set(seeds.get().wrapping_add(1));
            let (shard, mailbox) = (shard.clone(), mailbox.clone());
            let mut rng = Random::new(seeds.get());
            shard.clone().spawn_detached("echo", async move {
                // A client that was reset is no failure.
                let _ = echo(shard, mailbox, connection, echoed, moves, &mut rng).await;
            });
        }
    };
    let accepting = async {
        let mut moves = 0;
        while let Some(accepted) = acceptor.accept().await {
            moves = (moves + 3) % 8;
            accepted.into_iter().for_each(|connection| begin(connection, 0, moves));
        }
    };
    let receiving = async {
        loop {
            let (_, moving) = mailbox.receive().await;
            if let Ok(connection) = shard.adopt(moving.incoming) {
                begin(connection, moving.echoed, moving.moves);
            }
        }
    };
    select(std::pin::pin!(accepting), std::pin::pin!(receiving)).await;
    Ok(())
}

async fn client(world: World, to: Address, id: usize) -> anyhow::Result<()> {
    let mut rng = Random::new(world.number());
    let mut connection = world.shard().connect(&to, &ConnectOptions::default()).await?;
    let total = rng.below(12_000) as usize;
    let bytes: Vec<u8> =
        (0..total).map(|at| (at as u32).wrapping_mul(0x85eb_ca6b).rotate_left(9) as u8).collect();
    let (receiving, sending) = connection.halves();
    let mut left = &bytes[..];
    let send = async {
        while !left.is_empty() {
            let part = 1 + rng.below(left.len() as u64) as usize;
            sending.write_all(&left[..part]).await?;
            left = &left[part..];
            if rng.below(3) == 0 {
                world.sleep(Duration::from_micros(rng.below(3_000))).await;
            }
        }
        sending.close().await
    };
    let receive = async {
        let mut got = 0;
        loop {
            let lent = receiving.fill().await?;
            if lent.is_empty() {
                break;
            }
            let count = lent.len();
            ensure!(
                bytes.get(got..got + count) == Some(lent),
                "client {id}: bytes {got} to {} differ",
                got + count
            );
            got += count;
            receiving.consume(count);
        }
        ensure!(got == bytes.len(), "client {id}: {got} of {} bytes came back", bytes.len());
        Ok(())
    };
    let (sent, received) = futures_util::future::join(send, receive).await;
    sent?;
    received
}

async fn handed(world: World) -> anyhow::Result<()> {
    let host = world.host("server");
    if world.chance(0.3) {
        world.rule(Rule::new(Verdict::ShortWrite(1 + world.below(50) as usize)).from("server").with(0.5));
    }
    if world.chance(0.3) {
        let (bytes, pause) = (1 + world.below(400) as usize, Duration::from_micros(world.below(2_000)));
        world.rule(Rule::new(Verdict::SlowReader(bytes, pause)).to("test").with(0.2));
    }
    let runtime = host.runtime(SHARDS);
    let listening = runtime.listen(&format!("tcp:{}", host.at(7)))?;
    let port: Port<Moving> = runtime.port("moving")?;
    let running = host.start(runtime, move |shard| serve(shard, listening.clone(), port.clone()));
    let clients = (0..CLIENTS).map(|id| client(world.clone(), Address::Inet(host.at(7)), id));
    let all = world.shard().timeout(PATIENCE, join_all(clients)).await.context("a client hangs")?;
    all.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    // What lingers ends by itself.
    let until = world.now() + Duration::from_secs(10);
    while !host.connections().is_empty() {
        ensure!(world.now() < until, "connections stay behind: {:?}", host.connections());
        world.sleep(Duration::from_millis(10)).await;
    }
    running.stop(Duration::from_secs(1));
    running.await?;
    Ok(())
}

#[test]
fn no_byte_is_lost_or_doubled_when_a_connection_moves() {
    Check::new().seeds(300).run(handed);
}
