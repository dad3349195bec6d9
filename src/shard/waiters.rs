//! Wakers of tasks that wait for the same thing, each removed when its future goes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A bag of wakers with stable places; bounded by the futures that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Waiters {
    /// Remembers `waker` at `place`, which is `None` before the first call.
    pub(crate) fn wait(&mut self, place: &mut Option<usize>, waker: &Waker) {
        let at = *place.get_or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.places.push(None);
                self.places.len() - 1
            })
        });
        match &mut self.places[at] {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Forgets a place; for the waiting future's drop.
    pub(crate) fn leave(&mut self, place: &mut Option<usize>) {
        if let Some(at) = place.take() {
            self.places[at] = None;
            self.free.push(at);
        }
    }

    /// Wakes everybody; the places stay taken until their futures leave.
    pub(crate) fn wake_all(&mut self) {
        self.places.iter().flatten().for_each(Waker::wake_by_ref);
    }
}

/// Waits until `is` finds something, which it is asked whenever all are woken.
pub(crate) async fn wait_until<T>(waiters: &RefCell<Waiters>, is: impl Fn() -> Option<T>) -> T {
    let mut wait = Wait { waiters, place: None };
    poll_fn(|cx| {
        if let Some(found) = is() {
            return Poll::Ready(found);
        }
        waiters.borrow_mut().wait(&mut wait.place, cx.waker());
        Poll::Pending
    })
    .await
}

/// A place in the bag, left when the wait is over or given up.
struct Wait<'a> {
    waiters: &'a RefCell<Waiters>,
    place: Option<usize>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.waiters.borrow_mut().leave(&mut self.place);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::shard::wakes::Wakes;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Steps of eight tasks: 0 leaves, 1 wakes all, others wait.
        #[test]
        fn all_who_wait_are_woken_by_their_latest_waker(steps in prop::collection::vec((0..5u8, 0..8usize), 0..100)) {
            let (mut waiters, wakes) = (Waiters::default(), Wakes::default());
            let mut places = [None; 8];
            let (mut oracle, mut peak) = (BTreeMap::new(), 0);
            for (name, (step, task)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        waiters.leave(&mut places[task]);
                        oracle.remove(&task);
                    }
                    1 => {
                        waiters.wake_all();
                        let mut woken = wakes.take();
                        woken.sort_unstable();
                        let mut expected: Vec<_> = oracle.values().copied().collect();
                        expected.sort_unstable();
                        prop_assert_eq!(woken, expected);
                    }
                    _ => {
                        waiters.wait(&mut places[task], &wakes.waker(name));
                        oracle.insert(task, name);
                        peak = peak.max(oracle.len());
                    }
                }
                prop_assert_eq!(waiters.places.len(), peak, "places are used again before there are more");
                prop_assert_eq!(waiters.places.iter().flatten().count(), oracle.len());
            }
            places.iter_mut().for_each(|place| waiters.leave(place));
            prop_assert!(wakes.is_alone(), "a waker is still held");
        }
    }
}
