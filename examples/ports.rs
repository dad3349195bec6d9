//! Messages between shards: a typed port, and calls that are answered.
//!
//! `cargo run --example ports`, best with `WATERWHEEL_CORES=4`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use waterwheel::mesh::{CallError, CallPort, Port};
use waterwheel::runtime::Runtime;
use waterwheel::shard::{Shard, ShardId};

/// A word that goes round through all shards.
struct Baton {
    laps_left: u32,
    passed_by: Vec<usize>,
}

/// Hands the baton on to the next shard until its laps are run.
async fn relay(shard: &Shard, port: &Port<Baton>) -> anyhow::Result<()> {
    let mailbox = shard.open(port)?;
    let next = ShardId::new((shard.id().index() + 1) % shard.count());
    if shard.id().index() == 0 {
        mailbox
            .send(next, Baton { laps_left: 2, passed_by: Vec::new() })
            .await
            .map_err(|_| anyhow::anyhow!("it ended"))?;
    }
    loop {
        let (from, mut baton) = mailbox.receive().await;
        baton.passed_by.push(from.index());
        if shard.id().index() == 0 {
            baton.laps_left -= 1;
        }
        if baton.laps_left == 0 {
            // The last lap: everybody sees the end once, and the first shard prints it.
            if shard.id().index() == 0 {
                println!("the baton was passed by {:?}", baton.passed_by);
            }
            if next.index() == 0 {
                return Ok(());
            }
            let _ = mailbox.send(next, baton).await;
            return Ok(());
        }
        // A full lane makes `send` wait; `try_send` would give the message back.
        mailbox.send(next, baton).await.map_err(|_| anyhow::anyhow!("it ended"))?;
    }
}

/// Every shard counts what it is asked, and answers with its count.
async fn count(shard: &Shard, port: &CallPort<u64, u64>) -> anyhow::Result<()> {
    let total = Rc::new(Cell::new(0));
    let _serving = shard.serve(port, move |_from, more| {
        total.set(total.get() + more);
        std::future::ready(total.get())
    })?;
    let caller = shard.caller(port)?;
    let mut answers = Vec::new();
    for to in shard.ids() {
        // A call ends with a reply or with an error, also when the other shard ends: it never hangs.
        answers.push(caller.call(to, 1).await?);
    }
    println!("{:?} was told {answers:?}", shard.id());
    // Serve until the others are done too.
    shard.sleep(Duration::from_millis(50)).await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::from_env()?;
    let (baton, counter) = (runtime.port("baton")?, runtime.call_port("counter")?);
    runtime.run(move |shard| {
        let (baton, counter) = (baton.clone(), counter.clone());
        async move {
            relay(&shard, &baton).await?;
            count(&shard, &counter).await?;
            // Anything else that should run on another shard, once: a closure.
            let other = ShardId::new(shard.count() - 1);
            match shard.run_on(other, |shard| async move { shard.id().index() }).await {
                Ok(ran) => println!("{:?}: the closure ran on {ran}", shard.id()),
                Err(CallError::Closed) => println!("{:?}: {other:?} has ended already", shard.id()),
                Err(error) => return Err(error.into()),
            }
            Ok(())
        }
    })?;
    Ok(())
}
