//! What wakes the one task of a shard that looks after something.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A wish that a task look again. Wishes that come before it looks are one.
#[derive(Default)]
pub(super) struct Nudge {
    wished: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Nudge {
    /// Asks the task to look.
    pub(super) fn nudge(&self) {
        self.wished.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The task: waits for the next wish; at once if there was one since the last time.
    pub(super) async fn wished(&self) {
        poll_fn(|cx| {
            if self.wished.take() {
                return Poll::Ready(());
            }
            match &mut *self.waker.borrow_mut() {
                Some(kept) => kept.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}

impl fmt::Debug for Nudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nudge").field("wished", &self.wished.get()).finish_non_exhaustive()
    }
}
