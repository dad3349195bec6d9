//! A shard's part of a rate: who waits here, and what tells the keeper of them.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use futures_util::future::select;

use super::state::State;
use super::{Declared, KeeperEnded, Note, Report, Share, TryTakeError};
use crate::mesh::calls::{Asker, Caller};
use crate::mesh::lease::in_use::Users;
use crate::mesh::lease::limit::Limit;
use crate::mesh::lease::tie::Tie;
use crate::mesh::member::Member;
use crate::mesh::nudge::Nudge;
use crate::mesh::waiters::{Place, Waiters};
use crate::shard::waiters::{Waiters as Bag, wait_until};
use crate::shard::{Shard, ShardId, Sleep, Task};

/// Lives on its shard as long as that.
pub(super) struct Holder {
    name: &'static str,
    shard: Shard,
    keeper: ShardId,
    state: RefCell<State>,
    tie: Tie,
    waiting: RefCell<Waiters>,
    nudge: Nudge,
    /// Who waits until all go by a limit.
    reaching: RefCell<Bag>,
    /// What tells the lease from others.
    over_for_good: Arc<AtomicBool>,
    users: Users,
    /// What reports.
    living: RefCell<Option<Task<()>>>,
}

impl Holder {
    pub(super) fn new(lease: &Declared, shard: &Shard) -> Holder {
        let keeper = ShardId::new(lease.keeper);
        let mut state = State::new(lease.limit, shard.count(), shard.turn_time());
        if Member::of(shard).ledger.life(shard.id().index()) > 0 {
            state = state.emptied();
        }
        Holder {
            name: lease.port.name(),
            shard: shard.clone(),
            keeper,
            state: RefCell::new(state),
            tie: Tie::new(shard, keeper),
            waiting: RefCell::new(Waiters::new()),
            nudge: Nudge::default(),
            reaching: RefCell::default(),
            over_for_good: lease.over.clone(),
            users: Users::default(),
            living: RefCell::default(),
        }
    }

    /// Starts what reports, and what hears of the keeper's end.
    pub(super) fn start(self: &Rc<Self>, lease: &Declared, caller: Caller<Note, Note>) {
        let living = self.shard.spawn("lease", self.clone().lives(lease.clone(), caller));
        self.living.replace(Some(living));
    }

    /// The lease is given up.
    pub(super) fn close(&self) {
        let living = self.living.take();
        living.into_iter().for_each(Task::cancel);
    }

    /// Limiters.
    pub(super) fn users(&self) -> &Users {
        &self.users
    }

    pub(super) fn limit(&self) -> Limit {
        self.state.borrow().newest()
    }

    pub(super) fn change_rate(&self, to: &Declared) {
        assert!(
            Arc::ptr_eq(&to.over, &self.over_for_good),
            "a rate of {:?} is none of {:?}",
            to.port.name(),
            self.name
        );
        self.state.borrow_mut().change_for_all(to.limit, self.shard.turn_time());
        self.nudge.nudge();
    }

    pub(super) async fn rate_reached(&self) {
        let limit = self.limit();
        let is_reached = || self.state.borrow().reached() >= limit;
        if !is_reached() {
            self.state.borrow_mut().await_all();
            self.nudge.nudge();
        }
        wait_until(&self.reaching, || is_reached().then_some(())).await;
    }

    pub(super) fn tie(&self) -> &Tie {
        &self.tie
    }

    pub(super) fn share(&self) -> u64 {
        self.state.borrow().share()
    }

    pub(super) fn try_take(&self) -> Result<(), TryTakeError> {
        if self.tie.is_lost() {
            return Err(TryTakeError::KeeperEnded(self.name));
        }
        if self.waiting.borrow().is_empty() && self.take_token() {
            return Ok(());
        }
        Err(TryTakeError::Empty(self.name))
    }

    pub(super) async fn take(&self) -> Result<(), KeeperEnded> {
        let mut wait = Wait { holder: self, place: None, timer: None };
        poll_fn(|cx| wait.poll(cx)).await
    }

    fn take_token(&self) -> bool {
        let (taken, is_news) = self.state.borrow_mut().try_take(self.shard.turn_time());
        if is_news {
            self.nudge.nudge();
        }
        taken
    }

    /// Through the lives of the keeper.
    async fn lives(self: Rc<Self>, lease: Declared, caller: Caller<Note, Note>) {
        let attach = || {
            let lease = Declared { limit: self.limit(), ..lease.clone() };
            move |there: &Shard| lease.attach_unless_over(there)
        };
        self.tie.follow(&self.shard, attach, async || self.reports(&caller).await, || self.lose()).await;
    }

    /// To one life of the keeper, until it fails.
    async fn reports(&self, caller: &Caller<Note, Note>) {
        loop {
            let (now, waits) = (self.shard.turn_time(), !self.waiting.borrow().is_empty());
            let next = {
                let mut state = self.state.borrow_mut();
                if waits {
                    state.waits(now);
                }
                state.next_report(now)
            };
            match next {
                Ok(report) => {
                    let told = caller.call(self.keeper, Note::Report(report)).await;
                    let Ok(Note::Share(share)) = told else { return };
                    self.tie.complete();
                    self.apply(share);
                }
                Err(Some(due)) => {
                    select(pin!(self.nudge.wished()), pin!(self.shard.sleep_until(due))).await;
                }
                Err(None) => self.nudge.wished().await,
            }
        }
    }

    /// The keeper tells it without being asked, and hears how things are.
    pub(super) fn told(&self, from: Asker, share: Share) -> Report {
        if !self.tie.is_with(from) {
            // Nobody waits for it: who said so has ended.
            return Report::default();
        }
        self.apply(share);
        let (now, mut state) = (self.shard.turn_time(), self.state.borrow_mut());
        if !self.waiting.borrow().is_empty() {
            state.waits(now);
        }
        state.report(now)
    }

    fn apply(&self, share: Share) {
        self.state.borrow_mut().apply(share, self.shard.turn_time());
        self.reaching.borrow_mut().wake_all();
        self.waiting.borrow().wake_first();
        self.nudge.nudge();
    }

    /// The keeper ended.
    fn lose(&self) {
        self.state.borrow_mut().lose(self.shard.turn_time());
        self.waiting.borrow().wake_all();
    }
}

/// A task that waits for a token; the first of them has a timer. Leaves the queue when it has got one or is dropped.
struct Wait<'a> {
    holder: &'a Holder,
    place: Option<Place>,
    timer: Option<Sleep>,
}

impl Wait<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), KeeperEnded>> {
        let holder = self.holder;
        loop {
            if holder.tie.is_lost() {
                return Poll::Ready(Err(KeeperEnded(holder.name)));
            }
            let first = holder.waiting.borrow().is_first(self.place.as_ref());
            if first && holder.take_token() {
                return Poll::Ready(Ok(()));
            }
            holder.waiting.borrow_mut().wait(&mut self.place, cx.waker());
            let due = if first { holder.state.borrow().next_token() } else { None };
            let Some(due) = due else {
                self.timer = None;
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| holder.shard.sleep_until(due));
            if timer.deadline() != due {
                timer.reset(due);
            }
            std::task::ready!(Pin::new(timer).poll(cx));
            self.timer = None;
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.holder.waiting.borrow_mut().leave(&mut self.place);
        }
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("name", &self.name)
            .field("state", &self.state.borrow())
            .finish_non_exhaustive()
    }
}
