//! The number of a shard.

use std::fmt;
use std::ops::Range;

/// The number of a shard: from 0, without gaps, the same in every run with as many shards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The shard with this number. Whether a run has it is checked where the id is used.
    ///
    /// # Panics
    /// Above 65 535: no machine has as many cores.
    pub fn new(index: usize) -> ShardId {
        ShardId(u16::try_from(index).expect("at most 65 536 shards"))
    }

    /// Its number.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

/// Which of `total` things, numbered from 0, are one shard's of so many: as evenly as whole numbers allow; the first
/// shards have one more.
///
/// # Panics
/// If `shard` is not below `shards`.
pub(crate) fn part_of(total: usize, shard: usize, shards: usize) -> Range<usize> {
    assert!(shard < shards, "shard {shard} of {shards}");
    let (each, more) = (total / shards, total % shards);
    let first = |shard: usize| shard * each + shard.min(more);
    first(shard)..first(shard + 1)
}
