//! A shard's end of a port: the lanes from it and to it, and the tasks that wait at them.
//!
//! Everything that a mailbox does, without the handle of the shard, so that loom's models run this same code.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use waterwheel_reactor::Time;

#[cfg(loom)]
use super::broken::{Break, broken};
use super::ledger::Ledger;
use super::member::End;
use super::port::{Envelope, PortShared, TrySendError};
use super::set::ShardSet;
use super::stats::PortStats;
use super::sync::{Consumer, Producer};
use super::waiters::{Place, Waiters};

/// See the module's text.
pub(super) struct Ends<M> {
    pub(super) port: Arc<PortShared<M>>,
    pub(super) ledger: Rc<Ledger>,
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

/// The ways from all sources.
struct Incoming<M> {
    /// By source.
    inlets: Box<[Inlet<M>]>,
    /// Sources whose lane may hold something, and whose budget of this turn is not used up.
    ready: ShardSet,
    /// Sources whose budget was used up; ready again in the next turn.
    later: ShardSet,
    /// The source that is served, or where to look for the next one.
    cursor: usize,
    /// Messages that arrived before their time, the next one on top. They count against their lane's capacity, which
    /// bounds this.
    held: BinaryHeap<Reverse<Held<M>>>,
    /// Numbers the held messages, so that those of equal times keep their order.
    number: u64,
}

struct Inlet<M> {
    /// Taken from the lane's slot once the source has used it.
    consumer: Option<Consumer<Envelope<M>>>,
    /// The turn to which `spent` belongs, and the messages received in it.
    turn: u64,
    spent: usize,
    /// Messages of this source in `held`.
    held: usize,
}

struct Held<M> {
    at: Time,
    number: u64,
    source: usize,
    message: M,
}

impl<M: Send + 'static> Ends<M> {
    pub(super) fn new(port: Arc<PortShared<M>>, ledger: Rc<Ledger>) -> Ends<M> {
        let shards = ledger.mesh.shards();
        let outgoing = |_| RefCell::new(Outgoing { producer: None, room: Waiters::new() });
        let inlet = |_| Inlet { consumer: None, turn: 0, spent: 0, held: 0 };
        Ends {
            port,
            ledger,
            outgoing: (0..shards).map(outgoing).collect(),
            incoming: RefCell::new(Incoming {
                inlets: (0..shards).map(inlet).collect(),
                ready: ShardSet::new(shards),
                later: ShardSet::new(shards),
                cursor: 0,
                held: BinaryHeap::new(),
                number: 0,
            }),
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
    pub(super) fn try_send(&self, target: usize, at: Time, message: M) -> Result<(), TrySendError<M>> {
        let mut outgoing = self.outgoing[target].borrow_mut();
        if self.is_closed(target) {
            return Err(TrySendError::Closed(message));
        }
        if !outgoing.room.is_first(None) {
            return Err(TrySendError::Full(message));
        }
        let pushed = self.push(target, &mut outgoing, Envelope { at, message });
        pushed.map_err(|envelope| TrySendError::Full(envelope.message))
    }

    /// Sends `message` and takes it out; waits for room if there is none. Ready with `false`: the target is closed and
    /// the message is still there. `place` is to be left when the wait is given up ([`Ends::leave_room`]).
    pub(super) fn poll_send(
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
        if outgoing.room.is_first(place.as_ref())
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
            self.ledger.will_ring(target);
            self.ledger.ring();
            return lane.wait();
        }
        lane.wait();
        self.ledger.will_ring(target);
    }

    /// Gives up a wait for room.
    pub(super) fn leave_room(&self, target: usize, place: &mut Option<Place>) {
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
        let producer = outgoing.producer.get_or_insert_with(|| lane.make(lanes.capacity()));
        if !lane.has_room(producer) {
            return Err(envelope);
        }
        #[cfg(loom)]
        if broken(Break::RingBeforePush) {
            self.ledger.mesh.bell(target).ring(self.ledger.id);
            return producer.push(envelope);
        }
        producer.push(envelope)?;
        self.ledger.will_ring(target);
        self.sent.set(self.sent.get() + 1);
        Ok(())
    }

    // ---- receiving

    /// Begins to receive; false if this shard did before.
    pub(super) fn open(&self) -> bool {
        self.receiving.replace(Receiving::Open) == Receiving::NotYet
    }

    /// Ends receiving: what is here and what still comes is failed, and senders are told.
    pub(super) fn close(&self) {
        self.receiving.set(Receiving::Closed);
        if self.ledger.is_retired() {
            return;
        }
        self.port.close(self.ledger.id);
        self.fail_held();
        self.ledger.will_ring_all();
        self.ledger.to_look.fill();
    }

    /// The next message, or a place in the queue of those who wait for one. `place` is to be left when the wait is
    /// given up ([`Ends::leave_receivers`]).
    pub(super) fn poll_receive(
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
    pub(super) fn leave_receivers(&self, place: &mut Option<Place>) {
        self.receivers.borrow_mut().leave(place);
    }

    /// When the next held message is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.incoming.borrow().held.peek().map(|Reverse(held)| held.at)
    }

    /// The next message within this turn's budgets: of those whose time has come, then of the lanes.
    pub(super) fn pop(&self, now: &dyn Fn() -> Time) -> Option<(usize, M)> {
        let incoming = &mut *self.incoming.borrow_mut();
        let found = incoming.pop_held(self, now).or_else(|| incoming.pop_lanes(self, now));
        if found.is_some() {
            self.received.set(self.received.get() + 1);
        }
        found
    }

    // Room was made for `source`: if it waits for that, it is rung.
    fn made_room(&self, source: usize) {
        #[cfg(loom)]
        if broken(Break::NoRingBack) {
            return;
        }
        if self.port.lanes.between(source, self.ledger.id).take_waiting() {
            self.ledger.will_ring(source);
        }
    }

    // Looks at the lane from `source`.
    fn look_in(&self, source: usize) {
        let lane = self.port.lanes.between(source, self.ledger.id);
        let incoming = &mut *self.incoming.borrow_mut();
        let inlet = &mut incoming.inlets[source];
        if inlet.consumer.is_none() {
            inlet.consumer = lane.take_consumer();
        }
        let Some(consumer) = &inlet.consumer else { return };
        if !consumer.is_empty() {
            incoming.ready.insert(source);
            self.receivers.borrow().wake_first();
        }
        if consumer.len() + inlet.held < self.port.lanes.capacity() {
            self.made_room(source);
        }
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
            outgoing.room.wake_first();
        }
    }

