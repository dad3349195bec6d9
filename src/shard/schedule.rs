//! Whose tasks are polled next: groups, each with its shares of the shard's time.
//!
//! Each group has a virtual time, which runs the slower the more shares it has; of those with something to do, the one
//! furthest behind runs (as in the scheduling groups of Seastar, and after stride scheduling, Waldspurger & Weihl 1995).
//! A group that comes back from sleep starts where the furthest behind is by then, so that it gets nothing for the past.
//!
//! A shard whose program makes no groups has only the default one, *plain*: it has its queue in [`Core`] and is charged
//! for nothing, so that nobody looks at the clock on its account. It is plain also beside groups that have nothing to
//! do.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use waterwheel_reactor::Time;

use super::core::Core;
use super::group::{DEFAULT_NAME, GroupStats, Shares};
use super::queue_times::QueueTimes;
use super::task::Key;

/// Polls of tasks between two looks at the clock, which costs about as much as one of them.
const POLLS_PER_LOOK: usize = 16;
/// A turn has room for so many slices: what a group may take beyond its shares before others that are ready get theirs.
const SLICES_PER_TURN: u32 = 4;
/// A slice has room for so many looks at the clock, where polls take long enough for that.
const LOOKS_PER_SLICE: u32 = 4;
/// As many as a word has bits, each of which says that a group has something to do.
pub(super) const GROUPS_MAX: usize = u32::BITS as usize;

/// A group's number on its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupId(u8);

impl GroupId {
    pub(super) const DEFAULT: GroupId = GroupId(0);
    /// The number of no group.
    const NONE: GroupId = GroupId(u8::MAX);

    fn bit(self) -> u32 {
        1 << self.0
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }

    fn all_of(mut bits: u32) -> impl Iterator<Item = GroupId> {
        std::iter::from_fn(move || {
            let lowest = bits.trailing_zeros();
            // Zero has no next one.
            bits &= bits.checked_sub(1)?;
            Some(GroupId(lowest as u8))
        })
    }
}

/// Virtual nanoseconds: those of the clock, times [`Shares::MAX`], divided by the group's shares. 128 bits, since 64
/// would last 21 days.
type Virtual = u128;

/// A task to poll, and since when.
#[derive(Clone, Copy)]
struct Waiting {
    key: Key,
    /// Zero where nobody asked for queue times.
    since: Time,
}

/// How one group stands.
struct Standing {
    name: &'static str,
    shares: Shares,
    /// An operator's, which the program does not change.
    fixed: bool,
    /// Its tasks come first, while it keeps within its shares.
    latency_class: bool,
    /// Tasks to poll, in the order of their wakes. Empty while the group is plain.
    ready: VecDeque<Waiting>,
    /// Tasks that gave way: they go behind `ready` when the turn ends.
    later: VecDeque<Waiting>,
    /// Where it stands.
    time: Virtual,
    /// It has had something to do since it was last placed.
    awake: bool,
    /// Polls until the clock is looked at: few where they take long.
    polls_per_look: usize,
    /// Tasks that were ever spawned into it.
    spawned: usize,
    polls: u64,
    run: Duration,
    queue_times: Option<QueueTimes>,
}

impl Standing {
    fn new(name: &'static str, shares: Shares) -> Standing {
        Standing {
            name,
            shares,
            fixed: false,
            latency_class: false,
            ready: VecDeque::new(),
            later: VecDeque::new(),
            time: 0,
            awake: false,
            polls_per_look: 1,
            spawned: 0,
            polls: 0,
            run: Duration::ZERO,
            queue_times: None,
        }
    }

    /// So much of the clock's time in this group's virtual time.
    fn virtually(&self, time: Duration) -> Virtual {
        time.as_nanos().saturating_mul(Virtual::from(Shares::MAX.0)) / Virtual::from(self.shares.0)
    }

    fn stats(&self) -> GroupStats {
        GroupStats {
            name: self.name,
            shares: self.shares,
            latency_class: self.latency_class,
            polls: self.polls,
            run: self.run,
            queue_times: self.queue_times.clone(),
        }
    }
}

