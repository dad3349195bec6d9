//! What the ends that a shard has open share among themselves.

use std::cell::Cell;
use std::sync::Arc;

use super::bell::{Bell, Life};
use super::hub::Mesh;
use super::set::ShardSet;
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// A shard's notes between and within its turns: whom to ring, whom to look at, who ended.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The shard's number.
    pub(super) id: usize,
    pub(super) mesh: Arc<Mesh>,
    /// The shard's own, which it looks at in every turn.
    bell: Arc<Bell>,
    /// How many turns began. Budgets are per turn.
    turn: Cell<u64>,
    /// Shards to ring at the end of this turn.
    to_ring: ShardSet,
    /// Sources to look at in the next turn, rung or not: those whose budget ended, and the shard itself.
    pub(super) to_look: ShardSet,
    /// Some end has tasks that wait for the next turn's budget.
    renew: Cell<bool>,
    /// Shards known to have ended.
    ended: ShardSet,
    /// By shard: which of its lives this one has to do with, as far as it knows.
    lives: Box<[Cell<u32>]>,
    /// This shard takes part. Not yet in a next life whose end before not everybody knows of.
    open: Cell<bool>,
    /// This shard ended: its ends answer `Closed`.
    retired: Cell<bool>,
    /// How often this shard went to sleep.
    pub(super) parks: Cell<u64>,
    /// Bells of other shards that it rang.
    pub(super) rings: Cell<u64>,
    /// Rings that woke their target.
    pub(super) wakes: Cell<u64>,
}

/// How another shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    AtWork,
    Ended,
    /// It had ended, and is in a new life.
    Back,
}

impl Ledger {
    pub(super) fn new(mesh: Arc<Mesh>, id: usize) -> Ledger {
        let shards = mesh.shards();
        let lives = (0..shards).map(|shard| Cell::new(mesh.bell(shard).life().number)).collect();
        let bell = mesh.bell(id).clone();
        Ledger {
            id,
            open: Cell::new(!bell.has_ended()),
            bell,
            mesh,
            turn: Cell::new(0),
            to_ring: ShardSet::new(shards),
            to_look: ShardSet::new(shards),
            renew: Cell::new(false),
            ended: ShardSet::new(shards),
            lives,
            retired: Cell::new(false),
            parks: Cell::new(0),
            rings: Cell::new(0),
            wakes: Cell::new(0),
        }
    }

    /// Whether this shard takes part: messages are looked at and sent, and a ring wakes it.
    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Everybody knows of the end of the life before: takes part again.
    pub(super) fn reopen(&self) {
        self.mesh.reopen(self.id);
        self.lives[self.id].set(self.bell.life().number);
        self.open.set(true);
        self.to_look.fill();
    }

    /// The shard's own bell.
    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Begins a turn.
    pub(super) fn begin_turn(&self) {
        self.turn.set(self.turn.get() + 1);
    }

    /// The number of this turn.
    pub(super) fn turn(&self) -> u64 {
        self.turn.get()
    }

    /// Something was done that concerns `target`, which learns of it when the turn ends.
    pub(super) fn will_ring(&self, target: usize) {
        self.to_ring.insert(target);
    }

    /// As [`will_ring`](Ledger::will_ring), for all shards.
    pub(super) fn will_ring_all(&self) {
        self.to_ring.fill();
    }

    /// The end of a turn: rings each shard once. To itself a shard needs no bell.
    pub(super) fn ring(&self) {
        while let Some(target) = self.to_ring.first_from(0) {
            self.to_ring.remove(target);
            if target == self.id {
                self.to_look.insert(target);
                continue;
            }
            let answer = self.mesh.bell(target).ring(self.id);
            self.rings.set(self.rings.get() + 1);
            self.wakes.set(self.wakes.get() + u64::from(answer.woke));
            if answer.stopped {
                #[cfg(loom)]
                if broken(Break::SenderNeverSweeps) {
                    continue;
                }
                // What it sent before it ended is received first, then what waits for it fails; both in the next turn.
                self.ended.insert(target);
                self.to_look.insert(target);
            }
        }
    }

    /// Nothing is left over from this turn, as far as messages are concerned.
    pub(super) fn is_settled(&self) -> bool {
        #[cfg(loom)]
        if broken(Break::CarryForgotten) {
            return true;
        }
        self.to_look.is_empty() && !self.renew.get() && self.to_ring.is_empty()
    }

    /// Some tasks wait for the next turn's budget.
    pub(super) fn ask_renewal(&self) {
        self.renew.set(true);
    }

    /// Whether that was so, once.
    pub(super) fn take_renewal(&self) -> bool {
        self.renew.take()
    }

    /// How `shard` stands, asked before its lanes are drained.
    pub(super) fn learn(&self, shard: usize) -> Standing {
        if self.retired.get() {
            return Standing::Ended;
        }
        // It comes back only when this shard has said that it knows of its end; or when it need not, having ended then
        // itself. So of a life that it never saw this shard has nothing but what that sent.
        let Life { number, is_over } = self.mesh.bell(shard).life();
        let is_new = self.lives[shard].replace(number) != number;
        // A ring may have been answered with the end before that is to be seen here.
        if is_over || (self.ended.contains(shard) && !is_new) {
            self.ended.insert(shard);
            return Standing::Ended;
        }
        self.ended.remove(shard);
        if is_new { Standing::Back } else { Standing::AtWork }
    }

    /// Which of its lives `shard` is in, or was before it ended, as far as this one knows.
    pub(super) fn life(&self, shard: usize) -> u32 {
        self.lives[shard].get()
    }

    /// Which of its lives this shard is in.
    pub(super) fn own_life(&self) -> u32 {
        self.life(self.id)
    }

    /// All that this shard had to do with the life of `shard` that ended is settled.
    pub(super) fn settled_with(&self, shard: usize) {
        self.mesh.acknowledge(shard, self.id, self.lives[shard].get());
    }

    /// Whether `shard` is known to have ended. For this shard itself: whether it is over.
    pub(super) fn has_ended(&self, shard: usize) -> bool {
        self.ended.contains(shard) || self.retired.get()
    }

    /// This shard is over; its ends answer `Closed` from now on.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }
}
