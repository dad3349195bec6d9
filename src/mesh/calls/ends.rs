//! A shard's end of a call port: its own calls, and the requests of others. Without the handle of the shard, so that
//! loom's models run this same code.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::slots::{Slots, Ticket};
use super::{CallError, CallShared, Reply, Request};
use crate::mesh::ledger::Ledger;
#[cfg(loom)]
use crate::mesh::ledger::Standing;
use crate::mesh::member::End;
use crate::mesh::stats::PortStats;
use crate::mesh::sync::{Consumer, Producer};
use crate::mesh::waiters::{Place, Waiters};
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// See the module's text.
pub(in crate::mesh) struct CallEnds<Q, R> {
    pub(in crate::mesh) port: Arc<CallShared<Q, R>>,
    pub(in crate::mesh) ledger: Rc<Ledger>,
    /// By shard.
    peers: Box<[RefCell<Peer<Q, R>>]>,
    calls: RefCell<Slots<R>>,
    serving: RefCell<Serving<Q>>,
    called: Cell<u64>,
    served: Cell<u64>,
}

/// What becomes of requests.
enum Serving<Q> {
    /// They wait in their lanes until somebody serves the port here.
    NotYet,
    By(Rc<dyn Serve<Q>>),
    /// They are answered with `NotServed`.
    Ended,
}

/// Takes requests in.
pub(in crate::mesh) trait Serve<Q> {
    /// A request to be handled; not inside this call.
    fn start(&self, call: Arrived<Q>);
    /// No more will come.
    fn end(&self);
}

/// A request that arrived, to be answered with [`CallEnds::reply`].
#[derive(Debug)]
pub(in crate::mesh) struct Arrived<Q> {
    pub(in crate::mesh) from: Caller,
    pub(in crate::mesh) ticket: Ticket,
    pub(in crate::mesh) request: Q,
}

/// Who waits for a reply: a shard, in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mesh) struct Caller {
    pub(in crate::mesh) shard: usize,
    pub(in crate::mesh) life: u32,
}

/// The lanes to and from one other shard. Each is made (or fetched) when it is first used.
struct Peer<Q, R> {
    requests_to: Option<Producer<Request<Q>>>,
    requests_from: Option<Consumer<Request<Q>>>,
    replies_to: Option<Producer<Reply<R>>>,
    replies_from: Option<Consumer<Reply<R>>>,
    /// Calls to it whose reply has not come: the credits in use.
    outstanding: usize,
    /// Tasks that wait for a credit.
    credit: Waiters,
}

impl<Q: Send + 'static, R: Send + 'static> CallEnds<Q, R> {
    pub(in crate::mesh) fn new(port: Arc<CallShared<Q, R>>, ledger: Rc<Ledger>) -> CallEnds<Q, R> {
        let peer = |_| {
            RefCell::new(Peer {
                requests_to: None,
                requests_from: None,
                replies_to: None,
                replies_from: None,
                outstanding: 0,
                credit: Waiters::new(),
            })
        };
        CallEnds {
            port,
            peers: (0..ledger.mesh.shards()).map(peer).collect(),
            ledger,
            calls: RefCell::new(Slots::new()),
            serving: RefCell::new(Serving::NotYet),
            called: Cell::new(0),
            served: Cell::new(0),
        }
    }

    // ---- the caller's side

    /// Sends the request as soon as there is a credit for it. `place` is to be left when the wait is given up
    /// ([`CallEnds::leave_credit`]).
    pub(in crate::mesh) fn poll_start(
        &self,
        target: usize,
        request: &mut Option<Q>,
        place: &mut Option<Place>,
        waker: &Waker,
    ) -> Poll<Result<Ticket, CallError>> {
        let mut peer = self.peers[target].borrow_mut();
        if self.ledger.has_ended(target) {
            peer.credit.leave(place);
            return Poll::Ready(Err(CallError::Closed));
        }
        if self.ledger.is_open()
            && peer.outstanding < self.port.credits()
            && peer.credit.is_first(place.as_ref())
            && let Some(request) = request.take()
        {
            peer.credit.leave(place);
            return Poll::Ready(Ok(self.start(target, &mut peer, request)));
        }
        peer.credit.wait(place, waker);
        Poll::Pending
    }

