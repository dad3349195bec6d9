//! What a model breaks on purpose: each [`Break`] is one wrong version of a protocol, and some model must fail under
//! it. Compiled only for loom; the shipped code has none of these branches.

use std::cell::Cell;
use std::sync::atomic::Ordering;

/// One way to get the protocols wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// The bell is rung with `Relaxed`: the target may see the bit and not the message.
    RingRelaxed,
    /// The bell is taken with `Relaxed`: the same, from the other side.
    TakeRelaxed,
    /// `PARKED` is set with `Relaxed`: a ringer may see it and not the waker.
    ParkRelaxed,
    /// The ringer releases but does not acquire: as above, from the other side.
    RingReleaseOnly,
    /// A ring is skipped because a load saw the bit.
    RingSkippedIfSeen,
    /// The bell is rung before the messages are in their lanes.
    RingBeforePush,
    /// Any ring that sees `PARKED` wakes, also when a bit was there already.
    WakeWheneverParked,
    /// `PARKED` is stored, not exchanged for an empty bell.
    ParkByStore,
    /// Taking the bell leaves `PARKED` in it.
    TakeKeepsParked,
    /// The bell is cleared after the lanes were looked at.
    TakeAfterLook,
    /// A shard with messages left over parks.
    CarryForgotten,
    /// The waker is stored after `PARKED`.
    WakerAfterPark,
    /// A sender that found a lane full rings first and says that it waits after.
    WaitingAfterRing,
    /// A sender that found a lane full and pushed nothing does not ring.
    NoRingWhenFull,
    /// A sender that was offered room, and finds none, does not say again that it waits.
    WaitNotRenewed,
    /// A receiver that made room does not ring back.
    NoRingBack,
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
    /// A shard looks whether its peer ended after it drained the peer's lanes.
    EndedSeenLate,
    /// The end is published or read with `Relaxed`.
    EndedRelaxed,
    /// A thread that found `STOPPED` leaves the queue of jobs alone.
    JobsNeverSwept,
    /// `FOREIGN` does not wake a parked shard.
    ForeignNeverWakes,
    /// A lane's room forgets the messages that the target holds until their time.
    HeldUncounted,
    /// Messages are counted as held after they left their lane.
    HeldAfterPop,
    /// A mailbox that is dropped does not ring those who send to it.
    CloseUntold,
}

impl Break {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: &[Break] = &[
        Break::RingRelaxed,
        Break::TakeRelaxed,
        Break::ParkRelaxed,
        Break::RingReleaseOnly,
        Break::RingSkippedIfSeen,
        Break::RingBeforePush,
        Break::WakeWheneverParked,
        Break::ParkByStore,
        Break::TakeKeepsParked,
        Break::TakeAfterLook,
        Break::CarryForgotten,
        Break::WakerAfterPark,
        Break::WaitingAfterRing,
        Break::NoRingWhenFull,
        Break::WaitNotRenewed,
        Break::NoRingBack,
        Break::SenderNeverSweeps,
        Break::StopperSweepsFirst,
        Break::StopperNeverSweeps,
        Break::NoPeerRing,
        Break::PeerRingFirst,
        Break::EndedSeenLate,
        Break::EndedRelaxed,
        Break::JobsNeverSwept,
        Break::ForeignNeverWakes,
        Break::HeldUncounted,
        Break::HeldAfterPop,
        Break::CloseUntold,
    ];
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
pub(super) fn set(what: Option<Break>) {
    BROKEN.set(what);
}

/// `weak` if the model is broken so, else `right`.
pub(super) fn order(what: Break, weak: Ordering, right: Ordering) -> Ordering {
    if broken(what) { weak } else { right }
}
