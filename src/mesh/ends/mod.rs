//! A shard's end of a port: the lanes from it and to it, and the tasks that wait at them.
//!
//! Everything that a mailbox does, without the handle of the shard, so that loom's models run this same code.

mod incoming;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use waterwheel_reactor::Time;

use incoming::Incoming;

use crate::mesh::ledger::Ledger;
use crate::mesh::member::End;
use crate::mesh::port::{Envelope, PortShared, TrySendError};
use crate::mesh::stats::PortStats;
use crate::mesh::sync::Producer;
use crate::mesh::waiters::{Place, Waiters};
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// See the module's text.
pub(in crate::mesh) struct Ends<M> {
    pub(in crate::mesh) port: Arc<PortShared<M>>,
    pub(in crate::mesh) ledger: Rc<Ledger>,
    /// By target.
    outgoing: Box<[RefCell<Outgoing<M>>]>,
    incoming: RefCell<Incoming<M>>,
    /// Tasks that wait for a message.
    receivers: RefCell<Waiters>,
    receiving: Cell<Receiving>,
    sent: Cell<u64>,
    received: Cell<u64>,
}

/// Whether a mailbox takes what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    /// Messages wait in their lanes until somebody opens the port here.
    NotYet,
    Open,
    /// The mailbox was dropped: what arrives is failed.
    Closed,
}

/// The way to one target.
struct Outgoing<M> {
    /// Made with the lane's ring, at its first use.
    producer: Option<Producer<Envelope<M>>>,
    /// Tasks that wait for room.
    room: Waiters,
}

