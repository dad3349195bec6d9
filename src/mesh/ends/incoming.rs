//! What a shard receives through one port: the lanes from all sources, and the messages held until their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use waterwheel_reactor::Time;

use crate::mesh::ledger::Ledger;
use crate::mesh::port::{Envelope, PortShared};
use crate::mesh::set::ShardSet;
use crate::mesh::sync::Consumer;
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// The ways from all sources.
pub(super) struct Incoming<M> {
    /// By source.
    inlets: Box<[Inlet<M>]>,
    /// Sources whose lane may hold something, and whose budget of this turn is not used up.
    ready: ShardSet,
    /// Sources whose budget was used up; ready again in the next turn.
    later: ShardSet,
    /// The source that is served, or where to look for the next one.
    cursor: usize,
    /// The source that this turn began with.
    first: usize,
    /// Messages that arrived before their time, the next one on top. They count against their lane's capacity, which
    /// bounds this.
    held: BinaryHeap<Reverse<Held<M>>>,
    /// Numbers the held messages, so that those of equal times keep their order.
    number: u64,
}

struct Inlet<M> {
    /// Taken from the lane's slot once the source has used it.
    consumer: Option<Consumer<Envelope<M>>>,
    /// The turn to which `spent` belongs, and the messages taken out in it.
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

impl<M: Send + 'static> Incoming<M> {
    pub(super) fn new(shards: usize) -> Incoming<M> {
        let inlet = |_| Inlet { consumer: None, turn: 0, spent: 0, held: 0 };
        Incoming {
            inlets: (0..shards).map(inlet).collect(),
            ready: ShardSet::new(shards),
            later: ShardSet::new(shards),
            cursor: 0,
            first: 0,
            held: BinaryHeap::new(),
            number: 0,
        }
    }

    /// Looks at the lane from `source`; true if it holds something.
    pub(super) fn look(&mut self, source: usize, port: &PortShared<M>, ledger: &Ledger) -> bool {
        let inlet = &mut self.inlets[source];
        inlet.fetch(source, port, ledger);
        let Some(consumer) = &inlet.consumer else { return false };
        let holds = !consumer.is_empty();
        if holds {
            self.ready.insert(source);
        }
        inlet.offer_room(source, port, ledger);
        holds
    }

    /// The next message within this turn's budgets: of those whose time has come, then of the lanes.
    pub(super) fn pop(
        &mut self,
        port: &PortShared<M>,
        ledger: &Ledger,
        now: &dyn Fn() -> Time,
    ) -> Option<(usize, M)> {
        self.pop_held(port, ledger, now).or_else(|| self.pop_lanes(port, ledger, now))
    }

    fn pop_held(
        &mut self,
        port: &PortShared<M>,
        ledger: &Ledger,
        now: &dyn Fn() -> Time,
    ) -> Option<(usize, M)> {
        let Reverse(next) = self.held.peek()?;
        if next.at > now() {
            return None;
        }
        let inlet = &mut self.inlets[next.source];
        if !inlet.may_spend(ledger) {
            ledger.ask_renewal(port.id);
            return None;
        }
        let Reverse(Held { source, message, .. }) = self.held.pop()?;
        inlet.spent += 1;
        inlet.set_held(inlet.held - 1, source, port, ledger);
        inlet.offer_room(source, port, ledger);
        Some((source, message))
    }

    fn pop_lanes(
        &mut self,
        port: &PortShared<M>,
        ledger: &Ledger,
        now: &dyn Fn() -> Time,
    ) -> Option<(usize, M)> {
        while let Some(source) = self.ready.first_from(self.cursor) {
            self.cursor = source;
            let inlet = &mut self.inlets[source];
            let Some(at) = inlet.consumer.as_ref().and_then(|consumer| consumer.peek(|next| next.at)) else {
                if !inlet.fetch(source, port, ledger) {
                    self.ready.remove(source);
                }
                continue;
            };
            if !inlet.may_spend(ledger) {
                self.ready.remove(source);
                self.later.insert(source);
                ledger.ask_renewal(port.id);
                continue;
            }
            inlet.spent += 1;
            if at != Time::ZERO && at > now() {
                self.hold(source, port, ledger);
                continue;
            }
            let envelope = inlet.consumer.as_mut().and_then(Consumer::pop)?;
            inlet.offer_room(source, port, ledger);
            return Some((source, envelope.message));
        }
        None
    }

