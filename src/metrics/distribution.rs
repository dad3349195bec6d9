//! How values are distributed: log-linear buckets that are cheap to fill, to send and to merge.
//!
//! Each octave is cut in eight, as in [`QueueTimes`](crate::shard::QueueTimes), and not as finely as hdrhistogram would
//! do it: a value is recorded where connections are served, so that it is to cost a few instructions and never to allocate
//! or fail, and one histogram is to take four kilobytes on each shard. Buckets end at powers of two, inclusively, so that
//! what is counted up to one of them is exact.

use std::cell::Cell;

/// Each octave is cut in so many parts, as a power of two.
const PART_BITS: u32 = 3;
const PARTS: usize = 1 << PART_BITS;
/// All octaves of a `u64`. The first ones are smaller than their parts, and have one bucket a value.
pub(super) const BUCKETS: usize = (u64::BITS as usize - PART_BITS as usize + 1) * PARTS;

/// The values that one shard recorded. Plain cells: only its own tasks touch them.
#[derive(Debug)]
pub(super) struct Recorded {
    sum: Cell<u64>,
    counts: [Cell<u64>; BUCKETS],
}

impl Recorded {
    pub(super) fn new() -> Recorded {
        Recorded { sum: Cell::new(0), counts: [const { Cell::new(0) }; BUCKETS] }
    }

    #[inline]
    pub(super) fn record(&self, value: u64) {
        let count = &self.counts[bucket(value)];
        count.set(count.get().wrapping_add(1));
        self.sum.set(self.sum.get().wrapping_add(value));
    }

    /// Forgets what it has, and takes these values for it: each the greatest of a bucket, with how many there are.
    pub(super) fn replace(&self, sum: u64, buckets: impl Iterator<Item = (u64, u64)>) {
        self.counts.iter().for_each(|count| count.set(0));
        self.sum.set(sum);
        for (value, more) in buckets {
            let count = &self.counts[bucket(value)];
            count.set(count.get().wrapping_add(more));
        }
    }

    pub(super) fn copy(&self) -> Distribution {
        let all = self.counts.iter().enumerate().map(|(number, count)| (number as u16, count.get()));
        Distribution { sum: self.sum.get(), buckets: all.filter(|(_, count)| *count > 0).collect() }
    }
}

/// How values are distributed that one shard, or all of them, recorded: to an eighth of the value. Values are whole
/// numbers of the histogram's [`Unit`](super::Unit): nanoseconds, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    sum: u64,
    /// Those that are not empty, in order.
    buckets: Vec<(u16, u64)>,
}

impl Distribution {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, (_, count)| sum.wrapping_add(*count))
    }

    /// All values together, exactly, as long as a `u64` can hold it: nanoseconds of 584 years.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The value that this part of all values did not exceed, from 0 (none of them) to 1 (all); at most an eighth too
    /// great. Zero counts as one. `None` if there was no value.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let rank = (part.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64;
        let mut below = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            below += count;
            below >= rank.max(1)
        });
        found.or(self.buckets.last()).map(|(number, _)| upper(usize::from(*number)))
    }

    /// Adds another shard's.
    pub fn merge(&mut self, other: &Distribution) {
        self.sum = self.sum.wrapping_add(other.sum);
        for (number, more) in &other.buckets {
            match self.buckets.binary_search_by_key(number, |(own, _)| *own) {
                Ok(at) => self.buckets[at].1 = self.buckets[at].1.wrapping_add(*more),
                Err(at) => self.buckets.insert(at, (*number, *more)),
            }
        }
    }

    /// How many values are not above two to the power of each of `powers`; exact.
    pub(super) fn up_to_powers(&self, powers: std::ops::RangeInclusive<u32>) -> Vec<(u64, u64)> {
        let (mut rest, mut sum) = (self.buckets.iter().peekable(), 0_u64);
        let up_to = |power: u32| {
            let bound = 1_u64 << power;
            while let Some((_, count)) = rest.next_if(|(number, _)| upper(usize::from(*number)) <= bound) {
                sum = sum.wrapping_add(*count);
            }
            (bound, sum)
        };
        powers.map(up_to).collect()
    }
}

/// The bucket of a value: the octave of what is one less, and the bits that follow the highest one.
#[inline]
fn bucket(value: u64) -> usize {
    let below = value.saturating_sub(1);
    let Some(shift) = (u64::BITS - below.leading_zeros()).checked_sub(PART_BITS + 1) else {
        return below as usize;
    };
    // The highest bit is part of the shifted value: it counts as one octave more.
    shift as usize * PARTS + (below >> shift) as usize
}

/// The greatest value of a bucket.
fn upper(number: usize) -> u64 {
    if number < 2 * PARTS {
        return number as u64 + 1;
    }
    let shift = number / PARTS - 1;
    let first = ((number % PARTS + PARTS) as u64) << shift;
    (first + ((1 << shift) - 1)).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        for number in 0..BUCKETS - 1 {
            let last = upper(number);
            assert_eq!((bucket(last), bucket(last + 1)), (number, number + 1), "{last}");
        }
        assert_eq!((bucket(0), bucket(u64::MAX), upper(BUCKETS - 1)), (0, BUCKETS - 1, u64::MAX));
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        let none = Recorded::new().copy();
        assert_eq!((none.count(), none.sum(), none.quantile(0.5)), (0, 0, None));
    }

    fn of(values: &[u64]) -> Distribution {
        let recorded = Recorded::new();
        values.iter().for_each(|value| recorded.record(*value));
        recorded.copy()
    }

    proptest! {
        #[test]
        fn merged_quantiles_are_at_most_an_eighth_too_great(
            shards in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..60), 1..6),
            cut in 0..64_u32,
            part in 0.0..=1.0_f64,
        ) {
            let shards: Vec<Vec<u64>> =
                shards.into_iter().map(|all| all.into_iter().map(|value| value >> cut).collect()).collect();
            let mut merged = Distribution::default();
            shards.iter().for_each(|values| merged.merge(&of(values)));
            let mut all = shards.concat();
            prop_assert_eq!(&merged, &of(&all), "not as if recorded together");
            all.sort_unstable();
            let rank = ((part * all.len() as f64).ceil() as usize).max(1);
            match (merged.quantile(part), all.get(rank - 1)) {
                (Some(found), Some(&exact)) => {
                    let exact = exact.max(1);
                    prop_assert!(found >= exact && found - exact <= exact / 8, "{found}, not {exact}");
                }
                (found, exact) => prop_assert_eq!(found, exact.copied()),
            }
            for (bound, count) in merged.up_to_powers(0..=40) {
                let exact = all.iter().filter(|value| **value <= bound).count() as u64;
                prop_assert_eq!(count, exact, "up to {}", bound);
            }
        }
    }
}
