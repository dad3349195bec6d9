//! Which model finds out which wrong version, and how. The tests below run this very table: under each wrong version
//! its model fails within the preemptions that [`MODELS`] says, with that result. The models themselves hold within the
//! bounds that their tests give. A deadlock is loom's word for threads that all wait.
//!
//! | wrong version ([`Break`]) | model | result |
//! |---|---|---|
//! | the bell | | |
//! | `RingRelaxed` | `one_sender` | deadlock |
//! | `RingAcquireOnly` | `one_sender` | deadlock |
//! | `RingSkippedIfSeen` | `one_sender` | deadlock |
//! | `RingBeforePush` | `one_sender` | deadlock |
//! | `WakeWheneverParked` | `one_sender` | woken 2 times in 1 parks |
//! | `ForeignNeverWakes` | `jobs_wake` | deadlock |
//! | `TakeRelaxed` | `one_sender` | deadlock |
//! | `TakeKeepsParked` | `one_sender` | woken 2 times in 1 parks |
//! | `TakeAfterLook` | `one_sender` | deadlock |
//! | `ParkByStore` | `one_sender` | deadlock |
//! | `WakerAfterPark` | `one_sender` | deadlock |
//! | `CarryForgotten` | `more_than_a_budget` | deadlock |
//! | `WantedAfterRing` | `one_sender` | deadlock |
//! | `WantedRelaxed` | `one_sender_and_io` | deadlock |
//! | `WantedTakenRelaxed` | `one_sender_and_io` | deadlock |
//! | lanes | | |
//! | `LaneAfterRing` | `one_message` | deadlock |
//! | `MadeUnset` | `one_message` | deadlock |
//! | `UsedUnset` | `one_message` | deadlock |
//! | `WaitingAfterRing` | `room_and_sleep` | deadlock |
//! | `NoRingWhenFull` | `room_and_spurious_polls` | deadlock |
//! | `WaitNotRenewed` | `room_and_sleep` | deadlock |
//! | `NoRingBack` | `room_and_sleep` | deadlock |
//! | `WaitEndedAfterRing` | `room_and_sleep` | deadlock |
//! | `HeldUncounted` | `held` | more is held than there is room for |
//! | `HeldAfterPop` | `held` | more is held than there is room for |
//! | `HeldReadFirst` | `held` | more is held than there is room for |
//! | `CloseUntold` | `closes` | deadlock |
//! | `CloseAfterRing` | `closes` | deadlock |
//! | the end | | |
//! | `StopReleaseOnly` | `stop_one` | a message vanished |
//! | `StopAcquireOnly` | `call` | a reply was sent |
//! | `ConsumersKept` | `stop_one` | a message vanished |
//! | `SenderNeverSweeps` | `stop_one` | a message vanished |
//! | `StopperSweepsFirst` | `stop_one` | a message vanished |
//! | `StopperNeverSweeps` | `stop_one` | a message vanished |
//! | `NoPeerRing` | `call` | deadlock |
//! | `PeerRingFirst` | `call` | deadlock |
//! | `PeerNeverSwept` | `both_end` | a message vanished |
//! | `PeerSweepsAll` | `beside_a_return` | deadlock |
//! | `EndedSeenLate` | `call` | a reply was sent |
//! | `EndedStoreRelaxed` | `call` | a reply was sent |
//! | `EndedLoadRelaxed` | `call` | a reply was sent |
//! | `CallsFailedFirst` | `call` | a reply was sent |
//! | the next life | | |
//! | `ReopenUnheard` | `target_returns` | a life that it was not sent to |
//! | `GoneAtOnce` | `late_answer` | deadlock |
//! | `AcknowledgeFirst` | `server_returns` | deadlock |
//! | `ReopenUntold` | `target_returns` | deadlock |
//! | `StoppedKept` | `target_returns` | deadlock |
//! | `BackStoreRelaxed` | `target_returns` | refuses a message |
//! | `LaneTooSoon` | `served_meanwhile` | deadlock |
//! | `SpentUnseen` | `sender_returns` | deadlock |
//! | `LaneBeforeDropped` | `sender_returns_unheard` | out of order, or lost |
//! | `RequestsKept` | `served_after_both` | a credit is a slot |
//! | `ReplyToAnyLife` | `caller_returns` | had asked for was answered |
//! | jobs from outside | | |
//! | `JobAfterRing` | `jobs_wake` | deadlock |
//! | `JobsNeverSwept` | `stop_jobs` | a job vanished |
//! | `SweepUnheld` | `jobs_return` | a job of the next life was lost |
//! | `StopperLeavesJobs` | `jobs_at_the_end` | a job vanished |
//! | tasks that other threads wake | | |
//! | `OneFlag` | `one_writer_and_itself` | deadlock |
//! | `WakeRelaxed` | `one_writer` | deadlock |
//! | `WakeByLoad` | `queued` | queued twice by other threads |
//! | `WokenAfterRing` | `one_writer` | deadlock |
//! | `WokenUnrung` | `one_writer` | deadlock |
//! | `ClearRelaxed` | `one_writer` | deadlock |
//! | `ClearByStore` | `one_writer` | deadlock |
//! | `ClearAfterPoll` | `one_writer` | deadlock |
//! | `ClearForgotten` | `one_writer` | deadlock |
//! | `ArriveAnyway` | `queued` | polled twice for one wake |
//! | `ArriveUnmarked` | `queued_on_arrival` | polled twice for one wake |
//! | `SilenceAwayForgotten` | `ended` | rang the shard |
//! | `WishAfterRing` | `one_wish` | deadlock |
//! | `WishByLoad` | `two_wishes` | deadlock |

