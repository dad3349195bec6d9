//! What a shard shows of its turns to whoever watches from another thread, at the cost of plain stores.
//!
//! The shard stores; the watch loads, and keeps the time. Nothing is read, modified and written in one step, and nothing
//! is ordered by these values: one that is seen late is seen at the next look.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;

/// What is spawned under one name at one place of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The tasks' name.
    pub(crate) name: &'static str,
    /// Where they are spawned.
    pub(crate) spawned: &'static Location<'static>,
}

/// The number of a [`Kind`] on its shard; 0: of no task, or of one that is not counted.
pub(super) type KindId = u32;

/// More kinds than a program has: those beyond are not told apart.
const KINDS_MAX: usize = 4096;

/// One shard's, on cache lines of its own, since it stores in each turn.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Heartbeat {
    /// Odd in a turn, even between turns; one more with each change.
    beat: AtomicU64,
    /// The kind of the task that was polled last in this turn.
    polled: AtomicU32,
    /// The watch sleeps until a turn begins.
    rouse: AtomicBool,
    /// The beat of the turn that the watch reported, and the kind that it blamed.
    told: AtomicU64,
    blamed: AtomicU32,
    /// The system's number of the shard's thread; 0 before its first life.
    thread: AtomicI32,
    watch: OnceLock<Thread>,
    kinds: Mutex<Vec<Kind>>,
}

/// What the watch sees at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Glance {
    /// Which turn, or which time between turns.
    pub(crate) beat: u64,
    /// The kind of the task that is being polled, if one is.
    pub(crate) kind: KindId,
}

impl Glance {
    /// Whether the shard is in a turn.
    pub(crate) fn in_turn(self) -> bool {
        self.beat % 2 == 1
    }
}

impl Heartbeat {
    // ---- for the shard

    /// A life begins on the thread of this number. The one before may have ended within a turn.
    pub(crate) fn begin_life(&self, thread: i32) {
        self.thread.store(thread, Relaxed);
        self.beat.store((self.beat.load(Relaxed) + 2) & !1, Relaxed);
    }

    #[inline]
    pub(super) fn begin_turn(&self) {
        self.polled.store(0, Relaxed);
        self.beat.store(self.beat.load(Relaxed) + 1, Relaxed);
        if self.rouse.load(Relaxed) {
            self.rouse_watch();
        }
    }

    #[inline]
    pub(super) fn poll(&self, kind: KindId) {
        self.polled.store(kind, Relaxed);
    }

    #[inline]
    pub(super) fn end_turn(&self) {
        self.beat.store(self.beat.load(Relaxed) + 1, Relaxed);
    }

    #[cold]
    fn rouse_watch(&self) {
        self.rouse.store(false, Relaxed);
        if let Some(watch) = self.watch.get() {
            watch.unpark();
        }
    }

    /// What the watch reported of the turn that has just ended: the kind that it blamed, if it knew.
    pub(super) fn was_told(&self) -> Option<Option<Kind>> {
        let turn = self.beat.load(Relaxed).wrapping_sub(1);
        (self.told.load(Relaxed) == turn).then(|| self.kind(self.blamed.load(Relaxed)))
    }

    /// The number of a kind that is new to the shard.
    fn add(&self, kind: Kind) -> KindId {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kinds.iter().position(|known| *known == kind).or_else(|| {
            kinds.push(kind);
            Some(kinds.len() - 1)
        });
        // Beyond the last number nobody is told apart, and the list does not grow.
        kinds.truncate(KINDS_MAX);
        at.filter(|at| *at < KINDS_MAX).map_or(0, |at| at as KindId + 1)
    }

    // ---- for the watch

    /// The thread to be woken when a turn begins; the first one counts.
    pub(crate) fn set_watch(&self, watch: Thread) {
        let _ = self.watch.set(watch);
    }

    pub(crate) fn glance(&self) -> Glance {
        Glance { beat: self.beat.load(Relaxed), kind: self.polled.load(Relaxed) }
    }

    /// From now on the beginning of a turn wakes the watch, once.
    pub(crate) fn set_rouse(&self, rouse: bool) {
        self.rouse.store(rouse, Relaxed);
    }

    /// The watch has reported this turn.
    pub(crate) fn tell(&self, seen: Glance) {
        self.blamed.store(seen.kind, Relaxed);
        self.told.store(seen.beat, Relaxed);
    }

    pub(crate) fn kind(&self, id: KindId) -> Option<Kind> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        (id as usize).checked_sub(1).and_then(|at| kinds.get(at).copied())
    }

    pub(crate) fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Relaxed)).filter(|thread| *thread != 0)
    }
}

