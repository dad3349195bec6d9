//! How far each shard has come, so that all begin a step together.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::Time;

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
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shards: Vec<Reached>,
    /// When the first shard heard that all are to stop.
    asked: Option<Time>,
    /// What is to run before the stop of all has, or its time is up.
    released: bool,
}

/// One shard, in all of its lives.
#[derive(Clone, Debug, Default)]
struct Reached {
    done: Done,
    /// One of its lives has begun what is to run before a stop.
    prepares: bool,
    waiting: Option<Waker>,
}

impl State {
    fn who_waits(&mut self) -> Vec<Waker> {
        self.shards.iter_mut().filter_map(|shard| shard.waiting.take()).collect()
    }
}

impl Steps {
    pub(super) fn new(shards: usize) -> Steps {
        let shards = vec![Reached::default(); shards];
        Steps { state: Mutex::new(State { shards, asked: None, released: false }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A life begins: what the one before had done does not count, but for what runs before a stop, which runs once.
    pub(super) fn begin(&self, shard: usize) {
        let mut state = self.state();
        let own = &mut state.shards[shard];
        own.done = if own.prepares { Done::BeforeStop } else { Done::Nothing };
    }

    /// A life is over, and another one follows: nobody is to wait for what ended with it.
    pub(super) fn between_lives(&self, shard: usize) {
        if self.state().shards[shard].prepares {
            self.reach(shard, Done::BeforeStop);
        }
    }

    /// A shard is about to run what is to run before a stop. True for the first of its lives.
    pub(super) fn prepares(&self, shard: usize) -> bool {
        !std::mem::replace(&mut self.state().shards[shard].prepares, true)
    }

    /// When all were asked to stop; now, if nobody has said so yet.
    pub(super) fn asked(&self, now: Time) -> Time {
        *self.state().asked.get_or_insert(now)
    }

    /// The same, if somebody has.
    pub(super) fn asked_at(&self) -> Option<Time> {
        self.state().asked
    }

    /// A shard has come so far.
    pub(super) fn reach(&self, shard: usize, done: Done) {
        let mut state = self.state();
        let own = &mut state.shards[shard];
        own.done = own.done.max(done);
        let waiting = state.who_waits();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The stop of all begins.
    pub(super) fn release(&self) {
        let mut state = self.state();
        state.released = true;
        let waiting = state.who_waits();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether the stop of all has begun.
    pub(super) fn are_released(&self) -> bool {
        self.state().released
    }

    /// Ready once the stop of all has begun. One task of a shard may wait at a time.
    pub(super) fn poll_released(&self, shard: usize, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.released {
            return Poll::Ready(());
        }
        state.shards[shard].waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready once all shards have come so far. One task of a shard may wait at a time.
    pub(super) fn poll_all(&self, shard: usize, done: Done, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.shards.iter().all(|reached| reached.done >= done) {
            return Poll::Ready(());
        }
        state.shards[shard].waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Who has not come so far.
    pub(super) fn behind(&self, done: Done) -> Vec<usize> {
        let state = self.state();
        let behind = state.shards.iter().enumerate().filter(|(_, reached)| reached.done < done);
        behind.map(|(shard, _)| shard).collect()
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

    #[test]
    fn what_runs_before_a_stop_runs_in_one_life_and_nobody_waits_for_it_after_that() {
        let steps = Steps::new(2);
        steps.reach(0, Done::BeforeStop);
        steps.between_lives(1);
        assert_eq!(steps.behind(Done::BeforeStop), [1], "it has not begun: its next life will");
        steps.begin(1);
        assert!(steps.prepares(1) && !steps.prepares(1));
        assert_eq!(steps.behind(Done::BeforeStop), [1], "it has begun");
        steps.between_lives(1);
        assert!(steps.behind(Done::BeforeStop).is_empty(), "it ended with its life");
        steps.begin(1);
        assert!(steps.behind(Done::BeforeStop).is_empty() && !steps.prepares(1));
    }

    #[test]
    fn who_waits_for_the_stop_is_woken_by_it() {
        let (steps, wakes) = (Steps::new(1), Wakes::default());
        let waker = wakes.waker(0);
        let cx = Context::from_waker(&waker);
        let second = std::time::Duration::from_secs(1);
        let asked = Time::ZERO + second;
        assert_eq!(steps.asked(asked), asked);
        assert_eq!(steps.asked(asked + second), asked, "it counts from the first word");
        assert!(steps.poll_released(0, &cx).is_pending() && !steps.are_released());
        steps.release();
        assert!(steps.poll_released(0, &cx).is_ready() && steps.are_released());
    }
}
