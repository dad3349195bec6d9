//! State and limits over all shards: one object per shard, a value that each has a copy of, and leases of what there is
//! only so much of.
//!
//! `WATERWHEEL_CORES=4 cargo run --example sharded`, or any other count.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use waterwheel::mesh::{CountLimiter, Instance, Instances, Local, RateLimiter, Version};
use waterwheel::runtime::Runtime;
use waterwheel::shard::{Shard, ShardId};

/// Hits by path. Only tasks of its own shard touch it, so a `RefCell` is enough.
#[derive(Default)]
struct Hits(RefCell<BTreeMap<&'static str, u64>>);

impl Instance for Hits {
    async fn stop(&self) {
        println!("{:?} stops with {} paths", Shard::current(), self.0.borrow().len());
    }
}

/// Makes an instance on every shard, asks them, and stops them.
async fn hits(shard: &Shard, hits: &Instances<Hits>) -> anyhow::Result<()> {
    hits.start(|_there| async { anyhow::Ok(Hits::default()) }).await?;
    let last = ShardId::new(shard.count() - 1);
    // A closure goes to the instance; the instance never leaves its shard.
    hits.invoke_on(last, |hits| async move { hits.0.borrow_mut().insert("/mill", 41) }).await?;
    let count = |hits: Local<Hits>| async move {
        *hits.0.borrow_mut().entry("/mill").or_default() += 1;
        hits.0.borrow()["/mill"]
    };
    let sum = hits.map_reduce(count, 0, |sum, count| sum + count).await?;
    println!("{sum} hits on {} shards", shard.count());
    // Waits until nobody uses an instance any more.
    Ok(hits.stop().await?)
}

/// Works for a moment as fast as the limits over all shards allow.
async fn limited(shard: &Shard, rate: &RateLimiter, count: &CountLimiter) -> anyhow::Result<u64> {
    let (end, mut done) = (shard.now() + Duration::from_millis(300), 0);
    while shard.now() < end {
        // The first waits until one is free, the second until it is its turn; both end if the keeper of the limit does.
        let _permit = count.take().await?;
        rate.take().await?;
        done += 1;
    }
    Ok(done)
}

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::from_env()?;
    // All are declared before the shards run, and each shard gets a clone.
    let (all, greeting) = (runtime.sharded::<Hits>("hits")?, runtime.replicated("greeting", "hello")?);
    let (rate, count) = (runtime.rate_lease("rate", 1_000)?, runtime.count_lease("count", 2)?);
    let done = runtime.port::<()>("done")?;
    let worked = runtime.run(move |shard| {
        let (all, greeting, rate) = (all.clone(), greeting.clone(), rate.clone());
        let (count, done) = (count.clone(), done.clone());
        async move {
            let (greeting, done) = (shard.replica(&greeting)?, shard.open(&done)?);
            if shard.id().index() == 0 {
                hits(&shard, &shard.instances(&all)?).await?;
                greeting.publish("good night");
            }
            // Each shard reads its own copy, without a lock; and hears of what is newer.
            let (version, value) = greeting.newer_than(Version::FIRST).await;
            println!("{:?} says {value:?}, version {}", shard.id(), version.number());
            let worked = limited(&shard, &shard.rate_limiter(&rate)?, &shard.count_limiter(&count)?).await?;
            // Nobody ends before all are done: a keeper that has ended lends no more.
            for to in shard.ids() {
                done.send(to, ()).await?;
            }
            for _ in shard.ids() {
                done.receive().await;
            }
            Ok(worked)
        }
    })?;
    println!("{worked:?}: {} things in 300 ms, of a thousand per second", worked.iter().sum::<u64>());
    Ok(())
}
