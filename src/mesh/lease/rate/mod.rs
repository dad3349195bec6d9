//! At most so many per second, over all shards.
//!
//! Each shard has a *share* of the rate and a small bucket that it fills (a token bucket), so that a take is a
//! subtraction. The shares are leased by the keeper and change as demand does:
//!
//! * A shard in use *reports* every 200 ms: what share it could use, whether it has too little, and what its bucket had
//!   no room for. The answer is its new share. What a content shard wants is what it used and a twentieth; a short one
//!   wants a quarter more than it used when it was fastest, and if it got that and is short still, all there is.
//! * The keeper divides max-min fair by what they want; what nobody wants goes to those who are short. A share is raised
//!   from what is free; if that is too little, the shares of others are lowered first (*pushed*), and count as lent
//!   until those have said that they are lower. So the shares never add up to more than the limit.
//! * What buckets had no room for comes back with the reports into the keeper's *pool*, and goes from there to those who
//!   are short: so headroom that is not used is not lost.
//! * A shard that is suddenly short, or has much that it does not need while others are short, says so at once, three
//!   times in a row and then every 400 ms; the keeper pushes as often as all words together leave room for.
//!
//! A shard that ends uses nothing any more, and begins its next life with an empty bucket. If the keeper ends, takes fail
//! until it is back: what it granted is void before its next life can grant anything.
//!
//! A rate has a number, and the greatest is the newest. A shard that changes it reports at once, and the keeper goes by it and
//! tells all others, each with its share; each tells it to the keeper's next life. From the moment at which all go by it and
//! their shares add up to no more, nothing of a former one is left, and who changed it may hear of that; until then the shares
//! add up to no more than the greatest rate of those since the last of which that was so. A shard that is stuck in a turn holds
//! up that word, and neither the rate nor the next one. What buckets and the pool hold above the room that they have at a
//! smaller rate is gone.
//!
//! A lease that nobody uses any more, neither by a value of it nor by a limiter, is given up: its name is free.
//!
//! Bounds of the error, for a limit of N per second over n shards:
//!
//! * More than allowed: from the start to any moment at most what that time allows and 1 % of a second's, with which the
//!   buckets begin. In a stretch of time in between, also what lay there unused: 1 % in the buckets, 1 % in the pool, and
//!   what shards got from the pool less than a period ago and did not take. And one per shard, since a bucket holds at
//!   least one.
//! * Less: below 1 % in steady demand, however uneven (floors of shards at rest, headroom beyond the pool). A move of
//!   demand from one shard to another costs what the old share makes in some 10 ms, less what the pool saves; moves of
//!   several shards at once, which need more words than may be said at once, cost up to a period of what moves. Within a
//!   second all have what they need.
//! * Messages, with answers: with up to 4 shards, at most a hundred in any second and 60 a second in the long run. With
//!   more the period grows, so that the long run is the same, though each may still speak three times in a row. None
//!   while nothing is taken. A change of the rate is told to each shard at once: some four for each.

mod bucket;
mod holder;
mod keeper;
mod pace;
mod state;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};

use super::in_use::InUse;
use super::limit::Limit;
use super::{KeeperEnded, TryTakeError, keeper_of};
use crate::mesh::calls::{CallOptions, CallPort, Caller};
use crate::mesh::hub::Mesh;
use crate::mesh::member::Member;
use crate::mesh::port::{DeclareError, OpenError};
use crate::shard::{Shard, ShardId};
use holder::Holder;
use keeper::Keeper;

/// A limit per second over all shards. Declared before they start, handed to each by clone; [`Shard::rate_limiter`] is
/// a shard's end of it. Given up when the last value of it is dropped, and all limiters are.
#[derive(Clone)]
pub struct RateLease {
    declared: Declared,
    in_use: Arc<InUse>,
}

/// What works for a lease knows of it.
#[derive(Clone)]
struct Declared {
    port: CallPort<Note, Note>,
    /// Tokens per second.
    limit: Limit,
    keeper: usize,
    /// It is given up.
    over: Arc<AtomicBool>,
}

/// What a shard and the keeper tell each other; either may begin.
#[derive(Clone, Copy, Debug)]
enum Note {
    Report(Report),
    Share(Share),
}

/// What a shard says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Report {
    /// The latest share that it has heard of.
    heard: u64,
    /// What it has now; no more than that.
    share: u64,
    /// What it could use, in millionths of a token per second.
    want: u64,
    /// It had too little.
    short: bool,
    /// What its bucket had no room for since the last report; in tokens.
    spilled: u64,
    /// It goes by this limit.
    limit: Limit,
    /// It wants to hear when all shards do.
    awaits: bool,
}

/// What the keeper says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    /// Grows with each to the same shard: of two that overtook each other the later one counts.
    number: u64,
    /// Tokens per second, in millionths.
    share: u64,
    /// Tokens beside, once.
    extra: u64,
    /// Others have too little.
    scarce: bool,
    /// To be gone by, if it is newer.
    limit: Limit,
    /// All shards that are at work go by this, or a newer one.
    reached: Limit,
}

/// Millionths of a token per second: shares of small limits are fractions.
const MILLION: u64 = 1_000_000;

/// A change of a share by less than this part of the limit is not worth two messages, and waits for the next report.
const LITTLE: u64 = 100;

/// Between a shard and the keeper: a report and a push at once.
const CREDITS: usize = 4;