    // The mailbox was dropped: nobody will receive what `source` sent. True if the budget ended first.
    fn fail_from(&self, source: usize) -> bool {
        for _ in 0..self.ledger.mesh.budget() {
            // One at a time, dropped with nothing borrowed.
            let next = self.incoming.borrow_mut().inlets[source].consumer.as_mut().and_then(Consumer::pop);
            let Some(envelope) = next else { return false };
            self.port.fail([envelope]);
        }
        true
    }

    fn fail_held(&self) {
        let held = {
            let incoming = &mut *self.incoming.borrow_mut();
            incoming.inlets.iter_mut().for_each(|inlet| inlet.held = 0);
            std::mem::take(&mut incoming.held)
        };
        self.port.fail(held.into_iter().map(|Reverse(held)| Envelope { at: held.at, message: held.message }));
    }
}

impl<M: Send + 'static> Incoming<M> {
    fn pop_held(&mut self, ends: &Ends<M>, now: &dyn Fn() -> Time) -> Option<(usize, M)> {
        let Reverse(next) = self.held.peek()?;
        if next.at > now() {
            return None;
        }
        let source = next.source;
        if !self.inlets[source].may_spend(ends) {
            ends.ledger.ask_renewal();
            return None;
        }
        let Reverse(held) = self.held.pop()?;
        self.inlets[source].spent += 1;
        self.count_held(ends, source, -1);
        ends.made_room(source);
        Some((source, held.message))
    }

    fn pop_lanes(&mut self, ends: &Ends<M>, now: &dyn Fn() -> Time) -> Option<(usize, M)> {
        while let Some(source) = self.ready.first_from(self.cursor) {
            self.cursor = source;
            let inlet = &mut self.inlets[source];
            let Some(at) = inlet.consumer.as_ref().and_then(|consumer| consumer.peek(|next| next.at)) else {
                self.ready.remove(source);
                continue;
            };
            if !inlet.may_spend(ends) {
                self.ready.remove(source);
                self.later.insert(source);
                ends.ledger.ask_renewal();
                continue;
            }
            inlet.spent += 1;
            if at != Time::ZERO && at > now() {
                self.hold(ends, source);
                continue;
            }
            let envelope = inlet.consumer.as_mut().and_then(Consumer::pop)?;
            ends.made_room(source);
            return Some((source, envelope.message));
        }
        None
    }

    // Takes a message out of its lane before its time. It is counted as held before its slot is free: a sender that
    // sees the slot sees the count.
    fn hold(&mut self, ends: &Ends<M>, source: usize) {
        #[cfg(loom)]
        let late = broken(Break::HeldAfterPop);
        #[cfg(not(loom))]
        let late = false;
        if !late {
            self.count_held(ends, source, 1);
        }
        if let Some(Envelope { at, message }) = self.inlets[source].consumer.as_mut().and_then(Consumer::pop)
        {
            self.number += 1;
            self.held.push(Reverse(Held { at, number: self.number, source, message }));
        }
        if late {
            self.count_held(ends, source, 1);
        }
    }

    fn count_held(&mut self, ends: &Ends<M>, source: usize, by: isize) {
        let held = &mut self.inlets[source].held;
        *held = held.saturating_add_signed(by);
        ends.port.lanes.between(source, ends.ledger.id).set_held(*held);
    }
}

impl<M> Inlet<M> {
    // Whether this turn's budget is not used up.
    fn may_spend<T>(&mut self, ends: &Ends<T>) -> bool {
        let turn = ends.ledger.turn();
        if self.turn != turn {
            (self.turn, self.spent) = (turn, 0);
        }
        self.spent < ends.ledger.mesh.budget()
    }
}

impl<M: Send + 'static> End for Ends<M> {
    fn look(&self, source: usize, ended: bool) -> bool {
        self.look_in(source);
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

    fn renew(&self) {
        let incoming = &mut *self.incoming.borrow_mut();
        let Incoming { ready, later, held, cursor, .. } = incoming;
        if later.is_empty() && held.is_empty() {
            return;
        }
        ready.take_all_of(later);
        // The next turn begins with another source.
        *cursor = (*cursor + 1) % self.ledger.mesh.shards();
        self.receivers.borrow().wake_first();
    }

    fn retire(&self) {
        for (source, inlet) in self.incoming.borrow_mut().inlets.iter_mut().enumerate() {
            if let Some(consumer) = inlet.consumer.take() {
                self.port.lanes.between(source, self.ledger.id).give_consumer(consumer);
            }
        }
        self.fail_held();
    }
}

impl<M> PartialEq for Held<M> {
    fn eq(&self, other: &Held<M>) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl<M> Eq for Held<M> {}

impl<M> PartialOrd for Held<M> {
    fn partial_cmp(&self, other: &Held<M>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> Ord for Held<M> {
    fn cmp(&self, other: &Held<M>) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
