//! The wheel against a sorted map, and the laws of time that are its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};

use proptest::prelude::*;
use waterwheel_reactor::Time;

use super::{TimerKey, Wheel};
use crate::shard::wakes::Wakes;

const SECOND: u64 = 1_000_000_000;

fn at(nanos: u64) -> Time {
    Time::from_nanos(nanos)
}

// ---- against an oracle

#[derive(Clone, Debug)]
enum Act {
    Insert {
        after: u64,
    },
    /// To a deadline counted from now, or from the deadline it has.
    Reset {
        which: usize,
        after: u64,
        from_deadline: bool,
    },
    Cancel {
        which: usize,
    },
    /// By a task that has another waker than before.
    Poll {
        which: usize,
    },
    /// Somebody uses the key of a timer that was cancelled.
    Stale {
        which: usize,
    },
    Advance {
        by: u64,
    },
    /// Time goes to the very moment the wheel asked for.
    Sleep,
    Fire {
        budget: usize,
    },
}

/// Every magnitude from a nanosecond to centuries, and many ties.
fn spans() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..4u64,
        3 => (0..6u64).prop_map(|n| n * 40_000),
        2 => (0..64u32, 0..1000u64).prop_map(|(power, off)| (1u64 << power).saturating_add(off)),
        1 => Just(u64::MAX),
        2 => 0..100 * SECOND,
    ]
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => spans().prop_map(|after| Act::Insert { after }),
        4 => (any::<usize>(), spans(), any::<bool>())
            .prop_map(|(which, after, from_deadline)| Act::Reset { which, after, from_deadline }),
        3 => any::<usize>().prop_map(|which| Act::Cancel { which }),
        2 => any::<usize>().prop_map(|which| Act::Poll { which }),
        1 => any::<usize>().prop_map(|which| Act::Stale { which }),
        2 => spans().prop_map(|by| Act::Advance { by: by / 64 }),
        2 => Just(Act::Sleep),
        4 => (1..5usize).prop_map(|budget| Act::Fire { budget }),
    ]
}

/// The wheel, and beside it what it ought to be.
struct Pair {
    wheel: Wheel,
    log: Wakes,
    now: u64,
    /// All that were not cancelled, by name: the key, and where in `armed`.
    timers: BTreeMap<usize, (TimerKey, (u64, u64))>,
    /// By name: what the waker of its latest poll writes down. Names and these are never used twice.
    wakers: BTreeMap<usize, usize>,
    /// The keys of those that were cancelled.
    stale: Vec<TimerKey>,
    /// The largest number of timers at once.
    peak: usize,
    /// (deadline, order of setting) → name.
    armed: BTreeMap<(u64, u64), usize>,
    set: u64,
    /// Whether a deadline was cancelled or postponed, so that an early wake-up is allowed.
    loosened: usize,
}

impl Pair {
    fn new(now: u64) -> Pair {
        let (wheel, log) = (Wheel::new(at(now)), Wakes::default());
        Pair {
            wheel,
            log,
            now,
            timers: BTreeMap::new(),
            wakers: BTreeMap::new(),
            stale: Vec::new(),
            peak: 0,
            armed: BTreeMap::new(),
            set: 0,
            loosened: 0,
        }
    }

    fn arm(&mut self, name: usize, key: TimerKey, deadline: u64) {
        self.set += 1;
        let place = (deadline, self.set);
        if deadline != u64::MAX {
            self.armed.insert(place, name);
        }
        self.timers.insert(name, (key, place));
        self.peak = self.peak.max(self.timers.len());
    }

    /// Polls with a waker of its own; pending exactly until it fired.
    fn poll(&mut self, name: usize) {
        let (key, place) = self.timers[&name];
        self.set += 1;
        let fired = place.0 != u64::MAX && !self.armed.contains_key(&place);
        let polled = self.wheel.poll(key, &self.log.waker(self.set as usize));
        assert_eq!(polled.is_ready(), fired, "a timer fired early, or its end was not told");
        if polled.is_pending() {
            self.wakers.insert(name, self.set as usize);
        }
    }

