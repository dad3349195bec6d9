//! Clients of one shard that wait for a place at an upstream of a group, first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;

/// A line of bounded length. A place that comes free wakes the first, who passes the wake on if it is of no use to it.
#[derive(Debug)]
pub(super) struct Line {
    /// By the order in which they came.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next: Cell<u64>,
    /// Somebody was woken and has not looked yet: nobody may be quicker.
    called: Cell<bool>,
    most: usize,
}

impl Line {
    pub(super) fn new(most: usize) -> Line {
        Line { waiting: RefCell::default(), next: Cell::new(0), called: Cell::new(false), most }
    }

    /// Whether who comes now may look for a place without waiting first.
    pub(super) fn may_pass(&self) -> bool {
        !self.called.get()
    }

    /// Somebody who waits, unless it is one too many.
    pub(super) fn join(&self) -> Option<Waiting<'_>> {
        if self.waiting.borrow().len() >= self.most {
            return None;
        }
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        self.waiting.borrow_mut().insert(ticket, Waker::noop().clone());
        Some(Waiting { line: self, ticket })
    }

    /// A place may be free.
    pub(super) fn call(&self) {
        self.call_from(0);
    }

    fn call_from(&self, ticket: u64) {
        let next = self.waiting.borrow().range(ticket..).next().map(|(_, waker)| waker.clone());
        self.called.set(next.is_some());
        if let Some(waker) = next {
            waker.wake();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.borrow().len()
    }
}

/// One who waits; leaves the line when it is dropped, with a place or without.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    line: &'a Line,
    ticket: u64,
}

impl Waiting<'_> {
    /// To be woken by this when it is called.
    pub(super) fn wait(&self, waker: &Waker) {
        let mut waiting = self.line.waiting.borrow_mut();
        if let Some(known) = waiting.get_mut(&self.ticket) {
            known.clone_from(waker);
        }
    }

    /// The free place is none for this one, but may be one for somebody behind it.
    pub(super) fn pass_on(&self) {
        self.line.call_from(self.ticket + 1);
    }

    /// Whether it is this one's turn to look.
    pub(super) fn is_first(&self) -> bool {
        self.line.waiting.borrow().keys().next() == Some(&self.ticket)
    }

    /// There was nothing: who comes next may look.
    pub(super) fn looked(&self) {
        self.line.called.set(false);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let was_first = self.is_first();
        let left = self.line.waiting.borrow_mut().remove(&self.ticket);
        drop(left);
        // There may be more places than the one that it got; or it was called and has given up.
        if was_first {
            self.line.call();
        } else if !self.line.may_pass() {
            self.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn waits(line: &Line) -> (Waiting<'_>, Arc<Count>) {
        let (waiting, count) = (line.join().unwrap(), Arc::new(Count::default()));
        waiting.wait(&count.clone().into());
        (waiting, count)
    }

    #[test]
    fn the_first_is_called_and_who_leaves_calls_the_next() {
        let line = Line::new(3);
        let ((first, one), (second, two), (third, three)) = (waits(&line), waits(&line), waits(&line));
        assert!(line.join().is_none(), "one too many");
        let calls = || [&one, &two, &three].map(|count| count.0.load(Relaxed));
        line.call();
        assert_eq!(calls(), [1, 0, 0]);
        assert!(!line.may_pass() && first.is_first() && !second.is_first());
        drop(third);
        assert_eq!(calls(), [1, 0, 0], "who gives up at the end takes nobody's turn");
        drop(first);
        assert_eq!(calls(), [1, 1, 0]);
        second.looked();
        assert!(line.may_pass());
        drop(second);
        assert!(line.may_pass() && line.len() == 0);
    }

    #[test]
    fn a_place_that_is_of_no_use_is_passed_on() {
        let line = Line::new(2);
        let ((first, one), (second, two)) = (waits(&line), waits(&line));
        line.call();
        first.pass_on();
        assert_eq!((one.0.load(Relaxed), two.0.load(Relaxed)), (1, 1));
        second.pass_on();
        assert!(line.may_pass(), "nobody is left");
    }
}
