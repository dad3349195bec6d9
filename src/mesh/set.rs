//! A set of shards, as bits.

use std::cell::Cell;

use super::bell::SOURCE_BITS;

/// A set of shards that its owner changes through a shared reference. One word per 64 shards, the first of them in
/// place: a turn looks at several of these, and few machines have more.
#[derive(Debug)]
pub(super) struct ShardSet {
    first: Cell<u64>,
    more: Box<[Cell<u64>]>,
    shards: usize,
}

impl ShardSet {
    pub(super) fn new(shards: usize) -> ShardSet {
        let more = vec![Cell::new(0); shards.div_ceil(64).saturating_sub(1)];
        ShardSet { first: Cell::new(0), more: more.into(), shards }
    }

    #[inline]
    fn word(&self, index: usize) -> &Cell<u64> {
        if index == 0 { &self.first } else { &self.more[index - 1] }
    }

    // Of at most 64 shards.
    fn all(&self) -> u64 {
        u64::MAX >> (64 - self.shards)
    }

    fn words(&self) -> impl Iterator<Item = &Cell<u64>> {
        std::iter::once(&self.first).chain(&self.more)
    }

    #[inline]
    pub(super) fn insert(&self, shard: usize) {
        let word = self.word(shard / 64);
        word.set(word.get() | 1 << (shard % 64));
    }

    #[inline]
    pub(super) fn remove(&self, shard: usize) {
        let word = self.word(shard / 64);
        word.set(word.get() & !(1 << (shard % 64)));
    }

    #[inline]
    pub(super) fn contains(&self, shard: usize) -> bool {
        self.word(shard / 64).get() & 1 << (shard % 64) != 0
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first.get() == 0 && self.more.iter().all(|word| word.get() == 0)
    }

    /// All shards.
    pub(super) fn fill(&self) {
        (0..self.shards).for_each(|shard| self.insert(shard));
    }

    /// Moves the other set's members into this one.
    #[inline]
    pub(super) fn take_all_of(&self, other: &ShardSet) {
        if self.more.is_empty() {
            return self.first.set(self.first.get() | other.first.take());
        }
        for (word, more) in self.words().zip(other.words()) {
            word.set(word.get() | more.take());
        }
    }

    /// The sources that a bell's bits name.
    #[inline]
    pub(super) fn insert_sources(&self, mut bits: u64) {
        if self.shards <= SOURCE_BITS {
            return self.first.set(self.first.get() | bits & self.all());
        }
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            (bit..self.shards).step_by(SOURCE_BITS).for_each(|shard| self.insert(shard));
        }
    }

    /// The first member at or after `from`, going round once; `from` may be one past the last shard.
    #[inline]
    pub(super) fn first_from(&self, from: usize) -> Option<usize> {
        if self.more.is_empty() {
            let all = self.first.get();
            let behind = if from < 64 { all & (u64::MAX << from) } else { 0 };
            let chosen = if behind == 0 { all } else { behind };
            return (chosen != 0).then(|| chosen.trailing_zeros() as usize);
        }
        self.first_in(from, self.shards).or_else(|| self.first_in(0, from))
    }

    // The first member of `start..end`.
    fn first_in(&self, start: usize, end: usize) -> Option<usize> {
        if start >= end {
            return None;
        }
        let mut index = start / 64;
        let mut word = self.word(index).get() & (u64::MAX << (start % 64));
        while word == 0 {
            index += 1;
            if index * 64 >= end {
                return None;
            }
            word = self.word(index).get();
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
