//! How many retries a shard may make, so that an outage is not multiplied. A token bucket, as Finagle's retry budget is,
//! filled by what the shard serves.

use std::cell::Cell;

use waterwheel_reactor::Time;

use super::upstream_settings::RetryBudget;

/// One shard's budget.
#[derive(Debug)]
pub(super) struct Budget {
    /// `None`: there is no limit.
    limit: Option<Limit>,
    tokens: Cell<f64>,
    /// When they were counted last.
    at: Cell<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Tokens per second for each connection.
    share: f64,
    /// Tokens per second besides.
    part: f64,
}

impl Budget {
    pub(super) fn new(settings: Option<&RetryBudget>, shards: usize, now: Time) -> Budget {
        let limit = settings.map(|RetryBudget { percent, per_second }| {
            let part = f64::from(*per_second) / shards as f64;
            let least = if *per_second == 0 { 0.0 } else { 1.0 };
            Limit { share: f64::from(*percent) / 100.0, part: part.max(least) }
        });
        let tokens = Cell::new(limit.map_or(0.0, |limit| limit.part));
        Budget { limit, tokens, at: Cell::new(now) }
    }

    /// Takes a token for one retry, if there is one, while so many connections are served.
    pub(super) fn take(&self, now: Time, active: u64) -> bool {
        let Some(Limit { share, part }) = self.limit else { return true };
        let rate = share * active as f64 + part;
        let new = rate * now.since(self.at.replace(now)).as_secs_f64();
        // A second's worth is kept, and one token at least, or a small rate would never let one through.
        let tokens = (self.tokens.get() + new).min(rate.max(1.0));
        let enough = tokens >= 1.0;
        self.tokens.set(if enough { tokens - 1.0 } else { tokens });
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How many of many attempts, one each millisecond, go through.
    fn through(budget: &Budget, from: Time, millis: u32, active: u64) -> u32 {
        let at = |milli| from + Duration::from_millis(1) * milli;
        (0..millis).filter(|milli| budget.take(at(*milli), active)).count() as u32
    }

    #[test]
    fn a_storm_gets_its_share_of_the_connections_and_the_minimum() {
        let settings = RetryBudget { percent: 20, per_second: 10 };
        let budget = Budget::new(Some(&settings), 1, Time::ZERO);
        let through = through(&budget, Time::ZERO, 10_000, 100);
        // 30 per second for ten seconds, and what was saved up.
        assert!((300..=310).contains(&through), "{through}");
        // What is saved is a second's worth, however long it was quiet.
        let later = Time::ZERO + Duration::from_secs(1_000);
        assert_eq!((0..100).filter(|_| budget.take(later, 100)).count(), 30);
    }

    #[test]
    fn a_shard_has_its_part_of_the_minimum_and_one_per_second_at_least() {
        let settings = RetryBudget { percent: 0, per_second: 10 };
        for (shards, least, most) in [(1, 100, 110), (2, 50, 55), (64, 10, 12)] {
            let budget = Budget::new(Some(&settings), shards, Time::ZERO);
            let through = through(&budget, Time::ZERO, 10_000, 1_000);
            assert!((least..=most).contains(&through), "{through} of {shards} shards");
        }
    }

    #[test]
    fn none_is_none_and_no_budget_is_no_limit() {
        let none = Budget::new(Some(&RetryBudget { percent: 0, per_second: 0 }), 1, Time::ZERO);
        assert_eq!(through(&none, Time::ZERO, 10_000, 1_000), 0);
        assert_eq!(through(&Budget::new(None, 1, Time::ZERO), Time::ZERO, 1_000, 0), 1_000);
    }
}