/// The groups of a shard.
pub(super) struct Groups {
    /// The default group while it asks for nothing that its queue in [`Core`] has not; else [`GroupId::NONE`].
    plain: Cell<GroupId>,
    /// The groups that have tasks to poll in this turn or the next; the default one has a bit only if it is not plain.
    busy: Cell<u32>,
    /// The group of the task that is being polled.
    running: Cell<GroupId>,
    /// After so many polls the clock is looked at and the next group chosen; set to 0 by what cannot wait for that.
    polls_end: Cell<usize>,
    /// Up to when time was charged.
    charged: Cell<Time>,
    /// How far the group furthest behind has come. Never goes back.
    floor: Cell<Virtual>,
    /// By their numbers; the default one first. Not borrowed while a task is polled.
    all: RefCell<Vec<Standing>>,
}

impl Default for Groups {
    fn default() -> Groups {
        Groups {
            plain: Cell::new(GroupId::DEFAULT),
            busy: Cell::new(0),
            running: Cell::new(GroupId::DEFAULT),
            polls_end: Cell::new(0),
            charged: Cell::new(Time::ZERO),
            floor: Cell::new(0),
            all: RefCell::new(vec![Standing::new(DEFAULT_NAME, Shares::DEFAULT)]),
        }
    }
}

impl Groups {
    /// Whose task is being polled: what it spawns is of the same group.
    pub(super) fn running(&self) -> GroupId {
        self.running.get()
    }

    /// Whether the queues in [`Core`] are this group's.
    pub(super) fn is_plain(&self, id: GroupId) -> bool {
        self.plain.get() == id
    }

    pub(super) fn none_busy(&self) -> bool {
        self.busy.get() == 0
    }

    pub(super) fn find(&self, name: &str) -> Option<GroupId> {
        self.all.borrow().iter().position(|group| group.name == name).map(|at| GroupId(at as u8))
    }

    /// A new group; `None` if there are as many as there may be.
    pub(super) fn add(&self, name: &'static str, shares: Shares) -> Option<GroupId> {
        let mut all = self.all.borrow_mut();
        let id = u8::try_from(all.len()).ok().filter(|id| usize::from(*id) < GROUPS_MAX)?;
        all.push(Standing::new(name, shares));
        Some(GroupId(id))
    }

    pub(super) fn set_shares(&self, id: GroupId, shares: Shares) {
        let group = &mut self.all.borrow_mut()[id.index()];
        if !group.fixed {
            group.shares = shares;
        }
    }

    /// From now on its shares stay as they are.
    pub(super) fn fix(&self, id: GroupId) {
        self.all.borrow_mut()[id.index()].fixed = true;
    }

    pub(super) fn shares(&self, id: GroupId) -> Shares {
        self.all.borrow()[id.index()].shares
    }

