//! How often something may be said: every period, and a little more where it cannot wait.

use std::time::Duration;

use waterwheel_reactor::Time;

/// Between regular reports of one shard.
const PERIOD: Duration = Duration::from_millis(200);
/// Per shard; so that with many of them the messages of all together are no more.
const PERIOD_PER_SHARD: Duration = Duration::from_millis(50);
/// Words of one shard in a row that cannot wait for the next report.
const URGENT_MAX: u32 = 3;
/// Periods after which one more is allowed.
const URGENT_AFTER: u32 = 2;
/// Words of the keeper and of all shards in a row; above it the keeper does not speak first.
const ALL_MAX: u32 = 8;
/// After which one more is allowed. With those in a row, and with what four shards may say in a row besides, these are
/// 50 words in any second; each has an answer.
const ALL_AFTER: Duration = Duration::from_millis(33);

pub(super) fn period(shards: usize) -> Duration {
    PERIOD.max(PERIOD_PER_SHARD * u32::try_from(shards).unwrap_or(u32::MAX))
}

/// How many urgent words are left.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    most: u32,
    left: u32,
    /// Said although none was left.
    owed: u32,
    /// When the next is earned; while some are spent.
    earned: Time,
}

impl Pace {
    /// For the urgent words of one shard.
    pub(super) fn of_a_shard(shards: usize) -> Pace {
        Pace {
            every: period(shards) * URGENT_AFTER,
            most: URGENT_MAX,
            left: URGENT_MAX,
            owed: 0,
            earned: Time::ZERO,
        }
    }

    /// For all words together.
    pub(super) fn of_all() -> Pace {
        Pace { every: ALL_AFTER, most: ALL_MAX, left: ALL_MAX, owed: 0, earned: Time::ZERO }
    }

    /// When a word may be said so that so many are left: now or later.
    pub(super) fn next(&self, left: u32, now: Time) -> Time {
        match left.checked_sub(self.left) {
            None => now,
            Some(missing) => now.max(self.earned + self.every * (missing + self.owed)),
        }
    }

    /// Says one, if that is allowed now.
    pub(super) fn spend(&mut self, now: Time) -> bool {
        while self.left < self.most && self.earned <= now {
            match self.owed.checked_sub(1) {
                Some(owed) => self.owed = owed,
                None => self.left += 1,
            }
            self.earned = self.earned + self.every;
        }
        let Some(left) = self.left.checked_sub(1) else { return false };
        if self.left == self.most {
            self.earned = now + self.every;
        }
        self.left = left;
        true
    }

    /// One was said, allowed or not.
    pub(super) fn charge(&mut self, now: Time) {
        self.owed += u32::from(!self.spend(now));
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_said_than_in_a_row_and_one_each_time_after() {
        let mut pace = Pace::of_a_shard(4);
        let at = |millis: u64| Time::ZERO + Duration::from_millis(millis);
        let mut said = Vec::new();
        for millis in 1000..3000 {
            let (may, later) = (pace.next(0, at(millis)) == at(millis), pace.next(1, at(millis)));
            if pace.spend(at(millis)) {
                said.push(millis);
                assert!(may && (later == at(millis)) == (millis < 1002), "one would not have been left");
            } else {
                assert!(!may && later > pace.next(0, at(millis)));
            }
        }
        // Three at once, though one in a millisecond here; then each 400 ms after the first.
        assert_eq!(said, [1000, 1001, 1002, 1400, 1800, 2200, 2600]);
    }

    #[test]
    fn what_was_said_all_the_same_is_paid_back_first() {
        let mut pace = Pace::of_all();
        let start = Time::ZERO + Duration::from_secs(1);
        (0..ALL_MAX + 3).for_each(|_| pace.charge(start));
        let allowed = |pace: &mut Pace, after: u32| pace.spend(start + ALL_AFTER * after);
        assert!(!allowed(&mut pace, 3), "three are owed");
        assert!(allowed(&mut pace, 4) && !allowed(&mut pace, 4));
    }

    #[test]
    fn with_many_shards_each_reports_more_seldom() {
        assert_eq!(period(1), Duration::from_millis(200));
        assert_eq!(period(4), Duration::from_millis(200));
        assert_eq!(period(64), Duration::from_millis(3200));
    }
}
