//! Which model finds out which wrong version. All were found within two preemptions; the models themselves hold within
//! the bounds that their tests give.

use super::{Break, finds, messages, stops};

/// Each wrong version, and the cheapest model that fails under it.
const TABLE: &[(Break, fn())] = &[
    // The bell.
    (Break::RingRelaxed, messages::one_sender),
    (Break::RingReleaseOnly, messages::one_sender),
    (Break::RingSkippedIfSeen, messages::one_sender),
    (Break::RingBeforePush, messages::one_sender),
    (Break::WakeWheneverParked, messages::one_sender),
    (Break::TakeRelaxed, messages::one_sender),
    (Break::TakeKeepsParked, messages::one_sender),
    (Break::TakeAfterLook, messages::one_sender),
    (Break::ParkRelaxed, messages::one_sender),
    (Break::ParkByStore, messages::one_sender),
    (Break::WakerAfterPark, messages::one_sender),
    (Break::CarryForgotten, messages::more_than_a_budget),
    (Break::ForeignNeverWakes, messages::jobs_wake),
    // Room.
    (Break::WaitingAfterRing, messages::room_and_sleep),
    (Break::WaitNotRenewed, messages::room_and_sleep),
    (Break::NoRingBack, messages::room_and_sleep),
    (Break::NoRingWhenFull, messages::room_and_spurious_polls),
    (Break::HeldUncounted, messages::held),
    (Break::HeldAfterPop, messages::held),
    (Break::CloseUntold, messages::closes),
    // The end.
    (Break::SenderNeverSweeps, stops::stop_one),
    (Break::StopperSweepsFirst, stops::stop_one),
    (Break::StopperNeverSweeps, stops::stop_one),
    (Break::NoPeerRing, stops::call),
    (Break::PeerRingFirst, stops::call),
    (Break::EndedSeenLate, stops::call),
    (Break::EndedRelaxed, stops::call),
    (Break::JobsNeverSwept, stops::jobs),
];

#[test]
fn every_wrong_version_is_found_out() {
    for what in Break::ALL {
        assert!(TABLE.iter().any(|(listed, _)| listed == what), "{what:?} is not in the table");
    }
    for (what, model) in TABLE {
        assert!(finds(*what, 2, *model), "no model finds out {what:?}");
    }
}