impl<M: Send + 'static> Ends<M> {
    pub(in crate::mesh) fn new(port: Arc<PortShared<M>>, ledger: Rc<Ledger>) -> Ends<M> {
        let shards = ledger.mesh.shards();
        let outgoing = |_| RefCell::new(Outgoing { producer: None, room: Waiters::new() });
        Ends {
            port,
            ledger,
            outgoing: (0..shards).map(outgoing).collect(),
            incoming: RefCell::new(Incoming::new(shards)),
            receivers: RefCell::new(Waiters::new()),
            receiving: Cell::new(Receiving::NotYet),
            sent: Cell::new(0),
            received: Cell::new(0),
        }
    }

    // ---- sending

    fn is_closed(&self, target: usize) -> bool {
        self.ledger.has_ended(target) || self.port.is_closed(target)
    }

    /// Sends if there is room and nobody waits for it already.
    pub(in crate::mesh) fn try_send(
        &self,
        target: usize,
        at: Time,
        message: M,
    ) -> Result<(), TrySendError<M>> {
        let mut outgoing = self.outgoing[target].borrow_mut();
        if self.is_closed(target) {
            return Err(TrySendError::Closed(message));
        }
        if !outgoing.room.is_first(None) || !self.ledger.is_open() {
            return Err(TrySendError::Full(message));
        }
        let pushed = self.push(target, &mut outgoing, Envelope { at, message });
        pushed.map_err(|envelope| TrySendError::Full(envelope.message))
    }

    /// Sends `message` and takes it out; waits for room if there is none. Ready with `false`: the target is closed and
    /// the message is still there. `place` is to be left when the wait is given up ([`Ends::leave_room`]).
    pub(in crate::mesh) fn poll_send(
        &self,
        target: usize,
        message: &mut Option<Envelope<M>>,
        place: &mut Option<Place>,
        waker: &Waker,
    ) -> Poll<bool> {
        let mut outgoing = self.outgoing[target].borrow_mut();
        if self.is_closed(target) {
            outgoing.room.leave(place);
            return Poll::Ready(false);
        }
        if self.ledger.is_open()
            && outgoing.room.is_first(place.as_ref())
            && let Some(envelope) = message.take()
        {
            match self.push(target, &mut outgoing, envelope) {
                Ok(()) => {
                    outgoing.room.leave(place);
                    return Poll::Ready(true);
                }
                Err(envelope) => *message = Some(envelope),
            }
            self.wait_for_room(target);
        }
        outgoing.room.wait(place, waker);
        Poll::Pending
    }

    // First the flag, then the ring, and the ring always, also if nothing was pushed in this turn: the target looks at
    // the flag when it takes the bell.
    fn wait_for_room(&self, target: usize) {
        let lane = self.port.lanes.between(self.ledger.id, target);
        #[cfg(loom)]
        if broken(Break::NoRingWhenFull) {
            return lane.wait();
        }
        #[cfg(loom)]
        if broken(Break::WaitingAfterRing) {
            self.ledger.will_ring(target, self.port.id);
            self.ledger.ring();
            return lane.wait();
        }
        lane.wait();
        self.ledger.will_ring(target, self.port.id);
    }

    /// Gives up a wait for room.
    pub(in crate::mesh) fn leave_room(&self, target: usize, place: &mut Option<Place>) {
        self.outgoing[target].borrow_mut().room.leave(place);
    }

    fn push(
        &self,
        target: usize,
        outgoing: &mut Outgoing<M>,
        envelope: Envelope<M>,
    ) -> Result<(), Envelope<M>> {
        let lanes = &self.port.lanes;
        let lane = lanes.between(self.ledger.id, target);
        let make = || lanes.make(self.ledger.id, target, self.ledger.own_life());
        #[cfg(loom)]
        if broken(Break::LaneAfterRing) && outgoing.producer.is_none() {
            self.ledger.will_ring(target, self.port.id);
            self.ledger.ring();
            return outgoing.producer.insert(make()).push(envelope);
        }
        let producer = outgoing.producer.get_or_insert_with(make);
        if !lane.has_room(producer) {
            return Err(envelope);
        }
        #[cfg(loom)]
        if broken(Break::RingBeforePush) {
            self.ledger.will_ring(target, self.port.id);
            self.ledger.ring();
            return producer.push(envelope);
        }
        producer.push(envelope)?;
        self.ledger.will_ring(target, self.port.id);
        self.sent.set(self.sent.get() + 1);
        Ok(())
    }

    // ---- receiving

    /// Begins to receive; false if this shard did before, and nothing has changed then.
    pub(in crate::mesh) fn open(&self) -> bool {
        let first = self.receiving.get() == Receiving::NotYet;
        if first {
            self.receiving.set(Receiving::Open);
        }
        first
    }

    /// Begins to receive, also if a mailbox was dropped before: what was sent to that one is failed first, but for what is
    /// being sent right now. That comes here, so it has to be as good here. False if there is a mailbox.
    pub(in crate::mesh) fn open_again(&self) -> bool {
        match self.receiving.get() {
            Receiving::Open => return false,
            Receiving::NotYet => {}
            Receiving::Closed => {
                for source in 0..self.ledger.mesh.shards() {
                    self.incoming.borrow_mut().look(source, &self.port, &self.ledger);
                    // At most a lane of them.
                    while self.fail_from(source) {}
                }
                self.port.open(self.ledger.id);
            }
        }
        self.receiving.set(Receiving::Open);
        true
    }

    /// Ends receiving: what is here and what still comes is failed, and senders are told.
    pub(in crate::mesh) fn close(&self) {
        self.receiving.set(Receiving::Closed);
        if self.ledger.is_retired() {
            return;
        }
        #[cfg(loom)]
        if broken(Break::CloseAfterRing) {
            self.ledger.will_ring_all(self.port.id);
            self.ledger.ring();
        }
        self.port.close(self.ledger.id);
        self.fail_held();
        self.ledger.will_look_at_all(self.port.id);
        #[cfg(loom)]
        if broken(Break::CloseUntold) || broken(Break::CloseAfterRing) {
            return;
        }
        self.ledger.will_ring_all(self.port.id);
    }

    /// The next message, or a place in the queue of those who wait for one. `place` is to be left when the wait is
    /// given up ([`Ends::leave_receivers`]).
    pub(in crate::mesh) fn poll_receive(
        &self,
        now: &dyn Fn() -> Time,
        place: &mut Option<Place>,
        waker: &Waker,
    ) -> Poll<(usize, M)> {
        let mut receivers = self.receivers.borrow_mut();
        if receivers.is_first(place.as_ref())
            && let Some(found) = self.pop(now)
        {
            // Wakes the next one, who finds out whether there is more.
            receivers.leave(place);
            return Poll::Ready(found);
        }
        receivers.wait(place, waker);
        Poll::Pending
    }

    /// Gives up a wait for a message.
    pub(in crate::mesh) fn leave_receivers(&self, place: &mut Option<Place>) {
        self.receivers.borrow_mut().leave(place);
    }

    /// When the next held message is due.
    pub(in crate::mesh) fn next_due(&self) -> Option<Time> {
        self.incoming.borrow().next_due()
    }

    /// The next message within this turn's budgets: of those whose time has come, then of the lanes.
    pub(in crate::mesh) fn pop(&self, now: &dyn Fn() -> Time) -> Option<(usize, M)> {
        let found = self.incoming.borrow_mut().pop(&self.port, &self.ledger, now);
        if found.is_some() {
            self.received.set(self.received.get() + 1);
        }
        found
    }

    /// Messages of `source` that take a place in its lane: those in it and those held until their time.
    #[cfg(loom)]
    pub(in crate::mesh) fn occupied(&self, source: usize) -> usize {
        self.incoming.borrow().occupied(source)
    }

    // Looks at the lane to `target`: whether there is room, or never will be.
    fn look_out(&self, target: usize) {
        let outgoing = self.outgoing[target].borrow();
        if outgoing.room.is_empty() {
            return;
        }
        if self.is_closed(target) {
            return outgoing.room.wake_all();
        }
        let lane = self.port.lanes.between(self.ledger.id, target);
        if outgoing.producer.as_ref().is_some_and(|producer| lane.has_room(producer)) {
            return outgoing.room.wake_first();
        }
        #[cfg(loom)]
        if broken(Break::WaitNotRenewed) {
            return;
        }
        // The target offered room that is none: it had not been rung and did not see yet what fills the lane, or the
        // offer answered an older wait and was used up from here before it came. So the wait is not on record.
        if !lane.is_waiting() {
            self.wait_for_room(target);
        }
    }

    // The mailbox was dropped: nobody will receive what `source` sent. True if the budget ended first.
    fn fail_from(&self, source: usize) -> bool {
        for _ in 0..self.ledger.mesh.budget() {
            // One at a time, dropped with nothing borrowed.
            let next = self.incoming.borrow_mut().pop_unwanted(source);
            let Some(envelope) = next else { return false };
            self.port.fail([envelope]);
        }
        true
    }

    fn fail_held(&self) {
        let held = self.incoming.borrow_mut().take_held();
        self.port.fail(held);
    }
}

