//! Models of the bell, of parking, of lanes, of stopping, of next lives, of calls, of jobs and of tasks that other threads
//! wake: loom runs the code of this floor and of the one below through every order of its atomic operations that the C11
//! memory model allows, up to a bound on preemptions.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p waterwheel --lib --no-default-features --target-dir target/loom models`
//!
//! What is modelled instead of run: the ring of a lane (`rtrb`, its orderings and cached indices), the queue of jobs
//! (`flume`, a mutex and a deque), the `OnceLock` of the waker, the backend (a token that is kept until taken) and its
//! reactor (no I/O, a clock that stands still). Counts of references (`Arc`) are trusted. loom treats `SeqCst` as
//! `AcqRel`; nothing here uses it.
//!
//! loom 0.7 remembers the latest access of each atomic, and looks for races with that one only. A thread that loads what it
//! is about to store hides with its load those of others, and orders of these with the store may not be explored: so a
//! store of an end by `Relaxed` was found by no model as long as the end asked first which life it was. What several
//! threads load is written without a look, or by one exchange.
//!
//! Lanes are made inside the models, at their first use: so that races with the target's look
//! (`the_first_message_of_a_lane_finds_it_made`), with the target's end, and with the end of one that never took a turn.
//!
//! Each model can fail: [`table`] lists every wrong version of the protocols that [`Break`] knows, the model that finds
//! it out, and what that says.
//!
//! # What has no wrong version
//! These orderings and checks could be otherwise and nothing would be wrong; no model can find them out.
//!
//! * `Relaxed` has nothing below it. It suffices wherever a ring or a lock publishes what was written before: a lane's
//!   `used`, `made`, `waiting` and `held`, a port's `closed`, a wish to stop; where only the shard's own thread reads
//!   and writes: a task's `here`; and for a look that only decides whether to look again: the load before
//!   [`Bell::take`](super::bell::Bell::take) (a bit that it misses makes the park fail),
//!   [`Bell::is_rung`](super::bell::Bell::is_rung), the load before a task's `away` is cleared (see there). The
//!   failing half of an exchange reads nothing but the word.
//! * `or`, the loop that a processor runs for the ring's `fetch_or`, is modelled as that: its last exchange is the
//!   same step with the same ordering, and the ones before it change nothing.
//! * That an ended task's `here` is left up: entries in the queue of ready tasks name their task for good, so one that a
//!   late wake of it queued is passed over. It saves the entry.
//! * Whether a lane's consumer goes into its slot before `STOPPED` or after: the slot's lock orders a sender that
//!   found it empty before the stopping shard's own sweep, which then sees what that sender left.
//! * A lane's `made` may be set before its consumer is in the slot: both are done before the ring, and who looks too
//!   early looks again.
//! * Jobs and messages are refused without a push where the end is known ([`Jobs::leave`](super::jobs::Jobs::leave)):
//!   what is pushed all the same is swept by whoever rings, and counted. It spares the caller a job that is lost.
//! * A shard that was rung by outside threads looks whether there are jobs before it wakes the task that runs them,
//!   and a receiver looks whether there is room before it rings back: else they would be woken for nothing.
//! * That who has heard of an end says so by releasing, and that it is read by acquiring: what is left of that life lies in
//!   slots, whose locks order it. That a bell's `STOPPED` goes off by anything but `Relaxed`: nobody infers from its absence
//!   what else a shard did, and the number of its life, published after it, says that it is back.
//! * A task's wake need not acquire, nor its clearing release: who wakes reads nothing that the poll wrote.

mod actor;
mod lives;
mod messages;
mod stops;
mod table;
mod tasks;

use loom::model::Builder;

use crate::shard::broken::{self, Break};

/// Explores a model; `preemptions` bounds how often a thread loses the processor while it could go on.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

/// What a model says when the protocol is broken so; `None`: it does not find it out.
fn finds(what: Break, preemptions: usize, model: fn()) -> Option<String> {
    broken::set(Some(what));
    let found = std::panic::catch_unwind(|| explore(preemptions, model)).err();
    broken::set(None);
    found.map(|panic| waterwheel_reactor::panic_message(&*panic))
}
