//! A shard's part of a count: what it uses, what it has besides, who waits here.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::select;
use waterwheel_reactor::Time;

use super::{Ask, Declared, KeeperEnded, Told, TryTakeError};
use crate::mesh::calls::{Asker, Caller};
use crate::mesh::lease::in_use::{InUse, Users};
use crate::mesh::lease::limit::Limit;
use crate::mesh::lease::tie::Tie;
use crate::mesh::nudge::Nudge;
use crate::mesh::waiters::{Place, Waiters};
use crate::shard::waiters::{Waiters as Bag, wait_until};
use crate::shard::{Shard, ShardId, Task};

/// Who asks again before this has passed is busy, and asks for more at a time.
const BUSY: Duration = Duration::from_millis(100);

/// Lives on its shard as long as that or the lease, or as a permit.
pub(super) struct Holder {
    name: &'static str,
    /// What tells the lease from others.
    over_for_good: Arc<AtomicBool>,
    shard: Shard,
    keeper: ShardId,
    /// Permits that are out.
    taken: Cell<u64>,
    spare: Cell<u64>,
    /// Are to go back to the keeper.
    owed: Cell<u64>,
    /// Nothing is kept that is not used.
    pressed: Cell<bool>,
    /// More is out than may be: nothing is kept at all, also if somebody waits for it here.
    over: Cell<bool>,
    /// The number of the keeper's telling that said so, or not.
    heard: Cell<u64>,
    /// The newest that this shard knows of.
    limit: Cell<Limit>,
    /// That, while the keeper is to be told, or asked whether all shards have it.
    telling: Cell<Limit>,
    /// All shards that are at work have this, or a newer one.
    reached: Cell<Limit>,
    reaching: RefCell<Bag>,
    /// A try found nothing since the last grant.
    missed: Cell<bool>,
    /// What is asked for besides what is needed.
    reserve: Cell<u64>,
    tie: Tie,
    waiting: RefCell<Waiters>,
    waiting_count: Cell<u64>,
    asks: Nudge,
    gives: Nudge,
    limits: Nudge,
    /// Limiters, and permits that are out.
    users: Users,
    /// What asks, gives back and tells.
    living: RefCell<Option<Task<()>>>,
}

impl Holder {
    pub(super) fn new(lease: &Declared, shard: &Shard) -> Holder {
        let keeper = ShardId::new(lease.keeper);
        // One that is newer than that of others reaches them by the keeper; the first is everybody's.
        let reached = if lease.limit.is_first() { lease.limit } else { Limit::default() };
        Holder {
            name: lease.port.name(),
            over_for_good: lease.over.clone(),
            shard: shard.clone(),
            keeper,
            taken: Cell::new(0),
            spare: Cell::new(0),
            owed: Cell::new(0),
            pressed: Cell::new(false),
            over: Cell::new(false),
            heard: Cell::new(0),
            limit: Cell::new(lease.limit),
            telling: Cell::default(),
            reached: Cell::new(reached),
            reaching: RefCell::default(),
            missed: Cell::new(false),
            reserve: Cell::new(1),
            tie: Tie::new(shard, keeper),
            waiting: RefCell::new(Waiters::new()),
            waiting_count: Cell::new(0),
            asks: Nudge::default(),
            gives: Nudge::default(),
            limits: Nudge::default(),
            users: Users::default(),
            living: RefCell::default(),
        }
    }

    /// Starts what asks, what gives back, and what hears of the keeper's end.
    pub(super) fn start(self: &Rc<Self>, lease: &Declared, caller: Caller<Ask, Told>) {
        let living = self.shard.spawn("lease", self.clone().lives(lease.clone(), caller));
        self.living.replace(Some(living));
    }

    /// The lease is given up.
    pub(super) fn close(&self) {
        let living = self.living.take();
        living.into_iter().for_each(Task::cancel);
    }

    /// One more limiter.
    pub(super) fn enter(&self, in_use: &Arc<InUse>) {
        self.users.enter(in_use);
    }

    /// The same where there is one.
    pub(super) fn enter_again(&self) {
        self.users.enter_again();
    }

    /// A limiter less.
    pub(super) fn leave(&self) {
        self.users.leave();
        self.settle_use();
    }

