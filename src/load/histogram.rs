//! Latencies as histograms: nanoseconds, three significant digits, merged before any percentile is read.
//!
//! A percentile is never averaged and never read from fewer than ten samples beyond it. Failures are infinitely slow;
//! requests that were not answered by the end are "at least this slow".

use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram as Counts;

use super::units;
use crate::net::quoted::Quoted;

/// Latencies of one kind. About 230 KiB, all of it allocated at the start; recording allocates nothing.
#[derive(Clone)]
pub struct Histogram {
    counts: Counts<u64>,
    /// How many values were above [`HIGHEST_NS`] and are counted there.
    cut: u64,
}

/// An hour. What takes longer is counted here, and [`Histogram::cut`] says how often. Bounded well below `u64::MAX`,
/// which other languages' readers take for −1.
pub const HIGHEST_NS: u64 = 3_600_000_000_000;

/// A percentile is printed only if so many samples lie beyond it.
pub const BEYOND_MIN: u64 = 10;

impl Default for Histogram {
    fn default() -> Histogram {
        let counts =
            Counts::new_with_bounds(1, HIGHEST_NS, 3).expect("1 ns to an hour in 3 digits is in range");
        Histogram { counts, cut: 0 }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, nanos: u64) {
        self.cut += u64::from(nanos > HIGHEST_NS);
        self.counts.saturating_record(nanos);
    }

    /// Adds what another shard counted.
    pub fn merge(&mut self, other: &Histogram) {
        self.counts.add(&other.counts).expect("histograms of equal bounds");
        self.cut += other.cut;
    }

    /// Forgets all values and keeps the memory.
    pub fn clear(&mut self) {
        self.counts.reset();
        self.cut = 0;
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// How many values were above [`HIGHEST_NS`].
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// The smallest value, if there is one, rounded down to three digits.
    pub fn min(&self) -> Option<u64> {
        (self.count() > 0).then(|| self.counts.min())
    }

    /// The largest value, if there is one, rounded up to three digits.
    pub fn max(&self) -> Option<u64> {
        (self.count() > 0).then(|| self.counts.max())
    }

    /// The mean, if there is a value, to about three digits.
    pub fn mean(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.counts.mean())
    }

    /// How the values spread: for each doubling from the smallest to the largest, its upper end and how many values are
    /// below it and not below the one before.
    pub fn doublings(&self) -> Vec<(u64, u64)> {
        let mut spread: Vec<(u64, u64)> = Vec::new();
        for value in self.counts.iter_recorded() {
            let below = (value.value_iterated_to() + 1).next_power_of_two();
            match spread.last_mut() {
                Some((last, count)) if *last == below => *count += value.count_at_value(),
                last => {
                    let mut between = last.map_or(below, |(last, _)| *last * 2);
                    while between < below {
                        spread.push((between, 0));
                        between *= 2;
                    }
                    spread.push((below, value.count_at_value()));
                }
            }
        }
        spread
    }

    /// The value at a percentile, if enough values lie beyond it.
    pub fn at(&self, percentile: Percentile) -> Option<u64> {
        let rank = percentile.supported_rank(self.count())?;
        nth(&[self], rank)
    }

    /// The value at a percentile however few values there are; for decisions of our own, not for a report.
    pub fn roughly_at(&self, percentile: Percentile) -> Option<u64> {
        nth(&[self], percentile.rank(self.count()))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("max", &self.max())
            .finish_non_exhaustive()
    }
}

/// The `rank`-th smallest value (from 1) of all histograms together.
fn nth(histograms: &[&Histogram], rank: u64) -> Option<u64> {
    if rank == 0 {
        return None;
    }
    let mut steps: Vec<_> = histograms
        .iter()
        .map(|one| {
            one.counts
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .peekable()
        })
        .collect();
    let mut seen = 0;
    loop {
        let next = steps.iter_mut().filter_map(|one| one.peek().copied()).map(|(value, _)| value).min()?;
        for one in &mut steps {
            if let Some((_, count)) = one.next_if(|(value, _)| *value == next) {
                seen += count;
            }
        }
        if seen >= rank {
            return Some(next);
        }
    }
}

/// A percentile, to a ten-thousandth of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentile {
    per_million: u32,
}

