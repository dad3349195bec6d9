//! Copies: versions only ever grow, all end up with the newest, and a shard that ended holds nobody up.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{Replicated, Version};

on_each_reactor![
    a_published_version_reaches_every_copy_and_never_goes_back,
    of_versions_published_at_once_all_keep_the_same_one,
    a_shard_that_misses_versions_gets_the_newest_and_few_of_the_others,
    who_ended_is_not_waited_for,
];

fn a_published_version_reaches_every_copy_and_never_goes_back(bench: &Bench) {
    let mesh = bench.mesh(3);
    let replicated = Replicated::declare(&mesh, "routes", vec![0_u64]).unwrap();
    let over = Meeting::of(3);
    bench.run(&mesh, move |shard| {
        let (replicated, over) = (replicated.clone(), over.clone());
        async move {
            let copy = shard.replica(&replicated).unwrap();
            assert_eq!((copy.version(), &**copy.value()), (Version::FIRST, &[0][..]));
            let old = copy.value();
            if shard.id() == id(1) {
                for number in 1..=50 {
                    let version = copy.publish(vec![number]);
                    assert_eq!(copy.version(), version, "a publisher reads what it wrote");
                    if number % 10 == 0 {
                        copy.reached(version).await;
                    }
                }
            } else {
                let mut known = Version::FIRST;
                while copy.value()[0] < 50 {
                    let (version, value) = copy.newer_than(known).await;
                    assert!(version > known, "{version:?} after {known:?}");
                    assert_eq!((value[0], version.by()), (version.number(), Some(id(1))));
                    known = version;
                }
            }
            assert_eq!(old[0], 0, "what is read stays as it is");
            assert!(Rc::ptr_eq(&copy.value(), &copy.value()), "a read copies nothing");
            over.wait().await;
        }
    });
}

fn of_versions_published_at_once_all_keep_the_same_one(bench: &Bench) {
    let mesh = bench.mesh(3);
    let replicated = Replicated::declare(&mesh, "state", (9, 9)).unwrap();
    let (here, spread, over) = (Meeting::of(3), Meeting::of(3), Meeting::of(3));
    let last: Arc<[AtomicU64; 3]> = Arc::default();
    let kept = last.clone();
    bench.run(&mesh, move |shard| {
        let (replicated, last) = (replicated.clone(), last.clone());
        let (here, spread, over) = (here.clone(), spread.clone(), over.clone());
        async move {
            let copy = shard.replica(&replicated).unwrap();
            here.wait().await;
            let own = shard.id().index() as u64;
            let mut published = copy.version();
            for round in 0..20 {
                let before = copy.version();
                let version = copy.publish((own, round));
                published = version;
                assert!(version > before);
                if (round + own).is_multiple_of(3) {
                    shard.yield_now().await;
                    assert!(copy.version() >= version, "a version went back");
                }
            }
            copy.reached(published).await;
            spread.wait().await;
            let (from, round) = *copy.value();
            last[shard.id().index()].store(from * 100 + round, SeqCst);
            over.wait().await;
        }
    });
    let last: Vec<u64> = kept.iter().map(|last| last.load(SeqCst)).collect();
    assert!(last.iter().all(|value| *value == last[0]), "they differ: {last:?}");
}

/// Counts how often it is copied.
struct Costly(u64, Arc<AtomicU64>);

impl Clone for Costly {
    fn clone(&self) -> Costly {
        self.1.fetch_add(1, SeqCst);
        Costly(self.0, self.1.clone())
    }
}

fn a_shard_that_misses_versions_gets_the_newest_and_few_of_the_others(bench: &Bench) {
    let mesh = bench.mesh(2);
    let copies = Arc::new(AtomicU64::new(0));
    let replicated = Replicated::declare(&mesh, "costly", Costly(0, copies.clone())).unwrap();
    let (published, over) = (Meeting::of(2), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (replicated, published, over) = (replicated.clone(), published.clone(), over.clone());
        let copies = copies.clone();
        async move {
            if shard.id() == id(0) {
                let copy = shard.replica(&replicated).unwrap();
                let mut version = Version::FIRST;
                for number in 1..=1000 {
                    version = copy.publish(Costly(number, copies.clone()));
                    if number % 100 == 0 {
                        shard.yield_now().await;
                    }
                }
                published.wait().await;
                copy.reached(version).await;
                assert_eq!(
                    shard.mesh_stats().ports.iter().find(|port| port.name == "costly").unwrap().sent,
                    2
                );
            } else {
                // Has no copy yet: the first version waits in the lane, and the last takes the place of all others.
                published.wait().await;
                let copy = shard.replica(&replicated).unwrap();
                let (mut known, mut seen) = (Version::FIRST, 0);
                while copy.value().0 < 1000 {
                    known = copy.newer_than(known).await.0;
                    seen += 1;
                }
                assert!(seen <= 2, "{seen} versions came");
            }
            over.wait().await;
        }
    });
}

fn who_ended_is_not_waited_for(bench: &Bench) {
    let mesh = bench.mesh(3);
    let replicated = Replicated::declare(&mesh, "left", 0).unwrap();
    let (gone, over) = (Meeting::of(2), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (replicated, gone, over) = (replicated.clone(), gone.clone(), over.clone());
        async move {
            match shard.id().index() {
                // It never asks for its copy.
                2 => return gone.wait().await,
                1 => drop(shard.replica(&replicated).unwrap()),
                _ => {
                    let copy = shard.replica(&replicated).unwrap();
                    let version = copy.publish(1);
                    let waits = shard.timeout(Duration::from_millis(1), copy.reached(version));
                    assert!(waits.await.is_err(), "a shard that has no copy yet is waited for");
                    gone.wait().await;
                    copy.reached(version).await;
                    shard.ended(id(2)).await;
                    let later = copy.publish(2);
                    copy.reached(later).await;
                }
            }
            over.wait().await;
        }
    });
}