    // Takes a message out of its lane before its time. It is counted as held before its slot is free: a sender that
    // sees the slot sees the count.
    fn hold(&mut self, source: usize, port: &PortShared<M>, ledger: &Ledger) {
        let inlet = &mut self.inlets[source];
        #[cfg(loom)]
        let late = broken(Break::HeldAfterPop);
        #[cfg(not(loom))]
        let late = false;
        if !late {
            inlet.set_held(inlet.held + 1, source, port, ledger);
        }
        if let Some(Envelope { at, message }) = inlet.consumer.as_mut().and_then(Consumer::pop) {
            self.number += 1;
            self.held.push(Reverse(Held { at, number: self.number, source, message }));
        }
        if late {
            inlet.set_held(inlet.held + 1, source, port, ledger);
        }
    }

    /// When the next held message is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.held.peek().map(|Reverse(held)| held.at)
    }

    /// A new turn, with new budgets. True if messages may have waited for it.
    pub(super) fn renew(&mut self) -> bool {
        if self.later.is_empty() && self.held.is_empty() {
            return false;
        }
        self.ready.take_all_of(&self.later);
        // The next turn begins with the next source that has something, so that none is always served last.
        if let Some(first) = self.ready.first_from((self.first + 1) % self.inlets.len()) {
            (self.first, self.cursor) = (first, first);
        }
        true
    }

    /// The next message of `source` when nobody receives any more.
    pub(super) fn pop_unwanted(&mut self, source: usize) -> Option<Envelope<M>> {
        self.inlets[source].consumer.as_mut().and_then(Consumer::pop)
    }

    /// Takes out what is held; for the end.
    pub(super) fn take_held(&mut self) -> impl Iterator<Item = Envelope<M>> + use<M> {
        self.inlets.iter_mut().for_each(|inlet| inlet.held = 0);
        let held = std::mem::take(&mut self.held);
        held.into_iter().map(|Reverse(held)| Envelope { at: held.at, message: held.message })
    }

    /// The shard ends: the consumers go back into their slots.
    pub(super) fn retire(&mut self, port: &PortShared<M>, ledger: &Ledger) {
        for (source, inlet) in self.inlets.iter_mut().enumerate() {
            inlet.set_held(0, source, port, ledger);
            if let Some(consumer) = inlet.consumer.take() {
                port.fail(port.lanes.between(source, ledger.id).give_consumer(consumer));
            }
        }
    }

    #[cfg(loom)]
    pub(super) fn occupied(&self, source: usize) -> usize {
        self.inlets[source].occupied()
    }
}

impl<M> Inlet<M> {
    // Fetches the lane's consumer if there is none here, or if nothing more will come through this one: its sender has begun
    // a new life, and a new lane. True if that was fetched.
    fn fetch(&mut self, source: usize, port: &PortShared<M>, ledger: &Ledger) -> bool {
        let stale = match &self.consumer {
            None => true,
            Some(consumer) => ledger.life(source) > 0 && consumer.is_spent(),
        };
        #[cfg(loom)]
        let stale = stale && !(broken(Break::SpentUnseen) && self.consumer.is_some());
        if !stale {
            return false;
        }
        let fetched = port.lanes.take_consumer(source, ledger.id, ledger.life(source));
        let found = fetched.is_some();
        if found {
            self.consumer = fetched;
        }
        found
    }

    // Whether this turn's budget is not used up.
    fn may_spend(&mut self, ledger: &Ledger) -> bool {
        let turn = ledger.turn();
        if self.turn != turn {
            (self.turn, self.spent) = (turn, 0);
        }
        self.spent < ledger.mesh.budget()
    }

    fn set_held(&mut self, held: usize, source: usize, port: &PortShared<M>, ledger: &Ledger) {
        self.held = held;
        port.lanes.between(source, ledger.id).set_held(held);
    }

    // If `source` waits for room in its lane, and there is some, it is rung.
    fn offer_room(&self, source: usize, port: &PortShared<M>, ledger: &Ledger) {
        let lane = port.lanes.between(source, ledger.id);
        if !lane.is_waiting() {
            return;
        }
        #[cfg(loom)]
        if broken(Break::NoRingBack) {
            return;
        }
        if self.occupied() < port.lanes.capacity() {
            #[cfg(loom)]
            if broken(Break::WaitEndedAfterRing) {
                ledger.will_ring(source, port.id);
                ledger.ring();
                return lane.end_waiting();
            }
            lane.end_waiting();
            ledger.will_ring(source, port.id);
        }
    }

    // Messages that take a place in the lane.
    fn occupied(&self) -> usize {
        self.consumer.as_ref().map_or(0, Consumer::len) + self.held
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
