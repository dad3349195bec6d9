//! What this floor asks of the one above it, so that it need not know it: messages.

use std::any::Any;
use std::task::Waker;

/// What the floor above (messages) does in a turn of the root.
pub(crate) trait Between: Any {
    /// First thing in a turn: takes the bell, drains what it flags within the budgets.
    fn take(&self) -> Taken;
    /// Last thing in a turn: rings the bells of the shards written to.
    fn ring(&self);
    /// True if the bell was 0 and is now PARKED; false: look again. Called only if nothing else is to do and after
    /// `ring`.
    fn park(&self) -> bool;
    /// Whether messages wait that the next turn would take: long work gives way to them.
    fn rung(&self) -> bool;
    /// The same for a shard that has found nothing to do, again and again: looks only at what others may have done.
    fn glance(&self) -> bool;
    /// What a task waits for here, by its waker; for reports.
    fn waits_for(&self, waker: &Waker) -> Vec<String> {
        let _ = waker;
        Vec::new()
    }
    /// First poll of the root: the waker that rings may invoke from now on.
    fn set_waker(&self, waker: &Waker);
}

/// What a turn found when it took the bell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// A budget ended before the messages did: the shard must take another turn.
    pub(crate) more: bool,
    /// Other threads woke tasks of this shard: their queue is to be drained.
    pub(crate) foreign: bool,
}

/// Rings a shard for what other threads left in its queues. From any thread.
pub(crate) trait RingForeign: Send + Sync {
    /// After the entry was pushed; what was written before is seen by the turn that follows.
    fn ring_foreign(&self);
}
