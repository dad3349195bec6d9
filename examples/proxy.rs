//! A TCP proxy in front of an origin, embedded in a program of its own.
//!
//! `cargo run --example proxy` sends a request through itself and ends. For a proxy to keep, use the command:
//! `waterwheel proxy tcp --listen tcp:127.0.0.1:8080 --upstream tcp:127.0.0.1:80`.

use std::time::Duration;

use waterwheel::net::Connection;
use waterwheel::proxy::tcp::{Balance, Proxy, Settings};
use waterwheel::reactor::ConnectOptions;
use waterwheel::runtime::Runtime;

/// The origin: answers a line with the line in capitals, after the client has ended its side.
async fn origin(mut connection: Connection) -> anyhow::Result<()> {
    let mut line = Vec::new();
    loop {
        let lent = connection.fill().await?;
        if lent.is_empty() {
            break;
        }
        line.extend_from_slice(lent);
        let count = lent.len();
        connection.consume(count);
        anyhow::ensure!(line.len() <= 1024, "a line has at most 1 024 bytes");
    }
    connection.write_all(line.to_ascii_uppercase().as_slice()).await?;
    connection.close().await?;
    Ok(())
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
            if shard.id().index() == 0 {
                let (client, at) = (shard.clone(), proxy.local()[0].clone());
                shard.spawn_detached("client", async move {
                    if let Err(error) = ask(&client, &at).await {
                        println!("the client failed: {error:#}");
                    }
                    stopper.stop(Duration::from_secs(5));
                });
            }
            proxy.serve(&shard).await
        }
    })?;
    print!("{}", proxy.final_report(reports));
    Ok(())
}

async fn ask(shard: &waterwheel::shard::Shard, at: &waterwheel::reactor::Address) -> anyhow::Result<()> {
    let mut connection = shard.connect(at, &ConnectOptions::default()).await?;
    connection.write_all(b"the wheel turns").await?;
    // The end of our stream passes through the proxy; the answer still comes back.
    connection.close_write().await?;
    let mut answer = [0; 15];
    connection.read_exact(&mut answer).await?;
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}
