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
