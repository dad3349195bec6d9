//! Tasks and time: sleeps, timeouts, cancelling, giving way.
//!
//! `cargo run --example sleep`
#![forbid(unsafe_code)]

use std::time::Duration;

use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::{Shard, TaskEnded};

async fn program(shard: Shard) -> anyhow::Result<()> {
    let start = shard.now();
    let since = |what: &str| println!("{:>7.1} ms  {what}", shard.now().since(start).as_secs_f64() * 1e3);

    // A task runs beside the one that spawned it, on the same core. It starts in the next turn, not in this call.
    let clock = shard.clone();
    let task = shard.spawn("sleeper", async move {
        clock.sleep(Duration::from_millis(20)).await;
        "slept"
    });
    since("spawned");
    println!("            the task said {:?}", task.await?);
    since("its result is there");

    // What takes too long is dropped, and dropping a future cancels it.
    let never = std::future::pending::<()>();
    let elapsed = shard.timeout(Duration::from_millis(5), never).await;
    since("the timeout came");
    anyhow::ensure!(elapsed.is_err(), "what never comes has come");

    // Deadlines that are equal are over in the order in which they were set.
    let at = shard.now() + Duration::from_millis(3);
    let tasks = ["first", "second", "third"].map(|name| {
        let clock = shard.clone();
        shard.spawn("in order", async move {
            clock.sleep_until(at).await;
            println!("            {name}");
        })
    });
    for task in tasks {
        task.await?;
    }

    // Long work asks now and then whether it should give way; the others on this core are then served in between.
    let clock = shard.clone();
    let work = shard.spawn("long work", async move {
        let (mut sum, mut turns) = (0u64, 0);
        for number in 0..2_000_000u64 {
            sum = sum.wrapping_add(number * number);
            if number % 10_000 == 0 {
                let before = clock.turn_time();
                clock.yield_if_needed().await;
                turns += u32::from(clock.turn_time() != before);
            }
        }
        (sum, turns)
    });
    let (sum, turns) = work.await?;
    since(&format!("the sum is {sum}; it gave way {turns} times"));

    // A task that panics (the message below is the panic's own) ends alone. Who waits for it is told, and the shard
    // goes on.
    let unlucky = shard.spawn("unlucky", async { panic!("a bug") });
    anyhow::ensure!(unlucky.await == Err::<(), _>(TaskEnded), "a task that panicked has a result");
    since("a task panicked, and nothing else happened");
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let config = Config::from_env()?.cores(1);
    Runtime::new(config)?.run(program)?;
    Ok(())
}
