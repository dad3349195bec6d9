//! The mistakes to choose from, each with the law that must notice it.

use super::halves::Mistake;

/// One mistake of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    RunsOnce,
    PanicSwallowed,
    LifeLeaks,
    PendingAcceptLeaks,
    ProbePanics,
    ClockGoesBack,
    AlarmEarly,
    FirstAlarmWins,
    AbsurdOverflows,
    CoarseTimer,
    OwnWakeIgnored,
    WakeLost,
    DoorbellBlocks,
    FirstWakerKept,
    BusyStarves,
    IdleTicks,
    WakesKeptBack,
    WakerPerPoll,
    ErrorsUntyped,
    PortKept,
    BurstCut,
    LimitSpins,
    OptionsForgotten,
    AdoptedShutDown,
    PathStolen,
    RefusalUntyped,
    CancelLeaks,
    ConnectsCapped,
    /// One with connections.
    Halves(Mistake),
}

/// Each fault under the name that its reactor gets, and the law that it breaks.
pub(crate) const FAULTS: &[(&str, Fault, &str)] = &[
    ("runs-once", Fault::RunsOnce, "LIFE-1"),
    ("panic-swallowed", Fault::PanicSwallowed, "LIFE-2"),
    ("life-leaks", Fault::LifeLeaks, "LIFE-3"),
    ("pending-accept-leaks", Fault::PendingAcceptLeaks, "LIFE-4"),
    ("probe-panics", Fault::ProbePanics, "LIFE-5"),
    ("clock-goes-back", Fault::ClockGoesBack, "TIME-1"),
    ("alarm-early", Fault::AlarmEarly, "TIME-2"),
    ("first-alarm-wins", Fault::FirstAlarmWins, "TIME-3"),
    ("absurd-overflows", Fault::AbsurdOverflows, "TIME-4"),
    ("coarse-timer", Fault::CoarseTimer, "TIME-10"),
    ("own-wake-ignored", Fault::OwnWakeIgnored, "WAKE-1"),
    ("wake-lost", Fault::WakeLost, "WAKE-2"),
    ("doorbell-blocks", Fault::DoorbellBlocks, "WAKE-3"),
    ("first-waker-kept", Fault::FirstWakerKept, "WAKE-4"),
    ("busy-starves", Fault::BusyStarves, "WAKE-5"),
    ("idle-ticks", Fault::IdleTicks, "WAKE-6"),
    ("wakes-kept-back", Fault::WakesKeptBack, "WAKE-7"),
    ("waker-per-poll", Fault::WakerPerPoll, "WAKE-8"),
];
