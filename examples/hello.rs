//! The smallest program: one task on every core.
//!
//! `cargo run --example hello`, or with a count of your own: `WATERWHEEL_CORES=4 cargo run --example hello`.
#![forbid(unsafe_code)]

use waterwheel::runtime::Runtime;

fn main() -> anyhow::Result<()> {
    // One shard for each core that this process may use, unless the environment says otherwise.
    let runtime = Runtime::from_env()?;
    println!("{}", runtime.choice());

    // The closure runs once on every shard, each a thread that is pinned to its core. What it makes stays there, so
    // nothing in it needs a lock or has to be `Send`. Only what it returns comes back.
    let greetings = runtime
        .run(|shard| async move { Ok(format!("hello from {:?} of {}", shard.id(), shard.count())) })?;

    for greeting in greetings {
        println!("{greeting}");
    }
    Ok(())
}
