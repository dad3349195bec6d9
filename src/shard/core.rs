//! One core's world: its tasks, its timers, its reactor, and what it knows of the other shards.

use std::any::{Any, TypeId};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waterwheel_reactor::{Inspect, Reactor, TaskNote, Time, panic_message};

use super::between::Between;
use super::failing::Failing;
use super::schedule::{GroupId, Groups};
use super::stopping::{COURSE, Stopping};
use super::sync::per_thread;
use super::task::{self, Foreign, Handle, Key, Slab};
use super::wheel::Wheel;
use super::{Budgets, ShardId, Stats};

per_thread! {
    /// Which shard this thread is: set when its root is made, kept until that is dropped, because reactors wake tasks
    /// between polls too.
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// What one shard is made of. Handles, sleeps and connections hold it; its tasks go when its root goes.
pub(crate) struct Core {
    id: ShardId,
    count: usize,
    reactor: Rc<dyn Reactor>,
    between: Rc<dyn Between>,
    foreign: Arc<Foreign>,
    pub(super) budgets: Budgets,
    tasks: RefCell<Slab>,
    /// Tasks of the plain group to poll, in the order of their wakes. At most one entry a task, by its `here` flag.
    ready: RefCell<VecDeque<Key>>,
    /// Tasks that gave way: they go behind `ready` when the turn ends.
    later: RefCell<VecDeque<Key>>,
    /// The tasks' groups; those that are not plain have their own queues there.
    pub(super) groups: Groups,
    /// The task being polled gives way.
    gives_way: Cell<bool>,
    /// The root is gone: nothing runs any more.
    over: Cell<bool>,
    /// Empty between drains; kept for its memory.
    arrivals: RefCell<Vec<Arc<Handle>>>,
    pub(super) wheel: Wheel,
    /// Timers that the shard set for itself, and that stay to its end.
    pub(super) own_timers: Cell<usize>,
    /// Wakes the root; set in its first poll, the same for its whole life.
    root: OnceCell<Waker>,
    in_turn: Cell<bool>,
    clearing: Cell<bool>,
    /// When the turn began, by the reactor's clock.
    turn_began: Cell<Time>,
    /// The port mark of the task being polled.
    mark: Cell<u32>,
    /// Where the shard stands in its life.
    pub(super) stopping: Stopping,
    pub(super) failing: Failing,
    pub(super) stats: Stats,
    /// What the program keeps for this shard, one value a type.
    kept: RefCell<BTreeMap<TypeId, Rc<dyn Any>>>,
}

impl Core {
    pub(crate) fn new(
        id: ShardId,
        count: usize,
        reactor: Rc<dyn Reactor>,
        between: Rc<dyn Between>,
        foreign: Arc<Foreign>,
        budgets: Budgets,
    ) -> Rc<Core> {
        let now = reactor.now();
        Rc::new(Core {
            id,
            count,
            reactor,
            between,
            foreign,
            budgets,
            tasks: RefCell::default(),
            ready: RefCell::default(),
            later: RefCell::default(),
            groups: Groups::default(),
            gives_way: Cell::new(false),
            over: Cell::new(false),
            arrivals: RefCell::default(),
            wheel: Wheel::new(now),
            own_timers: Cell::new(0),
            root: OnceCell::new(),
            in_turn: Cell::new(false),
            clearing: Cell::new(false),
            turn_began: Cell::new(now),
            mark: Cell::new(0),
            stopping: Stopping::default(),
            failing: Failing::default(),
            stats: Stats::default(),
            kept: RefCell::default(),
        })
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn reactor(&self) -> &Rc<dyn Reactor> {
        &self.reactor
    }

    pub(crate) fn between(&self) -> &Rc<dyn Between> {
        &self.between
    }

    pub(crate) fn foreign(&self) -> &Arc<Foreign> {
        &self.foreign
    }

    pub(crate) fn turn_began(&self) -> Time {
        self.turn_began.get()
    }

    pub(crate) fn mark(&self) -> u32 {
        self.mark.get()
    }

    // ---- which shard this thread is

    /// Calls `f` with this thread's shard, if it is one.
    pub(super) fn with_current<T>(f: impl FnOnce(&Rc<Core>) -> T) -> Option<T> {
        // Not accessible while the thread ends: then nobody is left to be woken here.
        CURRENT.try_with(|current| current.borrow().as_ref().map(f)).ok().flatten()
    }

    /// From now on this thread is this shard, until another one of the same thread enters: a simulation has all of them
    /// on one.
    pub(super) fn enter(self: &Rc<Core>) {
        // In each turn; nearly always it is this one already.
        if !CURRENT.with(|current| current.borrow().as_ref().is_some_and(|core| Rc::ptr_eq(core, self))) {
            let before = CURRENT.with(|current| current.replace(Some(self.clone())));
            drop(before);
        }
    }

    pub(super) fn leave(self: &Rc<Core>) {
        let left = CURRENT.with(|current| {
            let mut current = current.borrow_mut();
            if current.as_ref().is_some_and(|core| Rc::ptr_eq(core, self)) { current.take() } else { None }
        });
        drop(left);
    }

    // ---- what the program keeps here

    pub(super) fn keep(&self, value: Rc<dyn Any>) -> Option<Rc<dyn Any>> {
        self.kept.borrow_mut().insert((*value).type_id(), value)
    }

    pub(super) fn kept(&self, id: TypeId) -> Option<Rc<dyn Any>> {
        self.kept.borrow().get(&id).cloned()
    }

    /// A resolver was made on this thread, or is gone; counted for reports.
    pub(super) fn count_resolvers(change: isize) {
        Core::with_current(|core| {
            let resolvers = &core.stats.resolvers;
            resolvers.set(resolvers.get().saturating_add_signed(change));
        });
    }

    /// The root is gone. What still holds a handle of the shard spawns in vain.
    pub(super) fn end(&self) {
        self.over.set(true);
    }

    // ---- tasks

    pub(super) fn spawn(
        &self,
        name: &'static str,
        spawned: &'static Location<'static>,
        mark: u32,
        group: GroupId,
        future: Pin<Box<dyn Future<Output = ()>>>,
    ) -> Key {
        if self.over.get() {
            drop_contained(Some(future));
            return Key::NONE;
        }
        self.stats.spawned.set(self.stats.spawned.get() + 1);
        let mut tasks = self.tasks.borrow_mut();
        let key = tasks.insert(name, spawned, mark, group, future, &self.foreign);
        let places = tasks.places();
        drop(tasks);
        if self.groups.is_plain(group) {
            self.make_room(places);
        } else {
            self.groups.make_room(group, places);
        }
        self.push_ready(key, group);
        key
    }

    /// Lets as many tasks be ready, or give way, at once as there are places for: being woken allocates nothing then,
    /// however late it is that all of them are woken in one turn for the first time.
    fn make_room(&self, places: usize) {
        for queue in [&self.ready, &self.later] {
            let mut queue = queue.borrow_mut();
            let length = queue.len();
            if queue.capacity() < places {
                queue.reserve(places.saturating_sub(length));
            }
        }
    }

    pub(super) fn cancel(&self, key: Key) {
        let body = self.tasks.borrow_mut().cancel(key);
        drop_contained(body);
    }

    pub(super) fn tasks_alive(&self) -> usize {
        self.tasks.borrow().len()
    }

    pub(super) fn task_places(&self) -> usize {
        self.tasks.borrow().places()
    }

    /// Queues a task. Outside a turn the first one wakes the root.
    pub(super) fn push_ready(&self, key: Key, group: GroupId) {
        if !self.groups.is_plain(group) {
            return self.push_to_group(key, group);
        }
        let mut ready = self.ready.borrow_mut();
        let first = ready.is_empty();
        ready.push_back(key);
        drop(ready);
        if first {
            self.wake_root_between_turns();
        }
    }

    pub(super) fn wake_root_between_turns(&self) {
        if !self.in_turn.get() {
            self.wake_root();
        }
    }

    pub(super) fn root_waker(&self) -> Option<&Waker> {
        self.root.get()
    }

    pub(super) fn wake_root(&self) {
        if let Some(root) = self.root.get() {
            root.wake_by_ref();
        }
    }

    /// In the first poll of the root.
    pub(super) fn set_root(&self, waker: &Waker) {
        if self.root.get().is_none() {
            self.root.get_or_init(|| waker.clone());
            self.between.set_waker(waker);
        }
    }

    pub(super) fn begin_turn(&self) {
        self.in_turn.set(true);
        self.foreign.heartbeat().begin_turn();
        let now = self.reactor.now();
        self.turn_began.set(now);
        self.groups.charge_from(now);
    }

    pub(super) fn end_turn(&self) {
        let mut later = self.later.borrow_mut();
        if !later.is_empty() {
            let mut ready = self.ready.borrow_mut();
            // As a rule: an exchange is cheaper than a move.
            if ready.is_empty() {
                std::mem::swap(&mut *ready, &mut *later);
            } else {
                ready.append(&mut later);
            }
        }
        drop(later);
        if !self.groups.none_busy() {
            self.groups.end_turn();
        }
        self.in_turn.set(false);
    }

    /// Wakes the running task, which gives way: it is polled in the next turn, behind all that is ready in this one,
    /// also if it was woken before.
    pub(super) fn wake_later(waker: &Waker) {
        Core::with_current(|core| core.gives_way.set(true));
        waker.wake_by_ref();
    }

    /// Queues the tasks that other threads woke, and hears their wish that the shard stop.
    pub(super) fn drain_foreign(&self) {
        let mut arrivals = self.arrivals.borrow_mut();
        self.foreign.drain(&mut arrivals);
        for handle in arrivals.drain(..) {
            handle.arrive(self);
        }
        if let Some(wish) = self.foreign.stop_wish() {
            self.stop(wish);
        }
    }

    pub(super) fn nothing_ready(&self) -> bool {
        self.ready.borrow().is_empty() && self.groups.none_busy()
    }

    /// The next task of the plain group.
    pub(super) fn pop_ready(&self) -> Option<Key> {
        self.ready.borrow_mut().pop_front()
    }

    /// How many tasks of the plain group are ready, and how many gave way.
    pub(super) fn plain_lengths(&self) -> (usize, usize) {
        (self.ready.borrow().len(), self.later.borrow().len())
    }

    /// No group is plain any more: what was in its queues.
    pub(super) fn take_plain(&self) -> (VecDeque<Key>, VecDeque<Key>) {
        (self.ready.take(), self.later.take())
    }

    pub(super) fn poll_task(&self, key: Key) {
        let slot = key.slot;
        let Some(block) = self.tasks.borrow().block(slot) else { return };
        let entry = &block[task::place(slot)];
        let mut task = entry.body.borrow_mut();
        // It may have ended since it was queued, and another one may have its place, whose turn has not come.
        let Some(body) = task.as_mut().filter(|_| Slab::is_current(entry, key)) else { return };
        body.clear();
        self.mark.set(entry.mark.get());
        self.foreign.heartbeat().poll(entry.kind.get());
        self.gives_way.set(false);
        self.stats.polls.set(self.stats.polls.get() + 1);
        let mut cx = Context::from_waker(&body.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| body.future.as_mut().poll(&mut cx)));
        self.mark.set(0);
        drop(task);
        let ended = match polled {
            Ok(Poll::Pending) => {
                if self.gives_way.get() {
                    self.move_later(key);
                }
                self.tasks.borrow_mut().settle(slot)
            }
            Ok(Poll::Ready(())) => self.tasks.borrow_mut().vacate(slot),
            Err(panic) => {
                self.report_panic(entry.name.get(), "a task panicked and was ended", &*panic);
                drop_contained(Some(panic));
                self.tasks.borrow_mut().vacate(slot)
            }
        };
        drop_contained(ended);
    }

    // It was queued during its poll, so it is among the last, and as a rule the last.
    fn move_later(&self, key: Key) {
        if !self.groups.is_plain(self.groups.running()) {
            return self.groups.move_later(key);
        }
        let mut ready = self.ready.borrow_mut();
        if ready.back() == Some(&key) {
            ready.pop_back();
        } else if let Some(at) = ready.iter().rposition(|queued| *queued == key) {
            ready.remove(at);
        } else {
            return;
        }
        self.later.borrow_mut().push_back(key);
    }

    /// A part of a task, which goes on if it panics.
    pub(super) fn contain<T>(&self, task: &str, part: impl FnOnce() -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(part))
            .map_err(|panic| {
                self.report_panic(task, "a handler panicked, and its task goes on", &*panic);
                drop_contained(Some(panic));
            })
            .ok()
    }

    fn report_panic(&self, task: &str, what: &str, panic: &(dyn Any + Send)) {
        self.stats.panics.set(self.stats.panics.get() + 1);
        tracing::error!(shard = self.id.index(), task, "{what}: {}", panic_message(panic));
    }

    /// Drops every task and what the program keeps here, which may hold the shard; also what the drops spawn or keep;
    /// bounded, since a drop that always spawns is a bug.
    pub(super) fn clear(&self) {
        self.clearing.set(true);
        for _ in 0..64 {
            let bodies = self.tasks.borrow_mut().drain();
            let kept = std::mem::take(&mut *self.kept.borrow_mut());
            if bodies.is_empty() && kept.is_empty() {
                return;
            }
            bodies.into_iter().for_each(|body| drop_contained(Some(body)));
            kept.into_values().for_each(|value| drop_contained(Some(value)));
        }
        tracing::error!(shard = self.id.index(), "tasks keep spawning tasks while they are dropped");
    }

    /// Drops every task but those with one of these marks, and what the drops spawn; bounded as [`clear`](Core::clear).
    pub(super) fn clear_all_but(&self, marks: [u32; 2]) {
        self.clearing.set(!self.stopping.ends_for_good());
        for _ in 0..64 {
            let bodies = self.tasks.borrow_mut().drain_all_but(&marks);
            if bodies.is_empty() {
                break;
            }
            bodies.into_iter().for_each(|body| drop_contained(Some(body)));
        }
        self.clearing.set(false);
    }

    /// Whether the shard's tasks are being dropped, or will be, since its life ends, and another one may follow.
    pub(super) fn is_clearing(&self) -> bool {
        self.clearing.get() || self.failing.has_failed()
    }

    // ---- long work

    /// Whether the running task should give way: its turn has used up its time, messages wait, or another group is
    /// to run first.
    pub(super) fn should_yield(&self) -> bool {
        let now = self.reactor.now();
        self.is_long_at(now) || self.between.rung() || self.gives_way_to_group(now)
    }

    pub(super) fn turn_is_long(&self) -> bool {
        self.is_long_at(self.reactor.now())
    }

    pub(super) fn is_long_at(&self, now: Time) -> bool {
        now.since(self.turn_began.get()) >= self.budgets.turn
    }

    /// The turn's work is done: says so to who watches, and reports it if it kept everybody else waiting for too long.
    pub(super) fn look_at_length(&self) {
        self.foreign.heartbeat().end_turn();
        let Some(limit) = self.budgets.stall else { return };
        let length = self.reactor.now().since(self.turn_began.get());
        self.stats.turn_times.borrow_mut().record(length);
        if length > limit {
            self.report_stall(length);
        }
    }

    /// Turns that the watch told of while they lasted are told of again with their whole length; of others, one a second.
    #[cold]
    fn report_stall(&self, length: Duration) {
        const EVERY: Duration = Duration::from_secs(1);
        let stats = &self.stats;
        stats.stalls.set(stats.stalls.get() + 1);
        let (told, now) = (self.foreign.heartbeat().was_told(), self.turn_began.get());
        if told.is_none() && stats.stall_told.get().is_some_and(|last| now.since(last) < EVERY) {
            return stats.stalls_untold.set(stats.stalls_untold.get() + 1);
        }
        stats.stall_told.set(Some(now));
        let (shard, length_ms) = (self.id.index(), length.as_millis());
        let before = match stats.stalls_untold.replace(0) {
            0 => String::new(),
            untold => format!(", and {untold} more since the last report"),
        };
        match told.flatten() {
            Some(kind) => {
                tracing::warn!(shard, length_ms, task = kind.name, spawned = %kind.spawned, "a turn stalled the shard{before}");
            }
            None => tracing::warn!(shard, length_ms, "a turn stalled the shard{before}"),
        }
    }
}