impl Percentile {
    /// p50.
    pub const MEDIAN: Percentile = Percentile { per_million: 500_000 };
    /// p99.
    pub const P99: Percentile = Percentile { per_million: 990_000 };
    /// The columns of a report.
    pub const COLUMNS: [Percentile; 5] = [
        Percentile::MEDIAN,
        Percentile { per_million: 900_000 },
        Percentile::P99,
        Percentile { per_million: 999_000 },
        Percentile { per_million: 999_900 },
    ];

    /// The rank, from 1, of the sample that stands for this percentile among `count`: the smallest one that at least
    /// this part of all samples does not exceed. 0 if there are none.
    pub fn rank(self, count: u64) -> u64 {
        let rank = (u128::from(count) * u128::from(self.per_million)).div_ceil(1_000_000);
        u64::try_from(rank).unwrap_or(u64::MAX).max(u64::from(count > 0))
    }

    /// The rank, if at least [`BEYOND_MIN`] samples lie beyond it.
    pub fn supported_rank(self, count: u64) -> Option<u64> {
        let rank = self.rank(count);
        (count - rank >= BEYOND_MIN).then_some(rank)
    }

    /// How many samples this percentile needs.
    pub fn samples_needed(self) -> u64 {
        (BEYOND_MIN * 1_000_000).div_ceil(u64::from(1_000_000 - self.per_million))
    }
}

impl FromStr for Percentile {
    type Err = String;

    /// `p50`, `p99.9`, `p99.9999`.
    fn from_str(text: &str) -> Result<Percentile, String> {
        let wrong = || format!("percentile {}: not one; allowed: p0.0001 to p99.9999", Quoted(text));
        let percent = text.strip_prefix('p').and_then(units::decimal).ok_or_else(wrong)?;
        let per_million = (percent * 10_000.0).round();
        if (1.0..=999_999.0).contains(&per_million) {
            Ok(Percentile { per_million: per_million as u32 })
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", f64::from(self.per_million) / 10_000.0)
    }
}

/// What is known about a latency at a percentile or at the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// Nanoseconds.
    Exactly(u64),
    /// Nanoseconds, or more: some requests were not answered by the end.
    AtLeast(u64),
    /// So many requests failed that this one is a failure.
    Infinite,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reading::Exactly(nanos) => f.pad(&units::latency(*nanos)),
            Reading::AtLeast(nanos) => f.pad(&format!("≥{}", units::latency(*nanos))),
            Reading::Infinite => f.pad("∞"),
        }
    }
}

/// The response times of all planned requests: those that were answered, those that were not answered by the end,
/// and those that failed.
#[derive(Clone, Copy, Debug)]
pub struct Responses<'h> {
    /// Answered rightly: `done − planned`.
    pub answered: &'h Histogram,
    /// Not answered by the end: `end − planned`, a lower bound.
    pub unanswered: &'h Histogram,
    /// How many failed: infinitely slow.
    pub failed: u64,
}

