//! The sleep and wake protocol of a backend's waker, written once and model-checked with loom.

#[cfg(loom)]
use loom::sync::atomic::AtomicU8;
use std::fmt;
#[cfg(not(loom))]
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

#[cfg(loom)]
use broken::{Break, broken, order};

/// Decides which wakes must interrupt a sleep: at most one per sleep, and none that comes while the reactor is awake.
///
/// The loop: [`awake`](Doorbell::awake), poll the root, look at input and output; then sleep only if
/// [`may_sleep`](Doorbell::may_sleep). The waker: interrupt the sleep only if [`ring`](Doorbell::ring).
/// After a sleep that something else ended, the state is put right by the next `awake`; an interrupt that was already
/// on its way then arrives late and must be harmless. Whoever must interrupt a sleep sees what the loop wrote before
/// it: whom to interrupt, and how.
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
        #[cfg(loom)]
        if broken(Break::BornAwake) {
            return Doorbell { state: AtomicU8::new(AWAKE) };
        }
        Doorbell { state: AtomicU8::new(NOTIFIED) }
    }
}

impl Doorbell {
    /// Called by the loop before each poll of the root; what was written before a ring is seen by that poll.
    /// Answers whether a ring came since the last call.
    pub fn awake(&self) -> bool {
        let ordering = Acquire;
        #[cfg(loom)]
        let ordering = order(Break::AwakeRelaxed, Relaxed, ordering);
        #[cfg(loom)]
        if broken(Break::AwakeByStore) {
            let was = self.state.load(ordering);
            self.state.store(AWAKE, Relaxed);
            return was == NOTIFIED;
        }
        #[cfg(loom)]
        if broken(Break::AwakeOnlyIfNotified) {
            return self.state.compare_exchange(NOTIFIED, AWAKE, ordering, Relaxed).is_ok();
        }
        self.state.swap(AWAKE, ordering) == NOTIFIED
    }

    /// Called by the loop before it sleeps: false if a ring came since [`awake`](Doorbell::awake). When true, each
    /// further ring interrupts the sleep until the next `awake`.
    pub fn may_sleep(&self) -> bool {
        let ordering = Release;
        #[cfg(loom)]
        let ordering = order(Break::SleepRelaxed, Relaxed, ordering);
        #[cfg(loom)]
        if broken(Break::SleepByStore) {
            self.state.store(ASLEEP, ordering);
            return true;
        }
        #[cfg(loom)]
        if broken(Break::SleepByLoad) {
            let may = self.state.load(Relaxed) == AWAKE;
            self.state.store(if may { ASLEEP } else { NOTIFIED }, ordering);
            return may;
        }
        self.state.compare_exchange(AWAKE, ASLEEP, ordering, Relaxed).is_ok()
    }

    /// Called by the waker, from any thread: true if it must interrupt the sleep now.
    #[must_use]
    pub fn ring(&self) -> bool {
        let ordering = AcqRel;
        #[cfg(loom)]
        let ordering =
            order(Break::RingAcquireOnly, Acquire, order(Break::RingReleaseOnly, Release, ordering));
        #[cfg(loom)]
        if broken(Break::RingSkippedIfSeen) && self.state.load(Relaxed) == NOTIFIED {
            return false;
        }
        #[cfg(loom)]
        if broken(Break::RingOnlyTheSleeping) {
            return self.state.compare_exchange(ASLEEP, NOTIFIED, ordering, Relaxed).is_ok();
        }
        let was = self.state.swap(NOTIFIED, ordering);
        #[cfg(loom)]
        if broken(Break::RingInterruptsAlways) || broken(Break::RingInterruptsTheAwake) && was == AWAKE {
            return true;
        }
        #[cfg(loom)]
        if broken(Break::RingNeverInterrupts) {
            return false;
        }
        was == ASLEEP
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

#[cfg(loom)]
mod broken;
#[cfg(all(test, loom))]
mod models;
