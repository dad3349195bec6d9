//! A shard's part in the mesh: what it does for messages at the beginning and at the end of a turn.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::task::{Poll, Waker};

use super::hub::Mesh;
use super::ledger::{Ledger, Standing};
use super::set::ShardSet;
use super::stats::{MeshStats, PortStats};
use super::waiters::{Place, Waiters};
use super::wanted::{Bits, bit_of};
use crate::shard::Shard;
use crate::shard::between::{Between, Taken};
#[cfg(loom)]
use crate::shard::broken::{Break, broken};
use crate::shard::waiters::Waiters as Bag;

/// One shard's member of the mesh, reached from its handle. Lives as long as the shard's root; ended by
/// [`retire`](Member::retire).
pub(crate) struct Member {
    pub(super) ledger: Rc<Ledger>,
    /// The ends that this shard opened, by the ids of their ports.
    ends: RefCell<Ends>,
    /// What this turn looks at; empty between turns, kept for its memory.
    looking: ShardSet,
    /// Of the source that it looks at, the same.
    looking_at: Bits,
    /// The source that this turn looks at first.
    first: Cell<usize>,
    /// Wakes the task that runs jobs from outside.
    jobs: RefCell<Option<Waker>>,
    /// Tasks that wait for a shard to be back.
    returns: RefCell<Waiters>,
    /// What this shard has of ports that are more than an end, by their ids.
    parts: RefCell<BTreeMap<usize, Rc<dyn Any>>>,
    /// How the parts end whose ports may be given up, by the ids of those.
    closings: RefCell<BTreeMap<usize, Closing>>,
    /// How many ports had been given up when this shard last looked for its own.
    given_up: Cell<u64>,
    /// The tasks that wait for the end of some shard.
    pub(super) mourners: RefCell<Bag>,
}

/// In the order of their keys; copied when one is opened while a turn looks at them.
type Ends = Rc<Vec<(Key, Rc<dyn End>)>>;

/// What stands for a port where it is to be looked at, and its id: some may share the first.
type Key = (usize, usize);

fn key_of(port: usize) -> Key {
    (bit_of(port), port)
}

/// The end of a part before its shard's.
struct Closing {
    /// The port is given up.
    over: Arc<AtomicBool>,
    close: Box<dyn FnOnce()>,
}

/// A shard's end of one port, whatever its messages are.
pub(super) trait End: Any {
    /// Looks at everything that concerns `source`: its lanes to this shard, room in the lanes to it, and, if it
    /// `ended` (which was asked before), what waits for it. True: the budget ended first, look again in the next turn.
    fn look(&self, source: usize, ended: bool) -> bool;

    /// What passed through.
    fn stats(&self) -> PortStats;

    /// What a task waits for here, by its waker; for reports.
    fn waits_for(&self, waker: &Waker) -> Option<String>;

    /// A new turn began: wakes the tasks that used up the last one's budget.
    fn renew(&self);

    /// This shard, in a next life, takes part from now on: wakes the tasks that wanted to send before.
    fn reopened(&self);

    /// The shard ends, its tasks are gone: consumers go back into their slots, so that what is left can be swept.
    fn retire(&self);
}

impl Member {
    /// The member of shard `id`. One per shard; see [`super::StopGuard`].
    pub(super) fn new(mesh: Arc<Mesh>, id: usize) -> Member {
        let looking = ShardSet::new(mesh.shards());
        Member {
            ledger: Rc::new(Ledger::new(mesh, id)),
            ends: RefCell::default(),
            looking,
            looking_at: Bits::default(),
            first: Cell::new(0),
            jobs: RefCell::default(),
            returns: RefCell::new(Waiters::new()),
            parts: RefCell::default(),
            closings: RefCell::default(),
            given_up: Cell::new(0),
            mourners: RefCell::default(),
        }
    }

    /// The member of a shard that a runtime made.
    pub(super) fn of(shard: &Shard) -> Rc<Member> {
        let between: Rc<dyn Any> = shard.between().clone();
        between.downcast().expect("the shards of a runtime are members of its mesh")
    }

    /// The end of port `id` that this shard has, if it is of this kind; made by `make` at its first use.
    pub(super) fn end<E: End>(&self, id: usize, make: impl FnOnce() -> E) -> Rc<E> {
        let key = key_of(id);
        let place = self.ends.borrow().binary_search_by_key(&key, |(known, _)| *known);
        let end: Rc<dyn Any> = match place {
            Ok(place) => self.ends.borrow()[place].1.clone(),
            Err(place) => {
                let end = Rc::new(make());
                Rc::make_mut(&mut self.ends.borrow_mut()).insert(place, (key, end.clone()));
                // What was sent before is found by looking at everybody.
                self.ledger.will_look_at_all(id);
                end
            }
        };
        end.downcast().expect("a port's id belongs to one type of messages")
    }

