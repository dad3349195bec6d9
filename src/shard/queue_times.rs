//! How long tasks waited from their wake to their poll, in buckets that are cheap to fill and to merge.
//!
//! Buckets of fixed bounds, eight to an octave, and not the histogram that the load generator uses: a wait is recorded
//! for each poll of a group, so it is to cost a few instructions and never to allocate or fail, and one histogram a
//! group and shard is to take a few kilobytes. What is lost is precision, of which a queue needs little: a bucket's
//! upper bound is at most an eighth above the value.

use std::fmt;
use std::time::Duration;

/// Each octave is cut in so many parts, as a power of two.
const PART_BITS: u32 = 3;
const PARTS: usize = 1 << PART_BITS;
/// Waits of about 2^40 ns and more, 17 minutes, share the last bucket.
const OCTAVES: usize = 40;
/// The first octaves are smaller than their parts, and have one bucket a nanosecond.
const BUCKETS: usize = (OCTAVES - PART_BITS as usize + 1) * PARTS;

/// A histogram of waits: from a task's wake to the poll that follows it. Exact to an eighth of the value, up to 17 minutes;
/// those of several shards are [merged](QueueTimes::merge) by adding.
#[derive(Clone, PartialEq, Eq)]
pub struct QueueTimes {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    sum: Duration,
    longest: Duration,
}

impl Default for QueueTimes {
    fn default() -> QueueTimes {
        QueueTimes { counts: Box::new([0; BUCKETS]), count: 0, sum: Duration::ZERO, longest: Duration::ZERO }
    }
}

impl QueueTimes {
    pub(super) fn record(&mut self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(wait);
        self.longest = self.longest.max(wait);
    }

    /// How many waits there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All waits together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The longest wait, exactly; zero if there was none.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The wait that this part of all waits did not exceed, from 0 (none of them) to 1 (all); at most an eighth too
    /// long, and never longer than the longest. Zero if there was none.
    pub fn quantile(&self, part: f64) -> Duration {
        let rank = (part.clamp(0.0, 1.0) * self.count as f64).ceil() as u64;
        let mut below = 0;
        for (number, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank.max(1) {
                // The last bucket has no bound.
                let bound = if number + 1 == BUCKETS { self.longest } else { upper(number) };
                return bound.min(self.longest);
            }
        }
        Duration::ZERO
    }

    /// The buckets that are not empty, shortest first: the longest wait of each, and how many there were. Waits of more
    /// than 17 minutes are in the last one. For metrics that count up to bounds of their own.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let all = self.counts.iter().enumerate();
        all.filter(|(_, count)| **count > 0).map(|(number, count)| (upper(number), *count))
    }

    /// Adds another shard's, or another group's.
    pub fn merge(&mut self, other: &QueueTimes) {
        for (mine, more) in self.counts.iter_mut().zip(&*other.counts) {
            *mine += more;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.longest = self.longest.max(other.longest);
    }
}

impl fmt::Debug for QueueTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueTimes")
            .field("count", &self.count)
            .field("half", &self.quantile(0.5))
            .field("longest", &self.longest)
            .finish_non_exhaustive()
    }
}

/// The bucket of a wait: its octave, and the bits that follow the highest one.
fn bucket(nanos: u64) -> usize {
    let Some(shift) = (u64::BITS - nanos.leading_zeros()).checked_sub(PART_BITS + 1) else {
        return nanos as usize;
    };
    // The highest bit is part of the shifted value: it counts as one octave more.
    let number = shift as usize * PARTS + (nanos >> shift) as usize;
    number.min(BUCKETS - 1)
}

/// The longest wait of a bucket.
fn upper(number: usize) -> Duration {
    if number < 2 * PARTS {
        return Duration::from_nanos(number as u64);
    }
    let shift = number / PARTS - 1;
    let first = ((number % PARTS + PARTS) as u64) << shift;
    Duration::from_nanos(first + ((1 << shift) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        for number in 0..BUCKETS - 1 {
            let last = upper(number).as_nanos() as u64;
            assert_eq!((bucket(last), bucket(last + 1)), (number, number + 1), "{last} ns");
        }
        assert_eq!(upper(BUCKETS - 1).as_nanos(), (1 << OCTAVES) - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn nothing_recorded_is_no_wait() {
        let times = QueueTimes::default();
        assert_eq!(
            (times.count(), times.quantile(0.5), times.quantile(1.0)),
            (0, Duration::ZERO, Duration::ZERO)
        );
        assert_eq!(times.buckets().count(), 0);
    }

    fn filled(waits: &[u64]) -> QueueTimes {
        let mut times = QueueTimes::default();
        waits.iter().for_each(|nanos| times.record(Duration::from_nanos(*nanos)));
        times
    }

    proptest! {
        #[test]
        fn quantiles_are_at_most_an_eighth_too_long(
            mut waits in prop::collection::vec(0u64..1 << 41, 1..200),
            part in 0.0..=1.0f64,
        ) {
            let times = filled(&waits);
            waits.sort_unstable();
            let rank = ((part * waits.len() as f64).ceil() as usize).max(1);
            let exact = waits[rank - 1];
            let found = times.quantile(part).as_nanos() as u64;
            prop_assert!(found >= exact && found - exact <= exact / 8 || bucket(exact) == BUCKETS - 1, "{found}, not {exact}");
            prop_assert!(found <= *waits.last().unwrap());
        }

        #[test]
        fn merged_they_are_as_if_recorded_together(
            one in prop::collection::vec(any::<u64>(), 0..50),
            other in prop::collection::vec(any::<u64>(), 0..50),
        ) {
            let mut merged = filled(&one);
            merged.merge(&filled(&other));
            prop_assert_eq!(&merged, &filled(&[one, other].concat()));
            prop_assert_eq!(merged.buckets().map(|(_, count)| count).sum::<u64>(), merged.count());
        }
    }
}
