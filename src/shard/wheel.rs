//! The timers of a shard: a hierarchical wheel, exact to the nanosecond, above the reactor's one alarm.
//!
//! After Varghese and Lauck, "Hashed and hierarchical timing wheels" (SOSP 1987), scheme 7, with three changes that a
//! thread-per-core proxy wants:
//!
//! * **It knows exactly when it is next needed.** Each list caches its earliest deadline, so [`Wheel::next_deadline`]
//!   is a deadline that somebody set and never the edge of a slot: an idle shard with one timer five minutes away
//!   sleeps once, for five minutes. What a cancelled or postponed timer leaves behind costs at most one early wake-up.
//! * **Order is exact.** Timers that are nearly due pass through a small heap, ordered by deadline and then by when they
//!   were set; the lists keep no order, so linking is O(1).
//! * **Postponing is one store.** [`Wheel::reset`] to a later moment leaves the timer in its list; it moves when that
//!   list is next looked at. A connection's idle timeout is re-armed for each read, and fires hardly ever.
//!
//! Eight levels of 64 lists, the finest 2^16 ns wide (65 µs), cover all of [`Time`], so centuries away is a place like
//! any other. A timer takes 48 bytes, and 24 more while it is nearly due. Nothing is allocated once both numbers have
//! peaked, and nothing is given back. The wheel has no limit of its own: each timer belongs to a future, and whoever
//! bounds the futures bounds the timers.
//!
//! No method runs foreign code (a waker's clone, wake or drop) while the wheel is borrowed, so wakers may use the wheel.

mod near;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

use waterwheel_reactor::Time;

use near::{Due, Near};

/// The width of the finest lists, as a power of two in nanoseconds: 65 µs, about what a kernel's timer is late anyway.
const FINEST: u32 = 16;
/// Lists per level, as a power of two: one bit each in a word.
const DIGIT: u32 = 6;
/// 16 + 8 · 6 bits cover the 64 of a [`Time`].
const LEVELS: usize = 8;
const LISTS: usize = LEVELS << DIGIT;
/// How many timers may move between lists for each one that may fire, per call of [`Wheel::fire`]: a move costs a
/// fraction of a wake and the poll after it.
const MOVES_PER_WAKE: usize = 8;
/// No entry: the end of the free list, the head of an empty list.
const NONE: u32 = u32::MAX;

/// Names one timer of one [`Wheel`], until it is cancelled; after that it names nothing, also once its slot is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey {
    index: u32,
    generation: u32,
}

/// The timers of one shard. To be used in this order: [`insert`](Wheel::insert), then [`poll`](Wheel::poll) and
/// [`reset`](Wheel::reset) as often as you like, [`cancel`](Wheel::cancel) at the end, also of a timer that fired.
/// The shard's root calls [`fire`](Wheel::fire) once a turn and sleeps until [`next_deadline`](Wheel::next_deadline).
///
/// *Fired* is a state and not an event: `fire` marks timers one by one and wakes their tasks, which run later and ask
/// with `poll`. So a timer that another task cancels or resets meanwhile has not fired, even if both were due in the
/// same call (its task is polled once for nothing, and finds it pending).
pub(crate) struct Wheel {
    inner: RefCell<Inner>,
}

impl Wheel {
    /// A wheel without timers. `now` only saves the first timers a few moves.
    pub(crate) fn new(now: Time) -> Wheel {
        Wheel { inner: RefCell::new(Inner::new(now.as_nanos())) }
    }

    /// Sets a timer that wakes `waker` once `deadline` has come: in the next [`fire`](Wheel::fire) if it has already,
    /// never if it is [`Time::NEVER`].
    pub(crate) fn insert(&self, deadline: Time, waker: &Waker) -> TimerKey {
        let waker = waker.clone();
        self.inner.borrow_mut().insert(deadline.as_nanos(), waker)
    }

    /// Moves a timer to another deadline, whether it fired or not; it counts as set now. If it had fired it has no
    /// waker left: [`poll`](Wheel::poll) it. Does nothing if it was cancelled.
    pub(crate) fn reset(&self, key: TimerKey, deadline: Time) {
        self.inner.borrow_mut().reset(key, deadline.as_nanos());
    }

