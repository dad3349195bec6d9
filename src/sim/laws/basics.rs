//! A client and a server, and what a check says of them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use waterwheel::net::{Connection, pump};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::sim::{self, World};

use crate::started;

async fn echo(connection: Connection) -> anyhow::Result<()> {
    let (mut receiving, mut sending) = connection.split();
    pump(&mut receiving, &mut sending).await?;
    Ok(())
}

async fn echoes(world: World) -> anyhow::Result<()> {
    let server = world.host("server");
    let running = started::server(&server, 3, "tcp:0.0.0.0:7000", 100, echo)?;
    let to = Address::Inet(server.at(7000));
    for round in 0..5_u8 {
        let mut connection = world.shard().connect(&to, &ConnectOptions::default()).await?;
        let sent: Vec<u8> = (0..world.below(5_000)).map(|byte| byte as u8 ^ round).collect();
        connection.write_all(&sent).await?;
        connection.close_write().await?;
        let mut got = Vec::new();
        loop {
            let lent = connection.fill().await?;
            if lent.is_empty() {
                break;
            }
            got.extend_from_slice(lent);
            let count = lent.len();
            connection.consume(count);
        }
        anyhow::ensure!(got == sent, "round {round}: {} bytes of {}", got.len(), sent.len());
    }
    running.stop(std::time::Duration::from_secs(5));
    running.await?;
    Ok(())
}

#[test]
fn an_echo_comes_back_whole() {
    sim::Check::new().seeds(200).run(echoes);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let check = sim::Check::new();
    let mut hashes = Vec::new();
    for seed in 0..20 {
        let (one, other) = (check.seed(seed, echoes), check.seed(seed, echoes));
        assert_eq!(one, other, "seed {seed}");
        hashes.push(one.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20, "different seeds, different traces");
}

/// In a world without threads work that blocks is done on the shard, a while later, and may be cancelled before.
async fn blocks(world: World) -> anyhow::Result<()> {
    let (shard, done) = (world.shard(), Rc::new(Cell::new(false)));
    let began = shard.now();
    let seen = done.clone();
    shard.spawn_detached("meanwhile", async move { seen.set(true) });
    anyhow::ensure!(shard.blocking(|| 7).await? == 7);
    anyhow::ensure!(done.get() && shard.now() > began, "inside the call");
    let count = Arc::new(());
    let counted = count.clone();
    drop(shard.blocking(move || drop(counted)));
    anyhow::ensure!(Arc::strong_count(&count) == 1, "cancelled, and kept");
    let panicked = shard.blocking(|| panic!("on purpose")).await;
    anyhow::ensure!(panicked.is_err_and(|error| error.to_string() == "the work panicked: on purpose"));
    Ok(())
}

#[test]
fn what_blocks_is_done_later() {
    sim::Check::new().seeds(50).run(blocks);
}
