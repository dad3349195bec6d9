//! A shard's part of a count: what it uses, what it has besides, who waits here.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::select;
use waterwheel_reactor::Time;

use super::{Ask, CountLease, KeeperEnded, Told, TryTakeError};
use crate::mesh::calls::{Asker, Caller};
use crate::mesh::lease::tie::Tie;
use crate::mesh::nudge::Nudge;
use crate::mesh::waiters::{Place, Waiters};
use crate::shard::{Shard, ShardId};

/// Who asks again before this has passed is busy, and asks for more at a time.
const BUSY: Duration = Duration::from_millis(100);

/// Lives on its shard as long as that, or as a permit.
pub(super) struct Holder {
    name: &'static str,
    shard: Shard,
    keeper: ShardId,
    /// Permits that are out.
    taken: Cell<u64>,
    spare: Cell<u64>,
    /// Are to go back to the keeper.
    owed: Cell<u64>,
    /// Other shards wait: nothing is kept that is not used.
    pressed: Cell<bool>,
    /// The number of the keeper's telling that said so, or not.
    heard: Cell<u64>,
    /// A try found nothing since the last grant.
    missed: Cell<bool>,
    /// What is asked for besides what is needed, and the most that it may be.
    reserve: Cell<u64>,
    reserve_max: u64,
    tie: Tie,
    waiting: RefCell<Waiters>,
    waiting_count: Cell<u64>,
    asks: Nudge,
    gives: Nudge,
}

impl Holder {
    pub(super) fn new(lease: &CountLease, shard: &Shard) -> Holder {
        Holder {
            name: lease.name(),
            shard: shard.clone(),
            keeper: lease.keeper(),
            taken: Cell::new(0),
            spare: Cell::new(0),
            owed: Cell::new(0),
            pressed: Cell::new(false),
            heard: Cell::new(0),
            missed: Cell::new(false),
            reserve: Cell::new(1),
            reserve_max: (lease.limit / (2 * shard.count() as u64)).max(1),
            tie: Tie::new(shard, lease.keeper()),
            waiting: RefCell::new(Waiters::new()),
            waiting_count: Cell::new(0),
            asks: Nudge::default(),
            gives: Nudge::default(),
        }
    }

    /// Starts what asks, what gives back, and what hears of the keeper's end.
    pub(super) fn start(self: &Rc<Self>, lease: &CountLease, caller: Caller<Ask, Told>) {
        self.shard.spawn_detached("lease", self.clone().lives(lease.clone(), caller));
    }

    pub(super) fn tie(&self) -> &Tie {
        &self.tie
    }

    /// Through the lives of the keeper.
    async fn lives(self: Rc<Self>, lease: CountLease, caller: Caller<Ask, Told>) {
        let attach = move |there: &Shard| drop(lease.attach(there));
        self.tie.follow(&self.shard, attach, async || self.works(&caller).await, || self.lose()).await;
    }

    /// With one life of the keeper, until it fails.
    async fn works(&self, caller: &Caller<Ask, Told>) {
        // What comes back from now on is given back behind this.
        let Ok(told) = caller.call(self.keeper, Ask::Hold(self.taken.get())).await else { return };
        self.tie.complete();
        self.hear(told);
        select(pin!(self.ask(caller)), pin!(self.give(caller))).await;
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.get()
    }

    pub(super) fn spare(&self) -> u64 {
        self.spare.get()
    }

    pub(super) fn try_take(self: Rc<Self>) -> Result<Permit, TryTakeError> {
        if self.tie.is_lost() {
            return Err(TryTakeError::KeeperEnded(self.name));
        }
        if self.waiting.borrow().is_empty() && self.take_spare() {
            return Ok(Permit { holder: self });
        }
        self.missed.set(true);
        self.asks.nudge();
        Err(TryTakeError::Empty(self.name))
    }

    pub(super) async fn take(self: Rc<Self>) -> Result<Permit, KeeperEnded> {
        let mut wait = Wait { holder: &self, place: None };
        poll_fn(|cx| wait.poll(cx)).await?;
        drop(wait);
        Ok(Permit { holder: self })
    }

    fn take_spare(&self) -> bool {
        let Some(rest) = self.spare.get().checked_sub(1) else { return false };
        self.spare.set(rest);
        self.taken.set(self.taken.get() + 1);
        true
    }

