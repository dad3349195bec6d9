//! A limit per second on real threads: kept, and mostly reached, wherever the demand is. How exactly, the simulation
//! says (`src/sim/laws/leased.rs`), where no other program takes the processor away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{RateLease, TryTakeError};

on_each_reactor![
    a_rate_is_asked_for_by_whoever_tries_and_a_small_one_is_shared_too,
    ; kernel: a_rate_is_kept_and_reached_wherever_the_demand_is,
];

const PER_SECOND: u64 = 10_000;
const STRETCH: Duration = Duration::from_millis(500);

fn a_rate_is_kept_and_reached_wherever_the_demand_is(bench: &Bench) {
    let mesh = bench.mesh(4);
    let lease = RateLease::declare(&mesh, "rate", PER_SECOND).unwrap();
    let (here, over) = (Meeting::of(4), Meeting::of(4));
    // By stretch; then the messages.
    let totals: [Arc<AtomicU64>; 4] = Default::default();
    let seen = totals.clone();
    bench.run(&mesh, move |shard| {
        let (lease, here, over, totals) = (lease.clone(), here.clone(), over.clone(), totals.clone());
        async move {
            let limiter = shard.rate_limiter(&lease).unwrap();
            here.wait().await;
            let began = shard.now();
            for (number, total) in totals.iter().take(3).enumerate() {
                let until = began + STRETCH * (number as u32 + 1);
                // One has all the demand, then another, then all.
                let wants = [0, 3, shard.id().index()][number] == shard.id().index();
                while wants && shard.now() < until {
                    match shard.timeout(until.since(shard.now()), limiter.take()).await {
                        Ok(taken) => taken.unwrap(),
                        Err(_) => break,
                    }
                    total.fetch_add(1, SeqCst);
                }
                shard.sleep_until(until).await;
            }
            let stats = shard.mesh_stats();
            let port = stats.ports.iter().find(|port| port.name == "rate").unwrap();
            totals[3].fetch_add(2 * port.sent, SeqCst);
            over.wait().await;
        }
    });
    let [first, second, third, messages] = seen.map(|total| total.load(SeqCst));
    let taken = [first, second, third];
    let allowed = PER_SECOND / 2;
    // A busy machine takes the processor away for longer than a bucket lasts.
    assert!(taken.iter().all(|taken| *taken > allowed / 3), "too few: {taken:?}");
    assert!(taken.iter().sum::<u64>() <= 3 * allowed * 103 / 100 + allowed / 10, "too many: {taken:?}");
    assert!(messages <= 250, "{messages} messages in a second and a half");
}

fn a_rate_is_asked_for_by_whoever_tries_and_a_small_one_is_shared_too(bench: &Bench) {
    let mesh = bench.mesh(2);
    let lease = RateLease::declare(&mesh, "small", 200).unwrap();
    let over = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let (lease, over) = (lease.clone(), over.clone());
        async move {
            let limiter = shard.rate_limiter(&lease).unwrap();
            if shard.id() == id(1) {
                // Its even part alone would take twice as long.
                let began = shard.now();
                let mut taken = 0;
                while taken < 60 {
                    match limiter.try_take() {
                        Ok(()) => taken += 1,
                        Err(error) => assert_eq!(error, TryTakeError::Empty("small")),
                    }
                    shard.sleep(Duration::from_millis(1)).await;
                }
                let took = shard.now().since(began);
                assert!(took >= Duration::from_millis(270), "too many, in {took:?}");
                assert!(limiter.share() > 150.0, "it has {} of 200", limiter.share());
            }
            over.wait().await;
        }
    });
}
