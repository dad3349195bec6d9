//! At most so many at once, over all shards.
//!
//! The keeper knows how much each shard holds, used or not, and what is free; both together are always the limit.
//!
//! * A shard that has nothing left asks for what its takers need and a reserve. The reserve doubles while it asks more
//!   often than every 100 ms, up to an even half share (the limit / twice the shards), and halves otherwise: so the
//!   messages of a busy shard get few, and a quiet one holds little.
//! * What is free is given to those who ask, in the order of asking, an even part to each and one at least.
//! * If nothing is free, all holders are *pressed*: they return at once what they do not use, and each permit when it
//!   is dropped, also if tasks of their own wait for it: those stand in the keeper's queue like everybody's. So no
//!   shard starves: between two grants to one shard, each that waits gets one.
//!
//! * A shard that ends held nothing any more, and begins its next life with nothing. If the keeper ends, takes fail until
//!   it is back; permits stay good. Its next life asks every shard that is at work how many are out there, and gives
//!   nothing before all have said so.
//! * A limit has a number, and the greatest is the newest. A shard that changes it tells the keeper, and that all others;
//!   each tells it to the keeper's next life. Where more is out than the new limit, all spares are called in, also those
//!   that somebody waits for, and what comes back is given to nobody before less is out than the limit.
//! * The keeper goes by a limit as soon as it hears of it, and answers at once. That all shards go by it, it tells later to
//!   those who changed it: so a shard that is stuck in a turn holds up that word, and neither the limit nor the next one.
//! * A lease that nobody uses any more, neither by a value of it, nor by a limiter, nor by a permit, is given up: its name
//!   is free, and what the shards have of it is dropped.
//!
//! What holds at any moment, whoever is stuck or ends: what all shards have, used or not, is no more than the keeper counts
//! as held, since it counts what it grants before that is sent, and takes off what comes back. And while it grants, that is no
//! more than the newest limit that it has heard of. So what is out is at most the limit in force, or, while it changes, the
//! greatest of those between the last that all shards go by and the newest.
//!
//! Errors of that bound: none. But
//! [`CountLimiter::try_take`] may find nothing while other shards hold reserves: what it then asks for is there some
//! microseconds later.

mod holder;
mod keeper;

use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::sync::{Arc, Weak};

use super::in_use::InUse;
use super::limit::Limit;
use super::{KeeperEnded, TryTakeError, keeper_of};
use crate::mesh::calls::{CallOptions, CallPort, Caller};
use crate::mesh::hub::Mesh;
use crate::mesh::member::Member;
use crate::mesh::port::{DeclareError, OpenError};
use crate::shard::{Shard, ShardId};
use holder::Holder;
pub use holder::Permit;
use keeper::Keeper;

/// A limit of things at once over all shards. Declared before they start, handed to each by clone;
/// [`Shard::count_limiter`] is a shard's end of it. Given up when the last value of it is dropped, and all limiters and
/// permits are.
#[derive(Clone)]
pub struct CountLease {
    declared: Declared,
    in_use: Arc<InUse>,
}

/// Does not keep a lease from being given up.
#[derive(Clone)]
pub(crate) struct WeakCountLease {
    declared: Declared,
    in_use: Weak<InUse>,
}

/// What works for a lease knows of it.
#[derive(Clone)]
struct Declared {
    port: CallPort<Ask, Told>,
    limit: Limit,
    keeper: usize,
    /// It is given up.
    over: Arc<AtomicBool>,
}

/// What a shard and the keeper want of each other.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Of the keeper: so many, or some of them; waits for the first.
    Take(u64),
    /// The keeper has these back.
    Give(u64),
    /// To a life of the keeper, first of all: so many permits of this shard are out, and this is the newest limit that it
    /// knows.
    Hold(u64, Limit),
    /// Of the keeper: go by this limit, if it is newer, and say when all shards do.
    Limit(Limit),
    /// Of a shard: what it does not use, now and from now on; and that it go by the limit.
    Recall(Told),
}