impl RateLease {
    /// A limit for all shards of a runtime, before they start: so many tokens per second.
    ///
    /// # Errors
    /// The name is taken, or the limit is none.
    pub fn declare(mesh: &Arc<Mesh>, name: &'static str, per_second: u64) -> Result<RateLease, DeclareError> {
        let limit = Limit::first(name, per_second)?;
        let port = CallPort::declare(mesh, name, CallOptions { credits: CREDITS })?;
        let (id, over) = (port.shared.id, Arc::new(AtomicBool::new(false)));
        let in_use = Arc::new(InUse::new(mesh, id, &over));
        Ok(RateLease { declared: Declared { port, limit, keeper: keeper_of(mesh, id), over }, in_use })
    }

    /// The same lease with another rate, newer than this one's. Nothing changes by that: it is to be given to a limiter of a
    /// shard ([`RateLimiter::change_rate`]), or to a shard that begins again.
    ///
    /// # Errors
    /// The limit is none.
    pub fn with_rate(&self, per_second: u64) -> Result<RateLease, DeclareError> {
        let limit = self.declared.limit.next(self.name(), per_second)?;
        Ok(RateLease { declared: Declared { limit, ..self.declared.clone() }, in_use: self.in_use.clone() })
    }

    /// The name under which it was declared.
    pub fn name(&self) -> &'static str {
        self.declared.port.name()
    }

    /// Tokens per second, over all shards, by this value of it.
    pub fn per_second(&self) -> u64 {
        self.declared.limit.most
    }

    /// The shard that keeps it.
    pub fn keeper(&self) -> ShardId {
        ShardId::new(self.declared.keeper)
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
        let caller: Caller<Note, Note> = shard.caller(&self.port)?;
        if let Some(holder) = member.part(id) {
            return Ok(holder);
        }
        let holder = Rc::new(Holder::new(self, shard));
        let keeper = (shard.id().index() == self.keeper).then(|| Keeper::new(self, shard, caller.clone()));
        if let Some(keeper) = &keeper {
            keeper.watch();
        }
        let (served, kept) = (holder.clone(), keeper.clone());
        shard.serve_askers(&self.port, move |from, note| {
            std::future::ready(match (note, &keeper) {
                (Note::Report(report), Some(keeper)) => Note::Share(keeper.reported(from, report)),
                // Reported to a shard that is not the keeper, which nobody does.
                (Note::Report(_), None) => note,
                (Note::Share(share), _) => Note::Report(served.told(from, share)),
            })
        })?;
        let ending = holder.clone();
        member.keep_part_until(id, holder.clone(), &self.over, move || {
            ending.close();
            kept.iter().for_each(|keeper| keeper.close());
        });
        holder.start(self, caller);
        Ok(holder)
    }
}

impl Shard {
    /// This shard's end of a limit per second; any number of times. It has its first tokens when the keeper has
    /// answered, some turns later. The rate stays what it is on this shard: if the value has another one, that is taken up by
    /// [`RateLimiter::change_rate`]. Only the first end of a shard's life begins with the value's own.
    ///
    /// # Errors
    /// It belongs to another runtime.
    pub fn rate_limiter(&self, lease: &RateLease) -> Result<RateLimiter, OpenError> {
        let holder = lease.declared.attach(self)?;
        holder.users().enter(&lease.in_use);
        Ok(RateLimiter { holder })
    }
}

/// A shard's end of a [`RateLease`]. Cheap to clone.
pub struct RateLimiter {
    holder: Rc<Holder>,
}

impl RateLimiter {
    /// From now on the rate is that of this value of the lease, if it is the newest; else it stays as it is. Never waits: the
    /// keeper hears of it, and all other shards by that.
    ///
    /// A program whose shards may be restarted gives each life of them the newest value: the keeper's next life goes by what
    /// it was given itself until others tell it of a newer one, and a rate is forgotten if all that know of it end at once.
    ///
    /// # Panics
    /// If it is another lease.
    pub fn change_rate(&self, to: &RateLease) {
        self.holder.change_rate(&to.declared);
    }

    /// Waits until all shards that are at work go by the rate that this one knows of: from then on their shares add up to no
    /// more. For ever if the keeper has ended and never comes back, and as long as a shard is stuck in a turn; the next change
    /// does not wait for that.
    pub async fn rate_reached(&self) {
        self.holder.rate_reached().await;
    }

    /// Tokens per second over all shards, as this one knows it.
    pub fn per_second(&self) -> u64 {
        self.holder.limit().most
    }

    /// Takes a token if this shard has one and nobody here waits for it.
    ///
    /// # Errors
    /// [`TryTakeError`]; if there is none, a greater share is asked for.
    pub fn try_take(&self) -> Result<(), TryTakeError> {
        self.holder.try_take()
    }

    /// Takes a token; waits for it, behind those who wait already. Dropping the future takes none.
    ///
    /// # Errors
    /// The keeper ended, and no next life of it has answered yet.
    pub async fn take(&self) -> Result<(), KeeperEnded> {
        self.holder.take().await
    }

    /// Waits until somebody keeps the limit: at once unless the keeper ended; for ever if it never comes back.
    pub async fn kept(&self) {
        self.holder.tie().restored().await;
    }

    /// This shard's share of the limit now, in tokens per second.
    #[expect(clippy::cast_precision_loss, reason = "shares are below 2^50, and shown")]
    pub fn share(&self) -> f64 {
        self.holder.share() as f64 / MILLION as f64
    }
}

impl Clone for RateLimiter {
    fn clone(&self) -> RateLimiter {
        self.holder.users().enter_again();
        RateLimiter { holder: self.holder.clone() }
    }
}

impl Drop for RateLimiter {
    fn drop(&mut self) {
        let users = self.holder.users();
        users.leave();
        users.settle();
    }
}

impl fmt::Debug for RateLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLease")
            .field("name", &self.name())
            .field("per_second", &self.per_second())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.holder.fmt(f)
    }
}