    fn start(&self, target: usize, peer: &mut Peer<Q, R>, request: Q) -> Ticket {
        let made = || self.port.requests.make(self.ledger.id, target, self.ledger.own_life());
        let producer = peer.requests_to.get_or_insert_with(made);
        peer.outstanding += 1;
        let ticket = self.calls.borrow_mut().insert(target);
        let pushed = producer.push(Request { ticket, request });
        assert!(pushed.is_ok(), "a credit is a slot in the lane of requests");
        self.ledger.will_ring(target, self.port.id);
        self.called.set(self.called.get() + 1);
        ticket
    }

    /// Gives up a wait for credit.
    pub(in crate::mesh) fn leave_credit(&self, target: usize, place: &mut Option<Place>) {
        self.peers[target].borrow_mut().credit.leave(place);
    }

    pub(in crate::mesh) fn poll_reply(&self, ticket: Ticket, waker: &Waker) -> Poll<Result<R, CallError>> {
        self.calls.borrow_mut().poll(ticket, waker)
    }

    /// The caller went away. Does nothing for a call whose outcome was fetched.
    pub(in crate::mesh) fn cancel(&self, ticket: Ticket) {
        let unwanted = self.calls.borrow_mut().cancel(ticket);
        drop(unwanted);
    }

    // How many replies and requests of `source` wait. What comes later is rung for.
    fn arrived(&self, source: usize) -> (usize, usize) {
        let mut peer = self.peers[source].borrow_mut();
        let Peer { replies_from, requests_from, .. } = &mut *peer;
        // As for messages: a sender in a new life has new lanes.
        let life = self.ledger.life(source);
        let again = life > 0;
        if replies_from.as_ref().is_none_or(|consumer| again && consumer.is_spent()) {
            let fetched = self.port.replies.take_consumer(source, self.ledger.id, life);
            *replies_from = fetched.or_else(|| replies_from.take());
        }
        if requests_from.as_ref().is_none_or(|consumer| again && consumer.is_spent()) {
            let fetched = self.port.requests.take_consumer(source, self.ledger.id, life);
            *requests_from = fetched.or_else(|| requests_from.take());
        }
        (replies_from.as_ref().map_or(0, Consumer::len), requests_from.as_ref().map_or(0, Consumer::len))
    }

    // Replies are no more than the credits, which bounds this.
    fn take_replies(&self, source: usize, count: usize) {
        for _ in 0..count {
            let mut peer = self.peers[source].borrow_mut();
            let Some(reply) = peer.replies_from.as_mut().and_then(Consumer::pop) else { return };
            peer.outstanding -= 1;
            peer.credit.wake_first();
            drop(peer);
            let unwanted = self.calls.borrow_mut().complete(reply.ticket, reply.outcome);
            drop(unwanted);
        }
    }

    // The target ended and its replies are in: what else was on the way to it fails, and so does what it asked of a port
    // that nobody serves here.
    fn fail_calls_to(&self, target: usize) {
        if matches!(*self.serving.borrow(), Serving::NotYet) {
            let next = || self.peers[target].borrow_mut().requests_from.as_mut().and_then(Consumer::pop);
            while let Some(request) = next() {
                self.port.fail([request]);
            }
        }
        self.port.fail(self.port.requests.between(self.ledger.id, target).sweep());
        self.port.fail(self.port.replies.between(self.ledger.id, target).sweep());
        self.calls.borrow_mut().fail_all_to(target);
        let mut peer = self.peers[target].borrow_mut();
        peer.outstanding = 0;
        peer.credit.wake_all();
    }

    // ---- the server's side

    /// Begins to serve; false if this shard did before.
    pub(in crate::mesh) fn serve(&self, server: Rc<dyn Serve<Q>>) -> bool {
        let mut serving = self.serving.borrow_mut();
        if !matches!(*serving, Serving::NotYet) {
            return false;
        }
        *serving = Serving::By(server);
        // Requests may wait already.
        self.ledger.will_look_at_all(self.port.id);
        true
    }

    /// Ends serving: requests are answered with `NotServed` from now on.
    pub(in crate::mesh) fn end_serving(&self) {
        self.forget_server();
        self.ledger.will_look_at_all(self.port.id);
    }

