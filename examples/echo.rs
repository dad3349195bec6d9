//! An echo server on all cores, and a few clients that check it.
//!
//! `cargo run --example echo` checks itself and ends. `cargo run --example echo -- tcp:127.0.0.1:7000` serves until
//! Ctrl-C; talk to it with `nc 127.0.0.1 7000`.

use waterwheel::net::{Connection, Listening, pump};
use waterwheel::reactor::ConnectOptions;
use waterwheel::runtime::Runtime;
use waterwheel::shard::Shard;

/// What comes in goes out. Reading waits while the peer does not read: memory stays bounded.
async fn echo(connection: Connection) -> anyhow::Result<()> {
    let (mut receiving, mut sending) = connection.split();
    pump(&mut receiving, &mut sending).await?;
    Ok(())
}

/// Eight clients on this shard. Their connections are served by whichever shard the hash of their address names.
async fn check(shard: &Shard, listening: &Listening) -> anyhow::Result<usize> {
    for number in 0..8 {
        let mut connection = shard.connect(listening.local(), &ConnectOptions::default()).await?;
        let message = format!("{:?} says {number}", shard.id());
        connection.write_all(message.as_bytes()).await?;
        connection.close_write().await?;
        let mut answer = Vec::new();
        loop {
            // The reactor lends its buffer; nothing is copied until here.
            let lent = connection.fill().await?;
            if lent.is_empty() {
                break;
            }
            answer.extend_from_slice(lent);
            let count = lent.len();
            connection.consume(count);
        }
        anyhow::ensure!(answer == message.as_bytes(), "changed on the way");
    }
    Ok(8)
}

fn main() -> anyhow::Result<()> {
    let endpoint = std::env::args().nth(1);
    let runtime = Runtime::from_env()?;
    let listening = runtime.listen(endpoint.as_deref().unwrap_or("tcp:127.0.0.1:0"))?;
    println!("listening on {}", listening.local());
    let (stopper, done) = (runtime.stopper(), runtime.port::<usize>("done")?);
    let results = runtime.run(move |shard| {
        let (listening, endpoint, stopper, done) =
            (listening.clone(), endpoint.clone(), stopper.clone(), done.clone());
        async move {
            let serving = shard.spawn("serve", shard.accept_on(&listening)?.serve(10_000, echo));
            if endpoint.is_none() {
                // Every shard tells every shard when its clients are done; the last one stops all.
                let mailbox = shard.open(&done)?;
                let checked = check(&shard, &listening).await?;
                for to in shard.ids() {
                    let _ = mailbox.send(to, checked).await;
                }
                for _ in shard.ids() {
                    mailbox.receive().await;
                }
                stopper.stop(std::time::Duration::from_secs(5));
            }
            serving.await?;
            Ok(shard.stats().spawned)
        }
    })?;
    println!("tasks on each shard: {results:?}");
    Ok(())
}