use super::{Break, finds, lives, messages, stops, tasks};

/// The models by name, and within how many preemptions each finds what it finds.
const MODELS: &[(&str, usize, fn())] = &[
    ("one_message", 2, messages::one_message),
    ("one_sender", 2, messages::one_sender),
    ("one_sender_and_io", 2, messages::one_sender_and_io),
    ("more_than_a_budget", 2, messages::more_than_a_budget),
    ("room_and_sleep", 2, messages::room_and_sleep),
    ("room_and_spurious_polls", 2, messages::room_and_spurious_polls),
    ("held", 2, messages::held),
    ("closes", 2, messages::closes),
    ("jobs_wake", 2, messages::jobs_wake),
    ("stop_one", 2, stops::stop_one),
    ("both_end", 2, stops::both_end),
    ("call", 3, stops::call),
    ("stop_jobs", 2, stops::jobs),
    ("target_returns", 3, lives::target_returns),
    ("sender_returns", 2, lives::sender_returns),
    ("sender_returns_unheard", 2, lives::sender_returns_unheard),
    ("server_returns", 2, lives::server_returns),
    ("caller_returns", 2, lives::caller_returns),
    ("served_meanwhile", 2, lives::served_meanwhile),
    ("served_after_both", 2, lives::served_after_both),
    ("late_answer", 2, lives::late_answer),
    ("beside_a_return", 2, lives::beside_a_return),
    ("jobs_return", 2, lives::jobs_return),
    ("jobs_at_the_end", 2, tasks::jobs_at_the_end),
    ("one_writer", 2, tasks::one_writer),
    ("one_writer_and_itself", 2, tasks::one_writer_and_itself),
    ("queued", 2, tasks::queued),
    ("queued_on_arrival", 2, tasks::queued_on_arrival),
    ("ended", 2, tasks::ended),
    ("one_wish", 2, tasks::one_wish),
    ("two_wishes", 2, tasks::two_wishes),
];

/// The rows of the table above: wrong version, model, result.
fn rows() -> Vec<[&'static str; 3]> {
    let lines = include_str!("table.rs").lines();
    let rows = lines.filter_map(|line| line.strip_prefix("//! | `")?.strip_suffix(" |")).map(|row| {
        let cells: Vec<_> = row.split(" | ").map(|cell| cell.trim_matches('`')).collect();
        cells.try_into().expect("three cells in a row")
    });
    rows.collect()
}

/// Runs each `parts`th row, from `part` on.
fn runs(part: usize, parts: usize) {
    let mut wrong = Vec::new();
    for [name, model, result] in rows().into_iter().skip(part).step_by(parts) {
        let what = Break::ALL.iter().find(|what| format!("{what:?}") == name);
        let what = *what.unwrap_or_else(|| panic!("there is no wrong version {name}"));
        let (_, preemptions, run) =
            *MODELS.iter().find(|(other, ..)| *other == model).expect("a model of this name");
        match finds(what, preemptions, run) {
            Some(found) if found.contains(result) => {}
            Some(found) => wrong.push(format!("{name}: {model} says {found:?}")),
            None => wrong.push(format!("{name}: {model} does not find it")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_wrong_version_is_in_the_table() {
    let listed: Vec<_> = rows().into_iter().map(|[name, ..]| name.to_owned()).collect();
    let known: Vec<_> = Break::ALL.iter().map(|what| format!("{what:?}")).collect();
    assert_eq!(listed, known);
}

// Two tests, for two cores.

#[test]
fn every_wrong_version_is_found_out() {
    runs(0, 2);
}

#[test]
fn every_other_wrong_version_is_found_out() {
    runs(1, 2);
}