    // The server holds this, and its tasks hold the shard.
    fn forget_server(&self) {
        let before = std::mem::replace(&mut *self.serving.borrow_mut(), Serving::Ended);
        if let Serving::By(server) = before {
            server.end();
        }
    }

    /// Answers a request. Never waits: the caller's credit has reserved a slot.
    pub(in crate::mesh) fn reply(&self, to: Caller, ticket: Ticket, outcome: Result<R, CallError>) {
        let Caller { shard: to, life } = to;
        // A next life of the caller has not asked.
        let other = self.ledger.life(to) != life;
        #[cfg(loom)]
        let other = other && !broken(Break::ReplyToAnyLife);
        if self.ledger.has_ended(to) || other {
            return self.port.fail([outcome]);
        }
        let mut peer = self.peers[to].borrow_mut();
        let made = || self.port.replies.make(self.ledger.id, to, self.ledger.own_life());
        let producer = peer.replies_to.get_or_insert_with(made);
        let pushed = producer.push(Reply { ticket, outcome });
        assert!(pushed.is_ok(), "a credit is a slot in the lane of replies");
        self.ledger.will_ring(to, self.port.id);
    }

    // True if the budget ended before the requests did, of which there are `count`.
    fn take_requests(&self, source: usize, count: usize) -> bool {
        let server = match &*self.serving.borrow() {
            Serving::NotYet => return false,
            Serving::By(server) => Some(server.clone()),
            Serving::Ended => None,
        };
        let budget = self.ledger.mesh.budget();
        let from = Caller { shard: source, life: self.ledger.life(source) };
        for _ in 0..count.min(budget) {
            let next = self.peers[source].borrow_mut().requests_from.as_mut().and_then(Consumer::pop);
            let Some(Request { ticket, request }) = next else { return false };
            match &server {
                Some(server) => {
                    self.served.set(self.served.get() + 1);
                    server.start(Arrived { from, ticket, request });
                }
                None => self.reply(from, ticket, Err(CallError::NotServed(self.port.name))),
            }
        }
        count > budget
    }
}

impl<Q: Send + 'static, R: Send + 'static> End for CallEnds<Q, R> {
    fn look(&self, source: usize, ended: bool) -> bool {
        #[cfg(loom)]
        if ended && broken(Break::CallsFailedFirst) {
            self.calls.borrow_mut().fail_all_to(source);
        }
        let (replies, requests) = self.arrived(source);
        self.take_replies(source, replies);
        #[cfg(loom)]
        let ended = ended || broken(Break::EndedSeenLate) && self.ledger.learn(source) == Standing::Ended;
        let more = requests > 0 && self.take_requests(source, requests);
        if ended {
            self.fail_calls_to(source);
        }
        more
    }

    fn waits_for(&self, waker: &Waker) -> Option<String> {
        let name = self.port.name;
        if let Some(target) = self.calls.borrow().target_of(waker) {
            return Some(format!("for the reply of shard {target} to a call of port {name}"));
        }
        let short = self.peers.iter().position(|peer| peer.borrow().credit.includes(waker));
        short.map(|target| format!("for a credit to call shard {target} over port {name}"))
    }

    fn stats(&self) -> PortStats {
        PortStats { name: self.port.name, sent: self.called.get(), received: self.served.get() }
    }

    fn renew(&self) {}

    fn reopened(&self) {
        self.peers.iter().for_each(|peer| peer.borrow().credit.wake_first());
    }

    fn retire(&self) {
        for (shard, peer) in self.peers.iter().enumerate() {
            let mut peer = peer.borrow_mut();
            if let Some(requests) = peer.requests_from.take() {
                self.port.fail(self.port.requests.between(shard, self.ledger.id).give_consumer(requests));
            }
            if let Some(replies) = peer.replies_from.take() {
                self.port.fail(self.port.replies.between(shard, self.ledger.id).give_consumer(replies));
            }
            #[cfg(loom)]
            if broken(Break::RequestsKept) {
                continue;
            }
            // A next life makes lanes of its own. The requests that nobody has fetched of these, nobody has to handle: who asked
            // is gone. Replies are still waited for.
            (peer.requests_to, peer.replies_to) = (None, None);
            drop(peer);
            self.port.fail(self.port.requests.between(self.ledger.id, shard).sweep());
        }
        self.forget_server();
    }
}
