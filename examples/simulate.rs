//! A bug that real tests rarely meet, found by a seed in a simulated world, and seen again with that seed.
//!
//! `cargo run --example simulate`
#![forbid(unsafe_code)]

use std::pin::pin;

use futures_util::future::{join, select};
use waterwheel::net::{Connection, Listening, pump};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::shard::Shard;
use waterwheel::sim::{Check, World};

/// Which of two proxies is tried.
#[derive(Clone, Copy)]
enum Ends {
    /// When one direction has ended: the bug. A client that ends its request first may lose the answer.
    WithTheFirst,
    /// When both have.
    WithBoth,
}

/// Forwards both ways between a client and the origin.
async fn forward(client: Connection, origin: Address, ends: Ends) -> anyhow::Result<()> {
    let origin = client.shard().connect(&origin, &ConnectOptions::default()).await?;
    let ((mut from_client, mut to_client), (mut from_origin, mut to_origin)) =
        (client.split(), origin.split());
    let up = pin!(pump(&mut from_client, &mut to_origin));
    let down = pin!(pump(&mut from_origin, &mut to_client));
    match ends {
        Ends::WithTheFirst => drop(select(up, down).await),
        Ends::WithBoth => drop(join(up, down).await),
    }
    Ok(())
}

/// Answers each request, which ends with its stream, by its length.
async fn answer(mut client: Connection) -> anyhow::Result<()> {
    let mut length = 0;
    loop {
        let count = client.fill().await?.len();
        if count == 0 {
            break;
        }
        length += count;
        client.consume(count);
    }
    client.write_all(format!("{length} bytes").as_bytes()).await?;
    Ok(client.close().await?)
}

/// A client, a proxy on two shards and an origin: three machines, one thread, no real time.
async fn scene(world: World, ends: Ends) -> anyhow::Result<()> {
    let (origin, proxy) = (world.host("origin"), world.host("proxy"));
    let runtime = origin.runtime(1);
    let listening = runtime.listen("tcp:0.0.0.0:80")?;
    drop(origin.start(runtime, move |shard| serve(shard, listening.clone(), answer)));
    let (runtime, to) = (proxy.runtime(2), Address::Inet(origin.at(80)));
    let listening = runtime.listen("tcp:0.0.0.0:8080")?;
    drop(proxy.start(runtime, move |shard| {
        let to = to.clone();
        serve(shard, listening.clone(), move |client| forward(client, to.clone(), ends))
    }));

    let to = "tcp:proxy:8080".parse()?;
    let mut client = world.shard().connect_to(&to, &ConnectOptions::default()).await?;
    client.write_all(&[7; 1_000]).await?;
    client.close_write().await?;
    let mut answer = [0; 10];
    client.read_exact(&mut answer).await?;
    anyhow::ensure!(answer == *b"1000 bytes", "the answer is {answer:?}");
    Ok(())
}

async fn serve<F, S>(shard: Shard, listening: Listening, with: S) -> anyhow::Result<()>
where
    S: Fn(Connection) -> F + 'static,
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    shard.accept_on(&listening)?.serve(1_000, with).await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    // In a test: `Check::new().run(|world| …)`, or just `check(…)`, which panics with this text.
    let check = Check::new().seeds(200);
    let Some((seed, said)) = check.first_failure(|world| scene(world, Ends::WithTheFirst)) else {
        anyhow::bail!("the planted bug was not found");
    };
    println!("seed {seed}: {said}");
    let again = check.seed(seed, |world| scene(world, Ends::WithTheFirst));
    anyhow::ensure!(again.failure.as_ref() == Some(&said), "the same seed tells another story");
    println!("seed {seed} again: the same {} events, hash {:016x}\n", again.events, again.hash);
    let mended = check.first_failure(|world| scene(world, Ends::WithBoth));
    anyhow::ensure!(mended.is_none(), "the mended proxy fails: {mended:?}");
    println!("mended, the proxy holds in 200 worlds");
    Ok(())
}