    /// Ends a timer. It does not fire if it had not, and its key names nothing from now on. Does nothing the second time.
    pub(crate) fn cancel(&self, key: TimerKey) {
        let waker = self.inner.borrow_mut().cancel(key);
        drop(waker);
    }

    /// Ready once the timer has fired (or was cancelled); else `waker` is the one that will be woken.
    pub(crate) fn poll(&self, key: TimerKey, waker: &Waker) -> Poll<()> {
        match self.inner.borrow().live(key) {
            None => return Poll::Ready(()),
            Some(entry) if entry.place == Place::FIRED => return Poll::Ready(()),
            Some(entry) if entry.waker.as_ref().is_some_and(|known| known.will_wake(waker)) => {
                return Poll::Pending;
            }
            Some(_) => {}
        }
        let mut other = Some(waker.clone());
        if let Some(entry) = self.inner.borrow_mut().live_mut(key) {
            std::mem::swap(&mut entry.waker, &mut other);
        }
        drop(other);
        Poll::Pending
    }

    /// How many timers there are, those that fired and were not cancelled included; for reports, since it looks at each.
    pub(crate) fn len(&self) -> usize {
        self.inner.borrow().entries.iter().filter(|entry| entry.place != Place::FREE).count()
    }

    /// The deadlines that are to wake this waker; for reports, since it looks at each timer.
    pub(crate) fn deadlines_of(&self, waker: &Waker) -> Vec<Time> {
        let inner = self.inner.borrow();
        let set = inner.entries.iter().filter(|entry| entry.place != Place::FREE);
        let waits = set.filter(|entry| entry.waker.as_ref().is_some_and(|own| own.will_wake(waker)));
        waits.map(|entry| Time::from_nanos(entry.deadline)).collect()
    }

    /// When [`fire`](Wheel::fire) is to be called next; `None` if no timer will ever fire. Exact, unless the timer that
    /// was to be first was cancelled or postponed: then it may be too early, once.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.inner.borrow().next_deadline().map(Time::from_nanos)
    }

    /// Fires at most `budget` timers whose deadline has come, in the order of their deadlines and, where these are equal,
    /// in the order in which they were set. Timers set by the wakers themselves wait for the next call.
    ///
    /// Answers whether work is left for the next turn. Bounded also where many timers are only moved to finer lists.
    pub(crate) fn fire(&self, now: Time, budget: usize) -> bool {
        let now = now.as_nanos();
        let newest = self.inner.borrow().next_order;
        let (mut wakes, mut moves) = (budget, budget.saturating_mul(MOVES_PER_WAKE));
        while wakes > 0 && moves > 0 {
            let step = self.inner.borrow_mut().step(now, newest);
            match step {
                Step::Moved => moves -= 1,
                Step::Fired(waker) => {
                    wakes -= 1;
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Step::Settled => break,
            }
        }
        self.inner.borrow().next_deadline().is_some_and(|at| at <= now)
    }
}

impl std::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wheel").field("next", &self.next_deadline()).finish_non_exhaustive()
    }
}

/// What one step of firing did.
enum Step {
    /// One timer went to where it belongs by now.
    Moved,
    /// One timer fired; its waker is to be woken, outside the borrow.
    Fired(Option<Waker>),
    /// Nothing (more) is due.
    Settled,
}

/// Where a timer is: in the list of this number, or in one of the places beyond them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u16);

impl Place {
    /// In the heap; `prev` is its position there.
    const NEAR: Place = Place(LISTS as u16);
    /// It fired, and nobody has cancelled or reset it since.
    const FIRED: Place = Place(LISTS as u16 + 1);
    /// Its deadline never comes.
    const NOWHERE: Place = Place(LISTS as u16 + 2);
    /// No timer; `next` is the next free entry.
    const FREE: Place = Place(LISTS as u16 + 3);

    fn list(level: u32, digit: u64) -> Place {
        Place(((level << DIGIT) + digit as u32) as u16)
    }

    fn level(self) -> usize {
        usize::from(self.0) >> DIGIT
    }

    fn bit(self) -> u64 {
        1 << (self.0 & ((1 << DIGIT) - 1))
    }

    /// The bits of a moment below the width of this list.
    fn below(self) -> u64 {
        (1 << (FINEST + DIGIT * self.level() as u32)) - 1
    }
}