    /// How many are to be asked for; 0: none are wanted.
    fn wanted(&self) -> u64 {
        let needed = self.waiting_count.get().saturating_sub(self.spare.get());
        let missed = self.missed.get() && self.spare.get() == 0;
        if needed == 0 && !missed { 0 } else { needed + self.reserve.get() }
    }

    async fn ask(&self, caller: &Caller<Ask, Told>) {
        let mut asked = Time::ZERO;
        loop {
            let wanted = self.wanted();
            if wanted == 0 {
                self.asks.wished().await;
                continue;
            }
            let now = self.shard.now();
            let reserve = self.reserve.get();
            let busy = now.since(asked) < BUSY;
            self.reserve.set(if busy { reserve * 2 } else { reserve / 2 }.clamp(1, self.reserve_max));
            asked = now;
            let Ok(told) = caller.call(self.keeper, Ask::Take(wanted)).await else { return };
            self.missed.set(false);
            self.spare.set(self.spare.get() + told.count);
            self.hear(told);
            self.waiting.borrow().wake_first();
            // The next wish is for those whom this was not enough for: they get their turn first.
            self.shard.yield_now().await;
        }
    }

    async fn give(&self, caller: &Caller<Ask, Told>) {
        loop {
            let count = self.owed.take();
            if count == 0 {
                self.gives.wished().await;
                continue;
            }
            let Ok(told) = caller.call(self.keeper, Ask::Give(count)).await else { return };
            self.hear(told);
        }
    }

    /// The keeper wants what is not used.
    pub(super) fn recalled(&self, from: Asker, number: u64) -> Told {
        if !self.tie.is_with(from) {
            return Told::default();
        }
        if number > self.heard.get() {
            self.heard.set(number);
            self.pressed.set(true);
        }
        let count = self.idle();
        self.spare.set(self.spare.get() - count);
        Told { count, ..Told::default() }
    }

    fn hear(&self, told: Told) {
        if told.number > self.heard.get() {
            self.heard.set(told.number);
            self.pressed.set(told.pressed);
        }
        self.settle();
    }

    /// What nobody here is about to take.
    fn idle(&self) -> u64 {
        self.spare.get().saturating_sub(self.waiting_count.get())
    }

    /// Under pressure, nothing is kept that is not used.
    fn settle(&self) {
        let idle = self.idle();
        if self.pressed.get() && idle > 0 {
            self.spare.set(self.spare.get() - idle);
            self.owe(idle);
        }
    }

    fn owe(&self, count: u64) {
        self.owed.set(self.owed.get() + count);
        self.gives.nudge();
    }

    fn put_back(&self) {
        self.taken.set(self.taken.get() - 1);
        if !self.tie.is_known() {
            // The keeper has ended; its next life will not be told of this one.
        } else if self.pressed.get() || self.tie.is_lost() {
            // Also if somebody waits here: the keeper's queue decides who is next.
            self.owe(1);
        } else {
            self.spare.set(self.spare.get() + 1);
            self.waiting.borrow().wake_first();
        }
    }

    /// Nothing counts any more but the permits that are out.
    fn lose(&self) {
        self.spare.set(0);
        self.owed.set(0);
        self.heard.set(0);
        self.pressed.set(false);
        self.missed.set(false);
        self.waiting.borrow().wake_all();
    }
}

/// One of so many. Dropping it gives it back.
#[must_use = "dropping it gives it back"]
pub struct Permit {
    holder: Rc<Holder>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.holder.put_back();
    }
}

/// A task that waits for a permit; leaves the queue when it has got one or is dropped.
struct Wait<'a> {
    holder: &'a Holder,
    place: Option<Place>,
}

impl Wait<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), KeeperEnded>> {
        let holder = self.holder;
        if holder.tie.is_lost() {
            return Poll::Ready(Err(KeeperEnded(holder.name)));
        }
        if holder.waiting.borrow().is_first(self.place.as_ref()) && holder.take_spare() {
            return Poll::Ready(Ok(()));
        }
        if self.place.is_none() {
            holder.waiting_count.set(holder.waiting_count.get() + 1);
        }
        holder.waiting.borrow_mut().wait(&mut self.place, cx.waker());
        holder.asks.nudge();
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.holder.waiting_count.set(self.holder.waiting_count.get() - 1);
            self.holder.waiting.borrow_mut().leave(&mut self.place);
            self.holder.settle();
        }
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountLimiter")
            .field("name", &self.name)
            .field("taken", &self.taken.get())
            .field("spare", &self.spare.get())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("of", &self.holder.name).finish()
    }
}
