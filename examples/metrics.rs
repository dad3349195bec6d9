//! What a program counts, and tells over HTTP: a counter and a histogram of each shard, summed when somebody asks.
//!
//! `cargo run --example metrics`; or `WATERWHEEL_ADMIN=tcp:127.0.0.1:9100` and let Prometheus ask.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::Context;
use waterwheel::metrics::{Counter, Histogram, Unit};
use waterwheel::net::{Connection, Listening};
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::Shard;

const CLIENTS: usize = 20;

/// Echoes one message, and counts it. Plain cells: no lock, no atomic, no other shard.
async fn echo(mut connection: Connection, echoed: Counter, times: Histogram) -> anyhow::Result<()> {
    let (shard, mut buffer) = (connection.shard().clone(), [0; 100]);
    let began = shard.now();
    let count = connection.read(&mut buffer).await?;
    connection.write_all(&buffer[..count]).await?;
    echoed.increment();
    times.record_time(shard.now().since(began));
    Ok(connection.close().await?)
}

async fn ask(shard: &Shard, at: &Address, question: &str) -> anyhow::Result<String> {
    let mut connection = shard.connect(at, &ConnectOptions::default()).await?;
    connection.write_all(question.as_bytes()).await?;
    let (mut text, mut buffer) = (Vec::new(), vec![0; 10_000]);
    loop {
        match connection.read(&mut buffer).await? {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(String::from_utf8(text)?)
}

/// Is its own clients, and its own Prometheus; then stops all shards.
async fn visit(shard: Shard, listening: Listening, admin: Address) -> anyhow::Result<()> {
    for _ in 0..CLIENTS {
        anyhow::ensure!(ask(&shard, listening.local(), "water").await? == "water");
    }
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: mill\r\nConnection: close\r\n\r\n");
    let ready = ask(&shard, &admin, &get("/ready")).await?;
    println!("{}", ready.lines().next().unwrap_or_default());
    let page = ask(&shard, &admin, &get("/metrics")).await?;
    let ours = page.lines().filter(|line| line.contains("mill_") && !line.contains("_bucket"));
    ours.chain(page.lines().filter(|line| line.starts_with("waterwheel_accepted_total")))
        .for_each(|line| println!("{line}"));
    let total = format!("mill_echoed_total {CLIENTS}");
    anyhow::ensure!(page.lines().any(|line| line == total), "not {total}");
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let mut config = Config::from_env()?;
    if config.admin_endpoint().is_none() {
        config = config.admin("tcp:127.0.0.1:0".parse()?);
    }
    let runtime = Runtime::new(config)?;
    let listening = runtime.listen("tcp:127.0.0.1:0")?;
    // Declared before the shards run, as ports are; each shard gets a clone.
    let echoed = runtime.counter("mill_echoed_total", "Messages that were sent back.")?;
    let times = runtime.histogram("mill_echo_seconds", "How long a client took.", Unit::Seconds)?;
    let admin = runtime.admin_local().context("no admin endpoint")?.clone();
    let stopper = runtime.stopper();
    runtime.run(move |shard| {
        let (listening, echoed, times) = (listening.clone(), echoed.clone(), times.clone());
        let (admin, stopper) = (admin.clone(), stopper.clone());
        async move {
            let (echoed, times) = (shard.counter(&echoed)?, shard.histogram(&times)?);
            let acceptor = shard.accept_on(&listening)?;
            let visiting = (shard.id().index() == 0).then(|| {
                let visit = visit(shard.clone(), listening.clone(), admin);
                shard.spawn("visit", async move {
                    let seen = visit.await;
                    stopper.stop(Duration::from_secs(5));
                    seen
                })
            });
            acceptor
                .serve(usize::MAX, move |connection| echo(connection, echoed.clone(), times.clone()))
                .await;
            match visiting {
                Some(visiting) => visiting.await?,
                None => Ok(()),
            }
        }
    })?;
    Ok(())
}