/// One timer, or a free slot for one.
struct Entry {
    /// May lie behind the list that the entry is in: postponing only writes it.
    deadline: u64,
    /// When it was set, counted; equal deadlines fire in this order.
    order: u64,
    waker: Option<Waker>,
    /// The neighbours in a circular list.
    prev: u32,
    next: u32,
    generation: u32,
    place: Place,
}

const _: () = assert!(size_of::<Entry>() <= 48, "an idle connection has one of these");

/// A circular doubly linked list of entries.
#[derive(Clone)]
struct List {
    /// No later than the earliest deadline in it; exact unless that one was cancelled or postponed. It always lies in
    /// the range of the list.
    earliest: u64,
    head: u32,
}

struct Inner {
    entries: Vec<Entry>,
    /// The first free entry.
    free: u32,
    next_order: u64,
    /// No list holds an earlier deadline. Every list at its level and above is beyond this moment's digit there, so the
    /// lowest bit of the lowest level that has any is the earliest list.
    elapsed: u64,
    /// A bit per list that is not empty.
    occupied: [u64; LEVELS],
    lists: Vec<List>,
    /// The list that is being emptied, over several turns if it is long. Not among the occupied any more.
    pouring: Option<Place>,
    near: Near,
    /// The next deadline, as long as no timer moved since it was found out: every turn asks twice.
    next: Cell<Option<Option<u64>>>,
}

impl Inner {
    fn new(elapsed: u64) -> Inner {
        Inner {
            entries: Vec::new(),
            free: NONE,
            next_order: 0,
            elapsed,
            occupied: [0; LEVELS],
            lists: vec![List { earliest: u64::MAX, head: NONE }; LISTS],
            pouring: None,
            near: Near::default(),
            next: Cell::new(None),
        }
    }

    fn live(&self, key: TimerKey) -> Option<&Entry> {
        self.entries.get(key.index as usize).filter(|entry| entry.generation == key.generation)
    }

    fn live_mut(&mut self, key: TimerKey) -> Option<&mut Entry> {
        self.entries.get_mut(key.index as usize).filter(|entry| entry.generation == key.generation)
    }