    fn name(&self, which: usize) -> Option<usize> {
        self.timers.keys().nth(which.checked_rem(self.timers.len())?).copied()
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Insert { after } => {
                let (name, deadline) = (self.set as usize, self.now.saturating_add(after));
                let key = self.wheel.insert(at(deadline), &self.log.waker(name));
                self.wakers.insert(name, name);
                self.arm(name, key, deadline);
            }
            Act::Reset { which, after, from_deadline } => {
                let Some(name) = self.name(which) else { return };
                let (key, place) = self.timers[&name];
                let deadline = if from_deadline { place.0 } else { self.now }.saturating_add(after);
                self.loosened += usize::from(self.armed.remove(&place).is_some());
                self.wheel.reset(key, at(deadline));
                self.arm(name, key, deadline);
                self.poll(name);
            }
            Act::Cancel { which } => {
                let Some(name) = self.name(which) else { return };
                let (key, place) = self.timers.remove(&name).unwrap();
                self.loosened += usize::from(self.armed.remove(&place).is_some());
                self.wheel.cancel(key);
                self.stale.push(key);
            }
            Act::Poll { which } => {
                self.name(which).into_iter().for_each(|name| self.poll(name));
            }
            Act::Stale { which } => {
                let Some(at) = which.checked_rem(self.stale.len()) else { return };
                let key = self.stale[at];
                self.wheel.reset(key, Time::ZERO);
                self.wheel.cancel(key);
                assert_eq!(self.wheel.poll(key, Waker::noop()), Poll::Ready(()));
            }
            Act::Advance { by } => self.now = self.now.saturating_add(by).min(u64::MAX - 1),
            Act::Sleep => {
                self.now = self.now.max(self.wheel.next_deadline().map_or(self.now, Time::as_nanos))
            }
            Act::Fire { budget } => {
                self.fire(budget);
            }
        }
    }

    /// Answers how many fired; they are the first ones due, in order, and no more than the budget.
    fn fire(&mut self, budget: usize) -> usize {
        let left = self.wheel.fire(at(self.now), budget);
        let fired = self.log.take();
        assert!(fired.len() <= budget);
        for woken in &fired {
            let (place, name) = self.armed.pop_first().expect("fired what was not set");
            assert_eq!(*woken, self.wakers[&name], "out of order, or not the latest waker");
            assert!(place.0 <= self.now, "early: {} at {}", place.0, self.now);
            assert_eq!(self.wheel.poll(self.timers[&name].0, Waker::noop()), Poll::Ready(()));
        }
        let due = self.armed.first_key_value().is_some_and(|(place, _)| place.0 <= self.now);
        assert!(left || !due, "work is left and nobody was told");
        fired.len()
    }

    /// Never late; exact as long as nothing was taken away.
    fn check_next(&self) {
        let first = self.armed.first_key_value().map_or(u64::MAX, |(place, _)| place.0);
        let next = self.wheel.next_deadline().map_or(u64::MAX, Time::as_nanos);
        assert!(next <= first, "would sleep until {next}, past {first}");
        if self.loosened == 0 {
            assert_eq!(next, first, "would wake for nothing");
        }
        assert_eq!(
            self.wheel.inner.borrow().entries.len(),
            self.peak,
            "entries are used again before there are more"
        );
    }

    /// Sleeps from deadline to deadline until nothing is set; answers how often it woke for nothing.
    fn run_out(&mut self) -> usize {
        let mut idle = 0;
        while let Some(next) = self.wheel.next_deadline() {
            let slept = next.as_nanos() > self.now;
            self.now = self.now.max(next.as_nanos());
            let mut fired = self.fire(64);
            while self.wheel.next_deadline().is_some_and(|next| next.as_nanos() <= self.now) {
                fired += self.fire(64);
            }
            idle += usize::from(slept && fired == 0);
        }
        assert!(self.armed.is_empty(), "lost: {:?}", self.armed);
        idle
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_early_never_lost_in_order(start in spans(), acts in prop::collection::vec(acts(), 1..120)) {
        let mut pair = Pair::new(start / 2);
        for act in acts {
            pair.act(act);
            pair.check_next();
        }
        let loosened = pair.loosened;
        let idle = pair.run_out();
        prop_assert!(idle <= loosened, "{idle} wake-ups for nothing after {loosened} changes");
        let fires = |(_, place): &(TimerKey, (u64, u64))| place.0 != u64::MAX;
        for (key, _) in pair.timers.values().filter(|timer| fires(timer)) {
            prop_assert_eq!(pair.wheel.poll(*key, Waker::noop()), Poll::Ready(()));
        }
        pair.timers.values().for_each(|(key, _)| pair.wheel.cancel(*key));
        prop_assert!(pair.log.is_alone(), "a waker is still held");
    }
}

