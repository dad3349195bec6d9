//! What a model breaks on purpose: each [`Break`] is one wrong version of the doorbell, and some model must fail under
//! it. Compiled only for loom; the shipped code has none of these branches.

use std::cell::Cell;
use std::sync::atomic::Ordering;

macro_rules! breaks {
    ($($(#[$docs:meta])* $name:ident,)*) => {
        /// One way to get the doorbell wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Break { $($(#[$docs])* $name,)* }

        impl Break {
            /// All of them.
            #[cfg(test)]
            pub(super) const ALL: &[Break] = &[$(Break::$name,)*];
        }
    };
}

breaks! {
    /// A new doorbell says that the root need not be polled.
    BornAwake,
    /// The loop wakes without acquiring: the poll may not see what was written before a ring.
    AwakeRelaxed,
    /// The loop loads the state and then stores, in two steps.
    AwakeByStore,
    /// The loop takes back a ring and not its own sleep, so that an awake reactor looks asleep.
    AwakeOnlyIfNotified,
    /// The loop falls asleep without releasing: who interrupts it may not see how.
    SleepRelaxed,
    /// The loop falls asleep whatever was rung.
    SleepByStore,
    /// The loop looks for a ring and then falls asleep, in two steps.
    SleepByLoad,
    /// A ring does not release: the poll may not see what was written before.
    RingAcquireOnly,
    /// A ring does not acquire: it may not see how to interrupt the sleep.
    RingReleaseOnly,
    /// A ring is skipped because a load saw another.
    RingSkippedIfSeen,
    /// A ring that finds the reactor awake leaves no trace.
    RingOnlyTheSleeping,
    /// Every ring interrupts.
    RingInterruptsAlways,
    /// A ring that finds the reactor awake interrupts its next sleep.
    RingInterruptsTheAwake,
    /// No ring interrupts.
    RingNeverInterrupts,
    /// The backend's loop wakes after the poll, not before it.
    #[cfg(test)]
    LoopWakesLate,
    /// The backend's loop sleeps without asking.
    #[cfg(test)]
    LoopNeverAsks,
}

thread_local! {
    // loom runs all threads of a model on the thread of its test, so this is one value per model.
    static BROKEN: Cell<Option<Break>> = const { Cell::new(None) };
}

/// Whether the model running on this thread is to be broken so.
pub(super) fn broken(what: Break) -> bool {
    BROKEN.get() == Some(what)
}

/// What the models of this thread break from now on.
#[cfg(test)]
pub(super) fn set(what: Option<Break>) {
    BROKEN.set(what);
}

/// `weak` if the model is broken so, else `right`.
pub(super) fn order(what: Break, weak: Ordering, right: Ordering) -> Ordering {
    if broken(what) { weak } else { right }
}
