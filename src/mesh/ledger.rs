//! What the ends that a shard has open share among themselves.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use super::bell::{Bell, Life};
use super::hub::Mesh;
use super::set::ShardSet;
use super::wanted::{Bits, bit_of};
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// A shard's notes between and within its turns: whom to ring, whom to look at, who ended.
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
    /// By shard: the ports that it is to look at then.
    to_tell: Box<[Bits]>,
    /// Sources to look at in the next turn, rung or not: those whose budget ended, and the shard itself.
    pub(super) to_look: ShardSet,
    /// By source: the ports to look at then, besides those that it tells of itself.
    to_look_at: Box<[Bits]>,
    /// Ports with tasks that wait for the next turn's budget.
    renewing: Bits,
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
            to_tell: (0..shards).map(|_| Bits::default()).collect(),
            to_look: ShardSet::new(shards),
            to_look_at: (0..shards).map(|_| Bits::default()).collect(),
            renewing: Bits::default(),
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

    /// Something was done in a port that concerns `target`, which learns of it when the turn ends.
    #[inline]
    pub(super) fn will_ring(&self, target: usize, port: usize) {
        self.to_ring.insert(target);
        self.to_tell[target].insert(bit_of(port));
    }

    /// As [`will_ring`](Ledger::will_ring), for all shards.
    pub(super) fn will_ring_all(&self, port: usize) {
        (0..self.to_tell.len()).for_each(|target| self.will_ring(target, port));
    }

    /// In the next turn a port is looked at for what concerns `source`.
    pub(super) fn will_look(&self, source: usize, port: usize) {
        self.to_look.insert(source);
        self.to_look_at[source].insert(bit_of(port));
    }

    /// As [`will_look`](Ledger::will_look), for all sources.
    pub(super) fn will_look_at_all(&self, port: usize) {
        (0..self.to_look_at.len()).for_each(|source| self.will_look(source, port));
    }

    /// What is to be looked at for `source` now, by what it has told and by what was left over here: moved into a set.
    #[inline]
    pub(super) fn take_wanted(&self, source: usize, wanted: &Bits) {
        wanted.take_all_of(&self.to_look_at[source]);
        if source != self.id {
            self.mesh.wanted(source, self.id).take(wanted);
        }
    }

    /// The end of a turn: rings each shard once. To itself a shard needs no bell.
    pub(super) fn ring(&self) {
        while let Some(target) = self.to_ring.first_from(0) {
            self.to_ring.remove(target);
            if target == self.id {
                self.to_look.insert(target);
                self.to_look_at[target].take_all_of(&self.to_tell[target]);
                continue;
            }
            #[cfg(loom)]
            if broken(Break::WantedAfterRing) {
                self.mesh.bell(target).ring(self.id);
            }
            self.mesh.wanted(self.id, target).tell(&self.to_tell[target]);
            #[cfg(loom)]
            if broken(Break::WantedAfterRing) {
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
        self.to_look.is_empty() && self.renewing.is_empty() && self.to_ring.is_empty()
    }

    /// Some tasks of a port wait for the next turn's budget.
    pub(super) fn ask_renewal(&self, port: usize) {
        self.renewing.insert(bit_of(port));
    }

    /// The ports of which that was so: moved into a set.
    #[inline]
    pub(super) fn take_renewals(&self, ports: &Bits) {
        ports.take_all_of(&self.renewing);
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

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("id", &self.id).field("turn", &self.turn.get()).finish_non_exhaustive()
    }
}
