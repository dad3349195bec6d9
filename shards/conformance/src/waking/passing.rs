//! Wakers of the suite's own, to tell which one a reactor wakes.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use waterwheel_reactor::{Reactor, Sink, Time};

use crate::kit::pattern::Pattern;
use crate::kit::stream::write_while_taken;

/// Counts its wakes and passes them on to the root.
#[derive(Debug)]
pub(super) struct Passing {
    wakes: AtomicU64,
    root: Waker,
}

impl Wake for Passing {
    fn wake(self: Arc<Passing>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Passing>) {
        self.wakes.fetch_add(1, SeqCst);
        self.root.wake_by_ref();
    }
}

impl Passing {
    /// One that passes on to the root that awaits this.
    pub(super) async fn new() -> Arc<Passing> {
        poll_fn(|cx| Poll::Ready(Arc::new(Passing { wakes: AtomicU64::new(0), root: cx.waker().clone() })))
            .await
    }

    /// One poll with this waker, that must be pending.
    pub(super) fn waits<T>(self: &Arc<Passing>, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) {
        assert!(self.polls(poll).is_pending(), "ready, though nothing has happened yet");
    }

    fn polls<T>(self: &Arc<Passing>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))))
    }

    /// Writes the pattern with this waker until a poll is pending; answers how many bytes were taken. There may be some
    /// though a poll was pending a moment ago: a busy kernel makes room late for what it had before.
    pub(super) fn waits_to_write(self: &Arc<Passing>, sink: &mut dyn Sink, pattern: &mut Pattern) -> usize {
        write_while_taken(&mut Context::from_waker(&Waker::from(Arc::clone(self))), sink, pattern)
    }

    /// Polls the alarm with each of the wakers in turn, so that each poll is pending; answers the deadline, which is
    /// `soon`. Where a busy machine lets that pass between two polls, it is one a little later.
    pub(super) fn wait_for_the_alarm(
        wakers: &[&Arc<Passing>],
        reactor: &dyn Reactor,
        soon: Duration,
    ) -> Time {
        const DOUBLINGS: u32 = 10;
        for doubling in 0..DOUBLINGS {
            let deadline = reactor.now() + soon * 2_u32.pow(doubling);
            let mut polls = wakers.iter().map(|waker| waker.polls(|cx| reactor.poll_until(cx, deadline)));
            if polls.all(|poll| poll.is_pending()) {
                return deadline;
            }
        }
        panic!("an alarm is due at once, {DOUBLINGS} times, though nothing of its time has passed");
    }

    /// How often it was woken.
    pub(super) fn wakes(&self) -> u64 {
        self.wakes.load(SeqCst)
    }

    /// Waits until it was woken.
    pub(super) async fn woken(&self) {
        poll_fn(|_| if self.wakes() > 0 { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}
