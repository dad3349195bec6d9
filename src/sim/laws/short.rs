//! LISTEN-4 at the limit of descriptors, when nothing is ever given back: everybody who comes is told, on each shard.

use std::time::Duration;

use anyhow::ensure;
use futures_util::future::join_all;
use waterwheel::net::Connection;
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::sim::{Check, World};

/// Long enough for the longest rest of an acceptor, many times over.
const SOON: Duration = Duration::from_secs(5);

/// Holds its connection until the client goes.
async fn holds(mut client: Connection) -> anyhow::Result<()> {
    client.fill().await?;
    Ok(())
}

async fn everybody_is_told(world: World) -> anyhow::Result<()> {
    let host = world.host("short");
    let shards = 1 + world.below(4) as usize;
    let runtime = host.runtime(shards);
    let doors = [runtime.listen("tcp:0.0.0.0:1")?, runtime.listen("tcp:[::]:2")?];
    let running = host.start(runtime, move |shard| {
        let doors = doors.clone();
        async move {
            let [one, two] = [shard.accept_on(&doors[0])?, shard.accept_on(&doors[1])?];
            futures_util::future::join(one.serve(1_000, holds), two.serve(1_000, holds)).await;
            Ok(())
        }
    });
    let room = world.below(8) as usize;
    host.limit_descriptors(host.descriptors() + room);
    let mut served = Vec::new();
    for _ in 0..3 {
        let clients = (0..12_u64).map(|number| {
            let (world, to) = (world.clone(), Address::Inet(host.at(1 + (number % 2) as u16)));
            async move {
                world.sleep(Duration::from_micros(world.below(300))).await;
                let connected = world.shard().connect(&to, &ConnectOptions::default()).await;
                // Reset before it stood.
                let Ok(mut client) = connected else { return None };
                let told = world.shard().timeout(SOON, client.fill()).await.is_ok();
                (!told).then_some(client)
            }
        });
        served.extend(join_all(clients.collect::<Vec<_>>()).await.into_iter().flatten());
    }
    ensure!(served.len() <= room, "{} are served or left waiting; there is room for {room}", served.len());
    drop(served);
    running.stop(Duration::from_secs(5));
    running.await?;
    Ok(())
}

#[test]
fn at_the_limit_nobody_is_left_waiting() {
    Check::new().seeds(300).run(everybody_is_told);
}
