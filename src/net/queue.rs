//! Connections accepted for a shard and not yet served, and what is counted about them.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use waterwheel_reactor::{Address, Time};

use super::offered::Offered;
use super::places::{Part, Parts, Places};
use super::quota::Quota;
use crate::shard::Shard;

/// Connections that were accepted for this shard and wait to be served. The kernel's backlog holds the others.
const QUEUE: usize = 128;
/// The most that wait here all the same: a shard whose queue is full accepts as long as another has room, and what then
/// turns out to be its own, or finds no room elsewhere after all, stays. What comes beyond that is closed.
pub(super) const CROWD: usize = 2 * QUEUE;
/// A trouble is logged at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// What a shard's part of a listener counted. `accepted` and `taken_over` together are what was served, is served or
/// waits for it, and `handed_over`, `crowded`, `dropped` and `adopt_failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct AcceptStats {
    /// Connections that the kernel gave to this shard.
    pub accepted: u64,
    /// Of these, those that another shard owns: where the kernel places connections itself, those for which its choice
    /// was another than ours (the group was not complete yet, a long chain of headers), else most of them.
    pub misplaced: u64,
    /// Of `accepted`, those handed over to another shard: their owner, or one with room, or the one that
    /// [`Connection::hand_to`](super::Connection::hand_to) was told. What the other did not live to
    /// take over is in [`Listening::undelivered`](super::Listening::undelivered).
    pub handed_over: u64,
    /// Of `accepted`, those that another shard owns and that stayed, since the owner was too busy to take them or had
    /// ended.
    pub kept: u64,
    /// Connections that other shards handed to this one.
    pub taken_over: u64,
    /// Connections reset at once since too many waited for the one shard that may serve them.
    pub crowded: u64,
    /// Connections that still waited to be served when the shard stopped, and were reset.
    pub dropped: u64,
    /// How often the shard stopped accepting since it had all that its quota allows; clients wait then.
    pub held_back: u64,
    /// Connections that the reactor refused to adopt.
    pub adopt_failed: u64,
    /// Connections reset at once because no descriptor was left; not in `accepted`.
    pub shed: u64,
    /// Times that accepting failed, for whatever reason.
    pub errors: u64,
}

impl std::ops::Add for AcceptStats {
    type Output = AcceptStats;

    fn add(self, other: AcceptStats) -> AcceptStats {
        AcceptStats {
            accepted: self.accepted + other.accepted,
            misplaced: self.misplaced + other.misplaced,
            handed_over: self.handed_over + other.handed_over,
            kept: self.kept + other.kept,
            taken_over: self.taken_over + other.taken_over,
            crowded: self.crowded + other.crowded,
            dropped: self.dropped + other.dropped,
            held_back: self.held_back + other.held_back,
            adopt_failed: self.adopt_failed + other.adopt_failed,
            shed: self.shed + other.shed,
            errors: self.errors + other.errors,
        }
    }
}

/// What a shard's part of a listener counts, for those who ask later.
#[derive(Debug, Default)]
pub struct AcceptCounters {
    counted: Cell<AcceptStats>,
    /// When the log last heard of a trouble.
    complained: Cell<Option<Time>>,
}

impl AcceptCounters {
    /// What was counted so far.
    pub fn copy(&self) -> AcceptStats {
        self.counted.get()
    }

    pub(super) fn add(&self, to: impl FnOnce(&mut AcceptStats) -> &mut u64, count: u64) {
        let mut counted = self.counted.get();
        *to(&mut counted) += count;
        self.counted.set(counted);
    }

    pub(super) fn count(&self, to: impl FnOnce(&mut AcceptStats) -> &mut u64) {
        self.add(to, 1);
    }

