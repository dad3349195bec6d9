//! Where the shards of a run meet: to start together, and to go on together.
//!
//! Only between phases; while requests are on their way, shards share nothing.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use waterwheel_reactor::Time;

/// A meeting place for a number of shards, used over and over. May be made before the shards run.
#[derive(Debug, Default)]
pub(super) struct Meeting {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// How many have come to the current round.
    here: usize,
    /// The rounds that are over.
    rounds: u64,
    /// What the current round brought so far, and what the last one came to.
    current: Brought,
    last: Brought,
    /// Who waits for the current round to be over.
    waiting: Vec<Waker>,
    /// A member left for good: no round can be complete any more.
    left: bool,
}

/// What shards bring to a round, put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Brought {
    /// The latest of all times.
    pub(super) time: Time,
    /// The sum of all counts.
    pub(super) count: u64,
}

/// Another shard of the run ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left;

impl Meeting {
    /// Joins; every one of the members must, once.
    pub(super) fn join(&self, members: usize) -> Member<'_> {
        Member { meeting: self, members, round: 0 }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One shard's seat. Dropping it tells the others that this shard comes no more.
#[derive(Debug)]
pub(super) struct Member<'m> {
    meeting: &'m Meeting,
    members: usize,
    /// Which round this member comes to next.
    round: u64,
}

impl Member<'_> {
    /// Waits until all members have come, and answers what all brought.
    ///
    /// # Errors
    /// A member left before.
    pub(super) async fn meet(&mut self, mine: Brought) -> Result<Brought, Left> {
        let round = self.round;
        self.round += 1;
        self.come(mine);
        poll_fn(|cx| {
            let mut table = self.meeting.table();
            if table.rounds > round {
                return Poll::Ready(Ok(table.last));
            }
            if table.left {
                return Poll::Ready(Err(Left));
            }
            table.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn come(&self, mine: Brought) {
        let mut table = self.meeting.table();
        table.here += 1;
        table.current.time = table.current.time.max(mine.time);
        table.current.count += mine.count;
        if table.here == self.members {
            table.here = 0;
            table.rounds += 1;
            table.last = std::mem::take(&mut table.current);
            wake_all(table);
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let mut table = self.meeting.table();
        table.left = true;
        wake_all(table);
    }
}

/// Wakes without the lock: a wake may run code of the reactor's.
fn wake_all(mut table: MutexGuard<'_, Table>) {
    let waiting = std::mem::take(&mut table.waiting);
    drop(table);
    waiting.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn at(nanos: u64, count: u64) -> Brought {
        Brought { time: Time::from_nanos(nanos), count }
    }

    #[test]
    fn nobody_goes_on_before_all_have_come() {
        let meeting = Meeting::default();
        let (mut a, mut b) = (meeting.join(2), meeting.join(2));
        for round in 0..3 {
            let mut first = Box::pin(a.meet(at(5 + round, 1)));
            assert_eq!((&mut first).now_or_never(), None, "alone in round {round}");
            assert_eq!(b.meet(at(3, 10)).now_or_never(), Some(Ok(at(5 + round, 11))));
            assert_eq!(first.now_or_never(), Some(Ok(at(5 + round, 11))));
        }
    }

    #[test]
    fn who_leaves_fails_those_who_wait_instead_of_hanging_them() {
        let meeting = Meeting::default();
        let (mut a, b) = (meeting.join(2), meeting.join(2));
        let mut waits = Box::pin(a.meet(at(1, 1)));
        assert_eq!((&mut waits).now_or_never(), None);
        drop(b);
        assert_eq!(waits.now_or_never(), Some(Err(Left)));
    }

    #[test]
    fn a_round_that_was_complete_counts_even_if_a_member_left_since() {
        let meeting = Meeting::default();
        let (mut a, mut b) = (meeting.join(2), meeting.join(2));
        let mut waits = Box::pin(a.meet(at(1, 1)));
        assert_eq!((&mut waits).now_or_never(), None);
        assert!(b.meet(at(2, 2)).now_or_never().is_some());
        drop(b);
        assert_eq!(waits.now_or_never(), Some(Ok(at(2, 3))));
    }

    #[test]
    fn wakers_of_other_threads_are_woken() {
        let wakes = crate::shard::wakes::Wakes::default();
        let waker = wakes.waker(0);
        let meeting = Meeting::default();
        let (mut a, mut b) = (meeting.join(2), meeting.join(2));
        let mut waits = Box::pin(a.meet(at(1, 1)));
        assert!(waits.poll_unpin(&mut std::task::Context::from_waker(&waker)).is_pending());
        std::thread::scope(|scope| scope.spawn(|| b.meet(at(1, 1)).now_or_never()).join().unwrap());
        assert_eq!(wakes.take().len(), 1);
    }
}
