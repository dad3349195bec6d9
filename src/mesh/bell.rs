//! One shard's bell: who has something for it, whether it sleeps, whether it ended. One word, alone on its line.
//!
//! | bits | meaning |
//! |---|---|
//! | 0–60 | source shards, modulo 61: look at all that concerns them |
//! | 61 | FOREIGN: an outside thread woke a task or left a job |
//! | 62 | STOPPED: the shard ended; cleared by its next life |
//! | 63 | PARKED: the owner sleeps, and the first ring must wake it |
//!
//! Only the owner takes and parks; anybody rings. A source's bit says "look at all that concerns this source": its
//! lanes to me, room in my lanes to it, whether it ended. So a bit may be set for nothing, but nothing is without a bit.
//!
//! * A message is in its lane before the ring (`fetch_or`, which releases), and the bell is taken (`swap`, which
//!   acquires) before any lane is read: whoever sees the bit sees the message.
//! * Parking is an exchange of the empty word: a ring that came before makes it fail, a ring that comes after finds
//!   PARKED and wakes. Exactly the ring that finds PARKED *alone* wakes, so there is at most one wake per park.
//! * A wake may come late, when the owner was already woken by something else: a root may be polled for nothing.
//!
//! Model-checked over this code in `models/`.

use std::fmt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};
use std::task::Waker;

use super::sync::{AtomicU32, AtomicU64, Counter, Mutex, or};
use crate::shard::between::RingForeign;
#[cfg(loom)]
use crate::shard::broken::{Break, broken, order};

const FOREIGN: u64 = 1 << 61;
const STOPPED: u64 = 1 << 62;
const PARKED: u64 = 1 << 63;
/// How many bits name sources. Shards beyond share bits.
pub(super) const SOURCE_BITS: usize = 61;

/// See the module's text.
pub(crate) struct Bell {
    word: Word,
    /// Which life the shard is in and whether that ended, on a line that is hardly ever written: peers read it each time
    /// that the shard rings them.
    vital: Vital,
    /// Wakes the shard's root; set in the first poll of each life of it.
    waker: Mutex<Option<Waker>>,
    /// How often a ring invoked it.
    wakes: Counter,
}

/// Written by every ringer, so alone on its line; two lines, since processors fetch them in pairs.
#[repr(align(128))]
struct Word(AtomicU64);
#[repr(align(128))]
struct Vital(AtomicU32);

/// Which of its lives a shard is in, and whether that is over; as one number, so that nobody sees half of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// 0 is the first.
    pub(super) number: u32,
    pub(super) is_over: bool,
}

/// What was rung, as the owner takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rung(u64);

impl Rung {
    /// The bits of the sources.
    pub(super) fn sources(self) -> u64 {
        self.0 & (FOREIGN - 1)
    }

    /// An outside thread rang.
    pub(super) fn foreign(self) -> bool {
        self.0 & FOREIGN != 0
    }
}

/// What a ring came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The target ended: what was sent to it must be swept by the sender.
    pub(super) stopped: bool,
    /// The target slept and was woken by this ring.
    pub(super) woke: bool,
}

impl Bell {
    pub(super) fn new() -> Bell {
        Bell {
            word: Word(AtomicU64::new(0)),
            vital: Vital(AtomicU32::new(0)),
            waker: Mutex::new(None),
            wakes: Counter::new(0),
        }
    }

    /// Shard `source` has something for the owner: a message, room, its end.
    pub(super) fn ring(&self, source: usize) -> Answer {
        self.ring_bit(1 << (source % SOURCE_BITS))
    }

    /// An outside thread has something for the owner.
    pub(super) fn ring_foreign(&self) -> Answer {
        self.ring_bit(FOREIGN)
    }

