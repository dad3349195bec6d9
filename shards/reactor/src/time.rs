//! Time without a hidden clock: a shard asks its reactor, and only a backend asks the kernel.

use std::cell::Cell;
use std::fmt;
use std::ops::{Add, Sub};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::waiter::Waiter;

/// A moment of a run: nanoseconds since an origin that all shards of the run share. Never goes back.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin of the run.
    pub const ZERO: Time = Time(0);
    /// Later than every moment that a run can reach (584 years).
    pub const NEVER: Time = Time(u64::MAX);

    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates at [`Time::NEVER`], so that an absurd duration is a deadline that never comes.
    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;

    /// The same as [`Time::since`].
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Time::NEVER { f.write_str("never") } else { Duration::from_nanos(self.0).fmt(f) }
    }
}

/// The real clock of one run, for backends that wait for real: one origin, copied to every shard.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now. One per run, made before the threads.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where real backends read the monotonic clock"
    )]
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// `CLOCK_MONOTONIC` since the origin; about 20 ns, no system call.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where real backends read the monotonic clock"
    )]
    pub fn now(&self) -> Time {
        Time::ZERO + Instant::now().saturating_duration_since(self.origin)
    }

    /// Wall time since 1970; zero if the system's clock stands before it.
    #[expect(clippy::disallowed_methods, reason = "the one place where real backends read the wall clock")]
    pub fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// The one alarm of a reactor: who waits, and until when. A backend sleeps until [`Alarm::deadline`] and then calls
/// [`Alarm::fire`].
#[derive(Debug, Default)]
pub struct Alarm {
    // `None`: nobody waits.
    deadline: Cell<Option<Time>>,
    waiter: Waiter,
}

impl Alarm {
    /// Ready if `deadline` has come; else sets the alarm to it, whatever it was set to before.
    pub fn poll_until(&self, now: Time, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        if deadline <= now {
            self.deadline.set(None);
            return Poll::Ready(());
        }
        self.deadline.set(Some(deadline));
        self.waiter.wait(cx);
        Poll::Pending
    }

    /// When the backend must wake up at the latest; `None` if nobody waits.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline.get()
    }

    /// Wakes whoever waits if its time has come.
    #[inline]
    pub fn fire(&self, now: Time) {
        if self.deadline.get().is_some_and(|at| at <= now) {
            self.deadline.set(None);
            self.waiter.wake();
        }
    }

    /// The same by a clock, which costs more than a look and is read only if somebody waits. Answers how long the backend may
    /// sleep: until the deadline that it found, zero if that has come; `None` if nobody waited.
    #[inline]
    pub fn fire_by(&self, clock: &Clock) -> Option<Duration> {
        let deadline = self.deadline.get()?;
        let now = clock.now();
        self.fire(now);
        Some(deadline.since(now))
    }

    /// Forgets who waited: for the end of a reactor, since the root's waker may hold what is to be let go.
    pub fn forget(&self) {
        self.deadline.set(None);
        self.waiter.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn absurd_durations_saturate() {
        assert_eq!(Time::from_nanos(5) + Duration::MAX, Time::NEVER);
        assert_eq!(Time::ZERO - Time::NEVER, Duration::ZERO);
    }

    #[test]
    fn the_latest_deadline_wins_sooner_or_later() {
        let alarm = Alarm::default();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(alarm.poll_until(Time::ZERO, &mut cx, Time::from_nanos(10)).is_pending());
        assert!(alarm.poll_until(Time::ZERO, &mut cx, Time::from_nanos(30)).is_pending());
        assert_eq!(alarm.deadline(), Some(Time::from_nanos(30)));
        assert!(alarm.poll_until(Time::ZERO, &mut cx, Time::from_nanos(20)).is_pending());
        alarm.fire(Time::from_nanos(19));
        assert_eq!(alarm.deadline(), Some(Time::from_nanos(20)));
        alarm.fire(Time::from_nanos(20));
        assert_eq!(alarm.deadline(), None);
        assert!(alarm.poll_until(Time::from_nanos(20), &mut cx, Time::from_nanos(20)).is_ready());
    }

    #[test]
    fn an_alarm_goes_off_by_the_clock_once_and_says_how_long_it_is_until_then() {
        let (alarm, clock) = (Alarm::default(), Clock::start());
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(alarm.fire_by(&clock), None);
        let hour = Duration::from_secs(3600);
        assert!(alarm.poll_until(Time::ZERO, &mut cx, Time::ZERO + hour).is_pending());
        assert!(alarm.fire_by(&clock).is_some_and(|left| !left.is_zero() && left <= hour));
        assert_eq!(alarm.deadline(), Some(Time::ZERO + hour), "not yet");
        assert!(alarm.poll_until(Time::ZERO, &mut cx, Time::from_nanos(1)).is_pending());
        while clock.now() < Time::from_nanos(1) {}
        assert_eq!(alarm.fire_by(&clock), Some(Duration::ZERO));
        assert_eq!((alarm.deadline(), alarm.fire_by(&clock)), (None, None));
    }

    #[test]
    fn an_alarm_that_forgets_keeps_no_waker() {
        struct Held;
        impl std::task::Wake for Held {
            fn wake(self: std::sync::Arc<Self>) {}
        }
        let (alarm, held) = (Alarm::default(), std::sync::Arc::new(Held));
        let waker = Waker::from(held.clone());
        assert!(alarm.poll_until(Time::ZERO, &mut Context::from_waker(&waker), Time::NEVER).is_pending());
        drop(waker);
        assert_eq!(std::sync::Arc::strong_count(&held), 2);
        alarm.forget();
        assert_eq!((std::sync::Arc::strong_count(&held), alarm.deadline()), (1, None));
    }
}
