//! The end of one shard's part of a listener, while the shard goes on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Ends an acceptor while its shard goes on: [`Acceptor::leaving`](super::Acceptor::leaving).
#[derive(Clone, Debug, Default)]
pub struct Leaving {
    inner: Rc<LeavingInner>,
}

#[derive(Debug, Default)]
struct LeavingInner {
    asked: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Leaving {
    /// Closes this shard's part of the listener, once who waits in its backlog is accepted: within a second, and as far as
    /// they may wait here; others are reset. Connections that were accepted are served, also those that other shards are
    /// handing over; [`Acceptor::serve_in`](super::Acceptor::serve_in) returns two seconds later, if nobody waits for a place any
    /// more.
    pub fn leave(&self) {
        self.inner.asked.set(true);
        let waiting = self.inner.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.inner.asked.get() {
            return Poll::Ready(());
        }
        *self.inner.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