/// How many, and from the keeper: how it stands, with the number of the telling, since of two that overtook each other the
/// later one counts.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    count: u64,
    /// Others wait, or more is out than may be.
    pressed: bool,
    /// More is out than may be.
    over: bool,
    number: u64,
    limit: Limit,
    /// All shards that are at work go by this, or a newer one.
    reached: Limit,
}

/// Between a shard and the keeper: a take, a return, a new limit and a recall at once.
const CREDITS: usize = 4;

impl CountLease {
    /// A limit for all shards of a runtime, before they start.
    ///
    /// # Errors
    /// The name is taken, or the limit is none.
    pub fn declare(mesh: &Arc<Mesh>, name: &'static str, limit: u64) -> Result<CountLease, DeclareError> {
        let limit = Limit::first(name, limit)?;
        let port = CallPort::declare(mesh, name, CallOptions { credits: CREDITS })?;
        let (id, over) = (port.shared.id, Arc::new(AtomicBool::new(false)));
        let in_use = Arc::new(InUse::new(mesh, id, &over));
        let declared = Declared { port, limit, keeper: keeper_of(mesh, id), over };
        Ok(CountLease { declared, in_use })
    }

    /// The same lease with another limit, newer than this one's. Nothing changes by that: it is to be given to a limiter
    /// of a shard ([`CountLimiter::change_limit`]), or to a shard that begins again.
    ///
    /// # Errors
    /// The limit is none.
    pub fn with_limit(&self, limit: u64) -> Result<CountLease, DeclareError> {
        let limit = self.declared.limit.next(self.name(), limit)?;
        Ok(CountLease { declared: Declared { limit, ..self.declared.clone() }, in_use: self.in_use.clone() })
    }

    /// The name under which it was declared.
    pub fn name(&self) -> &'static str {
        self.declared.port.name()
    }

    /// The most that may be out at once, by this value of it.
    pub fn limit(&self) -> u64 {
        self.declared.limit.most
    }

    /// The shard that keeps it.
    pub fn keeper(&self) -> ShardId {
        ShardId::new(self.declared.keeper)
    }

    /// A value that does not keep it.
    pub(crate) fn downgrade(&self) -> WeakCountLease {
        WeakCountLease { declared: self.declared.clone(), in_use: Arc::downgrade(&self.in_use) }
    }
}

impl WeakCountLease {
    /// The lease, if anybody uses it.
    pub(crate) fn upgrade(&self) -> Option<CountLease> {
        Some(CountLease { in_use: self.in_use.upgrade()?, declared: self.declared.clone() })
    }

    /// It is given up, and its name is free.
    pub(crate) fn is_over(&self) -> bool {
        self.declared.over.load(Acquire)
    }

    /// The name under which it was declared.
    pub(crate) fn name(&self) -> &'static str {
        self.declared.port.name()
    }
}

impl Declared {
    /// This shard's end, if the lease is not given up: whoever is about to do this does not hold it.
    fn attach_unless_over(&self, shard: &Shard) {
        if !self.over.load(Acquire) {
            drop(self.attach(shard));
        }
    }

    /// This shard's end, made at its first use.
    fn attach(&self, shard: &Shard) -> Result<Rc<Holder>, OpenError> {
        let (member, id) = (Member::of(shard), self.port.shared.id);
        let caller: Caller<Ask, Told> = shard.caller(&self.port)?;
        if let Some(holder) = member.part(id) {
            return Ok(holder);
        }
        let holder = Rc::new(Holder::new(self, shard));
        let keeper = (shard.id().index() == self.keeper).then(|| Keeper::new(self, shard, caller.clone()));
        if let Some(keeper) = &keeper {
            keeper.watch(self);
        }
        let (served, kept) = (holder.clone(), keeper.clone());
        shard.serve_askers(&self.port, move |from, ask| {
            let (holder, keeper) = (served.clone(), kept.clone());
            async move {
                match (ask, keeper) {
                    (Ask::Recall(told), _) => holder.recalled(from, told),
                    (Ask::Take(count), Some(keeper)) => keeper.take(from, count).await,
                    (Ask::Give(count), Some(keeper)) => keeper.returned(from, count),
                    (Ask::Hold(count, limit), Some(keeper)) => keeper.holds(from, count, limit),
                    (Ask::Limit(limit), Some(keeper)) => keeper.limited(from, limit),
                    // Asked of a shard that is not the keeper, which nobody does.
                    (_, None) => Told::default(),
                }
            }
        })?;
        let ending = holder.clone();
        member.keep_part_until(id, holder.clone(), &self.over, move || {
            ending.close();
            keeper.iter().for_each(|keeper| keeper.close());
        });
        holder.start(self, caller);
        Ok(holder)
    }
}

