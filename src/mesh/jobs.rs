//! What outside threads leave for a shard: closures, in a bounded queue.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::bell::Bell;
use super::hub::drop_contained;
use super::sync::{Mutex, Queue};
use crate::shard::Shard;
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// A piece of work for a shard, run on its thread as part of a task.
pub type Job = Box<dyn FnOnce(&Shard) + Send>;

/// The queue of one shard, of things `T` (jobs; loom's models use numbers). Outlives the shard.
#[derive(Debug)]
pub(super) struct Jobs<T> {
    queue: Queue<T>,
    /// Held by who left a job for a shard that ended and takes out what nobody will run, and by the shard in the moment in
    /// which it is back: what is left from then on is for its new life.
    sweeping: Mutex<()>,
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
        Jobs { queue: Queue::new(capacity), sweeping: Mutex::new(()), lost: AtomicU64::new(0) }
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
            self.sweep_unless_back(bell);
        }
        Ok(())
    }

    // A shard that is back has what was left for its life before.
    fn sweep_unless_back(&self, bell: &Bell) {
        let left = self.undisturbed(|| {
            bell.has_ended().then(|| std::iter::from_fn(|| self.queue.pop()).collect::<Vec<T>>())
        });
        match left {
            // Only now: dropping a job may run anything, and leave another.
            Some(left) => left.into_iter().for_each(|job| self.lose(job)),
            None => {
                bell.ring_foreign();
            }
        }
    }

    /// Does something while no other thread takes out what is left: comes back, for one.
    pub(super) fn undisturbed<R>(&self, work: impl FnOnce() -> R) -> R {
        #[cfg(loom)]
        if broken(Break::SweepUnheld) {
            return work();
        }
        let _held = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// The shard: the next job.
    pub(super) fn take(&self) -> Option<T> {
        self.queue.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// After the shard's end, by itself: drops what is left, and counts it.
    pub(super) fn sweep(&self) {
        while let Some(job) = self.queue.pop() {
            self.lose(job);
        }
    }

    fn lose(&self, job: T) {
        self.lost.fetch_add(1, Relaxed);
        drop_contained(job);
    }

    /// Jobs that were accepted and never run.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}