    pub(super) fn name(&self, id: GroupId) -> &'static str {
        self.all.borrow()[id.index()].name
    }

    /// Of each group, of which the shard has polled so many tasks in all.
    pub(super) fn stats(&self, polls: u64) -> Vec<GroupStats> {
        let mut all: Vec<GroupStats> = self.all.borrow().iter().map(Standing::stats).collect();
        // While it is plain and alone, nobody counts for the default group.
        let others: u64 = all[1..].iter().map(|group| group.polls).sum();
        all[0].polls = polls.saturating_sub(others);
        all
    }

    /// A task was spawned into a group that is not plain: lets as many be ready or give way as it may have.
    #[cold]
    pub(super) fn make_room(&self, id: GroupId, places: usize) {
        let group = &mut self.all.borrow_mut()[id.index()];
        group.spawned += 1;
        let most = group.spawned.checked_next_power_of_two().unwrap_or(places).min(places);
        for queue in [&mut group.ready, &mut group.later] {
            queue.reserve(most.saturating_sub(queue.len()));
        }
    }

    /// Queues a task of a group that is not plain; true if it is the first one of its group.
    fn push(&self, id: GroupId, key: Key, now: impl FnOnce() -> Time) -> bool {
        let mut all = self.all.borrow_mut();
        let group = &mut all[id.index()];
        let since = if group.queue_times.is_some() { now() } else { Time::ZERO };
        let first = group.ready.is_empty();
        group.ready.push_back(Waiting { key, since });
        let busy = self.busy.get();
        // Where others are busy too, it is considered when the clock is next looked at.
        if first && (busy == 0 || group.latency_class) && self.running.get() != id {
            self.polls_end.set(0);
        }
        self.busy.set(busy | id.bit());
        first
    }

    fn pop(&self, id: GroupId, now: impl FnOnce() -> Time) -> Option<Key> {
        let group = &mut self.all.borrow_mut()[id.index()];
        let Waiting { key, since } = group.ready.pop_front()?;
        if let Some(times) = &mut group.queue_times {
            times.record(now().since(since));
        }
        Some(key)
    }

    /// A task of the running group gives way.
    #[cold]
    pub(super) fn move_later(&self, key: Key) {
        let group = &mut self.all.borrow_mut()[self.running.get().index()];
        let at = group.ready.iter().rposition(|waiting| waiting.key == key);
        if let Some(waiting) = at.and_then(|at| group.ready.remove(at)) {
            group.later.push_back(waiting);
        }
    }

    /// The turn ends: who gave way is ready again.
    #[cold]
    pub(super) fn end_turn(&self) {
        let all = &mut *self.all.borrow_mut();
        for id in GroupId::all_of(self.busy.get()) {
            let Standing { ready, later, .. } = &mut all[id.index()];
            ready.append(later);
        }
    }

    /// Who runs next in this turn, and how many polls. `ready` and `later` are the lengths of the plain group's queues.
    fn choose(
        &self,
        ready: usize,
        later: usize,
        slice: Duration,
        turn: Duration,
    ) -> Option<(GroupId, usize)> {
        let all = &mut *self.all.borrow_mut();
        let plain = self.plain.get();
        let waits = |id: GroupId, group: &Standing| {
            if id == plain { (ready, later) } else { (group.ready.len(), group.later.len()) }
        };
        let mut bits = self.busy.get();
        if plain == GroupId::DEFAULT {
            if ready + later > 0 {
                bits |= plain.bit();
            } else {
                all[plain.index()].awake = false;
            }
        }
        let awake = GroupId::all_of(bits).map(|id| &all[id.index()]).filter(|group| group.awake);
        let floor = awake.map(|group| group.time).min().unwrap_or(0).max(self.floor.get());
        self.floor.set(floor);
        for id in GroupId::all_of(bits) {
            let group = &mut all[id.index()];
            if !std::mem::replace(&mut group.awake, true) {
                group.time = group.time.max(floor);
            }
        }
        let least = GroupId::all_of(bits).map(|id| all[id.index()].time).min()?;
        // Who is furthest behind may have given way in this turn. The others do not run away from it meanwhile.
        let may_run = |id: &GroupId| {
            let group = &all[id.index()];
            let ahead = if group.latency_class { turn } else { slice };
            waits(*id, group).0 > 0 && group.time <= least.saturating_add(group.virtually(ahead))
        };
        let rank = |id: &GroupId| (!all[id.index()].latency_class, all[id.index()].time);
        let next = GroupId::all_of(bits).filter(may_run).min_by_key(rank)?;
        Some((next, all[next.index()].polls_per_look))
    }

    /// A turn begins: time is charged from now on.
    pub(super) fn charge_from(&self, now: Time) {
        self.charged.set(now);
    }

    /// The running group has had the time since the last look, in which so many of its tasks were polled.
    fn charge(&self, polled: usize, now: Time, look: Duration) {
        let id = self.running.get();
        let group = &mut self.all.borrow_mut()[id.index()];
        let took = now.since(self.charged.replace(now));
        // A poll is never for nothing: where the clock stands still, as in a simulation, groups take turns by polls.
        group.time = group.time.saturating_add(group.virtually(took + Duration::from_nanos(polled as u64)));
        group.run += took;
        group.polls += polled as u64;
        let fit = look.as_nanos().saturating_mul(polled as u128) / took.as_nanos().max(1);
        let most = (group.polls_per_look * 2).min(POLLS_PER_LOOK);
        group.polls_per_look = usize::try_from(fit).unwrap_or(most).clamp(1, most);
        if self.plain.get() != id && group.ready.is_empty() && group.later.is_empty() {
            group.awake = false;
            self.busy.set(self.busy.get() & !id.bit());
        }
    }

    /// Whether a task of the running group has had enough, at `now`: one of the latency class is ready, or others are
    /// and the group is a slice ahead of them.
    #[cold]
    fn gives_way(&self, plain_ready: bool, now: Time, slice: Duration, turn: Duration) -> bool {
        let all = &*self.all.borrow();
        let (running, plain) = (self.running.get(), self.plain.get());
        let mine = &all[running.index()];
        let mine_at = mine.time.saturating_add(mine.virtually(now.since(self.charged.get())));
        let bits = self.busy.get() | if plain == GroupId::DEFAULT && plain_ready { plain.bit() } else { 0 };
        GroupId::all_of(bits & !running.bit()).any(|id| {
            let other = &all[id.index()];
            if id != plain && other.ready.is_empty() {
                return false;
            }
            let other_at = if other.awake { other.time } else { other.time.max(self.floor.get()) };
            let first = other.latency_class && !mine.latency_class;
            let within = other_at <= mine_at.saturating_add(other.virtually(turn));
            first && within || mine_at > other_at.saturating_add(mine.virtually(slice))
        })
    }
}

