//! Something that a shard cannot do without has failed: its life ends, as by a panic of its main future, and who started it
//! decides what comes next.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::task::{Context, Poll, Waker};

use super::core::Core;

/// What has failed, and how.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

#[derive(Debug, Default)]
pub(super) struct Failing {
    failure: RefCell<Option<Failure>>,
    /// There is, or was, a failure.
    has_failed: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Failing {
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.get()
    }
}

impl Core {
    /// The life of this shard is to end of this. The first failure counts.
    pub(crate) fn fail(&self, failure: Failure) {
        if self.failing.has_failed.replace(true) {
            return;
        }
        self.failing.failure.replace(Some(failure));
        let waiting = self.failing.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready once, when something has failed. One task may wait.
    pub(crate) fn poll_failure(&self, cx: &Context<'_>) -> Poll<Failure> {
        if let Some(failure) = self.failing.failure.take() {
            return Poll::Ready(failure);
        }
        match &mut *self.failing.waiting.borrow_mut() {
            Some(waiting) => waiting.clone_from(cx.waker()),
            waiting => *waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
