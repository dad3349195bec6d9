//! What outside threads leave for a shard: closures, in a bounded queue.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::bell::Bell;
use super::hub::drop_contained;
use super::sync::Queue;
use crate::shard::Shard;
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// A piece of work for a shard, run on its thread as part of a task.
pub type Job = Box<dyn FnOnce(&Shard) + Send>;

/// The queue of one shard, of things `T` (jobs; loom's models use numbers). Outlives the shard.
#[derive(Debug)]
pub(super) struct Jobs<T> {
    queue: Queue<T>,
    /// Jobs that were accepted and never run, because the shard ended.
    lost: AtomicU64,
}

/// Why a job was not accepted; it comes back.
#[derive(Debug)]
pub(super) enum Refused<T> {
    Full(T),
    Closed(T),
}

impl<T> Jobs<T> {
    pub(super) fn new(capacity: usize) -> Jobs<T> {
        Jobs { queue: Queue::new(capacity), lost: AtomicU64::new(0) }
    }

    /// From any thread: leaves a job for the shard whose bell this is. Never waits.
    pub(super) fn leave(&self, bell: &Bell, job: T) -> Result<(), Refused<T>> {
        if bell.has_ended() {
            return Err(Refused::Closed(job));
        }
        #[cfg(loom)]
        if broken(Break::JobAfterRing) {
            bell.ring_foreign();
            return self.queue.push(job).map_err(Refused::Full);
        }
        self.queue.push(job).map_err(Refused::Full)?;
        if bell.ring_foreign().stopped {
            // It ended while the job was pushed, and may have swept already: what is left nobody else will find.
            #[cfg(loom)]
            if broken(Break::JobsNeverSwept) {
                return Ok(());
            }
            // Unless a new life of it has begun meanwhile, which has what was left for the one before.
            if bell.has_ended() {
                self.sweep();
            } else {
                bell.ring_foreign();
            }
        }
        Ok(())
    }

    /// The shard: the next job.
    pub(super) fn take(&self) -> Option<T> {
        self.queue.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// After the shard's end, by whoever finds out: drops what is left, and counts it.
    pub(super) fn sweep(&self) {
        while let Some(job) = self.queue.pop() {
            self.lost.fetch_add(1, Relaxed);
            drop_contained(job);
        }
    }

    /// Jobs that were accepted and never run.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}
