//! Descriptors kept in hand for the moment when there are no others.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use waterwheel_reactor::Handle;

/// The spare descriptors of a runtime, as many as it has shards, for whichever of them is short. Looked at with each
/// connection by one load, and locked only at the limit.
///
/// At the limit accept(2) fails and leaves the client in the queue, connected as far as it knows, waiting. So
/// [`spend`](Reserve::spend) one, accept, reset what was accepted, and [`refill`](Reserve::refill): the client is told.
/// Another thread may take the number in between, and then there is one less. So filling the reserve comes before
/// serving: whoever accepts while it is short gives the connection up for it. Else those at the limit could take all,
/// and from then on leave everybody waiting.
pub(crate) struct Reserve {
    wanted: usize,
    held: Mutex<Vec<Handle>>,
    short: AtomicBool,
}

impl Reserve {
    /// So many, each taken by `spare`: before any shard runs, since those that run may take all that are left.
    ///
    /// # Errors
    /// There are not as many.
    pub(crate) fn new(wanted: usize, spare: impl Fn() -> io::Result<Handle>) -> io::Result<Reserve> {
        let held = (0..wanted).map(|_| spare()).collect::<io::Result<Vec<_>>>()?;
        Ok(Reserve { wanted, held: Mutex::new(held), short: AtomicBool::new(false) })
    }

    fn held(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives one back to the process, for the next one who asks. Answers whether there was one.
    pub(super) fn spend(&self) -> bool {
        let spent = self.held().pop();
        self.short.store(true, Relaxed);
        spent.is_some()
    }

    /// Whether one is missing: a hint, that may be old.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Relaxed)
    }

    /// Takes what is missing, as far as there is any. Answers whether all are there now.
    pub(super) fn refill(&self, spare: impl Fn() -> io::Result<Handle>) -> bool {
        let mut held = self.held();
        while held.len() < self.wanted
            && let Ok(spare) = spare()
        {
            held.push(spare);
        }
        let full = held.len() == self.wanted;
        self.short.store(!full, Relaxed);
        full
    }
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("wanted", &self.wanted).field("held", &self.held().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use waterwheel_reactor::{Virtual, VirtualSocket};

    use super::*;

    struct Nothing;
    impl VirtualSocket for Nothing {}

    /// Gives so many descriptors, and then no more.
    fn supply(left: &Cell<u32>) -> impl Fn() -> io::Result<Handle> {
        move || {
            left.set(left.get().checked_sub(1).ok_or(io::ErrorKind::OutOfMemory)?);
            Ok(Handle::Virtual(Virtual::new(Nothing)))
        }
    }

    #[test]
    fn what_was_spent_is_missed_until_it_is_there_again() {
        let left = Cell::new(2);
        let reserve = Reserve::new(2, supply(&left)).unwrap();
        assert!(!reserve.is_short(), "it is full from the start");
        assert!(reserve.spend() && reserve.spend() && !reserve.spend(), "there were two");
        assert!(!reserve.refill(supply(&left)) && reserve.is_short(), "none is left");
        left.set(1);
        assert!(!reserve.refill(supply(&left)) && reserve.is_short(), "one of two");
        left.set(5);
        assert!(reserve.refill(supply(&left)) && !reserve.is_short());
        assert_eq!(left.get(), 4, "no more than was missing");
    }

    #[test]
    fn a_reserve_that_cannot_be_had_is_an_error_before_anybody_runs() {
        assert!(Reserve::new(2, supply(&Cell::new(1))).is_err());
    }
}