impl Responses<'_> {
    /// How many requests these are.
    pub fn count(&self) -> u64 {
        self.answered.count() + self.unanswered.count() + self.failed
    }

    /// What is known about a percentile; `None` if fewer than [`BEYOND_MIN`] samples lie beyond it.
    pub fn at(&self, percentile: Percentile) -> Option<Reading> {
        Some(self.nth(percentile.supported_rank(self.count())?))
    }

    /// What is known about the slowest one; `None` if there is none.
    pub fn max(&self) -> Option<Reading> {
        (self.count() > 0).then(|| self.nth(self.count()))
    }

    /// The percentile if every unanswered request never came: what a threshold is held against. `None` if too few
    /// samples lie beyond it.
    pub fn at_worst(&self, percentile: Percentile) -> Option<Reading> {
        let rank = percentile.supported_rank(self.count())?;
        Some(nth(&[self.answered], rank).map_or(Reading::Infinite, Reading::Exactly))
    }

    fn nth(&self, rank: u64) -> Reading {
        match nth(&[self.answered, self.unanswered], rank) {
            // A lower bound at or below this value may really lie above it, and would then push it up.
            Some(value) if self.unanswered.min().is_some_and(|bound| bound <= value) => {
                Reading::AtLeast(value)
            }
            Some(value) => Reading::Exactly(value),
            None => Reading::Infinite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        values.into_iter().for_each(|value| histogram.record(value));
        histogram
    }

    fn p(text: &str) -> Percentile {
        text.parse().unwrap()
    }

    #[test]
    fn a_percentile_needs_ten_samples_beyond_it() {
        assert_eq!(of(0..999).at(p("p99")), None);
        assert!(of(0..1_000).at(p("p99")).is_some());
        assert_eq!(p("p99").samples_needed(), 1_000);
        assert_eq!(p("p99.99").samples_needed(), 100_000);
        assert_eq!(of(0..19).at(p("p50")), None);
        assert!(of(0..20).at(p("p50")).is_some());
        assert_eq!(Histogram::default().at(p("p50")), None);
    }

    #[test]
    fn failures_are_infinitely_slow() {
        let answered = of((1..=900).map(|us| us * 1_000));
        let none = Histogram::default();
        let responses = Responses { answered: &answered, unanswered: &none, failed: 100 };
        assert_eq!(
            responses.at(p("p50")),
            Some(Reading::Exactly(500_223)),
            "of 1 000, not of the 900 good ones"
        );
        assert_eq!(responses.at(p("p90.1")), Some(Reading::Infinite));
        assert_eq!(responses.max(), Some(Reading::Infinite));
    }

    #[test]
    fn unanswered_requests_are_at_least_that_slow() {
        let answered = of(vec![100_000; 990]);
        let unanswered = of(vec![1_000_000; 10]);
        let responses = Responses { answered: &answered, unanswered: &unanswered, failed: 0 };
        assert_eq!(responses.at(p("p50")), Some(Reading::Exactly(100_031)));
        assert_eq!(responses.max(), Some(Reading::AtLeast(1_000_447)));
        assert_eq!(responses.at_worst(p("p99")), Some(Reading::Exactly(100_031)));
        let responses = Responses { answered: &answered, unanswered: &unanswered, failed: 100 };
        assert_eq!(responses.at_worst(p("p90.5")), Some(Reading::Infinite), "a threshold assumes the worst");
        assert_eq!(responses.at(p("p90.5")), Some(Reading::AtLeast(1_000_447)));
    }

    #[test]
    fn early_bounds_make_later_values_uncertain() {
        // Stopped too early: ten requests had been on their way for 1 µs only.
        let answered = of(vec![100_000; 990]);
        let unanswered = of(vec![1_000; 10]);
        let responses = Responses { answered: &answered, unanswered: &unanswered, failed: 0 };
        assert_eq!(responses.at(p("p50")), Some(Reading::AtLeast(100_031)));
    }

    #[test]
    fn what_takes_longer_than_an_hour_is_counted_and_said() {
        let histogram = of([5, u64::MAX, HIGHEST_NS + 1]);
        assert_eq!((histogram.count(), histogram.cut()), (3, 2));
        assert!(histogram.max().unwrap() >= HIGHEST_NS);
    }

    #[test]
    fn percentiles_as_people_write_them() {
        assert_eq!(p("p99.9").to_string(), "p99.9");
        assert_eq!(p("p50"), Percentile::MEDIAN);
        for text in ["99", "p", "p0", "p100", "p99.99999", "p1e1", "pNaN", "p-1"] {
            assert!(text.parse::<Percentile>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn percentiles_agree_with_sorted_samples(
            mut values in prop::collection::vec(1u64..10_000_000_000, 20..400), per_million in 1u32..1_000_000,
        ) {
            let percentile = Percentile { per_million };
            let histogram = of(values.iter().copied());
            values.sort_unstable();
            let exact = values[percentile.rank(values.len() as u64) as usize - 1];
            let read = histogram.roughly_at(percentile).unwrap();
            prop_assert!(read >= exact && read as f64 <= exact as f64 * 1.001 + 1.0, "{} for {}", read, exact);
        }

        #[test]
        fn merging_shards_is_the_same_as_one_histogram(
            a in prop::collection::vec(0u64..1_000_000_000, 0..200), b in prop::collection::vec(0u64..1_000_000_000, 0..200),
        ) {
            let mut merged = of(a.iter().copied());
            merged.merge(&of(b.iter().copied()));
            let whole = of(a.into_iter().chain(b));
            prop_assert_eq!(merged.counts, whole.counts);
        }
    }
}
