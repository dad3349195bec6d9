//! Tasks of one shard: a slab of futures, and wakers that cost a flag on the shard's own thread.
//!
//! Each task has two flags that say "queued already". `here` is touched by the shard's own thread only (plain loads
//! and stores); `away` by others, with `swap(true)`, which releases, and cleared with `swap(false)`, which acquires,
//! *before* the poll, so that what was written before a wake is seen by the poll that follows it. One flag for both
//! would lose wakes. Model-checked over this code in `mesh::models`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use waterwheel_reactor::TaskNote;

use super::between::RingForeign;
#[cfg(loom)]
use super::broken::{Break, broken, order};
use super::core::Core;
use super::heartbeat::{Heartbeat, KindId, Kinds};
use super::schedule::GroupId;
use super::sync::{AtomicBool, AtomicU64, Mutex};

/// A place in the slab. Reused after its task ended; a waker of the old task is silent by then.
pub(super) type Slot = u32;

/// What a task's wakers share.
pub(super) struct Handle {
    key: Key,
    /// Whose queue it is queued in.
    group: GroupId,
    here: AtomicBool,
    away: AtomicBool,
    /// The shard's queue for other threads, which holds handles: hence weak. Also says which shard the task is of.
    foreign: Weak<Foreign>,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let here = Core::with_current(|core| {
            let mine = std::ptr::eq(Arc::as_ptr(core.foreign()), self.foreign.as_ptr());
            if mine && self.mark_here() {
                core.push_ready(self.key, self.group);
            }
            mine
        });
        if here != Some(true)
            && self.mark_away()
            && let Some(foreign) = self.foreign.upgrade()
        {
            foreign.push(self.clone());
        }
    }
}

impl Handle {
    /// On the shard's own thread: true if the task is to be queued, which is so once until its poll.
    fn mark_here(&self) -> bool {
        #[cfg(loom)]
        if broken(Break::OneFlag) {
            let queued = self.away.load(Relaxed);
            self.away.store(true, Relaxed);
            return !queued;
        }
        let queued = self.here.load(Relaxed);
        if !queued {
            self.here.store(true, Relaxed);
        }
        !queued
    }

    /// On any other thread. A wake that finds the flag up leaves what was written before it to the poll that clears it.
    fn mark_away(&self) -> bool {
        let ordering = Release;
        #[cfg(loom)]
        let ordering = order(Break::WakeRelaxed, Relaxed, ordering);
        #[cfg(loom)]
        if broken(Break::WakeByLoad) {
            let queued = self.away.load(Relaxed);
            self.away.store(true, ordering);
            return !queued;
        }
        !self.away.swap(true, ordering)
    }

    /// Before a poll: later wakes queue the task again.
    fn clear(&self) {
        self.here.store(false, Relaxed);
        #[cfg(loom)]
        if broken(Break::ClearForgotten) {
            return;
        }
        // Nearly always false: a load spares the locked instruction. A wake that it misses is not in the queue yet,
        // since whoever saw the entry sees the flag; so the entry brings another poll.
        if self.away.load(Relaxed) {
            let ordering = Acquire;
            #[cfg(loom)]
            let ordering = order(Break::ClearRelaxed, Relaxed, ordering);
            #[cfg(loom)]
            if broken(Break::ClearByStore) {
                return self.away.store(false, Relaxed);
            }
            self.away.swap(false, ordering);
        }
    }

    /// The task ended: wakers that outlive it do nothing from now on.
    fn silence(&self) {
        #[cfg(loom)]
        let away = !broken(Break::SilenceAwayForgotten);
        #[cfg(not(loom))]
        let away = true;
        self.here.store(true, Relaxed);
        self.away.store(away, Relaxed);
    }

    /// Another thread woke the task: queue it here unless it is queued. On the shard's own thread.
    pub(super) fn arrive(&self, core: &Core) {
        #[cfg(loom)]
        if broken(Break::OneFlag) || broken(Break::ArriveAnyway) || broken(Break::ArriveUnmarked) {
            // With one flag it is up already, by whoever woke.
            if !broken(Break::ArriveUnmarked) || !self.here.load(Relaxed) {
                core.push_ready(self.key, self.group);
            }
            return;
        }
        if self.mark_here() {
            core.push_ready(self.key, self.group);
        }
    }
}

/// What other threads leave for a shard: the tasks they woke (one entry a task and poll of it, by its `away` flag), and
/// a wish that it stop. Made before the shard's thread, and outlives it.
pub(crate) struct Foreign {
    woken: Mutex<Vec<Arc<Handle>>>,
    /// 0: none; [`AT_ONCE`], [`HURRY`]; else the nanoseconds that a drain may take.
    stop: AtomicU64,
    bell: Arc<dyn RingForeign>,
    heartbeat: Heartbeat,
    /// Something is to run before a stop begins. Who sees it too late stops without.
    held: AtomicBool,
}