    pub(super) fn complain(&self, shard: &Shard, what: &str, error: &io::Error) {
        let now = shard.turn_time();
        if self.complained.get().is_none_or(|last| now.since(last) >= COMPLAIN_EVERY) {
            self.complained.set(Some(now));
            let AcceptStats { shed, adopt_failed, .. } = self.copy();
            tracing::warn!(shard = shard.id().index(), shed, adopt_failed, "{what}: {error}");
        }
    }
}

/// What all listeners of a shard count, in this life of it.
#[derive(Debug, Default)]
pub(crate) struct AcceptedBy {
    /// By address, in words. A part is opened seldom, and so are there few of them.
    all: RefCell<Vec<(String, Rc<AcceptCounters>)>>,
    /// Of parts that are closed.
    closed: RefCell<BTreeMap<String, AcceptStats>>,
    /// Connections that have a number, for the log.
    numbered: Cell<u64>,
}

impl AcceptedBy {
    /// The one that is kept for this shard.
    pub(crate) fn of(shard: &Shard) -> Rc<AcceptedBy> {
        shard.kept().unwrap_or_else(|| {
            let own = Rc::new(AcceptedBy::default());
            drop(shard.keep(own.clone()));
            own
        })
    }

    /// The number of the next connection, from 1.
    pub(super) fn next_id(&self) -> u64 {
        self.numbered.set(self.numbered.get() + 1);
        self.numbered.get()
    }

    pub(super) fn add(&self, listener: &Address, counters: Rc<AcceptCounters>) {
        let (mut all, mut closed) = (self.all.borrow_mut(), self.closed.borrow_mut());
        all.retain(|(listener, counters)| {
            let counts = Rc::strong_count(counters) > 1;
            if !counts {
                let sum = closed.entry(listener.clone()).or_default();
                *sum = *sum + counters.copy();
            }
            counts
        });
        all.push((listener.to_string(), counters));
    }

    /// What was counted so far, by listener.
    pub(crate) fn stats(&self) -> BTreeMap<String, AcceptStats> {
        let mut sums = self.closed.borrow().clone();
        for (listener, counters) in &*self.all.borrow() {
            let sum = sums.entry(listener.clone()).or_default();
            *sum = *sum + counters.copy();
        }
        sums
    }
}

/// What the accepting task and the acceptor share.
#[derive(Debug)]
pub(super) struct Queue {
    ready: RefCell<VecDeque<Offered>>,
    /// The acceptor waits for an entry, or for fewer of them.
    pub(super) taker: RefCell<Option<Waker>>,
    /// The accepting task waits for room, or for too many.
    giver: RefCell<Option<Waker>>,
    /// Where connections go from here, once somebody serves them.
    places: RefCell<Option<Places>>,
    /// What the shard may have in all.
    pub(super) quota: Option<Rc<Quota>>,
    /// Where other shards see whether there is room here.
    parts: Arc<Parts>,
    shard: usize,
    /// What they were told.
    told: Cell<Part>,
    draining: Cell<bool>,
    pub(super) counters: Rc<AcceptCounters>,
}

impl Queue {
    /// Opens the shard's part.
    pub(super) fn new(parts: Arc<Parts>, shard: usize, quota: Option<Rc<Quota>>) -> Rc<Queue> {
        parts.set(shard, Part::Open);
        let queue = Rc::new(Queue {
            ready: RefCell::default(),
            taker: RefCell::default(),
            giver: RefCell::default(),
            places: RefCell::default(),
            draining: Cell::new(false),
            quota,
            parts,
            shard,
            told: Cell::new(Part::Open),
            counters: Rc::default(),
        });
        queue.quota.iter().for_each(|quota| quota.join(&queue));
        queue
    }

    /// From now on connections take these places.
    pub(super) fn serve_in(self: &Rc<Self>, places: &Places) {
        if self.places.borrow().as_ref().is_some_and(|before| before.are(places)) {
            return;
        }
        let (before, waiting) = (self.places.replace(Some(places.clone())), self.len() as isize);
        if let Some(before) = before {
            before.leave(self);
            before.queued(-waiting);
        }
        places.join(self);
        places.queued(waiting);
    }

