//! Leases: never more than the limit, nothing lost, nobody starved, and an end is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use futures_util::future::join_all;

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{CountLease, DeclareError, KeeperEnded, Mesh, OpenError, RateLease, TryTakeError};
use crate::shard::{Shard, ShardId};

on_each_reactor![
    a_count_is_never_exceeded_and_everybody_gets_his_turn,
    a_count_comes_back_from_shards_that_hold_what_they_do_not_use,
    a_count_comes_back_from_a_shard_that_ended,
    who_waits_for_a_keeper_that_ends_is_told,
    a_task_that_gives_up_waiting_takes_nothing,
    limits_that_are_none_and_leases_of_others_are_refused,
];

/// A lease whose keeper is this shard.
fn kept_by<L>(mesh: &Mesh, keeper: usize, declare: impl Fn(&'static str) -> (L, ShardId)) -> L {
    let names = ["lease", "lease 2", "lease 3", "lease 4", "lease 5"];
    let mut leases = names.iter().take(mesh.shards()).map(|name| declare(name));
    leases.find(|(_, of)| of.index() == keeper).expect("the keepers go round").0
}

fn count_lease(mesh: &Mesh, keeper: usize, limit: u64) -> CountLease {
    kept_by(mesh, keeper, |name| {
        let lease = CountLease::declare(mesh, name, limit).unwrap();
        (lease.clone(), lease.keeper())
    })
}

fn a_count_is_never_exceeded_and_everybody_gets_his_turn(bench: &Bench) {
    let mesh = bench.mesh(3);
    let lease = count_lease(&mesh, 0, 3);
    let (out, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (over, seen) = (Meeting::of(3), most.clone());
    bench.run(&mesh, move |shard| {
        let (out, most, over) = (out.clone(), most.clone(), over.clone());
        let limiter = shard.count_limiter(&lease).unwrap();
        async move {
            // Shard 2 asks for little, while the others never have enough.
            let (tasks, rounds) = if shard.id() == id(2) { (1, 20) } else { (8, 40) };
            let work = (0..tasks).map(|_| async {
                for _ in 0..rounds {
                    let _permit = limiter.take().await.unwrap();
                    let now = out.fetch_add(1, SeqCst) + 1;
                    most.fetch_max(now, SeqCst);
                    shard.yield_now().await;
                    out.fetch_sub(1, SeqCst);
                }
            });
            join_all(work.collect::<Vec<_>>()).await;
            assert_eq!(limiter.taken(), 0);
            over.wait().await;
        }
    });
    assert_eq!(seen.load(SeqCst), 3, "the most that were out at once");
}

/// Takes all there is at once, as a proof that nothing is missing; gives it back.
async fn take_all(shard: &Shard, lease: &CountLease) {
    let limiter = shard.count_limiter(lease).unwrap();
    let all = join_all((0..lease.limit()).map(|_| limiter.take()).collect::<Vec<_>>());
    let permits = shard.timeout(Duration::from_secs(20), all).await.expect("some are missing");
    assert!(permits.iter().all(Result::is_ok));
    assert!(matches!(limiter.try_take(), Err(TryTakeError::Empty(_))), "there are too many");
}

fn a_count_comes_back_from_shards_that_hold_what_they_do_not_use(bench: &Bench) {
    let mesh = bench.mesh(3);
    let lease = count_lease(&mesh, 0, 40);
    let (turns, over) = ([0; 3].map(|_| Meeting::of(3)), Meeting::of(3));
    bench.run(&mesh, move |shard| {
        let (lease, turns, over) = (lease.clone(), turns.clone(), over.clone());
        async move {
            let limiter = shard.count_limiter(&lease).unwrap();
            // Each takes some, one after the other, so that it gets reserves; and keeps a few of them.
            let mut permits = Vec::new();
            for _ in 0..10 {
                permits.push(limiter.take().await.unwrap());
            }
            permits.truncate(3);
            assert_eq!(limiter.taken(), 3);
            for (turn, meeting) in turns.iter().enumerate() {
                if turn == 1 {
                    permits.clear();
                }
                meeting.wait().await;
                if shard.id().index() == turn && turn > 0 {
                    take_all(&shard, &lease).await;
                }
            }
            over.wait().await;
        }
    });
}

fn a_count_comes_back_from_a_shard_that_ended(bench: &Bench) {
    let mesh = bench.mesh(3);
    let lease = count_lease(&mesh, 0, 6);
    let (taken, over) = (Meeting::of(3), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (lease, taken, over) = (lease.clone(), taken.clone(), over.clone());
        async move {
            let limiter = shard.count_limiter(&lease).unwrap();
            let mut permits = Vec::new();
            for _ in 0..2 {
                permits.push(limiter.take().await.unwrap());
            }
            taken.wait().await;
            if shard.id() == id(2) {
                // Ends with two of them, and perhaps some more to spare, and one that is asked for.
                let mut more = Box::pin(limiter.take());
                let _ = futures_util::poll!(&mut more);
                return;
            }
            drop(permits);
            if shard.id() == id(1) {
                take_all(&shard, &lease).await;
            }
            over.wait().await;
        }
    });
}

fn who_waits_for_a_keeper_that_ends_is_told(bench: &Bench) {
    let mesh = bench.mesh(2);
    let lease = count_lease(&mesh, 0, 2);
    let rate = kept_by(&mesh, 0, |name| {
        let name = if name == "lease" { "rate" } else { "rate 2" };
        let rate = RateLease::declare(&mesh, name, 10).unwrap();
        (rate.clone(), rate.keeper())
    });
    let (name, waits) = (rate.name(), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (lease, rate, waits) = (lease.clone(), rate.clone(), waits.clone());
        async move {
            if shard.id() == id(0) {
                return waits.wait().await;
            }
            let (count, rate) = (shard.count_limiter(&lease).unwrap(), shard.rate_limiter(&rate).unwrap());
            let permits = [count.take().await.unwrap(), count.take().await.unwrap()];
            let mut waiting = Box::pin(count.take());
            assert!(futures_util::poll!(&mut waiting).is_pending());
            waits.wait().await;
            let ended = KeeperEnded(lease.name());
            assert_eq!(waiting.await.map(drop), Err(ended));
            assert_eq!(count.take().await.map(drop), Err(ended));
            assert_eq!(count.try_take().map(drop), Err(TryTakeError::KeeperEnded(lease.name())));
            drop(permits);
            // More than it has: also a shard that could go on for a while is told.
            while rate.take().await.is_ok() {}
            assert_eq!(rate.take().await, Err(KeeperEnded(name)));
            assert_eq!(rate.try_take(), Err(TryTakeError::KeeperEnded(name)));
        }
    });
}

