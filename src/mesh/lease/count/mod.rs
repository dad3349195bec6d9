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
//!
//! Errors of the bound: none; never more than the limit is out. But [`CountLimiter::try_take`] may find nothing while
//! other shards hold reserves: what it then asks for is there some microseconds later.

mod holder;
mod keeper;

use std::fmt;
use std::rc::Rc;

use super::{KeeperEnded, TryTakeError, check_limit, keeper_of};
use crate::mesh::calls::{CallOptions, CallPort, Caller};
use crate::mesh::hub::Mesh;
use crate::mesh::member::Member;
use crate::mesh::port::{DeclareError, OpenError};
use crate::shard::{Shard, ShardId};
use holder::Holder;
pub use holder::Permit;
use keeper::Keeper;

/// A limit of things at once over all shards. Declared before they start, handed to each by clone;
/// [`Shard::count_limiter`] is a shard's end of it.
#[derive(Clone)]
pub struct CountLease {
    port: CallPort<Ask, Told>,
    limit: u64,
    keeper: usize,
}

/// What a shard and the keeper want of each other.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Of the keeper: so many, or some of them; waits for the first.
    Take(u64),
    /// The keeper has these back.
    Give(u64),
    /// To a life of the keeper, first of all: so many permits of this shard are out.
    Hold(u64),
    /// Of a shard: what it does not use, now and from now on. The number of the telling.
    Recall(u64),
}

/// How many, and from the keeper: whether others wait, with the number of the telling, since of two that overtook each
/// other the later one counts.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    count: u64,
    pressed: bool,
    number: u64,
}

/// Between a shard and the keeper: a take, a return and a recall at once.
const CREDITS: usize = 4;

impl CountLease {
    /// A limit for all shards of a runtime, before they start.
    ///
    /// # Errors
    /// The name is taken, or the limit is none.
    pub fn declare(mesh: &Mesh, name: &'static str, limit: u64) -> Result<CountLease, DeclareError> {
        let limit = check_limit(name, limit)?;
        let port = CallPort::declare(mesh, name, CallOptions { credits: CREDITS })?;
        let keeper = keeper_of(mesh, port.shared.id);
        Ok(CountLease { port, limit, keeper })
    }

    /// The name under which it was declared.
    pub fn name(&self) -> &'static str {
        self.port.name()
    }

    /// The most that may be out at once.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The shard that keeps it.
    pub fn keeper(&self) -> ShardId {
        ShardId::new(self.keeper)
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
        let served = holder.clone();
        shard.serve_askers(&self.port, move |from, ask| {
            let (holder, keeper) = (served.clone(), keeper.clone());
            async move {
                match (ask, keeper) {
                    (Ask::Recall(number), _) => holder.recalled(from, number),
                    (Ask::Take(count), Some(keeper)) => keeper.take(from, count).await,
                    (Ask::Give(count), Some(keeper)) => keeper.returned(from, count),
                    (Ask::Hold(count), Some(keeper)) => keeper.holds(from, count),
                    // Asked of a shard that is not the keeper, which nobody does.
                    (Ask::Take(_) | Ask::Give(_) | Ask::Hold(_), None) => Told::default(),
                }
            }
        })?;
        member.keep_part(id, holder.clone());
        holder.start(self, caller);
        Ok(holder)
    }
}

impl Shard {
    /// This shard's end of a limit of things at once; any number of times.
    ///
    /// # Errors
    /// It belongs to another runtime.
    pub fn count_limiter(&self, lease: &CountLease) -> Result<CountLimiter, OpenError> {
        Ok(CountLimiter { holder: lease.attach(self)? })
    }
}

/// A shard's end of a [`CountLease`]. Cheap to clone.
#[derive(Clone)]
pub struct CountLimiter {
    holder: Rc<Holder>,
}

impl CountLimiter {
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

impl fmt::Debug for CountLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountLease")
            .field("name", &self.name())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CountLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.holder.fmt(f)
    }
}
