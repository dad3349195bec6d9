//! The timers that are nearly due, in the order in which they will fire: a binary heap that tells each its position, so
//! that any of them can be taken out. It holds what is due and what is due within the finest width of the wheel.

/// A timer in the heap; it repeats what decides the order, so that sifting stays within the heap's memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) deadline: u64,
    /// Unique, so the order is total.
    pub(super) order: u64,
    pub(super) index: u32,
}

#[derive(Default)]
pub(super) struct Near {
    heap: Vec<Due>,
}

impl Near {
    /// The one that fires first.
    pub(super) fn first(&self) -> Option<Due> {
        self.heap.first().copied()
    }

    /// O(log n). `moved` hears the new position of everyone whose position changed, the new one's included.
    pub(super) fn push(&mut self, due: Due, moved: impl FnMut(Due, u32)) {
        self.heap.push(due);
        self.rise(self.heap.len() - 1, moved);
    }

    /// O(log n). Takes out the one at `at`; `moved` as in [`push`](Near::push).
    pub(super) fn remove(&mut self, at: u32, mut moved: impl FnMut(Due, u32)) {
        let at = at as usize;
        let gone = self.heap.swap_remove(at);
        match self.heap.get(at) {
            // It was the last one: nobody took its position.
            None => {}
            Some(stand_in) if *stand_in < gone => self.rise(at, &mut moved),
            Some(_) => self.sink(at, &mut moved),
        }
    }

    /// How many it has room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.heap.capacity()
    }

    fn rise(&mut self, mut at: usize, mut moved: impl FnMut(Due, u32)) {
        let due = self.heap[at];
        while at > 0 && due < self.heap[(at - 1) / 2] {
            let parent = (at - 1) / 2;
            self.heap[at] = self.heap[parent];
            moved(self.heap[at], at as u32);
            at = parent;
        }
        self.heap[at] = due;
        moved(due, at as u32);
    }

    fn sink(&mut self, mut at: usize, mut moved: impl FnMut(Due, u32)) {
        let due = self.heap[at];
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child =
                if right < self.heap.len() && self.heap[right] < self.heap[left] { right } else { left };
            if child >= self.heap.len() || due < self.heap[child] {
                break;
            }
            self.heap[at] = self.heap[child];
            moved(self.heap[at], at as u32);
            at = child;
        }
        self.heap[at] = due;
        moved(due, at as u32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Taking out of the middle may move the stand-in either way.
        #[test]
        fn any_of_them_can_be_taken_out(acts in prop::collection::vec((any::<bool>(), 0..100u64, any::<u32>()), 1..200)) {
            let (mut near, mut model, mut positions) = (Near::default(), vec![], vec![]);
            for (push, deadline, which) in acts {
                if push || model.is_empty() {
                    let index = positions.len() as u32;
                    let due = Due { deadline, order: u64::from(index), index };
                    positions.push(u32::MAX);
                    model.push(due);
                    near.push(due, |due, at| positions[due.index as usize] = at);
                } else {
                    let due = model.swap_remove(which as usize % model.len());
                    near.remove(positions[due.index as usize], |due, at| positions[due.index as usize] = at);
                }
                prop_assert!(near.first() == model.iter().min().copied());
                for due in &model {
                    prop_assert!(near.heap[positions[due.index as usize] as usize] == *due);
                }
            }
        }
    }
}
