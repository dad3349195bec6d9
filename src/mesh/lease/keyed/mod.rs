//! At most so many at once, and so many per second, for each of many keys: connections per client, jobs per tenant.
//!
//! Each key has a *home*, a shard that whoever takes names: as a rule a hash of the key does. That one counts it for all.
//!
//! * A take on the home sends nothing. On another shard it is a call, unless that shard alone has as many out as there may
//!   be. What comes back is told to the home in batches: while one is on its way the next one gathers.
//! * The home knows what each shard has. If a shard ends, what that had is taken back. If the home ends, its next life is
//!   told by each shard what that has; until then each shard goes by what it knows itself, so that nobody waits, and up to
//!   the limit may be out on each. Rates begin anew.
//! * Memory is taken for keys that something is out of, and for keys whose rate is in use, 65 536 of these on each shard at
//!   most: of more the one is forgotten whose burst is whole again first.
//! * A home that does not answer within a tenth of a second, or that 1 024 takes of one shard wait for, is not asked: each
//!   shard goes by what it has itself, and tells it later.
//!
//! Errors of the bound: while all homes answer never more than the limit is out. What came back is free some microseconds
//! later.

mod holder;
mod home;
mod rates;

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::mesh::calls::{CallOptions, CallPort};
use crate::mesh::hub::Mesh;
use crate::mesh::member::Member;
use crate::mesh::port::{DeclareError, OpenError};
use crate::shard::{Shard, ShardId};
use holder::Holder;
use home::Home;

/// Limits by keys, over all shards. Declared by itself, handed to each shard by clone; [`Shard::key_limiter`] is a shard's
/// end of it. Lives as long as the runtime.
pub struct KeyLease<K> {
    declared: Declared<K>,
}

/// What works for a lease knows of it.
struct Declared<K> {
    port: CallPort<Ask<K>, Told>,
}

/// What may be out of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// At once; `None`: any number, and nothing is counted.
    pub most: Option<u32>,
    /// How often.
    pub rate: Option<KeyRate>,
}

/// How often something may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRate {
    interval: Duration,
    burst: u32,
}

/// Why nothing was taken. Whoever the key stands for has enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// As many as may be are out.
    #[error("as many as may be at once are out")]
    TooMany,
    /// The rate is used up, and so is the burst.
    #[error("more were taken in this time than may be")]
    TooOften,
}

/// What a shard wants of a home.
enum Ask<K> {
    /// First of all: this shard, in this life, has nothing; what it has follows as changes.
    Hold,
    /// So many more of these keys are out there, or less.
    Change(Box<[(K, i64)]>),
    /// One more.
    Take(K, KeyLimits),
}

/// What a home answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It is done.
    Heard,
    Refused(KeyRefusal),
    /// That life of the shard has not said what it has.
    Stranger,
}

/// Takes that one shard may have on the way to one other.
const CREDITS: usize = 128;

impl<K: Ord + Copy + Send + 'static> KeyLease<K> {
    /// Limits for all shards of a runtime.
    ///
    /// # Errors
    /// The name is taken.
    pub fn declare(mesh: &Mesh, name: &'static str) -> Result<KeyLease<K>, DeclareError> {
        let port = CallPort::declare(mesh, name, CallOptions { credits: CREDITS })?;
        Ok(KeyLease { declared: Declared { port } })
    }
}

impl<K> KeyLease<K> {
    /// The name under which it was declared.
    pub fn name(&self) -> &'static str {
        self.declared.port.name()
    }
}

impl<K: Ord + Copy + Send + 'static> Declared<K> {
    /// This shard's end, made at its first use.
    fn attach(&self, shard: &Shard) -> Result<Rc<Holder<K>>, OpenError> {
        let (member, id) = (Member::of(shard), self.port.shared.id);
        let caller = shard.caller(&self.port)?;
        if let Some(holder) = member.part(id) {
            return Ok(holder);
        }
        let home = Home::new(shard);
        let holder = Rc::new(Holder::new(shard, caller, home.clone()));
        let asked = home.clone();
        shard.serve_askers(&self.port, move |from, ask| std::future::ready(asked.answer(from, ask)))?;
        member.keep_part(id, holder.clone());
        home.watch();
        holder.start(self);
        Ok(holder)
    }
}

impl Shard {
    /// This shard's end of limits by keys; any number of times.
    ///
    /// # Errors
    /// It belongs to another runtime.
    pub fn key_limiter<K: Ord + Copy + Send + 'static>(
        &self,
        lease: &KeyLease<K>,
    ) -> Result<KeyLimiter<K>, OpenError> {
        Ok(KeyLimiter { holder: lease.declared.attach(self)? })
    }
}

/// A shard's end of a [`KeyLease`]. Cheap to clone.
pub struct KeyLimiter<K: Ord + Copy + Send + 'static> {
    holder: Rc<Holder<K>>,
}

impl<K: Ord + Copy + Send + 'static> KeyLimiter<K> {
    /// Takes one, if that is within the limits. Takes of one key name the same `home` everywhere; limits may differ from one
    /// take to the next. What was taken while [`KeyLimits::most`] was `None` is not counted.
    ///
    /// On the home this is ready at once. Dropping the future takes none.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    ///
    /// # Panics
    /// If the runtime has no shard `home`.
    pub async fn take(
        &self,
        home: ShardId,
        key: K,
        limits: KeyLimits,
    ) -> Result<Option<KeyPermit<K>>, KeyRefusal> {
        self.holder.take(home, key, limits).await
    }

    /// How many of a key are out: over all shards if this is its home, else of this shard alone.
    pub fn count(&self, home: ShardId, key: K) -> u64 {
        self.holder.count(home, key)
    }

    /// Of how many keys that other shards count something is out here, and of how many of them these do not know the newest.
    pub fn far_keys(&self) -> (usize, usize) {
        self.holder.far_keys()
    }
}

/// One of a key. Dropping it gives it back.
#[must_use = "dropping it gives it back"]
pub struct KeyPermit<K: Ord + Copy + Send + 'static> {
    holder: Rc<Holder<K>>,
    home: ShardId,
    key: K,
}

impl<K: Ord + Copy + Send + 'static> Drop for KeyPermit<K> {
    fn drop(&mut self) {
        self.holder.put_back(self.home, self.key);
    }
}

impl<K> Clone for KeyLease<K> {
    fn clone(&self) -> KeyLease<K> {
        KeyLease { declared: self.declared.clone() }
    }
}

impl<K> Clone for Declared<K> {
    fn clone(&self) -> Declared<K> {
        Declared { port: self.port.clone() }
    }
}

impl<K: Ord + Copy + Send + 'static> Clone for KeyLimiter<K> {
    fn clone(&self) -> KeyLimiter<K> {
        KeyLimiter { holder: self.holder.clone() }
    }
}

impl<K> fmt::Debug for KeyLease<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLease").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl<K: Ord + Copy + Send + 'static> fmt::Debug for KeyLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.holder.fmt(f)
    }
}

impl<K: Ord + Copy + Send + 'static> fmt::Debug for KeyPermit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPermit").field("home", &self.home).finish_non_exhaustive()
    }
}