    fn insert(&mut self, deadline: u64, waker: Waker) -> TimerKey {
        let order = self.count_order();
        let index = if self.free == NONE {
            let index = u32::try_from(self.entries.len()).ok().filter(|index| *index != NONE);
            let index = index.expect("memory ends before 4 294 967 295 timers of 48 bytes");
            let place = Place::FREE;
            self.entries.push(Entry {
                deadline,
                order,
                waker: None,
                prev: NONE,
                next: NONE,
                generation: 0,
                place,
            });
            index
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].next;
            index
        };
        let entry = &mut self.entries[index as usize];
        (entry.deadline, entry.order, entry.waker) = (deadline, order, Some(waker));
        let key = TimerKey { index, generation: entry.generation };
        self.place(index);
        key
    }

    fn reset(&mut self, key: TimerKey, deadline: u64) {
        if self.live(key).is_none() {
            return;
        }
        let order = self.count_order();
        let entry = &mut self.entries[key.index as usize];
        (entry.deadline, entry.order) = (deadline, order);
        // Its list is looked at no later than its earliest deadline, which is soon enough for anything after that.
        let soon_enough =
            self.lists.get(usize::from(entry.place.0)).is_some_and(|list| list.earliest <= deadline);
        if !soon_enough {
            self.unplace(key.index);
            self.place(key.index);
        }
    }

    fn cancel(&mut self, key: TimerKey) -> Option<Waker> {
        self.live(key)?;
        self.unplace(key.index);
        let entry = &mut self.entries[key.index as usize];
        entry.place = Place::FREE;
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = key.index;
        entry.waker.take()
    }

    fn next_deadline(&self) -> Option<u64> {
        if let Some(known) = self.next.get() {
            return known;
        }
        let next = self.find_next_deadline();
        self.next.set(Some(next));
        next
    }

    fn find_next_deadline(&self) -> Option<u64> {
        let poured = self.pouring.map(|place| self.list(place)).filter(|list| list.head != NONE);
        let listed = self.first_list().map(|place| self.list(place));
        let near = self.near.first().map(|due| due.deadline);
        poured.into_iter().chain(listed).map(|list| list.earliest).chain(near).min()
    }

    /// One bounded piece of work. Lists that may hold something due are emptied before anything fires, since only the
    /// heap knows the order.
    fn step(&mut self, now: u64, newest: u64) -> Step {
        self.next.set(None);
        if let Some(place) = self.pouring {
            let index = self.list(place).head;
            if index != NONE {
                self.unplace(index);
                if self.entries[index as usize].deadline <= now {
                    self.place_near(index)
                } else {
                    self.place(index)
                }
                return Step::Moved;
            }
            self.pouring = None;
        }
        let first = self.near.first();
        if let Some(place) = self.first_list() {
            let earliest = self.list(place).earliest;
            if earliest <= now && first.is_none_or(|due| earliest <= due.deadline) {
                self.elapsed = now.min(earliest | place.below());
                self.occupied[place.level()] &= !place.bit();
                self.pouring = Some(place);
                return Step::Moved;
            }
        }
        match first {
            Some(due) if due.deadline <= now && due.order < newest => {
                self.unplace(due.index);
                let entry = &mut self.entries[due.index as usize];
                entry.place = Place::FIRED;
                Step::Fired(entry.waker.take())
            }
            _ => {
                self.settle(now);
                Step::Settled
            }
        }
    }

    /// Lets time pass that no list is touched by, so that new timers start in fine lists.
    fn settle(&mut self, now: u64) {
        let free_until = self.first_list().map(|place| self.list(place).earliest & !place.below());
        if free_until.is_none_or(|until| now < until) {
            self.elapsed = self.elapsed.max(now);
        }
    }

    fn count_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order - 1
    }

    fn list(&self, place: Place) -> &List {
        &self.lists[usize::from(place.0)]
    }

    /// The occupied list that begins first; the others begin after its end.
    fn first_list(&self) -> Option<Place> {
        let level = self.occupied.iter().position(|digits| *digits != 0)?;
        Some(Place::list(level as u32, u64::from(self.occupied[level].trailing_zeros())))
    }

    /// Puts an entry that is nowhere to where its deadline belongs.
    fn place(&mut self, index: u32) {
        self.next.set(None);
        let deadline = self.entries[index as usize].deadline;
        let apart = (deadline ^ self.elapsed) >> FINEST;
        if deadline == u64::MAX {
            self.entries[index as usize].place = Place::NOWHERE;
        } else if deadline <= self.elapsed || apart == 0 {
            self.place_near(index);
        } else {
            let level = apart.ilog2() / DIGIT;
            let digit = (deadline >> (FINEST + DIGIT * level)) & ((1 << DIGIT) - 1);
            self.link(index, Place::list(level, digit));
        }
    }

    fn place_near(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.place = Place::NEAR;
        let due = Due { deadline: entry.deadline, order: entry.order, index };
        self.near.push(due, |due, at| self.entries[due.index as usize].prev = at);
    }

    /// Takes an entry out of where it is.
    fn unplace(&mut self, index: u32) {
        self.next.set(None);
        let place = self.entries[index as usize].place;
        if place == Place::NEAR {
            let at = self.entries[index as usize].prev;
            self.near.remove(at, |due, at| self.entries[due.index as usize].prev = at);
        } else if usize::from(place.0) < LISTS {
            self.unlink(index, place);
        }
    }

    /// Appends to a list, so that timers set in the order of their deadlines reach the heap in order.
    fn link(&mut self, index: u32, place: Place) {
        let deadline = self.entries[index as usize].deadline;
        let list = &mut self.lists[usize::from(place.0)];
        let (mut prev, mut next) = (index, index);
        if list.head == NONE {
            list.head = index;
            list.earliest = deadline;
            self.occupied[place.level()] |= place.bit();
        } else {
            list.earliest = list.earliest.min(deadline);
            next = list.head;
            prev = self.entries[next as usize].prev;
            self.entries[prev as usize].next = index;
            self.entries[next as usize].prev = index;
        }
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next, entry.place) = (prev, next, place);
    }

    fn unlink(&mut self, index: u32, place: Place) {
        let Entry { prev, next, .. } = self.entries[index as usize];
        let list = &mut self.lists[usize::from(place.0)];
        if next == index {
            list.head = NONE;
            self.occupied[place.level()] &= !place.bit();
        } else {
            if list.head == index {
                list.head = next;
            }
            self.entries[prev as usize].next = next;
            self.entries[next as usize].prev = prev;
        }
    }
}
