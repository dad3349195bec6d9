//! Leases: a limit over all shards, kept by one of them and handed out in batches, so that most takes send nothing.
//!
//! | declared | a shard's end | limits |
//! |---|---|---|
//! | [`CountLease`] | [`CountLimiter`] | how many at once: connections to an upstream, jobs, buffers |
//! | [`RateLease`] | [`RateLimiter`] | how many per second, over all shards |
//! | [`KeyLease`] | [`KeyLimiter`] | both for each of many keys: connections of each client |
//!
//! The keeper is one of the shards, another for each lease, or for each key ([its home](KeyLimiter::take)). If it ends, every taker is told ([`KeeperEnded`]); what is
//! out stays out, so the limit holds still. Where shards are restarted its next life first learns what is out, and takes go
//! on. If another shard ends, the keeper takes back what that had.
//!
//! Nothing expires by time: what a shard has stays its own while it is stuck in a turn, since nobody can know how much of
//! it is in use. The limit holds, and the others share what is left, until it answers or ends.
//!
//! A limit may be changed while it is in use ([`CountLimiter::change_limit`], [`RateLimiter::change_rate`]), and when nobody
//! uses a lease any more, all that the shards have of it is given up.

mod count;
mod in_use;
mod keyed;
mod limit;
mod rate;
mod tie;

pub(crate) use count::WeakCountLease;
pub use count::{CountLease, CountLimiter, Permit};
pub use keyed::{KeyLease, KeyLimiter, KeyLimits, KeyPermit, KeyRate, KeyRefusal};
pub(super) use limit::LIMIT_MAX;
pub use rate::{RateLease, RateLimiter};

use super::hub::Mesh;

/// The shard that kept the limit has ended, so that nobody can say what is left: until it is back, where shards are
/// restarted ([`CountLimiter::kept`], [`RateLimiter::kept`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard that kept the limit of {0:?} has ended")]
pub struct KeeperEnded(pub &'static str);

/// Why nothing could be taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryTakeError {
    /// This shard has nothing left, or others of its tasks wait already. It has asked for more.
    #[error("nothing is left of {0:?} here")]
    Empty(&'static str),
    /// See [`KeeperEnded`].
    #[error("the shard that kept the limit of {0:?} has ended")]
    KeeperEnded(&'static str),
}

/// The keepers of several leases are spread over the shards.
fn keeper_of(mesh: &Mesh, port: usize) -> usize {
    port % mesh.shards()
}