/// How a shard was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopWish {
    /// What runs may finish within this time.
    Drain(Duration),
    /// What runs is ended now; what is to run after it has a short time.
    Hurry,
    /// Nothing more is done.
    AtOnce,
}

/// How wishes are written down: the later ones have the greater numbers.
const AT_ONCE: u64 = u64::MAX;
const HURRY: u64 = u64::MAX - 1;

impl Foreign {
    pub(crate) fn new(bell: Arc<dyn RingForeign>) -> Foreign {
        Foreign {
            woken: Mutex::new(Vec::new()),
            stop: AtomicU64::new(0),
            bell,
            heartbeat: Heartbeat::default(),
            held: AtomicBool::new(false),
        }
    }

    /// What the shard shows of its turns.
    pub(crate) fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Whether a stop waits for what is to run before it.
    pub(crate) fn holds_stops(&self) -> bool {
        self.held.load(Relaxed)
    }

    /// From now on a stop waits for what is to run before it.
    pub(crate) fn hold_stops(&self) {
        self.held.store(true, Relaxed);
    }

    /// Asks the shard to stop, from any thread; may be called before it runs and after it ended. A later wish only
    /// counts if it is to stop sooner.
    pub(crate) fn ask_to_stop(&self, wish: StopWish) {
        #[cfg(loom)]
        if broken(Break::WishAfterRing) {
            self.bell.ring_foreign();
            return self.write_wish(wish);
        }
        self.write_wish(wish);
        self.bell.ring_foreign();
    }

    // Relaxed suffices: the ring that follows releases it.
    fn write_wish(&self, wish: StopWish) {
        match wish {
            // An exchange, since loom does not know that a store comes after an exchange of the first value.
            StopWish::AtOnce => drop(self.stop.swap(AT_ONCE, Relaxed)),
            StopWish::Hurry => drop(self.stop.fetch_max(HURRY, Relaxed)),
            StopWish::Drain(time) => {
                let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).clamp(1, HURRY - 1);
                #[cfg(loom)]
                if broken(Break::WishByLoad) {
                    let none = self.stop.load(Relaxed) == 0;
                    return if none {
                        self.stop.store(nanos, Relaxed)
                    };
                }
                // An error means that there is a wish, which stands.
                let _ = self.stop.compare_exchange(0, nanos, Relaxed, Relaxed);
            }
        }
    }

    /// How the shard was asked to stop, if it was.
    pub(crate) fn stop_wish(&self) -> Option<StopWish> {
        match self.stop.load(Relaxed) {
            0 => None,
            AT_ONCE => Some(StopWish::AtOnce),
            HURRY => Some(StopWish::Hurry),
            nanos => Some(StopWish::Drain(Duration::from_nanos(nanos))),
        }
    }

    fn push(&self, handle: Arc<Handle>) {
        #[cfg(loom)]
        if broken(Break::WokenAfterRing) {
            self.bell.ring_foreign();
            return self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        }
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        #[cfg(loom)]
        if broken(Break::WokenUnrung) {
            return;
        }
        self.bell.ring_foreign();
    }

    /// Moves the entries into `into`, which is empty, and keeps its memory for the next ones.
    pub(super) fn drain(&self, into: &mut Vec<Arc<Handle>>) {
        std::mem::swap(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner), into);
    }
}

/// What a task owns.
pub(super) struct Body {
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) waker: Waker,
    handle: Arc<Handle>,
}

impl Body {
    /// Before a poll: later wakes queue the task again.
    pub(super) fn clear(&self) {
        #[cfg(loom)]
        if broken(Break::ClearAfterPoll) {
            return;
        }
        self.handle.clear();
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.handle.silence();
    }
}

/// A place for one task.
#[derive(Default)]
pub(super) struct Entry {
    /// Borrowed while the task is polled, which happens in place.
    pub(super) body: RefCell<Option<Body>>,
    pub(super) name: Cell<&'static str>,
    /// Where it was spawned; for reports. `None` before the first task.
    spawned: Cell<Option<&'static Location<'static>>>,
    /// Which port's handler this task runs, so that a nested call can be refused; 0: none.
    pub(super) mark: Cell<u32>,
    /// For who watches the shard's turns.
    pub(super) kind: Cell<KindId>,
    generation: Cell<u32>,
    /// To end after the poll it is in.
    cancelled: Cell<bool>,
}

/// Entries that stay where they are while tasks come and go, so that a poll needs no move and holds no slab.
pub(super) type Block = Rc<[Entry]>;

/// Entries per block.
const BLOCK: usize = 64;

/// The tasks of a shard.
#[derive(Default)]
pub(super) struct Slab {
    blocks: Vec<Block>,
    free: Vec<Slot>,
    /// Entries that were ever used.
    used: usize,
    live: usize,
    kinds: Kinds,
}

