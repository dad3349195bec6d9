//! Leases: never more than the limit, nothing lost, nobody starved, and an end is told.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;

use super::{Bench, Meeting, Stuck, id, on_each_reactor};
use crate::mesh::{CountLease, DeclareError, KeeperEnded, Mesh, OpenError, RateLease, TryTakeError};
use crate::shard::{Shard, ShardId};

on_each_reactor![
    a_count_is_never_exceeded_and_everybody_gets_his_turn,
    a_count_comes_back_from_shards_that_hold_what_they_do_not_use,
    a_count_comes_back_from_a_shard_that_ended,
    who_waits_for_a_keeper_that_ends_is_told,
    a_task_that_gives_up_waiting_takes_nothing,
    limits_that_are_none_and_leases_of_others_are_refused,
    a_smaller_limit_takes_effect_as_places_come_back,
    a_count_that_nobody_uses_is_given_up_on_all_shards,
    ; kernel: a_limit_is_changed_once_more_while_a_shard_is_stuck,
];

/// A lease whose keeper is this shard.
fn kept_by<L>(mesh: &Mesh, keeper: usize, declare: impl Fn(&'static str) -> (L, ShardId)) -> L {
    let names = ["lease", "lease 2", "lease 3", "lease 4", "lease 5"];
    let mut leases = names.iter().take(mesh.shards()).map(|name| declare(name));
    leases.find(|(_, of)| of.index() == keeper).expect("the keepers go round").0
}

fn count_lease(mesh: &Arc<Mesh>, keeper: usize, limit: u64) -> CountLease {
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
    let (held, gave_up, over) = (Meeting::of(2), Meeting::of(2), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (lease, held, gave_up, over) = (lease.clone(), held.clone(), gave_up.clone(), over.clone());
        async move {
            let limiter = shard.count_limiter(&lease).unwrap();
            if shard.id() == id(1) {
                let permit = limiter.take().await.unwrap();
                held.wait().await;
                gave_up.wait().await;
                drop(permit);
                // What the other gave up comes back, although nobody there returns it by a drop.
                drop(limiter.take().await.unwrap());
            } else {
                held.wait().await;
                let waits = shard.timeout(Duration::from_micros(300), limiter.take());
                assert!(waits.await.is_err(), "two of one");
                gave_up.wait().await;
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

fn a_smaller_limit_takes_effect_as_places_come_back(bench: &Bench) {
    for keeper in [0, 2] {
        let mesh = bench.mesh(3);
        let lease = count_lease(&mesh, keeper, 6);
        let turns = [0; 8].map(|_| Meeting::of(3));
        bench.run(&mesh, move |shard| {
            let (lease, turns) = (lease.clone(), turns.clone());
            let mut turns = turns.into_iter();
            let mut turn = move || turns.next().expect("as many as there are");
            async move { shrinks(&shard, &lease, async || turn().wait().await).await }
        });
    }
}

/// Of six, two are out on each of three shards when the limit becomes two, and then eight.
async fn shrinks(shard: &Shard, lease: &CountLease, mut turn: impl AsyncFnMut()) {
    let (limiter, me) = (shard.count_limiter(lease).unwrap(), shard.id().index());
    let mut permits = vec![limiter.take().await.unwrap(), limiter.take().await.unwrap()];
    turn().await;
    let smaller = lease.with_limit(2).unwrap();
    if me == 1 {
        limiter.change_limit(&smaller);
        assert_eq!(limiter.limit(), 2);
        limiter.limit_reached().await;
    }
    turn().await;
    assert_eq!(limiter.limit(), 2);
    limiter.change_limit(lease);
    assert_eq!(limiter.limit(), 2, "what is older does not count");
    if me < 2 {
        permits.clear();
    }
    turn().await;
    let waits = async || shard.timeout(Duration::from_millis(5), limiter.take()).await;
    assert!(waits().await.is_err(), "two are out, of two");
    turn().await;
    permits.truncate(1);
    if me == 0 {
        permits = vec![limiter.take().await.unwrap()];
        assert!(waits().await.is_err(), "a third");
    }
    turn().await;
    permits.clear();
    turn().await;
    let greater = smaller.with_limit(8).unwrap();
    if me == 2 {
        limiter.change_limit(&greater);
        limiter.limit_reached().await;
        take_all(shard, &greater).await;
    }
    turn().await;
    if me == 0 {
        take_all(shard, &greater).await;
    }
    turn().await;
}

fn a_limit_is_changed_once_more_while_a_shard_is_stuck(bench: &Bench) {
    let mesh = bench.mesh(3);
    let lease = count_lease(&mesh, 0, 6);
    let stuck = Stuck::new();
    let (taken, over) = (Meeting::of(3), Meeting::of(3));
    bench.run(&mesh, move |shard| {
        let (lease, taken, over) = (lease.clone(), taken.clone(), over.clone());
        let stuck = stuck.clone();
        async move {
            let limiter = shard.count_limiter(&lease).unwrap();
            let _permits = [limiter.take().await.unwrap(), limiter.take().await.unwrap()];
            taken.wait().await;
            // A wake takes effect when the turn ends.
            shard.sleep(Duration::from_millis(1)).await;
            if shard.id() == id(2) {
                stuck.hang();
            } else if shard.id() == id(1) {
                let smaller = lease.with_limit(2).unwrap();
                limiter.change_limit(&smaller);
                shard.sleep(Duration::from_millis(5)).await;
                assert!(limiter.try_take().is_err(), "six are out, of two");
                limiter.change_limit(&smaller.with_limit(8).unwrap());
                let more = join_all([limiter.take(), limiter.take()]);
                let more = shard.timeout(Duration::from_secs(20), more).await;
                assert!(more.expect("a stuck shard holds them up").iter().all(Result::is_ok));
                stuck.free();
                limiter.limit_reached().await;
            }
            over.wait().await;
        }
    });
}

fn a_count_that_nobody_uses_is_given_up_on_all_shards(bench: &Bench) {
    const ROUNDS: usize = 8;
    let mesh = bench.mesh(3);
    let ports = mesh.port_count();
    let turns = [0; 2 * ROUNDS].map(|_| Meeting::of(3));
    let leases: Arc<[Mutex<Option<CountLease>>; 4]> = Arc::default();
    let (declaring, given) = (mesh.clone(), leases.clone());
    bench.run(&mesh, move |shard| {
        let (mesh, leases, turns) = (declaring.clone(), given.clone(), turns.clone());
        async move {
            let (me, tasks) = (shard.id().index(), shard.stats().alive);
            for (round, turns) in turns.chunks(2).enumerate() {
                if me == 0 {
                    // Under a name that was used before.
                    let lease = CountLease::declare(&mesh, "short", 3 + round as u64).unwrap();
                    leases.iter().for_each(|place| *place.lock().unwrap() = Some(lease.clone()));
                }
                turns[0].wait().await;
                let lease = leases[me].lock().unwrap().take().unwrap();
                if me == 1 {
                    drop(leases[3].lock().unwrap().take());
                }
                uses_up(&shard, lease).await;
                assert_eq!(mesh.port_count(), ports);
                turns[1].wait().await;
            }
            // Each other shard may have had a closure run here, by a task that is kept.
            assert!(shard.stats().alive <= tasks + 3, "{} tasks, {tasks} before", shard.stats().alive);
        }
    });
    assert_eq!(mesh.port_count(), ports);
}

/// Uses a lease of which nothing is left when all shards have done so.
async fn uses_up(shard: &Shard, lease: CountLease) {
    let is_left = || shard.mesh_stats().ports.iter().any(|port| port.name == "short");
    let limiter = shard.count_limiter(&lease).unwrap();
    drop(lease);
    let (permit, again) = (limiter.take().await.unwrap(), limiter.clone());
    drop((limiter, again));
    shard.sleep(Duration::from_millis(1)).await;
    assert!(is_left(), "a permit is out");
    drop(permit);
    while is_left() {
        shard.sleep(Duration::from_millis(1)).await;
    }
}
