//! At most so many per second for each key, with bounded memory.
//!
//! The generic cell rate algorithm (ITU-T I.371, 2004, annex A): of each key one time is kept, at which it will have its
//! whole burst again. Where that has come the key is like one that was never seen, and is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use waterwheel_reactor::Time;

use super::KeyRate;

/// The most keys that a shard remembers: some 10 MiB. Of more the one is forgotten whose burst is whole again first, so
/// that many that come once do not hide one that comes often.
pub(super) const KEYS_MAX: usize = 1 << 16;
/// Keys that are forgotten at each take, at most: more than are added, so that a crowd that is gone leaves nothing behind.
const FORGOTTEN_AT_ONCE: usize = 4;

/// When each key has its whole burst again.
#[derive(Debug)]
pub(super) struct Rates<K> {
    whole: BTreeMap<K, Time>,
    /// The same by time.
    order: BTreeSet<(Time, K)>,
    most: usize,
}

impl<K: Ord + Copy> Rates<K> {
    pub(super) fn new(most: usize) -> Rates<K> {
        Rates { whole: BTreeMap::new(), order: BTreeSet::new(), most }
    }

    /// Whether one more may pass; what may not costs the key nothing.
    pub(super) fn take(&mut self, key: K, rate: KeyRate, now: Time) -> bool {
        self.forget(now);
        let burst = rate.interval.saturating_mul(rate.burst);
        // At a slower rate it had used more than there is now.
        let known = self.whole.get(&key).copied().map(|known| self.no_later(key, known, now + burst));
        let from = known.unwrap_or(now).max(now);
        let next = from + rate.interval;
        if next.since(now) > burst {
            return false;
        }
        if known.is_none() && self.whole.len() >= self.most {
            self.forget_first();
        }
        self.set(key, known, next);
        true
    }

    /// A key has its whole burst again at this time, at the latest: noted, since it is nearer with each moment.
    fn no_later(&mut self, key: K, known: Time, latest: Time) -> Time {
        if known <= latest {
            return known;
        }
        self.set(key, Some(known), latest);
        latest
    }

    fn set(&mut self, key: K, known: Option<Time>, whole: Time) {
        if let Some(known) = known {
            self.order.remove(&(known, key));
        }
        self.order.insert((whole, key));
        self.whole.insert(key, whole);
    }

    fn forget(&mut self, now: Time) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            if self.order.first().is_none_or(|(whole, _)| *whole > now) {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, key)) = self.order.pop_first() {
            self.whole.remove(&key);
        }
    }
}

impl KeyRate {
    /// So many in each `per`, evenly; after a pause `burst` at once. At least one of each.
    pub fn new(count: u32, per: Duration, burst: u32) -> KeyRate {
        let interval = (per / count.max(1)).max(Duration::from_nanos(1));
        KeyRate { interval, burst: burst.max(1) }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn rate(count: u32, burst: u32) -> KeyRate {
        KeyRate::new(count, Duration::from_secs(1), burst)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut rates = Rates::new(10);
        let passed = |rates: &mut Rates<u32>, key, from: u64, until: u64| {
            (from..until).filter(|milli| rates.take(key, rate(10, 5), at(*milli))).count()
        };
        // Five at once, and the first of the rate after a tenth of a second.
        assert_eq!(passed(&mut rates, 1, 0, 100), 5);
        assert_eq!(passed(&mut rates, 1, 100, 1_100), 10);
        assert_eq!(passed(&mut rates, 2, 1_099, 1_100), 1, "another key has its own");
        // After a pause there is a burst again, and not more.
        assert_eq!(passed(&mut rates, 1, 60_000, 60_050), 5);
    }

    #[test]
    fn what_is_slow_is_kept_to_also() {
        let mut rates = Rates::new(10);
        let slow = KeyRate::new(2, Duration::from_secs(3_600), 1);
        let hours = |hours: u64| at(hours * 3_600_000);
        assert!(rates.take(1, slow, hours(0)) && !rates.take(1, slow, at(1_799_000)));
        assert!(rates.take(1, slow, at(1_800_000)) && rates.take(1, slow, hours(5)));
    }

    #[test]
    fn a_rate_that_grows_helps_who_has_used_up_the_one_of_before() {
        let mut rates = Rates::new(10);
        let slow = KeyRate::new(1, Duration::from_secs(3_600), 5);
        assert!((0..5).all(|_| rates.take(1, slow, at(0))) && !rates.take(1, slow, at(0)));
        // All of its burst is used; a tenth of a second later it has one again, and then those of the new rate.
        let passed = |rates: &mut Rates<u32>, from: u64| {
            (from..from + 1_000).filter(|milli| rates.take(1, rate(10, 5), at(*milli))).count()
        };
        assert!(!rates.take(1, rate(10, 5), at(1_000)));
        assert_eq!(passed(&mut rates, 1_001), 10);
        assert_eq!(rates.order.len(), 1);
    }

    #[test]
    fn a_crowd_hides_nobody_and_leaves_nothing_behind() {
        let mut rates = Rates::new(100);
        while rates.take(0, rate(1, 50), at(0)) {}
        for key in 1..10_000_u32 {
            assert!(rates.take(key, rate(1, 50), at(key.into())));
            assert!(rates.whole.len() <= 100 && rates.order.len() == rates.whole.len());
        }
        assert!(rates.take(0, rate(1, 50), at(10_000)), "ten seconds later it has some of its own again");
        assert!((0..20).filter(|_| rates.take(0, rate(1, 50), at(10_000))).count() < 10, "and no more");
        for _ in 0..100 {
            rates.take(1, rate(1, 50), at(1_000_000));
        }
        assert_eq!(rates.whole.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// In no stretch of time does more pass than the burst and what the rate gives in it, for any key.
        #[test]
        fn no_stretch_has_more_than_its_own(
            steps in prop::collection::vec((0..3u32, 0..400u64), 1..200),
            count in 1..50u32,
            burst in 1..20u32,
        ) {
            let (mut rates, mut now) = (Rates::new(3), 0);
            let mut passed: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
            for (key, pause) in steps {
                now += pause;
                if rates.take(key, rate(count, burst), at(now)) {
                    passed.entry(key).or_default().push(now);
                }
            }
            for times in passed.values() {
                for (first, from) in times.iter().enumerate() {
                    for (last, until) in times.iter().enumerate().skip(first) {
                        let most = u64::from(burst) * 1_000 + u64::from(count) * (until - from);
                        prop_assert!((last - first + 1) as u64 * 1_000 <= most, "{times:?}");
                    }
                }
            }
        }
    }
}
