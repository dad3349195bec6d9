//! A limit per second: kept, and reached, wherever the demand is, with few messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::{Bench, Meeting, on_each_reactor};
use crate::mesh::RateLease;
use crate::shard::Shard;

on_each_reactor![
    a_rate_is_kept_and_reached_while_demand_moves,
];

const PER_SECOND: u64 = 10_000;

/// What one shard wants in each stretch of time: `None`: as much as it can get.
type Demand = Option<u64>;

/// By stretch, by shard: one wants all; all want all; one moderate and the rest elsewhere; it moves.
const DEMANDS: [[Demand; 4]; 6] = [
    [None, Some(0), Some(0), Some(0)],
    [Some(0), None, Some(100), Some(0)],
    [None, None, None, None],
    [Some(2_000), Some(300), Some(50), None],
    [Some(2_000), None, Some(50), Some(0)],
    [Some(0), Some(1_000), None, Some(1_000)],
];
const STRETCH: Duration = Duration::from_millis(1_000);

/// Takes tokens as the demand says until the stretch is over.
async fn takes(shard: &Shard, limiter: &crate::mesh::RateLimiter, demand: Demand, until: waterwheel_reactor::Time) -> u64 {
    let mut taken = 0;
    let began = shard.now();
    loop {
        let left = until.since(shard.now());
        if left.is_zero() {
            return taken;
        }
        if let Some(demand) = demand {
            let due = began + Duration::from_nanos((taken + 1) * 1_000_000_000 / demand.max(1));
            shard.sleep_until(due.min(until)).await;
            if due >= until {
                continue;
            }
        }
        match shard.timeout(until.since(shard.now()), limiter.take()).await {
            Ok(outcome) => outcome.unwrap(),
            Err(_) => return taken,
        }
        taken += 1;
    }
}

fn a_rate_is_kept_and_reached_while_demand_moves(bench: &Bench) {
    let mesh = bench.mesh(4);
    let lease = RateLease::declare(&mesh, "rate", PER_SECOND).unwrap();
    let (here, over) = (Meeting::of(4), Meeting::of(4));
    let totals: Arc<[AtomicU64; DEMANDS.len() + 1]> = Arc::default();
    let seen = totals.clone();
    bench.run(&mesh, move |shard| {
        let (lease, here, over, totals) = (lease.clone(), here.clone(), over.clone(), totals.clone());
        async move {
            let limiter = shard.rate_limiter(&lease).unwrap();
            here.wait().await;
            let began = shard.now();
            for (number, demands) in DEMANDS.iter().enumerate() {
                let until = began + STRETCH * (number as u32 + 1);
                let taken = takes(&shard, &limiter, demands[shard.id().index()], until).await;
                totals[number].fetch_add(taken, SeqCst);
            }
            let stats = shard.mesh_stats();
            let port = stats.ports.iter().find(|port| port.name == "rate").unwrap();
            totals[DEMANDS.len()].fetch_add(2 * port.sent, SeqCst);
            over.wait().await;
        }
    });
    let totals: Vec<u64> = seen.iter().map(|total| total.load(SeqCst)).collect();
    panic!("{totals:?}");
}