impl Inspect for Core {
    fn tasks(&self) -> Vec<TaskNote> {
        self.notes_of(|mark| mark != COURSE, usize::MAX)
    }

    fn timers(&self) -> usize {
        self.wheel.len() - self.own_timers.get()
    }

    fn resolvers(&self) -> usize {
        self.stats.resolvers.get()
    }

    fn panics(&self) -> u64 {
        self.stats.panics.get()
    }
}

impl Core {
    /// The tasks with such a mark, and what they wait for: the first `each` of every kind. Costs as many looks at all
    /// timers and ports.
    pub(super) fn notes_of(&self, wanted: impl Fn(u32) -> bool, each: usize) -> Vec<TaskNote> {
        let mut notes = self.tasks.borrow().notes(wanted);
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for note in &mut notes {
            let count = kinds.entry(note.name).or_default();
            *count += 1;
            if *count > each {
                continue;
            }
            let sleeps = self.wheel.deadlines_of(&note.waker);
            note.waits.extend(sleeps.into_iter().map(|deadline| format!("until {deadline:?}")));
            note.waits.extend(self.between.waits_for(&note.waker));
        }
        notes
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.id)
            .field("tasks", &self.tasks_alive())
            .finish_non_exhaustive()
    }
}

/// Drops what a program made; a panic in a destructor ends there.
pub(super) fn drop_contained<T>(body: Option<T>) {
    if let Some(body) = body
        && catch_unwind(AssertUnwindSafe(|| drop(body))).is_err()
    {
        tracing::error!("a destructor panicked while a shard dropped what was its own");
    }
}
