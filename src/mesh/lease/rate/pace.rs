//! How often something may be said: every period, and a little more where it cannot wait.

use std::time::Duration;

use waterwheel_reactor::Time;

/// Between regular reports of one shard.
const PERIOD: Duration = Duration::from_millis(200);
/// Per shard; so that with many of them the messages of all together are no more.
const PERIOD_PER_SHARD: Duration = Duration::from_millis(50);
/// Urgent words in a row.
const URGENT_MAX: u32 = 2;
/// Periods after which one more is allowed.
const URGENT_AFTER: u32 = 5;

pub(super) fn period(shards: usize) -> Duration {
    PERIOD.max(PERIOD_PER_SHARD * u32::try_from(shards).unwrap_or(u32::MAX))
}

/// How many urgent words are left.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    left: u32,
    /// When the next is earned; while some are spent.
    earned: Time,
}

impl Pace {
    pub(super) fn new(period: Duration) -> Pace {
        Pace { every: period * URGENT_AFTER, left: URGENT_MAX, earned: Time::ZERO }
    }

    /// When an urgent word may be said: now or later.
    pub(super) fn next(&self, now: Time) -> Time {
        if self.left > 0 || self.earned <= now { now } else { self.earned }
    }

    /// Says one, if that is allowed now.
    pub(super) fn spend(&mut self, now: Time) -> bool {
        if self.left < URGENT_MAX && self.earned <= now {
            self.left += 1;
            self.earned = now + self.every;
        }
        let Some(left) = self.left.checked_sub(1) else { return false };
        if self.left == URGENT_MAX {
            self.earned = now + self.every;
        }
        self.left = left;
        true
    }
}