/// Names one task for good: a slot and which of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: Slot,
    generation: u32,
}

impl Key {
    /// Names no task.
    pub(super) const NONE: Key = Key { slot: Slot::MAX, generation: 0 };
}

/// Where in its block a slot is.
pub(super) fn place(slot: Slot) -> usize {
    slot as usize % BLOCK
}

impl Slab {
    /// How many tasks live.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// How many tasks there is a place for before the next block.
    pub(super) fn places(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    pub(super) fn insert(
        &mut self,
        name: &'static str,
        spawned: &'static Location<'static>,
        mark: u32,
        group: GroupId,
        future: Pin<Box<dyn Future<Output = ()>>>,
        foreign: &Arc<Foreign>,
    ) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        let entry = self.entry(slot).expect("a free slot is in a block");
        let key = Key { slot, generation: entry.generation.get() };
        // Queued by whoever spawns: so the flag is up from the start.
        let handle = Arc::new(Handle {
            key,
            group,
            here: AtomicBool::new(true),
            #[cfg(loom)]
            away: AtomicBool::new(broken(Break::OneFlag)),
            #[cfg(not(loom))]
            away: AtomicBool::new(false),
            foreign: Arc::downgrade(foreign),
        });
        let body = Body { future, waker: Waker::from(handle.clone()), handle };
        entry.cancelled.set(false);
        entry.name.set(name);
        entry.spawned.set(Some(spawned));
        entry.mark.set(mark);
        entry.kind.set(self.kinds.id(foreign.heartbeat(), name, spawned));
        entry.body.replace(Some(body));
        self.live += 1;
        key
    }

    fn grow(&mut self) -> Slot {
        if self.used == self.blocks.len() * BLOCK {
            self.blocks.push((0..BLOCK).map(|_| Entry::default()).collect());
        }
        self.used += 1;
        Slot::try_from(self.used - 1).expect("fewer than 2^32 tasks")
    }

    fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.blocks.get(slot as usize / BLOCK)?.get(place(slot))
    }

    /// Whether a key's task still has its place.
    pub(super) fn is_current(entry: &Entry, key: Key) -> bool {
        entry.generation.get() == key.generation
    }

    /// The block of a slot, to poll its task with nothing of the slab borrowed.
    pub(super) fn block(&self, slot: Slot) -> Option<Block> {
        self.blocks.get(slot as usize / BLOCK).cloned()
    }

    /// After a poll that left the task pending: gives it back to be dropped if it was cancelled meanwhile.
    pub(super) fn settle(&mut self, slot: Slot) -> Option<Body> {
        #[cfg(loom)]
        if broken(Break::ClearAfterPoll)
            && let Some(body) = &*self.entry(slot)?.body.borrow()
        {
            body.handle.clear();
        }
        self.entry(slot)?.cancelled.get().then(|| self.vacate(slot))?
    }

    /// Ends a task that is not being polled: frees its slot and gives back what it owned, to be dropped outside.
    pub(super) fn vacate(&mut self, slot: Slot) -> Option<Body> {
        let entry = self.entry(slot)?;
        let body = entry.body.try_borrow_mut().ok()?.take()?;
        entry.generation.set(entry.generation.get().wrapping_add(1));
        self.free.push(slot);
        self.live -= 1;
        Some(body)
    }

    /// Ends a task: gives it back to be dropped outside; if it is being polled now, it ends after that poll.
    pub(super) fn cancel(&mut self, key: Key) -> Option<Body> {
        let entry = self.entry(key.slot)?;
        if !Slab::is_current(entry, key) {
            return None;
        }
        entry.cancelled.set(true);
        self.vacate(key.slot)
    }

    /// Takes every task out for good, but for one that is being polled.
    pub(super) fn drain(&mut self) -> Vec<Body> {
        self.drain_all_but(&[])
    }

    /// The same, but for tasks with these marks.
    pub(super) fn drain_all_but(&mut self, marks: &[u32]) -> Vec<Body> {
        let stays =
            |slab: &Slab, slot| slab.entry(slot).is_some_and(|entry| marks.contains(&entry.mark.get()));
        (0..self.used as Slot).filter_map(|slot| (!stays(self, slot)).then(|| self.vacate(slot))?).collect()
    }

    /// The tasks with such a mark that live, but for one that is being polled; for reports.
    pub(super) fn notes(&self, wanted: impl Fn(u32) -> bool) -> Vec<TaskNote> {
        let note = |entry: &Entry| {
            if !wanted(entry.mark.get()) {
                return None;
            }
            let body = entry.body.try_borrow().ok()?;
            let waker = body.as_ref()?.waker.clone();
            Some(TaskNote { name: entry.name.get(), spawned: entry.spawned.get()?, waker, waits: Vec::new() })
        };
        self.blocks.iter().flat_map(|block| block.iter()).filter_map(note).collect()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