    /// The listener is left: who waits in the kernel's backlog is to come in, as far as may wait here.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        let giver = self.giver.take();
        giver.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    fn places(&self) -> Ref<'_, Option<Places>> {
        self.places.borrow()
    }

    /// Whether what comes from other shards is better here, where it can be handed on, than in their lanes.
    pub(super) fn takes_more(&self) -> bool {
        self.len() < QUEUE
    }

    pub(super) fn len(&self) -> usize {
        self.ready.borrow().len()
    }

    pub(super) fn push(&self, incoming: Offered) {
        if self.told.get() == Part::Closed {
            return self.counters.count(|counted| &mut counted.dropped);
        }
        self.ready.borrow_mut().push_back(incoming);
        self.now_waiting(1);
        if let Some(taker) = self.taker.borrow_mut().take() {
            taker.wake();
        }
    }

    pub(super) fn pop(&self) -> Option<Offered> {
        let incoming = self.ready.borrow_mut().pop_front()?;
        self.now_waiting(-1);
        // The acceptor may have left what others sent in their lanes.
        if self.len() == QUEUE - 1
            && let Some(taker) = self.taker.borrow_mut().take()
        {
            taker.wake();
        }
        Some(incoming)
    }

    fn now_waiting(&self, change: isize) {
        self.quota.iter().for_each(|quota| quota.queued(change));
        match &*self.places() {
            Some(places) => places.queued(change),
            None => self.tell(),
        }
    }

    /// Whether this shard itself can take one more.
    pub(super) fn has_room(&self) -> bool {
        self.len() < QUEUE
            && self.places().as_ref().is_none_or(Places::are_left_for_more)
            && self.refusal().is_none()
    }

    /// Whether one more may be accepted here.
    pub(super) fn admits(&self) -> bool {
        self.has_room() || (self.is_draining() && self.len() < CROWD && self.refusal().is_none())
    }

    /// Why the shard may not have one more.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        self.quota.as_ref().and_then(|quota| quota.refusal())
    }

    /// Whether more wait here than there are places left, so that another shard may serve them sooner.
    pub(super) fn has_too_many(&self) -> bool {
        self.len() > 0 && self.places().as_ref().is_some_and(Places::are_short)
    }

    /// Wakes the task once there may be room, or too many.
    pub(super) fn await_change(&self, cx: &Context<'_>) {
        if let Some(quota) = &self.quota {
            quota.await_bytes(cx);
            self.show();
        }
        *self.giver.borrow_mut() = Some(cx.waker().clone());
    }

    /// Tells other shards, and the task that accepts, how this part stands now.
    pub(super) fn tell(&self) {
        let part = self.show();
        // Who accepts waits for fewer bytes, which nobody else hears of.
        let bytes = self.quota.as_ref().is_some_and(|quota| quota.is_full_of_bytes());
        let waits = part == Part::Open || self.has_too_many() || bytes;
        if part != Part::Closed
            && waits
            && let Some(giver) = self.giver.borrow_mut().take()
        {
            giver.wake();
        }
    }

    /// Shows other shards how this part stands now.
    fn show(&self) -> Part {
        if self.told.get() == Part::Closed {
            return Part::Closed;
        }
        let part = if self.has_room() { Part::Open } else { Part::Full };
        if self.told.replace(part) != part {
            self.parts.set(self.shard, part);
        }
        part
    }

    /// Nothing more is taken here. Resets what waits, and counts it.
    pub(super) fn close(&self) {
        self.told.set(Part::Closed);
        self.parts.set(self.shard, Part::Closed);
        let dropped = std::mem::take(&mut *self.ready.borrow_mut());
        self.now_waiting(-(dropped.len() as isize));
        self.counters.add(|counted| &mut counted.dropped, dropped.len() as u64);
    }
}
