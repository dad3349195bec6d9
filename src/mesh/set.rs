//! A set of shards, as bits.

use std::cell::Cell;

use super::bell::SOURCE_BITS;

/// A set of shards that its owner changes through a shared reference. One word per 64 shards.
#[derive(Debug)]
pub(super) struct ShardSet {
    words: Box<[Cell<u64>]>,
    shards: usize,
}

impl ShardSet {
    pub(super) fn new(shards: usize) -> ShardSet {
        ShardSet { words: vec![Cell::new(0); shards.div_ceil(64)].into(), shards }
    }

    pub(super) fn insert(&self, shard: usize) {
        let word = &self.words[shard / 64];
        word.set(word.get() | 1 << (shard % 64));
    }

    pub(super) fn remove(&self, shard: usize) {
        let word = &self.words[shard / 64];
        word.set(word.get() & !(1 << (shard % 64)));
    }

    pub(super) fn contains(&self, shard: usize) -> bool {
        self.words[shard / 64].get() & 1 << (shard % 64) != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.get() == 0)
    }

    /// All shards.
    pub(super) fn fill(&self) {
        (0..self.shards).for_each(|shard| self.insert(shard));
    }

    /// Moves the other set's members into this one.
    pub(super) fn take_all_of(&self, other: &ShardSet) {
        for (word, more) in self.words.iter().zip(&other.words) {
            word.set(word.get() | more.take());
        }
    }

    /// The sources that a bell's bits name.
    pub(super) fn insert_sources(&self, mut bits: u64) {
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            (bit..self.shards).step_by(SOURCE_BITS).for_each(|shard| self.insert(shard));
        }
    }

    /// The first member at or after `from`, going round once; `from` may be one past the last shard.
    pub(super) fn first_from(&self, from: usize) -> Option<usize> {
        self.first_in(from, self.shards).or_else(|| self.first_in(0, from))
    }

    // The first member of `start..end`.
    fn first_in(&self, start: usize, end: usize) -> Option<usize> {
        let mut index = start / 64;
        let mut word = self.words.get(index)?.get() & (u64::MAX << (start % 64));
        while word == 0 {
            index += 1;
            if index * 64 >= end {
                return None;
            }
            word = self.words[index].get();
        }
        let shard = index * 64 + word.trailing_zeros() as usize;
        (shard < end).then_some(shard)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(shards in 1usize..200, steps in prop::collection::vec((any::<bool>(), 0usize..200), 0..60), from in 0usize..200) {
            let (set, mut oracle) = (ShardSet::new(shards), BTreeSet::new());
            for (add, shard) in steps {
                let shard = shard % shards;
                if add { set.insert(shard); oracle.insert(shard); } else { set.remove(shard); oracle.remove(&shard); }
            }
            let from = from % shards;
            prop_assert_eq!(set.is_empty(), oracle.is_empty());
            prop_assert_eq!(set.first_from(from), oracle.range(from..).next().or(oracle.iter().next()).copied());
            prop_assert!((0..shards).all(|shard| set.contains(shard) == oracle.contains(&shard)));
        }

        #[test]
        fn bits_name_all_the_sources_that_share_them(shards in 1usize..200, bits in 0u64..1 << 61) {
            let set = ShardSet::new(shards);
            set.insert_sources(bits);
            prop_assert!((0..shards).all(|shard| set.contains(shard) == (bits >> (shard % SOURCE_BITS) & 1 == 1)));
        }
    }
}