impl Shard {
    /// This shard's end of a limit of things at once; any number of times. The limit stays what it is on this shard: if the
    /// value has another one, that is taken up by [`CountLimiter::change_limit`]. Only the first end of a shard's life
    /// begins with the value's own.
    ///
    /// # Errors
    /// It belongs to another runtime.
    pub fn count_limiter(&self, lease: &CountLease) -> Result<CountLimiter, OpenError> {
        Ok(CountLimiter::new(lease.declared.attach(self)?, &lease.in_use))
    }
}

/// A shard's end of a [`CountLease`]. Cheap to clone.
pub struct CountLimiter {
    holder: Rc<Holder>,
}

impl CountLimiter {
    fn new(holder: Rc<Holder>, in_use: &Arc<InUse>) -> CountLimiter {
        holder.enter(in_use);
        CountLimiter { holder }
    }

    /// From now on the limit is that of this value of the lease, if it is the newest; else it stays as it is. Never waits:
    /// the keeper hears of it, and all other shards by that. Where more is out than the new limit nothing is given before
    /// less is.
    ///
    /// A program whose shards may be restarted gives each life of them the newest value: a limit is forgotten if all that
    /// know of it end at once.
    ///
    /// # Panics
    /// If it is another lease.
    pub fn change_limit(&self, to: &CountLease) {
        self.holder.change_limit(&to.declared);
    }

    /// Waits until all shards that are at work go by the limit that this one knows of: from then on nothing is given before
    /// less is out than that, whoever asks. For ever if the keeper has ended and never comes back, and as long as a shard is
    /// stuck in a turn; the next change does not wait for that.
    pub async fn limit_reached(&self) {
        self.holder.limit_reached().await;
    }

    /// The limit, as this shard knows it.
    pub fn limit(&self) -> u64 {
        self.holder.limit()
    }

    /// Takes one if this shard has one and nobody here waits for it. Sends no message if it has.
    ///
    /// # Errors
    /// [`TryTakeError`]; if there is none, more are asked for.
    pub fn try_take(&self) -> Result<Permit, TryTakeError> {
        self.holder.clone().try_take()
    }

    /// Takes one; waits for it, behind those who wait already. Dropping the future takes none.
    ///
    /// # Errors
    /// The keeper ended, and no next life of it has answered yet.
    pub async fn take(&self) -> Result<Permit, KeeperEnded> {
        self.holder.clone().take().await
    }

    /// Waits until somebody keeps the limit: at once unless the keeper ended; for ever if it never comes back.
    pub async fn kept(&self) {
        self.holder.tie().restored().await;
    }

    /// How many permits of this shard are out.
    pub fn taken(&self) -> u64 {
        self.holder.taken()
    }

    /// How many this shard holds besides.
    pub fn spare(&self) -> u64 {
        self.holder.spare()
    }
}

impl Clone for CountLimiter {
    fn clone(&self) -> CountLimiter {
        self.holder.enter_again();
        CountLimiter { holder: self.holder.clone() }
    }
}

impl Drop for CountLimiter {
    fn drop(&mut self) {
        self.holder.leave();
    }
}

impl fmt::Debug for CountLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountLease")
            .field("name", &self.name())
            .field("limit", &self.limit())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WeakCountLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakCountLease").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl fmt::Debug for CountLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.holder.fmt(f)
    }
}