    /// This shard's part of what is built on port `id`, if it has one.
    pub(super) fn part<P: 'static>(&self, id: usize) -> Option<Rc<P>> {
        let part = self.parts.borrow().get(&id).cloned();
        part.map(|part| part.downcast().expect("a port's id belongs to one type of parts"))
    }

    /// Keeps that part until the shard ends.
    pub(super) fn keep_part(&self, id: usize, part: Rc<dyn Any>) {
        let before = self.parts.borrow_mut().insert(id, part);
        drop(before);
    }

    /// The same for a port that may be given up: `close` ends what works on it then.
    pub(super) fn keep_part_until(
        &self,
        id: usize,
        part: Rc<dyn Any>,
        over: &Arc<AtomicBool>,
        close: impl FnOnce() + 'static,
    ) {
        let closing = Closing { over: over.clone(), close: Box::new(close) };
        let before = self.closings.borrow_mut().insert(id, closing);
        drop(before);
        self.keep_part(id, part);
    }

    /// Closes what this shard has of the ports that were given up.
    fn close_given_up(&self) {
        let given_up = self.ledger.mesh.given_up();
        if self.given_up.replace(given_up) == given_up {
            return;
        }
        let is_over = |_: &usize, closing: &mut Closing| closing.over.load(Acquire);
        let closings: BTreeMap<usize, Closing> = self.closings.borrow_mut().extract_if(.., is_over).collect();
        if closings.is_empty() {
            return;
        }
        let is_closed = |((_, id), _): &mut (Key, Rc<dyn End>)| closings.contains_key(id);
        let ends: Vec<_> = Rc::make_mut(&mut self.ends.borrow_mut()).extract_if(.., is_closed).collect();
        for (id, Closing { close, .. }) in closings {
            close();
            let part = self.parts.borrow_mut().remove(&id);
            drop(part);
        }
        ends.iter().for_each(|(_, end)| end.retire());
    }

    /// Everybody knows of the end of the shard's life before: takes part again.
    pub(super) fn reopen(&self) {
        self.ledger.reopen();
        self.for_each_end(End::reopened);
    }

    /// The waker of the task that runs jobs from outside threads: invoked when some were left.
    pub(super) fn wait_for_jobs(&self, waker: &Waker) {
        match &mut *self.jobs.borrow_mut() {
            Some(kept) => kept.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn wake_jobs(&self) {
        if let Some(waker) = &*self.jobs.borrow() {
            waker.wake_by_ref();
        }
    }

    // Looking may open an end or drop a message that does, so the list is not borrowed meanwhile. An end that is
    // opened so asks for a look at everybody.
    fn for_each_end(&self, f: impl FnMut(&dyn End)) {
        let ends = self.ends.borrow().clone();
        ends.iter().map(|(_, end)| &**end).for_each(f);
    }

    /// Of the ports in a set; empties it.
    fn for_each_of(&self, ports: &Bits, mut f: impl FnMut(usize, &dyn End)) {
        if ports.is_empty() {
            return;
        }
        let ends = self.ends.borrow().clone();
        while let Some(bit) = ports.pop() {
            let first = ends.partition_point(|((other, _), _)| *other < bit);
            let same = ends[first..].iter().take_while(|((other, _), _)| *other == bit);
            same.for_each(|((_, id), end)| f(*id, &**end));
        }
    }

    fn look_at(&self, source: usize) {
        let ledger = &*self.ledger;
        // Asked before the lanes are drained: what it sent before its end is then seen.
        let standing = ledger.learn(source);
        let ended = standing == Standing::Ended;
        let mut more = false;
        #[cfg(loom)]
        if ended && broken(Break::AcknowledgeFirst) {
            ledger.settled_with(source);
        }
        #[cfg(loom)]
        let ended = ended && !broken(Break::EndedSeenLate);
        let mut look = |port: usize, end: &dyn End| {
            if end.look(source, ended) {
                more = true;
                ledger.will_look(source, port);
            }
        };
        ledger.take_wanted(source, &self.looking_at);
        if standing == Standing::AtWork {
            self.for_each_of(&self.looking_at, look);
        } else {
            // An end concerns all of them, and so does what a next life has sent before it was known here.
            while self.looking_at.pop().is_some() {}
            let ends = self.ends.borrow().clone();
            ends.iter().for_each(|((_, id), end)| look(*id, &**end));
        }
        if !more && ended {
            // What it sent before its end has been seen.
            self.mourners.borrow_mut().wake_all();
            if !ledger.is_retired() {
                ledger.settled_with(source);
            }
        }
        if standing == Standing::Back {
            self.mourners.borrow_mut().wake_all();
            self.returns.borrow().wake_all();
        }
    }

    /// Ready once `shard` is not known to have ended. `place` is to be left when the wait is given up
    /// ([`leave_returns`](Member::leave_returns)).
    pub(super) fn poll_return(&self, shard: usize, place: &mut Option<Place>, waker: &Waker) -> Poll<()> {
        let mut returns = self.returns.borrow_mut();
        if self.ledger.has_ended(shard) {
            returns.wait(place, waker);
            return Poll::Pending;
        }
        returns.leave(place);
        Poll::Ready(())
    }

    pub(super) fn leave_returns(&self, place: &mut Option<Place>) {
        self.returns.borrow_mut().leave(place);
    }

    /// A copy of the counters.
    pub(super) fn stats(&self) -> MeshStats {
        let ledger = &*self.ledger;
        let mut ports = Vec::new();
        let ends = self.ends.borrow().clone();
        ends.iter().for_each(|((_, id), end)| ports.push((*id, end.stats())));
        ports.sort_by_key(|(id, _)| *id);
        MeshStats {
            parks: ledger.parks.get(),
            woken: ledger.bell().wakes(),
            rings: ledger.rings.get(),
            wakes: ledger.wakes.get(),
            ports: ports.into_iter().map(|(_, stats)| stats).collect(),
        }
    }

    /// The end of the shard, after its tasks are gone: everything that others may want is put where they find it.
    pub(super) fn retire(&self) {
        self.ledger.retire();
        self.for_each_end(End::retire);
        // Ends hold handles of the shard, which holds this. What they drop may use it.
        drop(self.ends.take());
        let (jobs, parts) = (self.jobs.borrow_mut().take(), self.parts.take());
        let closings = self.closings.take();
        drop((jobs, parts, closings));
    }
}

impl Between for Member {
    fn take(&self) -> Taken {
        let ledger = &*self.ledger;
        ledger.begin_turn();
        // The bell says that the shard has ended, and has to.
        if !ledger.is_open() {
            return Taken::default();
        }
        let rung = ledger.bell().take();
        if rung.foreign() {
            self.close_given_up();
            if !ledger.mesh.jobs(ledger.id).is_empty() {
                self.wake_jobs();
            }
        }
        ledger.take_renewals(&self.looking_at);
        self.for_each_of(&self.looking_at, |_, end| end.renew());
        self.looking.insert_sources(rung.sources());
        self.looking.take_all_of(&ledger.to_look);
        // The start rotates, so that no source is always served last.
        let mut next = self.first.get();
        self.first.set(if next + 1 < ledger.mesh.shards() { next + 1 } else { 0 });
        while let Some(source) = self.looking.first_from(next) {
            self.looking.remove(source);
            self.look_at(source);
            next = source + 1;
        }
        #[cfg(loom)]
        if broken(Break::TakeAfterLook) {
            ledger.bell().take();
        }
        Taken { more: !ledger.to_look.is_empty(), foreign: rung.foreign() }
    }

    fn ring(&self) {
        self.ledger.ring();
    }

    fn park(&self) -> bool {
        // Nobody but its alarm wakes a shard that does not take part yet.
        if !self.ledger.is_open() {
            return true;
        }
        let parked = self.ledger.is_settled() && self.ledger.bell().park();
        self.ledger.parks.set(self.ledger.parks.get() + u64::from(parked));
        parked
    }

    fn rung(&self) -> bool {
        self.ledger.bell().is_rung() || !self.ledger.is_settled()
    }

    fn glance(&self) -> bool {
        self.ledger.bell().is_rung()
    }

    fn waits_for(&self, waker: &Waker) -> Vec<String> {
        let mut waits = Vec::new();
        self.for_each_end(|end| waits.extend(end.waits_for(waker)));
        if self.jobs.borrow().as_ref().is_some_and(|own| own.will_wake(waker)) {
            waits.push("for jobs of other threads".to_owned());
        }
        waits
    }

    fn set_waker(&self, waker: &Waker) {
        self.ledger.bell().set_waker(waker);
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.ledger.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
