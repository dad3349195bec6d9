//! Wakers of the suite's own, to tell which one a reactor wakes.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

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
    pub(super) fn waits<T>(self: &Arc<Passing>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) {
        let waker = Waker::from(Arc::clone(self));
        let pending = poll(&mut Context::from_waker(&waker)).is_pending();
        assert!(pending, "ready, though nothing has happened yet");
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
