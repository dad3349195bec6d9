//! The task that accepts on one shard: takes connections from the kernel, finds their owner, sheds when short.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future::select;
use waterwheel_os::{AcceptTrouble, Reserve};
use waterwheel_reactor::{Incoming, Listener, Time};

use crate::mesh::{Sender, TrySendError};
use crate::shard::{Shard, ShardId};
use crate::steer::{Mode, owner};

/// Connections that were accepted for this shard and wait to be served. The kernel's backlog holds the others.
const QUEUE: usize = 128;
/// How long accepting rests after the kernel refused a descriptor or memory, at first and at most.
const REST: Duration = Duration::from_millis(5);
const REST_MOST: Duration = Duration::from_millis(200);
/// Connections closed in one go when descriptors are short, before others get their turn.
const SHED_AT_ONCE: u64 = 64;
/// Connections accepted before others get their turn.
const ACCEPTS_PER_TURN: usize = 32;
/// Connections of busy owners that a shard holds on to in mode `source`, before it waits for them itself.
const WAITING: usize = 256;
/// A shortage is logged at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// What a shard's part of a listener counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct AcceptStats {
    /// Connections that the kernel gave to this shard.
    pub accepted: u64,
    /// Of these, those that another shard owns, handed over.
    pub handed_over: u64,
    /// Of these, those that it kept all the same, since the owner was too busy to take them or had ended.
    pub kept: u64,
    /// Connections that other shards handed to this one.
    pub taken_over: u64,
    /// Connections that waited to be served when the acceptor was dropped, and were closed with it.
    pub dropped: u64,
    /// Connections closed at once because no descriptor was left.
    pub shed: u64,
    /// Times that accepting failed, for whatever reason.
    pub errors: u64,
}

/// What the accepting task and the acceptor share.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) ready: RefCell<VecDeque<Incoming>>,
    /// The acceptor waits for an entry.
    pub(super) taker: RefCell<Option<Waker>>,
    /// The accepting task waits for room.
    giver: RefCell<Option<Waker>>,
    pub(super) counters: Rc<AcceptCounters>,
}

impl Queue {
    fn push(&self, incoming: Incoming) {
        self.ready.borrow_mut().push_back(incoming);
        if let Some(taker) = self.taker.borrow_mut().take() {
            taker.wake();
        }
    }

    pub(super) fn pop(&self) -> Option<Incoming> {
        let incoming = self.ready.borrow_mut().pop_front()?;
        if let Some(giver) = self.giver.borrow_mut().take() {
            giver.wake();
        }
        Some(incoming)
    }
}

/// What a shard's part of a listener counts, for those who ask later.
#[derive(Debug, Default)]
pub struct AcceptCounters {
    accepted: Cell<u64>,
    handed_over: Cell<u64>,
    kept: Cell<u64>,
    pub(super) taken_over: Cell<u64>,
    pub(super) dropped: Cell<u64>,
    shed: Cell<u64>,
    errors: Cell<u64>,
}

impl AcceptCounters {
    /// What was counted so far.
    pub fn copy(&self) -> AcceptStats {
        AcceptStats {
            accepted: self.accepted.get(),
            handed_over: self.handed_over.get(),
            kept: self.kept.get(),
            taken_over: self.taken_over.get(),
            dropped: self.dropped.get(),
            shed: self.shed.get(),
            errors: self.errors.get(),
        }
    }
}

impl std::ops::Add for AcceptStats {
    type Output = AcceptStats;

    fn add(self, other: AcceptStats) -> AcceptStats {
        AcceptStats {
            accepted: self.accepted + other.accepted,
            handed_over: self.handed_over + other.handed_over,
            kept: self.kept + other.kept,
            taken_over: self.taken_over + other.taken_over,
            dropped: self.dropped + other.dropped,
            shed: self.shed + other.shed,
            errors: self.errors + other.errors,
        }
    }
}

