//! The task that accepts on one shard: takes connections from the kernel, finds their owner, sheds when short.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};
use waterwheel_os::{AcceptTrouble, may_be_taken_later};

use super::door::Door;
use super::listener::{Listening, Steering};
use super::offered::Offered;
use super::places::{Part, Parts};
use super::queue::{AcceptCounters, CROWD, Queue};
use super::reserve::Reserve;
use crate::mesh::{Sender, TrySendError};
use crate::shard::{Shard, ShardId};
use crate::steer::{Mode, owner};

/// How long accepting rests after the kernel refused a descriptor or memory, at first and at most.
const REST: Duration = Duration::from_millis(5);
const REST_MOST: Duration = Duration::from_millis(200);
/// Connections in a row that were gone before they were accepted, after which accepting rests as well: twice what waits in a
/// backlog as a rule. A socket that answers so without end is none that can accept.
const GONE_MOST: u32 = 8_192;
/// Connections reset in one go when descriptors are short, before others get their turn.
const SHED_AT_ONCE: u64 = 64;
/// Connections accepted before others get their turn.
const ACCEPTS_PER_TURN: usize = 32;
/// Connections of busy owners that a shard holds on to in mode `source`. Those beyond are reset: waiting for one
/// owner would keep everybody else's clients waiting too.
const WAITING: usize = 128;
/// Turns in a row in which nobody is found in the backlog of a listener that is left: a reactor that asks the kernel only
/// at the end of a turn has its answer in the next.
const EMPTY_AFTER: u32 = 3;
/// While no shard has room, how often one looks whether another has. Its own room it hears of at once.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The task that accepts and steers.
pub(super) struct Accepting {
    shard: Shard,
    listener: Door,
    queue: Rc<Queue>,
    steer: Rc<Steer>,
    reserve: Arc<Reserve>,
    /// Connections that wait in tasks of their own for room at their owner.
    waiting: Rc<Cell<usize>>,
    /// The last connection found no shard with room, whatever the parts said.
    all_crowded: bool,
}

/// The way by which connections of a listener go to other shards.
#[derive(Debug)]
pub(super) struct Steer {
    pub(super) steering: Steering,
    pub(super) to: Sender<Offered>,
    pub(super) parts: Arc<Parts>,
    pub(super) counters: Rc<AcceptCounters>,
    /// As long as somebody may send, the port is of no other use.
    pub(super) _of: Listening,
}

impl Steer {
    /// The shard that a connection is for, accepted on shard `me`; `None`: whoever accepted it.
    fn owner(&self, incoming: &Offered, me: ShardId, shards: usize) -> Option<ShardId> {
        let Steering { mode, seed, .. } = self.steering;
        let owner = match mode {
            Mode::Least => self.parts.least(me.index()),
            mode => owner(incoming.peer()?, mode, seed, shards),
        };
        owner.map(ShardId::new)
    }
}

impl Accepting {
    pub(super) fn new(
        shard: Shard,
        listener: Door,
        queue: Rc<Queue>,
        steer: Rc<Steer>,
        reserve: Arc<Reserve>,
    ) -> Accepting {
        Accepting { shard, listener, queue, steer, reserve, waiting: Rc::default(), all_crowded: false }
    }

    /// Until the shard is asked to stop: then the socket is closed, and clients that come later are refused. Or until it turns
    /// out that nobody ever will be accepted.
    pub(super) async fn run(mut self) {
        let stopping = self.shard.stopping();
        let failed = match select(pin!(self.accept()), stopping).await {
            Either::Left((Err(error), _)) => error,
            Either::Left((Ok(()), _)) | Either::Right(_) => return,
        };
        self.listener.fail(failed);
    }

    /// Waits until the reactor takes the socket.
    async fn open(&mut self) -> io::Result<()> {
        let mut rest = REST;
        while let Err(error) = self.listener.open(&self.reserve) {
            self.queue.counters.count(|counted| &mut counted.errors);
            if !may_be_taken_later(&error) {
                return Err(error);
            }
            self.queue.counters.complain(&self.shard, "cannot begin to accept, clients wait", &error);
            self.shard.sleep(rest).await;
            rest = (rest * 2).min(REST_MOST);
        }
        Ok(())
    }

