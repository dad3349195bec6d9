//! Clients of one shard that wait for a place at an upstream of a group, first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;

/// A line of bounded length. Only the first looks for a place; when it leaves, with one or without, the next does.
#[derive(Debug)]
pub(super) struct Line {
    /// By the order in which they came.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next: Cell<u64>,
    most: usize,
}

impl Line {
    pub(super) fn new(most: usize) -> Line {
        Line { waiting: RefCell::default(), next: Cell::new(0), most }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
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

    /// There may be something for the first.
    pub(super) fn call(&self) {
        let first = self.waiting.borrow().values().next().cloned();
        if let Some(first) = first {
            first.wake();
        }
    }
}

/// One who waits; leaves the line when it is dropped, with a place or without.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    line: &'a Line,
    ticket: u64,
}

impl Waiting<'_> {
    /// Whether it is this one's turn to look; else this wakes it when it is.
    pub(super) fn is_first(&self, waker: &Waker) -> bool {
        let mut waiting = self.line.waiting.borrow_mut();
        if let Some(known) = waiting.get_mut(&self.ticket) {
            known.clone_from(waker);
        }
        waiting.keys().next() == Some(&self.ticket)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.waiting.borrow_mut();
        let was_first = waiting.keys().next() == Some(&self.ticket);
        let left = waiting.remove(&self.ticket);
        drop(waiting);
        drop(left);
        if was_first {
            self.line.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::wakes::Wakes;

    #[test]
    fn the_first_looks_and_who_leaves_calls_the_next() {
        let line = Line::new(3);
        let calls = Wakes::default();
        let wakers = [0, 1, 2].map(|place| calls.waker(place));
        let [first, second, third] = [0, 1, 2].map(|place| {
            let waiting = line.join().unwrap();
            assert_eq!(waiting.is_first(&wakers[place]), place == 0);
            waiting
        });
        assert!(line.join().is_none(), "one too many");
        line.call();
        assert_eq!(calls.take(), [0]);
        drop(third);
        assert!(calls.take().is_empty(), "who gives up at the end takes nobody's turn");
        drop(first);
        assert_eq!(calls.take(), [1]);
        assert!(second.is_first(&wakers[1]));
        drop(second);
        assert!(line.is_empty() && line.join().is_some());
    }
}
