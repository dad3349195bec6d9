//! Futures that wait for the shard itself: its clock, its turns, its end.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::Time;

use super::core::Core;
use super::stopping::Step;
use super::wheel::TimerKey;

impl Core {
    /// Fires due timers within the budget; true if some are left.
    pub(super) fn fire_timers(&self, now: Time) -> bool {
        self.wheel.next_deadline().is_some_and(|next| next <= now)
            && self.wheel.fire(now, self.budgets.timers)
    }

    /// Makes sure that the root takes a turn at `deadline`, whatever else happens.
    pub(super) fn wake_at_the_latest(&self, deadline: Time) {
        if let Some(root) = self.root_waker() {
            self.wheel.insert(deadline, root);
            self.own_timers.set(self.own_timers.get() + 1);
        }
    }
}

/// Waits for a moment. Resetting it re-arms it without another timer.
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    core: Rc<Core>,
    deadline: Time,
    /// Set from the first poll to the end; the wheel's entry is freed with it.
    timer: Option<TimerKey>,
}

impl Sleep {
    pub(super) fn new(core: Rc<Core>, deadline: Time) -> Sleep {
        Sleep { core, deadline, timer: None }
    }

    /// When it is over.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Waits for another moment instead, also after it was over. O(1), allocates nothing; moving an armed deadline
    /// further away is one store.
    pub fn reset(&mut self, deadline: Time) {
        self.deadline = deadline;
        if let Some(timer) = self.timer {
            self.core.wheel.reset(timer, deadline);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(timer) = this.timer else {
            this.timer = Some(this.core.wheel.insert(this.deadline, cx.waker()));
            return Poll::Pending;
        };
        std::task::ready!(this.core.wheel.poll(timer, cx.waker()));
        this.core.wheel.cancel(timer);
        this.timer = None;
        Poll::Ready(())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.core.wheel.cancel(timer);
        }
    }
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep")
            .field("deadline", &self.deadline)
            .field("armed", &self.timer.is_some())
            .finish()
    }
}

/// A future that may take so long and no longer.
#[derive(Debug)]
#[must_use = "a timeout does nothing unless it is awaited"]
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

impl<F: Future> Timeout<F> {
    pub(super) fn new(future: F, sleep: Sleep) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        pin!(&mut self.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// The time was up before the result was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time was up")]
pub struct Elapsed;

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// Wakes a task that gives way: it is polled in the next turn, after input and output were looked at. For futures
/// written by hand that have used up their share of a turn.
pub fn yield_waker(waker: &Waker) {
    Core::wake_later(waker);
}

/// Gives way once, if it is to.
#[derive(Debug)]
#[must_use = "nobody gives way unless it is awaited"]
pub struct YieldNow {
    pending: bool,
}

impl YieldNow {
    pub(super) fn new(pending: bool) -> YieldNow {
        YieldNow { pending }
    }
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::take(&mut self.pending) {
            return Poll::Ready(());
        }
        yield_waker(cx.waker());
        Poll::Pending
    }
}

/// Waits until a shard is asked to stop.
#[derive(Debug)]
#[must_use = "nobody waits unless it is awaited"]
pub struct PhaseChange {
    core: Rc<Core>,
    /// Where the waker stands, once it was polled.
    place: Option<usize>,
    step: Step,
}

impl PhaseChange {
    pub(super) fn new(core: Rc<Core>, step: Step) -> PhaseChange {
        PhaseChange { core, place: None, step }
    }
}

impl Future for PhaseChange {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.core.stopping.has_come_to(this.step) {
            return Poll::Ready(());
        }
        this.core.stopping.waiters.borrow_mut().wait(&mut this.place, cx.waker());
        Poll::Pending
    }
}

impl Drop for PhaseChange {
    fn drop(&mut self) {
        self.core.stopping.waiters.borrow_mut().leave(&mut self.place);
    }
}
