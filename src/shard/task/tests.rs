//! The slab of tasks against a list of all tasks that ever were.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::pending;

use proptest::prelude::*;

use super::*;

struct Silent;

impl RingForeign for Silent {
    fn ring_foreign(&self) {}
}

#[derive(Clone, Debug)]
enum Act {
    Insert,
    /// Of any task that ever was.
    Cancel {
        which: usize,
    },
    Vacate {
        which: usize,
    },
    Settle {
        which: usize,
    },
    Drain,
    /// A poll of a task that lives; `inside`: what happens meanwhile.
    Poll {
        which: usize,
        ends: bool,
        inside: Vec<Act>,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let leaf = prop_oneof![
        6 => Just(Act::Insert),
        3 => any::<usize>().prop_map(|which| Act::Cancel { which }),
        2 => any::<usize>().prop_map(|which| Act::Vacate { which }),
        1 => any::<usize>().prop_map(|which| Act::Settle { which }),
    ];
    let act = leaf.prop_recursive(2, 16, 4, |inner| {
        let poll = (any::<usize>(), any::<bool>(), prop::collection::vec(inner, 0..4));
        poll.prop_map(|(which, ends, inside)| Act::Poll { which, ends, inside })
    });
    prop::collection::vec(prop_oneof![30 => act, 1 => Just(Act::Drain)], 1..150)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Lives,
    /// Being polled; `cancelled`: to end after it.
    Polled {
        cancelled: bool,
    },
    Ended,
}

const NAMES: [&str; 3] = ["one", "two", "three"];

/// The slab, and beside it every task that ever was.
struct Pair {
    slab: Slab,
    foreign: Arc<Foreign>,
    tasks: Vec<(Key, State)>,
    /// The tasks whose futures were dropped since the last look.
    dropped: Rc<RefCell<Vec<usize>>>,
    /// The largest number of tasks that lived at once.
    peak: usize,
}

/// Tells that a task's future was dropped.
struct Told(usize, Rc<RefCell<Vec<usize>>>);

impl Drop for Told {
    fn drop(&mut self) {
        self.1.borrow_mut().push(self.0);
    }
}

impl Pair {
    fn new() -> Pair {
        let (foreign, dropped) = (Arc::new(Foreign::new(Arc::new(Silent))), Rc::default());
        Pair { slab: Slab::default(), foreign, tasks: Vec::new(), dropped, peak: 0 }
    }

    fn any(&self, which: usize) -> Option<usize> {
        which.checked_rem(self.tasks.len())
    }

    fn living(&self) -> Vec<usize> {
        (0..self.tasks.len()).filter(|id| self.tasks[*id].1 != State::Ended).collect()
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Insert => self.insert(),
            Act::Cancel { which } => {
                let Some(id) = self.any(*which) else { return };
                let (key, state) = self.tasks[id];
                let body = self.slab.cancel(key);
                if let State::Polled { .. } = state {
                    self.tasks[id].1 = State::Polled { cancelled: true };
                }
                self.gave(body, (state == State::Lives).then_some(id));
            }
            Act::Vacate { which } => {
                let Some(id) = self.any(*which) else { return };
                let (body, owner) = (self.slab.vacate(self.tasks[id].0.slot), self.owner(id));
                self.gave(body, owner);
            }
            Act::Settle { which } => {
                // A task that lives was not cancelled, and one in its poll ends after it.
                let Some(id) = self.any(*which) else { return };
                let body = self.slab.settle(self.tasks[id].0.slot);
                self.gave(body, None);
            }
            Act::Drain => {
                let bodies = self.slab.drain();
                let lives = |id: &usize| self.tasks[*id].1 == State::Lives;
                let expected: BTreeSet<_> = self.living().into_iter().filter(lives).collect();
                drop(bodies);
                expected.iter().for_each(|id| self.tasks[*id].1 = State::Ended);
                assert_eq!(self.dropped.take().into_iter().collect::<BTreeSet<_>>(), expected);
            }
            Act::Poll { which, ends, inside } => self.poll(*which, *ends, inside),
        }
        self.check();
    }

    fn insert(&mut self) {
        let id = self.tasks.len();
        let told = Told(id, self.dropped.clone());
        let future = Box::pin(async move {
            let _told = told;
            pending::<()>().await;
        });
        let here = Location::caller();
        let key = self.slab.insert(NAMES[id % 3], here, id as u32, GroupId::DEFAULT, future, &self.foreign);
        assert!(self.tasks.iter().all(|(other, _)| *other != key), "a key was given twice");
        assert!(
            self.living().into_iter().all(|other| self.tasks[other].0.slot != key.slot),
            "a slot was shared"
        );
        self.tasks.push((key, State::Lives));
        self.peak = self.peak.max(self.living().len());
    }

    /// The task that lives where `id` was, unless it is being polled.
    fn owner(&self, id: usize) -> Option<usize> {
        let slot = self.tasks[id].0.slot;
        self.tasks.iter().position(|(key, state)| key.slot == slot && *state == State::Lives)
    }

    /// A task that ends comes back to be dropped, and no other.
    fn gave(&mut self, body: Option<Body>, expected: Option<usize>) {
        assert!(self.dropped.borrow().is_empty(), "dropped inside the slab");
        drop(body);
        assert_eq!(self.dropped.take(), expected.into_iter().collect::<Vec<_>>());
        expected.into_iter().for_each(|id| self.tasks[id].1 = State::Ended);
    }

    fn poll(&mut self, which: usize, ends: bool, inside: &[Act]) {
        let lives: Vec<_> =
            self.living().into_iter().filter(|id| self.tasks[*id].1 == State::Lives).collect();
        let Some(id) = which.checked_rem(lives.len()).map(|at| lives[at]) else { return };
        let slot = self.tasks[id].0.slot;
        let block = self.slab.block(slot).expect("a task that lives is in a block");
        let entry = &block[place(slot)];
        assert_eq!(entry.mark.get() as usize, id, "the entry is another task's");
        let body = entry.body.borrow_mut();
        assert!(body.is_some(), "a task that lives has a future");
        self.tasks[id].1 = State::Polled { cancelled: false };
        inside.iter().for_each(|act| self.act(act));
        drop(body);
        let cancelled = self.tasks[id].1 == State::Polled { cancelled: true };
        self.tasks[id].1 = State::Lives;
        let body = if ends { self.slab.vacate(slot) } else { self.slab.settle(slot) };
        self.gave(body, (ends || cancelled).then_some(id));
    }

    fn check(&self) {
        let living = self.living();
        assert_eq!(self.slab.len(), living.len());
        let mut names: Vec<_> = self.slab.notes(|_| true).into_iter().map(|note| note.name).collect();
        let at_rest = living.iter().filter(|id| self.tasks[**id].1 == State::Lives);
        let mut expected: Vec<_> = at_rest.map(|id| NAMES[id % 3]).collect();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(self.slab.used, self.peak, "slots are used again before there are more");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_key_ends_its_own_task_and_no_other(acts in acts()) {
        let mut pair = Pair::new();
        acts.iter().for_each(|act| pair.act(act));
        pair.act(&Act::Drain);
        prop_assert_eq!(pair.slab.len(), 0);
    }
}
