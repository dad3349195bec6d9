//! How many sockets of a listener are still open, so that who wants its address again can wait for the last one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use waterwheel_reactor::Bound;

/// Counts the sockets of one listener, wherever they are.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: Mutex<usize>,
    none: Condvar,
}

impl Sockets {
    fn open(&self) -> MutexGuard<'_, usize> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether none is open.
    pub(crate) fn are_closed(&self) -> bool {
        *self.open() == 0
    }

    /// Waits until none is open, and no longer than that; for threads that may wait. Whether none is.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        let waited = self.none.wait_timeout_while(self.open(), most, |open| *open > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

/// A socket of a listener that no shard serves now.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bound: Bound,
    /// After the socket.
    pub(super) counted: Counted,
}

/// Goes with a socket, and behind it.
#[derive(Debug)]
pub(super) struct Counted(Arc<Sockets>);

impl Counted {
    /// One more.
    pub(super) fn new(sockets: &Arc<Sockets>) -> Counted {
        *sockets.open() += 1;
        Counted(sockets.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.0.open();
        *open -= 1;
        if *open == 0 {
            self.0.none.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_hears_of_the_last_one() {
        let sockets = Arc::<Sockets>::default();
        let (one, other) = (Counted::new(&sockets), Counted::new(&sockets));
        drop(one);
        assert!(!sockets.are_closed() && !sockets.wait(Duration::from_millis(1)));
        let closing = std::thread::Builder::new().spawn(move || drop(other)).unwrap();
        assert!(sockets.wait(Duration::from_secs(60)) && sockets.are_closed());
        closing.join().unwrap();
    }
}
