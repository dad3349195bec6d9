//! What ties a shard to the keeper of a lease, through the lives of both.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;

use crate::mesh::calls::Asker;
use crate::mesh::member::Member;
use crate::shard::waiters::{Waiters, wait_until};
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
            waiting: RefCell::default(),
        }
    }

    /// Through the lives of the keeper, for ever: sees to it that it is attached, by what `attach` makes for each, `works`
    /// with it until that fails or it ends, and then `lose`s what it granted.
    pub(super) async fn follow<A: FnOnce(&Shard) + Send + 'static>(
        &self,
        shard: &Shard,
        attach: impl Fn() -> A,
        works: impl AsyncFn(),
        lose: impl Fn(),
    ) {
        loop {
            shard.opened(self.keeper).await;
            let life = self.member.ledger.life(self.keeper.index());
            let (ended, attach) = (shard.ended(self.keeper), attach());
            // The keeper need not have been here itself.
            let attached = shard.run_on(self.keeper, move |there: Shard| async move { attach(&there) });
            if attached.await.is_ok() {
                self.life.set(Some(life));
                select(pin!(works()), pin!(ended)).await;
            }
            self.life.set(None);
            self.tied.set(false);
            self.lost.set(true);
            lose();
            self.waiting.borrow_mut().wake_all();
            if self.keeper_is_in(life) {
                shard.sleep(AGAIN).await;
            }
        }
    }

    fn keeper_is_in(&self, life: u32) -> bool {
        let (ledger, keeper) = (&self.member.ledger, self.keeper.index());
        !ledger.has_ended(keeper) && ledger.life(keeper) == life
    }

    /// The keeper has answered what this shard told it.
    pub(super) fn complete(&self) {
        if !self.tied.replace(true) {
            self.lost.set(false);
            self.waiting.borrow_mut().wake_all();
        }
    }

    /// The life of the keeper that this shard has begun to tell what it has; `None`: none, or it ended.
    pub(super) fn life(&self) -> Option<u32> {
        self.life.get()
    }

    /// The keeper has answered, and is not known to have ended since.
    pub(super) fn is_tied(&self) -> bool {
        self.tied.get() && !self.is_lost()
    }

    /// Waits until the keeper has answered, or has ended.
    pub(super) async fn answered(&self) {
        wait_until(&self.waiting, || (self.is_tied() || self.is_lost()).then_some(())).await;
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
        wait_until(&self.waiting, || (!self.is_lost()).then_some(())).await;
    }
}

/// Tells of each end of another shard, in which of its lives it was; for ever.
pub(super) async fn each_end(shard: &Shard, of: ShardId, ended: impl Fn(u32)) {
    let member = Member::of(shard);
    loop {
        let life = member.ledger.life(of.index());
        shard.ended(of).await;
        ended(life);
        shard.opened(of).await;
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
