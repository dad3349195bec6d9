//! A limit per second on real threads: kept, and mostly reached, wherever the demand is. How exactly, the simulation
//! says (`src/sim/laws/leased.rs`), where no other program takes the processor away.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use waterwheel_reactor::Time;

use super::{Bench, Meeting, Stuck, id, on_each_reactor};
use crate::mesh::{RateLease, TryTakeError};

on_each_reactor![
    a_rate_is_asked_for_by_whoever_tries_and_a_small_one_is_shared_too,
    a_rate_is_changed_for_all_by_any_of_them,
    a_rate_that_nobody_uses_is_given_up_on_all_shards,
    ; kernel: a_rate_is_kept_and_reached_wherever_the_demand_is, a_rate_is_changed_once_more_while_a_shard_is_stuck,
];

const PER_SECOND: u64 = 10_000;
const STRETCH: Duration = Duration::from_millis(500);

fn a_rate_is_kept_and_reached_wherever_the_demand_is(bench: &Bench) {
    let allowed = PER_SECOND / 2;
    // A busy machine takes the processor away for longer than a bucket lasts, and not each time; a simulated one does not.
    let tries = if bench.backend.name() == "sim" { 1 } else { 10 };
    let reached = (0..tries).any(|_| {
        let (taken, messages) = three_stretches(bench);
        println!("{taken:?} taken, with {messages} messages");
        assert!(taken.iter().sum::<u64>() <= 3 * allowed * 103 / 100 + allowed / 10, "too many: {taken:?}");
        assert!(messages <= 250, "{messages} messages in a second and a half");
        taken.iter().all(|taken| *taken > allowed / 3)
    });
    assert!(reached, "too few, each time");
}

