//! A reactor of one's own, on the `polling` crate, and an echo through it: `cargo run --example own_reactor`.
//!
//! `reactor.rs` is all of it: the loop and its waker, then the sockets. `laws.rs` holds it to the contract:
//! `cargo test --test own_reactor`.
#![deny(unsafe_code)]

mod reactor;

use waterwheel::net::pump;
use waterwheel::reactor::ConnectOptions;
use waterwheel::runtime::{Config, Runtime};

fn main() -> anyhow::Result<()> {
    // This program names its reactor, and the environment may name another. `Runtime::from_env_with(&[&Polling])` leaves
    // the choice to the environment alone.
    let own = [("WATERWHEEL_REACTOR".into(), "polling".into())];
    let config = Config::from_vars(own.into_iter().chain(std::env::vars_os()))?;
    let runtime = Runtime::with_backends(config, &[&reactor::Polling])?;
    println!("{}", runtime.choice());
    let (listening, stopper) = (runtime.listen("tcp:127.0.0.1:0")?, runtime.stopper());
    runtime.run(move |shard| {
        let (listening, stopper) = (listening.clone(), stopper.clone());
        async move {
            let echo = shard.accept_on(&listening)?.serve(1000, |connection| async {
                let (mut receiving, mut sending) = connection.split();
                pump(&mut receiving, &mut sending).await?;
                Ok(())
            });
            let serving = shard.spawn("serve", echo);
            if shard.id().index() == 0 {
                let mut connection = shard.connect(listening.local(), &ConnectOptions::default()).await?;
                let (said, mut answer) = (*b"the wheel turns", [0; 15]);
                connection.write_all(&said).await?;
                connection.read_exact(&mut answer).await?;
                let answer = String::from_utf8_lossy(&answer);
                anyhow::ensure!(answer.as_bytes() == said, "{answer:?} came back");
                println!("{answer}");
                stopper.stop(std::time::Duration::from_secs(5));
            }
            Ok(serving.await?)
        }
    })?;
    Ok(())
}
