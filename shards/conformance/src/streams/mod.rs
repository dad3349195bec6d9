//! The laws of streams, by theme.

mod bounded;
mod closing;
mod content;
mod exhaustion;
mod forwarding;
mod programs;
mod reset;
mod reuse;
mod warm;

use crate::Law;

pub(crate) const LAWS: &[Law] = &[
    Law::new("STREAM-1", "bytes lost, doubled or moved at the edges of buffers", content::order),
    Law::new("STREAM-2", "bytes change or vanish between being lent and being consumed", content::lending),
    Law::new("STREAM-3", "a hang-up hides the data that came with it", content::end),
    Law::new("STREAM-4", "a half-close loses the response", closing::half_close),
    Law::new("STREAM-5", "a reset looks like a clean end, or kills the process", reset::reported),
    Law::new("STREAM-6", "an abort that waits, or looks like a clean end", reset::abort),
    Law::new("STREAM-7", "a dropped sink cuts off what it took", closing::dropped_sink),
    Law::new("STREAM-8", "one half takes the other with it", closing::either_half_first),
    Law::new("STREAM-9", "a partial or empty write loses its place", content::partial),
    Law::new("STREAM-10", "a peer that does not read fills the memory", bounded::unread_by_the_peer),
    Law::new("STREAM-11", "a source that nobody polls fills the memory", bounded::unpolled),
    Law::new(
        "STREAM-12",
        "a writer is not told of the reset because nobody reads",
        reset::while_nobody_reads,
    ),
    Law::new("STREAM-13", "one pending receive lets the kernel push without end", bounded::pushed_unasked),
    Law::new("STREAM-14", "events of a closed descriptor reach its successor", reuse::stale_events),
    Law::new("STREAM-15", "lent buffers run out and streams stop", exhaustion::all_lent_at_once),
    Law::new("STREAM-16", "memory is allocated for each operation", warm::no_allocation),
    Law::new("STREAM-17", "bytes taken wait for a poll that never comes", closing::sent_without_polls),
    Law::new("STREAM-18", "forwarding differs from copying, or blames the wrong side", forwarding::as_copied),
];