impl<M: Send + 'static> End for Ends<M> {
    fn look(&self, source: usize, ended: bool) -> bool {
        if self.incoming.borrow_mut().look(source, &self.port, &self.ledger) {
            self.receivers.borrow().wake_first();
        }
        let more = self.receiving.get() == Receiving::Closed && self.fail_from(source);
        self.look_out(source);
        if ended {
            // The lane to it: what was pushed before its end and rung after it.
            self.port.fail(self.port.lanes.between(self.ledger.id, source).sweep());
        }
        more
    }

    fn stats(&self) -> PortStats {
        PortStats { name: self.port.name, sent: self.sent.get(), received: self.received.get() }
    }

    fn waits_for(&self, waker: &Waker) -> Option<String> {
        let name = self.port.name;
        if self.receivers.borrow().includes(waker) {
            return Some(format!("for a message of port {name}"));
        }
        let full = self.outgoing.iter().position(|outgoing| outgoing.borrow().room.includes(waker));
        full.map(|target| format!("for room in the lane of port {name} to shard {target}"))
    }

    fn renew(&self) {
        if self.incoming.borrow_mut().renew() {
            self.receivers.borrow().wake_first();
        }
    }

    fn reopened(&self) {
        self.outgoing.iter().for_each(|outgoing| outgoing.borrow().room.wake_first());
        if self.receiving.get() == Receiving::Closed {
            // Its mailbox was dropped before anybody could be told.
            self.port.close(self.ledger.id);
            self.ledger.will_ring_all(self.port.id);
        }
    }

    fn retire(&self) {
        self.incoming.borrow_mut().retire(&self.port, &self.ledger);
        self.fail_held();
        // A next life makes lanes of its own; whoever finds these empty knows that nothing more will come through them.
        self.outgoing.iter().for_each(|outgoing| outgoing.borrow_mut().producer = None);
    }
}
