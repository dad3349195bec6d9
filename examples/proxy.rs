//! A TCP proxy in front of an origin, in a program of one's own.
//!
//! `cargo run --example proxy` sends one request through and ends. A proxy to keep is the command's:
//! `waterwheel proxy tcp --listen tcp:127.0.0.1:8080 --upstream tcp:127.0.0.1:80`.
#![forbid(unsafe_code)]

use std::time::Duration;

use futures_util::AsyncReadExt;
use waterwheel::net::Connection;
use waterwheel::proxy::tcp::{Balance, Proxy, Settings};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::Runtime;
use waterwheel::shard::Shard;

/// The origin answers in capitals, once the client has ended its side.
async fn origin(mut connection: Connection) -> anyhow::Result<()> {
    // A connection is a `futures_io` reader too. What a peer may send is bounded here.
    let mut text = Vec::new();
    (&mut connection).take(1024).read_to_end(&mut text).await?;
    connection.write_all(&text.to_ascii_uppercase()).await?;
    connection.close().await?;
    Ok(())
}

async fn ask(shard: &Shard, at: &Address) -> anyhow::Result<String> {
    let mut connection = shard.connect(at, &ConnectOptions::default()).await?;
    connection.write_all(b"the wheel turns").await?;
    // The end of our stream passes through the proxy, and the answer still comes back.
    connection.close_write().await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::from_env()?;
    let listening = runtime.listen("tcp:127.0.0.1:0")?;
    let upstream = listening.local().to_string().parse()?;
    let settings = Settings {
        balance: Balance::LeastConnections,
        idle_timeout: Some(Duration::from_secs(60)),
        ..Settings::new(vec!["tcp:127.0.0.1:0".parse()?], vec![upstream])
    };
    let proxy = Proxy::bind(&runtime, settings)?;
    let (serving, stopper) = (proxy.clone(), runtime.stopper());
    let reports = runtime.run(move |shard| {
        let (proxy, listening, stopper) = (serving.clone(), listening.clone(), stopper.clone());
        async move {
            let acceptor = shard.accept_on(&listening)?;
            shard.spawn_detached("origin", acceptor.serve(1000, origin));
            let client = (shard.id().index() == 0).then(|| {
                let (client, at) = (shard.clone(), proxy.local()[0].clone());
                shard.spawn("client", async move {
                    let answer = ask(&client, &at).await;
                    stopper.stop(Duration::from_secs(5));
                    answer
                })
            });
            // Returns once the runtime is asked to stop and the connections have ended.
            let report = proxy.serve(&shard).await?;
            if let Some(client) = client {
                let answer = client.await??;
                anyhow::ensure!(answer == "THE WHEEL TURNS", "{answer:?} came back");
                println!("{answer}");
            }
            Ok(report)
        }
    })?;
    print!("{}", proxy.final_report(reports));
    Ok(())
}