/// Places to keep numbers at; a program spawns from fewer.
const KEPT: usize = 64;

/// A shard's own copy of the numbers of its kinds, so that a spawn neither locks nor searches.
pub(super) struct Kinds {
    /// By place: whose number it is, if anybody's.
    kept: RefCell<[(Identity, KindId); KEPT]>,
    /// Kinds that met another one at their place; for tests.
    missed: Cell<usize>,
}

/// Where a kind's name begins and how long it is, and where its location is. All of it lives as long as the program. Names
/// may begin alike: one may be a part of another.
type Identity = (usize, usize, usize);

impl Default for Kinds {
    fn default() -> Kinds {
        // Nothing is at address 0.
        Kinds { kept: RefCell::new([((0, 0, 0), 0); KEPT]), missed: Cell::new(0) }
    }
}

impl Kinds {
    /// The number of what is spawned under this name at this place.
    pub(super) fn id(
        &self,
        heartbeat: &Heartbeat,
        name: &'static str,
        spawned: &'static Location<'static>,
    ) -> KindId {
        let (start, at) = (name.as_ptr() as usize, std::ptr::from_ref(spawned) as usize);
        let identity = (start, name.len(), at);
        // A location takes 24 bytes.
        let place = ((at / 8) ^ start) % KEPT;
        let mut kept = self.kept.borrow_mut();
        let (known, id) = kept[place];
        if known == identity {
            return id;
        }
        self.missed.set(self.missed.get() + 1);
        let id = heartbeat.add(Kind { name, spawned });
        kept[place] = (identity, id);
        id
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }

    #[test]
    fn a_kind_is_a_name_and_a_place_and_keeps_its_number() {
        let (heartbeat, kinds) = (Heartbeat::default(), Kinds::default());
        let (one, other) = (here(), here());
        let first = kinds.id(&heartbeat, "first", one);
        assert_eq!(kinds.id(&heartbeat, "first", one), first);
        assert_eq!(kinds.missed.get(), 1, "the second time it is known");
        let ids = [first, kinds.id(&heartbeat, "second", one), kinds.id(&heartbeat, "first", other)];
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(heartbeat.kind(2), Some(Kind { name: "second", spawned: one }));
        assert_eq!((heartbeat.kind(0), heartbeat.kind(4)), (None, None));
        // As a next life of the shard does.
        assert_eq!(Kinds::default().id(&heartbeat, "second", one), 2);
    }

    #[test]
    fn names_that_begin_at_the_same_letter_are_of_different_kinds() {
        let (heartbeat, kinds, at) = (Heartbeat::default(), Kinds::default(), here());
        let names = ["client of upstream", "client", "client of"];
        let whole = names[0];
        let ids = names.map(|name| kinds.id(&heartbeat, &whole[..name.len()], at));
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(ids.map(|id| heartbeat.kind(id).map(|kind| kind.name)), names.map(Some));
    }

    #[test]
    fn kinds_beyond_the_last_number_are_not_told_apart() {
        let (heartbeat, kinds) = (Heartbeat::default(), Kinds::default());
        for number in 0..KINDS_MAX {
            let name: &'static str = format!("kind {number}").leak();
            assert_eq!(kinds.id(&heartbeat, name, here()), number as KindId + 1);
        }
        for name in ["more", "and more"] {
            assert_eq!(kinds.id(&heartbeat, name, here()), 0);
        }
        assert_eq!(heartbeat.kinds.lock().unwrap().len(), KINDS_MAX);
    }

    #[test]
    fn a_turn_is_seen_with_its_task_and_forgotten_after_it() {
        let heartbeat = Heartbeat::default();
        heartbeat.begin_life(7);
        assert!(!heartbeat.glance().in_turn());
        heartbeat.begin_turn();
        heartbeat.poll(3);
        let seen = heartbeat.glance();
        assert!(seen.in_turn() && seen.kind == 3);
        heartbeat.tell(seen);
        heartbeat.end_turn();
        assert!(!heartbeat.glance().in_turn());
        assert_eq!(heartbeat.was_told(), Some(None));
        heartbeat.begin_turn();
        assert_eq!(heartbeat.glance().kind, 0, "no task was polled yet");
        heartbeat.end_turn();
        assert_eq!(heartbeat.was_told(), None, "it was the turn before");
    }

    #[test]
    fn a_life_that_ended_within_a_turn_leaves_no_turn_behind() {
        let heartbeat = Heartbeat::default();
        heartbeat.begin_life(7);
        heartbeat.begin_turn();
        let before = heartbeat.glance();
        heartbeat.begin_life(7);
        let after = heartbeat.glance();
        assert!(!after.in_turn() && after.beat > before.beat);
    }
}