    async fn accept(&mut self) -> io::Result<()> {
        self.open().await?;
        let (mut rest, mut in_a_row, mut empty) = (REST, 0, 0);
        // Since somebody was accepted.
        let mut gone = 0;
        loop {
            self.room().await;
            match self.next().await {
                Ok(None) if self.queue.is_draining() => {
                    empty += 1;
                    if empty == EMPTY_AFTER {
                        return Ok(());
                    }
                    self.shard.yield_now().await;
                }
                Ok(None) => self.spread(),
                Ok(Some(incoming)) => {
                    (rest, empty, gone) = (REST, 0, 0);
                    self.take(incoming);
                }
                Err(error) => {
                    self.queue.counters.count(|counted| &mut counted.errors);
                    if self.rests_after(error, &mut gone).await? {
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

    /// A connection was accepted. While the reserve is short that comes first.
    fn take(&mut self, incoming: Offered) {
        let counters = &self.queue.counters;
        let reactor = self.shard.reactor();
        if self.reserve.is_short() && !self.reserve.refill(|| reactor.spare()) {
            drop(incoming);
            counters.count(|counted| &mut counted.shed);
            self.reserve.refill(|| reactor.spare());
            return;
        }
        counters.count(|counted| &mut counted.accepted);
        self.route(incoming);
    }

    /// What is to be done about an error of accept(2); true: rest before the next attempt.
    ///
    /// # Errors
    /// Nobody will be accepted any more.
    async fn rests_after(&mut self, error: io::Error, gone: &mut u32) -> io::Result<bool> {
        let told = match AcceptTrouble::of(&error) {
            // The connection was gone before it was accepted: the next one may be fine.
            AcceptTrouble::OneConnection => {
                *gone += 1;
                if *gone < GONE_MOST {
                    return Ok(false);
                }
                "those who come are gone before they are accepted"
            }
            AcceptTrouble::NoDescriptor => return Ok(!self.shed(&error).await),
            AcceptTrouble::Broken => return Err(error),
            // Also what nobody has thought of: it is told again and again, and what else the shard serves goes on.
            AcceptTrouble::Other => "cannot accept, clients wait",
        };
        self.queue.counters.complain(&self.shard, told, &error);
        Ok(true)
    }

    /// Waits until this shard has room, or another to which connections may go, so that what nobody can serve waits
    /// in the kernel's backlog.
    async fn room(&mut self) {
        if let Some(why) = self.queue.refusal() {
            let counters = &self.queue.counters;
            counters.count(|counted| &mut counted.held_back);
            let full = io::Error::from(io::ErrorKind::QuotaExceeded);
            counters.complain(&self.shard, why, &full);
        }
        let (queue, steers) = (self.queue.clone(), self.steers());
        while self.has_nobody_with_room() {
            let own = poll_fn(|cx| {
                if queue.admits() {
                    return Poll::Ready(());
                }
                queue.await_change(cx);
                Poll::Pending
            });
            if !steers {
                return own.await;
            }
            select(own, self.shard.sleep(LOOK_AGAIN)).await;
            self.all_crowded = false;
        }
    }

    /// Whether connections may go to other shards.
    fn steers(&self) -> bool {
        let Steering { mode, placed, .. } = self.steer.steering;
        // What the kernel places is nearly all this shard's own, and in mode `source` nobody else's.
        mode.passes_on() && self.shard.count() > 1 && !(mode == Mode::Source && placed)
    }

    /// Whether neither this shard has room, nor another to which connections may go.
    fn has_nobody_with_room(&self) -> bool {
        let another = || self.steers() && self.steer.parts.another_is_open(self.shard.id().index());
        !self.queue.admits() && (self.all_crowded || !another())
    }

    /// The next connection; `None`: too many wait here, and another shard may have room; or the listener is left, and
    /// nobody is there.
    async fn next(&mut self) -> io::Result<Option<Offered>> {
        let spreads = self.steer.steering.mode.spreads() && self.shard.count() > 1;
        poll_fn(|cx| {
            let queue = &self.queue;
            let too_many = spreads && queue.has_too_many() && !queue.is_draining();
            if too_many || queue.refusal().is_some() && self.has_nobody_with_room() {
                return Poll::Ready(Ok(None));
            }
            queue.await_change(cx);
            match self.listener.poll_accept(cx) {
                Poll::Pending if queue.is_draining() => Poll::Ready(Ok(None)),
                accepted => accepted.map_ok(|incoming| Some(Offered::new(incoming))),
            }
        })
        .await
    }

    /// Hands on what waits here for a place that another shard has.
    fn spread(&mut self) {
        let me = self.shard.id();
        while self.queue.has_too_many()
            && self.steer.parts.another_is_open(me.index())
            && !self.all_crowded
            && let Some(incoming) = self.queue.pop()
        {
            self.give_to_owner_or_whoever(me, incoming);
        }
    }

    fn route(&mut self, incoming: Offered) {
        let me = self.shard.id();
        let owner = self.steer.owner(&incoming, me, self.shard.count());
        if owner.is_some_and(|owner| owner != me) {
            self.queue.counters.count(|counted| &mut counted.misplaced);
        }
        match owner {
            Some(owner) if self.steer.steering.mode == Mode::Source => self.give_to_owner(owner, incoming),
            Some(owner) => self.give_to_owner_or_whoever(owner, incoming),
            None if self.steer.steering.mode.passes_on() => self.give_to_owner_or_whoever(me, incoming),
            None => self.keep(me, incoming),
        }
    }

    /// In mode `source` a client has one shard, and nobody else serves it while that one lives.
    fn give_to_owner(&self, owner: ShardId, incoming: Offered) {
        if owner == self.shard.id() {
            return self.keep(owner, incoming);
        }
        match self.steer.to.try_send(owner, incoming) {
            Ok(()) => self.queue.counters.count(|counted| &mut counted.handed_over),
            Err(TrySendError::Full(incoming)) => self.hand_over_when_there_is_room(owner, incoming),
            Err(TrySendError::Closed(incoming)) => self.keep(owner, incoming),
        }
    }

    /// A busy owner's connection is better served by whoever has time; a shard that has ended owns nothing.
    fn give_to_owner_or_whoever(&mut self, owner: ShardId, mut incoming: Offered) {
        let me = self.shard.id();
        self.all_crowded = false;
        let can_take = |shard: ShardId, parts: &Parts| {
            parts.is(shard.index(), Part::Open) || (shard == owner && parts.is(shard.index(), Part::Unopened))
        };
        for shard in [owner, me].into_iter().chain(self.shard.ids()) {
            if shard == me && self.queue.has_room() {
                return self.keep(owner, incoming);
            }
            if shard == me || !can_take(shard, &self.steer.parts) {
                continue;
            }
            incoming.count_for(&self.steer.parts, shard.index());
            incoming = match self.steer.to.try_send(shard, incoming) {
                Ok(()) => return self.queue.counters.count(|counted| &mut counted.handed_over),
                Err(TrySendError::Full(incoming) | TrySendError::Closed(incoming)) => incoming,
            };
        }
        self.all_crowded = true;
        self.keep(owner, incoming);
    }

    /// Serves a connection here, unless far too many wait here already.
    fn keep(&self, owner: ShardId, mut incoming: Offered) {
        incoming.count_for(&self.steer.parts, self.shard.id().index());
        let counters = &self.queue.counters;
        if self.queue.len() >= CROWD {
            return counters.count(|counted| &mut counted.crowded);
        }
        if owner != self.shard.id() {
            counters.count(|counted| &mut counted.kept);
        }
        self.queue.push(incoming);
    }

    fn hand_over_when_there_is_room(&self, owner: ShardId, incoming: Offered) {
        let (steer, queue, waiting) = (self.steer.clone(), self.queue.clone(), self.waiting.clone());
        if waiting.get() >= WAITING {
            return queue.counters.count(|counted| &mut counted.crowded);
        }
        waiting.set(waiting.get() + 1);
        let shard = self.shard.clone();
        shard.clone().spawn_detached("hand-off", async move {
            match select(pin!(steer.to.send(owner, incoming)), shard.stopping()).await {
                Either::Left((Ok(()), _)) => queue.counters.count(|counted| &mut counted.handed_over),
                Either::Left((Err(closed), _)) => {
                    queue.counters.count(|counted| &mut counted.kept);
                    queue.push(closed.0);
                }
                Either::Right(_) => queue.counters.count(|counted| &mut counted.dropped),
            }
            waiting.set(waiting.get() - 1);
        });
    }

    /// No descriptor is left: accepts what waits with the one held in reserve and resets it, so that nobody hangs.
    /// Answers whether anybody was told; if not, accepting must rest.
    async fn shed(&mut self, error: &io::Error) -> bool {
        let mut told = 0;
        let reactor = self.shard.reactor().clone();
        // Another thread may have taken one of the reserve; by now there may be another.
        self.reserve.refill(|| reactor.spare());
        while told < SHED_AT_ONCE && self.reserve.spend() {
            let accepted =
                poll_fn(|cx| Poll::Ready(self.listener.poll_accept(cx).map_ok(Offered::new))).await;
            let another = matches!(&accepted, Poll::Ready(Ok(_)));
            drop(accepted);
            self.reserve.refill(|| reactor.spare());
            if !another {
                break;
            }
            told += 1;
        }
        let counters = &self.queue.counters;
        counters.add(|counted| &mut counted.shed, told);
        counters.complain(&self.shard, "no descriptor is left, new connections are reset", error);
        if told > 0 {
            self.shard.yield_now().await;
        }
        told > 0
    }
}
