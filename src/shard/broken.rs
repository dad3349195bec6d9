//! What a model breaks on purpose: each [`Break`] is one wrong version of a protocol of this floor or the one above,
//! and some model must fail under it (`mesh::models::table`). Compiled only for loom; the shipped code has none of
//! these branches.

use std::cell::Cell;
use std::sync::atomic::Ordering;

macro_rules! breaks {
    ($($(#[$docs:meta])* $name:ident,)*) => {
        /// One way to get the protocols wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Break { $($(#[$docs])* $name,)* }

        impl Break {
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &[Break] = &[$(Break::$name,)*];
        }
    };
}

breaks! {
    // ---- the bell

    /// The bell is rung with `Relaxed`: the target may see the bit and not the message.
    RingRelaxed,
    /// The ringer acquires but does not release: the same.
    RingAcquireOnly,
    /// A ring is skipped because a load saw the bit.
    RingSkippedIfSeen,
    /// The bell is rung before the messages are in their lanes.
    RingBeforePush,
    /// Any ring that sees `PARKED` wakes, also when a bit was there already.
    WakeWheneverParked,
    /// `FOREIGN` does not wake a parked shard.
    ForeignNeverWakes,
    /// The bell is taken with `Relaxed`: the target may see the bit and not the message.
    TakeRelaxed,
    /// Taking the bell leaves `PARKED` in it.
    TakeKeepsParked,
    /// The bell is cleared after the lanes were looked at.
    TakeAfterLook,
    /// `PARKED` is stored, not exchanged for an empty bell.
    ParkByStore,
    /// The waker is stored after `PARKED`.
    WakerAfterPark,
    /// A shard with messages left over parks.
    CarryForgotten,
    /// The bell is rung before it is said in which port there is something.
    WantedAfterRing,
    /// That is said with `Relaxed`: a target that was woken by something else may see it and not the message.
    WantedRelaxed,
    /// That is taken with `Relaxed`: the same.
    WantedTakenRelaxed,

    // ---- lanes

    /// A lane is made after the ring that tells of it.
    LaneAfterRing,
    /// A lane's `made` flag is never set, so that the target never looks into the slot.
    MadeUnset,
    /// The same for the flag of all lanes of a port.
    UsedUnset,
    /// A sender that found a lane full rings first and says that it waits after.
    WaitingAfterRing,
    /// A sender that found a lane full and pushed nothing does not ring.
    NoRingWhenFull,
    /// A sender that was offered room, and finds none, does not say again that it waits.
    WaitNotRenewed,
    /// A receiver that made room does not ring back.
    NoRingBack,
    /// A receiver rings back first and says after that the wait is over.
    WaitEndedAfterRing,
    /// A lane's room forgets the messages that the target holds until their time.
    HeldUncounted,
    /// Messages are counted as held after they left their lane.
    HeldAfterPop,
    /// A sender counts the held messages before the free slots.
    HeldReadFirst,
    /// A mailbox that is dropped does not ring those who send to it.
    CloseUntold,
    /// A mailbox that is dropped rings first and says so after.
    CloseAfterRing,

    // ---- the end

    /// `STOPPED` is set without acquiring: the shard may miss what was rung before.
    StopReleaseOnly,
    /// `STOPPED` is set without releasing: whoever finds it may miss what the shard sent before.
    StopAcquireOnly,
    /// The shard that ends keeps its consumers, so that what is in their lanes cannot be swept.
    ConsumersKept,
    /// A sender that found `STOPPED` leaves its lanes alone.
    SenderNeverSweeps,
    /// The stopping shard sweeps before it sets `STOPPED`.
    StopperSweepsFirst,
    /// The stopping shard does not sweep.
    StopperNeverSweeps,
    /// The stopping shard does not ring the others.
    NoPeerRing,
    /// The stopping shard rings the others before it says that it ended.
    PeerRingFirst,
    /// A stopping shard that finds a peer ended leaves alone what it sent there.
    PeerNeverSwept,
    /// A stopping shard that finds a peer ended fails what anybody sent there.
    PeerSweepsAll,
    /// A shard looks whether its peer ended after it drained the peer's lanes.
    EndedSeenLate,
    /// The end is published with `Relaxed`.
    EndedStoreRelaxed,
    /// The end is read with `Relaxed`.
    EndedLoadRelaxed,
    /// Calls to a peer that ended fail before its replies are taken.
    CallsFailedFirst,

    // ---- the next life

    /// A shard is back before the others have heard of its end.
    ReopenUnheard,
    /// A shard that ended is not waited for, though it may still ring the life before.
    GoneAtOnce,
    /// Others say that they have heard of an end before they have looked at what that life left.
    AcknowledgeFirst,
    /// A shard that is back does not tell anybody.
    ReopenUntold,
    /// `STOPPED` stays in the bell of a shard that is back.
    StoppedKept,
    /// A return is published with `Relaxed`.
    BackStoreRelaxed,
    /// A lane is taken from a life that its target has not heard of.
    LaneTooSoon,
    /// A lane that a life before has left is read for ever.
    SpentUnseen,
    /// What is in a lane is dropped when the next life of its sender makes it anew.
    LaneBeforeDropped,
    /// A shard that ends leaves its requests in their lanes.
    RequestsKept,
    /// A reply goes to whichever life the caller is in.
    ReplyToAnyLife,

    // ---- jobs from outside

    /// The bell is rung before the job is in the queue.
    JobAfterRing,
    /// A thread that found `STOPPED` leaves the queue of jobs alone.
    JobsNeverSwept,
    /// A thread that found `STOPPED` takes jobs out while the shard comes back.
    SweepUnheld,
    /// The stopping shard leaves the queue of jobs alone.
    StopperLeavesJobs,

    // ---- tasks that other threads wake

    /// One flag for both kinds of wakes, written without an exchange by the shard's own thread.
    OneFlag,
    /// A wake does not release: the poll may not see what was written before.
    WakeRelaxed,
    /// A wake looks at the flag and then sets it, in two steps.
    WakeByLoad,
    /// The bell is rung before the task is in the queue.
    WokenAfterRing,
    /// Another thread's wake rings nobody.
    WokenUnrung,
    /// The flag is cleared without acquiring.
    ClearRelaxed,
    /// The flag is cleared by a store, which sees no wake that came since the first.
    ClearByStore,
    /// The flags are cleared after the poll.
    ClearAfterPoll,
    /// The flag of other threads is never cleared.
    ClearForgotten,
    /// A task that arrives is queued also if it is queued already.
    ArriveAnyway,
    /// A task that arrives is queued without a mark that it is.
    ArriveUnmarked,
    /// Wakes of an ended task by other threads still queue it there.
    SilenceAwayForgotten,
    /// The bell is rung before the wish to stop is written.
    WishAfterRing,
    /// A wish to stop in time looks for another and then writes, in two steps.
    WishByLoad,
}

thread_local! {
    // loom runs all threads of a model on the thread of its test, so this is one value per model.
    static BROKEN: Cell<Option<Break>> = const { Cell::new(None) };
}

/// Whether the model running on this thread is to be broken so.
pub(crate) fn broken(what: Break) -> bool {
    BROKEN.get() == Some(what)
}

/// What the models of this thread break from now on.
#[cfg(test)]
pub(crate) fn set(what: Option<Break>) {
    BROKEN.set(what);
}

/// `weak` if the model is broken so, else `right`.
pub(crate) fn order(what: Break, weak: Ordering, right: Ordering) -> Ordering {
    if broken(what) { weak } else { right }
}
