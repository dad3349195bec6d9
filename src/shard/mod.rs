//! Inside one shard: tasks, timers, deferred results, and the handle to it all.
//!
//! A [`Shard`] is one core's world. Its tasks never leave their thread, so they need no locks and no `Send`; what
//! other shards should know is sent to them as a message ([`crate::mesh`]).
//!
//! One poll of the root is a *turn*: take the bell and drain messages, fire due timers, poll ready tasks, ring the
//! bells of the shards written to, return to the reactor. Each step has a budget ([`Budgets`]), so none starves
//! another. Which of the ready tasks are polled first is for their groups to say, where a program makes any ([`Group`]).
//! Nothing completes inside its caller's stack: a resolved [`Deferred`], a message to oneself and a zero sleep are all
//! seen on a later poll.

pub(crate) mod between;
#[cfg(loom)]
pub(crate) mod broken;
pub(crate) mod core;
mod deferred;
pub(crate) mod failing;
pub(crate) mod group;
mod handle;
pub(crate) mod heartbeat;
mod id;
mod queue_times;
pub(crate) mod root;
mod schedule;
mod sleep;
pub(crate) mod stopping;
pub(crate) mod sync;
pub(crate) mod task;
pub(crate) mod waiters;
mod wheel;

#[cfg(test)]
pub(crate) mod hand;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
#[cfg(test)]
pub(crate) mod wakes;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use waterwheel_reactor::Time;

pub use deferred::{Abandoned, Deferred, Resolver, deferred, deferred_result};
pub use group::{Group, GroupError, GroupStats, Shares};
pub use handle::{Shard, Task, TaskEnded};
pub use id::ShardId;
pub(crate) use id::part_of;
pub use queue_times::QueueTimes;
pub use sleep::{Elapsed, PhaseChange, Sleep, Timeout, YieldNow, yield_waker};

/// The limits of one turn. The defaults keep a turn well under a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Messages drained per source shard. Default 64.
    pub messages: usize,
    /// Timers fired. Default 256.
    pub timers: usize,
    /// Tasks polled. Default 512.
    pub tasks: usize,
    /// How long a turn polls tasks; looked at every 16 polls, and by tasks that ask ([`Shard::yield_if_needed`]).
    /// Default 500 µs.
    pub turn: Duration,
    /// How long an idle shard looks for work before it sleeps. Default 0.
    pub spin: Duration,
    /// A turn longer than this is reported; `None`: none is. Default 100 ms.
    pub stall: Option<Duration>,
}

impl Default for Budgets {
    fn default() -> Budgets {
        Budgets {
            messages: 64,
            timers: 256,
            tasks: 512,
            turn: Duration::from_micros(500),
            spin: Duration::ZERO,
            stall: Some(Duration::from_millis(100)),
        }
    }
}

/// Where a shard stands in its life. It only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At work.
    Running,
    /// Asked to stop: nothing new is accepted, what runs may finish.
    Draining {
        /// When it ends whatever still runs, by the shard's clock.
        until: Time,
    },
    /// Ends at once.
    Ending,
}

impl Phase {
    fn rank(self) -> u8 {
        match self {
            Phase::Running => 0,
            Phase::Draining { .. } => 1,
            Phase::Ending => 2,
        }
    }
}

/// What a shard counts about itself: plain cells, read by its own tasks.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) turns: Cell<u64>,
    pub(crate) polls: Cell<u64>,
    pub(crate) spawned: Cell<u64>,
    pub(crate) panics: Cell<u64>,
    pub(crate) stalls: Cell<u64>,
    /// When one was reported last, by its beginning, and how many have not been since.
    stall_told: Cell<Option<Time>>,
    stalls_untold: Cell<u64>,
    /// How long turns took, while stalls are reported: else nobody looks at the clock.
    pub(crate) turn_times: RefCell<QueueTimes>,
    /// Resolvers that were made here and are still there.
    pub(crate) resolvers: Cell<usize>,
}

/// A copy of a shard's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ShardStats {
    /// Turns of the root.
    pub turns: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Tasks spawned.
    pub spawned: u64,
    /// Tasks that are alive.
    pub alive: u64,
    /// Tasks that panicked.
    pub panics: u64,
    /// Turns longer than the stall limit.
    pub stalls: u64,
}