    fn settle_use(&self) {
        if self.taken.get() == 0 {
            self.users.settle();
        }
    }

    pub(super) fn tie(&self) -> &Tie {
        &self.tie
    }

    /// Through the lives of the keeper.
    async fn lives(self: Rc<Self>, lease: Declared, caller: Caller<Ask, Told>) {
        let attach = || {
            let lease = Declared { limit: self.limit.get(), ..lease.clone() };
            move |there: &Shard| lease.attach_unless_over(there)
        };
        self.tie.follow(&self.shard, attach, async || self.works(&caller).await, || self.lose()).await;
    }

    /// With one life of the keeper, until it fails.
    async fn works(&self, caller: &Caller<Ask, Told>) {
        // What comes back from now on is given back behind this.
        let hold = Ask::Hold(self.taken.get(), self.limit.get());
        let Ok(told) = caller.call(self.keeper, hold).await else { return };
        self.tie.complete();
        self.hear(told);
        let tells = pin!(self.tell(caller));
        select(tells, select(pin!(self.ask(caller)), pin!(self.give(caller)))).await;
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.get().most
    }

    pub(super) fn change_limit(&self, to: &Declared) {
        assert!(
            Arc::ptr_eq(&to.over, &self.over_for_good),
            "a limit of {:?} is none of {:?}",
            to.port.name(),
            self.name
        );
        if to.limit > self.limit.get() {
            self.limit.set(to.limit);
            self.telling.set(to.limit);
            self.limits.nudge();
        }
    }

    pub(super) async fn limit_reached(&self) {
        let limit = self.limit.get();
        let is_reached = || self.reached.get() >= limit;
        if !is_reached() {
            self.telling.set(self.telling.get().max(limit));
            self.limits.nudge();
        }
        wait_until(&self.reaching, || is_reached().then_some(())).await;
    }

    /// Tells the keeper of limits: of each once, and each of its lives.
    async fn tell(&self, caller: &Caller<Ask, Told>) {
        let mut said = Limit::default();
        loop {
            let limit = self.telling.get();
            if limit <= said.max(self.reached.get()) {
                self.limits.wished().await;
                continue;
            }
            let Ok(told) = caller.call(self.keeper, Ask::Limit(limit)).await else { return };
            if told.limit < limit {
                // It does not know this shard, and will be told what it holds once more.
                return;
            }
            said = limit;
            self.hear(told);
        }
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
            let even = (self.limit.get().most / (2 * self.shard.count() as u64)).max(1);
            self.reserve.set(if busy { reserve * 2 } else { reserve / 2 }.clamp(1, even));
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
    pub(super) fn recalled(&self, from: Asker, told: Told) -> Told {
        if !self.tie.is_with(from) {
            return Told::default();
        }
        self.heed(told);
        Told { count: self.take_surplus(), ..Told::default() }
    }

    fn hear(&self, told: Told) {
        self.heed(told);
        self.settle();
    }

    fn heed(&self, told: Told) {
        self.limit.set(self.limit.get().max(told.limit));
        if told.reached > self.reached.get() {
            self.reached.set(told.reached);
            self.reaching.borrow_mut().wake_all();
        }
        if told.number > self.heard.get() {
            self.heard.set(told.number);
            self.pressed.set(told.pressed);
            self.over.set(told.over);
        }
    }

    /// What is to go back to the keeper of that which is not out: what nobody here is about to take, or all.
    fn take_surplus(&self) -> u64 {
        let spare = self.spare.get();
        let kept = match (self.over.get(), self.pressed.get()) {
            (true, _) => 0,
            (false, true) => spare.min(self.waiting_count.get()),
            (false, false) => spare,
        };
        if self.over.get() && self.waiting_count.get() > 0 {
            // Who was about to take it stands in the keeper's queue like everybody.
            self.asks.nudge();
        }
        self.spare.set(kept);
        spare - kept
    }

    fn settle(&self) {
        let surplus = self.take_surplus();
        if surplus > 0 {
            self.owe(surplus);
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
        self.settle_use();
    }

    /// Nothing counts any more but the permits that are out.
    fn lose(&self) {
        self.spare.set(0);
        self.owed.set(0);
        self.heard.set(0);
        self.pressed.set(false);
        self.over.set(false);
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
