//! What a shard counts about its messages.

use super::member::Member;
use crate::shard::Shard;

/// A copy of a shard's counters of messages. Those of the calling shard only, hence without locks.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct MeshStats {
    /// How often the shard went to sleep.
    pub parks: u64,
    /// How often a bell woke it from that; never more often than it went to sleep.
    pub woken: u64,
    /// Bells of other shards that it rang: at most one a turn and target.
    pub rings: u64,
    /// Rings that woke their target.
    pub wakes: u64,
    /// By port, in the order of declaration, those that this shard uses.
    pub ports: Vec<PortStats>,
}

/// What passed through one port on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PortStats {
    /// The port's name.
    pub name: &'static str,
    /// Messages or requests sent.
    pub sent: u64,
    /// Messages received, or requests handled.
    pub received: u64,
}

impl Shard {
    /// A copy of the counters of this shard's messages. Allocates the list.
    pub fn mesh_stats(&self) -> MeshStats {
        Member::of(self).stats()
    }
}
