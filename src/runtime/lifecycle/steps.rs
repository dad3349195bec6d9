//! How far each shard has come, so that all begin a step together.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What a shard has behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Done {
    #[default]
    Nothing,
    /// The triggers before the start.
    BeforeStart,
    /// Those of the start.
    Start,
    /// Those before the stop.
    BeforeStop,
    /// Its tasks, and the triggers of the stop.
    Stop,
    /// Everything: it has ended, or never began.
    All,
}

/// One for all shards. Locked a few times in a shard's life.
#[derive(Debug)]
pub(super) struct Steps {
    shards: Mutex<Vec<(Done, Option<Waker>)>>,
}

impl Steps {
    pub(super) fn new(shards: usize) -> Steps {
        Steps { shards: Mutex::new(vec![Default::default(); shards]) }
    }

    fn shards(&self) -> MutexGuard<'_, Vec<(Done, Option<Waker>)>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A life begins: what the one before had done does not count.
    pub(super) fn begin(&self, shard: usize) {
        self.shards()[shard] = Default::default();
    }

    /// A shard has come so far.
    pub(super) fn reach(&self, shard: usize, done: Done) {
        let mut shards = self.shards();
        shards[shard].0 = shards[shard].0.max(done);
        let waiting: Vec<Waker> = shards.iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        drop(shards);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready once all shards have come so far. One task of a shard may wait at a time.
    pub(super) fn poll_all(&self, shard: usize, done: Done, cx: &Context<'_>) -> Poll<()> {
        let mut shards = self.shards();
        if shards.iter().all(|(reached, _)| *reached >= done) {
            return Poll::Ready(());
        }
        shards[shard].1 = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Who has not come so far.
    pub(super) fn behind(&self, done: Done) -> Vec<usize> {
        let shards = self.shards();
        shards
            .iter()
            .enumerate()
            .filter(|(_, (reached, _))| *reached < done)
            .map(|(shard, _)| shard)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::wakes::Wakes;

    #[test]
    fn who_waits_is_woken_by_the_last_one() {
        let (steps, wakes) = (Steps::new(3), Wakes::default());
        let waker = wakes.waker(0);
        let cx = Context::from_waker(&waker);
        steps.reach(0, Done::BeforeStop);
        assert!(steps.poll_all(0, Done::BeforeStop, &cx).is_pending());
        steps.reach(1, Done::All);
        assert!(steps.poll_all(0, Done::BeforeStop, &cx).is_pending());
        assert_eq!(steps.behind(Done::BeforeStop), [2]);
        steps.reach(2, Done::BeforeStop);
        steps.reach(2, Done::Start);
        assert!(steps.poll_all(0, Done::BeforeStop, &cx).is_ready(), "nobody goes back");
        assert_eq!(steps.behind(Done::Stop), [0, 2]);
        steps.begin(1);
        assert_eq!(steps.behind(Done::BeforeStart), [1]);
    }
}
