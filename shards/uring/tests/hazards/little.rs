//! Limits on the memory that may be locked.

use std::time::Duration;

use waterwheel_conformance::kit::{Mail, lock_at_most, on_each, shard, with_deadline};
use waterwheel_conformance::{Law, Outcome};
use waterwheel_reactor::Backend;

use crate::log::Log;

pub(crate) const LAWS: &[Law] = &[
    Law::new("MEMORY-1", "the first shard takes all that may be locked", |backend| {
        shards_share(backend, 2, "small rings, wakes by eventfd")
    })
    .alone(),
    Law::new("MEMORY-2", "more shards than full rings fit", |backend| {
        shards_share(backend, 5, "small rings, receives without buffers, wakes by eventfd")
    })
    .alone(),
    Law::new("MEMORY-3", "nothing may be locked: a panic, or no reason", nothing_at_all).alone(),
];

/// The limit that many systems have.
const LITTLE: u64 = 64 << 10;

/// Leaves little memory that may be locked.
pub(crate) fn lock_little() {
    lock_at_most(LITTLE);
}

/// All of them run at once and talk to each other, and one line tells why they are slower.
fn shards_share(backend: &dyn Backend, count: usize, degraded: &str) -> Outcome {
    lock_little();
    let log = Log::begin();
    backend.probe().expect("it runs with little");
    talk(backend, count);
    log.says_once(&["little memory may be locked (ulimit -l)", degraded, "bytes=65536"]);
    // What was closed last still counts.
    talk(backend, count);
    Outcome::Holds
}

/// Each shard is told something by the one before.
fn talk(backend: &dyn Backend, count: usize) {
    let mails: Vec<Mail<usize>> = (0..count).map(|_| Mail::default()).collect();
    let ring = (0..count).map(|number| {
        let (mine, next) = (mails[number].clone(), mails[(number + 1) % count].clone());
        shard(move |reactor| async move {
            next.send(number);
            with_deadline(&reactor, Duration::from_secs(5), "a word of the neighbour", mine.receive()).await
        })
    });
    let heard = on_each(backend, ring.collect());
    assert!(heard.iter().enumerate().all(|(number, from)| (from + 1) % count == number), "{heard:?}");
}

fn nothing_at_all(backend: &dyn Backend) -> Outcome {
    lock_at_most(0);
    match backend.probe() {
        // Kernels from 5.12 to 6.13 do not count rings.
        Ok(()) => Outcome::NotOffered("this kernel does not count what a ring locks"),
        Err(unavailable) => {
            let unavailable = unavailable.to_string();
            assert!(unavailable.contains("io_uring_setup: Cannot allocate memory"), "{unavailable}");
            assert!(unavailable.contains("ulimit -l"), "{unavailable}");
            Outcome::Holds
        }
    }
}
