//! Tasks of one shard: a slab of futures, and wakers that cost a flag on the shard's own thread.
//!
//! Each task has two flags that say "queued already". `here` is touched by the shard's own thread only (plain loads
//! and stores); `away` by others, with `swap(true)`, and cleared with `swap(false)` *before* the poll, so that what
//! was written before a wake is seen by the poll that follows it. One flag for both would lose wakes.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::between::RingForeign;
use super::core::Core;

/// A place in the slab. Reused after its task ended; a waker of the old task is silent by then.
pub(super) type Slot = u32;

/// What a task's wakers share.
pub(super) struct Handle {
    slot: Slot,
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
            if mine && !self.here.load(Relaxed) {
                self.here.store(true, Relaxed);
                core.push_ready(self.slot);
            }
            mine
        });
        if here != Some(true)
            && !self.away.swap(true, AcqRel)
            && let Some(foreign) = self.foreign.upgrade()
        {
            foreign.push(self.clone());
        }
    }
}

impl Handle {
    /// Before a poll: later wakes queue the task again.
    fn clear(&self) {
        self.here.store(false, Relaxed);
        // Nearly always false, and then no other thread's write is to be seen: a load spares the locked instruction.
        if self.away.load(Relaxed) {
            self.away.swap(false, AcqRel);
        }
    }

    /// The task ended: wakers that outlive it do nothing from now on.
    fn silence(&self) {
        self.here.store(true, Relaxed);
        self.away.store(true, Relaxed);
    }

    /// Another thread woke the task: queue it here unless it is queued. On the shard's own thread.
    pub(super) fn arrive(&self, core: &Core) {
        if !self.here.load(Relaxed) {
            self.here.store(true, Relaxed);
            core.push_ready(self.slot);
        }
    }
}

/// What other threads leave for a shard: the tasks they woke (at most one entry a task, by its `away` flag), and a
/// wish that it stop. Made before the shard's thread, and outlives it.
pub(crate) struct Foreign {
    woken: Mutex<Vec<Arc<Handle>>>,
    /// 0: none; `u64::MAX`: at once; else the nanoseconds that a drain may take.
    stop: AtomicU64,
    bell: Arc<dyn RingForeign>,
}

/// How a shard was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopWish {
    /// What runs may finish within this time.
    Drain(Duration),
    /// Nothing more is done.
    AtOnce,
}

impl Foreign {
    pub(crate) fn new(bell: Arc<dyn RingForeign>) -> Foreign {
        Foreign { woken: Mutex::new(Vec::new()), stop: AtomicU64::new(0), bell }
    }

    /// Asks the shard to stop, from any thread; may be called before it runs and after it ended. A later wish only
    /// counts if it is to stop at once.
    pub(crate) fn ask_to_stop(&self, wish: StopWish) {
        match wish {
            StopWish::AtOnce => self.stop.store(u64::MAX, Release),
            StopWish::Drain(time) => {
                let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).clamp(1, u64::MAX - 2);
                let _ = self.stop.compare_exchange(0, nanos, Release, Relaxed);
            }
        }
        self.bell.ring_foreign();
    }

    /// How the shard was asked to stop, if it was.
    pub(super) fn stop_wish(&self) -> Option<StopWish> {
        match self.stop.load(Acquire) {
            0 => None,
            u64::MAX => Some(StopWish::AtOnce),
            nanos => Some(StopWish::Drain(Duration::from_nanos(nanos))),
        }
    }

    fn push(&self, handle: Arc<Handle>) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        self.bell.ring_foreign();
    }

    /// Moves the entries into `into`, which is empty, and keeps its memory for the next ones.
    pub(super) fn drain(&self, into: &mut Vec<Arc<Handle>>) {
        std::mem::swap(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner), into);
    }
}

/// One task.
pub(super) struct Body {
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) waker: Waker,
    handle: Arc<Handle>,
    pub(super) name: &'static str,
    /// Which port's handler this task runs, so that a nested call can be refused; 0: none.
    pub(super) mark: u32,
}

impl Body {
    /// Before a poll: later wakes queue the task again.
    pub(super) fn clear(&self) {
        self.handle.clear();
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.handle.silence();
    }
}

/// The tasks of a shard.
#[derive(Default)]
pub(super) struct Slab {
    entries: Vec<Entry>,
    free: Vec<Slot>,
    live: usize,
}

#[derive(Default)]
struct Entry {
    /// `None` also while the task is being polled, which happens outside the slab.
    body: Option<Body>,
    generation: u32,
    cancelled: bool,
}

/// Names one task for good: a slot and which of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: Slot,
    generation: u32,
}

impl Slab {
    /// How many tasks live.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn insert(
        &mut self,
        name: &'static str,
        mark: u32,
        future: Pin<Box<dyn Future<Output = ()>>>,
        foreign: &Arc<Foreign>,
    ) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            Slot::try_from(self.entries.len() - 1).expect("fewer than 2^32 tasks")
        });
        // Queued by whoever spawns: so the flag is up from the start.
        let handle = Arc::new(Handle {
            slot,
            here: AtomicBool::new(true),
            away: AtomicBool::new(false),
            foreign: Arc::downgrade(foreign),
        });
        let entry = &mut self.entries[slot as usize];
        entry.cancelled = false;
        entry.body = Some(Body { future, waker: Waker::from(handle.clone()), handle, name, mark });
        self.live += 1;
        Key { slot, generation: entry.generation }
    }

    /// Takes a task out to poll it; `None` if it ended meanwhile.
    pub(super) fn take(&mut self, slot: Slot) -> Option<Body> {
        self.entries.get_mut(slot as usize)?.body.take()
    }

    /// Puts a pending task back; gives it back to be dropped if it was cancelled while it was polled.
    pub(super) fn put_back(&mut self, slot: Slot, body: Body) -> Option<Body> {
        let entry = &mut self.entries[slot as usize];
        if entry.cancelled {
            self.vacate(slot);
            return Some(body);
        }
        entry.body = Some(body);
        None
    }

    /// Frees the slot of a task that was taken out and is over.
    pub(super) fn vacate(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        self.live -= 1;
    }

    /// Ends a task: gives it back to be dropped outside; if it is being polled now, it ends after that poll.
    pub(super) fn cancel(&mut self, key: Key) -> Option<Body> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let Some(body) = entry.body.take() else {
            entry.cancelled = true;
            return None;
        };
        self.vacate(key.slot);
        Some(body)
    }

    /// Takes every task out for good, but for one that is being polled.
    pub(super) fn drain(&mut self) -> Vec<Body> {
        let slots = 0..self.entries.len();
        slots
            .filter_map(|slot| {
                let body = self.entries[slot].body.take()?;
                self.vacate(slot as Slot);
                Some(body)
            })
            .collect()
    }

    /// The names of the tasks that live, for reports.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.entries.iter().filter_map(|entry| Some(entry.body.as_ref()?.name)).collect()
    }
}
