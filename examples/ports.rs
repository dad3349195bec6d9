//! Messages between shards: a typed port, calls that are answered, and a closure that runs elsewhere.
//!
//! `WATERWHEEL_CORES=4 cargo run --example ports`, or any other count.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;

use waterwheel::mesh::{CallPort, Port};
use waterwheel::runtime::Runtime;
use waterwheel::shard::{Shard, ShardId};

/// A message goes round: each shard gets it from the one before, adds itself, and sends it to the one after.
async fn relay(shard: &Shard, port: &Port<Vec<usize>>) -> anyhow::Result<()> {
    let own = shard.id().index();
    let next = ShardId::new((own + 1) % shard.count());
    // A port is opened once per shard. Messages that were sent before wait in their lane.
    let mailbox = shard.open(port)?;
    if own == 0 {
        mailbox.send(next, vec![own]).await?;
        let (_, passed) = mailbox.receive().await;
        println!("the message went by {passed:?}");
    } else {
        let (_, mut passed) = mailbox.receive().await;
        passed.push(own);
        // `send` waits while the lane is full; `try_send` would give the message back.
        mailbox.send(next, passed).await?;
    }
    Ok(())
}

/// Each shard keeps a total, adds to it what it is asked to, and answers with it. The total needs no lock and no
/// atomic: only tasks of its own shard touch it.
async fn totals(shard: &Shard, port: &CallPort<u64, u64>) -> anyhow::Result<()> {
    let total = Rc::new(Cell::new(0));
    let _serving = shard.serve(port, move |_from, more| {
        total.set(total.get() + more);
        std::future::ready(total.get())
    })?;
    let caller = shard.caller(port)?;
    let mut answers = Vec::new();
    for to in shard.ids() {
        // A call ends with its reply or with an error, also if the other shard ends: it never hangs.
        answers.push(caller.call(to, 1).await?);
    }
    println!("{:?} was told {answers:?}", shard.id());
    Ok(())
}

/// Waits until every shard is here: one that ended would answer no more.
async fn meet(shard: &Shard, port: &Port<()>) -> anyhow::Result<()> {
    let mailbox = shard.open(port)?;
    for to in shard.ids() {
        mailbox.send(to, ()).await?;
    }
    for _ in shard.ids() {
        mailbox.receive().await;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    // Ports are declared before the shards run, and each shard gets a clone.
    let runtime = Runtime::from_env()?;
    let (message, total, here) =
        (runtime.port("message")?, runtime.call_port("total")?, runtime.port("here")?);
    runtime.run(move |shard| {
        let (message, total, here) = (message.clone(), total.clone(), here.clone());
        async move {
            relay(&shard, &message).await?;
            totals(&shard, &total).await?;
            // For what happens rarely: a closure, run there, its answer brought back.
            let last = ShardId::new(shard.count() - 1);
            let ran = shard.run_on(last, |there| async move { there.id() }).await?;
            println!("{:?}: the closure ran on {ran:?}", shard.id());
            meet(&shard, &here).await
        }
    })?;
    Ok(())
}
