//! The sleep and wake protocol of a backend's waker, written once and model-checked with loom.

#[cfg(loom)]
use loom::sync::atomic::AtomicU8;
use std::fmt;
#[cfg(not(loom))]
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// Decides which wakes must interrupt a sleep: at most one per sleep, and none that comes while the reactor is awake.
///
/// The loop: [`awake`](Doorbell::awake), poll the root, look at input and output; then sleep only if
/// [`may_sleep`](Doorbell::may_sleep). The waker: interrupt the sleep only if [`ring`](Doorbell::ring).
/// After a sleep that something else ended, the state is put right by the next `awake`; an interrupt that was already
/// on its way then arrives late and must be harmless.
pub struct Doorbell {
    state: AtomicU8,
}

/// The root is polled, or will be before the next sleep that nobody forbade.
const AWAKE: u8 = 0;
/// The root must be polled before the next sleep.
const NOTIFIED: u8 = 1;
/// The reactor sleeps, or is about to: whoever replaces this must interrupt it.
const ASLEEP: u8 = 2;

impl Default for Doorbell {
    /// Notified: a root is polled at least once.
    fn default() -> Doorbell {
        Doorbell { state: AtomicU8::new(NOTIFIED) }
    }
}

impl Doorbell {
    /// Called by the loop before each poll of the root; what was written before a ring is seen by that poll.
    /// Answers whether a ring came since the last call.
    pub fn awake(&self) -> bool {
        self.state.swap(AWAKE, AcqRel) == NOTIFIED
    }

    /// Called by the loop before it sleeps: false if a ring came since [`awake`](Doorbell::awake). When true, each
    /// further ring interrupts the sleep until the next `awake`.
    pub fn may_sleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, AcqRel, Relaxed).is_ok()
    }

    /// Called by the waker, from any thread: true if it must interrupt the sleep now.
    #[must_use]
    pub fn ring(&self) -> bool {
        self.state.swap(NOTIFIED, AcqRel) == ASLEEP
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state.load(Relaxed) {
            AWAKE => "awake",
            NOTIFIED => "notified",
            _ => "asleep",
        };
        f.debug_tuple("Doorbell").field(&state).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_a_sleep_is_interrupted_and_only_once() {
        let door = Doorbell::default();
        assert!(!door.may_sleep(), "a root that was never polled must not be slept on");
        assert!(door.awake());
        assert!(!door.ring(), "awake: no interrupt");
        assert!(!door.may_sleep());
        door.awake();
        assert!(door.may_sleep());
        assert!(door.ring());
        assert!(!door.ring(), "one interrupt per sleep");
        assert!(door.awake());
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release -p waterwheel-reactor --lib --target-dir target/loom`
#[cfg(all(test, loom))]
mod models {
    use loom::sync::atomic::{AtomicBool, AtomicUsize};
    use loom::sync::{Arc, Notify};
    use loom::thread;

    use super::*;

    /// A reactor's loop and `ringers` other threads, each of which has something for the root. loom reports a wake-up
    /// that is lost as a deadlock. Three preemptions suffice for every wrong version that was tried.
    fn every_ring_is_seen(ringers: usize) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let door = Arc::new(Doorbell::default());
            let interrupt = Arc::new(Notify::new());
            let interrupts = Arc::new(AtomicUsize::new(0));
            let news: Vec<_> = (0..ringers).map(|_| Arc::new(AtomicBool::new(false))).collect();
            let threads: Vec<_> = news
                .iter()
                .cloned()
                .map(|mine| {
                    let (door, interrupt, interrupts) = (door.clone(), interrupt.clone(), interrupts.clone());
                    thread::spawn(move || {
                        mine.store(true, Relaxed);
                        if door.ring() {
                            interrupts.fetch_add(1, Relaxed);
                            interrupt.notify();
                        }
                    })
                })
                .collect();
            let mut sleeps = 0;
            loop {
                door.awake();
                // The poll of the root.
                if news.iter().all(|one| one.load(Relaxed)) {
                    break;
                }
                if door.may_sleep() {
                    sleeps += 1;
                    interrupt.wait();
                }
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(interrupts.load(Relaxed) <= sleeps, "a ring interrupted a reactor that was awake");
        });
    }

    #[test]
    fn one_ring_is_never_lost() {
        every_ring_is_seen(1);
    }

    #[test]
    fn of_two_rings_none_is_lost() {
        every_ring_is_seen(2);
    }
}
