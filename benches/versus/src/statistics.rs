//! Medians, ratios, and how sure they are.

use fastrand::Rng;

/// A ratio and the interval that holds the middle 95 % of what resampled rounds give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Of the rounds as measured.
    pub value: f64,
    /// The interval's ends.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// Resamplings: the interval's ends are then good to some hundredths of its width.
const DRAWS: usize = 4000;

/// The middle value, or the mean of the two.
///
/// # Panics
/// There are no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The value that so large a share of a sorted list does not exceed (nearest rank); `None` where fewer than ten values
/// lie beyond it, since it is chance then.
pub fn percentile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let rank = ((sorted.len() as f64 * share).ceil() as usize).max(1);
    (sorted.len() >= rank + 10).then(|| sorted[rank - 1])
}

/// The ratio of the medians. Rounds are resampled whole (bootstrap, Efron 1979), so that what slowed a whole round slows
/// both.
pub fn ratio_of_medians(of: &[f64], to: &[f64], random: &mut Rng) -> Ratio {
    resampled(of, to, random, |of, to| median(of) / median(to))
}

/// The geometric mean of each round's ratio, resampled as above.
pub fn mean_of_ratios(of: &[f64], to: &[f64], random: &mut Rng) -> Ratio {
    resampled(of, to, random, |of, to| {
        let logarithms: f64 = of.iter().zip(to).map(|(of, to)| (of / to).ln()).sum();
        (logarithms / of.len() as f64).exp()
    })
}

fn resampled(of: &[f64], to: &[f64], random: &mut Rng, statistic: impl Fn(&[f64], &[f64]) -> f64) -> Ratio {
    assert_eq!(of.len(), to.len(), "every round measures every subject");
    let mut draws: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let rounds: Vec<usize> = of.iter().map(|_| random.usize(..of.len())).collect();
            let pick = |from: &[f64]| rounds.iter().map(|round| from[*round]).collect::<Vec<_>>();
            statistic(&pick(of), &pick(to))
        })
        .collect();
    draws.sort_by(f64::total_cmp);
    Ratio { value: statistic(of, to), low: draws[DRAWS / 40], high: draws[DRAWS - 1 - DRAWS / 40] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn percentiles_need_values_beyond() {
        let values: Vec<u32> = (1..=1000).collect();
        assert_eq!(percentile(&values, 0.5), Some(500));
        assert_eq!(percentile(&values, 0.99), Some(990));
        assert_eq!(percentile(&values, 0.999), None);
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn a_constant_ratio_is_certain_however_noisy_the_rounds() {
        let to: Vec<f64> = (1..=12).map(|round| f64::from(round * round)).collect();
        let of: Vec<f64> = to.iter().map(|to| to * 1.25).collect();
        let ratio = mean_of_ratios(&of, &to, &mut Rng::with_seed(1));
        assert!((ratio.low - 1.25).abs() < 1e-9 && (ratio.high - 1.25).abs() < 1e-9, "{ratio:?}");
        assert!((ratio_of_medians(&of, &to, &mut Rng::with_seed(1)).value - 1.25).abs() < 1e-9);
    }

    /// Of many experiments with noise about nineteen of twenty hold the truth in their interval; with 12 rounds a bootstrap
    /// is known to hold it somewhat less often.
    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut random = Rng::with_seed(5);
        let mut noisy = |mean: f64| -> Vec<f64> {
            (0..12).map(|_| mean * (0.9 + 0.2 * (random.f64() + random.f64() + random.f64()) / 3.0)).collect()
        };
        let experiments: Vec<_> = (0..60).map(|_| (noisy(1.3), noisy(1.0))).collect();
        let mut resample = Rng::with_seed(6);
        for statistic in [ratio_of_medians, mean_of_ratios] {
            let held = experiments.iter().filter(|(of, to)| {
                let ratio = statistic(of, to, &mut resample);
                ratio.low <= 1.3 && 1.3 <= ratio.high
            });
            assert!((50..=60).contains(&held.count()));
        }
    }
}
