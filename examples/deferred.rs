//! A value to come: given once, or abandoned, or no longer wanted.
//!
//! `cargo run --example deferred`
#![forbid(unsafe_code)]

use std::time::Duration;

use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::{Resolver, Shard, deferred};

async fn program(shard: Shard) -> anyhow::Result<()> {
    // Who produces the value holds the resolver, who wants it holds the deferred.
    let (resolver, answer) = deferred();
    produce(&shard, resolver);
    println!("the answer is {}", answer.await?);

    // `resolve` takes the resolver by value, so this does not compile:
    //     resolver.resolve(1);
    //     resolver.resolve(2);

    // A resolver that is dropped without giving a value is an error at once, never a hang.
    let (resolver, answer) = deferred::<u32>();
    drop(resolver);
    if let Err(abandoned) = answer.await {
        println!("nobody will answer: {abandoned}");
    }

    // Dropping the deferred is cancelling; the resolver can see it and stop working.
    let (mut resolver, answer) = deferred::<u32>();
    let clock = shard.clone();
    let worker = shard.spawn("worker", async move {
        for step in 0.. {
            if resolver.is_cancelled() {
                return step;
            }
            let pause = clock.sleep(Duration::from_millis(1));
            futures_util::future::select(std::pin::pin!(resolver.cancelled()), pause).await;
        }
        0
    });
    shard.sleep(Duration::from_millis(10)).await;
    drop(answer);
    println!("the worker noticed after {} steps", worker.await?);

    // A deadline goes around it as around any other future.
    let (_resolver, late) = deferred::<u32>();
    let outcome = shard.timeout(Duration::from_millis(2), late).await;
    println!("too late: {}", outcome.is_err());
    Ok(())
}

fn produce(shard: &Shard, resolver: Resolver<u32>) {
    let clock = shard.clone();
    shard.spawn_detached("producer", async move {
        clock.sleep(Duration::from_millis(5)).await;
        resolver.resolve(42);
    });
}

fn main() -> anyhow::Result<()> {
    let config = Config::from_env()?.cores(1);
    Runtime::new(config)?.run(program)?;
    Ok(())
}
