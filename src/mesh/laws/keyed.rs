//! Limits by keys: never more than the limit over all shards, what is gone comes back, and nobody waits for who has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;

use super::{Bench, Meeting, Stuck, id, on_each_reactor};
use crate::mesh::{KeyLease, KeyLimiter, KeyLimits, KeyRate, KeyRefusal};
use crate::shard::{Shard, ShardId};

on_each_reactor![
    a_key_has_no_more_than_its_limit_over_all_shards_and_all_of_it_again,
    what_an_ended_shard_had_of_a_key_is_free,
    a_key_whose_home_has_ended_is_limited_by_each_shard_for_itself,
    a_take_that_is_given_up_takes_nothing,
    a_rate_of_a_key_is_kept_over_all_shards,
    ; kernel: a_home_that_is_stuck_keeps_nobody_waiting,
];

fn at_once(most: u32) -> KeyLimits {
    KeyLimits { most: Some(most), rate: None }
}

/// Takes all that there is of a key at once, as a proof that nothing is missing and nothing is too much.
async fn take_all(shard: &Shard, limiter: &KeyLimiter<u32>, home: ShardId, key: u32, most: u32) {
    let mut permits = Vec::new();
    let all = async {
        while permits.len() < most as usize {
            match limiter.take(home, key, at_once(most)).await {
                Ok(permit) => permits.push(permit.expect("it is counted")),
                // What came back may be on its way.
                Err(_) => shard.sleep(Duration::from_millis(1)).await,
            }
        }
    };
    shard.timeout(Duration::from_secs(20), all).await.expect("some are missing");
    let more = limiter.take(home, key, at_once(most)).await;
    assert_eq!(more.map(drop), Err(KeyRefusal::TooMany));
}

fn a_key_has_no_more_than_its_limit_over_all_shards_and_all_of_it_again(bench: &Bench) {
    const KEYS: u32 = 5;
    const MOST: u32 = 3;
    let mesh = bench.mesh(3);
    let lease = KeyLease::<u32>::declare(&mesh, "keys").unwrap();
    let out = Arc::new(Mutex::new(BTreeMap::<u32, u32>::new()));
    let (quiet, over) = (Meeting::of(3), Meeting::of(3));
    bench.run(&mesh, move |shard| {
        let (lease, out, quiet, over) = (lease.clone(), out.clone(), quiet.clone(), over.clone());
        async move {
            let limiter = shard.key_limiter(&lease).unwrap();
            let home = |key: u32| id(key as usize % 3);
            let work = (0..6).map(|task| {
                let (shard, limiter, out) = (&shard, &limiter, &out);
                async move {
                    for round in 0..60 {
                        let key = (task + round) % KEYS;
                        let Ok(permit) = limiter.take(home(key), key, at_once(MOST)).await else { continue };
                        {
                            let mut out = out.lock().unwrap();
                            let count = out.entry(key).or_default();
                            *count += 1;
                            assert!(*count <= MOST, "{count} of {key} are out");
                        }
                        shard.yield_now().await;
                        *out.lock().unwrap().get_mut(&key).unwrap() -= 1;
                        drop(permit);
                    }
                }
            });
            join_all(work.collect::<Vec<_>>()).await;
            quiet.wait().await;
            for key in 0..KEYS {
                if key as usize % 3 == (shard.id().index() + 1) % 3 {
                    take_all(&shard, &limiter, home(key), key, MOST).await;
                }
            }
            assert_eq!(limiter.far_keys().0, 0, "what is not out takes no memory");
            over.wait().await;
        }
    });
}

fn what_an_ended_shard_had_of_a_key_is_free(bench: &Bench) {
    let mesh = bench.mesh(3);
    let lease = KeyLease::<u32>::declare(&mesh, "keys").unwrap();
    let (taken, over) = (Meeting::of(3), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (lease, taken, over) = (lease.clone(), taken.clone(), over.clone());
        async move {
            let limiter = shard.key_limiter(&lease).unwrap();
            let permit = limiter.take(id(0), 7, at_once(3)).await.expect("a third of them");
            taken.wait().await;
            if shard.id() == id(2) {
                // It ends with one, and with one that is asked for.
                let mut more = Box::pin(limiter.take(id(0), 7, at_once(9)));
                let _ = futures_util::poll!(&mut more);
                return;
            }
            drop(permit);
            if shard.id() == id(1) {
                take_all(&shard, &limiter, id(0), 7, 3).await;
            }
            over.wait().await;
        }
    });
}

