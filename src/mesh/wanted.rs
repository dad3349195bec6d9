//! Which ports a shard is to look at, so that those where nothing happens cost a message nothing, however many there are.
//!
//! A bell says which shard has something for its owner, and a [`Wanted`] beside it in which ports. A port stands there as a
//! bit; of more than 4 159 of them some share theirs. As with the bell, a bit may be set for nothing, but nothing is without
//! a bit: whoever looks at a bit looks at all ports that have it.
//!
//! The sender's steps are: push, bit, ring; its target's: take the bell, take the bits, look. A target that takes the bits
//! early, since another ring woke it, has the message by that: setting a bit releases, and taking it acquires.

use std::cell::{Cell, OnceCell};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::sync::{AtomicU64, or};
#[cfg(loom)]
use crate::shard::broken::{Break, order};

/// Ports of low ids, as nearly all programs have them alone, are told of in one word.
const FIRST: usize = 63;
/// The last bit of that word: there are others.
const OTHERS: u64 = 1 << FIRST;
/// They are told of in so many words more, and a word for those that are not empty.
const WORDS: usize = 64;

/// What stands for a port.
#[inline]
pub(super) fn bit_of(port: usize) -> usize {
    if port < FIRST { port } else { FIRST + (port - FIRST) % (WORDS * 64) }
}

/// The words beyond the first, made when the first port is there that needs them.
struct Others<W> {
    /// Which of the words have something.
    some: W,
    words: [W; WORDS],
}

impl<W: Default> Others<W> {
    fn new() -> Box<Others<W>> {
        Box::new(Others { some: W::default(), words: std::array::from_fn(|_| W::default()) })
    }
}

/// The bits of a word, one after the other.
fn each(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let next = (bits != 0).then(|| bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        next
    })
}

/// A shard's own set of bits, which it changes through a shared reference.
#[derive(Default)]
pub(super) struct Bits {
    first: Cell<u64>,
    others: OnceCell<Box<Others<Cell<u64>>>>,
}

impl Bits {
    #[inline]
    pub(super) fn insert(&self, bit: usize) {
        if bit < FIRST {
            return self.first.set(self.first.get() | 1 << bit);
        }
        let place = bit - FIRST;
        self.insert_other(place / 64, 1 << (place % 64));
    }

    fn insert_other(&self, word: usize, bits: u64) {
        let others = self.others.get_or_init(Others::new);
        let Others { some, words } = &**others;
        words[word].set(words[word].get() | bits);
        some.set(some.get() | 1 << word);
        self.first.set(self.first.get() | OTHERS);
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first.get() == 0
    }

    /// Takes one out.
    #[inline]
    pub(super) fn pop(&self) -> Option<usize> {
        let first = self.first.get();
        if first == 0 {
            return None;
        }
        let bit = first.trailing_zeros() as usize;
        if bit < FIRST {
            self.first.set(first & (first - 1));
            return Some(bit);
        }
        self.pop_other()
    }

    fn pop_other(&self) -> Option<usize> {
        let Others { some, words } = &**self.others.get()?;
        let place = some.get().trailing_zeros() as usize;
        let word = words.get(place)?;
        let bit = word.get().trailing_zeros() as usize;
        word.set(word.get() & word.get().wrapping_sub(1));
        if word.get() == 0 {
            some.set(some.get() & some.get().wrapping_sub(1));
        }
        if some.get() == 0 {
            self.first.set(self.first.get() & !OTHERS);
        }
        Some(FIRST + place * 64 + bit)
    }

    /// Moves the other set's members into this one.
    #[inline]
    pub(super) fn take_all_of(&self, other: &Bits) {
        let first = other.first.take();
        self.first.set(self.first.get() | first & !OTHERS);
        if first & OTHERS != 0 {
            other.take_others(|word, bits| self.insert_other(word, bits));
        }
    }

    fn take_others(&self, mut each_word: impl FnMut(usize, u64)) {
        let Some(others) = self.others.get() else { return };
        each(others.some.take()).for_each(|word| each_word(word, others.words[word].take()));
    }
}

/// What one shard wants one other to look at: told by the one, taken by the other, over all lives of both.
#[repr(align(64))]
pub(super) struct Wanted {
    first: AtomicU64,
    others: OnceLock<Box<Others<AtomicU64>>>,
}

