//! Passive ejection of one upstream by one shard: how often it failed of late, and until when it is left alone.

use std::cell::Cell;
use std::time::Duration;

use waterwheel_reactor::Time;

use super::upstream_settings::Ejection;

/// What one shard met at one upstream.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Connects that failed in a row.
    connects: Cell<Streak>,
    /// Connections in a row that were reset before the upstream had sent a byte.
    resets: Cell<Streak>,
    /// The end of the last ejection, and the first moment at which it is over.
    until: Cell<Option<Time>>,
    /// How many times longer than the first the last one was, if nothing is taken back.
    times: Cell<u32>,
    ejections: Cell<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    count: u32,
    last: Time,
}

impl Streak {
    /// One more, or the first after a long time.
    fn one_more(self, now: Time, forget: Duration) -> Streak {
        let before = if now.since(self.last) <= forget { self.count } else { 0 };
        Streak { count: before.saturating_add(1), last: now }
    }
}

impl Record {
    /// A connect failed: whether that is one too many.
    pub(super) fn connect_failed(&self, now: Time, settings: &Ejection) -> bool {
        failed(&self.connects, now, settings)
    }

    pub(super) fn connected(&self) {
        self.connects.set(Streak::default());
    }

    /// A connection was reset early: whether that is one too many.
    pub(super) fn was_reset(&self, now: Time, settings: &Ejection) -> bool {
        failed(&self.resets, now, settings)
    }

    /// The upstream had something to say.
    pub(super) fn answered(&self) {
        self.resets.set(Streak::default());
    }

    /// It is left alone from now on, longer each time.
    pub(super) fn eject(&self, now: Time, settings: &Ejection) {
        let quiet = self.until.get().map_or(Duration::ZERO, |until| now.since(until));
        let taken_back = (quiet.as_nanos() / settings.time.as_nanos().max(1)).min(u128::from(u32::MAX));
        // It fits: it is not more than that.
        let times = self.times.get().saturating_sub(taken_back as u32).saturating_add(1);
        self.times.set(times);
        self.until.set(Some(now + settings.time.saturating_mul(times).min(settings.time_max)));
        self.ejections.set(self.ejections.get() + 1);
        self.connected();
        self.answered();
    }

    pub(super) fn is_ejected(&self, now: Time) -> bool {
        self.until.get().is_some_and(|until| now < until)
    }

    /// When it came back last.
    pub(super) fn back_since(&self, now: Time) -> Option<Time> {
        self.until.get().filter(|until| *until <= now)
    }

    pub(super) fn ejections(&self) -> u64 {
        self.ejections.get()
    }
}

/// Failures in a row may be that far apart at least: one that failed is tried once in 5 s where there are others.
const APART: Duration = Duration::from_secs(15);

fn failed(streak: &Cell<Streak>, now: Time, settings: &Ejection) -> bool {
    let more = streak.get().one_more(now, settings.time.max(APART));
    streak.set(more);
    more.count >= settings.failures
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> Ejection {
        Ejection { failures: 3, time: SECOND * 10, time_max: SECOND * 35, ..Ejection::default() }
    }

    #[test]
    fn failures_in_a_row_are_too_many_and_a_success_between_them_counts() {
        let (record, now) = (Record::default(), Time::ZERO + SECOND);
        let fails = || record.connect_failed(now, &settings());
        assert_eq!([fails(), fails()], [false, false]);
        record.connected();
        assert_eq!([fails(), fails(), fails()], [false, false, true]);
        let resets = || record.was_reset(now, &settings());
        assert_eq!([resets(), resets()], [false, false], "resets are counted by themselves");
        record.connected();
        assert!(resets(), "that it takes connections says nothing of what it does with them");
        record.answered();
        assert!(!resets());
    }

    #[test]
    fn failures_long_ago_are_forgotten() {
        let (record, start) = (Record::default(), Time::ZERO + SECOND);
        let fails = |after: u32| record.connect_failed(start + SECOND * after, &settings());
        assert_eq!(
            [fails(0), fails(10), fails(26), fails(27), fails(28)],
            [false, false, false, false, true]
        );
    }

    #[test]
    fn each_ejection_is_longer_up_to_the_most_and_good_times_take_that_back() {
        let record = Record::default();
        let mut now = Time::ZERO + SECOND;
        let lasts = |now: Time| {
            record.eject(now, &settings());
            (1..).find(|seconds| !record.is_ejected(now + SECOND * *seconds)).unwrap_or(0)
        };
        for expected in [10, 20, 30, 35, 35] {
            assert_eq!(lasts(now), expected);
            now = now + SECOND * expected;
            assert_eq!(record.back_since(now), Some(now));
        }
        // Five times, and three of them taken back.
        assert_eq!(lasts(now + SECOND * 30), 30);
        now = now + SECOND * 60;
        assert_eq!(lasts(now + SECOND * 1_000), 10, "and all of them in the end");
        assert_eq!(record.ejections(), 7);
    }
}