/// What is taken in each stretch of which all the demand is one shard's, then another's, then everybody's; and how many
/// messages that takes.
fn three_stretches(bench: &Bench) -> ([u64; 3], u64) {
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
    ([first, second, third], messages)
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

fn a_rate_is_changed_for_all_by_any_of_them(bench: &Bench) {
    const WHILE: Duration = Duration::from_millis(200);
    // Who changes it, to what.
    const CHANGES: [(usize, u64); 4] = [(1, 50), (2, 5_000), (0, 40), (1, 3_000)];
    let mesh = bench.mesh(3);
    let lease = RateLease::declare(&mesh, "rate", 3_000).unwrap();
    let turns = [0; CHANGES.len()].map(|_| (Meeting::of(3), Meeting::of(3)));
    // When it began, and how many were taken in that while.
    let sums: Arc<[[AtomicU64; 2]; CHANGES.len()]> = Arc::default();
    let seen = sums.clone();
    bench.run(&mesh, move |shard| {
        let (lease, turns, sums) = (lease.clone(), turns.clone(), sums.clone());
        async move {
            let limiter = shard.rate_limiter(&lease).unwrap();
            let (takes, taken) = (limiter.clone(), Rc::new(Cell::new(0)));
            let counted = taken.clone();
            let taking = shard.spawn("takes all there is", async move {
                while takes.take().await.is_ok() {
                    counted.set(counted.get() + 1);
                }
            });
            shard.sleep(WHILE / 4).await;
            let mut newest = lease;
            for (((who, most), (changed, over)), [begun, sum]) in CHANGES.into_iter().zip(turns).zip(&*sums) {
                newest = newest.with_rate(most).unwrap();
                if shard.id() == id(who) {
                    limiter.change_rate(&newest);
                    assert_eq!(limiter.per_second(), most);
                    limiter.rate_reached().await;
                    begun.store(shard.now().since(Time::ZERO).as_nanos() as u64, SeqCst);
                }
                changed.wait().await;
                assert_eq!(limiter.per_second(), most, "all have it");
                limiter.rate_reached().await;
                let before = taken.get();
                shard.sleep_until(Time::from_nanos(begun.load(SeqCst)) + WHILE).await;
                sum.fetch_add(taken.get() - before, SeqCst);
                over.wait().await;
            }
            taking.cancel();
        }
    });
    for ((_, most), [_, sum]) in CHANGES.iter().zip(&*seen) {
        let (taken, allowed) = (sum.load(SeqCst), most / 5);
        // What is in the buckets, one at least in each, and in the pool; and what comes while a shard is late.
        assert!(taken <= allowed + allowed / 2 + 4, "{taken} of {allowed}");
        assert!(taken >= allowed / 4, "{taken} of {allowed}");
    }
}

fn a_rate_that_nobody_uses_is_given_up_on_all_shards(bench: &Bench) {
    const ROUNDS: usize = 6;
    let mesh = bench.mesh(3);
    let ports = mesh.port_count();
    let turns = [0; 2 * ROUNDS].map(|_| Meeting::of(3));
    let leases: Arc<[Mutex<Option<RateLease>>; 3]> = Arc::default();
    let (declaring, given) = (mesh.clone(), leases.clone());
    bench.run(&mesh, move |shard| {
        let (mesh, leases, turns) = (declaring.clone(), given.clone(), turns.clone());
        async move {
            let (me, tasks) = (shard.id().index(), shard.stats().alive);
            for (round, turns) in turns.chunks(2).enumerate() {
                if me == 0 {
                    // Under a name that was used before.
                    let lease = RateLease::declare(&mesh, "short", 300 + round as u64).unwrap();
                    leases.iter().for_each(|place| *place.lock().unwrap() = Some(lease.clone()));
                }
                turns[0].wait().await;
                let lease = leases[me].lock().unwrap().take().unwrap();
                let is_left = || shard.mesh_stats().ports.iter().any(|port| port.name == "short");
                let limiter = shard.rate_limiter(&lease).unwrap();
                drop(lease);
                limiter.take().await.unwrap();
                let again = limiter.clone();
                drop(limiter);
                shard.sleep(Duration::from_millis(1)).await;
                assert!(is_left(), "there is a limiter");
                again.take().await.unwrap();
                drop(again);
                while is_left() {
                    shard.sleep(Duration::from_millis(1)).await;
                }
                assert_eq!(mesh.port_count(), ports);
                turns[1].wait().await;
            }
            // Each other shard may have had a closure run here, by a task that is kept.
            assert!(shard.stats().alive <= tasks + 3, "{} tasks, {tasks} before", shard.stats().alive);
        }
    });
    assert_eq!(mesh.port_count(), ports);
}

fn a_rate_is_changed_once_more_while_a_shard_is_stuck(bench: &Bench) {
    let mesh = bench.mesh(3);
    let lease = RateLease::declare(&mesh, "rate", 100).unwrap();
    let keeper = lease.keeper().index();
    let (stuck_one, changer) = ((keeper + 1) % 3, (keeper + 2) % 3);
    let stuck = Stuck::new();
    let (here, over) = (Meeting::of(3), Meeting::of(3));
    bench.run(&mesh, move |shard| {
        let (lease, here, over) = (lease.clone(), here.clone(), over.clone());
        let stuck = stuck.clone();
        async move {
            let limiter = shard.rate_limiter(&lease).unwrap();
            limiter.take().await.unwrap();
            here.wait().await;
            // A wake takes effect when the turn ends.
            shard.sleep(Duration::from_millis(1)).await;
            if shard.id() == id(stuck_one) {
                stuck.hang();
            } else if shard.id() == id(changer) {
                let smaller = lease.with_rate(10).unwrap();
                limiter.change_rate(&smaller);
                shard.sleep(Duration::from_millis(5)).await;
                limiter.change_rate(&smaller.with_rate(10_000).unwrap());
                // At either of the other rates these take seconds.
                let many = async {
                    for _ in 0..1_500 {
                        limiter.take().await.unwrap();
                    }
                };
                shard.timeout(Duration::from_secs(10), many).await.expect("a stuck shard holds it up");
                stuck.free();
                limiter.rate_reached().await;
            }
            over.wait().await;
        }
    });
}