pub(super) fn bump(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// The task that accepts and steers.
pub(super) struct Accepting {
    shard: Shard,
    listener: Box<dyn Listener>,
    queue: Rc<Queue>,
    steer: Steer,
    reserve: Reserve,
    /// Connections that wait in tasks of their own for room at their owner.
    waiting: Rc<Cell<usize>>,
    /// The last connection found no shard with room.
    all_crowded: bool,
    /// When the log last heard of a shortage.
    complained: Option<Time>,
}

pub(super) struct Steer {
    pub(super) mode: Mode,
    pub(super) seed: u32,
    pub(super) to: Sender<Incoming>,
}

impl Steer {
    /// The shard that owns a connection; `None`: whoever accepted it.
    fn owner(&self, incoming: &Incoming, shards: usize) -> Option<ShardId> {
        owner(incoming.peer.as_ref()?, self.mode, self.seed, shards).map(ShardId::new)
    }
}

impl Accepting {
    pub(super) fn new(
        shard: Shard,
        listener: Box<dyn Listener>,
        queue: Rc<Queue>,
        steer: Steer,
    ) -> io::Result<Accepting> {
        Ok(Accepting {
            shard,
            listener,
            queue,
            steer,
            reserve: Reserve::new()?,
            waiting: Rc::default(),
            all_crowded: false,
            complained: None,
        })
    }

    /// Until the shard is asked to stop: then the socket is closed, and clients that come later are refused.
    pub(super) async fn run(self) {
        let stopping = self.shard.stopping();
        select(pin!(self.accept()), stopping).await;
    }

    async fn accept(mut self) {
        let (mut rest, mut in_a_row) = (REST, 0);
        loop {
            self.room().await;
            match poll_fn(|cx| self.listener.poll_accept(cx)).await {
                Ok(incoming) => {
                    rest = REST;
                    self.reserve.refill();
                    bump(&self.queue.counters.accepted);
                    self.route(incoming).await;
                }
                Err(error) => {
                    bump(&self.queue.counters.errors);
                    if self.rests_after(&error).await {
                        self.shard.sleep(rest).await;
                        rest = (rest * 2).min(REST_MOST);
                    }
                }
            }
            in_a_row += 1;
            if in_a_row % ACCEPTS_PER_TURN == 0 {
                self.shard.yield_now().await;
            }
        }
    }

    /// What is to be done about an error of accept(2); true: rest before the next attempt.
    async fn rests_after(&mut self, error: &io::Error) -> bool {
        match AcceptTrouble::of(error) {
            // The connection was gone before it was accepted: the next one may be fine.
            AcceptTrouble::OneConnection => false,
            AcceptTrouble::NoDescriptor => !self.shed(error).await,
            AcceptTrouble::Other => {
                self.complain("cannot accept, clients wait", error);
                true
            }
        }
    }

    /// Waits until the queue has room, so that what nobody serves waits in the kernel's backlog.
    async fn room(&mut self) {
        let may_spill = self.steer.mode == Mode::Flow && self.shard.count() > 1 && !self.all_crowded;
        if may_spill {
            return;
        }
        let queue = &self.queue;
        poll_fn(|cx| {
            if queue.ready.borrow().len() < QUEUE {
                return Poll::Ready(());
            }
            *queue.giver.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        self.all_crowded = false;
    }

    async fn route(&mut self, incoming: Incoming) {
        let owner = self.steer.owner(&incoming, self.shard.count()).filter(|owner| *owner != self.shard.id());
        let Some(owner) = owner else { return self.keep(incoming) };
        let refused = match self.steer.to.try_send(owner, incoming) {
            Ok(()) => return bump(&self.queue.counters.handed_over),
            Err(refused) => refused,
        };
        let incoming = match refused {
            // In mode `source` a client has one shard, and waits for it; others are not kept waiting for that one.
            TrySendError::Full(incoming) if self.steer.mode == Mode::Source => {
                return self.hand_over_when_there_is_room(owner, incoming).await;
            }
            // A busy owner is better served by whoever has time; a shard that has ended owns nothing.
            TrySendError::Full(incoming) | TrySendError::Closed(incoming) => incoming,
        };
        bump(&self.queue.counters.kept);
        self.keep(incoming);
    }

    async fn hand_over_when_there_is_room(&self, owner: ShardId, incoming: Incoming) {
        let (to, queue, waiting) = (self.steer.to.clone(), self.queue.clone(), self.waiting.clone());
        let deliver = async move {
            match to.send(owner, incoming).await {
                Ok(()) => bump(&queue.counters.handed_over),
                Err(closed) => {
                    bump(&queue.counters.kept);
                    queue.push(closed.0);
                }
            }
        };
        if waiting.get() >= WAITING {
            return deliver.await;
        }
        waiting.set(waiting.get() + 1);
        self.shard.spawn_detached("hand-off", async move {
            deliver.await;
            waiting.set(waiting.get() - 1);
        });
    }

    /// Serves a connection here. If too many wait here already, and nothing but even spreading binds it to this shard,
    /// another shard may have time for it.
    fn keep(&mut self, mut incoming: Incoming) {
        let crowded = self.queue.ready.borrow().len() >= QUEUE;
        if crowded && self.steer.mode == Mode::Flow {
            let me = self.shard.id();
            for other in self.shard.ids().filter(|other| *other != me) {
                incoming = match self.steer.to.try_send(other, incoming) {
                    Ok(()) => return bump(&self.queue.counters.handed_over),
                    Err(TrySendError::Full(incoming) | TrySendError::Closed(incoming)) => incoming,
                };
            }
        }
        self.all_crowded = crowded;
        self.queue.push(incoming);
    }

    /// No descriptor is left: accepts what waits with the one held in reserve and closes it, so that nobody hangs.
    /// Answers whether anybody was told; if not, accepting must rest.
    async fn shed(&mut self, error: &io::Error) -> bool {
        let mut told = 0;
        // Another thread may have taken the one in reserve; by now there may be another.
        self.reserve.refill();
        while told < SHED_AT_ONCE && self.reserve.spend() {
            let accepted = poll_fn(|cx| Poll::Ready(self.listener.poll_accept(cx))).await;
            let another = matches!(&accepted, Poll::Ready(Ok(_)));
            drop(accepted);
            self.reserve.refill();
            if !another {
                break;
            }
            told += 1;
        }
        let shed = &self.queue.counters.shed;
        shed.set(shed.get() + told);
        self.complain("no descriptor is left, new connections are closed", error);
        if told > 0 {
            self.shard.yield_now().await;
        }
        told > 0
    }

    fn complain(&mut self, what: &str, error: &io::Error) {
        let (shard, now) = (self.shard.id().index(), self.shard.now());
        if self.complained.is_none_or(|last| now.since(last) >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            tracing::warn!(shard, shed = self.queue.counters.shed.get(), "{what}: {error}");
        }
    }
}
