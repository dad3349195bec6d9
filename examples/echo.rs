//! An echo server on all cores, and clients that check what comes back.
//!
//! `cargo run --example echo` checks itself and ends. `cargo run --example echo -- tcp:127.0.0.1:7000` serves until
//! Ctrl-C; talk to it with `nc 127.0.0.1 7000`.
#![forbid(unsafe_code)]

use std::time::Duration;

use waterwheel::net::{Connection, Listening, pump};
use waterwheel::reactor::ConnectOptions;
use waterwheel::runtime::Runtime;
use waterwheel::shard::Shard;

/// What comes in goes out. Nothing is read that the peer does not take, so memory stays bounded.
async fn echo(connection: Connection) -> anyhow::Result<()> {
    let (mut receiving, mut sending) = connection.split();
    pump(&mut receiving, &mut sending).await?;
    Ok(())
}

/// Eight clients, one after the other.
async fn check(shard: &Shard, listening: &Listening) -> anyhow::Result<()> {
    for number in 0..8 {
        let message = format!("{:?} says {number}", shard.id());
        let mut connection = shard.connect(listening.local(), &ConnectOptions::default()).await?;
        connection.write_all(message.as_bytes()).await?;
        // Half-close: the server sees the end, and its answer still comes.
        connection.close_write().await?;
        let mut answer = Vec::new();
        loop {
            // The reactor lends its buffer; an empty one is the end of the stream.
            let lent = connection.fill().await?;
            if lent.is_empty() {
                break;
            }
            answer.extend_from_slice(lent);
            let count = lent.len();
            connection.consume(count);
        }
        anyhow::ensure!(answer == message.as_bytes(), "{message:?} was changed on the way");
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let endpoint = std::env::args().nth(1);
    let runtime = Runtime::from_env()?;
    let listening = runtime.listen(endpoint.as_deref().unwrap_or("tcp:127.0.0.1:0"))?;
    println!("listening on {}", listening.local());
    let (stopper, checked) = (runtime.stopper(), runtime.port::<()>("checked")?);
    let counts = runtime.run(move |shard| {
        let (listening, stopper, checked) = (listening.clone(), stopper.clone(), checked.clone());
        let serves_on = endpoint.is_some();
        async move {
            // All shards listen on the one port. A hash of the client's address says which shard owns a connection; one
            // that accepts another's hands it over.
            let acceptor = shard.accept_on(&listening)?;
            let counters = acceptor.counters();
            let serving = shard.spawn("serve", acceptor.serve(10_000, echo));
            if !serves_on {
                check(&shard, &listening).await?;
                // Every shard tells shard 0, which stops all of them.
                let mailbox = shard.open(&checked)?;
                mailbox.send(waterwheel::shard::ShardId::new(0), ()).await?;
                if shard.id().index() == 0 {
                    for _ in shard.ids() {
                        mailbox.receive().await;
                    }
                    stopper.stop(Duration::from_secs(5));
                }
            }
            serving.await?;
            Ok(counters.copy())
        }
    })?;
    for (shard, count) in counts.iter().enumerate() {
        let (accepted, given, taken) = (count.accepted, count.handed_over, count.taken_over);
        println!("shard {shard} accepted {accepted}, handed {given} over, took {taken} over");
    }
    Ok(())
}