impl Core {
    /// Polls ready tasks, those woken meanwhile included, until none is left or a budget ends: of tasks, or of time,
    /// which is looked at now and then.
    pub(super) fn run_ready(&self) {
        let mut left = self.budgets.tasks;
        let mut most = POLLS_PER_LOOK - 1;
        while self.groups.none_busy() {
            let polled = self.poll_some(most.min(left), || self.pop_ready());
            left -= polled;
            // Fewer: there are no more of them, or another group has come.
            let done = if polled < most { self.groups.none_busy() } else { self.turn_is_long() };
            if done || left == 0 {
                return;
            }
            most = POLLS_PER_LOOK;
        }
        self.run_groups(left);
        self.groups.running.set(GroupId::DEFAULT);
    }

    /// The same where other groups than the plain one are busy: each gets its shares.
    #[cold]
    fn run_groups(&self, mut left: usize) {
        let groups = &self.groups;
        let (slice, turn) = (self.slice(), self.budgets.turn);
        groups.charged.set(self.reactor().now());
        while left > 0 {
            let (ready, later) = self.plain_lengths();
            let Some((id, most)) = groups.choose(ready, later, slice, turn) else { return };
            groups.running.set(id);
            let polled = if groups.is_plain(id) {
                self.poll_some(most.min(left), || self.pop_ready())
            } else {
                self.poll_some(most.min(left), || groups.pop(id, || self.reactor().now()))
            };
            left -= polled;
            let now = self.reactor().now();
            groups.charge(polled, now, slice / LOOKS_PER_SLICE);
            if self.is_long_at(now) {
                return;
            }
        }
    }

    /// Polls up to so many tasks; fewer if there are no more, or if another group cannot wait.
    fn poll_some(&self, most: usize, next: impl Fn() -> Option<Key>) -> usize {
        self.groups.polls_end.set(most);
        let mut polled = 0;
        while polled < self.groups.polls_end.get() {
            let Some(key) = next() else { break };
            self.poll_task(key);
            polled += 1;
        }
        polled
    }

    fn slice(&self) -> Duration {
        self.budgets.turn / SLICES_PER_TURN
    }

    /// Queues a task of a group that is not plain. Outside a turn the first one wakes the root.
    #[cold]
    pub(super) fn push_to_group(&self, key: Key, group: GroupId) {
        if self.groups.push(group, key, || self.reactor().now()) {
            self.wake_root_between_turns();
        }
    }

    /// Whether the running task is to give way to another group.
    pub(super) fn gives_way_to_group(&self, now: Time) -> bool {
        !self.groups.none_busy()
            && self.groups.gives_way(self.plain_lengths().0 > 0, now, self.slice(), self.budgets.turn)
    }

    /// A group asks for more than the plain queues give.
    pub(super) fn set_latency_class(&self, id: GroupId) {
        self.groups.all.borrow_mut()[id.index()].latency_class = true;
        self.leave_plain(id);
    }

    /// The same.
    pub(super) fn keep_queue_times(&self, id: GroupId) {
        self.groups.all.borrow_mut()[id.index()].queue_times.get_or_insert_default();
        self.leave_plain(id);
    }

    /// From now on the default group has queues like the others. Its tasks that are in the plain ones move.
    #[cold]
    fn leave_plain(&self, id: GroupId) {
        if !self.groups.is_plain(id) {
            return;
        }
        self.groups.plain.set(GroupId::NONE);
        let now = self.reactor().now();
        let (ready, later) = self.take_plain();
        // As many as the plain queues have room for.
        let places = self.task_places();
        let mut all = self.groups.all.borrow_mut();
        let group = &mut all[id.index()];
        group.spawned = places;
        group.ready.reserve(places);
        group.later.reserve(places);
        let waiting = |key| Waiting { key, since: now };
        group.ready.extend(ready.into_iter().map(waiting));
        group.later.extend(later.into_iter().map(waiting));
        if !group.ready.is_empty() || !group.later.is_empty() {
            self.groups.busy.set(self.groups.busy.get() | id.bit());
        }
        self.groups.polls_end.set(0);
    }
}