    // Never skipped because a load saw the bit: the owner may be about to take it, before the message was there.
    fn ring_bit(&self, bit: u64) -> Answer {
        let ordering = AcqRel;
        #[cfg(loom)]
        let ordering = order(Break::RingRelaxed, Relaxed, ordering);
        #[cfg(loom)]
        let ordering = order(Break::RingAcquireOnly, Acquire, ordering);
        #[cfg(loom)]
        if broken(Break::RingSkippedIfSeen) && self.word.0.load(Relaxed) & bit != 0 {
            return Answer { stopped: false, woke: false };
        }
        let old = or(&self.word.0, bit, ordering);
        let woke = old == PARKED;
        #[cfg(loom)]
        let woke = woke || broken(Break::WakeWheneverParked) && old & PARKED != 0;
        #[cfg(loom)]
        let woke = woke && !(broken(Break::ForeignNeverWakes) && bit == FOREIGN);
        if woke {
            // Whoever finds it parked is alone with that, and its owner sets another one only in its first turn, so nobody
            // waits here.
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waker) = &*waker {
                self.wakes.fetch_add(1, Relaxed);
                waker.wake_by_ref();
            }
        }
        Answer { stopped: old & STOPPED != 0, woke }
    }

    /// The owner, first thing in a turn and before any lane is read: what was rung since the last time. Ends the
    /// sleep, whatever it was that ended it.
    pub(super) fn take(&self) -> Rung {
        if self.word.0.load(Relaxed) == 0 {
            return Rung(0);
        }
        let ordering = Acquire;
        #[cfg(loom)]
        let ordering = order(Break::TakeRelaxed, Relaxed, ordering);
        #[cfg(loom)]
        if broken(Break::TakeKeepsParked) {
            return Rung(self.word.0.fetch_and(PARKED, ordering));
        }
        Rung(self.word.0.swap(0, ordering))
    }

    /// The owner: whether something was rung that it has not taken.
    pub(super) fn is_rung(&self) -> bool {
        self.word.0.load(Relaxed) & !PARKED != 0
    }

    /// The owner, when nothing else is left to do: true if it may sleep now, false if it must look again.
    pub(super) fn park(&self) -> bool {
        let ordering = Release;
        #[cfg(loom)]
        if broken(Break::ParkByStore) {
            self.word.0.store(PARKED, ordering);
            return true;
        }
        self.word.0.compare_exchange(0, PARKED, ordering, Relaxed).is_ok()
    }

    /// The owner, in the first turn of its life: what a ring invokes that finds it asleep.
    pub(super) fn set_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// The owner's end; its consumers are in their slots. Every ring from now on is answered with `stopped`.
    pub(super) fn stop(&self) {
        let word = AcqRel;
        #[cfg(loom)]
        let word = order(Break::StopReleaseOnly, Release, order(Break::StopAcquireOnly, Acquire, word));
        let vital = Release;
        #[cfg(loom)]
        let vital = order(Break::EndedStoreRelaxed, Relaxed, vital);
        // A life may end before it was reopened: then it never was one to others.
        if self.word.0.fetch_or(STOPPED, word) & STOPPED == 0 {
            self.next_vital(vital);
        }
    }

    // Only the owner writes it: the end of a life, and the beginning of the next. In one step, and asked nothing before: a
    // load here would hide from loom who loads it meanwhile (see `models`).
    fn next_vital(&self, ordering: Ordering) {
        self.vital.0.fetch_add(1, ordering);
    }

    /// The owner, in a new life, once everybody else has learned of the end of the one before: it can be rung again. What
    /// was rung meanwhile is kept.
    pub(super) fn reopen(&self) {
        #[cfg(loom)]
        if broken(Break::StoppedKept) {
            return self.next_vital(Release);
        }
        let vital = Release;
        #[cfg(loom)]
        let vital = order(Break::BackStoreRelaxed, Relaxed, vital);
        self.word.0.fetch_and(!STOPPED, AcqRel);
        self.next_vital(vital);
    }

    /// Anybody: whether the owner ended. Whoever sees it and then reads the owner's lanes sees all it ever sent.
    pub(super) fn has_ended(&self) -> bool {
        self.life().is_over
    }

    /// Anybody: which life the owner is in, and whether it ended, as in [`has_ended`](Bell::has_ended).
    pub(super) fn life(&self) -> Life {
        let ordering = Acquire;
        #[cfg(loom)]
        let ordering = order(Break::EndedLoadRelaxed, Relaxed, ordering);
        let vital = self.vital.0.load(ordering);
        Life { number: vital / 2, is_over: vital % 2 == 1 }
    }
}

impl Bell {
    /// How often a ring woke the owner: never more often than it parked.
    pub(super) fn wakes(&self) -> u64 {
        self.wakes.load(Relaxed)
    }
}

impl RingForeign for Bell {
    fn ring_foreign(&self) {
        Bell::ring_foreign(self);
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.0.load(Relaxed);
        f.debug_struct("Bell")
            .field("sources", &format_args!("{:#b}", word & (FOREIGN - 1)))
            .field("foreign", &(word & FOREIGN != 0))
            .field("stopped", &(word & STOPPED != 0))
            .field("parked", &(word & PARKED != 0))
            .finish()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::shard::wakes::Wakes;

    fn belled() -> (Bell, Wakes) {
        let (bell, wakes) = (Bell::new(), Wakes::default());
        bell.set_waker(&wakes.waker(0));
        (bell, wakes)
    }

    #[test]
    fn only_the_first_ring_of_a_park_wakes() {
        let (bell, wakes) = belled();
        assert_eq!(bell.ring(3), Answer { stopped: false, woke: false });
        assert!(!bell.park(), "rung: look again");
        assert_eq!(bell.take().sources(), 1 << 3);
        assert!(bell.park());
        assert!(bell.ring(0).woke);
        assert!(!bell.ring(1).woke && !bell.ring_foreign().woke);
        let rung = bell.take();
        assert_eq!((rung.sources(), rung.foreign()), (0b11, true));
        assert_eq!(wakes.take().len(), 1);
    }

    #[test]
    fn a_shard_that_woke_by_itself_is_not_woken() {
        let (bell, wakes) = belled();
        assert!(bell.park());
        assert_eq!(bell.take().sources(), 0);
        assert!(!bell.ring(1).woke);
        assert_eq!(wakes.take().len(), 0);
    }

    #[test]
    fn the_end_is_answered_and_never_woken() {
        let (bell, wakes) = belled();
        bell.stop();
        assert!(bell.has_ended());
        assert_eq!(bell.ring(1), Answer { stopped: true, woke: false });
        assert_eq!(wakes.take().len(), 0);
    }

    #[test]
    fn more_shards_than_bits_share_them() {
        let (bell, _) = belled();
        bell.ring(SOURCE_BITS + 2);
        bell.ring(SOURCE_BITS - 1);
        let rung = bell.take();
        assert_eq!(rung.sources(), 1 << 2 | 1 << 60);
        assert!(!rung.foreign());
    }
}
