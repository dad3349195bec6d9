//! A rate over all shards on real reactors: kept to the clock, with few messages, whoever has the cores meanwhile. That it is
//! reached, and how it follows demand, shows in simulation, where nobody else has them.

use std::time::Duration;

use anyhow::Context;
use waterwheel::runtime::Runtime;

use super::kit::{config, on_each_reactor};

on_each_reactor![a_rate_over_four_shards_is_kept_with_few_messages,];

const SHARDS: usize = 4;
const PER_SECOND: u64 = 10_000;
/// First all of them want all of it, then half of them do.
const STRETCH: Duration = Duration::from_secs(1);

fn a_rate_over_four_shards_is_kept_with_few_messages(reactor: &str) {
    let runtime = Runtime::new(config(reactor, SHARDS)).unwrap().without_signals();
    let lease = runtime.rate_lease("rate", PER_SECOND).unwrap();
    let found = runtime
        .run(move |shard| {
            let lease = lease.clone();
            async move {
                let limiter = shard.rate_limiter(&lease)?;
                let (began, mut taken) = (shard.now(), 0);
                let stretches = if shard.id().index() % 2 == 0 { 2 } else { 1 };
                let end = began + STRETCH * stretches;
                while let Ok(outcome) = shard.timeout(end.since(shard.now()), limiter.take()).await {
                    outcome?;
                    taken += 1;
                }
                // Nobody ends before all are done: a keeper that has ended lends no more.
                shard.sleep_until(began + STRETCH * 3).await;
                let stats = shard.mesh_stats();
                let port = stats.ports.iter().find(|port| port.name == "rate").context("it was used")?;
                Ok((taken, port.sent))
            }
        })
        .unwrap();
    let taken: u64 = found.iter().map(|(taken, _)| taken).sum();
    // Each is a call, with its reply.
    let messages = 2 * found.iter().map(|(_, sent)| sent).sum::<u64>();
    let allowed = PER_SECOND * 2 * STRETCH.as_secs();
    eprintln!("{reactor}: {taken} of {allowed} taken, with {messages} messages in 3 s: {found:?}");
    assert!(taken <= allowed + allowed / 50, "{taken} of {allowed}: {found:?}");
    // Half of it, where others have the cores for most of the time.
    assert!(taken >= allowed / 2, "{taken} of {allowed}: {found:?}");
    assert!(messages <= 300, "{messages} messages in 3 s");
}
