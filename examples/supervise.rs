//! Supervision: a shard that fails is restarted in its place, and the others go on.
//!
//! The last shard keeps a counter that the others add to. Its main future panics now and then: then their calls fail with
//! `Closed`, and they wait until it is back. A task that panics is no such thing: it ends alone.
//!
//! `cargo run --example supervise`; `WATERWHEEL_ON_FAILURE=escalate` shows what happens otherwise.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use waterwheel::mesh::{CallError, CallPort};
use waterwheel::runtime::{Config, OnFailure, Runtime, Supervision};
use waterwheel::shard::{Shard, ShardId};

/// How often it fails before it keeps going.
const DEATHS: u32 = 2;

/// Keeps the counter. What it has in memory is gone with each life.
async fn keep(shard: &Shard, port: &CallPort<u32, u32>, life: u32) -> anyhow::Result<()> {
    let total = Cell::new(0);
    let _serving = shard.serve(port, move |_from, more| {
        total.set(total.get() + more);
        ready(total.get())
    })?;
    shard.sleep(Duration::from_millis(20)).await;
    assert!(life >= DEATHS, "planned: the end of life {life}");
    shard.stopping().await;
    Ok(())
}

/// Adds to it until it stays. Who is slow may see two failures as one.
async fn add(
    shard: &Shard,
    port: &CallPort<u32, u32>,
    keeper: ShardId,
    lives: &AtomicU32,
) -> anyhow::Result<()> {
    let caller = shard.caller(port)?;
    loop {
        let is_last = lives.load(Relaxed) > DEATHS;
        match caller.call(keeper, 1).await {
            Ok(total) if is_last => {
                println!("{:?}: the total is {total} now", shard.id());
                return Ok(());
            }
            Ok(_total) => shard.sleep(Duration::from_millis(1)).await,
            Err(CallError::Closed) => {
                let began = shard.now();
                shard.opened(keeper).await;
                let took = shard.now().since(began);
                println!("{:?}: the keeper failed, and was back after {took:?}", shard.id());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let supervision = Supervision { pause: Duration::from_millis(10), ..Supervision::default() };
    let config = Config::from_env()?.cores(2).supervision(supervision);
    let runtime = Runtime::new(config)?.on_failure(OnFailure::Restart);
    let (port, lives) = (runtime.call_port("keep")?, Arc::new(AtomicU32::new(0)));
    let (stopper, counted) = (runtime.stopper(), lives.clone());
    runtime.run(move |shard| {
        let (port, lives, stopper) = (port.clone(), lives.clone(), stopper.clone());
        async move {
            let keeper = ShardId::new(shard.count() - 1);
            if shard.id() == keeper {
                return keep(&shard, &port, lives.fetch_add(1, Relaxed)).await;
            }
            let added = add(&shard, &port, keeper, &lives).await;
            stopper.stop(Duration::from_secs(5));
            added
        }
    })?;
    println!("the keeper had {} lives", counted.load(Relaxed));
    Ok(())
}