// ---- the laws

#[test]
fn an_idle_shard_sleeps_once_for_a_far_timer() {
    let mut pair = Pair::new(12_345);
    pair.act(Act::Insert { after: 300 * SECOND });
    assert_eq!(pair.wheel.next_deadline(), Some(at(12_345 + 300 * SECOND)));
    assert_eq!(pair.run_out(), 0);
}

#[test]
fn centuries_away_is_a_deadline_like_any_other() {
    let mut pair = Pair::new(7);
    pair.act(Act::Insert { after: u64::MAX });
    assert_eq!(pair.wheel.next_deadline(), None, "never is no reason to wake up");
    pair.act(Act::Insert { after: 500 * 365 * 86_400 * SECOND });
    pair.act(Act::Insert { after: 1 });
    assert_eq!(pair.wheel.next_deadline(), Some(at(8)));
    assert_eq!(pair.run_out(), 0);
}

#[test]
fn equal_deadlines_fire_in_the_order_they_were_set_also_when_postponed() {
    let (wheel, log) = (Wheel::new(at(0)), Wakes::default());
    let postponed = wheel.insert(at(SECOND), &log.waker(0));
    let advanced = wheel.insert(at(100 * SECOND), &log.waker(1));
    wheel.insert(at(30 * SECOND), &log.waker(2));
    wheel.reset(postponed, at(30 * SECOND));
    wheel.insert(at(30 * SECOND), &log.waker(3));
    wheel.reset(advanced, at(30 * SECOND));
    wheel.insert(at(30 * SECOND), &log.waker(4));
    for step in [SECOND, 29 * SECOND, 30 * SECOND] {
        while wheel.fire(at(step), 100) {}
    }
    assert_eq!(log.take(), [2, 0, 3, 1, 4]);
}

#[test]
fn a_timer_cancelled_by_another_of_its_batch_does_not_fire() {
    let (wheel, log) = (Wheel::new(at(0)), Wakes::default());
    let first = wheel.insert(at(10), &log.waker(0));
    let reset = wheel.insert(at(10), &log.waker(1));
    let cancelled = wheel.insert(at(10), &log.waker(2));
    // One by one: what was not reached yet is not even woken.
    assert!(wheel.fire(at(10), 1));
    wheel.cancel(cancelled);
    assert!(!wheel.fire(at(10), 2));
    assert_eq!(log.take(), [0, 1]);
    // Reached, but its task did not run yet: it is told that nothing happened.
    wheel.reset(reset, at(20));
    assert_eq!(wheel.poll(first, Waker::noop()), Poll::Ready(()));
    assert_eq!(wheel.poll(reset, Waker::noop()), Poll::Pending);
}

#[test]
fn a_waker_may_set_and_cancel_timers() {
    struct Meddler(Mutex<Box<dyn FnMut() + Send>>);
    impl Wake for Meddler {
        fn wake(self: Arc<Self>) {
            (self.0.lock().unwrap())();
        }
    }
    thread_local! {
        static WHEEL: Rc<Wheel> = Rc::new(Wheel::new(at(0)));
        static VICTIM: RefCell<Option<TimerKey>> = const { RefCell::new(None) };
    }
    static WOKEN: AtomicUsize = AtomicUsize::new(0);
    let act = Box::new(|| {
        WOKEN.fetch_add(1, Relaxed);
        let victim = VICTIM.with(|victim| victim.borrow_mut().take());
        WHEEL.with(|wheel| {
            victim.into_iter().for_each(|key| wheel.cancel(key));
            wheel.insert(
                at(0),
                &Waker::from(Arc::new(Meddler(Mutex::new(Box::new(|| {
                    WOKEN.fetch_add(1, Relaxed);
                }))))),
            );
        });
    });
    WHEEL.with(|wheel| {
        let log = Wakes::default();
        wheel.insert(at(10), &Waker::from(Arc::new(Meddler(Mutex::new(act)))));
        let victim = wheel.insert(at(10), &log.waker(0));
        VICTIM.with(|slot| *slot.borrow_mut() = Some(victim));
        // A zero sleep set by a timer waits for the next turn.
        assert!(wheel.fire(at(10), 100), "the new one is left");
        assert_eq!((log.take(), WOKEN.load(Relaxed)), (vec![], 1));
        assert!(!wheel.fire(at(10), 100));
        assert_eq!(WOKEN.load(Relaxed), 2);
    });
}