fn a_task_that_gives_up_waiting_takes_nothing(bench: &Bench) {
    let mesh = bench.mesh(2);
    let lease = count_lease(&mesh, 0, 1);
    let (held, over) = (Meeting::of(2), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (lease, held, over) = (lease.clone(), held.clone(), over.clone());
        async move {
            let limiter = shard.count_limiter(&lease).unwrap();
            if shard.id() == id(1) {
                let permit = limiter.take().await.unwrap();
                held.wait().await;
                shard.sleep(Duration::from_millis(2)).await;
                drop(permit);
                // What the other gave up comes back, although nobody there returns it by a drop.
                drop(limiter.take().await.unwrap());
            } else {
                held.wait().await;
                let waits = shard.timeout(Duration::from_micros(300), limiter.take());
                assert!(waits.await.is_err(), "two of one");
                // Its place is nobody's, and the grant that comes later stays to spare.
                assert_eq!(limiter.taken(), 0);
                drop(limiter.take().await.unwrap());
            }
            over.wait().await;
        }
    });
}

fn limits_that_are_none_and_leases_of_others_are_refused(bench: &Bench) {
    let (mesh, other) = (bench.mesh(1), bench.mesh(1));
    for limit in [0, 1_000_000_001, u64::MAX] {
        let refused = DeclareError::Limit { name: "bad", limit };
        assert_eq!(CountLease::declare(&mesh, "bad", limit).map(drop), Err(refused));
        assert_eq!(RateLease::declare(&mesh, "bad", limit).map(drop), Err(refused));
    }
    let foreign = CountLease::declare(&other, "foreign", 1).unwrap();
    assert_eq!(RateLease::declare(&other, "foreign", 1).map(drop), Err(DeclareError::NameTaken("foreign")));
    bench.run(&mesh, move |shard| {
        let foreign = shard.count_limiter(&foreign).map(drop);
        async move { assert_eq!(foreign, Err(OpenError::Foreign("foreign"))) }
    });
}
