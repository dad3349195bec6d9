//! The laws of waking: a wake from anywhere takes effect, costs nothing while it is not needed, and is never lost.

mod busy;
mod idle;
mod passing;
mod storms;
mod wakers;

use std::time::Duration;

use crate::Law;

pub(crate) const LAWS: &[Law] = &[
    Law::new("WAKE-1", "a wake from somewhere has no effect", wakers::from_everywhere),
    Law::new("WAKE-2", "a wake in the instant before the sleep is lost", storms::none_lost)
        .within(Duration::from_secs(120)),
    Law::new("WAKE-3", "a full doorbell blocks the caller (compio: deadlock)", storms::never_blocks),
    Law::new("WAKE-4", "the waker of an earlier poll, or of the other half, is woken", wakers::latest),
    Law::new("WAKE-5", "a root that is always ready starves input and alarms", busy::served),
    Law::new("WAKE-6", "an idle reactor ticks", idle::no_ticks).alone(),
    Law::new(
        "WAKE-7",
        "a wake waits for more than the end of the waking root's turn",
        storms::sent_by_the_end,
    ),
    Law::new("WAKE-8", "a root sees a new waker in each poll", wakers::one_for_life),
];
