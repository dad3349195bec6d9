//! What ties a shard to the keeper of a lease, through the lives of both.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::mesh::calls::Asker;
use crate::mesh::member::Member;
use crate::mesh::waiters::{Place, Waiters};
use crate::shard::{Shard, ShardId};

/// The keeper is there and something went wrong all the same: its handler panicked. After so long it is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// A shard belongs to one life of the keeper. That it ended is known before a next life can be heard of, so that what
/// was granted by the one is never used beside what the other grants.
pub(super) struct Tie {
    member: Rc<Member>,
    keeper: ShardId,
    /// The life of the keeper that this shard has begun to tell what it has.
    life: Cell<Option<u32>>,
    /// That life has answered.
    tied: Cell<bool>,
    /// The keeper ended, and no next life of it has answered.
    lost: Cell<bool>,
    waiting: RefCell<Waiters>,
}

impl Tie {
    pub(super) fn new(shard: &Shard, keeper: ShardId) -> Tie {
        Tie {
            member: Member::of(shard),
            keeper,
            life: Cell::new(None),
            tied: Cell::new(false),
            lost: Cell::new(false),
            waiting: RefCell::new(Waiters::new()),
        }
    }

    /// Waits until the keeper is at work; which of its lives it is in.
    pub(super) async fn keeper_at_work(&self, shard: &Shard) -> u32 {
        shard.opened(self.keeper).await;
        self.member.ledger.life(self.keeper.index())
    }

    fn keeper_is_in(&self, life: u32) -> bool {
        let (ledger, keeper) = (&self.member.ledger, self.keeper.index());
        !ledger.has_ended(keeper) && ledger.life(keeper) == life
    }

    /// This shard begins to tell that life of the keeper what it has.
    pub(super) fn begin(&self, life: u32) {
        self.life.set(Some(life));
    }

    /// That was answered.
    pub(super) fn complete(&self) {
        if !self.tied.replace(true) {
            self.lost.set(false);
            self.waiting.borrow().wake_all();
        }
    }

    /// Nothing that was granted counts any more.
    pub(super) fn cut(&self) {
        self.life.set(None);
        self.tied.set(false);
        self.lost.set(true);
    }

    /// After it was cut: waits where the keeper has not ended.
    pub(super) async fn pause(&self, shard: &Shard, life: u32) {
        if self.keeper_is_in(life) {
            shard.sleep(AGAIN).await;
        }
    }

    /// The keeper ended, and no next life has answered. Known as soon as the end is.
    pub(super) fn is_lost(&self) -> bool {
        let life = || match self.life.get() {
            Some(life) => !self.keeper_is_in(life),
            None => self.member.ledger.has_ended(self.keeper.index()),
        };
        self.lost.get() || life()
    }

    /// What this shard has is known to the keeper, or on its way.
    pub(super) fn is_known(&self) -> bool {
        self.life.get().is_some_and(|life| self.keeper_is_in(life))
    }

    /// Whether this is the keeper's word, in the life that counts.
    pub(super) fn is_with(&self, from: Asker) -> bool {
        from.shard == self.keeper.index() && self.is_known() && self.life.get() == Some(from.life)
    }

    /// Waits until it is not lost.
    pub(super) async fn restored(&self) {
        let mut wait = Wait { tie: self, place: None };
        poll_fn(|cx| {
            if !self.is_lost() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().wait(&mut wait.place, cx.waker());
            Poll::Pending
        })
        .await;
    }
}

/// A place in the queue, left when the wait is over or given up.
struct Wait<'a> {
    tie: &'a Tie,
    place: Option<Place>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.tie.waiting.borrow_mut().leave(&mut self.place);
    }
}

impl fmt::Debug for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tie")
            .field("keeper", &self.keeper)
            .field("life", &self.life.get())
            .finish_non_exhaustive()
    }
}