impl Wanted {
    pub(super) fn new() -> Wanted {
        Wanted { first: AtomicU64::new(0), others: OnceLock::new() }
    }

    /// The sender, before it rings: moves the members of a set here.
    #[inline]
    pub(super) fn tell(&self, bits: &Bits) {
        let ordering = Release;
        #[cfg(loom)]
        let ordering = order(Break::WantedRelaxed, Relaxed, ordering);
        let first = bits.first.take();
        if first & OTHERS != 0 {
            // The word before what says that there is something in it.
            let others = self.others.get_or_init(Others::new);
            let mut some = 0;
            bits.take_others(|word, bits| {
                or(&others.words[word], bits, ordering);
                some |= 1 << word;
            });
            or(&others.some, some, ordering);
        }
        or(&self.first, first, ordering);
    }

    /// The target, after it took the bell: moves what is here into a set.
    #[inline]
    pub(super) fn take(&self, bits: &Bits) {
        let ordering = Acquire;
        #[cfg(loom)]
        let ordering = order(Break::WantedTakenRelaxed, Relaxed, ordering);
        // What was told before a ring that the bell had is seen here, or was taken before.
        if self.first.load(Relaxed) == 0 {
            return;
        }
        let first = self.first.swap(0, ordering);
        bits.first.set(bits.first.get() | first & !OTHERS);
        if first & OTHERS != 0
            && let Some(others) = self.others.get()
        {
            for word in each(others.some.swap(0, ordering)) {
                bits.insert_other(word, others.words[word].swap(0, ordering));
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ALL: usize = FIRST + WORDS * 64;

    fn pop_all(bits: &Bits) -> Vec<usize> {
        std::iter::from_fn(|| bits.pop()).collect()
    }

    /// Steps: 0 takes one out, 1 moves all there and back by another set, 2 by what two shards share; others insert.
    fn is_a_set(steps: Vec<(u8, usize)>) -> Result<(), TestCaseError> {
        let (bits, other, wanted, mut oracle) =
            (Bits::default(), Bits::default(), Wanted::new(), BTreeSet::new());
        for (step, bit) in steps {
            match step {
                0 => prop_assert_eq!(bits.pop(), oracle.pop_first()),
                1 => {
                    other.take_all_of(&bits);
                    prop_assert!(bits.is_empty());
                    bits.take_all_of(&other);
                }
                2 => {
                    wanted.tell(&bits);
                    prop_assert!(bits.is_empty());
                    wanted.take(&bits);
                }
                _ => {
                    bits.insert(bit);
                    oracle.insert(bit);
                }
            }
            prop_assert_eq!(bits.is_empty(), oracle.is_empty());
        }
        prop_assert_eq!(pop_all(&bits), oracle.into_iter().collect::<Vec<_>>());
        wanted.take(&bits);
        prop_assert!(bits.is_empty() && other.is_empty());
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_set_of_few(steps in prop::collection::vec((0u8..8, 0usize..70), 0..80)) {
            is_a_set(steps)?;
        }

        #[test]
        fn it_is_a_set_of_all(steps in prop::collection::vec((0u8..8, 0usize..ALL), 0..80)) {
            is_a_set(steps)?;
        }
    }

    #[test]
    fn what_is_told_twice_is_taken_once_and_nothing_is_lost_in_between() {
        let (wanted, telling, taken) = (Wanted::new(), Bits::default(), Bits::default());
        for told in [&[3, 62, 63][..], &[62, 64, 200, ALL - 1]] {
            told.iter().for_each(|bit| telling.insert(*bit));
            wanted.tell(&telling);
        }
        wanted.take(&taken);
        assert_eq!(pop_all(&taken), [3, 62, 63, 64, 200, ALL - 1]);
        wanted.take(&taken);
        assert!(pop_all(&taken).is_empty());
    }

    #[test]
    fn ports_have_bits_of_their_own_up_to_the_most_and_share_them_beyond() {
        assert!((0..ALL).all(|port| bit_of(port) == port));
        assert_eq!([bit_of(ALL), bit_of(ALL + 5), bit_of(3 * ALL)], [FIRST, FIRST + 5, FIRST + 2 * FIRST]);
    }
}
