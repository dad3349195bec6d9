//! Tasks of one shard that wait for the same thing, first come, first served.

use std::task::Waker;

/// A queue of wakers. Only the first may go on; when it leaves, it wakes the next, so that nobody is passed over.
/// A doubly linked list in a slab: joining and leaving cost no allocation once the slab has grown to the largest
/// number of tasks that ever waited at once, which is its only limit.
#[derive(Debug)]
pub(super) struct Waiters {
    entries: Vec<Entry>,
    first: u32,
    last: u32,
    free: u32,
}

/// A place in the queue. Whoever holds it must give it back with [`Waiters::leave`].
#[derive(Debug)]
pub(super) struct Place(u32);

#[derive(Debug)]
struct Entry {
    /// `None`: the entry is free.
    waker: Option<Waker>,
    /// Of a free entry: unused.
    before: u32,
    /// Of a free entry: the next free one.
    after: u32,
}

const NONE: u32 = u32::MAX;

impl Waiters {
    pub(super) const fn new() -> Waiters {
        Waiters { entries: Vec::new(), first: NONE, last: NONE, free: NONE }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// Whether the holder of `place`, or a newcomer without one, is the next to go on.
    pub(super) fn is_first(&self, place: Option<&Place>) -> bool {
        match place {
            Some(place) => self.first == place.0,
            None => self.first == NONE,
        }
    }

    /// Waits: at the end of the queue, or where it was.
    pub(super) fn wait(&mut self, place: &mut Option<Place>, waker: &Waker) {
        match place {
            Some(Place(index)) => {
                let kept = self.entries[*index as usize].waker.as_mut();
                kept.expect("a place is held until it is left").clone_from(waker);
            }
            None => *place = Some(self.join(waker.clone())),
        }
    }

    fn join(&mut self, waker: Waker) -> Place {
        let entry = Entry { waker: Some(waker), before: self.last, after: NONE };
        let index = match self.free {
            NONE => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 tasks wait")
            }
            index => {
                self.free = self.entries[index as usize].after;
                self.entries[index as usize] = entry;
                index
            }
        };
        match self.last {
            NONE => self.first = index,
            last => self.entries[last as usize].after = index,
        }
        self.last = index;
        Place(index)
    }

    /// Gives a place up, having got what was waited for or wanting it no more. The next in the queue is woken if this
    /// one was the first: it finds out for itself whether there is anything left.
    pub(super) fn leave(&mut self, place: &mut Option<Place>) {
        let Some(Place(index)) = place.take() else { return };
        let was_first = self.first == index;
        let Entry { before, after, .. } = self.entries[index as usize];
        match before {
            NONE => self.first = after,
            before => self.entries[before as usize].after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.entries[after as usize].before = before,
        }
        self.entries[index as usize] = Entry { waker: None, before: NONE, after: self.free };
        self.free = index;
        if was_first {
            self.wake_first();
        }
    }

    /// Whether this waker waits here; for reports.
    pub(super) fn includes(&self, waker: &Waker) -> bool {
        self.entries.iter().filter_map(|entry| entry.waker.as_ref()).any(|own| own.will_wake(waker))
    }

    /// Wakes whoever is first.
    pub(super) fn wake_first(&self) {
        if let Some(Entry { waker: Some(waker), .. }) = self.entries.get(self.first as usize) {
            waker.wake_by_ref();
        }
    }

    /// Wakes all: what they wait for will never come.
    pub(super) fn wake_all(&self) {
        self.entries.iter().filter_map(|entry| entry.waker.as_ref()).for_each(Waker::wake_by_ref);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::shard::wakes::Wakes;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn three(waiters: &mut Waiters) -> (Wakes, [Option<Place>; 3]) {
        let (wakes, mut places) = (Wakes::default(), [None, None, None]);
        for (task, place) in places.iter_mut().enumerate() {
            waiters.wait(place, &wakes.waker(task));
        }
        (wakes, places)
    }

    #[test]
    fn the_first_goes_on_and_a_newcomer_waits_behind() {
        let mut waiters = Waiters::new();
        assert!(waiters.is_first(None));
        let (wakes, mut places) = three(&mut waiters);
        assert!(!waiters.is_first(None) && waiters.is_first(places[0].as_ref()));
        waiters.wake_first();
        assert_eq!(wakes.take(), [0]);
        waiters.leave(&mut places[0]);
        assert_eq!(wakes.take(), [1], "who leaves wakes the next");
        assert!(waiters.is_first(places[1].as_ref()));
    }

    #[test]
    fn leaving_from_the_middle_wakes_nobody_and_keeps_the_order() {
        let mut waiters = Waiters::new();
        let (wakes, mut places) = three(&mut waiters);
        waiters.leave(&mut places[1]);
        assert!(wakes.take().is_empty());
        waiters.leave(&mut places[0]);
        assert_eq!(wakes.take(), [2]);
        waiters.leave(&mut places[2]);
        assert!(waiters.is_empty());
        let (again, _) = three(&mut waiters);
        assert_eq!(waiters.entries.len(), 3, "places are used again");
        waiters.wake_all();
        let mut woken = again.take();
        woken.sort_unstable();
        assert_eq!(woken, [0, 1, 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Steps of eight tasks: 0 and 1 leave, 2 wakes the first, 3 wakes all, others wait.
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec((0..8u8, 0..8usize), 0..120)) {
            let (mut waiters, wakes) = (Waiters::new(), Wakes::default());
            let mut places: [Option<Place>; 8] = Default::default();
            // Who waits, in order, and the latest waker.
            let (mut oracle, mut peak) = (VecDeque::<(usize, usize)>::new(), 0);
            for (name, (step, task)) in steps.into_iter().enumerate() {
                let first = oracle.front().copied();
                let at = oracle.iter().position(|(other, _)| *other == task);
                let mut expected = Vec::new();
                match (step, at) {
                    (0 | 1, _) => {
                        waiters.leave(&mut places[task]);
                        at.map(|at| oracle.remove(at));
                        if at == Some(0) {
                            expected.extend(oracle.front().map(|(_, waker)| *waker));
                        }
                    }
                    (2, _) => {
                        waiters.wake_first();
                        expected.extend(first.map(|(_, waker)| waker));
                    }
                    (3, _) => {
                        waiters.wake_all();
                        expected.extend(oracle.iter().map(|(_, waker)| *waker));
                    }
                    (_, at) => {
                        waiters.wait(&mut places[task], &wakes.waker(name));
                        match at {
                            Some(at) => oracle[at].1 = name,
                            None => oracle.push_back((task, name)),
                        }
                        peak = peak.max(oracle.len());
                    }
                }
                let mut woken = wakes.take();
                woken.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(woken, expected);
                prop_assert_eq!(waiters.is_empty(), oracle.is_empty());
                prop_assert_eq!(waiters.is_first(None), oracle.is_empty());
                for (task, place) in places.iter().enumerate().filter(|(_, place)| place.is_some()) {
                    let first = oracle.front().is_some_and(|(other, _)| *other == task);
                    prop_assert_eq!(waiters.is_first(place.as_ref()), first);
                }
                prop_assert_eq!(waiters.entries.len(), peak, "entries are used again before there are more");
            }
            places.iter_mut().for_each(|place| waiters.leave(place));
            wakes.take();
            prop_assert!(wakes.is_alone(), "a waker is still held");
        }
    }
}