fn a_key_whose_home_has_ended_is_limited_by_each_shard_for_itself(bench: &Bench) {
    let mesh = bench.mesh(2);
    let lease = KeyLease::<u32>::declare(&mesh, "keys").unwrap();
    let taken = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let (lease, taken) = (lease.clone(), taken.clone());
        async move {
            let limiter = shard.key_limiter(&lease).unwrap();
            if shard.id() == id(0) {
                let _permit = limiter.take(id(0), 7, at_once(2)).await.unwrap();
                return taken.wait().await;
            }
            let first = limiter.take(id(0), 7, at_once(2)).await.unwrap();
            taken.wait().await;
            shard.ended(id(0)).await;
            let second = limiter.take(id(0), 7, at_once(2)).await.expect("nobody counts the other shard's");
            let third = limiter.take(id(0), 7, at_once(2)).await;
            assert_eq!(third.map(drop), Err(KeyRefusal::TooMany));
            let rate = Some(KeyRate::new(1, Duration::from_secs(3_600), 2));
            for more in [true, true, false] {
                let often = limiter.take(id(0), 8, KeyLimits { most: None, rate }).await;
                assert_eq!(often.is_ok(), more, "{often:?}");
            }
            drop((first, second));
            assert_eq!(limiter.far_keys(), (0, 0));
        }
    });
}

fn a_home_that_is_stuck_keeps_nobody_waiting(bench: &Bench) {
    const MOST: u32 = 3;
    let mesh = bench.mesh(2);
    let lease = KeyLease::<u32>::declare(&mesh, "keys").unwrap();
    let stuck = Stuck::new();
    let meetings = [(); 4].map(|()| Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (lease, [known, back, quiet, over]) = (lease.clone(), meetings.clone());
        let stuck = stuck.clone();
        async move {
            let limiter = shard.key_limiter(&lease).unwrap();
            let first = limiter.take(id(0), 7, at_once(MOST)).await.expect("a third of them");
            known.wait().await;
            // A wake takes effect when the turn ends.
            shard.sleep(Duration::from_millis(1)).await;
            if shard.id() == id(0) {
                stuck.hang();
            } else {
                shard.sleep(Duration::from_millis(5)).await;
                let more = join_all((0..4).map(|_| limiter.take(id(0), 7, at_once(MOST)))).await;
                // There is one beside its own two that it does not know of.
                assert_eq!(more.iter().filter(|more| more.is_ok()).count(), MOST as usize - 1, "{more:?}");
                stuck.free();
                drop(more);
            }
            drop(first);
            // What it said too late goes back as well.
            back.wait().await;
            take_all(&shard, &limiter, id(0), 7 + shard.id().index() as u32, MOST).await;
            quiet.wait().await;
            if shard.id() == id(0) {
                take_all(&shard, &limiter, id(0), 7, MOST).await;
                assert_eq!(limiter.count(id(0), 7), 0);
            }
            over.wait().await;
        }
    });
}

fn a_take_that_is_given_up_takes_nothing(bench: &Bench) {
    let mesh = bench.mesh(2);
    let lease = KeyLease::<u32>::declare(&mesh, "keys").unwrap();
    let over = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let (lease, over) = (lease.clone(), over.clone());
        async move {
            let limiter = shard.key_limiter(&lease).unwrap();
            if shard.id() == id(1) {
                for turns in 0..20 {
                    let mut given_up = Box::pin(limiter.take(id(0), 7, at_once(1)));
                    for _ in 0..turns % 4 {
                        if futures_util::poll!(&mut given_up).is_ready() {
                            break;
                        }
                        shard.yield_now().await;
                    }
                }
                take_all(&shard, &limiter, id(0), 7, 1).await;
            }
            over.wait().await;
        }
    });
}

fn a_rate_of_a_key_is_kept_over_all_shards(bench: &Bench) {
    let mesh = bench.mesh(3);
    let lease = KeyLease::<u32>::declare(&mesh, "keys").unwrap();
    let (through, met) = (Arc::new(Mutex::new(0)), Meeting::of(3));
    let counted = through.clone();
    bench.run(&mesh, move |shard| {
        let (lease, through, met) = (lease.clone(), counted.clone(), met.clone());
        async move {
            let limiter = shard.key_limiter(&lease).unwrap();
            // So seldom that none comes to the burst.
            let rate = Some(KeyRate::new(1, Duration::from_secs(3_600), 10));
            for _ in 0..20 {
                match limiter.take(id(1), 7, KeyLimits { most: None, rate }).await {
                    Ok(None) => *through.lock().unwrap() += 1,
                    Ok(Some(_)) => panic!("it is counted, and nothing limits it"),
                    Err(refusal) => assert_eq!(refusal, KeyRefusal::TooOften),
                }
            }
            met.wait().await;
        }
    });
    assert_eq!(*through.lock().unwrap(), 10);
}