#[test]
fn a_flood_of_due_timers_is_bounded_per_turn() {
    let (wheel, log) = (Wheel::new(at(0)), Wakes::default());
    for name in 0..10_000 {
        wheel.insert(at(SECOND), &log.waker(name));
    }
    let (mut turns, mut fired) = (0, vec![]);
    loop {
        let left = wheel.fire(at(SECOND), 32);
        let woken = log.take();
        assert!(woken.len() <= 32);
        fired.extend(woken);
        turns += 1;
        if !left {
            break;
        }
    }
    assert!(fired.iter().copied().eq(0..10_000));
    // 10 000 moves at 8 × 32 a turn, then 10 000 wakes at 32.
    assert!((313..=313 + 42).contains(&turns), "{turns} turns");
}

#[test]
fn rearming_an_idle_timeout_touches_no_list() {
    let (wheel, log) = (Wheel::new(at(0)), Wakes::default());
    let timeout = wheel.insert(at(60 * SECOND), &log.waker(0));
    let place = wheel.inner.borrow().live(timeout).unwrap().place;
    let mut early = 0;
    for read in 1..10_000u64 {
        let now = read * SECOND / 10;
        wheel.reset(timeout, at(now + 60 * SECOND));
        if read < 600 {
            assert!(wheel.inner.borrow().live(timeout).unwrap().place == place);
        }
        if wheel.next_deadline().unwrap() <= at(now) {
            early += 1;
            while wheel.fire(at(now), 1) {}
        }
    }
    assert!(log.take().is_empty());
    assert!(early <= 1000 / 60 + 1, "looked at {early} times in 1 000 s");
    assert_eq!(wheel.inner.borrow().entries.len(), 1);
}

#[test]
fn memory_grows_to_the_peak_and_no_further() {
    let (wheel, log) = (Wheel::new(at(0)), Wakes::default());
    let waker = log.waker(0);
    let mut sizes = vec![];
    for round in 0..10u64 {
        let now = round * 7 * SECOND;
        let keys: Vec<_> = (0..1000).map(|n| wheel.insert(at(now + n * n * n), &waker)).collect();
        while wheel.fire(at(now + 500_000_000), 100) {}
        keys.into_iter().for_each(|key| wheel.cancel(key));
        let inner = wheel.inner.borrow();
        sizes.push((inner.entries.capacity(), inner.near.capacity()));
    }
    assert!(sizes[2..].iter().all(|size| *size == sizes[2]), "{sizes:?}");
    assert_eq!(wheel.next_deadline(), None);
    drop(waker);
    assert!(log.is_alone(), "a waker is still held");
}

#[test]
fn a_key_of_a_cancelled_timer_does_not_touch_who_reuses_its_slot() {
    let (wheel, log) = (Wheel::new(at(0)), Wakes::default());
    let old = wheel.insert(at(10), &log.waker(0));
    wheel.cancel(old);
    let new = wheel.insert(at(10), &log.waker(1));
    assert_ne!(old, new);
    wheel.reset(old, at(99));
    wheel.cancel(old);
    assert_eq!(wheel.poll(old, &log.waker(2)), Poll::Ready(()));
    assert!(!wheel.fire(at(10), 9));
    assert_eq!(log.take(), [1]);
}

#[test]
fn the_waker_of_the_latest_poll_is_the_one_woken() {
    let (wheel, log) = (Wheel::new(at(0)), Wakes::default());
    let key = wheel.insert(at(10), &log.waker(0));
    assert_eq!(wheel.poll(key, &log.waker(1)), Poll::Pending);
    wheel.fire(at(10), 1);
    assert_eq!(log.take(), [1]);
}
